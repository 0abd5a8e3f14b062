//! Files' bytes on their way from the tree to their blocks.

use sha2::{Digest, Sha256};

use super::alloc::Allocator;
use super::extent::Extents;
use super::{BLOCK, BLOCK_BYTES};
use crate::image::tree::Content;
use crate::image::{Region, Result};

/// Bytes read and written at a time.
const CHUNK: usize = 1 << 20;

/// Copies contents, one file after the other, and hashes them on the way.
pub(super) struct Copier<'a> {
    region: Region<'a>,
    buffer: Vec<u8>,
}

impl<'a> Copier<'a> {
    pub(super) fn new(region: Region<'a>) -> Self {
        Self {
            region,
            buffer: vec![0; CHUNK],
        }
    }

    /// Copies a file and returns where it lies and the SHA-256 of its content. Blocks of zeros become holes.
    pub(super) fn copy(
        &mut self,
        size: u64,
        content: &Content,
        allocator: &mut Allocator,
        mut copied: impl FnMut(u64),
    ) -> Result<(Extents, [u8; 32])> {
        let (mut extents, mut hash, mut logical) = (Extents::default(), Sha256::new(), 0);
        let region = &self.region;
        content.read(size, &mut self.buffer, |bytes| {
            hash.update(bytes);
            for run in runs(bytes) {
                let start = logical + block_count(run.start);
                write_run(
                    region,
                    allocator,
                    &mut extents,
                    start,
                    &bytes[run.start..run.end],
                )?;
            }
            logical += block_count(bytes.len());
            copied(bytes.len() as u64);
            Ok(())
        })?;
        Ok((extents, hash.finalize().into()))
    }
}

/// Writes bytes as the file's blocks from `logical` on; the last block is filled up with zeros.
pub(super) fn write_run(
    region: &Region<'_>,
    allocator: &mut Allocator,
    extents: &mut Extents,
    mut logical: u32,
    mut bytes: &[u8],
) -> Result<()> {
    while !bytes.is_empty() {
        let blocks = allocator.run(bytes.len().div_ceil(BLOCK) as u64)?;
        let count = blocks.end - blocks.start;
        let room = usize::try_from(count * BLOCK_BYTES).expect("no more than the bytes at hand");
        let (now, rest) = bytes.split_at(room.min(bytes.len()));
        // The rest of a file's last block is a hole of the image: zeros without writing them.
        region.write(blocks.start * BLOCK_BYTES, now)?;
        extents.push(logical, blocks);
        logical += u32::try_from(count).expect("no more than the bytes at hand");
        bytes = rest;
    }
    Ok(())
}

/// A block as it reads where nothing was written.
static ZEROS: [u8; BLOCK] = [0; BLOCK];

/// Byte ranges of `bytes`, cut at block borders, that are not all zeros.
fn runs(bytes: &[u8]) -> Vec<std::ops::Range<usize>> {
    let mut runs: Vec<std::ops::Range<usize>> = Vec::new();
    for (index, block) in bytes.chunks(BLOCK).enumerate() {
        if *block == ZEROS[..block.len()] {
            continue;
        }
        let start = index * BLOCK;
        match runs.last_mut() {
            Some(last) if last.end == start => last.end = start + block.len(),
            _ => runs.push(start..start + block.len()),
        }
    }
    runs
}

/// Blocks of a chunk of a file.
fn block_count(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(BLOCK)).expect("a chunk has few blocks")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_blocks_are_left_out() {
        let mut bytes = vec![0; 5 * BLOCK + 10];
        bytes[BLOCK] = 1;
        bytes[3 * BLOCK - 1] = 1;
        bytes[5 * BLOCK + 9] = 1;
        assert_eq!(runs(&bytes), [BLOCK..3 * BLOCK, 5 * BLOCK..5 * BLOCK + 10]);
        assert!(runs(&[0; 3 * BLOCK]).is_empty());
    }
}
