//! The files that a machine is started from, and the archive that it leaves.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::check::Listing;
use super::qemu::VARIABLES;

const SCRIPT: &str = include_str!("../../templates/boot-proof.sh");
/// Serial number of the disk that carries orders in and results out.
pub const SERIAL: &str = "piaas-proof";
/// Bytes of that disk beyond what it brings; a sparse file.
const ROOM: u64 = 1 << 30;

const CLUSTER_BITS: u32 = 16;
const CLUSTER: usize = 1 << CLUSTER_BITS;

/// Makes everything that a machine is started from, in `dir`: `overlay.qcow2` over the disk, `carrier`, `credential` and
/// `variables.fd`. Without a bundle the machine says who it is, and no more.
pub fn write(dir: &Path, disk: &Path, bundle: Option<&[u8]>) -> io::Result<()> {
    let size = disk.metadata()?.len();
    std::fs::write(dir.join("overlay.qcow2"), overlay(disk, size + size / 2))?;
    std::fs::copy(VARIABLES, dir.join("variables.fd"))?;
    std::fs::write(dir.join("credential"), credential())?;
    let mut carrier = File::create(dir.join("carrier"))?;
    let mut archive = tar::Builder::new(&mut carrier);
    let end_machine = end_machine();
    let mut files = vec![
        ("boot-proof.sh", 0o644, SCRIPT.as_bytes()),
        ("end-machine", 0o755, end_machine.as_slice()),
    ];
    files.extend(bundle.map(|bundle| ("bundle.tar.gz", 0o644, bundle)));
    for (name, mode, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(mode);
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, name, bytes)?;
    }
    archive.into_inner()?;
    carrier.set_len(carrier_size(bundle))
}

/// Bytes of the carrier.
pub fn carrier_size(bundle: Option<&[u8]>) -> u64 {
    let brought = bundle.map_or(0, |bundle| bundle.len() as u64);
    (ROOM + brought).next_multiple_of(1 << 20)
}

/// An empty disk of `size` bytes over a raw one, which is only read: a file of the format qcow2, version 2
/// (`docs/interop/qcow2.txt` of QEMU). Its clusters are the header, the table of reference counts and its one block, and
/// the table of tables of clusters.
fn overlay(backing: &Path, size: u64) -> Vec<u8> {
    let backing = backing.as_os_str().as_bytes();
    let tables = size.div_ceil((CLUSTER / 8 * CLUSTER) as u64);
    let tables_clusters = (tables as usize * 8).div_ceil(CLUSTER);
    let cluster = |number: usize| ((number * CLUSTER) as u64).to_be_bytes();
    // Each is a number of 4 or 8 bytes, big-endian.
    let format_of_backing = [
        &0xE279_2ACA_u32.to_be_bytes()[..],
        &3u32.to_be_bytes(),
        b"raw\0\0\0\0\0",
    ];
    let end_of_extensions = [0; 8];
    let name_at = 72 + format_of_backing.concat().len() + end_of_extensions.len();
    let mut out = [
        &b"QFI\xfb"[..],
        &2u32.to_be_bytes(),
        &(name_at as u64).to_be_bytes(),
        &(backing.len() as u32).to_be_bytes(),
        &CLUSTER_BITS.to_be_bytes(),
        &size.to_be_bytes(),
        // No encryption.
        &0u32.to_be_bytes(),
        &(tables as u32).to_be_bytes(),
        &cluster(3),
        &cluster(1),
        &1u32.to_be_bytes(),
        // No snapshots.
        &0u32.to_be_bytes(),
        &0u64.to_be_bytes(),
    ]
    .concat();
    out.extend(format_of_backing.concat());
    out.extend(end_of_extensions);
    out.extend(backing);
    out.resize(CLUSTER, 0);
    out.extend(cluster(2));
    out.resize(2 * CLUSTER, 0);
    out.extend([0, 1].repeat(3 + tables_clusters));
    out.resize((3 + tables_clusters) * CLUSTER, 0);
    out
}

/// The string of SMBIOS type 11 by which systemd in the machine gets a credential (systemd.exec(5), "Credentials";
/// tmpfiles.d(5), `tmpfiles.extra`, since systemd 252): two files below `/run`. A rule of udev starts the proof when the
/// carrier is seen again, and nothing of the image is touched for it.
fn credential() -> String {
    let rule = format!(
        "SUBSYSTEM==\"block\", ATTR{{serial}}==\"{SERIAL}\", TAG+=\"systemd\", ENV{{SYSTEMD_WANTS}}+=\"{SERIAL}.service\"\n"
    );
    // /run may forbid to execute what is there.
    let unit = format!(
        "[Unit]\nDescription=Proof that this image boots\nAfter=multi-user.target\n\n[Service]\nType=exec\n\
         ExecStart=/bin/sh -euc 'mkdir -p /run/{SERIAL}; mount -t tmpfs -o mode=0700 tmpfs /run/{SERIAL}; \
         cd /run/{SERIAL}; disk=/dev/disk/by-id/virtio-{SERIAL}; tar -xf $disk; exec sh boot-proof.sh $disk'\n"
    );
    let lines: String = [
        (format!("/run/udev/rules.d/99-{SERIAL}.rules"), rule),
        (format!("/run/systemd/system/{SERIAL}.service"), unit),
    ]
    .into_iter()
    .map(|(path, text)| format!("f~ {path} 0644 root root - {}\n", STANDARD.encode(text)))
    .collect();
    format!(
        "io.systemd.credential.binary:tmpfiles.extra={}",
        STANDARD.encode(lines)
    )
}

/// A program of Linux on x86-64 that writes the first character of its argument to the port of `isa-debug-exit`. The
/// kernel of an image need not have `/dev/port`, nor the image a compiler.
fn end_machine() -> Vec<u8> {
    #[rustfmt::skip]
    let code = [
        0xb8, 173, 0, 0, 0,           // mov eax, SYS_ioperm
        0xbf, 0xf4, 0, 0, 0,          // mov edi, 0xf4: from this port
        0xbe, 4, 0, 0, 0,             // mov esi, 4: so many
        0xba, 1, 0, 0, 0,             // mov edx, 1: allow
        0x0f, 0x05,                   // syscall
        0x48, 0x8b, 0x44, 0x24, 0x10, // mov rax, [rsp+16]: argv[1]
        0x8a, 0x00,                   // mov al, [rax]
        0xe6, 0xf4,                   // out 0xf4, al: the end, where the device is
        0xb8, 60, 0, 0, 0,            // mov eax, SYS_exit
        0xbf, 1, 0, 0, 0,             // mov edi, 1
        0x0f, 0x05,                   // syscall
    ];
    // elf(5): the header of the file, one of a segment, and the code right behind them.
    let (base, head) = (0x40_0000_u64, 64 + 56_u64);
    let size = head + code.len() as u64;
    [
        &b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0"[..],
        // ET_EXEC, EM_X86_64, EV_CURRENT
        &[2, 0, 62, 0, 1, 0, 0, 0],
        &(base + head).to_le_bytes(),
        &64u64.to_le_bytes(),
        // No sections and no flags; sizes and numbers of headers.
        &[0; 12],
        &[64, 0, 56, 0, 1, 0, 64, 0, 0, 0, 0, 0],
        // PT_LOAD, readable and executable: the whole file.
        &[1, 0, 0, 0, 5, 0, 0, 0],
        &0u64.to_le_bytes(),
        &base.to_le_bytes(),
        &base.to_le_bytes(),
        &size.to_le_bytes(),
        &size.to_le_bytes(),
        &0x1000_u64.to_le_bytes(),
        &code,
    ]
    .concat()
}

/// A firmware of 64 KiB whose first instructions, 16 bytes before its end, write `P` to the port of `isa-debug-exit`.
pub fn trial_firmware() -> Vec<u8> {
    let mut rom = vec![0; (64 << 10) - 16];
    // mov al, 'P'; out 0xf4, al; hlt; back to the hlt
    rom.extend([0xb0, b'P', 0xe6, 0xf4, 0xf4, 0xeb, 0xfd]);
    rom.resize(64 << 10, 0);
    rom
}

/// Reads what a machine has written to the carrier.
///
/// # Errors
/// It cannot be read, or is no list.
pub(crate) fn read(carrier: impl io::Read) -> io::Result<Listing> {
    let mut parts: BTreeMap<bool, Vec<u8>> = BTreeMap::new();
    crate::untar::files(carrier, ROOM, |path, bytes| {
        let is_sums = Path::new(&path).starts_with("sums");
        parts.entry(is_sums).or_default().extend(bytes);
        Ok::<_, io::Error>(())
    })?;
    let part = |is_sums| parts.get(&is_sums).map(Vec::as_slice).unwrap_or_default();
    Listing::parse(part(false), part(true))
        .ok_or_else(|| io::Error::other("the machine's list of files cannot be read"))
}

/// The last lines of a console, without what moves a cursor.
pub fn last_lines(console: &Path, most: usize) -> Vec<String> {
    let bytes = std::fs::read(console).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<String> = text
        .lines()
        .map(|line| plain(line).trim_end().to_owned())
        .filter(|line| !line.is_empty())
        .collect();
    lines[lines.len().saturating_sub(most)..].to_vec()
}

/// A line without control characters and control sequences (ECMA-48, "CSI": up to a byte from `@` to `~`).
fn plain(line: &str) -> String {
    let mut out = String::new();
    let mut rest = line.chars();
    while let Some(one) = rest.next() {
        if one == '\u{1b}' && rest.as_str().starts_with('[') {
            rest.next();
            rest.find(|one| ('@'..='~').contains(one));
        } else if !one.is_control() {
            out.push(one);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlay_is_what_qemu_reads() {
        let out = overlay(Path::new("/x/disk.raw"), 12 << 30);
        let word = |at: usize| u64::from_be_bytes(out[at..at + 8].try_into().unwrap());
        assert_eq!(&out[..8], b"QFI\xfb\0\0\0\x02");
        assert_eq!(word(24), 12 << 30);
        let name = word(8) as usize;
        assert_eq!(&out[name..name + 11], b"/x/disk.raw");
        // 12 GiB are 24 tables of 512 MiB.
        assert_eq!(&out[36..40], 24u32.to_be_bytes());
        // The reference counts of the four clusters that there are, and no more.
        assert_eq!(
            &out[2 * CLUSTER..2 * CLUSTER + 10],
            [0, 1, 0, 1, 0, 1, 0, 1, 0, 0]
        );
        assert_eq!(out.len(), 4 * CLUSTER);
    }

    /// Without the device nothing ends, and without permission nothing is written: the program ends itself.
    #[test]
    fn the_program_that_ends_a_machine_runs() {
        use std::os::unix::fs::PermissionsExt as _;
        use std::os::unix::process::ExitStatusExt as _;
        if !rustix::process::geteuid().is_root() {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("end-machine");
            std::fs::write(&path, end_machine()).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            let status = std::process::Command::new(&path).arg("P").status().unwrap();
            // ioperm is refused, and so is the port: SIGSEGV.
            assert_eq!(status.signal(), Some(11));
        }
        let program = end_machine();
        assert_eq!(program.len(), 120 + 43);
        assert_eq!(&program[24..32], 0x40_0078_u64.to_le_bytes());
    }

    #[test]
    fn a_console_is_shown_without_what_moves_a_cursor() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        std::fs::write(&path, "a\r\n\x1b[2Jb\x07\r\n\r\n\x1b[0;1mc[d]\x1b[0m\r\n").unwrap();
        assert_eq!(last_lines(&path, 2), ["b", "c[d]"]);
        assert_eq!(
            last_lines(&dir.path().join("none"), 2),
            Vec::<String>::new()
        );
    }
}
