//! S3: buckets, objects, uploads in parts (restXml; S3 API Reference, version 2006-03-01).
//!
//! Objects lie in files ([`store`]). The body of a request is written to one as it comes ([`spool`]), before the
//! operation runs; the body of an answer is read from one as it is sent.

pub(crate) mod asked;
pub(crate) mod auth;
pub(crate) mod buckets;
mod checksum;
pub(crate) mod chunked;
pub(crate) mod conditions;
pub(super) mod error;
pub(crate) mod list;
mod objects;
mod output;
pub(crate) mod parts;
mod receive;
mod spool;
mod store;

use std::fs::File;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use jiff::Timestamp;

use super::wire::error::ApiError;
use super::wire::xml::{Xml, document};
use asked::Asked;
pub use asked::is_bucket_name;
pub use auth::is_ours;
pub use output::OutputTarget;
pub use receive::Payload;
pub(super) use receive::{head, receive, receive_all};
pub use store::Buckets;

const NAMESPACE: &str = "http://s3.amazonaws.com/doc/2006-03-01/";
/// The canonical id of the one account.
const OWNER: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// The body of an answer.
#[derive(Debug)]
pub enum Content {
    Held(Bytes),
    /// So many bytes of a file, from there on.
    File {
        file: File,
        offset: u64,
        length: u64,
    },
}

impl Default for Content {
    fn default() -> Self {
        Self::Held(Bytes::new())
    }
}

impl Content {
    /// All of it.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(self) -> std::io::Result<Bytes> {
        use std::os::unix::fs::FileExt as _;
        match self {
            Self::Held(bytes) => Ok(bytes),
            Self::File {
                file,
                offset,
                length,
            } => {
                let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
                file.read_exact_at(&mut bytes, offset)?;
                Ok(bytes.into())
            }
        }
    }
}

/// What an operation works on.
struct S3<'a> {
    buckets: &'a Buckets,
    region: &'a str,
    now: Timestamp,
}

/// The operations, by what their requests look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    ListBuckets,
    CreateBucket,
    HeadBucket,
    DeleteBucket,
    ListObjectsV2,
    PutObject,
    GetObject,
    HeadObject,
    DeleteObject,
    CreateMultipartUpload,
    UploadPart,
    CompleteMultipartUpload,
    AbortMultipartUpload,
}

impl Operation {
    /// The operation that a request asks for.
    ///
    /// # Errors
    /// `NotImplemented` if it is none of these.
    fn of(asked: &Asked) -> Result<Self, ApiError> {
        let operation = Self::of_path(asked)?;
        if let Some(name) = asked.unknown(operation.parameters()) {
            let what = format!("the operation {} with the parameter {name}", asked.method);
            return Err(error::not_implemented(&what));
        }
        // What copies is an operation of its own.
        if let Some(value) = asked.peek("x-amz-copy-source") {
            return Err(error::header_not_implemented("x-amz-copy-source", value));
        }
        Ok(operation)
    }

    fn of_path(asked: &Asked) -> Result<Self, ApiError> {
        let unknown = |what: &str| {
            let what = format!("the operation {} of {what}", asked.method);
            Err(error::not_implemented(&what))
        };
        let upload = asked.has("uploadId");
        Ok(
            match (
                asked.method.as_str(),
                asked.bucket.as_str(),
                asked.key.as_str(),
            ) {
                ("GET", "", _) => Self::ListBuckets,
                (_, "", _) => return unknown("the service"),
                ("PUT", _, "") => Self::CreateBucket,
                ("HEAD", _, "") => Self::HeadBucket,
                ("DELETE", _, "") => Self::DeleteBucket,
                ("GET", _, "") if asked.has("list-type") => Self::ListObjectsV2,
                ("GET", _, "") => return unknown("a bucket (ListObjects is there in version 2)"),
                (_, _, "") => return unknown("a bucket"),
                ("PUT", _, _) if upload => Self::UploadPart,
                ("PUT", _, _) => Self::PutObject,
                ("GET", _, _) => Self::GetObject,
                ("HEAD", _, _) => Self::HeadObject,
                ("DELETE", _, _) if upload => Self::AbortMultipartUpload,
                ("DELETE", _, _) => Self::DeleteObject,
                ("POST", _, _) if asked.has("uploads") => Self::CreateMultipartUpload,
                ("POST", _, _) if upload => Self::CompleteMultipartUpload,
                _ => return unknown("an object"),
            },
        )
    }

    /// Its parameters in the query. Any other makes it another operation: `?acl` and the like.
    fn parameters(self) -> &'static [&'static str] {
        match self {
            Self::ListBuckets => &[
                "max-buckets",
                "continuation-token",
                "prefix",
                "bucket-region",
            ],
            Self::CreateBucket | Self::HeadBucket | Self::DeleteBucket | Self::PutObject => &[],
            Self::ListObjectsV2 => &[
                "list-type",
                "delimiter",
                "encoding-type",
                "max-keys",
                "prefix",
                "continuation-token",
                "fetch-owner",
                "start-after",
            ],
            Self::GetObject | Self::HeadObject => &[
                "response-cache-control",
                "response-content-disposition",
                "response-content-encoding",
                "response-content-language",
                "response-content-type",
                "response-expires",
                "versionId",
            ],
            Self::DeleteObject => &["versionId"],
            Self::CreateMultipartUpload => &["uploads"],
            Self::UploadPart => &["uploadId", "partNumber"],
            Self::CompleteMultipartUpload | Self::AbortMultipartUpload => &["uploadId"],
        }
    }

    /// Whether its body is an object's, which goes to the disk.
    fn takes_object(self) -> bool {
        matches!(self, Self::PutObject | Self::UploadPart)
    }
}

/// The name of the operation that a request asks for; empty if it asks for none.
pub(super) fn operation<B>(request: &Request<B>) -> String {
    let operation = Asked::read(request)
        .ok()
        .and_then(|asked| Operation::of(&asked).ok());
    operation.map_or_else(String::new, |operation| format!("{operation:?}"))
}

/// Carries out one request, whose body was taken by [`receive`].
pub(super) fn handle(
    request: &Request<()>,
    payload: Payload,
    buckets: &Buckets,
    now: Timestamp,
    request_id: &str,
) -> Result<Response<Content>, ApiError> {
    let caller = auth::authenticate(request, now)?;
    let asked = Asked::read(request)?;
    let operation = Operation::of(&asked)?;
    let s3 = S3 {
        buckets,
        region: &caller.region,
        now,
    };
    objects::check_key(&asked.key)?;
    let mut response = match (operation, payload) {
        (_, Payload::Refused(error)) => Err(error),
        (Operation::PutObject, Payload::Spooled(spool)) => s3.put_object(asked, spool),
        (Operation::UploadPart, Payload::Spooled(spool)) => s3.upload_part(asked, spool),
        (Operation::ListBuckets, _) => s3.list_buckets(asked),
        (Operation::CreateBucket, Payload::Held(body)) => s3.create_bucket(asked, &body),
        (Operation::HeadBucket, _) => s3.head_bucket(asked),
        (Operation::DeleteBucket, _) => s3.delete_bucket(asked),
        (Operation::ListObjectsV2, _) => s3.list_objects(asked),
        (Operation::GetObject | Operation::HeadObject, _) => s3.get_object(asked),
        (Operation::DeleteObject, _) => s3.delete_object(asked),
        (Operation::CreateMultipartUpload, _) => s3.create_upload(asked, request_id),
        (Operation::CompleteMultipartUpload, Payload::Held(body)) => {
            s3.complete_upload(asked, &body)
        }
        (Operation::AbortMultipartUpload, _) => s3.abort_upload(asked),
        // `receive` looks at the same head.
        (operation, _) => Err(ApiError::internal(format!(
            "the body of {operation:?} went astray"
        ))),
    }?;
    mark(&mut response, request_id);
    Ok(response)
}

/// What every answer carries.
fn mark<B>(response: &mut Response<B>, request_id: &str) {
    let headers = response.headers_mut();
    insert(headers, "x-amz-request-id", request_id);
    insert(headers, "x-amz-id-2", &host_id(request_id));
    insert(headers, "server", "AmazonS3");
}

/// The second id of a request.
fn host_id(request_id: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(request_id)
}

/// Puts a header in the place of what is there; a value that cannot be one in HTTP is left out.
fn insert(headers: &mut HeaderMap, name: &str, value: &str) {
    let name = HeaderName::from_bytes(name.as_bytes());
    let value = HeaderValue::from_bytes(value.as_bytes());
    if let (Ok(name), Ok(value)) = (name, value) {
        headers.insert(name, value);
    }
}

/// The answer to something that is gone.
fn no_content() -> Response<Content> {
    let mut response = Response::new(Content::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// An answer of XML.
fn answer(root: &str, body: &Xml) -> Response<Content> {
    let text = document(root, Some(NAMESPACE), body);
    let mut response = Response::new(Content::Held(text.into()));
    insert(response.headers_mut(), "content-type", "application/xml");
    response
}

/// A request that another service was asked with.
pub(super) fn not_here() -> ApiError {
    error::invalid_request("This is no request of S3.")
}

fn malformed_xml() -> ApiError {
    let message =
        "The XML you provided was not well-formed or did not validate against our published schema";
    error::error(StatusCode::BAD_REQUEST, "MalformedXML", message)
}
