//! overlayfs mounts, always in a mount namespace of the process that makes them, so that they end with it.

use std::ffi::CString;
use std::io;
use std::path::{Path, PathBuf};

use rustix::mount::{
    MountFlags, MountPropagationFlags, mount, mount_bind, mount_change, mount_remount,
};
use rustix::thread::UnshareFlags;

/// Gives the calling thread a mount namespace of its own; nothing mounted in it is seen outside.
///
/// # Errors
/// Not root.
pub fn private_namespace() -> io::Result<()> {
    // SAFETY: only the mount table and the file system attributes stop being shared, no memory and no descriptors.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }?;
    mount_change(
        "/",
        MountPropagationFlags::REC | MountPropagationFlags::PRIVATE,
    )?;
    Ok(())
}

/// Mounts a machine's root: its own layer over `lower` (top first).
///
/// What the machine syncs is not written at once (`volatile`; kernel, overlayfs.rst): dpkg syncs each file that it
/// unpacks. Nothing is lost when processes die, whichever; when this host loses its power, a machine that runs may.
///
/// # Errors
/// The kernel refuses, or there are too many layers for one mount.
pub fn mount_root(lower: &[PathBuf], upper: &Path, work: &Path, root: &Path) -> io::Result<()> {
    // The kernel's mark of a layer whose host may have lost its power. This one has gone on, or has booted since, and
    // then a machine's disk is as after a power cut.
    match std::fs::remove_dir_all(work.join("work/incompat/volatile")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let options = format!(
        "lowerdir={},upperdir={},workdir={},index=off,metacopy=off,redirect_dir=off",
        joined(lower),
        escaped(upper),
        escaped(work)
    );
    match overlay(&format!("{options},volatile"), root) {
        // A kernel before 5.10.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => overlay(&options, root),
        other => other,
    }
}

/// Mounts layers read-only, top first.
///
/// # Errors
/// As [`mount_root`].
pub fn mount_layers(layers: &[PathBuf], root: &Path) -> io::Result<()> {
    if let [only] = layers {
        // An overlay needs two layers.
        mount_bind(only, root)?;
        mount_remount(root, MountFlags::BIND | MountFlags::RDONLY, "")?;
        return Ok(());
    }
    overlay(
        &format!(
            "lowerdir={},index=off,metacopy=off,redirect_dir=off",
            joined(layers)
        ),
        root,
    )
}

fn overlay(options: &str, root: &Path) -> io::Result<()> {
    // mount(2): the options are copied from one page.
    if options.len() >= 4096 {
        return Err(io::Error::other(
            "too many layers for one mount; bake from a base image again (--no-cache)",
        ));
    }
    let options = CString::new(options)?;
    mount(
        "overlay",
        root,
        "overlay",
        MountFlags::empty(),
        options.as_c_str(),
    )?;
    Ok(())
}

fn joined(layers: &[PathBuf]) -> String {
    layers
        .iter()
        .map(|layer| escaped(layer))
        .collect::<Vec<_>>()
        .join(":")
}

/// overlayfs splits at `,` and `:` unless a backslash stands before them (kernel, overlayfs.rst).
fn escaped(path: &Path) -> String {
    let mut out = String::new();
    for char in path.to_string_lossy().chars() {
        if matches!(char, ':' | ',' | '\\') {
            out.push('\\');
        }
        out.push(char);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separators_in_paths_are_escaped() {
        assert_eq!(
            joined(&[PathBuf::from("/a:b"), PathBuf::from("/c,d")]),
            "/a\\:b:/c\\,d"
        );
    }
}
