//! Buckets and objects as files.
//!
//! `s3/buckets/<bucket>/`: `bucket.json`, `objects/<SHA-256 of the key>`, `uploads/<id>/` (`upload.json`, a file for each
//! part). A file of an object holds its bytes, then what is known of it as JSON, then the length of that in eight bytes:
//! it takes another's place by being renamed, and who reads it has one or the other. `s3/incoming/`: what is being
//! written, each locked by its writer. `s3/lock` guards what buckets hold.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::{FlockOperation, flock};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

use super::super::nspawn::files::{get_json, is_file_locked, put_json, remove_dir, subdirectories};
use super::checksum::Checksum;

/// The largest description of an object; S3 allows 2 KB of metadata.
const ABOUT_LIMIT: u64 = 1024 * 1024;

/// A bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bucket {
    pub region: String,
    pub created: Timestamp,
}

/// What is known of an object, beside its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    pub key: String,
    pub length: u64,
    /// Without its quotes.
    pub etag: String,
    pub modified: Timestamp,
    /// Headers that the object was put with and is given out with, `x-amz-meta-…` among them.
    pub headers: Vec<(String, String)>,
    pub checksum: Checksum,
}

/// An object that is open: what becomes of its name makes no difference any more.
#[derive(Debug)]
pub struct Object {
    /// Its bytes are at the beginning.
    pub file: File,
    pub meta: Meta,
}

/// What became of a wish to remove a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    Removed,
    NotEmpty,
    NoSuchBucket,
}

/// The files of all buckets of a cloud.
#[derive(Debug, Clone)]
pub struct Buckets {
    root: PathBuf,
}

/// The lock, held.
pub struct Guard {
    // Closing it releases the lock.
    _lock: File,
}

impl Buckets {
    /// Those of the cloud in this directory. Nothing is made yet.
    pub fn of(cloud: &Path) -> Self {
        Self {
            root: cloud.join("s3"),
        }
    }

    /// Waits for the lock.
    pub fn lock(&self) -> io::Result<Guard> {
        std::fs::create_dir_all(&self.root)?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.root.join("lock"))?;
        while let Err(error) = flock(&lock, FlockOperation::LockExclusive) {
            if error != rustix::io::Errno::INTR {
                return Err(error.into());
            }
        }
        Ok(Guard { _lock: lock })
    }

    fn bucket_dir(&self, bucket: &str) -> PathBuf {
        self.root.join("buckets").join(bucket)
    }

    fn incoming(&self) -> PathBuf {
        self.root.join("incoming")
    }

    /// A new file for what is being written; it goes if it is not put anywhere.
    pub fn begin(&self) -> io::Result<NamedTempFile> {
        let incoming = self.incoming();
        std::fs::create_dir_all(&incoming)?;
        let file = NamedTempFile::new_in(incoming)?;
        flock(file.as_file(), FlockOperation::NonBlockingLockExclusive)?;
        Ok(file)
    }

    /// What dead writers left.
    pub fn abandoned(cloud: &Path) -> Vec<PathBuf> {
        let incoming = Self::of(cloud).incoming();
        let files = std::fs::read_dir(incoming).into_iter().flatten().flatten();
        let mut left: Vec<_> = files
            .map(|entry| entry.path())
            .filter(|path| !is_file_locked(path))
            .collect();
        left.sort();
        left
    }

    /// Removes what a dead writer left; one that is gone already is fine.
    pub fn forget(cloud: &Path, name: &str) -> io::Result<()> {
        found(std::fs::remove_file(Self::of(cloud).incoming().join(name))).map(drop)
    }

    /// Makes a bucket, unless there is one of this name: that one is given then.
    pub fn create(&self, name: &str, bucket: &Bucket) -> io::Result<Option<Bucket>> {
        let _guard = self.lock()?;
        if let Some(there) = self.bucket(name)? {
            return Ok(Some(there));
        }
        let dir = self.bucket_dir(name);
        // What a removal that was cut off left.
        remove_dir(&dir)?;
        std::fs::create_dir_all(dir.join("objects"))?;
        std::fs::create_dir_all(dir.join("uploads"))?;
        put_json(&dir.join("bucket.json"), bucket)?;
        Ok(None)
    }

    /// A bucket.
    pub fn bucket(&self, name: &str) -> io::Result<Option<Bucket>> {
        found(get_json(&self.bucket_dir(name).join("bucket.json")))
    }

    /// All buckets, by name.
    pub fn all(&self) -> io::Result<Vec<(String, Bucket)>> {
        let mut all = Vec::new();
        for dir in subdirectories(&self.root.join("buckets")) {
            let name = dir.file_name().and_then(|name| name.to_str());
            if let Some(name) = name
                && let Some(bucket) = self.bucket(name)?
            {
                all.push((name.to_owned(), bucket));
            }
        }
        Ok(all)
    }

    /// Removes an empty bucket. Uploads that are not complete go with it.
    pub fn remove(&self, name: &str) -> io::Result<Removal> {
        let _guard = self.lock()?;
        if self.bucket(name)?.is_none() {
            return Ok(Removal::NoSuchBucket);
        }
        let dir = self.bucket_dir(name);
        if std::fs::read_dir(dir.join("objects"))?.next().is_some() {
            return Ok(Removal::NotEmpty);
        }
        // From here on it is not there.
        std::fs::remove_file(dir.join("bucket.json"))?;
        remove_dir(&dir)?;
        Ok(Removal::Removed)
    }

    fn object_path(&self, bucket: &str, key: &str) -> PathBuf {
        let name = hex::encode(Sha256::digest(key.as_bytes()));
        self.bucket_dir(bucket).join("objects").join(name)
    }

    /// Opens an object.
    pub fn open(&self, bucket: &str, key: &str) -> io::Result<Option<Object>> {
        found(open(&self.object_path(bucket, key)).map(|(file, meta)| Object { file, meta }))
    }

    /// Puts a written file in the place of the object; the lock must be held.
    pub fn put(
        &self,
        bucket: &str,
        file: NamedTempFile,
        meta: &Meta,
        _guard: &Guard,
    ) -> io::Result<()> {
        seal(file, &self.object_path(bucket, &meta.key), meta)
    }

    /// Removes an object; the lock must be held. One that is not there is fine.
    pub fn delete(&self, bucket: &str, key: &str, _guard: &Guard) -> io::Result<()> {
        found(std::fs::remove_file(self.object_path(bucket, key))).map(drop)
    }

    /// What is known of the objects of a bucket, by key.
    pub fn list(&self, bucket: &str, prefix: &str) -> io::Result<Vec<Meta>> {
        let mut all = Vec::new();
        for entry in std::fs::read_dir(self.bucket_dir(bucket).join("objects"))? {
            // One that goes meanwhile is not there.
            if let Some((_, meta)) = found(open::<Meta>(&entry?.path()))?
                && meta.key.starts_with(prefix)
            {
                all.push(meta);
            }
        }
        all.sort_by(|one, other| one.key.cmp(&other.key));
        Ok(all)
    }

    fn upload_dir(&self, bucket: &str, id: &str) -> PathBuf {
        self.bucket_dir(bucket).join("uploads").join(id)
    }

    /// Begins an upload in parts.
    pub fn begin_upload(&self, bucket: &str, id: &str, about: &impl Serialize) -> io::Result<()> {
        let _guard = self.lock()?;
        let dir = self.upload_dir(bucket, id);
        std::fs::create_dir_all(&dir)?;
        put_json(&dir.join("upload.json"), about)
    }

    /// What is known of an upload; `id` must be one that was given out.
    pub fn upload<T: DeserializeOwned>(&self, bucket: &str, id: &str) -> io::Result<Option<T>> {
        found(get_json(&self.upload_dir(bucket, id).join("upload.json")))
    }

    /// Puts a written file in the place of a part; the lock must be held.
    pub fn put_part(
        &self,
        (bucket, id): (&str, &str),
        number: u32,
        file: NamedTempFile,
        about: &impl Serialize,
        _guard: &Guard,
    ) -> io::Result<()> {
        let name = format!("{number:05}");
        seal(file, &self.upload_dir(bucket, id).join(name), about)
    }

    /// Opens a part.
    pub fn part<T: DeserializeOwned>(
        &self,
        bucket: &str,
        id: &str,
        number: u32,
    ) -> io::Result<Option<(File, T)>> {
        let name = format!("{number:05}");
        found(open(&self.upload_dir(bucket, id).join(name)))
    }

    /// Removes an upload; the lock must be held.
    pub fn end_upload(&self, bucket: &str, id: &str, _guard: &Guard) -> io::Result<()> {
        remove_dir(&self.upload_dir(bucket, id))
    }
}

/// Nothing for what is not there.
fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Ends a file with what is known of it, and gives it its name.
fn seal(mut file: NamedTempFile, path: &Path, about: &impl Serialize) -> io::Result<()> {
    let json = serde_json::to_vec(about)?;
    file.seek(SeekFrom::End(0))?;
    file.write_all(&json)?;
    file.write_all(&(json.len() as u64).to_be_bytes())?;
    file.as_file().sync_data()?;
    file.persist(path)?;
    Ok(())
}

/// Opens a file that was sealed.
fn open<T: DeserializeOwned>(path: &Path) -> io::Result<(File, T)> {
    let mut file = File::open(path)?;
    let damaged = || {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "the file of an object is damaged",
        )
    };
    let end = file.metadata()?.len();
    let mut length = [0; 8];
    file.read_exact_at(&mut length, end.checked_sub(8).ok_or_else(damaged)?)?;
    let length = u64::from_be_bytes(length);
    let begin = (end - 8).checked_sub(length).ok_or_else(damaged)?;
    if length > ABOUT_LIMIT {
        return Err(damaged());
    }
    let mut json = Vec::new();
    file.seek(SeekFrom::Start(begin))?;
    (&file).take(length).read_to_end(&mut json)?;
    file.rewind()?;
    Ok((file, serde_json::from_slice(&json)?))
}

#[cfg(test)]
mod tests {
    use super::super::checksum::Algorithm;
    use super::*;

    fn meta(key: &str, length: u64) -> Meta {
        Meta {
            key: key.into(),
            length,
            etag: "e".into(),
            modified: Timestamp::UNIX_EPOCH,
            headers: vec![],
            checksum: Checksum {
                algorithm: Algorithm::Crc32,
                value: "AAAAAA==".into(),
            },
        }
    }

    fn put(buckets: &Buckets, key: &str, bytes: &[u8]) {
        let mut file = buckets.begin().unwrap();
        file.write_all(bytes).unwrap();
        let guard = buckets.lock().unwrap();
        let meta = meta(key, bytes.len() as u64);
        buckets.put("web", file, &meta, &guard).unwrap();
    }

    #[test]
    fn an_object_is_replaced_as_a_whole_and_who_reads_the_old_one_goes_on() {
        let cloud = tempfile::tempdir().unwrap();
        let buckets = Buckets::of(cloud.path());
        let bucket = Bucket {
            region: "r".into(),
            created: Timestamp::UNIX_EPOCH,
        };
        assert_eq!(buckets.remove("web").unwrap(), Removal::NoSuchBucket);
        assert_eq!(buckets.create("web", &bucket).unwrap(), None);
        assert_eq!(buckets.create("web", &bucket).unwrap(), Some(bucket));
        put(&buckets, "a/../b", b"first");
        let mut old = buckets.open("web", "a/../b").unwrap().unwrap();
        put(&buckets, "a/../b", b"second!");
        let mut text = String::new();
        (&mut old.file)
            .take(old.meta.length)
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "first");
        assert_eq!(
            buckets.open("web", "a/../b").unwrap().unwrap().meta.length,
            7
        );
        assert_eq!(buckets.remove("web").unwrap(), Removal::NotEmpty);
        let guard = buckets.lock().unwrap();
        buckets.delete("web", "a/../b", &guard).unwrap();
        buckets.delete("web", "a/../b", &guard).unwrap();
        drop(guard);
        assert_eq!(buckets.remove("web").unwrap(), Removal::Removed);
    }

    #[test]
    fn only_what_a_dead_writer_left_is_abandoned() {
        let cloud = tempfile::tempdir().unwrap();
        let file = Buckets::of(cloud.path()).begin().unwrap();
        assert_eq!(Buckets::abandoned(cloud.path()), Vec::<PathBuf>::new());
        let (file, path) = file.keep().unwrap();
        drop(file);
        assert_eq!(Buckets::abandoned(cloud.path()), [path]);
    }
}
