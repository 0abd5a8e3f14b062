//! Instances: their state, their end.

use std::time::Duration;

use aws_sdk_ec2::types::{
    BlockDeviceMapping, EbsBlockDevice, HttpTokensState, InstanceMetadataEndpointState,
    InstanceMetadataOptionsRequest, VolumeType,
};

use super::error::Failure;
use crate::aws::error::Context as _;
use crate::aws::wait::{Pace, Patience};
use crate::aws::{self, Clients, Kind};

const TERMINATION: Patience = Patience {
    what: "an instance to be terminated",
    // Bare-metal types take twenty minutes.
    stall: Duration::from_secs(2400),
    first: Duration::from_millis(40),
    longest: Duration::from_secs(15),
};

/// An instance as EC2 sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Instance {
    /// `pending`, `running`, …; `unknown` while EC2 does not show it yet.
    pub state: String,
    /// Why it is in this state, if EC2 says so.
    pub reason: String,
}

impl Instance {
    /// Whether it will never run again.
    pub fn is_lost(&self) -> bool {
        matches!(self.state.as_str(), "shutting-down" | "terminated")
    }

    /// The failure of a bake that needed it alive.
    pub fn lost(self, id: &str) -> Failure {
        Failure::InstanceLost {
            instance: id.to_owned(),
            state: self.state,
            reason: self.reason,
        }
    }
}

/// Metadata for the machine alone: no request without a token is answered, and no container gets one.
pub(super) fn metadata() -> InstanceMetadataOptionsRequest {
    InstanceMetadataOptionsRequest::builder()
        .http_endpoint(InstanceMetadataEndpointState::Enabled)
        .http_tokens(HttpTokensState::Required)
        .http_put_response_hop_limit(1)
        .build()
}

/// An encrypted root volume of so many GiB, which goes with its machine. The key is the account's default one for EBS, for
/// which nobody needs a permission of KMS (Amazon EBS User Guide, "How Amazon EBS encryption works").
pub(super) fn root_volume(device: &str, gib: u32) -> BlockDeviceMapping {
    BlockDeviceMapping::builder()
        .device_name(device)
        .ebs(
            EbsBlockDevice::builder()
                .volume_size(i32::try_from(gib).unwrap_or(i32::MAX))
                .volume_type(VolumeType::Gp3)
                .encrypted(true)
                .delete_on_termination(true)
                .build(),
        )
        .build()
}

/// The state of an instance; `None` if EC2 does not know it.
pub(super) async fn look(clients: &Clients, id: &str) -> Result<Option<Instance>, aws::Error> {
    let answer = clients
        .ec2
        .describe_instances()
        .instance_ids(id)
        .send()
        .await
        .call("ec2", "DescribeInstances");
    let answer = match answer {
        Err(error) if error.kind == Kind::NotFound => return Ok(None),
        other => other?,
    };
    let instance = answer
        .reservations()
        .iter()
        .flat_map(|reservation| reservation.instances())
        .next();
    Ok(instance.map(|instance| Instance {
        state: instance
            .state()
            .and_then(|state| state.name())
            .map_or_else(|| "unknown".to_owned(), |name| name.as_str().to_owned()),
        reason: instance
            .state_reason()
            .and_then(|reason| reason.message())
            .unwrap_or_default()
            .to_owned(),
    }))
}

/// How an instance ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Its system shuts down first.
    Orderly,
    /// As by a power cut (`TerminateInstances`, `SkipOsShutdown`): nothing that it has is of use to anybody.
    AtOnce,
}

/// Asks for an instance's end; one that is gone is fine.
pub(super) async fn terminate(
    clients: &Clients,
    id: &str,
    ending: Ending,
) -> Result<(), aws::Error> {
    let at_once = (ending == Ending::AtOnce).then_some(true);
    let answer = clients
        .ec2
        .terminate_instances()
        .instance_ids(id)
        .set_skip_os_shutdown(at_once)
        .send()
        .await
        .call("ec2", "TerminateInstances");
    match answer {
        Err(error) if error.kind == Kind::NotFound => Ok(()),
        other => other.map(drop),
    }
}

/// Waits until an instance is terminated or forgotten.
pub(super) async fn wait_terminated(clients: &Clients, id: &str, seed: u64) -> Result<(), Failure> {
    let mut pace = Pace::new(TERMINATION, seed);
    loop {
        let state = look(clients, id)
            .await?
            .map_or_else(|| "terminated".to_owned(), |instance| instance.state);
        if state == "terminated" {
            return Ok(());
        }
        let pause = pace.after(clients.clock.now(), &state)?;
        clients.clock.sleep(pause).await;
    }
}
