//! What a first boot must have made, and what it must have left. Pure.

use std::collections::HashMap;

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::image::tree::{Entry, EntryType, TreeManifest};

/// Files of an image whose content a first boot may change, with the reason. A path that ends in a slash stands for all
/// below it. They may not go, and keep their type, mode and owner.
const MAY_CHANGE: [(&str, &str); 2] = [
    ("etc/machine-id", "each machine makes its own"),
    ("var/log/", "boots and logins are logged, as in wtmp"),
];

/// How many changed files are named.
const NAMED: usize = 10;

/// A check of the boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct Check {
    pub name: String,
    pub passed: bool,
    /// What was seen.
    pub detail: String,
}

impl Check {
    fn new(name: &str, seen: Result<String, String>) -> Self {
        let passed = seen.is_ok();
        let (Ok(detail) | Err(detail)) = seen;
        // A machine says what it likes, and it must not steer the terminal.
        let harmless = |c: char| if c.is_control() { '\u{fffd}' } else { c };
        let detail = detail.chars().map(harmless).collect();
        Self {
            name: name.to_owned(),
            passed,
            detail,
        }
    }
}

/// What a machine has told of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// What `systemctl is-system-running` says.
    pub state: String,
    /// Units that have failed, with spaces between.
    pub failed: String,
    pub machine_id: String,
    /// Type and public key of each SSH host key.
    pub host_keys: Vec<String>,
    pub disk_bytes: u64,
    /// Size of the root file system as statfs(2) says it: without its own tables.
    pub root_bytes: u64,
    /// Exit code of the runner.
    pub tests: Option<i32>,
    /// It has said that it ends itself.
    pub ended: bool,
}

impl Facts {
    /// Takes a line `fact NAME VALUE` of `templates/boot-proof.sh`, behind its record separator; gives its name.
    pub fn take<'l>(&mut self, line: &'l str) -> Option<&'l str> {
        let fact = line.strip_prefix("\u{1e}fact ")?;
        let (name, value) = fact.split_once(' ')?;
        let value = value.trim();
        match name {
            "state" => self.state = value.to_owned(),
            "failed" => self.failed = value.to_owned(),
            "machine-id" => self.machine_id = value.to_owned(),
            "host-key" => self.host_keys.push(value.to_owned()),
            "disk-bytes" => self.disk_bytes = value.parse().ok()?,
            "root-bytes" => self.root_bytes = value.parse().ok()?,
            "tests" => self.tests = Some(value.parse().ok()?),
            "ended" => self.ended = true,
            _ => {}
        }
        Some(name)
    }
}

/// What is at a path of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    /// The letter of `find -printf %y`.
    kind: u8,
    mode: u32,
    uid: u32,
    gid: u32,
    target: Vec<u8>,
    /// SHA-256 of a regular file, in hex.
    sha256: Option<String>,
}

/// The root file system of a machine: what is at each path, relative to the root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing(HashMap<Vec<u8>, Found>);

impl Listing {
    /// Reads the lists of `templates/boot-proof.sh`: for each path seven fields that end in NUL (path, type, mode, uid,
    /// gid, size, target), and lines of `sha256sum -z` for paths that begin with `./`. `None` if they are none.
    #[must_use]
    pub fn parse(paths: &[u8], sums: &[u8]) -> Option<Self> {
        let fields: Vec<&[u8]> = paths
            .strip_suffix(b"\0")?
            .split(|byte| *byte == 0)
            .collect();
        let text = |field: &[u8]| std::str::from_utf8(field).ok().map(str::to_owned);
        let number = |field: &[u8]| text(field)?.parse::<u32>().ok();
        let mut found = HashMap::new();
        for one in fields.chunks(7) {
            let [path, kind, mode, uid, gid, _size, target] = one else {
                return None;
            };
            let entry = Found {
                kind: *kind.first()?,
                mode: u32::from_str_radix(&text(mode)?, 8).ok()?,
                uid: number(uid)?,
                gid: number(gid)?,
                target: target.to_vec(),
                sha256: None,
            };
            found.insert(path.to_vec(), entry);
        }
        for line in sums
            .split(|byte| *byte == 0)
            .filter(|line| !line.is_empty())
        {
            let (sum, path) = line.split_at_checked(64)?;
            // A file that has come since is in no list of paths.
            if let Some(entry) = found.get_mut(path.strip_prefix(b"  ./")?) {
                entry.sha256 = Some(text(sum)?);
            }
        }
        Some(Self(found))
    }
}

/// The root file system has grown to the disk, which is larger than the image. The tables of ext4 take about 4 %.
#[must_use]
pub fn grown(facts: &Facts) -> Check {
    let Facts {
        disk_bytes: disk,
        root_bytes: root,
        ..
    } = *facts;
    let seen = format!("{} MiB on a disk of {} MiB", root >> 20, disk >> 20);
    let full = disk > 0 && root / 9 >= disk / 10;
    Check::new(
        "the root file system has grown to the disk",
        if full { Ok(seen) } else { Err(seen) },
    )
}

/// The first boot has made a machine id that the image did not have, and another boot makes another one.
#[must_use]
pub fn machine_id(tree: &TreeManifest, first: &Facts, second: &Facts) -> Check {
    let is_id = |id: &str| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    let of_image = tree.entries.iter();
    let of_image = of_image.filter(|entry| entry.path.0 == b"etc/machine-id");
    let sum = hex::encode(Sha256::digest(format!("{}\n", first.machine_id)));
    let seen = if !is_id(&first.machine_id) {
        Err(format!("/etc/machine-id is `{}`", first.machine_id))
    } else if of_image
        .filter_map(|entry| entry.sha256.as_ref())
        .any(|one| *one == sum)
    {
        Err(format!("{} is in the image", first.machine_id))
    } else if first.machine_id == second.machine_id {
        Err(format!("two machines have {}", first.machine_id))
    } else {
        Ok(format!("{}, then {}", first.machine_id, second.machine_id))
    };
    Check::new("the machine id is new", seen)
}

/// The first boot has made SSH host keys, and another boot makes others.
#[must_use]
pub fn host_keys(tree: &TreeManifest, first: &Facts, second: &Facts) -> Check {
    let paths = || tree.entries.iter().map(|entry| entry.path.0.as_slice());
    let is_key = |path: &&[u8]| path.starts_with(b"etc/ssh/ssh_host_") && path.ends_with(b"_key");
    let seen = if let Some(key) = paths().find(is_key) {
        Err(format!("/{} is in the image", String::from_utf8_lossy(key)))
    } else if !paths().any(|path| path == b"usr/sbin/sshd") {
        Ok("there is no sshd".to_owned())
    } else if first.host_keys.is_empty() {
        Err("there are none".to_owned())
    } else if let Some(key) = first
        .host_keys
        .iter()
        .find(|key| second.host_keys.contains(key))
    {
        Err(format!("two machines have {key}"))
    } else {
        Ok(format!("{} keys", first.host_keys.len()))
    };
    Check::new("the SSH host keys are new", seen)
}

/// Everything of the image is there as it was, but for [`MAY_CHANGE`]. What has come is not looked at; times and
/// extended attributes neither.
#[must_use]
pub fn files(tree: &TreeManifest, listing: &Listing) -> Check {
    let changes: Vec<String> = tree
        .entries
        .iter()
        .filter_map(|entry| {
            let what = changed(entry, listing.0.get(&entry.path.0))?;
            Some(format!("/{}: {what}", entry.path))
        })
        .collect();
    let more = match changes.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    let named: Vec<&str> = changes.iter().take(NAMED).map(String::as_str).collect();
    Check::new(
        "the image's files are as they were",
        if changes.is_empty() {
            Ok(format!("{} paths", tree.entries.len()))
        } else {
            Err(format!("{}{more}", named.join("; ")))
        },
    )
}

fn changed(entry: &Entry, found: Option<&Found>) -> Option<String> {
    let Some(found) = found else {
        return Some("is gone".to_owned());
    };
    let letter = match entry.kind {
        EntryType::Directory => b'd',
        EntryType::File => b'f',
        EntryType::Symlink => b'l',
        EntryType::CharDevice => b'c',
        EntryType::BlockDevice => b'b',
        EntryType::Fifo => b'p',
    };
    if found.kind != letter {
        return Some(format!("is of type {}", char::from(found.kind)));
    }
    if found.mode != entry.mode {
        return Some(format!("mode {:04o} -> {:04o}", entry.mode, found.mode));
    }
    if (found.uid, found.gid) != (entry.uid, entry.gid) {
        let (uid, gid) = (found.uid, found.gid);
        return Some(format!("owner {}:{} -> {uid}:{gid}", entry.uid, entry.gid));
    }
    if entry
        .target
        .as_ref()
        .is_some_and(|target| target.0 != found.target)
    {
        return Some("points elsewhere".to_owned());
    }
    if entry.sha256 != found.sha256 && !may_change(&entry.path.0) {
        return Some("other content".to_owned());
    }
    None
}

fn may_change(path: &[u8]) -> bool {
    MAY_CHANGE.iter().any(|(allowed, _)| {
        if allowed.ends_with('/') {
            path.starts_with(allowed.as_bytes())
        } else {
            path == allowed.as_bytes()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUM: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn tree() -> TreeManifest {
        let line = |rest: &str| format!("{{{rest},\"uid\":0,\"gid\":0,\"mtime\":1");
        let file = format!(",\"size\":0,\"sha256\":\"{SUM}\"}}");
        let text = [
            r#"{"format":"piaas-bake/tree/1","packages":[]}"#.to_owned(),
            line(r#""path":"","type":"directory","mode":"0755""#) + "}",
            line(r#""path":"a","type":"file","mode":"4755""#) + &file,
            line(r#""path":"etc/machine-id","type":"file","mode":"0644""#) + &file,
            line(r#""path":"l","type":"symlink","mode":"0777""#) + ",\"target\":\"a\"}",
            line(r#""path":"usr/sbin/sshd","type":"file","mode":"0755""#) + &file,
        ];
        TreeManifest::parse(&text.join("\n")).unwrap()
    }

    fn listing(change: impl Fn(&str) -> String) -> Listing {
        let other = SUM.replace('e', "f");
        let paths = "|d|755|0|0|4096||a|f|4755|0|0|0||etc/machine-id|f|644|0|0|33||l|l|777|0|0|1|a|\
                     usr/sbin/sshd|f|755|0|0|0||new|f|600|1|1|0||";
        let sums =
            format!("{SUM}  ./a|{other}  ./etc/machine-id|{SUM}  ./usr/sbin/sshd|{SUM}  ./late|");
        let bytes = |text: &str| change(text).replace('|', "\0").into_bytes();
        Listing::parse(&bytes(paths), &bytes(&sums)).unwrap()
    }

    #[test]
    fn files_are_as_they_were_or_are_named() {
        let as_it_was = files(&tree(), &listing(str::to_owned));
        assert_eq!(
            (as_it_was.passed, as_it_was.detail.as_str()),
            (true, "5 paths")
        );
        for (from, to, detail) in [
            ("a|f|4755", "b|f|4755", "/a: is gone"),
            ("a|f|4755", "a|f|755", "/a: mode 4755 -> 0755"),
            ("a|f|4755|0|0", "a|f|4755|0|7", "/a: owner 0:0 -> 0:7"),
            ("a|f|", "a|p|", "/a: is of type p"),
            ("0|1|a|", "0|1|b|", "/l: points elsewhere"),
            ("b855  ./a|", "b850  ./a|", "/a: other content"),
            // Its content may change, and nothing else of it.
            ("id|f|644", "id|f|600", "/etc/machine-id: mode 0644 -> 0600"),
        ] {
            let check = files(&tree(), &listing(|text| text.replace(from, to)));
            assert_eq!((check.passed, check.detail.as_str()), (false, detail));
        }
        let steers = files(&tree(), &listing(|text| text.replace("a|f|", "a|\u{1b}|")));
        assert_eq!(steers.detail, "/a: is of type \u{fffd}");
        assert_eq!(Listing::parse(b"a\0f\0", b""), None);
        assert_eq!(Listing::parse(b"", b""), None);
    }

    fn facts(id: &str, keys: &[&str]) -> Facts {
        let mut facts = Facts::default();
        assert_eq!(
            facts.take(&format!("\u{1e}fact machine-id {id}")),
            Some("machine-id")
        );
        for key in keys {
            assert!(facts.take(&format!("\u{1e}fact host-key {key}")).is_some());
        }
        facts
    }

    #[test]
    fn an_identity_is_new_and_nobody_elses() {
        let ids = ["0123456789abcdef".repeat(2), "fedcba9876543210".repeat(2)];
        let [one, two] = [
            facts(&ids[0], &["rsa A", "ed B"]),
            facts(&ids[1], &["rsa C", "ed D"]),
        ];
        assert!(machine_id(&tree(), &one, &two).passed);
        assert!(!machine_id(&tree(), &one, &one).passed);
        assert!(!machine_id(&tree(), &facts("uninitialized", &[]), &two).passed);
        let mut kept = tree();
        kept.entries[2].sha256 = Some(hex::encode(Sha256::digest(format!("{}\n", ids[0]))));
        assert!(!machine_id(&kept, &one, &two).passed);

        assert!(host_keys(&tree(), &one, &two).passed);
        let same = facts(&ids[1], &["rsa C", "ed B"]);
        let check = host_keys(&tree(), &one, &same);
        assert_eq!(
            (check.passed, check.detail.as_str()),
            (false, "two machines have ed B")
        );
        assert!(!host_keys(&tree(), &facts(&ids[0], &[]), &two).passed);
        kept.entries[1].path = b"etc/ssh/ssh_host_rsa_key"[..].into();
        assert!(!host_keys(&kept, &one, &two).passed);
        kept.entries.truncate(1);
        assert!(host_keys(&kept, &facts(&ids[0], &[]), &two).passed);
    }

    #[test]
    fn a_root_that_kept_its_size_has_not_grown() {
        let mut facts = Facts::default();
        assert!(!grown(&facts).passed);
        assert!(facts.take("\u{1e}fact disk-bytes 12884901888").is_some());
        assert!(facts.take("\u{1e}fact root-bytes 12309712896").is_some());
        assert!(grown(&facts).passed);
        facts.root_bytes = 8 << 30;
        assert!(!grown(&facts).passed);
        // What a test prints is no fact.
        assert_eq!(facts.take("fact disk-bytes 1"), None);
    }
}
