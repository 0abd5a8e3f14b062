//! The file of a run: locked while the run lives, appended to, read back.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::{FlockOperation, flock};

use super::Error;
use super::ledger::{Entry, Illegal, Ledger};
use super::record::{FORMAT, Facts, IntentId, Record, RunHeader, decode, encode};

const EXTENSION: &str = "jsonl";

/// Where the journal of a run lies: `<dir>/<run>.jsonl`.
#[must_use]
pub fn path_of(dir: &Path, run: &str) -> PathBuf {
    dir.join(format!("{run}.{EXTENSION}"))
}

/// The journal of a run that this process holds. Dropping it releases the lock.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
    ledger: Ledger,
    /// Bytes of whole records.
    length: u64,
    /// What could not be written may lie behind them, and nothing may be written after that.
    torn: bool,
}

impl Journal {
    /// Starts the journal of a new run in `dir`, which is made if it is missing.
    ///
    /// # Errors
    /// [`Error::Io`] if the file exists or cannot be written.
    pub fn create(dir: &Path, header: RunHeader) -> Result<Self, Error> {
        let path = path_of(dir, &header.run);
        std::fs::create_dir_all(dir).map_err(io("make the directory of", &path))?;
        // Whoever sees it sees it locked, and with its first record: an empty one that nobody holds is of a run that died.
        let (file, beside) = tempfile::Builder::new()
            .append(true)
            .permissions(Permissions::from_mode(0o644))
            .tempfile_in(dir)
            .map_err(io("create", &path))?
            .into_parts();
        flock(&file, FlockOperation::LockExclusive).map_err(|e| io("lock", &path)(e.into()))?;
        let mut journal = Self {
            file,
            path,
            ledger: Ledger::default(),
            length: 0,
            torn: false,
        };
        journal.append(Record::Run(header))?;
        beside
            .persist_noclobber(&journal.path)
            .map_err(|failed| io("create", &journal.path)(failed.error))?;
        // The name of the file must outlast a power cut as well.
        File::open(dir)
            .and_then(|dir| dir.sync_all())
            .map_err(io("sync the directory of", &journal.path))?;
        Ok(journal)
    }

    /// Takes over the journal of a run that died, to go on with it or to undo what it left. A torn last record is cut off.
    ///
    /// # Errors
    /// [`Error::Alive`] if another process holds it; otherwise as [`read`].
    pub fn adopt(path: &Path) -> Result<Self, Error> {
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .open(path)
            .map_err(io("open", path))?;
        if !try_lock(&file, FlockOperation::NonBlockingLockExclusive).map_err(io("lock", path))? {
            return Err(Error::Alive {
                path: path.to_owned(),
            });
        }
        let (ledger, length) = load(path)?;
        file.set_len(length).map_err(io("trim", path))?;
        Ok(Self {
            file,
            path: path.to_owned(),
            ledger,
            length,
            torn: false,
        })
    }

    /// Where the journal lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the records add up to so far.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Writes down what is about to be created or changed. On disk when this returns.
    ///
    /// # Errors
    /// [`Error::Io`] if it could not be written: then do not act.
    pub fn intent(
        &mut self,
        kind: &str,
        token: &str,
        facts: Facts,
        at: Timestamp,
    ) -> Result<IntentId, Error> {
        let id = self.ledger.next_id();
        self.append(Record::Intent {
            id,
            kind: kind.to_owned(),
            token: token.to_owned(),
            facts,
            at,
        })?;
        Ok(id)
    }

    /// Writes down that it exists, with its ids.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Illegal`] if the intent is not open.
    pub fn outcome(&mut self, id: IntentId, ids: Vec<String>, at: Timestamp) -> Result<(), Error> {
        self.append(Record::Outcome { id, ids, at })
    }

    /// Writes down that the cloud refused it and nothing came of it.
    ///
    /// # Errors
    /// As [`Journal::outcome`].
    pub fn failed(&mut self, id: IntentId, error: &str, at: Timestamp) -> Result<(), Error> {
        self.append(Record::Failed {
            id,
            error: error.to_owned(),
            at,
        })
    }

    /// Writes down that these stay, in one record: all of them or none.
    ///
    /// # Errors
    /// As [`Journal::outcome`].
    pub fn keep(&mut self, ids: Vec<IntentId>, at: Timestamp) -> Result<(), Error> {
        self.append(Record::Kept { ids, at })
    }

    /// Writes down that it is about to be removed.
    ///
    /// # Errors
    /// As [`Journal::outcome`].
    pub fn undo(&mut self, id: IntentId, at: Timestamp) -> Result<(), Error> {
        self.append(Record::Undo { id, at })
    }

    /// Writes down that it is gone.
    ///
    /// # Errors
    /// As [`Journal::outcome`].
    pub fn undone(&mut self, id: IntentId, at: Timestamp) -> Result<(), Error> {
        self.append(Record::Undone { id, at })
    }

    /// Writes down that it could not be removed.
    ///
    /// # Errors
    /// As [`Journal::outcome`].
    pub fn undo_failed(&mut self, id: IntentId, error: &str, at: Timestamp) -> Result<(), Error> {
        self.append(Record::UndoFailed {
            id,
            error: error.to_owned(),
            at,
        })
    }

    /// Writes down that the run has come this far, and what the rest of it needs of that.
    ///
    /// # Errors
    /// As [`Journal::outcome`]; illegal once the run is being undone.
    pub fn checkpoint(&mut self, name: &str, value: &str, at: Timestamp) -> Result<(), Error> {
        self.append(Record::Checkpoint {
            name: name.to_owned(),
            value: value.to_owned(),
            at,
        })
    }

    /// Writes down that another process goes on with the run.
    ///
    /// # Errors
    /// As [`Journal::outcome`]; illegal once the run is being undone.
    pub fn resumed(&mut self, at: Timestamp) -> Result<(), Error> {
        self.append(Record::Resumed { at })
    }

    /// Writes down that nothing is left to do.
    ///
    /// # Errors
    /// As [`Journal::outcome`]; illegal while something is left to undo.
    pub fn end(&mut self, result: &str, at: Timestamp) -> Result<(), Error> {
        self.append(Record::End {
            result: result.to_owned(),
            at,
        })
    }

    /// One intent of this run.
    #[must_use]
    pub fn entry(&self, id: IntentId) -> Option<&Entry> {
        self.ledger.entry(id)
    }

    fn append(&mut self, record: Record) -> Result<(), Error> {
        let mut next = self.ledger.clone();
        next.apply(&record).map_err(|source| Error::Illegal {
            path: self.path.clone(),
            source,
        })?;
        let line = encode(&record);
        self.write(line.as_bytes())?;
        self.length += line.len() as u64;
        self.ledger = next;
        Ok(())
    }

    /// A record is whole and on disk, or it is not there: one that a full disk has cut short is taken back, for others may
    /// follow it once there is room.
    fn write(&mut self, line: &[u8]) -> Result<(), Error> {
        if self.torn {
            self.file
                .set_len(self.length)
                .map_err(io("mend", &self.path))?;
            self.torn = false;
        }
        let written = self
            .file
            .write_all(line)
            .map_err(io("write", &self.path))
            .and_then(|()| self.file.sync_data().map_err(io("sync", &self.path)));
        if written.is_err() {
            self.torn = self.file.set_len(self.length).is_err();
        }
        written
    }
}

/// Reads a journal. A torn last record, as a crash or a power cut leaves it, is passed over.
///
/// # Errors
/// [`Error::Damaged`] if any other record is unreadable, [`Error::Illegal`] if they do not add up.
pub fn read(path: &Path) -> Result<Ledger, Error> {
    load(path).map(|(ledger, _)| ledger)
}

/// The records of a journal, in order.
///
/// # Errors
/// As [`read`].
pub fn records(path: &Path) -> Result<Vec<Record>, Error> {
    let mut all = Vec::new();
    each(path, |record| all.push(record))?;
    Ok(all)
}

/// The ledger, and how many bytes of the file hold whole records.
fn load(path: &Path) -> Result<(Ledger, u64), Error> {
    each(path, drop)
}

/// As [`load`], and gives each record away.
fn each(path: &Path, give: impl FnMut(Record)) -> Result<(Ledger, u64), Error> {
    let bytes = std::fs::read(path).map_err(io("read", path))?;
    let path = path.to_owned();
    replay(&bytes, give).map_err(|broken| match broken {
        Broken::Damaged { line } => Error::Damaged { path, line },
        Broken::Newer { format } => Error::Newer { path, format },
        Broken::Illegal(source) => Error::Illegal { path, source },
    })
}

/// What the bytes of a journal are not.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// Readable at this line, counted from 1.
    Damaged { line: usize },
    /// Of a format that is known.
    Newer { format: u32 },
    /// A run.
    Illegal(Illegal),
}

/// The ledger of a journal's bytes, and how many of them hold whole records; gives each of these away.
pub(crate) fn replay(bytes: &[u8], mut give: impl FnMut(Record)) -> Result<(Ledger, u64), Broken> {
    let mut ledger = Ledger::default();
    let mut good = 0;
    let mut lines = bytes
        .split_inclusive(|byte| *byte == b'\n')
        .enumerate()
        .peekable();
    while let Some((index, line)) = lines.next() {
        let record = line
            .strip_suffix(b"\n")
            .and_then(|line| std::str::from_utf8(line).ok())
            .and_then(decode);
        match record {
            Some(Record::Run(header)) if header.format > FORMAT => {
                let format = header.format;
                return Err(Broken::Newer { format });
            }
            Some(record) => {
                ledger.apply(&record).map_err(Broken::Illegal)?;
                good += line.len() as u64;
                give(record);
            }
            None if lines.peek().is_none() => break,
            None => return Err(Broken::Damaged { line: index + 1 }),
        }
    }
    Ok((ledger, good))
}

/// Whether the process of a run still lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunState {
    /// Its process holds the lock.
    Alive,
    /// Its last record is the end.
    Finished,
    /// It has no end and nobody holds it: something may be left to undo.
    Dead,
}

/// One run found in a directory.
#[derive(Debug)]
pub struct RunFile {
    pub path: PathBuf,
    pub state: RunState,
    pub ledger: Ledger,
}

/// The runs in `dir`, oldest name first; none if the directory does not exist.
///
/// # Errors
/// As [`read`], for the first journal that cannot be read.
pub fn runs(dir: &Path) -> Result<Vec<RunFile>, Error> {
    paths(dir)?.into_iter().map(inspect).collect()
}

/// The journals in `dir`, oldest name first; none if the directory does not exist.
///
/// # Errors
/// The directory cannot be read.
pub fn paths(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let listing = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(io("list", dir))?,
    };
    let mut paths = Vec::new();
    for entry in listing {
        let path = entry.map_err(io("list", dir))?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == EXTENSION)
        {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// A run, by its journal.
///
/// # Errors
/// As [`read`].
pub fn inspect(path: PathBuf) -> Result<RunFile, Error> {
    let file = File::open(&path).map_err(io("open", &path))?;
    // The lock comes first: a run that ends between the two looks is then seen with its end.
    let free = try_lock(&file, FlockOperation::NonBlockingLockShared).map_err(io("lock", &path))?;
    let ledger = read(&path)?;
    let state = match (free, ledger.result()) {
        (_, Some(_)) => RunState::Finished,
        (false, None) => RunState::Alive,
        (true, None) => RunState::Dead,
    };
    Ok(RunFile {
        path,
        state,
        ledger,
    })
}

fn try_lock(file: &File, operation: FlockOperation) -> std::io::Result<bool> {
    match flock(file, operation) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io {
        action,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::super::ledger::tests::header;
    use super::*;

    const AT: Timestamp = Timestamp::UNIX_EPOCH;

    fn with_one_instance(dir: &Path) -> Journal {
        let mut journal = Journal::create(dir, header()).unwrap();
        let id = journal
            .intent("instance", "token", Facts::new(), AT)
            .unwrap();
        journal.outcome(id, vec!["i-1".into()], AT).unwrap();
        journal
    }

    #[test]
    fn a_journal_read_back_equals_the_one_written() {
        let dir = tempfile::tempdir().unwrap();
        let journal = with_one_instance(dir.path());
        assert_eq!(&read(journal.path()).unwrap(), journal.ledger());
    }

    #[test]
    fn whoever_sees_a_journal_sees_it_held_and_with_its_run() {
        let dir = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            let maker = scope.spawn(|| {
                for number in 0..200 {
                    let run = RunHeader {
                        run: format!("run-{number:03}"),
                        ..header()
                    };
                    let mut journal = Journal::create(dir.path(), run).unwrap();
                    journal.end("baked", AT).unwrap();
                }
            });
            while !maker.is_finished() {
                for path in paths(dir.path()).unwrap() {
                    let file = inspect(path).unwrap();
                    assert_ne!(file.state, RunState::Dead);
                    assert!(file.ledger.header().is_some());
                }
            }
        });
        let again = Journal::create(
            dir.path(),
            RunHeader {
                run: "run-000".into(),
                ..header()
            },
        );
        assert!(matches!(
            again,
            Err(Error::Io {
                action: "create",
                ..
            })
        ));
        let names = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(names, 200, "nothing else is left");
    }

    #[test]
    fn every_torn_end_is_read_up_to_the_last_whole_record() {
        let dir = tempfile::tempdir().unwrap();
        let path = with_one_instance(dir.path()).path().to_owned();
        let whole = std::fs::read(&path).unwrap();
        let last = whole[..whole.len() - 1]
            .iter()
            .rposition(|byte| *byte == b'\n')
            .unwrap()
            + 1;
        for cut in last..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let states: Vec<_> = read(&path)
                .unwrap()
                .entries()
                .map(|entry| entry.state.clone())
                .collect();
            assert_eq!(states, [State::Intended], "cut at {cut}");
        }
    }

    #[test]
    fn a_damaged_record_in_the_middle_is_not_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = with_one_instance(dir.path()).path().to_owned();
        let text = std::fs::read_to_string(&path)
            .unwrap()
            .replacen("instance", "imstance", 1);
        std::fs::write(&path, text).unwrap();
        assert!(matches!(read(&path), Err(Error::Damaged { line: 2, .. })));
    }

    #[test]
    fn a_run_is_alive_while_held_then_dead_then_finished() {
        let dir = tempfile::tempdir().unwrap();
        let state = || runs(dir.path()).unwrap()[0].state;
        let journal = with_one_instance(dir.path());
        let path = journal.path().to_owned();
        assert_eq!(state(), RunState::Alive);
        assert!(matches!(Journal::adopt(&path), Err(Error::Alive { .. })));
        drop(journal);
        assert_eq!(state(), RunState::Dead);

        let torn = std::fs::read(&path).unwrap().len() as u64 - 3;
        OpenOptions::new()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(torn)
            .unwrap();
        let mut journal = Journal::adopt(&path).unwrap();
        journal.undo(IntentId(1), AT).unwrap();
        journal.undone(IntentId(1), AT).unwrap();
        journal.end("undone", AT).unwrap();
        assert_eq!(state(), RunState::Finished);
        assert_eq!(read(&path).unwrap().result(), Some("undone"));
    }

    /// As version 0.1.0 wrote it.
    #[test]
    fn a_journal_of_the_first_format_is_read_and_undone() {
        let dir = tempfile::tempdir().unwrap();
        let path = path_of(dir.path(), "20261126T175707-f6cc77b9");
        std::fs::write(&path, include_str!("testdata/first.jsonl")).unwrap();
        assert_eq!(records(&path).unwrap().len(), 28);
        let mut journal = Journal::adopt(&path).unwrap();
        let header = journal.ledger().header().unwrap();
        assert_eq!((header.format, header.recipe.as_str()), (1, "ci-worker"));
        let left = journal.ledger().to_undo();
        let left: Vec<_> = left
            .iter()
            .map(|entry| (entry.kind.as_str(), entry.id))
            .collect();
        assert_eq!(
            left,
            [("builder", IntentId(2)), ("security-group", IntentId(1))]
        );
        for (_, id) in left {
            journal.undo(id, AT).unwrap();
            journal.undone(id, AT).unwrap();
        }
        journal.end("undone", AT).unwrap();
        assert_eq!(read(&path).unwrap().result(), Some("undone"));
    }

    #[test]
    fn a_journal_of_a_format_to_come_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let newer = RunHeader {
            format: FORMAT + 1,
            ..header()
        };
        let path = path_of(dir.path(), &newer.run);
        std::fs::write(&path, encode(&Record::Run(newer))).unwrap();
        let before = std::fs::read(&path).unwrap();
        let error = Journal::adopt(&path).unwrap_err();
        assert!(matches!(error, Error::Newer { format: 3, .. }), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }

    #[test]
    fn what_was_cut_short_is_taken_back_before_the_next_record() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = with_one_instance(dir.path());
        let whole = std::fs::read(journal.path()).unwrap();
        // What a write that found no room leaves if even that cannot be cut off at once.
        journal.file.write_all(b"{\"crc\":\"0").unwrap();
        journal.torn = true;
        journal.checkpoint("boot", "", AT).unwrap();
        let path = journal.path().to_owned();
        assert!(std::fs::read(&path).unwrap().starts_with(&whole));
        assert_eq!(&read(&path).unwrap(), journal.ledger());
    }

    #[test]
    fn nobody_goes_on_with_a_run_that_is_being_undone() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = with_one_instance(dir.path());
        journal.resumed(AT).unwrap();
        journal
            .checkpoint(super::super::UNDOING, "it failed", AT)
            .unwrap();
        for refused in [
            journal.resumed(AT),
            journal.checkpoint("boot", "", AT),
            journal.intent("image", "token", Facts::new(), AT).map(drop),
        ] {
            assert!(matches!(
                refused,
                Err(Error::Illegal {
                    source: super::super::Illegal::Abandoned,
                    ..
                })
            ));
        }
        assert_eq!(journal.ledger().resumed(), 1);
    }

    #[test]
    fn a_directory_that_is_not_there_holds_no_runs() {
        let dir = tempfile::tempdir().unwrap();
        assert!(runs(&dir.path().join("none")).unwrap().is_empty());
    }

    #[test]
    fn an_illegal_record_is_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = with_one_instance(dir.path());
        assert!(matches!(
            journal.end("baked", AT),
            Err(Error::Illegal { .. })
        ));
        assert_eq!(read(journal.path()).unwrap().result(), None);
    }
}
