//! Texts in the recipe itself, and where each line of them stands.

use super::diagnostic::{Diagnostic, visible};
use super::model::Location;
use super::node::Node;

/// A place further to the right is not looked for: no caret could be shown under it.
const WIDEST: usize = 400;
/// What is quoted of a text that stands in the recipe in another form.
const QUOTED: usize = 60;

/// A text in the recipe itself; rendered.
#[derive(Debug, Clone)]
pub struct InlineText {
    pub text: String,
    /// Where the value begins.
    pub at: Location,
    /// The line there, as it can be shown.
    line: String,
    written: Written,
}

/// How a text stands in its file.
#[derive(Debug, Clone, Copy)]
enum Written {
    /// On one line, so many columns after the value's begin.
    Line(usize),
    /// As a block: its first line is line `first` of the file, and each begins after `indent` columns.
    Block { first: usize, indent: usize },
    /// Folded, or with escapes: places in it cannot be counted.
    Apart,
}

impl InlineText {
    /// The text of a value.
    pub fn of(node: &Node<'_>, text: String) -> Self {
        let at = node.location();
        let line = node.document().line(at.line).unwrap_or_default();
        let written = written(node, &at, line, &text);
        Self {
            text,
            line: visible(line),
            at,
            written,
        }
    }

    /// A diagnostic at a line and a column of the text, both counted from 1. Where its place in the file is not known,
    /// it is at the begin of the value, and the message quotes the text.
    pub fn diagnostic(
        &self,
        line: usize,
        column: usize,
        message: String,
        help: String,
    ) -> Diagnostic {
        // After the last line there is none in the file that belongs to the text.
        let (line, column, on) = match self.text.lines().nth(line - 1) {
            Some(on) => (line, column, on),
            None => {
                let last = self.text.lines().last().unwrap_or_default();
                (
                    self.text.lines().count().max(1),
                    last.chars().count() + 1,
                    last,
                )
            }
        };
        let (at, shown, message) = match self.written {
            Written::Line(shift) => {
                let column = self.at.column + shift + column - 1;
                ((self.at.line, column), self.line.clone(), message)
            }
            // An empty line need not be indented.
            Written::Block { first, .. } if on.is_empty() => {
                ((first + line - 1, 1), String::new(), message)
            }
            Written::Block { first, indent } => {
                let shown = visible(&format!("{:indent$}{on}", ""));
                ((first + line - 1, indent + column), shown, message)
            }
            Written::Apart => {
                let quoted: String = on.chars().skip(column - 1).take(QUOTED).collect();
                let place = format!("{line}:{column} of the text, `{}`", quoted.trim_end());
                let message = format!("{message}, at {place}");
                ((self.at.line, self.at.column), self.line.clone(), message)
            }
        };
        Diagnostic {
            location: Some(Location {
                file: self.at.file.clone(),
                line: at.0,
                column: at.1,
            }),
            source_line: Some(shown),
            message,
            help: Some(help),
        }
    }
}

fn written(node: &Node<'_>, at: &Location, line: &str, text: &str) -> Written {
    if at.column < WIDEST && !text.contains('\n') {
        let begin = line.char_indices().nth(at.column - 1);
        let rest = begin.map_or("", |(begin, _)| &line[begin..]);
        match rest.strip_prefix(['"', '\'']) {
            _ if rest.starts_with(text) => return Written::Line(0),
            Some(quoted) if quoted.starts_with(text) => return Written::Line(1),
            _ => {}
        }
    }
    // The parser names the indicator or the first line of a block.
    for first in [at.line + 1, at.line] {
        if let Some(indent) = indent(node, first, text) {
            return Written::Block { first, indent };
        }
    }
    Written::Apart
}

/// How far the lines of `text` are indented, if they are what the file has from line `first` on.
fn indent(node: &Node<'_>, first: usize, text: &str) -> Option<usize> {
    let in_file = |n: usize| node.document().line(first + n);
    let (n, filled) = text
        .lines()
        .enumerate()
        .find(|(_, line)| !line.trim().is_empty())?;
    let indent = in_file(n)?.strip_suffix(filled)?;
    let spaces = indent.bytes().all(|byte| byte == b' ');
    let all = text.lines().enumerate().all(|(n, line)| {
        in_file(n).is_some_and(|there| {
            there.strip_prefix(indent) == Some(line) || (line.is_empty() && there.trim().is_empty())
        })
    });
    (spaces && all).then_some(indent.len())
}
