//! What an apt archive says about itself: its `InRelease` file and its `Packages` indexes. Pure.
//!
//! The format is that of Debian's repositories ("DebianRepository/Format"). No signature is checked here: what is read
//! only decides whether a rebake is worth while. The bake itself installs through apt, which checks them.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};

use super::version::compare;

/// What a suite offers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Release {
    /// Sha256 by path, such as `main/binary-amd64/Packages.xz`.
    sha256: BTreeMap<String, String>,
    /// apt takes nothing from it unless it is told to, as with backports.
    pub not_automatic: bool,
    /// Files can be had by their hash, so that an update of the archive does not come between.
    pub by_hash: bool,
}

impl Release {
    /// Reads an `InRelease` or `Release` file; `None` if it names no file.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut release = Self::default();
        let mut in_hashes = false;
        for line in text.lines() {
            if let Some(entry) = line.strip_prefix(' ').filter(|_| in_hashes) {
                let mut words = entry.split_whitespace();
                if let (Some(sha256), Some(_size), Some(path)) =
                    (words.next(), words.next(), words.next())
                {
                    release
                        .sha256
                        .insert(path.to_owned(), sha256.to_ascii_lowercase());
                }
                continue;
            }
            in_hashes = line.trim_end() == "SHA256:";
            match line.split_once(':').map(|(key, value)| (key, value.trim())) {
                Some(("NotAutomatic", "yes")) => release.not_automatic = true,
                Some(("Acquire-By-Hash", "yes")) => release.by_hash = true,
                _ => {}
            }
        }
        (!release.sha256.is_empty()).then_some(release)
    }

    /// The sha256 of a file.
    #[must_use]
    pub fn sha256(&self, path: &str) -> Option<&str> {
        self.sha256.get(path).map(String::as_str)
    }

    /// The files that hold an index, the smallest first.
    #[must_use]
    pub fn forms(&self, path: &str) -> Vec<Form> {
        [
            (".xz", Packing::Xz),
            (".gz", Packing::Gzip),
            ("", Packing::Plain),
        ]
        .into_iter()
        .filter_map(|(ending, packing)| {
            let path = format!("{path}{ending}");
            let sha256 = self.sha256(&path)?.to_owned();
            let place = match path.rsplit_once('/') {
                Some((dir, _)) if self.by_hash => format!("{dir}/by-hash/SHA256/{sha256}"),
                _ => path,
            };
            Some(Form {
                place,
                sha256,
                packing,
            })
        })
        .collect()
    }
}

/// One file that holds an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Form {
    /// Relative to the suite.
    pub place: String,
    pub sha256: String,
    pub packing: Packing,
}

/// How a file is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    Xz,
    Gzip,
    Plain,
}

/// The newest version of each package in a `Packages` index.
#[must_use]
pub fn offers(index: &str) -> HashMap<String, String> {
    let mut newest: HashMap<String, String> = HashMap::new();
    let (mut package, mut version): (Option<&str>, Option<&str>) = (None, None);
    // An empty line ends an entry; one more ends the last.
    for line in index.lines().chain([""]) {
        if line.is_empty() {
            if let (Some(package), Some(version)) = (package.take(), version.take()) {
                let known = newest.get(package);
                if known.is_none_or(|known| compare(known, version) == Ordering::Less) {
                    newest.insert(package.to_owned(), version.to_owned());
                }
            }
        } else if let Some(name) = line.strip_prefix("Package:") {
            package = Some(name.trim());
        } else if let Some(number) = line.strip_prefix("Version:") {
            version = Some(number.trim());
        }
    }
    newest
}

#[cfg(test)]
mod tests {
    use super::*;

    const RELEASE: &str = "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nOrigin: Debian\nAcquire-By-Hash: yes\nMD5Sum:\n d41d 0 main/binary-amd64/Packages\nSHA256:\n AA 3 main/binary-amd64/Packages\n bb 2 main/binary-amd64/Packages.xz\n cc 2 main/binary-amd64/Packages.gz\n-----BEGIN PGP SIGNATURE-----\n";

    #[test]
    fn a_release_names_its_files_by_sha256_alone() {
        let release = Release::parse(RELEASE).unwrap();
        assert_eq!(release.sha256("main/binary-amd64/Packages"), Some("aa"));
        assert!(!release.not_automatic);
        let forms = release.forms("main/binary-amd64/Packages");
        assert_eq!(forms[0].place, "main/binary-amd64/by-hash/SHA256/bb");
        let packings: Vec<_> = forms.iter().map(|form| form.packing).collect();
        assert_eq!(packings, [Packing::Xz, Packing::Gzip, Packing::Plain]);
        let old = RELEASE.replace("Acquire-By-Hash: yes", "NotAutomatic: yes");
        let old = Release::parse(&old).unwrap();
        assert!(old.not_automatic);
        assert_eq!(
            old.forms("main/binary-amd64/Packages")[0].place,
            "main/binary-amd64/Packages.xz"
        );
        assert_eq!(Release::parse("<html>captive portal</html>"), None);
    }

    #[test]
    fn of_several_versions_the_newest_is_offered() {
        let index = "Package: git\nVersion: 1:2.39.5-0+deb12u1\nDescription: x\n Package: not this\n\nPackage: git\nVersion: 1:2.39.5-0+deb12u2\n\nPackage: jq\nVersion: 1.6";
        let offers = offers(index);
        assert_eq!(offers["git"], "1:2.39.5-0+deb12u2");
        assert_eq!(offers["jq"], "1.6");
        assert_eq!(offers.len(), 2);
    }
}
