//! What a disk will hold, piece by piece, before any of it is written.
//!
//! The writers of the file systems put their structures here in any order, and where the contents of files go. So
//! the disk itself can be written from its start to its end, by many cores, and hashed on the way.

use std::cell::RefCell;

use super::tree::Content;

/// Bytes of a disk by their place.
#[derive(Debug)]
pub(super) struct Piece<'a> {
    pub offset: u64,
    pub length: u64,
    pub source: Source<'a>,
}

impl Piece<'_> {
    pub(super) fn end(&self) -> u64 {
        self.offset + self.length
    }
}

/// Where the bytes of a [`Piece`] are.
#[derive(Debug)]
pub(super) enum Source<'a> {
    Bytes(Vec<u8>),
    /// From this offset of a file's content on.
    Content(&'a Content, u64),
}

/// The pieces of one disk. Where there is none, it reads as zeros.
#[derive(Debug, Default)]
pub struct Pieces<'a>(RefCell<Vec<Piece<'a>>>);

impl<'a> Pieces<'a> {
    /// All pieces, by place.
    pub(super) fn sorted(self) -> Vec<Piece<'a>> {
        let mut pieces = self.0.into_inner();
        pieces.sort_unstable_by_key(|piece| piece.offset);
        debug_assert!(
            pieces.is_sorted_by(|one, next| one.end() <= next.offset),
            "two writers have written the same place"
        );
        pieces
    }
}

/// A stretch of a disk: a partition to its file system's writer.
#[derive(Debug, Clone, Copy)]
pub struct Region<'p, 'a> {
    pieces: &'p Pieces<'a>,
    start: u64,
    length: u64,
}

impl<'p, 'a> Region<'p, 'a> {
    /// `length` bytes from `start` of a disk.
    #[must_use]
    pub fn new(pieces: &'p Pieces<'a>, start: u64, length: u64) -> Self {
        Self {
            pieces,
            start,
            length,
        }
    }

    /// Bytes in this region.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Puts `bytes` at `offset` from the region's start.
    ///
    /// # Panics
    /// When the bytes do not lie within the region: a fault in a writer, never in its input.
    pub fn write(&self, offset: u64, bytes: impl Into<Vec<u8>>) {
        let bytes = bytes.into();
        self.put(offset, bytes.len() as u64, Source::Bytes(bytes));
    }

    /// Puts `length` bytes of `content`, from its byte `from` on, at `offset` from the region's start.
    ///
    /// # Panics
    /// As [`Self::write`].
    pub fn copy(&self, offset: u64, content: &'a Content, from: u64, length: u64) {
        self.put(offset, length, Source::Content(content, from));
    }

    fn put(&self, offset: u64, length: u64, source: Source<'a>) {
        assert!(
            offset + length <= self.length,
            "a write past the end of its region"
        );
        if length > 0 {
            self.pieces.0.borrow_mut().push(Piece {
                offset: self.start + offset,
                length,
                source,
            });
        }
    }
}
