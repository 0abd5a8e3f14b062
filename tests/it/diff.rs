//! What two images differ in: those of scripted machines, with disks of our own making; and those of real ones.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use piaas_bake::aws::{Clients, Connection};
use piaas_bake::clock::JumpingClock;
use piaas_bake::image::tree::{Node, Tree};
use piaas_bake::localcloud::engine::LocalCloud;
use piaas_bake::localcloud::nspawn::snapshot;
use piaas_bake::localcloud::scripted::Scripted;
use piaas_bake::localcloud::{
    ACCESS_KEY, BASE_IMAGE, DEFAULT_REGION, MACHINE_ENDPOINT, SECRET_KEY, connector,
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::support::{Sandbox, machines_wanted};

const BEFORE: &str = r#"schema: piaas-bake/v1
name: web
version: 1.0.0
description: A recipe that changes.
from:
  ssm: /aws/service/debian/release/12/latest/amd64
files:
  - { path: /etc/web.conf, content: "one\n" }
  - { path: /etc/systemd/system/web.service, content: "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n" }
steps:
  - name: Make what goes again
    run: mkdir -p /opt/old && echo old >/opt/old/file
"#;

/// The same with another file, a package, a service that is enabled and another directory.
fn after() -> String {
    BEFORE
        .replace("version: 1.0.0", "version: 1.1.0\npackages: [zip]")
        .replace("one\\n", "two, and more\\n")
        .replace("Make what goes again", "Enable it")
        .replace(
            "mkdir -p /opt/old && echo old >/opt/old/file",
            "systemctl enable web.service && mkdir -p /srv/web && ln -s /etc/web.conf /srv/web/conf",
        )
}

fn document(sandbox: &Sandbox, args: &[&str]) -> Value {
    let run = sandbox
        .run_on_machines(&[args, &["--format", "json"]].concat())
        .expect_code(0);
    serde_json::from_str(&run.stdout).unwrap()
}

#[test]
fn two_images_are_compared_by_packages_services_and_files() {
    if !machines_wanted("what two images differ in") {
        return;
    }
    let sandbox = Sandbox::new();
    let mut ids = Vec::new();
    for text in [BEFORE, &after()] {
        sandbox.write("recipes/web/recipe.yaml", text);
        let _ = sandbox.run_on_machines(&["bake", "web"]).expect_code(0);
        let image = document(&sandbox, &["images", "show", "web"]);
        ids.push(image["image_id"].as_str().unwrap().to_owned());
        // The digest is that of what lies beside the disk.
        let disk = PathBuf::from(image["disk"].as_str().unwrap());
        let tree = std::fs::read(disk.join("tree.jsonl")).unwrap();
        let report = snapshot::report(&disk).unwrap();
        assert_eq!(report.tree_digest, hex::encode(Sha256::digest(tree)));
    }
    let [before, now] = [&*ids[0], &*ids[1]];

    let text = sandbox
        .run_on_machines(&["diff", before, "web"])
        .expect_code(0)
        .stdout;
    for line in [
        "packages: 1\n  zip  + 3.0-",
        "services: 1\n  web.service  disabled -> enabled\n",
        "  ~ /etc/web.conf  content, 4 -> 14 bytes\n",
        "  - /opt/old/  1 file, 4 B\n",
        "  + /srv/web/  1 file, 0 B\n",
        "files of changed packages: ",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    let full = document(&sandbox, &["diff", before, now]);
    assert_eq!(full["same"], false);
    assert_eq!(full["packages"][0]["package"], "zip");
    assert_eq!(full["packages"][0]["from"], Value::Null);
    let at = |path: &str| {
        let is = |one: &&Value| one["to"]["path"] == path;
        let files = full["files"].as_array().unwrap();
        files
            .iter()
            .find(is)
            .unwrap_or_else(|| panic!("{path}\n{text}"))
    };
    assert_eq!(at("etc/web.conf")["differs"], json!(["content", "size"]));
    assert_eq!(at("usr/bin/zip")["changed_package"], "zip");
    assert_eq!(at("srv/web/conf")["to"]["target"], "/etc/web.conf");
    // Nothing but what was asked for has changed, and what the package manager keeps of it.
    let files = full["files"].as_array().unwrap();
    let others = files.iter().filter(|one| one["changed_package"].is_null());
    let others: Vec<&str> = others
        .map(|one| [&one["to"]["path"], &one["from"]["path"]])
        .map(|[to, from]| to.as_str().or(from.as_str()).unwrap())
        .filter(|path| !path.starts_with("var/"))
        .collect();
    let expected = [
        "etc/systemd/system/multi-user.target.wants/web.service",
        "etc/web.conf",
        "opt/old",
        "opt/old/file",
        "srv/web",
        "srv/web/conf",
    ];
    assert_eq!(others, expected, "{text}");

    let _ = sandbox
        .run_on_machines(&["diff", before, now, "--exit-code"])
        .expect_code(4);
    let same = sandbox
        .run_on_machines(&["diff", "web", now, "--exit-code"])
        .expect_code(0);
    assert!(same.stdout.starts_with("the same: "), "{}", same.stdout);
}

/// Two images of one machine, with a disk each in the files of the local cloud: image and directory of the disk.
async fn two_images(sandbox: &Sandbox) -> [(String, PathBuf); 2] {
    let clock = JumpingClock::starting_at("2026-01-01T12:00:00Z".parse().unwrap());
    let driver = Arc::new(Scripted::new(clock.clone()));
    let dir = sandbox.state().join("cloud");
    let cloud = LocalCloud::open(&dir, driver, clock.clone()).unwrap();
    let connection = Connection::Local {
        http_client: connector(cloud),
        region: DEFAULT_REGION.into(),
        access_key: ACCESS_KEY,
        secret_key: SECRET_KEY,
        machine_endpoint: MACHINE_ENDPOINT,
    };
    let ec2 = Clients::connect(connection, clock.clone())
        .await
        .unwrap()
        .ec2;
    let launch = ec2.run_instances().min_count(1).max_count(1);
    let launch = launch.image_id(BASE_IMAGE).instance_type("t3.micro".into());
    let machine = launch.send().await.unwrap().instances.unwrap().remove(0);
    clock.advance(Duration::from_secs(60));
    let mut images = Vec::new();
    for name in ["before", "after"] {
        let image = ec2.create_image().name(name).no_reboot(true);
        let image = image.set_instance_id(machine.instance_id.clone());
        let id = image.send().await.unwrap().image_id.unwrap();
        let found = ec2.describe_images().image_ids(&id).send().await.unwrap();
        let disk = found.images()[0].block_device_mappings()[0].ebs().unwrap();
        let disk = dir.join("snapshots").join(disk.snapshot_id().unwrap());
        std::fs::create_dir_all(&disk).unwrap();
        // What a writer leaves.
        let blocks = r#"{"block_bytes":524288,"size_bytes":0,"blocks":[]}"#;
        for (file, text) in [
            ("chain.json", "[]"),
            ("blocks.json", blocks),
            ("disk.json", "{}"),
        ] {
            std::fs::write(disk.join(file), text).unwrap();
        }
        images.push((id, disk));
    }
    images.try_into().unwrap()
}

#[tokio::test]
async fn manifests_beside_the_disks_are_what_is_compared() {
    let sandbox = Sandbox::new();
    let [(before, old), (after, new)] = two_images(&sandbox).await;
    let tree = |text: &str| {
        let mut tree = Tree::new(Node::directory(0o755, 0));
        tree.insert(b"file", Node::file(text, 0o644, 0));
        tree.manifest(&tree.survey().unwrap()).unwrap()
    };
    std::fs::write(old.join("tree.jsonl"), tree("one")).unwrap();
    let older = sandbox.run(&["diff", &before, &after]).expect_code(1);
    assert!(
        older.stderr.contains("has no tree manifest"),
        "{}",
        older.stderr
    );
    std::fs::write(new.join("tree.jsonl"), "{}").unwrap();
    let broken = sandbox.run(&["diff", &before, &after]).expect_code(1);
    assert!(
        broken.stderr.contains("is no tree manifest"),
        "{}",
        broken.stderr
    );

    std::fs::write(new.join("tree.jsonl"), tree("three")).unwrap();
    let shown = sandbox.run(&["diff", &before, &after]).expect_code(0);
    let expected = format!(
        "{before} before -> {after} after\n\nfiles of no changed package: 1\n  ~ /file  content, 3 -> 5 bytes\n\n\
         size: 3 B -> 5 B (+2 B)\n  /  3 B -> 5 B (+2 B)\n"
    );
    assert_eq!(shown.stdout, expected);
    let other = ["diff", &before, &after, "--exit-code", "--format", "json"];
    let full = sandbox.run(&other).expect_code(4);
    let full: Value = serde_json::from_str(&full.stdout).unwrap();
    assert_eq!(full["same"], false);
    assert_eq!(full["total"], json!({ "from": 3, "to": 5 }));
    let digest = hex::encode(Sha256::digest(tree("three")));
    assert_eq!(full["to"]["tree_digest"], digest);
    assert_eq!(full["files"][0]["from"]["mode"], "0644");

    let same = sandbox
        .run(&["diff", &after, &after, "--exit-code"])
        .expect_code(0);
    assert_eq!(same.stdout, format!("the same: {digest}\n"));
    let base = sandbox.run(&["diff", BASE_IMAGE, &after]).expect_code(1);
    for part in ["has no disk", "--on-machines lists"] {
        assert!(base.stderr.contains(part), "{}", base.stderr);
    }
    let like = ["diff", &before, &after, "--like", "web"];
    let like = sandbox.run(&like).expect_code(2);
    assert!(
        like.stderr.contains("here disks are read"),
        "{}",
        like.stderr
    );
}
