//! A driver without machines: it plays a script of outcomes on the given clock. For tests and rehearsals.

use std::collections::BTreeMap;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use super::driver::{
    CommandRecord, CommandSpec, CommandState, Driver, DriverError, LaunchSpec, Observation, Power,
    SnapshotDisk, SnapshotProgress, SnapshotSpec,
};
use super::s3::OutputTarget;
use crate::clock::SharedClock;

/// What happens when a machine is launched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Launch {
    /// It runs after this time.
    Boots(Duration),
    /// The driver refuses at once.
    Refused(String),
    /// It fails after this time, with this reason.
    Fails(Duration, String),
}

/// How a snapshot goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotPlay {
    /// Its percentage grows evenly; it is done after this time.
    Completes(Duration),
    /// It stays at this percentage for ever.
    Stuck(u8),
    /// It fails after this time, with this error.
    Fails(Duration, String),
}

/// How a command goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    pub exit_code: i32,
    pub stdout: String,
    pub stderr: String,
    pub duration: Duration,
    /// The agent never takes it.
    pub never_taken: bool,
    /// The machine shuts itself down when the command ends.
    pub shuts_down: bool,
}

impl Outcome {
    /// A command that ends with this code.
    #[must_use]
    pub fn exit(exit_code: i32) -> Self {
        Self {
            exit_code,
            ..Self::default()
        }
    }

    /// A command that succeeds with this output.
    #[must_use]
    pub fn output(stdout: impl Into<String>) -> Self {
        Self {
            stdout: stdout.into(),
            ..Self::default()
        }
    }
}

/// Gives the outcome of a command, or `None` to leave it to the next rule.
type Rule = Arc<dyn Fn(&str, &CommandSpec) -> Option<Outcome> + Send + Sync>;

/// A call that the driver got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recorded {
    Launch(String),
    Start(String),
    Stop {
        instance: String,
        force: bool,
    },
    Reboot(String),
    Terminate(String),
    Command {
        instance: String,
        id: String,
        script: String,
    },
    Cancel {
        instance: String,
        id: String,
    },
    Snapshot {
        snapshot: String,
        instance: String,
        size_gib: u64,
    },
    DeleteSnapshot(String),
    Notice {
        instance: String,
        ends_at: Timestamp,
    },
}

/// What all machines do.
struct Script {
    launch: Launch,
    agent: Option<Duration>,
    stop: Duration,
    snapshot: SnapshotPlay,
    rules: Vec<Rule>,
}

#[derive(Clone)]
enum Life {
    Booting {
        since: Timestamp,
        launch: Launch,
        agent: Option<Duration>,
    },
    Stopping {
        since: Timestamp,
    },
    OffFromInside,
    Gone,
}

struct Play {
    sent: Timestamp,
    outcome: Outcome,
    timeout: Duration,
    cancelled: Option<Timestamp>,
    /// Where the whole output goes when it has ended.
    output: Option<OutputTarget>,
}

#[derive(Default)]
struct Stage {
    calls: Vec<Recorded>,
    specs: BTreeMap<String, LaunchSpec>,
    machines: BTreeMap<String, Life>,
    commands: BTreeMap<(String, String), Play>,
    snapshots: BTreeMap<String, (Timestamp, SnapshotPlay)>,
}

/// The driver. By default everything succeeds without output, machines boot in 5 s, agents answer after 10 s, commands
/// take no time, snapshots 30 s.
pub struct Scripted {
    clock: SharedClock,
    script: Mutex<Script>,
    stage: Mutex<Stage>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Scripted {
    /// A driver on this clock, where everything succeeds.
    #[must_use]
    pub fn new(clock: SharedClock) -> Self {
        let script = Script {
            launch: Launch::Boots(Duration::from_secs(5)),
            agent: Some(Duration::from_secs(10)),
            stop: Duration::from_secs(2),
            snapshot: SnapshotPlay::Completes(Duration::from_secs(30)),
            rules: Vec::new(),
        };
        Self {
            clock,
            script: Mutex::new(script),
            stage: Mutex::default(),
        }
    }

    /// How launches go from now on.
    pub fn set_launch(&self, launch: Launch) {
        lock(&self.script).launch = launch;
    }

    /// How long after its launch a machine's agent answers from now on; `None`: never.
    pub fn set_agent(&self, after: Option<Duration>) {
        lock(&self.script).agent = after;
    }

    /// How long an orderly shutdown takes.
    pub fn set_stop(&self, takes: Duration) {
        lock(&self.script).stop = takes;
    }

    /// How snapshots go from now on.
    pub fn set_snapshot(&self, play: SnapshotPlay) {
        lock(&self.script).snapshot = play;
    }

    /// What commands do whose script contains `text`. The rule added last is asked first.
    pub fn on_command(&self, text: &str, outcome: Outcome) {
        let text = text.to_owned();
        self.on_commands(move |_, command| command.script.contains(&text).then(|| outcome.clone()));
    }

    /// What commands do, by instance id and command; `None` leaves it to the rules before.
    pub fn on_commands(
        &self,
        rule: impl Fn(&str, &CommandSpec) -> Option<Outcome> + Send + Sync + 'static,
    ) {
        lock(&self.script).rules.push(Arc::new(rule));
    }

    /// All calls so far that change something, in order.
    #[must_use]
    pub fn calls(&self) -> Vec<Recorded> {
        lock(&self.stage).calls.clone()
    }

    /// What a machine was launched with.
    #[must_use]
    pub fn launched(&self, instance_id: &str) -> Option<LaunchSpec> {
        lock(&self.stage).specs.get(instance_id).cloned()
    }

    /// Machines that are not gone.
    #[must_use]
    pub fn live_machines(&self) -> Vec<String> {
        let stage = lock(&self.stage);
        let live = stage
            .machines
            .iter()
            .filter(|(_, life)| !matches!(life, Life::Gone));
        live.map(|(id, _)| id.clone()).collect()
    }

    /// Snapshots that are not deleted.
    #[must_use]
    pub fn live_snapshots(&self) -> Vec<String> {
        lock(&self.stage).snapshots.keys().cloned().collect()
    }

    /// The machine shuts itself down now.
    pub fn shut_down_from_inside(&self, instance_id: &str) {
        lock(&self.stage)
            .machines
            .insert(instance_id.to_owned(), Life::OffFromInside);
    }

    fn passed(&self, since: Timestamp) -> Duration {
        Duration::try_from(self.clock.now().duration_since(since)).unwrap_or_default()
    }

    fn booting(&self) -> Life {
        let script = lock(&self.script);
        Life::Booting {
            since: self.clock.now(),
            launch: script.launch.clone(),
            agent: script.agent,
        }
    }

    /// Checks that a machine is there.
    fn change(&self, instance_id: &str, life: Life, call: Recorded) -> Result<(), DriverError> {
        let mut stage = lock(&self.stage);
        stage.calls.push(call);
        match stage.machines.get_mut(instance_id) {
            Some(now) if !matches!(now, Life::Gone) => {
                *now = life;
                Ok(())
            }
            _ => Err(DriverError {
                message: format!("there is no machine {instance_id}"),
            }),
        }
    }

    fn play(&self, play: &Play) -> CommandRecord {
        let mut record = CommandRecord {
            state: CommandState::Waiting,
            exit_code: None,
            started: None,
            ended: None,
            stdout: String::new(),
            stderr: String::new(),
        };
        if let Some(cancelled) = play.cancelled {
            return CommandRecord {
                state: CommandState::Cancelled,
                ended: Some(cancelled),
                ..record
            };
        }
        if play.outcome.never_taken {
            return record;
        }
        record.started = Some(play.sent);
        record.state = CommandState::Running;
        let outcome = &play.outcome;
        let lasts = outcome.duration.min(play.timeout);
        if self.passed(play.sent) < lasts {
            return record;
        }
        record.ended = play.sent.checked_add(lasts).ok();
        if outcome.duration > play.timeout {
            return CommandRecord {
                state: CommandState::TimedOut,
                exit_code: Some(137),
                ..record
            };
        }
        CommandRecord {
            state: CommandState::Ended,
            exit_code: Some(outcome.exit_code),
            stdout: outcome.stdout.chars().take(24_001).collect(),
            stderr: outcome.stderr.chars().take(8_001).collect(),
            ..record
        }
    }

    /// Whether a command that shuts its machine down has ended.
    fn has_shut_down(&self, stage: &Stage, instance_id: &str, since: Timestamp) -> bool {
        // Asked for every machine at every request: only its own commands are looked through.
        let from = (instance_id.to_owned(), String::new());
        let commands = stage.commands.range(from..);
        commands
            .take_while(|((instance, _), _)| instance == instance_id)
            .any(|(_, play)| {
                play.outcome.shuts_down
                    && play.sent >= since
                    && self.play(play).state == CommandState::Ended
            })
    }
}

impl Driver for Scripted {
    fn launch(&self, spec: &LaunchSpec) -> Result<(), DriverError> {
        let id = &spec.instance_id;
        let mut life = self.booting();
        if let Life::Booting { agent, .. } = &mut life {
            *agent = agent.filter(|_| !spec.silent);
        }
        let mut stage = lock(&self.stage);
        stage.calls.push(Recorded::Launch(id.clone()));
        if let Life::Booting {
            launch: Launch::Refused(message),
            ..
        } = &life
        {
            return Err(DriverError {
                message: message.clone(),
            });
        }
        stage.specs.insert(id.clone(), spec.clone());
        stage.machines.insert(id.clone(), life);
        Ok(())
    }

    fn notice(&self, instance_id: &str, ends_at: Timestamp) -> Result<(), DriverError> {
        lock(&self.stage).calls.push(Recorded::Notice {
            instance: instance_id.to_owned(),
            ends_at,
        });
        Ok(())
    }

    fn observe(&self, instance_id: &str) -> Observation {
        let stop = lock(&self.script).stop;
        let stage = lock(&self.stage);
        let life = stage
            .machines
            .get(instance_id)
            .cloned()
            .unwrap_or(Life::Gone);
        let mut seen = Observation {
            power: Power::Gone,
            agent_online_since: None,
            reason: None,
            shut_down_from_inside: false,
        };
        match life {
            Life::Booting { since, .. } if self.has_shut_down(&stage, instance_id, since) => {
                seen.power = Power::Off;
                seen.shut_down_from_inside = true;
            }
            Life::Booting {
                since,
                launch,
                agent,
            } => {
                let passed = self.passed(since);
                seen.power = match launch {
                    Launch::Boots(takes) if passed >= takes => Power::Running,
                    Launch::Fails(takes, reason) if passed >= takes => {
                        seen.reason = Some(reason);
                        Power::Failed
                    }
                    Launch::Refused(_) | Launch::Boots(_) | Launch::Fails(..) => Power::Starting,
                };
                let online = agent.filter(|after| passed >= *after && seen.power == Power::Running);
                seen.agent_online_since = online.and_then(|after| since.checked_add(after).ok());
            }
            Life::Stopping { since } if self.passed(since) < stop => seen.power = Power::Stopping,
            Life::Stopping { .. } => seen.power = Power::Off,
            Life::OffFromInside => {
                seen.power = Power::Off;
                seen.shut_down_from_inside = true;
            }
            Life::Gone => {}
        }
        seen
    }

    fn start(&self, instance_id: &str) -> Result<(), DriverError> {
        let life = self.booting();
        self.change(instance_id, life, Recorded::Start(instance_id.to_owned()))
    }

    fn stop(&self, instance_id: &str, force: bool) -> Result<(), DriverError> {
        let life = Life::Stopping {
            since: self.clock.now(),
        };
        self.change(
            instance_id,
            life,
            Recorded::Stop {
                instance: instance_id.to_owned(),
                force,
            },
        )
    }

    fn reboot(&self, instance_id: &str) -> Result<(), DriverError> {
        let life = self.booting();
        self.change(instance_id, life, Recorded::Reboot(instance_id.to_owned()))
    }

    fn terminate(&self, instance_id: &str) -> Result<(), DriverError> {
        let mut stage = lock(&self.stage);
        stage
            .calls
            .push(Recorded::Terminate(instance_id.to_owned()));
        stage.machines.insert(instance_id.to_owned(), Life::Gone);
        Ok(())
    }

    fn console(&self, instance_id: &str) -> Vec<u8> {
        if lock(&self.stage).machines.contains_key(instance_id) {
            format!("machine {instance_id} plays a script\n").into_bytes()
        } else {
            Vec::new()
        }
    }

    fn send_command(&self, instance_id: &str, command: &CommandSpec) -> Result<(), DriverError> {
        // A rule may use the driver: it is asked without a lock.
        let rules = lock(&self.script).rules.clone();
        let outcome = rules
            .iter()
            .rev()
            .find_map(|rule| rule(instance_id, command))
            .unwrap_or_default();
        let mut stage = lock(&self.stage);
        let key = (instance_id.to_owned(), command.command_id.clone());
        if stage.commands.contains_key(&key) {
            return Ok(());
        }
        stage.calls.push(Recorded::Command {
            instance: key.0.clone(),
            id: key.1.clone(),
            script: command.script.clone(),
        });
        let timeout = Duration::from_secs(command.execution_timeout);
        stage.commands.insert(
            key,
            Play {
                sent: self.clock.now(),
                outcome,
                timeout,
                cancelled: None,
                output: command.output.clone(),
            },
        );
        Ok(())
    }

    fn command(&self, instance_id: &str, command_id: &str) -> Option<CommandRecord> {
        let mut stage = lock(&self.stage);
        let play = stage
            .commands
            .get_mut(&(instance_id.to_owned(), command_id.to_owned()))?;
        let record = self.play(play);
        if record.state == CommandState::Ended
            && let Some(target) = play.output.take()
        {
            for (name, text) in [
                ("stdout", &play.outcome.stdout),
                ("stderr", &play.outcome.stderr),
            ] {
                // As an agent, it has nobody to tell that the bucket is gone.
                let _lost = target.put(instance_id, name, text.as_bytes());
            }
        }
        let lost = matches!(stage.machines.get(instance_id), None | Some(Life::Gone))
            && matches!(record.state, CommandState::Running | CommandState::Waiting);
        Some(if lost {
            CommandRecord {
                state: CommandState::Lost,
                ..record
            }
        } else {
            record
        })
    }

    fn cancel_command(&self, instance_id: &str, command_id: &str) -> Result<(), DriverError> {
        let now = self.clock.now();
        let mut stage = lock(&self.stage);
        let key = (instance_id.to_owned(), command_id.to_owned());
        stage.calls.push(Recorded::Cancel {
            instance: key.0.clone(),
            id: key.1.clone(),
        });
        if let Some(play) = stage.commands.get_mut(&key) {
            play.cancelled.get_or_insert(now);
        }
        Ok(())
    }

    fn snapshot(&self, spec: &SnapshotSpec) -> Result<(), DriverError> {
        let play = lock(&self.script).snapshot.clone();
        let now = self.clock.now();
        let mut stage = lock(&self.stage);
        stage.calls.push(Recorded::Snapshot {
            snapshot: spec.snapshot_id.clone(),
            instance: spec.instance_id.clone(),
            size_gib: spec.size_gib,
        });
        stage
            .snapshots
            .insert(spec.snapshot_id.clone(), (now, play));
        Ok(())
    }

    fn snapshot_progress(&self, snapshot_id: &str) -> SnapshotProgress {
        let stage = lock(&self.stage);
        let Some((since, play)) = stage.snapshots.get(snapshot_id) else {
            let error = Some(format!("there is no snapshot {snapshot_id}"));
            return SnapshotProgress {
                percent: 0,
                done: false,
                error,
            };
        };
        let passed = self.passed(*since);
        let share = |takes: Duration| {
            let percent = passed.as_millis() * 100 / takes.as_millis().max(1);
            u8::try_from(percent.min(99)).unwrap_or(99)
        };
        match play {
            SnapshotPlay::Completes(takes) if passed >= *takes => SnapshotProgress {
                percent: 100,
                done: true,
                error: None,
            },
            SnapshotPlay::Fails(takes, error) if passed >= *takes => SnapshotProgress {
                percent: 99,
                done: false,
                error: Some(error.clone()),
            },
            SnapshotPlay::Completes(takes) | SnapshotPlay::Fails(takes, _) => SnapshotProgress {
                percent: share(*takes),
                done: false,
                error: None,
            },
            SnapshotPlay::Stuck(percent) => SnapshotProgress {
                percent: *percent,
                done: false,
                error: None,
            },
        }
    }

    fn delete_snapshot(&self, snapshot_id: &str) -> Result<(), DriverError> {
        let mut stage = lock(&self.stage);
        stage
            .calls
            .push(Recorded::DeleteSnapshot(snapshot_id.to_owned()));
        stage.snapshots.remove(snapshot_id);
        Ok(())
    }

    fn disk(&self, _: &str) -> Result<SnapshotDisk, DriverError> {
        Ok(SnapshotDisk::None)
    }
}
