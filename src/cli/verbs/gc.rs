//! `gc`: what runs have left in the cloud, also where their journals are lost.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::cloud::{Notes, incomplete, not_all, still_lives, unreadable, words_of_left};
use super::gc_args::GcArgs;
use super::runs::name_of;
use crate::bake::{self, DeadRun, LeftOver};
use crate::cli::args::Format;
use crate::cli::context::{Connected, Context, cloud};
use crate::cli::error::{CliError, CliResult};
use crate::cli::{exit, output};
use crate::journal::{self, RunState};
use crate::lifecycle::{
    self, File, Found, Removed, Run, Stuck, Survey, Unseen, Verdict, Why, by_hand, judge,
};

/// A run of this host that died, with what its journal says that it has left.
struct Dead {
    path: PathBuf,
    run: String,
    recipe: String,
    /// Where it acted, if that is not here.
    elsewhere: Option<String>,
    /// Until when its machine stays for somebody to look at, unless this run is asked for.
    kept: Option<Timestamp>,
    /// Somebody could go on with it instead.
    resumable: bool,
    left: Vec<LeftOver>,
}

impl Dead {
    fn is_to_go(&self) -> bool {
        self.elsewhere.is_none() && self.kept.is_none()
    }

    /// Its things, each with why it goes or stays.
    fn rows(&self, why: &str) -> Vec<Vec<String>> {
        let things = self
            .left
            .iter()
            .map(|left| (left.kind.as_str(), left.id.clone()));
        let things: Vec<_> = match self.left.as_slice() {
            [] => vec![("run", self.run.clone())],
            _ => things.collect(),
        };
        let row = |(kind, id): (&str, String)| {
            [kind, &id, &self.run, &self.recipe, why]
                .map(str::to_owned)
                .to_vec()
        };
        things.into_iter().map(row).collect()
    }
}

/// Everything that was looked at.
struct Report {
    dead: Vec<Dead>,
    remove: Vec<(Found, Why)>,
    keep: Vec<(Found, Why)>,
    files: Vec<File>,
    /// Journals that nobody can read: what their runs have is judged as of a run that is not known.
    unreadable: Vec<String>,
    /// What could not be looked at: nothing of it goes.
    unseen: Vec<Unseen>,
}

impl Report {
    fn is_clean(&self) -> bool {
        !self.dead.iter().any(Dead::is_to_go) && self.remove.is_empty() && self.files.is_empty()
    }

    /// How it ends if all else is well: a look that failed is told at the end, and everything else is done before.
    fn end(&self, context: &Context) -> CliResult {
        let Some(first) = self.unseen.first() else {
            return Ok(exit::DONE);
        };
        let unseen: Vec<&str> = self.unseen.iter().map(|one| one.what).collect();
        let mut error = cloud(&first.error);
        error.message = format!(
            "{} could not be looked at: {}",
            unseen.join(", "),
            error.message
        );
        not_all(context, error)
    }
}

pub async fn run(context: &Context, args: &GcArgs) -> CliResult {
    let connected = context.connect().await?;
    context.say_where(&connected);
    let report = look(context, &connected, args.run.as_deref()).await?;
    if !args.yes {
        return tell(context, &report, args);
    }
    let clients = &connected.clients;
    let mut dead = Vec::new();
    for one in report.dead.iter().filter(|run| run.kept.is_none()) {
        let undone = bake::undo_dead_run(clients, &connected.account.id, &one.path, &Notes).await;
        dead.extend(undone.map_err(|error| unreadable(&error))?);
    }
    let found: Vec<Found> = report
        .remove
        .iter()
        .map(|(found, _)| found.clone())
        .collect();
    let (removed, stuck) = lifecycle::remove(clients, &found, &Notes).await;
    lifecycle::forget(&report.files)
        .map_err(|error| CliError::failure("cannot remove a file of the runs").because(&error))?;
    done(context, &report, &dead, (&removed, &stuck))
}

/// Looks at the cloud, and then at the runs: whoever has something in the cloud has had his journal by then.
async fn look(
    context: &Context,
    connected: &Connected,
    only: Option<&str>,
) -> Result<Report, CliError> {
    let bundles = context.settings.bundles.as_ref();
    let Survey { found, unseen } = lifecycle::survey(&connected.clients, bundles).await;
    let mut report = Report {
        dead: Vec::new(),
        remove: Vec::new(),
        keep: Vec::new(),
        files: Vec::new(),
        unreadable: Vec::new(),
        unseen,
    };
    let states = runs(context, connected, only, &mut report)?;
    if let Some(run) = only
        && report.unseen.is_empty()
        && !states.contains_key(run)
        && !found.iter().any(|one| one.run == run)
    {
        let nowhere =
            format!("there is no run {run}: neither here nor in the tags of what is there");
        let list = context.commands().own("runs");
        return Err(CliError::failure(nowhere).hint(format!("those of this host: {list}")));
    }
    for one in found {
        if only.is_some_and(|run| one.run != run) {
            continue;
        }
        let state = states.get(&one.run).copied().unwrap_or(Run::Unknown);
        match judge(&one, state, context.clock.now()) {
            // Its journal says more of it, and goes first.
            Verdict::Remove(Why::Died) => {}
            Verdict::Remove(why) => report.remove.push((one, why)),
            Verdict::Keep(why) => report.keep.push((one, why)),
        }
    }
    if only.is_none() {
        let now = context.clock.now();
        report.files = lifecycle::forgotten(&context.runs(), now).map_err(|error| {
            CliError::failure("cannot read the directory of the runs").because(&error)
        })?;
    }
    Ok(report)
}

/// What this host knows of runs, by their ids.
fn runs(
    context: &Context,
    connected: &Connected,
    only: Option<&str>,
    report: &mut Report,
) -> Result<BTreeMap<String, Run>, CliError> {
    let mut states = BTreeMap::new();
    let paths = journal::paths(&context.runs()).map_err(|error| unreadable(&error))?;
    for path in paths {
        let name = name_of(&path);
        let file = match journal::inspect(path.clone()) {
            Ok(file) => file,
            Err(error) => {
                report.unreadable.push(format!("{name}: {error}"));
                continue;
            }
        };
        let state = match file.state {
            RunState::Alive => Run::Alive,
            RunState::Finished if file.ledger.result() == Some("baked") => Run::Baked,
            RunState::Finished => Run::Over,
            RunState::Dead => Run::Died,
        };
        if only == Some(name.as_str()) && state == Run::Alive {
            return Err(still_lives(&name));
        }
        if state == Run::Died && only.is_none_or(|run| run == name) {
            let header = file.ledger.header();
            let kept = bake::kept_until(&file.ledger);
            let elsewhere = header.and_then(|header| {
                bake::elsewhere(header, &connected.clients, &connected.account.id)
            });
            report.dead.push(Dead {
                recipe: header.map_or_else(String::new, |header| header.recipe.clone()),
                resumable: elsewhere.is_none() && bake::can_be_resumed(&file),
                elsewhere,
                kept: kept.filter(|until| only.is_none() && *until > context.clock.now()),
                left: bake::unfinished(&file.ledger, &connected.clients.commands),
                run: name.clone(),
                path,
            });
        }
        states.insert(name, state);
    }
    Ok(states)
}

/// Says what would be done.
fn tell(context: &Context, report: &Report, args: &GcArgs) -> CliResult {
    if context.format == Format::Json {
        output::json(&document(context, report))?;
        return report.end(context);
    }
    let mut text = String::new();
    let mut rows = Vec::new();
    for run in report.dead.iter().filter(|run| run.is_to_go()) {
        rows.extend(run.rows("its run died on this host"));
    }
    rows.extend(report.remove.iter().map(row));
    rows.extend(report.files.iter().map(|file| {
        let path = file.path.display().to_string();
        ["file", &path, "", "", file.why]
            .map(str::to_owned)
            .to_vec()
    }));
    if rows.is_empty() {
        text.push_str("nothing to remove\n");
    } else {
        text.push_str("would remove:\n");
        text.push_str(&output::table(&rows));
    }
    text.push_str(&kept(context, report));
    output::data(&text)?;
    if !report.is_clean() {
        let run = args
            .run
            .as_ref()
            .map_or_else(String::new, |run| format!(" --run {run}"));
        let gc = context.commands().own(&format!("gc{run} --yes"));
        output::note(&format!("nothing was changed; this removes it: {gc}"));
        for run in report.dead.iter().filter(|run| run.resumable) {
            let resume = context
                .commands()
                .own(&format!("bake --resume {}", run.run));
            output::note(&format!(
                "a bake that died can be gone on with instead: {resume}"
            ));
        }
    }
    report.end(context)
}

fn row((found, why): &(Found, Why)) -> Vec<String> {
    [
        found.kind.as_str(),
        &found.id,
        &found.run,
        &found.recipe,
        &why.to_string(),
    ]
    .map(str::to_owned)
    .to_vec()
}

/// What stays, why, and what nobody but a person may judge.
fn kept(context: &Context, report: &Report) -> String {
    let mut text = String::new();
    let mut rows: Vec<Vec<String>> = Vec::new();
    for run in &report.dead {
        let Dead {
            run: name,
            elsewhere,
            kept,
            ..
        } = run;
        if let Some(place) = elsewhere {
            rows.extend(run.rows(&format!(
                "its run acted on {place}: connect there to clean it"
            )));
        } else if let Some(until) = kept {
            let gc = context.commands().own(&format!("gc --run {name} --yes"));
            rows.extend(run.rows(&format!(
                "somebody wanted to look at it, until {until:.0}; this removes it: {gc}"
            )));
        }
    }
    rows.extend(report.keep.iter().map(row));
    if !rows.is_empty() {
        text.push_str("stays:\n");
        text.push_str(&output::table(&rows));
    }
    for (found, why) in &report.keep {
        if matches!(why, Why::WasFinished | Why::Unstated) {
            let command = context.commands().complete(&by_hand(found));
            text.push_str(&format!(
                "if you know that {} is of no use: {command}\n",
                found.id
            ));
        }
    }
    for journal in &report.unreadable {
        text.push_str(&format!("cannot be read: {journal}\n"));
    }
    for one in &report.unseen {
        text.push_str(&format!(
            "cannot be looked at: {}: {}\n",
            one.what,
            one.error.sentence()
        ));
    }
    text
}

/// Things with what is to be said of them.
fn values(context: &Context, judged: &[(Found, Why)]) -> Vec<Value> {
    let one = |(found, why): &(Found, Why)| {
        json!({
            "kind": found.kind,
            "id": found.id,
            "run": found.run,
            "recipe": found.recipe,
            "made": found.made,
            "why": why.to_string(),
            "command": context.commands().complete(&by_hand(found)),
        })
    };
    judged.iter().map(one).collect()
}

fn document_of(run: &Dead) -> Value {
    json!({
        "run": run.run,
        "recipe": run.recipe,
        "elsewhere": run.elsewhere,
        "kept_until": run.kept,
        "resumable": run.resumable,
        "left": run.left,
    })
}

fn document(context: &Context, report: &Report) -> Value {
    json!({
        "dead_runs": report.dead.iter().map(document_of).collect::<Vec<_>>(),
        "remove": values(context, &report.remove),
        "keep": values(context, &report.keep),
        "files": report.files,
        "unreadable": report.unreadable,
        "unseen": unseen(report),
    })
}

fn unseen(report: &Report) -> Vec<Value> {
    let one = |one: &Unseen| json!({ "what": one.what, "error": one.error.sentence() });
    report.unseen.iter().map(one).collect()
}

/// Says what was done.
fn done(
    context: &Context,
    report: &Report,
    dead: &[DeadRun],
    (removed, stuck): (&[Removed], &[Stuck]),
) -> CliResult {
    match context.format {
        Format::Json => output::json(&json!({
            "dead_runs": dead,
            "removed": removed,
            "left_over": stuck,
            "keep": values(context, &report.keep),
            "kept": report.dead.iter().filter(|run| run.kept.is_some()).map(document_of).collect::<Vec<_>>(),
            "files": report.files,
            "unreadable": report.unreadable,
            "unseen": unseen(report),
        }))?,
        Format::Human => {
            let mut lines: Vec<String> = dead.iter().map(words).collect();
            let gone = removed
                .iter()
                .map(|one| (one.kind.as_str(), one.id.clone()));
            let files = report
                .files
                .iter()
                .map(|file| ("file", file.path.display().to_string()));
            lines.extend(
                gone.chain(files)
                    .map(|(kind, id)| format!("removed the {kind} {id}")),
            );
            if lines.is_empty() {
                lines.push("nothing to remove".to_owned());
            }
            output::data(&format!("{}\n{}", lines.join("\n"), kept(context, report)))?;
        }
    }
    let of_runs = dead.iter().flat_map(|run| &run.left_over);
    let mut remain: Vec<String> = of_runs.map(words_of_left).collect();
    remain.extend(stuck.iter().map(|one| {
        format!(
            "{} {} ({}): {}",
            one.kind.as_str(),
            one.id,
            one.error,
            one.command
        )
    }));
    if remain.is_empty() {
        return report.end(context);
    }
    not_all(context, incomplete(remain))
}

/// What became of a run that had died.
pub fn words(run: &DeadRun) -> String {
    if let Some(place) = &run.elsewhere {
        return format!(
            "run {} of {} acted on {place}: connect there to clean it",
            run.run, run.recipe
        );
    }
    let stays = run.image.as_ref().map_or_else(String::new, |image| {
        format!(", but for its image {image}, which is tested and ready")
    });
    format!(
        "removed what the dead run {} of {} had made{stays}",
        run.run, run.recipe
    )
}
