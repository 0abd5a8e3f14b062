//! STS: who calls.

use bytes::Bytes;
use http::{Response, StatusCode};

use super::ACCOUNT_ID;
use super::wire::error::ApiError;
use super::wire::query::Params;
use super::wire::xml::{Xml, response, wrapped};

const NAMESPACE: &str = "https://sts.amazonaws.com/doc/2011-06-15/";

pub(super) fn handle(body: &[u8], request_id: &str) -> Result<Response<Bytes>, ApiError> {
    let mut params = Params::parse(body)?;
    let action = params.require("Action")?;
    params.take("Version");
    if action != "GetCallerIdentity" {
        return Err(ApiError::new(
            "InvalidAction",
            format!("The action {action} is not valid for this web service."),
        ));
    }
    params.finish("")?;
    let result = Xml::children([
        (
            "Arn",
            Xml::text(format!("arn:aws:iam::{ACCOUNT_ID}:user/local")),
        ),
        ("UserId", Xml::text("AIDALOCALPIAASBAKE00")),
        ("Account", Xml::text(ACCOUNT_ID)),
    ]);
    let metadata = Xml::children([("RequestId", Xml::text(request_id))]);
    let text = wrapped(&action, NAMESPACE, Some(&result), &metadata);
    Ok(response(StatusCode::OK, request_id, &text))
}
