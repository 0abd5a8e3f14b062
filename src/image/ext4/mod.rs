//! An ext4 file system, laid out from a tree.
//!
//! The layout follows the kernel's description of the format
//! (<https://docs.kernel.org/filesystems/ext4/>) and the defaults of Debian's `mke2fs`: 4 KiB blocks, 256-byte
//! inodes, extents, flexible block groups of 16, 64-bit group descriptors, checksums on all metadata, an internal
//! journal, and a resize inode so that `resize2fs` can grow the mounted root at first boot. Groups that hold
//! nothing are marked uninitialized and cost no bytes.
//!
//! Where blocks and inodes lie follows from names ([`place`]), so that two trees that differ little give file systems
//! that differ little; blocks of zeros become holes. Nothing depends on the host: identifiers, the hash seed and all
//! times are given.

mod alloc;
mod checksum;
mod contents;
mod dir;
mod extent;
mod geometry;
mod htree;
mod inode;
mod journal;
mod place;
mod plan;
mod resize;
mod superblock;
mod units;
mod writer;
mod xattr;

pub use writer::write;

/// Bytes in a block.
pub const BLOCK: usize = 4096;
/// [`BLOCK`] as a file length.
const BLOCK_BYTES: u64 = BLOCK as u64;
/// Bytes in an inode.
const INODE_BYTES: usize = 256;
/// One bitmap block's worth of blocks.
const BLOCKS_PER_GROUP: u64 = 32768;
/// Inodes with a number below this have a fixed meaning.
const FIRST_FREE_INODE: u32 = 11;
/// The root directory.
const ROOT_INODE: u32 = 2;
/// Keeps the blocks reserved for more group descriptors.
const RESIZE_INODE: u32 = 7;
/// The journal.
const JOURNAL_INODE: u32 = 8;
/// `lost+found`, as `mke2fs` numbers it.
const LOST_AND_FOUND_INODE: u32 = FIRST_FREE_INODE;

/// What a file system is told beside its contents.
#[derive(Debug, Clone)]
pub struct Options {
    /// The file system's UUID; checksums start from it.
    pub uuid: uuid::Uuid,
    /// Seed of the directory hash.
    pub hash_seed: uuid::Uuid,
    /// Volume label, at most 16 bytes.
    pub label: String,
    /// Time stamp of the file system itself, seconds since the epoch.
    pub source_date: i64,
}
