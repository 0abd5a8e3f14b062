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
use super::tree::{Content, HostFile, Known, KnownBlock, Made, data_runs};
use super::{ImageError, Result};

/// Blocks that each core may be ahead of the reader.
const AHEAD: usize = 12;
/// More cores than this do not help: they wait for the disk.
const MOST_WORKERS: usize = 8;

/// Where the blocks of a disk go to.
pub trait Disk: Sync {
    /// For messages.
    fn path(&self) -> &Path;
    /// Whether it has a block already, so that this need not be made.
    fn has(&self, _block: &Block) -> bool {
        false
    }
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
    /// What it is made of, if that can be said.
    pub made: Option<Made>,
}

/// Writes `pieces` to `disk`, and hands each block to `take`, in order. What is known of and there is not made again.
///
/// # Errors
/// A file of the tree could not be read or is shorter than it was, or the disk could not be written.
pub fn write(
    pieces: Pieces<'_>,
    disk: &impl Disk,
    known: &Known,
    mut take: impl FnMut(Written),
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
                        known,
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
            take(written);
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
    known: &'a Known,
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
        let pieces = self.pieces;
        let first = pieces.partition_point(|piece| piece.end() <= start);
        let parts: Vec<_> = pieces[first..]
            .iter()
            .take_while(|piece| piece.offset < end)
            .map(|piece| Part::new(piece, start, end))
            .collect();
        let made = made_of(&parts);
        if let Some(KnownBlock { sha256, data_bytes }) =
            made.and_then(|made| self.known.block(&made))
        {
            let block = Block(index, sha256);
            if data_bytes == 0 || self.disk.has(&block) {
                return Ok(Written {
                    data_bytes,
                    block,
                    made,
                });
            }
        }
        let mut bytes = vec![0; usize_of(BLOCK_BYTES)];
        for part in parts {
            let target = &mut bytes[part.place];
            self.fill(part.source, part.skip, target)?;
        }
        let data = data_runs(&bytes);
        let block = Block(index, Sha256::digest(&bytes).into());
        if !data.is_empty() {
            self.disk
                .put(&block, &bytes, &data)
                .map_err(ImageError::io("write", self.disk.path()))?;
        }
        let data_bytes = data.iter().map(|run| run.len() as u64).sum();
        Ok(Written {
            data_bytes,
            block,
            made,
        })
    }

    /// Fills `target` with the bytes of a piece from `skip` on.
    fn fill(&mut self, source: &Source<'a>, skip: u64, target: &mut [u8]) -> Result<()> {
        match source {
            Source::Bytes(bytes) | Source::Content(Content::Bytes(bytes), _) => {
                target.copy_from_slice(&bytes[range_from(source, skip, target.len())]);
            }
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

/// What of a piece lies in a block.
struct Part<'p, 'a> {
    /// Where in the block.
    place: Range<usize>,
    source: &'p Source<'a>,
    /// From this byte of the piece on.
    skip: u64,
}

impl<'p, 'a> Part<'p, 'a> {
    fn new(piece: &'p Piece<'a>, start: u64, end: u64) -> Self {
        let (from, to) = (piece.offset.max(start), piece.end().min(end));
        Self {
            place: usize_of(from - start)..usize_of(to - start),
            source: &piece.source,
            skip: from - piece.offset,
        }
    }
}

/// What a block of these parts is made of. `None`: there is a file in it that would not be recognised.
fn made_of(parts: &[Part<'_, '_>]) -> Option<Made> {
    let mut hash = Sha256::new();
    for Part {
        place,
        source,
        skip,
    } in parts
    {
        hash.update((place.start as u64).to_le_bytes());
        hash.update((place.len() as u64).to_le_bytes());
        match source {
            Source::Bytes(bytes) | Source::Content(Content::Bytes(bytes), _) => {
                hash.update([0]);
                hash.update(&bytes[range_from(source, *skip, place.len())]);
            }
            Source::Content(Content::Host(HostFile { stamp, .. }), from) => {
                hash.update([1]);
                hash.update((*stamp)?.bytes());
                hash.update((from + skip).to_le_bytes());
            }
        }
    }
    Some(hash.finalize().into())
}

/// Where the bytes of a piece lie in its source, from its byte `skip` on.
fn range_from(source: &Source<'_>, skip: u64, length: usize) -> Range<usize> {
    let from = match source {
        Source::Bytes(_) => skip,
        Source::Content(_, from) => from + skip,
    };
    usize_of(from)..usize_of(from) + length
}

fn usize_of(bytes: u64) -> usize {
    usize::try_from(bytes).expect("what lies in memory or in a block")
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::super::Region;
    use super::*;

    /// A disk that notes which blocks are put, beside those that it has.
    struct Counting {
        disk: DiskFile,
        has: Mutex<Vec<Block>>,
        put: Mutex<Vec<Block>>,
    }

    impl Disk for Counting {
        fn path(&self) -> &Path {
            self.disk.path()
        }

        fn has(&self, block: &Block) -> bool {
            self.has.lock().unwrap().contains(block)
        }

        fn put(&self, block: &Block, bytes: &[u8], data: &[Range<usize>]) -> io::Result<()> {
            self.put.lock().unwrap().push(*block);
            self.disk.put(block, bytes, data)
        }

        fn get(&self, block: &Block, bytes: &mut [u8]) -> io::Result<()> {
            self.disk.get(block, bytes)
        }
    }

    #[test]
    fn a_block_that_is_known_is_not_made_again_and_one_with_something_else_in_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let noise = |seed: u8| -> Vec<u8> {
            let bytes = 0..3_u32 << 20;
            bytes.map(|at| (at / 7) as u8 ^ seed).collect()
        };
        for (name, seed) in [("one", 1), ("other", 2)] {
            std::fs::write(directory.path().join(name), noise(seed)).unwrap();
        }
        let later = || jiff::Timestamp::now().as_second() + 10;
        let file = tempfile::tempfile().unwrap();
        file.set_len(16 << 20).unwrap();
        let disk = Counting {
            disk: DiskFile {
                file,
                path: "disk".into(),
            },
            has: Mutex::default(),
            put: Mutex::default(),
        };
        let mut known = Known::default();
        let mut write = |now, table: &str| {
            let tree =
                crate::image::tree::Tree::scan_at(directory.path(), 0, now, &Known::default())
                    .unwrap();
            let pieces = Pieces::default();
            let region = Region::new(&pieces, 0, 16 << 20);
            let lies = [("one", 0), ("other", 8 << 20)];
            for (name, at) in lies {
                let (size, content) = tree.content(name.as_bytes()).unwrap();
                // Not at a border, and not from its start.
                region.copy(at + 4096, content, 100, size - 100);
            }
            // In a block with the end of a file, and in one of its own.
            region.write((11 << 20) + 8192, table);
            region.write(15 << 20, table);
            let mut blocks = Vec::new();
            write(pieces, &disk, &known, |written| blocks.push(written)).unwrap();
            let mut bytes = vec![0; 16 << 20];
            disk.disk.file.read_exact_at(&mut bytes, 0).unwrap();
            for (name, at) in lies {
                let file = std::fs::read(directory.path().join(name)).unwrap();
                let at = usize_of(at) + 4096;
                assert!(bytes[at..at + file.len() - 100] == file[100..]);
            }
            for at in [(11 << 20) + 8192, 15 << 20] {
                assert_eq!(bytes[at..at + table.len()], *table.as_bytes());
            }
            for Written { block, .. } in &blocks {
                let at = usize_of(block.0 * BLOCK_BYTES);
                let sum: [u8; 32] = Sha256::digest(&bytes[at..at + (512 << 10)]).into();
                assert_eq!(sum, block.1, "{}", block.0);
            }
            known.add_blocks(blocks.iter().filter_map(|written| {
                let block = KnownBlock {
                    sha256: written.block.1,
                    data_bytes: written.data_bytes,
                };
                Some((written.made?, block))
            }));
            let mut put = std::mem::take(&mut *disk.put.lock().unwrap());
            put.sort_by_key(|block| block.0);
            disk.has.lock().unwrap().extend(&put);
            put.into_iter().map(|block| block.0).collect::<Vec<_>>()
        };
        let all: Vec<u64> = (0..7).chain(16..23).chain([30]).collect();
        assert_eq!(write(later(), "table"), all);
        assert_eq!(write(later(), "table"), Vec::<u64>::new());
        assert_eq!(write(later(), "TABLE"), [22, 30]);
        std::fs::write(directory.path().join("one"), noise(3)).unwrap();
        assert_eq!(write(later(), "TABLE"), (0..7).collect::<Vec<_>>());
        // A file that has changed just now could do so again, and nobody would see it.
        std::fs::write(directory.path().join("one"), noise(4)).unwrap();
        for _ in 0..2 {
            let now = jiff::Timestamp::now().as_second();
            assert_eq!(write(now, "TABLE")[..7], [0, 1, 2, 3, 4, 5, 6]);
        }
        assert_eq!(write(later(), "TABLE"), all[..7]);
    }

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
            let known = Known::default();
            write(pieces, &disk, &known, |written| {
                indexes.push(written.block.0);
            })
            .map(|()| indexes)
        };
        assert_eq!(
            write().unwrap(),
            [2].into_iter().chain(40..120).collect::<Vec<_>>()
        );
        std::fs::write(&source, vec![7; 30 << 20]).unwrap();
        assert!(matches!(write(), Err(ImageError::Changed { path }) if path == source));
    }
}
