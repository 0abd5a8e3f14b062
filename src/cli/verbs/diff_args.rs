//! The options of `diff` and `verify`.

use clap::Args;

use crate::cli::args::SetArgs;
use crate::cli::completions;

#[derive(Debug, Args)]
pub struct DiffArgs {
    /// The image before: an AMI id, a recipe name for its latest image, or RECIPE@candidate
    #[arg(add = completions::images())]
    pub a: String,
    /// The image after
    #[arg(add = completions::images())]
    pub b: String,
    /// Show every file, those of packages that changed too, and what is in directories that came or went
    #[arg(long)]
    pub all: bool,
    /// End with exit code 4 if they differ
    #[arg(long)]
    pub exit_code: bool,
    /// Let a machine of each image list what is in it, as it is done on AWS, where disks cannot be read; what a boot writes
    /// is named and does not count
    #[arg(long)]
    pub on_machines: bool,
    /// Launch the machines that list as the `build` section of this recipe says [default: the recipe of B]
    #[arg(long, value_name = "RECIPE", add = completions::recipes())]
    pub like: Option<String>,
}

#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// An AMI id, a recipe name for its latest image, or RECIPE@candidate
    #[arg(add = completions::images())]
    pub image: String,
    #[command(flatten)]
    pub sets: SetArgs,
    /// Show every file that differs
    #[arg(long)]
    pub all: bool,
    /// Keep the second image: on AWS the image itself, else the other cloud below the state directory, which the next
    /// verify removes
    #[arg(long)]
    pub keep: bool,
}
