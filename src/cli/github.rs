//! What GitHub Actions reads: workflow commands in the log, and Markdown in the job summary. Pure.
//!
//! The escapes are those of the runner (workflow commands, "Using workflow commands"; `@actions/core`). Whatever a
//! recipe, a branch or a machine says arrives as text: it can neither end a command nor begin one.

use std::borrow::Cow;
use std::fmt::Write as _;

use super::error::CliError;

/// Ends a group.
pub const END_GROUP: &str = "::endgroup::";

/// Begins a group of lines that a reader can open.
#[must_use]
pub fn group(title: &str) -> String {
    command("group", &[], title)
}

/// A failure as annotations: each finding at its place in a file, or else the failure itself.
#[must_use]
pub fn annotations(error: &CliError) -> Vec<String> {
    annotations_of("piaas-bake", error)
}

/// The same, of one thing among several: its name is the title.
#[must_use]
pub fn annotations_of(title: &str, error: &CliError) -> Vec<String> {
    let mut lines: Vec<String> = error
        .findings
        .iter()
        .map(|finding| {
            let mut properties = vec![("title", title.to_owned())];
            if let Some(at) = &finding.location {
                properties.push(("file", at.file.display().to_string()));
                properties.push(("line", at.line.to_string()));
                properties.push(("col", at.column.to_string()));
            }
            let help = finding.help.iter().map(|help| format!("\n{help}"));
            let message: String = std::iter::once(finding.message.clone())
                .chain(help)
                .collect();
            command("error", &properties, &message)
        })
        .collect();
    if lines.is_empty() {
        let mut message = error.message.clone();
        // Writing to a String cannot fail.
        for cause in &error.causes {
            let _ = write!(message, "\n{cause}");
        }
        for hint in &error.hints {
            let _ = write!(message, "\nhint: {hint}");
        }
        lines.push(command("error", &[("title", title.to_owned())], &message));
    }
    lines
}

/// A text without workflow commands, whatever a recipe or a machine wrote. A line that begins with `::`, after blanks
/// or not, is one; the older form `##[…]` counts anywhere in a line.
#[must_use]
pub fn inert(text: &str) -> Cow<'_, str> {
    let begins = |line: &str| line.trim_start().starts_with("::");
    let lines = || text.split_inclusive(['\n', '\r']);
    if !text.contains("##[") && !lines().any(begins) {
        return Cow::Borrowed(text);
    }
    let marked = lines().map(|line| {
        if begins(line) {
            format!("| {line}")
        } else {
            line.to_owned()
        }
    });
    Cow::Owned(marked.collect::<String>().replace("##[", "## ["))
}

fn command(name: &str, properties: &[(&str, String)], message: &str) -> String {
    let properties: Vec<String> = properties
        .iter()
        .map(|(key, value)| {
            let value = data(value).replace(':', "%3A").replace(',', "%2C");
            format!("{key}={value}")
        })
        .collect();
    let blank = if properties.is_empty() { "" } else { " " };
    let message = data(message);
    let line = format!("::{name}{blank}{}::{message}", properties.join(","));
    line.replace("##[", "## [")
}

fn data(text: &str) -> String {
    text.replace('%', "%25")
        .replace('\r', "%0D")
        .replace('\n', "%0A")
}

/// A table of Markdown; every cell is plain text.
#[must_use]
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut out = format!(
        "| {} |\n|{}\n",
        head.join(" | "),
        " --- |".repeat(head.len())
    );
    for row in rows {
        let cells: Vec<String> = row.iter().map(|text| plain(text)).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(out, "| {} |", cells.join(" | "));
    }
    out.push('\n');
    out
}

/// Text that Markdown shows as it is, on one line: no markup, no mention, no HTML, no end of a cell.
#[must_use]
pub fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            char if char.is_control() => out.push(' '),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            // A zero-width joiner of words: nobody is called.
            '@' => out.push_str("@\u{2060}"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '#' | '~' | '!' => {
                out.push('\\');
                out.push(char);
            }
            char => out.push(char),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::diagnostic::Diagnostic;
    use crate::recipe::model::Location;

    #[test]
    fn a_finding_is_an_annotation_at_its_place_on_one_line() {
        let at = Location {
            file: "recipes/a,b:c/recipe.yaml".into(),
            line: 3,
            column: 7,
        };
        let finding = Diagnostic::at(at, "", "100% wrong\n::set-env name=X::y", "do $(this)");
        let error = CliError::failure("the recipe is invalid").with_findings(&[finding]);
        assert_eq!(
            annotations(&error),
            [
                "::error title=piaas-bake,file=recipes/a%2Cb%3Ac/recipe.yaml,line=3,col=7::100%25 wrong%0A::set-env name=X::y%0Ado $(this)"
            ]
        );
    }

    #[test]
    fn a_failure_without_findings_is_one_annotation_with_its_way_out() {
        let error = CliError::failure("no\r\nluck").hint("try again");
        assert_eq!(
            annotations(&error),
            ["::error title=piaas-bake::no%0D%0Aluck%0Ahint: try again"]
        );
    }

    #[test]
    fn one_of_several_is_named_in_its_title() {
        let error = CliError::failure("the bake failed at \"provision\": `Install` ended");
        assert_eq!(
            annotations_of("web: x", &error),
            ["::error title=web%3A x::the bake failed at \"provision\": `Install` ended"]
        );
    }

    #[test]
    fn what_a_machine_writes_is_no_command() {
        assert_eq!(
            inert("  | ##[error]x ##[add-mask]y"),
            "  | ## [error]x ## [add-mask]y"
        );
        assert_eq!(inert("a ## b :: c"), "a ## b :: c");
        assert_eq!(inert("a\n ::error::b\r::c\n"), "a\n|  ::error::b\r| ::c\n");
        assert_eq!(group("a\n##[error]b"), "::group::a%0A## [error]b");
    }

    #[test]
    fn a_cell_of_a_table_stays_a_cell() {
        let rows = vec![vec!["a|b".into(), "<img>\n@all [x](y) `z` \\".into()]];
        assert_eq!(
            table(&["one", "two"], &rows),
            "| one | two |\n| --- | --- |\n| a\\|b | &lt;img&gt; @\u{2060}all \\[x\\](y) \\`z\\` \\\\ |\n\n"
        );
    }
}
