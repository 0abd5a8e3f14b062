//! Real machines, driven through the AWS API in process: what SSM and EC2 promise of them.

mod isolation;
mod launches;
mod limits;
mod spot;

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_sdk_ec2::types::{InstanceStateName, InstanceType};
use piaas_bake::aws::Clients;
use piaas_bake::localcloud::base;
use piaas_bake::localcloud::faults::Faults;
use piaas_bake::localcloud::{BASE_IMAGE, endpoint, exposed};

use crate::aws;
use crate::support::{left_on_host, machines_wanted, processes_of, remove_machines};

const MIRROR: &str = "http://deb.debian.org/debian";

/// A cloud with real machines, in a directory of its own.
struct Cloud {
    dir: tempfile::TempDir,
    clients: Clients,
}

/// A test that fails leaves no machines running on the host.
impl Drop for Cloud {
    fn drop(&mut self) {
        if std::thread::panicking() {
            remove_machines(self.dir.path());
        }
    }
}

impl Cloud {
    async fn open(test: &str) -> Option<Self> {
        Self::open_with(test, None).await
    }

    async fn open_with(test: &str, faults: Option<Arc<Faults>>) -> Option<Self> {
        Self::open_in(test, faults, None).await
    }

    /// As [`Self::open_with`], below this directory.
    async fn open_in(
        test: &str,
        faults: Option<Arc<Faults>>,
        below: Option<&Path>,
    ) -> Option<Self> {
        if !machines_wanted(test) {
            return None;
        }
        let mirror = std::env::var("PIAAS_MIRROR").unwrap_or_else(|_| MIRROR.to_owned());
        base::ensure(&aws::base_dir(), &mirror, &|_| ()).unwrap();
        let dir = match below {
            Some(below) => tempfile::tempdir_in(below),
            None => tempfile::tempdir(),
        };
        let dir = dir.unwrap();
        let clients = aws::real_with(&dir.path().join("cloud"), faults).await;
        Some(Self { dir, clients })
    }

    /// The cloud's own directory.
    fn state(&self) -> PathBuf {
        self.dir.path().join("cloud")
    }

    /// Launches a machine and waits for its agent.
    async fn launch(&self) -> String {
        self.launch_with(InstanceType::T3Micro, None).await
    }

    async fn launch_with(&self, kind: InstanceType, profile: Option<&str>) -> String {
        let profile = profile.map(|name| {
            aws_sdk_ec2::types::IamInstanceProfileSpecification::builder()
                .name(name)
                .build()
        });
        let launched = self
            .clients
            .ec2
            .run_instances()
            .image_id(BASE_IMAGE)
            .instance_type(kind)
            .min_count(1)
            .max_count(1)
            .metadata_options(
                aws_sdk_ec2::types::InstanceMetadataOptionsRequest::builder()
                    .http_tokens(aws_sdk_ec2::types::HttpTokensState::Required)
                    .build(),
            )
            .instance_initiated_shutdown_behavior(aws_sdk_ec2::types::ShutdownBehavior::Terminate)
            .set_iam_instance_profile(profile)
            .send()
            .await
            .unwrap();
        let id = launched.instances()[0].instance_id().unwrap().to_owned();
        self.wait_online(&id).await;
        id
    }

    async fn wait_online(&self, id: &str) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if self.online().await.iter().any(|one| one == id) {
                return;
            }
            assert!(Instant::now() < deadline, "the agent does not come online");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The machines whose agents are online.
    async fn online(&self) -> Vec<String> {
        let call = self.clients.ssm.describe_instance_information();
        let known = call.max_results(50).send().await.unwrap();
        let all = known.instance_information_list().iter();
        all.filter(|one| {
            one.ping_status()
                .is_some_and(|status| status.as_str() == "Online")
        })
        .filter_map(|one| one.instance_id().map(str::to_owned))
        .collect()
    }

    async fn send(&self, instance: &str, script: &str, timeout: u32) -> String {
        let sent = self
            .clients
            .ssm
            .send_command()
            .document_name("AWS-RunShellScript")
            .instance_ids(instance)
            .parameters("commands", script.lines().map(str::to_owned).collect())
            .parameters("executionTimeout", vec![timeout.to_string()])
            .send()
            .await
            .unwrap();
        sent.command().unwrap().command_id().unwrap().to_owned()
    }

    /// Runs a script to its end: status details, exit code, standard output, standard error.
    async fn run(
        &self,
        instance: &str,
        script: &str,
        timeout: u32,
    ) -> (String, i32, String, String) {
        let command = self.send(instance, script, timeout).await;
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            let call = self
                .clients
                .ssm
                .get_command_invocation()
                .command_id(&command)
                .instance_id(instance);
            // Just after sending SSM does not know the invocation yet.
            if let Ok(answer) = call.send().await
                && !matches!(
                    answer.status_details(),
                    Some("Pending" | "In Progress" | "InProgress" | "Delayed")
                )
            {
                return (
                    answer.status_details().unwrap_or_default().to_owned(),
                    answer.response_code(),
                    answer
                        .standard_output_content()
                        .unwrap_or_default()
                        .to_owned(),
                    answer
                        .standard_error_content()
                        .unwrap_or_default()
                        .to_owned(),
                );
            }
            assert!(
                Instant::now() < deadline,
                "the command does not end: {script}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn wait_for(&self, instance: &str, wanted: InstanceStateName) {
        aws::in_state(&self.clients, instance, wanted).await;
    }

    async fn terminate(&self, instance: &str) {
        self.end(instance, false).await;
    }

    async fn end(&self, instance: &str, at_once: bool) {
        let call = self.clients.ec2.terminate_instances();
        let call = call.instance_ids(instance).skip_os_shutdown(at_once);
        call.send().await.unwrap();
        self.wait_for(instance, InstanceStateName::Terminated).await;
        assert_eq!(
            processes_of(instance),
            [0; 0],
            "a terminated machine runs on"
        );
    }

    fn assert_nothing_left(&self) {
        // A supervisor ends a moment after it has removed its machine's files.
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let left = left_on_host(self.dir.path());
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "{left:#?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_run_by_the_rules_of_ssm() {
    let Some(cloud) = Cloud::open("SSM's rules on a real machine").await else {
        return;
    };
    let started = Instant::now();
    let machine = cloud.launch().await;
    assert!(
        started.elapsed() < Duration::from_secs(30),
        "online after {:?}",
        started.elapsed()
    );

    let (status, code, out, err) = cloud
        .run(&machine, "echo out\necho err >&2\nexit 3", 60)
        .await;
    assert_eq!(
        (status.as_str(), code, out.as_str()),
        ("Failed", 3, "out\n")
    );
    assert!(err.starts_with("err\n"), "{err}");

    // sh runs it, unless its first line says otherwise.
    let (_, _, out, _) = cloud.run(&machine, "echo ${BASH_VERSION:-none}", 60).await;
    assert_eq!(out, "none\n");
    let (_, _, out, _) = cloud
        .run(&machine, "#!/bin/bash\necho ${BASH_VERSION:+bash}", 60)
        .await;
    assert_eq!(out, "bash\n");

    let (_, _, out, err) = cloud
        .run(
            &machine,
            "head -c 30000 /dev/zero | tr '\\0' o\nhead -c 9000 /dev/zero | tr '\\0' e >&2",
            60,
        )
        .await;
    assert!(
        out.starts_with(&"o".repeat(24_000 - 100)) && out.len() < 24_100,
        "{} characters",
        out.len()
    );
    assert!(
        err.starts_with(&"e".repeat(8_000 - 100)) && err.len() < 8_100,
        "{} characters",
        err.len()
    );

    let waited = Instant::now();
    let (status, _, _, _) = cloud.run(&machine, "sleep 300", 5).await;
    assert_eq!(status.replace(' ', ""), "ExecutionTimedOut");
    assert!(waited.elapsed() < Duration::from_secs(60));
    let (_, _, out, _) = cloud.run(&machine, "pgrep -c sleep || true", 60).await;
    assert_eq!(out, "0\n", "a command that ran out of time is gone");

    cloud.terminate(&machine).await;
    cloud.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_194_reboots_and_runs_the_script_again() {
    let Some(cloud) = Cloud::open("exit code 194 on a real machine").await else {
        return;
    };
    let machine = cloud.launch().await;
    let (_, _, before, _) = cloud
        .run(&machine, "cat /proc/1/stat | cut -d' ' -f22", 60)
        .await;
    let script = "echo run >> /var/runs\nif [ \"$(wc -l < /var/runs)\" -lt 2 ]; then exit 194; fi\nwc -l < /var/runs";
    let (status, code, out, err) = cloud.run(&machine, script, 120).await;
    assert_eq!((status.as_str(), code), ("Success", 0), "{out}{err}");
    assert!(out.ends_with("2\n"), "{out}");
    let (_, _, after, _) = cloud
        .run(&machine, "cat /proc/1/stat | cut -d' ' -f22", 60)
        .await;
    assert_ne!(before, after, "the machine has booted again");
    cloud.terminate(&machine).await;
    cloud.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_on_a_machine_is_stopped_in_order_unless_that_is_not_wanted() {
    let Some(cloud) = Cloud::open("an orderly end of a real machine").await else {
        return;
    };
    for (takes, at_once) in [(3, false), (80, true)] {
        let machine = cloud.launch().await;
        let unit = format!(
            "systemd-run --quiet --unit=slow -p ExecStop='/bin/sleep {takes}' -p TimeoutStopSec=90 sleep 1000"
        );
        cloud.run(&machine, &unit, 60).await;
        let begun = Instant::now();
        cloud.end(&machine, at_once).await;
        let waited = begun.elapsed() >= Duration::from_secs(takes);
        assert_eq!(waited, !at_once, "{:?}", begun.elapsed());
    }
    cloud.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_has_its_metadata_and_reaches_the_internet() {
    let Some(cloud) = Cloud::open("isolation of a real machine").await else {
        return;
    };
    let machine = cloud.launch().await;
    let secret = cloud.dir.path().join("host-secret");
    std::fs::write(&secret, "secret").unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();

    let imds = "curl -s -o /dev/null -w '%{http_code}' http://169.254.169.254/latest/meta-data/instance-id\n\
                t=$(curl -sX PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' http://169.254.169.254/latest/api/token)\n\
                echo \" $(curl -s -H \"X-aws-ec2-metadata-token: $t\" http://169.254.169.254/latest/meta-data/instance-id)\"";
    let (_, _, out, _) = cloud.run(&machine, imds, 60).await;
    assert_eq!(out, format!("401 {machine}\n"));

    // The metadata service takes no port of the machine: a web server can listen on all its addresses.
    let (_, _, out, _) = cloud
        .run(&machine, "ss -Hltn 'sport = :80' | wc -l", 60)
        .await;
    assert_eq!(out, "0\n");

    let (_, _, out, _) = cloud
        .run(
            &machine,
            &format!("cat {} 2>&1 || true", secret.display()),
            60,
        )
        .await;
    assert!(
        !out.contains("secret\n") && out.contains("No such file"),
        "{out}"
    );
    let (_, _, out, _) = cloud
        .run(&machine, "ps ax | grep -c '[l]ocal-machine' || true", 60)
        .await;
    assert_eq!(out, "0\n", "the host's processes are not seen");
    for address in [
        "127.0.0.1",
        "172.31.0.1",
        "$(ip route | awk '/default/ {print $3}')",
    ] {
        let script = format!("curl -s --max-time 2 telnet://{address}:{port} </dev/null; echo $?");
        let (_, _, out, _) = cloud.run(&machine, &script, 60).await;
        assert_ne!(
            out, "0\n",
            "a service on the host's loopback answers at {address}"
        );
    }
    let (_, _, out, _) = cloud
        .run(
            &machine,
            "getent hosts deb.debian.org >/dev/null && echo resolved",
            60,
        )
        .await;
    assert_eq!(out, "resolved\n");
    cloud.terminate(&machine).await;
    cloud.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_from_inside_terminates_and_a_stop_can_be_started_again() {
    let Some(cloud) = Cloud::open("power states of a real machine").await else {
        return;
    };
    let machine = cloud.launch().await;
    let ec2 = &cloud.clients.ec2;
    let (_, _, _, _) = cloud.run(&machine, "echo kept > /var/kept", 60).await;
    ec2.stop_instances()
        .instance_ids(&machine)
        .send()
        .await
        .unwrap();
    cloud.wait_for(&machine, InstanceStateName::Stopped).await;
    ec2.start_instances()
        .instance_ids(&machine)
        .send()
        .await
        .unwrap();
    cloud.wait_for(&machine, InstanceStateName::Running).await;
    let deadline = Instant::now() + Duration::from_secs(60);
    // The agent of a machine that has just been started is not online at once.
    while cloud
        .clients
        .ssm
        .describe_instance_information()
        .send()
        .await
        .unwrap()
        .instance_information_list()
        .iter()
        .all(|one| {
            one.ping_status()
                .is_none_or(|status| status.as_str() != "Online")
        })
    {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (_, _, out, _) = cloud.run(&machine, "cat /var/kept", 60).await;
    assert_eq!(out, "kept\n");
    let _ = cloud.send(&machine, "systemctl poweroff", 60).await;
    cloud
        .wait_for(&machine, InstanceStateName::Terminated)
        .await;
    cloud.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_supervisor_takes_its_machine_with_it() {
    let Some(cloud) = Cloud::open("kill -9 of a machine's supervisor").await else {
        return;
    };
    let machine = cloud.launch().await;
    assert!(processes_of(&machine).len() > 3);
    let supervisor = left_on_host(cloud.dir.path())
        .into_iter()
        .find(|line| line.contains("local-machine"))
        .and_then(|line| {
            line.split_whitespace()
                .nth(1)?
                .trim_end_matches(':')
                .parse::<i32>()
                .ok()
        })
        .expect("the supervisor runs");
    let pid = rustix::process::Pid::from_raw(supervisor).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    cloud.assert_nothing_left();
    // EC2 never loses an instance; a host that died shows as one that is over.
    cloud.terminate(&machine).await;
    assert!(!cloud.state().join("instances").join(&machine).exists());
}

/// Answers every connection on a port of the host's loopback with `hello`.
fn greet() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello");
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_reaches_the_api_and_the_ports_that_are_exposed() {
    let Some(cloud) = Cloud::open("the AWS API inside a real machine").await else {
        return;
    };
    let (first, later, hidden) = (greet(), greet(), greet());
    exposed::set(&cloud.state(), first, true).unwrap();
    let machine = cloud
        .launch_with(InstanceType::T3Micro, Some("worker"))
        .await;

    // Units that ask for it are told where the API is.
    let unit = "systemd-run --quiet --wait --pipe --property=PassEnvironment=AWS_ENDPOINT_URL \
                sh -c 'echo $AWS_ENDPOINT_URL'";
    let (_, _, url, err) = cloud.run(&machine, unit, 60).await;
    assert_eq!(url.trim(), "http://169.254.169.254:4599", "{err}");

    let script = format!(
        r#"imds=http://169.254.169.254/latest
        t=$(curl -sX PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' $imds/api/token)
        ask() {{ curl -sf -H "X-aws-ec2-metadata-token: $t" $imds/meta-data/iam/security-credentials/$1; }}
        role=$(ask)
        echo $role
        value() {{ ask $role | sed 's/.*"'$1'":"\([^"]*\)".*/\1/'; }}
        curl -s --aws-sigv4 aws:amz:us-east-1:ec2 --user "$(value AccessKeyId):$(value SecretAccessKey)" \
            -H "x-amz-security-token: $(value Token)" --data 'Action=DescribeInstances&Version=2016-11-15' {}"#,
        url.trim()
    );
    let (_, _, out, err) = cloud.run(&machine, &script, 60).await;
    assert!(out.starts_with("worker\n"), "{out}{err}");
    assert!(
        out.contains(&format!("<instanceId>{machine}</instanceId>")),
        "{out}{err}"
    );

    let get = |port: u16| format!("curl -s --max-time 5 http://169.254.42.1:{port}/; echo \" $?\"");
    let (_, _, out, _) = cloud.run(&machine, &get(first), 60).await;
    assert_eq!(out, "hello 0\n");
    let (_, _, out, _) = cloud.run(&machine, &get(hidden), 60).await;
    assert_eq!(out, " 7\n", "a port that is not exposed refuses");
    // A machine that runs notices, both ways.
    exposed::set(&cloud.state(), later, true).unwrap();
    exposed::set(&cloud.state(), first, false).unwrap();
    let wait = format!(
        "until curl -sf http://169.254.42.1:{later}/; do sleep 0.1; done\n\
         while curl -sf --max-time 5 http://169.254.42.1:{first}/ >/dev/null; do sleep 0.1; done; echo"
    );
    let (status, _, out, _) = cloud.run(&machine, &wait, 30).await;
    assert_eq!((status.as_str(), out.as_str()), ("Success", "hello\n"));

    cloud.terminate(&machine).await;
    cloud.assert_nothing_left();
    // Neither does its control group stay, once its supervisor has ended.
    for root in ["systemd", "unified", "."] {
        let group = Path::new("/sys/fs/cgroup")
            .join(root)
            .join("piaas-bake")
            .join(&machine);
        assert!(!group.exists(), "{} is left", group.display());
    }
    // With the last machine the endpoint ends.
    let deadline = Instant::now() + Duration::from_secs(30);
    while endpoint::runs(&cloud.state()) {
        assert!(Instant::now() < deadline, "the endpoint does not end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
