//! The lock file beside the recipe `web`: it is understood, written as it was read, and what a machine gets of it is words;
//! or what is wrong with it is said with a place that exists.

use std::path::Path;

use super::recipe::judge_text;
use crate::debs::Line;
use crate::recipe::diagnostic::Diagnostics;
use crate::recipe::lock::Lock;

const RECIPE: &str = "web";

pub fn run(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    match Lock::read(&text, Path::new("recipe.lock"), RECIPE) {
        Err(wrong) => judge_text(&Diagnostics(vec![wrong]), &text),
        Ok(lock) => judge(&lock),
    }
}

pub fn judge(lock: &Lock) {
    let text = lock.to_text();
    let again = Lock::read(&text, Path::new("recipe.lock"), &lock.recipe);
    let again = again.unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(&again, lock, "{text}");
    assert_eq!(again.to_text(), text);
    assert_eq!(again.pins(), lock.pins());
    assert!(lock.changes(&again).is_empty() && lock.download_changes(&again).is_empty());

    let lines = lock.lines();
    assert_eq!(lines.lines().count(), lock.packages.len(), "{lines}");
    for (line, package) in lines.lines().zip(&lock.packages) {
        let read = Line::read(&format!("package {line}"));
        assert_eq!(read, Some(Line::Package(package.clone())), "{line:?}");
    }
    let of_base = lock.local_base.iter().flat_map(|base| &base.indexes);
    for index in lock.indexes.iter().chain(of_base) {
        assert!(index.suite.starts_with(|c: char| c.is_ascii_alphanumeric()));
        let is_word = |text: &str| !text.contains(|c: char| c.is_whitespace() || c.is_control());
        assert!(is_word(&index.suite) && is_word(&index.path), "{index:?}");
    }
    for file in lock.files() {
        assert!(!file.name.contains('/'), "{file:?}");
    }
}
