//! One error for every call: what was asked, what the cloud said, and what that means.

use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_ec2::operation::RequestId;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_types::error::ErrorMetadata;

use super::unclear::is_unclear;

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
#[error("{}{}", self.sentence(), self.because())]
pub struct Error {
    /// `ec2`, `ssm`, …: the prefix of IAM actions.
    pub service: &'static str,
    /// The API's name of the operation.
    pub operation: &'static str,
    pub kind: Kind,
    /// The error code as the service gave it.
    pub code: Option<String>,
    pub message: String,
    /// What is behind it where no service has answered, outermost first.
    pub causes: Box<[String]>,
    pub request_id: Option<Box<str>>,
    /// An earlier attempt of the call got no answer, and may have been carried out.
    pub unclear: bool,
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
        let said = error.message().map(str::to_owned);
        let causes = match said {
            Some(_) => Box::default(),
            None => causes(error),
        };
        let (kind, what) = match (&code, error) {
            (Some(code), _) => (classify(code, status), "the service says no more"),
            (None, SdkError::DispatchFailure(_)) if without_credentials(&causes) => (
                Kind::Unauthorized,
                "there are no credentials that can be used",
            ),
            (None, SdkError::TimeoutError(_) | SdkError::DispatchFailure(_)) => {
                (Kind::Transport, "no answer arrived")
            }
            (None, _) => (Kind::Other, "the answer cannot be understood"),
        };
        let message = said.unwrap_or_else(|| what.to_owned());
        let request_id = error
            .meta()
            .request_id()
            .or_else(|| error.request_id())
            .map(Box::from);
        Self {
            service,
            operation,
            kind,
            code,
            message,
            causes,
            request_id,
            unclear: error.raw_response().is_some_and(is_unclear),
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
            causes: Box::default(),
            request_id: None,
            unclear: false,
        }
    }

    /// What was to be made is there already: it is another's.
    #[must_use]
    pub fn exists(service: &'static str, operation: &'static str, whose: &str) -> Self {
        Self {
            kind: Kind::AlreadyExists,
            message: whose.to_owned(),
            ..Self::incomplete(service, operation, "")
        }
    }

    /// Whether the cloud has said that the call did nothing: no attempt of it did.
    #[must_use]
    pub fn did_nothing(&self) -> bool {
        let refused = [
            Kind::Unauthorized,
            Kind::Quota,
            Kind::Invalid,
            Kind::NotFound,
        ];
        !self.unclear && refused.contains(&self.kind)
    }

    /// Whether the cloud refused for who asks or for how much, or is not reachable (exit code 5): nothing is wrong with
    /// what was asked.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(
            self.kind,
            Kind::Unauthorized | Kind::Quota | Kind::Transport
        )
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

    /// Whether the cloud refused because of the time that a request says it is from (AWS General Reference, "Elements of an
    /// AWS API request signature"; the errors are those of each service).
    fn is_of_another_time(&self) -> bool {
        let says = ["Signature expired", "Signature not yet current"];
        self.has_code("RequestTimeTooSkewed")
            || says.iter().any(|words| self.message.starts_with(words))
    }

    /// What is the same as long as a call fails for the same reason: its text names another request each time.
    #[must_use]
    pub fn mark(&self) -> String {
        let kind = || format!("{:?}", self.kind);
        self.code.clone().unwrap_or_else(kind)
    }

    fn because(&self) -> String {
        if self.causes.is_empty() {
            return String::new();
        }
        format!(" ({})", self.causes.join(": "))
    }

    /// What failed, without what is behind it.
    #[must_use]
    pub fn sentence(&self) -> String {
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
            Kind::Unauthorized if self.is_of_another_time() => {
                "; set the clock of this host, from which the time of a request is".to_owned()
            }
            // EC2 says so of credentials that have expired, too.
            Kind::Unauthorized if self.has_code("RequestExpired") => {
                "; renew the credentials, or set the clock of this host if it is wrong".to_owned()
            }
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

/// The errors behind one, each on one line and as it is written for people; what the one before it says as well is
/// left out.
fn causes(error: &dyn std::error::Error) -> Box<[String]> {
    let mut causes: Vec<String> = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = match cause.downcast_ref::<ErrorMetadata>() {
            // It writes itself as a structure of Rust.
            Some(answer) => {
                let parts = [answer.code(), answer.message()];
                parts.into_iter().flatten().collect::<Vec<_>>().join(": ")
            }
            None => cause.to_string(),
        };
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let text = lines.join("; ").replace(":; ", ": ");
        // These are names of the SDK's for what the next one says.
        let is_name = ["other", "service error"].contains(&text.as_str())
            || text.starts_with("unhandled error");
        if !is_name && causes.last().is_none_or(|last| !last.contains(&text)) {
            causes.push(text);
        }
        next = cause.source();
    }
    causes.into()
}

/// The error at the bottom of one, in its own words.
pub(super) fn innermost(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(next) = last.source() {
        last = next;
    }
    last.to_string()
}

/// Whether a request was not sent for want of credentials. The SDK gives such an error as one of its connection; what
/// tells it is how the errors of providers are written (`CredentialsError` and `TokenError` of aws-credential-types).
fn without_credentials(causes: &[String]) -> bool {
    let words = ["credential", "access token"];
    causes
        .iter()
        .any(|cause| words.iter().any(|word| cause.contains(word)))
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
        | "InsufficientFreeAddressesInSubnet"
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

    /// An error of the SDK's that has another one behind it.
    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Said(&'static str, #[source] Option<Box<Said>>);

    #[test]
    fn causes_that_only_name_the_next_one_are_left_out() {
        let words = [
            "dispatch failure",
            "other",
            "no credentials",
            "service error",
            "unhandled error (AccessDenied)",
            "AccessDenied: no",
        ];
        let error = words.into_iter().rev();
        let error = error.fold(None, |behind, said| Some(Box::new(Said(said, behind))));
        let found = causes(&*error.unwrap());
        assert_eq!(*found, ["no credentials", "AccessDenied: no"]);
    }

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
            causes: Box::default(),
            request_id: Some("r-1".into()),
            unclear: false,
        };
        assert_eq!(
            error.to_string(),
            "ec2 RunInstances failed (UnauthorizedOperation): You are not authorized; the caller needs valid \
             credentials with ec2:RunInstances [request r-1]"
        );
        assert!(error.is_refusal());
    }
}
