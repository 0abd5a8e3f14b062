//! The wire to the local cloud: answers are lost, requests are throttled, and sometimes nothing ever comes back. What a
//! controller must not do whatever the wire does is written down as a fault.

use std::collections::BTreeMap;
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

fn operation(request: &http::Request<Bytes>) -> (String, bool) {
    if let Some(target) = request.headers().get("x-amz-target") {
        let name = target.to_str().unwrap().rsplit('.').next().unwrap();
        return (name.to_owned(), true);
    }
    (params(request).remove("Action").unwrap_or_default(), false)
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
fn throttled(json: bool) -> http::Response<Bytes> {
    let body = if json {
        r#"{"__type":"ThrottlingException","message":"Rate exceeded"}"#
    } else {
        "<ErrorResponse><Error><Type>Sender</Type><Code>Throttling</Code><Message>Rate exceeded</Message></Error>\
         <RequestId>r</RequestId></ErrorResponse>"
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
        let (name, json) = operation(&request);
        let params = if json {
            Params::new()
        } else {
            params(&request)
        };
        let (lose, hang) = {
            let mut state = self.state.lock().unwrap();
            *state.counts.entry(name.clone()).or_default() += 1;
            state.judge(&name, &params);
            let weather = state.weather;
            if weather.throttle > 0 && state.chance.one_in(weather.throttle) {
                return HttpConnectorFuture::ready(answer(throttled(json)));
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
        let response = self.cloud.handle(&request);
        let mut state = self.state.lock().unwrap();
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
