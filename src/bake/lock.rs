//! Finding out what the layers of a line install: a builder provisions them, notes it, and goes again.

use super::engine::{Settings, bundles, equipped, open, undo};
use super::error::{BakeError, Failure, LeftOver};
use super::event::{Event, List, Phase};
use super::packages::{Package, Part};
use super::phases::commands;
use super::plan::Plan;
use super::run::Run;
use crate::aws::Clients;
use crate::debs::Line;
use crate::events::Sink;
use crate::recipe::{LockedIndex, LockedPackage};
use crate::render::locked::RECORDS;

/// What the layer of one recipe has installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    pub recipe: String,
    pub indexes: Vec<LockedIndex>,
    pub packages: Vec<LockedPackage>,
    /// Name and version of what no archive has: a step installed it from a file of its own.
    pub local: Vec<String>,
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
    let log_path = settings.runs.join(format!("{}.log", settings.run));
    let failed = |failure, phase, last_lines, left_over| BakeError {
        failure,
        phase,
        last_lines,
        log: log_path.clone(),
        left_over,
        kept: None,
    };
    let mut run = open(clients, plan, settings, &log_path, sink)
        .map_err(|failure| failed(failure, None, Vec::new(), Vec::new()))?;
    run.emit(Event::Note {
        text: format!("run {}, log {}", run.id, log_path.display()),
    });
    let outcome = flow(&mut run, recipes).await;
    let phase = run.phase();
    let last_lines = run.tail.to_vec();
    match &outcome {
        Ok(_) => {
            // A wish to stop comes too late to undo anything here.
            let _stopping = run.enter(Phase::Release);
        }
        Err(failure) => run.emit(Event::Undoing {
            reason: failure.to_string(),
            kept: None,
        }),
    }
    let left_over = undo(&mut run, &[]).await;
    run.leave();
    if left_over.is_empty() {
        // The lock alone ends the run as well; a later clean-up would find nothing to do.
        let _later = run.journal.end("undone", run.now());
    }
    match outcome {
        Ok(layers) => Ok(Record { layers, left_over }),
        Err(failure) => {
            run.emit(Event::Failed {
                error: failure.to_string(),
            });
            Err(failed(failure, phase, last_lines, left_over))
        }
    }
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
    commands::execute(run, &builder, &bundle, List::Steps).await?;
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
fn parse(recipe: &str, text: &str) -> Option<Recorded> {
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
        assert_eq!(recorded.local, ["tool 3"]);
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
}
