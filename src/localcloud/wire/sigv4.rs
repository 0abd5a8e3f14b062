//! AWS Signature Version 4, the server's side (IAM User Guide, "Create a signed AWS API request").

use std::collections::BTreeMap;
use std::fmt::Write as _;

use hmac::{Hmac, KeyInit, Mac};
use http::Request;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use sha2::{Digest, Sha256};

/// All but RFC 3986's unreserved characters.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// What a client says about its signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorization {
    pub access_key: String,
    /// `YYYYMMDD`
    pub date: String,
    pub region: String,
    pub service: String,
    signed_headers: Vec<String>,
    signature: String,
    /// The `X-Amz-Date` header as it came.
    stamp: String,
    /// The same, read.
    pub time: Timestamp,
    /// `X-Amz-Expires` as it came, where the signature is in the query (a presigned URL).
    pub expires: Option<String>,
    /// The session token, with credentials that have one.
    pub token: Option<String>,
}

/// A signature that cannot be read or is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// There is no `Authorization` header.
    Missing,
    /// The header is not one of Signature Version 4, or it lacks a part.
    Malformed,
    /// The signature is not the one this request and this secret give.
    Mismatch,
}

impl Authorization {
    /// Reads the `Authorization` and `X-Amz-Date` headers.
    ///
    /// # Errors
    /// [`Fault::Missing`] or [`Fault::Malformed`].
    pub fn read<B>(request: &Request<B>) -> Result<Self, Fault> {
        let header = |name: &str| {
            request
                .headers()
                .get(name)
                .and_then(|value| value.to_str().ok())
        };
        let authorization = header("authorization").ok_or(Fault::Missing)?;
        let parts = authorization
            .strip_prefix(ALGORITHM)
            .ok_or(Fault::Malformed)?;
        let mut fields = BTreeMap::new();
        for part in parts.split(',') {
            let (name, value) = part.trim().split_once('=').ok_or(Fault::Malformed)?;
            fields.insert(name, value);
        }
        let field = |name: &str| fields.get(name).copied().ok_or(Fault::Malformed);
        let stamp = header("x-amz-date").ok_or(Fault::Malformed)?;
        let read = Self::of_parts(
            field("Credential")?,
            field("SignedHeaders")?,
            field("Signature")?,
            stamp,
        )?;
        Ok(Self {
            token: header("x-amz-security-token").map(str::to_owned),
            ..read
        })
    }

    /// Reads the query of a presigned URL ("Authenticating Requests: Using Query Parameters", S3 API Reference).
    ///
    /// # Errors
    /// [`Fault::Missing`] if there is no `X-Amz-Algorithm`, [`Fault::Malformed`] if another part is missing or wrong.
    pub fn read_query<B>(request: &Request<B>) -> Result<Self, Fault> {
        let query = request.uri().query().unwrap_or_default();
        let fields: BTreeMap<_, _> = form_urlencoded::parse(query.as_bytes()).collect();
        let field = |name: &str| fields.get(name).map(AsRef::as_ref).ok_or(Fault::Malformed);
        match field("X-Amz-Algorithm") {
            Err(_) => return Err(Fault::Missing),
            Ok(ALGORITHM) => {}
            Ok(_) => return Err(Fault::Malformed),
        }
        let read = Self::of_parts(
            field("X-Amz-Credential")?,
            field("X-Amz-SignedHeaders")?,
            field("X-Amz-Signature")?,
            field("X-Amz-Date")?,
        )?;
        Ok(Self {
            expires: Some(field("X-Amz-Expires")?.to_owned()),
            token: field("X-Amz-Security-Token").ok().map(str::to_owned),
            ..read
        })
    }

    fn of_parts(
        credential: &str,
        signed_headers: &str,
        signature: &str,
        stamp: &str,
    ) -> Result<Self, Fault> {
        let scope: Vec<_> = credential.split('/').collect();
        let [access_key, date, region, service, "aws4_request"] = scope[..] else {
            return Err(Fault::Malformed);
        };
        let signed_headers: Vec<_> = signed_headers.split(';').map(str::to_owned).collect();
        if !stamp.starts_with(date) || !signed_headers.iter().any(|name| name == "host") {
            return Err(Fault::Malformed);
        }
        let time = DateTime::strptime("%Y%m%dT%H%M%SZ", stamp)
            .and_then(|time| TimeZone::UTC.to_timestamp(time))
            .map_err(|_| Fault::Malformed)?;
        Ok(Self {
            access_key: access_key.to_owned(),
            date: date.to_owned(),
            region: region.to_owned(),
            service: service.to_owned(),
            signed_headers,
            signature: signature.to_owned(),
            stamp: stamp.to_owned(),
            time,
            expires: None,
            token: None,
        })
    }

    /// Checks the signature of a request.
    ///
    /// # Errors
    /// [`Fault::Mismatch`].
    pub fn verify<B: AsRef<[u8]>>(&self, request: &Request<B>, secret: &str) -> Result<(), Fault> {
        let payload = hex::encode(Sha256::digest(request.body().as_ref()));
        self.verify_with(request, &payload, secret)
    }

    /// As [`Self::verify`], with what the client says of the payload: its SHA-256 in hex, or a constant in its place.
    ///
    /// # Errors
    /// [`Fault::Mismatch`].
    pub fn verify_with<B>(
        &self,
        request: &Request<B>,
        payload: &str,
        secret: &str,
    ) -> Result<(), Fault> {
        let canonical = self
            .canonical_request(request, payload)
            .ok_or(Fault::Mismatch)?;
        let scope = format!(
            "{}/{}/{}/aws4_request",
            self.date, self.region, self.service
        );
        let to_sign = format!(
            "{ALGORITHM}\n{}\n{scope}\n{}",
            self.stamp,
            hex::encode(Sha256::digest(canonical))
        );
        let mut key = format!("AWS4{secret}").into_bytes();
        for part in [
            self.date.as_str(),
            &self.region,
            &self.service,
            "aws4_request",
        ] {
            key = mac(&key, part.as_bytes()).finalize().into_bytes().to_vec();
        }
        let given = hex::decode(&self.signature).map_err(|_| Fault::Mismatch)?;
        // Constant-time, as `Mac` compares.
        mac(&key, to_sign.as_bytes())
            .verify_slice(&given)
            .map_err(|_| Fault::Mismatch)
    }

    /// `None` if a signed header is not there or not text.
    fn canonical_request<B>(&self, request: &Request<B>, payload: &str) -> Option<String> {
        let uri = request.uri();
        let mut out = format!("{}\n", request.method());
        // The path is encoded once more than on the wire (every service but S3).
        let path = uri.path().split('/').map(|part| {
            if self.service == "s3" {
                encode(part)
            } else {
                utf8_percent_encode(part, RESERVED).to_string()
            }
        });
        let _ = writeln!(out, "{}", path.collect::<Vec<_>>().join("/"));
        let query = uri.query().unwrap_or_default();
        let _ = writeln!(
            out,
            "{}",
            canonical_query(query, self.expires.is_some().then_some("X-Amz-Signature"))
        );
        for name in &self.signed_headers {
            let values: Vec<_> = if name == "host" && !request.headers().contains_key("host") {
                vec![uri.authority()?.as_str().to_owned()]
            } else {
                let values = request.headers().get_all(name).iter();
                values
                    .map(|value| value.to_str().map(squeeze))
                    .collect::<Result<_, _>>()
                    .ok()?
            };
            if values.is_empty() {
                return None;
            }
            let _ = writeln!(out, "{name}:{}", values.join(","));
        }
        let _ = write!(out, "\n{}\n", self.signed_headers.join(";"));
        out.push_str(payload);
        Some(out)
    }
}

/// HMAC-SHA256 of `data` so far.
pub(in super::super) fn mac(key: &[u8], data: &[u8]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(data);
    mac
}

/// Trims, and makes one space of several.
fn squeeze(value: &str) -> String {
    value
        .split(' ')
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

/// What came encoded in whatever way, encoded as signatures have it.
fn encode(text: &str) -> String {
    let raw: Vec<u8> = percent_decode_str(text).collect();
    percent_encoding::percent_encode(&raw, RESERVED).to_string()
}

/// The parameters in order, but for `without`.
fn canonical_query(query: &str, without: Option<&str>) -> String {
    let mut pairs: Vec<_> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (encode(name), encode(value))
        })
        .filter(|(name, _)| Some(name.as_str()) != without)
        .collect();
    pairs.sort();
    pairs
        .into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect::<Vec<_>>()
        .join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "Authenticating Requests: Using Query Parameters" and "Authorization Header", S3 API Reference: the examples.
    #[test]
    fn the_examples_of_s3_verify() {
        const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
        let url = "/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2F\
                   us-east-1%2Fs3%2Faws4_request&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=\
                   host&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404";
        let presigned = Request::builder()
            .uri(url)
            .header("host", "examplebucket.s3.amazonaws.com")
            .body(())
            .unwrap();
        let read = Authorization::read_query(&presigned).unwrap();
        assert_eq!(read.expires.as_deref(), Some("86400"));
        read.verify_with(&presigned, "UNSIGNED-PAYLOAD", SECRET)
            .unwrap();

        let payload = "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072";
        let put = Request::builder()
            .method("PUT")
            // Encoded in another way than the signature has it: `$` is reserved there.
            .uri("/test$file.text")
            .header("host", "examplebucket.s3.amazonaws.com")
            .header("date", "Fri, 24 May 2013 00:00:00 GMT")
            .header("x-amz-date", "20130524T000000Z")
            .header("x-amz-storage-class", "REDUCED_REDUNDANCY")
            .header("x-amz-content-sha256", payload)
            .header(
                "authorization",
                "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,SignedHeaders=\
                 date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class,Signature=\
                 98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
            )
            .body(())
            .unwrap();
        let read = Authorization::read(&put).unwrap();
        read.verify_with(&put, payload, SECRET).unwrap();
        let other = payload.replace("44ce", "44cf");
        assert_eq!(read.verify_with(&put, &other, SECRET), Err(Fault::Mismatch));
    }

    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

    /// A vector of the AWS Signature Version 4 test suite.
    fn vector(uri: &str, signature: &str) -> Request<&'static [u8]> {
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
             SignedHeaders=host;x-amz-date, Signature={signature}"
        );
        Request::builder()
            .uri(uri)
            .header("host", "example.amazonaws.com")
            .header("x-amz-date", "20150830T123600Z")
            .header("authorization", authorization)
            .body(&b""[..])
            .unwrap()
    }

    #[test]
    fn the_published_vectors_verify() {
        let vanilla = "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31";
        let ordered = "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500";
        for (uri, signature) in [("/", vanilla), ("/?Param2=value2&Param1=value1", ordered)] {
            let request = vector(uri, signature);
            let authorization = Authorization::read(&request).unwrap();
            assert_eq!(authorization.service, "service");
            assert_eq!(authorization.time.to_string(), "2015-08-30T12:36:00Z");
            authorization.verify(&request, SECRET).unwrap();
            assert_eq!(
                authorization.verify(&request, "other"),
                Err(Fault::Mismatch)
            );
        }
    }

    #[test]
    fn a_changed_request_does_not_verify() {
        let vanilla = "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31";
        let request = vector("/?a=b", vanilla);
        assert_eq!(
            Authorization::read(&request)
                .unwrap()
                .verify(&request, SECRET),
            Err(Fault::Mismatch)
        );
        let mut bare = vector("/", vanilla);
        bare.headers_mut().remove("authorization");
        assert_eq!(Authorization::read(&bare), Err(Fault::Missing));
    }
}
