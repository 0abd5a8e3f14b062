//! Whether this host can run the local cloud, and what to do where it cannot.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::base;
use super::nspawn::overlay;

/// The free space that a first bake needs: the base, a few layers and disks.
const FREE_GIB: u64 = 6;

/// Each machine's systemd watches files with some twenty inotify instances, and all machines count as root's. Linux
/// allows a user 128 unless told otherwise (inotify(7)).
const INOTIFY_INSTANCES: u64 = 1024;
const INOTIFY_FILE: &str = "/proc/sys/fs/inotify/max_user_instances";

const INOTIFY: &str = "inotify";

/// What the checks look at.
#[derive(Debug, Clone)]
pub struct Config {
    pub state_dir: PathBuf,
    pub base_dir: PathBuf,
    /// `None`: the base image is not made with it.
    pub mirror: Option<String>,
}

/// One check and its result.
#[derive(Debug, Clone)]
pub struct Check {
    pub name: &'static str,
    /// Without it the local cloud cannot run machines; otherwise only a part of the product is missing.
    pub required: bool,
    /// What was found.
    pub message: String,
    /// What to do if it failed; `None` if it passed.
    pub way_out: Option<String>,
    /// Debian packages that mend it.
    pub packages: Vec<&'static str>,
}

impl Check {
    /// Whether all is well.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.way_out.is_none()
    }

    /// Whether [`fix`] can mend what failed.
    #[must_use]
    pub fn fixable(&self) -> bool {
        !self.passed() && (!self.packages.is_empty() || self.name == INOTIFY)
    }

    fn new(name: &'static str, required: bool, result: Result<String, (String, String)>) -> Self {
        let (message, way_out) = match result {
            Ok(message) => (message, None),
            Err((message, way_out)) => (message, Some(way_out)),
        };
        Self {
            name,
            required,
            message,
            way_out,
            packages: Vec::new(),
        }
    }
}

/// Programs: name, file, Debian package, whether machines need it.
const PROGRAMS: [(&str, &str, &str, bool); 6] = [
    (
        "systemd-nspawn",
        "systemd-nspawn",
        "systemd-container",
        true,
    ),
    ("slirp4netns", "slirp4netns", "slirp4netns", true),
    ("mmdebstrap", "mmdebstrap", "mmdebstrap", true),
    ("ip", "ip", "iproute2", true),
    ("nsenter", "nsenter", "util-linux", true),
    (
        "QEMU, to boot disks as virtual machines",
        "qemu-system-x86_64",
        "qemu-system-x86",
        false,
    ),
];

/// Looks at everything. Changes nothing that stays.
#[must_use]
pub fn checks(config: &Config) -> Vec<Check> {
    let root = rustix::process::geteuid().is_root();
    let mut checks = vec![Check::new(
        "root",
        true,
        if root {
            Ok("running as root".to_owned())
        } else {
            Err((
                "machines need root, this is another user".to_owned(),
                "run it with sudo, or as root".to_owned(),
            ))
        },
    )];
    for (name, file, package, required) in PROGRAMS {
        checks.push(program(name, file, package, required));
    }
    checks.push(firmware());
    checks.push(Check::new(INOTIFY, false, inotify()));
    checks.push(Check::new("limits", false, limits()));
    checks.push(Check::new("disk space", true, space(&config.state_dir)));
    if root {
        checks.push(Check::new(
            "overlay file system",
            true,
            overlay_works(&config.state_dir),
        ));
    }
    let made = base::is_made(&config.base_dir);
    checks.push(Check::new(
        "base image",
        true,
        if made {
            Ok(format!("cached in {}", config.base_dir.display()))
        } else if let Some(url) = &config.mirror {
            mirror(url)
        } else {
            Ok("not needed".to_owned())
        },
    ));
    checks
}

/// Installs the Debian packages of the failed checks, and raises the limit on inotify until the next boot.
///
/// # Errors
/// apt-get fails or is not there.
pub fn fix(checks: &[Check], note: &dyn Fn(&str)) -> io::Result<()> {
    if checks
        .iter()
        .any(|check| check.name == INOTIFY && !check.passed())
    {
        note(&format!(
            "setting fs.inotify.max_user_instances to {INOTIFY_INSTANCES} until the next boot"
        ));
        std::fs::write(INOTIFY_FILE, INOTIFY_INSTANCES.to_string())?;
    }
    let packages: Vec<&str> = checks
        .iter()
        .filter(|check| !check.passed())
        .flat_map(|check| check.packages.clone())
        .collect();
    if packages.is_empty() {
        return Ok(());
    }
    note(&format!("installing {}", packages.join(" ")));
    apt(&["update"])?;
    let install = |release: &[&str]| {
        let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
        arguments.extend_from_slice(release);
        arguments.extend_from_slice(&packages);
        apt(&arguments)
    };
    // Where parts of QEMU came from backports, the rest must come from there too.
    install(&[]).or_else(|_| install(&["--target-release=bookworm-backports"]))
}

fn apt(arguments: &[&str]) -> io::Result<()> {
    let output = Command::new("apt-get")
        .args(["-q", "-o", "Acquire::Retries=3"])
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let last: Vec<&str> = text.lines().rev().take(3).collect();
    Err(io::Error::other(format!(
        "apt-get {} failed: {}",
        arguments.join(" "),
        last.into_iter().rev().collect::<Vec<_>>().join(" / ")
    )))
}

fn program(name: &'static str, file: &str, package: &'static str, required: bool) -> Check {
    let found = find(file);
    let mut check = Check::new(
        name,
        required,
        match found {
            Some(path) => Ok(path.display().to_string()),
            None => Err((
                format!("{file} is not installed"),
                format!("apt-get install {package}"),
            )),
        },
    );
    check.packages = vec![package];
    check
}

fn firmware() -> Check {
    let path = Path::new("/usr/share/OVMF/OVMF_CODE_4M.fd");
    let mut check = Check::new(
        "UEFI firmware for QEMU",
        false,
        if path.exists() {
            Ok(path.display().to_string())
        } else {
            Err((
                "OVMF is not installed".to_owned(),
                "apt-get install ovmf".to_owned(),
            ))
        },
    );
    check.packages = vec!["ovmf"];
    check
}

fn find(file: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    // System programs are not on every user's path.
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(file))
        .find(|path| path.is_file())
}

fn inotify() -> Result<String, (String, String)> {
    let allowed = std::fs::read_to_string(INOTIFY_FILE)
        .ok()
        .and_then(|text| text.trim().parse::<u64>().ok());
    match allowed {
        Some(allowed) if allowed < INOTIFY_INSTANCES => Err((
            format!(
                "{allowed} instances a user: enough for about {} machines at once",
                allowed / 25
            ),
            format!("sysctl -w fs.inotify.max_user_instances={INOTIFY_INSTANCES}"),
        )),
        Some(allowed) => Ok(format!("{allowed} instances a user")),
        None => Ok("no limit is known".to_owned()),
    }
}

fn limits() -> Result<String, (String, String)> {
    match super::supervisor::cgroup::missing().as_slice() {
        [] => Ok("memory and CPU of machines are limited".to_owned()),
        missing => Err((
            format!(
                "machines are not limited: the kernel has no control group of {}",
                missing.join(" and ")
            ),
            "boot with cgroup_enable=memory, or without cgroup_disable".to_owned(),
        )),
    }
}

/// The nearest directory that exists: a state directory is made only when something happens.
fn existing(path: &Path) -> &Path {
    path.ancestors()
        .find(|path| path.is_dir())
        .unwrap_or(Path::new("/"))
}

fn space(dir: &Path) -> Result<String, (String, String)> {
    let dir = existing(dir);
    let free = rustix::fs::statvfs(dir).map_err(|error| {
        (
            format!("cannot look at {}: {error}", dir.display()),
            "pass --state-dir DIR".to_owned(),
        )
    })?;
    let gib = (free.f_bavail * free.f_frsize) >> 30;
    if gib >= FREE_GIB {
        Ok(format!("{gib} GiB free in {}", dir.display()))
    } else {
        Err((
            format!("{gib} GiB free in {}, {FREE_GIB} are needed", dir.display()),
            "free some space, `piaas-bake cloud gc`, or pass --state-dir DIR on another disk"
                .to_owned(),
        ))
    }
}

/// Mounts an overlay for real, in a namespace that ends with the thread.
fn overlay_works(dir: &Path) -> Result<String, (String, String)> {
    let dir = existing(dir).to_path_buf();
    let shown = dir.display().to_string();
    let tried = std::thread::spawn(move || -> io::Result<()> {
        let trial = tempfile::tempdir_in(&dir)?;
        let at = |name: &str| trial.path().join(name);
        for name in ["lower", "upper", "work", "root"] {
            std::fs::create_dir(at(name))?;
        }
        overlay::private_namespace()?;
        overlay::mount_root(&[at("lower")], &at("upper"), &at("work"), &at("root"))?;
        std::fs::write(at("root").join("x"), "x")?;
        rustix::mount::unmount(at("root"), rustix::mount::UnmountFlags::DETACH)?;
        Ok(())
    })
    .join();
    match tried {
        Ok(Ok(())) => Ok(format!("works in {shown}")),
        Ok(Err(error)) => Err((
            format!("does not work in {shown}: {error}"),
            "use a directory on ext4, xfs or tmpfs (--state-dir DIR), and a kernel with overlayfs"
                .to_owned(),
        )),
        Err(_) => Err(("the trial panicked".to_owned(), "report this".to_owned())),
    }
}

/// Asks the mirror for the release file's first bytes.
fn mirror(url: &str) -> Result<String, (String, String)> {
    let way_out =
        || "check the network, or set PIAAS_MIRROR to a mirror that is reached".to_owned();
    let Some(rest) = url.strip_prefix("http://") else {
        // mmdebstrap speaks https itself; this check does not.
        return Ok(format!("{url} (not asked: only http:// mirrors are)"));
    };
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let address = if host.contains(':') {
        host.to_owned()
    } else {
        format!("{host}:80")
    };
    let ask = || -> io::Result<String> {
        let limit = Duration::from_secs(10);
        let target = address
            .to_socket_addrs()?
            .next()
            .ok_or_else(|| io::Error::other("the name has no address"))?;
        let mut stream = TcpStream::connect_timeout(&target, limit)?;
        stream.set_read_timeout(Some(limit))?;
        let path = path.trim_end_matches('/');
        // In one piece: a server may answer, and close, at the first one.
        let request = format!(
            "HEAD /{path}/dists/bookworm/InRelease HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes())?;
        let mut answer = [0; 64];
        let length = stream.read(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer[..length])
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned())
    };
    match ask() {
        Ok(line) if line.contains(" 200 ") || line.contains(" 30") => {
            Ok(format!("not made yet; the mirror {url} answers"))
        }
        Ok(line) => Err((
            format!("the mirror {url} answers `{line}` for Debian 12"),
            way_out(),
        )),
        Err(error) => Err((
            format!("the mirror {url} is not reached: {error}"),
            way_out(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_that_is_not_there_is_one_clear_message() {
        let (message, way_out) = mirror("http://127.0.0.1:1/debian").unwrap_err();
        assert!(message.contains("127.0.0.1:1"), "{message}");
        assert!(way_out.contains("PIAAS_MIRROR"));
    }

    #[test]
    fn a_missing_program_names_its_package() {
        let check = program("none", "no-such-program-here", "some-package", true);
        assert!(!check.passed());
        assert_eq!(
            check.way_out.as_deref(),
            Some("apt-get install some-package")
        );
    }

    #[test]
    fn space_is_measured_where_the_directory_will_be() {
        let dir = tempfile::tempdir().unwrap();
        let later = dir.path().join("not/yet/there");
        match space(&later) {
            Ok(message) | Err((message, _)) => {
                assert!(message.contains(dir.path().to_str().unwrap()), "{message}")
            }
        }
    }
}
