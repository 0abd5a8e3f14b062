//! `verify`: bakes an image again, cold, in a local cloud of its own, and holds the two against each other. On AWS it is
//! baked beside the first one, and machines list both.

use std::path::Path;

use serde_json::json;

use super::bake::{Way, carry_out};
use super::compared;
use super::diff::{Listed, document, listed, text};
use super::diff_args::VerifyArgs;
use super::plan::{Order, Wishes, decide, prepare};
use crate::aws::tags;
use crate::bake::images::Image;
use crate::bake::names::Channel;
use crate::bake::plan::Decision;
use crate::cli::args::{CloudName, Format};
use crate::cli::context::{Context, io};
use crate::cli::error::{CliError, CliResult};
use crate::cli::locked::connect;
use crate::cli::{exit, output};
use crate::image::compare;
use crate::localcloud::gc;
use crate::localcloud::nspawn::files::{REPORT, remove_dir, try_lock_file};
use crate::localcloud::nspawn::snapshot;

/// Where the other cloud is, in the directory of this one.
const DIRECTORY: &str = "verify";

pub async fn run(context: &Context, args: &VerifyArgs) -> CliResult {
    if context.settings.cloud == CloudName::Aws {
        return compared::verify(context, args).await;
    }
    let connected = context.connect().await?;
    let image = listed(&connected, &args.image).await?;
    let order = order(context, &image.image, args)?;
    let dir = context.settings.state_dir.join(DIRECTORY);
    // Held until the end: two of them would be in each other's way.
    let _lock = lock(context)?;
    clear(&dir)?;
    let other = context.in_state_dir(&dir);
    let again = again(&other, &order).await;
    let failed = again.is_err();
    let said = again.and_then(|again| said(context, args, &image, &again));
    match (args.keep, failed) {
        (true, _) => output::note(&format!("kept: {}", dir.display())),
        // What it says names its log.
        (_, true) => reset(&dir)?,
        _ => clear(&dir)?,
    }
    said
}

/// The recipe that the image was baked from, if it is still the same.
///
/// # Errors
/// It is not (exit code 4), or the image was not made by a bake, or the recipe has no lock file.
pub fn order(context: &Context, image: &Image, args: &VerifyArgs) -> Result<Order, CliError> {
    let recipe = image.tag(tags::RECIPE).ok_or_else(|| {
        CliError::failure(format!("{} does not say which recipe it is of", image.id))
            .hint("only what piaas-bake has baked can be verified")
    })?;
    let order = prepare(context, recipe, &args.sets.given())?;
    let now = order.layers.last().map(|layer| layer.digest.as_str());
    if now != image.digest() {
        return Err(CliError::new(
            exit::MISMATCH,
            format!("{} was baked of another {recipe} than the one here", image.id),
        )
        .hint(format!("what differs: piaas-bake why {} {recipe}", image.id))
        .hint("values that were given when it was baked must be given here too, with --set or --values"));
    }
    order.check_locked(Some("an image is baked again by lock files"))?;
    Ok(order)
}

fn lock(context: &Context) -> Result<std::fs::File, CliError> {
    let path = context
        .settings
        .state_dir
        .join(DIRECTORY)
        .with_extension("lock");
    try_lock_file(&path)
        .map_err(|error| io("lock", &path, &error))?
        .ok_or_else(|| {
            CliError::new(exit::LEASE_HELD, "another verify is under way here")
                .hint("wait for its end, or name another directory with --state-dir")
        })
}

/// Removes the other cloud, with what a killed verify has left of it, and the records of its runs.
fn clear(dir: &Path) -> Result<(), CliError> {
    reset(dir)?;
    remove_dir(dir).map_err(|error| io("remove", dir, &error))
}

/// Removes the machines, images and disks of the other cloud.
fn reset(dir: &Path) -> Result<(), CliError> {
    let cloud = dir.join("cloud");
    gc::reset(&cloud).map_err(|error| io("remove", &cloud, &error))
}

/// Bakes it in the other cloud.
async fn again(other: &Context, order: &Order) -> Result<Listed, CliError> {
    let connected = connect(other, &[order], false).await?;
    let order = order.clone().pinned(&connected)?;
    let wishes = Wishes::new(true, Channel::Latest, true);
    let Decision::Bake(plan) = decide(other, &connected, &order, wishes).await? else {
        return Err(CliError::new(
            exit::BUG,
            "an empty cloud has the image already",
        ));
    };
    let way = Way::alone(other, false)?;
    let baked = carry_out(other, &connected, &plan, way).await?;
    listed(&connected, &baked.image).await
}

/// SHA-256 of an image's disk when it was written, in hex.
fn disk_sha256(image: &Listed) -> Result<String, CliError> {
    let dir = &image.disk;
    let report = snapshot::report(dir).map_err(|error| io("read", &dir.join(REPORT), &error))?;
    Ok(report.disk_sha256)
}

fn said(context: &Context, args: &VerifyArgs, image: &Listed, again: &Listed) -> CliResult {
    let found = compare::compare(&image.tree, &again.tree);
    let disks = [disk_sha256(image)?, disk_sha256(again)?];
    let same = found.is_same() && disks[0] == disks[1];
    match context.format {
        Format::Json => {
            let mut value = document(
                &found,
                same,
                [("image", image.side()), ("again", again.side())],
            )?;
            for (key, disk) in ["image", "again"].into_iter().zip(&disks) {
                value[key]["disk_sha256"] = json!(disk);
            }
            output::json(&value)?;
        }
        Format::Human if same => output::data(&format!(
            "{} {} is the same when it is baked again, to the last byte of its disk\n\
             tree  {}\ndisk  {}\n",
            context.out.tick(),
            image.image.name,
            image.digest,
            disks[0]
        ))?,
        Format::Human if found.is_same() => output::data(&format!(
            "the files are the same (tree {}), and the disks are not: {} -> {}\n",
            image.digest, disks[0], disks[1]
        ))?,
        Format::Human => output::data(&format!(
            "{} is another one when it is baked again\n{}",
            image.image.name,
            text(&found, args.all)
        ))?,
    }
    Ok(if same { exit::DONE } else { exit::MISMATCH })
}
