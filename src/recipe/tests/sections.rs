//! Packages for two package managers, and the sections about what comes after a bake.

use std::time::Duration;

use super::super::model::Manager;
use super::super::*;
use super::{Kitchen, refused};

const AMAZON: &str =
    "{ ssm: /aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64 }";
const DEBIAN: &str = "{ ssm: /aws/service/debian/release/12/latest/amd64 }";

fn packages(from: &str, packages: &str) -> Result<(Manager, Vec<String>), String> {
    let kitchen = Kitchen::new();
    kitchen.on("a", from, &format!("packages: {packages}\n"));
    let resolved =
        load(kitchen.dir(), "a", &Given::default()).map_err(|found| found.to_string())?;
    let recipe = &resolved.line[0];
    let names = recipe.packages.iter().map(|one| one.name.clone()).collect();
    Ok((recipe.manager, names))
}

#[test]
fn the_base_decides_which_packages_are_meant() {
    let both = "{ apt: [git, g++], dnf: [git, gcc-c++] }";
    let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(
        packages(DEBIAN, both),
        Ok((Manager::Apt, list(&["git", "g++"])))
    );
    assert_eq!(
        packages(AMAZON, both),
        Ok((Manager::Dnf, list(&["git", "gcc-c++"])))
    );
    assert_eq!(
        packages(DEBIAN, "[git]"),
        Ok((Manager::Apt, list(&["git"])))
    );
    assert_eq!(packages(AMAZON, "[]"), Ok((Manager::Dnf, list(&[]))));
    let ami = "{ ami: ami-0123456789abcdef0 }";
    assert_eq!(
        packages(ami, "{ dnf: [git] }"),
        Ok((Manager::Dnf, list(&["git"])))
    );
    assert_eq!(
        packages(ami, "{ apt: [git] }"),
        Ok((Manager::Apt, list(&["git"])))
    );
    for (from, packages_of, complaint) in [
        (
            DEBIAN,
            "{ dnf: [git] }",
            "which installs with apt; there is no list for it",
        ),
        (
            AMAZON,
            "[git]",
            "which installs with dnf; there is no list for it",
        ),
        (
            ami,
            both,
            "the base does not tell whether it has apt or dnf",
        ),
        (ami, "{ yum: [git] }", "unknown key `yum`"),
        (
            AMAZON,
            "{ dnf: [-y] }",
            "`-y` is not the name of an RPM package",
        ),
        (ami, "git", "expected a list, found text"),
    ] {
        let found = packages(from, packages_of).unwrap_err();
        assert!(found.contains(complaint), "{complaint}:\n{found}");
        assert!(found.contains("a/recipe.yaml:6:"), "{found}");
    }
}

#[test]
fn dnf_has_a_script_of_its_own() {
    let kitchen = Kitchen::new();
    kitchen.on("a", AMAZON, "packages: { dnf: [git, jq] }\n");
    let resolved = load(kitchen.dir(), "a", &Given::default()).unwrap();
    let layer = crate::render::render(&resolved, &[]).unwrap().remove(0);
    let text = &layer.provision[0].text;
    assert!(text.ends_with("install 'git' 'jq'\n"), "{text}");
    assert!(!text.contains("apt-get"), "{text}");
}

#[test]
fn what_comes_after_a_bake_is_merged_and_is_no_input_of_the_digest() {
    let kitchen = Kitchen::new();
    kitchen.recipe("a", "").on("b", "{ recipe: a }", "");
    let digest = |kitchen: &Kitchen| {
        let resolved = load(kitchen.dir(), "b", &Given::default()).unwrap();
        let layers = crate::render::render(&resolved, &[]).unwrap();
        let last = crate::digest::chain(&resolved, &layers).pop().unwrap();
        (resolved, last.1)
    };
    let (_, before) = digest(&kitchen);
    kitchen
        .recipe("a", "roll: { warmup: 2m, max_healthy: 150, canary_checks: [\"true\"] }\nretention: { keep: 5, max_age: 90d }\n")
        .on("b", "{ recipe: a }", "roll: { max_healthy: 120, checkpoints: [25, 50], checkpoint_delay: 5m }\ndistribution: { regions: [eu-west-1, us-gov-east-1], accounts: [\"123456789012\"] }\n");
    let (resolved, after) = digest(&kitchen);
    assert_eq!(before, after);
    assert_eq!(resolved.roll.warmup, Some(Duration::from_secs(120)));
    assert_eq!(resolved.roll.max_healthy, Some(120));
    assert_eq!(resolved.roll.checkpoints, Some(vec![25, 50]));
    assert_eq!(resolved.retention.keep, Some(5));
    assert_eq!(resolved.without_effect(), ["retention", "distribution"]);
    let settings: Vec<String> = resolved
        .settings()
        .into_iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    for setting in [
        "roll.max_healthy=120",
        "retention.max_age=\"2160h\"",
        "roll.warmup=\"120s\"",
    ] {
        assert!(settings.iter().any(|one| one == setting), "{settings:?}");
    }
    assert!(
        resolved.origins["roll.warmup"]
            .file
            .ends_with("a/recipe.yaml")
    );
    assert!(
        resolved.origins["roll.max_healthy"]
            .file
            .ends_with("b/recipe.yaml")
    );
}

#[test]
fn what_is_wrong_with_what_comes_after_a_bake() {
    refused(
        "roll: { warmup: 60, max_healthy: 100, canary_checks: [\"echo {{ x }}\"], checkpoints: [50, 25, 101], canry: 1 }\n",
        &[
            "`60` is not a duration",
            "`100` is not a limit for a roll",
            "it is not rendered",
            "checkpoints must ascend",
            "expected a whole number, 0 to 100",
            "unknown key `canry`",
        ],
    );
    refused(
        "retention: { keep: 0, max_age: 90 }\n",
        &["would keep no image", "`90` is not an age"],
    );
    refused(
        "distribution: { regions: [Ireland, eu-west-1, eu-west-1], accounts: [123456789012] }\n",
        &[
            "`Ireland` is not an AWS region",
            "`eu-west-1` is listed twice",
            "expected text, found an integer",
        ],
    );
}

#[test]
fn a_child_adds_to_what_its_parents_seal_and_it_is_an_input_of_the_layer_that_says_it() {
    let kitchen = Kitchen::new();
    let one = "seal: [{ path: /srv/x-*, action: gone, reason: Its id. }]\n";
    kitchen.recipe("b", one).on("a", "{ recipe: b }", "");
    let chain = || {
        let resolved = load(kitchen.dir(), "a", &Given::default()).unwrap();
        let layers = crate::render::render(&resolved, &[]).unwrap();
        let out = tempfile::tempdir().unwrap();
        crate::render::write_dir(&layers, "", out.path()).unwrap();
        let table = |machine| {
            let path = out.path().join(format!("{machine}.bundle/sealed-paths"));
            std::fs::read_to_string(path).unwrap()
        };
        // Machines that test seal nothing.
        assert_eq!(table("tester"), crate::image::leaks::TABLE);
        let table = table("builder");
        let own = table.strip_prefix(crate::image::leaks::TABLE).unwrap();
        (crate::digest::chain(&resolved, &layers), own.to_owned())
    };
    let (before, own) = chain();
    assert_eq!(own, "now\tgone\t/srv/x-*\tthe recipe says so\n");
    let two = "seal: [{ path: /etc/kubernetes/pki, action: keep, reason: One cluster. }, { path: /srv/x-*, action: gone }]\n";
    kitchen.on("a", "{ recipe: b }", two);
    let (after, own) = chain();
    assert_eq!(
        own.lines()
            .map(|line| &line[..line.len() - 19])
            .collect::<Vec<_>>(),
        [
            "now\tgone\t/srv/x-*",
            "now\tkeep\t/etc/kubernetes/pki",
            "now\tgone\t/srv/x-*"
        ]
    );
    assert_eq!(before[0].1, after[0].1);
    let why = |from, to| crate::digest::explain(from, to);
    let words = [
        "seal: keep for /etc/kubernetes/pki added",
        "seal: gone for /srv/x-* added",
    ];
    assert_eq!(why(&before[1].0, &after[1].0), words);
    let words = words.map(|one| one.replace("added", "removed"));
    assert_eq!(why(&after[1].0, &before[1].0), words);
    // Why it is so is for people.
    kitchen.on("a", "{ recipe: b }", &two.replace("One cluster", "Two"));
    assert_eq!(chain().0[1].1, after[1].1);
}

#[test]
fn the_lines_that_a_bake_asks_for_are_lines_of_a_recipe() {
    use crate::image::leaks::{Action, explain, lines, table};
    for leak in table().iter().filter(|leak| leak.action == Action::Refused) {
        let found = explain(&leak.path.replace(['*', '?'], "a b"), &[]);
        // A name with a blank, which no recipe can write, becomes a pattern.
        for line in lines(std::slice::from_ref(&found)).concat() {
            let kitchen = Kitchen::new();
            kitchen.recipe("a", &format!("seal:\n  {line}\n"));
            let resolved = load(kitchen.dir(), "a", &Given::default());
            let resolved = resolved.unwrap_or_else(|found| panic!("{line}: {found}"));
            let sealed = &resolved.line[0].seal[0].sealed;
            let pattern = crate::image::leaks::Pattern::new(&sealed.path);
            assert!(pattern.matches(found.path.as_bytes()), "{line}");
        }
    }
}
