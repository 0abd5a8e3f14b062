//! Requests to a local cloud with scripted machines, one a line:
//!
//! `ec2 QUERY`, `autoscaling QUERY` and `sts QUERY`; `ssm OPERATION JSON` and `secretsmanager OPERATION JSON`;
//! `wait SECONDS`. In them `@0` to `@9` are ids in the order in which answers named them. All are signed; `wire` is about
//! those that are not.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use jiff::{SignedDuration, Timestamp};

use super::xml::well_formed;
use crate::clock::{Clock as _, JumpingClock};
use crate::localcloud::scripted::Scripted;
use crate::localcloud::sessions::Session;
use crate::localcloud::{ACCOUNT_ID, LocalCloud};
use crate::worker::imds::Keys;
use crate::worker::sign::{Call, signed};

/// Enough to make something, change it, look at it and remove it.
const MOST: usize = 12;

pub fn run(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let dir = super::directory();
    let start = Timestamp::from_second(1_767_268_800).expect("2026 is a year");
    let clock = JumpingClock::starting_at(start);
    let open = || {
        let driver = Arc::new(Scripted::new(clock.clone()));
        LocalCloud::open(dir.path(), driver, clock.clone())
            .expect("the state can be read and written")
    };
    let cloud = open();
    let mut ids: Vec<String> = Vec::new();
    for line in text.lines().take(MOST) {
        let line = with_ids(line, &ids);
        let (word, rest) = line.split_once(' ').unwrap_or((&line, ""));
        if word == "wait" {
            // Ten days: nothing takes longer.
            let seconds = rest.parse().unwrap_or(0).min(864_000);
            clock.advance(Duration::from_secs(seconds));
            continue;
        }
        let Some(request) = request(word, rest, clock.now()) else {
            continue;
        };
        let response = cloud.handle(&request);
        judge(&line, &response);
        let body = String::from_utf8_lossy(response.body());
        for id in found(&body) {
            if ids.len() < 10 && !ids.iter().any(|known| known == id) {
                ids.push(id.to_owned());
            }
        }
    }
    drop(cloud);
    open();
}

fn request(service: &str, rest: &str, now: Timestamp) -> Option<Request<Bytes>> {
    let (target, body) = match service {
        "ec2" | "autoscaling" | "sts" => (None, rest),
        "ssm" | "secretsmanager" => {
            let (operation, body) = rest.split_once(' ').unwrap_or((rest, ""));
            let name = if service == "ssm" {
                "AmazonSSM"
            } else {
                service
            };
            (Some(format!("{name}.{operation}")), body)
        }
        _ => return None,
    };
    let headers: Vec<_> = target
        .iter()
        .map(|target| ("x-amz-target", target.as_str()))
        .collect();
    let call = Call {
        endpoint: "http://localhost",
        region: "us-east-1",
        service,
        headers: &headers,
    };
    let session = Session {
        role: format!("arn:aws:iam::{ACCOUNT_ID}:role/fuzz"),
        name: "fuzz".into(),
        expires: now + SignedDuration::from_hours(1),
        source_identity: None,
        tags: BTreeMap::new(),
        request: String::new(),
    };
    let keys = session.keys();
    let keys = Keys {
        access_key_id: keys.access_key,
        secret_access_key: keys.secret_key,
        token: keys.token,
    };
    // What is no header cannot be sent.
    let since = Duration::try_from(now.as_duration()).expect("it is after 1970");
    let now = SystemTime::UNIX_EPOCH + since;
    let (head, body) = signed(&call, body.to_owned(), &keys, now)
        .ok()?
        .into_parts();
    let body = now_or_never(body.collect())?.ok()?.to_bytes();
    Some(Request::from_parts(head, body))
}

/// A body in memory is there at once.
fn now_or_never<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.as_mut().poll(&mut context) {
        std::task::Poll::Ready(value) => Some(value),
        std::task::Poll::Pending => None,
    }
}

fn judge(line: &str, response: &Response<Bytes>) {
    let body = std::str::from_utf8(response.body()).expect("an answer is text");
    let status = response.status();
    assert!(!status.is_server_error(), "{line}\n{status}\n{body}");
    if matches!(line.split(' ').next(), Some("ssm" | "secretsmanager")) {
        let json: Result<serde_json::Value, _> = serde_json::from_str(body);
        assert!(json.is_ok(), "{line}\n{body}");
    } else if !body.is_empty() {
        well_formed(body).unwrap_or_else(|why| panic!("{why}\n{line}\n{body}"));
    }
}

fn with_ids(line: &str, ids: &[String]) -> String {
    let mut line = line.to_owned();
    for (n, id) in ids.iter().enumerate() {
        line = line.replace(&format!("@{n}"), id);
    }
    line
}

/// `i-0123456789abcdef0` and the like, and ids of commands and refreshes.
fn found(body: &str) -> impl Iterator<Item = &str> {
    body.split(|c: char| !c.is_ascii_alphanumeric() && c != '-')
        .filter(|word| {
            let last = word.rsplit('-').next().unwrap_or_default();
            word.contains('-')
                && (12..=17).contains(&last.len())
                && last.bytes().all(|b| b.is_ascii_hexdigit())
        })
}
