//! `piaas-worker` as a process: its commands, its daemon, what it asks of AWS.

mod buildbot;
mod protection;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use piaas_bake::worker::status::{State, Status};

use crate::metadata::Metadata;
use crate::support::Run;

/// The binary under test.
const BIN: &str = env!("CARGO_BIN_EXE_piaas-worker");

/// A CI agent that is three files: `job` names what runs, `closed` closes its intake, `broken` breaks its commands.
const COMMANDS: &str = r#"{"adapter":"command",
"status":"test ! -e DIR/broken || sleep 600; test ! -e DIR/job || { cat DIR/job; exit 1; }",
"stop":"touch DIR/closed","stopped":"test -e DIR/closed","start":"rm -f DIR/closed; touch DIR/started","timeout":1}"#;

/// A machine in a directory: no root, no metadata service, the adapter `command`.
struct Machine {
    dir: tempfile::TempDir,
    daemon: Option<Child>,
    env: Vec<(String, String)>,
}

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let text = COMMANDS.replace("DIR", dir.path().to_str().unwrap());
        std::fs::write(dir.path().join("worker.json"), text.replace('\n', "")).unwrap();
        Self {
            dir,
            daemon: None,
            env: vec![("AWS_EC2_METADATA_DISABLED".into(), "true".into())],
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn put(&self, name: &str, text: &str) {
        // Moved into place, so that no look sees half of it.
        std::fs::write(self.path("new"), text).unwrap();
        std::fs::rename(self.path("new"), self.path(name)).unwrap();
    }

    fn remove(&self, name: &str) {
        std::fs::remove_file(self.path(name)).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(BIN);
        command
            .args(arguments)
            .arg("--socket")
            .arg(self.path("agent.sock"))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(self.env.iter().cloned())
            .stdin(Stdio::null());
        command
    }

    fn daemon_command(&self) -> Command {
        let mut command = self.command(&["run"]);
        command
            .arg("--config")
            .arg(self.path("worker.json"))
            .arg("--state-dir")
            .arg(self.path("state"));
        command
    }

    fn start(&mut self) {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.path("journal"))
            .unwrap();
        self.daemon = Some(self.daemon_command().stderr(log).spawn().unwrap());
        // From the first look on it says more than that it has just started.
        self.wait("it answers", |status| status.since.is_some());
    }

    fn kill(&mut self) {
        let mut daemon = self.daemon.take().expect("it runs");
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }

    fn ask(&self, arguments: &[&str]) -> (Option<i32>, Status, String) {
        let run = Run::from(self.command(arguments).output().unwrap());
        assert_eq!(
            run.stdout.lines().count(),
            1,
            "{}{}",
            run.stdout,
            run.stderr
        );
        let status = Status::read(&run.stdout).unwrap_or_else(|| panic!("{}", run.stdout));
        (run.code, status, run.stderr)
    }

    fn status(&self) -> Status {
        self.ask(&["status"]).1
    }

    fn cordon(&self, generation: &str) -> (Option<i32>, Status, String) {
        self.ask(&["cordon", "--generation", generation, "--reason", "a test"])
    }

    fn uncordon(&self, generation: &str) -> (Option<i32>, Status, String) {
        self.ask(&["uncordon", "--generation", generation])
    }

    #[track_caller]
    fn wait(&self, what: &str, is: impl Fn(&Status) -> bool) -> Status {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let (code, status, _) = self.ask(&["status"]);
            if code == Some(0) && is(&status) {
                return status;
            }
            let journal = std::fs::read_to_string(self.path("journal")).unwrap_or_default();
            assert!(Instant::now() < deadline, "{what}: {status:?}\n{journal}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(daemon) = &mut self.daemon {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

fn exists(path: &Path) -> bool {
    path.try_exists().unwrap()
}

#[test]
fn a_job_ends_before_its_worker_is_drained_and_drained_is_final() {
    let mut machine = Machine::new();
    machine.start();
    let idle = machine.wait("no job", |status| status.state == State::Idle);
    assert_eq!((idle.protected, idle.instance.as_deref()), (None, None));
    machine.put("job", "compile\n");
    let busy = machine.wait("a job", |status| status.state == State::Busy);
    assert_eq!(busy.jobs, ["compile"]);

    let (code, status, _) = machine.cordon("7");
    assert_eq!((code, status.drained), (Some(0), None));
    assert_eq!(status.cordon.unwrap().reason.as_deref(), Some("a test"));
    machine.wait("the intake closes", |_| exists(&machine.path("closed")));
    // Another look or two: it goes on running its job.
    let began = machine.status().at;
    let status = machine.wait("looks", |status| {
        status.at.duration_since(began).as_millis() > 2500
    });
    assert_eq!((status.state, status.drained), (State::Busy, None));
    machine.remove("job");
    let drained = machine.wait("drained", |status| status.drained.is_some());
    assert_eq!(
        (drained.state, drained.drained.unwrap().generation),
        (State::Idle, 7)
    );

    let (code, status, why) = machine.uncordon("8");
    assert_eq!(code, Some(4));
    assert!(status.drained.is_some() && why.contains("drained"), "{why}");
    machine.kill();
    let (code, status, _) = machine.ask(&["status"]);
    assert_eq!((code, status.state), (Some(3), State::Unknown));
    assert!(status.why.unwrap().contains("does not answer"));

    machine.start();
    assert!(machine.status().drained.is_some());
    assert_eq!(machine.uncordon("9").0, Some(4));
    // A later roll asks again, and is answered with its own number.
    let (code, status, _) = machine.cordon("10");
    assert_eq!((code, status.drained.unwrap().generation), (Some(0), 10));
    assert!(!exists(&machine.path("started")));
}

#[test]
fn a_cordon_outlives_the_agent_and_late_commands_do_nothing() {
    let mut machine = Machine::new();
    machine.start();
    machine.put("job", "compile\n");
    machine.wait("a job", |status| status.state == State::Busy);
    assert_eq!(machine.cordon("18446744073709551615").0, Some(0));
    machine.kill();
    machine.start();
    let status = machine.status();
    assert_eq!(status.cordon.unwrap().generation, u64::MAX);
    for (code, status, why) in [machine.cordon("5"), machine.uncordon("5")] {
        assert_eq!(code, Some(4));
        assert!(
            status.cordon.is_some() && why.contains("out of date"),
            "{why}"
        );
    }
    machine.remove("job");
    machine.wait("drained", |status| status.drained.is_some());
}

/// A child of a daemon that was killed has its lock until its own program begins.
#[test]
fn a_lock_that_is_let_go_in_a_moment_is_waited_for() {
    let mut machine = Machine::new();
    std::fs::create_dir_all(machine.path("state")).unwrap();
    let lock = std::fs::File::create(machine.path("state/lock")).unwrap();
    lock.lock().unwrap();
    let letting_go = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        drop(lock);
    });
    machine.start();
    letting_go.join().unwrap();
}

#[test]
fn a_worker_whose_spot_instance_is_taken_back_begins_no_more_jobs() {
    let metadata = Metadata::start("i-00000000000000001");
    let mut machine = Machine::new();
    let address = metadata.address.clone();
    machine.env = vec![("AWS_EC2_METADATA_SERVICE_ENDPOINT".into(), address)];
    machine.put("job", "compile\n");
    machine.start();
    let status = machine.wait("busy", |status| status.state == State::Busy);
    assert!(status.cordon.is_none());
    metadata.reclaimed.store(true, Ordering::SeqCst);
    let status = machine.wait("cordoned", |status| status.cordon.is_some());
    let reason = status.cordon.unwrap().reason.unwrap();
    assert!(reason.contains("Spot Instance"), "{reason}");
    // The job that runs may end in time.
    assert!(status.drained.is_none());
    machine.remove("job");
    machine.wait("drained", |status| status.drained.is_some());
}

#[test]
fn an_uncordoned_worker_takes_jobs_again() {
    let mut machine = Machine::new();
    machine.start();
    machine.put("job", "compile\n");
    machine.wait("a job", |status| status.state == State::Busy);
    assert_eq!(machine.cordon("1").0, Some(0));
    machine.wait("the intake closes", |_| exists(&machine.path("closed")));
    let (code, status, _) = machine.uncordon("2");
    assert_eq!((code, status.cordon), (Some(0), None));
    machine.wait("the intake opens", |_| !exists(&machine.path("closed")));
    machine.remove("job");
    let status = machine.wait("idle", |status| status.state == State::Idle);
    assert_eq!(status.drained, None);
    // One that was not cordoned is not told to start: whoever stopped it had a reason.
    std::fs::remove_file(machine.path("started")).unwrap();
    machine.put("closed", "");
    machine.kill();
    machine.start();
    assert_eq!(machine.uncordon("3").0, Some(0));
    assert!(!exists(&machine.path("started")));
}

#[test]
fn a_hung_ci_agent_is_unknown_and_never_drained() {
    let mut machine = Machine::new();
    machine.put("broken", "");
    machine.start();
    let status = machine.wait("unknown", |status| status.state == State::Unknown);
    assert!(status.why.unwrap().contains("did not end within 1 s"));
    let asked = Instant::now();
    let (code, status, _) = machine.cordon("1");
    assert_eq!((code, status.cordon.is_some()), (Some(0), true));
    assert!(
        asked.elapsed() < Duration::from_secs(5),
        "a command does not wait for the adapter"
    );
    let began = machine.status().at;
    let status = machine.wait("looks", |status| {
        status.at.duration_since(began).as_secs() >= 4
    });
    assert_eq!((status.state, status.drained), (State::Unknown, None));
    machine.remove("broken");
    machine.wait("drained", |status| status.drained.is_some());
}

#[test]
fn what_cannot_be_kept_is_not_done() {
    let mut machine = Machine::new();
    machine.start();
    // A directory in the place of the file: not even root can replace it by one.
    std::fs::create_dir_all(machine.path("state/state.json/x")).unwrap();
    let (code, status, why) = machine.cordon("1");
    assert_eq!((code, status.cordon), (Some(1), None));
    assert!(why.contains("cannot keep the state"), "{why}");
    assert!(status.why.unwrap().contains("cannot keep the state"));
    assert!(!exists(&machine.path("closed")));
    std::fs::remove_dir_all(machine.path("state/state.json")).unwrap();
    assert_eq!(machine.cordon("1").0, Some(0));
    machine.wait("drained", |status| status.drained.is_some());
}

#[test]
fn a_daemon_that_cannot_be_sure_does_not_start() {
    let mut machine = Machine::new();
    let refused = |machine: &Machine| {
        let run = Run::from(machine.daemon_command().output().unwrap());
        assert_eq!(run.code, Some(1), "{}", run.stderr);
        run.stderr
    };
    std::fs::create_dir(machine.path("state")).unwrap();
    std::fs::write(machine.path("state/state.json"), "{\"drained\"").unwrap();
    let why = refused(&machine);
    assert!(
        why.contains("state.json") && why.contains("remove it only if"),
        "{why}"
    );
    machine.remove("state/state.json");
    machine.start();
    assert!(refused(&machine).contains("another piaas-worker"));
    machine.put("worker.json", "{\"adapter\":\"jenkins\"}");
    machine.kill();
    assert!(refused(&machine).contains("jenkins"));
    machine.remove("worker.json");
    assert!(refused(&machine).contains("--config FILE"));
}

#[test]
fn wrong_usage_has_its_own_code() {
    let machine = Machine::new();
    for arguments in [
        &["cordon"][..],
        &["cordon", "--generation", "-1"],
        &["drain"],
        &[],
    ] {
        let run = Run::from(machine.command(arguments).output().unwrap());
        assert_eq!(run.code, Some(2), "{arguments:?}: {}", run.stderr);
        assert_eq!(run.stdout, "");
    }
}

#[test]
fn a_client_that_says_nothing_keeps_nobody_waiting() {
    let mut machine = Machine::new();
    machine.start();
    let silent: Vec<_> = (0..20)
        .map(|_| std::os::unix::net::UnixStream::connect(machine.path("agent.sock")).unwrap())
        .collect();
    use std::io::Write as _;
    (&silent[0]).write_all(&[b'x'; 100_000]).unwrap_or_default();
    let asked = Instant::now();
    assert_eq!(machine.ask(&["status"]).0, Some(0));
    assert!(asked.elapsed() < Duration::from_secs(3));
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(machine.path("agent.sock"))
            .unwrap()
            .permissions(),
    );
    assert_eq!(mode & 0o777, 0o600, "for its owner alone");
}

/// The SDK for EC2 alone is larger than the agent; it travels in every image.
#[test]
fn the_binary_is_small_and_knows_neither_ec2_nor_ssm() {
    let bytes = std::fs::read(BIN).unwrap();
    assert!(bytes.len() < 10_000_000, "{} bytes", bytes.len());
    for foreign in [
        "aws_sdk_ec2",
        "aws_sdk_ssm",
        "aws-sdk-ec2",
        "RunInstances",
        "SendCommand",
    ] {
        let found = bytes
            .windows(foreign.len())
            .any(|window| window == foreign.as_bytes());
        assert!(!found, "{foreign} is in the agent");
    }
}
