//! Whether a group can be rolled, before anything is changed. Pure.

use super::record::Side;
use super::refresh::settled;
use super::world::{Group, Refresh};
use crate::aws::commands::quote;

/// The launch template that a group names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    pub id: String,
    pub name: String,
    /// A number, `$Latest` or `$Default`, as the group has it.
    pub version: String,
    /// What that means at this moment.
    pub resolved: Option<u64>,
    /// The image in that version, as it is written there.
    pub image: Option<String>,
}

/// Where the group takes its instances from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    Template(Template),
    /// A mixed instances policy, with its base template.
    Mixed(Option<Template>),
    /// A launch configuration, or nothing that we know.
    Configuration(String),
}

/// The image to roll to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    pub id: String,
    pub name: String,
    /// `available`, …
    pub state: String,
    /// Value of its status tag.
    pub status: Option<String>,
    pub architecture: String,
}

/// What was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// As far as it can be read against [`Source::Template`].
    pub group: Group,
    pub source: Source,
    /// Suspended processes of the group.
    pub suspended: Vec<String>,
    pub image: Image,
    /// Architecture of the present image, if that still exists.
    pub architecture: Option<String>,
    /// Newest first.
    pub refreshes: Vec<Refresh>,
}

/// What can be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Every instance runs the image, and the group launches it.
    AlreadyThere,
    Roll {
        template: String,
        old: Side,
    },
}

/// The group is not rolled; nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error(
        "group {group} launches from version {version} of its launch template: that is evaluated anew for each \
         instance, splits the group during a refresh and rules out a rollback"
    )]
    NotNumbered {
        group: String,
        version: String,
        mend: String,
    },
    #[error(
        "group {group} has a mixed instances policy, and a roll changes one launch template version only"
    )]
    Mixed { group: String, mend: String },
    #[error("group {group} launches from {from}, not from a launch template")]
    NoTemplate {
        group: String,
        from: String,
        mend: String,
    },
    #[error(
        "version {version} of launch template {template} names no image id but {image:?}, so a rollback to it is not \
         possible"
    )]
    NoImageId {
        template: String,
        version: u64,
        image: String,
    },
    #[error("image {id} is not ready: its state is {state}, its status tag {status}")]
    NotReady {
        id: String,
        state: String,
        status: String,
    },
    #[error("image {id} is for {image}, and the group runs {group}")]
    Architecture {
        id: String,
        image: String,
        group: String,
    },
    #[error("an instance refresh of group {group} that is not of piaas-bake is under way: {id}")]
    UnderWay { group: String, id: String },
    #[error("the process {process} of group {group} is suspended")]
    Suspended { group: String, process: String },
}

impl Refusal {
    /// What to do about it.
    #[must_use]
    pub fn way_out(&self) -> String {
        match self {
            Self::NotNumbered { mend, .. } => {
                format!("pin the version that it stands for today, then roll again: {mend}")
            }
            Self::Mixed { mend, .. } => format!(
                "if one instance type will do, take the template itself, then roll again: {mend}"
            ),
            Self::NoTemplate { mend, .. } => {
                format!("make a launch template of it, then roll again: {mend}")
            }
            Self::NoImageId { .. } => {
                "make a version of the template with an image id, and let the group use it"
                    .to_owned()
            }
            Self::NotReady { .. } => "choose another with `piaas-bake images list`".to_owned(),
            Self::Architecture { image, .. } => {
                format!("bake for the group's architecture, or make a group for {image}")
            }
            Self::UnderWay { group, .. } => format!(
                "wait for it, or end it with: aws autoscaling cancel-instance-refresh --auto-scaling-group-name {}",
                quote(group)
            ),
            Self::Suspended { group, process } => format!(
                "aws autoscaling resume-processes --auto-scaling-group-name {} --scaling-processes {process}",
                quote(group)
            ),
        }
    }
}

fn mend(group: &str, template: &str, version: &str) -> String {
    format!(
        "aws autoscaling update-auto-scaling-group --auto-scaling-group-name {} --launch-template \
         'LaunchTemplateId={template},Version={version}'",
        quote(group)
    )
}

/// Decides.
///
/// # Errors
/// The [`Refusal`], with its way out.
pub fn judge(survey: &Survey) -> Result<Verdict, Refusal> {
    let group = &survey.group.name;
    let number = |resolved: Option<u64>| resolved.map_or("N".to_owned(), |n| n.to_string());
    let template = match &survey.source {
        Source::Template(template) => template,
        Source::Mixed(base) => {
            return Err(Refusal::Mixed {
                group: group.clone(),
                mend: base.as_ref().map_or_else(
                    || mend(group, "lt-…", "N"),
                    |base| mend(group, &base.id, &number(base.resolved)),
                ),
            });
        }
        Source::Configuration(from) => {
            return Err(Refusal::NoTemplate {
                group: group.clone(),
                from: from.clone(),
                mend: mend(group, "lt-…", "1"),
            });
        }
    };
    let Ok(version) = template.version.parse::<u64>() else {
        return Err(Refusal::NotNumbered {
            group: group.clone(),
            version: template.version.clone(),
            mend: mend(group, &template.id, &number(template.resolved)),
        });
    };
    let image = &survey.image;
    if image.state != "available" || image.status.as_deref() != Some(crate::aws::tags::STATUS_READY)
    {
        return Err(Refusal::NotReady {
            id: image.id.clone(),
            state: image.state.clone(),
            status: image.status.clone().unwrap_or_else(|| "missing".into()),
        });
    }
    if let Some(present) = &survey.architecture
        && *present != image.architecture
    {
        return Err(Refusal::Architecture {
            id: image.id.clone(),
            image: image.architecture.clone(),
            group: present.clone(),
        });
    }
    let old = match &template.image {
        Some(id) if id.starts_with("ami-") => Side {
            version,
            image: id.clone(),
        },
        other => {
            return Err(Refusal::NoImageId {
                template: template.id.clone(),
                version,
                image: other.clone().unwrap_or_default(),
            });
        }
    };
    if let Some(active) = survey
        .refreshes
        .iter()
        .find(|refresh| refresh.status.is_active())
    {
        return Err(Refusal::UnderWay {
            group: group.clone(),
            id: active.id.clone(),
        });
    }
    if old.image == image.id && settled(&survey.group, &old).is_ok() {
        return Ok(Verdict::AlreadyThere);
    }
    for process in ["InstanceRefresh", "Launch", "Terminate"] {
        if survey.suspended.iter().any(|one| one == process) {
            return Err(Refusal::Suspended {
                group: group.clone(),
                process: process.to_owned(),
            });
        }
    }
    Ok(Verdict::Roll {
        template: template.id.clone(),
        old,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roll::world::{Check, Life, Member, Status};

    fn survey() -> Survey {
        let member = Member {
            id: "i-1".into(),
            version: Some(3),
            image: Some("ami-old".into()),
            life: Life::InService,
            healthy: true,
            protected: false,
            check: Check::NotYet,
            worker: None,
        };
        Survey {
            group: Group {
                name: "ci workers".into(),
                version: Some(3),
                desired: 1,
                members: vec![member],
            },
            source: Source::Template(Template {
                id: "lt-1".into(),
                name: "workers".into(),
                version: "3".into(),
                resolved: Some(3),
                image: Some("ami-old".into()),
            }),
            suspended: vec![],
            image: Image {
                id: "ami-new".into(),
                name: "n".into(),
                state: "available".into(),
                status: Some("ready".into()),
                architecture: "x86_64".into(),
            },
            architecture: Some("x86_64".into()),
            refreshes: vec![],
        }
    }

    fn template(survey: &mut Survey) -> &mut Template {
        match &mut survey.source {
            Source::Template(template) => template,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_good_group_is_rolled_and_one_that_is_there_is_not() {
        let mut one = survey();
        let old = Side {
            version: 3,
            image: "ami-old".into(),
        };
        let roll = Verdict::Roll {
            template: "lt-1".into(),
            old,
        };
        assert_eq!(judge(&one), Ok(roll));
        one.image.id = "ami-old".into();
        assert_eq!(judge(&one), Ok(Verdict::AlreadyThere));
        one.group.members[0].version = Some(2);
        assert!(matches!(judge(&one), Ok(Verdict::Roll { .. })));
    }

    #[test]
    fn a_moving_version_is_refused_with_the_whole_mending_command() {
        for version in ["$Latest", "$Default"] {
            let mut one = survey();
            template(&mut one).version = version.into();
            let refusal = judge(&one).unwrap_err();
            assert!(refusal.to_string().contains(version));
            assert!(
                refusal.way_out().ends_with(
                    "aws autoscaling update-auto-scaling-group --auto-scaling-group-name 'ci workers' \
                     --launch-template 'LaunchTemplateId=lt-1,Version=3'"
                ),
                "{}",
                refusal.way_out()
            );
        }
    }

    #[test]
    fn every_other_obstacle_has_its_refusal() {
        type Change = fn(&mut Survey);
        let cases: [(&str, Change); 9] = [
            ("mixed instances", |s| s.source = Source::Mixed(None)),
            ("not from a launch template", |s| {
                s.source = Source::Configuration("launch configuration old".into());
            }),
            ("not ready", |s| s.image.state = "pending".into()),
            ("status tag missing", |s| s.image.status = None),
            ("is for arm64", |s| s.image.architecture = "arm64".into()),
            ("names no image id", |s| {
                template(s).image = Some("resolve:ssm:/x".into());
            }),
            ("under way: r-1", |s| {
                s.refreshes.push(Refresh {
                    id: "r-1".into(),
                    status: Status::Baking,
                    reason: String::new(),
                    percent: 1,
                    version: None,
                    started: jiff::Timestamp::UNIX_EPOCH,
                    ended: None,
                });
            }),
            ("InstanceRefresh", |s| {
                s.suspended = vec!["InstanceRefresh".into()]
            }),
            ("Launch", |s| {
                s.suspended = vec!["AZRebalance".into(), "Launch".into()]
            }),
        ];
        for (text, change) in cases {
            let mut one = survey();
            change(&mut one);
            let refusal = judge(&one).unwrap_err();
            assert!(refusal.to_string().contains(text), "{refusal}");
            assert!(!refusal.way_out().is_empty());
        }
    }
}
