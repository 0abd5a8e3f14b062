//! Whether a fleet can be run at all, before anything is changed. Pure.

use super::policy::Policy;
use super::world::{Demand, World};
use crate::aws::commands::quote;

/// The group is not run; nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error(
        "group {group} launches from version {version} of its launch template, not from a number: nobody could tell \
         which workers are old"
    )]
    NotNumbered {
        group: String,
        version: String,
        mend: String,
    },
    #[error(
        "group {group} does not protect new instances from scale-in, so Auto Scaling may end a worker that runs a job"
    )]
    Unprotected { group: String },
    #[error(
        "group {group} may rebalance its zones (process AZRebalance): that ends workers, and launches more than were \
         asked for"
    )]
    Rebalances { group: String },
    #[error("the process {process} of group {group} is suspended, and a fleet needs it")]
    Suspended { group: String, process: String },
    #[error("group {group} has a warm pool, and LaunchInstances does not work with one")]
    WarmPool { group: String },
    #[error(
        "nothing would ever launch a first worker of group {group}: no CI server is asked for its queue, min_idle is 0, \
         and so is the group's minimum"
    )]
    Nobody { group: String },
}

impl Refusal {
    /// A command that mends it, or what else to do.
    #[must_use]
    pub fn way_out(&self) -> String {
        match self {
            Self::NotNumbered { mend, .. } => format!("pin it: {mend}"),
            Self::Unprotected { group } => format!(
                "aws autoscaling update-auto-scaling-group --auto-scaling-group-name {} \
                 --new-instances-protected-from-scale-in",
                quote(group)
            ),
            Self::Rebalances { group } => format!(
                "aws autoscaling suspend-processes --auto-scaling-group-name {} --scaling-processes AZRebalance",
                quote(group)
            ),
            Self::Suspended { group, process } => format!(
                "aws autoscaling resume-processes --auto-scaling-group-name {} --scaling-processes {process}",
                quote(group)
            ),
            Self::WarmPool { group } => format!(
                "aws autoscaling delete-warm-pool --auto-scaling-group-name {}",
                quote(group)
            ),
            Self::Nobody { .. } => {
                "set min_idle to 1 or more, or name a CI server under demand".to_owned()
            }
        }
    }
}

/// Judges.
///
/// # Errors
/// The [`Refusal`], with its way out.
pub fn judge(world: &World, policy: &Policy) -> Result<(), Refusal> {
    let raw = &world.group;
    let group = raw.name.clone();
    if raw.number().is_none() {
        let version = raw.version.clone().unwrap_or_else(|| "none".to_owned());
        let template = raw.template.clone().unwrap_or_else(|| "lt-…".to_owned());
        let mend = format!(
            "aws autoscaling update-auto-scaling-group --auto-scaling-group-name {} --launch-template \
             'LaunchTemplateId={template},Version={}'",
            quote(&group),
            raw.resolved
                .map_or_else(|| "N".to_owned(), |number| number.to_string())
        );
        return Err(Refusal::NotNumbered {
            group,
            version,
            mend,
        });
    }
    if !raw.protects_new {
        return Err(Refusal::Unprotected { group });
    }
    let is_suspended = |process: &str| raw.suspended.iter().any(|one| one == process);
    if !is_suspended("AZRebalance") {
        return Err(Refusal::Rebalances { group });
    }
    if let Some(process) = ["Launch", "Terminate"]
        .into_iter()
        .find(|one| is_suspended(one))
    {
        return Err(Refusal::Suspended {
            group,
            process: process.to_owned(),
        });
    }
    if raw.warm_pool {
        return Err(Refusal::WarmPool { group });
    }
    if world.demand == Demand::NotAsked && policy.min_idle == 0 && raw.min == 0 {
        return Err(Refusal::Nobody { group });
    }
    Ok(())
}
