//! Completion in shells: verbs and options by clap, recipes, images, groups and machines by looking.
//!
//! A shell that was given [`script`]'s output calls this program with `COMPLETE` set for each completion.

use std::ffi::OsString;
use std::time::Duration;

use clap::builder::StyledStr;
use clap::{CommandFactory as _, Parser as _};
use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};
use clap_complete::env::{CompleteEnv, Shells};

use super::args::{Cli, Shell};
use super::context::{Connected, Context};
use super::error::{CliError, CliResult};
use super::{exit, output};
use crate::aws::{Clients, groups};
use crate::bake::images;
use crate::bake::names::Channel;
use crate::journal::{self, RunState};
use crate::localcloud::exposed;
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
/// Standard output cannot be written, or JSON is asked for.
pub fn script(context: &Context, shell: Shell) -> CliResult {
    context.no_json("a script for a shell")?;
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

/// The settings, by the half-written command line too, as far as it can be read.
fn context() -> Option<Context> {
    let line = std::env::args_os().skip_while(|word| word != "--").skip(2);
    let mut words = [NAME, "config", "show"].map(str::to_owned).to_vec();
    words.extend(written(line));
    let cli = Cli::try_parse_from(words).ok()?;
    Context::new(&cli.global).ok()
}

/// What is asked for depends on these options; each as one word.
fn written(line: impl IntoIterator<Item = OsString>) -> Vec<String> {
    let options = [
        "--cloud",
        "--recipes",
        "--state-dir",
        "--region",
        "--profile",
    ];
    let mut found = Vec::new();
    let words = line.into_iter().map_while(|word| word.into_string().ok());
    let mut words = words.take_while(|word| word != "--").peekable();
    while let Some(word) = words.next() {
        let (option, value) = match word.split_once('=') {
            Some((option, value)) => (option, Some(value.to_owned())),
            None => (word.as_str(), None),
        };
        if !options.contains(&option) {
            continue;
        }
        let value = value.or_else(|| {
            // bash parts words at an equals sign.
            let _ = words.next_if(|word| word == "=");
            words.next()
        });
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            // Words come as they are typed: no shell has put the home directory in.
            let home = std::env::var("HOME").unwrap_or_default();
            let value = match value.strip_prefix("~/") {
                Some(below) => format!("{home}/{below}"),
                None => value,
            };
            found.push(format!("{option}={value}"));
        }
    }
    found
}

/// What the cloud names. Nothing, if it does not answer at once.
fn of_cloud(
    list: impl AsyncFn(&Context, &Connected) -> Option<Vec<CompletionCandidate>>,
) -> Vec<CompletionCandidate> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let (Some(context), Ok(runtime)) = (context(), runtime) else {
        return Vec::new();
    };
    let list = async {
        // What is said would stand in the line that somebody types.
        let connected = context.connect_telling(|_| ()).await.ok()?;
        list(&context, &connected).await
    };
    let list = runtime.block_on(async { tokio::time::timeout(PATIENCE, list).await });
    list.ok().flatten().unwrap_or_default()
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

/// Images that can be named: ids, recipes and their candidates.
pub fn images() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        of_cloud(async |context, connected| {
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
        })
    })
}

/// Names of Auto Scaling groups: those of the first page, 50 at least (`DescribeAutoScalingGroups`).
pub fn groups() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        of_cloud(async |_, connected| {
            let call = connected.clients.autoscaling.describe_auto_scaling_groups();
            let groups = call.send().await.ok()?.auto_scaling_groups?.into_iter();
            let names = groups.filter_map(|group| group.auto_scaling_group_name);
            Some(names.map(CompletionCandidate::new).collect())
        })
    })
}

/// Ids of the machines that run in the local cloud, with their images.
pub fn machines() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        of_cloud(async |_, connected| {
            let _ = connected.local.as_ref()?;
            running(&connected.clients).await
        })
    })
}

async fn running(clients: &Clients) -> Option<Vec<CompletionCandidate>> {
    let running = groups::filter("instance-state-name", ["running".to_owned()]);
    let found = groups::instances(clients, vec![running]).await;
    let named = found.ok()?.into_iter().filter_map(|one| {
        let id = one.instance_id?;
        Some(candidate(id, one.image_id.unwrap_or_default()))
    });
    Some(named.collect())
}

/// Runs that died, with their recipes.
pub fn dead_runs() -> ArgValueCandidates {
    ArgValueCandidates::new(|| named_runs(|state| state == RunState::Dead))
}

fn named_runs(wanted: impl Fn(RunState) -> bool) -> Vec<CompletionCandidate> {
    let found = context().and_then(|context| journal::runs(&context.runs()).ok());
    let found = found.unwrap_or_default().into_iter();
    let named = found.filter(|run| wanted(run.state)).filter_map(|run| {
        let header = run.ledger.header()?;
        Some(candidate(header.run.clone(), header.recipe.clone()))
    });
    named.collect()
}

/// Runs, with their recipes.
pub fn runs() -> ArgValueCandidates {
    ArgValueCandidates::new(|| named_runs(|_| true))
}

/// Ports that are exposed already, for taking one back.
pub fn ports() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let found =
            context().and_then(|context| exposed::ports(&context.settings.cloud_dir()).ok());
        let found = found.unwrap_or_default().into_iter();
        found
            .map(|port| CompletionCandidate::new(port.to_string()))
            .collect()
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::aws::Connection;
    use crate::clock::JumpingClock;
    use crate::localcloud::scripted::Scripted;
    use crate::localcloud::{self, LocalCloud};

    #[tokio::test]
    async fn machines_that_run_are_offered_with_their_images() {
        let dir = tempfile::tempdir().unwrap();
        let clock = JumpingClock::starting_at(jiff::Timestamp::UNIX_EPOCH);
        let driver = Arc::new(Scripted::new(clock.clone()));
        let cloud = LocalCloud::open(dir.path(), driver, clock.clone()).unwrap();
        let connection = Connection::Local {
            http_client: localcloud::connector(cloud),
            region: localcloud::DEFAULT_REGION.into(),
            access_key: localcloud::ACCESS_KEY,
            secret_key: localcloud::SECRET_KEY,
            machine_endpoint: localcloud::MACHINE_ENDPOINT,
        };
        let clients = Clients::connect(connection, clock.clone()).await.unwrap();
        let launch = clients.ec2.run_instances().min_count(2).max_count(2);
        let launch = launch.image_id(localcloud::BASE_IMAGE);
        let made = launch
            .instance_type("t3.micro".into())
            .send()
            .await
            .unwrap();
        let ids: Vec<&str> = made
            .instances()
            .iter()
            .flat_map(|one| one.instance_id())
            .collect();
        clock.advance(Duration::from_secs(60));
        let ended = clients.ec2.terminate_instances().instance_ids(ids[1]);
        ended.send().await.unwrap();
        let offered = running(&clients).await.unwrap();
        let [one] = offered.as_slice() else {
            panic!("{offered:?}")
        };
        assert_eq!(one.get_value(), ids[0]);
        let help = one.get_help().map(ToString::to_string);
        assert_eq!(help.as_deref(), Some(localcloud::BASE_IMAGE));
    }

    #[test]
    fn options_are_read_from_a_line_that_is_not_finished() {
        let written = |line: &str| written(line.split(' ').map(OsString::from));
        assert_eq!(
            written("--recipes infra show --region = us-east-1 --set a=b --state-dir=/s --cloud"),
            ["--recipes=infra", "--region=us-east-1", "--state-dir=/s"]
        );
        assert_eq!(written("cloud run -- --region x"), [""; 0]);
    }
}
