//! Snapshots: a machine's layer is frozen at once, its disk is written by a process of its own.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use rustix::fs::FlockOperation;
use sha2::{Digest, Sha256};

use super::blocks::{Blocks, MANIFEST};
use super::files::{
    FAILED, REPORT, SURVEYS, Status, TREE, TRIED, get_json, make_root, put_json, remove_dir,
    remove_disk,
};
use super::overlay;
use crate::image::SOURCE_DATE;
use crate::image::disk::{self, DiskReport, DiskSpec};
use crate::image::tree::{Known, Tree};
use crate::localcloud::driver::{Power, SnapshotSpec};
use crate::whole;

/// In a machine's directory: which layer was the last to be handed over.
const HANDED_OVER: &str = "handed-over.json";
/// How often the writer looks whether it is its turn.
const LOOK: Duration = Duration::from_millis(50);

/// Freezes the root of a machine into `dir/layer` and writes `dir/chain.json`.
///
/// A machine that is off hands its own layer over and goes on from it with a fresh one; of a running machine the
/// layer is copied, as consistent as a disk after a power cut (`NoReboot`). Gives whether it was off.
///
/// # Errors
/// The file system refuses.
pub fn freeze(machine: &Path, dir: &Path) -> io::Result<bool> {
    let (upper, layer) = (machine.join("upper"), dir.join("layer"));
    let lower = lower_layers(machine)?;
    let mut chain = vec![layer.clone()];
    chain.extend(lower);
    let off = get_json::<Status>(&machine.join("status.json"))
        .is_ok_and(|status| status.power == Power::Off);
    if off {
        // In this order, for this process may die at any of it: `lower_layers` says what has happened then.
        put_json(&machine.join(HANDED_OVER), &layer)?;
        put_json(&machine.join("chain.json"), &chain)?;
        std::fs::rename(&upper, &layer)?;
        make_root(&upper)?;
    } else {
        let copied = Command::new("cp")
            .args(["-a", "--reflink=auto", "--"])
            .arg(&upper)
            .arg(&layer)
            .status()?;
        if !copied.success() {
            return Err(io::Error::other(format!("cp ended with {copied}")));
        }
    }
    put_json(&dir.join("chain.json"), &chain)?;
    Ok(off)
}

/// The layers that a machine's own one lies on, the uppermost first. A process that died as it froze the machine's layer may
/// have left it named and not handed over, or handed over without a fresh one: nothing of it is lost.
///
/// # Errors
/// The file system refuses.
pub fn lower_layers(machine: &Path) -> io::Result<Vec<PathBuf>> {
    let path = machine.join("chain.json");
    let mut chain: Vec<PathBuf> = get_json(&path)?;
    let handed_over: Option<PathBuf> = get_json(&machine.join(HANDED_OVER)).ok();
    if handed_over.is_some_and(|layer| chain.first() == Some(&layer) && !layer.exists()) {
        chain.remove(0);
        put_json(&path, &chain)?;
    }
    make_root(&machine.join("upper"))?;
    Ok(chain)
}

/// The process that writes one disk (hidden verb `local-snapshot`).
#[must_use]
pub fn main(dir: &Path) -> ExitCode {
    let deleted = || dir.join("deleted").exists();
    let mut patient = false;
    let result = match deleted() {
        true => Ok(()),
        false => write(dir, &mut patient),
    };
    if deleted() {
        if patient && hand_on(dir).is_ok() {
            return ExitCode::SUCCESS;
        }
        // What is left goes now, or with the last chain that needs it.
        let _nothing_more_to_do = remove_disk(dir);
        if let Some(cloud) = dir.parent().and_then(Path::parent) {
            let _tried_again_later = super::prune_with(cloud, Some(dir));
        }
        return ExitCode::SUCCESS;
    }
    let Err(error) = result else {
        return ExitCode::SUCCESS;
    };
    eprintln!("{}: {error}", dir.display());
    // Where this cannot be written either, it has died.
    let _ = std::fs::write(dir.join(FAILED), error.to_string());
    ExitCode::FAILURE
}

/// Why the disk in a snapshot's directory could not be written, if it could not; it is told once.
pub fn take_failure(dir: &Path) -> Option<String> {
    let path = dir.join(FAILED);
    let reason = std::fs::read_to_string(&path).ok()?;
    std::fs::remove_file(&path).ok()?;
    Some(reason)
}

/// Whether one more writer may try to write a disk; it counts as a try. After a no the count begins anew.
///
/// # Errors
/// The file system refuses.
pub fn may_try(dir: &Path) -> io::Result<bool> {
    const TRIES: u64 = 3;
    let path = dir.join(TRIED);
    let mut tried = File::options().create(true).append(true).open(&path)?;
    if tried.metadata()?.len() >= TRIES {
        std::fs::remove_file(path)?;
        return Ok(false);
    }
    tried.write_all(b".")?;
    Ok(true)
}

/// What is on the disk in a snapshot's directory. Its checksum comes after the disk: this waits for the writer to end.
///
/// # Errors
/// There is none, or the writer has died before it was made.
pub fn report(dir: &Path) -> io::Result<DiskReport> {
    let lock = File::open(dir.join("lock"))?;
    rustix::fs::flock(&lock, FlockOperation::LockShared)?;
    get_json(&dir.join(REPORT)).map_err(|error| match take_failure(dir) {
        Some(reason) => io::Error::other(reason),
        None => error,
    })
}

/// What the identifiers of a disk come from: its size alone.
///
/// All checksums of ext4's metadata start from the file system's UUID. If that followed from the content, one changed
/// byte would change each block with metadata in it; and what stays the same in all images of a recipe is not known
/// below the wire. So disks of a size have the same UUIDs and PARTUUIDs, as all volumes of one AMI have. That is no
/// problem while a machine has one of them. To look into a second one, attach it to a machine that runs and mount it
/// by its device: `root=PARTUUID=` takes the first that the kernel finds, so a machine that boots with both attached
/// may come up on the wrong one.
fn seed(size_gib: u64) -> [u8; 32] {
    Sha256::new()
        .chain_update("piaas-bake disk of the local cloud v1\n")
        .chain_update(size_gib.to_le_bytes())
        .finalize()
        .into()
}

/// Lets everything else go first: what is left is the checksum of the whole disk, for which a bake does not wait. Where that
/// cannot be had, nothing is lost but time.
fn be_patient() {
    // Of a core that another one wants, too, it gets a tenth (sched(7)).
    const NICE: i32 = 10;
    let _ = rustix::process::setpriority_process(None, NICE);
    // A session is one group to the kernel's scheduler, and counts as one whatever the values in it are (sched(7), "The
    // autogroup feature").
    let _ = std::fs::write("/proc/self/autogroup", NICE.to_string());
}

/// Leaves what is to be removed to another process like this one, which gets the lock along: somebody waits for it, and one
/// that has been patient has to wait its turn even when it is patient no more.
fn hand_on(dir: &Path) -> io::Result<()> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("local-snapshot").arg(dir);
    command.stdin(Stdio::null());
    // SAFETY: setsid and setpriority are async-signal-safe, and nothing else happens between fork and exec.
    unsafe {
        command.pre_exec(|| {
            rustix::process::setsid()?;
            rustix::process::setpriority_process(None, 0)?;
            Ok(())
        });
    }
    command.spawn().map(drop)
}

/// Goes before the directory that it is mounted in is removed.
struct Mounted<'r>(&'r Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        // It goes with this process in any case.
        let _ = rustix::mount::unmount(self.0, rustix::mount::UnmountFlags::DETACH);
        let _ = std::fs::remove_dir(self.0);
    }
}

fn write(dir: &Path, patient: &mut bool) -> Result<(), Box<dyn std::error::Error>> {
    let _of_one_before = take_failure(dir);
    let spec: SnapshotSpec = get_json(&dir.join("spec.json"))?;
    let chain: Vec<PathBuf> = get_json(&dir.join("chain.json"))?;
    overlay::private_namespace()?;
    let root = dir.join("root");
    remove_dir(&root)?;
    std::fs::create_dir(&root)?;
    overlay::mount_layers(&chain, &root)?;
    let _mounted = Mounted(&root);
    // What its lower layers have is known from the disks before it.
    let cloud = dir.parent().and_then(Path::parent);
    let note = cloud.unwrap_or(Path::new("/")).join(SURVEYS);
    let mut known = Known::read(&note);
    let tree = Tree::scan_knowing(&root, SOURCE_DATE, &known)?;
    let contents = tree.survey_knowing(&known)?;
    known.add(&tree, &contents);
    let disk_spec = DiskSpec {
        size_bytes: spec.size_gib << 30,
        seed: seed(spec.size_gib),
        source_date: SOURCE_DATE,
    };
    let blocks = Blocks::beside(dir);
    let unnamed = blocks.writing()?;
    let mut laid = disk::lay(&tree, contents, &disk_spec, blocks, &known)?;
    // The manifest of the blocks last: with it, the disk counts as being there.
    whole::write(&dir.join(TREE), laid.tree.as_bytes())?;
    put_json(&dir.join(MANIFEST), &laid.blocks)?;
    drop(unnamed);
    laid.note(&mut known);
    // Without it the next disk takes longer, and that is all.
    let _ = known.write(&note);
    drop(known);
    be_patient();
    *patient = true;
    let deleted = || dir.join("deleted").exists() || !dir.exists();
    let blocks = Blocks::beside(dir);
    let _turn = loop {
        match blocks.turn()? {
            Some(turn) => break turn,
            None if deleted() => return Ok(()),
            None => std::thread::sleep(LOOK),
        }
    };
    let Some(written) = laid.finish(&deleted)? else {
        return Ok(());
    };
    put_json(&dir.join(REPORT), &written.report)?;
    std::fs::remove_file(dir.join(TRIED))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine that is off, with a file in its own layer, and two places for snapshots.
    fn off(dir: &Path) -> (PathBuf, [PathBuf; 2]) {
        let machine = dir.join("i-1");
        let base = dir.join("base");
        for path in [
            &machine.join("upper"),
            &base,
            &dir.join("one"),
            &dir.join("two"),
        ] {
            std::fs::create_dir_all(path).unwrap();
        }
        std::fs::write(machine.join("upper/built"), "by steps").unwrap();
        put_json(&machine.join("chain.json"), &[&base]).unwrap();
        let status = Status {
            power: Power::Off,
            ..Status::starting()
        };
        put_json(&machine.join("status.json"), &status).unwrap();
        (machine, [dir.join("one"), dir.join("two")])
    }

    #[test]
    fn a_freeze_that_was_cut_off_loses_nothing_of_the_machine() {
        for cut in 0..=3 {
            let dir = tempfile::tempdir().unwrap();
            let (machine, [one, two]) = off(dir.path());
            let upper = machine.join("upper");
            let layer = one.join("layer");
            // As far as the first process came.
            if cut > 0 {
                put_json(&machine.join(HANDED_OVER), &layer).unwrap();
                put_json(
                    &machine.join("chain.json"),
                    &[&layer, &dir.path().join("base")],
                )
                .unwrap();
            }
            if cut > 1 {
                std::fs::rename(&upper, &layer).unwrap();
            }
            if cut > 2 {
                make_root(&upper).unwrap();
            }
            assert!(freeze(&machine, &two).unwrap());
            let chain: Vec<PathBuf> = get_json(&two.join("chain.json")).unwrap();
            let has = chain.iter().filter(|layer| layer.join("built").exists());
            assert_eq!(has.count(), 1, "cut off at {cut}: {chain:?}");
            assert!(
                chain.iter().all(|layer| layer.exists()),
                "cut off at {cut}: {chain:?}"
            );
            assert_eq!(lower_layers(&machine).unwrap(), chain, "cut off at {cut}");
            assert!(upper.exists() && !upper.join("built").exists());
        }
    }
}
