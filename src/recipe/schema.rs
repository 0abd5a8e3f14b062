//! The JSON Schema of recipe files, for editors: made from the keys and the choices that the reader itself uses.
//!
//! It says what a file may look like. What depends on other files, on several places, on order or on sums (names of
//! parents, parameters that nobody uses, templates, the longest duration) only a lint can say. Patterns have no
//! look-around and no classes of Unicode: what reads the schema has one of many regular expressions.

use serde_json::{Map, Value, json};

use super::raw::keys;

/// The name of the file beside the recipes.
pub const FILE: &str = "recipe.schema.json";

/// The first line of a recipe: where editors find the schema
/// (<https://github.com/redhat-developer/yaml-language-server>, "Using inlined schema").
pub const HEADER: &str = "# yaml-language-server: $schema=../recipe.schema.json";

const RECIPE_NAME: &str = "^[a-z][a-z0-9-]{0,63}$";
const PARAMETER_NAME: &str = "^[a-z][a-z0-9_]*$";
const DURATION: &str = "^([0-9]+h)?([0-9]+m)?([0-9]+s)?$";
const NO_DURATION: &str = "^[0hms]*$";
const AGE: &str = "^[0-9]+[dh]$";
const NO_AGE: &str = "^0*[dh]$";
/// semver.org, "Is there a suggested regular expression".
const VERSION: &str = r"^(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)(?:-(?:0|[1-9][0-9]*|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*)(?:\.(?:0|[1-9][0-9]*|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*))*)?(?:\+[0-9a-zA-Z-]+(?:\.[0-9a-zA-Z-]+)*)?$";
/// Comparisons of the crate semver, with a comma between them.
const RANGE: &str = r"^ *([*xX]|(=|>|>=|<|<=|~|\^)? *[0-9]+(\.([0-9]+|[*xX])(\.([0-9]+|[*xX])([-+][0-9A-Za-z.+-]+)?)?)?)( *, *(=|>|>=|<|<=|~|\^)? *[0-9]+(\.([0-9]+|[*xX])(\.([0-9]+|[*xX])([-+][0-9A-Za-z.+-]+)?)?)?)* *$";
/// Neither empty nor more than a line.
const LINE: &str = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$";
const FILLED: &str = r"\S";
const BRACES: &str = r"\{\{|\}\}|\{%|%\}";
/// What a label is made of; of what is not ASCII, a lint knows more.
const LABEL: &str = r"^[^\x00-\x1f!-*,;<>?\[-^`{-\x7f]*$";
const RESERVED_LABEL: &str = "^([Aa][Ww][Ss]:|[Pp][Ii][Aa][Aa][Ss]-[Bb][Aa][Kk][Ee]:|Name$)";
const DESTINATION: &str = r"^(/([^/.\x00-\x1f\x7f-\x9f]|\.[^/.\x00-\x1f\x7f-\x9f]|\.\.[^/\x00-\x1f\x7f-\x9f])[^/\x00-\x1f\x7f-\x9f]*)+$";
const USER: &str = "^[a-z_][a-z0-9_-]{0,31}$";
const DEBIAN_PACKAGE: &str = "^[a-z0-9][a-z0-9+.-]+(:[a-z0-9-]+)?(=[0-9][A-Za-z0-9.+:~-]*)?$";
const RPM_PACKAGE: &str = "^[A-Za-z0-9][A-Za-z0-9._+:~^-]+$";
const ENVIRONMENT_NAME: &str = "^[A-Za-z_][A-Za-z0-9_]*$";
/// 1 to 16384.
const SIZE: &str = "^([1-9][0-9]{0,3}|1[0-5][0-9]{3}|16[0-2][0-9]{2}|163[0-7][0-9]|1638[0-4])GiB$";
const REGION: &str = "^[a-z]+(-[a-z]+)+-[0-9]$";

/// The schema, as text that ends with a newline.
#[must_use]
pub fn text() -> String {
    let text = serde_json::to_string_pretty(&schema())
        .expect("a schema is texts, numbers, lists and maps with text keys");
    format!("{text}\n")
}

/// The schema (draft 7, which editors read).
#[must_use]
pub fn schema() -> Value {
    let mut schema = object(
        &keys::RECIPE,
        &["schema", "name", "version", "description", "from"],
        "A recipe of piaas-bake.",
        top,
    );
    if let Value::Object(map) = &mut schema {
        map.insert(
            "$schema".into(),
            json!("http://json-schema.org/draft-07/schema#"),
        );
        map.insert("title".into(), json!("piaas-bake recipe"));
    }
    schema
}

/// A map with these keys and no others. `of` gives the schema of each.
fn object(keys: &[&str], required: &[&str], about: &str, of: fn(&str) -> Value) -> Value {
    let properties: Map<String, Value> = keys
        .iter()
        .map(|key| ((*key).to_owned(), of(key)))
        .collect();
    json!({
        "description": about,
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

/// Beside `object`: exactly one of these keys.
fn one_of(mut object: Value, choices: &[&str]) -> Value {
    let choices: Vec<Value> = choices
        .iter()
        .map(|key| json!({ "required": [key] }))
        .collect();
    object["oneOf"] = Value::Array(choices);
    object
}

fn text_of(about: &str) -> Value {
    json!({ "type": "string", "description": about })
}

fn matching(pattern: &str, about: &str) -> Value {
    json!({ "type": "string", "pattern": pattern, "description": about })
}

/// Beside `schema`: what may not be.
fn but_not(mut schema: Value, not: Value) -> Value {
    schema["not"] = not;
    schema
}

fn duration(about: &str) -> Value {
    but_not(matching(DURATION, about), json!({ "pattern": NO_DURATION }))
}

fn age(about: &str) -> Value {
    but_not(matching(AGE, about), json!({ "pattern": NO_AGE }))
}

fn line(about: &str) -> Value {
    json!({ "type": "string", "pattern": LINE, "maxLength": 200, "description": about })
}

/// The name of a file beside the recipe.
fn beside(about: &str) -> Value {
    json!({ "type": "string", "minLength": 1, "description": about })
}

fn list_of(item: Value, about: &str) -> Value {
    json!({ "type": "array", "items": item, "description": about })
}

fn distinct(item: Value, about: &str) -> Value {
    let mut list = list_of(item, about);
    list["uniqueItems"] = json!(true);
    list
}

fn choice(choices: &[&str], about: &str) -> Value {
    json!({ "enum": choices, "description": about })
}

fn or_null(mut schema: Value) -> Value {
    schema["type"] = json!([schema["type"], "null"]);
    schema
}

/// A key of a list of the reader that has no schema here; the test of the stale schema meets it before anybody else.
fn unknown(key: &str) -> Value {
    unreachable!("the reader has the key `{key}`, and the schema does not say what it is")
}

fn top(key: &str) -> Value {
    match key {
        "schema" => {
            json!({ "const": super::raw::SCHEMA, "description": "The version of this format." })
        }
        "name" => matching(RECIPE_NAME, "The name of the directory."),
        "version" => matching(VERSION, "A semantic version (semver.org)."),
        "description" => line("What the image is for, in one line."),
        "labels" => json!({
            "type": "object",
            "propertyNames": {
                "pattern": LABEL, "minLength": 1, "maxLength": 128,
                "not": { "pattern": RESERVED_LABEL },
            },
            "additionalProperties": { "type": "string", "pattern": LABEL, "maxLength": 256 },
            "maxProperties": 40,
            "description": "Tags of the image and its snapshots.",
        }),
        "from" => {
            let about = "What it builds on: a recipe, or an image.";
            let mut from = one_of(object(&keys::FROM, &[], about, from), &keys::FROM_CHOICES);
            from["dependencies"] = json!({ "version": ["recipe"] });
            from
        }
        "parameters" => parameters(),
        "packages" => packages(),
        "files" => {
            let about = "A file or a directory to install.";
            let file = object(&keys::FILE, &["path"], about, file);
            let file = one_of(file, &keys::FILE_CHOICES);
            let file = but_not(file, json!({ "required": ["tree", "mode"] }));
            list_of(file, "What is installed, before the steps.")
        }
        "worker" => json!({
            "description": "The agent that tells busy from idle.",
            "oneOf": [
                adapted("buildbot", object(&keys::BUILDBOT, &["adapter", "unit"], "A worker of Buildbot.", worker)),
                adapted("command", object(
                    &keys::COMMAND,
                    &["adapter", "status", "stop", "stopped", "start"],
                    "Commands of your own.",
                    worker,
                )),
            ],
        }),
        "steps" => steps("What runs on the builder, in order."),
        "validate" => steps("Checks on the builder, after all steps."),
        "test" => steps("Checks on a machine booted from the image."),
        "image" => object(&keys::IMAGE, &[], "The disk that comes out.", image),
        "build" => object(&keys::BUILD, &[], "The machine that makes it.", build),
        "roll" => object(&keys::ROLL, &[], "How an image is rolled out.", after),
        "retention" => object(&keys::RETENTION, &[], "Which images stay.", after),
        "distribution" => object(&keys::DISTRIBUTION, &[], "Where images go.", after),
        other => unknown(other),
    }
}

fn from(key: &str) -> Value {
    match key {
        "recipe" => matching(RECIPE_NAME, "The name of a recipe."),
        "version" => matching(RANGE, "A range of its versions, such as ^1."),
        "ssm" => matching(
            "^/[A-Za-z0-9/._-]*$",
            "An SSM parameter that holds an AMI id.",
        ),
        "ami" => matching("^ami-([0-9a-f]{8}|[0-9a-f]{17})$", "An AMI id."),
        "filter" => filter(),
        "imagebuilder" => {
            let mut arn = matching("^arn:", "An EC2 Image Builder image ARN.");
            arn["allOf"] = json!([{ "pattern": ":imagebuilder:" }, { "pattern": ":image/" }]);
            arn
        }
        other => unknown(other),
    }
}

fn filter() -> Value {
    let texts = |about: &str| list_of(json!({ "type": "string" }), about);
    let mut filter = object(
        &keys::FILTER,
        &["owners"],
        "The newest image that matches.",
        |key| match key {
            "owners" => json!({}),
            "name" => text_of("The name of the image, with * and ?."),
            "filters" => json!({}),
            other => unknown(other),
        },
    );
    filter["properties"]["owners"] = texts("Account ids, `amazon` or `self`.");
    filter["properties"]["owners"]["minItems"] = json!(1);
    filter["properties"]["filters"] = json!({
        "type": "object", "additionalProperties": texts("Values."),
        "description": "Filters of DescribeImages.",
    });
    filter["anyOf"] = json!([
        { "required": ["name"] },
        { "required": ["filters"], "properties": { "filters": { "minProperties": 1 } } },
    ]);
    let twice = json!({
        "required": ["name", "filters"],
        "properties": { "filters": { "required": ["name"] } },
    });
    but_not(filter, twice)
}

/// The value of a parameter: by its type, or of any.
fn value(kind: Option<&str>) -> Value {
    match kind {
        Some("list") => json!({ "type": "array", "items": { "type": "string" } }),
        Some(kind) => json!({ "type": kind }),
        None => {
            json!({ "anyOf": [{ "type": ["string", "integer", "boolean"] }, value(Some("list"))] })
        }
    }
}

fn parameters() -> Value {
    let declaration = |kind: &str| {
        let mut declaration = object(
            &keys::PARAMETER,
            &["type"],
            "A parameter of this recipe.",
            |key| match key {
                "type" | "default" | "enum" => json!({}),
                "description" => line("What it is for, in one line."),
                "secret" => json!({
                    "type": "boolean",
                    "description": "Its value is a reference: ssm:/path, secretsmanager:ARN, env:NAME. Scripts get a file's path.",
                }),
                "pattern" => text_of(
                    "A regular expression of the regex crate that the whole text matches, or each item of a list.",
                ),
                other => unknown(other),
            },
        );
        let of = &mut declaration["properties"];
        of["type"] = json!({ "const": kind, "description": "Its type." });
        of["default"] = value(Some(kind));
        of["default"]["description"] =
            json!("Its value if nobody gives another; without it one must be given.");
        let item = if kind == "list" { "string" } else { kind };
        of["enum"] = json!({
            "type": "array", "items": { "type": item }, "minItems": 1, "uniqueItems": true,
            "description": "The values that are allowed; of a list, its items.",
        });
        let known = of.as_object_mut().expect("properties are a map");
        if kind == "boolean" {
            known.remove("enum");
        }
        if matches!(kind, "boolean" | "integer") {
            known.remove("pattern");
        }
        // What a secret is can be checked on the machine alone.
        let secret =
            json!({ "required": ["secret"], "properties": { "secret": { "const": true } } });
        let limited = json!({ "anyOf": [{ "required": ["enum"] }, { "required": ["pattern"] }] });
        match kind {
            "string" => but_not(declaration, json!({ "allOf": [secret, limited] })),
            _ => but_not(declaration, secret),
        }
    };
    let mut all: Vec<Value> = keys::PARAMETER_TYPES
        .iter()
        .map(|kind| declaration(kind))
        .collect();
    all.push(value(None));
    json!({
        "type": "object",
        "propertyNames": { "pattern": PARAMETER_NAME },
        "additionalProperties": { "anyOf": all },
        "description": "Declared here, or set for a parent.",
    })
}

fn packages() -> Value {
    let list = |pattern: &str, about: &str| {
        let mut item = object(
            &keys::PACKAGE,
            &["name"],
            "A package under a condition.",
            |key| match key {
                "name" => json!({}),
                "when" => when(),
                other => unknown(other),
            },
        );
        item["properties"]["name"] = matching(pattern, "Its name.");
        let name = json!({ "type": "string", "pattern": pattern });
        list_of(json!({ "anyOf": [name, item] }), about)
    };
    let managers: Map<String, Value> = keys::MANAGERS
        .iter()
        .map(|key| {
            let pattern = match *key {
                "apt" => DEBIAN_PACKAGE,
                _ => RPM_PACKAGE,
            };
            let list = list(pattern, "Packages for this package manager.");
            ((*key).to_owned(), list)
        })
        .collect();
    json!({
        "description": "Packages to install, before files and steps.",
        "anyOf": [
            list(DEBIAN_PACKAGE, "Packages for apt."),
            { "type": "object", "properties": managers, "additionalProperties": false },
        ],
    })
}

fn when() -> Value {
    let about = "A condition over parameters, without braces, such as: with_docker and port > 1024";
    but_not(line(about), json!({ "pattern": BRACES }))
}

/// The schema of a worker with this adapter.
fn adapted(adapter: &str, mut worker: Value) -> Value {
    let about = "How the agent talks to the CI worker.";
    worker["properties"]["adapter"] = json!({ "const": adapter, "description": about });
    worker
}

fn file(key: &str) -> Value {
    match key {
        "path" => json!({
            "type": "string", "pattern": DESTINATION, "maxLength": 4095,
            "description": "Absolute path on the machine.",
        }),
        "source" => beside("A file beside the recipe, byte for byte."),
        "template" => beside("A tera template beside the recipe."),
        "content" => text_of("The text itself; rendered."),
        "tree" => beside("A directory beside the recipe, with all that is in it."),
        "owner" => matching(USER, "A user name; root if nothing is said."),
        "group" => matching(USER, "A group name; root if nothing is said."),
        "mode" => matching(
            "^[0-7]{3,4}$",
            "Octal, in quotes; \"0644\" if nothing is said.",
        ),
        "when" => when(),
        other => unknown(other),
    }
}

fn steps(about: &str) -> Value {
    let step = object(&keys::STEP, &["name"], "A script.", |key| match key {
        "name" => line("What it does, in a few words."),
        "run" => matching(FILLED, "The script; {{ value }} is one word of the shell."),
        "script" => beside("A script beside the recipe, byte for byte."),
        "template" => beside("A tera template of a script beside the recipe."),
        "env" => json!({
            "type": "object", "additionalProperties": { "type": "string" },
            "propertyNames": { "pattern": ENVIRONMENT_NAME, "not": { "pattern": "^PIAAS_" } },
            "description": "Environment; rendered as plain text.",
        }),
        "timeout" => duration("10m if nothing is said."),
        "retries" => json!({ "type": "integer", "minimum": 0, "maximum": 10 }),
        "reboot" => json!({ "type": "boolean", "description": "Reboot after it." }),
        "when" => when(),
        other => unknown(other),
    });
    list_of(one_of(step, &keys::STEP_CHOICES), about)
}

fn worker(key: &str) -> Value {
    match key {
        "adapter" => choice(&keys::ADAPTERS, "How the agent talks to the CI worker."),
        "unit" => json!({
            "type": "string", "maxLength": 255,
            "pattern": r"^[A-Za-z0-9:_.\\@-]*[A-Za-z0-9:_.\\-]\.service$",
            "description": "The unit of the worker.",
        }),
        "report" => but_not(
            matching("^/run/", "Where the worker reports."),
            json!({ "pattern": r"(^|/)\.\.(/|$)" }),
        ),
        "status" => matching(
            FILLED,
            "Ends with 0 when no job runs, with 1 when jobs run.",
        ),
        "stop" => matching(FILLED, "Makes the CI agent take no more jobs."),
        "stopped" => matching(FILLED, "Ends with 0 when it takes no more jobs."),
        "start" => matching(FILLED, "Makes it take jobs again."),
        "timeout" => duration("For each command; 10s if nothing is said."),
        other => unknown(other),
    }
}

fn image(key: &str) -> Value {
    match key {
        "size" => matching(SIZE, "8GiB if nothing is said."),
        "filesystem" => choice(&keys::FILESYSTEMS, "Of the root volume."),
        "architecture" => choice(&keys::ARCHITECTURES, "Of the machine."),
        "boot_mode" => choice(&keys::BOOT_MODES, "Of the image."),
        other => unknown(other),
    }
}

fn build(key: &str) -> Value {
    match key {
        "instance_type" => matching(r"^\S*\.\S*$", "t3.medium if nothing is said."),
        "subnet" => or_null(matching("^subnet-", "The default one if nothing is said.")),
        "security_groups" => list_of(matching("^sg-", "An id."), "A new one if nothing is said."),
        "instance_profile" => or_null(matching(FILLED, "For the SSM agent.")),
        "timeout" => duration("Of the whole bake; 1h if nothing is said."),
        "max_age" => age("When a rebake is due; 14d if nothing is said."),
        other => unknown(other),
    }
}

fn after(key: &str) -> Value {
    match key {
        "warmup" => duration("How long a new instance runs before it counts."),
        "max_healthy" => json!({
            "type": "integer", "minimum": 101, "maximum": 200,
            "description": "Instances that may exist at a time, in percent.",
        }),
        "canary_checks" => list_of(
            but_not(
                matching(FILLED, "A shell command."),
                json!({ "pattern": r"\{\{" }),
            ),
            "Must succeed on new instances.",
        ),
        "checkpoints" => distinct(
            json!({ "type": "integer", "minimum": 1, "maximum": 100 }),
            "Percentages at which to pause, ascending.",
        ),
        "checkpoint_delay" => duration("How long to pause."),
        "keep" => json!({
            "type": "integer", "minimum": 1, "maximum": 1000,
            "description": "How many of the newest images stay.",
        }),
        "max_age" => age("Images that are younger stay."),
        "regions" => distinct(
            matching(REGION, "Such as eu-west-1."),
            "Regions to copy to.",
        ),
        "accounts" => distinct(
            matching("^[0-9]{12}$", "12 digits."),
            "Accounts to share with.",
        ),
        other => unknown(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `UPDATE_EXPECTED=1 cargo test schema` writes it anew.
    #[test]
    fn the_schema_beside_the_recipes_is_that_of_the_reader() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/recipes/recipe.schema.json");
        if std::env::var_os("UPDATE_EXPECTED").is_some() {
            std::fs::write(file, text()).unwrap();
        }
        assert!(
            std::fs::read_to_string(file).unwrap_or_default() == text(),
            "{file} is stale: piaas-bake schema >recipes/recipe.schema.json"
        );
    }
}
