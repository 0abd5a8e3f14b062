//! `fleet`: workers come when all are busy, and go when they are idle.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;
use tokio::sync::mpsc;

use super::fleet_args::{FleetArgs, FleetVerb, StatusArgs};
use super::roll::{holder, say_held};
use crate::aws::commands::quote;
use crate::cancel::{self, Cancel};
use crate::cli::args::Format;
use crate::cli::context::{Connected, Context, cloud, io};
use crate::cli::error::{CliError, CliResult};
use crate::cli::lines::{Line, Told, Word};
use crate::cli::{exit, interrupt, output, view};
use crate::fleet::config::{self, Config};
use crate::fleet::demand::Source;
use crate::fleet::event::{Stamped, View};
use crate::fleet::{self, Controller, Core, FleetError, NO_DEMAND, Shell, lease_name};
use crate::lease::{self, Held, Lease, Term};

/// The file that is taken where none is named.
const FILE: &str = "fleet.yaml";
/// Between two looks of `--watch`, and between two drawings of the times in it.
const LOOK: Duration = Duration::from_secs(5);
const DRAW: Duration = Duration::from_secs(1);

pub async fn run(context: &Context, verb: &FleetVerb) -> CliResult {
    match verb {
        FleetVerb::Run(args) => keep_running(context, args, Work::Run).await,
        FleetVerb::Tick(args) => keep_running(context, args, Work::Tick).await,
        FleetVerb::Status(args) => status(context, args).await,
    }
}

/// A fleet's file, with what the command line says.
struct Chosen {
    group: String,
    config: Config,
    source: Box<dyn Source>,
    file: Option<PathBuf>,
}

impl Chosen {
    /// A verb about this fleet: what was named on the command line, or found beside it.
    fn command(&self, verb: &str) -> String {
        let file = self.file.as_ref().map_or_else(String::new, |file| {
            format!(" --config {}", quote(&file.display().to_string()))
        });
        format!("fleet {verb}{file} --group {}", quote(&self.group))
    }
}

fn choose(args: &FleetArgs) -> Result<Chosen, CliError> {
    let file = match &args.config {
        Some(file) => Some(file.clone()),
        None => Some(PathBuf::from(FILE)).filter(|file| file.is_file()),
    };
    let config = match &file {
        Some(file) => load(file)?,
        None => Config::default(),
    };
    let Some(group) = args.group.clone().or_else(|| config.group.clone()) else {
        return Err(CliError::new(exit::USAGE, "no Auto Scaling group is named")
            .hint("name a file with `--config`, such as recipes/ci-worker/fleet.yaml")
            .hint("or name the group itself with `--group`"));
    };
    let env = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let source = config
        .demand
        .source(env)
        .map_err(|why| CliError::new(exit::USAGE, why))?;
    Ok(Chosen {
        group,
        config,
        source,
        file,
    })
}

fn load(file: &Path) -> Result<Config, CliError> {
    let text = std::fs::read_to_string(file).map_err(|error| CliError {
        code: exit::USAGE,
        ..io("read", file, &error)
    })?;
    config::parse(file, text).map_err(|found| {
        let what = match found.0.len() {
            1 => "1 problem".to_owned(),
            count => format!("{count} problems"),
        };
        let message = format!("the fleet's file is invalid: {what}");
        CliError::new(exit::USAGE, message).with_detail(found.to_string())
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Work {
    Run,
    Tick,
}

async fn keep_running(context: &Context, args: &FleetArgs, work: Work) -> CliResult {
    if work == Work::Run {
        follow_in_lines(context, "fleet run")?;
    }
    let chosen = choose(args)?;
    let connected = context.connect_to_act().await?;
    let mut lease = take(&connected, &chosen).await?;
    let (sink, events) = mpsc::unbounded_channel();
    let screen = show(context, events);
    let (canceller, cancel) = cancel::pair();
    interrupt::on_signal(move || canceller.cancel())?;
    let shell = Shell {
        clients: &connected.clients,
        group: chosen.group.clone(),
        policy: chosen.config.policy.clone(),
        source: chosen.source.as_ref(),
        brain: &Core,
        sink: &sink,
    };
    let result = work_on(shell, &mut lease, work, cancel).await;
    // A lease that cannot be given back runs out within a minute.
    let _ = lease.release().await;
    drop(sink);
    screen.await.map_err(|error| {
        CliError::new(exit::BUG, "the view of the fleet panicked").because(&error)
    })?;
    let done = result.map_err(|error| failed(&chosen.group, &error))?;
    if context.format == Format::Json {
        output::json(&json!({ "exit_code": exit::DONE, "decisions": done }))?;
    }
    Ok(exit::DONE)
}

/// How many decisions the one tick carried out.
async fn work_on(
    shell: Shell<'_>,
    lease: &mut Lease,
    work: Work,
    mut cancel: Cancel,
) -> Result<Option<usize>, FleetError> {
    let mut controller = Controller::open(shell, lease).await?;
    match work {
        Work::Run => controller.run(lease, cancel).await.map(|()| None),
        Work::Tick => tokio::select! {
            done = controller.tick(lease) => done.map(Some),
            // A tick may be dropped anywhere: the next one goes on.
            () = cancel.cancelled() => Ok(None),
        },
    }
}

async fn take(connected: &Connected, chosen: &Chosen) -> Result<Lease, CliError> {
    let group = &chosen.group;
    say_held(connected, &lease_name(group)).await?;
    lease::take(&connected.clients, &lease_name(group), holder())
        .await
        .map_err(|held| match held {
            Held::Cloud(error) => cloud(&error),
            Held::ByAnother(who) => CliError::new(
                exit::LEASE_HELD,
                format!("another process runs the fleet {group}: {who}"),
            )
            .hint(format!(
                "look at it with: {}",
                connected.clients.commands.own(&chosen.command("status"))
            )),
        })
}

fn show(
    context: &Context,
    events: mpsc::UnboundedReceiver<Stamped>,
) -> tokio::task::JoinHandle<()> {
    if output::has_lines() {
        tokio::spawn(view::write_lines(events, |event| Told::Fleet { event }))
    } else {
        tokio::spawn(view::fleet::tell(events, context.err))
    }
}

/// What does not end by itself has no one document.
fn follow_in_lines(context: &Context, verb: &str) -> Result<(), CliError> {
    if context.format == Format::Json && !output::has_lines() {
        return Err(CliError::new(
            exit::USAGE,
            format!("{verb} does not end with one document"),
        )
        .hint("follow it with --format ndjson"));
    }
    Ok(())
}

fn failed(group: &str, error: &FleetError) -> CliError {
    let not_run = format!("the fleet {group} is not run");
    match error {
        FleetError::Cloud(error) => cloud(error),
        FleetError::Memory(error) => CliError::failure(error.to_string()),
        FleetError::NoGroup(_) => CliError::failure(error.to_string())
            .hint("list them with: aws autoscaling describe-auto-scaling-groups"),
        FleetError::Refused(refusal) => {
            CliError::failure(format!("{refusal}; nothing was changed")).hint(refusal.way_out())
        }
        FleetError::Lost(who) => {
            CliError::new(exit::LEASE_HELD, format!("{not_run} any more: {who}"))
        }
    }
}

async fn status(context: &Context, args: &StatusArgs) -> CliResult {
    let chosen = choose(&args.fleet)?;
    let connected = context.connect().await?;
    let shell = Shell {
        clients: &connected.clients,
        group: chosen.group.clone(),
        policy: chosen.config.policy.clone(),
        source: chosen.source.as_ref(),
        brain: &Core,
        sink: &(),
    };
    if !args.watch {
        let (seen, who) = look(&connected, &shell, &chosen).await?;
        match context.format {
            Format::Json => output::json(&json!({ "view": seen, "holder": who }))?,
            Format::Human => {
                let lines = picture(context, &seen, who.as_ref(), &chosen);
                output::data(&(lines.join("\n") + "\n"))?;
            }
        }
        return Ok(exit::DONE);
    }
    follow_in_lines(context, "fleet status --watch")?;
    let (canceller, mut cancel) = cancel::pair();
    interrupt::on_signal(move || canceller.cancel())?;
    let mut screen = view::fleet::Screen::default();
    loop {
        let (seen, who) = tokio::select! {
            seen = look(&connected, &shell, &chosen) => seen?,
            () = cancel.cancelled() => return Ok(exit::DONE),
        };
        if context.format == Format::Json {
            let status = json!({ "view": seen, "holder": who });
            output::line(&Line::now(Word::Status { status }))?;
        }
        let until = std::time::Instant::now() + LOOK;
        while std::time::Instant::now() < until {
            if context.format == Format::Human {
                screen.draw(&picture(context, &seen, who.as_ref(), &chosen))?;
            }
            // Where lines are appended, one picture a look is enough.
            let pause = if screen.is_live() { DRAW } else { LOOK };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = cancel.cancelled() => return Ok(exit::DONE),
            }
        }
    }
}

/// How the fleet stands, and who runs it.
async fn look(
    connected: &Connected,
    shell: &Shell<'_>,
    chosen: &Chosen,
) -> Result<(View, Option<Term>), CliError> {
    let mut seen = fleet::peek(shell)
        .await
        .map_err(|error| failed(&shell.group, &error))?;
    if chosen.file.is_none() {
        // What its controller asks is in the file that we were not given.
        seen.alarms.retain(|alarm| alarm.about != NO_DEMAND);
    }
    let who = lease::holder(&connected.clients, &lease_name(&shell.group))
        .await
        .map_err(|error| cloud(&error))?;
    Ok((seen, who))
}

fn picture(context: &Context, seen: &View, who: Option<&Term>, chosen: &Chosen) -> Vec<String> {
    let (style, width) = (context.out, view::text::width(std::io::stdout()));
    let mut lines = view::fleet::lines(seen, style, context.clock.now(), width);
    if chosen.file.is_none() {
        let told = "times are by the default policy and no queue is asked: name the controller's file with --config";
        let told = view::text::folded(told, "", width);
        lines.extend(told.iter().map(|line| style.dim(line)));
    }
    lines.push(style.dim(&match who {
        Some(term) => format!("run by {}", term.holder),
        None => {
            let begin = context.commands().own(&chosen.command("run"));
            format!("nobody runs it; begin with: {begin}")
        }
    }));
    lines
}
