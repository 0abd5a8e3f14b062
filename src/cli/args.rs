//! The command line: a pure parse, without effects.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::completions;
use super::style::ColorChoice;
use crate::recipe::Given;

/// A golden-AMI factory for CI/CD fleets: recipes in, tested and content-addressed images out.
#[derive(Debug, Parser)]
#[command(name = "piaas-bake", version, max_term_width = 100, after_help = AFTER_HELP)]
pub struct Cli {
    #[command(flatten)]
    pub global: GlobalArgs,
    #[command(subcommand)]
    pub verb: Verb,
}

const AFTER_HELP: &str = "\
Exit codes: 0 done, 1 failure, 2 usage, 3 recipe invalid, 4 lock or digest mismatch, 5 refused by the cloud,
6 bake or test failed and cleaned up, 7 bake failed and clean-up incomplete, 8 roll halted or rolled back, 9 timed out,
10 lease held by another run, 70 bug, 130 interrupted.

First steps:  piaas-bake doctor --fix    piaas-bake plan ci-worker    piaas-bake bake ci-worker";

/// Which cloud answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CloudName {
    /// The embedded cloud: real machines on this host, no account.
    Local,
    /// Amazon Web Services, with the credentials of the AWS CLI.
    Aws,
}

impl std::fmt::Display for CloudName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Local => "local",
            Self::Aws => "aws",
        })
    }
}

/// Id of an AWS account: 12 digits.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(try_from = "String")]
pub struct AccountId(pub String);

impl TryFrom<String> for AccountId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let is_id = text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit());
        if is_id {
            Ok(Self(text))
        } else {
            Err(format!("`{text}` is no AWS account id: it has 12 digits"))
        }
    }
}

impl std::str::FromStr for AccountId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::try_from(text.to_owned())
    }
}

/// What `--format` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// For people: a live view on a terminal, plain lines elsewhere
    Human,
    /// For machines: one JSON document, once all is done
    Json,
    /// For machines that follow: one JSON object a line, events as they happen, the result last
    Ndjson,
    /// For the log of GitHub Actions: as human, with groups and annotations, and a job summary
    Github,
    /// For `strategy.matrix` of GitHub Actions: one line of JSON; of `plan --changed-since` only
    GithubMatrix,
}

impl OutputFormat {
    /// Who reads the results.
    #[must_use]
    pub fn reader(self) -> Format {
        match self {
            Self::Json | Self::Ndjson => Format::Json,
            Self::Human | Self::Github | Self::GithubMatrix => Format::Human,
        }
    }
}

/// Who reads the results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people: a live view on a terminal, plain lines elsewhere.
    Human,
    /// For machines: JSON on stdout.
    Json,
}

/// Options of every verb.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of every verb")]
pub struct GlobalArgs {
    /// Which cloud to act on [default: the config file's, else local] [env: PIAAS_CLOUD]
    #[arg(long, value_enum, global = true)]
    pub cloud: Option<CloudName>,

    /// Directory with one folder a recipe [default: the config file's, else ./recipes] [env: PIAAS_RECIPES]
    #[arg(long, global = true, value_name = "DIR")]
    pub recipes: Option<PathBuf>,

    /// Directory of journals and of the local cloud [default: $XDG_STATE_HOME/piaas-bake] [env: PIAAS_STATE_DIR]
    #[arg(long, global = true, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,

    /// AWS region; there is no default on AWS beyond your AWS configuration [env: AWS_REGION]
    #[arg(long, global = true, value_name = "REGION")]
    pub region: Option<String>,

    /// Profile of the AWS configuration [env: AWS_PROFILE]
    #[arg(long, global = true, value_name = "NAME")]
    pub profile: Option<String>,

    /// The only AWS account that may be acted on (can be repeated) [default: the config file's, else any]
    /// [env: PIAAS_ALLOW_ACCOUNTS]
    #[arg(long, global = true, value_name = "ID", value_delimiter = ',')]
    pub allow_account: Vec<AccountId>,

    /// The piaas-worker that goes into images [default: the one beside this program] [env: PIAAS_WORKER]
    #[arg(long, global = true, value_name = "FILE")]
    pub worker_agent: Option<PathBuf>,

    /// Output for people, for machines, or for GitHub Actions
    #[arg(long, value_enum, global = true, default_value_t = OutputFormat::Human)]
    pub format: OutputFormat,

    /// Append what bake, rebake and plan did to this file, as Markdown [default with --format github:
    /// $GITHUB_STEP_SUMMARY]
    #[arg(long, global = true, value_name = "FILE")]
    pub summary: Option<PathBuf>,

    /// When to use colour
    #[arg(long, value_enum, global = true, default_value_t = ColorChoice::Auto)]
    pub color: ColorChoice,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Start a recipe: a commented one that bakes as it is
    Init(InitArgs),
    /// Check recipes; every error with file, line, column and a way out
    Lint(LintArgs),
    /// Print a JSON Schema: of recipe files, for editors, or of the lines of `--format ndjson`
    Schema {
        /// Of what
        #[arg(value_enum, default_value_t = SchemaOf::Recipe)]
        of: SchemaOf,
    },
    /// Show a recipe merged along its line
    Show(ShowArgs),
    /// Write the scripts that a bake would run
    Render(RenderArgs),
    /// Show what a bake would do and where, or which recipes changed; changes nothing
    Plan(PlanArgs),
    /// Print the IAM policy that a verb needs on AWS, and no more
    #[command(subcommand)]
    Policy(super::verbs::policy_args::PolicyVerb),
    /// Bake a recipe into a tested image
    Bake(BakeArgs),
    /// Bake anew, as candidates, what is out of date
    Rebake(RebakeArgs),
    /// Pin exactly what recipes install, in a lock file beside each; move that, or say what has moved
    Lock(LockArgs),
    /// Boot the disk of an image in QEMU, test it there, and look at what its first boot makes and leaves
    Test(TestArgs),
    /// Say in words what makes two images or recipes differ
    Why(WhyArgs),
    /// Say what two images differ in: packages, services, files and sizes
    Diff(super::verbs::diff_args::DiffArgs),
    /// Bake an image again from its lock files, cold, and say whether it is the same
    Verify(super::verbs::diff_args::VerifyArgs),
    /// List what differs from machine to machine or from bake to bake, and what is done about it in images
    Leaks,
    /// List, show and export images
    #[command(subcommand)]
    Images(ImagesVerb),
    /// Roll a group of workers to another image, without killing jobs, or back
    #[command(subcommand)]
    Roll(super::verbs::roll_args::RollVerb),
    /// Run a fleet of workers: one more when all are busy, none that is idle for long
    #[command(subcommand)]
    Fleet(super::verbs::fleet_args::FleetVerb),
    /// Runs and what became of them: alive, over, or dead with something left
    Runs {
        #[command(subcommand)]
        what: Option<super::verbs::runs_args::RunsVerb>,
    },
    /// Say what runs have left in the cloud and why it may go; --yes removes it
    Gc(super::verbs::gc_args::GcArgs),
    /// The local cloud: serve it, look at it, clean it
    #[command(subcommand)]
    Cloud(CloudVerb),
    /// Check this host; --fix installs what is missing
    Doctor(DoctorArgs),
    /// Show the settings and where each comes from
    #[command(subcommand)]
    Config(ConfigVerb),
    /// Print what a shell needs to complete verbs, options, recipes and images
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write the manual pages
    Man {
        /// Directory for one page a verb [default: this program's own page, to standard output]
        #[arg(short, long, value_name = "DIR")]
        output: Option<PathBuf>,
    },
    /// Supervise one machine of the local cloud
    #[command(hide = true)]
    LocalMachine { dir: PathBuf },
    /// Write the disk of one snapshot of the local cloud
    #[command(hide = true)]
    LocalSnapshot { dir: PathBuf },
    /// Pass a connection that is standard input and output on to an address
    #[command(hide = true)]
    LocalRelay { address: std::net::SocketAddr },
    /// Answer the machines of the local cloud
    #[command(hide = true)]
    LocalEndpoint {
        dir: PathBuf,
        #[arg(long)]
        base: PathBuf,
    },
}

#[derive(Debug, Args)]
pub struct InitArgs {
    /// Name of the new recipe: lower case letters, digits and hyphens
    pub name: String,
    /// Recipe to build on
    #[arg(long, value_name = "RECIPE", add = completions::recipes())]
    pub from: Option<String>,
}

#[derive(Debug, Args)]
pub struct LintArgs {
    /// Recipes to check [default: all]
    #[arg(add = completions::recipes())]
    pub recipe: Vec<String>,
}

#[derive(Debug, Args)]
pub struct RecipeArgs {
    /// Name of the recipe
    #[arg(add = completions::recipes())]
    pub recipe: String,
    #[command(flatten)]
    pub sets: SetArgs,
}

#[derive(Debug, Args)]
pub struct ShowArgs {
    #[command(flatten)]
    pub recipe: RecipeArgs,
    /// Say where each value comes from: default, recipe, values file or --set, with file and line
    #[arg(long)]
    pub resolved: bool,
}

#[derive(Debug, Args)]
pub struct PlanArgs {
    /// Name of the recipe, or a plan file: whether it still holds, and what it does
    #[arg(
        required_unless_present = "changed_since",
        conflicts_with = "changed_since",
        value_name = "RECIPE|FILE",
        add = completions::recipes()
    )]
    pub recipe: Option<String>,
    #[command(flatten)]
    pub sets: SetArgs,
    /// List the recipes whose digest is not what it was at this revision of git, parents first
    ///
    /// The recipes of the revision are hashed by this very program. A change of the program or of its templates is
    /// therefore not seen here. A revision of zeros only, as GitHub gives it for a new branch, has no recipes.
    #[arg(long, value_name = "REV", conflicts_with_all = ["set", "values"])]
    pub changed_since: Option<String>,
    /// List only recipes that no other listed recipe builds on: a bake runs its whole line
    #[arg(long, requires = "changed_since", conflicts_with = "recipe")]
    pub leaves: bool,
    /// Write the plan to this file, for `bake FILE`: exactly this plan is carried out, or none
    #[arg(short, long, value_name = "FILE", conflicts_with = "changed_since")]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    pub how: HowArgs,
}

/// How to bake.
#[derive(Debug, Args)]
pub struct HowArgs {
    /// Bake even if an image with this digest exists
    #[arg(long)]
    pub force: bool,
    /// Start from the base image even if an image of a parent recipe or a layer of a script exists
    #[arg(long)]
    pub no_cache: bool,
    /// Refuse a recipe without a lock file, or whose parents have none
    #[arg(long)]
    pub locked: bool,
    /// Publish the image as RECIPE@candidate; RECIPE goes on meaning the image that it means now
    #[arg(long)]
    pub candidate: bool,
}

impl BakeArgs {
    /// The option by which recipes without a lock file are refused.
    #[must_use]
    pub fn only_locked(&self) -> Option<&'static str> {
        let offline = self.offline.then_some("--offline");
        offline.or_else(|| self.how.only_locked())
    }
}

impl HowArgs {
    /// As [`BakeArgs::only_locked`].
    #[must_use]
    pub fn only_locked(&self) -> Option<&'static str> {
        self.locked.then_some("--locked")
    }
}

#[derive(Debug, Args)]
pub struct SetArgs {
    /// Set a parameter (can be repeated)
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = parse_set)]
    pub set: Vec<(String, String)>,
    /// Set parameters from a YAML file of `name: value` lines (can be repeated; `--set` has the last word)
    #[arg(long, value_name = "FILE")]
    pub values: Vec<PathBuf>,
}

impl SetArgs {
    /// What is given for parameters.
    #[must_use]
    pub fn given(&self) -> Given {
        Given {
            values: self.values.clone(),
            sets: self.set.clone(),
        }
    }
}

#[derive(Debug, Args)]
pub struct RenderArgs {
    #[command(flatten)]
    pub recipe: RecipeArgs,
    /// Directory to write to; it must not exist yet or be empty
    #[arg(short, long, value_name = "DIR")]
    pub output: PathBuf,
}

#[derive(Debug, Args)]
pub struct BakeArgs {
    /// Names of recipes, baked at the same time, or a plan file of `plan -o`: what has a `/` or a `.` in it
    ///
    /// What several of them are built on is baked first, once, unless its image is there or one of them changes its
    /// parameters.
    #[arg(value_name = "RECIPE|FILE", required_unless_present = "resume", add = completions::recipes())]
    pub recipe: Vec<String>,
    /// Go on with a bake whose process has died, by the id of its run; without one, with the only one there is
    ///
    /// What is done is not done again; commands and snapshots that are under way are waited for. `runs` lists the runs.
    #[arg(
        long,
        value_name = "RUN",
        num_args = 0..=1,
        default_missing_value = "",
        conflicts_with_all = ["recipe", "set", "values", "force", "no_cache", "candidate", "locked", "offline", "explain", "jobs"],
        add = completions::dead_runs(),
    )]
    pub resume: Option<String>,
    #[command(flatten)]
    pub sets: SetArgs,
    #[command(flatten)]
    pub how: HowArgs,
    /// Ask no archive for packages: all that lock files name must be on this host (local cloud; implies --locked)
    #[arg(long)]
    pub offline: bool,
    /// Say of each script whether it has run in a layer that is there, and if not, what is another than before
    #[arg(long)]
    pub explain: bool,
    /// How many bakes may go on at the same time [default: 4]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub jobs: Option<u16>,
    /// If a bake fails, leave the machine that it failed on, and say how to get in and how to remove it
    #[arg(long)]
    pub keep_on_failure: bool,
}

#[derive(Debug, Args)]
pub struct RebakeArgs {
    /// Recipes to look at [default: all]
    #[arg(add = completions::recipes())]
    pub recipe: Vec<String>,
    /// Bake those whose base image or packages moved, that changed, or whose image is too old
    #[arg(long, required = true)]
    pub stale: bool,
    /// How old an image may become, such as 14d or 36h [default: the recipe's build.max_age, else 14d]
    #[arg(long, value_name = "AGE", value_parser = crate::recipe::age)]
    pub max_age: Option<std::time::Duration>,
    /// Only say what is stale, and why
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub struct LockArgs {
    /// Recipe names; parents without a lock file get one too [default: all recipes]
    #[arg(add = completions::recipes())]
    pub recipe: Vec<String>,
    /// Move the lock files of these recipes to what the archives offer now; with names, only these
    /// packages of one recipe, and what they need besides
    #[arg(long, value_name = "PACKAGE", num_args = 0.., conflicts_with_all = ["check", "diff"])]
    pub update: Option<Vec<String>>,
    /// Say what the archives offer in a newer version, and change nothing
    #[arg(long, conflicts_with = "diff")]
    pub check: bool,
    /// Say what the lock files have in another version than at a revision of git, and change nothing
    #[arg(long, value_name = "REV", num_args = 0..=1, require_equals = true, default_missing_value = "HEAD")]
    pub diff: Option<String>,
}

#[derive(Debug, Args)]
pub struct TestArgs {
    /// The image: an AMI id, a recipe name for its latest image, or RECIPE@candidate
    #[arg(add = completions::images())]
    pub image: String,
    /// Boot its disk in QEMU, with the image's own kernel
    #[arg(long, required = true)]
    pub vm: bool,
    #[command(flatten)]
    pub sets: SetArgs,
    /// How long a boot may take, beside the time-outs of the recipe's tests
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = crate::recipe::units::duration)]
    pub timeout: std::time::Duration,
}

#[derive(Debug, Args)]
pub struct WhyArgs {
    /// A recipe name, an image id, a digest or a manifest file
    #[arg(add = completions::images())]
    pub a: String,
    /// The other one [default: the newest image of recipe A]
    #[arg(add = completions::images())]
    pub b: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum ImagesVerb {
    /// List the images that were baked
    List {
        /// Only images of this recipe
        #[arg(add = completions::recipes())]
        recipe: Option<String>,
    },
    /// Show one image: tags, digest, manifest
    Show {
        /// An AMI id, a recipe name for its latest image, or RECIPE@candidate
        #[arg(add = completions::images())]
        image: String,
    },
    /// Make an image the one that its recipe's name means, such as a candidate that was rolled out
    Promote {
        /// An AMI id, or RECIPE@candidate
        #[arg(add = completions::images())]
        image: String,
    },
    /// Copy the raw disk of an image of the local cloud to a file
    Export {
        /// An AMI id, a recipe name for its latest image, or RECIPE@candidate
        #[arg(add = completions::images())]
        image: String,
        /// File to write; it must not exist
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub enum CloudVerb {
    /// Answer the AWS API on loopback, for the AWS CLI, boto3 and any SDK
    Serve {
        /// Address to listen on; loopback only
        #[arg(long, default_value = "127.0.0.1:4599", value_name = "ADDR")]
        listen: std::net::SocketAddr,
        /// Script of faults for the requests to this endpoint, and for machines launched through it
        #[arg(long, value_name = "FILE")]
        faults: Option<PathBuf>,
    },
    /// Show machines, images, disks and what was left behind
    Status,
    /// Remove what dead runs and crashes left, and layers beyond a limit; images and live machines stay
    Gc {
        /// Only what this dead run left, by its id
        #[arg(long, value_name = "RUN", add = completions::dead_runs())]
        run: Option<String>,
        /// What layers of single scripts may take of the disk, in GiB: those of the newest images stay [default: 20]
        #[arg(long, value_name = "GIB", conflicts_with = "run")]
        layers: Option<u64>,
        /// Only say what would be removed
        #[arg(long)]
        dry_run: bool,
    },
    /// Remove every machine, image and disk of the local cloud
    Reset {
        /// Do it without asking
        #[arg(long)]
        yes: bool,
        /// Remove the cached base image too
        #[arg(long)]
        base: bool,
    },
    /// Let machines reach a port of this host's loopback, at 169.254.42.1; without a port, list them
    Expose {
        /// The port
        #[arg(add = completions::ports())]
        port: Option<u16>,
        /// Take it back
        #[arg(long, requires = "port")]
        remove: bool,
    },
    /// Open a shell on a machine of the local cloud, as root, or run a command there
    Shell {
        /// An instance id
        #[arg(add = completions::machines())]
        instance: String,
        /// The command and its arguments [default: a login shell]
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Boot a machine from an image, run a command on it through SSM, show the output, terminate it
    Run {
        /// An AMI id, a recipe name for its latest image, or RECIPE@candidate
        #[arg(add = completions::images())]
        image: String,
        /// The command and its arguments
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
}

/// What there is a schema of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SchemaOf {
    /// Recipe files
    Recipe,
    /// Lines of `--format ndjson`
    Events,
}

/// Shells that can complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    Bash,
    Elvish,
    Fish,
    Powershell,
    Zsh,
}

#[derive(Debug, Subcommand)]
pub enum ConfigVerb {
    /// Each setting with its value, and who says so
    Show,
    /// Each environment variable that is read, what it does, and whether it is set
    Variables,
}

#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Install what is missing with apt-get
    #[arg(long)]
    pub fix: bool,
}

fn parse_set(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// The commands that messages name, with something in the place of what they leave open.
    fn commands_of(text: &str) -> Vec<String> {
        let mut found = Vec::new();
        // The marks stand alone, or this test would read itself.
        for (mark, ends) in [("`", "`"), (": ", "\"`;,\n")] {
            for part in text.split(&format!("{mark}piaas-bake ")).skip(1) {
                let end = part.find(|c| ends.contains(c)).unwrap_or(part.len());
                let mut words = vec!["piaas-bake"];
                let command = part[..end].split(" >").next().unwrap_or_default();
                let given = |word: &&str| !word.is_empty() && *word != "…";
                for word in command.split(' ').filter(given) {
                    // `{name}` of a format, `NAME` of a usage.
                    let left_open =
                        word.contains('{') || word.bytes().all(|byte| !byte.is_ascii_lowercase());
                    words.push(if left_open { "x" } else { word });
                }
                found.push(words.join(" "));
            }
        }
        found
    }

    #[test]
    fn every_command_that_a_message_names_can_be_given() {
        let mut count = 0;
        let mut wrong = Vec::new();
        for path in crate::cli::sources() {
            let text = std::fs::read_to_string(&path).unwrap();
            let lines = text
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"));
            for command in lines.flat_map(commands_of) {
                count += 1;
                let parsed = Cli::command().try_get_matches_from(command.split(' '));
                if let Err(error) = parsed
                    && error.kind() != clap::error::ErrorKind::DisplayHelp
                {
                    wrong.push(format!("{}: {command}: {error}", path.display()));
                }
            }
        }
        assert!(count > 40, "{count}");
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn a_value_may_hold_an_equals_sign() {
        assert_eq!(parse_set("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert!(parse_set("=x").is_err());
        assert!(parse_set("x").is_err());
    }
}
