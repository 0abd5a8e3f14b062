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
pub use crate::debs::{Base as LocalBase, Index as LockedIndex, Package as LockedPackage};
use crate::image::SOURCE_DATE;

/// Name of the file.
pub const FILE: &str = "recipe.lock";
/// The place of [`Lock::local_base`] among those of [`Lock::base`].
pub const LOCAL: &str = "local";
/// Version of the format.
const FORMAT: u32 = 1;
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
}

/// A package that two locks have in another version, or that only one of them has.
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
            let at = Location {
                file: path.to_owned(),
                line,
                column,
            };
            let help = format!(
                "take it from version control again, or make it anew: piaas-bake lock {recipe} --update"
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
            return Err(wrong(message, line_of("source_date:"), 1));
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

/// What is written on one line: JSON is YAML too.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("a lock holds texts, numbers and lists")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, version: &str) -> LockedPackage {
        LockedPackage {
            name: name.into(),
            version: version.into(),
            architecture: "amd64".into(),
            size: 7,
            sha256: "ab".repeat(32),
            url: format!("http://deb.debian.org/debian/pool/{name}.deb"),
        }
    }

    fn lock(packages: &[(&str, &str)]) -> Lock {
        let packages = packages
            .iter()
            .map(|(name, version)| package(name, version));
        let index = LockedIndex {
            suite: "http://deb.debian.org/debian/dists/bookworm/".into(),
            path: "main/binary-amd64/Packages".into(),
            sha256: "cd".repeat(32),
        };
        let asked = ["git".to_owned(), "no".into()];
        Lock::new("web", asked, vec![index], packages.collect())
    }

    #[test]
    fn what_is_written_is_read_and_sorted() {
        let written = lock(&[("no", "1:2"), ("git", "1:2.39~x+deb12u1")]);
        let text = written.to_text();
        let path = Path::new("web/recipe.lock");
        assert_eq!(Lock::read(&text, path, "web").unwrap(), written);
        assert_eq!(
            text,
            "# Written by `piaas-bake lock web`. It pins what the recipe installs; `lock --update` moves it.\n\
             lock: 1\nrecipe: \"web\"\nasked: [\"git\",\"no\"]\nindexes:\n\
             - {\"suite\":\"http://deb.debian.org/debian/dists/bookworm/\",\"path\":\"main/binary-amd64/Packages\",\"sha256\":\"cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd\"}\n\
             packages:\n\
             - {\"name\":\"git\",\"version\":\"1:2.39~x+deb12u1\",\"architecture\":\"amd64\",\"size\":7,\"sha256\":\"abababababababababababababababababababababababababababababababab\",\"url\":\"http://deb.debian.org/debian/pool/git.deb\"}\n\
             - {\"name\":\"no\",\"version\":\"1:2\",\"architecture\":\"amd64\",\"size\":7,\"sha256\":\"abababababababababababababababababababababababababababababababab\",\"url\":\"http://deb.debian.org/debian/pool/no.deb\"}\n"
        );
        let mut based = written.clone();
        based.base.insert(
            Lock::place("us-east-1", "x86_64"),
            "ami-0123456789abcdef0".into(),
        );
        let text = based.to_text();
        assert!(text.contains("\nbase: {\"us-east-1 x86_64\":\"ami-0123456789abcdef0\"}\n"));
        assert_eq!(Lock::read(&text, path, "web").unwrap(), based);
        let wrong = text.replace("ami-0123456789abcdef0", "ami-x");
        let error = Lock::read(&wrong, path, "web").unwrap_err();
        assert_eq!(
            (
                error.location.unwrap().line,
                error.message.contains("no image id")
            ),
            (4, true)
        );
        let mut dated = written.clone();
        assert_eq!(
            (dated.source_date(), Lock::kept_date(None)),
            (SOURCE_DATE, timestamp(SOURCE_DATE))
        );
        dated.source_date = Some(timestamp(FIRST_DATE));
        let text = dated.to_text();
        assert!(
            text.contains("\nsource_date: \"1980-01-01T00:00:00Z\"\nasked: "),
            "{text}"
        );
        assert_eq!(Lock::read(&text, path, "web").unwrap(), dated);
        assert_eq!(Lock::kept_date(Some(&dated)).as_second(), FIRST_DATE);
        for (date, good) in [
            ("2023-06-10T00:00:00Z", true),
            ("2023-06-10T00:00:01Z", false),
            ("1979-12-31T23:59:59Z", false),
            ("2020-01-01T00:00:00.5Z", false),
        ] {
            let read = Lock::read(&text.replace("1980-01-01T00:00:00Z", date), path, "web");
            assert_eq!(read.is_ok(), good, "{date}");
            if let Err(error) = read {
                assert!(
                    error
                        .message
                        .contains(&format!("the source date {date} is not"))
                );
                assert!(
                    error
                        .message
                        .ends_with("from 1980-01-01T00:00:00Z to 2023-06-10T00:00:00Z")
                );
                assert!(error.help.unwrap().contains("piaas-bake lock web"));
                assert_eq!(error.location.unwrap().line, 4);
            }
        }
        let mut on_local = written.clone();
        let base = || LocalBase {
            released: [("s".to_owned(), "Mon".to_owned())].into(),
            asked: ["apt".to_owned()].into(),
            indexes: Vec::new(),
            packages: vec![package("apt", "2.6")],
        };
        on_local.local_base = Some(base());
        let text = on_local.to_text();
        assert!(text.starts_with(&written.to_text()));
        assert!(
            text.contains("\n  packages:\n  - {\"name\":\"apt\","),
            "{text}"
        );
        assert_eq!(Lock::read(&text, path, "web").unwrap(), on_local);
        assert_eq!(
            on_local.pins(),
            [("local x86_64".to_owned(), base().digest())].into()
        );
        assert_eq!(
            (written.pins().len(), on_local.changes(&written).len()),
            (0, 0)
        );
        assert_eq!(written.base_changes(&on_local)[0].package, "apt");
        let wrong = text.replace("\"2.6\"", "\"2 6\"");
        let error = Lock::read(&wrong, path, "web").unwrap_err();
        assert_eq!(error.location.unwrap().line, wrong.lines().count());
        let empty = lock(&[]);
        assert_eq!(Lock::read(&empty.to_text(), path, "web").unwrap(), empty);
        assert_eq!(written.lines().lines().count(), 2);
        assert_eq!(written.lacks(&["git".into(), "vim".into()]), ["vim"]);
    }

    #[test]
    fn what_is_no_lock_of_the_recipe_is_refused_with_its_place() {
        let text = lock(&[("git", "1")]).to_text();
        for (from, to, message, line) in [
            ("lock: 1", "lock: 2", "has the format 2", 1),
            ("\"web\"", "\"api\"", "is the lock file of `api`", 1),
            ("asked", "missing", "this is no lock file", 4),
            (
                "\"1\"",
                "\"1; rm -rf /\"",
                "the version of the package `git`",
                8,
            ),
            (
                "debian/pool",
                "debian pool",
                "the url of the package `git`",
                8,
            ),
            ("abab", "ABAB", "the sha256 of the package `git`", 8),
            ("size\":7", "size\":-7", "this is no lock file", 8),
        ] {
            let error = Lock::read(&text.replacen(from, to, 1), Path::new("l"), "web").unwrap_err();
            assert!(error.message.contains(message), "{to}: {}", error.message);
            assert_eq!(error.location.unwrap().line, line, "{to}");
        }
    }

    #[test]
    fn a_diff_names_what_moved_came_and_went() {
        let old = lock(&[("git", "1"), ("jq", "1"), ("zip", "3")]);
        let new = lock(&[("git", "2"), ("vim", "9"), ("zip", "3")]);
        let said: Vec<_> = old
            .changes(&new)
            .into_iter()
            .map(|change| (change.package, change.from, change.to))
            .collect();
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            said,
            [
                ("git".into(), some("1"), some("2")),
                ("jq".into(), some("1"), None),
                ("vim".into(), None, some("9")),
            ]
        );
    }
}
