//! What a recipe installs twice. Read, it is judged among what has no condition; rendered, among what is not ruled out.

use std::collections::BTreeMap;

use super::model::{TreeKind, TreeSpec};

/// The way out of [`twice`].
pub const KEEP_ONE: &str = "keep one of them";
/// The way out of [`listed_twice`].
pub const REMOVE_ONE: &str = "remove one of them";

/// What is said about a path that two entries of `files` install.
#[must_use]
pub fn twice(path: &str) -> String {
    format!("`{path}` is installed twice")
}

/// What is said about a package that is there twice.
#[must_use]
pub fn listed_twice(package: &str) -> String {
    format!("`{package}` is listed twice")
}

/// Paths that something is installed at; `true` for directories. Two trees may share one; nothing else has two owners.
#[derive(Debug, Default)]
pub struct Taken(BTreeMap<String, bool>);

impl Taken {
    /// # Errors
    /// The first path that another one has.
    pub fn take(&mut self, places: Vec<(String, bool)>) -> Result<(), String> {
        let twice = places.iter().find(|(path, directory)| {
            self.0
                .get(path)
                .is_some_and(|known| !(*known && *directory))
        });
        if let Some((path, _)) = twice {
            return Err(path.clone());
        }
        self.0.extend(places);
        Ok(())
    }
}

impl TreeSpec {
    /// Every path that it takes, and whether it is a directory there.
    #[must_use]
    pub fn places(&self) -> Vec<(String, bool)> {
        let below = self.entries.iter().map(|entry| {
            let path = format!("{}/{}", self.path, entry.path);
            (path, entry.kind == TreeKind::Directory)
        });
        std::iter::once((self.path.clone(), true))
            .chain(below)
            .collect()
    }
}
