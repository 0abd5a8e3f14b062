//! Layers of single scripts on real machines.

use std::path::Path;

use piaas_bake::localcloud::nspawn::snapshot;

use crate::support::{Run, Sandbox, machines_wanted};

/// The first script is worth a layer: it takes as long as a small package does.
const RECIPE: &str = "\
schema: piaas-bake/v1
name: web
version: 1.0.0
description: A test.
from: { ssm: /aws/service/debian/release/12/latest/amd64 }
steps:
  - name: The long one
    run: |
      head -c 3000000 /dev/zero >/opt/long
      ln /opt/long /opt/again
      sleep 6
  - name: The short one
    run: echo one >/etc/short
";

fn bake(sandbox: &Sandbox, more: &[&str]) -> Run {
    sandbox
        .run_on_machines(&[&["bake", "web", "--explain"], more].concat())
        .expect_code(0)
}

/// SHA-256 of the disk of an image.
fn disk(sandbox: &Sandbox, image: &str) -> String {
    let shown = sandbox
        .run_on_machines(&["images", "show", image.trim(), "--format", "json"])
        .expect_code(0);
    let shown: serde_json::Value = serde_json::from_str(&shown.stdout).unwrap();
    let disk = Path::new(shown["disk"].as_str().unwrap());
    snapshot::report(disk).unwrap().disk_sha256
}

#[test]
fn what_begins_at_a_layer_is_what_begins_at_the_base() {
    if !machines_wanted("bakes from layers on real machines") {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.write("recipes/web/recipe.yaml", RECIPE);
    let first = bake(&sandbox, &[]);
    assert!(
        first.stderr.contains("no bake of this recipe is known"),
        "{}",
        first.stderr
    );

    let changed = RECIPE.replace(
        "echo one",
        "echo two; chmod 600 /opt/long; rm /opt/again; echo",
    );
    sandbox.write("recipes/web/recipe.yaml", &changed);
    let second = bake(&sandbox, &[]);
    let line = |of: &Run, title: &str| {
        let mut lines = of.stderr.lines();
        lines.find(|line| line.contains(title)).unwrap().to_owned()
    };
    assert!(
        line(&second, "The long one").starts_with("hit "),
        "{}",
        second.stderr
    );
    let short = line(&second, "The short one");
    assert!(
        short.starts_with("miss ") && short.contains("its script is another"),
        "{short}"
    );
    let cold = bake(&sandbox, &["--force", "--no-cache"]);
    assert!(
        line(&cold, "The long one").starts_with("miss "),
        "{}",
        cold.stderr
    );
    let disks = [&first, &second, &cold].map(|one| disk(&sandbox, &one.stdout));
    assert_eq!(disks[1], disks[2]);
    assert_ne!(disks[0], disks[1]);

    // An image stands on the one there is; the cold bake found it kept.
    let gc = sandbox
        .run_on_machines(&["cloud", "gc", "--layers", "0"])
        .expect_code(0);
    assert!(!gc.stdout.contains("layer"), "{}", gc.stdout);
}
