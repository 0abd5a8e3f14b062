//! The cloud on a socket, for `aws --endpoint-url` and every other client.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::engine::LocalCloud;

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
        connections.spawn(converse(cloud.clone(), stream, stopping.clone()));
    }
    drop(stop);
    while connections.join_next().await.is_some() {}
    Ok(())
}

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
        connections.spawn(converse(cloud.clone(), stream, stopping.clone()));
    }
    drop(stop);
    while connections.join_next().await.is_some() {}
    Ok(())
}

/// Answers on one connection until its client closes it, or until it is idle and `stopping` ends.
async fn converse<S>(cloud: Arc<LocalCloud>, stream: S, mut stopping: watch::Receiver<()>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| answer(cloud.clone(), request));
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

async fn answer(
    cloud: Arc<LocalCloud>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let Ok(body) = Limited::new(body, BODY_LIMIT).collect().await else {
        return Ok(plain(StatusCode::PAYLOAD_TOO_LARGE));
    };
    let request = Request::from_parts(parts, body.to_bytes());
    let answer = tokio::task::spawn_blocking(move || cloud.handle(&request)).await;
    Ok(answer.map_or_else(
        |_| plain(StatusCode::INTERNAL_SERVER_ERROR),
        |answer| answer.map(Full::new),
    ))
}

fn plain(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}
