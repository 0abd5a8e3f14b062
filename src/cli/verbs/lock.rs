//! `lock`: pins what recipes install, moves that, and says what has moved.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::json;

use super::bake::{Way, cancel_on_signal, describe, failed, watched};
use super::lock_args::{judge_order, judge_packages};
use super::plan::{Order, Wishes, decide, layers_of};
use crate::bake::lock::{Recorded, record};
use crate::bake::names::Channel;
use crate::bake::packages::{Archive, Moved, Part, Record};
use crate::bake::plan::Decision;
use crate::bake::{Settings, Stamped};
use crate::cli::args::{Format, LockArgs};
use crate::cli::context::{Connected, Context, invalid, io};
use crate::cli::downloads::settle;
use crate::cli::error::{CliError, CliResult};
use crate::cli::locked::supply;
use crate::cli::{exit, output};
use crate::localcloud::base;
use crate::recipe::lock::{self, Change};
use crate::recipe::model::{LineRecipe, Manager, Resolved};
use crate::recipe::{self, LocalBase, Lock, LockedDownload, LockedIndex, LockedPackage, Revision};
use crate::render::{self, locked};
use crate::whole;

pub async fn run(context: &Context, args: &LockArgs) -> CliResult {
    let mut names = args.recipe.clone();
    let update = args.update.as_deref();
    judge_order(context, &names, update.unwrap_or_default())?;
    if names.is_empty() {
        names = recipe::names(&context.settings.recipes).map_err(|found| invalid(&found))?;
    }
    match (&args.diff, args.check) {
        (Some(rev), _) => diff(context, &names, rev),
        (None, true) => check(context, &names).await,
        (None, false) => write(context, &names, update).await,
    }
}

fn load(context: &Context, name: &str) -> Result<Resolved, CliError> {
    let given = recipe::Given::default();
    render::load(&context.settings.recipes, name, &given).map_err(|found| invalid(&found))
}

/// The base images of a lock: [`Lock::base`] and [`Lock::local_base`].
type Bases = (BTreeMap<String, String>, Option<LocalBase>);

/// What came of one recipe.
struct Written {
    recipe: String,
    changes: Vec<Change>,
    /// In the local cloud's base.
    base_changes: Vec<Change>,
    download_changes: Vec<Change>,
    packages: usize,
    downloads: usize,
    /// Installed by a step from a file of its own.
    local: Vec<String>,
}

async fn write(context: &Context, names: &[String], update: Option<&[String]>) -> CliResult {
    // Everything is judged before anything is done.
    let mut lines = Vec::new();
    for name in names {
        let resolved = load(context, name)?;
        if let Some(recipe) = resolved.line.iter().find(|one| one.manager != Manager::Apt) {
            return Err(CliError::failure(format!(
                "{} installs its packages with {}; a lock file is for those of apt",
                recipe.name,
                recipe.manager.name()
            )));
        }
        judge_packages(context, &resolved, update.unwrap_or_default())?;
        lines.push(resolved);
    }
    // Parents first: what is written for one counts for the next.
    lines.sort_by_key(|resolved| (resolved.line.len(), resolved.name.clone()));
    let mut acting = None;
    let mut written: Vec<Written> = Vec::new();
    let mut left_over = false;
    for line in lines {
        let mut resolved = load(context, &line.name)?;
        let done: BTreeSet<&str> = written.iter().map(|one| one.recipe.as_str()).collect();
        let moves = update.is_some_and(<[_]>::is_empty) && !done.contains(line.name.as_str());
        let downloads = settle(context, &mut resolved, moves).await?;
        let open = to_lock(context, &resolved, update.is_some(), &done)?;
        for (one, downloads) in resolved.line.iter().zip(&downloads) {
            // For these alone nobody has to install packages.
            let lock = one.lock.as_ref().filter(|_| !open.contains(&one.name));
            if let Some(lock) = lock.filter(|lock| lock.downloads != *downloads) {
                let mut new = lock.clone();
                new.downloads.clone_from(downloads);
                written.push(put(one, &new, Vec::new())?);
            }
        }
        if open.is_empty() {
            continue;
        }
        let (connected, (cancel, under_way)) = match &acting {
            Some(acting) => acting,
            None => {
                let connected = context.connect_to_act().await?;
                acting.insert((connected, cancel_on_signal(context)?))
            }
        };
        let way = Way {
            cancel: cancel.clone(),
            under_way: under_way.clone(),
            keep_on_failure: false,
            progress: context.progress(),
            saved: None,
            run: None,
        };
        output::note(&format!("locking {}", open.join(", ")));
        let (recorded, base, clean) =
            one(context, connected, &resolved, (&open, update), way).await?;
        left_over |= !clean;
        for layer in recorded {
            let (new, local, recipe) = lock_of(&resolved, layer, &base, &downloads)?;
            written.push(put(recipe, &new, local)?);
        }
    }
    tell(context, names, &written)?;
    Ok(if left_over {
        exit::CLEANUP_INCOMPLETE
    } else {
        exit::DONE
    })
}

/// The recipes of a line that get a lock file now.
fn to_lock(
    context: &Context,
    resolved: &Resolved,
    update: bool,
    done: &BTreeSet<&str>,
) -> Result<Vec<String>, CliError> {
    let layers = layers_of(context, resolved)?;
    let mut names = Vec::new();
    for (one, layer) in resolved.line.iter().zip(&layers) {
        let moves = update && one.name == resolved.name && !done.contains(one.name.as_str());
        let lock = one.lock.as_ref();
        let outdated = lock.is_none_or(|lock| !lock.lacks(&layer.layer.packages).is_empty());
        if moves || outdated {
            names.push(one.name.clone());
        }
    }
    Ok(names)
}

/// Lets a builder install what these recipes of a line ask for; says whether it went without a trace.
async fn one(
    context: &Context,
    connected: &Connected,
    resolved: &Resolved,
    (recipes, update): (&[String], Option<&[String]>),
    way: Way,
) -> Result<(Vec<Recorded>, Bases, bool), CliError> {
    let mut free = resolved.clone();
    for one in &mut free.line {
        if recipes.contains(&one.name) {
            one.lock = None;
        }
    }
    let mut layers = layers_of(context, &free)?;
    for layer in layers
        .iter_mut()
        .filter(|layer| recipes.contains(&layer.recipe))
    {
        let [before, after] = locked::record(&layer.recipe);
        layer.layer.provision.insert(0, before);
        layer.layer.provision.push(after);
    }
    // The lock file that moves in part, and its packages that move.
    let moved = update.unwrap_or_default();
    let top = resolved.line.last().filter(|_| !moved.is_empty());
    let top = top.and_then(|top| top.lock.as_ref());
    let mut locks = locks_of(&free);
    if let (Some(lock), Some(layer)) = (top, layers.last_mut()) {
        locks.push((&resolved.name, lock));
        let pins = locked::pins(&locks, moved, &layer.layer.packages);
        // After what notes the packages that were there before.
        layer.layer.provision.splice(1..1, pins);
    }
    let mut order = Order::new(&free, layers);
    let of_root = recipes.contains(&resolved.line[0].name);
    let old = resolved.root_lock();
    if let Some(lock) = top {
        order.pins = old.map(Lock::pins).unwrap_or_default();
        order.debs.extend(lock.without(moved).files());
    }
    let of_old = old.and_then(|lock| lock.local_base.as_ref());
    let local = match connected.local {
        Some(_) if of_root => {
            base_to_lock(context, of_old, update.is_some_and(<[_]>::is_empty)).await?
        }
        _ => None,
    };
    if let Some(local) = &local {
        let place = Lock::place(lock::LOCAL, &resolved.image.architecture);
        order.pins.insert(place, local.digest());
        order.local_base = Some(local.clone());
    }
    let order = order.pinned(connected)?;
    supply(context, connected, &[&order], false).await?;
    // From the base: an image of a parent may have been baked without its lock.
    let decision = decide(
        context,
        connected,
        &order,
        Wishes::new(true, Channel::Candidate, true),
    )
    .await?;
    let Decision::Bake(plan) = decision else {
        return Err(CliError::new(
            exit::BUG,
            "a run that was asked for was not planned",
        ));
    };
    let clients = &connected.clients;
    let act = async |settings: Settings<'_>, sink: &tokio::sync::mpsc::UnboundedSender<Stamped>| {
        record(clients, &plan, recipes, settings, sink).await
    };
    let (result, returned) = watched(context, connected, &plan, way, act).await?;
    let record = result.map_err(|error| {
        let mut edge = failed(context, &error);
        edge.hints.retain(|hint| !hint.contains("the bake created"));
        edge.message = edge.message.replacen("the bake", "locking", 1);
        for line in &error.last_lines {
            if let Some(command) = line.strip_prefix(locked::MOVE_TOO) {
                edge = edge.hint(format!(
                    "what is locked stands in the way; move it too: {command}"
                ));
            }
        }
        edge
    })?;
    returned?;
    for left in &record.left_over {
        output::note(&format!("{}: {}", resolved.name, describe(left)));
    }
    // What the root's lock pins stays for the clouds and regions that are not here.
    let mut base = old.map(|lock| lock.base.clone()).unwrap_or_default();
    let local = local.or_else(|| of_old.cloned());
    if connected.local.is_none() {
        let here = Lock::place(&connected.clients.region, &resolved.image.architecture);
        base.insert(here, plan.base.id.clone());
    }
    let locks: Vec<&Lock> = locks.into_iter().map(|(_, lock)| lock).collect();
    let layers = record.layers.into_iter().map(|layer| match top {
        Some(old) if layer.recipe == resolved.name => layer.kept(old, &locks),
        _ => layer,
    });
    Ok((layers.collect(), (base, local), record.left_over.is_empty()))
}

/// The lock files of a line, root first.
fn locks_of(resolved: &Resolved) -> Vec<(&str, &Lock)> {
    let line = resolved.line.iter();
    line.filter_map(|one| Some((one.name.as_str(), one.lock.as_ref()?)))
        .collect()
}

/// What the local cloud's base is made of, which a root's lock file is to name: what it names already, else that of this
/// host. If the lock is moved, the first of these that the mirror has not left behind, else a new one.
async fn base_to_lock(
    context: &Context,
    old: Option<&LocalBase>,
    update: bool,
) -> Result<Option<LocalBase>, CliError> {
    let (own, mirror) = (context.settings.base_dir(), context.settings.mirror.clone());
    let known: Vec<LocalBase> = old.cloned().into_iter().chain(base::record(&own)).collect();
    if !update || known.is_empty() {
        return Ok(known.into_iter().next());
    }
    let mut archive = Archive::new()
        .map_err(|error| CliError::failure(format!("cannot prepare TLS: {error}")))?;
    let mut behind = 0;
    for one in known {
        let record = Record::after(None, Part::locked(&one.indexes, &one.packages));
        let moved = archive.moved(&record).await.map_err(|error| {
            CliError::failure(format!(
                "cannot tell whether the base image has moved: {error}"
            ))
        })?;
        if moved.is_empty() {
            return Ok(Some(one));
        }
        behind = moved.len();
    }
    let packages = if behind == 1 { "package" } else { "packages" };
    let title = format!("Debian base image from {mirror}: {behind} {packages} moved");
    let made = context.show_base(&title, move |progress| base::renew(&own, &mirror, progress));
    made.await?
        .map_err(|error| CliError::failure("cannot make a new base image").because(&error))
}

/// The new lock of a recipe of the line, and what of its layer it cannot have.
fn lock_of<'r>(
    resolved: &'r Resolved,
    layer: Recorded,
    (base, local): &Bases,
    downloads: &[Vec<LockedDownload>],
) -> Result<(Lock, Vec<String>, &'r LineRecipe), CliError> {
    let (recipe, downloads) = resolved
        .line
        .iter()
        .zip(downloads)
        .find(|(one, _)| one.name == layer.recipe)
        .ok_or_else(|| CliError::new(exit::BUG, "a layer of no recipe was recorded"))?;
    let asked = recipe.packages.iter().map(|package| package.name.clone());
    let mut new = Lock::new(&recipe.name, asked, layer.indexes, layer.packages);
    new.downloads.clone_from(downloads);
    if resolved
        .line
        .first()
        .is_some_and(|root| root.name == recipe.name)
    {
        new.base = base.clone();
        new.local_base = local.clone();
        new.source_date = Some(Lock::kept_date(recipe.lock.as_ref()));
    }
    Ok((new, layer.local, recipe))
}

/// Writes the lock file of a recipe: the old one or the new one is there, whatever happens.
fn put(recipe: &LineRecipe, new: &Lock, local: Vec<String>) -> Result<Written, CliError> {
    let old = recipe.lock.clone();
    let old = old.unwrap_or_else(|| Lock::new(&recipe.name, [], Vec::new(), Vec::new()));
    let path = recipe.dir.join(lock::FILE);
    whole::replace(&path, new.to_text().as_bytes()).map_err(|error| io("write", &path, &error))?;
    Ok(Written {
        recipe: recipe.name.clone(),
        changes: old.changes(new),
        base_changes: old.base_changes(new),
        download_changes: old.download_changes(new),
        packages: new.packages.len(),
        downloads: new.downloads.len(),
        local,
    })
}

fn tell(context: &Context, names: &[String], written: &[Written]) -> Result<(), CliError> {
    if context.format == Format::Json {
        let recipes = written.iter().map(|one| {
            json!({
                "recipe": one.recipe,
                "packages": one.packages,
                "changes": one.changes,
                "base_changes": one.base_changes,
                "downloads": one.downloads,
                "download_changes": one.download_changes,
                "local": one.local,
            })
        });
        return output::json(&json!({ "locked": recipes.collect::<Vec<_>>() }));
    }
    if written.is_empty() {
        let what = names.join(", ");
        output::note(&format!(
            "{} {what}: the lock files have all that is asked for; --update moves them",
            context.err.tick()
        ));
    }
    for one in written {
        output::note(&format!(
            "{} {}: {} packages{} locked",
            context.err.tick(),
            one.recipe,
            one.packages,
            match one.downloads {
                0 => String::new(),
                1 => ", 1 download".to_owned(),
                count => format!(", {count} downloads"),
            }
        ));
        for local in &one.local {
            output::note(&format!(
                "  {local} is in no archive: a step installs it, and has to check what it installs"
            ));
        }
        output::data(&changes_text(&one.recipe, &one.changes))?;
        output::data(&base_text(&one.recipe, &one.base_changes))?;
        output::data(&downloads_text(&one.recipe, &one.download_changes))?;
    }
    Ok(())
}

/// What moved in the local cloud's base. That it is locked at all is no list of packages.
fn base_text(recipe: &str, changes: &[Change]) -> String {
    if !changes.is_empty() && changes.iter().all(|change| change.from.is_none()) {
        return format!(
            "{recipe}  base image of the local cloud  + {} packages\n",
            changes.len()
        );
    }
    changes_text(&format!("{recipe} base"), changes)
}

/// Downloads that are another file, each by the first digits of its sha256.
fn downloads_text(recipe: &str, changes: &[Change]) -> String {
    let short = |sha256: &Option<String>| sha256.as_ref().map(|sha256| sha256[..12].to_owned());
    let changes = changes.iter().map(|change| Change {
        package: change.package.clone(),
        from: short(&change.from),
        to: short(&change.to),
    });
    changes_text(recipe, &changes.collect::<Vec<_>>())
}

/// Packages that moved, as people read them.
fn changes_text(recipe: &str, changes: &[Change]) -> String {
    let widest = changes.iter().map(|change| change.package.len()).max();
    let width = widest.unwrap_or(0);
    changes
        .iter()
        .map(|Change { package, from, to }| {
            let how = match (from, to) {
                (Some(from), Some(to)) if from == to => format!("{from}, another file"),
                (Some(from), Some(to)) => format!("{from} -> {to}"),
                (None, Some(to)) => format!("+ {to}"),
                (Some(from), None) => format!("- {from}"),
                (None, None) => String::new(),
            };
            format!("{recipe}  {package:width$}  {how}\n")
        })
        .collect()
}

/// What is another in the lock files than at a revision.
fn diff(context: &Context, names: &[String], rev: &str) -> CliResult {
    let recipes = &context.settings.recipes;
    let revision =
        Revision::checkout(recipes, rev).map_err(|error| CliError::failure(error.to_string()))?;
    let mut documents = Vec::new();
    for name in names {
        let read = |dir: &Path| {
            let lock = Lock::beside(&dir.join(name), name);
            lock.map_err(|wrong| invalid(&crate::recipe::Diagnostics(vec![wrong])))
        };
        let none = || Lock::new(name, [], Vec::new(), Vec::new());
        let old = read(revision.recipes())?.unwrap_or_else(none);
        let new = read(recipes)?.unwrap_or_else(none);
        let (changes, of_base) = (old.changes(&new), old.base_changes(&new));
        let downloads = old.download_changes(&new);
        match context.format {
            Format::Json => documents.push(json!({
                "recipe": name,
                "changes": changes,
                "base_changes": of_base,
                "download_changes": downloads,
            })),
            Format::Human => {
                output::data(&changes_text(name, &changes))?;
                output::data(&base_text(name, &of_base))?;
                output::data(&downloads_text(name, &downloads))?;
            }
        }
    }
    if context.format == Format::Json {
        output::json(&json!({ "since": rev, "locks": documents }))?;
    }
    Ok(exit::DONE)
}

/// What archives offer in a newer version than the lock files have.
async fn check(context: &Context, names: &[String]) -> CliResult {
    let mut archive = Archive::new()
        .map_err(|error| CliError::failure(format!("cannot prepare TLS: {error}")))?;
    let mut documents = Vec::new();
    for name in names {
        let dir = context.settings.recipes.join(name);
        let lock = Lock::beside(&dir, name)
            .map_err(|wrong| invalid(&crate::recipe::Diagnostics(vec![wrong])))?;
        let Some(lock) = lock else {
            output::note(&format!(
                "{name} has no lock file; make it: piaas-bake lock {name}"
            ));
            continue;
        };
        let mut moved = async |indexes: &[LockedIndex], packages: &[LockedPackage]| {
            let record = Record::after(None, Part::locked(indexes, packages));
            archive.moved(&record).await.map_err(|error| {
                CliError::failure(format!("cannot tell what has moved for {name}: {error}"))
            })
        };
        let own = moved(&lock.indexes, &lock.packages).await?;
        let of_base = match &lock.local_base {
            Some(base) => moved(&base.indexes, &base.packages).await?,
            None => Vec::new(),
        };
        if context.format == Format::Human {
            output::data(&changes_text(name, &as_changes(&own)))?;
            output::data(&base_text(name, &as_changes(&of_base)))?;
            if own.is_empty() && of_base.is_empty() {
                output::note(&format!("{} {name}: nothing has moved", context.err.tick()));
            }
        } else {
            documents.push(json!({ "recipe": name, "moved": own, "base_moved": of_base }));
        }
    }
    if context.format == Format::Json {
        output::json(&json!({ "locks": documents }))?;
    }
    Ok(exit::DONE)
}

fn as_changes(moved: &[Moved]) -> Vec<Change> {
    let changes = moved.iter().map(|one| Change {
        package: one.package.clone(),
        from: Some(one.from.clone()),
        to: Some(one.to.clone()),
    });
    changes.collect()
}
