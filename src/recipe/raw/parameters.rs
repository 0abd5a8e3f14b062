//! `parameters`: declared with a type, or set for a parent.

use super::{Place, is_one_line};
use crate::recipe::diagnostic::{Diagnostics, suggest};
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
    Declared { kind: Kind, default: Option<Value> },
    /// `name: value`, for a parameter that a parent declares.
    Set(Value),
}

/// The type of a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    String,
    Integer,
    Boolean,
    List,
}

impl Kind {
    const NAMES: [&'static str; 4] = ["string", "integer", "boolean", "list"];

    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "string" => Self::String,
            "integer" => Self::Integer,
            "boolean" => Self::Boolean,
            "list" => Self::List,
            _ => return None,
        })
    }

    /// As the recipe writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Integer => "integer",
            Self::Boolean => "boolean",
            Self::List => "list",
        }
    }

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
        let is = if entry.node.is_map() {
            read_declaration(entry, found)
        } else {
            parameter_value(entry.node, found).map(RawParameterKind::Set)
        };
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

pub fn read_declaration(entry: Entry<'_>, found: &mut Diagnostics) -> Option<RawParameterKind> {
    let fields = entry
        .node
        .fields(&["type", "default", "description"], found);
    if let Some(description) = fields.get("description") {
        description.checked(
            "one line",
            is_one_line,
            "say in one line what it is for",
            found,
        );
    }
    let help = "write `type:` string, integer, boolean or list";
    let kind = fields.require("type", help, found).and_then(|node| {
        let text = node.text(found)?;
        let kind = Kind::parse(text);
        if kind.is_none() {
            let help = suggest(text, Kind::NAMES);
            found.push(node.diagnostic(format!("`{text}` is not a type of parameters"), help));
        }
        kind
    })?;
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
            Some(value)
        }
    };
    Some(RawParameterKind::Declared { kind, default })
}

fn parameter_value(node: Node<'_>, found: &mut Diagnostics) -> Option<Value> {
    use serde_yaml::Value as Yaml;
    match node.value() {
        Yaml::Bool(value) => Some(Value::Boolean(*value)),
        Yaml::Number(number) if number.is_i64() => number.as_i64().map(Value::Integer),
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
