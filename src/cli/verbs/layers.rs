//! Layers of single scripts: what `--explain` tells of them, and their limit.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::bake::images::Image;
use crate::bake::layers;
use crate::bake::plan::Plan;
use crate::cli::args::HowArgs;
use crate::cli::context::{Connected, Context, cloud, io};
use crate::cli::error::CliError;
use crate::cli::output;
use crate::cli::view::text::bytes;
use crate::digest::{Step, Use, trail};
use crate::localcloud::gc::{self, Layer};
use crate::localcloud::nspawn::files::{get_json, put_json};

/// What layers that no image stands on may take of the disk, unless somebody says another limit: GiB.
pub const LIMIT_GIB: u64 = 20;

/// What the last bake of a recipe on this host was made of.
#[derive(Serialize, Deserialize)]
struct Last {
    /// Id of its base image.
    base: String,
    chain: Vec<Step>,
}

fn path(context: &Context, recipe: &str) -> PathBuf {
    let dir = context.settings.state_dir.join("last");
    dir.join(format!("{recipe}.json"))
}

/// What is done after a bake: it is remembered, and layers are kept to their limit. The image is there whatever comes of it.
pub async fn after(context: &Context, connected: &Connected, plan: &Plan) {
    let remembered = remember(context, plan);
    let trimmed = trim(connected, LIMIT_GIB).await;
    for error in [remembered.err(), trimmed.err()].into_iter().flatten() {
        output::note(&format!("layers: {}", error.message));
    }
}

/// Remembers what a bake was made of, for the next one to be compared with.
fn remember(context: &Context, plan: &Plan) -> Result<(), CliError> {
    let path = path(context, &plan.recipe);
    let write = || {
        std::fs::create_dir_all(path.parent().unwrap_or(&path))?;
        let last = Last {
            base: plan.root_image().to_owned(),
            chain: plan.chain.clone(),
        };
        put_json(&path, &last)
    };
    write().map_err(|error| io("write", &path, &error))
}

/// Says of each script of a plan whether it runs, and why.
///
/// # Errors
/// What was written of the last bake cannot be read.
pub fn tell(context: &Context, plan: &Plan, how: &HowArgs) -> Result<(), CliError> {
    let path = path(context, &plan.recipe);
    let last: Option<Last> = match get_json(&path) {
        Ok(last) => Some(last),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => {
            return Err(io("read", &path, &error).hint("remove it: it only says what was before"));
        }
    };
    let told = trail(
        plan.root_image(),
        &plan.chain,
        plan.start.scripts,
        last.as_ref()
            .map(|last| (last.base.as_str(), last.chain.as_slice())),
        how.force || how.no_cache,
    );
    let style = context.err;
    let rows: Vec<Vec<String>> = told
        .into_iter()
        .map(|one| {
            let layer = match one.layer {
                Use::Hit => style.good("hit"),
                Use::Miss => style.hint("miss"),
            };
            let why = one.why.unwrap_or_default();
            let digest = style.dim(&one.digest[..12]);
            vec![layer, digest, one.recipe, one.title, why]
        })
        .collect();
    output::note(&format!(
        "starts from {} ({})\n{}",
        plan.start.image.id,
        plan.start.image.name,
        output::table(&rows).trim_end()
    ));
    Ok(())
}

/// Layers that are removed so that the others keep to a limit.
///
/// # Errors
/// The cloud refuses to list them.
pub async fn surplus(connected: &Connected, limit_gib: u64) -> Result<Vec<(Image, u64)>, CliError> {
    let Some(local) = &connected.local else {
        return Ok(Vec::new());
    };
    let images = layers::list(&connected.clients)
        .await
        .map_err(|error| cloud(&error))?;
    let on_disk = gc::layers(local.directory());
    Ok(beyond(images, &on_disk, limit_gib << 30))
}

/// The layers beyond a limit of bytes: those of the newest images stay. A layer that an image stands on takes no room of
/// its own, and one without files stands for nothing.
fn beyond(images: Vec<Image>, on_disk: &BTreeMap<String, Layer>, limit: u64) -> Vec<(Image, u64)> {
    let mut all: Vec<(SystemTime, Image, u64)> = images
        .into_iter()
        .map(|image| {
            let layer = image.snapshots.first().and_then(|id| on_disk.get(id));
            let used = layer.map_or(SystemTime::UNIX_EPOCH, |layer| layer.used);
            (used, image, layer.map_or(u64::MAX, |layer| layer.bytes))
        })
        .collect();
    all.sort_by(|a, b| (b.0, &b.1.id).cmp(&(a.0, &a.1.id)));
    let mut sum: u64 = 0;
    all.into_iter()
        .filter_map(|(_, image, bytes)| {
            sum = sum.saturating_add(bytes);
            (sum > limit).then_some((image, if bytes == u64::MAX { 0 } else { bytes }))
        })
        .collect()
}

/// Removes layers beyond a limit; gives what was removed, in words.
///
/// # Errors
/// The cloud refuses.
pub async fn trim(connected: &Connected, limit_gib: u64) -> Result<Vec<String>, CliError> {
    let mut removed = Vec::new();
    for (layer, size) in surplus(connected, limit_gib).await? {
        layers::remove(&connected.clients, &layer)
            .await
            .map_err(|error| cloud(&error))?;
        removed.push(words(&layer, size));
    }
    Ok(removed)
}

/// A layer in words.
#[must_use]
pub fn words(layer: &Image, size: u64) -> String {
    format!("layer {} ({}, {})", layer.id, layer.name, bytes(size))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bake::images::sample;

    #[test]
    fn the_layers_of_the_newest_images_stay_within_the_limit() {
        let at = |secs| SystemTime::UNIX_EPOCH + Duration::from_secs(secs);
        let layer = |number: u64| {
            let mut image = sample(&format!("ami-{number}"), "layer", &[]);
            image.snapshots = vec![format!("snap-{number}")];
            image
        };
        let on_disk: BTreeMap<String, Layer> = [(1, 30, 50), (2, 10, 50), (3, 20, 50), (4, 5, 0)]
            .map(|(number, used, bytes): (u64, u64, u64)| {
                let used = at(used);
                (format!("snap-{number}"), Layer { bytes, used })
            })
            .into();
        let gone = |limit| -> Vec<String> {
            let images = (1..=5).map(layer).collect();
            let gone = beyond(images, &on_disk, limit);
            gone.into_iter().map(|(image, _)| image.id).collect()
        };
        // The fifth has no files.
        assert_eq!(gone(1000), ["ami-5"]);
        assert_eq!(gone(120), ["ami-2", "ami-4", "ami-5"]);
        assert_eq!(gone(0), ["ami-1", "ami-3", "ami-2", "ami-4", "ami-5"]);
    }
}
