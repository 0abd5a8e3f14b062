//! What a machine writes on its own disk as it boots. Of two machines of one image it is another, and of an image that a
//! booted builder was made into it may be: where machines are compared, it does not count.
//!
//! Most of it is in the table of the known leaks: what the seal removes from every image was written by a boot, if a
//! machine has it. [`BOOTED`] is the rest.

use std::sync::LazyLock;

use super::{Action, Leak, Sealed, entry, table};
use crate::image::tree::{Entry, EntryType, TreeManifest};

/// Patterns as in the table of the known leaks, and why.
const BOOTED: [(&str, &str); 33] = [
    ("/etc/hostname", "host: its name"),
    ("/etc/hosts", "host: its name, of cloud-init"),
    ("/etc/resolv.conf", "host: its name server"),
    ("/etc/adjtime", "clock: how far the hardware's clock is off"),
    (
        "/etc/network/interfaces.d/50-cloud-init*",
        "host: its network cards, of cloud-init",
    ),
    (
        "/etc/netplan/50-cloud-init.yaml",
        "host: its network cards, of cloud-init",
    ),
    (
        "/etc/systemd/network/10-cloud-init-*",
        "host: its network cards, of cloud-init",
    ),
    (
        "/etc/NetworkManager/system-connections/cloud-init-*",
        "host: its network cards, of cloud-init",
    ),
    (
        "/etc/sysconfig/network-scripts/ifcfg-*",
        "host: its network cards, of cloud-init",
    ),
    (
        "/etc/sudoers.d/90-cloud-init-users",
        "clock: when cloud-init wrote it",
    ),
    ("/boot/grub/grubenv", "history: how the last boot ended"),
    ("/boot/grub2/grubenv", "history: how the last boot ended"),
    (
        "/var/lib/NetworkManager/NetworkManager*",
        "host: its network cards",
    ),
    ("/var/lib/dhclient/*", "host: its addresses"),
    ("/var/lib/systemd/backlight", "host: its hardware"),
    ("/var/lib/systemd/rfkill", "host: its hardware"),
    ("/var/lib/systemd/coredump", "history: what crashed"),
    ("/var/lib/systemd/pstore", "history: what crashed"),
    ("/var/crash", "history: what crashed"),
    (
        "/var/lib/plymouth/boot-duration",
        "clock: how long the last boot took",
    ),
    ("/var/lib/lastlog/lastlog2.db", "clock: who logged in when"),
    ("/var/lib/wtmpdb/wtmp.db", "clock: who logged in when"),
    (
        "/var/lib/rsyslog/imjournal.state",
        "history: how far the journal was read",
    ),
    (
        "/var/lib/logrotate/logrotate.status",
        "clock: when a log was rotated",
    ),
    ("/var/spool/anacron/*", "clock: when a job ran last"),
    (
        "/var/lib/unattended-upgrades/kept-back",
        "clock: the archive of that day",
    ),
    ("/var/cache/dnf", "clock: the archive of that day"),
    (
        "/var/cache/apparmor",
        "host: rules, compiled for its kernel",
    ),
    (
        "/var/lib/docker/network/files/local-kv.db",
        "random: the ids of its networks",
    ),
    (
        "/var/lib/docker/buildkit/*.db",
        "clock: when the engine started",
    ),
    (
        "/var/lib/docker/volumes/metadata.db",
        "clock: when the engine started",
    ),
    (
        "/var/lib/containerd/*/meta.db",
        "clock: when the engine started",
    ),
    (
        "/var/lib/containerd/*/metadata.db",
        "clock: when the engine started",
    ),
];

/// [`BOOTED`] as entries of a table.
fn booted() -> &'static [Leak] {
    static ENTRIES: LazyLock<Vec<Leak>> = LazyLock::new(|| {
        let lines = BOOTED.map(|(path, why)| format!("-\tgone\t{path}\t{why}"));
        let entries = lines.iter().map(|line| entry(line));
        entries
            .map(|leak| leak.expect("a test reads every line of the table"))
            .collect()
    });
    &ENTRIES
}

/// What a boot writes on machines of images whose recipes say this about paths of their own.
#[derive(Debug)]
pub struct Traces {
    /// What recipes keep is in the image.
    kept: Vec<Leak>,
    all: Vec<Leak>,
}

/// The list of a machine in two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parted {
    /// What the image is.
    pub content: TreeManifest,
    /// What a boot writes, or may have written. It has no packages.
    pub traces: TreeManifest,
}

impl Traces {
    /// The known traces, and those that recipes name.
    #[must_use]
    pub fn new(own: &[Sealed]) -> Self {
        let own = own.iter().map(Sealed::leak);
        let (kept, removed): (Vec<_>, Vec<_>) = own.partition(|leak| leak.action == Action::Keep);
        let known = table().iter().chain(booted()).filter(|leak| {
            matches!(
                leak.action,
                Action::Gone | Action::Empty | Action::Tree | Action::Logs | Action::Refused
            )
        });
        Self {
            kept,
            all: known.cloned().chain(removed).collect(),
        }
    }

    /// The entry of the table by which a boot may have written this.
    #[must_use]
    pub fn of(&self, entry: &Entry) -> Option<&Leak> {
        let path = entry.path.0.as_slice();
        let is_directory = entry.kind == EntryType::Directory;
        self.all.iter().find(|leak| {
            leak.pattern.covers(path)
                && match leak.action {
                    // The directory itself is of the image.
                    Action::Empty | Action::Tree | Action::Logs => {
                        !(is_directory && leak.pattern.matches(path))
                    }
                    Action::Refused => {
                        !is_directory && !self.kept.iter().any(|kept| kept.pattern.covers(path))
                    }
                    _ => true,
                }
        })
    }

    /// Parts the list of a machine.
    #[must_use]
    pub fn part(&self, tree: TreeManifest) -> Parted {
        let (traces, content) = tree
            .entries
            .into_iter()
            .partition(|entry| self.of(entry).is_some());
        let (packages, none) = (tree.packages, Vec::new());
        Parted {
            content: TreeManifest {
                packages,
                entries: content,
            },
            traces: TreeManifest {
                packages: none,
                entries: traces,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::is_plain;
    use super::*;
    use crate::image::compare::compare;
    use crate::image::compare::tests::manifest;
    use crate::image::tree::Node;

    #[test]
    fn every_line_is_whole_and_of_no_path_that_the_table_of_leaks_has() {
        let known = ["clock", "random", "host", "order", "history"];
        let mut seen: BTreeSet<&str> = table().iter().map(|leak| leak.path.as_str()).collect();
        for (leak, (path, _)) in booted().iter().zip(BOOTED) {
            let (depends_on, more) = leak.why.split_once(": ").unwrap_or_default();
            assert!(known.contains(&depends_on) && !more.is_empty(), "{path}");
            assert!(
                path.chars().all(is_plain) && path.starts_with('/'),
                "{path}"
            );
            assert!(seen.insert(&leak.path), "twice: {path}");
        }
    }

    fn paths(tree: &TreeManifest) -> Vec<String> {
        let entries = tree.entries.iter();
        let paths = entries.map(|entry| entry.path.to_string());
        paths.filter(|path| path != "var/lib/dpkg/status").collect()
    }

    #[test]
    fn what_the_seal_removes_and_what_a_boot_writes_is_no_content() {
        let file = || Node::file("x", 0o644, 0);
        let nodes = || {
            vec![
                ("etc/hostname", file()),
                ("etc/hostname.d/mine", file()),
                ("etc/machine-id", file()),
                ("etc/ssh/ssh_host_rsa_key", file()),
                ("etc/ssh/sshd_config", file()),
                ("etc/kubernetes/pki/ca.key", file()),
                ("srv/own/made", file()),
                ("tmp/deep/file", file()),
                ("var/log/app/one.log", file()),
            ]
        };
        let content = |own: &[Sealed]| {
            let tree = manifest(&[("jq", "1")], nodes());
            let all = tree.entries.len();
            let parted = Traces::new(own).part(tree);
            let parts = [&parted.content, &parted.traces].map(|part| part.entries.len());
            assert_eq!(parts.iter().sum::<usize>(), all);
            assert_eq!(
                (parted.content.packages.len(), parted.traces.packages.len()),
                (1, 0)
            );
            (paths(&parted.content), paths(&parted.traces))
        };
        let (stays, traces) = content(&[]);
        let written = [
            "etc/hostname",
            "etc/kubernetes/pki/ca.key",
            "etc/machine-id",
            "etc/ssh/ssh_host_rsa_key",
            "tmp/deep",
            "tmp/deep/file",
            "var/log/app",
            "var/log/app/one.log",
        ];
        assert_eq!(traces, written);
        for path in [
            "etc/hostname.d/mine",
            "etc/ssh/sshd_config",
            "srv/own/made",
            "tmp",
            "var/log",
        ] {
            assert!(stays.contains(&path.to_owned()), "{path}");
        }
        // What a recipe keeps is in its image, and what it removes is not.
        let own = |path: &str, action| Sealed {
            path: path.into(),
            action,
        };
        let (stays, traces) = content(&[
            own("/etc/kubernetes/pki", Action::Keep),
            own("/srv/own", Action::Gone),
        ]);
        assert!(stays.contains(&"etc/kubernetes/pki/ca.key".to_owned()));
        assert!(traces.contains(&"srv/own/made".to_owned()));
    }

    #[test]
    fn the_digest_of_the_content_is_the_same_for_two_boots_of_one_image() {
        let machine = |id: &str, conf: &str| {
            let nodes = vec![
                ("etc/conf", Node::file(conf, 0o644, 0)),
                ("etc/machine-id", Node::file(id, 0o444, 0)),
            ];
            Traces::new(&[]).part(manifest(&[], nodes))
        };
        let (one, two) = (machine("1", "a"), machine("22", "a"));
        assert_eq!(one.content.digest(), two.content.digest());
        let found = compare(&one.traces, &two.traces);
        assert_eq!(found.files.len(), 1);
        assert_ne!(one.content.digest(), machine("1", "b").content.digest());
    }
}
