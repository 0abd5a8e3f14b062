//! One number for a whole tree.

use std::fs::File;
use std::io::Read;

use sha2::{Digest, Sha256};

use super::super::{ImageError, Result};
use super::{Content, Kind, Node, Tree};
use crate::parallel;

/// Bytes read at a time.
const CHUNK: usize = 1 << 20;

/// Names the format of the records, so that another format gives other digests.
const FORMAT: &[u8] = b"piaas-bake tree v1\n";

/// SHA-256 of each regular file's content, by node; other nodes have zeros.
pub type ContentHashes = Vec<[u8; 32]>;

impl Tree {
    /// The digest of everything in the tree: names, kinds, owners, modes, times, attributes, links and contents.
    ///
    /// # Errors
    /// A file could not be read or has changed since the scan.
    pub fn digest(&self) -> Result<[u8; 32]> {
        Ok(self.digest_with(&self.hash_contents()?))
    }

    /// As [`Tree::digest`], with hashes of the contents that somebody has made while copying them.
    #[must_use]
    pub fn digest_with(&self, contents: &ContentHashes) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(FORMAT);
        let mut first_name: Vec<Option<&[u8]>> = vec![None; self.nodes().len()];
        for (path, id) in self.names() {
            field(&mut hash, path);
            match first_name[id.0] {
                Some(first) => {
                    hash.update(b"hard link");
                    field(&mut hash, first);
                }
                None => record(&mut hash, self.node(id), &contents[id.0]),
            }
            first_name[id.0].get_or_insert(path);
        }
        hash.finalize().into()
    }

    /// Reads and hashes every file, on all cores.
    fn hash_contents(&self) -> Result<ContentHashes> {
        let hashes = parallel::map_with(
            self.nodes(),
            || vec![0; CHUNK],
            |buffer, node| {
                let Kind::File { size, content } = &node.kind else {
                    return Ok([0; 32]);
                };
                let mut hash = Sha256::new();
                content.read(*size, buffer, |bytes| {
                    hash.update(bytes);
                    Ok(())
                })?;
                Ok(hash.finalize().into())
            },
        );
        hashes.into_iter().collect()
    }
}

impl Content {
    /// Hands the content over in pieces as large as `buffer`; only the last may be shorter.
    ///
    /// # Errors
    /// The file could not be read, or does not have `size` bytes.
    pub(crate) fn read(
        &self,
        size: u64,
        buffer: &mut [u8],
        mut take: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let path = match self {
            Self::Bytes(bytes) => return bytes.chunks(buffer.len()).try_for_each(take),
            Self::Host(path) => path,
        };
        let mut file = File::open(path).map_err(ImageError::io("open", path))?;
        let mut total = 0;
        loop {
            let mut filled = 0;
            while filled < buffer.len() {
                match file
                    .read(&mut buffer[filled..])
                    .map_err(ImageError::io("read", path))?
                {
                    0 => break,
                    count => filled += count,
                }
            }
            total += filled as u64;
            if filled > 0 {
                take(&buffer[..filled])?;
            }
            if filled < buffer.len() {
                break;
            }
        }
        if total == size {
            Ok(())
        } else {
            Err(ImageError::Changed { path: path.clone() })
        }
    }
}

/// A length and the bytes, so that no two lists of fields read the same.
fn field(hash: &mut Sha256, bytes: &[u8]) {
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

fn record(hash: &mut Sha256, node: &Node, content: &[u8; 32]) {
    let numbers = |hash: &mut Sha256, a: u32, b: u32| {
        hash.update(a.to_le_bytes());
        hash.update(b.to_le_bytes());
    };
    match &node.kind {
        Kind::Directory => field(hash, b"directory"),
        Kind::File { size, .. } => {
            field(hash, b"file");
            hash.update(size.to_le_bytes());
            hash.update(content);
        }
        Kind::Symlink { target } => {
            field(hash, b"symlink");
            field(hash, target);
        }
        Kind::CharDevice { major, minor } => {
            field(hash, b"char");
            numbers(hash, *major, *minor);
        }
        Kind::BlockDevice { major, minor } => {
            field(hash, b"block");
            numbers(hash, *major, *minor);
        }
        Kind::Fifo => field(hash, b"fifo"),
    }
    numbers(hash, node.uid, node.gid);
    hash.update(node.mode.to_le_bytes());
    hash.update(node.mtime.to_le_bytes());
    hash.update((node.xattrs.len() as u64).to_le_bytes());
    for (name, value) in &node.xattrs {
        field(hash, name);
        field(hash, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Tree {
        let mut tree = Tree::new(Node::directory(0o755, 1));
        let id = tree.insert(b"a", Node::file("text", 0o644, 2));
        tree.link(b"b", id);
        tree.insert(
            b"c",
            Node::new(
                Kind::Symlink {
                    target: b"a".to_vec(),
                },
                0o777,
                3,
            ),
        );
        tree
    }

    /// A known answer: it may change only with [`FORMAT`].
    #[test]
    fn the_digest_is_stable() {
        let digest = hex::encode(sample().digest().unwrap());
        assert_eq!(
            digest,
            "547b4425c2d3374ad01c389e0743a736cbab1a973aeac5e71e263e7f2c48d963"
        );
    }

    #[test]
    fn every_property_counts() {
        let base = sample().digest().unwrap();
        let changes: [fn(&mut Tree); 6] = [
            |tree| tree.nodes[1].mode = 0o600,
            |tree| tree.nodes[1].uid = 7,
            |tree| tree.nodes[1].mtime += 1,
            |tree| tree.nodes[1] = Node::file("tex!", 0o644, 2),
            |tree| tree.nodes[1].xattrs = [(b"user.a".to_vec(), Vec::new())].into(),
            |tree| {
                tree.insert(b"d", Node::directory(0o755, 1));
            },
        ];
        for (index, change) in changes.into_iter().enumerate() {
            let mut tree = sample();
            change(&mut tree);
            assert_ne!(tree.digest().unwrap(), base, "change {index}");
        }
        let mut unlinked = Tree::new(Node::directory(0o755, 1));
        unlinked.insert(b"a", Node::file("text", 0o644, 2));
        unlinked.insert(b"b", Node::file("text", 0o644, 2));
        unlinked.insert(
            b"c",
            Node::new(
                Kind::Symlink {
                    target: b"a".to_vec(),
                },
                0o777,
                3,
            ),
        );
        assert_ne!(
            unlinked.digest().unwrap(),
            base,
            "a copy is not a hard link"
        );
    }

    #[test]
    fn a_file_that_changed_since_the_scan_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("log"), "one").unwrap();
        let tree = Tree::scan(directory.path(), 0).unwrap();
        std::fs::write(directory.path().join("log"), "one two").unwrap();
        assert!(matches!(tree.digest(), Err(ImageError::Changed { .. })));
    }
}
