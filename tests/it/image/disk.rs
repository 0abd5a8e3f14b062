//! Disks: all parts clean, always the same bytes.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use piaas_bake::image::ImageError;
use piaas_bake::image::disk::{self, DiskSpec};
use piaas_bake::image::manifest::{Block, BlockManifest};
use piaas_bake::image::tree::{Content, Node, Tree, TreeManifest};
use sha2::{Digest, Sha256};

use super::{DATE, MIB, assert_clean, bare, has, noise, run};

/// A tree that a disk can be made of; the kernel and the boot loader are not real.
fn bootable() -> Tree {
    let mut tree = bare();
    let directories = [
        "boot",
        "etc",
        "etc/kernel",
        "usr",
        "usr/lib",
        "usr/lib/systemd",
        "usr/lib/systemd/boot",
    ];
    for path in directories.into_iter().chain(["usr/lib/systemd/boot/efi"]) {
        tree.insert(path.as_bytes(), Node::directory(0o755, DATE));
    }
    let files: [(&str, Vec<u8>); 6] = [
        ("boot/vmlinuz-6.1.0-1-cloud-amd64", noise(70_000, 1)),
        ("boot/initrd.img-6.1.0-1-cloud-amd64", noise(130_001, 2)),
        ("boot/vmlinuz-6.1.0-12-cloud-amd64", noise(70_000, 3)),
        ("boot/initrd.img-6.1.0-12-cloud-amd64", noise(131_072, 4)),
        (
            "usr/lib/os-release",
            b"PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n".to_vec(),
        ),
        (
            "usr/lib/systemd/boot/efi/systemd-bootx64.efi",
            noise(90_000, 5),
        ),
    ];
    for (path, bytes) in files {
        tree.insert(path.as_bytes(), Node::file(bytes, 0o644, DATE));
    }
    tree
}

fn spec() -> DiskSpec {
    DiskSpec {
        size_bytes: 1024 * MIB,
        seed: [42; 32],
        source_date: DATE,
    }
}

/// Copies a partition out of a disk, its holes too.
fn extract(disk: &Path, start: u64, size: u64, out: &Path) {
    let (input, output) = (File::open(disk).unwrap(), File::create(out).unwrap());
    output.set_len(size).unwrap();
    let mut buffer = vec![0; MIB as usize];
    for offset in (0..size).step_by(buffer.len()) {
        let count = (size - offset).min(MIB) as usize;
        input
            .read_exact_at(&mut buffer[..count], start + offset)
            .unwrap();
        if buffer[..count].iter().any(|byte| *byte != 0) {
            output.write_all_at(&buffer[..count], offset).unwrap();
        }
    }
}

/// Each block of the file that is not all zeros is in the manifest, with its checksum, and no other.
fn assert_true_of(manifest: &BlockManifest, disk: &Path) {
    let bytes = std::fs::read(disk).unwrap();
    assert_eq!(manifest.size_bytes, bytes.len() as u64);
    let blocks: Vec<Block> = bytes
        .chunks(manifest.block_bytes as usize)
        .zip(0..)
        .filter(|(block, _)| block.iter().any(|byte| *byte != 0))
        .map(|(block, index)| Block(index, Sha256::digest(block).into()))
        .collect();
    assert_eq!(manifest.block_bytes, 512 << 10);
    assert!(manifest.blocks == blocks);
    assert!((4..200).contains(&blocks.len()), "{}", blocks.len());
}

#[test]
fn is_clean_in_all_its_parts() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk.raw");
    let tree = bootable();
    let written = disk::write(&tree, &spec(), &path).unwrap();
    let (report, manifest) = (written.report, written.blocks);
    assert_eq!(
        report.kernels,
        ["6.1.0-12-cloud-amd64", "6.1.0-1-cloud-amd64"]
    );
    assert_eq!(report.tree_digest, hex::encode(tree.digest().unwrap()));
    assert_eq!(
        report.tree_digest,
        hex::encode(Sha256::digest(&written.tree))
    );
    let listed = TreeManifest::parse(&written.tree).unwrap();
    assert!(
        listed
            .entries
            .iter()
            .map(|entry| entry.path.0.as_slice())
            .eq(tree.names().map(|(path, _)| path))
    );
    if has("sha256sum") {
        let sum = run("sha256sum", &[path.to_str().unwrap()]);
        assert_eq!(
            sum.split_whitespace().next(),
            Some(report.disk_sha256.as_str())
        );
    }
    assert_true_of(&manifest, &path);
    if has("sgdisk") {
        let verdict = run("sgdisk", &["-v", path.to_str().unwrap()]);
        assert!(verdict.contains("No problems found"), "{verdict}");
        let table = run("sgdisk", &["-i", "2", path.to_str().unwrap()]);
        assert!(
            table.contains(&report.partitions[1].guid.to_uppercase()),
            "{table}"
        );
    }
    let part = directory.path().join("part");
    let root = &report.partitions[1];
    extract(&path, root.start_bytes, root.size_bytes, &part);
    assert_clean(&part);
    let esp = &report.partitions[0];
    extract(&path, esp.start_bytes, esp.size_bytes, &part);
    if has("fsck.vfat") {
        let verdict = run("fsck.vfat", &["-n", part.to_str().unwrap()]);
        assert_eq!(verdict.lines().count(), 2, "{verdict}");
    }
    if has("mcopy") {
        let read = |path: &str| {
            let copy = directory.path().join("copy");
            let arguments = [
                "-n",
                "-i",
                part.to_str().unwrap(),
                path,
                copy.to_str().unwrap(),
            ];
            run("mcopy", &arguments);
            std::fs::read(&copy).unwrap()
        };
        assert!(read("::/linux/6.1.0-12-cloud-amd64/vmlinuz") == noise(70_000, 3));
        assert!(read("::/linux/6.1.0-1-cloud-amd64/initrd") == noise(130_001, 2));
        assert!(read("::/EFI/BOOT/BOOTX64.EFI") == noise(90_000, 5));
        let entry = read("::/loader/entries/linux-6.1.0-12-cloud-amd64.conf");
        let entry = String::from_utf8(entry).unwrap();
        assert!(
            entry.contains(&format!("root=PARTUUID={} rw", root.guid)),
            "{entry}"
        );
    }
}

/// A known answer. It changes when the writers change, and with nothing else: not with the host, its file system,
/// its time zone, the number of cores or the user.
#[test]
fn has_the_bytes_it_always_had() {
    let directory = tempfile::tempdir().unwrap();
    let written = disk::write(&bootable(), &spec(), &directory.path().join("disk")).unwrap();
    assert_eq!(
        written.report.disk_sha256,
        "ceae380e0fd351348e5887a3aaebf6ada6d16cd4aca278a85e1dbf8012d2f638"
    );
}

/// A tree with packages of many sizes, from a few KiB to 2 MiB; one of them may have another version with a file
/// more.
fn packaged(changed: Option<usize>) -> Tree {
    let mut tree = bootable();
    for path in [
        "usr/share",
        "var",
        "var/lib",
        "var/lib/dpkg",
        "var/lib/dpkg/info",
    ] {
        tree.insert(path.as_bytes(), Node::directory(0o755, DATE));
    }
    for package in 0..60 {
        let home = format!("usr/share/package-{package}");
        tree.insert(home.as_bytes(), Node::directory(0o755, DATE));
        let mut list = format!("/.\n/usr\n/usr/share\n/{home}\n");
        let version = u32::from(changed == Some(package));
        for number in 0..5 + package % 7 + version as usize {
            let path = format!("{home}/file-{number}");
            let length = package * package * 60 + number * 1000;
            let salt = 1 + package as u32 * 100 + number as u32 * 2 + version;
            tree.insert(
                path.as_bytes(),
                Node::file(noise(length, salt), 0o644, DATE),
            );
            list += &format!("/{path}\n");
        }
        let path = format!("var/lib/dpkg/info/package-{package}.list");
        tree.insert(path.as_bytes(), Node::file(list, 0o644, DATE));
    }
    tree
}

#[test]
fn a_changed_package_moves_little_else() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    let write = |changed| {
        disk::write(&packaged(changed), &spec(), &path)
            .unwrap()
            .blocks
    };
    let before = write(None);
    for package in [1, 30, 59] {
        let after = write(Some(package));
        let bytes = (5 + package % 7 + 1) * (package * package * 60 + 6000);
        // Its own, or those of the small packages it shares a place with; inodes; bitmaps and superblock.
        let most = bytes.div_ceil(512 << 10) + 12;
        let changed = after.changed_since(&before);
        assert!(
            changed.len() <= most,
            "{package}: {} of {most}: {changed:?}",
            changed.len()
        );
    }
}

#[test]
fn is_the_same_wherever_the_tree_lies_and_however_it_was_made() {
    let make = |order: &[&str]| {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        let source = bootable();
        std::fs::create_dir(&root).unwrap();
        for (path, id) in source.names() {
            if source.node(id).is_directory() {
                std::fs::create_dir_all(root.join(std::str::from_utf8(path).unwrap())).unwrap();
            }
        }
        for path in order {
            let Some((_, Content::Bytes(bytes))) = source.content(path.as_bytes()) else {
                panic!("{path}")
            };
            File::create(root.join(path))
                .unwrap()
                .write_all(bytes)
                .unwrap();
            std::fs::set_permissions(root.join(path), PermissionsExt::from_mode(0o644)).unwrap();
        }
        let tree = Tree::scan(&root, DATE).unwrap();
        disk::write(&tree, &spec(), &directory.path().join("disk")).unwrap()
    };
    let source = bootable();
    let mut paths: Vec<&str> = source
        .names()
        .filter(|(_, id)| !source.node(*id).is_directory())
        .map(|(path, _)| std::str::from_utf8(path).unwrap())
        .collect();
    let one = make(&paths);
    paths.reverse();
    assert_eq!(make(&paths), one);
}

#[test]
fn other_seed_or_date_gives_other_bytes_but_the_same_tree_digest() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    let write = |spec: DiskSpec| disk::write(&bootable(), &spec, &path).unwrap().report;
    let one = write(spec());
    for other in [
        DiskSpec {
            seed: [43; 32],
            ..spec()
        },
        DiskSpec {
            source_date: DATE + 1,
            ..spec()
        },
    ] {
        let other = write(other);
        assert_ne!(other.disk_sha256, one.disk_sha256);
        assert_eq!(other.tree_digest, one.tree_digest);
    }
}

#[test]
fn that_cannot_be_written_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    let error = disk::write(&bare(), &spec(), &path).unwrap_err();
    assert!(matches!(error, ImageError::NoKernel), "{error}");
    let mut large = bootable();
    large.insert(
        b"large",
        Node::file(noise(100 * MIB as usize, 1), 0o644, DATE),
    );
    let small = DiskSpec {
        size_bytes: 330 * MIB,
        ..spec()
    };
    let error = disk::write(&large, &small, &path).unwrap_err();
    assert!(
        matches!(
            error,
            ImageError::Full {
                what: "root file system",
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}
