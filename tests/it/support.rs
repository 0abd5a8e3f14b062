//! What the tests share: a hermetic way to run the binary, and the gate of the tests that need real machines.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The binary under test.
pub const BIN: &str = env!("CARGO_BIN_EXE_piaas-bake");

/// The recipes that are shipped.
pub fn shipped_recipes() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes")
}

/// A directory of its own for one test: home, state and recipes.
pub struct Sandbox {
    dir: tempfile::TempDir,
}

impl Sandbox {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        std::fs::create_dir(dir.path().join("recipes")).expect("the sandbox is writable");
        Self { dir }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn recipes(&self) -> PathBuf {
        self.path().join("recipes")
    }

    pub fn state(&self) -> PathBuf {
        self.path().join("state")
    }

    /// Writes a recipe file, making its directories.
    pub fn write(&self, relative: &str, text: &str) {
        let path = self.path().join(relative);
        std::fs::create_dir_all(path.parent().expect("a relative path has a parent"))
            .expect("directories can be made");
        std::fs::write(path, text).expect("the sandbox is writable");
    }

    /// The binary, with nothing of this machine's environment but PATH.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(BIN);
        command
            .args(args)
            .current_dir(self.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.path())
            .env("LC_ALL", "C.UTF-8")
            .env("PIAAS_STATE_DIR", self.state());
        command
    }

    pub fn run(&self, args: &[&str]) -> Run {
        Run::from(self.command(args).output().expect("the binary starts"))
    }

    /// The same with what this host keeps for real machines, and without input.
    pub fn run_on_machines(&self, args: &[&str]) -> Run {
        let mut command = self.command(args);
        command
            .env("PIAAS_CACHE_DIR", cache_dir())
            .stdin(std::process::Stdio::null());
        Run::from(command.output().expect("the binary starts"))
    }
}

/// A test that fails leaves no machines running on the host.
impl Drop for Sandbox {
    fn drop(&mut self) {
        if std::thread::panicking() {
            remove_machines(&self.state());
        }
    }
}

/// Removes whatever machines the local cloud below a state directory has.
pub fn remove_machines(state: &Path) {
    if state.join("cloud").exists() {
        let mut reset = Command::new(BIN);
        reset.args(["cloud", "reset", "--yes", "--state-dir"]);
        // It says itself what it cannot remove.
        let _ = reset.arg(state).status();
    }
}

/// What a run of the binary gave.
#[must_use]
pub struct Run {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Run {
    /// Asserts the exit code, showing everything when it differs.
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(
            self.code,
            Some(code),
            "\n--- stdout\n{}\n--- stderr\n{}",
            self.stdout,
            self.stderr
        );
        self
    }
}

/// Files below `dir` that hold `text`, disks of images too.
pub fn holding(dir: &Path, text: &str) -> Vec<String> {
    let output = Command::new("grep")
        .args(["-r", "-l", "-a", "-F", "-e", text])
        .arg(dir)
        .output()
        .unwrap();
    let found = String::from_utf8(output.stdout).unwrap();
    found.lines().map(String::from).collect()
}

/// Whether the tests on real machines run. `make test` asks for them with `PIAAS_TEST_MACHINES=1`; then a host that
/// cannot run them fails them. Without it they are left out, and this says so past the test harness's capture.
pub fn machines_wanted(test: &str) -> bool {
    let wanted = std::env::var_os("PIAAS_TEST_MACHINES").is_some_and(|value| value == "1");
    if !wanted {
        tell(&format!(
            "left out: {test} (real machines and root; `make test` runs it)"
        ));
    }
    wanted
}

/// Says something past the test harness's capture.
pub fn tell(what: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "{what}");
}

/// Where the base image of the local cloud is cached for all tests.
pub fn cache_dir() -> PathBuf {
    std::env::var_os("PIAAS_CACHE_DIR").map_or_else(
        || std::env::temp_dir().join("piaas-bake-test-cache"),
        PathBuf::from,
    )
}

/// What is left of a local cloud on this host: processes, mounts and interfaces that name `state`.
pub fn left_on_host(state: &Path) -> Vec<String> {
    // The endpoint of the machines ends within about a second of the last one, the writer of a disk when it has its
    // checksum.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(120);
    loop {
        let left = now_on_host(state);
        if left.is_empty() || std::time::Instant::now() >= deadline {
            return left;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

/// What runs inside a machine of a local cloud, by its control group: nothing else tells whose it is.
pub fn processes_of(instance: &str) -> Vec<u32> {
    let group = format!("/piaas-bake/{instance}/machine/box/payload/");
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Ok(pid) = name.parse()
            && std::fs::read_to_string(entry.path().join("cgroup"))
                .is_ok_and(|groups| groups.contains(&group))
            && std::fs::read_to_string(entry.path().join("stat")).is_ok_and(|stat| !is_over(&stat))
        {
            found.push(pid);
        }
    }
    found
}

/// Whether a process, by its `/proc/PID/stat`, can run no line of its program any more: it has ended, or the kernel is
/// taking it apart. proc(5): after the name come state and, as the seventh, the flags; `PF_EXITING` is 4
/// (`include/linux/sched.h`).
fn is_over(stat: &str) -> bool {
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
    let mut fields = fields.split(' ');
    let ended = matches!(fields.next(), Some("Z" | "X"));
    let flags: Option<u64> = fields.nth(5).and_then(|flags| flags.parse().ok());
    ended || flags.is_some_and(|flags| flags & 4 != 0)
}

fn now_on_host(state: &Path) -> Vec<String> {
    let needle = state.to_string_lossy().into_owned();
    let mut left = Vec::new();
    for mount in std::fs::read_to_string("/proc/self/mounts")
        .unwrap_or_default()
        .lines()
    {
        if mount.contains(&needle) {
            left.push(format!("mount: {mount}"));
        }
    }
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(command) = std::fs::read(entry.path().join("cmdline")) else {
            continue;
        };
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if command.contains(&needle)
            && entry.file_name().to_string_lossy() != std::process::id().to_string()
        {
            left.push(format!(
                "process {}: {command}",
                entry.file_name().to_string_lossy()
            ));
        }
    }
    left
}

/// Judges lines of `--format ndjson` by their schema, with a validator that nobody here wrote.
pub fn assert_events_fit_their_schema(lines: &str) {
    const SCRIPT: &str = "import json, sys, jsonschema
schema = json.load(open(sys.argv[1]))
jsonschema.Draft7Validator.check_schema(schema)
validator = jsonschema.Draft7Validator(schema)
def once(pairs):
    keys = [key for key, _ in pairs]
    assert len(keys) == len(set(keys)), keys
    return dict(pairs)
lines = sys.stdin.read().splitlines()
assert lines
for line in lines:
    validator.validate(json.loads(line, object_pairs_hook=once))
assert not validator.is_valid({'v': 1, 'at': 'now', 'of': 'bake', 'event': 'no-such-event', 'recipe': 'a'})
";
    let Some(python) = python_with_jsonschema() else {
        assert!(
            std::env::var_os("PIAAS_TEST_VENV").is_none(),
            "the virtual environment has no jsonschema"
        );
        return;
    };
    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli/events.schema.json");
    let mut child = Command::new(python)
        .args(["-W", "ignore", "-c", SCRIPT])
        .arg(schema)
        .stdin(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), lines.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A Python that can validate by a JSON Schema, if there is one; `make test` installs it.
pub fn python_with_jsonschema() -> Option<PathBuf> {
    let python = std::env::var_os("PIAAS_TEST_VENV").map_or_else(
        || "python3".into(),
        |venv| PathBuf::from(venv).join("bin/python"),
    );
    let mut look = Command::new(&python);
    look.args(["-W", "ignore", "-c", "import yaml, jsonschema"]);
    let found = look.output().is_ok_and(|output| output.status.success());
    if !found {
        eprintln!("left out: jsonschema is not installed (`make test` installs it)");
    }
    found.then_some(python)
}

/// That a file of the repository has this text; `PIAAS_UPDATE=1 cargo test FILTER` writes it anew.
pub fn assert_is_kept(file: &str, text: &str, filter: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    if std::env::var_os("PIAAS_UPDATE").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == text,
        "{file} is out of date; write it anew: PIAAS_UPDATE=1 cargo test {filter}"
    );
}
