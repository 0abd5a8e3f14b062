//! SSM: parameters, commands and the agents that take them.

mod catalog;
mod commands;
mod inventory;
mod parameters;
mod send;

use bytes::Bytes;
use http::{Request, Response};
use serde_json::Value;

use super::engine::{Call, JsonOperation, answer_json};
use super::wire::error::ApiError;
use super::wire::page_token;

/// Every operation there is, by name.
const OPERATIONS: &[(&str, JsonOperation)] = &[
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
    let service = ("ssm", "AmazonSSM.");
    answer_json(call, request, request_id, service, OPERATIONS)
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

/// The answer of a list: the part of it that is asked for, as `member`, and the next token.
fn listed(
    operation: &str,
    member: &str,
    items: Vec<Value>,
    (max, token): (Option<usize>, Option<&str>),
    limits: std::ops::RangeInclusive<usize>,
) -> Result<Value, ApiError> {
    let max = max_results(max, limits)?;
    let (items, token) = page(operation, items, max, token)?;
    let mut answer = Value::Object(serde_json::Map::from_iter([(
        member.to_owned(),
        items.into(),
    )]));
    put_some(&mut answer, "NextToken", token);
    Ok(answer)
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
