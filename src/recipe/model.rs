//! What a recipe says once it is loaded, checked and merged along its line: plain data for the rooms below.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use super::inline::InlineText;
use super::lock::Lock;
use super::secret::Reference;
use super::units;
use crate::image::SOURCE_DATE;
use crate::image::leaks::Sealed;
use crate::worker::config;

/// A recipe line, merged: what to bake, on what, in which order.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// Name of the recipe asked for (the last of the line).
    pub name: String,
    /// Its version.
    pub version: semver::Version,
    /// Its description, one line.
    pub description: String,
    /// Where the line ends: an image that is not ours.
    pub base: BaseRef,
    /// The recipes of the line, root first.
    pub line: Vec<LineRecipe>,
    /// What is known about each parameter of the line.
    pub about: BTreeMap<String, About>,
    /// Effective parameter values after defaults, overrides of children, values files and `--set`.
    pub parameters: BTreeMap<String, Value>,
    /// Tags for the image, merged.
    pub labels: BTreeMap<String, String>,
    /// Disk and boot settings, merged.
    pub image: ImageSpec,
    /// Builder settings, merged.
    pub build: BuildSpec,
    /// How an image of it is rolled out, merged.
    pub roll: RollSpec,
    /// Which of its images stay, merged.
    pub retention: RetentionSpec,
    /// Where its images go, merged.
    pub distribution: DistributionSpec,
    /// Where the settings of the merged sections stand, such as `image.size`; one that is not here has its default.
    pub origins: BTreeMap<String, Location>,
}

/// A parameter, beside its value.
#[derive(Debug, Clone)]
pub struct About {
    /// `string`, `integer`, `boolean` or `list`.
    pub kind: &'static str,
    pub description: Option<String>,
    /// Where it is declared; the last recipe of the line that does.
    pub declared: Location,
    /// Where its value comes from.
    pub origin: Origin,
    /// Where the secret is; the value of such a parameter is the path of a file on the machine.
    pub secret: Option<Reference>,
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The `default` of its declaration.
    Default(Location),
    /// A recipe that sets what a parent declares.
    Recipe(Location),
    /// A file given by `--values`.
    Values(Location),
    /// `--set`.
    CommandLine,
    /// Nobody gave one, and a lint needs none.
    Sample,
}

impl Resolved {
    /// Whether the agent on the worker is a part of the image.
    #[must_use]
    pub fn installs_worker(&self) -> bool {
        self.line.iter().any(|recipe| recipe.worker.is_some())
    }

    /// Whether a bake needs the binary of the agent: the image has it, or it fetches secrets.
    #[must_use]
    pub fn needs_agent(&self) -> bool {
        self.installs_worker() || self.about.values().any(|about| about.secret.is_some())
    }

    /// The lock file of the recipe at the root.
    #[must_use]
    pub fn root_lock(&self) -> Option<&Lock> {
        self.line.first().and_then(|root| root.lock.as_ref())
    }

    /// What scripts of the line find in `SOURCE_DATE_EPOCH`: the lock file at the root may pin it.
    #[must_use]
    pub fn source_date(&self) -> i64 {
        self.root_lock().map_or(SOURCE_DATE, Lock::source_date)
    }

    /// The sections that are checked and shown, and that no verb of this version acts on.
    #[must_use]
    pub fn without_effect(&self) -> Vec<&'static str> {
        let mut sections = Vec::new();
        if self.retention != RetentionSpec::default() {
            sections.push("retention");
        }
        if self.distribution != DistributionSpec::default() {
            sections.push("distribution");
        }
        sections
    }

    /// The settings of the merged sections, by the names that recipes give them, such as `image.size`.
    #[must_use]
    pub fn settings(&self) -> Vec<(String, serde_json::Value)> {
        use serde_json::json;
        let (image, build) = (&self.image, &self.build);
        let seconds = |duration: Duration| json!(format!("{}s", duration.as_secs()));
        let one_or_more = |all: &[String]| match all {
            [] => json!(null),
            [one] => json!(one),
            more => json!(more),
        };
        let labels = self
            .labels
            .iter()
            .map(|(key, value)| (format!("labels.{key}"), json!(value)));
        let rest = [
            ("image.size", json!(format!("{}GiB", image.size_gib))),
            ("image.filesystem", json!(image.filesystem)),
            ("image.architecture", json!(image.architecture)),
            ("image.boot_mode", json!(image.boot_mode)),
            ("build.instance_type", one_or_more(&build.instance_types)),
            ("build.subnet", one_or_more(&build.subnets)),
            ("build.security_groups", json!(build.security_groups)),
            ("build.instance_profile", json!(build.instance_profile)),
            ("build.timeout", seconds(build.timeout)),
            (
                "build.max_age",
                json!(format!("{}h", build.max_age.as_secs() / 3600)),
            ),
        ];
        let (roll, keep, to) = (&self.roll, &self.retention, &self.distribution);
        let given = [
            ("roll.warmup", roll.warmup.map(seconds)),
            ("roll.max_healthy", roll.max_healthy.map(|n| json!(n))),
            (
                "roll.canary_checks",
                roll.canary_checks.as_ref().map(|l| json!(l)),
            ),
            (
                "roll.checkpoints",
                roll.checkpoints.as_ref().map(|l| json!(l)),
            ),
            ("roll.checkpoint_delay", roll.checkpoint_delay.map(seconds)),
            ("retention.keep", keep.keep.map(|n| json!(n))),
            (
                "retention.max_age",
                keep.max_age
                    .map(|age| json!(format!("{}h", age.as_secs() / 3600))),
            ),
            (
                "distribution.regions",
                to.regions.as_ref().map(|l| json!(l)),
            ),
            (
                "distribution.accounts",
                to.accounts.as_ref().map(|l| json!(l)),
            ),
        ];
        let given = given
            .into_iter()
            .filter_map(|(key, value)| Some((key, value?)));
        labels
            .chain(
                rest.into_iter()
                    .chain(given)
                    .map(|(key, value)| (key.to_owned(), value)),
            )
            .collect()
    }
}

/// One recipe of a line: its own part, before rendering.
#[derive(Debug, Clone)]
pub struct LineRecipe {
    pub name: String,
    pub version: semver::Version,
    /// Directory of the recipe; paths in it are relative to this.
    pub dir: PathBuf,
    /// Where it says what it builds on.
    pub from_at: Location,
    /// Disk and boot settings merged from the root up to here: what this recipe has when it is baked by itself.
    pub image: ImageSpec,
    /// Tags for the image, merged likewise.
    pub labels: BTreeMap<String, String>,
    /// What installs the packages.
    pub manager: Manager,
    pub packages: Vec<PackageSpec>,
    /// What the layer installs exactly, if its lock file says so.
    pub lock: Option<Lock>,
    pub files: Vec<FileSpec>,
    pub downloads: Vec<DownloadSpec>,
    /// Whole directories to install.
    pub trees: Vec<TreeSpec>,
    /// The agent that this recipe installs; a child has its parent's, unless it says something of its own.
    pub worker: Option<WorkerSpec>,
    /// Paths that the image must not have, or may; they add to those of its parents.
    pub seal: Vec<SealSpec>,
    pub steps: Vec<StepSpec>,
    pub validate: Vec<StepSpec>,
    pub test: Vec<StepSpec>,
}

/// A typed parameter value.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Value {
    Boolean(bool),
    Integer(i64),
    String(String),
    /// A list of strings.
    List(Vec<String>),
}

/// As a recipe would write it, items of a list with commas between them.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boolean(value) => value.fmt(f),
            Self::Integer(value) => value.fmt(f),
            Self::String(value) => value.fmt(f),
            Self::List(values) => values.join(",").fmt(f),
        }
    }
}

/// The image at the root of a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum BaseRef {
    /// An AMI id.
    Ami { id: String },
    /// An SSM parameter whose value is an AMI id, such as the public `/aws/service/debian/release/12/latest/amd64`.
    Ssm { parameter: String },
    /// The newest image that matches (`DescribeImages` filters; values may hold `*` and `?`).
    Filter {
        owners: Vec<String>,
        filters: BTreeMap<String, Vec<String>>,
    },
    /// An EC2 Image Builder image version ARN.
    ImageBuilder { arn: String },
}

/// Where a thing stands in a recipe file; lines and columns count from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    pub file: PathBuf,
    pub line: usize,
    pub column: usize,
}

/// A file to install.
#[derive(Debug, Clone)]
pub struct FileSpec {
    /// Absolute path on the machine.
    pub path: String,
    pub source: Source,
    pub owner: String,
    pub group: String,
    /// Permission bits, such as `0o644`.
    pub mode: u32,
    /// The condition under which it is installed.
    pub when: Option<InlineText>,
    pub at: Location,
}

/// A file to download and install.
#[derive(Debug, Clone)]
pub struct DownloadSpec {
    /// Absolute path on the machine.
    pub path: String,
    /// Rendered as plain text.
    pub url: InlineText,
    /// Likewise; without it the lock file has it.
    pub sha256: Option<InlineText>,
    pub owner: String,
    pub group: String,
    /// Permission bits, such as `0o644`.
    pub mode: u32,
    /// The condition under which it is installed.
    pub when: Option<InlineText>,
    pub at: Location,
}

impl DownloadSpec {
    /// From now on its sha256 is this one.
    pub fn know(&mut self, sha256: &str) {
        let mut known = self.url.clone();
        sha256.clone_into(&mut known.text);
        self.sha256 = Some(known);
    }
}

/// A package manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Manager {
    /// Of Debian and Ubuntu.
    Apt,
    /// Of Amazon Linux 2023, Fedora and RHEL.
    Dnf,
}

impl Manager {
    /// As a recipe writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Apt => "apt",
            Self::Dnf => "dnf",
        }
    }
}

/// A package to install.
#[derive(Debug, Clone)]
pub struct PackageSpec {
    /// As the package manager takes it, with its version if it must be that one.
    pub name: String,
    /// The condition under which it is installed.
    pub when: Option<InlineText>,
    pub at: Location,
}

/// A directory to install with all that is in it.
#[derive(Debug, Clone)]
pub struct TreeSpec {
    /// Absolute path on the machine.
    pub path: String,
    /// What is in it, sorted by path.
    pub entries: Vec<TreeEntry>,
    /// Of everything in it.
    pub owner: String,
    pub group: String,
    /// The condition under which it is installed.
    pub when: Option<InlineText>,
    pub at: Location,
}

/// Something in a directory to install.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeEntry {
    /// Path below the directory, without a slash at its begin and end.
    pub path: String,
    pub kind: TreeKind,
}

/// What an entry of a directory to install is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TreeKind {
    /// Installed as 0755.
    Directory,
    /// Installed as 0755 if anybody may execute it, else as 0644.
    File { source: PathBuf, executable: bool },
    /// A symbolic link that stays inside.
    Link { target: String },
}

/// A path that the seal treats as the recipe says.
#[derive(Debug, Clone)]
pub struct SealSpec {
    pub sealed: Sealed,
    /// Why it may stay.
    pub reason: Option<String>,
    pub at: Location,
}

/// Which CI agent the agent on the worker talks to, and how.
#[derive(Debug, Clone)]
pub enum WorkerSpec {
    Buildbot(config::Buildbot),
    Command(Box<WorkerCommands>),
}

/// Commands of a recipe, each a script like a step's; [`config::Command`] says what they are for.
#[derive(Debug, Clone)]
pub struct WorkerCommands {
    pub status: InlineText,
    pub stop: InlineText,
    pub stopped: InlineText,
    pub start: InlineText,
    /// For each of them.
    pub timeout: Duration,
}

/// Where a text comes from.
#[derive(Debug, Clone)]
pub enum Source {
    /// Text in the recipe itself; rendered.
    Inline(InlineText),
    /// A file beside the recipe, byte for byte (absolute path here).
    Raw(PathBuf),
    /// A tera template beside the recipe (absolute path here).
    Template(PathBuf),
}

/// A step, a validation or a test.
#[derive(Debug, Clone)]
pub struct StepSpec {
    pub name: String,
    pub source: Source,
    /// Environment; values are rendered as plain text, never as shell.
    pub env: BTreeMap<String, InlineText>,
    pub timeout: Duration,
    /// How often to try again after a failure.
    pub retries: u32,
    /// Reboot the machine after this step.
    pub reboot: bool,
    /// The condition under which it runs.
    pub when: Option<InlineText>,
    pub at: Location,
}

/// Disk and boot settings of the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageSpec {
    /// Size of the root volume in GiB.
    pub size_gib: u32,
    /// `ext4`.
    pub filesystem: String,
    /// `x86_64` or `arm64`.
    pub architecture: String,
    /// `uefi` or `uefi-preferred`.
    pub boot_mode: String,
}

/// Settings of the builder instance. Not an input of the digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BuildSpec {
    /// In the order in which they are tried; at least one.
    pub instance_types: Vec<String>,
    /// Likewise; empty: EC2 chooses one of the default VPC.
    pub subnets: Vec<String>,
    /// Empty: a group without inbound rules is made for the run and removed after it.
    pub security_groups: Vec<String>,
    /// Instance profile name for the SSM agent; `None` where Default Host Management Configuration is on.
    pub instance_profile: Option<String>,
    /// Limit on the whole bake.
    #[serde(rename = "timeout_seconds", with = "units::seconds")]
    pub timeout: Duration,
    /// How old an image may become before a rebake is due.
    #[serde(rename = "max_age_seconds", with = "units::seconds")]
    pub max_age: Duration,
}

/// What holds where no recipe says anything else.
impl Default for BuildSpec {
    fn default() -> Self {
        Self {
            instance_types: vec!["t3.medium".into()],
            subnets: Vec::new(),
            security_groups: Vec::new(),
            instance_profile: None,
            timeout: Duration::from_secs(3600),
            max_age: Duration::from_secs(14 * 24 * 3600),
        }
    }
}

/// How an image is rolled out; `None` leaves it to the verb. Not an input of the digest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RollSpec {
    /// How long a new instance runs before it counts.
    pub warmup: Option<Duration>,
    /// Instances that may exist at the same time, in percent of the desired number.
    pub max_healthy: Option<u32>,
    /// Shell commands that must succeed on the canary and on every new instance.
    pub canary_checks: Option<Vec<String>>,
    /// Percentages at which to pause, ascending.
    pub checkpoints: Option<Vec<u32>>,
    /// How long to pause.
    pub checkpoint_delay: Option<Duration>,
}

/// Which images of a recipe stay. Not an input of the digest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RetentionSpec {
    /// How many of the newest.
    pub keep: Option<u32>,
    /// Those that are younger.
    pub max_age: Option<Duration>,
}

/// Where images of a recipe go. Not an input of the digest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DistributionSpec {
    /// Regions to copy to.
    pub regions: Option<Vec<String>>,
    /// Accounts to share with, 12 digits.
    pub accounts: Option<Vec<String>>,
}
