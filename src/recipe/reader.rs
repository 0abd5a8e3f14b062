//! Typed access to a spanned tree: what does not fit becomes a finding, and reading goes on.

use std::path::Path;
use std::time::Duration;

use super::diagnostic::{Diagnostic, nearest};
use super::model::{Location, Value};
use super::span::{Key, Mark, Node, Yaml};

/// Reads one file's tree and collects findings.
pub struct Reader<'a> {
    file: &'a Path,
    text: &'a str,
    pub found: Vec<Diagnostic>,
}

/// A mapping whose keys have been checked.
#[derive(Clone, Copy)]
pub struct Fields<'n> {
    pub at: Mark,
    pairs: &'n [(Key, Node)],
}

impl<'n> Fields<'n> {
    /// The value of a key, if it is there and not null.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&'n Node> {
        self.pairs
            .iter()
            .find(|(key, _)| key.name == name)
            .map(|(_, node)| node)
            .filter(|node| !node.is_null())
    }

    /// The keys and values in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = (&'n Key, &'n Node)> {
        self.pairs.iter().map(|(key, node)| (key, node))
    }
}

impl<'a> Reader<'a> {
    #[must_use]
    pub fn new(file: &'a Path, text: &'a str) -> Self {
        Self {
            file,
            text,
            found: Vec::new(),
        }
    }

    /// A place in this file.
    #[must_use]
    pub fn location(&self, at: Mark) -> Location {
        Location {
            file: self.file.to_path_buf(),
            line: at.line,
            column: at.column,
        }
    }

    /// Adds a finding.
    pub fn fail(&mut self, at: Mark, message: impl Into<String>, help: impl Into<String>) {
        self.found
            .push(Diagnostic::at(self.file, self.text, at.line, at.column, message).help(help));
    }

    /// A mapping with any keys.
    pub fn mapping<'n>(&mut self, node: &'n Node, what: &str) -> Option<Fields<'n>> {
        if let Yaml::Mapping(pairs) = &node.value {
            return Some(Fields { at: node.at, pairs });
        }
        self.fail(
            node.at,
            format!("{what} must be a mapping, not {}", node.what()),
            "write `key: value` lines below it",
        );
        None
    }

    /// A mapping that may have only these keys.
    pub fn fields<'n>(&mut self, node: &'n Node, what: &str, known: &[&str]) -> Option<Fields<'n>> {
        let fields = self.mapping(node, what)?;
        for (key, _) in fields.iter() {
            if !known.contains(&key.name.as_str()) {
                let help = match nearest(&key.name, known.iter().copied()) {
                    Some(name) => format!("did you mean `{name}`?"),
                    None => format!("the keys here are {}", known.join(", ")),
                };
                self.fail(
                    key.at,
                    format!("unknown key `{}` in {what}", key.name),
                    help,
                );
            }
        }
        Some(fields)
    }

    /// A list.
    pub fn list<'n>(&mut self, node: Option<&'n Node>, what: &str) -> &'n [Node] {
        match node.map(|node| (&node.value, node)) {
            None => &[],
            Some((Yaml::Sequence(items), _)) => items,
            Some((_, node)) => {
                self.fail(
                    node.at,
                    format!("{what} must be a list, not {}", node.what()),
                    "write one `- item` a line",
                );
                &[]
            }
        }
    }

    /// Any scalar as its text.
    pub fn text(&mut self, node: &Node, what: &str) -> Option<String> {
        match &node.value {
            Yaml::Scalar { text, .. } if !node.is_null() => Some(text.clone()),
            _ => {
                self.fail(
                    node.at,
                    format!("{what} must be a text, not {}", node.what()),
                    "write it on the same line",
                );
                None
            }
        }
    }

    /// A list of texts.
    pub fn texts(&mut self, node: Option<&Node>, what: &str) -> Vec<String> {
        self.list(node, what)
            .iter()
            .filter_map(|item| self.text(item, &format!("an item of {what}")))
            .collect()
    }

    /// A key that must be there.
    pub fn required<'n>(&mut self, fields: Fields<'n>, name: &str, what: &str) -> Option<&'n Node> {
        let node = fields.get(name);
        if node.is_none() {
            self.fail(
                fields.at,
                format!("{what} has no `{name}`"),
                format!("add a line `{name}: …`"),
            );
        }
        node
    }

    /// A required text.
    pub fn required_text(&mut self, fields: Fields<'_>, name: &str, what: &str) -> Option<String> {
        let node = self.required(fields, name, what)?;
        self.text(node, &format!("`{name}`"))
    }

    /// `true` or `false`.
    pub fn boolean(&mut self, node: &Node, what: &str) -> Option<bool> {
        if let Some(Value::Boolean(value)) = scalar(node) {
            return Some(value);
        }
        self.fail(
            node.at,
            format!("{what} must be true or false"),
            "write `true` or `false` without quotes",
        );
        None
    }

    /// A whole number within bounds.
    pub fn number(
        &mut self,
        node: &Node,
        what: &str,
        range: std::ops::RangeInclusive<i64>,
    ) -> Option<i64> {
        if let Some(Value::Integer(value)) = scalar(node)
            && range.contains(&value)
        {
            return Some(value);
        }
        let help = format!(
            "write a whole number from {} to {}",
            range.start(),
            range.end()
        );
        self.fail(node.at, format!("{what} must be a whole number"), help);
        None
    }

    /// A duration such as `90s`, `10m` or `1h 30m`.
    pub fn duration(&mut self, node: &Node, what: &str) -> Option<Duration> {
        let text = self.text(node, what)?;
        if let Some(duration) = duration(&text) {
            return Some(duration);
        }
        self.fail(
            node.at,
            format!("{what} must be a duration, not `{text}`"),
            "write it as `90s`, `10m` or `1h 30m`",
        );
        None
    }
}

/// The value of a scalar by YAML's own rules: quoted is a string, plain is typed by its text.
#[must_use]
pub fn scalar(node: &Node) -> Option<Value> {
    let Yaml::Scalar { text, plain } = &node.value else {
        return None;
    };
    if !plain {
        return Some(Value::String(text.clone()));
    }
    Some(match serde_yaml::from_str::<serde_yaml::Value>(text) {
        Ok(serde_yaml::Value::Bool(value)) => Value::Boolean(value),
        Ok(serde_yaml::Value::Number(number)) => match number.as_i64() {
            Some(value) => Value::Integer(value),
            None => Value::String(text.clone()),
        },
        _ => Value::String(text.clone()),
    })
}

/// Sums parts such as `1h 30m`; each is a whole number with the unit `s`, `m` or `h`.
#[must_use]
pub fn duration(text: &str) -> Option<Duration> {
    let mut seconds: u64 = 0;
    let mut parts = text.split_whitespace().peekable();
    parts.peek()?;
    for part in parts {
        let unit = part.chars().last()?;
        let factor = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            _ => return None,
        };
        let count: u64 = part.strip_suffix(unit)?.parse().ok()?;
        seconds = seconds.checked_add(count.checked_mul(factor)?)?;
    }
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

/// Permission bits written as octal text, such as `0644`.
#[must_use]
pub fn mode(text: &str) -> Option<u32> {
    let octal =
        (3..=4).contains(&text.len()) && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    octal.then(|| u32::from_str_radix(text, 8).ok()).flatten()
}

/// A size in whole GiB, such as `8GiB`.
#[must_use]
pub fn size_gib(text: &str) -> Option<u32> {
    text.strip_suffix("GiB")?
        .trim_end()
        .parse()
        .ok()
        .filter(|size| (1..=16_384).contains(size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read_strictly() {
        assert_eq!(duration("1h 30m"), Some(Duration::from_secs(5400)));
        assert_eq!(duration("10"), None);
        assert_eq!(duration(""), None);
        assert_eq!(duration("0s"), None);
        assert_eq!(mode("0644"), Some(0o644));
        assert_eq!(mode("644"), Some(0o644));
        assert_eq!(mode("0x1"), None);
        assert_eq!(mode("0888"), None);
        assert_eq!(size_gib("8GiB"), Some(8));
        assert_eq!(size_gib("8GB"), None);
        assert_eq!(size_gib("0GiB"), None);
    }
}
