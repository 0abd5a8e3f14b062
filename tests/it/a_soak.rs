//! The soak: two hundred jobs on a real fleet of real machines while everything that can die dies. It is a script
//! (`tests/story/soak.py`), as the demo is, because it looks at the product from outside: command line, AWS API, Buildbot.
//!
//! By its name it comes first of all: it takes longest, and often waits.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::{
    BIN, assert_events_fit_their_schema, cache_dir, left_on_host, machines_wanted,
};

#[test]
fn two_hundred_jobs_survive_rolls_kills_and_a_restart_of_the_master() {
    let name = "the soak on real machines with a real Buildbot master";
    if !machines_wanted(name) {
        return;
    }
    let buildbot = std::env::var_os("PIAAS_TEST_BUILDBOT").map(PathBuf::from);
    let buildbot = buildbot.expect("`make test` says where the Buildbot master is");
    let home = tempfile::tempdir().unwrap();
    let work = home.path().join("soak");
    std::fs::create_dir(&work).unwrap();
    let mut command = Command::new(buildbot.join("bin/python"));
    command
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/story/soak.py"))
        .arg("--binary")
        .arg(BIN)
        .arg("--buildbot")
        .arg(&buildbot)
        .arg("--work")
        .arg(&work)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", home.path())
        .env("LC_ALL", "C.UTF-8")
        .env("PIAAS_CACHE_DIR", cache_dir())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::null());
    if let Some(seed) = std::env::var_os("PIAAS_SOAK_SEED") {
        command.arg("--seed").arg(seed);
    }
    let output = command.output().expect("Python starts");
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    // Past the harness's capture: the figures are worth seeing when all is well, too.
    {
        use std::io::Write as _;
        let mut err = std::io::stderr().lock();
        for line in stdout.lines().filter(|line| line.starts_with("soak: ")) {
            let _ = writeln!(err, "{line}");
        }
    }
    let left = left_on_host(&work);
    if !output.status.success() || !left.is_empty() {
        let kept = home.keep();
        panic!(
            "the soak failed ({}), its files are kept in {}; left on this host: {left:?}\n--- stdout\n{stdout}\n--- \
             stderr\n{stderr}",
            output.status,
            kept.display()
        );
    }
    events_fit_their_schema(&work);
}

/// What the controller and the rolls have told is as the schema of such lines says, and there is enough of it.
fn events_fit_their_schema(work: &Path) {
    let mut lines = String::new();
    let mut kinds = std::collections::BTreeSet::new();
    for log in ["fleet.log", "roll.log"] {
        for line in std::fs::read_to_string(work.join(log)).unwrap().lines() {
            // Lines for people are there too, and half a line of each process that was killed.
            if let Ok(event) = serde_json::from_str::<serde_json::Value>(line) {
                kinds.insert(format!("{} {}", event["of"], event["event"]));
                lines.push_str(line);
                lines.push('\n');
            }
        }
    }
    for kind in [
        "fleet looked",
        "fleet decided",
        "roll looked",
        "roll calling",
        "roll ended",
    ] {
        let (of, event) = kind.split_once(' ').unwrap();
        let kind = format!("\"{of}\" \"{event}\"");
        assert!(kinds.contains(&kind), "{kind} is not among {kinds:?}");
    }
    assert_events_fit_their_schema(&lines);
}
