//! The keys that recipes may have and the words that they may choose from: what the reader takes, and what the JSON
//! Schema is made from.

pub const RECIPE: [&str; 18] = [
    "schema",
    "name",
    "version",
    "description",
    "labels",
    "from",
    "parameters",
    "packages",
    "files",
    "worker",
    "steps",
    "validate",
    "test",
    "image",
    "build",
    "roll",
    "retention",
    "distribution",
];

pub const FROM: [&str; 6] = ["recipe", "version", "ssm", "ami", "filter", "imagebuilder"];
pub const FROM_CHOICES: [&str; 5] = ["recipe", "ssm", "ami", "filter", "imagebuilder"];
pub const FILTER: [&str; 3] = ["owners", "name", "filters"];

pub const PARAMETER: [&str; 6] = [
    "type",
    "default",
    "description",
    "enum",
    "pattern",
    "secret",
];
pub const PARAMETER_TYPES: [&str; 4] = ["string", "integer", "boolean", "list"];

pub const MANAGERS: [&str; 2] = ["apt", "dnf"];
pub const PACKAGE: [&str; 2] = ["name", "when"];

pub const FILE: [&str; 9] = [
    "path", "source", "template", "content", "tree", "owner", "group", "mode", "when",
];
pub const FILE_CHOICES: [&str; 4] = ["source", "template", "content", "tree"];

pub const STEP: [&str; 9] = [
    "name", "run", "script", "template", "env", "timeout", "retries", "reboot", "when",
];
pub const STEP_CHOICES: [&str; 3] = ["run", "script", "template"];

pub const ADAPTERS: [&str; 2] = ["buildbot", "command"];
pub const BUILDBOT: [&str; 3] = ["adapter", "unit", "report"];
pub const COMMAND: [&str; 6] = ["adapter", "status", "stop", "stopped", "start", "timeout"];

pub const IMAGE: [&str; 4] = ["size", "filesystem", "architecture", "boot_mode"];
pub const FILESYSTEMS: [&str; 1] = ["ext4"];
pub const ARCHITECTURES: [&str; 2] = ["x86_64", "arm64"];
pub const BOOT_MODES: [&str; 2] = ["uefi", "uefi-preferred"];

pub const BUILD: [&str; 6] = [
    "instance_type",
    "subnet",
    "security_groups",
    "instance_profile",
    "timeout",
    "max_age",
];

pub const ROLL: [&str; 5] = [
    "warmup",
    "max_healthy",
    "canary_checks",
    "checkpoints",
    "checkpoint_delay",
];
pub const RETENTION: [&str; 2] = ["keep", "max_age"];
pub const DISTRIBUTION: [&str; 2] = ["regions", "accounts"];
