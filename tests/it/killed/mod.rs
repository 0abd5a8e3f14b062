//! A process is killed with SIGKILL: before and after each request that it sends, and at each write of its journal. Then
//! it is gone on with, and in a second pass what it has left is removed: nothing is left, and the image is right.
//!
//! The process is the binary, before it a cloud on loopback whose machines are directories, or play a script. Which of its
//! requests it dies at is chosen in the way to that cloud.

mod bake;
mod errand;
mod errands;
mod fleet;
mod roll;
mod workers;

use std::fmt;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use piaas_bake::aws::Clients;
use piaas_bake::clock::SystemClock;
use piaas_bake::journal::{self, RunState};
use piaas_bake::localcloud::driver::Driver;
use piaas_bake::localcloud::{self, BASE_IMAGE, LocalCloud};
use rustix::process::Signal;
use serde_json::Value;
use tokio::sync::{Semaphore, watch};

use crate::aws;
use crate::bake_flow::changes;
use crate::bake_flow::cloud::{Directories, operation};
use crate::support::{Run, Sandbox, tell};

/// Worlds at the same time: each mostly waits.
const AT_ONCE: usize = 12;
const SIGKILL: i32 = 9;
/// The operation that writes a lease: it goes by time how often.
const RENEWAL: &str = "PutParameter of a lease";
/// The calls that make what is written last, or put it in its place: of journals, of lock files.
const WRITES: [&str; 5] = ["fdatasync", "fsync", "rename", "renameat", "renameat2"];

/// Where a process dies.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Point {
    Nowhere,
    /// As this request arrives, which is not carried out.
    Before(Request),
    /// When this request has been carried out, and before there is an answer.
    After(Request),
    /// Likewise, the first of this operation.
    AfterThe(&'static str),
    /// As it makes this one of [`WRITES`] for this time, from 1: what it syncs is written, what it moves is not there yet.
    Write(&'static str, usize),
    /// It gets these signals: the first as this request arrives, the others each with the second request after that. All
    /// requests are carried out.
    Told(Request, &'static [Signal]),
}

/// What somebody does who wants it to end.
const INTERRUPT: &[Signal] = &[Signal::INT];
/// What GitHub's runner does when a job is cancelled: it waits 7.5 s after the first, 2.5 s after the second (actions/runner,
/// `ProcessInvoker`). Here it is not time that goes by, but requests.
const GITHUB: &[Signal] = &[Signal::INT, Signal::TERM, Signal::KILL];

/// One of the requests of a process. How often it looks before something is there differs from run to run, so looks are told
/// by what was changed before them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Request {
    /// How many requests before it change something.
    changes: usize,
    operation: String,
    /// The first of its operation after that change.
    first: bool,
}

impl Request {
    /// The request that comes after these.
    fn after(before: &[Self], operation: String) -> Self {
        let count = before.iter().filter(|one| one.changes_something()).count();
        let first = Self {
            changes: count,
            operation,
            first: true,
        };
        Self {
            first: !before.contains(&first),
            ..first
        }
    }

    /// Whether it writes something, be it a lease.
    fn writes(&self) -> bool {
        changes(&self.operation)
    }

    /// Whether this is the request that is meant: a change is told by how many come before it.
    fn is(&self, meant: &Self) -> bool {
        let both_change = self.changes_something() && meant.changes_something();
        self == meant || (both_change && self.changes == meant.changes)
    }

    fn changes_something(&self) -> bool {
        self.writes() && self.operation != RENEWAL
    }
}

/// Hears of each operation once it is carried out, before its answer goes.
type Witness = Box<dyn Fn(&str) + Send + Sync>;

/// The way to a cloud, which counts.
struct Gate {
    cloud: Arc<LocalCloud>,
    witness: std::sync::OnceLock<Witness>,
    /// Held for reading while a request is carried out.
    at_work: tokio::sync::RwLock<()>,
    point: Mutex<Point>,
    requests: Mutex<Vec<Request>>,
    /// Of the process that is to die.
    pid: watch::Sender<Option<i32>>,
    /// Requests since the first signal, that one's too.
    since: Mutex<usize>,
}

impl Gate {
    /// Waits until it is known whom to signal, and does so. A request that comes late is of no process that lives.
    async fn signal(&self, signal: Signal) {
        let mut pid = self.pid.subscribe();
        let Ok(Ok(pid)) =
            tokio::time::timeout(Duration::from_secs(10), pid.wait_for(Option::is_some))
                .await
                .map(|pid| pid.map(|pid| *pid))
        else {
            return;
        };
        let pid = pid.unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    async fn kill(&self) {
        self.signal(Signal::KILL).await;
    }

    /// The signal that comes with this request.
    fn due(&self, point: &Point, request: &Request) -> Option<Signal> {
        let Point::Told(first, signals) = point else {
            return None;
        };
        let mut since = self.since.lock().unwrap();
        if *since > 0 || request == first {
            *since += 1;
        }
        (*since % 2 == 1).then(|| signals.get(*since / 2).copied())?
    }

    async fn pass(
        self: Arc<Self>,
        request: http::Request<Incoming>,
    ) -> std::io::Result<http::Response<Full<Bytes>>> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(std::io::Error::other)?;
        let request = http::Request::from_parts(head, body.to_bytes());
        let this = {
            let mut requests = self.requests.lock().unwrap();
            let this = Request::after(&requests, named(&request));
            requests.push(this.clone());
            this
        };
        let point = self.point.lock().unwrap().clone();
        let gone = || Err(std::io::ErrorKind::ConnectionAborted.into());
        if let Some(signal) = self.due(&point, &this) {
            self.signal(signal).await;
        }
        if matches!(&point, Point::Before(meant) if this.is(meant)) {
            self.kill().await;
            return gone();
        }
        let _at_work = self.at_work.read().await;
        let this_way = self.clone();
        let name = this.operation.clone();
        let answer = tokio::task::spawn_blocking(move || {
            let answer = aws::answered(&this_way.cloud, &request);
            if let Some(witness) = this_way.witness.get() {
                witness(&name);
            }
            answer
        });
        // The world ends with its test.
        let Ok(Some(answer)) = answer.await else {
            return gone();
        };
        let is_due = match &point {
            Point::After(meant) => this.is(meant),
            Point::AfterThe(operation) => this.operation == *operation,
            _ => false,
        };
        if is_due {
            self.kill().await;
            return gone();
        }
        Ok(answer.map(Full::new))
    }
}

/// What a request asks for.
fn named(request: &http::Request<Bytes>) -> String {
    let operation = operation(request);
    let is_lease = || String::from_utf8_lossy(request.body()).contains("/piaas-bake/leases/");
    if operation == "PutParameter" && is_lease() {
        return RENEWAL.to_owned();
    }
    operation
}

/// A cloud with machines of a kind, and somebody who acts there from a host of his own.
struct World<M = Directories> {
    sandbox: Sandbox,
    machines: Arc<M>,
    clients: Clients,
    gate: Arc<Gate>,
    endpoint: String,
    server: tokio::task::JoinHandle<()>,
}

impl<M> Drop for World<M> {
    fn drop(&mut self) {
        self.server.abort();
    }
}

const RECIPE: &str = "schema: piaas-bake/v1
name: web
version: 1.0.0
description: An image whose scripts note that they have run.
from: { ami: BASE }
steps:
  - { name: First, run: 'echo first >>\"$MACHINE/ran\"' }
  - { name: Second, run: 'echo second >>\"$MACHINE/ran\"' }
test:
  - { name: It booted, run: 'true' }
";

impl<M: Driver + 'static> World<M> {
    /// The cloud that these machines are of, which keeps its state in the sandbox.
    async fn over(sandbox: Sandbox, machines: Arc<M>) -> Self {
        let clock = SystemClock::shared();
        let directory = sandbox.path().join("cloud");
        let cloud = LocalCloud::open(&directory, machines.clone(), clock.clone()).unwrap();
        let clients = aws::connect(localcloud::connector(cloud.clone()), clock).await;
        let gate = Arc::new(Gate {
            cloud,
            witness: std::sync::OnceLock::new(),
            at_work: tokio::sync::RwLock::default(),
            point: Mutex::new(Point::Nowhere),
            requests: Mutex::default(),
            pid: watch::channel(None).0,
            since: Mutex::default(),
        });
        let way = gate.clone();
        let (endpoint, server) = aws::serve(move |request| way.clone().pass(request)).await;
        Self {
            sandbox,
            machines,
            clients,
            gate,
            endpoint,
            server,
        }
    }

    /// A verb, behind the words of what traces it.
    fn command(&self, trace: &[String], args: &[&str]) -> tokio::process::Command {
        let mut command = aws::command(&self.sandbox, &self.endpoint, trace, args);
        command
            .kill_on_drop(true)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs a verb, which dies at this point if it comes there.
    async fn until(&self, point: Point, args: &[&str]) -> (ExitStatus, Run) {
        self.gate.requests.lock().unwrap().clear();
        *self.gate.since.lock().unwrap() = 0;
        *self.gate.point.lock().unwrap() = point.clone();
        let trace = match point {
            Point::Write(call, number) => tracing(&format!(
                "-o/dev/null --inject={call}:signal=SIGKILL:when={number}"
            )),
            _ => Vec::new(),
        };
        let child = self.command(&trace, args).spawn().unwrap();
        let pid = child.id().and_then(|id| i32::try_from(id).ok());
        self.gate.pid.send_replace(pid);
        let output = child.wait_with_output().await.unwrap();
        self.gate.pid.send_replace(None);
        *self.gate.point.lock().unwrap() = Point::Nowhere;
        (output.status, Run::from(output))
    }

    async fn run(&self, args: &[&str]) -> Run {
        self.until(Point::Nowhere, args).await.1
    }

    async fn json(&self, args: &[&str]) -> Value {
        let run = self.run(&[args, &["--format", "json"]].concat()).await;
        let run = run.expect_code(0);
        serde_json::from_str(&run.stdout).unwrap()
    }

    /// The state of each run of this host, as `runs` says it.
    async fn states(&self) -> Vec<String> {
        let runs = self.json(&["runs"]).await;
        let runs = runs["runs"].as_array().unwrap().iter();
        runs.map(|run| run["state"].as_str().unwrap().to_owned())
            .collect()
    }

    /// How many runs of this host are not over.
    fn unfinished(&self) -> usize {
        let runs = journal::runs(&self.sandbox.state().join("runs")).unwrap();
        let open = runs.iter().filter(|run| run.state != RunState::Finished);
        open.count()
    }

    /// What a verb does that nobody kills: its requests, and where it could be killed as it writes.
    async fn recorded(&self, args: &[&str]) -> (Vec<Request>, Vec<Point>) {
        self.gate.requests.lock().unwrap().clear();
        let file = self.sandbox.path().join("trace");
        let trace = tracing(&format!("-o{}", file.display()));
        let done = self.command(&trace, args).output().await.unwrap();
        let _ = Run::from(done).expect_code(0);
        let text = std::fs::read_to_string(file).unwrap();
        let count = |call: &str| text.matches(&format!(" {call}(")).count();
        let writes = WRITES
            .iter()
            .flat_map(|call| (1..=count(call)).map(|number| Point::Write(call, number)));
        let requests = self.gate.requests.lock().unwrap().clone();
        (requests, writes.collect())
    }
}

impl World {
    async fn new() -> Self {
        let sandbox = Sandbox::new();
        let recipe = RECIPE.replace("BASE", BASE_IMAGE);
        sandbox.write("recipes/web/recipe.yaml", &recipe);
        let machines = Directories::new(&sandbox.path().join("machines"));
        Self::over(sandbox, Arc::new(machines)).await
    }

    /// Another world that is as this one is now.
    async fn fork(&self) -> Self {
        // What is under way is over then, and nothing comes from a process that is dead.
        let _still = self.gate.at_work.write().await;
        let sandbox = Sandbox::new();
        let to = sandbox.path().to_owned();
        copy(self.sandbox.path(), &to).await;
        let machines = self.machines.copy(&to.join("machines"));
        Self::over(sandbox, Arc::new(machines)).await
    }

    /// Everything in the cloud that a verb could have made, by name, in order.
    async fn things(&self) -> Vec<String> {
        let mut things = self.machines.left();
        let ec2 = &self.clients.ec2;
        let images = ec2.describe_images().owners("self").send().await.unwrap();
        let status = |image: &aws_sdk_ec2::types::Image| {
            let tag = image
                .tags()
                .iter()
                .find(|tag| tag.key() == Some("piaas-bake:status"));
            tag.and_then(|tag| tag.value()).unwrap_or("none").to_owned()
        };
        things.extend(
            images
                .images()
                .iter()
                .map(|image| format!("{} image", status(image))),
        );
        let snapshots = self.machines.snapshots_left();
        things.extend(
            snapshots
                .iter()
                .enumerate()
                .map(|(n, _)| format!("snapshot {n}")),
        );
        let groups = ec2.describe_security_groups().send().await.unwrap();
        let names = groups
            .security_groups()
            .iter()
            .filter_map(|group| group.group_name());
        things.extend(
            names
                .filter(|name| name.starts_with("piaas"))
                .map(str::to_owned),
        );
        let parameters = self.clients.ssm.describe_parameters().send().await.unwrap();
        let names = parameters.parameters().iter().filter_map(|one| one.name());
        // `/piaas-bake/web/latest`, `/piaas-bake/manifests/<digest>`, `/piaas-bake/images/<id>/packages`.
        let kind = |name: &str| name.split('/').nth(2).unwrap_or_default().to_owned();
        things.extend(names.filter(|name| name.starts_with("/piaas")).map(kind));
        things.sort();
        things
    }

    async fn assert_nothing_for_gc(&self, context: &str) {
        let gc = self.json(&["gc"]).await;
        for part in ["dead_runs", "remove", "keep", "files"] {
            assert_eq!(gc[part], serde_json::json!([]), "{context}: {part}");
        }
    }

    /// Nothing is there, or a whole image and nothing else, which was made by scripts that ran once each. Of one whose run
    /// was cut off at its very end, the pointer may be missing.
    async fn assert_whole(&self, is_made: Option<bool>, context: &str) {
        assert_eq!(self.machines.left(), [] as [String; 0], "{context}");
        self.assert_nothing_for_gc(context).await;
        let things = self.things().await;
        if things.is_empty() && is_made != Some(true) {
            return;
        }
        let has = |thing: &str| things.iter().any(|one| one == thing);
        let mut whole = vec!["ready image", "snapshot 0", "manifests"];
        if is_made.is_some() || has("web") {
            whole.push("web");
        }
        // What is installed is noted where the directories' host has a dpkg.
        if has("images") {
            whole.push("images");
        }
        whole.sort_unstable();
        assert_eq!(things, whole, "{context}");
        assert_ne!(is_made, Some(false), "{context}");
    }
}

/// What happened, for a message.
struct Context<'a>(&'a str, &'a Point);

impl fmt::Display for Context<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} killed at {:?}", self.0, self.1)
    }
}

/// Kills a verb; whether it came to that point. Looks may not come: what they are for may be there at once.
async fn killed<M: Driver + 'static>(
    world: &World<M>,
    point: &Point,
    args: &[&str],
    context: &str,
) -> bool {
    let (status, run) = world.until(point.clone(), args).await;
    let is_killed = status.signal() == Some(SIGKILL);
    let is_look = matches!(point, Point::Before(request) | Point::After(request) if !request.changes_something());
    assert!(
        is_killed || (is_look && status.success()),
        "{context}: {status}\n{}",
        run.stderr
    );
    is_killed
}

/// Does all of these, at most [`AT_ONCE`] at a time; gives how many came to their point.
async fn all<F: Future<Output = bool> + Send + 'static>(work: impl Iterator<Item = F>) -> usize {
    all_of(AT_ONCE, work).await
}

/// As [`all`], at most `many` at a time.
async fn all_of<F: Future<Output = bool> + Send + 'static>(
    many: usize,
    work: impl Iterator<Item = F>,
) -> usize {
    let turns = Arc::new(Semaphore::new(many));
    let mut under_way = tokio::task::JoinSet::new();
    for one in work {
        let turns = turns.clone();
        under_way.spawn(async move {
            let _turn = turns.acquire().await.unwrap();
            one.await
        });
    }
    let mut count = 0;
    while let Some(done) = under_way.join_next().await {
        count += usize::from(done.unwrap());
    }
    count
}

/// Where a verb is killed: before each of its requests, and after each that changes something.
fn points(requests: &[Request]) -> Vec<Point> {
    let firsts = requests.iter().filter(|one| one.first);
    let before = firsts.map(|one| Point::Before(one.clone()));
    let changing = requests.iter().filter(|one| one.changes_something());
    before
        .chain(changing.map(|one| Point::After(one.clone())))
        .collect()
}

/// The same without looks but the first after each change: dying at the others is dying there.
fn thinned(requests: &[Request]) -> Vec<Point> {
    let mut found = Vec::new();
    let mut before: Option<&Request> = None;
    for request in requests {
        if request.first && (request.writes() || before.is_none_or(Request::writes)) {
            found.push(Point::Before(request.clone()));
        }
        if request.writes() {
            found.push(Point::After(request.clone()));
        }
        before = Some(request);
    }
    found
}

/// Copies what is in a directory.
async fn copy(from: &Path, to: &Path) {
    let mut copy = tokio::process::Command::new("cp");
    copy.arg("-a").arg(from.join(".")).arg(to);
    assert!(copy.status().await.unwrap().success());
}

/// The words that trace what a command writes.
fn tracing(more: &str) -> Vec<String> {
    let words = format!("strace -f -qq -e trace={} {more}", WRITES.join(","));
    words.split(' ').map(str::to_owned).collect()
}

/// Says what came of a sweep.
fn report(what: &str, started: Instant) {
    let took = started.elapsed().as_secs_f64();
    tell(&format!("killed: {what}: nothing left ({took:.0} s)"));
}
