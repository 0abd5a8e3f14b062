//! tera, set up for scripts and for texts, and held to limits: whatever a recipe of 1 MiB says, it is rendered in bounded
//! time and memory, or refused.
//!
//! tera has no limits of its own but for the length of one `range`. So its loops count what they repeat ([`TICK`]), a
//! value that is set is measured ([`BOUNDED`]), and the filters that make a text longer are ours.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tera::{Delimiters, Kwargs, State, Tera, TeraResult, Value};

use super::quote;

/// The filter that quotes each item of a list; every value of a script goes through it.
pub const WORDS: &str = "__words";
/// The filter that a condition goes through.
pub const BOOLEAN: &str = "__boolean";
/// The filter that every value of `set` goes through.
pub const BOUNDED: &str = "__bounded";
/// The function that every turn of a loop calls, with the length of the loop's body.
pub const TICK: &str = "__tick";

/// The longest text that a template becomes: 16 MiB.
pub const LONGEST: usize = 16 << 20;
/// How many bytes of templates the loops of a line may repeat: 256 MiB.
pub const REPEATED: u64 = 256 << 20;
/// The longest `range`.
const RANGE: i128 = 10_000;
/// The longest value of `set`, and of what a filter makes: 64 KiB.
const VALUE: usize = 64 << 10;
/// A turn of a loop costs this even if nothing is in it, and so does an item of a `range`.
const LEAST: u64 = 64;

const TOO_LONG_LOOPS: &str =
    "the loops of this recipe and what it builds on repeat more than 256 MiB of templates";
const TOO_LONG_VALUE: &str = "this value is longer than 65536 bytes";
const TOO_LONG_RANGE: &str = "this range has more than 10000 items";

/// The way out of a limit, if that is what a message of tera says.
pub fn way_out(message: &str) -> Option<(&'static str, &'static str)> {
    [
        (
            TOO_LONG_LOOPS,
            "loop over fewer items, or let the script loop on the machine",
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

fn spend(left: &AtomicU64, cost: u64) -> TeraResult<()> {
    let spent = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
        left.checked_sub(cost)
    });
    spent
        .map(drop)
        .map_err(|_| tera::Error::message(TOO_LONG_LOOPS))
}

/// tera for texts and conditions.
pub fn plain(left: &Left) -> Tera {
    let mut engine = Tera::default();
    engine.register_filter(BOOLEAN, boolean);
    limit(&mut engine, left);
    engine
}

/// tera for scripts: every value is quoted, and what would take the quotes off is not there.
pub fn script(left: &Left) -> Tera {
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
    engine.register_filter(BOUNDED, bounded);
    let of_range = left.clone();
    engine.register_function("range", move |kwargs: Kwargs, _: &State<'_>| {
        let items = range(&kwargs)?;
        spend(&of_range, LEAST * items.len() as u64)?;
        Ok::<_, tera::Error>(items)
    });
    let left = left.clone();
    engine.register_function(TICK, move |kwargs: Kwargs, _: &State<'_>| {
        spend(&left, kwargs.must_get::<u64>("cost")?.max(LEAST))?;
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
    let texts: Vec<String> = items.iter().map(ToString::to_string).collect();
    // What is in the list is there already; only the separator makes it longer.
    made(separator.len().saturating_sub(2) * texts.len(), || {
        texts.join(separator)
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
