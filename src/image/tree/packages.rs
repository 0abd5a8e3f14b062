//! What dpkg(1) knows of a tree: its database is in the tree itself, below `/var/lib/dpkg`.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::super::Result;
use super::{Kind, Tree, split};

/// Where the names of a package's files are, in `<package>.list`.
pub(super) const INFO: &[u8] = b"var/lib/dpkg/info";
/// One paragraph a package (deb-control(5), dpkg-query(1)).
pub(super) const STATUS: &[u8] = b"var/lib/dpkg/status";

/// An installed package.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Package {
    pub name: String,
    pub architecture: String,
    pub version: String,
}

/// The packages whose status is `installed`, sorted by name and architecture; none where dpkg is not used.
///
/// # Errors
/// The database could not be read.
pub fn installed(tree: &Tree) -> Result<Vec<Package>> {
    let Some((size, content)) = tree.content(STATUS) else {
        return Ok(Vec::new());
    };
    let text = content.whole(size)?;
    let text = String::from_utf8_lossy(&text);
    let mut packages: Vec<Package> = text.split("\n\n").filter_map(package).collect();
    packages.sort();
    Ok(packages)
}

fn package(paragraph: &str) -> Option<Package> {
    let field = |name: &str| {
        let mut lines = paragraph.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        Some(value.trim().to_owned())
    };
    // Three words; the last one is the state that it is in.
    let is_installed = field("Status")?.ends_with(" installed");
    is_installed.then_some(Package {
        name: field("Package")?,
        architecture: field("Architecture")?,
        version: field("Version")?,
    })
}

/// The package of each path that packages own, as dpkg names its lists (`libc6:amd64`); `None` for a directory of
/// several.
///
/// # Errors
/// A list of a package's files could not be read.
pub fn owners(tree: &Tree) -> Result<HashMap<Vec<u8>, Option<Vec<u8>>>> {
    let mut owners: HashMap<Vec<u8>, Option<Vec<u8>>> = HashMap::new();
    let info = tree.names().filter_map(|(path, _)| {
        let (directory, name) = split(path);
        let dot = name.iter().rposition(|byte| *byte == b'.')?;
        (directory == INFO).then_some((path, &name[..dot], &name[dot..]))
    });
    for (path, package, kind) in info {
        owners.insert(path.to_vec(), Some(package.to_vec()));
        let list = match tree.content(path) {
            Some((size, content)) if kind == b".list" => content.whole(size)?,
            _ => continue,
        };
        for line in list.split(|byte| *byte == b'\n') {
            let Some(owned) = line.strip_prefix(b"/").and_then(|path| resolve(tree, path)) else {
                continue;
            };
            let several = tree
                .find(&owned)
                .is_some_and(|id| tree.node(id).is_directory());
            owners
                .entry(owned)
                .and_modify(|owner| {
                    if several {
                        *owner = None;
                    }
                })
                .or_insert_with(|| Some(package.to_vec()));
        }
    }
    Ok(owners)
}

/// A package's path as the tree has it: a package may say `bin/sh` where `bin` is a link to `usr/bin`.
fn resolve(tree: &Tree, path: &[u8]) -> Option<Vec<u8>> {
    if tree.find(path).is_some() {
        return Some(path.to_vec());
    }
    let slash = path.iter().position(|byte| *byte == b'/')?;
    let Kind::Symlink { target } = &tree.node(tree.find(&path[..slash])?).kind else {
        return None;
    };
    let moved = [target, &path[slash..]].concat();
    tree.find(&moved).is_some().then_some(moved)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::tree::Node;

    #[test]
    fn what_is_installed_is_read_and_what_left_its_configuration_is_not() {
        let mut tree = Tree::new(Node::directory(0o755, 0));
        assert_eq!(installed(&tree).unwrap(), []);
        for path in ["var", "var/lib", "var/lib/dpkg"] {
            tree.insert(path.as_bytes(), Node::directory(0o755, 0));
        }
        let status = "Package: zip\nStatus: install ok installed\nMaintainer: \u{e9}\nArchitecture: amd64\n\
                      Description: one\n Version: no field\nVersion: 3.0-13\n\n\
                      Package: gone\nStatus: deinstall ok config-files\nArchitecture: all\nVersion: 1\n\n\
                      Package: adduser\nStatus: install ok installed\nArchitecture: all\nVersion: 3.134\n";
        tree.insert(STATUS, Node::file(status, 0o644, 0));
        let found = installed(&tree).unwrap();
        let words = found.iter().map(|one| {
            let Package {
                name,
                architecture,
                version,
            } = one;
            format!("{name} {architecture} {version}")
        });
        let words: Vec<String> = words.collect();
        assert_eq!(words, ["adduser all 3.134", "zip amd64 3.0-13"]);
    }
}
