//! The scripts of the machine side, run by the real `/bin/sh` in a temporary directory; no root needed.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn template(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("templates")
        .join(name)
}

fn sh(script: &Path, args: &[&str]) -> Output {
    Command::new("/bin/sh")
        .arg(script)
        .args(args)
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A bundle as it lies on a machine.
struct Bundle {
    dir: tempfile::TempDir,
    list: String,
    count: u32,
}

impl Bundle {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::copy(template("runner.sh"), dir.path().join("runner.sh")).unwrap();
        fs::write(dir.path().join("source-date"), "1686355200\n").unwrap();
        for sub in ["scripts", "env", "files"] {
            fs::create_dir(dir.path().join(sub)).unwrap();
        }
        Self {
            dir,
            list: String::new(),
            count: 0,
        }
    }

    /// Adds a script; `rest` is its time-out, retries and reboot.
    fn script(&mut self, text: &str, env: &str, rest: (u32, u32, u32)) -> &mut Self {
        self.count += 1;
        let number = format!("{:03}", self.count);
        let file = self.dir.path().join(format!("scripts/{number}-x"));
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(self.dir.path().join(format!("env/{number}")), env).unwrap();
        self.list += &format!(
            "{number}\t{number}-x\t{}\t{}\t{}\ta title\n",
            rest.0, rest.1, rest.2
        );
        self
    }

    fn run(&self) -> (i32, String) {
        fs::write(self.dir.path().join("steps"), &self.list).unwrap();
        let output = sh(&self.dir.path().join("runner.sh"), &["steps"]);
        (output.status.code().unwrap(), stdout(&output))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The log with its frames as `<…>` and without durations.
    fn log(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("log/steps")).unwrap();
        text.lines()
            .map(|line| match line.strip_prefix('\u{1e}') {
                Some(frame) => {
                    let words: Vec<&str> = frame.split(' ').take(3).collect();
                    format!("<{}>", words.join(" "))
                }
                None => line.to_owned(),
            })
            .collect()
    }
}

const PLAIN: (u32, u32, u32) = (30, 0, 0);

#[test]
fn scripts_run_in_order_and_their_output_is_framed() {
    let mut bundle = Bundle::new();
    bundle
        .script("echo one\necho two >&2\n", "", PLAIN)
        .script("printf 'no end'", "", PLAIN);
    assert_eq!(bundle.run(), (0, "ok 2\n".to_owned()));
    assert_eq!(
        bundle.log(),
        [
            "<begin 001 1>",
            "one",
            "two",
            "<end 001 0>",
            "<begin 002 1>",
            "no end",
            "<end 002 0>"
        ]
    );
    assert_eq!(
        fs::read_to_string(bundle.path("log/steps.exit")).unwrap(),
        "0\n"
    );
}

#[test]
fn a_failed_script_ends_the_list_and_a_repeated_command_goes_on_there() {
    let mut bundle = Bundle::new();
    let mark = bundle.path("mark");
    let picky = format!("echo again; test -e {}\n", mark.display());
    bundle
        .script("echo once\n", "", PLAIN)
        .script(&picky, "", PLAIN)
        .script("echo last\n", "", PLAIN);
    let (code, out) = bundle.run();
    assert_eq!(code, 1);
    assert!(out.ends_with("\nfailed 002 1 1\n"), "{out}");

    fs::write(&mark, "").unwrap();
    assert_eq!(bundle.run(), (0, "ok 3\n".to_owned()));
    let log = bundle.log();
    assert_eq!(log.iter().filter(|line| *line == "once").count(), 1);
    assert!(log.contains(&"<skip 001>".to_owned()));
    assert_eq!(log.iter().filter(|line| *line == "again").count(), 2);
}

#[test]
fn without_a_first_line_it_is_strict_sh_and_with_one_it_is_what_it_says() {
    let mut bundle = Bundle::new();
    bundle.script("false\necho not reached\n", "", PLAIN);
    assert_eq!(bundle.run().0, 1);
    let mut bundle = Bundle::new();
    bundle.script("echo $PIAAS_UNSET_VALUE\n", "", PLAIN);
    assert_eq!(bundle.run().0, 1);
    let mut bundle = Bundle::new();
    bundle.script(
        "#!/usr/bin/env -S sed -n 2p\ntext of a script for sed\n",
        "",
        PLAIN,
    );
    assert_eq!(bundle.run().0, 0);
    assert_eq!(bundle.log()[1], "text of a script for sed");
}

#[test]
fn a_script_sees_its_own_environment_only() {
    let mut bundle = Bundle::new();
    let show = "echo \"$HOME $LC_ALL $TZ $DEBIAN_FRONTEND $SOURCE_DATE_EPOCH $PYTHONDONTWRITEBYTECODE $(umask) $(pwd) ${KEY-unset}\"; echo \"$PIAAS_BUNDLE\"\n";
    bundle
        .script(show, "export KEY='it'\\''s $(odd); \"x\"\n'\n", PLAIN)
        .script(show, "", PLAIN);
    assert_eq!(bundle.run().0, 0);
    let log = bundle.log();
    assert_eq!(
        log[1],
        "/root C.UTF-8 UTC noninteractive 1686355200 1 0022 / it's $(odd); \"x\""
    );
    assert!(
        log.contains(&"/root C.UTF-8 UTC noninteractive 1686355200 1 0022 / unset".to_owned()),
        "{log:?}"
    );
    assert_eq!(log[3], bundle.dir.path().display().to_string());
}

#[test]
fn a_script_gets_no_input_and_a_list_is_not_eaten() {
    let mut bundle = Bundle::new();
    bundle
        .script("cat; echo end of input\n", "", PLAIN)
        .script("echo second\n", "", PLAIN);
    assert_eq!(bundle.run(), (0, "ok 2\n".to_owned()));
}

#[test]
fn retries_are_counted() {
    let mut bundle = Bundle::new();
    let tries = bundle.path("tries");
    let flaky = format!(
        "echo x >>{0}; [ $(wc -l <{0}) -ge 2 ] || exit 7\n",
        tries.display()
    );
    bundle.script(&flaky, "", (30, 2, 0));
    assert_eq!(bundle.run(), (0, "ok 1\n".to_owned()));
    assert_eq!(
        bundle.log(),
        [
            "<begin 001 1>",
            "<retry 001 7>",
            "<begin 001 2>",
            "<end 001 0>"
        ]
    );
    let mut bundle = Bundle::new();
    bundle.script("exit 7\n", "", (30, 1, 0));
    assert!(bundle.run().1.ends_with("failed 001 7 2\n"));
}

#[test]
fn a_script_that_takes_too_long_is_ended_with_its_children() {
    let mut bundle = Bundle::new();
    let pid_file = bundle.path("pid");
    bundle.script(
        &format!("sleep 600 & echo $! >{}\nwait\n", pid_file.display()),
        "",
        (1, 0, 0),
    );
    assert!(bundle.run().1.ends_with("failed 001 124 1\n"));
    let child = Path::new("/proc").join(fs::read_to_string(pid_file).unwrap().trim());
    // The signal has been sent; a busy host may take a moment to carry it out, far less than the child would sleep.
    let patience = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while fs::read_to_string(child.join("stat")).is_ok_and(|stat| !stat.contains(") Z ")) {
        assert!(
            std::time::Instant::now() < patience,
            "the child outlived its script"
        );
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[test]
fn a_reboot_is_asked_for_once() {
    let mut bundle = Bundle::new();
    bundle
        .script("echo before\n", "", (30, 0, 1))
        .script("echo after\n", "", PLAIN);
    assert_eq!(bundle.run().0, 194);
    assert!(!bundle.path("log/steps.exit").exists());
    assert_eq!(bundle.run(), (0, "ok 2\n".to_owned()));
    assert_eq!(
        bundle.log(),
        [
            "<begin 001 1>",
            "before",
            "<end 001 0>",
            "<skip 001>",
            "<begin 002 1>",
            "after",
            "<end 002 0>"
        ]
    );
}

#[test]
fn two_runners_at_once_do_the_work_once() {
    let mut bundle = Bundle::new();
    let work = bundle.path("work");
    bundle.script(
        &format!("sleep 0.2; echo x >>{}\n", work.display()),
        "",
        PLAIN,
    );
    std::thread::scope(|scope| {
        let first = scope.spawn(|| bundle.run());
        let second = scope.spawn(|| bundle.run());
        assert_eq!(first.join().unwrap(), (0, "ok 1\n".to_owned()));
        assert_eq!(second.join().unwrap(), (0, "ok 1\n".to_owned()));
    });
    assert_eq!(fs::read_to_string(work).unwrap(), "x\n");
}

#[test]
fn a_service_that_a_script_starts_holds_neither_lock_nor_list() {
    let mut bundle = Bundle::new();
    bundle.script("setsid sleep 5 >/dev/null 2>&1 &\n", "", PLAIN);
    let started = std::time::Instant::now();
    assert_eq!(bundle.run().0, 0);
    assert_eq!(bundle.run().0, 0);
    assert!(started.elapsed() < std::time::Duration::from_secs(4));
}

/// Runs `follow.sh` as the bake sends it.
fn follow(log: &Path, offset: usize, wait: u32, limit: u32) -> Vec<String> {
    let text = fs::read_to_string(template("follow.sh"))
        .unwrap()
        .replace("@LOG@", log.to_str().unwrap())
        .replace("@OFFSET@", &offset.to_string())
        .replace("@WAIT@", &wait.to_string())
        .replace("@LIMIT@", &limit.to_string());
    let output = Command::new("/bin/sh")
        .args(["-c", &text])
        .output()
        .unwrap();
    assert!(output.status.success());
    stdout(&output).lines().map(str::to_owned).collect()
}

#[test]
fn following_prints_what_is_new_and_says_when_it_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("steps");
    assert_eq!(follow(&log, 0, 0, 100), ["0 running"]);
    fs::write(&log, "hello\nworld\n").unwrap();
    assert_eq!(follow(&log, 0, 9, 100), ["12 running", "aGVsbG8Kd29ybGQK"]);
    assert_eq!(follow(&log, 6, 9, 3), ["12 running", "d29y"]);
    assert_eq!(follow(&log, 12, 0, 100), ["12 running"]);
    fs::write(dir.path().join("steps.exit"), "0\n").unwrap();
    // The end is told at once, however long the wait would be.
    assert_eq!(follow(&log, 12, 600, 100), ["12 ended"]);
}

#[test]
fn following_returns_as_soon_as_the_log_grows() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("steps");
    let reader = {
        let log = log.clone();
        std::thread::spawn(move || follow(&log, 0, 600, 100))
    };
    fs::write(&log, "x\n").unwrap();
    assert_eq!(reader.join().unwrap(), ["2 running", "eAo="]);
}

/// A root directory with everything that an image must not carry, and some of what it must keep.
struct Root(tempfile::TempDir);

const DIRT: &[&str] = &[
    "etc/ssh/ssh_host_ed25519_key",
    "etc/ssh/ssh_host_ed25519_key.pub",
    "etc/machine-id",
    "var/lib/dbus/machine-id",
    "var/lib/systemd/random-seed",
    "var/lib/systemd/credential.secret",
    "root/.bash_history",
    "home/admin/.python_history",
    "root/.ssh/authorized_keys",
    "home/admin/.ssh/authorized_keys",
    "root/.wget-hsts",
    "root/.cache/x/y",
    "var/log/syslog",
    "var/log/syslog.1",
    "var/log/wtmp",
    "var/log/apt/history.log",
    "var/log/apt/history.log.1.gz",
    "var/log/journal/0123/system.journal",
    "var/lib/apt/lists/deb.debian.org_dists",
    "var/lib/apt/lists/lock",
    "var/cache/apt/pkgcache.bin",
    "var/cache/apt/archives/x.deb",
    "var/cache/man/index.db",
    "var/cache/ldconfig/aux-cache",
    "var/lib/dpkg/status-old",
    "var/lib/cloud/instances/i-1/user-data.txt",
    "var/lib/cloud/sem/x",
    "var/lib/dhcp/dhclient.eth0.leases",
    "var/lib/piaas-bake/abc/runner.sh",
];
const LATE: &[&str] = &[
    "tmp/x",
    "var/tmp/y/z",
    "var/lib/amazon/ssm/i-1/state",
    "var/log/amazon/ssm/agent.log",
];
const KEPT: &[&str] = &[
    "etc/ssh/sshd_config",
    "var/lib/dpkg/status",
    "home/admin/notes",
    "root/.profile",
    "var/cache/debconf/config.dat",
    "var/lib/cloud/scripts/per-boot/x",
];

impl Root {
    fn empty() -> Self {
        let root = Self(tempfile::tempdir().unwrap());
        for name in ["seal.sh", "sealed-paths"] {
            fs::copy(template(name), root.path(name)).unwrap();
        }
        fs::write(root.path("source-date"), "1686355200\n").unwrap();
        root
    }

    fn dirty() -> Self {
        let root = Self::empty();
        for path in DIRT.iter().chain(LATE).chain(KEPT) {
            let path = root.path(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "content").unwrap();
        }
        symlink("instances/i-1", root.path("var/lib/cloud/instance")).unwrap();
        root
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn seal(&self, verb: &str) -> Output {
        Command::new("/bin/sh")
            .arg(self.path("seal.sh"))
            .arg(verb)
            .env("PIAAS_ROOT", self.0.path())
            .output()
            .unwrap()
    }

    fn has_bytes(&self, path: &str) -> bool {
        fs::metadata(self.path(path)).is_ok_and(|metadata| metadata.len() > 0)
    }
}

#[test]
fn assertion_names_everything_that_cleaning_would_remove() {
    let root = Root::dirty();
    let output = root.seal("assert");
    assert_eq!(output.status.code(), Some(1));
    let named = stdout(&output);
    for path in DIRT {
        let whole = root.path(path);
        // A directory on the list stands for what is below it.
        let told = whole
            .ancestors()
            .any(|path| named.lines().any(|line| Path::new(line) == path));
        assert!(told, "{path} is not named in\n{named}");
    }
    for path in KEPT.iter().chain(LATE) {
        let whole = root.path(path);
        assert!(
            !named.lines().any(|line| Path::new(line) == whole),
            "{path}"
        );
    }
}

#[test]
fn a_sealed_root_passes_and_keeps_what_it_must() {
    let root = Root::dirty();
    let output = root.seal("seal");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(stdout(&root.seal("assert")), "");
    for path in DIRT {
        assert!(!root.has_bytes(path), "{path}");
    }
    for path in KEPT.iter().chain(LATE) {
        assert!(root.has_bytes(path), "{path}");
    }
    // Emptied, not removed: first boot fills it, services append to it, apt wants its directories.
    for path in [
        "etc/machine-id",
        "var/log/syslog",
        "var/log/wtmp",
        "var/lib/apt/lists",
        "var/log/journal",
    ] {
        assert!(root.path(path).exists(), "{path}");
    }
    assert!(!root.path("var/log/syslog.1").exists());
}

#[test]
fn the_late_cleaning_takes_the_rest() {
    let root = Root::dirty();
    assert!(root.seal("late").status.success());
    for path in DIRT.iter().chain(LATE) {
        assert!(!root.has_bytes(path), "{path}");
    }
    assert!(root.path("tmp").is_dir());
}

#[test]
fn one_forgotten_file_fails_the_assertion() {
    let root = Root::dirty();
    root.seal("seal");
    for path in DIRT {
        let file = root.path(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "back again").unwrap();
        assert_eq!(root.seal("assert").status.code(), Some(1), "{path}");
        root.seal("seal");
        assert_eq!(root.seal("assert").status.code(), Some(0), "{path}");
    }
}

/// A keystore of Java as its documentation has it (the source of `sun.security.provider.JavaKeyStore`): a certificate
/// and a key with two certificates, all with this time.
fn keystore(milliseconds: u64, password: &str) -> Vec<u8> {
    let certificate = |bytes: &[u8]| {
        let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
        [b"\0\x05X.509".as_slice(), &length, bytes].concat()
    };
    let time = milliseconds.to_be_bytes();
    let mut store = [0xfeed_feed_u32, 2, 2].map(u32::to_be_bytes).concat();
    store.extend([b"\0\0\0\x02\0\x03one".as_slice(), &time].concat());
    store.extend(certificate(&[0xfe; 300]));
    store.extend([b"\0\0\0\x01\0\x03two".as_slice(), &time].concat());
    store.extend([b"\0\0\0\x04key!\0\0\0\x02".as_slice()].concat());
    store.extend([certificate(b"leaf"), certificate(b"root")].concat());
    let wide: Vec<u8> = password.bytes().flat_map(|byte| [0, byte]).collect();
    let signed = [&wide, b"Mighty Aphrodite".as_slice(), &store].concat();
    let mut child = Command::new("sha1sum")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&signed).unwrap();
    let hex = child.wait_with_output().unwrap().stdout;
    store.extend(hex::decode(&hex[..40]).unwrap());
    store
}

#[test]
fn the_times_in_a_keystore_are_those_of_the_source_date() {
    let root = Root::empty();
    let file = root.path("etc/ssl/certs/java/cacerts");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, keystore(1_700_000_000_123, "changeit")).unwrap();
    assert!(stdout(&root.seal("assert")).contains("java/cacerts"));
    assert!(root.seal("seal").status.success());
    let expected = keystore(1_686_355_200_000, "changeit");
    assert_eq!(fs::read(&file).unwrap(), expected);
    assert!(root.seal("assert").status.success());
    assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);
    // Of what has another password, or is something else, nothing is known.
    let cut = expected[..expected.len() - 21].to_vec();
    for other in [keystore(5, "another"), b"PK".to_vec(), cut, Vec::new()] {
        fs::write(&file, &other).unwrap();
        assert!(root.seal("seal").status.success());
        assert_eq!(fs::read(&file).unwrap(), other);
        assert!(root.seal("assert").status.success());
    }
}
