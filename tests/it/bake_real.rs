//! The whole flow on real machines, through the binary as a user runs it.

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use sha2::Digest as _;

use crate::support::{self, Run, Sandbox, cache_dir, left_on_host, machines_wanted};

/// A value that breaks every tool that pastes values into commands.
const HOSTILE: &str = "it's \"$(touch /pwned)\" `id`; rm -rf /x\n--newline {{ ssm }} \\ é";

const TINY: &str = r#"schema: piaas-bake/v1
name: tiny
version: 1.0.0
description: The smallest recipe that shows a bake.
from:
  ssm: /aws/service/debian/release/12/latest/amd64
parameters:
  greeting: { type: string, description: Text to keep. }
files:
  - path: /etc/tiny.conf
    content: "plain\n"
    mode: "0640"
steps:
  - name: Keep the greeting
    run: |
      printf '%s' {{ greeting }} > /etc/greeting
      echo "greeting kept"
validate:
  - name: The greeting is there
    run: test -s /etc/greeting
test:
  - name: The machine booted with it
    run: test -s /etc/greeting && test "$(stat -c %a /etc/tiny.conf)" = 640
"#;

fn sandbox(name: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write(
        &format!("recipes/{name}/recipe.yaml"),
        &TINY.replace("tiny", name),
    );
    sandbox
}

fn start(sandbox: &Sandbox, args: &[&str]) -> Child {
    sandbox
        .command(args)
        .env("PIAAS_CACHE_DIR", cache_dir())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts")
}

fn run(sandbox: &Sandbox, args: &[&str]) -> Run {
    Run::from(
        start(sandbox, args)
            .wait_with_output()
            .expect("the binary ends"),
    )
}

fn json(run: &Run) -> serde_json::Value {
    serde_json::from_str(&run.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}\n{}", run.stdout, run.stderr))
}

/// Waits until the recipe's step has begun on a machine of the bake, which must not end before.
fn wait_for_the_step(bake: &mut Child, sandbox: &Sandbox) {
    let deadline = Instant::now() + Duration::from_secs(120);
    let begun = || {
        let instances = std::fs::read_dir(sandbox.state().join("cloud/instances"));
        instances
            .into_iter()
            .flatten()
            .flatten()
            .any(|instance| instance.path().join("upper/etc/greeting").exists())
    };
    while !begun() {
        assert!(Instant::now() < deadline, "the step has not begun");
        assert_eq!(bake.try_wait().unwrap(), None, "the bake ended early");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn assert_nothing_left(state: &Path) {
    assert_eq!(left_on_host(state), Vec::<String>::new());
    let instances = state.join("cloud/instances");
    let left: Vec<_> = std::fs::read_dir(&instances)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    assert!(left.is_empty(), "machines' files are left: {left:?}");
}

#[test]
fn a_recipe_becomes_a_tested_image_and_a_hostile_value_arrives_unchanged() {
    if !machines_wanted("the bake on real machines") {
        return;
    }
    let sandbox = sandbox("tiny");
    let set = format!("greeting={HOSTILE}");
    // Planned, and then exactly that: the recipe changes in between, and nobody cares.
    let _ = run(
        &sandbox,
        &["plan", "tiny", "--set", &set, "-o", "tiny.plan"],
    )
    .expect_code(0);
    let recipe = sandbox.recipes().join("tiny/recipe.yaml");
    std::fs::rename(&recipe, sandbox.path().join("kept")).unwrap();
    let baked = json(&run(&sandbox, &["bake", "tiny.plan", "--format", "json"]).expect_code(0));
    std::fs::rename(sandbox.path().join("kept"), &recipe).unwrap();
    let image = baked["image_id"]
        .as_str()
        .expect("a bake ends with its image")
        .to_owned();
    assert!(
        baked["name"].as_str().unwrap().starts_with("tiny-1.0.0-"),
        "{baked}"
    );

    let seen = run(
        &sandbox,
        &["cloud", "run", &image, "--", "cat", "/etc/greeting"],
    )
    .expect_code(0);
    assert_eq!(seen.stdout, HOSTILE);
    let pwned = run(
        &sandbox,
        &["cloud", "run", &image, "--", "test", "-e", "/pwned"],
    )
    .expect_code(1);
    assert!(!pwned.stderr.contains("caused by"), "{}", pwned.stderr);

    // The plan was for a cloud without this image.
    let moved = run(&sandbox, &["bake", "tiny.plan"]).expect_code(4);
    let message = format!("{image} has been baked from the same since");
    assert!(moved.stderr.contains(&message), "{}", moved.stderr);

    // The same recipe and values: nothing to do, nothing made.
    let again = json(
        &run(
            &sandbox,
            &["bake", "tiny", "--set", &set, "--format", "json"],
        )
        .expect_code(0),
    );
    assert_eq!(again["image_id"], image.as_str());
    assert_eq!(again["outcome"], "already-baked");

    // The disk is a disk: e2fsck and sgdisk agree.
    let disk = sandbox.path().join("disk.raw");
    let export = ["images", "export", &image, "-o", disk.to_str().unwrap()];
    let _ = run(&sandbox, &export).expect_code(0);
    judge_disk(&disk);
    assert_no_half_disk(&sandbox, &image);
    let over = run(&sandbox, &export).expect_code(1);
    assert!(
        over.stderr.contains("choose a file that does not exist"),
        "{}",
        over.stderr
    );
    assert_nothing_left(&sandbox.state());
}

/// An export that is killed leaves no disk that is not whole, and nothing is in the way of the next one.
fn assert_no_half_disk(sandbox: &Sandbox, image: &str) {
    let out = sandbox.path().join("exported");
    std::fs::create_dir(&out).unwrap();
    let disk = out.join("disk.raw");
    let export = ["images", "export", image, "-o", disk.to_str().unwrap()];
    for call in ["fsync", "renameat2"] {
        let child = sandbox.command(&export);
        let status = std::process::Command::new("strace")
            .args(["-f", "-qq", "-o/dev/null"])
            .arg(format!("--inject={call}:signal=SIGKILL:when=1"))
            .arg(child.get_program())
            .args(child.get_args())
            .envs(
                child
                    .get_envs()
                    .filter_map(|(key, value)| Some((key, value?))),
            )
            .current_dir(sandbox.path())
            .status()
            .unwrap();
        assert_eq!(status.signal(), Some(9), "{call}");
        assert!(!disk.exists(), "{call}");
    }
    let _ = run(sandbox, &export).expect_code(0);
    judge_disk(&disk);
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 1);
}

#[test]
fn what_a_recipe_installs_is_noted_and_up_to_date_right_after() {
    if !machines_wanted("the packages of a bake on real machines") {
        return;
    }
    let sandbox = Sandbox::new();
    let with = |name: &str, from: &str, package: &str| {
        sandbox.write(
            &format!("recipes/{name}/recipe.yaml"),
            &format!(
                "schema: piaas-bake/v1\nname: {name}\nversion: 1.0.0\ndescription: Packages.\nfrom: {from}\npackages: [{package}]\n"
            ),
        );
    };
    with(
        "lower",
        "{ ssm: /aws/service/debian/release/12/latest/amd64 }",
        "jq",
    );
    with("upper", "{ recipe: lower, version: ^1 }", "tree");
    let noted = |name: &str| {
        let _ = run(&sandbox, &["bake", name]).expect_code(0);
        let shown = run(&sandbox, &["images", "show", name, "--format", "json"]).expect_code(0);
        let shown: serde_json::Value = serde_json::from_str(&shown.stdout).unwrap();
        shown["packages"]["parts"]
            .as_array()
            .expect("it was noted")
            .clone()
    };
    let names = |part: &serde_json::Value| -> Vec<String> {
        let packages = part["packages"].as_array().unwrap();
        packages
            .iter()
            .map(|one| one["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let lower = noted("lower");
    assert_eq!(lower.len(), 1);
    // jq, the libraries that it needs, and nothing that the base had already.
    let installed = names(&lower[0]);
    assert!(
        installed.contains(&"jq".to_owned()) && installed.len() < 10,
        "{installed:?}"
    );
    let suites = lower[0]["indexes"].to_string();
    for suite in [
        "dists/bookworm/",
        "dists/bookworm-updates/",
        "dists/bookworm-security/",
    ] {
        assert!(suites.contains(suite), "{suites}");
    }
    let upper = noted("upper");
    assert_eq!(upper[0], lower[0]);
    assert_eq!(names(&upper[1]), ["tree"]);
    let judged = run(&sandbox, &["rebake", "--stale", "--dry-run"]).expect_code(0);
    for recipe in ["lower", "upper"] {
        assert!(
            judged.stderr.contains(&format!("{recipe} is up to date")),
            "{}",
            judged.stderr
        );
    }
    assert_nothing_left(&sandbox.state());
}

/// Independent judges of a finished disk: `sgdisk -v` and, on the root partition, `e2fsck -fn`; and the seal holds.
fn judge_disk(disk: &Path) {
    let tool = |program: &str, args: &[&str]| {
        Run::from(
            std::process::Command::new(program)
                .args(args)
                .output()
                .unwrap_or_else(|error| panic!("{program}: {error}")),
        )
    };
    let path = disk.to_str().unwrap();
    let verdict = tool("sgdisk", &["-v", path]).expect_code(0);
    assert!(
        verdict.stdout.contains("No problems found"),
        "{}",
        verdict.stdout
    );
    let info = tool("sgdisk", &["-i", "2", path]).expect_code(0).stdout;
    let sector = |label: &str| -> u64 {
        let line = info
            .lines()
            .find(|line| line.starts_with(label))
            .unwrap_or_else(|| panic!("{label}: {info}"));
        line.split_whitespace()
            .nth(2)
            .and_then(|number| number.parse().ok())
            .expect("sgdisk prints a sector number")
    };
    let root = format!("{path}?offset={}", sector("First sector") * 512);
    let _ = tool("e2fsck", &["-fn", &root]).expect_code(0);
    for gone in [
        "/etc/ssh/ssh_host_ed25519_key",
        "/var/lib/systemd/random-seed",
        "/var/lib/piaas-bake",
    ] {
        let stat = tool("debugfs", &["-R", &format!("stat {gone}"), &root]);
        assert!(
            stat.stderr.contains("File not found"),
            "{gone} is in the image: {}",
            stat.stdout
        );
    }
}

#[test]
fn a_known_leak_is_refused_by_name_wherever_it_is_made_until_the_recipe_has_its_line() {
    if !machines_wanted("known leaks on real machines") {
        return;
    }
    let sandbox = Sandbox::new();
    // The one is there when the builder is sealed. The other is written by a service that stops with the machine, after
    // the builder was found clean, as a database does.
    let recipe = r#"schema: piaas-bake/v1
name: leaky
version: 1.0.0
description: Makes what is new in every bake.
from: { ssm: /aws/service/debian/release/12/latest/amd64 }
files:
  - path: /etc/systemd/system/store.service
    content: |
      [Service]
      Type=oneshot
      RemainAfterExit=yes
      ExecStart=/bin/true
      ExecStop=/bin/sh -c 'date +%%N >/var/lib/redis/dump.rdb'
steps:
  - name: Make a server
    run: |
      mkdir -p /var/lib/mysql /var/lib/redis
      cat /proc/sys/kernel/random/uuid >/var/lib/mysql/auto.cnf
      systemctl start store.service
"#;
    let bake = |lines: &[&str], code| {
        let seal: String = lines.iter().map(|line| format!("  {line}\n")).collect();
        let seal = if lines.is_empty() {
            seal
        } else {
            format!("seal:\n{seal}")
        };
        sandbox.write("recipes/leaky/recipe.yaml", &format!("{recipe}{seal}"));
        run(&sandbox, &["bake", "leaky"]).expect_code(code)
    };
    let server = "- { path: /var/lib/mysql/auto.cnf, action: gone }";
    let store = "- { path: /var/lib/redis/dump.rdb, action: gone }";
    let first = bake(&[], 6).stderr;
    for said in [
        "the builder is not clean after sealing",
        "/var/lib/mysql/auto.cnf (random: the id of the server)",
        server,
    ] {
        assert!(first.contains(said), "no {said} in\n{first}");
    }
    let second = bake(&[server], 6).stderr;
    for said in [
        "the finished disk is not clean after sealing",
        "/var/lib/redis/dump.rdb (clock: when it was saved)",
        store,
    ] {
        assert!(second.contains(said), "no {said} in\n{second}");
    }
    let images = json(&run(&sandbox, &["images", "list", "--format", "json"]).expect_code(0));
    assert_eq!(images["images"], serde_json::json!([]));
    let image = bake(&[server, store], 0).stdout;
    let none = "test ! -e /var/lib/mysql/auto.cnf && test ! -e /var/lib/redis/dump.rdb";
    let _ = run(
        &sandbox,
        &["cloud", "run", image.trim(), "--", "sh", "-c", none],
    )
    .expect_code(0);
    let kept = "- { path: /var/lib/redis/*, action: keep, reason: The same start for all. }";
    let image = bake(&[server, kept], 0).stdout;
    let there = "test -s /var/lib/redis/dump.rdb";
    let _ = run(
        &sandbox,
        &["cloud", "run", image.trim(), "--", "sh", "-c", there],
    )
    .expect_code(0);
    assert_nothing_left(&sandbox.state());
}

#[test]
fn two_bakes_of_two_recipes_at_once() {
    if !machines_wanted("two bakes at once on real machines") {
        return;
    }
    let sandbox = sandbox("tiny");
    sandbox.write("recipes/other/recipe.yaml", &TINY.replace("tiny", "other"));
    let both = ["tiny", "other"].map(|name| {
        start(
            &sandbox,
            &["bake", name, "--set", "greeting=hello", "--format", "json"],
        )
    });
    let images: Vec<String> = both
        .into_iter()
        .map(|child| {
            json(&Run::from(child.wait_with_output().unwrap()).expect_code(0))["image_id"]
                .to_string()
        })
        .collect();
    assert_ne!(images[0], images[1]);
    assert_nothing_left(&sandbox.state());
}

#[test]
fn kill_9_in_the_middle_of_a_bake_then_gc_leaves_nothing() {
    if !machines_wanted("kill -9 in the middle of a bake") {
        return;
    }
    let sandbox = sandbox("tiny");
    let recipe = TINY.replace(
        "echo \"greeting kept\"",
        "touch /run/in-the-step; sleep 600",
    );
    sandbox.write("recipes/tiny/recipe.yaml", &recipe);
    let mut bake = start(&sandbox, &["bake", "tiny", "--set", "greeting=hello"]);
    wait_for_the_step(&mut bake, &sandbox);
    bake.kill().unwrap();
    let _ = bake.wait();

    let status = run(&sandbox, &["cloud", "status"]).expect_code(0);
    assert!(
        status.stdout.contains("running"),
        "the machine outlives its client:\n{}",
        status.stdout
    );
    // Said first, and changed only when that is wanted.
    let said = run(&sandbox, &["gc"]).expect_code(0);
    assert!(
        said.stdout.contains("its run died on this host"),
        "{}",
        said.stdout
    );
    // With its journal lost it may be of another host, where its run is under way.
    let (runs, away) = (sandbox.state().join("runs"), sandbox.path().join("away"));
    std::fs::rename(&runs, &away).unwrap();
    let kept = json(&run(&sandbox, &["gc", "--yes", "--format", "json"]).expect_code(0));
    assert_eq!(kept["removed"], serde_json::json!([]));
    let kinds: Vec<&str> = kept["keep"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["machine", "security-group", "lease"]);
    let machine = kept["keep"][0]["id"].as_str().unwrap();
    std::fs::rename(&away, &runs).unwrap();
    let _ = run(&sandbox, &["gc", "--yes"]).expect_code(0);
    assert_nothing_left(&sandbox.state());
    let second = json(&run(&sandbox, &["cloud", "gc", "--format", "json"]).expect_code(0));
    // The groups of a machine have no cloud's name: those of another test may be left.
    let of_others =
        |left: &&serde_json::Value| left["kind"] == "control-group" && left["id"] != machine;
    let left = second["left_behind"].as_array().unwrap().iter();
    assert_eq!(left.filter(|one| !of_others(one)).count(), 0, "{second}");
    for nothing in ["dead_runs", "secrets", "layers"] {
        assert_eq!(second[nothing], serde_json::json!([]), "{second}");
    }
    let orphans = second["orphans"].as_object().unwrap();
    assert!(
        orphans
            .values()
            .all(|ids| ids.as_array().unwrap().is_empty()),
        "{second}"
    );
}

#[test]
fn kill_9_in_the_middle_of_a_step_then_the_bake_is_gone_on_with() {
    if !machines_wanted("a bake that is killed and gone on with") {
        return;
    }
    let sandbox = sandbox("tiny");
    let recipe = TINY
        .replace(
            "echo \"greeting kept\"",
            "echo once >>/etc/ran; sleep 3; echo \"greeting kept\"",
        )
        .replace(
            "run: test -s /etc/greeting\ntest:",
            "run: test \"$(cat /etc/ran)\" = once\ntest:",
        );
    sandbox.write("recipes/tiny/recipe.yaml", &recipe);
    let mut bake = start(&sandbox, &["bake", "tiny", "--set", "greeting=hello"]);
    wait_for_the_step(&mut bake, &sandbox);
    bake.kill().unwrap();
    let _ = bake.wait();

    // What has become of the recipe since does not matter.
    sandbox.write("recipes/tiny/recipe.yaml", "broken\n");
    let runs = run(&sandbox, &["runs"]).expect_code(0);
    assert!(
        runs.stdout.contains("died, can be resumed"),
        "{}",
        runs.stdout
    );
    let baked = json(&run(&sandbox, &["bake", "--resume", "--format", "json"]).expect_code(0));
    assert_eq!(baked["left_over"], serde_json::json!([]));
    assert_nothing_left(&sandbox.state());
    let image = baked["image_id"].as_str().unwrap();
    let seen = run(
        &sandbox,
        &[
            "cloud",
            "run",
            image,
            "--",
            "cat",
            "/etc/ran",
            "/etc/greeting",
        ],
    );
    assert_eq!(seen.expect_code(0).stdout, "once\nhello");

    let id = baked["run"].as_str().unwrap();
    let shown = run(&sandbox, &["runs", "show", id]).expect_code(0);
    for part in ["state    baked", "resumed", "of       bake tiny 1.0.0"] {
        assert!(shown.stdout.contains(part), "{part}: {}", shown.stdout);
    }
    let kept = std::fs::read_dir(sandbox.state().join("runs")).unwrap();
    let plans = kept
        .flatten()
        .filter(|one| one.path().extension().is_some_and(|end| end == "plan"));
    assert_eq!(plans.count(), 0, "the plan was for whoever goes on with it");
    let again = run(&sandbox, &["bake", "--resume", id]).expect_code(1);
    assert!(again.stderr.contains("is over (baked)"), "{}", again.stderr);
    let none = run(&sandbox, &["bake", "--resume"]).expect_code(1);
    assert!(
        none.stderr.contains("there is no bake to go on with"),
        "{}",
        none.stderr
    );
}

#[test]
fn ctrl_c_removes_everything_and_exits_130() {
    if !machines_wanted("Ctrl-C in the middle of a bake") {
        return;
    }
    let sandbox = sandbox("tiny");
    sandbox.write(
        "recipes/tiny/recipe.yaml",
        &TINY.replace("echo \"greeting kept\"", "sleep 600"),
    );
    let mut bake = start(&sandbox, &["bake", "tiny", "--set", "greeting=hello"]);
    let pid = rustix::process::Pid::from_raw(i32::try_from(bake.id()).unwrap()).unwrap();
    wait_for_the_step(&mut bake, &sandbox);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let _ = Run::from(bake.wait_with_output().unwrap()).expect_code(130);
    assert_nothing_left(&sandbox.state());
}

#[test]
fn several_recipes_at_once_share_what_they_are_built_on() {
    if !machines_wanted("several recipes at once on real machines") {
        return;
    }
    let sandbox = sandbox("tiny");
    let tiny = TINY.replace("Text to keep.", "Text to keep., default: hello");
    sandbox.write("recipes/tiny/recipe.yaml", &tiny);
    for name in ["one", "two", "bad"] {
        let code = if name == "bad" { 3 } else { 0 };
        let child = format!(
            "schema: piaas-bake/v1
name: {name}
version: 1.0.0
description: A child.
from: {{ recipe: tiny }}
steps:
  - name: Say who it is
    run: echo {name} >/etc/child; exit {code}
"
        );
        sandbox.write(&format!("recipes/{name}/recipe.yaml"), &child);
    }
    let baked = run(
        &sandbox,
        &["bake", "one", "two", "bad", "--format", "ndjson"],
    )
    .expect_code(6);
    let lines: Vec<serde_json::Value> = baked
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    support::assert_events_fit_their_schema(&baked.stdout);
    let started = |recipe: &str| -> String {
        let mut all = lines
            .iter()
            .filter(|line| line["event"] == "started" && line["recipe"] == recipe);
        let start = all.next().unwrap()["start_image"].as_str().unwrap();
        assert!(all.next().is_none(), "{recipe} was begun twice");
        start.to_owned()
    };
    let result = &lines.last().unwrap()["result"]["recipes"];
    let of = |recipe: &str| {
        let all = result.as_array().unwrap();
        all.iter().find(|one| one["recipe"] == recipe).unwrap()
    };
    // The parent was nobody's wish, is made once, and both start from it.
    assert_ne!(started("tiny"), started("one"));
    assert_eq!(of("tiny")["outcome"], "baked");
    for child in ["one", "two"] {
        assert_eq!(of(child)["outcome"], "baked");
        assert_eq!(started(child), of("tiny")["image_id"]);
    }
    assert_eq!(of("bad")["outcome"], "failed");
    assert_eq!(of("bad")["error"]["exit_code"], 6);
    assert!(
        baked
            .stderr
            .contains("1 of 3 recipes could not be baked: bad"),
        "{}",
        baked.stderr
    );
    assert_nothing_left(&sandbox.state());

    // Kept for a look, entered, and removed.
    let kept = run(&sandbox, &["bake", "bad", "--keep-on-failure"]).expect_code(7);
    let way_in = kept
        .stderr
        .lines()
        .find_map(|line| line.split_once("get in with: piaas-bake "))
        .unwrap_or_else(|| panic!("{}", kept.stderr))
        .1;
    let mut words: Vec<&str> = way_in.split(' ').collect();
    words.extend(["--", "cat", "/etc/child"]);
    let seen = run(&sandbox, &words).expect_code(0);
    assert_eq!(seen.stdout, "bad\n");
    let _ = run(&sandbox, &["cloud", "gc"]).expect_code(0);
    assert_nothing_left(&sandbox.state());
    let gone = run(&sandbox, &words).expect_code(1);
    assert!(
        gone.stderr.contains("runs in the local cloud"),
        "{}",
        gone.stderr
    );
}

#[test]
fn a_failing_step_says_what_failed_shows_its_last_lines_and_leaves_nothing() {
    if !machines_wanted("a failing step on real machines") {
        return;
    }
    let sandbox = sandbox("tiny");
    let recipe = TINY.replace("echo \"greeting kept\"", "echo the-last-word; exit 3");
    sandbox.write("recipes/tiny/recipe.yaml", &recipe);
    let failed = run(&sandbox, &["bake", "tiny", "--set", "greeting=hello"]).expect_code(6);
    for part in ["Keep the greeting", "the-last-word", ".log", "3"] {
        assert!(
            failed.stderr.contains(part),
            "{part:?} is not in\n{}",
            failed.stderr
        );
    }
    assert_nothing_left(&sandbox.state());
}

/// Noise, which no compression makes smaller; the same for the same seed.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        // SplitMix64 (Steele, Lea, Flood 2014).
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend_from_slice(&(mixed ^ (mixed >> 31)).to_be_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// A tree of 64 MB, four times what commands carry: through a bucket, by the machine's own curl.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_tree_goes_through_a_bucket_in_one_command() {
    const FILES: u64 = 8;
    if !machines_wanted("a large bundle through S3 on real machines") {
        return;
    }
    let sandbox = Sandbox::new();
    let mut sums = String::new();
    for number in 0..FILES {
        let bytes = noise(number, 8_000_000);
        let sum = hex::encode(sha2::Sha256::digest(&bytes));
        sums.push_str(&format!("{sum}  /opt/large/{number}\n"));
        let place = sandbox.path().join(format!("recipes/large/data/{number}"));
        std::fs::create_dir_all(place.parent().unwrap()).unwrap();
        std::fs::write(place, bytes).unwrap();
    }
    sandbox.write(
        "recipes/large/recipe.yaml",
        "schema: piaas-bake/v1\nname: large\nversion: 1.0.0\ndescription: Large.\n\
         from: { ssm: /aws/service/debian/release/12/latest/amd64 }\n\
         files:\n  - { path: /opt/large, tree: data }\n  - { path: /opt/sums, source: sums }\n\
         test:\n  - name: All of it is there\n    run: sha256sum --check --quiet /opt/sums\n",
    );
    sandbox.write("recipes/large/sums", &sums);

    // Without a bucket it is refused before anything is made.
    let refused = run(&sandbox, &["bake", "large"]).expect_code(1);
    assert!(
        refused.stderr.contains("bundle_bucket"),
        "{}",
        refused.stderr
    );

    let clients = crate::aws::real(&sandbox.state().join("cloud")).await;
    let create = clients.s3.create_bucket().bucket("bundles");
    create.send().await.unwrap();
    sandbox.write(
        "piaas-bake.yaml",
        "bundle_bucket: bundles\nbundle_prefix: of/bakes/\n",
    );
    let baked = run(&sandbox, &["bake", "large", "--format", "ndjson"]).expect_code(0);
    let said = &baked.stderr;
    let puts = baked.stdout.matches(r#""event":"created","kind":"bundle""#);
    assert_eq!(puts.count(), 2, "{}\n{said}", baked.stdout);
    let status = run(&sandbox, &["cloud", "status"]).expect_code(0).stdout;
    let empty = "bucket bundles in us-east-1: 0 objects, 0 bytes";
    assert!(status.contains(empty), "{status}");
    assert_eq!(
        crate::support::holding(&sandbox.state(), "X-Amz-Signature"),
        [] as [String; 0]
    );
    assert_nothing_left(&sandbox.state());
}
