//! Real machines: systemd-nspawn over overlayfs, each with a supervisor of its own.
//!
//! The driver only writes requests and reads answers in files ([`files`]). The work is done by detached processes:
//! one supervisor a machine ([`super::supervisor`]) and one writer a disk ([`snapshot`]). They hold locks while they
//! live, so who reads a file knows whether its writer is still there.

pub mod blocks;
pub mod files;
pub mod overlay;
pub mod snapshot;

pub use snapshot::main as snapshot_main;

use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use jiff::Timestamp;

use super::base;
use super::driver::{
    CommandRecord, CommandSpec, CommandState, Driver, DriverError, LaunchSpec, Observation, Power,
    SnapshotDisk, SnapshotProgress, SnapshotSpec,
};
use super::endpoint;
use super::regions::{is_base_snapshot, locked_digest};
use blocks::{Blocks, MANIFEST};
use files::{
    Bell, NOTICE, REPORT, Status, Want, get_json, is_locked, put_json, remove_dir, remove_machine,
    try_lock,
};

/// What `GetConsoleOutput` gives at the most (EC2 User Guide, "Instance console output").
const CONSOLE_BYTES: u64 = 64 * 1024;

/// The driver of real machines.
#[derive(Debug, Clone)]
pub struct NspawnDriver {
    dir: PathBuf,
    base: PathBuf,
    exe: PathBuf,
}

impl NspawnDriver {
    /// A driver for the cloud in `dir`. `base` is the root of the base image, `exe` this program's own file.
    #[must_use]
    pub fn new(dir: PathBuf, base: PathBuf, exe: PathBuf) -> Self {
        Self { dir, base, exe }
    }

    fn instance(&self, id: &str) -> PathBuf {
        self.dir.join("instances").join(id)
    }

    fn snapshot_dir(&self, id: &str) -> PathBuf {
        self.dir.join("snapshots").join(id)
    }

    /// The layers of a snapshot, top first.
    fn chain_of(&self, snapshot: &str) -> Result<Vec<PathBuf>, DriverError> {
        if let Some(digest) = locked_digest(snapshot) {
            let place = base::place(&self.base, digest);
            return if base::is_made(&place) {
                Ok(vec![place])
            } else {
                Err(failed(format!("the base {} is not made", place.display())))
            };
        }
        if is_base_snapshot(snapshot) {
            return Ok(vec![self.base.clone()]);
        }
        let path = self.snapshot_dir(snapshot).join("chain.json");
        get_json(&path)
            .map_err(|error| failed(format!("the disk of {snapshot} is not there: {error}")))
    }

    /// Starts a helper of this program, detached. It inherits the lock of `dir`, which tells others that it lives.
    fn detach(&self, verb: &str, dir: &Path, lock: std::fs::File) -> Result<(), DriverError> {
        let mut command = self.helper(verb, dir, dir)?;
        // In the child alone: what another thread starts meanwhile is not to hold the lock.
        // SAFETY: fcntl is async-signal-safe, and the closure owns the descriptor.
        unsafe {
            command.pre_exec(move || {
                rustix::io::fcntl_setfd(&lock, rustix::io::FdFlags::empty()).map_err(Into::into)
            });
        }
        self.start_detached(command)
    }

    /// Starts the writer of a snapshot's disk; gives whether one was started. One that dies again and again is told of, before
    /// another one is tried.
    fn write_disk(&self, dir: &Path, lock: std::fs::File) -> Result<bool, DriverError> {
        if snapshot::may_try(dir).map_err(io(dir))? {
            self.detach("local-snapshot", dir, lock)?;
            return Ok(true);
        }
        Ok(false)
    }

    /// A helper of this program on a directory, with its log in `logs`.
    fn helper(&self, verb: &str, dir: &Path, logs: &Path) -> Result<Command, DriverError> {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(logs.join("helper.log"))
            .map_err(io(logs))?;
        let again = log.try_clone().map_err(io(logs))?;
        let mut command = Command::new(&self.exe);
        command
            .arg(verb)
            .arg(dir)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(again)
            .current_dir("/");
        Ok(command)
    }

    fn start_detached(&self, mut command: Command) -> Result<(), DriverError> {
        // What it makes in a machine is made as a machine's own processes make it, whatever the umask is here.
        // SAFETY: umask and setsid are async-signal-safe, and nothing else happens between fork and exec.
        unsafe {
            command.pre_exec(|| {
                rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
                rustix::process::setsid().map(drop).map_err(Into::into)
            });
        }
        let mut child = command
            .spawn()
            .map_err(|error| failed(format!("cannot start {}: {error}", self.exe.display())))?;
        // Reaped by a thread: the helper outlives most callers, and a caller that stays must not collect zombies.
        std::thread::spawn(move || child.wait());
        Ok(())
    }

    /// Starts the cloud's endpoint unless it runs.
    fn ensure_endpoint(&self) -> Result<(), DriverError> {
        if endpoint::runs(&self.dir) {
            return Ok(());
        }
        let mut command = self.helper("local-endpoint", &self.dir, &self.dir)?;
        command.arg("--base").arg(&self.base);
        self.start_detached(command)
    }

    fn boot(&self, dir: &Path, lock: std::fs::File) -> Result<(), DriverError> {
        self.ensure_endpoint()?;
        put_json(&dir.join("want"), &Want::Run).map_err(io(dir))?;
        put_json(&dir.join("status.json"), &Status::starting()).map_err(io(dir))?;
        self.detach("local-machine", dir, lock)
    }

    fn want(&self, id: &str, want: Want) -> Result<(), DriverError> {
        let dir = self.instance(id);
        put_json(&dir.join("want"), &want).map_err(io(&dir))?;
        Bell::ring(&dir);
        Ok(())
    }

    /// Removes the layers of deleted snapshots that no chain needs any more.
    fn prune(&self) -> Result<(), DriverError> {
        prune(&self.dir).map_err(io(&self.dir))
    }
}

/// Process id, on this host, of the init of a machine that runs; `None` if none of this id does.
#[must_use]
pub fn leader(cloud: &Path, instance: &str) -> Option<u32> {
    // An id is one word: nobody gets out of the directory by it.
    if !instance
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    {
        return None;
    }
    let dir = cloud.join("instances").join(instance);
    let status = files::get_json::<files::Status>(&dir.join("status.json")).ok()?;
    status
        .leader
        .filter(|_| status.power == Power::Running && files::is_locked(&dir))
}

/// Removes the layers of deleted snapshots below a cloud's directory that no chain needs any more, and blocks that no disk
/// has.
///
/// # Errors
/// The file system refuses.
pub fn prune(cloud: &Path) -> std::io::Result<()> {
    prune_with(cloud, None)
}

/// As [`prune`], by the writer of the disk in `own`, which is about to end. The others at work remove their own.
fn prune_with(cloud: &Path, own: Option<&Path>) -> std::io::Result<()> {
    loop {
        let snapshots = files::subdirectories(&cloud.join("snapshots"));
        let holders = files::subdirectories(&cloud.join("instances"))
            .into_iter()
            .chain(snapshots.iter().cloned());
        let needed: Vec<(PathBuf, Vec<PathBuf>)> = holders
            .map(|dir| {
                (
                    dir.clone(),
                    get_json(&dir.join("chain.json")).unwrap_or_default(),
                )
            })
            .collect();
        let free = snapshots.iter().find(|dir| {
            let layer = dir.join("layer");
            dir.join("deleted").exists()
                && (own == Some(dir.as_path()) || !files::is_locked(dir))
                && !needed
                    .iter()
                    .any(|(holder, chain)| holder != *dir && chain.contains(&layer))
        });
        match free {
            // Its own chain may have been the last need of another one.
            Some(dir) => {
                Blocks::of(cloud).mark_stale();
                // What is large first: until all of that is gone it is known to be deleted.
                for part in files::subdirectories(dir) {
                    remove_dir(&part)?;
                }
                remove_dir(dir)?;
            }
            None => {
                // Blocks that stay take room, and the next call tries again; nobody's machine is to fail by them.
                if let Err(error) = Blocks::of(cloud).sweep(&cloud.join("snapshots")) {
                    eprintln!("blocks that no disk needs are still there: {error}");
                }
                return Ok(());
            }
        }
    }
}

fn failed(message: String) -> DriverError {
    DriverError { message }
}

fn io(dir: &Path) -> impl Fn(std::io::Error) -> DriverError + use<> {
    let dir = dir.display().to_string();
    move |error| failed(format!("cannot use {dir}: {error}"))
}

impl Driver for NspawnDriver {
    fn launch(&self, spec: &LaunchSpec) -> Result<(), DriverError> {
        let chain = self.chain_of(&spec.snapshot_id)?;
        let dir = self.instance(&spec.instance_id);
        files::make_forest(dir.parent().unwrap_or(&dir)).map_err(io(&dir))?;
        for sub in ["work", "root", "commands"] {
            std::fs::create_dir_all(dir.join(sub)).map_err(io(&dir))?;
        }
        files::make_root(&dir.join("upper")).map_err(io(&dir))?;
        put_json(&dir.join("chain.json"), &chain).map_err(io(&dir))?;
        put_json(&dir.join(files::DEBS), &base::cache(&self.base).dir()).map_err(io(&dir))?;
        put_json(&dir.join("spec.json"), spec).map_err(io(&dir))?;
        match try_lock(&dir).map_err(io(&dir))? {
            Some(lock) => self.boot(&dir, lock),
            // A repeated launch.
            None => Ok(()),
        }
    }

    fn notice(&self, instance_id: &str, ends_at: Timestamp) -> Result<(), DriverError> {
        let dir = self.instance(instance_id);
        put_json(&dir.join(NOTICE), &ends_at).map_err(io(&dir))
    }

    fn observe(&self, instance_id: &str) -> Observation {
        let dir = self.instance(instance_id);
        let gone = |power, reason| Observation {
            power,
            agent_online_since: None,
            reason,
            shut_down_from_inside: false,
        };
        // The lock first: a supervisor that ends in between has written its last word by then.
        let alive = is_locked(&dir);
        let Ok(status) = get_json::<Status>(&dir.join("status.json")) else {
            return gone(Power::Gone, None);
        };
        let ending = get_json(&dir.join("want")).is_ok_and(Want::is_end);
        if !alive && ending && self.terminate(instance_id).is_ok() {
            // Its supervisor died on the way out; the rest is done here.
            return gone(Power::Gone, None);
        }
        if !alive
            && matches!(
                status.power,
                Power::Starting | Power::Running | Power::Stopping
            )
        {
            let mut reason = "the supervisor of the machine died".to_owned();
            if let Err(error) = super::supervisor::cgroup::kill_machine(instance_id) {
                reason.push_str(&format!("; {error}"));
            }
            return gone(Power::Failed, Some(reason));
        }
        Observation {
            power: status.power,
            agent_online_since: status.agent_online_since,
            reason: status.reason,
            shut_down_from_inside: status.shut_down_from_inside,
        }
    }

    fn start(&self, instance_id: &str) -> Result<(), DriverError> {
        let dir = self.instance(instance_id);
        match try_lock(&dir).map_err(io(&dir))? {
            Some(lock) => self.boot(&dir, lock),
            None => Err(failed(format!("{instance_id} is not off yet"))),
        }
    }

    fn stop(&self, instance_id: &str, force: bool) -> Result<(), DriverError> {
        self.want(
            instance_id,
            if force { Want::ForceStop } else { Want::Stop },
        )
    }

    fn reboot(&self, instance_id: &str) -> Result<(), DriverError> {
        let now = jiff::Timestamp::now().as_microsecond().unsigned_abs();
        self.want(instance_id, Want::Reboot(now))
    }

    fn terminate(&self, instance_id: &str) -> Result<(), DriverError> {
        let dir = self.instance(instance_id);
        if !dir.exists() {
            return Ok(());
        }
        let end = || {
            put_json(&dir.join("want"), &Want::Terminate)?;
            Bell::ring(&dir);
            // A live supervisor removes it all; for a machine that is off there is nobody but us.
            if let Some(_lock) = try_lock(&dir)? {
                super::supervisor::cgroup::kill_machine(instance_id)?;
                remove_machine(&dir)?;
                super::supervisor::cgroup::remove(instance_id);
                prune(&self.dir)?;
            }
            Ok(())
        };
        match end() {
            // Its supervisor was faster.
            Err(_) if !dir.exists() => Ok(()),
            ended => ended.map_err(io(&dir)),
        }
    }

    fn shut_down(&self, instance_id: &str) -> Result<(), DriverError> {
        let dir = self.instance(instance_id);
        // One that is off has nothing to shut down, and one that is told to end at once is not told to take its time.
        let at_once = get_json(&dir.join("want")).is_ok_and(|want: Want| want == Want::Terminate);
        if at_once || !is_locked(&dir) {
            return self.terminate(instance_id);
        }
        match put_json(&dir.join("want"), &Want::ShutDown) {
            Err(_) if !dir.exists() => Ok(()),
            // Its supervisor may have ended in between.
            Ok(()) if !is_locked(&dir) => self.terminate(instance_id),
            written => {
                Bell::ring(&dir);
                written.map_err(io(&dir))
            }
        }
    }

    fn console(&self, instance_id: &str) -> Vec<u8> {
        let read = || -> std::io::Result<Vec<u8>> {
            let mut file = std::fs::File::open(self.instance(instance_id).join("console.log"))?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(CONSOLE_BYTES)))?;
            let mut bytes = Vec::new();
            file.take(CONSOLE_BYTES).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        read().unwrap_or_default()
    }

    fn send_command(&self, instance_id: &str, command: &CommandSpec) -> Result<(), DriverError> {
        let machine = self.instance(instance_id);
        let dir = machine.join("commands").join(&command.command_id);
        let send = || {
            // The supervisor sees all of it or nothing.
            let whole = tempfile::tempdir_in(&machine)?;
            put_json(&whole.path().join("spec.json"), command)?;
            std::fs::rename(whole.path(), &dir)?;
            let _it_is_in_its_place = whole.keep();
            Ok(())
        };
        match send() {
            // It has been sent before.
            Err(_) if dir.exists() => return Ok(()),
            sent => sent.map_err(io(&dir))?,
        }
        Bell::ring(&machine);
        Ok(())
    }

    fn command(&self, instance_id: &str, command_id: &str) -> Option<CommandRecord> {
        let machine = self.instance(instance_id);
        let dir = machine.join("commands").join(command_id);
        let alive = is_locked(&machine);
        if let Ok(record) = get_json::<CommandRecord>(&dir.join("result.json")) {
            let over = !matches!(record.state, CommandState::Waiting | CommandState::Running);
            return Some(if over || alive {
                record
            } else {
                CommandRecord {
                    state: CommandState::Lost,
                    ..record
                }
            });
        }
        dir.join("spec.json").exists().then(|| CommandRecord {
            state: if alive {
                CommandState::Waiting
            } else {
                CommandState::Lost
            },
            exit_code: None,
            started: None,
            ended: None,
            stdout: String::new(),
            stderr: String::new(),
        })
    }

    fn cancel_command(&self, instance_id: &str, command_id: &str) -> Result<(), DriverError> {
        let dir = self.instance(instance_id).join("commands").join(command_id);
        if dir.exists() {
            put_json(&dir.join("cancel"), &()).map_err(io(&dir))
        } else {
            Ok(())
        }
    }

    fn snapshot(&self, spec: &SnapshotSpec) -> Result<(), DriverError> {
        let machine = self.instance(&spec.instance_id);
        let dir = self.snapshot_dir(&spec.snapshot_id);
        if dir.join("chain.json").exists() {
            return Ok(());
        }
        files::make_forest(dir.parent().unwrap_or(&dir)).map_err(io(&dir))?;
        std::fs::create_dir_all(&dir).map_err(io(&dir))?;
        let lock = try_lock(&dir)
            .map_err(io(&dir))?
            .ok_or_else(|| failed(format!("{} is in use", spec.snapshot_id)))?;
        put_json(&dir.join("spec.json"), spec).map_err(io(&dir))?;
        let off = snapshot::freeze(&machine, &dir).map_err(io(&dir))?;
        // Machines start from its layer. The disk is written meanwhile; that of a machine that went on, once somebody asks
        // for it.
        if off {
            self.write_disk(&dir, lock)?;
        }
        Ok(())
    }

    fn snapshot_progress(&self, snapshot_id: &str) -> SnapshotProgress {
        let dir = self.snapshot_dir(snapshot_id);
        let taking = is_locked(&dir);
        let done = is_base_snapshot(snapshot_id) || dir.join("chain.json").exists();
        SnapshotProgress {
            percent: if done { 100 } else { 0 },
            done,
            error: (!done && !taking).then(|| "the process that took it died".to_owned()),
        }
    }

    fn delete_snapshot(&self, snapshot_id: &str) -> Result<(), DriverError> {
        let dir = self.snapshot_dir(snapshot_id);
        if is_base_snapshot(snapshot_id) || !dir.exists() {
            return Ok(());
        }
        put_json(&dir.join("deleted"), &()).map_err(io(&dir))?;
        // A writer at work sees the mark and ends; its lock keeps the directory until then.
        if is_locked(&dir) {
            return Ok(());
        }
        files::remove_disk(&dir).map_err(io(&dir))?;
        self.prune()
    }

    fn disk(&self, snapshot_id: &str) -> Result<SnapshotDisk, DriverError> {
        let dir = self.snapshot_dir(snapshot_id);
        let there = |name| dir.join(name).exists();
        if !there("chain.json") || there("deleted") {
            return Ok(SnapshotDisk::None);
        }
        let state = || match there(MANIFEST) {
            true => SnapshotDisk::At(dir.clone()),
            false => SnapshotDisk::Writing,
        };
        let whole = || there(MANIFEST) && there(REPORT);
        if whole() {
            return Ok(state());
        }
        let Some(lock) = try_lock(&dir).map_err(io(&dir))? else {
            return Ok(state());
        };
        // The writer may have ended in between; one that was killed is followed by another.
        if whole() || (there(MANIFEST) && there(files::FAILED)) {
            return Ok(state());
        }
        match snapshot::take_failure(&dir) {
            Some(reason) => Err(failed(reason)),
            None if self.write_disk(&dir, lock)? || there(MANIFEST) => Ok(state()),
            None => Err(failed("the writer of the disk dies each time".to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deleted_disk_takes_its_manifests_along_and_leaves_a_layer_that_is_needed() {
        let cloud = tempfile::tempdir().unwrap();
        let dir = cloud.path().join("snapshots/snap-1");
        let machine = cloud.path().join("instances/i-1");
        let layer = dir.join("layer");
        std::fs::create_dir_all(&layer).unwrap();
        std::fs::create_dir_all(&machine).unwrap();
        for path in [&dir, &machine] {
            put_json(&path.join("chain.json"), &[&layer]).unwrap();
        }
        let files = ["disk.json", "blocks.json", files::TREE].map(|name| dir.join(name));
        for file in &files {
            std::fs::write(file, "").unwrap();
        }
        let base = cloud.path().join("base");
        let driver = NspawnDriver::new(cloud.path().to_owned(), base, PathBuf::new());
        driver.delete_snapshot("snap-1").unwrap();
        assert!(files.iter().all(|file| !file.exists()));
        assert!(layer.exists());
        remove_machine(&machine).unwrap();
        prune(cloud.path()).unwrap();
        assert!(!dir.exists());
    }
}
