//! `config`: settings and environment variables, with who says what.

use serde::Serialize;
use serde_json::json;

use crate::aws;
use crate::cli::args::{CloudName, Format};
use crate::cli::config::{Origin, Settings, Shown, variable};
use crate::cli::context::Context;
use crate::cli::error::CliResult;
use crate::cli::{exit, output};

pub async fn show(context: &Context) -> CliResult {
    let settings = &context.settings;
    let shown = effective(settings).await;
    match context.format {
        Format::Json => {
            output::json(&json!({ "settings": shown, "files": settings.files }))?;
        }
        Format::Human => {
            let mut rows = vec![["setting", "value", "from"].map(str::to_owned).to_vec()];
            rows.extend(shown.into_iter().map(|one| {
                let value = one.value.unwrap_or_else(|| "-".to_owned());
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

/// The settings, with what the AWS configuration adds to them on AWS; the local cloud does not look at it.
async fn effective(settings: &Settings) -> Vec<Shown> {
    let mut shown = settings.shown.clone();
    let mut endpoint = Shown {
        name: "endpoint_url",
        value: None,
        origin: Origin::Default,
    };
    if settings.cloud == CloudName::Aws {
        let found = aws::configured(settings.profile.as_deref()).await;
        let of_profile = || Origin::AwsProfile {
            profile: settings.profile.clone().unwrap_or_default(),
        };
        let region = shown.iter_mut().find(|one| one.name == "region");
        if let Some(region) = region.filter(|one| one.value.is_none() && found.region.is_some()) {
            region.origin = of_profile();
            region.value = found.region;
        }
        if found.endpoint_url.is_some() {
            endpoint.origin = match variable("AWS_ENDPOINT_URL") {
                Some(_) => Origin::Environment {
                    variable: "AWS_ENDPOINT_URL",
                },
                None => of_profile(),
            };
            endpoint.value = found.endpoint_url;
        }
    }
    let behind_profile = shown.iter().position(|one| one.name == "profile");
    shown.insert(behind_profile.map_or(0, |at| at + 1), endpoint);
    shown
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

const fn plain(name: &'static str, what: &'static str) -> Variable {
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

/// Every variable that acts, on this program or on the AWS SDK in it (`aws-config` and `aws-runtime` of Cargo.lock; AWS
/// SDKs and Tools Reference Guide, "Settings reference"). One that is empty is not set.
pub const VARIABLES: &[Variable] = &[
    plain(
        "PIAAS_CLOUD",
        "which cloud to act on: local or aws (--cloud)",
    ),
    plain("PIAAS_RECIPES", "directory of the recipes (--recipes)"),
    plain(
        "PIAAS_STATE_DIR",
        "directory of journals and of the local cloud (--state-dir)",
    ),
    plain(
        "PIAAS_CACHE_DIR",
        "directory of what can be made again, such as the local cloud's base image",
    ),
    plain(
        "PIAAS_ALLOW_ACCOUNTS",
        "the only AWS accounts that may be acted on, with commas between (--allow-account)",
    ),
    plain(
        "PIAAS_WORKER",
        "the piaas-worker that goes into images (--worker-agent)",
    ),
    plain(
        "PIAAS_BUNDLE_BUCKET",
        "S3 bucket that bundles go through (bundle_bucket)",
    ),
    plain(
        "PIAAS_BUNDLE_PREFIX",
        "what their keys begin with (bundle_prefix)",
    ),
    plain(
        "PIAAS_MIRROR",
        "Debian mirror of the local cloud's base image",
    ),
    plain(
        "PIAAS_VM_ACCEL",
        "accelerator of QEMU for test --vm: kvm or tcg; without it KVM where it works",
    ),
    plain(
        "PIAAS_NO_PROGRESS",
        "plain lines instead of a live view, if set",
    ),
    plain("NO_COLOR", "no colour, if not empty"),
    plain(
        "CLICOLOR_FORCE",
        "colour without a terminal too, if not empty",
    ),
    plain("TERM", "no live view and no colour if `dumb`"),
    plain("LC_ALL", "marks other than ASCII if it names UTF-8"),
    plain("LC_CTYPE", "the same, where LC_ALL is not set"),
    plain("LANG", "the same, where neither is set"),
    plain(
        "HOME",
        "below it are configuration, state and cache, unless one of the next three says otherwise",
    ),
    plain("XDG_CONFIG_HOME", "directory of piaas-bake/config.yaml"),
    plain(
        "XDG_STATE_HOME",
        "directory of piaas-bake, the default of PIAAS_STATE_DIR",
    ),
    plain(
        "XDG_CACHE_HOME",
        "directory of piaas-bake, the default of PIAAS_CACHE_DIR",
    ),
    plain("PATH", "where the host's programs are looked for"),
    plain("USER", "who holds a lease, as others are told"),
    plain(
        "GITHUB_STEP_SUMMARY",
        "file of the job summary, with --format github (--summary)",
    ),
    plain("COMPLETE", "set by shells that complete a command line"),
    plain("CLICOLOR", "no colour in help and usage errors, if 0"),
    plain("TMPDIR", "directory of temporary files, for /tmp"),
    plain(
        "SSL_CERT_FILE",
        "certificates of the authorities that are trusted, for the system's",
    ),
    plain("SSL_CERT_DIR", "directory of the same"),
    plain(
        "(authorization_env)",
        "authorization at the CI server; a fleet's file says under which name",
    ),
    plain(
        "(env:NAME)",
        "a secret of a recipe, on the local cloud; the recipe says under which name",
    ),
    plain(
        "AWS_PROFILE",
        "profile of the AWS configuration (--profile)",
    ),
    plain("AWS_REGION", "region, on either cloud (--region)"),
    plain(
        "AWS_DEFAULT_REGION",
        "the same, where AWS_REGION is not set",
    ),
    plain(
        "AWS_CONFIG_FILE",
        "the AWS configuration, for ~/.aws/config",
    ),
    plain(
        "AWS_SHARED_CREDENTIALS_FILE",
        "credentials of profiles, for ~/.aws/credentials",
    ),
    plain(
        "AWS_ENDPOINT_URL",
        "address of all services, such as that of `piaas-bake cloud serve`",
    ),
    plain("AWS_ENDPOINT_URL_AUTO_SCALING", "address of one service"),
    plain("AWS_ENDPOINT_URL_EC2", "the same"),
    plain("AWS_ENDPOINT_URL_S3", "the same"),
    plain("AWS_ENDPOINT_URL_SSM", "the same"),
    plain("AWS_ENDPOINT_URL_STS", "the same"),
    plain("AWS_ENDPOINT_URL_IMAGEBUILDER", "the same"),
    plain("AWS_ENDPOINT_URL_SSO", "the same"),
    plain("AWS_ENDPOINT_URL_SSO_OIDC", "the same"),
    plain(
        "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
        "addresses of services are not read, if `true`",
    ),
    plain(
        "AWS_ACCESS_KEY_ID",
        "credentials; they win over those of a profile",
    ),
    secret("AWS_SECRET_ACCESS_KEY", "the same"),
    secret("SECRET_ACCESS_KEY", "its older name"),
    secret("AWS_SESSION_TOKEN", "the same"),
    plain("AWS_ACCOUNT_ID", "the account of these credentials"),
    plain(
        "AWS_ROLE_ARN",
        "role to take with AWS_WEB_IDENTITY_TOKEN_FILE, as in GitHub Actions",
    ),
    plain(
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "file with the token of an identity provider",
    ),
    plain("AWS_ROLE_SESSION_NAME", "name of the session of that role"),
    plain(
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "where ECS gives credentials",
    ),
    plain(
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "where a container is given credentials",
    ),
    secret(
        "AWS_CONTAINER_AUTHORIZATION_TOKEN",
        "authorization for the same",
    ),
    plain("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "file of the same"),
    plain(
        "AWS_EC2_METADATA_DISABLED",
        "the instance's metadata is not asked for region and credentials, if `true`",
    ),
    plain(
        "AWS_EC2_METADATA_SERVICE_ENDPOINT",
        "address of the instance's metadata",
    ),
    plain(
        "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE",
        "IPv4 or IPv6, where there is no such address",
    ),
    plain("AWS_USE_FIPS_ENDPOINT", "FIPS endpoints, if `true`"),
    plain(
        "AWS_USE_DUALSTACK_ENDPOINT",
        "endpoints of IPv4 and IPv6, if `true`",
    ),
    plain(
        "AWS_ACCOUNT_ID_ENDPOINT_MODE",
        "whether endpoints name the account",
    ),
    plain(
        "AWS_AUTH_SCHEME_PREFERENCE",
        "ways to sign requests, the best first",
    ),
    plain(
        "AWS_SIGV4A_SIGNING_REGION_SET",
        "regions that requests of SigV4a are signed for",
    ),
    plain(
        "AWS_REQUEST_CHECKSUM_CALCULATION",
        "when requests to S3 get checksums",
    ),
    plain(
        "AWS_RESPONSE_CHECKSUM_VALIDATION",
        "when checksums of S3 are verified",
    ),
    plain(
        "AWS_S3_DISABLE_EXPRESS_SESSION_AUTH",
        "no sessions with directory buckets, if `true`",
    ),
    plain(
        "AWS_DISABLE_REQUEST_COMPRESSION",
        "requests are not compressed, if `true`",
    ),
    plain(
        "AWS_REQUEST_MIN_COMPRESSION_SIZE_BYTES",
        "from which size on they are",
    ),
    plain(
        "AWS_DISABLE_CLOCK_SKEW_CORRECTION",
        "a wrong clock of this host is not allowed for, if `true`",
    ),
    plain("AWS_SDK_UA_APP_ID", "name in the user agent"),
    plain("AWS_EXECUTION_ENV", "the same, as services of AWS set it"),
    plain(
        "AWS_LAMBDA_FUNCTION_NAME",
        "set in Lambda: a lease is held by no process then",
    ),
];

pub fn variables(context: &Context) -> CliResult {
    let value = |one: &Variable| {
        let value = variable(one.name)?.to_string_lossy().into_owned();
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
            output::note("a variable that is empty is not set");
        }
    }
    Ok(exit::DONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Texts of a source that can be names of variables.
    fn names(source: &str) -> impl Iterator<Item = &str> {
        let is_name = |text: &&str| {
            text.len() > 2
                && text
                    .bytes()
                    .all(|one| one.is_ascii_uppercase() || one == b'_' || one.is_ascii_digit())
                && text.starts_with(|one: char| one.is_ascii_uppercase())
        };
        source.split('"').filter(is_name)
    }

    #[test]
    fn every_variable_that_the_program_reads_is_in_the_table() {
        // The prefix itself, what scripts and other programs are given, examples, what systemd gives the worker's
        // agent, and words that are no names.
        let others = [
            "PIAAS_",
            "PIAAS_BUNDLE",
            "PIAAS_ROOT",
            "PIAAS_X",
            "DEBIAN_FRONTEND",
            "NOTIFY_SOCKET",
            "FAILED",
            "KILL",
            "POST",
        ];
        let mut found = 0;
        for file in crate::cli::sources() {
            if file.components().any(|part| part.as_os_str() == "tests") {
                continue;
            }
            let text = std::fs::read_to_string(&file).unwrap();
            let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            // A name may stand far from where it is read, but in the same file.
            let reads = ["env::var", "variable(", "variables: &["]
                .iter()
                .any(|call| text.contains(call));
            for name in names(text) {
                let is_ours = name.starts_with("PIAAS_");
                let excused = others.contains(&name) || name.starts_with("PIAAS_TEST_");
                if (is_ours || reads) && !excused {
                    found += 1;
                    let known = VARIABLES.iter().any(|one| one.name == name);
                    assert!(known, "{name} of {} is not in the table", file.display());
                }
            }
        }
        assert!(found > 80, "{found}");
    }

    /// Sources of the crates that read the environment for the SDK, where cargo has them.
    #[test]
    fn every_variable_that_the_sdk_reads_is_in_the_table() {
        // Read by features that are not compiled, for what the program sets itself (retries), or by the compiler.
        let others = [
            "AWS_SDK_RUST_BUILD_UA_METADATA",
            "AWS_LOGIN_CACHE_DIRECTORY",
            "AWS_MAX_ATTEMPTS",
            "AWS_RETRY_MODE",
            "AWS_NEW_RETRIES_2026",
        ];
        let lock = include_str!("../../../Cargo.lock");
        let home = std::env::var_os("CARGO_HOME").map_or_else(
            || std::path::PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cargo"),
            Into::into,
        );
        for name in ["aws-config", "aws-runtime"] {
            let head = format!("name = \"{name}\"\nversion = \"");
            let version = lock.split(&head).nth(1).unwrap();
            let version = version.split('"').next().unwrap();
            let registry = std::fs::read_dir(home.join("registry/src")).unwrap();
            let dirs = registry.map(|one| one.unwrap().path());
            let mut dirs = dirs.map(|dir| dir.join(format!("{name}-{version}/src")));
            let dir = dirs.find(|dir| dir.is_dir());
            let dir =
                dir.unwrap_or_else(|| panic!("{name} {version} is not in {}", home.display()));
            let mut found = 0;
            for file in crate::cli::sources_below(&dir) {
                let text = std::fs::read_to_string(&file).unwrap();
                let text = text.split("#[cfg(test)]").next().unwrap_or_default();
                for name in names(text).filter(|name| name.starts_with("AWS_")) {
                    found += 1;
                    let known = VARIABLES.iter().any(|one| one.name == name);
                    assert!(
                        known || others.contains(&name),
                        "{name} of {} is not in the table",
                        file.display()
                    );
                }
            }
            assert!(found > 3, "{found} in {}", dir.display());
        }
    }
}
