//! What root in a machine tries on its host and on its neighbours. Every attempt fails.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::MetadataExt as _;

use super::*;

/// A process of this host that only a mistake would end.
struct Bystander(std::process::Child);

impl Bystander {
    fn start() -> Self {
        let sleep = std::process::Command::new("sleep").arg("86399").spawn();
        Self(sleep.unwrap())
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Cloud {
    /// Runs a script that tries something; gives what it printed.
    async fn attempt(&self, machine: &str, script: &str) -> String {
        let (status, _, out, err) = self.run(machine, script, 120).await;
        assert_eq!(status, "Success", "{script}\n{out}{err}");
        out
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn root_in_a_machine_gets_at_no_file_of_the_host() {
    let Some(cloud) = Cloud::open("files of the host, from a real machine").await else {
        return;
    };
    let machine = cloud.launch().await;
    let secret = cloud.dir.path().join("host-secret");
    std::fs::write(&secret, "a file of the host").unwrap();
    let path = secret.display();

    let roots = format!(
        "for root in '' /proc/[0-9]*/root /proc/[0-9]*/cwd; do cat $root{path} 2>/dev/null; done; true"
    );
    assert_eq!(cloud.attempt(&machine, &roots).await, "");
    // A second look at processes, by a proc of its own.
    let fresh = format!(
        "mkdir -p /run/p && mount -t proc none /run/p\n\
         for root in /run/p/[0-9]*/root; do cat $root{path} 2>/dev/null; done; true"
    );
    assert_eq!(cloud.attempt(&machine, &fresh).await, "");

    // The disk that the host's files are on, and the kernel's memory.
    let device = std::fs::metadata(cloud.dir.path()).unwrap().dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let nodes = format!(
        "mknod /root/disk b {major} {minor}; mknod /root/mem c 1 1; mknod /root/null c 1 3\n\
         head -c 4 /root/disk >/dev/null 2>&1 && echo disk\n\
         dd if=/dev/null of=/root/disk conv=notrunc 2>/dev/null && echo disk for writing\n\
         mkdir -p /run/m; mount -o ro /root/disk /run/m 2>/dev/null && echo mounted\n\
         head -c 4 /root/mem >/dev/null 2>&1 && echo memory\n\
         echo x >/root/null && echo null"
    );
    // The last one shows that it is the device that is refused, and not the node.
    assert_eq!(cloud.attempt(&machine, &nodes).await, "null\n");
    let all = "mkdir -p /run/d; mount -t devtmpfs none /run/d 2>/dev/null\n\
               for node in $(find /run/d -type b); do head -c 1 $node >/dev/null 2>&1 && echo $node; done; true";
    assert_eq!(cloud.attempt(&machine, all).await, "");

    // Any file by its number, from each place that something is mounted at: open_by_handle_at(2), inode 2 of ext4, the
    // root of its disk; 304 is its number on x86_64.
    let handle = "while read -r _ at _; do echo $at; done </proc/self/mounts | perl -ne '\
                  chomp; open(my $at, \"<\", $_) or next; my $handle = pack(\"IiII\", 8, 1, 2, 0);\n\
                  my $got = syscall(304, fileno($at), $handle, 0); print \"$_\\n\" if $got >= 0'";
    assert_eq!(cloud.attempt(&machine, handle).await, "");

    // What is mounted is the machine's own, or the kernel's. Of the host's disk systemd-nspawn shows which system it is.
    let mounts = "awk '$3 ~ /^(ext[234]|xfs|btrfs|9p|virtiofs)$/ && $2 != \"/run/host/os-release\"' /proc/self/mounts";
    assert_eq!(cloud.attempt(&machine, mounts).await, "");
    // Settings of the kernel are read-only where a machine has them.
    let settings = "for file in /proc/sys/kernel/core_pattern /proc/sysrq-trigger /sys/kernel/uevent_helper; do\n\
                    dd if=/dev/null of=$file conv=notrunc 2>/dev/null && echo $file; done; true";
    assert_eq!(cloud.attempt(&machine, settings).await, "");
    cloud.terminate(&machine).await;
    cloud.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn root_in_a_machine_gets_at_no_process_of_the_host() {
    let Some(cloud) = Cloud::open("processes of the host, from a real machine").await else {
        return;
    };
    let machine = cloud.launch().await;
    let mut bystander = Bystander::start();
    let pid = bystander.0.id();
    let look = "ps axo args | grep -x '[s]leep 86399'; true";
    assert_eq!(cloud.attempt(&machine, look).await, "");
    // Numbers up to the host's highest: whatever has one here is the machine's own. 16 is PTRACE_ATTACH, 101 ptrace(2).
    let touch = format!(
        "for number in {pid} {}; do\n\
           if [ -e /proc/$number ]; then echo $number is here; continue; fi\n\
           kill -9 $number 2>/dev/null && echo killed\n\
           perl -e 'print \"traced\\n\" if syscall(101, 16, '$number', 0, 0) == 0'\n\
         done; nsenter --target {pid} --mount true 2>/dev/null && echo entered; true",
        std::process::id()
    );
    let out = cloud.attempt(&machine, &touch).await;
    assert!(
        !["killed", "traced", "entered"]
            .iter()
            .any(|word| out.contains(word)),
        "{out}"
    );
    // A command may do what the machine itself may. Bits of capabilities(7): no file by its number (2), no modules (16), no
    // ports (17), no clock (25), nothing of the kernel's log (34).
    let bound = "awk '/^CapBnd/ { print $2 }' /proc/1/status /proc/self/status";
    let bound = cloud.attempt(&machine, bound).await;
    let sets: Vec<u64> = bound
        .lines()
        .map(|line| u64::from_str_radix(line, 16).unwrap())
        .collect();
    assert_eq!(sets[0], sets[1], "{bound}");
    for bit in [2, 16, 17, 25, 34] {
        assert_eq!(sets[1] >> bit & 1, 0, "capability {bit}");
    }
    // All that it can see, it can kill; the host does not notice.
    let all = "kill -9 -1; true";
    let _ended_too = cloud.send(&machine, all, 60).await;
    let deadline = Instant::now() + Duration::from_secs(60);
    while cloud.run(&machine, "echo back", 60).await.2 != "back\n" {
        assert!(Instant::now() < deadline, "the machine has not come round");
    }
    assert_eq!(bystander.0.try_wait().unwrap(), None);
    cloud.terminate(&machine).await;
    cloud.assert_nothing_left();
}

/// Root in a machine mounts what it likes: what it finds there is not the host's.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_machine_mounts_anew_is_its_own() {
    let Some(cloud) = Cloud::open("mounts of a real machine").await else {
        return;
    };
    let machine = cloud.launch().await;
    let hierarchies = "mkdir /run/h\n\
        while read -r name number rest; do\n\
          [ \"$number\" = 0 ] || { mount -t cgroup -o $name none /run/h && { ls /run/h; umount /run/h; }; }\n\
        done </proc/cgroups 2>/dev/null\n\
        mount -t cgroup -o none,name=systemd none /run/h && { ls /run/h; umount /run/h; }; echo looked";
    let out = cloud.attempt(&machine, hierarchies).await;
    assert!(!out.contains("release_agent"), "{out}");
    assert!(out.ends_with("looked\n"), "{out}");
    // It has the words of the host's file, but not the file.
    let there = "/run/host/os-release";
    let words = cloud.attempt(&machine, &format!("cat {there}")).await;
    let path = std::fs::canonicalize("/etc/os-release").unwrap();
    assert_eq!(words, std::fs::read_to_string(&path).unwrap());
    let seen = cloud.attempt(&machine, "stat -c %d:%i /run/host/os-release");
    let own = std::fs::metadata(&path).unwrap();
    use std::os::unix::fs::MetadataExt as _;
    assert_ne!(seen.await.trim(), format!("{}:{}", own.dev(), own.ino()));
    // The packages that the host keeps: it sees them, and cannot write among them.
    let write = "cd /run/piaas-bake/debs && ls | grep -c '[.]deb$'\n\
        mount -o remount,rw,bind . 2>/dev/null; mount -o remount,rw . 2>/dev/null; touch new 2>/dev/null || echo refused";
    let out = cloud.attempt(&machine, write).await;
    assert!(
        out.ends_with("\nrefused\n") && !out.starts_with("0\n"),
        "{out}"
    );
    cloud.terminate(&machine).await;
    cloud.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_listens_on_the_loopback_of_the_host_or_of_a_neighbour_is_not_reached() {
    let Some(cloud) = Cloud::open("loopback services, from a real machine").await else {
        return;
    };
    let (machine, neighbour) = (cloud.launch().await, cloud.launch().await);
    let port = greet();
    let output = std::process::Command::new("hostname").arg("-I").output();
    let own = String::from_utf8(output.unwrap().stdout).unwrap();
    // With a service of its own on the same port the attempt succeeds, so it is the address that counts.
    let serve = |port: u16, text: &str| {
        format!(
            "cat >/run/serve.pl <<'END'\n\
             use IO::Socket::INET;\n\
             my $s = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => {port}, Listen => 5, ReuseAddr => 1) or die;\n\
             while (my $c = $s->accept) {{ <$c>; print $c \"HTTP/1.0 200 OK\\r\\n\\r\\n{text}\"; close $c }}\n\
             END\n\
             systemd-run --quiet --unit=serve perl /run/serve.pl\n\
             until curl -s --max-time 5 http://127.0.0.1:{port}/; do sleep 0.1; done"
        )
    };
    assert_eq!(
        cloud.attempt(&neighbour, &serve(port, "neighbour")).await,
        "neighbour"
    );
    let of_neighbour = cloud.attempt(&neighbour, "hostname -I").await;
    let ask = format!(
        "gateway=$(ip route show default | awk '{{ print $3 }}')\n\
         for address in 127.0.0.1 127.0.0.2 [::1] 0.0.0.0 $gateway ${{gateway%.*}}.3 ${{gateway%.*}}.1 172.31.0.1 172.31.0.2 \
         10.0.2.2 169.254.169.254 169.254.42.1 {} {}; do\n\
           case $address in *:*) [ \"$address\" = '[::1]' ] || address=[$address];; esac\n\
           curl -s --max-time 3 http://$address:{port}/ && echo \" from $address\"\n\
         done; true",
        own.trim(),
        of_neighbour.trim()
    );
    assert_eq!(cloud.attempt(&machine, &ask).await, "");
    assert_eq!(cloud.attempt(&machine, &serve(port, "own")).await, "own");
    let out = cloud.attempt(&machine, &ask).await;
    assert!(out.starts_with("own from 127.0.0.1\n"), "{out}");
    assert!(
        !out.contains("hello") && !out.contains("neighbour"),
        "{out}"
    );

    // Sockets without a file are the network's too.
    let name = format!("piaas-bake-test-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind_addr(&address).unwrap();
    let look = format!("grep -c -e {name} -e piaas-bake/ /proc/net/unix; true");
    assert_eq!(cloud.attempt(&machine, &look).await, "0\n");

    // Nor are a neighbour's files.
    cloud
        .attempt(
            &neighbour,
            "echo of the neighbour >/root/secret; echo of the neighbour >/run/secret",
        )
        .await;
    let files = "for root in '' /proc/[0-9]*/root; do cat $root/root/secret $root/run/secret 2>/dev/null; done; true";
    assert_eq!(cloud.attempt(&machine, files).await, "");
    let place = cloud.state().join("instances").join(&neighbour);
    let outside = format!(
        "ls -d {0} /proc/[0-9]*/root{0} 2>/dev/null; true",
        place.display()
    );
    assert_eq!(cloud.attempt(&machine, &outside).await, "");
    cloud.terminate(&machine).await;
    cloud.terminate(&neighbour).await;
    cloud.assert_nothing_left();
}
