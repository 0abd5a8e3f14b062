//! Clients that nobody here wrote, as judges of the wire: boto3 and the AWS CLI against the local cloud.
//!
//! The scripts are in `tests/clients`; `PIAAS_TEST_VENV` names the Python environment that has both clients (`make
//! test` makes one).

use std::io::{BufRead as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use piaas_bake::clock::SystemClock;
use piaas_bake::localcloud::engine::LocalCloud;
use piaas_bake::localcloud::scripted::{Launch, Outcome, Scripted, SnapshotPlay};
use piaas_bake::localcloud::serve::serve;
use piaas_bake::localcloud::{ACCESS_KEY, DEFAULT_REGION, SECRET_KEY};

use crate::support::{Sandbox, cache_dir, left_on_host, machines_wanted};

/// The Python environment, or `None`, said past the test harness's capture.
pub fn venv(test: &str) -> Option<PathBuf> {
    let venv = std::env::var_os("PIAAS_TEST_VENV").map(PathBuf::from);
    if venv.is_none() {
        let _ = writeln!(
            std::io::stderr(),
            "left out: {test} (boto3 and the AWS CLI; `make test` runs it)"
        );
    }
    venv
}

/// Machines that are quick, with the output of the commands that the scripts in `tests/clients` send.
fn quick_machines() -> Scripted {
    let driver = Scripted::new(SystemClock::shared());
    driver.set_launch(Launch::Boots(Duration::ZERO));
    driver.set_agent(Some(Duration::ZERO));
    driver.set_stop(Duration::ZERO);
    driver.set_snapshot(SnapshotPlay::Completes(Duration::from_millis(300)));
    driver.on_command("printf", Outcome::output("42\n"));
    let numbers: String = (1..=20_000).map(|number| format!("{number}\n")).collect();
    driver.on_command("seq 1 20000", Outcome::output(numbers));
    let failing = Outcome {
        stderr: "oops\n".to_owned(),
        exit_code: 3,
        ..Outcome::output("42\n")
    };
    driver.on_command("exit 3", failing);
    driver
}

/// Runs one script against a cloud of [`quick_machines`] on loopback; fails with what it printed.
async fn judge(script: &str) {
    let Some(venv) = venv(script) else { return };
    let home = tempfile::tempdir().unwrap();
    let cloud = LocalCloud::open(
        &home.path().join("cloud"),
        Arc::new(quick_machines()),
        SystemClock::shared(),
    )
    .unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = tokio::spawn(serve(cloud, listener, async {
        // A dropped sender ends the server too.
        let _ = stopped.await;
    }));

    let mut command = client(&venv, script, home.path(), &endpoint);
    let output = tokio::task::spawn_blocking(move || command.output())
        .await
        .unwrap()
        .unwrap();
    stop.send(()).unwrap();
    server.await.unwrap().unwrap();
    assert_succeeded(script, &output);
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        if line.starts_with("conformance: ") {
            // Past the harness's capture: the figures are worth seeing when all is well, too.
            let _ = writeln!(std::io::stderr(), "{line}");
        }
    }
}

/// `piaas-bake cloud serve`, as a user starts it.
pub struct Serve {
    process: std::process::Child,
    endpoint: String,
}

impl Serve {
    pub fn start(sandbox: &Sandbox) -> Self {
        let arguments = ["--listen", "127.0.0.1:0", "--format", "ndjson"];
        let mut process = sandbox
            .command(&[&["cloud", "serve"], &arguments[..]].concat())
            .env("PIAAS_CACHE_DIR", cache_dir())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        std::io::BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let serving: serde_json::Value = serde_json::from_str(&line).unwrap();
        let endpoint = serving["result"]["endpoint"].as_str().unwrap().to_owned();
        Self { process, endpoint }
    }

    /// Where it listens.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// What the AWS CLI answers.
    pub fn aws(&self, venv: &Path, home: &Path, arguments: &[&str]) -> serde_json::Value {
        let mut command = Command::new(venv.join("bin/aws"));
        environment(&mut command, venv, home, &self.endpoint);
        command.env("AWS_DEFAULT_REGION", DEFAULT_REGION);
        let output = command.args(arguments).output().unwrap();
        assert_succeeded(&arguments.join(" "), &output);
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub fn end(mut self) {
        let pid = i32::try_from(self.process.id()).unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let ended = self.process.wait().unwrap();
        assert!(ended.success(), "the server ends well at SIGTERM");
    }
}

/// A script of `tests/clients`, with nothing of this machine's environment but PATH.
fn client(venv: &Path, script: &str, home: &Path, endpoint: &str) -> Command {
    let program = if script.ends_with(".py") {
        venv.join("bin/python")
    } else {
        "sh".into()
    };
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    let mut command = Command::new(program);
    command.arg(scripts.join(script));
    environment(&mut command, venv, home, endpoint);
    command
}

fn environment(command: &mut Command, venv: &Path, home: &Path, endpoint: &str) {
    let mut path = venv.join("bin").into_os_string();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    command
        .env_clear()
        .env("PATH", path)
        .env("HOME", home)
        .env("LC_ALL", "C.UTF-8")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("AWS_ENDPOINT_URL", endpoint)
        .env("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        .env("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        .env("AWS_DEFAULT_REGION", "eu-central-1")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("AWS_PAGER", "");
}

fn assert_succeeded(script: &str, output: &std::process::Output) {
    assert!(
        output.status.success(),
        "{script}: {}\n--- stdout\n{}\n--- stderr\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn boto3_lists_launches_runs_a_command_and_terminates() {
    judge("test_machine.py").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn boto3_gets_the_documented_answers() {
    judge("test_answers.py").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn boto3_makes_launch_templates() {
    judge("test_launch_templates.py").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn boto3_drives_auto_scaling_groups() {
    judge("test_autoscaling.py").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn boto3_drives_instance_refreshes() {
    judge("test_instance_refresh.py").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_aws_cli_drives_an_instance_refresh() {
    judge("refresh.sh").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn boto3_launches_spot_instances() {
    judge("test_spot.py").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn boto3_reads_why_instances_are_in_their_state() {
    judge("test_reasons.py").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn boto3_takes_roles() {
    judge("test_roles.py").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn boto3_keeps_secrets_with_their_versions() {
    judge("test_secrets.py").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn boto3_finds_in_a_region_what_is_there() {
    judge("test_regions.py").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn boto3_finds_three_zones_and_groups_are_spread_over_them() {
    judge("test_zones.py").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_clients_drive_every_operation_with_inputs_from_the_models_of_aws() {
    judge("test_conformance.py").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn boto3_drives_buckets_and_objects() {
    judge("test_s3.py").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_aws_cli_copies_to_buckets_and_back() {
    judge("s3.sh").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_aws_cli_lists_launches_runs_a_command_and_terminates() {
    judge("cli.sh").await;
}

/// The same on real machines: the clients talk to `piaas-bake cloud serve`, as a user starts it.
#[test]
fn both_clients_drive_a_real_machine_of_cloud_serve() {
    let name = "the AWS CLI and boto3 on a real machine of `cloud serve`";
    if !machines_wanted(name) {
        return;
    }
    let Some(venv) = venv(name) else { return };
    let sandbox = Sandbox::new();
    let server = Serve::start(&sandbox);
    for script in ["test_machine.py", "cli.sh"] {
        let output = client(&venv, script, sandbox.path(), &server.endpoint)
            .output()
            .unwrap();
        assert_succeeded(script, &output);
    }
    server.end();
    assert_eq!(left_on_host(&sandbox.state()), Vec::<String>::new());
}
