//! The decision: what a fleet needs now, and why. Pure, and level-triggered: it is made anew each time from what is
//! seen and what is in flight, so it does not matter who made the decision before, or whether its reply arrived.

use jiff::{SignedDuration, Timestamp};

use super::alarm;
use super::memory::{ENDING_MOST, LAUNCH_MOST, Memory};
pub use super::plan::{Counts, Decision, Plan, Purpose, Row, Turn, words};
use super::policy::Policy;
use super::standing::{Standing, standing};
use super::world::{Demand, Life, Member, World};

/// Workers that one command reaches (`SendCommand`, `InstanceIds`).
const REACHED: usize = 50;

struct Desk<'a> {
    world: &'a World,
    policy: &'a Policy,
    memory: &'a Memory,
    turn: Turn,
    now: Timestamp,
    plan: Plan,
    /// Capacity that this plan itself takes away or gives back.
    decisions: Vec<Decision>,
}

/// Decides.
#[must_use]
pub fn decide(world: &World, policy: &Policy, memory: &Memory, turn: Turn, now: Timestamp) -> Plan {
    let rows: Vec<Row> = world
        .group
        .members
        .iter()
        .map(|member| Row {
            id: member.id.clone(),
            version: member.version,
            standing: standing(world, member, policy, memory, now),
            note: String::new(),
            until: None,
        })
        .collect();
    let counts = count(world, memory, &rows, now);
    let mut desk = Desk {
        world,
        policy,
        memory,
        turn,
        now,
        plan: Plan {
            decisions: Vec::new(),
            required: required(world, policy, counts.busy),
            rows,
            counts,
            alarms: Vec::new(),
        },
        decisions: Vec::new(),
    };
    desk.end_drained();
    let shortage = desk.scale_out();
    desk.drain_for_roll(shortage);
    desk.scale_in();
    desk.annotate();
    let mut plan = desk.plan;
    plan.decisions = desk.decisions;
    let mut alarms = alarm::alarms(world, policy, memory, &plan, shortage, now);
    plan.alarms.append(&mut alarms);
    plan
}

fn count(world: &World, memory: &Memory, rows: &[Row], now: Timestamp) -> Counts {
    let mut counts = Counts::default();
    for row in rows {
        let one = match &row.standing {
            Standing::Booting { .. } => &mut counts.booting,
            Standing::Busy { .. } => &mut counts.busy,
            Standing::Idle { .. } => &mut counts.idle,
            Standing::Draining { .. } => &mut counts.draining,
            Standing::Drained => &mut counts.drained,
            Standing::Unknown { .. } => &mut counts.unknown,
            Standing::Standby | Standing::Unhealthy => &mut counts.other,
            Standing::Leaving { .. } | Standing::Ending => &mut counts.ending,
        };
        *one += 1;
    }
    // What the group still has to launch for its desired number, or what we launched and cannot see yet.
    let owed = world.group.desired.saturating_sub(present(world));
    let asked = match &memory.launch {
        Some(launch) if launch.made.is_none() => launch.count,
        _ => memory.unseen(&world.group, now),
    };
    counts.booting += owed.max(asked);
    counts
}

/// Instances that count towards the desired number.
fn present(world: &World) -> u32 {
    let members = world.group.members.iter();
    let present = members.filter(|member| !member.is_ending()).count();
    u32::try_from(present).unwrap_or(u32::MAX)
}

/// How many workers should be free for what is queued, and for what may come.
fn required(world: &World, policy: &Policy, busy: u32) -> u32 {
    let (queued, spare) = match &world.demand {
        Demand::Known { queued, .. } => (*queued, policy.spare),
        // Without a queue to see, "all are busy" is the only sign that more are needed.
        Demand::NotAsked => (0, policy.spare.max(1)),
        Demand::Unreachable(_) => (0, 1),
    };
    let for_queue = u64::from(queued) * u64::from(policy.queue_percent);
    let for_queue = u32::try_from(for_queue.div_ceil(100)).unwrap_or(u32::MAX);
    let spare = if busy > 0 { spare } else { 0 };
    for_queue.saturating_add(policy.min_idle).max(spare)
}

impl Desk<'_> {
    fn push(&mut self, decision: Decision) {
        self.decisions.push(decision);
    }

    fn member(&self, id: &str) -> Option<&Member> {
        self.world
            .group
            .members
            .iter()
            .find(|member| member.id == id)
    }

    /// Whether an instance refresh is about to replace it.
    fn is_replaced(&self, version: Option<u64>) -> bool {
        self.world
            .rolling
            .as_ref()
            .and_then(|rolling| rolling.target)
            .is_some_and(|target| version != Some(target))
    }

    /// The desired number once all that is on its way out has gone.
    fn lasting(&self) -> u32 {
        let going = self.plan.rows.iter().filter(|row| match &row.standing {
            Standing::Draining { ours, .. } => *ours,
            // One that has ended, or is seen to end, is not in the desired number any more.
            Standing::Drained => true,
            Standing::Leaving { .. } => self.memory.ends(&row.id).is_some_and(|one| one.decrement),
            _ => false,
        });
        let going = u32::try_from(going.count()).unwrap_or(u32::MAX);
        self.world.group.desired.saturating_sub(going)
    }

    /// Drained is final, so a drained worker may go at any time, and is of no use until then.
    fn end_drained(&mut self) {
        let group = &self.world.group;
        let mut room = ENDING_MOST.saturating_sub(self.memory.ending.len());
        // Decrements that the desired number does not show yet: it and the members are of one answer.
        let unseen = self.plan.rows.iter().filter(|row| {
            let ending = self.memory.ends(&row.id);
            matches!(row.standing, Standing::Leaving { .. })
                && ending.is_some_and(|one| one.decrement && one.is_fresh(self.now))
        });
        let mut pending = u32::try_from(unseen.count()).unwrap_or(u32::MAX);
        let mut decisions = Vec::new();
        for row in &self.plan.rows {
            let again = match &row.standing {
                Standing::Drained => false,
                // Asked for, and nothing came of it: the call never arrived.
                Standing::Leaving { .. } => {
                    let fresh = self
                        .memory
                        .ends(&row.id)
                        .is_none_or(|one| one.is_fresh(self.now));
                    let drained = self.member(&row.id).is_some_and(is_drained);
                    if fresh || !drained {
                        continue;
                    }
                    true
                }
                _ => continue,
            };
            if !again && (room == 0 || self.is_replaced(row.version)) {
                continue;
            }
            // Where the group has more than it desires, ending one is enough.
            let above = present(self.world) > group.desired;
            let decrement = !above && group.desired.saturating_sub(pending) > group.min;
            // Whether the group is at its minimum shows once the decrements before do.
            if !decrement && !above && pending > 0 {
                continue;
            }
            if !again {
                room -= 1;
            }
            pending += u32::from(decrement);
            decisions.push(Decision::Terminate {
                id: row.id.clone(),
                decrement,
                why: if decrement {
                    "it is drained".to_owned()
                } else if above {
                    "it is drained, and the group has more instances than it desires".to_owned()
                } else {
                    "it is drained; the group is at its minimum and replaces it".to_owned()
                },
            });
        }
        self.decisions.extend(decisions);
    }

    /// Gives back cordoned workers and launches new ones, as far as free workers are missing. Gives how many are still
    /// missing.
    fn scale_out(&mut self) -> u32 {
        let counts = self.plan.counts;
        let mut shortage = self
            .plan
            .required
            .saturating_sub(counts.idle.saturating_add(counts.booting));
        if let Some(launch) = self.memory.launch.clone().filter(|one| one.made.is_none()) {
            self.push(Decision::Launch {
                count: launch.count,
                token: launch.token,
                zone: launch.zone,
                why: "the launch before was not answered: the same once more".to_owned(),
            });
        }
        if shortage == 0 {
            return 0;
        }
        shortage = self.uncordon(shortage);
        if shortage == 0 || self.memory.launch.is_some() {
            return shortage;
        }
        let group = &self.world.group;
        let room = group
            .max
            .saturating_sub(group.desired.max(present(self.world)));
        let most = self.policy.launch_most.min(LAUNCH_MOST);
        let count = shortage.min(most).min(room);
        if count == 0 {
            return shortage;
        }
        let Some(zone) = self.zone() else {
            return shortage;
        };
        self.push(Decision::Launch {
            count,
            token: self.turn.token(&group.name),
            zone,
            why: self.why_more(),
        });
        shortage - count
    }

    fn why_more(&self) -> String {
        let counts = self.plan.counts;
        let queued = match &self.world.demand {
            Demand::Known { queued, .. } => *queued,
            _ => 0,
        };
        let free = counts.idle + counts.booting;
        let jobs = if queued == 1 {
            "job waits"
        } else {
            "jobs wait"
        };
        let are = |count: u32| match count {
            1 => "1 worker is".to_owned(),
            _ => format!("{count} workers are"),
        };
        let all = match counts.busy {
            1 => "the only worker is".to_owned(),
            busy => format!("all {}", are(busy)),
        };
        if queued > 0 && free > 0 {
            format!("{queued} {jobs}, and {} free or booting", are(free))
        } else if queued > 0 && counts.busy == 0 {
            format!("{queued} {jobs}, and no worker is free")
        } else if queued > 0 {
            format!("{queued} {jobs}, and {all} busy")
        } else if counts.busy > 0 && free == 0 {
            format!("{all} busy")
        } else {
            format!(
                "{} free or booting, {} should be",
                are(free),
                self.plan.required
            )
        }
    }

    /// Lets workers that are not drained yet take jobs again. One that has drained meanwhile refuses.
    fn uncordon(&mut self, mut shortage: u32) -> u32 {
        let why = self.why_more();
        let mut found: Vec<(bool, String)> = Vec::new();
        for row in &self.plan.rows {
            // A worker that a refresh replaces drains all the same: else a full queue would hold a roll up for ever.
            if let Standing::Draining { ours: true, busy } = row.standing
                && !self.is_replaced(row.version)
            {
                found.push((busy, row.id.clone()));
            }
        }
        // Those without a job first: they are free at once.
        found.sort();
        for (busy, id) in found.into_iter().take(REACHED) {
            if shortage == 0 {
                break;
            }
            if !busy {
                shortage -= 1;
            }
            self.push(Decision::Uncordon {
                id,
                generation: self.turn.generation(),
                why: why.clone(),
            });
        }
        shortage
    }

    /// The zone for a launch: the one with the fewest instances, of those that had capacity. `None`: none had.
    fn zone(&self) -> Option<Option<String>> {
        let group = &self.world.group;
        let is_short = |zone: &str| self.memory.short.contains_key(zone);
        if group.zones.len() < 2 {
            return (!is_short("")).then_some(None);
        }
        let mut zones: Vec<(usize, &String)> = group
            .zones
            .iter()
            .filter(|zone| !is_short(zone))
            .map(|zone| {
                let there = group.members.iter().filter(|one| one.zone == **zone);
                (there.count(), zone)
            })
            .collect();
        zones.sort();
        zones.first().map(|(_, zone)| Some((*zone).clone()))
    }

    /// During an instance refresh, drains the workers that it is to replace: first those that are idle, then busy ones,
    /// which end their job first. Only a part of the fleet at a time, so that the queue keeps moving.
    fn drain_for_roll(&mut self, shortage: u32) {
        let Some(rolling) = &self.world.rolling else {
            return;
        };
        let Some(target) = rolling.target else {
            return;
        };
        let (mut under_way, mut found) = (0_usize, Vec::new());
        for row in self
            .plan
            .rows
            .iter()
            .filter(|row| row.version != Some(target))
        {
            match row.standing {
                Standing::Draining { .. } | Standing::Drained | Standing::Leaving { .. } => {
                    under_way += 1;
                }
                Standing::Idle { secs } => found.push((false, row.version, -secs, row.id.clone())),
                Standing::Busy { secs, .. } => {
                    found.push((true, row.version, -secs.unwrap_or(0), row.id.clone()));
                }
                _ => {}
            }
        }
        // Idle before busy, the oldest version first, the longest idle first.
        found.sort();
        let fleet = self.world.group.desired as usize;
        let share = (fleet * self.policy.drain_percent as usize)
            .div_ceil(100)
            .max(1);
        let counts = self.plan.counts;
        let free = (counts.idle + counts.booting).saturating_sub(self.queued());
        // One at a time goes whatever is queued: the refresh replaces it, and the roll comes to an end.
        let share = if shortage == 0 {
            share.min(free.max(1) as usize)
        } else {
            1
        };
        let room = share.saturating_sub(under_way);
        for (_, version, _, id) in found.into_iter().take(room) {
            let version = version.map_or_else(|| "another".to_owned(), |number| number.to_string());
            self.push(Decision::Cordon {
                id,
                generation: self.turn.generation(),
                purpose: Purpose::Refresh,
                why: format!("a refresh replaces version {version} by {target}"),
            });
        }
    }

    fn queued(&self) -> u32 {
        match &self.world.demand {
            Demand::Known { queued, .. } => *queued,
            _ => 0,
        }
    }

    /// How many idle workers may go, and what keeps the others.
    fn surplus(&self) -> (u32, &'static str) {
        if let Demand::Unreachable(_) = self.world.demand {
            return (0, "the CI server cannot be asked");
        }
        if self.world.rolling.is_some() {
            return (0, "a refresh is under way");
        }
        let free = self.plan.counts.idle.saturating_sub(self.plan.required);
        let above = self.lasting().saturating_sub(self.world.group.min);
        if above < free {
            return (above, "the group's minimum");
        }
        let why = match self.queued() {
            0 if self.plan.counts.busy > 0 && self.policy.spare > self.policy.min_idle => {
                "a spare while others are busy"
            }
            0 => "min_idle",
            _ => "the queue",
        };
        (free, why)
    }

    /// Idle workers, the longest idle first, with their place in [`Row`]s.
    fn idle(&self) -> Vec<(i64, usize)> {
        let mut idle: Vec<(i64, usize)> = Vec::new();
        for (place, row) in self.plan.rows.iter().enumerate() {
            if let Standing::Idle { secs } = row.standing {
                idle.push((-secs, place));
            }
        }
        idle.sort_unstable();
        idle
    }

    fn scale_in(&mut self) {
        let (surplus, _) = self.surplus();
        let most = surplus.min(self.policy.cordon_most) as usize;
        let limit = self.policy.idle_after.as_secs();
        for (secs, place) in self.idle().into_iter().take(most.min(REACHED)) {
            if -secs < limit {
                break;
            }
            self.push(Decision::Cordon {
                id: self.plan.rows[place].id.clone(),
                generation: self.turn.generation(),
                purpose: Purpose::ScaleIn,
                why: format!("idle for {}, more than {}", words(-secs), words(limit)),
            });
        }
    }

    /// Says of each row what is to become of it.
    fn annotate(&mut self) {
        let (surplus, kept) = self.surplus();
        let mut notes: Vec<(usize, String, Option<Timestamp>)> = Vec::new();
        for (rank, (secs, place)) in self.idle().into_iter().enumerate() {
            let left = self.policy.idle_after - SignedDuration::from_secs(-secs);
            let goes = self.now + left.max(SignedDuration::ZERO);
            if rank < surplus as usize {
                notes.push((place, "goes".to_owned(), Some(goes)));
            } else {
                notes.push((place, format!("kept: {kept}"), None));
            }
        }
        for (place, row) in self.plan.rows.iter().enumerate() {
            let replaced = self.is_replaced(row.version);
            let (note, until) = match &row.standing {
                Standing::Booting { deadline } => {
                    ("counts as capacity".to_owned(), Some(*deadline))
                }
                Standing::Busy { .. } if replaced => ("drained when its job ends".to_owned(), None),
                Standing::Draining { ours: false, .. } => {
                    ("cordoned by somebody else".into(), None)
                }
                Standing::Draining { busy: true, .. } => ("goes when its job ends".into(), None),
                Standing::Draining { .. } => ("goes once drained".to_owned(), None),
                Standing::Drained if replaced => ("the refresh replaces it".to_owned(), None),
                Standing::Drained => ("goes".to_owned(), Some(self.now)),
                Standing::Unknown { why, since } => {
                    let alarm = *since + self.policy.leak_after;
                    (why.clone(), Some(alarm))
                }
                Standing::Leaving { .. } => ("its end was asked for".to_owned(), None),
                Standing::Standby => ("a person's to put back".to_owned(), None),
                Standing::Unhealthy => ("Auto Scaling replaces it".to_owned(), None),
                Standing::Busy { .. } | Standing::Idle { .. } | Standing::Ending => continue,
            };
            notes.push((place, note, until));
        }
        for (place, note, until) in notes {
            let row = &mut self.plan.rows[place];
            (row.note, row.until) = (note, until);
        }
        for decision in &self.decisions {
            let (id, note) = match decision {
                Decision::Cordon { id, why, .. } => (id, format!("is cordoned: {why}")),
                Decision::Uncordon { id, .. } => (id, "is given back".to_owned()),
                Decision::Terminate { id, .. } => (id, "is terminated".to_owned()),
                Decision::Launch { .. } => continue,
            };
            if let Some(row) = self.plan.rows.iter_mut().find(|row| row.id == *id) {
                (row.note, row.until) = (note, None);
            }
        }
    }
}

/// Whether it is in service still, and said that it is drained.
fn is_drained(member: &Member) -> bool {
    member.life == Life::InService
        && matches!(&member.word, super::world::Word::Said(said) if said.drained.is_some())
}
