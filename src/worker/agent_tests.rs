use proptest::prelude::*;

use super::*;

fn at(seconds: u64) -> Moment {
    Moment {
        wall: Timestamp::from_second(1_800_000_000 + i64::try_from(seconds).unwrap()).unwrap(),
        up: Duration::from_secs(seconds),
    }
}

fn fresh() -> Agent {
    Agent::start(None, Some("i-1".into()), at(0))
}

fn look(agent: &mut Agent, jobs: Jobs, intake: Intake, seconds: u64) {
    let look = agent.begin_look();
    if let Some(decision) = agent.end_look(look, Seen { jobs, intake }, at(seconds)) {
        assert!(agent.keep(decision));
    }
}

fn cordon(agent: &mut Agent, generation: u64) {
    let decision = agent.cordon(generation, None, at(1)).unwrap();
    assert!(agent.keep(decision));
}

fn uncordon(agent: &mut Agent, generation: u64) {
    let decision = agent.uncordon(generation).unwrap();
    assert!(agent.keep(decision));
}

fn status(agent: &Agent, seconds: u64) -> Status {
    agent.status(&Surroundings::default(), at(seconds))
}

#[test]
fn a_job_ends_before_its_worker_is_drained() {
    let mut agent = fresh();
    look(
        &mut agent,
        Jobs::Busy(vec!["build".into()]),
        Intake::Open,
        1,
    );
    assert_eq!(agent.order(), None);
    cordon(&mut agent, 7);
    assert_eq!(agent.order(), Some(Order::Close));
    agent.carried_out(Order::Close);
    look(
        &mut agent,
        Jobs::Busy(vec!["build".into()]),
        Intake::Closing,
        2,
    );
    look(
        &mut agent,
        Jobs::Busy(vec!["build".into()]),
        Intake::Closed,
        3,
    );
    look(
        &mut agent,
        Jobs::Busy(vec!["build".into()]),
        Intake::Closed,
        4,
    );
    assert!(agent.wants_protection());
    let said = status(&agent, 4);
    assert_eq!(
        (said.state, said.jobs, said.drained),
        (State::Busy, vec!["build".to_owned()], None)
    );
    look(&mut agent, Jobs::Idle, Intake::Closed, 5);
    let drained = status(&agent, 6).drained.unwrap();
    assert_eq!((drained.generation, drained.at), (7, at(5).wall));
    assert!(!agent.wants_protection());
    assert_eq!(agent.order(), None);
}

#[test]
fn a_closed_intake_counts_only_after_the_order_and_the_emptiness_only_after_that() {
    let mut agent = fresh();
    // The CI agent has not started yet when the cordon comes.
    look(&mut agent, Jobs::Idle, Intake::Closed, 1);
    cordon(&mut agent, 1);
    let early = agent.begin_look();
    look(&mut agent, Jobs::Idle, Intake::Closed, 2);
    look(&mut agent, Jobs::Idle, Intake::Closed, 3);
    agent.carried_out(Order::Close);
    let seen = Seen {
        jobs: Jobs::Idle,
        intake: Intake::Closed,
    };
    assert_eq!(agent.end_look(early, seen.clone(), at(4)), None);
    let second = agent.begin_look();
    let third = agent.begin_look();
    assert_eq!(agent.end_look(second, seen.clone(), at(5)), None);
    // It began before the second one ended: the job may have started before that.
    assert_eq!(agent.end_look(third, seen.clone(), at(6)), None);
    let fourth = agent.begin_look();
    assert!(agent.end_look(fourth, seen, at(7)).is_some());
}

#[test]
fn what_was_not_kept_is_not_in_force() {
    let mut agent = fresh();
    let decision = agent.cordon(3, None, at(1)).unwrap();
    assert_eq!((agent.order(), status(&agent, 1).cordon), (None, None));
    // Another command came in between.
    cordon(&mut agent, 2);
    assert!(!agent.keep(decision));
    assert_eq!(status(&agent, 1).cordon.unwrap().generation, 2);
}

#[test]
fn an_uncordoned_worker_is_told_to_open_until_it_is_seen_open() {
    let mut agent = fresh();
    look(&mut agent, Jobs::Idle, Intake::Open, 1);
    cordon(&mut agent, 1);
    agent.carried_out(Order::Close);
    uncordon(&mut agent, 2);
    // The look is from before the order.
    look(&mut agent, Jobs::Idle, Intake::Open, 2);
    assert_eq!(agent.order(), Some(Order::Open));
    agent.carried_out(Order::Open);
    look(&mut agent, Jobs::Idle, Intake::Closed, 3);
    assert_eq!(agent.order(), Some(Order::Open));
    agent.carried_out(Order::Open);
    look(&mut agent, Jobs::Idle, Intake::Open, 4);
    assert_eq!(agent.order(), None);
    assert!(!agent.kept().reopening);
    // A unit that somebody stops by hand is their business.
    look(&mut agent, Jobs::Idle, Intake::Closed, 5);
    assert_eq!(agent.order(), None);
}

#[test]
fn late_commands_are_refused_and_repeats_are_not() {
    let mut agent = fresh();
    uncordon(&mut agent, 5);
    uncordon(&mut agent, 5);
    cordon(&mut agent, 6);
    cordon(&mut agent, 6);
    let stale = |given, seen| Refused::Stale { given, seen };
    assert_eq!(agent.cordon(5, None, at(2)), Err(stale(5, 6)));
    assert_eq!(agent.uncordon(6), Err(stale(6, 6)));
    uncordon(&mut agent, 7);
    assert_eq!(agent.cordon(6, None, at(2)), Err(stale(6, 7)));
    // The same number for another command is no repeat.
    assert_eq!(agent.cordon(7, None, at(2)), Err(stale(7, 7)));
}

#[test]
fn drained_is_final_and_answers_to_later_cordons() {
    let mut agent = fresh();
    cordon(&mut agent, 1);
    agent.carried_out(Order::Close);
    look(&mut agent, Jobs::Idle, Intake::Closed, 1);
    look(&mut agent, Jobs::Idle, Intake::Closed, 2);
    assert_eq!(agent.uncordon(9), Err(Refused::Drained));
    cordon(&mut agent, 8);
    let mut agent = Agent::start(Some(agent.kept().clone()), Some("i-1".into()), at(9));
    let said = status(&agent, 9);
    assert_eq!(said.state, State::Unknown);
    assert_eq!(
        said.drained,
        Some(Drained {
            generation: 8,
            at: at(2).wall
        })
    );
    // The order is given anew: nothing is known of before.
    assert_eq!(agent.order(), Some(Order::Close));
    agent.carried_out(Order::Close);
    look(&mut agent, Jobs::Idle, Intake::Closed, 10);
    assert_eq!(agent.order(), None);
    // Somebody starts it by hand.
    look(&mut agent, Jobs::Idle, Intake::Open, 11);
    assert_eq!(agent.order(), Some(Order::Close));
}

#[test]
fn the_state_of_another_instance_is_none() {
    let mut agent = fresh();
    cordon(&mut agent, 1);
    let kept = Some(agent.kept().clone());
    let same = Agent::start(kept.clone(), Some("i-1".into()), at(0));
    assert!(same.kept().cordon.is_some());
    let unnamed = Agent::start(kept.clone(), None, at(0));
    assert!(unnamed.kept().cordon.is_some());
    let other = Agent::start(kept, Some("i-2".into()), at(0));
    assert_eq!(other.kept().cordon, None);
    assert_eq!(other.kept().generation, None);
}

#[test]
fn time_in_a_state_is_measured_by_a_clock_that_nobody_sets() {
    let mut agent = fresh();
    look(&mut agent, Jobs::Busy(Vec::new()), Intake::Open, 1);
    look(&mut agent, Jobs::Idle, Intake::Open, 10);
    look(&mut agent, Jobs::Idle, Intake::Open, 25);
    let mut now = at(30);
    now.wall += Duration::from_secs(3600);
    let said = agent.status(&Surroundings::default(), now);
    assert_eq!(
        said.at.duration_since(said.since.unwrap()).as_secs(),
        20,
        "an hour's step of the wall clock is no hour of idleness"
    );
    // Nothing is known of a machine that nobody looked at.
    let said = status(&agent, 56);
    assert_eq!(
        (said.state, said.since.unwrap()),
        (State::Unknown, at(25).wall)
    );
    assert_eq!(said.why.unwrap(), "the last look was 31 s ago");
    look(
        &mut agent,
        Jobs::Unknown("hung".into()),
        Intake::Unknown,
        60,
    );
    assert_eq!(status(&agent, 60).why.unwrap(), "hung");
    look(&mut agent, Jobs::Idle, Intake::Open, 61);
    assert_eq!(status(&agent, 62).since.unwrap(), at(61).wall);
}

/// What can happen to a worker, in any order.
#[derive(Debug, Clone)]
enum Event {
    Cordon(u64, bool),
    Uncordon(u64, bool),
    /// The dispatcher gives it a job, if its intake is not closed.
    Dispatch,
    Finish,
    /// A CI agent that was told to close does so.
    Settle,
    /// The CI agent starts, or crashes and starts again, unless it is held back.
    StartUnit,
    BeginLook,
    SampleJobs,
    SampleIntake,
    /// Whether the look finds out anything, and whether its decision can be kept.
    EndLook(bool, bool),
    BeginOrder,
    EndOrder(bool),
    AgentRestarts,
    MachineReboots,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (0..30u64, prop::bool::weighted(0.9)).prop_map(|(g, kept)| Event::Cordon(g, kept)),
        1 => (0..30u64, prop::bool::weighted(0.9)).prop_map(|(g, kept)| Event::Uncordon(g, kept)),
        4 => Just(Event::Dispatch),
        4 => Just(Event::Finish),
        3 => Just(Event::Settle),
        2 => Just(Event::StartUnit),
        8 => Just(Event::BeginLook),
        6 => Just(Event::SampleJobs),
        6 => Just(Event::SampleIntake),
        8 => (prop::bool::weighted(0.9), prop::bool::weighted(0.9))
            .prop_map(|(well, kept)| Event::EndLook(well, kept)),
        6 => Just(Event::BeginOrder),
        6 => prop::bool::weighted(0.9).prop_map(Event::EndOrder),
        1 => Just(Event::AgentRestarts),
        1 => Just(Event::MachineReboots),
    ]
}

/// A machine with a CI agent, and the agent under test on it.
struct World {
    agent: Agent,
    disk: Kept,
    /// The truth.
    jobs: u32,
    intake: Intake,
    held: bool,
    /// A look that is under way, with what it has seen so far: jobs and intake are not seen at one time.
    look: Option<(Look, Option<Jobs>, Option<Intake>)>,
    order: Option<Order>,
    clock: u64,
}

impl World {
    fn new() -> Self {
        Self {
            agent: fresh(),
            disk: Kept::default(),
            jobs: 0,
            intake: Intake::Closed,
            held: false,
            look: None,
            order: None,
            clock: 0,
        }
    }

    fn keep(&mut self, decision: Decision, works: bool) {
        if works {
            self.disk = decision.to_keep().clone();
            assert!(self.agent.keep(decision));
        }
    }

    fn command(&mut self, generation: u64, works: bool, cordon: bool) {
        let before = self.disk.clone();
        let late = before.generation.is_some_and(|seen| generation < seen);
        let answer = if cordon {
            self.agent.cordon(generation, None, at(self.clock))
        } else {
            self.agent.uncordon(generation)
        };
        match answer {
            Ok(decision) => {
                assert!(!late, "a late command was taken");
                assert!(cordon || before.drained.is_none(), "drained is final");
                self.keep(decision, works);
            }
            Err(Refused::Drained) => assert!(before.drained.is_some() && !cordon),
            Err(Refused::Stale { seen, .. }) => assert!(generation <= seen),
        }
    }

    fn happen(&mut self, event: Event) {
        self.clock += 1;
        match event {
            Event::Cordon(generation, works) => self.command(generation, works, true),
            Event::Uncordon(generation, works) => self.command(generation, works, false),
            Event::Dispatch if self.intake != Intake::Closed => {
                assert_eq!(self.disk.drained, None, "a job starts on a drained worker");
                self.jobs += 1;
            }
            Event::Finish => self.jobs = self.jobs.saturating_sub(1),
            Event::Settle if self.intake == Intake::Closing => self.intake = Intake::Closed,
            Event::StartUnit if self.held => self.intake = Intake::Closed,
            Event::StartUnit => self.intake = Intake::Open,
            Event::BeginLook if self.look.is_none() && self.order.is_none() => {
                self.look = Some((self.agent.begin_look(), None, None));
            }
            Event::SampleJobs => {
                if let Some((_, jobs, _)) = &mut self.look {
                    *jobs = Some(match self.jobs {
                        0 => Jobs::Idle,
                        count => Jobs::Busy(vec!["job".into(); count as usize]),
                    });
                }
            }
            Event::SampleIntake => {
                if let Some((_, _, intake)) = &mut self.look {
                    *intake = Some(self.intake);
                }
            }
            Event::EndLook(well, works) => {
                if let Some((look, jobs, intake)) = self.look.take() {
                    let unknown = || Jobs::Unknown("no sample".into());
                    let seen = Seen {
                        jobs: jobs.filter(|_| well).unwrap_or_else(unknown),
                        intake: intake.filter(|_| well).unwrap_or(Intake::Unknown),
                    };
                    if let Some(decision) = self.agent.end_look(look, seen, at(self.clock)) {
                        self.keep(decision, works);
                    }
                }
            }
            Event::BeginOrder if self.look.is_none() && self.order.is_none() => {
                self.order = self.agent.order();
            }
            Event::EndOrder(works) => match self.order.take() {
                Some(Order::Close) if works => {
                    self.held = true;
                    if self.intake == Intake::Open {
                        self.intake = Intake::Closing;
                    }
                    self.agent.carried_out(Order::Close);
                }
                // One that closes cannot be opened before it has closed.
                Some(Order::Open) if works && self.intake != Intake::Closing => {
                    assert_eq!(self.disk.drained, None, "a drained worker is opened");
                    self.held = false;
                    self.intake = Intake::Open;
                    self.agent.carried_out(Order::Open);
                }
                _ => {}
            },
            Event::AgentRestarts => self.restart(),
            Event::MachineReboots => {
                self.jobs = 0;
                self.intake = Intake::Closed;
                self.restart();
            }
            _ => {}
        }
        self.check();
    }

    fn restart(&mut self) {
        (self.look, self.order) = (None, None);
        self.agent = Agent::start(Some(self.disk.clone()), Some("i-1".into()), at(self.clock));
    }

    fn check(&self) {
        let said = self.agent.status(&Surroundings::default(), at(self.clock));
        assert_eq!(said.drained, self.disk.drained, "said but not kept");
        assert_eq!(said.cordon, self.disk.cordon, "said but not kept");
        assert_eq!(self.agent.wants_protection(), self.disk.drained.is_none());
        if self.disk.drained.is_some() {
            assert_eq!(self.jobs, 0, "drained while a job runs");
            assert!(self.held && self.intake == Intake::Closed);
            assert_ne!(self.agent.order(), Some(Order::Open));
        }
    }

    /// A while in which everything works, and jobs end.
    fn calm(&mut self) {
        for _ in 0..4 {
            for event in [
                Event::Finish,
                Event::EndLook(true, true),
                Event::EndOrder(true),
                Event::BeginOrder,
                Event::EndOrder(true),
                Event::Settle,
                Event::BeginLook,
                Event::SampleJobs,
                Event::SampleIntake,
                Event::EndLook(true, true),
            ] {
                self.happen(event);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_no_job_dies_with_a_drained_worker(events in prop::collection::vec(event(), 0..120)) {
        let mut world = World::new();
        let mut highest = None;
        for event in events {
            let drained = world.disk.drained.is_some();
            world.happen(event);
            prop_assert!(world.disk.generation >= highest, "generations only rise");
            prop_assert!(!drained || world.disk.drained.is_some(), "drained is final");
            highest = world.disk.generation;
        }
        // It does not hang: an uncordoned worker opens, a cordoned one is drained.
        if world.disk.drained.is_none() {
            world.happen(Event::Uncordon(100, true));
            world.jobs = world.jobs.min(3);
            world.calm();
            prop_assert!(!world.disk.reopening);
            prop_assert_eq!(world.agent.order(), None);
        }
        world.happen(Event::Cordon(101, true));
        world.jobs = world.jobs.min(3);
        world.calm();
        prop_assert_eq!(world.disk.drained.as_ref().map(|drained| drained.generation), Some(101));
    }
}
