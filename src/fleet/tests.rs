//! The decision as a table, and its rules over random fleets.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

use super::decide::{Decision, Plan, Purpose, Turn, decide};
use super::memory::{Ending, Launch, Memory, Reply, VISIBLE};
use super::policy::Policy;
use super::preflight::{Refusal, judge};
use super::standing::{OURS, Standing};
use super::world::{
    CiState, Cordon, Demand, Group, Life, Member, Rolling, Said, State, Word, World,
};

const TURN: Turn = Turn {
    epoch: 3,
    number: 7,
};

fn now() -> Timestamp {
    "2026-01-01T12:00:00Z".parse().unwrap()
}

fn mins(count: i64) -> SignedDuration {
    SignedDuration::from_mins(count)
}

fn said(state: State, since: i64) -> Said {
    Said {
        state,
        since: Some(now() - mins(since)),
        at: now(),
        why: None,
        jobs: Vec::new(),
        cordon: None,
        drained: None,
    }
}

fn idle(since: i64) -> Word {
    Word::Said(said(State::Idle, since))
}

fn busy() -> Word {
    Word::Said(said(State::Busy, 3))
}

fn cordoned(state: State, ours: bool) -> Word {
    let reason = if ours {
        Purpose::ScaleIn.reason()
    } else {
        "by hand".to_owned()
    };
    let cordon = Some(Cordon {
        generation: 5,
        reason: Some(reason),
    });
    Word::Said(Said {
        cordon,
        ..said(state, 1)
    })
}

fn drained() -> Word {
    Word::Said(Said {
        drained: Some(5),
        ..said(State::Idle, 1)
    })
}

/// It answers, and does not know what its CI agent does.
fn unknown() -> Word {
    Word::Said(said(State::Unknown, 60))
}

fn silent() -> Word {
    Word::Silent("no answer".to_owned())
}

/// A worker that was launched an hour ago.
fn member(number: usize, word: Word) -> Member {
    Member {
        id: format!("i-{number}"),
        version: Some(1),
        zone: "a".to_owned(),
        life: Life::InService,
        healthy: true,
        protected: true,
        launched: Some(now() - mins(60)),
        power: "running".to_owned(),
        word,
    }
}

fn world(queued: u32, words: Vec<Word>) -> World {
    let members: Vec<Member> = words
        .into_iter()
        .enumerate()
        .map(|(number, word)| member(number, word))
        .collect();
    World {
        group: Group {
            name: "g".to_owned(),
            min: 0,
            max: 10,
            desired: u32::try_from(members.len()).unwrap(),
            version: Some("1".to_owned()),
            resolved: None,
            template: Some("lt-1".to_owned()),
            protects_new: true,
            suspended: vec!["AZRebalance".to_owned()],
            zones: vec!["a".to_owned()],
            warm_pool: false,
            members,
        },
        demand: Demand::Known {
            queued,
            workers: None,
        },
        rolling: None,
        gone: BTreeMap::new(),
    }
}

fn plan(world: &World) -> Plan {
    decide(world, &Policy::default(), &Memory::default(), TURN, now())
}

/// The decisions in short: `+2` launch, `-i-0` cordon, `~i-0` uncordon, `xi-0` terminate, with `!` without decrement.
fn short(plan: &Plan) -> Vec<String> {
    let one = |decision: &Decision| match decision {
        Decision::Launch { count, .. } => format!("+{count}"),
        Decision::Cordon { id, .. } => format!("-{id}"),
        Decision::Uncordon { id, .. } => format!("~{id}"),
        Decision::Terminate { id, decrement, .. } => {
            format!("x{id}{}", if *decrement { "" } else { "!" })
        }
    };
    plan.decisions.iter().map(one).collect()
}

#[test]
fn workers_come_when_they_are_missing_and_go_when_they_are_idle() {
    let cases: Vec<(&str, World, &[&str])> = vec![
        ("nothing to do, nobody there", world(0, vec![]), &[]),
        ("a first job", world(1, vec![]), &["+1"]),
        ("all are busy: one more", world(0, vec![busy()]), &["+1"]),
        (
            "a queue of three, none free",
            world(3, vec![busy()]),
            &["+3"],
        ),
        ("free ones count", world(3, vec![idle(0), busy()]), &["+2"]),
        (
            "the queue's own worker is free",
            world(1, vec![idle(0)]),
            &[],
        ),
        ("more than a tick launches", world(40, vec![]), &["+10"]),
        ("idle for long", world(0, vec![idle(11)]), &["-i-0"]),
        ("not for long enough", world(0, vec![idle(9)]), &[]),
        (
            "a spare stays while one is busy",
            world(0, vec![idle(11), busy()]),
            &[],
        ),
        (
            "but only one",
            world(0, vec![idle(11), idle(12), busy()]),
            &["-i-1"],
        ),
        (
            "the queue keeps them",
            world(2, vec![idle(11), idle(12)]),
            &[],
        ),
        (
            "unknown stays, and is no capacity",
            world(0, vec![silent()]),
            &[],
        ),
        (
            "unknown does not serve the queue",
            world(1, vec![silent()]),
            &["+1"],
        ),
        (
            "nor does one that does not know itself, and it stays too",
            world(1, vec![unknown()]),
            &["+1"],
        ),
        (
            "even where nothing is queued",
            world(0, vec![unknown()]),
            &[],
        ),
        ("drained goes", world(0, vec![drained()]), &["xi-0"]),
        (
            "cordoned, not drained: wait",
            world(0, vec![cordoned(State::Idle, true)]),
            &[],
        ),
        (
            "needed again: given back",
            world(1, vec![cordoned(State::Idle, true)]),
            &["~i-0"],
        ),
        (
            "one that still runs its job serves nobody yet",
            world(1, vec![cordoned(State::Busy, true)]),
            &["~i-0", "+1"],
        ),
        (
            "a person's cordon stays",
            world(1, vec![cordoned(State::Idle, false)]),
            &["+1"],
        ),
    ];
    for (what, world, expected) in cases {
        assert_eq!(short(&plan(&world)), expected, "{what}");
    }
}

#[test]
fn the_ci_server_can_only_say_no() {
    let listed = |workers: &[(&str, CiState)]| Demand::Known {
        queued: 0,
        workers: Some(
            workers
                .iter()
                .map(|(id, state)| ((*id).to_owned(), *state))
                .collect(),
        ),
    };
    let with = |word: Word, demand: Demand| World {
        demand,
        ..world(0, vec![word])
    };
    let cases = [
        (
            "both say idle",
            with(idle(11), listed(&[("i-0", CiState::Idle)])),
            vec!["-i-0"],
        ),
        (
            "it says busy",
            with(idle(11), listed(&[("i-0", CiState::Busy)])),
            vec!["+1"],
        ),
        ("it does not list it", with(idle(11), listed(&[])), vec![]),
        (
            "busy by its own word",
            with(busy(), listed(&[("i-0", CiState::Idle)])),
            vec!["+1"],
        ),
        (
            "unreachable: nobody goes",
            with(idle(11), Demand::Unreachable("x".into())),
            vec![],
        ),
        (
            "unreachable, all busy: one",
            with(busy(), Demand::Unreachable("x".into())),
            vec!["+1"],
        ),
        (
            "nobody is asked",
            with(idle(11), Demand::NotAsked),
            vec!["-i-0"],
        ),
    ];
    for (what, world, expected) in cases {
        assert_eq!(short(&plan(&world)), expected, "{what}");
    }
    let missing = with(idle(11), listed(&[]));
    assert!(matches!(
        plan(&missing).rows[0].standing,
        Standing::Unknown { .. }
    ));
    // A new one has not connected yet: it counts as booting until its deadline.
    let mut young = with(idle(0), listed(&[]));
    young.group.members[0].launched = Some(now() - mins(2));
    assert!(matches!(
        plan(&young).rows[0].standing,
        Standing::Booting { .. }
    ));
}

#[test]
fn booting_counts_until_its_deadline() {
    let mut young = world(1, vec![silent()]);
    young.group.members[0].launched = Some(now() - mins(9));
    assert_eq!(short(&plan(&young)), Vec::<String>::new());
    young.group.members[0].launched = Some(now() - mins(10));
    assert_eq!(short(&plan(&young)), ["+1"]);
    // What the group still has to launch counts too.
    let mut owed = world(1, vec![]);
    owed.group.desired = 1;
    assert_eq!(short(&plan(&owed)), Vec::<String>::new());
}

#[test]
fn the_groups_bounds_hold() {
    let mut full = world(5, vec![busy(), busy()]);
    full.group.max = 3;
    let seen = plan(&full);
    assert_eq!(short(&seen), ["+1"]);
    full.group.max = 2;
    let seen = plan(&full);
    assert_eq!(short(&seen), Vec::<String>::new());
    assert_eq!(seen.alarms[0].about, "maximum");
    assert!(
        seen.alarms[0]
            .way_out
            .as_ref()
            .unwrap()
            .contains("--max-size 7")
    );
    let mut least = world(0, vec![idle(11), idle(12), idle(13)]);
    least.group.min = 2;
    assert_eq!(short(&plan(&least)), ["-i-2"]);
    // At the minimum a drained worker is replaced, not taken away.
    let mut least = world(0, vec![drained(), idle(1)]);
    least.group.min = 2;
    assert_eq!(short(&plan(&least)), ["xi-0!"]);
    // And where there is one too many already, none need be taken from the desired number.
    let mut above = world(0, vec![drained(), idle(1)]);
    above.group.desired = 1;
    assert_eq!(short(&plan(&above)), ["xi-0!"]);
    // Of two drained workers above the minimum by one, the second waits for what the first does.
    let mut two = world(0, vec![drained(), drained(), idle(1)]);
    two.group.min = 2;
    assert_eq!(short(&plan(&two)), ["xi-0"]);
}

#[test]
fn a_launch_is_repeated_with_its_token_until_it_is_answered() {
    let world = world(3, vec![]);
    let mut memory = Memory::default();
    let first = decide(&world, &Policy::default(), &memory, TURN, now());
    memory.intend(&first.decisions[0], now());
    memory.learn(&first.decisions[0], &Reply::Lost("x".into()), now());
    // Later, another controller, another queue: the same launch.
    let later = Turn {
        epoch: 4,
        number: 1,
    };
    let mut other = world.clone();
    other.demand = Demand::Known {
        queued: 9,
        workers: None,
    };
    let again = decide(&other, &Policy::default(), &memory, later, now() + mins(5));
    let [Decision::Launch { count, token, .. }] = again.decisions.as_slice() else {
        panic!("{:?}", again.decisions)
    };
    let Decision::Launch { token: before, .. } = &first.decisions[0] else {
        panic!()
    };
    assert_eq!((*count, token), (3, before));
    // Answered, and not visible yet: nothing more is launched.
    let ids: Vec<String> = (0..3).map(|number| format!("i-{number}")).collect();
    let reply = Reply::Launched {
        ids,
        errors: vec![],
    };
    memory.learn(&again.decisions[0], &reply, now());
    let seen = decide(&other, &Policy::default(), &memory, later, now() + mins(1));
    assert_eq!(short(&seen), Vec::<String>::new());
    assert_eq!(seen.counts.booting, 3);
    // Never seen at all: it does not count for ever.
    memory.observe(&other, &[], now() + VISIBLE);
    let seen = decide(&other, &Policy::default(), &memory, later, now() + VISIBLE);
    assert_eq!(short(&seen), ["+9"]);
}

#[test]
fn a_launch_that_nobody_ever_answers_is_given_up_within_the_life_of_its_token() {
    let world = world(3, vec![]);
    let mut memory = Memory {
        launch: Some(Launch {
            token: "t".into(),
            count: 3,
            zone: None,
            asked: now() - mins(59),
            made: None,
        }),
        ..Memory::default()
    };
    memory.observe(&world, &[], now());
    assert!(memory.launch.is_some());
    memory.observe(&world, &[], now() + mins(1));
    assert!(memory.launch.is_none());
}

#[test]
fn a_termination_is_asked_for_once_and_again_only_if_nothing_came_of_it() {
    let mut seen = world(0, vec![drained(), busy(), idle(1)]);
    let mut memory = Memory::default();
    let first = decide(&seen, &Policy::default(), &memory, TURN, now());
    assert_eq!(short(&first), ["xi-0"]);
    memory.intend(&first.decisions[0], now());
    memory.learn(&first.decisions[0], &Reply::Lost("x".into()), now());
    let at = |memory: &Memory, world: &World, minutes: i64| {
        let plan = decide(
            world,
            &Policy::default(),
            memory,
            TURN,
            now() + mins(minutes),
        );
        short(&plan)
    };
    assert_eq!(at(&memory, &seen, 1), Vec::<String>::new());
    assert_eq!(at(&memory, &seen, 2), ["xi-0"]);
    // It is on its way out: never again.
    seen.group.members[0].life = Life::Terminating;
    assert_eq!(at(&memory, &seen, 9), Vec::<String>::new());
    // Gone from the group and ended in EC2: forgotten.
    seen.group.members.remove(0);
    seen.gone.insert("i-0".into(), "shutting-down".into());
    memory.observe(&seen, &[], now());
    assert!(memory.ends("i-0").is_some());
    seen.gone.insert("i-0".into(), "terminated".into());
    memory.observe(&seen, &[], now());
    assert!(memory.ends("i-0").is_none());
}

fn rolling(target: u64) -> Option<Rolling> {
    Some(Rolling {
        target: Some(target),
        what: "refresh r".into(),
    })
}

#[test]
fn a_refresh_drains_what_it_replaces_a_part_at_a_time() {
    // No idle time is waited for; the longest idle first, and busy ones after the idle ones.
    let mut roll = world(0, vec![idle(1), idle(2), busy(), busy()]);
    roll.rolling = rolling(2);
    assert_eq!(short(&plan(&roll)), ["-i-1"]);
    let Decision::Cordon { purpose, .. } = &plan(&roll).decisions[0] else {
        panic!()
    };
    assert_eq!(*purpose, Purpose::Refresh);
    // One is on its way: a quarter of four is one.
    let mut next = world(0, vec![idle(1), drained(), busy(), idle(1)]);
    next.rolling = rolling(2);
    assert_eq!(short(&plan(&next)), Vec::<String>::new());
    // Under load nobody is idle: one goes when its job ends, or the roll would never end.
    let mut loaded = world(9, vec![busy(), busy(), busy(), busy()]);
    loaded.rolling = rolling(2);
    assert_eq!(short(&plan(&loaded)), ["+6", "-i-0"]);
    // It is not given back to the queue.
    let mut loaded = world(9, vec![cordoned(State::Busy, true), busy(), busy(), busy()]);
    loaded.rolling = rolling(2);
    assert_eq!(short(&plan(&loaded)), ["+6"]);
    // Those on the new version do not go for idleness meanwhile, and a drained old one is the refresh's.
    let mut new = world(0, vec![idle(30), drained()]);
    new.group.members[0].version = Some(2);
    new.rolling = rolling(2);
    assert_eq!(short(&plan(&new)), Vec::<String>::new());
    // On the way back the old version is the target.
    let mut back = world(0, vec![idle(1), idle(1)]);
    back.group.members[0].version = Some(2);
    back.rolling = rolling(1);
    assert_eq!(short(&plan(&back)), ["-i-0"]);
}

#[test]
fn a_zone_without_capacity_is_left_alone_for_a_while() {
    let mut wide = world(2, vec![idle(0)]);
    wide.group.zones = vec!["a".into(), "b".into(), "c".into()];
    let zone = |memory: &Memory, at: Timestamp| {
        let plan = decide(&wide, &Policy::default(), memory, TURN, at);
        plan.decisions.iter().find_map(|decision| match decision {
            Decision::Launch { zone, .. } => zone.clone(),
            _ => None,
        })
    };
    let mut memory = Memory::default();
    assert_eq!(zone(&memory, now()).as_deref(), Some("b"));
    for (full, next) in [("b", Some("c")), ("c", Some("a")), ("a", None)] {
        let launch = Decision::Launch {
            count: 1,
            token: full.into(),
            zone: Some(full.into()),
            why: String::new(),
        };
        let reply = Reply::Launched {
            ids: vec![],
            errors: vec!["InsufficientInstanceCapacity: none".into()],
        };
        memory.intend(&launch, now());
        memory.learn(&launch, &reply, now());
        assert_eq!(zone(&memory, now()).as_deref(), next);
    }
    memory.observe(&wide, &[], now() + mins(4));
    assert_eq!(zone(&memory, now() + mins(4)).as_deref(), Some("b"));
}

#[test]
fn unknown_is_an_alarm_after_a_time_and_never_more() {
    let seen = world(0, vec![silent()]);
    let mut memory = Memory::default();
    memory.observe(&seen, &["i-0".into()], now());
    for (minutes, alarms) in [(0, 0), (14, 0), (15, 1), (10_000, 1)] {
        let plan = decide(
            &seen,
            &Policy::default(),
            &memory,
            TURN,
            now() + mins(minutes),
        );
        assert_eq!(plan.alarms.len(), alarms, "{minutes}");
        assert_eq!(short(&plan), Vec::<String>::new(), "{minutes}");
    }
}

#[test]
fn a_group_that_cannot_be_run_is_refused_with_the_mending_command() {
    let good = world(0, vec![]);
    assert_eq!(judge(&good, &Policy::default()), Ok(()));
    type Spoil = fn(&mut World);
    let cases: Vec<(Spoil, &str)> = vec![
        (
            |world| world.group.version = Some("$Latest".into()),
            "Version=4'",
        ),
        (
            |world| world.group.protects_new = false,
            "--new-instances-protected-from-scale-in",
        ),
        (
            |world| world.group.suspended.clear(),
            "--scaling-processes AZRebalance",
        ),
        (
            |world| world.group.suspended.push("Launch".into()),
            "resume-processes",
        ),
        (|world| world.group.warm_pool = true, "delete-warm-pool"),
        (|world| world.demand = Demand::NotAsked, "min_idle"),
    ];
    for (spoil, way_out) in cases {
        let mut bad = good.clone();
        bad.group.resolved = Some(4);
        spoil(&mut bad);
        let refusal: Refusal = judge(&bad, &Policy::default()).unwrap_err();
        assert!(
            refusal.way_out().contains(way_out),
            "{refusal}: {}",
            refusal.way_out()
        );
    }
}

fn any_word() -> impl Strategy<Value = Word> {
    let state = prop_oneof![Just(State::Busy), Just(State::Idle), Just(State::Unknown)];
    let said = (
        state,
        0..30_i64,
        any::<Option<bool>>(),
        prop::bool::weighted(0.2),
    );
    prop_oneof![
        1 => Just(silent()),
        5 => said.prop_map(|(state, since, ours, is_drained)| {
            let cordon = ours.map(|ours| Cordon {
                generation: 5,
                reason: ours.then(|| format!("{OURS}x")),
            });
            let drained = (is_drained && cordon.is_some()).then_some(5);
            Word::Said(Said { cordon, drained, ..super::tests::said(state, since) })
        }),
    ]
}

prop_compose! {
    fn any_member()(
        word in any_word(),
        life in prop_oneof![
            8 => Just(Life::InService), 1 => Just(Life::Pending),
            1 => Just(Life::Standby), 1 => Just(Life::Terminating),
        ],
        healthy in prop::bool::weighted(0.9),
        version in 1..3_u64,
        age in 0..30_i64,
    ) -> Member {
        Member { version: Some(version), life, healthy, launched: Some(now() - mins(age)), ..member(0, word) }
    }
}

prop_compose! {
    fn any_world()(
        members in prop::collection::vec(any_member(), 0..12),
        queued in prop_oneof![Just(None), (0..20_u32).prop_map(Some)],
        listed in any::<Option<u16>>(),
        busy in any::<u16>(),
        bounds in (0..4_u32, 4..14_u32),
        extra in 0..4_i32,
        target in prop_oneof![3 => Just(None), 1 => (1..3_u64).prop_map(Some)],
    ) -> World {
        let mut world = world(0, vec![]);
        let bit = |bits: u16, place: usize| bits >> place & 1 == 1;
        let workers = listed.map(|bits| (0..members.len())
            .filter(|place| bit(bits, *place))
            .map(|place| {
                let state = if bit(busy, place) { CiState::Busy } else { CiState::Idle };
                (format!("i-{place}"), state)
            })
            .collect());
        world.group.members = members;
        for (number, member) in world.group.members.iter_mut().enumerate() {
            member.id = format!("i-{number}");
        }
        let alive = world.group.members.iter().filter(|member| !member.is_ending()).count();
        (world.group.min, world.group.max) = bounds;
        let desired = i32::try_from(alive).unwrap() + extra - 1;
        world.group.desired = desired.clamp(world.group.min as i32, world.group.max as i32) as u32;
        world.demand = match queued {
            Some(queued) => Demand::Known { queued, workers },
            None if bit(busy, 15) => Demand::NotAsked,
            None => Demand::Unreachable("x".into()),
        };
        world.rolling = target.and_then(rolling);
        world
    }
}

fn any_memory() -> impl Strategy<Value = Memory> {
    let ending = prop::collection::btree_map(0..12_usize, (0..5_i64, any::<bool>()), 0..4);
    let launch = prop_oneof![Just(None), (1..5_u32, any::<bool>()).prop_map(Some)];
    (ending, launch).prop_map(|(ending, launch)| Memory {
        ending: ending
            .into_iter()
            .map(|(number, (minutes, decrement))| {
                let asked = (now() - mins(minutes)).as_second();
                let ending = Ending {
                    since: asked,
                    asked,
                    decrement,
                };
                (format!("i-{number}"), ending)
            })
            .collect(),
        launch: launch.map(|(count, answered)| Launch {
            token: "open".into(),
            count,
            zone: None,
            asked: now() - mins(1),
            made: answered.then(|| (now() - mins(1), vec!["i-new".into()])),
        }),
        ..Memory::default()
    })
}

proptest! {
    /// Whatever is seen, whatever is in flight.
    #[test]
    fn the_rules_hold_for_any_fleet(world in any_world(), memory in any_memory()) {
        let plan = decide(&world, &Policy::default(), &memory, TURN, now());
        let find = |id: &str| world.group.members.iter().find(|member| member.id == id).unwrap();
        let word = |id: &str| match &find(id).word {
            Word::Said(said) => Some(said.clone()),
            Word::Silent(_) => None,
        };
        let (mut decrements, mut launches, mut seen) = (0, 0, Vec::new());
        for decision in &plan.decisions {
            if let Some(id) = decision.instance() {
                // One thing at a time for one worker, and nothing for what is not ours to move.
                prop_assert!(!seen.contains(&id.to_owned()), "{decision:?}");
                seen.push(id.to_owned());
                prop_assert!(!find(id).is_ending() && find(id).life == Life::InService);
            }
            match decision {
                Decision::Terminate { id, decrement, .. } => {
                    // Only what said itself that it is drained.
                    prop_assert!(word(id).is_some_and(|said| said.drained.is_some()));
                    if let Some(before) = memory.ends(id) {
                        prop_assert!(!before.is_fresh(now()));
                    }
                    decrements += u32::from(*decrement);
                }
                Decision::Cordon { id, purpose, .. } => {
                    let said = word(id);
                    prop_assert!(said.as_ref().is_some_and(|said| said.state != State::Unknown));
                    let said = said.unwrap();
                    prop_assert!(said.cordon.is_none() && said.drained.is_none());
                    if *purpose == Purpose::ScaleIn {
                        prop_assert!(said.state == State::Idle);
                        prop_assert!(said.lasts().unwrap() >= mins(10));
                        prop_assert!(world.rolling.is_none());
                        match &world.demand {
                            Demand::Unreachable(_) => prop_assert!(false, "nobody knows the queue"),
                            Demand::Known { workers: Some(workers), .. } => {
                                prop_assert_eq!(workers.get(id), Some(&CiState::Idle));
                            }
                            _ => {}
                        }
                    } else {
                        prop_assert!(world.rolling.as_ref().unwrap().target != find(id).version);
                    }
                }
                Decision::Uncordon { id, .. } => {
                    let said = word(id).unwrap();
                    let ours = said.cordon.unwrap().reason.is_some_and(|why| why.starts_with(OURS));
                    prop_assert!(said.drained.is_none() && ours);
                }
                Decision::Launch { count, token, .. } => {
                    launches += 1;
                    match &memory.launch {
                        Some(open) if open.made.is_none() => prop_assert_eq!(token, &open.token),
                        _ => {
                            prop_assert!(memory.launch.is_none());
                            prop_assert!(world.group.desired + count <= world.group.max);
                        }
                    }
                }
            }
        }
        prop_assert!(launches <= 1);
        prop_assert!(decrements == 0 || world.group.desired - decrements >= world.group.min);
        // Nobody is sent away while somebody else is missing.
        let goes = plan.decisions.iter().any(|one| matches!(one, Decision::Cordon { purpose: Purpose::ScaleIn, .. }));
        prop_assert!(!goes || plan.counts.idle > plan.required);
    }
}
