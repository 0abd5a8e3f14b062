//! A control group of its own for each machine, so that the systemd inside manages no other machine's.
//!
//! Hosts have the unified hierarchy, or a hybrid with systemd's named one beside it (systemd, `CGROUP_DELEGATION`).

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

const ROOTS: [&str; 3] = [
    "/sys/fs/cgroup/systemd",
    "/sys/fs/cgroup/unified",
    "/sys/fs/cgroup",
];

fn groups(machine: &str) -> impl Iterator<Item = PathBuf> + use<> {
    let name = format!("piaas-bake/{machine}");
    ROOTS
        .into_iter()
        .map(PathBuf::from)
        .filter(|root| root.join("cgroup.procs").exists())
        .map(move |root| root.join(&name))
}

/// Moves this process, and so all its later children, into the machine's groups.
///
/// # Errors
/// The kernel refuses.
pub fn enter(machine: &str) -> std::io::Result<()> {
    for group in groups(machine) {
        std::fs::create_dir_all(&group)?;
        std::fs::write(group.join("cgroup.procs"), std::process::id().to_string())?;
    }
    Ok(())
}

/// Moves this process out again: a group with a process in it cannot be removed. Where the kernel refuses, `cloud gc`
/// finds the empty group later.
pub fn leave() {
    for root in ROOTS.map(PathBuf::from) {
        let list = root.join("cgroup.procs");
        if list.exists() {
            let _refused = std::fs::write(list, std::process::id().to_string());
        }
    }
}

/// Ends all that runs in the machine, its init first of all.
///
/// Killing systemd-nspawn is not enough: the machine's init is no child that dies with it, and goes on as an orphan, with
/// every service.
///
/// # Errors
/// A process does not end.
pub fn kill_machine(machine: &str) -> std::io::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        // Where systemd-nspawn puts what is inside (`--keep-unit`); its own process and ours are beside it.
        let inside: Vec<u32> = groups(machine)
            .flat_map(|group| members(&group.join("payload")))
            .collect();
        if inside.is_empty() {
            return Ok(());
        }
        for process in &inside {
            let pid = i32::try_from(*process).ok().and_then(Pid::from_raw);
            if let Some(pid) = pid {
                // It may have ended since.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        if Instant::now() >= deadline {
            let message = format!("processes of {machine} do not end: {inside:?}");
            return Err(std::io::Error::other(message));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Removes the machine's groups once nothing runs in them. The kernel keeps those that are in use.
pub fn remove(machine: &str) {
    for group in groups(machine) {
        remove_tree(&group);
        // The parent, if this was its last machine.
        if let Some(parent) = group.parent() {
            let _in_use = std::fs::remove_dir(parent);
        }
    }
}

/// Names of the machines that have groups.
#[must_use]
pub fn machines() -> Vec<String> {
    let parents = ROOTS
        .into_iter()
        .map(|root| PathBuf::from(root).join("piaas-bake"));
    let mut names: Vec<String> = parents
        .flat_map(|parent| std::fs::read_dir(parent).into_iter().flatten().flatten())
        .filter(|entry| entry.path().is_dir())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names.dedup();
    names
}

/// Groups are removed leaves first; their files go with them.
fn remove_tree(group: &std::path::Path) {
    for entry in std::fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_tree(&entry.path());
        }
    }
    let _in_use = std::fs::remove_dir(group);
}

/// Whether no process is in the machine's groups.
#[must_use]
pub fn is_empty(machine: &str) -> bool {
    groups(machine).all(|group| members(&group).is_empty())
}

/// The processes in a group and below it; none if it is not there.
fn members(group: &std::path::Path) -> Vec<u32> {
    let list = std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    let mut found: Vec<u32> = list.lines().filter_map(|line| line.parse().ok()).collect();
    let below = std::fs::read_dir(group)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().is_dir());
    found.extend(below.flat_map(|entry| members(&entry.path())));
    found
}
