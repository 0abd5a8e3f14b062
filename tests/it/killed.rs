//! A process is killed with SIGKILL: before and after each request that it sends, and at each write of its journal. Then
//! it is gone on with, and in a second pass what it has left is removed: nothing is left, and the image is right.
//!
//! The process is the binary, before it a cloud on loopback whose machines are directories. Which of its requests it dies at
//! is chosen in the way to that cloud.

use std::collections::BTreeSet;
use std::fmt;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use piaas_bake::aws::Clients;
use piaas_bake::clock::SystemClock;
use piaas_bake::localcloud::{self, BASE_IMAGE, LocalCloud};
use rustix::process::Signal;
use serde_json::Value;
use tokio::sync::{Semaphore, watch};

use crate::aws;
use crate::bake_flow::changes;
use crate::bake_flow::cloud::{Directories, operation};
use crate::support::{BIN, Run, Sandbox, machines_wanted, tell};

/// Worlds at the same time: each mostly waits.
const AT_ONCE: usize = 6;
const SIGKILL: i32 = 9;
const BAKE: [&str; 2] = ["bake", "web"];

/// Where a process dies.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Point {
    Nowhere,
    /// As this request arrives, which is not carried out.
    Before(Request),
    /// When this request has been carried out, and before there is an answer.
    After(Request),
    /// As it syncs a file for this time, from 1: the record is written.
    Sync(usize),
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
        let count = before.iter().filter(|one| changes(&one.operation)).count();
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

    fn changes_something(&self) -> bool {
        changes(&self.operation)
    }
}

/// The way to a cloud, which counts.
struct Gate {
    cloud: Arc<LocalCloud>,
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
            let this = Request::after(&requests, operation(&request));
            requests.push(this.clone());
            this
        };
        let point = self.point.lock().unwrap().clone();
        let gone = || Err(std::io::ErrorKind::ConnectionAborted.into());
        if let Some(signal) = self.due(&point, &this) {
            self.signal(signal).await;
        }
        if point == Point::Before(this.clone()) {
            self.kill().await;
            return gone();
        }
        let cloud = self.cloud.clone();
        let answer = tokio::task::spawn_blocking(move || aws::answered(&cloud, &request));
        // The world ends with its test.
        let Ok(Some(answer)) = answer.await else {
            return gone();
        };
        if point == Point::After(this) {
            self.kill().await;
            return gone();
        }
        Ok(answer.map(Full::new))
    }
}

/// A cloud, and somebody who acts there from a host of his own.
struct World {
    sandbox: Sandbox,
    machines: Arc<Directories>,
    clients: Clients,
    gate: Arc<Gate>,
    endpoint: String,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for World {
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

impl World {
    async fn new() -> Self {
        let sandbox = Sandbox::new();
        let recipe = RECIPE.replace("BASE", BASE_IMAGE);
        sandbox.write("recipes/web/recipe.yaml", &recipe);
        let machines = Arc::new(Directories::new(&sandbox.path().join("machines")));
        let clock = SystemClock::shared();
        let directory = sandbox.path().join("cloud");
        let cloud = LocalCloud::open(&directory, machines.clone(), clock.clone()).unwrap();
        let clients = aws::connect(localcloud::connector(cloud.clone()), clock).await;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let gate = Arc::new(Gate {
            cloud,
            point: Mutex::new(Point::Nowhere),
            requests: Mutex::default(),
            pid: watch::channel(None).0,
            since: Mutex::default(),
        });
        let way = gate.clone();
        let server = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let way = way.clone();
                let service = service_fn(move |request| way.clone().pass(request));
                let served = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                // A connection that breaks is its client's affair.
                tokio::spawn(async move { drop(served.await) });
            }
        });
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
        let plain = self.sandbox.command(args);
        let words = trace.iter().map(String::as_str);
        let mut words = words.chain([BIN]).chain(args.iter().copied());
        let mut command = tokio::process::Command::new(words.next().unwrap());
        let own = plain.get_envs();
        command
            .args(words)
            .current_dir(self.sandbox.path())
            .env_clear()
            .envs(own.filter_map(|(key, value)| Some((key, value?))))
            .envs(aws::way_to(&self.endpoint))
            .env("PIAAS_CLOUD", "aws")
            .stdin(Stdio::null())
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
            Point::Sync(number) => tracing(&format!(
                "-o/dev/null --inject=fdatasync:signal=SIGKILL:when={number}"
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

    /// Everything in the cloud that a verb could have made.
    async fn things(&self) -> BTreeSet<String> {
        let mut things: BTreeSet<String> = self.machines.left().into_iter().collect();
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
        things
    }

    /// Nothing is there, or a whole image and nothing else, which was made by scripts that ran once each. Of one whose run
    /// was cut off at its very end, the pointer may be missing.
    async fn assert_whole(&self, is_made: Option<bool>, context: &str) {
        assert_eq!(self.machines.left(), [] as [String; 0], "{context}");
        let gc = self.json(&["gc"]).await;
        for part in ["dead_runs", "remove", "keep", "files"] {
            assert_eq!(gc[part], serde_json::json!([]), "{context}: {part}");
        }
        let things = self.things().await;
        if things.is_empty() && is_made != Some(true) {
            return;
        }
        let mut whole =
            BTreeSet::from(["ready image", "snapshot 0", "manifests"].map(str::to_owned));
        if is_made.is_some() || things.contains("web") {
            whole.insert("web".to_owned());
        }
        // What is installed is noted where the directories' host has a dpkg.
        if things.contains("images") {
            whole.insert("images".to_owned());
        }
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
async fn killed(world: &World, point: &Point, args: &[&str], context: &str) -> bool {
    let (status, run) = world.until(point.clone(), args).await;
    let is_killed = status.signal() == Some(SIGKILL);
    let is_look = matches!(point, Point::Before(request) if !request.changes_something());
    assert!(
        is_killed || (is_look && status.success()),
        "{context}: {status}\n{}",
        run.stderr
    );
    is_killed
}

/// Kills a bake and goes on with it.
async fn gone_on_with(point: &Point, context: &str) -> bool {
    let world = World::new().await;
    if !killed(&world, point, &BAKE, context).await {
        return false;
    }
    match world.states().await.as_slice() {
        // It had not begun, or is over; a bake is idempotent.
        [] => assert_eq!(world.things().await, BTreeSet::new(), "{context}"),
        [state] if state == "over" => {}
        [state] => {
            assert_eq!(state, "died", "{context}");
            let _ = world.run(&["bake", "--resume"]).await.expect_code(0);
            assert_eq!(world.states().await, ["over"], "{context}");
        }
        more => panic!("{context}: {more:?}"),
    }
    let _ = world.run(&BAKE).await.expect_code(0);
    world.assert_whole(Some(true), context).await;
    assert_eq!(
        world.machines.texts("ran"),
        ["first\nsecond\n"],
        "{context}"
    );
    true
}

/// Kills a bake and removes what it has left.
async fn removed(point: &Point, context: &str) -> bool {
    let world = World::new().await;
    if !killed(&world, point, &BAKE, context).await {
        return false;
    }
    let _ = world.run(&["gc", "--yes"]).await.expect_code(0);
    world.assert_whole(None, context).await;
    assert!(
        !world.states().await.iter().any(|state| state != "over"),
        "{context}"
    );
    true
}

/// Does all of these, at most so many at once; gives how many came to their point.
async fn all<F: Future<Output = bool> + Send + 'static>(work: impl Iterator<Item = F>) -> usize {
    let turns = Arc::new(Semaphore::new(AT_ONCE));
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

/// The words that trace what a command syncs.
fn tracing(more: &str) -> Vec<String> {
    let words = format!("strace -f -qq -e trace=fdatasync {more}");
    words.split(' ').map(str::to_owned).collect()
}

/// How often a bake syncs a file.
async fn syncs() -> usize {
    let world = World::new().await;
    let file = world.sandbox.path().join("trace");
    let trace = tracing(&format!("-o{}", file.display()));
    let done = world.command(&trace, &BAKE).output().await.unwrap();
    assert!(done.status.success());
    let text = std::fs::read_to_string(file).unwrap();
    text.lines()
        .filter(|line| line.contains("fdatasync("))
        .count()
}

/// The requests of a bake that nobody kills.
async fn requests() -> Vec<Request> {
    let world = World::new().await;
    let _ = world.run(&BAKE).await.expect_code(0);
    let requests = world.gate.requests.lock().unwrap().clone();
    world.assert_whole(Some(true), "never killed").await;
    requests
}

/// Kills a bake at each of these points, twice: it is gone on with, and it is removed.
async fn sweep(points: Vec<Point>, what: &str) -> usize {
    let started = Instant::now();
    let both = points
        .iter()
        .flat_map(|point| [true, false].map(|resumed| (point.clone(), resumed)));
    let killed = all(both.map(|(point, resumed)| async move {
        let context = Context("bake", &point).to_string();
        if resumed {
            gone_on_with(&point, &context).await
        } else {
            removed(&point, &context).await
        }
    }))
    .await;
    let count = points.len();
    report(
        &format!("a bake, {killed} times, at {count} {what}"),
        started,
    );
    killed
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bake_that_is_killed_at_any_request_is_gone_on_with_or_removed() {
    if !machines_wanted("a bake that is killed at any request") {
        return;
    }
    let killed = sweep(points(&requests().await), "requests").await;
    assert!(killed > 100, "{killed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bake_that_is_killed_at_any_record_of_its_journal_is_gone_on_with_or_removed() {
    if !machines_wanted("a bake that is killed at any record") {
        return;
    }
    let count = syncs().await;
    let killed = sweep((1..=count).map(Point::Sync).collect(), "records").await;
    assert!(killed > 40, "{killed}");
}

/// Where a bake can be told to end: at each request that changes something, and at the first look after it.
async fn tellable() -> Vec<Request> {
    let requests = requests().await;
    let mut after = Vec::new();
    for pair in requests.windows(2) {
        if pair[0].changes_something() {
            after.extend(pair.iter().filter(|one| one.first).cloned());
        }
    }
    after.dedup();
    after
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bake_that_is_interrupted_at_any_request_leaves_nothing_by_itself() {
    if !machines_wanted("a bake that is interrupted at any request") {
        return;
    }
    let started = Instant::now();
    let points = tellable().await;
    let count = all(points.into_iter().map(|request| async move {
        let point = Point::Told(request, INTERRUPT);
        let context = Context("bake", &point).to_string();
        let world = World::new().await;
        let (status, run) = world.until(point.clone(), &BAKE).await;
        let was_told = *world.gate.since.lock().unwrap() > 0;
        // One that comes when all is done comes too late.
        let code = status.code();
        assert!(
            matches!(code, Some(0 | 130)),
            "{context}: {status}\n{}",
            run.stderr
        );
        world.assert_whole(Some(code == Some(0)), &context).await;
        assert!(
            !world.states().await.iter().any(|state| state != "over"),
            "{context}"
        );
        was_told
    }))
    .await;
    report(&format!("a bake, interrupted at {count} requests"), started);
    assert!(count > 30, "{count}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bake_whose_job_is_cancelled_on_github_leaves_nothing_that_gc_does_not_remove() {
    if !machines_wanted("a bake whose job is cancelled") {
        return;
    }
    let started = Instant::now();
    let points = tellable().await;
    let count = all(points.into_iter().map(|request| async move {
        let point = Point::Told(request, GITHUB);
        let context = Context("bake", &point).to_string();
        let world = World::new().await;
        let _ = world.until(point.clone(), &BAKE).await;
        let was_told = *world.gate.since.lock().unwrap() > 0;
        let _ = world.run(&["gc", "--yes"]).await.expect_code(0);
        world.assert_whole(None, &context).await;
        was_told
    }))
    .await;
    report(
        &format!("a bake, as GitHub's runner does, at {count} requests"),
        started,
    );
    assert!(count > 30, "{count}");
}

/// What removes is killed as well, and then removes the rest.
#[tokio::test(flavor = "multi_thread")]
async fn a_clean_up_that_is_killed_at_any_request_is_begun_anew() {
    if !machines_wanted("a clean-up that is killed at any request") {
        return;
    }
    let requests = requests().await;
    // All is there then but the last note on the image; a bake that dies later has finished it.
    let before = requests
        .iter()
        .take_while(|one| one.operation != "CreateTags");
    let noted = before.filter(|one| one.operation == "PutParameter").last();
    let dies = Point::Before(noted.unwrap().clone());
    let gc = ["gc", "--yes"];
    let world = World::new().await;
    assert!(killed(&world, &dies, &BAKE, "before it is ready").await);
    let _ = world.run(&gc).await.expect_code(0);
    let requests = world.gate.requests.lock().unwrap().clone();
    let started = Instant::now();
    let count = all(points(&requests).into_iter().map(|point| {
        let dies = dies.clone();
        async move {
            let context = Context("gc", &point).to_string();
            let world = World::new().await;
            assert!(killed(&world, &dies, &BAKE, &context).await);
            let is_killed = killed(&world, &point, &gc, &context).await;
            let _ = world.run(&gc).await.expect_code(0);
            world.assert_whole(Some(false), &context).await;
            is_killed
        }
    }))
    .await;
    report(&format!("a clean-up, at {count} requests"), started);
    assert!(count > 15, "{count}");
}

/// Says what came of a sweep.
fn report(what: &str, started: Instant) {
    let took = started.elapsed().as_secs_f64();
    tell(&format!("killed: {what}: nothing left ({took:.0} s)"));
}
