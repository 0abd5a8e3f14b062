//! Bootable disks, assembled byte by byte and never mounted.
//!
//! A directory is read into a canonical [`tree`]; [`disk`] writes it as a GPT disk ([`gpt`]) with an EFI system
//! partition ([`fat`]) and an [`ext4`] root. Every identifier is derived from a seed and every time from a source
//! date, so one tree, one seed and one date give one sequence of bytes on any host. The writers lay out pieces
//! ([`Pieces`]); [`output`] then writes them by all cores, with a checksum of each block ([`manifest`]). What two trees
//! differ in is told by [`compare`], from their manifests, and what must not be in one by [`leaks`]. No kernel, no `mke2fs` and no `mtools` takes part: their
//! output depends on their versions and on the file system they run on.

mod bytes;
pub mod compare;
pub mod disk;
mod error;
pub mod ext4;
pub mod fat;
pub mod gpt;
pub mod leaks;
mod loader;
pub mod manifest;
pub mod output;
mod region;
pub mod tree;

pub use error::ImageError;
pub use region::{Pieces, Region};

/// Time stamp of everything in an image that needs one, in seconds since the epoch, until a lock file pins another:
/// 2023-06-10, the release of Debian 12. FAT knows no time before 1980.
pub const SOURCE_DATE: i64 = 1_686_355_200;

/// The result of everything in this room.
pub type Result<T> = std::result::Result<T, ImageError>;
