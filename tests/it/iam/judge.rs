//! Judges requests by a policy, as IAM does: a request passes if a statement allows each action on each resource.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use piaas_bake::aws::Clients;
use serde_json::Value;

use super::asks::{self, Ask, Context};

/// A policy, and what has come of it so far.
pub struct Judge {
    statements: Vec<Value>,
    /// Somebody who may do everything, to look up tags.
    clients: Clients,
    denied: Mutex<Vec<String>>,
    /// Statements and actions of theirs that were needed.
    used: Mutex<BTreeSet<(String, String)>>,
}

impl std::fmt::Debug for Judge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Judge").finish_non_exhaustive()
    }
}

/// A value, or a list of them.
pub fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::Array(all) => all.iter().filter_map(Value::as_str).collect(),
        one => one.as_str().into_iter().collect(),
    }
}

/// IAM's wildcards: `*` for any text, `?` for any character.
fn like(pattern: &str, text: &str) -> bool {
    let mut pattern_chars = pattern.chars();
    match pattern_chars.next() {
        None => text.is_empty(),
        Some('*') => {
            let rest = pattern_chars.as_str();
            let ends = text.char_indices().map(|(at, _)| at).chain([text.len()]);
            let mut tails = ends.map(|at| &text[at..]);
            tails.any(|tail| like(rest, tail))
        }
        Some(wanted) => {
            let mut chars = text.chars();
            let first = chars.next();
            first.is_some_and(|first| wanted == '?' || wanted == first)
                && like(pattern_chars.as_str(), chars.as_str())
        }
    }
}

/// IAM User Guide, "IAM JSON policy elements: Condition operators". A key that the request does not have meets no condition
/// but that it is not there.
fn holds(condition: &Value, context: &Context) -> bool {
    let Some(operators) = condition.as_object() else {
        return true;
    };
    operators.iter().all(|(operator, keys)| {
        let keys = keys.as_object().expect("an operator has keys");
        keys.iter().all(|(key, wanted)| {
            let found = context.get(&key.to_lowercase());
            let wanted = texts(wanted);
            let any = |holds: &dyn Fn(&str, &str) -> bool| {
                let found = found.map(Vec::as_slice).unwrap_or_default();
                found
                    .iter()
                    .any(|found| wanted.iter().any(|wanted| holds(wanted, found)))
            };
            match operator.as_str() {
                "Null" => wanted == [if found.is_none() { "true" } else { "false" }],
                "StringEquals" | "Bool" => any(&|wanted, found| wanted == found),
                "StringLike" | "ArnLike" => any(&like),
                "NumericLessThanEquals" => any(&|wanted, found| {
                    let number = |text: &str| text.parse::<u64>().expect("a number");
                    number(found) <= number(wanted)
                }),
                other => panic!("the operator {other} is not known here"),
            }
        })
    })
}

impl Judge {
    pub fn new(policy: &Value, clients: Clients) -> Arc<Self> {
        assert_eq!(policy["Version"], "2012-10-17");
        let statements = policy["Statement"].as_array().unwrap().clone();
        assert!(statements.iter().all(|one| one["Effect"] == "Allow"));
        Arc::new(Self {
            statements,
            clients,
            denied: Mutex::default(),
            used: Mutex::default(),
        })
    }

    fn allows(&self, ask: &Ask) -> bool {
        let allows = |statement: &&Value| {
            texts(&statement["Action"])
                .iter()
                .any(|action| like(action, &ask.action))
                && texts(&statement["Resource"])
                    .iter()
                    .any(|arn| like(arn, &ask.resource))
                && holds(&statement["Condition"], &ask.context)
        };
        let Some(statement) = self.statements.iter().find(allows) else {
            return false;
        };
        let id = statement["Sid"].as_str().unwrap().to_owned();
        let mut used = self.used.lock().unwrap();
        used.insert((id, ask.action.clone()));
        true
    }

    /// What is answered to a request that is not allowed.
    pub async fn refuse(&self, request: &http::Request<Bytes>) -> Option<http::Response<Bytes>> {
        let denied = match asks::of(&self.clients, request).await {
            Ok(asks) => asks
                .into_iter()
                .find(|ask| !self.allows(ask))
                .map(|ask| format!("{} on {} with {:?}", ask.action, ask.resource, ask.context)),
            Err(unknown) => Some(format!("not known to the test: {}", unknown.0)),
        }?;
        eprintln!("not allowed: {denied}");
        self.denied.lock().unwrap().push(denied);
        Some(refusal(request))
    }

    /// What was not allowed; nobody is to mind that any more.
    pub fn take_denied(&self) -> Vec<String> {
        std::mem::take(&mut self.denied.lock().unwrap())
    }

    /// Statements with an action that nothing has needed: `Sid action`.
    pub fn unused(&self) -> BTreeSet<String> {
        let used = self.used.lock().unwrap();
        let mut all = BTreeSet::new();
        for statement in &self.statements {
            let id = statement["Sid"].as_str().unwrap();
            for action in texts(&statement["Action"]) {
                if !used.contains(&(id.to_owned(), action.to_owned())) {
                    all.insert(format!("{id} {action}"));
                }
            }
        }
        all
    }

    /// A way to a cloud behind this judge.
    pub fn before(self: &Arc<Self>, way: SharedHttpClient) -> SharedHttpClient {
        SharedHttpClient::new(Way {
            judge: self.clone(),
            way,
        })
    }
}

/// Whatever else a test looks at: what it does has to be allowed.
impl Drop for Judge {
    fn drop(&mut self) {
        let denied = self.take_denied();
        if !std::thread::panicking() {
            assert!(denied.is_empty(), "the policy does not allow: {denied:#?}");
        }
    }
}

/// As each service says it: EC2 with a code of its own.
fn refusal(request: &http::Request<Bytes>) -> http::Response<Bytes> {
    let is = |service: &str| {
        let authorization = request.headers().get("authorization");
        authorization.is_some_and(|value| {
            value
                .to_str()
                .unwrap()
                .contains(&format!("/{service}/aws4_request"))
        })
    };
    let body = if is("ec2") {
        "<Response><Errors><Error><Code>UnauthorizedOperation</Code><Message>not allowed by the policy</Message></Error>\
         </Errors><RequestID>r</RequestID></Response>"
    } else if is("s3") {
        "<Error><Code>AccessDenied</Code><Message>not allowed by the policy</Message></Error>"
    } else if request.headers().contains_key("x-amz-target") {
        r#"{"__type":"AccessDeniedException","message":"not allowed by the policy"}"#
    } else {
        "<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>not allowed by the policy</Message>\
         </Error><RequestId>r</RequestId></ErrorResponse>"
    };
    let status = if request.headers().contains_key("x-amz-target") {
        400
    } else {
        403
    };
    let answer = http::Response::builder().status(status);
    answer.body(Bytes::from_static(body.as_bytes())).unwrap()
}

#[derive(Debug, Clone)]
struct Way {
    judge: Arc<Judge>,
    way: SharedHttpClient,
}

#[derive(Debug, Clone)]
struct Connected {
    judge: Arc<Judge>,
    way: SharedHttpConnector,
}

impl HttpClient for Way {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(Connected {
            judge: self.judge.clone(),
            way: self.way.http_connector(settings, components),
        })
    }
}

impl HttpConnector for Connected {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let this = self.clone();
        HttpConnectorFuture::new(async move {
            let request = request.try_into_http1x().unwrap();
            let request =
                request.map(|body| Bytes::copy_from_slice(body.bytes().unwrap_or_default()));
            if let Some(answer) = this.judge.refuse(&request).await {
                return HttpResponse::try_from(answer.map(SdkBody::from))
                    .map_err(|error| ConnectorError::other(error.into(), None));
            }
            let request = HttpRequest::try_from(request.map(SdkBody::from)).unwrap();
            this.way.call(request).await
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn conditions_hold_as_iam_says() {
        let context = Context::from([
            ("aws:resourcetag/a".to_owned(), vec!["x".to_owned()]),
            ("ec2:hops".to_owned(), vec!["2".to_owned()]),
        ]);
        for (condition, expected) in [
            (json!(null), true),
            (json!({ "Null": { "aws:ResourceTag/a": "false" } }), true),
            (json!({ "Null": { "aws:ResourceTag/b": "false" } }), false),
            (json!({ "Null": { "aws:ResourceTag/b": "true" } }), true),
            (
                json!({ "StringEquals": { "aws:ResourceTag/a": ["y", "x"] } }),
                true,
            ),
            (
                json!({ "StringEquals": { "aws:ResourceTag/b": "x" } }),
                false,
            ),
            (
                json!({ "NumericLessThanEquals": { "ec2:hops": "1" } }),
                false,
            ),
            (
                json!({ "ArnLike": { "aws:ResourceTag/a": "*" }, "Bool": { "ec2:hops": "3" } }),
                false,
            ),
        ] {
            assert_eq!(holds(&condition, &context), expected, "{condition}");
        }
    }

    #[test]
    fn wildcards_reach_across_slashes_and_no_further_than_they_say() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("arn:*/latest", "arn:a/b/latest", true),
            ("arn:*/latest", "arn:a/latest/x", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("a", "ab", false),
        ] {
            assert_eq!(like(pattern, text), expected, "{pattern} {text}");
        }
    }
}
