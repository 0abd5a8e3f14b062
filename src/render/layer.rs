//! One recipe of a line to one layer.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::origin::{Origin, tell};
use super::own::Own;
use super::script::{InstalledFile, Layer, Script};
use super::tags::Dialect;
use super::template::Renderer;
use super::{downloads, trees, worker};
use crate::recipe::diagnostic::{Diagnostic, Diagnostics};
use crate::recipe::files;
use crate::recipe::model::{FileSpec, InlineText, LineRecipe, Location, Manager, Source, StepSpec};
use crate::recipe::twice::{KEEP_ONE, REMOVE_ONE, Taken, listed_twice, twice};

static PACKAGES: LazyLock<Own> = LazyLock::new(|| {
    Own::new(
        include_str!("../../templates/packages.apt.sh.tera"),
        "packages",
    )
});
static PACKAGES_DNF: LazyLock<Own> = LazyLock::new(|| {
    Own::new(
        include_str!("../../templates/packages.dnf.sh.tera"),
        "packages",
    )
});
static FILES: LazyLock<Own> =
    LazyLock::new(|| Own::new(include_str!("../../templates/files.sh.tera"), "files"));

/// Mirrors can be slow; apt itself gives up on a dead one long before.
const PACKAGES_TIMEOUT: Duration = Duration::from_secs(1800);
pub const FILES_TIMEOUT: Duration = Duration::from_secs(300);
/// Linux's `MAX_ARG_STRLEN` (execve(2)): a script with a longer variable does not start.
const LONGEST_VARIABLE: usize = 128 * 1024;

/// Renders one recipe. What is wrong goes to `found`, and then the layer is not to be used.
///
/// `agent` is the binary of the worker's agent, for recipes that install it.
pub fn layer(
    recipe: &LineRecipe,
    agent: &[u8],
    renderer: &mut Renderer,
    found: &mut Diagnostics,
) -> Layer {
    let mut layer = Layer {
        labels: recipe.labels.clone(),
        manager: recipe.manager,
        sealed: recipe.seal.iter().map(|one| one.sealed.clone()).collect(),
        ..Layer::new(&recipe.name, recipe.version.clone())
    };
    for package in &recipe.packages {
        if !wanted(package.when.as_ref(), renderer, found) {
            continue;
        }
        if layer.packages.contains(&package.name) {
            found.push(at_entry(
                &package.at,
                listed_twice(&package.name),
                REMOVE_ONE,
            ));
        } else {
            layer.packages.push(package.name.clone());
        }
    }
    let mut taken = Taken::default();
    for file in &recipe.files {
        let wanted = wanted(file.when.as_ref(), renderer, found);
        if wanted && let Err(path) = taken.take(vec![(file.path.clone(), false)]) {
            found.push(at_entry(&file.at, twice(&path), KEEP_ONE));
        }
        let Some(bytes) = payload(file, wanted, renderer, found) else {
            continue;
        };
        let sha256 = hex::encode(Sha256::digest(&bytes));
        layer.files.push(InstalledFile {
            path: file.path.clone(),
            owner: file.owner.clone(),
            group: file.group.clone(),
            mode: format!("{:04o}", file.mode),
            sha256: sha256.clone(),
        });
        layer.payloads.insert(sha256, bytes.into());
    }
    if !layer.packages.is_empty() {
        let script = match layer.manager {
            Manager::Apt => &PACKAGES,
            Manager::Dnf => &PACKAGES_DNF,
        };
        let text = script.render(&layer.packages);
        let title = counted(layer.packages.len(), "package");
        layer.provision.push(own_script(
            recipe,
            1,
            "packages",
            title,
            text,
            PACKAGES_TIMEOUT,
        ));
    }
    if !layer.files.is_empty() {
        let text = FILES.render(&layer.files);
        let title = counted(layer.files.len(), "file");
        layer.provision.push(own_script(
            recipe,
            layer.provision.len() + 1,
            "files",
            title,
            text,
            FILES_TIMEOUT,
        ));
    }
    trees::install(recipe, &mut layer, &mut taken, renderer, found);
    downloads::install(recipe, &mut layer, &mut taken, renderer, found);
    if let Some(spec) = &recipe.worker
        && let Some(parts) = worker::parts(spec, agent, renderer, found)
    {
        let text = worker::SCRIPT.render(&parts.files);
        layer.provision.push(own_script(
            recipe,
            layer.provision.len() + 1,
            "worker",
            worker::TITLE.to_owned(),
            text,
            worker::TIMEOUT,
        ));
        layer.payloads.extend(parts.payloads);
        layer.worker = Some(parts.installed);
    }
    let first = layer.provision.len() + 1;
    layer.provision.extend(scripts(
        recipe,
        "step",
        first,
        &recipe.steps,
        renderer,
        found,
    ));
    layer.validate = scripts(recipe, "validate", 1, &recipe.validate, renderer, found);
    layer.test = scripts(recipe, "test", 1, &recipe.test, renderer, found);
    layer
}

pub fn counted(count: usize, thing: &str) -> String {
    counted_to("Install", count, thing)
}

pub fn counted_to(verb: &str, count: usize, thing: &str) -> String {
    format!(
        "{verb} {count} {thing}{}",
        if count == 1 { "" } else { "s" }
    )
}

pub fn own_script(
    recipe: &LineRecipe,
    number: usize,
    slug: &str,
    title: String,
    text: String,
    timeout: Duration,
) -> Script {
    let id = format!("{}/step-{number:03}-{slug}", recipe.name);
    Script {
        id,
        title,
        text,
        env: BTreeMap::new(),
        timeout,
        retries: 0,
        reboot: false,
    }
}

/// Whether a condition holds. One that cannot be judged is reported, and holds, so that what it guards is checked too.
pub fn wanted(when: Option<&InlineText>, renderer: &mut Renderer, found: &mut Diagnostics) -> bool {
    when.is_none_or(|when| renderer.condition(when, found).unwrap_or(true))
}

/// The bytes of a file to install; of one that is not wanted, the template is checked, and there are none.
fn payload(
    file: &FileSpec,
    wanted: bool,
    renderer: &mut Renderer,
    found: &mut Diagnostics,
) -> Option<Vec<u8>> {
    let mut text = |text: &str, origin, dialect, found: &mut Diagnostics| {
        if wanted {
            return renderer.render(text, origin, dialect, found);
        }
        renderer.check(text, origin, dialect, found);
        None
    };
    let bytes = match &file.source {
        Source::Raw(_) if !wanted => None,
        Source::Raw(path) => return raw(path, &file.at, renderer, found),
        Source::Inline(inline) => text(&inline.text, Origin::Inline(inline), Dialect::Plain, found),
        Source::Template(path) => {
            let template = keep(files::own_text(path), found)?;
            text(&template, Origin::File(path), dialect_of(path), found)
        }
    };
    let bytes = bytes?.into_bytes();
    if !renderer.has_room(bytes.len() as u64) {
        found.push(no_room(&file.at));
        return None;
    }
    Some(bytes)
}

/// The bytes of a file as it is, if the line has room for them.
pub fn raw(
    path: &Path,
    at: &Location,
    renderer: &mut Renderer,
    found: &mut Diagnostics,
) -> Option<Vec<u8>> {
    // What cannot be asked about cannot be read either, and that is said below.
    let bytes = path.metadata().map_or(0, |about| about.len());
    if bytes <= files::LARGEST_PAYLOAD && !renderer.has_room(bytes) {
        found.push(no_room(at));
        return None;
    }
    keep(files::own_bytes(path, files::LARGEST_PAYLOAD), found)
}

fn no_room(at: &Location) -> Diagnostic {
    Diagnostic {
        location: Some(at.clone()),
        source_line: None,
        message: format!(
            "with this, the files of the recipe and what it builds on have more than {} bytes",
            files::LARGEST_PAYLOAD
        ),
        help: Some(
            "let the machine download large files (`url` and `sha256`), or package them".into(),
        ),
    }
}

/// What is wrong with an entry of a recipe.
pub fn at_entry(at: &Location, message: String, help: &str) -> Diagnostic {
    // The file was read a moment ago; without it the message only lacks the line.
    let text = files::text(&at.file).unwrap_or_default();
    Diagnostic::at(at.clone(), &text, message, help)
}

/// How the template of a file to install is read.
pub fn dialect_of(path: &Path) -> Dialect {
    if path.to_string_lossy().ends_with(".sh.tera") {
        Dialect::Script
    } else {
        Dialect::Plain
    }
}

fn scripts(
    recipe: &LineRecipe,
    phase: &str,
    first: usize,
    steps: &[StepSpec],
    renderer: &mut Renderer,
    found: &mut Diagnostics,
) -> Vec<Script> {
    let mut scripts = Vec::new();
    for step in steps {
        let wanted = wanted(step.when.as_ref(), renderer, found);
        let text = script_text(step, wanted, renderer, found);
        let mut env = BTreeMap::new();
        for (name, value) in &step.env {
            if !wanted {
                renderer.check(&value.text, Origin::Inline(value), Dialect::Plain, found);
            } else if let Some(rendered) =
                renderer.render(&value.text, Origin::Inline(value), Dialect::Plain, found)
            {
                // With a `=` between them and a NUL at the end.
                let bytes = name.len() + rendered.len() + 2;
                if bytes > LONGEST_VARIABLE {
                    let message = format!(
                        "the variable `{name}` takes {bytes} bytes, more than the {LONGEST_VARIABLE} that Linux gives to a program"
                    );
                    let help = "name the value in `run`, or install it as a file with `content:`";
                    tell(found, &value.text, 0, Origin::Inline(value), message, help);
                }
                env.insert(name.clone(), rendered);
            }
        }
        let Some(text) = text else { continue };
        scripts.push(Script {
            id: format!(
                "{}/{phase}-{:03}-{}",
                recipe.name,
                first + scripts.len(),
                slug(&step.name)
            ),
            title: step.name.clone(),
            text,
            env,
            timeout: step.timeout,
            retries: step.retries,
            reboot: step.reboot,
        });
    }
    scripts
}

/// The text of a script; of one that is not wanted, it is checked, and there is none.
fn script_text(
    step: &StepSpec,
    wanted: bool,
    renderer: &mut Renderer,
    found: &mut Diagnostics,
) -> Option<String> {
    let (source, origin) = match &step.source {
        Source::Inline(inline) => (inline.text.clone(), Origin::Inline(inline)),
        Source::Raw(path) | Source::Template(path) => {
            (keep(files::own_text(path), found)?, Origin::File(path))
        }
    };
    if let Some(at) = source.find(['\0', '\r']) {
        let (message, help) = if source[at..].starts_with('\r') {
            (
                "the script has CRLF line ends, which a shell does not understand",
                "convert it (`dos2unix`), and set `* text eol=lf` in .gitattributes",
            )
        } else {
            ("the script holds a NUL character", "remove it")
        };
        tell(found, &source, at, origin, message, help);
        return None;
    }
    match &step.source {
        Source::Raw(_) => wanted.then_some(source),
        _ if !wanted => {
            renderer.check(&source, origin, Dialect::Script, found);
            None
        }
        _ => renderer.render(&source, origin, Dialect::Script, found),
    }
}

pub fn keep<T>(result: Result<T, Diagnostic>, found: &mut Diagnostics) -> Option<T> {
    result.map_err(|diagnostic| found.push(diagnostic)).ok()
}

/// A title as a part of a file name: lower-case letters and digits, hyphens between them, at most 40 characters.
fn slug(title: &str) -> String {
    let words: Vec<String> = title
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_ascii_lowercase)
        .collect();
    let slug: String = words.join("-").chars().take(40).collect();
    let slug = slug.trim_end_matches('-');
    if slug.is_empty() {
        "step".into()
    } else {
        slug.into()
    }
}

#[cfg(test)]
mod tests {
    use super::slug;

    #[test]
    fn slugs_are_safe_file_names() {
        assert_eq!(slug("Enable the worker!"), "enable-the-worker");
        assert_eq!(slug("../../etc"), "etc");
        assert_eq!(slug("ÄÖ"), "step");
        assert!(slug(&"word ".repeat(30)).len() <= 40);
    }
}
