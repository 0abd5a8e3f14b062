//! What is on a machine and in an image. The first byte says what the rest is:
//!
//! - `L`: the files of a machine's list, each after a line `==NAME`; packed here, because nobody guesses a gzip;
//! - `R` and `X`: such a list as it is sent, packed by gzip and by xz;
//! - `M`: a tree manifest, and `D` two of them, with a line `==` between;
//! - `C`: the archive that a machine in QEMU leaves; `P`: the two lists in it, with a line `==sums` between;
//! - `K`: what was noted of files and blocks, without its head and its sum.

use std::collections::BTreeSet;

use crate::image::compare::compare;
use crate::image::tree::listing::{Listing, Packing};
use crate::image::tree::{ByteString, EntryType, MODE_MASK, TreeManifest, known, split};
use crate::vm::{check, files};

const DATE: i64 = 1_686_355_200;

pub fn run(input: &[u8]) {
    let Some((kind, rest)) = input.split_first() else {
        return;
    };
    match kind {
        b'L' => {
            let packed = pack(&sections(rest)).expect("writing to memory does not fail");
            list(&packed, Packing::Gzip);
        }
        b'R' => list(rest, Packing::Gzip),
        b'X' => list(rest, Packing::Xz),
        b'M' => drop(manifest(&String::from_utf8_lossy(rest))),
        b'D' => {
            let text = String::from_utf8_lossy(rest);
            let (from, to) = text.split_once("\n==\n").unwrap_or((&text, ""));
            if let (Some(from), Some(to)) = (manifest(from), manifest(to)) {
                let _ = compare(&from, &to);
                assert_eq!(compare(&from, &from).files, []);
            }
        }
        b'C' => {
            if let Ok(listing) = files::read(rest) {
                booted(&listing);
            }
        }
        b'P' => {
            let sections = sections(rest);
            let part = |at: usize| sections.get(at).map_or(&[][..], |(_, bytes)| bytes);
            if let Some(listing) = check::Listing::parse(part(0), part(1)) {
                booted(&listing);
            }
        }
        b'K' => {
            if let Some(known) = known::parse(&known::framed(rest)) {
                let text = known.text();
                assert_eq!(known::parse(&text).as_ref(), Some(&known));
                let mut more = known;
                more.add_blocks([]);
                assert_eq!(more.text(), text);
            }
        }
        _ => {}
    }
}

/// Pieces that begin with a line `==NAME`; the first one may be without a name.
fn sections(text: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut found: Vec<(String, Vec<u8>)> = Vec::new();
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        match line.strip_prefix(b"==").filter(|name| name.len() < 40) {
            Some(name) => {
                if let Some((_, before)) = found.last_mut() {
                    // The end of the line belongs to the mark.
                    before.pop_if(|byte| *byte == b'\n');
                }
                let name = String::from_utf8_lossy(name)
                    .trim()
                    .replace(['\0', '/'], "_");
                found.push((name, Vec::new()));
            }
            None => match found.last_mut() {
                Some((_, bytes)) => bytes.extend(line),
                None => found.push((String::new(), line.to_vec())),
            },
        }
    }
    found
}

fn pack(files: &[(String, Vec<u8>)]) -> std::io::Result<Vec<u8>> {
    let gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    let mut tar = tar::Builder::new(gzip);
    for (name, bytes) in files.iter().filter(|(name, _)| !name.is_empty()) {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        // A name that is none (`..`) is left out.
        let _ = tar.append_data(&mut header, name, bytes.as_slice());
    }
    tar.into_inner()?.finish()
}

/// What is read of a machine is a tree: each path once, below a directory, and nothing that leads out of it.
fn list(packed: &[u8], packing: Packing) {
    let Ok(Listing { tree, .. }) = Listing::read(packed, packing, DATE) else {
        return;
    };
    let mut seen = BTreeSet::new();
    let mut directories = BTreeSet::new();
    for (number, entry) in tree.entries.iter().enumerate() {
        let path = entry.path.0.as_slice();
        let (parent, name) = split(path);
        assert_eq!(number == 0, path.is_empty(), "the root comes first");
        assert!(number == 0 || directories.contains(parent), "{entry:?}");
        assert!(number == 0 || !matches!(name, b"" | b"." | b".."));
        assert!(entry.mode & !MODE_MASK == 0 && entry.mtime <= DATE);
        if let Some(first) = &entry.hard_link {
            assert!(seen.contains(first.0.as_slice()), "{entry:?}");
        }
        assert_eq!(entry.kind == EntryType::File, entry.sha256.is_some());
        if entry.kind == EntryType::Directory {
            directories.insert(path);
        }
        assert!(seen.insert(path), "{entry:?}");
    }
    again(&tree);
}

fn manifest(text: &str) -> Option<TreeManifest> {
    let tree = TreeManifest::parse(text).ok()?;
    again(&tree);
    Some(tree)
}

fn again(tree: &TreeManifest) {
    let text = tree.to_text();
    let read = TreeManifest::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(&read, tree, "{text}");
    assert_eq!(read.digest(), tree.digest());
    for entry in &tree.entries {
        let ByteString(path) = &entry.path;
        let shown = entry.path.to_string();
        assert!(!shown.contains(char::is_control), "{path:?}: {shown:?}");
    }
}

/// A tree that has what the checks of a boot look at.
const BOOTED: &str = r#"{"format":"piaas-bake/tree/1","packages":[]}
{"path":"","type":"directory","mode":"0755","uid":0,"gid":0,"mtime":1}
{"path":"a","type":"file","mode":"0644","uid":0,"gid":0,"mtime":1,"size":0,"sha256":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}
{"path":"etc/machine-id","type":"file","mode":"0444","uid":0,"gid":0,"mtime":1,"size":0,"sha256":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}
{"path":"l","type":"symlink","mode":"0777","uid":0,"gid":0,"mtime":1,"target":"a"}
"#;

fn booted(listing: &check::Listing) {
    let tree = TreeManifest::parse(BOOTED).expect("it is a manifest");
    let check = check::files(&tree, listing);
    assert!(!check.detail.is_empty());
    assert!(!check.detail.contains(char::is_control), "{}", check.detail);
}
