//! The workflow `roll`, on a group whose machines are directories.

use piaas_bake::bake::images;
use piaas_bake::bake::names::Channel;
use serde_json::{Value, json};

use super::runner::Runner;
use super::{Cloud, ROOT, Repository, assert_all_executed, child, context};
use crate::aws;

const GROUP: &str = "work;ers $(touch pwned)";

/// A group of two that launches `image`, all of it in service.
async fn group(cloud: &Cloud, image: &str) {
    let clients = &cloud.clients;
    let template = aws::template(clients, "workers", aws::launches(image)).await;
    let create = aws::group(clients, GROUP, &template);
    let create = create.min_size(0).max_size(4).desired_capacity(2);
    create.send().await.unwrap();
    aws::until("the group to come up", async || {
        aws::in_service(clients, GROUP).await.len() == 2
    })
    .await;
}

/// The images of the instances in service.
async fn in_service(cloud: &Cloud) -> Vec<String> {
    let instances = aws::in_service(&cloud.clients, GROUP).await;
    aws::images_of(&cloud.clients, instances).await
}

async fn remove_group(cloud: &Cloud) {
    aws::delete_group(&cloud.clients, GROUP).await;
    assert_eq!(cloud.machines.left(), Vec::<String>::new());
}

async fn channel(cloud: &Cloud, channel: Channel) -> String {
    images::channels(&cloud.clients, "child").await.unwrap()[&channel].clone()
}

fn asked(image: &str) -> Value {
    let inputs = json!({ "group": GROUP, "image": image, "warmup": "1s" });
    context("workflow_dispatch", &json!({ "inputs": inputs }))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_is_chosen_rolled_out_and_promoted_and_a_cancelled_roll_turns_back() {
    let repository = Repository::new();
    let cloud = Cloud::new().await;
    // The machines' own word for "up"; this host may have no systemd.
    cloud
        .machines
        .provide("systemctl", "#!/bin/sh\necho running\n");
    let mut runner = repository.runner();
    cloud.lead(&mut runner);

    let night = context("schedule", &json!({}));
    let push = context("push", &json!({ "matrix": { "recipe": "child" } }));
    runner
        .run("recipes.yml", "aws", &push, None)
        .assert_passed();
    let first = channel(&cloud, Channel::Latest).await;
    group(&cloud, &first).await;
    // No candidate yet: nothing to choose, and no image is guessed.
    let none = runner.run("roll.yml", "choose", &asked("child@candidate"), None);
    assert!(none.failed, "{none:?}");
    assert!(
        none.steps["Choose"]
            .1
            .contains("child has no candidate image"),
        "{none:?}"
    );

    repository.sandbox.write(
        "recipes/root/recipe.yaml",
        &ROOT.replace("echo root", "echo new"),
    );
    repository
        .sandbox
        .write("recipes/child/recipe.yaml", &child("Say it anew"));
    runner
        .run("nightly.yml", "rebake", &night, None)
        .assert_passed();
    let second = channel(&cloud, Channel::Candidate).await;
    assert_ne!(first, second);

    let mut context = asked("child@candidate");
    let chosen = runner
        .run("roll.yml", "choose", &context, None)
        .assert_passed();
    assert_eq!(chosen.outputs["image"], second);
    context["needs"] = json!({ "choose": { "outputs": chosen.outputs } });
    let rolled = runner
        .run("roll.yml", "roll", &context, None)
        .assert_passed();
    assert!(
        rolled.steps.contains_key("Status") && !rolled.steps.contains_key("Turn back"),
        "{rolled:?}"
    );
    assert_eq!(in_service(&cloud).await, [second.as_str(), &second]);
    assert_eq!(channel(&cloud, Channel::Latest).await, second);
    assert!(
        runner.summary.contains("### The image to roll out")
            && runner.summary.contains("### The roll")
    );

    cancelled(&cloud, &mut runner, &first, &second).await;
    assert!(!repository.path().join("pwned").exists(), "a text was run");
    assert_all_executed(&runner, &[("roll.yml", "choose"), ("roll.yml", "roll")]);
    remove_group(&cloud).await;
    cloud.end().await;
}

/// The first image again, but the job is cancelled: its process is killed in the middle, and `Turn back` does the rest.
async fn cancelled(cloud: &Cloud, runner: &mut Runner, first: &str, second: &str) {
    let mut context = asked(first);
    context["needs"] = json!({ "choose": { "outputs": { "image": first } } });
    // What ends a process of a runner that does not go by itself.
    let killed = "#!/bin/sh\nreal=$(PATH=${PATH#*:} command -v piaas-bake)\n\
                  if [ \"$1 $2\" = 'roll start' ]; then exec timeout -s KILL 6 \"$real\" \"$@\"; fi\nexec \"$real\" \"$@\"\n";
    let bin = runner.home.join("bin");
    std::fs::create_dir_all(&bin).unwrap();
    let program = bin.join("piaas-bake");
    std::fs::write(&program, killed).unwrap();
    std::fs::set_permissions(
        &program,
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    let before = runner.env["PATH"].clone();
    runner
        .env
        .insert("PATH".to_owned(), format!("{}:{before}", bin.display()));
    let ended = runner.run("roll.yml", "roll", &context, Some("Roll"));
    runner.env.insert("PATH".to_owned(), before);
    assert_ne!(
        ended.steps["Roll"].0, 0,
        "the roll was not killed: {ended:?}"
    );
    assert!(!ended.steps.contains_key("Promote"), "{ended:?}");
    assert!(
        ended.steps.contains_key("Turn back") && ended.steps.contains_key("Status"),
        "{ended:?}"
    );
    assert_eq!(in_service(cloud).await, [second, second], "{ended:?}");
    assert_eq!(channel(cloud, Channel::Latest).await, second);
}
