//! What the agent keeps: one file, replaced as a whole, on disk before anything is said or done because of it.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::agent::Kept;

/// Where it is on a machine.
pub const DIR: &str = "/var/lib/piaas-worker";
const STATE: &str = "state.json";
const HOLD: &str = "hold";

/// The directory.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
}

/// What was kept cannot be read: then nothing is known of a drain, and a guess would be wrong.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}: {why}; remove it only if the worker was never drained", path.display())]
pub struct Unreadable {
    path: PathBuf,
    why: String,
}

impl Store {
    /// Makes the directory if it is not there.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        Ok(Self {
            dir: dir.to_path_buf(),
        })
    }

    /// What was kept. None: nothing yet.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub fn read(&self) -> Result<Option<Kept>, Unreadable> {
        let path = self.dir.join(STATE);
        let unreadable = |why: String| Unreadable {
            path: path.clone(),
            why,
        };
        match fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text)
                .map(Some)
                .map_err(|error| unreadable(error.to_string())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(unreadable(error.to_string())),
        }
    }

    /// Keeps it: when this returns it survives a power cut.
    ///
    /// # Errors
    /// Whatever the file system says; then the old state is still there.
    pub fn write(&self, kept: &Kept) -> io::Result<()> {
        let json = serde_json::to_string(kept).expect("texts, numbers and times are JSON");
        self.replace(STATE, json.as_bytes())
    }

    /// The file whose presence keeps the CI agent's unit from starting.
    #[must_use]
    pub fn hold_path(&self) -> PathBuf {
        self.dir.join(HOLD)
    }

    /// Whether the CI agent's unit is kept from starting.
    #[must_use]
    pub fn is_held(&self) -> bool {
        // An error other than "not there" is no proof of anything.
        matches!(self.hold_path().try_exists(), Ok(true))
    }

    /// Keeps the CI agent's unit from starting, or no longer; durable when this returns.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn hold(&self, held: bool) -> io::Result<()> {
        if held {
            return match self.hold_path().try_exists()? {
                // The one that made it may have died before it was durable.
                true => File::open(&self.dir)?.sync_all(),
                false => self.replace(HOLD, b""),
            };
        }
        match fs::remove_file(self.hold_path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => File::open(&self.dir)?.sync_all(),
        }
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(&self.dir)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(self.dir.join(name))
            .map_err(|error| error.error)?;
        File::open(&self.dir)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_read_back_and_what_is_damaged_is_not_guessed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("state")).unwrap();
        assert_eq!(store.read().unwrap(), None);
        let kept = Kept {
            generation: Some(u64::MAX),
            ..Kept::default()
        };
        store.write(&kept).unwrap();
        assert_eq!(store.read().unwrap(), Some(kept));
        let names: Vec<_> = fs::read_dir(dir.path().join("state")).unwrap().collect();
        assert_eq!(names.len(), 1, "no temporary file is left: {names:?}");
        fs::write(dir.path().join("state/state.json"), "{").unwrap();
        assert!(store.read().is_err());
    }

    #[test]
    fn a_hold_can_be_repeated_and_lifted() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert!(!store.is_held());
        store.hold(true).unwrap();
        store.hold(true).unwrap();
        assert!(store.is_held());
        store.hold(false).unwrap();
        store.hold(false).unwrap();
        assert!(!store.is_held());
    }
}
