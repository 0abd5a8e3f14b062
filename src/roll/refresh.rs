//! The group: from any mixture of versions to one. Pure.

use jiff::{SignedDuration, Timestamp};

use super::next::{LOOK, VISIBLE};
use super::record::{Heading, RollRecord, Side};
use super::step::{Call, Note, Step};
use super::world::{Check, Group, Life, Member, Refresh, Status, World};

/// A refresh that is blocked by protected instances fails after one hour (Auto Scaling User Guide, "Instance refresh",
/// `Wait`), and with `AutoRollback` undoes what it did. Ours is cancelled before, which undoes nothing, and started
/// again: what runs the new version is skipped.
pub(super) const BLOCKED: SignedDuration = SignedDuration::from_mins(45);
/// Refreshes for one heading that may end without reaching it, busy workers aside.
pub(super) const ATTEMPTS: u32 = 4;

/// The group's next step; `None` once it is where it should be, on every instance.
pub fn next(record: &RollRecord, world: &World, now: Timestamp) -> Option<Step> {
    let (group, target) = (world.group.as_ref()?, record.target()?);
    if let Some(active) = world.active() {
        return Some(under_way(record, world, group, &target, active, now));
    }
    if let Some(found) = adopted(record, world) {
        return Some(found);
    }
    if let Err(unsettled) = settled(group, &target) {
        return Some(unfinished(record, world, group, &target, unsettled, now));
    }
    match record.heading {
        Heading::Forward => proof(record, group, now),
        Heading::Back => None,
    }
}

/// Why a group is not at a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unsettled {
    /// These run something else and must be replaced.
    Old(Vec<String>),
    /// Every instance is right; the group itself would launch something else.
    Pointer,
    /// These are right, and are not in service yet; or wrong, and on their way out.
    Moving(Vec<String>),
}

/// Whether every instance of a group runs the target's version and image, and the group launches it.
///
/// # Errors
/// What is not so.
pub fn settled(group: &Group, target: &Side) -> Result<(), Unsettled> {
    let ids = |wanted: &dyn Fn(&Member) -> bool| -> Vec<String> {
        let members = group.members.iter().filter(|member| wanted(member));
        members.map(|member| member.id.clone()).collect()
    };
    let stays = |member: &Member| member.life != Life::Terminating;
    // EC2 may not show the image of an instance that has just been launched; its version decides until then.
    let old = ids(&|member| {
        stays(member)
            && (member.version != Some(target.version)
                || member.image.as_ref().is_some_and(|id| *id != target.image))
    });
    if !old.is_empty() {
        return Err(Unsettled::Old(old));
    }
    if group.version != Some(target.version) {
        return Err(Unsettled::Pointer);
    }
    let moving = ids(&|member| {
        !stays(member) && member.version != Some(target.version)
            || stays(member) && (member.life != Life::InService || !member.is_on(target))
    });
    if moving.is_empty() {
        Ok(())
    } else {
        Err(Unsettled::Moving(moving))
    }
}

fn under_way(
    record: &RollRecord,
    world: &World,
    group: &Group,
    target: &Side,
    active: &Refresh,
    now: Timestamp,
) -> Step {
    if !record.refreshes.iter().any(|known| known.id == active.id) {
        return adopted(record, world).unwrap_or_else(|| {
            Step::wait(
                now,
                LOOK,
                format!("refresh {}, which is not of this roll, to end", active.id),
            )
        });
    }
    let wrong_way = active.version != Some(target.version);
    if record.heading == Heading::Back && wrong_way && active.status.is_forward() {
        return Step::Act(if record.irreversible {
            Call::CancelRefresh {
                id: active.id.clone(),
                busy: false,
            }
        } else {
            Call::RollbackRefresh(active.id.clone())
        });
    }
    if record.heading == Heading::Forward {
        if active.status == Status::RollbackInProgress && !is_busy(&active.reason) {
            return Step::turn_back(halted(active));
        }
        if let Some(step) = judge(record, group) {
            return step;
        }
    }
    let stand = stand(group, target, active);
    match &record.mark {
        Some(mark) if mark.stand == stand => {
            let blocked = active.status == Status::InProgress && only_busy(group, target);
            // Whether the hour counts from the start or from the last progress is not documented: the earlier is safe.
            if blocked && !wrong_way && now.duration_since(active.started) >= BLOCKED {
                return Step::Act(Call::CancelRefresh {
                    id: active.id.clone(),
                    busy: true,
                });
            }
            Step::wait(now, LOOK, waiting_for(group, target, active))
        }
        _ => Step::note(Note::Stand(stand)),
    }
}

/// A refresh that is ours although nobody wrote down its id: the reply was lost.
fn adopted(record: &RollRecord, world: &World) -> Option<Step> {
    let asked = record.asked.as_ref()?;
    let newer = world
        .refreshes
        .iter()
        .take_while(|refresh| Some(&refresh.id) != asked.after.as_ref());
    let found = newer
        .filter(|refresh| refresh.version == Some(asked.version))
        .find(|refresh| !record.refreshes.iter().any(|one| one.id == refresh.id))?;
    Some(Step::note(Note::RefreshFound {
        id: found.id.clone(),
        version: asked.version,
    }))
}

/// No refresh is under way, and the group is not where it should be.
fn unfinished(
    record: &RollRecord,
    world: &World,
    group: &Group,
    target: &Side,
    unsettled: Unsettled,
    now: Timestamp,
) -> Step {
    let last = record
        .refreshes
        .iter()
        .rev()
        .find(|known| known.version == target.version);
    let seen = last.and_then(|known| world.refreshes.iter().find(|one| one.id == known.id));
    if let (Some(known), None) = (last, seen)
        && record
            .refreshes
            .last()
            .is_some_and(|newest| newest.id == known.id)
    {
        return invisible(record, &known.id, now);
    }
    if let (Some(known), Some(seen)) = (last, seen)
        && let Some(step) = after(record, group, target, known, seen)
    {
        return step;
    }
    match unsettled {
        Unsettled::Old(_) if record.attempts < ATTEMPTS => {
            Step::Act(Call::StartRefresh(target.clone()))
        }
        Unsettled::Old(old) => fail(
            record,
            format!(
                "{} refreshes ended, and {} still do not run version {}",
                record.attempts,
                old.join(", "),
                target.version
            ),
        ),
        Unsettled::Pointer => Step::Act(Call::PointGroup(target.clone())),
        Unsettled::Moving(ids) => {
            if record.heading == Heading::Forward
                && let Some(step) = judge(record, group)
            {
                return step;
            }
            Step::wait(now, LOOK, format!("{} to settle", ids.join(", ")))
        }
    }
}

/// What the end of a refresh of ours means; `None`: nothing that keeps us from going on.
fn after(
    record: &RollRecord,
    group: &Group,
    target: &Side,
    known: &super::record::Refresh,
    seen: &Refresh,
) -> Option<Step> {
    if known.busy {
        return None;
    }
    let bad = || judge(record, group).filter(|_| record.heading == Heading::Forward);
    match seen.status {
        Status::Successful => bad(),
        Status::Failed | Status::RollbackSuccessful | Status::RollbackFailed => {
            if let Some(step) = bad() {
                return Some(step);
            }
            if is_busy(&seen.reason) || seen.status == Status::Failed && only_busy(group, target) {
                return Some(Step::note(Note::RefreshBusy(seen.id.clone())));
            }
            (record.heading == Heading::Forward).then(|| Step::turn_back(halted(seen)))
        }
        Status::Cancelled => (record.heading == Heading::Forward)
            .then(|| Step::turn_back(format!("somebody cancelled refresh {}", seen.id))),
        // Active ones were looked at before.
        _ => None,
    }
}

/// A refresh that was started and is not listed: listed a little later, or never.
fn invisible(record: &RollRecord, id: &str, now: Timestamp) -> Step {
    let stand = format!("refresh {id} is not listed yet");
    match &record.mark {
        Some(mark) if mark.stand == stand && now.duration_since(mark.since) >= VISIBLE => {
            Step::note(Note::RefreshLost)
        }
        Some(mark) if mark.stand == stand => Step::wait(now, LOOK, stand),
        _ => Step::note(Note::Stand(stand)),
    }
}

/// New instances that are in service are checked; one that fails turns the roll back.
fn judge(record: &RollRecord, group: &Group) -> Option<Step> {
    let new = record.new_version?;
    let fresh = || {
        group
            .members
            .iter()
            .filter(move |member| member.version == Some(new))
    };
    for member in fresh() {
        if let Check::Failed(why) = &member.check {
            return Some(Step::turn_back(format!(
                "new instance {}: {why}",
                member.id
            )));
        }
        if !member.healthy {
            return Some(Step::turn_back(format!(
                "new instance {} is unhealthy",
                member.id
            )));
        }
    }
    let unchecked: Vec<String> = fresh()
        .filter(|member| member.life == Life::InService && member.check == Check::NotYet)
        .map(|member| member.id.clone())
        .collect();
    (!unchecked.is_empty()).then_some(Step::Act(Call::CheckMembers(unchecked)))
}

/// Everything is in place: the last checks.
fn proof(record: &RollRecord, group: &Group, now: Timestamp) -> Option<Step> {
    if let Some(step) = judge(record, group) {
        return Some(step);
    }
    let checking: Vec<&str> = group
        .members
        .iter()
        .filter(|member| member.life == Life::InService && member.check == Check::Underway)
        .map(|member| member.id.as_str())
        .collect();
    (!checking.is_empty())
        .then(|| Step::wait(now, LOOK, format!("the checks on {}", checking.join(", "))))
}

fn fail(record: &RollRecord, reason: String) -> Step {
    match record.heading {
        Heading::Forward => Step::turn_back(reason),
        Heading::Back => Step::note(Note::GiveUp(reason)),
    }
}

fn halted(refresh: &Refresh) -> String {
    match refresh.reason.as_str() {
        "" => format!("refresh {} ended as {:?}", refresh.id, refresh.status),
        reason => format!("refresh {}: {reason}", refresh.id),
    }
}

/// Whether a reason speaks of scale-in protection, the one thing that is no fault of the new version.
fn is_busy(reason: &str) -> bool {
    let reason = reason.to_ascii_lowercase();
    reason.contains("protect") || reason.contains("standby")
}

/// Whether all that is left of another version is protected or in standby.
fn only_busy(group: &Group, target: &Side) -> bool {
    let mut left = group
        .members
        .iter()
        .filter(|member| member.life != Life::Terminating && !member.is_on(target))
        .peekable();
    left.peek().is_some()
        && left.all(|member| {
            member.life == Life::Standby || member.life == Life::InService && member.protected
        })
}

/// What changes when a refresh moves.
fn stand(group: &Group, target: &Side, refresh: &Refresh) -> String {
    let on = |wanted: bool| {
        let members = group.members.iter();
        members
            .filter(|member| member.life != Life::Terminating && member.is_on(target) == wanted)
            .count()
    };
    format!(
        "{} {:?} {} % {}+{}",
        refresh.id.chars().take(8).collect::<String>(),
        refresh.status,
        refresh.percent,
        on(true),
        on(false)
    )
}

fn waiting_for(group: &Group, target: &Side, refresh: &Refresh) -> String {
    let left = || {
        group
            .members
            .iter()
            .filter(|member| member.life != Life::Terminating && !member.is_on(target))
    };
    let protected = left().filter(|member| member.protected).count();
    if protected > 0 && protected == left().count() {
        let workers = if protected == 1 { "worker" } else { "workers" };
        return format!(
            "{protected} protected {workers} to be drained (busy workers are not touched)"
        );
    }
    match refresh.reason.as_str() {
        "" => format!("refresh {} at {} %", refresh.id, refresh.percent),
        reason => format!("refresh at {} %: {reason}", refresh.percent),
    }
}
