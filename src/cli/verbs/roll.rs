//! `roll`: a group goes to another image, or back.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::time::Duration;

use serde_json::json;
use tokio::sync::mpsc;

use super::bake::chance;
use super::images::find;
use super::roll_args::{RollVerb, StartArgs};
use super::roll_options::{ascending, options, wishes};
use crate::aws::commands::quote;
use crate::bake::images::Image;
use crate::bake::names::RunId;
use crate::bake::{Cancel, cancel_pair};
use crate::cli::args::Format;
use crate::cli::config::variable;
use crate::cli::context::{Connected, Context, cloud};
use crate::cli::error::{CliError, CliResult};
use crate::cli::lines::Told;
use crate::cli::{exit, interrupt, output, view};
use crate::lease::{self, Holder, Incarnation, Lease};
use crate::roll::event::{self, Event, Stamped};
use crate::roll::look::{self, Memory};
use crate::roll::preflight::{self, Refusal, Verdict};
use crate::roll::record::{Outcome, RollRecord};
use crate::roll::store::{self, StoreError};
use crate::roll::world::Request;
use crate::roll::{self, Held, RollError, lease_name};

/// Between two looks at a roll that another process carries out.
const LOOK: Duration = Duration::from_secs(3);
/// How long workers have to answer a look at a roll.
const ANSWERS: Duration = Duration::from_secs(3);

pub async fn run(context: &Context, verb: &RollVerb) -> CliResult {
    match verb {
        RollVerb::Start(args) => start(context, args).await,
        RollVerb::Status(args) => status(context, &args.group).await,
        RollVerb::Watch(args) => watch(context, &args.group).await,
        RollVerb::Abort(args) => abort(context, &args.group).await,
        RollVerb::Rollback(args) => rollback(context, &args.group).await,
    }
}

async fn start(context: &Context, args: &StartArgs) -> CliResult {
    ascending(&args.checkpoints)?;
    let connected = context.connect_to_act().await?;
    let clients = &connected.clients;
    let group = &args.group;
    let image = find(&connected, &args.image).await?;
    let options = options(args, &wishes(context, &image));
    let lease = take(&connected, group).await?;
    let held = Holding(lease);
    let before = load(&connected, group).await?;
    if let Some(record) = before.filter(|record| !record.is_over()) {
        if record.new_image != image.id {
            held.release().await;
            return Err(unfinished(&record));
        }
        return carry_on(context, &connected, record, held, true, Interrupt::TurnBack).await;
    }
    let plan = plan(&connected, group, &image).await;
    let (template, old) = match plan {
        Ok(Verdict::Roll { template, old }) => (template, old),
        Ok(Verdict::AlreadyThere) => {
            held.release().await;
            return already_there(context, group, &image.id);
        }
        Err(error) => {
            held.release().await;
            return Err(error);
        }
    };
    let question = format!(
        "roll {group} from {} to {} ({})?",
        old.image, image.id, image.name
    );
    if !args.yes && !confirmed(&question)? {
        held.release().await;
        return Err(CliError::new(
            exit::USAGE,
            "not confirmed; nothing was changed",
        ));
    }
    let now = context.clock.now();
    let id = RunId::new(now, chance()?).to_string();
    let record = RollRecord::new(id, group.clone(), template, old, image.id, options, now);
    // A record that does not fit is refused before the first change.
    record
        .to_json()
        .map_err(|error| CliError::new(exit::USAGE, error.to_string()))?;
    store::save(clients, &record)
        .await
        .map_err(|error| stored(&error))?;
    carry_on(
        context,
        &connected,
        record,
        held,
        false,
        Interrupt::TurnBack,
    )
    .await
}

/// On a terminal, asks; elsewhere there is nobody to ask, and the command line is the answer.
fn confirmed(question: &str) -> Result<bool, CliError> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() || !std::io::stderr().is_terminal() {
        return Ok(true);
    }
    let _ = write!(std::io::stderr(), "{question} [y/N] ");
    let mut answer = String::new();
    stdin
        .lock()
        .read_line(&mut answer)
        .map_err(|error| CliError::failure("cannot read the answer").because(&error))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

async fn plan(connected: &Connected, group: &str, image: &Image) -> Result<Verdict, CliError> {
    let survey = roll::survey(&connected.clients, group, image.into())
        .await
        .map_err(|error| cloud(&error))?
        .ok_or_else(|| no_group(group))?;
    preflight::judge(&survey).map_err(|refusal| {
        let code = match refusal {
            Refusal::UnderWay { .. } => exit::ROLL_HALTED,
            _ => exit::FAILURE,
        };
        CliError::new(code, format!("{refusal}; nothing was changed")).hint(refusal.way_out())
    })
}

fn no_group(group: &str) -> CliError {
    CliError::failure(format!("there is no Auto Scaling group {group}"))
        .hint("list them with: aws autoscaling describe-auto-scaling-groups")
}

fn already_there(context: &Context, group: &str, image: &str) -> CliResult {
    match context.format {
        Format::Json => output::json(&json!({
            "outcome": "already-there",
            "group": group,
            "image": image,
        }))?,
        Format::Human => output::note(&format!(
            "{} every instance of {group} runs {image} already; nothing was changed",
            context.err.tick()
        )),
    }
    Ok(exit::DONE)
}

/// A lease that is given back however the work with it ends.
struct Holding(Lease);

impl Holding {
    async fn release(self) {
        // A lease that cannot be given back runs out within a minute.
        let _ = self.0.release().await;
    }
}

/// Says whom a lease is waited for, and until when.
pub(super) async fn say_held(connected: &Connected, lease: &str) -> Result<(), CliError> {
    let held = lease::holder(&connected.clients, lease).await;
    if let Some(term) = held.map_err(|error| cloud(&error))? {
        output::note(&format!(
            "{} holds the lease {lease} until {:.0}: waiting until it is renewed, or free",
            term.holder, term.expires
        ));
    }
    Ok(())
}

async fn take(connected: &Connected, group: &str) -> Result<Lease, CliError> {
    say_held(connected, &lease_name(group)).await?;
    lease::take(&connected.clients, &lease_name(group), holder())
        .await
        .map_err(|held| match held {
            Held::Cloud(error) => cloud(&error),
            Held::ByAnother(who) => CliError::new(
                exit::LEASE_HELD,
                format!("another process rolls {group}: {who}"),
            )
            .hint(format!("follow it with: piaas-bake roll watch {group}")),
        })
}

/// Who we are, for others to read.
pub(super) fn holder() -> Holder {
    let host = rustix::system::uname();
    let user = variable("USER").unwrap_or_else(|| "somebody".into());
    // Machines of Lambda come from snapshots (Firecracker): two may have the same boot and the same numbers.
    let lambda = variable("AWS_LAMBDA_FUNCTION_NAME").is_some();
    Holder {
        name: format!(
            "{}@{} (process {})",
            user.to_string_lossy(),
            host.nodename().to_string_lossy(),
            std::process::id()
        ),
        process: Incarnation::own().filter(|_| !lambda),
    }
}

async fn load(connected: &Connected, group: &str) -> Result<Option<RollRecord>, CliError> {
    store::load(&connected.clients, group)
        .await
        .map_err(|error| stored(&error))
}

fn stored(error: &StoreError) -> CliError {
    match error {
        StoreError::Cloud(error) => cloud(error),
        StoreError::Record(error) => CliError::failure(error.to_string()),
    }
}

fn unfinished(record: &RollRecord) -> CliError {
    let group = &record.group;
    CliError::new(
        exit::ROLL_HALTED,
        format!(
            "roll {} of {group} to {} is not finished; nothing was changed",
            record.id, record.new_image
        ),
    )
    .hint(format!("go on with it: piaas-bake roll watch {group}"))
    .hint(format!("or turn it back: piaas-bake roll abort {group}"))
}

/// What an interruption means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Interrupt {
    /// Turn back, as `roll abort` does.
    TurnBack,
    /// Leave the roll where it is; another call goes on with it.
    Leave,
}

/// Takes a roll to its end, and shows it.
async fn carry_on(
    context: &Context,
    connected: &Connected,
    record: RollRecord,
    held: Holding,
    picked_up: bool,
    on_interrupt: Interrupt,
) -> CliResult {
    let group = record.group.clone();
    let (canceller, cancel) = cancel_pair();
    let commands = context.commands();
    let go_on = commands.own(&format!("roll watch {}", quote(&group)));
    let last_words = {
        let go_on = go_on.clone();
        move || {
            CliError::new(exit::INTERRUPTED, "stopped at once").hint(format!("go on with: {go_on}"))
        }
    };
    let (leaver, mut leave) = cancel_pair();
    match on_interrupt {
        Interrupt::TurnBack => {
            interrupt::watch_signals(context, move || canceller.cancel(), last_words)?;
        }
        Interrupt::Leave => interrupt::on_signal(move || leaver.cancel())?,
    }
    let (sink, events) = mpsc::unbounded_channel();
    let screen = show(context, events);
    let _ = sink.send(Stamped {
        at: context.clock.now(),
        event: Event::Begun {
            roll: record.id.clone(),
            group: record.group.clone(),
            picked_up,
            old: record.old.clone(),
            new_image: record.new_image.clone(),
        },
    });
    let Holding(mut lease) = held;
    let was_interrupted = cancel.clone();
    let result = tokio::select! {
        result = roll::drive(&connected.clients, record, &mut lease, cancel, &sink) => Some(result),
        () = leave.cancelled() => None,
    };
    Holding(lease).release().await;
    drop(sink);
    joined(screen).await?;
    match result {
        Some(Ok(record)) => ended(context, &record, &was_interrupted),
        Some(Err(error)) => Err(failed(&group, &error)),
        None => {
            output::note(&format!("stopped; go on with: {go_on}"));
            Ok(exit::INTERRUPTED)
        }
    }
}

fn show(
    context: &Context,
    events: mpsc::UnboundedReceiver<Stamped>,
) -> tokio::task::JoinHandle<()> {
    if output::has_lines() {
        tokio::spawn(view::write_lines(events, |event| Told::Roll { event }))
    } else {
        tokio::spawn(view::roll::show(events, context.err, context.clock.clone()))
    }
}

async fn joined(screen: tokio::task::JoinHandle<()>) -> Result<(), CliError> {
    screen
        .await
        .map_err(|error| CliError::new(exit::BUG, "the view of the roll panicked").because(&error))
}

/// The exit code of a roll that is over, and its result for machines.
fn ended(context: &Context, record: &RollRecord, cancel: &Cancel) -> CliResult {
    let code = match record.outcome {
        Some(Outcome::RolledOut) => exit::DONE,
        _ if cancel.is_cancelled() => exit::INTERRUPTED,
        _ => exit::ROLL_HALTED,
    };
    if context.format == Format::Json {
        output::json(&json!({ "exit_code": code, "record": record }))?;
    }
    Ok(code)
}

fn failed(group: &str, error: &RollError) -> CliError {
    let code = match error {
        RollError::Cloud(error) if error.is_refusal() => exit::CLOUD_REFUSED,
        RollError::Lost(_) => exit::LEASE_HELD,
        RollError::Impatient(_) => exit::TIMED_OUT,
        _ => exit::ROLL_HALTED,
    };
    CliError::new(code, format!("the roll of {group} stopped: {error}"))
        .hint(format!(
            "nothing is lost; go on with: piaas-bake roll watch {group}"
        ))
        .hint(format!("or turn it back: piaas-bake roll abort {group}"))
}

fn never_rolled(group: &str) -> CliError {
    CliError::failure(format!("{group} was never rolled by piaas-bake")).hint(format!(
        "begin with: piaas-bake roll start {group} --image IMAGE"
    ))
}

async fn status(context: &Context, group: &str) -> CliResult {
    let connected = context.connect().await?;
    let clients = &connected.clients;
    let record = load(&connected, group)
        .await?
        .ok_or_else(|| never_rolled(group))?;
    let worker = lease::holder(clients, &lease_name(group))
        .await
        .map_err(|error| cloud(&error))?;
    let world = roll::observe(clients, &record, &mut Memory::default(), ANSWERS)
        .await
        .map_err(|error| cloud(&error))?;
    let seen = event::view(&record, &world);
    match context.format {
        Format::Json => {
            output::json(&json!({ "record": record, "view": seen, "holder": worker }))?;
        }
        Format::Human => {
            let now = context.clock.now();
            let width = view::text::width(std::io::stdout());
            let mut text = view::roll::lines(&seen, context.out, now, width).join("\n");
            text.push('\n');
            text.push_str(&match (record.outcome, worker) {
                (Some(outcome), _) => format!("{}\n", view::roll::outcome(outcome, &record)),
                (None, Some(term)) => format!("carried out by {}\n", term.holder),
                (None, None) => {
                    let go_on = context
                        .commands()
                        .own(&format!("roll watch {}", quote(group)));
                    format!("nobody carries it out; go on with: {go_on}\n")
                }
            });
            for left in &record.left {
                let left = context.commands().complete(left);
                text.push_str(&format!("left: {left}\n"));
            }
            output::data(&text)?;
        }
    }
    Ok(exit::DONE)
}

async fn watch(context: &Context, group: &str) -> CliResult {
    let connected = context.connect().await?;
    let record = load(&connected, group)
        .await?
        .ok_or_else(|| never_rolled(group))?;
    if record.is_over() {
        return status(context, group).await;
    }
    take_over(context, &connected, group).await
}

/// Goes on with a roll, or shows it while another process carries it out.
async fn take_over(context: &Context, connected: &Connected, group: &str) -> CliResult {
    loop {
        // Shown at once; taking the lease of one that lives means waiting until it is renewed.
        if follow(context, connected, group).await? {
            return over(context, connected, group).await;
        }
        match lease::take(&connected.clients, &lease_name(group), holder()).await {
            Ok(lease) => {
                let held = Holding(lease);
                // It may have ended while we waited for the lease.
                let Some(record) = load(connected, group).await?.filter(|one| !one.is_over())
                else {
                    held.release().await;
                    return over(context, connected, group).await;
                };
                return carry_on(context, connected, record, held, true, Interrupt::Leave).await;
            }
            Err(Held::Cloud(error)) => return Err(cloud(&error)),
            // Somebody was faster.
            Err(Held::ByAnother(_)) => {}
        }
    }
}

/// Shows a roll that another process carries out. Whether it ended; if not, its process did.
async fn follow(context: &Context, connected: &Connected, group: &str) -> Result<bool, CliError> {
    let clients = &connected.clients;
    let (sink, events) = mpsc::unbounded_channel();
    let screen = show(context, events);
    let (mut shown, mut memory) = (None, Memory::default());
    let over = loop {
        let Some(record) = load(connected, group).await? else {
            break true;
        };
        // The first picture waits for nobody.
        let patience = shown.as_ref().map_or(Duration::ZERO, |_| ANSWERS);
        let world = roll::observe(clients, &record, &mut memory, patience)
            .await
            .map_err(|error| cloud(&error))?;
        let seen = event::view(&record, &world);
        if shown.as_ref() != Some(&seen) {
            shown = Some(seen.clone());
            let at = context.clock.now();
            let event = Event::Looked(seen);
            // The screen lives until the sender is dropped.
            let _ = sink.send(Stamped { at, event });
        }
        if record.is_over() {
            break true;
        }
        let holder = lease::holder(clients, &lease_name(group))
            .await
            .map_err(|error| cloud(&error))?;
        if holder.is_none() {
            break false;
        }
        context.clock.sleep(LOOK).await;
    };
    drop(sink);
    joined(screen).await?;
    Ok(over)
}

/// The status and the exit code of a roll that is over.
async fn over(context: &Context, connected: &Connected, group: &str) -> CliResult {
    status(context, group).await?;
    let record = load(connected, group).await?;
    Ok(match record.and_then(|record| record.outcome) {
        Some(Outcome::RolledOut) => exit::DONE,
        _ => exit::ROLL_HALTED,
    })
}

async fn abort(context: &Context, group: &str) -> CliResult {
    let connected = context.connect().await?;
    let record = load(&connected, group)
        .await?
        .ok_or_else(|| never_rolled(group))?;
    if record.is_over() {
        return Err(
            CliError::failure(format!("no roll of {group} is under way")).hint(format!(
                "to bring a finished one back: piaas-bake roll rollback {group}"
            )),
        );
    }
    turn_back(context, &connected, &record).await
}

async fn turn_back(context: &Context, connected: &Connected, record: &RollRecord) -> CliResult {
    let request = Request {
        roll: record.id.clone(),
        reason: format!("aborted by {}", holder().name),
    };
    store::ask(&connected.clients, &record.group, &request)
        .await
        .map_err(|error| cloud(&error))?;
    output::note(&format!("asked roll {} to turn back", record.id));
    take_over(context, connected, &record.group).await
}

async fn rollback(context: &Context, group: &str) -> CliResult {
    let connected = context.connect_to_act().await?;
    let record = load(&connected, group)
        .await?
        .ok_or_else(|| never_rolled(group))?;
    if !record.is_over() {
        return turn_back(context, &connected, &record).await;
    }
    let held = Holding(take(&connected, group).await?);
    match begin_rollback(&connected, group).await {
        Ok(record) => carry_on(context, &connected, record, held, true, Interrupt::Leave).await,
        Err(error) => {
            held.release().await;
            Err(error)
        }
    }
}

/// Writes down that a finished roll goes back.
async fn begin_rollback(connected: &Connected, group: &str) -> Result<RollRecord, CliError> {
    let clients = &connected.clients;
    let mut record = load(connected, group)
        .await?
        .filter(RollRecord::is_over)
        .ok_or_else(|| CliError::failure(format!("a roll of {group} has just begun")))?;
    if record.outcome == Some(Outcome::RolledBack) {
        return Err(CliError::failure(format!(
            "the newest roll of {group} is rolled back already: version {}, {}",
            record.old.version, record.old.image
        )));
    }
    let raw = look::raw_group(clients, group)
        .await
        .map_err(|error| cloud(&error))?
        .ok_or_else(|| no_group(group))?;
    let now = look::group(clients, &raw, &record.template)
        .await
        .map_err(|error| cloud(&error))?;
    // Somebody has changed the group since: going back to what was before our roll would undo that as well.
    if record.outcome == Some(Outcome::RolledOut) && now.version != record.new_version {
        return Err(CliError::failure(format!(
            "{group} was changed since its newest roll: it does not launch version {} any more",
            record.new_version.unwrap_or_default()
        ))
        .hint(format!(
            "roll it to the image that you want: piaas-bake roll start {group} --image {}",
            record.old.image
        )));
    }
    record.turn_back(&format!("rollback by {}", holder().name));
    store::save(clients, &record)
        .await
        .map_err(|error| stored(&error))?;
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_waits_can_tell_why_a_roll_stopped() {
        let lost = RollError::Lost("held by another".into());
        let late = RollError::Impatient("a refresh is in progress".into());
        let stuck = RollError::Stuck("no such group".into());
        let codes = [lost, late, stuck].map(|error| failed("workers", &error).code);
        assert_eq!(
            codes,
            [exit::LEASE_HELD, exit::TIMED_OUT, exit::ROLL_HALTED]
        );
    }
}
