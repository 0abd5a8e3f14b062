//! The tree manifest: everything that a tree is, but for the bytes of its files.
//!
//! It is JSON, one object a line. The first line is a header, `{"format":"piaas-bake/tree/1","packages":[…]}`, with the
//! packages that dpkg has installed. Each further line is an [`Entry`], one for each path, in the order of
//! [`Tree::names`]. One tree has one manifest, to the byte; its SHA-256 is the tree's digest.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use super::super::Result;
use super::packages::{self, Package};
use super::{Kind, Survey, Tree};
use crate::parallel;

/// Name and version of the format. Another way of writing it needs another one.
pub const FORMAT: &str = "piaas-bake/tree/1";

/// A tree manifest that was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TreeManifest {
    /// Sorted by name and architecture.
    pub packages: Vec<Package>,
    /// Sorted by path, the root first.
    pub entries: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    format: String,
    packages: Vec<Package>,
}

/// Bytes that nearly always are text. As JSON a string, or a list of numbers where they are not UTF-8.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteString(pub Vec<u8>);

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Relative to the root, which is the empty path.
    pub path: ByteString,
    #[serde(rename = "type")]
    pub kind: EntryType,
    /// Low 12 bits of `st_mode`; in the text four octal digits.
    #[serde(serialize_with = "to_octal", deserialize_with = "from_octal")]
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds since the epoch.
    pub mtime: i64,
    /// Bytes of a regular file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// SHA-256 of a regular file's content, in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// What a symbolic link says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<ByteString>,
    /// Major and minor number of a device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<(u32, u32)>,
    /// Full names and values of the extended attributes, sorted by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub xattrs: Vec<(ByteString, ByteString)>,
    /// The first path of the same inode, if this is a further one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hard_link: Option<ByteString>,
    /// The package that owns the path, as dpkg names its lists: `jq` or `libc6:amd64`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package: Option<ByteString>,
}

/// Types of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EntryType {
    Directory,
    File,
    Symlink,
    CharDevice,
    BlockDevice,
    Fifo,
}

impl TreeManifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// It is none, or of another format.
    pub fn parse(text: &str) -> serde_json::Result<Self> {
        let mut lines = text.lines();
        let header: Header = serde_json::from_str(lines.next().unwrap_or_default())?;
        if header.format != FORMAT {
            let other = format!("its format is `{}`, not `{FORMAT}`", header.format);
            return Err(serde::de::Error::custom(other));
        }
        let lines: Vec<&str> = lines.collect();
        let entries = parallel::map_small(&lines, |line| serde_json::from_str(line));
        Ok(Self {
            packages: header.packages,
            entries: entries.into_iter().collect::<serde_json::Result<_>>()?,
        })
    }

    /// The manifest as text.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = Vec::new();
        line(
            &mut text,
            &Header {
                format: FORMAT.to_owned(),
                packages: self.packages.clone(),
            },
        );
        for entry in &self.entries {
            line(&mut text, entry);
        }
        String::from_utf8(text).expect("JSON is UTF-8")
    }

    /// SHA-256 of the text, in hex: the digest of the tree that it is of.
    #[must_use]
    pub fn digest(&self) -> String {
        hex::encode(Sha256::digest(self.to_text()))
    }
}

impl Tree {
    /// The manifest of the tree, with what [`Tree::survey`] has told of the contents, by node.
    ///
    /// # Errors
    /// dpkg's database in the tree could not be read.
    pub fn manifest(&self, contents: &[Survey]) -> Result<String> {
        let owners = packages::owners(self)?;
        let header = Header {
            format: FORMAT.to_owned(),
            packages: packages::installed(self)?,
        };
        let mut text = Vec::new();
        line(&mut text, &header);
        let mut first_name: Vec<Option<&[u8]>> = vec![None; self.nodes().len()];
        for (path, id) in self.names() {
            let mut entry = self.entry(path, id.0, &contents[id.0]);
            entry.hard_link = first_name[id.0].map(ByteString::from);
            entry.package = owners.get(path).cloned().flatten().map(ByteString);
            line(&mut text, &entry);
            first_name[id.0].get_or_insert(path);
        }
        Ok(String::from_utf8(text).expect("JSON is UTF-8"))
    }

    fn entry(&self, path: &[u8], node: usize, content: &Survey) -> Entry {
        let node = &self.nodes()[node];
        let (mut size, mut sha256, mut target, mut device) = (None, None, None, None);
        let kind = match &node.kind {
            Kind::Directory => EntryType::Directory,
            Kind::Fifo => EntryType::Fifo,
            Kind::File { size: bytes, .. } => {
                size = Some(*bytes);
                sha256 = Some(hex::encode(content.sha256));
                EntryType::File
            }
            Kind::Symlink { target: to } => {
                target = Some(to.as_slice().into());
                EntryType::Symlink
            }
            Kind::CharDevice { major, minor } => {
                device = Some((*major, *minor));
                EntryType::CharDevice
            }
            Kind::BlockDevice { major, minor } => {
                device = Some((*major, *minor));
                EntryType::BlockDevice
            }
        };
        let pairs = |all: &BTreeMap<Vec<u8>, Vec<u8>>| {
            let pairs = all.iter();
            let pairs =
                pairs.map(|(name, value)| (name.as_slice().into(), value.as_slice().into()));
            pairs.collect()
        };
        Entry {
            path: path.into(),
            kind,
            mode: node.mode,
            uid: node.uid,
            gid: node.gid,
            mtime: node.mtime,
            size,
            sha256,
            target,
            device,
            xattrs: pairs(&node.xattrs),
            hard_link: None,
            package: None,
        }
    }
}

fn line(text: &mut Vec<u8>, value: &impl Serialize) {
    serde_json::to_writer(&mut *text, value).expect("it holds texts, numbers and lists");
    text.push(b'\n');
}

impl From<&[u8]> for ByteString {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

/// For people: what would act on a terminal, and what is no text, is escaped.
impl std::fmt::Display for ByteString {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for one in chunk.valid().chars() {
                if one.is_control() || one == '\\' {
                    write!(f, "{}", one.escape_default())?;
                } else {
                    write!(f, "{one}")?;
                }
            }
            write!(f, "{}", chunk.invalid().escape_ascii())?;
        }
        Ok(())
    }
}

impl Serialize for ByteString {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => serializer.collect_seq(&self.0),
        }
    }
}

impl<'de> Deserialize<'de> for ByteString {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Text(String),
            Bytes(Vec<u8>),
        }
        Ok(Self(match Either::deserialize(deserializer)? {
            Either::Text(text) => text.into_bytes(),
            Either::Bytes(bytes) => bytes,
        }))
    }
}

fn to_octal<S: Serializer>(mode: &u32, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{mode:04o}"))
}

fn from_octal<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<u32, D::Error> {
    let text = String::deserialize(deserializer)?;
    u32::from_str_radix(&text, 8).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::super::Node;
    use super::*;

    #[test]
    fn it_has_a_line_for_each_path_and_reads_back() {
        let mut tree = Tree::new(Node::directory(0o755, 1));
        let mut tool = Node::file("text", 0o4755, 2);
        tool.uid = 7;
        tool.xattrs = BTreeMap::from([(b"user.a".to_vec(), vec![1, 255])]);
        for path in ["a", "var", "var/lib", "var/lib/dpkg", "var/lib/dpkg/info"] {
            tree.insert(path.as_bytes(), Node::directory(0o755, 1));
        }
        let id = tree.insert(b"a/tool", tool);
        tree.link(b"b\xff", id);
        let target = b"a/t\"ool".to_vec();
        tree.insert(b"c", Node::new(Kind::Symlink { target }, 0o777, 3));
        let device = Kind::CharDevice { major: 1, minor: 3 };
        tree.insert(b"null", Node::new(device, 0o666, 3));
        let list = Node::file("/.\n/a\n/a/tool\n", 0o644, 4);
        tree.insert(b"var/lib/dpkg/info/tool:amd64.list", list);
        let status =
            "Package: tool\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1-2\n";
        tree.insert(b"var/lib/dpkg/status", Node::file(status, 0o644, 4));

        let text = tree.manifest(&tree.survey().unwrap()).unwrap();
        let sum = "982d9e3eb996f559e633f4d194def3761d909f5a3b647d1a851fead67c32c9d1";
        let file = format!(
            "\"type\":\"file\",\"mode\":\"4755\",\"uid\":7,\"gid\":0,\"mtime\":2,\"size\":4,\"sha256\":\"{sum}\",\
             \"xattrs\":[[\"user.a\",[1,255]]]"
        );
        let head = [
            r#"{"format":"piaas-bake/tree/1","packages":[{"name":"tool","architecture":"amd64","version":"1-2"}]}"#,
            r#"{"path":"","type":"directory","mode":"0755","uid":0,"gid":0,"mtime":1}"#,
            r#"{"path":"a","type":"directory","mode":"0755","uid":0,"gid":0,"mtime":1,"package":"tool:amd64"}"#,
            &format!("{{\"path\":\"a/tool\",{file},\"package\":\"tool:amd64\"}}"),
            &format!("{{\"path\":[98,255],{file},\"hard_link\":\"a/tool\"}}"),
            r#"{"path":"c","type":"symlink","mode":"0777","uid":0,"gid":0,"mtime":3,"target":"a/t\"ool"}"#,
            r#"{"path":"null","type":"char-device","mode":"0666","uid":0,"gid":0,"mtime":3,"device":[1,3]}"#,
        ];
        assert_eq!(text.lines().take(head.len()).collect::<Vec<_>>(), head);

        let read = TreeManifest::parse(&text).unwrap();
        assert_eq!(read.packages[0].version, "1-2");
        assert_eq!(read.entries.len(), tree.names().count());
        assert_eq!(read.to_text(), text);
        assert_eq!(read.digest(), hex::encode(tree.digest().unwrap()));
    }

    #[test]
    fn another_format_is_not_read() {
        let error = TreeManifest::parse("{\"format\":\"x/2\",\"packages\":[]}\n").unwrap_err();
        assert!(
            error.to_string().starts_with("its format is `x/2`"),
            "{error}"
        );
        assert!(TreeManifest::parse("").is_err());
    }

    #[test]
    fn names_are_shown_without_what_acts_on_a_terminal() {
        let name = ByteString("a\u{1b}[2J\n\\\u{e9}".bytes().chain([0xff]).collect());
        assert_eq!(name.to_string(), "a\\u{1b}[2J\\n\\\\\u{e9}\\xff");
    }
}
