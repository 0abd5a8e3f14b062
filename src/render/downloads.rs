//! What a recipe downloads: where it is, what it has to be, and the script that gets it.

use std::sync::LazyLock;
use std::time::Duration;

use serde::Serialize;

use super::layer::{at_entry, counted_to, own_script, wanted};
use super::origin::{Origin, tell};
use super::own::Own;
use super::script::{InstalledDownload, InstalledFile, Layer};
use super::tags::Dialect;
use super::template::Renderer;
use crate::recipe::diagnostic::Diagnostics;
use crate::recipe::model::{InlineText, LineRecipe};
use crate::recipe::twice::{KEEP_ONE, Taken, twice};
use crate::recipe::units;

static SCRIPT: LazyLock<Own> = LazyLock::new(|| {
    Own::new(
        include_str!("../../templates/downloads.sh.tera"),
        "downloads",
    )
});

/// The end of the script's id. No step of a recipe has such a one: its name becomes letters, digits and hyphens.
const SLUG: &str = "checked_downloads";
/// Servers can be slow.
const TIMEOUT: Duration = Duration::from_secs(1800);

/// A download that is not ruled out, with its values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Index in [`LineRecipe::downloads`].
    pub spec: usize,
    pub url: String,
    /// As the recipe says it.
    pub sha256: Option<String>,
}

/// One of them for the script.
#[derive(Serialize)]
struct Download {
    #[serde(flatten)]
    file: InstalledFile,
    url: String,
}

/// Whether a script is one that downloads files, and ends with [`MISMATCH`](super::locked::MISMATCH) if one is another.
#[must_use]
pub fn is_own(id: &str) -> bool {
    id.ends_with(SLUG)
}

/// The downloads of a recipe.
pub fn asked(recipe: &LineRecipe, renderer: &mut Renderer, found: &mut Diagnostics) -> Vec<Asked> {
    let mut all = Vec::new();
    for (spec, download) in recipe.downloads.iter().enumerate() {
        let wanted = wanted(download.when.as_ref(), renderer, found);
        let mut text = |inline: &InlineText, found: &mut Diagnostics| {
            let origin = Origin::Inline(inline);
            if wanted {
                return renderer.render(&inline.text, origin, Dialect::Plain, found);
            }
            renderer.check(&inline.text, origin, Dialect::Plain, found);
            None
        };
        let url = text(&download.url, found);
        let sha256 = download.sha256.as_ref().map(|sha256| text(sha256, found));
        // What is missing now is ruled out, or has been told.
        let (Some(url), Some(sha256)) = (url, sha256.map_or(Some(None), |sha256| sha256.map(Some)))
        else {
            continue;
        };
        if !units::is_url(&url) && !is_sampled(&download.url, renderer) {
            let help = "begin it with https:// or http://, and write what no URL has as %XX";
            let origin = Origin::Inline(&download.url);
            tell(
                found,
                &download.url.text,
                0,
                origin,
                "this is not the URL of a file",
                help,
            );
        }
        if let (Some(inline), Some(sha256)) = (&download.sha256, &sha256)
            && !units::is_sha256(sha256)
            && !is_sampled(inline, renderer)
        {
            let help = "write its 64 hex digits in lower case, as `sha256sum` prints them";
            tell(
                found,
                &inline.text,
                0,
                Origin::Inline(inline),
                "this is not a sha256",
                help,
            );
        }
        all.push(Asked { spec, url, sha256 });
    }
    all
}

/// Whether a lint has made up values that a text may name.
fn is_sampled(inline: &InlineText, renderer: &Renderer) -> bool {
    renderer.has_samples() && inline.text.contains('{')
}

/// Adds the downloads of a recipe to its layer. `taken` are the paths of its files.
pub fn install(
    recipe: &LineRecipe,
    layer: &mut Layer,
    taken: &mut Taken,
    renderer: &mut Renderer,
    found: &mut Diagnostics,
) {
    let mut downloads = Vec::new();
    for asked in asked(recipe, renderer, found) {
        let spec = &recipe.downloads[asked.spec];
        if let Err(path) = taken.take(vec![(spec.path.clone(), false)]) {
            found.push(at_entry(&spec.at, twice(&path), KEEP_ONE));
        }
        let lock = recipe.lock.as_ref();
        let locked = lock.and_then(|lock| lock.download(&asked.url));
        let Some(sha256) = asked
            .sha256
            .or_else(|| locked.map(|one| one.sha256.clone()))
        else {
            if lock.is_none() || !is_sampled(&spec.url, renderer) {
                let without = match lock {
                    None => "there is no lock file",
                    Some(_) => "the lock file does not have it",
                };
                let message = format!(
                    "nothing says what is downloaded here: it has no `sha256`, and {without}"
                );
                let help = format!(
                    "write `sha256:`, or let the lock file have it: piaas-bake lock {}",
                    recipe.name
                );
                found.push(at_entry(&spec.at, message, &help));
            }
            continue;
        };
        downloads.push(Download {
            file: InstalledFile {
                path: spec.path.clone(),
                owner: spec.owner.clone(),
                group: spec.group.clone(),
                mode: format!("{:04o}", spec.mode),
                sha256,
            },
            url: asked.url,
        });
    }
    if downloads.is_empty() {
        return;
    }
    let text = SCRIPT.render(&downloads);
    let title = counted_to("Download", downloads.len(), "file");
    let number = layer.provision.len() + 1;
    let script = own_script(recipe, number, SLUG, title, text, TIMEOUT);
    layer.provision.push(script);
    for Download { file, url } in downloads {
        layer.downloads.push(InstalledDownload {
            url,
            sha256: file.sha256.clone(),
        });
        layer.files.push(file);
    }
}
