//! Files of a tar archive that somebody else wrote: no more memory than allowed, whatever the archive says of itself.

use std::io::{self, Read};

/// Hands over the files of an archive, in order: path and content. Reads at most `limit` bytes of it.
///
/// # Errors
/// It is no archive, or a longer one; it has a sparse file, whose holes would take memory and no byte of the archive;
/// and what `take` says.
pub fn files<E: From<io::Error>>(
    archive: impl Read,
    limit: u64,
    mut take: impl FnMut(String, Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    let archive = AtMost {
        inner: archive,
        left: limit,
    };
    for entry in tar::Archive::new(archive).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.to_string_lossy().into_owned();
        if entry.header().entry_type().is_gnu_sparse() {
            return Err(broken(format!("`{}` is sparse", path.escape_debug())).into());
        }
        // The size that it states is not believed: `read_to_end` begins small.
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        take(path, bytes)?;
    }
    Ok(())
}

fn broken(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Fails where [`Read::take`] would end: an archive that is cut between two files looks whole.
struct AtMost<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for AtMost<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        if most == 0 && !buffer.is_empty() {
            return match self.inner.read(&mut [0])? {
                0 => Ok(0),
                _ => Err(broken("it is larger than it can be".to_owned())),
            };
        }
        let length = buffer.len().min(most);
        let read = self.inner.read(&mut buffer[..length])?;
        self.left -= read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, bytes) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            tar.append_data(&mut header, path, *bytes).unwrap();
        }
        tar.into_inner().unwrap()
    }

    fn read(archive: &[u8], limit: u64) -> io::Result<Vec<(String, Vec<u8>)>> {
        let mut found = Vec::new();
        files(archive, limit, |path, bytes| {
            found.push((path, bytes));
            Ok::<_, io::Error>(())
        })?;
        Ok(found)
    }

    #[test]
    fn files_come_in_order_and_a_limit_is_an_error_wherever_it_lies() {
        let whole = archive(&[("a", b"one"), ("b/c", b""), ("a", b"two")]);
        let found = read(&whole, whole.len() as u64).unwrap();
        let names: Vec<&str> = found.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(names, ["a", "b/c", "a"]);
        assert_eq!(found[2].1, b"two");
        for limit in 0..whole.len() as u64 - 1024 {
            assert!(read(&whole, limit).is_err(), "{limit}");
        }
    }

    #[test]
    fn a_file_of_holes_is_refused_before_it_takes_memory() {
        let mut header = tar::Header::new_gnu();
        header.set_path("names").unwrap();
        header.set_entry_type(tar::EntryType::GNUSparse);
        header.set_size(0);
        let gnu = header.as_gnu_mut().unwrap();
        // 8 GiB less one byte, in octal.
        gnu.realsize.copy_from_slice(b"77777777777\0");
        gnu.sparse[0].offset.copy_from_slice(b"77777777777\0");
        gnu.sparse[0].numbytes.copy_from_slice(b"00000000000\0");
        header.set_cksum();
        let mut whole = header.as_bytes().to_vec();
        whole.extend([0; 1024]);
        let error = read(&whole, 1 << 20).unwrap_err();
        assert_eq!(error.to_string(), "`names` is sparse");
    }

    #[test]
    fn a_size_that_lies_is_an_error() {
        let mut whole = archive(&[("a", b"one")]);
        let mut header = tar::Header::new_gnu();
        header.set_path("a").unwrap();
        header.set_size(1 << 40);
        header.set_cksum();
        whole[..512].copy_from_slice(header.as_bytes());
        assert!(read(&whole, 1 << 20).is_err());
    }
}
