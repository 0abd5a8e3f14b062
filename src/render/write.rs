//! The rendered scripts as files, for people to read and tools to check.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::script::Layer;

/// Writes the scripts and payloads of a line below `dir`, which must be empty or not exist. Gives the paths, sorted.
///
/// # Errors
/// `AlreadyExists` if `dir` holds anything; whatever the file system says.
pub fn write_dir(layers: &[Layer], dir: &Path) -> io::Result<Vec<PathBuf>> {
    std::fs::create_dir_all(dir)?;
    if std::fs::read_dir(dir)?.next().is_some() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            format!("{} is not empty", dir.display()),
        ));
    }
    let mut written = Vec::new();
    for layer in layers {
        for script in layer
            .provision
            .iter()
            .chain(&layer.validate)
            .chain(&layer.test)
        {
            let path = dir.join(format!("{}.sh", script.id));
            put(&path, script.text.as_bytes(), 0o755)?;
            written.push(path);
            if !script.env.is_empty() {
                let lines: Vec<String> = script
                    .env
                    .iter()
                    .map(|(name, value)| format!("{name}={value}"))
                    .collect();
                let path = dir.join(format!("{}.env", script.id));
                put(&path, format!("{}\n", lines.join("\n")).as_bytes(), 0o644)?;
                written.push(path);
            }
        }
        for (sha256, bytes) in &layer.payloads {
            let path = dir.join(&layer.recipe).join("files").join(sha256);
            put(&path, bytes, 0o644)?;
            written.push(path);
        }
    }
    written.sort();
    Ok(written)
}

fn put(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::write(path, bytes)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}
