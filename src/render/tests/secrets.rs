//! Secrets: what scripts get, where they may be named, and what is never said.

use super::*;
use crate::digest;
use crate::recipe::secret;
use script::{SEAL, SEALED_PATHS, SEALED_SECRETS};

const HEAD: &str = "build: { instance_profile: builder }\nparameters:\n  token: { type: string, secret: true, default: \"ssm:/ci/token\" }\n  other: { type: string, secret: true, default: \"env:OTHER\" }\n";

fn rendered(rest: &str) -> Result<(recipe::model::Resolved, Vec<Layer>), String> {
    let kitchen = Kitchen::new();
    kitchen.recipe("a", rest);
    recipe::load(kitchen.dir(), "a", &recipe::Given::default())
        .and_then(|resolved| {
            let layers = render(&resolved, b"agent")?;
            Ok((resolved, layers))
        })
        .map_err(|found| found.to_string())
}

const STEPS: &str = "steps:\n  - { name: No, run: \"true\" }\n  - { name: One, run: \"login <{{ token }}\", reboot: true }\n  - { name: Two, run: \"login\", env: { A: \"{{ token }}\", B: \"{{ other }}\" } }\nvalidate:\n  - { name: Three, run: \"test -r {{ other }}\" }\n";

#[test]
fn a_script_gets_the_path_of_a_file_that_a_script_before_it_fetches() {
    let (resolved, mut layers) = rendered(&format!("{HEAD}{STEPS}")).unwrap();
    let layer = layers.remove(0);
    let ids = |scripts: &[Script]| -> Vec<String> {
        scripts.iter().map(|script| script.id.clone()).collect()
    };
    assert_eq!(
        ids(&layer.provision),
        [
            "a/step-001-no",
            "a/secrets-step-002-one",
            "a/step-002-one",
            "a/secrets-step-003-two",
            "a/step-003-two"
        ]
    );
    assert_eq!(
        ids(&layer.validate),
        ["a/secrets-validate-001-three", "a/validate-001-three"]
    );
    assert_eq!(
        layer.provision[2].text,
        "login <'/run/piaas-bake-secrets/token'"
    );
    let fetch = &layer.provision[3];
    assert_eq!(fetch.title, "Fetch 2 secrets");
    assert!(fetch.text.ends_with(
        "\"$agent\" secret --output '/run/piaas-bake-secrets/other' 'env:OTHER'\n\
         \"$agent\" secret --output '/run/piaas-bake-secrets/token' 'ssm:/ci/token'\n"
    ));
    assert!(!layer.provision[1].text.contains("env:OTHER"));
    assert!(
        layer
            .payloads
            .values()
            .any(|bytes| bytes.as_ref() == b"agent")
    );
    assert!(resolved.needs_agent());
    assert_pleases_shellcheck(&fetch.text);

    let (manifest, _) = digest::chain(&resolved, &[layer]).remove(0);
    assert_eq!(manifest.secrets["token"], "ssm:/ci/token");
    let (resolved, layers) =
        rendered(&format!("{HEAD}{STEPS}").replace("ssm:/ci/token", "ssm:/ci/new")).unwrap();
    let (moved, _) = digest::chain(&resolved, &layers).remove(0);
    let words = digest::explain(&manifest, &moved);
    assert!(
        words.contains(&"secret token comes from ssm:/ci/new, not from ssm:/ci/token".to_owned()),
        "{words:?}"
    );
}

#[test]
fn the_seal_finds_and_removes_secrets_that_are_left() {
    let dir = tempfile::tempdir().unwrap();
    let left = dir.path().join(format!("root{}/token", secret::DIR));
    fs::create_dir_all(left.parent().unwrap()).unwrap();
    fs::write(&left, "x").unwrap();
    fs::write(dir.path().join("seal.sh"), SEAL).unwrap();
    let list = format!("{SEALED_PATHS}{SEALED_SECRETS}");
    fs::write(dir.path().join("sealed-paths"), list).unwrap();
    fs::write(dir.path().join("source-date"), "0\n").unwrap();
    let seal = |verb: &str| {
        Command::new("/bin/sh")
            .arg(dir.path().join("seal.sh"))
            .arg(verb)
            .env("PIAAS_ROOT", dir.path().join("root"))
            .output()
            .unwrap()
    };
    let found = seal("assert");
    assert!(!found.status.success());
    assert!(String::from_utf8_lossy(&found.stdout).contains(secret::DIR));
    assert!(seal("seal").status.success());
    assert!(!left.exists());
    assert!(seal("assert").status.success());
}

#[track_caller]
fn refused(rest: &str, expected: &[&str]) {
    let found = rendered(rest).unwrap_err();
    for text in expected {
        assert!(found.contains(text), "expected `{text}` in:\n{found}");
    }
    assert!(!found.contains("hunter2"), "{found}");
}

#[test]
fn a_secret_is_named_where_it_is_there() {
    let bad = format!(
        "{HEAD}{STEPS}test: [{{ name: T, run: \"cat {{{{ token }}}}\" }}]\nfiles: [{{ path: /etc/x, content: \"{{{{ token }}}}\" }}]\n"
    );
    refused(
        &bad,
        &[
            "a/recipe.yaml:8:10",
            "the secret `token` of this line cannot be used in the test \"T\"",
            "cannot be used in the file /etc/x",
            "use it in `steps` and `validate`",
        ],
    );
    refused(
        &format!("{HEAD}{STEPS}").replace("run: \"true\"", "run: \"true\", when: \"token != 'x'\""),
        &["cannot be used in the condition `token != 'x'`"],
    );
    refused(
        &format!("{HEAD}{STEPS}").replace("build: { instance_profile: builder }\n", ""),
        &["the builder has no role that could read the secret `other`"],
    );
}

/// What a filter makes of the path is the path of nothing.
#[test]
fn a_secret_is_named_alone() {
    for (place, tag) in [
        ("a/recipe.yaml:11:37", "{{ token | upper }}"),
        ("a/recipe.yaml:11:37", "{{ token ~ other }}"),
        (
            "a/recipe.yaml:11:37",
            "{% if token is string %}{{ token }}{% endif %}",
        ),
        ("a/recipe.yaml:11:37", "{% set x = token %}{{ x }}"),
    ] {
        let steps = format!(
            "steps:\n  - {{ name: One, run: \"login now as {tag} {{{{ token }}}} {{{{ other }}}}\" }}\n"
        );
        refused(
            &format!("{HEAD}{steps}"),
            &[
                place,
                "the secret `token` stands for the path of a file, and no expression can read it",
                "write `{{ token }}` alone",
            ],
        );
    }
    for (from, to) in [
        ("A: \"{{ token }}\"", "A: \"{{ token | length }}\""),
        (
            "validate:",
            "files: [{ path: /etc/x, content: \"{{ token | title }}\" }]\nvalidate:",
        ),
    ] {
        refused(
            &format!("{HEAD}{STEPS}").replace(from, to),
            &["the secret `token` stands for the path of a file"],
        );
    }
}

#[test]
fn what_could_be_a_secret_is_never_said() {
    refused(
        &format!("{HEAD}{STEPS}").replace("ssm:/ci/token", "hunter2"),
        &[
            "the value of `token` is not a reference to a secret",
            "a/recipe.yaml:8:",
            "never the secret itself",
        ],
    );
    let kitchen = Kitchen::new();
    kitchen.recipe("a", &format!("{HEAD}{STEPS}"));
    kitchen.on("b", "{ recipe: a }", "parameters: { token: hunter2 }\n");
    kitchen.on(
        "c",
        "{ recipe: a }",
        "parameters: { token: { type: string, default: hunter2 } }\n",
    );
    kitchen.put("values.yaml", "token: hunter2\n");
    let values = recipe::Given {
        values: vec![kitchen.dir().join("values.yaml")],
        ..recipe::Given::default()
    };
    let set = recipe::Given {
        sets: vec![("token".into(), "hunter2".into())],
        ..recipe::Given::default()
    };
    for (name, given) in [
        ("a", values),
        ("a", set),
        ("b", recipe::Given::default()),
        ("c", recipe::Given::default()),
    ] {
        let found = recipe::load(kitchen.dir(), name, &given).unwrap_err();
        let found = found.to_string();
        assert!(found.contains("token"), "{found}");
        assert!(!found.contains("hunter2"), "{found}");
    }
    for values in [
        "token: 4.25hunter2: x\n",
        "token: [hunter2]\n",
        "token: { v: hunter2 }\n",
        "tokne: hunter2\n",
        "token: \"hunter2\n",
        "token: !hunter2 x\n",
        "token: &hunter2 x\n",
        "token: x\ntoken: hunter2\n",
        "\ttoken: hunter2\n",
        "token: hunter2\0\n",
        "- hunter2\n",
    ] {
        kitchen.put("values.yaml", values);
        let given = recipe::Given {
            values: vec![kitchen.dir().join("values.yaml")],
            ..recipe::Given::default()
        };
        let found = recipe::load(kitchen.dir(), "a", &given).unwrap_err();
        let found = found.to_string();
        assert!(found.contains("values.yaml:"), "{found}");
        assert!(!found.contains("hunter2"), "{values}: {found}");
    }
    for child in [
        "token: { v: hunter2 }",
        "token: [hunter2]",
        "tokne: hunter2",
        "token: ~ #hunter2",
    ] {
        kitchen.on("b", "{ recipe: a }", &format!("parameters:\n  {child}\n"));
        let found = recipe::load(kitchen.dir(), "b", &recipe::Given::default()).unwrap_err();
        let found = found.to_string();
        assert!(found.contains("b/recipe.yaml:7:"), "{found}");
        assert!(!found.contains("hunter2"), "{child}: {found}");
    }
    for default in [
        "default: 4.25, description: hunter2",
        "default: [hunter2]",
        "default: [1, hunter2]",
        "default: { hunter2: x }",
        "defualt: hunter2",
        "default: hunter2, default: x",
        "default: !x hunter2",
        "default: \"hunter2",
        "default: hunter2: x",
        "default: hunter2, enum: [x]",
        "default: hunter2, pattern: '('",
    ] {
        let declared = format!("x: {{ type: string, secret: true, {default} }}");
        refused(&format!("parameters:\n  {declared}\n"), &["a/recipe.yaml:"]);
    }
    refused(
        "parameters: { x: { type: list, secret: true } }\n",
        &["a secret is a string without `enum` and `pattern`"],
    );
}
