//! How two launch template versions differ, field by field, as EC2 gives them back.

use std::fmt::Debug;

use aws_sdk_ec2::types::ResponseLaunchTemplateData;

use super::world::Difference;

/// The longest text shown of one value; user data can be 16 KB.
const SHOWN: usize = 120;

/// Compares one field after the other. A field that this list does not name is found by comparing what is left.
macro_rules! compare {
    ($old:expr, $new:expr, $($field:ident => $name:literal),+ $(,)?) => {{
        let (mut old, mut new) = ($old.clone(), $new.clone());
        let mut found = Vec::new();
        $(
            let (a, b) = (old.$field.take(), new.$field.take());
            if a != b {
                found.push(Difference { field: $name.to_owned(), old: shown(a.as_ref()), new: shown(b.as_ref()) });
            }
        )+
        if old != new {
            found.push(Difference {
                field: "another field".to_owned(),
                old: shown(Some(&old)),
                new: shown(Some(&new)),
            });
        }
        found
    }};
}

fn shown<T: Debug>(value: Option<&T>) -> String {
    let Some(value) = value else {
        return "none".to_owned();
    };
    let text = format!("{value:?}");
    let text = text.trim_matches('"');
    if text.chars().count() > SHOWN {
        let start: String = text.chars().take(SHOWN).collect();
        format!("{start}…")
    } else {
        text.to_owned()
    }
}

/// All fields in which two versions differ, by their names in the API.
#[must_use]
pub fn between(
    old: &ResponseLaunchTemplateData,
    new: &ResponseLaunchTemplateData,
) -> Vec<Difference> {
    compare!(
        old, new,
        image_id => "ImageId",
        instance_type => "InstanceType",
        user_data => "UserData",
        key_name => "KeyName",
        iam_instance_profile => "IamInstanceProfile",
        security_group_ids => "SecurityGroupIds",
        security_groups => "SecurityGroups",
        network_interfaces => "NetworkInterfaces",
        block_device_mappings => "BlockDeviceMappings",
        tag_specifications => "TagSpecifications",
        metadata_options => "MetadataOptions",
        instance_market_options => "InstanceMarketOptions",
        instance_requirements => "InstanceRequirements",
        instance_initiated_shutdown_behavior => "InstanceInitiatedShutdownBehavior",
        placement => "Placement",
        monitoring => "Monitoring",
        ebs_optimized => "EbsOptimized",
        cpu_options => "CpuOptions",
        credit_specification => "CreditSpecification",
        capacity_reservation_specification => "CapacityReservationSpecification",
        disable_api_termination => "DisableApiTermination",
        disable_api_stop => "DisableApiStop",
        private_dns_name_options => "PrivateDnsNameOptions",
        maintenance_options => "MaintenanceOptions",
        enclave_options => "EnclaveOptions",
        hibernation_options => "HibernationOptions",
        license_specifications => "LicenseSpecifications",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_and_everything_else_are_told_apart() {
        let old = ResponseLaunchTemplateData::builder()
            .image_id("ami-1")
            .user_data("a")
            .kernel_id("k")
            .build();
        let mut new = old.clone();
        assert_eq!(between(&old, &new), []);
        new.image_id = Some("ami-2".into());
        let image = Difference {
            field: "ImageId".into(),
            old: "ami-1".into(),
            new: "ami-2".into(),
        };
        assert_eq!(between(&old, &new), [image]);
        new.user_data = None;
        new.kernel_id = Some("other".into());
        let fields: Vec<String> = between(&old, &new)
            .into_iter()
            .map(|one| one.field)
            .collect();
        assert_eq!(fields, ["ImageId", "UserData", "another field"]);
    }
}
