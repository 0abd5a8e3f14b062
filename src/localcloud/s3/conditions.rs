//! Ranges and conditions of reads and writes ("GetObject" and "PutObject", S3 API Reference; RFC 9110, 13 and 14).

use http::StatusCode;
use jiff::Timestamp;

use super::super::wire::error::ApiError;
use super::asked::Asked;
use super::error::{error, no_such_key, not_implemented, precondition_failed};
use super::store::Meta;

/// Bytes of an object that are asked for: the first and how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    pub offset: u64,
    pub length: u64,
}

/// Whether an entity tag is in a list of such, or the list is `*`.
fn names(list: &str, etag: &str) -> bool {
    list.split(',').map(str::trim).any(|one| {
        let one = one.strip_prefix("W/").unwrap_or(one);
        one == "*" || one.trim_matches('"') == etag
    })
}

/// A date of HTTP; one that cannot be read is none (RFC 9110, 13.1.3).
fn date(text: &str) -> Option<Timestamp> {
    jiff::fmt::rfc2822::parse(text)
        .ok()
        .map(|time| time.timestamp())
        .or_else(|| text.parse().ok())
}

/// Takes the conditions of a read.
///
/// # Errors
/// `PreconditionFailed`; `NotModified` (304), which has no body.
pub fn read(asked: &mut Asked, meta: &Meta) -> Result<(), ApiError> {
    let mut header = |name: &str| asked.header(name);
    let (matches, none_match) = (header("if-match"), header("if-none-match"));
    let (since, unmodified) = (header("if-modified-since"), header("if-unmodified-since"));
    // Dates of HTTP have whole seconds.
    let modified = meta.modified.as_second();
    match (matches, unmodified.as_deref().and_then(date)) {
        (Some(list), _) if !names(&list, &meta.etag) => {
            return Err(precondition_failed("If-Match"));
        }
        (None, Some(time)) if modified > time.as_second() => {
            return Err(precondition_failed("If-Unmodified-Since"));
        }
        _ => {}
    }
    let unchanged = match (none_match, since.as_deref().and_then(date)) {
        (Some(list), _) => names(&list, &meta.etag),
        (None, Some(time)) => modified <= time.as_second(),
        (None, None) => false,
    };
    if unchanged {
        return Err(error(
            StatusCode::NOT_MODIFIED,
            "NotModified",
            "Not Modified",
        ));
    }
    Ok(())
}

/// The conditions of a write.
#[derive(Debug, Default)]
pub struct Write {
    matches: Option<String>,
    none_match: bool,
}

impl Write {
    /// Takes them.
    ///
    /// # Errors
    /// `NotImplemented`: S3 knows `If-None-Match` with `*` only.
    pub fn take(asked: &mut Asked) -> Result<Self, ApiError> {
        let none_match = match asked.header("if-none-match").as_deref() {
            None => false,
            Some("*") => true,
            Some(other) => {
                return Err(not_implemented(&format!(
                    "If-None-Match {other} of writes, but * only,"
                )));
            }
        };
        Ok(Self {
            matches: asked.header("if-match"),
            none_match,
        })
    }

    /// Looks whether they hold of what is there.
    ///
    /// # Errors
    /// `PreconditionFailed`, or `NoSuchKey` if what is to match is not there.
    pub fn check(&self, key: &str, there: Option<&Meta>) -> Result<(), ApiError> {
        match (&self.matches, there) {
            (Some(_), None) => return Err(no_such_key(key)),
            (Some(list), Some(there)) if !names(list, &there.etag) => {
                return Err(precondition_failed("If-Match"));
            }
            _ => {}
        }
        if self.none_match && there.is_some() {
            return Err(precondition_failed("If-None-Match"));
        }
        Ok(())
    }
}

/// What a `Range` asks for; `None`: all. A range that cannot be read, and one of several parts, is none.
///
/// # Errors
/// `InvalidRange` (416) if nothing of it is there.
pub fn range(header: Option<&str>, length: u64) -> Result<Option<Part>, ApiError> {
    let Some((first, last)) = header
        .and_then(|text| text.strip_prefix("bytes="))
        .filter(|text| !text.contains(','))
        .and_then(|text| text.trim().split_once('-'))
    else {
        return Ok(None);
    };
    let (first, last) = (first.trim(), last.trim());
    let part = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) if last < first => return Ok(None),
        (Ok(first), Ok(last)) => Part {
            offset: first,
            length: last.saturating_add(1).min(length).saturating_sub(first),
        },
        (Ok(first), Err(_)) if last.is_empty() => Part {
            offset: first,
            length: length.saturating_sub(first),
        },
        (Err(_), Ok(count)) if first.is_empty() => Part {
            offset: length.saturating_sub(count),
            length: count.min(length),
        },
        _ => return Ok(None),
    };
    if part.length == 0 {
        let message = "The requested range is not satisfiable";
        return Err(
            error(StatusCode::RANGE_NOT_SATISFIABLE, "InvalidRange", message)
                .with("RangeRequested", header.unwrap_or_default())
                .with("ActualObjectSize", length),
        );
    }
    Ok(Some(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let of = |text: &str| {
            let part = range(Some(text), 10).map_err(|error| error.code);
            part.map(|part| part.map(|part| (part.offset, part.length)))
        };
        assert_eq!(of("bytes=0-3"), Ok(Some((0, 4))));
        assert_eq!(of("bytes=8-99"), Ok(Some((8, 2))));
        assert_eq!(of("bytes=8-"), Ok(Some((8, 2))));
        assert_eq!(of("bytes=-3"), Ok(Some((7, 3))));
        assert_eq!(of("bytes=-99"), Ok(Some((0, 10))));
        assert_eq!(of("bytes=10-"), Err("InvalidRange".into()));
        assert_eq!(of("bytes=-0"), Err("InvalidRange".into()));
        for whole in [
            "bytes=3-1",
            "bytes=0-1,3-4",
            "lines=0-1",
            "bytes=x-1",
            "bytes=1-x",
            "bytes=-",
        ] {
            assert_eq!(of(whole), Ok(None), "{whole}");
        }
        assert_eq!(range(None, 0).unwrap(), None);
    }
}
