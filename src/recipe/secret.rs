//! Secrets of a recipe: named by reference, and known to the machine alone.
//!
//! The value of a `secret: true` parameter is a [`Reference`]. A script gets the [`path`] of a file that is there while
//! it runs; a script of our own before it fetches the value with the role of the machine (`piaas-worker secret`). So the
//! value is in no script, argument list, log, journal, digest or image: no process but that one ever has it.

use std::fmt;
use std::str::FromStr;

use super::units;

/// Where secrets are on a builder: in memory, for root alone, gone before the image is made.
pub const DIR: &str = "/run/piaas-bake-secrets";

/// Where a value is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// `ssm:/path`: a parameter of Systems Manager, decrypted.
    Ssm(String),
    /// `secretsmanager:arn:…`: the text of a secret of Secrets Manager.
    SecretsManager(String),
    /// `env:NAME`: an environment variable of the process that bakes; on the local cloud alone.
    Env(String),
}

/// A text is not a reference. The text itself is not in here: it may be the secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is not a reference to a secret")]
pub struct NotAReference;

/// How to write one.
pub const HELP: &str =
    "write ssm:/path, secretsmanager:ARN, or env:NAME on the local cloud; never the secret itself";

impl FromStr for Reference {
    type Err = NotAReference;

    fn from_str(text: &str) -> Result<Self, NotAReference> {
        let plain = |text: &str, more: &[u8]| {
            text.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || more.contains(&byte))
        };
        match text.split_once(':') {
            Some(("ssm", name))
                if name.len() > 1
                    && name.len() < 1012
                    && name.starts_with('/')
                    && plain(name, b"/._-") =>
            {
                Ok(Self::Ssm(name.to_owned()))
            }
            Some(("secretsmanager", arn))
                if arn.starts_with("arn:")
                    && arn.split(':').nth(2) == Some("secretsmanager")
                    && arn.split(':').nth(5) == Some("secret")
                    && arn.split(':').count() == 7
                    && plain(arn, b":/._-+=@!") =>
            {
                Ok(Self::SecretsManager(arn.to_owned()))
            }
            Some(("env", name)) if units::is_env_name(name) => Ok(Self::Env(name.to_owned())),
            _ => Err(NotAReference),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ssm(name) => write!(f, "ssm:{name}"),
            Self::SecretsManager(arn) => write!(f, "secretsmanager:{arn}"),
            Self::Env(name) => write!(f, "env:{name}"),
        }
    }
}

/// The file that a script reads the value of the parameter `name` from.
#[must_use]
pub fn path(name: &str) -> String {
    format!("{DIR}/{name}")
}

/// Whether a text names the file of the parameter `name`.
#[must_use]
pub fn is_named(text: &str, name: &str) -> bool {
    let path = path(name);
    let more = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices(&path)
        .any(|(at, _)| !text[at + path.len()..].starts_with(more))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references() {
        let arn =
            "secretsmanager:arn:aws:secretsmanager:eu-west-1:123456789012:secret:ci/token-AbCdEf";
        for good in ["ssm:/ci/token", arn, "env:CI_TOKEN"] {
            let reference: Reference = good.parse().unwrap();
            assert_eq!(reference.to_string(), good);
        }
        for bad in [
            "",
            "hunter2",
            "ssm:",
            "ssm:/",
            "ssm:token",
            "ssm:/a b",
            "ssm:/{{x}}",
            "secretsmanager:token",
            "secretsmanager:arn:aws:s3:eu-west-1:1:secret:x",
            "env:",
            "env:1A",
            "vault:x",
        ] {
            assert_eq!(bad.parse::<Reference>(), Err(NotAReference), "{bad}");
        }
    }

    #[test]
    fn names_are_whole() {
        assert!(is_named("cat '/run/piaas-bake-secrets/a'", "a"));
        assert!(!is_named("cat '/run/piaas-bake-secrets/ab'", "a"));
    }
}
