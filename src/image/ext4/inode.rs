//! Inodes.
//!
//! Source: <https://docs.kernel.org/filesystems/ext4/inodes.html>.

use super::checksum::{crc, inode_seed};
use super::{BLOCK_BYTES, INODE_BYTES};
use crate::image::bytes::{high16, high32, low16, low32, put16, put32};
use crate::image::tree::{Kind, MODE_MASK, Node};

/// Fields beyond the first 128 bytes.
pub(super) const EXTRA_BYTES: usize = 32;
/// Where attributes within the inode start.
const ATTRIBUTES: usize = 128 + EXTRA_BYTES;
/// Bytes for attributes within the inode.
pub(super) const ATTRIBUTE_BYTES: usize = INODE_BYTES - ATTRIBUTES;

const EXTENTS_FLAG: u32 = 0x8_0000;
const INDEX_FLAG: u32 = 0x1000;

/// File type bits of `i_mode`.
pub(super) const REGULAR: u16 = 0x8000;
pub(super) const DIRECTORY: u16 = 0x4000;

/// What an inode says.
#[derive(Debug, Clone)]
pub(super) struct Inode {
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub links: u16,
    pub size: u64,
    pub mtime: i64,
    /// Blocks of content, extent tree, attributes.
    pub blocks: u64,
    /// The extent tree's root, a short symlink's target, or a device number.
    pub body: [u8; 60],
    pub extents: bool,
    /// A directory with an index (htree).
    pub indexed: bool,
    /// Attributes within the inode, if any.
    pub attributes: Option<[u8; ATTRIBUTE_BYTES]>,
    /// Block of further attributes, or 0.
    pub attribute_block: u64,
}

impl Inode {
    /// The inode of a tree's node, without contents.
    pub(super) fn new(node: &Node, links: u16) -> Self {
        let type_bits = match node.kind {
            Kind::Directory => DIRECTORY,
            Kind::File { .. } => REGULAR,
            Kind::Symlink { .. } => 0xa000,
            Kind::CharDevice { .. } => 0x2000,
            Kind::BlockDevice { .. } => 0x6000,
            Kind::Fifo => 0x1000,
        };
        Self {
            mode: type_bits | low16(node.mode & MODE_MASK),
            uid: node.uid,
            gid: node.gid,
            links,
            size: 0,
            mtime: node.mtime,
            blocks: 0,
            body: [0; 60],
            extents: false,
            indexed: false,
            attributes: None,
            attribute_block: 0,
        }
    }

    /// An inode of the file system's own, owned by root.
    pub(super) fn own(mode: u16, links: u16, mtime: i64) -> Self {
        let mut inode = Self::new(&Node::directory(0, mtime), links);
        inode.mode = mode;
        inode
    }

    /// The 256 bytes of inode `number`.
    pub(super) fn encode(&self, filesystem_seed: u32, number: u32) -> [u8; INODE_BYTES] {
        let mut raw = [0; INODE_BYTES];
        put16(&mut raw, 0x00, self.mode);
        put16(&mut raw, 0x02, low16(self.uid));
        put32(&mut raw, 0x04, low32(self.size));
        let (seconds, extra) = time(self.mtime);
        for (field, extra_field) in [(0x08, 0x8c), (0x0c, 0x84), (0x10, 0x88), (0x90, 0x94)] {
            put32(&mut raw, field, seconds);
            put32(&mut raw, extra_field, extra);
        }
        put16(&mut raw, 0x18, low16(self.gid));
        put16(&mut raw, 0x1a, self.links);
        let sectors = self.blocks * (BLOCK_BYTES / 512);
        put32(&mut raw, 0x1c, low32(sectors));
        let flags =
            if self.extents { EXTENTS_FLAG } else { 0 } | if self.indexed { INDEX_FLAG } else { 0 };
        put32(&mut raw, 0x20, flags);
        raw[0x28..0x64].copy_from_slice(&self.body);
        put32(&mut raw, 0x68, low32(self.attribute_block));
        put32(&mut raw, 0x6c, high32(self.size));
        put16(&mut raw, 0x74, low16(high32(sectors)));
        put16(&mut raw, 0x76, low16(high32(self.attribute_block)));
        put16(&mut raw, 0x78, high16(self.uid));
        put16(&mut raw, 0x7a, high16(self.gid));
        put16(&mut raw, 0x80, low16(low32(EXTRA_BYTES as u64)));
        if let Some(attributes) = &self.attributes {
            raw[ATTRIBUTES..].copy_from_slice(attributes);
        }
        let checksum = crc(inode_seed(filesystem_seed, number), &raw);
        put16(&mut raw, 0x7c, low16(checksum));
        put16(&mut raw, 0x82, high16(checksum));
        raw
    }
}

/// What an inode's times can say: 1901 to 2446.
const FIRST_TIME: i64 = -0x8000_0000;
const LAST_TIME: i64 = 0x3_7fff_ffff;

/// Seconds as ext4 keeps them: the low 32 bits, signed, and two more bits in the extra field.
fn time(seconds: i64) -> (u32, u32) {
    let seconds = seconds.clamp(FIRST_TIME, LAST_TIME);
    let low = low32(seconds.cast_unsigned());
    let epoch = (seconds - i64::from(low.cast_signed())) >> 32;
    (low, low32(epoch.cast_unsigned()))
}

/// A device number in an inode's body: the old form where it fits, else the new one in the second word.
pub(super) fn device(major: u32, minor: u32) -> [u8; 60] {
    let mut body = [0; 60];
    if major < 256 && minor < 256 {
        put32(&mut body, 0, major << 8 | minor);
    } else {
        put32(
            &mut body,
            4,
            minor & 0xff | major << 8 | (minor & !0xff) << 12,
        );
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_reach_from_1901_to_2446() {
        assert_eq!(time(0), (0, 0));
        assert_eq!(time(-1), (u32::MAX, 0));
        assert_eq!(time(0x7fff_ffff), (0x7fff_ffff, 0));
        assert_eq!(time(0x8000_0000), (0x8000_0000, 1));
        assert_eq!(time(0x3_7fff_ffff), (0x7fff_ffff, 3));
        assert_eq!(time(i64::MIN), time(-0x8000_0000));
        assert_eq!(time(i64::MAX), time(0x3_7fff_ffff));
    }

    #[test]
    fn devices_take_the_form_the_kernel_reads() {
        assert_eq!(device(5, 1)[..8], [1, 5, 0, 0, 0, 0, 0, 0]);
        assert_eq!(
            device(259, 0x12345)[..8],
            [0, 0, 0, 0, 0x45, 0x03, 0x31, 0x12]
        );
    }
}
