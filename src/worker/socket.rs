//! How the commands of `piaas-worker` talk to its daemon: one line of JSON each way, over a socket for root alone.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};

use super::status::Status;

/// Where it is on a machine.
pub const PATH: &str = "/run/piaas-worker/agent.sock";
/// How long the daemon may take: it answers from memory, and writes one small file for a command.
pub const LIMIT: Duration = Duration::from_secs(10);
/// The longest line.
const LARGEST: u64 = 64 * 1024;

/// What is asked of the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    Status,
    Cordon {
        generation: u64,
        reason: Option<String>,
    },
    Uncordon {
        generation: u64,
    },
}

/// What it answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    pub status: Status,
    /// Why the command was not carried out. None: it was.
    pub problem: Option<Problem>,
}

/// Why a command was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Problem {
    /// The agent says no: a late generation, or the worker is drained.
    Refused(String),
    /// It could not be kept on disk.
    Failed(String),
}

/// Listens at `path`, which it makes anew.
///
/// # Errors
/// Whatever the file system says.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Reads the request of one client.
///
/// # Errors
/// It is no request, or the client went away.
pub async fn read(stream: &mut UnixStream) -> io::Result<Request> {
    let mut line = String::new();
    BufReader::new(stream.take(LARGEST))
        .read_line(&mut line)
        .await?;
    Ok(serde_json::from_str(&line)?)
}

/// Answers it.
///
/// # Errors
/// The client went away.
pub async fn answer(mut stream: UnixStream, answer: &Answer) -> io::Result<()> {
    let mut line = serde_json::to_string(answer)?;
    line.push('\n');
    stream.write_all(line.as_bytes()).await?;
    stream.shutdown().await
}

/// Asks the daemon at `path`.
///
/// # Errors
/// It does not answer in time.
pub async fn ask(path: &Path, request: &Request) -> io::Result<Answer> {
    let talk = async {
        let mut stream = UnixStream::connect(path).await?;
        let mut line = serde_json::to_string(request)?;
        line.push('\n');
        stream.write_all(line.as_bytes()).await?;
        let mut text = String::new();
        stream.take(LARGEST).read_to_string(&mut text).await?;
        Ok(serde_json::from_str(&text)?)
    };
    tokio::time::timeout(LIMIT, talk)
        .await
        .unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut)))
}
