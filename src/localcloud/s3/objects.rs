//! `PutObject`, `GetObject`, `HeadObject`, `DeleteObject`.

use http::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, LAST_MODIFIED,
};
use http::{HeaderValue, Response, StatusCode};
use jiff::Timestamp;

use super::super::wire::error::ApiError;
use super::asked::{Asked, KEPT};
use super::checksum::Checksum;
use super::conditions::{self, Part};
use super::error::{error, header_not_implemented, invalid_argument, invalid_request, no_such_key};
use super::spool::{Spool, broken};
use super::store::{Meta, Object};
use super::{Content, S3, insert, no_content};

/// Bytes of all names and values of `x-amz-meta-…` ("Working with object metadata").
const METADATA_LIMIT: usize = 2048;

/// Takes what an object to be is described with.
///
/// # Errors
/// `MetadataTooLarge`, or `NotImplemented` for a way of keeping it that the local cloud does not have.
pub(super) fn description(asked: &mut Asked) -> Result<Vec<(String, String)>, ApiError> {
    let metadata = asked.headers(|name| name.starts_with("x-amz-meta-"));
    let size: usize = metadata
        .iter()
        .map(|(name, value)| name.len() - "x-amz-meta-".len() + value.len())
        .sum();
    if size > METADATA_LIMIT {
        let message = "Your metadata headers exceed the maximum allowed metadata size";
        return Err(error(StatusCode::BAD_REQUEST, "MetadataTooLarge", message)
            .with("Size", size)
            .with("MaxSizeAllowed", METADATA_LIMIT));
    }
    let mut kept = asked.headers(|name| KEPT.contains(&name));
    for (name, value) in &mut kept {
        if name == "content-encoding" {
            // The wire's, not the object's.
            let rest: Vec<&str> = value
                .split(',')
                .map(str::trim)
                .filter(|coding| *coding != "aws-chunked" && !coding.is_empty())
                .collect();
            *value = rest.join(",");
        }
    }
    kept.retain(|(_, value)| !value.is_empty());
    // Every object of S3 is encrypted so where nothing else is asked for; the disk of this host is what it is.
    let only = |asked: &mut Asked, name: &str, known: &str, all: &[&str]| match asked.header(name) {
        None => Ok(()),
        Some(value) if value == known => Ok(()),
        Some(value) if all.contains(&value.as_str()) => Err(header_not_implemented(name, &value)),
        Some(value) => {
            let message = format!("The value of {name} is not valid: {value}");
            Err(invalid_argument(name, &value, message))
        }
    };
    let encryptions = ["aws:kms", "aws:kms:dsse", "aws:fsx"];
    only(
        asked,
        "x-amz-server-side-encryption",
        "AES256",
        &encryptions,
    )?;
    if let Some(class) = asked.header("x-amz-storage-class")
        && class != "STANDARD"
    {
        const OTHERS: [&str; 11] = [
            "REDUCED_REDUNDANCY",
            "STANDARD_IA",
            "ONEZONE_IA",
            "INTELLIGENT_TIERING",
            "GLACIER",
            "DEEP_ARCHIVE",
            "OUTPOSTS",
            "GLACIER_IR",
            "SNOW",
            "EXPRESS_ONEZONE",
            "FSX_OPENZFS",
        ];
        if OTHERS.contains(&class.as_str()) {
            return Err(header_not_implemented("x-amz-storage-class", &class));
        }
        let message = format!("The storage class you specified is not valid: {class}");
        return Err(error(
            StatusCode::BAD_REQUEST,
            "InvalidStorageClass",
            message,
        ));
    }
    kept.extend(metadata);
    Ok(kept)
}

impl S3<'_> {
    pub(super) fn put_object(
        &self,
        mut asked: Asked,
        spool: Spool,
    ) -> Result<Response<Content>, ApiError> {
        let condition = conditions::Write::take(&mut asked)?;
        let headers = description(&mut asked)?;
        // What they say has been compared with the body.
        asked.headers(|name| name.starts_with("x-amz-checksum-") || name == "content-md5");
        let (bucket, key) = (asked.bucket.clone(), asked.key.clone());
        asked.finish("PutObject")?;
        let meta = Meta {
            key,
            length: spool.length,
            etag: hex::encode(spool.md5),
            modified: self.now,
            headers,
            checksum: spool.checksum.clone(),
        };
        let guard = self.buckets.lock().map_err(|error| broken(&error))?;
        self.bucket(&bucket)?;
        let there = self.buckets.open(&bucket, &meta.key);
        let there = there.map_err(|error| broken(&error))?;
        condition.check(&meta.key, there.as_ref().map(|object| &object.meta))?;
        let put = self.buckets.put(&bucket, spool.into_file(), &meta, &guard);
        put.map_err(|error| broken(&error))?;
        let mut response = receipt(&meta.etag, &meta.checksum);
        insert(
            response.headers_mut(),
            "x-amz-checksum-type",
            meta.checksum.kind(),
        );
        Ok(response)
    }

    /// `GetObject` and `HeadObject`, which differ in the body.
    pub(super) fn get_object(&self, mut asked: Asked) -> Result<Response<Content>, ApiError> {
        let operation = asked.method.as_str();
        let is_head = operation == "HEAD";
        let name = if is_head { "HeadObject" } else { "GetObject" };
        self.bucket(&asked.bucket)?;
        version(&mut asked)?;
        let checked = match asked.header("x-amz-checksum-mode").as_deref() {
            None => false,
            Some("ENABLED") => true,
            Some(other) => {
                let message = format!(
                    "The checksum mode {other} is not valid: x-amz-checksum-mode is ENABLED"
                );
                return Err(invalid_argument("x-amz-checksum-mode", other, message));
            }
        };
        let mut replaced = Vec::new();
        // Parameters may replace what it was put with.
        for header in KEPT {
            let parameter = format!("response-{header}");
            if let Some(value) = asked.parameter(&parameter) {
                let valid = HeaderValue::from_str(&value).is_ok();
                if !valid {
                    let message = format!("Header value cannot be represented: {parameter}");
                    return Err(invalid_argument(&parameter, &value, message));
                }
                replaced.push((header, value));
            }
        }
        let object = self.buckets.open(&asked.bucket, &asked.key);
        let object = object
            .map_err(|error| broken(&error))?
            .ok_or_else(|| no_such_key(&asked.key));
        let range = asked.header("range");
        // What is not understood is refused whether the object is there or not.
        let object = match object {
            Ok(object) => {
                conditions::read(&mut asked, &object.meta)
                    .map_err(|error| error.with_object(&object.meta))?;
                Ok(object)
            }
            Err(missing) => Err(missing),
        };
        asked.finish(name)?;
        let Object { file, meta } = object?;
        let part = conditions::range(range.as_deref(), meta.length)?;
        let mut response = Response::new(Content::default());
        let headers = response.headers_mut();
        describe(headers, &meta);
        for (header, value) in replaced {
            insert(headers, header, &value);
        }
        // A checksum is one of all bytes.
        if checked && part.is_none() {
            insert(
                headers,
                meta.checksum.algorithm.header(),
                &meta.checksum.value,
            );
            insert(headers, "x-amz-checksum-type", meta.checksum.kind());
        }
        let Part { offset, length } = part.unwrap_or(Part {
            offset: 0,
            length: meta.length,
        });
        insert(headers, CONTENT_LENGTH.as_str(), &length.to_string());
        if part.is_some() {
            let range = format!("bytes {offset}-{}/{}", offset + length - 1, meta.length);
            insert(headers, CONTENT_RANGE.as_str(), &range);
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        if !is_head {
            *response.body_mut() = Content::File {
                file,
                offset,
                length,
            };
        }
        Ok(response)
    }

    pub(super) fn delete_object(&self, mut asked: Asked) -> Result<Response<Content>, ApiError> {
        version(&mut asked)?;
        let condition = conditions::Write::take(&mut asked)?;
        let (bucket, key) = (asked.bucket.clone(), asked.key.clone());
        asked.finish("DeleteObject")?;
        let guard = self.buckets.lock().map_err(|error| broken(&error))?;
        self.bucket(&bucket)?;
        let there = self.buckets.open(&bucket, &key);
        let there = there.map_err(|error| broken(&error))?;
        condition.check(&key, there.as_ref().map(|object| &object.meta))?;
        let deleted = self.buckets.delete(&bucket, &key, &guard);
        deleted.map_err(|error| broken(&error))?;
        Ok(no_content())
    }
}

/// The answer to bytes that were put: their tag and their checksum.
pub(super) fn receipt(etag: &str, checksum: &Checksum) -> Response<Content> {
    let mut response = Response::new(Content::default());
    let headers = response.headers_mut();
    insert(headers, "etag", &quoted(etag));
    insert(headers, "x-amz-server-side-encryption", "AES256");
    insert(headers, checksum.algorithm.header(), &checksum.value);
    response
}

/// Buckets here have no versions: all objects are the version `null`.
fn version(asked: &mut Asked) -> Result<(), ApiError> {
    match asked.parameter("versionId") {
        None => Ok(()),
        Some(version) if version == "null" => Ok(()),
        Some(version) => Err(invalid_argument(
            "versionId",
            &version,
            "Invalid version id specified",
        )),
    }
}

fn describe(headers: &mut http::HeaderMap, meta: &Meta) {
    insert(headers, CONTENT_TYPE.as_str(), "binary/octet-stream");
    for (name, value) in &meta.headers {
        insert(headers, name, value);
    }
    insert(headers, ETAG.as_str(), &quoted(&meta.etag));
    insert(headers, LAST_MODIFIED.as_str(), &http_date(meta.modified));
    insert(headers, ACCEPT_RANGES.as_str(), "bytes");
    insert(headers, "x-amz-server-side-encryption", "AES256");
}

/// An entity tag as headers and XML have it.
pub(super) fn quoted(etag: &str) -> String {
    format!("\"{etag}\"")
}

/// A time as headers have it (RFC 9110, 5.6.7).
fn http_date(time: Timestamp) -> String {
    time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// Says which object a refusal is about; a client that has it needs its tag.
trait WithObject {
    fn with_object(self, meta: &Meta) -> Self;
}

impl WithObject for ApiError {
    fn with_object(self, meta: &Meta) -> Self {
        if self.status == StatusCode::NOT_MODIFIED {
            self.with("ETag", quoted(&meta.etag))
        } else {
            self
        }
    }
}

/// The same complaint for every key that cannot be one.
pub(super) fn check_key(key: &str) -> Result<(), ApiError> {
    if key.contains('\0') {
        return Err(invalid_request("Object keys cannot contain NUL."));
    }
    Ok(())
}
