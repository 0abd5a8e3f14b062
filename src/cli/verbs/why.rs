//! `why`: what makes two images or recipes differ, in words.

use serde_json::json;

use super::images::find;
use crate::bake::images;
use crate::cli::args::{Format, WhyArgs};
use crate::cli::context::{Connected, Context, cloud, invalid};
use crate::cli::error::{CliError, CliResult};
use crate::cli::{exit, output};
use crate::digest::{self, Digest, Manifest};
use crate::recipe;

pub async fn run(context: &Context, args: &WhyArgs) -> CliResult {
    let a = manifest(context, &args.a).await?;
    let b = match &args.b {
        Some(word) => manifest(context, word).await?,
        None => of_newest_image(context, &a.recipe).await?,
    };
    // Without a second word the question is what a bake would change, from the image to the recipe.
    let (before, after) = if args.b.is_some() { (a, b) } else { (b, a) };
    let differences = digest::explain(&before, &after);
    let (from, to) = (before.digest(), after.digest());
    match context.format {
        Format::Json => {
            output::json(&json!({ "from": from, "to": to, "differences": differences }))?
        }
        Format::Human if from == to => output::data(&format!("the same: {from}\n"))?,
        Format::Human => {
            let mut text = format!(
                "{} {} -> {} {}\n",
                before.recipe,
                from.short(),
                after.recipe,
                to.short()
            );
            for difference in differences {
                text.push_str(&format!("  {difference}\n"));
            }
            output::data(&text)?;
        }
    }
    Ok(exit::DONE)
}

/// The manifest that a word means: a file, a recipe here, an image or a digest in the cloud.
async fn manifest(context: &Context, word: &str) -> Result<Manifest, CliError> {
    let file = std::path::Path::new(word);
    if word.contains('/')
        || file
            .extension()
            .is_some_and(|extension| extension == "json")
    {
        let text = std::fs::read_to_string(file)
            .map_err(|error| CliError::failure(format!("cannot read {word}")).because(&error))?;
        return Manifest::from_json(&text)
            .map_err(|error| CliError::failure(format!("{word}: {error}")));
    }
    if context
        .settings
        .recipes
        .join(word)
        .join("recipe.yaml")
        .is_file()
    {
        let resolved = recipe::load_for_lint(&context.settings.recipes, word)
            .map_err(|found| invalid(&found))?;
        let layers = context.render(&resolved)?;
        let last = digest::chain(&resolved, &layers).pop();
        return last
            .map(|(manifest, _)| manifest)
            .ok_or_else(|| CliError::failure(format!("the line of `{word}` is empty")));
    }
    let connected = context.connect().await?;
    if word.parse::<Digest>().is_ok() {
        return stored(&connected, word).await;
    }
    let image = find(&connected, word).await?;
    let Some(digest) = image.digest() else {
        return Err(CliError::failure(format!(
            "{} was not made by a bake: it has no digest",
            image.id
        )));
    };
    stored(&connected, digest).await
}

async fn of_newest_image(context: &Context, recipe: &str) -> Result<Manifest, CliError> {
    let connected = context.connect().await?;
    let image = find(&connected, recipe).await?;
    stored(&connected, image.digest().unwrap_or_default()).await
}

async fn stored(connected: &Connected, digest: &str) -> Result<Manifest, CliError> {
    let text = images::manifest(&connected.clients, digest)
        .await
        .map_err(|error| cloud(&error))?
        .ok_or_else(|| {
            CliError::failure(format!(
                "no manifest of {digest} is stored in {}",
                connected.clients.region
            ))
            .hint("it is stored when an image is published; check the region")
        })?;
    Manifest::from_json(&text)
        .map_err(|error| CliError::failure(format!("the manifest of {digest}: {error}")))
}
