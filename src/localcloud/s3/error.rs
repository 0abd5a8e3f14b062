//! Errors of S3: one XML document, with elements that depend on the code ("Error responses", S3 API Reference).

use bytes::Bytes;
use http::{Response, StatusCode};

use super::super::wire::error::ApiError;
use super::super::wire::xml::{Xml, document};

/// An error with its status.
pub fn error(status: StatusCode, code: &str, message: impl Into<String>) -> ApiError {
    ApiError::new(code, message).with_status(status)
}

/// An argument that makes no sense.
pub fn invalid_argument(name: &str, value: &str, message: impl Into<String>) -> ApiError {
    error(StatusCode::BAD_REQUEST, "InvalidArgument", message)
        .with("ArgumentName", name)
        .with("ArgumentValue", value)
}

/// A request that makes no sense as a whole.
pub fn invalid_request(message: impl Into<String>) -> ApiError {
    error(StatusCode::BAD_REQUEST, "InvalidRequest", message)
}

/// A header that the local cloud does not act on, with its value.
pub fn header_not_implemented(name: &str, value: &str) -> ApiError {
    let message = format!(
        "A header you provided implies functionality that is not implemented: the local cloud does not act on {name}."
    );
    error(StatusCode::NOT_IMPLEMENTED, "NotImplemented", message)
        .with("Header", name)
        .with("Value", value)
}

/// An operation or a parameter that the local cloud does not have.
pub fn not_implemented(what: &str) -> ApiError {
    let message = format!("The local cloud does not have {what} of s3.");
    error(StatusCode::NOT_IMPLEMENTED, "NotImplemented", message)
}

/// The caller may not.
pub fn access_denied(message: &str) -> ApiError {
    error(StatusCode::FORBIDDEN, "AccessDenied", message)
}

/// There is no such bucket.
pub fn no_such_bucket(bucket: &str) -> ApiError {
    let message = "The specified bucket does not exist";
    error(StatusCode::NOT_FOUND, "NoSuchBucket", message).with("BucketName", bucket)
}

/// There is no such object.
pub fn no_such_key(key: &str) -> ApiError {
    let message = "The specified key does not exist.";
    error(StatusCode::NOT_FOUND, "NoSuchKey", message).with("Key", key)
}

/// There is no such upload.
pub fn no_such_upload(upload: &str) -> ApiError {
    let message = "The specified multipart upload does not exist. The upload ID might be invalid, or the multipart \
                   upload might have been aborted or completed.";
    error(StatusCode::NOT_FOUND, "NoSuchUpload", message).with("UploadId", upload)
}

/// A condition of the request does not hold.
pub fn precondition_failed(condition: &str) -> ApiError {
    let message = "At least one of the pre-conditions you specified did not hold";
    error(
        StatusCode::PRECONDITION_FAILED,
        "PreconditionFailed",
        message,
    )
    .with("Condition", condition)
}

/// The error as a response. That of a `HEAD` loses its body on the way.
pub fn respond(error: &ApiError, request_id: &str) -> Response<Bytes> {
    let mut body = Xml::children([
        ("Code", Xml::text(&error.code)),
        ("Message", Xml::text(&error.message)),
    ]);
    for (name, value) in &error.details {
        body = body.with(name, Xml::text(value));
    }
    let body = body
        .with("RequestId", Xml::text(request_id))
        .with("HostId", Xml::text(super::host_id(request_id)));
    let mut response = Response::new(Bytes::from(document("Error", None, &body)));
    *response.status_mut() = error.status;
    if error.status == StatusCode::NOT_MODIFIED {
        *response.body_mut() = Bytes::new();
    } else {
        let xml = http::HeaderValue::from_static("application/xml");
        response
            .headers_mut()
            .insert(http::header::CONTENT_TYPE, xml);
    }
    // Clients that came to the wrong region go on in this one.
    let region = error
        .details
        .iter()
        .find(|(name, _)| *name == "Region")
        .and_then(|(_, region)| region.parse().ok());
    if let Some(region) = region {
        response.headers_mut().insert("x-amz-bucket-region", region);
    }
    super::mark(&mut response, request_id);
    response
}
