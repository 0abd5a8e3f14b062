//! Secrets that are environment variables of this process, lent to the machines of the local cloud.
//!
//! A machine reads every secret through the AWS API, so a variable becomes a SecureString of the local cloud's Parameter
//! Store while the bake runs. It is on this host's disk for that time, in the state of the local cloud, which only its
//! user can read.

use std::collections::BTreeMap;

use super::args::CloudName;
use super::context::{Connected, Context, cloud};
use super::error::CliError;
use super::exit;
use crate::aws::parameters;
use crate::journal::{self, RunState};
use crate::recipe::model::{About, Origin};
use crate::recipe::secret::Reference;
use crate::recipe::{Diagnostic, Diagnostics};
use crate::worker::secret::LENT;

/// The way out, on AWS.
const IN_AWS: &str = "keep the secret in AWS, and give ssm:/path or secretsmanager:ARN";

/// Where only the local cloud can help: parameters whose secret is a variable of this process, at the place of their
/// value.
#[must_use]
pub fn only_local(about: &BTreeMap<String, About>) -> Diagnostics {
    let mut found = Diagnostics::default();
    for (name, about) in about {
        let Some(Reference::Env(variable)) = &about.secret else {
            continue;
        };
        let (at, option) = match &about.origin {
            Origin::Default(at) | Origin::Recipe(at) | Origin::Values(at) => (Some(at), None),
            Origin::CommandLine => (None, Some(format!("--set {name}: "))),
            Origin::Sample => (Some(&about.declared), None),
        };
        found.push(Diagnostic {
            location: at.cloned(),
            source_line: None,
            message: format!(
                "{}the secret `{name}` is env:{variable}, which is for the local cloud alone",
                option.unwrap_or_default()
            ),
            help: Some(IN_AWS.into()),
        });
    }
    found
}

/// What is lent, by the names of its parameters.
#[derive(Debug)]
pub struct Lent(Vec<String>);

/// Lends the variables that `references` name.
///
/// # Errors
/// It is not the local cloud, a variable is not set, or the cloud refuses.
pub async fn lend<'r>(
    context: &Context,
    connected: &Connected,
    references: impl Iterator<Item = &'r String>,
) -> Result<Lent, CliError> {
    let mut variables = Vec::new();
    for reference in references {
        if let Ok(Reference::Env(name)) = reference.parse() {
            variables.push(name);
        }
    }
    let mut values = Vec::new();
    for name in variables {
        if context.settings.cloud != CloudName::Local {
            return Err(CliError::new(
                exit::RECIPE_INVALID,
                format!("the secret env:{name} is for the local cloud alone; nothing was changed"),
            )
            .hint(IN_AWS));
        }
        let Some(value) = std::env::var(&name).ok().filter(|value| !value.is_empty()) else {
            return Err(CliError::failure(format!(
                "the environment variable {name} is not set, and a secret of the recipe refers to it; nothing was changed"
            ))
            .hint(format!("set it without it getting into your shell's history: read -rs {name}; export {name}")));
        };
        values.push((format!("{LENT}{name}"), value));
    }
    let mut lent = Lent(Vec::new());
    for (parameter, value) in values {
        lent.0.push(parameter.clone());
        if let Err(error) = parameters::set_secret(&connected.clients, parameter, value).await {
            // The failure that counts is the first one.
            let _ = lent.take_back(connected).await;
            return Err(cloud(&error));
        }
    }
    Ok(lent)
}

/// What bakes that were killed have left lent; nothing as long as a bake runs on this host, for it may be that one's.
///
/// # Errors
/// The runs or the state of the local cloud cannot be read.
pub fn forgotten(context: &Context, connected: &Connected) -> Result<Lent, CliError> {
    let Some(local) = &connected.local else {
        return Ok(Lent(Vec::new()));
    };
    let runs = journal::runs(&context.runs())
        .map_err(|error| CliError::failure("cannot read the runs").because(&error))?;
    if runs.iter().any(|run| run.state == RunState::Alive) {
        return Ok(Lent(Vec::new()));
    }
    local
        .parameters_below(&connected.clients.region, LENT)
        .map(Lent)
        .map_err(|error| CliError::failure("cannot read the local cloud's state").because(&error))
}

/// Takes back what a bake that is over had borrowed. As long as another one runs on this host it may be reading the same
/// variables: they stay, and the last one takes back all.
///
/// # Errors
/// As [`forgotten`] and [`Lent::take_back`].
pub async fn settle(context: &Context, connected: &Connected, lent: &Lent) -> Result<(), CliError> {
    if lent.0.is_empty() {
        return Ok(());
    }
    forgotten(context, connected)?.take_back(connected).await
}

impl Lent {
    /// The names of the parameters.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.0
    }

    /// Removes them again.
    ///
    /// # Errors
    /// The cloud refuses; the message says how to remove them.
    pub async fn take_back(self, connected: &Connected) -> Result<(), CliError> {
        if self.0.is_empty() {
            return Ok(());
        }
        parameters::delete(&connected.clients, &self.0)
            .await
            .map_err(|error| {
                cloud(&error).hint(format!(
                    "a secret is left in the local cloud's Parameter Store: {}; `piaas-bake cloud gc` removes it",
                    self.0.join(", ")
                ))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::{self, Given};

    #[test]
    fn a_variable_is_refused_at_the_place_of_its_value() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("a")).unwrap();
        let text = "schema: piaas-bake/v1\nname: a\nversion: 1.0.0\ndescription: x\nfrom: { ami: ami-0123456789abcdef0 }\n\
            build: { instance_profile: p }\nparameters:\n  token: { type: string, secret: true, default: \"env:TOKEN\" }\n  \
            kept: { type: string, secret: true, default: \"ssm:/kept\" }\n";
        std::fs::write(dir.path().join("a/recipe.yaml"), text).unwrap();
        let said = |sets: &[(&str, &str)]| {
            let sets = sets
                .iter()
                .map(|(name, value)| ((*name).into(), (*value).into()));
            let given = Given {
                sets: sets.collect(),
                ..Given::default()
            };
            only_local(&recipe::load(dir.path(), "a", &given).unwrap().about).0
        };
        let [found] = said(&[]).try_into().unwrap();
        let at = found.location.unwrap();
        assert_eq!((at.line, at.column), (8, 49));
        assert!(
            found.message.contains("`token` is env:TOKEN"),
            "{}",
            found.message
        );
        let [found] = said(&[("token", "ssm:/token"), ("kept", "env:KEPT")])
            .try_into()
            .unwrap();
        assert!(
            found.message.starts_with("--set kept: "),
            "{}",
            found.message
        );
        assert!(said(&[("token", "ssm:/token")]).is_empty());
    }
}
