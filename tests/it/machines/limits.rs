//! A machine has the memory and the CPU of its type, and no more.

use std::collections::BTreeMap;

use super::*;

/// What limits a machine, in the hierarchy that has the controller: the unified one, or the older one beside it.
fn limits_of(controller: &str, machine: &str) -> PathBuf {
    let mount = Path::new("/sys/fs/cgroup");
    let at = |root: PathBuf| root.join("piaas-bake").join(machine).join("machine");
    [mount.join(controller), mount.join("unified"), mount.into()]
        .map(at)
        .into_iter()
        .find(|group| {
            [
                "memory.max",
                "memory.limit_in_bytes",
                "cpu.max",
                "cpu.cfs_quota_us",
            ]
            .iter()
            .any(|file| file.starts_with(controller) && group.join(file).exists())
        })
        .unwrap_or_else(|| panic!("{machine} has no group that limits {controller}"))
}

/// The numbers of a file with a name and a number on each line.
fn numbers(file: &Path) -> BTreeMap<String, u64> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let (name, value) = line.split_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        })
        .collect()
}

/// Processes that were killed in a group, or below it, because there was no memory left for them.
fn killed_for_memory(group: &Path) -> u64 {
    let own = ["memory.oom_control", "memory.events.local"].map(|name| numbers(&group.join(name)));
    let own: u64 = own.iter().filter_map(|file| file.get("oom_kill")).sum();
    let below = std::fs::read_dir(group).unwrap().flatten();
    let below = below.filter(|entry| entry.path().is_dir());
    own + below
        .map(|entry| killed_for_memory(&entry.path()))
        .sum::<u64>()
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_beyond_that_of_the_type_is_not_had_and_nobody_else_suffers() {
    let Some(cloud) = Cloud::open("the memory of a real machine").await else {
        return;
    };
    let (machine, other) = (cloud.launch().await, cloud.launch().await);
    let mut on_host = std::process::Command::new("sleep")
        .arg("600")
        .spawn()
        .unwrap();
    let (_, _, started, _) = cloud
        .run(
            &other,
            "systemd-run --quiet --unit=bystander sleep 600; systemctl show -p MainPID bystander",
            60,
        )
        .await;

    // It sees its size, 1 GiB.
    let look = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max";
    let (_, _, size, err) = cloud.run(&machine, look, 60).await;
    assert_eq!(size, "1073741824\n", "{err}");

    let group = limits_of("memory", &machine);
    assert_eq!(killed_for_memory(&group), 0);
    // What it may have it gets.
    let taker = "echo '$x = \"x\" x ($ARGV[0] << 20); print length $x' >/root/take.pl";
    cloud.run(&machine, taker, 60).await;
    let take = |mib: u32| format!("perl /root/take.pl {mib}");
    let (_, code, out, err) = cloud.run(&machine, &take(400), 60).await;
    assert_eq!((code, out.as_str()), (0, "419430400"), "{err}");
    let (status, _, out, err) = cloud.run(&machine, &take(1500), 60).await;
    assert_eq!((status.as_str(), out.as_str()), ("Failed", ""), "{err}");
    let by_command = killed_for_memory(&group);
    assert!(by_command > 0, "the kernel has killed nobody in it");
    // Nor does a service of its own.
    let service = format!("systemd-run --quiet --wait {}", take(1500));
    let (status, _, _, err) = cloud.run(&machine, &service, 60).await;
    assert_eq!(status, "Failed", "{err}");
    assert!(killed_for_memory(&group) > by_command);

    let (status, _, out, _) = cloud.run(&machine, "echo lives", 60).await;
    assert_eq!((status.as_str(), out.as_str()), ("Success", "lives\n"));
    let (_, _, still, _) = cloud
        .run(&other, "systemctl show -p MainPID bystander", 60)
        .await;
    assert!(
        still.starts_with("MainPID=") && still != "MainPID=0\n",
        "{still}"
    );
    assert_eq!(still, started, "the bystander runs on");
    assert_eq!(killed_for_memory(&limits_of("memory", &other)), 0);
    assert_eq!(
        on_host.try_wait().unwrap(),
        None,
        "and so does one on the host"
    );
    on_host.kill().unwrap();
    on_host.wait().unwrap();

    // Root inside cannot lift it: what it could write to is below the group that limits.
    let lift = "mount -o remount,rw,bind /sys/fs/cgroup/memory; mount -o remount,rw,bind /sys/fs/cgroup\n\
                for file in $(find /sys/fs/cgroup -name memory.limit_in_bytes -o -name memory.max); do\n\
                  case $file in */memory.max) echo max >$file;; *) echo -1 >$file;; esac\n\
                done; true";
    cloud.run(&machine, lift, 60).await;
    let limit = ["memory.max", "memory.limit_in_bytes"].map(|name| group.join(name));
    let limit = limit.iter().find(|file| file.exists()).unwrap();
    assert_eq!(std::fs::read_to_string(limit).unwrap(), "1073741824\n");
    let (status, _, _, _) = cloud.run(&machine, &take(1500), 60).await;
    assert_eq!(status, "Failed");

    cloud.terminate(&machine).await;
    cloud.terminate(&other).await;
    cloud.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_of_one_vcpu_uses_one() {
    let Some(cloud) = Cloud::open("the CPU of a real machine").await else {
        return;
    };
    let machine = cloud
        .launch_with(InstanceType::from("c7a.medium"), None)
        .await;
    let group = limits_of("cpu", &machine);
    let read = |name: &str| std::fs::read_to_string(group.join(name)).unwrap_or_default();
    let quota = read("cpu.max") + &read("cpu.cfs_quota_us") + &read("cpu.cfs_period_us");
    let quota: Vec<&str> = quota.split_whitespace().collect();
    assert_eq!(quota, ["100000", "100000"], "of each 100 ms, 100 ms");

    // Microseconds, as either generation counts them.
    let used = || {
        let stat = numbers(&group.join("cpu.stat"));
        let unified = stat.get("usage_usec").copied();
        unified.unwrap_or_else(|| {
            let file = Path::new("/sys/fs/cgroup/cpuacct/piaas-bake")
                .join(&machine)
                .join("machine/cpuacct.usage");
            let nanoseconds = std::fs::read_to_string(file).unwrap();
            nanoseconds.trim().parse::<u64>().unwrap() / 1000
        })
    };
    let counted = |name: &str| numbers(&group.join("cpu.stat"))[name];
    // Before all others on this host: without its limit it would have more than one.
    for above in group.ancestors().take(3) {
        for (file, most) in [("cpu.shares", "262144"), ("cpu.weight", "10000")] {
            if above.join(file).exists() {
                std::fs::write(above.join(file), most).unwrap();
            }
        }
    }
    let busy =
        "for n in 1 2 3; do systemd-run --quiet --unit=busy$n sh -c 'while :; do :; done'; done";
    let (status, _, _, err) = cloud.run(&machine, busy, 60).await;
    assert_eq!(status, "Success", "{err}");
    let (before, periods, throttled) = (used(), counted("nr_periods"), counted("nr_throttled"));
    let deadline = Instant::now() + Duration::from_secs(120);
    while counted("nr_periods") < periods + 30 || counted("nr_throttled") < throttled + 5 {
        assert!(
            Instant::now() < deadline,
            "{:?}",
            numbers(&group.join("cpu.stat"))
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // In this order: what is used between the two looks is in a period that is counted.
    let used = used() - before;
    let periods = counted("nr_periods") - periods;
    // The periods that the first and the last look cut in two.
    let most = (periods + 2) * 100_000;
    assert!(
        used <= most,
        "{used} µs of CPU in {periods} periods of 100 ms"
    );
    cloud.terminate(&machine).await;
    cloud.assert_nothing_left();
}

/// A file system of 12 GiB, of which a little more is free than no machine takes; until this is dropped.
struct Disk(PathBuf);

impl Disk {
    /// Takes no room of its own for what nobody has written.
    fn mount(dir: &Path) -> Self {
        let (file, at) = (dir.join("disk.img"), dir.join("disk"));
        std::fs::create_dir(&at).unwrap();
        let disk = std::fs::File::create(&file).unwrap();
        disk.set_len(12 << 30).unwrap();
        let run = |program: &str, args: &[&std::ffi::OsStr]| {
            let output = std::process::Command::new(program).args(args).output();
            let output = output.unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{program}: {said}");
        };
        let word = std::ffi::OsStr::new;
        run(
            "mkfs.ext4",
            &[word("-q"), word("-m"), word("0"), file.as_os_str()],
        );
        run(
            "mount",
            &[word("-o"), word("loop"), file.as_os_str(), at.as_os_str()],
        );
        let this = Self(at);
        let ballast = this.free() - (1_300 << 20);
        let file = std::fs::File::create(this.0.join("ballast")).unwrap();
        let how = rustix::fs::FallocateFlags::empty();
        rustix::fs::fallocate(&file, how, 0, ballast).unwrap();
        this
    }

    fn free(&self) -> u64 {
        let disk = rustix::fs::statvfs(&self.0).unwrap();
        disk.f_bavail * disk.f_frsize
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // One that stays is told by the temporary directory that cannot be removed.
        let _ = std::process::Command::new("umount")
            .arg("-l")
            .arg(&self.0)
            .status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_fills_the_disk_is_ended_before_its_host_has_none() {
    let name = "a full disk, by a real machine";
    if !machines_wanted(name) {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let disk = Disk::mount(place.path());
    let Some(cloud) = Cloud::open_in(name, None, Some(&disk.0)).await else {
        return;
    };
    let (machine, other) = (cloud.launch().await, cloud.launch().await);
    let fill = "dd if=/dev/zero of=/root/all bs=1M; echo full; sleep 600";
    let _never_over = cloud.send(&machine, fill, 600).await;
    let least = std::sync::atomic::AtomicU64::new(u64::MAX);
    aws::until("the machine to be ended", async || {
        least.fetch_min(disk.free(), std::sync::atomic::Ordering::SeqCst);
        let found = cloud
            .clients
            .ec2
            .describe_instances()
            .instance_ids(&machine);
        let found = found.send().await.unwrap();
        let one = &found.reservations()[0].instances()[0];
        let why = one.state_reason().and_then(|why| why.message());
        [one.state_transition_reason(), why]
            .iter()
            .flatten()
            .any(|said| said.contains("filled the disk"))
    })
    .await;
    let least = least.into_inner();
    assert!(least > 100 << 20, "{} MiB were left", least >> 20);
    // What it had written is gone, and whoever wrote less lives.
    assert!(disk.free() > 1 << 30, "{} MiB are free", disk.free() >> 20);
    let (status, _, out, _) = cloud.run(&other, "echo lives", 60).await;
    assert_eq!((status.as_str(), out.as_str()), ("Success", "lives\n"));
    cloud.terminate(&other).await;
    cloud.assert_nothing_left();
}
