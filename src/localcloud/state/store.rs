//! The file of the records, and its lock.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use rustix::fs::{FlockOperation, flock};

use super::State;
use crate::localcloud::{DEFAULT_REGION, regions};

/// The file of a cloud's first region.
const MAIN: &str = "state.json";

/// The state could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("cannot {action} {path}: {source}; check the permissions and the space of the disk", path = path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{path} is not a state of the local cloud: {source}; move it away to begin with an empty cloud", path = path.display())]
    Parse {
        path: PathBuf,
        source: serde_json::Error,
    },
}

/// The file, and the lock that guards it.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    /// What this process read or wrote last of each file, as long as the file is still that one.
    known: Mutex<BTreeMap<PathBuf, (Identity, Arc<State>)>>,
}

/// Tells one content of the file from another: every save makes a new file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    inode: (u64, u64),
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    changed: (i64, i64),
    length: u64,
}

impl Identity {
    fn of(metadata: &Metadata) -> Self {
        Self {
            inode: (metadata.dev(), metadata.ino()),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            length: metadata.len(),
        }
    }
}

/// The lock, held; and what was read under it.
#[derive(Debug)]
pub struct Locked<'a> {
    store: &'a Store,
    path: PathBuf,
    // Closing it releases the lock.
    _lock: File,
    /// What the file holds; `None`: there is none yet.
    before: Option<Arc<State>>,
    pub state: State,
}

impl Store {
    /// A store in `directory`, which is made if it is not there.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn open(directory: &Path) -> Result<Self, StateError> {
        std::fs::create_dir_all(directory).map_err(io("create", directory))?;
        Ok(Self {
            directory: directory.to_owned(),
            known: Mutex::default(),
        })
    }

    /// Waits for the lock, which is one for all regions, and reads a region's state; an empty one if there is none yet.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn lock(&self, now: Timestamp, region: &str) -> Result<Locked<'_>, StateError> {
        let path = self.directory.join("lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(io("open", &path))?;
        while let Err(error) = flock(&lock, FlockOperation::LockExclusive) {
            if error != rustix::io::Errno::INTR {
                return Err(io("lock", &path)(error.into()));
            }
        }
        let (path, before) = self.records(region)?;
        let state = before
            .as_ref()
            .map_or_else(|| State::new(now, region), |state| State::clone(state));
        Ok(Locked {
            store: self,
            path,
            _lock: lock,
            before,
            state,
        })
    }

    /// What the file holds. It is not read again while it is the one that is known: requests are frequent, and most
    /// change nothing.
    fn read(&self, path: &Path) -> Result<Option<Arc<State>>, StateError> {
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io("read", path)(error)),
        };
        let metadata = file.metadata().map_err(io("read", path))?;
        let identity = Identity::of(&metadata);
        let mut known = self.known();
        if let Some((_, state)) = known.get(path).filter(|(known, _)| *known == identity) {
            return Ok(Some(state.clone()));
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(io("read", path))?;
        let mut state: State =
            serde_json::from_slice(&bytes).map_err(|source| StateError::Parse {
                path: path.to_owned(),
                source,
            })?;
        state.adopt();
        let state = Arc::new(state);
        known.insert(path.to_owned(), (identity, state.clone()));
        Ok(Some(state))
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<PathBuf, (Identity, Arc<State>)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file of a region, and what it holds. The first region of a cloud has `state.json`, as clouds of one region had
    /// it; each other has a file that is named after it.
    fn records(&self, region: &str) -> Result<(PathBuf, Option<Arc<State>>), StateError> {
        let main = self.directory.join(MAIN);
        let first = self.read(&main)?;
        if first.as_ref().map_or(DEFAULT_REGION, |state| &state.region) == region {
            return Ok((main, first));
        }
        let own = self.directory.join(format!("state.{region}.json"));
        let state = self.read(&own)?;
        Ok((own, state))
    }

    /// The regions that have records.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn regions(&self) -> Result<Vec<String>, StateError> {
        let main = self.directory.join(MAIN);
        let mut all: Vec<String> = self
            .read(&main)?
            .iter()
            .map(|one| one.region.clone())
            .collect();
        let entries = std::fs::read_dir(&self.directory).map_err(io("read", &self.directory))?;
        let names = entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok());
        all.extend(names.filter_map(|name| {
            let region = name.strip_prefix("state.")?.strip_suffix(".json")?;
            regions::exists(region).then(|| region.to_owned())
        }));
        all.sort();
        Ok(all)
    }
}

impl Locked<'_> {
    /// Writes the state if it has changed: to a new file that takes the old one's place.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn save(&mut self) -> Result<(), StateError> {
        if self.before.as_deref() == Some(&self.state) {
            return Ok(());
        }
        let path = self.path.clone();
        let bytes = serde_json::to_vec(&self.state).map_err(|source| StateError::Parse {
            path: path.clone(),
            source,
        })?;
        let new = path.with_extension("json.new");
        let write = || {
            // Parameter Store is in it, secrets and all: it is for its user alone.
            let private = std::fs::Permissions::from_mode(0o600);
            let mut options = File::options();
            options.write(true).create(true).truncate(true).mode(0o600);
            let mut file = options.open(&new)?;
            file.set_permissions(private)?;
            file.write_all(&bytes)?;
            file.sync_data()?;
            std::fs::rename(&new, &path)?;
            // After the renaming, which changes the file's change time.
            file.metadata()
        };
        let metadata = write().map_err(io("write", &path))?;
        let state = Arc::new(self.state.clone());
        let known = (Identity::of(&metadata), state.clone());
        self.store.known().insert(path, known);
        self.before = Some(state);
        Ok(())
    }
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> StateError + use<> {
    let path = path.to_owned();
    move |source| StateError::Io {
        action,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Token;
    use super::*;

    #[test]
    fn the_state_is_for_its_user_alone() {
        let directory = tempfile::tempdir().unwrap();
        let left = directory.path().join("state.json.new");
        std::fs::write(&left, "").unwrap();
        let store = Store::open(directory.path()).unwrap();
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut guard = store.lock(now, DEFAULT_REGION).unwrap();
        let _ = guard.state.new_id("i");
        guard.save().unwrap();
        let about = std::fs::metadata(directory.path().join("state.json")).unwrap();
        assert_eq!(about.permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_state_survives_and_ids_do_not_repeat() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let (first, written) = {
            let mut locked = store.lock(now, DEFAULT_REGION).unwrap();
            let id = locked.state.new_id("i");
            locked.save().unwrap();
            (id, locked.state.clone())
        };
        let mut again = store
            .lock("2027-01-01T00:00:00Z".parse().unwrap(), DEFAULT_REGION)
            .unwrap();
        assert_eq!(again.state, written);
        let second = again.state.new_id("i");
        assert_ne!(first, second);
        assert_eq!(second.len(), "i-0123456789abcdef0".len());
    }

    #[test]
    fn what_another_process_wrote_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        // Two stores: two processes.
        let stores = [(); 2].map(|()| Store::open(directory.path()).unwrap());
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        for round in 0..20 {
            let mut locked = stores[round % 2].lock(now, DEFAULT_REGION).unwrap();
            assert_eq!(locked.state.tokens.len(), round);
            let token = Token {
                request: String::new(),
                made: String::new(),
            };
            locked.state.tokens.insert(round.to_string(), token);
            locked.save().unwrap();
            // What is not saved is forgotten.
            locked.state.tokens.clear();
        }
        let text = std::fs::read_to_string(directory.path().join("state.json")).unwrap();
        std::fs::write(directory.path().join("state.json"), "{").unwrap();
        assert!(matches!(
            stores[0].lock(now, DEFAULT_REGION),
            Err(StateError::Parse { .. })
        ));
        std::fs::write(directory.path().join("state.json"), text).unwrap();
        assert_eq!(
            stores[0]
                .lock(now, DEFAULT_REGION)
                .unwrap()
                .state
                .tokens
                .len(),
            20
        );
    }

    #[test]
    fn a_region_has_its_own_records_and_a_cloud_of_one_region_still_opens() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut ids = Vec::new();
        for region in [DEFAULT_REGION, "eu-west-1"] {
            let mut locked = store.lock(now, region).unwrap();
            assert_eq!(locked.state.region, region);
            ids.push(locked.state.new_id("i"));
            locked.save().unwrap();
        }
        assert_ne!(ids[0], ids[1], "made at the same time, and not the same");
        assert_eq!(store.regions().unwrap(), ["eu-west-1", DEFAULT_REGION]);
        assert!(directory.path().join("state.eu-west-1.json").exists());

        // As a version without regions wrote it: for the default region, or for that of what was made in it.
        let text = std::fs::read_to_string(directory.path().join(MAIN)).unwrap();
        let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
        json.as_object_mut().unwrap().remove("region");
        json["tokens"] = serde_json::json!({"kept": {"request": "", "made": "r-1"}});
        let elsewhere = serde_json::json!({
            "id": "i-1", "reservation_id": "r-1", "launch_index": 0, "image_id": "ami-1",
            "instance_type": "t3.micro", "launch_time": now, "state": "terminated",
            "state_reason": null, "transition_reason": "", "private_ip": "172.31.1.100",
            "availability_zone": "eu-west-1a", "region": "eu-west-1", "group_ids": [],
            "instance_profile": null, "client_token": null, "interface_id": "eni-1",
            "metadata": {"tokens_required": true, "hop_limit": 1, "tags_enabled": false},
            "terminate_on_shutdown": true, "disable_api_termination": false, "tags": {},
            "volume": {"id": "vol-1", "size": 8, "kind": "gp3", "delete_on_termination": true, "tags": {}},
            "agent_registered": true, "agent_online_since": null, "terminated_at": now, "owner": null,
        });
        for (instances, region, other) in [
            (serde_json::json!({}), DEFAULT_REGION, "eu-west-1"),
            (
                serde_json::json!({"i-1": elsewhere}),
                "eu-west-1",
                DEFAULT_REGION,
            ),
        ] {
            json["instances"] = instances;
            let old = tempfile::tempdir().unwrap();
            std::fs::write(old.path().join(MAIN), json.to_string()).unwrap();
            let store = Store::open(old.path()).unwrap();
            assert_eq!(store.regions().unwrap(), [region]);
            let state = store.lock(now, region).unwrap().state.clone();
            assert!(state.tokens.contains_key("kept"));
            assert!(state.images.contains_key(&regions::base_image(region)));
            let state = store.lock(now, other).unwrap().state.clone();
            assert!(state.tokens.is_empty());
        }
    }
}
