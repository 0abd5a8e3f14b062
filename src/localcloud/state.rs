//! The records of the services: plain data in one file, changed under one lock.

mod records;
mod store;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use records::Records;
pub use store::{Locked, StateError, Store};

use super::{BASE_NAME, BASE_OWNER, regions};
use crate::process::started;

/// Tags of a resource.
pub type Tags = BTreeMap<String, String>;

/// A process, safe against reuse of its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub pid: u32,
    /// When it started, in clock ticks since boot: field 22 of `proc_pid_stat(5)`.
    pub start: u64,
}

impl Process {
    /// This process.
    #[must_use]
    pub fn current() -> Self {
        let pid = std::process::id();
        Self {
            pid,
            start: started(pid).unwrap_or(0),
        }
    }

    /// Whether it still runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        started(self.pid) == Some(self.start)
    }
}

/// State of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InstanceState {
    Pending,
    Running,
    ShuttingDown,
    Terminated,
    Stopping,
    Stopped,
}

impl InstanceState {
    /// Code and name, as `InstanceState` of the EC2 API has them.
    #[must_use]
    pub fn code_and_name(self) -> (u8, &'static str) {
        match self {
            Self::Pending => (0, "pending"),
            Self::Running => (16, "running"),
            Self::ShuttingDown => (32, "shutting-down"),
            Self::Terminated => (48, "terminated"),
            Self::Stopping => (64, "stopping"),
            Self::Stopped => (80, "stopped"),
        }
    }

    /// Whether it is on its way out, or out.
    #[must_use]
    pub fn is_ending(self) -> bool {
        matches!(self, Self::ShuttingDown | Self::Terminated)
    }
}

/// Why something is in its state: `StateReason`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    pub code: String,
    pub message: String,
}

/// The root volume of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    pub id: String,
    /// GiB.
    pub size: u64,
    pub kind: String,
    #[serde(default)]
    pub encrypted: bool,
    pub delete_on_termination: bool,
    pub tags: Tags,
}

/// `MetadataOptions` of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetadataOptions {
    pub tokens_required: bool,
    pub hop_limit: u8,
    pub tags_enabled: bool,
}

/// The request that a Spot Instance fulfils, and when it will be taken back if it will be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spot {
    pub request_id: String,
    /// Of the request.
    pub tags: Tags,
    /// When the machine is told, and when it ends.
    pub notice_at: Option<Timestamp>,
    pub ends_at: Option<Timestamp>,
    /// Whether it has been told.
    pub noticed: bool,
}

/// An instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    pub id: String,
    pub reservation_id: String,
    pub launch_index: u32,
    pub image_id: String,
    pub instance_type: String,
    /// When it was last launched, or started after a stop.
    pub launch_time: Timestamp,
    /// When it was first launched; `None`: it has not been started again.
    #[serde(default)]
    pub first_launch: Option<Timestamp>,
    pub state: InstanceState,
    pub state_reason: Option<Reason>,
    /// `StateTransitionReason`: empty, or who asked and when.
    pub transition_reason: String,
    pub private_ip: String,
    pub availability_zone: String,
    pub region: String,
    pub group_ids: Vec<String>,
    pub instance_profile: Option<String>,
    pub client_token: Option<String>,
    pub metadata: MetadataOptions,
    pub terminate_on_shutdown: bool,
    pub disable_api_termination: bool,
    pub interface_id: String,
    /// Of its network interface.
    #[serde(default)]
    pub interface_tags: Tags,
    /// Detailed monitoring.
    #[serde(default)]
    pub monitored: bool,
    #[serde(default)]
    pub ebs_optimized: bool,
    pub volume: Volume,
    pub tags: Tags,
    /// Whether the agent has ever reported; since when it answers now.
    pub agent_registered: bool,
    pub agent_online_since: Option<Timestamp>,
    pub terminated_at: Option<Timestamp>,
    /// `None`: it is on-demand.
    #[serde(default)]
    pub spot: Option<Spot>,
    /// Process that asked for it; `None`: a service looks after it.
    pub owner: Option<Process>,
}

impl Instance {
    /// Since when it has its volume and its network interface, which a stop leaves it.
    #[must_use]
    pub fn attached(&self) -> Timestamp {
        self.first_launch.unwrap_or(self.launch_time)
    }
}

/// State of an image or a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Progress {
    Pending,
    Done,
    Failed,
}

/// An image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    pub id: String,
    pub name: String,
    pub description: String,
    pub owner_id: String,
    pub created: Timestamp,
    pub state: Progress,
    pub state_reason: Option<Reason>,
    pub snapshot_id: String,
    /// Size of the root volume in GiB.
    pub size: u64,
    pub volume_kind: String,
    /// Its snapshot is encrypted.
    #[serde(default)]
    pub encrypted: bool,
    pub source_instance_id: Option<String>,
    pub source_image_id: Option<String>,
    pub tags: Tags,
    /// Who made it; `None` for the base image.
    pub owner: Option<Process>,
}

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    pub id: String,
    pub description: String,
    pub owner_id: String,
    pub started: Timestamp,
    pub completed: Option<Timestamp>,
    pub state: Progress,
    pub state_message: String,
    /// 0 to 100.
    pub percent: u8,
    pub volume_id: String,
    pub size: u64,
    #[serde(default)]
    pub encrypted: bool,
    pub tags: Tags,
}

/// A security group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecurityGroup {
    pub id: String,
    pub name: String,
    pub description: String,
    pub tags: Tags,
}

/// One version of a parameter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParameterVersion {
    pub version: u64,
    pub value: String,
    /// `String`, `StringList` or `SecureString`.
    pub kind: String,
    pub tier: String,
    pub description: String,
    pub data_type: String,
    pub modified: Timestamp,
}

/// A command that was sent. Its parameters are with its machines only: the chunks of a bundle would swell the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    pub id: String,
    pub document: String,
    pub comment: String,
    pub instance_ids: Vec<String>,
    pub requested: Timestamp,
    /// Seconds that an agent has to take it.
    pub delivery_timeout: u64,
    pub execution_timeout: u64,
    /// When somebody asked to cancel it.
    pub cancelled: Option<Timestamp>,
    /// Where its whole output goes.
    #[serde(default)]
    pub output: Option<OutputPlace>,
}

/// A place in a bucket for the output of a command: `OutputS3BucketName` and its companions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputPlace {
    pub region: String,
    pub bucket: String,
    pub prefix: String,
}

/// What a client token stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Digest of the request's other parameters.
    pub request: String,
    /// Id of what was made for it: a reservation, or a launch template and perhaps its version.
    #[serde(alias = "reservation_id")]
    pub made: String,
}

/// A launch template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchTemplate {
    pub id: String,
    pub name: String,
    pub created: Timestamp,
    pub default_version: u64,
    /// The number that the next version gets; numbers are not used again.
    pub next_version: u64,
    pub versions: BTreeMap<u64, TemplateVersion>,
    pub tags: Tags,
}

impl LaunchTemplate {
    /// The newest version there is.
    #[must_use]
    pub fn latest_version(&self) -> u64 {
        self.versions.keys().next_back().copied().unwrap_or(0)
    }
}

/// One version of a launch template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateVersion {
    pub description: Option<String>,
    pub created: Timestamp,
    /// Parameters as `RunInstances` takes them, `TagSpecification.1.Tag.1.Key` and the like.
    pub parameters: BTreeMap<String, String>,
}

/// All records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Whose records these are; empty in files of versions that had one region only.
    #[serde(default)]
    pub region: String,
    /// When this cloud was made; with `serial`, what ids are made of.
    pub created: Timestamp,
    pub serial: u64,
    pub instances: Records<Instance>,
    pub images: Records<Image>,
    pub snapshots: Records<Snapshot>,
    pub groups: Records<SecurityGroup>,
    pub parameters: Records<Vec<ParameterVersion>>,
    pub commands: Records<Command>,
    pub tokens: Records<Token>,
    #[serde(default)]
    pub launch_templates: Records<LaunchTemplate>,
    /// Auto Scaling groups by name.
    #[serde(default)]
    pub scaling: Records<super::autoscaling::records::Group>,
    /// Groups that are gone, the last deleted last, as far as they have activities to show.
    #[serde(default)]
    pub deleted_groups: Vec<super::autoscaling::records::Group>,
    /// Secrets by name.
    #[serde(default)]
    pub secrets: Records<super::secrets::Secret>,
}

impl State {
    /// A new region: the base image, its parameter and a default security group.
    #[must_use]
    pub fn new(now: Timestamp, region: &str) -> Self {
        let mut state = Self {
            region: region.to_owned(),
            created: now,
            serial: 0,
            instances: Records::default(),
            images: Records::default(),
            snapshots: Records::default(),
            groups: Records::default(),
            parameters: Records::default(),
            commands: Records::default(),
            tokens: Records::default(),
            launch_templates: Records::default(),
            scaling: Records::default(),
            deleted_groups: Vec::new(),
            secrets: Records::default(),
        };
        state.furnish();
        state
    }

    /// Gives records that name no region theirs: that of what was made last in them.
    fn adopt(&mut self) {
        if !self.region.is_empty() {
            return;
        }
        let newest = self.instances.values().max_by_key(|one| one.launch_time);
        let newest = newest.map(|one| one.region.clone());
        let group = self.scaling.values().next().map(|one| one.region.clone());
        let found = newest.or(group);
        self.region = found.unwrap_or_else(|| super::DEFAULT_REGION.to_owned());
        self.furnish();
    }

    /// Puts in what every region has from the beginning, unless it is there.
    fn furnish(&mut self) {
        let snapshot = regions::base_snapshot(&self.region);
        let image = regions::base_image(&self.region);
        self.offer(image, BASE_NAME.to_owned(), snapshot, self.created);
        let group = super::ec2::network::default_group(&self.region);
        self.groups.or_insert(group.id.clone(), group);
    }

    /// Offers the base of a digest, as its publisher does, and gives its image. Whoever asks for the newest one of a name
    /// gets the usual base.
    pub fn offer_base(&mut self, digest: &str) -> String {
        let image = regions::locked_id("ami", digest);
        let snapshot = regions::locked_id("snap", digest);
        let name = format!("{BASE_NAME}-{}", &image["ami-".len()..]);
        let earlier = self.created - jiff::SignedDuration::from_secs(1);
        self.offer(image.clone(), name, snapshot, earlier);
        image
    }

    fn offer(&mut self, image: String, name: String, snapshot: String, created: Timestamp) {
        let snapshot = Snapshot {
            id: snapshot,
            description: "Debian 12, amd64".to_owned(),
            owner_id: BASE_OWNER.to_owned(),
            started: created,
            completed: Some(created),
            state: Progress::Done,
            state_message: String::new(),
            percent: 100,
            // As EC2 shows snapshots that no volume of the owner's stands behind.
            volume_id: "vol-ffffffff".to_owned(),
            size: super::ec2::types::BASE_SIZE,
            encrypted: false,
            tags: Tags::new(),
        };
        let image = Image {
            id: image,
            name,
            description: "Debian 12 (bookworm) for machines on this host".to_owned(),
            owner_id: BASE_OWNER.to_owned(),
            created,
            state: Progress::Done,
            state_reason: None,
            snapshot_id: snapshot.id.clone(),
            size: super::ec2::types::BASE_SIZE,
            volume_kind: "gp3".to_owned(),
            encrypted: false,
            source_instance_id: None,
            source_image_id: None,
            tags: Tags::new(),
            owner: None,
        };
        self.images.or_insert(image.id.clone(), image);
        let id = snapshot.id.clone();
        self.snapshots.or_insert(id, snapshot);
    }

    fn unique(&mut self) -> String {
        self.serial += 1;
        let Self {
            region,
            created,
            serial,
            ..
        } = self;
        hex::encode(Sha256::digest(format!("{region}/{created}/{serial}")))
    }

    /// A new id: `<prefix>-0` and 16 hex digits.
    pub fn new_id(&mut self, prefix: &str) -> String {
        format!("{prefix}-0{}", &self.unique()[..16])
    }

    /// A new id in the form of a UUID, as commands have.
    pub fn new_uuid(&mut self) -> String {
        uuid_form(&self.unique())
    }
}

/// Hex digits in the form of a version 4 UUID (RFC 9562).
#[must_use]
pub fn uuid_form(hex: &str) -> String {
    format!(
        "{}-{}-4{}-8{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[13..16],
        &hex[17..20],
        &hex[20..32]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_alive_only_with_its_own_started() {
        let this = Process::current();
        assert!(this.is_alive());
        assert!(
            !Process {
                start: this.start + 1,
                ..this
            }
            .is_alive()
        );
    }
}
