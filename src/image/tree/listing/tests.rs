//! The script and its reader: of one root they must say what a scan says.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use super::super::packages::Package;
use super::super::{Entry, EntryType};
use super::*;

const SCRIPT: &str = include_str!("../../../../templates/list.sh");
const DATE: i64 = 1_686_355_200;

/// Lists `root` as a machine lists its own, with these programs hidden.
fn list(root: &Path, hidden: &[&str]) -> (Listing, Packing) {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("list of it");
    let mut script = SCRIPT.replace("@DIR@", at.to_str().unwrap());
    for name in hidden {
        // `command -v` of a name that nothing has.
        script = script.replace(
            &format!("command -v {name} "),
            &format!("command -v {name}-hidden "),
        );
    }
    let output = Command::new("/bin/sh")
        .args(["-c", &script])
        .env("PIAAS_ROOT", root)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    let ["list", bytes, sha256, packing] = said.split_whitespace().collect::<Vec<_>>()[..] else {
        panic!("{said}");
    };
    let packed = fs::read(at.join("list")).unwrap();
    assert_eq!(bytes, packed.len().to_string());
    let sum = <sha2::Sha256 as sha2::Digest>::digest(&packed);
    assert_eq!(sha256, hex::encode(sum));
    let packing = Packing::parse(packing).unwrap();
    (Listing::read(&packed, packing, DATE).unwrap(), packing)
}

/// What a scan says, with the times of directories that a list gives.
fn scanned(root: &Path) -> TreeManifest {
    let tree = Tree::scan(root, DATE).unwrap();
    let text = tree.manifest(&tree.survey().unwrap()).unwrap();
    let mut tree = TreeManifest::parse(&text).unwrap();
    for entry in &mut tree.entries {
        if entry.kind == EntryType::Directory {
            entry.mtime = DATE;
        }
    }
    tree
}

fn write(root: &Path, path: &[u8], text: &str) {
    let path = root.join(OsStr::from_bytes(path));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn hostile() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    for name in ["dev", "etc", "proc", "run/user", "sys", "tmp", "lost+found"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    let names: [&[u8]; 12] = [
        b"a\nb",
        b" f 644 0 0 1 1 - x",
        b"'; touch pwned; '$(touch pwned)`touch pwned`\"",
        b"\xff\xfe\x80",
        b"\\012 \\ back",
        b"-rf",
        b">arrow",
        b"tab\tand\rreturn",
        b"# file: etc",
        b"a = cap_chown=ep",
        b"\xe2\x80\xae\xc3\xa9",
        b"~",
    ];
    for (number, name) in names.iter().enumerate() {
        let text = format!("{number}\n");
        write(root, &[b"etc/", *name].concat(), &text);
        write(root, &[b"etc/dir-", *name, b"/in it"].concat(), &text);
        let link = [b"etc/link-", *name].concat();
        symlink(OsStr::from_bytes(name), root.join(OsStr::from_bytes(&link))).unwrap();
    }
    symlink("f 644 0 0 1 1 - x\n>y", root.join("etc/to-lines")).unwrap();
    symlink(">>", root.join("etc/to-arrows")).unwrap();
    write(root, b"etc/empty", "");
    write(root, b"run/gone", "not there after a boot");
    write(root, b"etc/set-id", "x");
    fs::set_permissions(root.join("etc/set-id"), PermissionsExt::from_mode(0o6751)).unwrap();
    write(root, b"usr/first", "two names");
    fs::hard_link(root.join("usr/first"), root.join("etc/second\nname")).unwrap();
    let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 999_999_999);
    let empty = fs::File::options()
        .append(true)
        .open(root.join("etc/empty"));
    empty.unwrap().set_modified(time).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(root.join("etc/socket")).unwrap();
    let (pipe, fifo) = (root.join("etc/pipe"), rustix::fs::FileType::Fifo);
    let mode = rustix::fs::Mode::from_raw_mode(0o640);
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, fifo, mode, 0).unwrap();
    write(
        root,
        b"var/lib/dpkg/status",
        "Package: tool\nStatus: install ok installed\nPriority: optional\nArchitecture: amd64\nMaintainer: M <m@m>\n\
         Version: 1:2-3~x\nDescription: a tool\n\n\
         Package: gone\nStatus: deinstall ok config-files\nArchitecture: all\nMaintainer: M <m@m>\nVersion: 1\n\
         Description: a tool\n\n",
    );
    write(
        root,
        b"var/lib/dpkg/info/tool.list",
        "/.\n/usr\n/usr/first\n",
    );
    write(root, b"var/lib/dpkg/info/none.list", "");
    dir
}

#[test]
fn a_list_says_what_a_scan_says_whatever_names_there_are() {
    let dir = hostile();
    let expected = scanned(dir.path());
    let has = |name: &str| {
        let mut look = Command::new("sh");
        look.args(["-c", &format!("command -v {name}")]);
        look.output().unwrap().status.success()
    };
    for hidden in [&[][..], &["xz", "getfattr"], &["xz", "getfattr", "getcap"]] {
        let (listing, packing) = list(dir.path(), hidden);
        assert_eq!(listing.tree, expected, "{hidden:?}");
        let by_xz = has("xz") && !hidden.contains(&"xz");
        assert_eq!(packing == Packing::Xz, by_xz);
        if hidden.len() == 3 {
            assert_eq!(listing.attributes, Attributes::Nothing);
        }
    }
    let version = "1:2-3~x".to_owned();
    let [Package { version: found, .. }] = &expected.packages[..] else {
        panic!("{:?}", expected.packages);
    };
    assert_eq!(found, &version);
    let at = |path: &[u8]| -> &Entry {
        let is = |entry: &&Entry| entry.path.0 == path;
        expected.entries.iter().find(is).unwrap()
    };
    // Not only the same, but what is meant.
    assert_eq!(at(b"etc/a\nb").size, Some(2));
    assert_eq!(at(b"etc/set-id").mode, 0o6751);
    assert_eq!(at(b"etc/empty").mtime, 1_000_000_000);
    assert_eq!(
        at(b"usr/first").hard_link.as_ref().unwrap().0,
        b"etc/second\nname"
    );
    assert_eq!(at(b"usr/first").package.as_ref().unwrap().0, b"tool");
    assert!(!dir.path().join("pwned").exists());
}

/// An archive as the script makes it, of these files.
fn packed(files: &[(&str, &[u8])]) -> Vec<u8> {
    let gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut archive = tar::Builder::new(gzip);
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, name, *bytes).unwrap();
    }
    archive.into_inner().unwrap().finish().unwrap()
}

fn read(change: (&str, &[u8])) -> Result<Listing, Unreadable> {
    let one = "11".repeat(32);
    let files: [(&str, &[u8]); 8] = [
        ("head", b"plain none\n"),
        (
            "names",
            b"d 755 0 0 1 5 - \0f 644 7 8 3 9999999999 - file\0c 666 0 0 0 5 - null\0d 755 0 0 1 5 - mnt\0\
              f 644 0 0 1 5 1:2 one\0f 644 0 0 1 5 1:2 two\0",
        ),
        ("sums", &[one.as_bytes(); 3].concat()),
        ("devices", b"1 103 ./null\0"),
        ("mounts", b"1 0 0:1 / / rw - ext4 x rw\n2 1 0:2 / /mnt rw - tmpfs x rw\n"),
        ("attributes", b""),
        ("status", b""),
        ("lists", b""),
    ];
    let files = files.map(|(name, bytes)| match change {
        (changed, bytes) if changed == name => (name, bytes),
        _ => (name, bytes),
    });
    Listing::read(&packed(&files), Packing::Gzip, DATE)
}

fn paths(listing: &Listing) -> Vec<String> {
    let entries = listing.tree.entries.iter();
    entries.map(|entry| entry.path.to_string()).collect()
}

#[test]
fn times_after_the_source_date_and_numbers_of_devices_are_read() {
    let listing = read(("", b"")).unwrap();
    assert_eq!(paths(&listing), ["", "file", "mnt", "null", "one", "two"]);
    let [root, file, _, null, _, two] = &listing.tree.entries[..] else {
        panic!("{listing:?}");
    };
    assert_eq!((root.mtime, file.mtime, null.mtime), (DATE, DATE, 5));
    assert_eq!((file.uid, file.gid), (7, 8));
    assert_eq!(null.device, Some((1, 0x103)));
    assert_eq!(two.hard_link.as_ref().unwrap().0, b"one");
}

#[test]
fn what_is_mounted_or_went_away_in_between_is_left_out() {
    let names = b"d 755 0 0 1 5 - \0d 755 0 0 1 5 - mnt\0f 644 0 0 1 5 - mnt/in\0f 644 0 0 1 5 - etc/no-directory\0\
                  f 644 0 0 1 5 - bound\0d 755 0 0 1 5 - proc\0d 755 0 0 1 5 - proc/1\0";
    let mounts = b"1 0 0:1 / / rw\n2 1 0:2 / /mnt rw\n3 1 0:2 / /bo\\165nd rw\n";
    let files: [(&str, &[u8]); 8] = [
        ("head", b"named none\n"),
        ("names", names),
        ("sums", b""),
        ("devices", b""),
        ("mounts", mounts),
        ("attributes", b""),
        ("status", b""),
        ("lists", b""),
    ];
    let of = |sums: &[u8]| {
        let mut files = files;
        files[2].1 = sums;
        Listing::read(&packed(&files), Packing::Gzip, DATE)
    };
    let line = |path: &str| format!("{}  ./{path}\0", "22".repeat(32));
    let sums = ["mnt/in", "etc/no-directory", "bound"].map(line).concat();
    assert_eq!(paths(&of(sums.as_bytes()).unwrap()), ["", "mnt", "proc"]);
    assert_eq!(paths(&of(b"").unwrap()), ["", "mnt", "proc"]);
    assert!(of(b"short\0").is_err());
}

#[test]
fn attributes_are_read_by_their_paths() {
    let names = b"d 755 0 0 1 5 - \0f 755 0 0 1 5 - a = b\0f 755 0 0 1 5 - a\nb\\\0";
    let sums = "33".repeat(64);
    let of = |how: &[u8], attributes: &[u8]| {
        let files: [(&str, &[u8]); 8] = [
            ("head", how),
            ("names", names),
            ("sums", sums.as_bytes()),
            ("devices", b""),
            ("mounts", b""),
            ("attributes", attributes),
            ("status", b""),
            ("lists", b""),
        ];
        Listing::read(&packed(&files), Packing::Gzip, DATE)
    };
    let pairs = |listing: &Listing| -> Vec<(String, String, Vec<u8>)> {
        let entries = listing.tree.entries.iter();
        let pairs = entries.flat_map(|entry| {
            let pairs = entry.xattrs.iter();
            pairs.map(|(name, value)| (entry.path.to_string(), name.to_string(), value.0.clone()))
        });
        pairs.collect()
    };
    let told = b"# file: a\\012b\\134\nuser.\\075x=0x00ff\nsecurity.selinux=0x01\nuser.empty\n\n# file: .\nuser.e=\"\"\n\n";
    let listing = of(b"plain getfattr", told).unwrap();
    assert_eq!(listing.attributes, Attributes::All);
    let found = [
        (String::new(), "user.e".to_owned(), vec![]),
        ("a\\nb\\\\".to_owned(), "user.=x".to_owned(), vec![0, 255]),
        ("a\\nb\\\\".to_owned(), "user.empty".to_owned(), vec![]),
    ];
    let mut told = pairs(&listing);
    told.sort();
    assert_eq!(told, found);
    assert!(of(b"plain getfattr", b"# file: a\nuser.x=0xzz\n").is_err());

    for told in ["./a = b = cap_chown+ep\n", "./a = b cap_chown+ep\n"] {
        let listing = of(b"plain getcap", told.as_bytes()).unwrap();
        assert_eq!(listing.attributes, Attributes::Capabilities);
        let (name, words) = ("security.capability".to_owned(), b"cap_chown+ep".to_vec());
        assert_eq!(pairs(&listing), [("a = b".to_owned(), name, words)]);
    }
}

#[test]
fn what_is_no_list_is_refused_and_says_what_is_wrong() {
    let cases: [(&str, &[u8], &str); 8] = [
        ("head", b"plain maybe", "attributes of `maybe`"),
        ("head", b"sorted none", "sums of the kind `sorted`"),
        ("names", b">x\0", "a target has no link"),
        ("names", b"f 644 0 0 one 5 - file\0", "is no entry"),
        ("names", b"f 644 0 0 1 5 - file\0", "more sums than files"),
        ("sums", b"zz", "a sum that is none"),
        ("sums", b"", "a sum that is none"),
        ("devices", b"x y ./null\0", "a device that is none"),
    ];
    for (file, bytes, said) in cases {
        let error = read((file, bytes)).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
    let sum = "22".repeat(32);
    let no_root = [
        ("head", b"plain none".as_slice()),
        ("names", b"f 644 0 0 1 5 - file\0"),
        ("sums", sum.as_bytes()),
        ("devices", b""),
        ("mounts", b""),
        ("attributes", b""),
        ("status", b""),
        ("lists", b""),
    ];
    let error = Listing::read(&packed(&no_root), Packing::Gzip, DATE).unwrap_err();
    assert_eq!(error.to_string(), "it has no root directory");
    let error = Listing::read(&packed(&no_root[1..]), Packing::Gzip, DATE).unwrap_err();
    assert_eq!(error.to_string(), "it has no `head`");
    let error = Listing::read(b"no archive", Packing::Xz, DATE).unwrap_err();
    assert!(error.to_string().contains("cannot be unpacked"), "{error}");
}

#[test]
fn what_leads_out_of_the_root_is_no_entry() {
    assert!(record(b"d 755 0 0 0 1 - ").is_some());
    assert!(record(b"f 644 0 0 0 1 - a/..b/.c/...").is_some());
    for path in ["..", "../a", "a/../b", "a/.", "/a", "a/", "a//b"] {
        let text = format!("d 755 0 0 0 1 - {path}");
        assert!(record(text.as_bytes()).is_none(), "{path}");
    }
}
