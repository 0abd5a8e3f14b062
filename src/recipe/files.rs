//! The files of a recipe: bounded, and never outside its directory.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use super::diagnostic::{Diagnostic, Diagnostics, suggest, top_of, visible};
use super::model::Location;
use super::node::Node;

/// The largest recipe, script or template: 1 MiB.
pub const LARGEST_TEXT: u64 = 1 << 20;

/// The largest file or tree to install, and all of a line together: 512 MiB. They are held in memory, and travel through S3; what has no bucket has a
/// limit of its own (`bake`'s bundle).
pub const LARGEST_PAYLOAD: u64 = 512 << 20;

/// The absolute path of a file that a recipe names, after checking that it is a regular file inside the directory of the
/// recipe (symbolic links followed). How large it is shows when it is read.
pub fn beside(node: Node<'_>, dir: &Path, found: &mut Diagnostics) -> Option<PathBuf> {
    let text = node.text(found)?;
    let checked = inside(dir, text).and_then(|path| regular(path, text));
    checked
        .map_err(|(message, help)| found.push(node.diagnostic(message, help)))
        .ok()
}

/// The absolute path of a directory that a recipe names, inside the directory of the recipe.
pub fn directory_beside(node: Node<'_>, dir: &Path, found: &mut Diagnostics) -> Option<PathBuf> {
    let text = node.text(found)?;
    let checked = inside(dir, text).and_then(|path| {
        if path.is_dir() {
            return Ok(path);
        }
        let help = "name a directory; a single file goes with `source`";
        Err((format!("`{text}` is not a directory"), help.to_owned()))
    });
    checked
        .map_err(|(message, help)| found.push(node.diagnostic(message, help)))
        .ok()
}

fn inside(dir: &Path, text: &str) -> Result<PathBuf, (String, String)> {
    let keep_in =
        || "copy the file into the directory of the recipe and name it from there".to_string();
    let relative = Path::new(text);
    if text.is_empty()
        || relative
            .components()
            .any(|part| !matches!(part, Component::Normal(_) | Component::CurDir))
    {
        return Err((format!("`{text}` leads outside the recipe"), keep_in()));
    }
    let path = dir.join(relative);
    let real = match path.canonicalize() {
        Ok(real) => real,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err((
                format!("the file `{text}` does not exist"),
                neighbours(&path),
            ));
        }
        Err(error) => {
            return Err((
                format!("cannot read `{text}`: {error}"),
                "check the path and its permissions".into(),
            ));
        }
    };
    let home = dir.canonicalize().map_err(|error| {
        (
            format!("cannot read the recipe's directory: {error}"),
            keep_in(),
        )
    })?;
    if !real.starts_with(&home) {
        return Err((
            format!("`{text}` is a link that leads outside the recipe"),
            keep_in(),
        ));
    }
    Ok(real)
}

fn regular(real: PathBuf, text: &str) -> Result<PathBuf, (String, String)> {
    let about = real.metadata().map_err(|error| {
        (
            format!("cannot read `{text}`: {error}"),
            "check the path and its permissions".to_owned(),
        )
    })?;
    if !about.is_file() {
        return Err((
            format!("`{text}` is not a regular file"),
            "name a file; a directory goes with `tree`".into(),
        ));
    }
    Ok(real)
}

/// What could be meant by a file that does not exist.
fn neighbours(path: &Path) -> String {
    let wanted = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let mut names: Vec<String> = path
        .parent()
        .and_then(|parent| parent.read_dir().ok())
        .map(|entries| {
            entries
                .flatten()
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .collect()
        })
        .unwrap_or_default();
    names.sort();
    if names.is_empty() {
        return "create it; paths start at the directory of the recipe".into();
    }
    format!(
        "create it, or name one that exists; {}",
        suggest(&wanted, names.iter().map(String::as_str))
    )
}

/// Why a text could not be read.
pub(super) fn unreadable(file: &Path, why: impl std::fmt::Display) -> Diagnostic {
    Diagnostic {
        location: Some(top_of(file)),
        source_line: None,
        message: format!("cannot read {}: {why}", file.display()),
        help: Some("check that it is a readable file".into()),
    }
}

/// Opens a file whose real path this was when it was checked: no link that came in since is followed, at any place of it.
fn open_as_checked(file: &Path) -> io::Result<File> {
    use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
    let how = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(CWD, file, how, Mode::empty(), resolve) {
        // A kernel before 5.6, or a sandbox that does not know the call: at its end at least.
        Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => {
            Ok(rustix::fs::open(file, how | OFlags::NOFOLLOW, Mode::empty())?.into())
        }
        opened => Ok(opened?.into()),
    }
}

/// Reads at most `largest` bytes of a file that [`beside`] or a tree has found.
///
/// # Errors
/// As [`bytes`]; and it is a link now, or lies behind one.
pub fn own_bytes(file: &Path, largest: u64) -> Result<Vec<u8>, Diagnostic> {
    read(file, open_as_checked(file), largest)
}

/// Reads a text of such a file.
///
/// # Errors
/// As [`text`] and [`own_bytes`].
pub fn own_text(file: &Path) -> Result<String, Diagnostic> {
    as_text(file, own_bytes(file, LARGEST_TEXT)?)
}

/// Reads at most `largest` bytes.
///
/// # Errors
/// The file cannot be read or is larger.
pub fn bytes(file: &Path, largest: u64) -> Result<Vec<u8>, Diagnostic> {
    read(file, File::open(file), largest)
}

fn read(file: &Path, opened: io::Result<File>, largest: u64) -> Result<Vec<u8>, Diagnostic> {
    let mut bytes = Vec::new();
    let read = opened.and_then(|open| {
        // A file that says that it is too large is not read.
        if open.metadata()?.len() > largest {
            return Ok(true);
        }
        open.take(largest + 1).read_to_end(&mut bytes)?;
        Ok(bytes.len() as u64 > largest)
    });
    let too_large = read.map_err(|error| unreadable(file, error))?;
    if too_large {
        return Err(Diagnostic {
            location: Some(top_of(file)),
            source_line: None,
            message: format!("{} is larger than {largest} bytes", file.display()),
            help: Some(
                "split it, or fetch the data in a step, with its checksum, or package it".into(),
            ),
        });
    }
    Ok(bytes)
}

/// Reads a UTF-8 text of at most 1 MiB.
///
/// # Errors
/// The file cannot be read, is larger, or is not UTF-8 (then with the place of the first bad byte).
pub fn text(file: &Path) -> Result<String, Diagnostic> {
    as_text(file, bytes(file, LARGEST_TEXT)?)
}

fn as_text(file: &Path, bytes: Vec<u8>) -> Result<String, Diagnostic> {
    String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = good.split(|b| *b == b'\n').count();
        let start = good
            .iter()
            .rposition(|b| *b == b'\n')
            .map_or(0, |at| at + 1);
        let column = String::from_utf8_lossy(&good[start..]).chars().count() + 1;
        let rest = &error.as_bytes()[start..];
        let end = rest.iter().position(|b| *b == b'\n');
        let offending = String::from_utf8_lossy(&rest[..end.unwrap_or(rest.len())]);
        Diagnostic {
            location: Some(Location {
                file: file.to_path_buf(),
                line,
                column,
            }),
            source_line: Some(visible(&offending)),
            message: "this is not UTF-8".into(),
            help: Some("save the file as UTF-8 (`iconv -t UTF-8`)".into()),
        }
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// What was checked is what is read: whoever puts a link there in between gets nothing.
    #[test]
    fn a_link_that_comes_in_after_the_check_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().canonicalize().unwrap().join("recipe");
        std::fs::create_dir_all(home.join("files")).unwrap();
        std::fs::create_dir(home.join("../other")).unwrap();
        std::fs::write(home.join("files/a"), "own").unwrap();
        std::fs::write(home.join("../other/a"), "another's").unwrap();
        let checked = inside(&home, "files/a").unwrap();
        assert_eq!(own_text(&checked).unwrap(), "own");
        // In the place of the file.
        std::fs::remove_file(&checked).unwrap();
        symlink("../../other/a", &checked).unwrap();
        assert!(inside(&home, "files/a").is_err());
        assert_eq!(text(&checked).unwrap(), "another's", "the link leads there");
        let refused = own_text(&checked).unwrap_err();
        assert!(
            refused.message.starts_with("cannot read "),
            "{}",
            refused.message
        );
        // In the place of its directory.
        std::fs::remove_file(&checked).unwrap();
        std::fs::remove_dir(home.join("files")).unwrap();
        symlink("../other", home.join("files")).unwrap();
        assert_eq!(bytes(&checked, 100).unwrap(), b"another's");
        assert!(own_bytes(&checked, 100).is_err());
    }
}
