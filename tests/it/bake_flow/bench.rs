//! What the engine itself costs: a bake on a clock that runs, with waits as a cloud has them.
//!
//! `make bench` asks for it (`PIAAS_BENCH_WAITS`, three numbers of seconds: boot, stop, snapshot) and puts it beside
//! Packer, which is given the same waits. It asserts no time.

use std::collections::BTreeMap;
use std::time::Instant;

use piaas_bake::clock::SystemClock;
use piaas_bake::localcloud::driver::{
    CommandRecord, CommandSpec, DriverError, LaunchSpec, Observation, Power, SnapshotDisk,
    SnapshotProgress, SnapshotSpec,
};

use super::*;

/// How long a cloud takes.
#[derive(Debug, Clone, Copy)]
struct Waits {
    boot: Duration,
    stop: Duration,
    snapshot: Duration,
}

/// Machines that take their time.
#[derive(Debug)]
struct Paced {
    machines: Arc<Directories>,
    waits: Waits,
    launched: Mutex<BTreeMap<String, Instant>>,
    stopped: Mutex<BTreeMap<String, Instant>>,
    begun: Mutex<BTreeMap<String, Instant>>,
    /// Time that commands have run on machines, in all.
    ran: Mutex<Duration>,
}

impl Paced {
    fn new(machines: Arc<Directories>, waits: Waits) -> Arc<Self> {
        Arc::new(Self {
            machines,
            waits,
            launched: Mutex::default(),
            stopped: Mutex::default(),
            begun: Mutex::default(),
            ran: Mutex::default(),
        })
    }
}

fn mark(times: &Mutex<BTreeMap<String, Instant>>, id: &str) {
    times.lock().unwrap().insert(id.to_owned(), Instant::now());
}

fn since(times: &Mutex<BTreeMap<String, Instant>>, id: &str) -> Option<Duration> {
    times.lock().unwrap().get(id).map(Instant::elapsed)
}

impl Driver for Paced {
    fn launch(&self, spec: &LaunchSpec) -> Result<(), DriverError> {
        mark(&self.launched, &spec.instance_id);
        self.machines.launch(spec)
    }

    fn observe(&self, id: &str) -> Observation {
        let seen = self.machines.observe(id);
        let still = |power| Observation {
            power,
            agent_online_since: None,
            reason: None,
            shut_down_from_inside: false,
        };
        match seen.power {
            Power::Running
                if since(&self.launched, id).is_some_and(|took| took < self.waits.boot) =>
            {
                still(Power::Starting)
            }
            Power::Off if since(&self.stopped, id).is_some_and(|took| took < self.waits.stop) => {
                still(Power::Stopping)
            }
            _ => seen,
        }
    }

    fn start(&self, id: &str) -> Result<(), DriverError> {
        self.machines.start(id)
    }

    fn stop(&self, id: &str, force: bool) -> Result<(), DriverError> {
        mark(&self.stopped, id);
        self.machines.stop(id, force)
    }

    fn reboot(&self, id: &str) -> Result<(), DriverError> {
        self.machines.reboot(id)
    }

    fn terminate(&self, id: &str) -> Result<(), DriverError> {
        self.machines.terminate(id)
    }

    fn console(&self, id: &str) -> Vec<u8> {
        self.machines.console(id)
    }

    fn send_command(&self, id: &str, command: &CommandSpec) -> Result<(), DriverError> {
        // These machines run it before they answer.
        let begun = Instant::now();
        let sent = self.machines.send_command(id, command);
        *self.ran.lock().unwrap() += begun.elapsed();
        sent
    }

    fn command(&self, id: &str, command: &str) -> Option<CommandRecord> {
        self.machines.command(id, command)
    }

    fn cancel_command(&self, id: &str, command: &str) -> Result<(), DriverError> {
        self.machines.cancel_command(id, command)
    }

    fn snapshot(&self, spec: &SnapshotSpec) -> Result<(), DriverError> {
        mark(&self.begun, &spec.snapshot_id);
        self.machines.snapshot(spec)
    }

    fn snapshot_progress(&self, id: &str) -> SnapshotProgress {
        let took = since(&self.begun, id).unwrap_or_default();
        let done = took >= self.waits.snapshot;
        let part = took.as_secs_f64() / self.waits.snapshot.as_secs_f64().max(0.001);
        SnapshotProgress {
            percent: if done { 100 } else { (part * 100.0) as u8 },
            done,
            error: None,
        }
    }

    fn delete_snapshot(&self, id: &str) -> Result<(), DriverError> {
        self.machines.delete_snapshot(id)
    }

    fn disk(&self, id: &str) -> Result<SnapshotDisk, DriverError> {
        self.machines.disk(id)
    }
}

/// Without being asked for, the same bake with hardly any waits: that the measurement measures a whole bake.
#[tokio::test]
async fn a_bake_with_the_waits_of_a_cloud() {
    let asked = std::env::var("PIAAS_BENCH_WAITS").ok();
    let seconds: Vec<f64> = asked
        .as_deref()
        .unwrap_or("0.05 0.05 0.05")
        .split(' ')
        .map(|number| number.parse().unwrap())
        .collect();
    let waits = Waits {
        boot: Duration::from_secs_f64(seconds[0]),
        stop: Duration::from_secs_f64(seconds[1]),
        snapshot: Duration::from_secs_f64(seconds[2]),
    };
    let mut paced = None;
    let world = World::on(SystemClock::shared(), None, |machines, _| {
        let driver = Paced::new(machines, waits);
        paced = Some(driver.clone());
        driver
    })
    .await;
    let paced = paced.unwrap();
    world.wire.fail(Fault::None);
    let started = Instant::now();
    let plan = world.plan(&world.target().await).await;
    let heard = Heard::default();
    let baked = world.bake(&plan, Cancel::never(), &heard).await.unwrap();
    let wall = started.elapsed();
    assert_eq!(baked.left_over, []);
    assert_eq!(world.things().await.len(), 4);
    // Builder and tester boot one after the other; the builder ends while the tester runs.
    let waited = waits.boot * 2 + waits.stop + waits.snapshot;
    assert!(wall > waited, "{wall:?} for {waited:?} of waits");
    if asked.is_some() {
        let mut calls: BTreeMap<String, usize> = BTreeMap::new();
        for operation in world.wire.operations() {
            *calls.entry(operation).or_default() += 1;
        }
        let phases: Vec<(String, u64)> = heard
            .0
            .into_inner()
            .unwrap()
            .iter()
            .filter_map(|event| match event {
                Event::PhaseFinished {
                    phase,
                    milliseconds,
                } => Some((phase.title().to_owned(), *milliseconds)),
                _ => None,
            })
            .collect();
        let answer = serde_json::json!({
            "wall": wall.as_secs_f64(),
            "waited": waited.as_secs_f64(),
            "scripts": paced.ran.lock().unwrap().as_secs_f64(),
            "phases": phases,
            "calls": calls,
        });
        println!("bench: {answer}");
    }
}
