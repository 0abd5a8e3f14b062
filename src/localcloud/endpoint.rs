//! The process that answers the AWS API to machines, and moves the cloud on while nobody else looks (hidden verb
//! `local-endpoint`).
//!
//! A machine's supervisor lives in namespaces and a control group of its own, where no other machine may be started:
//! what a machine asks of the cloud is answered here, on a socket in the cloud's directory that is root's alone. The
//! driver starts this process with the first machine; it ends with the last one.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use super::engine::LocalCloud;
use super::nspawn::NspawnDriver;
use super::nspawn::files::{is_file_locked, is_locked, subdirectories, try_lock_file};
use super::state::StateError;
use crate::clock::SystemClock;

const SOCKET: &str = "endpoint.sock";
const LOCK: &str = "endpoint.lock";
/// Tries to take the lock, 10 ms apart.
const LOOKS: u32 = 50;
/// How often the cloud is moved on.
pub const TICK: Duration = Duration::from_secs(1);

/// The endpoint ended for a reason that it did not choose.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    #[error("cannot use {path}: {source}", path = path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(transparent)]
    State(#[from] StateError),
}

/// Whether the endpoint of a cloud runs.
#[must_use]
pub fn runs(cloud: &Path) -> bool {
    is_file_locked(&cloud.join(LOCK))
}

/// Connects to the endpoint of a cloud.
///
/// # Errors
/// None runs.
pub async fn connect(cloud: &Path) -> io::Result<tokio::net::UnixStream> {
    let directory = open_directory(cloud)?;
    tokio::net::UnixStream::connect(short_path(&directory)).await
}

/// The path of a socket has 107 bytes at most (unix(7)); a cloud's directory may be deeper than that.
fn short_path(directory: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd()))
}

fn open_directory(cloud: &Path) -> io::Result<OwnedFd> {
    Ok(File::open(cloud)?.into())
}

/// Runs the endpoint of the cloud in `directory` until its last machine is gone; at once at its end if one runs.
#[must_use]
pub fn main(directory: &Path, base: &Path) -> ExitCode {
    match run(directory, base) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the endpoint in {} ended: {error}", directory.display());
            ExitCode::FAILURE
        }
    }
}

fn run(directory: &Path, base: &Path) -> Result<(), EndpointError> {
    let io = |source| EndpointError::Io {
        path: directory.to_owned(),
        source,
    };
    let Some(lock) = take_lock(directory).map_err(io)? else {
        return Ok(());
    };
    let exe = std::env::current_exe().map_err(io)?;
    let driver = NspawnDriver::new(directory.to_owned(), base.to_owned(), exe);
    let cloud = LocalCloud::open(directory, Arc::new(driver), SystemClock::shared())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(io)?;
    runtime.block_on(async {
        let handle = open_directory(directory).map_err(io)?;
        let socket = short_path(&handle);
        match std::fs::remove_file(&socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
            Ok(()) | Err(_) => {}
        }
        let listener = tokio::net::UnixListener::bind(&socket).map_err(io)?;
        std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o600)).map_err(io)?;
        let ended = watch(Arc::clone(&cloud), directory.to_owned(), lock);
        super::serve::serve_unix(cloud, listener, ended)
            .await
            .map_err(io)
    })
}

/// The lock, unless another endpoint holds it; somebody who only looks holds it for a moment.
fn take_lock(cloud: &Path) -> io::Result<Option<File>> {
    for _ in 0..LOOKS {
        if let Some(lock) = try_lock_file(&cloud.join(LOCK))? {
            return Ok(Some(lock));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(None)
}

/// Moves the cloud on every second; returns when it has no machine left, or cannot be used any more.
async fn watch(cloud: Arc<LocalCloud>, directory: PathBuf, lock: File) {
    let mut lock = Some(lock);
    loop {
        tokio::time::sleep(TICK).await;
        let (cloud, directory) = (Arc::clone(&cloud), directory.clone());
        let held = lock.take();
        let tick = move || {
            cloud.tick(|| {
                let machines = subdirectories(&directory.join("instances"));
                // Given up under the cloud's lock, in which every machine is started: the next machine starts another
                // endpoint.
                held.filter(|_| machines.iter().any(|dir| is_locked(dir)))
            })
        };
        match tokio::task::spawn_blocking(tick).await {
            Ok(Ok(Some(held))) => lock = Some(held),
            Ok(Ok(None) | Err(_)) | Err(_) => return,
        }
    }
}
