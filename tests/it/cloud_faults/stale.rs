//! Eventual consistency: what has just been made is not found, and lists lack it, for a while (EC2 API Reference,
//! "Eventual consistency").

use aws_sdk_ec2::types::Tag;

use super::*;

/// The code of an answer's error, if it is one.
fn code<T, E: aws_sdk_ec2::error::ProvideErrorMetadata>(answer: Result<T, E>) -> Option<String> {
    answer
        .err()
        .and_then(|error| error.code().map(str::to_owned))
}

#[tokio::test]
async fn what_was_just_made_is_not_found_and_lists_lack_it_until_the_time_is_over() {
    let rule = "  - { fault: stale, on: 'ec2:Describe*', seconds: 10, times: always }";
    let world = World::new(rule).await;
    let ec2 = &world.clients.ec2;
    let machine = world.run("one").await.unwrap();
    // Past `stale`, which is about reads: the machine runs, so an image can be made of it.
    let image = ec2.create_image().instance_id(&machine).name("image");
    let image = image
        .no_reboot(true)
        .send()
        .await
        .unwrap()
        .image_id
        .unwrap();
    let template = aws::template(&world.clients, "workers", aws::launches(BASE_IMAGE)).await;
    let tag = Tag::builder().key("team").value("ci").build();
    let tags = ec2
        .create_tags()
        .resources(BASE_IMAGE.replace("0deb", "ffff"));
    assert_eq!(
        code(tags.tags(tag.clone()).send().await).as_deref(),
        Some("InvalidAMIID.NotFound"),
        "a write is not late"
    );
    ec2.create_tags()
        .resources(&machine)
        .tags(tag)
        .send()
        .await
        .unwrap();

    let instances = || ec2.describe_instances().instance_ids(&machine).send();
    let images = || ec2.describe_images().image_ids(&image).send();
    let templates = || {
        ec2.describe_launch_templates()
            .launch_template_ids(&template)
            .send()
    };
    assert_eq!(
        code(instances().await).as_deref(),
        Some("InvalidInstanceID.NotFound")
    );
    assert_eq!(
        code(images().await).as_deref(),
        Some("InvalidAMIID.NotFound")
    );
    let missing = "InvalidLaunchTemplateId.NotFound";
    assert_eq!(code(templates().await).as_deref(), Some(missing));
    assert_eq!(world.states().await, [""; 0]);
    let own = ec2.describe_images().owners("self").send().await.unwrap();
    assert_eq!(own.images(), []);
    let own = ec2
        .describe_snapshots()
        .owner_ids("self")
        .send()
        .await
        .unwrap();
    assert_eq!(own.snapshots(), []);
    assert_eq!(ec2.describe_tags().send().await.unwrap().tags(), []);
    let all = ec2.describe_launch_templates().send().await.unwrap();
    assert_eq!(all.launch_templates(), []);

    world.clock.sleep(Duration::from_secs(11)).await;
    let known = instances().await.unwrap();
    let snapshot = images().await.unwrap();
    let snapshot = snapshot.images()[0].block_device_mappings()[0]
        .ebs()
        .unwrap();
    let snapshot = ec2
        .describe_snapshots()
        .snapshot_ids(snapshot.snapshot_id().unwrap());
    assert_eq!(snapshot.send().await.unwrap().snapshots().len(), 1);
    templates().await.unwrap();
    let tags = known.reservations()[0].instances()[0].tags();
    assert_eq!(tags[0].key(), Some("team"));
    assert_eq!(ec2.describe_tags().send().await.unwrap().tags().len(), 1);
}
