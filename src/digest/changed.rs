//! Which recipes are not what they were: two sets of recipes, told apart by digest. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{Digest, Manifest, Under, explain};

/// A recipe on one side: the manifests of its line, root first. Never empty.
pub type Line = Vec<Manifest>;

/// What became of a recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    New,
    Changed,
    Removed,
}

/// A recipe that is not what it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Changed {
    pub recipe: String,
    pub change: Change,
    /// Of the recipe now; `None` if it is removed.
    pub digest: Option<Digest>,
    /// The recipes that it builds on now, root first.
    pub parents: Vec<String>,
    /// No other recipe that is new or changed builds on it.
    pub leaf: bool,
    /// One sentence per difference. Never empty.
    pub why: Vec<String>,
}

/// The recipes that are new, changed or removed: parents before their children, then by name; removed ones last.
///
/// `before` holds, for a recipe that could not be read then, why.
#[must_use]
pub fn changed(
    before: &BTreeMap<String, Result<Line, String>>,
    after: &BTreeMap<String, Line>,
) -> Vec<Changed> {
    let mut list: Vec<Changed> = after
        .iter()
        .filter_map(|(recipe, line)| one(recipe, before.get(recipe), line))
        .collect();
    // A child's line is longer than its parent's.
    list.sort_by(|a, b| (a.parents.len(), &a.recipe).cmp(&(b.parents.len(), &b.recipe)));
    let built_on: BTreeSet<String> = list
        .iter()
        .flat_map(|one| one.parents.iter().cloned())
        .collect();
    for one in &mut list {
        one.leaf = !built_on.contains(&one.recipe);
    }
    let removed = before
        .keys()
        .filter(|recipe| !after.contains_key(*recipe))
        .map(|recipe| Changed {
            recipe: recipe.clone(),
            change: Change::Removed,
            digest: None,
            parents: Vec::new(),
            leaf: false,
            why: vec!["the recipe is gone".to_owned()],
        });
    list.extend(removed);
    list
}

fn one(recipe: &str, before: Option<&Result<Line, String>>, after: &Line) -> Option<Changed> {
    let now = after.last()?;
    let digest = now.digest();
    let (change, why) = match before {
        None => (Change::New, vec!["new recipe".to_owned()]),
        Some(Err(reason)) => (
            Change::Changed,
            vec![format!("it could not be read before: {reason}")],
        ),
        Some(Ok(line)) => {
            if line.last().map(Manifest::digest) == Some(digest) {
                return None;
            }
            (Change::Changed, why(line, after))
        }
    };
    Some(Changed {
        recipe: recipe.to_owned(),
        change,
        digest: Some(digest),
        parents: after[..after.len() - 1]
            .iter()
            .map(|manifest| manifest.recipe.clone())
            .collect(),
        leaf: true,
        why,
    })
}

/// What differs in the recipe itself, and which parent it differs by.
fn why(before: &Line, after: &Line) -> Vec<String> {
    let (Some(old), Some(new)) = (before.last(), after.last()) else {
        return vec!["its line was empty".to_owned()];
    };
    let mut words = Vec::new();
    let mut old = old.clone();
    if let (Under::Parent(_), Under::Parent(_)) = (&old.on, &new.on)
        && old.on != new.on
    {
        let parent = |line: &Line| {
            line.iter()
                .rev()
                .nth(1)
                .map_or_else(String::new, |manifest| manifest.recipe.clone())
        };
        let (was, is) = (parent(before), parent(after));
        words.push(if was == is {
            format!("its parent {is} changed")
        } else {
            format!("it builds on {is} instead of {was}")
        });
        old.on = new.on.clone();
    }
    words.extend(explain(&old, new));
    words
}
