//! One error for every call: what was asked, what the cloud said, and what that means.

use aws_sdk_ec2::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_ec2::operation::RequestId;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

/// What an error means for the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The thing does not exist (or not yet: reads are eventually consistent).
    NotFound,
    /// Too many requests; the retries are used up.
    Throttled,
    /// No credentials, bad credentials, or a permission is missing.
    Unauthorized,
    /// A quota or the capacity of a zone.
    Quota,
    AlreadyExists,
    /// Something else still uses it.
    InUse,
    /// The request makes no sense to the cloud.
    Invalid,
    /// The cloud's own fault.
    Server,
    /// No answer arrived.
    Transport,
    Other,
}

/// A call to the cloud failed.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.describe())]
pub struct Error {
    /// `ec2`, `ssm`, …: the prefix of IAM actions.
    pub service: &'static str,
    /// The API's name of the operation.
    pub operation: &'static str,
    pub kind: Kind,
    /// The error code as the service gave it.
    pub code: Option<String>,
    pub message: String,
    pub request_id: Option<String>,
}

impl Error {
    /// Reads the error of an SDK call.
    pub fn new<E>(
        service: &'static str,
        operation: &'static str,
        error: &SdkError<E, HttpResponse>,
    ) -> Self
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let code = error.code().map(str::to_owned);
        let status = error
            .raw_response()
            .map(|response| response.status().as_u16());
        let message = error
            .message()
            .map_or_else(|| DisplayErrorContext(error).to_string(), str::to_owned);
        let no_credentials = message.contains("CredentialsNotLoaded");
        let kind = match (&code, error) {
            (Some(code), _) => classify(code, status),
            (None, _) if no_credentials => Kind::Unauthorized,
            (None, SdkError::TimeoutError(_) | SdkError::DispatchFailure(_)) => Kind::Transport,
            (None, _) => Kind::Other,
        };
        let request_id = error
            .meta()
            .request_id()
            .or_else(|| error.request_id())
            .map(str::to_owned);
        Self {
            service,
            operation,
            kind,
            code,
            message,
            request_id,
        }
    }

    /// An answer that arrived but lacks what the API promises.
    #[must_use]
    pub fn incomplete(service: &'static str, operation: &'static str, missing: &str) -> Self {
        Self {
            service,
            operation,
            kind: Kind::Other,
            code: None,
            message: format!("the answer holds no {missing}"),
            request_id: None,
        }
    }

    /// Whether the cloud refused for who asks or for how much (exit code 5), not for what was asked.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self.kind, Kind::Unauthorized | Kind::Quota)
    }

    /// Whether the same call may succeed a little later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self.kind, Kind::Throttled | Kind::Server | Kind::Transport)
    }

    /// Whether the code is this one.
    #[must_use]
    pub fn has_code(&self, code: &str) -> bool {
        self.code.as_deref() == Some(code)
    }

    fn describe(&self) -> String {
        let Self {
            service,
            operation,
            message,
            ..
        } = self;
        let code = self
            .code
            .as_ref()
            .map(|code| format!(" ({code})"))
            .unwrap_or_default();
        let request = self
            .request_id
            .as_ref()
            .map(|id| format!(" [request {id}]"))
            .unwrap_or_default();
        let way_out = match self.kind {
            Kind::Unauthorized => {
                format!("; the caller needs valid credentials with {service}:{operation}")
            }
            Kind::Quota => {
                "; ask for a higher quota, or choose another instance type or zone".to_owned()
            }
            Kind::Throttled => "; other callers of this account use up its request rate".to_owned(),
            Kind::Transport => "; check the network and the region's name".to_owned(),
            _ => String::new(),
        };
        format!("{service} {operation} failed{code}: {message}{way_out}{request}")
    }
}

/// What an error code means. Codes: EC2 API Reference "Error codes", SSM API Reference "Common errors", S3 API
/// Reference "Error responses".
fn classify(code: &str, status: Option<u16>) -> Kind {
    match code {
        "RequestLimitExceeded"
        | "Throttling"
        | "ThrottlingException"
        | "TooManyUpdates"
        | "EC2ThrottledException"
        | "RequestThrottled"
        | "ThrottledException"
        | "SlowDown" => Kind::Throttled,
        "UnauthorizedOperation"
        | "AccessDenied"
        | "AccessDeniedException"
        | "AuthFailure"
        | "OptInRequired"
        | "Blocked"
        | "InvalidClientTokenId"
        | "UnrecognizedClientException"
        | "SignatureDoesNotMatch"
        | "ExpiredToken"
        | "ExpiredTokenException"
        | "RequestExpired"
        | "IncompleteSignature"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException"
        | "IncompleteSignatureException"
        | "InvalidSignatureException"
        | "InvalidAccessKeyId"
        | "InvalidToken"
        | "RequestTimeTooSkewed"
        | "PendingVerification" => Kind::Unauthorized,
        "InstanceLimitExceeded"
        | "VcpuLimitExceeded"
        | "InsufficientInstanceCapacity"
        | "MaxSpotInstanceCountExceeded"
        | "VolumeLimitExceeded"
        | "SnapshotLimitExceeded"
        | "ConcurrentSnapshotLimitExceeded"
        | "SecurityGroupLimitExceeded"
        | "AMIQuotaExceeded"
        | "ParameterLimitExceeded"
        | "ResourceLimitExceeded" => Kind::Quota,
        "ParameterNotFound"
        | "InvalidInstanceId"
        | "InvocationDoesNotExist"
        | "ResourceNotFoundException"
        | "InvalidSnapshot.NotFound"
        | "InvalidAMIID.Unavailable"
        | "InvalidLaunchTemplateId.VersionNotFound"
        | "InvalidLaunchTemplateName.NotFoundException"
        | "NoSuchBucket"
        | "NoSuchKey" => Kind::NotFound,
        // A bucket of another region; its status is 301.
        "PermanentRedirect" => Kind::Invalid,
        "DependencyViolation"
        | "InvalidSnapshot.InUse"
        | "IncorrectState"
        | "IncorrectInstanceState" => Kind::InUse,
        "ParameterAlreadyExists" => Kind::AlreadyExists,
        _ if code.ends_with(".NotFound") => Kind::NotFound,
        _ if code.ends_with(".Duplicate") || code.ends_with("AlreadyExists") => Kind::AlreadyExists,
        "InternalError"
        | "InternalFailure"
        | "InternalServerError"
        | "ServiceUnavailable"
        | "Unavailable" => Kind::Server,
        _ => match status {
            Some(500..) => Kind::Server,
            Some(400..) => Kind::Invalid,
            _ => Kind::Other,
        },
    }
}

/// Turns the error of an SDK call into [`Error`], with the names of the call.
pub trait Context<T> {
    /// # Errors
    /// The same failure, described.
    fn call(self, service: &'static str, operation: &'static str) -> Result<T, Error>;
}

impl<T, E> Context<T> for Result<T, SdkError<E, HttpResponse>>
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    fn call(self, service: &'static str, operation: &'static str) -> Result<T, Error> {
        self.map_err(|error| Error::new(service, operation, &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_their_meaning() {
        let cases = [
            ("InvalidInstanceID.NotFound", Some(400), Kind::NotFound),
            ("InvocationDoesNotExist", Some(400), Kind::NotFound),
            ("InvalidGroup.Duplicate", Some(400), Kind::AlreadyExists),
            ("RequestLimitExceeded", Some(503), Kind::Throttled),
            ("ThrottlingException", Some(400), Kind::Throttled),
            ("UnauthorizedOperation", Some(403), Kind::Unauthorized),
            ("VcpuLimitExceeded", Some(400), Kind::Quota),
            ("DependencyViolation", Some(400), Kind::InUse),
            ("InvalidParameterValue", Some(400), Kind::Invalid),
            ("SomethingNew", Some(500), Kind::Server),
            ("SomethingNew", None, Kind::Other),
        ];
        for (code, status, kind) in cases {
            assert_eq!(classify(code, status), kind, "{code}");
        }
    }

    #[test]
    fn a_missing_permission_is_named() {
        let error = Error {
            service: "ec2",
            operation: "RunInstances",
            kind: Kind::Unauthorized,
            code: Some("UnauthorizedOperation".into()),
            message: "You are not authorized".into(),
            request_id: Some("r-1".into()),
        };
        assert_eq!(
            error.to_string(),
            "ec2 RunInstances failed (UnauthorizedOperation): You are not authorized; the caller needs valid \
             credentials with ec2:RunInstances [request r-1]"
        );
        assert!(error.is_refusal());
    }
}
