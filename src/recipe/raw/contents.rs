//! `packages` and `files`: what a recipe installs.

use std::path::Path;

use super::{Place, read_when};
use crate::recipe::diagnostic::Diagnostics;
use crate::recipe::files;
use crate::recipe::format::{DebianPackage, File, Managers, Package, keys};
use crate::recipe::model::{
    DownloadSpec, FileSpec, InlineText, Manager, PackageSpec, Source, TreeSpec,
};
use crate::recipe::node::{Entry, Fields, Node};
use crate::recipe::twice::{KEEP_ONE, REMOVE_ONE, Taken, listed_twice, twice};
use crate::recipe::{trees, units};

/// `packages`: a list for apt, or a map with a list for each package manager.
#[derive(Debug, Default)]
pub struct RawPackages {
    /// Each with its place.
    pub apt: Option<(Place, Vec<PackageSpec>)>,
    pub dnf: Option<(Place, Vec<PackageSpec>)>,
}

pub fn read_packages(node: Node<'_>, found: &mut Diagnostics) -> RawPackages {
    if !node.is_map() {
        let list = read_list(node, Manager::Apt, found);
        return RawPackages {
            apt: Some((Place::of(&node), list)),
            dnf: None,
        };
    }
    let fields = node.fields(keys::<Managers>(), found);
    let mut list = |manager: Manager| {
        let node = fields.get(manager.name())?;
        Some((Place::of(&node), read_list(node, manager, found)))
    };
    RawPackages {
        apt: list(Manager::Apt),
        dnf: list(Manager::Dnf),
    }
}

fn read_list(node: Node<'_>, manager: Manager, found: &mut Diagnostics) -> Vec<PackageSpec> {
    let mut packages: Vec<PackageSpec> = Vec::new();
    for node in node.items(found) {
        let Some(package) = read_package(node, manager, found) else {
            continue;
        };
        // What has a condition is judged when it is rendered: it may be ruled out.
        if packages.iter().any(|known| {
            known.name == package.name && known.when.is_none() && package.when.is_none()
        }) {
            found.push(node.diagnostic(listed_twice(&package.name), REMOVE_ONE));
        } else {
            packages.push(package);
        }
    }
    packages
}

/// A name, or a map with a name and a condition.
fn read_package(node: Node<'_>, manager: Manager, found: &mut Diagnostics) -> Option<PackageSpec> {
    let (what, help, check): (_, _, fn(&str) -> bool) = match manager {
        Manager::Apt => (
            "the name of a Debian package",
            "write its name as in `apt-get install`, with `=version` if it must be that one",
            units::is_package,
        ),
        Manager::Dnf => (
            "the name of an RPM package",
            "write its name as in `dnf install`, with `-version` if it must be that one",
            units::is_rpm,
        ),
    };
    let (name, when) = if node.is_map() {
        let fields = node.fields(keys::<Package<DebianPackage>>(), found);
        let when = read_when(&fields, found);
        (fields.require("name", help, found)?, when)
    } else {
        (node, None)
    };
    let name = name.checked(what, check, help, found)?;
    Some(PackageSpec {
        name,
        when,
        at: node.location(),
    })
}

pub fn read_files(
    nodes: Vec<Node<'_>>,
    dir: &Path,
    found: &mut Diagnostics,
) -> (Vec<FileSpec>, Vec<DownloadSpec>, Vec<TreeSpec>) {
    let mut specs = Vec::new();
    let mut downloads = Vec::new();
    let mut trees = Vec::new();
    let mut taken = Taken::default();
    for node in nodes {
        let Some(spec) = read_file(node, dir, found) else {
            continue;
        };
        // What has a condition is judged when it is rendered: it may be ruled out.
        if !spec.has_condition()
            && let Err(path) = taken.take(spec.places())
        {
            found.push(node.diagnostic(twice(&path), KEEP_ONE));
            continue;
        }
        match spec {
            Installed::File(spec) => specs.push(spec),
            Installed::Download(download) => downloads.push(download),
            Installed::Tree(tree) => trees.push(tree),
        }
    }
    (specs, downloads, trees)
}

enum Installed {
    File(FileSpec),
    Download(DownloadSpec),
    Tree(TreeSpec),
}

impl Installed {
    /// Every path that it takes, and whether it is a directory there.
    fn places(&self) -> Vec<(String, bool)> {
        match self {
            Self::File(file) => vec![(file.path.clone(), false)],
            Self::Download(file) => vec![(file.path.clone(), false)],
            Self::Tree(tree) => tree.places(),
        }
    }

    fn has_condition(&self) -> bool {
        match self {
            Self::File(file) => file.when.is_some(),
            Self::Download(file) => file.when.is_some(),
            Self::Tree(tree) => tree.when.is_some(),
        }
    }
}

fn read_file(node: Node<'_>, dir: &Path, found: &mut Diagnostics) -> Option<Installed> {
    let fields = node.fields(keys::<File>(), found);
    let path = fields
        .require("path", "write `path:` with the place on the machine", found)
        .and_then(|node| {
            let help = "write an absolute path without `.` or `..` and without a slash at its end";
            node.checked("a place for a file", is_destination, help, found)
        });
    let user = |key: &str, found: &mut Diagnostics| match fields.get(key) {
        Some(node) => node.checked(
            "a user or group name",
            units::is_user_name,
            "write a name, not a number, such as root",
            found,
        ),
        None => Some("root".to_string()),
    };
    let (owner, group) = (user("owner", found), user("group", found));
    let when = read_when(&fields, found);
    let source = fields.one_of(&File::ONE_OF, found);
    let download = source.filter(|entry| entry.key == "url");
    if let (Some(sha256), None) = (fields.entry("sha256"), download) {
        let help = "remove it: what is beside the recipe is what it is";
        found.push(sha256.diagnostic("`sha256` is for what `url` names", help));
    }
    if let Some(entry) = source.filter(|entry| entry.key == "tree") {
        return read_tree(node, entry, &fields, dir, (path, owner, group, when), found);
    }
    let mode = match fields.get("mode") {
        Some(node) => node.parsed("a file mode", units::mode, found),
        None => Some(0o644),
    };
    if let Some(entry) = download {
        let help = "write an address that begins with https:// or http://";
        let is_url = |text: &str| text.starts_with("https://") || text.starts_with("http://");
        let url = rendered(entry.node, "a URL", is_url, help, found);
        let sha256 = fields.get("sha256").map(|node| {
            let help = "write its 64 hex digits in lower case, as `sha256sum` prints them";
            rendered(node, "a sha256", units::is_sha256, help, found)
        });
        return Some(Installed::Download(DownloadSpec {
            path: path?,
            url: url?,
            sha256: sha256.map_or(Some(None), |sha256| sha256.map(Some))?,
            owner: owner?,
            group: group?,
            mode: mode?,
            when,
            at: node.location(),
        }));
    }
    let source = source.and_then(|entry| {
        let node = entry.node;
        match entry.key {
            "content" => node
                .text(found)
                .map(|text| Source::Inline(InlineText::of(&node, text.to_string()))),
            "template" => files::beside(node, dir, found).map(Source::Template),
            _ => files::beside(node, dir, found).map(Source::Raw),
        }
    });
    Some(Installed::File(FileSpec {
        path: path?,
        source: source?,
        owner: owner?,
        group: group?,
        mode: mode?,
        when,
        at: node.location(),
    }))
}

/// A text that is rendered later, and then judged as a whole; without a tag it has to pass `check` now.
fn rendered(
    node: Node<'_>,
    what: &str,
    check: impl Fn(&str) -> bool,
    help: &str,
    found: &mut Diagnostics,
) -> Option<InlineText> {
    let has_tag = |text: &str| text.contains("{{") || text.contains("{%");
    let text = node.checked(what, |text| has_tag(text) || check(text), help, found)?;
    Some(InlineText::of(&node, text))
}

/// Path, owner, group and condition: what a tree has in common with a file.
type Common = (
    Option<String>,
    Option<String>,
    Option<String>,
    Option<InlineText>,
);

fn read_tree(
    node: Node<'_>,
    entry: Entry<'_>,
    fields: &Fields<'_>,
    dir: &Path,
    (path, owner, group, when): Common,
    found: &mut Diagnostics,
) -> Option<Installed> {
    if let Some(mode) = fields.entry("mode") {
        let help =
            "remove it: a file of a tree is executable on the machine if it is executable here";
        found.push(mode.diagnostic("a tree has no `mode`", help));
    }
    let root = files::directory_beside(entry.node, dir, found)?;
    let entries = trees::walk(&root)
        .map_err(|(message, help)| {
            let text = entry.node.value().as_str().unwrap_or_default();
            found.push(
                entry
                    .node
                    .diagnostic(format!("in the tree `{text}`: {message}"), help),
            );
        })
        .ok()?;
    Some(Installed::Tree(TreeSpec {
        path: path?,
        entries,
        owner: owner?,
        group: group?,
        when,
        at: node.location(),
    }))
}

fn is_destination(path: &str) -> bool {
    path.len() > 1
        && path.len() < 4096
        && path
            .strip_prefix('/')
            .is_some_and(|rest| rest.split('/').all(|part| !matches!(part, "" | "." | "..")))
        && !path.contains(char::is_control)
}
