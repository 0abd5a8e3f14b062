//! The key that volumes are encrypted with.

use serde_json::{Value, json};

use super::{Place, Policy};
use crate::aws::error::Context as _;
use crate::aws::{Clients, Error};

/// AWS's own key for EBS: whoever may use EBS may use it, nobody needs a permission of KMS.
const OF_AWS: &str = "alias/aws/ebs";

/// The ARN of the key that the account encrypts volumes with; `None` if that is AWS's own one.
///
/// # Errors
/// [`Error`] of `GetEbsDefaultKmsKeyId`.
pub async fn own_key(clients: &Clients) -> Result<Option<String>, Error> {
    let answer = clients.ec2.get_ebs_default_kms_key_id().send().await;
    let key = answer.call("ec2", "GetEbsDefaultKmsKeyId")?.kms_key_id;
    Ok(key.filter(|key| !key.is_empty() && !key.ends_with(OF_AWS)))
}

/// A policy of somebody who launches machines whose volumes are encrypted with a key of the account's own: EC2 uses it in his
/// name (Amazon EBS User Guide, "Requirements for Amazon EBS encryption").
#[must_use]
pub fn with_key(mut policy: Value, key: &str, place: Place<'_>) -> Value {
    let via = json!({ "kms:ViaService": format!("ec2.{}.amazonaws.com", place.region) });
    let mut more = Policy::default();
    more.allow_if(
        "UseTheKeyOfVolumes",
        &[
            "kms:Decrypt",
            "kms:DescribeKey",
            "kms:GenerateDataKeyWithoutPlaintext",
            "kms:ReEncryptFrom",
            "kms:ReEncryptTo",
        ],
        &[key],
        &json!({ "StringEquals": via }),
    );
    more.allow_if(
        "LendTheKeyOfVolumes",
        &["kms:CreateGrant"],
        &[key],
        &json!({ "StringEquals": via, "Bool": { "kms:GrantIsForAWSResource": "true" } }),
    );
    if let Some(statements) = policy["Statement"].as_array_mut() {
        statements.extend(more.0);
    }
    policy
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_used_by_ec2_alone() {
        let place = Place {
            account: "123456789012",
            region: "eu-west-1",
        };
        let key = "arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab";
        let policy = with_key(super::super::look_inside(place), key, place);
        let statements = policy["Statement"].as_array().unwrap().iter();
        let of_key: Vec<_> = statements
            .filter(|one| one["Resource"] == json!([key]))
            .collect();
        assert_eq!(of_key.len(), 2);
        for one in of_key {
            let via = &one["Condition"]["StringEquals"]["kms:ViaService"];
            assert_eq!(via, "ec2.eu-west-1.amazonaws.com");
        }
    }
}
