//! One number for a whole tree.

use std::fs::File;
use std::io::Read;
use std::ops::Range;

use sha2::{Digest, Sha256};

use super::super::{ImageError, Result};
use super::{Content, Kind, Known, Tree};
use crate::parallel;

/// Bytes read at a time.
const CHUNK: usize = 1 << 20;

/// Bytes of a file in which zeros are looked for: a block of a file system, a page of the host.
const PAGE: usize = 4096;

/// What one look at a regular file's content tells; of other nodes, nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Survey {
    pub sha256: [u8; 32],
    /// Runs of bytes that are not zeros, cut at multiples of 4 KiB and at the end.
    pub data: Vec<Range<u64>>,
}

impl Tree {
    /// The digest of everything in the tree: names, kinds, owners, modes, times, attributes, links and contents. It is
    /// the SHA-256 of [`Tree::manifest`].
    ///
    /// # Errors
    /// A file could not be read or has changed since the scan.
    pub fn digest(&self) -> Result<[u8; 32]> {
        Ok(Sha256::digest(self.manifest(&self.survey()?)?).into())
    }

    /// Reads every file once, on all cores; by node.
    ///
    /// # Errors
    /// As [`Tree::digest`].
    pub fn survey(&self) -> Result<Vec<Survey>> {
        self.survey_knowing(&Known::default())
    }

    /// As [`Tree::survey`], but reads no file of which this is known already.
    ///
    /// # Errors
    /// As [`Tree::digest`].
    pub fn survey_knowing(&self, known: &Known) -> Result<Vec<Survey>> {
        let nodes = self.nodes();
        // The largest first: one that comes last would leave the other cores without work.
        let mut order: Vec<usize> = (0..nodes.len()).collect();
        order.sort_by_key(|index| std::cmp::Reverse(nodes[*index].size()));
        let surveys = parallel::map_with(
            &order,
            || vec![0; CHUNK],
            |buffer, index| match &nodes[*index].kind {
                Kind::File { size, content } => match known.get(content) {
                    Some(told) => Ok(told.clone()),
                    None => survey(*size, content, buffer),
                },
                _ => Ok(Survey::default()),
            },
        );
        let mut by_node = vec![Survey::default(); nodes.len()];
        for (index, survey) in order.into_iter().zip(surveys) {
            by_node[index] = survey?;
        }
        Ok(by_node)
    }
}

fn survey(size: u64, content: &Content, buffer: &mut [u8]) -> Result<Survey> {
    let (mut hash, mut offset) = (Sha256::new(), 0);
    let mut data: Vec<Range<u64>> = Vec::new();
    content.read(size, buffer, |bytes| {
        hash.update(bytes);
        for run in data_runs(bytes) {
            let run = offset + run.start as u64..offset + run.end as u64;
            match data.last_mut() {
                Some(last) if last.end == run.start => last.end = run.end,
                _ => data.push(run),
            }
        }
        offset += bytes.len() as u64;
        Ok(())
    })?;
    Ok(Survey {
        sha256: hash.finalize().into(),
        data,
    })
}

/// A page as it reads where nothing was written.
static ZEROS: [u8; PAGE] = [0; PAGE];

/// Byte ranges of `bytes`, cut at multiples of 4 KiB, that are not all zeros.
pub(crate) fn data_runs(bytes: &[u8]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (index, page) in bytes.chunks(PAGE).enumerate() {
        if *page == ZEROS[..page.len()] {
            continue;
        }
        let start = index * PAGE;
        match runs.last_mut() {
            Some(last) if last.end == start => last.end = start + page.len(),
            _ => runs.push(start..start + page.len()),
        }
    }
    runs
}

impl Content {
    /// All of a small file.
    ///
    /// # Errors
    /// As [`Content::read`].
    pub(crate) fn whole(&self, size: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.read(size, &mut [0; PAGE], |piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        })?;
        Ok(bytes)
    }

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
            Self::Host(file) => &file.path,
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

#[cfg(test)]
mod tests {
    use super::super::Node;
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

    /// A known answer: it may change only with [`super::super::FORMAT`].
    #[test]
    fn the_digest_is_stable() {
        let digest = hex::encode(sample().digest().unwrap());
        assert_eq!(
            digest,
            "a9d4d631602fa5149ea5fe2fb9b9df152e2d8835317f21b1718144330e953a5f"
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
    fn pages_of_zeros_are_no_data() {
        let mut bytes = vec![0; 5 * PAGE + 10];
        bytes[PAGE] = 1;
        bytes[3 * PAGE - 1] = 1;
        bytes[5 * PAGE + 9] = 1;
        let data = [PAGE..3 * PAGE, 5 * PAGE..5 * PAGE + 10];
        assert_eq!(data_runs(&bytes), data);
        assert!(data_runs(&[0; 3 * PAGE]).is_empty());
        // Runs go on from one piece of a file to the next.
        let content = Content::Bytes(bytes);
        let told = survey(5 * PAGE as u64 + 10, &content, &mut vec![0; 2 * PAGE]).unwrap();
        assert_eq!(told.data, data.map(|run| run.start as u64..run.end as u64));
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
