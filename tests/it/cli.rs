//! The command line without a cloud: what a stranger types, what comes back.

#[path = "../../src/recipe/tests/cases.rs"]
mod cases;

use crate::support::{self, Run, Sandbox, shipped_recipes};

const GOOD: &str = "schema: piaas-bake/v1
name: web
version: 1.0.0
description: A web server.
from:
  ssm: /aws/service/debian/release/12/latest/amd64
parameters:
  port: { type: integer, default: 80, description: Where it listens. }
packages: [nginx]
steps:
  - name: Say the port
    run: echo {{ port }}
";

#[test]
fn shipped_recipes_are_clean() {
    let sandbox = Sandbox::new();
    let recipes = shipped_recipes();
    let run = sandbox
        .run(&["lint", "--recipes", recipes.to_str().unwrap()])
        .expect_code(0);
    for name in ["debian-base", "ci-base", "ci-worker", "github-runner"] {
        assert!(
            run.stdout.contains(name) || run.stderr.contains(name),
            "{}{}",
            run.stdout,
            run.stderr
        );
    }
}

#[test]
fn the_first_recipe_of_the_readme_is_clean_and_short() {
    let sandbox = Sandbox::new();
    let readme = include_str!("../../README.md");
    let text = readme
        .split("```yaml\n# recipes/web/recipe.yaml\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next())
        .expect("the README has a first recipe");
    assert!(text.lines().count() <= 10, "{text}");
    let files = std::process::Command::new("cp")
        .args(["-r", shipped_recipes().to_str().unwrap()])
        .arg(sandbox.path())
        .status();
    assert!(files.unwrap().success());
    sandbox.write("recipes/web/recipe.yaml", text);
    let _ = sandbox.run(&["lint", "web"]).expect_code(0);
}

#[test]
fn a_bad_recipe_is_refused_with_its_place_and_a_way_out_and_nothing_is_made() {
    let sandbox = Sandbox::new();
    sandbox.write(
        "recipes/web/recipe.yaml",
        &GOOD.replace("packages:", "pakages:"),
    );
    for verb in [
        &["lint", "web"][..],
        &["plan", "web"],
        &["bake", "web"],
        &["show", "web"],
    ] {
        let run = sandbox.run(verb).expect_code(3);
        for part in ["recipes/web/recipe.yaml:9:1", "pakages", "packages"] {
            assert!(
                run.stderr.contains(part),
                "{part:?} is not in\n{}",
                run.stderr
            );
        }
        assert_eq!(run.stdout, "");
    }
    assert!(
        !sandbox.state().exists(),
        "a refused recipe leaves no trace"
    );
}

#[test]
fn usage_errors_exit_2() {
    let sandbox = Sandbox::new();
    let _ = sandbox.run(&["bake"]).expect_code(2);
    let _ = sandbox
        .run(&["bake", "web", "--set", "novalue"])
        .expect_code(2);
    let _ = sandbox.run(&["frobnicate"]).expect_code(2);
}

#[test]
fn errors_are_json_for_machines() {
    let sandbox = Sandbox::new();
    sandbox.write("recipes/web/recipe.yaml", &GOOD.replace("1.0.0", "one"));
    let run = sandbox
        .run(&["lint", "web", "--format", "json"])
        .expect_code(3);
    let error: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(error["exit_code"], 3);
    assert!(error.to_string().contains("recipe.yaml"), "{error}");
}

#[test]
fn render_writes_the_scripts_and_refuses_a_directory_that_is_in_use() {
    let sandbox = Sandbox::new();
    sandbox.write("recipes/web/recipe.yaml", GOOD);
    let run = sandbox
        .run(&["render", "web", "--set", "port=8080", "-o", "out"])
        .expect_code(0);
    assert!(run.stdout.contains("out"), "{}", run.stdout);
    let scripts = walk(&sandbox.path().join("out"));
    assert!(
        scripts.iter().any(|text| text.contains("echo '8080'")),
        "{scripts:?}"
    );
    let data = std::fs::read_to_string(sandbox.path().join("out/user-data.sh")).unwrap();
    assert!(data.contains("https://s3.us-east-1."), "{data}");
    let _ = sandbox.run(&["render", "web", "-o", "out"]).expect_code(1);
}

#[test]
fn a_plan_for_aws_refuses_a_secret_of_the_environment_at_its_place() {
    let sandbox = Sandbox::new();
    sandbox.write(
        "recipes/web/recipe.yaml",
        "schema: piaas-bake/v1
name: web
version: 1.0.0
description: d
from: { ami: ami-0123456789abcdef0 }
build: { instance_profile: p }
parameters:
  token: { type: string, secret: true, default: \"env:TOKEN\" }
steps:
  - { name: x, run: \"cat {{ token }}\" }
",
    );
    let run = sandbox
        .run(&["plan", "web", "--cloud", "aws", "--format", "json"])
        .expect_code(3);
    let error: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    let finding = &error["findings"][0];
    assert_eq!(
        (&finding["line"], &finding["column"]),
        (&8.into(), &49.into()),
        "{error}"
    );
    assert!(
        finding["file"]
            .as_str()
            .unwrap()
            .ends_with("web/recipe.yaml"),
        "{error}"
    );
    assert!(
        finding["message"].as_str().unwrap().contains("env:TOKEN"),
        "{error}"
    );
    assert!(
        finding["help"].as_str().unwrap().contains("ssm:/path"),
        "{error}"
    );
}

#[test]
fn init_makes_a_recipe_that_lints_clean_and_never_overwrites() {
    let sandbox = Sandbox::new();
    let _ = sandbox.run(&["init", "web"]).expect_code(0);
    let _ = sandbox.run(&["lint", "web"]).expect_code(0);
    let before = std::fs::read(sandbox.recipes().join("web/recipe.yaml")).unwrap();
    let _ = sandbox.run(&["init", "web"]).expect_code(1);
    assert_eq!(
        before,
        std::fs::read(sandbox.recipes().join("web/recipe.yaml")).unwrap()
    );
}

#[test]
fn the_digest_is_the_same_in_another_place_locale_zone_and_umask() {
    let digests = |configure: &dyn Fn(&mut std::process::Command)| {
        let sandbox = Sandbox::new();
        let recipes = shipped_recipes();
        let recipes = recipes.to_str().unwrap();
        let mut command = sandbox.command(&[
            "show",
            "ci-worker",
            "--recipes",
            recipes,
            "--format",
            "json",
        ]);
        configure(&mut command);
        let run = Run::from(command.output().unwrap()).expect_code(0);
        let shown: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
        let line = shown["line"].as_array().unwrap();
        line.iter()
            .map(|layer| layer["digest"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let here = digests(&|_| ());
    assert_eq!(here.len(), 3);
    let elsewhere = digests(&|command| {
        command
            .env("LC_ALL", "tr_TR.UTF-8")
            .env("TZ", "Pacific/Kiritimati")
            .env("USER", "somebody")
            .current_dir("/");
    });
    assert_eq!(here, elsewhere);

    // A copy, written in another order with other modes: only what is in the files counts.
    let copy = Sandbox::new();
    let script = "umask 077; cd \"$1\" && find . -type f | sort -r | while read -r file; do \
                  mkdir -p \"$2/${file%/*}\" && cat \"$file\" >\"$2/$file\"; done";
    let copied = std::process::Command::new("sh")
        .args(["-c", script, "sh"])
        .args([shipped_recipes(), copy.recipes()])
        .status();
    assert!(copied.unwrap().success());
    let run = copy
        .run(&["show", "ci-worker", "--format", "json"])
        .expect_code(0);
    for digest in here {
        assert!(run.stdout.contains(&digest), "{digest}");
    }
}

#[test]
fn why_says_in_words_what_differs() {
    let sandbox = Sandbox::new();
    sandbox.write("recipes/web/recipe.yaml", GOOD);
    sandbox.write(
        "recipes/api/recipe.yaml",
        &GOOD
            .replace("name: web", "name: api")
            .replace("[nginx]", "[nginx, jq]"),
    );
    let run = sandbox.run(&["why", "web", "api"]).expect_code(0);
    assert!(run.stdout.contains("jq"), "{}", run.stdout);
    let same = sandbox.run(&["why", "web", "web"]).expect_code(0);
    assert!(same.stdout.contains("same"), "{}", same.stdout);
}

fn walk(dir: &std::path::Path) -> Vec<String> {
    let mut texts = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            texts.extend(walk(&entry.path()));
        } else {
            texts.push(String::from_utf8_lossy(&std::fs::read(entry.path()).unwrap()).into_owned());
        }
    }
    texts
}

#[test]
fn show_resolved_says_where_each_value_comes_from() {
    let sandbox = Sandbox::new();
    sandbox.write("recipes/web/recipe.yaml", GOOD);
    sandbox.write(
        "recipes/shop/recipe.yaml",
        "schema: piaas-bake/v1
name: shop
version: 1.0.0
description: A shop.
from: { recipe: web }
labels: { team: shop }
parameters:
  port: 8080
  motto: { type: string, default: buy }
image: { size: 9GiB }
test:
  - { name: Say, run: \"echo {{ motto }}\", timeout: 7m, env: { LOUD: yes } }
worker: { adapter: buildbot, unit: b@ci.service }
",
    );
    let run = sandbox
        .run(&["show", "--resolved", "shop", "--set", "motto=sell"])
        .expect_code(0);
    for line in [
        "port   8080    set, ",
        "recipes/shop/recipe.yaml:8",
        "motto  \"sell\"  --set",
        "labels.team",
        "recipes/shop/recipe.yaml:6",
        "image.filesystem",
        "default",
        "Say the port",
        "recipes/web/recipe.yaml:11",
        "recipes/shop/recipe.yaml:5",
        "at most 420s, env LOUD",
        "b@ci.service",
    ] {
        assert!(
            run.stdout.contains(line),
            "{line:?} is not in\n{}",
            run.stdout
        );
    }
    let values = sandbox.path().join("values.yaml");
    sandbox.write("values.yaml", "port: 81\n");
    let values = values.to_str().unwrap();
    let run = sandbox
        .run(&[
            "show",
            "--resolved",
            "shop",
            "--values",
            values,
            "--format",
            "json",
        ])
        .expect_code(0);
    let shown: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    let port = &shown["parameters"]["port"];
    assert_eq!(port["value"], 81);
    assert_eq!(port["from"]["kind"], "values");
    assert_eq!(port["from"]["line"], 1);
    assert_eq!(port["description"], "Where it listens.");
    assert_eq!(shown["parameters"]["motto"]["from"]["kind"], "default");
    assert_eq!(shown["settings"]["image.size"]["value"], "9GiB");
    assert_eq!(shown["settings"]["image.size"]["from"]["line"], 10);
    assert_eq!(
        shown["settings"]["image.boot_mode"]["from"]["kind"],
        "default"
    );
    assert_eq!(shown["line"][0]["contents"][1]["title"], "Say the port");
    let shop = &shown["line"][1];
    assert_eq!(shop["from"]["line"], 5);
    assert_eq!(shop["worker"]["unit"], "b@ci.service");
    assert_eq!(shop["contents"][0]["timeout"], "420s");
    assert_eq!(shop["contents"][0]["env"], serde_json::json!(["LOUD"]));
    assert_eq!(shown["base_from"], shown["line"][0]["from"]);

    sandbox.write("values.yaml", "prot: 81\n");
    let run = sandbox
        .run(&["plan", "shop", "--values", values])
        .expect_code(3);
    for part in ["values.yaml:1:1", "`prot`", "did you mean `port`?"] {
        assert!(
            run.stderr.contains(part),
            "{part:?} is not in\n{}",
            run.stderr
        );
    }
}

#[test]
fn known_leaks_are_listed_with_their_reason() {
    let sandbox = Sandbox::new();
    let said = sandbox.run(&["leaks"]).expect_code(0).stdout;
    let row = |line: &&str| {
        line.split_whitespace()
            .take(3)
            .eq(["/etc/machine-id", "empty", "random:"])
    };
    assert!(said.lines().any(|line| row(&line)), "{said}");
    let said = sandbox
        .run(&["leaks", "--format", "json"])
        .expect_code(0)
        .stdout;
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    let leak = serde_json::json!({ "path": "/var/lib/mysql/auto.cnf", "action": "refused", "why": "random: the id of the server" });
    assert!(said["leaks"].as_array().unwrap().contains(&leak));

    let recipe = "schema: piaas-bake/v1\nname: own\nversion: 1.0.0\ndescription: Its own leaks.\n\
                  from: { ami: ami-0123456789abcdef0 }\n\
                  seal: [{ path: /etc/docker/key.json, action: keep, reason: One engine. }]\n";
    sandbox.write("recipes/own/recipe.yaml", recipe);
    let said = sandbox
        .run(&["show", "own", "--resolved"])
        .expect_code(0)
        .stdout;
    let row = ["keep", "/etc/docker/key.json", "because: One engine."];
    let has = |line: &str| row.iter().all(|part| line.contains(part));
    assert!(said.lines().any(has), "{said}");
    let said = sandbox.run(&["show", "own", "--resolved", "--format", "json"]);
    let said: serde_json::Value = serde_json::from_str(&said.expect_code(0).stdout).unwrap();
    assert_eq!(said["line"][0]["contents"][0]["reason"], "One engine.");
}

#[test]
fn the_schema_is_printed_and_shipped_recipes_and_new_ones_are_valid_by_it() {
    let sandbox = Sandbox::new();
    let schema = sandbox.run(&["schema"]).expect_code(0).stdout;
    let shipped = shipped_recipes();
    let beside = std::fs::read_to_string(shipped.join("recipe.schema.json")).unwrap();
    assert_eq!(schema, beside);
    let _ = sandbox.run(&["init", "web"]).expect_code(0);
    let made = std::fs::read_to_string(sandbox.recipes().join("recipe.schema.json")).unwrap();
    assert_eq!(schema, made);

    let mut recipes = vec![sandbox.recipes().join("web/recipe.yaml")];
    for entry in std::fs::read_dir(&shipped).unwrap().flatten() {
        let file = entry.path().join("recipe.yaml");
        if file.is_file() {
            recipes.push(file);
        }
    }
    assert!(recipes.len() > 4);
    for file in &recipes {
        let text = std::fs::read_to_string(file).unwrap();
        let header = "# yaml-language-server: $schema=../recipe.schema.json";
        assert_eq!(text.lines().next(), Some(header), "{}", file.display());
    }
    // A validator that nobody here wrote; an unknown key must not pass either.
    let script = "import json, sys, yaml, jsonschema
schema = json.load(open(sys.argv[1]))
jsonschema.Draft7Validator.check_schema(schema)
validator = jsonschema.Draft7Validator(schema)
for path in sys.argv[2:]:
    recipe = yaml.safe_load(open(path))
    validator.validate(recipe)
    recipe['pakages'] = []
    assert not validator.is_valid(recipe), path
";
    let Some(python) = support::python_with_jsonschema() else {
        return;
    };
    let output = std::process::Command::new(python)
        .args(["-W", "ignore", "-c", script])
        .arg(shipped.join("recipe.schema.json"))
        .args(&recipes)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn every_bad_input_ends_with_exit_code_3_and_makes_nothing() {
    let text = include_str!("../../src/recipe/tests/bad_input.txt");
    let all = cases::read(text);
    assert!(all.len() > 35);
    for case in all {
        let sandbox = Sandbox::new();
        case.write(&sandbox.recipes());
        let mut line = vec!["bake".to_owned(), "a".to_owned()];
        for given in case.input.lines() {
            // No argument holds a NUL.
            if let Some(set) = given
                .strip_prefix("!set ")
                .filter(|set| !set.contains("\\0"))
            {
                line.extend(["--set".to_owned(), set.to_owned()]);
            } else if let Some(file) = given.strip_prefix("!values ") {
                let path = sandbox.recipes().join(file);
                line.extend(["--values".to_owned(), path.display().to_string()]);
            }
        }
        let line: Vec<&str> = line.iter().map(String::as_str).collect();
        let run = sandbox.run(&line).expect_code(3);
        assert_eq!(run.stdout, "", "{}", case.title);
        assert!(!sandbox.state().exists(), "{}", case.title);
        // Paths are as they were given, or absolute.
        let home = sandbox.recipes().display().to_string();
        let said = run.stderr.replace(&format!("{home}/"), "");
        let said = said.replace(&home, "recipes").replace("recipes/", "");
        // All of them: a bake says what a lint says. What depends on a value is not said of one that is missing.
        let errors = case
            .expected
            .lines()
            .filter(|line| line.starts_with("error: "));
        let all = if said.contains("has no value") {
            1
        } else {
            usize::MAX
        };
        for error in errors.take(all) {
            let error = error.replace("RECIPES", "recipes");
            assert!(said.contains(&error), "{}: {error}\n{said}", case.title);
        }
    }
}

#[test]
fn sections_that_nothing_acts_on_are_named() {
    let sandbox = Sandbox::new();
    let text =
        format!("{GOOD}retention: {{ keep: 3 }}\ndistribution: {{ regions: [eu-west-1] }}\n");
    sandbox.write("recipes/web/recipe.yaml", &text);
    let run = sandbox.run(&["lint", "web"]).expect_code(0);
    for section in ["`retention`", "`distribution`"] {
        let note = format!("{section} is checked and shown; this version does not act on it yet");
        assert!(run.stderr.contains(&note), "{}", run.stderr);
    }
    assert!(run.stdout.contains("web 1.0.0"));
}

#[test]
fn the_local_cloud_is_served_on_loopback_only() {
    let sandbox = Sandbox::new();
    for address in [
        "0.0.0.0:0",
        "[::]:0",
        "192.0.2.1:4599",
        "[2001:db8::1]:4599",
    ] {
        let refused = sandbox.run(&["cloud", "serve", "--listen", address]);
        let refused = refused.expect_code(2);
        let said = "is not a loopback address";
        assert!(refused.stderr.contains(said), "{}", refused.stderr);
    }
}
