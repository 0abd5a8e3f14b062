//! A command line that cannot be used: in clap's words for people, and as an error like all others for machines.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::ValueEnum as _;
use clap::error::ErrorKind;

use super::args::OutputFormat;
use super::error::CliError;
use super::{exit, output};

/// Says what is wrong and gives the exit code; help and the version, which were asked for, are no failures.
pub fn refuse(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // A reader that has gone needs no help.
        let _ = error.print();
        return ExitCode::from(exit::DONE);
    }
    let format = asked(std::env::args_os());
    output::into(format);
    output::tell(&of(error), format.reader());
    if format == OutputFormat::Human {
        let _ = error.print();
    } else {
        output::note(error.render().to_string().trim_end());
    }
    ExitCode::from(exit::USAGE)
}

/// The format that a command line asks for, which clap could not read; the last one counts, as far as it is one.
fn asked(words: impl IntoIterator<Item = OsString>) -> OutputFormat {
    let mut found = OutputFormat::Human;
    let mut words = words.into_iter().map(|word| word.into_string());
    while let Some(word) = words.next() {
        let value = match word.as_deref() {
            // What follows is the command of a machine.
            Ok("--") => break,
            Ok("--format") => words.next().and_then(Result::ok),
            Ok(word) => word.strip_prefix("--format=").map(str::to_owned),
            Err(_) => None,
        };
        let value = value.and_then(|value| OutputFormat::from_str(&value, false).ok());
        found = value.unwrap_or(found);
    }
    found
}

/// clap's text in parts: the first paragraph says what is wrong, `tip:` and `Usage:` are ways out.
fn of(error: &clap::Error) -> CliError {
    let text = error.render().to_string();
    let whole = error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    let message = if whole {
        "the command line is not complete".to_owned()
    } else {
        let first = text.split("\n\n").next().unwrap_or_default();
        let first = first.trim_start_matches("error: ");
        first.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let mut refused = CliError::new(exit::USAGE, message);
    for line in text.lines().map(str::trim) {
        if let Some(tip) = line.strip_prefix("tip: ") {
            refused = refused.hint(tip);
        } else if line.starts_with("Usage: ") {
            refused = refused.hint(line);
        }
    }
    refused.hint("for more information, try --help")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::Cli;
    use clap::Parser as _;

    #[test]
    fn the_format_is_found_in_words_that_are_no_command_line() {
        let asked = |line: &str| asked(line.split(' ').map(OsString::from));
        assert_eq!(asked("x bake --format json --nonsense"), OutputFormat::Json);
        assert_eq!(asked("x --format=ndjson bake"), OutputFormat::Ndjson);
        assert_eq!(asked("x bake --format"), OutputFormat::Human);
        assert_eq!(asked("x --format nonsense"), OutputFormat::Human);
        let behind = "x cloud run i --oops -- aws --format json";
        assert_eq!(asked(behind), OutputFormat::Human);
    }

    #[test]
    fn the_words_of_clap_become_a_message_and_ways_out() {
        let of = |words: &[&str]| of(&Cli::try_parse_from(words).unwrap_err());
        let error = of(&["piaas-bake", "bake"]);
        assert_eq!(error.code, exit::USAGE);
        assert_eq!(
            error.message,
            "the following required arguments were not provided: <RECIPE|FILE>..."
        );
        assert_eq!(error.hints[0], "Usage: piaas-bake bake <RECIPE|FILE>...");
        let error = of(&["piaas-bake", "bake", "web", "--candidat"]);
        assert!(error.hints[0].contains("--candidate"), "{error:?}");
        let error = of(&["piaas-bake", "images"]);
        assert_eq!(error.message, "the command line is not complete");
        assert!(error.hints[0].starts_with("Usage: "), "{error:?}");
    }
}
