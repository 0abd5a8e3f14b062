//! The lists of the bundle are run on machines, and followed.
//!
//! SSM gives a command's output only when the command has ended. So the runner is one long command that writes a log,
//! and short `follow` commands read it: each waits on the machine until the log has grown and prints what is new.
//! A line is seen one such round trip after it was written: on AWS one to three seconds, locally a fraction of that.

use std::time::Duration;

use super::super::bundle::Bundle;
use super::super::checkpoint::{LAYER, command_of};
use super::super::error::Failure;
use super::super::event::{Event, List};
use super::super::follow::{self, Cutter, Piece};
use super::super::run::Run;
use super::commands::{COMMAND, MACHINE_EVERY, SHORT, alive, begin_once, finish, unless_lost};
use super::layer;
use crate::aws::ssm::{self, Invocation, Verdict};
use crate::aws::wait::Patience;
use crate::aws::{Error, Kind};
use crate::render::script::Script;

/// How long one `follow` waits on the machine for new output, in seconds.
const FOLLOW_WAIT: u32 = 20;
/// Every so many looks the runner itself is asked, not only its log.
const RUNNER_EVERY: u32 = 4;
/// Looks at a `follow` that should end: over half a second.
const LAST_LOOKS: u32 = 15;
/// More reads than this without an end to the log: somebody else keeps writing it.
const DRAIN_READS: u32 = 10_000;

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
        // A process of this run that has died may have let the machine go on since.
        let kept = run.passed(LAYER).and_then(|last| last.parse().ok());
        if kept.is_none_or(|last: usize| last < next) {
            layer::keep(run, instance, bundle, next).await?;
            run.pass(LAYER, &next.to_string())?;
        }
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
    let comment = format!("{} of {}", list.as_str(), run.plan.image_name);
    let name = command_of(list);
    let runner = begin_once(run, name, instance, command, longest, &comment).await?;
    // SSM itself ends the runner at its time-out; a reboot and its delivery come on top.
    let mut pace = run.pace(Patience {
        what: "the scripts to end",
        stall: longest + Duration::from_secs(900),
        first: Duration::from_millis(30),
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
            if let Some(id) = self.command.take() {
                self.last_look(run, &id).await?;
                continue;
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

    /// Takes what a `follow` under way tells of a log whose runner has ended: there is nothing left for it to wait for. It
    /// may have looked before the last of it was written, and one that a reboot has caught never ends.
    async fn last_look(&mut self, run: &mut Run<'_>, id: &str) -> Result<(), Failure> {
        let mut pace = run.pace(COMMAND);
        for _ in 0..LAST_LOOKS {
            match ssm::invocation(run.clients, self.instance, id).await? {
                Some(Invocation {
                    verdict: Verdict::Underway,
                    ..
                })
                | None => run.pause(&mut pace, "underway").await?,
                Some(ended) => {
                    self.take(run, &ended)?;
                    break;
                }
            }
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
