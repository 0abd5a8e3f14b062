//! `parameters`: declared with a type, or set for a parent.

use regex::Regex;

use super::{Place, is_one_line, sample};
use crate::recipe::diagnostic::{Diagnostics, suggest};
use crate::recipe::format::{self, Kind, keys};
use crate::recipe::model::Value;
use crate::recipe::node::{Entry, Node};
use crate::recipe::units;

/// An entry of `parameters`.
#[derive(Debug)]
pub struct RawParameter {
    pub name: String,
    pub at: Place,
    pub is: RawParameterKind,
}

#[derive(Debug)]
pub enum RawParameterKind {
    /// `name: { type: …, default: … }`
    Declared(Box<Declaration>),
    /// `name: value`, for a parameter that a parent declares.
    Set(Value),
}

/// What a recipe says about a parameter of its own.
#[derive(Debug)]
pub struct Declaration {
    pub kind: Kind,
    pub default: Option<(Value, Place)>,
    pub description: Option<String>,
    pub limits: Option<Limits>,
    /// Its value is a reference to a secret.
    pub secret: bool,
}

/// The values that a parameter may have.
#[derive(Debug, Clone)]
pub struct Limits {
    /// `enum`: these, and no others; of a list, its items.
    pub allowed: Option<Vec<Value>>,
    /// `pattern`: the whole text matches, or each item of a list.
    pub pattern: Option<Pattern>,
    /// Where the parameter is declared.
    pub at: Place,
}

/// A regular expression of the `regex` crate, and how it was written.
#[derive(Debug, Clone)]
pub struct Pattern {
    pub text: String,
    whole: Regex,
}

/// The most memory that a compiled pattern may take, in bytes; a check of it takes time linear in the value.
const PATTERN_LIMIT: usize = 256 * 1024;

impl Pattern {
    /// # Errors
    /// What is wrong with it, in one line.
    fn new(text: &str) -> Result<Self, String> {
        let compile = |text: &str| {
            regex::RegexBuilder::new(text)
                .size_limit(PATTERN_LIMIT)
                .build()
                .map_err(|error| match error {
                    regex::Error::CompiledTooBig(_) => "it is too large".to_owned(),
                    // The report draws the place over several lines; its last line says what it is.
                    other => {
                        let text = other.to_string();
                        let last = text.lines().last().unwrap_or_default();
                        last.trim_start_matches("error: ").to_owned()
                    }
                })
        };
        // By itself first: "a)(b" would be sound inside the group.
        compile(text)?;
        Ok(Self {
            text: text.to_owned(),
            whole: compile(&format!(r"\A(?:{text})\z"))?,
        })
    }

    /// Texts to try for a value that it allows.
    pub fn samples(&self) -> Vec<String> {
        sample::samples(&self.text)
    }
}

impl Limits {
    /// What is wrong with `value` for the parameter `name`, and a way out.
    pub fn check(&self, name: &str, value: &Value) -> Result<(), (String, String)> {
        let items: Vec<Value> = match value {
            Value::List(items) => items.iter().cloned().map(Value::String).collect(),
            one => vec![one.clone()],
        };
        for item in &items {
            if let Some(allowed) = &self.allowed
                && !allowed.contains(item)
            {
                let choices: Vec<String> = allowed.iter().map(Value::to_string).collect();
                let help = suggest(&item.to_string(), choices.iter().map(String::as_str));
                return Err((
                    format!("`{item}` is not in the enum of the parameter `{name}`"),
                    help,
                ));
            }
            if let (Some(pattern), Value::String(text)) = (&self.pattern, item)
                && !pattern.whole.is_match(text)
            {
                return Err((
                    format!("`{item}` does not match the pattern of the parameter `{name}`"),
                    format!(
                        "the whole of it must match `{}`, see {}:{}",
                        pattern.text,
                        self.at.at.file.display(),
                        self.at.at.line
                    ),
                ));
            }
        }
        Ok(())
    }
}

impl Kind {
    /// The type of a value.
    pub fn of(value: &Value) -> Self {
        match value {
            Value::String(_) => Self::String,
            Value::Integer(_) => Self::Integer,
            Value::Boolean(_) => Self::Boolean,
            Value::List(_) => Self::List,
        }
    }
}

pub fn read_parameters(node: Node<'_>, found: &mut Diagnostics) -> Vec<RawParameter> {
    let mut parameters = Vec::new();
    for entry in node.entries(found) {
        if !units::is_parameter_name(entry.key) {
            found.push(entry.diagnostic(
                format!("`{}` is not a parameter name", entry.key),
                "use lower-case letters, digits and underscores, a letter first",
            ));
            continue;
        }
        let mut more = Diagnostics::default();
        let is = if entry.node.is_map() {
            read_declaration(entry, &mut more)
        } else {
            parameter_value(entry.node, &mut more).map(RawParameterKind::Set)
        };
        if may_be_secret(entry.node) {
            more = more.without_lines();
        }
        found.extend(more);
        if let Some(is) = is {
            parameters.push(RawParameter {
                name: entry.key.to_string(),
                at: Place::of(&entry.node),
                is,
            });
        }
    }
    parameters
}

/// Whether a secret may stand in an entry by mistake: it is declared as one, or set, and what a parent says is not known
/// here.
fn may_be_secret(node: Node<'_>) -> bool {
    use serde_yaml::Value as Yaml;
    let get = |key: &str| node.value().get(key);
    get("type").is_none() || !matches!(get("secret"), None | Some(Yaml::Bool(false)))
}

fn read_declaration(entry: Entry<'_>, found: &mut Diagnostics) -> Option<RawParameterKind> {
    let fields = entry
        .node
        .fields(keys::<format::Declaration<String>>(), found);
    let description = fields.get("description").and_then(|description| {
        description.checked(
            "one line",
            is_one_line,
            "say in one line what it is for",
            found,
        )
    });
    let help = "write `type:` string, integer, boolean or list";
    let kind = fields.require("type", help, found).and_then(|node| {
        let text = node.text(found)?;
        let kind = Kind::parse(text);
        if kind.is_none() {
            let help = suggest(text, keys::<Kind>().iter().copied());
            found.push(node.diagnostic(format!("`{text}` is not a type of parameters"), help));
        }
        kind
    })?;
    let before = found.0.len();
    let allowed = fields
        .get("enum")
        .and_then(|node| read_enum(node, kind, found));
    let pattern = fields
        .get("pattern")
        .and_then(|node| read_pattern(node, kind, found));
    let secret = match fields.get("secret") {
        Some(node) => node.boolean(found).unwrap_or_default(),
        None => false,
    };
    if secret && (kind != Kind::String || allowed.is_some() || pattern.is_some()) {
        found.push(entry.node.diagnostic(
            "a secret is a string without `enum` and `pattern`",
            "its value is a reference; what it refers to is known to the machine alone",
        ));
    }
    let default = match fields.get("default") {
        None => None,
        Some(node) => {
            let value = parameter_value(node, found)?;
            if Kind::of(&value) != kind {
                found.push(node.diagnostic(
                    format!(
                        "the default is {}, the type is {}",
                        node.kind(),
                        kind.name()
                    ),
                    "make them agree; text that looks like a number needs quotes",
                ));
                return None;
            }
            Some((value, Place::of(&node)))
        }
    };
    if found.0.len() > before {
        return None;
    }
    let limits = (allowed.is_some() || pattern.is_some()).then(|| Limits {
        allowed,
        pattern,
        at: Place::of(&entry.node),
    });
    if let (Some(limits), Some((value, at))) = (&limits, &default)
        && let Err((message, help)) = limits.check(entry.key, value)
    {
        found.push(at.diagnostic(message, help));
    }
    Some(RawParameterKind::Declared(Box::new(Declaration {
        kind,
        default,
        description,
        limits,
        secret,
    })))
}

fn read_enum(node: Node<'_>, kind: Kind, found: &mut Diagnostics) -> Option<Vec<Value>> {
    if kind == Kind::Boolean {
        let help = "remove it: a boolean is true or false";
        found.push(node.diagnostic("a boolean has no `enum`", help));
        return None;
    }
    let item_kind = if kind == Kind::List {
        Kind::String
    } else {
        kind
    };
    let mut values = Vec::new();
    for item in node.items(found) {
        let value = parameter_value(item, found)?;
        if Kind::of(&value) != item_kind {
            found.push(item.diagnostic(
                format!(
                    "a value of the enum is {}, it must be of type {}",
                    item.kind(),
                    item_kind.name()
                ),
                "make them agree; text that looks like a number needs quotes",
            ));
        } else if values.contains(&value) {
            found.push(item.diagnostic(format!("`{value}` is listed twice"), "remove one of them"));
        } else {
            values.push(value);
        }
    }
    if values.is_empty() && node.value().is_sequence() {
        let help = "list the values that are allowed, or remove `enum`";
        found.push(node.diagnostic("an enum without values allows nothing", help));
    }
    Some(values)
}

fn read_pattern(node: Node<'_>, kind: Kind, found: &mut Diagnostics) -> Option<Pattern> {
    if !matches!(kind, Kind::String | Kind::List) {
        let message = format!("a parameter of type {} has no `pattern`", kind.name());
        let help = "patterns are for texts and lists of texts; `enum` lists other values";
        found.push(node.diagnostic(message, help));
        return None;
    }
    let text = node.text(found)?;
    match Pattern::new(text) {
        Ok(pattern) => Some(pattern),
        Err(error) => {
            let help = "write a regular expression as the regex crate has them (docs.rs/regex): no look-around, no \
                        back-references; the whole value must match, so ^ and $ are not needed";
            found.push(node.diagnostic(
                format!("`{text}` is not a regular expression: {error}"),
                help,
            ));
            None
        }
    }
}

pub fn parameter_value(node: Node<'_>, found: &mut Diagnostics) -> Option<Value> {
    use serde_yaml::Value as Yaml;
    match node.value() {
        Yaml::Bool(value) => Some(Value::Boolean(*value)),
        Yaml::Number(number) if number.is_i64() => number.as_i64().map(Value::Integer),
        Yaml::Number(number) if number.is_u64() => {
            found.push(node.diagnostic(
                "a parameter cannot be an integer of more than 64 bits",
                format!(
                    "write one from {} to {}, or text in quotes",
                    i64::MIN,
                    i64::MAX
                ),
            ));
            None
        }
        Yaml::Sequence(_) => Some(Value::List(texts(node, found))),
        Yaml::String(_) => node.text(found).map(|text| Value::String(text.to_string())),
        _ => {
            found.push(node.diagnostic(
                format!("a parameter cannot be {}", node.kind()),
                "write text, an integer, true or false, or a list of texts; put other numbers in quotes",
            ));
            None
        }
    }
}

pub fn texts(node: Node<'_>, found: &mut Diagnostics) -> Vec<String> {
    let mut texts = Vec::new();
    for item in node.items(found) {
        texts.extend(item.text(found).map(String::from));
    }
    texts
}
