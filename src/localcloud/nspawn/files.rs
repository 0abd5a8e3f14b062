//! The files by which the driver, the supervisors of machines and the writers of disks know of each other.
//!
//! `instances/<id>/`: `spec.json` (what was asked for), `chain.json` (lower layers, top first), `handed-over.json` (the one of these
//! that was its own), `upper/` and `work/`
//! (the machine's own layer), `root/` (where its supervisor mounts it), `status.json`, `want` (the power state asked
//! for), `commands/<id>/` (`spec.json`, `cancel`, `result.json`), `console.log`, `notice.json`
//! (when a Spot Instance ends), `bell` (what the supervisor listens to), `lock` (held by it).
//! `snapshots/<id>/`: `layer/`, `chain.json` (with it, machines can be made), `spec.json`, `disk.json` (what is on its disk),
//! `blocks.json` (its block manifest), `tree.jsonl` (its tree manifest), `disk.tried` (how often it was
//! tried to write it), `disk.error` (why it could not be), `lock` (held by the writer), `deleted` (removed once no chain needs its layer).
//! `blocks/`: the blocks of all disks ([`super::blocks`]). `surveys`: what is known of the files of layers.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::{
    CWD, FlockOperation, IFlags, Mode, OFlags, flock, ioctl_getflags, ioctl_setflags, mkfifoat,
    open,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::blocks::{Blocks, MANIFEST};
use crate::localcloud::driver::Power;

/// See [`Bell`].
const BELL: &str = "bell";

/// When a Spot Instance ends, once it is told: a timestamp in a machine's directory.
pub const NOTICE: &str = "notice.json";

/// What is on a disk, beside it.
pub const REPORT: &str = "disk.json";

/// How often it was tried to write a disk: a byte each.
pub const TRIED: &str = "disk.tried";

/// Why a disk could not be written, or not be summed.
pub const FAILED: &str = "disk.error";

/// The tree manifest of a disk, beside it.
pub const TREE: &str = "tree.jsonl";

/// What is known of the files of layers, in the directory of a cloud.
pub const SURVEYS: &str = "surveys";

/// Where the host has files of packages: a path in a machine's directory.
pub const DEBS: &str = "debs.json";

/// What a supervisor says of its machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    pub power: Power,
    pub agent_online_since: Option<Timestamp>,
    pub reason: Option<String>,
    pub shut_down_from_inside: bool,
    /// Process id of its init on this host, while it runs.
    #[serde(default)]
    pub leader: Option<u32>,
}

impl Status {
    /// A machine that is being made.
    #[must_use]
    pub fn starting() -> Self {
        Self {
            power: Power::Starting,
            agent_online_since: None,
            reason: None,
            shut_down_from_inside: false,
            leader: None,
        }
    }
}

/// The power state that a machine's supervisor is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Want {
    Run,
    /// Boot again; each request has another number.
    Reboot(u64),
    Stop,
    ForceStop,
    /// Stop as [`Self::Stop`] does, and remove everything.
    ShutDown,
    /// Stop at once and remove everything.
    Terminate,
}

impl Want {
    /// Whether nothing of the machine is to be left.
    #[must_use]
    pub fn is_end(self) -> bool {
        matches!(self, Self::ShutDown | Self::Terminate)
    }
}

/// Writes JSON so that a reader sees the old text or the new one.
///
/// # Errors
/// The file system refuses.
pub fn put_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    crate::whole::write(path, &serde_json::to_vec(value)?)
}

/// Reads JSON.
///
/// # Errors
/// It is not there, or not what was expected.
pub fn get_json<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    Ok(serde_json::from_slice(&std::fs::read(path)?)?)
}

/// Makes a directory that becomes the root of a machine: whoever is on the machine may enter it, whatever the umask is
/// of who makes it. One that is there stays as it is.
///
/// # Errors
/// The file system refuses.
pub fn make_root(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    match std::fs::create_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Ok(()) => std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)),
        other => other,
    }
}

/// Makes a directory, with its parents, for trees that have nothing to do with each other. ext4 then gives each a group of
/// blocks of its own (chattr(1), `T`); else it looks for inodes where the last tree went, and without a journal it looks at
/// each that was freed in the last minutes (kernel, fs/ext4/ialloc.c, `recently_deleted`).
///
/// # Errors
/// The file system refuses the directory. One that knows of no such mark goes without it.
pub fn make_forest(dir: &Path) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let opened = File::open(dir)?;
    if let Ok(flags) = ioctl_getflags(&opened)
        && !flags.contains(IFlags::TOPDIR)
    {
        let _ = ioctl_setflags(&opened, flags | IFlags::TOPDIR);
    }
    Ok(())
}

/// Takes the lock of a directory; `None` if another process has it. It is free again when the file, and every copy of
/// it in other processes, is closed.
///
/// # Errors
/// The file system refuses.
pub fn try_lock(dir: &Path) -> io::Result<Option<File>> {
    try_lock_file(&dir.join("lock"))
}

/// As [`try_lock`], of a file that is a lock itself.
///
/// # Errors
/// The file system refuses.
pub fn try_lock_file(path: &Path) -> io::Result<Option<File>> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)?;
    Ok(lock(&file)?.then_some(file))
}

fn lock(file: &File) -> io::Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// By what a machine's supervisor is told that there is something new in its files: a FIFO in the machine's directory.
/// What is written into it says nothing; who is not told looks for itself now and then.
#[derive(Debug)]
pub struct Bell(File);

impl Bell {
    /// Makes the one of a machine, or takes over that of a supervisor before.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn hang(dir: &Path) -> io::Result<Self> {
        let path = dir.join(BELL);
        match mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        // For writing, too: a FIFO that nobody has open for that reads as ended (fifo(7)).
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(Self(open(&path, flags, Mode::empty())?.into()))
    }

    /// Rings that of a machine. One without a supervisor hears nothing.
    pub fn ring(dir: &Path) {
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        if let Ok(bell) = open(dir.join(BELL), flags, Mode::empty()) {
            // Full, it has been rung often enough.
            let _ = rustix::io::write(&bell, &[0]);
        }
    }

    /// Takes all of what has been written into it.
    pub fn silence(&self) {
        let mut bytes = [0; 64];
        while rustix::io::read(&self.0, &mut bytes).is_ok_and(|length| length > 0) {}
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Whether a process holds the lock of a directory.
#[must_use]
pub fn is_locked(dir: &Path) -> bool {
    is_file_locked(&dir.join("lock"))
}

/// As [`is_locked`], of a file that is a lock itself.
#[must_use]
pub fn is_file_locked(path: &Path) -> bool {
    // Looking makes no file: the directory may be on its way out.
    File::open(path).is_ok_and(|file| matches!(lock(&file), Ok(false)))
}

/// The directories in `dir`, sorted; none if it does not exist.
#[must_use]
pub fn subdirectories(dir: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect();
    all.sort();
    all
}

/// Removes a directory and all below it; one that is not there is fine.
///
/// # Errors
/// The file system refuses.
pub fn remove_dir(dir: &Path) -> io::Result<()> {
    let mut tries = 0;
    loop {
        match std::fs::remove_dir_all(dir) {
            // Somebody wrote a file between the look into the directory and its removal.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty && tries < 100 => {
                tries += 1;
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => return Ok(()),
        }
    }
}

/// Removes the disk in a snapshot's directory and its manifests; its layer stays.
///
/// # Errors
/// The file system refuses.
pub fn remove_disk(dir: &Path) -> io::Result<()> {
    Blocks::beside(dir).mark_stale();
    for name in [REPORT, MANIFEST, TREE, FAILED, TRIED] {
        match std::fs::remove_file(dir.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Removes the directory of a machine, whose lock the caller holds. Others may look at it and write to it meanwhile:
/// it is itself until all that is large is gone, then not there at all.
///
/// # Errors
/// The file system refuses.
pub fn remove_machine(dir: &Path) -> io::Result<()> {
    for part in subdirectories(dir) {
        remove_dir(&part)?;
    }
    let gone = dir.with_extension("removed");
    remove_dir(&gone)?;
    match std::fs::rename(dir, &gone) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    remove_dir(&gone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_removed_while_others_look_and_write() {
        let dir = tempfile::tempdir().unwrap();
        let machine = dir.path().join("i-1");
        for _ in 0..50 {
            std::fs::create_dir_all(machine.join("upper/etc")).unwrap();
            put_json(&machine.join("status.json"), &Status::starting()).unwrap();
            let held = try_lock(&machine).unwrap();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    while machine.exists() {
                        let _looked = is_locked(&machine);
                        // Fails when the machine has gone in between.
                        let _gone = put_json(&machine.join("want"), &Want::Terminate);
                    }
                });
                remove_machine(&machine).unwrap();
            });
            drop(held);
            assert_eq!(subdirectories(dir.path()), Vec::<PathBuf>::new());
        }
    }

    #[test]
    fn trees_that_have_nothing_to_do_with_each_other_lie_apart() {
        let dir = tempfile::tempdir().unwrap();
        let forest = dir.path().join("state/instances");
        for _ in 0..2 {
            make_forest(&forest).unwrap();
        }
        // statfs(2), EXT4_SUPER_MAGIC.
        if rustix::fs::statfs(&forest).unwrap().f_type == 0xEF53 {
            let flags = ioctl_getflags(File::open(&forest).unwrap()).unwrap();
            assert!(flags.contains(IFlags::TOPDIR));
        }
    }

    #[test]
    fn a_lock_is_held_until_its_file_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!is_locked(dir.path()));
        let lock = try_lock(dir.path()).unwrap().unwrap();
        assert!(is_locked(dir.path()));
        assert!(try_lock(dir.path()).unwrap().is_none());
        drop(lock);
        assert!(!is_locked(dir.path()));
    }
}
