//! `images`: what was baked.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use std::collections::BTreeMap;

use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::aws::tags;
use crate::bake::images::{self, Image};
use crate::bake::names::Channel;
use crate::cli::args::Format;
use crate::cli::context::{Connected, Context, cloud, io};
use crate::cli::error::{CliError, CliResult};
use crate::cli::{exit, output};
use crate::digest::{Manifest, Under};
use crate::image::tree::TreeManifest;
use crate::localcloud::driver::{DriverError, SnapshotDisk};
use crate::localcloud::nspawn::blocks::{self, AssembleError};
use crate::localcloud::nspawn::files::TREE;
use crate::whole;

pub async fn list(context: &Context, recipe: Option<&str>) -> CliResult {
    let connected = context.connect().await?;
    let images = images::list(&connected.clients, recipe)
        .await
        .map_err(|error| cloud(&error))?;
    let mut named = BTreeMap::new();
    for image in &images {
        if let Some(recipe) = image.tag(tags::RECIPE)
            && !named.contains_key(recipe)
        {
            named.insert(recipe.to_owned(), channels(&connected, recipe).await?);
        }
    }
    let names = |image: &Image| {
        let recipe = image.tag(tags::RECIPE).unwrap_or_default();
        let channels = named.get(recipe).into_iter().flatten();
        channels
            .filter(|(_, id)| **id == image.id)
            .map(|(channel, _)| channel.as_str())
            .collect::<Vec<_>>()
    };
    match context.format {
        Format::Json => {
            let list: Vec<_> = images
                .iter()
                .map(|image| {
                    let mut value = as_json(image);
                    value["channels"] = json!(names(image));
                    value
                })
                .collect();
            output::json(&json!({ "images": list }))?;
        }
        Format::Human if images.is_empty() => output::note(&format!(
            "no images; make one with `{}`",
            context.commands().own("bake RECIPE")
        )),
        Format::Human => {
            let mut rows = vec![
                ["image", "name", "status", "named", "created"]
                    .map(str::to_owned)
                    .to_vec(),
            ];
            rows.extend(images.iter().map(|image| {
                vec![
                    image.id.clone(),
                    image.name.clone(),
                    status(image).to_owned(),
                    names(image).join(", "),
                    image.created.clone(),
                ]
            }));
            output::data(&output::table(&rows))?;
        }
    }
    Ok(exit::DONE)
}

pub async fn show(context: &Context, word: &str) -> CliResult {
    let connected = context.connect().await?;
    let image = find(&connected, word).await?;
    let manifest = match image.digest() {
        Some(digest) => images::manifest(&connected.clients, digest)
            .await
            .map_err(|error| cloud(&error))?,
        None => None,
    };
    let packages = images::packages(&connected.clients, &image.id)
        .await
        .map_err(|error| cloud(&error))?;
    let disk = written(&connected, &image);
    match context.format {
        Format::Json => {
            let manifest = manifest
                .as_deref()
                .and_then(|text| serde_json::from_str::<serde_json::Value>(text).ok());
            let mut value = as_json(&image);
            value["manifest"] = manifest.unwrap_or_default();
            value["disk"] = match &disk {
                Ok(SnapshotDisk::At(dir)) => json!(dir),
                _ => json!(null),
            };
            // What its recipes installed; null if that was not noted.
            value["packages"] = json!(packages);
            output::json(&value)?;
        }
        Format::Human => {
            let mut rows = vec![
                row("image", &image.id),
                row("name", &image.name),
                row("status", status(&image)),
                row("digest", image.digest().unwrap_or("none")),
                row("created", &image.created),
                row(
                    "base image",
                    image.tag(tags::BASE_IMAGE).unwrap_or("unknown"),
                ),
                row(
                    "root",
                    &format!(
                        "{} GiB, {}, {}",
                        image.size_gib, image.architecture, image.boot_mode
                    ),
                ),
                row("snapshot", &image.snapshots.join(" ")),
            ];
            rows.push(row(
                "packages",
                &match packages {
                    Some(record) => format!("{} installed by its recipes", record.count()),
                    None => "not noted".to_owned(),
                },
            ));
            let disk = match disk {
                Ok(SnapshotDisk::None) => None,
                Ok(SnapshotDisk::Writing) => Some("is being written".to_owned()),
                Ok(SnapshotDisk::At(dir)) => Some(format!(
                    "{}, in blocks; `images export` writes it as a file",
                    dir.display()
                )),
                Err(error) => Some(format!("could not be written: {error}")),
            };
            rows.extend(disk.map(|text| row("disk", &text)));
            if let Some(manifest) = manifest.and_then(|text| Manifest::from_json(&text).ok()) {
                let count = manifest.provision.len();
                rows.push(row(
                    "recipe",
                    &format!("{} {} ({count} scripts)", manifest.recipe, manifest.version),
                ));
                if let Under::Parent(parent) = manifest.on {
                    rows.push(row("parent", &parent.to_string()));
                }
            }
            output::data(&output::table(&rows))?;
        }
    }
    Ok(exit::DONE)
}

pub async fn export(context: &Context, word: &str, to: &Path) -> CliResult {
    let connected = context.connect().await?;
    let image = find(&connected, word).await?;
    let Some(disk) = disk(&connected, &image)? else {
        return Err(no_disk(&image).hint(
            "only images of the local cloud are exported; on AWS use `aws ec2 export-image`",
        ));
    };
    let failed = |error: &std::io::Error| match error.kind() {
        ErrorKind::AlreadyExists => {
            io("write", to, error).hint("choose a file that does not exist")
        }
        _ => io("write", to, error),
    };
    if to.symlink_metadata().is_ok() {
        return Err(failed(&ErrorKind::AlreadyExists.into()));
    }
    let (mut bytes, mut failure) = (0, None);
    let written = whole::create(to, 0o644, |file| match assemble(&disk, file, to) {
        Ok(count) => {
            bytes = count;
            Ok(())
        }
        Err(error) => {
            failure = Some(error);
            Err(ErrorKind::Other.into())
        }
    });
    // What could not be assembled says more.
    written.map_err(|error| failure.unwrap_or_else(|| failed(&error)))?;
    match context.format {
        Format::Json => output::json(&json!({ "image_id": image.id, "path": to, "bytes": bytes }))?,
        Format::Human => output::data(&format!("{}\n", to.display()))?,
    }
    Ok(exit::DONE)
}

/// Makes an image the one that its recipe's name means.
pub async fn promote(context: &Context, word: &str) -> CliResult {
    let connected = context.connect().await?;
    let image = find(&connected, word).await?;
    let recipe = match image.tag(tags::RECIPE) {
        Some(recipe) if image.is_ready() => recipe,
        _ => {
            return Err(CliError::failure(format!(
                "{} is not an image that a bake has finished",
                image.id
            ))
            .hint("`piaas-bake images list` shows those that are ready"));
        }
    };
    let moved = crate::bake::point(&connected.clients, recipe, Channel::Latest, &image.id)
        .await
        .map_err(|error| cloud(&error))?;
    match context.format {
        Format::Json => output::json(
            &json!({ "recipe": recipe, "image_id": image.id, "name": image.name, "changed": moved }),
        )?,
        Format::Human => {
            let word = if moved { "is now" } else { "was already" };
            output::data(&format!("{recipe} {word} {} ({})\n", image.id, image.name))?;
        }
    }
    Ok(exit::DONE)
}

async fn channels(
    connected: &Connected,
    recipe: &str,
) -> Result<BTreeMap<Channel, String>, CliError> {
    images::channels(&connected.clients, recipe)
        .await
        .map_err(|error| cloud(&error))
}

/// The image that a recipe's name means: what its `latest` names; without that the newest, if nobody has to choose it.
fn of_recipe(images: Vec<Image>, channels: &BTreeMap<Channel, String>) -> Option<Image> {
    let ready: Vec<Image> = images.into_iter().filter(Image::is_ready).collect();
    let is = |image: &Image, channel| channels.get(&channel) == Some(&image.id);
    let latest = ready.iter().position(|image| is(image, Channel::Latest));
    let place = latest.or_else(|| {
        ready
            .iter()
            .position(|image| !is(image, Channel::Candidate))
    })?;
    ready.into_iter().nth(place)
}

/// The image that a channel of a recipe names.
async fn of_channel(
    connected: &Connected,
    recipe: &str,
    channel: Channel,
) -> Result<Image, CliError> {
    let name = channel.as_str();
    let none = || {
        CliError::failure(format!("{recipe} has no {name} image")).hint(format!(
            "`piaas-bake images list {recipe}` shows its images"
        ))
    };
    let id = channels(connected, recipe)
        .await?
        .remove(&channel)
        .ok_or_else(none)?;
    let image = images::get(&connected.clients, &id)
        .await
        .map_err(|error| cloud(&error))?;
    image.filter(Image::is_ready).ok_or_else(|| {
        CliError::failure(format!(
            "the {name} of {recipe} is {id}, which is gone or not finished"
        ))
        .hint(format!(
            "`piaas-bake images list {recipe}` shows its images"
        ))
    })
}

/// The one image that a word means: an id, a name, a digest, the latest of a recipe, or `RECIPE@candidate`.
///
/// # Errors
/// None, or several.
pub async fn find(connected: &Connected, word: &str) -> Result<Image, CliError> {
    let clients = &connected.clients;
    for channel in Channel::ALL {
        let ending = format!("@{}", channel.as_str());
        if let Some(recipe) = word.strip_suffix(ending.as_str()) {
            return of_channel(connected, recipe, channel).await;
        }
    }
    let images = images::list(clients, Some(word))
        .await
        .map_err(|error| cloud(&error))?;
    if images.iter().any(Image::is_ready) {
        return of_recipe(images, &channels(connected, word).await?).ok_or_else(|| {
            CliError::failure(format!("{word} has no image but a candidate"))
                .hint(format!("name it: {word}@candidate"))
                .hint(format!(
                    "or make it the latest: piaas-bake images promote {word}@candidate"
                ))
        });
    }
    let mut found = images::find(clients, word)
        .await
        .map_err(|error| cloud(&error))?;
    if found.len() > 1 {
        let ids: Vec<&str> = found.iter().map(|image| image.id.as_str()).collect();
        return Err(CliError::failure(format!(
            "`{word}` means several images: {}",
            ids.join(", ")
        ))
        .hint("give one id"));
    }
    if let Some(image) = found.pop() {
        return Ok(image);
    }
    if word.starts_with("ami-")
        && let Some(image) = images::get(clients, word)
            .await
            .map_err(|error| cloud(&error))?
    {
        return Ok(image);
    }
    Err(CliError::failure(format!("there is no image `{word}`"))
        .hint("`piaas-bake images list` shows those there are")
        .hint(format!(
            "`piaas-bake bake {word}` makes one, if `{word}` is a recipe"
        )))
}

/// Where the disk of an image is kept, where the local cloud has one. One that is not there yet is waited for.
///
/// # Errors
/// It cannot be written.
pub fn disk(connected: &Connected, image: &Image) -> Result<Option<PathBuf>, CliError> {
    const LOOK: Duration = Duration::from_millis(20);
    loop {
        match written(connected, image).map_err(|error| {
            CliError::failure(format!("the disk of {} could not be written", image.id))
                .because(&error)
        })? {
            SnapshotDisk::None => return Ok(None),
            SnapshotDisk::Writing => std::thread::sleep(LOOK),
            SnapshotDisk::At(dir) => return Ok(Some(dir)),
        }
    }
}

/// The disk of an image, as far as the local cloud has written it.
///
/// # Errors
/// It cannot be written.
pub fn written(connected: &Connected, image: &Image) -> Result<SnapshotDisk, DriverError> {
    match (&connected.local, image.snapshots.first()) {
        (Some(cloud), Some(snapshot)) => cloud.disk(snapshot),
        _ => Ok(SnapshotDisk::None),
    }
}

/// What is said of an image whose disk is not here.
pub fn no_disk(image: &Image) -> CliError {
    CliError::failure(format!("{} has no disk on this host", image.id))
}

/// Writes the disk that is kept there into a file; gives its size.
///
/// # Errors
/// It cannot be read, or not be written.
pub fn assemble(disk: &Path, to: &File, place: &Path) -> Result<u64, CliError> {
    blocks::assemble(disk, to).map_err(|error| match error {
        AssembleError::Write(error) => io("write", place, &error),
        error => CliError::failure("the disk is not whole any more")
            .because(&error)
            .hint("bake the image again, with --force: that writes what is not there anew"),
    })
}

/// The tree manifest of a disk, and its SHA-256 in hex.
///
/// # Errors
/// There is none, or it cannot be read.
pub fn tree(disk: &Path) -> Result<(String, TreeManifest), CliError> {
    let path = disk.join(TREE);
    let text = std::fs::read_to_string(&path).map_err(|error| {
        io("read", &path, &error).hint(
            "a disk that an older piaas-bake wrote has no tree manifest: bake it again, with --force",
        )
    })?;
    let tree = TreeManifest::parse(&text).map_err(|error| {
        CliError::failure(format!("{} is no tree manifest", path.display())).because(&error)
    })?;
    Ok((hex::encode(Sha256::digest(&text)), tree))
}

fn status(image: &Image) -> &str {
    image.tag(tags::STATUS).unwrap_or(&image.state)
}

fn row(name: &str, value: &str) -> Vec<String> {
    vec![name.to_owned(), value.to_owned()]
}

fn as_json(image: &Image) -> serde_json::Value {
    json!({
        "image_id": image.id,
        "name": image.name,
        "status": status(image),
        "state": image.state,
        "digest": image.digest(),
        "created": image.created,
        "architecture": image.architecture,
        "boot_mode": image.boot_mode,
        "size_gib": image.size_gib,
        "snapshots": image.snapshots,
        "tags": image.tags,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipes_name_means_its_latest_and_never_a_candidate_that_nobody_chose() {
        let image = |id: &str| {
            let tags = [(tags::STATUS, tags::STATUS_READY)];
            crate::bake::images::sample(id, "n", &tags)
        };
        let found = |named: &[(Channel, &str)]| {
            let channels = named
                .iter()
                .map(|(channel, id)| (*channel, (*id).to_owned()))
                .collect();
            of_recipe(vec![image("ami-new"), image("ami-old")], &channels).map(|image| image.id)
        };
        use Channel::{Candidate, Latest};
        assert_eq!(found(&[]).as_deref(), Some("ami-new"));
        assert_eq!(found(&[(Latest, "ami-old")]).as_deref(), Some("ami-old"));
        assert_eq!(
            found(&[(Latest, "ami-gone"), (Candidate, "ami-new")]).as_deref(),
            Some("ami-old")
        );
        let both = [(Latest, "ami-new"), (Candidate, "ami-new")];
        assert_eq!(found(&both).as_deref(), Some("ami-new"));
        let only = BTreeMap::from([(Candidate, "ami-new".to_owned())]);
        assert_eq!(of_recipe(vec![image("ami-new")], &only), None);
    }
}
