//! The command line of `piaas-worker`. Of this room, only this prints.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use jiff::Timestamp;

use super::daemon::{self, Options};
use super::socket::{self, Problem, Request};
use super::status::Status;
use super::{config, secret, store};

/// Answered, and done.
const DONE: u8 = 0;
/// The daemon cannot start, or the command could not be kept.
const FAILURE: u8 = 1;
/// The daemon does not answer in time.
const SILENT: u8 = 3;
/// The generation is late, or the worker is drained.
const REFUSED: u8 = 4;

/// The agent on a CI worker: tells whether a job runs, takes cordons, proves that the worker is empty
#[derive(Debug, Parser)]
#[command(name = "piaas-worker", version, max_term_width = 100, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

const AFTER_HELP: &str = "\
Every command but `run` and `secret` prints one line of JSON, schema piaas-worker/v1.
Exit codes: 0 answered, 1 failure, 2 usage, 3 the agent does not answer (the state is unknown),
4 refused: the generation is out of date, or the worker is drained already.";

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the agent; systemd does
    Run {
        /// What the bake wrote
        #[arg(long, value_name = "FILE", default_value = config::PATH)]
        config: PathBuf,
        /// Where it keeps its state
        #[arg(long, value_name = "DIR", default_value = store::DIR)]
        state_dir: PathBuf,
        #[command(flatten)]
        socket: Socket,
    },
    /// Say how the worker stands
    Status {
        #[command(flatten)]
        socket: Socket,
    },
    /// Take no more jobs; once none runs the worker is drained, which is final
    Cordon {
        /// Number of the command; a lower one than the highest so far is refused
        #[arg(long, value_name = "N")]
        generation: u64,
        /// For people who ask why
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        #[command(flatten)]
        socket: Socket,
    },
    /// Fetch a secret for a step of a bake, with the role of this instance, to a file in memory; prints nothing
    Secret {
        /// ssm:/path, secretsmanager:ARN, or env:NAME on the local cloud
        reference: String,
        /// The file to write, on a tmpfs; 0400
        #[arg(long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Take jobs again; not once the worker is drained
    Uncordon {
        /// Number of the command; it must be higher than the cordon's
        #[arg(long, value_name = "N")]
        generation: u64,
        #[command(flatten)]
        socket: Socket,
    },
}

#[derive(Debug, Args)]
struct Socket {
    /// Where the agent listens
    #[arg(long = "socket", value_name = "PATH", default_value = socket::PATH)]
    path: PathBuf,
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::from(FAILURE);
        }
    };
    let code = runtime.block_on(async {
        match cli.verb {
            Verb::Run {
                config,
                state_dir,
                socket,
            } => {
                let options = Options {
                    config,
                    state_dir,
                    socket: socket.path,
                };
                run(options).await
            }
            Verb::Secret { reference, output } => fetch(&reference, &output).await,
            Verb::Status { socket } => ask(socket, Request::Status).await,
            Verb::Cordon {
                generation,
                reason,
                socket,
            } => ask(socket, Request::Cordon { generation, reason }).await,
            Verb::Uncordon { generation, socket } => {
                ask(socket, Request::Uncordon { generation }).await
            }
        }
    });
    ExitCode::from(code)
}

async fn run(options: Options) -> u8 {
    match daemon::run(options, |line| eprintln!("{line}")).await {
        Ok(()) => DONE,
        Err(error) => {
            eprintln!("error: {error}");
            FAILURE
        }
    }
}

async fn fetch(reference: &str, output: &Path) -> u8 {
    match secret::fetch(reference, output).await {
        Ok(()) => DONE,
        Err(error) => {
            eprintln!("error: {error}");
            FAILURE
        }
    }
}

async fn ask(socket: Socket, request: Request) -> u8 {
    let (status, code) = match socket::ask(&socket.path, &request).await {
        Ok(answer) => {
            let code = match &answer.problem {
                None => DONE,
                Some(Problem::Refused(why)) => {
                    eprintln!("refused: {why}");
                    REFUSED
                }
                Some(Problem::Failed(why)) => {
                    eprintln!("error: {why}");
                    FAILURE
                }
            };
            (answer.status, code)
        }
        Err(error) => {
            let why = format!(
                "the agent does not answer at {}: {error}",
                socket.path.display()
            );
            eprintln!("error: {why}; look at `systemctl status piaas-worker`");
            (Status::silent(why, Timestamp::now()), SILENT)
        }
    };
    println!("{}", status.to_line());
    code
}
