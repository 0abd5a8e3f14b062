//! What is wrong with a recipe: each finding with its place, the offending line and a way out.

use std::fmt;
use std::path::{Path, PathBuf};

use super::model::Location;

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Where; `None` for what has no place in a file, such as a value of `--set`.
    pub at: Option<Location>,
    /// What is wrong, without a full stop.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    /// The text of the line at `at`.
    pub source_line: Option<String>,
}

impl Diagnostic {
    /// A finding at a place in a file whose text is at hand.
    #[must_use]
    pub fn at(
        file: &Path,
        text: &str,
        line: usize,
        column: usize,
        message: impl Into<String>,
    ) -> Self {
        Self {
            at: Some(Location {
                file: file.to_path_buf(),
                line,
                column,
            }),
            message: message.into(),
            help: None,
            source_line: text.lines().nth(line.saturating_sub(1)).map(str::to_owned),
        }
    }

    /// A finding about a whole file, or about nothing in a file.
    #[must_use]
    pub fn general(file: Option<PathBuf>, message: impl Into<String>) -> Self {
        let at = file.map(|file| Location {
            file,
            line: 1,
            column: 1,
        });
        Self {
            at,
            message: message.into(),
            help: None,
            source_line: None,
        }
    }

    /// Adds the way out.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.at {
            Some(at) => write!(
                f,
                "{}:{}:{}: {}",
                at.file.display(),
                at.line,
                at.column,
                self.message
            )?,
            None => f.write_str(&self.message)?,
        }
        if let (Some(at), Some(line)) = (&self.at, &self.source_line) {
            // A very long line is shown around the place; the caret stays under it.
            let start = at.column.saturating_sub(60);
            let shown: String = line.chars().skip(start).take(100).collect();
            let number = at.line.to_string();
            let gutter = " ".repeat(number.len());
            let indent = " ".repeat(at.column.saturating_sub(1 + start));
            write!(
                f,
                "\n {gutter} |\n {number} | {shown}\n {gutter} | {indent}^"
            )?;
        }
        if let Some(help) = &self.help {
            write!(f, "\n   help: {help}")?;
        }
        Ok(())
    }
}

/// All findings of one look at a recipe; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostics(Vec<Diagnostic>);

impl Diagnostics {
    /// `Err` with the findings, or `Ok(value)` if there are none.
    ///
    /// # Errors
    /// The findings.
    pub fn check<T>(found: Vec<Diagnostic>, value: T) -> Result<T, Self> {
        if found.is_empty() {
            Ok(value)
        } else {
            Err(Self(found))
        }
    }

    /// The findings, in the order in which they were found.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.0.iter()
    }

    /// How many there are; at least one.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The findings themselves.
    #[must_use]
    pub fn into_vec(self) -> Vec<Diagnostic> {
        self.0
    }
}

impl From<Diagnostic> for Diagnostics {
    fn from(diagnostic: Diagnostic) -> Self {
        Self(vec![diagnostic])
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n\n")?;
            }
            diagnostic.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

/// The known name nearest to `name`, if one is near enough to be what was meant.
#[must_use]
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_shows_its_line_and_a_caret() {
        let text = "schema: piaas-bake/v1\npakages: [nginx]\n";
        let finding = Diagnostic::at(Path::new("r.yaml"), text, 2, 1, "unknown key `pakages`")
            .help("did you mean `packages`?");
        assert_eq!(
            finding.to_string(),
            "r.yaml:2:1: unknown key `pakages`\n   |\n 2 | pakages: [nginx]\n   | ^\n   help: did you mean `packages`?"
        );
    }

    #[test]
    fn the_nearest_name_must_be_near() {
        assert_eq!(nearest("pakages", ["packages", "files"]), Some("packages"));
        assert_eq!(nearest("frobnicate", ["packages", "files"]), None);
    }
}
