//! A local archive of just the packages of a base, for apt.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::{BaseError, PACKAGES, SUITE, cannot};
use crate::debs::{Base, Cache, Package, index_entry};
use crate::parallel;

/// The files of packages in a directory.
pub(super) fn debs(dir: &Path) -> Result<Vec<PathBuf>, BaseError> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(cannot(dir))? {
        files.push(entry.map_err(cannot(dir))?.path());
    }
    files.retain(|path| path.extension().is_some_and(|ending| ending == "deb"));
    Ok(files)
}

/// Puts a package's file into the archive; gives its entry in the index.
fn entry(dir: &Path, base: &Base, debs: &Cache, package: &Package) -> Result<String, BaseError> {
    let from = debs.path(&package.sha256);
    let name = format!("{}.deb", package.sha256);
    let to = dir.join(&name);
    std::fs::hard_link(&from, &to)
        .or_else(|_| std::fs::copy(&from, &to).map(drop))
        .map_err(cannot(&to))?;
    let fields = debs.fields(package).map_err(cannot(&from))?;
    let by_priority = base.asked.contains(&package.name) && !PACKAGES.contains(&&*package.name);
    let priority = if by_priority { "required" } else { "optional" };
    let Package { size, sha256, .. } = package;
    let own = [
        ("Priority", priority),
        ("Filename", &format!("./{name}")),
        ("Size", &size.to_string()),
        ("SHA256", sha256),
    ];
    index_entry(&fields, &own).map_err(cannot(&from))
}

/// Writes the archive into `dir`. What it offers is the suite of the base, and of a priority that lets mmdebstrap take
/// what was there for its own sake, and no more: packages name a priority too, but Debian's archive overrides that.
pub(super) fn write(dir: &Path, base: &Base, debs: &Cache) -> Result<(), BaseError> {
    let index: String = parallel::map(&base.packages, |package| entry(dir, base, debs, package))
        .into_iter()
        .collect::<Result<_, _>>()?;
    let release = format!(
        "Suite: {SUITE}\nCodename: {SUITE}\nSHA256:\n {} {} Packages\n",
        hex::encode(Sha256::digest(&index)),
        index.len()
    );
    for (name, text) in [("Packages", index), ("Release", release)] {
        let path = dir.join(name);
        std::fs::write(&path, text).map_err(cannot(&path))?;
    }
    Ok(())
}

/// What is installed, by the lines of dpkg-query(1), and is not locked, or the other way round.
pub(super) fn differences(installed: &str, locked: &[Package]) -> Vec<String> {
    let installed: BTreeSet<String> = installed.lines().map(str::to_owned).collect();
    let locked: BTreeSet<String> = locked
        .iter()
        .map(|one| format!("{} {} {}", one.name, one.version, one.architecture))
        .collect();
    installed.symmetric_difference(&locked).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_locked_and_what_is_missing_are_told() {
        let package = |name: &str, version: &str| Package {
            name: name.into(),
            version: version.into(),
            architecture: "amd64".into(),
            size: 1,
            sha256: "ab".repeat(32),
            url: "http://m/x.deb".into(),
        };
        let locked = [package("git", "1"), package("jq", "1")];
        let installed = "git 1 amd64\njq 1 amd64\n";
        assert_eq!(differences(installed, &locked), Vec::<String>::new());
        let installed = "git 2 amd64\njq 1 amd64\n";
        assert_eq!(
            differences(installed, &locked),
            ["git 1 amd64", "git 2 amd64"]
        );
    }
}
