//! Sessions of roles, whose time passes.

use aws_config::sts::AssumeRoleProvider;
use aws_sdk_ec2::config::{IdentityCache, ProvideCredentials as _, SharedCredentialsProvider};
use piaas_bake::localcloud::SECRET_KEY;

use super::{World, code, config};

const ROLE: &str = "arn:aws:iam::000000000000:role/deploy";

#[tokio::test]
async fn a_session_ends_and_its_provider_takes_the_role_again() {
    let world = World::new();
    let own = config(world.cloud.clone(), world.clock.clone(), SECRET_KEY);
    let role = AssumeRoleProvider::builder(ROLE)
        .configure(&own)
        .session_name("night")
        .session_length(std::time::Duration::from_secs(900))
        .build()
        .await;
    let first = role.provide_credentials().await.unwrap();
    let fixed = own
        .to_builder()
        .credentials_provider(SharedCredentialsProvider::new(first))
        .build();
    let refreshed = own
        .to_builder()
        .credentials_provider(SharedCredentialsProvider::new(role))
        .identity_cache(IdentityCache::lazy().build())
        .build();
    let arn = async || {
        let answer = aws_sdk_sts::Client::new(&refreshed).get_caller_identity();
        answer.send().await.unwrap().arn.unwrap()
    };
    let expected = "arn:aws:sts::000000000000:assumed-role/deploy/night";
    assert_eq!(arn().await, expected);
    aws_sdk_ec2::Client::new(&fixed)
        .describe_vpcs()
        .send()
        .await
        .unwrap();

    world.pass(900);
    assert_eq!(arn().await, expected);
    let ec2 = aws_sdk_ec2::Client::new(&fixed).describe_vpcs();
    assert_eq!(code(ec2.send().await), "RequestExpired");
    let sts = aws_sdk_sts::Client::new(&fixed).get_caller_identity();
    assert_eq!(code(sts.send().await), "ExpiredToken");
    let ssm = aws_sdk_ssm::Client::new(&fixed).list_commands();
    assert_eq!(code(ssm.send().await), "ExpiredTokenException");
    let s3 = aws_sdk_s3::Client::new(&fixed).list_buckets();
    assert_eq!(code(s3.send().await), "ExpiredToken");
}
