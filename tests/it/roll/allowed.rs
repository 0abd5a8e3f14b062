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
    // The verb looks an image up by a recipe's name.
    "FindTheImage ssm:GetParameters",
    // A refresh that somebody cancels stays where it is: only a roll that is asked to stop in its first moments does.
    "Roll autoscaling:CancelInstanceRefresh",
];

#[tokio::test]
async fn nothing_of_the_policy_of_a_roll_is_not_needed() {
    let mut unneeded: Option<BTreeSet<String>> = None;
    for flow in 0..4 {
        let world = World::new(&[0, 0]).await;
        match flow {
            1 => world.stage.jobs().bad = Some(world.stage.new_image.clone()),
            2 => world.stage.jobs().dying = Some(world.stage.new_image.clone()),
            3 => {
                world.stage.jobs().dying = Some(world.stage.new_image.clone());
                world.wire.script().irreversible = true;
            }
            _ => {}
        }
        let image = images(&world).await;
        roll::survey(&world.clients, GROUP, image)
            .await
            .unwrap()
            .unwrap();
        let _ = world.roll().await;
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
