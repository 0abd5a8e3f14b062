//! A finished image stays, whatever becomes of the run that made it: others may use it from the moment that it is ready.

use super::base::parameter;
use super::checkpoint::PUBLISH;
use super::error::{Failure, LeftOver};
use super::event::Resource;
use super::images;
use super::phases::publish;
use super::run::facts;
use super::undo::{REMOVAL, Undo, left_over};
use crate::aws::wait::{Pace, Patience};
use crate::aws::{self, Clients, tags};
use crate::journal::{Entry, Journal, Ledger, State, UNDOING};

const READY: Patience = Patience {
    what: "a word on whether the image is ready",
    ..REMOVAL
};

/// What belongs to an image, and stays with it.
fn belongs(entry: &Entry) -> bool {
    matches!(
        Resource::parse(&entry.kind),
        Some(Resource::Image | Resource::Manifest | Resource::Latest)
    )
}

fn image(ledger: &Ledger) -> Option<&Entry> {
    let mut entries = ledger.entries();
    entries.find(|entry| entry.kind == Resource::Image.as_str())
}

/// The image that a run has finished, and that stays.
pub fn finished(ledger: &Ledger) -> Option<&str> {
    let kept = image(ledger).filter(|entry| entry.state == State::Kept)?;
    kept.ids.first().map(String::as_str)
}

/// How a run ends whose temporaries are gone.
pub fn result(ledger: &Ledger) -> &'static str {
    if finished(ledger).is_some() {
        "baked"
    } else {
        "undone"
    }
}

/// Whether a run died while it published its image, which is tested: nobody can tell whether the image was ready already, and
/// so it is made ready rather than removed.
fn is_to_be_finished(ledger: &Ledger) -> bool {
    ledger.checkpoint(PUBLISH).is_some()
        && ledger.checkpoint(UNDOING).is_none()
        && image(ledger).is_some_and(|entry| entry.state == State::Done)
}

/// What a clean-up has to remove of a run, newest first.
pub fn to_remove(ledger: &Ledger) -> Vec<Entry> {
    let mut entries = ledger.to_undo();
    if finished(ledger).is_some() || is_to_be_finished(ledger) {
        entries.retain(|entry| !belongs(entry));
    }
    entries
}

impl Undo<'_> {
    /// Removes what a run has made, but for the kinds that are spared. `is_finished` is what [`Undo::settle`] says of its image:
    /// what belongs to that stays if it is finished, and also where nobody can tell.
    pub async fn all(
        &self,
        journal: &mut Journal,
        spared: &[Resource],
        is_finished: Result<bool, Failure>,
    ) -> Vec<LeftOver> {
        let mut entries = journal.ledger().to_undo();
        entries.retain(|entry| !spared.iter().any(|kind| entry.kind == kind.as_str()));
        let mut left = Vec::new();
        match is_finished {
            Ok(false) => {}
            Ok(true) => entries.retain(|entry| !belongs(entry)),
            Err(error) => {
                let words = error.to_string();
                let commands = &self.clients.commands;
                let of_image = entries.extract_if(.., |entry| belongs(entry));
                left.extend(of_image.map(|one| left_over(&one, words.clone(), commands)));
            }
        }
        left.extend(self.walk(journal, &entries).await);
        left
    }

    /// Finds out whether the run has finished an image, and writes down what stays then. A process that died while it made its
    /// image ready has left that to be done.
    ///
    /// A journal that takes no more does not change that: a later clean-up writes it down.
    pub async fn settle(&self, journal: &mut Journal) -> Result<bool, Failure> {
        let ledger = journal.ledger();
        if ledger.checkpoint(PUBLISH).is_none() {
            return Ok(false);
        }
        let Some(made) = image(ledger).cloned() else {
            return Ok(false);
        };
        let is_to_be_finished = is_to_be_finished(ledger);
        let is_finished = match made.state {
            State::Kept => true,
            State::Done => self.is_ready(&made, is_to_be_finished).await?,
            _ => false,
        };
        if is_finished {
            let _later = self.spare(journal).await;
        }
        Ok(is_finished)
    }

    /// Whether an image is ready, after it has been made so if it is `to_be_finished`; looks again where that may help.
    async fn is_ready(&self, made: &Entry, to_be_finished: bool) -> Result<bool, Failure> {
        let Some(id) = made.ids.first() else {
            return Ok(false);
        };
        let mut pace = Pace::new(READY, self.seed);
        loop {
            let answer = if to_be_finished {
                self.finish(id).await
            } else {
                self.look(id).await
            };
            match answer {
                Err(error) if error.is_transient() => {
                    let pause = pace.after(self.clients.clock.now(), &error.mark())?;
                    self.clients.clock.sleep(pause).await;
                }
                other => return Ok(other?),
            }
        }
    }

    async fn look(&self, id: &str) -> Result<bool, aws::Error> {
        let found = images::get(self.clients, id).await?;
        Ok(found.is_some_and(|image| image.tag(tags::STATUS) == Some(tags::STATUS_READY)))
    }

    /// Makes a tested image ready. `false` if it is gone.
    async fn finish(&self, id: &str) -> Result<bool, aws::Error> {
        let Some(found) = images::get(self.clients, id).await? else {
            return Ok(false);
        };
        match publish::make_ready(self.clients, &found).await {
            Err(error) if error.kind == aws::Kind::NotFound => Ok(false),
            other => other.map(|()| true),
        }
    }

    /// Writes down that everything that belongs to the run's image stays.
    async fn spare(&self, journal: &mut Journal) -> Result<(), Failure> {
        let now = || self.clients.clock.now();
        for entry in journal.ledger().to_undo() {
            if !belongs(&entry) {
                continue;
            }
            if entry.state == State::Intended {
                if is_there(self.clients, &entry).await? {
                    journal.outcome(entry.id, vec![entry.token.clone()], now())?;
                } else {
                    journal.failed(entry.id, "it was not made", now())?;
                    continue;
                }
            }
            let state = journal.ledger().entry(entry.id).map(|entry| &entry.state);
            if state == Some(&State::Done) {
                journal.keep(vec![entry.id], now())?;
            }
        }
        Ok(())
    }
}

/// Whether a parameter was set to what it was to be.
async fn is_there(clients: &Clients, entry: &Entry) -> Result<bool, Failure> {
    let found = parameter(clients, &entry.token).await?;
    Ok(match entry.facts.get(facts::VALUE) {
        Some(value) => found.as_ref() == Some(value),
        None => found.is_some(),
    })
}
