//! A signed request of an AWS API (Signature Version 4), without the SDK.

use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use bytes::Bytes;
use http::Request;
use http_body_util::Full;

use super::imds::{Identity, Keys};

/// Names another endpoint; the variable is the SDKs' own.
const ENDPOINT_VARIABLE: &str = "AWS_ENDPOINT_URL";

/// The endpoint of a service where an instance is, without a slash at its end.
#[must_use]
pub fn endpoint(service: &str, identity: &Identity) -> String {
    let endpoint = std::env::var(ENDPOINT_VARIABLE)
        .ok()
        .filter(|endpoint| !endpoint.is_empty())
        .unwrap_or_else(|| format!("https://{service}.{}.{}", identity.region, identity.domain));
    endpoint.trim_end_matches('/').to_owned()
}

/// What is called.
#[derive(Debug)]
pub struct Call<'a> {
    /// Absolute, without a slash at its end.
    pub endpoint: &'a str,
    pub region: &'a str,
    /// The name that requests are signed for, such as `ssm`.
    pub service: &'a str,
    pub headers: &'a [(&'static str, &'a str)],
}

/// A POST with this body, signed with the keys of the instance's role.
///
/// # Errors
/// Why it cannot be made or signed.
pub fn signed(
    call: &Call<'_>,
    body: String,
    keys: &Keys,
    now: SystemTime,
) -> Result<Request<Full<Bytes>>, String> {
    let uri = format!("{}/", call.endpoint);
    let mut request = Request::post(&uri);
    for (name, value) in call.headers {
        request = request.header(*name, *value);
    }
    let mut request = request
        .body(Full::new(Bytes::from(body.clone())))
        .map_err(|error| error.to_string())?;
    let identity = Credentials::new(
        &keys.access_key_id,
        &keys.secret_access_key,
        Some(keys.token.clone()),
        None,
        "instance-role",
    )
    .into();
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region(call.region)
        .name(call.service)
        .time(now)
        .settings(SigningSettings::default())
        .build()
        .map_err(|error| error.to_string())?
        .into();
    let headers = request
        .headers()
        .iter()
        .filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
    let signable =
        SignableRequest::new("POST", &uri, headers, SignableBody::Bytes(body.as_bytes()))
            .map_err(|error| error.to_string())?;
    let (instructions, _) = sign(signable, &parameters)
        .map_err(|error| error.to_string())?
        .into_parts();
    instructions.apply_to_request_http1x(&mut request);
    Ok(request)
}
