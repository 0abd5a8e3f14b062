//! Machines that are launched at once, by one request and by several callers; how long it takes until their agents are
//! online is told, and no test fails for it.

use std::collections::BTreeSet;

use super::*;

/// Launches `count` machines with one request; gives their ids.
async fn launch_several(clients: &Clients, count: i32) -> Vec<String> {
    let run = clients.ec2.run_instances().image_id(BASE_IMAGE);
    let run = run.instance_type(InstanceType::T3Micro);
    let made = run.min_count(count).max_count(count).send().await.unwrap();
    let ids = made.instances().iter();
    ids.map(|one| one.instance_id().unwrap().to_owned())
        .collect()
}

impl Cloud {
    /// Waits until all agents are online; seconds after `began` for each, in the order in which they came.
    async fn times(&self, machines: &[String], began: Instant) -> Vec<f64> {
        let mut times = Vec::new();
        let mut waiting: BTreeSet<&String> = machines.iter().collect();
        while !waiting.is_empty() {
            assert!(
                began.elapsed() < Duration::from_secs(180),
                "{waiting:?} do not come online"
            );
            for id in self.online().await {
                if waiting.remove(&id) {
                    times.push(began.elapsed().as_secs_f64());
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        times
    }

    async fn all_are_whole(&self, machines: &[String]) {
        let mut addresses = BTreeSet::new();
        for machine in machines {
            let (status, _, out, err) = self.run(machine, "hostname; hostname -I", 60).await;
            assert_eq!(status, "Success", "{out}{err}");
            assert!(addresses.insert(out), "two machines have one address");
        }
        let end = self.clients.ec2.terminate_instances();
        end.set_instance_ids(Some(machines.to_vec()))
            .send()
            .await
            .unwrap();
        for machine in machines {
            self.wait_for(machine, InstanceStateName::Terminated).await;
            assert_eq!(processes_of(machine), [0; 0]);
        }
    }
}

fn tell(what: &str, times: &[f64]) {
    // Past the harness's capture: the figures are worth seeing when all is well, too.
    let (first, last) = (times.first().unwrap(), times.last().unwrap());
    let _ = writeln!(
        std::io::stderr(),
        "launch to agent online, {what}: first {first:.2} s, last {last:.2} s"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_launched_at_once_by_one_request_or_by_many_callers_all_come_online() {
    let Some(cloud) = Cloud::open("parallel launches of real machines").await else {
        return;
    };
    let began = Instant::now();
    let one = launch_several(&cloud.clients, 1).await;
    tell("one machine", &cloud.times(&one, began).await);
    cloud.all_are_whole(&one).await;

    let began = Instant::now();
    let eight = launch_several(&cloud.clients, 8).await;
    assert_eq!(eight.len(), 8);
    tell(
        "8 machines of one request",
        &cloud.times(&eight, began).await,
    );
    cloud.all_are_whole(&eight).await;

    // Each caller has opened the cloud by itself, as another process would.
    let began = Instant::now();
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let dir = cloud.state();
        callers.spawn(async move {
            let clients = aws::real(&dir).await;
            launch_several(&clients, 2).await
        });
    }
    let many: Vec<String> = callers.join_all().await.into_iter().flatten().collect();
    assert_eq!(many.iter().collect::<BTreeSet<_>>().len(), 8, "{many:?}");
    tell("8 machines of 4 callers", &cloud.times(&many, began).await);
    cloud.all_are_whole(&many).await;
    cloud.assert_nothing_left();
}
