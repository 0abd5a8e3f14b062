//! Templates to scripts: a merged recipe becomes the exact texts that a machine runs and the exact bytes it installs.

pub mod script;

mod quoting;
mod template;
mod write;

pub use write::write_dir;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::recipe::model::{FileSpec, LineRecipe, Resolved, Source, StepSpec};
use crate::recipe::{Diagnostic, Diagnostics, placed};
use script::{Layer, Script};
use template::{Kind, Renderer};

const PACKAGES: &str = include_str!("../../templates/packages.apt.sh.tera");
const FILES: &str = include_str!("../../templates/files.sh.tera");

/// Mirrors are slow at times, and a large package set is a large download.
const PACKAGES_TIMEOUT: Duration = Duration::from_secs(1800);
const FILES_TIMEOUT: Duration = Duration::from_secs(300);

/// Renders every recipe of a line, root first.
///
/// # Errors
/// Templates that do not parse or render, values that no shell word can hold, quoted values, files that cannot be
/// read, and parameters that nothing uses.
pub fn render(resolved: &Resolved) -> Result<Vec<Layer>, Diagnostics> {
    let mut rendering = Rendering {
        renderer: Renderer::new(&resolved.parameters),
        found: Vec::new(),
    };
    let layers = resolved
        .line
        .iter()
        .map(|recipe| rendering.layer(recipe))
        .collect();
    let Rendering {
        renderer,
        mut found,
    } = rendering;
    // Only a clean look tells what is unused: a template that does not parse may use anything.
    if found.is_empty() {
        let used: &BTreeSet<String> = renderer.used();
        for (name, at) in resolved
            .declared
            .iter()
            .filter(|(name, _)| !used.contains(*name))
        {
            let finding = placed(at, format!("nothing uses the parameter `{name}`"));
            found.push(finding.help(format!(
                "write `{{{{ {name} }}}}` where it belongs, or remove it"
            )));
        }
    }
    Diagnostics::check(found, layers)
}

struct Rendering<'a> {
    renderer: Renderer<'a>,
    found: Vec<Diagnostic>,
}

#[derive(Serialize)]
struct InstalledFile {
    path: String,
    owner: String,
    group: String,
    /// Octal digits.
    mode: String,
    sha256: String,
}

impl InstalledFile {
    fn summary(&self) -> String {
        format!(
            "{} {}:{} {}",
            self.sha256, self.owner, self.group, self.mode
        )
    }
}

impl Rendering<'_> {
    fn layer(&mut self, recipe: &LineRecipe) -> Layer {
        let mut payloads = BTreeMap::new();
        let mut provision = Vec::new();
        if !recipe.packages.is_empty() {
            let text = self.renderer.own(PACKAGES, "packages", &recipe.packages);
            provision.push(generated(
                recipe,
                "packages",
                "Install packages",
                text,
                PACKAGES_TIMEOUT,
            ));
        }
        let files: Vec<InstalledFile> = recipe
            .files
            .iter()
            .filter_map(|file| self.file(file, &mut payloads))
            .collect();
        if !files.is_empty() {
            let text = self.renderer.own(FILES, "files", &files);
            provision.push(generated(
                recipe,
                "files",
                "Install files",
                text,
                FILES_TIMEOUT,
            ));
        }
        let mut scripts = |phase: &str, steps: &[StepSpec]| -> Vec<Script> {
            let numbered = steps.iter().enumerate();
            numbered
                .filter_map(|(index, step)| self.script(recipe, phase, index + 1, step))
                .collect()
        };
        provision.extend(scripts("step", &recipe.steps));
        let validate = scripts("validate", &recipe.validate);
        let test = scripts("test", &recipe.test);
        Layer {
            recipe: recipe.name.clone(),
            version: recipe.version.clone(),
            packages: recipe.packages.clone(),
            files: files
                .iter()
                .map(|file| (file.path.clone(), file.summary()))
                .collect(),
            provision,
            validate,
            test,
            payloads,
        }
    }

    fn file(
        &mut self,
        file: &FileSpec,
        payloads: &mut BTreeMap<String, Vec<u8>>,
    ) -> Option<InstalledFile> {
        let bytes = match &file.source {
            Source::Raw(path) => match std::fs::read(path) {
                Ok(bytes) => Some(bytes),
                Err(error) => {
                    self.found.push(placed(
                        &file.at,
                        format!("cannot read {}: {error}", path.display()),
                    ));
                    None
                }
            },
            Source::Template(path) if is_shell(path) => self
                .text(&file.source, &file.at, Kind::Shell)
                .map(String::into_bytes),
            source => self
                .text(source, &file.at, Kind::Text)
                .map(String::into_bytes),
        }?;
        let sha256 = hex::encode(Sha256::digest(&bytes));
        payloads.insert(sha256.clone(), bytes);
        Some(InstalledFile {
            path: file.path.clone(),
            owner: file.owner.clone(),
            group: file.group.clone(),
            mode: format!("{:04o}", file.mode),
            sha256,
        })
    }

    fn script(
        &mut self,
        recipe: &LineRecipe,
        phase: &str,
        number: usize,
        step: &StepSpec,
    ) -> Option<Script> {
        let text = match &step.source {
            Source::Raw(path) => match std::fs::read_to_string(path) {
                Ok(text) => Some(text),
                Err(error) => {
                    self.found.push(placed(
                        &step.at,
                        format!("cannot read {}: {error}", path.display()),
                    ));
                    None
                }
            },
            source => self.text(source, &step.at, Kind::Shell),
        }?;
        let mut env = BTreeMap::new();
        for (name, value) in &step.env {
            env.insert(
                name.clone(),
                self.text(&Source::Inline(value.clone()), &step.at, Kind::Text)?,
            );
        }
        for value in std::iter::once(&text).chain(env.values()) {
            if value.contains('\0') {
                let finding = placed(&step.at, format!("`{}` holds a NUL character", step.name));
                self.found.push(
                    finding.help(
                        "no shell and no environment can carry it; write it to a file instead",
                    ),
                );
                return None;
            }
        }
        Some(Script {
            id: format!("{}/{phase}-{number:03}-{}", recipe.name, slug(&step.name)),
            title: step.name.clone(),
            text,
            env,
            timeout: step.timeout,
            retries: step.retries,
            reboot: step.reboot,
        })
    }

    fn text(
        &mut self,
        source: &Source,
        at: &crate::recipe::model::Location,
        kind: Kind,
    ) -> Option<String> {
        match self.renderer.source(source, at, kind) {
            Ok(text) => Some(text),
            Err(found) => {
                self.found.extend(found);
                None
            }
        }
    }
}

/// Whether a template's name says that it makes a shell script, whose values are quoted.
fn is_shell(template: &Path) -> bool {
    template
        .to_string_lossy()
        .trim_end_matches(".tera")
        .ends_with(".sh")
}

fn generated(
    recipe: &LineRecipe,
    what: &str,
    title: &str,
    text: String,
    timeout: Duration,
) -> Script {
    Script {
        id: format!("{}/{what}", recipe.name),
        title: title.to_owned(),
        text,
        env: BTreeMap::new(),
        timeout,
        retries: 0,
        reboot: false,
    }
}

/// A title as part of a file name: lower case letters and digits, everything else a hyphen.
fn slug(title: &str) -> String {
    let mapped: String = title
        .chars()
        .map(|char| {
            if char.is_ascii_alphanumeric() {
                char.to_ascii_lowercase()
            } else {
                '-'
            }
        })
        .collect();
    let parts: Vec<&str> = mapped.split('-').filter(|part| !part.is_empty()).collect();
    let joined = parts.join("-");
    if joined.is_empty() {
        "step".to_owned()
    } else {
        joined.chars().take(40).collect()
    }
}
