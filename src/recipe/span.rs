//! YAML as a tree that remembers where everything stands.
//!
//! Only what recipes need: one document of mappings, sequences and scalars. Anchors and aliases are refused, so no
//! file can grow beyond its own size; size and depth are bounded.

use std::borrow::Cow;
use std::path::Path;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle};

use super::diagnostic::Diagnostic;

/// The largest recipe file, in bytes.
pub const MAX_BYTES: u64 = 1024 * 1024;
/// The deepest nesting.
const MAX_DEPTH: usize = 16;

/// A line and a column, both from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    pub line: usize,
    pub column: usize,
}

impl From<Marker> for Mark {
    fn from(marker: Marker) -> Self {
        Self {
            line: marker.line(),
            column: marker.col() + 1,
        }
    }
}

/// A value and its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub at: Mark,
    pub value: Yaml,
}

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub enum Yaml {
    /// A scalar; `plain` ones are typed by their text (YAML 1.2, 10.3.2), quoted and block ones are strings.
    Scalar {
        text: String,
        plain: bool,
    },
    Sequence(Vec<Node>),
    /// In the order of the file; keys are unique.
    Mapping(Vec<(Key, Node)>),
}

/// A key of a mapping and its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    pub at: Mark,
    pub name: String,
}

impl Node {
    /// What this is, with an article.
    #[must_use]
    pub fn what(&self) -> &'static str {
        match &self.value {
            Yaml::Scalar { .. } if self.is_null() => "nothing",
            Yaml::Scalar { .. } => "a scalar",
            Yaml::Sequence(_) => "a list",
            Yaml::Mapping(_) => "a mapping",
        }
    }

    /// Whether this is an empty or `null` value.
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(&self.value, Yaml::Scalar { text, plain: true } if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }
}

/// Parses one document.
///
/// # Errors
/// The first thing that is not YAML, or is YAML that recipes do not use.
pub fn parse(file: &Path, text: &str) -> Result<Node, Diagnostic> {
    let fail =
        |mark: Mark, message: String| Diagnostic::at(file, text, mark.line, mark.column, message);
    let mut builder = Builder {
        file,
        text,
        open: Vec::new(),
        root: None,
    };
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| {
            let found = fail(
                (*error.marker()).into(),
                format!("this is not YAML: {}", error.info()),
            );
            if text
                .lines()
                .any(|line| line.trim_start_matches(' ').starts_with('\t'))
            {
                found.help("indent with spaces; YAML allows no tabs there")
            } else {
                found
            }
        })?;
        builder.event(event, span.start.into())?;
    }
    builder.root.ok_or_else(|| {
        Diagnostic::general(Some(file.to_path_buf()), "the file is empty")
            .help("start one with `piaas-bake init NAME`")
    })
}

struct Builder<'a> {
    file: &'a Path,
    text: &'a str,
    open: Vec<Open>,
    root: Option<Node>,
}

/// A collection that has not ended.
enum Open {
    Sequence(Mark, Vec<Node>),
    Mapping(Mark, Vec<(Key, Node)>, Option<Key>),
}

impl Builder<'_> {
    fn event(&mut self, event: Event<'_>, at: Mark) -> Result<(), Diagnostic> {
        match event {
            Event::Scalar(text, style, anchor, _) => {
                self.no_anchor(anchor, at)?;
                let plain = matches!(style, ScalarStyle::Plain);
                self.value(
                    at,
                    Yaml::Scalar {
                        text: Cow::into_owned(text),
                        plain,
                    },
                )
            }
            Event::SequenceStart(anchor, _) => {
                self.no_anchor(anchor, at)?;
                self.push(Open::Sequence(at, Vec::new()), at)
            }
            Event::MappingStart(anchor, _) => {
                self.no_anchor(anchor, at)?;
                self.push(Open::Mapping(at, Vec::new(), None), at)
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open::Sequence(at, items)) => self.value(at, Yaml::Sequence(items)),
                Some(Open::Mapping(at, pairs, _)) => self.value(at, Yaml::Mapping(pairs)),
                None => Ok(()),
            },
            Event::Alias(_) => Err(self.no_aliases(at)),
            Event::DocumentStart(_) if self.root.is_some() => Err(self
                .fail(at, "a recipe is one YAML document")
                .help("remove the second `---`")),
            _ => Ok(()),
        }
    }

    fn push(&mut self, open: Open, at: Mark) -> Result<(), Diagnostic> {
        if self.open.len() == MAX_DEPTH {
            return Err(self.fail(at, format!("nested deeper than {MAX_DEPTH} levels")));
        }
        self.open.push(open);
        Ok(())
    }

    fn value(&mut self, at: Mark, value: Yaml) -> Result<(), Diagnostic> {
        let node = Node { at, value };
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open::Sequence(_, items)) => items.push(node),
            Some(Open::Mapping(_, pairs, key)) => match key.take() {
                Some(key) => pairs.push((key, node)),
                None => {
                    let Yaml::Scalar { text, .. } = node.value else {
                        return Err(self.fail(at, "a key must be a word"));
                    };
                    if let Some((first, _)) = pairs.iter().find(|(first, _)| first.name == text) {
                        let first = first.at;
                        let message = format!("duplicate key `{text}`");
                        return Err(self
                            .fail(at, message)
                            .help(format!("it is already at line {}", first.line)));
                    }
                    *key = Some(Key { at, name: text });
                }
            },
        }
        Ok(())
    }

    fn no_anchor(&self, anchor: usize, at: Mark) -> Result<(), Diagnostic> {
        if anchor == 0 {
            Ok(())
        } else {
            Err(self.no_aliases(at))
        }
    }

    fn no_aliases(&self, at: Mark) -> Diagnostic {
        self.fail(at, "anchors and aliases are not part of the recipe format")
            .help("write the value out, or share it through a parent recipe or a parameter")
    }

    fn fail(&self, at: Mark, message: impl Into<String>) -> Diagnostic {
        Diagnostic::at(self.file, self.text, at.line, at.column, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> String {
        parse(Path::new("r.yaml"), text).unwrap_err().to_string()
    }

    #[test]
    fn places_count_from_one() {
        let root = parse(Path::new("r.yaml"), "a: 1\nb:\n  - x\n").unwrap();
        let Yaml::Mapping(pairs) = root.value else {
            panic!("a mapping")
        };
        assert_eq!(pairs[1].0.at, Mark { line: 2, column: 1 });
        let Yaml::Sequence(items) = &pairs[1].1.value else {
            panic!("a list")
        };
        assert_eq!(items[0].at, Mark { line: 3, column: 5 });
    }

    #[test]
    fn what_recipes_do_not_use_is_refused() {
        assert!(message("a: 1\na: 2\n").contains("r.yaml:2:1: duplicate key `a`"));
        assert!(message("a: &x 1\nb: *x\n").contains("anchors and aliases"));
        assert!(
            message("a:\n\t- 1\n").contains("spaces"),
            "{}",
            message("a:\n\t- 1\n")
        );
        assert!(message("").contains("empty"));
        assert!(message(&"[".repeat(40)).contains("deeper"));
        assert!(message("a: 1\n---\nb: 2\n").contains("one YAML document"));
    }
}
