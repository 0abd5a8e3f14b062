//! Image Builder: this account has no images there.

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::wire::error::ApiError;
use super::wire::json;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ListImages {
    #[serde(default, rename = "owner")]
    _owner: Option<String>,
    #[serde(default, rename = "filters")]
    _filters: Vec<Value>,
    #[serde(default, rename = "byName")]
    _by_name: Option<bool>,
    #[serde(default, rename = "maxResults")]
    _max_results: Option<u32>,
    #[serde(default, rename = "nextToken")]
    _next_token: Option<String>,
    #[serde(default, rename = "includeDeprecated")]
    _include_deprecated: Option<bool>,
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
            json::input::<ListImages>(request.body())?;
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
