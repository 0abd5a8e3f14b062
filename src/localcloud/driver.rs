//! What the services of the local cloud ask of machines. One driver runs real ones, another plays a script.
//!
//! Every call returns at once: long work goes on outside the calling process (a supervisor per machine, a writer per
//! snapshot) and is read back with `observe`, `command` and `snapshot_progress`. So a caller that is killed takes
//! nothing with it, as with the real cloud, and two processes may share one cloud.

use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::quotas::Quota;
use super::s3::OutputTarget;

/// A driver could not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct DriverError {
    pub message: String,
}

/// What a new machine is made of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LaunchSpec {
    pub instance_id: String,
    /// Snapshot of the image's root device: the machine's root is a copy-on-write child of it.
    pub snapshot_id: String,
    pub image_id: String,
    pub instance_type: String,
    pub region: String,
    pub availability_zone: String,
    pub private_ip: String,
    pub account_id: String,
    pub user_data: Option<String>,
    /// IMDSv1 is refused when true (`HttpTokens=required`).
    pub imds_tokens_required: bool,
    /// IMDS `HttpPutResponseHopLimit`.
    pub imds_hop_limit: u8,
    /// Served by IMDS under `tags/instance` when not empty (`InstanceMetadataTags=enabled`).
    pub metadata_tags: std::collections::BTreeMap<String, String>,
    /// Name of the instance profile, if any.
    pub instance_profile: Option<String>,
    /// A shutdown from inside terminates the machine instead of stopping it.
    pub terminate_on_shutdown: bool,
    /// It is a Spot Instance.
    #[serde(default)]
    pub spot: bool,
    /// Its agent never comes online: a fault.
    #[serde(default)]
    pub silent: bool,
}

/// When a Spot Instance is taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reclaim {
    /// From the launch to the notice.
    pub after: Duration,
    /// From the notice to the end.
    pub notice: Duration,
}

/// Power state of a machine as the driver sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Power {
    /// Being made or booting.
    Starting,
    Running,
    /// Being shut down.
    Stopping,
    /// Off; its root is kept.
    Off,
    /// It could not be made or it died; see the reason.
    Failed,
    /// Nothing of it is left.
    Gone,
}

/// What is known of a machine now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    pub power: Power,
    /// Since when the agent inside has been answering.
    pub agent_online_since: Option<Timestamp>,
    /// Why it failed, or that it was shut down from inside.
    pub reason: Option<String>,
    /// The machine shut itself down (for `StateReason` and `InstanceInitiatedShutdownBehavior`).
    pub shut_down_from_inside: bool,
}

/// A command for a machine's agent: what `AWS-RunShellScript` gives it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CommandSpec {
    pub command_id: String,
    /// The `commands` parameter joined with newlines.
    pub script: String,
    pub working_directory: Option<String>,
    /// Execution time-out in seconds.
    pub execution_timeout: u64,
    /// Where the agent puts the whole output.
    #[serde(default)]
    pub output: Option<OutputTarget>,
}

/// Where a command stands on its machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CommandState {
    /// The machine's agent has not taken it yet.
    Waiting,
    Running,
    /// Ended with an exit code.
    Ended,
    /// Killed at its execution time-out.
    TimedOut,
    Cancelled,
    /// The machine died under it.
    Lost,
}

/// A command as its machine reports it. Output is complete here; the service truncates it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CommandRecord {
    pub state: CommandState,
    /// The last exit code; 194 has been followed by a reboot and a new start of the script.
    pub exit_code: Option<i32>,
    pub started: Option<Timestamp>,
    pub ended: Option<Timestamp>,
    /// At most the first 24,001 characters are kept.
    pub stdout: String,
    /// At most the first 8,001 characters are kept.
    pub stderr: String,
}

/// What the disk of a snapshot must be able to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SnapshotSpec {
    pub snapshot_id: String,
    /// Machine whose root is taken.
    pub instance_id: String,
    /// Size of the disk in GiB.
    pub size_gib: u64,
}

/// How far a snapshot is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotProgress {
    /// 0 to 100.
    pub percent: u8,
    pub done: bool,
    pub error: Option<String>,
}

/// The disk of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotDisk {
    /// There is none here.
    None,
    /// It is being written.
    Writing,
    /// Where it is kept: a directory with what is known of it, from which [`super::nspawn::blocks::assemble`] gives the disk as a
    /// file.
    At(PathBuf),
}

/// Machines and their disks.
pub trait Driver: Send + Sync {
    /// Whether there is room for one more machine of this type in this zone, as the cloud that it stands for has it.
    fn capacity(&self, _zone: &str, _instance_type: &str) -> Result<(), DriverError> {
        Ok(())
    }
    /// How much of something the account may have; `None`: as much as there is room for.
    fn quota(&self, quota: Quota) -> Option<u64> {
        quota.usual()
    }
    /// Whether a new Spot Instance of this type in this zone will be taken back, and when.
    fn reclaim(&self, _zone: &str, _instance_type: &str) -> Option<Reclaim> {
        None
    }
    /// Tells a machine by its metadata, where it has any, that it ends at this time. Repeating it is harmless.
    fn notice(&self, _instance_id: &str, _ends_at: Timestamp) -> Result<(), DriverError> {
        Ok(())
    }
    /// Starts making and booting a machine.
    fn launch(&self, spec: &LaunchSpec) -> Result<(), DriverError>;
    /// What is known of a machine; `Gone` for one never made.
    fn observe(&self, instance_id: &str) -> Observation;
    /// Boots a machine that is off.
    fn start(&self, instance_id: &str) -> Result<(), DriverError>;
    /// Begins an orderly shutdown, forced after the driver's grace time, or at once with `force`.
    fn stop(&self, instance_id: &str, force: bool) -> Result<(), DriverError>;
    fn reboot(&self, instance_id: &str) -> Result<(), DriverError>;
    /// Ends a machine at once and removes its root. Repeating it is harmless.
    fn terminate(&self, instance_id: &str) -> Result<(), DriverError>;
    /// As [`Self::terminate`], after an orderly shutdown, which is forced after the driver's grace time.
    ///
    /// # Errors
    /// As [`Self::terminate`].
    fn shut_down(&self, instance_id: &str) -> Result<(), DriverError> {
        self.terminate(instance_id)
    }
    /// The console's last 64 KiB.
    fn console(&self, instance_id: &str) -> Vec<u8>;
    /// Hands a command to the machine's agent. Repeating it with the same id is harmless.
    fn send_command(&self, instance_id: &str, command: &CommandSpec) -> Result<(), DriverError>;
    /// `None`: the machine has never had this command.
    fn command(&self, instance_id: &str, command_id: &str) -> Option<CommandRecord>;
    fn cancel_command(&self, instance_id: &str, command_id: &str) -> Result<(), DriverError>;
    /// Begins a snapshot of the root of a machine. The root's state is taken before this returns (a machine that
    /// is off is exact; a running one is frozen for as long as it takes); the disk is written afterwards.
    fn snapshot(&self, spec: &SnapshotSpec) -> Result<(), DriverError>;
    fn snapshot_progress(&self, snapshot_id: &str) -> SnapshotProgress;
    /// Removes a snapshot's disk; machines made from it keep theirs. Repeating it is harmless.
    fn delete_snapshot(&self, snapshot_id: &str) -> Result<(), DriverError>;
    /// The disk of a finished snapshot. Asking for one that is not there begins to write it.
    ///
    /// # Errors
    /// It could not be written: told once, and who asks again begins again.
    fn disk(&self, snapshot_id: &str) -> Result<SnapshotDisk, DriverError>;
}
