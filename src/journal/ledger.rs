//! What the records of a run add up to. Pure.

use std::collections::BTreeMap;

use super::record::{Facts, IntentId, Record, RunHeader};

/// Where one intent stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Nobody knows what came of it.
    Intended,
    /// It exists.
    Done,
    /// The cloud refused it; there is nothing to undo.
    Failed,
    /// It exists and stays.
    Kept,
    /// Its removal was begun.
    Undoing,
    /// Its removal failed, with this message.
    UndoFailed(String),
    /// It is gone.
    Undone,
}

impl State {
    /// Whether an undo still has something to look for.
    #[must_use]
    pub fn needs_undo(&self) -> bool {
        matches!(
            self,
            Self::Intended | Self::Done | Self::Undoing | Self::UndoFailed(_)
        )
    }
}

/// One intent with everything that is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub id: IntentId,
    pub kind: String,
    /// Client token, or another mark by which the thing can be found when its ids were never written down.
    pub token: String,
    pub facts: Facts,
    /// Empty until an outcome is known.
    pub ids: Vec<String>,
    pub state: State,
}

/// The checkpoint of a run that has failed and is being undone; its value says why it failed.
pub const UNDOING: &str = "undoing";

/// A record that cannot follow those before it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Illegal {
    #[error("the first record must be the run's header, and no other may be")]
    Header,
    #[error("a record follows the end of the run")]
    AfterEnd,
    #[error("intent {} is announced twice", .0.0)]
    Repeated(IntentId),
    #[error("intent {} is announced where {} comes next", .id.0, .next.0)]
    Order { id: IntentId, next: IntentId },
    #[error("a record names intent {}, which was never announced", .0.0)]
    Unknown(IntentId),
    #[error("intent {} is {from:?} and cannot take a record `{record}`", .id.0)]
    Transition {
        id: IntentId,
        from: State,
        record: &'static str,
    },
    #[error("the run goes on although its removal was begun")]
    Abandoned,
    #[error("the run ends although intent {} is still {state:?}", .id.0)]
    Unfinished { id: IntentId, state: State },
}

/// The sum of a run's records.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ledger {
    header: Option<RunHeader>,
    entries: BTreeMap<IntentId, Entry>,
    checkpoints: BTreeMap<String, String>,
    resumed: u32,
    result: Option<String>,
}

impl Ledger {
    /// The run's header; `None` before the first record.
    #[must_use]
    pub fn header(&self) -> Option<&RunHeader> {
        self.header.as_ref()
    }

    /// How the run ended; `None` while it has not.
    #[must_use]
    pub fn result(&self) -> Option<&str> {
        self.result.as_deref()
    }

    /// All intents in the order in which they were announced.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        self.entries.values()
    }

    /// What the last checkpoint of this name holds; `None` if the run has not come so far.
    #[must_use]
    pub fn checkpoint(&self, name: &str) -> Option<&str> {
        self.checkpoints.get(name).map(String::as_str)
    }

    /// How many processes have gone on with the run after the one that began it.
    #[must_use]
    pub fn resumed(&self) -> u32 {
        self.resumed
    }

    /// The last intent of this kind and token that was not refused and is not gone.
    #[must_use]
    pub fn standing(&self, kind: &str, token: &str) -> Option<&Entry> {
        self.entries().rev().find(|entry| {
            entry.kind == kind
                && entry.token == token
                && matches!(entry.state, State::Intended | State::Done | State::Kept)
        })
    }

    /// One intent.
    #[must_use]
    pub fn entry(&self, id: IntentId) -> Option<&Entry> {
        self.entries.get(&id)
    }

    /// What an undo has to walk through, newest first.
    #[must_use]
    pub fn to_undo(&self) -> Vec<Entry> {
        self.entries()
            .rev()
            .filter(|entry| entry.state.needs_undo())
            .cloned()
            .collect()
    }

    /// The number that the next intent gets.
    #[must_use]
    pub fn next_id(&self) -> IntentId {
        IntentId(
            self.entries
                .keys()
                .next_back()
                .map_or(1, |last| last.0.saturating_add(1)),
        )
    }

    /// Takes one more record.
    ///
    /// # Errors
    /// [`Illegal`] if it cannot follow those before it; the ledger is unchanged then.
    pub fn apply(&mut self, record: &Record) -> Result<(), Illegal> {
        if self.result.is_some() {
            return Err(Illegal::AfterEnd);
        }
        if matches!(record, Record::Run(_)) != self.header.is_none() {
            return Err(Illegal::Header);
        }
        let goes_on = matches!(
            record,
            Record::Intent { .. } | Record::Checkpoint { .. } | Record::Resumed { .. }
        );
        if goes_on && self.checkpoints.contains_key(UNDOING) {
            return Err(Illegal::Abandoned);
        }
        match record {
            Record::Run(header) => self.header = Some(header.clone()),
            Record::Intent {
                id,
                kind,
                token,
                facts,
                ..
            } => {
                if self.entries.contains_key(id) {
                    return Err(Illegal::Repeated(*id));
                }
                let next = self.next_id();
                if *id != next {
                    return Err(Illegal::Order { id: *id, next });
                }
                let entry = Entry {
                    id: *id,
                    kind: kind.clone(),
                    token: token.clone(),
                    facts: facts.clone(),
                    ids: Vec::new(),
                    state: State::Intended,
                };
                self.entries.insert(*id, entry);
            }
            Record::Outcome { id, ids, .. } => {
                let entry = self.step(*id, "outcome", |state| *state == State::Intended)?;
                entry.ids.clone_from(ids);
                entry.state = State::Done;
            }
            Record::Failed { id, .. } => {
                self.step(*id, "failed", |state| *state == State::Intended)?
                    .state = State::Failed;
            }
            Record::Kept { ids, .. } => {
                for id in ids {
                    self.step(*id, "kept", |state| *state == State::Done)?;
                }
                for id in ids {
                    self.step(*id, "kept", |_| true)?.state = State::Kept;
                }
            }
            Record::Checkpoint { name, value, .. } => {
                self.checkpoints.insert(name.clone(), value.clone());
            }
            Record::Resumed { .. } => {
                self.resumed += 1;
            }
            Record::Undo { id, .. } => {
                self.step(*id, "undo", State::needs_undo)?.state = State::Undoing
            }
            Record::Undone { id, .. } => {
                self.step(*id, "undone", |state| *state == State::Undoing)?
                    .state = State::Undone;
            }
            Record::UndoFailed { id, error, .. } => {
                self.step(*id, "undo-failed", |state| *state == State::Undoing)?
                    .state = State::UndoFailed(error.clone());
            }
            Record::End { result, .. } => {
                if let Some(open) = self.entries.values().find(|entry| entry.state.needs_undo()) {
                    return Err(Illegal::Unfinished {
                        id: open.id,
                        state: open.state.clone(),
                    });
                }
                self.result = Some(result.clone());
            }
        }
        Ok(())
    }

    fn step(
        &mut self,
        id: IntentId,
        record: &'static str,
        legal: impl Fn(&State) -> bool,
    ) -> Result<&mut Entry, Illegal> {
        let entry = self.entries.get_mut(&id).ok_or(Illegal::Unknown(id))?;
        if legal(&entry.state) {
            Ok(entry)
        } else {
            Err(Illegal::Transition {
                id,
                from: entry.state.clone(),
                record,
            })
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use jiff::Timestamp;

    const AT: Timestamp = Timestamp::UNIX_EPOCH;

    pub fn header() -> RunHeader {
        RunHeader {
            format: super::super::FORMAT,
            purpose: super::super::BAKE.into(),
            run: "r1".into(),
            recipe: "web".into(),
            version: "1.0.0".into(),
            digest: "ab".repeat(32),
            cloud: "local".into(),
            account: "000000000000".into(),
            region: "eu-west-1".into(),
            started: AT,
        }
    }

    pub fn intent(id: u32) -> Record {
        Record::Intent {
            id: IntentId(id),
            kind: "instance".into(),
            token: "t".into(),
            facts: Facts::new(),
            at: AT,
        }
    }

    fn outcome(id: u32) -> Record {
        Record::Outcome {
            id: IntentId(id),
            ids: vec![format!("i-{id}")],
            at: AT,
        }
    }

    fn ledger(records: &[Record]) -> Result<Ledger, Illegal> {
        let mut ledger = Ledger::default();
        ledger.apply(&Record::Run(header()))?;
        for record in records {
            ledger.apply(record)?;
        }
        Ok(ledger)
    }

    #[test]
    fn undo_walks_backwards_over_what_may_exist() {
        let ledger = ledger(&[
            intent(1),
            outcome(1),
            intent(2),
            Record::Failed {
                id: IntentId(2),
                error: "no".into(),
                at: AT,
            },
            intent(3),
            outcome(3),
            intent(4),
        ])
        .unwrap();
        let order: Vec<u32> = ledger.to_undo().iter().map(|entry| entry.id.0).collect();
        assert_eq!(order, [4, 3, 1]);
        assert_eq!(ledger.next_id(), IntentId(5));
    }

    #[test]
    fn what_is_kept_is_never_undone() {
        let kept = Record::Kept {
            ids: vec![IntentId(1)],
            at: AT,
        };
        let mut ledger = ledger(&[intent(1), outcome(1), kept]).unwrap();
        assert_eq!(ledger.to_undo(), []);
        assert!(matches!(
            ledger.apply(&Record::Undo {
                id: IntentId(1),
                at: AT
            }),
            Err(Illegal::Transition {
                from: State::Kept,
                ..
            })
        ));
        ledger
            .apply(&Record::End {
                result: "baked".into(),
                at: AT,
            })
            .unwrap();
        assert_eq!(ledger.apply(&intent(2)), Err(Illegal::AfterEnd));
    }

    #[test]
    fn a_failed_undo_is_tried_again() {
        let undo = Record::Undo {
            id: IntentId(1),
            at: AT,
        };
        let failed = Record::UndoFailed {
            id: IntentId(1),
            error: "busy".into(),
            at: AT,
        };
        let undone = Record::Undone {
            id: IntentId(1),
            at: AT,
        };
        let mut ledger = ledger(&[intent(1), outcome(1), undo.clone(), failed]).unwrap();
        assert_eq!(ledger.to_undo().len(), 1);
        ledger.apply(&undo).unwrap();
        ledger.apply(&undone).unwrap();
        assert_eq!(ledger.to_undo(), []);
    }

    #[test]
    fn illegal_sequences_are_refused() {
        let end = Record::End {
            result: "baked".into(),
            at: AT,
        };
        assert_eq!(Ledger::default().apply(&intent(1)), Err(Illegal::Header));
        assert_eq!(ledger(&[Record::Run(header())]), Err(Illegal::Header));
        assert_eq!(ledger(&[outcome(1)]), Err(Illegal::Unknown(IntentId(1))));
        assert_eq!(
            ledger(&[intent(1), intent(1)]),
            Err(Illegal::Repeated(IntentId(1)))
        );
        // Nothing would come after the last number that there is.
        let (id, next) = (IntentId(u32::MAX), IntentId(2));
        assert_eq!(
            ledger(&[intent(1), intent(u32::MAX)]),
            Err(Illegal::Order { id, next })
        );
        assert!(matches!(
            ledger(&[intent(1), outcome(1), outcome(1)]),
            Err(Illegal::Transition { .. })
        ));
        assert!(matches!(
            ledger(&[intent(1), end.clone()]),
            Err(Illegal::Unfinished { .. })
        ));
        assert!(matches!(
            ledger(&[intent(1), outcome(1), end]),
            Err(Illegal::Unfinished { .. })
        ));
        let undone = Record::Undone {
            id: IntentId(1),
            at: AT,
        };
        assert!(matches!(
            ledger(&[intent(1), outcome(1), undone]),
            Err(Illegal::Transition { .. })
        ));
    }
}
