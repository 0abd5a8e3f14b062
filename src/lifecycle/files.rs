//! Files beside the journals that belong to no run: of a process that died as it began one, or as it wrote.

use std::io;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::{bake, journal};

/// A process that is alive writes a plan, and then its journal, in less.
const SETTLED: SignedDuration = SignedDuration::from_hours(1);

/// A file of no use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct File {
    pub path: PathBuf,
    pub why: &'static str,
}

/// The files in the directory of the runs that nobody will read again.
///
/// # Errors
/// The directory cannot be read; one that does not exist is empty.
pub fn forgotten(runs: &Path, now: Timestamp) -> io::Result<Vec<File>> {
    let listing = match std::fs::read_dir(runs) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut found = Vec::new();
    for entry in listing {
        let path = entry?.path();
        if let Some(why) = why(runs, &path)
            && is_settled(&path, now)
        {
            found.push(File { path, why });
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// Removes them; what is gone is fine.
///
/// # Errors
/// The first that cannot be removed.
pub fn forget(files: &[File]) -> io::Result<()> {
    for file in files {
        match std::fs::remove_file(&file.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn why(runs: &Path, path: &Path) -> Option<&'static str> {
    let name = path.file_name()?.to_str()?;
    if name.starts_with(".tmp") {
        return Some("it was being written");
    }
    let run = path.file_stem()?.to_str()?;
    let is_plan = path == bake::saved::path_of(runs, run);
    let has_journal = journal::path_of(runs, run).exists();
    (is_plan && !has_journal).then_some("it is the plan of a run that has no journal")
}

fn is_settled(path: &Path, now: Timestamp) -> bool {
    let changed = path.symlink_metadata().and_then(|file| file.modified());
    let changed = changed.ok().and_then(|at| Timestamp::try_from(at).ok());
    changed.is_some_and(|at| now.duration_since(at) > SETTLED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_no_run_has_is_forgotten_and_not_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let runs = dir.path().join("runs");
        let now = Timestamp::now();
        assert_eq!(forgotten(&runs, now).unwrap(), []);
        std::fs::create_dir(&runs).unwrap();
        for name in [
            "a.jsonl",
            "a.plan",
            "a.log",
            "b.plan",
            "c.log",
            ".tmpX1y2z3",
        ] {
            std::fs::write(runs.join(name), "").unwrap();
        }
        assert_eq!(forgotten(&runs, now).unwrap(), []);
        let later = now + SETTLED + SignedDuration::from_mins(1);
        let found = forgotten(&runs, later).unwrap();
        let names: Vec<_> = found
            .iter()
            .map(|file| file.path.file_name().unwrap())
            .collect();
        assert_eq!(names, [".tmpX1y2z3", "b.plan"]);
        forget(&found).unwrap();
        forget(&found).unwrap();
        assert_eq!(forgotten(&runs, later).unwrap(), []);
        assert!(runs.join("a.plan").exists() && runs.join("c.log").exists());
    }
}
