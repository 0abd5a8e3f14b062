//! The wire to the model: parameters are the local cloud's, and each request can be told to fail.

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
use piaas_bake::clock::SharedClock;
use piaas_bake::localcloud::engine::LocalCloud;

use super::cloud::{Model, Params};

/// What goes wrong, at the request with this number (from 0).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// The request never arrives, and no answer comes.
    HangBefore(usize),
    /// The request is carried out, and no answer comes.
    HangAfter(usize),
    /// The request is carried out, and its answer is lost.
    Lose(usize),
}

#[derive(Debug, Clone)]
pub struct Wire {
    cloud: Arc<LocalCloud>,
    clock: SharedClock,
    pub model: Arc<Mutex<Model>>,
    pub hung: Arc<tokio::sync::Notify>,
}

impl Wire {
    pub fn new(cloud: Arc<LocalCloud>, clock: SharedClock, busy: &[i64]) -> Self {
        let model = Model::new(clock.now(), busy);
        Self {
            cloud,
            clock,
            model: Arc::new(Mutex::new(model)),
            hung: Arc::default(),
        }
    }

    pub fn client(&self) -> SharedHttpClient {
        SharedHttpClient::new(self.clone())
    }

    /// Forgets what was counted and fails like this from now on.
    pub fn fail(&self, fault: Fault) {
        let mut model = self.model.lock().unwrap();
        model.fault = fault;
        model.operations.clear();
    }

    fn carry_out(&self, request: &http::Request<Bytes>, name: &str) -> http::Response<Bytes> {
        let now = self.clock.now();
        let mut model = self.model.lock().unwrap();
        model.advance(now);
        let (status, body) = if request.headers().contains_key("x-amz-target") {
            if name.contains("Parameter") {
                drop(model);
                return self.cloud.handle(request);
            }
            let body = serde_json::from_slice(request.body()).unwrap();
            (200, model.json(name, &body, now).to_string())
        } else {
            let params: Params = form_urlencoded::parse(request.body())
                .map(|(key, value)| (key.into_owned(), value.into_owned()))
                .collect();
            let scaling = params["Version"] == "2011-01-01";
            match (model.form(name, &params, now), scaling) {
                (Ok(body), true) => (
                    200,
                    format!("<{name}Response><{name}Result>{body}</{name}Result></{name}Response>"),
                ),
                (Ok(body), false) => (200, format!("<{name}Response>{body}</{name}Response>")),
                (Err(code), _) => (
                    400,
                    format!(
                        "<ErrorResponse><Error><Code>{code}</Code><Message>no</Message></Error></ErrorResponse>"
                    ),
                ),
            }
        };
        http::Response::builder()
            .status(status)
            .body(Bytes::from(body))
            .unwrap()
    }
}

fn operation(request: &http::Request<Bytes>) -> String {
    if let Some(target) = request.headers().get("x-amz-target") {
        let target = target.to_str().unwrap();
        return target.rsplit('.').next().unwrap().to_owned();
    }
    form_urlencoded::parse(request.body())
        .find(|(key, _)| key == "Action")
        .map_or_else(String::new, |(_, action)| action.into_owned())
}

fn answer(response: http::Response<Bytes>) -> Result<HttpResponse, ConnectorError> {
    HttpResponse::try_from(response.map(SdkBody::from))
        .map_err(|error| ConnectorError::other(error.into(), None))
}

impl HttpConnector for Wire {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let request = request.try_into_http1x().unwrap();
        let request = request.map(|body| Bytes::copy_from_slice(body.bytes().unwrap_or_default()));
        let name = operation(&request);
        let (number, fault) = {
            let mut model = self.model.lock().unwrap();
            model.operations.push(name.clone());
            (model.operations.len() - 1, model.fault)
        };
        let hang = || {
            let hung = self.hung.clone();
            HttpConnectorFuture::new(async move {
                hung.notify_one();
                std::future::pending().await
            })
        };
        match fault {
            Fault::HangBefore(at) if at == number => hang(),
            Fault::HangAfter(at) if at == number => {
                self.carry_out(&request, &name);
                hang()
            }
            Fault::Lose(at) if at == number => {
                self.carry_out(&request, &name);
                HttpConnectorFuture::ready(Err(ConnectorError::io("lost by the test".into())))
            }
            _ => HttpConnectorFuture::ready(answer(self.carry_out(&request, &name))),
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
