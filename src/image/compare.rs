//! What makes the trees of two images differ: packages, services, files, sizes. Pure, from their manifests.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::tree::{ByteString, Entry, EntryType, Package, TreeManifest, split};

/// Where systemd keeps what this machine's administrator wants of units (systemd.unit(5)).
const UNITS: &[u8] = b"etc/systemd/system/";

/// All differences, each kind sorted by name.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Comparison<'a> {
    pub packages: Vec<PackageChange>,
    pub services: Vec<ServiceChange>,
    pub files: Vec<FileChange<'a>>,
    /// Bytes of all regular files, each inode once.
    pub total: Bytes,
    /// The same by directory at the root; `/` are the files at the root itself.
    pub directories: BTreeMap<String, Bytes>,
}

/// A package that came, went or has another version.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct PackageChange {
    /// With its architecture, `libc6:i386`, where there is one of that name for another architecture.
    pub package: String,
    /// `None`: it was not there.
    pub from: Option<String>,
    pub to: Option<String>,
}

/// A unit of systemd that is enabled or masked in one tree and not so in the other.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct ServiceChange {
    pub unit: ByteString,
    pub from: UnitState,
    pub to: UnitState,
}

/// What the administrator wants of a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnitState {
    /// Nothing below `/etc` starts it.
    Disabled,
    /// A `.wants`, `.requires` or `.upholds` directory has it.
    Enabled,
    /// It cannot be started.
    Masked,
}

/// A path that came, went or is another.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct FileChange<'a> {
    /// The package that owns the path, as the packages that changed name it, if it is among them.
    pub changed_package: Option<String>,
    /// In what it differs; nothing for one that came or went.
    pub differs: Vec<Aspect>,
    /// `None`: it was not there.
    pub from: Option<&'a Entry>,
    pub to: Option<&'a Entry>,
}

/// In what a path can differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Aspect {
    Type,
    Content,
    Size,
    Target,
    Device,
    Mode,
    Owner,
    Time,
    Xattrs,
    HardLink,
}

/// Before and after.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Bytes {
    pub from: u64,
    pub to: u64,
}

impl Comparison<'_> {
    /// Whether the trees are one and the same.
    #[must_use]
    pub fn is_same(&self) -> bool {
        self.packages.is_empty() && self.files.is_empty()
    }
}

impl FileChange<'_> {
    /// What is at the path, or was, if it is gone.
    #[must_use]
    pub fn entry(&self) -> &Entry {
        self.to
            .or(self.from)
            .expect("a path that changed is in one of the trees")
    }
}

/// What has changed from one tree to the other.
#[must_use]
pub fn compare<'a>(from: &'a TreeManifest, to: &'a TreeManifest) -> Comparison<'a> {
    let (packages, changed) = packages(&from.packages, &to.packages);
    let files = pairs(from.entries.iter(), to.entries.iter(), |entry| &entry.path);
    let files = files.into_values().filter(|(from, to)| !same(*from, *to));
    let files = files.map(|(from, to)| {
        let owner = |entry: Option<&Entry>| {
            let owner = entry?.package.as_ref()?.to_string();
            changed.get(&owner).cloned()
        };
        FileChange {
            changed_package: owner(to).or_else(|| owner(from)),
            differs: from
                .zip(to)
                .map(|(from, to)| differs(from, to))
                .unwrap_or_default(),
            from,
            to,
        }
    });
    let mut total = Bytes::default();
    let mut directories: BTreeMap<String, Bytes> = BTreeMap::new();
    for (manifest, is_to) in [(from, false), (to, true)] {
        for entry in manifest
            .entries
            .iter()
            .filter(|entry| entry.hard_link.is_none())
        {
            let size = entry.size.unwrap_or(0);
            let sums = [&mut total, directories.entry(top(entry)).or_default()];
            for sum in sums {
                *(if is_to { &mut sum.to } else { &mut sum.from }) += size;
            }
        }
    }
    directories.retain(|_, bytes| *bytes != Bytes::default());
    Comparison {
        packages,
        services: services(from, to),
        files: files.collect(),
        total,
        directories,
    }
}

/// What is on either side, by its key.
fn pairs<'a, T, K: Ord>(
    from: impl Iterator<Item = &'a T>,
    to: impl Iterator<Item = &'a T>,
    key: impl Fn(&'a T) -> K,
) -> BTreeMap<K, (Option<&'a T>, Option<&'a T>)> {
    let mut pairs: BTreeMap<K, (Option<&T>, Option<&T>)> = BTreeMap::new();
    for one in from {
        pairs.entry(key(one)).or_default().0 = Some(one);
    }
    for one in to {
        pairs.entry(key(one)).or_default().1 = Some(one);
    }
    pairs
}

/// The changes, and the packages in them by the names that dpkg has for their lists: with the architecture where there
/// may be one of another.
fn packages(from: &[Package], to: &[Package]) -> (Vec<PackageChange>, BTreeMap<String, String>) {
    let mut architectures: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for one in from.iter().chain(to) {
        let known = architectures.entry(&one.name).or_default();
        known.insert(&one.architecture);
    }
    let version = |one: Option<&Package>| one.map(|one| one.version.clone());
    let mut changes = Vec::new();
    let mut names = BTreeMap::new();
    let key = |one: &Package| (one.name.clone(), one.architecture.clone());
    for ((name, architecture), (from, to)) in pairs(from.iter(), to.iter(), key) {
        if from == to {
            continue;
        }
        let whole = format!("{name}:{architecture}");
        let package = match architectures[name.as_str()].len() {
            1 => name.clone(),
            _ => whole.clone(),
        };
        names.insert(name, package.clone());
        names.insert(whole, package.clone());
        changes.push(PackageChange {
            package,
            from: version(from),
            to: version(to),
        });
    }
    (changes, names)
}

/// Whether a path is the same; who owns it is told by the lists of the packages, which are files themselves.
fn same(from: Option<&Entry>, to: Option<&Entry>) -> bool {
    matches!((from, to), (Some(from), Some(to)) if differs(from, to).is_empty())
}

fn differs(from: &Entry, to: &Entry) -> Vec<Aspect> {
    // A field that only the other type has follows from the type.
    let alike = from.kind == to.kind;
    let aspects = [
        (Aspect::Type, !alike),
        (Aspect::Content, alike && from.sha256 != to.sha256),
        (Aspect::Size, alike && from.size != to.size),
        (Aspect::Target, alike && from.target != to.target),
        (Aspect::Device, alike && from.device != to.device),
        (Aspect::Mode, from.mode != to.mode),
        (Aspect::Owner, (from.uid, from.gid) != (to.uid, to.gid)),
        (Aspect::Time, from.mtime != to.mtime),
        (Aspect::Xattrs, from.xattrs != to.xattrs),
        (Aspect::HardLink, from.hard_link != to.hard_link),
    ];
    let differ = aspects.into_iter().filter(|(_, differ)| *differ);
    differ.map(|(aspect, _)| aspect).collect()
}

/// The directory at the root that a path is in or is.
fn top(entry: &Entry) -> String {
    let path = entry.path.to_string();
    match path.split_once('/') {
        Some((top, _)) => top.to_owned(),
        None if entry.kind == EntryType::Directory && !path.is_empty() => path,
        None => "/".to_owned(),
    }
}

fn services(from: &TreeManifest, to: &TreeManifest) -> Vec<ServiceChange> {
    let (from, to) = (units(from), units(to));
    let names: BTreeSet<&[u8]> = from.keys().chain(to.keys()).copied().collect();
    let state = |units: &BTreeMap<&[u8], UnitState>, unit| {
        units.get(unit).copied().unwrap_or(UnitState::Disabled)
    };
    let changes = names.into_iter().map(|unit| ServiceChange {
        unit: unit.into(),
        from: state(&from, unit),
        to: state(&to, unit),
    });
    changes.filter(|change| change.from != change.to).collect()
}

/// The units that are enabled or masked.
fn units(manifest: &TreeManifest) -> BTreeMap<&[u8], UnitState> {
    let mut units = BTreeMap::new();
    for entry in &manifest.entries {
        let Some(path) = entry.path.0.strip_prefix(UNITS) else {
            continue;
        };
        let target = entry.target.as_ref().map(|target| target.0.as_slice());
        let (directory, unit) = split(path);
        let pulls = [b".wants".as_slice(), b".requires", b".upholds"];
        if directory.is_empty() {
            if target == Some(b"/dev/null") || entry.size == Some(0) {
                units.insert(unit, UnitState::Masked);
            }
        } else if target.is_some() && pulls.iter().any(|end| directory.ends_with(end)) {
            // What is masked is so whoever wants it.
            units.entry(unit).or_insert(UnitState::Enabled);
        }
    }
    units
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::tree::{Kind, Node, Tree};
    use super::*;

    /// The manifest of a tree with these packages in dpkg's status and these nodes, in directories of root's.
    pub(crate) fn manifest(status: &[(&str, &str)], nodes: Vec<(&str, Node)>) -> TreeManifest {
        let mut tree = Tree::new(Node::directory(0o755, 0));
        let text: Vec<String> = status
            .iter()
            .map(|(name, version)| {
                let (name, architecture) = name.split_once(':').unwrap_or((name, "amd64"));
                format!(
                    "Package: {name}\nStatus: install ok installed\nArchitecture: {architecture}\nVersion: {version}\n"
                )
            })
            .collect();
        let status = ("var/lib/dpkg/status", Node::file(text.join("\n"), 0o644, 0));
        for (path, node) in nodes.into_iter().chain([status]) {
            for (slash, _) in path.match_indices('/') {
                if tree.find(&path.as_bytes()[..slash]).is_none() {
                    tree.insert(&path.as_bytes()[..slash], Node::directory(0o755, 0));
                }
            }
            tree.insert(path.as_bytes(), node);
        }
        let text = tree.manifest(&tree.survey().unwrap()).unwrap();
        TreeManifest::parse(&text).unwrap()
    }

    pub(crate) fn link(target: &str) -> Node {
        let target = target.as_bytes().to_vec();
        Node::new(Kind::Symlink { target }, 0o777, 0)
    }

    fn file() -> Node {
        Node::file("text", 0o644, 0)
    }

    #[test]
    fn each_aspect_of_a_path_is_told_by_its_name() {
        let with = |change: fn(&mut Node)| {
            let mut node = file();
            change(&mut node);
            node
        };
        let device = |minor| Node::new(Kind::CharDevice { major: 1, minor }, 0o600, 0);
        let cases: [(Node, Node, &[Aspect]); 10] = [
            (file(), Node::file("TEXT", 0o644, 0), &[Aspect::Content]),
            (
                file(),
                Node::file("more", 0o600, 0),
                &[Aspect::Content, Aspect::Mode],
            ),
            (
                file(),
                Node::file("texts", 0o644, 0),
                &[Aspect::Content, Aspect::Size],
            ),
            (file(), Node::new(Kind::Fifo, 0o644, 0), &[Aspect::Type]),
            (file(), with(|node| node.uid = 7), &[Aspect::Owner]),
            (file(), with(|node| node.gid = 7), &[Aspect::Owner]),
            (file(), with(|node| node.mtime = 7), &[Aspect::Time]),
            (
                file(),
                with(|node| node.xattrs = [(b"user.a".to_vec(), Vec::new())].into()),
                &[Aspect::Xattrs],
            ),
            (link("a"), link("b"), &[Aspect::Target]),
            (device(3), device(5), &[Aspect::Device]),
        ];
        for (before, after, aspects) in cases {
            let (from, to) = (
                manifest(&[], vec![("a", before)]),
                manifest(&[], vec![("a", after)]),
            );
            let found = compare(&from, &to);
            assert_eq!(found.files.len(), 1, "{aspects:?}");
            assert_eq!(found.files[0].differs, aspects);
            assert!(!found.is_same() && compare(&from, &from).is_same());
        }
        let one = manifest(&[], vec![("a", file()), ("b", file())]);
        let mut linked = one.clone();
        linked.entries[2].hard_link = Some(ByteString(b"a".to_vec()));
        let found = compare(&one, &linked);
        assert_eq!(found.files[0].differs, [Aspect::HardLink]);
        assert_eq!(found.total.to + 4, found.total.from);
    }

    #[test]
    fn a_path_that_came_and_one_that_went_are_told_apart() {
        let (from, to) = (
            manifest(&[], vec![("opt/old", file())]),
            manifest(&[], vec![("srv/new/file", file())]),
        );
        let found = compare(&from, &to);
        let words = found.files.iter().map(|change| {
            let sign = if change.from.is_none() { '+' } else { '-' };
            format!("{sign}{}", change.entry().path)
        });
        let words: Vec<String> = words.collect();
        assert_eq!(
            words,
            ["-opt", "-opt/old", "+srv", "+srv/new", "+srv/new/file"]
        );
        assert_eq!(found.directories["opt"], Bytes { from: 4, to: 0 });
        assert_eq!(found.directories["srv"], Bytes { from: 0, to: 4 });
    }

    #[test]
    fn packages_come_go_and_move_and_explain_their_files() {
        let list = |text: &str| Node::file(text, 0o644, 0);
        let files = |content: &str| {
            vec![
                ("usr/bin/jq", Node::file(content, 0o755, 0)),
                ("usr/bin/same", Node::file(content, 0o755, 0)),
                ("usr/bin/own", Node::file(content, 0o755, 0)),
                ("usr/lib/libc.so", Node::file(content, 0o755, 0)),
                ("var/lib/dpkg/info/jq:amd64.list", list("/usr/bin/jq\n")),
                (
                    "var/lib/dpkg/info/libc6:amd64.list",
                    list("/usr/lib/libc.so\n"),
                ),
                ("var/lib/dpkg/info/same.list", list("/usr/bin/same\n")),
            ]
        };
        let from = [("jq", "1.6"), ("nano", "7"), ("same", "1"), ("libc6", "2")];
        let to = [
            ("jq", "1.7"),
            ("same", "1"),
            ("libc6", "2"),
            ("libc6:i386", "2"),
        ];
        let (from, to) = (manifest(&from, files("a")), manifest(&to, files("b")));
        let found = compare(&from, &to);
        let change = |package: &str, from: Option<&str>, to: Option<&str>| PackageChange {
            package: package.to_owned(),
            from: from.map(str::to_owned),
            to: to.map(str::to_owned),
        };
        assert_eq!(
            found.packages,
            [
                change("jq", Some("1.6"), Some("1.7")),
                change("libc6:i386", None, Some("2")),
                change("nano", Some("7"), None),
            ]
        );
        let owners: Vec<_> = found
            .files
            .iter()
            .map(|change| {
                (
                    change.entry().path.to_string(),
                    change.changed_package.as_deref(),
                )
            })
            .collect();
        let expected = [
            ("usr/bin/jq", Some("jq")),
            ("usr/bin/own", None),
            ("usr/bin/same", None),
            ("usr/lib/libc.so", None),
            ("var/lib/dpkg/status", None),
        ];
        assert_eq!(
            owners,
            expected.map(|(path, owner)| (path.to_owned(), owner))
        );
    }

    #[test]
    fn units_are_enabled_disabled_and_masked() {
        let unit = || link("/lib/systemd/system/x.service");
        let from = vec![
            (
                "etc/systemd/system/multi-user.target.wants/a.service",
                unit(),
            ),
            (
                "etc/systemd/system/multi-user.target.wants/kept.service",
                unit(),
            ),
            ("etc/systemd/system/alias.service", unit()),
        ];
        let to = vec![
            (
                "etc/systemd/system/dev-sda.device.requires/kept.service",
                unit(),
            ),
            ("etc/systemd/system/sockets.target.wants/b.socket", unit()),
            ("etc/systemd/system/sockets.target.wants/c.socket", unit()),
            ("etc/systemd/system/c.socket", link("/dev/null")),
            ("etc/systemd/system/d.service", Node::file("", 0o644, 0)),
        ];
        let (from, to) = (manifest(&[], from), manifest(&[], to));
        let found = compare(&from, &to).services;
        let words = found
            .iter()
            .map(|one| format!("{} {:?} {:?}", one.unit, one.from, one.to));
        let words: Vec<String> = words.collect();
        let expected = [
            "a.service Enabled Disabled",
            "b.socket Disabled Enabled",
            "c.socket Disabled Masked",
            "d.service Disabled Masked",
        ];
        assert_eq!(words, expected);
    }
}
