//! `bake`: a recipe becomes a tested image.

use std::io::Read as _;

use serde_json::json;
use tokio::sync::mpsc;

use super::plan::{Wishes, decide, prepare};
use super::{bakes, saved};
use crate::bake::images::Image;
use crate::bake::names::{Channel, RunId};
use crate::bake::plan::{Decision, Plan};
use crate::bake::{
    self, BakeError, Baked, Cancel, Failure, HOME, Kept, LeftOver, Settings, cancel_pair,
};
use crate::cli::args::{BakeArgs, CloudName, Format};
use crate::cli::context::{Connected, Context, cloud};
use crate::cli::error::{CliError, CliResult};
use crate::cli::lines::Told;
use crate::cli::style::elapsed;
use crate::cli::view::progress::Progress;
use crate::cli::{exit, github, interrupt, lent, output, view};

pub async fn run(context: &Context, args: &BakeArgs) -> CliResult {
    let [argument] = args.recipe.as_slice() else {
        return bakes::run(context, args).await;
    };
    let plan = saved::named(argument, &args.sets, &args.how)?;
    let (connected, order, decision, channel) = if let Some(plan) = plan {
        let connected = context.connect_to_act().await?;
        let (order, decision) = saved::reopen(context, &connected, &plan).await?;
        (connected, order, decision, plan.channel)
    } else {
        let order = prepare(context, argument, &args.sets.given())?;
        let connected = context.connect_to_act().await?;
        let wishes = Wishes::from(&args.how);
        let channel = wishes.channel;
        let decision = decide(context, &connected, &order, wishes).await?;
        (connected, order, decision, channel)
    };
    let recipe = &order.recipe;
    match decision {
        Decision::AlreadyBaked(image) => {
            let pointed = already_baked(context, &connected, recipe, channel, &image).await?;
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
                            channel.as_str()
                        ));
                    }
                    output::data(&format!("{}\n", image.id))?;
                }
            }
            Ok(exit::DONE)
        }
        Decision::Bake(plan) => {
            let way = Way {
                cancel: cancel_on_signal(context)?,
                keep_on_failure: args.keep_on_failure,
                progress: context.progress(),
            };
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
        "outcome": "baked",
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
    /// Leave the machine on which it fails.
    pub keep_on_failure: bool,
    pub progress: Progress,
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

/// What the first Ctrl-C or SIGTERM sets; the second one ends the process.
///
/// # Errors
/// The signals cannot be listened to.
pub fn cancel_on_signal(context: &Context) -> Result<Cancel, CliError> {
    let (canceller, cancel) = cancel_pair();
    let clean = clean_up_command(context.settings.cloud);
    interrupt::watch_signals(
        move || canceller.cancel(),
        format!("stopped at once; what the bake created is removed by: {clean}"),
    )?;
    Ok(cancel)
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
    let run = RunId::new(context.clock.now(), chance()?);
    let runs = context.runs();
    std::fs::create_dir_all(&runs)
        .map_err(|error| crate::cli::context::io("make", &runs, &error))?;
    let lent = lent::lend(context, connected, plan.secrets.values()).await?;
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
        run,
        cancel: way.cancel,
        keep_on_failure: way.keep_on_failure,
        bundles: context.settings.bundles.clone(),
    };
    let result = bake::bake(&connected.clients, plan, settings, &sink).await;
    let returned = lent::settle(context, connected, &lent).await;
    drop(sink);
    view.await.map_err(|error| {
        CliError::new(exit::BUG, "the view of the bake panicked").because(&error)
    })?;
    match result {
        Ok(baked) => {
            context.summarize(&summary(plan, &baked))?;
            returned?;
            Ok(baked)
        }
        Err(error) => {
            context.summarize(&failure_summary(plan, &error))?;
            Err(failed(context, connected, &error))
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

fn failure_summary(plan: &Plan, error: &BakeError) -> String {
    let mut out = format!(
        "### {} is not baked\n\n{}\n\n",
        github::plain(&plan.recipe),
        github::plain(&error.to_string())
    );
    // An indented block: no line can end it.
    for line in &error.last_lines {
        out.push_str(&format!("    {}\n", line.replace(char::is_control, " ")));
    }
    for left in &error.left_over {
        out.push_str(&format!("\n- {}\n", github::plain(&describe(left))));
    }
    if let Some(kept) = &error.kept {
        out.push_str(&format!(
            "\n- kept: {} {}\n",
            kept.kind.as_str(),
            kept.instance
        ));
    }
    out.push('\n');
    out
}

fn done(context: &Context, plan: &Plan, baked: &Baked) -> CliResult {
    let code = if baked.left_over.is_empty() {
        exit::DONE
    } else {
        exit::CLEANUP_INCOMPLETE
    };
    match context.format {
        Format::Json => output::json(&baked_document(plan, baked))?,
        Format::Human => {
            let took = elapsed(std::time::Duration::from_millis(baked.milliseconds));
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
            output::note(&format!("next: piaas-bake images show {}", plan.recipe));
            if context.settings.cloud == CloudName::Local {
                output::note(&format!(
                    "      piaas-bake cloud run {} -- systemctl status --no-pager",
                    plan.recipe
                ));
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

fn failed(context: &Context, connected: &Connected, error: &BakeError) -> CliError {
    let place = error
        .phase
        .map(|phase| format!(" at \"{}\"", phase.title()))
        .unwrap_or_default();
    let message = match &error.failure {
        Failure::Cancelled => format!("the bake was interrupted{place}"),
        failure => format!("the bake failed{place}: {failure}"),
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
    if error.log.exists() {
        edge = edge.hint(format!("the whole output is in {}", error.log.display()));
    }
    for left in &error.left_over {
        edge = edge.hint(describe(left));
    }
    match &error.kept {
        Some(kept) => {
            for hint in kept_hints(context, connected, kept) {
                edge = edge.hint(hint);
            }
            edge
        }
        None if error.left_over.is_empty() => {
            edge.hint("everything that the bake created has been removed")
        }
        None => edge,
    }
}

/// How to get into a machine that was kept, what is there to see, and how to remove it.
fn kept_hints(context: &Context, connected: &Connected, kept: &Kept) -> [String; 4] {
    let (instance, region) = (&kept.instance, &connected.clients.region);
    let get_in = match context.settings.cloud {
        CloudName::Local => format!("piaas-bake cloud shell {instance}"),
        CloudName::Aws => format!("aws ssm start-session --target {instance} --region {region}"),
    };
    [
        format!(
            "the {} {instance} was kept; get in with: {get_in}",
            kept.kind.as_str()
        ),
        format!("its scripts and their logs are in {HOME}"),
        format!(
            "remove it with: {}",
            clean_up_command(context.settings.cloud)
        ),
        format!("it ends itself at {:.0}", kept.until),
    ]
}

fn clean_up_command(cloud: CloudName) -> &'static str {
    match cloud {
        CloudName::Local => "piaas-bake cloud gc",
        CloudName::Aws => "piaas-bake --cloud aws cloud gc",
    }
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
