//! What an instance refresh does next. Pure: records and what is seen of the instances go in; the refresh as it is then,
//! and the actions of the group, come out.
//!
//! One arithmetic serves every preference. The group may have `desired + surge` instances: an old one ends when enough
//! others serve, and what is missing then is launched; where nothing may end yet, the surge grows as far as the maximum
//! lets it, and shrinks with the old instances that end for it.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use super::super::plan::{Action, Seen, Why, victims};
use super::super::records::{Group, Lifecycle, Member, TemplateName};
use super::records::{OfProtected, OfStandby, Refresh, Status};

/// How long a refresh tries to go on before it fails (User Guide, "How an instance refresh works", "Limitations").
/// Whether the hour begins anew with each instance that is replaced is not documented; here it does.
const PATIENCE: SignedDuration = SignedDuration::from_hours(1);
/// How long it may replace instances in all (the same).
const LONGEST: SignedDuration = SignedDuration::from_hours(14 * 24);
/// Each of them pauses a refresh while it is suspended (User Guide, "Suspend and resume processes").
const PROCESSES: [&str; 3] = ["InstanceRefresh", "Launch", "Terminate"];

/// What instances are to be launched from: a template and the number of its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub id: String,
    pub version: String,
}

impl Target {
    fn is_of(&self, template: &TemplateName) -> bool {
        self.id == template.id && self.version == template.version
    }
}

/// Decides. `target` is the configuration that the refresh brings now: the desired one, or on the way back the
/// group's own; `None` if it does not exist.
pub fn plan(
    group: &Group,
    refresh: &Refresh,
    seen: &BTreeMap<String, Seen>,
    target: Option<&Target>,
    now: Timestamp,
) -> Vec<Action> {
    let mut turn = Turn {
        group,
        next: refresh.clone(),
        now,
        actions: Vec::new(),
    };
    let census = target.map(|target| Census::take(group, refresh, seen, target, now));
    match census {
        Some(census) => turn.go_on(&census),
        None => turn.stay("the launch template version that it launches does not exist"),
    }
    let mut actions = turn.actions;
    if turn.next != *refresh {
        // First: what the actions find out is written into it.
        actions.insert(0, Action::Refresh(Box::new(turn.next)));
    }
    actions
}

/// One old instance that may be ended.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    id: String,
    /// It serves, so that ending it costs.
    serves: bool,
    /// It runs what the refresh brings, and is replaced all the same.
    matches: bool,
    joined: Timestamp,
}

/// The instances of a group as a refresh sees them.
#[derive(Debug, Default)]
struct Census {
    /// Instances that the refresh is about: the desired capacity without those that it ignores.
    size: usize,
    /// Instances that count towards the capacity, ignored ones too.
    counted: usize,
    /// Of these, old ones, which are to be replaced, and new ones.
    old: usize,
    fresh: usize,
    /// In service, healthy, and if new, warm.
    ready: usize,
    /// New and ready.
    updated: usize,
    candidates: Vec<Candidate>,
    /// In standby, to be ended, and all that must be dealt with.
    standby_to_end: Vec<String>,
    standby: usize,
    warming: Option<String>,
    pending: Option<String>,
    protected: Option<String>,
    on_standby: Option<String>,
    ailing: Option<String>,
    /// Something is being launched or ended.
    in_flight: bool,
}

impl Census {
    fn take(
        group: &Group,
        refresh: &Refresh,
        seen: &BTreeMap<String, Seen>,
        target: &Target,
        now: Timestamp,
    ) -> Self {
        let mut census = Self::default();
        let mut ignored = 0;
        for member in group.members.values() {
            let id = &member.instance_id;
            census.in_flight |= member.lifecycle.is_pending() || member.lifecycle.is_terminating();
            if member.lifecycle.is_terminating() {
                continue;
            }
            let old = is_old(refresh, member, target);
            let is_protected = old && member.protected;
            let waits = is_protected && refresh.preferences.protected == OfProtected::Wait;
            let mut is_ignored =
                is_protected && refresh.preferences.protected == OfProtected::Ignore;
            if waits {
                census.protected.get_or_insert_with(|| id.clone());
            }
            if member.lifecycle == Lifecycle::Standby {
                is_ignored |= refresh.preferences.standby == OfStandby::Ignore;
                if old && !is_ignored {
                    census.standby += 1;
                    match refresh.preferences.standby {
                        OfStandby::Terminate if !waits => {
                            census.standby_to_end.push(id.clone());
                        }
                        _ => {
                            census.on_standby.get_or_insert_with(|| id.clone());
                        }
                    }
                }
                continue;
            }
            census.counted += 1;
            let running = seen.get(id) == Some(&Seen::Running);
            let serves = member.lifecycle == Lifecycle::InService && member.healthy && running;
            if is_ignored {
                ignored += 1;
                census.ready += usize::from(serves);
            } else if old {
                census.old += 1;
                census.ready += usize::from(serves);
                // On the way back nobody waits for a new instance to come into service only to end it.
                let may_end = member.lifecycle == Lifecycle::InService
                    || refresh.status == Status::RollbackInProgress;
                if !may_end {
                    census.pending.get_or_insert_with(|| id.clone());
                } else if !waits {
                    census.candidates.push(Candidate {
                        id: id.clone(),
                        serves,
                        matches: target.is_of(&member.template),
                        joined: member.joined,
                    });
                }
            } else {
                census.fresh += 1;
                // What was there before has served all along; the warm-up is for what came since.
                let warm = refresh.original.contains(id)
                    || member
                        .in_service
                        .is_some_and(|since| refresh.is_warm(since, now));
                if serves && warm {
                    census.ready += 1;
                    census.updated += 1;
                } else if serves {
                    census.warming.get_or_insert_with(|| id.clone());
                } else if member.lifecycle.is_pending() {
                    census.pending.get_or_insert_with(|| id.clone());
                } else {
                    census.ailing.get_or_insert_with(|| id.clone());
                }
            }
        }
        // What costs nothing first, then what does not match, then the oldest ("Add checkpoints": old instances are
        // replaced before new ones).
        census
            .candidates
            .sort_by_key(|one| (one.serves, one.matches, one.joined, one.id.clone()));
        census.size = group.desired.saturating_sub(ignored);
        census
    }

    /// Nothing is left to replace.
    fn is_clear(&self) -> bool {
        self.old == 0 && self.standby == 0
    }

    /// How many are as they should be, as far as they count.
    fn done(&self) -> usize {
        self.updated.min(self.size)
    }

    /// The share of the group that is updated. Whether skipped instances count is not documented; here they do, since
    /// checkpoints are percentages of the group ("Add checkpoints").
    fn percent(&self) -> usize {
        (self.done() * 100).checked_div(self.size).unwrap_or(100)
    }
}

/// Whether a refresh must replace an instance.
fn is_old(refresh: &Refresh, member: &Member, target: &Target) -> bool {
    let differs = !target.is_of(&member.template);
    let was_there = refresh.original.contains(&member.instance_id);
    if refresh.status == Status::RollbackInProgress {
        // "Replaces any instances that were replaced", and no others (`RollbackInstanceRefresh`).
        differs && !was_there
    } else {
        differs || was_there && !refresh.preferences.skip_matching
    }
}

/// One decision in the making.
struct Turn<'a> {
    group: &'a Group,
    next: Refresh,
    now: Timestamp,
    actions: Vec<Action>,
}

impl Turn<'_> {
    fn go_on(&mut self, census: &Census) {
        match self.next.status {
            Status::Pending => {
                if self.suspended().is_some() {
                    self.hold(census);
                    return;
                }
                self.next.status = Status::InProgress;
                self.next.started = Some(self.now);
                self.next.reached_of = census.size;
                if census.is_clear() {
                    // Nothing differs: it succeeds immediately ("Use an instance refresh with skip matching").
                    self.succeed();
                } else {
                    self.replace(census);
                }
            }
            Status::InProgress | Status::RollbackInProgress => self.replace(census),
            Status::Baking => self.bake(census),
            Status::Cancelling => {
                if census.in_flight {
                    self.hold(census);
                } else {
                    let reason = "Cancelled due to user request.".to_owned();
                    self.next.end(Status::Cancelled, Some(reason), self.now);
                }
            }
            Status::Successful
            | Status::Failed
            | Status::Cancelled
            | Status::RollbackFailed
            | Status::RollbackSuccessful => {}
        }
    }

    /// Nothing can be decided.
    fn stay(&mut self, why: &str) {
        if self.next.status == Status::Cancelling {
            let reason = "Cancelled due to user request.".to_owned();
            self.next.end(Status::Cancelled, Some(reason), self.now);
            return;
        }
        self.next.blocked.get_or_insert(self.now);
        self.next.reason = Some(format!("{WAITING} {why}."));
        if self.is_out_of_time() {
            return;
        }
        self.keep_capacity(self.next.surge, self.group.capacity(), &BTreeSet::new());
    }

    fn suspended(&self) -> Option<&'static str> {
        PROCESSES
            .into_iter()
            .find(|process| !self.group.runs(process))
    }

    fn replace(&mut self, census: &Census) {
        self.measure(census);
        if self.is_finished(census) {
            match self.next.status {
                Status::RollbackInProgress => {
                    self.next.end(Status::RollbackSuccessful, None, self.now);
                }
                _ if self.next.preferences.bake > 0 => {
                    self.next.status = Status::Baking;
                    self.next.pause =
                        Some(self.now + SignedDuration::from_secs(self.next.preferences.bake));
                    self.next.reason = None;
                    self.next.blocked = None;
                    self.hold(census);
                }
                _ => self.succeed(),
            }
            return;
        }
        if let Some(process) = self.suspended() {
            // Whether the hour goes on meanwhile is not documented; somebody wants it to wait, so it does not.
            self.next.blocked = None;
            self.next.reason = Some(format!(
                "The instance refresh is paused: the process {process} is suspended."
            ));
            self.hold(census);
            return;
        }
        let limit = self.checkpoints(census);
        let ended = self.end_old(census, limit);
        let launched = self.launch(census, limit, &ended);
        let standby = &census.standby_to_end;
        let retire = |id: &String| Action::Retire(id.clone(), Why::Refresh);
        self.actions.extend(standby.iter().map(retire));
        let moves = !ended.is_empty()
            || launched > 0
            || !standby.is_empty()
            || census.pending.is_some()
            || census.warming.is_some()
            || self.next.pause.is_some();
        if moves {
            self.next.blocked = None;
        } else {
            self.next.blocked.get_or_insert(self.now);
        }
        self.next.reason = self.reason(census);
        if self.is_out_of_time() {
            self.actions.clear();
        }
    }

    /// How far it is.
    fn measure(&mut self, census: &Census) {
        let total = census.size + census.standby;
        if let Some(rollback) = &self.next.rollback {
            // Back to zero, by what is still deployed (`PercentageComplete`, `InstancesToUpdate`).
            let left = (census.old + census.standby).min(total);
            let percent = (left * 100).checked_div(total).unwrap_or(0);
            self.next.percent = percent.min(rollback.percent);
            self.next.remaining = total - left;
        } else {
            let done = census.done();
            self.next.percent = (done * 100).checked_div(total).unwrap_or(100);
            self.next.remaining = total - done;
        }
        if census.updated > self.next.updated {
            self.next.failing = None;
        }
        self.next.updated = census.updated;
    }

    fn is_finished(&self, census: &Census) -> bool {
        let last = self.next.preferences.checkpoints.last();
        match last.filter(|last| **last < 100) {
            // Only a part of the group was asked for ("To partially refresh the Auto Scaling group").
            Some(last) if self.next.rollback.is_none() && !census.is_clear() => {
                census.percent() >= *last && self.next.surge == 0
            }
            _ => census.is_clear() && census.updated >= census.size,
        }
    }

    fn succeed(&mut self) {
        (self.next.percent, self.next.remaining) = (100, 0);
        self.next.end(Status::Successful, None, self.now);
    }

    fn bake(&mut self, census: &Census) {
        self.measure(census);
        let over = self.next.pause.is_none_or(|until| until <= self.now);
        // An instance that ails meanwhile is replaced first.
        if over && self.is_finished(census) {
            self.succeed();
        } else if !self.is_out_of_time() {
            self.hold(census);
        }
    }

    /// Passes the checkpoints that are reached; gives how many new instances there may be now.
    fn checkpoints(&mut self, census: &Census) -> usize {
        let next = &mut self.next;
        if next.rollback.is_some() {
            return census.size;
        }
        let (percent, points) = (census.percent(), &next.preferences.checkpoints);
        let last = points.last().copied();
        let newest = |reached: usize| points.iter().copied().rfind(|point| *point <= reached);
        if census.size > next.reached_of {
            // The group has grown: a checkpoint can be reached again.
            next.reached = newest(percent).unwrap_or(0);
            next.reached_of = census.size;
        }
        if next.pause.is_some_and(|until| until <= self.now) {
            next.pause = None;
        }
        // The last one ends the refresh, without a delay.
        let reached = newest(percent).filter(|point| *point > next.reached && Some(*point) < last);
        if let Some(point) = reached {
            next.reached = point;
            next.reached_of = census.size;
            let until = self.now + SignedDuration::from_secs(next.preferences.checkpoint_delay);
            next.pause = Some(until).filter(|until| *until > self.now);
        }
        let points = &next.preferences.checkpoints;
        let limit = if next.pause.is_some() {
            next.reached
        } else {
            let mut points = points.iter().copied();
            points.find(|point| *point > next.reached).unwrap_or(100)
        };
        (census.size * limit).div_ceil(100)
    }

    /// Ends old instances: as many as the minimum spares and the checkpoint has room for.
    fn end_old(&mut self, census: &Census, limit: usize) -> BTreeSet<String> {
        let (least, _) = self.next.preferences.bounds(self.group.desired);
        let mut budget = census.ready.saturating_sub(least);
        let room = census.old.saturating_sub(census.size.saturating_sub(limit));
        let mut ended = BTreeSet::new();
        for candidate in &census.candidates {
            if ended.len() == room || candidate.serves && budget == 0 {
                break;
            }
            budget -= usize::from(candidate.serves);
            ended.insert(candidate.id.clone());
        }
        let retire = |id: &String| Action::Retire(id.clone(), Why::Refresh);
        self.actions.extend(ended.iter().map(retire));
        self.next.surge = self.next.surge.saturating_sub(ended.len());
        ended
    }

    /// Launches what is missing, and more where old instances wait for successors; gives how many.
    ///
    /// The bounds are percentages of the desired capacity: nothing in the documentation holds a refresh to the group's
    /// maximum size, and a group whose desired capacity is its maximum could not be refreshed without a gap otherwise.
    fn launch(&mut self, census: &Census, limit: usize, ended: &BTreeSet<String>) -> usize {
        let (_, most) = self.next.preferences.bounds(self.group.desired);
        let counted = census.counted - ended.len();
        let missing = self.group.desired.saturating_sub(counted);
        let above = most.saturating_sub(self.group.desired);
        let wanted = above
            .min(census.candidates.len() - ended.len())
            .min(limit.saturating_sub(census.fresh + missing));
        let old = census.old - ended.len();
        self.next.surge = self.next.surge.max(wanted).min(above).min(old);
        self.keep_capacity(self.next.surge, counted, ended)
    }

    /// Changes nothing but what everybody else asks of the group.
    fn hold(&mut self, census: &Census) {
        let (_, most) = self.next.preferences.bounds(self.group.desired);
        let above = most.saturating_sub(self.group.desired);
        self.next.surge = self.next.surge.min(above).min(census.old);
        self.keep_capacity(self.next.surge, census.counted, &BTreeSet::new());
    }

    /// The group has its desired capacity and the surge; gives how many are launched.
    fn keep_capacity(&mut self, surge: usize, counted: usize, ended: &BTreeSet<String>) -> usize {
        let wanted = self.group.desired + surge;
        if counted < wanted && self.group.runs("Launch") {
            if self.group.retry_at.is_some_and(|at| at > self.now) {
                return 0;
            }
            let count = wanted - counted;
            self.actions.push(if self.group.reason.is_some() {
                Action::Launch(count)
            } else {
                Action::Replace(count)
            });
            return count;
        }
        if counted > wanted && self.group.runs("Terminate") {
            let ids = victims(self.group)
                .into_iter()
                .filter(|id| !ended.contains(id));
            let surplus = ids.take(counted - wanted);
            self.actions
                .extend(surplus.map(|id| Action::Retire(id, Why::ScaleIn)));
        }
        0
    }

    /// Ends it if it has tried for long enough.
    fn is_out_of_time(&mut self) -> bool {
        let lasts = |since: Timestamp, longest| self.now.duration_since(since) >= longest;
        let failing = self.next.failing.as_ref();
        let failing = failing.filter(|failing| lasts(failing.since, PATIENCE));
        let began = match &self.next.rollback {
            Some(rollback) => Some(rollback.started),
            None => self.next.started,
        };
        let reason = if let Some(failing) = failing {
            format!(
                "New instances have failed for one hour. The last one: {}",
                failing.why
            )
        } else if self
            .next
            .blocked
            .is_some_and(|since| lasts(since, PATIENCE))
        {
            let why = self.next.reason.clone().unwrap_or_default();
            format!("No instance could be replaced for one hour. {why}")
        } else if began.is_some_and(|since| lasts(since, LONGEST)) {
            "Instances have been replaced for 14 days, the longest time there is.".to_owned()
        } else {
            return false;
        };
        let reason = reason.chars().take(1000).collect();
        self.next.fail(reason, self.now);
        true
    }

    /// What it waits for. The two that speak of warming up and of insufficient data are AWS's, word for word; it
    /// publishes no others.
    fn reason(&self, census: &Census) -> Option<String> {
        if let Some(until) = self.next.pause {
            return Some(format!(
                "Waiting at checkpoint {} percent until {}.",
                self.next.reached,
                until.strftime("%Y-%m-%dT%H:%M:%SZ")
            ));
        }
        if let Some(id) = &census.warming {
            return Some(format!(
                "Waiting for instances to warm up before continuing. For example: {id} is warming up."
            ));
        }
        let example = if let Some(failing) = &self.next.failing {
            failing.why.clone()
        } else if let Some(id) = &census.pending {
            format!("{id} has insufficient data to evaluate its health with Amazon EC2.")
        } else if let Some(id) = &census.protected {
            format!("{id} is protected from scale in.")
        } else if let Some(id) = &census.on_standby {
            format!("{id} is in Standby.")
        } else if let Some(id) = &census.ailing {
            format!("{id} is unhealthy.")
        } else {
            return None;
        };
        Some(format!("{WAITING} For example: {example}"))
    }
}

const WAITING: &str = "Waiting for remaining instances to be available.";
