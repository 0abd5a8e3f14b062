//! Directories to install: what may be in them.

use std::os::unix::fs::{PermissionsExt, symlink};

use super::super::model::TreeKind;
use super::super::*;
use super::Kitchen;

const TREE: &str = "files:\n  - { path: /etc/x, tree: files/x }\n";

fn kitchen() -> Kitchen {
    let kitchen = Kitchen::new();
    kitchen
        .recipe("a", TREE)
        .put("a/files/x/b/run", "run")
        .put("a/files/x/a.txt", "text")
        .put("outside", "secret");
    let run = kitchen.dir().join("a/files/x/b/run");
    std::fs::set_permissions(run, PermissionsExt::from_mode(0o750)).unwrap();
    kitchen
}

#[test]
fn a_tree_is_read_in_one_order_with_its_links() {
    let kitchen = kitchen();
    let root = kitchen.dir().join("a/files/x");
    symlink("../a.txt", root.join("b/link")).unwrap();
    std::fs::create_dir(root.join("c")).unwrap();
    let resolved = load(kitchen.dir(), "a", &Given::default()).unwrap();
    let tree = &resolved.line[0].trees[0];
    let seen: Vec<String> = tree
        .entries
        .iter()
        .map(|entry| match &entry.kind {
            TreeKind::Directory => format!("{}/", entry.path),
            TreeKind::File { executable, .. } => format!("{} {executable}", entry.path),
            TreeKind::Link { target } => format!("{} -> {target}", entry.path),
        })
        .collect();
    assert_eq!(
        seen,
        [
            "a.txt false",
            "b/",
            "b/link -> ../a.txt",
            "b/run true",
            "c/"
        ]
    );
}

#[test]
fn links_that_lead_out_or_nowhere_are_refused() {
    for (at, target, complaint) in [
        (
            "l",
            "/etc/passwd",
            "the link `l` leads outside the tree, to `/etc/passwd`",
        ),
        ("l", "../y", "leads outside the tree, to `../y`"),
        ("b/l", "../../y", "leads outside the tree"),
        ("b/l", "../b/../../y", "leads outside the tree"),
        (
            "l",
            "none",
            "the link `l` leads nowhere: `none` is not in the tree, or a loop",
        ),
        ("l", "l", "leads nowhere"),
    ] {
        let kitchen = kitchen();
        symlink(target, kitchen.dir().join("a/files/x").join(at)).unwrap();
        let found = kitchen.complaint("a");
        assert!(found.contains(complaint), "{complaint}:\n{found}");
        assert!(found.contains("a/recipe.yaml:7:27"), "{found}");
        assert!(found.contains("in the tree `files/x`"), "{found}");
    }
}

#[test]
fn trees_are_bounded_and_plain() {
    let put = |change: &dyn Fn(&std::path::Path)| {
        let kitchen = kitchen();
        change(&kitchen.dir().join("a/files/x"));
        kitchen.complaint("a")
    };
    let socket = put(&|root| {
        std::os::unix::net::UnixListener::bind(root.join("s")).unwrap();
    });
    assert!(socket.contains("`s` is a socket"), "{socket}");
    let pipe = put(&|root| {
        let made = std::process::Command::new("mkfifo")
            .arg(root.join("p"))
            .status();
        assert!(made.unwrap().success());
    });
    assert!(pipe.contains("`p` is a named pipe"), "{pipe}");
    let large = put(&|root| {
        // Sparse: it takes no room.
        let file = std::fs::File::create(root.join("large")).unwrap();
        file.set_len((512 << 20) + 1).unwrap();
    });
    assert!(large.contains("more than 536870912 bytes"), "{large}");
    let deep = put(&|root| {
        std::fs::create_dir_all(root.join(["d"; 40].join("/"))).unwrap();
    });
    assert!(deep.contains("more than 32 directories deep"), "{deep}");
    let many = put(&|root| {
        for n in 0..4100 {
            std::fs::write(root.join(format!("f{n}")), "").unwrap();
        }
    });
    assert!(many.contains("more than 4096 entries"), "{many}");
    let name = put(&|root| std::fs::write(root.join("a\nb"), "").unwrap());
    assert!(name.contains("a name that is not plain text"), "{name}");
}

#[test]
fn what_a_tree_may_say() {
    let kitchen = kitchen();
    let said = |rest: &str| {
        kitchen.recipe("a", &format!("files:\n  - {{ path: /etc/x, {rest} }}\n"));
        kitchen.complaint("a")
    };
    for (rest, complaint) in [
        ("tree: files/x, mode: \"0644\"", "a tree has no `mode`"),
        ("tree: files/x/a.txt", "`files/x/a.txt` is not a directory"),
        ("tree: ../", "`../` leads outside the recipe"),
        ("tree: files/y", "the file `files/y` does not exist"),
        (
            "tree: files/x, source: files/x/a.txt",
            "cannot stand beside",
        ),
        (
            "tree: files/x }\n  - { path: /etc/x/b/run, content: x",
            "`/etc/x/b/run` is installed twice",
        ),
        (
            "tree: files/x }\n  - { path: /etc, tree: files",
            "`/etc/x/a.txt` is installed twice",
        ),
    ] {
        let found = said(rest);
        assert!(found.contains(complaint), "{complaint}:\n{found}");
    }
    std::fs::create_dir(kitchen.dir().join("a/empty")).unwrap();
    assert!(said("tree: empty").contains("the directory is empty"));
}
