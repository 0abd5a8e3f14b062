//! `ListObjectsV2`.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Response;
use jiff::Timestamp;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::super::wire::error::ApiError;
use super::super::wire::xml::Xml;
use super::asked::Asked;
use super::error::{header_not_implemented, invalid_argument};
use super::objects::quoted;
use super::spool::broken;
use super::store::Meta;
use super::{Content, OWNER, S3, answer};

/// Keys in one answer.
const MOST: usize = 1000;
/// What `encoding-type=url` leaves as it is.
const URL: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'/');

/// One line of a listing.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    Object(&'a Meta),
    /// All keys up to the next delimiter.
    Common(&'a str),
}

impl S3<'_> {
    pub(super) fn list_objects(&self, mut asked: Asked) -> Result<Response<Content>, ApiError> {
        self.bucket(&asked.bucket)?;
        asked.parameter("list-type");
        let text =
            |asked: &mut Asked, name: &str| asked.parameter(name).filter(|value| !value.is_empty());
        let prefix = text(&mut asked, "prefix").unwrap_or_default();
        let delimiter = text(&mut asked, "delimiter");
        let start_after = text(&mut asked, "start-after");
        let token = asked.parameter("continuation-token");
        let after = match &token {
            Some(token) => Some(decode_token(token)?),
            None => start_after.clone(),
        };
        let asked_for = asked.number::<u32>("max-keys")?;
        let max = asked_for.map_or(MOST, |max| usize::try_from(max).unwrap_or(MOST).min(MOST));
        let with_owner = match asked.parameter("fetch-owner").as_deref() {
            None | Some("false") => false,
            Some("true") => true,
            Some(other) => {
                let message = "fetch-owner must be true or false";
                return Err(invalid_argument("fetch-owner", other, message));
            }
        };
        let encoding = text(&mut asked, "encoding-type");
        if let Some(other) = encoding.as_deref().filter(|one| *one != "url") {
            let message = "Invalid Encoding Method specified in Request";
            return Err(invalid_argument("encoding-type", other, message));
        }
        if let Some(value) = asked.header("x-amz-optional-object-attributes") {
            let name = "x-amz-optional-object-attributes";
            return Err(header_not_implemented(name, &value));
        }
        let bucket = asked.bucket.clone();
        asked.finish("ListObjectsV2")?;

        let all = self.buckets.list(&bucket, &prefix);
        let all = all.map_err(|error| broken(&error))?;
        let (lines, next) = page(&all, &prefix, delimiter.as_deref(), after.as_deref(), max);
        let shown = |key: &str| match encoding {
            Some(_) => Xml::text(utf8_percent_encode(key, URL)),
            None => Xml::text(key),
        };
        let mut body = Xml::children([
            ("Name", Xml::text(&bucket)),
            ("Prefix", shown(&prefix)),
            ("KeyCount", Xml::text(lines.len())),
            ("MaxKeys", Xml::text(max)),
            ("IsTruncated", Xml::text(next.is_some())),
        ])
        .with_some("Delimiter", delimiter.as_deref().map(shown))
        .with_some("StartAfter", start_after.as_deref().map(shown))
        .with_some("EncodingType", encoding.as_deref().map(Xml::text))
        .with_some("ContinuationToken", token.map(Xml::text))
        .with_some("NextContinuationToken", next.map(Xml::text));
        for line in &lines {
            body = match line {
                Line::Object(meta) => {
                    let owner = Xml::children([("ID", Xml::text(OWNER))]);
                    let one = Xml::children([
                        ("Key", shown(&meta.key)),
                        ("LastModified", Xml::text(stamp(meta.modified))),
                        ("ETag", Xml::text(quoted(&meta.etag))),
                        (
                            "ChecksumAlgorithm",
                            Xml::text(meta.checksum.algorithm.name()),
                        ),
                        ("ChecksumType", Xml::text(meta.checksum.kind())),
                        ("Size", Xml::text(meta.length)),
                        ("StorageClass", Xml::text("STANDARD")),
                    ]);
                    body.with(
                        "Contents",
                        one.with_some("Owner", with_owner.then_some(owner)),
                    )
                }
                Line::Common(prefix) => {
                    body.with("CommonPrefixes", Xml::children([("Prefix", shown(prefix))]))
                }
            };
        }
        Ok(answer("ListBucketResult", &body))
    }
}

/// The first lines behind `after`, and the token of what follows if there is more.
fn page<'a>(
    all: &'a [Meta],
    prefix: &str,
    delimiter: Option<&str>,
    after: Option<&str>,
    max: usize,
) -> (Vec<Line<'a>>, Option<String>) {
    let mut lines: Vec<Line<'a>> = Vec::new();
    let mut last = None;
    for meta in all {
        let key = meta.key.as_str();
        let common = delimiter.and_then(|delimiter| {
            let at = key[prefix.len()..].find(delimiter)?;
            Some(&key[..prefix.len() + at + delimiter.len()])
        });
        let name = common.unwrap_or(key);
        // Behind a prefix that was shown nothing of it is shown again.
        let shown = common.is_some_and(|common| lines.last() == Some(&Line::Common(common)));
        if shown || after.is_some_and(|after| name <= after) {
            continue;
        }
        if lines.len() == max {
            // Of no keys at all there is no more.
            return (lines, last.map(encode_token));
        }
        lines.push(common.map_or(Line::Object(meta), Line::Common));
        last = Some(name);
    }
    (lines, None)
}

/// Where a listing goes on: opaque to clients.
pub(crate) fn encode_token(last: &str) -> String {
    format!("1{}", URL_SAFE_NO_PAD.encode(last))
}

pub(crate) fn decode_token(token: &str) -> Result<String, ApiError> {
    token
        .strip_prefix('1')
        .and_then(|text| URL_SAFE_NO_PAD.decode(text).ok())
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(|| {
            let message = "The continuation token provided is incorrect";
            invalid_argument("continuation-token", token, message)
        })
}

/// A time as XML has it.
pub(super) fn stamp(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::super::checksum::{Algorithm, Checksum};
    use super::*;

    fn walk(keys: &[&str], prefix: &str, delimiter: Option<&str>, max: usize) -> Vec<Vec<String>> {
        let checksum = Checksum {
            algorithm: Algorithm::Crc32,
            value: String::new(),
        };
        let meta = |key: &&str| Meta {
            key: (*key).to_owned(),
            length: 0,
            etag: String::new(),
            modified: Timestamp::UNIX_EPOCH,
            headers: vec![],
            checksum: checksum.clone(),
        };
        let all: Vec<Meta> = keys
            .iter()
            .filter(|key| key.starts_with(prefix))
            .map(meta)
            .collect();
        let mut pages = Vec::new();
        let mut after = None;
        loop {
            let (lines, next) = page(&all, prefix, delimiter, after.as_deref(), max);
            pages.push(
                lines
                    .iter()
                    .map(|line| match line {
                        Line::Object(meta) => meta.key.clone(),
                        Line::Common(prefix) => format!("{prefix}*"),
                    })
                    .collect(),
            );
            match next {
                Some(token) => after = Some(decode_token(&token).unwrap()),
                None => return pages,
            }
        }
    }

    #[test]
    fn a_listing_in_pages_shows_each_line_once() {
        let keys = ["a", "b/1", "b/2", "b/c/3", "d", "e/4"];
        assert_eq!(walk(&keys, "", None, 10), [keys.map(str::to_owned)]);
        assert_eq!(
            walk(&keys, "", Some("/"), 2),
            [vec!["a", "b/*"], vec!["d", "e/*"]]
        );
        assert_eq!(
            walk(&keys, "b/", Some("/"), 1),
            [["b/1"], ["b/2"], ["b/c/*"]]
        );
        assert_eq!(walk(&keys, "", Some("/"), 0), [Vec::<String>::new()]);
        assert_eq!(decode_token("odd").unwrap_err().code, "InvalidArgument");
    }
}
