//! The table itself, and what seal.sh and [`inspect`] make of it: of one root they must say the same.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::super::tree::Tree;
use super::*;

const SEAL: &str = include_str!("../../../templates/seal.sh");

#[test]
fn every_line_of_the_table_is_whole_and_seal_sh_knows_what_it_asks_for() {
    let mut patterns = BTreeSet::new();
    let lines = TABLE.lines();
    for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let leak = entry(line).unwrap_or_else(|| panic!("{line}"));
        let when = line.split('\t').next().unwrap();
        let written = leak.action == Action::Written;
        assert!(
            matches!(when, "now" | "late") ^ written && (when == "-") == written,
            "{line}"
        );
        assert!(leak.path.chars().all(is_plain), "{line}");
        assert!(
            leak.path.starts_with('/') && !leak.path.ends_with('/'),
            "{line}"
        );
        let (depends_on, more) = leak.why.split_once(": ").unwrap_or_default();
        let known = ["clock", "random", "host", "order", "history"];
        assert!(known.contains(&depends_on) && !more.is_empty(), "{line}");
        assert!(patterns.insert(leak.path.clone()), "twice: {line}");
        assert_eq!(Action::parse(leak.action.word()), Some(leak.action));
        for function in ["clean", "remains"] {
            let (_, body) = SEAL.split_once(&format!("\n{function}() {{\n")).unwrap();
            let body = body.split("\n}\n").next().unwrap();
            let word = leak.action.word();
            let known = [
                format!(" {word}) "),
                format!(" {word})\n"),
                format!(" {word} | "),
            ];
            assert!(
                written || known.iter().any(|one| body.contains(one)),
                "{function} does not know {word}"
            );
        }
    }
    assert_eq!(table().len(), patterns.len());
    assert!(patterns.len() > 150);
}

/// A root with something at every path of the table that is asserted on a builder.
struct Root(tempfile::TempDir);

impl Root {
    fn new(own: &[Sealed]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let own: String = own.iter().map(Sealed::line).collect();
        fs::write(dir.path().join("seal.sh"), SEAL).unwrap();
        fs::write(dir.path().join("sealed-paths"), format!("{TABLE}{own}")).unwrap();
        fs::write(dir.path().join("source-date"), "1686355200\n").unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        Self(dir)
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0
            .path()
            .join("root")
            .join(path.trim_start_matches('/'))
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn seal(&self, verb: &str) -> (bool, BTreeSet<String>) {
        let output = Command::new("/bin/sh")
            .arg(self.0.path().join("seal.sh"))
            .arg(verb)
            .env("PIAAS_ROOT", self.0.path().join("root"))
            .output()
            .unwrap();
        assert!(output.stderr.is_empty(), "{output:?}");
        let root = self.0.path().join("root").display().to_string();
        let said = String::from_utf8(output.stdout).unwrap();
        let paths = said.lines().map(|line| {
            let path = line.strip_prefix(&*root).unwrap();
            path.to_owned()
        });
        (output.status.success(), paths.collect())
    }

    fn inspect(&self, own: &[Sealed]) -> BTreeSet<String> {
        let tree = Tree::scan(&self.path(""), 1_686_355_200).unwrap();
        let text = tree.manifest(&tree.survey().unwrap()).unwrap();
        let manifest = TreeManifest::parse(&text).unwrap();
        let found = inspect(&manifest, own);
        found.into_iter().map(|one| one.path).collect()
    }
}

fn sealed(path: &str, action: Action) -> Sealed {
    let path = path.to_owned();
    Sealed { path, action }
}

/// What a manifest cannot tell.
fn is_of_content(action: Action) -> bool {
    matches!(action, Action::Sorted | Action::Menu | Action::Keystore)
}

#[test]
fn what_seal_sh_names_is_what_the_finished_tree_is_found_to_have_and_sealing_takes_both_away() {
    let own = [
        sealed("/srv/gone-*", Action::Gone),
        sealed("/srv/empty", Action::Empty),
        sealed("/etc/docker/key.json", Action::Gone),
        sealed("/etc/kubernetes/pki", Action::Keep),
        sealed("/var/lib/mysql/*.pem", Action::Keep),
    ];
    let root = Root::new(&own);
    let now: Vec<&Leak> = table()
        .iter()
        .filter(|leak| TABLE.contains(&format!("now\t{}\t{}\t", leak.action.word(), leak.path)))
        .collect();
    let mut expected = BTreeSet::new();
    for leak in &now {
        let path = leak.path.replace(['*', '?'], "x");
        match leak.action {
            Action::Tree | Action::Logs => root.put(&format!("{path}/x-a/x"), "text"),
            Action::Dangling => {
                fs::create_dir_all(root.path(&path)).unwrap();
                symlink("away", root.path(&path).join("0a1b.0")).unwrap();
                symlink("../away", root.path(&path).join("other")).unwrap();
                root.put(&format!("{path}/there"), "text");
                symlink("there", root.path(&path).join("0a1b.1")).unwrap();
                // As those of ca-certificates: what is beside it leads elsewhere.
                symlink("other", root.path(&path).join("0a1b.2")).unwrap();
                expected.insert(format!("{path}/0a1b.0"));
                continue;
            }
            Action::Sorted => root.put(&path, "b\na\n"),
            Action::Menu => root.put(
                &path,
                "head\n* Menu: x\n\nB\n* b: (b).\n  more\n\nA\n* a: (a).\n",
            ),
            // No keystore: nothing is known of it.
            Action::Keystore => {
                root.put(&path, "text");
                continue;
            }
            // A directory: what is below counts.
            Action::Refused if !leak.path.contains(['*', '.', '_']) => {
                root.put(&format!("{path}/x"), "text");
            }
            _ => root.put(&path, "text"),
        }
        let below = matches!(leak.action, Action::Tree | Action::Logs);
        let inner = format!("{path}/x");
        expected.insert(match leak.action {
            _ if below => format!("{path}/x-a/x"),
            Action::Refused if root.path(&inner).exists() => inner,
            _ => path,
        });
    }
    for path in ["/srv/gone-1", "/srv/gone-2", "/srv/empty/a", "/srv/other"] {
        root.put(path, "text");
        if path != "/srv/other" {
            expected.insert(path.to_owned());
        }
    }
    for kept in ["/etc/kubernetes/pki/x", "/var/lib/mysql/x.pem"] {
        assert!(expected.remove(kept), "{kept}");
    }
    root.put("/var/log/x-1.gz", "");
    expected.insert("/var/log/x-1.gz".into());
    root.put("/etc/hosts", "text");

    let (clean, named) = root.seal("assert");
    assert!(!clean);
    assert_eq!(named, expected);
    let of_content = now.iter().filter(|leak| is_of_content(leak.action));
    for leak in of_content {
        expected.remove(&leak.path);
    }
    assert_eq!(root.inspect(&own), expected);

    assert!(root.seal("seal").0);
    let refused: BTreeSet<String> = expected
        .into_iter()
        .filter(|path| !lines(&[explain(path, &own)]).is_empty())
        .filter(|path| path != "/etc/docker/key.json")
        .collect();
    assert!(refused.len() > 30, "{refused:?}");
    assert_eq!(root.seal("assert").1, refused);
    assert_eq!(root.inspect(&own), refused);
    for path in &refused {
        fs::remove_file(root.path(path)).unwrap();
    }
    assert_eq!(root.seal("assert"), (true, BTreeSet::new()));
    assert_eq!(root.inspect(&own), BTreeSet::new());

    let read = |path: &str| fs::read_to_string(root.path(path)).unwrap();
    for (path, text) in [
        ("/etc/machine-id", ""),
        ("/etc/hosts", "text"),
        ("/srv/other", "text"),
        ("/etc/kubernetes/pki/x", "text"),
        ("/var/lib/mysql/x.pem", "text"),
        ("/etc/ssl/certs/0a1b.1", "text"),
        ("/var/lib/dpkg/triggers/File", "a\nb\n"),
        (
            "/usr/share/info/dir",
            "head\n* Menu: x\n\nA\n* a: (a).\n\nB\n* b: (b).\n  more\n",
        ),
    ] {
        assert_eq!(read(path), text, "{path}");
    }
    assert!(root.path("/srv/empty").is_dir() && !root.path("/srv/gone-1").exists());
    for link in ["other", "0a1b.2"] {
        let link = root.path("/etc/ssl/certs").join(link);
        assert!(fs::symlink_metadata(&link).is_ok(), "{link:?}");
    }
    // Once more, and nothing changes.
    assert!(root.seal("seal").0);
    assert_eq!(root.seal("assert"), (true, BTreeSet::new()));
}

#[test]
fn what_is_in_use_until_the_shutdown_must_be_gone_from_the_finished_disk() {
    let root = Root::new(&[]);
    let late = [
        "/tmp/x",
        "/var/tmp/y",
        "/var/log/amazon/ssm/x.log",
        "/var/lib/amazon/ssm/i-1/x",
    ];
    for path in late {
        root.put(path, "text");
    }
    assert_eq!(root.seal("assert").1, BTreeSet::new());
    let found = root.inspect(&[]);
    let under = |path: &Path| found.iter().any(|one| path.starts_with(one));
    assert!(late.iter().all(|path| under(Path::new(path))), "{found:?}");
    assert!(root.seal("late").0);
    assert_eq!(root.inspect(&[]), BTreeSet::new());
}

#[test]
fn a_path_is_told_with_its_reason_and_the_line_that_helps() {
    let found = explain("/var/lib/mysql/auto.cnf", &[]);
    assert_eq!(
        found.to_string(),
        "/var/lib/mysql/auto.cnf (random: the id of the server)"
    );
    let [[gone, keep]] = &lines(&[found])[..] else {
        panic!("one path has one pair of lines");
    };
    assert_eq!(gone, "- { path: /var/lib/mysql/auto.cnf, action: gone }");
    assert!(keep.contains("action: keep, reason: "), "{keep}");
    let gone = |paths: &[&str]| -> Vec<String> {
        let found: Vec<Found> = paths.iter().map(|path| explain(path, &[])).collect();
        assert!(!came_back(&found));
        lines(&found).into_iter().map(|[gone, _]| gone).collect()
    };
    assert_eq!(
        gone(&["/etc/ssl/private/a b's *.key"]),
        ["- { path: /etc/ssl/private/a*b*s*.key, action: gone }"]
    );
    let cluster = [
        "/etc/kubernetes/pki/ca.key",
        "/etc/kubernetes/pki/sa.key",
        "/etc/krb5.keytab",
    ];
    assert_eq!(
        gone(&cluster),
        [
            "- { path: /etc/krb5.keytab, action: gone }",
            "- { path: /etc/kubernetes/pki, action: gone }"
        ]
    );
    // Cleaned, and so not refused, although a pattern of what is refused matches it.
    let snakeoil = [explain("/etc/ssl/private/ssl-cert-snakeoil.key", &[])];
    assert!(lines(&snakeoil).is_empty() && came_back(&snakeoil));
    assert_eq!(snakeoil[0].leak.as_ref().unwrap().action, Action::Gone);
    let own = [sealed("/srv/x", Action::Gone)];
    assert_eq!(
        explain("/srv/x", &own).to_string(),
        "/srv/x (the recipe says so)"
    );
    assert_eq!(explain("/srv/y", &own).to_string(), "/srv/y");
}
