//! Making a tested image known: its manifest, its status, the pointer to the newest.

use aws_sdk_ssm::types::{ParameterType, Tag};

use super::super::base::parameter;
use super::super::error::Failure;
use super::super::event::Resource;
use super::super::images::manifest_parts;
use super::super::names::latest_parameter;
use super::super::run::{Run, facts};
use crate::aws::error::Context as _;
use crate::aws::{Clients, Error, tags};
use crate::journal::{Facts, IntentId};

/// Stores the manifest under the digest. A forced bake finds it there already and leaves it.
pub async fn manifest(run: &mut Run<'_>) -> Result<Vec<IntentId>, Failure> {
    let plan = run.plan;
    let parts =
        manifest_parts(&plan.digest, &plan.manifest_json).ok_or(Failure::ManifestTooLarge {
            size: plan.manifest_json.len(),
        })?;
    let clients = run.clients;
    let mut intents = Vec::new();
    for (name, value) in parts {
        if parameter(clients, &name).await?.is_some() {
            continue;
        }
        let all_tags = parameter_tags(run);
        let token = name.clone();
        let call = async move {
            put_new(clients, &name, &value, &all_tags).await?;
            Ok(vec![name])
        };
        intents.push(
            run.create(Resource::Manifest, &token, Facts::new(), call)
                .await?
                .0,
        );
    }
    Ok(intents)
}

fn parameter_tags(run: &Run<'_>) -> Vec<Tag> {
    let all = run.tags(&run.plan.image_name);
    all.iter()
        .filter_map(|(key, value)| Tag::builder().key(key).value(value).build().ok())
        .collect()
}

/// Tags and overwriting exclude each other (`PutParameter`).
async fn put_new(
    clients: &Clients,
    name: &str,
    value: &str,
    all_tags: &[Tag],
) -> Result<(), Error> {
    let request = clients
        .ssm
        .put_parameter()
        .name(name)
        .value(value)
        .r#type(ParameterType::String);
    request
        .set_tags(Some(all_tags.to_vec()))
        .send()
        .await
        .call("ssm", "PutParameter")
        .map(drop)
}

/// Sets the image's status to `ready`.
pub async fn ready(run: &Run<'_>, image: &str) -> Result<(), Failure> {
    run.check()?;
    let status = aws_sdk_ec2::types::Tag::builder()
        .key(tags::STATUS)
        .value(tags::STATUS_READY)
        .build();
    run.clients
        .ec2
        .create_tags()
        .resources(image)
        .tags(status)
        .send()
        .await
        .call("ec2", "CreateTags")?;
    Ok(())
}

/// Points `/piaas-bake/<recipe>/latest` at the image.
pub async fn latest(run: &mut Run<'_>, image: &str) -> Result<IntentId, Failure> {
    let name = latest_parameter(&run.plan.recipe);
    let previous = parameter(run.clients, &name).await?;
    let mut facts = Facts::from([(facts::VALUE.to_owned(), image.to_owned())]);
    if let Some(previous) = &previous {
        facts.insert(facts::PREVIOUS.to_owned(), previous.clone());
    }
    let clients = run.clients;
    let all_tags = parameter_tags(run);
    let (parameter_name, value) = (name.clone(), image.to_owned());
    let call = async move {
        if previous.is_none() {
            put_new(clients, &parameter_name, &value, &all_tags).await?;
        } else {
            let request = clients
                .ssm
                .put_parameter()
                .name(&parameter_name)
                .value(value)
                .overwrite(true);
            request
                .r#type(ParameterType::String)
                .send()
                .await
                .call("ssm", "PutParameter")?;
        }
        Ok(vec![parameter_name])
    };
    Ok(run.create(Resource::Latest, &name, facts, call).await?.0)
}
