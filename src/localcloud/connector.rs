//! The cloud as an HTTP client of the AWS SDK: requests are answered in this process.

use std::io::{Error, ErrorKind};
use std::sync::Arc;

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;

use super::engine::{Answer, LocalCloud};
use super::faults::Trickle;
use super::s3::Content;

#[derive(Debug, Clone)]
struct Connector(Arc<LocalCloud>);

/// An HTTP client for the SDK's configuration. Needs a tokio runtime.
#[must_use]
pub fn connector(cloud: Arc<LocalCloud>) -> SharedHttpClient {
    SharedHttpClient::new(Connector(cloud))
}

impl HttpClient for Connector {
    fn http_connector(
        &self,
        _: &HttpConnectorSettings,
        _: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let cloud = self.0.clone();
        HttpConnectorFuture::new(async move {
            let other = |error: Box<dyn std::error::Error + Send + Sync>| {
                ConnectorError::other(error, None)
            };
            let request = request
                .try_into_http1x()
                .map_err(|error| other(error.into()))?;
            let request = cloud.receive(request).await;
            let request =
                request.map_err(|_| other("the body is larger than any operation takes".into()))?;
            let clock = cloud.clock();
            let answer = tokio::task::spawn_blocking(move || cloud.answer(request));
            let ended = |kind: ErrorKind| Err(ConnectorError::io(Error::from(kind).into()));
            let (response, time) = match answer.await.map_err(|error| other(error.into()))? {
                Answer::Sent(response, time) => (response, time),
                Answer::Closed => return ended(ErrorKind::UnexpectedEof),
                Answer::Reset => return ended(ErrorKind::ConnectionReset),
            };
            let response = response.map(|body| match body {
                Content::Held(bytes) if time.is_zero() => SdkBody::from(bytes),
                body => SdkBody::from_body_1_x(Trickle::new(body, time, clock)),
            });
            HttpResponse::try_from(response).map_err(|error| other(error.into()))
        })
    }
}
