//! Two bakes of one recipe that end at the same moment: both point `latest` at their image.

use super::*;

const LATEST: &str = "/piaas-bake/worker/latest";
const OTHER: &str = "ami-0123456789abcdef0";

pub(super) async fn latest(world: &World) -> Option<String> {
    let answer = world.clients.ssm.get_parameter().name(LATEST).send().await;
    answer.ok()?.parameter?.value
}

/// A world where the request that makes the pointer is held.
async fn held() -> (World, Plan) {
    let mut all = requests().await.into_iter();
    let last = all.rfind(|(_, operation)| operation == "PutParameter");
    let world = World::new().await;
    let plan = world.plan(&world.target().await).await;
    world
        .wire
        .fail(Fault::Hold(last.expect("a bake ends with its pointer").0));
    (world, plan)
}

/// Another bake makes the pointer while ours is on its way; then ours goes on.
async fn overtake(world: &World, then: Fault) {
    world.wire.hung.notified().await;
    world.wire.fail(then);
    let pointer = world.clients.ssm.put_parameter().name(LATEST).value(OTHER);
    let kind = aws_sdk_ssm::types::ParameterType::String;
    pointer.r#type(kind).send().await.unwrap();
    world.wire.arrive();
}

#[tokio::test]
async fn who_comes_second_points_at_its_own() {
    let (world, plan) = held().await;
    let bake = world.bake(&plan, Cancel::never(), &());
    let (baked, ()) = tokio::join!(bake, overtake(&world, Fault::None));
    let baked = baked.unwrap();
    assert_eq!(baked.left_over, []);
    assert_eq!(latest(&world).await.as_deref(), Some(&*baked.image));
    assert_all_or_nothing(&world, "overtaken").await;
}

#[tokio::test]
async fn who_comes_second_and_dies_leaves_it_at_the_first_or_at_its_own_finished_image() {
    // Request 0 is the other's; ours are two looks at the pointer and one that moves it.
    for number in 1..=3 {
        for fault in [Fault::HangBefore(number), Fault::HangAfter(number)] {
            let (world, plan) = held().await;
            let killed = async {
                overtake(&world, fault).await;
                world.wire.hung.notified().await;
            };
            tokio::select! {
                outcome = world.bake(&plan, Cancel::never(), &()) => panic!("{outcome:?}"),
                () = killed => {}
            }
            let operations = world.wire.operations();
            let last = if number == 3 {
                "PutParameter"
            } else {
                "GetParameter"
            };
            assert_eq!(operations.last().unwrap(), last, "{operations:?}");
            assert_eq!(operations.len(), number + 1, "{operations:?}");
            world.wire.fail(Fault::None);
            assert_eq!(world.undo_dead_runs().await.len(), 1, "{fault:?}");
            let [own] = images::list(&world.clients, None)
                .await
                .unwrap()
                .try_into()
                .unwrap();
            assert!(own.is_ready(), "{fault:?}");
            let last = match fault {
                Fault::HangAfter(3) => own.id.as_str(),
                _ => OTHER,
            };
            assert_eq!(latest(&world).await.as_deref(), Some(last), "{fault:?}");
            assert_all_or_nothing(&world, &format!("{fault:?}")).await;
        }
    }
}
