//! Files that are whole or not there.

use std::io::{self, Write as _};
use std::path::Path;

/// Writes a file so that a reader sees the old bytes or the new ones, whatever becomes of this process.
///
/// # Errors
/// The file system refuses.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(bytes)?;
    file.persist(path)?;
    Ok(())
}
