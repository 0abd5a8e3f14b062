//! Run Command: what became of the scripts that were sent.

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::driver::{CommandRecord, CommandState};
use super::super::engine::Call;
use super::super::s3::OutputTarget;
use super::super::state::{Command, InstanceState};
use super::super::wire::error::ApiError;
use super::super::wire::json::{epoch, input};
use super::{listed, put_some};

/// The one document there is.
pub const DOCUMENT: &str = "AWS-RunShellScript";
/// How long after sending an invocation is not there yet: SSM is eventually consistent.
const UNSEEN: SignedDuration = SignedDuration::from_millis(60);
/// Characters of output that `GetCommandInvocation` gives.
const STDOUT_LIMIT: usize = 24_000;
const STDERR_LIMIT: usize = 8_000;
/// What marks output that was cut.
const CUT: &str = "\n--output truncated--";
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct GetInvocation {
    command_id: String,
    instance_id: String,
    #[serde(default)]
    plugin_name: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Cancel {
    command_id: String,
    #[serde(default)]
    instance_ids: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct List {
    #[serde(default)]
    command_id: Option<String>,
    #[serde(default)]
    instance_id: Option<String>,
    #[serde(default)]
    max_results: Option<usize>,
    #[serde(default)]
    next_token: Option<String>,
    #[serde(default)]
    details: Option<bool>,
}

/// How an invocation stands: `Status`, `StatusDetails`, `ResponseCode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Verdict {
    status: &'static str,
    details: &'static str,
    code: i32,
}

impl Verdict {
    fn same(status: &'static str, code: i32) -> Self {
        Self {
            status,
            details: status,
            code,
        }
    }

    fn is_over(self) -> bool {
        !matches!(self.status, "Pending" | "InProgress" | "Cancelling")
    }
}

/// What the machine's record and the time make of an invocation.
fn verdict(
    command: &Command,
    record: Option<&CommandRecord>,
    gone: bool,
    now: Timestamp,
) -> Verdict {
    let waited = now.duration_since(command.requested).as_secs();
    let late = u64::try_from(waited).unwrap_or(0) > command.delivery_timeout;
    let cancelling = command.cancelled.is_some();
    let code = record.and_then(|record| record.exit_code).unwrap_or(-1);
    match record.map(|record| record.state) {
        Some(CommandState::Ended) if code == 0 => Verdict::same("Success", code),
        Some(CommandState::Ended) => Verdict::same("Failed", code),
        Some(CommandState::TimedOut) => Verdict {
            status: "TimedOut",
            details: "ExecutionTimedOut",
            code,
        },
        Some(CommandState::Cancelled) => Verdict::same("Cancelled", code),
        Some(CommandState::Lost) => Verdict {
            status: "Failed",
            details: "Undeliverable",
            code: -1,
        },
        Some(CommandState::Running | CommandState::Waiting) | None if gone => Verdict {
            status: "Failed",
            details: "Undeliverable",
            code: -1,
        },
        Some(CommandState::Waiting) | None if late => Verdict {
            status: "TimedOut",
            details: "DeliveryTimedOut",
            code: -1,
        },
        Some(CommandState::Waiting | CommandState::Running) | None if cancelling => {
            Verdict::same("Cancelling", -1)
        }
        Some(CommandState::Waiting) | None => Verdict::same("Pending", -1),
        Some(CommandState::Running) => Verdict::same("InProgress", -1),
    }
}

/// The first `limit` characters, marked if there were more.
fn cut(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        return text.to_owned();
    }
    let kept: String = text.chars().take(limit - CUT.chars().count()).collect();
    kept + CUT
}

/// Instances that a command cannot be sent to.
pub fn invalid_instances(ids: &[&str]) -> ApiError {
    ApiError::new(
        "InvalidInstanceId",
        format!(
            "Instances [[{}]] not in a valid state for account {}",
            ids.join(", "),
            super::super::ACCOUNT_ID
        ),
    )
}

fn unknown_command(id: &str) -> ApiError {
    ApiError::new(
        "InvalidCommandId",
        format!("The command {id} does not exist."),
    )
}

/// How one instance of a command stands.
fn stands(call: &Call<'_>, command: &Command, instance: &str) -> (Verdict, Option<CommandRecord>) {
    let record = call.driver.command(instance, &command.id);
    let state = call
        .state
        .instances
        .get(instance)
        .map(|instance| instance.state);
    let gone = state.is_none_or(|state| state == InstanceState::Terminated);
    (verdict(command, record.as_ref(), gone, call.now), record)
}

/// Whether a command has ended everywhere.
pub fn is_over(call: &Call<'_>, command: &Command) -> bool {
    let mut instances = command.instance_ids.iter();
    instances.all(|id| stands(call, command, id).0.is_over())
}

/// Status of a command as a whole: that of its worst invocation.
fn overall(verdicts: &[Verdict]) -> Verdict {
    let order = [
        "InProgress",
        "Cancelling",
        "Pending",
        "Failed",
        "TimedOut",
        "Cancelled",
    ];
    let worst = order
        .iter()
        .find_map(|name| verdicts.iter().find(|verdict| verdict.status == *name));
    worst.copied().unwrap_or(Verdict::same("Success", 0))
}

/// `Command`, without its parameters.
pub fn describe(call: &Call<'_>, command: &Command) -> Value {
    let verdicts: Vec<_> = command
        .instance_ids
        .iter()
        .map(|id| stands(call, command, id).0)
        .collect();
    let whole = overall(&verdicts);
    let count =
        |matches: fn(&Verdict) -> bool| verdicts.iter().filter(|verdict| matches(verdict)).count();
    let expires =
        i64::try_from(command.delivery_timeout + command.execution_timeout).unwrap_or(i64::MAX);
    let expires = command
        .requested
        .checked_add(SignedDuration::from_secs(expires))
        .unwrap_or(Timestamp::MAX);
    let mut described = json!({
        "CommandId": command.id,
        "DocumentName": command.document,
        "DocumentVersion": "$DEFAULT",
        "Comment": command.comment,
        "ExpiresAfter": epoch(expires),
        "InstanceIds": command.instance_ids,
        "Targets": [],
        "RequestedDateTime": epoch(command.requested),
        "Status": whole.status,
        "StatusDetails": whole.details,
        "TargetCount": command.instance_ids.len(),
        "CompletedCount": count(|verdict| verdict.is_over()),
        "ErrorCount": count(|verdict| verdict.is_over() && verdict.status != "Success"),
        "DeliveryTimedOutCount": count(|verdict| verdict.details == "DeliveryTimedOut"),
        "TimeoutSeconds": command.delivery_timeout,
    });
    if let Some(place) = &command.output {
        put_some(
            &mut described,
            "OutputS3Region",
            Some(place.region.as_str()),
        );
        put_some(
            &mut described,
            "OutputS3BucketName",
            Some(place.bucket.as_str()),
        );
        put_some(
            &mut described,
            "OutputS3KeyPrefix",
            Some(place.prefix.as_str()),
        );
    }
    described
}

/// The URL of what a machine wrote, `stdout` or `stderr`; empty if it goes nowhere.
fn url(call: &Call<'_>, command: &Command, instance: &str, name: &str) -> String {
    let Some(place) = &command.output else {
        return String::new();
    };
    let target = OutputTarget {
        cloud: call.directory.to_owned(),
        bucket: place.bucket.clone(),
        prefix: place.prefix.clone(),
        command_id: command.id.clone(),
    };
    format!(
        "https://s3.{}.amazonaws.com/{}/{}",
        place.region,
        place.bucket,
        target.key(instance, name)
    )
}

pub(super) fn invocation(call: &mut Call<'_>, body: &[u8]) -> Result<Value, ApiError> {
    let get: GetInvocation = input(body)?;
    if let Some(plugin) = get
        .plugin_name
        .filter(|plugin| plugin != "aws:runShellScript")
    {
        return Err(ApiError::new(
            "InvalidPluginName",
            format!("{DOCUMENT} has no plugin {plugin}."),
        ));
    }
    let missing = || {
        ApiError::new(
            "InvocationDoesNotExist",
            "The command ID and managed node ID you specified didn't match any invocations.",
        )
    };
    let command = call
        .state
        .commands
        .get(&get.command_id)
        .ok_or_else(missing)?;
    let is_visible = call.now.duration_since(command.requested) >= UNSEEN;
    if !is_visible || !command.instance_ids.contains(&get.instance_id) {
        return Err(missing());
    }
    let (verdict, record) = stands(call, command, &get.instance_id);
    let record = record.as_ref();
    let stamp = |time: Option<Timestamp>| {
        time.map(|time| time.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string())
            .unwrap_or_default()
    };
    let started = record.and_then(|record| record.started);
    let ended = record
        .and_then(|record| record.ended)
        .filter(|_| verdict.is_over());
    let elapsed = started
        .zip(ended)
        .map(|(started, ended)| ended.duration_since(started));
    let output = record.filter(|_| verdict.is_over());
    Ok(json!({
        "CommandId": command.id,
        "InstanceId": get.instance_id,
        "Comment": command.comment,
        "DocumentName": command.document,
        "DocumentVersion": "$DEFAULT",
        "PluginName": "aws:runShellScript",
        "ResponseCode": verdict.code,
        "ExecutionStartDateTime": stamp(started),
        "ExecutionElapsedTime": elapsed.map(|elapsed| format!("PT{:.3}S", elapsed.as_secs_f64())).unwrap_or_default(),
        "ExecutionEndDateTime": stamp(ended),
        "Status": verdict.status,
        "StatusDetails": verdict.details,
        "StandardOutputContent": output.map(|record| cut(&record.stdout, STDOUT_LIMIT)).unwrap_or_default(),
        "StandardOutputUrl": url(call, command, &get.instance_id, "stdout"),
        "StandardErrorContent": output.map(|record| cut(&record.stderr, STDERR_LIMIT)).unwrap_or_default(),
        "StandardErrorUrl": url(call, command, &get.instance_id, "stderr"),
        "CloudWatchOutputConfig": {"CloudWatchLogGroupName": "", "CloudWatchOutputEnabled": false},
    }))
}

pub(super) fn cancel(call: &mut Call<'_>, body: &[u8]) -> Result<Value, ApiError> {
    let cancel: Cancel = input(body)?;
    let command = call.state.commands.get(&cancel.command_id).cloned();
    let command = command.ok_or_else(|| unknown_command(&cancel.command_id))?;
    let wanted = if cancel.instance_ids.is_empty() {
        &command.instance_ids
    } else {
        &cancel.instance_ids
    };
    let foreign: Vec<_> = wanted
        .iter()
        .filter(|id| !command.instance_ids.contains(id))
        .map(String::as_str)
        .collect();
    if !foreign.is_empty() {
        return Err(invalid_instances(&foreign));
    }
    let mut any = false;
    for instance in wanted {
        if stands(call, &command, instance).0.is_over() {
            continue;
        }
        any = true;
        call.driver
            .cancel_command(instance, &command.id)
            .map_err(|error| ApiError::internal(error.to_string()))?;
    }
    let now = call.now;
    if let Some(command) = call
        .state
        .commands
        .get_mut(&cancel.command_id)
        .filter(|_| any)
    {
        command.cancelled = Some(now);
    }
    Ok(json!({}))
}

fn selected<'a>(call: &'a Call<'_>, list: &List) -> Result<Vec<&'a Command>, ApiError> {
    if let Some(id) = list
        .command_id
        .as_ref()
        .filter(|id| !call.state.commands.contains_key(id))
    {
        return Err(unknown_command(id));
    }
    let mut found: Vec<_> = call
        .state
        .commands
        .values()
        .filter(|command| list.command_id.as_ref().is_none_or(|id| *id == command.id))
        .filter(|command| {
            list.instance_id
                .as_ref()
                .is_none_or(|id| command.instance_ids.contains(id))
        })
        .collect();
    // Newest first.
    found.sort_by(|a, b| (b.requested, &b.id).cmp(&(a.requested, &a.id)));
    Ok(found)
}

pub(super) fn list(call: &mut Call<'_>, body: &[u8]) -> Result<Value, ApiError> {
    let list: List = input(body)?;
    if list.details.is_some() {
        let message = "unknown field `Details`: ListCommandInvocations has it";
        return Err(ApiError::new("ValidationException", message));
    }
    let found = selected(call, &list)?
        .into_iter()
        .map(|command| describe(call, command))
        .collect();
    let asked = (list.max_results, list.next_token.as_deref());
    listed("ListCommands", "Commands", found, asked, 1..=50)
}

pub(super) fn list_invocations(call: &mut Call<'_>, body: &[u8]) -> Result<Value, ApiError> {
    let list: List = input(body)?;
    let mut found = Vec::new();
    for command in selected(call, &list)? {
        for id in &command.instance_ids {
            if list.instance_id.as_ref().is_some_and(|wanted| wanted != id) {
                continue;
            }
            let (verdict, record) = stands(call, command, id);
            let mut item = json!({
                "CommandId": command.id,
                "InstanceId": id,
                "Comment": command.comment,
                "DocumentName": command.document,
                "DocumentVersion": "$DEFAULT",
                "RequestedDateTime": epoch(command.requested),
                "Status": verdict.status,
                "StatusDetails": verdict.details,
                "StandardOutputUrl": url(call, command, id, "stdout"),
                "StandardErrorUrl": url(call, command, id, "stderr"),
                "CommandPlugins": [],
            });
            if list.details == Some(true) {
                let mut plugin = plugin(verdict, record.as_ref());
                if let Some(place) = &command.output {
                    plugin["OutputS3Region"] = json!(place.region);
                    plugin["OutputS3BucketName"] = json!(place.bucket);
                    plugin["OutputS3KeyPrefix"] = json!(place.prefix);
                    plugin["StandardOutputUrl"] = item["StandardOutputUrl"].clone();
                    plugin["StandardErrorUrl"] = item["StandardErrorUrl"].clone();
                }
                item["CommandPlugins"] = json!([plugin]);
            }
            found.push(item);
        }
    }
    let asked = (list.max_results, list.next_token.as_deref());
    listed(
        "ListCommandInvocations",
        "CommandInvocations",
        found,
        asked,
        1..=50,
    )
}

fn plugin(verdict: Verdict, record: Option<&CommandRecord>) -> Value {
    let output = record
        .filter(|_| verdict.is_over())
        .map(|record| record.stdout.as_str());
    let mut plugin = json!({
        "Name": "aws:runShellScript",
        "Status": verdict.status,
        "StatusDetails": verdict.details,
        "ResponseCode": verdict.code,
        // `CommandPlugin$Output` has at most 2,500 characters.
        "Output": cut(output.unwrap_or_default(), 2500),
    });
    put_some(
        &mut plugin,
        "ResponseStartDateTime",
        record.and_then(|record| record.started).map(epoch),
    );
    put_some(
        &mut plugin,
        "ResponseFinishDateTime",
        record.and_then(|record| record.ended).map(epoch),
    );
    plugin
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command() -> Command {
        Command {
            id: "c".into(),
            document: DOCUMENT.into(),
            comment: String::new(),
            instance_ids: vec!["i-1".into()],
            requested: Timestamp::UNIX_EPOCH,
            delivery_timeout: 600,
            execution_timeout: 60,
            cancelled: None,
            output: None,
        }
    }

    fn record(state: CommandState, exit_code: Option<i32>) -> CommandRecord {
        CommandRecord {
            state,
            exit_code,
            started: None,
            ended: None,
            stdout: String::new(),
            stderr: String::new(),
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn statuses() {
        let details = |state, code, now| {
            let verdict = verdict(&command(), Some(&record(state, code)), false, at(now));
            (verdict.status, verdict.details, verdict.code)
        };
        assert_eq!(
            details(CommandState::Waiting, None, 1),
            ("Pending", "Pending", -1)
        );
        assert_eq!(
            details(CommandState::Waiting, None, 601),
            ("TimedOut", "DeliveryTimedOut", -1)
        );
        assert_eq!(
            details(CommandState::Running, None, 601),
            ("InProgress", "InProgress", -1)
        );
        assert_eq!(
            details(CommandState::Ended, Some(0), 9),
            ("Success", "Success", 0)
        );
        assert_eq!(
            details(CommandState::Ended, Some(3), 9),
            ("Failed", "Failed", 3)
        );
        assert_eq!(
            details(CommandState::TimedOut, Some(137), 9),
            ("TimedOut", "ExecutionTimedOut", 137)
        );
        assert_eq!(
            details(CommandState::Lost, None, 9),
            ("Failed", "Undeliverable", -1)
        );
        let gone = verdict(&command(), None, true, at(1));
        assert_eq!(gone.details, "Undeliverable");
    }

    #[test]
    fn long_output_is_cut_to_its_limit_and_marked() {
        let long = "ü".repeat(STDOUT_LIMIT + 1);
        let short = cut(&long, STDOUT_LIMIT);
        assert_eq!(short.chars().count(), STDOUT_LIMIT);
        assert!(short.ends_with("--output truncated--"));
        assert_eq!(cut(&long[..4], STDOUT_LIMIT), "üü");
    }
}
