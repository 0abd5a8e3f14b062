//! What must not change a digest: the order and the looks of a recipe, and the host.

use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::*;

/// A piece of YAML.
#[derive(Debug, Clone)]
enum Tree {
    Text(&'static str),
    True,
    List(Vec<Tree>),
    Map(Vec<(&'static str, Tree)>),
}

fn text(text: &'static str) -> Tree {
    Tree::Text(text)
}

/// A recipe with every section that is an input, and more than one key in each map.
fn whole() -> Tree {
    let step = |name, run| {
        Tree::Map(vec![
            ("name", text(name)),
            ("run", text(run)),
            ("timeout", text("90s")),
            (
                "env",
                Tree::Map(vec![
                    ("A", text("{{ who }}")),
                    ("B", text("b: #")),
                    ("C", text("")),
                ]),
            ),
        ])
    };
    Tree::Map(vec![
        ("schema", text("piaas-bake/v1")),
        ("name", text("a")),
        ("version", text("1.2.3")),
        ("description", text("A test.")),
        (
            "from",
            Tree::Map(vec![("ami", text("ami-0123456789abcdef0"))]),
        ),
        (
            "parameters",
            Tree::Map(vec![
                (
                    "who",
                    Tree::Map(vec![
                        ("type", text("string")),
                        ("default", text("it's $(me)\n")),
                    ]),
                ),
                (
                    "token",
                    Tree::Map(vec![
                        ("type", text("string")),
                        ("secret", Tree::True),
                        ("default", text("ssm:/t")),
                    ]),
                ),
            ]),
        ),
        (
            "labels",
            Tree::Map(vec![
                ("team", text("ci")),
                ("a", text("é")),
                ("Z", text("z")),
            ]),
        ),
        ("packages", Tree::List(vec![text("git"), text("curl")])),
        (
            "files",
            Tree::List(vec![
                Tree::Map(vec![
                    ("path", text("/etc/one")),
                    ("content", text("{{ who }}")),
                    ("mode", text("0600")),
                ]),
                Tree::Map(vec![("path", text("/etc/tree")), ("tree", text("files"))]),
            ]),
        ),
        (
            "steps",
            Tree::List(vec![
                step("First", "echo {{ who }} {{ token }}\n"),
                step("Second", "true"),
            ]),
        ),
        ("validate", Tree::List(vec![step("Check", "true")])),
        ("test", Tree::List(vec![step("Test", "true")])),
        (
            "worker",
            Tree::Map(vec![
                ("adapter", text("buildbot")),
                ("unit", text("b@ci.service")),
            ]),
        ),
        (
            "build",
            Tree::Map(vec![("instance_profile", text("builder"))]),
        ),
        (
            "image",
            Tree::Map(vec![
                ("size", text("20GiB")),
                ("architecture", text("arm64")),
            ]),
        ),
    ])
}

/// Chooses how it is written; the same numbers give the same text.
struct Writer {
    choice: u64,
}

impl Writer {
    fn choose(&mut self, of: usize) -> usize {
        // Knuth's MMIX generator; its high bits are good enough to shuffle with.
        self.choice = self
            .choice
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((self.choice >> 33) % of as u64).unwrap()
    }

    fn shuffled<'t>(&mut self, map: &'t [(&'static str, Tree)]) -> Vec<&'t (&'static str, Tree)> {
        let mut entries: Vec<_> = map.iter().collect();
        for last in (1..entries.len()).rev() {
            let other = self.choose(last + 1);
            entries.swap(last, other);
        }
        entries
    }

    fn flow(&mut self, tree: &Tree) -> String {
        match tree {
            // JSON's texts are YAML's.
            Tree::Text(text) => serde_json::to_string(text).unwrap(),
            Tree::True => "true".into(),
            Tree::List(items) => {
                let items: Vec<_> = items.iter().map(|item| self.flow(item)).collect();
                format!("[{}]", items.join(", "))
            }
            Tree::Map(map) => {
                let entries = self.shuffled(map);
                let entries: Vec<_> = entries
                    .iter()
                    .map(|(key, tree)| format!("{key}: {}", self.flow(tree)))
                    .collect();
                format!("{{ {} }}", entries.join(" , "))
            }
        }
    }

    fn block(&mut self, tree: &Tree, indent: usize, out: &mut String) {
        let pad = " ".repeat(indent);
        let deeper = indent + 1 + self.choose(4);
        let entries: Vec<(String, &Tree)> = match tree {
            Tree::Text(_) | Tree::True => unreachable!("these are written on their line"),
            Tree::List(items) => items.iter().map(|item| ("-".to_owned(), item)).collect(),
            Tree::Map(map) => {
                let entries = self.shuffled(map);
                entries
                    .into_iter()
                    .map(|(key, tree)| (format!("{key}:"), tree))
                    .collect()
            }
        };
        for (begin, tree) in entries {
            match self.choose(4) {
                0 => out.push_str(&format!("{pad}# {begin} a comment\n")),
                1 => out.push('\n'),
                _ => {}
            }
            let flow = matches!(tree, Tree::Text(_) | Tree::True) || self.choose(3) == 0;
            if flow {
                let blanks = " ".repeat(1 + self.choose(3));
                let value = self.flow(tree);
                out.push_str(&format!("{pad}{begin}{blanks}{value}  # seen\n"));
            } else {
                out.push_str(&format!("{pad}{begin}\n"));
                self.block(tree, deeper, out);
            }
        }
    }
}

fn put_whole(kitchen: &Kitchen, choice: u64) -> String {
    let mut out = String::new();
    Writer { choice }.block(&whole(), 0, &mut out);
    kitchen
        .put("a/files/b/two", "2")
        .put("a/files/a", "1")
        .put("a/recipe.yaml", &out);
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_order_of_keys_comments_and_blanks_do_not_matter(one in any::<u64>(), other in any::<u64>()) {
        let (left, right) = (Kitchen::new(), Kitchen::new());
        let texts = (put_whole(&left, one), put_whole(&right, other));
        prop_assert_eq!(line(left.dir(), "a"), line(right.dir(), "a"), "{}\n---\n{}", texts.0, texts.1);
    }
}

/// The order of lists does: packages are installed, steps run and files placed in it.
#[test]
fn the_order_of_lists_matters() {
    let kitchen = Kitchen::new();
    let text = put_whole(&kitchen, 0);
    let before = line(kitchen.dir(), "a");
    let swapped = text
        .replace("\"git\"", "\"x\"")
        .replace("\"curl\"", "\"git\"")
        .replace("\"x\"", "\"curl\"");
    assert_ne!(text, swapped);
    kitchen.put("a/recipe.yaml", swapped);
    assert_ne!(before, line(kitchen.dir(), "a"));
}

const TELL: &str = "TELL_THE_DIGEST_IN";

/// Not a test of its own: what [`the_host_does_not_matter`] runs elsewhere.
#[test]
fn tell_the_digest() {
    if let Some(file) = std::env::var_os(TELL) {
        let kitchen = Kitchen::new();
        put_whole(&kitchen, 7);
        let digest = line(kitchen.dir(), "a").remove(0).1;
        fs::write(file, digest.to_string()).unwrap();
    }
}

#[test]
fn the_host_does_not_matter() {
    let out = tempfile::tempdir().unwrap();
    let mut told = std::collections::BTreeSet::new();
    for (n, (umask, directory, zone, locale)) in [
        ("022", "/", "UTC", "C"),
        ("077", "/tmp", "Pacific/Kiritimati", "tr_TR.UTF-8"),
        ("000", "/usr", "America/St_Johns", "ja_JP.eucJP"),
    ]
    .into_iter()
    .enumerate()
    {
        let file = out.path().join(n.to_string());
        let status = Command::new("/bin/sh")
            .arg("-c")
            .arg("umask \"$1\"; cd \"$2\"; exec \"$0\" --exact digest::tests::order::tell_the_digest")
            .arg(std::env::current_exe().unwrap())
            .args([umask, directory])
            .env(TELL, &file)
            .envs([("TZ", zone), ("LC_ALL", locale), ("LANG", locale)])
            // Another directory of recipes, too.
            .env("TMPDIR", out.path())
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success());
        told.insert(fs::read_to_string(file).unwrap());
    }
    let kitchen = Kitchen::new();
    put_whole(&kitchen, 8);
    told.insert(line(kitchen.dir(), "a").remove(0).1.to_string());
    assert_eq!(told.len(), 1, "{told:?}");
}
