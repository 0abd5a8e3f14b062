//! Reading a directory of this host into a tree.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Statx, StatxAttributes, StatxFlags};

use super::super::{ImageError, Result};
use super::{Content, Kind, MODE_MASK, Node, NodeId, Tree};

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
        let stat = stat(root)?;
        if FileType::from_raw_mode(stat.stx_mode.into()) != FileType::Directory {
            let error = std::io::Error::from(std::io::ErrorKind::NotADirectory);
            return Err(ImageError::io("list", root)(error));
        }
        let top = node(root, &stat, Kind::Directory, source_date)?;
        let mut scan = Scan {
            source_date,
            tree: Self::new(top),
            linked: HashMap::new(),
        };
        scan.directory(root, b"")?;
        for (path, mode) in STANDARD {
            if scan.tree.find(path).is_none() {
                scan.tree.insert(path, Node::directory(mode, source_date));
            }
        }
        Ok(scan.tree)
    }
}

struct Scan {
    source_date: i64,
    tree: Tree,
    /// Files with more than one name, by device and inode.
    linked: HashMap<(u32, u32, u64), NodeId>,
}

impl Scan {
    /// Adds what is in the directory `host`, which is `path` in the tree.
    fn directory(&mut self, host: &Path, path: &[u8]) -> Result<()> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(host).map_err(ImageError::io("list", host))? {
            names.push(
                entry
                    .map_err(ImageError::io("list", host))?
                    .file_name()
                    .into_vec(),
            );
        }
        names.sort_unstable();
        for name in names {
            if path.is_empty() && name == b"lost+found" {
                continue;
            }
            let child = if path.is_empty() {
                name.clone()
            } else {
                [path, b"/", &name].concat()
            };
            self.entry(&host.join(OsStr::from_bytes(&name)), &child)?;
        }
        Ok(())
    }

    fn entry(&mut self, host: &Path, path: &[u8]) -> Result<()> {
        let stat = stat(host)?;
        let file_type = FileType::from_raw_mode(stat.stx_mode.into());
        let mounted = stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
        if file_type == FileType::Directory {
            let directory = node(host, &stat, Kind::Directory, self.source_date)?;
            self.tree.insert(path, directory);
            if mounted || VOLATILE.contains(&path) {
                return Ok(());
            }
            return self.directory(host, path);
        }
        if mounted {
            return Err(ImageError::Mounted {
                path: host.to_owned(),
            });
        }
        let key = (stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino);
        if let Some(id) = self.linked.get(&key).filter(|_| stat.stx_nlink > 1) {
            self.tree.link(path, *id);
            return Ok(());
        }
        let (major, minor) = (stat.stx_rdev_major, stat.stx_rdev_minor);
        let kind = match file_type {
            FileType::RegularFile => Kind::File {
                size: stat.stx_size,
                content: Content::Host(host.to_owned()),
            },
            FileType::Symlink => {
                let target = std::fs::read_link(host).map_err(ImageError::io("read", host))?;
                Kind::Symlink {
                    target: target.into_os_string().into_vec(),
                }
            }
            FileType::CharacterDevice => Kind::CharDevice { major, minor },
            FileType::BlockDevice => Kind::BlockDevice { major, minor },
            FileType::Fifo => Kind::Fifo,
            _ => return Ok(()),
        };
        let file = node(host, &stat, kind, self.source_date)?;
        let id = self.tree.insert(path, file);
        if stat.stx_nlink > 1 {
            self.linked.insert(key, id);
        }
        Ok(())
    }
}

fn stat(host: &Path) -> Result<Statx> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    rustix::fs::statx(rustix::fs::CWD, host, flags, StatxFlags::BASIC_STATS)
        .map_err(|error| ImageError::io("read", host)(error.into()))
}

fn node(host: &Path, stat: &Statx, kind: Kind, source_date: i64) -> Result<Node> {
    Ok(Node {
        kind,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        mode: u32::from(stat.stx_mode) & MODE_MASK,
        mtime: stat.stx_mtime.tv_sec.min(source_date),
        xattrs: xattrs(host)?,
    })
}

/// Whether an attribute belongs to the file and not to the host it lies on.
pub(super) fn kept(name: &[u8]) -> bool {
    match name {
        b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default" => true,
        _ => name.starts_with(b"user.") && !name.starts_with(b"user.overlay"),
    }
}

/// The attributes to keep; none where the host's file system has no such thing.
fn xattrs(host: &Path) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    use rustix::fs::{lgetxattr, lgetxattr_query, llistxattr, llistxattr_query};
    let failed = |error: rustix::io::Errno| {
        ImageError::io("read the extended attributes of", host)(error.into())
    };
    let length = match llistxattr_query(host) {
        Ok(0) | Err(rustix::io::Errno::NOTSUP) => return Ok(BTreeMap::new()),
        Ok(length) => length,
        Err(error) => return Err(failed(error)),
    };
    let mut list = vec![0; length];
    let filled = llistxattr(host, &mut list).map_err(failed)?;
    list.truncate(filled);
    let mut attributes = BTreeMap::new();
    for name in list.split(|byte| *byte == 0).filter(|name| kept(name)) {
        let mut value = vec![0; lgetxattr_query(host, name).map_err(failed)?];
        let filled = lgetxattr(host, name, &mut value).map_err(failed)?;
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
        let expected = BTreeMap::from([(b"user.test".to_vec(), b"value".to_vec())]);
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
