//! Directory blocks.
//!
//! Source: <https://docs.kernel.org/filesystems/ext4/directory.html>.

use super::checksum::crc;
use super::{BLOCK, htree};
use crate::image::bytes::{put16, put32};
use crate::image::tree::Kind;

/// A fake entry at the end of each block holds its checksum.
pub(super) const TAIL: usize = 12;
/// An entry without its name.
const ENTRY: usize = 8;

/// One name in a directory.
#[derive(Debug, Clone)]
pub(super) struct Name<'a> {
    pub name: &'a [u8],
    pub inode: u32,
    /// The `file_type` of the entry.
    pub file_type: u8,
}

impl Name<'_> {
    fn bytes(&self) -> usize {
        entry_bytes(self.name)
    }
}

/// File type codes of directory entries.
pub(super) fn file_type(kind: &Kind) -> u8 {
    match kind {
        Kind::File { .. } => 1,
        Kind::Directory => 2,
        Kind::CharDevice { .. } => 3,
        Kind::BlockDevice { .. } => 4,
        Kind::Fifo => 5,
        Kind::Symlink { .. } => 7,
    }
}

/// The blocks of a directory, one after the other, and whether they form an indexed one.
///
/// `names` are sorted and do not hold `.` and `..`. A directory of one block is a plain list; a larger one gets an
/// index over the hashes of its names, without which a lookup reads every block.
pub(super) fn blocks(
    own: u32,
    parent: u32,
    names: &[Name<'_>],
    hash_seed: [u32; 4],
    seed: u32,
) -> (Vec<u8>, bool) {
    let dots = [
        Name {
            name: b".",
            inode: own,
            file_type: 2,
        },
        Name {
            name: b"..",
            inode: parent,
            file_type: 2,
        },
    ];
    let total: usize = dots.iter().chain(names).map(Name::bytes).sum();
    if total + TAIL <= BLOCK {
        let list: Vec<&Name<'_>> = dots.iter().chain(names).collect();
        return (leaf(&list, seed), false);
    }
    (htree::blocks(own, parent, names, hash_seed, seed), true)
}

/// One block of entries with its checksum. The last entry reaches to the tail; none at all is one unused entry.
pub(super) fn leaf(names: &[&Name<'_>], seed: u32) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    let (mut offset, mut last) = (0, 0);
    for name in names {
        let bytes = name.bytes();
        put32(&mut block, offset, name.inode);
        put16(&mut block, offset + 4, length(bytes));
        block[offset + 6] = u8::try_from(name.name.len()).expect("names are checked");
        block[offset + 7] = name.file_type;
        block[offset + ENTRY..offset + ENTRY + name.name.len()].copy_from_slice(name.name);
        last = offset;
        offset += bytes;
    }
    put16(&mut block, last + 4, length(BLOCK - TAIL - last));

    let tail = BLOCK - TAIL;
    put16(&mut block, tail + 4, length(TAIL));
    block[tail + 7] = 0xde;
    let checksum = crc(seed, &block[..tail]);
    put32(&mut block, tail + 8, checksum);
    block
}

/// Blocks of a directory whose names take so many bytes ([`entry_bytes`]), or a few more.
pub(super) fn most_blocks(bytes: usize) -> u64 {
    // With `.`, `..` and, in the root, `lost+found`.
    if bytes + 24 + 20 + TAIL <= BLOCK {
        1
    } else {
        htree::most_blocks(bytes)
    }
}

/// Bytes of an entry, padded to four.
pub(super) fn entry_bytes(name: &[u8]) -> usize {
    (ENTRY + name.len()).next_multiple_of(4)
}

fn length(bytes: usize) -> u16 {
    u16::try_from(bytes).expect("an entry lies within a block")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_fill_their_block_exactly() {
        let names = [Name {
            name: b"hello",
            inode: 12,
            file_type: 1,
        }];
        let (block, indexed) = blocks(2, 2, &names, [0; 4], 9);
        assert!(!indexed);
        let (mut offset, mut seen) = (0, Vec::new());
        while offset < BLOCK {
            let length = usize::from(u16::from_le_bytes([block[offset + 4], block[offset + 5]]));
            let name = usize::from(block[offset + 6]);
            seen.push(block[offset + 8..offset + 8 + name].to_vec());
            offset += length;
        }
        assert_eq!(offset, BLOCK);
        assert_eq!(
            seen,
            [b".".to_vec(), b"..".to_vec(), b"hello".to_vec(), Vec::new()]
        );
    }
}
