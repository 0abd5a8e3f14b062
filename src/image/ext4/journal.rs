//! The journal: a file of zeros behind a superblock of its own.
//!
//! Source: <https://docs.kernel.org/filesystems/ext4/journal.html>.

use super::{BLOCK, BLOCK_BYTES};
use crate::image::bytes::low32;

/// Blocks of the journal, by blocks of the file system: the table of `mke2fs` (`ext2fs_default_journal_size`).
pub(super) fn blocks(filesystem_blocks: u64) -> u64 {
    match filesystem_blocks {
        0..32_768 => 1024,
        32_768..262_144 => 4096,
        262_144..524_288 => 8192,
        524_288..4_194_304 => 16_384,
        4_194_304..8_388_608 => 32_768,
        8_388_608..16_777_216 => 65_536,
        16_777_216..33_554_432 => 131_072,
        _ => 262_144,
    }
}

/// The journal's first block: empty, nothing to replay. The journal is big-endian.
pub(super) fn superblock(blocks: u64, uuid: uuid::Uuid) -> Vec<u8> {
    const VERSION_2: u32 = 4;
    let mut raw = vec![0; BLOCK];
    let length = u32::try_from(blocks).expect("a journal has at most 262144 blocks");
    let fields: [(usize, u32); 7] = [
        (0x00, 0xc03b_3998),
        (0x04, VERSION_2),
        (0x0c, low32(BLOCK_BYTES)),
        (0x10, length),
        (0x14, 1), // first block of the log
        (0x18, 1), // first commit expected
        (0x40, 1), // users
    ];
    for (offset, value) in fields {
        raw[offset..offset + 4].copy_from_slice(&value.to_be_bytes());
    }
    raw[0x30..0x40].copy_from_slice(uuid.as_bytes());
    raw
}
