//! Launch templates.

use aws_sdk_ec2::types::{
    HttpTokensState, LaunchTemplateHttpTokensState, LaunchTemplateInstanceMetadataOptionsRequest,
    LaunchTemplateSpecification, LaunchTemplateTagSpecificationRequest, RequestLaunchTemplateData,
    ResourceType, Tag,
};
use piaas_bake::localcloud::BASE_IMAGE;

use super::{World, code};

fn tags(key: &str, value: &str) -> LaunchTemplateTagSpecificationRequest {
    LaunchTemplateTagSpecificationRequest::builder()
        .resource_type(ResourceType::Instance)
        .tags(Tag::builder().key(key).value(value).build())
        .build()
}

fn data() -> RequestLaunchTemplateData {
    RequestLaunchTemplateData::builder()
        .image_id(BASE_IMAGE)
        .instance_type("t3.medium".into())
        .metadata_options(
            LaunchTemplateInstanceMetadataOptionsRequest::builder()
                .http_tokens(LaunchTemplateHttpTokensState::Required)
                .build(),
        )
        .tag_specifications(tags("Team", "ci"))
        .build()
}

async fn template(world: &World, name: &str) -> String {
    let made = world
        .ec2
        .create_launch_template()
        .launch_template_name(name)
        .launch_template_data(data())
        .send()
        .await
        .unwrap();
    let template = made.launch_template().unwrap();
    assert_eq!(
        (
            template.default_version_number(),
            template.latest_version_number()
        ),
        (Some(1), Some(1))
    );
    template.launch_template_id().unwrap().to_owned()
}

fn version(id: &str, version: &str) -> LaunchTemplateSpecification {
    LaunchTemplateSpecification::builder()
        .launch_template_id(id)
        .version(version)
        .build()
}

#[tokio::test]
async fn a_version_made_from_another_differs_in_what_is_given() {
    let world = World::new();
    let id = template(&world, "workers").await;
    let larger = || {
        world
            .ec2
            .create_launch_template_version()
            .launch_template_id(&id)
            .source_version("1")
            .client_token("token-1")
            .launch_template_data(
                RequestLaunchTemplateData::builder()
                    .instance_type("t3.large".into())
                    .build(),
            )
            .send()
    };
    for _ in 0..2 {
        let made = larger().await.unwrap();
        let made = made.launch_template_version().unwrap();
        assert_eq!(
            (made.version_number(), made.default_version()),
            (Some(2), Some(false))
        );
        let data = made.launch_template_data().unwrap();
        assert_eq!(data.image_id(), Some(BASE_IMAGE));
        assert_eq!(data.instance_type().unwrap().as_str(), "t3.large");
        let options = data.metadata_options().unwrap();
        assert_eq!(
            options.http_tokens().unwrap(),
            &LaunchTemplateHttpTokensState::Required
        );
        let tags = data.tag_specifications()[0].tags();
        assert_eq!((tags[0].key(), tags[0].value()), (Some("Team"), Some("ci")));
    }
    let all = world
        .ec2
        .describe_launch_template_versions()
        .launch_template_name("workers")
        .send()
        .await
        .unwrap();
    let numbers: Vec<_> = all
        .launch_template_versions()
        .iter()
        .filter_map(|version| version.version_number())
        .collect();
    assert_eq!(numbers, [2, 1]);
}

#[tokio::test]
async fn instances_of_a_template_have_its_settings_and_say_which_version() {
    let world = World::new();
    let id = template(&world, "workers").await;
    let launch = || {
        world
            .ec2
            .run_instances()
            .launch_template(version(&id, "$Latest"))
            .min_count(1)
            .max_count(1)
    };
    let made = launch().send().await.unwrap();
    let instance = &made.instances()[0];
    assert_eq!(instance.instance_type().unwrap().as_str(), "t3.medium");
    let options = instance.metadata_options().unwrap();
    assert_eq!(options.http_tokens(), Some(&HttpTokensState::Required));
    let value = |key: &str| {
        let tag = instance.tags().iter().find(|tag| tag.key() == Some(key));
        tag.and_then(Tag::value)
    };
    assert_eq!(value("Team"), Some("ci"));
    assert_eq!(value("aws:ec2launchtemplate:id"), Some(id.as_str()));
    assert_eq!(value("aws:ec2launchtemplate:version"), Some("1"));

    let made = launch().instance_type("t3.large".into()).send().await;
    let kind = made.unwrap().instances()[0]
        .instance_type()
        .unwrap()
        .clone();
    assert_eq!(kind.as_str(), "t3.large");
    assert_eq!(
        code(
            launch()
                .launch_template(version(&id, "7"))
                .client_token("t")
                .send()
                .await
        ),
        "InvalidLaunchTemplateId.VersionNotFound"
    );
    assert_eq!(world.driver.live_machines().len(), 2);
}

#[tokio::test]
async fn the_default_version_moves_only_when_told_and_is_not_deleted() {
    let world = World::new();
    let id = template(&world, "workers").await;
    for _ in 2..=3 {
        let next = world.ec2.create_launch_template_version();
        next.launch_template_id(&id)
            .launch_template_data(data())
            .send()
            .await
            .unwrap();
    }
    let modified = world
        .ec2
        .modify_launch_template()
        .launch_template_id(&id)
        .default_version("2")
        .send()
        .await
        .unwrap();
    let template = modified.launch_template().unwrap();
    assert_eq!(
        (
            template.default_version_number(),
            template.latest_version_number()
        ),
        (Some(2), Some(3))
    );
    let deleted = world
        .ec2
        .delete_launch_template_versions()
        .launch_template_id(&id)
        .versions("2")
        .versions("3")
        .versions("9")
        .send()
        .await
        .unwrap();
    let gone = deleted.successfully_deleted_launch_template_versions();
    assert_eq!(gone.len(), 1);
    assert_eq!(gone[0].version_number(), Some(3));
    let kept = deleted.unsuccessfully_deleted_launch_template_versions();
    let codes: Vec<_> = kept
        .iter()
        .map(|item| item.response_error().unwrap().code().unwrap().as_str())
        .collect();
    assert_eq!(
        codes,
        ["unexpectedError", "launchTemplateVersionDoesNotExist"]
    );
    // A number is not used again.
    let next = world.ec2.create_launch_template_version();
    let next = next
        .launch_template_id(&id)
        .launch_template_data(data())
        .send();
    let next = next.await.unwrap();
    let next = next.launch_template_version().unwrap();
    assert_eq!(next.version_number(), Some(4));
}

#[tokio::test]
async fn what_a_template_cannot_be_is_refused() {
    let world = World::new();
    let id = template(&world, "workers").await;
    let create = |name: &str, data| {
        world
            .ec2
            .create_launch_template()
            .launch_template_name(name)
            .launch_template_data(data)
            .send()
    };
    assert_eq!(
        code(create("workers", data()).await),
        "InvalidLaunchTemplateName.AlreadyExistsException"
    );
    assert_eq!(
        code(create("no spaces", data()).await),
        "InvalidLaunchTemplateName.MalformedException"
    );
    let empty = RequestLaunchTemplateData::builder().build();
    assert_eq!(code(create("empty", empty).await), "MissingParameter");
    let odd = RequestLaunchTemplateData::builder()
        .ram_disk_id("ari-1")
        .build();
    assert_eq!(code(create("odd", odd).await), "UnknownParameter");
    let modify = world
        .ec2
        .modify_launch_template()
        .launch_template_id(&id)
        .default_version("666")
        .send();
    assert_eq!(
        code(modify.await),
        "InvalidLaunchTemplateId.VersionNotFound"
    );
    let nobody = world
        .ec2
        .describe_launch_templates()
        .launch_template_names("nobody")
        .send();
    assert_eq!(
        code(nobody.await),
        "InvalidLaunchTemplateName.NotFoundException"
    );
    let deleted = world.ec2.delete_launch_template().launch_template_id(&id);
    deleted.clone().send().await.unwrap();
    assert_eq!(
        code(deleted.send().await),
        "InvalidLaunchTemplateId.NotFound"
    );
}
