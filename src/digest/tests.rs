mod order;
mod vectors;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::recipe::tests::Kitchen;
use crate::{recipe, render};

fn line(dir: &Path, name: &str) -> Vec<(Manifest, Digest)> {
    let resolved = recipe::load(dir, name, &recipe::Given::default())
        .unwrap_or_else(|found| panic!("{found}"));
    chain(
        &resolved,
        &render::render(&resolved, b"agent").unwrap_or_else(|found| panic!("{found}")),
    )
}

/// A line of two recipes with everything in it that a manifest names.
fn put_line(kitchen: &Kitchen) {
    kitchen.put("root/files/motd", "hello\n").recipe(
        "root",
        "parameters: { who: { type: string, default: \"it's me\" } }\npackages: [git, curl]\nfiles:\n  - { path: /etc/motd, source: files/motd }\nsteps:\n  - { name: Say it, run: \"echo {{ who }}\", env: { B: \"{{ who }}\", A: a }, reboot: true }\n  - { name: Again, run: \"true\" }\n",
    );
    kitchen.on(
        "child",
        "{ recipe: root, version: ^1 }",
        "validate: [{ name: Check, run: \"true\" }]\ntest: [{ name: Check, run: \"true\" }]\nimage: { size: 20GiB }\n",
    );
}

fn kitchen() -> Kitchen {
    let kitchen = Kitchen::new();
    put_line(&kitchen);
    kitchen
}

#[test]
fn known_answers() {
    let chain = line(kitchen().dir(), "child");
    let (root, digest) = &chain[0];
    assert_eq!(
        root.to_canonical_json(),
        include_str!("known_root.json").trim_end()
    );
    assert_eq!(
        digest.to_string(),
        "4fb871f743640496d55b419ded93b6edabf3f60834e6673f26c9634d4aac86fc"
    );
    let (child, digest) = &chain[1];
    assert_eq!(
        child.to_canonical_json(),
        include_str!("known_child.json").trim_end()
    );
    assert_eq!(
        digest.to_string(),
        "6b92d73d7037961202d834c4ad67eaf6ad26824b97eeae5f59ea6f16ebd140c2"
    );
    assert_eq!(digest.short(), digest.to_string()[..12]);
    // The digest is that of the text, so `sha256sum` of a stored manifest shows it.
    assert_eq!(Digest::of(child.to_canonical_json().as_bytes()), *digest);
}

#[test]
fn the_digest_does_not_depend_on_place_time_or_order() {
    let (a, b) = (kitchen(), Kitchen::new());
    // Another directory, made in another order, with other times.
    b.put("zzz/recipe.yaml", "").put("root/unused", "x");
    put_line(&b);
    let old = fs::File::options()
        .append(true)
        .open(b.dir().join("root/files/motd"))
        .unwrap();
    old.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(line(a.dir(), "child"), line(b.dir(), "child"));
    // Keys in another order, comments, other line ends in the recipe file.
    let text = fs::read_to_string(a.dir().join("child/recipe.yaml")).unwrap();
    let mut lines: Vec<_> = text.lines().collect();
    lines.reverse();
    b.put(
        "child/recipe.yaml",
        format!("# changed\r\n{}\r\n", lines.join("\r\n")),
    );
    assert_eq!(line(a.dir(), "child"), line(b.dir(), "child"));
}

#[test]
fn a_layer_has_the_same_digest_in_every_line() {
    let kitchen = kitchen();
    assert_eq!(
        line(kitchen.dir(), "root")[0],
        line(kitchen.dir(), "child")[0]
    );
}

#[test]
fn timeouts_retries_and_build_settings_are_not_inputs() {
    let kitchen = kitchen();
    let before = line(kitchen.dir(), "root");
    let file = kitchen.dir().join("root/recipe.yaml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(
        &file,
        text.replace("reboot: true", "reboot: true, timeout: 1h, retries: 3")
            + "build: { timeout: 2h, subnet: subnet-1 }\n",
    )
    .unwrap();
    assert_eq!(before, line(kitchen.dir(), "root"));
}

#[test]
fn manifests_are_read_back_and_other_formats_refused() {
    for (manifest, digest) in line(kitchen().dir(), "child") {
        let json = manifest.to_canonical_json();
        let read = Manifest::from_json(&json).unwrap();
        assert_eq!((&read, read.digest()), (&manifest, digest));
        let other = json.replace(FORMAT, "piaas-bake/manifest/9");
        assert!(
            matches!(Manifest::from_json(&other), Err(ManifestError::Format(format)) if format.ends_with("/9"))
        );
        assert!(matches!(
            Manifest::from_json(&json[1..]),
            Err(ManifestError::Parse(_))
        ));
    }
}

#[test]
fn digests_are_read_in_one_form_only() {
    let digest = Digest::of(b"");
    assert_eq!(
        digest.to_string(),
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    );
    assert_eq!(digest.to_string().parse(), Ok(digest));
    for bad in [
        "",
        "e3b0",
        &digest.to_string().to_uppercase(),
        &format!("{digest}0"),
        &"g".repeat(64),
    ] {
        assert!(bad.parse::<Digest>().is_err(), "{bad}");
    }
}

/// Changes the root recipe and says what changed in its manifest.
fn why(from: &str, to: &str) -> Vec<String> {
    let kitchen = kitchen();
    let file = kitchen.dir().join("root/recipe.yaml");
    let text = fs::read_to_string(&file).unwrap();
    let (before, _) = line(kitchen.dir(), "root").remove(0);
    assert!(text.contains(from));
    fs::write(&file, text.replace(from, to)).unwrap();
    let (after, _) = line(kitchen.dir(), "root").remove(0);
    assert_eq!(explain(&after, &after), [] as [String; 0]);
    explain(&before, &after)
}

#[test]
fn differences_in_words() {
    assert_eq!(
        why("[git, curl]", "[git, nginx, curl]"),
        ["package nginx added"]
    );
    assert_eq!(why("[git, curl]", "[curl]"), ["package git removed"]);
    assert_eq!(
        why("[git, curl]", "[curl, git]"),
        ["order of the packages changed"]
    );
    assert_eq!(
        why("git,", "git=1.0-1,"),
        ["package git changed to git=1.0-1"]
    );
    assert_eq!(
        why("files/motd }", "files/motd, mode: \"0600\" }"),
        ["mode of /etc/motd changed from 0644 to 0600"]
    );
    assert_eq!(
        why("source: files/motd", "content: bye"),
        ["content of /etc/motd changed"]
    );
    assert_eq!(
        why("/etc/motd,", "/etc/issue,"),
        ["file /etc/issue added", "file /etc/motd removed"]
    );
    assert_eq!(
        why("version: 1.2.3", "version: 1.3.0"),
        ["version changed from 1.2.3 to 1.3.0"]
    );
    assert_eq!(
        why("ami-0123456789abcdef0", "ami-00000000"),
        ["base changed from ami-0123456789abcdef0 to ami-00000000"]
    );
    assert_eq!(
        why("A: a", "A: b"),
        ["step \"Say it\": variable A changed from \"a\" to \"b\""]
    );
    assert_eq!(
        why(", reboot: true", ""),
        ["step \"Say it\" no longer reboots"]
    );
    assert_eq!(
        why("name: Again", "name: Anew"),
        ["step \"Anew\" added", "step \"Again\" removed"]
    );
    assert!(
        why("run: \"true\"", "run: \"false\"")[0].starts_with("step \"Again\" changed (script ")
    );
    assert_eq!(
        why("\nsteps:", "\nimage: { size: 9GiB }\nsteps:"),
        ["image size changed from 8 GiB to 9 GiB"]
    );
}

#[test]
fn a_changed_parent_and_moved_steps_are_named() {
    let kitchen = kitchen();
    let before = line(kitchen.dir(), "child");
    kitchen.put("root/files/motd", "changed");
    let after = line(kitchen.dir(), "child");
    assert_ne!(before[1].1, after[1].1);
    assert_eq!(
        explain(&before[1].0, &after[1].0),
        [format!(
            "parent layer changed from {} to {}",
            before[0].1.short(),
            after[0].1.short()
        )]
    );
    let mut moved = after[0].0.clone();
    moved.provision.swap(2, 3);
    assert_eq!(
        explain(&after[0].0, &moved),
        ["step \"Again\" moved after \"Install files\""]
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_order_in_which_maps_are_filled_does_not_matter(
        mut pairs in prop::collection::btree_map("[a-zA-Z_]{1,8}", any::<String>(), 0..8).prop_map(|map| map.into_iter().collect::<Vec<_>>()),
        seed in any::<usize>(),
    ) {
        let (mut manifest, _) = line(kitchen().dir(), "root").remove(0);
        manifest.provision[0].env = pairs.iter().cloned().collect();
        let json = manifest.to_canonical_json();
        // The same pairs, put in another order and through a text whose keys stand in another order.
        let length = pairs.len();
        pairs.rotate_left(if length == 0 { 0 } else { seed % length });
        manifest.provision[0].env = BTreeMap::from_iter(pairs);
        prop_assert_eq!(&json, &manifest.to_canonical_json());
        let pretty = serde_json::to_string_pretty(&manifest).unwrap();
        prop_assert_eq!(&json, &Manifest::from_json(&pretty).unwrap().to_canonical_json());
    }
}

#[test]
fn the_worker_agent_is_an_input_of_its_own() {
    let kitchen = Kitchen::new();
    kitchen.recipe("a", "");
    let manifest = |rest: &str, agent: &[u8]| {
        kitchen.recipe("a", rest);
        let resolved = recipe::load(kitchen.dir(), "a", &recipe::Given::default()).unwrap();
        let layers = render::render(&resolved, agent).unwrap();
        chain(&resolved, &layers).remove(0).0
    };
    let without = manifest("", b"one");
    assert!(!without.to_canonical_json().contains("worker"));
    assert_eq!(without, manifest("", b"two"));
    let unit = "worker: { adapter: buildbot, unit: a.service }\n";
    let (one, two) = (manifest(unit, b"one"), manifest(unit, b"two"));
    assert_eq!(explain(&without, &one), ["worker agent added"]);
    assert_eq!(explain(&one, &without), ["worker agent removed"]);
    assert_eq!(
        explain(&one, &two),
        [format!(
            "worker agent changed from {} to {}",
            Digest::of(b"one").short(),
            Digest::of(b"two").short()
        )]
    );
    let other = manifest(&unit.replace("a.service", "b.service"), b"one");
    assert_eq!(
        explain(&one, &other),
        ["configuration of the worker agent changed"]
    );
    let json = one.to_canonical_json();
    assert_eq!(Manifest::from_json(&json).unwrap(), one);
}

#[test]
fn labels_are_an_input_of_the_layers_that_have_them() {
    let kitchen = Kitchen::new();
    kitchen
        .recipe("a", "")
        .on("b", "{ recipe: a }", "labels: { team: ci, old: x }\n")
        .on("c", "{ recipe: b }", "");
    let before = line(kitchen.dir(), "c");
    assert!(!before[0].0.to_canonical_json().contains("labels"));
    assert_eq!(before[2].0.labels.len(), 2);
    kitchen.on("b", "{ recipe: a }", "labels: { team: build, new: y }\n");
    let after = line(kitchen.dir(), "c");
    assert_eq!(before[0], after[0]);
    assert_eq!(
        explain(&before[1].0, &after[1].0),
        [
            "label new=y added",
            "label team changed from ci to build",
            "label old removed"
        ]
    );
}

#[test]
fn a_download_counts_by_what_it_is_and_where_it_is() {
    let kitchen = Kitchen::new();
    let of = |sha256: &str, url: &str, mode: &str| {
        let sha256 = sha256.repeat(32);
        kitchen.recipe(
            "a",
            &format!(
                "files: [{{ path: /opt/x, url: \"{url}\", sha256: {sha256}, mode: \"{mode}\" }}]\n"
            ),
        );
        line(kitchen.dir(), "a").remove(0).0
    };
    let one = of("ab", "https://example.com/x", "0644");
    assert_eq!(one.files[0].sha256, "ab".repeat(32));
    for (other, words) in [
        (
            of("ac", "https://example.com/x", "0644"),
            "content of /opt/x changed",
        ),
        (
            of("ab", "https://example.com/x", "0755"),
            "mode of /opt/x changed from 0644 to 0755",
        ),
        (
            of("ab", "https://example.org/x", "0644"),
            "step \"Download files\" changed (script ",
        ),
    ] {
        let said = explain(&one, &other);
        assert!(said.len() == 1 && said[0].starts_with(words), "{said:?}");
    }
}

#[test]
fn the_source_date_of_the_roots_lock_is_an_input_of_the_whole_line() {
    let kitchen = kitchen();
    let lock = |recipe: &str, date: &str| {
        let text =
            format!("lock: 1\nrecipe: {recipe}\n{date}asked: []\nindexes: []\npackages: []\n");
        kitchen.put(&format!("{recipe}/recipe.lock"), text);
        line(kitchen.dir(), "child")
    };
    let old = lock("root", "");
    let same = lock("root", "source_date: 2023-06-10T00:00:00Z\n");
    assert_eq!(same, old, "a lock without a date means this one");
    let other = lock("root", "source_date: 2020-01-01T00:00:00Z\n");
    assert_eq!(other[1].0.source_date, 1_577_836_800);
    assert_eq!(
        explain(&old[0].0, &other[0].0),
        ["source date changed from 1686355200 to 1577836800"]
    );
    // That of a child counts where it is at the root.
    let child = lock("child", "source_date: 2019-01-01T00:00:00Z\n");
    assert_eq!(child[1].0.source_date, 1_577_836_800);
}

#[test]
fn trees_are_told_apart_by_what_is_in_them() {
    let kitchen = Kitchen::new();
    kitchen
        .recipe("a", "files: [{ path: /etc/x, tree: x }]\n")
        .put("a/x/one", "1")
        .put("a/x/sub/two", "2");
    let link = kitchen.dir().join("a/x/link");
    std::os::unix::fs::symlink("one", &link).unwrap();
    let (before, _) = line(kitchen.dir(), "a").remove(0);
    let json = before.to_canonical_json();
    assert_eq!(Manifest::from_json(&json).unwrap(), before);
    fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink("sub/two", &link).unwrap();
    kitchen.put("a/x/one", "one").put("a/x/more/three", "3");
    let (after, _) = line(kitchen.dir(), "a").remove(0);
    assert_eq!(
        explain(&before, &after),
        [
            "file /etc/x/more/three added",
            "content of /etc/x/one changed",
            "directory /etc/x/more added",
            "target of /etc/x/link changed from one to sub/two",
        ]
    );
    assert_eq!(explain(&after, &after), [] as [String; 0]);
}
