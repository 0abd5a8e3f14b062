//! The base image's root: a real Debian 12, made once with mmdebstrap and cached.
//!
//! It holds what an official Debian cloud image has that a machine here needs (kernel, initrd, systemd-boot, OpenSSH,
//! networkd and resolved), and no identity: no machine-id, no host keys, no host name. Unlike the official image it
//! has no cloud-init.

use std::collections::VecDeque;
use std::io::{self, BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{FlockOperation, flock};
use sha2::{Digest as _, Sha256};

use crate::image::SOURCE_DATE;

const SUITE: &str = "bookworm";
const PACKAGES: [&str; 19] = [
    "ca-certificates",
    "curl",
    "dbus",
    "initramfs-tools",
    "iproute2",
    "kmod",
    "libpam-systemd",
    "linux-image-cloud-amd64",
    "netbase",
    "openssh-server",
    "procps",
    "systemd",
    "systemd-boot-efi",
    "systemd-resolved",
    "systemd-sysv",
    "systemd-timesyncd",
    "tzdata",
    "udev",
    "zstd",
];

/// In a machine of the local cloud the network is set up from outside; on a real or emulated one DHCP does it.
const NETWORK: &str = "[Match]\nName=en* eth*\nVirtualization=!container\n\n[Network]\nDHCP=yes\n";

/// Run in the new root when all packages are there. apt's download directories get the owner that apt gives them only
/// where its user can reach the path here.
const FINISH: &str = r#"set -eu
rm -f "$1/etc/hostname" "$1/etc/machine-id" "$1/var/lib/dbus/machine-id" "$1"/etc/ssh/ssh_host_*
: > "$1/etc/machine-id"
printf 'deb %s bookworm main\ndeb %s bookworm-updates main\ndeb %s bookworm-security main\n' "$2" "$2" "$3" > "$1/etc/apt/sources.list"
printf '%s' "$4" > "$1/etc/systemd/network/80-dhcp.network"
chroot "$1" passwd --quiet --lock root
chroot "$1" chown _apt:root /var/lib/apt/lists/partial /var/cache/apt/archives/partial
chmod 0700 "$1/var/lib/apt/lists/partial" "$1/var/cache/apt/archives/partial"
chroot "$1" systemctl --quiet enable systemd-networkd.service systemd-resolved.service
ln -sf ../run/systemd/resolve/stub-resolv.conf "$1/etc/resolv.conf"
"#;

/// The base could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BaseError {
    #[error("cannot use {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("mmdebstrap could not be started: {0}; install it with `apt-get install mmdebstrap`")]
    NotInstalled(io::Error),
    #[error("mmdebstrap failed with {mirror} ({status}); its last lines:\n{last_lines}")]
    Failed {
        mirror: String,
        status: String,
        last_lines: String,
    },
}

/// Name of the base's directory in a cache; another way of making it has another name.
#[must_use]
pub fn directory_name() -> String {
    let date = SOURCE_DATE.to_string();
    let inputs = [&PACKAGES.join(","), NETWORK, FINISH, &date].join("\n");
    let digest = hex::encode(Sha256::digest(inputs));
    format!("{SUITE}-amd64-{}", &digest[..8])
}

/// Whether the base is there.
#[must_use]
pub fn is_made(base: &Path) -> bool {
    base.join("usr/lib/os-release").is_file()
}

/// The security archive that goes with a mirror: Debian's own lies beside its main archive.
#[must_use]
pub fn security_mirror(mirror: &str) -> String {
    format!("{}-security", mirror.trim_end_matches('/'))
}

/// Makes the base unless it is there. `base` appears complete or not at all; a second caller waits for the first.
///
/// # Errors
/// [`BaseError`]; nothing is left behind.
pub fn ensure(base: &Path, mirror: &str, progress: &dyn Fn(&str)) -> Result<(), BaseError> {
    let cannot = |path: &Path| {
        let path = path.to_path_buf();
        move |source| BaseError::Io { path, source }
    };
    let parent = base.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(parent).map_err(cannot(parent))?;
    let lock_path = base.with_extension("lock");
    let lock = std::fs::File::create(&lock_path).map_err(cannot(&lock_path))?;
    flock(&lock, FlockOperation::LockExclusive)
        .map_err(|error| cannot(&lock_path)(error.into()))?;
    if is_made(base) {
        return Ok(());
    }
    let half = base.with_extension("half-made");
    super::nspawn::files::remove_dir(&half).map_err(cannot(&half))?;
    let made = make(&half, mirror, progress)
        .and_then(|()| std::fs::rename(&half, base).map_err(cannot(base)));
    if made.is_err() {
        // The failure itself is what counts; the next attempt begins by removing this again.
        let _ = super::nspawn::files::remove_dir(&half);
    }
    made
}

fn make(root: &Path, mirror: &str, progress: &dyn Fn(&str)) -> Result<(), BaseError> {
    let mirror = mirror.trim_end_matches('/');
    let security = security_mirror(mirror);
    let finish = shlex::try_join(["sh", "-c", FINISH, "finish"])
        .expect("the script is a constant without a NUL character");
    let values =
        shlex::try_join([mirror, &security, NETWORK]).map_err(|error| BaseError::Failed {
            mirror: mirror.to_owned(),
            status: "not started".to_owned(),
            last_lines: error.to_string(),
        })?;
    let mut command = Command::new("mmdebstrap");
    // SAFETY: umask is async-signal-safe, and nothing else happens between fork and exec.
    unsafe {
        command.pre_exec(|| {
            rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
            Ok(())
        });
    }
    let mut child = command
        .args([
            "--variant=minbase",
            "--architectures=amd64",
            "--aptopt=Acquire::Retries \"3\"",
        ])
        .arg("--aptopt=Apt::Install-Recommends \"false\"")
        .arg(format!("--include={}", PACKAGES.join(",")))
        .arg(format!("--customize-hook={finish} \"$1\" {values}"))
        .arg(SUITE)
        .arg(root)
        .arg(format!("deb {mirror} {SUITE} main"))
        .arg(format!("deb {mirror} {SUITE}-updates main"))
        .arg(format!("deb {security} {SUITE}-security main"))
        .env("LC_ALL", "C.UTF-8")
        .env("TZ", "UTC")
        .env("SOURCE_DATE_EPOCH", SOURCE_DATE.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(BaseError::NotInstalled)?;
    let mut last: VecDeque<String> = VecDeque::new();
    if let Some(stderr) = child.stderr.take() {
        for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line)
                .trim_end()
                .rsplit('\r')
                .next()
                .unwrap_or_default()
                .to_owned();
            if line.is_empty() {
                continue;
            }
            progress(&line);
            if last.len() == 15 {
                last.pop_front();
            }
            last.push_back(line);
        }
    }
    let status = child.wait().map_err(BaseError::NotInstalled)?;
    if status.success() {
        return Ok(());
    }
    let last_lines = last.into_iter().collect::<Vec<_>>().join("\n");
    Err(BaseError::Failed {
        mirror: mirror.to_owned(),
        status: status.to_string(),
        last_lines,
    })
}
