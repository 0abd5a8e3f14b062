//! A secret on real machines: lent from the environment, read by the machine with its role, in memory while a step
//! runs, and nowhere afterwards. On the way, trees, conditions and labels.

use std::fs::File;
use std::os::unix::fs::symlink;

use piaas_bake::localcloud::nspawn::blocks;
use sha2::{Digest as _, Sha256};

use crate::clients;
use crate::planted::holding_packed;
use crate::support::{Run, Sandbox, cache_dir, holding, left_on_host, machines_wanted};

const RECIPE: &str = r#"schema: piaas-bake/v1
name: probe
version: 1.0.0
description: Reads a secret.
from: { ssm: /aws/service/debian/release/12/latest/amd64 }
labels: { team: ci }
build: { instance_profile: builder }
parameters:
  token: { type: string, secret: true, default: "env:PROBE_TOKEN" }
  vault: { type: string, secret: true, default: "env:PROBE_VAULT" }
  more: { type: boolean, default: false }
files:
  - { path: /etc/probe.d, tree: files/probe.d }
steps:
  - name: Watch all processes
    run: |
      # Not in these very arguments.
      printf '%s\n' 'while :; do' '  cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | grep -acE "(canary|vaulted)-SystemTime"' done >/run/watch.sh
      systemd-run --quiet --unit=watch sh -c 'exec sh /run/watch.sh >/run/watched'
  - name: Use the secret
    run: |
      sha256sum <{{ token }} | cut -c 1-64 >/etc/probe-sum
      stat -c 'mode %a %U' {{ token }}
      findmnt -no FSTYPE -T {{ token }}
      until [ -s /run/watched ]; do sleep 0.1; done
      if grep -vx 0 /run/watched; then echo 'a process had it in its arguments or its environment'; exit 1; fi
      gzip -c /etc/probe-sum >/etc/probe-sum.gz
    reboot: true
  - { name: Use the vaulted one, run: "sha256sum <{{ vault }} | cut -c 1-64" }
  - { name: Use it after a reboot, run: "sha256sum <{{ token }} | cut -c 1-64 | cmp - /etc/probe-sum" }
  - { name: Never, run: exit 1, when: more }
validate:
  - { name: It is there, run: "test -s {{ token }}" }
test:
  - name: It is gone, and the tree is there
    run: |
      test ! -e /run/piaas-bake-secrets
      [ "$(readlink /etc/probe.d/link)" = sub/run ]
      [ "$(/etc/probe.d/link)" = ran ]
      cat /etc/probe-sum
"#;

#[test]
fn a_secret_of_the_environment_is_in_the_step_and_nowhere_else() {
    if !machines_wanted("a secret on real machines") {
        return;
    }
    let Some(venv) = clients::venv("a secret of Secrets Manager") else {
        return;
    };
    let sandbox = Sandbox::new();
    sandbox.write("recipes/probe/recipe.yaml", RECIPE);
    // Made anew for each test, so that no other file of this host can hold them.
    let canary = format!("canary-{:?}", std::time::SystemTime::now());
    let vaulted = format!("vaulted-{:?}", std::time::SystemTime::now());
    let server = clients::Serve::start(&sandbox);
    let secret = server.aws(
        &venv,
        sandbox.path(),
        &[
            "secretsmanager",
            "create-secret",
            "--name",
            "ci/vault",
            "--secret-string",
            &vaulted,
        ],
    );
    let arn = secret["ARN"].as_str().unwrap();
    let vault = format!("vault=secretsmanager:{arn}");
    sandbox.write(
        "recipes/probe/files/probe.d/sub/run",
        "#!/bin/sh\necho ran\n",
    );
    let tree = sandbox.recipes().join("probe/files/probe.d");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(tree.join("sub/run"), mode).unwrap();
    symlink("sub/run", tree.join("link")).unwrap();
    let run = |value: Option<&str>| {
        let mut command =
            sandbox.command(&["bake", "probe", "--set", &vault, "--format", "ndjson"]);
        command.env("PIAAS_CACHE_DIR", cache_dir());
        if let Some(value) = value {
            command.env("PROBE_TOKEN", value);
        }
        Run::from(command.output().unwrap())
    };

    let unset = run(None).expect_code(1);
    assert!(
        unset.stderr.contains("PROBE_TOKEN is not set"),
        "{}",
        unset.stderr
    );
    assert!(holding(&sandbox.state(), "probe-1.0.0").is_empty());

    let baked = run(Some(&canary)).expect_code(0);
    let sum = hex::encode(Sha256::digest(canary.as_bytes()));
    let vaulted_sum = hex::encode(Sha256::digest(vaulted.as_bytes()));
    for seen in [sum.as_str(), &vaulted_sum, "mode 400 root", "tmpfs"] {
        assert!(
            baked.stdout.contains(seen),
            "{seen} is not in\n{}",
            baked.stdout
        );
    }
    assert!(!baked.stdout.contains("Never"), "{}", baked.stdout);
    // The search reaches into disks: the sum is in a file of the image.
    for snapshot in std::fs::read_dir(sandbox.state().join("cloud/snapshots")).unwrap() {
        let snapshot = snapshot.unwrap().path();
        let disk = File::create(snapshot.join("disk.raw")).unwrap();
        blocks::assemble(&snapshot, &disk).unwrap();
    }
    let with_sum = holding(&sandbox.state(), &sum);
    assert!(
        with_sum.iter().any(|file| file.ends_with(".raw")),
        "{with_sum:?}"
    );
    // And into what is packed there.
    let with_sum = holding_packed(&sandbox.state(), &sum);
    for name in ["/etc/probe-sum", "/etc/probe-sum.gz"] {
        assert!(
            with_sum.iter().any(|file| file.ends_with(name)),
            "{with_sum:?}"
        );
    }
    // What is not on disk: the plan that is kept, and the scripts.
    for args in [
        &["plan", "probe", "--force", "-o", "probe.plan"][..],
        &["render", "probe", "--output", "rendered"],
    ] {
        let mut command = sandbox.command(args);
        let command = command
            .env("PIAAS_CACHE_DIR", cache_dir())
            .env("PROBE_TOKEN", &canary);
        let said = Run::from(command.args(["--set", &vault]).output().unwrap()).expect_code(0);
        assert!(!said.stdout.contains(&canary) && !said.stderr.contains(&canary));
    }
    // The service that keeps a secret is the only place that it is in.
    let [file] = &holding_packed(sandbox.path(), &vaulted)[..] else {
        panic!("{:?}", holding_packed(sandbox.path(), &vaulted));
    };
    assert!(file.ends_with("cloud/state.json"), "{file}");
    let delete = ["secretsmanager", "delete-secret", "--secret-id", arn];
    let force = ["--force-delete-without-recovery"];
    server.aws(&venv, sandbox.path(), &[&delete[..], &force].concat());
    server.end();
    for value in [&canary, &vaulted] {
        assert_eq!(holding_packed(sandbox.path(), value), [] as [String; 0]);
        assert!(!baked.stdout.contains(value) && !baked.stderr.contains(value));
    }
    let state = std::fs::read_to_string(sandbox.state().join("cloud/state.json")).unwrap();
    assert!(!state.contains("/piaas-bake/env/PROBE_TOKEN"));
    assert!(state.contains(r#""team":"ci""#));
    assert_eq!(left_on_host(&sandbox.state()), [] as [String; 0]);
}

#[test]
fn what_a_killed_bake_had_lent_is_removed() {
    if !machines_wanted("a killed bake with a secret") {
        return;
    }
    let sandbox = Sandbox::new();
    let recipe = RECIPE.replace("  - { path: /etc/probe.d, tree: files/probe.d }", "");
    let recipe = recipe.replace("files:\n\n", "");
    sandbox.write("recipes/probe/recipe.yaml", &recipe);
    let canary = format!("canary-{:?}", std::time::SystemTime::now());
    let mut bake = sandbox
        .command(&["bake", "probe"])
        .env("PIAAS_CACHE_DIR", cache_dir())
        .env("PROBE_TOKEN", &canary)
        .env("PROBE_VAULT", &canary)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let state = sandbox.state().join("cloud/state.json");
    let lent = || std::fs::read_to_string(&state).is_ok_and(|text| text.contains(&canary));
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(120);
    // Its journal says that it runs; it is opened right after.
    let runs = sandbox.state().join("runs");
    let begun = || std::fs::read_dir(&runs).is_ok_and(|mut files| files.next().is_some());
    while !(lent() && begun()) {
        assert!(std::time::Instant::now() < deadline, "nothing is lent");
        assert_eq!(bake.try_wait().unwrap(), None, "the bake ended early");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let gc = |more: &[&str]| {
        let arguments = [&["cloud", "gc"], more].concat();
        let mut command = sandbox.command(&arguments);
        command.env("PIAAS_CACHE_DIR", cache_dir());
        Run::from(command.output().unwrap()).expect_code(0)
    };
    // It is in use as long as the bake runs.
    assert!(!gc(&["--dry-run"]).stdout.contains("PROBE_TOKEN"));
    bake.kill().unwrap();
    bake.wait().unwrap();
    assert!(lent());
    assert!(
        gc(&["--dry-run"])
            .stdout
            .contains("the secret /piaas-bake/env/PROBE_TOKEN")
    );
    let cleaned = gc(&[]);
    assert!(
        cleaned
            .stdout
            .contains("removed the secret /piaas-bake/env/PROBE_TOKEN")
    );
    assert!(!cleaned.stdout.contains(&canary));
    assert_eq!(holding(sandbox.path(), &canary), [] as [String; 0]);
    assert_eq!(left_on_host(&sandbox.state()), [] as [String; 0]);
}
