//! One HTTP request over one connection: HTTP/1.1, with TLS for `https`. Small on purpose: the agent asks seldom.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderValue, Request, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// The longest answer that is read; what the agent asks for has a few kilobytes.
const LARGEST: usize = 1 << 20;

/// What came back, whatever its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub status: u16,
    pub body: String,
}

/// Nothing came back.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("`{0}` is not an http or https address")]
    Address(String),
    #[error("no answer within {} s", .0.as_secs())]
    Time(Duration),
    #[error("cannot connect: {0}")]
    Connect(#[from] std::io::Error),
    #[error("cannot prepare TLS: {0}")]
    Tls(String),
    #[error("the connection failed: {0}")]
    Connection(#[from] hyper::Error),
    #[error("the answer cannot be read: {0}")]
    Body(String),
}

/// Sends a request whose URI is absolute, and reads the answer, within `limit`. No proxy, no redirect.
///
/// # Errors
/// [`Error`] if no whole answer came.
pub async fn send(request: Request<Full<Bytes>>, limit: Duration) -> Result<Reply, Error> {
    tokio::time::timeout(limit, exchange(request))
        .await
        .unwrap_or(Err(Error::Time(limit)))
}

async fn exchange(mut request: Request<Full<Bytes>>) -> Result<Reply, Error> {
    let uri = request.uri().clone();
    let wrong = || Error::Address(uri.to_string());
    let host = uri.host().ok_or_else(wrong)?;
    let tls = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err(wrong()),
    };
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let authority = uri.authority().ok_or_else(wrong)?.as_str();
    let name = HeaderValue::from_str(authority).map_err(|_| wrong())?;
    request.headers_mut().entry(HOST).or_insert(name);
    // On the wire a request names the path only (RFC 9112, 3.2.1).
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = path.parse::<Uri>().map_err(|_| wrong())?;

    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((bare, port)).await?;
    if tls {
        let server =
            ServerName::try_from(bare.to_owned()).map_err(|error| Error::Tls(error.to_string()))?;
        let stream = tokio_rustls::TlsConnector::from(tls_config()?)
            .connect(server, stream)
            .await?;
        talk(stream, request).await
    } else {
        talk(stream, request).await
    }
}

async fn talk<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Reply, Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), LARGEST)
            .collect()
            .await
            .map_err(|error| Error::Body(error.to_string()))?
            .to_bytes();
        Ok(Reply {
            status,
            body: String::from_utf8_lossy(&body).into_owned(),
        })
    };
    tokio::pin!(answer, connection);
    tokio::select! {
        // The connection only ends first when it failed, or when the server closes it after the answer.
        biased;
        reply = &mut answer => reply,
        ended = &mut connection => {
            ended?;
            answer.await
        }
    }
}

/// The certificates of the machine, as curl would use them.
fn tls_config() -> Result<Arc<rustls::ClientConfig>, Error> {
    let mut roots = rustls::RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err(Error::Tls(
            "this machine has no root certificates; install ca-certificates".to_owned(),
        ));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Tls(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}
