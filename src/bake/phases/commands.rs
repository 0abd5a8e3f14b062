//! What runs on machines: single commands, and what is done with one or a few of them. Lists of scripts are run in
//! [`super::scripts`].

use std::collections::BTreeSet;
use std::time::Duration;

use super::super::bundle::Bundle;
use super::super::checkpoint::SEALING;
use super::super::error::Failure;
use super::super::event::Event;
use super::super::machine;
use super::super::packages::{self, Part};
use super::super::run::Run;
use crate::aws::Kind;
use crate::aws::ssm::{self, Invocation, Verdict};
use crate::aws::wait::Patience;
use crate::image::leaks;

/// Time-out of our own short commands.
pub(super) const SHORT: Duration = Duration::from_secs(300);
/// Every so many looks the machine is asked whether it still lives.
pub(super) const MACHINE_EVERY: u32 = 16;

pub(super) const COMMAND: Patience = Patience {
    what: "a command to end",
    stall: Duration::from_secs(900),
    first: Duration::from_millis(20),
    longest: Duration::from_secs(2),
};

/// An agent may be away for a while, as amid its own update; `SendCommand` refuses then (SSM API Reference,
/// `InvalidInstanceId`).
const AGENT: Patience = Patience {
    what: "the machine's agent to answer again",
    stall: Duration::from_secs(600),
    first: Duration::from_millis(500),
    longest: Duration::from_secs(10),
};

/// Sends a command, waits for its end, fails unless it succeeded.
pub(super) async fn command(
    run: &mut Run<'_>,
    instance: &str,
    what: &'static str,
    script: &str,
) -> Result<Invocation, Failure> {
    let ended = finish(run, instance, script, what).await?;
    success(instance, what, ended)
}

/// Fails unless a command succeeded.
pub(super) fn success(
    instance: &str,
    what: &'static str,
    ended: Invocation,
) -> Result<Invocation, Failure> {
    if ended.verdict == Verdict::Success {
        return Ok(ended);
    }
    let said = if ended.stderr.trim().is_empty() {
        ended.stdout
    } else {
        ended.stderr
    };
    Err(Failure::Command {
        what,
        instance: instance.to_owned(),
        verdict: ended.verdict,
        said,
    })
}

/// Sends a command and waits for its end, whatever it is.
pub(super) async fn finish(
    run: &mut Run<'_>,
    instance: &str,
    script: &str,
    comment: &str,
) -> Result<Invocation, Failure> {
    within(run, instance, script, SHORT, comment).await
}

/// The same with a time-out.
pub(super) async fn within(
    run: &mut Run<'_>,
    instance: &str,
    script: &str,
    timeout: Duration,
    comment: &str,
) -> Result<Invocation, Failure> {
    let id = begin(run, instance, script, timeout, comment).await?;
    end(run, instance, &id, timeout).await
}

/// Sends a command, once the machine has an agent to take it.
pub(super) async fn begin(
    run: &mut Run<'_>,
    instance: &str,
    script: &str,
    timeout: Duration,
    comment: &str,
) -> Result<String, Failure> {
    run.check()?;
    let comment = format!("piaas-bake: {comment}");
    let mut pace = run.pace(AGENT);
    loop {
        let sent = ssm::send(run.clients, instance, script, timeout, &comment).await;
        let error = match sent {
            Ok(id) => return Ok(id),
            Err(error) if error.kind == Kind::NotFound => error,
            Err(error) => return Err(error.into()),
        };
        alive(run, instance).await?;
        run.pause_after(&mut pace, "away", error).await?;
    }
}

/// Sends a command and writes its id down under this name; gives that of the one under way where another process of this
/// run had sent it.
pub(super) async fn begin_once(
    run: &mut Run<'_>,
    name: &str,
    instance: &str,
    script: &str,
    timeout: Duration,
    comment: &str,
) -> Result<String, Failure> {
    if let Some(id) = run.attach(name) {
        return Ok(id);
    }
    let id = begin(run, instance, script, timeout, comment).await?;
    run.pass(name, &id)?;
    Ok(id)
}

/// Waits for the end of a command, whatever it is.
pub(super) async fn end(
    run: &mut Run<'_>,
    instance: &str,
    id: &str,
    timeout: Duration,
) -> Result<Invocation, Failure> {
    // Its agent has ten minutes to take it.
    let mut pace = run.pace(Patience {
        stall: timeout + Duration::from_secs(600),
        ..COMMAND
    });
    let mut looks = 0;
    loop {
        let state = match ssm::invocation(run.clients, instance, id).await? {
            Some(Invocation {
                verdict: Verdict::Underway,
                ..
            }) => "underway",
            Some(ended) => return unless_lost(run, instance, ended).await,
            None => "not visible yet",
        };
        looks += 1;
        if looks % MACHINE_EVERY == 0 {
            alive(run, instance).await?;
        }
        run.pause(&mut pace, state).await?;
    }
}

/// What a machine took with it says nothing of itself; the machine's end says why.
pub(super) async fn unless_lost(
    run: &Run<'_>,
    instance: &str,
    ended: Invocation,
) -> Result<Invocation, Failure> {
    if !matches!(ended.verdict, Verdict::Success | Verdict::Failed(_)) {
        alive(run, instance).await?;
    }
    Ok(ended)
}

/// Fails if the machine is ending or gone: its commands would seem to run for hours.
pub(super) async fn alive(run: &Run<'_>, instance: &str) -> Result<(), Failure> {
    match machine::look(run.clients, instance).await? {
        Some(found) if found.is_lost() || found.state.starts_with("stop") => {
            Err(found.lost(instance))
        }
        _ => Ok(()),
    }
}

/// What was installed since the bundle came. A machine that cannot tell does not fail the bake; its image is only not watched.
pub async fn packages(
    run: &mut Run<'_>,
    instance: &str,
    bundle: &Bundle,
) -> Result<Option<Part>, Failure> {
    let ended = finish(run, instance, &bundle.packages(), "note the packages").await?;
    let printed = match ended.verdict {
        Verdict::Success => ended.stdout.as_str(),
        _ => "",
    };
    Ok(installed(run, printed))
}

/// Reads what a machine printed of its packages, as [`packages`] does.
pub fn installed(run: &mut Run<'_>, printed: &str) -> Option<Part> {
    let part = unpack(printed).and_then(|text| packages::read(&text));
    if part.is_none() {
        run.emit(Event::Note {
            text: "the packages could not be noted: `rebake --stale` will not know when they move"
                .to_owned(),
        });
    }
    part
}

/// Reads a text of a machine, in as many pieces as it takes: a command's output has a limit (`GetCommandInvocation`,
/// `StandardOutputContent`: 24,000 characters).
pub async fn read_text(
    run: &mut Run<'_>,
    instance: &str,
    path: &str,
) -> Result<Option<String>, Failure> {
    const PIECE: usize = 20_000;
    let mut packed = String::new();
    loop {
        let from = packed.len() + 1;
        let script =
            format!("set -e\ngzip -9nc {path} | base64 -w 0 | tail -c +{from} | head -c {PIECE}");
        let ended = command(run, instance, "read what was installed", &script).await?;
        let piece = ended.stdout.trim();
        packed.push_str(piece);
        if piece.len() < PIECE {
            return Ok(unpack(&packed));
        }
    }
}

/// Base64 of gzip of a text.
fn unpack(printed: &str) -> Option<String> {
    use base64::Engine as _;
    let packed = base64::engine::general_purpose::STANDARD
        .decode(printed.trim())
        .ok()?;
    let mut text = String::new();
    std::io::Read::read_to_string(
        &mut flate2::read::GzDecoder::new(packed.as_slice()),
        &mut text,
    )
    .ok()?;
    Some(text)
}

/// Cleans the machine, and asserts that it is clean; gives what it printed of the packages, for [`installed`].
pub async fn seal(run: &mut Run<'_>, instance: &str, bundle: &Bundle) -> Result<String, Failure> {
    const WHAT: &str = "seal the machine";
    let timeout = SHORT * 3;
    let id = begin_once(run, SEALING, instance, &bundle.seal(), timeout, WHAT).await?;
    let ended = end(run, instance, &id, timeout).await?;
    let (packages, remains) = ended.stdout.split_once('\n').unwrap_or_default();
    match ended.verdict {
        Verdict::Success => Ok(packages.to_owned()),
        Verdict::Failed(1) if !remains.trim().is_empty() => {
            let paths: BTreeSet<&str> = remains.lines().collect();
            let own = &run.plan.sealed;
            Err(Failure::NotSealed {
                place: "builder",
                remains: paths
                    .into_iter()
                    .map(|path| leaks::explain(path, own))
                    .collect(),
            })
        }
        verdict => Err(Failure::Command {
            what: WHAT,
            instance: instance.to_owned(),
            verdict,
            said: ended.stderr,
        }),
    }
}
