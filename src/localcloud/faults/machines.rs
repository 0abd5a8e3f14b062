//! A driver whose machines have the troubles of a script.

use std::sync::Arc;

use jiff::Timestamp;

use super::{Faults, Trouble};
use crate::localcloud::driver::{
    CommandRecord, CommandSpec, Driver, DriverError, LaunchSpec, Observation, Reclaim,
    SnapshotDisk, SnapshotProgress, SnapshotSpec,
};
use crate::localcloud::quotas::Quota;

/// Meddles with what another driver does.
pub struct Meddling {
    driver: Arc<dyn Driver>,
    faults: Arc<Faults>,
}

impl Meddling {
    /// A driver over another one.
    #[must_use]
    pub fn new(driver: Arc<dyn Driver>, faults: Arc<Faults>) -> Self {
        Self { driver, faults }
    }
}

impl Driver for Meddling {
    fn capacity(&self, zone: &str, instance_type: &str) -> Result<(), DriverError> {
        let none = |trouble: &Trouble| *trouble == Trouble::NoCapacity;
        match self.faults.on_machine(zone, instance_type, none) {
            Some(_) => Err(DriverError {
                message: format!(
                    "We currently do not have sufficient {instance_type} capacity in the Availability Zone you requested \
                     ({zone})."
                ),
            }),
            None => self.driver.capacity(zone, instance_type),
        }
    }

    fn quota(&self, quota: Quota) -> Option<u64> {
        self.faults
            .quota(quota)
            .or_else(|| self.driver.quota(quota))
    }

    fn reclaim(&self, zone: &str, instance_type: &str) -> Option<Reclaim> {
        let taken = |trouble: &Trouble| matches!(trouble, Trouble::Reclaimed(_));
        match self.faults.on_machine(zone, instance_type, taken) {
            Some(Trouble::Reclaimed(reclaim)) => Some(reclaim),
            _ => self.driver.reclaim(zone, instance_type),
        }
    }

    fn notice(&self, instance_id: &str, ends_at: Timestamp) -> Result<(), DriverError> {
        self.driver.notice(instance_id, ends_at)
    }

    fn launch(&self, spec: &LaunchSpec) -> Result<(), DriverError> {
        let (zone, kind) = (&spec.availability_zone, &spec.instance_type);
        let trouble = self.faults.on_machine(zone, kind, |trouble| {
            matches!(trouble, Trouble::LaunchFails(_) | Trouble::NoAgent)
        });
        match trouble {
            Some(Trouble::LaunchFails(message)) => return Err(DriverError { message }),
            // In its records, for every process that looks after it.
            Some(Trouble::NoAgent) => {
                return self.driver.launch(&LaunchSpec {
                    silent: true,
                    ..spec.clone()
                });
            }
            Some(Trouble::NoCapacity | Trouble::Reclaimed(_)) | None => {}
        }
        self.driver.launch(spec)
    }

    fn observe(&self, instance_id: &str) -> Observation {
        self.driver.observe(instance_id)
    }

    fn start(&self, instance_id: &str) -> Result<(), DriverError> {
        self.driver.start(instance_id)
    }

    fn stop(&self, instance_id: &str, force: bool) -> Result<(), DriverError> {
        self.driver.stop(instance_id, force)
    }

    fn reboot(&self, instance_id: &str) -> Result<(), DriverError> {
        self.driver.reboot(instance_id)
    }

    fn terminate(&self, instance_id: &str) -> Result<(), DriverError> {
        self.driver.terminate(instance_id)
    }

    fn shut_down(&self, instance_id: &str) -> Result<(), DriverError> {
        self.driver.shut_down(instance_id)
    }

    fn console(&self, instance_id: &str) -> Vec<u8> {
        self.driver.console(instance_id)
    }

    fn send_command(&self, instance_id: &str, command: &CommandSpec) -> Result<(), DriverError> {
        self.driver.send_command(instance_id, command)
    }

    fn command(&self, instance_id: &str, command_id: &str) -> Option<CommandRecord> {
        self.driver.command(instance_id, command_id)
    }

    fn cancel_command(&self, instance_id: &str, command_id: &str) -> Result<(), DriverError> {
        self.driver.cancel_command(instance_id, command_id)
    }

    fn snapshot(&self, spec: &SnapshotSpec) -> Result<(), DriverError> {
        self.driver.snapshot(spec)
    }

    fn snapshot_progress(&self, snapshot_id: &str) -> SnapshotProgress {
        self.driver.snapshot_progress(snapshot_id)
    }

    fn delete_snapshot(&self, snapshot_id: &str) -> Result<(), DriverError> {
        self.driver.delete_snapshot(snapshot_id)
    }

    fn disk(&self, snapshot_id: &str) -> Result<SnapshotDisk, DriverError> {
        self.driver.disk(snapshot_id)
    }
}
