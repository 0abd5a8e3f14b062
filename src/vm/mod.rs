//! The boot proof: an image's disk boots in QEMU, with its own firmware path, boot loader and kernel, runs the recipe's
//! tests, and is looked at from outside.
//!
//! A proof passes only if QEMU ends with the exit status that the machine chooses after its last check
//! ([`qemu::PASSED`]): a machine that dies, switches itself off or says nothing has not passed. The disk is only read; a
//! file over it, which is larger, takes what the machine writes.

pub mod check;
pub mod event;
pub(crate) mod files;
pub mod qemu;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiff::Timestamp;
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::bake::follow::{Cutter, Piece};
use crate::bake::{Bundle, event::List};
use crate::cancel::Cancel;
use crate::events::{Sink, Stamped};
use crate::image::tree::TreeManifest;
use crate::render::script::Script;
use check::{Check, Facts};
use event::{Event, Phase};
use qemu::Accelerator;

/// The file in the directory of a proof that has the serial console.
pub const CONSOLE: &str = "console.log";
/// How often a machine that has not begun is asked, and a console looked at.
const TICK: Duration = Duration::from_secs(2);

/// What is to be proved.
#[derive(Debug)]
pub struct Order<'a> {
    pub image_name: &'a str,
    /// Absolute path of the raw disk; it is opened again for each machine.
    pub disk: &'a Path,
    /// What the disk holds.
    pub tree: &'a TreeManifest,
    pub tests: &'a [Script],
    /// Bytes that the tests need, by sha256.
    pub payloads: &'a BTreeMap<String, Bytes>,
    /// What the tests find in `SOURCE_DATE_EPOCH`.
    pub source_date: i64,
    /// An empty directory; the machine's files are removed from it at the end, its console stays.
    pub dir: &'a Path,
    /// `None`: the best that works here.
    pub accelerator: Option<Accelerator>,
    /// A command for each connection to the instance metadata service, as a shell reads it.
    pub metadata: Option<&'a str>,
    /// How long a machine may take, beside the time-outs of the tests.
    pub limit: Duration,
    pub cancel: Cancel,
}

/// How a test ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tested {
    pub title: String,
    pub exit_code: i32,
    pub seconds: u64,
}

/// A proof that was carried out to its end.
#[derive(Debug, Clone, Serialize)]
pub struct Proof {
    pub accelerator: Accelerator,
    /// What `systemctl is-system-running` said.
    pub state: String,
    /// Units that had failed.
    pub failed_units: Vec<String>,
    /// Exit status of QEMU.
    pub status: i32,
    pub checks: Vec<Check>,
    pub tests: Vec<Tested>,
    /// The last lines that a test wrote, if one has failed.
    pub last_lines: Vec<String>,
    pub milliseconds: u64,
}

impl Proof {
    /// Whether everything held, and the machine said so by its exit status.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.status == qemu::PASSED && self.checks.iter().all(|check| check.passed)
    }
}

/// There is no proof, neither for the image nor against it, but for what the machine did last.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("cannot use {path}: {source}")]
    Io { path: String, source: io::Error },
    #[error("cannot start QEMU: {0}")]
    NotStarted(io::Error),
    #[error("interrupted; the virtual machine is gone")]
    Cancelled,
    #[error("the virtual machine was not done after {} s, {at}", limit.as_secs())]
    TimedOut { limit: Duration, at: String },
    #[error("the kernel panicked, {at}")]
    Panicked { at: String },
    #[error("the virtual machine switched itself off, or rebooted, {at}")]
    Off { at: String },
    #[error("QEMU died ({status}), {at}{said}")]
    Died {
        status: ExitStatus,
        at: String,
        /// Its own last words, behind `; `.
        said: String,
    },
    #[error("the virtual machine ended as if all were done, and its report is not complete")]
    Incomplete,
}

/// Boots the image, checks it, and boots it again to compare who the two machines are.
///
/// # Errors
/// [`Failure`]: the machine did not come to the end of its checks.
pub async fn prove(order: Order<'_>, sink: &dyn Sink<Event>) -> Result<Proof, Failure> {
    let started = Instant::now();
    let accelerator = match order.accelerator {
        Some(accelerator) => accelerator,
        None => qemu::choose(order.dir).await.map_err(Failure::NotStarted)?,
    };
    let emit = |event| emit(sink, event);
    emit(Event::Started {
        image_name: order.image_name.to_owned(),
        accelerator,
        console: order.dir.join(CONSOLE).display().to_string(),
    });
    let mut boot = Boot::new(&order, accelerator, sink);
    let bundle = Bundle::new(
        &[(List::Test, order.tests)],
        order.payloads,
        &[],
        order.source_date,
    );
    let status = boot.run(Some(&bundle)).await;
    let listing = match &status {
        Ok(_) => File::open(order.dir.join("carrier"))
            .and_then(files::read)
            .map_err(|_| Failure::Incomplete),
        Err(_) => Ok(check::Listing::default()),
    };
    remove(order.dir);
    let (status, listing) = (status?, listing?);
    let first = std::mem::take(&mut boot.facts);
    let mut checks = vec![check::grown(&first), check::files(order.tree, &listing)];
    if status == qemu::PASSED {
        let second = boot.again().await;
        remove(order.dir);
        let second = second?;
        checks.push(check::machine_id(order.tree, &first, &second));
        checks.push(check::host_keys(order.tree, &first, &second));
    }
    for check in &checks {
        emit(Event::Checked {
            check: check.clone(),
        });
    }
    Ok(Proof {
        accelerator,
        state: first.state,
        failed_units: first.failed.split_whitespace().map(str::to_owned).collect(),
        status,
        checks,
        tests: boot.tested,
        last_lines: boot.lines,
        milliseconds: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
    })
}

/// The last lines of the console of a proof in `dir`.
#[must_use]
pub fn last_lines(dir: &Path, most: usize) -> Vec<String> {
    files::last_lines(&dir.join(CONSOLE), most)
}

fn emit(sink: &dyn Sink<Event>, event: Event) {
    let at = Timestamp::now();
    sink.emit(Stamped { at, event });
}

/// Removes what a machine was started from. What cannot be removed now goes with the directory.
fn remove(dir: &Path) {
    forget(dir);
    let _not_there = std::fs::remove_file(dir.join("carrier"));
}

/// Removes what a machine that runs holds open: should this process be killed, its disk goes with it.
fn forget(dir: &Path) {
    for file in ["overlay.qcow2", "credential", "variables.fd", "trial.rom"] {
        let _not_there = std::fs::remove_file(dir.join(file));
    }
}

/// One machine from its start to its end.
struct Boot<'a> {
    order: &'a Order<'a>,
    accelerator: Accelerator,
    sink: &'a dyn Sink<Event>,
    facts: Facts,
    tested: Vec<Tested>,
    /// Of the test that runs.
    lines: Vec<String>,
    phase: (Phase, Instant),
    /// The number of the test that runs.
    running: Option<u32>,
    /// What QEMU itself said last.
    said: Option<String>,
}

impl<'a> Boot<'a> {
    fn new(order: &'a Order<'a>, accelerator: Accelerator, sink: &'a dyn Sink<Event>) -> Self {
        Self {
            order,
            accelerator,
            sink,
            facts: Facts::default(),
            tested: Vec::new(),
            lines: Vec::new(),
            phase: (Phase::Boot, Instant::now()),
            running: None,
            said: None,
        }
    }

    /// Boots the image as another machine, which only says who it is.
    async fn again(&mut self) -> Result<Facts, Failure> {
        let console = self.order.dir.join(CONSOLE);
        let _kept = std::fs::rename(&console, self.order.dir.join("console-1.log"));
        self.running = None;
        self.enter(Phase::Again);
        let status = self.run(None).await?;
        if status == qemu::PASSED {
            return Ok(std::mem::take(&mut self.facts));
        }
        Err(Failure::Incomplete)
    }

    /// Gives the status that the machine has chosen.
    async fn run(&mut self, bundle: Option<&Bundle>) -> Result<i32, Failure> {
        let dir = self.order.dir;
        let archive = bundle.map(Bundle::archive);
        files::write(dir, self.order.disk, archive.as_deref()).map_err(|source| Failure::Io {
            path: dir.display().to_string(),
            source,
        })?;
        if bundle.is_some() {
            self.enter(Phase::Boot);
        }
        let tests = bundle.filter(|_| !self.order.tests.is_empty());
        let limit = self.order.limit + tests.map_or(Duration::ZERO, |one| one.longest(List::Test));
        let mut qemu =
            qemu::start(self.accelerator, dir, self.order.metadata).map_err(Failure::NotStarted)?;
        let mut monitor = qemu.stdin.take().expect("it was asked for");
        let mut report = qemu.stderr.take().expect("it was asked for");
        let mut cancel = self.order.cancel.clone();
        let mut size = files::carrier_size(archive.as_deref());
        let mut tick = tokio::time::interval(TICK);
        let end = tokio::time::sleep(limit);
        tokio::pin!(end);
        let mut cutter = Cutter::default();
        let mut buffer = vec![0; 1 << 16];
        let mut begun = false;
        // Dropped, a machine is killed.
        loop {
            tokio::select! {
                read = report.read(&mut buffer) => {
                    let count = read.unwrap_or(0);
                    if count == 0 {
                        break;
                    }
                    for piece in cutter.push(&buffer[..count]) {
                        begun |= self.take(piece, bundle.is_some());
                    }
                    if begun {
                        forget(dir);
                    }
                }
                _ = tick.tick() => {
                    if self.panicked() {
                        return Err(Failure::Panicked { at: self.at() });
                    }
                    if !begun {
                        // udev in the machine looks at its rules again when a disk changes, every three seconds at most.
                        size += 1 << 20;
                        let order = format!("block_resize carrier {size}B\n");
                        // A QEMU that has gone is seen at its report.
                        let _gone = monitor.write_all(order.as_bytes()).await;
                    }
                }
                () = &mut end => return Err(Failure::TimedOut { limit, at: self.at() }),
                () = cancel.cancelled() => return Err(Failure::Cancelled),
            }
        }
        let status = qemu.wait().await.map_err(Failure::NotStarted)?;
        match status.code() {
            Some(qemu::PASSED | qemu::FAILED) if !self.facts.ended => Err(Failure::Incomplete),
            Some(code @ (qemu::PASSED | qemu::FAILED)) => {
                self.leave();
                Ok(code)
            }
            Some(0) if self.panicked() => Err(Failure::Panicked { at: self.at() }),
            Some(0) => Err(Failure::Off { at: self.at() }),
            _ => Err(Failure::Died {
                status,
                at: self.at(),
                said: self
                    .said
                    .take()
                    .map_or_else(String::new, |said| format!("; {said}")),
            }),
        }
    }

    /// Takes what the machine tells; gives whether that is the proof's own word.
    fn take(&mut self, piece: Piece, first: bool) -> bool {
        match piece {
            Piece::Begin { number, attempt } => {
                self.running = Some(number);
                self.lines.clear();
                self.emit(Event::StepStarted {
                    number,
                    total: u32::try_from(self.order.tests.len()).unwrap_or(u32::MAX),
                    title: self.title(number),
                    attempt,
                });
            }
            Piece::End {
                number,
                exit_code,
                seconds,
            } => {
                self.running = None;
                let title = self.title(number);
                self.tested.push(Tested {
                    title: title.clone(),
                    exit_code,
                    seconds,
                });
                self.emit(Event::StepFinished {
                    title,
                    exit_code,
                    seconds,
                });
            }
            Piece::Skip { .. } | Piece::Retry { .. } => {}
            Piece::Line(line) => match self.facts.take(&line) {
                Some(fact) => {
                    if first {
                        match fact {
                            "state" => self.enter(Phase::Look),
                            "files" => self.enter(Phase::Test),
                            "tests" => self.enter(Phase::End),
                            _ => {}
                        }
                    }
                    return true;
                }
                None if self.running.is_some() => {
                    if self.lines.len() == 20 {
                        self.lines.remove(0);
                    }
                    self.lines.push(line.clone());
                    self.emit(Event::Output { line });
                }
                // The firmware writes to this line too.
                None if line.starts_with(qemu::QEMU) => self.said = Some(line),
                None => {}
            },
        }
        false
    }

    fn title(&self, number: u32) -> String {
        let index = (number as usize).wrapping_sub(1);
        let script = self.order.tests.get(index);
        script.map_or_else(|| format!("test {number}"), |script| script.title.clone())
    }

    fn enter(&mut self, phase: Phase) {
        if phase != Phase::Boot && phase != Phase::Again {
            self.leave();
        }
        self.phase = (phase, Instant::now());
        self.emit(Event::PhaseStarted { phase });
    }

    fn leave(&self) {
        let (phase, since) = self.phase;
        let milliseconds = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.emit(Event::PhaseFinished {
            phase,
            milliseconds,
        });
    }

    /// Where it is, for the sentence that says how it ended.
    fn at(&self) -> String {
        match self.running {
            Some(number) => format!("in the test `{}`", self.title(number)),
            None => format!("at: {}", self.phase.0.title()),
        }
    }

    fn panicked(&self) -> bool {
        std::fs::read(self.order.dir.join(CONSOLE)).is_ok_and(|console| {
            let mark = b"Kernel panic - not syncing";
            console.windows(mark.len()).any(|window| window == mark)
        })
    }

    fn emit(&self, event: Event) {
        emit(self.sink, event);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Kept(Mutex<Vec<Event>>);

    impl Sink<Event> for Kept {
        fn emit(&self, event: Stamped<Event>) {
            self.0.lock().unwrap().push(event.event);
        }
    }

    async fn boots_nothing(accelerator: &str, limit: Duration, cancel: Cancel) -> Option<Failure> {
        if qemu::check_installed().is_err() {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("disk.raw");
        std::fs::File::create(&disk)
            .unwrap()
            .set_len(8 << 20)
            .unwrap();
        let work = dir.path().join("work");
        std::fs::create_dir(&work).unwrap();
        let order = Order {
            image_name: "nothing",
            disk: &disk,
            tree: &TreeManifest::default(),
            tests: &[],
            payloads: &BTreeMap::new(),
            source_date: crate::image::SOURCE_DATE,
            dir: &work,
            accelerator: (accelerator == "tcg").then_some(Accelerator::Tcg),
            metadata: None,
            limit,
            cancel,
        };
        let kept = Kept::default();
        let failure = prove(order, &kept).await.unwrap_err();
        let events = kept.0.into_inner().unwrap();
        assert!(matches!(events[0], Event::Started { .. }), "{events:?}");
        // Nothing stays but the console.
        for entry in std::fs::read_dir(&work).unwrap() {
            assert_eq!(entry.unwrap().file_name(), CONSOLE);
        }
        Some(failure)
    }

    /// A machine that says nothing has not passed, however long one waits.
    #[tokio::test]
    async fn a_disk_with_nothing_on_it_does_not_pass() {
        let limit = Duration::from_secs(3);
        if let Some(failure) = boots_nothing("tcg", limit, Cancel::never()).await {
            let text = failure.to_string();
            assert_eq!(text, "the virtual machine was not done after 3 s, at: boot");
        }
    }

    #[tokio::test]
    async fn a_proof_can_be_interrupted() {
        let (canceller, cancel) = crate::cancel::pair();
        canceller.cancel();
        let limit = Duration::from_secs(600);
        let failure = boots_nothing("any", limit, cancel).await;
        assert!(failure.is_none_or(|failure| matches!(failure, Failure::Cancelled)));
    }
}
