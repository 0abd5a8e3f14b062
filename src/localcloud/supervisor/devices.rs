//! Which devices a machine may open: none of its host's but those that any Linux has.
//!
//! A machine's root can make a node for any device, or mount them all (`devtmpfs`). So the kernel is asked at each open: by
//! a program on the control group in the unified hierarchy (Linux, `admin-guide/cgroup-v2`, "Device controller"), by the
//! older controller's list where there is no such hierarchy.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::Path;

/// Character devices, major and minor (Linux, `admin-guide/devices.txt`): null, zero, full, random, urandom, tty, ptmx and
/// net/tun. It is systemd's list for containers (`DevicePolicy=closed`, systemd.resource-control(5), and systemd-nspawn's
/// /dev/net/tun).
const OPEN: [(u32, u32); 8] = [
    (1, 3),
    (1, 5),
    (1, 7),
    (1, 8),
    (1, 9),
    (5, 0),
    (5, 2),
    (10, 200),
];
/// Major of the terminals in devpts.
const PTS: u32 = 136;

/// Confines what runs in a group and below.
///
/// # Errors
/// The kernel refuses.
pub fn confine(group: &Path) -> io::Result<()> {
    let context = |error: io::Error| {
        let text = format!("cannot confine the devices of {}: {error}", group.display());
        io::Error::new(error.kind(), text)
    };
    if group.join("cgroup.events").exists() {
        attach(group).map_err(context)
    } else if group.join("devices.deny").exists() {
        list(group).map_err(context)
    } else {
        Ok(())
    }
}

/// The older controller (Linux, `admin-guide/cgroup-v1/devices`). Nodes may be made; it is the opening that is refused.
fn list(group: &Path) -> io::Result<()> {
    std::fs::write(group.join("devices.deny"), "a")?;
    let allow = |rule: String| std::fs::write(group.join("devices.allow"), rule);
    allow("b *:* m".to_owned())?;
    allow("c *:* m".to_owned())?;
    allow(format!("c {PTS}:* rw"))?;
    for (major, minor) in OPEN {
        allow(format!("c {major}:{minor} rw"))?;
    }
    Ok(())
}

/// One instruction of BPF: `struct bpf_insn` of `linux/bpf.h`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    code: u8,
    /// Destination in the low four bits, source in the high ones.
    registers: u8,
    offset: i16,
    immediate: i32,
}

const fn instruction(code: u8, registers: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers,
        offset,
        immediate,
    }
}

// Codes of `linux/bpf_common.h` and `linux/bpf.h`, by their names there.
const LDX_MEM_W: u8 = 0x61;
const ALU64_MOV_X: u8 = 0xbf;
const ALU_RSH_K: u8 = 0x74;
const ALU_AND_K: u8 = 0x54;
const JMP_JEQ_K: u8 = 0x15;
const JMP_JNE_K: u8 = 0x55;
const ALU64_MOV_K: u8 = 0xb7;
const JMP_EXIT: u8 = 0x95;
/// `BPF_DEVCG_ACC_MKNOD` and `BPF_DEVCG_DEV_CHAR`.
const MKNOD: i32 = 1;
const CHARACTER: i32 = 2;

/// Reads `struct bpf_cgroup_dev_ctx` (access in the high half of the first word and type in the low one; major; minor);
/// returns 1 to allow.
fn program() -> io::Result<Vec<Instruction>> {
    let number = |value: u32| i32::try_from(value).map_err(io::Error::other);
    let mut all = vec![
        instruction(LDX_MEM_W, 0x12, 0, 0),
        instruction(ALU64_MOV_X, 0x23, 0, 0),
        instruction(ALU_RSH_K, 0x03, 0, 16),
        instruction(ALU_AND_K, 0x02, 0, 0xffff),
        instruction(LDX_MEM_W, 0x14, 4, 0),
        instruction(LDX_MEM_W, 0x15, 8, 0),
    ];
    // What is tried, and how many instructions on to "allow" it is from the end of the trials: filled in below.
    let mut trials = vec![instruction(JMP_JEQ_K, 0x03, 0, MKNOD)];
    trials.push(instruction(JMP_JNE_K, 0x02, 0, CHARACTER));
    trials.push(instruction(JMP_JEQ_K, 0x04, 0, number(PTS)?));
    for (major, minor) in OPEN {
        // Another major: not this one, past the next instruction.
        trials.push(instruction(JMP_JNE_K, 0x04, 1, number(major)?));
        trials.push(instruction(JMP_JEQ_K, 0x05, 0, number(minor)?));
    }
    let end = trials.len();
    for (at, trial) in trials.iter_mut().enumerate() {
        let rest = i16::try_from(end - at - 1).map_err(io::Error::other)?;
        match trial.code {
            // Two instructions that refuse are between the trials and those that allow.
            JMP_JEQ_K => trial.offset = rest + 2,
            _ if trial.offset == 0 => trial.offset = rest,
            _ => {}
        }
    }
    all.extend(trials);
    for verdict in [0, 1] {
        all.push(instruction(ALU64_MOV_K, 0, 0, verdict));
        all.push(instruction(JMP_EXIT, 0, 0, 0));
    }
    Ok(all)
}

/// The members of `union bpf_attr` for `BPF_PROG_LOAD`, as far as this goes.
#[repr(C)]
struct Load {
    kind: u32,
    length: u32,
    instructions: u64,
    licence: u64,
}

/// Those for `BPF_PROG_ATTACH`.
#[repr(C)]
struct Attach {
    target: i32,
    program: i32,
    kind: u32,
    flags: u32,
}

const PROG_LOAD: i32 = 5;
const PROG_ATTACH: i32 = 8;
/// `BPF_PROG_TYPE_CGROUP_DEVICE`.
const DEVICE_PROGRAM: u32 = 15;
/// `BPF_CGROUP_DEVICE`.
const DEVICE_HOOK: u32 = 6;
/// `BPF_F_ALLOW_MULTI`: the systemd inside may add programs of its own below.
const ALLOW_MULTI: u32 = 2;

fn attach(group: &Path) -> io::Result<()> {
    let code = program()?;
    let licence = c"Apache-2.0";
    let load = Load {
        kind: DEVICE_PROGRAM,
        length: u32::try_from(code.len()).map_err(io::Error::other)?,
        instructions: code.as_ptr().addr() as u64,
        licence: licence.as_ptr().addr() as u64,
    };
    let loaded = bpf(PROG_LOAD, &load)?;
    // SAFETY: the kernel has just made this descriptor for us alone.
    let program = unsafe { OwnedFd::from_raw_fd(loaded) };
    let target = File::open(group)?;
    let hook = Attach {
        target: target.as_raw_fd(),
        program: program.as_raw_fd(),
        kind: DEVICE_HOOK,
        flags: ALLOW_MULTI,
    };
    bpf(PROG_ATTACH, &hook).map(drop)
}

/// bpf(2).
fn bpf<T>(command: i32, attributes: &T) -> io::Result<i32> {
    // SAFETY: the kernel reads the structure, whose size it is told, and what its addresses name, which lives in the caller.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    match i32::try_from(answer) {
        Ok(number) if number >= 0 => Ok(number),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the program says of an access, by an interpreter of the few instructions that it has.
    fn verdict(access: u32, kind: u32, major: u32, minor: u32) -> i64 {
        let context = [access << 16 | kind, major, minor];
        let code = program().unwrap();
        let mut registers = [0_i64; 8];
        let mut at = 0;
        loop {
            let Instruction {
                code: what,
                registers: both,
                offset,
                immediate,
            } = code[at];
            let (to, from) = (usize::from(both & 15), usize::from(both >> 4));
            at += 1;
            let jump = |holds: bool| {
                if holds {
                    usize::try_from(offset).unwrap()
                } else {
                    0
                }
            };
            match what {
                LDX_MEM_W => {
                    registers[to] = context[usize::try_from(offset).unwrap() / 4].into();
                }
                ALU64_MOV_X => registers[to] = registers[from],
                ALU_RSH_K => registers[to] >>= immediate,
                ALU_AND_K => registers[to] &= i64::from(immediate),
                ALU64_MOV_K => registers[to] = immediate.into(),
                JMP_JEQ_K => at += jump(registers[to] == i64::from(immediate)),
                JMP_JNE_K => at += jump(registers[to] != i64::from(immediate)),
                JMP_EXIT => return registers[0],
                other => panic!("{other:#x}"),
            }
        }
    }

    #[test]
    fn only_the_devices_of_any_linux_open() {
        let (read, write, mknod, block, character) = (2, 4, 1, 1, 2);
        for (major, minor) in OPEN {
            assert_eq!(verdict(read | write, character, major, minor), 1);
            assert_eq!(verdict(read, block, major, minor), 0);
            assert_eq!(verdict(read, character, major, minor + 100), 0);
        }
        assert_eq!(verdict(write, character, PTS, 17), 1);
        // /dev/mem, and a disk.
        assert_eq!(verdict(read, character, 1, 1), 0);
        assert_eq!(verdict(read, block, 254, 0), 0);
        assert_eq!(
            verdict(mknod, block, 254, 0),
            1,
            "a node alone opens nothing"
        );
        assert_eq!(verdict(mknod | read, block, 254, 0), 0);
    }
}
