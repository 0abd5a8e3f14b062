//! A line of recipes becomes one: parameters, labels, image and build key by key, the child's word over its parent's.

use std::collections::{BTreeMap, BTreeSet};

use super::diagnostic::{Diagnostic, Diagnostics};
use super::load::{Given, Line};
use super::lock::Lock;
use super::manager;
use super::model::{
    BuildSpec, DistributionSpec, ImageSpec, LineRecipe, Resolved, RetentionSpec, RollSpec, SealSpec,
};
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

/// A line that is merged as far as it can be.
#[derive(Debug)]
pub struct Merged {
    pub resolved: Resolved,
    /// Parameters whose value or type is in doubt, for a reason that is in `found`.
    pub in_doubt: BTreeSet<String>,
    /// Parameters that are undefined, of another type, outside their limits or without a value; too many labels.
    pub found: Diagnostics,
}

/// Merges a line.
pub fn merge(line: Line, given: &Given, missing: Missing) -> Merged {
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
    let mut build = BuildSpec::default();
    let mut roll = RollSpec::default();
    let mut retention = RetentionSpec::default();
    let mut distribution = DistributionSpec::default();
    let mut recipes = Vec::new();
    let (mut name, mut version, mut description) =
        (String::new(), semver::Version::new(0, 0, 0), String::new());
    for recipe in line.recipes {
        parameters.inherit(&recipe.parameters, &mut found);
        override_image(&mut image, &recipe.image);
        override_build(&mut build, &recipe.build);
        override_roll(&mut roll, &recipe.roll);
        inherit(&mut retention.keep, recipe.retention.keep.as_ref());
        inherit(&mut retention.max_age, recipe.retention.max_age.as_ref());
        let (to, child) = (&mut distribution, &recipe.distribution);
        inherit(&mut to.regions, child.regions.as_ref());
        inherit(&mut to.accounts, child.accounts.as_ref());
        labels.extend(recipe.labels.clone());
        let (manager, packages) = manager::choose(recipe.packages, &line.base, &mut found);
        origins.extend(recipe.origins);
        (name, version, description) = (
            recipe.name.clone(),
            recipe.version.clone(),
            recipe.description.clone(),
        );
        contradicted(&recipes, &recipe.seal, &mut found);
        let lock = Lock::beside(&recipe.dir, &recipe.name);
        let lock = lock.map_err(|wrong| found.push(wrong)).ok().flatten();
        recipes.push(LineRecipe {
            lock,
            name: recipe.name,
            version: recipe.version,
            dir: recipe.dir,
            from_at: recipe.from_at,
            image: image.clone(),
            labels: labels.clone(),
            manager,
            packages,
            files: recipe.files,
            downloads: recipe.downloads,
            trees: recipe.trees,
            worker: recipe.worker,
            seal: recipe.seal,
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
    let mut in_doubt = parameters.in_doubt();
    let (parameters, about) = parameters.finish(missing, &mut in_doubt, &mut found);
    let secret = about.iter().find(|(_, about)| about.secret.is_some());
    if let Some((name, about)) = secret.filter(|_| build.instance_profile.is_none()) {
        found.push(Diagnostic {
            location: Some(about.declared.clone()),
            source_line: None,
            message: format!("the builder has no role that could read the secret `{name}`"),
            help: Some(
                "write `build: { instance_profile: … }`; its role needs ssm:GetParameter or \
                 secretsmanager:GetSecretValue, and kms:Decrypt for a key of your own"
                    .into(),
            ),
        });
    }
    let resolved = Resolved {
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
        roll,
        retention,
        distribution,
        origins,
    };
    Merged {
        resolved,
        in_doubt,
        found,
    }
}

/// Refuses a child's word on a path of which one of its parents has another one.
fn contradicted(parents: &[LineRecipe], seal: &[SealSpec], found: &mut Diagnostics) {
    for one in seal {
        let (path, action) = (&one.sealed.path, one.sealed.action);
        let other = parents.iter().find_map(|parent| {
            let mut of_parent = parent.seal.iter().map(|one| &one.sealed);
            let other = of_parent.find(|other| other.path == *path && other.action != action)?;
            Some((parent, other.action))
        });
        if let Some((parent, other)) = other {
            found.push(Diagnostic {
                location: Some(one.at.clone()),
                source_line: None,
                message: format!(
                    "`{path}` is `{}` here and `{}` in the parent `{}`",
                    action.word(),
                    other.word(),
                    parent.name
                ),
                help: Some("what a parent says stays; remove one of the two lines".into()),
            });
        }
    }
}

fn override_image(image: &mut ImageSpec, child: &RawImage) {
    override_with(&mut image.size_gib, child.size_gib.as_ref());
    override_with(&mut image.filesystem, child.filesystem.as_ref());
    override_with(&mut image.architecture, child.architecture.as_ref());
    override_with(&mut image.boot_mode, child.boot_mode.as_ref());
}

fn override_build(build: &mut BuildSpec, child: &RawBuild) {
    override_with(&mut build.instance_types, child.instance_types.as_ref());
    override_with(&mut build.subnets, child.subnets.as_ref());
    override_with(&mut build.security_groups, child.security_groups.as_ref());
    override_with(&mut build.instance_profile, child.instance_profile.as_ref());
    override_with(&mut build.timeout, child.timeout.as_ref());
    override_with(&mut build.max_age, child.max_age.as_ref());
}

fn override_roll(roll: &mut RollSpec, child: &RollSpec) {
    inherit(&mut roll.warmup, child.warmup.as_ref());
    inherit(&mut roll.max_healthy, child.max_healthy.as_ref());
    inherit(&mut roll.canary_checks, child.canary_checks.as_ref());
    inherit(&mut roll.checkpoints, child.checkpoints.as_ref());
    inherit(&mut roll.checkpoint_delay, child.checkpoint_delay.as_ref());
}

fn inherit<T: Clone>(value: &mut Option<T>, child: Option<&T>) {
    if child.is_some() {
        *value = child.cloned();
    }
}

fn override_with<T: Clone>(value: &mut T, child: Option<&T>) {
    if let Some(child) = child {
        value.clone_from(child);
    }
}
