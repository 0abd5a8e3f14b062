//! Where the text of a template comes from, and what is wrong with it at its place.

use std::path::Path;

use crate::recipe::diagnostic::{Diagnostic, Diagnostics};
use crate::recipe::model::{InlineText, Location};

/// Where the text of a template comes from.
#[derive(Debug, Clone, Copy)]
pub enum Origin<'a> {
    /// A file of its own.
    File(&'a Path),
    /// Text in a recipe.
    Inline(&'a InlineText),
}

/// Says what is wrong at a byte offset of a template. When nothing more is taken it costs nothing: a text can be wrong
/// in as many places as it has bytes.
pub fn tell(
    found: &mut Diagnostics,
    text: &str,
    offset: usize,
    origin: Origin<'_>,
    message: impl Into<String>,
    help: impl Into<String>,
) {
    if found.is_full() {
        return;
    }
    let offset = text.floor_char_boundary(offset.min(text.len()));
    let line = text[..offset].matches('\n').count() + 1;
    let start = text[..offset].rfind('\n').map_or(0, |at| at + 1);
    let column = text[start..offset].chars().count() + 1;
    found.push(match origin {
        Origin::File(file) => {
            let at = Location {
                file: file.to_path_buf(),
                line,
                column,
            };
            Diagnostic::at(at, text, message, help)
        }
        Origin::Inline(inline) => inline.diagnostic(line, column, message.into(), help.into()),
    });
}
