//! Rolls on real machines, through the binary as a user runs it.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_sdk_autoscaling::types::LaunchTemplateSpecification;
use aws_sdk_ec2::types::RequestLaunchTemplateData;
use piaas_bake::aws::{Clients, Connection};
use piaas_bake::clock::SystemClock;
use piaas_bake::localcloud::nspawn::NspawnDriver;
use piaas_bake::localcloud::{ACCESS_KEY, BASE_IMAGE, LocalCloud, SECRET_KEY, base, connector};

use crate::support::{BIN, Run, Sandbox, cache_dir, left_on_host, machines_wanted};

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
        let dir = sandbox.state().join("cloud");
        let base_dir = cache_dir().join("base").join(base::directory_name());
        let driver = NspawnDriver::new(dir.clone(), base_dir, PathBuf::from(BIN));
        let clock = SystemClock::shared();
        let cloud = LocalCloud::open(&dir, Arc::new(driver), clock.clone()).unwrap();
        let connection = Connection::Local {
            http_client: connector(cloud),
            region: "us-east-1".to_owned(),
            access_key: ACCESS_KEY,
            secret_key: SECRET_KEY,
        };
        let clients = Clients::connect(connection, clock).await.unwrap();
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

    async fn group(&self) -> Option<aws_sdk_autoscaling::types::AutoScalingGroup> {
        let call = self.clients.autoscaling.describe_auto_scaling_groups();
        let answer = call.auto_scaling_group_names(GROUP).send().await.unwrap();
        answer.auto_scaling_groups.unwrap().pop()
    }

    /// A group of two instances of an image.
    async fn create_group(&self, image: &str) {
        let data = RequestLaunchTemplateData::builder()
            .image_id(image)
            .instance_type("t3.micro".into())
            .build();
        let create = self.clients.ec2.create_launch_template();
        let create = create
            .launch_template_name(GROUP)
            .launch_template_data(data);
        create.send().await.unwrap();
        let template = LaunchTemplateSpecification::builder()
            .launch_template_name(GROUP)
            .version("1")
            .build();
        let zones = self.clients.ec2.describe_availability_zones().send().await;
        let zones = zones.unwrap().availability_zones.unwrap();
        let create = self
            .clients
            .autoscaling
            .create_auto_scaling_group()
            .auto_scaling_group_name(GROUP)
            .min_size(2)
            .max_size(2)
            .launch_template(template)
            .availability_zones(zones[0].zone_name().unwrap());
        create.send().await.unwrap();
        until("two instances in service", async || {
            let group = self.group().await.unwrap();
            let mut states = group.instances().iter().map(|one| one.lifecycle_state());
            let serving = states.all(|state| state.is_some_and(|one| one.as_str() == "InService"));
            group.instances().len() == 2 && serving
        })
        .await;
    }

    /// Images of the machines of the group, as EC2 says, and the version that the group launches.
    async fn stand(&self) -> (Vec<String>, String) {
        let group = self.group().await.unwrap();
        let ids: Vec<String> = group
            .instances()
            .iter()
            .filter_map(|one| one.instance_id().map(str::to_owned))
            .collect();
        let call = self.clients.ec2.describe_instances();
        let answer = call.set_instance_ids(Some(ids)).send().await.unwrap();
        let images = answer
            .reservations()
            .iter()
            .flat_map(|one| one.instances())
            .filter_map(|one| one.image_id().map(str::to_owned));
        let version = group.launch_template().unwrap().version().unwrap();
        (images.collect(), version.to_owned())
    }

    async fn delete_group(&self) {
        let call = self.clients.autoscaling.delete_auto_scaling_group();
        let call = call.auto_scaling_group_name(GROUP).force_delete(true);
        call.send().await.unwrap();
        until("the group to be gone", async || {
            self.group().await.is_none()
        })
        .await;
    }
}

async fn wait(child: std::process::Child) -> Run {
    let output = tokio::task::spawn_blocking(|| child.wait_with_output());
    Run::from(output.await.unwrap().unwrap())
}

async fn until(what: &str, happened: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !happened().await {
        assert!(Instant::now() < deadline, "waited too long for {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The last line of an output in JSON lines.
fn result(run: &Run) -> serde_json::Value {
    let last = run.stdout.trim_end().lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {last:?}\n{}", run.stderr))
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
    real.delete_group().await;
    assert_eq!(left_on_host(&real.sandbox.state()), Vec::<String>::new());
}
