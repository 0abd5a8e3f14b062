//! `plan`: what a bake would do and where. Changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde_json::json;

use super::policy::with_key;
use super::{changed, saved, show};
use crate::bake::images::Image;
use crate::bake::names::Channel;
use crate::bake::plan::{Decision, LayerPlan, Plan, Target};
use crate::bake::{self, SurveyError, calls};
use crate::cli::args::{CloudName, Format, HowArgs, PlanArgs};
use crate::cli::context::{Connected, Context, cloud, invalid, say_without_effect};
use crate::cli::error::{CliError, CliResult};
use crate::cli::style::elapsed;
use crate::cli::{exit, lent, output};
use crate::recipe::model::{BaseRef, BuildSpec, ImageSpec, Resolved};
use crate::recipe::{Given, LocalBase, Lock, LockedPackage, lock};
use crate::{digest, iam, render};

pub async fn run(context: &Context, args: &PlanArgs) -> CliResult {
    let recipe = match (&args.changed_since, &args.recipe) {
        (Some(rev), _) => return changed::run(context, args, rev),
        (None, recipe) => recipe.as_deref().unwrap_or_default(),
    };
    if let Some(plan) = saved::named(recipe, &args.sets, &args.how)? {
        let connected = context.connect().await?;
        let (order, decision) = saved::reopen(context, &connected, &plan).await?;
        return show_plan(context, &connected, &order, recipe, &decision).await;
    }
    let order = prepare(context, recipe, &args.sets.given())?;
    order.check_locked(args.how.only_locked())?;
    let connected = context.connect().await?;
    let order = order.pinned(&connected)?;
    let decision = decide(context, &connected, &order, Wishes::from(&args.how)).await?;
    if let Some(path) = &args.output {
        saved::write(context, &connected, &order, &args.how, &decision, path)?;
    }
    let what = args
        .output
        .as_deref()
        .map_or_else(|| recipe.to_owned(), saved::as_argument);
    show_plan(context, &connected, &order, &what, &decision).await
}

async fn show_plan(
    context: &Context,
    connected: &Connected,
    order: &Order,
    argument: &str,
    decision: &Decision,
) -> CliResult {
    match context.format {
        Format::Json => output::json(&as_json(context, connected, order, decision).await?)?,
        Format::Human => output::data(&text(context, connected, order, argument, decision))?,
    }
    Ok(exit::DONE)
}

/// What is to be baked: a recipe's line as it is now, or as a plan file has kept it.
#[derive(Debug, Clone)]
pub struct Order {
    pub recipe: String,
    pub description: String,
    pub base: BaseRef,
    pub layers: Vec<LayerPlan>,
    /// The disk of each layer's image.
    pub disks: Vec<ImageSpec>,
    pub build: BuildSpec,
    /// The image that it stands on here, once that is known: the one that a lock file pins, or what `base` means.
    pub stands_on: BaseRef,
    /// What the lock file at the root pins ([`Lock::pins`]).
    pub pins: BTreeMap<String, String>,
    /// What the base of the local cloud is made of, if that is locked.
    pub local_base: Option<LocalBase>,
    /// The files that the line's lock files name, of packages and downloads.
    pub debs: Vec<LockedPackage>,
    /// The recipes of the line that have no lock file.
    pub unlocked: Vec<String>,
}

impl Order {
    /// The order of a recipe that has been rendered.
    #[must_use]
    pub fn new(resolved: &Resolved, layers: Vec<LayerPlan>) -> Self {
        let root = resolved.root_lock();
        Self {
            recipe: resolved.name.clone(),
            description: resolved.description.clone(),
            base: resolved.base.clone(),
            layers,
            disks: resolved
                .line
                .iter()
                .map(|recipe| recipe.image.clone())
                .collect(),
            build: resolved.build.clone(),
            stands_on: resolved.base.clone(),
            pins: root.map(Lock::pins).unwrap_or_default(),
            local_base: root.and_then(|lock| lock.local_base.clone()),
            debs: resolved
                .line
                .iter()
                .filter_map(|recipe| recipe.lock.as_ref())
                .flat_map(Lock::files)
                .collect(),
            unlocked: resolved
                .line
                .iter()
                .filter(|recipe| recipe.lock.is_none())
                .map(|recipe| recipe.name.clone())
                .collect(),
        }
    }

    /// Lets the line stand on the very image that its lock file names for this region.
    ///
    /// # Errors
    /// The local cloud's records cannot be written.
    pub fn pinned(mut self, connected: &Connected) -> Result<Self, CliError> {
        let architecture = &self.image().architecture;
        self.stands_on = pinned(&self.base, &self.pins, connected, architecture)?;
        Ok(self)
    }

    /// The digest of the base of the local cloud that its lock file names.
    #[must_use]
    pub fn base_digest(&self) -> Option<&str> {
        let place = Lock::place(lock::LOCAL, &self.image().architecture);
        self.pins.get(&place).map(String::as_str)
    }

    /// Refuses a line of which not every recipe has a lock file, if an option asks for that.
    ///
    /// # Errors
    /// Exit code 4.
    pub fn check_locked(&self, asked: Option<&str>) -> Result<(), CliError> {
        let (Some(option), Some(first)) = (asked, self.unlocked.first()) else {
            return Ok(());
        };
        let names = self.unlocked.join(", ");
        Err(CliError::new(
            exit::MISMATCH,
            format!("{option}, and there is no lock file for {names}"),
        )
        .hint(format!("make it, and commit it: piaas-bake lock {first}")))
    }

    /// What is asked for, on this image at the root of the line.
    #[must_use]
    pub fn target(&self, connected: &Connected, base: Image, wishes: &Wishes) -> Target {
        Target {
            description: self.description.clone(),
            base,
            layers: self.layers.clone(),
            image: self.image().clone(),
            build: self.build.clone(),
            force: wishes.force,
            channel: wishes.channel,
            by_step: connected.local.is_some(),
        }
    }

    /// The disk of the image.
    #[must_use]
    pub fn image(&self) -> &ImageSpec {
        self.disks
            .last()
            .expect("a line has the recipe itself at its end")
    }
}

/// Loads, renders and hashes a recipe.
///
/// # Errors
/// An invalid recipe, or a secret that this cloud cannot have (exit code 3).
pub fn prepare(context: &Context, recipe: &str, given: &Given) -> Result<Order, CliError> {
    let (resolved, layers) = rendered(context, recipe, given)?;
    if context.settings.cloud == CloudName::Aws {
        let found = lent::only_local(&resolved.about);
        found.or(()).map_err(|found| invalid(&found))?;
    }
    Ok(Order::new(&resolved, layers))
}

/// As [`prepare`], with all that the recipe says.
///
/// # Errors
/// As [`prepare`].
pub fn rendered(
    context: &Context,
    recipe: &str,
    given: &Given,
) -> Result<(Resolved, Vec<LayerPlan>), CliError> {
    let resolved =
        render::load(&context.settings.recipes, recipe, given).map_err(|found| invalid(&found))?;
    let layers = layers_of(context, &resolved)?;
    say_without_effect(&resolved);
    for (one, layer) in resolved.line.iter().zip(&layers) {
        let lock = one.lock.as_ref();
        let mut lacks = lock.map_or_else(Vec::new, |lock| lock.lacks(&layer.layer.packages));
        for asked in &layer.layer.downloads {
            match lock.map(|lock| lock.download(&asked.url)) {
                Some(None) => lacks.push(&asked.url),
                Some(Some(locked)) if locked.sha256 != asked.sha256 => {
                    return Err(CliError::new(
                        exit::MISMATCH,
                        format!(
                            "{} and its lock file do not agree about {}: its sha256 is {} for the recipe, and {} for the lock file",
                            one.name, asked.url, asked.sha256, locked.sha256
                        ),
                    )
                    .hint(format!("correct the recipe, or lock it again: piaas-bake lock {}", one.name)));
                }
                _ => {}
            }
        }
        if !lacks.is_empty() {
            return Err(CliError::new(
                exit::MISMATCH,
                format!(
                    "the lock file of {} does not have all that it installs: {} came later",
                    one.name,
                    lacks.join(", ")
                ),
            )
            .hint(format!("lock it again: piaas-bake lock {}", one.name)));
        }
    }
    Ok((resolved, layers))
}

/// Renders and hashes a line.
///
/// # Errors
/// An invalid recipe (exit code 3), or no agent for it.
pub fn layers_of(context: &Context, resolved: &Resolved) -> Result<Vec<LayerPlan>, CliError> {
    let rendered = context.render(resolved)?;
    let chain = digest::chain(resolved, &rendered);
    Ok(chain
        .into_iter()
        .zip(rendered)
        .map(|((manifest, digest), layer)| LayerPlan::new(layer, &manifest, digest))
        .collect())
}

/// The base image here: the one that a lock file pins, or what the recipe says. The local cloud offers the one of a
/// digest, whether it has been made yet or not.
///
/// # Errors
/// The local cloud's records cannot be written.
pub fn pinned(
    base: &BaseRef,
    pins: &BTreeMap<String, String>,
    connected: &Connected,
    architecture: &str,
) -> Result<BaseRef, CliError> {
    let region = &connected.clients.region;
    let place = connected
        .local
        .as_ref()
        .map_or(region.as_str(), |_| lock::LOCAL);
    let id = match (
        pins.get(&Lock::place(place, architecture)),
        &connected.local,
    ) {
        (None, _) => return Ok(base.clone()),
        (Some(id), None) => id.clone(),
        (Some(digest), Some(local)) => local.offer_base(region, digest).map_err(|error| {
            CliError::failure("cannot write the local cloud's records").because(&error)
        })?,
    };
    Ok(BaseRef::Ami { id })
}

/// How to bake.
#[derive(Debug, Clone)]
pub struct Wishes {
    /// Although an image of the digest exists.
    pub force: bool,
    /// What is to name the image.
    pub channel: Channel,
    /// Ids of the only images of parents to start from; `None` allows all. Empty: from the base image.
    pub starts: Option<BTreeSet<String>>,
}

impl Wishes {
    /// How a bake is asked for on the command line. Without a cache no image of a parent is started from.
    #[must_use]
    pub fn new(force: bool, channel: Channel, no_cache: bool) -> Self {
        Self {
            force,
            channel,
            starts: no_cache.then(BTreeSet::new),
        }
    }
}

impl From<&HowArgs> for Wishes {
    fn from(how: &HowArgs) -> Self {
        let channel = if how.candidate {
            Channel::Candidate
        } else {
            Channel::Latest
        };
        Self::new(how.force, channel, how.no_cache)
    }
}

/// Looks at the cloud and decides what a bake would do.
///
/// # Errors
/// The base image cannot be found, the cloud refuses, or the recipe cannot be baked here and now.
pub async fn decide(
    context: &Context,
    connected: &Connected,
    order: &Order,
    wishes: Wishes,
) -> Result<Decision, CliError> {
    let clients = &connected.clients;
    let base = bake::resolve(clients, &order.stands_on, &order.image().architecture)
        .await
        .map_err(|error| match &error {
            bake::BaseError::Cloud(error) => cloud(error),
            bake::BaseError::NoImage { id, .. } if order.pins.values().any(|pin| pin == id) => {
                CliError::new(
                    exit::MISMATCH,
                    format!("{error}, and the lock file names it"),
                )
                .hint(
                    "move the lock file of the recipe at the root: piaas-bake lock RECIPE --update",
                )
            }
            error => CliError::failure(error.to_string()),
        })?;
    let target = order.target(connected, base, &wishes);
    let mut survey = bake::survey(clients, &target, &context.runs())
        .await
        .map_err(|error| match &error {
            SurveyError::Cloud(error) => cloud(error),
            SurveyError::Journal(error) => CliError::failure(error.to_string()),
        })?;
    if let Some(starts) = wishes.starts {
        // An image of a parent that nobody sees is not started from.
        let top = target.layers.last().map(|layer| layer.digest.clone());
        survey
            .of_line
            .retain(|image| image.digest() == top.as_deref() || starts.contains(&image.id));
        survey.steps.retain(|image| starts.contains(&image.id));
    }
    bake::plan::plan(&target, &survey, context.clock.now())
        .map_err(|error| CliError::failure(error.to_string()))
}

async fn as_json(
    context: &Context,
    connected: &Connected,
    order: &Order,
    decision: &Decision,
) -> Result<serde_json::Value, CliError> {
    let place = json!({
        "cloud": connected.clients.cloud,
        "account": connected.account.id,
        "region": connected.clients.region,
    });
    let bundles = context.settings.bundles.as_ref();
    Ok(match decision {
        Decision::AlreadyBaked(image) => json!({
            "decision": "already-baked",
            "place": place,
            "image_id": image.id,
            "name": image.name,
            "digest": image.digest(),
        }),
        Decision::Bake(plan) => json!({
            "decision": "bake",
            "place": place,
            "name": plan.image_name,
            "digest": plan.digest,
            "base_image": plan.base.id,
            "start_image": plan.start.image.id,
            "layers": plan.layers,
            "steps": plan.steps.iter().map(|step| &step.title).collect::<Vec<_>>(),
            "validate": plan.validate.iter().map(|step| &step.title).collect::<Vec<_>>(),
            "test": plan.test.iter().map(|step| &step.title).collect::<Vec<_>>(),
            "creates_for_a_while": plan.temporaries(bundles),
            "phases": plan.phases().map(bake::Phase::title),
            "stale_images": plan.stale.iter().map(|image| &image.id).collect::<Vec<_>>(),
            "calls": calls::calls(plan, &order.base, bundles),
            "iam_policy": with_key(
                connected,
                iam::bake(plan, &order.base, bundles, iam_place(connected)),
            )
            .await?,
            "builder_iam_policy": iam::builder(plan, iam_place(connected)),
        }),
    })
}

/// Where a policy is for.
pub fn iam_place(connected: &Connected) -> iam::Place<'_> {
    iam::Place {
        account: &connected.account.id,
        region: &connected.clients.region,
    }
}

/// `argument` is what `bake` is to be given.
fn text(
    context: &Context,
    connected: &Connected,
    order: &Order,
    argument: &str,
    decision: &Decision,
) -> String {
    let style = context.out;
    let place = match context.settings.cloud {
        CloudName::Local => format!("the local cloud, region {}", connected.clients.region),
        CloudName::Aws => format!(
            "AWS account {}, region {}",
            connected.account.id, connected.clients.region
        ),
    };
    match decision {
        Decision::AlreadyBaked(image) => format!(
            "{} {} is baked already\n\n  image   {}\n  name    {}\n  digest  {}\n  where   {place}\n\nA bake would do nothing; --force makes it bake anew.\n",
            style.tick(),
            style.bold(&order.recipe),
            image.id,
            image.name,
            image.digest().unwrap_or("unknown"),
        ),
        Decision::Bake(plan) => bake_text(context, order, argument, plan, &place),
    }
}

fn bake_text(context: &Context, order: &Order, argument: &str, plan: &Plan, place: &str) -> String {
    let style = context.out;
    let mut out = format!(
        "{} would be baked\n\n  image   {}\n  digest  {}\n  where   {place}\n",
        style.bold(&order.recipe),
        plan.image_name,
        plan.digest
    );
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "  base    {} ({})",
        plan.base.id,
        show::base(&order.base)
    );
    let start = &plan.start;
    if start.is_step() {
        let _ = writeln!(
            out,
            "  start   {} (a layer): {} of {} scripts are not run again",
            start.image.id,
            start.scripts,
            plan.chain.len()
        );
    } else if start.layers > 0 {
        let _ = writeln!(
            out,
            "  start   {} ({}): its {} recipes are not run again",
            start.image.id, start.image.name, start.layers
        );
    }
    let build = &plan.build;
    let _ = writeln!(
        out,
        "  with    {}, {} GiB, at most {}",
        build.instance_types.join(" or "),
        plan.volume_gib,
        elapsed(build.timeout)
    );
    if let Some(run) = &plan.held {
        let _ = writeln!(
            out,
            "  waits   while run {run} bakes the same, and uses its image"
        );
    }
    for image in &plan.stale {
        let _ = writeln!(
            out,
            "  first   {} is removed: a run that died left it",
            image.id
        );
    }
    for (title, scripts) in [
        ("runs on the builder", &plan.steps),
        ("checks on the builder", &plan.validate),
        ("checks on a machine booted from the image", &plan.test),
    ] {
        if !scripts.is_empty() {
            let _ = writeln!(out, "\n{}", style.bold(title));
        }
        for script in scripts {
            let recipe = script.id.split('/').next().unwrap_or_default();
            let _ = writeln!(
                out,
                "  {} {}",
                script.title,
                style.dim(&format!("({recipe})"))
            );
        }
    }
    let _ = writeln!(out, "\n{}", style.bold("makes, and removes again"));
    for thing in plan.temporaries(context.settings.bundles.as_ref()) {
        let _ = writeln!(out, "  {thing}");
    }
    out.push_str(&calls_text(context, order, plan));
    let _ = writeln!(
        out,
        "\nNothing was changed. To do it: {}",
        context.commands().own(&format!("bake {argument}"))
    );
    out
}

/// The calls by when they are made, and what they need.
fn calls_text(context: &Context, order: &Order, plan: &Plan) -> String {
    let style = context.out;
    let mut out = format!("\n{}\n", style.bold("calls"));
    let calls = calls::calls(plan, &order.base, context.settings.bundles.as_ref());
    for group in calls.chunk_by(|one, next| one.when == next.when) {
        let names: Vec<String> = group
            .iter()
            .map(|call| format!("{}:{}", call.service, call.operation))
            .collect();
        let when = group.first().map_or("", |call| call.when.title());
        let _ = writeln!(out, "  {when:<24}{}", names.join(" "));
    }
    let _ = writeln!(
        out,
        "  with --format json: the IAM policy that allows these, and no more"
    );
    if let Some(profile) = &plan.build.instance_profile {
        let secrets = if plan.secrets.is_empty() {
            ""
        } else {
            ", and read access to the recipe's secrets"
        };
        let _ = writeln!(
            out,
            "  the builder's profile {profile} needs AmazonSSMManagedInstanceCore{secrets}"
        );
    }
    out
}
