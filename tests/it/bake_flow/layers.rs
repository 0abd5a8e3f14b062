//! Layers of single scripts: what a bake keeps on its way, and where the next one starts.

use piaas_bake::bake::layers;
use piaas_bake::lifecycle::{self, Verdict, Why, judge};

use super::*;

/// A world whose bakes keep the layer of each script.
async fn world() -> World {
    let world = World::new().await;
    *world.layers.lock().unwrap() = Some(Duration::ZERO);
    world
}

/// As the last of the world's recipes, with another text of its script.
async fn changed(world: &World, text: &str) -> Target {
    let mut target = world.target().await;
    let top = &mut target.layers[1];
    top.digest = "c".repeat(64);
    top.layer.provision[0].text = text.into();
    target
}

#[tokio::test]
async fn a_changed_script_runs_on_the_layer_of_the_one_before() {
    let world = world().await;
    let heard = Heard::default();
    let plan = world.plan(&world.target().await).await;
    let baked = world.bake(&plan, Cancel::never(), &heard).await.unwrap();
    let kept = layers::list(&world.clients).await.unwrap();
    assert_eq!(kept.len(), 2);
    // Each script once, also where it was gone on from.
    let events = heard.0.into_inner().unwrap();
    let scripts: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::StepStarted { title, .. } | Event::StepSkipped { title, .. } => {
                Some(title.as_str())
            }
            _ => None,
        })
        .collect();
    assert_eq!(scripts[..2], ["do base/step-001", "do worker/step-001"]);
    assert_eq!(scripts.iter().filter(|one| one.contains("step")).count(), 2);
    // What is kept is no image of a recipe.
    let all = images::list(&world.clients, None).await.unwrap();
    assert_eq!(
        all.iter().map(|image| &image.id).collect::<Vec<_>>(),
        [&baked.image]
    );

    let target = changed(&world, "echo again >\"$MACHINE/built\"\n").await;
    let plan = world.plan(&target).await;
    assert!(plan.start.is_step());
    assert_eq!((plan.start.scripts, plan.steps.len()), (1, 1));
    assert_eq!(plan.validate.len(), 2);
    assert_eq!(plan.root_image(), target.base.id);
    world.bake(&plan, Cancel::never(), &()).await.unwrap();
    assert_eq!(layers::list(&world.clients).await.unwrap().len(), 3);

    // With all scripts the same nothing of them runs, whatever else is another.
    let mut checks = world.target().await;
    checks.layers[1].digest = "d".repeat(64);
    let plan = world.plan(&checks).await;
    assert_eq!((plan.start.scripts, plan.steps.len()), (2, 0));

    // Who forces a bake wants its scripts to run; and no layer is another's of the same scripts on another base.
    let forced = Target {
        force: true,
        ..checks.clone()
    };
    assert_eq!(world.plan(&forced).await.start.scripts, 0);
    let mut other = checks;
    other.base.id = "ami-00000000000000001".into();
    other.layers[1].digest = "e".repeat(64);
    let survey = survey(&world.clients, &other, &world.runs()).await.unwrap();
    assert_eq!(survey.steps, []);
}

#[tokio::test]
async fn a_bake_that_fails_leaves_the_layers_of_what_went_well() {
    let world = world().await;
    let mut target = world.target().await;
    target.layers[1].layer.provision[0].text = "exit 3\n".into();
    let plan = world.plan(&target).await;
    world.bake(&plan, Cancel::never(), &()).await.unwrap_err();
    assert_eq!(layers::list(&world.clients).await.unwrap().len(), 1);
    let plan = world.plan(&world.target().await).await;
    assert_eq!((plan.start.scripts, plan.steps.len()), (1, 1));
    world.bake(&plan, Cancel::never(), &()).await.unwrap();
}

#[tokio::test]
async fn a_removed_layer_takes_all_of_it_along_and_removing_it_twice_is_fine() {
    let world = world().await;
    let plan = world.plan(&world.target().await).await;
    world.bake(&plan, Cancel::never(), &()).await.unwrap();
    for layer in layers::list(&world.clients).await.unwrap() {
        for _ in 0..2 {
            layers::remove(&world.clients, &layer).await.unwrap();
        }
    }
    assert_all_or_nothing(&world, "without its layers").await;
}

#[tokio::test]
async fn a_layer_whose_removal_was_cut_off_is_found_by_its_snapshot() {
    let world = world().await;
    let plan = world.plan(&world.target().await).await;
    world.bake(&plan, Cancel::never(), &()).await.unwrap();
    world.clock.sleep(Duration::from_secs(9 * 24 * 3600)).await;
    let look = async || lifecycle::survey(&world.clients, None).await.found;
    assert_eq!(look().await, [], "layers are for bakes to come");
    let kept = layers::list(&world.clients).await.unwrap();
    for layer in &kept {
        let request = world.clients.ec2.deregister_image().image_id(&layer.id);
        request.send().await.unwrap();
    }
    let found = look().await;
    let judged = found
        .iter()
        .map(|one| judge(one, lifecycle::Run::Unknown, world.clock.now()));
    assert!(
        judged
            .into_iter()
            .all(|one| one == Verdict::Remove(Why::OfNothing)),
        "{found:?}"
    );
    let mut ids: Vec<_> = found.iter().map(|one| one.id.clone()).collect();
    ids.retain(|id| id.starts_with("snap-"));
    assert_eq!(ids.len(), kept.len());
    let (_, stuck) = lifecycle::remove(&world.clients, &found, &()).await;
    assert_eq!(stuck, []);
    assert_all_or_nothing(&world, "after the clean-up").await;
}

#[tokio::test]
async fn with_secrets_nothing_is_kept() {
    let world = world().await;
    let mut plan = world.plan(&world.target().await).await;
    plan.secrets.insert("token".into(), "ssm:/token".into());
    world.bake(&plan, Cancel::never(), &()).await.unwrap();
    assert_eq!(layers::list(&world.clients).await.unwrap(), []);
}
