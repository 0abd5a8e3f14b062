//! Lock files: the base image that they pin, and, on real machines, the packages: what is locked is what is installed,
//! and two bakes of it are the same to the last byte.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use std::sync::Arc;

use piaas_bake::clock::SystemClock;
use piaas_bake::image::SOURCE_DATE;
use piaas_bake::image::tree::Tree;
use piaas_bake::localcloud::base;
use piaas_bake::localcloud::engine::LocalCloud;
use piaas_bake::localcloud::nspawn::snapshot;
use piaas_bake::localcloud::scripted::Scripted;
use piaas_bake::localcloud::serve::serve;
use piaas_bake::localcloud::{ACCESS_KEY, BASE_IMAGE, SECRET_KEY};
use sha2::{Digest as _, Sha256};

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
    serde_json::to_value(snapshot::report(&snapshots[0]).unwrap()).unwrap()
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
    for name in ["jq", "libjq1", "libonig5", "libc6"] {
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

    let sha256 = sha256_of("jq", &text);
    a_mirror_is_not_needed(&sandbox, &text, &written);

    // Something else at the place of a package.
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

fn sha256_of<'a>(package: &str, lock: &'a str) -> &'a str {
    let name = format!("\"name\":\"{package}\"");
    let line = lock.lines().find(|line| line.contains(&name)).unwrap();
    let rest = line.split("\"sha256\":\"").nth(1).unwrap();
    rest.split('"').next().unwrap()
}

/// A host that has nothing but the lock file and the files that it names makes the same base and the same image, with a
/// mirror that is dead; and the mirror may drop what is locked.
fn a_mirror_is_not_needed(sandbox: &Sandbox, lock: &str, disk_before: &serde_json::Value) {
    let dead = "http://127.0.0.1:9";
    let other = sandbox.path().join("other-cache");
    std::fs::create_dir_all(other.join("debs")).unwrap();
    for entry in std::fs::read_dir(cache_dir().join("debs")).unwrap() {
        let from = entry.unwrap().path();
        let to = other.join("debs").join(from.file_name().unwrap());
        std::fs::copy(from, to).unwrap();
    }
    let offline = |state: &str| {
        let mut command = sandbox.command(&["bake", "web", "--offline"]);
        command
            .env("PIAAS_CACHE_DIR", &other)
            .env("PIAAS_STATE_DIR", sandbox.path().join(state))
            .env("PIAAS_MIRROR", dead)
            .env("http_proxy", dead);
        Run::from(command.stdin(Stdio::null()).output().unwrap())
    };
    // All that is missing is named, and nothing is done.
    let jq = other.join(format!("debs/{}.deb", sha256_of("jq", lock)));
    let libc = other.join(format!("debs/{}.deb", sha256_of("libc6", lock)));
    std::fs::rename(&jq, jq.with_extension("aside")).unwrap();
    let whole = std::fs::read(&libc).unwrap();
    std::fs::write(&libc, vec![0; whole.len()]).unwrap();
    let refused = offline("offline").expect_code(1);
    for part in ["2 files that lock files name", "jq 1.", "libc6 2."] {
        assert!(refused.stderr.contains(part), "{}", refused.stderr);
    }
    assert!(!other.join("base").exists());
    std::fs::rename(jq.with_extension("aside"), &jq).unwrap();
    std::fs::write(&libc, whole).unwrap();

    let _ = offline("offline").expect_code(0);
    let here = base::record(&cache_dir().join("base").join(base::directory_name())).unwrap();
    let roots = [cache_dir(), other.clone()].map(|cache| {
        let own = cache.join("base").join(base::directory_name());
        base::place(&own, &here.digest())
    });
    assert_ne!(roots[0].file_name(), roots[1].file_name());
    let digest = |root: &Path| Tree::scan(root, SOURCE_DATE).unwrap().digest().unwrap();
    assert_eq!(digest(&roots[0]), digest(&roots[1]));
    let made = disk(&sandbox.path().join("offline"));
    for key in ["tree_digest", "disk_sha256"] {
        assert_eq!(made[key], disk_before[key], "{key}");
    }

    // Without the file of a package, and with an archive that does not have it any more.
    let file = sandbox.recipes().join("web/recipe.lock");
    let dropped = lock.replace("http://deb.debian.org/", "http://127.0.0.1:9/");
    assert_ne!(dropped, lock, "the lock has no URL of the archive");
    std::fs::write(&file, dropped).unwrap();
    let bake = ["bake", "web", "--locked"];
    let _ = run(sandbox, "dropped", &bake, &[]).expect_code(0);
    std::fs::write(&file, lock).unwrap();
}

/// A package that is nothing but its name and version, in the cache of this host; gone with it.
struct Old {
    file: PathBuf,
    line: String,
}

impl Old {
    fn new(sandbox: &Sandbox, name: &str, version: &str) -> Self {
        let control = format!(
            "Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: A <a@example.com>\nDescription: Old.\n"
        );
        sandbox.write("old/DEBIAN/control", &control);
        let deb = sandbox.path().join("old.deb");
        let built = Command::new("dpkg-deb")
            .args(["--root-owner-group", "--build"])
            .args([&sandbox.path().join("old"), &deb])
            .stdout(Stdio::null())
            .status();
        assert!(built.unwrap().success());
        let bytes = std::fs::read(&deb).unwrap();
        let sha256 = hex::encode(Sha256::digest(&bytes));
        let file = cache_dir().join(format!("debs/{sha256}.deb"));
        std::fs::write(&file, &bytes).unwrap();
        let line = format!(
            "- {{\"name\":\"{name}\",\"version\":\"{version}\",\"architecture\":\"all\",\"size\":{},\
             \"sha256\":\"{sha256}\",\"url\":\"http://127.0.0.1:9/{name}.deb\"}}",
            bytes.len()
        );
        Self { file, line }
    }
}

impl Drop for Old {
    fn drop(&mut self) {
        let _nothing_more_to_do = std::fs::remove_file(&self.file);
    }
}

#[test]
fn packages_that_are_named_move_and_all_others_stay() {
    if !machines_wanted("lock files that move in part") {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.write(
        "recipes/web/recipe.yaml",
        &RECIPE.replace("[jq]", "[jq, zip]"),
    );
    let _ = run(&sandbox, "state", &["lock", "web"], &[]).expect_code(0);
    // The host has the files of all that is locked then.
    let _ = run(&sandbox, "state", &["bake", "web", "--locked"], &[]).expect_code(0);
    let file = sandbox.recipes().join("web/recipe.lock");
    let newest = std::fs::read_to_string(&file).unwrap();
    let line_of = |text: &str, name: &str| {
        let mut lines = text.lines();
        let line = lines.find(|line| line.contains(&format!("\"name\":\"{name}\"")));
        line.unwrap().to_owned()
    };

    // A zip that no archive has; and the archive says it dropped the very jq that is locked.
    let old = Old::new(&sandbox, "zip", "0.1");
    let jq = line_of(&newest, "jq");
    let dropped = jq.replace("http://deb.debian.org/", "http://127.0.0.1:9/");
    assert_ne!(dropped, jq, "the lock has no URL of the archive");
    let behind = newest
        .replace(&line_of(&newest, "zip"), &old.line)
        .replace(&jq, &dropped);
    std::fs::write(&file, &behind).unwrap();

    // What is not named stays, whatever the archive offers; and what is named and has not moved keeps its line.
    let _ = run(&sandbox, "state", &["lock", "web", "--update", "jq"], &[]).expect_code(0);
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(text, behind);

    // What is named moves, and comes from the archive.
    std::fs::write(&file, &behind).unwrap();
    let moved = run(&sandbox, "state", &["lock", "web", "--update", "zip"], &[]).expect_code(0);
    assert!(moved.stdout.contains("web  zip  "), "{}", moved.stdout);
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(text, newest.replace(&jq, &dropped));

    // jq is of one version with its library, which the archive offers in another one alone.
    let library = Old::new(&sandbox, "libjq1", "0.1");
    let stuck = newest.replace(&line_of(&newest, "libjq1"), &library.line);
    std::fs::write(&file, &stuck).unwrap();
    let refused = run(&sandbox, "state", &["lock", "web", "--update", "jq"], &[]).expect_code(4);
    assert!(
        refused
            .stderr
            .contains("piaas-bake lock web --update jq libjq1"),
        "{}",
        refused.stderr
    );
    assert_eq!(std::fs::read_to_string(&file).unwrap(), stuck);
}

#[test]
fn packages_to_move_are_named_after_the_one_recipe_that_has_them() {
    let sandbox = Sandbox::new();
    sandbox.write("recipes/web/recipe.yaml", RECIPE);
    let child = RECIPE.replace("name: web", "name: shop").replace(
        "from:\n  ssm: /aws/service/debian/release/12/latest/amd64\npackages: [jq]\n",
        "from: { recipe: web }\n",
    );
    sandbox.write("recipes/shop/recipe.yaml", &child);
    let refused = |args: &[&str], code: i32, parts: &[&str]| {
        let refused = sandbox.run(args).expect_code(code);
        for part in parts {
            assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
        }
    };
    refused(
        &["lock", "--update", "web"],
        2,
        &["`web` is a recipe", "piaas-bake lock web --update\n"],
    );
    refused(
        &["lock", "--update", "jq", "web"],
        2,
        &["piaas-bake lock web --update jq\n"],
    );
    refused(
        &["lock", "--update", "jq"],
        2,
        &["piaas-bake lock RECIPE --update jq\n"],
    );
    refused(
        &["lock", "web", "shop", "--update", "jq"],
        2,
        &["packages of one recipe"],
    );
    refused(
        &["lock", "web", "--update", "jq"],
        1,
        &["web has no lock file", "piaas-bake lock web\n"],
    );
    let deb = |name: &str| {
        format!(
            "- {{ name: {name}, version: \"1\", architecture: all, size: 1, sha256: {}, url: \"http://m/x.deb\" }}\n",
            "ab".repeat(32)
        )
    };
    let lock = |recipe: &str, name: &str| {
        let text = format!(
            "lock: 1\nrecipe: {recipe}\nasked: []\nindexes: []\npackages:\n{}",
            deb(name)
        );
        sandbox.write(&format!("recipes/{recipe}/recipe.lock"), &text);
    };
    lock("web", "libjq1");
    lock("shop", "zip");
    refused(
        &["lock", "web", "--update", "libjq"],
        1,
        &["no package `libjq`", "did you mean `libjq1`?"],
    );
    refused(
        &["lock", "shop", "--update", "libjq1"],
        1,
        &["piaas-bake lock web --update libjq1\n"],
    );
    refused(
        &["lock", "web", "--update", "shop"],
        1,
        &["it is a recipe: recipes come before --update"],
    );
}

/// A server of one file at every path, as long as it is told to be there.
fn serve_file(body: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    // It ends with the process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let lines = BufReader::new(stream.try_clone().unwrap()).lines();
            // The head ends with an empty line.
            lines.map_while(Result::ok).find(String::is_empty);
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                body.len()
            );
            // Who asks may have gone.
            let _ = stream.write_all(&[head.as_bytes(), body].concat());
        }
    });
    address
}

/// What a recipe downloads, with these keys besides.
fn downloading(url: &str, more: &str) -> String {
    RECIPE.replace(
        "steps:\n",
        &format!("files:\n  - {{ path: /opt/tool, url: \"{url}\"{more} }}\nsteps:\n"),
    )
}

#[test]
fn downloads_are_locked_without_a_machine_and_a_bake_goes_by_them() {
    let sandbox = Sandbox::new();
    let cache = sandbox.path().join("cache");
    let run = |args: &[&str], code: i32| {
        let mut command = sandbox.command(args);
        command.env("PIAAS_CACHE_DIR", &cache).stdin(Stdio::null());
        Run::from(command.output().unwrap()).expect_code(code)
    };
    let (recipe, lock) = ("recipes/web/recipe.yaml", "recipes/web/recipe.lock");
    let url = format!("{}/a/tool-1?x=1", serve_file(b"a tool\n"));
    let sha256 = hex::encode(Sha256::digest(b"a tool\n"));
    sandbox.write(recipe, &downloading(&url, ""));
    let none = run(&["plan", "web"], 3);
    assert!(none.stderr.contains("no lock file"), "{}", none.stderr);

    // A lock file that has the packages gets its downloads from this host.
    let old = "lock: 1\nrecipe: \"web\"\nasked: [\"jq\"]\nindexes: []\npackages: []\n";
    sandbox.write(lock, old);
    let locked = run(&["lock", "web"], 0);
    let said = format!("web  {url}  + {}\n", &sha256[..12]);
    assert_eq!(locked.stdout, said);
    let text = std::fs::read_to_string(sandbox.path().join(lock)).unwrap();
    let line = format!("downloads:\n- {{\"url\":\"{url}\",\"sha256\":\"{sha256}\",\"size\":7}}\n");
    assert!(text.ends_with(&line), "{text}");
    let kept = cache.join(format!("debs/{sha256}.deb"));
    assert_eq!(std::fs::read(&kept).unwrap(), b"a tool\n");
    assert_eq!(run(&["lock", "web"], 0).stdout, "");
    assert!(!sandbox.state().exists());
    let _ = run(&["plan", "web", "--locked"], 0);

    // The recipe and its lock do not agree; and the server sides with the lock.
    let other = "0".repeat(63) + "a";
    sandbox.write(recipe, &downloading(&url, &format!(", sha256: {other}")));
    for args in [&["plan", "web"][..], &["bake", "web"], &["lock", "web"]] {
        let refused = run(args, 4);
        for part in [&url, &other, &sha256] {
            assert!(refused.stderr.contains(part), "{}", refused.stderr);
        }
    }
    // What the lock does not have.
    sandbox.write(
        recipe,
        &downloading(&format!("{url}2"), &format!(", sha256: {sha256}")),
    );
    let refused = run(&["plan", "web"], 4);
    assert!(
        refused.stderr.contains(&format!("{url}2 came later")),
        "{}",
        refused.stderr
    );
    let moved = run(&["lock", "web"], 0);
    assert!(
        moved.stdout.contains(&format!("{url}2  + ")),
        "{}",
        moved.stdout
    );
    assert!(
        moved.stdout.contains(&format!("{url}   - ")),
        "{}",
        moved.stdout
    );
    let _ = run(&["plan", "web"], 0);

    // A parameter that says the sha256 and nothing else is used.
    let named = downloading(&format!("{url}3"), ", sha256: \"{{ sum }}\"");
    let parameter = format!("parameters:\n  sum: {{ type: string, default: {sha256} }}\nfiles:");
    sandbox.write(recipe, &named.replace("files:", &parameter));
    let locked = run(&["lock", "web"], 0);
    assert!(locked.stdout.contains("3  + "), "{}", locked.stdout);
}

#[test]
fn a_download_is_baked_offline_from_what_this_host_keeps() {
    if !machines_wanted("downloads, also offline") {
        return;
    }
    let sandbox = Sandbox::new();
    let body = b"a tool that no other test has\n";
    let url = format!("{}/tool", serve_file(body));
    let text = downloading(&url, ", mode: \"0755\"").replace(
        "run: jq --version",
        "run: grep -q 'no other test' /opt/tool && [ -x /opt/tool ]",
    );
    sandbox.write("recipes/web/recipe.yaml", &text);
    let _ = run(&sandbox, "state", &["lock", "web"], &[]).expect_code(0);
    let _ = run(&sandbox, "state", &["bake", "web", "--locked"], &[]).expect_code(0);
    // Nobody serves it any more.
    let (recipe, lock) = ["yaml", "lock"]
        .map(|end| sandbox.recipes().join(format!("web/recipe.{end}")))
        .into();
    for file in [&recipe, &lock] {
        let text = std::fs::read_to_string(file).unwrap();
        std::fs::write(file, text.replace(&url, "http://127.0.0.1:9/tool")).unwrap();
    }
    let offline = ["bake", "web", "--offline"];
    let _ = run(&sandbox, "state", &offline, &[]).expect_code(0);
    let sha256 = hex::encode(Sha256::digest(body));
    std::fs::remove_file(cache_dir().join(format!("debs/{sha256}.deb"))).unwrap();
    let refused = run(
        &sandbox,
        "state",
        &[&offline[..], &["--force"]].concat(),
        &[],
    );
    let refused = refused.expect_code(1);
    assert!(
        refused.stderr.contains("tool (http://127.0.0.1:9/tool)"),
        "{}",
        refused.stderr
    );
}

/// A lock of the local cloud's base, with a package of this version and this date of the archive.
fn with_base(version: &str, date: &str) -> String {
    let suite = "http://deb.debian.org/debian/dists/bookworm/";
    let sha256 = "ab".repeat(32);
    format!(
        "lock: 1\nrecipe: web\nasked: [jq]\nindexes: []\npackages: []\nlocal_base:\n  released: {{ \"{suite}\": {date} }}\n\
         \x20 asked: [apt]\n  indexes:\n  - {{ suite: \"{suite}\", path: main/binary-amd64/Packages, sha256: {sha256} }}\n\
         \x20 packages:\n  - {{ name: apt, version: \"{version}\", architecture: amd64, size: 1, sha256: {sha256}, \
         url: \"http://deb.debian.org/apt.deb\" }}\n"
    )
}

#[test]
fn the_base_of_the_local_cloud_is_an_image_by_what_it_is_made_of() {
    let sandbox = Sandbox::new();
    sandbox.write("recipes/web/recipe.yaml", RECIPE);
    let json = |run: Run| serde_json::from_str::<serde_json::Value>(&run.stdout).unwrap();
    let plan = |lock: &str, more: &[&str]| {
        sandbox.write("recipes/web/recipe.lock", lock);
        let args = [&["plan", "web", "--format", "json"][..], more].concat();
        json(sandbox.run(&args).expect_code(0))
    };
    let one = plan(&with_base("2.6.1", "Monday"), &["-o", "web.plan"]);
    let id = one["base_image"].as_str().unwrap();
    assert!(
        id.starts_with("ami-b") && id.len() == BASE_IMAGE.len(),
        "{id}"
    );
    // It is the one that it was when it is planned again, from the file too.
    let again = json(
        sandbox
            .run(&["plan", "web.plan", "--format", "json"])
            .expect_code(0),
    );
    assert_eq!(again["base_image"], one["base_image"]);
    // What else the archive had that day is nothing to it.
    let later = plan(&with_base("2.6.1", "Tuesday"), &[]);
    assert_eq!(
        (&later["base_image"], &later["digest"]),
        (&one["base_image"], &one["digest"])
    );
    let moved = plan(&with_base("2.6.2", "Tuesday"), &[]);
    assert_ne!(moved["base_image"], one["base_image"]);
    assert_ne!(moved["digest"], one["digest"]);
    sandbox.write("recipes/web/recipe.lock", &with_base("2; rm", "Monday"));
    let wrong = sandbox.run(&["plan", "web"]).expect_code(3);
    assert!(
        wrong.stderr.contains("the version of the package `apt`"),
        "{}",
        wrong.stderr
    );
    // Without it the base is this host's, as ever.
    let unlocked = plan(&pinning(BASE_IMAGE), &[]);
    assert_eq!(unlocked["base_image"], BASE_IMAGE);
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
    let plan = async |args: &[&str], lock: &str, code: i32| {
        sandbox.write("recipes/web/recipe.lock", lock);
        let mut command = sandbox.command(&[&["plan", "--format", "json"], args].concat());
        command
            .args(["--cloud", "aws", "--region", "us-east-1"])
            .env("AWS_ENDPOINT_URL", &endpoint)
            .env("AWS_ACCESS_KEY_ID", ACCESS_KEY)
            .env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
        let output = tokio::task::spawn_blocking(move || command.output());
        Run::from(output.await.unwrap().unwrap()).expect_code(code)
    };
    let json = |run: Run| serde_json::from_str::<serde_json::Value>(&run.stdout).unwrap();
    let pinned = json(
        plan(
            &["web", "--locked", "-o", "web.plan"],
            &pinning(BASE_IMAGE),
            0,
        )
        .await,
    );
    let again = json(plan(&["web.plan"], &pinning(BASE_IMAGE), 0).await);
    assert_eq!(again["digest"], pinned["digest"]);
    assert_eq!(pinned["base_image"], BASE_IMAGE, "{pinned}");
    let free = pinning(BASE_IMAGE).replace("base: ", "# base: ");
    let free = json(plan(&["web"], &free, 0).await);
    assert_eq!(free["base_image"], BASE_IMAGE, "{free}");
    assert_ne!(pinned["digest"], free["digest"]);
    // Another one than the parameter names now; it is not there any more.
    let gone = plan(&["web"], &pinning("ami-00000000000000000"), 4).await;
    for part in [
        "ami-00000000000000000 does not exist",
        "the lock file names it",
        "--update",
    ] {
        assert!(gone.stderr.contains(part), "{}", gone.stderr);
    }
}
