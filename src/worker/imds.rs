//! The instance metadata service, version 2 (EC2 User Guide, "Instance metadata and user data").

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde::Deserialize;

use super::fetch::{self, Reply};

/// Where it is on every instance; the variable is the SDKs' own.
const ADDRESS: &str = "http://169.254.169.254";
const ADDRESS_VARIABLE: &str = "AWS_EC2_METADATA_SERVICE_ENDPOINT";
const DISABLED_VARIABLE: &str = "AWS_EC2_METADATA_DISABLED";
const LIMIT: Duration = Duration::from_secs(2);

/// Who this machine is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub instance: String,
    pub region: String,
    /// Such as `amazonaws.com`.
    pub domain: String,
}

/// Keys of the instance's role.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Keys {
    pub access_key_id: String,
    pub secret_access_key: String,
    pub token: String,
}

/// The service does not give what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the metadata service is switched off ({DISABLED_VARIABLE})")]
    Disabled,
    #[error("the metadata service: {0}")]
    Silent(#[from] fetch::Error),
    #[error("the metadata service answers {status} for {path}")]
    Status { path: String, status: u16 },
    #[error("the instance has no role; start it with an instance profile")]
    NoRole,
    #[error("the keys of the role cannot be read: {0}")]
    Keys(String),
}

/// A client of the service.
#[derive(Debug, Clone)]
pub struct Imds {
    address: Option<String>,
}

impl Imds {
    /// As the environment says, by the variables that AWS's SDKs read.
    #[must_use]
    pub fn from_env() -> Self {
        let disabled =
            std::env::var(DISABLED_VARIABLE).is_ok_and(|value| value.eq_ignore_ascii_case("true"));
        let address = std::env::var(ADDRESS_VARIABLE)
            .ok()
            .filter(|address| !address.is_empty())
            .unwrap_or_else(|| ADDRESS.to_owned());
        Self {
            address: (!disabled).then(|| address.trim_end_matches('/').to_owned()),
        }
    }

    /// Whether asking makes sense.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.address.is_some()
    }

    /// Who this machine is.
    ///
    /// # Errors
    /// The service is not there.
    pub async fn identity(&self) -> Result<Identity, Error> {
        let session = self.session().await?;
        Ok(Identity {
            instance: session.get("meta-data/instance-id").await?,
            region: session.get("meta-data/placement/region").await?,
            domain: session.get("meta-data/services/domain").await?,
        })
    }

    /// Whether this is a Spot Instance.
    ///
    /// # Errors
    /// The service is not there.
    pub async fn is_spot(&self) -> Result<bool, Error> {
        let session = self.session().await?;
        Ok(session.get("meta-data/instance-life-cycle").await? == "spot")
    }

    /// What a Spot Instance is told two minutes before it is taken back; `None`: nothing yet.
    ///
    /// # Errors
    /// The service is not there.
    pub async fn interruption(&self) -> Result<Option<String>, Error> {
        let session = self.session().await?;
        match session.get("meta-data/spot/instance-action").await {
            Ok(notice) => Ok(Some(notice)),
            Err(Error::Status { status: 404, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The keys of the instance's role. They end after some hours: ask when they are needed.
    ///
    /// # Errors
    /// The service is not there, or the instance has no role.
    pub async fn keys(&self) -> Result<Keys, Error> {
        const PATH: &str = "meta-data/iam/security-credentials/";
        let session = self.session().await?;
        let role = match session.get(PATH).await {
            Ok(list) => list.lines().next().unwrap_or_default().trim().to_owned(),
            Err(Error::Status { status: 404, .. }) => String::new(),
            Err(error) => return Err(error),
        };
        if role.is_empty() {
            return Err(Error::NoRole);
        }
        let text = session.get(&format!("{PATH}{role}")).await?;
        serde_json::from_str(&text).map_err(|error| Error::Keys(error.to_string()))
    }

    async fn session(&self) -> Result<Session<'_>, Error> {
        let address = self.address.as_deref().ok_or(Error::Disabled)?;
        let request = Request::put(format!("{address}/latest/api/token"))
            .header("x-aws-ec2-metadata-token-ttl-seconds", "60");
        let token = ask(request, "api/token").await?;
        Ok(Session { address, token })
    }
}

/// A token, and where it is good for.
struct Session<'a> {
    address: &'a str,
    token: String,
}

impl Session<'_> {
    async fn get(&self, path: &str) -> Result<String, Error> {
        let request = Request::get(format!("{}/latest/{path}", self.address))
            .header("x-aws-ec2-metadata-token", &self.token);
        ask(request, path).await
    }
}

async fn ask(request: http::request::Builder, path: &str) -> Result<String, Error> {
    let request = request
        .body(Full::new(Bytes::new()))
        .map_err(|_| fetch::Error::Address(path.to_owned()))?;
    let Reply { status, body } = fetch::send(request, LIMIT).await?;
    if status == 200 {
        Ok(body.trim().to_owned())
    } else {
        Err(Error::Status {
            path: path.to_owned(),
            status,
        })
    }
}
