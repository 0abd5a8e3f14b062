//! Extent trees: which blocks of a file are where.
//!
//! Source: <https://docs.kernel.org/filesystems/ext4/ifork.html#extent-tree>.

use std::ops::Range;

use super::checksum::crc;
use super::{BLOCK, BLOCK_BYTES};
use crate::image::bytes::{high32, low16, low32, put16, put32};
use crate::image::{Region, Result};

const MAGIC: u16 = 0xf30a;
const HEADER: usize = 12;
const ENTRY: usize = 12;
/// Entries in an inode's 60 bytes.
const ROOT_ENTRIES: usize = 4;
/// Entries in a block, whose last four bytes are a checksum.
const BLOCK_ENTRIES: usize = (BLOCK - HEADER - 4) / ENTRY;
/// Blocks in one initialized extent.
const MOST_BLOCKS: u64 = 32768;

/// A run of a file's blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// First block within the file.
    pub logical: u32,
    /// First block on the file system.
    pub physical: u64,
    pub count: u64,
}

/// A file's extents in order.
#[derive(Debug, Default)]
pub(super) struct Extents(Vec<Extent>);

impl Extents {
    /// Appends a run of blocks, longer than an extent may be or not.
    pub(super) fn push(&mut self, logical: u32, run: Range<u64>) {
        let (mut logical, mut physical) = (u64::from(logical), run.start);
        while physical < run.end {
            let room = match self.0.last_mut() {
                Some(last)
                    if last.count < MOST_BLOCKS
                        && u64::from(last.logical) + last.count == logical
                        && last.physical + last.count == physical =>
                {
                    last
                }
                _ => {
                    self.0.push(Extent {
                        logical: low32(logical),
                        physical,
                        count: 0,
                    });
                    self.0.last_mut().expect("just pushed")
                }
            };
            let count = (MOST_BLOCKS - room.count).min(run.end - physical);
            room.count += count;
            logical += count;
            physical += count;
        }
    }

    /// Blocks of the file that are not holes.
    pub(super) fn blocks(&self) -> u64 {
        self.0.iter().map(|extent| extent.count).sum()
    }

    /// Writes the tree's blocks, if it needs any, and returns the root for the inode and how many blocks it took.
    pub(super) fn write(
        &self,
        seed: u32,
        region: &Region<'_, '_>,
        mut block: impl FnMut() -> Result<u64>,
    ) -> Result<([u8; 60], u64)> {
        // (first logical block, encoded entry) of one level, from the leaves up.
        let mut level: Vec<(u32, [u8; ENTRY])> = self.0.iter().map(leaf).collect();
        let (mut depth, mut taken) = (0, 0);
        while level.len() > ROOT_ENTRIES {
            let mut upper = Vec::new();
            for entries in level.chunks(BLOCK_ENTRIES) {
                let mut node = vec![0; BLOCK];
                fill(&mut node, entries, BLOCK_ENTRIES, depth);
                let checksum = crc(seed, &node[..BLOCK - 4]);
                put32(&mut node, BLOCK - 4, checksum);
                let place = block()?;
                region.write(place * BLOCK_BYTES, node);
                taken += 1;
                upper.push((entries[0].0, index(entries[0].0, place)));
            }
            level = upper;
            depth += 1;
        }
        let mut root = [0; 60];
        fill(&mut root, &level, ROOT_ENTRIES, depth);
        Ok((root, taken))
    }
}

/// Blocks of the tree over so many extents.
pub(super) fn tree_blocks(extents: usize) -> u64 {
    let (mut level, mut blocks) = (extents, 0);
    while level > ROOT_ENTRIES {
        level = level.div_ceil(BLOCK_ENTRIES);
        blocks += level as u64;
    }
    blocks
}

fn fill(node: &mut [u8], entries: &[(u32, [u8; ENTRY])], most: usize, depth: u16) {
    put16(node, 0, MAGIC);
    put16(
        node,
        2,
        u16::try_from(entries.len()).expect("a node holds at most 340 entries"),
    );
    put16(
        node,
        4,
        u16::try_from(most).expect("a node holds at most 340 entries"),
    );
    put16(node, 6, depth);
    for (place, (_, entry)) in node[HEADER..].chunks_exact_mut(ENTRY).zip(entries) {
        place.copy_from_slice(entry);
    }
}

fn leaf(extent: &Extent) -> (u32, [u8; ENTRY]) {
    let mut entry = [0; ENTRY];
    put32(&mut entry, 0, extent.logical);
    put16(
        &mut entry,
        4,
        u16::try_from(extent.count).expect("an extent has at most 32768 blocks"),
    );
    put16(&mut entry, 6, low16(high32(extent.physical)));
    put32(&mut entry, 8, low32(extent.physical));
    (extent.logical, entry)
}

fn index(logical: u32, block: u64) -> [u8; ENTRY] {
    let mut entry = [0; ENTRY];
    put32(&mut entry, 0, logical);
    put32(&mut entry, 4, low32(block));
    put16(&mut entry, 8, low16(high32(block)));
    entry
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Pieces;

    #[test]
    fn neighbours_join_and_long_runs_split() {
        let mut extents = Extents::default();
        extents.push(0, 100..110);
        extents.push(10, 110..120);
        extents.push(25, 120..121);
        extents.push(26, 1_000_000..1_100_000);
        let counts: Vec<_> = extents
            .0
            .iter()
            .map(|extent| (extent.logical, extent.count))
            .collect();
        let expected = [
            (0, 20),
            (25, 1),
            (26, 32768),
            (32794, 32768),
            (65562, 32768),
            (98330, 1696),
        ];
        assert_eq!(counts, expected);
        assert_eq!(extents.blocks(), 100_021);
    }

    #[test]
    fn many_extents_become_a_tree_of_blocks() {
        let pieces = Pieces::default();
        let region = Region::new(&pieces, 0, 1 << 20);
        let mut extents = Extents::default();
        for index in 0..2000 {
            extents.push(index * 2, u64::from(index)..u64::from(index) + 1);
        }
        let mut next = 10..;
        let (root, taken) = extents
            .write(1, &region, || Ok(next.next().unwrap()))
            .unwrap();
        // Six leaves of at most 340 entries, one index above them, one entry in the inode.
        assert_eq!((taken, tree_blocks(2000)), (7, 7));
        assert_eq!(root[2..4], [1, 0]);
        assert_eq!(root[6..8], [2, 0]);
    }
}
