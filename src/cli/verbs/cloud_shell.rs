//! `cloud shell`: into a machine of the local cloud, as `aws ssm start-session` is on AWS.

use std::os::unix::process::CommandExt as _;

use crate::cli::args::CloudName;
use crate::cli::context::Context;
use crate::cli::error::{CliError, CliResult};
use crate::cli::exit;
use crate::localcloud::nspawn::leader;
use crate::localcloud::supervisor::enter;

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
    let mut shell = enter(leader).map_err(|error| {
        CliError::failure(format!("cannot enter the machine {instance}")).because(&error)
    })?;
    if let Some(term) = std::env::var_os("TERM") {
        shell.env("TERM", term);
    }
    match command {
        [] => shell.args(["/bin/bash", "--login"]),
        command => shell.args(command),
    };
    // It only comes back if it could not begin.
    let error = shell.exec();
    Err(CliError::failure("cannot run nsenter (util-linux)").because(&error))
}
