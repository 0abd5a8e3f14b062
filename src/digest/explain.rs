//! The difference of two manifests, in words.

use std::collections::BTreeMap;

use super::{Manifest, ManifestScript, ManifestWorker, Under};
use crate::image::leaks::Sealed;
use crate::recipe::model::BaseRef;
use crate::render::downloads;
use crate::render::locked::is_guard;

const INSTALL_PACKAGES: &str = "Install packages";
const INSTALL_FILES: &str = "Install files";
const INSTALL_TREES: &str = "Install trees";
const INSTALL_DOWNLOADS: &str = "Download files";
const INSTALL_WORKER: &str = "Install the worker agent";
const HOLD_TO_LOCK: &str = "Install what is locked";

/// What makes `b` another layer than `a`: one sentence per difference, in the order in which a bake meets them. Empty
/// when there is none.
#[must_use]
pub fn explain(a: &Manifest, b: &Manifest) -> Vec<String> {
    let mut words = Vec::new();
    changed(&mut words, "recipe", &a.recipe, &b.recipe);
    changed(&mut words, "version", &a.version, &b.version);
    changed(&mut words, "manifest format", &a.format, &b.format);
    labels(&mut words, &a.labels, &b.labels);
    under(&mut words, &a.on, &b.on);
    pins(&mut words, &a.pins, &b.pins);
    packages(&mut words, &a.packages, &b.packages);
    locked(&mut words, &a.locked, &b.locked);
    files(&mut words, a, b);
    trees(&mut words, a, b);
    secrets(&mut words, &a.secrets, &b.secrets);
    sealed(&mut words, &a.sealed, &b.sealed);
    worker(&mut words, a.worker.as_ref(), b.worker.as_ref());
    // Their scripts differ because the lists do, and that is said already.
    let mut said = Vec::new();
    if a.packages != b.packages {
        said.push(INSTALL_PACKAGES);
    }
    if a.locked != b.locked {
        said.push(HOLD_TO_LOCK);
    }
    if a.files != b.files {
        said.push(INSTALL_FILES);
        said.push(INSTALL_DOWNLOADS);
    }
    if (&a.files, &a.directories, &a.links) != (&b.files, &b.directories, &b.links) {
        said.push(INSTALL_TREES);
    }
    if a.worker != b.worker {
        said.push(INSTALL_WORKER);
    }
    for (kind, a, b) in [
        ("step", &a.provision, &b.provision),
        ("validation", &a.validate, &b.validate),
        ("test", &a.test, &b.test),
    ] {
        scripts(&mut words, kind, a, b, &said);
    }
    changed(
        &mut words,
        "image size",
        &format!("{} GiB", a.image.size_gib),
        &format!("{} GiB", b.image.size_gib),
    );
    changed(
        &mut words,
        "file system",
        &a.image.filesystem,
        &b.image.filesystem,
    );
    changed(
        &mut words,
        "architecture",
        &a.image.architecture,
        &b.image.architecture,
    );
    changed(
        &mut words,
        "boot mode",
        &a.image.boot_mode,
        &b.image.boot_mode,
    );
    if a.seal != b.seal {
        words.push("what is cleaned before the image is made changed".into());
    }
    changed(&mut words, "source date", &a.source_date, &b.source_date);
    if words.is_empty() && a != b {
        words.push("the scripts were numbered anew".into());
    }
    words
}

fn changed<T: PartialEq + std::fmt::Display>(words: &mut Vec<String>, what: &str, a: &T, b: &T) {
    if a != b {
        words.push(format!("{what} changed from {a} to {b}"));
    }
}

/// An entry of two maps that is not the same in both: its key, and what it is in the one and in the other. Those that the
/// second map has come first.
type Difference<'m> = (&'m str, Option<&'m str>, Option<&'m str>);

fn differences<'m>(
    a: &'m BTreeMap<String, String>,
    b: &'m BTreeMap<String, String>,
) -> Vec<Difference<'m>> {
    let gone = a.keys().filter(|key| !b.contains_key(*key));
    let of = |map: &'m BTreeMap<String, String>, key: &str| map.get(key).map(String::as_str);
    b.keys()
        .chain(gone)
        .map(|key| (key.as_str(), of(a, key), of(b, key)))
        .filter(|(_, a, b)| a != b)
        .collect()
}

fn labels(words: &mut Vec<String>, a: &BTreeMap<String, String>, b: &BTreeMap<String, String>) {
    words.extend(differences(a, b).into_iter().map(|entry| match entry {
        (key, None, Some(new)) => format!("label {key}={new} added"),
        (key, Some(old), Some(new)) => format!("label {key} changed from {old} to {new}"),
        (key, _, None) => format!("label {key} removed"),
    }));
}

fn under(words: &mut Vec<String>, a: &Under, b: &Under) {
    if a == b {
        return;
    }
    words.push(match (a, b) {
        (Under::Parent(a), Under::Parent(b)) => {
            format!("parent layer changed from {} to {}", a.short(), b.short())
        }
        _ => format!("base changed from {} to {}", name(a), name(b)),
    });
}

fn name(under: &Under) -> String {
    match under {
        Under::Parent(digest) => format!("layer {}", digest.short()),
        Under::Base(BaseRef::Ami { id }) => id.clone(),
        Under::Base(BaseRef::Ssm { parameter }) => parameter.clone(),
        Under::Base(BaseRef::ImageBuilder { arn }) => arn.clone(),
        Under::Base(BaseRef::Filter { owners, filters }) => {
            let filters: Vec<_> = filters
                .iter()
                .map(|(name, values)| format!("{name}={}", values.join("|")))
                .collect();
            format!(
                "images of {} with {}",
                owners.join(", "),
                filters.join(", ")
            )
        }
    }
}

/// The name in `name=version`.
fn package_name(package: &str) -> &str {
    package.split_once('=').map_or(package, |(name, _)| name)
}

fn packages(words: &mut Vec<String>, a: &[String], b: &[String]) {
    let find = |list: &[String], name: &str| {
        list.iter()
            .find(|package| package_name(package) == name)
            .cloned()
    };
    for package in b {
        match find(a, package_name(package)) {
            None => words.push(format!("package {package} added")),
            Some(old) if old != *package => {
                words.push(format!("package {old} changed to {package}"))
            }
            Some(_) => {}
        }
    }
    for package in a {
        if find(b, package_name(package)).is_none() {
            words.push(format!("package {package} removed"));
        }
    }
    let shared = |list: &[String], other: &[String]| -> Vec<String> {
        list.iter()
            .filter(|package| find(other, package_name(package)).is_some())
            .map(|p| package_name(p).into())
            .collect()
    };
    if shared(a, b) != shared(b, a) {
        words.push("order of the packages changed".into());
    }
}

fn files(words: &mut Vec<String>, a: &Manifest, b: &Manifest) {
    for new in &b.files {
        let path = &new.path;
        let Some(old) = a.files.iter().find(|old| old.path == *path) else {
            words.push(format!("file {path} added"));
            continue;
        };
        if old.sha256 != new.sha256 {
            words.push(format!("content of {path} changed"));
        }
        changed(words, &format!("owner of {path}"), &old.owner, &new.owner);
        changed(words, &format!("group of {path}"), &old.group, &new.group);
        changed(words, &format!("mode of {path}"), &old.mode, &new.mode);
    }
    for old in &a.files {
        if !b.files.iter().any(|new| new.path == old.path) {
            words.push(format!("file {} removed", old.path));
        }
    }
}

fn pins(words: &mut Vec<String>, a: &BTreeMap<String, String>, b: &BTreeMap<String, String>) {
    words.extend(differences(a, b).into_iter().map(|entry| match entry {
        (place, None, Some(id)) => format!("the base image of {place} is locked now, {id}"),
        (place, Some(old), Some(id)) => {
            format!("the locked base image of {place} moved from {old} to {id}")
        }
        (place, _, None) => format!("the base image of {place} is not locked any more"),
    }));
}

fn locked(words: &mut Vec<String>, a: &BTreeMap<String, String>, b: &BTreeMap<String, String>) {
    match (a.is_empty(), b.is_empty()) {
        (true, false) => words.push(format!("{} packages are locked now", b.len())),
        (false, true) => words.push("its packages are not locked any more".to_owned()),
        _ => words.extend(differences(a, b).into_iter().map(|entry| match entry {
            (name, None, Some(new)) => format!("locked package {name} added, {new}"),
            (name, Some(old), Some(new)) => {
                format!("locked package {name} moved from {old} to {new}")
            }
            (name, _, None) => format!("locked package {name} removed"),
        })),
    }
}

fn secrets(words: &mut Vec<String>, a: &BTreeMap<String, String>, b: &BTreeMap<String, String>) {
    words.extend(differences(a, b).into_iter().map(|entry| match entry {
        (name, None, Some(new)) => format!("secret {name} added, from {new}"),
        (name, Some(old), Some(new)) => format!("secret {name} comes from {new}, not from {old}"),
        (name, _, None) => format!("secret {name} removed"),
    }));
}

fn trees(words: &mut Vec<String>, a: &Manifest, b: &Manifest) {
    for new in &b.directories {
        let path = &new.path;
        match a.directories.iter().find(|old| old.path == *path) {
            None => words.push(format!("directory {path} added")),
            Some(old) => {
                changed(words, &format!("owner of {path}"), &old.owner, &new.owner);
                changed(words, &format!("group of {path}"), &old.group, &new.group);
            }
        }
    }
    for old in &a.directories {
        if !b.directories.iter().any(|new| new.path == old.path) {
            words.push(format!("directory {} removed", old.path));
        }
    }
    for new in &b.links {
        let path = &new.path;
        match a.links.iter().find(|old| old.path == *path) {
            None => words.push(format!("link {path} added")),
            Some(old) => {
                changed(
                    words,
                    &format!("target of {path}"),
                    &old.target,
                    &new.target,
                );
                changed(words, &format!("owner of {path}"), &old.owner, &new.owner);
                changed(words, &format!("group of {path}"), &old.group, &new.group);
            }
        }
    }
    for old in &a.links {
        if !b.links.iter().any(|new| new.path == old.path) {
            words.push(format!("link {} removed", old.path));
        }
    }
}

fn worker(words: &mut Vec<String>, a: Option<&ManifestWorker>, b: Option<&ManifestWorker>) {
    match (a, b) {
        (None, Some(_)) => words.push("worker agent added".into()),
        (Some(_), None) => words.push("worker agent removed".into()),
        (Some(a), Some(b)) => {
            changed(words, "worker agent", &a.agent.short(), &b.agent.short());
            if a.config != b.config {
                words.push("configuration of the worker agent changed".into());
            }
        }
        (None, None) => {}
    }
}

/// Scripts are told apart by title, and scripts of one title by their order; ids hold a number that moves.
fn keys(scripts: &[ManifestScript]) -> Vec<(&str, usize)> {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    scripts
        .iter()
        .map(|script| {
            let title = generic(script);
            let count = seen.entry(title).or_default();
            *count += 1;
            (title, *count)
        })
        .collect()
}

/// The scripts for packages and files have titles that count what is in them.
fn generic(script: &ManifestScript) -> &str {
    if is_guard(&script.id) {
        return HOLD_TO_LOCK;
    }
    if downloads::is_own(&script.id) {
        return INSTALL_DOWNLOADS;
    }
    let own = |slug: &str| script.id.ends_with(slug) && script.title.starts_with("Install ");
    if own("-packages") {
        INSTALL_PACKAGES
    } else if own("-files") {
        INSTALL_FILES
    } else if own("-trees") {
        INSTALL_TREES
    } else {
        &script.title
    }
}

fn scripts(
    words: &mut Vec<String>,
    kind: &str,
    a: &[ManifestScript],
    b: &[ManifestScript],
    said: &[&str],
) {
    let (a_keys, b_keys) = (keys(a), keys(b));
    for (script, key) in b
        .iter()
        .zip(&b_keys)
        .filter(|(_, key)| !said.contains(&key.0))
    {
        let title = key.0;
        let Some(old) = a_keys.iter().position(|old| old == key).map(|at| &a[at]) else {
            words.push(format!("{kind} \"{title}\" added"));
            continue;
        };
        if old.sha256 != script.sha256 {
            words.push(format!(
                "{kind} \"{title}\" changed (script {} to {})",
                old.sha256.short(),
                script.sha256.short()
            ));
        }
        if old.reboot != script.reboot {
            let now = if script.reboot {
                "now reboots"
            } else {
                "no longer reboots"
            };
            words.push(format!("{kind} \"{title}\" {now}"));
        }
        environment(words, &format!("{kind} \"{title}\""), &old.env, &script.env);
    }
    for key in a_keys
        .iter()
        .filter(|key| !b_keys.contains(key) && !said.contains(&key.0))
    {
        words.push(format!("{kind} \"{}\" removed", key.0));
    }
    moved(words, kind, &a_keys, &b_keys);
}

fn sealed(words: &mut Vec<String>, a: &[Sealed], b: &[Sealed]) {
    for (one, other, what) in [(b, a, "added"), (a, b, "removed")] {
        let only = one.iter().filter(|line| !other.contains(line));
        words.extend(
            only.map(|line| format!("seal: {} for {} {what}", line.action.word(), line.path)),
        );
    }
}

fn environment(
    words: &mut Vec<String>,
    what: &str,
    a: &BTreeMap<String, String>,
    b: &BTreeMap<String, String>,
) {
    words.extend(differences(a, b).into_iter().map(|entry| match entry {
        (name, None, Some(_)) => format!("{what}: variable {name} added"),
        (name, Some(old), Some(value)) => {
            format!("{what}: variable {name} changed from {old:?} to {value:?}")
        }
        (name, _, None) => format!("{what}: variable {name} removed"),
    }));
}

/// Names the scripts that stand elsewhere among those that both have.
fn moved(words: &mut Vec<String>, kind: &str, a: &[(&str, usize)], b: &[(&str, usize)]) {
    let mut rest: Vec<_> = a.iter().filter(|key| b.contains(key)).collect();
    let shared: Vec<_> = b.iter().filter(|key| a.contains(key)).collect();
    for (n, key) in shared.iter().enumerate() {
        if rest.get(n) == Some(key) {
            continue;
        }
        // Taking it from its old place and putting it here brings the rest back into step.
        if let Some(at) = rest.iter().position(|old| old == key) {
            rest.remove(at);
            rest.insert(n.min(rest.len()), key);
        }
        words.push(match n.checked_sub(1).map(|before| shared[before].0) {
            Some(before) => format!("{kind} \"{}\" moved after \"{before}\"", key.0),
            None => format!("{kind} \"{}\" moved to the front", key.0),
        });
    }
}
