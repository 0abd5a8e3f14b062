//! What runs on machines: the lists of the bundle are run and followed, the machine is sealed.
//!
//! SSM gives a command's output only when the command has ended. So the runner is one long command that writes a log,
//! and short `follow` commands read it: each waits on the machine until the log has grown and prints what is new.
//! A line is seen one such round trip after it was written: on AWS one to three seconds, locally a fraction of that.

use std::collections::BTreeSet;
use std::time::Duration;

use super::super::bundle::Bundle;
use super::super::error::Failure;
use super::super::event::{Event, List};
use super::super::follow::{self, Cutter, Piece};
use super::super::machine;
use super::super::packages::{self, Part};
use super::super::run::Run;
use super::layer;
use crate::aws::ssm::{self, Invocation, Verdict};
use crate::aws::wait::Patience;
use crate::aws::{Error, Kind};
use crate::image::leaks;
use crate::render::script::Script;

/// Time-out of our own short commands.
pub(super) const SHORT: Duration = Duration::from_secs(300);
/// How long one `follow` waits on the machine for new output, in seconds.
const FOLLOW_WAIT: u32 = 20;
/// Every so many looks the runner itself is asked, not only its log.
const RUNNER_EVERY: u32 = 4;
/// Every so many looks the machine is asked whether it still lives.
const MACHINE_EVERY: u32 = 16;
/// More reads than this without an end to the log: somebody else keeps writing it.
const DRAIN_READS: u32 = 10_000;

const COMMAND: Patience = Patience {
    what: "a command to end",
    stall: Duration::from_secs(900),
    first: Duration::from_millis(30),
    longest: Duration::from_secs(2),
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
async fn finish(
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

/// Sends a command.
pub(super) async fn begin(
    run: &Run<'_>,
    instance: &str,
    script: &str,
    timeout: Duration,
    comment: &str,
) -> Result<String, Failure> {
    run.check()?;
    let comment = format!("piaas-bake: {comment}");
    Ok(ssm::send(run.clients, instance, script, timeout, &comment).await?)
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
async fn unless_lost(
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
async fn alive(run: &Run<'_>, instance: &str) -> Result<(), Failure> {
    match machine::look(run.clients, instance).await? {
        Some(found) if found.is_lost() || found.state.starts_with("stop") => {
            Err(found.lost(instance))
        }
        _ => Ok(()),
    }
}

/// Notes on the machine which packages are there before the first step.
pub async fn note_packages(
    run: &mut Run<'_>,
    instance: &str,
    bundle: &Bundle,
) -> Result<(), Failure> {
    command(
        run,
        instance,
        "note the packages",
        &bundle.packages_before(),
    )
    .await?;
    Ok(())
}

/// What was installed since. A machine that cannot tell does not fail the bake; its image is only not watched.
pub async fn packages(
    run: &mut Run<'_>,
    instance: &str,
    bundle: &Bundle,
) -> Result<Option<Part>, Failure> {
    let ended = finish(run, instance, &bundle.packages(), "note the packages").await?;
    let part = match ended.verdict {
        Verdict::Success => unpack(&ended.stdout).and_then(|text| packages::read(&text)),
        _ => None,
    };
    if part.is_none() {
        run.emit(Event::Note {
            text: "the packages could not be noted: `rebake --stale` will not know when they move"
                .to_owned(),
        });
    }
    Ok(part)
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

/// Cleans the machine, then asserts that it is clean.
pub async fn seal(run: &mut Run<'_>, instance: &str, bundle: &Bundle) -> Result<(), Failure> {
    command(run, instance, "seal the machine", &bundle.seal()).await?;
    let ended = finish(
        run,
        instance,
        &Bundle::assert_sealed(),
        "assert that the machine is sealed",
    )
    .await?;
    match ended.verdict {
        Verdict::Success => Ok(()),
        Verdict::Failed(1) if !ended.stdout.trim().is_empty() => {
            let paths: BTreeSet<&str> = ended.stdout.lines().collect();
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
            what: "assert that the machine is sealed",
            instance: instance.to_owned(),
            verdict,
            said: ended.stderr,
        }),
    }
}

/// Runs a list of the bundle and tells its output as it comes.
pub async fn execute(
    run: &mut Run<'_>,
    instance: &str,
    bundle: &Bundle,
    list: List,
) -> Result<(), Failure> {
    if bundle.scripts(list).is_empty() {
        return Ok(());
    }
    let mut follower = Follower::new(instance, bundle, list);
    go_on(run, &mut follower, &bundle.run(list)).await?;
    Ok(())
}

/// Runs the steps, and keeps layers of them: the one under way each time that so much work has been done.
pub async fn provision(
    run: &mut Run<'_>,
    instance: &str,
    bundle: &Bundle,
    patience: Duration,
) -> Result<(), Failure> {
    let list = List::Steps;
    let mut follower = Follower::new(instance, bundle, list);
    let done = bundle.scripts(list).len();
    let mut next = 0;
    while next < done {
        let command = bundle.run_for(list, patience);
        let Some(number) = go_on(run, &mut follower, &command).await? else {
            break;
        };
        next = usize::try_from(number).unwrap_or(done);
        layer::keep(run, instance, bundle, next).await?;
    }
    Ok(())
}

/// Runs a list up to its end or, if the command says so, to a pause: then the number of the last script that has run.
async fn go_on(
    run: &mut Run<'_>,
    follower: &mut Follower<'_>,
    command: &str,
) -> Result<Option<u32>, Failure> {
    let Follower {
        instance,
        bundle,
        list,
        ..
    } = *follower;
    run.check()?;
    run.tail.clear();
    // One that is still under way reads what has been read since.
    follower.command = None;
    let longest = bundle.longest(list);
    let comment = format!("piaas-bake: {} of {}", list.as_str(), run.plan.image_name);
    let runner = ssm::send(run.clients, instance, command, longest, &comment).await?;
    // SSM itself ends the runner at its time-out; a reboot and its delivery come on top.
    let mut pace = run.pace(Patience {
        what: "the scripts to end",
        stall: longest + Duration::from_secs(900),
        first: Duration::from_millis(50),
        longest: Duration::from_secs(1),
    });
    let mut looks: u32 = 0;
    let ended = loop {
        if follower.look(run).await? {
            pace.quicken();
        }
        if follower.ended || looks.is_multiple_of(RUNNER_EVERY) {
            match ssm::invocation(run.clients, instance, &runner).await? {
                Some(Invocation {
                    verdict: Verdict::Underway,
                    ..
                })
                | None => {}
                Some(ended) => break ended,
            }
        }
        looks += 1;
        if looks.is_multiple_of(MACHINE_EVERY) {
            alive(run, instance).await?;
        }
        let state = follower.offset.to_string();
        run.pause(&mut pace, &state).await?;
    };
    let ended = unless_lost(run, instance, ended).await?;
    // A machine that could not end its runner will not read its log either.
    if matches!(ended.verdict, Verdict::Success | Verdict::Failed(_)) {
        follower.drain(run).await?;
    }
    let paused = match follow::result(&ended.stdout) {
        Some(follow::Result::Paused { number }) => Some(number),
        _ => None,
    };
    verdict(instance, bundle.scripts(list), bundle.offset(list), ended)?;
    Ok(paused)
}

/// What the end of a runner means. Its own last line says which script failed; the log is for people.
fn verdict(
    instance: &str,
    scripts: &[Script],
    offset: u32,
    ended: Invocation,
) -> Result<(), Failure> {
    let failed = match (&ended.verdict, follow::result(&ended.stdout)) {
        (Verdict::Success, _) => return Ok(()),
        (
            _,
            Some(follow::Result::Failed {
                number,
                exit_code,
                attempts,
            }),
        ) => nth(scripts, offset, number).map(|script| (script, exit_code, attempts)),
        _ => None,
    };
    Err(match failed {
        Some((script, exit_code, attempts)) => Failure::Script {
            title: script.title.clone(),
            id: script.id.clone(),
            exit_code,
            attempts,
            limit: script.timeout,
        },
        None => Failure::Command {
            what: "run the scripts",
            instance: instance.to_owned(),
            verdict: ended.verdict,
            said: if ended.stderr.trim().is_empty() {
                ended.stdout
            } else {
                ended.stderr
            },
        },
    })
}

/// The script with this number in the bundle.
fn nth(scripts: &[Script], offset: u32, number: u32) -> Option<&Script> {
    let index = number.checked_sub(offset)?.checked_sub(1)?;
    scripts.get(usize::try_from(index).ok()?)
}

/// Reads the log of a list while it grows.
struct Follower<'a> {
    instance: &'a str,
    bundle: &'a Bundle,
    list: List,
    cutter: Cutter,
    /// Bytes of the log that have been read.
    offset: u64,
    /// The `follow` command under way.
    command: Option<String>,
    /// The machine said that the log is complete.
    ended: bool,
    /// It said that the log does not grow at the moment: nothing waits there for that.
    paused: bool,
}

impl<'a> Follower<'a> {
    fn new(instance: &'a str, bundle: &'a Bundle, list: List) -> Self {
        Self {
            instance,
            bundle,
            list,
            cutter: Cutter::default(),
            offset: 0,
            command: None,
            ended: false,
            paused: false,
        }
    }

    /// One look; true if there was something new. A `follow` that fails (a reboot under it) is simply sent again.
    async fn look(&mut self, run: &mut Run<'_>) -> Result<bool, Failure> {
        let Some(id) = self.command.clone() else {
            self.command = self.send(run, FOLLOW_WAIT).await?;
            return Ok(false);
        };
        match ssm::invocation(run.clients, self.instance, &id).await? {
            Some(Invocation {
                verdict: Verdict::Underway,
                ..
            })
            | None => Ok(false),
            Some(ended) => {
                self.command = None;
                let before = self.offset;
                self.take(run, &ended)?;
                if !self.ended && !self.paused {
                    self.command = self.send(run, FOLLOW_WAIT).await?;
                }
                Ok(self.offset > before)
            }
        }
    }

    /// `None` while the machine has no agent, as during a reboot.
    async fn send(&self, run: &Run<'_>, wait: u32) -> Result<Option<String>, Error> {
        let script = self.bundle.follow(self.list, self.offset, wait);
        match ssm::send(
            run.clients,
            self.instance,
            &script,
            SHORT,
            "piaas-bake: follow",
        )
        .await
        {
            Ok(id) => Ok(Some(id)),
            Err(error) if error.kind == Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Takes what a `follow` printed; gives the size of the log as the machine saw it.
    fn take(&mut self, run: &mut Run<'_>, ended: &Invocation) -> Result<Option<u64>, Failure> {
        let Some(answer) = follow::answer(&ended.stdout) else {
            return Ok(None);
        };
        self.offset += answer.bytes.len() as u64;
        self.ended = answer.ended && self.offset >= answer.size;
        self.paused = answer.paused;
        for piece in self.cutter.push(&answer.bytes) {
            self.tell(run, piece)?;
        }
        Ok(Some(answer.size))
    }

    /// Reads what is left of a log whose runner has ended.
    async fn drain(&mut self, run: &mut Run<'_>) -> Result<(), Failure> {
        for _ in 0..DRAIN_READS {
            if self.ended {
                break;
            }
            let script = self.bundle.follow(self.list, self.offset, 0);
            let answer = finish(run, self.instance, &script, "read the rest of the log").await?;
            match self.take(run, &answer)? {
                Some(size) if self.offset < size => {}
                _ => break,
            }
        }
        if let Some(piece) = self.cutter.finish() {
            self.tell(run, piece)?;
        }
        Ok(())
    }

    fn tell(&self, run: &mut Run<'_>, piece: Piece) -> Result<(), Failure> {
        let list = self.list;
        let scripts = self.bundle.scripts(list);
        let offset = self.bundle.offset(list);
        let total = u32::try_from(scripts.len()).unwrap_or(u32::MAX);
        let title = |number| {
            nth(scripts, offset, number).map_or_else(String::new, |script| script.title.clone())
        };
        let here = |number: u32| number.saturating_sub(offset);
        match piece {
            Piece::Line(line) => {
                run.write_log(&line)?;
                run.tail.push(&line);
                run.emit(Event::Output { line });
            }
            Piece::Begin { number, attempt } => {
                let title = title(number);
                run.write_log(&format!(
                    "== {} {}/{total}: {title} (attempt {attempt})",
                    list.as_str(),
                    here(number)
                ))?;
                run.tail.clear();
                run.emit(Event::StepStarted {
                    list,
                    number: here(number),
                    total,
                    title,
                    attempt,
                });
            }
            Piece::Skip { number } => {
                run.emit(Event::StepSkipped {
                    list,
                    number: here(number),
                    title: title(number),
                });
            }
            Piece::Retry { number, exit_code } => {
                run.write_log(&format!("== exit code {exit_code}, once more"))?;
                run.emit(Event::StepRetried {
                    list,
                    number: here(number),
                    title: title(number),
                    exit_code,
                });
            }
            Piece::End {
                number,
                exit_code,
                seconds,
            } => {
                run.write_log(&format!("== exit code {exit_code} after {seconds} s"))?;
                let title = title(number);
                run.emit(Event::StepFinished {
                    list,
                    number: here(number),
                    title,
                    exit_code,
                    seconds,
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::plan::Survey;
    use super::super::super::plan::tests::{bake, target};
    use super::*;

    fn ended(verdict: Verdict, stdout: &str) -> Invocation {
        Invocation {
            verdict,
            stdout: stdout.into(),
            stderr: String::new(),
        }
    }

    #[test]
    fn the_failed_script_is_named_by_its_number_in_the_bundle() {
        let plan = bake(&target(), &Survey::default());
        let judge = |ended| super::verdict("i-1", &plan.validate, 3, ended);
        assert!(judge(ended(Verdict::Success, "ok 3\n")).is_ok());
        let failure = judge(ended(Verdict::Failed(1), "failed 005 7 1\n")).unwrap_err();
        assert!(
            matches!(failure, Failure::Script { ref id, exit_code: 7, .. } if id == "ci-base/validate-001-a")
        );
        let failure = judge(ended(Verdict::Failed(1), "failed 002 7 1\n")).unwrap_err();
        assert!(matches!(failure, Failure::Command { .. }), "{failure}");
        let failure = judge(ended(Verdict::ExecutionTimedOut, "")).unwrap_err();
        assert_eq!(
            failure.to_string(),
            "cannot run the scripts on i-1: the command ran into its time-out"
        );
    }
}
