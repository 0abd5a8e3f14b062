//! The superblock and the group descriptors.
//!
//! Sources: <https://docs.kernel.org/filesystems/ext4/super.html>,
//! <https://docs.kernel.org/filesystems/ext4/group_descr.html>.

use super::checksum::{crc, filesystem_seed};
use super::geometry::{DESCRIPTOR_BYTES, GROUPS_PER_FLEX, Geometry};
use super::{
    BLOCKS_PER_GROUP, FIRST_FREE_INODE, INODE_BYTES, JOURNAL_INODE, LOST_AND_FOUND_INODE, Options,
};
use crate::image::bytes::{high16, high32, low8, low16, low32, put16, put32};

/// Where the first superblock lies, and its length.
pub(super) const OFFSET: u64 = 1024;
pub(super) const BYTES: usize = 1024;

/// `has_journal`, `ext_attr`, `resize_inode`, `dir_index`: a kernel that knows none of them may still write.
const COMPATIBLE: u32 = 0x4 | 0x8 | 0x10 | 0x20;
/// `filetype`, `extent`, `64bit`, `flex_bg`: a kernel must know these to mount.
const INCOMPATIBLE: u32 = 0x2 | 0x40 | 0x80 | 0x200;
/// `sparse_super`, `large_file`, `huge_file`, `dir_nlink`, `extra_isize`, `metadata_csum`: to write.
const READ_ONLY_COMPATIBLE: u32 = 0x1 | 0x2 | 0x8 | 0x20 | 0x40 | 0x400;

/// `half_md4`, with names as signed bytes: what x86 kernels and `mke2fs` on x86 use.
const HASH_HALF_MD4: u8 = 1;
const SIGNED_HASH: u32 = 1;
/// `user_xattr,acl`, as `mke2fs` sets them.
const MOUNT_OPTIONS: u32 = 0x000c;
const CRC32C: u8 = 1;

/// What only the finished file system knows.
pub(super) struct Totals {
    pub free_blocks: u64,
    pub free_inodes: u32,
    /// The journal inode's body and size, kept a second time in case the inode is lost.
    pub journal_body: [u8; 60],
    pub journal_size: u64,
}

/// The superblock as stored in `group`.
pub(super) fn encode(
    geometry: &Geometry,
    options: &Options,
    totals: &Totals,
    group: u64,
) -> [u8; BYTES] {
    let mut raw = [0; BYTES];
    let inodes = low32(geometry.inodes());
    let time = options.source_date.cast_unsigned();
    put32(&mut raw, 0x00, inodes);
    put32(&mut raw, 0x04, low32(geometry.blocks));
    put32(&mut raw, 0x0c, low32(totals.free_blocks));
    put32(&mut raw, 0x10, totals.free_inodes);
    put32(&mut raw, 0x18, 2); // block size: 1024 << 2
    put32(&mut raw, 0x1c, 2); // cluster size
    put32(&mut raw, 0x20, low32(BLOCKS_PER_GROUP));
    put32(&mut raw, 0x24, low32(BLOCKS_PER_GROUP));
    put32(&mut raw, 0x28, low32(geometry.inodes_per_group));
    put32(&mut raw, 0x30, low32(time)); // last write
    put16(&mut raw, 0x36, u16::MAX); // no check after a number of mounts
    put16(&mut raw, 0x38, 0xef53);
    put16(&mut raw, 0x3a, 1); // clean
    put16(&mut raw, 0x3c, 1); // on errors: go on
    put32(&mut raw, 0x40, low32(time)); // last check
    put32(&mut raw, 0x4c, 1); // dynamic inode sizes
    put32(&mut raw, 0x54, FIRST_FREE_INODE);
    put16(&mut raw, 0x58, low16(low32(INODE_BYTES as u64)));
    put16(&mut raw, 0x5a, low16(low32(group)));
    put32(&mut raw, 0x5c, COMPATIBLE);
    put32(&mut raw, 0x60, INCOMPATIBLE);
    put32(&mut raw, 0x64, READ_ONLY_COMPATIBLE);
    raw[0x68..0x78].copy_from_slice(options.uuid.as_bytes());
    let label = &options.label.as_bytes()[..options.label.len().min(16)];
    raw[0x78..0x78 + label.len()].copy_from_slice(label);
    put16(
        &mut raw,
        0xce,
        low16(low32(geometry.reserved_descriptor_blocks)),
    );
    put32(&mut raw, 0xe0, JOURNAL_INODE);
    raw[0xec..0xfc].copy_from_slice(options.hash_seed.as_bytes());
    raw[0xfc] = HASH_HALF_MD4;
    raw[0xfd] = 1; // the journal's blocks are kept below
    put16(&mut raw, 0xfe, low16(low32(DESCRIPTOR_BYTES)));
    put32(&mut raw, 0x100, MOUNT_OPTIONS);
    put32(&mut raw, 0x108, low32(time)); // made
    raw[0x10c..0x148].copy_from_slice(&totals.journal_body);
    put32(&mut raw, 0x148, high32(totals.journal_size));
    put32(&mut raw, 0x14c, low32(totals.journal_size));
    put32(&mut raw, 0x150, high32(geometry.blocks));
    put32(&mut raw, 0x158, high32(totals.free_blocks));
    put16(&mut raw, 0x15c, 32); // least extra inode bytes
    put16(&mut raw, 0x15e, 32); // wanted extra inode bytes
    put32(&mut raw, 0x160, SIGNED_HASH);
    raw[0x174] = low8(GROUPS_PER_FLEX.ilog2().into());
    raw[0x175] = CRC32C;
    put32(&mut raw, 0x268, LOST_AND_FOUND_INODE);
    let high_time = low8(time >> 32);
    for offset in [0x274, 0x276, 0x277] {
        raw[offset] = high_time; // written, made, checked
    }
    let checksum = crc(!0, &raw[..0x3fc]);
    put32(&mut raw, 0x3fc, checksum);
    raw
}

/// What a group's descriptor says.
pub(super) struct Group {
    pub number: u64,
    pub free_blocks: u32,
    pub free_inodes: u32,
    /// Those at the end of the table that were never used.
    pub unused_inodes: u32,
    pub directories: u32,
    /// The group's bitmap, or nothing when it follows from the layout and is not stored.
    pub block_bitmap: Option<Vec<u8>>,
    /// As `block_bitmap`.
    pub inode_bitmap: Option<Vec<u8>>,
}

/// A group's 64-byte descriptor.
pub(super) fn descriptor(geometry: &Geometry, options: &Options, group: &Group) -> [u8; 64] {
    const INODE_UNINIT: u16 = 1;
    const BLOCK_UNINIT: u16 = 2;
    const TABLE_ZEROED: u16 = 4;
    let seed = filesystem_seed(options.uuid);
    let mut raw = [0; 64];
    let places = [
        geometry.block_bitmap(group.number),
        geometry.inode_bitmap(group.number),
        geometry.inode_table(group.number),
    ];
    for (index, place) in places.into_iter().enumerate() {
        put32(&mut raw, 4 * index, low32(place));
        put32(&mut raw, 0x20 + 4 * index, high32(place));
    }
    let counts = [
        (0x0c, 0x2c, group.free_blocks),
        (0x0e, 0x2e, group.free_inodes),
        (0x10, 0x30, group.directories),
        (0x1c, 0x32, group.unused_inodes),
    ];
    for (low, high, count) in counts {
        put16(&mut raw, low, low16(count));
        put16(&mut raw, high, high16(count));
    }
    let mut flags = TABLE_ZEROED;
    match &group.block_bitmap {
        Some(bitmap) => {
            let checksum = crc(seed, bitmap);
            put16(&mut raw, 0x18, low16(checksum));
            put16(&mut raw, 0x38, high16(checksum));
        }
        None => flags |= BLOCK_UNINIT,
    }
    match &group.inode_bitmap {
        Some(bitmap) => {
            let bytes = usize::try_from(geometry.inodes_per_group / 8).expect("at most a block");
            let checksum = crc(seed, &bitmap[..bytes]);
            put16(&mut raw, 0x1a, low16(checksum));
            put16(&mut raw, 0x3a, high16(checksum));
        }
        None => flags |= INODE_UNINIT,
    }
    put16(&mut raw, 0x12, flags);
    let checksum = crc(crc(seed, &low32(group.number).to_le_bytes()), &raw);
    put16(&mut raw, 0x1e, low16(checksum));
    raw
}

/// Descriptors in their blocks, as every copy stores them.
pub(super) fn table(geometry: &Geometry, descriptors: &[[u8; 64]]) -> Vec<u8> {
    let bytes = geometry.descriptor_blocks * super::BLOCK_BYTES;
    let mut table = descriptors.concat();
    table.resize(usize::try_from(bytes).expect("the table fits in memory"), 0);
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_superblock_is_checksummed_and_knows_its_group() {
        let geometry = Geometry::new(1 << 30, 10).unwrap();
        let uuid = uuid::Uuid::from_bytes([7; 16]);
        let options = Options {
            uuid,
            hash_seed: uuid,
            label: "root".to_owned(),
            source_date: 0,
        };
        let totals = Totals {
            free_blocks: 1,
            free_inodes: 2,
            journal_body: [0; 60],
            journal_size: 3,
        };
        let raw = encode(&geometry, &options, &totals, 3);
        assert_eq!(raw[0x38..0x3a], [0x53, 0xef]);
        assert_eq!(raw[0x5a], 3);
        assert_eq!(raw[0x3fc..], crc(!0, &raw[..0x3fc]).to_le_bytes());
    }
}
