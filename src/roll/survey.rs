//! The look before a roll.

use aws_sdk_autoscaling::types::AutoScalingGroup;

use super::look;
use super::preflight::{Image, Source, Survey, Template};
use crate::aws::{Clients, Error, tags};
use crate::bake::images;

impl From<&images::Image> for Image {
    fn from(image: &images::Image) -> Self {
        Self {
            id: image.id.clone(),
            name: image.name.clone(),
            state: image.state.clone(),
            status: image.tag(tags::STATUS).map(str::to_owned),
            architecture: image.architecture.clone(),
        }
    }
}

/// Looks at a group; `None` if it does not exist.
///
/// # Errors
/// [`Error`] of the call that failed.
pub async fn survey(clients: &Clients, group: &str, image: Image) -> Result<Option<Survey>, Error> {
    let Some(raw) = look::raw_group(clients, group).await? else {
        return Ok(None);
    };
    let source = source(clients, &raw).await?;
    let template = match &source {
        Source::Template(template) => template.id.clone(),
        _ => String::new(),
    };
    let architecture = match &source {
        Source::Template(Template {
            image: Some(present),
            ..
        }) if present.starts_with("ami-") => images::get(clients, present)
            .await?
            .map(|image| image.architecture),
        _ => None,
    };
    Ok(Some(Survey {
        group: look::group(clients, &raw, &template).await?,
        refreshes: look::refreshes(clients, group, &template).await?,
        suspended: raw
            .suspended_processes()
            .iter()
            .filter_map(|process| process.process_name().map(str::to_owned))
            .collect(),
        source,
        image,
        architecture: architecture.filter(|name| !name.is_empty()),
    }))
}

async fn source(clients: &Clients, raw: &AutoScalingGroup) -> Result<Source, Error> {
    if let Some(policy) = raw.mixed_instances_policy() {
        let base = policy
            .launch_template()
            .and_then(|template| template.launch_template_specification());
        return Ok(Source::Mixed(match base {
            Some(base) => template(clients, base).await?,
            None => None,
        }));
    }
    if let Some(specification) = raw.launch_template()
        && let Some(template) = template(clients, specification).await?
    {
        return Ok(Source::Template(template));
    }
    Ok(Source::Configuration(
        raw.launch_configuration_name().map_or_else(
            || "nothing that exists".to_owned(),
            |name| format!("launch configuration {name}"),
        ),
    ))
}

async fn template(
    clients: &Clients,
    specification: &aws_sdk_autoscaling::types::LaunchTemplateSpecification,
) -> Result<Option<Template>, Error> {
    let Some(id) = specification.launch_template_id() else {
        return Ok(None);
    };
    // A group without a version takes the default one (Auto Scaling API, `LaunchTemplateSpecification`).
    let version = specification.version().unwrap_or("$Default");
    let found = look::version(clients, id, version).await?;
    let (resolved, data) = found.unzip();
    Ok(Some(Template {
        id: id.to_owned(),
        name: specification
            .launch_template_name()
            .unwrap_or_default()
            .to_owned(),
        version: version.to_owned(),
        resolved,
        image: data.and_then(|data| data.image_id),
    }))
}
