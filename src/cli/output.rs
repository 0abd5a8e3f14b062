//! Data on stdout, everything else on stderr. A closed pipe ends the program quietly.

use std::borrow::Cow;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

use super::args::{Format, OutputFormat};
use super::error::CliError;
use super::github;
use super::lines::{Line, Word};
use super::style::Style;

/// Whether what is printed lands in a log of GitHub Actions.
static IN_GITHUB_LOG: AtomicBool = AtomicBool::new(false);

/// Whether JSON documents are lines of ndjson.
static LINES: AtomicBool = AtomicBool::new(false);

/// From now on what is printed suits this format. For GitHub no line is a workflow command, but for those of
/// [`command`]; for ndjson every JSON document is a line of [`Line`].
pub fn into(format: OutputFormat) {
    match format {
        OutputFormat::Github | OutputFormat::GithubMatrix => {
            IN_GITHUB_LOG.store(true, Ordering::Relaxed);
        }
        OutputFormat::Ndjson => LINES.store(true, Ordering::Relaxed),
        OutputFormat::Human | OutputFormat::Json => {}
    }
}

fn shown(text: &str) -> Cow<'_, str> {
    if IN_GITHUB_LOG.load(Ordering::Relaxed) {
        github::inert(text)
    } else {
        Cow::Borrowed(text)
    }
}

/// Writes text to stdout.
///
/// # Errors
/// Stdout cannot be written, other than by a reader that has gone.
pub fn data(text: &str) -> Result<(), CliError> {
    let mut stdout = std::io::stdout().lock();
    match stdout
        .write_all(shown(text).as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(CliError::failure("cannot write to standard output").because(&error))
        }
        _ => Ok(()),
    }
}

/// Whether stdout has one JSON object a line.
#[must_use]
pub fn has_lines() -> bool {
    LINES.load(Ordering::Relaxed)
}

/// Writes one JSON document to stdout, indented; with `--format ndjson` as the line of a result.
///
/// # Errors
/// As [`data`].
pub fn json(value: &impl Serialize) -> Result<(), CliError> {
    if has_lines() {
        return line(&Line::now(Word::Result { result: value }));
    }
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| CliError::failure("cannot write the result as JSON").because(&error))?;
    data(&format!("{text}\n"))
}

/// Writes one line of ndjson to stdout.
///
/// # Errors
/// As [`data`].
pub fn line(value: &impl Serialize) -> Result<(), CliError> {
    let text = serde_json::to_string(value)
        .map_err(|error| CliError::failure("cannot write an event as JSON").because(&error))?;
    data(&format!("{text}\n"))
}

/// Writes the failure that ends the program, for whoever reads.
pub fn failure(error: &CliError, reader: Format, style: Style) {
    tell(error, reader);
    note(error.render(style).trim_end());
}

/// Tells a failure to machines.
pub fn tell(error: &CliError, reader: Format) {
    // The error itself is the last word; there is nobody left to tell about a closed stdout.
    if has_lines() {
        let error = error.to_json();
        let _ = line(&Line::now(Word::Error { error }));
    } else if reader == Format::Json {
        let _ = json(&error.to_json());
    } else if IN_GITHUB_LOG.load(Ordering::Relaxed) {
        for line in github::annotations(error) {
            command(&line);
        }
    }
}

/// Writes a line to stderr. A stderr that is gone is nobody's to tell.
pub fn note(text: &str) {
    command(&shown(text));
}

/// Writes a line to stderr as it is: a workflow command of GitHub Actions.
pub fn command(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Columns aligned by spaces, two between; the last one is not padded.
#[must_use]
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
    };
    let widths: Vec<usize> = (0..columns)
        .map(|column| width(column).unwrap_or(0))
        .collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(cell);
            line.push_str(&" ".repeat(width - cell.chars().count() + 2));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_align_and_do_not_end_in_spaces() {
        let rows = vec![
            vec!["a".into(), "bc".into()],
            vec!["abc".into(), "d".into()],
        ];
        assert_eq!(table(&rows), "a    bc\nabc  d\n");
    }
}
