//! Finding out what the layers of a line install: a builder provisions them, notes it, and goes again.

use super::engine::{Settings, bundles, equipped};
use super::errand::errand;
use super::error::{BakeError, Failure, LeftOver};
use super::event::{Event, List, Phase};
use super::packages::{Package, Part};
use super::phases::{commands, scripts};
use super::plan::Plan;
use super::run::Run;
use crate::aws::Clients;
use crate::debs::Line;
use crate::events::Sink;
use crate::recipe::{Lock, LockedIndex, LockedPackage};
use crate::render::locked::RECORDS;

/// What the layer of one recipe has installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    pub recipe: String,
    pub indexes: Vec<LockedIndex>,
    pub packages: Vec<LockedPackage>,
    /// Name, version and architecture of what no archive has: a step installed it from a file of its own.
    pub local: Vec<String>,
}

impl Recorded {
    /// What a layer has whose lock moved in part: what is as these locks have it comes from there, whether an archive has
    /// it still or not. What `old` says of indexes stays, so that they differ from those of today, and what was left
    /// behind is said to have moved.
    #[must_use]
    pub fn kept(mut self, old: &Lock, line: &[&Lock]) -> Self {
        let locked = |name: &str, version: &str, architecture: &str| {
            let mut all = line.iter().flat_map(|lock| &lock.packages);
            all.find(|one| {
                (
                    one.name.as_str(),
                    one.version.as_str(),
                    one.architecture.as_str(),
                ) == (name, version, architecture)
            })
            .cloned()
        };
        for package in &mut self.packages {
            if let Some(same) = locked(&package.name, &package.version, &package.architecture) {
                *package = same;
            }
        }
        for local in std::mem::take(&mut self.local) {
            let words: Vec<&str> = local.split(' ').collect();
            let same = match words[..] {
                [name, version, architecture] => locked(name, version, architecture),
                _ => None,
            };
            match same {
                Some(package) => self.packages.push(package),
                None => self.local.push(local),
            }
        }
        self.indexes.retain(|new| {
            let is_same = |old: &LockedIndex| (&old.suite, &old.path) == (&new.suite, &new.path);
            !old.indexes.iter().any(is_same)
        });
        self.indexes.extend(old.indexes.iter().cloned());
        self
    }
}

/// What a run has found out.
#[derive(Debug)]
pub struct Record {
    /// One for each recipe asked for, in that order.
    pub layers: Vec<Recorded>,
    /// Temporaries that could not be removed; the record is complete all the same (exit code 7).
    pub left_over: Vec<LeftOver>,
}

/// Provisions a builder by a plan whose layers note what they install, for these recipes, and removes it again.
///
/// # Errors
/// [`BakeError`]; everything that the run created has been removed then, but for what it lists as left over.
pub async fn record(
    clients: &Clients,
    plan: &Plan,
    recipes: &[String],
    settings: Settings<'_>,
    sink: &dyn Sink<Event>,
) -> Result<Record, BakeError> {
    let act = async |run: &mut Run<'_>| Ok((flow(run, recipes).await?, vec![]));
    let (layers, left_over) = errand(clients, plan, "lock", settings, sink, act).await?;
    Ok(Record { layers, left_over })
}

async fn flow(run: &mut Run<'_>, recipes: &[String]) -> Result<Vec<Recorded>, Failure> {
    let plan = run.plan;
    let [bundle, _] = bundles(plan);
    if run.bundles.is_none() {
        bundle.fits_commands()?;
    }
    run.enter(Phase::Launch)?;
    let (_, builder) = equipped(run, &bundle).await?;
    run.enter(Phase::Provision)?;
    scripts::execute(run, &builder, &bundle, List::Steps).await?;
    let mut recorded = Vec::new();
    for recipe in recipes {
        recorded.push(one(run, &builder, recipe).await?);
    }
    Ok(recorded)
}

async fn one(run: &mut Run<'_>, builder: &str, recipe: &str) -> Result<Recorded, Failure> {
    let path = format!("{RECORDS}/{recipe}");
    let text = commands::read_text(run, builder, &path).await?;
    let recorded = text.as_deref().and_then(|text| parse(recipe, text));
    recorded.ok_or_else(|| Failure::NotRecorded {
        recipe: recipe.to_owned(),
    })
}

/// Reads what `templates/lock.record.sh` has written; `None` if it is something else.
pub(crate) fn parse(recipe: &str, text: &str) -> Option<Recorded> {
    let mut recorded = Recorded {
        recipe: recipe.to_owned(),
        indexes: Vec::new(),
        packages: Vec::new(),
        local: Vec::new(),
    };
    for line in text.lines() {
        match Line::read(line)? {
            Line::Package(package) => recorded.packages.push(package),
            Line::Local(what) => recorded.local.push(what),
            Line::Index(index) => recorded.indexes.push(index),
            Line::Released(..) => {}
        }
    }
    Some(recorded)
}

impl Part {
    /// What a bake by a lock installs, for whoever asks whether the archive has moved since.
    #[must_use]
    pub fn locked(indexes: &[LockedIndex], packages: &[LockedPackage]) -> Self {
        let packages = packages.iter().map(|package| Package {
            name: package.name.clone(),
            version: package.version.clone(),
            offered: package.version.clone(),
        });
        Self {
            indexes: indexes.to_vec(),
            packages: packages.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_whole_or_not_at_all() {
        let sha256 = "ab".repeat(32);
        let text = format!(
            "package {sha256} 7 git 1:2 amd64 http://m/git.deb\nlocal tool 3 all\n\
             index http://m/dists/x/ main/binary-amd64/Packages {sha256}\n"
        );
        let recorded = parse("web", &text).unwrap();
        assert_eq!(recorded.packages[0].version, "1:2");
        assert_eq!(recorded.local, ["tool 3 all"]);
        assert_eq!(recorded.indexes[0].suite, "http://m/dists/x/");
        assert_eq!(parse("web", "").unwrap().packages, []);
        for (from, to) in [
            ("7", "x"),
            ("git ", "g;it "),
            ("http", "file"),
            ("local ", "lost "),
        ] {
            assert_eq!(parse("web", &text.replacen(from, to, 1)), None, "{to}");
        }
    }

    #[test]
    fn what_did_not_move_stays_as_it_was_locked() {
        let package = |name: &str, version: &str, host: &str| LockedPackage {
            name: name.into(),
            version: version.into(),
            architecture: "amd64".into(),
            size: 7,
            sha256: "ab".repeat(32),
            url: format!("http://{host}/{name}.deb"),
        };
        let index = |path: &str, sha256: &str| LockedIndex {
            suite: "http://m/dists/x/".into(),
            path: path.into(),
            sha256: sha256.into(),
        };
        let old = Lock::new(
            "web",
            ["jq".to_owned()],
            vec![index("main", "old")],
            vec![package("jq", "1", "old"), package("zip", "3", "old")],
        );
        let recorded = Recorded {
            recipe: "web".into(),
            indexes: vec![index("main", "new"), index("contrib", "new")],
            packages: vec![package("jq", "2", "new"), package("vim", "9", "new")],
            local: vec!["zip 3 amd64".into(), "zip 3 i386".into()],
        };
        let kept = recorded.kept(&old, &[&old]);
        assert_eq!(kept.local, ["zip 3 i386"]);
        assert_eq!(
            kept.packages,
            [
                package("jq", "2", "new"),
                package("vim", "9", "new"),
                package("zip", "3", "old")
            ]
        );
        assert_eq!(
            kept.indexes,
            [index("contrib", "new"), index("main", "old")]
        );
    }
}
