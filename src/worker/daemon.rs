//! The daemon: carries out what the agent decides. One thread; a command is answered at any time, also while the adapter
//! is busy.

use std::cell::{RefCell, RefMut};
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::net::UnixStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify as Wake;

use super::adapter::Adapter;
use super::agent::{Agent, Decision, Moment, Order, Refused, Surroundings};
use super::config::{self, Config};
use super::imds::{Identity, Imds};
use super::notify::Notify;
use super::protection::{self, Calls, Next};
use super::socket::{self, Answer, Problem, Request};
use super::status::{State, Status};
use super::store::{Store, Unreadable};

/// Between two looks: while it drains, as a rule, and once nothing can change any more.
const DRAINING: Duration = Duration::from_secs(1);
const AS_A_RULE: Duration = Duration::from_secs(2);
/// Between two looks for the notice that a Spot Instance is taken back (EC2 User Guide, "Spot Instance interruption notices").
const NOTICE: Duration = Duration::from_secs(5);
const DRAINED: Duration = Duration::from_secs(10);
/// How long another one's lock is waited for, and between two tries.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// The longest that a client may keep a connection open.
const CLIENT: Duration = Duration::from_secs(5);

/// Where the daemon finds its things.
#[derive(Debug, Clone)]
pub struct Options {
    pub config: PathBuf,
    pub state_dir: PathBuf,
    pub socket: PathBuf,
}

/// The daemon cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Config(#[from] config::Error),
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    #[error("cannot use {}: {source}", path.display())]
    Path { path: PathBuf, source: io::Error },
    #[error("another piaas-worker runs on this machine, with {}", .0.display())]
    Second(PathBuf),
}

/// For the journal.
pub type Log = fn(&str);

/// Runs until it is told to end (SIGTERM, SIGINT).
///
/// # Errors
/// It cannot start.
pub async fn run(options: Options, log: Log) -> Result<(), Error> {
    let config = Config::read(&options.config)?;
    let at = |path: &PathBuf| {
        let path = path.clone();
        move |source| Error::Path { path, source }
    };
    let store = Store::open(&options.state_dir).map_err(at(&options.state_dir))?;
    let _only = only_one(&options).await?;
    let kept = store.read()?;

    let imds = Imds::from_env();
    // Whose state this is, before any of it is used. On EC2 the answer is there at once.
    let identity = imds.identity().await.ok();
    let instance = identity.as_ref().map(|identity| identity.instance.clone());
    let base = Instant::now();
    let core = Rc::new(Core {
        agent: RefCell::new(Agent::start(kept, instance, moment(base))),
        store: store.clone(),
        base,
        notes: RefCell::default(),
        look: Wake::new(),
        protect: Wake::new(),
        notify: Notify::from_env(),
        log,
    });
    let listener = socket::listen(&options.socket).map_err(at(&options.socket))?;
    core.notify.say("READY=1");
    log("ready");

    let mut adapter = Adapter::new(config, store);
    let mut terminate = signal(SignalKind::terminate()).map_err(at(&options.socket))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(at(&options.socket))?;
    let clients = async {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    tokio::task::spawn_local(client(Rc::clone(&core), stream));
                }
                // Out of descriptors, most likely; clients will ask again.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    };
    let work = async {
        tokio::join!(
            watch(&core, &mut adapter),
            protect(&core, &imds, identity),
            heed(&core, &imds),
            clients
        )
    };
    tokio::task::LocalSet::new()
        .run_until(async {
            tokio::select! {
                _ = work => {}
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        })
        .await;
    core.notify.say("STOPPING=1");
    Ok(())
}

/// Held for as long as the daemon lives. One that was killed may have left a child between its fork and its exec, which
/// has the lock for a moment longer: that is waited for.
async fn only_one(options: &Options) -> Result<File, Error> {
    let path = options.state_dir.join("lock");
    let failed = |source| Error::Path {
        path: path.clone(),
        source,
    };
    let file = File::create(&path).map_err(failed)?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(std::fs::TryLockError::WouldBlock) if Instant::now() < deadline => {
                tokio::time::sleep(LOCK_PAUSE).await;
            }
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(Error::Second(options.state_dir.clone()));
            }
            Err(std::fs::TryLockError::Error(error)) => return Err(failed(error)),
        }
    }
}

fn moment(base: Instant) -> Moment {
    Moment {
        wall: Timestamp::now(),
        up: base.elapsed(),
    }
}

/// What the tasks share.
struct Core {
    agent: RefCell<Agent>,
    store: Store,
    base: Instant,
    notes: RefCell<Notes>,
    /// A look is wanted at once.
    look: Wake,
    /// Protection is to be looked at now.
    protect: Wake,
    notify: Notify,
    log: Log,
}

/// What is known beside the agent's own state.
#[derive(Default)]
struct Notes {
    protected: Option<bool>,
    /// What does not work right now, by what it is.
    store: Option<String>,
    order: Option<String>,
    protection: Option<String>,
}

impl Notes {
    fn all(&self) -> Option<String> {
        let all: Vec<&str> = [&self.store, &self.order, &self.protection]
            .into_iter()
            .filter_map(Option::as_deref)
            .collect();
        (!all.is_empty()).then(|| all.join("; "))
    }
}

impl Core {
    /// Never held across an await.
    fn agent(&self) -> RefMut<'_, Agent> {
        self.agent.borrow_mut()
    }

    fn now(&self) -> Moment {
        moment(self.base)
    }

    fn status(&self) -> Status {
        let notes = self.notes.borrow();
        let surroundings = Surroundings {
            protected: notes.protected,
            note: notes.all(),
        };
        self.agent().status(&surroundings, self.now())
    }

    /// Sets a note, and tells the journal when it is news.
    fn note(&self, which: fn(&mut Notes) -> &mut Option<String>, note: Option<String>) {
        let mut notes = self.notes.borrow_mut();
        let old = which(&mut notes);
        if *old != note {
            if let Some(note) = &note {
                (self.log)(note);
            }
            *old = note;
        }
    }

    /// On disk first, then in force.
    fn keep(&self, decision: Decision) -> Result<(), String> {
        let kept = self
            .store
            .write(decision.to_keep())
            .map_err(|error| format!("cannot keep the state: {error}"));
        self.note(|notes| &mut notes.store, kept.clone().err());
        kept?;
        let before = self.agent().is_drained();
        if !self.agent().keep(decision) {
            // One thread, and no await since it was made.
            return Err("another decision came in between; try again".to_owned());
        }
        if !before && self.agent().is_drained() {
            (self.log)("drained: no job runs, and none will start");
            self.protect.notify_one();
        }
        Ok(())
    }

    fn command(&self, request: Request) -> Answer {
        let decided = match request {
            Request::Status => None,
            Request::Cordon { generation, reason } => {
                Some(self.agent().cordon(generation, reason, self.now()))
            }
            Request::Uncordon { generation } => Some(self.agent().uncordon(generation)),
        };
        let problem = match decided {
            None => None,
            Some(Err(refused @ (Refused::Stale { .. } | Refused::Drained))) => {
                Some(Problem::Refused(refused.to_string()))
            }
            Some(Ok(decision)) => {
                let news = decision.is_news();
                let kept = self.keep(decision);
                if news && kept.is_ok() {
                    let kept = self.agent().kept().clone();
                    let what = if kept.cordon.is_some() {
                        "cordoned"
                    } else {
                        "not cordoned"
                    };
                    let generation = kept.generation.unwrap_or_default();
                    (self.log)(&format!("{what}, generation {generation}"));
                }
                self.look.notify_one();
                kept.err().map(Problem::Failed)
            }
        };
        Answer {
            status: self.status(),
            problem,
        }
    }
}

async fn client(core: Rc<Core>, mut stream: UnixStream) {
    let talk = async {
        let request = socket::read(&mut stream).await?;
        let answer = core.command(request);
        socket::answer(stream, &answer).await
    };
    // A client that goes away, or is none of ours, is its own concern.
    let _ = tokio::time::timeout(CLIENT, talk).await;
}

/// Orders and looks, one after the other.
async fn watch(core: &Core, adapter: &mut Adapter) {
    let mut said = None;
    loop {
        let order = core.agent().order();
        let mut failed = None;
        if let Some(order) = order {
            match adapter.carry_out(order).await {
                Ok(()) => core.agent().carried_out(order),
                Err(why) => {
                    let what = match order {
                        Order::Close => "cannot stop the CI agent yet",
                        Order::Open => "cannot start the CI agent yet",
                    };
                    failed = Some(format!("{what}: {why}"));
                }
            }
        }
        core.note(|notes| &mut notes.order, failed);

        let look = core.agent().begin_look();
        let seen = adapter.look().await;
        let decision = core.agent().end_look(look, seen, core.now());
        if let Some(decision) = decision {
            // What cannot be kept is decided again by the next look.
            let _ = core.keep(decision);
        }
        let line = summary(&core.status());
        if said.as_ref() != Some(&line) {
            (core.log)(&line);
        }
        core.notify.say(&format!("WATCHDOG=1\nSTATUS={line}"));
        said = Some(line);

        let kept = core.agent().kept().clone();
        let pause = match (&kept.cordon, &kept.drained) {
            (_, Some(_)) => DRAINED,
            (Some(_), None) => DRAINING,
            (None, None) => AS_A_RULE,
        };
        let _ = tokio::time::timeout(pause, core.look.notified()).await;
    }
}

fn summary(status: &Status) -> String {
    let mut words = match status.state {
        State::Busy if status.jobs.is_empty() => "busy".to_owned(),
        State::Busy => format!("busy: {}", status.jobs.join(", ")),
        State::Idle => "idle".to_owned(),
        State::Unknown => "unknown".to_owned(),
    };
    if status.state == State::Unknown
        && let Some(why) = &status.why
    {
        words.push_str(&format!(" ({why})"));
    }
    if status.drained.is_some() {
        words.push_str(", drained");
    } else if status.cordon.is_some() {
        words.push_str(", cordoned");
    }
    words.replace('\n', " ")
}

/// Keeps the instance protected until it is drained, and not after that.
async fn protect(core: &Core, imds: &Imds, mut identity: Option<Identity>) {
    if !imds.is_enabled() {
        return;
    }
    let mut failures = 0;
    loop {
        let pause = match protect_once(core, imds, &mut identity).await {
            Ok(pause) => {
                failures = 0;
                core.note(|notes| &mut notes.protection, None);
                pause
            }
            Err(why) => {
                failures += 1;
                // Without a metadata service this is no instance, and nothing protects it.
                let note = identity.is_some().then(|| format!("protection: {why}"));
                core.note(|notes| &mut notes.protection, note);
                protection::pause(failures)
            }
        };
        let _ = tokio::time::timeout(pause, core.protect.notified()).await;
    }
}

/// Cordons the worker once its Spot Instance is told that it is taken back: no job should begin that cannot end.
async fn heed(core: &Core, imds: &Imds) {
    if !imds.is_enabled() {
        return;
    }
    loop {
        match imds.is_spot().await {
            Ok(true) => break,
            // What it is it stays.
            Ok(false) => return,
            Err(_) => tokio::time::sleep(NOTICE).await,
        }
    }
    loop {
        if let Ok(Some(notice)) = imds.interruption().await {
            let kept = core.agent().kept().clone();
            if kept.cordon.is_none() {
                (core.log)(&format!("the Spot Instance is taken back: {notice}"));
                // The next one after all that it has been told.
                core.command(Request::Cordon {
                    generation: kept.generation.map_or(1, |seen| seen.saturating_add(1)),
                    reason: Some("the Spot Instance is taken back".to_owned()),
                });
            }
        }
        tokio::time::sleep(NOTICE).await;
    }
}

async fn protect_once(
    core: &Core,
    imds: &Imds,
    identity: &mut Option<Identity>,
) -> Result<Duration, protection::Error> {
    let known = match identity {
        Some(known) => known.clone(),
        None => {
            let found = imds.identity().await?;
            core.agent().name(found.instance.clone());
            identity.insert(found).clone()
        }
    };
    let calls = Calls::new(imds.clone(), known);
    let membership = calls.membership().await?;
    core.notes.borrow_mut().protected = membership.as_ref().map(|member| member.protected);
    // Asked for after the answer: what was decided meanwhile counts.
    let wanted = core.agent().wants_protection();
    match (protection::next(membership.as_ref(), wanted), membership) {
        (Next::Set(protected), Some(member)) => {
            calls.set(&member.group, protected).await?;
            core.notes.borrow_mut().protected = Some(protected);
            (core.log)(&format!(
                "{} from scale-in in the group {}",
                if protected {
                    "protected"
                } else {
                    "not protected"
                },
                member.group
            ));
            Ok(Duration::from_secs(5))
        }
        (Next::Wait(pause), _) => Ok(pause),
        (Next::Set(_), None) => Ok(Duration::from_secs(60)),
    }
}
