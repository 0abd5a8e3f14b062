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
use bytes::Bytes;

use super::engine::{Answer, LocalCloud};
use super::faults::Trickle;

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
            let (parts, body) = request.into_parts();
            // The services stream nothing, so every body is in memory already.
            let bytes = body.bytes().map(Bytes::copy_from_slice);
            let bytes =
                bytes.ok_or_else(|| other("the local cloud takes no streamed body".into()))?;
            let request = http::Request::from_parts(parts, bytes);
            let clock = cloud.clock();
            let answer = tokio::task::spawn_blocking(move || cloud.answer(&request));
            let ended = |kind: ErrorKind| Err(ConnectorError::io(Error::from(kind).into()));
            let (response, time) = match answer.await.map_err(|error| other(error.into()))? {
                Answer::Sent(response, time) => (response, time),
                Answer::Closed => return ended(ErrorKind::UnexpectedEof),
                Answer::Reset => return ended(ErrorKind::ConnectionReset),
            };
            let response = response.map(|body| {
                if time.is_zero() {
                    SdkBody::from(body)
                } else {
                    SdkBody::from_body_1_x(Trickle::new(body, time, clock))
                }
            });
            HttpResponse::try_from(response).map_err(|error| other(error.into()))
        })
    }
}
