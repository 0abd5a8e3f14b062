//! QEMU: which accelerator works here, and one machine that boots a disk.

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde::Serialize;
use tokio::process::{Child, Command};

use super::files;

/// The program; what it says begins with its name.
pub const QEMU: &str = "qemu-system-x86_64";
const FIRMWARE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
/// What the firmware keeps its variables in; each machine gets a copy.
pub const VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

/// Exit status of QEMU after a guest has written `value` to the port of the device `isa-debug-exit`
/// (`hw/misc/debugexit.c` of QEMU). It is never even, so never that of a QEMU that ends by itself or by a power-off, and
/// QEMU itself fails with 1.
const fn status(value: u8) -> i32 {
    ((value as i32) << 1) | 1
}

/// The machine says that all is done.
pub const PASSED: i32 = status(b'P');
/// The machine says that a test has failed.
pub const FAILED: i32 = status(b'F');

/// What executes the machine's code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    Kvm,
    /// QEMU's own emulation: works everywhere, inside other virtual machines too.
    Tcg,
}

impl Accelerator {
    /// The name in QEMU.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// KVM where code really runs in it, the emulation otherwise: `/dev/kvm` is also there where nested machines die at
/// once. `dir` gets a file for the trial.
pub async fn choose(dir: &Path) -> io::Result<Accelerator> {
    if !Path::new("/dev/kvm").exists() {
        return Ok(Accelerator::Tcg);
    }
    let works = tries(Accelerator::Kvm, dir).await?;
    Ok(if works {
        Accelerator::Kvm
    } else {
        Accelerator::Tcg
    })
}

/// Whether a machine whose firmware does nothing but end it with [`PASSED`] does so.
async fn tries(accelerator: Accelerator, dir: &Path) -> io::Result<bool> {
    std::fs::write(dir.join("trial.rom"), files::trial_firmware())?;
    let mut qemu = qemu(accelerator, dir);
    qemu.args(["-m", "64", "-bios", "trial.rom", "-display", "none"]);
    qemu.stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = qemu.spawn()?;
    let ended = tokio::time::timeout(Duration::from_secs(10), child.wait()).await;
    child.kill().await?;
    Ok(matches!(ended, Ok(Ok(status)) if status.code() == Some(PASSED)))
}

/// What all machines have: they work in `dir`, and end with this process, however that ends.
fn qemu(accelerator: Accelerator, dir: &Path) -> Command {
    let mut qemu = Command::new("setpriv");
    qemu.args(["--pdeathsig", "KILL", "--", QEMU])
        .args(["-machine", "q35", "-accel", accelerator.as_str()])
        .args(["-cpu", "max", "-smp", "2", "-nodefaults", "-no-reboot"])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"])
        .current_dir(dir)
        .kill_on_drop(true);
    qemu
}

/// Whether QEMU and its firmware are here.
///
/// # Errors
/// What is missing.
pub fn check_installed() -> Result<(), String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|dir| dir.join(QEMU).is_file());
    if !found {
        return Err(format!("{QEMU} is not installed"));
    }
    let mut firmware = [FIRMWARE, VARIABLES].into_iter();
    let missing = firmware.find(|file| !Path::new(file).exists());
    missing.map_or(Ok(()), |file| {
        Err(format!("the UEFI firmware {file} is not installed"))
    })
}

/// Starts a machine from the files in `dir` ([`files`]). Its standard input is QEMU's monitor, its standard error what
/// the machine tells on its second serial line; the first one is written to `console.log`.
///
/// `metadata` is a command for each connection to the instance metadata service. The network is the link-local one,
/// because QEMU answers for addresses of the machine's own network only.
pub fn start(accelerator: Accelerator, dir: &Path, metadata: Option<&str>) -> io::Result<Child> {
    let mut network = "user,model=virtio-net-pci,net=169.254.0.0/16".to_owned();
    if let Some(command) = metadata {
        network.push_str(",guestfwd=tcp:169.254.169.254:80-cmd:");
        // A comma ends a value, two are one.
        network.push_str(&command.replace(',', ",,"));
    }
    let firmware = format!("if=pflash,format=raw,unit=0,readonly=on,file={FIRMWARE}");
    let mut qemu = qemu(accelerator, dir);
    qemu.args(["-m", "2048", "-display", "none", "-monitor", "stdio"])
        .args(["-drive", &firmware])
        .args(["-drive", "if=pflash,format=raw,unit=1,file=variables.fd"])
        .args(["-drive", "if=virtio,format=qcow2,file=overlay.qcow2"])
        .args(["-drive", "if=none,id=carrier,format=raw,file=carrier"])
        .args([
            "-device",
            &format!("virtio-blk-pci,drive=carrier,serial={}", files::SERIAL),
        ])
        .args(["-smbios", "type=11,path=credential"])
        .args(["-device", "virtio-rng-pci", "-nic", &network])
        .args(["-serial", "file:console.log"])
        .args(["-chardev", "file,id=report,path=/dev/stderr"])
        .args(["-serial", "chardev:report"]);
    qemu.stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    qemu.spawn()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chosen_statuses_are_nobody_elses() {
        assert_eq!((PASSED, FAILED), (161, 141));
        for other in [0, 1, 128 + 9, 128 + 15] {
            assert!(other != PASSED && other != FAILED);
        }
    }

    #[tokio::test]
    async fn a_trial_passes_where_code_runs_and_fails_where_it_does_not() {
        if check_installed().is_err() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        assert!(tries(Accelerator::Tcg, dir.path()).await.unwrap());
        let chosen = choose(dir.path()).await.unwrap();
        let works =
            Path::new("/dev/kvm").exists() && tries(Accelerator::Kvm, dir.path()).await.unwrap();
        assert_eq!(chosen == Accelerator::Kvm, works);
    }
}
