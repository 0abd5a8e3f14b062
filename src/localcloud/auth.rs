//! Who asks, and whether the signature is right; the errors where not, as each protocol names them. S3 has its own.

use bytes::Bytes;
use http::{Request, StatusCode};
use jiff::{SignedDuration, Timestamp};

use super::sessions::{Identity, Refused};
use super::wire::Service;
use super::wire::error::ApiError;
use super::wire::sigv4::{Authorization, Fault};
use super::{regions, s3, sessions};

/// How far a request's date may lie from ours.
fn tolerance(service: Service) -> SignedDuration {
    // EC2 says 15 minutes (EC2 API Reference, "Error codes", RequestExpired); the others say 5 in their message.
    SignedDuration::from_mins(if service == Service::Ec2 { 15 } else { 5 })
}

/// The signature of a request, its service, and who calls.
pub(super) fn authenticate(
    request: &Request<Bytes>,
    now: Timestamp,
) -> Result<(Authorization, Service, Identity), (Service, ApiError)> {
    let authorization = Authorization::read(request).map_err(|fault| {
        let service = guess(request);
        (service, refusal(service, fault))
    })?;
    let Some(service) = Service::from_scope(&authorization.service) else {
        let service = guess(request);
        let message = format!(
            "The local cloud has no service {}; it has ec2, autoscaling, ssm, secretsmanager, sts, \
             imagebuilder and s3.",
            authorization.service
        );
        let code = if matches!(service, Service::Ssm | Service::Secrets) {
            "UnknownOperationException"
        } else {
            "InvalidAction"
        };
        return Err((service, ApiError::new(code, message)));
    };
    let (caller, secret) = sessions::caller(&authorization, now).map_err(|why| {
        let error = match why {
            Refused::UnknownKey | Refused::WrongToken => unknown_key(service),
            Refused::Expired => expired_token(service),
        };
        (service, error)
    })?;
    if now.duration_since(authorization.time).abs() > tolerance(service) {
        return Err((service, expired(service, authorization.time, now)));
    }
    authorization
        .verify(request, &secret)
        .map_err(|fault| (service, refusal(service, fault)))?;
    if !regions::exists(&authorization.region) {
        return Err((service, no_region(service, &authorization.region)));
    }
    Ok((authorization, service, caller))
}

/// The protocol of a request without a readable signature.
pub(super) fn guess<B: AsRef<[u8]>>(request: &Request<B>) -> Service {
    if s3::is_ours(request) {
        return Service::S3;
    }
    let target = request
        .headers()
        .get("x-amz-target")
        .and_then(|value| value.to_str().ok());
    if let Some(target) = target {
        if target.starts_with("secretsmanager.") {
            Service::Secrets
        } else {
            Service::Ssm
        }
    } else if request.uri().path() != "/" {
        Service::ImageBuilder
    } else if says(request, b"Version=2011-06-15") {
        Service::Sts
    } else if says(request, b"Version=2011-01-01") {
        Service::AutoScaling
    } else {
        Service::Ec2
    }
}

fn says<B: AsRef<[u8]>>(request: &Request<B>, text: &[u8]) -> bool {
    let mut windows = request.body().as_ref().windows(text.len());
    windows.any(|window| window == text)
}

/// Credentials that are refused: EC2 has an error of its own, the query services have one code, the JSON services another.
fn refused(service: Service, ec2: ApiError, query: &str, json: &str, message: &str) -> ApiError {
    match service {
        Service::Ec2 => ec2,
        Service::Sts | Service::AutoScaling => {
            ApiError::new(query, message).with_status(StatusCode::FORBIDDEN)
        }
        Service::Ssm | Service::Secrets => ApiError::new(json, message),
        Service::ImageBuilder => ApiError::new(json, message).with_status(StatusCode::FORBIDDEN),
        Service::S3 => s3::not_here(),
    }
}

fn request_expired() -> ApiError {
    ApiError::new("RequestExpired", "Request has expired.")
}

fn unknown_key(service: Service) -> ApiError {
    let message = "The security token included in the request is invalid.";
    let (query, json) = ("InvalidClientTokenId", "UnrecognizedClientException");
    refused(service, auth_failure(), query, json, message)
}

/// Codes: "Common Errors" of the API references; EC2 has the one of a request that is too old ("Error codes").
fn expired_token(service: Service) -> ApiError {
    let message = "The security token included in the request is expired";
    let (query, json) = ("ExpiredToken", "ExpiredTokenException");
    refused(service, request_expired(), query, json, message)
}

/// AWS has no endpoint there, so a client finds no host. Where a request gets to an endpoint of another region, it is
/// refused for its signature's scope, in these words.
fn no_region(service: Service, region: &str) -> ApiError {
    let code = refusal(service, Fault::Mismatch);
    let message = format!("Credential should be scoped to a valid region, not '{region}'.");
    ApiError { message, ..code }
}

fn auth_failure() -> ApiError {
    ApiError::new(
        "AuthFailure",
        "AWS was not able to validate the provided access credentials",
    )
    .with_status(StatusCode::UNAUTHORIZED)
}

fn refusal(service: Service, fault: Fault) -> ApiError {
    let mismatch = "The request signature we calculated does not match the signature you provided. Check your AWS \
                    Secret Access Key and signing method. Consult the service documentation for details.";
    let missing = "Missing Authentication Token";
    let malformed = "Authorization header requires 'Credential', 'Signature' and 'SignedHeaders' parameters and an \
                     'X-Amz-Date' header of the credential's date.";
    let (code, message) = match (fault, service) {
        (_, Service::S3) => return s3::not_here(),
        (Fault::Mismatch, Service::Ec2) => return auth_failure(),
        (Fault::Mismatch, Service::Sts | Service::AutoScaling) => {
            ("SignatureDoesNotMatch", mismatch)
        }
        (Fault::Mismatch, Service::Ssm | Service::Secrets | Service::ImageBuilder) => {
            ("InvalidSignatureException", mismatch)
        }
        (Fault::Missing, Service::Ec2 | Service::Sts | Service::AutoScaling) => {
            ("MissingAuthenticationToken", missing)
        }
        (Fault::Missing, Service::Ssm | Service::Secrets | Service::ImageBuilder) => {
            ("MissingAuthenticationTokenException", missing)
        }
        (Fault::Malformed, Service::Ec2 | Service::Sts | Service::AutoScaling) => {
            ("IncompleteSignature", malformed)
        }
        (Fault::Malformed, Service::Ssm | Service::Secrets | Service::ImageBuilder) => {
            ("IncompleteSignatureException", malformed)
        }
    };
    let status = if matches!(service, Service::Ssm | Service::Secrets) {
        StatusCode::BAD_REQUEST
    } else {
        StatusCode::FORBIDDEN
    };
    ApiError::new(code, message).with_status(status)
}

fn expired(service: Service, signed: Timestamp, now: Timestamp) -> ApiError {
    let stamp = |time: Timestamp| time.strftime("%Y%m%dT%H%M%SZ").to_string();
    let limit = tolerance(service);
    let message = if signed < now {
        let edge = now - limit;
        format!(
            "Signature expired: {} is now earlier than {} ({} - 5 min.)",
            stamp(signed),
            stamp(edge),
            stamp(now)
        )
    } else {
        let edge = now + limit;
        format!(
            "Signature not yet current: {} is still later than {} ({} + 5 min.)",
            stamp(signed),
            stamp(edge),
            stamp(now)
        )
    };
    let (query, json) = ("SignatureDoesNotMatch", "InvalidSignatureException");
    refused(service, request_expired(), query, json, &message)
}
