//! The expressions of GitHub Actions, as far as our workflows use them. Anything else fails the test.

use serde_json::{Value, json};

/// How the steps before went.
#[derive(Debug, Clone, Copy, Default)]
pub struct Status {
    pub failed: bool,
    pub cancelled: bool,
}

/// A text with all its `${{ … }}` replaced.
pub fn interpolate(text: &str, context: &Value) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${{") {
        let (expression, after) = after.split_once("}}").expect("an expression has an end");
        out.push_str(before);
        out.push_str(&shown(&evaluate(expression, context, Status::default())));
        rest = after;
    }
    out.push_str(rest);
    out
}

/// What an `if:` says. Without a status function it means `success() && (…)`.
pub fn condition(text: &str, context: &Value, status: Status) -> bool {
    let value = truth(&evaluate(text, context, status));
    let asks = ["always()", "cancelled()", "failure()", "success()"];
    if asks.iter().any(|function| text.contains(function)) {
        value
    } else {
        value && !status.failed && !status.cancelled
    }
}

/// The value of an expression: `||` binds less than `&&`, and that less than `==` and `!=`.
pub fn evaluate(expression: &str, context: &Value, status: Status) -> Value {
    let expression = expression.trim();
    if let Some((left, right)) = split(expression, "||") {
        let left = evaluate(left, context, status);
        return if truth(&left) {
            left
        } else {
            evaluate(right, context, status)
        };
    }
    if let Some((left, right)) = split(expression, "&&") {
        let left = evaluate(left, context, status);
        return if truth(&left) {
            evaluate(right, context, status)
        } else {
            left
        };
    }
    for (operator, wanted) in [("==", true), ("!=", false)] {
        if let Some((left, right)) = split(expression, operator) {
            let (left, right) = (
                evaluate(left, context, status),
                evaluate(right, context, status),
            );
            assert!(
                left.is_string() && right.is_string(),
                "only texts are compared: {expression}"
            );
            return json!((left == right) == wanted);
        }
    }
    if let Some(text) = expression
        .strip_prefix('\'')
        .and_then(|rest| rest.strip_suffix('\''))
    {
        assert!(!text.contains('\''), "quotes in quotes: {expression}");
        return json!(text);
    }
    match expression {
        "always()" => return json!(true),
        "cancelled()" => return json!(status.cancelled),
        _ => {}
    }
    if let Some(argument) = expression
        .strip_prefix("fromJSON(")
        .and_then(|rest| rest.strip_suffix(')'))
    {
        let text = shown(&evaluate(argument, context, status));
        return serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{expression}: {error}: {text}"));
    }
    path(expression, context)
}

/// The value at `a.b.c`. What an event does not have is nothing; a context that we do not know is a mistake.
fn path(expression: &str, context: &Value) -> Value {
    let sound = |part: &str| {
        !part.is_empty()
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "_-".contains(c))
    };
    let parts: Vec<&str> = expression.split('.').collect();
    assert!(
        parts.len() > 1 && parts.iter().all(|part| sound(part)),
        "an unknown expression: {expression}"
    );
    assert!(
        context.get(parts[0]).is_some(),
        "an unknown context: {expression}"
    );
    let open = matches!(parts[0], "github" | "inputs");
    let mut value = context;
    for part in parts {
        match value.get(part) {
            Some(next) => value = next,
            None if open => return Value::Null,
            None => panic!("{expression} is not there: {context}"),
        }
    }
    value.clone()
}

/// The parts around an operator that is not inside a text.
fn split<'e>(expression: &'e str, operator: &str) -> Option<(&'e str, &'e str)> {
    let mut quoted = false;
    let found = expression.char_indices().find(|(at, char)| {
        quoted ^= *char == '\'';
        !quoted && expression[*at..].starts_with(operator)
    });
    found.map(|(at, _)| (&expression[..at], &expression[at + operator.len()..]))
}

fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::String(text) => !text.is_empty(),
        other => panic!("neither true nor false: {other}"),
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[test]
fn expressions_are_read_as_github_reads_them() {
    let context =
        json!({ "github": { "event": { "before": "b" } }, "matrix": { "recipe": "a'||'b" } });
    let text = |expression: &str| shown(&evaluate(expression, &context, Status::default()));
    assert_eq!(
        text("github.event.pull_request.base.sha || github.event.before"),
        "b"
    );
    assert_eq!(text(" 'x || y' "), "x || y");
    assert_eq!(
        interpolate("bake ${{ matrix.recipe }} now", &context),
        "bake a'||'b now"
    );
    assert_eq!(text("fromJSON('{\"include\":[]}')"), "{\"include\":[]}");
    let ask =
        |text: &str, failed, cancelled| condition(text, &context, Status { failed, cancelled });
    assert!(ask(
        "github.event.before == 'b' && github.event.before != 'c'",
        false,
        false
    ));
    assert!(!ask("github.event.before == 'b'", true, false));
    assert!(ask("always()", true, true));
    assert!(ask("cancelled()", false, true) && !ask("cancelled()", true, false));
    for unknown in [
        "hashFiles('x')",
        "secrets.X",
        "matrix.other",
        "github",
        "1 + 1",
    ] {
        let result = std::panic::catch_unwind(|| evaluate(unknown, &context, Status::default()));
        assert!(result.is_err(), "{unknown}");
    }
}
