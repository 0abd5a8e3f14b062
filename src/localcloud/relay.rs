//! Passes a connection on: QEMU runs a program for each connection of its network, with the connection for standard
//! input and output, and the metadata service has one address.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::ExitCode;

/// Passes bytes on in both directions until the address has ended its side.
#[must_use]
pub fn main(address: SocketAddr) -> ExitCode {
    match relay(address) {
        Ok(()) => ExitCode::SUCCESS,
        // Nobody reads a reason: the connection ends.
        Err(_) => ExitCode::FAILURE,
    }
}

fn relay(address: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    let mut forth = stream.try_clone()?;
    std::thread::spawn(move || {
        let _ended = io::copy(&mut io::stdin(), &mut forth);
        forth.shutdown(Shutdown::Write)
    });
    let mut buffer = [0; 1 << 14];
    let mut out = io::stdout();
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            count => out.write_all(&buffer[..count])?,
        }
        out.flush()?;
    }
}
