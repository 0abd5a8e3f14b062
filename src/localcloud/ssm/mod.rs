//! SSM: parameters, commands and the agents that take them.

mod catalog;
mod commands;
mod inventory;
mod parameters;
mod send;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use serde_json::Value;

use super::engine::Call;
use super::wire::error::ApiError;
use super::wire::{json, page_token};

/// Reads its input from the body, answers with a JSON object.
type Operation = fn(&mut Call<'_>, &[u8]) -> Result<Value, ApiError>;

/// Every operation there is, by name.
const OPERATIONS: &[(&str, Operation)] = &[
    ("CancelCommand", commands::cancel),
    ("DeleteParameter", parameters::delete),
    ("DeleteParameters", parameters::delete_several),
    ("DescribeInstanceInformation", inventory::describe),
    ("DescribeParameters", catalog::describe),
    ("GetCommandInvocation", commands::invocation),
    ("GetParameter", parameters::get),
    ("GetParameters", parameters::get_several),
    ("GetParametersByPath", parameters::get_by_path),
    ("ListCommandInvocations", commands::list_invocations),
    ("ListCommands", commands::list),
    ("PutParameter", parameters::put),
    ("SendCommand", send::send),
];

pub(super) fn handle(
    call: &mut Call<'_>,
    request: &Request<Bytes>,
    request_id: &str,
) -> Result<Response<Bytes>, ApiError> {
    let operation = json::operation(request, "AmazonSSM.", "ssm", OPERATIONS)?;
    let answer = operation(call, request.body())?;
    Ok(json::response(
        StatusCode::OK,
        json::JSON_1_1,
        request_id,
        &answer,
    ))
}

/// The part of a list that begins at `token`, which stands for a position, and the next token of the operation.
fn page<T>(
    operation: &str,
    items: Vec<T>,
    max: usize,
    token: Option<&str>,
) -> Result<(Vec<T>, Option<String>), ApiError> {
    let start = match token {
        None => 0,
        Some(token) => page_token::open(operation, token)
            .and_then(|position| position.parse::<usize>().ok())
            .ok_or_else(|| {
                ApiError::new("InvalidNextToken", "The specified token is not valid.")
            })?,
    };
    let end = start.saturating_add(max);
    let next = (end < items.len()).then(|| page_token::seal(operation, &end.to_string()));
    Ok((items.into_iter().skip(start).take(max).collect(), next))
}

/// `MaxResults`, checked against what the operation allows.
fn max_results(
    given: Option<usize>,
    limits: std::ops::RangeInclusive<usize>,
) -> Result<usize, ApiError> {
    let max = given.unwrap_or(*limits.end());
    if limits.contains(&max) {
        return Ok(max);
    }
    Err(ApiError::new(
        "ValidationException",
        format!(
            "1 validation error detected: Value '{max}' at 'maxResults' failed to satisfy constraint: Member must \
             have value from {} to {}",
            limits.start(),
            limits.end()
        ),
    ))
}

/// Adds a member that may not be there.
fn put_some(object: &mut Value, name: &str, value: Option<impl Into<Value>>) {
    if let (Some(members), Some(value)) = (object.as_object_mut(), value) {
        members.insert(name.to_owned(), value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_each_other() {
        let (first, token) = page("ListThings", vec![1, 2, 3], 2, None).unwrap();
        assert_eq!(first, [1, 2]);
        assert_eq!(
            page("ListThings", vec![1, 2, 3], 2, token.as_deref()).unwrap(),
            (vec![3], None)
        );
        for made_up in ["x", "0", "2", "999999"] {
            let error = page("ListThings", vec![1, 2, 3], 2, Some(made_up)).unwrap_err();
            assert_eq!(error.code, "InvalidNextToken", "{made_up}");
        }
    }
}
