//! A recipe file: it is understood, or what is wrong with it is said with a place that exists.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::digest;
use crate::recipe::{self, Diagnostics, Given};
use crate::render;

/// What the recipe may build on.
const PARENT: &str = "schema: piaas-bake/v1
name: parent
version: 1.2.3
description: A parent.
from: { ami: ami-0123456789abcdef0 }
parameters:
  port: { type: integer, default: 80 }
  hosts: { type: list, pattern: '[a-z.]+', default: [localhost] }
steps: [{ name: Use them, run: 'echo {{ port }} {{ hosts }}' }]
";

/// Files that the recipe may name, and more than a few ways to name them wrong.
const FILES: [(&str, &str); 4] = [
    ("files/motd", "hello\n"),
    ("files/start.sh.tera", "#!/bin/sh\necho {{ who }}\n"),
    ("files/tree/sub/one", "1"),
    ("scripts/raw.sh", "echo \"{{ not rendered }}\"\n"),
];

pub fn run(input: &[u8]) {
    let dir = super::directory();
    let put = |path: &str, bytes: &[u8]| {
        let path = dir.path().join(path);
        let parent = path.parent().expect("it is below the directory");
        fs::create_dir_all(parent).expect("a directory can be made");
        fs::write(path, bytes).expect("a file can be written");
    };
    put("parent/recipe.yaml", PARENT.as_bytes());
    for (path, text) in FILES {
        put(&format!("a/{path}"), text.as_bytes());
    }
    put("a/recipe.yaml", input);
    let checked = recipe::load_for_lint(dir.path(), "a").and_then(|resolved| {
        let layers = render::render(&resolved, b"agent")?;
        Ok((resolved, layers))
    });
    match checked {
        Err(found) => judge(&found, dir.path()),
        Ok((resolved, layers)) => {
            for (manifest, digest) in digest::chain(&resolved, &layers) {
                let json = manifest.to_canonical_json();
                let back = digest::Manifest::from_json(&json).expect("a manifest is read back");
                assert_eq!(back.digest(), digest);
            }
        }
    }
    if let Err(found) = recipe::merge_for_lint(dir.path(), "a").and_then(render::lint) {
        judge(&found, dir.path());
    }
    if let Err(found) = render::load(dir.path(), "a", &Given::default()) {
        judge(&found, dir.path());
    }
}

fn judge(found: &Diagnostics, dir: &Path) {
    let mut by_file: BTreeMap<Option<&Path>, Diagnostics> = BTreeMap::new();
    for one in &found.0 {
        let file = one.location.as_ref().map(|at| at.file.as_path());
        by_file.entry(file).or_default().0.push(one.clone());
    }
    for (file, about) in by_file {
        let Some(file) = file else {
            judge_text(&about, "");
            continue;
        };
        assert!(file.starts_with(dir), "{about}");
        let bytes = fs::read(file).expect("the file of a place is there");
        judge_text(&about, &String::from_utf8_lossy(&bytes));
    }
    assert!(!found.is_empty(), "an error without a reason");
    assert!(found.0.len() <= 101, "more than anybody reads");
}

/// All of them are about this text.
pub fn judge_text(found: &Diagnostics, text: &str) {
    let lines: Vec<&str> = text.split('\n').collect();
    for one in &found.0 {
        assert!(!one.message.is_empty());
        assert!(
            one.help.as_ref().is_some_and(|help| !help.is_empty()),
            "{one}"
        );
        let Some(at) = &one.location else { continue };
        let line = lines.get(at.line.wrapping_sub(1));
        let line = line.unwrap_or_else(|| panic!("there is no such line:\n{one}"));
        let columns = line.chars().count() + 1;
        assert!(
            (1..=columns).contains(&at.column),
            "there is no such column:\n{one}"
        );
    }
    let shown = found.to_string();
    assert!(
        !shown.contains(|c: char| c.is_control() && c != '\n'),
        "it steers the terminal: {shown:?}"
    );
}
