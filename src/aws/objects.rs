//! Objects in buckets: put, lent to a machine by a presigned URL, deleted.

use std::fmt;
use std::time::Duration;

use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::ByteStream;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use super::clients::Clients;
use super::error::{Context as _, Error};

/// An object's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub bucket: String,
    pub key: String,
}

impl Place {
    /// Reads `s3://bucket/key`.
    #[must_use]
    pub fn parse(url: &str) -> Option<Self> {
        let (bucket, key) = url.strip_prefix("s3://")?.split_once('/')?;
        Some(Self {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.key)
    }
}

/// A URL that opens an object to whoever has it. It is shown to nobody but the machine that it is for.
pub struct PresignedUrl(String);

impl PresignedUrl {
    /// The URL, for the machine.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PresignedUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresignedUrl(…)")
    }
}

/// Puts an object in the place of what is there. S3 compares its bytes with the SHA-256.
///
/// # Errors
/// [`Error`] of `PutObject`.
pub async fn put(
    clients: &Clients,
    place: &Place,
    bytes: Bytes,
    sha256: &[u8],
) -> Result<(), Error> {
    clients
        .s3
        .put_object()
        .bucket(&place.bucket)
        .key(&place.key)
        .checksum_sha256(STANDARD.encode(sha256))
        .body(ByteStream::from(bytes))
        .send()
        .await
        .call("s3", "PutObject")?;
    Ok(())
}

/// A URL by which the object is read for `lifetime`, at most seven days; with temporary credentials not longer than
/// these last.
///
/// # Errors
/// No credentials to sign with.
pub async fn lend(
    clients: &Clients,
    place: &Place,
    lifetime: Duration,
) -> Result<PresignedUrl, Error> {
    let now = std::time::UNIX_EPOCH
        + Duration::try_from(clients.clock.now().as_duration()).unwrap_or_default();
    let config = PresigningConfig::builder()
        .start_time(now)
        .expires_in(lifetime)
        .build()
        .map_err(|error| Error::incomplete("s3", "GetObject", &error.to_string()))?;
    let request = clients
        .s3
        .get_object()
        .bucket(&place.bucket)
        .key(&place.key)
        .presigned(config)
        .await
        .call("s3", "GetObject")?;
    Ok(PresignedUrl(request.uri().to_owned()))
}

/// Deletes an object; one that is not there is fine.
///
/// # Errors
/// [`Error`] of `DeleteObject`.
pub async fn delete(clients: &Clients, place: &Place) -> Result<(), Error> {
    clients
        .s3
        .delete_object()
        .bucket(&place.bucket)
        .key(&place.key)
        .send()
        .await
        .call("s3", "DeleteObject")?;
    Ok(())
}
