//! How a shell reads a script, character by character: what is quoted, what is bare. Written from POSIX (Shell Command
//! Language 2.2, 2.3, 2.6 and 2.7.4) and not from `render::quote`, which it judges.
//!
//! What shells read in different ways, and what none of them runs, is given up.

/// The readings that differ and that are both in use as `sh`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shell {
    /// As dash: `$'` is a dollar sign and a quote, `<<<` is nothing.
    Posix,
    /// As bash: `$'…'` has escapes, `<<<` is a word that follows.
    Bash,
}

/// A character of a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// Stands for itself, in a word.
    Quoted(char),
    /// Means what the grammar says.
    Bare(char),
}

/// Reads a whole script; `None` if it is given up.
pub fn read(text: &str, shell: Shell) -> Option<Vec<Piece>> {
    let mut reader = Reader {
        chars: text.chars().collect(),
        at: 0,
        shell,
        pieces: Vec::new(),
        depth: 0,
    };
    reader.commands(false)?;
    Some(reader.pieces)
}

struct Reader {
    chars: Vec<char>,
    at: usize,
    shell: Shell,
    pieces: Vec<Piece>,
    depth: usize,
}

/// Where a word can be a reserved one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    Command,
    Argument,
    /// After `case`, after the word that follows, and where patterns stand.
    Subject,
    In,
    Pattern,
}

struct Heredoc {
    delimiter: String,
    quoted: bool,
    tabs: bool,
}

impl Reader {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }

    fn starts(&self, text: &str) -> bool {
        text.chars()
            .enumerate()
            .all(|(n, c)| self.peek(n) == Some(c))
    }

    fn bare(&mut self, count: usize) {
        for _ in 0..count {
            let c = self.chars[self.at];
            self.pieces.push(Piece::Bare(c));
            self.at += 1;
        }
    }

    /// Backslash and newline are nothing, anywhere but in single quotes.
    fn continuations(&mut self) {
        while self.starts("\\\n") {
            self.at += 2;
        }
    }

    /// Commands up to the end, or to the `)` of a substitution, which is left.
    fn commands(&mut self, inside: bool) -> Option<()> {
        self.depth += 1;
        if self.depth > 50 {
            return None;
        }
        let mut position = At::Command;
        let mut cases: usize = 0;
        let mut parens: usize = 0;
        let mut fresh = true;
        let mut heredocs: Vec<Heredoc> = Vec::new();
        loop {
            self.continuations();
            let Some(c) = self.peek(0) else {
                // A document that does not begin is one that shells only warn of.
                let ends = !inside && cases == 0 && parens == 0 && heredocs.is_empty();
                self.depth -= 1;
                return ends.then_some(());
            };
            match c {
                ' ' | '\t' => {
                    self.bare(1);
                    fresh = true;
                }
                '\n' => {
                    self.bare(1);
                    fresh = true;
                    for heredoc in std::mem::take(&mut heredocs) {
                        self.body(&heredoc)?;
                    }
                    position = match position {
                        At::Command | At::Argument => At::Command,
                        other => other,
                    };
                }
                '#' if fresh => {
                    while self.peek(0).is_some_and(|c| c != '\n') {
                        self.at += 1;
                    }
                }
                '<' if self.starts("<<<") => {
                    if self.shell == Shell::Posix {
                        return None;
                    }
                    self.bare(3);
                    fresh = true;
                }
                '<' if self.starts("<<") => {
                    self.bare(2);
                    heredocs.push(self.delimiter()?);
                    fresh = false;
                }
                // Bash has commands in arithmetic, dash a subshell in a subshell.
                '(' if self.starts("((") => return None,
                '(' => {
                    parens += usize::from(position != At::Pattern);
                    self.bare(1);
                    fresh = true;
                    if position != At::Pattern {
                        position = At::Command;
                    }
                }
                ')' => {
                    if position == At::Pattern {
                        position = At::Command;
                    } else if parens > 0 {
                        parens -= 1;
                        position = At::Command;
                    } else {
                        let ends = inside && cases == 0 && heredocs.is_empty();
                        self.depth -= 1;
                        return ends.then_some(());
                    }
                    self.bare(1);
                    fresh = true;
                }
                ';' | '&' | '|' => {
                    let double = self.starts(";;");
                    if self.starts(";&") || self.starts(";;&") {
                        return None;
                    }
                    self.bare(if double { 2 } else { 1 });
                    fresh = true;
                    position = match position {
                        _ if double => At::Pattern,
                        At::Pattern => At::Pattern,
                        _ => At::Command,
                    };
                }
                '<' | '>' => {
                    // `<(…)` is a word in bash.
                    if self.peek(1) == Some('(') {
                        return None;
                    }
                    self.bare(1);
                    fresh = true;
                }
                _ => {
                    if fresh {
                        position = self.reserved(position, &mut cases)?;
                    }
                    self.word_part(!heredocs.is_empty())?;
                    fresh = false;
                }
            }
        }
    }

    /// What a word that begins here makes of the position.
    fn reserved(&self, position: At, cases: &mut usize) -> Option<At> {
        let ends = |c: &char| " \t\n;&|()<>".contains(*c);
        let word: String = self.chars[self.at..]
            .iter()
            .take_while(|c| !ends(c))
            .collect();
        // One that is cut in two by a continuation is rarely meant.
        if word.contains('\\') && word.contains('\n') {
            return None;
        }
        Some(match (position, word.as_str()) {
            (At::Command, "case") => {
                *cases += 1;
                At::Subject
            }
            (At::Command | At::Pattern, "esac") if *cases > 0 => {
                *cases -= 1;
                At::Argument
            }
            (
                At::Command,
                "if" | "then" | "else" | "elif" | "while" | "until" | "do" | "{" | "!" | "time",
            ) => At::Command,
            (At::Command | At::Argument, _) => At::Argument,
            (At::Subject, _) => At::In,
            (At::In, "in") => At::Pattern,
            (At::In, _) => return None,
            (At::Pattern, _) => At::Pattern,
        })
    }

    /// A quoted part, an expansion or a character of a word that is not in double quotes.
    fn word_part(&mut self, documents: bool) -> Option<()> {
        match self.peek(0)? {
            '\\' => self.escaped(),
            '\'' => self.single(),
            '"' => self.double(documents),
            '`' => self.backticks(false, documents),
            '$' => self.dollar(false, documents),
            _ => {
                self.bare(1);
                Some(())
            }
        }
    }

    fn escaped(&mut self) -> Option<()> {
        let c = self.peek(1)?;
        self.pieces.push(Piece::Quoted(c));
        self.at += 2;
        Some(())
    }

    fn single(&mut self) -> Option<()> {
        self.at += 1;
        loop {
            let c = self.peek(0)?;
            self.at += 1;
            if c == '\'' {
                return Some(());
            }
            self.pieces.push(Piece::Quoted(c));
        }
    }

    fn double(&mut self, documents: bool) -> Option<()> {
        self.at += 1;
        loop {
            self.continuations();
            match self.peek(0)? {
                '"' => {
                    self.at += 1;
                    return Some(());
                }
                '\\' if self.peek(1).is_some_and(|c| "$`\"\\".contains(c)) => self.escaped()?,
                '`' => self.backticks(true, documents)?,
                '$' => self.dollar(true, documents)?,
                c => {
                    self.pieces.push(Piece::Quoted(c));
                    self.at += 1;
                }
            }
        }
    }

    fn dollar(&mut self, quoted: bool, documents: bool) -> Option<()> {
        let from = self.at;
        self.at += 1;
        self.continuations();
        match self.peek(0) {
            Some('(') => {
                self.at += 1;
                self.continuations();
                if self.peek(0) == Some('(') {
                    self.at += 1;
                    return self.arithmetic();
                }
                self.pieces.extend([Piece::Bare('$'), Piece::Bare('(')]);
                let start = self.at;
                self.commands(true)?;
                // A newline in here: shells disagree whether documents that wait outside begin after it.
                if documents && self.chars[start..self.at].contains(&'\n') {
                    return None;
                }
                self.bare(1);
                Some(())
            }
            Some('{') => {
                self.at += 1;
                self.pieces.extend([Piece::Bare('$'), Piece::Bare('{')]);
                self.parameter(quoted, documents)
            }
            Some('\'') if !quoted && self.shell == Shell::Bash => {
                self.at += 1;
                loop {
                    let c = self.peek(0)?;
                    self.at += 1;
                    match c {
                        '\'' => return Some(()),
                        '\\' => {
                            let c = self.peek(0)?;
                            self.at += 1;
                            self.pieces.extend([Piece::Quoted('\\'), Piece::Quoted(c)]);
                        }
                        c => self.pieces.push(Piece::Quoted(c)),
                    }
                }
            }
            _ => {
                self.at = from;
                self.bare(1);
                Some(())
            }
        }
    }

    /// Up to `))`. Quotes in arithmetic are read differently by every shell.
    fn arithmetic(&mut self) -> Option<()> {
        self.pieces
            .extend([Piece::Bare('$'), Piece::Bare('('), Piece::Bare('(')]);
        let mut parens = 0;
        loop {
            match self.peek(0)? {
                ')' if parens == 0 => {
                    if self.peek(1) != Some(')') {
                        return None;
                    }
                    self.bare(2);
                    return Some(());
                }
                '\'' | '"' | '`' | '\\' | '#' => return None,
                '$' => self.dollar(true, false)?,
                c => {
                    parens += i32::from(c == '(') - i32::from(c == ')');
                    self.bare(1);
                }
            }
        }
    }

    /// Up to the `}` that ends it. A single quote in it, in double quotes, is a quote or not by the operator.
    fn parameter(&mut self, quoted: bool, documents: bool) -> Option<()> {
        loop {
            self.continuations();
            match self.peek(0)? {
                '}' => {
                    self.bare(1);
                    return Some(());
                }
                '\'' | '"' | '\\' if quoted => return None,
                '<' | '>' | '(' | ')' | '\n' => return None,
                '`' => self.backticks(quoted, documents)?,
                '$' => self.dollar(quoted, documents)?,
                _ if quoted => self.bare(1),
                _ => self.word_part(documents)?,
            }
        }
    }

    /// Up to the next backtick without a backslash; what is in them is a script of its own.
    fn backticks(&mut self, quoted: bool, documents: bool) -> Option<()> {
        self.at += 1;
        let mut inner = String::new();
        loop {
            let c = self.peek(0)?;
            self.at += 1;
            match c {
                '`' => break,
                '\\' => {
                    let next = self.peek(0)?;
                    self.at += 1;
                    if !("$`\\".contains(next) || (quoted && next == '"')) {
                        inner.push('\\');
                    }
                    inner.push(next);
                }
                c => inner.push(c),
            }
        }
        if documents && inner.contains('\n') {
            return None;
        }
        self.pieces.push(Piece::Bare('`'));
        self.pieces.extend(read(&inner, self.shell)?);
        self.pieces.push(Piece::Bare('`'));
        Some(())
    }

    /// The delimiter of a here-document, after `<<`.
    fn delimiter(&mut self) -> Option<Heredoc> {
        let tabs = self.peek(0) == Some('-');
        if tabs {
            self.bare(1);
        }
        while matches!(self.peek(0), Some(' ' | '\t')) {
            self.bare(1);
        }
        let from = self.pieces.len();
        let mut quoted = false;
        loop {
            let before = self.at;
            match self.peek(0) {
                None => return None,
                Some('\n' | ' ' | '\t' | ';' | '&' | '|' | '<' | '>' | '(' | ')') => break,
                Some('$' | '`') => return None,
                Some('\\') => self.escaped()?,
                Some('\'') => self.single()?,
                Some('"') => self.double(false)?,
                Some(_) => self.bare(1),
            }
            quoted |= matches!(self.chars[before], '\\' | '\'' | '"');
        }
        let word = self.pieces[from..].iter().map(|piece| match piece {
            Piece::Quoted(c) | Piece::Bare(c) => *c,
        });
        let delimiter: String = word.collect();
        // An empty one without quotes is none; one of several lines ends differently in each shell.
        if (delimiter.is_empty() && !quoted) || delimiter.contains(['\n', '\\']) {
            return None;
        }
        Some(Heredoc {
            delimiter,
            quoted,
            tabs,
        })
    }

    /// The lines of a here-document, up to its delimiter. What is expanded in them is not looked into: no value stands
    /// there.
    fn body(&mut self, heredoc: &Heredoc) -> Option<()> {
        let mut continued = false;
        loop {
            let rest = &self.chars[self.at..];
            if rest.is_empty() {
                return None;
            }
            let length = rest.iter().position(|c| *c == '\n').unwrap_or(rest.len());
            let line: String = rest[..length].iter().collect();
            self.at = (self.at + length + 1).min(self.chars.len());
            let compare = if heredoc.tabs {
                line.trim_start_matches('\t')
            } else {
                &line
            };
            if compare == heredoc.delimiter && !continued {
                return Some(());
            }
            if !heredoc.quoted {
                // An expansion can have lines of its own.
                if line.contains(['$', '`']) {
                    return None;
                }
                let slashes = line.chars().rev().take_while(|c| *c == '\\').count();
                continued = slashes % 2 == 1;
            }
            self.pieces.extend(line.chars().map(Piece::Bare));
            self.pieces.push(Piece::Bare('\n'));
        }
    }
}
