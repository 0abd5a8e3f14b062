//! What of a tree changes together: each Debian package, and what else is in a directory.

use std::collections::{BTreeMap, HashMap};

use sha2::{Digest, Sha256};

use crate::image::Result;
use crate::image::tree::{NodeId, Tree, packages, split};

/// Components of a directory's path that name the unit of what no package owns.
const COMPONENTS: usize = 3;

/// Nodes with their first names.
pub(super) type Nodes<'a> = Vec<(NodeId, &'a [u8])>;

/// What changes together: directories first, for they seldom come and go, then by name.
#[derive(Debug)]
pub(super) struct Unit<'a> {
    /// Of its name: where it belongs.
    pub hash: u64,
    pub nodes: Nodes<'a>,
}

/// All nodes of a tree but its root, by unit, in the order of their hashes.
///
/// # Errors
/// A list of a package's files could not be read.
pub(super) fn units(tree: &Tree) -> Result<Vec<Unit<'_>>> {
    let owners = packages::owners(tree)?;
    let mut units: HashMap<Vec<u8>, Nodes<'_>> = HashMap::new();
    let mut seen = vec![false; tree.nodes().len()];
    for (path, id) in tree.names().filter(|(path, _)| !path.is_empty()) {
        if std::mem::replace(&mut seen[id.0], true) {
            continue;
        }
        let name = match owners.get(path) {
            Some(Some(package)) => [b"package ", package.as_slice()].concat(),
            _ => directory(tree, path, id).to_vec(),
        };
        units.entry(name).or_default().push((id, path));
    }
    let units = units
        .into_iter()
        .map(|(name, nodes)| ((hash(&name), name), nodes));
    let by_hash: BTreeMap<_, _> = units.collect();
    let sorted = by_hash.into_iter().map(|((hash, _), mut nodes)| {
        nodes.sort_by_key(|(id, path)| (!tree.node(*id).is_directory(), *path));
        Unit { hash, nodes }
    });
    Ok(sorted.collect())
}

/// Where something with this name belongs, as a share of all places.
pub(super) fn hash(name: &[u8]) -> u64 {
    let digest: [u8; 32] = Sha256::digest(name).into();
    u64::from_be_bytes(*digest.first_chunk().expect("a digest has 32 bytes"))
}

/// The start of the directory that a node lies in, or is.
fn directory<'a>(tree: &Tree, path: &'a [u8], id: NodeId) -> &'a [u8] {
    let directory = if tree.node(id).is_directory() {
        path
    } else {
        split(path).0
    };
    let slashes = directory
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == b'/');
    match slashes.map(|(at, _)| at).nth(COMPONENTS - 1) {
        Some(end) => &directory[..end],
        None => directory,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::tree::{Kind, Node};

    #[test]
    fn a_package_has_its_files_its_own_directories_and_its_lists() {
        let mut tree = Tree::new(Node::directory(0o755, 0));
        for path in [
            "usr",
            "usr/bin",
            "usr/own",
            "var",
            "var/lib",
            "var/lib/dpkg",
            "var/lib/dpkg/info",
            "opt",
            "opt/a",
            "opt/a/b",
            "opt/a/b/c",
        ] {
            tree.insert(path.as_bytes(), Node::directory(0o755, 0));
        }
        let link = Kind::Symlink {
            target: b"usr/bin".to_vec(),
        };
        tree.insert(b"bin", Node::new(link, 0o777, 0));
        let files = [
            ("usr/bin/one", ""),
            ("usr/own/file", ""),
            ("usr/bin/two", ""),
            ("opt/a/b/c/file", ""),
            (
                "var/lib/dpkg/info/one:amd64.list",
                "/.\n/usr\n/usr/bin\n/bin/one\n/usr/own\n/usr/own/file\n",
            ),
            ("var/lib/dpkg/info/one:amd64.md5sums", ""),
            (
                "var/lib/dpkg/info/two.list",
                "/.\n/usr\n/usr/bin\n/usr/bin/two\n",
            ),
        ];
        for (path, text) in files {
            tree.insert(path.as_bytes(), Node::file(text, 0o644, 0));
        }
        let mut units: Vec<Vec<&str>> = units(&tree)
            .unwrap()
            .into_iter()
            .map(|unit| {
                unit.nodes
                    .iter()
                    .map(|(_, path)| std::str::from_utf8(path).unwrap())
                    .collect()
            })
            .collect();
        units.sort();
        let expected: [&[&str]; 11] = [
            &["bin"],
            &["opt"],
            &["opt/a"],
            &["opt/a/b", "opt/a/b/c", "opt/a/b/c/file"],
            &["usr"],
            &["usr/bin"],
            &["usr/bin/two", "var/lib/dpkg/info/two.list"],
            &[
                "usr/own",
                "usr/bin/one",
                "usr/own/file",
                "var/lib/dpkg/info/one:amd64.list",
                "var/lib/dpkg/info/one:amd64.md5sums",
            ],
            &["var"],
            &["var/lib"],
            &["var/lib/dpkg", "var/lib/dpkg/info"],
        ];
        assert_eq!(units, expected);
    }
}
