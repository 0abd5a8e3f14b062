//! awsJson1.1 and restJson1: bodies are JSON, unknown members are refused by name.

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::error::ApiError;

/// Content type of awsJson1.1.
pub const JSON_1_1: &str = "application/x-amz-json-1.1";
/// Content type of restJson1.
pub const REST_JSON: &str = "application/json";

/// Reads the input of an operation.
///
/// # Errors
/// `ValidationException` that names the member that is unknown, missing or of the wrong type.
pub fn input<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let body = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(body)
        .map_err(|error| ApiError::new("ValidationException", error.to_string()))
}

/// The operation that the header `x-amz-target` of awsJson1.1 names.
///
/// # Errors
/// `UnknownOperationException`.
pub fn operation<T: Copy>(
    request: &Request<Bytes>,
    prefix: &str,
    service: &str,
    operations: &[(&str, T)],
) -> Result<T, ApiError> {
    let target = request.headers().get("x-amz-target");
    let target = target.and_then(|value| value.to_str().ok()).unwrap_or("");
    let name = target.strip_prefix(prefix).unwrap_or(target);
    let found = operations.iter().find(|(known, _)| *known == name);
    found.map(|(_, run)| *run).ok_or_else(|| {
        ApiError::new(
            "UnknownOperationException",
            format!("The local cloud does not have the operation {name} of {service}."),
        )
    })
}

/// A response with a JSON body.
#[must_use]
pub fn response(
    status: StatusCode,
    content_type: &'static str,
    request_id: &str,
    body: &Value,
) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static(content_type),
    );
    if let Ok(id) = request_id.parse() {
        headers.insert("x-amzn-requestid", id);
    }
    response
}

/// A time as awsJson writes it: seconds since the epoch, with milliseconds.
#[must_use]
pub fn epoch(time: jiff::Timestamp) -> Value {
    Value::from(jiff::SignedDuration::from_millis(time.as_millisecond()).as_secs_f64())
}
