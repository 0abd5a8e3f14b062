//! Debian packages by their content: how an archive offers them, what a base is made of, and the files that are kept on
//! this host.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::recipe::units;

/// What an archive offered.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Index {
    /// URL of the suite, such as `http://deb.debian.org/debian/dists/bookworm/`.
    pub suite: String,
    /// Path below it, such as `main/binary-amd64/Packages`.
    pub path: String,
    /// Of the index, unpacked, as the suite's release file has it.
    pub sha256: String,
}

/// One package, as an archive offers it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    pub name: String,
    pub version: String,
    pub architecture: String,
    /// Bytes of the file.
    pub size: u64,
    /// Of the file, in hex.
    pub sha256: String,
    /// Where the file was found. Any other place is as good: the sha256 says what it is.
    pub url: String,
}

/// What the base image of the local cloud was made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Base {
    /// When each suite was released, by its URL, as its release file has it (`Date`).
    pub released: BTreeMap<String, String>,
    /// The packages that were not installed for others alone, as apt notes it.
    pub asked: BTreeSet<String>,
    pub indexes: Vec<Index>,
    /// All that is installed, by name.
    pub packages: Vec<Package>,
}

/// A line of what `templates/lock.record.sh` writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    Package(Package),
    Index(Index),
    /// Name, version and architecture of what no archive has.
    Local(String),
    /// The suite and the date of its release.
    Released(String, String),
}

impl Line {
    /// Reads one; `None` if it is something else, or has what [`Package::fault`] or [`Index::fault`] finds.
    #[must_use]
    pub fn read(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["package", sha256, size, name, version, architecture, url] => {
                let package = Package {
                    name: name.into(),
                    version: version.into(),
                    architecture: architecture.into(),
                    size: size.parse().ok()?,
                    sha256: sha256.into(),
                    url: url.into(),
                };
                package.fault().is_none().then_some(Self::Package(package))
            }
            ["local", name, version, architecture] => {
                Some(Self::Local(format!("{name} {version} {architecture}")))
            }
            ["index", suite, path, sha256] => {
                let index = Index {
                    suite: suite.into(),
                    path: path.into(),
                    sha256: sha256.into(),
                };
                index.fault().is_none().then_some(Self::Index(index))
            }
            ["released", suite, ref date @ ..] if is_source(suite) => {
                Some(Self::Released(suite.into(), date.join(" ")))
            }
            _ => None,
        }
    }
}

/// The longest name of a suite. As a key of a lock file it is a text on one line, of which YAML reads 1024 characters
/// (YAML 1.2, 7.4.2).
const LONGEST_SUITE: usize = 1000;

/// Whether a text is no more than a word in a list of sources (sources.list(5)), where the archive of a base goes.
pub(crate) fn is_source(text: &str) -> bool {
    text.len() <= LONGEST_SUITE
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .chars()
            .all(|c| c.is_ascii_graphic() && !"'\"\\`$#".contains(c))
}

impl Index {
    /// What of it cannot be used.
    #[must_use]
    pub fn fault(&self) -> Option<&'static str> {
        [("suite", &self.suite), ("path", &self.path)]
            .into_iter()
            .find(|(_, text)| !is_source(text))
            .map(|(what, _)| what)
    }
}

impl Package {
    /// What of it is not as Debian's policy (5.6.1, 5.6.8, 5.6.12) and an archive have it; such a thing could be more
    /// than a word in a shell.
    #[must_use]
    pub fn fault(&self) -> Option<&'static str> {
        let of = |text: &str, more: &str| {
            !text.is_empty()
                && text
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || more.contains(c))
        };
        let address = self
            .url
            .strip_prefix("http://")
            .or_else(|| self.url.strip_prefix("https://"));
        [
            ("name", of(&self.name, "+-.")),
            ("version", of(&self.version, ".+-~:")),
            ("architecture", of(&self.architecture, "-")),
            ("sha256", units::is_sha256(&self.sha256)),
            (
                "url",
                address.is_some_and(|rest| of(rest, "-._~%:/?#[]@!*+,;=")),
            ),
        ]
        .into_iter()
        .find(|(_, good)| !good)
        .map(|(what, _)| what)
    }
}

impl Base {
    /// The base of these lines and of the packages that were asked for; `None` unless archives have all that is
    /// installed.
    #[must_use]
    pub fn read(lines: &str, asked: &str) -> Option<Self> {
        let mut base = Self {
            released: BTreeMap::new(),
            asked: asked.lines().map(str::to_owned).collect(),
            indexes: Vec::new(),
            packages: Vec::new(),
        };
        for line in lines.lines() {
            match Line::read(line)? {
                Line::Package(package) => base.packages.push(package),
                Line::Index(index) => base.indexes.push(index),
                Line::Released(suite, date) => {
                    base.released.insert(suite, date);
                }
                Line::Local(_) => return None,
            }
        }
        base.packages.sort();
        base.indexes.sort();
        Some(base).filter(|base| !base.packages.is_empty())
    }

    /// The archive that has a suite.
    #[must_use]
    pub fn archive(&self, suite: &str) -> Option<&str> {
        let end = format!("/dists/{suite}/");
        self.indexes
            .iter()
            .find_map(|index| index.suite.strip_suffix(&end))
    }

    /// What of it cannot be used, and of which package.
    #[must_use]
    pub fn fault(&self) -> Option<(&'static str, &Package)> {
        self.packages
            .iter()
            .find_map(|package| Some((package.fault()?, package)))
    }

    /// Digest, in hex, of what makes a base what it is: its packages, what they are there for, and the archives that it
    /// goes on with. Where a file came from, and what else an archive had that day, is not in it.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut text = String::new();
        let suites: BTreeSet<&str> = self.indexes.iter().map(|one| one.suite.as_str()).collect();
        for suite in suites {
            let _infallible = writeln!(text, "suite {suite}");
        }
        for name in &self.asked {
            let _infallible = writeln!(text, "asked {name}");
        }
        for package in &self.packages {
            let Package {
                name,
                version,
                architecture,
                sha256,
                ..
            } = package;
            let _infallible = writeln!(text, "package {sha256} {name} {version} {architecture}");
        }
        hex::encode(Sha256::digest(text))
    }
}

/// A package's entry in the index of an archive: what it says of itself, and what the archive says, which comes in the
/// place of the package's own. Names of fields have no case, and a field may go on over several lines (deb822(5)).
///
/// # Errors
/// What the package says is not the fields of one package: what follows an empty line would be another one.
pub(crate) fn index_entry(fields: &str, archive: &[(&str, &str)]) -> io::Result<String> {
    let broken = |line: &str| {
        let line: String = line.escape_debug().take(80).collect();
        let what = format!("`{line}` is no line of the fields of a package");
        io::Error::new(io::ErrorKind::InvalidData, what)
    };
    let (mut entry, mut kept) = (String::new(), None);
    for line in fields.lines() {
        let goes_on = line.starts_with([' ', '\t']);
        if goes_on && line.trim().is_empty() || line.contains('\r') {
            return Err(broken(line));
        }
        if !goes_on {
            let name = line.split_once(':').map(|(name, _)| name);
            let name = name.filter(|name| {
                let begins = !name.is_empty() && !name.starts_with(['#', '-']);
                begins && name.bytes().all(|byte| byte.is_ascii_graphic())
            });
            let name = name.ok_or_else(|| broken(line))?;
            let of_archive = |(own, _): &(&str, &str)| own.eq_ignore_ascii_case(name);
            kept = Some(!archive.iter().any(of_archive));
        }
        match kept {
            Some(true) => {
                let _infallible = writeln!(entry, "{line}");
            }
            Some(false) => {}
            None => return Err(broken(line)),
        }
    }
    for (name, value) in archive {
        let _infallible = writeln!(entry, "{name}: {value}");
    }
    entry.push('\n');
    Ok(entry)
}

/// Files of packages and downloads, each by its sha256. What is in it is what its name says, or of no use: everybody who reads a file
/// checks it. What a package says of itself is noted beside it ([`Cache::fields`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    dir: PathBuf,
}

impl Cache {
    /// The one in this directory, which need not be there.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where a file is, or would be.
    #[must_use]
    pub fn path(&self, sha256: &str) -> PathBuf {
        self.dir.join(format!("{sha256}.deb"))
    }

    /// The packages whose files it does not have, each file once. Only their sizes are looked at.
    #[must_use]
    pub fn lacks<'a>(&self, packages: impl IntoIterator<Item = &'a Package>) -> Vec<&'a Package> {
        let mut seen = BTreeSet::new();
        packages
            .into_iter()
            .filter(|package| seen.insert(&package.sha256))
            .filter(|package| {
                let found = self.path(&package.sha256).metadata();
                !found.is_ok_and(|file| file.is_file() && file.len() == package.size)
            })
            .collect()
    }

    /// Whether the file of a package is there and is what its name says.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn holds(&self, package: &Package) -> io::Result<bool> {
        match std::fs::File::open(self.path(&package.sha256)) {
            Ok(mut file) => Ok(sha256_of(&mut file)? == package.sha256),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The fields of a package whose file is there, as `dpkg-deb --field` prints them. They are noted beside the file, which
    /// is packed: of a whole system that takes a second.
    ///
    /// # Errors
    /// The file is no package, or `dpkg-deb` is not there.
    pub fn fields(&self, package: &Package) -> io::Result<String> {
        let note = self.dir.join(format!("{}.fields", package.sha256));
        let whole = |text: &String| text.starts_with("Package: ") && text.ends_with('\n');
        if let Some(text) = std::fs::read_to_string(&note).ok().filter(whole) {
            return Ok(text);
        }
        let file = self.path(&package.sha256);
        let said = std::process::Command::new("dpkg-deb")
            .arg("--field")
            .arg(&file)
            .output()?;
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        if !said.status.success() || !whole(&text) {
            let what = String::from_utf8_lossy(&said.stderr).trim().to_owned();
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        // Who cannot note them asks again the next time.
        let _ = crate::whole::write(&note, text.as_bytes());
        Ok(text)
    }

    /// Takes a file of a package in, whatever it is.
    ///
    /// # Errors
    /// It cannot be read, or not be moved here.
    pub fn adopt(&self, file: &Path) -> io::Result<()> {
        std::fs::create_dir_all(&self.dir)?;
        let sha256 = sha256_of(&mut std::fs::File::open(file)?)?;
        std::fs::rename(file, self.path(&sha256))
    }

    /// A place for a file that is not whole yet, beside those that are.
    ///
    /// # Errors
    /// The directory cannot be written to.
    pub fn begin(&self) -> io::Result<tempfile::NamedTempFile> {
        std::fs::create_dir_all(&self.dir)?;
        self.forget_parts()?;
        tempfile::Builder::new()
            .prefix(PART)
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .tempfile_in(&self.dir)
    }

    /// Removes what processes have left here that died as they fetched: nobody has written to it for long.
    fn forget_parts(&self) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            if !entry
                .file_name()
                .as_encoded_bytes()
                .starts_with(PART.as_bytes())
            {
                continue;
            }
            let written = entry.metadata().and_then(|file| file.modified());
            if written.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > FORGOTTEN)) {
                // Another process may be faster.
                let _gone = std::fs::remove_file(entry.path());
            }
        }
        Ok(())
    }

    /// Takes a file in, whatever it is, and gives its sha256.
    ///
    /// # Errors
    /// It cannot be read or kept.
    pub fn take(&self, file: tempfile::NamedTempFile) -> io::Result<String> {
        let sha256 = sha256_of(&mut file.reopen()?)?;
        file.as_file().sync_all()?;
        file.persist(self.path(&sha256))?;
        Ok(sha256)
    }

    /// Takes a file in by its content; `None` if that is not what is wanted.
    ///
    /// # Errors
    /// It cannot be read or kept.
    pub fn keep(
        &self,
        file: tempfile::NamedTempFile,
        wanted: &Package,
    ) -> io::Result<Option<PathBuf>> {
        if sha256_of(&mut file.reopen()?)? != wanted.sha256 {
            return Ok(None);
        }
        let path = self.path(&wanted.sha256);
        file.as_file().sync_all()?;
        file.persist(&path)?;
        Ok(Some(path))
    }
}

/// What the names of files begin with that are not whole yet.
const PART: &str = ".part-";
/// After this time without a byte nobody fetches it any more.
const FORGOTTEN: Duration = Duration::from_secs(3600);

/// The sha256 of what is left to read, in hex.
fn sha256_of(file: &mut std::fs::File) -> io::Result<String> {
    use io::Read as _;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 16]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex::encode(hash.finalize())),
            length => hash.update(&buffer[..length]),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn what_was_cut_off_long_ago_is_removed_by_the_next_one() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path().to_owned());
        let old = std::time::SystemTime::now() - 2 * FORGOTTEN;
        let make = |name: &str, at| {
            let file = std::fs::File::create(cache.dir().join(name)).unwrap();
            file.set_modified(at).unwrap();
        };
        std::fs::create_dir_all(cache.dir()).unwrap();
        make(".part-old", old);
        make(".part-new", std::time::SystemTime::now());
        make("whole", old);
        drop(cache.begin().unwrap());
        let names = std::fs::read_dir(cache.dir()).unwrap();
        let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, [".part-new", "whole"]);
    }

    fn package(name: &str, content: &str) -> Package {
        Package {
            name: name.into(),
            version: "1".into(),
            architecture: "amd64".into(),
            size: content.len() as u64,
            sha256: hex::encode(Sha256::digest(content)),
            url: format!("http://m/debian/pool/{name}.deb"),
        }
    }

    #[test]
    fn fields_are_asked_for_once_and_what_is_not_whole_again() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        std::fs::create_dir_all(tree.join("DEBIAN")).unwrap();
        let control = "Package: one\nVersion: 1\nArchitecture: all\nMaintainer: me <me@localhost>\nDescription: none\n";
        std::fs::write(tree.join("DEBIAN/control"), control).unwrap();
        let file = dir.path().join("one.deb");
        let made = std::process::Command::new("dpkg-deb")
            .args(["--root-owner-group", "--build"])
            .args([&tree, &file])
            .output();
        if !made.is_ok_and(|made| made.status.success()) {
            eprintln!("left out: dpkg-deb is not there");
            return;
        }
        let cache = Cache::new(dir.path().join("debs"));
        let mut one = package("one", "");
        one.sha256 = sha256_of(&mut std::fs::File::open(&file).unwrap()).unwrap();
        assert!(cache.fields(&one).is_err());
        cache.adopt(&file).unwrap();
        assert_eq!(cache.fields(&one).unwrap(), control);
        let note = cache.dir().join(format!("{}.fields", one.sha256));
        for broken in ["", "Package: one\nVersion"] {
            std::fs::write(&note, broken).unwrap();
            assert_eq!(cache.fields(&one).unwrap(), control);
            assert_eq!(std::fs::read_to_string(&note).unwrap(), control);
        }
        std::fs::remove_file(cache.path(&one.sha256)).unwrap();
        assert_eq!(cache.fields(&one).unwrap(), control);
    }

    #[test]
    fn an_index_is_two_words_of_a_list_of_sources() {
        let fault = |suite: &str, path: &str| {
            let (suite, path) = (suite.to_owned(), path.to_owned());
            let sha256 = "ab".repeat(32);
            Index {
                suite,
                path,
                sha256,
            }
            .fault()
        };
        let path = "main/binary-amd64/Packages";
        for suite in [
            "http://m/debian/dists/x/",
            "http://[::1]:80/dists/x/",
            "file:/srv/a~b/dists/./",
        ] {
            assert_eq!(fault(suite, path), None, "{suite}");
        }
        for suite in [
            "",
            "http://m/ bookworm main\ndeb [trusted=yes] http://n",
            "[trusted=yes]http://n/dists/x/",
            "http://m/#",
            "http://m/$(id)",
            "http://m\u{85}/",
            &"m".repeat(1001),
        ] {
            assert_eq!(fault(suite, path), Some("suite"), "{suite}");
        }
        assert_eq!(fault("http://m/", "a b"), Some("path"));
    }

    #[test]
    fn an_entry_has_the_archives_fields_once_and_is_one_package() {
        let own = [("Priority", "optional"), ("Filename", "./x.deb")];
        let entry = |fields: &str| index_entry(fields, &own);
        let fields = "Package: one\npriority: required\n and more\nDescription: d\n .\n text\nFILENAME: /etc\n";
        assert_eq!(
            entry(fields).unwrap(),
            "Package: one\nDescription: d\n .\n text\nPriority: optional\nFilename: ./x.deb\n\n"
        );
        for broken in [
            "Package: one\n\nPackage: two\n",
            "Package: one\n \t\nPackage: two\n",
            " Package: one\n",
            "Package: one\nno field\n",
            "Package: one\n: nameless\n",
            "Package: one\rPackage: two\n",
        ] {
            assert!(entry(broken).is_err(), "{broken:?}");
        }
    }

    #[test]
    fn a_file_is_kept_by_what_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path().join("debs"));
        let (git, jq) = (package("git", "git"), package("jq", "jq"));
        assert_eq!(cache.lacks([&git, &jq, &git]), [&git, &jq]);
        let mut file = cache.begin().unwrap();
        file.write_all(b"git").unwrap();
        assert!(cache.keep(file, &git).unwrap().is_some());
        let mut file = cache.begin().unwrap();
        file.write_all(b"xx").unwrap();
        assert_eq!(cache.keep(file, &jq).unwrap(), None);
        assert_eq!(cache.lacks([&git, &jq]), [&jq]);
        assert!(cache.holds(&git).unwrap() && !cache.holds(&jq).unwrap());
        std::fs::write(cache.path(&git.sha256), "gxt").unwrap();
        assert!(!cache.holds(&git).unwrap());
        assert_eq!(std::fs::read_dir(cache.dir()).unwrap().count(), 1);
    }

    #[test]
    fn the_digest_of_a_base_is_of_what_it_is_made_of() {
        let base = Base {
            released: BTreeMap::from([("s".into(), "today".into())]),
            asked: BTreeSet::from(["git".into()]),
            indexes: vec![Index {
                suite: "http://m/debian/dists/bookworm/".into(),
                path: "main/binary-amd64/Packages".into(),
                sha256: "aa".into(),
            }],
            packages: vec![package("git", "git")],
        };
        assert_eq!(base.archive("bookworm"), Some("http://m/debian"));
        assert_eq!(base.archive("bookworm-updates"), None);
        let with = |change: fn(&mut Base)| {
            let mut other = base.clone();
            change(&mut other);
            other.digest() == base.digest()
        };
        assert!(with(|base| base.released.clear()));
        assert!(with(|base| base.indexes[0].sha256 = "bb".into()));
        assert!(with(|base| base.packages[0].url = "http://n/x".into()));
        assert!(!with(|base| base.packages[0].sha256 = "bb".into()));
        assert!(!with(|base| base.packages[0].version = "2".into()));
        assert!(!with(|base| base.indexes.clear()));
        assert!(!with(|base| base.asked.clear()));
    }
}
