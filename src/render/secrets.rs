//! Secrets of a layer: before each script that reads one, a script of our own that fetches it.
//!
//! Fetched anew for each script: a reboot empties /run.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::layer::{counted_to, dialect_of};
use super::origin::{Origin, tell};
use super::own::Own;
use super::script::{Layer, Script};
use super::tags::{self, Dialect, Tag, TagKind};
use crate::recipe::diagnostic::{Diagnostic, Diagnostics};
use crate::recipe::files;
use crate::recipe::model::{About, InlineText, LineRecipe, Source, WorkerSpec};
use crate::recipe::secret::{self, Reference};

static SCRIPT: LazyLock<Own> =
    LazyLock::new(|| Own::new(include_str!("../../templates/secrets.sh.tera"), "fetch"));
const TIMEOUT: Duration = Duration::from_secs(120);

#[derive(Serialize)]
struct Fetch {
    /// sha256 of the agent's binary.
    agent: String,
    secrets: Vec<Wanted>,
}

#[derive(Serialize)]
struct Wanted {
    reference: String,
    path: String,
}

/// Puts the scripts that fetch into a layer, and notes what they fetch. `agent` is the binary that does it.
pub fn attach(
    recipe: &LineRecipe,
    layer: &mut Layer,
    about: &BTreeMap<String, About>,
    agent: &[u8],
    found: &mut Diagnostics,
) {
    let secrets: BTreeMap<&str, &Reference> = about
        .iter()
        .filter_map(|(name, about)| Some((name.as_str(), about.secret.as_ref()?)))
        .collect();
    if secrets.is_empty() {
        return;
    }
    for name in secrets.keys() {
        misused(recipe, layer, name, &about[*name], found);
    }
    each_text(recipe, |text, origin, dialect| {
        for tag in tags::scan(text, dialect) {
            for name in secrets.keys() {
                changed(name, text, &tag, origin, found);
            }
        }
    });
    let agent_sha256 = hex::encode(Sha256::digest(agent));
    let mut fetched = BTreeMap::new();
    let mut with_fetches = |scripts: &[Script]| {
        let mut all = Vec::new();
        for script in scripts {
            let wanted: Vec<Wanted> = secrets
                .iter()
                .filter(|(name, _)| names(script, name))
                .map(|(name, reference)| {
                    fetched.insert((*name).to_owned(), reference.to_string());
                    Wanted {
                        reference: reference.to_string(),
                        path: secret::path(name),
                    }
                })
                .collect();
            if !wanted.is_empty() {
                all.push(fetch(script, &agent_sha256, wanted));
            }
            all.push(script.clone());
        }
        all
    };
    layer.provision = with_fetches(&layer.provision);
    layer.validate = with_fetches(&layer.validate);
    if !fetched.is_empty() {
        layer
            .payloads
            .insert(agent_sha256, bytes::Bytes::copy_from_slice(agent));
    }
    layer.secrets = fetched;
}

fn names(script: &Script, name: &str) -> bool {
    secret::is_named(&script.text, name)
        || script
            .env
            .values()
            .any(|value| secret::is_named(value, name))
}

fn fetch(script: &Script, agent: &str, secrets: Vec<Wanted>) -> Script {
    let title = counted_to("Fetch", secrets.len(), "secret");
    let fetch = Fetch {
        agent: agent.to_owned(),
        secrets,
    };
    // `recipe/step-003-title` becomes `recipe/secrets-step-003-title`, which no step can be named.
    let id = script.id.replacen('/', "/secrets-", 1);
    Script {
        id,
        title,
        text: SCRIPT.render(&fetch),
        env: BTreeMap::new(),
        timeout: TIMEOUT,
        retries: 2,
        reboot: false,
    }
}

/// Every template of a recipe, but for its conditions.
fn each_text(recipe: &LineRecipe, mut see: impl FnMut(&str, Origin<'_>, Dialect)) {
    // Whoever renders a file has said by now if it cannot be read.
    let read = |path: &Path| files::text(path).unwrap_or_default();
    for step in [&recipe.steps, &recipe.validate, &recipe.test]
        .into_iter()
        .flatten()
    {
        match &step.source {
            Source::Inline(inline) => see(&inline.text, Origin::Inline(inline), Dialect::Script),
            Source::Template(path) => see(&read(path), Origin::File(path), Dialect::Script),
            Source::Raw(_) => {}
        }
        for value in step.env.values() {
            see(&value.text, Origin::Inline(value), Dialect::Plain);
        }
    }
    for file in &recipe.files {
        match &file.source {
            Source::Inline(inline) => see(&inline.text, Origin::Inline(inline), Dialect::Plain),
            Source::Template(path) => see(&read(path), Origin::File(path), dialect_of(path)),
            Source::Raw(_) => {}
        }
    }
    if let Some(WorkerSpec::Command(commands)) = &recipe.worker {
        for text in [
            &commands.status,
            &commands.stop,
            &commands.stopped,
            &commands.start,
        ] {
            see(&text.text, Origin::Inline(text), Dialect::Script);
        }
    }
}

/// Whether a tag makes something else of the path of a secret: what comes out names no file, and none is fetched for it.
fn changed(name: &str, text: &str, tag: &Tag, origin: Origin<'_>, found: &mut Diagnostics) {
    let inside = &text[tag.inner.clone()];
    if tag.kind != TagKind::Comment && inside != name && tags::uses(inside, name) {
        tell(
            found,
            text,
            tag.start,
            origin,
            format!(
                "the secret `{name}` stands for the path of a file, and no expression can read it"
            ),
            format!(
                "write `{{{{ {name} }}}}` alone, and let the shell read the file: no filter, test or statement sees the secret"
            ),
        );
    }
}

/// Places where the file of a secret would not be there, or its path would mean nothing.
fn misused(recipe: &LineRecipe, layer: &Layer, name: &str, about: &About, found: &mut Diagnostics) {
    let mut complain = |place: String| {
        found.push(Diagnostic {
            location: Some(about.declared.clone()),
            source_line: None,
            message: format!("the secret `{name}` of this line cannot be used in {place}"),
            help: Some(
                "use it in `steps` and `validate`: it is there while they run, and nowhere else"
                    .into(),
            ),
        });
    };
    for script in layer.test.iter().filter(|script| names(script, name)) {
        complain(format!("the test \"{}\"", script.title));
    }
    for file in &layer.files {
        let bytes = layer.payloads.get(&file.sha256);
        if bytes.is_some_and(|bytes| secret::is_named(&String::from_utf8_lossy(bytes), name)) {
            complain(format!("the file {}", file.path));
        }
    }
    if let Some(worker) = &layer.worker
        && let Some(bytes) = layer.payloads.get(&worker.config)
        && secret::is_named(&String::from_utf8_lossy(bytes), name)
    {
        complain("`worker`".into());
    }
    let steps = [&recipe.steps, &recipe.validate, &recipe.test];
    let conditions = steps
        .into_iter()
        .flatten()
        .map(|step| &step.when)
        .chain(recipe.packages.iter().map(|one| &one.when))
        .chain(recipe.files.iter().map(|one| &one.when))
        .chain(recipe.trees.iter().map(|one| &one.when));
    for InlineText { text, .. } in conditions.flatten() {
        if tags::mentions(text, name) {
            complain(format!("the condition `{text}`"));
        }
    }
}
