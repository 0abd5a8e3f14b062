//! A few of the bakes of `make test-identical`: what is around a bake is not in its image.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::{BIN, cache_dir, left_on_host, machines_wanted};

#[test]
fn whatever_is_around_a_bake_its_disk_is_the_same() {
    if !machines_wanted("cold bakes with everything around them varied") {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let work = home.path().join("identical");
    let output = Command::new("python3")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/story/identical.py"))
        .arg("--binary")
        .arg(BIN)
        .arg("--work")
        .arg(&work)
        .arg("--cache")
        .arg(cache_dir())
        .args(["--rounds", "2", "--here", "debian-base"])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", home.path())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::null())
        .output()
        .expect("Python starts");
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{stdout}\n{stderr}");
    assert!(stdout.contains("debian-base: 1 disk: "), "{stdout}");
    // Two ways that differ in each of these.
    for part in ["umask 022", "umask 077", "state on tmpfs", "another mirror"] {
        assert!(stderr.contains(part), "{part}: {stderr}");
    }
    assert_eq!(left_on_host(&work), [] as [String; 0]);
}
