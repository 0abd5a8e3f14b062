//! What a group does next. Pure: the records and what is seen of the instances go in, actions come out.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::records::{ActionResult, Group, Lifecycle, Member, Transition};
use super::refresh;
use super::refresh::plan::Target;
use super::refresh::records::Refresh;

/// What EC2 shows of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Not running yet.
    Starting,
    Running,
    /// Stopped, or on its way out without our doing.
    Failing,
    /// Terminated.
    Gone,
}

/// Why an instance is taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// There are more than are desired.
    ScaleIn,
    /// EC2 says that it does not run.
    Failed,
    /// Somebody set its health, or its machine is gone.
    Unhealthy,
    /// A launching hook was abandoned.
    Abandoned,
    /// An instance refresh replaces it.
    Refresh,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Start this many instances.
    Launch(usize),
    /// Start this many instances in place of others that an instance refresh ends.
    Replace(usize),
    /// Hold it up: one lifecycle action for every hook of the transition.
    Hold(String, Transition),
    /// A hook's time is over: its default result takes effect.
    Expire(String, String),
    /// It goes on into the next state.
    Enter(String, Lifecycle),
    /// Take it out of service.
    Retire(String, Why),
    /// Terminate the instance.
    Terminate(String),
    /// It is gone: drop it from the group.
    Drop(String),
    /// The group has no instances left and is to go.
    Vanish,
    /// The instance refresh under way is now like this.
    Refresh(Box<Refresh>),
}

/// What to do now; empty when nothing is left to do until something is seen or time passes. `target` is what an
/// instance refresh under way brings; without one nobody asks for it.
#[must_use]
pub fn plan(
    group: &Group,
    seen: &BTreeMap<String, Seen>,
    target: Option<&Target>,
    now: Timestamp,
) -> Vec<Action> {
    let mut actions = Vec::new();
    for member in group.members.values() {
        let seen = seen.get(&member.instance_id).copied().unwrap_or(Seen::Gone);
        actions.extend(next(group, member, seen, now));
    }
    // First all members settle: capacity is judged on what they have become.
    if !actions.is_empty() {
        return actions;
    }
    if group.deleting && group.members.is_empty() {
        return vec![Action::Vanish];
    }
    if let Some(refresh) = group.refresh() {
        return refresh::plan::plan(group, refresh, seen, target, now);
    }
    let capacity = group.capacity();
    if capacity < group.desired && group.runs("Launch") {
        if group.retry_at.is_none_or(|at| at <= now) {
            actions.push(Action::Launch(group.desired - capacity));
        }
    } else if capacity > group.desired && group.runs("Terminate") {
        let victims = victims(group);
        let ids = victims.into_iter().take(capacity - group.desired);
        actions.extend(ids.map(|id| Action::Retire(id, Why::ScaleIn)));
    }
    actions
}

fn next(group: &Group, member: &Member, seen: Seen, now: Timestamp) -> Option<Action> {
    use Lifecycle as L;
    let id = || member.instance_id.clone();
    if member.lifecycle.is_pending() && matches!(seen, Seen::Failing | Seen::Gone) {
        return Some(Action::Retire(id(), Why::Failed));
    }
    match member.lifecycle {
        L::Pending => match seen {
            Seen::Running if has_hooks(group, Transition::Launching) => {
                Some(Action::Hold(id(), Transition::Launching))
            }
            Seen::Running => Some(Action::Enter(id(), L::InService)),
            Seen::Starting | Seen::Failing | Seen::Gone => None,
        },
        L::PendingWait => match verdict(member, now) {
            Verdict::Expired(hook) => Some(Action::Expire(id(), hook)),
            Verdict::Waiting => None,
            Verdict::Over(ActionResult::Continue) => Some(Action::Enter(id(), L::PendingProceed)),
            Verdict::Over(ActionResult::Abandon) => Some(Action::Retire(id(), Why::Abandoned)),
        },
        L::PendingProceed => Some(Action::Enter(id(), L::InService)),
        L::InService => {
            let down = matches!(seen, Seen::Failing | Seen::Gone) && group.runs("HealthCheck");
            // Gone is gone: a machine that is terminated is dropped even while nothing is replaced.
            let replaced = group.runs("ReplaceUnhealthy") && group.runs("Terminate");
            if (down || !member.healthy) && (replaced || seen == Seen::Gone) {
                let why = if down { Why::Failed } else { Why::Unhealthy };
                Some(Action::Retire(id(), why))
            } else {
                None
            }
        }
        L::Standby => (seen == Seen::Gone).then(|| Action::Retire(id(), Why::Failed)),
        L::Terminating if has_hooks(group, Transition::Terminating) && seen != Seen::Gone => {
            Some(Action::Hold(id(), Transition::Terminating))
        }
        L::Terminating => Some(Action::Terminate(id())),
        L::TerminatingWait => match verdict(member, now) {
            _ if seen == Seen::Gone => Some(Action::Terminate(id())),
            Verdict::Expired(hook) => Some(Action::Expire(id(), hook)),
            Verdict::Waiting => None,
            // Either result lets it go (User Guide, "Lifecycle hooks").
            Verdict::Over(_) => Some(Action::Terminate(id())),
        },
        L::TerminatingProceed => (seen == Seen::Gone).then(|| Action::Drop(id())),
    }
}

fn has_hooks(group: &Group, transition: Transition) -> bool {
    group
        .hooks
        .values()
        .any(|hook| hook.transition == transition)
}

enum Verdict {
    Waiting,
    /// The time of this hook is over.
    Expired(String),
    Over(ActionResult),
}

/// What the lifecycle actions of a member add up to: one that is abandoned ends the waiting for all.
fn verdict(member: &Member, now: Timestamp) -> Verdict {
    let abandoned = member
        .actions
        .iter()
        .any(|action| action.result == Some(ActionResult::Abandon));
    if abandoned {
        return Verdict::Over(ActionResult::Abandon);
    }
    let mut open = member
        .actions
        .iter()
        .filter(|action| action.result.is_none());
    if let Some(action) = open.clone().find(|action| action.deadline <= now) {
        return Verdict::Expired(action.hook.clone());
    }
    match open.next() {
        Some(_) => Verdict::Waiting,
        None => Verdict::Over(ActionResult::Continue),
    }
}

/// Instances that may be taken out, first those that the termination policies choose.
#[must_use]
pub fn victims(group: &Group) -> Vec<String> {
    let mut members: Vec<&Member> = group
        .members
        .values()
        .filter(|member| member.lifecycle.counts() && !member.protected)
        .collect();
    members.sort_by(|a, b| a.instance_id.cmp(&b.instance_id));
    // Sorted by the last policy first, so that the first one decides in the end; every sort keeps the order of equals.
    for policy in group.termination_policies.iter().rev() {
        match policy.as_str() {
            "NewestInstance" => members.sort_by_key(|member| std::cmp::Reverse(member.joined)),
            "OldestInstance" => members.sort_by_key(|member| member.joined),
            // Billing is by the second, and there is one kind of template: within a zone the default policy comes down
            // to the oldest version (User Guide, "Default termination policy").
            "OldestLaunchTemplate" | "Default" => members.sort_by_key(|member| {
                let version = member.template.version.parse::<u64>().unwrap_or(0);
                (member.template.id != group.template.id, version)
            }),
            // Closest to the next billing hour: with billing by the second all are alike.
            _ => {}
        }
    }
    // What does not serve yet goes before what does; then, before any policy, the zone that has the most (User Guide,
    // "Configure termination policies for Amazon EC2 Auto Scaling").
    let mut zones = group.by_zone();
    let mut victims = Vec::new();
    while !members.is_empty() {
        let rank = |member: &&Member| {
            let there = zones.get(&member.zone).copied().unwrap_or(0);
            (member.lifecycle != Lifecycle::InService, there)
        };
        let highest = members.iter().map(rank).max();
        let first = members
            .iter()
            .position(|member| Some(rank(member)) == highest);
        let member = members.remove(first.unwrap_or(0));
        if let Some(count) = zones.get_mut(&member.zone) {
            *count = count.saturating_sub(1);
        }
        victims.push(member.instance_id.clone());
    }
    victims
}
