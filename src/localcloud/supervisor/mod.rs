//! The process that runs one machine (hidden verb `local-machine`).
//!
//! It holds the machine's lock, mount namespace, network namespace and control group, boots the machine with
//! systemd-nspawn, answers its metadata service, runs its commands and ends it. All its children die with it, and all
//! that it mounted vanishes with its namespace: `kill -9` leaves files and empty control groups, nothing else.

mod agent;
pub mod cgroup;
mod devices;
mod exec;
mod gateway;
pub mod imds;
mod network;
mod room;
mod shared;

pub use agent::enter;

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use super::driver::{LaunchSpec, Power};
use super::ec2::types::{self, InstanceType};
use super::nspawn::files::{
    Bell, DEBS as DEBS_NOTE, Status, Want, get_json, put_json, remove_dir, remove_machine,
    subdirectories,
};
use super::nspawn::snapshot::lower_layers;
use super::nspawn::{overlay, prune};
use cgroup::Part;
use network::Network;
use shared::Shared;

/// systemd-nspawn's exit code for "boot me again" (systemd-nspawn(1), `--keep-unit`).
const REBOOT_EXIT: i32 = 133;
/// systemd(1), "Signals": SIGRTMIN+4 powers off, SIGRTMIN+5 reboots. SIGRTMIN is 34 with glibc.
const POWER_OFF: i32 = 38;
const REBOOT: i32 = 39;
/// How long an orderly shutdown may take, as systemd's own `DefaultTimeoutStopSec`.
const GRACE: Duration = Duration::from_secs(90);
/// How long the supervisor waits for news before it looks for itself.
const LOOK: Duration = Duration::from_millis(20);
/// How often it looks who takes most of a disk that is nearly full: all files of all machines are looked at.
const COMPARE: Duration = Duration::from_secs(1);
/// What tells the machine its DNS server; it is in memory, and seen in the supervisor's mount namespace alone.
const RESOLVED: &str = "/run/systemd/nspawn/piaas-bake.resolved.conf";
/// What the machine sees as its host's os-release(5): a copy in memory, for the same reason.
const OS_RELEASE: &str = "/run/systemd/nspawn/piaas-bake.os-release";
/// The files of packages that this host has, as the supervisor mounts them.
const DEBS: &str = "/run/systemd/nspawn/piaas-bake.debs";
/// Where the machine sees them (`templates/locked.fetch.sh`).
const DEBS_INSIDE: &str = "/run/piaas-bake/debs";
/// Commands at once (amazon-ssm-agent, `CommandWorkersLimit`).
const WORKERS: usize = 5;

/// Runs the machine in `dir` to its end.
#[must_use]
pub fn main(dir: &Path) -> ExitCode {
    let result = Supervisor::start(dir).and_then(|mut supervisor| supervisor.run());
    match result {
        Ok(End::Off { from_inside }) => {
            last_word(dir, Power::Off, None, from_inside);
            ExitCode::SUCCESS
        }
        Ok(End::NoRoom { left }) => {
            let mut reason = format!(
                "it had filled the disk of this host, of which {left} were left: it was ended, and its files are gone"
            );
            if let Err(error) = make_room(dir) {
                reason = format!("{reason}; no, they are not: {error}");
            }
            last_word(dir, Power::Failed, Some(reason), false);
            ExitCode::FAILURE
        }
        Ok(End::Terminated) => match remove(dir) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("cannot remove {}: {error}", dir.display());
                ExitCode::FAILURE
            }
        },
        Err(error) => {
            last_word(dir, Power::Failed, Some(error.to_string()), false);
            ExitCode::FAILURE
        }
    }
}

/// Removes the machine in `dir`, and layers that only it needed.
fn remove(dir: &Path) -> io::Result<()> {
    rustix::mount::unmount(dir.join("root"), rustix::mount::UnmountFlags::DETACH)?;
    // Its directory is the last thing to go: as long as it is there, the machine is not gone.
    let id = dir.file_name().unwrap_or_default().to_string_lossy();
    cgroup::leave(&id);
    remove_machine(dir)?;
    if let Some(cloud) = dir.parent().and_then(Path::parent) {
        prune(cloud)?;
    }
    Ok(())
}

/// Removes what a machine has written, whose end was that it wrote too much.
fn make_room(dir: &Path) -> io::Result<()> {
    rustix::mount::unmount(dir.join("root"), rustix::mount::UnmountFlags::DETACH)?;
    remove_dir(&dir.join("upper"))
}

/// If this cannot be written, the free lock tells that the supervisor has died.
fn last_word(dir: &Path, power: Power, reason: Option<String>, shut_down_from_inside: bool) {
    let status = Status {
        power,
        agent_online_since: None,
        reason,
        shut_down_from_inside,
        leader: None,
    };
    let _ = put_json(&dir.join("status.json"), &status);
}

/// A process that ends with this value.
struct Helper(Child);

impl Drop for Helper {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How a machine ended.
enum End {
    Off {
        from_inside: bool,
    },
    Terminated,
    /// It had filled this host's disk, but for this.
    NoRoom {
        left: String,
    },
}

struct Supervisor {
    dir: PathBuf,
    spec: LaunchSpec,
    network: Network,
    _slirp: Helper,
    notify: UnixDatagram,
    bell: Bell,
    shared: Arc<Shared>,
    busy: Arc<AtomicUsize>,
    /// Commands that have been taken.
    taken: Vec<PathBuf>,
    /// The last request to boot again that was met.
    rebooted_for: u64,
    status: Status,
}

/// Lays a copy over this host's os-release(5), in this namespace alone: systemd-nspawn binds what is there into the
/// machine (`/run/host/os-release`), where root can mount it anew for writing.
fn hide_os_release() -> io::Result<()> {
    let paths = ["/etc/os-release", "/usr/lib/os-release"].map(std::fs::canonicalize);
    let paths: BTreeSet<PathBuf> = paths.into_iter().flatten().collect();
    for (number, path) in paths.iter().enumerate() {
        let copy = format!("{OS_RELEASE}.{number}");
        std::fs::copy(path, &copy)?;
        rustix::mount::mount_bind(&copy, path)?;
    }
    Ok(())
}

/// Mounts the files of packages that this host has, if it has any. An overlay without a layer of its own to write to:
/// unlike a directory of the host's, root in a machine cannot mount that anew for writing.
fn offer_debs(dir: &Path) -> io::Result<()> {
    // A machine that an older version launched has no note of them.
    let Ok(debs) = get_json::<PathBuf>(&dir.join(DEBS_NOTE)) else {
        return Ok(());
    };
    if !debs.is_dir() {
        return Ok(());
    }
    let nothing = PathBuf::from(format!("{DEBS}.none"));
    std::fs::create_dir(&nothing)?;
    std::fs::create_dir(DEBS)?;
    overlay::mount_layers(&[debs, nothing], Path::new(DEBS))
}

impl Supervisor {
    fn start(dir: &Path) -> io::Result<Self> {
        overlay::private_namespace()?;
        let spec: LaunchSpec = get_json(&dir.join("spec.json"))?;
        // What is left of a supervisor that was killed.
        cgroup::kill_machine(&spec.instance_id)?;
        cgroup::enter(&spec.instance_id, kind_of(&spec)?)?;
        let lower = lower_layers(dir)?;
        let at = |name: &str| dir.join(name);
        // The kernel wants an empty work directory of the last mount's features.
        remove_dir(&at("work"))?;
        std::fs::create_dir(at("work"))?;
        overlay::mount_root(&lower, &at("upper"), &at("work"), &at("root"))?;
        // nspawn's own notes stay in this namespace too.
        std::fs::create_dir_all("/run/systemd/nspawn")?;
        rustix::mount::mount(
            "tmpfs",
            "/run/systemd/nspawn",
            "tmpfs",
            rustix::mount::MountFlags::empty(),
            None,
        )?;
        // Not beside the machine's own files: a file of the host's disk inside would be a handle on all of them.
        std::fs::write(
            RESOLVED,
            format!("[Resolve]\nDNS={}\n", network::dns(&spec.private_ip)),
        )?;
        hide_os_release()?;
        offer_debs(dir)?;
        let network = Network::new()?;
        let slirp = network.connect(&spec.private_ip)?;
        imds::serve(network.metadata.try_clone()?, spec.clone(), dir)?;
        if let Some(cloud) = dir.parent().and_then(Path::parent) {
            gateway::serve(network.outlet()?, cloud)?;
        }
        let address = SocketAddr::from_abstract_name(format!(
            "piaas-bake/{}/{}",
            spec.instance_id,
            std::process::id()
        ))?;
        let notify = UnixDatagram::bind_addr(&address)?;
        notify.set_nonblocking(true)?;
        Ok(Self {
            dir: dir.to_path_buf(),
            spec,
            network,
            _slirp: Helper(slirp),
            notify,
            bell: Bell::hang(dir)?,
            shared: Arc::new(Shared::default()),
            busy: Arc::new(AtomicUsize::new(0)),
            taken: Vec::new(),
            rebooted_for: 0,
            status: Status::starting(),
        })
    }

    fn run(&mut self) -> io::Result<End> {
        loop {
            self.shared.booting();
            let mut payload = self.boot()?;
            let end = self.watch(&mut payload);
            cgroup::kill_machine(&self.spec.instance_id)?;
            // Whatever happened: no command outlives its boot.
            let again = matches!(end, Ok(None));
            self.shared.offline(!again);
            self.set(|status| status.agent_online_since = None)?;
            match end? {
                Some(end) => {
                    self.finish_commands();
                    return Ok(end);
                }
                None => self.set(|status| status.power = Power::Running)?,
            }
        }
    }

    /// Commands write their last word before the machine's end is told.
    fn finish_commands(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.busy.load(Ordering::SeqCst) > 0 && Instant::now() < deadline {
            std::thread::sleep(LOOK);
        }
    }

    fn boot(&self) -> io::Result<Child> {
        let console = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.join("console.log"))?;
        let name = format!("ip-{}", self.spec.private_ip.replace('.', "-"));
        let mut bind = std::ffi::OsString::from("--bind-ro=");
        bind.push(RESOLVED);
        bind.push(":/run/systemd/resolved.conf.d/local.conf");
        let debs = Path::new(DEBS)
            .is_dir()
            .then(|| format!("--bind-ro={DEBS}:{DEBS_INSIDE}"));
        let mut namespace = std::ffi::OsString::from("--network-namespace-path=");
        namespace.push(self.network.path());
        let mut command = Command::new("systemd-nspawn");
        command
            .args([
                "--quiet",
                "--settings=no",
                "--register=no",
                "--keep-unit",
                "--boot",
                "--notify-ready=yes",
                // It opens any file by its number, whatever is mounted (open_by_handle_at(2)).
                "--drop-capability=CAP_DAC_READ_SEARCH",
            ])
            .args([
                "--console=pipe",
                "--resolv-conf=off",
                "--timezone=off",
                "--link-journal=no",
            ])
            // For its init, which hands it to units that ask: `PassEnvironment=AWS_ENDPOINT_URL` (systemd.exec(5)). On
            // AWS there is none, and the same unit talks to AWS.
            .arg(format!(
                "--setenv=AWS_ENDPOINT_URL={}",
                super::MACHINE_ENDPOINT
            ))
            .arg(format!("--machine={}", self.spec.instance_id))
            .arg(format!("--hostname={name}"))
            .arg(namespace)
            .arg(bind)
            .args(debs)
            .arg("--directory")
            .arg(self.dir.join("root"))
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env(
                "NOTIFY_SOCKET",
                format!(
                    "@piaas-bake/{}/{}",
                    self.spec.instance_id,
                    std::process::id()
                ),
            )
            .stdin(Stdio::null())
            .stdout(console.try_clone()?)
            .stderr(console);
        die_with_us(&mut command);
        cgroup::start_in(&mut command, &self.spec.instance_id, Part::Machine)?;
        exec::spawn(&mut command).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("cannot start systemd-nspawn: {error}"),
            )
        })
    }

    /// Looks after one boot. `None`: boot again.
    fn watch(&mut self, payload: &mut Child) -> io::Result<Option<End>> {
        let mut leader: Option<u32> = None;
        let mut asked: Option<Want> = None;
        let mut deadline: Option<Instant> = None;
        let process = pidfd(payload.id())?;
        let mut compared: Option<Instant> = None;
        loop {
            self.listen(&process)?;
            if let Some(left) = room::shortage(&self.dir)?
                && compared.is_none_or(|at| at.elapsed() >= COMPARE)
            {
                if room::is_largest(&self.dir) {
                    return Ok(Some(End::NoRoom { left }));
                }
                compared = Some(Instant::now());
            }
            self.news(&mut leader)?;
            if let Some(status) = payload.try_wait()? {
                return self.ended(status, leader, asked);
            }
            let want = get_json::<Want>(&self.dir.join("want")).unwrap_or(Want::Run);
            // Before its init is there, nobody inside can be asked.
            let unasked = want == Want::ShutDown && leader.is_none();
            if matches!(want, Want::Terminate | Want::ForceStop) || unasked {
                kill(payload.id(), libc_signal(9))?;
                payload.wait()?;
                return Ok(Some(if want.is_end() {
                    End::Terminated
                } else {
                    End::Off { from_inside: false }
                }));
            }
            let reboot = self.shared.take_reboot()
                || matches!(want, Want::Reboot(number) if number != self.rebooted_for);
            if let Want::Reboot(number) = want {
                self.rebooted_for = number;
            }
            let off = matches!(want, Want::Stop | Want::ShutDown);
            if let Some(leader) = leader
                && asked.is_none()
                && (off || reboot)
            {
                asked = Some(if off {
                    want
                } else {
                    Want::Reboot(self.rebooted_for)
                });
                if want == Want::Stop {
                    self.set(|status| status.power = Power::Stopping)?;
                }
                self.shared.offline(false);
                self.set(|status| status.agent_online_since = None)?;
                kill(leader, libc_signal(if off { POWER_OFF } else { REBOOT }))?;
                deadline = Some(Instant::now() + GRACE);
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                kill(payload.id(), libc_signal(9))?;
                deadline = None;
            }
            if asked.is_none() {
                self.take_commands();
            }
        }
    }

    /// Waits a moment for a word from nspawn, its end, or somebody who rings.
    fn listen(&self, process: &OwnedFd) -> io::Result<()> {
        poll([&self.notify.as_fd(), &self.bell.as_fd(), &process.as_fd()])?;
        self.bell.silence();
        Ok(())
    }

    /// Reads what nspawn tells (sd_notify(3)).
    fn news(&mut self, leader: &mut Option<u32>) -> io::Result<()> {
        let mut buffer = [0; 4096];
        let length = match self.notify.recv(&mut buffer) {
            Ok(length) => length,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                0
            }
            Err(error) => return Err(error),
        };
        for line in String::from_utf8_lossy(&buffer[..length]).lines() {
            if let Some(pid) = line.strip_prefix("X_NSPAWN_LEADER_PID=") {
                *leader = pid.trim().parse().ok();
                cgroup::show(&self.spec.instance_id, kind_of(&self.spec)?)?;
                let pid = *leader;
                self.set(|status| {
                    status.power = Power::Running;
                    status.leader = pid;
                })?;
            } else if line == "READY=1"
                && let Some(leader) = *leader
                && !self.shared.is_online()
                && !self.spec.silent
            {
                self.shared.online(leader);
                self.set(|status| status.agent_online_since = Some(Timestamp::now()))?;
            }
        }
        Ok(())
    }

    fn ended(
        &self,
        status: ExitStatus,
        leader: Option<u32>,
        asked: Option<Want>,
    ) -> io::Result<Option<End>> {
        // Whoever asked last, and whatever was on its way.
        if get_json(&self.dir.join("want")).is_ok_and(Want::is_end) {
            return Ok(Some(End::Terminated));
        }
        if status.code() == Some(REBOOT_EXIT) || matches!(asked, Some(Want::Reboot(_))) {
            return Ok(None);
        }
        match (asked, leader) {
            (Some(_), _) => Ok(Some(End::Off { from_inside: false })),
            (None, Some(_)) if status.success() => Ok(Some(End::Off { from_inside: true })),
            _ => {
                let console = std::fs::read(self.dir.join("console.log")).unwrap_or_default();
                let text = String::from_utf8_lossy(&console);
                let last: Vec<&str> = text.lines().rev().take(3).collect();
                let last: Vec<&str> = last.into_iter().rev().collect();
                Err(io::Error::other(format!(
                    "the machine ended with {status}: {}",
                    last.join(" / ")
                )))
            }
        }
    }

    /// Starts commands that nobody has taken yet, oldest first, up to the agent's limit.
    fn take_commands(&mut self) {
        let mut waiting: Vec<(std::time::SystemTime, PathBuf)> =
            subdirectories(&self.dir.join("commands"))
                .into_iter()
                .filter(|dir| !self.taken.contains(dir) && !dir.join("result.json").exists())
                .filter_map(|dir| {
                    Some((dir.join("spec.json").metadata().ok()?.modified().ok()?, dir))
                })
                .collect();
        waiting.sort();
        for (_, dir) in waiting {
            if !self.shared.is_online() || self.busy.load(Ordering::SeqCst) >= WORKERS {
                return;
            }
            self.busy.fetch_add(1, Ordering::SeqCst);
            self.taken.push(dir.clone());
            let (shared, busy) = (Arc::clone(&self.shared), Arc::clone(&self.busy));
            let machine = self.spec.instance_id.clone();
            std::thread::spawn(move || {
                agent::carry_out(&dir, &machine, &shared);
                busy.fetch_sub(1, Ordering::SeqCst);
            });
        }
    }

    fn set(&mut self, change: impl FnOnce(&mut Status)) -> io::Result<()> {
        change(&mut self.status);
        put_json(&self.dir.join("status.json"), &self.status)
    }
}

fn kind_of(spec: &LaunchSpec) -> io::Result<&'static InstanceType> {
    types::find(&spec.instance_type).map_err(|error| io::Error::other(error.message))
}

/// A signal by number; real-time signals have no other name.
fn libc_signal(number: i32) -> Signal {
    // SAFETY: 9, 38 and 39 are signals of Linux that the C library does not keep for itself.
    unsafe { Signal::from_raw_unchecked(number) }
}

fn kill(process: u32, signal: Signal) -> io::Result<()> {
    let Some(pid) = i32::try_from(process).ok().and_then(Pid::from_raw) else {
        return Ok(());
    };
    match kill_process(pid, signal) {
        // It is over already.
        Err(rustix::io::Errno::SRCH) => Ok(()),
        other => Ok(other?),
    }
}

/// A process of ours, to be waited for.
fn pidfd(process: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(process).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or(io::ErrorKind::InvalidInput)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// Waits until one of these can be read, for [`LOOK`] at most.
fn poll<const N: usize>(these: [&BorrowedFd<'_>; N]) -> io::Result<()> {
    let mut these = these.map(|fd| PollFd::new(fd, PollFlags::IN));
    let look = Timespec::try_from(LOOK).map_err(io::Error::other)?;
    match rustix::event::poll(&mut these, Some(&look)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The child is killed when the thread that starts it ends, however that comes.
fn die_with_us(command: &mut Command) {
    // SAFETY: prctl is async-signal-safe, and nothing else happens between fork and exec.
    unsafe {
        command.pre_exec(|| {
            Ok(rustix::process::set_parent_process_death_signal(Some(
                Signal::KILL,
            ))?)
        });
    }
}

/// Lets children inherit a descriptor.
fn inherit(fd: &impl AsFd) -> io::Result<()> {
    Ok(rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())?)
}
