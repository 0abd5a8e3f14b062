//! What stands behind the keys of a recipe file: texts, words and numbers.
//!
//! Patterns have no look-around and no classes of Unicode: what reads the schema has one of many regular expressions.

use schemars::JsonSchema;
use serde::Deserialize;

/// What the key and the value of a label are made of; of what is not ASCII, a lint knows more.
pub const LABEL: &str = r"^[^\x00-\x1f!-*,;<>?\[-^`{-\x7f]*$";

/// Texts, each with what JSON Schema says about it.
macro_rules! texts {
    ($($(#[$about:meta])* $name:ident { $($keyword:literal: $value:tt),+ })+) => {$(
        $(#[$about])*
        #[derive(Deserialize, JsonSchema)]
        #[schemars(extend($($keyword = $value),+))]
        pub struct $name(String);
    )+};
}

texts! {
    /// The name of a recipe.
    RecipeName { "pattern": "^[a-z][a-z0-9-]{0,63}$" }
    /// A semantic version (semver.org).
    // There: "Is there a suggested regular expression".
    Version { "pattern": r"^(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)(?:-(?:0|[1-9][0-9]*|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*)(?:\.(?:0|[1-9][0-9]*|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*))*)?(?:\+[0-9a-zA-Z-]+(?:\.[0-9a-zA-Z-]+)*)?$" }
    /// A range of its versions, such as ^1.
    // Comparisons of the crate semver, with a comma between them.
    VersionRange { "pattern": r"^ *([*xX]|(=|>|>=|<|<=|~|\^)? *[0-9]+(\.([0-9]+|[*xX])(\.([0-9]+|[*xX])([-+][0-9A-Za-z.+-]+)?)?)?)( *, *(=|>|>=|<|<=|~|\^)? *[0-9]+(\.([0-9]+|[*xX])(\.([0-9]+|[*xX])([-+][0-9A-Za-z.+-]+)?)?)?)* *$" }
    /// One line.
    // Neither empty nor more than that.
    Line { "pattern": r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$", "maxLength": 200 }
    /// Text that is not blank.
    Filled { "pattern": r"\S" }
    /// The name of a file beside the recipe.
    Beside { "minLength": 1 }
    /// An address of HTTP.
    Url { "pattern": r"^https?://|\{[{%]" }
    /// 64 hex digits.
    Sha256 { "pattern": r"^[0-9a-f]{64}$|\{[{%]" }
    /// The value of a label.
    LabelValue { "pattern": LABEL, "maxLength": 256 }
    /// An SSM parameter that holds an AMI id.
    SsmParameter { "pattern": "^/[A-Za-z0-9/._-]*$" }
    /// An AMI id.
    AmiId { "pattern": "^ami-([0-9a-f]{8}|[0-9a-f]{17})$" }
    /// An EC2 Image Builder image ARN.
    ImageBuilderArn { "pattern": "^arn:", "allOf": [{ "pattern": ":imagebuilder:" }, { "pattern": ":image/" }] }
    /// The name of a Debian package.
    DebianPackage { "pattern": "^[a-z0-9][a-z0-9+.-]+(:[a-z0-9-]+)?(=[0-9][A-Za-z0-9.+:~-]*)?$" }
    /// The name of an RPM package.
    RpmPackage { "pattern": "^[A-Za-z0-9][A-Za-z0-9._+:~^-]+$" }
    /// Absolute path on the machine.
    Destination {
        "pattern": r"^(/([^/.\x00-\x1f\x7f-\x9f]|\.[^/.\x00-\x1f\x7f-\x9f]|\.\.[^/\x00-\x1f\x7f-\x9f])[^/\x00-\x1f\x7f-\x9f]*)+$",
        "maxLength": 4095
    }
    /// Absolute path on the machine; * and ? stand for letters of one name, but not in the first one.
    SealedPath {
        "pattern": r"^/([A-Za-z0-9_+@:=~%-]|\.[A-Za-z0-9_+@:=~%-]|\.\.[A-Za-z0-9._+@:=~%-])[A-Za-z0-9._+@:=~%-]*(/([A-Za-z0-9_+@:=~%*?-]|\.[A-Za-z0-9_+@:=~%*?-]|\.\.[A-Za-z0-9._+@:=~%*?-])[A-Za-z0-9._+@:=~%*?-]*)+$",
        "maxLength": 4095
    }
    /// The name of a user or a group.
    User { "pattern": "^[a-z_][a-z0-9_-]{0,31}$" }
    /// Octal, in quotes; "0644" if nothing is said.
    Mode { "pattern": "^[0-7]{3,4}$" }
    /// Hours, minutes and seconds, such as 1h30m.
    Duration { "pattern": "^([0-9]+h)?([0-9]+m)?([0-9]+s)?$", "not": { "pattern": "^[0hms]*$" } }
    /// Days or hours, such as 14d.
    Age { "pattern": "^[0-9]+[dh]$", "not": { "pattern": "^0*[dh]$" } }
    /// The unit of the worker.
    Unit { "pattern": r"^[A-Za-z0-9:_.\\@-]*[A-Za-z0-9:_.\\-]\.service$", "maxLength": 255 }
    /// Where the worker reports.
    Report { "pattern": "^/run/", "not": { "pattern": r"(^|/)\.\.(/|$)" } }
    /// 8GiB if nothing is said.
    // 1 to 16384.
    Size { "pattern": "^([1-9][0-9]{0,3}|1[0-5][0-9]{3}|16[0-2][0-9]{2}|163[0-7][0-9]|1638[0-4])GiB$" }
    /// Such as t3.medium.
    InstanceType { "pattern": r"^\S*\.\S*$" }
    /// An id.
    SubnetId { "pattern": "^subnet-" }
    /// An id.
    SecurityGroupId { "pattern": "^sg-" }
    /// A shell command.
    CanaryCheck { "pattern": r"\S", "not": { "pattern": r"\{\{" } }
    /// Such as eu-west-1.
    Region { "pattern": "^[a-z]+(-[a-z]+)+-[0-9]$" }
    /// 12 digits.
    Account { "pattern": "^[0-9]{12}$" }
}

/// A condition over parameters, without braces, such as: `with_docker and port > 1024`
#[derive(Deserialize, JsonSchema)]
#[schemars(extend("not" = { "pattern": r"\{\{|\}\}|\{%|%\}" }))]
pub struct Condition(Line);

/// Values.
#[derive(Deserialize, JsonSchema)]
pub struct Values(Vec<String>);

/// From 1 to 100.
#[derive(Deserialize, JsonSchema)]
pub struct Percentage(#[schemars(range(min = 1, max = 100))] u32);

/// How the agent talks to the CI worker.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Adapter {
    Buildbot,
    Command,
}

/// What is done: it is removed, it loses its bytes or its entries, or it may stay.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SealAction {
    Gone,
    Empty,
    Keep,
}

/// Of the root volume.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Filesystem {
    Ext4,
}

/// Of the machine.
#[derive(Deserialize, JsonSchema)]
pub enum Architecture {
    #[serde(rename = "x86_64")]
    X86,
    #[serde(rename = "arm64")]
    Arm,
}

/// Of the image.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BootMode {
    Uefi,
    UefiPreferred,
}
