//! Machines that play a script, and tell the CI server what becomes of them.

use std::sync::{Arc, Mutex};

use piaas_bake::clock::SharedClock;
use piaas_bake::localcloud::driver::{
    CommandRecord, CommandSpec, Driver, DriverError, LaunchSpec, Observation, SnapshotDisk,
    SnapshotProgress, SnapshotSpec,
};
use piaas_bake::localcloud::scripted::{Outcome, Scripted};

use super::ci::Ci;

/// Machines of this type bake images: no worker is on them, and the CI server never hears of them.
pub const BUILDER: &str = "t3.small";

pub struct Machines {
    pub scripted: Scripted,
    ci: Arc<Mutex<Ci>>,
    clock: SharedClock,
}

impl Machines {
    pub fn new(clock: SharedClock, ci: Arc<Mutex<Ci>>) -> Self {
        let scripted = Scripted::new(clock.clone());
        let (world, time) = (ci.clone(), clock.clone());
        scripted.on_commands(move |instance, command| {
            let now = time.now();
            let (exit_code, stdout, duration) =
                world
                    .lock()
                    .unwrap()
                    .command(instance, &command.script, now);
            Some(Outcome {
                exit_code,
                stdout,
                duration,
                ..Outcome::default()
            })
        });
        Self {
            scripted,
            ci,
            clock,
        }
    }
}

impl Driver for Machines {
    fn launch(&self, spec: &LaunchSpec) -> Result<(), DriverError> {
        self.scripted.launch(spec)?;
        let now = self.clock.now();
        if spec.instance_type != BUILDER {
            self.ci.lock().unwrap().launched(&spec.instance_id, now);
        }
        Ok(())
    }

    fn terminate(&self, instance_id: &str) -> Result<(), DriverError> {
        let now = self.clock.now();
        self.ci.lock().unwrap().terminated(instance_id, now);
        self.scripted.terminate(instance_id)
    }

    fn observe(&self, instance_id: &str) -> Observation {
        self.scripted.observe(instance_id)
    }

    fn start(&self, instance_id: &str) -> Result<(), DriverError> {
        self.scripted.start(instance_id)
    }

    fn stop(&self, instance_id: &str, force: bool) -> Result<(), DriverError> {
        self.scripted.stop(instance_id, force)
    }

    fn reboot(&self, instance_id: &str) -> Result<(), DriverError> {
        self.scripted.reboot(instance_id)
    }

    fn console(&self, instance_id: &str) -> Vec<u8> {
        self.scripted.console(instance_id)
    }

    fn send_command(&self, instance_id: &str, command: &CommandSpec) -> Result<(), DriverError> {
        self.scripted.send_command(instance_id, command)
    }

    fn command(&self, instance_id: &str, command_id: &str) -> Option<CommandRecord> {
        self.scripted.command(instance_id, command_id)
    }

    fn cancel_command(&self, instance_id: &str, command_id: &str) -> Result<(), DriverError> {
        self.scripted.cancel_command(instance_id, command_id)
    }

    fn snapshot(&self, spec: &SnapshotSpec) -> Result<(), DriverError> {
        self.scripted.snapshot(spec)
    }

    fn snapshot_progress(&self, snapshot_id: &str) -> SnapshotProgress {
        self.scripted.snapshot_progress(snapshot_id)
    }

    fn delete_snapshot(&self, snapshot_id: &str) -> Result<(), DriverError> {
        self.scripted.delete_snapshot(snapshot_id)
    }

    fn disk(&self, snapshot_id: &str) -> Result<SnapshotDisk, DriverError> {
        self.scripted.disk(snapshot_id)
    }
}
