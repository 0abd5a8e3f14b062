//! What a machine leaves of its host's disk: its root is a layer of files there, which nothing else bounds.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::super::nspawn::files::{Status, get_json, subdirectories};

/// What no machine takes: bytes, or a tenth of a small file system.
const RESERVE: u64 = 1 << 30;
const SMALL: u64 = 10;
/// The same of inodes, of file systems that count them: a hundredth.
const INODES: u64 = 100;

/// What is left where a machine's files are, in words, if that is too little.
///
/// # Errors
/// statvfs(3) fails.
pub fn shortage(dir: &Path) -> io::Result<Option<String>> {
    let disk = rustix::fs::statvfs(dir)?;
    let (free, all) = (disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize);
    if free < RESERVE.min(all / SMALL) {
        return Ok(Some(format!("{} MiB", free >> 20)));
    }
    if disk.f_files > 0 && disk.f_favail < disk.f_files / INODES {
        return Ok(Some(format!("{} inodes", disk.f_favail)));
    }
    Ok(None)
}

/// Whether no machine that lives has more files than this one, or larger ones: that one goes first.
pub fn is_largest(dir: &Path) -> bool {
    let own = taken(dir);
    let others = dir.parent().map(subdirectories).unwrap_or_default();
    let mut others = others.iter().filter(|other| other.as_path() != dir);
    !others.any(|other| {
        let lives = get_json::<Status>(&other.join("status.json"))
            .is_ok_and(|status| status.leader.is_some());
        let theirs = taken(other);
        // Of two with the same the first in order goes.
        lives && (theirs > own || (theirs == own && other.as_path() < dir))
    })
}

/// Blocks of 512 bytes that a machine's own layer and its console have, and at least one a file.
fn taken(dir: &Path) -> u64 {
    let console = std::fs::metadata(dir.join("console.log"));
    console.map_or(0, |file| file.blocks()) + below(&dir.join("upper"))
}

/// What vanishes meanwhile has nothing.
fn below(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| {
            let Ok(about) = entry.metadata() else {
                return 0;
            };
            let inside = if about.is_dir() {
                below(&entry.path())
            } else {
                0
            };
            about.blocks().max(1) + inside
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::super::super::nspawn::files::put_json;
    use super::*;

    #[test]
    fn the_largest_that_lives_goes_first() {
        let dir = tempfile::tempdir().unwrap();
        let machine = |name: &str, size: usize, leader: Option<u32>| {
            let at = dir.path().join(name);
            std::fs::create_dir_all(at.join("upper/a")).unwrap();
            std::fs::write(at.join("upper/a/file"), vec![1; size]).unwrap();
            let status = Status {
                leader,
                ..Status::starting()
            };
            put_json(&at.join("status.json"), &status).unwrap();
            at
        };
        let small = machine("i-1", 10, Some(1));
        let large = machine("i-2", 1 << 20, Some(1));
        let same = machine("i-3", 1 << 20, Some(1));
        let _over = machine("i-4", 1 << 22, None);
        assert_eq!(
            [&small, &large, &same].map(|one| is_largest(one)),
            [false, true, false]
        );
    }
}
