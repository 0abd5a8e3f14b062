//! The lock file beside a recipe: exactly which packages its layer installs.
//!
//! YAML, one package a line, sorted, so that a change of it reads well in a diff. `lock` writes it; people do not.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::diagnostic::Diagnostic;
use super::files;
use super::model::Location;
use super::units;
use crate::debs::is_source;
pub use crate::debs::{Base as LocalBase, Index as LockedIndex, Package as LockedPackage};
use crate::image::SOURCE_DATE;

/// Name of the file.
pub const FILE: &str = "recipe.lock";
/// The place of [`Lock::local_base`] among those of [`Lock::base`].
pub const LOCAL: &str = "local";
/// Version of the format.
const FORMAT: u32 = 1;
/// Characters of a wrong text that are said again. No place of a base image is longer.
const QUOTED: usize = 100;
/// 1980-01-01, where FAT's dates begin (Microsoft FAT specification, 2004, section 5).
const FIRST_DATE: i64 = 315_532_800;

/// What the layer of one recipe installs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// Version of the format, 1.
    lock: u32,
    /// Name of the recipe.
    pub recipe: String,
    /// Of a recipe at the root of a line: the image that it stands on, by region and architecture
    /// (`us-east-1 x86_64`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub base: BTreeMap<String, String>,
    /// Likewise, what the base image of the local cloud is made of; it has no id that means the same on every host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_base: Option<LocalBase>,
    /// Likewise, what all scripts of the line find in `SOURCE_DATE_EPOCH`, in whole seconds. A lock without it, as older
    /// versions wrote it, means [`SOURCE_DATE`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_date: Option<Timestamp>,
    /// The packages that the recipe asked for by name, as it names them.
    pub asked: BTreeSet<String>,
    /// The indexes that apt had read.
    pub indexes: Vec<LockedIndex>,
    /// All that the layer installed, also what they depend on and what its steps asked for, by name.
    pub packages: Vec<LockedPackage>,
    /// What the recipe downloads, by URL.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub downloads: Vec<LockedDownload>,
}

/// One download, as it was found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedDownload {
    /// Where it was found. Its sha256 says what it is.
    pub url: String,
    /// In hex.
    pub sha256: String,
    /// In bytes.
    pub size: u64,
}

impl LockedDownload {
    /// As a file to keep on this host, beside those of packages; it has no version and no architecture.
    #[must_use]
    pub fn as_file(&self) -> LockedPackage {
        let path = self.url.split(['?', '#']).next().unwrap_or_default();
        LockedPackage {
            name: path.rsplit('/').next().unwrap_or_default().to_owned(),
            version: String::new(),
            architecture: String::new(),
            size: self.size,
            sha256: self.sha256.clone(),
            url: self.url.clone(),
        }
    }
}

/// A package, or a download, that two locks have in another version, or that only one of them has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    pub package: String,
    pub from: Option<String>,
    pub to: Option<String>,
}

impl Lock {
    /// A lock of these packages.
    #[must_use]
    pub fn new(
        recipe: &str,
        asked: impl IntoIterator<Item = String>,
        mut indexes: Vec<LockedIndex>,
        mut packages: Vec<LockedPackage>,
    ) -> Self {
        packages.sort();
        packages.dedup();
        indexes.sort();
        indexes.dedup();
        Self {
            lock: FORMAT,
            recipe: recipe.to_owned(),
            base: BTreeMap::new(),
            local_base: None,
            source_date: None,
            asked: asked.into_iter().collect(),
            indexes,
            packages,
            downloads: Vec::new(),
        }
    }

    /// The key of [`Lock::base`].
    #[must_use]
    pub fn place(region: &str, architecture: &str) -> String {
        format!("{region} {architecture}")
    }

    /// Reads the lock beside a recipe; `None` if it has none.
    ///
    /// # Errors
    /// It cannot be read, or is no lock of this recipe.
    pub fn beside(dir: &Path, recipe: &str) -> Result<Option<Self>, Diagnostic> {
        let path = dir.join(FILE);
        if path.symlink_metadata().is_err() {
            return Ok(None);
        }
        let text = files::text(&path)?;
        Self::read(&text, &path, recipe).map(Some)
    }

    /// Reads the text of a lock.
    ///
    /// # Errors
    /// It is no lock of this recipe.
    pub fn read(text: &str, path: &Path, recipe: &str) -> Result<Self, Diagnostic> {
        let wrong = |message: String, line: usize, column: usize| {
            // What ends too early is missed behind the end.
            let lines = text.split('\n').count();
            let (line, column) = if line > lines {
                (lines, 1)
            } else {
                (line, column)
            };
            let length = text
                .split('\n')
                .nth(line - 1)
                .map_or(0, |it| it.chars().count());
            let column = column.min(length + 1);
            let at = Location {
                file: path.to_owned(),
                line,
                column,
            };
            let help = format!(
                "take it from version control again, or remove it and make it anew: piaas-bake lock {recipe}"
            );
            Diagnostic::at(at, text, message, help)
        };
        let lock: Self = serde_yaml::from_str(text).map_err(|error| {
            let (line, column) = error
                .location()
                .map_or((1, 1), |at| (at.line().max(1), at.column().max(1)));
            wrong(format!("this is no lock file: {error}"), line, column)
        })?;
        if lock.lock != FORMAT {
            let message = format!(
                "this lock file has the format {}, this version reads {FORMAT}",
                lock.lock
            );
            return Err(wrong(message, 1, 1));
        }
        if lock.recipe != recipe {
            let message = format!("this is the lock file of `{}`", lock.recipe);
            return Err(wrong(message, 1, 1));
        }
        let line_of = |key: &str| {
            text.lines()
                .position(|line| line.starts_with(key))
                .unwrap_or(0)
                + 1
        };
        let bases = lock.local_base.iter();
        let mut suites = bases.flat_map(|base| base.released.keys());
        if let Some(suite) = suites.find(|suite| !is_source(suite)) {
            let suite: String = suite.chars().take(QUOTED).collect();
            let message = format!("the suite `{suite}` of the base image cannot be used");
            return Err(wrong(message, line_of("  released:"), 1));
        }
        if let Some((place, _)) = lock.base.iter().find(|(place, _)| place.len() > QUOTED) {
            let place: String = place.chars().take(QUOTED).collect();
            let message = format!("`{place}…` is no place of a base image");
            return Err(wrong(message, line_of("base:"), 1));
        }
        if let Some((place, id)) = lock.base.iter().find(|(_, id)| !units::is_ami_id(id)) {
            let message = format!("`{id}`, the base image of {place}, is no image id");
            return Err(wrong(message, line_of("base:"), 1));
        }
        if let Some(date) = lock.source_date
            && (date.subsec_nanosecond() != 0
                || !(FIRST_DATE..=SOURCE_DATE).contains(&date.as_second()))
        {
            // The writer of local disks clamps times to its own date: a later one would be on no disk.
            let message = format!(
                "the source date {date} is not a whole second from {} to {}",
                timestamp(FIRST_DATE),
                timestamp(SOURCE_DATE)
            );
            let help = "write a date between the two, in that form";
            let wrong = wrong(message, line_of("source_date:"), 1);
            return Err(Diagnostic {
                help: Some(help.to_owned()),
                ..wrong
            });
        }
        let is_sound =
            |one: &&LockedDownload| units::is_url(&one.url) && units::is_sha256(&one.sha256);
        if let Some(unsound) = lock.downloads.iter().find(|one| !is_sound(one)) {
            let written = json(unsound);
            let line = text.lines().position(|line| line.ends_with(&written));
            let message = "this is no download: it needs a URL and a sha256".to_owned();
            return Err(wrong(message, line.unwrap_or(0) + 1, 1));
        }
        let of_base = lock.local_base.iter().flat_map(|base| &base.indexes);
        for index in of_base.chain(&lock.indexes) {
            if let Some(what) = index.fault() {
                let written = json(index);
                let line = text.lines().position(|line| line.ends_with(&written));
                let message = format!("the {what} of the index `{}` cannot be used", index.path);
                return Err(wrong(message, line.unwrap_or(0) + 1, 1));
            }
        }
        let of_base = lock.local_base.iter().flat_map(|base| &base.packages);
        for package in of_base.chain(&lock.packages) {
            if let Some(what) = package.fault() {
                let name = &package.name;
                let written = json(package);
                let line = text.lines().position(|line| line.ends_with(&written));
                let message = format!("the {what} of the package `{name}` cannot be used");
                return Err(wrong(message, line.unwrap_or(0) + 1, 1));
            }
        }
        Ok(lock)
    }

    /// The text of the file.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = format!(
            "# Written by `piaas-bake lock {}`. It pins what the recipe installs; `lock --update` moves it.\n\
             lock: {FORMAT}\nrecipe: {}\n",
            self.recipe,
            json(&self.recipe),
        );
        if !self.base.is_empty() {
            let _infallible = writeln!(text, "base: {}", json(&self.base));
        }
        if let Some(date) = &self.source_date {
            let _infallible = writeln!(text, "source_date: {}", json(date));
        }
        let _infallible = writeln!(text, "asked: {}", json(&self.asked));
        list(&mut text, "indexes", &self.indexes);
        list(&mut text, "packages", &self.packages);
        if !self.downloads.is_empty() {
            list(&mut text, "downloads", &self.downloads);
        }
        if let Some(base) = &self.local_base {
            text.push_str("local_base:\n");
            let _infallible = writeln!(text, "  released: {}", json(&base.released));
            let _infallible = writeln!(text, "  asked: {}", json(&base.asked));
            list(&mut text, "  indexes", &base.indexes);
            list(&mut text, "  packages", &base.packages);
        }
        text
    }

    /// What the recipe asks for now and did not when the lock was made.
    #[must_use]
    pub fn lacks<'a>(&self, asked: &'a [String]) -> Vec<&'a str> {
        asked
            .iter()
            .filter(|name| !self.asked.contains(*name))
            .map(String::as_str)
            .collect()
    }

    /// What it has of this URL.
    #[must_use]
    pub fn download(&self, url: &str) -> Option<&LockedDownload> {
        self.downloads.iter().find(|one| one.url == url)
    }

    /// The files that it names.
    pub fn files(&self) -> impl Iterator<Item = LockedPackage> {
        let downloads = self.downloads.iter().map(LockedDownload::as_file);
        self.packages.iter().cloned().chain(downloads)
    }

    /// The downloads that are another in `new`, by URL, with their sha256.
    #[must_use]
    pub fn download_changes(&self, new: &Self) -> Vec<Change> {
        let urls = self
            .downloads
            .iter()
            .chain(&new.downloads)
            .map(|one| &one.url);
        let urls: BTreeSet<&String> = urls.collect();
        let of = |lock: &Self, url: &str| lock.download(url).map(|one| one.sha256.clone());
        urls.into_iter()
            .map(|url| Change {
                package: url.clone(),
                from: of(self, url),
                to: of(new, url),
            })
            .filter(|change| change.from != change.to)
            .collect()
    }

    /// The packages that stay if these move.
    #[must_use]
    pub fn without(&self, moved: &[String]) -> Self {
        let mut kept = self.clone();
        kept.packages
            .retain(|package| !moved.contains(&package.name));
        kept
    }

    /// What is another in `new`, by name.
    #[must_use]
    pub fn changes(&self, new: &Self) -> Vec<Change> {
        changes(&self.packages, &new.packages)
    }

    /// What is another in the local cloud's base of `new`, by name.
    #[must_use]
    pub fn base_changes(&self, new: &Self) -> Vec<Change> {
        let packages = |lock: &'_ Self| lock.local_base.clone().map(|base| base.packages);
        let (old, new) = (packages(self), packages(new));
        changes(&old.unwrap_or_default(), &new.unwrap_or_default())
    }

    /// What the layer stands on, by place: the ids of [`Self::base`], and the digest of [`Self::local_base`] at
    /// [`Self::place`] of [`LOCAL`].
    #[must_use]
    pub fn pins(&self) -> BTreeMap<String, String> {
        let mut pins = self.base.clone();
        if let Some(base) = &self.local_base {
            pins.insert(Self::place(LOCAL, "x86_64"), base.digest());
        }
        pins
    }

    /// What scripts of the line find in `SOURCE_DATE_EPOCH`.
    #[must_use]
    pub fn source_date(&self) -> i64 {
        self.source_date.map_or(SOURCE_DATE, Timestamp::as_second)
    }

    /// What [`Self::source_date`] becomes in a lock that is written over this one, or over none.
    #[must_use]
    pub fn kept_date(old: Option<&Self>) -> Timestamp {
        timestamp(old.map_or(SOURCE_DATE, Self::source_date))
    }

    /// The versions by name; of a package in several architectures, with that.
    #[must_use]
    pub fn versions(&self) -> BTreeMap<String, String> {
        let mut versions = BTreeMap::new();
        for package in &self.packages {
            let (name, version) = (package.name.clone(), package.version.clone());
            if versions.contains_key(&name) {
                versions.insert(format!("{name}:{}", package.architecture), version);
            } else {
                versions.insert(name, version);
            }
        }
        versions
    }

    /// The lines that a machine reads: sha256, size, name, version, architecture and URL.
    #[must_use]
    pub fn lines(&self) -> String {
        let mut lines = String::new();
        for package in &self.packages {
            let LockedPackage {
                name,
                version,
                architecture,
                size,
                sha256,
                url,
            } = package;
            let _infallible = writeln!(
                lines,
                "{sha256} {size} {name} {version} {architecture} {url}"
            );
        }
        lines
    }
}

fn timestamp(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).expect("the dates of locks are far within what is a time")
}

/// What is another in the packages `new`, by name.
#[must_use]
pub fn changes(old: &[LockedPackage], new: &[LockedPackage]) -> Vec<Change> {
    let by_name = |packages: &[LockedPackage]| -> BTreeMap<_, _> {
        let named = packages.iter().map(|package| {
            let key = (package.name.clone(), package.architecture.clone());
            (key, (package.version.clone(), package.sha256.clone()))
        });
        named.collect()
    };
    let (old, new) = (by_name(old), by_name(new));
    let keys: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    keys.into_iter()
        .filter(|key| old.get(*key) != new.get(*key))
        .map(|key| Change {
            package: key.0.clone(),
            from: old.get(key).map(|(version, _)| version.clone()),
            to: new.get(key).map(|(version, _)| version.clone()),
        })
        .collect()
}

/// A list, an item on each line, as far in as its name.
fn list(text: &mut String, name: &str, items: &[impl Serialize]) {
    let indent = &name[..name.len() - name.trim_start().len()];
    text.push_str(name);
    text.push_str(if items.is_empty() { ": []\n" } else { ":\n" });
    for item in items {
        let _infallible = writeln!(text, "{indent}- {}", json(item));
    }
}

/// What is written on one line: JSON is YAML too, but for characters that YAML cannot have as they are, or takes for ends of
/// lines (YAML 1.2, 5.1 and 5.4; 1.1, 4.2).
fn json(value: &impl Serialize) -> String {
    let text = serde_json::to_string(value).expect("a lock holds texts, numbers and lists");
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\u{7f}'..='\u{9f}'
            | '\u{2028}'
            | '\u{2029}'
            | '\u{feff}'
            | '\u{fffe}'
            | '\u{ffff}' => {
                let _infallible = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests;
