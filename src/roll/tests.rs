//! The decision against a model of a group: whatever happens, a roll ends with one version everywhere, and nothing is
//! left; and the single decisions, as a table.

mod model;

use model::Model;
use proptest::prelude::*;

use super::next::next;
use super::record::{Heading, Outcome, Worker};
use super::refresh::ATTEMPTS;
use super::step::{Call, Note, Reply, Step};
use super::world::{Check, Difference, Emptiness, Errand, Refresh, Request, Status};

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
    // Looks are 5 s apart: 6 hours.
    let mut model = Model::new(&[4320, 0, 1500]);
    let outcome = model.run(&[]);
    assert_eq!(outcome, Outcome::RolledOut);
    model.assert_end(outcome);
    assert!((6..=10).contains(&model.starts), "{}", model.starts);
    // None ran into the hour after which Auto Scaling fails it, and undoes it.
    let ends: Vec<Status> = model.world.refreshes.iter().map(|one| one.status).collect();
    assert!(!ends.contains(&Status::Failed), "{ends:?}");
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
fn a_refresh_that_busy_workers_made_fail_is_no_fault_of_the_image() {
    for status in [Status::Failed, Status::RollbackSuccessful] {
        let mut model = Model::new(&[3, 0]);
        model.run_until(
            |step| matches!(step, Step::Wait { reason, .. } if reason.contains("refresh")),
        );
        let active = model.active().unwrap();
        active.status = status;
        active.reason = "1 instance is protected from scale in".into();
        let step = next(&model.record, &model.world, model.now);
        assert!(
            matches!(step, Step::Act(Call::Note(Note::RefreshBusy(_)))),
            "{step:?}"
        );
        let outcome = model.run(&[]);
        assert_eq!(outcome, Outcome::RolledOut);
        assert_eq!(model.starts, 2);
    }
}

#[test]
fn a_refresh_that_fails_or_is_cancelled_by_others_turns_the_roll_back() {
    for (status, reason) in [
        (Status::Failed, "cannot launch"),
        (Status::RollbackInProgress, "cannot launch"),
        (Status::Cancelled, "somebody cancelled refresh refresh-1"),
    ] {
        let mut model = Model::new(&[0, 0]);
        model.run_until(
            |step| matches!(step, Step::Wait { reason, .. } if reason.contains("refresh")),
        );
        let active = model.active().unwrap();
        active.status = status;
        active.reason = "cannot launch".into();
        let outcome = model.run(&[]);
        assert_eq!(outcome, Outcome::RolledBack);
        model.assert_end(outcome);
        let told = model.record.reason.unwrap();
        assert!(told.contains(reason), "{told}");
    }
}

#[test]
fn it_is_not_over_before_every_new_instance_has_passed() {
    let mut model = Model::new(&[0, 0]);
    assert_eq!(model.run(&[]), Outcome::RolledOut);
    model.record.outcome = None;
    model.group().members[0].check = Check::Underway;
    let step = next(&model.record, &model.world, model.now);
    assert!(matches!(step, Step::Wait { .. }), "{step:?}");
    model.group().members[0].check = Check::NotYet;
    let step = next(&model.record, &model.world, model.now);
    assert!(matches!(step, Step::Act(Call::CheckMembers(_))), "{step:?}");
}

#[test]
fn an_unhealthy_new_instance_turns_the_roll_back() {
    let mut model = Model::new(&[0, 0]);
    model.run_until(|step| matches!(step, Step::Act(Call::CheckMembers(_))));
    let new = model
        .group()
        .members
        .iter_mut()
        .find(|one| one.version == Some(4));
    new.unwrap().healthy = false;
    let step = next(&model.record, &model.world, model.now);
    assert!(
        matches!(&step, Step::Act(Call::Note(Note::TurnBack(why))) if why.contains("is unhealthy")),
        "{step:?}"
    );
}

#[test]
fn a_lost_reply_is_recovered_from_what_is_seen_or_by_the_same_token() {
    // The refresh: matched on its version, among those newer than the call.
    let mut model = Model::new(&[0, 0]);
    model.run_until(|step| matches!(step, Step::Act(Call::StartRefresh(_))));
    model.step(true);
    let step = next(&model.record, &model.world, model.now);
    let found = Note::RefreshFound {
        id: "refresh-1".into(),
        version: 4,
    };
    assert_eq!(step, Step::Act(Call::Note(found.clone())));
    // Also by a roll that has turned back meanwhile, which rolls it back.
    model.record.turn_back("test");
    let step = next(&model.record, &model.world, model.now);
    assert_eq!(step, Step::Act(Call::Note(found)));
    model.step(false);
    let step = next(&model.record, &model.world, model.now);
    assert_eq!(step, Step::Act(Call::RollbackRefresh("refresh-1".into())));
    // The version: found by its description, else asked for with the same token, also on the way back.
    let mut model = Model::new(&[0]);
    model.step(true);
    let step = next(&model.record, &model.world, model.now);
    assert_eq!(step, Step::Act(Call::Note(Note::VersionFound(4))));
    model.world.versions.clear();
    model.record.turn_back("test");
    model.record.canary.gone = true;
    let step = next(&model.record, &model.world, model.now);
    assert_eq!(step, Step::Act(Call::CreateVersion));
    // The canary, in the same way.
    let mut model = Model::new(&[0]);
    model.run_until(|step| matches!(step, Step::Act(Call::LaunchCanary)));
    model.step(true);
    let step = next(&model.record, &model.world, model.now);
    assert_eq!(
        step,
        Step::Act(Call::Note(Note::CanaryFound("i-canary".into())))
    );
    model.world.canary = None;
    model.record.turn_back("test");
    let step = next(&model.record, &model.world, model.now);
    assert_eq!(step, Step::Act(Call::LaunchCanary));
}

#[test]
fn a_version_in_use_is_waited_for_and_then_left_with_its_command() {
    let mut model = Model::new(&[0]);
    model.canary_bad = true;
    model.run_until(|step| matches!(step, Step::Act(Call::DropVersion(4))));
    model.world.users = Some(vec!["i-9".into()]);
    for _ in 0..200 {
        let step = next(&model.record, &model.world, model.now);
        match step {
            Step::Done(outcome) => {
                assert_eq!(outcome, Outcome::RolledBack);
                break;
            }
            Step::Wait { until, .. } => model.now = until,
            Step::Act(call) => {
                assert!(matches!(call, Call::Note(_)), "{call:?}");
                model.record.learn(&call, &Reply::Done, model.now);
            }
        }
    }
    let left = model.record.left.join("\n");
    assert!(left.contains("used by i-9"), "{left}");
    assert!(
        left.contains("delete-launch-template-versions --launch-template-id lt-1 --versions 4")
    );
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
