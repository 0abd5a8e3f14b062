//! `test --vm`: an image boots in QEMU, and only a machine that comes to its end passes.
//!
//! By its name it comes early: without KVM it takes one core for minutes.

use std::path::Path;

use serde_json::Value;

use crate::support::{
    Run, Sandbox, assert_events_fit_their_schema, machines_wanted, shipped_recipes,
};

const RECIPE: &str = r#"schema: piaas-bake/v1
name: web
version: 1.0.0
description: What boots.
from: { recipe: debian-base, version: ^1 }
files:
  - { path: /etc/web.conf, content: "kept\n", mode: "0640" }
test:
  - name: It is a virtual machine with metadata
    run: |
      systemd-detect-virt --vm
      curl --fail --silent --retry 5 --retry-connrefused -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' \
        http://169.254.169.254/latest/api/token >/dev/null
"#;

fn machines_left(sandbox: &Sandbox) -> usize {
    let dir = sandbox.state().join("vm");
    let files = |dir: &Path| {
        std::fs::read_dir(dir)
            .into_iter()
            .flatten()
            .flatten()
            .count()
    };
    std::fs::read_dir(&dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|run| files(&run.path()))
        .sum()
}

#[test]
fn an_image_boots_and_is_tested_in_a_virtual_machine_and_a_dead_one_never_passes() {
    if !machines_wanted("the boot of an image in QEMU") {
        return;
    }
    let sandbox = Sandbox::new();
    let base = sandbox.recipes().join("debian-base");
    std::os::unix::fs::symlink(shipped_recipes().join("debian-base"), base).unwrap();
    let (head, tests) = RECIPE.split_once("test:\n").unwrap();
    sandbox.write("recipes/web/recipe.yaml", head);
    let _ = sandbox.run_on_machines(&["bake", "web"]).expect_code(0);
    let recipe = |tests: &str| {
        sandbox.write("recipes/web/recipe.yaml", &format!("{head}test:\n{tests}"));
        let args = ["test", "--vm", "web", "--format", "ndjson"];
        let run = sandbox.run_on_machines(&args);
        assert_events_fit_their_schema(&run.stdout);
        let last = run.stdout.lines().last().map(serde_json::from_str::<Value>);
        (last.unwrap().unwrap(), run)
    };

    let (last, passed) = recipe(tests);
    let _ = passed.expect_code(0);
    let result = &last["result"];
    assert_eq!(
        (&result["passed"], &result["status"]),
        (&true.into(), &161.into()),
        "{last}"
    );
    assert_eq!(result["state"], "running", "{last}");
    let checks = result["checks"].as_array().unwrap();
    assert_eq!(checks.len(), 4, "{last}");
    assert!(checks.iter().all(|check| check["passed"] == true), "{last}");
    let titles = result["tests"].as_array().unwrap();
    assert_eq!(
        titles.last().unwrap()["title"],
        "It is a virtual machine with metadata"
    );
    assert_eq!(machines_left(&sandbox), 0);

    // A test that fails is named.
    let (last, failed) = recipe("  - { name: It flies, run: echo no wings; exit 7 }\n");
    let failed = failed.expect_code(6);
    for said in [
        "test `It flies`: exit code 7",
        "no wings",
        "the whole console is in ",
    ] {
        assert!(failed.stderr.contains(said), "{said}\n{}", failed.stderr);
    }
    assert_eq!(last["result"]["status"], 141, "{last}");
    assert!(machines_left(&sandbox) > 0);

    // One that is switched off has told nothing but good.
    let (last, off) = recipe("  - { name: It sleeps, run: poweroff --force --force }\n");
    let off = off.expect_code(6);
    let said = "switched itself off, or rebooted, in the test `It sleeps`";
    assert!(off.stderr.contains(said), "{}", off.stderr);
    assert_eq!(last["error"]["exit_code"], 6, "{last}");
}

#[test]
fn what_cannot_be_booted_is_said_before_anything_is_done() {
    let sandbox = Sandbox::new();
    let run = sandbox.run(&["test", "web"]).expect_code(2);
    assert!(run.stderr.contains("--vm"), "{}", run.stderr);
    let run = sandbox
        .run(&["test", "--vm", "web", "--cloud", "aws"])
        .expect_code(1);
    assert!(
        run.stderr.contains("images on AWS cannot be booted here"),
        "{}",
        run.stderr
    );
    let mut command = sandbox.command(&["test", "--vm", "web"]);
    let output = command.env("PIAAS_VM_ACCEL", "abacus").output().unwrap();
    let run = Run::from(output).expect_code(2);
    assert!(
        run.stderr.contains("it can be kvm or tcg"),
        "{}",
        run.stderr
    );
}
