//! The decision against a model of a group: whatever happens, a roll ends with one version everywhere, and nothing is
//! left; and the single decisions, as a table.

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

use super::next::next;
use super::record::tests::record;
use super::record::{Heading, Outcome, RollRecord, Worker};
use super::refresh::{ATTEMPTS, settled};
use super::step::{Call, Note, Reply, Step};
use super::world::{
    CanaryMachine, Check, Difference, Emptiness, Errand, Group, Life, Member, Refresh, Request,
    Status, Version, World,
};

fn start() -> Timestamp {
    "2026-01-01T12:00:00Z".parse().unwrap()
}

/// A group that behaves as EC2 Auto Scaling does, in steps of its own.
#[derive(Debug, Clone)]
struct Model {
    now: Timestamp,
    world: World,
    record: RollRecord,
    /// Looks until a protected instance is drained.
    drain: Vec<(String, u32)>,
    launched: u32,
    starts: u32,
    /// New instances fail their checks from this number on.
    bad_from: Option<u32>,
    canary_bad: bool,
    canary_busy: u32,
    version_made: Option<u64>,
    /// `RollbackInstanceRefresh` is refused.
    irreversible: bool,
}

fn member(id: &str, version: u64, protected: bool) -> Member {
    Member {
        id: id.into(),
        version: Some(version),
        image: Some(if version == 3 { "ami-old" } else { "ami-new" }.into()),
        life: Life::InService,
        healthy: true,
        protected,
        check: Check::NotYet,
        worker: None,
    }
}

impl Model {
    fn new(busy: &[u32]) -> Self {
        let members = busy
            .iter()
            .enumerate()
            .map(|(n, busy)| member(&format!("i-{n}"), 3, *busy > 0))
            .collect();
        let drain = busy
            .iter()
            .enumerate()
            .map(|(n, busy)| (format!("i-{n}"), *busy))
            .collect();
        let group = Group {
            name: "workers".into(),
            version: Some(3),
            desired: u32::try_from(busy.len()).unwrap(),
            members,
        };
        Self {
            now: start(),
            world: World {
                group: Some(group),
                ..World::default()
            },
            record: record(),
            drain,
            launched: 0,
            starts: 0,
            bad_from: None,
            canary_bad: false,
            canary_busy: 0,
            version_made: None,
            irreversible: false,
        }
    }

    fn group(&mut self) -> &mut Group {
        self.world.group.as_mut().unwrap()
    }

    /// The cloud carries out a call.
    fn carry_out(&mut self, call: &Call) -> Reply {
        match call {
            Call::Note(_) => Reply::Done,
            Call::CreateVersion => {
                if self.version_made.is_none() {
                    self.version_made = Some(4);
                    self.world.versions.push(Version {
                        number: 4,
                        description: self.record.version_description(),
                    });
                    self.world.difference = Some(vec![Difference {
                        field: "ImageId".into(),
                        old: "ami-old".into(),
                        new: "ami-new".into(),
                    }]);
                }
                Reply::Made("4".into())
            }
            Call::LaunchCanary => {
                self.world.canary.get_or_insert(CanaryMachine {
                    id: "i-canary".into(),
                    state: "running".into(),
                    reason: String::new(),
                    online: true,
                });
                Reply::Made("i-canary".into())
            }
            Call::CheckCanary(_) => {
                self.world.errand = Some(Errand::Checked {
                    failure: self.canary_bad.then(|| "bad".into()),
                    worker: Worker::Present,
                });
                Reply::Made("c-1".into())
            }
            Call::CordonCanary(_) => {
                self.world.errand = Some(Errand::Cordoned(if self.canary_busy == 0 {
                    Emptiness::Drained
                } else {
                    self.canary_busy -= 1;
                    Emptiness::NotYet("a job".into())
                }));
                Reply::Made("c-2".into())
            }
            Call::TerminateCanary(_) => {
                assert_eq!(self.canary_busy, 0, "a canary with a job was terminated");
                self.world.canary.as_mut().unwrap().state = "terminated".into();
                Reply::Done
            }
            Call::CheckMembers(ids) => {
                let bad_from = self.bad_from;
                for member in &mut self.group().members {
                    if ids.contains(&member.id) {
                        let number: u32 = member.id[4..].parse().unwrap();
                        member.check = if bad_from.is_some_and(|from| number >= from) {
                            Check::Failed("bad".into())
                        } else {
                            Check::Passed
                        };
                    }
                }
                Reply::Done
            }
            Call::StartRefresh(side) => {
                if self.world.active().is_some() {
                    return Reply::Later("InstanceRefreshInProgress".into());
                }
                assert!(
                    settled(self.world.group.as_ref().unwrap(), side).is_err(),
                    "a refresh for nothing"
                );
                self.starts += 1;
                let id = format!("refresh-{}", self.starts);
                let (started, version) = (self.now, Some(side.version));
                self.world.refreshes.insert(
                    0,
                    Refresh {
                        id: id.clone(),
                        status: Status::InProgress,
                        reason: String::new(),
                        percent: 0,
                        version,
                        started,
                        ended: None,
                    },
                );
                Reply::Made(id)
            }
            Call::CancelRefresh { .. } => {
                if let Some(active) = self.active() {
                    active.status = Status::Cancelled;
                }
                Reply::Done
            }
            Call::RollbackRefresh(_) => {
                if self.irreversible {
                    return Reply::Refused("IrreversibleInstanceRefresh".into());
                }
                if let Some(active) = self.active() {
                    active.status = Status::RollbackInProgress;
                }
                Reply::Done
            }
            Call::PointGroup(side) => {
                self.group().version = Some(side.version);
                Reply::Done
            }
            Call::DropVersion(_) => {
                assert!(
                    !self
                        .world
                        .group
                        .as_ref()
                        .unwrap()
                        .members
                        .iter()
                        .any(|m| m.version == Some(4)),
                    "a version in use was deleted"
                );
                self.version_made = None;
                self.world.versions.clear();
                Reply::Done
            }
        }
    }

    fn active(&mut self) -> Option<&mut Refresh> {
        self.world
            .refreshes
            .iter_mut()
            .find(|refresh| refresh.status.is_active())
    }

    /// A while passes: workers drain, the refresh replaces one instance.
    fn pass(&mut self, until: Timestamp) {
        self.now = until.max(self.now + SignedDuration::from_secs(1));
        for (id, left) in &mut self.drain {
            *left = left.saturating_sub(1);
            let free = *left == 0;
            let group = self.world.group.as_mut().unwrap();
            if let Some(member) = group.members.iter_mut().find(|m| m.id == *id) {
                member.protected = !free;
            }
        }
        let versions = self.version_made.is_some();
        self.world.users = Some(Vec::new()).filter(|_| versions);
        let Some(active) = self.active().map(|active| active.clone()) else {
            return;
        };
        let target = if active.status == Status::RollbackInProgress {
            3
        } else {
            active.version.unwrap()
        };
        let number = self.launched;
        let group = self.group();
        group
            .members
            .retain(|member| member.life != Life::Terminating);
        let old = group
            .members
            .iter_mut()
            .find(|m| m.version != Some(target) && !m.protected);
        if let Some(old) = old {
            *old = member(&format!("i-n-{number}"), target, false);
            self.launched += 1;
            return;
        }
        let left = group.members.iter().any(|m| m.version != Some(target));
        let blocked = self.now.duration_since(active.started) > SignedDuration::from_hours(1);
        let end = match (left, active.status) {
            (true, _) if !blocked => return,
            (true, Status::RollbackInProgress) => Status::RollbackFailed,
            (true, _) => Status::Failed,
            (false, Status::RollbackInProgress) => Status::RollbackSuccessful,
            (false, _) => {
                self.group().version = Some(target);
                Status::Successful
            }
        };
        let active = self.active().unwrap();
        active.status = end;
        if left {
            active.reason = "instances are protected from scale in".into();
        }
    }

    /// One step. `lost`: the roll dies after the call was carried out, and nobody learns its reply.
    fn step(&mut self, lost: bool) -> Option<Outcome> {
        match next(&self.record, &self.world, self.now) {
            Step::Done(outcome) => return Some(outcome),
            Step::Wait { until, .. } => self.pass(until),
            Step::Act(call) => {
                let newest = self.world.refreshes.first().map(|one| one.id.clone());
                self.record.intend(&call, newest.as_deref(), self.now);
                let reply = self.carry_out(&call);
                if !lost {
                    self.record.learn(&call, &reply, self.now);
                }
                // Time goes on during calls as well.
                self.now += SignedDuration::from_secs(1);
            }
        }
        None
    }

    fn run(&mut self, lost: &[usize]) -> Outcome {
        for step in 0..20_000 {
            if let Some(outcome) = self.step(lost.contains(&step)) {
                return outcome;
            }
            assert!(self.record.to_json().is_ok());
        }
        panic!("no end: {:?}", next(&self.record, &self.world, self.now));
    }

    fn assert_end(&self, outcome: Outcome) {
        let side = match outcome {
            Outcome::RolledOut => self.record.new_side().unwrap(),
            Outcome::RolledBack => self.record.old.clone(),
            Outcome::Halted => panic!("halted: {:?}", self.record),
        };
        assert_eq!(settled(self.world.group.as_ref().unwrap(), &side), Ok(()));
        let canary = self.world.canary.as_ref();
        assert!(canary.is_none_or(|canary| canary.state == "terminated"));
        if outcome == Outcome::RolledBack {
            assert_eq!(self.version_made, None, "the version that lost is left");
        }
        assert!(self.world.active().is_none());
        assert!(self.record.left.is_empty());
    }
}

#[test]
fn a_good_roll_takes_one_refresh_and_checks_every_instance() {
    let mut model = Model::new(&[0, 0, 0]);
    let outcome = model.run(&[]);
    assert_eq!(outcome, Outcome::RolledOut);
    model.assert_end(outcome);
    assert_eq!(model.starts, 1);
    let members = &model.group().members;
    assert!(members.iter().all(|member| member.check == Check::Passed));
}

#[test]
fn a_bad_canary_never_touches_the_group() {
    let mut model = Model::new(&[0, 0]);
    model.canary_bad = true;
    model.canary_busy = 3;
    let outcome = model.run(&[]);
    assert_eq!(outcome, Outcome::RolledBack);
    model.assert_end(outcome);
    assert_eq!((model.starts, model.launched), (0, 0));
    assert_eq!(
        model.record.reason.as_deref(),
        Some("the canary failed: bad")
    );
}

#[test]
fn workers_that_are_busy_for_hours_cost_refreshes_but_no_turn_back() {
    // Looks are 5 s apart: 3 hours.
    let mut model = Model::new(&[2160, 0, 1500]);
    let outcome = model.run(&[]);
    assert_eq!(outcome, Outcome::RolledOut);
    model.assert_end(outcome);
    assert!((3..=6).contains(&model.starts), "{}", model.starts);
}

#[test]
fn a_roll_that_is_over_can_be_rolled_back() {
    let mut model = Model::new(&[0, 0]);
    assert_eq!(model.run(&[]), Outcome::RolledOut);
    model.record.turn_back("asked for");
    let outcome = model.run(&[]);
    assert_eq!(outcome, Outcome::RolledBack);
    model.assert_end(outcome);
    assert_eq!(model.starts, 2);
}

#[test]
fn an_empty_group_is_only_pointed() {
    let mut model = Model::new(&[]);
    let outcome = model.run(&[]);
    assert_eq!(outcome, Outcome::RolledOut);
    model.assert_end(outcome);
    assert_eq!(model.starts, 0);
}

#[test]
fn a_version_that_differs_in_more_than_the_image_is_refused() {
    let mut model = Model::new(&[0]);
    model.run_until(|step| matches!(step, Step::Act(Call::Note(Note::VersionVerified))));
    model.world.difference.as_mut().unwrap().push(Difference {
        field: "UserData".into(),
        old: "a".into(),
        new: "b".into(),
    });
    let outcome = model.run(&[]);
    assert_eq!(outcome, Outcome::RolledBack);
    model.assert_end(outcome);
    let reason = model.record.reason.unwrap();
    assert!(reason.contains("UserData (a -> b)"), "{reason}");
}

#[test]
fn a_refresh_of_somebody_else_is_waited_for() {
    let mut model = Model::new(&[0]);
    model.run_until(|step| matches!(step, Step::Act(Call::StartRefresh(_))));
    let foreign = Refresh {
        id: "theirs".into(),
        status: Status::InProgress,
        reason: String::new(),
        percent: 0,
        version: Some(9),
        started: model.now,
        ended: None,
    };
    model.world.refreshes.insert(0, foreign);
    let step = next(&model.record, &model.world, model.now);
    assert!(
        matches!(&step, Step::Wait { reason, .. } if reason.contains("not of this roll")),
        "{step:?}"
    );
}

#[test]
fn a_canary_whose_worker_fell_silent_is_left_to_a_person_and_one_that_never_spoke_is_not() {
    for (worker, left) in [(Worker::Present, true), (Worker::Unknown, false)] {
        let mut model = Model::new(&[0]);
        model.run_until(|step| matches!(step, Step::Act(Call::CordonCanary(_))));
        model.record.canary.worker = worker;
        model.world.canary.as_mut().unwrap().online = false;
        model.record.turn_back("test");
        let outcome = model.run(&[]);
        assert_eq!(outcome, Outcome::RolledBack);
        assert_eq!(model.record.canary.left.is_some(), left, "{worker:?}");
        assert_eq!(
            model.world.canary.as_ref().unwrap().state == "terminated",
            !left
        );
    }
}

#[test]
fn a_canary_that_said_it_is_busy_is_never_terminated_for_its_silence() {
    let mut model = Model::new(&[0]);
    model.canary_busy = 2;
    model.run_until(|step| matches!(step, Step::Act(Call::CordonCanary(_))));
    // Nobody knew of a worker before; its first answer says that it runs a job.
    model.record.canary.worker = Worker::Unknown;
    model.step(false);
    model.run_until(|step| matches!(step, Step::Act(Call::CordonCanary(_))));
    model.world.canary.as_mut().unwrap().online = false;
    model.record.turn_back("test");
    assert_eq!(model.run(&[]), Outcome::RolledBack);
    assert!(model.record.canary.left.is_some());
    assert_eq!(model.world.canary.as_ref().unwrap().state, "running");
}

#[test]
fn the_silence_of_a_canary_is_counted_from_its_last_answer() {
    let mut model = Model::new(&[0]);
    // Busy for two hours, one answer each 10 s.
    model.canary_busy = 720;
    model.run_until(|step| matches!(step, Step::Act(Call::CordonCanary(_))));
    for _ in 0..500 {
        model.run_until(|step| matches!(step, Step::Act(Call::Note(Note::CanaryAskAgain { .. }))));
        model.step(false);
    }
    model.step(false);
    model.world.errand = Some(Errand::Cordoned(Emptiness::Unknown("one time".into())));
    let step = next(&model.record, &model.world, model.now);
    assert!(matches!(step, Step::Wait { .. }), "{step:?}");
    let outcome = model.run(&[]);
    assert_eq!(outcome, Outcome::RolledOut);
    model.assert_end(outcome);
}

#[test]
fn going_back_gives_up_after_some_refreshes_and_says_so() {
    let mut model = Model::new(&[0]);
    assert_eq!(model.run(&[]), Outcome::RolledOut);
    model.record.turn_back("asked for");
    for _ in 0..200 {
        if model.step(false).is_some() {
            break;
        }
        if let Some(active) = model.active() {
            active.status = Status::Failed;
            active.reason = "cannot launch".into();
        }
    }
    assert_eq!(model.record.outcome, Some(Outcome::Halted));
    assert_eq!(model.starts, 1 + ATTEMPTS);
    assert!(model.record.given_up.unwrap().contains("i-n-0"));
}

impl Model {
    fn run_until(&mut self, wanted: impl Fn(&Step) -> bool) {
        for _ in 0..1000 {
            if wanted(&next(&self.record, &self.world, self.now)) {
                return;
            }
            self.step(false);
        }
        panic!("never: {:?}", self.record);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Replies lost, workers busy, instances bad, abort at any step: one version everywhere, nothing left.
    #[test]
    fn every_roll_ends_with_one_version_everywhere(
        busy in prop::collection::vec(0u32..1200, 0..6),
        bad_from in prop::option::of(0u32..6),
        canary_bad in prop::bool::weighted(0.2),
        canary_busy in 0u32..4,
        irreversible in any::<bool>(),
        lost in prop::collection::vec(0usize..60, 0..8),
        abort in prop::option::of(0usize..80),
    ) {
        let mut model = Model::new(&busy);
        model.bad_from = bad_from;
        model.canary_bad = canary_bad;
        model.canary_busy = canary_busy;
        model.irreversible = irreversible;
        for step in 0..abort.unwrap_or(0) {
            if model.step(lost.contains(&step)).is_some() {
                break;
            }
        }
        if abort.is_some() {
            model.world.request = Some(Request { roll: model.record.id.clone(), reason: "aborted".into() });
        }
        let lost = if abort.is_some() { vec![] } else { lost };
        let outcome = model.run(&lost);
        model.assert_end(outcome);
        let good = bad_from.is_none() && !canary_bad && abort.is_none();
        if good {
            prop_assert_eq!(outcome, Outcome::RolledOut);
        }
        if canary_bad {
            prop_assert_eq!(model.starts, 0);
        }
        // A refresh for each hour that somebody is busy, one for the way there, one or two for the way back.
        let hours = busy.iter().max().copied().unwrap_or(0) / 500 + 1;
        prop_assert!(model.starts <= 2 * hours + 2, "{} refreshes", model.starts);
        prop_assert_eq!(model.record.heading == Heading::Forward, outcome == Outcome::RolledOut);
    }
}
