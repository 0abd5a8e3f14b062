//! Ports of this host's loopback that machines may reach: a file in the cloud's directory.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use super::nspawn::files::{get_json, put_json};

const FILE: &str = "exposed.json";

/// The address at which machines reach them: link-local (RFC 3927), so it is in nobody's network.
pub const ADDRESS: &str = "169.254.42.1";

/// The ports; none if nothing was ever exposed.
///
/// # Errors
/// The file cannot be read.
pub fn ports(cloud: &Path) -> io::Result<BTreeSet<u16>> {
    match get_json(&cloud.join(FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        other => other,
    }
}

/// Exposes a port, or takes it back; machines that run notice within a second. Gives all ports.
///
/// # Errors
/// The file cannot be read or written.
pub fn set(cloud: &Path, port: u16, on: bool) -> io::Result<BTreeSet<u16>> {
    std::fs::create_dir_all(cloud)?;
    let mut ports = ports(cloud)?;
    let changed = if on {
        ports.insert(port)
    } else {
        ports.remove(&port)
    };
    if changed {
        put_json(&cloud.join(FILE), &ports)?;
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_come_and_go() {
        let cloud = tempfile::tempdir().unwrap();
        assert_eq!(ports(cloud.path()).unwrap(), BTreeSet::new());
        set(cloud.path(), 9989, true).unwrap();
        set(cloud.path(), 8010, true).unwrap();
        assert_eq!(set(cloud.path(), 9989, true).unwrap(), [8010, 9989].into());
        assert_eq!(set(cloud.path(), 9989, false).unwrap(), [8010].into());
        assert_eq!(ports(cloud.path()).unwrap(), [8010].into());
    }
}
