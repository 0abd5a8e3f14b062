//! What bakes by lock files need on this host: the base image that they name, and the files of packages.

use std::collections::BTreeMap;

use futures_util::StreamExt as _;

use super::context::{Connected, Context};
use super::error::CliError;
use super::verbs::plan::Order;
use super::{exit, output};
use crate::bake::packages::Archive;
use crate::debs::{Base, Cache, Package};
use crate::localcloud::base;

/// Files that are fetched at the same time.
const AT_ONCE: usize = 8;
/// The most names that a message lists.
const NAMED: usize = 20;

/// Connects to bake these orders; the local cloud has all that they need then.
///
/// # Errors
/// As [`Context::connect_to_act`] and [`supply`].
pub async fn connect(
    context: &Context,
    orders: &[&Order],
    offline: bool,
) -> Result<Connected, CliError> {
    let by_mirror = !offline && orders.iter().any(|order| order.base_digest().is_none());
    let connected = context.connect_to_host(by_mirror).await?;
    supply(context, &connected, orders, offline).await?;
    Ok(connected)
}

/// Gets what bakes of these orders need to this host, if their machines are here: packages that are locked come from
/// here, so it matters no more whether a mirror still has them. Offline everything must be here already.
///
/// # Errors
/// Offline, something is not here: everything is named, and nothing has been done. Or the base image that is locked
/// cannot be made (exit code 4).
pub async fn supply(
    context: &Context,
    connected: &Connected,
    orders: &[&Order],
    offline: bool,
) -> Result<(), CliError> {
    if connected.local.is_none() {
        let usage = "--offline is for the local cloud: on AWS machines fetch packages themselves";
        return match offline {
            true => Err(CliError::new(exit::USAGE, usage)),
            false => Ok(()),
        };
    }
    let own = context.settings.base_dir();
    let cache = base::cache(&own);
    // By digest: the bases that have to be made, and what for.
    let mut bases: BTreeMap<&str, (&Order, Option<&Base>)> = BTreeMap::new();
    let mut by_own = false;
    for order in orders {
        match order.base_digest() {
            None => by_own = true,
            Some(digest) if base::is_made(&base::place(&own, digest)) => {}
            Some(digest) => {
                bases.insert(digest, (order, order.local_base.as_ref()));
            }
        }
    }
    for (order, locked) in bases.values() {
        if locked.is_none() {
            return Err(CliError::new(
                exit::MISMATCH,
                "the plan stands on a base image that this host does not have",
            )
            .hint(format!("it is made by: piaas-bake bake {}", order.recipe)));
        }
    }
    let of_bases = bases.values().filter_map(|(_, locked)| *locked);
    let of_bases = of_bases.flat_map(|base| &base.packages);
    let wanted = of_bases.chain(orders.iter().flat_map(|order| &order.debs));
    if offline {
        is_here(&cache, wanted)?;
        if by_own && !base::is_made(&own) {
            return Err(
                CliError::failure("--offline, and the base image is not made yet")
                    .hint("make it with network once: piaas-bake bake RECIPE"),
            );
        }
    } else {
        fetch(context, &cache, &cache.lacks(wanted)).await?;
        if by_own {
            context.make_base().await?;
        }
    }
    for (order, locked) in bases.into_values() {
        if let Some(locked) = locked {
            make(context, order, locked).await?;
        }
    }
    Ok(())
}

/// Refuses what is not in the cache, all of it at once.
fn is_here<'a>(cache: &Cache, wanted: impl Iterator<Item = &'a Package>) -> Result<(), CliError> {
    /// Of what is not there, so many are named.
    const NAMED: usize = 10;
    let wanted: Vec<&Package> = wanted.collect();
    let mut lacks = cache.lacks(wanted.iter().copied());
    for package in wanted {
        let path = cache.path(&package.sha256);
        let is_whole = cache.holds(package);
        if !is_whole.map_err(|error| super::context::io("read", &path, &error))?
            && !lacks.iter().any(|one| one.sha256 == package.sha256)
        {
            lacks.push(package);
        }
    }
    if lacks.is_empty() {
        return Ok(());
    }
    let mut error = CliError::failure(format!(
        "--offline, and {} that lock files name {} not in {}",
        match lacks.len() {
            1 => "1 file".to_owned(),
            count => format!("{count} files"),
        },
        if lacks.len() == 1 { "is" } else { "are" },
        cache.dir().display()
    ));
    for package in lacks.iter().take(NAMED) {
        // A download has no version.
        let what = format!("{} {}", package.name, package.version);
        let said = format!("{} ({})", what.trim_end(), package.url);
        error.causes.push(said);
    }
    if let Some(more @ 1..) = lacks.len().checked_sub(NAMED) {
        error.causes.push(format!("and {more} more"));
    }
    Err(error.hint("nothing was changed; bake it once with network, which keeps them"))
}

/// Fetches packages into the cache. What cannot be had is said: the machine asks for it again, and fails better.
async fn fetch(context: &Context, cache: &Cache, lacks: &[&Package]) -> Result<(), CliError> {
    if lacks.is_empty() {
        return Ok(());
    }
    let archive = Archive::new()
        .map_err(|error| CliError::failure(format!("cannot prepare TLS: {error}")))?;
    let title = match lacks.len() {
        1 => "Fetch 1 locked file".to_owned(),
        count => format!("Fetch {count} locked files"),
    };
    let mut progress = context.progress();
    progress.begin(&title);
    let started = std::time::Instant::now();
    let work = lacks.iter().map(|package| async {
        let fetched = archive.fetch(package, cache).await;
        (*package, fetched)
    });
    let mut work = futures_util::stream::iter(work).buffer_unordered(AT_ONCE);
    let (mut done, mut failed) = (0, Vec::new());
    while let Some((package, fetched)) = work.next().await {
        done += 1;
        progress.output(&format!("{done} of {}: {}", lacks.len(), package.name));
        failed.extend(fetched.err());
    }
    if failed.is_empty() {
        progress.done(&title, started.elapsed());
    } else {
        progress.failed(&title);
        for error in failed.iter().take(NAMED) {
            output::note(&format!("note: {error}"));
        }
    }
    Ok(())
}

/// Makes the base that a lock file names.
async fn make(context: &Context, order: &Order, locked: &Base) -> Result<(), CliError> {
    let (own, wanted) = (context.settings.base_dir(), locked.clone());
    let title = "Debian base image as it is locked (once, about a minute)";
    let made = context.show_base(title, move |progress| {
        base::ensure_locked(&own, &wanted, progress)
    });
    let Err(error) = made.await? else {
        return Ok(());
    };
    let mut refused = CliError::new(
        exit::MISMATCH,
        format!(
            "the base image of this host is not the one that is locked for {}, and that one cannot be made",
            order.recipe
        ),
    )
    .because(&error);
    if let Some(here) = base::record(&context.settings.base_dir()) {
        let differ = crate::recipe::lock::changes(&here.packages, &locked.packages);
        for change in differ.iter().take(NAMED) {
            let or_none = |version: &Option<String>| version.clone().unwrap_or("none".into());
            let (here, there) = (or_none(&change.from), or_none(&change.to));
            let package = &change.package;
            let said = format!("{package} is {here} here, and {there} is locked");
            refused.causes.push(said);
        }
    }
    Err(refused.hint(
        "lock the base of this host: piaas-bake lock RECIPE --update, with the recipe at the root of the line",
    ))
}
