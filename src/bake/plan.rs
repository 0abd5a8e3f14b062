//! What a bake would do: a pure function of the recipe line and of what exists.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use semver::Version;

use super::event::Phase;
use super::images::Image;
use super::names::{BundleStore, Channel, IMAGE_NAME_LIMIT, free_name, image_name};
use crate::aws::tags;
use crate::digest::{Digest, Manifest, Step, steps};
use crate::image::leaks::Sealed;
use crate::journal::RunState;
use crate::recipe::model::{BuildSpec, ImageSpec, Manager};
use crate::render::script::{Layer, Script};

/// One recipe of the line, rendered and hashed.
#[derive(Debug, Clone)]
pub struct LayerPlan {
    pub recipe: String,
    pub version: Version,
    /// 64 hex digits; it covers the base image and all layers below.
    pub digest: String,
    /// The canonical manifest that the digest is the hash of.
    pub manifest_json: String,
    pub layer: Layer,
}

impl LayerPlan {
    /// A rendered recipe with what [`digest::chain`](crate::digest::chain) gives for it.
    #[must_use]
    pub fn new(layer: Layer, manifest: &Manifest, digest: Digest) -> Self {
        Self {
            recipe: layer.recipe.clone(),
            version: layer.version.clone(),
            digest: digest.to_string(),
            manifest_json: manifest.to_canonical_json(),
            layer,
        }
    }
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Target {
    pub description: String,
    /// The image at the root of the line, resolved.
    pub base: Image,
    /// The line, root first; the last is the recipe asked for.
    pub layers: Vec<LayerPlan>,
    pub image: ImageSpec,
    pub build: BuildSpec,
    /// Bake although an image of this digest exists.
    pub force: bool,
    /// What is to name the image.
    pub channel: Channel,
    /// Whether single scripts are layers too: each is an image, and on AWS an image costs minutes.
    pub by_step: bool,
}

impl Target {
    /// The scripts that provision the line, on this base image.
    #[must_use]
    pub fn chain(&self, base: &str) -> Vec<Step> {
        steps(base, self.layers.iter().map(|plan| &plan.layer))
    }

    /// The recipe asked for.
    fn top(&self) -> Result<&LayerPlan, PlanError> {
        self.layers.last().ok_or(PlanError::Empty)
    }
}

/// A run that this host knows of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownRun {
    pub state: RunState,
    pub digest: String,
}

/// What exists.
#[derive(Debug, Clone, Default)]
pub struct Survey {
    /// Our images with a digest of the line.
    pub of_line: Vec<Image>,
    /// Layers of single scripts of the line, on its base image.
    pub steps: Vec<Image>,
    /// What the channels of the recipe name at the moment.
    pub channels: BTreeMap<Channel, String>,
    /// All images of this account whose name begins with the name of the image to be.
    pub named: Vec<Image>,
    /// Runs whose journals lie on this host, by id.
    pub runs: BTreeMap<String, KnownRun>,
}

/// Where the builder starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    pub image: Image,
    /// How many layers of the line it holds already.
    pub layers: usize,
    /// How many scripts of the line have run on it.
    pub scripts: usize,
}

impl Start {
    /// Whether it is the layer of a single script, not cleaned as an image is.
    #[must_use]
    pub fn is_step(&self) -> bool {
        self.image.tag(tags::LAYER).is_some()
    }
}

/// What a bake does.
#[derive(Debug, Clone)]
pub struct Plan {
    pub recipe: String,
    pub version: Version,
    pub description: String,
    /// Tags for the image and its snapshots, beside our own.
    pub labels: BTreeMap<String, String>,
    pub digest: String,
    pub manifest_json: String,
    pub image_name: String,
    pub base: Image,
    pub start: Start,
    /// All scripts that provision the line, in order, as layers: on the base image that `start` stands on.
    pub chain: Vec<Step>,
    /// Recipes that run on the builder, in order.
    pub layers: Vec<String>,
    pub steps: Vec<Script>,
    /// Of the whole line: a layer taken from an image is checked again.
    pub validate: Vec<Script>,
    pub test: Vec<Script>,
    /// Bytes that the scripts install, by sha256.
    pub payloads: BTreeMap<String, Bytes>,
    /// What the scripts find in `SOURCE_DATE_EPOCH`.
    pub source_date: i64,
    /// Size of the root volume in GiB.
    pub volume_gib: u32,
    pub architecture: String,
    pub build: BuildSpec,
    /// The secrets that its scripts read: the reference, by parameter.
    pub secrets: BTreeMap<String, String>,
    /// What the line says about paths that the image must not have, or may.
    pub sealed: Vec<Sealed>,
    /// What is to name the image.
    pub channel: Channel,
    /// Unfinished images of this name that dead runs left; removed first.
    pub stale: Vec<Image>,
    /// The run that bakes the same at the moment, as far as that is known; this one waits for it.
    pub held: Option<String>,
}

impl Plan {
    /// The phases that the bake goes through, in order.
    #[must_use]
    pub fn phases(&self) -> [Phase; 11] {
        Phase::ALL
    }

    /// What the bake creates and removes again, in words.
    #[must_use]
    pub fn temporaries(&self, bundles: Option<&BundleStore>) -> Vec<String> {
        let instance = self.build.instance_types.join(" or ");
        let mut all = Vec::new();
        if self.build.security_groups.is_empty() {
            all.push("a security group without inbound rules".to_owned());
        }
        all.push(format!(
            "a builder instance, {instance}, {} GiB",
            self.volume_gib
        ));
        if let Some(store) = bundles {
            all.push(format!(
                "an object for each machine in s3://{}",
                store.bucket
            ));
        }
        all.push(format!("a tester instance, {instance}, from the new image"));
        all
    }

    /// Id of the image that is at the root of the image to be. A parent's image may stand on an older one than a bake
    /// from the bottom would.
    #[must_use]
    pub fn root_image(&self) -> &str {
        root_image(&self.start.image, &self.base)
    }

    /// When anyone may remove what a run of this plan that starts at `now` leaves: its time limit and an hour.
    #[must_use]
    pub fn expires(&self, now: Timestamp) -> Timestamp {
        SignedDuration::try_from(lifetime(&self.build))
            .ok()
            .and_then(|limit| now.checked_add(limit).ok())
            .unwrap_or(Timestamp::MAX)
    }
}

/// How long the machines of a run live at most: its time limit and an hour.
#[must_use]
pub fn lifetime(build: &BuildSpec) -> Duration {
    build.timeout.saturating_add(Duration::from_secs(3600))
}

/// What to do.
#[derive(Debug, Clone)]
pub enum Decision {
    /// An image with this digest is ready.
    AlreadyBaked(Box<Image>),
    Bake(Box<Plan>),
}

/// There is no way to bake this now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    #[error("there is no recipe to bake: the line is empty")]
    Empty,
    #[error(
        "image {image} has the name {name} but was not made by a bake; deregister it, or change the recipe's version"
    )]
    NameTaken { image: String, name: String },
    #[error(
        "the image's name {name} has more than {IMAGE_NAME_LIMIT} characters; shorten the recipe's name"
    )]
    NameTooLong { name: String },
    #[error(
        "{recipe} installs its packages with dnf, but the base image {image} ({name}) is Debian; build on an image that \
         has dnf, or list the packages under `apt`"
    )]
    NoDnf {
        recipe: String,
        image: String,
        name: String,
    },
    #[error("the image {image} is none that a builder of this recipe starts from")]
    Start { image: String },
    #[error("the start image {image} needs {needs} GiB; the recipe gives {has} (image.size)")]
    TooSmall { image: String, needs: u32, has: u32 },
}

/// Decides what to do.
///
/// # Errors
/// [`PlanError`] if the recipe cannot become an image here.
pub fn plan(target: &Target, survey: &Survey, now: Timestamp) -> Result<Decision, PlanError> {
    let top = target.top()?;
    let ready = |digest: &str| {
        survey
            .of_line
            .iter()
            .find(|image| image.is_ready() && image.digest() == Some(digest))
    };
    if let Some(image) = baked(&top.digest, target.channel, survey).filter(|_| !target.force) {
        return Ok(Decision::AlreadyBaked(Box::new(image.clone())));
    }
    // Debian names its images so, and so does the local cloud its base.
    let debian = target.base.name.starts_with("debian-");
    let by_dnf =
        |plan: &&LayerPlan| plan.layer.manager == Manager::Dnf && !plan.layer.packages.is_empty();
    if let Some(layer) = target.layers.iter().find(by_dnf).filter(|_| debian) {
        return Err(PlanError::NoDnf {
            recipe: layer.recipe.clone(),
            image: target.base.id.clone(),
            name: target.base.name.clone(),
        });
    }
    let alive = survey
        .runs
        .iter()
        .find(|(_, run)| run.state == RunState::Alive && run.digest == top.digest);
    let mut held = alive.map(|(run, _)| run.clone());

    let plain_name = image_name(&top.recipe, &top.version, &top.digest);
    let mut stale = Vec::new();
    let mut taken = BTreeSet::new();
    for image in &survey.named {
        if image.is_ready() || image.name != plain_name {
            taken.insert(image.name.as_str());
            continue;
        }
        match leftover(image, survey, target.build.timeout, now) {
            Leftover::Stale => stale.push(image.clone()),
            Leftover::Held(run) => held = Some(run),
            Leftover::Foreign => {
                return Err(PlanError::NameTaken {
                    image: image.id.clone(),
                    name: image.name.clone(),
                });
            }
        }
    }
    let name = free_name(&plain_name, &taken);
    if name.chars().count() > IMAGE_NAME_LIMIT {
        return Err(PlanError::NameTooLong { name });
    }

    let start = start(target, survey, ready);
    if start.image.size_gib > target.image.size_gib {
        return Err(PlanError::TooSmall {
            image: start.image.id,
            needs: start.image.size_gib,
            has: target.image.size_gib,
        });
    }

    let plan = assemble(target, name, start, stale)?;
    let plan = Plan { held, ..plan };
    Ok(Decision::Bake(Box::new(plan)))
}

/// The plan of a bake that was begun: with the image name and the start that it had then, and what is still there of the
/// images that it was to remove first.
///
/// # Errors
/// [`PlanError::Start`] if `start` is no image that a builder of this line starts from.
pub fn again(
    target: &Target,
    image_name: String,
    start: Image,
    stale: Vec<Image>,
) -> Result<Plan, PlanError> {
    let start = placed(target, start)?;
    assemble(target, image_name, start, stale)
}

fn assemble(
    target: &Target,
    image_name: String,
    start: Start,
    stale: Vec<Image>,
) -> Result<Plan, PlanError> {
    let top = target.top()?;
    let all = target.layers.iter().map(|layer| &layer.layer);
    let to_run = &target.layers[start.layers..];
    let chain = target.chain(root_image(&start.image, &target.base));
    Ok(Plan {
        recipe: top.recipe.clone(),
        version: top.version.clone(),
        description: target.description.clone(),
        labels: top.layer.labels.clone(),
        digest: top.digest.clone(),
        manifest_json: top.manifest_json.clone(),
        image_name,
        base: target.base.clone(),
        layers: to_run
            .iter()
            .map(|layer| format!("{} {}", layer.recipe, layer.version))
            .collect(),
        steps: all
            .clone()
            .flat_map(|layer| &layer.provision)
            .skip(start.scripts)
            .cloned()
            .collect(),
        validate: all
            .clone()
            .flat_map(|layer| layer.validate.clone())
            .collect(),
        test: all.clone().flat_map(|layer| layer.test.clone()).collect(),
        // Those of layers that an image holds already too: their validations run again.
        secrets: all
            .clone()
            .flat_map(|layer| layer.secrets.clone())
            .collect(),
        // Likewise: what a parent's image keeps is still in it.
        sealed: all.clone().flat_map(|layer| layer.sealed.clone()).collect(),
        payloads: all.flat_map(|layer| layer.payloads.clone()).collect(),
        source_date: top.layer.source_date,
        volume_gib: target.image.size_gib,
        architecture: target.image.architecture.clone(),
        build: target.build.clone(),
        channel: target.channel,
        start,
        chain,
        stale,
        held: None,
    })
}

/// The image that holds most of the line already: the image of a parent, or the layer of a script. Of the two that
/// have run the same scripts the image is taken, which is clean.
fn start<'s>(
    target: &Target,
    survey: &'s Survey,
    ready: impl Fn(&str) -> Option<&'s Image>,
) -> Start {
    let below = target.layers.len() - 1;
    let parent = (1..=below).rev().find_map(|layers| {
        let image = ready(&target.layers[layers - 1].digest)?.clone();
        Some(Start {
            image,
            layers,
            scripts: scripts(&target.layers[..layers]),
        })
    });
    let start = parent.unwrap_or_else(|| Start {
        image: target.base.clone(),
        layers: 0,
        scripts: 0,
    });
    // Who bakes again what is there wants what its own scripts do now.
    if target.force {
        return start;
    }
    let chain = target.chain(&target.base.id);
    let step = (start.scripts..chain.len()).rev().find_map(|index| {
        let digest = chain[index].digest.to_string();
        let image = survey
            .steps
            .iter()
            .find(|image| image.state == "available" && image.tag(tags::LAYER) == Some(&digest))?;
        Some(after_script(target, image.clone(), index))
    });
    step.unwrap_or(start)
}

/// How many scripts provision these layers.
fn scripts(layers: &[LayerPlan]) -> usize {
    layers.iter().map(|one| one.layer.provision.len()).sum()
}

/// The layer of the script with this index in the line.
fn after_script(target: &Target, image: Image, index: usize) -> Start {
    let below = target.layers.len() - 1;
    Start {
        image,
        layers: (0..=target.layers.len())
            .rev()
            .find(|layers| scripts(&target.layers[..*layers]) <= index + 1)
            .unwrap_or(0)
            .min(below),
        scripts: index + 1,
    }
}

/// What of the line an image holds.
fn placed(target: &Target, image: Image) -> Result<Start, PlanError> {
    if image.id == target.base.id {
        return Ok(Start {
            image,
            layers: 0,
            scripts: 0,
        });
    }
    if let Some(digest) = image.tag(tags::LAYER) {
        let chain = target.chain(root_image(&image, &target.base));
        let index = chain
            .iter()
            .position(|step| step.digest.to_string() == digest);
        if let Some(index) = index {
            return Ok(after_script(target, image, index));
        }
    } else if let Some(index) = target
        .layers
        .iter()
        .position(|layer| image.digest() == Some(&layer.digest))
    {
        return Ok(Start {
            image,
            layers: index + 1,
            scripts: scripts(&target.layers[..=index]),
        });
    }
    Err(PlanError::Start { image: image.id })
}

/// Id of the image at the root of one that a builder starts from.
fn root_image<'a>(start: &'a Image, base: &'a Image) -> &'a str {
    if start.id == base.id {
        return &base.id;
    }
    start.tag(tags::BASE_IMAGE).unwrap_or(&base.id)
}

/// The image of a digest that a channel should name: the newest, but a candidate does not become the latest as long as
/// there is another. Nobody has chosen it.
fn baked<'s>(digest: &str, channel: Channel, survey: &'s Survey) -> Option<&'s Image> {
    let named = |channel| survey.channels.get(&channel).map(String::as_str);
    let rank = |image: &Image| {
        let id = Some(image.id.as_str());
        match channel {
            Channel::Latest if named(Channel::Latest) == id => 0,
            Channel::Latest if named(Channel::Candidate) == id => 2,
            _ => 1,
        }
    };
    survey
        .of_line
        .iter()
        .filter(|image| image.is_ready() && image.digest() == Some(digest))
        // Of equals the first: the newest.
        .min_by_key(|image| rank(image))
}

/// What an unfinished image of our name is.
enum Leftover {
    /// Its run is over: it may go.
    Stale,
    /// Its run may still work on it.
    Held(String),
    /// Not ours.
    Foreign,
}

/// A run of another host leaves no journal here: its image counts as held for as long as a bake may take.
fn leftover(image: &Image, survey: &Survey, limit: Duration, now: Timestamp) -> Leftover {
    let Some(run) = image.tag(tags::RUN) else {
        return Leftover::Foreign;
    };
    match survey.runs.get(run).map(|known| known.state) {
        Some(RunState::Alive) => Leftover::Held(run.to_owned()),
        Some(RunState::Dead | RunState::Finished) => Leftover::Stale,
        None => {
            let age = image
                .created
                .parse::<Timestamp>()
                .map(|created| now.duration_since(created));
            match (age, SignedDuration::try_from(limit)) {
                (Ok(age), Ok(limit)) if age > limit => Leftover::Stale,
                _ => Leftover::Held(run.to_owned()),
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
