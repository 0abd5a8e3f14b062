//! A lease in Parameter Store: one process at a time carries out a roll, runs a fleet, or bakes a digest.
//!
//! `/piaas-bake/leases/<name>/<epoch>` is created without overwriting, which is atomic: one caller gets an epoch. Only
//! the newest epoch counts. Its holder renews it by overwriting its own parameter; the next epoch may be taken once
//! the newest has expired. The epoch grows with each holder, so it tells late commands from current ones.
//!
//! The clocks of two hosts may differ by minutes. So nobody takes a lease because it has just expired by his own clock:
//! he watches it for as long as it holds without renewal, and takes it if it has not changed.
//!
//! A holder that was killed leaves its lease behind. Whoever comes next on the same host need not wait for its end: it
//! can see that the process is gone.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::aws::error::Context as _;
use crate::aws::{Clients, Error, Kind, parameters};
use crate::process::started;

/// Only one process at a time does it.
pub trait Hold: Send {
    /// The lease's epoch: higher with each holder.
    fn epoch(&self) -> u64;

    /// Renews the lease when that is due.
    ///
    /// # Errors
    /// [`Held`] once somebody else has it.
    fn keep(&mut self) -> impl Future<Output = Result<(), Held>> + Send;
}

/// Why a lease was lost or cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum Held {
    #[error("{0}")]
    ByAnother(String),
    #[error(transparent)]
    Cloud(#[from] Error),
}

/// The longest that a holder may let pass between two calls of [`Hold::keep`].
pub(crate) const RENEWAL: Duration = Duration::from_secs(20);
/// How long a lease holds without renewal.
const TERM: SignedDuration = SignedDuration::from_secs(60);
/// How far the clocks of two holders may differ: AWS refuses requests that are signed more than five minutes off.
const SKEW: SignedDuration = SignedDuration::from_mins(10);
/// Between two looks whether a holder still lives.
const LOOK: Duration = Duration::from_secs(2);

/// Who takes a lease.
#[derive(Debug, Clone)]
pub struct Holder {
    /// For people.
    pub name: String,
    /// For others on the same host; `None` where processes cannot be told apart.
    pub process: Option<Incarnation>,
}

impl From<&str> for Holder {
    fn from(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            process: None,
        }
    }
}

/// A process, told from every other that ever was: by the boot, the PID namespace, the number and the time at which it
/// started (proc(5), namespaces(7)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incarnation {
    boot: String,
    namespace: String,
    pid: u32,
    /// Clock ticks since the boot.
    started: u64,
}

impl Incarnation {
    /// This process; `None` where there is no proc(5).
    #[must_use]
    pub fn own() -> Option<Self> {
        let pid = std::process::id();
        Some(Self {
            boot: std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?,
            namespace: std::fs::read_link("/proc/self/ns/pid")
                .ok()?
                .to_string_lossy()
                .into_owned(),
            pid,
            started: started(pid)?,
        })
    }

    /// Whether it is certain that it runs no more. Of another host, boot or namespace nothing can be said.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        Self::own().is_some_and(|own| {
            own.boot == self.boot
                && own.namespace == self.namespace
                && started(self.pid) != Some(self.started)
        })
    }
}

/// Who holds a lease, and until when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Term {
    pub holder: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Incarnation>,
    pub expires: Timestamp,
}

impl Term {
    /// What a parameter says; one that cannot be read holds no longer.
    pub(crate) fn read(text: &str) -> Self {
        serde_json::from_str(text).unwrap_or_else(|_| Self {
            holder: "nobody".to_owned(),
            process: None,
            expires: Timestamp::UNIX_EPOCH,
        })
    }

    fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a term has only text keys")
    }

    /// Whether it holds by the clock of its holder, as far as that may be from ours.
    pub(crate) fn may_hold(&self, now: Timestamp) -> bool {
        // Nothing is added to a time that somebody else wrote: there may be none after it.
        self.expires.duration_since(now) > -SKEW
    }

    /// Whether its holder is gone for certain.
    pub(crate) fn is_orphaned(&self) -> bool {
        self.process.as_ref().is_some_and(Incarnation::is_gone)
    }
}

/// A lease that this process holds.
#[derive(Debug)]
pub struct Lease {
    clients: Clients,
    path: String,
    epoch: u64,
    term: Term,
}

fn parameter(path: &str, epoch: u64) -> String {
    format!("{path}/{epoch:010}")
}

/// An epoch that is listed.
struct Epoch {
    number: u64,
    /// Of its parameter.
    name: String,
    term: Term,
}

/// The epochs of a lease that are listed, in order. A term that cannot be read has expired.
async fn epochs(clients: &Clients, path: &str) -> Result<Vec<Epoch>, Error> {
    let mut found = Vec::new();
    let mut token = None;
    loop {
        let page = clients
            .ssm
            .get_parameters_by_path()
            .path(path)
            .set_next_token(token)
            .send()
            .await
            .call("ssm", "GetParametersByPath")?;
        for parameter in page.parameters.unwrap_or_default() {
            let name = parameter.name.unwrap_or_default();
            let epoch = name.rsplit('/').next().and_then(|last| last.parse().ok());
            // Another one must be able to follow it.
            if let Some(number) = epoch.filter(|epoch| *epoch < u64::MAX) {
                let term = Term::read(&parameter.value.unwrap_or_default());
                found.push(Epoch { number, name, term });
            }
        }
        token = page.next_token.filter(|token| !token.is_empty());
        if token.is_none() {
            break;
        }
    }
    found.sort_by(|a: &Epoch, b| (a.number, &a.name).cmp(&(b.number, &b.name)));
    Ok(found)
}

/// The newest epoch and its term, and the older epochs that are still listed.
async fn newest(
    clients: &Clients,
    path: &str,
) -> Result<(Option<(u64, Term)>, Vec<String>), Error> {
    let mut found = epochs(clients, path).await?;
    let newest = found.pop().map(|epoch| (epoch.number, epoch.term));
    Ok((newest, found.into_iter().map(|epoch| epoch.name).collect()))
}

fn by_another(term: &Term) -> Held {
    Held::ByAnother(format!(
        "{} holds it until {:.0}",
        term.holder, term.expires
    ))
}

/// Who holds a lease now, if anybody does.
///
/// # Errors
/// [`Error`] of `GetParametersByPath`.
pub async fn holder(clients: &Clients, name: &str) -> Result<Option<Term>, Error> {
    let (newest, _) = newest(clients, &path(name)).await?;
    Ok(newest
        .map(|(_, term)| term)
        .filter(|term| clients.clock.now() < term.expires && !term.is_orphaned()))
}

/// Below what a lease lies.
pub(crate) fn path(name: &str) -> String {
    format!("/piaas-bake/leases/{name}")
}

/// Takes a lease. If somebody has it, this waits until that one renews it, and so lives, or until it runs out.
///
/// # Errors
/// [`Held`].
pub async fn take(clients: &Clients, name: &str, holder: impl Into<Holder>) -> Result<Lease, Held> {
    let holder = holder.into();
    let mut watch = Watch::new(name, None);
    loop {
        match watch.look(clients).await? {
            // One that was given back meanwhile is free.
            Look::Held(term, Change::Moved) => return Err(by_another(&term)),
            Look::Held(_, Change::First | Change::Still) => clients.clock.sleep(LOOK).await,
            Look::Free(spot) => {
                if let Some(lease) = spot.take(clients, holder.clone()).await? {
                    return Ok(lease);
                }
            }
        }
    }
}

/// Whether a lease can be taken.
pub(crate) enum Look {
    Held(Term, Change),
    Free(Spot),
}

/// What a lease is that was looked at before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// It was not.
    First,
    Still,
    /// Its holder lives, or it is another's.
    Moved,
}

/// A lease that nobody holds.
pub(crate) struct Spot {
    path: String,
    /// The one to be taken.
    epoch: u64,
    stale: Vec<String>,
}

/// Looks at a lease again and again, until it can be taken.
pub(crate) struct Watch {
    path: String,
    own: Option<String>,
    /// The epoch, its term, and since when that has been so.
    seen: Option<(u64, Term, Timestamp)>,
}

impl Watch {
    /// What a holder named `own` has is free: it is known to be gone.
    pub fn new(name: &str, own: Option<&str>) -> Self {
        Self {
            path: path(name),
            own: own.map(str::to_owned),
            seen: None,
        }
    }

    /// Looks whether anybody holds the lease.
    ///
    /// # Errors
    /// [`Error`] of `GetParametersByPath`.
    pub async fn look(&mut self, clients: &Clients) -> Result<Look, Error> {
        let (found, mut stale) = newest(clients, &self.path).await?;
        let Some((epoch, term)) = found else {
            return Ok(Look::Free(self.spot(1, stale)));
        };
        let now = clients.clock.now();
        let change = match &self.seen {
            None => Change::First,
            Some((number, before, _)) if (*number, before) == (epoch, &term) => Change::Still,
            Some(_) => Change::Moved,
        };
        if change != Change::Still {
            self.seen = Some((epoch, term.clone(), now));
        }
        let is_watched_out = self
            .seen
            .as_ref()
            .is_some_and(|(_, _, since)| now.duration_since(*since) >= TERM);
        let is_own = self.own.as_deref() == Some(&*term.holder);
        if is_watched_out || is_own || term.is_orphaned() || !term.may_hold(now) {
            stale.push(parameter(&self.path, epoch));
            return Ok(Look::Free(self.spot(epoch + 1, stale)));
        }
        Ok(Look::Held(term, change))
    }

    fn spot(&self, epoch: u64, stale: Vec<String>) -> Spot {
        let path = self.path.clone();
        Spot { path, epoch, stale }
    }
}

impl Spot {
    /// Takes it; `None` if it has changed meanwhile, and is to be looked at again.
    ///
    /// # Errors
    /// [`Held`].
    pub async fn take(self, clients: &Clients, holder: Holder) -> Result<Option<Lease>, Held> {
        let Self { path, epoch, stale } = self;
        let term = Term {
            holder: holder.name,
            process: holder.process,
            expires: clients.clock.now() + TERM,
        };
        match parameters::create(clients, parameter(&path, epoch), term.to_json()).await {
            Ok(()) => {}
            // Either somebody was faster, or the answer to our own call was lost: the value says which.
            Err(error) if error.kind == Kind::AlreadyExists => {
                let (now_newest, _) = newest(clients, &path).await?;
                match now_newest {
                    Some((number, other)) if number == epoch && other == term => {}
                    Some((_, other)) => return Err(by_another(&other)),
                    None => return Ok(None),
                }
            }
            Err(error) => return Err(error.into()),
        }
        parameters::delete(clients, &stale).await?;
        Ok(Some(Lease {
            clients: clients.clone(),
            path,
            epoch,
            term,
        }))
    }
}

/// The parameters of a lease that this holder has, or had.
///
/// # Errors
/// [`Error`] of `GetParametersByPath`.
pub(crate) async fn of_holder(
    clients: &Clients,
    path: &str,
    holder: &str,
) -> Result<Vec<String>, Error> {
    let all = epochs(clients, path).await?.into_iter();
    Ok(all
        .filter(|epoch| epoch.term.holder == holder)
        .map(|epoch| epoch.name)
        .collect())
}

impl Lease {
    /// The name of its parameter.
    #[must_use]
    pub(crate) fn parameter(&self) -> String {
        parameter(&self.path, self.epoch)
    }

    /// Gives the lease back, so that the next one need not wait. The epoch stays on record.
    ///
    /// # Errors
    /// [`Error`] of `PutParameter`; the lease then runs out by itself.
    pub async fn release(mut self) -> Result<(), Error> {
        // Before now by any clock.
        self.term.expires = Timestamp::UNIX_EPOCH;
        self.write().await
    }

    async fn write(&self) -> Result<(), Error> {
        let name = self.parameter();
        parameters::set(&self.clients, name, self.term.to_json()).await
    }
}

impl Hold for Lease {
    fn epoch(&self) -> u64 {
        self.epoch
    }

    async fn keep(&mut self) -> Result<(), Held> {
        let now = self.clients.clock.now();
        if now.duration_since(self.term.expires - TERM) < TERM / 3 {
            return Ok(());
        }
        let (newest, _) = newest(&self.clients, &self.path).await?;
        match newest {
            Some((epoch, term)) if epoch != self.epoch => return Err(by_another(&term)),
            _ => {}
        }
        self.term.expires = now + TERM;
        self.write().await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_term_holds_until_it_has_expired_whatever_time_it_names() {
        let now = Timestamp::from_second(1_767_268_800).unwrap();
        let term = |expires| Term {
            holder: "me".into(),
            process: None,
            expires,
        };
        for (expires, holds) in [
            (now + TERM, true),
            (now - SKEW, false),
            (now - SKEW + SignedDuration::from_millis(1), true),
            (Timestamp::MAX, true),
            (Timestamp::MIN, false),
        ] {
            assert_eq!(term(expires).may_hold(now), holds, "{expires}");
        }
    }

    #[test]
    fn a_process_is_gone_when_it_has_ended_and_not_before() {
        let own = Incarnation::own().unwrap();
        assert!(!own.is_gone());
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let pid = child.id();
        let one = Incarnation {
            pid,
            started: started(pid).unwrap(),
            ..own.clone()
        };
        assert!(!one.is_gone());
        child.kill().unwrap();
        // Dead, whether or not anybody has asked for its exit status.
        child.wait().unwrap();
        assert!(one.is_gone());
        // The number is somebody else's by now.
        let reused = Incarnation {
            started: own.started + 1,
            ..own.clone()
        };
        assert!(reused.is_gone());
        for elsewhere in [
            Incarnation {
                boot: "another".into(),
                ..one.clone()
            },
            Incarnation {
                namespace: "pid:[1]".into(),
                ..one.clone()
            },
        ] {
            assert!(!elsewhere.is_gone(), "nothing can be said of another host");
        }
    }
}
