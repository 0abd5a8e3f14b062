//! What the local cloud's S3 reads: an HTTP request as `wire` has it, whose body is chunks, XML or neither.

use bytes::Bytes;
use http::{Request, Response};
use jiff::Timestamp;

use super::xml::well_formed;
use crate::localcloud::s3::chunked::{Decoder, Malformed};
use crate::localcloud::s3::{asked::Asked, auth, buckets, conditions, list, parts};
use crate::localcloud::sessions;
use crate::localcloud::wire::error::ApiError;
use crate::localcloud::wire::sigv4::Authorization;
use crate::localcloud::wire::{Service, page_token};

pub fn run(input: &[u8]) {
    chunks(input);
    let text = String::from_utf8_lossy(input);
    tokens(&text);
    let Some(request) = super::wire::request(&text) else {
        return;
    };
    let _ = auth::is_ours(&request);
    head(&request);
    presigned(&request);
    let body = request.body();
    match parts::listed(body) {
        Ok(list) => assert!(!list.is_empty() && list.len() <= body.len()),
        Err(error) => answer(&error),
    }
    if let Err(error) = buckets::location(body) {
        answer(&error);
    }
    if let Some(range) = request.headers().get("range") {
        ranges(range.to_str().ok());
    }
}

/// An encoded body gives the same in pieces of any size, and never more than there is.
fn chunks(body: &[u8]) {
    let decode = |step: usize| {
        let (mut decoder, mut out) = (Decoder::default(), Vec::new());
        for piece in body.chunks(step) {
            decoder.push(piece, |bytes| {
                out.extend_from_slice(bytes);
                Ok::<_, Malformed>(())
            })?;
        }
        Ok::<_, Malformed>((out, decoder.finish()?))
    };
    let whole = decode(body.len().max(1));
    for step in [1, 5] {
        assert_eq!(decode(step), whole);
    }
    if let Ok((out, trailers)) = whole {
        assert!(out.len() <= body.len() && trailers.len() <= body.len());
        let mut again = format!("{:x}\r\n", out.len()).into_bytes();
        if !out.is_empty() {
            again.extend(&out);
            again.extend(b"\r\n0\r\n");
        }
        again.extend(b"\r\n");
        let mut read = Vec::new();
        let mut decoder = Decoder::default();
        let taken = decoder.push(&again, |bytes| {
            read.extend_from_slice(bytes);
            Ok::<_, Malformed>(())
        });
        assert!(taken.is_ok() && decoder.finish().is_ok() && read == out);
    }
}

fn tokens(text: &str) {
    match list::decode_token(text) {
        Ok(key) => assert_eq!(list::encode_token(&key), text),
        Err(error) => answer(&error),
    }
    let token = list::encode_token(text);
    assert_eq!(list::decode_token(&token).ok().as_deref(), Some(text));
    let sealed = page_token::seal("List", text);
    assert_eq!(page_token::open("List", &sealed).as_deref(), Some(text));
    assert_eq!(page_token::open("List", text), None, "nobody guesses one");
    assert_eq!(sessions::read(text), None, "nobody guesses one");
}

fn head(request: &Request<Bytes>) {
    match Asked::read(request) {
        Ok(asked) => assert!(asked.key.len() <= 1024),
        Err(error) => answer(&error),
    }
}

fn presigned(request: &Request<Bytes>) {
    for read in [
        Authorization::read_query(request),
        Authorization::read(request),
    ] {
        let Ok(authorization) = read else { continue };
        let now = Timestamp::from_second(1_767_268_800).expect("2026 is a year");
        // The time of the request itself is in time for it.
        for now in [now, authorization.time] {
            let expires = authorization.expires.as_deref().unwrap_or("60");
            if let Err(error) = auth::in_time(&authorization, expires, now) {
                answer(&error);
            }
        }
        if let Err(error) = auth::not_skewed(&authorization, now) {
            answer(&error);
        }
    }
}

/// What is to be sent lies within what is there.
fn ranges(header: Option<&str>) {
    for length in [0, 1, 10, u64::MAX] {
        match conditions::range(header, length) {
            Ok(Some(part)) => {
                let end = part.offset.checked_add(part.length);
                assert!(part.length > 0 && end.is_some_and(|end| end <= length));
            }
            Ok(None) => {}
            Err(error) => answer(&error),
        }
    }
}

/// An error can be sent.
fn answer(error: &ApiError) {
    let response: Response<Bytes> = error.respond(Service::S3, "id");
    let text = std::str::from_utf8(response.body()).expect("an answer is text");
    if !text.is_empty() {
        well_formed(text).unwrap_or_else(|why| panic!("{why}: {text}"));
    }
}
