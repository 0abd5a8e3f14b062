//! One recipe file, read and checked by itself: what it says, and where.

mod after;
mod base;
mod contents;
mod labels;
mod parameters;
mod sample;
mod seal;
mod settings;
mod steps;
mod worker;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use semver::Version;

use super::diagnostic::{Diagnostics, visible};
use super::format::{self, SCHEMA, keys};
use super::model::{
    DistributionSpec, DownloadSpec, FileSpec, InlineText, Location, RetentionSpec, RollSpec,
    SealSpec, StepSpec, TreeSpec, WorkerSpec,
};
use super::node::{Document, Fields, Node};
use super::units;
use after::{read_distribution, read_retention, read_roll};
use base::read_from;
use contents::{read_files, read_packages};
use labels::read_labels;
use parameters::read_parameters;
use seal::read_seal;
use settings::{read_build, read_image};
use steps::read_step;
use worker::read_worker;

pub use super::format::Kind;
pub use base::From;
pub use contents::RawPackages;
pub use parameters::{Limits, Pattern, RawParameter, RawParameterKind, parameter_value};
pub use settings::{RawBuild, RawImage};

/// What a recipe file says; `None` where it says nothing, so that its parent's word stands.
#[derive(Debug)]
pub struct RawRecipe {
    pub name: String,
    pub version: Version,
    pub description: String,
    pub dir: PathBuf,
    pub labels: BTreeMap<String, String>,
    pub from: From,
    pub from_at: Location,
    pub parameters: Vec<RawParameter>,
    pub packages: RawPackages,
    pub files: Vec<FileSpec>,
    pub downloads: Vec<DownloadSpec>,
    pub trees: Vec<TreeSpec>,
    pub worker: Option<WorkerSpec>,
    pub steps: Vec<StepSpec>,
    pub validate: Vec<StepSpec>,
    pub test: Vec<StepSpec>,
    pub seal: Vec<SealSpec>,
    pub image: RawImage,
    pub build: RawBuild,
    pub roll: RollSpec,
    pub retention: RetentionSpec,
    pub distribution: DistributionSpec,
    /// Where each key of a section stands, such as `image.size`.
    pub origins: Vec<(String, Location)>,
}

/// Sections that are merged key by key.
const SECTIONS: [&str; 6] = [
    "labels",
    "image",
    "build",
    "roll",
    "retention",
    "distribution",
];

/// A place to report about later, with the line it is on.
#[derive(Debug, Clone)]
pub struct Place {
    pub at: Location,
    pub line: String,
}

impl Place {
    pub fn of(node: &Node<'_>) -> Self {
        let at = node.location();
        // No longer than it can be shown: a recipe may be one line, with a thousand places on it.
        let line = visible(node.document().line(at.line).unwrap_or_default());
        Self { at, line }
    }

    /// A diagnostic at this place.
    pub fn diagnostic(
        &self,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> super::diagnostic::Diagnostic {
        super::diagnostic::Diagnostic::on_line(self.at.clone(), Some(&self.line), message, help)
    }
}

/// Reads a document; `None` if a part is missing that nothing works without (then `found` says so).
pub fn read(document: &Document, dir: &Path, found: &mut Diagnostics) -> Option<RawRecipe> {
    let top = document.root().fields(keys::<format::Recipe>(), found);
    if let Some(schema) = top.require(
        "schema",
        "begin the file with `schema: piaas-bake/v1`",
        found,
    ) {
        schema.checked(
            "a schema that this version reads",
            |text| text == SCHEMA,
            "write `schema: piaas-bake/v1`",
            found,
        );
    }
    let name = top
        .require(
            "name",
            "write `name:` with the name of the directory",
            found,
        )
        .and_then(|node| {
            let name = node.checked("a recipe name", units::is_recipe_name, NAME_HELP, found)?;
            let directory = dir
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default();
            if name != directory {
                found.push(node.diagnostic(
                    format!("the recipe is named `{name}`, its directory `{directory}`"),
                    format!("write `name: {directory}`, or rename the directory"),
                ));
            }
            Some(name)
        });
    let version = top
        .require("version", "write `version: 1.0.0`", found)
        .and_then(|node| {
            node.parsed(
                "a semantic version",
                |text| Version::parse(text).map_err(|_| VERSION_HELP.into()),
                found,
            )
        });
    let description = top
        .require(
            "description",
            "say in one line what the image is for",
            found,
        )
        .and_then(|node| {
            node.checked(
                "one line",
                is_one_line,
                "say in one line what the image is for",
                found,
            )
        });
    let from = top
        .require(
            "from",
            "say what it builds on, such as `from: { recipe: debian-base, version: ^1 }`",
            found,
        )
        .and_then(|node| Some((read_from(node, found)?, node.location())));
    let list = |key: &str, found: &mut Diagnostics| {
        top.get(key)
            .map(|node| node.items(found))
            .unwrap_or_default()
    };
    let steps = |key: &str, found: &mut Diagnostics| -> Vec<StepSpec> {
        list(key, found)
            .into_iter()
            .filter_map(|node| read_step(node, dir, found))
            .collect()
    };

    let labels = section(&top, "labels", found, read_labels);
    let parameters = section(&top, "parameters", found, read_parameters);
    let packages = section(&top, "packages", found, read_packages);
    let (files, downloads, trees) = read_files(list("files", found), dir, found);
    let worker = top.get("worker").and_then(|node| read_worker(node, found));
    let (provision, validate, test) = (
        steps("steps", found),
        steps("validate", found),
        steps("test", found),
    );
    let seal = read_seal(list("seal", found), found);
    let image = section(&top, "image", found, read_image);
    let build = section(&top, "build", found, read_build);
    let roll = section(&top, "roll", found, read_roll);
    let retention = section(&top, "retention", found, read_retention);
    let distribution = section(&top, "distribution", found, read_distribution);
    let mut origins = Vec::new();
    for section in SECTIONS {
        let Some(node) = top.get(section).filter(Node::is_map) else {
            continue;
        };
        // What is wrong with them is found by now.
        for entry in node.entries(&mut Diagnostics::default()) {
            origins.push((format!("{section}.{}", entry.key), entry.location()));
        }
    }
    let (from, from_at) = from?;
    Some(RawRecipe {
        name: name?,
        version: version?,
        description: description?,
        dir: dir.to_path_buf(),
        labels,
        from,
        from_at,
        parameters,
        packages,
        files,
        downloads,
        trees,
        worker,
        steps: provision,
        validate,
        test,
        seal,
        image,
        build,
        roll,
        retention,
        distribution,
        origins,
    })
}

/// A part of the recipe that may be left out.
fn section<'d, T: Default>(
    top: &Fields<'d>,
    key: &str,
    found: &mut Diagnostics,
    read: impl FnOnce(Node<'d>, &mut Diagnostics) -> T,
) -> T {
    top.get(key)
        .map(|node| read(node, found))
        .unwrap_or_default()
}

/// `when`, in a map that may have one.
fn read_when(fields: &Fields<'_>, found: &mut Diagnostics) -> Option<InlineText> {
    let node = fields.get("when")?;
    let help = "write an expression over parameters, without braces, such as `when: with_docker and port > 1024`; \
                quote it if it begins with a quote";
    let Some(text) = node.value().as_str() else {
        let message = format!("expected a condition, found {}", node.kind());
        found.push(node.diagnostic(message, help));
        return None;
    };
    let braces = ["{{", "}}", "{%", "%}"];
    if braces.iter().any(|brace| text.contains(brace)) {
        found.push(node.diagnostic("a condition stands without braces", help));
        return None;
    }
    let text = node.checked("a condition", is_one_line, help, found)?;
    Some(InlineText::of(&node, text))
}

pub const NAME_HELP: &str = "use lower-case letters, digits and hyphens, a letter first";
const VERSION_HELP: &str = "write major.minor.patch, such as 1.0.0 (semver.org)";

fn is_one_line(text: &str) -> bool {
    !text.trim().is_empty() && text.len() <= 200 && !text.contains(char::is_control)
}
