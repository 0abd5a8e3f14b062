//! A local cloud whose machines are directories: commands really run in `/bin/sh`, instances are plain records.
//! Its wire can be told to fail.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use piaas_bake::localcloud::driver::{
    CommandRecord, CommandSpec, CommandState, Driver, DriverError, LaunchSpec, Observation, Power,
    SnapshotDisk, SnapshotProgress, SnapshotSpec,
};
use piaas_bake::localcloud::engine::LocalCloud;

use crate::aws;

/// Machines that are directories below one root.
#[derive(Debug)]
pub struct Directories {
    root: PathBuf,
    machines: Mutex<BTreeMap<String, Machine>>,
    /// Looks at a snapshot until it is done.
    snapshots: Mutex<BTreeMap<String, u8>>,
    /// Whether machines have directories of their own where scripts of locks write.
    is_apart: AtomicBool,
    trouble: Mutex<Trouble>,
}

/// What becomes of machines and snapshots.
#[derive(Debug, Default, Clone)]
pub struct Trouble {
    /// After so many commands all agents are away, and what runs then ends when they are back.
    pub away_after: Option<usize>,
    /// For so many looks.
    pub away: u32,
    /// So many looks at snapshots show no progress.
    pub stuck: u32,
}

impl Trouble {
    /// Whether agents are away at this look.
    fn is_away(&mut self) -> bool {
        let is_away = self.away_after == Some(0) && self.away > 0;
        self.away -= u32::from(is_away);
        is_away
    }
}

#[derive(Debug, Clone)]
struct Machine {
    power: Power,
    commands: BTreeMap<String, CommandRecord>,
}

/// Gives a command directories of its machine's own, where one package is installed.
const APART: &str = r#"set -eu
if ! [ -e "$MACHINE/var/lib/dpkg/status" ]; then
    mkdir -p "$MACHINE/var/lib/dpkg/info" "$MACHINE/var/cache"
    printf 'Package: base\nStatus: install ok installed\nArchitecture: all\nVersion: 1\nMaintainer: a\nDescription: b\n\n' \
        >"$MACHINE/var/lib/dpkg/status"
fi
for dir in /var/lib /var/cache; do mount --bind "$MACHINE$dir" "$dir"; done
exec "$@""#;

impl Directories {
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            machines: Mutex::default(),
            snapshots: Mutex::default(),
            is_apart: AtomicBool::default(),
            trouble: Mutex::default(),
        }
    }

    /// From now on.
    pub fn trouble(&self, trouble: Trouble) {
        *self.trouble.lock().unwrap() = trouble;
    }

    /// Whether agents have been away since.
    pub fn was_away(&self) -> bool {
        self.trouble.lock().unwrap().away_after == Some(0)
    }

    /// EC2 ends all machines.
    pub fn take_away(&self) {
        let mut machines = self.machines.lock().unwrap();
        let left = machines
            .iter_mut()
            .filter(|(_, machine)| machine.power != Power::Gone);
        for (id, machine) in left {
            machine.power = Power::Gone;
            let own = self.root.join(id);
            std::fs::create_dir_all(&own).unwrap();
            let why = "Server.SpotInstanceTermination: Instance terminated by EC2";
            std::fs::write(own.join("taken-away"), why).unwrap();
        }
    }

    /// The same machines and snapshots, as they are now, below another root.
    pub fn copy(&self, root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            machines: Mutex::new(self.machines.lock().unwrap().clone()),
            snapshots: Mutex::new(self.snapshots.lock().unwrap().clone()),
            is_apart: AtomicBool::new(self.is_apart.load(Ordering::SeqCst)),
            trouble: Mutex::new(self.trouble.lock().unwrap().clone()),
        }
    }

    /// From now on `/var/lib` and `/var/cache` are each machine's own. Needs root.
    pub fn set_apart(&self) {
        self.is_apart.store(true, Ordering::SeqCst);
    }

    fn set(&self, instance: &str, power: Power) -> Result<(), DriverError> {
        if let Some(machine) = self.machines.lock().unwrap().get_mut(instance) {
            machine.power = power;
        }
        Ok(())
    }

    /// Machines that are not gone.
    pub fn left(&self) -> Vec<String> {
        let machines = self.machines.lock().unwrap();
        machines
            .iter()
            .filter(|(_, machine)| machine.power != Power::Gone)
            .map(|(id, _)| id.clone())
            .collect()
    }

    /// Snapshots that are not deleted.
    pub fn snapshots_left(&self) -> Vec<String> {
        self.snapshots.lock().unwrap().keys().cloned().collect()
    }

    /// What this file of each machine that has one holds.
    pub fn texts(&self, name: &str) -> Vec<String> {
        let machines = self.machines.lock().unwrap();
        machines
            .keys()
            .filter_map(|id| std::fs::read_to_string(self.root.join(id).join(name)).ok())
            .collect()
    }

    /// Gives all machines a program of this name, before those of this host.
    pub fn provide(&self, name: &str, script: &str) {
        let bin = self.root.join("bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::write(bin.join(name), script).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(bin.join(name), mode).unwrap();
    }

    /// Why a machine is no more, as a step of a test says.
    fn taken_away(&self, instance: &str) -> Option<String> {
        std::fs::read_to_string(self.root.join(instance).join("taken-away")).ok()
    }

    /// Runs a command by SSM's rules, with the machine's paths below its directory.
    fn run(&self, instance: &str, script: &str) -> (i32, String, String) {
        let root = self.root.join(instance);
        std::fs::create_dir_all(&root).unwrap();
        let (home, armed) = ("/var/lib/piaas-bake", "/run/piaas-bake-seal");
        let inside = |path: &str| format!("{}{path}", root.display());
        // Beside it: a list does not list itself.
        let list = "/run/piaas-bake-list";
        let lists = script.contains(list);
        let mut script = script
            .replace(home, &inside(home))
            .replace(armed, &inside(armed))
            .replace(list, &format!("{}.list", root.display()));
        if let Some((seals, asserts)) = script
            .rsplit_once('\n')
            .filter(|(_, last)| last.ends_with("/seal.sh assert"))
        {
            // Where a machine is a directory, the seal does not take itself out of the way.
            let (home, armed) = (inside(home), inside(armed));
            let meddler = root.join("after-seal");
            let meddler = meddler.display();
            script = format!(
                "[ -e {armed} ] || {{ mkdir -p {armed}; cp {home}/*/seal* {home}/*/source-date {armed}; }}\n{seals}\n\
                 [ ! -e {meddler} ] || /bin/sh {meddler}\n{asserts}"
            );
        }
        let run = || {
            let mut command = if self.is_apart.load(Ordering::SeqCst) {
                let mut command = Command::new("unshare");
                command.args(["--mount", "/bin/sh", "-c", APART, "sh", "/bin/sh"]);
                command
            } else {
                Command::new("/bin/sh")
            };
            let path = std::env::var("PATH").unwrap_or_default();
            let path = format!("{}:{path}", self.root.join("bin").display());
            command
                .arg("-c")
                .arg(&script)
                .env("MACHINE", &root)
                .env("PATH", path);
            if lists || script.contains("/seal.sh ") {
                command.env("PIAAS_ROOT", &root);
            }
            command.output().unwrap()
        };
        let mut output = run();
        // Exit 194: reboot, and run it again.
        while output.status.code() == Some(194) {
            output = run();
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (
            output.status.code().unwrap(),
            text(&output.stdout),
            text(&output.stderr),
        )
    }
}

impl Driver for Directories {
    fn launch(&self, spec: &LaunchSpec) -> Result<(), DriverError> {
        let machine = Machine {
            power: Power::Running,
            commands: BTreeMap::new(),
        };
        self.machines
            .lock()
            .unwrap()
            .insert(spec.instance_id.clone(), machine);
        Ok(())
    }

    fn observe(&self, instance_id: &str) -> Observation {
        let power = self
            .machines
            .lock()
            .unwrap()
            .get(instance_id)
            .map_or(Power::Gone, |machine| machine.power);
        Observation {
            power,
            agent_online_since: (power == Power::Running
                && !self.trouble.lock().unwrap().is_away())
            .then_some(jiff::Timestamp::UNIX_EPOCH),
            reason: self.taken_away(instance_id),
            shut_down_from_inside: false,
        }
    }

    fn start(&self, instance_id: &str) -> Result<(), DriverError> {
        self.set(instance_id, Power::Running)
    }

    fn stop(&self, instance_id: &str, _force: bool) -> Result<(), DriverError> {
        self.set(instance_id, Power::Off)
    }

    fn reboot(&self, _instance_id: &str) -> Result<(), DriverError> {
        Ok(())
    }

    fn terminate(&self, instance_id: &str) -> Result<(), DriverError> {
        self.set(instance_id, Power::Gone)
    }

    fn console(&self, _instance_id: &str) -> Vec<u8> {
        Vec::new()
    }

    fn send_command(&self, instance_id: &str, command: &CommandSpec) -> Result<(), DriverError> {
        let known = |machines: &BTreeMap<String, Machine>| {
            machines
                .get(instance_id)
                .is_some_and(|machine| machine.commands.contains_key(&command.command_id))
        };
        if known(&self.machines.lock().unwrap()) {
            return Ok(());
        }
        let (exit_code, stdout, stderr) = self.run(instance_id, &command.script);
        let taken_away = self.taken_away(instance_id).is_some();
        let record = CommandRecord {
            state: if taken_away {
                CommandState::Lost
            } else {
                CommandState::Ended
            },
            exit_code: Some(exit_code),
            started: Some(jiff::Timestamp::UNIX_EPOCH),
            ended: Some(jiff::Timestamp::UNIX_EPOCH),
            stdout,
            stderr,
        };
        if let Some(after) = &mut self.trouble.lock().unwrap().away_after {
            *after = after.saturating_sub(1);
        }
        if let Some(machine) = self.machines.lock().unwrap().get_mut(instance_id) {
            machine.commands.insert(command.command_id.clone(), record);
            if taken_away {
                machine.power = Power::Gone;
            }
        }
        Ok(())
    }

    fn command(&self, instance_id: &str, command_id: &str) -> Option<CommandRecord> {
        let machines = self.machines.lock().unwrap();
        let record = machines.get(instance_id)?.commands.get(command_id)?.clone();
        if !self.trouble.lock().unwrap().is_away() {
            return Some(record);
        }
        Some(CommandRecord {
            state: CommandState::Running,
            exit_code: None,
            ended: None,
            stdout: String::new(),
            stderr: String::new(),
            ..record
        })
    }

    fn cancel_command(&self, _instance_id: &str, _command_id: &str) -> Result<(), DriverError> {
        Ok(())
    }

    fn snapshot(&self, spec: &SnapshotSpec) -> Result<(), DriverError> {
        self.snapshots
            .lock()
            .unwrap()
            .insert(spec.snapshot_id.clone(), 0);
        Ok(())
    }

    fn snapshot_progress(&self, snapshot_id: &str) -> SnapshotProgress {
        let mut snapshots = self.snapshots.lock().unwrap();
        let percent = snapshots.entry(snapshot_id.to_owned()).or_default();
        let stuck = &mut self.trouble.lock().unwrap().stuck;
        if *stuck > 0 && *percent > 0 {
            *stuck -= 1;
        } else {
            *percent = (*percent + 25).min(100);
        }
        SnapshotProgress {
            percent: *percent,
            done: *percent == 100,
            error: None,
        }
    }

    fn delete_snapshot(&self, snapshot_id: &str) -> Result<(), DriverError> {
        self.snapshots.lock().unwrap().remove(snapshot_id);
        Ok(())
    }

    fn disk(&self, _: &str) -> Result<SnapshotDisk, DriverError> {
        Ok(SnapshotDisk::None)
    }
}

/// What goes wrong on the wire, at the request with this number (from 0).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// This one request is refused: the caller may not do that.
    Refuse(usize),
    /// This request and all after it are refused.
    CutOff(usize),
    /// The request never arrives, and no answer comes.
    HangBefore(usize),
    /// As [`Fault::HangBefore`], of the requests of this operation alone: how many others come before it differs from run to
    /// run.
    HangAt(&'static str, usize),
    /// The request is carried out, and no answer comes.
    HangAfter(usize),
    /// The request is carried out, and its answer is lost on the way.
    Lose(usize),
    /// The request arrives twice; the answer is that to the second.
    Twice(usize),
    /// The request is carried out, its answer is lost on the way, and all after it are refused.
    CutOffAfter(usize),
    /// The request is on its way until [`Wire::arrive`].
    Hold(usize),
    /// Likewise the first request of this operation.
    HoldThe(&'static str),
}

/// The wire to a local cloud: counts requests and fails as told.
#[derive(Debug, Clone)]
pub struct Wire {
    cloud: Arc<LocalCloud>,
    state: Arc<Mutex<WireState>>,
    /// Told when a request hangs.
    pub hung: Arc<tokio::sync::Notify>,
    arrival: Arc<tokio::sync::Notify>,
    /// Whether the cloud's script of faults does nothing.
    calm: Arc<AtomicBool>,
}

#[derive(Debug)]
struct WireState {
    fault: Fault,
    operations: Vec<String>,
    /// How many lines the journals in `watched` had when each of them was asked for.
    records: Vec<usize>,
    watched: Option<PathBuf>,
    /// The type of machine that there is no room for.
    full: Option<&'static str>,
}

impl Wire {
    pub fn new(cloud: Arc<LocalCloud>) -> Self {
        let state = WireState {
            fault: Fault::None,
            operations: Vec::new(),
            records: Vec::new(),
            watched: None,
            full: None,
        };
        Self {
            cloud,
            state: Arc::new(Mutex::new(state)),
            hung: Arc::default(),
            arrival: Arc::default(),
            calm: Arc::default(),
        }
    }

    /// The cloud at its other end.
    pub fn cloud(&self) -> Arc<LocalCloud> {
        self.cloud.clone()
    }

    pub fn client(&self) -> SharedHttpClient {
        SharedHttpClient::new(self.clone())
    }

    /// Forgets what was counted and fails like this from now on.
    pub fn fail(&self, fault: Fault) {
        let mut state = self.state.lock().unwrap();
        *state = WireState {
            fault,
            operations: Vec::new(),
            records: Vec::new(),
            watched: None,
            full: state.full,
        };
    }

    /// There is no room for machines of this type.
    pub fn fill(&self, instance_type: &'static str) {
        self.state.lock().unwrap().full = Some(instance_type);
    }

    /// Forgets what was counted, and counts the lines of the journals there as well.
    pub fn watch(&self, runs: PathBuf) {
        self.fail(Fault::None);
        self.state.lock().unwrap().watched = Some(runs);
    }

    /// How many lines the journals had before each request since [`Wire::watch`].
    pub fn records(&self) -> Vec<usize> {
        self.state.lock().unwrap().records.clone()
    }

    /// Whether the cloud's script of faults does nothing from now on.
    pub fn calm(&self, is_calm: bool) {
        self.calm.store(is_calm, Ordering::SeqCst);
    }

    /// The cloud's answer, whatever becomes of it.
    fn carry_out(&self, request: &http::Request<Bytes>) -> http::Response<Bytes> {
        let full = self.state.lock().unwrap().full;
        let asked = parameter(request, "InstanceType");
        if full.is_some() && asked.as_deref() == full {
            return no_room();
        }
        self.cloud.handle(request)
    }

    /// What comes back; an error if nothing does.
    fn deliver(&self, request: &http::Request<Bytes>) -> Result<HttpResponse, ConnectorError> {
        if self.calm.load(Ordering::SeqCst) || self.state.lock().unwrap().full.is_some() {
            return answer(self.carry_out(request));
        }
        match aws::answered(&self.cloud, request) {
            Some(response) => answer(response),
            None => Err(ConnectorError::io("the connection ended".into())),
        }
    }

    /// Lets the request arrive that is held.
    pub fn arrive(&self) {
        self.arrival.notify_one();
    }

    /// The operations that were asked for since the last [`Wire::fail`], in order.
    pub fn operations(&self) -> Vec<String> {
        self.state.lock().unwrap().operations.clone()
    }
}

fn records_in(runs: &Path) -> usize {
    let journals = std::fs::read_dir(runs).into_iter().flatten().flatten();
    let journals = journals.filter(|one| one.path().extension().is_some_and(|end| end == "jsonl"));
    journals
        .map(|one| std::fs::read_to_string(one.path()).unwrap().lines().count())
        .sum()
}

pub fn operation(request: &http::Request<Bytes>) -> String {
    if let Some(target) = request.headers().get("x-amz-target") {
        return target
            .to_str()
            .unwrap()
            .rsplit('.')
            .next()
            .unwrap()
            .to_owned();
    }
    if is_s3(request) {
        // The objects of a bake are put and deleted.
        return match request.method().as_str() {
            "PUT" => "PutObject".to_owned(),
            "DELETE" => "DeleteObject".to_owned(),
            other => other.to_owned(),
        };
    }
    parameter(request, "Action").unwrap_or_default()
}

/// A parameter of a query.
fn parameter(request: &http::Request<Bytes>, name: &str) -> Option<String> {
    let mut form = form_urlencoded::parse(request.body());
    form.find(|(key, _)| key == name)
        .map(|(_, value)| value.into_owned())
}

fn is_s3(request: &http::Request<Bytes>) -> bool {
    let authorization = request.headers().get("authorization");
    authorization.is_some_and(|value| value.to_str().unwrap().contains("/s3/aws4_request"))
}

fn refusal(request: &http::Request<Bytes>) -> http::Response<Bytes> {
    let body = if request.headers().contains_key("x-amz-target") {
        r#"{"__type":"AccessDeniedException","message":"refused by the test"}"#
    } else if is_s3(request) {
        "<Error><Code>AccessDenied</Code><Message>refused by the test</Message></Error>"
    } else {
        "<Response><Errors><Error><Code>UnauthorizedOperation</Code><Message>refused by the test</Message></Error>\
         </Errors><RequestID>r</RequestID></Response>"
    };
    http::Response::builder()
        .status(403)
        .body(Bytes::from_static(body.as_bytes()))
        .unwrap()
}

/// As EC2 says it: a fault of its own.
fn no_room() -> http::Response<Bytes> {
    let body = "<Response><Errors><Error><Code>InsufficientInstanceCapacity</Code><Message>full, by the test</Message>\
                </Error></Errors><RequestID>r</RequestID></Response>";
    http::Response::builder()
        .status(500)
        .body(Bytes::from_static(body.as_bytes()))
        .unwrap()
}

fn answer(response: http::Response<Bytes>) -> Result<HttpResponse, ConnectorError> {
    HttpResponse::try_from(response.map(SdkBody::from))
        .map_err(|error| ConnectorError::other(error.into(), None))
}

impl HttpConnector for Wire {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let request = request.try_into_http1x().unwrap();
        let request = request.map(|body| Bytes::copy_from_slice(body.bytes().unwrap()));
        let (fault, number) = {
            let mut state = self.state.lock().unwrap();
            state.operations.push(operation(&request));
            if let Some(runs) = &state.watched {
                let lines = records_in(runs);
                state.records.push(lines);
            }
            let number = state.operations.len() - 1;
            let fault = match state.fault {
                Fault::HangAt(wanted, at) => {
                    let this = &state.operations[number];
                    let of_it = state.operations.iter().filter(|one| *one == this);
                    if this == wanted && of_it.count() == at + 1 {
                        Fault::HangBefore(number)
                    } else {
                        Fault::None
                    }
                }
                Fault::HoldThe(wanted) if state.operations[number] == wanted => Fault::Hold(number),
                fault => fault,
            };
            (fault, number)
        };
        let hang = |wire: &Self| {
            let hung = wire.hung.clone();
            HttpConnectorFuture::new(async move {
                hung.notify_one();
                std::future::pending().await
            })
        };
        match fault {
            Fault::Refuse(at) if at == number => {
                HttpConnectorFuture::ready(answer(refusal(&request)))
            }
            Fault::CutOff(from) if from <= number => {
                HttpConnectorFuture::ready(answer(refusal(&request)))
            }
            Fault::CutOffAfter(from) if from < number => {
                HttpConnectorFuture::ready(answer(refusal(&request)))
            }
            Fault::Twice(at) if at == number => {
                self.carry_out(&request);
                HttpConnectorFuture::ready(self.deliver(&request))
            }
            Fault::HangBefore(at) if at == number => hang(self),
            Fault::HangAfter(at) if at == number => {
                self.carry_out(&request);
                hang(self)
            }
            Fault::Hold(at) if at == number => {
                let wire = self.clone();
                HttpConnectorFuture::new(async move {
                    wire.hung.notify_one();
                    wire.arrival.notified().await;
                    wire.deliver(&request)
                })
            }
            Fault::Lose(at) | Fault::CutOffAfter(at) if at == number => {
                self.carry_out(&request);
                HttpConnectorFuture::ready(Err(ConnectorError::io("lost by the test".into())))
            }
            _ => HttpConnectorFuture::ready(self.deliver(&request)),
        }
    }
}

impl HttpClient for Wire {
    fn http_connector(
        &self,
        _: &HttpConnectorSettings,
        _: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}
