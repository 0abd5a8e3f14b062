//! Values in scripts: how they are quoted, and where they may stand.
//!
//! A value becomes one word in single quotes, whatever is in it. That holds only where the shell reads a word: inside
//! quotes, a comment, a here-document, arithmetic or backticks the same bytes mean something else. [`misplaced`] walks
//! the text of a template with the quoting rules of POSIX (Shell Command Language 2.2 and 2.3) and names such places.

use std::io::{self, Write};

use super::tags::{Tag, TagKind};

/// Writes `value` as one word of a POSIX shell (tera's escape function for scripts).
///
/// Always in quotes: a bare `5` before `>` would be a file descriptor, a bare `if` a keyword.
pub fn quote(value: &str, out: &mut dyn Write) -> io::Result<()> {
    if value.contains('\0') {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a shell word cannot hold a NUL character",
        ));
    }
    write!(out, "'{}'", value.replace('\'', r"'\''"))
}

/// Why a value cannot stand somewhere, and the way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Misplaced {
    pub why: &'static str,
    pub help: &'static str,
}

const QUOTED: Misplaced = Misplaced {
    why: "the value stands inside quotes, but it brings its own",
    help: "end the quotes before it: \"text \"{{ value }}\" more text\"",
};
const COMMENT: Misplaced = Misplaced {
    why: "the value stands in a comment, which a newline in it would end",
    help: "remove it from the comment",
};
const HEREDOC: Misplaced = Misplaced {
    why: "the value stands in a here-document, where its quotes would be text",
    help: "print it: printf '%s\\n' {{ value }}; or install a file with `content:` or `template:`",
};
const ARITHMETIC: Misplaced = Misplaced {
    why: "the value stands in arithmetic, where a word cannot be quoted",
    help: "assign it first: n={{ value }}, then use $((n + 1))",
};
const BACKTICKS: Misplaced = Misplaced {
    why: "the value stands in backticks, which change backslashes inside quotes",
    help: "write $(command {{ value }})",
};
const BACKSLASH: Misplaced = Misplaced {
    why: "a backslash before the value would undo its first quote",
    help: "remove the backslash: the value is quoted already",
};
const DOLLAR: Misplaced = Misplaced {
    why: "a dollar sign before the value would change the meaning of its quotes",
    help: "remove the `$`, or assign the value to a variable first",
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Frame {
    Single,
    Double,
    /// `$( )` or `( )` inside one; a `)` after a pattern of `case` does not end it.
    Command {
        parens: usize,
        cases: usize,
    },
    Arithmetic {
        parens: usize,
    },
    Parameter,
    Backtick,
}

struct Scanner<'t> {
    text: &'t str,
    tags: &'t [Tag],
    at: usize,
    frames: Vec<Frame>,
    /// Here-documents that begin after this line: delimiter, and whether leading tabs are dropped.
    heredocs: Vec<(String, bool)>,
    found: Vec<(usize, Misplaced)>,
}

/// The values that stand where they must not: byte offset in `text` and why.
pub fn misplaced(text: &str, tags: &[Tag]) -> Vec<(usize, Misplaced)> {
    let mut scanner = Scanner {
        text,
        tags,
        at: 0,
        frames: Vec::new(),
        heredocs: Vec::new(),
        found: Vec::new(),
    };
    while scanner.at < text.len() {
        scanner.step();
    }
    scanner.found
}

impl Scanner<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn before(&self) -> Option<char> {
        self.text[..self.at].chars().next_back()
    }

    fn tag(&self) -> Option<&Tag> {
        self.tags
            .binary_search_by_key(&self.at, |tag| tag.start)
            .ok()
            .map(|n| &self.tags[n])
    }

    /// Steps over the tag that begins here; a value is judged by `why`.
    fn pass_tag(&mut self, why: Option<Misplaced>) -> bool {
        let Some((kind, start, end)) = self.tag().map(|tag| (tag.kind, tag.start, tag.end)) else {
            return false;
        };
        if let (TagKind::Value, Some(why)) = (kind, why) {
            self.found.push((start, why));
        }
        self.at = end;
        true
    }

    fn step(&mut self) {
        let here = self.judge();
        if self.pass_tag(here) {
            return;
        }
        let Some(c) = self.rest().chars().next() else {
            return;
        };
        let top = self.frames.last().copied();
        if top == Some(Frame::Single) {
            if c == '\'' {
                self.frames.pop();
            }
            self.at += c.len_utf8();
            return;
        }
        let quoted = self.in_double();
        let starts_word = self
            .before()
            .is_none_or(|before| before.is_whitespace() || ";&|()`".contains(before));
        let command = matches!(top, None | Some(Frame::Command { .. } | Frame::Backtick));
        match c {
            '\\' => self.escape(),
            '\'' if !quoted => self.push(Frame::Single, 1),
            '"' if top == Some(Frame::Double) => self.pop(1),
            '"' => self.push(Frame::Double, 1),
            '`' if top == Some(Frame::Backtick) => self.pop(1),
            '`' => self.push(Frame::Backtick, 1),
            '$' if self.rest().starts_with("$((") => self.push(Frame::Arithmetic { parens: 0 }, 3),
            '$' if self.rest().starts_with("$(") => self.push(
                Frame::Command {
                    parens: 0,
                    cases: 0,
                },
                2,
            ),
            '$' if self.rest().starts_with("${") && !self.tag_at(self.at + 1) => {
                self.push(Frame::Parameter, 2)
            }
            '}' if top == Some(Frame::Parameter) => self.pop(1),
            '(' | ')' => self.paren(c),
            '#' if command && starts_word => self.comment(),
            '<' if command && self.rest().starts_with("<<<") => self.at += 3,
            '<' if command && self.rest().starts_with("<<") => self.heredoc(),
            '\n' if !self.heredocs.is_empty() => self.heredoc_bodies(),
            _ if command && starts_word && c.is_ascii_alphabetic() => self.word(),
            _ => self.at += c.len_utf8(),
        }
    }

    fn tag_at(&self, at: usize) -> bool {
        self.tags.binary_search_by_key(&at, |tag| tag.start).is_ok()
    }

    fn push(&mut self, frame: Frame, length: usize) {
        self.frames.push(frame);
        self.at += length;
    }

    fn pop(&mut self, length: usize) {
        self.frames.pop();
        self.at += length;
    }

    /// Inside double quotes, or in `${ }` inside them.
    fn in_double(&self) -> bool {
        self.frames
            .iter()
            .rev()
            .find(|frame| **frame != Frame::Parameter)
            == Some(&Frame::Double)
    }

    fn judge(&self) -> Option<Misplaced> {
        if self.frames.contains(&Frame::Backtick) {
            return Some(BACKTICKS);
        }
        if self.in_double() || self.frames.last() == Some(&Frame::Single) {
            return Some(QUOTED);
        }
        if matches!(self.frames.last(), Some(Frame::Arithmetic { .. })) {
            return Some(ARITHMETIC);
        }
        (self.before() == Some('$')).then_some(DOLLAR)
    }

    fn escape(&mut self) {
        self.at += 1;
        if !self.pass_tag(Some(BACKSLASH)) {
            self.at += self.rest().chars().next().map_or(0, char::len_utf8);
        }
    }

    fn paren(&mut self, c: char) {
        self.at += 1;
        let ended = match (self.frames.last_mut(), c) {
            (Some(Frame::Command { parens, .. } | Frame::Arithmetic { parens }), '(') => {
                *parens += 1;
                false
            }
            (Some(Frame::Command { parens, .. } | Frame::Arithmetic { parens }), _)
                if *parens > 0 =>
            {
                *parens -= 1;
                false
            }
            (Some(Frame::Command { cases, .. }), ')') => *cases == 0,
            (Some(Frame::Arithmetic { .. }), ')') => true,
            _ => false,
        };
        if ended {
            let arithmetic = matches!(self.frames.pop(), Some(Frame::Arithmetic { .. }));
            if arithmetic && self.rest().starts_with(')') {
                self.at += 1;
            }
        }
    }

    fn word(&mut self) {
        let length = self
            .rest()
            .find(|c: char| !c.is_ascii_alphanumeric())
            .unwrap_or(self.rest().len());
        let word = &self.text[self.at..self.at + length];
        if let Some(Frame::Command { cases, .. }) = self.frames.last_mut() {
            match word {
                "case" => *cases += 1,
                "esac" => *cases = cases.saturating_sub(1),
                _ => {}
            }
        }
        self.at += length;
    }

    fn comment(&mut self) {
        while self.at < self.text.len() && !self.rest().starts_with('\n') {
            if !self.pass_tag(Some(COMMENT)) {
                self.at += self.rest().chars().next().map_or(1, char::len_utf8);
            }
        }
    }

    /// `<<` and its delimiter, quotes removed.
    fn heredoc(&mut self) {
        self.at += 2;
        let tabs = self.rest().starts_with('-');
        self.at += usize::from(tabs);
        self.at += self.rest().len() - self.rest().trim_start_matches([' ', '\t']).len();
        let length = self
            .rest()
            .find(|c: char| c.is_whitespace() || ";&|<>()".contains(c))
            .unwrap_or(self.rest().len());
        let delimiter = self.text[self.at..self.at + length].replace(['\'', '"', '\\'], "");
        self.at += length;
        if !delimiter.is_empty() {
            self.heredocs.push((delimiter, tabs));
        }
    }

    fn heredoc_bodies(&mut self) {
        self.at += 1;
        for (delimiter, tabs) in std::mem::take(&mut self.heredocs) {
            while self.at < self.text.len() {
                let line = self.rest().lines().next().unwrap_or_default();
                let end = self.at + line.len();
                let compare = if tabs {
                    line.trim_start_matches('\t')
                } else {
                    line
                };
                let ends = compare == delimiter;
                while self.at < end {
                    if !self.pass_tag(Some(HEREDOC)) {
                        self.at += self.rest().chars().next().map_or(1, char::len_utf8);
                    }
                }
                self.at = (self.at + 1).min(self.text.len());
                if ends {
                    break;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::tags;

    fn whys(text: &str) -> Vec<Misplaced> {
        misplaced(text, &tags::scan(text, tags::Dialect::Script))
            .into_iter()
            .map(|(_, why)| why)
            .collect()
    }

    #[test]
    fn a_word_may_stand_where_the_shell_reads_words() {
        for good in [
            "echo {{ a }}",
            "grep -x \"worker: \"{{ a }}\"$id, master: \"{{ b }}':'{{ c }}",
            "x=\"$(cat {{ a }})\"",
            "x=\"$(case $y in a) cat {{ a }} ;; (b) ;; esac)\"; echo {{ b }}",
            "# it's fine\necho {{ a }}",
            "cat <<'E'\nit's\nE\necho {{ a }}",
            "cat <<-E\n\t\"\n\tE\necho {{ a }}",
            "echo $((1 + (2))) {{ a }}",
            "echo ${x:-{{ a }}}",
            "echo a#b {{ a }}",
            "echo ${#x} {{ a }}",
            "echo \\' {{ a }}",
            "cat <<<word {{ a }}",
            "echo \"${x:-'}\" {{ a }}",
        ] {
            assert_eq!(whys(good), [], "{good}");
        }
    }

    #[test]
    fn elsewhere_it_is_named() {
        for (bad, why) in [
            ("echo \"{{ a }}\"", QUOTED),
            ("echo '{{ a }}'", QUOTED),
            ("echo \"${x:-{{ a }}}\"", QUOTED),
            ("echo \"$(echo '{{ a }}')\"", QUOTED),
            ("# {{ a }}", COMMENT),
            ("true; # {{ a }}", COMMENT),
            ("cat <<E\n{{ a }}\nE", HEREDOC),
            ("cat <<'E' && x\nb\n{{ a }}\nE", HEREDOC),
            ("echo $(({{ a }} + 1))", ARITHMETIC),
            ("echo `cat {{ a }}`", BACKTICKS),
            ("echo \\{{ a }}", BACKSLASH),
            ("echo ${{ a }}", DOLLAR),
        ] {
            assert_eq!(whys(bad), [why], "{bad}");
        }
    }
}
