//! What the firmware and the boot loader read: systemd-boot, one entry per kernel, kernels and initrds.
//!
//! Sources: systemd-boot(7), loader.conf(5), the Boot Loader Specification
//! (<https://uapi-group.org/specifications/specs/boot_loader_specification/>).

use std::cmp::Ordering;

use super::fat::Files;
use super::tree::{Content, Tree};
use super::{ImageError, Result};

const SYSTEMD_BOOT: &[u8] = b"usr/lib/systemd/boot/efi/systemd-bootx64.efi";
/// The firmware's fall-back path, and systemd's own.
const LOADER_PATHS: [&str; 2] = ["EFI/BOOT/BOOTX64.EFI", "EFI/systemd/systemd-bootx64.efi"];

/// The files of the EFI system partition.
#[derive(Debug)]
pub(super) struct Loader {
    pub files: Files,
    /// Versions of the kernels on it, the one that boots first.
    pub kernels: Vec<String>,
    /// The kernel's command line.
    pub command_line: String,
}

/// A kernel of the tree with its initial RAM disk.
struct Kernel<'a> {
    version: &'a str,
    image: (u64, &'a Content),
    initrd: (u64, &'a Content),
}

/// Chooses what goes onto an EFI system partition with `room` bytes for files: the newest kernel in any case, older
/// ones as far as they fit.
pub(super) fn files(tree: &Tree, root: uuid::Uuid, room: u64) -> Result<Loader> {
    let mut kernels = kernels(tree);
    kernels.sort_by(|a, b| compare_versions(b.version, a.version));
    if kernels.is_empty() {
        return Err(ImageError::NoKernel);
    }
    let (size, loader) = tree.content(SYSTEMD_BOOT).ok_or(ImageError::NoBootLoader)?;
    let mut files = Files::default();
    for path in LOADER_PATHS {
        files.add(path, size, loader.clone());
    }
    let command_line = command_line(tree, root)?;
    let title = title(tree)?;
    let mut versions = Vec::new();
    for kernel in kernels {
        let bytes = kernel.image.0 + kernel.initrd.0;
        if !versions.is_empty() && files.bytes() + bytes > room {
            break;
        }
        let version = kernel.version;
        let directory = format!("linux/{version}");
        files.add(
            format!("{directory}/vmlinuz"),
            kernel.image.0,
            kernel.image.1.clone(),
        );
        files.add(
            format!("{directory}/initrd"),
            kernel.initrd.0,
            kernel.initrd.1.clone(),
        );
        let entry = format!(
            "title {title}\nversion {version}\nlinux /{directory}/vmlinuz\ninitrd /{directory}/initrd\n\
             options {command_line}\n"
        );
        files.add_text(format!("loader/entries/linux-{version}.conf"), entry);
        versions.push(version.to_owned());
    }
    let newest = &versions[0];
    let conf = format!("default linux-{newest}.conf\ntimeout 0\neditor no\n");
    files.add_text("loader/loader.conf", conf);
    Ok(Loader {
        files,
        kernels: versions,
        command_line,
    })
}

fn kernels(tree: &Tree) -> Vec<Kernel<'_>> {
    let kernel = |path| {
        let version = std::str::from_utf8(path)
            .ok()?
            .strip_prefix("boot/vmlinuz-")?;
        let image = tree.content(path)?;
        let initrd = tree.content(format!("boot/initrd.img-{version}").as_bytes())?;
        Some(Kernel {
            version,
            image,
            initrd,
        })
    };
    tree.names().filter_map(|(path, _)| kernel(path)).collect()
}

/// The root by its partition, writable from the start so that no fstab is needed, and a console on screen and line.
fn command_line(tree: &Tree, root: uuid::Uuid) -> Result<String> {
    let mut words = format!("root=PARTUUID={root} rw console=tty0 console=ttyS0,115200");
    for word in text(tree, b"etc/kernel/cmdline")?.split_whitespace() {
        words.push(' ');
        words.push_str(word);
    }
    Ok(words)
}

/// The system's name for the boot menu, from os-release(5).
fn title(tree: &Tree) -> Result<String> {
    let release = text(tree, b"usr/lib/os-release")?;
    let name = release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="));
    Ok(name
        .map_or("Linux", |name| name.trim_matches('"'))
        .to_owned())
}

/// A small text file of the tree; empty when there is none.
fn text(tree: &Tree, path: &[u8]) -> Result<String> {
    let bytes = match tree.content(path) {
        Some((size, content)) => content.whole(size)?,
        None => Vec::new(),
    };
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Orders versions as people read them: runs of digits by value, other characters as bytes, `~` before the end.
fn compare_versions(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    let rank = |byte: Option<&u8>| match byte {
        Some(b'~') => 0,
        None => 1,
        Some(byte) if byte.is_ascii_digit() => 2,
        Some(byte) => 3 + u16::from(*byte),
    };
    loop {
        match (a.first(), b.first()) {
            (Some(x), Some(y)) if x.is_ascii_digit() && y.is_ascii_digit() => {
                let order = number(&mut a).cmp(&number(&mut b));
                if order != Ordering::Equal {
                    return order;
                }
            }
            (None, None) => return Ordering::Equal,
            (x, y) if x == y => (a, b) = (&a[1..], &b[1..]),
            (x, y) => return rank(x).cmp(&rank(y)),
        }
    }
}

/// Takes a run of digits: its length without leading zeros, then its digits, which together order by value.
fn number<'a>(text: &mut &'a [u8]) -> (usize, &'a [u8]) {
    let end = text
        .iter()
        .position(|byte| !byte.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    *text = rest;
    let zeros = digits.iter().take_while(|byte| **byte == b'0').count();
    (digits.len() - zeros, &digits[zeros..])
}

#[cfg(test)]
mod tests {
    use super::super::tree::Node;
    use super::*;

    fn tree(versions: &[&str]) -> Tree {
        let mut tree = Tree::new(Node::directory(0o755, 0));
        for path in ["boot", "etc", "etc/kernel", "usr", "usr/lib"] {
            tree.insert(path.as_bytes(), Node::directory(0o755, 0));
        }
        for path in [
            "usr/lib/systemd",
            "usr/lib/systemd/boot",
            "usr/lib/systemd/boot/efi",
        ] {
            tree.insert(path.as_bytes(), Node::directory(0o755, 0));
        }
        tree.insert(SYSTEMD_BOOT, Node::file("MZ", 0o644, 0));
        for version in versions {
            tree.insert(
                format!("boot/vmlinuz-{version}").as_bytes(),
                Node::file("kernel", 0o644, 0),
            );
            tree.insert(
                format!("boot/initrd.img-{version}").as_bytes(),
                Node::file("initrd", 0o600, 0),
            );
        }
        tree
    }

    fn paths(loader: &Loader) -> Vec<&str> {
        loader.files.iter().map(|(path, _)| path).collect()
    }

    #[test]
    fn the_newest_kernel_boots_and_older_ones_come_along_while_there_is_room() {
        let tree = tree(&["6.1.0-9-amd64", "6.1.0-56-amd64", "6.1.0-10-amd64"]);
        let all = files(&tree, uuid::Uuid::nil(), 1 << 20).unwrap();
        assert_eq!(
            all.kernels,
            ["6.1.0-56-amd64", "6.1.0-10-amd64", "6.1.0-9-amd64"]
        );
        let one = files(&tree, uuid::Uuid::nil(), 0).unwrap();
        assert_eq!(one.kernels, ["6.1.0-56-amd64"]);
        let expected = [
            "EFI/BOOT/BOOTX64.EFI",
            "EFI/systemd/systemd-bootx64.efi",
            "linux/6.1.0-56-amd64/initrd",
            "linux/6.1.0-56-amd64/vmlinuz",
            "loader/entries/linux-6.1.0-56-amd64.conf",
            "loader/loader.conf",
        ];
        assert_eq!(paths(&one), expected);
    }

    #[test]
    fn the_trees_own_command_line_is_added() {
        let mut tree = tree(&["6.1"]);
        tree.insert(
            b"etc/kernel/cmdline",
            Node::file("quiet\n  panic=1\n", 0o644, 0),
        );
        let loader = files(&tree, uuid::Uuid::nil(), 0).unwrap();
        let expected = "root=PARTUUID=00000000-0000-0000-0000-000000000000 rw console=tty0 \
                        console=ttyS0,115200 quiet panic=1";
        assert_eq!(loader.command_line, expected);
    }

    #[test]
    fn what_is_missing_is_said_with_the_package_to_install() {
        let error = files(&tree(&[]), uuid::Uuid::nil(), 0).unwrap_err();
        assert!(
            error.to_string().contains("linux-image-cloud-amd64"),
            "{error}"
        );
        let mut bare = Tree::new(Node::directory(0o755, 0));
        bare.insert(b"boot", Node::directory(0o755, 0));
        bare.insert(b"boot/vmlinuz-1", Node::file("", 0o644, 0));
        bare.insert(b"boot/initrd.img-1", Node::file("", 0o644, 0));
        let error = files(&bare, uuid::Uuid::nil(), 0).unwrap_err();
        assert!(error.to_string().contains("systemd-boot-efi"), "{error}");
    }

    #[test]
    fn versions_order_by_value() {
        let sorted = [
            "5.10.0-28",
            "6.1.0~rc1",
            "6.1.0",
            "6.1.0-9",
            "6.1.0-010",
            "6.1.0-56",
            "6.12.1",
        ];
        for pair in sorted.windows(2) {
            assert_eq!(
                compare_versions(pair[0], pair[1]),
                Ordering::Less,
                "{pair:?}"
            );
        }
        assert_eq!(compare_versions("6.01", "6.1"), Ordering::Equal);
    }
}
