//! Images before judges that nobody here wrote: e2fsprogs, dosfstools, gdisk and the kernel.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use piaas_bake::image::disk::{self, DiskSpec};
use piaas_bake::image::tree::{Content, Kind, Node, Tree};
use piaas_bake::image::{ImageError, Region, ext4};
use proptest::prelude::*;

const DATE: i64 = 1_700_000_000;
const MIB: u64 = 1 << 20;

/// Whether a judge is installed; a test says what it left out.
fn has(judge: &str) -> bool {
    let found = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"]
        .iter()
        .any(|dir| Path::new(dir).join(judge).exists());
    if !found {
        eprintln!("left out: {judge} is not installed");
    }
    found
}

/// Runs a command with the system's tools in reach and returns its standard output; it must succeed.
fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .env("LC_ALL", "C")
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}\n{}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// `e2fsck` has nothing to say but the names of its passes and the summary.
fn assert_clean(image: &Path) {
    if !has("e2fsck") {
        return;
    }
    let output = run("e2fsck", &["-fn", image.to_str().unwrap()]);
    let remarks: Vec<&str> = output
        .lines()
        .filter(|line| !line.starts_with("Pass ") && !line.starts_with("root: "))
        .collect();
    assert!(remarks.is_empty(), "e2fsck found fault:\n{output}");
}

fn ext4_options() -> ext4::Options {
    ext4::Options {
        uuid: uuid::Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef),
        hash_seed: uuid::Uuid::from_u128(0xfedc_ba98_7654_3210_fedc_ba98_7654_3210),
        label: "root".to_owned(),
        source_date: DATE,
    }
}

fn write_ext4(tree: &Tree, bytes: u64, path: &Path) -> Result<(), ImageError> {
    let file = File::create(path).unwrap();
    file.set_len(bytes).unwrap();
    let region = Region::new(&file, path, 0, bytes);
    ext4::write(tree, region, &ext4_options(), &mut |_| {}).map(drop)
}

/// An empty tree with the directories that a scan adds to every tree.
fn bare() -> Tree {
    let mut tree = Tree::new(Node::directory(0o755, DATE));
    for (path, mode) in [
        ("dev", 0o755),
        ("proc", 0o555),
        ("run", 0o755),
        ("sys", 0o555),
        ("tmp", 0o1777),
    ] {
        tree.insert(path.as_bytes(), Node::directory(mode, DATE));
    }
    tree
}

/// Bytes without a block of zeros in them, different for each `salt`.
fn noise(length: usize, salt: u32) -> Vec<u8> {
    let mut state = salt.wrapping_mul(0x9e37_79b9) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            (state >> 24) as u8 | 1
        })
        .collect()
}

/// Every second block is a hole.
fn comb(blocks: usize) -> Vec<u8> {
    let mut bytes = vec![0; blocks * 2 * ext4::BLOCK];
    for pair in bytes.chunks_mut(2 * ext4::BLOCK) {
        pair[0] = 7;
    }
    bytes
}

/// What a file system writer finds hard, small enough to be written in a second.
fn hard_cases() -> Tree {
    let mut tree = bare();
    let file = |bytes: Vec<u8>| Node::file(bytes, 0o644, DATE - 5);
    tree.insert(b"sizes", Node::directory(0o2775, DATE));
    for size in [0, 1, 4095, 4096, 4097, 40_000, 3_000_000] {
        tree.insert(format!("sizes/{size}").as_bytes(), file(noise(size, 3)));
    }
    tree.insert(b"holes", Node::directory(0o755, DATE));
    tree.insert(b"holes/only", file(vec![0; 10_000_000]));
    tree.insert(
        b"holes/at-the-end",
        file([noise(5000, 1), vec![0; 100_000]].concat()),
    );
    tree.insert(b"holes/few-extents", file(comb(3)));
    tree.insert(b"holes/one-level", file(comb(300)));
    tree.insert(b"holes/two-levels", file(comb(1500)));

    tree.insert(b"kinds", Node::directory(0o700, DATE));
    let linked = tree.insert(b"kinds/first", file(b"one inode, three names".to_vec()));
    tree.link(b"kinds/second", linked);
    tree.link(b"third", linked);
    let mut owned = Node::file("x", 0o6711, -86_400);
    (owned.uid, owned.gid) = (70_000, 4_000_000_000);
    tree.insert(b"kinds/large-owner-and-before-1970", owned);
    tree.insert(
        b"kinds/null",
        Node::new(Kind::CharDevice { major: 1, minor: 3 }, 0o666, DATE),
    );
    tree.insert(
        b"kinds/disk",
        Node::new(
            Kind::BlockDevice {
                major: 259,
                minor: 70_000,
            },
            0o660,
            DATE,
        ),
    );
    tree.insert(b"kinds/fifo", Node::new(Kind::Fifo, 0o600, DATE));
    for length in [1, 59, 60, 4095] {
        let target = Kind::Symlink {
            target: vec![b't'; length],
        };
        tree.insert(
            format!("kinds/link-{length}").as_bytes(),
            Node::new(target, 0o777, DATE),
        );
    }

    tree.insert(b"attributes", Node::directory(0o755, DATE));
    let with = |name: &str, value: Vec<u8>| {
        let mut node = Node::file("x", 0o755, DATE);
        node.xattrs.insert(name.as_bytes().to_vec(), value);
        node
    };
    // cap_net_raw=ep, as capability(7) describes version 2.
    let capability = vec![
        1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    tree.insert(
        b"attributes/capability",
        with("security.capability", capability),
    );
    tree.insert(b"attributes/block", with("user.long", noise(2000, 9)));
    let mut many = with("user.empty", Vec::new());
    for index in 0..40 {
        many.xattrs
            .insert(format!("user.{index}").into_bytes(), noise(index, 4));
    }
    tree.insert(b"attributes/many", many);

    let mut path = b"deep".to_vec();
    tree.insert(&path, Node::directory(0o755, DATE));
    for _ in 0..100 {
        path.extend_from_slice(b"/down");
        tree.insert(&path, Node::directory(0o755, DATE));
    }
    tree.insert(b"names", Node::directory(0o755, DATE));
    for index in 0..500 {
        let name = [
            b"names/".as_slice(),
            &vec![b'n'; 250],
            format!("{index:05}").as_bytes(),
        ]
        .concat();
        tree.insert(&name, Node::new(Kind::Fifo, 0o600, DATE));
    }
    tree.insert(
        "names/\u{fc}ml\u{e4}ut \\ \n".as_bytes(),
        file(b"odd name".to_vec()),
    );
    tree.insert(b"names/\xff\xfe not utf-8", file(b"odd name".to_vec()));
    tree
}

/// A directory with more entries than one index block reaches.
fn crowd(entries: usize) -> Tree {
    let mut tree = bare();
    tree.insert(b"crowd", Node::directory(0o755, DATE));
    for index in 0..entries {
        let name = format!("crowd/a-name-of-some-length-{index:07}");
        tree.insert(name.as_bytes(), Node::new(Kind::Fifo, 0o600, DATE));
    }
    tree
}

/// An ext4 image mounted read-only by the kernel, in a mount namespace that dies with this value.
struct Mounted {
    child: std::process::Child,
    path: PathBuf,
}

impl Mounted {
    /// `None`, and a word why, where this process may not mount.
    fn new(image: &Path, directory: &Path) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("left out: mounting needs root");
            return None;
        }
        let point = directory.join("mounted");
        std::fs::create_dir_all(&point).unwrap();
        let script = r#"mount -t ext4 -o loop,ro "$1" "$2" && echo mounted && read -r line"#;
        let mut child = Command::new("unshare")
            .args(["-m", "sh", "-c", script, "sh"])
            .args([image, &point])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        if line != "mounted\n" {
            child.wait().unwrap();
            eprintln!("left out: this host does not mount ext4 images");
            return None;
        }
        let path = Path::new("/proc")
            .join(child.id().to_string())
            .join("root")
            .join(point.strip_prefix("/").unwrap());
        Some(Self { child, path })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

#[test]
fn ext4_hard_cases_are_clean_and_read_back_by_the_kernel() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("image");
    let tree = hard_cases();
    write_ext4(&tree, 300 * MIB, &image).unwrap();
    assert_clean(&image);
    if let Some(mounted) = Mounted::new(&image, directory.path()) {
        let read = Tree::scan(&mounted.path, i64::MAX).unwrap();
        let names = |tree: &Tree| {
            tree.names()
                .map(|(path, _)| path.to_vec())
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&read), names(&tree));
        for (path, id) in tree.names() {
            let (mut ours, mut theirs) = (
                tree.node(id).clone(),
                read.node(read.find(path).unwrap()).clone(),
            );
            // Where the content lies differs; the digest below compares the content itself.
            for node in [&mut ours, &mut theirs] {
                if let Kind::File { content, .. } = &mut node.kind {
                    *content = Content::Bytes(Vec::new());
                }
            }
            assert_eq!(ours, theirs, "{}", String::from_utf8_lossy(path));
        }
        assert_eq!(
            hex::encode(read.digest().unwrap()),
            hex::encode(tree.digest().unwrap())
        );
    }
}

/// One entry of a random tree: where it goes (by choice among the directories so far), what it is, how large.
#[derive(Debug, Clone)]
struct Step {
    parent: proptest::sample::Index,
    kind: u8,
    name_length: usize,
    size: usize,
    xattr: Option<usize>,
}

fn random_tree(steps: &[Step]) -> Tree {
    let mut tree = bare();
    let mut directories = vec![b"tmp".to_vec()];
    let mut files = Vec::new();
    for (number, step) in steps.iter().enumerate() {
        let name = format!("{number}{}", "x".repeat(step.name_length));
        let path = [
            parent_of(step, &directories).as_slice(),
            b"/",
            name.as_bytes(),
        ]
        .concat();
        let salt = u32::try_from(number).unwrap();
        let mut node = match step.kind {
            0 => Node::directory(0o755, DATE),
            1 => Node::new(
                Kind::Symlink {
                    target: vec![b't'; 1 + step.size % 4095],
                },
                0o777,
                DATE,
            ),
            2 => Node::file(comb(step.size / 256), 0o600, DATE),
            3 if !files.is_empty() => {
                tree.link(&path, files[step.size % files.len()]);
                continue;
            }
            _ => Node::file(noise(step.size, salt), 0o4755, i64::from(salt)),
        };
        // Only files and directories may have user attributes: xattr(7).
        if let Some(length) = step
            .xattr
            .filter(|_| !matches!(node.kind, Kind::Symlink { .. }))
        {
            node.xattrs
                .insert(b"user.random".to_vec(), noise(length, salt));
        }
        let directory = node.is_directory();
        let id = tree.insert(&path, node);
        if directory {
            directories.push(path)
        } else {
            files.push(id)
        }
    }
    tree
}

fn parent_of<'a>(step: &Step, directories: &'a [Vec<u8>]) -> &'a Vec<u8> {
    &directories[step.parent.index(directories.len())]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let xattr = proptest::option::of(0usize..3000);
    let step = (
        any::<proptest::sample::Index>(),
        0u8..6,
        0usize..240,
        0usize..100_000,
        xattr,
    );
    let step = step.prop_map(|(parent, kind, name_length, size, xattr)| Step {
        parent,
        kind,
        name_length,
        size,
        xattr,
    });
    proptest::collection::vec(step, 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn ext4_random_trees_are_clean_and_read_back_by_the_kernel(steps in steps()) {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("image");
        let tree = random_tree(&steps);
        write_ext4(&tree, 160 * MIB, &image).unwrap();
        assert_clean(&image);
        if let Some(mounted) = Mounted::new(&image, directory.path()) {
            let read = Tree::scan(&mounted.path, i64::MAX).unwrap();
            prop_assert_eq!(read.digest().unwrap(), tree.digest().unwrap());
        }
    }
}

#[test]
fn ext4_a_file_past_two_gib_of_holes_reads_back() {
    let directory = tempfile::tempdir().unwrap();
    let (source, image) = (
        directory.path().join("source"),
        directory.path().join("image"),
    );
    let size = (5 << 29) + 10;
    let file = File::create(&source).unwrap();
    file.set_len(size).unwrap();
    file.write_all_at(b"the end", size - 7).unwrap();
    let mut tree = bare();
    let kind = Kind::File {
        size,
        content: Content::Host(source),
    };
    tree.insert(b"large", Node::new(kind, 0o644, DATE));
    write_ext4(&tree, 64 * MIB, &image).unwrap();
    assert_clean(&image);
    if let Some(mounted) = Mounted::new(&image, directory.path()) {
        let read = File::open(mounted.path.join("large")).unwrap();
        let mut end = [0; 8];
        read.read_exact_at(&mut end, size - 8).unwrap();
        assert_eq!((read.metadata().unwrap().len(), &end), (size, b"\0the end"));
    }
}

#[test]
fn ext4_reads_back_with_debugfs() {
    if !has("debugfs") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("image");
    let tree = hard_cases();
    write_ext4(&tree, 300 * MIB, &image).unwrap();
    let ask = |request: &str| run("debugfs", &["-R", request, image.to_str().unwrap()]);
    for path in [
        "sizes/3000000",
        "sizes/4097",
        "holes/two-levels",
        "holes/at-the-end",
        "third",
    ] {
        let (size, content) = tree.content(path.as_bytes()).unwrap();
        let Content::Bytes(expected) = content else {
            panic!("the hard cases are in memory")
        };
        let copy = directory.path().join("copy");
        ask(&format!("dump /{path} {}", copy.display()));
        let bytes = std::fs::read(&copy).unwrap();
        assert_eq!(bytes.len() as u64, size, "{path}");
        assert!(bytes == *expected, "{path} differs");
    }
    assert!(ask("stat /kinds/first").contains("Links: 3"));
    assert!(ask("stat /kinds/disk").contains("259:70000"));
    assert!(ask("ea_get -x /attributes/capability security.capability").contains("01 00 00 02"));
    assert!(ask("stat /holes/only").contains("Blockcount: 0"));
}

#[test]
fn ext4_a_hundred_thousand_names_in_one_directory() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("image");
    write_ext4(&crowd(100_000), 1024 * MIB, &image).unwrap();
    assert_clean(&image);
    if has("debugfs") {
        let dump = run(
            "debugfs",
            &["-R", "htree_dump /crowd", image.to_str().unwrap()],
        );
        assert!(
            dump.contains("Indirect levels: 1"),
            "{}",
            &dump[..dump.len().min(400)]
        );
        assert!(!dump.contains("ERROR"));
    }
    if let Some(mounted) = Mounted::new(&image, directory.path()) {
        // The kernel finds a name by its hash.
        for index in [0, 1, 4711, 50_000, 99_999] {
            let path = mounted
                .path
                .join(format!("crowd/a-name-of-some-length-{index:07}"));
            assert!(path.symlink_metadata().is_ok(), "{}", path.display());
        }
        assert!(
            mounted
                .path
                .join("crowd/absent")
                .symlink_metadata()
                .is_err()
        );
    }
}

#[test]
fn ext4_many_sizes_of_file_system_are_clean() {
    let directory = tempfile::tempdir().unwrap();
    let mut tree = bare();
    tree.insert(b"file", Node::file(noise(100_000, 1), 0o644, DATE));
    // Below, at and above the borders of groups, flexible groups and descriptor blocks.
    for mib in [
        16, 127, 128, 129, 130, 2047, 2048, 2050, 8191, 8320, 65_537, 300_000,
    ] {
        let image = directory.path().join("image");
        write_ext4(&tree, mib * MIB, &image).unwrap();
        assert_clean(&image);
    }
}

#[test]
fn ext4_a_full_file_system_is_clean_and_one_too_small_says_by_how_much() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("image");
    let of = |bytes: usize| {
        let mut tree = bare();
        tree.insert(b"large", Node::file(noise(bytes, 1), 0o644, DATE));
        tree
    };
    let size = 64 * MIB;
    let mut bytes = size as usize;
    let Err(ImageError::Full { missing_mib, .. }) = write_ext4(&of(bytes), size, &image) else {
        panic!("64 MiB do not fit in 64 MiB")
    };
    // What is said to be missing is what is missing, to the MiB.
    bytes -= missing_mib as usize * MIB as usize;
    write_ext4(&of(bytes), size, &image).unwrap();
    assert_clean(&image);
    assert!(write_ext4(&of(bytes + MIB as usize), size, &image).is_err());
}

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

#[test]
fn disk_is_clean_in_all_its_parts() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk.raw");
    let tree = bootable();
    let percents = std::cell::RefCell::new(Vec::new());
    let report = disk::write(&tree, &spec(), &path, &|percent| {
        percents.borrow_mut().push(percent)
    })
    .unwrap();
    assert_eq!(
        report.kernels,
        ["6.1.0-12-cloud-amd64", "6.1.0-1-cloud-amd64"]
    );
    assert_eq!(report.tree_digest, hex::encode(tree.digest().unwrap()));
    let percents = percents.into_inner();
    assert!(
        percents.is_sorted() && percents.last() == Some(&100),
        "{percents:?}"
    );
    if has("sha256sum") {
        let sum = run("sha256sum", &[path.to_str().unwrap()]);
        assert_eq!(
            sum.split_whitespace().next(),
            Some(report.disk_sha256.as_str())
        );
    }
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
fn disk_has_the_bytes_it_always_had() {
    let directory = tempfile::tempdir().unwrap();
    let report = disk::write(
        &bootable(),
        &spec(),
        &directory.path().join("disk"),
        &|_| {},
    )
    .unwrap();
    assert_eq!(
        report.disk_sha256,
        "c7b0a7ada7e665a8c2180d00b89d4730fe15c943ec24b787805ee0bfe1853ee5"
    );
}

#[test]
fn disk_is_the_same_wherever_the_tree_lies_and_however_it_was_made() {
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
        disk::write(&tree, &spec(), &directory.path().join("disk"), &|_| {}).unwrap()
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
fn disk_other_seed_or_date_gives_other_bytes_but_the_same_tree_digest() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    let write = |spec: DiskSpec| disk::write(&bootable(), &spec, &path, &|_| {}).unwrap();
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
fn disk_that_cannot_be_written_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    let error = disk::write(&bare(), &spec(), &path, &|_| {}).unwrap_err();
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
    let error = disk::write(&large, &small, &path, &|_| {}).unwrap_err();
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
