//! The format of recipe files as types: the one list of its keys and words. The JSON Schema is made from them, and the
//! reader takes its keys and words from them with [`keys()`].
//!
//! What is documented here is what editors show. No recipe is read into these types: a reader that stops at the first
//! thing that is wrong cannot say all of it with its place.

#![expect(
    dead_code,
    reason = "the types are for their derives; nobody reads the values of their fields"
)]

mod keys;
mod scalars;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use schemars::{JsonSchema, Schema};
use serde::Deserialize;
use serde::de::IntoDeserializer as _;
use serde::de::value::{self, StrDeserializer};
use serde_json::{Map, Value as Json, json};

pub use keys::keys;
pub use scalars::*;

/// The format that this version reads.
pub const SCHEMA: &str = "piaas-bake/v1";
/// More tries of a step than this hide a fault.
pub const MOST_RETRIES: u32 = 10;
/// What an instance refresh takes as `MaxHealthyPercentage` (Auto Scaling API, `RefreshPreferences`); at 100 nothing
/// could be launched before something ends.
pub const MAX_HEALTHY: RangeInclusive<u32> = 101..=200;
/// Images of one recipe.
pub const MOST_KEPT: u32 = 1000;

const RESERVED_LABEL: &str = "^([Aa][Ww][Ss]:|[Pp][Ii][Aa][Aa][Ss]-[Bb][Aa][Kk][Ee]:|Name$)";

/// A recipe of piaas-bake.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "piaas-bake recipe")]
pub struct Recipe {
    /// The version of this format.
    #[schemars(extend("const" = SCHEMA))]
    schema: String,
    /// The name of the directory.
    name: RecipeName,
    version: Version,
    /// What the image is for, in one line.
    description: Line,
    /// Tags of the image and its snapshots.
    #[schemars(extend(
        "propertyNames" = { "pattern": LABEL, "minLength": 1, "maxLength": 128, "not": { "pattern": RESERVED_LABEL } },
        "maxProperties" = 40
    ))]
    labels: Option<BTreeMap<String, LabelValue>>,
    from: From,
    /// Declared here, or set for a parent.
    #[schemars(extend("propertyNames" = { "pattern": "^[a-z][a-z0-9_]*$" }))]
    parameters: Option<BTreeMap<String, Parameter>>,
    packages: Option<Packages>,
    /// What is installed, before the steps.
    files: Option<Vec<File>>,
    worker: Option<Worker>,
    /// What runs on the builder, in order.
    steps: Option<Vec<Step>>,
    /// Checks on the builder, after all steps.
    validate: Option<Vec<Step>>,
    /// Checks on a machine booted from the image.
    test: Option<Vec<Step>>,
    /// What the image must not have, or may have although no two machines should have it in common.
    seal: Option<Vec<Seal>>,
    image: Option<Image>,
    build: Option<Build>,
    roll: Option<Roll>,
    retention: Option<Retention>,
    distribution: Option<Distribution>,
}

/// What it builds on: a recipe, or an image.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("oneOf" = one_of(&Self::ONE_OF), "dependencies" = { "version": ["recipe"] }))]
pub struct From {
    recipe: Option<RecipeName>,
    version: Option<VersionRange>,
    ssm: Option<SsmParameter>,
    ami: Option<AmiId>,
    filter: Option<Filter>,
    imagebuilder: Option<ImageBuilderArn>,
}

impl From {
    pub const ONE_OF: [&str; 5] = ["recipe", "ssm", "ami", "filter", "imagebuilder"];
}

/// The newest image that matches.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend(
    "anyOf" = [
        { "required": ["name"] },
        { "required": ["filters"], "properties": { "filters": { "minProperties": 1 } } },
    ],
    // The name given twice.
    "not" = { "required": ["name", "filters"], "properties": { "filters": { "required": ["name"] } } }
))]
pub struct Filter {
    /// Account ids, `amazon` or `self`.
    #[schemars(length(min = 1))]
    owners: Vec<String>,
    /// The name of the image, with * and ?.
    name: Option<String>,
    /// Filters of `DescribeImages`.
    filters: Option<BTreeMap<String, Values>>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Parameter {
    #[schemars(transform = of(Kind::String, &[]))]
    String(Declaration<String>),
    #[schemars(transform = of(Kind::Integer, &["pattern"]))]
    Integer(Declaration<i64>),
    #[schemars(transform = of(Kind::Boolean, &["enum", "pattern"]))]
    Boolean(Declaration<bool>),
    #[schemars(transform = of(Kind::List, &[]))]
    List(Declaration<Vec<String>, String>),
    Set(Value),
}

/// The value of a parameter.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Value {
    String(String),
    Integer(i64),
    Boolean(bool),
    List(Vec<String>),
}

/// A parameter of this recipe.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Declaration<V, I = V> {
    r#type: Kind,
    /// Its value if nobody gives another; without it one must be given.
    default: Option<V>,
    /// What it is for, in one line.
    description: Option<Line>,
    /// The values that are allowed; of a list, its items.
    #[schemars(length(min = 1), extend("uniqueItems" = true))]
    r#enum: Option<Vec<I>>,
    /// A regular expression of the regex crate that the whole text matches, or each item of a list.
    pattern: Option<String>,
    /// Its value is a reference: ssm:/path, secretsmanager:ARN, env:NAME. Scripts get a file's path.
    secret: Option<bool>,
}

/// Its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    String,
    Integer,
    Boolean,
    List,
}

impl Kind {
    pub fn parse(text: &str) -> Option<Self> {
        let text: StrDeserializer<'_, value::Error> = text.into_deserializer();
        Self::deserialize(text).ok()
    }

    /// As the recipe writes it.
    pub fn name(self) -> &'static str {
        keys::<Self>()[self as usize]
    }
}

/// Packages to install, before files and steps.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Packages {
    /// Packages for apt.
    Apt(Vec<Listed<DebianPackage>>),
    Managers(Managers),
}

/// For each package manager.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Managers {
    /// Packages for this package manager.
    apt: Option<Vec<Listed<DebianPackage>>>,
    /// Packages for this package manager.
    dnf: Option<Vec<Listed<RpmPackage>>>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Listed<N> {
    Name(N),
    Package(Package<N>),
}

/// A package under a condition.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Package<N> {
    /// Its name.
    name: N,
    when: Option<Condition>,
}

/// A file or a directory to install.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend(
    "oneOf" = one_of(&Self::ONE_OF),
    "not" = { "required": ["tree", "mode"] },
    "dependencies" = { "sha256": ["url"] }
))]
pub struct File {
    path: Destination,
    /// A file beside the recipe, byte for byte.
    source: Option<Beside>,
    /// A tera template beside the recipe.
    template: Option<Beside>,
    /// The text itself; rendered.
    content: Option<String>,
    /// A directory beside the recipe, with all that is in it.
    tree: Option<Beside>,
    /// Where it is downloaded from; rendered.
    url: Option<Url>,
    /// Of what is downloaded; rendered. The lock file may have it instead.
    sha256: Option<Sha256>,
    /// A user name; root if nothing is said.
    owner: Option<User>,
    /// A group name; root if nothing is said.
    group: Option<User>,
    mode: Option<Mode>,
    when: Option<Condition>,
}

impl File {
    pub const ONE_OF: [&str; 5] = ["source", "template", "content", "tree", "url"];
}

/// A script.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("oneOf" = one_of(&Self::ONE_OF)))]
pub struct Step {
    /// What it does, in a few words.
    name: Line,
    /// The script; {{ value }} is one word of the shell.
    run: Option<Filled>,
    /// A script beside the recipe, byte for byte.
    script: Option<Beside>,
    /// A tera template of a script beside the recipe.
    template: Option<Beside>,
    /// Environment; rendered as plain text.
    #[schemars(extend(
        "propertyNames" = { "pattern": "^[A-Za-z_][A-Za-z0-9_]*$", "not": { "pattern": "^PIAAS_" } }
    ))]
    env: Option<BTreeMap<String, String>>,
    /// 10m if nothing is said.
    timeout: Option<Duration>,
    /// How often it is tried again if it fails.
    #[schemars(range(max = MOST_RETRIES))]
    retries: Option<u32>,
    /// Reboot after it.
    reboot: Option<bool>,
    when: Option<Condition>,
}

impl Step {
    pub const ONE_OF: [&str; 3] = ["run", "script", "template"];
}

/// The agent that tells busy from idle.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Worker {
    Buildbot(Buildbot),
    Command(Command),
}

/// A worker of Buildbot.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Buildbot {
    #[schemars(extend("enum" = ["buildbot"]))]
    adapter: Adapter,
    unit: Unit,
    report: Option<Report>,
}

/// Commands of your own.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Command {
    #[schemars(extend("enum" = ["command"]))]
    adapter: Adapter,
    /// Ends with 0 when no job runs, with 1 when jobs run.
    status: Filled,
    /// Makes the CI agent take no more jobs.
    stop: Filled,
    /// Ends with 0 when it takes no more jobs.
    stopped: Filled,
    /// Makes it take jobs again.
    start: Filled,
    /// For each command; 10s if nothing is said.
    timeout: Option<Duration>,
}

/// A path that the seal treats as this recipe says, beside the known leaks (piaas-bake leaks).
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend(
    "anyOf" = [{ "required": ["reason"] }, { "properties": { "action": { "enum": ["gone", "empty"] } } }]
))]
pub struct Seal {
    path: SealedPath,
    action: SealAction,
    /// Why; with keep it must be said.
    reason: Option<Line>,
}

/// The disk that comes out.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Image {
    size: Option<Size>,
    filesystem: Option<Filesystem>,
    architecture: Option<Architecture>,
    boot_mode: Option<BootMode>,
}

/// The machine that makes it.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Build {
    /// Of several, the first that EC2 has room for; t3.medium if nothing is said.
    instance_type: Option<OneOrMore<InstanceType>>,
    /// Of several, the first that EC2 has room in; the default one if nothing is said.
    subnet: Option<OrNull<OneOrMore<SubnetId>>>,
    /// A new one if nothing is said.
    security_groups: Option<Vec<SecurityGroupId>>,
    /// For the SSM agent.
    instance_profile: Option<OrNull<Filled>>,
    /// Of the whole bake; 1h if nothing is said.
    timeout: Option<Duration>,
    /// When a rebake is due; 14d if nothing is said.
    max_age: Option<Age>,
}

// `Null` comes first: one that comes last is taken for that of an `Option`, see `as_written`.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum OrNull<T> {
    Null,
    Is(T),
}

#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum OneOrMore<T> {
    One(T),
    More(#[schemars(length(min = 1))] Vec<T>),
}

/// How an image is rolled out.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Roll {
    /// How long a new instance runs before it counts.
    warmup: Option<Duration>,
    /// Instances that may exist at a time, in percent.
    #[schemars(range(min = *MAX_HEALTHY.start(), max = *MAX_HEALTHY.end()))]
    max_healthy: Option<u32>,
    /// Must succeed on new instances.
    canary_checks: Option<Vec<CanaryCheck>>,
    /// Percentages at which to pause, ascending.
    #[schemars(extend("uniqueItems" = true))]
    checkpoints: Option<Vec<Percentage>>,
    /// How long to pause.
    checkpoint_delay: Option<Duration>,
}

/// Which images stay.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// How many of the newest images stay.
    #[schemars(range(min = 1, max = MOST_KEPT))]
    keep: Option<u32>,
    /// Images that are younger stay.
    max_age: Option<Age>,
}

/// Where images go.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Distribution {
    /// Regions to copy to.
    #[schemars(extend("uniqueItems" = true))]
    regions: Option<Vec<Region>>,
    /// Accounts to share with.
    #[schemars(extend("uniqueItems" = true))]
    accounts: Option<Vec<Account>>,
}

/// Exactly one of these keys.
fn one_of(keys: &[&str]) -> Vec<Json> {
    keys.iter()
        .map(|key| json!({ "required": [key] }))
        .collect()
}

/// Makes a declaration one of this type, which has no use for the keys `without`.
fn of(kind: Kind, without: &'static [&str]) -> impl FnMut(&mut Schema) {
    // What a secret is can be checked on the machine alone.
    let secret = json!({ "required": ["secret"], "properties": { "secret": { "const": true } } });
    let limited = json!({ "anyOf": [{ "required": ["enum"] }, { "required": ["pattern"] }] });
    let not = match kind {
        Kind::String => json!({ "allOf": [secret, limited] }),
        _ => secret,
    };
    move |schema| {
        schema.insert("not".into(), not.clone());
        if let Some(Json::Object(keys)) = schema.get_mut("properties") {
            keys.retain(|key, _| !without.contains(&key.as_str()));
            keys["type"]["enum"] = json!([kind.name()]);
        }
    }
}

/// Takes out what schemars adds: a key that is optional may be null, which is not to leave it out; and the format of an
/// integer, whose limits are said.
pub fn as_written(schema: &mut Schema) {
    schema.remove("format");
    let keys = schema.get_mut("properties").and_then(Json::as_object_mut);
    for key in keys.into_iter().flat_map(Map::values_mut) {
        if let Some([alone, null]) = pair(key, "anyOf")
            && *null == json!({ "type": "null" })
            && let (Json::Object(mut alone), Some(key)) = (alone.take(), key.as_object_mut())
        {
            key.remove("anyOf");
            alone.append(key);
            *key = alone;
        }
        if let Some([alone, null]) = pair(key, "type")
            && null == "null"
        {
            key["type"] = alone.take();
        }
        if let Some(Json::Array(words)) = key.get_mut("enum") {
            words.retain(|word| !word.is_null());
        }
    }
}

fn pair<'s>(schema: &'s mut Json, keyword: &str) -> Option<&'s mut [Json; 2]> {
    schema
        .get_mut(keyword)?
        .as_array_mut()?
        .as_mut_slice()
        .try_into()
        .ok()
}
