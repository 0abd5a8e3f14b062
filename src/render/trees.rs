//! The file trees of a recipe: what they hold, and the script that installs them.

use std::sync::LazyLock;

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::layer::{FILES_TIMEOUT, at_entry, counted, own_script, raw, wanted};
use super::own::Own;
use super::script::{InstalledDirectory, InstalledFile, InstalledLink, Layer};
use super::template::Renderer;
use crate::recipe::diagnostic::Diagnostics;
use crate::recipe::model::{LineRecipe, TreeKind, TreeSpec};
use crate::recipe::twice::{KEEP_ONE, Taken, twice};

static SCRIPT: LazyLock<Own> =
    LazyLock::new(|| Own::new(include_str!("../../templates/trees.sh.tera"), "trees"));

#[derive(Serialize)]
struct Tree {
    directories: Vec<InstalledDirectory>,
    files: Vec<InstalledFile>,
    links: Vec<InstalledLink>,
}

/// Adds the trees of a recipe to its layer. `taken` are the paths of its files.
pub fn install(
    recipe: &LineRecipe,
    layer: &mut Layer,
    taken: &mut Taken,
    renderer: &mut Renderer,
    found: &mut Diagnostics,
) {
    let mut trees = Vec::new();
    for spec in &recipe.trees {
        if !wanted(spec.when.as_ref(), renderer, found) {
            continue;
        }
        if let Err(path) = taken.take(spec.places()) {
            found.push(at_entry(&spec.at, twice(&path), KEEP_ONE));
        }
        trees.push(tree(spec, layer, renderer, found));
    }
    if trees.is_empty() {
        return;
    }
    let text = SCRIPT.render(&trees);
    let number = layer.provision.len() + 1;
    let title = counted(trees.len(), "tree");
    let script = own_script(recipe, number, "trees", title, text, FILES_TIMEOUT);
    layer.provision.push(script);
    for tree in trees {
        layer.directories.extend(tree.directories);
        layer.files.extend(tree.files);
        layer.links.extend(tree.links);
    }
}

fn tree(
    spec: &TreeSpec,
    layer: &mut Layer,
    renderer: &mut Renderer,
    found: &mut Diagnostics,
) -> Tree {
    let directory = |path: String| InstalledDirectory {
        path,
        owner: spec.owner.clone(),
        group: spec.group.clone(),
    };
    let mut tree = Tree {
        directories: vec![directory(spec.path.clone())],
        files: Vec::new(),
        links: Vec::new(),
    };
    for entry in &spec.entries {
        let path = format!("{}/{}", spec.path, entry.path);
        match &entry.kind {
            TreeKind::Directory => tree.directories.push(directory(path)),
            TreeKind::File { source, executable } => {
                let Some(bytes) = raw(source, &spec.at, renderer, found) else {
                    continue;
                };
                let sha256 = hex::encode(Sha256::digest(&bytes));
                tree.files.push(InstalledFile {
                    path,
                    owner: spec.owner.clone(),
                    group: spec.group.clone(),
                    mode: if *executable { "0755" } else { "0644" }.to_owned(),
                    sha256: sha256.clone(),
                });
                layer.payloads.insert(sha256, bytes.into());
            }
            TreeKind::Link { target } => tree.links.push(InstalledLink {
                path,
                target: target.clone(),
                owner: spec.owner.clone(),
                group: spec.group.clone(),
            }),
        }
    }
    tree
}
