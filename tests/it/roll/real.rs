//! Rolls on real machines, through the binary as a user runs it.

use std::process::Stdio;

use piaas_bake::aws::Clients;
use piaas_bake::localcloud::BASE_IMAGE;

use crate::aws;
use crate::support::{Run, Sandbox, cache_dir, left_on_host, machines_wanted};

const GROUP: &str = "workers";
const RECIPE: &str = r#"schema: piaas-bake/v1
name: worker
version: 1.0.0
description: A machine that knows which image it is.
from:
  ssm: /aws/service/debian/release/12/latest/amd64
parameters:
  greeting: { type: string, description: Which image it is. }
steps:
  - name: Keep the greeting
    run: |
      printf '%s' {{ greeting }} > /etc/greeting
      # Without host keys, which no image carries, it would fail.
      systemctl disable ssh.service
test:
  - name: The greeting is there
    run: test -s /etc/greeting
"#;

struct Real {
    sandbox: Sandbox,
    clients: Clients,
}

impl Real {
    async fn new() -> Self {
        let sandbox = Sandbox::new();
        sandbox.write("recipes/worker/recipe.yaml", RECIPE);
        let clients = aws::real(&sandbox.state().join("cloud")).await;
        Self { sandbox, clients }
    }

    /// Starts the binary, without waiting for it.
    fn start(&self, args: &[&str]) -> std::process::Child {
        let mut command = self.sandbox.command(args);
        command
            .env("PIAAS_CACHE_DIR", cache_dir())
            .env("AWS_REGION", "us-east-1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    /// Bakes one image for each greeting, all at once.
    async fn bake(&self, greetings: &[&str]) -> Vec<String> {
        let children: Vec<_> = greetings
            .iter()
            .map(|greeting| {
                let set = format!("greeting={greeting}");
                self.start(&["bake", "worker", "--set", &set, "--format", "json"])
            })
            .collect();
        let mut images = Vec::new();
        for child in children {
            let run = wait(child).await.expect_code(0);
            images.push(result(&run)["image_id"].as_str().unwrap().to_owned());
        }
        images
    }

    /// A group of two instances of an image.
    async fn create_group(&self, image: &str) {
        let template = aws::template(&self.clients, GROUP, aws::launches(image)).await;
        let create = aws::group(&self.clients, GROUP, &template);
        create.min_size(2).max_size(2).send().await.unwrap();
        aws::until("two instances in service", async || {
            aws::in_service(&self.clients, GROUP).await.len() == 2
        })
        .await;
    }

    /// Images of the machines of the group, as EC2 says, and the version that the group launches.
    async fn stand(&self) -> (Vec<String>, String) {
        let group = aws::find_group(&self.clients, GROUP).await.unwrap();
        let ids = group.instances().iter();
        let ids = ids.filter_map(|one| one.instance_id().map(str::to_owned));
        let images = aws::images_of(&self.clients, ids.collect()).await;
        let version = group.launch_template().unwrap().version().unwrap();
        (images, version.to_owned())
    }
}

async fn wait(child: std::process::Child) -> Run {
    let output = tokio::task::spawn_blocking(|| child.wait_with_output());
    Run::from(output.await.unwrap().unwrap())
}

/// The last line of an output in JSON lines.
fn result(run: &Run) -> serde_json::Value {
    serde_json::from_str(&run.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}\n{}", run.stdout, run.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_of_real_machines_is_rolled_and_a_bad_image_comes_back_by_itself() {
    if !machines_wanted("rolls of a group of real machines") {
        return;
    }
    let real = Real::new().await;
    let images = real.bake(&["two", "three"]).await;
    real.create_group(BASE_IMAGE).await;
    let roll = async |image: &str, more: &[&str]| {
        let check = r#"test "$(cat /etc/greeting)" = two"#;
        let mut args = vec![
            "roll",
            "start",
            GROUP,
            "--image",
            image,
            "--canary-check",
            check,
        ];
        args.extend(["--warmup", "1s", "--max-healthy", "200", "--format", "json"]);
        args.extend(more);
        wait(real.start(&args)).await
    };

    let rolled = roll(&images[0], &[]).await.expect_code(0);
    assert_eq!(result(&rolled)["record"]["outcome"], "rolled-out");
    let two = [images[0].clone(), images[0].clone()];
    assert_eq!(real.stand().await, (two.to_vec(), "2".to_owned()));

    // Its canary would find out; without one the first new instance does, in the middle of the refresh.
    let back = roll(&images[1], &["--no-canary"]).await.expect_code(8);
    let record = &result(&back)["record"];
    assert_eq!(record["outcome"], "rolled-back", "{record}");
    let reason = record["reason"].as_str().unwrap();
    assert!(
        reason.contains("check 1 ended with exit code 1"),
        "{reason}"
    );
    assert_eq!(real.stand().await, (two.to_vec(), "2".to_owned()));

    let status = wait(real.start(&["roll", "status", GROUP])).await;
    let status = status.expect_code(0);
    assert!(status.stdout.contains("2 of 2"), "{}", status.stdout);
    aws::delete_group(&real.clients, GROUP).await;
    assert_eq!(left_on_host(&real.sandbox.state()), Vec::<String>::new());
}
