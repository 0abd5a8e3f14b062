//! Colour and symbols: only on a terminal, never the only carrier of a meaning.

use std::io::IsTerminal as _;

use clap::ValueEnum;

use super::config::variable;

/// When to use colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Default)]
pub enum ColorChoice {
    /// On a terminal, unless NO_COLOR is set or TERM is `dumb`.
    #[default]
    Auto,
    Always,
    Never,
}

/// How to write for one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    color: bool,
    unicode: bool,
}

impl Style {
    /// No colour, ASCII only.
    #[must_use]
    #[cfg(test)]
    pub const fn plain() -> Self {
        Self {
            color: false,
            unicode: false,
        }
    }

    /// Colour and every character.
    #[must_use]
    #[cfg(test)]
    pub const fn rich() -> Self {
        Self {
            color: true,
            unicode: true,
        }
    }

    /// The style for standard error.
    #[must_use]
    pub fn for_stderr(choice: ColorChoice) -> Self {
        Self::for_stream(choice, std::io::stderr().is_terminal())
    }

    /// The style for standard output.
    #[must_use]
    pub fn for_stdout(choice: ColorChoice) -> Self {
        Self::for_stream(choice, std::io::stdout().is_terminal())
    }

    fn for_stream(choice: ColorChoice, terminal: bool) -> Self {
        let set = |name: &str| variable(name).is_some();
        let dumb = variable("TERM").is_some_and(|term| term == "dumb");
        let color = match choice {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => (terminal && !dumb && !set("NO_COLOR")) || set("CLICOLOR_FORCE"),
        };
        Self {
            color,
            unicode: utf8_locale(),
        }
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.color {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    #[must_use]
    pub fn error(self, text: &str) -> String {
        self.paint("1;31", text)
    }

    #[must_use]
    pub fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    #[must_use]
    pub fn hint(self, text: &str) -> String {
        self.paint("36", text)
    }

    #[must_use]
    pub fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    #[must_use]
    pub fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    /// A mark, or what stands for it in ASCII.
    #[must_use]
    pub const fn mark(self, mark: &'static str, ascii: &'static str) -> &'static str {
        if self.unicode { mark } else { ascii }
    }

    /// The mark before a thing that went well.
    #[must_use]
    pub fn tick(self) -> String {
        self.good(if self.unicode { "✓" } else { "ok" })
    }

    /// The mark before a thing that failed.
    #[must_use]
    pub fn cross(self) -> String {
        self.error(if self.unicode { "✗" } else { "FAILED" })
    }
}

/// Whether the locale's character set is UTF-8 (POSIX order: LC_ALL, LC_CTYPE, LANG).
fn utf8_locale() -> bool {
    ["LC_ALL", "LC_CTYPE", "LANG"]
        .iter()
        .find_map(|name| variable(name))
        .is_some_and(|value| {
            let value = value.to_string_lossy().to_ascii_lowercase();
            value.contains("utf-8") || value.contains("utf8")
        })
}

/// A duration as people read it: `0.4 s`, `12 s`, `3 min 05 s`.
#[must_use]
pub fn elapsed(duration: std::time::Duration) -> String {
    let seconds = duration.as_secs();
    if duration.as_secs_f64() < 10.0 {
        format!("{:.1} s", duration.as_secs_f64())
    } else if seconds < 120 {
        format!("{seconds} s")
    } else {
        format!("{} min {:02} s", seconds / 60, seconds % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn durations_read_well() {
        assert_eq!(elapsed(Duration::from_millis(420)), "0.4 s");
        assert_eq!(elapsed(Duration::from_secs(61)), "61 s");
        assert_eq!(elapsed(Duration::from_secs(185)), "3 min 05 s");
    }

    #[test]
    fn plain_style_adds_nothing() {
        assert_eq!(Style::plain().error("x"), "x");
        assert_eq!(Style::plain().tick(), "ok");
    }
}
