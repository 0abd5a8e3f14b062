//! Where values may stand in a script.
//!
//! A value becomes one word in single quotes, whatever is in it. That holds only where the shell reads a word: inside
//! quotes, a comment, a here-document, arithmetic or backticks the same bytes mean something else. [`misplaced`] walks
//! the text of a template with the quoting rules of POSIX (Shell Command Language 2.2, 2.3 and 2.7.4) and names such
//! places. Where dash and bash read a text in two ways, no value may follow.

use super::tags::{Tag, TagKind};

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
const PARAMETER: Misplaced = Misplaced {
    why: "the value stands in an expansion that reads it as something else than a word",
    help: "assign it first: x={{ value }}, then use \"$x\"",
};
const LOST: Misplaced = Misplaced {
    why: "shells do not agree on how the text before this value reads",
    help: "close each quote in the branch that opens it; put odd here-documents and `$'…'` into a file with `script:`, and \
           pass the value by `env:`",
};

/// What has begun and not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Frame {
    Single,
    Double,
    /// `$( )`, or `( )` inside one.
    Command {
        parens: usize,
    },
    Arithmetic {
        parens: usize,
    },
    Parameter(Operator),
}

/// What an expansion does with what stands after its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    /// `${x:-word}` and the like.
    Word,
    /// `${x#pattern}` and the like.
    Pattern,
    /// Nothing, or something of bash.
    Other,
}

/// Where a word can be a reserved one (Shell Command Language 2.4). Only `case` matters: a `)` after its patterns ends
/// no substitution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    Command,
    Argument,
    /// After `case`, and after the word that follows it.
    Subject,
    In,
    Pattern,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Words {
    position: Position,
    cases: usize,
}

const START: Words = Words {
    position: Position::Command,
    cases: 0,
};

/// A here-document that begins after this line.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Heredoc {
    delimiter: String,
    /// Nothing in it is expanded.
    quoted: bool,
    /// Leading tabs are dropped.
    tabs: bool,
    /// In how many frames its `<<` stands.
    depth: usize,
}

/// How the text before a place was read.
#[derive(Debug, Clone)]
struct State {
    frames: Vec<Frame>,
    /// Of the whole text, and of each substitution in `frames`.
    words: Vec<Words>,
    heredocs: Vec<Heredoc>,
    /// Where the here-document begins that this is in.
    document: Option<usize>,
    /// The character before, as the shell sees it.
    last: Option<char>,
    /// A new token begins here.
    fresh: bool,
}

impl State {
    /// Whether the same text after it reads the same, but for the first character.
    fn agrees(&self, other: &Self) -> bool {
        self.frames == other.frames
            && self.heredocs == other.heredocs
            && self.document == other.document
    }
}

/// A statement that other text depends on.
struct Branch {
    is_loop: bool,
    before: State,
}

struct Scanner<'t> {
    text: &'t str,
    tags: &'t [Tag],
    at: usize,
    state: State,
    branches: Vec<Branch>,
    /// From here on shells do not agree.
    lost: bool,
    found: Vec<(usize, Misplaced)>,
}

/// The values that stand where they must not: byte offset in `text` and why.
pub fn misplaced(text: &str, tags: &[Tag]) -> Vec<(usize, Misplaced)> {
    let mut scanner = Scanner {
        text,
        tags: &trimmed(text, tags),
        at: 0,
        state: State {
            frames: Vec::new(),
            words: vec![START],
            heredocs: Vec::new(),
            document: None,
            last: None,
            fresh: true,
        },
        branches: Vec::new(),
        lost: false,
        found: Vec::new(),
    };
    while scanner.at < text.len() {
        scanner.step();
    }
    scanner.found
}

/// The tags with the blanks that their `-` takes away, so that nobody sees these.
fn trimmed(text: &str, tags: &[Tag]) -> Vec<Tag> {
    let mut end = 0;
    let mut out: Vec<Tag> = Vec::with_capacity(tags.len());
    for tag in tags {
        let mut tag = tag.clone();
        if text[tag.start + 2..tag.end - 2].starts_with('-') {
            tag.start = end + text[end..tag.start].trim_end().len();
        }
        tag.start = tag.start.max(end);
        if text[..tag.end - 2].ends_with('-') {
            tag.end += text[tag.end..].len() - text[tag.end..].trim_start().len();
        }
        end = tag.end;
        out.push(tag);
    }
    out
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n')
}

fn ends_word(c: char) -> bool {
    is_blank(c) || ";&|()<>".contains(c)
}

impl<'t> Scanner<'t> {
    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn tag(&self) -> Option<&Tag> {
        self.tag_at(self.at)
    }

    fn tag_at(&self, at: usize) -> Option<&Tag> {
        self.tags
            .binary_search_by_key(&at, |tag| tag.start)
            .ok()
            .map(|n| &self.tags[n])
    }

    /// Steps over the tag that begins here; a value is judged by `why`.
    fn pass_tag(&mut self, why: Option<Misplaced>) -> bool {
        let Some(tag) = self.tag().cloned() else {
            return false;
        };
        self.at = tag.end;
        match tag.kind {
            TagKind::Value => {
                if let Some(why) = why {
                    let blanks = &self.text[tag.start..];
                    let start = self.text.len() - blanks.trim_start().len();
                    self.found.push((start, why));
                }
                self.begin_word("");
                self.state.last = Some('\'');
                self.state.fresh = false;
            }
            TagKind::Statement => {
                let inside = &self.text[tag.inner];
                let word = inside
                    .split(|c: char| !c.is_ascii_alphanumeric())
                    .next()
                    .unwrap_or_default();
                self.statement(word);
            }
            TagKind::Comment => {}
        }
        true
    }

    /// What stands in a branch must leave everything as it was: after it, nobody knows whether it was taken.
    fn statement(&mut self, word: &str) {
        match word {
            "if" | "for" => self.branches.push(Branch {
                is_loop: word == "for",
                before: self.state.clone(),
            }),
            "elif" | "else" => {
                if let Some(branch) = self.branches.last() {
                    self.lost |= !branch.before.agrees(&self.state);
                    self.state = branch.before.clone();
                }
            }
            "endif" | "endfor" => {
                if let Some(Branch { before, .. }) = self.branches.pop() {
                    self.lost |= !before.agrees(&self.state);
                    // A comment begins here or does not.
                    self.lost |= before.fresh != self.state.fresh && self.rest().starts_with('#');
                    if before.last == Some('$') {
                        self.state.last = before.last;
                    }
                }
            }
            "break" | "continue" => {
                let around = self.branches.iter().rev().find(|branch| branch.is_loop);
                if let Some(branch) = around {
                    self.lost |= !branch.before.agrees(&self.state);
                }
            }
            _ => {}
        }
    }

    fn step(&mut self) {
        let here = self.judge();
        if self.pass_tag(here) {
            return;
        }
        let Some(c) = self.rest().chars().next() else {
            return;
        };
        let top = self.state.frames.last().copied();
        if top == Some(Frame::Single) {
            if c == '\'' {
                self.state.frames.pop();
            }
            self.take(c.len_utf8());
            return;
        }
        let quoted = self.in_double();
        let command = matches!(top, None | Some(Frame::Command { .. }));
        if command && self.state.fresh && !ends_word(c) {
            self.begin_word(self.word_here());
        }
        match c {
            '\\' => self.escape(),
            '\'' if quoted => {
                // In `"${x:-…}"` it stands for itself, in `"${x#…}"` and deeper it depends.
                let nested = self
                    .state
                    .frames
                    .iter()
                    .rev()
                    .take_while(|f| **f != Frame::Double);
                let odd =
                    top != Some(Frame::Double) && top != Some(Frame::Parameter(Operator::Word));
                self.lost |= odd || nested.count() > 1;
                self.take(1);
            }
            '\'' => {
                self.lost |= matches!(top, Some(Frame::Arithmetic { .. }));
                self.ansi_quotes();
                self.push(Frame::Single, 1);
            }
            '"' if top == Some(Frame::Double) => self.pop(1),
            '"' => self.push(Frame::Double, 1),
            '`' => self.backticks(),
            '$' => self.dollar(),
            '}' if matches!(top, Some(Frame::Parameter(_))) => self.pop(1),
            '(' | ')' => self.paren(c),
            '#' if command && self.state.fresh => self.comment(),
            '<' if command && self.rest().starts_with("<<<") => self.take(3),
            '<' if command && self.rest().starts_with("<<") => self.heredoc(),
            '\n' if command => self.newline(),
            ';' | '&' | '|' if command => self.separator(),
            _ => self.take(c.len_utf8()),
        }
    }

    /// Goes on; the shell sees these characters.
    fn take(&mut self, length: usize) {
        let taken = &self.text[self.at..self.at + length];
        self.state.last = taken.chars().next_back();
        self.state.fresh = self.state.last.is_some_and(ends_word);
        self.at += length;
    }

    fn push(&mut self, frame: Frame, length: usize) {
        self.take(length);
        if matches!(frame, Frame::Command { .. }) {
            self.state.words.push(START);
        }
        self.state.frames.push(frame);
    }

    fn pop(&mut self, length: usize) {
        let depth = self.state.frames.len();
        if let Some(Frame::Command { .. }) = self.state.frames.pop() {
            self.state.words.pop();
            // A document whose line never ended.
            self.lost |= self
                .state
                .heredocs
                .iter()
                .any(|document| document.depth == depth);
        }
        self.take(length);
        // The end of a part of a word ends no token.
        self.state.fresh = false;
    }

    /// The frame that says how quotes are read here.
    fn around(&self) -> Option<Frame> {
        let mut frames = self.state.frames.iter().rev();
        frames
            .find(|frame| !matches!(frame, Frame::Parameter(_)))
            .copied()
    }

    /// Inside double quotes, or in `${ }` inside them.
    fn in_double(&self) -> bool {
        self.around() == Some(Frame::Double)
    }

    fn judge(&self) -> Option<Misplaced> {
        if self.lost {
            return Some(LOST);
        }
        match self.around() {
            Some(Frame::Double | Frame::Single) => return Some(QUOTED),
            Some(Frame::Arithmetic { .. }) => return Some(ARITHMETIC),
            _ => {}
        }
        if self.state.frames.last() == Some(&Frame::Parameter(Operator::Other)) {
            return Some(PARAMETER);
        }
        (self.state.last == Some('$')).then_some(DOLLAR)
    }

    fn escape(&mut self) {
        self.at += 1;
        if self.rest().starts_with('\n') {
            // Both are nothing to the shell.
            self.at += 1;
            return;
        }
        // Which character it escapes depends.
        self.lost |= self.tag().is_some_and(|tag| tag.kind == TagKind::Statement);
        if !self.pass_tag(Some(BACKSLASH)) {
            self.take(self.rest().chars().next().map_or(0, char::len_utf8));
            self.state.last = None;
            self.state.fresh = false;
        }
    }

    /// `$'…'` is read with backslashes by bash, and by dash without.
    fn ansi_quotes(&mut self) {
        if self.state.last != Some('$') {
            return;
        }
        let inside = &self.rest()[1..];
        let end = inside.find('\'').unwrap_or(inside.len());
        let slashes = inside[..end].chars().rev().take_while(|c| *c == '\\');
        self.lost |= slashes.count() % 2 == 1;
    }

    fn dollar(&mut self) {
        let next = self.at + 1;
        let after = &self.text[next..];
        if after.starts_with("\\\n") {
            self.lost = true;
        }
        if after.starts_with("((") {
            self.push(Frame::Arithmetic { parens: 0 }, 3);
        } else if after.starts_with('(') {
            self.push(Frame::Command { parens: 0 }, 2);
            self.state.fresh = true;
        } else if after.starts_with('{') && self.tag_at(next).is_none() {
            self.push(Frame::Parameter(operator(&after[1..])), 2);
        } else {
            self.take(1);
        }
    }

    fn words(&mut self) -> &mut Words {
        self.state
            .words
            .last_mut()
            .expect("the first is that of the whole text, and no frame takes it away")
    }

    /// The word that begins here, if it has no quotes and no tag.
    fn word_here(&self) -> &'t str {
        let rest = self.rest();
        let end = rest.find(ends_word).unwrap_or(rest.len());
        &rest[..end]
    }

    /// A word begins where words are read.
    fn begin_word(&mut self, word: &str) {
        if !self.state.fresh {
            return;
        }
        let Words { position, cases } = *self.words();
        let (position, cases) = match (position, word) {
            (Position::Command, "case") => (Position::Subject, cases + 1),
            (Position::Command | Position::Pattern, "esac") if cases > 0 => {
                (Position::Argument, cases - 1)
            }
            (
                Position::Command,
                "if" | "then" | "else" | "elif" | "while" | "until" | "do" | "{" | "!" | "time",
            ) => (Position::Command, cases),
            (Position::Command | Position::Argument, _) => (Position::Argument, cases),
            (Position::Subject, _) => (Position::In, cases),
            (Position::In, _) | (Position::Pattern, _) => (Position::Pattern, cases),
        };
        *self.words() = Words { position, cases };
    }

    fn separator(&mut self) {
        let double = self.rest().starts_with(";;") || self.rest().starts_with(";&");
        self.take(if double { 2 } else { 1 });
        let words = self.words();
        if double {
            words.position = Position::Pattern;
        } else if words.position != Position::Pattern {
            words.position = Position::Command;
        }
    }

    fn paren(&mut self, c: char) {
        let next_too = self.text[self.at + 1..].starts_with(c);
        let base = self.state.frames.is_empty();
        match (self.state.frames.last_mut(), c) {
            (Some(Frame::Arithmetic { parens }), '(') => *parens += 1,
            (Some(Frame::Arithmetic { parens }), _) if *parens > 0 => *parens -= 1,
            (Some(Frame::Arithmetic { .. }), _) => {
                // Commands after all, to bash.
                self.lost |= !next_too;
                self.pop(if next_too { 2 } else { 1 });
                return;
            }
            (Some(Frame::Command { .. }), _) => {
                let words = *self.words();
                let Some(Frame::Command { parens }) = self.state.frames.last_mut() else {
                    return;
                };
                match (words.position, c) {
                    (Position::Pattern, '(') => {}
                    (Position::Pattern, _) => self.words().position = Position::Command,
                    (_, '(') => {
                        *parens += 1;
                        self.words().position = Position::Command;
                    }
                    _ if *parens > 0 => {
                        *parens -= 1;
                        self.words().position = Position::Command;
                    }
                    _ => {
                        // In an unfinished `case` only a pattern has one.
                        self.lost |= words.cases > 0;
                        self.pop(1);
                        return;
                    }
                }
            }
            _ if base => {
                // To bash `((` is arithmetic, where `<<` begins no document.
                let line = self.rest().lines().next().unwrap_or_default();
                self.lost |= c == '(' && next_too && line.contains("<<");
                let words = self.words();
                if c == ')' || words.position != Position::Pattern {
                    words.position = Position::Command;
                }
            }
            _ => {}
        }
        self.take(1);
    }

    fn comment(&mut self) {
        while self.at < self.text.len() {
            if self.pass_tag(Some(COMMENT)) {
                continue;
            }
            if self.rest().starts_with('\n') {
                break;
            }
            self.at += self.rest().chars().next().map_or(1, char::len_utf8);
        }
        self.state.fresh = true;
    }

    /// Up to the next backtick without a backslash, whatever is between them.
    fn backticks(&mut self) {
        self.take(1);
        let why = if self.lost { LOST } else { BACKTICKS };
        while self.at < self.text.len() {
            if self.pass_tag(Some(why)) {
                continue;
            }
            let mut chars = self.rest().chars();
            match chars.next() {
                Some('`') => break,
                Some('\\') => self.at += 1 + chars.next().map_or(0, char::len_utf8),
                c => self.at += c.map_or(1, char::len_utf8),
            }
        }
        self.at = (self.at + 1).min(self.text.len());
        self.state.last = Some('`');
        self.state.fresh = false;
    }

    /// `<<` and its delimiter, quotes removed.
    fn heredoc(&mut self) {
        self.take(2);
        let tabs = self.rest().starts_with('-');
        self.at += usize::from(tabs);
        self.at += self.rest().len() - self.rest().trim_start_matches([' ', '\t']).len();
        let (mut delimiter, mut quoted, mut quote) = (String::new(), false, None);
        while self.at < self.text.len() {
            if self.tag().is_some() {
                let kind = self.tag().map(|tag| tag.kind);
                self.pass_tag(Some(HEREDOC));
                // Nobody knows how it ends.
                self.lost |= kind != Some(TagKind::Comment);
                continue;
            }
            let Some(c) = self.rest().chars().next() else {
                break;
            };
            match (quote, c) {
                (None, c) if ends_word(c) => break,
                (None, '\'' | '"') => {
                    quote = Some(c);
                    quoted = true;
                }
                (Some(open), c) if c == open => quote = None,
                (None | Some('"'), '\\') => {
                    quoted = true;
                    self.at += 1;
                    let escaped = self.rest().chars().next();
                    self.lost |= quote.is_some() || escaped == Some('\n');
                    delimiter.extend(escaped);
                    self.at += escaped.map_or(0, char::len_utf8);
                    continue;
                }
                (quote, c) => {
                    self.lost |= (c == '$' || c == '`') && quote != Some('\'') || c == '\n';
                    delimiter.push(c);
                }
            }
            self.at += c.len_utf8();
        }
        self.state.last = None;
        self.state.fresh = false;
        if quoted || !delimiter.is_empty() {
            let depth = self.state.frames.len();
            self.state.heredocs.push(Heredoc {
                delimiter,
                quoted,
                tabs,
                depth,
            });
        }
    }

    fn newline(&mut self) {
        self.take(1);
        let words = self.words();
        if words.position == Position::Argument {
            words.position = Position::Command;
        }
        let depth = self.state.frames.len();
        for document in std::mem::take(&mut self.state.heredocs) {
            // One that waits outside of this substitution.
            self.lost |= document.depth != depth;
            self.body(&document);
        }
        self.state.last = None;
        self.state.fresh = true;
    }

    fn body(&mut self, document: &Heredoc) {
        let start = self.at;
        self.state.document = Some(start);
        // This line, with what was continued in it.
        let (mut continued, mut held) = (false, String::new());
        while self.at < self.text.len() {
            let end = self.line_end();
            let line = &self.text[self.at..end];
            let shown = |line: &str| match document.tabs {
                true => line.trim_start_matches('\t').to_owned(),
                false => line.to_owned(),
            };
            let written = shown(line);
            let ends = written == document.delimiter && !continued;
            let rendered = shown(&self.without_statements(self.at, end));
            held.push_str(&rendered);
            // The delimiter is there or is not: by the value of a condition, or cut in two, by the shell.
            self.lost |= held == document.delimiter && !ends;
            if ends && !document.quoted && unbalanced(&self.text[start..self.at]) {
                self.lost = true;
            }
            let slashes = line.chars().rev().take_while(|c| *c == '\\').count();
            continued = !document.quoted && slashes % 2 == 1;
            if continued {
                held.pop();
            } else {
                held.clear();
            }
            let why = if self.lost { LOST } else { HEREDOC };
            while self.at < end {
                if !self.pass_tag(Some(why)) {
                    self.at += self.rest().chars().next().map_or(1, char::len_utf8);
                }
            }
            // A tag may have taken the end of the line.
            if self.rest().starts_with('\n') {
                self.at += 1;
            }
            if ends {
                break;
            }
        }
        self.state.document = None;
    }

    /// Where this line ends, but for line ends in tags.
    fn line_end(&self) -> usize {
        let mut at = self.at;
        loop {
            let end = self.text[at..]
                .find('\n')
                .map_or(self.text.len(), |length| at + length);
            let over = self
                .tags
                .iter()
                .find(|tag| tag.start <= end && end < tag.end);
            match over {
                Some(tag) => at = tag.end,
                None => return end,
            }
        }
    }

    fn without_statements(&self, from: usize, to: usize) -> String {
        let mut out = String::new();
        let mut at = from;
        for tag in self
            .tags
            .iter()
            .filter(|tag| tag.kind != TagKind::Value && tag.end > from && tag.start < to)
        {
            out.push_str(&self.text[at.min(tag.start)..tag.start]);
            at = tag.end.min(to);
        }
        out.push_str(&self.text[at..to]);
        out
    }
}

/// What stands between `${` and the word.
fn operator(after: &str) -> Operator {
    let named = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut name = after.find(|c| !named(c)).unwrap_or(after.len());
    if name == 0 {
        // `$@`, `$#` and the like have one character.
        name = after.chars().next().map_or(0, char::len_utf8);
    }
    let rest = &after[name..];
    let rest = rest.strip_prefix(':').unwrap_or(rest);
    match rest.chars().next() {
        Some('-' | '=' | '?' | '+') => Operator::Word,
        Some('#' | '%') => Operator::Pattern,
        _ => Operator::Other,
    }
}

/// Whether an expansion has begun and not ended.
fn unbalanced(text: &str) -> bool {
    let count = |what: &str| text.matches(what).count();
    count("$(") > count(")") || count("${") > count("}") || count("`") % 2 == 1
}

#[cfg(test)]
mod tests;
