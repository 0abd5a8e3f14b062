//! The ext4 writer before e2fsprogs and the kernel.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use piaas_bake::image::tree::{Content, HostFile, Kind, Known, Node, Tree};
use piaas_bake::image::{ImageError, Pieces, Region, ext4, output};
use proptest::prelude::*;

use super::{DATE, MIB, assert_clean, bare, has, noise, run};

fn options() -> ext4::Options {
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
    let pieces = Pieces::default();
    let region = Region::new(&pieces, 0, bytes);
    ext4::write(tree, &tree.survey()?, region, &options())?;
    let path = path.to_owned();
    let disk = output::DiskFile { file, path };
    output::write(pieces, &disk, &Known::default(), |_| ())
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
fn hard_cases_are_clean_and_read_back_by_the_kernel() {
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
    fn random_trees_are_clean_and_read_back_by_the_kernel(steps in steps()) {
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
fn a_file_past_two_gib_of_holes_reads_back() {
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
        content: Content::Host(HostFile {
            path: source,
            stamp: None,
        }),
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

/// The copies of the superblock and the descriptors tell nothing of the tree, and still bring it back.
#[test]
fn a_lost_superblock_comes_back_from_its_copy() {
    if !has("e2fsck") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("image");
    let tree = hard_cases();
    write_ext4(&tree, 300 * MIB, &image).unwrap();
    let file = File::options().write(true).open(&image).unwrap();
    file.write_all_at(&[0; 2 * ext4::BLOCK], 0).unwrap();
    let status = Command::new("/usr/sbin/e2fsck")
        .args(["-fy", "-b", "32768", "-B", "4096"])
        .arg(&image)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(1), "errors are corrected, all of them");
    assert_clean(&image);
    if let Some(mounted) = Mounted::new(&image, directory.path()) {
        let read = Tree::scan(&mounted.path, i64::MAX).unwrap();
        assert_eq!(read.digest().unwrap(), tree.digest().unwrap());
    }
}

#[test]
fn reads_back_with_debugfs() {
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
fn a_hundred_thousand_names_in_one_directory() {
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
fn many_sizes_of_file_system_are_clean() {
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
fn a_file_system_with_little_room_to_spare_is_clean() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("image");
    let mut full = false;
    for count in (200..240).step_by(10) {
        let mut tree = bare();
        for number in 0..count {
            let path = format!("directory-{number}");
            tree.insert(path.as_bytes(), Node::directory(0o755, DATE));
            let bytes = noise(1000 * (number % 7 * 85 + 10), number as u32);
            let path = format!("{path}/file");
            tree.insert(path.as_bytes(), Node::file(bytes, 0o644, DATE));
        }
        match write_ext4(&tree, 64 * MIB, &image) {
            Ok(()) => assert_clean(&image),
            Err(ImageError::Full { .. }) => full = true,
            Err(error) => panic!("{error}"),
        }
        // The last ones do not fit, and what is smaller does.
        assert_eq!(full, count > 220, "{count}");
    }
}

#[test]
fn a_full_file_system_is_clean_and_one_too_small_says_by_how_much() {
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
