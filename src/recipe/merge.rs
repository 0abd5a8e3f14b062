//! A line of recipes becomes one: parameters, image and build key by key, the child's word over its parent's.

use std::collections::BTreeMap;
use std::time::Duration;

use super::diagnostic::{Diagnostic, Diagnostics, suggest};
use super::load::Line;
use super::model::{BuildSpec, ImageSpec, LineRecipe, Resolved, Value};
use super::raw::{Kind, Place, RawBuild, RawImage, RawParameterKind, RawRecipe};

/// What to do about a parameter that has no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// It is an error.
    Refuse,
    /// Take a sample of its type: a lint can render a recipe that nobody has filled in yet.
    Sample,
}

/// A parameter on its way down the line.
struct Parameter {
    kind: Kind,
    value: Option<Value>,
    declared: Place,
}

/// Merges a line.
///
/// # Errors
/// Parameters that are undefined, of another type, or without a value.
pub fn merge(
    line: Line,
    sets: &[(String, String)],
    missing: Missing,
) -> Result<Resolved, Diagnostics> {
    let mut found = Diagnostics::default();
    let mut parameters = BTreeMap::new();
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
    };
    let mut recipes = Vec::new();
    let (mut name, mut version, mut description) =
        (String::new(), semver::Version::new(0, 0, 0), String::new());
    for recipe in line.recipes {
        inherit(&mut parameters, &recipe, &mut found);
        override_image(&mut image, &recipe.image);
        override_build(&mut build, &recipe.build);
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
            packages: recipe.packages,
            files: recipe.files,
            worker: recipe.worker,
            steps: recipe.steps,
            validate: recipe.validate,
            test: recipe.test,
        });
    }
    for (name, text) in sets {
        set(&mut parameters, name, text, &mut found);
    }
    let declared = parameters
        .iter()
        .map(|(name, parameter)| (name.clone(), parameter.declared.at.clone()))
        .collect();
    let parameters = values(parameters, missing, &mut found);
    found.or(Resolved {
        name,
        version,
        description,
        base: line.base,
        line: recipes,
        declared,
        parameters,
        image,
        build,
    })
}

fn inherit(
    parameters: &mut BTreeMap<String, Parameter>,
    recipe: &RawRecipe,
    found: &mut Diagnostics,
) {
    for raw in &recipe.parameters {
        match (&raw.is, parameters.get_mut(&raw.name)) {
            (RawParameterKind::Declared { kind, default }, None) => {
                let parameter = Parameter {
                    kind: *kind,
                    value: default.clone(),
                    declared: raw.at.clone(),
                };
                parameters.insert(raw.name.clone(), parameter);
            }
            (RawParameterKind::Declared { kind, default }, Some(known)) if *kind == known.kind => {
                // Without a default it is required again: a child may insist on an answer.
                known.value.clone_from(default);
                known.declared = raw.at.clone();
            }
            (RawParameterKind::Declared { kind, .. }, Some(known)) => {
                found.push(raw.at.diagnostic(
                    format!(
                        "`{}` is redefined as {}; a parent declares it as {}",
                        raw.name,
                        kind.name(),
                        known.kind.name()
                    ),
                    "keep its type: the parent's templates rely on it",
                ))
            }
            (RawParameterKind::Set(value), Some(known)) if Kind::of(value) == known.kind => {
                known.value = Some(value.clone());
            }
            (RawParameterKind::Set(value), Some(known)) => found.push(raw.at.diagnostic(
                format!(
                    "`{}` is a parameter of type {}, not {}",
                    raw.name,
                    known.kind.name(),
                    Kind::of(value).name()
                ),
                "write a value of its type; text that looks like a number needs quotes",
            )),
            (RawParameterKind::Set(_), None) => found.push(raw.at.diagnostic(
                format!("no parent declares the parameter `{}`", raw.name),
                format!(
                    "{} Or declare it: `{}: {{ type: string, default: … }}`",
                    suggest(&raw.name, parameters.keys().map(String::as_str)),
                    raw.name
                ),
            )),
        }
    }
}

/// `--set name=value`: the text is read by the type of the parameter; a list is comma-separated.
fn set(
    parameters: &mut BTreeMap<String, Parameter>,
    name: &str,
    text: &str,
    found: &mut Diagnostics,
) {
    let Some(parameter) = parameters.get_mut(name) else {
        let help = suggest(name, parameters.keys().map(String::as_str));
        found.push(Diagnostic::new(
            format!("--set {name}: no recipe of the line declares this parameter"),
            help,
        ));
        return;
    };
    let value = match parameter.kind {
        _ if text.contains('\0') => Err("a value without NUL characters"),
        Kind::String => Ok(Value::String(text.to_string())),
        Kind::Integer => text
            .parse()
            .map(Value::Integer)
            .map_err(|_| "a whole number"),
        Kind::Boolean => text
            .parse()
            .map(Value::Boolean)
            .map_err(|_| "true or false"),
        Kind::List if text.is_empty() => Ok(Value::List(Vec::new())),
        Kind::List => Ok(Value::List(text.split(',').map(String::from).collect())),
    };
    match value {
        Ok(value) => parameter.value = Some(value),
        Err(expected) => found.push(Diagnostic::new(
            format!(
                "--set {name}: the value does not fit the type {}",
                parameter.kind.name()
            ),
            format!("give {expected}"),
        )),
    }
}

fn values(
    parameters: BTreeMap<String, Parameter>,
    missing: Missing,
    found: &mut Diagnostics,
) -> BTreeMap<String, Value> {
    let mut values = BTreeMap::new();
    for (name, parameter) in parameters {
        let value = match (parameter.value, missing) {
            (Some(value), _) => value,
            (None, Missing::Sample) => match parameter.kind {
                Kind::String => Value::String("sample".into()),
                Kind::Integer => Value::Integer(1),
                Kind::Boolean => Value::Boolean(true),
                Kind::List => Value::List(vec!["sample".into()]),
            },
            (None, Missing::Refuse) => {
                found.push(parameter.declared.diagnostic(
                    format!("the parameter `{name}` has no value"),
                    format!(
                        "give it with `--set {name}=…`, set it in the recipe, or add a `default:`"
                    ),
                ));
                continue;
            }
        };
        values.insert(name, value);
    }
    values
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
}

fn override_with<T: Clone>(value: &mut T, child: Option<&T>) {
    if let Some(child) = child {
        value.clone_from(child);
    }
}
