//! Archives of the kind `.tar.gz` that come out the same for the same files: nobody's, and of no time.

use std::io;

use flate2::Compression;

/// Packs files into `to`: path, permission bits and content, in this order. Gives `to` back.
///
/// # Errors
/// Those of `to`, and a path that is absolute or leads up.
pub fn write<'f, W: io::Write>(
    to: W,
    level: Compression,
    files: impl IntoIterator<Item = (String, u32, &'f [u8])>,
) -> io::Result<W> {
    let gzip = flate2::GzBuilder::new().mtime(0).write(to, level);
    let mut tar = tar::Builder::new(gzip);
    for (path, mode, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(mode);
        header.set_size(bytes.len() as u64);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        tar.append_data(&mut header, path, bytes)?;
    }
    tar.into_inner()?.finish()
}
