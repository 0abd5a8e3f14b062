//! One template to one text, with tera's errors brought to their place.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tera::{Context, ErrorKind, Tera};

use super::engine::{self, BOOLEAN, BOUNDED, LONGEST, Left, REPEATED, Room, TICK, WORDS};
use super::origin::{Origin, tell};
use super::place;
use super::tags::{self, Dialect, Tag, TagKind};
use crate::recipe::diagnostic::{Diagnostics, suggest};
use crate::recipe::files::LARGEST_PAYLOAD;
use crate::recipe::model::{InlineText, Value};

/// Statements that cannot change how a value in them is quoted, and hold no text back that could grow without limit.
const STATEMENTS: [&str; 11] = [
    "if", "elif", "else", "endif", "for", "endfor", "set", "raw", "endraw", "break", "continue",
];

/// The longest tag: what an expression can make of values grows with it.
const LONGEST_TAG: usize = 2048;

/// The most `elif` in a text: tera's parser calls itself for each one after another, and its stack has an end.
const MOST_BRANCHES: usize = 250;

/// What could not be counted, in an expression.
fn uncounted(inside: &str) -> Option<(&'static str, &'static str)> {
    let words = tags::words(inside);
    let has = |word: &str, from: usize| words.iter().any(|(at, one)| *one == word && *at >= from);
    // A statement may begin with it.
    let statement = usize::from(inside.starts_with("for"));
    if has("for", statement) {
        return Some((
            "an expression cannot loop",
            "write `{% for … %}` around text, or give a parameter with the list that you need",
        ));
    }
    has("__tera_context", 0).then_some((
        "a template cannot use all values at once",
        "name the parameters that you need",
    ))
}

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
    /// Those without a value that could be relied on: what names one of them is checked, and not rendered.
    in_doubt: BTreeSet<String>,
    /// Whether some values are samples.
    samples: bool,
    /// What the loops may still repeat.
    left: Left,
    /// The longest text, in bytes.
    longest: usize,
    /// How many bytes the files of the line may still have, in all.
    room: u64,
}

impl Renderer {
    /// A renderer that knows these values.
    pub fn new(parameters: &BTreeMap<String, Value>) -> Self {
        let mut context = Context::new();
        for (name, value) in parameters {
            context.insert(name.clone(), value);
        }
        Self {
            left: Arc::new(AtomicU64::new(REPEATED)),
            longest: LONGEST,
            ..Self::with(context, parameters.keys().cloned().collect())
        }
    }

    /// The same, for a line where these parameters are in doubt.
    pub fn but(mut self, in_doubt: &BTreeSet<String>) -> Self {
        self.known.extend(in_doubt.iter().cloned());
        self.in_doubt.clone_from(in_doubt);
        self
    }

    /// The same, for a line in which a lint has filled in what it needs.
    pub fn sampled(mut self, samples: bool) -> Self {
        self.samples = samples;
        self
    }

    /// Whether some of its values are samples.
    pub fn has_samples(&self) -> bool {
        self.samples
    }

    /// A renderer for templates of our own, without limits, which name one value.
    pub fn of(name: &str) -> Self {
        Self::with(Context::new(), BTreeSet::from([name.to_string()]))
    }

    fn with(context: Context, known: BTreeSet<String>) -> Self {
        Self {
            script: None,
            plain: None,
            context,
            known,
            used: BTreeSet::new(),
            in_doubt: BTreeSet::new(),
            samples: false,
            left: Arc::new(AtomicU64::new(u64::MAX)),
            longest: usize::MAX,
            room: LARGEST_PAYLOAD,
        }
    }

    /// The parameters that templates have named so far.
    pub fn used(&self) -> &BTreeSet<String> {
        &self.used
    }

    /// Whether the files of the line may have so many bytes more; then they have.
    pub fn has_room(&mut self, bytes: u64) -> bool {
        let left = self.room.checked_sub(bytes);
        self.room = left.unwrap_or(self.room);
        left.is_some()
    }

    /// The engine of a dialect: one for all texts, for its filters cost more than most texts. After an error it is not
    /// given back: what is left in it is not known.
    fn take(&mut self, dialect: Dialect) -> Tera {
        match dialect {
            Dialect::Script => self
                .script
                .take()
                .unwrap_or_else(|| engine::script(&self.left)),
            Dialect::Plain => self
                .plain
                .take()
                .unwrap_or_else(|| engine::plain(&self.left)),
        }
    }

    fn give_back(&mut self, dialect: Dialect, engine: Tera) {
        match dialect {
            Dialect::Script => self.script = Some(engine),
            Dialect::Plain => self.plain = Some(engine),
        }
    }

    /// Renders `text`; `None` if something is wrong with it (then `found` says what), or it names what is in doubt.
    pub fn render(
        &mut self,
        text: &str,
        origin: Origin<'_>,
        dialect: Dialect,
        found: &mut Diagnostics,
    ) -> Option<String> {
        if text.len() <= self.longest && !tags::begins_any(text, dialect) {
            return engine::spend(&self.left, text.len() as u64)
                .map(|()| text.to_owned())
                .map_err(|error| report(&error, &Source::plain(text), text, origin, found))
                .ok();
        }
        let (mut engine, tags) = self.prepare(text, origin, dialect, found)?;
        if self.is_in_doubt(tags.iter().map(|tag| &text[tag.inner.clone()])) {
            self.give_back(dialect, engine);
            return None;
        }
        let source = Source::held(text, &tags, dialect);
        let name = name(dialect);
        let mut room = Room {
            out: Vec::new(),
            most: self.longest,
        };
        match engine
            .add_raw_template(name, &source.text)
            .and_then(|()| engine.render_to(name, &self.context, &mut room))
        {
            Ok(()) => {
                self.give_back(dialect, engine);
                if let Err(error) = engine::spend(&self.left, room.out.len() as u64) {
                    report(&error, &source, text, origin, found);
                    return None;
                }
                Some(String::from_utf8(room.out).expect("texts and values are UTF-8"))
            }
            Err(error) if matches!(error.kind(), ErrorKind::Io(_)) => {
                let message = format!("this becomes longer than {LONGEST} bytes");
                let help = "let the script write it on the machine, or fetch it in a step";
                tell(found, text, 0, origin, message, help);
                None
            }
            Err(error) => {
                report(&error, &source, text, origin, found);
                None
            }
        }
    }

    /// The engine of a dialect with `text` in it, for who renders it with one value after another.
    pub fn read(
        mut self,
        text: &str,
        origin: Origin<'_>,
        dialect: Dialect,
        found: &mut Diagnostics,
    ) -> Option<Tera> {
        let (mut engine, tags) = self.prepare(text, origin, dialect, found)?;
        let source = Source::held(text, &tags, dialect);
        engine
            .add_raw_template(name(dialect), &source.text)
            .map_err(|error| report(&error, &source, text, origin, found))
            .ok()?;
        Some(engine)
    }

    fn is_in_doubt<'t>(&self, mut tags: impl Iterator<Item = &'t str>) -> bool {
        !self.in_doubt.is_empty()
            && tags.any(|inside| {
                let words = tags::words(inside);
                words.iter().any(|(_, word)| self.in_doubt.contains(*word))
            })
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

    /// Whether a condition holds: an expression of tera without braces, which must be a boolean. One that names what is
    /// in doubt does not hold: what it guards is only checked.
    pub fn condition(&mut self, condition: &InlineText, found: &mut Diagnostics) -> Option<bool> {
        let text = condition.text.as_str();
        let origin = Origin::Inline(condition);
        // It stands where no statement can.
        if let Some((message, help)) = uncounted(&format!(" {text}")) {
            tell(found, text, 0, origin, message, help);
            return None;
        }
        let mut engine = self.take(Dialect::Plain);
        // First by itself: "a) or (b" would be sound inside the parentheses.
        for (open, close) in [
            ("{{ ".to_owned(), " }}".to_owned()),
            (
                format!("{{{{ {} }}}}{{{{ (", work(text)),
                format!(") | {BOOLEAN} }}}}"),
            ),
        ] {
            let source = Source::between(&open, text, &close);
            if let Err(error) = engine.add_raw_template(WHEN, &source.text) {
                report(&error, &source, text, origin, found);
                return None;
            }
            let before = found.0.len();
            let places = |variable: &str| vec![word_at(text, variable).unwrap_or(0)];
            self.names(&engine, WHEN, text, origin, places, found);
            if found.0.len() > before {
                return None;
            }
        }
        if self.is_in_doubt(std::iter::once(text)) {
            self.give_back(Dialect::Plain, engine);
            return Some(false);
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
                let (message, help) = engine::way_out(&message).unwrap_or((message.as_str(), help));
                tell(found, text, 0, origin, message, help);
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
        // Blanks in their place: the rest of the text is judged all the same.
        let mut judged = text.to_owned();
        for tag in tags.iter().filter(|tag| tag.kind == TagKind::Value) {
            if let Some((message, help)) = reference(&text[tag.inner.clone()]) {
                tell(found, text, tag.start, origin, message, help);
                let blanks: String = text[tag.start..tag.end]
                    .bytes()
                    .map(|byte| if byte == b'\n' { '\n' } else { ' ' })
                    .collect();
                judged.replace_range(tag.start..tag.end, &blanks);
            }
        }
        if dialect == Dialect::Script {
            check_script(text, &tags, origin, found);
        }
        check_tags(text, &tags, origin, found);
        if let Some(at) = branches(text).nth(MOST_BRANCHES) {
            let message = format!("this is the {}st `elif`", MOST_BRANCHES + 1);
            let help = format!("a template has at most {MOST_BRANCHES}; make several files of it");
            tell(found, text, at, origin, message, &help);
            return None;
        }
        let mut engine = self.take(dialect);
        let name = name(dialect);
        // First as it was written, so that errors speak of what was written.
        if let Err(error) = engine.add_raw_template(name, &judged) {
            report(&error, &Source::plain(text), text, origin, found);
            self.undefined(&judged, dialect, origin, found);
            return None;
        }
        let bound = tags::bound(text, &tags);
        let places = |variable: &str| {
            let mut places = tags
                .iter()
                .filter(|tag| tags::variables(&text[tag.inner.clone()]).contains(&variable))
                .map(|tag| tag.start);
            // Another value may have the same name in a part of the text: then the first place alone is certain.
            match places.next() {
                Some(first) if bound.contains(&variable) => vec![first],
                Some(first) => std::iter::once(first).chain(places).collect(),
                None => vec![0],
            }
        };
        self.names(&engine, name, text, origin, places, found);
        (found.0.len() == before).then_some((engine, tags))
    }

    /// What is not defined in a text that tera cannot read.
    fn undefined(&self, text: &str, dialect: Dialect, origin: Origin<'_>, found: &mut Diagnostics) {
        let tags = tags::scan(text, dialect);
        let bound = tags::bound(text, &tags);
        for tag in tags.iter().filter(|tag| tag.kind != TagKind::Comment) {
            let variables: BTreeSet<&str> = tags::variables(&text[tag.inner.clone()])
                .into_iter()
                .collect();
            for variable in variables {
                if !self.known.contains(variable) && !bound.contains(&variable) {
                    self.unknown(variable, text, tag.start, origin, found);
                }
            }
        }
    }

    fn unknown(
        &self,
        variable: &str,
        text: &str,
        at: usize,
        origin: Origin<'_>,
        found: &mut Diagnostics,
    ) {
        // The nearest of many names takes its time.
        if found.is_full() {
            return;
        }
        let help = format!(
            "{} Or declare it under `parameters:`",
            suggest(variable, self.known.iter().map(String::as_str))
        );
        let message = format!("`{variable}` is not defined");
        tell(found, text, at, origin, message, help);
    }

    /// Notes which parameters a template names, and reports what is none.
    fn names(
        &mut self,
        engine: &Tera,
        name: &str,
        text: &str,
        origin: Origin<'_>,
        places: impl Fn(&str) -> Vec<usize>,
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
            if found.is_full() {
                return;
            }
            for at in places(&variable) {
                self.unknown(&variable, text, at, origin, found);
            }
        }
    }
}

/// What is wrong with a reference in braces, and a way out. No expression of tera has a colon there.
///
/// `ssm:`, `ssm-secure:` and `resolve:` are of command documents and CloudFormation (Systems Manager User Guide,
/// "Working with parameters"); `global:` and `automation:` are variables of automation documents and of Image Builder.
fn reference(inside: &str) -> Option<(&'static str, &'static str)> {
    let begins = |prefixes: &[&str]| prefixes.iter().any(|prefix| inside.starts_with(prefix));
    if begins(&["ssm:", "ssm-secure:", "resolve:"]) {
        let help = "Systems Manager never sees this text: declare a parameter with `secret: true` and the value \
                    ssm:/path, or read it in the script on the machine";
        return Some(("these braces are a reference of Systems Manager", help));
    }
    if begins(&["global:", "automation:"]) {
        let help = "nothing fills it in here: declare a parameter for a value that you give, or ask for the value in \
                    the script on the machine, such as with `date`";
        return Some((
            "these braces are a variable of an automation document of Systems Manager",
            help,
        ));
    }
    None
}

/// The name of a template decides on escaping; `.sh` is what the script engine escapes.
pub fn name(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Script => "script.sh",
        Dialect::Plain => "text",
    }
}

/// Where `elif` begins a statement: in the text as it is, for what tera takes for a tag is for tera to say.
fn branches(text: &str) -> impl Iterator<Item = usize> {
    text.match_indices("elif").map(|(at, _)| at).filter(|at| {
        let before = text[..*at].trim_end();
        before.strip_suffix('-').unwrap_or(before).ends_with("{%")
    })
}

/// The call that counts what an expression works on: at most all values in it, with each of its parts.
fn work(inside: &str) -> String {
    let words: Vec<&str> = tags::words(inside).iter().map(|(_, word)| *word).collect();
    let parts = words.len() + inside.matches(|c: char| c.is_ascii_punctuation()).count();
    format!("{TICK}(cost={parts}, of='{}')", words.join(" "))
}

/// Where a word of its own stands in a text.
fn word_at(text: &str, word: &str) -> Option<usize> {
    let of_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices(word)
        .map(|(at, _)| at)
        .find(|at| !text[..*at].ends_with(of_word) && !text[at + word.len()..].starts_with(of_word))
}

/// What tera cannot know about a shell script.
fn check_script(text: &str, tags: &[Tag], origin: Origin<'_>, found: &mut Diagnostics) {
    for (at, misplaced) in place::misplaced(text, tags) {
        tell(found, text, at, origin, misplaced.why, misplaced.help);
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
        tell(
            found,
            text,
            tag.start,
            origin,
            format!(
                "values are quoted for a shell, but `{}` runs this",
                interpreter.trim()
            ),
            "pass the value by `env:` and read it from the environment",
        );
    }
}

/// What would change the quoting of a script, or take time and memory without limit.
fn check_tags(text: &str, tags: &[Tag], origin: Origin<'_>, found: &mut Diagnostics) {
    for tag in tags.iter().filter(|tag| tag.kind != TagKind::Comment) {
        let inside = &text[tag.inner.clone()];
        if inside.len() > LONGEST_TAG {
            let message = format!("what is in these braces is longer than {LONGEST_TAG} bytes");
            let help = "make several of it, or give a list as a parameter";
            tell(found, text, tag.start, origin, message, help);
        } else if let Some((message, help)) = uncounted(inside) {
            tell(found, text, tag.start, origin, message, help);
        }
    }
    for tag in tags.iter().filter(|tag| tag.kind == TagKind::Statement) {
        let inside = &text[tag.inner.clone()];
        let word = inside
            .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .next()
            .unwrap_or_default();
        if !STATEMENTS.contains(&word) || (word == "set" && !inside.contains('=')) {
            tell(
                found,
                text,
                tag.start,
                origin,
                format!("a template cannot use `{{% {inside} %}}`"),
                "templates have if, for, raw and `set name = value`; use the shell for the rest",
            );
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

    /// A text whose loops and expressions are counted, and whose values are measured where they are set; in a script,
    /// each value goes through [`WORDS`].
    fn held(text: &str, tags: &[Tag], dialect: Dialect) -> Self {
        let mut additions: Vec<(usize, String)> = Vec::new();
        let mut loops = Vec::new();
        // From the last to the first: a loop's end is met before its begin.
        for tag in tags.iter().rev() {
            let inside = &text[tag.inner.clone()];
            let mut filter = |from: usize, filter: &str| {
                additions.push((tag.inner.end, format!(") | {filter}")));
                additions.push((from, "(".to_owned()));
            };
            let first = tags::words(inside).first().map(|(_, word)| *word);
            match (tag.kind, first) {
                (TagKind::Value, _) if dialect == Dialect::Script && !inside.is_empty() => {
                    filter(tag.inner.start, WORDS);
                }
                (TagKind::Statement, Some(word @ ("if" | "elif"))) => {
                    // Before it is no place for `elif`. The call is an empty text, which is not true.
                    additions.push((tag.inner.end, ")".to_owned()));
                    let work = format!(" not {} and (", work(inside));
                    additions.push((tag.inner.start + word.len(), work));
                }
                (TagKind::Statement, Some("set")) => {
                    if let Some(at) = inside.find('=') {
                        filter(tag.inner.start + at + 1, BOUNDED);
                    }
                }
                (TagKind::Statement, Some("endfor")) => loops.push(tag.start),
                (TagKind::Statement, Some("for")) => {
                    let cost = loops.pop().unwrap_or(text.len()) - tag.end;
                    // It takes blanks away as the tag before it does.
                    let trims = if text[..tag.end].ends_with("-%}") {
                        "-"
                    } else {
                        ""
                    };
                    additions.push((tag.end, format!("{{{{ {TICK}(cost={cost}) {trims}}}}}")));
                }
                _ => {}
            }
            let works = match tag.kind {
                // A value by itself is no longer than what it becomes, and that is counted.
                TagKind::Value => inside.contains(|c: char| !c.is_ascii_alphanumeric() && c != '_'),
                TagKind::Statement => matches!(first, Some("set" | "for")),
                TagKind::Comment => false,
            };
            if works {
                // It takes blanks away as the tag does.
                let trims = if text[tag.start + 2..].starts_with('-') {
                    "-"
                } else {
                    ""
                };
                additions.push((tag.start, format!("{{{{{trims} {} }}}}", work(inside))));
            }
        }
        let (mut out, mut inserted, mut copied) = (String::new(), Vec::new(), 0);
        for (place, addition) in additions.iter().rev() {
            out.push_str(&text[copied..*place]);
            inserted.push((out.len(), addition.len()));
            out.push_str(addition);
            copied = *place;
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
            // Only a condition stands in braces that are not its own.
            let message = match lower(report.message()).strip_prefix("found `}}` but expected ") {
                Some(expected) if at >= text.len() => {
                    format!("the condition ends too early, expected {expected}")
                }
                _ => lower(report.message()),
            };
            let (message, help) = engine::way_out(&message).unwrap_or((&message, help));
            tell(found, text, at, origin, message, help);
        }
        // Unknown filters, tests and functions come as finished reports, a blank line between them.
        other => {
            let all = other.to_string();
            let reports = all.split("\n\n").filter(|part| part.starts_with("error: "));
            let reports: Vec<&str> = reports.collect();
            for part in if reports.is_empty() {
                vec![all.as_str()]
            } else {
                reports
            } {
                let message = part.lines().next().unwrap_or_default();
                let message = message.trim_start_matches("error: ");
                let at = part
                    .lines()
                    .find_map(place_in_report)
                    .map_or(0, |(line, column)| {
                        source.original(source.offset(line, column.saturating_sub(1)))
                    });
                let message = lower(message);
                let (message, help) = engine::way_out(&message).unwrap_or((&message, help));
                tell(found, text, at, origin, message, help);
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
