//! Putting the pieces together.

use super::alloc::Allocator;
use super::checksum::{filesystem_seed, inode_seed};
use super::contents;
use super::dir;
use super::extent::Extents;
use super::geometry::Geometry;
use super::inode::{DIRECTORY, Inode, REGULAR, device};
use super::place::Layout;
use super::plan::{Listing, Plan};
use super::superblock::{self, Group, Totals};
use super::xattr::{self, Attributes};
use super::{
    BLOCK, BLOCK_BYTES, FIRST_FREE_INODE, JOURNAL_INODE, LOST_AND_FOUND_INODE, Options,
    RESIZE_INODE, ROOT_INODE, journal, resize,
};
use crate::image::tree::{Kind, Node, Survey, Tree};
use crate::image::{ImageError, Region, Result};

/// `mke2fs` gives `lost+found` 16 KiB, so that `e2fsck` can use it on a full disk.
const LOST_AND_FOUND_BLOCKS: usize = 4;
/// The file system counts a file's blocks in 32 bits.
const MOST_FILE_BYTES: u64 = u32::MAX as u64 * BLOCK_BYTES;
/// A target shorter than this lies in the inode.
const SHORT_TARGET: usize = 60;

/// Lays `tree` out in `region`. `contents` is what [`Tree::survey`] tells of it.
///
/// # Errors
/// The tree does not fit, or holds something that ext4 cannot.
pub fn write<'a>(
    tree: &'a Tree,
    contents: &[Survey],
    region: Region<'_, 'a>,
    options: &Options,
) -> Result<()> {
    let geometry = Geometry::new(region.length(), tree.nodes().len() as u64)?;
    let allocator = Allocator::new(&geometry);
    let directories = vec![0; in_memory(geometry.groups)];
    let mut inodes = vec![false; in_memory(geometry.inodes())];
    inodes[..in_memory(u64::from(FIRST_FREE_INODE - 1))].fill(true);
    let seed = filesystem_seed(options.uuid);
    let mut writer = Writer {
        region,
        options,
        geometry,
        allocator,
        seed,
        directories,
        inodes,
    };
    let totals = writer.own_files()?;
    // As they are after mkfs and for ever after: neither the kernel nor e2fsck keeps the copies up to date, and one
    // that uses them counts anew what is free. So they do not change with the tree.
    let groups = writer.groups();
    for group in writer.geometry.backup_groups() {
        writer.superblock(&totals, &groups, group);
    }
    let layout = Layout::new(tree, contents, &writer.geometry, |blocks| {
        writer.allocator.is_free(blocks)
    })?;
    let plan = Plan::new(tree, &layout.inodes)?;
    let room = writer.allocator.free();
    writer
        .contents(tree, contents, &layout, &plan)
        .map_err(|error| match error {
            ImageError::Full { what, .. } => {
                let missing = blocks_needed(tree).saturating_sub(room) * BLOCK_BYTES;
                ImageError::Full {
                    what,
                    missing_mib: missing.div_ceil(1 << 20).max(1),
                }
            }
            error => error,
        })?;
    writer.tables(&totals);
    Ok(())
}

/// Blocks of a tree's contents, holes counted in full.
fn blocks_needed(tree: &Tree) -> u64 {
    let content = |node: &Node| node.size().div_ceil(BLOCK_BYTES) + u64::from(node.is_directory());
    tree.nodes().iter().map(content).sum()
}

struct Writer<'p, 'a> {
    region: Region<'p, 'a>,
    options: &'p Options,
    geometry: Geometry,
    allocator: Allocator,
    seed: u32,
    /// Directories in each group.
    directories: Vec<u32>,
    /// Whether the inode after this one is taken: their numbers begin with 1.
    inodes: Vec<bool>,
}

impl<'a> Writer<'_, 'a> {
    /// What the file system keeps for itself.
    fn own_files(&mut self) -> Result<Totals> {
        let totals = self.journal()?;
        self.resize_inode()?;
        self.lost_and_found()?;
        Ok(totals)
    }

    /// The tree: each node's blocks, then its inode.
    fn contents(
        &mut self,
        tree: &'a Tree,
        contents: &[Survey],
        layout: &Layout<'_>,
        plan: &Plan<'_>,
    ) -> Result<()> {
        for (nodes, ranges) in &layout.groups {
            self.allocator.prefer(ranges.clone());
            for (id, path) in nodes {
                let node = tree.node(*id);
                let number = layout.inodes[id.0];
                let mut inode = Inode::new(node, plan.link_count(*id));
                match &node.kind {
                    Kind::Directory => {
                        self.directory(number, plan.listing(*id), &mut inode)?;
                    }
                    Kind::File { size, content } => {
                        if *size > MOST_FILE_BYTES {
                            return Err(ImageError::unsupported(path, "ext4 files end at 16 TiB"));
                        }
                        let data = &contents[id.0].data;
                        let extents =
                            contents::place(content, data, &self.region, &mut self.allocator)?;
                        self.attach(number, &mut inode, &extents, *size)?;
                    }
                    Kind::Symlink { target } => self.symlink(number, path, target, &mut inode)?,
                    Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
                        inode.body = device(*major, *minor);
                    }
                    Kind::Fifo => {}
                }
                self.attributes(node, path, &mut inode)?;
                self.store(number, &inode);
            }
        }
        Ok(())
    }

    /// Gives an inode its extents and its size.
    fn attach(
        &mut self,
        number: u32,
        inode: &mut Inode,
        extents: &Extents,
        size: u64,
    ) -> Result<()> {
        let seed = inode_seed(self.seed, number);
        let allocator = &mut self.allocator;
        let (body, tree_blocks) = extents.write(seed, &self.region, || allocator.block())?;
        inode.body = body;
        inode.extents = true;
        inode.size = size;
        inode.blocks += extents.blocks() + tree_blocks;
        Ok(())
    }

    /// Gives an inode bytes from memory.
    fn attach_bytes(&mut self, number: u32, inode: &mut Inode, bytes: &[u8]) -> Result<()> {
        let extents = contents::write(bytes, &self.region, &mut self.allocator)?;
        self.attach(number, inode, &extents, bytes.len() as u64)
    }

    fn directory(&mut self, number: u32, listing: &Listing<'_>, inode: &mut Inode) -> Result<()> {
        let mut hash_seed = [0; 4];
        for (word, bytes) in hash_seed
            .iter_mut()
            .zip(self.options.hash_seed.as_bytes().chunks_exact(4))
        {
            *word = u32::from_le_bytes(bytes.try_into().expect("four bytes"));
        }
        let seed = inode_seed(self.seed, number);
        let (blocks, indexed) =
            dir::blocks(number, listing.parent, &listing.names, hash_seed, seed);
        inode.indexed = indexed;
        self.count_directory(number);
        self.attach_bytes(number, inode, &blocks)
    }

    fn count_directory(&mut self, inode: u32) {
        let group = (u64::from(inode) - 1) / self.geometry.inodes_per_group;
        self.directories[in_memory(group)] += 1;
    }

    fn symlink(
        &mut self,
        number: u32,
        path: &[u8],
        target: &[u8],
        inode: &mut Inode,
    ) -> Result<()> {
        if target.is_empty() || target.len() >= BLOCK {
            return Err(ImageError::unsupported(
                path,
                "a symlink's target has 1 to 4095 bytes",
            ));
        }
        if target.len() < SHORT_TARGET {
            inode.body[..target.len()].copy_from_slice(target);
            inode.size = target.len() as u64;
            return Ok(());
        }
        self.attach_bytes(number, inode, target)
    }

    fn attributes(&mut self, node: &Node, path: &[u8], inode: &mut Inode) -> Result<()> {
        match xattr::encode(&node.xattrs).map_err(|reason| ImageError::unsupported(path, reason))? {
            Attributes::None => {}
            Attributes::Inode(area) => inode.attributes = Some(area),
            Attributes::Block(mut block) => {
                let place = self.allocator.block()?;
                xattr::seal(&mut block, self.seed, place);
                self.region.write(place * BLOCK_BYTES, block);
                inode.attribute_block = place;
                inode.blocks += 1;
            }
        }
        Ok(())
    }

    fn store(&mut self, number: u32, inode: &Inode) {
        self.inodes[in_memory(u64::from(number) - 1)] = true;
        self.region.write(
            self.geometry.inode_offset(number),
            inode.encode(self.seed, number),
        );
    }

    fn journal(&mut self) -> Result<Totals> {
        let blocks = journal::blocks(self.geometry.blocks);
        let (mut extents, mut logical) = (Extents::default(), 0);
        while u64::from(logical) < blocks {
            let run = self.allocator.run(blocks - u64::from(logical))?;
            if logical == 0 {
                let superblock = journal::superblock(blocks, self.options.uuid);
                self.region.write(run.start * BLOCK_BYTES, superblock);
            }
            let count =
                u32::try_from(run.end - run.start).expect("a journal has at most 262144 blocks");
            extents.push(logical, run);
            logical += count;
        }
        let mut inode = Inode::own(REGULAR | 0o600, 1, self.options.source_date);
        self.attach(JOURNAL_INODE, &mut inode, &extents, blocks * BLOCK_BYTES)?;
        self.store(JOURNAL_INODE, &inode);
        Ok(Totals {
            free_blocks: 0,
            free_inodes: 0,
            journal_body: inode.body,
            journal_size: inode.size,
        })
    }

    fn resize_inode(&mut self) -> Result<()> {
        let top = self.allocator.block()?;
        let inode = resize::write(&self.geometry, &self.region, top, self.options.source_date);
        self.store(RESIZE_INODE, &inode);
        Ok(())
    }

    fn lost_and_found(&mut self) -> Result<()> {
        let number = LOST_AND_FOUND_INODE;
        let seed = inode_seed(self.seed, number);
        let (mut blocks, _) = dir::blocks(number, ROOT_INODE, &[], [0; 4], seed);
        for _ in 1..LOST_AND_FOUND_BLOCKS {
            blocks.extend_from_slice(&dir::leaf(&[], seed));
        }
        let mut inode = Inode::own(DIRECTORY | 0o700, 2, self.options.source_date);
        self.count_directory(number);
        self.attach_bytes(number, &mut inode, &blocks)?;
        self.store(number, &inode);
        Ok(())
    }

    /// Bitmaps, group descriptors and the superblock: what is known only now.
    fn tables(&self, totals: &Totals) {
        let geometry = &self.geometry;
        let groups = self.groups();
        for group in &groups {
            if let Some(bitmap) = &group.block_bitmap {
                let place = geometry.block_bitmap(group.number);
                self.region.write(place * BLOCK_BYTES, bitmap.as_slice());
            }
            if let Some(bitmap) = &group.inode_bitmap {
                let place = geometry.inode_bitmap(group.number);
                self.region.write(place * BLOCK_BYTES, bitmap.as_slice());
            }
        }
        self.superblock(totals, &groups, 0);
    }

    fn groups(&self) -> Vec<Group> {
        (0..self.geometry.groups)
            .map(|number| self.group(number))
            .collect()
    }

    /// Superblock and descriptors as `group` has them.
    fn superblock(&self, totals: &Totals, groups: &[Group], group: u64) {
        let geometry = &self.geometry;
        let descriptors: Vec<_> = groups
            .iter()
            .map(|group| superblock::descriptor(geometry, self.options, group))
            .collect();
        let totals = Totals {
            free_blocks: groups
                .iter()
                .map(|group| u64::from(group.free_blocks))
                .sum(),
            free_inodes: groups.iter().map(|group| group.free_inodes).sum(),
            ..*totals
        };
        let start = geometry.group_range(group).start * BLOCK_BYTES;
        let offset = if group == 0 { superblock::OFFSET } else { 0 };
        let copy = superblock::encode(geometry, self.options, &totals, group);
        self.region.write(start + offset, copy);
        self.region.write(
            start + BLOCK_BYTES,
            superblock::table(geometry, &descriptors),
        );
    }

    fn group(&self, number: u64) -> Group {
        let geometry = &self.geometry;
        let range = geometry.group_range(number);
        let blocks = range.end - range.start;
        let used = self.allocator.used_in(range);
        let per_group = geometry.inodes_per_group;
        let first = in_memory(number * per_group);
        let inodes = &self.inodes[first..first + in_memory(per_group)];
        let used_inodes = inodes.iter().filter(|taken| **taken).count() as u64;
        let ever_used = inodes
            .iter()
            .rposition(|taken| *taken)
            .map_or(0, |last| last + 1) as u64;
        let small = |count: u64| u32::try_from(count).expect("a group's counts are small");
        // The last group is always stored: e2fsck asks for it.
        let follows_from_layout =
            used == geometry.base_blocks(number) && number + 1 < geometry.groups;
        Group {
            number,
            free_blocks: small(blocks - used),
            free_inodes: small(per_group - used_inodes),
            unused_inodes: small(per_group - ever_used),
            directories: self.directories[in_memory(number)],
            block_bitmap: (!follows_from_layout).then(|| self.allocator.bitmap(number)),
            inode_bitmap: (used_inodes > 0).then(|| inode_bitmap(inodes)),
        }
    }
}

/// A bitmap of these inodes; what is past them counts as taken.
fn inode_bitmap(taken: &[bool]) -> Vec<u8> {
    let mut bitmap = vec![0; BLOCK];
    for index in 0..BLOCK * 8 {
        bitmap[index / 8] |= u8::from(taken.get(index).is_none_or(|taken| *taken)) << (index % 8);
    }
    bitmap
}

fn in_memory(count: u64) -> usize {
    usize::try_from(count).expect("as many as inodes, which fit in memory")
}
