//! Contents of files that have been looked at before, so that they need not be read again.
//!
//! Most of an image's files lie in layers that the image before it had too. A file with the inode number, size and
//! times that one had is that one: whoever writes to a file sets its time of change, which nobody can set by hand
//! (inode(7), `st_ctime`). As a clock of the kernel ticks only every few milliseconds, a file that has changed just now
//! could change again at the same time; such a file is not remembered.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use rustix::fs::Statx;
use sha2::{Digest as _, Sha256};

use super::{Content, Kind, Survey, Tree};

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
}

/// What is known of files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    files: HashMap<Stamp, Survey>,
    /// The last ones first.
    order: Vec<Stamp>,
}

/// First bytes of the file; another way of writing it needs another one. What cannot be read is not there: all of it can be
/// found out again.
const MAGIC: &[u8; 8] = b"surveys1";
/// Says which boot of this host it is. After a power cut a file may have its size and its times and not its bytes.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";
/// Files at the most: those of some five whole systems.
const MOST: usize = 100_000;
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
        let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        let file = tempfile::NamedTempFile::new_in(dir)?;
        std::fs::write(file.path(), self.text())?;
        file.persist(path)?;
        Ok(())
    }

    pub(super) fn get(&self, content: &Content) -> Option<&Survey> {
        match content {
            Content::Host(file) => self.files.get(&file.stamp?),
            Content::Bytes(_) => None,
        }
    }

    /// Adds what a tree's survey has told, in which nothing has changed since `began` (seconds since the epoch). What was
    /// seen longest ago is forgotten when it becomes too much.
    pub fn add(&mut self, tree: &Tree, surveys: &[Survey], began: i64) {
        let mut order = Vec::new();
        for (node, survey) in tree.nodes().iter().zip(surveys) {
            let Kind::File {
                content: Content::Host(file),
                ..
            } = &node.kind
            else {
                continue;
            };
            let old = |stamp: &Stamp| stamp.changed.0 < began - FRESH;
            if let Some(stamp) = file.stamp.filter(old) {
                self.files.insert(stamp, survey.clone());
                order.push(stamp);
            }
        }
        let now: std::collections::HashSet<&Stamp> = order.iter().collect();
        let rest = self.order.iter().filter(|stamp| !now.contains(stamp));
        let rest: Vec<Stamp> = rest.copied().collect();
        order.extend(rest);
        for stamp in order.drain(MOST.min(order.len())..) {
            self.files.remove(&stamp);
        }
        self.order = order;
    }

    /// Little-endian: the magic, the SHA-256 of [`BOOT`], then of each file inode, size, seconds and nanoseconds of both times, SHA-256, the number
    /// of runs of data and their starts and ends; the SHA-256 of all of it.
    fn text(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend(boot());
        for stamp in &self.order {
            let survey = &self.files[stamp];
            out.extend(stamp.inode.to_le_bytes());
            out.extend(stamp.size.to_le_bytes());
            for (seconds, nanoseconds) in [stamp.changed, stamp.modified] {
                out.extend(seconds.to_le_bytes());
                out.extend(nanoseconds.to_le_bytes());
            }
            out.extend(survey.sha256);
            out.extend((survey.data.len() as u64).to_le_bytes());
            for run in &survey.data {
                out.extend(run.start.to_le_bytes());
                out.extend(run.end.to_le_bytes());
            }
        }
        let sum = Sha256::digest(&out);
        out.extend(sum);
        out
    }
}

fn boot() -> [u8; 32] {
    Sha256::digest(std::fs::read(BOOT).unwrap_or_default()).into()
}

fn parse(bytes: &[u8]) -> Option<Known> {
    let (mut rest, sum) = bytes.split_last_chunk::<32>()?;
    if Sha256::digest(rest)[..] != sum[..] {
        return None;
    }
    if *take::<8>(&mut rest)? != *MAGIC || *take::<32>(&mut rest)? != boot() {
        return None;
    }
    let mut known = Known::default();
    while !rest.is_empty() {
        let inode = u64::from_le_bytes(*take(&mut rest)?);
        let size = u64::from_le_bytes(*take(&mut rest)?);
        let mut time = || {
            let seconds = i64::from_le_bytes(*take(&mut rest)?);
            Some((seconds, u32::from_le_bytes(*take(&mut rest)?)))
        };
        let stamp = Stamp {
            inode,
            size,
            changed: time()?,
            modified: time()?,
        };
        let sha256 = *take(&mut rest)?;
        let runs = u64::from_le_bytes(*take(&mut rest)?);
        let mut data = Vec::new();
        for _ in 0..runs {
            let start = u64::from_le_bytes(*take(&mut rest)?);
            data.push(start..u64::from_le_bytes(*take(&mut rest)?));
        }
        known.files.insert(stamp, Survey { sha256, data });
        known.order.push(stamp);
    }
    Some(known)
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (first, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(first)
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
        let scan = || Tree::scan(&root, 0).unwrap();
        let tree = scan();
        let surveys = tree.survey().unwrap();
        // They have been written just now: nobody can tell whether they will be again.
        let mut known = Known::default();
        known.add(&tree, &surveys, now());
        assert_eq!(known, Known::default());
        // Ten seconds later.
        known.add(&tree, &surveys, now() + 10);
        known.write(&note).unwrap();
        assert_eq!(Known::read(&note), known);
        assert_eq!(tree.survey_knowing(&known).unwrap(), surveys);

        // It is not read: what is known of it is what counts.
        let mut wrong = known.clone();
        for survey in wrong.files.values_mut() {
            survey.sha256 = [7; 32];
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
        let survey = Survey {
            sha256: [5; 32],
            data: vec![0..1, 2..3],
        };
        for inode in 0..MOST as u64 {
            known.files.insert(of(inode), survey.clone());
            known.order.push(of(inode));
        }
        known.write(&note).unwrap();
        assert_eq!(Known::read(&note), known);
        let text = std::fs::read(&note).unwrap();
        for broken in [&text[..text.len() - 1], &text[1..], b"", b"surveys1"] {
            std::fs::write(&note, broken).unwrap();
            assert_eq!(Known::read(&note), Known::default());
        }
        std::fs::write(directory.path().join("new"), "new").unwrap();
        let tree = Tree::scan(directory.path(), 0).unwrap();
        known.add(&tree, &tree.survey().unwrap(), now() + 10);
        assert_eq!(known.order.len(), MOST);
        assert_eq!(known.files.len(), MOST);
        // "note" and "new" came, two went.
        assert!(!known.files.contains_key(&of(MOST as u64 - 2)));
        assert!(known.files.contains_key(&of(MOST as u64 - 3)));
    }

    impl Stamp {
        fn of(path: &Path) -> Self {
            Self::new(&super::super::scan::stat(path).unwrap())
        }
    }
}
