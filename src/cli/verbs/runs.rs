//! `runs`: the journals of this host, for people.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::runs_args::{RunArgs, RunsVerb};
use crate::bake::checkpoint::{KEPT, is_command};
use crate::bake::{self, LeftOver};
use crate::cli::args::Format;
use crate::cli::context::Context;
use crate::cli::error::{CliError, CliResult};
use crate::cli::style::elapsed;
use crate::cli::{exit, output};
use crate::journal::{self, Record, RunFile, RunHeader, RunState, UNDOING};

pub fn run(context: &Context, what: Option<&RunsVerb>) -> CliResult {
    match what {
        None => list(context),
        Some(RunsVerb::Show(args)) => show(context, args),
    }
}

/// What became of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Alive,
    /// Its end is written down.
    Over,
    /// It died as it worked, and can be gone on with.
    Died,
    /// It died, and what it left can only be removed.
    Left,
    /// It failed, and its machine was left for somebody to look at, or its clean-up has not come to an end.
    NotCleaned,
}

impl Fate {
    fn of(run: &RunFile) -> Self {
        match run.state {
            RunState::Alive => Self::Alive,
            RunState::Finished => Self::Over,
            RunState::Dead if run.ledger.checkpoint(UNDOING).is_some() => Self::NotCleaned,
            RunState::Dead if bake::can_be_resumed(run) => Self::Died,
            RunState::Dead => Self::Left,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Over => "over",
            Self::Died => "died",
            Self::Left => "left",
            Self::NotCleaned => "not-cleaned",
        }
    }

    fn words(self, run: &RunFile) -> String {
        match self {
            Self::Alive => "under way".to_owned(),
            Self::Over => run.ledger.result().unwrap_or_default().to_owned(),
            Self::Died => "died, can be resumed".to_owned(),
            Self::Left => "died".to_owned(),
            Self::NotCleaned => "failed, not cleaned up".to_owned(),
        }
    }
}

/// One run, or why it cannot be read.
struct Found {
    path: PathBuf,
    run: Result<RunFile, journal::Error>,
}

impl Found {
    fn name(&self) -> String {
        name_of(&self.path)
    }
}

fn found(context: &Context) -> Result<Vec<Found>, CliError> {
    let paths = journal::paths(&context.runs())
        .map_err(|error| CliError::failure("cannot read the runs").because(&error))?;
    let all = paths.into_iter().map(|path| Found {
        run: journal::inspect(path.clone()),
        path,
    });
    Ok(all.collect())
}

fn list(context: &Context) -> CliResult {
    let all = found(context)?;
    match context.format {
        Format::Json => {
            let runs: Vec<Value> = all.iter().map(|one| summary(context, one)).collect();
            output::json(&json!({ "directory": context.runs(), "runs": runs }))?;
        }
        Format::Human if all.is_empty() => output::data(&format!(
            "there are no runs in {}\n",
            context.runs().display()
        ))?,
        Format::Human => {
            let rows: Vec<Vec<String>> = all.iter().map(row).collect();
            output::data(&output::table(&rows))?;
            let has_died = |run: &RunFile| Fate::of(run) == Fate::Died;
            let died = all.iter().find(|one| one.run.as_ref().is_ok_and(has_died));
            if let Some(one) = died {
                let resume = format!("bake --resume {}", one.name());
                output::note(&format!(
                    "go on with one that died: {}",
                    context.commands().own(&resume)
                ));
            }
            let is_dead = |run: &RunFile| run.state == RunState::Dead;
            if all.iter().any(|one| one.run.as_ref().is_ok_and(is_dead)) {
                let gc = context.commands().own("cloud gc");
                output::note(&format!("remove what dead ones have left: {gc}"));
            }
        }
    }
    Ok(exit::DONE)
}

fn row(found: &Found) -> Vec<String> {
    let run = match &found.run {
        Ok(run) => run,
        Err(error) => {
            let why = match error {
                journal::Error::Damaged { line, .. } => format!("damaged at line {line}"),
                journal::Error::Newer { format, .. } => {
                    format!("of a later version (format {format})")
                }
                other => other.to_string(),
            };
            return vec![found.name(), why];
        }
    };
    let Some(header) = run.ledger.header() else {
        return vec![found.name(), "died before its first word".to_owned()];
    };
    let left = run.ledger.to_undo().len();
    vec![
        found.name(),
        Fate::of(run).words(run),
        header.purpose.clone(),
        of(header),
        header.cloud.clone(),
        match left {
            0 => String::new(),
            1 => "1 thing left".to_owned(),
            more => format!("{more} things left"),
        },
    ]
}

fn of(header: &RunHeader) -> String {
    format!("{} {}", header.recipe, header.version)
        .trim_end()
        .to_owned()
}

fn summary(context: &Context, found: &Found) -> Value {
    match &found.run {
        Err(error) => json!({ "run": found.name(), "error": error.to_string() }),
        Ok(run) => {
            let left = bake::unfinished(&run.ledger, &context.commands());
            json!({
                "run": found.name(),
                "state": Fate::of(run).as_str(),
                "result": run.ledger.result(),
                "failure": run.ledger.checkpoint(UNDOING),
                "resumed": run.ledger.resumed(),
                "header": run.ledger.header(),
                "left": left,
            })
        }
    }
}

/// The journal of a run of this id.
///
/// # Errors
/// There is none.
pub fn existing(context: &Context, run: &str) -> Result<PathBuf, CliError> {
    let path = journal::path_of(&context.runs(), run);
    // An id has no way out of its directory.
    if run.contains('/') || !path.is_file() {
        return Err(CliError::failure(format!("there is no run {run}"))
            .hint("`piaas-bake runs` lists the runs"));
    }
    Ok(path)
}

/// The id of the run of a journal.
#[must_use]
pub fn name_of(journal: &Path) -> String {
    let name = journal.file_stem().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

fn show(context: &Context, args: &RunArgs) -> CliResult {
    let path = existing(context, &args.run)?;
    let unreadable =
        |error: &journal::Error| CliError::failure("cannot read the run").because(error);
    let run = journal::inspect(path.clone()).map_err(|error| unreadable(&error))?;
    let records = journal::records(&path).map_err(|error| unreadable(&error))?;
    let left = bake::unfinished(&run.ledger, &context.commands());
    let log = context.runs().join(format!("{}.log", args.run));
    if context.format == Format::Json {
        let found = Found { path, run: Ok(run) };
        let mut document = summary(context, &found);
        document["records"] = json!(records);
        document["log"] = json!(log);
        output::json(&document)?;
        return Ok(exit::DONE);
    }
    output::data(&text(context, &run, &records, &left, &log))?;
    Ok(exit::DONE)
}

fn text(
    context: &Context,
    run: &RunFile,
    records: &[Record],
    left: &[LeftOver],
    log: &Path,
) -> String {
    let Some(header) = run.ledger.header() else {
        return "the run died before its first word\n".to_owned();
    };
    let fate = Fate::of(run);
    let mut out = format!(
        "run      {}\nstate    {}\nof       {} {}\ndigest   {}\nwhere    {} {} {}\nbegan    {}\n",
        header.run,
        fate.words(run),
        header.purpose,
        of(header),
        header.digest,
        header.cloud,
        header.account,
        header.region,
        header.started,
    );
    if let Some(reason) = run.ledger.checkpoint(UNDOING) {
        out.push_str(&format!("failed   {}\n", one_line(reason)));
    }
    out.push_str(&format!("log      {}\n\n", log.display()));
    let rows: Vec<Vec<String>> = records
        .iter()
        .skip(1)
        .map(|record| {
            let mut row = vec![since(header.started, record.at())];
            row.extend(words(run, record));
            row
        })
        .collect();
    out.push_str(&output::table(&rows));
    for one in left {
        out.push_str(&format!(
            "\nleft: {} {}\n  remove it with: {}\n",
            one.kind.as_str(),
            one.id,
            one.command
        ));
    }
    let commands = context.commands();
    if fate == Fate::Died {
        let resume = commands.own(&format!("bake --resume {}", header.run));
        out.push_str(&format!("\ngo on with it: {resume}\n"));
    }
    if !matches!(fate, Fate::Alive | Fate::Over) {
        let gc = commands.own(&format!("cloud gc --run {}", header.run));
        out.push_str(&format!("remove what it left: {gc}\n"));
    }
    out
}

fn since(began: Timestamp, at: Timestamp) -> String {
    match std::time::Duration::try_from(at.duration_since(began)) {
        Ok(after) => format!("+{}", elapsed(after)),
        // A clock that was set back.
        Err(_) => "earlier".to_owned(),
    }
}

/// A text of a machine or a cloud, on one line and without what steers a terminal.
fn one_line(text: &str) -> String {
    let plain = text.replace(char::is_control, " ");
    plain.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What a record says: a verb, a kind, and what it is about.
fn words(run: &RunFile, record: &Record) -> [String; 3] {
    let entry = |id| {
        run.ledger.entry(id).map_or_else(
            || (String::new(), String::new()),
            |entry| {
                (
                    entry.kind.clone(),
                    entry.ids.first().unwrap_or(&entry.token).clone(),
                )
            },
        )
    };
    let about = |verb: &str, id, more: Option<&str>| {
        let (kind, id) = entry(id);
        let more = more
            .map(|more| format!(": {}", one_line(more)))
            .unwrap_or_default();
        [verb.to_owned(), kind, format!("{id}{more}")]
    };
    match record {
        Record::Run(_) => [const { String::new() }; 3],
        Record::Intent { kind, token, .. } => ["wants".to_owned(), kind.clone(), token.clone()],
        Record::Outcome { id, .. } => about("has", *id, None),
        Record::Failed { id, error, .. } => about("refused", *id, Some(error)),
        Record::Kept { ids, .. } => {
            let all: Vec<String> = ids.iter().map(|id| entry(*id).1).collect();
            ["keeps".to_owned(), String::new(), all.join(", ")]
        }
        Record::Checkpoint { name, value, .. } if name == UNDOING => {
            ["failed".to_owned(), String::new(), one_line(value)]
        }
        Record::Checkpoint { name, value, .. } if name == KEPT => [
            "keeps its machine until".to_owned(),
            value.clone(),
            String::new(),
        ],
        Record::Checkpoint { name, value, .. } if is_command(name) => {
            ["sent".to_owned(), name.replacen('-', " ", 1), value.clone()]
        }
        Record::Checkpoint { name, .. } => ["passed".to_owned(), name.clone(), String::new()],
        Record::Resumed { .. } => ["resumed".to_owned(), String::new(), String::new()],
        Record::Undo { id, .. } => about("removes", *id, None),
        Record::Undone { id, .. } => about("removed", *id, None),
        Record::UndoFailed { id, error, .. } => about("not removed", *id, Some(error)),
        Record::End { result, .. } => ["ended".to_owned(), String::new(), result.clone()],
    }
}
