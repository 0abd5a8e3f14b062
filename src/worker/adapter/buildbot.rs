//! A worker of Buildbot, as a unit of systemd.
//!
//! **What it does** comes from a report that the worker itself writes: which builds it was given, whether it is
//! connected to its master, whether it winds up. Between two steps of a build a worker sees nothing, and a build may wait
//! on its master for long: so idle is a hint.
//!
//! **The proof** is the drain. A file holds back the unit (`ExecCondition=`), across reboots. Then the worker asks its
//! master for a graceful shutdown (SIGHUP); the master gives it no more builds, waits for those that run, and ends it.
//! Closed is what systemd says: held back, inactive, and nothing is left in its control group.
//!
//! A shutdown cannot be taken back in Buildbot. A worker that is uncordoned while it winds up ends after its build, and
//! systemd starts it anew.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Deserialize;
use tokio::process::Command;

use super::shell::{self, Ended};
use crate::worker::agent::{Intake, Jobs, Seen};
use crate::worker::config;
use crate::worker::store::Store;

/// How long systemd may take to answer.
const LIMIT: Duration = Duration::from_secs(10);
/// The worker reports every five seconds, also when nothing changes; this old, a report says nothing.
const OLDEST: f64 = 30.0;
/// How often a worker that winds up is asked again: a master that was started anew has forgotten it.
const AGAIN: Duration = Duration::from_secs(30);

/// What the worker reports.
#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Report {
    pid: u32,
    /// Seconds since boot.
    beat: f64,
    connected: bool,
    /// It was asked to wind up.
    closing: bool,
    /// The builders whose builds it runs.
    jobs: Vec<String>,
}

/// What systemd says of the unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Unit {
    load: String,
    active: String,
    sub: String,
    main: u32,
    group: String,
    condition: String,
}

impl Unit {
    fn parse(text: &str) -> Self {
        let mut unit = Self::default();
        for line in text.lines() {
            let Some((name, value)) = line.split_once('=') else {
                continue;
            };
            let value = value.to_owned();
            match name {
                "LoadState" => unit.load = value,
                "ActiveState" => unit.active = value,
                "SubState" => unit.sub = value,
                "MainPID" => unit.main = value.parse().unwrap_or_default(),
                "ControlGroup" => unit.group = value,
                "ExecCondition" => unit.condition = value,
                _ => {}
            }
        }
        unit
    }

    /// It does not run and is not about to.
    fn is_down(&self) -> bool {
        matches!(self.active.as_str(), "inactive" | "failed") && self.main == 0
    }

    /// Whether a file really keeps it from starting. A unit that is not found says "inactive" too.
    fn can_be_held(&self, name: &str, hold: &str) -> Result<(), String> {
        if self.load != "loaded" {
            return Err(format!("the unit {name} is {}", self.load));
        }
        if !self.condition.contains(hold) {
            return Err(format!(
                "the unit {name} starts although it is held back: it has no ExecCondition= for {hold}"
            ));
        }
        Ok(())
    }
}

/// The adapter `buildbot`.
#[derive(Debug)]
pub struct Buildbot {
    config: config::Buildbot,
    store: Store,
    /// Which process was asked to wind up, and when last.
    asked: Option<(u32, Instant)>,
}

impl Buildbot {
    pub fn new(config: config::Buildbot, store: Store) -> Self {
        Self {
            config,
            store,
            asked: None,
        }
    }

    pub async fn look(&self) -> Seen {
        let report = self.report();
        let held = self.store.is_held();
        // systemd is asked only where the report does not tell all: asking costs a process.
        let unit = match &report {
            Ok(_) if !held => None,
            _ => Some(self.unit().await),
        };
        match (unit, report) {
            (None, Ok(report)) => reported(&report),
            (None, Err(why)) => unknown(why),
            (Some(Err(why)), _) => unknown(why),
            (Some(Ok(unit)), report) => {
                let empty = is_empty(&unit.group);
                self.judge(&unit, held, empty, report)
            }
        }
    }

    /// Pure, but for its own name and path.
    fn judge(&self, unit: &Unit, held: bool, empty: bool, report: Result<Report, String>) -> Seen {
        let name = &self.config.unit;
        if !unit.is_down() {
            return match report {
                Ok(report) => reported(&report),
                Err(why) => unknown(format!("{name} is {} ({}): {why}", unit.active, unit.sub)),
            };
        }
        if !held {
            return unknown(format!("{name} is {}", unit.active));
        }
        if let Err(why) = unit.can_be_held(name, &self.hold()) {
            return unknown(why);
        }
        if !empty {
            return unknown(format!("{name} has ended, its processes have not"));
        }
        Seen {
            jobs: Jobs::Idle,
            intake: Intake::Closed,
        }
    }

    pub async fn close(&mut self) -> Result<(), String> {
        let unit = self.unit().await?;
        unit.can_be_held(&self.config.unit, &self.hold())?;
        self.store
            .hold(true)
            .map_err(|error| format!("cannot hold back {}: {error}", self.config.unit))?;
        if unit.is_down() || unit.main == 0 {
            return Ok(());
        }
        // One that reports listens to the signal. Any other would die of it, and its job with it.
        let report = self.report()?;
        let fresh = self
            .asked
            .is_some_and(|(pid, at)| pid == unit.main && at.elapsed() < AGAIN);
        if report.closing && fresh {
            return Ok(());
        }
        self.systemctl(&["kill", "--kill-who=main", "--signal=HUP"])
            .await?;
        self.asked = Some((unit.main, Instant::now()));
        Ok(())
    }

    pub async fn open(&mut self) -> Result<(), String> {
        let name = &self.config.unit;
        self.store
            .hold(false)
            .map_err(|error| format!("cannot let {name} start: {error}"))?;
        let unit = self.unit().await?;
        if unit.is_down() {
            if unit.active == "failed" {
                self.systemctl(&["reset-failed"]).await?;
            }
            return self.systemctl(&["start", "--no-block"]).await;
        }
        match self.report() {
            Ok(report) if report.closing => Err(format!(
                "{name} winds up, which Buildbot cannot take back; it starts anew after its job"
            )),
            Ok(_) => Ok(()),
            Err(why) => Err(why),
        }
    }

    fn hold(&self) -> String {
        self.store.hold_path().display().to_string()
    }

    async fn unit(&self) -> Result<Unit, String> {
        let mut command = Command::new("systemctl");
        command
            .args([
                "show",
                "--property=LoadState,ActiveState,SubState,MainPID,ControlGroup,ExecCondition",
            ])
            .arg("--")
            .arg(&self.config.unit);
        match shell::ask(command, LIMIT).await {
            Ok(Ended {
                code: Some(0),
                stdout,
            }) => Ok(Unit::parse(&stdout)),
            Ok(_) => Err("systemctl show failed".to_owned()),
            Err(why) => Err(format!("systemctl show: {why}")),
        }
    }

    async fn systemctl(&self, arguments: &[&str]) -> Result<(), String> {
        let mut command = Command::new("systemctl");
        command.args(arguments).arg("--").arg(&self.config.unit);
        match shell::tell(command, LIMIT).await {
            Ok(Some(0)) => Ok(()),
            Ok(_) => Err(format!("systemctl {} failed", arguments[0])),
            Err(why) => Err(format!("systemctl {}: {why}", arguments[0])),
        }
    }

    /// A report, if a process of the unit wrote it a moment ago.
    fn report(&self) -> Result<Report, String> {
        let text = std::fs::read_to_string(&self.config.report)
            .map_err(|_| "the worker has not reported yet".to_owned())?;
        let report: Report = serde_json::from_str(&text)
            .map_err(|error| format!("the worker's report cannot be read: {error}"))?;
        let groups = PathBuf::from(format!("/proc/{}/cgroup", report.pid));
        let ours =
            std::fs::read_to_string(groups).is_ok_and(|groups| in_unit(&groups, &self.config.unit));
        if !ours {
            return Err("the worker that wrote the last report has ended".to_owned());
        }
        let age = seconds_since_boot()? - report.beat;
        if age.is_nan() || age >= OLDEST {
            return Err(format!("the worker has not reported for {age:.0} s"));
        }
        Ok(report)
    }
}

fn reported(report: &Report) -> Seen {
    let jobs = if !report.jobs.is_empty() {
        Jobs::Busy(report.jobs.clone())
    } else if report.connected {
        Jobs::Idle
    } else {
        Jobs::Unknown("the worker is not connected to its master".to_owned())
    };
    let intake = if report.closing {
        Intake::Closing
    } else {
        Intake::Open
    };
    Seen { jobs, intake }
}

fn unknown(why: String) -> Seen {
    Seen {
        jobs: Jobs::Unknown(why),
        intake: Intake::Unknown,
    }
}

/// Whether a process is in the control group of a unit, by its `/proc/<pid>/cgroup` (cgroups(7)).
fn in_unit(groups: &str, unit: &str) -> bool {
    groups
        .lines()
        .filter_map(|line| line.splitn(3, ':').nth(2))
        .any(|path| path.split('/').any(|part| part == unit))
}

/// Whether no process is left in a control group. systemd names none for a unit that has none any more.
fn is_empty(group: &str) -> bool {
    if group.is_empty() {
        return true;
    }
    let events = format!("/sys/fs/cgroup{group}/cgroup.events");
    match std::fs::read_to_string(events) {
        // Counts the groups below it too.
        Ok(text) => text.lines().any(|line| line == "populated 0"),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

fn seconds_since_boot() -> Result<f64, String> {
    std::fs::read_to_string("/proc/uptime")
        .ok()
        .and_then(|text| text.split(' ').next()?.parse().ok())
        .ok_or_else(|| "cannot read /proc/uptime".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOWN: &str = "LoadState=loaded\nActiveState=active\nSubState=running\nMainPID=42\n\
        ControlGroup=/system.slice/b.service\nExecCondition={ path=/usr/bin/test ; argv[]=/usr/bin/test ! -e /s/hold ; }\n";

    fn adapter(dir: &std::path::Path) -> Buildbot {
        let config = config::Buildbot {
            unit: "b.service".into(),
            report: dir.join("report.json"),
        };
        Buildbot::new(config, Store::open(dir).unwrap())
    }

    fn unit(hold: &str) -> Unit {
        Unit::parse(&SHOWN.replace("/s/hold", hold))
    }

    fn report(jobs: &[&str], connected: bool, closing: bool) -> Report {
        Report {
            pid: 42,
            beat: 1.0,
            connected,
            closing,
            jobs: jobs.iter().map(|job| (*job).to_owned()).collect(),
        }
    }

    #[test]
    fn systemd_is_understood() {
        let unit = unit("/s/hold");
        assert_eq!((unit.main, unit.active.as_str()), (42, "active"));
        assert_eq!(unit.can_be_held("b.service", "/s/hold"), Ok(()));
        assert!(unit.can_be_held("b.service", "/other").is_err());
        let missing = Unit::parse("LoadState=not-found\nActiveState=inactive\nMainPID=0\n");
        assert!(missing.is_down());
        assert_eq!(
            missing.can_be_held("b.service", "/s/hold"),
            Err("the unit b.service is not-found".into())
        );
        assert!(in_unit("0::/system.slice/x.slice/b.service\n", "b.service"));
        assert!(in_unit("0::/system.slice/b.service/sub\n", "b.service"));
        assert!(!in_unit("0::/system.slice/ab.service\n", "b.service"));
    }

    #[test]
    fn a_report_tells_busy_and_idle_and_a_worker_without_a_master_is_neither() {
        let seen = |jobs, intake| Seen { jobs, intake };
        assert_eq!(
            reported(&report(&["job"], true, false)),
            seen(Jobs::Busy(vec!["job".into()]), Intake::Open)
        );
        assert_eq!(
            reported(&report(&[], true, true)),
            seen(Jobs::Idle, Intake::Closing)
        );
        assert!(matches!(
            reported(&report(&[], false, false)).jobs,
            Jobs::Unknown(_)
        ));
    }

    #[test]
    fn closed_is_held_back_and_down_and_empty_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let adapter = adapter(dir.path());
        let mut down = unit(&adapter.hold());
        (down.active, down.main) = ("inactive".into(), 0);
        let no_report = || Err("none".to_owned());
        let closed = Seen {
            jobs: Jobs::Idle,
            intake: Intake::Closed,
        };
        assert_eq!(adapter.judge(&down, true, true, no_report()), closed);
        let mut restarting = down.clone();
        restarting.active = "activating".into();
        let mut running = down.clone();
        running.active = "active".into();
        running.main = 7;
        let mut unguarded = down.clone();
        unguarded.condition.clear();
        let mut missing = down.clone();
        missing.load = "not-found".into();
        for (unit, held, empty) in [
            (&down, false, true),
            (&down, true, false),
            (&restarting, true, true),
            (&running, true, true),
            (&unguarded, true, true),
            (&missing, true, true),
        ] {
            let seen = adapter.judge(unit, held, empty, no_report());
            assert_eq!(seen.intake, Intake::Unknown, "{unit:?} {held} {empty}");
            assert!(matches!(seen.jobs, Jobs::Unknown(_)));
        }
        let winding = adapter.judge(&running, true, false, Ok(report(&["job"], true, true)));
        assert_eq!(winding.intake, Intake::Closing);
    }

    #[test]
    fn only_a_fresh_report_of_the_unit_counts() {
        let dir = tempfile::tempdir().unwrap();
        let adapter = adapter(dir.path());
        let why = || adapter.report().unwrap_err();
        assert_eq!(why(), "the worker has not reported yet");
        let write = |text: &str| std::fs::write(dir.path().join("report.json"), text).unwrap();
        write("{");
        assert!(why().contains("cannot be read"));
        // This test is no process of the unit.
        let pid = std::process::id();
        write(&format!(
            r#"{{"pid":{pid},"beat":1,"connected":true,"closing":false,"jobs":[]}}"#
        ));
        assert_eq!(why(), "the worker that wrote the last report has ended");
    }
}
