//! Uploads in parts: `CreateMultipartUpload`, `UploadPart`, `CompleteMultipartUpload`, `AbortMultipartUpload`.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Response, StatusCode};
use md5::{Digest as _, Md5};
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use super::super::wire::error::ApiError;
use super::super::wire::xml::Xml;
use super::asked::Asked;
use super::checksum::{Algorithm, Checksum};
use super::conditions;
use super::error::{
    error, header_not_implemented, invalid_argument, invalid_request, no_such_upload,
};
use super::objects::{description, quoted, receipt};
use super::spool::{Spool, broken};
use super::store::Meta;
use super::{Content, S3, answer, insert, malformed_xml, no_content};

/// Part numbers ("Amazon S3 multipart upload limits").
const NUMBERS: std::ops::RangeInclusive<u32> = 1..=10_000;
/// Bytes of the smallest part that is not the last.
const SMALLEST: u64 = 5 * 1024 * 1024;

/// An upload that has begun.
#[derive(Debug, Serialize, Deserialize)]
struct Upload {
    key: String,
    headers: Vec<(String, String)>,
    algorithm: Algorithm,
    /// Its checksum is one of the parts' checksums.
    composite: bool,
    /// The client said so itself.
    chosen: bool,
}

/// What is known of a part.
#[derive(Debug, Serialize, Deserialize)]
struct PartMeta {
    length: u64,
    /// In hex.
    md5: String,
    checksum: Checksum,
}

/// A part as the list of a `CompleteMultipartUpload` names it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) number: u32,
    etag: String,
    checksums: BTreeMap<&'static str, String>,
}

impl S3<'_> {
    pub(super) fn create_upload(
        &self,
        mut asked: Asked,
        request_id: &str,
    ) -> Result<Response<Content>, ApiError> {
        self.bucket(&asked.bucket)?;
        asked.parameter("uploads");
        let headers = description(&mut asked)?;
        let named = asked.header("x-amz-checksum-algorithm");
        let algorithm = match named.as_deref() {
            None => Algorithm::Crc64Nvme,
            Some(name) => Algorithm::named(name).ok_or_else(|| {
                if ["SHA512", "MD5", "XXHASH64", "XXHASH3", "XXHASH128"].contains(&name) {
                    return header_not_implemented("x-amz-checksum-algorithm", name);
                }
                let message = "Checksum algorithm provided is unsupported. Please try again with any of the valid \
                               types: [CRC32, CRC32C, CRC64NVME, SHA1, SHA256]";
                invalid_request(format!("{message}: x-amz-checksum-algorithm {name}"))
            })?,
        };
        let composite = composite(algorithm, asked.header("x-amz-checksum-type").as_deref())?;
        let (bucket, key) = (asked.bucket.clone(), asked.key.clone());
        asked.finish("CreateMultipartUpload")?;
        // Ids of requests do not repeat.
        let id = hex::encode(request_id);
        let upload = Upload {
            key,
            headers,
            algorithm,
            composite,
            chosen: named.is_some(),
        };
        let begun = self.buckets.begin_upload(&bucket, &id, &upload);
        begun.map_err(|error| broken(&error))?;
        let body = Xml::children([
            ("Bucket", Xml::text(bucket)),
            ("Key", Xml::text(&upload.key)),
            ("UploadId", Xml::text(id)),
        ]);
        let mut response = answer("InitiateMultipartUploadResult", &body);
        let headers = response.headers_mut();
        insert(headers, "x-amz-server-side-encryption", "AES256");
        if upload.chosen {
            insert(headers, "x-amz-checksum-algorithm", algorithm.name());
            let kind = if composite {
                "COMPOSITE"
            } else {
                "FULL_OBJECT"
            };
            insert(headers, "x-amz-checksum-type", kind);
        }
        Ok(response)
    }

    /// The upload that is asked for; its id came from outside, and becomes a path.
    fn upload(&self, bucket: &str, key: &str, id: &str) -> Result<Upload, ApiError> {
        let is_id = !id.is_empty() && id.bytes().all(|c| c.is_ascii_hexdigit());
        let found = if is_id {
            let found = self.buckets.upload::<Upload>(bucket, id);
            found.map_err(|error| broken(&error))?
        } else {
            None
        };
        found
            .filter(|upload| upload.key == key)
            .ok_or_else(|| no_such_upload(id))
    }

    pub(super) fn upload_part(
        &self,
        mut asked: Asked,
        spool: Spool,
    ) -> Result<Response<Content>, ApiError> {
        self.bucket(&asked.bucket)?;
        let id = asked.parameter("uploadId").unwrap_or_default();
        let number = asked.parameter("partNumber").unwrap_or_default();
        let number = number
            .parse()
            .ok()
            .filter(|one| NUMBERS.contains(one))
            .ok_or_else(|| {
                let message = "Part number must be an integer between 1 and 10000, inclusive";
                invalid_argument("partNumber", &number, message)
            })?;
        asked.headers(|name| name.starts_with("x-amz-checksum-") || name == "content-md5");
        let (bucket, key) = (asked.bucket.clone(), asked.key.clone());
        asked.finish("UploadPart")?;
        let upload = self.upload(&bucket, &key, &id)?;
        if upload.chosen && spool.checksum.algorithm != upload.algorithm {
            let message = format!(
                "Checksum Type mismatch occurred, expected checksum Type: {}, actual checksum Type: {}",
                upload.algorithm.name().to_ascii_lowercase(),
                spool.checksum.algorithm.name().to_ascii_lowercase()
            );
            return Err(invalid_request(message));
        }
        let part = PartMeta {
            length: spool.length,
            md5: hex::encode(spool.md5),
            checksum: spool.checksum.clone(),
        };
        let guard = self.buckets.lock().map_err(|error| broken(&error))?;
        // It may have ended meanwhile.
        self.upload(&bucket, &key, &id)?;
        let file = spool.into_file();
        let put = self
            .buckets
            .put_part((&bucket, &id), number, file, &part, &guard);
        put.map_err(|error| broken(&error))?;
        Ok(receipt(&part.md5, &part.checksum))
    }

    pub(super) fn complete_upload(
        &self,
        mut asked: Asked,
        body: &Bytes,
    ) -> Result<Response<Content>, ApiError> {
        self.bucket(&asked.bucket)?;
        let id = asked.parameter("uploadId").unwrap_or_default();
        let condition = conditions::Write::take(&mut asked)?;
        let kind = asked.header("x-amz-checksum-type");
        let size = asked.header("x-amz-mp-object-size");
        let given = asked.headers(|name| Algorithm::of_header(name).is_some());
        let (bucket, key) = (asked.bucket.clone(), asked.key.clone());
        asked.finish("CompleteMultipartUpload")?;
        let upload = self.upload(&bucket, &key, &id)?;
        if let Some(kind) = &kind
            && composite(upload.algorithm, Some(kind))? != upload.composite
        {
            let message =
                format!("The upload was created with another x-amz-checksum-type than {kind}");
            return Err(invalid_request(message));
        }
        let parts = self.listed_parts(&bucket, &id, &listed(body)?)?;
        let guard = self.buckets.lock().map_err(|error| broken(&error))?;
        self.upload(&bucket, &key, &id)?;
        let there = self.buckets.open(&bucket, &key);
        let there = there.map_err(|error| broken(&error))?;
        condition.check(&key, there.as_ref().map(|object| &object.meta))?;
        let (file, meta) = self.join(&upload, parts)?;
        if let Some(size) = size.filter(|size| size.parse() != Ok(meta.length)) {
            let message = format!(
                "The provided 'x-amz-mp-object-size' header value {size} does not match what was computed: {}",
                meta.length
            );
            return Err(invalid_request(message));
        }
        for (name, value) in given {
            if name != meta.checksum.algorithm.header() || value != meta.checksum.value {
                let message =
                    format!("The {name} you specified did not match the calculated checksum.");
                return Err(error(StatusCode::BAD_REQUEST, "BadDigest", message));
            }
        }
        let put = self.buckets.put(&bucket, file, &meta, &guard);
        put.map_err(|error| broken(&error))?;
        let ended = self.buckets.end_upload(&bucket, &id, &guard);
        ended.map_err(|error| broken(&error))?;
        let location = format!("http://s3.{}.amazonaws.com/{bucket}/{key}", self.region);
        let body = Xml::children([
            ("Location", Xml::text(location)),
            ("Bucket", Xml::text(bucket)),
            ("Key", Xml::text(key)),
            ("ETag", Xml::text(quoted(&meta.etag))),
            (
                meta.checksum.algorithm.element(),
                Xml::text(&meta.checksum.value),
            ),
            ("ChecksumType", Xml::text(meta.checksum.kind())),
        ]);
        let mut response = answer("CompleteMultipartUploadResult", &body);
        insert(
            response.headers_mut(),
            "x-amz-server-side-encryption",
            "AES256",
        );
        Ok(response)
    }

    pub(super) fn abort_upload(&self, mut asked: Asked) -> Result<Response<Content>, ApiError> {
        self.bucket(&asked.bucket)?;
        let id = asked.parameter("uploadId").unwrap_or_default();
        let (bucket, key) = (asked.bucket.clone(), asked.key.clone());
        asked.finish("AbortMultipartUpload")?;
        let guard = self.buckets.lock().map_err(|error| broken(&error))?;
        self.upload(&bucket, &key, &id)?;
        let ended = self.buckets.end_upload(&bucket, &id, &guard);
        ended.map_err(|error| broken(&error))?;
        Ok(no_content())
    }

    /// The parts of a list, opened; each must be what the list says.
    fn listed_parts(
        &self,
        bucket: &str,
        id: &str,
        list: &[Listed],
    ) -> Result<Vec<(std::fs::File, PartMeta)>, ApiError> {
        let invalid = || {
            let message = "One or more of the specified parts could not be found. The part may not have been uploaded, \
                           or the specified entity tag may not match the part's entity tag.";
            error(StatusCode::BAD_REQUEST, "InvalidPart", message)
        };
        if list.windows(2).any(|pair| pair[0].number >= pair[1].number) {
            let message = "The list of parts was not in ascending order. Parts must be ordered by part number.";
            return Err(error(StatusCode::BAD_REQUEST, "InvalidPartOrder", message));
        }
        let mut parts = Vec::new();
        for (index, one) in list.iter().enumerate() {
            let part = self.buckets.part::<PartMeta>(bucket, id, one.number);
            let (file, about) = part
                .map_err(|error| broken(&error))?
                .ok_or_else(|| invalid().with("PartNumber", one.number))?;
            let same = one.checksums.iter().all(|(element, value)| {
                about.checksum.algorithm.element() == *element && about.checksum.value == *value
            });
            if one.etag.trim_matches('"') != about.md5 || !same {
                return Err(invalid()
                    .with("PartNumber", one.number)
                    .with("ETag", &one.etag));
            }
            if index + 1 < list.len() && about.length < SMALLEST {
                let message = "Your proposed upload is smaller than the minimum allowed size";
                return Err(error(StatusCode::BAD_REQUEST, "EntityTooSmall", message)
                    .with("ProposedSize", about.length)
                    .with("MinSizeAllowed", SMALLEST)
                    .with("PartNumber", one.number)
                    .with("ETag", &about.md5));
            }
            parts.push((file, about));
        }
        Ok(parts)
    }

    /// One file of all parts.
    fn join(
        &self,
        upload: &Upload,
        parts: Vec<(std::fs::File, PartMeta)>,
    ) -> Result<(NamedTempFile, Meta), ApiError> {
        let io = |error: std::io::Error| broken(&error);
        let mut file = self.buckets.begin().map_err(io)?;
        let (mut md5, mut whole) = (Md5::new(), upload.algorithm.begin());
        let (count, mut length) = (parts.len(), 0);
        let mut buffer = vec![0; 256 * 1024];
        for (part, about) in parts {
            length += about.length;
            md5.update(hex::decode(&about.md5).unwrap_or_default());
            if upload.composite {
                let sum = STANDARD.decode(&about.checksum.value);
                whole.update(&sum.unwrap_or_default());
            }
            let mut bytes = part.take(about.length);
            loop {
                let read = bytes.read(&mut buffer).map_err(io)?;
                if read == 0 {
                    break;
                }
                if !upload.composite {
                    whole.update(&buffer[..read]);
                }
                file.write_all(&buffer[..read]).map_err(io)?;
            }
        }
        let value = whole.header_value();
        let mut value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        if upload.composite {
            value.push_str(&format!("-{count}"));
        }
        let meta = Meta {
            key: upload.key.clone(),
            length,
            etag: format!("{}-{count}", hex::encode(md5.finalize())),
            modified: self.now,
            headers: upload.headers.clone(),
            checksum: Checksum {
                algorithm: upload.algorithm,
                value,
            },
        };
        Ok((file, meta))
    }
}

/// Whether the checksum is one of the parts' checksums ("Checking object integrity": which algorithm has which type).
fn composite(algorithm: Algorithm, kind: Option<&str>) -> Result<bool, ApiError> {
    let only_full = algorithm == Algorithm::Crc64Nvme;
    let only_composite = matches!(algorithm, Algorithm::Sha1 | Algorithm::Sha256);
    match kind {
        None => Ok(!only_full),
        Some("COMPOSITE") if !only_full => Ok(true),
        Some("FULL_OBJECT") if !only_composite => Ok(false),
        Some(kind @ ("COMPOSITE" | "FULL_OBJECT")) => Err(invalid_request(format!(
            "The {kind} checksum type cannot be used with the {} checksum algorithm (x-amz-checksum-type).",
            algorithm.name().to_ascii_lowercase()
        ))),
        Some(other) => Err(invalid_request(format!(
            "Value for x-amz-checksum-type header is invalid: {other}."
        ))),
    }
}

/// Reads a `CompleteMultipartUpload`.
pub(crate) fn listed(body: &Bytes) -> Result<Vec<Listed>, ApiError> {
    let text = std::str::from_utf8(body).map_err(|_| malformed_xml())?;
    let document = roxmltree::Document::parse(text).map_err(|_| malformed_xml())?;
    let root = document.root_element();
    if root.tag_name().name() != "CompleteMultipartUpload" {
        return Err(malformed_xml());
    }
    let mut list = Vec::new();
    for part in root.children().filter(roxmltree::Node::is_element) {
        if part.tag_name().name() != "Part" {
            return Err(malformed_xml());
        }
        let (mut number, mut etag) = (None, None);
        let mut checksums = BTreeMap::new();
        for child in part.children().filter(roxmltree::Node::is_element) {
            let (name, text) = (child.tag_name().name(), child.text().unwrap_or_default());
            let known = Algorithm::ALL.into_iter().find(|one| one.element() == name);
            match (name, known) {
                ("PartNumber", _) => number = text.parse().ok(),
                ("ETag", _) => etag = Some(text.to_owned()),
                (_, Some(algorithm)) => {
                    checksums.insert(algorithm.element(), text.to_owned());
                }
                (name, None) if name.starts_with("Checksum") => {
                    return Err(super::error::not_implemented(&format!(
                        "{name} of CompleteMultipartUpload"
                    )));
                }
                _ => return Err(malformed_xml()),
            }
        }
        list.push(Listed {
            number: number.ok_or_else(malformed_xml)?,
            etag: etag.ok_or_else(malformed_xml)?,
            checksums,
        });
    }
    if list.is_empty() {
        return Err(malformed_xml());
    }
    Ok(list)
}
