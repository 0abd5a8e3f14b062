//! Plan files on the command line: made, looked at, refused. That one is carried out is in `bake_real`.

use crate::support::{Run, Sandbox};

const RECIPE: &str = "schema: piaas-bake/v1
name: web
version: 1.0.0
description: A web server.
from:
  ssm: /aws/service/debian/release/12/latest/amd64
files:
  - { path: /etc/web.conf, content: \"listen 80\\n\" }
steps:
  - name: Say so
    run: echo listening
";

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write("recipes/web/recipe.yaml", RECIPE);
    sandbox
}

fn planned(sandbox: &Sandbox, more: &[&str]) -> Run {
    let args = [&["plan", "web", "-o", "web.plan"][..], more].concat();
    sandbox.run(&args).expect_code(0)
}

fn json(run: &Run) -> serde_json::Value {
    serde_json::from_str(&run.stdout).unwrap()
}

#[test]
fn a_plan_outlives_its_recipe_and_says_the_same() {
    let sandbox = sandbox();
    let run = planned(&sandbox, &[]);
    assert!(
        run.stdout.ends_with("To do it: piaas-bake bake web.plan\n"),
        "{}",
        run.stdout
    );
    let before = json(
        &sandbox
            .run(&["plan", "web", "--format", "json"])
            .expect_code(0),
    );
    assert_eq!(before["iam_policy"]["Version"], "2012-10-17");
    // It holds all that it needs.
    std::fs::remove_dir_all(sandbox.recipes()).unwrap();
    let after = json(
        &sandbox
            .run(&["plan", "web.plan", "--format", "json"])
            .expect_code(0),
    );
    assert_eq!(before, after);
    // The same plan is written with the same bytes, but for the time.
    let run = sandbox.run(&["plan", "./web.plan"]).expect_code(0);
    assert!(run.stdout.contains("web would be baked"), "{}", run.stdout);
}

#[test]
fn a_plan_is_for_one_place_and_one_set_of_values() {
    let sandbox = sandbox();
    let _ = planned(&sandbox, &[]);
    let run = sandbox
        .run(&["plan", "web.plan", "--region", "eu-west-1"])
        .expect_code(4);
    assert!(
        run.stderr
            .contains("- the region: eu-west-1 now, us-east-1 when the plan was made"),
        "{}",
        run.stderr
    );
    for options in [
        &["--force"][..],
        &["--no-cache"],
        &["--candidate"],
        &["--set", "a=b"],
    ] {
        let args = [&["bake", "web.plan"][..], options].concat();
        let run = sandbox.run(&args).expect_code(2);
        let message = format!("{} does not go with a plan file", options[0]);
        assert!(run.stderr.contains(&message), "{}", run.stderr);
    }
    // Nothing was made, not even the base image.
    assert!(!sandbox.state().join("cloud/instances").exists());
    assert!(!sandbox.state().join("runs").exists());
}

#[test]
fn what_is_no_plan_is_refused_and_none_is_written_over() {
    let sandbox = sandbox();
    let _ = planned(&sandbox, &["--force", "--candidate"]);
    let before = std::fs::read(sandbox.path().join("web.plan")).unwrap();
    let run = sandbox
        .run(&["plan", "web", "-o", "web.plan"])
        .expect_code(1);
    assert!(
        run.stderr.contains("a plan is not written over another"),
        "{}",
        run.stderr
    );
    assert_eq!(
        std::fs::read(sandbox.path().join("web.plan")).unwrap(),
        before
    );
    let run = sandbox
        .run(&["bake", "recipes/web/recipe.yaml"])
        .expect_code(4);
    assert!(
        run.stderr.contains("this is not a plan file"),
        "{}",
        run.stderr
    );
    std::fs::write(
        sandbox.path().join("half.plan"),
        &before[..before.len() / 2],
    )
    .unwrap();
    let _ = sandbox.run(&["bake", "half.plan"]).expect_code(4);
    let run = sandbox.run(&["bake", "./web"]).expect_code(1);
    assert!(
        run.stderr.contains("a recipe is given by its name"),
        "{}",
        run.stderr
    );
    let names: Vec<_> = std::fs::read_dir(sandbox.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .filter(|name| name.to_string_lossy().starts_with('.'))
        .collect();
    assert_eq!(names, [] as [&str; 0], "a temporary file is left");
}
