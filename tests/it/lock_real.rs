//! Lock files on real machines: what is locked is what is installed, and two bakes of it are the same to the last byte.

use std::path::Path;
use std::process::Stdio;

use crate::support::{Run, Sandbox, cache_dir, machines_wanted};

const RECIPE: &str = r#"schema: piaas-bake/v1
name: web
version: 1.0.0
description: A recipe with a package that needs others.
from:
  ssm: /aws/service/debian/release/12/latest/amd64
packages: [jq]
steps:
  - name: Write what changes from run to run
    run: |
      useradd --system --create-home web
      date >/var/log/web.log
      mkdir -p /srv/web && echo hello >/srv/web/index.html
validate:
  - name: It answers
    run: jq --version
"#;

/// Runs the program in a state directory of its own, with these variables besides.
fn run(sandbox: &Sandbox, state: &str, args: &[&str], env: &[(&str, &str)]) -> Run {
    let output = sandbox
        .command(args)
        .env("PIAAS_CACHE_DIR", cache_dir())
        .env("PIAAS_STATE_DIR", sandbox.path().join(state))
        .envs(env.iter().copied())
        .stdin(Stdio::null())
        .output();
    Run::from(output.unwrap())
}

/// What the local cloud says of the one disk in its state directory.
fn disk(state: &Path) -> serde_json::Value {
    let snapshots: Vec<_> = std::fs::read_dir(state.join("cloud/snapshots"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(snapshots.len(), 1, "{snapshots:?}");
    serde_json::from_slice(&std::fs::read(snapshots[0].join("disk.json")).unwrap()).unwrap()
}

#[test]
fn what_is_locked_is_installed_and_two_cold_bakes_are_the_same_bytes() {
    if !machines_wanted("lock files, and two bakes that are the same") {
        return;
    }
    let sandbox = Sandbox::new();
    let recipe = "recipes/web/recipe.yaml";
    sandbox.write(recipe, RECIPE);

    // Without a lock file `--locked` does nothing.
    let refused = run(&sandbox, "none", &["bake", "web", "--locked"], &[]).expect_code(4);
    assert!(
        refused.stderr.contains("piaas-bake lock web"),
        "{}",
        refused.stderr
    );
    assert!(!sandbox.path().join("none").exists());

    let locked = run(&sandbox, "first", &["lock", "web"], &[]).expect_code(0);
    assert!(locked.stdout.contains("web  jq "), "{}", locked.stdout);
    let file = sandbox.recipes().join("web/recipe.lock");
    let text = std::fs::read_to_string(&file).unwrap();
    for name in ["jq", "libjq1", "libonig5"] {
        assert!(text.contains(&format!("\"name\":\"{name}\"")), "{text}");
    }
    // It has all that is asked for: nothing is launched, and nothing moves.
    let again = run(&sandbox, "none", &["lock", "web"], &[]).expect_code(0);
    assert_eq!(again.stdout, "");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
    assert!(!sandbox.path().join("none").exists());

    let knobs = [
        ("TZ", "Pacific/Kiritimati"),
        ("LC_ALL", "C"),
        ("HOME", "/nonexistent"),
    ];
    let bake = ["bake", "web", "--locked"];
    let _ = run(&sandbox, "first", &bake, &[]).expect_code(0);
    let _ = run(&sandbox, "second", &bake, &knobs).expect_code(0);
    let disks = ["first", "second"].map(|state| disk(&sandbox.path().join(state)));
    for key in ["tree_digest", "disk_sha256"] {
        assert_eq!(disks[0][key], disks[1][key], "{key}");
        assert_eq!(disks[0][key].as_str().unwrap().len(), 64);
    }

    // Something else at the place of a package.
    let jq = text
        .lines()
        .find(|line| line.contains("\"name\":\"jq\""))
        .unwrap();
    let sha256 = jq
        .split("\"sha256\":\"")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap();
    std::fs::write(&file, text.replace(sha256, &"0".repeat(64))).unwrap();
    let other = run(&sandbox, "third", &bake, &[]).expect_code(4);
    assert!(
        other.stderr.contains("is not what the lock file names"),
        "{}",
        other.stderr
    );
    std::fs::write(&file, &text).unwrap();

    // The recipe asks for more.
    sandbox.write(recipe, &RECIPE.replace("[jq]", "[jq, zip]"));
    let more = run(&sandbox, "none", &["bake", "web"], &[]).expect_code(4);
    assert!(more.stderr.contains("zip came later"), "{}", more.stderr);
    assert!(!sandbox.path().join("none").exists());
}
