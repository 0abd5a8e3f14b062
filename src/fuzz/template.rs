//! A template of a script and a value: what is accepted makes each value one word of the shell, whatever is in it.
//!
//! The input is the value, a NUL, and the template, where the value is `v`. The script is read (`shell`) as it is with
//! the value and as it is with a harmless one. It must be the same script, with that word in the place of the other.

use std::path::Path;

use super::shell::{Piece, Shell, read};
use crate::recipe::diagnostic::Diagnostics;
use crate::recipe::model::Value;
use crate::render::origin::Origin;
use crate::render::tags::{Dialect, TagKind, scan};
use crate::render::template::Renderer;

/// No template writes it by chance.
const HARMLESS: &str = "\u{e000}harmless\u{e001}";
/// For inputs without a value of their own.
const HOSTILE: &str = "'\"`$(id)\n}\n)#\\ E\n;";

pub fn run(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let (value, template) = text.split_once('\0').unwrap_or((HOSTILE, &text));
    for dialect in [Dialect::Plain, Dialect::Script] {
        let hostile = render(value, template, dialect);
        let tags = scan(template, dialect);
        // Filters and statements may do as they like with a value; then only its quoting could be judged, and no text
        // tells where it went.
        let judged = dialect == Dialect::Script
            && !template.contains(['\u{e000}', '\r', '\0'])
            && !value.contains('\0')
            && tags.iter().any(|tag| tag.kind == TagKind::Value)
            && tags
                .iter()
                .all(|tag| tag.kind == TagKind::Value && &template[tag.inner.clone()] == "v");
        let Some(hostile) = hostile.filter(|_| judged) else {
            continue;
        };
        let harmless =
            render(HARMLESS, template, dialect).expect("another value changes no syntax");
        for shell in [Shell::Posix, Shell::Bash] {
            let Some(expected) = read(&harmless, shell) else {
                continue;
            };
            let expected = with(&expected, value);
            assert_eq!(
                read(&hostile, shell),
                Some(expected),
                "{shell:?} reads another script\n--- template\n{template}\n--- rendered\n{hostile}"
            );
        }
    }
}

fn render(value: &str, template: &str, dialect: Dialect) -> Option<String> {
    let parameters = [("v".to_owned(), Value::String(value.to_owned()))].into();
    let mut found = Diagnostics::default();
    let origin = Origin::File(Path::new("t"));
    let rendered = Renderer::new(&parameters).render(template, origin, dialect, &mut found);
    if rendered.is_none() {
        super::recipe::judge_text(&found, template);
        return None;
    }
    // What is wrong may be found and the text rendered all the same.
    rendered.filter(|_| found.is_empty())
}

/// The pieces, with `value` in the place of the harmless one.
fn with(pieces: &[Piece], value: &str) -> Vec<Piece> {
    let harmless: Vec<Piece> = HARMLESS.chars().map(Piece::Quoted).collect();
    let mut out = Vec::new();
    let mut at = 0;
    while at < pieces.len() {
        if pieces[at..].starts_with(&harmless) {
            out.extend(value.chars().map(Piece::Quoted));
            at += harmless.len();
        } else {
            out.push(pieces[at]);
            at += 1;
        }
    }
    out
}
