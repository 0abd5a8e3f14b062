//! Refusals for want of room: another type or subnet may have it, or the same one later.

use aws_sdk_ec2::error::ProvideErrorMetadata as _;
use aws_sdk_ec2::operation::run_instances::RunInstancesError;
use aws_smithy_runtime_api::client::interceptors::context::InterceptorContext;
use aws_smithy_runtime_api::client::retries::classifiers::{
    ClassifyRetry, RetryAction, RetryClassifierPriority,
};

use super::Error;

/// What a refused launch says about its type and its subnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// There is none now ("Insufficient instance capacity": minutes later there may be some).
    Full,
    /// There is none until the account changes, or never: a quota of this type, or a zone that does not offer it.
    Closed,
}

impl Room {
    /// `None` for what has nothing to do with room. Codes: EC2 API Reference, "Error codes".
    #[must_use]
    pub fn of(error: &Error) -> Option<Self> {
        match error.code.as_deref()? {
            "InsufficientInstanceCapacity" | "InsufficientFreeAddressesInSubnet" => {
                Some(Self::Full)
            }
            "InstanceLimitExceeded" | "VcpuLimitExceeded" | "Unsupported" => Some(Self::Closed),
            _ => None,
        }
    }
}

/// EC2 gives "insufficient capacity" as an error of its own, status 500, which the SDK would ask for again some minutes long:
/// there are other places to ask for first.
#[derive(Debug)]
pub(crate) struct AskElsewhere;

impl ClassifyRetry for AskElsewhere {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        let error = context
            .output_or_error()
            .and_then(Result::err)
            .and_then(|error| error.as_operation_error())
            .and_then(|error| error.downcast_ref::<RunInstancesError>());
        match error.and_then(|error| error.code()) {
            Some("InsufficientInstanceCapacity") => RetryAction::RetryForbidden,
            _ => RetryAction::NoActionIndicated,
        }
    }

    fn name(&self) -> &'static str {
        "AskElsewhere"
    }

    fn priority(&self) -> RetryClassifierPriority {
        RetryClassifierPriority::run_after(RetryClassifierPriority::transient_error_classifier())
    }
}
