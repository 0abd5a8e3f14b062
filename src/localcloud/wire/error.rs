//! Errors as each protocol writes them.

use bytes::Bytes;
use http::{Response, StatusCode};

use super::xml::{Xml, document};
use super::{Service, json};

/// An error as AWS documents it: HTTP status, code, message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct ApiError {
    pub status: StatusCode,
    pub code: String,
    pub message: String,
    /// Further elements of the error, where the protocol has such (S3).
    pub details: Vec<(&'static str, String)>,
}

impl ApiError {
    /// An error of the caller's, status 400.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            code: code.into(),
            message: message.into(),
            details: Vec::new(),
        }
    }

    /// The same error with one more element.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.details.push((name, value.to_string()));
        self
    }

    /// The same error with another status.
    #[must_use]
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// The cloud itself failed: its disk, its lock, its driver.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new("InternalError", message).with_status(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The error in the protocol of a service.
    #[must_use]
    pub fn respond(&self, service: Service, request_id: &str) -> Response<Bytes> {
        match service {
            Service::Ec2 => {
                let error = Xml::children([
                    ("Code", Xml::text(&self.code)),
                    ("Message", Xml::text(&self.message)),
                ]);
                let body = Xml::children([
                    ("Errors", Xml::children([("Error", error)])),
                    ("RequestID", Xml::text(request_id)),
                ]);
                super::xml::response(self.status, request_id, &document("Response", None, &body))
            }
            Service::Sts | Service::AutoScaling => {
                let fault = if self.status.is_server_error() {
                    "Receiver"
                } else {
                    "Sender"
                };
                let error = Xml::children([
                    ("Type", Xml::text(fault)),
                    ("Code", Xml::text(&self.code)),
                    ("Message", Xml::text(&self.message)),
                ]);
                let body = Xml::children([("Error", error), ("RequestId", Xml::text(request_id))]);
                let namespace = if service == Service::Sts {
                    "https://sts.amazonaws.com/doc/2011-06-15/"
                } else {
                    "http://autoscaling.amazonaws.com/doc/2011-01-01/"
                };
                let text = document("ErrorResponse", Some(namespace), &body);
                super::xml::response(self.status, request_id, &text)
            }
            Service::Ssm | Service::Secrets => {
                let body = serde_json::json!({"__type": self.code, "message": self.message});
                json::response(self.status, json::JSON_1_1, request_id, &body)
            }
            Service::ImageBuilder => {
                let body = serde_json::json!({"message": self.message});
                let mut response = json::response(self.status, json::REST_JSON, request_id, &body);
                if let Ok(code) = self.code.parse() {
                    response.headers_mut().insert("x-amzn-errortype", code);
                }
                response
            }
            Service::S3 => crate::localcloud::s3::error::respond(self, request_id),
        }
    }
}
