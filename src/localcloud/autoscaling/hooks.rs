//! Lifecycle hooks: instances wait until somebody completes the action, or its time is over.

use std::collections::BTreeMap;

use jiff::SignedDuration;

use super::super::engine::Call;
use super::super::wire::error::ApiError;
use super::super::wire::query::Params;
use super::super::wire::xml::Xml;
use super::records::{ActionResult, Group, Hook, LifecycleAction, Transition};
use super::{invalid, nothing, text, texts, with_group};

/// Hooks of one group (User Guide, "Quotas").
const MOST: usize = 50;
/// Seconds of a hook that names none, and the bounds (`PutLifecycleHook`, `HeartbeatTimeout`).
const HEARTBEAT: i64 = 3600;
const BOUNDS: std::ops::RangeInclusive<i64> = 30..=7200;

const LAUNCHING: &str = "autoscaling:EC2_INSTANCE_LAUNCHING";
const TERMINATING: &str = "autoscaling:EC2_INSTANCE_TERMINATING";

fn take_result(params: &mut Params, name: &str) -> Result<Option<ActionResult>, ApiError> {
    params
        .take(name)
        .map(|text| match text.as_str() {
            "CONTINUE" => Ok(ActionResult::Continue),
            "ABANDON" => Ok(ActionResult::Abandon),
            other => Err(invalid(format!(
                "Value ({other}) for parameter {name} is invalid. It must be CONTINUE or ABANDON."
            ))),
        })
        .transpose()
}

/// A hook's settings; what is not given is as `before` has it.
fn take(params: &mut Params, before: Option<&Hook>) -> Result<Hook, ApiError> {
    // Notifications go to nobody here: who wants to know asks, as this tool does.
    // An empty target takes away the one before (`PutLifecycleHook`, `NotificationTargetARN`).
    for (target, shortest) in [("NotificationTargetARN", 0), ("RoleARN", 1)] {
        let value = text(params, target, shortest..=255)?;
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            return Err(invalid(format!(
                "Value ({value}) for parameter {target} is invalid. The local cloud sends no notifications."
            )));
        }
    }
    let transition = match params.take("LifecycleTransition").as_deref() {
        Some(LAUNCHING) => Transition::Launching,
        Some(TERMINATING) => Transition::Terminating,
        Some(other) => {
            return Err(invalid(format!(
                "Invalid lifecycle transition: {other}; there are {LAUNCHING} and {TERMINATING}"
            )));
        }
        None => before
            .map(|hook| hook.transition)
            .ok_or_else(|| invalid("The request must contain the parameter LifecycleTransition"))?,
    };
    let heartbeat: Option<i64> = params.parsed("HeartbeatTimeout")?;
    if let Some(odd) = heartbeat.filter(|seconds| !BOUNDS.contains(seconds)) {
        return Err(invalid(format!(
            "Value ({odd}) for parameter HeartbeatTimeout is invalid. It must be from {} to {} seconds.",
            BOUNDS.start(),
            BOUNDS.end()
        )));
    }
    let result = take_result(params, "DefaultResult")?;
    Ok(Hook {
        transition,
        heartbeat: heartbeat
            .or(before.map(|hook| hook.heartbeat))
            .unwrap_or(HEARTBEAT),
        default_result: result
            .or(before.map(|hook| hook.default_result))
            .unwrap_or(ActionResult::Abandon),
        metadata: text(params, "NotificationMetadata", 1..=4000)?
            .or_else(|| before.and_then(|hook| hook.metadata.clone())),
    })
}

fn check_name(name: &str) -> Result<(), ApiError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_/".contains(c);
    if (1..=255).contains(&name.len()) && name.chars().all(allowed) {
        Ok(())
    } else {
        Err(invalid(format!(
            "Value ({name}) for parameter LifecycleHookName is invalid. It has 1 to 255 letters, digits, -, _ and /."
        )))
    }
}

/// Takes `LifecycleHookSpecificationList`.
pub(super) fn take_specifications(params: &mut Params) -> Result<BTreeMap<String, Hook>, ApiError> {
    let mut hooks = BTreeMap::new();
    let list = params.structures("LifecycleHookSpecificationList.member");
    for (index, mut one) in list.into_iter().enumerate() {
        let name = one.require("LifecycleHookName")?;
        check_name(&name)?;
        let hook = take(&mut one, None)?;
        one.finish(&format!(
            "LifecycleHookSpecificationList.member.{}",
            index + 1
        ))?;
        hooks.insert(name, hook);
    }
    Ok(hooks)
}

pub(super) fn put(call: &mut Call<'_>, mut params: Params) -> Result<Xml, ApiError> {
    let group = params.require("AutoScalingGroupName")?;
    let name = params.require("LifecycleHookName")?;
    check_name(&name)?;
    with_group(call, &group, |_, group| {
        let hook = take(&mut params, group.hooks.get(&name))?;
        params.finish("")?;
        if group.hooks.len() >= MOST && !group.hooks.contains_key(&name) {
            return Err(ApiError::new(
                "LimitExceeded",
                format!("A group has at most {MOST} lifecycle hooks."),
            ));
        }
        group.hooks.insert(name, hook);
        Ok(nothing())
    })
}

pub(super) fn delete(call: &mut Call<'_>, mut params: Params) -> Result<Xml, ApiError> {
    let group = params.require("AutoScalingGroupName")?;
    let name = params.require("LifecycleHookName")?;
    params.finish("")?;
    with_group(call, &group, |_, group| {
        group
            .hooks
            .remove(&name)
            .ok_or_else(|| invalid(format!("No Lifecycle Hook found with name {name}")))?;
        // Instances that it holds up go on: as ABANDON when they launch, as CONTINUE when they end
        // (`DeleteLifecycleHook`).
        for member in group.members.values_mut() {
            let result = if member.lifecycle.is_pending() {
                ActionResult::Abandon
            } else {
                ActionResult::Continue
            };
            for action in &mut member.actions {
                if action.hook == name {
                    action.result.get_or_insert(result);
                }
            }
        }
        Ok(nothing())
    })
}

fn result_name(result: ActionResult) -> &'static str {
    match result {
        ActionResult::Continue => "CONTINUE",
        ActionResult::Abandon => "ABANDON",
    }
}

pub(super) fn describe(call: &mut Call<'_>, mut params: Params) -> Result<Xml, ApiError> {
    let name = params.require("AutoScalingGroupName")?;
    let names = texts(&mut params, "LifecycleHookNames", 1..=255)?;
    params.finish("")?;
    let group = super::group(call.state, &name)?;
    let hooks = group
        .hooks
        .iter()
        .filter(|(name, _)| names.is_empty() || names.contains(name));
    let shown = hooks.map(|(name, hook)| {
        let transition = match hook.transition {
            Transition::Launching => LAUNCHING,
            Transition::Terminating => TERMINATING,
        };
        Xml::children([
            ("LifecycleHookName", Xml::text(name)),
            ("AutoScalingGroupName", Xml::text(&group.name)),
            ("LifecycleTransition", Xml::text(transition)),
            ("HeartbeatTimeout", Xml::text(hook.heartbeat)),
            ("GlobalTimeout", Xml::text(hook.global_timeout())),
            ("DefaultResult", Xml::text(result_name(hook.default_result))),
        ])
        .with_some(
            "NotificationMetadata",
            hook.metadata.as_ref().map(Xml::text),
        )
    });
    Ok(Xml::children([("LifecycleHooks", Xml::members(shown))]))
}

/// The action that a request means: by its token, else by its instance.
fn find<'a>(
    group: &'a mut Group,
    hook: &str,
    token: Option<&str>,
    instance: Option<&str>,
) -> Result<&'a mut LifecycleAction, ApiError> {
    let what = match (token, instance) {
        (Some(token), _) => format!("token {token}"),
        (None, Some(instance)) => format!("instance ID {instance}"),
        (None, None) => {
            return Err(invalid(
                "The request must contain the parameter LifecycleActionToken or InstanceId",
            ));
        }
    };
    let members = group.members.values_mut();
    members
        .filter(|member| instance.is_none_or(|id| member.instance_id == id))
        .flat_map(|member| member.actions.iter_mut())
        .find(|action| {
            action.hook == hook
                && action.result.is_none()
                && token.is_none_or(|token| action.token == token)
        })
        .ok_or_else(|| invalid(format!("No active Lifecycle Action found with {what}")))
}

pub(super) fn complete(call: &mut Call<'_>, mut params: Params) -> Result<Xml, ApiError> {
    let group = params.require("AutoScalingGroupName")?;
    let hook = params.require("LifecycleHookName")?;
    let token = params.take("LifecycleActionToken");
    let instance = params.take("InstanceId");
    let result = take_result(&mut params, "LifecycleActionResult")?
        .ok_or_else(|| invalid("The request must contain the parameter LifecycleActionResult"))?;
    params.finish("")?;
    with_group(call, &group, |_, group| {
        find(group, &hook, token.as_deref(), instance.as_deref())?.result = Some(result);
        Ok(nothing())
    })
}

pub(super) fn heartbeat(call: &mut Call<'_>, mut params: Params) -> Result<Xml, ApiError> {
    let group = params.require("AutoScalingGroupName")?;
    let hook = params.require("LifecycleHookName")?;
    let token = params.take("LifecycleActionToken");
    let instance = params.take("InstanceId");
    params.finish("")?;
    with_group(call, &group, |world, group| {
        let seconds = group.hooks.get(&hook).map_or(0, |hook| hook.heartbeat);
        let action = find(group, &hook, token.as_deref(), instance.as_deref())?;
        let until = world.now + SignedDuration::from_secs(seconds);
        action.deadline = until.min(action.end);
        Ok(nothing())
    })
}
