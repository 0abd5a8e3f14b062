//! The canonical model of a file tree: what an image contains, free of where and how it was read.
//!
//! Paths are bytes relative to the root and sorted as bytes, so a directory comes before what is in it. Times are
//! whole seconds, clamped to a source date. Names that share an inode share a [`Node`].

mod digest;
pub(crate) mod known;
pub mod listing;
mod manifest;
pub(crate) mod packages;
mod scan;

use std::collections::BTreeMap;
use std::path::PathBuf;

pub use digest::Survey;
pub(crate) use digest::data_runs;
pub use known::{Known, Stamp};
pub(crate) use known::{KnownBlock, Made};
pub use manifest::{ByteString, Entry, EntryType, FORMAT, TreeManifest};
pub use packages::Package;

/// Permission bits with set-uid, set-gid and sticky: the low 12 bits of `st_mode`.
pub const MODE_MASK: u32 = 0o7777;

/// Where a regular file's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A file on this host, read when it is needed.
    Host(HostFile),
    /// In memory.
    Bytes(Vec<u8>),
}

/// A file on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFile {
    pub path: PathBuf,
    /// By what it is recognised later; `None`: not at all.
    pub stamp: Option<Stamp>,
}

/// What a node is. Sockets are not part of a tree: the programs that listen on them make them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Directory,
    File { size: u64, content: Content },
    Symlink { target: Vec<u8> },
    CharDevice { major: u32, minor: u32 },
    BlockDevice { major: u32, minor: u32 },
    Fifo,
}

/// An inode: everything about a file but its names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub kind: Kind,
    pub uid: u32,
    pub gid: u32,
    /// Low 12 bits of `st_mode`.
    pub mode: u32,
    /// Seconds since the epoch.
    pub mtime: i64,
    /// Full attribute names (`security.capability`) and values as `getxattr(2)` gives them.
    pub xattrs: Xattrs,
}

/// Extended attributes by name.
pub type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

impl Node {
    /// A node of root's with no extended attributes.
    #[must_use]
    pub fn new(kind: Kind, mode: u32, mtime: i64) -> Self {
        Self {
            kind,
            uid: 0,
            gid: 0,
            mode: mode & MODE_MASK,
            mtime,
            xattrs: Xattrs::new(),
        }
    }

    /// A directory of root's.
    #[must_use]
    pub fn directory(mode: u32, mtime: i64) -> Self {
        Self::new(Kind::Directory, mode, mtime)
    }

    /// A regular file of root's with content from memory.
    #[must_use]
    pub fn file(bytes: impl Into<Vec<u8>>, mode: u32, mtime: i64) -> Self {
        let bytes = bytes.into();
        let size = bytes.len() as u64;
        Self::new(
            Kind::File {
                size,
                content: Content::Bytes(bytes),
            },
            mode,
            mtime,
        )
    }

    /// Whether this is a directory.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        matches!(self.kind, Kind::Directory)
    }

    /// The length of a regular file, else 0.
    #[must_use]
    pub fn size(&self) -> u64 {
        match &self.kind {
            Kind::File { size, .. } => *size,
            _ => 0,
        }
    }
}

/// Index of a node in [`Tree::nodes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub usize);

/// A file tree. The root is the empty path and always there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    nodes: Vec<Node>,
    names: BTreeMap<Vec<u8>, NodeId>,
}

impl Tree {
    /// A tree of nothing but its root directory.
    #[must_use]
    pub fn new(root: Node) -> Self {
        Self {
            nodes: vec![root],
            names: BTreeMap::from([(Vec::new(), NodeId(0))]),
        }
    }

    /// Adds a node under `path` (relative, no leading slash). Its directory must have been added before.
    ///
    /// # Panics
    /// When the parent is missing or no directory, or the path is taken: the caller's fault, not the input's.
    pub fn insert(&mut self, path: &[u8], node: Node) -> NodeId {
        let id = NodeId(self.nodes.len());
        self.name(path, id);
        self.nodes.push(node);
        id
    }

    /// Adds another name of a file that is already in the tree: a hard link.
    ///
    /// # Panics
    /// As [`Tree::insert`], and when `id` is a directory.
    pub fn link(&mut self, path: &[u8], id: NodeId) {
        assert!(!self.node(id).is_directory(), "a directory has one name");
        self.name(path, id);
    }

    fn name(&mut self, path: &[u8], id: NodeId) {
        let (parent, _) = split(path);
        let parent = self
            .find(parent)
            .expect("a parent is added before its children");
        assert!(
            self.node(parent).is_directory(),
            "only a directory holds names"
        );
        let taken = self.names.insert(path.to_vec(), id);
        assert!(taken.is_none(), "a path is added once");
    }

    /// The node at `path`, if there is one.
    #[must_use]
    pub fn find(&self, path: &[u8]) -> Option<NodeId> {
        self.names.get(path).copied()
    }

    /// The content of the regular file at `path`, following no symlink.
    #[must_use]
    pub fn content(&self, path: &[u8]) -> Option<(u64, &Content)> {
        match &self.node(self.find(path)?).kind {
            Kind::File { size, content } => Some((*size, content)),
            _ => None,
        }
    }

    /// A node by its id.
    #[must_use]
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0]
    }

    /// All nodes; [`NodeId`] is an index into them. Their order is not part of the model.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// All names with their nodes, sorted by path bytes, the root first.
    pub fn names(&self) -> impl Iterator<Item = (&[u8], NodeId)> {
        self.names.iter().map(|(path, id)| (path.as_slice(), *id))
    }

    /// Bytes of all regular files, each hard link group once.
    #[must_use]
    pub fn content_bytes(&self) -> u64 {
        self.nodes.iter().map(Node::size).sum()
    }
}

/// Splits a path into its directory and its last component.
#[must_use]
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_sorted_as_bytes_with_parents_first() {
        let mut tree = Tree::new(Node::directory(0o755, 0));
        tree.insert(b"a", Node::directory(0o755, 0));
        tree.insert(b"a/z", Node::file("z", 0o644, 0));
        tree.insert(b"a-b", Node::directory(0o755, 0));
        let names: Vec<&[u8]> = tree.names().map(|(path, _)| path).collect();
        assert_eq!(names, [b"".as_slice(), b"a", b"a-b", b"a/z"]);
    }

    #[test]
    fn a_path_splits_at_its_last_slash() {
        assert_eq!(
            split(b"usr/bin/sh"),
            (b"usr/bin".as_slice(), b"sh".as_slice())
        );
        assert_eq!(split(b"usr"), (b"".as_slice(), b"usr".as_slice()));
    }
}
