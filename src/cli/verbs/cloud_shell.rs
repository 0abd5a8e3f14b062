//! `cloud shell`: into a machine of the local cloud, as `aws ssm start-session` is on AWS.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use crate::cli::args::CloudName;
use crate::cli::context::Context;
use crate::cli::error::{CliError, CliResult};
use crate::cli::exit;
use crate::localcloud::nspawn::leader;
use crate::localcloud::supervisor::confine;

/// What a login gets there.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub fn run(context: &Context, instance: &str, command: &[String]) -> CliResult {
    if context.settings.cloud == CloudName::Aws {
        return Err(CliError::new(
            exit::USAGE,
            "`cloud shell` is for machines of the local cloud",
        )
        .hint(format!("aws ssm start-session --target {instance}")));
    }
    let leader = leader(&context.settings.cloud_dir(), instance).ok_or_else(|| {
        CliError::failure(format!("no machine {instance} runs in the local cloud"))
            .hint("`piaas-bake cloud status` lists them")
    })?;
    let mut shell = Command::new("nsenter");
    shell
        .arg(format!("--target={leader}"))
        .args([
            "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd", "--",
        ])
        .env_clear()
        .env("PATH", PATH)
        .env("HOME", "/root")
        .env("LANG", "C.UTF-8");
    if let Some(term) = std::env::var_os("TERM") {
        shell.env("TERM", term);
    }
    match command {
        [] => shell.args(["/bin/bash", "--login"]),
        command => shell.args(command),
    };
    confine(&mut shell, leader).map_err(|error| {
        CliError::failure(format!("cannot enter the machine {instance}")).because(&error)
    })?;
    // It only comes back if it could not begin.
    let error = shell.exec();
    Err(CliError::failure("cannot run nsenter (util-linux)").because(&error))
}
