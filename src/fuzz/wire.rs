//! The decoders of the local cloud's wire, and its writer of XML: each gets the same bytes.

use bytes::Bytes;
use http::Request;

use super::xml::well_formed;
use crate::localcloud::SECRET_KEY;
use crate::localcloud::wire::query::Params;
use crate::localcloud::wire::sigv4::Authorization;
use crate::localcloud::wire::xml::{Xml, document};
use crate::localcloud::wire::{Service, error::ApiError, json};

pub fn run(input: &[u8]) {
    query(input);
    if let Err(error) = json::input::<serde_json::Value>(input) {
        answer(&error);
    }
    let text = String::from_utf8_lossy(input);
    let xml = Xml::children([
        ("a", Xml::text(&text)),
        ("b", Xml::list([Xml::text(&text)])),
    ]);
    well_formed(&document(
        "R",
        Some("http://ec2.amazonaws.com/doc/2016-11-15/"),
        &xml,
    ))
    .unwrap_or_else(|why| panic!("{why}"));
    answer(&ApiError::new("Code", text.as_ref()));
    if let Some(request) = request(&text)
        && let Ok(authorization) = Authorization::read(&request)
    {
        // Nobody signs by chance; what counts is that it comes to an end.
        let _ = authorization.verify(&request, SECRET_KEY);
    }
}

fn query(input: &[u8]) {
    let mut params = match Params::parse(input) {
        Ok(params) => params,
        Err(error) => return answer(&error),
    };
    let names: Vec<String> = params.clone().into_map().into_keys().take(8).collect();
    for name in &names {
        let top = name.split('.').next().unwrap_or_default();
        for mut structure in params.clone().structures(top) {
            structure.texts("Value");
            if let Err(error) = structure.finish(top) {
                answer(&error);
            }
        }
        if let Err(error) = params.clone().parsed::<u32>(name) {
            answer(&error);
        }
        params.texts(top);
        let _ = params.structure(top);
    }
    if let Err(error) = params.finish("") {
        answer(&error);
    }
}

/// An error can be sent in every protocol.
fn answer(error: &ApiError) {
    for service in [Service::Ec2, Service::AutoScaling, Service::Sts] {
        let body = error.respond(service, "id").into_body();
        let text = std::str::from_utf8(&body).expect("an answer is text");
        well_formed(text).unwrap_or_else(|why| panic!("{why}: {text}"));
    }
    for service in [Service::Ssm, Service::ImageBuilder] {
        let body = error.respond(service, "id").into_body();
        serde_json::from_slice::<serde_json::Value>(&body).expect("an answer is JSON");
    }
}

/// `METHOD URI`, headers, an empty line, the body: as HTTP/1.1 has them.
pub fn request(text: &str) -> Option<Request<Bytes>> {
    let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
    let mut lines = head.lines();
    let (method, uri) = lines.next()?.split_once(' ')?;
    let mut request = Request::builder().method(method).uri(uri);
    for line in lines {
        let (name, value) = line.split_once(':')?;
        request = request.header(name.trim(), value.trim());
    }
    request.body(Bytes::from(body.to_owned())).ok()
}
