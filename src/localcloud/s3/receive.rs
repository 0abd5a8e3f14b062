//! How the body of a request comes in: to the disk where it is an object's, else to memory.

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Body;
use jiff::Timestamp;
use md5::Md5;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use super::super::wire::error::ApiError;
use super::asked::Asked;
use super::auth::{self, Claim};
use super::chunked::{Decoder, Malformed};
use super::error::error;
use super::spool::{Intake, Spool, announced_md5, bad_md5};
use super::store::Buckets;
use super::{Operation, malformed_xml};

/// Bytes of the largest body that is no object: a list of 10,000 parts.
const LIMIT: usize = 4 * 1024 * 1024;
/// Bytes of an unwanted body that are read all the same.
const DRAINED: usize = 1024 * 1024;
/// Pieces of a body on their way to the disk.
const UNDER_WAY: usize = 4;

/// The body of a request.
#[derive(Debug)]
pub enum Payload {
    Held(Bytes),
    Spooled(Spool),
    /// It is not what its head says, or the disk does not take it.
    Refused(ApiError),
    /// The head is refused anyway, and the body is left where it is.
    Unread,
}

impl AsRef<[u8]> for Payload {
    fn as_ref(&self) -> &[u8] {
        self.held()
    }
}

impl Payload {
    /// Whether some of it may still be on its way, so that nothing can follow on the same connection.
    #[must_use]
    pub fn is_cut_off(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::Unread)
    }

    /// What is in memory.
    #[must_use]
    pub fn held(&self) -> &[u8] {
        match self {
            Self::Held(bytes) => bytes,
            Self::Spooled(_) | Self::Refused(_) | Self::Unread => &[],
        }
    }

    /// The same once more, for a request that arrives twice.
    pub fn again(&mut self, buckets: &Buckets) -> Self {
        match self {
            Self::Held(bytes) => Self::Held(bytes.clone()),
            Self::Refused(error) => Self::Refused(error.clone()),
            Self::Unread => Self::Unread,
            Self::Spooled(spool) => match spool.again(buckets) {
                Ok(spool) => Self::Spooled(spool),
                Err(error) => Self::Refused(super::spool::broken(&error)),
            },
        }
    }
}

/// What is to become of a body.
enum Way {
    /// The request is refused anyway, with this or by whoever reads its head next: its body is not read.
    Nowhere,
    Disk(Box<Intake>),
    Memory(Claim),
}

fn way(request: &Request<()>, buckets: &Buckets, now: Timestamp) -> Result<Way, ApiError> {
    let Ok(caller) = auth::authenticate(request, now) else {
        return Ok(Way::Nowhere);
    };
    let Ok(operation) = Asked::read(request).map(|asked| Operation::of(&asked)) else {
        return Ok(Way::Nowhere);
    };
    match operation {
        Err(_) => Ok(Way::Nowhere),
        Ok(operation) if operation.takes_object() => {
            let intake = Intake::begin(request, &caller.claim, buckets)?;
            Ok(Way::Disk(Box::new(intake)))
        }
        Ok(_) => Ok(Way::Memory(caller.claim)),
    }
}

/// Takes the body of a request to S3.
pub async fn receive<B>(
    request: &Request<()>,
    mut body: B,
    buckets: &Buckets,
    now: Timestamp,
) -> Payload
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    match way(request, buckets, now) {
        Err(error) => {
            drain(request, &mut body).await;
            Payload::Refused(error)
        }
        Ok(Way::Nowhere) if drain(request, &mut body).await => Payload::Held(Bytes::new()),
        Ok(Way::Nowhere) => Payload::Unread,
        Ok(Way::Disk(intake)) => match to_disk(*intake, &mut body).await {
            Ok(spool) => Payload::Spooled(spool),
            Err(error) => {
                drain(request, &mut body).await;
                Payload::Refused(error)
            }
        },
        Ok(Way::Memory(claim)) => match Limited::new(body, LIMIT).collect().await {
            Ok(body) => held(request, &claim, body.to_bytes()),
            Err(_) => Payload::Refused(malformed_xml()),
        },
    }
}

/// As [`receive`], of a body that is there as a whole.
pub fn receive_all(
    request: &Request<()>,
    body: &Bytes,
    buckets: &Buckets,
    now: Timestamp,
) -> Payload {
    let taken = |mut intake: Intake| {
        intake.push(body)?;
        intake.finish()
    };
    match way(request, buckets, now) {
        Err(error) => Payload::Refused(error),
        Ok(Way::Nowhere) => Payload::Held(Bytes::new()),
        Ok(Way::Disk(intake)) => match taken(*intake) {
            Ok(spool) => Payload::Spooled(spool),
            Err(error) => Payload::Refused(error),
        },
        Ok(Way::Memory(claim)) => held(request, &claim, body.clone()),
    }
}

/// A body in memory, if it is the one that was signed and announced.
fn held(request: &Request<()>, claim: &Claim, body: Bytes) -> Payload {
    let md5 = match announced_md5(request) {
        Err(error) => return Payload::Refused(error),
        Ok(md5) => md5,
    };
    if md5.is_some_and(|md5| Md5::digest(&body)[..] != md5[..]) {
        return Payload::Refused(bad_md5());
    }
    match claim {
        Claim::Unsigned => Payload::Held(body),
        Claim::Sha256(hash) if Sha256::digest(&body)[..] == hash[..] => Payload::Held(body),
        Claim::Sha256(_) => {
            let message =
                "The provided 'x-amz-content-sha256' header does not match what was computed.";
            let code = "XAmzContentSHA256Mismatch";
            Payload::Refused(error(StatusCode::BAD_REQUEST, code, message))
        }
        Claim::Trailer => {
            let mut plain = Vec::new();
            let mut decoder = Decoder::default();
            let decoded = decoder.push(&body, |bytes| {
                plain.extend_from_slice(bytes);
                Ok::<_, Malformed>(())
            });
            match decoded.and_then(|()| decoder.finish()) {
                Ok(_) => Payload::Held(plain.into()),
                Err(malformed) => Payload::Refused(malformed.into()),
            }
        }
    }
}

/// Reads a small body that nobody wants to its end, for clients that send it before they look for the answer; whether that
/// was reached. One that waits to be asked for it is not asked.
async fn drain<B>(request: &Request<()>, body: &mut B) -> bool
where
    B: Body<Data = Bytes> + Unpin,
{
    if request.headers().contains_key(http::header::EXPECT) {
        return body.is_end_stream();
    }
    let mut left = DRAINED;
    while let Some(frame) = body.frame().await {
        let length = frame.ok().and_then(|frame| Some(frame.data_ref()?.len()));
        match left.checked_sub(length.unwrap_or_default()) {
            Some(rest) if length.is_some() => left = rest,
            _ => return false,
        }
    }
    true
}

/// Writes a body as it comes. Hashing and writing block, so they are done on a thread for such.
async fn to_disk<B>(mut intake: Intake, body: &mut B) -> Result<Spool, ApiError>
where
    B: Body<Data = Bytes> + Unpin,
{
    let (sender, mut pieces) = mpsc::channel::<Bytes>(UNDER_WAY);
    let writer = tokio::task::spawn_blocking(move || {
        while let Some(piece) = pieces.blocking_recv() {
            intake.push(&piece)?;
        }
        intake.finish()
    });
    // A client that goes away leaves a body that is too short.
    while let Some(Ok(frame)) = body.frame().await {
        if let Ok(piece) = frame.into_data()
            && sender.send(piece).await.is_err()
        {
            break;
        }
    }
    drop(sender);
    let written = writer.await;
    written.unwrap_or_else(|error| Err(ApiError::internal(error.to_string())))
}

/// The head of a request, without its body.
pub fn head<B>(request: &Request<B>) -> Request<()> {
    let mut head = Request::new(());
    *head.method_mut() = request.method().clone();
    *head.uri_mut() = request.uri().clone();
    *head.headers_mut() = HeaderMap::clone(request.headers());
    head
}
