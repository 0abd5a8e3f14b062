//! Control groups of each machine: the systemd inside manages no other machine's, and the machine has no more memory, CPU
//! and devices than its type.
//!
//! Hosts have the unified hierarchy, or a hybrid with systemd's named one and the older controllers' beside it (systemd,
//! `CGROUP_DELEGATION`; Linux, `admin-guide/cgroup-v1` and `-v2`). In each, `piaas-bake/<machine>` holds
//!
//! - `keeper`: the supervisor and the network, which no limit may starve;
//! - `machine`: the limits. The machine sees what is below, so its own root cannot lift them;
//! - `machine/box`: where systemd-nspawn starts, and with it the machine (`payload`);
//! - `machine/commands`: what Systems Manager runs in it.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};

use super::devices;
use crate::localcloud::ec2::types::InstanceType;
use crate::localcloud::nspawn::files::subdirectories;

const MOUNT: &str = "/sys/fs/cgroup";
/// Hierarchies below [`MOUNT`]: systemd's, the unified one (there, or beside the others), the older controllers', and
/// those that limit nothing here. A machine is in a group of its own in all of them: what root in it mounts begins there
/// (cgroup_namespaces(7)). The root of a hierarchy has `release_agent`, which the host runs.
const HIERARCHIES: [&str; 16] = [
    "systemd",
    "unified",
    ".",
    "memory",
    "cpu",
    "cpuacct",
    "devices",
    "cpuset",
    "freezer",
    "blkio",
    "pids",
    "net_cls",
    "net_prio",
    "perf_event",
    "hugetlb",
    "misc",
];
/// Those in which systemd-nspawn puts what is inside into a group of its own.
const NAMED: usize = 3;
const GROUP: &str = "piaas-bake";
/// Where systemd-nspawn puts what is inside (`--keep-unit`); its own process is beside it.
const PAYLOAD: &str = "machine/box/payload";
/// The period of the CPU's bandwidth in microseconds, Linux's own default.
const PERIOD: u64 = 100_000;

/// A part of a machine's groups that processes are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Keeper,
    Machine,
    Commands,
}

impl Part {
    const fn path(self) -> &'static str {
        match self {
            Self::Keeper => "keeper",
            Self::Machine => "machine/box",
            Self::Commands => "machine/commands",
        }
    }
}

fn roots(mount: &Path, hierarchies: &[&str]) -> Vec<PathBuf> {
    let all = hierarchies.iter().map(|name| mount.join(name));
    all.filter(|root| root.join("cgroup.procs").exists())
        .collect()
}

fn groups(machine: &str) -> impl Iterator<Item = PathBuf> + use<> {
    let name = format!("{GROUP}/{machine}");
    let roots = roots(Path::new(MOUNT), &HIERARCHIES);
    roots.into_iter().map(move |root| root.join(&name))
}

/// Nobody else on this host makes groups or removes them meanwhile: groups in which nothing runs are of a machine that is
/// gone, and not of one that another cloud is just about to start.
fn alone() -> io::Result<File> {
    let mount = File::open(MOUNT)?;
    flock(&mount, FlockOperation::LockExclusive)?;
    Ok(mount)
}

/// Makes the machine's groups with the limits of its type, and moves this process, and so all its later children, into the
/// keeper's.
///
/// # Errors
/// The kernel refuses.
pub fn enter(machine: &str, kind: &InstanceType) -> io::Result<()> {
    let _alone = alone()?;
    for root in roots(Path::new(MOUNT), &HIERARCHIES) {
        // What the last start left, with all that it was told.
        remove_tree(&root.join(GROUP).join(machine));
        let limited = root.join(GROUP).join(machine).join("machine");
        std::fs::create_dir_all(&limited)?;
        // Before there is a group below it: the older controller wants it so.
        devices::confine(&limited)?;
        let group = make(&root, machine, kind)?;
        let keeper = group.join(Part::Keeper.path());
        std::fs::write(keeper.join("cgroup.procs"), std::process::id().to_string())?;
    }
    Ok(())
}

/// The groups of a machine in one hierarchy.
fn make(root: &Path, machine: &str, kind: &InstanceType) -> io::Result<PathBuf> {
    let group = root.join(GROUP).join(machine);
    let limited = group.join("machine");
    for part in [Part::Keeper, Part::Machine, Part::Commands] {
        let mut above = root.to_path_buf();
        for name in &Path::new(GROUP).join(machine).join(part.path()) {
            let below = above.join(name);
            std::fs::create_dir_all(&below)?;
            inherit(&above, &below)?;
            above = below;
        }
    }
    for above in [root, &root.join(GROUP), &group, &limited] {
        delegate(above);
    }
    limit(&limited, kind)?;
    // Enforced by the one above; this one the machine sees.
    limit(&group.join(Part::Machine.path()), kind)?;
    Ok(group)
}

/// A new group of the older `cpuset` has no processors and no memory nodes, and then no process may enter it.
fn inherit(above: &Path, group: &Path) -> io::Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        // In the unified hierarchy, an empty one is the one above's.
        if group.join("cpuset.cpu_exclusive").exists() {
            std::fs::write(group.join(file), std::fs::read(above.join(file))?)?;
        }
    }
    Ok(())
}

/// Lets the machine see its limits, once systemd-nspawn has made its group: in the unified hierarchy that is its root.
///
/// # Errors
/// The kernel refuses.
pub fn show(machine: &str, kind: &InstanceType) -> io::Result<()> {
    for group in groups(machine) {
        limit(&group.join(PAYLOAD), kind)?;
    }
    Ok(())
}

/// Hands the controllers to the groups below, in the unified hierarchy. A host that is a container itself may not; what it
/// has no controller for is not limited, and `doctor` says so.
fn delegate(group: &Path) {
    let there = std::fs::read_to_string(group.join("cgroup.controllers")).unwrap_or_default();
    for controller in ["memory", "cpu"] {
        if there.split_whitespace().any(|name| name == controller) {
            let _refused = std::fs::write(
                group.join("cgroup.subtree_control"),
                format!("+{controller}"),
            );
        }
    }
}

/// Writes the limits that this group has files for.
fn limit(group: &Path, kind: &InstanceType) -> io::Result<()> {
    let memory = (u64::from(kind.memory_mib) << 20).to_string();
    let quota = u64::from(kind.vcpus) * PERIOD;
    for (file, value) in [
        ("memory.max", memory.clone()),
        // Instances have no swap.
        ("memory.swap.max", "0".to_owned()),
        ("memory.limit_in_bytes", memory.clone()),
        ("memory.memsw.limit_in_bytes", memory),
        ("cpu.max", format!("{quota} {PERIOD}")),
        ("cpu.cfs_period_us", PERIOD.to_string()),
        ("cpu.cfs_quota_us", quota.to_string()),
    ] {
        let path = group.join(file);
        if path.exists() {
            std::fs::write(&path, value).map_err(|error| {
                io::Error::new(error.kind(), format!("{}: {error}", path.display()))
            })?;
        }
    }
    Ok(())
}

/// Which of memory and CPU this host cannot limit.
#[must_use]
pub fn missing() -> Vec<&'static str> {
    let mount = Path::new(MOUNT);
    let unified = ["unified", "."].map(|name| mount.join(name).join("cgroup.controllers"));
    let unified = unified.map(|file| std::fs::read_to_string(file).unwrap_or_default());
    let has = |name: &str| {
        let there = |list: &String| list.split_whitespace().any(|other| other == name);
        mount.join(name).join("cgroup.procs").exists() || unified.iter().any(there)
    };
    let mut names = vec!["memory", "cpu"];
    names.retain(|name| !has(name));
    names
}

/// Lets a command start in a part of the machine's groups.
///
/// # Errors
/// The groups are not there.
pub fn start_in(command: &mut Command, machine: &str, part: Part) -> io::Result<()> {
    let mut lists = Vec::new();
    for group in groups(machine) {
        let list = group.join(part.path()).join("cgroup.procs");
        lists.push(File::options().write(true).open(list)?);
    }
    // SAFETY: write(2) is async-signal-safe, and nothing else happens between fork and exec.
    unsafe {
        command.pre_exec(move || {
            for list in &lists {
                // 0 is the process that writes (cgroups(7)).
                rustix::io::write(list, b"0")?;
            }
            Ok(())
        });
    }
    Ok(())
}

/// Moves this process out of the machine's groups, in which nothing else runs any more, and removes them: a group with a
/// process in it cannot be removed. Where the kernel refuses, `cloud gc` finds the empty group later.
pub fn leave(machine: &str) {
    let _alone = alone();
    for root in roots(Path::new(MOUNT), &HIERARCHIES) {
        let _refused = std::fs::write(root.join("cgroup.procs"), std::process::id().to_string());
    }
    remove_groups(machine);
}

/// Ends all that runs in the machine, its init first of all.
///
/// Killing systemd-nspawn is not enough: the machine's init is no child that dies with it, and goes on as an orphan, with
/// every service.
///
/// # Errors
/// A process does not end.
pub fn kill_machine(machine: &str) -> io::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    let payload = format!("{GROUP}/{machine}/{PAYLOAD}");
    loop {
        let named = roots(Path::new(MOUNT), &HIERARCHIES[..NAMED]);
        let inside: Vec<u32> = named
            .into_iter()
            .flat_map(|root| members(&root.join(&payload)))
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
            return Err(io::Error::other(message));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Removes the machine's groups once nothing runs in them. The kernel keeps those that are in use.
pub fn remove(machine: &str) {
    let _alone = alone();
    remove_groups(machine);
}

/// Removes the machine's groups, if nothing runs in them now.
pub fn remove_abandoned(machine: &str) {
    let _alone = alone();
    if is_empty(machine) {
        remove_groups(machine);
    }
}

fn remove_groups(machine: &str) {
    for group in groups(machine) {
        remove_tree(&group);
        // The parent, if this was its last machine.
        if let Some(parent) = group.parent() {
            let _in_use = std::fs::remove_dir(parent);
        }
    }
}

/// Names of the machines that have groups in which nothing runs.
#[must_use]
pub fn abandoned() -> Vec<String> {
    let _alone = alone();
    let parents = roots(Path::new(MOUNT), &HIERARCHIES)
        .into_iter()
        .map(|root| root.join(GROUP));
    let mut names: Vec<String> = parents
        .flat_map(|parent| subdirectories(&parent))
        .filter_map(|group| group.file_name()?.to_str().map(str::to_owned))
        .collect();
    names.sort();
    names.dedup();
    names.retain(|machine| is_empty(machine));
    names
}

/// Groups are removed leaves first; their files go with them.
fn remove_tree(group: &Path) {
    for below in subdirectories(group) {
        remove_tree(&below);
    }
    let _in_use = std::fs::remove_dir(group);
}

/// Whether no process is in the machine's groups.
fn is_empty(machine: &str) -> bool {
    groups(machine).all(|group| members(&group).is_empty())
}

/// The processes in a group and below it; none if it is not there.
fn members(group: &Path) -> Vec<u32> {
    let list = std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    let mut found: Vec<u32> = list.lines().filter_map(|line| line.parse().ok()).collect();
    let below = subdirectories(group).into_iter();
    found.extend(below.flat_map(|group| members(&group)));
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::localcloud::ec2::types;

    #[test]
    fn limits_are_those_of_the_type_in_either_generation() {
        let root = tempfile::tempdir().unwrap();
        let group = root.path().join("g");
        std::fs::create_dir(&group).unwrap();
        for file in [
            "memory.max",
            "cpu.max",
            "memory.limit_in_bytes",
            "cpu.cfs_quota_us",
        ] {
            std::fs::write(group.join(file), "").unwrap();
        }
        limit(&group, types::find("c7a.medium").unwrap()).unwrap();
        let read = |file: &str| std::fs::read_to_string(group.join(file)).unwrap();
        assert_eq!(read("memory.max"), "2147483648");
        assert_eq!(read("cpu.max"), "100000 100000");
        assert_eq!(read("memory.limit_in_bytes"), "2147483648");
        assert_eq!(read("cpu.cfs_quota_us"), "100000");
        assert!(!group.join("memory.swap.max").exists(), "no file is made");
    }

    #[test]
    fn controllers_are_handed_down_as_far_as_the_limits() {
        let root = tempfile::tempdir().unwrap();
        let kind = types::find("t3.micro").unwrap();
        let group = make(root.path(), "i-1", kind).unwrap();
        for above in [root.path(), &group] {
            std::fs::write(above.join("cgroup.controllers"), "cpuset cpu memory").unwrap();
        }
        assert_eq!(make(root.path(), "i-1", kind).unwrap(), group);
        for above in [root.path(), &group] {
            // A file of the kernel keeps both; here the last one written is left.
            let handed = std::fs::read_to_string(above.join("cgroup.subtree_control")).unwrap();
            assert_eq!(handed, "+cpu");
        }
        remove_tree(&group.join("machine"));
    }
}
