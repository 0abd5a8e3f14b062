//! `packages` and `files`: what a recipe installs.

use std::path::Path;

use crate::recipe::diagnostic::Diagnostics;
use crate::recipe::files;
use crate::recipe::model::{FileSpec, Source};
use crate::recipe::node::Node;
use crate::recipe::units;

pub fn read_packages(nodes: Vec<Node<'_>>, found: &mut Diagnostics) -> Vec<String> {
    let mut packages: Vec<String> = Vec::new();
    for node in nodes {
        let help = "write its name as in `apt-get install`, with `=version` if it must be that one";
        let Some(package) = node.checked(
            "the name of a Debian package",
            units::is_package,
            help,
            found,
        ) else {
            continue;
        };
        if packages.contains(&package) {
            found.push(
                node.diagnostic(format!("`{package}` is listed twice"), "remove one of them"),
            );
        } else {
            packages.push(package);
        }
    }
    packages
}

pub fn read_files(nodes: Vec<Node<'_>>, dir: &Path, found: &mut Diagnostics) -> Vec<FileSpec> {
    let mut specs: Vec<FileSpec> = Vec::new();
    for node in nodes {
        let Some(spec) = read_file(node, dir, found) else {
            continue;
        };
        if specs.iter().any(|known| known.path == spec.path) {
            found.push(node.diagnostic(
                format!("`{}` is installed twice", spec.path),
                "keep one of them",
            ));
        } else {
            specs.push(spec);
        }
    }
    specs
}

pub fn read_file(node: Node<'_>, dir: &Path, found: &mut Diagnostics) -> Option<FileSpec> {
    let fields = node.fields(
        &[
            "path", "source", "template", "content", "owner", "group", "mode",
        ],
        found,
    );
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
    let mode = match fields.get("mode") {
        Some(node) => node.parsed("a file mode", units::mode, found),
        None => Some(0o644),
    };
    let source = fields
        .one_of(&["source", "template", "content"], found)
        .and_then(|entry| {
            let node = entry.node;
            match entry.key {
                "content" => node
                    .text(found)
                    .map(|text| Source::Inline(text.to_string())),
                "template" => {
                    files::beside(node, dir, files::LARGEST_TEXT, found).map(Source::Template)
                }
                _ => files::beside(node, dir, files::LARGEST_PAYLOAD, found).map(Source::Raw),
            }
        });
    Some(FileSpec {
        path: path?,
        source: source?,
        owner: owner?,
        group: group?,
        mode: mode?,
        at: node.location(),
    })
}

fn is_destination(path: &str) -> bool {
    path.len() > 1
        && path.len() < 4096
        && path
            .strip_prefix('/')
            .is_some_and(|rest| rest.split('/').all(|part| !matches!(part, "" | "." | "..")))
        && !path.contains(char::is_control)
}
