//! Images compared by what machines of theirs list, as on AWS: real machines, behind the AWS API of `cloud serve`.

use std::collections::BTreeSet;
use std::io::BufRead as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use piaas_bake::bake::calls::calls;
use piaas_bake::bake::names::RunId;
use piaas_bake::bake::plan::Plan;
use piaas_bake::bake::{Cancel, Settings, images, list_both};
use piaas_bake::clock::SystemClock;
use piaas_bake::iam;
use piaas_bake::image::SOURCE_DATE;
use piaas_bake::image::leaks::booted::Traces;
use piaas_bake::image::tree::listing::Attributes;
use piaas_bake::image::tree::{EntryType, TreeManifest};
use piaas_bake::localcloud::engine::LocalCloud;
use piaas_bake::localcloud::nspawn::NspawnDriver;
use piaas_bake::localcloud::{ACCOUNT_ID, BASE_IMAGE, DEFAULT_REGION, connector};
use piaas_bake::recipe::model::{BaseRef, BuildSpec};
use serde_json::{Value, json};

use crate::aws;
use crate::bake_flow::cloud::Wire;
use crate::clients::Serve;
use crate::iam::{Judge, PLACE};
use crate::support::{BIN, Run, Sandbox, left_on_host, machines_wanted};

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
  - name: Make what is hard to list
    run: |
      mkdir -p /opt/old /srv/names
      echo old >/opt/old/file
      printf x >"/srv/names/$(printf 'two\nlines')"
      printf x >"/srv/names/$(printf 'no text \377 \\ ')"
      ln /srv/names/two* /srv/names/link
      mkfifo /srv/names/pipe && mknod /srv/names/null c 1 3
      setcap cap_net_raw+ep /usr/bin/sha512sum
"#;

/// The same with another file, another mode, another capability, a service that is enabled and another directory.
fn after() -> String {
    BEFORE
        .replace("version: 1.0.0", "version: 1.1.0")
        .replace("one\\n", "two, and more\\n")
        .replace("/opt/old", "/opt/new")
        .replace("cap_net_raw+ep", "cap_chown+ep")
        .replace(
            "mkfifo",
            "systemctl enable web.service && chmod 4755 /usr/bin/true && mkfifo",
        )
}

/// A cloud to be reached as AWS is, and who bakes there.
struct World {
    sandbox: Sandbox,
    server: Serve,
}

impl World {
    fn new() -> Self {
        let sandbox = Sandbox::new();
        let server = Serve::start(&sandbox);
        Self { sandbox, server }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.sandbox.command(args);
        command
            .args(["--cloud", "aws", "--region", DEFAULT_REGION])
            .env("PIAAS_STATE_DIR", self.sandbox.path().join("own"))
            .envs(aws::way_to(self.server.endpoint()))
            .stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str], code: i32) -> Run {
        Run::from(self.command(args).output().unwrap()).expect_code(code)
    }

    fn json(&self, args: &[&str], code: i32) -> Value {
        let run = self.run(&[args, &["--format", "json"]].concat(), code);
        serde_json::from_str(&run.stdout).unwrap()
    }

    fn bake(&self, recipe: &str, more: &[&str]) -> String {
        self.sandbox.write("recipes/web/recipe.yaml", recipe);
        let baked = self.json(&[&["bake", "web"], more].concat(), 0);
        baked["image_id"].as_str().unwrap().to_owned()
    }

    /// The ids of all images, and what else there is of them and of machines.
    fn things(&self) -> (BTreeSet<String>, Vec<PathBuf>) {
        let list = self.json(&["images", "list"], 0);
        let images = list["images"].as_array().unwrap().iter();
        let images = images.map(|image| image["image_id"].as_str().unwrap().to_owned());
        let cloud = self.sandbox.state().join("cloud");
        let entries = ["instances", "snapshots"].map(|name| std::fs::read_dir(cloud.join(name)));
        let paths = entries.into_iter().flatten().flatten().flatten();
        let paths = paths.map(|entry| entry.path());
        // One that was still being written when it was deleted goes with the next one.
        let mut paths: Vec<PathBuf> = paths
            .filter(|path| !path.join("deleted").exists())
            .collect();
        paths.sort();
        (images.collect(), paths)
    }

    /// Waits until all is as it was: who writes a disk that nobody wants any more ends a little later.
    fn settles_to(&self, things: &(BTreeSet<String>, Vec<PathBuf>)) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.things() != *things {
            assert!(Instant::now() < deadline, "left: {:?}", self.things());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn end(self) {
        self.server.end();
        let instances = self.sandbox.state().join("cloud/instances");
        assert_eq!(std::fs::read_dir(instances).unwrap().count(), 0);
        let state = std::fs::read_to_string(self.sandbox.state().join("cloud/state.json")).unwrap();
        assert!(!state.contains("piaas-bake-2"), "a security group is left");
        assert_eq!(left_on_host(&self.sandbox.state()), [] as [String; 0]);
    }
}

/// What changed, as `+path`, `-path` or `~path aspects`.
fn words(document: &Value, key: &str) -> BTreeSet<String> {
    let changes = document[key].as_array().unwrap().iter();
    let words = changes.map(|change| {
        let path = |side: &str| match &change[side]["path"] {
            Value::Array(bytes) => format!("{bytes:?}"),
            path => path.as_str().unwrap_or_default().to_owned(),
        };
        match (&change["from"], &change["to"]) {
            (Value::Null, _) => format!("+{}", path("to")),
            (_, Value::Null) => format!("-{}", path("from")),
            _ => format!("~{} {}", path("to"), change["differs"]),
        }
    });
    words.collect()
}

#[test]
fn what_two_images_on_aws_differ_in_is_told_but_for_what_a_boot_writes() {
    if !machines_wanted("what two images on AWS differ in") {
        return;
    }
    let world = World::new();
    let before = world.bake(BEFORE, &[]);
    let again = world.bake(BEFORE, &["--force"]);
    let now = world.bake(&after(), &[]);
    let things = world.things();

    let found = world.json(&["diff", &before, &now, "--exit-code"], 4);
    assert_eq!(found["same"], false);
    let expected = [
        "+etc/systemd/system/multi-user.target.wants/web.service",
        "+opt/new",
        "+opt/new/file",
        "-opt/old",
        "-opt/old/file",
        "~etc/web.conf [\"content\",\"size\"]",
        "~usr/bin/sha512sum [\"xattrs\"]",
        "~usr/bin/true [\"mode\"]",
    ];
    assert_eq!(words(&found, "files"), expected.map(str::to_owned).into());
    assert_eq!(found["services"][0]["unit"], "web.service");
    assert_ne!(found["from"]["tree_digest"], found["to"]["tree_digest"]);
    let booted = words(&found, "but_for");
    assert!(
        booted.contains("~etc/machine-id [\"content\"]"),
        "{booted:?}"
    );
    for one in found["but_for"].as_array().unwrap() {
        assert!(one["why"].as_str().unwrap().contains(": "), "{one}");
    }
    // The disks of this cloud say the same, as far as it is not about what a boot writes.
    let disks = world
        .sandbox
        .run(&["diff", &before, &now, "--format", "json"]);
    let disks: Value = serde_json::from_str(&disks.expect_code(0).stdout).unwrap();
    assert_eq!(words(&disks, "files"), words(&found, "files"));
    let grown = |of: &Value| {
        let [from, to] = ["from", "to"].map(|side| of["total"][side].as_i64().unwrap());
        to - from
    };
    assert_eq!(grown(&disks), grown(&found));

    let text = world.run(&["diff", &before, &now], 0).stdout;
    for part in [
        "  ~ /etc/web.conf  content, 4 -> 14 bytes\n",
        "\nnot counted, for a boot writes there: ",
        "  ~ /etc/machine-id  content  (random: the id of the machine)\n",
        "\ntree, without what a boot writes: ",
        "not compared: times of directories, ",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }

    // Of one recipe, and one and the same image.
    let digest = found["from"]["tree_digest"].as_str().unwrap();
    for other in [&again, &before] {
        let same = world
            .run(&["diff", &before, other, "--exit-code"], 0)
            .stdout;
        assert!(same.starts_with("the same content but for "), "{same}");
        assert!(same.contains("(random: the id of the machine)"), "{same}");
        assert!(same.contains(&format!("writes: {digest}\n")), "{same}");
    }
    world.settles_to(&things);
    world.end();
}

#[test]
fn an_image_on_aws_is_verified_beside_itself_and_nothing_stays() {
    if !machines_wanted("an image on AWS, baked again") {
        return;
    }
    let world = World::new();
    world.sandbox.write("recipes/web/recipe.yaml", BEFORE);
    let unlocked = world.run(&["lock", "web"], 0);
    assert!(
        unlocked.stderr.contains("0 packages"),
        "{}",
        unlocked.stderr
    );
    let image = world.bake(BEFORE, &[]);
    let things = world.things();
    let same = world.run(&["verify", "web"], 0).stdout;
    assert!(
        same.contains(" is the same when it is baked again\nthe same content but for "),
        "{same}"
    );
    world.settles_to(&things);

    // Whoever interrupts it while machines list leaves nothing either.
    let mut verify = world
        .command(&["verify", &image, "--format", "ndjson"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufReader::new(verify.stdout.take().unwrap()).lines();
    let begun = lines.any(|line| line.unwrap().contains(r#""phase":"list""#));
    assert!(begun, "it never lists");
    let pid = rustix::process::Pid::from_child(&verify);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    lines.for_each(drop);
    assert_eq!(verify.wait().unwrap().code(), Some(130));
    world.settles_to(&things);

    let changing = format!("{BEFORE}      date +%N >/etc/stamp\n");
    let image = world.bake(&changing, &[]);
    let other = world.json(&["verify", &image, "--keep"], 4);
    let files = words(&other, "files");
    let stamp = |word: &String| word.starts_with("~etc/stamp [\"content\"");
    assert!(files.len() == 1 && files.iter().all(stamp), "{files:?}");
    let second = other["again"]["image_id"].as_str().unwrap();
    assert!(world.things().0.contains(second));
    // Nothing names it.
    let web = world.json(&["images", "show", "web"], 0);
    assert_eq!(web["image_id"], image);
    world.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_lists_what_is_on_its_disk_by_calls_that_a_bake_makes_too() {
    if !machines_wanted("the list of a machine against its disk") {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.write("recipes/web/recipe.yaml", BEFORE);
    let _ = sandbox.run_on_machines(&["bake", "web"]).expect_code(0);
    let shown = sandbox.run(&["images", "show", "web", "--format", "json"]);
    let shown: Value = serde_json::from_str(&shown.expect_code(0).stdout).unwrap();
    let disk = PathBuf::from(shown["disk"].as_str().unwrap());
    let text = std::fs::read_to_string(disk.join("tree.jsonl")).unwrap();
    let mut on_disk = TreeManifest::parse(&text).unwrap();
    let dir = sandbox.state().join("cloud");
    let clock = SystemClock::shared();
    let driver = NspawnDriver::new(dir.clone(), crate::aws::base_dir(), PathBuf::from(BIN));
    let cloud = LocalCloud::open(&dir, Arc::new(driver), clock.clone()).unwrap();
    let wire = Wire::new(cloud.clone());
    let clients = crate::aws::connect(wire.client(), clock.clone()).await;
    let image = shown["image_id"].as_str().unwrap();
    let image = images::get(&clients, image).await.unwrap().unwrap();
    let base = images::get(&clients, BASE_IMAGE).await.unwrap().unwrap();
    let pair = [&image, &base];
    let plan = Plan::to_list(pair, BuildSpec::default(), SOURCE_DATE);
    let settings = Settings {
        runs: &sandbox.path().join("runs"),
        account: ACCOUNT_ID.into(),
        run: RunId::new(clock.now(), 1),
        bundles: None,
        cancel: Cancel::never(),
        keep_on_failure: false,
        layers: None,
        disks: None,
    };
    std::fs::create_dir(settings.runs).unwrap();
    let ami = BaseRef::Ami {
        id: image.id.clone(),
    };
    // By somebody who has the policy of a bake and no more.
    let judge = Judge::new(
        &iam::bake(&plan, &ami, None, PLACE),
        crate::aws::connect(connector(cloud), clock.clone()).await,
    );
    let judged = crate::aws::connect(judge.before(wire.client()), clock.clone()).await;
    let compared = list_both(&judged, &plan, pair, settings, &())
        .await
        .unwrap();
    assert_eq!(compared.left_over, []);
    let [listing, of_base] = compared.listings;
    assert_eq!(listing.tree.packages, of_base.tree.packages);

    let allowed = calls(&plan, &ami, None).into_iter();
    let allowed: BTreeSet<_> = allowed.map(|call| call.operation.to_owned()).collect();
    let called: BTreeSet<_> = wire.operations().into_iter().collect();
    assert!(
        called.contains("SendCommand") && called.is_subset(&allowed),
        "{called:?}"
    );

    // The base image has getcap: of attributes it tells capabilities, in words.
    assert_eq!(listing.attributes, Attributes::Capabilities);
    let mut on_machine = listing.tree;
    for entry in &mut on_disk.entries {
        if entry.kind == EntryType::Directory {
            entry.mtime = SOURCE_DATE;
        }
        entry
            .xattrs
            .retain(|(name, _)| name.0 == b"security.capability");
        for (_, value) in &mut entry.xattrs {
            value.0 = b"cap_net_raw=ep".to_vec();
        }
    }
    let traces = Traces::new(&[]);
    on_machine = traces.part(on_machine).content;
    on_disk = traces.part(on_disk).content;
    // Where the kernel's own file systems are, a machine sees these.
    for tree in [&mut on_machine, &mut on_disk] {
        let covered = |path: &[u8]| matches!(path, b"dev" | b"proc" | b"run" | b"sys");
        tree.entries.retain(|entry| !covered(&entry.path.0));
    }
    let lines = |tree: &TreeManifest| -> Vec<String> {
        let entries = tree.entries.iter();
        entries.map(|entry| json!(entry).to_string()).collect()
    };
    let (disk, machine) = (lines(&on_disk), lines(&on_machine));
    let (disk, machine): (BTreeSet<_>, BTreeSet<_>) =
        (disk.into_iter().collect(), machine.into_iter().collect());
    let missing: Vec<_> = disk.difference(&machine).collect();
    let added: Vec<_> = machine.difference(&disk).collect();
    assert!(
        missing.is_empty() && added.is_empty(),
        "{missing:#?}\n{added:#?}"
    );
    assert!(disk.iter().any(|line| line.contains("two\\nlines")));
    assert!(
        disk.iter()
            .any(|line| line.contains("\"path\":[115,114,118"))
    );
    assert_eq!(on_machine.digest(), on_disk.digest());
    assert_eq!(left_on_host(&sandbox.state()), [] as [String; 0]);
}
