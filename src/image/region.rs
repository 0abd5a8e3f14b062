//! A stretch of the image file: a partition to its file system's writer.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::{ImageError, Result};

/// A window on a sparse file that reads as zeros where nothing has been written.
#[derive(Debug, Clone, Copy)]
pub struct Region<'a> {
    file: &'a File,
    path: &'a Path,
    start: u64,
    length: u64,
}

impl<'a> Region<'a> {
    /// `length` bytes from `start` of a file that has been extended to hold them; `path` is for messages.
    #[must_use]
    pub fn new(file: &'a File, path: &'a Path, start: u64, length: u64) -> Self {
        Self {
            file,
            path,
            start,
            length,
        }
    }

    /// Bytes in this region.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Writes all of `bytes` at `offset` from the region's start.
    ///
    /// # Errors
    /// The write failed: most often the host's disk is full.
    ///
    /// # Panics
    /// When the bytes do not lie within the region: a fault in a writer, never in its input.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        assert!(
            offset + bytes.len() as u64 <= self.length,
            "a write past the end of its region"
        );
        self.file
            .write_all_at(bytes, self.start + offset)
            .map_err(ImageError::io("write", self.path))
    }
}
