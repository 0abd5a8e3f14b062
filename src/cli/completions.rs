//! Completion in shells: verbs and options by clap, recipes and images by looking.
//!
//! A shell that was given [`script`]'s output calls this program with `COMPLETE` set for each completion.

use std::time::Duration;

use clap::builder::StyledStr;
use clap::{CommandFactory as _, Parser as _};
use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};
use clap_complete::env::{CompleteEnv, Shells};

use super::args::{Cli, Shell};
use super::config::Written;
use super::context::Context;
use super::error::{CliError, CliResult};
use super::{exit, output};
use crate::bake::images;
use crate::bake::names::Channel;
use crate::recipe;

/// The variable that says that a shell asks, and which one.
const VARIABLE: &str = "COMPLETE";
const NAME: &str = "piaas-bake";
/// How long the cloud has to name its images: somebody waits at a prompt.
const PATIENCE: Duration = Duration::from_secs(3);

/// Answers a shell that asks, and ends the program then.
pub fn answer() {
    CompleteEnv::with_factory(Cli::command)
        .var(VARIABLE)
        .complete();
}

/// Prints what a shell has to be told.
///
/// # Errors
/// Standard output cannot be written.
pub fn script(shell: Shell) -> CliResult {
    let name = match shell {
        Shell::Bash => "bash",
        Shell::Elvish => "elvish",
        Shell::Fish => "fish",
        Shell::Powershell => "powershell",
        Shell::Zsh => "zsh",
    };
    let shells = Shells::builtins();
    let completer = shells
        .completer(name)
        .expect("clap_complete has all five shells");
    let mut text = Vec::new();
    completer
        .write_registration(VARIABLE, NAME, NAME, NAME, &mut text)
        .map_err(|error| CliError::failure("cannot make the script").because(&error))?;
    output::data(&String::from_utf8_lossy(&text))?;
    Ok(exit::DONE)
}

/// The settings that the environment and the config files give: a half-written command line has no say.
fn context() -> Option<Context> {
    let cli = Cli::try_parse_from([NAME, "config", "show"]).ok()?;
    Context::new(&cli.global, &Written::default()).ok()
}

fn candidate(value: String, help: impl Into<StyledStr>) -> CompletionCandidate {
    CompletionCandidate::new(value).help(Some(help.into()))
}

/// Names of recipes.
pub fn recipes() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let found = context().and_then(|context| recipe::names(&context.settings.recipes).ok());
        let found = found.unwrap_or_default().into_iter();
        found.map(CompletionCandidate::new).collect()
    })
}

/// Images that can be named: ids, recipes and their candidates. Nothing, if the cloud does not answer at once.
pub fn images() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let (Some(context), Ok(runtime)) = (context(), runtime) else {
            return Vec::new();
        };
        let list = async {
            let connected = context.connect().await.ok()?;
            let found = images::list(&connected.clients, None).await.ok()?;
            let mut out = Vec::new();
            for name in recipe::names(&context.settings.recipes).unwrap_or_default() {
                let channels = images::channels(&connected.clients, &name).await.ok()?;
                for (channel, id) in channels {
                    let word = match channel {
                        Channel::Latest => name.clone(),
                        Channel::Candidate => format!("{name}@candidate"),
                    };
                    out.push(candidate(word, id));
                }
            }
            out.extend(
                found
                    .into_iter()
                    .map(|image| candidate(image.id, image.name)),
            );
            Some(out)
        };
        let list = runtime.block_on(async { tokio::time::timeout(PATIENCE, list).await });
        list.ok().flatten().unwrap_or_default()
    })
}
