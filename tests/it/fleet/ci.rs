//! A CI server and the machines of its workers, in simulated time. Each machine has the real agent's decisions, over an
//! adapter that closes and opens the intake. What must never happen is written down as a fault.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use piaas_bake::fleet::world::{CiState, Demand};
use piaas_bake::worker::agent::{
    Agent, Intake, Jobs, Kept, Moment, Order, Refused, Seen, Surroundings,
};
use piaas_bake::worker::status::{State, Status};

use super::chance::Chance;

/// The agent looks at the CI agent this often.
const LOOK: i64 = 10;
/// How long a roll's checks wait for the agent, in seconds.
const PATIENCE: i64 = 120;
/// Marks the commands of a roll, as against those of a controller.
const OF_A_ROLL: &str = "piaas-check";

/// One job: when it arrives and how long it runs, in seconds.
#[derive(Debug, Clone, Copy)]
pub struct Job {
    pub number: usize,
    pub secs: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    Arrival(usize),
    JobEnds { machine: String, number: usize },
    Connects(String),
    AgentLooks(String),
    IntakeCloses(String),
    MasterUp,
}

struct Machine {
    agent: Option<Agent>,
    /// What the agent keeps on disk.
    kept: Kept,
    /// Before this there is no agent: the machine boots, or its agent died.
    down_until: Timestamp,
    connected: bool,
    intake: Intake,
    job: Option<Job>,
    /// What the last answer to a controller's status command was, for us to judge what was done because of it.
    said: Option<Said>,
    ended: bool,
    looking: bool,
}

#[derive(Debug, Clone)]
struct Said {
    state: State,
    idle: i64,
}

/// What is asserted at the end, beside the faults.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Tally {
    pub done: usize,
    pub launched: usize,
    /// At the end of any instant: what is ended in the same instant as its successor is launched never counts twice.
    pub most_machines: usize,
    pub agent_kills: usize,
    pub master_restarts: usize,
    pub cordons: usize,
    pub uncordons: usize,
    pub drained: usize,
    /// Checks of a roll that passed, and that found no agent.
    pub checks_passed: usize,
    pub checks_failed: usize,
    /// Jobs that ran on a machine when a roll first cordoned it.
    pub canary_jobs: usize,
}

pub struct Ci {
    pub chance: Chance,
    now: Timestamp,
    agenda: BTreeSet<(Timestamp, Happening)>,
    arrivals: Vec<Job>,
    queue: VecDeque<Job>,
    machines: BTreeMap<String, Machine>,
    master_up: bool,
    /// The workers in the last answer to a controller.
    listed: BTreeSet<String>,
    done: BTreeSet<usize>,
    pub idle_after: i64,
    /// Seconds within which a CI agent closes its intake.
    pub closes: i64,
    /// A CI agent that is about to close its intake may still get a job.
    pub late_jobs: bool,
    pub faults: Vec<String>,
    pub tally: Tally,
}

fn secs(count: i64) -> SignedDuration {
    SignedDuration::from_secs(count)
}

impl Ci {
    /// Jobs in batches, with pauses between them; one in `lulls` is long enough for the fleet to go.
    pub fn new(seed: u64, (jobs, lulls): (usize, i64), start: Timestamp, idle_after: i64) -> Self {
        let mut chance = Chance::new(seed);
        let (mut agenda, mut arrivals, mut at) = (BTreeSet::new(), Vec::new(), start);
        while arrivals.len() < jobs {
            let pause = if chance.one_in(lulls) { 900 } else { 40 };
            at += secs(chance.below(pause));
            let batch = if chance.one_in(3) { 120 } else { 20 };
            for _ in 0..=chance.below(batch) {
                if arrivals.len() < jobs {
                    agenda.insert((at, Happening::Arrival(arrivals.len())));
                    let most = if chance.one_in(20) { 300 } else { 40 };
                    arrivals.push(Job {
                        number: arrivals.len(),
                        secs: 2 + chance.below(most),
                    });
                }
            }
        }
        Self {
            chance,
            now: start,
            agenda,
            arrivals,
            queue: VecDeque::new(),
            machines: BTreeMap::new(),
            master_up: true,
            listed: BTreeSet::new(),
            done: BTreeSet::new(),
            idle_after,
            closes: 4,
            late_jobs: true,
            faults: Vec::new(),
            tally: Tally::default(),
        }
    }

    pub fn is_done(&self) -> bool {
        self.done.len() == self.arrivals.len()
    }

    /// One more job, now.
    pub fn submit(&mut self, secs: i64) {
        let job = Job {
            number: self.arrivals.len(),
            secs,
        };
        self.arrivals.push(job);
        self.queue.push_back(job);
        self.dispatch();
    }

    fn fault(&mut self, what: String) {
        if self.faults.len() < 20 {
            self.faults.push(format!("{} {what}", self.now));
        }
    }

    fn after(&mut self, count: i64, what: Happening) {
        self.agenda.insert((self.now + secs(count), what));
    }

    /// Lets happen what happens until now.
    pub fn advance(&mut self, now: Timestamp) {
        if now > self.now {
            let live = self.machines.values().filter(|one| !one.ended).count();
            self.tally.most_machines = self.tally.most_machines.max(live);
        }
        while let Some((at, _)) = self.agenda.first().filter(|(at, _)| *at <= now) {
            self.now = self.now.max(*at);
            if let Some((_, what)) = self.agenda.pop_first() {
                self.happen(what);
            }
        }
        self.now = self.now.max(now);
        self.dispatch();
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Arrival(number) => self.queue.push_back(self.arrivals[number]),
            Happening::JobEnds { machine, number } => {
                let Some(one) = self.machines.get_mut(&machine).filter(|one| !one.ended) else {
                    return;
                };
                one.job = None;
                self.done.insert(number);
                self.tally.done = self.done.len();
                self.look(&machine);
            }
            Happening::Connects(id) => {
                if let Some(one) = self.machines.get_mut(&id)
                    && !one.ended
                {
                    one.connected = true;
                    if one.agent.is_none() && self.now >= one.down_until {
                        let kept = Some(one.kept.clone());
                        one.agent =
                            Some(Agent::start(kept, Some(id.clone()), Moment::of(self.now)));
                    }
                    if !std::mem::replace(&mut one.looking, true) {
                        self.after(0, Happening::AgentLooks(id));
                    }
                }
            }
            Happening::AgentLooks(id) => {
                if self.machines.get(&id).is_some_and(|one| !one.ended) {
                    self.look(&id);
                    self.after(LOOK, Happening::AgentLooks(id));
                }
            }
            Happening::IntakeCloses(id) => {
                if let Some(one) = self.machines.get_mut(&id)
                    && one.intake == Intake::Closing
                {
                    one.intake = Intake::Closed;
                }
            }
            Happening::MasterUp => self.master_up = true,
        }
        self.dispatch();
    }

    /// Gives jobs to workers that take them.
    fn dispatch(&mut self) {
        if !self.master_up {
            return;
        }
        while !self.queue.is_empty() {
            let late = self.late_jobs;
            let free = self.machines.iter().filter(|(_, one)| {
                let closing = late && one.intake == Intake::Closing;
                let takes = closing || one.intake == Intake::Open;
                one.connected && !one.ended && one.job.is_none() && takes
            });
            let free: Vec<&String> = free.map(|(id, _)| id).collect();
            let Some(id) = self.chance.pick(&free).map(|id| (*id).clone()) else {
                return;
            };
            let Some(job) = self.queue.pop_front() else {
                return;
            };
            if let Some(one) = self.machines.get_mut(&id) {
                one.job = Some(job);
                let drained = one.kept.drained.is_some();
                if drained {
                    self.fault(format!("{id} takes a job after it was drained"));
                }
            }
            let number = job.number;
            self.after(
                job.secs,
                Happening::JobEnds {
                    machine: id,
                    number,
                },
            );
        }
    }

    /// The agent of a machine carries out its orders, and looks.
    fn look(&mut self, id: &str) {
        let now = Moment::of(self.now);
        let mut closes = None;
        let Some(one) = self.machines.get_mut(id) else {
            return;
        };
        if one.agent.is_none() && self.now >= one.down_until {
            let kept = Some(one.kept.clone());
            one.agent = Some(Agent::start(kept, Some(id.to_owned()), now));
        }
        let Some(agent) = &mut one.agent else { return };
        // A few rounds, as the daemon makes one after another.
        for _ in 0..3 {
            match agent.order() {
                Some(Order::Close) if one.intake == Intake::Open => {
                    one.intake = Intake::Closing;
                    closes = Some(());
                    agent.carried_out(Order::Close);
                }
                Some(Order::Open) => {
                    one.intake = Intake::Open;
                    agent.carried_out(Order::Open);
                }
                Some(order) => agent.carried_out(order),
                None => {}
            }
            let look = agent.begin_look();
            let seen = Seen {
                jobs: one.job.map_or(Jobs::Idle, |job| {
                    Jobs::Busy(vec![format!("job {}", job.number)])
                }),
                intake: one.intake,
            };
            if let Some(decision) = agent.end_look(look, seen, now) {
                let next = decision.to_keep().clone();
                let drains = next.drained.is_some() && one.kept.drained.is_none();
                if agent.keep(decision) {
                    one.kept = next;
                    self.tally.drained += usize::from(drains);
                }
            }
        }
        if closes.is_some() {
            let delay = self.chance.below(self.closes);
            self.after(delay, Happening::IntakeCloses(id.to_owned()));
        }
    }

    /// A machine is launched; its worker connects later.
    pub fn launched(&mut self, id: &str, now: Timestamp) {
        self.advance(now);
        let boots = 20 + self.chance.below(30);
        let machine = Machine {
            agent: None,
            kept: Kept::default(),
            down_until: now + secs(boots),
            connected: false,
            intake: Intake::Open,
            job: None,
            said: None,
            ended: false,
            looking: false,
        };
        self.machines.insert(id.to_owned(), machine);
        self.tally.launched += 1;
        self.after(boots, Happening::Connects(id.to_owned()));
    }

    /// A machine is terminated by us, or by its group.
    pub fn terminated(&mut self, id: &str, now: Timestamp) {
        self.advance(now);
        let Some(one) = self.machines.get_mut(id) else {
            return;
        };
        if std::mem::replace(&mut one.ended, true) {
            return;
        }
        let (job, drained) = (one.job.take(), one.kept.drained.is_some());
        if let Some(job) = job {
            self.fault(format!("job {} on {id} is killed", job.number));
        }
        if !drained {
            self.fault(format!("{id} is terminated, and was not drained"));
        }
    }

    /// Machines whose protection the agent wants to be different from `protected`.
    pub fn protections(&self) -> Vec<(String, bool)> {
        let live = self.machines.iter().filter(|(_, one)| !one.ended);
        live.filter_map(|(id, one)| Some((id.clone(), one.agent.as_ref()?.wants_protection())))
            .collect()
    }

    /// An agent dies; its job goes on.
    pub fn kill_an_agent(&mut self) {
        let live = self
            .machines
            .iter()
            .filter(|(_, one)| !one.ended && one.agent.is_some());
        let live: Vec<String> = live.map(|(id, _)| id.clone()).collect();
        let Some(id) = self.chance.pick(&live).cloned() else {
            return;
        };
        let down = 20 + self.chance.below(300);
        if let Some(one) = self.machines.get_mut(&id) {
            one.agent = None;
            one.down_until = self.now + secs(down);
            self.tally.agent_kills += 1;
        }
    }

    /// The master restarts: it gives no jobs for a while, and the workers come back one by one.
    pub fn restart_master(&mut self) {
        if !self.master_up {
            return;
        }
        self.master_up = false;
        self.tally.master_restarts += 1;
        let down = 20 + self.chance.below(60);
        self.after(down, Happening::MasterUp);
        let live = self
            .machines
            .iter_mut()
            .filter(|(_, one)| !one.ended && one.connected);
        let mut lost = Vec::new();
        for (id, one) in live {
            one.connected = false;
            lost.push(id.clone());
        }
        for id in lost {
            // Some take long: minutes in which the master does not list them.
            let most = if self.chance.one_in(4) { 600 } else { 30 };
            let back = down + self.chance.below(most);
            self.after(back, Happening::Connects(id));
        }
    }

    /// What the CI server says.
    pub fn demand(&mut self, now: Timestamp) -> Demand {
        self.advance(now);
        self.listed.clear();
        if !self.master_up {
            return Demand::Unreachable("the master restarts".to_owned());
        }
        let mut workers = BTreeMap::new();
        for (id, one) in &self.machines {
            if !one.ended && one.connected {
                let state = one.job.map_or(CiState::Idle, |_| CiState::Busy);
                workers.insert(id.clone(), state);
            }
        }
        self.listed = workers.keys().cloned().collect();
        Demand::Known {
            queued: u32::try_from(self.queue.len()).unwrap(),
            workers: Some(workers),
        }
    }

    /// Runs a command on a machine: its exit code and output.
    pub fn command(&mut self, id: &str, script: &str, now: Timestamp) -> (i32, String, Duration) {
        self.advance(now);
        let takes = Duration::from_secs(self.chance.below(4).unsigned_abs());
        let of_a_roll = script.contains(OF_A_ROLL);
        if script.contains("is-system-running") {
            return self.check(id, takes);
        }
        let line = script.lines().next().unwrap_or_default();
        let line = line.split("then ").nth(1).unwrap_or_default();
        let words = shlex::split(line).unwrap_or_default();
        let flag = |name: &str| {
            let at = words.iter().position(|word| word == name)?;
            words.get(at + 1).cloned()
        };
        let verb = words.get(1).cloned().unwrap_or_default();
        // What a roll may cordon is judged where it asks for it: see the wire.
        if verb == "cordon" && !of_a_roll {
            self.judge_cordon(id, &flag("--reason").unwrap_or_default());
        }
        let now = Moment::of(self.now);
        let generation = flag("--generation").and_then(|text| text.parse::<u64>().ok());
        let Some(one) = self.machines.get_mut(id) else {
            return (127, String::new(), takes);
        };
        let Some(agent) = one.agent.as_mut() else {
            // The command line speaks for a daemon that does not answer.
            let status = Status::silent("the agent does not answer".into(), self.now);
            if verb == "status" && !of_a_roll {
                one.said = Some(Said {
                    state: State::Unknown,
                    idle: 0,
                });
            }
            return (3, status.to_line(), takes);
        };
        if of_a_roll && verb == "cordon" && one.kept.cordon.is_none() {
            self.tally.canary_jobs += usize::from(one.job.is_some());
        }
        let decision: Result<_, Refused> = match (verb.as_str(), generation) {
            ("cordon", Some(generation)) => {
                agent.cordon(generation, flag("--reason"), now).map(Some)
            }
            ("uncordon", Some(generation)) => agent.uncordon(generation).map(Some),
            _ => Ok(None),
        };
        let code = match decision {
            Ok(Some(decision)) => {
                let next = decision.to_keep().clone();
                assert!(agent.keep(decision), "nothing happens in between");
                one.kept = next;
                0
            }
            Ok(None) => 0,
            Err(_) => 4,
        };
        match verb.as_str() {
            "cordon" if !of_a_roll => self.tally.cordons += 1,
            "uncordon" => self.tally.uncordons += 1,
            _ => {}
        }
        let status = agent.status(&Surroundings::default(), now);
        if verb == "status" && !of_a_roll {
            let idle = status
                .since
                .map_or(0, |since| status.at.duration_since(since).as_secs());
            one.said = Some(Said {
                state: status.state,
                idle,
            });
        } else if verb != "status" {
            self.look(id);
        }
        (code, status.to_line(), takes)
    }

    /// A roll's checks of a new machine: they wait for the agent, and pass once it answers.
    fn check(&mut self, id: &str, takes: Duration) -> (i32, String, Duration) {
        let Some(one) = self.machines.get(id) else {
            return (127, String::new(), takes);
        };
        let wait = match one.agent {
            Some(_) => 0,
            // It is started at the first look after that.
            None => one.down_until.duration_since(self.now).as_secs().max(0) + LOOK,
        };
        let (text, wait) = if wait < PATIENCE {
            self.tally.checks_passed += 1;
            ("piaas-check worker present\npiaas-check pass\n", wait)
        } else {
            self.tally.checks_failed += 1;
            let text =
                "piaas-check worker unknown\npiaas-check fail the worker agent does not answer\n";
            (text, PATIENCE)
        };
        let wait = Duration::from_secs(wait.unsigned_abs());
        (0, text.to_owned(), takes + wait)
    }

    /// Whether what is known of a worker allows for its cordon.
    fn judge_cordon(&mut self, id: &str, reason: &str) {
        let Some(said) = self.machines.get(id).and_then(|one| one.said.clone()) else {
            self.fault(format!("{id} is cordoned, and never said anything"));
            return;
        };
        if said.state == State::Unknown {
            self.fault(format!("{id} is cordoned, and was unknown"));
        }
        if !reason.contains("idle") {
            return;
        }
        if said.state != State::Idle || said.idle < self.idle_after {
            self.fault(format!("{id} is cordoned as idle, and said {said:?}"));
        }
        if !self.listed.contains(id) {
            self.fault(format!(
                "{id} is cordoned as idle, and the CI server did not list it"
            ));
        }
    }
}
