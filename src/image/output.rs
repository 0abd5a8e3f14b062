//! A disk on its way from its pieces to where it is kept: every core assembles, hashes and writes blocks, and one reader
//! gets them in order.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};

use sha2::{Digest, Sha256};

use super::manifest::{BLOCK_BYTES, Block};
use super::region::{Piece, Pieces, Source};
use super::tree::{Content, HostFile, data_runs};
use super::{ImageError, Result};

/// Blocks that each core may be ahead of the reader.
const AHEAD: usize = 12;
/// More cores than this do not help: they wait for the disk.
const MOST_WORKERS: usize = 8;

/// Where the blocks of a disk go to.
pub trait Disk: Send + Sync + 'static {
    /// For messages.
    fn path(&self) -> &Path;
    /// Takes a block. `data` are the ranges of its bytes that are not zeros, in pages.
    ///
    /// # Errors
    /// It cannot be written.
    fn put(&self, block: &Block, bytes: &[u8], data: &[Range<usize>]) -> io::Result<()>;
    /// Reads a block that has been put.
    ///
    /// # Errors
    /// It cannot be read.
    fn get(&self, block: &Block, bytes: &mut [u8]) -> io::Result<()>;
}

/// A disk that is one file, which reads as zeros before. Pages of zeros become holes.
pub struct DiskFile {
    pub file: File,
    pub path: PathBuf,
}

impl Disk for DiskFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn put(&self, block: &Block, bytes: &[u8], data: &[Range<usize>]) -> io::Result<()> {
        let start = block.0 * BLOCK_BYTES;
        data.iter().try_for_each(|run| {
            self.file
                .write_all_at(&bytes[run.clone()], start + run.start as u64)
        })
    }

    fn get(&self, block: &Block, bytes: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(bytes, block.0 * BLOCK_BYTES)
    }
}

/// A block as it has been written.
pub struct Written {
    /// Bytes of it that are no holes.
    pub data_bytes: u64,
    pub block: Block,
}

/// Writes `pieces` to `disk`, and hands each block that is not all zeros to `take`, in order, with how many of how many
/// blocks are through.
///
/// # Errors
/// A file of the tree could not be read or is shorter than it was, or the disk could not be written.
pub fn write(
    pieces: Pieces<'_>,
    disk: &impl Disk,
    mut take: impl FnMut(Written, (u64, u64)),
) -> Result<()> {
    let pieces = pieces.sorted();
    let blocks = block_indexes(&pieces);
    let workers = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(MOST_WORKERS);
    std::thread::scope(|scope| {
        // Worker N has every block whose turn is N: so the reader knows whom to ask for the next one.
        let queues: Vec<_> = (0..workers)
            .map(|first| {
                let (sender, receiver) = sync_channel(AHEAD);
                let (pieces, blocks) = (&pieces, &blocks);
                scope.spawn(move || {
                    let mut worker = Worker {
                        pieces,
                        disk,
                        open: None,
                    };
                    worker.run(blocks.iter().skip(first).step_by(workers), &sender);
                });
                receiver
            })
            .collect();
        for turn in 0..blocks.len() {
            let written = queues[turn % workers]
                .recv()
                .expect("a worker sends each of its blocks or an error")?;
            if written.data_bytes > 0 {
                take(written, (turn as u64 + 1, blocks.len() as u64));
            }
        }
        Ok(())
    })
}

/// The blocks that pieces lie in.
fn block_indexes(pieces: &[Piece<'_>]) -> Vec<u64> {
    let mut indexes: Vec<u64> = pieces
        .iter()
        .flat_map(|piece| piece.offset / BLOCK_BYTES..piece.end().div_ceil(BLOCK_BYTES))
        .collect();
    indexes.dedup();
    indexes
}

struct Worker<'a, D> {
    pieces: &'a [Piece<'a>],
    disk: &'a D,
    /// The file that was read last: a large one is read by many blocks.
    open: Option<(&'a Path, File)>,
}

impl<'a, D: Disk> Worker<'a, D> {
    fn run<'b>(
        &mut self,
        blocks: impl Iterator<Item = &'b u64>,
        sender: &SyncSender<Result<Written>>,
    ) {
        for index in blocks {
            let written = self.block(*index);
            let failed = written.is_err();
            // A reader that is gone has failed, and says so.
            if sender.send(written).is_err() || failed {
                return;
            }
        }
    }

    fn block(&mut self, index: u64) -> Result<Written> {
        let start = index * BLOCK_BYTES;
        let end = start + BLOCK_BYTES;
        let mut bytes = vec![0; usize_of(BLOCK_BYTES)];
        let pieces = self.pieces;
        let first = pieces.partition_point(|piece| piece.end() <= start);
        for piece in pieces[first..]
            .iter()
            .take_while(|piece| piece.offset < end)
        {
            let (from, to) = (piece.offset.max(start), piece.end().min(end));
            let target = &mut bytes[usize_of(from - start)..usize_of(to - start)];
            self.fill(&piece.source, from - piece.offset, target)?;
        }
        let data = data_runs(&bytes);
        let block = Block(index, Sha256::digest(&bytes).into());
        if !data.is_empty() {
            self.disk
                .put(&block, &bytes, &data)
                .map_err(ImageError::io("write", self.disk.path()))?;
        }
        let data_bytes = data.iter().map(|run| run.len() as u64).sum();
        Ok(Written { data_bytes, block })
    }

    /// Fills `target` with the bytes of a piece from `skip` on.
    fn fill(&mut self, source: &Source<'a>, skip: u64, target: &mut [u8]) -> Result<()> {
        let slice = |bytes: &[u8], from: u64, target: &mut [u8]| {
            let from = usize_of(from);
            target.copy_from_slice(&bytes[from..from + target.len()]);
        };
        match source {
            Source::Bytes(bytes) => slice(bytes, skip, target),
            Source::Content(Content::Bytes(bytes), from) => slice(bytes, from + skip, target),
            Source::Content(Content::Host(HostFile { path, .. }), from) => {
                let file = match self.open.take() {
                    Some((open, file)) if open == path => file,
                    _ => File::open(path).map_err(ImageError::io("open", path))?,
                };
                file.read_exact_at(target, from + skip)
                    .map_err(|error| match error.kind() {
                        std::io::ErrorKind::UnexpectedEof => {
                            ImageError::Changed { path: path.clone() }
                        }
                        _ => ImageError::io("read", path)(error),
                    })?;
                self.open = Some((path, file));
            }
        }
        Ok(())
    }
}

fn usize_of(bytes: u64) -> usize {
    usize::try_from(bytes).expect("what lies in memory or in a block")
}

#[cfg(test)]
mod tests {
    use super::super::Region;
    use super::*;

    #[test]
    fn blocks_come_in_order_and_a_file_that_has_shrunk_stops_all() {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("source");
        std::fs::write(&source, vec![7; 40 << 20]).unwrap();
        let content = Content::Host(HostFile {
            path: source.clone(),
            stamp: None,
        });
        let write = || {
            let pieces = Pieces::default();
            let region = Region::new(&pieces, 0, 64 << 20);
            region.copy(20 << 20, &content, 1000, (40 << 20) - 1000);
            region.write(1 << 20, vec![1; 10]);
            let mut indexes = Vec::new();
            let disk = DiskFile {
                file: tempfile::tempfile().unwrap(),
                path: "disk".into(),
            };
            write(pieces, &disk, |written, _| indexes.push(written.block.0)).map(|()| indexes)
        };
        assert_eq!(
            write().unwrap(),
            [2].into_iter().chain(40..120).collect::<Vec<_>>()
        );
        std::fs::write(&source, vec![7; 30 << 20]).unwrap();
        assert!(matches!(write(), Err(ImageError::Changed { path }) if path == source));
    }
}
