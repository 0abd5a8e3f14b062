//! A small HTTP GET for JSON, over the HTTP client that talks to AWS.

use std::time::Duration;

use aws_smithy_http_client::{Connector, tls};
use aws_smithy_runtime_api::client::http::HttpConnector as _;
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_types::body::SdkBody;
use http_body_util::{BodyExt as _, Limited};
use serde::de::DeserializeOwned;

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The largest answer that is read, in bytes.
const LARGEST: usize = 32 << 20;

/// A client for one server.
#[derive(Debug)]
pub struct Http {
    connector: Connector,
    /// Ends with a slash.
    base: String,
    authorization: Option<String>,
}

impl Http {
    /// A client for what is below `base`. `authorization` is the value of that header.
    ///
    /// # Errors
    /// TLS cannot be prepared.
    pub fn new(base: &str, authorization: Option<String>) -> Result<Self, String> {
        let context = tls::TlsContext::builder()
            .build()
            .map_err(|error| format!("cannot prepare TLS: {error}"))?;
        let connector = Connector::builder()
            .tls_provider(tls::Provider::Rustls(
                tls::rustls_provider::CryptoMode::Ring,
            ))
            .tls_context(context)
            .build();
        Ok(Self {
            connector,
            base: format!("{}/", base.trim_end_matches('/')),
            authorization,
        })
    }

    /// Gets a JSON document.
    ///
    /// # Errors
    /// What went wrong, with the address.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, String> {
        let url = format!("{}{path}", self.base);
        match tokio::time::timeout(PATIENCE, self.fetch(&url)).await {
            Ok(Ok(bytes)) => serde_json::from_slice(&bytes)
                .map_err(|error| format!("{url} gave something unexpected: {error}")),
            Ok(Err(why)) => Err(format!("{url}: {why}")),
            Err(_) => Err(format!("{url}: no answer in {} s", PATIENCE.as_secs())),
        }
    }

    async fn fetch(&self, url: &str) -> Result<Vec<u8>, String> {
        let mut request = http::Request::get(url).header("accept", "application/json");
        if let Some(value) = &self.authorization {
            request = request.header("authorization", value);
        }
        let request = request
            .body(SdkBody::empty())
            .map_err(|error| error.to_string())?;
        let request = HttpRequest::try_from(request).map_err(|error| error.to_string())?;
        let answer = self.connector.call(request).await.map_err(|error| {
            // The connector's own words say little; the cause says what happened.
            let mut cause: &dyn std::error::Error = &error;
            while let Some(source) = cause.source() {
                cause = source;
            }
            cause.to_string()
        })?;
        let status = answer.status().as_u16();
        if status != 200 {
            return Err(format!("HTTP status {status}"));
        }
        let body = Limited::new(answer.into_body(), LARGEST).collect().await;
        body.map(|body| body.to_bytes().to_vec())
            .map_err(|error| error.to_string())
    }
}
