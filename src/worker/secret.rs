//! Secrets for the steps of a bake: read from AWS with the instance's role, written to a file in memory.
//!
//! `ssm:/path` is `GetParameter` (Systems Manager API, version 2014-11-06), `secretsmanager:ARN` is `GetSecretValue`
//! (Secrets Manager API, version 2017-10-17); `env:NAME` is the parameter that the local cloud keeps while a bake runs.
//! No value is printed, and none is in an error.

use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use serde_json::json;

use super::fetch;
use super::imds::{self, Imds};
use super::sign;

const LIMIT: Duration = Duration::from_secs(15);
/// Where `env:` is looked up: SSM parameters that hold it as long as a bake on the local cloud runs.
pub const LENT: &str = "/piaas-bake/env/";
/// What statfs(2) says of file systems that are in memory.
const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];

/// A secret was not fetched.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("this is not a reference to a secret: write ssm:/path, secretsmanager:ARN or env:NAME")]
    Reference,
    #[error(transparent)]
    Imds(#[from] imds::Error),
    #[error("{action}: {source}")]
    Silent {
        action: &'static str,
        source: fetch::Error,
    },
    #[error(
        "{action} of {what}: {code}; the role of the instance needs the permission, and the secret must exist"
    )]
    Refused {
        action: &'static str,
        what: String,
        code: String,
    },
    #[error("{action} of {what}: the answer holds no text")]
    NoText { action: &'static str, what: String },
    #[error("cannot sign the request: {0}")]
    Signing(String),
    #[error("{} is not in memory; a secret is written to a tmpfs only", .0.display())]
    OnDisk(PathBuf),
    #[error("cannot write {}: {source}", path.display())]
    Write {
        path: PathBuf,
        source: std::io::Error,
    },
}

/// One call, and where its answer has the value.
struct Ask {
    action: &'static str,
    service: &'static str,
    target: &'static str,
    what: String,
    body: String,
}

fn ask(reference: &str) -> Result<Ask, Error> {
    let parameter = |name: String| Ask {
        action: "GetParameter",
        service: "ssm",
        target: "AmazonSSM.GetParameter",
        body: json!({ "Name": name, "WithDecryption": true }).to_string(),
        what: name,
    };
    match reference.split_once(':') {
        Some(("ssm", name)) if name.starts_with('/') => Ok(parameter(name.to_owned())),
        Some(("env", name)) if !name.is_empty() => Ok(parameter(format!("{LENT}{name}"))),
        Some(("secretsmanager", arn)) if arn.starts_with("arn:") => Ok(Ask {
            action: "GetSecretValue",
            service: "secretsmanager",
            target: "secretsmanager.GetSecretValue",
            body: json!({ "SecretId": arn }).to_string(),
            what: arn.to_owned(),
        }),
        _ => Err(Error::Reference),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    parameter: Option<Parameter>,
    secret_string: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Parameter {
    value: Option<String>,
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(rename = "__type")]
    kind: Option<String>,
}

/// Fetches the secret of a reference and writes it to `output`: a file of mode 0400 in a directory of mode 0700, on a
/// file system in memory. A file that is there already is replaced.
///
/// # Errors
/// [`Error`]; then there is no file.
pub async fn fetch(reference: &str, output: &Path) -> Result<(), Error> {
    let ask = ask(reference)?;
    let imds = Imds::from_env();
    let identity = imds.identity().await?;
    let keys = imds.keys().await?;
    let endpoint = sign::endpoint(ask.service, &identity);
    let headers = [
        ("content-type", "application/x-amz-json-1.1"),
        ("x-amz-target", ask.target),
    ];
    let call = sign::Call {
        endpoint: &endpoint,
        region: &identity.region,
        service: ask.service,
        headers: &headers,
    };
    let request =
        sign::signed(&call, ask.body, &keys, SystemTime::now()).map_err(Error::Signing)?;
    let action = ask.action;
    let reply = fetch::send(request, LIMIT)
        .await
        .map_err(|source| Error::Silent { action, source })?;
    if reply.status != 200 {
        let refusal: Option<Refusal> = serde_json::from_str(&reply.body).ok();
        let kind = refusal.and_then(|refusal| refusal.kind);
        let code = kind.unwrap_or_else(|| format!("HTTP {}", reply.status));
        return Err(Error::Refused {
            action,
            what: ask.what,
            code: code.rsplit('#').next().unwrap_or_default().to_owned(),
        });
    }
    let answer: Option<Answer> = serde_json::from_str(&reply.body).ok();
    let value = answer.and_then(|answer| {
        let parameter = answer.parameter.and_then(|parameter| parameter.value);
        parameter.or(answer.secret_string)
    });
    let value = value.ok_or(Error::NoText {
        action,
        what: ask.what,
    })?;
    write(output, value.as_bytes())
}

fn write(output: &Path, value: &[u8]) -> Result<(), Error> {
    let failed = |source: std::io::Error| Error::Write {
        path: output.to_owned(),
        source,
    };
    let dir = output.parent().unwrap_or(Path::new("/"));
    match std::fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(failed(error));
        }
        _ => {}
    }
    let about = rustix::fs::statfs(dir).map_err(|error| failed(error.into()))?;
    // The type has another width on each architecture; these numbers fit all of them.
    #[allow(clippy::cast_sign_loss, clippy::unnecessary_cast)]
    let kind = (about.f_type as u64) & 0xffff_ffff;
    if !IN_MEMORY.contains(&kind) {
        return Err(Error::OnDisk(dir.to_owned()));
    }
    match std::fs::remove_file(output) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o400)
        .open(output)
        .and_then(|mut file| file.write_all(value))
        .map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_become_calls() {
        let parameter = ask("ssm:/ci/token").unwrap();
        assert_eq!(
            parameter.body,
            r#"{"Name":"/ci/token","WithDecryption":true}"#
        );
        assert_eq!(ask("env:TOKEN").unwrap().what, "/piaas-bake/env/TOKEN");
        let secret = ask("secretsmanager:arn:aws:secretsmanager:x:1:secret:a").unwrap();
        assert_eq!(secret.service, "secretsmanager");
        for wrong in ["hunter2", "ssm:token", "env:", "vault:x"] {
            assert!(matches!(ask(wrong), Err(Error::Reference)), "{wrong}");
        }
    }

    #[test]
    fn a_secret_is_never_written_to_a_disk() {
        let memory = tempfile::tempdir_in("/dev/shm").unwrap();
        let file = memory.path().join("secrets/token");
        for value in ["one", "two"] {
            write(&file, value.as_bytes()).unwrap();
            assert_eq!(std::fs::read_to_string(&file).unwrap(), value);
        }
        use std::os::unix::fs::PermissionsExt as _;
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o400, 0o700));
        let target = Path::new(env!("CARGO_MANIFEST_DIR"));
        let disk = tempfile::tempdir_in(target).unwrap();
        let file = disk.path().join("token");
        assert!(matches!(write(&file, b"x"), Err(Error::OnDisk(_))));
        assert!(!file.exists());
    }
}
