//! The head of a request to S3: bucket, key, parameters and headers. What no operation takes is refused by name.

use std::collections::BTreeMap;
use std::str::FromStr;

use http::{Method, Request, StatusCode};
use percent_encoding::percent_decode_str;

use super::super::ACCOUNT_ID;
use super::super::wire::error::ApiError;
use super::error::{
    access_denied, error, header_not_implemented, invalid_argument, not_implemented,
};

/// Bytes of the longest key.
const KEY_LIMIT: usize = 1024;

/// What is asked for.
#[derive(Debug)]
pub struct Asked {
    pub method: Method,
    /// Empty: the account's buckets.
    pub bucket: String,
    /// Empty: the bucket itself.
    pub key: String,
    query: BTreeMap<String, String>,
    /// Those of S3, and the others of HTTP that mean something to it, in small letters.
    headers: BTreeMap<String, String>,
}

/// Headers of HTTP that an object is put with and given out with.
pub const KEPT: [&str; 6] = [
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-type",
    "expires",
];
/// Further ones that operations honour or refuse; all others are nothing to S3.
const HTTP: [&str; 6] = [
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-unmodified-since",
    "range",
    "content-md5",
];
/// What belongs to signature and transport.
const WIRE: [&str; 7] = [
    "x-amz-content-sha256",
    "x-amz-date",
    "x-amz-decoded-content-length",
    "x-amz-trailer",
    "x-amz-user-agent",
    "x-amz-sdk-checksum-algorithm",
    "x-amz-security-token",
];
const PRESIGNED: [&str; 7] = [
    "x-amz-algorithm",
    "x-amz-credential",
    "x-amz-date",
    "x-amz-expires",
    "x-amz-signedheaders",
    "x-amz-signature",
    "x-amz-content-sha256",
];

impl Asked {
    /// Reads the head of a request.
    ///
    /// # Errors
    /// `InvalidURI`, `KeyTooLongError`, or `AccessDenied` if the bucket is expected to be somebody else's.
    pub fn read<B>(request: &Request<B>) -> Result<Self, ApiError> {
        let host = request.headers().get("host");
        let host = match host.and_then(|host| host.to_str().ok()) {
            Some(host) => host,
            None => request.uri().authority().map_or("", |host| host.as_str()),
        };
        let decode = |text: &str| {
            let text = percent_decode_str(text).decode_utf8();
            text.map(std::borrow::Cow::into_owned).map_err(|_| {
                error(
                    StatusCode::BAD_REQUEST,
                    "InvalidURI",
                    "Couldn't parse the specified URI.",
                )
            })
        };
        let path = request.uri().path();
        let path = path.strip_prefix('/').unwrap_or(path);
        let (bucket, key) = match virtual_bucket(host) {
            Some(bucket) => (bucket.to_owned(), decode(path)?),
            None => {
                let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
                (decode(bucket)?, decode(key)?)
            }
        };
        if key.len() > KEY_LIMIT {
            let message = "Your key is too long";
            return Err(error(StatusCode::BAD_REQUEST, "KeyTooLongError", message)
                .with("Size", key.len())
                .with("MaxSizeAllowed", KEY_LIMIT));
        }
        let mut asked = Self {
            method: request.method().clone(),
            bucket,
            key,
            query: BTreeMap::new(),
            headers: BTreeMap::new(),
        };
        for (name, value) in request.headers() {
            let name = name.as_str();
            let counts = name.starts_with("x-amz-") && !WIRE.contains(&name);
            if counts || KEPT.contains(&name) || HTTP.contains(&name) {
                let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
                // Of one that comes several times, what HTTP makes of it.
                let there = asked.headers.entry(name.to_owned()).or_default();
                if !there.is_empty() {
                    there.push(',');
                }
                there.push_str(value.trim());
            }
        }
        let query = request.uri().query().unwrap_or_default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let small = name.to_ascii_lowercase();
            if PRESIGNED.contains(&small.as_str()) || small == "x-id" {
                continue;
            }
            // Those who presign a URL put headers there; a checksum in a URL would be one of a body that is not known yet.
            let checksum = asked.method == Method::PUT && small.starts_with("x-amz-checksum-");
            if small.starts_with("x-amz-") && !checksum {
                asked.headers.insert(small, value.into_owned());
            } else if asked
                .query
                .insert(name.clone().into_owned(), value.into_owned())
                .is_some()
            {
                let message = format!("The parameter {name} is given more than once");
                return Err(invalid_argument(&name, "", message));
            }
        }
        asked.expected_owner()?;
        Ok(asked)
    }

    /// All is owned by the one account.
    fn expected_owner(&mut self) -> Result<(), ApiError> {
        match self.header("x-amz-expected-bucket-owner") {
            Some(owner) if owner != ACCOUNT_ID => {
                let well_formed = owner.len() == 12 && owner.bytes().all(|c| c.is_ascii_digit());
                Err(if well_formed {
                    access_denied("Access Denied")
                } else {
                    error(
                        StatusCode::BAD_REQUEST,
                        "InvalidBucketOwnerAWSAccountID",
                        "The value of the expected bucket owner parameter must be an AWS account ID",
                    )
                })
            }
            _ => Ok(()),
        }
    }

    /// Whether there is this parameter.
    pub fn has(&self, name: &str) -> bool {
        self.query.contains_key(name)
    }

    /// A parameter that is none of these.
    pub fn unknown(&self, known: &[&str]) -> Option<&str> {
        let mut names = self.query.keys().map(String::as_str);
        names.find(|name| !known.contains(name))
    }

    /// A header, which stays.
    pub fn peek(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// Takes a parameter.
    pub fn parameter(&mut self, name: &str) -> Option<String> {
        self.query.remove(name)
    }

    /// Takes a number.
    ///
    /// # Errors
    /// `InvalidArgument`.
    pub fn number<T: FromStr>(&mut self, name: &str) -> Result<Option<T>, ApiError> {
        let Some(text) = self.parameter(name) else {
            return Ok(None);
        };
        let number = text.parse().map_err(|_| {
            let message = format!("Provided {name} not an integer or within integer range");
            invalid_argument(name, &text, message)
        });
        number.map(Some)
    }

    /// Takes a header.
    pub fn header(&mut self, name: &str) -> Option<String> {
        self.headers.remove(name)
    }

    /// Takes the headers whose names satisfy `wanted`.
    pub fn headers(&mut self, wanted: impl Fn(&str) -> bool) -> Vec<(String, String)> {
        let names: Vec<String> = self
            .headers
            .keys()
            .filter(|name| wanted(name))
            .cloned()
            .collect();
        names
            .into_iter()
            .filter_map(|name| self.headers.remove_entry(&name))
            .collect()
    }

    /// Refuses what no operation took. Headers of HTTP that mean nothing to an operation are nothing to S3 either, and
    /// are let be.
    ///
    /// # Errors
    /// `NotImplemented` that names it.
    pub fn finish(mut self, operation: &str) -> Result<(), ApiError> {
        // Nobody pays for requests here.
        if let Some(payer) = self.header("x-amz-request-payer")
            && payer != "requester"
        {
            let message = "The only valid value for x-amz-request-payer is requester";
            return Err(invalid_argument("x-amz-request-payer", &payer, message));
        }
        let header = self
            .headers
            .iter()
            .find(|(name, _)| name.starts_with("x-amz-"));
        if let Some((name, value)) = header {
            return Err(header_not_implemented(name, value));
        }
        match self.query.keys().next() {
            Some(name) => Err(not_implemented(&format!(
                "the parameter {name} of {operation}"
            ))),
            None => Ok(()),
        }
    }
}

/// The bucket that a host name is of: `bucket.s3.region.amazonaws.com`, `bucket.s3.amazonaws.com`, `bucket.localhost`.
fn virtual_bucket(host: &str) -> Option<&str> {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|c| c.is_ascii_digit()) => name,
        _ => host,
    };
    let at = name.rfind(".s3.").or_else(|| name.rfind(".s3-"));
    let bucket = match at {
        Some(at) => Some(&name[..at]),
        None => name.strip_suffix(".localhost"),
    };
    bucket.filter(|bucket| !bucket.is_empty() && *bucket != "s3")
}

/// Whether a name can be one of a bucket ("General purpose bucket naming rules", S3 User Guide).
pub fn is_bucket_name(name: &str) -> bool {
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = name.as_bytes();
    let ends = bytes.first().zip(bytes.last());
    (3..=63).contains(&bytes.len())
        && bytes.iter().all(|c| plain(*c) || b".-".contains(c))
        && ends.is_some_and(|(first, last)| plain(*first) && plain(*last))
        && !name.contains("..")
        && name.parse::<std::net::Ipv4Addr>().is_err()
        && !["xn--", "sthree-", "amzn-s3-demo-"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
        && !["-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3"]
            .iter()
            .any(|suffix| name.ends_with(suffix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_may_be_in_the_host() {
        for (host, bucket) in [
            ("web.s3.eu-west-1.amazonaws.com", Some("web")),
            ("web.of.dots.s3.amazonaws.com:443", Some("web.of.dots")),
            ("web.s3-eu-west-1.amazonaws.com", Some("web")),
            ("web.localhost:4599", Some("web")),
            ("web.s3.localhost:4599", Some("web")),
            ("s3.eu-west-1.amazonaws.com", None),
            ("s3.localhost", None),
            ("localhost:4599", None),
            ("127.0.0.1:4599", None),
            ("169.254.169.254:4599", None),
            ("", None),
        ] {
            assert_eq!(virtual_bucket(host), bucket, "{host}");
        }
    }

    #[test]
    fn names_of_buckets_have_rules() {
        for name in ["abc", "my.bucket-1", &"a".repeat(63)] {
            assert!(is_bucket_name(name), "{name}");
        }
        for name in [
            "ab",
            "..",
            "Abc",
            "a_b",
            "-ab",
            "ab.",
            "a..b",
            "192.168.5.4",
            "xn--abc",
            "abc-s3alias",
            &"a".repeat(64),
        ] {
            assert!(!is_bucket_name(name), "{name}");
        }
    }

    #[test]
    fn what_nobody_takes_is_named() {
        let request = Request::builder()
            .uri("/web/a%20key?x-id=PutObject&X-Amz-Checksum-Mode=ENABLED&X-Amz-Expires=1&odd=1")
            .header("x-amz-acl", "private")
            .header("accept", "x")
            .body(())
            .unwrap();
        let mut asked = Asked::read(&request).unwrap();
        assert_eq!(
            (asked.bucket.as_str(), asked.key.as_str()),
            ("web", "a key")
        );
        assert_eq!(
            asked.header("x-amz-checksum-mode").as_deref(),
            Some("ENABLED")
        );
        assert_eq!(asked.header("accept"), None);
        let acl = asked.header("x-amz-acl");
        assert_eq!(acl.as_deref(), Some("private"));
        let error = asked.finish("PutObject").unwrap_err();
        assert!(error.message.contains("odd"), "{error}");
    }
}
