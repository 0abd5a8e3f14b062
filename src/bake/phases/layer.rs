//! Layers of single scripts: images of a builder between two of them, from which a later bake goes on.

use aws_sdk_ec2::types::ResourceType;

use super::super::bundle::Bundle;
use super::super::engine::record;
use super::super::error::Failure;
use super::super::event::{Event, Resource};
use super::super::names::layer_name;
use super::super::run::Run;
use super::{commands, image, publish};
use crate::aws::{Kind, tags};
use crate::digest::Step;
use crate::journal::Facts;

/// Keeps the builder as it is after the script with this number among those of this bake. The bake goes on without a
/// layer that cannot be kept.
pub async fn keep(
    run: &mut Run<'_>,
    builder: &str,
    bundle: &Bundle,
    number: usize,
) -> Result<(), Failure> {
    let plan = run.plan;
    let Some(step) = plan.chain.get(plan.start.scripts + number - 1) else {
        return Ok(());
    };
    match make(run, builder, bundle, step).await {
        Err(failure @ (Failure::Cloud(_) | Failure::ImageFailed { .. } | Failure::Stalled(_))) => {
            run.emit(Event::Note {
                text: format!("no layer is kept of `{}`: {failure}", step.script.title),
            });
            Ok(())
        }
        other => other,
    }
}

async fn make(
    run: &mut Run<'_>,
    builder: &str,
    bundle: &Bundle,
    step: &Step,
) -> Result<(), Failure> {
    let digest = step.digest.to_string();
    let name = layer_name(&step.recipe, &digest);
    let mut all = run.tags(&name);
    // Of the image to be, which this is not.
    all.remove(tags::DIGEST);
    tags::put(&mut all, tags::LAYER, &digest);
    let mut of_snapshot = all.clone();
    // What is tagged with a run goes with what it leaves.
    of_snapshot.remove(tags::RUN);
    let request = run
        .clients
        .ec2
        .create_image()
        .instance_id(builder)
        .name(&name)
        // Nothing of ours runs on it now, and what it has in memory the next bake does not need.
        .no_reboot(true)
        .tag_specifications(tags::specification(ResourceType::Image, &all))
        .tag_specifications(tags::specification(ResourceType::Snapshot, &of_snapshot));
    let (clients, own_run, token) = (run.clients, run.id.to_string(), name.clone());
    let call = async move {
        match image::make(clients, request, &name, &own_run).await {
            // Another bake has kept it.
            Err(error) if error.kind == Kind::AlreadyExists => Ok(Vec::new()),
            made => made.map(|id| vec![id]),
        }
    };
    let (intent, id) = run
        .create(Resource::Layer, &token, Facts::new(), call)
        .await?;
    let mut kept = vec![intent];
    if id != token {
        image::available(run, &id).await?;
        let part = commands::packages(run, builder, bundle).await?;
        if let Some(record) = record(run, part).await? {
            kept.extend(publish::packages(run, &id, &record).await?);
        }
    }
    // For good, also if this bake fails later.
    run.keep(kept)
}
