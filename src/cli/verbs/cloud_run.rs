//! `cloud run`: a look inside an image, on a machine that is gone afterwards.

use serde_json::json;

use super::bake::{chance, describe};
use super::images::find;
use crate::bake::names::RunId;
use crate::bake::{Failure, Invocation, Order, Verdict, cancel_pair, once};
use crate::cli::args::Format;
use crate::cli::context::{Context, cloud, io};
use crate::cli::error::{CliError, CliResult};
use crate::cli::{exit, interrupt, output};

/// The machine's type; the command has to be small.
const INSTANCE_TYPE: &str = "t3.small";

pub async fn run(context: &Context, word: &str, command: &[String]) -> CliResult {
    let script = shlex::try_join(command.iter().map(String::as_str)).map_err(|error| {
        CliError::new(
            exit::USAGE,
            format!("the command cannot be passed on: {error}"),
        )
    })?;
    let connected = context.connect_to_act().await?;
    let image = find(&connected, word).await?;
    let runs = context.runs();
    std::fs::create_dir_all(&runs).map_err(|error| io("make", &runs, &error))?;
    let run = RunId::new(context.clock.now(), chance()?);
    let (canceller, cancel) = cancel_pair();
    let gc = format!("piaas-bake cloud gc --run {run}");
    let last_words = move || {
        CliError::new(exit::INTERRUPTED, "stopped at once")
            .hint(format!("remove the machine with: {gc}"))
    };
    interrupt::watch_signals(context, move || canceller.cancel(), last_words)?;
    let order = Order {
        image: &image,
        instance_type: INSTANCE_TYPE,
        script: &script,
        runs: &runs,
        account: connected.account.id.clone(),
        run,
        cancel,
    };
    let title = format!("run it on a machine of {}", image.name);
    let mut progress = context.progress();
    progress.begin(&title);
    let started = std::time::Instant::now();
    let answer = once(&connected.clients, order, &())
        .await
        .map_err(|error| CliError::failure("cannot write the journal").because(&error))?;
    match answer.result {
        Ok(_) => progress.done(&title, started.elapsed()),
        Err(_) => progress.failed(&title),
    }
    drop(progress);
    if !answer.left_over.is_empty() {
        let mut error = CliError::new(exit::CLEANUP_INCOMPLETE, "the machine could not be removed");
        for left in &answer.left_over {
            error = error.hint(describe(left));
        }
        return Err(error);
    }
    let invocation = answer.result.map_err(|failure| match &failure {
        Failure::Cancelled => CliError::new(exit::INTERRUPTED, "interrupted; the machine is gone"),
        Failure::Cloud(error) => cloud(error),
        failure => CliError::failure(failure.to_string()),
    })?;
    show(context, &invocation)
}

/// Shows the output and passes the command's exit code on, as `ssh` does.
fn show(context: &Context, invocation: &Invocation) -> CliResult {
    let code = match &invocation.verdict {
        Verdict::Success => 0,
        Verdict::Failed(code) => u8::try_from(*code).unwrap_or(exit::FAILURE),
        other => return Err(CliError::failure(format!("the command {other}"))),
    };
    match context.format {
        Format::Json => output::json(&json!({
            "exit_code": code,
            "stdout": invocation.stdout,
            "stderr": invocation.stderr,
        }))?,
        Format::Human => {
            output::data(&invocation.stdout)?;
            if !invocation.stderr.is_empty() {
                output::note(invocation.stderr.trim_end());
            }
        }
    }
    Ok(code)
}
