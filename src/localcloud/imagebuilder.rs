//! Image Builder: this account has no images there.

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::wire::constraint;
use super::wire::error::ApiError;
use super::wire::json;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ListImages {
    #[serde(default)]
    owner: Option<String>,
    #[serde(default, rename = "filters")]
    _filters: Vec<Value>,
    #[serde(default, rename = "byName")]
    _by_name: Option<bool>,
    #[serde(default)]
    max_results: Option<u32>,
    #[serde(default)]
    next_token: Option<String>,
    #[serde(default, rename = "includeDeprecated")]
    _include_deprecated: Option<bool>,
}

/// There are none, so whatever is asked for is not among them; what cannot be asked for is refused all the same.
impl ListImages {
    fn check(&self) -> Result<(), ApiError> {
        let invalid = |message: String| ApiError::new("ValidationException", message);
        const OWNERS: [&str; 5] = ["Self", "Shared", "Amazon", "ThirdParty", "AWSMarketplace"];
        if let Some(owner) = self.owner.as_deref().filter(|one| !OWNERS.contains(one)) {
            return Err(invalid(format!(
                "1 validation error detected: Value '{owner}' at 'owner' failed to satisfy constraint: Member must satisfy \
                 enum value set: [{}]",
                OWNERS.join(", ")
            )));
        }
        if let Some(max) = self.max_results.filter(|max| !(1..=100).contains(max)) {
            return Err(invalid(format!(
                "1 validation error detected: Value '{max}' at 'maxResults' failed to satisfy constraint: Member must have \
                 value from 1 to 100"
            )));
        }
        if let Some(token) = &self.next_token {
            constraint::length("nextToken", token, 1..=65_535).map_err(invalid)?;
            // No page was ever given out.
            return Err(ApiError::new(
                "InvalidPaginationTokenException",
                "The nextToken is not valid.",
            ));
        }
        Ok(())
    }
}

pub(super) fn handle(
    request: &Request<Bytes>,
    request_id: &str,
) -> Result<Response<Bytes>, ApiError> {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/GetImage") => {
            let query = request.uri().query().unwrap_or_default();
            let arn = form_urlencoded::parse(query.as_bytes())
                .find_map(|(name, value)| {
                    (name == "imageBuildVersionArn").then(|| value.into_owned())
                })
                .ok_or_else(|| {
                    ApiError::new("InvalidRequestException", "imageBuildVersionArn is missing")
                })?;
            Err(ApiError::new(
                "ResourceNotFoundException",
                format!("The requested image {arn} does not exist."),
            )
            .with_status(StatusCode::NOT_FOUND))
        }
        (&Method::POST, "/ListImages") => {
            json::input::<ListImages>(request.body())?.check()?;
            let body = json!({"requestId": request_id, "imageVersionList": []});
            Ok(json::response(
                StatusCode::OK,
                json::REST_JSON,
                request_id,
                &body,
            ))
        }
        (method, path) => Err(ApiError::new(
            "UnknownOperationException",
            format!("The local cloud does not have the operation {method} {path} of imagebuilder."),
        )),
    }
}
