//! The cloud on a socket, for `aws --endpoint-url` and every other client.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::header::CONNECTION;
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::engine::{Answer, LocalCloud};
use super::faults::Trickle;
use super::s3::Content;

/// The other handle on a connection, for ending it harshly; none where there is no network to reset it on.
type Twin = Arc<Mutex<Option<std::net::TcpStream>>>;

/// What connections come from.
trait Accept: Send + Sync {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection.
    fn next(&self) -> impl Future<Output = std::io::Result<(Self::Stream, Twin)>> + Send;
}

impl Accept for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> std::io::Result<(TcpStream, Twin)> {
        let (stream, _) = self.accept().await?;
        let stream = stream.into_std()?;
        let twin = stream.try_clone()?;
        let stream = TcpStream::from_std(stream)?;
        Ok((stream, Arc::new(Mutex::new(Some(twin)))))
    }
}

impl Accept for UnixListener {
    type Stream = UnixStream;

    async fn next(&self) -> std::io::Result<(UnixStream, Twin)> {
        let (stream, _) = self.accept().await?;
        Ok((stream, Twin::default()))
    }
}

/// Answers requests until `shutdown` completes, then finishes those under way.
///
/// # Errors
/// If the listener fails.
pub async fn serve(
    cloud: Arc<LocalCloud>,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) -> std::io::Result<()> {
    serve_all(cloud, listener, shutdown).await
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
    serve_all(cloud, listener, shutdown).await
}

async fn serve_all(
    cloud: Arc<LocalCloud>,
    listener: impl Accept,
    shutdown: impl Future<Output = ()>,
) -> std::io::Result<()> {
    let (stop, stopping) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let (stream, twin) = tokio::select! {
            accepted = listener.next() => match accepted {
                Ok(accepted) => accepted,
                // The client was gone before we came to it.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error),
            },
            Some(_) = connections.join_next() => continue,
            () = &mut shutdown => break,
        };
        connections.spawn(converse(cloud.clone(), stream, twin, stopping.clone()));
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
    let plain = |status| {
        let nothing = Trickle::new(Content::default(), Duration::ZERO, clock.clone());
        let mut response = Response::new(nothing);
        *response.status_mut() = status;
        response
    };
    let Ok(request) = cloud.receive(request).await else {
        return Ok(plain(StatusCode::PAYLOAD_TOO_LARGE));
    };
    let cut_off = request.body().is_cut_off();
    let answer = tokio::task::spawn_blocking(move || cloud.answer(request)).await;
    match answer {
        Ok(Answer::Sent(mut response, time)) => {
            if cut_off {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(CONNECTION, close);
            }
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
