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
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;

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
    let connections = GracefulShutdown::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                // The client was gone before we came to it.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error),
            },
            () = &mut shutdown => break,
        };
        let cloud = cloud.clone();
        let service = service_fn(move |request| answer(cloud.clone(), request));
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        let connection = connections.watch(connection);
        // A connection that breaks is its client's affair.
        tokio::spawn(async move { drop(connection.await) });
    }
    connections.shutdown().await;
    Ok(())
}

async fn answer(cloud: Arc<LocalCloud>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let Ok(body) = Limited::new(body, BODY_LIMIT).collect().await else {
        return Ok(plain(StatusCode::PAYLOAD_TOO_LARGE));
    };
    let request = Request::from_parts(parts, body.to_bytes());
    let answer = tokio::task::spawn_blocking(move || cloud.handle(&request)).await;
    Ok(answer.map_or_else(|_| plain(StatusCode::INTERNAL_SERVER_ERROR), |answer| answer.map(Full::new)))
}

fn plain(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}
