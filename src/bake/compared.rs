//! Two images, listed by machines of theirs; and an image, baked again to be held against the first.

use std::time::Duration;

use semver::Version;

use super::engine::{Built, Settings, build, bundles};
use super::errand::errand;
use super::error::{BakeError, LeftOver};
use super::event::{Event, Phase};
use super::images::Image;
use super::names::Channel;
use super::phases::{image, launch, list};
use super::plan::{Plan, Start};
use super::run::Run;
use crate::aws::{Clients, tags};
use crate::events::Sink;
use crate::image::tree::listing::Listing;
use crate::recipe::model::BuildSpec;

/// What listing two images may take on top of a bake.
const LISTING: Duration = Duration::from_secs(2 * 3600);

/// What two images have in them.
#[derive(Debug)]
pub struct Compared {
    /// The first image and the second, in this order.
    pub listings: [Listing; 2],
    /// The image that was baked for this, if one was; it is gone unless it was to be kept.
    pub again: Option<Image>,
    /// Temporaries that could not be removed; the rest is complete all the same (exit code 7).
    pub left_over: Vec<LeftOver>,
}

/// Lists what is in two images on a machine of each, by a plan of [`Plan::to_list`]. The machines are removed, whatever
/// happens.
///
/// # Errors
/// [`BakeError`]; everything that the run created has been removed then, but for what it lists as left over.
pub async fn list_both(
    clients: &Clients,
    plan: &Plan,
    images: [&Image; 2],
    settings: Settings<'_>,
    sink: &dyn Sink<Event>,
) -> Result<Compared, BakeError> {
    let act = async |run: &mut Run<'_>| {
        run.enter(Phase::List)?;
        let (groups, _) = launch::security_groups(run).await?;
        let listings = list::both(run, &groups, images, plan.source_date).await?;
        Ok((listings, vec![]))
    };
    let (listings, left_over) = errand(clients, plan, "diff", settings, sink, act).await?;
    Ok(Compared {
        listings,
        again: None,
        left_over,
    })
}

/// Carries out a plan under a name of its own, publishes nothing, and lists what is in the image that it makes and in
/// `first`. That image is removed in the end unless `keep` says otherwise.
///
/// # Errors
/// As [`list_both`].
pub async fn bake_again(
    clients: &Clients,
    plan: &Plan,
    first: &Image,
    keep: bool,
    settings: Settings<'_>,
    sink: &dyn Sink<Event>,
) -> Result<Compared, BakeError> {
    let mut plan = plan.clone();
    // Nobody looks for an image of this name, and no other bake can be in its way.
    plan.image_name = format!("piaas-bake-verify-{}", settings.run);
    plan.build.timeout = plan.build.timeout.saturating_add(LISTING);
    // What dead bakes of the first name have left is theirs to remove.
    plan.stale.clear();
    // Cold: it neither begins at a layer nor keeps one.
    let settings = Settings {
        layers: None,
        ..settings
    };
    let plan = &plan;
    let act = async |run: &mut Run<'_>| {
        let [bundle, _] = bundles(run.plan);
        if run.bundles.is_none() {
            bundle.fits_commands()?;
        }
        run.enter(Phase::Launch)?;
        let Built {
            groups,
            intent,
            image: made,
            ..
        } = build(run, &bundle).await?;
        image::inspect(run, &made).await?;
        let images = [first, &made];
        run.enter(Phase::List)?;
        let listings = list::both(run, &groups, images, plan.source_date).await?;
        if !keep {
            return Ok(((listings, made), vec![]));
        }
        let mut stays = tags::Tags::new();
        tags::put(&mut stays, tags::EXPIRES, tags::NEVER);
        image::tag(run.clients, &made, &stays).await?;
        Ok(((listings, made), vec![intent]))
    };
    let ((listings, made), left_over) =
        errand(clients, plan, "verify", settings, sink, act).await?;
    Ok(Compared {
        listings,
        again: Some(made),
        left_over,
    })
}

impl Plan {
    /// The plan of a run that bakes nothing: it launches machines of images as `build` says, and lists have times up to
    /// `source_date` (seconds since the epoch).
    #[must_use]
    pub fn to_list(images: [&Image; 2], build: BuildSpec, source_date: i64) -> Self {
        let [_, image] = images;
        let mut build = build;
        build.timeout = LISTING;
        Self {
            recipe: image.tag(tags::RECIPE).unwrap_or(&image.name).to_owned(),
            version: Version::new(0, 0, 0),
            description: String::new(),
            labels: [].into(),
            // It is of no digest: bakes of the image's need not wait for it.
            digest: String::new(),
            manifest_json: String::new(),
            image_name: image.name.clone(),
            base: image.clone(),
            start: Start {
                image: image.clone(),
                layers: 0,
                scripts: 0,
            },
            chain: Vec::new(),
            layers: Vec::new(),
            steps: Vec::new(),
            validate: Vec::new(),
            test: Vec::new(),
            payloads: [].into(),
            source_date,
            volume_gib: image.size_gib,
            architecture: image.architecture.clone(),
            build,
            secrets: [].into(),
            sealed: Vec::new(),
            channel: Channel::Latest,
            stale: Vec::new(),
            held: None,
        }
    }
}
