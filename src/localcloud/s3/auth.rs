//! Who asks, by a signature in the header or in the query (S3 API Reference, "Authenticating requests").

use http::{Request, StatusCode};
use jiff::{SignedDuration, Timestamp};

use super::super::sessions::{self, Refused};
use super::super::wire::error::ApiError;
use super::super::wire::sigv4::{Authorization, Fault};

use super::error::{access_denied, error, invalid_request, not_implemented};

/// How far a request's date may lie from ours ("RequestTimeTooSkewed").
const SKEW: SignedDuration = SignedDuration::from_mins(15);
/// `X-Amz-Expires`, limits in seconds.
const EXPIRES: std::ops::RangeInclusive<i64> = 1..=604_800;

/// Scopes of signatures that operations of S3 have which the local cloud has not: directory buckets, Object Lambda.
const RELATIVES: [&str; 2] = ["s3express", "s3-object-lambda"];

/// What a client says of its payload (`x-amz-content-sha256`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// Its SHA-256.
    Sha256([u8; 32]),
    /// Nothing.
    Unsigned,
    /// It comes in chunks of its own, and what is to be known of it behind them.
    Trailer,
}

/// A request whose signature is right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Of the signature.
    pub region: String,
    pub claim: Claim,
}

/// Whether a request is one to S3.
pub fn is_ours<B>(request: &Request<B>) -> bool {
    let header = |name: &str| {
        let value = request.headers().get(name);
        value.and_then(|value| value.to_str().ok())
    };
    let query = request.uri().query().unwrap_or_default();
    if let Some(authorization) = header("authorization") {
        // The last one is Signature Version 2, which only S3 was ever asked with.
        let scopes = std::iter::once("s3").chain(RELATIVES);
        return scopes
            .map(|scope| format!("/{scope}/aws4_request"))
            .any(|scope| authorization.contains(&scope))
            || authorization.starts_with("AWS ");
    }
    if query.contains("X-Amz-Algorithm=") || query.contains("AWSAccessKeyId=") {
        return true;
    }
    // Without a signature: names of buckets begin with a small letter or a digit, paths of Image Builder do not.
    let first = request.uri().path().chars().nth(1);
    header("x-amz-target").is_none()
        && first.is_some_and(|first| first.is_ascii_lowercase() || first.is_ascii_digit())
}

/// Checks the signature of the head of a request.
pub fn authenticate<B>(request: &Request<B>, now: Timestamp) -> Result<Caller, ApiError> {
    let header = |name: &str| {
        let value = request.headers().get(name);
        value.and_then(|value| value.to_str().ok())
    };
    let query = request.uri().query().unwrap_or_default();
    let old = header("authorization").is_some_and(|value| value.starts_with("AWS "));
    if old || query.contains("AWSAccessKeyId=") {
        return Err(invalid_request(
            "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256.",
        ));
    }
    let presigned = header("authorization").is_none();
    let read = if presigned {
        Authorization::read_query(request)
    } else {
        Authorization::read(request)
    };
    let authorization = read.map_err(|fault| match fault {
        Fault::Missing | Fault::Mismatch => access_denied("Access Denied"),
        Fault::Malformed if presigned => query_error(
            "Query-string authentication version 4 requires the X-Amz-Algorithm, X-Amz-Credential, X-Amz-Signature, \
             X-Amz-Date, X-Amz-SignedHeaders, and X-Amz-Expires parameters.",
        ),
        Fault::Malformed => malformed("The authorization header that you provided is not valid."),
    })?;
    if RELATIVES.contains(&authorization.service.as_str()) {
        let what = format!("the operations of {}", authorization.service);
        return Err(not_implemented(&what));
    }
    if authorization.service != "s3" {
        let message = format!(
            "Error parsing the X-Amz-Credential parameter; incorrect service \"{}\". This endpoint belongs to \"s3\".",
            authorization.service
        );
        return Err(if presigned {
            query_error(&message)
        } else {
            malformed(&message)
        });
    }
    let claim = if presigned {
        "UNSIGNED-PAYLOAD"
    } else {
        header("x-amz-content-sha256").ok_or_else(|| {
            invalid_request("Missing required header for this request: x-amz-content-sha256")
        })?
    };
    let (_, secret) = sessions::caller(&authorization, now).map_err(|why| match why {
        Refused::UnknownKey => {
            let message = "The AWS Access Key Id you provided does not exist in our records.";
            error(StatusCode::FORBIDDEN, "InvalidAccessKeyId", message)
                .with("AWSAccessKeyId", &authorization.access_key)
        }
        Refused::WrongToken => {
            let message = "The provided token is malformed or otherwise invalid.";
            error(StatusCode::BAD_REQUEST, "InvalidToken", message)
        }
        Refused::Expired => {
            let message = "The provided token has expired.";
            error(StatusCode::BAD_REQUEST, "ExpiredToken", message)
        }
    })?;
    match &authorization.expires {
        Some(expires) => in_time(&authorization, expires, now)?,
        None => not_skewed(&authorization, now)?,
    }
    authorization
        .verify_with(request, claim, &secret)
        .map_err(|_| {
            error(
                StatusCode::FORBIDDEN,
                "SignatureDoesNotMatch",
                "The request signature we calculated does not match the signature you provided. Check your key and \
                 signing method.",
            )
            .with("AWSAccessKeyId", &authorization.access_key)
        })?;
    Ok(Caller {
        claim: read_claim(claim)?,
        region: authorization.region,
    })
}

fn read_claim(text: &str) -> Result<Claim, ApiError> {
    match text {
        "UNSIGNED-PAYLOAD" => return Ok(Claim::Unsigned),
        "STREAMING-UNSIGNED-PAYLOAD-TRAILER" => return Ok(Claim::Trailer),
        _ if text.starts_with("STREAMING-") => {
            return Err(super::error::header_not_implemented(
                "x-amz-content-sha256",
                text,
            ));
        }
        _ => {}
    }
    let mut sha256 = [0; 32];
    hex::decode_to_slice(text, &mut sha256).map_err(|_| {
        super::error::invalid_argument(
            "x-amz-content-sha256",
            text,
            "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, STREAMING-UNSIGNED-PAYLOAD-TRAILER, \
             STREAMING-AWS4-HMAC-SHA256-PAYLOAD, STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER, \
             STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD, STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD-TRAILER or a valid \
             sha256 value.",
        )
    })?;
    Ok(Claim::Sha256(sha256))
}

pub(crate) fn not_skewed(authorization: &Authorization, now: Timestamp) -> Result<(), ApiError> {
    if now.duration_since(authorization.time).abs() <= SKEW {
        return Ok(());
    }
    let message = "The difference between the request time and the current time is too large.";
    Err(
        error(StatusCode::FORBIDDEN, "RequestTimeTooSkewed", message)
            .with("RequestTime", stamp(authorization.time))
            .with("ServerTime", stamp(now))
            .with("MaxAllowedSkewMilliseconds", SKEW.as_millis()),
    )
}

/// Whether a presigned URL is valid now.
pub(crate) fn in_time(
    authorization: &Authorization,
    expires: &str,
    now: Timestamp,
) -> Result<(), ApiError> {
    let seconds: i64 = expires
        .parse()
        .map_err(|_| query_error("X-Amz-Expires should be a number"))?;
    if seconds < *EXPIRES.start() {
        return Err(query_error("X-Amz-Expires must be non-negative"));
    }
    if seconds > *EXPIRES.end() {
        return Err(query_error(
            "X-Amz-Expires must be less than a week (in seconds); that is, the given X-Amz-Expires must be less than \
             604800 seconds",
        ));
    }
    let lasts = now.duration_since(authorization.time);
    if lasts < -SKEW {
        return Err(access_denied("Request is not valid yet")
            .with("X-Amz-Date", stamp(authorization.time))
            .with("ServerTime", stamp(now)));
    }
    let expires = SignedDuration::from_secs(seconds);
    if lasts >= expires {
        // Only now, when it lies in the past: the last date that can be written has no week after it.
        let end = authorization.time + expires;
        return Err(access_denied("Request has expired")
            .with("X-Amz-Expires", seconds)
            .with("Expires", stamp(end))
            .with("ServerTime", stamp(now)));
    }
    Ok(())
}

fn stamp(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn query_error(message: &str) -> ApiError {
    error(
        StatusCode::BAD_REQUEST,
        "AuthorizationQueryParametersError",
        message,
    )
}

fn malformed(message: &str) -> ApiError {
    error(
        StatusCode::BAD_REQUEST,
        "AuthorizationHeaderMalformed",
        message,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_valid_from_its_date_on_and_any_date_can_be_judged() {
        let judge = |stamp: &str, now: Timestamp| {
            let uri = format!(
                "/b/k?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=A/{}/us-east-1/s3/aws4_request&X-Amz-Date={stamp}\
                 &X-Amz-Expires=604800&X-Amz-SignedHeaders=host&X-Amz-Signature=ab",
                &stamp[..8]
            );
            let request = Request::get(uri).body(()).unwrap();
            let authorization = Authorization::read_query(&request).unwrap();
            in_time(&authorization, "604800", now)
        };
        let now: Timestamp = "2026-01-08T00:00:00Z".parse().unwrap();
        assert_eq!(judge("20260101T000001Z", now), Ok(()));
        assert_eq!(judge("20260108T001500Z", now), Ok(()));
        for (stamp, message) in [
            ("20260101T000000Z", "Request has expired"),
            ("20260108T001501Z", "Request is not valid yet"),
            // A week later no time can be written.
            ("99991230T215959Z", "Request is not valid yet"),
        ] {
            let error = judge(stamp, now).unwrap_err();
            assert_eq!(error.message, message, "{stamp}");
        }
        assert_eq!(judge("99991230T215959Z", Timestamp::MAX), Ok(()));
    }
}
