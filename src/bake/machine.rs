//! Instances: their state, their end.

use std::time::Duration;

use aws_sdk_ec2::types::builders::EbsBlockDeviceBuilder;
use aws_sdk_ec2::types::{
    BlockDeviceMapping, EbsBlockDevice, HttpTokensState, InstanceMetadataEndpointState,
    InstanceMetadataOptionsRequest, VolumeType,
};

use super::error::Failure;
use super::images::Image;
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

/// The volumes of a machine of an image, its root volume of so many GiB: all are encrypted, and all go with the machine,
/// whatever the image says of them. The key is the account's default one for EBS.
pub(super) fn volumes(image: &Image, gib: u32) -> Vec<BlockDeviceMapping> {
    let ebs = || {
        EbsBlockDevice::builder()
            .encrypted(true)
            .delete_on_termination(true)
    };
    let map = |device: &String, ebs: EbsBlockDeviceBuilder| {
        BlockDeviceMapping::builder()
            .device_name(device)
            .ebs(ebs.build())
            .build()
    };
    let root = ebs()
        .volume_size(i32::try_from(gib).unwrap_or(i32::MAX))
        .volume_type(VolumeType::Gp3);
    let more = image.more_devices.iter();
    std::iter::once(map(&image.root_device, root))
        .chain(more.map(|device| map(device, ebs())))
        .collect()
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

#[cfg(test)]
mod tests {
    use super::super::images::sample;
    use super::*;

    #[test]
    fn every_volume_is_encrypted_and_goes_with_its_machine() {
        let mut image = sample("ami-1", "base", &[]);
        image.more_devices = vec!["/dev/xvdb".into(), "/dev/xvdc".into()];
        let mapped = volumes(&image, 20);
        let devices: Vec<_> = mapped.iter().filter_map(|one| one.device_name()).collect();
        assert_eq!(devices, ["/dev/xvda", "/dev/xvdb", "/dev/xvdc"]);
        let sizes: Vec<_> = mapped
            .iter()
            .map(|one| one.ebs().unwrap().volume_size())
            .collect();
        assert_eq!(sizes, [Some(20), None, None]);
        for one in mapped.iter().filter_map(|one| one.ebs()) {
            assert_eq!(one.encrypted(), Some(true));
            assert_eq!(one.delete_on_termination(), Some(true));
        }
    }
}
