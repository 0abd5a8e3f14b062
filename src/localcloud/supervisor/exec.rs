//! Programs that this process starts, and files that it writes to be executed.
//!
//! A child has every open file of its parent from fork(2) to execve(2), and a file that anybody has open for writing
//! cannot be executed: `ETXTBSY`, "Text file busy" (execve(2)). Two threads, of which one writes a script that it runs
//! and the other starts something else in that moment, come across it. So no child is made while such a file is open.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::{PoisonError, RwLock};

use rustix::fs::Mode;

static CHILDREN: RwLock<()> = RwLock::new(());

/// Starts a program. All of this process are started by this.
///
/// # Errors
/// As [`Command::spawn`].
pub fn spawn(command: &mut Command) -> io::Result<Child> {
    let _open = CHILDREN.read().unwrap_or_else(PoisonError::into_inner);
    // Comes back when the child has executed its program, and closed what is ours.
    command.spawn()
}

/// Writes a file that root, and nobody else, may read and execute.
///
/// # Errors
/// The file system refuses.
pub fn put(path: &Path, text: &str) -> io::Result<()> {
    let _closed = CHILDREN.write().unwrap_or_else(PoisonError::into_inner);
    let mut file = File::create(path)?;
    file.write_all(text.as_bytes())?;
    std::os::unix::fs::fchown(&file, Some(0), Some(0))?;
    rustix::fs::fchmod(&file, Mode::RWXU)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt as _;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// In a process of its own: tests beside this one make children of their own.
    #[test]
    fn what_was_just_written_can_be_executed_whatever_is_started_meanwhile() {
        const ALONE: &str = "PIAAS_TEST_ALONE";
        if !rustix::process::geteuid().is_root() {
            eprintln!("left out: only root gives files to root");
            return;
        }
        if std::env::var_os(ALONE).is_some() {
            write_and_execute();
            return;
        }
        let this = std::thread::current().name().unwrap().to_owned();
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &this, "--nocapture", "--test-threads=1"])
            .env(ALONE, "1")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && text.contains("1 passed"),
            "{text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn write_and_execute() {
        let dir = tempfile::tempdir().unwrap();
        let over = AtomicBool::new(false);
        // As the agent's: what is done between fork and exec makes it a fork.
        let program = |name: &str| {
            let mut command = Command::new(name);
            // SAFETY: nothing is done.
            unsafe { command.pre_exec(|| Ok(())) };
            command
        };
        let failed = std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        spawn(&mut program("true")).unwrap().wait().unwrap();
                    }
                });
            }
            let failed = (0..300).find_map(|round| {
                let path = dir.path().join(format!("{round}"));
                put(&path, "#!/bin/sh\nexit 3\n").unwrap();
                let code = spawn(&mut program(path.to_str().unwrap()))
                    .map(|mut child| child.wait().unwrap().code());
                (code.as_ref().ok() != Some(&Some(3))).then(|| format!("{round}: {code:?}"))
            });
            over.store(true, Ordering::Relaxed);
            failed
        });
        assert_eq!(failed, None);
    }
}
