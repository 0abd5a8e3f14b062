//! The canary: one instance of the new version outside the group. Pure.
//!
//! It may take a job as any worker does, so it is not terminated before its worker says that it is drained. A worker
//! that has answered before and then falls silent may hold a job: such a canary is left for a person. One whose worker
//! has never answered is terminated when the leak timer runs out.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::next::{LOOK, VISIBLE};
use super::record::{Errand as Asked, Heading, RollRecord, Worker};
use super::step::{Call, Note, Step};
use super::world::{CanaryMachine, Emptiness, Errand, World};

/// From its launch until its agent answers.
pub(super) const BOOT: SignedDuration = SignedDuration::from_mins(15);
/// From the sending of a command until its end; SSM's own time-outs are shorter.
const COMMAND: SignedDuration = SignedDuration::from_mins(40);
/// Between two questions whether a busy canary is drained.
const ASK: Duration = Duration::from_secs(10);
/// A worker that never answered: after this long its canary is terminated.
pub(super) const LEAK: SignedDuration = SignedDuration::from_mins(15);
/// A worker that fell silent: after this long its canary is left to a person.
pub(super) const SILENT: SignedDuration = SignedDuration::from_hours(1);

/// The canary's next step; `None` once it has passed and is gone, or is gone anyway.
pub fn next(record: &RollRecord, world: &World, now: Timestamp) -> Option<Step> {
    let canary = &record.canary;
    if canary.gone {
        return None;
    }
    let Some(id) = &canary.instance else {
        return Some(match (&world.canary, record.heading, canary.asked) {
            (Some(found), ..) => Step::note(Note::CanaryFound(found.id.clone())),
            // The same token gives the id of what was launched. Going back, nothing new is launched for nothing.
            (None, Heading::Forward, _) | (None, Heading::Back, Some(_)) => {
                Step::Act(Call::LaunchCanary)
            }
            (None, Heading::Back, None) => Step::note(Note::CanaryGone),
        });
    };
    let asked = canary.asked.unwrap_or(now);
    let Some(machine) = world.canary.as_ref().filter(|machine| machine.id == *id) else {
        if now.duration_since(asked) < VISIBLE {
            return Some(Step::wait(now, LOOK, format!("canary {id} to be visible")));
        }
        return Some(ended(record, "EC2 does not know it any more"));
    };
    match machine.state.as_str() {
        "terminated" => return Some(ended(record, &why_dead(machine))),
        "shutting-down" | "stopping" | "stopped" if canary.passed.is_none() => {
            return Some(judged(Some(why_dead(machine)), Worker::Unknown));
        }
        "shutting-down" | "stopping" => {
            return Some(Step::wait(now, LOOK, format!("canary {id} to end")));
        }
        // Nothing runs on it any more.
        "stopped" => return Some(Step::Act(Call::TerminateCanary(id.clone()))),
        _ => {}
    }
    Some(match canary.passed {
        None => check(record, world, machine, now),
        Some(_) => empty(record, world, machine, now),
    })
}

fn judged(failure: Option<String>, worker: Worker) -> Step {
    Step::note(Note::CanaryJudged { failure, worker })
}

fn why_dead(machine: &CanaryMachine) -> String {
    match machine.reason.as_str() {
        "" => format!("{} is {}", machine.id, machine.state),
        reason => format!("{} is {}: {reason}", machine.id, machine.state),
    }
}

/// It does not exist any more: a failure if it was not judged yet.
fn ended(record: &RollRecord, why: &str) -> Step {
    if record.canary.passed.is_none() {
        judged(Some(why.to_owned()), Worker::Unknown)
    } else {
        Step::note(Note::CanaryGone)
    }
}

fn check(record: &RollRecord, world: &World, machine: &CanaryMachine, now: Timestamp) -> Step {
    if record.heading == Heading::Back {
        return judged(
            Some("the roll was turned back before it was checked".into()),
            Worker::Unknown,
        );
    }
    let id = &machine.id;
    let since = record.canary.asked.unwrap_or(now);
    let Some(sent) = &record.canary.sent else {
        let state = if machine.online {
            return Step::Act(Call::CheckCanary(id.clone()));
        } else if machine.state == "running" {
            format!("canary {id} runs; its SSM agent is not online yet")
        } else {
            format!("canary {id} is {}", machine.state)
        };
        if now.duration_since(since) >= BOOT {
            return judged(
                Some(format!("{state}, {} min after its launch", BOOT.as_mins())),
                Worker::Unknown,
            );
        }
        let state = &machine.state;
        let reason = format!("the SSM agent of canary {id} to be online; the machine is {state}");
        return Step::wait(now, LOOK, reason);
    };
    match &world.errand {
        Some(Errand::Checked { failure, worker }) => judged(failure.clone(), *worker),
        _ if now.duration_since(sent.at) >= COMMAND => judged(
            Some(format!("its checks did not end on {id}")),
            Worker::Unknown,
        ),
        _ => Step::wait(now, LOOK, format!("the checks on canary {id}")),
    }
}

/// Cordon, wait until it is drained, terminate.
fn empty(record: &RollRecord, world: &World, machine: &CanaryMachine, now: Timestamp) -> Step {
    let canary = &record.canary;
    let id = machine.id.clone();
    let silent = now.duration_since(canary.leaving.unwrap_or(now));
    let doubt = |why: &str| match canary.worker {
        Worker::Absent => Some(Step::Act(Call::TerminateCanary(id.clone()))),
        Worker::Unknown if silent >= LEAK => Some(Step::Act(Call::TerminateCanary(id.clone()))),
        Worker::Present if silent >= SILENT => Some(Step::note(Note::CanaryLeft(format!(
            "its worker does not answer: {why}"
        )))),
        _ => None,
    };
    if canary.worker == Worker::Absent {
        return Step::Act(Call::TerminateCanary(id));
    }
    let sent = canary
        .sent
        .as_ref()
        .filter(|sent| sent.errand == Asked::Cordon);
    let Some(sent) = sent else {
        if machine.online {
            return Step::Act(Call::CordonCanary(id));
        }
        return doubt("its SSM agent is not online").unwrap_or_else(|| {
            Step::wait(
                now,
                LOOK,
                format!("canary {id} to answer whether a job runs on it"),
            )
        });
    };
    let age = now.duration_since(sent.at);
    let again = |answered: bool, reason: String| {
        if age >= SignedDuration::try_from(ASK).unwrap_or_default() {
            Step::note(Note::CanaryAskAgain { answered })
        } else {
            Step::wait(now, ASK, reason)
        }
    };
    match &world.errand {
        Some(Errand::Cordoned(Emptiness::Drained | Emptiness::NoWorker)) => {
            Step::Act(Call::TerminateCanary(id))
        }
        Some(Errand::Cordoned(Emptiness::NotYet(what))) => {
            again(true, format!("canary {id} to finish: {what}"))
        }
        Some(Errand::Cordoned(Emptiness::Unknown(why))) => doubt(why).unwrap_or_else(|| {
            again(
                false,
                format!("canary {id} to answer whether a job runs: {why}"),
            )
        }),
        _ if age >= COMMAND => Step::note(Note::CanaryAskAgain { answered: false }),
        _ => doubt("the command does not end").unwrap_or_else(|| {
            Step::wait(now, LOOK, format!("canary {id} to answer to the cordon"))
        }),
    }
}
