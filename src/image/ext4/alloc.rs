//! Which blocks are taken.

use std::ops::Range;

use super::geometry::Geometry;
use super::{BLOCK, BLOCK_BYTES, BLOCKS_PER_GROUP};
use crate::image::{ImageError, Result};

/// Gives out blocks: within some ranges while they last, else from the first free one upwards.
pub(super) struct Allocator {
    bits: Vec<u8>,
    blocks: u64,
    /// Everything before this is taken.
    cursor: u64,
    /// Where blocks are given out first, the next range last.
    within: Vec<Range<u64>>,
    free: u64,
}

impl Allocator {
    /// All blocks but those of the fixed layout are free.
    pub(super) fn new(geometry: &Geometry) -> Self {
        let bytes = usize::try_from(geometry.groups).expect("a bitmap fits in memory") * BLOCK;
        let mut allocator = Self {
            bits: vec![0; bytes],
            blocks: geometry.blocks,
            cursor: 0,
            within: Vec::new(),
            free: geometry.blocks,
        };
        for range in geometry.metadata() {
            allocator.take(range);
        }
        allocator
    }

    /// Gives out blocks of these ranges from now on, while they last.
    pub(super) fn prefer(&mut self, mut ranges: Vec<Range<u64>>) {
        ranges.reverse();
        self.within = ranges;
    }

    /// Whether no block of a range is taken.
    pub(super) fn is_free(&self, mut blocks: Range<u64>) -> bool {
        !blocks.any(|block| self.taken(block))
    }

    fn taken(&self, block: u64) -> bool {
        let (byte, bit) = position(block);
        self.bits[byte] & (1 << bit) != 0
    }

    fn take(&mut self, range: Range<u64>) {
        self.free -= range.end - range.start;
        for block in range {
            let (byte, bit) = position(block);
            self.bits[byte] |= 1 << bit;
        }
    }

    /// The next free run, at most `most` blocks long.
    ///
    /// # Errors
    /// [`ImageError::Full`] when there is none; it counts only the blocks asked for here.
    pub(super) fn run(&mut self, most: u64) -> Result<Range<u64>> {
        while let Some(mut range) = self.within.pop() {
            while range.start < range.end && self.taken(range.start) {
                range.start += 1;
            }
            if range.start < range.end {
                let run = self.free_run(range.start, most.min(range.end - range.start));
                self.take(run.clone());
                self.within.push(run.end..range.end);
                return Ok(run);
            }
        }
        while self.cursor < self.blocks && self.taken(self.cursor) {
            self.cursor += 1;
        }
        let run = self.free_run(self.cursor, most);
        if run.is_empty() {
            let missing_mib = (most * BLOCK_BYTES).div_ceil(1 << 20);
            return Err(ImageError::Full {
                what: "root file system",
                missing_mib,
            });
        }
        self.take(run.clone());
        self.cursor = run.end;
        Ok(run)
    }

    /// The free blocks from `start` on, at most `most`.
    fn free_run(&self, start: u64, most: u64) -> Range<u64> {
        let mut end = start;
        while end < self.blocks && end - start < most && !self.taken(end) {
            end += 1;
        }
        start..end
    }

    /// One block.
    pub(super) fn block(&mut self) -> Result<u64> {
        Ok(self.run(1)?.start)
    }

    /// Blocks that are still free.
    pub(super) fn free(&self) -> u64 {
        self.free
    }

    /// Blocks of a group that are taken.
    pub(super) fn used_in(&self, blocks: Range<u64>) -> u64 {
        blocks.filter(|block| self.taken(*block)).count() as u64
    }

    /// A group's bitmap as it is stored; what lies past the end of the file system counts as taken.
    pub(super) fn bitmap(&self, group: u64) -> Vec<u8> {
        let start = usize::try_from(group).expect("a bitmap fits in memory") * BLOCK;
        let mut bitmap = self.bits[start..start + BLOCK].to_vec();
        let blocks = (self.blocks - group * BLOCKS_PER_GROUP).min(BLOCKS_PER_GROUP);
        for block in blocks..BLOCKS_PER_GROUP {
            let (byte, bit) = position(block);
            bitmap[byte] |= 1 << bit;
        }
        bitmap
    }
}

fn position(block: u64) -> (usize, u32) {
    let byte = usize::try_from(block / 8).expect("a bitmap fits in memory");
    (byte, (block % 8) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preferred_ranges_come_first_and_others_when_they_are_used_up() {
        let geometry = Geometry::new(300 << 20, 10).unwrap();
        let mut allocator = Allocator::new(&geometry);
        let first = allocator.block().unwrap();
        allocator.prefer(vec![20_000..20_003, 10_000..10_002]);
        let runs: Vec<_> = (0..4).map(|_| allocator.run(2).unwrap()).collect();
        assert_eq!(runs[..3], [20_000..20_002, 20_002..20_003, 10_000..10_002]);
        assert_eq!(runs[3], first + 1..first + 3);
        assert!(!allocator.is_free(20_002..20_005) && allocator.is_free(20_003..20_005));
    }

    #[test]
    fn runs_skip_what_is_taken_and_end_when_all_is() {
        let geometry = Geometry::new(300 << 20, 10).unwrap();
        let mut allocator = Allocator::new(&geometry);
        let free = allocator.free();
        let mut got = 0;
        let mut last = 0;
        let error = loop {
            match allocator.run(10_000) {
                Ok(run) => {
                    assert!(run.start >= last);
                    last = run.end;
                    got += run.end - run.start;
                }
                Err(error) => break error,
            }
        };
        assert_eq!((got, allocator.free()), (free, 0));
        assert!(matches!(
            error,
            ImageError::Full {
                missing_mib: 40,
                ..
            }
        ));
    }
}
