//! `rebake`: what is out of date is baked anew, as a candidate; people choose when to roll it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::json;

use super::bake::{Way, after_its_parent, cancel_on_signal, carry_out, not_baked};
use super::plan::{Order, Wishes, decide, pinned, rendered};
use crate::bake::images::{self, Image};
use crate::bake::names::Channel;
use crate::bake::packages::{Archive, Moved};
use crate::bake::plan::{Decision, LayerPlan};
use crate::bake::stale::{self, Facts, Judgement};
use crate::bake::{self, Baked, BaseError};
use crate::cli::args::{Format, RebakeArgs};
use crate::cli::context::{Connected, Context, cloud, invalid};
use crate::cli::error::{CliError, CliResult};
use crate::cli::lines::{Line, Word};
use crate::cli::locked::supply;
use crate::cli::{exit, github, output};
use crate::recipe::model::Resolved;
use crate::recipe::{self, Given, Lock};

/// A recipe and what is known about it.
struct Case {
    resolved: Resolved,
    /// Its line, rendered and hashed.
    layers: Vec<LayerPlan>,
    /// Id of the image that was judged.
    image: Option<String>,
    judgement: Judgement,
    outcome: Outcome,
}

enum Outcome {
    /// Nothing was done: it is fresh, or nobody asked to.
    Left,
    Baked(Box<Baked>),
    Failed(CliError),
    /// A parent of this name could not be baked; the same steps would fail again.
    ParentFailed(String),
}

pub async fn run(context: &Context, args: &RebakeArgs) -> CliResult {
    let lines = lines(context, &args.recipe)?;
    let connected = if args.dry_run {
        context.connect().await?
    } else {
        context.connect_to_act().await?
    };
    let mut judge = Judge::new(context, &connected, args.max_age)?;
    let mut cases = Vec::new();
    for (resolved, layers) in lines {
        let (image, judgement) = judge.judge(&resolved, &layers, layers.len() - 1).await?;
        let case = Case {
            image: image.map(|image| image.id),
            resolved,
            layers,
            judgement,
            outcome: Outcome::Left,
        };
        say(&case)?;
        cases.push(case);
    }
    if !args.dry_run && cases.iter().any(|case| case.judgement.is_stale()) {
        bake_all(context, &connected, &mut judge, &mut cases).await?;
    }
    end(context, cases, args.dry_run)
}

/// The recipes asked for, parents first, each with its line.
fn lines(context: &Context, asked: &[String]) -> Result<Vec<(Resolved, Vec<LayerPlan>)>, CliError> {
    let recipes = &context.settings.recipes;
    let mut lines = Vec::new();
    if asked.is_empty() {
        for name in recipe::names(recipes).map_err(|found| invalid(&found))? {
            match rendered(context, &name, &Given::default()) {
                Ok(line) => lines.push(line),
                // Sound but for its values: nobody is here to give them.
                Err(_) if recipe::load_for_lint(recipes, &name).is_ok() => output::note(&format!(
                    "left out: {name} needs values that only `bake --set` or `--values` gives"
                )),
                Err(error) => return Err(error),
            }
        }
    } else {
        for name in asked.iter().collect::<BTreeSet<_>>() {
            lines.push(rendered(context, name, &Given::default())?);
        }
    }
    lines.sort_by(|(a, _), (b, _)| (a.line.len(), &a.name).cmp(&(b.line.len(), &b.name)));
    Ok(lines)
}

/// Finds out what is known, and asks for everything once.
struct Judge<'a> {
    context: &'a Context,
    connected: &'a Connected,
    max_age: Option<Duration>,
    archive: Archive,
    /// By recipe, newest first.
    images: BTreeMap<String, Vec<Image>>,
    /// By reference and architecture.
    bases: BTreeMap<String, Result<String, String>>,
    /// By image.
    packages: BTreeMap<String, Result<Vec<Moved>, String>>,
}

impl<'a> Judge<'a> {
    fn new(
        context: &'a Context,
        connected: &'a Connected,
        max_age: Option<Duration>,
    ) -> Result<Self, CliError> {
        Ok(Self {
            context,
            connected,
            max_age,
            archive: Archive::new()
                .map_err(|error| CliError::failure(format!("cannot prepare TLS: {error}")))?,
            images: BTreeMap::new(),
            bases: BTreeMap::new(),
            packages: BTreeMap::new(),
        })
    }

    /// Judges a recipe of a line, by its place in it.
    async fn judge(
        &mut self,
        resolved: &Resolved,
        layers: &[LayerPlan],
        place: usize,
    ) -> Result<(Option<Image>, Judgement), CliError> {
        let layer = &layers[place];
        let images = self.images(&layer.recipe).await?;
        let image = stale::newest(&images, &layer.digest).cloned();
        let base = self.base(resolved).await?;
        // What is locked does not move by a bake, but by `lock --update`.
        let locked = resolved.line.iter().any(|recipe| recipe.lock.is_some());
        let packages = match &image {
            Some(image) if !locked => self.packages(image).await?,
            _ => Ok(Vec::new()),
        };
        let judgement = stale::judge(&Facts {
            digest: &layer.digest,
            image: image.as_ref(),
            base: base.as_deref().map_err(String::as_str),
            packages: packages.as_deref().map_err(String::as_str),
            max_age: self.max_age.unwrap_or(resolved.build.max_age),
            now: self.context.clock.now(),
        });
        Ok((image, judgement))
    }

    /// The images of parents that a bake may start from: what is stale in them would be stale in the child.
    async fn fresh_parents(
        &mut self,
        resolved: &Resolved,
        layers: &[LayerPlan],
    ) -> Result<BTreeSet<String>, CliError> {
        let mut fresh = BTreeSet::new();
        for place in 0..layers.len() - 1 {
            if let (Some(image), judgement) = self.judge(resolved, layers, place).await?
                && judgement.is_fresh()
            {
                fresh.insert(image.id);
            }
        }
        Ok(fresh)
    }

    async fn images(&mut self, recipe: &str) -> Result<Vec<Image>, CliError> {
        if let Some(known) = self.images.get(recipe) {
            return Ok(known.clone());
        }
        let images = images::list(&self.connected.clients, Some(recipe))
            .await
            .map_err(|error| cloud(&error))?;
        self.images.insert(recipe.to_owned(), images.clone());
        Ok(images)
    }

    /// There is a new image of this recipe.
    fn forget(&mut self, recipe: &str) {
        self.images.remove(recipe);
    }

    async fn base(&mut self, resolved: &Resolved) -> Result<Result<String, String>, CliError> {
        let architecture = &resolved.image.architecture;
        let clients = &self.connected.clients;
        let pins = resolved.root_lock().map(Lock::pins).unwrap_or_default();
        let base = pinned(&resolved.base, &pins, self.connected, architecture)?;
        let key = format!("{base:?} {architecture}");
        if let Some(known) = self.bases.get(&key) {
            return Ok(known.clone());
        }
        let found = bake::resolve(clients, &base, architecture).await;
        let base = match found {
            Ok(image) => Ok(image.id),
            Err(BaseError::Cloud(error)) => return Err(cloud(&error)),
            Err(error) => Err(error.to_string()),
        };
        self.bases.insert(key, base.clone());
        Ok(base)
    }

    async fn packages(&mut self, image: &Image) -> Result<Result<Vec<Moved>, String>, CliError> {
        if let Some(known) = self.packages.get(&image.id) {
            return Ok(known.clone());
        }
        let record = images::packages(&self.connected.clients, &image.id)
            .await
            .map_err(|error| cloud(&error))?;
        let moved = match record {
            Some(record) => self.archive.moved(&record).await,
            None => Err(format!("it was not noted which ones {} holds", image.id)),
        };
        self.packages.insert(image.id.clone(), moved.clone());
        Ok(moved)
    }
}

/// Bakes what is stale, parents first. A failure does not stop what does not depend on it; an interruption stops all.
async fn bake_all(
    context: &Context,
    connected: &Connected,
    judge: &mut Judge<'_>,
    cases: &mut [Case],
) -> Result<(), CliError> {
    let (cancel, under_way) = cancel_on_signal(context)?;
    let mut failed: BTreeSet<String> = BTreeSet::new();
    for case in cases.iter_mut().filter(|case| case.judgement.is_stale()) {
        let recipe = case.resolved.name.clone();
        let parents = &case.layers[..case.layers.len() - 1];
        if let Some(parent) = parents.iter().find(|layer| failed.contains(&layer.recipe)) {
            case.outcome = Outcome::ParentFailed(parent.recipe.clone());
            failed.insert(recipe);
            continue;
        }
        let wishes = Wishes {
            // Its digest may be the same: what moved is not an input.
            force: true,
            channel: Channel::Candidate,
            starts: Some(judge.fresh_parents(&case.resolved, &case.layers).await?),
        };
        let order = Order::new(&case.resolved, case.layers.clone()).pinned(connected)?;
        supply(context, connected, &[&order], false).await?;
        let decision = decide(context, connected, &order, wishes.clone()).await;
        let result = match decision {
            Ok(Decision::Bake(plan)) => {
                let way = Way {
                    cancel: cancel.clone(),
                    under_way: under_way.clone(),
                    keep_on_failure: false,
                    progress: context.progress(),
                    saved: None,
                    run: None,
                };
                let way = way.resumable(context, connected, (&order, &wishes), &plan);
                carry_out(context, connected, &plan, way).await
            }
            Ok(Decision::AlreadyBaked(_)) => Err(CliError::new(
                exit::BUG,
                "a bake that was asked for anew was not planned",
            )),
            Err(error) => Err(error),
        };
        match result {
            Ok(baked) => {
                judge.forget(&recipe);
                case.outcome = Outcome::Baked(Box::new(baked));
            }
            Err(error) if error.code == exit::INTERRUPTED => return Err(error),
            Err(error) => {
                output::note(error.render(context.err).trim_end());
                failed.insert(recipe);
                case.outcome = Outcome::Failed(error);
            }
        }
    }
    Ok(())
}

fn judgement(case: &Case) -> serde_json::Value {
    json!({
        "recipe": case.resolved.name,
        "image_id": case.image,
        "stale": case.judgement.is_stale(),
        "reasons": case.judgement.reasons,
        "unknown": case.judgement.unknown,
    })
}

fn outcome(case: &Case) -> serde_json::Value {
    match &case.outcome {
        Outcome::Left => json!({ "outcome": "left" }),
        Outcome::Baked(baked) => json!({ "outcome": "baked", "baked": baked }),
        Outcome::Failed(error) => json!({ "outcome": "failed", "error": error.to_json() }),
        Outcome::ParentFailed(parent) => json!({ "outcome": "parent-failed", "parent": parent }),
    }
}

/// What was found out about a recipe, as soon as it is.
fn say(case: &Case) -> Result<(), CliError> {
    if output::has_lines() {
        return output::line(&Line::now(Word::Judgement {
            judgement: judgement(case),
        }));
    }
    let word = match (case.judgement.is_stale(), case.judgement.is_fresh()) {
        (true, _) => "is stale",
        (_, true) => "is up to date",
        _ => "cannot be judged",
    };
    let image = case.image.as_deref().unwrap_or("no image");
    output::note(&format!("{} {word} ({image})", case.resolved.name));
    for reason in &case.judgement.reasons {
        output::note(&format!("  {reason}"));
    }
    for unknown in &case.judgement.unknown {
        output::note(&format!("  unknown: {unknown}"));
    }
    Ok(())
}

fn end(context: &Context, cases: Vec<Case>, dry_run: bool) -> CliResult {
    context.summarize(&summary(&cases, dry_run))?;
    let stale = cases
        .iter()
        .filter(|case| case.judgement.is_stale())
        .count();
    let unknown: Vec<String> = cases
        .iter()
        .filter(|case| {
            !case.judgement.unknown.is_empty() && !matches!(case.outcome, Outcome::Baked(_))
        })
        .map(|case| case.resolved.name.clone())
        .collect();
    let mut left_over = false;
    for case in &cases {
        let recipe = &case.resolved.name;
        if let Outcome::Baked(baked) = &case.outcome {
            left_over |= !baked.left_over.is_empty();
            if context.format == Format::Human {
                output::data(&format!("{recipe}@candidate {}\n", baked.image))?;
            }
        }
    }
    if context.format == Format::Json {
        let recipes: Vec<_> = cases
            .iter()
            .map(|case| {
                let mut all = judgement(case);
                all["result"] = outcome(case);
                all
            })
            .collect();
        output::json(&json!({ "recipes": recipes }))?;
    }
    if context.format == Format::Human {
        let what = match (stale, dry_run) {
            (0, _) => "nothing is stale; nothing was baked".to_owned(),
            (1, true) => "1 recipe is stale; nothing was baked".to_owned(),
            (count, true) => format!("{count} recipes are stale; nothing was baked"),
            _ => "roll a candidate with: piaas-bake roll start GROUP --image RECIPE@candidate"
                .to_owned(),
        };
        output::note(&what);
    }
    let total = cases.len();
    let mut code = None;
    let mut names = Vec::new();
    for case in cases {
        match case.outcome {
            Outcome::Failed(error) => {
                names.push(case.resolved.name);
                code.get_or_insert(error.code);
            }
            Outcome::ParentFailed(parent) => {
                names.push(after_its_parent(&case.resolved.name, &parent));
            }
            Outcome::Left | Outcome::Baked(_) => {}
        }
    }
    // The first failure was shown whole; its code is the most telling.
    if let Some(code) = code {
        return context.failed_after_its_document(not_baked(code, &names, total));
    }
    if !unknown.is_empty() {
        let unclear = CliError::failure(format!(
            "not everything could be told about {}; what is unknown makes nothing stale",
            unknown.join(", ")
        ))
        .hint("the lines above say what, and why; try again, or bake: piaas-bake bake RECIPE --candidate --force");
        return context.failed_after_its_document(unclear);
    }
    Ok(if left_over {
        exit::CLEANUP_INCOMPLETE
    } else {
        exit::DONE
    })
}

fn summary(cases: &[Case], dry_run: bool) -> String {
    let rows: Vec<Vec<String>> = cases
        .iter()
        .map(|case| {
            let judgement = &case.judgement;
            let outcome = match &case.outcome {
                Outcome::Baked(baked) => format!("candidate {}", baked.image),
                Outcome::Failed(error) => format!("failed: {}", error.message),
                Outcome::ParentFailed(parent) => format!("left out: its parent {parent} failed"),
                Outcome::Left if judgement.is_stale() => "stale".to_owned(),
                Outcome::Left if judgement.is_fresh() => "up to date".to_owned(),
                Outcome::Left => "cannot be judged".to_owned(),
            };
            let why = judgement.reasons.iter().map(ToString::to_string).chain(
                judgement
                    .unknown
                    .iter()
                    .map(|what| format!("unknown: {what}")),
            );
            vec![
                case.resolved.name.clone(),
                outcome,
                case.image.clone().unwrap_or_default(),
                why.collect::<Vec<_>>().join("; "),
            ]
        })
        .collect();
    let title = if dry_run {
        "Rebake (only looked)"
    } else {
        "Rebake"
    };
    format!(
        "### {title}\n\n{}",
        github::table(&["recipe", "outcome", "image before", "why"], &rows)
    )
}
