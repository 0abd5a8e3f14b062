//! A line of recipes becomes one: parameters, labels, image and build key by key, the child's word over its parent's.

use std::collections::BTreeMap;
use std::time::Duration;

use super::diagnostic::{Diagnostic, Diagnostics};
use super::load::{Given, Line};
use super::model::{BuildSpec, ImageSpec, LineRecipe, Resolved};
use super::parameters::Parameters;
use super::raw::{RawBuild, RawImage};

/// Labels that fit beside the tags of our own (`aws::tags`): a resource has 50 (EC2 User Guide, tag restrictions).
const MOST_LABELS: usize = 40;

/// What to do about a parameter that has no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// It is an error.
    Refuse,
    /// Take a sample of its type: a lint can render a recipe that nobody has filled in yet.
    Sample,
}

/// Merges a line.
///
/// # Errors
/// Parameters that are undefined, of another type, outside their limits or without a value; too many labels.
pub fn merge(line: Line, given: &Given, missing: Missing) -> Result<Resolved, Diagnostics> {
    let mut found = Diagnostics::default();
    let mut parameters = Parameters::default();
    let mut labels = BTreeMap::new();
    let mut origins = BTreeMap::new();
    let mut image = ImageSpec {
        size_gib: 8,
        filesystem: "ext4".into(),
        architecture: "x86_64".into(),
        boot_mode: "uefi".into(),
    };
    let mut build = BuildSpec {
        instance_type: "t3.medium".into(),
        subnet: None,
        security_groups: Vec::new(),
        instance_profile: None,
        timeout: Duration::from_secs(3600),
        max_age: Duration::from_secs(14 * 24 * 3600),
    };
    let mut recipes = Vec::new();
    let (mut name, mut version, mut description) =
        (String::new(), semver::Version::new(0, 0, 0), String::new());
    for recipe in line.recipes {
        parameters.inherit(&recipe.parameters, &mut found);
        override_image(&mut image, &recipe.image);
        override_build(&mut build, &recipe.build);
        labels.extend(recipe.labels.clone());
        origins.extend(recipe.origins);
        (name, version, description) = (
            recipe.name.clone(),
            recipe.version.clone(),
            recipe.description.clone(),
        );
        recipes.push(LineRecipe {
            name: recipe.name,
            version: recipe.version,
            dir: recipe.dir,
            image: image.clone(),
            labels: labels.clone(),
            packages: recipe.packages,
            files: recipe.files,
            worker: recipe.worker,
            steps: recipe.steps,
            validate: recipe.validate,
            test: recipe.test,
        });
    }
    if labels.len() > MOST_LABELS {
        found.push(Diagnostic::new(
            format!(
                "`{name}` and what it builds on have {} labels; {MOST_LABELS} fit",
                labels.len()
            ),
            "remove some: a resource has at most 50 tags, and piaas-bake needs the rest",
        ));
    }
    for file in &given.values {
        parameters.read_values(file, &mut found);
    }
    for (name, text) in &given.sets {
        parameters.set(name, text, &mut found);
    }
    let (parameters, about) = parameters.finish(missing, &mut found);
    found.or(Resolved {
        name,
        version,
        description,
        base: line.base,
        line: recipes,
        about,
        parameters,
        labels,
        image,
        build,
        origins,
    })
}

fn override_image(image: &mut ImageSpec, child: &RawImage) {
    override_with(&mut image.size_gib, child.size_gib.as_ref());
    override_with(&mut image.filesystem, child.filesystem.as_ref());
    override_with(&mut image.architecture, child.architecture.as_ref());
    override_with(&mut image.boot_mode, child.boot_mode.as_ref());
}

fn override_build(build: &mut BuildSpec, child: &RawBuild) {
    override_with(&mut build.instance_type, child.instance_type.as_ref());
    override_with(&mut build.subnet, child.subnet.as_ref());
    override_with(&mut build.security_groups, child.security_groups.as_ref());
    override_with(&mut build.instance_profile, child.instance_profile.as_ref());
    override_with(&mut build.timeout, child.timeout.as_ref());
    override_with(&mut build.max_age, child.max_age.as_ref());
}

fn override_with<T: Clone>(value: &mut T, child: Option<&T>) {
    if let Some(child) = child {
        value.clone_from(child);
    }
}
