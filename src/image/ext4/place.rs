//! Where everything goes, so that one package more or less moves little else.
//!
//! Each unit ([`super::units`]) has a place that follows from the hash of its name: the first that is free from
//! there on, the large before the small. So a unit that grows moves itself, and now and then its neighbours, but not
//! what comes behind it in some order. Places begin on blocks of a snapshot, of 512 KiB, and a unit has a little more
//! room than it needs. What is small shares its place with other small units: else each would take a block of
//! its own. A large file is a unit of its own.
//!
//! Where that does not fit, nodes follow each other without gaps.

use std::cmp::Reverse;
use std::ops::Range;

use super::geometry::Geometry;
use super::units::{Nodes, Unit, hash, units};
use super::{BLOCK_BYTES, FIRST_FREE_INODE, ROOT_INODE, dir, extent};
use crate::image::Result;
use crate::image::manifest;
use crate::image::tree::{Kind, Survey, Tree, split};

/// Blocks that places begin on: a block of a snapshot.
const GRANULE: u64 = manifest::BLOCK_BYTES / BLOCK_BYTES;
/// A file with as many blocks has a place of its own, and so has a unit.
const LARGE: u64 = 8 * GRANULE;
/// Places of small units.
const SHARED: u64 = 64;
/// Blocks that the room of a unit within a shared place is a multiple of.
const ROUND: u64 = 8;
/// Inodes that a unit's inodes begin on: a block of an inode table.
const INODE_GRANULE: u64 = 16;

/// The inodes of a tree, and where its blocks are.
pub(super) struct Layout<'a> {
    /// Numbers by node.
    pub inodes: Vec<u32>,
    /// Nodes with their first names; each group has its blocks in some ranges, or, without, wherever they are free.
    pub groups: Vec<(Nodes<'a>, Vec<Range<u64>>)>,
}

impl<'a> Layout<'a> {
    /// The layout of a tree. `free` tells whether a range of blocks is free.
    pub(super) fn new(
        tree: &'a Tree,
        contents: &[Survey],
        geometry: &Geometry,
        free: impl Fn(Range<u64>) -> bool,
    ) -> Result<Self> {
        let units = units(tree)?;
        let root = tree.find(b"").expect("every tree has a root");
        let mut inodes = number(&units, geometry, tree.nodes().len());
        inodes[root.0] = ROOT_INODE;
        let needs = needs(tree, contents);
        let places = places(units, &needs);
        let arena = Arena::new(geometry.blocks / GRANULE, |granule| {
            free(granule * GRANULE..(granule + 1) * GRANULE)
        });
        let wanted = places
            .iter()
            .map(|place| (place.hash, place.blocks.div_ceil(GRANULE)));
        let found = arena.place_all(&wanted.collect::<Vec<_>>());
        let mut groups = vec![(vec![(root, b"".as_slice())], Vec::new())];
        for (index, place) in places.into_iter().enumerate() {
            for (room, nodes) in place.members {
                let ranges = found
                    .as_ref()
                    .map(|found| slice(&found[index], GRANULE, room));
                groups.push((nodes, ranges.unwrap_or_default()));
            }
        }
        Ok(Self { inodes, groups })
    }
}

/// Inode numbers by node. The space for them is twice what they need, more or less, and not the whole file system:
/// inode tables with a few inodes here and there would be many blocks. It is a power of two, for when it changes every
/// node gets another number.
fn number(units: &[Unit<'_>], geometry: &Geometry, nodes: usize) -> Vec<u32> {
    let wanted: Vec<(u64, u64)> = units
        .iter()
        .map(|unit| {
            let count = unit.nodes.len() as u64;
            (unit.hash, (count + count / 16).div_ceil(INODE_GRANULE))
        })
        .collect();
    let needed: u64 = wanted.iter().map(|(_, granules)| granules).sum();
    let space = (needed * 3 / 2 + 1)
        .next_power_of_two()
        .min(geometry.inodes() / INODE_GRANULE);
    // The first granule has the reserved inodes.
    let found = Arena::new(space, |granule| granule > 0).place_all(&wanted);
    let mut inodes = vec![0; nodes];
    let mut next = u64::from(FIRST_FREE_INODE);
    for (index, unit) in units.iter().enumerate() {
        let mut numbers: Box<dyn Iterator<Item = u64>> = match &found {
            Some(found) => Box::new(
                found[index]
                    .iter()
                    .flat_map(|range| range.start * INODE_GRANULE..range.end * INODE_GRANULE),
            ),
            None => {
                let start = next;
                next += unit.nodes.len() as u64;
                Box::new(start..next)
            }
        };
        for (id, _) in &unit.nodes {
            let index = numbers.next().expect("a unit has room for its inodes");
            inodes[id.0] =
                u32::try_from(index + 1).expect("a file system has fewer than 2^32 inodes");
        }
    }
    inodes
}

/// What lies together.
struct Place<'a> {
    hash: u64,
    blocks: u64,
    /// Each unit's room within this, and what it has there.
    members: Vec<(Range<u64>, Nodes<'a>)>,
}

impl<'a> Place<'a> {
    fn new(hash: u64) -> Self {
        Self {
            hash,
            blocks: 0,
            members: Vec::new(),
        }
    }

    fn add(&mut self, blocks: u64, nodes: Nodes<'a>) {
        let end = self.blocks + (blocks + blocks / 16).next_multiple_of(ROUND);
        self.members.push((self.blocks..end, nodes));
        self.blocks = end;
    }
}

fn places<'a>(units: Vec<Unit<'a>>, needs: &[u64]) -> Vec<Place<'a>> {
    let share = u64::MAX / SHARED + 1;
    let mut shared: Vec<Place<'_>> = (0..SHARED).map(|index| Place::new(index * share)).collect();
    let mut own = Vec::new();
    for unit in units {
        let (large, small): (Vec<_>, Vec<_>) = unit
            .nodes
            .into_iter()
            .partition(|(id, _)| needs[id.0] >= LARGE);
        for (id, path) in large {
            let mut place = Place::new(hash(path));
            place.add(needs[id.0], vec![(id, path)]);
            own.push(place);
        }
        let blocks: u64 = small.iter().map(|(id, _)| needs[id.0]).sum();
        if blocks >= LARGE {
            let mut place = Place::new(unit.hash);
            place.add(blocks, small);
            own.push(place);
        } else {
            let index = usize::try_from(unit.hash / share).expect("there are few shared places");
            shared[index].add(blocks, small);
        }
    }
    own.extend(shared);
    own
}

/// Blocks that each node takes, or a few more, by node.
fn needs(tree: &Tree, contents: &[Survey]) -> Vec<u64> {
    let mut entries = vec![0; tree.nodes().len()];
    for (path, _) in tree.names().filter(|(path, _)| !path.is_empty()) {
        let (directory, name) = split(path);
        let parent = tree
            .find(directory)
            .expect("every name lies in a directory of the tree");
        entries[parent.0] += dir::entry_bytes(name);
    }
    let need = |(index, node): (usize, &crate::image::tree::Node)| {
        let attributes = u64::from(!node.xattrs.is_empty());
        attributes
            + match &node.kind {
                Kind::Directory => dir::most_blocks(entries[index]),
                Kind::File { .. } => {
                    let runs = contents[index].data.iter();
                    let blocks = runs.map(|run| (run.end - run.start).div_ceil(BLOCK_BYTES));
                    blocks.sum::<u64>() + extent::tree_blocks(contents[index].data.len())
                }
                Kind::Symlink { .. } => 1,
                _ => 0,
            }
    };
    tree.nodes().iter().enumerate().map(need).collect()
}

/// Granules of some space, and which of them are taken.
struct Arena {
    taken: Vec<bool>,
}

impl Arena {
    fn new(granules: u64, free: impl Fn(u64) -> bool) -> Self {
        Self {
            taken: (0..granules).map(|granule| !free(granule)).collect(),
        }
    }

    /// Granules for each hash and count, in pieces where there is no room for all in one; nothing when they do not
    /// fit.
    fn place_all(mut self, wanted: &[(u64, u64)]) -> Option<Vec<Vec<Range<u64>>>> {
        // The large find room first and are moved by nothing small; among equals, none by its size alone.
        let mut order: Vec<usize> = (0..wanted.len()).collect();
        order.sort_by_key(|index| {
            let (hash, count) = wanted[*index];
            (Reverse(count.checked_ilog2()), hash)
        });
        let mut found = vec![Vec::new(); wanted.len()];
        for index in order {
            let (hash, count) = wanted[index];
            found[index] = self.place(hash, usize::try_from(count).ok()?)?;
        }
        Some(found)
    }

    fn place(&mut self, hash: u64, count: usize) -> Option<Vec<Range<u64>>> {
        let space = self.taken.len();
        let home = (u128::from(hash) * space as u128) >> 64;
        let home = usize::try_from(home).expect("less than the space");
        let around = (home..space).chain(0..home);
        // The first run that is long enough, or else what is free from the home on.
        let (mut run, mut free) = (0..0, Vec::new());
        for granule in around {
            if self.taken[granule] {
                continue;
            }
            if free.len() < count {
                free.push(granule);
            }
            if run.end == granule {
                run.end += 1;
            } else {
                run = granule..granule + 1;
            }
            if run.len() >= count {
                free = run.collect();
                break;
            }
        }
        if free.len() < count {
            return None;
        }
        free.truncate(count);
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for granule in free {
            self.taken[granule] = true;
            let granule = granule as u64;
            match ranges.last_mut() {
                Some(last) if last.end == granule => last.end += 1,
                _ => ranges.push(granule..granule + 1),
            }
        }
        Some(ranges)
    }
}

/// A part of what lies in ranges of granules, in blocks.
fn slice(ranges: &[Range<u64>], granule: u64, part: Range<u64>) -> Vec<Range<u64>> {
    let (mut before, mut out) = (0, Vec::new());
    for range in ranges {
        let (start, length) = (range.start * granule, (range.end - range.start) * granule);
        let from = part.start.max(before);
        let to = part.end.min(before + length);
        if from < to {
            out.push(start + from - before..start + to - before);
        }
        before += length;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grows_moves_little_else() {
        let names: Vec<u64> = (0..200_u32).map(|n| hash(&n.to_be_bytes())).collect();
        let wanted: Vec<(u64, u64)> = names.iter().map(|name| (*name, 1 + name % 9)).collect();
        let place = |wanted: &[(u64, u64)]| Arena::new(2000, |_| true).place_all(wanted).unwrap();
        let before = place(&wanted);
        for changed in 0..wanted.len() {
            let mut other = wanted.clone();
            other[changed].1 += 1;
            let after = place(&other);
            let moved = (0..wanted.len())
                .filter(|index| *index != changed && before[*index] != after[*index])
                .count();
            assert!(moved <= 12, "{moved}");
        }
    }

    #[test]
    fn pieces_are_taken_where_no_run_is_long_enough() {
        let mut arena = Arena::new(8, |granule| granule % 4 != 3);
        let starts = |found: Option<Vec<Range<u64>>>| found.map(|ranges| ranges[0].start);
        assert_eq!(starts(arena.place(1 << 63, 3)), Some(4));
        assert_eq!(starts(arena.place(1 << 63, 2)), Some(0));
        assert_eq!(arena.place(0, 2), None);
        let mut arena = Arena::new(8, |granule| granule % 4 != 3);
        assert_eq!(arena.place(1 << 63, 5), Some(vec![4..7, 0..2]));
        assert_eq!(slice(&[4..7, 0..2], 10, 25..35), [65..70, 0..5]);
    }
}
