//! A host that cannot run machines: one clear message before anything starts, and nothing is made.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use crate::support::{BIN, Run, Sandbox, machines_wanted};

const RECIPE: &str = "schema: piaas-bake/v1
name: web
version: 1.0.0
description: A web server.
from: { ssm: /aws/service/debian/release/12/latest/amd64 }
packages: [nginx-light]
";

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write("recipes/web/recipe.yaml", RECIPE);
    sandbox
}

#[track_caller]
fn refused(sandbox: &Sandbox, run: Run, parts: &[&str]) {
    let run = run.expect_code(1);
    for part in parts {
        assert!(
            run.stderr.contains(part),
            "{part:?} is not in\n{}",
            run.stderr
        );
    }
    assert!(run.stderr.contains("this host cannot run the local cloud"));
    let cloud = sandbox.state().join("cloud");
    assert!(!cloud.exists(), "a host that is refused is left alone");
}

#[test]
fn without_systemd_nspawn_its_package_is_named() {
    let sandbox = sandbox();
    let run = sandbox
        .command(&["bake", "web"])
        .env("PATH", sandbox.path())
        .output();
    refused(
        &sandbox,
        Run::from(run.unwrap()),
        &[
            "systemd-nspawn is not installed",
            "apt-get install systemd-container",
            "doctor --fix",
        ],
    );
}

#[test]
fn a_mirror_that_does_not_answer_is_named() {
    let sandbox = sandbox();
    // A port that was free a moment ago: nobody listens there.
    let port = TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .unwrap()
        .port();
    let mirror = format!("http://127.0.0.1:{port}/debian");
    let run = sandbox
        .command(&["bake", "web"])
        .env("PIAAS_MIRROR", &mirror)
        .output();
    let expected = format!("the mirror {mirror} is not reached");
    refused(
        &sandbox,
        Run::from(run.unwrap()),
        &[&expected, "PIAAS_MIRROR"],
    );
}

#[test]
fn without_root_it_says_so() {
    let sandbox = sandbox();
    let mut command = sandbox.command(&["bake", "web"]);
    if rustix::process::geteuid().is_root() {
        // The binary may be where nobody but root can go.
        let reachable = sandbox.path().join("piaas-bake");
        std::fs::copy(BIN, &reachable).unwrap();
        let open = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(sandbox.path(), open).unwrap();
        let mut other = Command::new(reachable);
        other
            .args(["bake", "web"])
            .current_dir(sandbox.path())
            .env_clear();
        for (name, value) in command.get_envs() {
            other.env(name, value.unwrap_or_default());
        }
        other.uid(65534).gid(65534);
        command = other;
    }
    refused(
        &sandbox,
        Run::from(command.output().unwrap()),
        &[
            "machines need root, this is another user",
            "run it with sudo",
        ],
    );
}

#[test]
fn a_full_disk_is_noticed_before_anything_is_written() {
    if !machines_wanted("the check of the disk space on a small file system") {
        return;
    }
    let sandbox = sandbox();
    std::fs::create_dir(sandbox.state()).unwrap();
    let script = "mount -t tmpfs -o size=100M none \"$PIAAS_STATE_DIR\" && exec \"$@\"";
    let run = sandbox
        .command(&[])
        .get_envs()
        .fold(Command::new("unshare"), |mut command, (name, value)| {
            command.env(name, value.unwrap_or_default());
            command
        })
        .args(["--mount", "sh", "-c", script, "sh", BIN, "bake", "web"])
        .current_dir(sandbox.path())
        .output();
    refused(
        &sandbox,
        Run::from(run.unwrap()),
        &["0 GiB free", "are needed", "free some space"],
    );
}

/// A mirror that answers every question with nothing.
fn empty_mirror() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/debian", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            // Whoever asks may be gone already.
            let _read = stream.read(&mut [0; 1024]);
            let _answered = stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        }
    });
    url
}

#[test]
fn where_it_acts_is_said_before_the_base_image_is_made() {
    if !machines_wanted("a base image from a mirror that has nothing") {
        return;
    }
    let sandbox = sandbox();
    let run = sandbox
        .command(&["bake", "web"])
        .env("PIAAS_MIRROR", empty_mirror())
        .output();
    let run = Run::from(run.unwrap()).expect_code(1);
    let at = |part: &str| {
        let found = run.stderr.find(part);
        found.unwrap_or_else(|| panic!("{part:?} is not in\n{}", run.stderr))
    };
    assert!(at("acting on: local cloud") < at("Debian base image from"));
    assert!(at("cannot make the base image") > 0);
}
