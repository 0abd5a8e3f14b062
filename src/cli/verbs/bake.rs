//! `bake`: a recipe becomes a tested image.

use std::collections::BTreeSet;
use std::io::Read as _;

use serde_json::json;
use tokio::sync::mpsc;

use super::plan::{Wishes, decide, prepare};
use crate::bake::images::Image;
use crate::bake::names::{Channel, RunId};
use crate::bake::plan::{Decision, Plan};
use crate::bake::{self, BakeError, Baked, Cancel, Failure, LeftOver, Settings, cancel_pair};
use crate::cli::args::{BakeArgs, CloudName, Format};
use crate::cli::context::{Connected, Context, cloud};
use crate::cli::error::{CliError, CliResult};
use crate::cli::style::elapsed;
use crate::cli::{exit, github, interrupt, lent, output, view};

pub async fn run(context: &Context, args: &BakeArgs) -> CliResult {
    let (resolved, layers) = prepare(context, &args.recipe.recipe, &args.recipe.sets.given())?;
    let connected = context.connect_to_act().await?;
    let wishes = Wishes {
        force: args.force,
        channel: if args.candidate {
            Channel::Candidate
        } else {
            Channel::Latest
        },
        starts: args.no_cache.then(BTreeSet::new),
    };
    let channel = wishes.channel;
    match decide(context, &connected, &resolved, layers, wishes).await? {
        Decision::AlreadyBaked(image) => {
            let recipe = &resolved.name;
            let pointed = bake::point(&connected.clients, recipe, channel, &image.id)
                .await
                .map_err(|error| cloud(&error))?;
            context.summarize(&format!(
                "### {} is baked already\n\n{}",
                github::plain(recipe),
                table(&image)
            ))?;
            match context.format {
                Format::Json => output::json_line(&json!({
                    "type": "result",
                    "outcome": "already-baked",
                    "image_id": image.id,
                    "name": image.name,
                    "digest": image.digest(),
                }))?,
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
            let cancel = cancel_on_signal(context)?;
            let baked = carry_out(context, &connected, &plan, cancel).await?;
            done(context, &plan, &baked)
        }
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

/// What the first Ctrl-C or SIGTERM sets; the second one ends the process.
///
/// # Errors
/// The signals cannot be listened to.
pub fn cancel_on_signal(context: &Context) -> Result<Cancel, CliError> {
    let (canceller, cancel) = cancel_pair();
    let clean = match context.settings.cloud {
        CloudName::Local => "piaas-bake cloud gc".to_owned(),
        CloudName::Aws => "piaas-bake --cloud aws cloud gc".to_owned(),
    };
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
    cancel: Cancel,
) -> Result<Baked, CliError> {
    let run = RunId::new(context.clock.now(), chance()?);
    let runs = context.runs();
    std::fs::create_dir_all(&runs)
        .map_err(|error| crate::cli::context::io("make", &runs, &error))?;
    let lent = lent::lend(context, connected, plan.secrets.values()).await?;
    let (sink, events) = mpsc::unbounded_channel();
    let view = match context.format {
        Format::Human => tokio::spawn(view::bake::show(events, context.progress())),
        Format::Json => tokio::spawn(view::write_json(events)),
    };
    let settings = Settings {
        runs: &runs,
        account: connected.account.id.clone(),
        run,
        bundles: context.settings.bundles.clone(),
        cancel,
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
            Err(failed(&error))
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
        Format::Json => output::json_line(&json!({
            "type": "result",
            "outcome": "baked",
            "image_id": baked.image,
            "name": baked.name,
            "digest": baked.digest,
            "run": baked.run,
            "milliseconds": baked.milliseconds,
            "log": baked.log,
            "left_over": baked.left_over,
        }))?,
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

fn failed(error: &BakeError) -> CliError {
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
    if error.left_over.is_empty() {
        edge.hint("everything that the bake created has been removed")
    } else {
        for left in &error.left_over {
            edge = edge.hint(describe(left));
        }
        edge
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
