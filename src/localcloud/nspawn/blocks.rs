//! The blocks of all disks of a cloud, each once, by its checksum: `blocks/<two digits>/<sha256>`.
//!
//! As EBS keeps snapshots: what a disk has in common with one before it is neither written nor kept a second time. A
//! disk itself is its block manifest. Whoever wants it as a file puts it together ([`assemble`]).
//!
//! Writers hold `blocks/lock` shared until their manifest is in its place, so that nobody sweeps away what they have
//! put and nothing names yet.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use sha2::{Digest as _, Sha256};

use super::files::{get_json, subdirectories, try_lock_file};
use crate::image::manifest::{BLOCK_BYTES, Block, BlockManifest};
use crate::image::output::Disk;
use crate::image::tree::data_runs;

/// The block manifest in the directory of a snapshot.
pub const MANIFEST: &str = "blocks.json";
/// There may be blocks that no disk has any more.
const STALE: &str = "stale";

/// The blocks of a cloud.
#[derive(Debug, Clone)]
pub struct Blocks {
    dir: PathBuf,
}

impl Blocks {
    /// Those of the cloud in this directory.
    #[must_use]
    pub fn of(cloud: &Path) -> Self {
        let dir = cloud.join("blocks");
        Self { dir }
    }

    /// Those of the cloud that has a snapshot in this directory: `<cloud>/snapshots/<id>`.
    #[must_use]
    pub fn beside(snapshot: &Path) -> Self {
        let cloud = snapshot.parent().and_then(Path::parent);
        Self::of(cloud.unwrap_or(Path::new("/")))
    }

    /// To put blocks: as long as the file is open nothing is swept away. Waits for a sweep.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn writing(&self) -> io::Result<File> {
        std::fs::create_dir_all(&self.dir)?;
        let lock = self.lock()?;
        flock(&lock, FlockOperation::LockShared)?;
        Ok(lock)
    }

    fn lock(&self) -> io::Result<File> {
        let mut options = File::options();
        options.create(true).truncate(false).write(true);
        options.open(self.dir.join("lock"))
    }

    /// One disk after the other gets its checksum. `None`: it is another one's turn.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn turn(&self) -> io::Result<Option<File>> {
        try_lock_file(&self.dir.join("turn"))
    }

    /// Removes a block that is damaged. While a disk is being written it stays: somebody may count on it, or have put it anew.
    fn discard(&self, block: &Block, bytes: &mut [u8]) -> io::Result<()> {
        let lock = self.lock()?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(()),
            other => other?,
        }
        self.read(block, bytes)?;
        if Sha256::digest(&*bytes)[..] != block.1 {
            std::fs::remove_file(self.place(&block.1))?;
        }
        Ok(())
    }

    fn place(&self, sha256: &[u8; 32]) -> PathBuf {
        let name = hex::encode(sha256);
        self.dir.join(&name[..2]).join(name)
    }

    fn read(&self, block: &Block, bytes: &mut [u8]) -> io::Result<()> {
        File::open(self.place(&block.1))?.read_exact_at(bytes, 0)
    }

    /// Says that there may be blocks that nothing needs any more. Where it cannot be said, they stay until the next time.
    pub fn mark_stale(&self) {
        if self.dir.is_dir() {
            let _ = File::create(self.dir.join(STALE));
        }
    }

    /// Removes the blocks that no snapshot has, if there may be any, and no disk is being written.
    ///
    /// # Errors
    /// The file system refuses, or a manifest cannot be read: then nothing is removed. The next sweep tries again.
    pub fn sweep(&self, snapshots: &Path) -> io::Result<()> {
        let stale = self.dir.join(STALE);
        if !stale.exists() {
            return Ok(());
        }
        let lock = self.lock()?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(()),
            other => other?,
        }
        // First: who deletes a disk from here on says so again.
        match std::fs::remove_file(stale) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let swept = self.sweep_locked(snapshots);
        if swept.is_err() {
            self.mark_stale();
        }
        swept
    }

    fn sweep_locked(&self, snapshots: &Path) -> io::Result<()> {
        let mut needed = HashSet::new();
        let listed = match std::fs::read_dir(snapshots) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            listed => Some(listed?),
        };
        for snapshot in listed.into_iter().flatten() {
            let manifest = snapshot?.path().join(MANIFEST);
            match get_json::<BlockManifest>(&manifest) {
                Err(error) if is_nothing(&error) => {}
                Err(error) => {
                    let text = format!("{}: {error}", manifest.display());
                    return Err(io::Error::new(error.kind(), text));
                }
                Ok(manifest) => {
                    needed.extend(manifest.blocks.iter().map(|block| hex::encode(block.1)));
                }
            }
        }
        for dir in subdirectories(&self.dir) {
            for entry in std::fs::read_dir(dir)? {
                let entry = entry?;
                let known = entry
                    .file_name()
                    .to_str()
                    .is_some_and(|name| needed.contains(name));
                if !known {
                    std::fs::remove_file(entry.path())?;
                }
            }
        }
        Ok(())
    }
}

/// Whether a path says that nothing is there.
fn is_nothing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// Between [`Blocks::writing`] and the manifest's being in its place.
impl Disk for Blocks {
    fn path(&self) -> &Path {
        &self.dir
    }

    fn has(&self, block: &Block) -> bool {
        std::fs::metadata(self.place(&block.1)).is_ok_and(|file| file.len() == BLOCK_BYTES)
    }

    fn put(&self, block: &Block, bytes: &[u8], data: &[Range<usize>]) -> io::Result<()> {
        let path = self.place(&block.1);
        // Compared, not believed: a host that has lost its power may have left something else there.
        let mut there = vec![0; bytes.len()];
        if self.read(block, &mut there).is_ok() && there == bytes {
            return Ok(());
        }
        let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        match std::fs::create_dir(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let file = tempfile::NamedTempFile::new_in(dir)?;
        file.as_file().set_len(bytes.len() as u64)?;
        for run in data {
            file.as_file()
                .write_all_at(&bytes[run.clone()], run.start as u64)?;
        }
        file.persist(path)?;
        Ok(())
    }

    fn get(&self, block: &Block, bytes: &mut [u8]) -> io::Result<()> {
        self.read(block, bytes)
    }
}

/// A disk could not be put together.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    #[error("{path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} is not what its name says")]
    Damaged { path: PathBuf },
    #[error(transparent)]
    Write(io::Error),
}

/// Writes the disk of a snapshot into an empty file, which becomes a sparse one; gives its size. Each block is checked. One
/// that is damaged is removed, and the next disk that needs it writes it again.
///
/// # Errors
/// [`AssembleError`]; the file may have a part of it then.
pub fn assemble(snapshot: &Path, to: &File) -> Result<u64, AssembleError> {
    let cannot_read = |path: PathBuf| move |source| AssembleError::Read { path, source };
    let blocks = Blocks::beside(snapshot);
    let path = snapshot.join(MANIFEST);
    let manifest: BlockManifest = get_json(&path).map_err(cannot_read(path))?;
    to.set_len(manifest.size_bytes)
        .map_err(AssembleError::Write)?;
    let done = crate::parallel::map_with(
        &manifest.blocks,
        || vec![0; usize::try_from(BLOCK_BYTES).unwrap_or(0)],
        |bytes, block| {
            let path = blocks.place(&block.1);
            blocks
                .read(block, bytes)
                .map_err(cannot_read(path.clone()))?;
            if Sha256::digest(&*bytes)[..] != block.1 {
                blocks
                    .discard(block, bytes)
                    .map_err(cannot_read(path.clone()))?;
                return Err(AssembleError::Damaged { path });
            }
            data_runs(bytes).into_iter().try_for_each(|run| {
                let at = block.0 * BLOCK_BYTES + run.start as u64;
                to.write_all_at(&bytes[run], at)
                    .map_err(AssembleError::Write)
            })
        },
    );
    done.into_iter().collect::<Result<(), _>>()?;
    Ok(manifest.size_bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::super::files::put_json;
    use super::*;

    const SIZE: usize = BLOCK_BYTES as usize;

    /// A block with one page of data.
    fn block(index: u64, byte: u8) -> (Block, Vec<u8>) {
        let mut bytes = vec![0; SIZE];
        bytes[8192..12_288].fill(byte);
        (Block(index, Sha256::digest(&bytes).into()), bytes)
    }

    /// A snapshot of these blocks.
    fn snapshot(cloud: &Path, name: &str, blocks: &[(Block, Vec<u8>)]) -> PathBuf {
        let dir = cloud.join("snapshots").join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let kept = Blocks::of(cloud);
        let _writing = kept.writing().unwrap();
        for (block, bytes) in blocks {
            kept.put(block, bytes, &data_runs(bytes)).unwrap();
        }
        let manifest = BlockManifest {
            block_bytes: BLOCK_BYTES,
            size_bytes: 8 * BLOCK_BYTES,
            blocks: blocks.iter().map(|(block, _)| *block).collect(),
        };
        put_json(&dir.join(MANIFEST), &manifest).unwrap();
        dir
    }

    fn kept(cloud: &Path) -> usize {
        let dirs = subdirectories(&cloud.join("blocks"));
        dirs.iter()
            .map(|dir| std::fs::read_dir(dir).unwrap().count())
            .sum()
    }

    #[test]
    fn two_disks_share_what_they_have_in_common_and_each_is_put_together() {
        let cloud = tempfile::tempdir().unwrap();
        let one = snapshot(
            cloud.path(),
            "one",
            &[block(0, 1), block(3, 2), block(7, 1)],
        );
        let two = snapshot(cloud.path(), "two", &[block(0, 1), block(3, 3)]);
        assert_eq!(kept(cloud.path()), 3);
        let put_together = |snapshot: &Path| {
            let file = tempfile::NamedTempFile::new().unwrap();
            let size = assemble(snapshot, file.as_file()).unwrap();
            let bytes = std::fs::read(file.path()).unwrap();
            assert_eq!(bytes.len() as u64, size);
            (bytes, file.as_file().metadata().unwrap().blocks() * 512)
        };
        let (bytes, takes) = put_together(&one);
        assert_eq!(bytes.len(), 8 * SIZE);
        for (index, byte) in [(0, 1), (3, 2), (7, 1)] {
            let at = usize::try_from(index).unwrap() * SIZE;
            assert_eq!(bytes[at..at + SIZE], block(index, byte).1);
        }
        assert!(bytes[SIZE..3 * SIZE].iter().all(|byte| *byte == 0));
        assert!(takes < 100_000);

        // What only one had goes with it, and the rest stays.
        std::fs::remove_dir_all(&one).unwrap();
        let (blocks, snapshots) = (Blocks::of(cloud.path()), cloud.path().join("snapshots"));
        blocks.sweep(&snapshots).unwrap();
        assert_eq!(kept(cloud.path()), 3);
        blocks.mark_stale();
        let writing = blocks.writing().unwrap();
        blocks.sweep(&snapshots).unwrap();
        assert_eq!(kept(cloud.path()), 3, "a disk is being written");
        drop(writing);
        blocks.sweep(&snapshots).unwrap();
        assert_eq!(kept(cloud.path()), 2);
        assert_eq!(put_together(&two).0[..SIZE], block(0, 1).1);
    }

    #[test]
    fn a_damaged_block_is_found_and_written_again() {
        let cloud = tempfile::tempdir().unwrap();
        let one = snapshot(cloud.path(), "one", &[block(0, 1)]);
        let place = Blocks::of(cloud.path()).place(&block(0, 1).0.1);
        File::options()
            .write(true)
            .open(&place)
            .unwrap()
            .write_all_at(b"x", 0)
            .unwrap();
        let put_together =
            |snapshot: &Path| assemble(snapshot, &tempfile::tempfile().unwrap()).map(|_| ());
        let error = put_together(&one).unwrap_err();
        assert!(matches!(&error, AssembleError::Damaged { path } if *path == place));
        assert!(!Blocks::of(cloud.path()).has(&block(0, 1).0));
        std::fs::write(&place, "").unwrap();
        assert!(!Blocks::of(cloud.path()).has(&block(0, 1).0));
        let error = put_together(&one).unwrap_err();
        assert!(matches!(&error, AssembleError::Read { path, .. } if *path == place));
        let two = snapshot(cloud.path(), "two", &[block(4, 1)]);
        assert!(Blocks::of(cloud.path()).has(&block(0, 1).0));
        put_together(&one).unwrap();
        put_together(&two).unwrap();
    }
}
