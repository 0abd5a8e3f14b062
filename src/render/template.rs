//! One template to one text, with tera's errors brought to their place.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use tera::{Context, Delimiters, ErrorKind, Kwargs, State, Tera};

use super::place;
use super::quote;
use super::tags::{self, Dialect, Tag, TagKind};
use crate::recipe::diagnostic::{Diagnostic, Diagnostics, suggest};
use crate::recipe::files;
use crate::recipe::model::{InlineText, Location, Value};

/// Statements that cannot change how a value in them is quoted.
const SCRIPT_STATEMENTS: [&str; 11] = [
    "if", "elif", "else", "endif", "for", "endfor", "set", "raw", "endraw", "break", "continue",
];

/// The filter that quotes each item of a list; every value of a script goes through it.
const WORDS: &str = "__words";

/// The filter that a condition goes through.
const BOOLEAN: &str = "__boolean";

/// The template that a condition becomes.
const WHEN: &str = "when";

/// Renders templates with the values of one recipe line.
pub struct Renderer {
    /// The engines, while nobody has them.
    script: Option<Tera>,
    plain: Option<Tera>,
    context: Context,
    known: BTreeSet<String>,
    used: BTreeSet<String>,
}

/// Where the text of a template comes from.
#[derive(Debug, Clone, Copy)]
pub enum Origin<'a> {
    /// A file of its own.
    File(&'a Path),
    /// Text in a recipe, somewhere after this place.
    Inline(&'a Location),
    /// A short text in a recipe, at this very place.
    At(&'a Location),
}

impl Renderer {
    /// A renderer that knows these values.
    pub fn new(parameters: &BTreeMap<String, Value>) -> Self {
        let mut context = Context::new();
        for (name, value) in parameters {
            context.insert(name.clone(), value);
        }
        Self::with(context, parameters.keys().cloned().collect())
    }

    /// A renderer that knows one value.
    pub fn of(name: &str, value: &impl serde::Serialize) -> Self {
        let mut context = Context::new();
        context.insert(name.to_string(), value);
        Self::with(context, BTreeSet::from([name.to_string()]))
    }

    fn with(context: Context, known: BTreeSet<String>) -> Self {
        Self {
            script: None,
            plain: None,
            context,
            known,
            used: BTreeSet::new(),
        }
    }

    /// The parameters that templates have named so far.
    pub fn used(&self) -> &BTreeSet<String> {
        &self.used
    }

    /// The engine of a dialect: one for all texts, for its filters cost more than most texts. After an error it is not
    /// given back: what is left in it is not known.
    fn take(&mut self, dialect: Dialect) -> Tera {
        match dialect {
            Dialect::Script => self.script.take().unwrap_or_else(script_engine),
            Dialect::Plain => self.plain.take().unwrap_or_else(plain_engine),
        }
    }

    fn give_back(&mut self, dialect: Dialect, engine: Tera) {
        match dialect {
            Dialect::Script => self.script = Some(engine),
            Dialect::Plain => self.plain = Some(engine),
        }
    }

    /// Renders `text`; `None` if something is wrong with it (then `found` says what).
    pub fn render(
        &mut self,
        text: &str,
        origin: Origin<'_>,
        dialect: Dialect,
        found: &mut Diagnostics,
    ) -> Option<String> {
        let (mut engine, tags) = self.prepare(text, origin, dialect, found)?;
        let source = if dialect == Dialect::Script {
            Source::with_words(text, &tags)
        } else {
            Source::plain(text)
        };
        let name = name(dialect);
        match engine
            .add_raw_template(name, &source.text)
            .and_then(|()| engine.render(name, &self.context))
        {
            Ok(rendered) => {
                self.give_back(dialect, engine);
                Some(rendered)
            }
            Err(error) => {
                report(&error, &source, text, origin, found);
                None
            }
        }
    }

    /// Checks a text that is not to be rendered: its syntax, and the names in it.
    pub fn check(
        &mut self,
        text: &str,
        origin: Origin<'_>,
        dialect: Dialect,
        found: &mut Diagnostics,
    ) {
        // What there is to say is in `found`.
        if let Some((engine, _)) = self.prepare(text, origin, dialect, found) {
            self.give_back(dialect, engine);
        }
    }

    /// Whether a condition holds: an expression of tera without braces, which must be a boolean.
    pub fn condition(&mut self, condition: &InlineText, found: &mut Diagnostics) -> Option<bool> {
        let text = condition.text.as_str();
        let origin = Origin::At(&condition.at);
        let mut engine = self.take(Dialect::Plain);
        // First by itself: "a) or (b" would be sound inside the parentheses.
        for (open, close) in [
            ("{{ ", " }}".to_owned()),
            ("{{ (", format!(") | {BOOLEAN} }}}}")),
        ] {
            let source = Source::between(open, text, &close);
            if let Err(error) = engine.add_raw_template(WHEN, &source.text) {
                report(&error, &source, text, origin, found);
                return None;
            }
            let before = found.0.len();
            let place = |variable: &str| word_at(text, variable).unwrap_or(0);
            self.names(&engine, WHEN, text, origin, place, found);
            if found.0.len() > before {
                return None;
            }
        }
        match engine.render(WHEN, &self.context) {
            Ok(rendered) => {
                self.give_back(Dialect::Plain, engine);
                Some(rendered == "true")
            }
            // It is one line: its begin is place enough, and the end of what was put around it would be none.
            Err(error) => {
                let message = match error.kind() {
                    ErrorKind::SyntaxError(report) | ErrorKind::RenderingError(report) => {
                        lower(report.message())
                    }
                    other => lower(other.to_string().lines().next().unwrap_or_default()),
                };
                let help = "write an expression that is true or false, such as `port == 80`";
                found.push(diagnostic(text, 0, origin, message, help));
                None
            }
        }
    }

    /// The engine for a text that is sound, and the tags in it.
    fn prepare(
        &mut self,
        text: &str,
        origin: Origin<'_>,
        dialect: Dialect,
        found: &mut Diagnostics,
    ) -> Option<(Tera, Vec<Tag>)> {
        let tags = tags::scan(text, dialect);
        let before = found.0.len();
        for tag in tags.iter().filter(|tag| tag.kind == TagKind::Value) {
            if is_of_systems_manager(&text[tag.inner.clone()]) {
                let help = "Systems Manager never sees this text: declare a parameter with `secret: true` and the value \
                            ssm:/path, or read it in the script on the machine";
                let message = "these braces are a reference of Systems Manager";
                found.push(diagnostic(text, tag.start, origin, message, help));
            }
        }
        if found.0.len() > before {
            return None;
        }
        if dialect == Dialect::Script {
            check_script(text, &tags, origin, found);
        }
        let mut engine = self.take(dialect);
        let name = name(dialect);
        // First as it was written, so that errors speak of what was written.
        if let Err(error) = engine.add_raw_template(name, text) {
            report(&error, &Source::plain(text), text, origin, found);
            return None;
        }
        let place = |variable: &str| {
            let tag = tags
                .iter()
                .find(|tag| tags::mentions(&text[tag.inner.clone()], variable));
            tag.map_or(0, |tag| tag.start)
        };
        self.names(&engine, name, text, origin, place, found);
        (found.0.len() == before).then_some((engine, tags))
    }

    /// Notes which parameters a template names, and reports what is none.
    fn names(
        &mut self,
        engine: &Tera,
        name: &str,
        text: &str,
        origin: Origin<'_>,
        place: impl Fn(&str) -> usize,
        found: &mut Diagnostics,
    ) {
        let variables: BTreeSet<String> = engine
            .get_template_variables(name)
            .into_iter()
            .flatten()
            .map(String::from)
            .collect();
        for variable in variables {
            if self.known.contains(&variable) {
                self.used.insert(variable);
                continue;
            }
            let help = format!(
                "{} Or declare it under `parameters:`",
                suggest(&variable, self.known.iter().map(String::as_str))
            );
            let at = place(&variable);
            let message = format!("`{variable}` is not defined");
            found.push(diagnostic(text, at, origin, message, help));
        }
    }
}

/// `ssm:`, `ssm-secure:`, `resolve:` and `global:` begin references of command and automation documents and of
/// CloudFormation; no expression of tera has a colon there.
fn is_of_systems_manager(inside: &str) -> bool {
    ["ssm:", "ssm-secure:", "resolve:", "global:", "automation:"]
        .iter()
        .any(|prefix| inside.starts_with(prefix))
}

/// The name of a template decides on escaping; `.sh` is what the script engine escapes.
fn name(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Script => "script.sh",
        Dialect::Plain => "text",
    }
}

/// Where a word of its own stands in a text.
fn word_at(text: &str, word: &str) -> Option<usize> {
    let of_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices(word)
        .map(|(at, _)| at)
        .find(|at| !text[..*at].ends_with(of_word) && !text[at + word.len()..].starts_with(of_word))
}

/// What a condition must be.
fn boolean(value: &tera::Value, _: Kwargs, _: &State<'_>) -> tera::TeraResult<tera::Value> {
    if value.is_bool() {
        return Ok(value.clone());
    }
    Err(tera::Error::message(format!(
        "a condition must be true or false, this is {value}",
    )))
}

/// tera for texts and conditions.
fn plain_engine() -> Tera {
    let mut engine = Tera::default();
    engine.register_filter(BOOLEAN, boolean);
    engine
}

/// tera for scripts: every value is quoted, and what would take the quotes off is not there.
fn script_engine() -> Tera {
    let mut engine = Tera::default();
    let delimiters = Delimiters {
        comment_start: "{=".into(),
        comment_end: "=}".into(),
        ..Delimiters::default()
    };
    engine
        .set_delimiters(delimiters)
        .expect("the delimiters differ from each other and no template is loaded");
    engine.autoescape_on([".sh"]);
    engine.set_escape_fn(quote::quote);
    engine.register_filter(WORDS, words);
    engine.register_filter("join", join);
    for name in [
        "safe",
        "escape",
        "escape_html",
        "escape_xml",
        "newlines_to_br",
    ] {
        engine.register_filter(
            name,
            |_: &tera::Value, _: Kwargs, _: &State<'_>| -> tera::TeraResult<tera::Value> {
                Err(tera::Error::message(
                    "scripts have no filter that changes quoting: every value is quoted by itself",
                ))
            },
        );
    }
    engine
}

/// A list becomes several words; anything else becomes text, which the escape function quotes (tera escapes no numbers).
fn words(value: &tera::Value, _: Kwargs, _: &State<'_>) -> tera::TeraResult<tera::Value> {
    if value.is_undefined() || value.is_none() {
        return Err(tera::Error::message("this has no value"));
    }
    let Some(items) = value.as_array() else {
        return Ok(if value.is_string() {
            value.clone()
        } else {
            tera::Value::normal_string(&value.to_string())
        });
    };
    let mut out = Vec::new();
    for (n, item) in items.iter().enumerate() {
        if n > 0 {
            out.push(b' ');
        }
        quote::quote(&item.to_string(), &mut out)
            .map_err(|error| tera::Error::message(error.to_string()))?;
    }
    let text = String::from_utf8(out).map_err(|error| tera::Error::message(error.to_string()))?;
    Ok(tera::Value::safe_string(&text))
}

/// As tera's own, but its result is still a value to quote: one word.
fn join(value: &tera::Value, kwargs: Kwargs, _: &State<'_>) -> tera::TeraResult<tera::Value> {
    let separator = kwargs.get::<&str>("sep")?.unwrap_or_default();
    let items = value
        .as_array()
        .ok_or_else(|| tera::Error::message("`join` needs a list"))?;
    let texts: Vec<String> = items.iter().map(ToString::to_string).collect();
    Ok(tera::Value::normal_string(&texts.join(separator)))
}

/// What tera cannot know about a shell script.
fn check_script(text: &str, tags: &[Tag], origin: Origin<'_>, found: &mut Diagnostics) {
    for (at, misplaced) in place::misplaced(text, tags) {
        found.push(diagnostic(text, at, origin, misplaced.why, misplaced.help));
    }
    let interpreter = text
        .lines()
        .next()
        .and_then(|line| line.strip_prefix("#!"))
        .filter(|line| !is_shell(line));
    if let (Some(interpreter), Some(tag)) = (
        interpreter,
        tags.iter().find(|tag| tag.kind == TagKind::Value),
    ) {
        found.push(diagnostic(
            text,
            tag.start,
            origin,
            format!(
                "values are quoted for a shell, but `{}` runs this",
                interpreter.trim()
            ),
            "pass the value by `env:` and read it from the environment",
        ));
    }
    for tag in tags.iter().filter(|tag| tag.kind == TagKind::Statement) {
        let inside = &text[tag.inner.clone()];
        let word = inside
            .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .next()
            .unwrap_or_default();
        if !SCRIPT_STATEMENTS.contains(&word) || (word == "set" && !inside.contains('=')) {
            found.push(diagnostic(
                text,
                tag.start,
                origin,
                format!("a script cannot use `{{% {inside} %}}`"),
                "scripts have if, for, raw and `set name = value`; use the shell for the rest",
            ));
        }
    }
}

fn is_shell(interpreter: &str) -> bool {
    interpreter
        .split_whitespace()
        .filter_map(|word| word.rsplit('/').next())
        .any(|name| matches!(name, "sh" | "bash" | "dash" | "ksh" | "mksh" | "busybox"))
}

/// A template as tera gets it, and what was put into it.
struct Source {
    text: String,
    /// Offset in `text` and length of each insertion.
    inserted: Vec<(usize, usize)>,
}

impl Source {
    fn plain(text: &str) -> Self {
        Self {
            text: text.to_string(),
            inserted: Vec::new(),
        }
    }

    /// A text with something before and after it.
    fn between(open: &str, text: &str, close: &str) -> Self {
        Self {
            text: format!("{open}{text}{close}"),
            inserted: vec![(0, open.len()), (open.len() + text.len(), close.len())],
        }
    }

    /// Sends every value through [`WORDS`].
    fn with_words(text: &str, tags: &[Tag]) -> Self {
        let filter = format!(") | {WORDS}");
        let (mut out, mut inserted, mut copied) = (String::new(), Vec::new(), 0);
        for tag in tags
            .iter()
            .filter(|tag| tag.kind == TagKind::Value && !tag.inner.is_empty())
        {
            for (place, addition) in [(tag.inner.start, "("), (tag.inner.end, filter.as_str())] {
                out.push_str(&text[copied..place]);
                inserted.push((out.len(), addition.len()));
                out.push_str(addition);
                copied = place;
            }
        }
        out.push_str(&text[copied..]);
        Self {
            text: out,
            inserted,
        }
    }

    /// An offset of `text` in the original.
    fn original(&self, offset: usize) -> usize {
        let before = self.inserted.iter().take_while(|(at, _)| *at < offset);
        before.fold(offset, |offset_left, (at, length)| {
            offset_left - (*length).min(offset - at)
        })
    }

    fn offset(&self, line: usize, column: usize) -> usize {
        let start: usize = self
            .text
            .split_inclusive('\n')
            .take(line.saturating_sub(1))
            .map(str::len)
            .sum();
        let rest = &self.text[start..];
        start
            + rest
                .char_indices()
                .nth(column)
                .map_or(rest.len(), |(at, _)| at)
    }
}

/// Brings an error of tera to its place.
fn report(
    error: &tera::Error,
    source: &Source,
    text: &str,
    origin: Origin<'_>,
    found: &mut Diagnostics,
) {
    let help = "see https://keats.github.io/tera for what a template can say; {% raw %} … {% endraw %} keeps braces as they are";
    match error.kind() {
        ErrorKind::SyntaxError(report) | ErrorKind::RenderingError(report) => {
            let at = source.original(report.span().range.start);
            found.push(diagnostic(text, at, origin, lower(report.message()), help));
        }
        // Unknown filters, tests and functions come as finished reports, a blank line between them.
        other => {
            for part in other.to_string().split("\n\n") {
                let message = part
                    .lines()
                    .next()
                    .unwrap_or_default()
                    .trim_start_matches("error: ");
                let at = part
                    .lines()
                    .find_map(place_in_report)
                    .map_or(0, |(line, column)| {
                        source.original(source.offset(line, column.saturating_sub(1)))
                    });
                if !message.is_empty() && part.starts_with("error: ") || found.is_empty() {
                    found.push(diagnostic(text, at, origin, lower(message), help));
                }
            }
        }
    }
}

/// `--> name:line:column` of a report.
fn place_in_report(line: &str) -> Option<(usize, usize)> {
    let (_, place) = line.split_once("-->")?;
    let mut parts = place.trim().rsplit(':');
    let column = parts.next()?.parse().ok()?;
    Some((parts.next()?.parse().ok()?, column))
}

fn lower(message: &str) -> String {
    let mut chars = message.chars();
    chars.next().map_or_else(String::new, |first| {
        first.to_lowercase().chain(chars).collect()
    })
}

/// A diagnostic at a byte offset of a template.
pub fn diagnostic(
    text: &str,
    offset: usize,
    origin: Origin<'_>,
    message: impl Into<String>,
    help: impl Into<String>,
) -> Diagnostic {
    let offset = text.floor_char_boundary(offset.min(text.len()));
    let line = text[..offset].matches('\n').count() + 1;
    let start = text[..offset].rfind('\n').map_or(0, |at| at + 1);
    let column = text[start..offset].chars().count() + 1;
    match origin {
        Origin::File(file) => Diagnostic::at(
            Location {
                file: file.to_path_buf(),
                line,
                column,
            },
            text,
            message,
            help,
        ),
        Origin::At(place) => {
            let recipe = files::text(&place.file).unwrap_or_default();
            let written = recipe.lines().nth(place.line - 1).unwrap_or_default();
            let written: String = written.chars().skip(place.column - 1).collect();
            let shift = match written.strip_prefix(['"', '\'']) {
                _ if written.starts_with(text) => column - 1,
                Some(quoted) if quoted.starts_with(text) => column,
                // Folded over lines, or with escapes: its begin must do.
                _ => 0,
            };
            let at = Location {
                column: place.column + shift,
                ..place.clone()
            };
            Diagnostic::at(at, &recipe, message, help)
        }
        Origin::Inline(step) => {
            let recipe = files::text(&step.file).unwrap_or_default();
            let at = inline_place(
                &recipe,
                step,
                text.lines().nth(line - 1).unwrap_or_default(),
                column,
            );
            Diagnostic::at(at, &recipe, message, help)
        }
    }
}

/// Where a line of an inline text stands in its recipe: the first line after the step that holds it. YAML takes
/// indentation and quotes away, so the place cannot be counted.
fn inline_place(recipe: &str, step: &Location, wanted: &str, column: usize) -> Location {
    let wanted_text = wanted.trim();
    let found = recipe
        .lines()
        .enumerate()
        .skip(step.line - 1)
        .find_map(|(n, line)| {
            let at = line.find(wanted_text).filter(|_| !wanted_text.is_empty())?;
            Some((n + 1, line[..at].chars().count()))
        });
    let Some((line, indent)) = found else {
        return step.clone();
    };
    let skipped = wanted.chars().count() - wanted.trim_start().chars().count();
    Location {
        file: step.file.clone(),
        line,
        column: indent + column.saturating_sub(skipped),
    }
}
