//! `cloud expose`: ports of this host's loopback that machines may reach.

use serde_json::json;

use super::cloud::only_local;
use crate::cli::args::Format;
use crate::cli::context::{Context, io};
use crate::cli::error::CliResult;
use crate::cli::{exit, output};
use crate::localcloud::exposed;

pub fn run(context: &Context, port: Option<u16>, remove: bool) -> CliResult {
    only_local(context)?;
    let dir = context.settings.cloud_dir();
    let ports = match port {
        Some(port) => exposed::set(&dir, port, !remove),
        None => exposed::ports(&dir),
    };
    let ports = ports.map_err(|error| io("change the exposed ports in", &dir, &error))?;
    match context.format {
        Format::Json => output::json(&json!({ "address": exposed::ADDRESS, "ports": ports }))?,
        Format::Human if ports.is_empty() => {
            output::data("machines reach no port of this host\n")?;
        }
        Format::Human => {
            for port in ports {
                output::data(&format!(
                    "127.0.0.1:{port} of this host is {}:{port} in every machine\n",
                    exposed::ADDRESS
                ))?;
            }
        }
    }
    Ok(exit::DONE)
}
