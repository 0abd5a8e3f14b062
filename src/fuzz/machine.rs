//! What machines and CI servers say, each reader over the same text.

use crate::aws::ssm::{Invocation, Verdict};
use crate::bake::follow::{self, Cutter, Tail};
use crate::fleet::demand::buildbot::{Builders, Builds, Requests, Share, Workers};
use crate::fleet::demand::command;
use crate::fleet::word;
use crate::fleet::world::{Demand, Word};
use crate::image::tree::TreeManifest;
use crate::roll::checks;
use crate::roll::world::Emptiness;
use crate::vm::check::{self, Facts};
use crate::worker::agent::Kept;
use crate::worker::config::Config;
use crate::worker::protection::element;
use crate::worker::socket::{Answer, Request};
use crate::worker::status::Status;

/// Lines of a log that are kept.
const KEPT: usize = 3;

pub fn run(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    log(input);
    printed(&text);
    checked(&text);
    worker(&text);
    queue(&text);
    let mut facts = Facts::default();
    for line in text.lines() {
        facts.take(line);
    }
    let tree = TreeManifest::default();
    for check in [
        check::grown(&facts),
        check::machine_id(&tree, &facts, &facts),
        check::host_keys(&tree, &facts, &facts),
    ] {
        assert!(!check.detail.is_empty());
        assert!(!check.detail.contains(char::is_control), "{}", check.detail);
    }
    xml(&text);
}

/// A log is cut into the same pieces however it comes.
fn log(bytes: &[u8]) {
    let pieces = |step: usize| {
        let mut cutter = Cutter::default();
        let mut pieces = Vec::new();
        for part in bytes.chunks(step) {
            pieces.extend(cutter.push(part));
        }
        pieces.extend(cutter.finish());
        pieces
    };
    let whole = pieces(bytes.len().max(1));
    for step in [1, 7] {
        assert_eq!(pieces(step), whole);
    }
    let mut tail = Tail::new(KEPT);
    for piece in &whole {
        if let follow::Piece::Line(line) = piece {
            assert!(!line.contains('\n'));
            tail.push(line);
        }
    }
    assert!(tail.to_vec().len() <= KEPT);
}

fn printed(text: &str) {
    if let Some(answer) = follow::answer(text) {
        assert!(answer.bytes.len() <= text.len());
        assert!(!(answer.ended && answer.paused));
    }
    if follow::result(text).is_some() {
        // What is printed before it does not matter.
        let more = format!("noise\nok\nfailed x\n{text}");
        assert_eq!(follow::result(&more), follow::result(text));
    }
}

fn checked(text: &str) {
    let checks = ["test -e /x".to_owned()];
    let found = checks::read(text, &checks);
    let passes = text
        .lines()
        .any(|line| line.starts_with("piaas-check pass"));
    assert!(passes || found.failure.is_some(), "nobody said so");
    let absent = text.lines().any(|line| line == "piaas-check worker absent");
    for (code, generation) in [(0, 0), (0, 7), (1, 0)] {
        let drained = match checks::emptiness(code, text, generation) {
            Emptiness::Drained => true,
            Emptiness::NoWorker => {
                assert!(absent);
                false
            }
            _ => false,
        };
        assert!(!drained || code == 0 && text.contains("drained"));
    }
    let _ = checks::word(text);
}

fn worker(text: &str) {
    if let Some(status) = Status::read(text) {
        let line = status.to_line();
        assert!(!line.contains('\n'));
        assert_eq!(Status::read(&line), Some(status));
    }
    let answer = Invocation {
        verdict: Verdict::Success,
        stdout: text.to_owned(),
        stderr: String::new(),
    };
    if let Word::Said(said) = word::read("i-1", Some(&answer)) {
        let _ = said.lasts();
    }
    let _ = word::obeyed("i-1", Some(&answer));
    same::<Request>(text);
    same::<Answer>(text);
    same::<Config>(text);
    same::<Kept>(text);
}

/// What is read from JSON is written so that the same is read.
pub fn same<T>(text: &str)
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    if let Ok(value) = serde_json::from_str::<T>(text) {
        let written = serde_json::to_string(&value).expect("it was JSON");
        let read = serde_json::from_str::<T>(&written);
        assert_eq!(read.ok().as_ref(), Some(&value), "{written}");
    }
}

fn queue(text: &str) {
    if let Ok(Demand::Known { workers, .. }) = command::read(text.as_bytes()) {
        assert!(workers.unwrap_or_default().len() <= text.len());
    }
    let share = Share::new("ci-{instance}", vec!["build".to_owned()]).expect("it names a worker");
    let (requests, builders) = (json::<Requests>(text), json::<Builders>(text));
    if let Some(requests) = &requests
        && let Ok(queued) = share.queued(requests, builders.as_ref())
    {
        assert!(queued as usize <= text.len() && builders.is_some());
    }
    if let (Some(workers), Some(builds)) = (json::<Workers>(text), json::<Builds>(text)) {
        for name in share.workers(&workers, &builds).keys() {
            assert!(text.len() >= name.len());
        }
    }
}

fn json<T: serde::de::DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_str(text).ok()
}

/// A text in XML comes out as it was.
fn xml(text: &str) {
    let _ = element(text, "Code");
    let escaped = text
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;");
    let answer = format!("<Error><Code>{escaped}</Code></Error>");
    assert_eq!(element(&answer, "Code").as_deref(), Some(text));
}
