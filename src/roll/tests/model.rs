//! A group that behaves as EC2 Auto Scaling does, in steps of its own.

use jiff::{SignedDuration, Timestamp};

use crate::roll::next::next;
use crate::roll::record::tests::record;
use crate::roll::record::{Outcome, RollRecord, Worker};
use crate::roll::refresh::settled;
use crate::roll::step::{Call, Reply, Step};
use crate::roll::world::{
    CanaryMachine, Check, Difference, Emptiness, Errand, Group, Life, Member, Refresh, Status,
    Version, World,
};

fn start() -> Timestamp {
    "2026-01-01T12:00:00Z".parse().unwrap()
}

/// The group, the roll of it, and what goes wrong.
#[derive(Debug, Clone)]
pub struct Model {
    pub now: Timestamp,
    pub world: World,
    pub record: RollRecord,
    /// Looks until a protected instance is drained.
    pub drain: Vec<(String, u32)>,
    pub launched: u32,
    pub starts: u32,
    /// New instances fail their checks from this number on.
    pub bad_from: Option<u32>,
    pub canary_bad: bool,
    pub canary_busy: u32,
    pub version_made: Option<u64>,
    /// `RollbackInstanceRefresh` is refused.
    pub irreversible: bool,
}

pub fn member(id: &str, version: u64, protected: bool) -> Member {
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
    pub fn new(busy: &[u32]) -> Self {
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

    pub fn group(&mut self) -> &mut Group {
        self.world.group.as_mut().unwrap()
    }

    /// The cloud carries out a call.
    pub fn carry_out(&mut self, call: &Call) -> Reply {
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

    pub fn active(&mut self) -> Option<&mut Refresh> {
        self.world
            .refreshes
            .iter_mut()
            .find(|refresh| refresh.status.is_active())
    }

    /// A while passes: workers drain, the refresh replaces one instance.
    pub fn pass(&mut self, until: Timestamp) {
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
    pub fn step(&mut self, lost: bool) -> Option<Outcome> {
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

    pub fn run(&mut self, lost: &[usize]) -> Outcome {
        for step in 0..20_000 {
            if let Some(outcome) = self.step(lost.contains(&step)) {
                return outcome;
            }
            assert!(self.record.to_json().is_ok());
        }
        panic!("no end: {:?}", next(&self.record, &self.world, self.now));
    }

    pub fn assert_end(&self, outcome: Outcome) {
        let side = match outcome {
            Outcome::RolledOut => self.record.new_side().unwrap(),
            Outcome::RolledBack => self.record.old.clone(),
            Outcome::Halted => panic!("halted: {:?}", self.record),
        };
        let group = self.world.group.as_ref().unwrap();
        assert_eq!(group.version, Some(side.version));
        for member in &group.members {
            assert!(member.is_on(&side), "{member:?}");
            if outcome == Outcome::RolledOut {
                assert_eq!((&member.check, member.healthy), (&Check::Passed, true));
            }
        }
        let canary = self.world.canary.as_ref();
        assert!(canary.is_none_or(|canary| canary.state == "terminated"));
        if outcome == Outcome::RolledBack {
            assert_eq!(self.version_made, None, "the version that lost is left");
        }
        assert!(self.world.active().is_none());
        assert!(self.record.left.is_empty());
    }
}

impl Model {
    pub fn run_until(&mut self, wanted: impl Fn(&Step) -> bool) {
        for _ in 0..1000 {
            if wanted(&next(&self.record, &self.world, self.now)) {
                return;
            }
            self.step(false);
        }
        panic!("never: {:?}", self.record);
    }
}
