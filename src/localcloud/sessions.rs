//! Temporary credentials: sessions of roles (IAM User Guide, "Temporary security credentials in IAM").
//!
//! A session is kept nowhere: its token says all that is to be known of it, with a code that only who knows the local
//! cloud's secret key can make, and its keys are made of the token. Every process that has the cloud open knows it.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::wire::sigv4::{Authorization, mac};
use super::{ACCESS_KEY, ACCOUNT_ID, SECRET_KEY};

/// A role that somebody has taken, until it expires.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// ARN of the role.
    pub role: String,
    /// Name of the session.
    pub name: String,
    pub expires: Timestamp,
    /// Who took it first, in a chain of roles.
    pub source_identity: Option<String>,
    /// The session tags that are handed on in a chain of roles.
    pub tags: BTreeMap<String, String>,
    /// The request that it was made for: no two sessions have the same keys.
    pub request: String,
}

/// What a client signs with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    pub access_key: String,
    pub secret_key: String,
    pub token: String,
}

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// Who has the local cloud's own key.
    User,
    Role(Session),
}

/// Credentials that do not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// There is no such access key, or it is one of a session and there is no token.
    UnknownKey,
    /// The token is not the key's.
    WrongToken,
    Expired,
}

impl Session {
    /// The keys and the token.
    #[must_use]
    pub fn keys(&self) -> Keys {
        let said = serde_json::to_vec(self).expect("texts and times become JSON");
        let said = URL_SAFE_NO_PAD.encode(said);
        let token = format!("{said}.{}", code("token", &said));
        Keys {
            access_key: access_key(&token),
            secret_key: code("secret", &token)[..40].to_owned(),
            token,
        }
    }

    /// Its ARN: the path of the role is not in it (IAM User Guide, "IAM identifiers").
    #[must_use]
    pub fn arn(&self) -> String {
        let role = self.role.rsplit('/').next().unwrap_or_default();
        format!(
            "arn:aws:sts::{ACCOUNT_ID}:assumed-role/{role}/{}",
            self.name
        )
    }

    /// The role's id, and the name of the session.
    #[must_use]
    pub fn id(&self) -> String {
        let digest = hex::encode_upper(Sha256::digest(&self.role));
        format!("AROA{}:{}", &digest[..17], self.name)
    }
}

impl Identity {
    /// ARN of the caller.
    #[must_use]
    pub fn arn(&self) -> String {
        match self {
            Self::User => format!("arn:aws:iam::{ACCOUNT_ID}:user/local"),
            Self::Role(session) => session.arn(),
        }
    }

    /// The caller's unique id.
    #[must_use]
    pub fn id(&self) -> String {
        match self {
            Self::User => "AIDALOCALPIAASBAKE00".to_owned(),
            Self::Role(session) => session.id(),
        }
    }
}

/// Who signed a request, and the secret that it must be signed with.
///
/// # Errors
/// [`Refused`].
pub fn caller(
    authorization: &Authorization,
    now: Timestamp,
) -> Result<(Identity, String), Refused> {
    let key = authorization.access_key.as_str();
    let token = authorization.token.as_deref();
    match token {
        None if key == ACCESS_KEY => Ok((Identity::User, SECRET_KEY.to_owned())),
        None => Err(Refused::UnknownKey),
        Some(token) => {
            let session = read(token).filter(|_| key == access_key(token));
            let session = session.ok_or(Refused::WrongToken)?;
            if now >= session.expires {
                return Err(Refused::Expired);
            }
            let secret = session.keys().secret_key;
            Ok((Identity::Role(session), secret))
        }
    }
}

/// What a token says, if it is one of ours.
pub(crate) fn read(token: &str) -> Option<Session> {
    let (said, given) = token.split_once('.')?;
    let given = hex::decode(given).ok()?;
    // Constant-time, as `Mac` compares.
    hmac::Mac::verify_slice(mac(SECRET_KEY.as_bytes(), &labelled("token", said)), &given).ok()?;
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(said).ok()?).ok()
}

fn labelled(label: &str, text: &str) -> Vec<u8> {
    format!("{label} {text}").into_bytes()
}

fn code(label: &str, text: &str) -> String {
    let code = mac(SECRET_KEY.as_bytes(), &labelled(label, text));
    hex::encode(hmac::Mac::finalize(code).into_bytes())
}

/// Access keys of sessions begin with ASIA (IAM User Guide, "IAM identifiers").
fn access_key(token: &str) -> String {
    let code = code("key", token);
    format!("ASIA{}", code[..16].to_ascii_uppercase())
}
