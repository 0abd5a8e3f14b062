//! What commands write, into buckets: the agents of machines put it there (`OutputS3BucketName` of `SendCommand`).

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use md5::{Digest as _, Md5};
use serde::{Deserialize, Serialize};

use super::checksum::{Algorithm, Checksum};
use super::store::{Buckets, Meta};

/// Where the output of a command goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputTarget {
    /// The directory of the cloud.
    pub cloud: PathBuf,
    pub bucket: String,
    /// What keys begin with, without a slash behind it; perhaps empty.
    pub prefix: String,
    pub command_id: String,
}

impl OutputTarget {
    /// The key of `stdout` or `stderr` of one machine.
    #[must_use]
    pub fn key(&self, instance: &str, name: &str) -> String {
        let rest = format!(
            "{}/{instance}/awsrunShellScript/0.awsrunShellScript/{name}",
            self.command_id
        );
        if self.prefix.is_empty() {
            rest
        } else {
            format!("{}/{rest}", self.prefix)
        }
    }

    /// Puts the whole of a file there; an empty one is not put (amazon-ssm-agent, `iomodule/file.go`).
    ///
    /// # Errors
    /// The bucket is gone, or a file cannot be read or written.
    pub fn put_file(&self, instance: &str, name: &str, path: &Path) -> io::Result<()> {
        self.put(instance, name, File::open(path)?)
    }

    /// As [`Self::put_file`], of what can be read.
    ///
    /// # Errors
    /// As [`Self::put_file`].
    pub fn put(&self, instance: &str, name: &str, mut from: impl io::Read) -> io::Result<()> {
        let buckets = Buckets::of(&self.cloud);
        let mut file = buckets.begin()?;
        let algorithm = Algorithm::Crc64Nvme;
        let (mut md5, mut checksum, mut length) = (Md5::new(), algorithm.begin(), 0);
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let read = from.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            length += read as u64;
            md5.update(&buffer[..read]);
            checksum.update(&buffer[..read]);
            file.write_all(&buffer[..read])?;
        }
        if length == 0 {
            return Ok(());
        }
        let value = checksum.header_value();
        let meta = Meta {
            key: self.key(instance, name),
            length,
            etag: hex::encode(md5.finalize()),
            modified: Timestamp::now(),
            headers: Vec::new(),
            checksum: Checksum {
                algorithm,
                value: String::from_utf8_lossy(value.as_bytes()).into_owned(),
            },
        };
        let guard = buckets.lock()?;
        if buckets.bucket(&self.bucket)?.is_none() {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("the bucket {} is gone", self.bucket),
            ));
        }
        buckets.put(&self.bucket, file, &meta, &guard)
    }
}
