//! Images before judges that nobody here wrote: e2fsprogs, dosfstools, mtools, gdisk and the kernel.

mod disk;
mod ext4;

use std::path::Path;
use std::process::Command;

use piaas_bake::image::tree::{Node, Tree};

const DATE: i64 = 1_700_000_000;
const MIB: u64 = 1 << 20;

/// Whether a judge is installed; a test says what it left out.
fn has(judge: &str) -> bool {
    let found = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"]
        .iter()
        .any(|dir| Path::new(dir).join(judge).exists());
    if !found {
        eprintln!("left out: {judge} is not installed");
    }
    found
}

/// Runs a command with the system's tools in reach and returns its standard output; it must succeed.
fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .env("LC_ALL", "C")
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}\n{}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// `e2fsck` has nothing to say but the names of its passes and the summary.
fn assert_clean(image: &Path) {
    if !has("e2fsck") {
        return;
    }
    let output = run("e2fsck", &["-fn", image.to_str().unwrap()]);
    let remarks: Vec<&str> = output
        .lines()
        .filter(|line| !line.starts_with("Pass ") && !line.starts_with("root: "))
        .collect();
    assert!(remarks.is_empty(), "e2fsck found fault:\n{output}");
}

/// An empty tree with the directories that a scan adds to every tree.
fn bare() -> Tree {
    let mut tree = Tree::new(Node::directory(0o755, DATE));
    for (path, mode) in [
        ("dev", 0o755),
        ("proc", 0o555),
        ("run", 0o755),
        ("sys", 0o555),
        ("tmp", 0o1777),
    ] {
        tree.insert(path.as_bytes(), Node::directory(mode, DATE));
    }
    tree
}

/// Bytes without a block of zeros in them, different for each `salt`.
fn noise(length: usize, salt: u32) -> Vec<u8> {
    let mut state = salt.wrapping_mul(0x9e37_79b9) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            (state >> 24) as u8 | 1
        })
        .collect()
}
