//! Tells systemd how the daemon is (sd_notify(3)); without systemd, nothing happens.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Where systemd listens.
#[derive(Debug)]
pub struct Notify(Option<(UnixDatagram, SocketAddr)>);

impl Notify {
    /// As `NOTIFY_SOCKET` says: a path, or an abstract name that begins with `@`.
    #[must_use]
    pub fn from_env() -> Self {
        let socket = std::env::var_os("NOTIFY_SOCKET").and_then(|name| {
            let bytes = name.as_bytes();
            let address = match bytes.strip_prefix(b"@") {
                Some(rest) => SocketAddr::from_abstract_name(rest),
                None => SocketAddr::from_pathname(&name),
            };
            Some((unbound().ok()?, address.ok()?))
        });
        Self(socket)
    }

    /// Sends lines such as `READY=1`. That systemd does not hear is no reason to stop.
    pub fn say(&self, lines: &str) {
        if let Some((socket, address)) = &self.0 {
            let _ = socket.send_to_addr(lines.as_bytes(), address);
        }
    }
}

fn unbound() -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}
