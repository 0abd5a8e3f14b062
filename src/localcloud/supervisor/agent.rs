//! The agent of a machine: takes commands from files and runs them inside, by the rules of the SSM agent.
//!
//! Sources of the rules: amazon-ssm-agent (`appconfig/constants.go`: 24,000 and 8,000 characters of output, five
//! commands at once, exit code 194 for a reboot) and Systems Manager User Guide, "Handling reboots when running
//! commands": the script starts again from its first line.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::process::{Pid, Signal, kill_process_group};
use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set};

use super::cgroup::{self, Part};
use super::exec;
use super::shared::Shared;
use crate::localcloud::driver::{CommandRecord, CommandSpec, CommandState};
use crate::localcloud::nspawn::files::{get_json, put_json};
use crate::localcloud::s3::OutputTarget;

/// "Reboot me and run me again" (`SendCommand` documentation for Linux).
const REBOOT: i32 = 194;
const STDOUT_CHARACTERS: usize = 24_001;
const STDERR_CHARACTERS: usize = 8_001;
/// One command directory of a machine, carried to its end.
pub fn carry_out(dir: &Path, machine: &str, shared: &Arc<Shared>) {
    let mut record = CommandRecord {
        state: CommandState::Running,
        exit_code: None,
        started: Some(Timestamp::now()),
        ended: None,
        stdout: String::new(),
        stderr: String::new(),
    };
    let result = get_json::<CommandSpec>(&dir.join("spec.json")).and_then(|spec| {
        let ran = run(dir, machine, &spec, shared, &mut record);
        if let Some(target) = &spec.output {
            deliver(dir, target);
        }
        ran
    });
    if let Err(error) = result {
        record.state = CommandState::Lost;
        record
            .stderr
            .push_str(&format!("the command could not be run: {error}\n"));
    }
    record.ended = Some(Timestamp::now());
    // With the directory gone there is nobody left to tell.
    let _ = put_json(&dir.join("result.json"), &record);
}

fn run(
    dir: &Path,
    machine: &str,
    spec: &CommandSpec,
    shared: &Arc<Shared>,
    record: &mut CommandRecord,
) -> io::Result<()> {
    put_json(&dir.join("result.json"), record)?;
    let deadline = Instant::now() + Duration::from_secs(spec.execution_timeout);
    loop {
        let Some((leader, boot)) = shared.wait_online(deadline) else {
            record.state = CommandState::TimedOut;
            return Ok(());
        };
        let script = put_script(leader, spec)?;
        let mut command = run_inside(leader, spec, &script)?;
        cgroup::start_in(&mut command, machine, Part::Commands)?;
        let end = once(dir, spec, command, boot, deadline, shared)?;
        record.stdout.push_str(&end.stdout);
        record.stderr.push_str(&end.stderr);
        record.stdout = first(&record.stdout, STDOUT_CHARACTERS);
        record.stderr = first(&record.stderr, STDERR_CHARACTERS);
        record.exit_code = end.exit_code;
        record.state = end.state;
        if end.state != CommandState::Ended || end.exit_code != Some(REBOOT) {
            return Ok(());
        }
        record.state = CommandState::Running;
        put_json(&dir.join("result.json"), record)?;
        shared.request_reboot(boot);
        shared.wait_boot_after(boot, deadline);
    }
}

/// Puts the whole output into its bucket, before anybody hears that the command has ended. As the SSM agent, it has nobody
/// to tell when the bucket does not take it but its log.
fn deliver(dir: &Path, target: &OutputTarget) {
    // `instances/<id>/commands/<id>`
    let instance = dir.ancestors().nth(2).and_then(Path::file_name);
    let instance = instance.map(|id| id.to_string_lossy()).unwrap_or_default();
    for name in ["stdout", "stderr"] {
        let whole = whole(dir, name);
        match target.put_file(&instance, name, &whole) {
            Err(error) if whole.exists() => {
                eprintln!("{name} of {} is in no bucket: {error}", target.command_id);
            }
            _ => {}
        }
        // Nobody reads it any more.
        let _ = std::fs::remove_file(whole);
    }
}

/// The file that gets the output of all runs of a command, for its bucket.
fn whole(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.whole"))
}

struct End {
    state: CommandState,
    exit_code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn once(
    dir: &Path,
    spec: &CommandSpec,
    mut command: Command,
    boot: u64,
    deadline: Instant,
    shared: &Shared,
) -> io::Result<End> {
    let (stdout_path, stderr_path) = (dir.join("stdout"), dir.join("stderr"));
    let (stdout, stderr) = (File::create(&stdout_path)?, File::create(&stderr_path)?);
    let mut child = exec::spawn(command.stdout(stdout).stderr(stderr))?;
    let (state, status) = wait(&mut child, dir, boot, deadline, shared)?;
    let end = End {
        state,
        exit_code: status.and_then(|status| status.code()),
        stdout: head(&stdout_path, STDOUT_CHARACTERS)?,
        stderr: head(&stderr_path, STDERR_CHARACTERS)?,
    };
    for (name, path) in [("stdout", stdout_path), ("stderr", stderr_path)] {
        if spec.output.is_some() {
            let mut all = File::options();
            let mut all = all.append(true).create(true).open(whole(dir, name))?;
            io::copy(&mut File::open(&path)?, &mut all)?;
        }
        std::fs::remove_file(path)?;
    }
    Ok(end)
}

/// Puts the script into the machine, in memory: nothing of it may end up in an image. Gives its path inside.
fn put_script(leader: u32, spec: &CommandSpec) -> io::Result<String> {
    let inside = format!("/run/amazon-ssm-agent/{}", spec.command_id);
    let outside = PathBuf::from(format!("/proc/{leader}/root{inside}"));
    std::fs::create_dir_all(&outside)?;
    exec::put(&outside.join("_script.sh"), &spec.script)?;
    Ok(format!("{inside}/_script.sh"))
}

/// The command that runs the script inside: `sh -c PATH`, as the agent does, so that a first line `#!…` is honoured.
fn run_inside(leader: u32, spec: &CommandSpec, script: &str) -> io::Result<Command> {
    let mut command = enter(leader)?;
    command
        .args(["/bin/sh", "-c", "cd \"$1\" && exec /bin/sh -c \"$2\"", "sh"])
        .arg(spec.working_directory.as_deref().unwrap_or("/"))
        .arg(script)
        .env("SSM_COMMAND_ID", &spec.command_id)
        .stdin(Stdio::null())
        .process_group(0);
    super::die_with_us(&mut command);
    Ok(command)
}

/// A command that goes on inside a machine, with the rights of its init; what is to be run there comes as its further
/// arguments.
///
/// # Errors
/// The machine is gone, or the kernel does not say what it may do.
pub fn enter(leader: u32) -> io::Result<Command> {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--target={leader}"))
        .args([
            "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd", "--",
        ])
        .env_clear()
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .env("HOME", "/root")
        .env("LANG", "C.UTF-8");
    confine(&mut command, leader)?;
    Ok(command)
}

/// Takes from a command what its machine's init does not have: entering a machine's namespaces alone leaves it all the
/// capabilities of this process, and with them the host's kernel.
fn confine(command: &mut Command, leader: u32) -> io::Result<()> {
    let status = std::fs::read_to_string(format!("/proc/{leader}/status"))?;
    let bound = status
        .lines()
        .find_map(|line| line.strip_prefix("CapBnd:"))
        .and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok())
        .ok_or_else(|| io::Error::other("the kernel does not say what the machine may do"))?;
    let excess = CapabilitySet::all() - CapabilitySet::from_bits_truncate(bound);
    // SAFETY: prctl(2) is async-signal-safe, and nothing else happens between fork and exec.
    unsafe {
        command.pre_exec(move || {
            for capability in excess.iter() {
                match remove_capability_from_bounding_set(capability) {
                    // A kernel that does not know it gives it to nobody.
                    Ok(()) | Err(rustix::io::Errno::INVAL) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(())
        });
    }
    Ok(())
}

fn wait(
    child: &mut Child,
    dir: &Path,
    boot: u64,
    deadline: Instant,
    shared: &Shared,
) -> io::Result<(CommandState, Option<ExitStatus>)> {
    // Without one, it is looked at as often as it would be waited for.
    let process = super::pidfd(child.id());
    loop {
        if let Some(status) = child.try_wait()? {
            // A script that is killed by the end of its machine did not end by itself.
            let lost = status.code().is_none() && !shared.is_boot(boot);
            return Ok(if lost {
                (CommandState::Lost, None)
            } else {
                (CommandState::Ended, Some(status))
            });
        }
        let killed = if Instant::now() >= deadline {
            Some(CommandState::TimedOut)
        } else if dir.join("cancel").exists() {
            Some(CommandState::Cancelled)
        } else if !shared.is_boot(boot) {
            Some(CommandState::Lost)
        } else {
            None
        };
        if let Some(state) = killed {
            if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                // It may have ended in between.
                let _ = kill_process_group(group, Signal::KILL);
            }
            child.wait()?;
            return Ok((state, None));
        }
        let waited = match &process {
            Ok(process) => super::poll([&process.as_fd()]),
            Err(_) => Err(io::ErrorKind::Unsupported.into()),
        };
        if waited.is_err() {
            std::thread::sleep(super::LOOK);
        }
    }
}

/// The first characters of a file. A character has at most four bytes.
fn head(path: &Path, characters: usize) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(4 * characters as u64)
        .read_to_end(&mut bytes)?;
    Ok(first(&String::from_utf8_lossy(&bytes), characters))
}

fn first(text: &str, characters: usize) -> String {
    text.chars().take(characters).collect()
}
