//! The one shape of failure at the edge: a message, its causes, a way out, an exit code.

use std::fmt::Write as _;

use serde_json::json;

use super::exit;
use super::style::Style;
use crate::aws::Commands;
use crate::recipe::diagnostic::Diagnostic;

/// A failed command.
#[derive(Debug)]
pub struct CliError {
    /// One of [`exit`].
    pub code: u8,
    /// What failed, in a sentence without a full stop.
    pub message: String,
    /// Why, outermost first.
    pub causes: Vec<String>,
    /// What to do now; each works when pasted or read.
    pub hints: Vec<String>,
    /// A text of many lines to show as it is before the message, such as recipe diagnostics.
    pub detail: Option<String>,
    /// What was found wrong in files, one by one.
    pub findings: Box<[Diagnostic]>,
}

impl CliError {
    /// A failure with a code of [`exit`].
    pub fn new(code: u8, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            causes: Vec::new(),
            hints: Vec::new(),
            detail: None,
            findings: Box::default(),
        }
    }

    /// An expected failure (exit code 1).
    pub fn failure(message: impl Into<String>) -> Self {
        Self::new(exit::FAILURE, message)
    }

    /// Adds a way out.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Adds an error and its chain of sources as causes.
    #[must_use]
    pub fn because(mut self, error: &dyn std::error::Error) -> Self {
        let mut next = Some(error);
        while let Some(cause) = next {
            self.causes.push(cause.to_string());
            next = cause.source();
        }
        self
    }

    /// Completes the commands that it names.
    #[must_use]
    pub fn complete(mut self, commands: &Commands) -> Self {
        let texts = std::iter::once(&mut self.message).chain(&mut self.causes);
        for text in texts.chain(&mut self.hints) {
            *text = commands.complete(text);
        }
        self
    }

    /// Adds a text to show before the message.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Adds findings, for annotations at their places; people read them in the detail.
    #[must_use]
    pub fn with_findings(mut self, findings: &[Diagnostic]) -> Self {
        self.findings = findings.into();
        self
    }

    /// The error for people.
    #[must_use]
    pub fn render(&self, style: Style) -> String {
        let mut out = String::new();
        if let Some(detail) = &self.detail {
            out.push_str(detail.trim_end());
            out.push_str("\n\n");
        }
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{} {}", style.error("error:"), self.message);
        for cause in &self.causes {
            let _ = writeln!(out, "  {} {cause}", style.dim("caused by:"));
        }
        for hint in &self.hints {
            let _ = writeln!(out, "  {} {hint}", style.hint("hint:"));
        }
        out
    }

    /// The error for machines.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        json!({
            "exit_code": self.code,
            "message": self.message,
            "causes": self.causes,
            "hints": self.hints,
            "detail": self.detail,
            "findings": self.findings.iter().map(finding).collect::<Vec<_>>(),
        })
    }
}

/// What is wrong in a file; the place is null where it is in none.
fn finding(found: &Diagnostic) -> serde_json::Value {
    let at = found.location.as_ref();
    json!({
        "file": at.map(|at| at.file.display().to_string()),
        "line": at.map(|at| at.line),
        "column": at.map(|at| at.column),
        "message": found.message,
        "help": found.help,
    })
}

/// What a verb returns: its exit code, or a failure.
pub type CliResult = Result<u8, CliError>;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::model::Location;

    #[test]
    fn an_error_reads_as_message_causes_hints() {
        let inner = std::io::Error::other("disk full");
        let error = CliError::failure("cannot write the plan")
            .because(&inner)
            .hint("free some space");
        assert_eq!(
            error.render(Style::plain()),
            "error: cannot write the plan\n  caused by: disk full\n  hint: free some space\n"
        );
        assert_eq!(error.to_json()["exit_code"], 1);
        assert_eq!(error.to_json()["findings"], json!([]));
    }

    #[test]
    fn findings_are_a_list_for_machines() {
        let at = Location {
            file: "a/recipe.yaml".into(),
            line: 3,
            column: 7,
        };
        let found = [
            Diagnostic::at(at, "x\n\nname: 1\n", "not a name", "write one"),
            Diagnostic::new("--set x: no such", "leave it out"),
        ];
        let error = CliError::failure("invalid").with_findings(&found);
        assert_eq!(
            error.to_json()["findings"],
            json!([
                { "file": "a/recipe.yaml", "line": 3, "column": 7, "message": "not a name", "help": "write one" },
                { "file": null, "line": null, "column": null, "message": "--set x: no such", "help": "leave it out" },
            ])
        );
    }
}
