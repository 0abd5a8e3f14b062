//! Commands through SSM, with its races and its many ways to end.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use aws_sdk_ssm::types::InstanceInformationStringFilter;

use crate::aws::error::Context as _;
use crate::aws::{Clients, Error, Kind};

/// The document that runs shell scripts.
const DOCUMENT: &str = "AWS-RunShellScript";
/// How long a command may wait for its agent to take it, in seconds (`TimeoutSeconds`, at least 30).
const DELIVERY_TIMEOUT: i32 = 600;
/// The same for a question: an answer that late helps nobody.
const QUESTION_TIMEOUT: i32 = 30;
/// Instances of one `SendCommand` (`InstanceIds`).
const TARGETS: usize = 50;
/// Instances of one filter of `DescribeInstanceInformation`.
const PINGED: usize = 50;
/// Characters of an output in `ListCommandInvocations`.
const OUTPUT: usize = 2500;
/// Between two looks whether a question is answered.
const LOOK: Duration = Duration::from_secs(1);
/// Limits of `executionTimeout` in seconds; what lies outside becomes the default without a word (amazon-ssm-agent,
/// `pluginutil.go`).
const EXECUTION_LIMITS: (u64, u64) = (5, 172_800);

/// How a command stands. From `StatusDetails` of `GetCommandInvocation`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Not over yet.
    Underway,
    Success,
    /// It ran and ended with this exit code.
    Failed(i32),
    /// It ran and was killed at its execution time-out.
    ExecutionTimedOut,
    /// The agent never took it.
    DeliveryTimedOut,
    /// The agent does not answer, or cannot run it.
    Undeliverable,
    Cancelled,
    /// A status that the documentation does not name.
    Other(String),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Underway => f.write_str("is still running"),
            Self::Success => f.write_str("succeeded"),
            Self::Failed(code) => write!(f, "ended with exit code {code}"),
            Self::ExecutionTimedOut => f.write_str("ran into its time-out"),
            Self::DeliveryTimedOut => f.write_str("was never taken by the machine's agent"),
            Self::Undeliverable => f.write_str("could not be delivered to the machine's agent"),
            Self::Cancelled => f.write_str("was cancelled by someone else"),
            Self::Other(status) => write!(f, "has the status {status}"),
        }
    }
}

/// Reads `StatusDetails` (AWS Systems Manager User Guide, "Understanding command statuses").
fn verdict(details: &str, exit_code: i32) -> Verdict {
    match details.replace(' ', "").as_str() {
        "Pending" | "InProgress" | "Delayed" | "Cancelling" => Verdict::Underway,
        "Success" => Verdict::Success,
        "Failed" => Verdict::Failed(exit_code),
        "ExecutionTimedOut" | "TimedOut" => Verdict::ExecutionTimedOut,
        "DeliveryTimedOut" => Verdict::DeliveryTimedOut,
        "Undeliverable" | "Terminated" | "InvalidPlatform" | "AccessDenied" => {
            Verdict::Undeliverable
        }
        "Cancelled" | "Canceled" => Verdict::Cancelled,
        other => Verdict::Other(other.to_owned()),
    }
}

/// A command on its machine.
#[derive(Debug, Clone)]
pub struct Invocation {
    pub verdict: Verdict,
    /// Up to 24,000 characters, and nothing before the command has ended.
    pub stdout: String,
    /// Up to 8,000 characters.
    pub stderr: String,
}

/// Sends `script` to one machine; gives the command's id.
pub(crate) async fn send(
    clients: &Clients,
    instance: &str,
    script: &str,
    timeout: Duration,
    comment: &str,
) -> Result<String, Error> {
    let instances = [instance.to_owned()];
    send_to(
        clients,
        &instances,
        script,
        timeout,
        DELIVERY_TIMEOUT,
        comment,
    )
    .await
}

async fn send_to(
    clients: &Clients,
    instances: &[String],
    script: &str,
    timeout: Duration,
    delivery: i32,
    comment: &str,
) -> Result<String, Error> {
    let (least, most) = EXECUTION_LIMITS;
    let seconds = timeout.as_secs().clamp(least, most);
    let answer = clients
        .ssm
        .send_command()
        .document_name(DOCUMENT)
        .set_instance_ids(Some(instances.to_vec()))
        .parameters("commands", script.lines().map(str::to_owned).collect())
        .parameters("executionTimeout", vec![seconds.to_string()])
        .timeout_seconds(delivery)
        // At most 100 characters (SendCommand, `Comment`).
        .comment(comment.chars().take(100).collect::<String>())
        .send()
        .await
        .call("ssm", "SendCommand")?;
    answer
        .command
        .and_then(|command| command.command_id)
        .ok_or_else(|| Error::incomplete("ssm", "SendCommand", "command id"))
}

/// How a command stands; `None` if SSM does not know it yet, as happens just after sending.
pub(crate) async fn invocation(
    clients: &Clients,
    instance: &str,
    command: &str,
) -> Result<Option<Invocation>, Error> {
    let answer = clients
        .ssm
        .get_command_invocation()
        .command_id(command)
        .instance_id(instance)
        .send()
        .await
        .call("ssm", "GetCommandInvocation");
    match answer {
        Ok(answer) => Ok(Some(Invocation {
            verdict: verdict(
                answer
                    .status_details()
                    .unwrap_or_else(|| answer.status().map_or("", |status| status.as_str())),
                answer.response_code(),
            ),
            stdout: answer.standard_output_content.unwrap_or_default(),
            stderr: answer.standard_error_content.unwrap_or_default(),
        })),
        Err(error) if error.has_code("InvocationDoesNotExist") => Ok(None),
        Err(error) => Err(error),
    }
}

/// Puts one question to many machines, in as few commands as may be; gives the commands and whom they reach.
///
/// # Errors
/// [`Error`] of `SendCommand`, but for machines that SSM does not know.
pub(crate) async fn question<'a>(
    clients: &Clients,
    instances: &'a [String],
    script: &str,
    patience: Duration,
    comment: &str,
) -> Result<Vec<(String, &'a [String])>, Error> {
    let mut sent = Vec::new();
    let mut batches: Vec<&[String]> = instances.chunks(TARGETS).collect();
    while let Some(batch) = batches.pop() {
        match send_to(clients, batch, script, patience, QUESTION_TIMEOUT, comment).await {
            Ok(command) => sent.push((command, batch)),
            // One machine that SSM does not know any more makes it refuse all: the others are asked without it.
            Err(error) if error.has_code("InvalidInstanceId") => {
                if batch.len() > 1 {
                    let (one, other) = batch.split_at(batch.len() / 2);
                    batches.extend([one, other]);
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
}

/// Puts one question to many machines, and waits for the answers until all are there or `patience` is over. A machine
/// that is missing from the result has not answered.
///
/// # Errors
/// [`Error`] of `SendCommand` or `ListCommandInvocations`, but for machines that SSM does not know.
pub(crate) async fn ask(
    clients: &Clients,
    instances: &[String],
    script: &str,
    patience: Duration,
    comment: &str,
) -> Result<BTreeMap<String, Invocation>, Error> {
    let mut answers = BTreeMap::new();
    let sent = question(clients, instances, script, patience, comment).await?;
    let sent = sent.into_iter();
    let mut open: Vec<_> = sent
        .map(|(command, targets)| (command, targets.len()))
        .collect();
    let deadline = clients.clock.now() + patience;
    while !open.is_empty() {
        let mut waiting = Vec::new();
        for (command, targets) in open {
            let over = answered(clients, &command, &mut answers).await?;
            if over < targets {
                waiting.push((command, targets));
            }
        }
        open = waiting;
        if open.is_empty() || clients.clock.now() >= deadline {
            break;
        }
        clients.clock.sleep(LOOK).await;
    }
    Ok(answers)
}

/// Takes the answers to a command; gives how many there are.
async fn answered(
    clients: &Clients,
    command: &str,
    answers: &mut BTreeMap<String, Invocation>,
) -> Result<usize, Error> {
    let mut over = 0;
    let mut token = None;
    loop {
        let page = clients
            .ssm
            .list_command_invocations()
            .command_id(command)
            .details(true)
            .set_next_token(token)
            .send()
            .await
            .call("ssm", "ListCommandInvocations");
        let page = match page {
            Ok(page) => page,
            // Just sent, and not visible everywhere yet.
            Err(error) if error.has_code("InvalidCommandId") => return Ok(0),
            Err(error) => return Err(error),
        };
        for one in page.command_invocations() {
            let Some(instance) = one.instance_id() else {
                continue;
            };
            let plugin = one.command_plugins().first();
            let verdict = verdict(
                one.status_details().unwrap_or_default(),
                plugin.map_or(-1, |plugin| plugin.response_code()),
            );
            if verdict == Verdict::Underway {
                continue;
            }
            over += 1;
            if answers.contains_key(instance) {
                continue;
            }
            let output = plugin
                .and_then(|plugin| plugin.output())
                .unwrap_or_default();
            // Here the output has at most 2,500 characters (`CommandPlugin`, `Output`).
            let whole = if output.chars().count() >= OUTPUT {
                invocation(clients, instance, command).await?
            } else {
                None
            };
            let short = || Invocation {
                verdict,
                stdout: output.to_owned(),
                stderr: String::new(),
            };
            answers.insert(instance.to_owned(), whole.unwrap_or_else(short));
        }
        token = page.next_token.filter(|token| !token.is_empty());
        if token.is_none() {
            return Ok(over);
        }
    }
}

/// What SSM says of the agents of these machines, as [`ping`]; machines that it does not know are missing.
///
/// # Errors
/// [`Error`] of `DescribeInstanceInformation`.
pub(crate) async fn pings(
    clients: &Clients,
    instances: &[String],
) -> Result<BTreeMap<String, String>, Error> {
    let mut found = BTreeMap::new();
    for instances in instances.chunks(PINGED) {
        let filter = InstanceInformationStringFilter::builder()
            .key("InstanceIds")
            .set_values(Some(instances.to_vec()))
            .build();
        let filter = filter
            .map_err(|_| Error::incomplete("ssm", "DescribeInstanceInformation", "filter"))?;
        let mut token = None;
        loop {
            let page = clients
                .ssm
                .describe_instance_information()
                .filters(filter.clone())
                .max_results(50)
                .set_next_token(token)
                .send()
                .await
                .call("ssm", "DescribeInstanceInformation")?;
            found.extend(page.instance_information_list().iter().filter_map(|one| {
                let status = one.ping_status()?.as_str().to_owned();
                Some((one.instance_id()?.to_owned(), status))
            }));
            token = page.next_token.filter(|token| !token.is_empty());
            if token.is_none() {
                break;
            }
        }
    }
    Ok(found)
}

/// What SSM says of the agent of a machine: `Online`, `ConnectionLost`, …; `unregistered` before it first reports.
pub(crate) async fn ping(clients: &Clients, instance: &str) -> Result<String, Error> {
    let filter = InstanceInformationStringFilter::builder()
        .key("InstanceIds")
        .values(instance)
        .build();
    let filter =
        filter.map_err(|_| Error::incomplete("ssm", "DescribeInstanceInformation", "filter"))?;
    let answer = clients
        .ssm
        .describe_instance_information()
        .filters(filter)
        .send()
        .await
        .call("ssm", "DescribeInstanceInformation");
    let unregistered = || "unregistered".to_owned();
    match answer {
        Ok(answer) => Ok(answer
            .instance_information_list()
            .first()
            .and_then(|information| information.ping_status())
            .map_or_else(unregistered, |status| status.as_str().to_owned())),
        // SSM does not know a machine before its agent has registered.
        Err(error) if error.kind == Kind::NotFound => Ok(unregistered()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_documented_status_has_its_verdict() {
        let cases = [
            ("Pending", Verdict::Underway),
            ("In Progress", Verdict::Underway),
            ("InProgress", Verdict::Underway),
            ("Delayed", Verdict::Underway),
            ("Success", Verdict::Success),
            ("Failed", Verdict::Failed(3)),
            ("Execution Timed Out", Verdict::ExecutionTimedOut),
            ("ExecutionTimedOut", Verdict::ExecutionTimedOut),
            ("DeliveryTimedOut", Verdict::DeliveryTimedOut),
            ("Undeliverable", Verdict::Undeliverable),
            ("Terminated", Verdict::Undeliverable),
            ("Cancelled", Verdict::Cancelled),
            ("Brand New", Verdict::Other("BrandNew".into())),
        ];
        for (details, expected) in cases {
            assert_eq!(verdict(details, 3), expected, "{details}");
        }
    }
}
