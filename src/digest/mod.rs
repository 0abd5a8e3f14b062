//! The content hash: a canonical manifest of named inputs, one per recipe of the line, chained.
//!
//! The digest of a layer is the sha256 of its manifest in canonical JSON. The manifest of a layer names the digest of the
//! layer below it, so the last digest of a line stands for all of it. What a bake reads from the world (time, host, paths,
//! the order of a directory) is not an input. Nor are time-outs and retries: they decide whether a bake ends, not what
//! bytes it makes, and raising one must not rebuild a fleet.
//!
//! Bytes count as they are: a file that a checkout gave CRLF line ends is another file. (The recipe itself is read as
//! YAML, where line ends do not matter; scripts with CRLF are refused.)

mod changed;
mod explain;
mod manifest;
mod step;
mod trail;

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

pub use changed::{Change, Changed, Line, changed};
pub use explain::explain;
pub use manifest::{
    FORMAT, Manifest, ManifestError, ManifestScript, ManifestWorker, Under, chain, chain_of,
};
pub use step::{Step, steps};
pub use trail::{Told, Use, trail};

/// A sha256, shown as 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The raw bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first 12 hex digits, for names.
    #[must_use]
    pub fn short(&self) -> String {
        self.to_string()[..12].to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

/// A text is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a digest; write its 64 lower-case hex digits")]
pub struct NotADigest {
    text: String,
}

impl FromStr for Digest {
    type Err = NotADigest;

    fn from_str(text: &str) -> Result<Self, NotADigest> {
        let mut bytes = [0; 32];
        let lower = !text.bytes().any(|b| b.is_ascii_uppercase());
        match hex::decode_to_slice(text, &mut bytes) {
            Ok(()) if lower => Ok(Self(bytes)),
            _ => Err(NotADigest {
                text: text.to_string(),
            }),
        }
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
