//! The cloud on a socket, for `aws --endpoint-url` and every other client.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::engine::{Answer, LocalCloud};
use super::faults::Trickle;

/// Bytes of the largest request body; no operation takes as much.
const BODY_LIMIT: usize = 4 * 1024 * 1024;

/// Answers requests until `shutdown` completes, then finishes those under way.
///
/// # Errors
/// If the listener fails.
pub async fn serve(
    cloud: Arc<LocalCloud>,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) -> std::io::Result<()> {
    let (stop, stopping) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                // The client was gone before we came to it.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error),
            },
            Some(_) = connections.join_next() => continue,
            () = &mut shutdown => break,
        };
        // A second handle on the connection, for ending it harshly.
        let (stream, twin) = twins(stream)?;
        connections.spawn(converse(cloud.clone(), stream, twin, stopping.clone()));
    }
    drop(stop);
    while connections.join_next().await.is_some() {}
    Ok(())
}

/// A connection, and another handle on it.
fn twins(stream: TcpStream) -> std::io::Result<(TcpStream, Twin)> {
    let stream = stream.into_std()?;
    let twin = stream.try_clone()?;
    Ok((
        TcpStream::from_std(stream)?,
        Arc::new(Mutex::new(Some(twin))),
    ))
}

/// The other handle on a connection; none where there is no network to reset it on.
type Twin = Arc<Mutex<Option<std::net::TcpStream>>>;

/// As [`serve`], on a Unix socket.
///
/// # Errors
/// If the listener fails.
pub async fn serve_unix(
    cloud: Arc<LocalCloud>,
    listener: UnixListener,
    shutdown: impl Future<Output = ()>,
) -> std::io::Result<()> {
    let (stop, stopping) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let (stream, _) = tokio::select! {
            accepted = listener.accept() => accepted?,
            Some(_) = connections.join_next() => continue,
            () = &mut shutdown => break,
        };
        let no_twin = Twin::default();
        connections.spawn(converse(cloud.clone(), stream, no_twin, stopping.clone()));
    }
    drop(stop);
    while connections.join_next().await.is_some() {}
    Ok(())
}

/// Answers on one connection until its client closes it, or until it is idle and `stopping` ends.
async fn converse<S>(
    cloud: Arc<LocalCloud>,
    stream: S,
    twin: Twin,
    mut stopping: watch::Receiver<()>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| answer(cloud.clone(), twin.clone(), request));
    let mut connection =
        std::pin::pin!(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    // A connection that breaks is its client's affair, so its result is nobody's.
    tokio::select! {
        _ = connection.as_mut() => {}
        // Only ever fails, when the sender is dropped.
        _ = stopping.changed() => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

/// An error of the service ends the connection.
async fn answer(
    cloud: Arc<LocalCloud>,
    twin: Twin,
    request: Request<Incoming>,
) -> std::io::Result<Response<Trickle>> {
    let clock = cloud.clock();
    let (parts, body) = request.into_parts();
    let plain = |status| {
        let mut response = Response::new(Trickle::new(Bytes::new(), Duration::ZERO, clock.clone()));
        *response.status_mut() = status;
        response
    };
    let Ok(body) = Limited::new(body, BODY_LIMIT).collect().await else {
        return Ok(plain(StatusCode::PAYLOAD_TOO_LARGE));
    };
    let request = Request::from_parts(parts, body.to_bytes());
    let answer = tokio::task::spawn_blocking(move || cloud.answer(&request)).await;
    match answer {
        Ok(Answer::Sent(response, time)) => {
            Ok(response.map(|body| Trickle::new(body, time, clock)))
        }
        Ok(Answer::Closed) => Err(std::io::ErrorKind::ConnectionAborted.into()),
        Ok(Answer::Reset) => {
            let twin = twin.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(twin) = twin {
                // Closing it then is a reset (socket(7), SO_LINGER).
                rustix::net::sockopt::set_socket_linger(&twin, Some(Duration::ZERO))?;
            }
            Err(std::io::ErrorKind::ConnectionReset.into())
        }
        Err(_) => Ok(plain(StatusCode::INTERNAL_SERVER_ERROR)),
    }
}
