//! Known leaks: refused on the builder and on the finished disk, and what a recipe says about them.

use piaas_bake::image::leaks::{Action, Sealed};

use super::*;

fn sealed(path: &str, action: Action) -> Sealed {
    let path = path.to_owned();
    Sealed { path, action }
}

#[tokio::test]
async fn what_is_new_in_every_bake_fails_it_unless_the_recipe_removes_or_keeps_it() {
    // As a package's script does that makes the first database.
    let make = "mkdir -p \"$MACHINE/var/lib/mysql\"; echo 1 >\"$MACHINE/var/lib/mysql/auto.cnf\"\n";
    let (_world, error) = bake_with(|plan| plan.steps[1].text = make.into()).await;
    assert_eq!((error.phase, error.exit_code()), (Some(Phase::Seal), 6));
    let Failure::NotSealed { remains, .. } = &error.failure else {
        panic!("{error}");
    };
    assert_eq!(remains.len(), 1);
    assert!(
        remains[0].path.ends_with("/var/lib/mysql/auto.cnf"),
        "{error}"
    );
    for action in [Action::Gone, Action::Keep] {
        let world = World::new().await;
        let mut plan = world.plan(&world.target().await).await;
        plan.steps[1].text = make.into();
        plan.sealed = vec![sealed("/var/lib/mysql/*", action)];
        world.bake(&plan, Cancel::never(), &()).await.unwrap();
    }
}

#[tokio::test]
async fn what_came_after_the_seal_is_found_on_the_finished_disk_and_the_image_is_undone() {
    let entry = |path: &str| {
        format!(
            "{{\"path\":\"{path}\",\"type\":\"file\",\"mode\":\"0644\",\"uid\":0,\"gid\":0,\"mtime\":0,\"size\":1}}\n"
        )
    };
    let head = "{\"format\":\"piaas-bake/tree/1\",\"packages\":[]}\n";
    let paths = ["etc/hosts", "tmp/x", "var/lib/redis/dump.rdb"];
    let text = format!("{head}{}", paths.map(entry).concat());
    let mut world = World::new().await;
    world.tree = Some(TreeManifest::parse(&text).unwrap());
    let mut plan = world.plan(&world.target().await).await;
    let error = world.bake(&plan, Cancel::never(), &()).await.unwrap_err();
    assert_eq!((error.phase, error.exit_code()), (Some(Phase::Test), 6));
    assert_eq!(
        error.to_string(),
        "the finished disk is not clean after sealing; still there: /tmp/x (history: what scripts left), \
         /var/lib/redis/dump.rdb (clock: when it was saved)"
    );
    let ways = error.failure.ways_out();
    let line = "- { path: /var/lib/redis/dump.rdb, action: gone }";
    assert!(ways.iter().any(|way| way.contains(line)), "{ways:?}");
    assert_eq!(error.left_over, []);
    assert_eq!(world.things().await, [] as [String; 0]);

    plan.sealed = vec![sealed("/var/lib/redis", Action::Keep)];
    let text = format!("{head}{}", [paths[0], paths[2]].map(entry).concat());
    world.tree = Some(TreeManifest::parse(&text).unwrap());
    world.bake(&plan, Cancel::never(), &()).await.unwrap();
}
