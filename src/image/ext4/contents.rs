//! Files' bytes: which blocks they go to.

use std::ops::Range;

use super::BLOCK_BYTES;
use super::alloc::Allocator;
use super::extent::Extents;
use crate::image::tree::Content;
use crate::image::{Region, Result};

/// Gives a file with these runs of data its blocks; the rest of it are holes. Returns where it lies.
pub(super) fn place<'a>(
    content: &'a Content,
    data: &[Range<u64>],
    region: &Region<'_, 'a>,
    allocator: &mut Allocator,
) -> Result<Extents> {
    let mut extents = Extents::default();
    for run in data {
        let mut from = run.start;
        take(allocator, &mut extents, run.clone(), |offset, length| {
            region.copy(offset, content, from, length);
            from += length;
        })?;
    }
    Ok(extents)
}

/// Writes bytes as a file's blocks.
pub(super) fn write(
    bytes: &[u8],
    region: &Region<'_, '_>,
    allocator: &mut Allocator,
) -> Result<Extents> {
    let (mut extents, mut rest) = (Extents::default(), bytes);
    take(
        allocator,
        &mut extents,
        0..bytes.len() as u64,
        |offset, length| {
            let length = usize::try_from(length).expect("no more than the bytes at hand");
            region.write(offset, &rest[..length]);
            rest = &rest[length..];
        },
    )?;
    Ok(extents)
}

/// Takes blocks for a run of a file's bytes, which starts with a block, and tells offset and length of each piece.
/// The rest of a last block stays as it is: zeros.
fn take(
    allocator: &mut Allocator,
    extents: &mut Extents,
    run: Range<u64>,
    mut piece: impl FnMut(u64, u64),
) -> Result<()> {
    let mut at = run.start;
    while at < run.end {
        let blocks = allocator.run((run.end - at).div_ceil(BLOCK_BYTES))?;
        let length = ((blocks.end - blocks.start) * BLOCK_BYTES).min(run.end - at);
        piece(blocks.start * BLOCK_BYTES, length);
        let logical = u32::try_from(at / BLOCK_BYTES).expect("a file has fewer than 2^32 blocks");
        extents.push(logical, blocks);
        at += length;
    }
    Ok(())
}
