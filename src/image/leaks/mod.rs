//! The known leaks: paths of an image that would differ from bake to bake, or tell of the machine that was sealed.
//!
//! There is one table, `templates/sealed-paths`. The builder is cleaned by it and asserts it (`seal.sh`); what its
//! finished disk has is held against the same lines by [`inspect`]. What a recipe says of its own comes on top.

pub mod booted;
mod pattern;

use std::collections::{BTreeMap, HashSet};
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use super::tree::{Entry, EntryType, TreeManifest};
use crate::parallel;
pub use pattern::Pattern;

/// The table as machines get it; how it is written stands at its head.
pub const TABLE: &str = include_str!("../../../templates/sealed-paths");

/// What is done about a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It is removed.
    Gone,
    /// A file loses its bytes, a directory its entries.
    Empty,
    /// The files below are removed.
    Tree,
    /// Old files below are removed, the others lose their bytes.
    Logs,
    /// Links of a directory to names that it does not have are removed.
    Dangling,
    /// Its lines are sorted.
    Sorted,
    /// The sections of Info's directory are sorted.
    Menu,
    /// A keystore of Java gets one date.
    Keystore,
    /// It is new in every bake, and the recipe has to say what is meant.
    Refused,
    /// Something else makes it the same.
    Written,
    /// A recipe says that it is meant to be in the image, although it is refused elsewhere.
    Keep,
}

impl Action {
    /// As the table writes it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Empty => "empty",
            Self::Tree => "tree",
            Self::Logs => "logs",
            Self::Dangling => "dangling",
            Self::Sorted => "sorted",
            Self::Menu => "menu",
            Self::Keystore => "keystore",
            Self::Refused => "refused",
            Self::Written => "written",
            Self::Keep => "keep",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        serde_json::from_value(word.into()).ok()
    }
}

/// An entry of the table.
#[derive(Debug, Clone)]
pub struct Leak {
    pub action: Action,
    pub path: String,
    /// What it depends on (clock, random, host, order, history), a colon, and more about it.
    pub why: String,
    /// Of `path`.
    pub pattern: Pattern,
}

/// What a recipe says about paths of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sealed {
    /// A pattern.
    pub path: String,
    /// [`Action::Gone`], [`Action::Empty`] or [`Action::Keep`].
    pub action: Action,
}

impl Sealed {
    const WHY: &str = "the recipe says so";

    /// Its line in the table of a machine.
    #[must_use]
    pub fn line(&self) -> String {
        format!(
            "now\t{}\t{}\t{}\n",
            self.action.word(),
            self.path,
            Self::WHY
        )
    }

    fn leak(&self) -> Leak {
        Leak {
            action: self.action,
            path: self.path.clone(),
            why: Self::WHY.to_owned(),
            pattern: Pattern::new(&self.path),
        }
    }
}

/// Something that must not be in an image, and is.
#[derive(Debug, Clone)]
pub struct Found {
    /// Absolute.
    pub path: String,
    /// What the table says about it; `None` for what it does not have.
    pub leak: Option<Leak>,
}

impl Found {
    /// The entry by which it is refused. `None` where no line of a recipe helps: it is cleaned, and came back.
    fn refused_by(&self) -> Option<&str> {
        let leak = self.leak.as_ref()?;
        (leak.action == Action::Refused).then_some(leak.path.as_str())
    }
}

/// What is to be added to `seal` of the recipe: for each path a line that removes it, and one that lets it stay. Several
/// paths of one entry have that entry's lines.
#[must_use]
pub fn lines(found: &[Found]) -> Vec<[String; 2]> {
    let mut by_entry: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for one in found {
        if let Some(entry) = one.refused_by() {
            by_entry.entry(entry).or_default().push(&one.path);
        }
    }
    let path = |(entry, paths): (&str, Vec<&str>)| match paths[..] {
        [alone] => as_pattern(alone),
        _ => entry.to_owned(),
    };
    let lines = by_entry.into_iter().map(path).map(|path| {
        [
            format!("- {{ path: {path}, action: gone }}"),
            format!("- {{ path: {path}, action: keep, reason: … }}"),
        ]
    });
    lines.collect()
}

/// Whether something was found that is cleaned, and so came back.
#[must_use]
pub fn came_back(found: &[Found]) -> bool {
    found.iter().any(|one| one.refused_by().is_none())
}

/// The path, and why it must not be there.
impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.path)?;
        match &self.leak {
            Some(leak) => write!(f, " ({})", leak.why),
            None => Ok(()),
        }
    }
}

/// Whether a character may stand in a pattern of a recipe: no blank, and nothing that YAML or sh would take for theirs.
#[must_use]
pub fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || "/._+@:=~%*?-".contains(c)
}

/// A path as a pattern of a recipe: what cannot stand in one becomes `*`.
fn as_pattern(path: &str) -> String {
    let mut pattern = String::new();
    for c in path.chars() {
        if is_plain(c) && !matches!(c, '*' | '?') {
            pattern.push(c);
        } else if !pattern.ends_with('*') {
            pattern.push('*');
        }
    }
    pattern
}

/// The entries of [`TABLE`], in its order.
#[must_use]
pub fn table() -> &'static [Leak] {
    static ENTRIES: LazyLock<Vec<Leak>> = LazyLock::new(|| {
        let lines = TABLE.lines();
        let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines
            .map(|line| entry(line).expect("a test reads every line of the table"))
            .collect()
    });
    &ENTRIES
}

fn entry(line: &str) -> Option<Leak> {
    let [_when, action, path, why] = line.split('\t').collect::<Vec<_>>()[..] else {
        return None;
    };
    Some(Leak {
        action: Action::parse(action)?,
        path: path.to_owned(),
        why: why.to_owned(),
        pattern: Pattern::new(path),
    })
}

/// The table, and what the recipe says.
fn with_own(own: &[Sealed]) -> Vec<Leak> {
    let own = own.iter().map(Sealed::leak);
    table().iter().cloned().chain(own).collect()
}

/// What the assertion on a machine has named, with what is known about it.
#[must_use]
pub fn explain(path: &str, own: &[Sealed]) -> Found {
    let all = with_own(own);
    let of_it = all.iter().filter(|leak| {
        !matches!(leak.action, Action::Keep | Action::Written)
            && leak.pattern.covers(path.as_bytes())
    });
    // The nearest one: a file in a directory of the table may have a line of its own. What is cleaned is not refused.
    let nearest = of_it.max_by_key(|leak| (leak.pattern.depth(), leak.action != Action::Refused));
    Found {
        path: path.to_owned(),
        leak: nearest.cloned(),
    }
}

/// What the tree of a finished disk has although the table says otherwise. What is asserted about contents, as of
/// keystores and sorted files, is asserted on the machine alone: a manifest has no contents.
#[must_use]
pub fn inspect(tree: &TreeManifest, own: &[Sealed]) -> Vec<Found> {
    let all = with_own(own);
    let (kept, asserted): (Vec<&Leak>, Vec<&Leak>) =
        all.iter().partition(|leak| leak.action == Action::Keep);
    let paths: HashSet<&[u8]> = tree.entries.iter().map(|one| &*one.path.0).collect();
    let found = |entry: &Entry| {
        let path = &entry.path.0;
        let leak = asserted.iter().find(|leak| match leak.action {
            Action::Refused => {
                leak.remains(entry, &paths) && !kept.iter().any(|one| one.pattern.covers(path))
            }
            _ => leak.remains(entry, &paths),
        })?;
        Some(Found {
            path: format!("/{}", entry.path),
            leak: Some((*leak).clone()),
        })
    };
    let found = parallel::map_small(&tree.entries, found);
    found.into_iter().flatten().collect()
}

impl Leak {
    /// Whether this entry of a tree with these paths is one that it does away with.
    fn remains(&self, entry: &Entry, paths: &HashSet<&[u8]>) -> bool {
        let path = entry.path.0.as_slice();
        if !self.pattern.covers(path) {
            return false;
        }
        let itself = self.pattern.matches(path);
        let is_directory = entry.kind == EntryType::Directory;
        let is_empty = entry.size == Some(0);
        match self.action {
            Action::Gone => itself,
            Action::Empty => !itself || !(is_directory || is_empty),
            Action::Tree | Action::Refused => !is_directory,
            Action::Logs => match entry.kind {
                EntryType::Directory => false,
                EntryType::File => !is_empty || is_old_log(path),
                _ => is_old_log(path),
            },
            Action::Dangling => {
                let target = entry.target.as_ref().map_or(&[][..], |target| &target.0);
                let at = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
                let (dir, link) = (&path[..at], entry.kind == EntryType::Symlink);
                link && self.pattern.matches(dir)
                    && !target.contains(&b'/')
                    && !paths.contains([dir, b"/", target].concat().as_slice())
            }
            Action::Sorted | Action::Menu | Action::Keystore | Action::Written | Action::Keep => {
                false
            }
        }
    }
}

/// Logs that are a piece of the past, as `old_logs` of `seal.sh` finds them.
fn is_old_log(path: &[u8]) -> bool {
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
    let ends = [&b".gz"[..], b".xz", b".old"];
    path.starts_with(b"var/log/journal/")
        || ends.iter().any(|end| name.ends_with(end))
        || matches!(name, [.., b'.', b'0'..=b'9'])
        || name
            .windows(2)
            .any(|two| matches!(two, [b'-', b'0'..=b'9']))
}

#[cfg(test)]
mod tests;
