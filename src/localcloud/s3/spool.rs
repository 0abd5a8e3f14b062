//! The body of a request to S3 on its way to the disk: decoded, hashed and checked as it comes.

use std::collections::BTreeMap;
use std::io::{self, Seek as _, SeekFrom, Write as _};

use aws_smithy_checksums::http::HttpChecksum;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Request, StatusCode};
use md5::Md5;
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

use super::super::wire::error::ApiError;
use super::auth::Claim;
use super::checksum::{Algorithm, Checksum};
use super::chunked::{Decoder, Malformed};
use super::error::{error, header_not_implemented, invalid_request};
use super::store::Buckets;

/// Bytes of the largest object that one request puts ("Amazon S3 multipart upload limits": 5 GiB).
const LIMIT: u64 = 5 * 1024 * 1024 * 1024;

/// A body that has arrived as a whole, and is what its headers say.
#[derive(Debug)]
pub struct Spool {
    file: NamedTempFile,
    pub length: u64,
    pub md5: [u8; 16],
    pub checksum: Checksum,
}

impl Spool {
    /// The file, to be put somewhere.
    pub fn into_file(self) -> NamedTempFile {
        self.file
    }

    /// The same once more.
    pub fn again(&mut self, buckets: &Buckets) -> io::Result<Self> {
        let mut file = buckets.begin()?;
        self.file.seek(SeekFrom::Start(0))?;
        io::copy(&mut self.file, &mut file)?;
        Ok(Self {
            file,
            length: self.length,
            md5: self.md5,
            checksum: self.checksum.clone(),
        })
    }
}

/// What a body is to be, by the head of its request.
struct Expected {
    /// Bytes on the wire.
    length: u64,
    /// Bytes of the object, where the body is in chunks.
    decoded: Option<u64>,
    sha256: Option<[u8; 32]>,
    md5: Option<[u8; 16]>,
    /// The checksum that the client names; its value may come behind the body.
    checksum: Option<(Algorithm, Option<String>)>,
}

/// Takes a body piece by piece.
pub struct Intake {
    file: NamedTempFile,
    expected: Expected,
    decoder: Option<Decoder>,
    arrived: u64,
    hashes: Hashes,
}

/// What is computed over an object's bytes, and written.
struct Hashes {
    length: u64,
    limit: u64,
    md5: Md5,
    sha256: Option<Sha256>,
    algorithm: Algorithm,
    checksum: Box<dyn HttpChecksum>,
}

impl Hashes {
    fn take(&mut self, file: &mut NamedTempFile, bytes: &[u8]) -> Result<(), ApiError> {
        self.length += bytes.len() as u64;
        if self.length > self.limit {
            return Err(incomplete());
        }
        self.md5.update(bytes);
        if let Some(sha256) = &mut self.sha256 {
            sha256.update(bytes);
        }
        self.checksum.update(bytes);
        file.write_all(bytes).map_err(|error| broken(&error))
    }
}

impl From<Malformed> for ApiError {
    fn from(_: Malformed) -> Self {
        invalid_request("The body of the request is not well-formed aws-chunked encoding.")
    }
}

/// The disk refuses.
pub fn broken(error: &io::Error) -> ApiError {
    ApiError::internal(format!("cannot use the files of buckets: {error}"))
}

fn incomplete() -> ApiError {
    let message =
        "You did not provide the number of bytes specified by the Content-Length HTTP header";
    error(StatusCode::BAD_REQUEST, "IncompleteBody", message)
}

impl Intake {
    /// Reads what the head of a request says of its body.
    pub fn begin<B>(
        request: &Request<B>,
        claim: &Claim,
        buckets: &Buckets,
    ) -> Result<Self, ApiError> {
        let expected = expected(request, claim)?;
        let algorithm = expected
            .checksum
            .as_ref()
            // What S3 itself computes where a client names none.
            .map_or(Algorithm::Crc64Nvme, |(algorithm, _)| *algorithm);
        let size = expected.decoded.unwrap_or(expected.length);
        if size > LIMIT {
            let message = "Your proposed upload exceeds the maximum allowed size";
            return Err(error(StatusCode::BAD_REQUEST, "EntityTooLarge", message)
                .with("ProposedSize", size)
                .with("MaxSizeAllowed", LIMIT));
        }
        Ok(Self {
            file: buckets.begin().map_err(|error| broken(&error))?,
            decoder: expected.decoded.map(|_| Decoder::default()),
            arrived: 0,
            hashes: Hashes {
                length: 0,
                limit: size,
                md5: Md5::new(),
                sha256: expected.sha256.map(|_| Sha256::new()),
                algorithm,
                checksum: algorithm.begin(),
            },
            expected,
        })
    }

    /// Takes what came.
    pub fn push(&mut self, piece: &[u8]) -> Result<(), ApiError> {
        self.arrived += piece.len() as u64;
        let Self {
            file,
            decoder,
            hashes,
            ..
        } = self;
        match decoder {
            Some(decoder) => decoder.push(piece, |bytes| hashes.take(file, bytes)),
            None => hashes.take(file, piece),
        }
    }

    /// All has come: is it what was announced?
    pub fn finish(self) -> Result<Spool, ApiError> {
        let Self {
            mut file,
            expected,
            decoder,
            arrived,
            hashes,
        } = self;
        if arrived != expected.length || hashes.length != hashes.limit {
            return Err(incomplete());
        }
        let trailers = decoder.map(Decoder::finish).transpose()?;
        if let (Some(computed), Some(claimed)) = (hashes.sha256, expected.sha256) {
            let computed: [u8; 32] = computed.finalize().into();
            if computed != claimed {
                let message =
                    "The provided 'x-amz-content-sha256' header does not match what was computed.";
                return Err(error(
                    StatusCode::BAD_REQUEST,
                    "XAmzContentSHA256Mismatch",
                    message,
                )
                .with("ClientComputedContentSHA256", hex::encode(claimed))
                .with("S3ComputedContentSHA256", hex::encode(computed)));
            }
        }
        let md5: [u8; 16] = hashes.md5.finalize().into();
        if let Some(claimed) = expected.md5.filter(|claimed| *claimed != md5) {
            return Err(bad_md5()
                .with("ExpectedDigest", hex::encode(claimed))
                .with("CalculatedDigest", STANDARD.encode(md5)));
        }
        let algorithm = hashes.algorithm;
        let value = hashes.checksum.header_value();
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        check(
            algorithm,
            &value,
            expected.checksum,
            &trailers.unwrap_or_default(),
        )?;
        file.flush().map_err(|error| broken(&error))?;
        Ok(Spool {
            file,
            length: hashes.length,
            md5,
            checksum: Checksum { algorithm, value },
        })
    }
}

/// Compares a checksum with what came before or behind the body.
fn check(
    algorithm: Algorithm,
    computed: &str,
    expected: Option<(Algorithm, Option<String>)>,
    trailers: &BTreeMap<String, String>,
) -> Result<(), ApiError> {
    if let Some(name) = trailers.keys().find(|name| *name != algorithm.header()) {
        return Err(error(
            StatusCode::BAD_REQUEST,
            "MalformedTrailerError",
            format!(
                "The request contained trailing data that was not well-formed or did not conform to our published \
                 schema: {name} is not announced in x-amz-trailer."
            ),
        ));
    }
    let Some((_, given)) = expected else {
        return Ok(());
    };
    let Some(given) = given.or_else(|| trailers.get(algorithm.header()).cloned()) else {
        return Err(error(
            StatusCode::BAD_REQUEST,
            "MalformedTrailerError",
            format!(
                "The request contained trailing data that was not well-formed or did not conform to our published \
                 schema: {} is missing.",
                algorithm.header()
            ),
        ));
    };
    well_formed(algorithm, &given)?;
    if given == computed {
        return Ok(());
    }
    let message = format!(
        "The {} you specified did not match the calculated checksum.",
        algorithm.name()
    );
    Err(error(StatusCode::BAD_REQUEST, "BadDigest", message))
}

/// Whether a text can be a checksum at all.
pub fn well_formed(algorithm: Algorithm, value: &str) -> Result<(), ApiError> {
    let size = STANDARD.decode(value).map(|bytes| bytes.len());
    if size == Ok(algorithm.size()) {
        return Ok(());
    }
    Err(invalid_request(format!(
        "Value for {} header is invalid.",
        algorithm.header()
    )))
}

/// The one checksum that the headers of a request hold.
pub fn checksum_header<B>(request: &Request<B>) -> Result<Option<(Algorithm, String)>, ApiError> {
    let mut found = None;
    for (name, value) in request.headers() {
        let name = name.as_str();
        let Some(kind) = name.strip_prefix("x-amz-checksum-") else {
            continue;
        };
        let value = value.to_str().unwrap_or_default();
        if ["mode", "algorithm", "type"].contains(&kind) {
            continue;
        }
        let Some(algorithm) = Algorithm::of_header(name) else {
            return Err(header_not_implemented(name, value));
        };
        if found.is_some() {
            return Err(invalid_request(
                "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.",
            ));
        }
        found = Some((algorithm, value.to_owned()));
    }
    Ok(found)
}

/// `Content-MD5`.
pub fn announced_md5<B>(request: &Request<B>) -> Result<Option<[u8; 16]>, ApiError> {
    let Some(text) = request.headers().get("content-md5") else {
        return Ok(None);
    };
    let bytes = STANDARD.decode(text.as_bytes()).ok();
    let md5 = bytes.and_then(|bytes| bytes.try_into().ok());
    md5.map(Some).ok_or_else(|| {
        let message = "The Content-MD5 you specified is not valid.";
        error(StatusCode::BAD_REQUEST, "InvalidDigest", message)
            .with("Content-MD5", String::from_utf8_lossy(text.as_bytes()))
    })
}

/// A body that is not what its `Content-MD5` says.
pub fn bad_md5() -> ApiError {
    let message = "The Content-MD5 you specified did not match what we received.";
    error(StatusCode::BAD_REQUEST, "BadDigest", message)
}

fn expected<B>(request: &Request<B>, claim: &Claim) -> Result<Expected, ApiError> {
    let header = |name: &str| {
        let value = request.headers().get(name);
        value.and_then(|value| value.to_str().ok())
    };
    if let Some(encoding) = header("transfer-encoding") {
        return Err(header_not_implemented("Transfer-Encoding", encoding));
    }
    let missing_length = || {
        let message = "You must provide the Content-Length HTTP header.";
        error(StatusCode::LENGTH_REQUIRED, "MissingContentLength", message)
    };
    let number = |name: &str| {
        let text = header(name).ok_or_else(missing_length)?;
        text.parse().map_err(|_| missing_length())
    };
    let chunked = *claim == Claim::Trailer;
    let mut checksum = checksum_header(request)?.map(|(name, value)| (name, Some(value)));
    if let Some(trailer) = header("x-amz-trailer") {
        let algorithm = Algorithm::of_header(trailer.trim());
        let (Some(algorithm), true, None) = (algorithm, chunked, &checksum) else {
            let message = format!(
                "The value specified in the x-amz-trailer header is not supported: {trailer}"
            );
            return Err(invalid_request(message));
        };
        checksum = Some((algorithm, None));
    }
    if let Some(name) = header("x-amz-sdk-checksum-algorithm") {
        let named = Algorithm::named(name);
        if named.is_none() && ["SHA512", "MD5", "XXHASH64", "XXHASH3", "XXHASH128"].contains(&name)
        {
            return Err(header_not_implemented("x-amz-sdk-checksum-algorithm", name));
        }
        let Some(named) = named else {
            return Err(invalid_request(format!(
                "Value for x-amz-sdk-checksum-algorithm header is invalid: {name}."
            )));
        };
        if checksum.as_ref().map(|(there, _)| *there) != Some(named) {
            return Err(invalid_request(
                "x-amz-sdk-checksum-algorithm specified, but no corresponding x-amz-checksum-* or x-amz-trailer \
                 headers were found.",
            ));
        }
    }
    Ok(Expected {
        length: number("content-length")?,
        decoded: if chunked {
            Some(number("x-amz-decoded-content-length")?)
        } else {
            None
        },
        sha256: match claim {
            Claim::Sha256(hash) => Some(*hash),
            Claim::Unsigned | Claim::Trailer => None,
        },
        md5: announced_md5(request)?,
        checksum,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes a body with these headers.
    fn take(claim: &Claim, headers: &[(&str, &str)], body: &[u8]) -> Result<Spool, String> {
        let cloud = tempfile::tempdir().unwrap();
        let mut request = Request::builder().method("PUT").uri("/web/a");
        let length = body.len().to_string();
        for (name, value) in headers.iter().chain([&("content-length", length.as_str())]) {
            request = request.header(*name, *value);
        }
        let request = request.body(()).unwrap();
        let taken =
            Intake::begin(&request, claim, &Buckets::of(cloud.path())).and_then(|mut one| {
                body.chunks(3).try_for_each(|piece| one.push(piece))?;
                one.finish()
            });
        taken.map_err(|error| error.code)
    }

    #[test]
    fn a_checksum_behind_the_body_is_compared_with_it() {
        // CRC-32 of "123456789": cbf43926.
        let body = |sum: &str| format!("9\r\n123456789\r\n0\r\nx-amz-checksum-crc32:{sum}\r\n\r\n");
        let trailer = ("x-amz-trailer", "x-amz-checksum-crc32");
        let decoded = ("x-amz-decoded-content-length", "9");
        let take = |headers: &[_], body: String| take(&Claim::Trailer, headers, body.as_bytes());
        let spool = take(&[trailer, decoded], body("y/Q5Jg==")).unwrap();
        assert_eq!(
            (spool.length, spool.checksum.value.as_str()),
            (9, "y/Q5Jg==")
        );
        assert_eq!(hex::encode(spool.md5), "25f9e794323b453885f5181f1b624d0b");
        let code = |headers: &[_], body: String| take(headers, body).unwrap_err();
        assert_eq!(code(&[trailer, decoded], body("AAAAAA==")), "BadDigest");
        assert_eq!(code(&[trailer, decoded], body("AA==")), "InvalidRequest");
        assert_eq!(code(&[decoded], body("y/Q5Jg==")), "MalformedTrailerError");
        let bare = "9\r\n123456789\r\n0\r\n\r\n".to_owned();
        assert_eq!(
            code(&[trailer, decoded], bare.clone()),
            "MalformedTrailerError"
        );
        assert_eq!(code(&[trailer], bare.clone()), "MissingContentLength");
        let more = ("x-amz-decoded-content-length", "10");
        assert_eq!(code(&[trailer, more], body("y/Q5Jg==")), "IncompleteBody");
        let less = ("x-amz-decoded-content-length", "8");
        assert_eq!(code(&[trailer, less], body("y/Q5Jg==")), "IncompleteBody");
        let named = ("x-amz-sdk-checksum-algorithm", "SHA256");
        assert_eq!(
            code(&[trailer, decoded, named], body("y/Q5Jg==")),
            "InvalidRequest"
        );
    }

    #[test]
    fn a_signed_body_is_the_one_that_arrives() {
        let sha256 = Sha256::digest(b"body").into();
        take(&Claim::Sha256(sha256), &[], b"body").unwrap();
        let other = take(&Claim::Sha256(sha256), &[], b"bodY").unwrap_err();
        assert_eq!(other, "XAmzContentSHA256Mismatch");
        let chunked = take(
            &Claim::Unsigned,
            &[("transfer-encoding", "chunked")],
            b"body",
        );
        assert_eq!(chunked.unwrap_err(), "NotImplemented");
        let huge = ("x-amz-decoded-content-length", "5368709121");
        assert_eq!(
            take(&Claim::Trailer, &[huge], b"").unwrap_err(),
            "EntityTooLarge"
        );
    }
}
