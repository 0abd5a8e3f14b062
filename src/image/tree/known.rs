//! Contents of files that have been looked at before, and blocks of disks that have been made of them before, so that
//! they need not be read and made again.
//!
//! Most of an image's files lie in layers that the image before it had too. A file with the inode number, size and
//! times that one had is that one: whoever writes to a file sets its time of change, which nobody can set by hand
//! (inode(7), `st_ctime`). As a clock of the kernel ticks only every few milliseconds, a file that has changed just now
//! could change again at the same time; such a file has no stamp.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::io;
use std::path::Path;

use rustix::fs::Statx;
use sha2::{Digest as _, Sha256};

use super::{Content, Kind, Survey, Tree, Xattrs};

/// By what a file is recognised. Not by its device: that of a mounted overlay is another each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stamp {
    inode: u64,
    size: u64,
    changed: (i64, u32),
    modified: (i64, u32),
}

impl Stamp {
    pub(super) fn new(stat: &Statx) -> Self {
        Self {
            inode: stat.stx_ino,
            size: stat.stx_size,
            changed: (stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec),
            modified: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
        }
    }

    /// Whether a file with it would have another one if it changed again, at this second since the epoch or later.
    pub(super) fn is_settled(&self, now: i64) -> bool {
        self.changed.0 < now - FRESH
    }

    /// Little-endian: inode, size, seconds and nanoseconds of both times.
    pub(crate) fn bytes(&self) -> [u8; 40] {
        let mut out = Vec::with_capacity(40);
        out.extend(self.inode.to_le_bytes());
        out.extend(self.size.to_le_bytes());
        for (seconds, nanoseconds) in [self.changed, self.modified] {
            out.extend(seconds.to_le_bytes());
            out.extend(nanoseconds.to_le_bytes());
        }
        out.try_into()
            .expect("two numbers of 8 bytes and two of 12")
    }

    fn parse(rest: &mut &[u8]) -> Option<Self> {
        let inode = u64::from_le_bytes(*take(rest)?);
        let size = u64::from_le_bytes(*take(rest)?);
        let mut time = || {
            let seconds = i64::from_le_bytes(*take(rest)?);
            Some((seconds, u32::from_le_bytes(*take(rest)?)))
        };
        Some(Self {
            inode,
            size,
            changed: time()?,
            modified: time()?,
        })
    }
}

/// A block of a disk by what it is made of: SHA-256 of its parts, each with its place in the block and where it comes from.
pub(crate) type Made = [u8; 32];

/// What is known of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KnownBlock {
    pub(crate) sha256: [u8; 32],
    /// Bytes of it that are no holes.
    pub(crate) data_bytes: u64,
}

/// What is known of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct KnownFile {
    survey: Survey,
    /// Those that a tree keeps.
    xattrs: Xattrs,
}

/// What is known of files and of blocks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    files: Latest<Stamp, KnownFile>,
    blocks: Latest<Made, KnownBlock>,
}

/// A map that forgets.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Latest<K: Eq + Hash, V> {
    map: HashMap<K, V>,
    /// The last ones first.
    order: Vec<K>,
}

impl<K: Eq + Hash, V> Default for Latest<K, V> {
    fn default() -> Self {
        Self {
            map: HashMap::new(),
            order: Vec::new(),
        }
    }
}

impl<K: Copy + Eq + Hash, V> Latest<K, V> {
    /// Adds what has been seen now; what was seen longest ago goes when there are more than `most`.
    fn add(&mut self, seen: impl IntoIterator<Item = (K, V)>, most: usize) {
        // One may be there twice, as a kernel that lies on two partitions.
        let (mut order, mut now) = (Vec::new(), HashSet::new());
        for (key, value) in seen {
            self.map.insert(key, value);
            if now.insert(key) {
                order.push(key);
            }
        }
        order.extend(self.order.iter().filter(|key| !now.contains(key)));
        for key in order.drain(most.min(order.len())..) {
            self.map.remove(&key);
        }
        self.order = order;
    }

    /// All, the last ones first.
    fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.order.iter().map(|key| (key, &self.map[key]))
    }
}

/// First bytes of the file; another way of writing it needs another one. What cannot be read is not there: all of it can be
/// found out again.
const MAGIC: &[u8; 8] = b"surveys3";
/// Says which boot of this host it is. After a power cut a file may have its size and its times and not its bytes.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";
/// Files at the most: those of some five whole systems.
const MOST: usize = 100_000;
/// Blocks at the most: those of some fifteen whole systems.
const MOST_BLOCKS: usize = 20_000;
/// Seconds for which a changed file counts as just changed.
const FRESH: i64 = 2;

impl Known {
    /// What is noted in a file; nothing if that cannot be read or is not whole.
    #[must_use]
    pub fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap_or_default();
        parse(&bytes).unwrap_or_default()
    }

    /// Notes it in a file, whole or not at all.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        crate::whole::write(path, &self.text())
    }

    pub(super) fn get(&self, content: &Content) -> Option<&Survey> {
        match content {
            Content::Host(file) => Some(&self.files.map.get(&file.stamp?)?.survey),
            Content::Bytes(_) => None,
        }
    }

    /// The attributes of a file: whoever changes one sets its time of change, too.
    pub(super) fn xattrs(&self, stamp: &Stamp) -> Option<&Xattrs> {
        Some(&self.files.map.get(stamp)?.xattrs)
    }

    pub(crate) fn block(&self, made: &Made) -> Option<KnownBlock> {
        self.blocks.map.get(made).copied()
    }

    /// Adds what a tree's survey has told; the tree has not changed since its scan. What was seen longest ago is forgotten
    /// when it becomes too much.
    pub fn add(&mut self, tree: &Tree, surveys: &[Survey]) {
        let seen = tree.nodes().iter().zip(surveys);
        let seen = seen.filter_map(|(node, survey)| match &node.kind {
            Kind::File {
                content: Content::Host(file),
                ..
            } => {
                let known = KnownFile {
                    survey: survey.clone(),
                    xattrs: node.xattrs.clone(),
                };
                Some((file.stamp?, known))
            }
            _ => None,
        });
        self.files.add(seen, MOST);
    }

    /// As [`Self::add`], of the blocks of a disk.
    pub(crate) fn add_blocks(&mut self, made: impl IntoIterator<Item = (Made, KnownBlock)>) {
        self.blocks.add(made, MOST_BLOCKS);
    }

    /// Little-endian: the magic, the SHA-256 of [`BOOT`], the number of files, then of each file its stamp, SHA-256, the number
    /// of runs of data and their starts and ends, the number of attributes and their names and values, each with its
    /// length before it; of each block what it is made of, its SHA-256 and its bytes of data;
    /// the SHA-256 of all of it.
    pub(crate) fn text(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend(boot());
        out.extend((self.files.order.len() as u64).to_le_bytes());
        let number = |out: &mut Vec<u8>, number: usize| out.extend((number as u64).to_le_bytes());
        for (stamp, KnownFile { survey, xattrs }) in self.files.iter() {
            out.extend(stamp.bytes());
            out.extend(survey.sha256);
            number(&mut out, survey.data.len());
            for run in &survey.data {
                out.extend(run.start.to_le_bytes());
                out.extend(run.end.to_le_bytes());
            }
            number(&mut out, xattrs.len());
            for text in xattrs.iter().flat_map(|(name, value)| [name, value]) {
                number(&mut out, text.len());
                out.extend(text);
            }
        }
        for (made, block) in self.blocks.iter() {
            out.extend(made);
            out.extend(block.sha256);
            out.extend(block.data_bytes.to_le_bytes());
        }
        let sum = Sha256::digest(&out);
        out.extend(sum);
        out
    }
}

/// What [`Known::text`] writes with these bytes between its head and its sum.
#[cfg(any(test, feature = "fuzz"))]
pub(crate) fn framed(body: &[u8]) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend(boot());
    out.extend(body);
    let sum = Sha256::digest(&out);
    out.extend(sum);
    out
}

fn boot() -> [u8; 32] {
    Sha256::digest(std::fs::read(BOOT).unwrap_or_default()).into()
}

pub(crate) fn parse(bytes: &[u8]) -> Option<Known> {
    let (mut rest, sum) = bytes.split_last_chunk::<32>()?;
    if Sha256::digest(rest)[..] != sum[..] {
        return None;
    }
    if *take::<8>(&mut rest)? != *MAGIC || *take::<32>(&mut rest)? != boot() {
        return None;
    }
    let mut known = Known::default();
    for _ in 0..u64::from_le_bytes(*take(&mut rest)?) {
        let stamp = Stamp::parse(&mut rest)?;
        let sha256 = *take(&mut rest)?;
        let runs = u64::from_le_bytes(*take(&mut rest)?);
        let mut data = Vec::new();
        for _ in 0..runs {
            let start = u64::from_le_bytes(*take(&mut rest)?);
            data.push(start..u64::from_le_bytes(*take(&mut rest)?));
        }
        let mut xattrs = Xattrs::new();
        for _ in 0..u64::from_le_bytes(*take(&mut rest)?) {
            let name = take_text(&mut rest)?;
            xattrs.insert(name, take_text(&mut rest)?);
        }
        let survey = Survey { sha256, data };
        let file = KnownFile { survey, xattrs };
        if known.files.map.insert(stamp, file).is_some() {
            return None;
        }
        known.files.order.push(stamp);
    }
    while !rest.is_empty() {
        let made = *take(&mut rest)?;
        let block = KnownBlock {
            sha256: *take(&mut rest)?,
            data_bytes: u64::from_le_bytes(*take(&mut rest)?),
        };
        if known.blocks.map.insert(made, block).is_some() {
            return None;
        }
        known.blocks.order.push(made);
    }
    Some(known)
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (first, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(first)
}

fn take_text(rest: &mut &[u8]) -> Option<Vec<u8>> {
    let length = u64::from_le_bytes(*take(rest)?);
    let (text, after) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    *rest = after;
    Some(text.to_vec())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    fn now() -> i64 {
        jiff::Timestamp::now().as_second()
    }

    #[test]
    fn what_has_not_changed_is_not_read_again_and_what_has_is() {
        let directory = tempfile::tempdir().unwrap();
        let (root, note) = (directory.path().join("root"), directory.path().join("note"));
        std::fs::create_dir(&root).unwrap();
        for name in ["a", "b"] {
            std::fs::write(root.join(name), format!("file {name}")).unwrap();
        }
        // They have been written just now: nobody can tell whether they will be again.
        let mut known = Known::default();
        let fresh = Tree::scan(&root, 0).unwrap();
        known.add(&fresh, &fresh.survey().unwrap());
        assert_eq!(known, Known::default());
        // Ten seconds later.
        let scan_knowing = |known: &Known| Tree::scan_at(&root, 0, now() + 10, known).unwrap();
        let scan = || scan_knowing(&Known::default());
        let tree = scan();
        let surveys = tree.survey().unwrap();
        known.add(&tree, &surveys);
        known.write(&note).unwrap();
        assert_eq!(Known::read(&note), known);
        assert_eq!(tree.survey_knowing(&known).unwrap(), surveys);

        // Its attributes are not asked for either.
        let attribute = Xattrs::from([(b"user.a".to_vec(), b"1".to_vec())]);
        let mut wrong = known.clone();
        for file in wrong.files.map.values_mut() {
            file.xattrs.clone_from(&attribute);
        }
        let told = scan_knowing(&wrong);
        let files = told.nodes().iter().filter(|node| !node.is_directory());
        assert!(files.clone().count() == 2 && files.clone().all(|node| node.xattrs == attribute));

        // It is not read: what is known of it is what counts.
        let mut wrong = known.clone();
        for file in wrong.files.map.values_mut() {
            file.survey.sha256 = [7; 32];
        }
        let told = tree.survey_knowing(&wrong).unwrap();
        assert_eq!(
            told.iter().filter(|one| one.sha256 == [7; 32]).count(),
            surveys.iter().filter(|one| one.sha256 != [0; 32]).count()
        );
        // The same number of bytes in the same inode, and its time of modification put back.
        let file = std::fs::File::options()
            .write(true)
            .open(root.join("a"))
            .unwrap();
        let modified = file.metadata().unwrap().modified().unwrap();
        let before = Stamp::of(&root.join("a"));
        while Stamp::of(&root.join("a")).changed == before.changed {
            file.write_all_at(b"FILE", 0).unwrap();
            file.set_modified(modified).unwrap();
        }
        let tree = scan();
        assert_eq!(tree.survey_knowing(&known).unwrap(), tree.survey().unwrap());
        assert_ne!(tree.survey().unwrap(), surveys);
    }

    #[test]
    fn what_is_there_twice_is_nothing() {
        let block = [8; 32 + 32 + 8];
        let none = 0_u64.to_le_bytes();
        let once = framed(&[&none[..], &block].concat());
        assert_eq!(parse(&once).unwrap().text(), once);
        let twice = framed(&[&none[..], &block, &block].concat());
        assert_eq!(parse(&twice), None);
    }

    #[test]
    fn what_is_not_whole_is_nothing_and_the_oldest_goes_first() {
        let directory = tempfile::tempdir().unwrap();
        let note = directory.path().join("note");
        assert_eq!(Known::read(&note), Known::default());
        let mut known = Known::default();
        let of = |inode| Stamp {
            inode,
            size: 3,
            changed: (1, 2),
            modified: (3, 4),
        };
        let file = KnownFile {
            survey: Survey {
                sha256: [5; 32],
                data: vec![0..1, 2..3],
            },
            xattrs: Xattrs::from([
                (b"user.a".to_vec(), b"".to_vec()),
                (b"b".to_vec(), b"1".to_vec()),
            ]),
        };
        for inode in 0..MOST as u64 {
            known.files.map.insert(of(inode), file.clone());
            known.files.order.push(of(inode));
        }
        let block = KnownBlock {
            sha256: [6; 32],
            data_bytes: 4096,
        };
        known.add_blocks([8, 9, 8].map(|made| ([made; 32], block)));
        assert_eq!(known.blocks.order.len(), 2);
        known.write(&note).unwrap();
        assert_eq!(Known::read(&note), known);
        let text = std::fs::read(&note).unwrap();
        for broken in [&text[..text.len() - 1], &text[1..], b"", b"surveys3"] {
            std::fs::write(&note, broken).unwrap();
            assert_eq!(Known::read(&note), Known::default());
        }
        std::fs::write(directory.path().join("new"), "new").unwrap();
        let tree = Tree::scan_at(directory.path(), 0, now() + 10, &Known::default()).unwrap();
        known.add(&tree, &tree.survey().unwrap());
        let Latest { map, order } = &known.files;
        assert_eq!((order.len(), map.len()), (MOST, MOST));
        // "note" and "new" came, two went.
        assert!(!map.contains_key(&of(MOST as u64 - 2)));
        assert!(map.contains_key(&of(MOST as u64 - 3)));
        assert_eq!(known.block(&[9; 32]), Some(block));
    }

    impl Stamp {
        fn of(path: &Path) -> Self {
            Self::new(&super::super::scan::stat(path).unwrap())
        }
    }
}
