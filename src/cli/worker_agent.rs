//! Finds the binary of the worker's agent, for recipes that install it.

use std::path::{Path, PathBuf};

use super::config::Settings;
use super::error::CliError;
use super::exit;
use crate::recipe::files;
use crate::recipe::model::Resolved;

/// Its name, beside this program.
const NAME: &str = "piaas-worker";
const WAY_OUT: &str = "pass --worker-agent FILE or set PIAAS_WORKER";

/// The bytes of the binary; none if no recipe of the line installs it or has secrets.
///
/// # Errors
/// It is not there, or it is not for the image's machine.
pub fn load(settings: &Settings, resolved: &Resolved) -> Result<Vec<u8>, CliError> {
    if !resolved.needs_agent() {
        return Ok(Vec::new());
    }
    let path = match &settings.worker_agent {
        Some(path) if path.is_file() => path.clone(),
        Some(path) => {
            return Err(CliError::new(
                exit::USAGE,
                format!("there is no worker agent at {}", path.display()),
            )
            .hint(WAY_OUT));
        }
        None => beside()?,
    };
    let unfit = |error: String| {
        CliError::failure(format!(
            "cannot use {} as the worker agent: {error}",
            path.display()
        ))
        .hint(format!(
            "compile piaas-worker for {}, and {WAY_OUT}",
            resolved.image.architecture
        ))
    };
    let bytes =
        files::bytes(&path, files::LARGEST_PAYLOAD).map_err(|error| unfit(error.message))?;
    check(&bytes, &resolved.image.architecture).map_err(unfit)?;
    Ok(bytes)
}

fn beside() -> Result<PathBuf, CliError> {
    let exe = std::env::current_exe().map_err(|error| {
        CliError::failure("cannot find this program's own file").because(&error)
    })?;
    let path = exe.parent().unwrap_or(Path::new("/")).join(NAME);
    if path.is_file() {
        return Ok(path);
    }
    Err(CliError::failure(format!(
        "the recipe needs the worker agent, and there is no {}",
        path.display()
    ))
    .hint(format!("`cargo build --bin {NAME}` makes it; or {WAY_OUT}")))
}

/// An ELF file for this architecture (elf(5): class at byte 4, data at 5, machine at 18).
fn check(bytes: &[u8], architecture: &str) -> Result<(), String> {
    if !bytes.starts_with(b"\x7fELF\x02\x01") || bytes.len() < 20 {
        return Err("it is not a 64-bit program for Linux".to_owned());
    }
    let machine = u16::from_le_bytes([bytes[18], bytes[19]]);
    let found = match machine {
        62 => "x86_64",
        183 => "arm64",
        _ => "another architecture",
    };
    if found == architecture {
        Ok(())
    } else {
        Err(format!(
            "it is for {found}, the image is for {architecture}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_for_another_machine_is_refused() {
        let mut elf = b"\x7fELF\x02\x01".to_vec();
        elf.resize(20, 0);
        elf[18] = 62;
        assert_eq!(check(&elf, "x86_64"), Ok(()));
        assert_eq!(
            check(&elf, "arm64"),
            Err("it is for x86_64, the image is for arm64".into())
        );
        assert!(check(b"#!/bin/sh\n", "x86_64").is_err());
        assert!(check(b"", "x86_64").is_err());
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let here = if cfg!(target_arch = "aarch64") {
            "arm64"
        } else {
            "x86_64"
        };
        assert_eq!(check(&own, here), Ok(()));
    }
}
