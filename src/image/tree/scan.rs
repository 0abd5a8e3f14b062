//! Reading a directory of this host into a tree.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Statx, StatxAttributes, StatxFlags};

use super::super::{ImageError, Result};
use super::{Content, HostFile, Kind, Known, MODE_MASK, Node, NodeId, Stamp, Tree, Xattrs};
use crate::parallel;

/// Directories at the root that are filled anew at every boot: kept, but empty.
pub(super) const VOLATILE: [&[u8]; 4] = [b"dev", b"proc", b"run", b"sys"];

/// Directories that a booting system mounts on or writes to before anything could make them.
const STANDARD: [(&[u8], u32); 5] = [
    (b"dev", 0o755),
    (b"proc", 0o555),
    (b"run", 0o755),
    (b"sys", 0o555),
    (b"tmp", 0o1777),
];

impl Tree {
    /// Reads the tree below `root`, following no symlink and entering no other mount. File contents are not read.
    ///
    /// Left out: sockets, the contents of `/dev`, `/proc`, `/run` and `/sys`, a `/lost+found`, and extended
    /// attributes that belong to this host (`trusted.*`, overlayfs, `SELinux`). Times after `source_date` (seconds
    /// since the epoch) become `source_date`.
    ///
    /// # Errors
    /// Something could not be read, or a file is covered by a mount.
    pub fn scan(root: &Path, source_date: i64) -> Result<Self> {
        Self::scan_knowing(root, source_date, &Known::default())
    }

    /// As [`Self::scan`], but does not ask for the attributes of files of which they are known already.
    ///
    /// # Errors
    /// As [`Self::scan`].
    pub fn scan_knowing(root: &Path, source_date: i64, known: &Known) -> Result<Self> {
        let now = jiff::Timestamp::now().as_second();
        Self::scan_at(root, source_date, now, known)
    }

    /// At this time of this host's clock: files that have changed just now are not recognised later.
    pub(crate) fn scan_at(root: &Path, source_date: i64, now: i64, known: &Known) -> Result<Self> {
        let way = Way {
            source_date,
            now,
            known,
        };
        let stat = stat(root)?;
        if FileType::from_raw_mode(stat.stx_mode.into()) != FileType::Directory {
            let error = std::io::Error::from(std::io::ErrorKind::NotADirectory);
            return Err(ImageError::io("list", root)(error));
        }
        let top = node(&stat, Kind::Directory, xattrs(root, root)?, source_date);
        let mut scan = Scan {
            listed: list_all(root, way)?,
            tree: Self::new(top),
            linked: HashMap::new(),
        };
        scan.directory(b"");
        for (path, mode) in STANDARD {
            if scan.tree.find(path).is_none() {
                scan.tree.insert(path, Node::directory(mode, source_date));
            }
        }
        Ok(scan.tree)
    }
}

/// How a tree is looked at.
#[derive(Clone, Copy)]
struct Way<'k> {
    /// Seconds since the epoch.
    source_date: i64,
    /// Seconds since the epoch.
    now: i64,
    known: &'k Known,
}

/// What a directory has: of a name what is there, and what tells whether it has another name, too.
struct Found {
    path: Vec<u8>,
    node: Node,
    /// Device and inode of a file with more than one name.
    link: Option<(u32, u32, u64)>,
    /// It is a directory that is to be listed.
    enter: bool,
}

/// Lists all directories, on all cores, level by level; by their paths.
fn list_all(root: &Path, way: Way<'_>) -> Result<HashMap<Vec<u8>, Vec<Found>>> {
    let mut all = HashMap::new();
    let mut level = vec![Vec::new()];
    while !level.is_empty() {
        let lists = parallel::map(&level, |path: &Vec<u8>| list(root, path, way));
        let mut below = Vec::new();
        for (path, found) in level.into_iter().zip(lists) {
            let found = found?;
            let directories = found.iter().filter(|found| found.enter);
            below.extend(directories.map(|found| found.path.clone()));
            all.insert(path, found);
        }
        level = below;
    }
    Ok(all)
}

/// What is in the directory that is `path` in the tree, sorted by name.
fn list(root: &Path, path: &[u8], way: Way<'_>) -> Result<Vec<Found>> {
    let host = root.join(OsStr::from_bytes(path));
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&host).map_err(ImageError::io("list", &host))? {
        let entry = entry.map_err(ImageError::io("list", &host))?;
        names.push(entry.file_name().into_vec());
    }
    names.sort_unstable();
    let opened = File::open(&host).map_err(ImageError::io("list", &host))?;
    let mut all = Vec::new();
    for name in names {
        if path.is_empty() && name == b"lost+found" {
            continue;
        }
        let child = if path.is_empty() {
            name.clone()
        } else {
            [path, b"/", &name].concat()
        };
        let name = OsStr::from_bytes(&name);
        let place = Place {
            directory: &opened,
            name,
            host: host.join(name),
        };
        all.extend(look(place, child, way)?);
    }
    Ok(all)
}

/// A path of this host. Looked at by way of its directory: the way there is long, and goes through an overlay.
struct Place<'d> {
    directory: &'d File,
    name: &'d OsStr,
    host: PathBuf,
}

impl Place<'_> {
    /// The same by a path that is short, for what takes no directory.
    fn short(&self) -> PathBuf {
        let directory = format!("/proc/self/fd/{}", self.directory.as_raw_fd());
        Path::new(&directory).join(self.name)
    }
}

/// What is at a path; `None` for what has no place in a tree.
fn look(place: Place<'_>, path: Vec<u8>, way: Way<'_>) -> Result<Option<Found>> {
    let stat = stat_at(place.directory, place.name, &place.host)?;
    let file_type = FileType::from_raw_mode(stat.stx_mode.into());
    let mounted = stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
    if mounted && file_type != FileType::Directory {
        return Err(ImageError::Mounted { path: place.host });
    }
    let (major, minor) = (stat.stx_rdev_major, stat.stx_rdev_minor);
    let stamp = Stamp::new(&stat);
    let known = match file_type {
        FileType::RegularFile => way.known.xattrs(&stamp).cloned(),
        _ => None,
    };
    let attributes = match known {
        Some(known) => known,
        None => xattrs(&place.short(), &place.host)?,
    };
    let kind = match file_type {
        FileType::Directory => Kind::Directory,
        FileType::RegularFile => Kind::File {
            size: stat.stx_size,
            content: Content::Host(HostFile {
                path: place.host,
                stamp: Some(stamp).filter(|stamp| stamp.is_settled(way.now)),
            }),
        },
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(place.directory, place.name, Vec::new())
                .map_err(|error| ImageError::io("read", &place.host)(error.into()))?;
            Kind::Symlink {
                target: target.into_bytes(),
            }
        }
        FileType::CharacterDevice => Kind::CharDevice { major, minor },
        FileType::BlockDevice => Kind::BlockDevice { major, minor },
        FileType::Fifo => Kind::Fifo,
        _ => return Ok(None),
    };
    let node = node(&stat, kind, attributes, way.source_date);
    let directory = node.is_directory();
    Ok(Some(Found {
        enter: directory && !mounted && !VOLATILE.contains(&path.as_slice()),
        link: (!directory && stat.stx_nlink > 1).then_some((
            stat.stx_dev_major,
            stat.stx_dev_minor,
            stat.stx_ino,
        )),
        path,
        node,
    }))
}

struct Scan {
    listed: HashMap<Vec<u8>, Vec<Found>>,
    tree: Tree,
    /// Files with more than one name, by device and inode.
    linked: HashMap<(u32, u32, u64), NodeId>,
}

impl Scan {
    /// Adds what is in a directory, and below it.
    fn directory(&mut self, path: &[u8]) {
        for found in self.listed.remove(path).unwrap_or_default() {
            let known = found.link.and_then(|link| self.linked.get(&link));
            if let Some(id) = known {
                self.tree.link(&found.path, *id);
                continue;
            }
            let id = self.tree.insert(&found.path, found.node);
            if let Some(link) = found.link {
                self.linked.insert(link, id);
            }
            if found.enter {
                self.directory(&found.path);
            }
        }
    }
}

pub(super) fn stat(host: &Path) -> Result<Statx> {
    stat_at(rustix::fs::CWD, host.as_os_str(), host)
}

fn stat_at(directory: impl AsFd, name: &OsStr, host: &Path) -> Result<Statx> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    rustix::fs::statx(directory, name, flags, StatxFlags::BASIC_STATS)
        .map_err(|error| ImageError::io("read", host)(error.into()))
}

fn node(stat: &Statx, kind: Kind, xattrs: Xattrs, source_date: i64) -> Node {
    Node {
        kind,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        mode: u32::from(stat.stx_mode) & MODE_MASK,
        mtime: stat.stx_mtime.tv_sec.min(source_date),
        xattrs,
    }
}

/// Whether an attribute belongs to the file and not to the host it lies on.
pub(super) fn kept(name: &[u8]) -> bool {
    match name {
        b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default" => true,
        _ => name.starts_with(b"user.") && !name.starts_with(b"user.overlay"),
    }
}

/// The attributes to keep of what is at `path`, in messages `host`; none where the host's file system has no such thing.
fn xattrs(path: &Path, host: &Path) -> Result<Xattrs> {
    use rustix::fs::{lgetxattr, lgetxattr_query, llistxattr, llistxattr_query};
    let failed = |error: rustix::io::Errno| {
        ImageError::io("read the extended attributes of", host)(error.into())
    };
    let length = match llistxattr_query(path) {
        Ok(0) | Err(rustix::io::Errno::NOTSUP) => return Ok(Xattrs::new()),
        Ok(length) => length,
        Err(error) => return Err(failed(error)),
    };
    let mut list = vec![0; length];
    let filled = llistxattr(path, &mut list).map_err(failed)?;
    list.truncate(filled);
    let mut attributes = Xattrs::new();
    for name in list.split(|byte| *byte == 0).filter(|name| kept(name)) {
        let mut value = vec![0; lgetxattr_query(path, name).map_err(failed)?];
        let filled = lgetxattr(path, name, &mut value).map_err(failed)?;
        value.truncate(filled);
        attributes.insert(name.to_vec(), value);
    }
    Ok(attributes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn reads_kinds_links_and_clamped_times_and_leaves_volatile_contents_out() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::create_dir_all(root.join("run/user")).unwrap();
        std::fs::create_dir_all(root.join("lost+found")).unwrap();
        std::fs::write(root.join("etc/a"), "content").unwrap();
        std::fs::set_permissions(root.join("etc/a"), PermissionsExt::from_mode(0o640)).unwrap();
        std::fs::hard_link(root.join("etc/a"), root.join("etc/b")).unwrap();
        symlink("../nowhere", root.join("etc/link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(root.join("etc/socket")).unwrap();

        let tree = Tree::scan(root, 1_000).unwrap();
        let names: Vec<&[u8]> = tree.names().map(|(path, _)| path).collect();
        let expected: [&[u8]; 10] = [
            b"",
            b"dev",
            b"etc",
            b"etc/a",
            b"etc/b",
            b"etc/link",
            b"proc",
            b"run",
            b"sys",
            b"tmp",
        ];
        assert_eq!(names, expected);
        assert_eq!(tree.find(b"etc/a"), tree.find(b"etc/b"));
        let file = tree.node(tree.find(b"etc/a").unwrap());
        assert_eq!((file.mode, file.mtime, file.size()), (0o640, 1_000, 7));
        let link = &tree.node(tree.find(b"etc/link").unwrap()).kind;
        assert_eq!(
            *link,
            Kind::Symlink {
                target: b"../nowhere".to_vec()
            }
        );
    }

    #[test]
    fn extended_attributes_are_read_where_the_file_system_has_them() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        std::fs::write(&file, "").unwrap();
        let flags = rustix::fs::XattrFlags::empty();
        if rustix::fs::setxattr(&file, "user.test", b"value", flags).is_err() {
            eprintln!(
                "left out: {} has no user attributes",
                directory.path().display()
            );
            return;
        }
        let tree = Tree::scan(directory.path(), 0).unwrap();
        let expected = Xattrs::from([(b"user.test".to_vec(), b"value".to_vec())]);
        assert_eq!(tree.node(tree.find(b"file").unwrap()).xattrs, expected);
    }

    #[test]
    fn attributes_of_the_host_are_left_out() {
        assert!(
            kept(b"security.capability")
                && kept(b"user.mime_type")
                && kept(b"system.posix_acl_default")
        );
        assert!(!kept(b"trusted.overlay.opaque") && !kept(b"user.overlay.origin"));
        assert!(!kept(b"security.selinux") && !kept(b""));
    }

    #[test]
    fn a_missing_root_says_which() {
        let error = Tree::scan(Path::new("/no/such/root"), 0).unwrap_err();
        assert!(
            error.to_string().starts_with("cannot read /no/such/root: "),
            "{error}"
        );
    }
}
