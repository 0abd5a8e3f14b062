//! Which packages a line of recipes has installed, and whether their archive offers newer ones by now.
//!
//! On the builder, before it is sealed, the packages are noted that were not there before the first step, or not in
//! that version, with what apt would take of each, and the sha256 of the indexes that apt read. The note is kept with
//! the image. What the base image brought is not in it: a rebake would not move that, a new base image does.

pub(crate) mod archive;
pub(crate) mod index;
mod version;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

pub use archive::Archive;
pub use index::{Release, offers};
pub use version::compare;

use crate::recipe::LockedIndex as Index;

/// Name and version of the format.
pub const FORMAT: &str = "piaas-bake/packages/1";

/// What was installed, by all bakes that led to an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// [`FORMAT`].
    format: String,
    /// One for each bake in a row, the first one first. Each knows the archive as it was then.
    pub parts: Vec<Part>,
}

/// What one bake installed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    pub indexes: Vec<Index>,
    pub packages: Vec<Package>,
}

/// An installed package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Package {
    pub name: String,
    pub version: String,
    /// The newest version that apt would have taken then; pins and priorities count.
    pub offered: String,
}

/// A package that its archive offers in a newer version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Moved {
    pub package: String,
    pub from: String,
    pub to: String,
}

impl Record {
    /// The record of an image whose bake started from the image with the record `before`, or from a base image.
    #[must_use]
    pub fn after(before: Option<Self>, part: Part) -> Self {
        let mut parts = before.map(|record| record.parts).unwrap_or_default();
        let again: BTreeSet<&str> = part
            .packages
            .iter()
            .map(|package| package.name.as_str())
            .collect();
        for earlier in &mut parts {
            earlier
                .packages
                .retain(|package| !again.contains(package.name.as_str()));
        }
        parts.push(part);
        parts.retain(|part| !part.packages.is_empty());
        Self {
            format: FORMAT.into(),
            parts,
        }
    }

    /// Reads a record; `None` if it is none, or of another format.
    #[must_use]
    pub fn from_json(text: &str) -> Option<Self> {
        let record: Self = serde_json::from_str(text).ok()?;
        (record.format == FORMAT).then_some(record)
    }

    /// As it is stored.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a record holds texts and lists")
    }

    /// Whether it has packages without the indexes that they came from: a step of a recipe has removed these.
    #[must_use]
    pub fn is_blind(&self) -> bool {
        let blind = |part: &Part| !part.packages.is_empty() && part.indexes.is_empty();
        self.parts.iter().any(blind)
    }

    /// How many packages it names.
    #[must_use]
    pub fn count(&self) -> usize {
        self.parts.iter().map(|part| part.packages.len()).sum()
    }

    /// URLs of the suites that it has packages of.
    #[must_use]
    pub fn suites(&self) -> BTreeSet<&str> {
        self.indexes().map(|index| index.suite.as_str()).collect()
    }

    fn indexes(&self) -> impl Iterator<Item = &Index> {
        self.parts.iter().flat_map(|part| &part.indexes)
    }

    /// The indexes that are not what they were and that apt takes packages from by itself: suite and path.
    #[must_use]
    pub fn changed(&self, now: &BTreeMap<String, Release>) -> BTreeSet<(String, String)> {
        self.indexes()
            .filter(|index| differs(index, now))
            .map(|index| (index.suite.clone(), index.path.clone()))
            .collect()
    }

    /// The packages that changed indexes offer in a newer version than any that was offered before. `offers` holds the
    /// indexes that [`Self::changed`] names.
    #[must_use]
    pub fn moved(
        &self,
        now: &BTreeMap<String, Release>,
        offers: &BTreeMap<(String, String), HashMap<String, String>>,
    ) -> Vec<Moved> {
        let mut moved = Vec::new();
        for part in &self.parts {
            let changed: Vec<_> = part
                .indexes
                .iter()
                .filter(|index| differs(index, now))
                .filter_map(|index| offers.get(&(index.suite.clone(), index.path.clone())))
                .collect();
            for package in &part.packages {
                let newest = changed
                    .iter()
                    .filter_map(|offers| offers.get(&package.name))
                    .max_by(|a, b| compare(a, b));
                if let Some(newest) = newest
                    && compare(newest, &package.offered) == Ordering::Greater
                {
                    moved.push(Moved {
                        package: package.name.clone(),
                        from: package.version.clone(),
                        to: newest.clone(),
                    });
                }
            }
        }
        moved.sort_by(|a, b| a.package.cmp(&b.package));
        moved
    }
}

fn differs(index: &Index, now: &BTreeMap<String, Release>) -> bool {
    now.get(&index.suite).is_some_and(|release| {
        !release.not_automatic && release.sha256(&index.path) != Some(index.sha256.as_str())
    })
}

/// Reads what the builder printed (`templates/packages.sh`); `None` if it is not whole.
#[must_use]
pub fn read(printed: &str) -> Option<Part> {
    let mut part = Part::default();
    let mut lines = printed.lines();
    for line in lines.by_ref() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["package", name, version, offered] => part.packages.push(Package {
                name: name.into(),
                version: version.into(),
                offered: offered.into(),
            }),
            ["index", suite, path, sha256] => part.indexes.push(Index {
                suite: suite.into(),
                path: path.into(),
                sha256: sha256.into(),
            }),
            ["end"] => {
                part.indexes.sort();
                return lines.next().is_none().then_some(part);
            }
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUITE: &str = "http://mirror/dists/bookworm/";
    const PATH: &str = "main/binary-amd64/Packages";

    fn part(sha256: &str, packages: &[(&str, &str)]) -> Part {
        let mut printed: String = packages
            .iter()
            .map(|(name, version)| format!("package {name} {version} {version}\n"))
            .collect();
        printed.push_str(&format!("index {SUITE} {PATH} {sha256}\nend\n"));
        read(&printed).unwrap()
    }

    fn release(sha256: &str, more: &str) -> BTreeMap<String, Release> {
        let text = format!("Suite: x\n{more}SHA256:\n {sha256} 1 {PATH}\n");
        BTreeMap::from([(SUITE.to_owned(), Release::parse(&text).unwrap())])
    }

    fn offered(list: &[(&str, &str)]) -> BTreeMap<(String, String), HashMap<String, String>> {
        let offers = list.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned()));
        BTreeMap::from([((SUITE.to_owned(), PATH.to_owned()), offers.collect())])
    }

    #[test]
    fn what_is_printed_must_be_whole() {
        assert_eq!(part("aa", &[("git", "1")]).packages.len(), 1);
        for broken in [
            "",
            "package git 1 1\n",
            "package git 1\nend\n",
            "end\nmore\n",
            "noise\nend\n",
        ] {
            assert_eq!(read(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn only_a_newer_version_in_a_changed_index_has_moved() {
        let record = Record::after(None, part("aa", &[("git", "1.2"), ("jq", "1.6")]));
        assert!(record.changed(&release("aa", "")).is_empty());
        assert_eq!(record.changed(&release("bb", "")).len(), 1);
        let now = release("bb", "");
        let offers = offered(&[("git", "1.10"), ("jq", "1.6"), ("vim", "9")]);
        let moved = record.moved(&now, &offers);
        assert_eq!(moved.len(), 1);
        assert_eq!(
            (moved[0].from.as_str(), moved[0].to.as_str()),
            ("1.2", "1.10")
        );
        assert_eq!(record.moved(&now, &offered(&[("git", "1.1")])), []);
        // Backports and the like: apt takes nothing from there by itself.
        assert!(
            record
                .changed(&release("bb", "NotAutomatic: yes\n"))
                .is_empty()
        );
        assert_eq!(
            record.moved(&release("bb", "NotAutomatic: yes\n"), &offers),
            []
        );
    }

    #[test]
    fn what_was_offered_and_not_taken_does_not_move_until_there_is_more() {
        let printed = format!("package held 1 2\nindex {SUITE} {PATH} aa\nend\n");
        let record = Record::after(None, read(&printed).unwrap());
        let now = release("bb", "");
        assert_eq!(record.moved(&now, &offered(&[("held", "2")])), []);
        assert_eq!(record.moved(&now, &offered(&[("held", "3")])).len(), 1);
    }

    #[test]
    fn each_part_is_measured_by_the_archive_of_its_own_time() {
        let parent = Record::after(None, part("old", &[("git", "1"), ("ssl", "1")]));
        let child = Record::after(
            Some(parent.clone()),
            part("new", &[("jq", "1"), ("ssl", "2")]),
        );
        // The child's own bake came later: nothing of its own has moved since, something of its parent's has.
        let now = release("new", "");
        let offers = offered(&[("git", "2"), ("ssl", "2"), ("jq", "1")]);
        let moved = child.moved(&now, &offers);
        assert_eq!(moved.len(), 1, "{moved:?}");
        assert_eq!(moved[0].package, "git");
        assert_eq!(Record::from_json(&child.to_json()), Some(child));
        assert_eq!(Record::from_json("{}"), None);
        // A bake that installs nothing leaves its parent's record as it is.
        assert_eq!(Record::after(Some(parent.clone()), Part::default()), parent);
    }
}
