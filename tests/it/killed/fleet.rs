//! A tick of a fleet is killed: the next ones come to what it was on its way to, nothing is launched twice, and no job ends.

use std::os::unix::process::ExitStatusExt as _;
use std::time::{Duration, Instant};

use piaas_bake::fleet::memory;
use rustix::process::Signal;
use serde_json::Value;

use super::workers::{Fleet, GROUP};
use super::{Context, Point, SIGKILL, all_of, killed, points, report, thinned};
use crate::aws;
use crate::support::machines_wanted;

/// Fleets at the same time: each tick waits for the answers of its workers.
const FLEETS: usize = 24;
/// Between two looks at a fleet that runs.
const LOOK: Duration = Duration::from_millis(100);
/// Ticks within which a fleet is where it should be.
const TICKS: usize = 12;
const TICK: [&str; 6] = [
    "fleet",
    "tick",
    "--config",
    "fleet.yaml",
    "--format",
    "json",
];

const FILE: &str = "schema: piaas-bake/fleet/v1
group: workers
demand: { command: cat demand.json }
idle_after: 1s
spare: 0
";

/// What a tick has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    /// Workers are idle: they are told to take no more jobs.
    Cordon,
    /// They are drained: they are ended.
    End,
    /// More jobs wait than workers are free.
    Launch,
}

/// The same without end.
const SERVICE: [&str; 4] = ["fleet", "run", "--config", "fleet.yaml"];

impl Fleet {
    /// Runs the fleet until it has come to so many workers, and tells it to stop then. Whether it was killed at the point.
    async fn serve(&self, point: &Point, workers: usize, context: &str) -> bool {
        let mut running = std::pin::pin!(self.world.until(point.clone(), &SERVICE));
        let mut told = false;
        let (status, run) = loop {
            tokio::select! {
                over = &mut running => break over,
                () = tokio::time::sleep(LOOK), if !told => {
                    let has_looked = {
                        let requests = self.world.gate.requests.lock().unwrap();
                        requests.iter().any(|one| one.operation == "DescribeInstanceRefreshes")
                    };
                    let count = aws::in_service(&self.world.clients, GROUP).await.len();
                    if has_looked && count == workers {
                        self.world.gate.signal(Signal::TERM).await;
                        told = true;
                    }
                }
            }
        };
        let is_killed = status.signal() == Some(SIGKILL);
        assert!(
            is_killed || run.code == Some(0),
            "{context}: {status}\n{}",
            run.stderr
        );
        is_killed
    }

    /// Three workers, one of them with a job, and what makes this the next thing to do.
    async fn before(work: Work) -> Self {
        let fleet = Self::new(3).await;
        fleet.world.sandbox.write("fleet.yaml", FILE);
        fleet.wait(if work == Work::Launch { 4 } else { 0 });
        if work == Work::End {
            assert_eq!(fleet.tick("two are cordoned").await, 2);
        }
        fleet
    }

    /// So many jobs wait.
    fn wait(&self, jobs: u32) {
        let text = format!("{{\"queued\": {jobs}}}");
        self.world.sandbox.write("demand.json", &text);
    }

    /// One tick; gives how many decisions it carried out.
    async fn tick(&self, context: &str) -> u64 {
        let run = self.world.run(&TICK).await;
        assert_eq!(run.code, Some(0), "{context}: {}", run.stderr);
        let done: Value = serde_json::from_str(&run.stdout).unwrap();
        done["decisions"].as_u64().unwrap()
    }

    /// Ticks until there is nothing more to do, and nothing is waited for.
    async fn settle(&self, context: &str) {
        for _ in 0..TICKS {
            if self.tick(context).await == 0 && !self.time_passes().await {
                return;
            }
        }
        panic!("{context}: it does not settle");
    }

    /// What is to end was asked to end a while ago: longer than that may be invisible. Whether there is such a thing.
    async fn time_passes(&self) -> bool {
        let ssm = &self.world.clients.ssm;
        let name = memory::parameter(GROUP);
        let Ok(found) = ssm.get_parameter().name(&name).send().await else {
            return false;
        };
        let text = found.parameter.unwrap().value.unwrap();
        let mut kept: Value = serde_json::from_str(&text).unwrap();
        let Some(ending) = kept.get_mut("ending").and_then(Value::as_object_mut) else {
            return false;
        };
        for one in ending.values_mut() {
            let asked = one[1].as_i64().unwrap();
            one[1] = (asked - 600).into();
        }
        let put = ssm.put_parameter().name(&name).value(kept.to_string());
        put.overwrite(true).send().await.unwrap();
        true
    }

    /// So many workers, and no more were ever launched than these.
    async fn assert_workers(&self, count: usize, launched: usize, context: &str) {
        self.assert_sound(context).await;
        let members = aws::in_service(&self.world.clients, GROUP).await;
        assert_eq!(members.len(), count, "{context}");
        // And the builder of the second image.
        assert_eq!(self.launches(), launched + 1, "{context}");
        let busy = self.workers().busy.clone();
        assert!(busy.iter().all(|id| members.contains(id)), "{context}");
        self.assert_one_lease(context).await;
    }
}

async fn swept(work: Work, name: &str) -> usize {
    let fleet = Fleet::before(work).await;
    let (requests, writes) = fleet.world.recorded(&TICK).await;
    assert_eq!(writes, [], "a fleet keeps nothing on its host");
    let points = points(&requests);
    let count = points.len();
    let (workers, launched) = if work == Work::Launch { (5, 5) } else { (1, 3) };
    fleet.settle("never killed").await;
    fleet
        .assert_workers(workers, launched, "never killed")
        .await;
    let started = Instant::now();
    let both = points
        .into_iter()
        .flat_map(|point| [true, false].map(|on| (point.clone(), on)));
    let died = all_of(
        FLEETS,
        both.map(|(point, goes_on): (Point, bool)| async move {
            let context = Context("a tick", &point).to_string();
            let fleet = Fleet::before(work).await;
            if !killed(&fleet.world, &point, &TICK, &context).await {
                return false;
            }
            if goes_on {
                fleet.settle(&context).await;
                fleet.assert_workers(workers, launched, &context).await;
            } else {
                // Nobody wants it any more.
                fleet.wait(0);
                fleet.workers().busy.clear();
                fleet.settle(&context).await;
                let launches = fleet.launches() - 1;
                assert!(
                    launches == 3 || launches == launched,
                    "{context}: {launches}"
                );
                fleet.assert_workers(0, launches, &context).await;
            }
            true
        }),
    )
    .await;
    report(
        &format!("a tick of a fleet that {name}, {died} times, at {count} requests, no job ended"),
        started,
    );
    died
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_that_is_killed_at_any_request_is_run_on_by_the_next() {
    if !machines_wanted("a fleet that is killed at any request") {
        return;
    }
    // Two workers are cordoned, then ended.
    let begin = async || {
        let fleet = Fleet::before(Work::Cordon).await;
        let often = format!("{FILE}interval: 1s\n");
        fleet.world.sandbox.write("fleet.yaml", &often);
        fleet
    };
    let fleet = begin().await;
    assert!(!fleet.serve(&Point::Nowhere, 1, "never killed").await);
    let points = thinned(&fleet.world.gate.requests.lock().unwrap());
    fleet.settle("never killed").await;
    fleet.assert_workers(1, 3, "never killed").await;
    let started = Instant::now();
    let count = points.len();
    let died = all_of(
        FLEETS,
        points.into_iter().map(|point| async move {
            let context = Context("a fleet", &point).to_string();
            let fleet = begin().await;
            if !fleet.serve(&point, 1, &context).await {
                return false;
            }
            // What had been asked for is asked for again after a while.
            fleet.time_passes().await;
            assert!(!fleet.serve(&Point::Nowhere, 1, &context).await);
            fleet.settle(&context).await;
            fleet.assert_workers(1, 3, &context).await;
            true
        }),
    )
    .await;
    report(
        &format!("a fleet that runs, at {died} of {count} requests, no job ended"),
        started,
    );
    assert!(died > 15, "{died}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tick_of_a_fleet_that_is_killed_at_any_request_is_made_up_for() {
    if !machines_wanted("a tick of a fleet that is killed at any request") {
        return;
    }
    let died = swept(Work::Cordon, "cordons").await;
    assert!(died > 20, "{died}");
    let died = swept(Work::End, "ends workers").await;
    assert!(died > 20, "{died}");
    let died = swept(Work::Launch, "launches").await;
    assert!(died > 20, "{died}");
}
