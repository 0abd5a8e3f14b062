//! The resize inode: keeps the blocks after the group descriptors, so that online growth has room for more of them.
//!
//! Its double-indirect block lists the reserved blocks of the first group; each of these lists its copies in the
//! groups with a backup superblock. The format is that of `ext2fs_create_resize_inode` in e2fsprogs
//! (`lib/ext2fs/res_gdt.c`), which the kernel reads in `fs/ext4/resize.c`.

use super::geometry::Geometry;
use super::inode::{Inode, REGULAR};
use super::{BLOCK, BLOCK_BYTES, BLOCKS_PER_GROUP};
use crate::image::Region;
use crate::image::bytes::{low32, put32};

/// Word of the double-indirect block in an inode's body.
const DOUBLE_INDIRECT: usize = 13;
/// Direct blocks of an inode.
const DIRECT: u64 = 12;

/// Writes the lists, the top one into block `top`, and returns the inode.
pub(super) fn write(geometry: &Geometry, region: &Region<'_, '_>, top: u64, time: i64) -> Inode {
    let addresses = BLOCK_BYTES / 4;
    let first = 1 + geometry.descriptor_blocks;
    let mut double = vec![0; BLOCK];
    let mut copies = 0;
    for offset in 0..geometry.reserved_descriptor_blocks {
        let block = first + offset;
        let slot = (geometry.descriptor_blocks + offset) % addresses;
        put32(
            &mut double,
            4 * usize::try_from(slot).expect("a slot in a block"),
            low32(block),
        );
        let mut list = vec![0; BLOCK];
        copies = 0;
        for group in geometry.backup_groups() {
            put32(
                &mut list,
                4 * copies,
                low32(block + group * BLOCKS_PER_GROUP),
            );
            copies += 1;
        }
        if copies > 0 {
            region.write(block * BLOCK_BYTES, list);
        }
    }
    region.write(top * BLOCK_BYTES, double);

    let mut inode = Inode::own(REGULAR | 0o600, 1, time);
    inode.size = (addresses * addresses + addresses + DIRECT) * BLOCK_BYTES;
    inode.blocks = 1 + geometry.reserved_descriptor_blocks * (1 + copies as u64);
    put32(&mut inode.body, 4 * DOUBLE_INDIRECT, low32(top));
    inode
}
