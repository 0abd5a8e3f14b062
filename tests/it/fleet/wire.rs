//! The wire to the local cloud: answers are lost, requests are throttled, and sometimes nothing ever comes back. What a
//! controller must not do whatever the wire does is written down as a fault.

use std::collections::{BTreeMap, BTreeSet};
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
use piaas_bake::localcloud::engine::LocalCloud;

use super::chance::Chance;

use crate::aws;

/// How bad the wire is: one request in so many; 0 for never.
#[derive(Debug, Clone, Copy, Default)]
pub struct Weather {
    pub lose: i64,
    pub throttle: i64,
}

#[derive(Debug)]
pub struct State {
    chance: Chance,
    pub weather: Weather,
    /// Requests until nothing comes back any more.
    pub hang_in: Option<usize>,
    /// The request that hangs among those that change something, and whether it is carried out before.
    pub hang_at: Option<(usize, bool)>,
    /// How many requests so far would change something.
    pub changes: usize,
    /// The token of a launch whose answer never arrived.
    open: Option<String>,
    /// Instances whose termination was carried out.
    ended: BTreeMap<String, u32>,
    /// Instances that were launched outside of any group.
    canaries: BTreeSet<String>,
    pub counts: BTreeMap<String, usize>,
    pub lost: usize,
    pub faults: Vec<String>,
}

#[derive(Debug, Clone)]
pub struct Wire {
    cloud: Arc<LocalCloud>,
    pub state: Arc<Mutex<State>>,
    pub hung: Arc<tokio::sync::Notify>,
}

type Params = BTreeMap<String, String>;

fn params(request: &http::Request<Bytes>) -> Params {
    form_urlencoded::parse(request.body())
        .map(|(key, value)| (key.into_owned(), value.into_owned()))
        .collect()
}

impl State {
    /// What is wrong with asking for this at all.
    fn judge(&mut self, name: &str, params: &Params) {
        match name {
            "LaunchInstances" => {
                let token = &params["ClientToken"];
                if let Some(open) = self.open.as_ref().filter(|open| *open != token) {
                    let fault = format!("a launch with token {token} while {open} is not answered");
                    self.faults.push(fault);
                }
            }
            "TerminateInstanceInAutoScalingGroup" => {
                let id = &params["InstanceId"];
                let again = self.ended.get(id).is_some_and(|count| *count > 0);
                if again && params["ShouldDecrementDesiredCapacity"] == "true" {
                    self.faults.push(format!(
                        "the end of {id} is asked for twice, with decrement"
                    ));
                }
            }
            _ => {}
        }
    }

    /// A roll cordons its canary, and no member of the group: those are the controller's.
    fn judge_command(&mut self, body: &[u8]) {
        let asked: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
        let script = asked["Parameters"]["commands"].to_string();
        if !(script.contains("piaas-check") && script.contains("piaas-worker cordon")) {
            return;
        }
        let ids = asked["InstanceIds"].as_array().cloned().unwrap_or_default();
        for id in ids.iter().filter_map(serde_json::Value::as_str) {
            if !self.canaries.contains(id) {
                self.faults
                    .push(format!("a roll cordons {id}, which is not its canary"));
            }
        }
    }

    /// What is known after it was carried out.
    fn carried_out(&mut self, name: &str, params: &Params, ok: bool, answered: bool) {
        match name {
            "LaunchInstances" => {
                let token = params["ClientToken"].clone();
                self.open = (!answered).then_some(token);
            }
            "TerminateInstanceInAutoScalingGroup" if ok => {
                *self.ended.entry(params["InstanceId"].clone()).or_default() += 1;
            }
            _ => {}
        }
    }
}

impl Wire {
    pub fn new(cloud: Arc<LocalCloud>, seed: u64) -> Self {
        Self {
            cloud,
            state: Arc::new(Mutex::new(State {
                chance: Chance::new(seed),
                weather: Weather::default(),
                hang_in: None,
                hang_at: None,
                changes: 0,
                open: None,
                ended: BTreeMap::new(),
                canaries: BTreeSet::new(),
                counts: BTreeMap::new(),
                lost: 0,
                faults: Vec::new(),
            })),
            hung: Arc::default(),
        }
    }

    pub fn client(&self) -> SharedHttpClient {
        SharedHttpClient::new(self.clone())
    }
}

/// How a service writes its errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Ec2,
    Query,
    Json,
}

fn operation(request: &http::Request<Bytes>) -> (String, Protocol) {
    if let Some(target) = request.headers().get("x-amz-target") {
        let name = target.to_str().unwrap().rsplit('.').next().unwrap();
        return (name.to_owned(), Protocol::Json);
    }
    let name = params(request).remove("Action").unwrap_or_default();
    let host = request.uri().host().unwrap_or_default();
    let protocol = if host.starts_with("ec2.") {
        Protocol::Ec2
    } else {
        Protocol::Query
    };
    (name, protocol)
}

/// Whether a request changes something that a controller relies on.
fn changes(name: &str, request: &http::Request<Bytes>) -> bool {
    let looks = ["Describe", "Get", "List"]
        .iter()
        .any(|verb| name.starts_with(verb));
    let asks = request
        .body()
        .windows(20)
        .any(|text| text == b"piaas-worker status\n");
    !looks && !asks
}

/// An answer as a service gives it that is asked too often.
fn throttled(protocol: Protocol) -> http::Response<Bytes> {
    let body = match protocol {
        Protocol::Json => r#"{"__type":"ThrottlingException","message":"Rate exceeded"}"#,
        Protocol::Query => {
            "<ErrorResponse><Error><Type>Sender</Type><Code>Throttling</Code><Message>Rate exceeded</Message></Error>\
             <RequestId>r</RequestId></ErrorResponse>"
        }
        Protocol::Ec2 => {
            "<Response><Errors><Error><Code>RequestLimitExceeded</Code><Message>Request limit exceeded.</Message>\
             </Error></Errors><RequestID>r</RequestID></Response>"
        }
    };
    http::Response::builder()
        .status(400)
        .body(Bytes::from(body))
        .unwrap()
}

fn answer(response: http::Response<Bytes>) -> Result<HttpResponse, ConnectorError> {
    HttpResponse::try_from(response.map(SdkBody::from))
        .map_err(|error| ConnectorError::other(error.into(), None))
}

impl HttpConnector for Wire {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let request = request.try_into_http1x().unwrap();
        let request = request.map(|body| Bytes::copy_from_slice(body.bytes().unwrap_or_default()));
        let (name, protocol) = operation(&request);
        let params = if protocol == Protocol::Json {
            Params::new()
        } else {
            params(&request)
        };
        let (lose, hang) = {
            let mut state = self.state.lock().unwrap();
            *state.counts.entry(name.clone()).or_default() += 1;
            state.judge(&name, &params);
            if name == "SendCommand" {
                state.judge_command(request.body());
            }
            let weather = state.weather;
            if weather.throttle > 0 && state.chance.one_in(weather.throttle) {
                return HttpConnectorFuture::ready(answer(throttled(protocol)));
            }
            let hang = match &mut state.hang_in {
                Some(0) => true,
                Some(left) => {
                    *left -= 1;
                    false
                }
                None => false,
            };
            let mut before = hang && state.chance.one_in(2);
            let hang = hang || {
                let number = state.changes;
                state.changes += usize::from(changes(&name, &request));
                match state.hang_at {
                    Some((at, carried_out)) if at == number && state.changes > number => {
                        before = !carried_out;
                        true
                    }
                    _ => false,
                }
            };
            if before {
                let hung = self.hung.clone();
                return HttpConnectorFuture::new(async move {
                    hung.notify_one();
                    std::future::pending().await
                });
            }
            (weather.lose > 0 && state.chance.one_in(weather.lose), hang)
        };
        let response =
            aws::answered(&self.cloud, &request).expect("the script has late reads only");
        let mut state = self.state.lock().unwrap();
        if name == "RunInstances" {
            let text = String::from_utf8_lossy(response.body());
            let ids = text.split("<instanceId>").skip(1);
            let ids = ids.filter_map(|rest| Some(rest.split_once('<')?.0.to_owned()));
            state.canaries.extend(ids);
        }
        let answered = !lose && !hang;
        state.carried_out(&name, &params, response.status().is_success(), answered);
        if hang {
            let hung = self.hung.clone();
            return HttpConnectorFuture::new(async move {
                hung.notify_one();
                std::future::pending().await
            });
        }
        if lose {
            state.lost += 1;
            return HttpConnectorFuture::ready(Err(ConnectorError::io("lost by the test".into())));
        }
        HttpConnectorFuture::ready(answer(response))
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
