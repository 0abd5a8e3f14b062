//! XML answers.

use std::fmt::Write as _;

use bytes::Bytes;
use http::{Response, StatusCode};

/// What an element holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Xml {
    Text(String),
    Children(Vec<(&'static str, Xml)>),
}

impl Xml {
    /// A text element.
    pub fn text(value: impl ToString) -> Self {
        Self::Text(value.to_string())
    }

    /// An element of elements.
    pub fn children(children: impl IntoIterator<Item = (&'static str, Self)>) -> Self {
        Self::Children(children.into_iter().collect())
    }

    /// A list as ec2Query writes it: one `item` for each element.
    pub fn list(items: impl IntoIterator<Item = Self>) -> Self {
        Self::children(items.into_iter().map(|item| ("item", item)))
    }

    /// A list as awsQuery writes it: one `member` for each element.
    pub fn members(items: impl IntoIterator<Item = Self>) -> Self {
        Self::children(items.into_iter().map(|item| ("member", item)))
    }

    /// Adds a child; on text it does nothing.
    #[must_use]
    pub fn with(mut self, name: &'static str, child: Self) -> Self {
        if let Self::Children(children) = &mut self {
            children.push((name, child));
        }
        self
    }

    /// Adds a child if there is one.
    #[must_use]
    pub fn with_some(self, name: &'static str, child: Option<Self>) -> Self {
        match child {
            Some(child) => self.with(name, child),
            None => self,
        }
    }

    fn write(&self, out: &mut String) {
        match self {
            Self::Text(text) => escape(text, out),
            Self::Children(children) => {
                for (name, child) in children {
                    let _ = write!(out, "<{name}>");
                    child.write(out);
                    let _ = write!(out, "</{name}>");
                }
            }
        }
    }
}

/// Escapes text; a character that XML 1.0 forbids (section 2.2, "Char") becomes U+FFFD.
fn escape(text: &str, out: &mut String) {
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\r' => out.push_str("&#xD;"),
            '\t' | '\n' => out.push(character),
            '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            other => out.push(other),
        }
    }
}

/// A whole document.
#[must_use]
pub fn document(root: &str, namespace: Option<&str>, body: &Xml) -> String {
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let attribute = namespace
        .map(|uri| format!(" xmlns=\"{uri}\""))
        .unwrap_or_default();
    let _ = write!(out, "<{root}{attribute}>");
    body.write(&mut out);
    let _ = write!(out, "</{root}>");
    out
}

/// A whole answer of awsQuery: the result below `<action>Result`, where the operation has one, and the metadata.
#[must_use]
pub fn wrapped(action: &str, namespace: &str, result: Option<&Xml>, metadata: &Xml) -> String {
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let _ = write!(out, "<{action}Response xmlns=\"{namespace}\">");
    if let Some(result) = result {
        let _ = write!(out, "<{action}Result>");
        result.write(&mut out);
        let _ = write!(out, "</{action}Result>");
    }
    Xml::children([("ResponseMetadata", metadata.clone())]).write(&mut out);
    let _ = write!(out, "</{action}Response>");
    out
}

/// A response with an XML body.
#[must_use]
pub fn response(status: StatusCode, request_id: &str, body: &str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body.to_owned()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static("text/xml;charset=UTF-8"),
    );
    if let Ok(id) = request_id.parse() {
        headers.insert("x-amzn-requestid", id);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_and_stays_well_formed() {
        let body = Xml::children([
            ("a", Xml::text("1 < 2 & \"3\"\u{0}")),
            ("set", Xml::list([Xml::text("x")])),
        ]);
        let text = document("R", Some("urn:x"), &body);
        assert!(text.ends_with(
            "<R xmlns=\"urn:x\"><a>1 &lt; 2 &amp; &quot;3&quot;\u{fffd}</a><set><item>x</item></set></R>"
        ));
    }
}
