//! What recipes download, for their lock files.

use super::context::{Context, invalid};
use super::error::CliError;
use super::exit;
use crate::bake::packages::Archive;
use crate::localcloud::base;
use crate::recipe::LockedDownload;
use crate::recipe::model::Resolved;
use crate::render;

/// What the lock files of a line are to have, recipe by recipe: what they have already, and of the rest what this host
/// gets when it asks for it. The line knows each sha256 then. With `moves`, the last recipe's lock is not asked about
/// what the recipe leaves open.
///
/// # Errors
/// A recipe is invalid (exit code 3); a file cannot be had; one is another than its recipe says (exit code 4).
pub async fn settle(
    context: &Context,
    resolved: &mut Resolved,
    moves: bool,
) -> Result<Vec<Vec<LockedDownload>>, CliError> {
    let asked = render::downloads(resolved).map_err(|found| invalid(&found))?;
    let last = resolved.line.len() - 1;
    let mut settled = Vec::new();
    for (index, (recipe, asked)) in resolved.line.iter_mut().zip(asked).enumerate() {
        let mut downloads: Vec<LockedDownload> = Vec::new();
        for one in asked {
            let locked = recipe
                .lock
                .as_ref()
                .and_then(|lock| lock.download(&one.url));
            let known = locked.filter(|known| match &one.sha256 {
                Some(sha256) => *sha256 == known.sha256,
                None => !(moves && index == last),
            });
            let known = known.or_else(|| downloads.iter().find(|known| known.url == one.url));
            let download = match known {
                Some(known) => known.clone(),
                None => fetch(context, &one.url).await?,
            };
            match one.sha256 {
                Some(sha256) if sha256 != download.sha256 => {
                    return Err(CliError::new(
                        exit::MISMATCH,
                        format!(
                            "{} is another file than {} says: its sha256 is {}, not {sha256}",
                            one.url, recipe.name, download.sha256
                        ),
                    )
                    .hint("correct `sha256`, once you know which of the two you want"));
                }
                // The recipe's own text stays: it may be the only one that uses a parameter.
                Some(_) => {}
                None => recipe.downloads[one.spec].know(&download.sha256),
            }
            downloads.push(download);
        }
        downloads.sort();
        downloads.dedup();
        settled.push(downloads);
    }
    Ok(settled)
}

/// Gets a file into the cache of this host, and says what it is.
async fn fetch(context: &Context, url: &str) -> Result<LockedDownload, CliError> {
    let archive = Archive::new()
        .map_err(|error| CliError::failure(format!("cannot prepare TLS: {error}")))?;
    let title = format!("Download {url}");
    let mut progress = context.progress();
    progress.begin(&title);
    let started = std::time::Instant::now();
    let cache = base::cache(&context.settings.base_dir());
    match archive.take(url, &cache).await {
        Ok((sha256, size)) => {
            progress.done(&title, started.elapsed());
            Ok(LockedDownload {
                url: url.to_owned(),
                sha256,
                size,
            })
        }
        Err(error) => {
            progress.failed(&title);
            Err(CliError::failure(format!(
                "cannot lock a download: {error}"
            )))
        }
    }
}
