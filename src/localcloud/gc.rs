//! What crashes leave behind on this host, and its removal.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;

use super::endpoint;
use super::nspawn::files::{Want, get_json, is_locked, put_json, remove_dir, subdirectories};
use super::nspawn::prune;
use super::s3::Buckets;
use super::state::Store;
use super::supervisor::cgroup;

/// How long a live helper is given to end.
const GRACE: Duration = Duration::from_secs(120);

/// Something on this host that no record of the local cloud knows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Leftover {
    /// Files of a machine, perhaps with its processes.
    Machine { id: String, running: bool },
    /// Files of a disk, perhaps with its writer.
    Disk { id: String, being_written: bool },
    /// Control groups of a machine that is gone.
    ControlGroup { id: String },
    /// A part of an object that somebody was putting into a bucket.
    Upload { id: String },
}

impl std::fmt::Display for Leftover {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Machine { id, running: true } => write!(f, "running machine {id}"),
            Self::Machine { id, running: false } => write!(f, "files of machine {id}"),
            Self::Disk {
                id,
                being_written: true,
            } => write!(f, "disk {id}, being written"),
            Self::Disk {
                id,
                being_written: false,
            } => write!(f, "disk {id}"),
            Self::ControlGroup { id } => write!(f, "control group of machine {id}"),
            Self::Upload { id } => write!(f, "unfinished upload {id}"),
        }
    }
}

/// What is on this host below `cloud` that is not among the known ids. Changes nothing.
#[must_use]
pub fn survey(cloud: &Path, instances: &[String], snapshots: &[String]) -> Vec<Leftover> {
    let unknown = |dir: &str, known: &[String]| -> Vec<(String, PathBuf)> {
        subdirectories(&cloud.join(dir))
            .into_iter()
            .filter_map(|path| Some((path.file_name()?.to_str()?.to_owned(), path)))
            .filter(|(id, _)| !known.contains(id))
            .collect()
    };
    let mut left: Vec<Leftover> = unknown("instances", instances)
        .into_iter()
        .map(|(id, path)| Leftover::Machine {
            id,
            running: is_locked(&path),
        })
        .collect();
    left.extend(
        unknown("snapshots", snapshots)
            .into_iter()
            // A layer that others stand on stays until they are gone.
            .filter(|(_, path)| !path.join("deleted").exists())
            .map(|(id, path)| Leftover::Disk {
                id,
                being_written: is_locked(&path),
            }),
    );
    // Groups carry no cloud's name: only those that nothing runs in any more are taken.
    left.extend(
        cgroup::abandoned()
            .into_iter()
            .filter(|id| !instances.contains(id))
            .map(|id| Leftover::ControlGroup { id }),
    );
    left.extend(Buckets::abandoned(cloud).into_iter().filter_map(|path| {
        let id = path.file_name()?.to_str()?.to_owned();
        Some(Leftover::Upload { id })
    }));
    left
}

/// Removes what [`survey`] found.
///
/// # Errors
/// The file system refuses, or a process does not end.
pub fn sweep(cloud: &Path, leftovers: &[Leftover]) -> io::Result<()> {
    for left in leftovers {
        match left {
            Leftover::Machine { id, .. } => {
                let dir = cloud.join("instances").join(id);
                // One that is on its way out by itself takes no more orders.
                match put_json(&dir.join("want"), &Want::Terminate) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
                wait_free(&dir)?;
                cgroup::kill_machine(id)?;
                remove_dir(&dir)?;
                cgroup::remove(id);
            }
            Leftover::Disk { id, .. } => {
                let dir = cloud.join("snapshots").join(id);
                put_json(&dir.join("deleted"), &())?;
                wait_free(&dir)?;
            }
            Leftover::ControlGroup { id } => cgroup::remove_abandoned(id),
            Leftover::Upload { id } => Buckets::forget(cloud, id)?,
        }
    }
    prune(cloud)?;
    let machines = subdirectories(&cloud.join("instances"));
    if machines.iter().any(|dir| is_locked(dir)) {
        return Ok(());
    }
    // Without a machine their endpoint ends by itself, at its next look.
    wait_until(&cloud.display().to_string(), || !endpoint::runs(cloud))
}

/// The frozen root of a machine, from which others start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// What it takes of the disk; nothing of its own if another snapshot stands on it, whose layer would stay without it.
    pub bytes: u64,
    /// When it was made, or the last snapshot that stands on it.
    pub used: SystemTime,
}

/// The layers below `cloud`, by the ids of their snapshots.
#[must_use]
pub fn layers(cloud: &Path) -> BTreeMap<String, Layer> {
    let snapshots = subdirectories(&cloud.join("snapshots"));
    let made = |dir: &Path| {
        let written = std::fs::metadata(dir.join("chain.json")).and_then(|file| file.modified());
        written.unwrap_or(SystemTime::UNIX_EPOCH)
    };
    let chains: Vec<(&PathBuf, Vec<PathBuf>)> = snapshots
        .iter()
        .map(|dir| (dir, get_json(&dir.join("chain.json")).unwrap_or_default()))
        .collect();
    let mut found = BTreeMap::new();
    for dir in &snapshots {
        let layer = dir.join("layer");
        let above = chains
            .iter()
            .filter(|(other, chain)| *other != dir && chain.contains(&layer));
        let above = above.map(|(other, _)| made(other)).max();
        let bytes = if above.is_some() { 0 } else { taken(&layer) };
        let used = above.map_or_else(|| made(dir), |above| above.max(made(dir)));
        if let Some(id) = dir.file_name().and_then(|name| name.to_str()) {
            found.insert(id.to_owned(), Layer { bytes, used });
        }
    }
    found
}

/// What a directory and all below it take of the disk.
fn taken(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(about) = path.symlink_metadata() else {
        return 0;
    };
    let entries = about
        .is_dir()
        .then(|| std::fs::read_dir(path).ok())
        .flatten();
    let below = entries.into_iter().flatten().flatten();
    about.blocks() * 512 + below.map(|entry| taken(&entry.path())).sum::<u64>()
}

/// Ends every machine and removes all files of the cloud.
///
/// # Errors
/// As [`sweep`].
pub fn reset(cloud: &Path) -> io::Result<()> {
    disband(cloud);
    let all = survey(cloud, &[], &[]);
    sweep(cloud, &all)?;
    remove_dir(cloud)
}

/// Forgets all groups, so that nobody who has the cloud open replaces the machines that go.
fn disband(cloud: &Path) {
    if !cloud.exists() {
        return;
    }
    // Records that cannot be read or written are of no use to anybody else either.
    let _ = Store::open(cloud).and_then(|store| {
        for region in store.regions()? {
            let mut locked = store.lock(jiff::Timestamp::now(), &region)?;
            locked.state.scaling.clear();
            locked.save()?;
        }
        Ok(())
    });
}

fn wait_free(dir: &Path) -> io::Result<()> {
    wait_until(&dir.display().to_string(), || {
        !(dir.exists() && is_locked(dir))
    })
}

fn wait_until(what: &str, over: impl Fn() -> bool) -> io::Result<()> {
    let deadline = Instant::now() + GRACE;
    while !over() {
        if Instant::now() >= deadline {
            return Err(io::Error::other(format!(
                "the process of {what} does not end"
            )));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_no_record_knows_is_found_and_removed() {
        let cloud = tempfile::tempdir().unwrap();
        for dir in [
            "instances/i-1",
            "instances/i-2",
            "snapshots/snap-1",
            "snapshots/snap-2",
            "s3/incoming",
        ] {
            std::fs::create_dir_all(cloud.path().join(dir)).unwrap();
        }
        let upload = cloud.path().join("s3/incoming/.tmpx");
        std::fs::write(&upload, "half").unwrap();
        let ours = |left: Vec<Leftover>| -> Vec<Leftover> {
            left.into_iter()
                .filter(|left| !matches!(left, Leftover::ControlGroup { .. }))
                .collect()
        };
        let left = ours(survey(cloud.path(), &["i-1".into()], &["snap-2".into()]));
        assert_eq!(
            left,
            [
                Leftover::Machine {
                    id: "i-2".into(),
                    running: false
                },
                Leftover::Disk {
                    id: "snap-1".into(),
                    being_written: false
                },
                Leftover::Upload { id: ".tmpx".into() }
            ]
        );
        sweep(cloud.path(), &left).unwrap();
        assert!(cloud.path().join("instances/i-1").exists());
        assert!(!cloud.path().join("instances/i-2").exists());
        assert!(!upload.exists());
        assert!(cloud.path().join("snapshots/snap-2").exists());
        assert!(!cloud.path().join("snapshots/snap-1").exists());
    }
}
