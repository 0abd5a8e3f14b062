//! Lock files: the base image that they pin, and, on real machines, the packages: what is locked is what is installed,
//! and two bakes of it are the same to the last byte.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Stdio;

use std::sync::Arc;

use piaas_bake::clock::SystemClock;
use piaas_bake::localcloud::engine::LocalCloud;
use piaas_bake::localcloud::scripted::Scripted;
use piaas_bake::localcloud::serve::serve;
use piaas_bake::localcloud::{ACCESS_KEY, BASE_IMAGE, SECRET_KEY};

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

/// Runs the program in a state directory of its own, with these variables besides; with some, under another umask too.
fn run(sandbox: &Sandbox, state: &str, args: &[&str], env: &[(&str, &str)]) -> Run {
    let mut command = sandbox.command(args);
    if !env.is_empty() {
        // SAFETY: umask is async-signal-safe, and nothing else happens between fork and exec.
        unsafe {
            command.pre_exec(|| {
                rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
                Ok(())
            });
        }
    }
    let output = command
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
    // Again, cold, in a cloud of its own, with other settings of this process.
    let verify = ["verify", "web", "--format", "json"];
    let verified = run(&sandbox, "first", &verify, &knobs).expect_code(0);
    let verified: serde_json::Value = serde_json::from_str(&verified.stdout).unwrap();
    assert_eq!(verified["same"], true, "{verified}");
    let written = disk(&sandbox.path().join("first"));
    for key in ["tree_digest", "disk_sha256"] {
        assert_eq!(verified["image"][key], written[key], "{key}");
        assert_eq!(verified["again"][key], written[key], "{key}");
        assert_eq!(written[key].as_str().unwrap().len(), 64);
    }
    assert!(!sandbox.path().join("first/verify").exists());

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

/// What comes out another time is named, file by file.
#[test]
fn an_image_that_is_another_one_when_it_is_baked_again_is_no_success() {
    if !machines_wanted("an image that is another one each time") {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.write(
        "recipes/odd/recipe.yaml",
        "schema: piaas-bake/v1\nname: odd\nversion: 1.0.0\ndescription: Another one each time.\n\
         from: { ssm: /aws/service/debian/release/12/latest/amd64 }\n\
         steps:\n  - { name: Write what nobody knows, run: cp /proc/sys/kernel/random/uuid /etc/odd }\n",
    );
    let _ = run(&sandbox, "state", &["bake", "odd"], &[]).expect_code(0);
    let refused = run(&sandbox, "state", &["verify", "odd"], &[]).expect_code(4);
    assert!(
        refused.stderr.contains("piaas-bake lock odd"),
        "{}",
        refused.stderr
    );
    sandbox.write(
        "recipes/odd/recipe.lock",
        "lock: 1\nrecipe: odd\nasked: []\nindexes: []\npackages: []\n",
    );
    // It was baked without a lock.
    let moved = run(&sandbox, "state", &["verify", "odd"], &[]).expect_code(4);
    assert!(moved.stderr.contains("piaas-bake why"), "{}", moved.stderr);
    let _ = run(&sandbox, "state", &["bake", "odd"], &[]).expect_code(0);
    let differs = run(&sandbox, "state", &["verify", "odd", "--keep"], &[]).expect_code(4);
    assert!(
        differs.stdout.contains("\n  ~ /etc/odd  content\n"),
        "{}",
        differs.stdout
    );
    assert!(differs.stdout.contains("files of no changed package: 1\n"));
    assert!(sandbox.path().join("state/verify/cloud/snapshots").is_dir());
}

/// A lock file without packages that pins the base image of us-east-1.
fn pinning(id: &str) -> String {
    format!(
        "lock: 1\nrecipe: web\nbase: {{ us-east-1 x86_64: {id}, eu-west-1 x86_64: ami-0123456789abcdef0 }}\n\
         asked: [jq]\nindexes: []\npackages: []\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn the_base_image_is_the_one_that_is_locked() {
    let sandbox = Sandbox::new();
    sandbox.write("recipes/web/recipe.yaml", RECIPE);
    let clock = SystemClock::shared();
    let driver = Arc::new(Scripted::new(clock.clone()));
    let cloud = LocalCloud::open(&sandbox.path().join("served"), driver, clock).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(serve(cloud, listener, std::future::pending()));
    let plan = async |lock: &str, code: i32| {
        sandbox.write("recipes/web/recipe.lock", lock);
        let mut command = sandbox.command(&["plan", "web", "--locked", "--format", "json"]);
        command
            .args(["--cloud", "aws", "--region", "us-east-1"])
            .env("AWS_ENDPOINT_URL", &endpoint)
            .env("AWS_ACCESS_KEY_ID", ACCESS_KEY)
            .env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
        let output = tokio::task::spawn_blocking(move || command.output());
        Run::from(output.await.unwrap().unwrap()).expect_code(code)
    };
    let json = |run: Run| serde_json::from_str::<serde_json::Value>(&run.stdout).unwrap();
    let pinned = json(plan(&pinning(BASE_IMAGE), 0).await);
    assert_eq!(pinned["base_image"], BASE_IMAGE, "{pinned}");
    let free = pinning(BASE_IMAGE).replace("base: ", "# base: ");
    let free = json(plan(&free, 0).await);
    assert_eq!(free["base_image"], BASE_IMAGE, "{free}");
    assert_ne!(pinned["digest"], free["digest"]);
    // Another one than the parameter names now; it is not there any more.
    let gone = plan(&pinning("ami-00000000000000000"), 4).await;
    for part in [
        "ami-00000000000000000 does not exist",
        "the lock file names it",
        "--update",
    ] {
        assert!(gone.stderr.contains(part), "{}", gone.stderr);
    }
}
