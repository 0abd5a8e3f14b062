//! What can go wrong between a directory and a disk.

use std::io;
use std::path::{Path, PathBuf};

/// A tree could not be read or an image could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The operating system refused to read or write something.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb: `read`, `list`, `write`.
        action: &'static str,
        /// What it was tried on.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// A file's length differed between the scan and the copy.
    #[error("{} changed while it was read; stop what writes to it and try again", path.display())]
    Changed {
        /// The file on the host.
        path: PathBuf,
    },
    /// A file is covered by a mount, so its content in the tree cannot be seen.
    #[error("something is mounted on the file {}; unmount it and try again", path.display())]
    Mounted {
        /// The file on the host.
        path: PathBuf,
    },
    /// The tree has no kernel with an initial RAM disk.
    #[error(
        "no kernel with an initrd in the tree's /boot; install linux-image-cloud-amd64 (and initramfs-tools)"
    )]
    NoKernel,
    /// The tree has no boot loader.
    #[error(
        "no /usr/lib/systemd/boot/efi/systemd-bootx64.efi in the tree; install systemd-boot-efi"
    )]
    NoBootLoader,
    /// The contents are larger than the space they have.
    #[error(
        "the {what} is too small: its contents need about {missing_mib} MiB more; raise the image's size"
    )]
    Full {
        /// The file system or partition.
        what: &'static str,
        /// How much is missing, rounded up.
        missing_mib: u64,
    },
    /// More files than a file system of this size has inodes for.
    #[error(
        "the tree has {wanted} files and a root file system of this size holds {available}; raise the image's size"
    )]
    TooManyFiles {
        /// Inodes needed.
        wanted: u64,
        /// Inodes there can be.
        available: u64,
    },
    /// The disk cannot hold even its tables.
    #[error("a disk of {size_bytes} bytes is too small; the least is {least_bytes} bytes")]
    DiskTooSmall {
        /// The size asked for.
        size_bytes: u64,
        /// The smallest size that works.
        least_bytes: u64,
    },
    /// Something that the target file system has no room for in its structures.
    #[error("{path}: {reason}")]
    Unsupported {
        /// The path in the tree.
        path: String,
        /// What is wrong and what can be done.
        reason: String,
    },
}

impl ImageError {
    /// An I/O error on a host path; for `map_err`.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }

    /// A path in the tree that cannot be represented.
    pub(crate) fn unsupported(path: &[u8], reason: impl Into<String>) -> Self {
        Self::Unsupported {
            path: format!("/{}", String::from_utf8_lossy(path)),
            reason: reason.into(),
        }
    }
}
