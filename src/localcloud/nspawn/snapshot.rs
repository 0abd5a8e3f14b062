//! Snapshots: a machine's layer is frozen at once, its disk is written by a process of its own.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use jiff::Timestamp;
use rustix::fs::FlockOperation;
use rustix::process::Pid;
use sha2::{Digest, Sha256};

use super::blocks::{Blocks, MANIFEST};
use super::files::{
    Progress, REPORT, SURVEYS, Status, TREE, get_json, make_root, put_json, remove_dir, remove_disk,
};
use super::overlay;
use crate::image::SOURCE_DATE;
use crate::image::disk::{self, DiskReport, DiskSpec};
use crate::image::tree::{Known, Survey, Tree};
use crate::localcloud::driver::{Power, SnapshotSpec};

/// How often the writer looks whether its disk has been deleted.
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
    let lower: Vec<PathBuf> = get_json(&machine.join("chain.json"))?;
    let mut chain = vec![layer.clone()];
    chain.extend(lower);
    let off = get_json::<Status>(&machine.join("status.json"))
        .is_ok_and(|status| status.power == Power::Off);
    if off {
        std::fs::rename(&upper, &layer)?;
        make_root(&upper)?;
        put_json(&machine.join("chain.json"), &chain)?;
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

/// The process that writes one disk (hidden verb `local-snapshot`).
#[must_use]
pub fn main(dir: &Path) -> ExitCode {
    let result = write(dir);
    if dir.join("deleted").exists() {
        // Deleted while it was being written: what is left goes now, or with the last chain that needs it.
        let _nothing_more_to_do = remove_disk(dir);
        if let Some(cloud) = dir.parent().and_then(Path::parent) {
            let _tried_again_later = super::prune(cloud);
        }
        return ExitCode::SUCCESS;
    }
    let Err(error) = result else {
        return ExitCode::SUCCESS;
    };
    let of_disk = dir.join("progress.json");
    if get_json(&of_disk).is_ok_and(|progress: Progress| progress.done) {
        // Nobody waits for what is missing; who asks for it finds that it is not there.
        eprintln!("{}: {error}", dir.display());
        return ExitCode::FAILURE;
    }
    let failed = Progress {
        percent: 0,
        done: false,
        error: Some(error.to_string()),
    };
    // If this fails too: the lock falls with this process, and then the disk counts as failed.
    let _ = put_json(&of_disk, &failed);
    ExitCode::FAILURE
}

/// What is on the disk in a snapshot's directory. Its checksum comes after the disk: this waits for the writer to end.
///
/// # Errors
/// There is none, or the writer has died before it was made.
pub fn report(dir: &Path) -> io::Result<DiskReport> {
    let lock = File::open(dir.join("lock"))?;
    rustix::fs::flock(&lock, FlockOperation::LockShared)?;
    get_json(&dir.join(REPORT))
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
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten();
    for thread in threads.flatten() {
        let name = thread.file_name();
        let id = name.to_str().and_then(|id| id.parse().ok());
        if let Some(id) = id.and_then(Pid::from_raw) {
            let _ = rustix::process::setpriority_process(Some(id), NICE);
        }
    }
    // A session is one group to the kernel's scheduler, and counts as one whatever the values in it are (sched(7), "The
    // autogroup feature").
    let _ = std::fs::write("/proc/self/autogroup", NICE.to_string());
}

/// Looks at the contents of a snapshot's tree. What its lower layers have is known from the disks before it.
fn survey(dir: &Path, tree: &Tree, began: i64) -> crate::image::Result<Vec<Survey>> {
    let cloud = dir.parent().and_then(Path::parent);
    let note = cloud.unwrap_or(Path::new("/")).join(SURVEYS);
    let mut known = Known::read(&note);
    let contents = tree.survey_knowing(&known)?;
    known.add(tree, &contents, began);
    // Without it the next disk takes longer, and that is all.
    let _ = known.write(&note);
    Ok(contents)
}

fn write(dir: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let spec: SnapshotSpec = get_json(&dir.join("spec.json"))?;
    let chain: Vec<PathBuf> = get_json(&dir.join("chain.json"))?;
    overlay::private_namespace()?;
    let root = dir.join("root");
    remove_dir(&root)?;
    std::fs::create_dir(&root)?;
    overlay::mount_layers(&chain, &root)?;
    let began = Timestamp::now().as_second();
    let tree = Tree::scan(&root, SOURCE_DATE)?;
    let contents = survey(dir, &tree, began)?;
    let disk_spec = DiskSpec {
        size_bytes: spec.size_gib << 30,
        seed: seed(spec.size_gib),
        source_date: SOURCE_DATE,
    };
    // Of a snapshot that was complete without its disk, nobody waits for that.
    let before: Progress = get_json(&dir.join("progress.json"))?;
    let shown = Cell::new(if before.done { 100 } else { 0 });
    let progress = |percent: u8| {
        if percent > shown.get() && percent < 100 {
            shown.set(percent);
            // Only a picture of the work; its end is written by `main`.
            let _ = put_json(
                &dir.join("progress.json"),
                &Progress {
                    percent,
                    done: false,
                    error: None,
                },
            );
        }
    };
    let blocks = Blocks::beside(dir);
    let unnamed = blocks.writing()?;
    let laid = disk::lay(&tree, contents, &disk_spec, blocks, &progress)?;
    // The manifest of the blocks last: with it, the disk counts as being there.
    let text = tempfile::NamedTempFile::new_in(dir)?;
    std::fs::write(text.path(), &laid.tree)?;
    text.persist(dir.join(TREE))?;
    put_json(&dir.join(MANIFEST), &laid.blocks)?;
    drop(unnamed);
    put_json(&dir.join("progress.json"), &Progress::complete())?;
    be_patient();
    while !laid.is_finished() {
        if dir.join("deleted").exists() {
            return Ok(());
        }
        std::thread::sleep(LOOK);
    }
    put_json(&dir.join(REPORT), &laid.finish()?.report)?;
    rustix::mount::unmount(&root, rustix::mount::UnmountFlags::DETACH)?;
    std::fs::remove_dir(&root)?;
    Ok(())
}
