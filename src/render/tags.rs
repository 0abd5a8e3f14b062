//! Where the tags of a template stand, without understanding what is in them: enough to judge the text around them and
//! to name the place of an error.

/// Which delimiters a template has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Values are quoted for the shell. `{#` is not a comment, because the shell has `${#name}`.
    Script,
    /// Values are put in as they are.
    Plain,
}

/// What a comment of a script is put between, which nobody writes: see [`Dialect::Script`].
pub const SCRIPT_COMMENT: (&str, &str) = ("{=", "=}");

/// A tag of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag {
    pub kind: TagKind,
    /// Byte offsets in the text, delimiters included.
    pub start: usize,
    pub end: usize,
    /// Byte offsets of what is inside, without delimiters, `-` and blanks.
    pub inner: std::ops::Range<usize>,
}

/// What a tag is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TagKind {
    /// `{{ value }}`
    Value,
    /// `{% statement %}`
    Statement,
    /// `{# comment #}`
    Comment,
}

/// Whether a tag begins anywhere in a text. Without one it is a text that stays as it is.
pub fn begins_any(text: &str, dialect: Dialect) -> bool {
    let comment = match dialect {
        Dialect::Script => SCRIPT_COMMENT.0,
        Dialect::Plain => "{#",
    };
    ["{{", "{%", comment]
        .iter()
        .any(|begin| text.contains(begin))
}

/// All tags of a text, in order. Stops at a tag that does not end: the parser of the templates reports that.
pub fn scan(text: &str, dialect: Dialect) -> Vec<Tag> {
    let mut tags = Vec::new();
    let mut at = 0;
    let mut raw = false;
    while let Some(offset) = text[at..].find('{') {
        let start = at + offset;
        let rest = &text[start..];
        let (kind, close) = if rest.starts_with("{{") && !raw {
            (TagKind::Value, "}}")
        } else if rest.starts_with("{%") {
            (TagKind::Statement, "%}")
        } else if rest.starts_with("{#") && dialect == Dialect::Plain && !raw {
            (TagKind::Comment, "#}")
        } else {
            at = start + 1;
            continue;
        };
        let Some(length) = find_close(&rest[2..], close, kind) else {
            break;
        };
        let inner_all = &rest[2..2 + length];
        let trimmed = inner_all.trim_start_matches('-').trim_start();
        let inner_start = start + 2 + (inner_all.len() - trimmed.len());
        let inner_end = inner_start + trimmed.trim_end_matches('-').trim_end().len();
        let end = start + 2 + length + 2;
        let word = &text[inner_start..inner_end];
        if kind == TagKind::Statement && raw && word != "endraw" {
            at = start + 1;
            continue;
        }
        if kind == TagKind::Statement {
            raw = word == "raw";
        }
        tags.push(Tag {
            kind,
            start,
            end,
            inner: inner_start..inner_end,
        });
        at = end;
    }
    tags
}

/// Offset of the closing delimiter; one inside a text literal does not count.
fn find_close(rest: &str, close: &str, kind: TagKind) -> Option<usize> {
    if kind == TagKind::Comment {
        return rest.find(close);
    }
    let mut literal = None;
    let mut escaped = false;
    for (at, c) in rest.char_indices() {
        match literal {
            Some(_) if escaped => escaped = false,
            Some(_) if c == '\\' => escaped = true,
            Some(quote) if c == quote => literal = None,
            Some(_) => {}
            None if rest[at..].starts_with(close) => return Some(at),
            None if matches!(c, '"' | '\'' | '`') => literal = Some(c),
            None => {}
        }
    }
    None
}

/// The words of a tag's text that no text literal holds, each with the place where it begins.
pub fn words(inside: &str) -> Vec<(usize, &str)> {
    let mut words = Vec::new();
    let mut literal = None;
    let mut escaped = false;
    let mut start = None;
    // A blank at the end, which ends the last word.
    for (at, c) in inside.char_indices().chain([(inside.len(), ' ')]) {
        let of_word = literal.is_none() && (c.is_ascii_alphanumeric() || c == '_');
        match start {
            None if of_word => start = Some(at),
            Some(begin) if !of_word => {
                words.push((begin, &inside[begin..at]));
                start = None;
            }
            _ => {}
        }
        match literal {
            Some(_) if escaped => escaped = false,
            Some(_) if c == '\\' => escaped = true,
            Some(quote) if c == quote => literal = None,
            None if matches!(c, '"' | '\'' | '`') => literal = Some(c),
            _ => {}
        }
    }
    words
}

/// Words of an expression that name no variable.
const KEYWORDS: [&str; 19] = [
    "and", "or", "not", "is", "in", "if", "elif", "else", "endif", "for", "endfor", "set", "raw",
    "endraw", "break", "continue", "true", "false", "none",
];

/// The words of a tag's text that stand where a variable can: no literal, attribute, filter, test, function or argument.
fn read(inside: &str) -> Vec<&str> {
    let words = words(inside);
    let named = |(n, (at, word)): (usize, &(usize, &'_ str))| {
        let before = inside[..*at].trim_end();
        let after = inside[at + word.len()..].trim_start();
        let is =
            |back: usize, wanted: &str| n.checked_sub(back).is_some_and(|n| words[n].1 == wanted);
        // Nothing but blanks between them.
        let refused = before.strip_suffix("not").map(str::trim_end);
        let tested = (is(1, "is") && before.ends_with("is"))
            || (is(1, "not") && is(2, "is") && refused.is_some_and(|left| left.ends_with("is")));
        !(word.starts_with(|c: char| c.is_ascii_digit())
            || before.ends_with('.')
            || before.ends_with('|')
            || tested
            || after.starts_with('(')
            || (after.starts_with('=') && !after.starts_with("==")))
    };
    let found = words.iter().enumerate().filter(|one| named(*one));
    found.map(|(_, (_, word))| *word).collect()
}

/// The words of a tag's text that can name variables: those of [`read`] that are no keyword.
pub fn variables(inside: &str) -> Vec<&str> {
    let mut found = read(inside);
    found.retain(|word| !KEYWORDS.contains(&word.to_ascii_lowercase().as_str()));
    found
}

/// The names that the statements of a text give to values: by `set`, and as the items of loops.
pub fn bound<'t>(text: &'t str, tags: &[Tag]) -> Vec<&'t str> {
    let mut bound = vec!["loop", "__tera_context"];
    for tag in tags.iter().filter(|tag| tag.kind == TagKind::Statement) {
        let words = words(&text[tag.inner.clone()]);
        match words.first() {
            Some((_, "set")) => bound.extend(words.get(1).map(|(_, word)| *word)),
            Some((_, "for")) => {
                let names = words[1..].iter().map(|(_, word)| *word);
                bound.extend(names.take_while(|word| *word != "in"));
            }
            _ => {}
        }
    }
    bound
}

/// True if the tag's text holds `name` as a word of its own.
pub fn mentions(inside: &str, name: &str) -> bool {
    inside
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .any(|word| word == name)
}

/// True if the tag's text reads the variable `name`, which may be called as a keyword is.
pub fn uses(inside: &str, name: &str) -> bool {
    read(inside).contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inside(text: &str, dialect: Dialect) -> Vec<&str> {
        scan(text, dialect)
            .into_iter()
            .map(|tag| &text[tag.inner])
            .collect()
    }

    #[test]
    fn a_variable_is_read_or_is_no_variable() {
        for reads in [
            "pin",
            "pin | upper",
            "a ~ pin",
            "if pin == 'x'",
            "x | f(a=pin)",
            "if not pin",
            "pin is string",
        ] {
            assert!(uses(reads, "pin"), "{reads}");
        }
        for not in [
            "pins",
            "a_pin",
            "'pin'",
            "x | pin",
            "x is pin",
            "x is not pin",
            "x.pin",
            "pin(a=1)",
            "x | f(pin=1)",
        ] {
            assert!(!uses(not, "pin"), "{not}");
        }
    }

    #[test]
    fn tags_are_found() {
        assert_eq!(
            inside("a {{ b }} {%- if c -%} {{- '}}' -}}", Dialect::Plain),
            ["b", "if c", "'}}'"]
        );
        assert_eq!(
            inside(
                "{% raw %}{{ a }}{% if %}{% endraw %}{{ b }}",
                Dialect::Plain
            ),
            ["raw", "endraw", "b"]
        );
        assert_eq!(
            inside("{# {{ a }} #}{{ b }}", Dialect::Plain),
            ["{{ a }}", "b"]
        );
        assert_eq!(inside("${#x} {{ b }} #}", Dialect::Script), ["b"]);
        assert_eq!(inside("{{ a", Dialect::Script), Vec::<&str>::new());
    }

    #[test]
    fn variables_are_what_has_a_value() {
        assert_eq!(
            variables("a.b | f(x=c, y='d e') ~ g(end=h) if not i is defined and j == 1 else true"),
            ["a", "c", "h", "i", "j"]
        );
        let text = "{% for k, v in m %}{% set w = k %}{% endfor %}";
        assert_eq!(
            bound(text, &scan(text, Dialect::Plain))[2..],
            ["k", "v", "w"]
        );
    }

    #[test]
    fn words_are_whole() {
        assert!(mentions("a | default(value=b)", "b"));
        assert!(!mentions("ab.c", "b"));
    }
}
