//! Directories that a recipe installs: walked once, bounded, in one order, and closed in themselves.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::files;
use super::model::{TreeEntry, TreeKind};

/// The most files, directories and links in one tree.
const MOST_ENTRIES: usize = 4096;
/// Directories inside each other.
const DEEPEST: usize = 32;

/// What is wrong, and a way out.
type Wrong = (String, String);

/// What is below `root`, sorted by path. A symbolic link is kept; it must be relative and lead to something in the tree.
///
/// # Errors
/// Something that is not a file, a directory or such a link; a name that is not plain text; more than
/// [`files::LARGEST_PAYLOAD`] bytes, 4096 entries or 32 levels; what cannot be read.
pub fn walk(root: &Path) -> Result<Vec<TreeEntry>, Wrong> {
    let mut walk = Walk::default();
    walk.directory(root, "", 0)?;
    let mut entries = walk.entries;
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    for entry in &entries {
        if let TreeKind::Link { target } = &entry.kind {
            check_link(root, &entry.path, target)?;
        }
    }
    if entries.is_empty() {
        return Err((
            "the directory is empty".into(),
            "put something in it; git does not keep empty directories".into(),
        ));
    }
    Ok(entries)
}

#[derive(Default)]
struct Walk {
    entries: Vec<TreeEntry>,
    bytes: u64,
}

impl Walk {
    /// `path` is the place below the root, with a slash at its end unless it is the root.
    fn directory(&mut self, dir: &Path, path: &str, depth: usize) -> Result<(), Wrong> {
        if depth > DEEPEST {
            return Err((
                format!("`{path}` is more than {DEEPEST} directories deep"),
                "pack the tree, and unpack it in a step".into(),
            ));
        }
        let unreadable = |place: &Path, error: std::io::Error| {
            (
                format!("cannot read {}: {error}", place.display()),
                "check its permissions".to_owned(),
            )
        };
        for entry in fs::read_dir(dir).map_err(|error| unreadable(dir, error))? {
            let entry = entry.map_err(|error| unreadable(dir, error))?;
            let place = entry.path();
            let name = entry.file_name().into_string().ok();
            let Some(name) = name.filter(|name| !name.contains(char::is_control)) else {
                return Err((
                    format!("{} has a name that is not plain text", place.display()),
                    "rename it: UTF-8, without control characters".into(),
                ));
            };
            let path = format!("{path}{name}");
            if self.entries.len() >= MOST_ENTRIES {
                return Err((
                    format!("there are more than {MOST_ENTRIES} entries in it"),
                    "pack the tree, and unpack it in a step".into(),
                ));
            }
            let about = entry
                .metadata()
                .map_err(|error| unreadable(&place, error))?;
            let kind = if about.is_dir() {
                self.directory(&place, &format!("{path}/"), depth + 1)?;
                TreeKind::Directory
            } else if about.is_file() {
                self.bytes += about.len();
                if self.bytes > files::LARGEST_PAYLOAD {
                    return Err((
                        format!(
                            "the files in it have more than {} bytes",
                            files::LARGEST_PAYLOAD
                        ),
                        "fetch large files in a step, with their checksum, or package them".into(),
                    ));
                }
                TreeKind::File {
                    source: place,
                    executable: about.permissions().mode() & 0o111 != 0,
                }
            } else if about.is_symlink() {
                let target = fs::read_link(&place).map_err(|error| unreadable(&place, error))?;
                let target = target.into_os_string().into_string().map_err(|_| {
                    (
                        format!("the link `{path}` leads to a name that is not UTF-8"),
                        "remove it".to_owned(),
                    )
                })?;
                TreeKind::Link { target }
            } else {
                return Err((
                    format!("`{path}` is {}", special(about.file_type())),
                    "a tree holds files, directories and links; make this one in a step".into(),
                ));
            };
            self.entries.push(TreeEntry { path, kind });
        }
        Ok(())
    }
}

fn special(kind: fs::FileType) -> &'static str {
    if kind.is_socket() {
        "a socket"
    } else if kind.is_fifo() {
        "a named pipe"
    } else {
        "a device"
    }
}

/// A link may go up and then down, never above the root. The walk follows no link, so the directory that a link is in
/// is as deep as its path says.
fn check_link(root: &Path, path: &str, target: &str) -> Result<(), Wrong> {
    let parts: Vec<&str> = target.split('/').collect();
    let up = parts.iter().take_while(|part| **part == "..").count();
    let outside = target.starts_with('/')
        || up > path.matches('/').count()
        || parts[up..].contains(&"..")
        || target.contains(char::is_control);
    if outside {
        return Err((
            format!("the link `{path}` leads outside the tree, to `{target}`"),
            "make it relative and keep it inside, or make the link in a step".into(),
        ));
    }
    let real: Option<PathBuf> = root.join(path).canonicalize().ok();
    if real.is_none_or(|real| !real.starts_with(root)) {
        return Err((
            format!("the link `{path}` leads nowhere: `{target}` is not in the tree, or a loop"),
            "correct it, or make the link in a step".into(),
        ));
    }
    Ok(())
}
