//! `config`: settings and environment variables, with who says what.

use serde::Serialize;
use serde_json::json;

use crate::cli::args::Format;
use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::{exit, output};

pub fn show(context: &Context) -> CliResult {
    let settings = &context.settings;
    match context.format {
        Format::Json => {
            output::json(&json!({ "settings": settings.shown, "files": settings.files }))?;
        }
        Format::Human => {
            let mut rows = vec![["setting", "value", "from"].map(str::to_owned).to_vec()];
            rows.extend(settings.shown.iter().map(|one| {
                let value = one.value.clone().unwrap_or_else(|| "-".to_owned());
                vec![one.name.to_owned(), value, one.origin.to_string()]
            }));
            output::data(&output::table(&rows))?;
            for file in &settings.files {
                output::note(&format!("read: {}", file.display()));
            }
            if settings.files.is_empty() {
                output::note(
                    "no config file: piaas-bake.yaml here or above, or ~/.config/piaas-bake/config.yaml",
                );
            }
        }
    }
    Ok(exit::DONE)
}

/// A variable of the environment.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Variable {
    pub name: &'static str,
    /// What it does.
    pub what: &'static str,
    /// Its value is not shown.
    #[serde(skip)]
    secret: bool,
}

const fn variable(name: &'static str, what: &'static str) -> Variable {
    Variable {
        name,
        what,
        secret: false,
    }
}

const fn secret(name: &'static str, what: &'static str) -> Variable {
    Variable {
        name,
        what,
        secret: true,
    }
}

/// Every variable that is read; those of AWS by its SDK (AWS SDKs and Tools Reference Guide, "Settings reference").
pub const VARIABLES: [Variable; 31] = [
    variable(
        "PIAAS_CLOUD",
        "which cloud to act on: local or aws (--cloud)",
    ),
    variable("PIAAS_RECIPES", "directory of the recipes (--recipes)"),
    variable(
        "PIAAS_STATE_DIR",
        "directory of journals and of the local cloud (--state-dir)",
    ),
    variable(
        "PIAAS_CACHE_DIR",
        "directory of what can be made again, such as the local cloud's base image",
    ),
    variable(
        "PIAAS_ALLOW_ACCOUNTS",
        "the only AWS accounts that may be acted on, with commas between (--allow-account)",
    ),
    variable(
        "PIAAS_WORKER",
        "the piaas-worker that goes into images (--worker-agent)",
    ),
    variable(
        "PIAAS_BUNDLE_BUCKET",
        "S3 bucket that bundles go through (bundle_bucket)",
    ),
    variable(
        "PIAAS_BUNDLE_PREFIX",
        "what their keys begin with (bundle_prefix)",
    ),
    variable(
        "PIAAS_MIRROR",
        "Debian mirror of the local cloud's base image",
    ),
    variable(
        "PIAAS_NO_PROGRESS",
        "plain lines instead of a live view, if set",
    ),
    variable("NO_COLOR", "no colour, if not empty"),
    variable(
        "CLICOLOR_FORCE",
        "colour without a terminal too, if not empty",
    ),
    variable("TERM", "no live view and no colour if `dumb`"),
    variable("LC_ALL", "marks other than ASCII if it names UTF-8"),
    variable("LC_CTYPE", "the same, where LC_ALL is not set"),
    variable("LANG", "the same, where neither is set"),
    variable(
        "HOME",
        "below it are configuration, state and cache, unless one of the next three says otherwise",
    ),
    variable("XDG_CONFIG_HOME", "directory of piaas-bake/config.yaml"),
    variable(
        "XDG_STATE_HOME",
        "directory of piaas-bake, the default of PIAAS_STATE_DIR",
    ),
    variable(
        "XDG_CACHE_HOME",
        "directory of piaas-bake, the default of PIAAS_CACHE_DIR",
    ),
    variable("PATH", "where the host's programs are looked for"),
    variable("USER", "who holds a lease, as others are told"),
    variable(
        "GITHUB_STEP_SUMMARY",
        "file of the job summary, with --format github (--summary)",
    ),
    variable("COMPLETE", "set by shells that complete a command line"),
    variable(
        "AWS_PROFILE",
        "profile of the AWS configuration (--profile)",
    ),
    variable("AWS_REGION", "region (--region)"),
    variable(
        "AWS_ENDPOINT_URL",
        "address of all services, such as that of `piaas-bake cloud serve`",
    ),
    variable(
        "AWS_ROLE_ARN",
        "role to take with AWS_WEB_IDENTITY_TOKEN_FILE, as in GitHub Actions",
    ),
    variable(
        "AWS_ACCESS_KEY_ID",
        "credentials, and so on: all that the AWS SDK reads",
    ),
    secret("AWS_SECRET_ACCESS_KEY", "the same"),
    secret("AWS_SESSION_TOKEN", "the same"),
];

pub fn variables(context: &Context) -> CliResult {
    let value = |one: &Variable| {
        let value = std::env::var_os(one.name)?.to_string_lossy().into_owned();
        Some(if one.secret {
            "(set)".to_owned()
        } else {
            value
        })
    };
    match context.format {
        Format::Json => {
            let list: Vec<_> = VARIABLES
                .iter()
                .map(|one| json!({ "name": one.name, "what": one.what, "value": value(one) }))
                .collect();
            output::json(&json!({ "variables": list }))?;
        }
        Format::Human => {
            let mut rows = vec![
                ["variable", "what it does", "value"]
                    .map(str::to_owned)
                    .to_vec(),
            ];
            rows.extend(VARIABLES.iter().map(|one| {
                let value = value(one).unwrap_or_else(|| "-".to_owned());
                vec![one.name.to_owned(), one.what.to_owned(), value]
            }));
            output::data(&output::table(&rows))?;
        }
    }
    Ok(exit::DONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variable_of_ours_that_the_program_reads_is_in_the_table() {
        let mut found = 0;
        for file in crate::cli::sources() {
            let text = std::fs::read_to_string(&file).unwrap();
            for (at, _) in text.match_indices("\"PIAAS_") {
                let name: String = text[at + 1..]
                    .chars()
                    .take_while(|one| one.is_ascii_uppercase() || *one == '_')
                    .collect();
                // The prefix itself, names that scripts on a machine are given, examples, and what tests are told.
                let others = ["PIAAS_", "PIAAS_BUNDLE", "PIAAS_ROOT", "PIAAS_X"];
                if others.contains(&name.as_str()) || name.starts_with("PIAAS_TEST_") {
                    continue;
                }
                found += 1;
                let known = VARIABLES.iter().any(|one| one.name == name);
                assert!(known, "{name} of {} is not in the table", file.display());
            }
        }
        assert!(found > 6, "{found}");
    }
}
