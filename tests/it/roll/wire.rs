//! The roll's wire to the local cloud: each request can be told to fail.

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

use super::cloud::{LEAVES, Stage};

use crate::aws;

/// What goes wrong, at the request with this number (from 0).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// The request never arrives, and no answer comes.
    HangBefore(usize),
    /// The request is carried out, and no answer comes.
    HangAfter(usize),
    /// The same, at the first request of this name.
    HangAfterThe(&'static str),
    /// The request is carried out, and its answer is lost.
    Lose(usize),
}

#[derive(Debug)]
pub struct Script {
    pub operations: Vec<String>,
    fault: Fault,
    /// `RollbackInstanceRefresh` is refused, as AWS does with an image that is a parameter.
    pub irreversible: bool,
    /// Somebody else's user data is in the second version of the template.
    pub meddled: bool,
}

#[derive(Clone)]
pub struct Wire {
    stage: Arc<Stage>,
    script: Arc<Mutex<Script>>,
    pub hung: Arc<tokio::sync::Notify>,
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire").finish_non_exhaustive()
    }
}

impl Wire {
    pub fn new(stage: Arc<Stage>) -> Self {
        let script = Script {
            operations: Vec::new(),
            fault: Fault::None,
            irreversible: false,
            meddled: false,
        };
        Self {
            stage,
            script: Arc::new(Mutex::new(script)),
            hung: Arc::default(),
        }
    }

    pub fn client(&self) -> SharedHttpClient {
        SharedHttpClient::new(self.clone())
    }

    pub fn script(&self) -> std::sync::MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }

    /// Forgets what was counted and fails like this from now on.
    pub fn fail(&self, fault: Fault) {
        let mut script = self.script();
        script.fault = fault;
        script.operations.clear();
    }

    pub fn count(&self, operation: &str) -> usize {
        let script = self.script();
        let named = script.operations.iter().filter(|one| *one == operation);
        named.count()
    }

    async fn carry_out(&self, request: &http::Request<Bytes>, name: &str) -> http::Response<Bytes> {
        self.stage.live().await;
        if name == "RollbackInstanceRefresh" && self.script().irreversible {
            let body = "<ErrorResponse><Error><Code>IrreversibleInstanceRefresh</Code><Message>no</Message></Error>\
                        </ErrorResponse>";
            let answer = http::Response::builder().status(400);
            return answer.body(Bytes::from(body)).unwrap();
        }
        let answer =
            aws::answered(&self.stage.cloud, request).expect("the script has late reads only");
        // Its group was looked at before, and showed it in service.
        if String::from_utf8_lossy(answer.body()).contains(LEAVES) {
            self.stage.end_leaving().await;
        }
        self.stage.audit();
        if name == "DescribeLaunchTemplateVersions" && self.script().meddled {
            return answer.map(|body| Bytes::from(meddle(std::str::from_utf8(&body).unwrap())));
        }
        answer
    }

    async fn play(self, request: http::Request<Bytes>) -> Result<HttpResponse, ConnectorError> {
        let name = operation(&request);
        let (number, fault) = {
            let mut script = self.script();
            script.operations.push(name.clone());
            (script.operations.len() - 1, script.fault)
        };
        let (before, after) = match fault {
            Fault::HangBefore(at) => (at == number, false),
            Fault::HangAfter(at) => (false, at == number),
            Fault::HangAfterThe(operation) => (false, operation == name),
            Fault::None | Fault::Lose(_) => (false, false),
        };
        let mut answer = None;
        if !before {
            answer = Some(self.carry_out(&request, &name).await);
        }
        if before || after {
            self.hung.notify_one();
            return std::future::pending().await;
        }
        match answer {
            Some(answer) if fault != Fault::Lose(number) => {
                HttpResponse::try_from(answer.map(SdkBody::from))
                    .map_err(|error| ConnectorError::other(error.into(), None))
            }
            _ => Err(ConnectorError::io("lost by the test".into())),
        }
    }
}

/// Puts user data into the second version.
fn meddle(body: &str) -> String {
    let Some((first, second)) = body.split_once("<versionNumber>2<") else {
        return body.to_owned();
    };
    let data = "<launchTemplateData>";
    let second = second.replacen(data, &format!("{data}<userData>eA==</userData>"), 1);
    format!("{first}<versionNumber>2<{second}")
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

impl HttpConnector for Wire {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let request = request.try_into_http1x().unwrap();
        let request = request.map(|body| Bytes::copy_from_slice(body.bytes().unwrap_or_default()));
        HttpConnectorFuture::new(self.clone().play(request))
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
