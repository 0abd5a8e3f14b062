//! A roll is killed, on its way there and on its way back: it is gone on with, or turned back, and no job ends with it.

use std::os::unix::process::ExitStatusExt as _;
use std::time::Instant;

use piaas_bake::localcloud::BASE_IMAGE;

use super::workers::{Fleet, GROUP};
use super::{Context, Point, SIGKILL, all_of, report, thinned};
use crate::aws;
use crate::support::machines_wanted;

/// Rolls at the same time: they look at their group every few seconds, and do nothing else.
const ROLLS: usize = 32;

/// A group of two, one of them with a job, and the words that roll it.
async fn before() -> (Fleet, Vec<String>) {
    let fleet = Fleet::new(2).await;
    fleet.workers().patience = Some(2);
    let words = format!(
        "roll start {GROUP} --image {} --warmup 1s --max-healthy 200 --canary-check true",
        fleet.image
    );
    (fleet, words.split(' ').map(str::to_owned).collect())
}

fn strs(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

/// A group that was rolled out.
async fn rolled_out() -> Fleet {
    let (fleet, start) = before().await;
    let _ = fleet.world.run(&strs(&start)).await.expect_code(0);
    fleet
}

impl Fleet {
    /// All that is in the group runs this image by this version, nothing else is there, and no job was killed.
    async fn assert_all_on(&self, version: u64, context: &str) {
        self.assert_sound(context).await;
        let clients = &self.world.clients;
        let group = aws::find_group(clients, GROUP).await.unwrap();
        assert_eq!(group.desired_capacity(), Some(2), "{context}");
        let wanted = version.to_string();
        let launches = group.launch_template().and_then(|one| one.version());
        assert_eq!(launches, Some(wanted.as_str()), "{context}");
        let image = if version == 1 {
            BASE_IMAGE
        } else {
            &self.image
        };
        let members = aws::in_service(clients, GROUP).await;
        let images = aws::images_of(clients, members).await;
        assert_eq!(images, [image, image], "{context}");
        let versions = clients.ec2.describe_launch_template_versions();
        let versions = versions.launch_template_id(&self.template).send().await;
        let kept = versions.unwrap().launch_template_versions().len();
        assert_eq!(kept, if version == 1 { 1 } else { 2 }, "{context}");
        assert_eq!(self.world.unfinished(), 0, "{context}");
        self.assert_one_lease(context).await;
    }

    /// How the group's newest roll ended: `None` if there is none, or it is not over.
    async fn outcome(&self) -> Option<String> {
        let run = self
            .world
            .run(&["roll", "status", GROUP, "--format", "json"])
            .await;
        let status: serde_json::Value = serde_json::from_str(&run.stdout).ok()?;
        status["record"]["outcome"].as_str().map(str::to_owned)
    }

    /// How its refreshes stand, the newest first.
    async fn refreshes(&self) -> Vec<String> {
        let call = self.world.clients.autoscaling.describe_instance_refreshes();
        let answer = call.auto_scaling_group_name(GROUP).send().await.unwrap();
        let stands = answer.instance_refreshes().iter().map(|one| {
            let reason = one.status_reason().unwrap_or_default();
            format!("{} {reason}", one.status().unwrap().as_str())
        });
        stands.collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_roll_that_is_killed_at_any_request_is_gone_on_with_or_turned_back() {
    if !machines_wanted("a roll that is killed at any request") {
        return;
    }
    let (fleet, start) = before().await;
    let _ = fleet.world.run(&strs(&start)).await.expect_code(0);
    let requests = fleet.world.gate.requests.lock().unwrap().clone();
    let points = thinned(&requests);
    fleet.assert_all_on(2, "never killed").await;
    assert_eq!(fleet.refreshes().await, ["Successful "]);
    let launches = fleet.launches();
    let started = Instant::now();
    // What died at a look is turned back as what died at the change before it.
    let is_look = |point: &Point| matches!(point, Point::Before(one) if !one.writes());
    let both = points.iter().flat_map(|point| {
        [true, false].map(|on| (on || !is_look(point)).then(|| (point.clone(), on)))
    });
    let both = both.flatten();
    let died = all_of(
        ROLLS,
        both.map(|(point, goes_on)| async move {
            let context = Context("a roll", &point).to_string();
            let (fleet, start) = before().await;
            if !dies(&fleet, &point, &strs(&start), 0, &context).await {
                return false;
            }
            if goes_on {
                // The same words again: they begin it, go on with it, or say that all is done.
                let run = fleet.world.run(&strs(&start)).await;
                assert_eq!(run.code, Some(0), "{context}: {}", run.stderr);
                fleet.assert_all_on(2, &context).await;
                assert_eq!(fleet.refreshes().await, ["Successful "], "{context}");
                assert_eq!(fleet.launches(), launches, "{context}");
            } else {
                turned_back(&fleet, &context).await;
            }
            true
        }),
    )
    .await;
    report(
        &format!(
            "a roll, {died} times, at {} requests, no job ended",
            points.len()
        ),
        started,
    );
    assert!(died > 60, "{died}");
}

/// Runs a verb of a roll until it dies at this point; whether it did. What is looked at and kept goes by time, and so a few
/// of its requests may not come; then it ends as it does that nobody kills.
async fn dies(fleet: &Fleet, point: &Point, args: &[&str], code: i32, context: &str) -> bool {
    let (status, run) = fleet.world.until(point.clone(), args).await;
    let is_killed = status.signal() == Some(SIGKILL);
    assert!(
        is_killed || run.code == Some(code),
        "{context}: {status}\n{}",
        run.stderr
    );
    is_killed
}

/// Brings a group back whose roll died, if there is one.
async fn turned_back(fleet: &Fleet, context: &str) {
    let world = &fleet.world;
    let code = match fleet.outcome().await.as_deref() {
        Some("rolled-out") => {
            let run = world.run(&["roll", "rollback", GROUP]).await;
            (run.code, run.stderr)
        }
        _ => {
            let run = world.run(&["roll", "abort", GROUP]).await;
            (run.code, run.stderr)
        }
    };
    // It is turned back now, or was already, or there was nothing yet.
    let nothing = ["was never rolled", "no roll of workers is under way"];
    let is_nothing = code.0 == Some(1) && nothing.iter().any(|one| code.1.contains(one));
    assert!(code.0 == Some(8) || is_nothing, "{context}: {code:?}");
    fleet.assert_all_on(1, context).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_roll_back_that_is_killed_at_any_request_comes_back_all_the_same() {
    if !machines_wanted("a roll back that is killed at any request") {
        return;
    }
    let back = ["roll", "rollback", GROUP];
    let fleet = rolled_out().await;
    let _ = fleet.world.run(&back).await.expect_code(8);
    let points = thinned(&fleet.world.gate.requests.lock().unwrap());
    let started = Instant::now();
    let count = points.len();
    let died = all_of(
        ROLLS,
        points.into_iter().map(|point| async move {
            let context = Context("a roll back", &point).to_string();
            let fleet = rolled_out().await;
            if !dies(&fleet, &point, &back, 8, &context).await {
                return false;
            }
            if fleet.outcome().await.as_deref() != Some("rolled-back") {
                let run = fleet.world.run(&back).await;
                assert_eq!(run.code, Some(8), "{context}: {}", run.stderr);
            }
            fleet.assert_all_on(1, &context).await;
            true
        }),
    )
    .await;
    report(
        &format!("a roll back, at {died} of {count} requests, no job ended"),
        started,
    );
    assert!(died > 15, "{died}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_goes_on_with_a_roll_is_killed_at_any_request_and_the_next_one_ends_it() {
    killed_half_way("watch", "whoever goes on with a roll", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_turns_a_roll_back_is_killed_at_any_request_and_it_comes_back_all_the_same() {
    killed_half_way("abort", "an abort of a roll", true).await;
}

/// A roll dies half way; what a verb does with it then is killed at any request, and is done again.
async fn killed_half_way(verb: &'static str, what: &'static str, comes_back: bool) {
    if !machines_wanted(&format!("{what}, killed at any request")) {
        return;
    }
    let half = Point::AfterThe("StartInstanceRefresh");
    let act = ["roll", verb, GROUP];
    let (code, version) = if comes_back { (8, 1) } else { (0, 2) };
    let (fleet, start) = before().await;
    assert!(dies(&fleet, &half, &strs(&start), 0, "half way").await);
    let _ = fleet.world.run(&act).await.expect_code(code);
    let points = thinned(&fleet.world.gate.requests.lock().unwrap());
    fleet.assert_all_on(version, "never killed").await;
    let launches = fleet.launches();
    let started = Instant::now();
    let count = points.len();
    let died = all_of(
        ROLLS,
        points.into_iter().map(|point| {
            let half = half.clone();
            async move {
                let context = Context(what, &point).to_string();
                let (fleet, start) = before().await;
                assert!(dies(&fleet, &half, &strs(&start), 0, &context).await);
                if !dies(&fleet, &point, &act, code, &context).await {
                    return false;
                }
                if comes_back {
                    turned_back(&fleet, &context).await;
                    return true;
                }
                let run = fleet.world.run(&act).await;
                assert_eq!(run.code, Some(code), "{context}: {}", run.stderr);
                fleet.assert_all_on(version, &context).await;
                assert_eq!(fleet.refreshes().await, ["Successful "], "{context}");
                assert_eq!(fleet.launches(), launches, "{context}");
                true
            }
        }),
    )
    .await;
    report(
        &format!("{what}, at {died} of {count} requests, no job ended"),
        started,
    );
    assert!(died > 15, "{died}");
}
