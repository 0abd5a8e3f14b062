//! A worker of Buildbot on a real machine in a group, and a real master on this host: no job dies, whatever is ordered.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use aws_sdk_ec2::types::{InstanceStateName, LaunchTemplateIamInstanceProfileSpecificationRequest};
use base64::Engine as _;
use piaas_bake::aws::Clients;
use piaas_bake::localcloud::exposed;
use piaas_bake::worker::status::{State, Status};
use serde_json::{Value, json};

use crate::aws;
use crate::support::{
    Run, Sandbox, cache_dir, left_on_host, machines_wanted, processes_of, shipped_recipes,
};

const TEST: &str = "a Buildbot worker on a real machine";
const PASSWORD: &str = "it's a test";
const GROUP: &str = "workers";
const GRANTED: Duration = Duration::from_secs(120);

/// The Python environment with a master, or `None`, said past the test harness's capture.
fn buildbot() -> Option<PathBuf> {
    let found = std::env::var_os("PIAAS_TEST_BUILDBOT").map(PathBuf::from);
    if found.is_none() {
        let _ = writeln!(
            std::io::stderr(),
            "left out: {TEST} (a Buildbot master; `make test` runs it)"
        );
    }
    found
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// A master in a directory of its own.
struct Master {
    dir: PathBuf,
    program: PathBuf,
    worker_port: u16,
    web_port: u16,
    process: Option<Child>,
}

impl Master {
    fn create(environment: &Path, dir: PathBuf) -> Self {
        std::fs::create_dir(&dir).unwrap();
        let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/buildbot/master.cfg");
        std::fs::copy(config, dir.join("master.cfg")).unwrap();
        let mut master = Self {
            dir,
            program: environment.join("bin/buildbot"),
            worker_port: free_port(),
            web_port: free_port(),
            process: None,
        };
        let made = Run::from(master.command("create-master").output().unwrap());
        assert_eq!(made.code, Some(0), "{}{}", made.stdout, made.stderr);
        master.start();
        master
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg(verb)
            .env("CI_WORKER_PORT", self.worker_port.to_string())
            .env("CI_WEB_PORT", self.web_port.to_string())
            .env("CI_PASSWORD", PASSWORD)
            .current_dir(&self.dir)
            .stdin(Stdio::null());
        command
    }

    fn start(&mut self) {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.join("log"))
            .unwrap();
        let process = self
            .command("start")
            .arg("--nodaemon")
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(process);
        let deadline = Instant::now() + GRANTED;
        while self.ask("GET", "builders", None).is_none() {
            assert!(
                Instant::now() < deadline,
                "the master does not answer: {}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
            + &std::fs::read_to_string(self.dir.join("twistd.log")).unwrap_or_default()
    }

    /// One request to the REST API.
    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Option<Value> {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", self.web_port)).ok()?;
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .ok()?;
        let body = body.map(Value::to_string).unwrap_or_default();
        write!(
            stream,
            "{method} /api/v2/{path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let (_, body) = text.split_once("\r\n\r\n")?;
        serde_json::from_str(body).ok()
    }

    /// Orders a job.
    fn order(&self, command: &str) {
        let request = json!({
            "jsonrpc": "2.0", "method": "force", "id": 1,
            "params": { "builderid": "1", "command": command },
        });
        let answer = self
            .ask("POST", "forceschedulers/force", Some(&request))
            .unwrap();
        assert!(answer["result"].is_array(), "{answer}");
    }

    /// Of each build: whether it is over, and its result (0: success).
    fn builds(&self) -> Vec<(bool, Value)> {
        let answer = self.ask("GET", "builds", None).unwrap();
        let builds = answer["builds"].as_array().unwrap();
        builds
            .iter()
            .map(|build| (build["complete"] == true, build["results"].clone()))
            .collect()
    }

    #[track_caller]
    fn wait_for_builds(&self, expected: &[(bool, Value)]) {
        let deadline = Instant::now() + GRANTED;
        while self.builds() != expected {
            assert!(
                Instant::now() < deadline,
                "{:?}, not {expected:?}: {}",
                self.builds(),
                self.log()
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// The shipped recipe, on the bare base: its parent's tools take long to install, and no test here needs them.
fn recipe(sandbox: &Sandbox) {
    let copied = Command::new("cp")
        .arg("-r")
        .arg(shipped_recipes().join("ci-worker"))
        .arg(sandbox.recipes())
        .status()
        .unwrap();
    assert!(copied.success());
    let file = sandbox.recipes().join("ci-worker/recipe.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    let changes = [
        (
            "from:\n  recipe: ci-base\n  version: ^1\n",
            "from:\n  ssm: /aws/service/debian/release/12/latest/amd64\n",
        ),
        ("packages:\n", "packages:\n  - curl\n  - jq\n"),
        (
            "steps:\n",
            "steps:\n  - name: Create the user for jobs\n    run: useradd --uid 2000 --user-group --create-home ci\n",
        ),
    ];
    let text = changes.iter().fold(text, |text, (from, to)| {
        assert!(text.contains(from), "{from}");
        text.replacen(from, to, 1)
    });
    std::fs::write(file, text).unwrap();
}

fn bake(sandbox: &Sandbox, arguments: &[&str]) -> Run {
    let output = sandbox
        .command(arguments)
        .env("PIAAS_CACHE_DIR", cache_dir())
        .output()
        .unwrap();
    Run::from(output).expect_code(0)
}

/// The cloud of a sandbox, in process.
struct Cloud {
    clients: Clients,
}

impl Cloud {
    async fn open(sandbox: &Sandbox) -> Self {
        let clients = aws::real(&sandbox.state().join("cloud")).await;
        Self { clients }
    }

    /// A group of one worker that is not protected at birth; gives the instance, in service.
    async fn group(&self, image: &str, user_data: &str) -> String {
        let profile = LaunchTemplateIamInstanceProfileSpecificationRequest::builder();
        let data = aws::launches(image)
            .user_data(base64::engine::general_purpose::STANDARD.encode(user_data))
            .iam_instance_profile(profile.name("worker").build());
        let template = aws::template(&self.clients, GROUP, data).await;
        let create = aws::group(&self.clients, GROUP, &template);
        let create = create.min_size(0).max_size(1).desired_capacity(1);
        create.send().await.unwrap();
        self.in_service("").await
    }

    /// The instance in service, once it is another one.
    async fn in_service(&self, but: &str) -> String {
        let deadline = Instant::now() + GRANTED;
        loop {
            if let Some((instance, _)) = self.member().await
                && instance != but
            {
                return instance;
            }
            assert!(Instant::now() < deadline, "no instance is in service");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// The instance in service, and whether it is protected.
    async fn member(&self) -> Option<(String, bool)> {
        let call = self.clients.autoscaling.describe_auto_scaling_instances();
        let found = call.send().await.unwrap();
        let one = found.auto_scaling_instances().first()?;
        (one.lifecycle_state() == Some("InService")).then(|| {
            let id = one.instance_id().unwrap().to_owned();
            (id, one.protected_from_scale_in().unwrap())
        })
    }

    /// Runs a script on a machine; its exit code and output. A machine that boots is waited for.
    async fn run(&self, instance: &str, script: &str) -> (i32, String) {
        let deadline = Instant::now() + GRANTED;
        let sent = loop {
            let call = self.clients.ssm.send_command();
            let sent = call
                .document_name("AWS-RunShellScript")
                .instance_ids(instance)
                .parameters("commands", script.lines().map(str::to_owned).collect())
                .send()
                .await;
            match sent {
                Ok(sent) => break sent,
                Err(error) => assert!(Instant::now() < deadline, "{error:?}"),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        };
        let id = sent.command().unwrap().command_id().unwrap().to_owned();
        loop {
            let call = self.clients.ssm.get_command_invocation();
            let answer = call.command_id(&id).instance_id(instance).send().await;
            if let Ok(answer) = answer
                && matches!(answer.status_details(), Some("Success" | "Failed"))
            {
                let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
                return (
                    answer.response_code(),
                    text(answer.standard_output_content()) + &text(answer.standard_error_content()),
                );
            }
            assert!(
                Instant::now() < deadline,
                "the command does not end: {script}"
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn worker(&self, instance: &str, arguments: &str) -> (i32, Status) {
        let (code, out) = self
            .run(instance, &format!("piaas-worker {arguments}"))
            .await;
        let status = Status::read(&out).unwrap_or_else(|| panic!("{arguments}: {code} {out}"));
        (code, status)
    }

    async fn wait(&self, instance: &str, what: &str, is: impl Fn(&Status) -> bool) -> Status {
        let deadline = Instant::now() + GRANTED;
        loop {
            let (code, status) = self.worker(instance, "status").await;
            if code == 0 && is(&status) {
                return status;
            }
            if Instant::now() >= deadline {
                let logs =
                    "journalctl -b -o cat -u piaas-worker -u buildbot-worker@ci | tail -n 60";
                let (_, logs) = self.run(instance, logs).await;
                panic!("{what}: {status:?}\n{logs}");
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

fn busy(status: &Status) -> bool {
    status.state == State::Busy
}

/// A job that runs until its file is there.
fn until(file: &str) -> String {
    format!("touch ~/{file}.begun; until [ -e ~/{file} ]; do sleep 0.2; done; sleep 1; echo done")
}

#[tokio::test(flavor = "multi_thread")]
async fn no_job_of_a_buildbot_worker_dies_whatever_is_ordered() {
    if !machines_wanted(TEST) {
        return;
    }
    let Some(environment) = buildbot() else {
        return;
    };
    let sandbox = Sandbox::new();
    recipe(&sandbox);
    let baked = bake(&sandbox, &["bake", "ci-worker", "--format", "json"]);
    let last: Value = serde_json::from_str(&baked.stdout).unwrap();
    let image = last["image_id"].as_str().unwrap();

    let mut master = Master::create(&environment, sandbox.path().join("master"));
    exposed::set(&sandbox.state().join("cloud"), master.worker_port, true).unwrap();
    let cloud = Cloud::open(&sandbox).await;
    let user_data = format!(
        "ci-master-host={}\nci-master-port={}\nci-password={PASSWORD}\n",
        exposed::ADDRESS,
        master.worker_port
    );
    let instance = cloud.group(image, &user_data).await;

    let status = cloud
        .wait(&instance, "idle, and protected", |status| {
            status.state == State::Idle && status.protected == Some(true)
        })
        .await;
    assert_eq!(status.instance.as_deref(), Some(&*instance));
    assert_eq!(cloud.member().await, Some((instance.clone(), true)));

    chosen_before_it_winds_up(&cloud, &master, &instance).await;
    uncordoned_in_mid_job(&cloud, &master, &instance).await;
    killed_in_mid_job(&cloud, &master, &instance).await;
    drained_after_its_job(&cloud, &master, &instance).await;
    nothing_starts_any_more(&cloud, &master, &instance).await;
    let next = replaced(&cloud, &master, &instance).await;
    left_by_its_master(&cloud, &mut master, &next).await;

    let group = cloud.clients.autoscaling.delete_auto_scaling_group();
    group
        .auto_scaling_group_name(GROUP)
        .force_delete(true)
        .send()
        .await
        .unwrap();
    let left = || left_on_host(&sandbox.state().join("cloud"));
    let deadline = Instant::now() + GRANTED;
    while !left().is_empty() {
        assert!(Instant::now() < deadline, "{:#?}", left());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The script that waits until the worker says so in its journal, as often.
fn said(what: &str, times: u32) -> String {
    format!(
        "until [ \"$(journalctl -b -o cat -u buildbot-worker@ci | grep -cF '{what}')\" -ge {times} ]; do sleep 0.2; done"
    )
}

/// Waits until the worker's process is another one.
async fn another_process(cloud: &Cloud, instance: &str, process: &str) {
    let anew = format!(
        "until now=$(systemctl show -P MainPID buildbot-worker@ci); [ \"$now\" != 0 ] && [ \"$now\" != {} ]\n\
         do sleep 0.2; done",
        process.trim()
    );
    assert_eq!(cloud.run(instance, &anew).await.0, 0);
    let status = cloud
        .wait(instance, "idle again", |status| status.state == State::Idle)
        .await;
    assert_eq!((status.drained, status.protected), (None, Some(true)));
}

/// A master says that nothing of a worker runs, and has just chosen it for a build.
async fn chosen_before_it_winds_up(cloud: &Cloud, master: &Master, instance: &str) {
    let (slow, chosen) = (master.dir.join("slow"), master.dir.join("chosen"));
    std::fs::write(&slow, "").unwrap();
    master.order(&until("chosen"));
    let deadline = Instant::now() + GRANTED;
    while !chosen.exists() {
        assert!(Instant::now() < deadline, "no worker is chosen");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (code, _) = cloud.worker(instance, "cordon --generation 1").await;
    assert_eq!(code, 0);
    let idle = said("no build runs", 1);
    assert_eq!(cloud.run(instance, &idle).await.0, 0);
    std::fs::remove_file(&slow).unwrap();
    let status = cloud.wait(instance, "the chosen job", busy).await;
    assert_eq!(status.jobs, ["job"]);
    let again = said("asking the master to end this worker", 2);
    assert_eq!(cloud.run(instance, &again).await.0, 0);
    let (code, status) = cloud.worker(instance, "uncordon --generation 2").await;
    assert_eq!((code, status.drained), (0, None));
    let finish = "systemctl show -P MainPID buildbot-worker@ci; touch ~ci/chosen";
    let (_, process) = cloud.run(instance, finish).await;
    master.wait_for_builds(&[(true, json!(0))]);
    another_process(cloud, instance, &process).await;
}

/// A shutdown of Buildbot cannot be taken back: the worker ends after its job, and comes back.
async fn uncordoned_in_mid_job(cloud: &Cloud, master: &Master, instance: &str) {
    master.order(&until("first"));
    let status = cloud.wait(instance, "the first job", busy).await;
    assert_eq!(status.jobs, ["job"]);
    let (code, status) = cloud.worker(instance, "cordon --generation 10").await;
    assert_eq!((code, status.drained), (0, None));
    let closing =
        "until grep -F '\"closing\": true' /run/buildbot-worker/report.json; do sleep 0.2; done";
    assert_eq!(cloud.run(instance, closing).await.0, 0);
    let (code, status) = cloud.worker(instance, "uncordon --generation 11").await;
    assert_eq!((code, status.cordon), (0, None));
    let (code, _) = cloud.worker(instance, "cordon --generation 10").await;
    assert_eq!(code, 4, "the old cordon comes late");
    let (_, process) = cloud
        .run(
            instance,
            "systemctl show -P MainPID buildbot-worker@ci; touch ~ci/first",
        )
        .await;
    master.wait_for_builds(&[(true, json!(0)), (true, json!(0))]);
    another_process(cloud, instance, &process).await;
}

/// What the agent knows is on the host, not in its head.
async fn killed_in_mid_job(cloud: &Cloud, master: &Master, instance: &str) {
    master.order(&until("second"));
    cloud.wait(instance, "the second job", busy).await;
    let kill = "systemctl kill --signal=KILL piaas-worker; piaas-worker status";
    let (code, out) = cloud.run(instance, kill).await;
    assert_eq!(code, 3, "{out}");
    assert_eq!(Status::read(&out).unwrap().state, State::Unknown);
    cloud.wait(instance, "busy again", busy).await;
}

async fn drained_after_its_job(cloud: &Cloud, master: &Master, instance: &str) {
    let (code, _) = cloud.worker(instance, "cordon --generation 12").await;
    assert_eq!(code, 0);
    // This one waits for a worker that takes jobs.
    master.order("true");
    let closing = "until grep -F '\"closing\": true' /run/buildbot-worker/report.json; do sleep 0.2; done; sleep 3";
    assert_eq!(cloud.run(instance, closing).await.0, 0);
    let (code, status) = cloud.worker(instance, "status").await;
    assert_eq!((code, status.state, status.drained), (0, State::Busy, None));
    assert_eq!(cloud.member().await, Some((instance.to_owned(), true)));
    assert_eq!(cloud.run(instance, "touch ~ci/second").await.0, 0);
    let status = cloud
        .wait(instance, "drained", |status| {
            status.drained.is_some() && status.protected == Some(false)
        })
        .await;
    assert_eq!(
        (status.state, status.drained.unwrap().generation),
        (State::Idle, 12)
    );
    assert_eq!(cloud.member().await, Some((instance.to_owned(), false)));
    // All jobs that began have ended well, in one attempt each; the next waits.
    let good = || (true, json!(0));
    assert_eq!(master.builds(), [good(), good(), good()]);
    let active = "systemctl show -P ActiveState buildbot-worker@ci; pgrep -u ci || echo none";
    assert_eq!(cloud.run(instance, active).await.1, "inactive\nnone\n");
}

async fn nothing_starts_any_more(cloud: &Cloud, master: &Master, instance: &str) {
    let (code, _) = cloud.worker(instance, "uncordon --generation 13").await;
    assert_eq!(code, 4);
    let (code, status) = cloud.worker(instance, "cordon --generation 14").await;
    assert_eq!((code, status.drained.unwrap().generation), (0, 14));
    let (_, boot) = cloud
        .run(
            instance,
            "cat /proc/sys/kernel/random/boot_id; systemctl show -P UserspaceTimestampMonotonic",
        )
        .await;
    let call = cloud.clients.ec2.reboot_instances();
    call.instance_ids(instance).send().await.unwrap();
    let deadline = Instant::now() + GRANTED;
    loop {
        let again =
            "cat /proc/sys/kernel/random/boot_id; systemctl show -P UserspaceTimestampMonotonic";
        if cloud.run(instance, again).await.1 != boot {
            break;
        }
        assert!(Instant::now() < deadline, "it does not reboot");
    }
    // One that is not up says why.
    let up = "systemctl is-system-running --wait || systemctl --failed --plain --no-legend; systemctl start buildbot-worker@ci; systemctl show -P ActiveState buildbot-worker@ci";
    assert_eq!(cloud.run(instance, up).await.1, "running\ninactive\n");
    let status = cloud
        .wait(instance, "drained still", |status| {
            status.state == State::Idle
        })
        .await;
    assert_eq!(status.drained.unwrap().generation, 14);
    assert_eq!(master.builds().len(), 3, "the next job still waits");
}

/// The job that waited runs on the next worker, whose name its master has never heard.
async fn replaced(cloud: &Cloud, master: &Master, instance: &str) -> String {
    let call = cloud
        .clients
        .autoscaling
        .terminate_instance_in_auto_scaling_group();
    call.instance_id(instance)
        .should_decrement_desired_capacity(false)
        .send()
        .await
        .unwrap();
    let next = cloud.in_service(instance).await;
    // A group replaces it before that.
    aws::in_state(&cloud.clients, instance, InstanceStateName::Terminated).await;
    assert_eq!(
        processes_of(instance),
        [0; 0],
        "a terminated machine runs on"
    );
    let good = || (true, json!(0));
    master.wait_for_builds(&[good(), good(), good(), good()]);
    next
}

/// Buildbot kills the job of a worker that loses its master, and gives it to another one. The worker that winds up must
/// not come back to its master: it would be given the job again.
async fn left_by_its_master(cloud: &Cloud, master: &mut Master, instance: &str) {
    master.order(&until("fourth"));
    cloud.wait(instance, "the fourth job", busy).await;
    let (code, _) = cloud.worker(instance, "cordon --generation 1").await;
    assert_eq!(code, 0);
    let closing =
        "until grep -F '\"closing\": true' /run/buildbot-worker/report.json; do sleep 0.2; done";
    assert_eq!(cloud.run(instance, closing).await.0, 0);
    let mut process = master.process.take().unwrap();
    process.kill().unwrap();
    process.wait().unwrap();
    master.start();
    let status = cloud
        .wait(instance, "drained without its master", |status| {
            status.drained.is_some()
        })
        .await;
    assert_eq!(status.state, State::Idle);
    let left = "pgrep -u ci || echo none";
    assert_eq!(cloud.run(instance, left).await.1, "none\n");
}
