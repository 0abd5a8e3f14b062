//! What a machine reaches of its host, and nothing else: the AWS API of its cloud, and ports that the user exposed.
//!
//! Connections are accepted in the namespace of the metadata service and made anew on the host's side.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::task::JoinHandle;

use super::network::Outlet;
use crate::localcloud::{endpoint, exposed};

/// Port of the AWS API at the metadata address, the same as `cloud serve` has by default.
pub const API_PORT: u16 = 4599;
/// How often the list of exposed ports is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Serves on `outlet` for as long as this process lives.
///
/// # Errors
/// The API's port cannot be had, or no runtime can be made.
pub fn serve(outlet: Outlet, cloud: &Path) -> io::Result<()> {
    let api = outlet.listen(super::network::METADATA, API_PORT)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let cloud = cloud.to_owned();
    std::thread::spawn(move || {
        runtime.block_on(async move {
            let there = Arc::new(cloud.clone());
            let api = forward(api, move || {
                let cloud = Arc::clone(&there);
                async move { endpoint::connect(&cloud).await }
            });
            tokio::select! {
                // Either ends only with the machine's network.
                _ = api => {}
                () = expose(&outlet, &cloud) => {}
            }
        });
    });
    Ok(())
}

/// Follows the list of exposed ports.
async fn expose(outlet: &Outlet, cloud: &Path) {
    let mut open: BTreeMap<u16, JoinHandle<io::Result<()>>> = BTreeMap::new();
    loop {
        // A list that is being replaced or cannot be read leaves things as they are.
        if let Ok(ports) = exposed::ports(cloud) {
            open.retain(|port, task| {
                let stays = ports.contains(port) && !task.is_finished();
                if !stays {
                    task.abort();
                }
                stays
            });
            for port in ports {
                if !open.contains_key(&port)
                    && let Ok(listener) = outlet.listen(exposed::ADDRESS, port)
                {
                    let to = (Ipv4Addr::LOCALHOST, port);
                    let task = forward(listener, move || tokio::net::TcpStream::connect(to));
                    open.insert(port, tokio::spawn(task));
                }
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Accepts connections and joins each to a new one. One that cannot be made closes the other.
async fn forward<S, F>(
    listener: TcpListener,
    connect: impl Fn() -> F + Send + 'static,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Future<Output = io::Result<S>> + Send + 'static,
{
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (mut inside, _) = listener.accept().await?;
        let outside = connect();
        tokio::spawn(async move {
            if let Ok(mut outside) = outside.await {
                // How it ends is between the two.
                let _ = copy_bidirectional(&mut inside, &mut outside).await;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_endpoint_is_where_machines_are_told_that_it_is() {
        let here = format!("http://{}:{API_PORT}", super::super::network::METADATA);
        assert_eq!(crate::localcloud::MACHINE_ENDPOINT, here);
    }
}
