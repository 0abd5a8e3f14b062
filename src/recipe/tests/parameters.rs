//! Parameters that know what they may be, and where their values come from; labels.

use super::super::model::{Origin, Value};
use super::super::*;
use super::{Kitchen, refused};

const PORT: &str = "parameters:\n  port: { type: integer, default: 80, enum: [80, 443] }\n  name: { type: string, pattern: '[a-z]+', description: Its name. }\n  users: { type: list, default: [a], pattern: '[a-z]', enum: [a, b] }\nsteps:\n  - { name: x, run: \"echo {{ port }} {{ name }} {{ users }}\" }\n";

fn sets(sets: &[(&str, &str)]) -> Given {
    Given {
        sets: sets
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        ..Given::default()
    }
}

#[test]
fn declarations_are_checked() {
    refused(
        "parameters: { x: { type: integer, default: 8, enum: [80, 443] } }\n",
        &[
            "6:44",
            "`8` is not in the enum of the parameter `x`",
            "did you mean `80`?",
        ],
    );
    refused(
        "parameters: { x: { type: string, default: ab1, pattern: '[a-z]+' } }\n",
        &[
            "6:43",
            "`ab1` does not match the pattern of the parameter `x`",
            "the whole of it must match `[a-z]+`, see ",
            "a/recipe.yaml:6",
        ],
    );
    refused(
        "parameters: { x: { type: string, pattern: 'a)(b' } }\n",
        &["6:43", "`a)(b` is not a regular expression: unopened group"],
    );
    refused(
        "parameters: { x: { type: string, pattern: '(?=a)' } }\n",
        &["look-around"],
    );
    refused(
        "parameters: { x: { type: string, pattern: '(\\w{500}){500}' } }\n",
        &["it is too large"],
    );
    refused(
        "parameters: { x: { type: integer, pattern: '8+' } }\n",
        &["a parameter of type integer has no `pattern`"],
    );
    refused(
        "parameters: { x: { type: boolean, enum: [true] } }\n",
        &["a boolean has no `enum`"],
    );
    refused(
        "parameters: { x: { type: string, enum: [] } }\n",
        &["an enum without values allows nothing"],
    );
    refused(
        "parameters: { x: { type: string, enum: [a, 1, a] } }\n",
        &["6:44", "must be of type string", "`a` is listed twice"],
    );
}

#[test]
fn every_way_to_set_a_value_is_checked() {
    let kitchen = Kitchen::new();
    kitchen.recipe("a", PORT);
    let good = [("port", "443"), ("name", "web")];
    let resolved = load(kitchen.dir(), "a", &sets(&good)).unwrap();
    assert_eq!(resolved.parameters["port"], Value::Integer(443));
    assert_eq!(resolved.about["port"].origin, Origin::CommandLine);
    assert!(
        matches!(&resolved.about["users"].origin, Origin::Default(at) if (at.line, at.column) == (9, 33))
    );
    assert_eq!(
        resolved.about["name"].description.as_deref(),
        Some("Its name.")
    );

    let bad = [("port", "8080"), ("name", "web\n"), ("users", "a,c")];
    let found = load(kitchen.dir(), "a", &sets(&bad))
        .unwrap_err()
        .to_string();
    for text in [
        "--set port: `8080` is not in the enum of the parameter `port`",
        "--set name: `web\n` does not match the pattern",
        "--set users: `c` is not in the enum of the parameter `users`",
    ] {
        assert!(found.contains(text), "{text}: {found}");
    }

    kitchen.on(
        "b",
        "{ recipe: a }",
        "parameters: { port: 81, name: B }\nlabels: { team: ci }\n",
    );
    let found = load(kitchen.dir(), "b", &Given::default())
        .unwrap_err()
        .to_string();
    for text in [
        "b/recipe.yaml:6:21",
        "`81` is not in the enum",
        "b/recipe.yaml:6:31",
        "`B` does not match",
    ] {
        assert!(found.contains(text), "{text}: {found}");
    }
}

#[test]
fn a_child_narrows_what_its_parent_allows_and_never_widens_it() {
    let kitchen = Kitchen::new();
    kitchen.recipe("a", PORT).on(
        "b",
        "{ recipe: a }",
        "parameters: { port: { type: integer, enum: [443, 8080], default: 443 }, name: web }\n",
    );
    assert!(load(kitchen.dir(), "b", &Given::default()).is_ok());
    for value in ["80", "8080"] {
        let found = load(kitchen.dir(), "b", &sets(&[("port", value)])).unwrap_err();
        assert!(found.to_string().contains("not in the enum"), "{found}");
    }
}

#[test]
fn values_files() {
    let kitchen = Kitchen::new();
    kitchen
        .recipe("a", PORT)
        .put("one.yaml", "# ours\nport: 443\nname: web\n")
        .put("two.yaml", "name: db\n")
        .put("bad.yaml", "prot: 1\nport: '443'\nname: 1.5\nusers: [z]\n")
        .put("list.yaml", "- port\n")
        .put("empty.yaml", "");
    let given = |files: &[&str], more: &[(&str, &str)]| Given {
        values: files.iter().map(|file| kitchen.dir().join(file)).collect(),
        ..sets(more)
    };
    let resolved = load(
        kitchen.dir(),
        "a",
        &given(&["one.yaml", "two.yaml"], &[("users", "b")]),
    )
    .unwrap();
    assert_eq!(resolved.parameters["name"], Value::String("db".into()));
    assert!(
        matches!(&resolved.about["port"].origin, Origin::Values(at) if at.file.ends_with("one.yaml") && at.line == 2)
    );
    assert_eq!(resolved.about["users"].origin, Origin::CommandLine);
    let found = load(kitchen.dir(), "a", &given(&["bad.yaml"], &[]))
        .unwrap_err()
        .to_string();
    for text in [
        "bad.yaml:1:1",
        "no recipe of the line declares the parameter `prot`",
        "did you mean `port`?",
        "bad.yaml:2:7",
        "`port` is a parameter of type integer, not string",
        "bad.yaml:3:7",
        "a parameter cannot be a number with a fraction",
        "bad.yaml:4:8",
    ] {
        assert!(found.contains(text), "{text}: {found}");
    }
    for (file, text) in [
        ("list.yaml", "expected a map, found a list"),
        ("empty.yaml", "write `key: value` lines into it"),
        ("none.yaml", "cannot read"),
    ] {
        let found = load(kitchen.dir(), "a", &given(&[file], &[])).unwrap_err();
        assert!(found.to_string().contains(text), "{found}");
    }
}

#[test]
fn a_lint_samples_what_the_enum_allows() {
    let kitchen = Kitchen::new();
    kitchen.recipe("a", "parameters:\n  x: { type: integer, enum: [7, 8] }\n  y: { type: list, enum: [q] }\nsteps:\n  - { name: x, run: \"echo {{ x }} {{ y }}\" }\n");
    let resolved = load_for_lint(kitchen.dir(), "a").unwrap();
    assert_eq!(resolved.parameters["x"], Value::Integer(7));
    assert_eq!(resolved.parameters["y"], Value::List(vec!["q".into()]));
    assert_eq!(resolved.about["x"].origin, Origin::Sample);
}

#[test]
fn labels_are_merged_and_the_child_wins() {
    let kitchen = Kitchen::new();
    kitchen
        .recipe("a", "labels: { team: ci, cost-center: \"42\" }\n")
        .on(
            "b",
            "{ recipe: a }",
            "labels: { team: build, 'os/name': '' }\n",
        );
    let resolved = load(kitchen.dir(), "b", &Given::default()).unwrap();
    let labels: Vec<_> = resolved
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    assert_eq!(labels, ["cost-center=42", "os/name=", "team=build"]);
    assert_eq!(resolved.line[0].labels.len(), 2);
    assert!(
        resolved.origins["labels.team"]
            .file
            .ends_with("b/recipe.yaml")
    );
    assert_eq!(resolved.origins["labels.cost-center"].column, 21);
}

#[test]
fn labels_are_what_aws_takes_as_tags() {
    refused("labels: [a]\n", &["6:9", "expected a map, found a list"]);
    refused(
        "labels: { a: 1 }\n",
        &["6:14", "expected text, found an integer"],
    );
    refused(
        "labels: { AWS:x: a, piaas-bake:run: a, Name: a }\n",
        &[
            "the label `AWS:x` is reserved",
            "belong to AWS",
            "the label `piaas-bake:run` is reserved",
            "the label `Name` is reserved",
        ],
    );
    refused(
        "labels: { a: \"{{ x }}\" }\n",
        &[
            "6:14",
            "is not the value of a label",
            "labels are not rendered",
        ],
    );
    refused(
        &format!(
            "labels: {{ {}: a, b: {} }}\n",
            "k".repeat(129),
            "v".repeat(257)
        ),
        &["is not the key of a label", "is not the value of a label"],
    );
    let many: String = (0..41).map(|n| format!("  k{n}: v\n")).collect();
    refused(&format!("labels:\n{many}"), &["41 labels; 40 fit"]);
}

#[test]
fn a_lint_renders_with_values_that_are_allowed() {
    let kitchen = Kitchen::new();
    kitchen
        .recipe(
            "a",
            "parameters:
  number: { type: string, pattern: '^[0-9]+$' }
  narrowed: { type: string, enum: [x, y, z] }
  items: { type: list, pattern: 'v\\d' }
  free: { type: string, pattern: '.+' }
steps:
  - { name: x, run: 'echo {{ number | int }} {{ narrowed }} {{ items }} {{ free }}' }
",
        )
        .on(
            "b",
            "{ recipe: a }",
            "parameters:\n  narrowed: { type: string, enum: [y, z] }\n",
        );
    let resolved = load_for_lint(kitchen.dir(), "b").unwrap();
    crate::render::render(&resolved, &[]).unwrap();
    let value = |name: &str| resolved.parameters[name].to_string();
    assert_eq!(
        ["number", "narrowed", "items", "free"].map(value),
        ["1", "y", "v1", "sample"]
    );
}
