//! Starting, stopping, rebooting and terminating; and the console.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::super::driver::{Driver, DriverError};
use super::super::engine::Call;
use super::super::quotas;
use super::super::state::{Instance, InstanceState};
use super::super::wire::error::ApiError;
use super::super::wire::query::Params;
use super::super::wire::xml::Xml;
use super::describe::{check_ids, state_item};
use super::lifecycle::{by_user, refresh, set_state};
use super::{done, time};

fn take_ids(params: &mut Params) -> Result<Vec<String>, ApiError> {
    let ids = params.texts("InstanceId");
    if ids.is_empty() {
        return Err(ApiError::new(
            "MissingParameter",
            "The request must contain the parameter InstanceId",
        ));
    }
    Ok(ids)
}

fn wrong_state(instance: &Instance, what: &str) -> ApiError {
    ApiError::new(
        "IncorrectInstanceState",
        format!(
            "The instance '{}' is not in a state from which it can be {what}.",
            instance.id
        ),
    )
}

fn failed(error: &DriverError) -> ApiError {
    ApiError::internal(error.to_string())
}

/// What a request changes: allowed from which states (`Ok(false)`: nothing to do), and how.
struct Change {
    allowed: fn(&Instance) -> Result<bool, ApiError>,
    act: fn(&dyn Driver, &str, bool) -> Result<(), DriverError>,
    to: InstanceState,
    by_user: bool,
}

/// Checks all instances before the first is changed.
fn change(
    call: &mut Call<'_>,
    ids: &[String],
    force: bool,
    change: &Change,
) -> Result<Xml, ApiError> {
    check_ids(call.state, ids)?;
    let mut before = Vec::new();
    for id in ids {
        if let Some(instance) = call.state.instances.get(id) {
            before.push((id, instance.state, (change.allowed)(instance)?));
        }
    }
    for (id, _, act) in &before {
        if !*act {
            continue;
        }
        (change.act)(call.driver, id, force).map_err(|error| failed(&error))?;
        if let Some(instance) = call.state.instances.get_mut(id) {
            if change.by_user {
                by_user(instance, change.to, call.now);
            } else {
                instance.first_launch = Some(instance.attached());
                instance.launch_time = call.now;
                instance.transition_reason = String::new();
                set_state(instance, change.to, None, call.now);
            }
        }
    }
    let items = before.iter().filter_map(|(id, previous, _)| {
        let instance = call.state.instances.get(id)?;
        Some(Xml::children([
            ("instanceId", Xml::text(id)),
            ("currentState", state_item(instance.state)),
            ("previousState", state_item(*previous)),
        ]))
    });
    let answer = Xml::children([("instancesSet", Xml::list(items))]);
    refresh(call.state, call.driver, call.now);
    Ok(answer)
}

pub(super) fn start(call: &mut Call<'_>, mut params: Params) -> Result<Xml, ApiError> {
    let ids = take_ids(&mut params)?;
    call.accept(&params)?;
    quotas::check_start(call, &ids)?;
    let starting = Change {
        allowed: |instance| match instance.state {
            InstanceState::Stopped => Ok(true),
            InstanceState::Pending | InstanceState::Running => Ok(false),
            _ => Err(wrong_state(instance, "started")),
        },
        act: |driver, id, _| driver.start(id),
        to: InstanceState::Pending,
        by_user: false,
    };
    change(call, &ids, false, &starting)
}

pub(super) fn stop(call: &mut Call<'_>, mut params: Params) -> Result<Xml, ApiError> {
    let ids = take_ids(&mut params)?;
    let force = params.flag("Force")?;
    if params.flag("Hibernate")? {
        return Err(ApiError::new(
            "UnsupportedHibernationConfiguration",
            "Machines here cannot hibernate.",
        ));
    }
    call.accept(&params)?;
    let stopping = Change {
        allowed: |instance| match instance.state {
            InstanceState::Pending | InstanceState::Running if instance.spot.is_some() => {
                Err(ApiError::new(
                    "UnsupportedOperation",
                    format!(
                        "You can't stop the Spot Instance '{}' because it is associated with a one-time Spot Instance \
                         request. You can only stop Spot Instances associated with persistent Spot Instance requests.",
                        instance.id
                    ),
                ))
            }
            InstanceState::Pending | InstanceState::Running => Ok(true),
            InstanceState::Stopping | InstanceState::Stopped => Ok(false),
            _ => Err(wrong_state(instance, "stopped")),
        },
        act: |driver, id, force| driver.stop(id, force),
        to: InstanceState::Stopping,
        by_user: true,
    };
    change(call, &ids, force, &stopping)
}

pub(super) fn terminate(call: &mut Call<'_>, mut params: Params) -> Result<Xml, ApiError> {
    let ids = take_ids(&mut params)?;
    // It is forced after the grace time in any case, which is all that `Force` asks for.
    params.flag("Force")?;
    let at_once = params.flag("SkipOsShutdown")?;
    call.accept(&params)?;
    let ending = Change {
        allowed: |instance| {
            if instance.disable_api_termination && !instance.state.is_ending() {
                return Err(ApiError::new(
                    "OperationNotPermitted",
                    format!(
                        "The instance '{}' may not be terminated. Modify its 'disableApiTermination' instance \
                         attribute and try again.",
                        instance.id
                    ),
                ));
            }
            Ok(instance.state != InstanceState::Terminated)
        },
        act: |driver, id, at_once| match at_once {
            true => driver.terminate(id),
            false => driver.shut_down(id),
        },
        to: InstanceState::ShuttingDown,
        by_user: true,
    };
    change(call, &ids, at_once, &ending)
}

pub(super) fn reboot(call: &mut Call<'_>, mut params: Params) -> Result<Xml, ApiError> {
    let ids = take_ids(&mut params)?;
    call.accept(&params)?;
    check_ids(call.state, &ids)?;
    let instances = ids.iter().filter_map(|id| call.state.instances.get(id));
    if let Some(instance) = instances
        .clone()
        .find(|one| one.state != InstanceState::Running)
    {
        return Err(wrong_state(instance, "rebooted"));
    }
    for id in &ids {
        call.driver.reboot(id).map_err(|error| failed(&error))?;
    }
    Ok(done())
}

pub(super) fn console(call: &mut Call<'_>, mut params: Params) -> Result<Xml, ApiError> {
    let id = params.require("InstanceId")?;
    params.flag("Latest")?;
    call.accept(&params)?;
    check_ids(call.state, std::slice::from_ref(&id))?;
    let output = call.driver.console(&id);
    let answer = Xml::children([
        ("instanceId", Xml::text(&id)),
        ("timestamp", time(call.now)),
    ]);
    Ok(if output.is_empty() {
        answer
    } else {
        answer.with("output", Xml::text(STANDARD.encode(output)))
    })
}
