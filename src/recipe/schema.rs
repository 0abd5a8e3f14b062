//! The JSON Schema of recipe files, for editors: made from the keys and the choices that the reader itself uses.
//!
//! It says what a file may look like. What depends on other files or on several places (names of parents, parameters
//! that nobody uses, templates) only a lint can say.

use serde_json::{Map, Value, json};

use super::raw::keys;

/// The name of the file beside the recipes.
pub const FILE: &str = "recipe.schema.json";

/// The first line of a recipe: where editors find the schema
/// (<https://github.com/redhat-developer/yaml-language-server>, "Using inlined schema").
pub const HEADER: &str = "# yaml-language-server: $schema=../recipe.schema.json";

const RECIPE_NAME: &str = "^[a-z][a-z0-9-]{0,63}$";
const DURATION: &str = "^([0-9]+h)?([0-9]+m)?([0-9]+s)?$";
const AGE: &str = "^[0-9]+[dh]$";
/// semver.org, "Is there a suggested regular expression".
const VERSION: &str =
    r"^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(?:-[0-9A-Za-z.-]+)?(?:\+[0-9A-Za-z.-]+)?$";

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

fn list_of(item: Value, about: &str) -> Value {
    json!({ "type": "array", "items": item, "description": about })
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
        "description" => json!({
            "type": "string", "minLength": 1, "maxLength": 200,
            "description": "What the image is for, in one line.",
        }),
        "labels" => json!({
            "type": "object",
            "additionalProperties": { "type": "string", "maxLength": 256 },
            "maxProperties": 40,
            "description": "Tags of the image and its snapshots.",
        }),
        "from" => {
            let about = "What it builds on: a recipe, or an image.";
            one_of(object(&keys::FROM, &[], about, from), &keys::FROM_CHOICES)
        }
        "parameters" => parameters(),
        "packages" => packages(),
        "files" => {
            let about = "A file or a directory to install.";
            let file = object(&keys::FILE, &["path"], about, file);
            let file = one_of(file, &keys::FILE_CHOICES);
            list_of(file, "What is installed, before the steps.")
        }
        "worker" => json!({
            "description": "The agent that tells busy from idle.",
            "oneOf": [
                object(&keys::BUILDBOT, &["adapter", "unit"], "A worker of Buildbot.", worker),
                object(
                    &keys::COMMAND,
                    &["adapter", "status", "stop", "stopped", "start"],
                    "Commands of your own.",
                    worker,
                ),
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
        "version" => text_of("A range of its versions, such as ^1."),
        "ssm" => matching(
            "^/[A-Za-z0-9/._-]+$",
            "An SSM parameter that holds an AMI id.",
        ),
        "ami" => matching("^ami-([0-9a-f]{8}|[0-9a-f]{17})$", "An AMI id."),
        "filter" => json!({ "type": "object", "description": "The newest image that matches." }),
        "imagebuilder" => matching("^arn:", "An EC2 Image Builder image ARN."),
        other => unknown(other),
    }
}

fn scalar() -> Value {
    json!({ "type": ["string", "integer", "boolean"] })
}

fn parameters() -> Value {
    let declaration = object(
        &keys::PARAMETER,
        &["type"],
        "A parameter of this recipe.",
        |key| match key {
            "type" => choice(&keys::PARAMETER_TYPES, "Its type."),
            "default" => json!({
                "description": "Its value if nobody gives another; without it one must be given.",
                "anyOf": [scalar(), { "type": "array", "items": { "type": "string" } }],
            }),
            "description" => text_of("What it is for, in one line."),
            "enum" => json!({
                "type": "array", "items": { "type": ["string", "integer"] }, "minItems": 1,
                "uniqueItems": true,
                "description": "The values that are allowed; of a list, its items.",
            }),
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
    json!({
        "type": "object",
        "propertyNames": { "pattern": "^[a-z][a-z0-9_]*$" },
        "additionalProperties": { "anyOf": [
            declaration,
            scalar(),
            { "type": "array", "items": { "type": "string" } },
        ] },
        "description": "Declared here, or set for a parent.",
    })
}

fn packages() -> Value {
    let item = json!({ "anyOf": [
        { "type": "string" },
        object(&keys::PACKAGE, &["name"], "A package under a condition.", |key| match key {
            "name" => text_of("Its name."),
            "when" => when(),
            other => unknown(other),
        }),
    ] });
    let list = |about: &str| list_of(item.clone(), about);
    let managers: Map<String, Value> = keys::MANAGERS
        .iter()
        .map(|key| {
            (
                (*key).to_owned(),
                list("Packages for this package manager."),
            )
        })
        .collect();
    json!({
        "description": "Packages to install, before files and steps.",
        "anyOf": [
            list("Packages for apt."),
            { "type": "object", "properties": managers, "additionalProperties": false },
        ],
    })
}

fn when() -> Value {
    json!({
        "type": "string", "minLength": 1,
        "description": "A condition over parameters, without braces, such as: with_docker and port > 1024",
    })
}

fn file(key: &str) -> Value {
    match key {
        "path" => matching("^/.*[^/]$", "Absolute path on the machine."),
        "source" => text_of("A file beside the recipe, byte for byte."),
        "template" => text_of("A tera template beside the recipe."),
        "content" => text_of("The text itself; rendered."),
        "tree" => text_of("A directory beside the recipe, with all that is in it."),
        "owner" => text_of("A user name; root if nothing is said."),
        "group" => text_of("A group name; root if nothing is said."),
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
        "name" => json!({
            "type": "string", "minLength": 1, "maxLength": 200,
            "description": "What it does, in a few words.",
        }),
        "run" => text_of("The script; {{ value }} is one word of the shell."),
        "script" => text_of("A script beside the recipe, byte for byte."),
        "template" => text_of("A tera template of a script beside the recipe."),
        "env" => json!({
            "type": "object", "additionalProperties": { "type": "string" },
            "description": "Environment; rendered as plain text.",
        }),
        "timeout" => matching(DURATION, "10m if nothing is said."),
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
        "unit" => matching("\\.service$", "The unit of the worker."),
        "report" => matching("^/run/", "Where the worker reports."),
        "status" => text_of("Ends with 0 when no job runs, with 1 when jobs run."),
        "stop" => text_of("Makes the CI agent take no more jobs."),
        "stopped" => text_of("Ends with 0 when it takes no more jobs."),
        "start" => text_of("Makes it take jobs again."),
        "timeout" => matching(DURATION, "For each command; 10s if nothing is said."),
        other => unknown(other),
    }
}

fn image(key: &str) -> Value {
    match key {
        "size" => matching("^[1-9][0-9]*GiB$", "8GiB if nothing is said."),
        "filesystem" => choice(&keys::FILESYSTEMS, "Of the root volume."),
        "architecture" => choice(&keys::ARCHITECTURES, "Of the machine."),
        "boot_mode" => choice(&keys::BOOT_MODES, "Of the image."),
        other => unknown(other),
    }
}

fn build(key: &str) -> Value {
    match key {
        "instance_type" => text_of("t3.medium if nothing is said."),
        "subnet" => or_null(matching("^subnet-", "The default one if nothing is said.")),
        "security_groups" => list_of(matching("^sg-", "An id."), "A new one if nothing is said."),
        "instance_profile" => or_null(text_of("For the SSM agent.")),
        "timeout" => matching(DURATION, "Of the whole bake; 1h if nothing is said."),
        "max_age" => matching(AGE, "When a rebake is due; 14d if nothing is said."),
        other => unknown(other),
    }
}

fn after(key: &str) -> Value {
    match key {
        "warmup" => matching(DURATION, "How long a new instance runs before it counts."),
        "max_healthy" => json!({
            "type": "integer", "minimum": 101, "maximum": 200,
            "description": "Instances that may exist at a time, in percent.",
        }),
        "canary_checks" => list_of(
            text_of("A shell command."),
            "Must succeed on new instances.",
        ),
        "checkpoints" => list_of(
            json!({ "type": "integer", "minimum": 1, "maximum": 100 }),
            "Percentages at which to pause, ascending.",
        ),
        "checkpoint_delay" => matching(DURATION, "How long to pause."),
        "keep" => json!({
            "type": "integer", "minimum": 1, "maximum": 1000,
            "description": "How many of the newest images stay.",
        }),
        "max_age" => matching(AGE, "Images that are younger stay."),
        "regions" => list_of(text_of("Such as eu-west-1."), "Regions to copy to."),
        "accounts" => list_of(
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
