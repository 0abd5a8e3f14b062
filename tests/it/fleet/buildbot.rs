//! A Buildbot master as its REST API answers, and a fleet's command line without a cloud.

use std::collections::BTreeMap;
use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use piaas_bake::fleet::demand::Source as _;
use piaas_bake::fleet::demand::buildbot::Buildbot;
use piaas_bake::fleet::world::{CiState, Demand};

use crate::support::Sandbox;

/// Answers as Buildbot 4.3 does: filtered by what is asked for, which must be selected; status 400 else.
fn answer(path: &str, query: &str) -> (u16, String) {
    let asked: Vec<(String, String)> = form_urlencoded::parse(query.as_bytes())
        .into_owned()
        .collect();
    let fields: Vec<&String> = asked
        .iter()
        .filter(|(key, _)| key == "field")
        .map(|(_, value)| value)
        .collect();
    let filters = asked.iter().filter(|(key, _)| key != "field");
    let (plural, rows) = match path {
        "/bb/api/v2/buildrequests" => (
            "buildrequests",
            serde_json::json!([
                {"builderid": 1, "claimed": false, "complete": false},
                {"builderid": 2, "claimed": false, "complete": false},
                {"builderid": 2, "claimed": true, "complete": false},
                {"builderid": 2, "claimed": true, "complete": true},
            ]),
        ),
        "/bb/api/v2/builders" => (
            "builders",
            serde_json::json!([{"builderid": 1, "name": "other"}, {"builderid": 2, "name": "job"}]),
        ),
        "/bb/api/v2/builds" => (
            "builds",
            serde_json::json!([{"workerid": 1, "complete": false}, {"workerid": 2, "complete": true}]),
        ),
        "/bb/api/v2/workers" => (
            "workers",
            serde_json::json!([
                {"workerid": 1, "name": "ci-i-1", "connected_to": [{"masterid": 1}], "paused": false},
                {"workerid": 2, "name": "ci-i-2", "connected_to": [{"masterid": 1}], "paused": false},
                {"workerid": 3, "name": "ci-i-3", "connected_to": [], "paused": false},
                {"workerid": 4, "name": "ci-i-4", "connected_to": [{"masterid": 1}], "paused": true},
                {"workerid": 5, "name": "desk", "connected_to": [{"masterid": 1}], "paused": false},
            ]),
        ),
        _ => return (404, r#"{"error": "Invalid path"}"#.into()),
    };
    let mut kept = rows.as_array().unwrap().clone();
    for (key, value) in filters {
        if !fields.contains(&key) {
            return (
                400,
                r#"{"error": "cannot filter on un-selected fields"}"#.into(),
            );
        }
        let wanted: serde_json::Value = serde_json::from_str(value).unwrap();
        kept.retain(|row| row[key] == wanted);
    }
    for row in &mut kept {
        row.as_object_mut()
            .unwrap()
            .retain(|key, _| fields.contains(&key));
    }
    (
        200,
        serde_json::json!({ plural: kept, "meta": {"total": kept.len()} }).to_string(),
    )
}

/// A server on loopback; gives its address.
async fn serve() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(
                |request: hyper::Request<hyper::body::Incoming>| async move {
                    let uri = request.uri();
                    let allowed = request
                        .headers()
                        .get("authorization")
                        .is_some_and(|value| value == "Bearer x");
                    let (status, body) = if allowed {
                        answer(uri.path(), uri.query().unwrap_or_default())
                    } else {
                        (403, String::new())
                    };
                    let answer = hyper::Response::builder().status(status);
                    Ok::<_, Infallible>(answer.body(Full::new(Bytes::from(body))).unwrap())
                },
            );
            tokio::spawn(async move {
                let server = hyper::server::conn::http1::Builder::new();
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    format!("http://{address}/bb/")
}

async fn ask(url: &str, builders: &[&str], authorization: Option<&str>) -> Demand {
    let builders = builders.iter().map(|name| (*name).to_owned()).collect();
    let master = Buildbot::new(
        url,
        "ci-{instance}",
        builders,
        authorization.map(str::to_owned),
    );
    master.unwrap().ask().await
}

#[tokio::test]
async fn the_queue_and_the_connected_workers_are_read() {
    let url = serve().await;
    let workers = BTreeMap::from([
        ("i-1".to_owned(), CiState::Busy),
        ("i-2".to_owned(), CiState::Idle),
    ]);
    for (builders, queued) in [(&[][..], 2), (&["job"], 1), (&["job", "other"], 2)] {
        let expected = Demand::Known {
            queued,
            workers: Some(workers.clone()),
        };
        assert_eq!(ask(&url, builders, Some("Bearer x")).await, expected);
    }
}

#[tokio::test]
async fn a_master_that_does_not_answer_well_is_unreachable_with_the_reason() {
    let url = serve().await;
    let why = async |demand: Demand| match demand {
        Demand::Unreachable(why) => why,
        other => panic!("{other:?}"),
    };
    let found = why(ask(&url, &["jobs"], Some("Bearer x")).await).await;
    assert!(found.contains("no builder jobs"), "{found}");
    let found = why(ask(&url, &[], None).await).await;
    assert!(found.contains("HTTP status 403"), "{found}");
    // Nobody listens there.
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let found = why(ask(&format!("http://{free}"), &[], None).await).await;
    assert!(found.to_lowercase().contains("refused"), "{found}");
    assert!(found.contains("/api/v2/buildrequests"), "{found}");
}

#[test]
fn what_is_wrong_with_a_fleet_is_said_before_anything_is_done() {
    let sandbox = Sandbox::new();
    for verb in ["run", "tick", "status"] {
        let run = sandbox.run(&["fleet", verb]).expect_code(2);
        assert!(run.stderr.contains("--config"), "{}", run.stderr);
        sandbox.write("bad.yaml", "schema: piaas-bake/fleet/v1\ngrup: x\n");
        let run = sandbox
            .run(&["fleet", verb, "--config", "bad.yaml"])
            .expect_code(2);
        assert!(run.stderr.contains("bad.yaml:2:1"), "{}", run.stderr);
        assert!(
            run.stderr.contains("did you mean `group`?"),
            "{}",
            run.stderr
        );
        let run = sandbox
            .run(&["fleet", verb, "--config", "none.yaml"])
            .expect_code(2);
        assert!(run.stderr.contains("none.yaml"), "{}", run.stderr);
    }
    assert!(!sandbox.state().exists(), "nothing was made");
    let run = sandbox
        .run(&["fleet", "status", "--group", "nobody's"])
        .expect_code(1);
    assert!(
        run.stderr
            .contains("there is no Auto Scaling group nobody's"),
        "{}",
        run.stderr
    );
}
