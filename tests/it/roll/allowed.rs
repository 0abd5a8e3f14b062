//! What a roll may do. Every roll of these tests is judged; here it is seen that it needs all of its policy.

use std::collections::BTreeSet;

use piaas_bake::iam::Place;
use piaas_bake::localcloud::{ACCOUNT_ID, DEFAULT_REGION};

use super::*;

pub const PLACE: Place<'static> = Place {
    account: ACCOUNT_ID,
    region: DEFAULT_REGION,
};

/// What rolls here do not come to, and why it is in their policy.
const JUSTIFIED: [&str; 2] = [
    // A group that does not name the version that all its instances have, as after a refresh that was cancelled at its end.
    "Roll autoscaling:UpdateAutoScalingGroup",
    // The verb looks an image up by a recipe's name.
    "FindTheImage ssm:GetParameters",
];

#[tokio::test]
async fn nothing_of_the_policy_of_a_roll_is_not_needed() {
    let mut unneeded: Option<BTreeSet<String>> = None;
    // A good one that waits for a job, one whose canary is bad, one that is turned back amid the group, and one that
    // Auto Scaling does not turn back.
    for (busy, canary, bad, irreversible) in [
        (60, true, false, false),
        (0, true, true, false),
        (0, false, true, false),
        (0, false, true, true),
    ] {
        let world = World::new(&[busy]).await;
        if bad {
            world.stage.jobs().bad = Some(world.stage.new_image.clone());
        }
        world.wire.script().irreversible = irreversible;
        let image = images(&world).await;
        roll::survey(&world.clients, GROUP, image)
            .await
            .unwrap()
            .unwrap();
        world.go_on(&world.record(canary), &()).await.unwrap();
        let found = world.judge.unused();
        unneeded = Some(match unneeded {
            Some(before) => before.intersection(&found).cloned().collect(),
            None => found,
        });
    }
    let mut unneeded = unneeded.unwrap();
    unneeded.retain(|one| !JUSTIFIED.contains(&one.as_str()));
    assert_eq!(unneeded, BTreeSet::new());
}

/// The image, looked up as the verb does.
async fn images(world: &World) -> Image {
    let found = piaas_bake::bake::images::get(&world.clients, &world.stage.new_image).await;
    (&found.unwrap().unwrap()).into()
}
