//! `bake`: a recipe becomes a tested image.

use std::io::Read as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;
use tokio::sync::mpsc::{self, UnboundedSender};

use super::plan::{Order, Wishes, decide, prepare};
use super::{bakes, images, layers, resume, saved};
use crate::aws::Commands;
use crate::bake::images::Image;
use crate::bake::names::{Channel, RunId};
use crate::bake::plan::{Decision, Plan};
use crate::bake::saved::{Outcome, Saved, path_of};
use crate::bake::{
    self, BakeError, Baked, Cancel, DiskTree, Failure, HOME, Kept, LeftOver, Settings, Stamped,
    TooLarge, cancel_pair,
};
use crate::cli::args::{BakeArgs, CloudName, Format};
use crate::cli::context::{Connected, Context, cloud};
use crate::cli::error::{CliError, CliResult};
use crate::cli::lines::Told;
use crate::cli::locked::{connect, supply};
use crate::cli::style::elapsed;
use crate::cli::view::progress::Progress;
use crate::cli::{exit, github, interrupt, lent, output, view};
use crate::journal;
use crate::localcloud::driver::SnapshotDisk;

/// Work that is worth the layer of a script: it is kept in about a second.
const LAYER_AFTER: Duration = Duration::from_secs(5);

pub async fn run(context: &Context, args: &BakeArgs) -> CliResult {
    if let Some(run) = &args.resume {
        return resume::run(context, run, args.keep_on_failure).await;
    }
    let [argument] = args.recipe.as_slice() else {
        return bakes::run(context, args).await;
    };
    let plan = saved::named(argument, &args.sets, &args.how)?;
    let (connected, order, decision, wishes) = if let Some(plan) = plan {
        if args.offline {
            let what =
                "--offline goes with recipes: a plan file does not have all of its lock files";
            return Err(CliError::new(exit::USAGE, what));
        }
        let connected = context.connect_to_act().await?;
        let (order, decision) = saved::reopen(context, &connected, &plan).await?;
        supply(context, &connected, &[&order], false).await?;
        let wishes = Wishes::from(&plan);
        (connected, order, decision, wishes)
    } else {
        let order = prepare(context, argument, &args.sets.given())?;
        order.check_locked(args.only_locked())?;
        let connected = connect(context, &[&order], args.offline).await?;
        let order = order.pinned(&connected)?;
        let wishes = Wishes::from(&args.how);
        let decision = decide(context, &connected, &order, wishes.clone()).await?;
        (connected, order, decision, wishes)
    };
    let recipe = &order.recipe;
    match decision {
        Decision::AlreadyBaked(image) => {
            let pointed =
                already_baked(context, &connected, recipe, wishes.channel, &image).await?;
            match context.format {
                Format::Json => output::json(&already_document(recipe, &image))?,
                Format::Human => {
                    output::note(&format!(
                        "{} {} is baked already; --force bakes it anew",
                        context.err.tick(),
                        image.name
                    ));
                    if pointed {
                        output::note(&format!(
                            "{} of {recipe} is now this image",
                            wishes.channel.as_str()
                        ));
                    }
                    output::data(&format!("{}\n", image.id))?;
                }
            }
            Ok(exit::DONE)
        }
        Decision::Bake(plan) => {
            if args.explain {
                layers::tell(context, &plan, &args.how)?;
            }
            let way = Way::alone(context, args.keep_on_failure)?;
            let way = way.resumable(context, &connected, (&order, &wishes), &plan);
            let baked = carry_out(context, &connected, &plan, way).await?;
            done(context, &plan, &baked)
        }
    }
}

/// Lets the channel name an image that is there already; gives whether it named another one, or none.
///
/// # Errors
/// The cloud refuses, or the summary cannot be written.
pub async fn already_baked(
    context: &Context,
    connected: &Connected,
    recipe: &str,
    channel: Channel,
    image: &Image,
) -> Result<bool, CliError> {
    let pointed = bake::point(&connected.clients, recipe, channel, &image.id)
        .await
        .map_err(|error| cloud(&error))?;
    context.summarize(&format!(
        "### {} is baked already\n\n{}",
        github::plain(recipe),
        table(image)
    ))?;
    Ok(pointed)
}

/// What machines are told of an image that is there already.
#[must_use]
pub fn already_document(recipe: &str, image: &Image) -> serde_json::Value {
    json!({
        "recipe": recipe,
        "outcome": "already-baked",
        "image_id": image.id,
        "name": image.name,
        "digest": image.digest(),
    })
}

/// What machines are told of a new image.
#[must_use]
pub fn baked_document(plan: &Plan, baked: &Baked) -> serde_json::Value {
    json!({
        "recipe": plan.recipe,
        "outcome": if baked.reused { "already-baked" } else { "baked" },
        "image_id": baked.image,
        "name": baked.name,
        "digest": baked.digest,
        "run": baked.run,
        "milliseconds": baked.milliseconds,
        "log": baked.log,
        "left_over": baked.left_over,
    })
}

/// Some of several recipes could not be baked; `code` is that of the first that failed.
#[must_use]
pub fn not_baked(code: u8, failed: &[String], total: usize) -> CliError {
    CliError::new(
        code,
        format!(
            "{} of {total} recipes could not be baked: {}",
            failed.len(),
            failed.join(", ")
        ),
    )
}

/// One that was not begun: the same steps would fail again.
#[must_use]
pub fn after_its_parent(recipe: &str, parent: &str) -> String {
    format!("{recipe} (its parent {parent} failed)")
}

/// How a plan is carried out.
pub struct Way {
    pub cancel: Cancel,
    pub under_way: UnderWay,
    /// Leave the machine on which it fails.
    pub keep_on_failure: bool,
    pub progress: Progress,
    /// What is kept for whoever may have to go on with it; `None`: nobody can.
    pub saved: Option<Saved>,
    /// The run that is gone on with; `None`: a new one.
    pub run: Option<RunId>,
}

impl Way {
    /// The same for a bake that can be gone on with if this process dies.
    #[must_use]
    pub fn resumable(
        self,
        context: &Context,
        connected: &Connected,
        (order, wishes): (&Order, &Wishes),
        plan: &Plan,
    ) -> Self {
        let outcome = Outcome::from(plan);
        let saved = saved::of(context, connected, order, wishes, outcome);
        Self {
            saved: Some(saved),
            ..self
        }
    }

    /// Of the one run of a command.
    ///
    /// # Errors
    /// As [`cancel_on_signal`].
    pub fn alone(context: &Context, keep_on_failure: bool) -> Result<Self, CliError> {
        let (cancel, under_way) = cancel_on_signal(context)?;
        Ok(Self {
            cancel,
            under_way,
            keep_on_failure,
            progress: context.progress(),
            saved: None,
            run: None,
        })
    }
}

fn table(image: &Image) -> String {
    let row = |name: &str, value: &str| vec![name.to_owned(), value.to_owned()];
    github::table(
        &["", ""],
        &[
            row("image", &image.id),
            row("name", &image.name),
            row("digest", image.digest().unwrap_or_default()),
        ],
    )
}

/// What the first Ctrl-C or SIGTERM sets; the second one ends the process, and says what the runs under way have left.
///
/// # Errors
/// The signals cannot be listened to.
pub fn cancel_on_signal(context: &Context) -> Result<(Cancel, UnderWay), CliError> {
    let (canceller, cancel) = cancel_pair();
    let under_way = UnderWay::default();
    let (begun, runs, commands) = (under_way.clone(), context.runs(), context.commands());
    interrupt::watch_signals(
        context,
        move || canceller.cancel(),
        move || begun.last_words(&runs, &commands),
    )?;
    Ok((cancel, under_way))
}

/// The runs that this process has begun and not ended.
#[derive(Debug, Clone, Default)]
pub struct UnderWay(Arc<Mutex<Vec<RunId>>>);

impl UnderWay {
    fn with<T>(&self, what: impl FnOnce(&mut Vec<RunId>) -> T) -> T {
        what(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What is there still, by the journals: for a process that stops at once.
    #[must_use]
    pub fn last_words(&self, runs: &Path, commands: &Commands) -> CliError {
        let mut error = CliError::new(exit::INTERRUPTED, "stopped at once");
        for run in self.with(|runs| runs.clone()) {
            // A journal of which nothing can be read has nothing to tell.
            let left = journal::read(&journal::path_of(runs, run.as_str()))
                .map_or_else(|_| Vec::new(), |ledger| bake::unfinished(&ledger, commands));
            if left.is_empty() {
                continue;
            }
            for one in &left {
                let (kind, id) = (one.kind.as_str(), &one.id);
                error.causes.push(format!("not removed: {kind} {id}"));
            }
            let log = runs.join(format!("{run}.log"));
            error = error
                .hint(format!("remove it with: {}", clean_up(run.as_str())))
                .hint(format!("the whole output is in {}", log.display()));
        }
        error
    }
}

/// Removes what one run has left.
fn clean_up(run: &str) -> String {
    format!("piaas-bake cloud gc --run {run}")
}

/// Carries out a plan and shows it.
///
/// # Errors
/// The bake failed, with the exit code that says how.
pub async fn carry_out(
    context: &Context,
    connected: &Connected,
    plan: &Plan,
    way: Way,
) -> Result<Baked, CliError> {
    let clients = &connected.clients;
    let act = async |settings: Settings<'_>, sink: &UnboundedSender<Stamped>| {
        bake::bake(clients, plan, settings, sink).await
    };
    let (result, returned) = watched(context, connected, plan, way, act).await?;
    told(context, connected, plan, result, returned).await
}

/// Tells the summary how a bake has ended; gives that on.
///
/// # Errors
/// It failed, with the exit code that says how.
pub async fn told(
    context: &Context,
    connected: &Connected,
    plan: &Plan,
    result: Result<Baked, BakeError>,
    returned: Result<(), CliError>,
) -> Result<Baked, CliError> {
    match result {
        Ok(baked) => {
            context.summarize(&summary(plan, &baked))?;
            returned?;
            layers::after(context, connected, plan).await;
            Ok(baked)
        }
        Err(error) => {
            context.summarize(&failure_summary(context, plan, &error))?;
            Err(failed(context, &error).complete(&context.commands()))
        }
    }
}

/// Acts by a plan with its events shown, its secrets lent and its run known to who interrupts; gives what came of it,
/// and of taking the secrets back.
///
/// # Errors
/// It could not be begun, or not be shown.
pub async fn watched<T>(
    context: &Context,
    connected: &Connected,
    plan: &Plan,
    way: Way,
    act: impl AsyncFnOnce(Settings<'_>, &UnboundedSender<Stamped>) -> T,
) -> Result<(T, Result<(), CliError>), CliError> {
    if context.settings.bundles.is_none() {
        bake::fits_commands(plan).map_err(|error| {
            CliError::failure(format!("{error}; nothing was changed")).hint(TooLarge::WAY_OUT)
        })?;
    }
    let run = match way.run {
        Some(run) => run,
        None => RunId::new(context.clock.now(), chance()?),
    };
    let runs = context.runs();
    std::fs::create_dir_all(&runs)
        .map_err(|error| crate::cli::context::io("make", &runs, &error))?;
    if let Some(saved) = &way.saved {
        let path = path_of(&runs, run.as_str());
        saved.keep(&runs, run.as_str()).map_err(|error| {
            crate::cli::context::io("write the plan of the run to", &path, &error)
        })?;
    }
    let lent = match lent::lend(context, connected, plan.secrets.values()).await {
        Ok(lent) => lent,
        Err(error) => {
            bake::forget_plan(&runs, run.as_str());
            return Err(error);
        }
    };
    let (sink, events) = mpsc::unbounded_channel();
    let view = if output::has_lines() {
        let recipe = plan.recipe.clone();
        tokio::spawn(view::write_lines(events, move |event| Told::Bake {
            recipe: recipe.clone(),
            event,
        }))
    } else {
        tokio::spawn(view::bake::show(events, way.progress))
    };
    let settings = Settings {
        runs: &runs,
        account: connected.account.id.clone(),
        run: run.clone(),
        cancel: way.cancel,
        keep_on_failure: way.keep_on_failure,
        bundles: context.settings.bundles.clone(),
        layers: connected.local.is_some().then_some(LAYER_AFTER),
        disks: Some(connected),
    };
    way.under_way.with(|runs| runs.push(run.clone()));
    let result = act(settings, &sink).await;
    way.under_way.with(|runs| runs.retain(|one| *one != run));
    bake::forget_plan(&runs, run.as_str());
    let returned = lent::settle(context, connected, &lent).await;
    drop(sink);
    view.await.map_err(|error| {
        CliError::new(exit::BUG, "the view of the run panicked").because(&error)
    })?;
    Ok((result, returned))
}

/// Only the local cloud's are at hand.
impl bake::Disks for Connected {
    fn tree(&self, image: &Image) -> Result<DiskTree, String> {
        match images::written(self, image) {
            Err(error) => Ok(DiskTree::Failed(error.to_string())),
            Ok(SnapshotDisk::None) if self.local.is_some() => Err("it is not there".to_owned()),
            Ok(SnapshotDisk::None) => Ok(DiskTree::Elsewhere),
            Ok(SnapshotDisk::Writing) => Ok(DiskTree::NotYet),
            Ok(SnapshotDisk::At(dir)) => images::tree(&dir)
                .map(|(_, tree)| DiskTree::Here(tree))
                .map_err(|error| [vec![error.message], error.causes].concat().join(": ")),
        }
    }
}

fn summary(plan: &Plan, baked: &Baked) -> String {
    let row = |name: &str, value: &str| vec![name.to_owned(), value.to_owned()];
    let mut rows = vec![
        row("image", &baked.image),
        row("name", &baked.name),
        row("published as", plan.channel.as_str()),
        row("digest", &baked.digest),
        row("start image", &plan.start.image.id),
        row(
            "took",
            &elapsed(std::time::Duration::from_millis(baked.milliseconds)),
        ),
    ];
    rows.extend(
        baked
            .left_over
            .iter()
            .map(|left| row("left over", &describe(left))),
    );
    format!(
        "### {} is baked\n\n{}",
        github::plain(&plan.recipe),
        github::table(&["", ""], &rows)
    )
}

fn failure_summary(context: &Context, plan: &Plan, error: &BakeError) -> String {
    let what = match error.finished {
        Some(_) => "is baked, what comes after failed",
        None => "is not baked",
    };
    let mut out = format!(
        "### {} {what}\n\n{}\n\n",
        github::plain(&plan.recipe),
        github::plain(&error.to_string())
    );
    // An indented block: no line can end it.
    for line in &error.last_lines {
        out.push_str(&format!("    {}\n", line.replace(char::is_control, " ")));
    }
    for way in error.failure.ways_out() {
        out.push_str(&format!("\n- {}\n", github::plain(&way)));
    }
    for left in &error.left_over {
        out.push_str(&format!("\n- {}\n", github::plain(&describe(left))));
    }
    if let Some(image) = &error.finished {
        out.push_str(&format!("\n- {}\n", github::plain(&stays(image))));
    }
    for hint in error.kept.iter().flat_map(|kept| kept_hints(context, kept)) {
        let hint = context.commands().complete(&hint);
        out.push_str(&format!("\n- {}\n", github::plain(&hint)));
    }
    out.push('\n');
    out
}

pub fn done(context: &Context, plan: &Plan, baked: &Baked) -> CliResult {
    let code = if baked.left_over.is_empty() {
        exit::DONE
    } else {
        exit::CLEANUP_INCOMPLETE
    };
    match context.format {
        Format::Json => output::json(&baked_document(plan, baked))?,
        Format::Human => {
            let took = elapsed(std::time::Duration::from_millis(baked.milliseconds));
            let took = match baked.reused {
                true => format!("{took}: another run has baked it meanwhile"),
                false => took,
            };
            output::note(&format!(
                "\n{} {} in {took}\n  image   {}\n  digest  {}\n  log     {}",
                context.err.tick(),
                context.err.bold(&baked.name),
                baked.image,
                baked.digest,
                baked.log.display()
            ));
            for left in &baked.left_over {
                output::note(&format!("  {}", describe(left)));
            }
            let commands = context.commands();
            let show = commands.own(&format!("images show {}", plan.recipe));
            output::note(&format!("next: {show}"));
            if context.settings.cloud == CloudName::Local {
                let run = format!("cloud run {} -- systemctl status --no-pager", plan.recipe);
                output::note(&format!("      {}", commands.own(&run)));
            }
            output::data(&format!("{}\n", baked.image))?;
        }
    }
    Ok(code)
}

/// Something left over, with the command that removes it.
pub fn describe(left: &LeftOver) -> String {
    format!(
        "left over: {} {} ({}); remove it with: {}",
        left.kind.as_str(),
        left.id,
        left.error,
        left.command
    )
}

/// A bake that failed, for the edge.
pub fn failed(context: &Context, error: &BakeError) -> CliError {
    failed_as(context, "the bake", error)
}

/// A run that failed, by what it is called.
pub fn failed_as(context: &Context, run: &str, error: &BakeError) -> CliError {
    let place = error
        .phase
        .map(|phase| format!(" at \"{}\"", phase.title()))
        .unwrap_or_default();
    let message = match &error.failure {
        Failure::Cancelled => format!("{run} was interrupted{place}"),
        failure => format!("{run} failed{place}: {failure}"),
    };
    let mut edge = CliError::new(error.exit_code(), message);
    if !error.last_lines.is_empty() && !matches!(error.failure, Failure::Cancelled) {
        let lines: String = error
            .last_lines
            .iter()
            .map(|line| format!("  | {line}\n"))
            .collect();
        edge = edge.with_detail(format!("the machine's last lines:\n{lines}"));
    }
    if let (Failure::Cloud(cloud), Some(store)) = (&error.failure, &context.settings.bundles)
        && cloud.has_code("NoSuchBucket")
    {
        edge = edge.hint(format!(
            "bundle_bucket is {}; `piaas-bake config show` says where that comes from",
            store.bucket
        ));
    }
    for way in error.failure.ways_out() {
        edge = edge.hint(way);
    }
    if error.log.exists() {
        edge = edge.hint(format!("the whole output is in {}", error.log.display()));
    }
    for left in &error.left_over {
        edge = edge.hint(describe(left));
    }
    edge.hints.extend(error.finished.as_deref().map(stays));
    match &error.kept {
        Some(kept) => {
            for hint in kept_hints(context, kept) {
                edge = edge.hint(hint);
            }
            edge
        }
        None if error.left_over.is_empty() => {
            let which = match &error.finished {
                Some(_) => "everything else",
                None => "everything",
            };
            edge.hint(format!("{which} that {run} created has been removed"))
        }
        None => edge,
    }
}

/// What became of an image whose bake failed once it was finished.
fn stays(image: &str) -> String {
    format!(
        "{image} is finished and stays, though its channel may not point at it; the same bake once more does that, and nothing else"
    )
}

/// How to get into a machine that was kept, what is there to see, and how to remove it.
fn kept_hints(context: &Context, kept: &Kept) -> [String; 4] {
    let instance = &kept.instance;
    let get_in = match context.settings.cloud {
        CloudName::Local => format!("piaas-bake cloud shell {instance}"),
        CloudName::Aws => format!("aws ssm start-session --target {instance}"),
    };
    [
        format!(
            "the {} {instance} was kept; get in with: {get_in}",
            kept.kind.as_str()
        ),
        format!("its scripts and their logs are in {HOME}"),
        format!("remove it with: {}", clean_up(&kept.run)),
        format!("it ends itself at {:.0}", kept.until),
    ]
}

/// Chance from the kernel, for a run's id.
///
/// # Errors
/// The kernel gives none.
pub fn chance() -> Result<u32, CliError> {
    let mut bytes = [0; 4];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut bytes))
        .map_err(|error| CliError::failure("cannot read /dev/urandom").because(&error))?;
    Ok(u32::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Facts, Journal, RunHeader};

    #[test]
    fn whoever_stops_at_once_is_told_what_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let now = jiff::Timestamp::UNIX_EPOCH;
        let run = RunId::new(now, 1);
        let header = RunHeader {
            format: journal::FORMAT,
            purpose: journal::BAKE.into(),
            run: run.to_string(),
            recipe: "web".into(),
            version: "1.0.0".into(),
            digest: "d".into(),
            cloud: "local".into(),
            account: "1".into(),
            region: "us-east-1".into(),
            started: now,
        };
        let mut journal = Journal::create(dir.path(), header).unwrap();
        for (kind, id) in [("security-group", "sg-1"), ("builder", "i-1")] {
            let facts = Facts::from([("run".to_owned(), run.to_string())]);
            let intent = journal.intent(kind, "token", facts, now).unwrap();
            journal.outcome(intent, vec![id.to_owned()], now).unwrap();
            if kind == "security-group" {
                journal.undo(intent, now).unwrap();
                journal.undone(intent, now).unwrap();
            }
        }
        let under_way = UnderWay::default();
        under_way.with(|runs| runs.push(run.clone()));
        let commands = Commands::local(&[("--state-dir", "/x")], "us-east-1");
        let error = under_way.last_words(dir.path(), &commands);
        let error = error.complete(&commands);
        assert_eq!(error.code, exit::INTERRUPTED);
        assert_eq!(error.causes, ["not removed: builder i-1"]);
        assert_eq!(
            error.hints,
            [
                format!("remove it with: piaas-bake --state-dir /x cloud gc --run {run}"),
                format!("the whole output is in {}/{run}.log", dir.path().display()),
            ]
        );
    }
}
