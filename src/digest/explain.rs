//! The difference of two manifests, in words.

use std::collections::{BTreeMap, BTreeSet};

use super::{Manifest, ScriptInput};

/// What makes `b` another image than `a`, one sentence without a full stop each; empty if nothing does.
#[must_use]
pub fn explain(a: &Manifest, b: &Manifest) -> Vec<String> {
    let mut words = Vec::new();
    changed(&mut words, "the manifest format", &a.format, &b.format);
    changed(&mut words, "the recipe", &a.recipe, &b.recipe);
    changed(&mut words, "the version", &a.version, &b.version);
    let start = |manifest: &Manifest| match (&manifest.base, &manifest.parent) {
        (Some(base), _) => {
            let parts: Vec<String> = base
                .iter()
                .map(|(key, value)| format!("{key} {value}"))
                .collect();
            format!("the base image ({})", parts.join(", "))
        }
        (None, Some(parent)) => format!("the parent recipe at {}", parent.short()),
        (None, None) => "nothing".to_owned(),
    };
    changed(&mut words, "what it builds on", &start(a), &start(b));
    packages(&mut words, &a.packages, &b.packages);
    map(&mut words, "the file", &a.files, &b.files);
    for (what, a, b) in [
        ("the step", &a.provision, &b.provision),
        ("the check", &a.validate, &b.validate),
        ("the test", &a.test, &b.test),
    ] {
        scripts(&mut words, what, a, b);
    }
    map(&mut words, "the image's", &a.image, &b.image);
    changed(
        &mut words,
        "the source date",
        &a.source_date,
        &b.source_date,
    );
    words
}

fn changed<T: PartialEq + std::fmt::Display>(words: &mut Vec<String>, what: &str, a: &T, b: &T) {
    if a != b {
        words.push(format!("{what} changed from {a} to {b}"));
    }
}

fn packages(words: &mut Vec<String>, a: &[String], b: &[String]) {
    let (before, after): (BTreeSet<&String>, BTreeSet<&String>) =
        (a.iter().collect(), b.iter().collect());
    words.extend(
        after
            .difference(&before)
            .map(|name| format!("the package {name} was added")),
    );
    words.extend(
        before
            .difference(&after)
            .map(|name| format!("the package {name} was removed")),
    );
    if before == after && a != b {
        words.push("the packages are in another order".to_owned());
    }
}

fn map(
    words: &mut Vec<String>,
    what: &str,
    a: &BTreeMap<String, String>,
    b: &BTreeMap<String, String>,
) {
    let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    for name in names {
        match (a.get(name), b.get(name)) {
            (None, Some(_)) => words.push(format!("{what} {name} was added")),
            (Some(_), None) => words.push(format!("{what} {name} was removed")),
            (Some(before), Some(after)) if before != after => {
                words.push(format!(
                    "{what} {name} changed from {} to {}",
                    short(before),
                    short(after)
                ));
            }
            _ => {}
        }
    }
}

/// A value that starts with a digest, with the digest shortened.
fn short(value: &str) -> String {
    match value.split_once(' ') {
        Some((digest, rest)) if digest.len() == 64 => format!("{} {rest}", &digest[..12]),
        _ => value.to_owned(),
    }
}

/// Scripts are told apart by title; what packages and files do is said elsewhere.
fn scripts(words: &mut Vec<String>, what: &str, a: &[ScriptInput], b: &[ScriptInput]) {
    let said_elsewhere = |script: &&ScriptInput| {
        !matches!(script.title.as_str(), "Install packages" | "Install files")
    };
    let (a, b): (Vec<&ScriptInput>, Vec<&ScriptInput>) = (
        a.iter().filter(said_elsewhere).collect(),
        b.iter().filter(said_elsewhere).collect(),
    );
    let has = |list: &[&ScriptInput], title: &str| list.iter().any(|script| script.title == title);
    for script in &b {
        match a.iter().find(|before| before.title == script.title) {
            None => words.push(format!("{what} \"{}\" was added", script.title)),
            Some(before) if before.text != script.text => {
                words.push(format!("{what} \"{}\" has another text", script.title))
            }
            Some(before) if before.env != script.env => words.push(format!(
                "{what} \"{}\" has another environment",
                script.title
            )),
            Some(before) if before.reboot != script.reboot => {
                let now = if script.reboot {
                    "now reboots"
                } else {
                    "no longer reboots"
                };
                words.push(format!("{what} \"{}\" {now} the machine", script.title));
            }
            Some(_) => {}
        }
    }
    words.extend(
        a.iter()
            .filter(|s| !has(&b, &s.title))
            .map(|s| format!("{what} \"{}\" was removed", s.title)),
    );
    let order = |list: &[&ScriptInput], other: &[&ScriptInput]| -> Vec<String> {
        list.iter()
            .filter(|s| has(other, &s.title))
            .map(|s| s.title.clone())
            .collect()
    };
    if order(&a, &b) != order(&b, &a) {
        words.push(format!("{what}s run in another order"));
    }
}
