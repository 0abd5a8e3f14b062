//! A tree as inodes: link counts, and what each directory lists.

use super::LOST_AND_FOUND_INODE;
use super::dir::{self, Name};
use crate::image::tree::{NodeId, Tree, split};
use crate::image::{ImageError, Result};

/// Most links an inode can have; a directory with more subdirectories has a count of 1 (`dir_nlink`).
const MOST_LINKS: usize = 65_000;
const LOST_AND_FOUND: &[u8] = b"lost+found";

/// What a directory's blocks are made of.
#[derive(Debug, Default)]
pub(super) struct Listing<'a> {
    pub parent: u32,
    /// Sorted, without `.` and `..`.
    pub names: Vec<Name<'a>>,
    subdirectories: usize,
}

/// The inodes of a tree; the vectors are indexed by node.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    inodes: &'a [u32],
    names: Vec<usize>,
    listings: Vec<Option<Listing<'a>>>,
}

impl<'a> Plan<'a> {
    /// The plan of a tree whose nodes have these inode numbers.
    pub(super) fn new(tree: &'a Tree, inodes: &'a [u32]) -> Result<Self> {
        let count = tree.nodes().len();
        let mut plan = Self {
            inodes,
            names: vec![0; count],
            listings: std::iter::repeat_with(|| None).take(count).collect(),
        };
        for (path, id) in tree.names() {
            plan.add(tree, path, id)?;
        }
        let root = tree.find(b"").expect("every tree has a root");
        let listing = plan.listing_mut(root);
        listing.names.push(Name {
            name: LOST_AND_FOUND,
            inode: LOST_AND_FOUND_INODE,
            file_type: 2,
        });
        listing.names.sort_by_key(|name| name.name);
        listing.subdirectories += 1;
        Ok(plan)
    }

    fn add(&mut self, tree: &'a Tree, path: &'a [u8], id: NodeId) -> Result<()> {
        let node = tree.node(id);
        self.names[id.0] += 1;
        let (directory, name) = split(path);
        let parent = tree
            .find(directory)
            .expect("every name lies in a directory of the tree");
        if node.is_directory() {
            let parent = self.inodes[parent.0];
            self.listings[id.0] = Some(Listing {
                parent,
                ..Listing::default()
            });
        }
        let refused = |reason| Err(ImageError::unsupported(path, reason));
        if path.is_empty() {
            return Ok(());
        } else if path == LOST_AND_FOUND {
            return refused("ext4 makes this directory itself; leave it out of the tree");
        } else if name.len() > 255 {
            return refused("ext4 names end at 255 bytes");
        } else if self.names[id.0] > MOST_LINKS {
            return refused("ext4 allows 65,000 links to a file");
        }
        let entry = Name {
            name,
            inode: self.inodes[id.0],
            file_type: dir::file_type(&node.kind),
        };
        let listing = self.listing_mut(parent);
        listing.names.push(entry);
        listing.subdirectories += usize::from(node.is_directory());
        Ok(())
    }

    fn listing_mut(&mut self, directory: NodeId) -> &mut Listing<'a> {
        self.listings[directory.0]
            .as_mut()
            .expect("a directory comes before its names")
    }

    /// What a directory lists.
    ///
    /// # Panics
    /// When `id` is not a directory.
    pub(super) fn listing(&self, id: NodeId) -> &Listing<'a> {
        self.listings[id.0]
            .as_ref()
            .expect("only directories are asked for")
    }

    /// The link count: names of a file; 2 and its subdirectories for a directory.
    pub(super) fn link_count(&self, id: NodeId) -> u16 {
        let links = match &self.listings[id.0] {
            Some(listing) => 2 + listing.subdirectories,
            None => self.names[id.0],
        };
        if links > MOST_LINKS {
            1
        } else {
            u16::try_from(links).expect("at most 65000")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::tree::Node;

    #[test]
    fn links_are_counted_and_names_are_sorted() {
        let mut tree = Tree::new(Node::directory(0o755, 0));
        let z = tree.insert(b"z", Node::file("", 0o644, 0));
        let directory = tree.insert(b"d", Node::directory(0o755, 0));
        tree.link(b"d/also-z", z);
        let plan = Plan::new(&tree, &[2, 13, 12]).unwrap();
        assert_eq!((plan.link_count(z), plan.link_count(directory)), (2, 2));
        let root = tree.find(b"").unwrap();
        assert_eq!(plan.link_count(root), 4);
        let names: Vec<&[u8]> = plan
            .listing(root)
            .names
            .iter()
            .map(|name| name.name)
            .collect();
        assert_eq!(names, [b"d".as_slice(), b"lost+found", b"z"]);
    }

    #[test]
    fn what_ext4_cannot_hold_is_refused() {
        let with = |path: &[u8]| {
            let mut tree = Tree::new(Node::directory(0o755, 0));
            tree.insert(path, Node::file("", 0o644, 0));
            Plan::new(&tree, &[2, 12]).map(drop)
        };
        assert!(with(&[b'n'; 255]).is_ok());
        assert!(with(&[b'n'; 256]).is_err());
        assert!(with(b"lost+found").is_err());
    }
}
