//! Conditions: what is left out, and what is wrong with one.

use super::*;
use crate::digest;

fn with(rest: &str) -> Kitchen {
    let kitchen = Kitchen::new();
    let parameters = "parameters:\n  docker: { type: boolean, default: false }\n  port: { type: integer, default: 80 }\n  name: { type: string, default: web }\n";
    kitchen.recipe("a", &format!("{parameters}{rest}"));
    kitchen
}

const USED: &str = "test: [{ name: x, run: \"echo {{ docker }} {{ port }} {{ name }}\" }]\n";

fn rendered(kitchen: &Kitchen) -> Layer {
    let resolved = recipe::load(kitchen.dir(), "a", &recipe::Given::default()).unwrap();
    render(&resolved, b"agent")
        .unwrap_or_else(|found| panic!("{found}"))
        .remove(0)
}

#[test]
fn what_a_condition_rules_out_is_as_if_it_were_not_there() {
    let with_all = with(&format!(
        "packages: [git, {{ name: docker.io, when: docker }}]\nfiles:\n  - {{ path: /a, content: a, when: docker or port != 80 }}\n  - {{ path: /b, content: b, when: not docker }}\nsteps:\n  - {{ name: One, run: one, when: docker }}\n  - {{ name: Two, run: two, when: port > 79 and name == \"web\" }}\nvalidate: [{{ name: No, run: x, when: docker }}]\n{USED}"
    ));
    let without = with(&format!(
        "packages: [git]\nfiles:\n  - {{ path: /b, content: b }}\nsteps:\n  - {{ name: Two, run: two }}\n{USED}"
    ));
    let (a, b) = (rendered(&with_all), rendered(&without));
    let ids: Vec<_> = a
        .provision
        .iter()
        .map(|script| script.id.as_str())
        .collect();
    assert_eq!(
        ids,
        ["a/step-001-packages", "a/step-002-files", "a/step-003-two"]
    );
    assert_eq!(a.provision, b.provision);
    assert_eq!(a.payloads, b.payloads);
    assert!(a.validate.is_empty());
    let digest = |kitchen: &Kitchen, layer: Layer| {
        let resolved = recipe::load(kitchen.dir(), "a", &recipe::Given::default()).unwrap();
        digest::chain(&resolved, &[layer]).remove(0).1
    };
    assert_eq!(digest(&with_all, a), digest(&without, b));
}

#[track_caller]
fn refused(when: &str, expected: &[&str]) {
    let kitchen = with(&format!(
        "steps:\n  - {{ name: x, run: \"true\", when: {when} }}\n{USED}"
    ));
    let found = recipe::load(kitchen.dir(), "a", &recipe::Given::default())
        .and_then(|resolved| render(&resolved, b"agent"))
        .unwrap_err()
        .to_string();
    for text in expected {
        assert!(found.contains(text), "expected `{text}` in:\n{found}");
    }
}

#[test]
fn a_condition_that_cannot_be_judged_has_its_place() {
    refused(
        "dokcer",
        &[
            "recipe.yaml:11:35",
            "`dokcer` is not defined",
            "did you mean `docker`?",
        ],
    );
    refused(
        "port > 1 and dokcer",
        &["recipe.yaml:11:48", "`dokcer` is not defined"],
    );
    refused("port", &["a condition must be true or false, this is 80"]);
    refused("name", &["a condition must be true or false, this is web"]);
    refused(
        "port >",
        &[
            "recipe.yaml:11:",
            "= help: see https://keats.github.io/tera",
        ],
    );
    refused("docker) or (docker", &["recipe.yaml:11:"]);
    refused("port | uper", &["unknown filter `uper`"]);
    refused(
        "\"{{ docker }}\"",
        &["recipe.yaml:11:35", "a condition stands without braces"],
    );
    refused("true", &["expected a condition, found a boolean"]);
    refused("~", &["expected a condition, found nothing"]);
    refused("''", &["`` is not a condition"]);
}

#[test]
fn what_is_left_out_is_checked_all_the_same() {
    let kitchen = with(&format!(
        "files: [{{ path: /x, content: \"{{{{ nope }}}}\", when: docker }}]\nsteps:\n  - {{ name: x, run: \"echo \\\"{{{{ name }}}}\\\"\", when: docker, env: {{ A: \"{{{{ no }}}}\" }} }}\n{USED}"
    ));
    let resolved = recipe::load(kitchen.dir(), "a", &recipe::Given::default()).unwrap();
    let found = render(&resolved, b"agent").unwrap_err().to_string();
    for text in [
        "`nope` is not defined",
        "inside quotes",
        "`no` is not defined",
    ] {
        assert!(found.contains(text), "{found}");
    }
}

#[test]
fn alternatives_are_no_duplicates() {
    const BOTH: &str = "parameters: { d: { type: boolean, default: true } }
packages: [{ name: git, when: d }, { name: git, when: not d }]
files:
  - { path: /etc/x, content: one, when: d }
  - { path: /etc/x, content: other, when: not d }
  - { path: /etc/t, tree: files, when: d }
  - { path: /etc/t/motd, content: own, when: not d }
";
    let kitchen = Kitchen::new();
    kitchen.put("a/files/motd", "x").recipe("a", BOTH);
    let rendered = |d: &str| {
        let given = recipe::Given {
            sets: vec![("d".into(), d.into())],
            ..recipe::Given::default()
        };
        render(&recipe::load(kitchen.dir(), "a", &given)?, b"agent")
    };
    for (d, content) in [("true", "one"), ("false", "other")] {
        let layer = rendered(d).unwrap().remove(0);
        assert_eq!(layer.packages, ["git"]);
        let paths: Vec<_> = layer.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["/etc/x", "/etc/t/motd"]);
        assert_eq!(layer.payloads[&layer.files[0].sha256], content);
    }
    kitchen.recipe("a", &BOTH.replace("not d", "d or not d"));
    assert!(rendered("false").is_ok());
    let said = rendered("true").unwrap_err().to_string();
    for complaint in [
        "`git` is listed twice",
        "`/etc/x` is installed twice",
        "`/etc/t/motd` is installed twice",
        "a/recipe.yaml:7:36",
        "a/recipe.yaml:10:5",
    ] {
        assert!(said.contains(complaint), "{complaint} is not in: {said}");
    }
}
