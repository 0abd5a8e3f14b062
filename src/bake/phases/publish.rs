//! Making a tested image known: its manifest, its status, the pointer to the newest.

use std::time::Duration;

use super::super::base::parameter;
use super::super::error::Failure;
use super::super::event::Resource;
use super::super::images::{self, Image, parts};
use super::super::names::{Channel, manifest_parameter, packages_parameter};
use super::super::packages::Record;
use super::super::run::{Run, facts};
use super::image;
use crate::aws::wait::Patience;
use crate::aws::{Clients, Error, Kind, parameters, tags};
use crate::journal::{Facts, IntentId};

/// Parameter Store promises no read of what was just written.
const POINTER: Patience = Patience {
    what: "the pointer to the newest image to be readable",
    stall: Duration::from_secs(60),
    first: Duration::from_millis(100),
    longest: Duration::from_secs(5),
};

/// Stores the manifest under the digest. A forced bake finds it there already and leaves it.
pub async fn manifest(run: &mut Run<'_>) -> Result<Vec<IntentId>, Failure> {
    let plan = run.plan;
    let parts = parts(&manifest_parameter(&plan.digest), &plan.manifest_json).ok_or(
        Failure::ManifestTooLarge {
            size: plan.manifest_json.len(),
        },
    )?;
    store(run, parts).await
}

/// Stores what was installed into the image. One that is too large is left out: an image is worth more than its notes.
pub async fn packages(
    run: &mut Run<'_>,
    image: &str,
    record: &Record,
) -> Result<Vec<IntentId>, Failure> {
    match parts(&packages_parameter(image), &record.to_json()) {
        Some(parts) => store(run, parts).await,
        None => Ok(Vec::new()),
    }
}

async fn store(run: &mut Run<'_>, parts: Vec<(String, String)>) -> Result<Vec<IntentId>, Failure> {
    let clients = run.clients;
    let mut intents = Vec::new();
    for (name, value) in parts {
        if run.standing(Resource::Manifest, &name).is_none()
            && parameter(clients, &name).await?.is_some()
        {
            continue;
        }
        let token = name.clone();
        let call = async move {
            create(clients, &name, &value).await?;
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

/// Makes a parameter, or finds that it is as wanted: a call of ours may have made it, its answer lost.
async fn create(clients: &Clients, name: &str, value: &str) -> Result<(), Error> {
    match parameters::create(clients, name.to_owned(), value.to_owned()).await {
        Err(error) if error.kind == Kind::AlreadyExists => {
            let found = parameter(clients, name).await?;
            if found.as_deref() == Some(value) {
                Ok(())
            } else {
                Err(error)
            }
        }
        done => done,
    }
}

/// Sets the image's status to `ready`, and takes its end away.
pub async fn ready(run: &Run<'_>, image: &Image) -> Result<(), Failure> {
    run.check()?;
    Ok(make_ready(run.clients, image).await?)
}

/// The same, of a run that is not under way.
///
/// # Errors
/// [`Error`] of `CreateTags`.
pub async fn make_ready(clients: &Clients, image: &Image) -> Result<(), Error> {
    let mut all = tags::Tags::new();
    tags::put(&mut all, tags::STATUS, tags::STATUS_READY);
    tags::put(&mut all, tags::EXPIRES, tags::NEVER);
    image::tag(clients, image, &all).await
}

/// Points a channel of a recipe at an image that is ready. Whether it pointed elsewhere before.
///
/// # Errors
/// [`Error`] of `GetParameter` or `PutParameter`.
pub async fn point(
    clients: &Clients,
    recipe: &str,
    channel: Channel,
    image: &str,
) -> Result<bool, Error> {
    let name = channel.parameter(recipe);
    let previous = parameter(clients, &name).await?;
    if previous.as_deref() == Some(image) {
        return Ok(false);
    }
    parameters::set(clients, name, image.to_owned()).await?;
    Ok(true)
}

/// The image that the plan's channel points at, if that was made later than this one.
pub async fn newer(run: &Run<'_>, image: &str) -> Result<Option<String>, Error> {
    let name = run.plan.channel.parameter(&run.plan.recipe);
    let Some(pointed) = parameter(run.clients, &name).await? else {
        return Ok(None);
    };
    let made = |image: Option<Image>| image.map(|image| image.created);
    let other = made(images::get(run.clients, &pointed).await?);
    let own = made(images::get(run.clients, image).await?);
    // RFC 3339 in UTC: the order of the text is the order of time.
    Ok((other > own).then_some(pointed))
}

/// Points the plan's channel, `/piaas-bake/<recipe>/latest` or `…/candidate`, at the image. Another bake of the recipe may
/// do so at the same moment: whoever comes later wins, and knows what to put back should it fail after all.
pub async fn latest(run: &mut Run<'_>, image: &str) -> Result<IntentId, Failure> {
    let name = run.plan.channel.parameter(&run.plan.recipe);
    let clients = run.clients;
    let mut pace = run.pace(POINTER);
    loop {
        let previous = parameter(clients, &name).await?;
        let first = previous.is_none();
        let mut facts = Facts::from([(facts::VALUE.to_owned(), image.to_owned())]);
        if let Some(previous) = previous.filter(|previous| previous != image) {
            facts.insert(facts::PREVIOUS.to_owned(), previous);
        }
        let (parameter_name, value) = (name.clone(), image.to_owned());
        let call = async move {
            if first {
                create(clients, &parameter_name, &value).await?;
            } else {
                parameters::set(clients, parameter_name.clone(), value).await?;
            }
            Ok(vec![parameter_name])
        };
        let (intent, made) = run.attempt(Resource::Latest, &name, facts, call).await?;
        match made {
            Err(error) if first && error.kind == Kind::AlreadyExists => {
                // It is another's: there is nothing of ours to undo.
                run.journal.failed(intent, &error.to_string(), run.now())?;
                run.pause(&mut pace, "another bake has just made it")
                    .await?;
            }
            made => return made.map(|_| intent).map_err(Failure::from),
        }
    }
}
