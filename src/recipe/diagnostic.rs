//! What is wrong with a recipe, where, and a way out.

use std::fmt;
use std::path::{Path, PathBuf};

use super::model::Location;

/// More than anybody reads at once. A file that is no recipe at all could fill memory with what is wrong with it.
const MOST: usize = 100;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Where; `None` when it is not about a place in a file (a recipe that does not exist, `--set`).
    pub location: Option<Location>,
    /// The line it stands on, for the caret.
    pub source_line: Option<String>,
    /// What is wrong, lower case, one sentence.
    pub message: String,
    /// A way out.
    pub help: Option<String>,
}

impl Diagnostic {
    /// A diagnostic about no particular place.
    pub fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            location: None,
            source_line: None,
            message: message.into(),
            help: Some(help.into()),
        }
    }

    /// A diagnostic at a place in `text`, which is the content of the file that `at` names.
    pub fn at(
        at: Location,
        text: &str,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        let line = text.lines().nth(at.line.saturating_sub(1));
        Self::on_line(at, line, message, help)
    }

    /// A diagnostic at a place in a file, with the line that it is on.
    pub fn on_line(
        at: Location,
        line: Option<&str>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        Self {
            location: Some(at),
            source_line: line.map(visible),
            message: message.into(),
            help: Some(help.into()),
        }
    }
}

/// A line as it can be shown: tabs and control characters take one column, so the caret stays under its character, and
/// what a file holds cannot steer the terminal.
pub(crate) fn visible(line: &str) -> String {
    line.chars()
        .take(400)
        .map(|c| if c == '\t' { ' ' } else { shown(c) })
        .collect()
}

fn shown(c: char) -> char {
    if c.is_control() { '\u{fffd}' } else { c }
}

/// What is said about a value, which may quote it.
fn harmless(text: &str) -> String {
    let shown = |c| if c == '\n' { c } else { shown(c) };
    text.chars().map(shown).collect()
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error: {}", harmless(&self.message))?;
        let mut gutter = String::new();
        if let Some(at) = &self.location {
            gutter = " ".repeat(at.line.to_string().len());
            writeln!(
                f,
                "{gutter}--> {}:{}:{}",
                at.file.display(),
                at.line,
                at.column
            )?;
            if let Some(line) = &self.source_line {
                writeln!(f, "{gutter} |")?;
                writeln!(f, "{} | {line}", at.line)?;
                writeln!(f, "{gutter} | {}^", " ".repeat(at.column.saturating_sub(1)))?;
            }
        }
        if let Some(help) = &self.help {
            writeln!(f, "{gutter} = help: {}", harmless(help))?;
        }
        Ok(())
    }
}

/// Everything that is wrong, in the order of the files. Never empty inside an `Err`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl Diagnostics {
    /// Adds one.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        // A mistake in a parent shows up on every way to it; once is enough.
        if self.is_full() || self.0.contains(&diagnostic) {
            return;
        }
        if self.0.len() == MOST {
            self.0.push(Diagnostic::new(
                format!("there is more; these are the first {MOST}"),
                "correct these first",
            ));
            return;
        }
        self.0.push(diagnostic);
    }

    /// Whether nothing more is taken.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.0.len() > MOST
    }

    /// Takes over all of `other`.
    pub fn extend(&mut self, other: Self) {
        for diagnostic in other.0 {
            self.push(diagnostic);
        }
    }

    /// Without the lines of the files, on which a secret may stand.
    #[must_use]
    pub fn without_lines(mut self) -> Self {
        for one in &mut self.0 {
            one.source_line = None;
        }
        self
    }

    /// True when nothing is wrong.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `value` if nothing is wrong, else what is.
    pub fn or<T>(self, value: T) -> Result<T, Self> {
        if self.is_empty() {
            Ok(value)
        } else {
            Err(self.in_order())
        }
    }

    /// By file, in the order in which they were met, and by place; what has none comes last.
    #[must_use]
    pub fn in_order(mut self) -> Self {
        let mut files: Vec<PathBuf> = Vec::new();
        for at in self.0.iter().filter_map(|one| one.location.as_ref()) {
            if !files.contains(&at.file) {
                files.push(at.file.clone());
            }
        }
        self.0.sort_by_key(|one| {
            one.location.as_ref().map_or((usize::MAX, 0, 0), |at| {
                let file = files.iter().position(|file| *file == at.file);
                (file.unwrap_or(usize::MAX), at.line, at.column)
            })
        });
        self
    }
}

impl From<Diagnostic> for Diagnostics {
    fn from(diagnostic: Diagnostic) -> Self {
        Self(vec![diagnostic])
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, diagnostic) in self.0.iter().enumerate() {
            if n > 0 {
                writeln!(f)?;
            }
            write!(f, "{diagnostic}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

/// The known word nearest to `word`, if one is near enough to be meant.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.chars().count().max(3) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// "did you mean …" if something is near, else the whole choice.
pub fn suggest<'a>(word: &str, known: impl IntoIterator<Item = &'a str> + Clone) -> String {
    if let Some(near) = nearest(word, known.clone()) {
        return format!("did you mean `{near}`?");
    }
    let all: Vec<_> = known.into_iter().map(|name| format!("`{name}`")).collect();
    if all.is_empty() {
        "there are none to choose from.".into()
    } else {
        format!("known here: {}.", all.join(", "))
    }
}

/// The start of a file.
pub(crate) fn top_of(file: &Path) -> Location {
    Location {
        file: file.to_path_buf(),
        line: 1,
        column: 1,
    }
}
