//! The parameters of a line: declared, inherited, set, and checked against what their declarations allow.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::diagnostic::{Diagnostic, Diagnostics, suggest};
use super::files;
use super::merge::Missing;
use super::model::{About, Origin, Value};
use super::node::Document;
use super::raw::{Kind, Limits, Pattern, Place, RawParameter, RawParameterKind, parameter_value};
use super::secret::{self, Reference};

/// All of them, on their way down the line.
#[derive(Default)]
pub struct Parameters {
    declared: BTreeMap<String, Parameter>,
    /// Those that are set and that nobody declares, which is said already.
    undeclared: BTreeSet<String>,
}

struct Parameter {
    kind: Kind,
    value: Option<(Value, Origin)>,
    description: Option<String>,
    /// Of every recipe that declares it: a child narrows what its parent's templates rely on, and never widens it.
    limits: Vec<Limits>,
    declared: Place,
    /// Its value is a reference.
    secret: bool,
    /// A value or a type was given that it cannot take, and that is said already.
    refused: bool,
}

impl Parameter {
    /// What is wrong with a value, without the line that it stands on if it may be a secret.
    fn complain(&self, mut diagnostic: Diagnostic) -> Diagnostic {
        if self.secret {
            diagnostic.source_line = None;
        }
        diagnostic
    }

    /// Takes a value, or says what is wrong with it.
    fn take(&mut self, name: &str, value: Value, origin: Origin) -> Result<(), (String, String)> {
        let checked = self.check(name, &value);
        match checked {
            Ok(()) => self.value = Some((value, origin)),
            Err(_) => self.refused = true,
        }
        checked
    }

    fn check(&self, name: &str, value: &Value) -> Result<(), (String, String)> {
        if Kind::of(value) != self.kind {
            return Err((
                format!(
                    "`{name}` is a parameter of type {}, not {}",
                    self.kind.name(),
                    Kind::of(value).name()
                ),
                "write a value of its type; text that looks like a number needs quotes".into(),
            ));
        }
        for limits in &self.limits {
            limits.check(name, value)?;
        }
        if let Value::String(text) = value
            && self.secret
            && text.parse::<Reference>().is_err()
        {
            return Err((
                format!("the value of `{name}` is not a reference to a secret"),
                secret::HELP.into(),
            ));
        }
        Ok(())
    }

    /// A stand-in that a lint can render with.
    fn sample(&self) -> Value {
        if self.secret {
            return Value::String("ssm:/sample".into());
        }
        let plain = match self.kind {
            Kind::String | Kind::List => Value::String("sample".into()),
            Kind::Integer => Value::Integer(1),
            Kind::Boolean => Value::Boolean(true),
        };
        let whole = |value: Value| match self.kind {
            Kind::List => Value::List(vec![value.to_string()]),
            _ => value,
        };
        // The last recipe of the line allows the least.
        let allowed = self
            .limits
            .iter()
            .rev()
            .filter_map(|one| one.allowed.as_ref());
        let patterns = self
            .limits
            .iter()
            .rev()
            .filter_map(|one| one.pattern.as_ref());
        allowed
            .flatten()
            .cloned()
            .chain([plain.clone()])
            .chain(patterns.flat_map(Pattern::samples).map(Value::String))
            .map(whole)
            .find(|value| self.check("", value).is_ok())
            .unwrap_or_else(|| whole(plain))
    }
}

impl Parameters {
    /// What the next recipe of the line says.
    pub fn inherit(&mut self, recipe: &[RawParameter], found: &mut Diagnostics) {
        for raw in recipe {
            // The nearest of many names takes its time.
            if found.is_full() {
                return;
            }
            match (&raw.is, self.declared.get_mut(&raw.name)) {
                (RawParameterKind::Declared(new), None) => {
                    let mut parameter = Parameter {
                        kind: new.kind,
                        value: None,
                        description: new.description.clone(),
                        limits: new.limits.iter().cloned().collect(),
                        declared: raw.at.clone(),
                        secret: new.secret,
                        refused: false,
                    };
                    if let Some((value, at)) = &new.default
                        && let Err((message, help)) =
                            parameter.take(&raw.name, value.clone(), Origin::Default(at.at.clone()))
                    {
                        found.push(parameter.complain(at.diagnostic(message, help)));
                    }
                    self.declared.insert(raw.name.clone(), parameter);
                }
                (RawParameterKind::Declared(new), Some(known)) if new.secret != known.secret => {
                    let help = "say the same about `secret`: the parent's templates rely on it";
                    let message = format!(
                        "`{}` is {} in a parent",
                        raw.name,
                        if known.secret {
                            "a secret"
                        } else {
                            "no secret"
                        }
                    );
                    let diagnostic = raw.at.diagnostic(message, help);
                    found.push(Diagnostic {
                        source_line: None,
                        ..diagnostic
                    });
                }
                (RawParameterKind::Declared(new), Some(known)) if new.kind == known.kind => {
                    known.limits.extend(new.limits.clone());
                    known.declared = raw.at.clone();
                    if new.description.is_some() {
                        known.description.clone_from(&new.description);
                    }
                    // Without a default it is required again: a child may insist on an answer.
                    known.value = None;
                    if let Some((value, at)) = &new.default
                        && let Err((message, help)) =
                            known.take(&raw.name, value.clone(), Origin::Default(at.at.clone()))
                    {
                        found.push(known.complain(at.diagnostic(message, help)));
                    }
                }
                (RawParameterKind::Declared(new), Some(known)) => {
                    known.refused = true;
                    found.push(raw.at.diagnostic(
                        format!(
                            "`{}` is redefined as {}; a parent declares it as {}",
                            raw.name,
                            new.kind.name(),
                            known.kind.name()
                        ),
                        "keep its type: the parent's templates rely on it",
                    ));
                }
                (RawParameterKind::Set(value), Some(known)) => {
                    let origin = Origin::Recipe(raw.at.at.clone());
                    if let Err((message, help)) = known.take(&raw.name, value.clone(), origin) {
                        found.push(known.complain(raw.at.diagnostic(message, help)));
                    }
                }
                (RawParameterKind::Set(_), None) => {
                    let mut diagnostic = raw.at.diagnostic(
                        format!("no parent declares the parameter `{}`", raw.name),
                        format!(
                            "{} Or declare it: `{}: {{ type: string, default: … }}`",
                            suggest(&raw.name, self.declared.keys().map(String::as_str)),
                            raw.name
                        ),
                    );
                    // The name of a secret with a slip in it, perhaps.
                    if self.any_secret() {
                        diagnostic.source_line = None;
                    }
                    self.undeclared.insert(raw.name.clone());
                    found.push(diagnostic);
                }
            }
        }
    }

    fn any_secret(&self) -> bool {
        self.declared.values().any(|parameter| parameter.secret)
    }

    /// `--values FILE`: a YAML map from parameters to values.
    ///
    /// If one of the parameters is a secret, no line of the file is shown: the secret itself may be there by mistake,
    /// on any of them.
    pub fn read_values(&mut self, file: &Path, found: &mut Diagnostics) {
        let mut more = Diagnostics::default();
        self.take_values(file, &mut more);
        if self.any_secret() {
            more = more.without_lines();
        }
        found.extend(more);
    }

    fn take_values(&mut self, file: &Path, found: &mut Diagnostics) {
        let document = files::text(file)
            .map_err(Diagnostics::from)
            .and_then(|text| Document::parse(file, text));
        let document = match document {
            Ok(document) => document,
            Err(more) => return found.extend(more),
        };
        for entry in document.root().entries(found) {
            if found.is_full() {
                return;
            }
            let Some(parameter) = self.declared.get_mut(entry.key) else {
                let help = suggest(entry.key, self.declared.keys().map(String::as_str));
                found.push(entry.diagnostic(
                    format!(
                        "no recipe of the line declares the parameter `{}`",
                        entry.key
                    ),
                    help,
                ));
                continue;
            };
            let origin = Origin::Values(entry.location());
            if let Some(value) = parameter_value(entry.node, found)
                && let Err((message, help)) = parameter.take(entry.key, value, origin)
            {
                found.push(parameter.complain(entry.node.diagnostic(message, help)));
            }
        }
    }

    /// `--set name=value`: the text is read by the type of the parameter; a list is comma-separated.
    pub fn set(&mut self, name: &str, text: &str, found: &mut Diagnostics) {
        let Some(parameter) = self.declared.get_mut(name) else {
            let help = suggest(name, self.declared.keys().map(String::as_str));
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
        let taken = match value {
            Ok(value) => parameter.take(name, value, Origin::CommandLine),
            Err(expected) => {
                parameter.refused = true;
                Err((
                    format!("the value does not fit the type {}", parameter.kind.name()),
                    format!("give {expected}"),
                ))
            }
        };
        if let Err((message, help)) = taken {
            found.push(Diagnostic::new(format!("--set {name}: {message}"), help));
        }
    }

    /// Those whose value or type is in doubt, after what is said about them.
    pub fn in_doubt(&self) -> BTreeSet<String> {
        let refused = self.declared.iter().filter(|(_, one)| one.refused);
        let refused = refused.map(|(name, _)| name.clone());
        refused.chain(self.undeclared.iter().cloned()).collect()
    }

    /// The values, and what is known about them. Those without one are added to `in_doubt`.
    pub fn finish(
        self,
        missing: Missing,
        in_doubt: &mut BTreeSet<String>,
        found: &mut Diagnostics,
    ) -> (BTreeMap<String, Value>, BTreeMap<String, About>) {
        let mut values = BTreeMap::new();
        let mut about = BTreeMap::new();
        for (name, parameter) in self.declared {
            let sample = parameter.sample();
            let (value, origin) = match (parameter.value, missing) {
                (Some(given), _) => given,
                (None, Missing::Sample) => (sample, Origin::Sample),
                (None, Missing::Refuse) if parameter.refused => continue,
                (None, Missing::Refuse) => {
                    found.push(parameter.declared.diagnostic(
                        format!("the parameter `{name}` has no value"),
                        format!(
                            "give it with `--set {name}=…` or `--values FILE`, set it in the recipe, or add a `default:`"
                        ),
                    ));
                    in_doubt.insert(name);
                    continue;
                }
            };
            let secret = match &value {
                Value::String(text) if parameter.secret => text.parse().ok(),
                _ => None,
            };
            let value = if parameter.secret {
                Value::String(secret::path(&name))
            } else {
                value
            };
            let known = About {
                secret,
                kind: parameter.kind.name(),
                description: parameter.description,
                declared: parameter.declared.at,
                origin,
            };
            about.insert(name.clone(), known);
            values.insert(name, value);
        }
        (values, about)
    }
}
