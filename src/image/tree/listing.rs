//! What a machine tells of its own root file system, for images whose disks cannot be read here.
//!
//! `templates/list.sh` is what tells it, and says how it is written. Read back it is a tree manifest, as that of a disk:
//! the same entries are left out ([`Tree::scan`]). Times are those that two machines of one image have in common: after
//! the source date they are the source date, and those of directories always are, for a boot makes names in them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Read;

use super::scan::{VOLATILE, kept};
use super::{Content, Kind, MODE_MASK, Node, NodeId, Survey, Tree, TreeManifest, split};

/// Bytes of a list that is unpacked, at the most.
const LIMIT: u64 = 1 << 30;
/// What unpacking xz may take (xz(1): level 6 takes 9 MiB, level 9 takes 65 MiB).
const XZ_MEMORY_KIB: u32 = 128 << 10;

/// What is on a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    pub tree: TreeManifest,
    pub attributes: Attributes,
}

/// What could be told of extended attributes; machines lack programs for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attributes {
    /// All, by getfattr(1).
    All,
    /// File capabilities, by getcap(8), whose words are the value.
    Capabilities,
    Nothing,
}

/// How a list is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    Gzip,
    Xz,
}

impl Packing {
    /// The one of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "gzip" => Some(Self::Gzip),
            "xz" => Some(Self::Xz),
            _ => None,
        }
    }
}

/// It is no list; why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unreadable(String);

fn unreadable(what: impl Into<String>) -> Unreadable {
    Unreadable(what.into())
}

impl Listing {
    /// Reads a list.
    ///
    /// # Errors
    /// It is none, or not whole.
    pub fn read(packed: &[u8], packing: Packing, source_date: i64) -> Result<Self, Unreadable> {
        let files = unpack(packed, packing)
            .map_err(|error| unreadable(format!("it cannot be unpacked: {error}")))?;
        let file = |name: &str| {
            let bytes = files.get(name).map(Vec::as_slice);
            bytes.ok_or_else(|| unreadable(format!("it has no `{name}`")))
        };
        let head = String::from_utf8_lossy(file("head")?).trim().to_owned();
        let (sums, attributes) = head.split_once(' ').unwrap_or_default();
        let mut records = records(file("names")?)?;
        give_sums(&mut records, sums, file("sums")?)?;
        let devices = devices(file("devices")?)?;
        let mounts = mounts(file("mounts")?);
        let records = in_order(records, &mounts);
        let attributes = match attributes {
            "getfattr" => Attributes::All,
            "getcap" => Attributes::Capabilities,
            "none" => Attributes::Nothing,
            other => return Err(unreadable(format!("it has attributes of `{other}`"))),
        };
        let told = match attributes {
            Attributes::All => all_attributes(file("attributes")?)?,
            Attributes::Capabilities => capabilities(file("attributes")?, &records),
            Attributes::Nothing => BTreeMap::new(),
        };
        let contents = dpkg(file("status")?, file("lists")?);
        let build = Build {
            source_date,
            devices,
            attributes: told,
            contents,
        };
        Ok(Self {
            tree: build.manifest(records)?,
            attributes,
        })
    }
}

fn unpack(packed: &[u8], packing: Packing) -> std::io::Result<BTreeMap<String, Vec<u8>>> {
    let reader: Box<dyn Read + '_> = match packing {
        Packing::Gzip => Box::new(flate2::read::GzDecoder::new(packed)),
        Packing::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(
            packed,
            true,
            XZ_MEMORY_KIB,
        )),
    };
    let mut files = BTreeMap::new();
    crate::untar::files(reader, LIMIT, |name, bytes| {
        files.insert(name, bytes);
        Ok::<_, std::io::Error>(())
    })?;
    Ok(files)
}

/// One name, as find(1) has told it.
#[derive(Debug)]
struct Record {
    path: Vec<u8>,
    kind: u8,
    mode: u32,
    uid: u32,
    gid: u32,
    size: u64,
    mtime: i64,
    /// Device and inode of a file with more than one name.
    link: Option<String>,
    target: Vec<u8>,
    sha256: Option<[u8; 32]>,
}

fn ended_by_nul(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split_inclusive(|byte| *byte == 0).map(|record| {
        let end = record.len() - usize::from(record.ends_with(b"\0"));
        &record[..end]
    })
}

fn records(names: &[u8]) -> Result<Vec<Record>, Unreadable> {
    let mut all: Vec<Record> = Vec::new();
    for text in ended_by_nul(names) {
        if let Some(target) = text.strip_prefix(b">") {
            let link = all.last_mut().filter(|record| record.kind == b'l');
            link.ok_or_else(|| unreadable("a target has no link"))?
                .target = target.to_vec();
        } else {
            let broken = || unreadable(format!("`{}` is no entry", text.escape_ascii()));
            all.push(record(text).ok_or_else(broken)?);
        }
    }
    Ok(all)
}

fn record(text: &[u8]) -> Option<Record> {
    let mut words = text.splitn(8, |byte| *byte == b' ');
    let mut word = || std::str::from_utf8(words.next()?).ok();
    let kind = word()?;
    let mode = u32::from_str_radix(word()?, 8).ok()? & MODE_MASK;
    let (uid, gid) = (word()?.parse().ok()?, word()?.parse().ok()?);
    let (size, mtime) = (word()?.parse().ok()?, word()?.parse().ok()?);
    let link = word()?;
    let path = words.next().filter(|path| is_path(path))?;
    let link = (link != "-").then(|| link.to_owned());
    Some(Record {
        path: path.to_vec(),
        kind: *kind.as_bytes().first()?,
        mode,
        uid,
        gid,
        size,
        mtime,
        link,
        target: Vec::new(),
        sha256: None,
    })
}

/// Whether it is a path below the root that a file system can have, or the root.
fn is_path(path: &[u8]) -> bool {
    let mut names = path.split(|byte| *byte == b'/');
    path.is_empty() || names.all(|name| !matches!(name, b"" | b"." | b".."))
}

/// Gives each regular file its sum, in their order or by their names. One without was gone when it was to be read.
fn give_sums(records: &mut [Record], how: &str, sums: &[u8]) -> Result<(), Unreadable> {
    let sum = |hex: &[u8]| {
        let mut sum = [0; 32];
        let read = hex::decode_to_slice(hex, &mut sum);
        read.map(|()| sum)
            .map_err(|_| unreadable("it has a sum that is none"))
    };
    let files = records.iter_mut().filter(|record| record.kind == b'f');
    match how {
        "plain" => {
            let mut sums = sums.chunks(64);
            for file in files {
                let hex = sums.next().unwrap_or_default();
                file.sha256 = Some(sum(hex)?);
            }
            match sums.next() {
                Some(_) => Err(unreadable("it has more sums than files")),
                None => Ok(()),
            }
        }
        "named" => {
            let mut by_path = HashMap::new();
            for line in ended_by_nul(sums) {
                let (hex, name) = line.split_at_checked(66).unwrap_or_default();
                let hex = hex.get(..64).unwrap_or_default();
                by_path.insert(below(name), sum(hex)?);
            }
            for file in files {
                file.sha256 = by_path.get(file.path.as_slice()).copied();
            }
            Ok(())
        }
        other => Err(unreadable(format!("it has sums of the kind `{other}`"))),
    }
}

/// A path of a program that was told to begin at `.`, as ours.
fn below(path: &[u8]) -> &[u8] {
    match path {
        b"." => b"",
        _ => path.strip_prefix(b"./").unwrap_or(path),
    }
}

fn devices(text: &[u8]) -> Result<HashMap<&[u8], (u32, u32)>, Unreadable> {
    let device = |line| -> Option<(&[u8], (u32, u32))> {
        let mut words = <[u8]>::splitn(line, 3, |byte| *byte == b' ');
        let mut number = || {
            let hex = std::str::from_utf8(words.next()?).ok()?;
            u32::from_str_radix(hex, 16).ok()
        };
        let numbers = (number()?, number()?);
        Some((below(words.next()?), numbers))
    };
    let read = ended_by_nul(text).map(device);
    read.collect::<Option<_>>()
        .ok_or_else(|| unreadable("it has a device that is none"))
}

/// Where something is mounted, but for the root (proc(5): the fifth word, with `\ooo` for blanks and such).
fn mounts(text: &[u8]) -> BTreeSet<Vec<u8>> {
    let lines = text.split(|byte| *byte == b'\n');
    let points = lines.filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
    let paths = points.map(|point| unescaped(point.strip_prefix(b"/").unwrap_or(point)));
    paths.filter(|path| !path.is_empty()).collect()
}

/// Resolves `\ooo`.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, more)) = rest.split_first() {
        let octal = more
            .get(..3)
            .filter(|_| *first == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(byte) => {
                bytes.push(byte);
                rest = &more[3..];
            }
            None => {
                bytes.push(*first);
                rest = more;
            }
        }
    }
    bytes
}

/// The entries that belong to the tree of an image, by their paths: not what is mounted or only there while it runs.
fn in_order(records: Vec<Record>, mounts: &BTreeSet<Vec<u8>>) -> BTreeMap<Vec<u8>, Record> {
    let belongs = |record: &Record| {
        let path = record.path.as_slice();
        let above =
            std::iter::successors(Some(path), |path| (!path.is_empty()).then(|| split(path).0));
        let hidden = above
            .skip(1)
            .any(|path| VOLATILE.contains(&path) || mounts.contains(path));
        let covered = record.kind != b'd' && mounts.contains(path);
        let is_lost = path == b"lost+found" || path.starts_with(b"lost+found/");
        !(hidden || covered || is_lost || record.kind == b'f' && record.sha256.is_none())
    };
    let records = records.into_iter().filter(belongs);
    records
        .map(|record| (record.path.clone(), record))
        .collect()
}

type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;

/// What getfattr(1) has told, by path: a line `# file: PATH`, then lines `NAME=0xHEX`, then an empty one. Names have `\ooo`
/// for what would break them.
fn all_attributes(text: &[u8]) -> Result<BTreeMap<Vec<u8>, Pairs>, Unreadable> {
    let mut all: BTreeMap<Vec<u8>, Pairs> = BTreeMap::new();
    let mut path = Vec::new();
    for line in text.split(|byte| *byte == b'\n') {
        if let Some(name) = line.strip_prefix(b"# file: ") {
            path = below(&unescaped(name)).to_vec();
        } else if !line.is_empty() {
            let equals = line.iter().position(|byte| *byte == b'=');
            let (name, value) = line.split_at(equals.unwrap_or(line.len()));
            let value = match value {
                b"" | b"=" | b"=\"\"" => Vec::new(),
                value => value
                    .strip_prefix(b"=0x")
                    .and_then(|value| hex::decode(value).ok())
                    .ok_or_else(|| unreadable("it has an attribute that is none"))?,
            };
            let name = unescaped(name);
            if kept(&name) {
                all.entry(path.clone()).or_default().insert(name, value);
            }
        }
    }
    Ok(all)
}

/// What getcap(8) has told: lines `PATH CAPABILITIES`, of older versions `PATH = CAPABILITIES`.
fn capabilities(text: &[u8], records: &BTreeMap<Vec<u8>, Record>) -> BTreeMap<Vec<u8>, Pairs> {
    let told = |line: &[u8]| {
        let blanks = line.iter().enumerate().filter(|(_, byte)| **byte == b' ');
        // The longest path that there is: words of capabilities have no slash.
        let (path, words) = blanks.rev().find_map(|(at, _)| {
            let path = below(&line[..at]);
            records
                .contains_key(path)
                .then_some((path, &line[at + 1..]))
        })?;
        let words = words.strip_prefix(b"= ").unwrap_or(words).to_vec();
        Some((
            path.to_vec(),
            [(b"security.capability".to_vec(), words)].into(),
        ))
    };
    text.split(|byte| *byte == b'\n').filter_map(told).collect()
}

/// The files of dpkg's database whose content is needed to tell of packages.
fn dpkg(status: &[u8], lists: &[u8]) -> HashMap<Vec<u8>, Vec<u8>> {
    let mut files = HashMap::from([(super::packages::STATUS.to_vec(), status.to_vec())]);
    let mut parts = ended_by_nul(lists);
    while let (Some(name), Some(content)) = (parts.next(), parts.next()) {
        let path = [super::packages::INFO, b"/", name].concat();
        files.insert(path, content.to_vec());
    }
    files
}

/// What becomes a tree.
struct Build<'a> {
    source_date: i64,
    devices: HashMap<&'a [u8], (u32, u32)>,
    attributes: BTreeMap<Vec<u8>, Pairs>,
    contents: HashMap<Vec<u8>, Vec<u8>>,
}

impl Build<'_> {
    fn manifest(mut self, records: BTreeMap<Vec<u8>, Record>) -> Result<TreeManifest, Unreadable> {
        let mut records = records.into_iter();
        let root = records.next().filter(|(path, _)| path.is_empty());
        let (_, root) = root.ok_or_else(|| unreadable("it has no root directory"))?;
        let sums = |record: &Record| Survey {
            sha256: record.sha256.unwrap_or_default(),
            data: Vec::new(),
        };
        let mut surveys = vec![sums(&root)];
        let root = self.node(root);
        let mut tree = Tree::new(
            root.filter(Node::is_directory)
                .ok_or_else(|| unreadable("its root is no directory"))?,
        );
        let mut linked: HashMap<String, NodeId> = HashMap::new();
        for (path, record) in records {
            let parent = tree.find(split(&path).0);
            if !parent.is_some_and(|id| tree.node(id).is_directory()) {
                // Its directory went away in between, and it with that.
                continue;
            }
            let link = record.link.clone().filter(|_| record.kind != b'd');
            if let Some(id) = link.as_ref().and_then(|link| linked.get(link)) {
                tree.link(&path, *id);
                continue;
            }
            let survey = sums(&record);
            let Some(node) = self.node(record) else {
                continue;
            };
            let id = tree.insert(&path, node);
            surveys.push(survey);
            if let Some(link) = link {
                linked.insert(link, id);
            }
        }
        let text = tree
            .manifest(&surveys)
            .map_err(|error| unreadable(error.to_string()))?;
        TreeManifest::parse(&text).map_err(|error| unreadable(error.to_string()))
    }

    /// `None` for what is no part of a tree.
    fn node(&mut self, record: Record) -> Option<Node> {
        let path = record.path.as_slice();
        let device = || self.devices.get(path).copied();
        let kind = match record.kind {
            b'd' => Kind::Directory,
            b'f' => Kind::File {
                size: record.size,
                content: Content::Bytes(self.contents.remove(path).unwrap_or_default()),
            },
            b'l' => Kind::Symlink {
                target: record.target,
            },
            b'c' => device().map(|(major, minor)| Kind::CharDevice { major, minor })?,
            b'b' => device().map(|(major, minor)| Kind::BlockDevice { major, minor })?,
            b'p' => Kind::Fifo,
            _ => return None,
        };
        let is_directory = matches!(kind, Kind::Directory);
        let mut node = Node::new(kind, record.mode, record.mtime.min(self.source_date));
        if is_directory {
            node.mtime = self.source_date;
        }
        (node.uid, node.gid) = (record.uid, record.gid);
        node.xattrs = self.attributes.remove(path).unwrap_or_default();
        Some(node)
    }
}

#[cfg(test)]
mod tests;
