//! A YAML document with a place for every key and value.
//!
//! `serde_yaml` gives the values, `saphyr-parser` the places; the two trees have the same shape. Anchors, aliases and
//! tags are not part of the format, so a small file stays a small tree.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, StrInput};
use serde_yaml::Value;

use super::diagnostic::{Diagnostic, Diagnostics, suggest, top_of};
use super::model::Location;

/// How many lines are searched for the tab that an error is about, and how many tabs are tried.
const TABS_NEAR: usize = 64;
const TABS_TRIED: usize = 8;
/// Deeper than any recipe; a bound for the walk.
const DEEPEST: usize = 32;

/// A parsed recipe file.
#[derive(Debug)]
pub struct Document {
    pub file: PathBuf,
    pub text: String,
    /// Where each line begins. Whoever reports a hundred places must not count lines from the top each time.
    starts: Vec<usize>,
    value: Value,
    places: Places,
}

/// Line and column of a value, and of what is in it.
#[derive(Debug)]
struct Places {
    at: (usize, usize),
    children: Children,
}

#[derive(Debug)]
enum Children {
    None,
    List(Vec<Places>),
    /// Key, place of the key, value.
    Map(Vec<(String, (usize, usize), Places)>),
}

/// A value in a document.
#[derive(Debug, Clone, Copy)]
pub struct Node<'d> {
    document: &'d Document,
    value: &'d Value,
    places: &'d Places,
}

impl Document {
    /// Parses one document.
    ///
    /// # Errors
    /// Text that is not YAML, and YAML that a recipe may not use: several documents, duplicate or non-text keys, anchors,
    /// aliases, tags.
    ///
    /// No line of a text that has a key `secret` is shown: what cannot be read may be the secret itself.
    pub fn parse(file: &Path, text: String) -> Result<Self, Diagnostics> {
        let secret = has_key(&text, "secret");
        // Some editors begin a file with a byte order mark (RFC 3629, section 6); it says nothing.
        let text = match text.strip_prefix('\u{feff}') {
            Some(rest) => rest.to_owned(),
            None => text,
        };
        Self::read(file, text).map_err(|found| if secret { found.without_lines() } else { found })
    }

    fn read(file: &Path, text: String) -> Result<Self, Diagnostics> {
        let extent = Extent::of(&text);
        let mut events = Events {
            file,
            text: &text,
            extent: &extent,
            parser: Parser::new_from_str(&text),
            too_large: Vec::new(),
            found: Diagnostics::default(),
        };
        let Some(places) = events.document()? else {
            return Err(Diagnostic::at(
                top_of(file),
                &text,
                "the file is empty",
                "write `key: value` lines into it; `piaas-bake init NAME` writes those of a recipe",
            )
            .into());
        };
        let found = events.found;
        let within_range = within_range(&text, &events.too_large);
        let value: Value = match serde_yaml::from_str(&within_range) {
            Ok(value) => value,
            // Duplicate keys are already reported, each with its place.
            Err(_) if !found.is_empty() => return Err(found),
            Err(error) => {
                let at = error.location().map_or_else(
                    || top_of(file),
                    |at| {
                        let (line, column) = extent.within((at.line(), at.column()));
                        Location {
                            file: file.to_path_buf(),
                            line,
                            column,
                        }
                    },
                );
                return Err(Diagnostic::at(
                    at,
                    &text,
                    format!("not YAML: {error}"),
                    "correct the YAML at this place",
                )
                .into());
            }
        };
        let ends = text.match_indices('\n').map(|(at, _)| at + 1);
        found.or(Self {
            file: file.to_path_buf(),
            starts: std::iter::once(0).chain(ends).collect(),
            text,
            value,
            places,
        })
    }

    /// The whole document.
    pub fn root(&self) -> Node<'_> {
        Node {
            document: self,
            value: &self.value,
            places: &self.places,
        }
    }

    /// A diagnostic at a place in this document.
    pub fn diagnostic(
        &self,
        at: (usize, usize),
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Diagnostic {
        Diagnostic::on_line(self.location(at), self.line(at.0), message, help)
    }

    /// A line, counted from 1, without its end.
    pub fn line(&self, number: usize) -> Option<&str> {
        let start = *self.starts.get(number.checked_sub(1)?)?;
        let end = self.starts.get(number).copied().unwrap_or(self.text.len());
        let line = &self.text[start..end];
        let line = line.strip_suffix('\n').unwrap_or(line);
        Some(line.strip_suffix('\r').unwrap_or(line))
    }

    fn location(&self, (line, column): (usize, usize)) -> Location {
        Location {
            file: self.file.clone(),
            line,
            column,
        }
    }
}

/// The text with the largest integer in the place of those that are too large: serde_yaml would read nothing of it. What
/// reads them refuses both.
fn within_range<'t>(text: &'t str, too_large: &[(usize, usize)]) -> Cow<'t, str> {
    if too_large.is_empty() {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut integers = too_large.iter().peekable();
    let mut skip = 0;
    for (n, c) in text.chars().enumerate() {
        if let Some((_, length)) = integers.next_if(|(at, _)| *at == n) {
            out.push_str(&u64::MAX.to_string());
            skip = *length;
        }
        if skip == 0 {
            out.push(c);
        }
        skip = skip.saturating_sub(1);
    }
    Cow::Owned(out)
}

/// Whether YAML reads an integer that has no place in 64 bits.
fn is_too_large(text: &str) -> bool {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (digits, radix) = match digits.get(..2) {
        Some("0x") => (&digits[2..], 16),
        Some("0o") => (&digits[2..], 8),
        Some("0b") => (&digits[2..], 2),
        _ if digits.starts_with('0') => return false,
        _ => (digits, 10),
    };
    let most = if text.starts_with('-') {
        1 << 63
    } else {
        u128::from(u64::MAX)
    };
    digits.starts_with(|c: char| c.is_ascii_hexdigit())
        && u128::from_str_radix(digits, radix).is_ok_and(|number| number > most)
}

/// Whether `key` may be a key in a text that perhaps is not YAML.
fn has_key(text: &str, key: &str) -> bool {
    let quote_or_blank = |c: char| c.is_whitespace() || matches!(c, '"' | '\'');
    text.split(key)
        .skip(1)
        .any(|rest| rest.trim_start_matches(quote_or_blank).starts_with(':'))
}

/// Builds the tree of places from parser events.
struct Events<'t> {
    file: &'t Path,
    text: &'t str,
    extent: &'t Extent,
    parser: Parser<'t, StrInput<'t>>,
    /// Where integers that do not fit begin, and how long they are, in characters.
    too_large: Vec<(usize, usize)>,
    found: Diagnostics,
}

/// How many characters each line has.
struct Extent(Vec<usize>);

impl Extent {
    fn of(text: &str) -> Self {
        Self(text.split('\n').map(|line| line.chars().count()).collect())
    }

    /// The place, or the nearest one that there is. The parsers see a line after the last one, and lines that end with a
    /// carriage return.
    fn within(&self, (line, column): (usize, usize)) -> (usize, usize) {
        match line.checked_sub(1).and_then(|line| self.0.get(line)) {
            Some(length) => (line, column.clamp(1, length + 1)),
            None if line == 0 => (1, 1),
            None => (self.0.len(), self.0.last().map_or(1, |length| length + 1)),
        }
    }
}

impl<'t> Events<'t> {
    fn diagnostic(
        &self,
        (line, column): (usize, usize),
        message: impl Into<String>,
        help: &str,
    ) -> Diagnostic {
        Diagnostic::at(
            Location {
                file: self.file.to_path_buf(),
                line,
                column,
            },
            self.text,
            message,
            help,
        )
    }

    /// saphyr counts columns from 0, we from 1.
    fn place(&self, mark: Marker) -> (usize, usize) {
        self.extent.within((mark.line(), mark.col() + 1))
    }

    fn next(&mut self) -> Result<(Event<'t>, (usize, usize)), Diagnostics> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => {
                if let Event::Scalar(text, ScalarStyle::Plain, ..) = &event
                    && is_too_large(text)
                {
                    self.too_large
                        .push((span.start.index(), text.chars().count()));
                }
                Ok((event, self.place(span.start)))
            }
            Some(Err(error)) => {
                let at = self.place(*error.marker());
                if let Some(tab) = self.tab(at.0) {
                    let help = "indent with spaces, and put a space after `:` and `-`";
                    let message = "not YAML: a tab; YAML takes spaces only";
                    return Err(self.diagnostic(tab, message, help).into());
                }
                let help = "check the indentation, and quote text that holds `: `, ` #`, `{`, `[`, `*` or `&`";
                Err(self
                    .diagnostic(at, format!("not YAML: {}", error.info()), help)
                    .into())
            }
            None => Ok((Event::StreamEnd, (1, 1))),
        }
    }

    /// The tab that an error near `line` is about: with spaces in its place the text reads otherwise. The parser names
    /// the line, one before it, or the begin of what the tab is in.
    fn tab(&self, line: usize) -> Option<(usize, usize)> {
        let faulty = |text: &str| {
            let mut parser = Parser::new_from_str(text);
            let error = std::iter::from_fn(|| parser.next_event()).find_map(Result::err)?;
            Some((error.marker().line(), error.info().to_owned()))
        };
        let lines: Vec<&str> = self.text.split('\n').collect();
        let first = line.saturating_sub(2);
        let near = lines.iter().enumerate().skip(first).take(TABS_NEAR);
        let mut tried = 0;
        for (n, line) in near {
            let indent = line.len() - line.trim_start_matches([' ', '\t', '-']).len();
            let at = line[..indent]
                .find('\t')
                .or_else(|| line.find(":\t").map(|at| at + 1));
            let Some(at) = at else { continue };
            tried += 1;
            if tried > TABS_TRIED {
                return None;
            }
            let tabs = line.len() - at - line[at..].trim_start_matches('\t').len();
            let spaces = "        ".repeat(tabs);
            let spaced = format!("{}{spaces}{}", &line[..at], &line[at + tabs..]);
            // Up to its end: what follows may have faults of its own, and tabs.
            let before: String = lines[..n].iter().map(|line| format!("{line}\n")).collect();
            let (with, without) = (format!("{before}{line}"), format!("{before}{spaced}"));
            if faulty(&with) != faulty(&without) {
                return Some((n + 1, line[..at].chars().count() + 1));
            }
        }
        None
    }

    fn document(&mut self) -> Result<Option<Places>, Diagnostics> {
        let mut root = None;
        loop {
            match self.next()? {
                (Event::StreamEnd, _) => return Ok(root),
                (Event::DocumentStart(_), at) if root.is_some() => {
                    return Err(self
                        .diagnostic(
                            at,
                            "a second document begins here",
                            "a recipe file holds one; remove the `---`",
                        )
                        .into());
                }
                (
                    Event::DocumentStart(_)
                    | Event::DocumentEnd
                    | Event::StreamStart
                    | Event::Nothing,
                    _,
                ) => {}
                (event, at) => root = Some(self.value(event, at, 0)?),
            }
        }
    }

    fn value(
        &mut self,
        event: Event<'t>,
        at: (usize, usize),
        depth: usize,
    ) -> Result<Places, Diagnostics> {
        if depth > DEEPEST {
            return Err(self
                .diagnostic(
                    at,
                    "this is nested too deep",
                    "a recipe needs five levels at most",
                )
                .into());
        }
        let (anchor, tagged) = match &event {
            Event::Scalar(_, _, anchor, tag) => (*anchor, tag.is_some()),
            Event::SequenceStart(anchor, tag) | Event::MappingStart(anchor, tag) => {
                (*anchor, tag.is_some())
            }
            Event::Alias(id) => (*id, false),
            _ => (0, false),
        };
        if anchor != 0 {
            return Err(self
                .diagnostic(
                    at,
                    "recipes have no anchors and aliases",
                    "write the value out; share by `from`",
                )
                .into());
        }
        if tagged {
            return Err(self
                .diagnostic(
                    at,
                    "recipes have no YAML tags",
                    "quote the text if it begins with `!`",
                )
                .into());
        }
        let children = match event {
            Event::SequenceStart(..) => {
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => break Children::List(items),
                        (event, at) => items.push(self.value(event, at, depth + 1)?),
                    }
                }
            }
            Event::MappingStart(..) => self.map(depth)?,
            _ => Children::None,
        };
        Ok(Places { at, children })
    }

    fn map(&mut self, depth: usize) -> Result<Children, Diagnostics> {
        let mut entries: Vec<(String, (usize, usize), Places)> = Vec::new();
        let mut lines: HashMap<String, usize> = HashMap::new();
        loop {
            let (event, at) = self.next()?;
            let key = match event {
                Event::MappingEnd => return Ok(Children::Map(entries)),
                Event::Scalar(key, _, 0, None) => key.into_owned(),
                _ => {
                    return Err(self
                        .diagnostic(at, "a key must be plain text", "write `key: value`")
                        .into());
                }
            };
            let (event, value_at) = self.next()?;
            let value = self.value(event, value_at, depth + 1)?;
            if let Some(line) = lines.get(&key) {
                if self.found.is_full() {
                    continue;
                }
                let help = format!("it is already on line {line}; keep one of them");
                let found = self.diagnostic(at, format!("duplicate key `{key}`"), &help);
                self.found.push(found);
            } else {
                lines.insert(key.clone(), at.0);
                entries.push((key, at, value));
            }
        }
    }
}

impl<'d> Node<'d> {
    /// Where it stands.
    pub fn location(&self) -> Location {
        self.document.location(self.places.at)
    }

    /// A diagnostic about this value.
    pub fn diagnostic(&self, message: impl Into<String>, help: impl Into<String>) -> Diagnostic {
        self.document.diagnostic(self.places.at, message, help)
    }

    /// The document it is in.
    pub fn document(&self) -> &'d Document {
        self.document
    }

    pub fn is_null(&self) -> bool {
        self.value.is_null()
    }

    pub fn is_map(&self) -> bool {
        self.value.is_mapping()
    }

    /// The value as YAML understands it.
    pub fn value(&self) -> &'d Value {
        self.value
    }

    /// What it is, for messages.
    pub fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "a boolean",
            Value::Number(number) if number.is_f64() => "a number with a fraction",
            Value::Number(_) => "an integer",
            Value::String(_) => "text",
            Value::Sequence(_) => "a list",
            Value::Mapping(_) => "a map",
            Value::Tagged(_) => "a tagged value",
        }
    }

    /// A map's entries in the order of the file: key, its diagnostic builder's place, value.
    pub fn entries(&self, found: &mut Diagnostics) -> Vec<Entry<'d>> {
        let (Value::Mapping(map), Children::Map(places)) = (self.value, &self.places.children)
        else {
            found.push(self.diagnostic(
                format!("expected a map, found {}", self.kind()),
                "write `key: value` lines, indented",
            ));
            return Vec::new();
        };
        places
            .iter()
            .filter_map(|(key, key_at, places)| {
                // A key that YAML reads as a number or boolean has no text form in the value tree.
                let Some(value) = map.get(key.as_str()) else {
                    found.push(self.document.diagnostic(
                        *key_at,
                        format!("key `{key}` is not text"),
                        format!("quote it: \"{key}\""),
                    ));
                    return None;
                };
                Some(Entry {
                    key,
                    key_at: *key_at,
                    node: Node {
                        document: self.document,
                        value,
                        places,
                    },
                })
            })
            .collect()
    }

    /// A map's entries, where only `known` keys may stand.
    pub fn fields(&self, known: &[&str], found: &mut Diagnostics) -> Fields<'d> {
        let entries = self.entries(found);
        for entry in entries.iter().filter(|entry| !known.contains(&entry.key)) {
            if found.is_full() {
                break;
            }
            found.push(entry.diagnostic(
                format!("unknown key `{}`", entry.key),
                suggest(entry.key, known.iter().copied()),
            ));
        }
        Fields {
            owner: *self,
            entries,
        }
    }

    /// The items of a list.
    pub fn items(&self, found: &mut Diagnostics) -> Vec<Self> {
        let (Value::Sequence(items), Children::List(places)) = (self.value, &self.places.children)
        else {
            found.push(self.diagnostic(
                format!("expected a list, found {}", self.kind()),
                "write each item on a line of its own after `- `",
            ));
            return Vec::new();
        };
        items
            .iter()
            .zip(places)
            .map(|(value, places)| Node {
                document: self.document,
                value,
                places,
            })
            .collect()
    }

    /// Text.
    pub fn text(&self, found: &mut Diagnostics) -> Option<&'d str> {
        match self.value.as_str() {
            Some(text) if text.contains('\0') => {
                found.push(self.diagnostic("a NUL character cannot stand here", "remove it"));
                None
            }
            Some(text) => Some(text),
            None => {
                let help = if self.is_null() {
                    "write a value, or remove the key"
                } else {
                    "put it in quotes to make it text"
                };
                found.push(self.diagnostic(format!("expected text, found {}", self.kind()), help));
                None
            }
        }
    }

    /// A boolean.
    pub fn boolean(&self, found: &mut Diagnostics) -> Option<bool> {
        let value = self.value.as_bool();
        if value.is_none() {
            found.push(self.diagnostic(
                format!("expected a boolean, found {}", self.kind()),
                "write `true` or `false`",
            ));
        }
        value
    }

    /// A whole number from 0 to `most`.
    pub fn count(&self, most: u32, found: &mut Diagnostics) -> Option<u32> {
        let value = self
            .value
            .as_u64()
            .and_then(|n| u32::try_from(n).ok())
            .filter(|n| *n <= most);
        if value.is_none() {
            found.push(self.diagnostic(
                format!("expected a whole number, 0 to {most}"),
                "write a number without quotes",
            ));
        }
        value
    }

    /// Text that `parse` understands; its error is the way out.
    pub fn parsed<T>(
        &self,
        what: &str,
        parse: impl Fn(&str) -> Result<T, String>,
        found: &mut Diagnostics,
    ) -> Option<T> {
        let written = match self.value {
            // As it stands there: the value has lost what was not a digit, and what was too much.
            Value::Number(_) => {
                let (line, column) = self.places.at;
                let line = self.document.line(line).unwrap_or_default();
                let rest = line.chars().skip(column - 1);
                rest.take_while(|c| c.is_ascii_alphanumeric() || "+-._".contains(*c))
                    .take(40)
                    .collect()
            }
            _ => self.text(found)?.to_string(),
        };
        // A number without quotes has already lost its leading zeros, so it is never what was meant.
        let result = if self.value.is_number() {
            Err(parse("").err().unwrap_or_else(|| "put it in quotes".into()))
        } else {
            parse(&written)
        };
        result
            .map_err(|help| found.push(self.diagnostic(format!("`{written}` is not {what}"), help)))
            .ok()
    }

    /// Text that passes `check`.
    pub fn checked(
        &self,
        what: &str,
        check: impl Fn(&str) -> bool,
        help: &str,
        found: &mut Diagnostics,
    ) -> Option<String> {
        let text = self.text(found)?;
        if check(text) {
            return Some(text.to_string());
        }
        found.push(self.diagnostic(format!("`{text}` is not {what}"), help));
        None
    }

    /// Likewise one text, or a list of such texts that is not empty.
    pub fn one_or_more(
        &self,
        what: &str,
        check: impl Fn(&str) -> bool,
        help: &str,
        found: &mut Diagnostics,
    ) -> Option<Vec<String>> {
        if !self.value.is_sequence() {
            return self.checked(what, check, help, found).map(|one| vec![one]);
        }
        let items = self.items(found);
        if items.is_empty() {
            found.push(self.diagnostic("the list is empty", help));
            return None;
        }
        let texts = items
            .iter()
            .map(|item| item.checked(what, &check, help, found));
        // All of them are looked at, whichever is wrong.
        let texts: Vec<Option<String>> = texts.collect();
        texts.into_iter().collect()
    }
}

/// A key and its value.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'d> {
    pub key: &'d str,
    key_at: (usize, usize),
    pub node: Node<'d>,
}

impl Entry<'_> {
    /// Where the key stands.
    pub fn location(&self) -> Location {
        self.node.document.location(self.key_at)
    }

    /// A diagnostic about the key.
    pub fn diagnostic(&self, message: impl Into<String>, help: impl Into<String>) -> Diagnostic {
        self.node.document.diagnostic(self.key_at, message, help)
    }
}

/// The entries of a map with known keys.
#[derive(Debug)]
pub struct Fields<'d> {
    owner: Node<'d>,
    entries: Vec<Entry<'d>>,
}

impl<'d> Fields<'d> {
    /// The value of `key`, if it is there.
    pub fn get(&self, key: &str) -> Option<Node<'d>> {
        self.entry(key).map(|entry| entry.node)
    }

    /// The entry of `key`, if it is there.
    pub fn entry(&self, key: &str) -> Option<Entry<'d>> {
        self.entries.iter().find(|entry| entry.key == key).copied()
    }

    /// The value of `key`, which must be there.
    pub fn require(&self, key: &str, help: &str, found: &mut Diagnostics) -> Option<Node<'d>> {
        let node = self.get(key);
        if node.is_none() {
            found.push(self.owner.diagnostic(format!("`{key}` is missing"), help));
        }
        node
    }

    /// The one entry of `choices` that must be there.
    pub fn one_of(&self, choices: &[&str], found: &mut Diagnostics) -> Option<Entry<'d>> {
        let mut present = self
            .entries
            .iter()
            .filter(|entry| choices.contains(&entry.key))
            .copied();
        let all = choices
            .iter()
            .map(|choice| format!("`{choice}`"))
            .collect::<Vec<_>>()
            .join(", ");
        let Some(first) = present.next() else {
            found.push(self.owner.diagnostic(
                format!("one of {all} is missing"),
                format!("write exactly one of {all}"),
            ));
            return None;
        };
        for more in present {
            found.push(more.diagnostic(
                format!("`{}` cannot stand beside `{}`", more.key, first.key),
                format!("keep exactly one of {all}"),
            ));
        }
        Some(first)
    }
}
