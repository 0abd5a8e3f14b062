//! tera, set up for scripts and for texts, and held to limits: whatever a recipe of 1 MiB says, it is rendered in bounded
//! time and memory, or refused.
//!
//! tera bounds how deep its tags nest and how long one `range` is, and nothing else. So its loops count what they repeat
//! and its expressions what they work on ([`TICK`]), a value that is set is measured ([`BOUNDED`]), and the filters that
//! make a text longer are ours.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tera::{Delimiters, Kwargs, State, Tera, TeraResult, Value};

use super::{quote, tags};

/// The filter that quotes each item of a list; every value of a script goes through it.
pub const WORDS: &str = "__words";
/// The filter that a condition goes through.
pub const BOOLEAN: &str = "__boolean";
/// The filter that every value of `set` goes through.
pub const BOUNDED: &str = "__bounded";
/// The function that every turn of a loop calls, with the length of the loop's body; and what comes before an expression,
/// with the number of its parts and, as `of`, the words in it.
pub const TICK: &str = "__tick";

/// The longest text that a template becomes: 16 MiB.
pub const LONGEST: usize = 16 << 20;
/// How many bytes of templates the loops of a line may repeat, of values its expressions may work on, and of texts they
/// may become: 256 MiB in all.
pub const REPEATED: u64 = 256 << 20;
/// The longest `range`.
const RANGE: i128 = 10_000;
/// The longest value of `set`, and of what a filter makes: 64 KiB.
const VALUE: usize = 64 << 10;
/// A turn of a loop costs this even if nothing is in it, and so does an item of a `range` and a part of an expression.
const LEAST: u64 = 64;

const TOO_MUCH: &str = "the templates of this recipe and what it builds on repeat more than 256 MiB of texts and values";
const TOO_LONG_VALUE: &str = "this value is longer than 65536 bytes";
const TOO_LONG_RANGE: &str = "this range has more than 10000 items";

/// The way out of a limit, if that is what a message of tera says.
pub fn way_out(message: &str) -> Option<(&'static str, &'static str)> {
    [
        (
            TOO_MUCH,
            "loop over fewer items, name large values in fewer places, or let the script loop on the machine",
        ),
        (
            TOO_LONG_VALUE,
            "put its parts one after the other in the text, without `set` and filters",
        ),
        (
            TOO_LONG_RANGE,
            "let the script count on the machine, such as with `seq`",
        ),
    ]
    .into_iter()
    .find(|(limit, _)| message.contains(limit))
}

/// What is left of [`REPEATED`].
pub type Left = Arc<AtomicU64>;

/// Takes `cost` from what is left.
///
/// # Errors
/// So much is not left.
pub fn spend(left: &AtomicU64, cost: u64) -> TeraResult<()> {
    let spent = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
        left.checked_sub(cost)
    });
    spent.map(drop).map_err(|_| tera::Error::message(TOO_MUCH))
}

/// tera for texts and conditions.
pub fn plain(left: &Left) -> Tera {
    let mut engine = Tera::default();
    engine.register_filter(BOOLEAN, boolean);
    for name in ["escape_html", "escape_xml"] {
        engine.register_filter(name, move |value: &str, _: Kwargs, _: &State<'_>| {
            escaped(value, name)
        });
    }
    limit(&mut engine, left);
    engine
}

/// tera for scripts: every value is quoted, and what would take the quotes off is not there.
pub fn script(left: &Left) -> Tera {
    let mut engine = Tera::default();
    let delimiters = Delimiters {
        comment_start: tags::SCRIPT_COMMENT.0.into(),
        comment_end: tags::SCRIPT_COMMENT.1.into(),
        ..Delimiters::default()
    };
    engine
        .set_delimiters(delimiters)
        .expect("the delimiters differ from each other and no template is loaded");
    engine.autoescape_on([".sh"]);
    engine.set_escape_fn(quote::quote);
    engine.register_filter(WORDS, words);
    for name in [
        "safe",
        "escape",
        "escape_html",
        "escape_xml",
        "newlines_to_br",
    ] {
        engine.register_filter(
            name,
            |_: &Value, _: Kwargs, _: &State<'_>| -> TeraResult<Value> {
                Err(tera::Error::message(
                    "scripts have no filter that changes quoting: every value is quoted by itself",
                ))
            },
        );
    }
    limit(&mut engine, left);
    engine
}

fn limit(engine: &mut Tera, left: &Left) {
    engine.register_filter("join", join);
    engine.register_filter("replace", replace);
    engine.register_filter("indent", indent);
    engine.register_filter("split", split);
    engine.register_filter("str", text);
    engine.register_filter(BOUNDED, bounded);
    let of_unique = left.clone();
    engine.register_filter("unique", move |value: &Value, _: Kwargs, _: &State<'_>| {
        unique(value, &of_unique)
    });
    let of_range = left.clone();
    engine.register_function("range", move |kwargs: Kwargs, _: &State<'_>| {
        let items = range(&kwargs)?;
        spend(&of_range, LEAST * items.len() as u64)?;
        Ok::<_, tera::Error>(items)
    });
    let left = left.clone();
    engine.register_function(TICK, move |kwargs: Kwargs, state: &State<'_>| {
        let cost = kwargs.must_get::<u64>("cost")?;
        let cost = match kwargs.get::<&str>("of")? {
            None => cost.max(LEAST),
            Some(words) => {
                let mut of = LEAST;
                for word in words.split(' ') {
                    of += state.get::<Value>(word)?.map_or(0, |value| size(&value));
                }
                cost.saturating_mul(of)
            }
        };
        spend(&left, cost)?;
        // It leaves nothing in the text, not even quotes.
        Ok::<_, tera::Error>(Value::safe_string(""))
    });
}

/// As tera's own, with a smaller limit.
fn range(kwargs: &Kwargs) -> TeraResult<Vec<i128>> {
    let start = i128::from(kwargs.get::<i64>("start")?.unwrap_or_default());
    let end = i128::from(kwargs.must_get::<i64>("end")?);
    let step = i128::from(kwargs.get::<i64>("step_by")?.unwrap_or(1));
    if step == 0 || (step > 0 && start > end) {
        return Err(tera::Error::message(
            "a range goes from `start` to `end` by `step_by`, and never arrives so",
        ));
    }
    let items = (end - start + step - step.signum()) / step;
    if items > RANGE {
        return Err(tera::Error::message(TOO_LONG_RANGE));
    }
    Ok((0..items).map(|n| start + n * step).collect())
}

/// What a condition must be.
fn boolean(value: &Value, _: Kwargs, _: &State<'_>) -> TeraResult<Value> {
    if value.is_bool() {
        return Ok(value.clone());
    }
    Err(tera::Error::message(format!(
        "a condition must be true or false, this is {value}",
    )))
}

/// A list becomes several words; anything else becomes text, which the escape function quotes (tera escapes no numbers).
fn words(value: &Value, _: Kwargs, _: &State<'_>) -> TeraResult<Value> {
    if value.is_undefined() || value.is_none() {
        return Err(tera::Error::message("this has no value"));
    }
    let Some(items) = value.as_array() else {
        return Ok(if value.is_string() {
            value.clone()
        } else {
            Value::normal_string(&value.to_string())
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
    Ok(Value::safe_string(&text))
}

/// A value, if it is not too long.
fn bounded(value: &Value, _: Kwargs, _: &State<'_>) -> TeraResult<Value> {
    let mut room = Room {
        out: Vec::new(),
        most: VALUE,
    };
    io::Write::write_fmt(&mut room, format_args!("{value}"))
        .map_err(|_| tera::Error::message(TOO_LONG_VALUE))?;
    Ok(value.clone())
}

/// About how many bytes a value takes; of a text, those that it has.
fn size(value: &Value) -> u64 {
    let items = |items: &mut dyn Iterator<Item = &Value>| LEAST + items.map(size).sum::<u64>();
    if let Some(text) = value.as_str() {
        return text.len() as u64;
    }
    match (value.as_array(), value.as_map()) {
        (Some(list), _) => items(&mut list.iter()),
        (_, Some(map)) => items(&mut map.values()),
        _ => LEAST,
    }
}

/// A text that a filter makes, if it will not be too long; a value to quote.
fn made(length: usize, make: impl FnOnce() -> String) -> TeraResult<Value> {
    if length > VALUE {
        return Err(tera::Error::message(TOO_LONG_VALUE));
    }
    Ok(Value::normal_string(&make()))
}

/// As tera's own, but its result is still a value to quote: one word.
fn join(value: &Value, kwargs: Kwargs, _: &State<'_>) -> TeraResult<Value> {
    let separator = kwargs.get::<&str>("sep")?.unwrap_or_default();
    let items = value
        .as_array()
        .ok_or_else(|| tera::Error::message("`join` needs a list"))?;
    // What is in the list is there already; only the separator makes it longer, and a list in it, with its quotes.
    let mut longer = separator.len().saturating_sub(2) * items.len();
    let mut texts = Vec::with_capacity(items.len());
    for item in items {
        let text = item.to_string();
        longer += if item.is_string() { 0 } else { text.len() };
        texts.push(text);
    }
    made(longer, || texts.join(separator))
}

/// As tera's own, for lists that are not much longer to write than the text is: each quote in it takes a backslash.
fn split(value: &str, kwargs: Kwargs, _: &State<'_>) -> TeraResult<Value> {
    let at = kwargs.must_get::<&str>("pat")?;
    let list = Value::from(value.split(at).map(Value::from).collect::<Vec<_>>());
    if list.to_string().len().saturating_sub(value.len()) > VALUE {
        return Err(tera::Error::message(TOO_LONG_VALUE));
    }
    Ok(list)
}

/// As tera's own.
fn text(value: &Value, _: Kwargs, _: &State<'_>) -> TeraResult<Value> {
    let text = value.to_string();
    let longer = if value.is_string() { 0 } else { text.len() };
    made(longer, || text)
}

/// As tera's own, which compares each item with every other one.
fn unique(value: &Value, left: &AtomicU64) -> TeraResult<Vec<Value>> {
    let items = value
        .as_array()
        .ok_or_else(|| tera::Error::message("`unique` needs a list"))?;
    spend(left, (items.len() as u64).saturating_pow(2))?;
    let mut kept: Vec<Value> = Vec::new();
    for item in items {
        if !kept.contains(item) {
            kept.push(item.clone());
        }
    }
    Ok(kept)
}

/// As tera's own.
fn escaped(value: &str, filter: &str) -> TeraResult<Value> {
    let apostrophe = if filter == "escape_xml" {
        "&apos;"
    } else {
        "&#39;"
    };
    let escape = |c: char| match c {
        '&' => Some("&amp;"),
        '<' => Some("&lt;"),
        '>' => Some("&gt;"),
        '"' => Some("&quot;"),
        '\'' => Some(apostrophe),
        _ => None,
    };
    let longer = value.chars().filter_map(escape).map(|text| text.len() - 1);
    made(longer.sum(), || {
        let mut out = String::with_capacity(value.len());
        for c in value.chars() {
            match escape(c) {
                Some(text) => out.push_str(text),
                None => out.push(c),
            }
        }
        out
    })
}

/// As tera's own.
fn replace(value: &str, kwargs: Kwargs, _: &State<'_>) -> TeraResult<Value> {
    let from = kwargs.must_get::<&str>("from")?;
    let to = kwargs.must_get::<&str>("to")?;
    let longer = to.len().saturating_sub(from.len()) * value.matches(from).count();
    made(longer, || value.replace(from, to))
}

/// As tera's own, for texts that it makes longer by little.
fn indent(value: &str, kwargs: Kwargs, _: &State<'_>) -> TeraResult<Value> {
    let width = kwargs.get::<usize>("width")?.unwrap_or(4);
    let character = kwargs.get::<&str>("indentation")?.unwrap_or(" ");
    if character.chars().count() != 1 {
        return Err(tera::Error::message("`indentation` is one character"));
    }
    let first = kwargs.get::<bool>("first")?.unwrap_or(false);
    let blank = kwargs.get::<bool>("blank")?.unwrap_or(false);
    let longer = value
        .lines()
        .count()
        .saturating_mul(width)
        .saturating_mul(character.len());
    made(longer, || {
        let margin = character.repeat(width);
        let mut out = String::with_capacity(value.len() + longer);
        for (n, line) in value.lines().enumerate() {
            if n > 0 {
                out.push('\n');
            }
            let moves = match n {
                0 => first,
                _ => blank || !line.is_empty(),
            };
            if moves {
                out.push_str(&margin);
            }
            out.push_str(line);
        }
        if value.ends_with('\n') {
            out.push('\n');
        }
        out
    })
}

/// Takes so many bytes, and then no more.
pub struct Room {
    pub out: Vec<u8>,
    pub most: usize,
}

impl io::Write for Room {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.most - self.out.len() {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.out.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
