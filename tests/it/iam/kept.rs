//! `gc` on the command line: what somebody wants to look at stays, and a run that nobody knows is an error.

use serde_json::Value;

use super::World;
use crate::support::Run;

fn json(run: &Run) -> Value {
    serde_json::from_str(&run.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_is_kept_stays_until_its_run_is_asked_for() {
    let world = World::new().await;
    let failing = World::recipe().replace("echo made", "exit 3; echo made");
    world.sandbox.write("recipes/web/recipe.yaml", &failing);
    let failed = world.run(&["bake", "web", "--keep-on-failure"]).await;
    let failed = failed.expect_code(7);

    let said = world.run(&["gc"]).await.expect_code(0);
    assert!(said.stdout.contains("nothing to remove"), "{}", said.stdout);
    assert!(
        said.stdout.contains("wanted to look at it"),
        "{}",
        said.stdout
    );
    let done = json(
        &world
            .run(&["gc", "--yes", "--format", "json"])
            .await
            .expect_code(0),
    );
    let [kept] = done["kept"].as_array().unwrap().as_slice() else {
        panic!("{done}");
    };
    let run = kept["run"].as_str().unwrap();
    assert!(failed.stderr.contains(run), "{}", failed.stderr);
    assert_eq!(done["removed"], serde_json::json!([]));
    let kinds = kept["left"].as_array().unwrap().iter();
    let kinds: Vec<&str> = kinds.map(|one| one["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["builder", "security-group"]);

    let shown = world.run(&["runs", "show", run]).await.expect_code(0);
    assert!(
        shown.stdout.contains("keeps its machine until"),
        "{}",
        shown.stdout
    );
    world.done(&["gc", "--run", run, "--yes"]).await;
    let done = json(&world.run(&["gc", "--format", "json"]).await.expect_code(0));
    assert_eq!(done["dead_runs"], serde_json::json!([]));
    assert_eq!(done["keep"], serde_json::json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_nobody_knows_is_an_error() {
    let world = World::new().await;
    for more in [&[][..], &["--yes"]] {
        let run = world
            .run(&[&["gc", "--run", "20260101T000000-1"], more].concat())
            .await;
        let run = run.expect_code(1);
        assert!(
            run.stderr.contains("there is no run 20260101T000000-1"),
            "{}",
            run.stderr
        );
    }
}
