//! The JSON Schema beside the reader: of recipes that are changed in each place, both say the same.

use regex::Regex;
use serde_json::{Value, json};

use super::super::node::Document;
use super::super::{Diagnostic, Diagnostics, raw, schema};
use super::{Kitchen, cases};

const CASES: &str = include_str!("../../digest/tests/vectors.txt");

/// What else a recipe may have, for a few keys that no other one here has.
const MORE: &str = r#"parameters:
  n: { type: integer, default: 3, enum: [3, 4], description: A number. }
  b: { type: boolean, default: true }
  l: { type: list, default: [x], enum: [x, y], pattern: '.+' }
  t: { type: string, default: x, enum: [x], secret: false }
packages: { apt: [git, { name: jq, when: b }], dnf: [gcc-c++] }
files:
  - { path: /opt/x, url: "https://example.com/x", sha256: 0b0000000000000000000000000000000000000000000000000000000000000a, mode: "0755", owner: ci }
  - { path: /opt/y, url: "{{ t }}/y", sha256: "{{ t }}" }
  - { path: /opt/z, url: http://example.com/z }
validate:
  - { name: x, template: t, timeout: 1h30m, retries: 2, reboot: false, env: { A: x } }
build: { subnet: null, security_groups: [sg-1], instance_profile: p, instance_type: [t3.large, t3a.large], timeout: 2h, max_age: 7d }
image: { size: 16384GiB, filesystem: ext4, architecture: arm64, boot_mode: uefi }
roll: { warmup: 1m, max_healthy: 150, canary_checks: [x], checkpoints: [25, 50], checkpoint_delay: 5m }
retention: { keep: 3, max_age: 90d }
distribution: { regions: [eu-west-1], accounts: ["123456789012"] }
labels: { team: infra, Owner: A b }
seal:
  - { path: /srv/..a/.b/c*?, action: gone, reason: x }
  - { path: /srv/x, action: empty }
  - { path: /var/lib/mysql/auto.cnf, action: keep, reason: x }
"#;

/// What the reader alone can say: a part of its message, and why no schema says it.
const BEYOND: [(&str, &str); 9] = [
    ("is listed twice", "items are compared by a part of them"),
    ("is installed twice", "items are compared by a part of them"),
    (
        "the recipe is named",
        "the name of the directory is beside the file",
    ),
    ("does not exist", "files are beside the recipe"),
    ("is not in the enum", "two values are compared"),
    ("does not match the pattern", "two values are compared"),
    ("checkpoints must ascend", "an order"),
    ("leads outside the recipe", "files are beside the recipe"),
    ("is not a regular expression", "every program has its own"),
];

/// Whether `value` is valid by a schema that has the keywords of ours.
fn valid(schema: &Value, value: &Value) -> bool {
    let all = |schemas: &Value| -> Vec<bool> {
        let schemas = schemas.as_array().unwrap().iter();
        schemas.map(|schema| valid(schema, value)).collect()
    };
    let text = |matches: &dyn Fn(&str) -> bool| value.as_str().is_none_or(matches);
    let number = |matches: &dyn Fn(i64) -> bool| value.as_i64().is_none_or(matches);
    let list =
        |matches: &dyn Fn(&[Value]) -> bool| value.as_array().is_none_or(|list| matches(list));
    let map = |matches: &dyn Fn(&serde_json::Map<String, Value>) -> bool| {
        value.as_object().is_none_or(matches)
    };
    let size = |of: &Value| usize::try_from(of.as_u64().unwrap()).unwrap();
    schema
        .as_object()
        .unwrap()
        .iter()
        .all(|(keyword, of)| match keyword.as_str() {
            "$schema" | "title" | "description" => true,
            "type" => {
                let is = |name: &Value| match name.as_str().unwrap() {
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    "string" => value.is_string(),
                    "integer" => value.is_i64() || value.is_u64(),
                    "boolean" => value.is_boolean(),
                    "null" => value.is_null(),
                    other => panic!("unknown type {other}"),
                };
                of.as_array()
                    .map_or_else(|| is(of), |types| types.iter().any(is))
            }
            "const" => value == of,
            "enum" => of.as_array().unwrap().contains(value),
            "pattern" => text(&|text| matches(of.as_str().unwrap(), text)),
            "minLength" => text(&|text| text.chars().count() >= size(of)),
            "maxLength" => text(&|text| text.chars().count() <= size(of)),
            "minimum" => number(&|number| number >= of.as_i64().unwrap()),
            "maximum" => number(&|number| number <= of.as_i64().unwrap()),
            "items" => list(&|items| items.iter().all(|item| valid(of, item))),
            "minItems" => list(&|items| items.len() >= size(of)),
            "uniqueItems" => {
                list(&|items| (1..items.len()).all(|n| !items[..n].contains(&items[n])))
            }
            "minProperties" => map(&|map| map.len() >= size(of)),
            "maxProperties" => map(&|map| map.len() <= size(of)),
            "properties" => map(&|map| {
                let known = of.as_object().unwrap().iter();
                known
                    .clone()
                    .all(|(key, schema)| map.get(key).is_none_or(|value| valid(schema, value)))
            }),
            "additionalProperties" => map(&|map| {
                let known = |key: &str| {
                    schema
                        .get("properties")
                        .is_some_and(|known| known.get(key).is_some())
                };
                let mut more = map.iter().filter(|(key, _)| !known(key));
                more.all(|(_, value)| of != &json!(false) && valid(of, value))
            }),
            "propertyNames" => map(&|map| map.keys().all(|key| valid(of, &json!(key)))),
            "required" => map(&|map| {
                of.as_array()
                    .unwrap()
                    .iter()
                    .all(|key| map.contains_key(key.as_str().unwrap()))
            }),
            "dependencies" => map(&|map| {
                let mut of = of
                    .as_object()
                    .unwrap()
                    .iter()
                    .filter(|(key, _)| map.contains_key(*key));
                of.all(|(_, needed)| valid(&json!({ "required": needed }), value))
            }),
            "anyOf" => all(of).contains(&true),
            "oneOf" => all(of).iter().filter(|one| **one).count() == 1,
            "allOf" => !all(of).contains(&false),
            "not" => !valid(of, value),
            other => panic!("the test does not know the keyword {other}"),
        })
}

fn matches(pattern: &str, text: &str) -> bool {
    thread_local! {
        static KNOWN: std::cell::RefCell<std::collections::HashMap<String, Regex>> = std::cell::RefCell::default();
    }
    KNOWN.with_borrow_mut(|known| {
        let regex = known
            .entry(pattern.to_owned())
            .or_insert_with(|| Regex::new(pattern).unwrap());
        regex.is_match(text)
    })
}

/// The paths to all values in `value`.
fn places(value: &Value, at: &str, places: &mut Vec<String>) {
    places.push(at.to_owned());
    let children: Vec<(String, &Value)> = match value {
        Value::Array(items) => items
            .iter()
            .enumerate()
            .map(|(n, item)| (n.to_string(), item))
            .collect(),
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| (key.clone(), value))
            .collect(),
        _ => Vec::new(),
    };
    for (key, child) in children {
        let key = key.replace('~', "~0").replace('/', "~1");
        self::places(child, &format!("{at}/{key}"), places);
    }
}

/// A recipe changed in one place, in every place and way.
fn mutants(recipe: &Value) -> Vec<Value> {
    let mut all = Vec::new();
    places(recipe, "", &mut all);
    let mut mutants = Vec::new();
    for at in all {
        let mut put = |change: &dyn Fn(&mut Value)| {
            let mut mutant = recipe.clone();
            change(mutant.pointer_mut(&at).unwrap());
            if mutant != *recipe {
                mutants.push(mutant);
            }
        };
        for other in [
            json!(null),
            json!(true),
            json!(7),
            json!(0),
            json!(-1),
            json!(1.5),
            json!("word"),
            json!(""),
            json!(" "),
            json!("7"),
            json!("0s"),
            json!("a\nb"),
            json!("{{ x }}"),
            json!("/"),
            json!("/a/../b"),
            json!([]),
            json!({}),
            json!([""]),
            json!(["word", "word"]),
            json!([7]),
            json!({ "word": "word" }),
            json!([{}]),
        ] {
            put(&|node| *node = other.clone());
        }
        put(&|node| match node {
            Value::Object(map) => drop(map.insert("wrod".into(), json!("x"))),
            Value::Array(items) => items.extend(items.first().cloned()),
            _ => {}
        });
        // Keys that stand elsewhere, or beside others.
        for (key, value) in [
            ("run", json!("x")),
            ("script", json!("s")),
            ("content", json!("x")),
            ("tree", json!("t")),
            ("mode", json!("0644")),
            ("url", json!("https://example.com/x")),
            ("sha256", json!("0".repeat(64))),
            ("version", json!("^1")),
            ("ami", json!("ami-0123456789abcdef0")),
            ("recipe", json!("b")),
            ("enum", json!(["x"])),
            ("pattern", json!(".*")),
            ("secret", json!(true)),
            ("unit", json!("x.service")),
            ("when", json!("x")),
            ("filters", json!({ "name": ["x"] })),
            ("PIAAS_X", json!("x")),
            ("aws:x", json!("x")),
        ] {
            put(&|node| {
                if let Value::Object(map) = node {
                    map.entry(key).or_insert_with(|| value.clone());
                }
            });
        }
        if let Some((parent, key)) = at.rsplit_once('/') {
            let mut mutant = recipe.clone();
            match mutant.pointer_mut(parent).unwrap() {
                Value::Array(items) => drop(items.remove(key.parse().unwrap())),
                Value::Object(map) => drop(map.remove(&key.replace("~1", "/").replace("~0", "~"))),
                _ => unreachable!("it has a child"),
            }
            mutants.push(mutant);
        }
    }
    mutants
}

#[test]
fn the_schema_and_the_reader_say_the_same() {
    let schema = schema::schema();
    let shipped = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/recipes"));
    let mut kitchens = Vec::new();
    for case in cases::read(CASES) {
        let kitchen = Kitchen::new();
        case.write(kitchen.dir());
        kitchens.push(kitchen);
    }
    let more = Kitchen::new();
    more.recipe("a", MORE).put("a/t", "x");
    kitchens.push(more);
    let dirs = std::iter::once(shipped).chain(kitchens.iter().map(Kitchen::dir));
    let (mut count, mut refused, mut wrong) = (0, 0, Vec::new());
    let mut met = [false; BEYOND.len()];
    for dir in dirs {
        for name in super::super::names(dir).unwrap() {
            let home = dir.join(&name);
            let text = std::fs::read_to_string(home.join("recipe.yaml")).unwrap();
            let recipe: Value = serde_yaml::from_str(&text).unwrap();
            let read = |recipe: &Value| {
                let document =
                    Document::parse(&home.join("recipe.yaml"), recipe.to_string()).unwrap();
                let mut found = Diagnostics::default();
                raw::read(&document, &home, &mut found);
                found.0
            };
            assert!(
                read(&recipe).is_empty() && valid(&schema, &recipe),
                "{text}"
            );
            for mutant in mutants(&recipe) {
                count += 1;
                let found = read(&mutant);
                refused += usize::from(!found.is_empty());
                let by_schema = !valid(&schema, &mutant);
                let more_is_wrong = |one: &Diagnostic| {
                    let kind = BEYOND
                        .iter()
                        .position(|(kind, _)| one.message.contains(kind));
                    kind.map(|kind| met[kind] = true).is_none()
                };
                let differ = if by_schema {
                    found.is_empty()
                } else {
                    found.iter().any(more_is_wrong)
                };
                if differ {
                    let said: Vec<String> = found.iter().map(|one| one.message.clone()).collect();
                    wrong.push(format!(
                        "refused by the schema: {by_schema}, by the reader: {said:?}\n{mutant}\n"
                    ));
                }
            }
        }
    }
    println!("{count} mutants, {refused} refused");
    wrong.sort_by_key(String::len);
    assert!(
        wrong.is_empty(),
        "{} differ:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(20)].join("\n")
    );
    let unmet: Vec<_> = BEYOND.iter().zip(met).filter(|(_, met)| !met).collect();
    assert!(unmet.is_empty(), "no mutant is refused for that: {unmet:?}");
}
