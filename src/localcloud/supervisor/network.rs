//! A machine's network: a namespace without a name, user-mode NAT by slirp4netns, and the metadata address.
//!
//! Nothing of it is on the host: no interface, no address, no packet filter. It ends with the processes that hold it.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::TcpListener;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use crate::localcloud::exposed;

/// The instance metadata service's address (EC2 User Guide, "Instance metadata").
pub const METADATA: &str = "169.254.169.254";
/// Name of the machine's interface, as on Nitro instances with Debian.
const INTERFACE: &str = "ens5";
/// The machine's end of the wire to the metadata service, and the service's end.
const WIRE: [&str; 2] = ["metadata0", "machine0"];

/// A network namespace and what answers in it.
pub struct Network {
    namespace: File,
    /// Where the metadata service accepts connections. It is in a namespace of its own, at the other end of a wire: on
    /// the machine's own stack it would hold port 80, and no server there could listen on all addresses.
    pub metadata: TcpListener,
    service: File,
}

/// The namespace of the metadata service, to listen in.
#[derive(Debug)]
pub struct Outlet(File);

impl Outlet {
    /// Listens at an address of the service's end of the wire.
    ///
    /// # Errors
    /// The port is taken.
    pub fn listen(&self, address: &'static str, port: u16) -> io::Result<TcpListener> {
        let namespace = self.0.try_clone()?;
        in_thread(move || {
            enter(&namespace)?;
            TcpListener::bind((address, port))
        })
    }
}

/// Moves this thread into a network namespace.
fn enter(namespace: &File) -> io::Result<()> {
    Ok(rustix::thread::move_into_link_name_space(
        namespace.as_fd(),
        Some(LinkNameSpaceType::Network),
    )?)
}

impl Network {
    /// Makes a namespace, and the metadata service's beside it.
    ///
    /// # Errors
    /// The kernel or `ip` refuses.
    pub fn new() -> io::Result<Self> {
        let namespace = in_thread(|| {
            // SAFETY: only the network namespace of this thread changes.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?;
            ip("link set lo up\n")?;
            File::open("/proc/thread-self/ns/net")
        })?;
        let path = path_of(&namespace);
        let [machine, service] = WIRE;
        let (metadata, service) = in_thread(move || {
            // SAFETY: only the network namespace of this thread changes.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?;
            let path = path.display();
            let exposed = exposed::ADDRESS;
            ip(&format!(
                "link add {service} type veth peer name {machine} netns {path}\n\
                 link set lo up\n\
                 address add {METADATA}/32 dev {service}\n\
                 address add {exposed}/32 dev {service}\n\
                 link set {service} up\n\
                 route add default dev {service}\n"
            ))?;
            let listener = TcpListener::bind((METADATA, 80))?;
            Ok((listener, File::open("/proc/thread-self/ns/net")?))
        })?;
        Ok(Self {
            namespace,
            metadata,
            service,
        })
    }

    /// Where else the machine can be listened to.
    ///
    /// # Errors
    /// There are too many open files.
    pub fn outlet(&self) -> io::Result<Outlet> {
        Ok(Outlet(self.service.try_clone()?))
    }

    /// A path by which other programs find the namespace while this process lives.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        path_of(&self.namespace)
    }

    /// Connects the namespace to the internet; returns when the interface is up. `address` ends in `.100`, the
    /// gateway is `.2`, the DNS server `.3` (slirp4netns(1), `--cidr`).
    ///
    /// # Errors
    /// slirp4netns is missing or ends.
    pub fn connect(&self, address: &str) -> io::Result<Child> {
        let (mut ready, theirs) = io::pipe()?;
        let mut command = Command::new("slirp4netns");
        command
            .args([
                "--configure",
                "--mtu=65520",
                "--disable-host-loopback",
                "--netns-type=path",
            ])
            .arg(format!("--cidr={}.0/24", prefix(address)))
            .arg(format!("--ready-fd={}", theirs.as_raw_fd()))
            .arg(self.path())
            .arg(INTERFACE)
            .stdin(Stdio::null());
        super::inherit(&theirs)?;
        super::die_with_us(&mut command);
        let child = super::exec::spawn(&mut command).map_err(|error| {
            io::Error::new(error.kind(), format!("cannot start slirp4netns: {error}"))
        })?;
        drop(theirs);
        let mut answer = [0];
        if ready.read(&mut answer)? == 0 {
            return Err(io::Error::other(
                "slirp4netns ended before the network was up; helper.log says why",
            ));
        }
        self.reach_metadata(address)?;
        Ok(child)
    }

    /// Sends what is for the metadata service down the wire. `address` is the machine's, which is up by now.
    fn reach_metadata(&self, address: &str) -> io::Result<()> {
        let namespace = self.namespace.try_clone()?;
        let address = address.to_owned();
        in_thread(move || {
            enter(&namespace)?;
            let ([machine, _], exposed) = (WIRE, exposed::ADDRESS);
            ip(&format!(
                "link set {machine} up\n\
                 route add {METADATA}/32 dev {machine} src {address}\n\
                 route add {exposed}/32 dev {machine} src {address}\n"
            ))
        })
    }
}

/// Does something in a thread of its own, which may enter another namespace; the rest of this process stays on the host's
/// network.
fn in_thread<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    std::thread::spawn(work).join().unwrap_or_else(|_| {
        Err(io::Error::other(
            "the thread that makes the network panicked",
        ))
    })
}

fn path_of(namespace: &File) -> PathBuf {
    PathBuf::from(format!(
        "/proc/{}/fd/{}",
        std::process::id(),
        namespace.as_raw_fd()
    ))
}

/// The DNS server that slirp4netns offers beside `address`.
#[must_use]
pub fn dns(address: &str) -> String {
    format!("{}.3", prefix(address))
}

fn prefix(address: &str) -> &str {
    address
        .rsplit_once('.')
        .map_or(address, |(prefix, _)| prefix)
}

/// Runs commands of ip(8), one a line, up to the first that fails. What it says goes to the log.
fn ip(commands: &str) -> io::Result<()> {
    let mut command = Command::new("ip");
    command.args(["-batch", "-"]).stdin(Stdio::piped());
    let mut child = super::exec::spawn(&mut command)?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(commands.as_bytes())?;
    }
    let status = child.wait()?;
    if status.success() {
        Ok(())
    } else {
        let commands = commands.trim_end().replace('\n', "; ");
        Err(io::Error::other(format!(
            "ip ended with {status} at one of: {commands}"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dns_server_is_in_the_machines_own_network() {
        assert_eq!(dns("172.31.7.100"), "172.31.7.3");
    }
}
