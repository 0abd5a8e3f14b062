//! Where everything but the files lies.

use std::ops::Range;

use super::{BLOCK_BYTES, BLOCKS_PER_GROUP, FIRST_FREE_INODE, INODE_BYTES};
use crate::image::{ImageError, Result};

/// Bytes of a group descriptor with the `64bit` feature.
pub(super) const DESCRIPTOR_BYTES: u64 = 64;
/// Groups whose bitmaps and inode tables lie together in the first of them.
pub(super) const GROUPS_PER_FLEX: u64 = 16;
/// The resize inode lists reserved descriptor blocks in one indirect block of this many entries.
const ADDRESSES_PER_BLOCK: u64 = BLOCK_BYTES / 4;
/// `mke2fs` leaves a last group out when it has less than this beside its tables.
const LEAST_DATA_BLOCKS: u64 = 50;

/// The fixed layout of a file system of some size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Geometry {
    /// Blocks in the file system.
    pub blocks: u64,
    pub groups: u64,
    /// Blocks of group descriptors.
    pub descriptor_blocks: u64,
    /// Blocks kept free after them, so that the file system can grow online.
    pub reserved_descriptor_blocks: u64,
    pub inodes_per_group: u64,
}

impl Geometry {
    /// The layout for `bytes` of space and at least `inodes` inodes beside the reserved ones.
    pub(super) fn new(bytes: u64, inodes: u64) -> Result<Self> {
        let wanted = inodes + u64::from(FIRST_FREE_INODE);
        let mut available = 0;
        for inodes_per_group in [8192, 16384] {
            let geometry = Self::sized(bytes, inodes_per_group)?;
            available = geometry.groups * inodes_per_group;
            if available >= wanted {
                return Ok(geometry);
            }
        }
        Err(ImageError::TooManyFiles { wanted, available })
    }

    fn sized(bytes: u64, inodes_per_group: u64) -> Result<Self> {
        let mut blocks = bytes / BLOCK_BYTES;
        loop {
            let groups = blocks.div_ceil(BLOCKS_PER_GROUP);
            let descriptor_blocks = (groups * DESCRIPTOR_BYTES).div_ceil(BLOCK_BYTES);
            // As mke2fs: room to grow a thousandfold, within what one indirect block lists.
            let most_groups = (blocks * 1024)
                .min(u32::MAX.into())
                .div_ceil(BLOCKS_PER_GROUP);
            let most_descriptor_blocks = (most_groups * DESCRIPTOR_BYTES)
                .div_ceil(BLOCK_BYTES)
                .min(ADDRESSES_PER_BLOCK);
            let geometry = Self {
                blocks,
                groups,
                descriptor_blocks,
                reserved_descriptor_blocks: most_descriptor_blocks
                    .saturating_sub(descriptor_blocks),
                inodes_per_group,
            };
            let last = groups.saturating_sub(1);
            let least =
                geometry.base_blocks(last) + 2 + geometry.table_blocks() + LEAST_DATA_BLOCKS;
            let last_blocks = blocks - last * BLOCKS_PER_GROUP;
            if last_blocks >= least {
                return Ok(geometry);
            }
            if groups <= 1 {
                let least_bytes = least * BLOCK_BYTES;
                return Err(ImageError::DiskTooSmall {
                    size_bytes: bytes,
                    least_bytes,
                });
            }
            blocks -= last_blocks;
        }
    }

    pub(super) fn inodes(&self) -> u64 {
        self.groups * self.inodes_per_group
    }

    /// Blocks of one group's inode table.
    pub(super) fn table_blocks(&self) -> u64 {
        self.inodes_per_group * INODE_BYTES as u64 / BLOCK_BYTES
    }

    /// Whether a group has a copy of the superblock (`sparse_super`): 0, 1 and the powers of 3, 5 and 7.
    pub(super) fn has_superblock(group: u64) -> bool {
        let power_of = |base: u64| {
            let mut power = base;
            while power < group {
                power *= base;
            }
            power == group
        };
        group <= 1 || power_of(3) || power_of(5) || power_of(7)
    }

    /// Groups other than the first that have a copy of the superblock.
    pub(super) fn backup_groups(&self) -> impl Iterator<Item = u64> + use<> {
        (1..self.groups).filter(|group| Self::has_superblock(*group))
    }

    /// Blocks at the start of a group for the superblock, the descriptors and their reserve.
    pub(super) fn base_blocks(&self, group: u64) -> u64 {
        if Self::has_superblock(group) {
            1 + self.descriptor_blocks + self.reserved_descriptor_blocks
        } else {
            0
        }
    }

    /// The blocks of a group.
    pub(super) fn group_range(&self, group: u64) -> Range<u64> {
        let start = group * BLOCKS_PER_GROUP;
        start..(start + BLOCKS_PER_GROUP).min(self.blocks)
    }

    /// First group of the flexible group of `group`, and how many groups that has.
    fn flex(&self, group: u64) -> (u64, u64) {
        let leader = group / GROUPS_PER_FLEX * GROUPS_PER_FLEX;
        (leader, (self.groups - leader).min(GROUPS_PER_FLEX))
    }

    fn flex_start(&self, leader: u64) -> u64 {
        leader * BLOCKS_PER_GROUP + self.base_blocks(leader)
    }

    pub(super) fn block_bitmap(&self, group: u64) -> u64 {
        let (leader, _) = self.flex(group);
        self.flex_start(leader) + (group - leader)
    }

    pub(super) fn inode_bitmap(&self, group: u64) -> u64 {
        let (leader, count) = self.flex(group);
        self.flex_start(leader) + count + (group - leader)
    }

    pub(super) fn inode_table(&self, group: u64) -> u64 {
        let (leader, count) = self.flex(group);
        self.flex_start(leader) + 2 * count + (group - leader) * self.table_blocks()
    }

    /// Byte offset of an inode.
    pub(super) fn inode_offset(&self, inode: u32) -> u64 {
        let index = u64::from(inode) - 1;
        let group = index / self.inodes_per_group;
        self.inode_table(group) * BLOCK_BYTES + index % self.inodes_per_group * INODE_BYTES as u64
    }

    /// All blocks that are taken before any file is written.
    pub(super) fn metadata(&self) -> impl Iterator<Item = Range<u64>> {
        (0..self.groups).flat_map(|group| {
            let start = group * BLOCKS_PER_GROUP;
            let base = start..start + self.base_blocks(group);
            let (leader, count) = self.flex(group);
            let tables = if leader == group {
                base.end..base.end + count * (2 + self.table_blocks())
            } else {
                base.end..base.end
            };
            [base, tables]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn eight_gib_as_mke2fs_lays_it_out() {
        let geometry = Geometry::new(8 * GIB, 1000).unwrap();
        assert_eq!((geometry.blocks, geometry.groups), (2_097_152, 64));
        assert_eq!(
            (
                geometry.descriptor_blocks,
                geometry.reserved_descriptor_blocks
            ),
            (1, 1023)
        );
        assert_eq!(geometry.inodes(), 524_288);
        let backups: Vec<u64> = geometry.backup_groups().collect();
        assert_eq!(backups, [1, 3, 5, 7, 9, 25, 27, 49]);
        assert_eq!(geometry.inode_table(1), 1 + 1024 + 32 + 512);
    }

    #[test]
    fn a_last_group_without_room_for_its_tables_is_left_out() {
        let geometry = Geometry::new(GIB + (1 << 20), 1000).unwrap();
        assert_eq!(geometry.blocks, GIB / BLOCK_BYTES);
    }

    #[test]
    fn metadata_never_overlaps() {
        for bytes in [16 << 20, 200 << 20, GIB, 5 * GIB + 12345, 100 * GIB] {
            let geometry = Geometry::new(bytes, 10).unwrap();
            let mut end = 0;
            for range in geometry.metadata() {
                assert!(
                    range.start >= end && range.end <= geometry.blocks,
                    "{bytes}: {range:?}"
                );
                end = range.end;
            }
        }
    }

    #[test]
    fn many_files_get_more_inodes_and_too_many_are_refused() {
        assert_eq!(Geometry::new(GIB, 100_000).unwrap().inodes_per_group, 16384);
        let error = Geometry::new(GIB, 1_000_000).unwrap_err();
        assert!(
            matches!(
                error,
                ImageError::TooManyFiles {
                    available: 131_072,
                    ..
                }
            ),
            "{error}"
        );
        assert!(matches!(
            Geometry::new(1 << 20, 1),
            Err(ImageError::DiskTooSmall { .. })
        ));
    }
}
