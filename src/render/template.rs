//! tera, strict, with shell quoting as the escape function of scripts.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;

use serde::Serialize;
use tera::{Context, Tera};

use super::quoting;
use crate::recipe::model::{Location, Source, Value};
use crate::recipe::{Diagnostic, nearest, placed};

/// What a text is rendered for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A script: `{{ value }}` becomes one quoted word.
    Shell,
    /// A file or a variable: `{{ value }}` becomes the value.
    Text,
}

impl Kind {
    /// The template's name; its suffix turns the quoting on.
    fn template_name(self) -> &'static str {
        match self {
            Self::Shell => "script.sh",
            Self::Text => "text",
        }
    }
}

/// Renders texts with the parameters of one recipe line.
pub struct Renderer<'a> {
    parameters: &'a BTreeMap<String, Value>,
    used: BTreeSet<String>,
}

impl<'a> Renderer<'a> {
    #[must_use]
    pub fn new(parameters: &'a BTreeMap<String, Value>) -> Self {
        Self {
            parameters,
            used: BTreeSet::new(),
        }
    }

    /// The parameters that some text has used.
    #[must_use]
    pub fn used(&self) -> &BTreeSet<String> {
        &self.used
    }

    /// Renders one of our own script templates with one value.
    pub fn own(&self, template: &str, name: &'static str, value: &impl Serialize) -> String {
        let mut context = Context::new();
        context.insert(name, value);
        let mut tera = engine();
        tera.add_raw_template(Kind::Shell.template_name(), template)
            .and_then(|()| tera.render(Kind::Shell.template_name(), &context))
            .expect("our own templates parse and use only the value they are given")
    }

    /// Renders a text of a recipe.
    ///
    /// # Errors
    /// Findings at `at`, or in the template file itself.
    pub fn source(
        &mut self,
        source: &Source,
        at: &Location,
        kind: Kind,
    ) -> Result<String, Vec<Diagnostic>> {
        match source {
            Source::Inline(text) => self.text(text, kind, &|line, message| match line {
                Some(line) if text.lines().nth(1).is_some() => {
                    placed(at, format!("{message} (line {line} of its text)"))
                }
                _ => placed(at, message),
            }),
            Source::Raw(path) | Source::Template(path) => {
                let text = std::fs::read_to_string(path).map_err(|error| {
                    vec![placed(
                        at,
                        format!("cannot read {}: {error}", path.display()),
                    )]
                })?;
                self.text(&text, kind, &|line, message| {
                    Diagnostic::at(&shown(path), &text, line.unwrap_or(1), 1, message)
                })
            }
        }
    }

    fn text(
        &mut self,
        text: &str,
        kind: Kind,
        place: &dyn Fn(Option<usize>, String) -> Diagnostic,
    ) -> Result<String, Vec<Diagnostic>> {
        let name = kind.template_name();
        let mut tera = engine();
        if let Err(error) = tera.add_raw_template(name, text) {
            let (line, message) = explain(&error);
            let help = "write `{{ parameter }}`; text that holds `{{` itself goes between {% raw %} and {% endraw %}";
            return Err(vec![
                place(line, format!("the template does not parse: {message}")).help(help),
            ]);
        }
        let mut found = Vec::new();
        if kind == Kind::Shell {
            for quoted in quoting::quoted_values(text) {
                let message = format!("`{}` stands inside {}", quoted.expression, quoted.inside);
                found.push(
                    place(Some(quoted.line), message)
                        .help("remove the quotes: a value is always one quoted word"),
                );
            }
        }
        for variable in tera.get_template_variables(name).into_iter().flatten() {
            if self.parameters.contains_key(variable) {
                self.used.insert(variable.to_owned());
            } else {
                let line = text
                    .lines()
                    .position(|line| line.contains(variable))
                    .map(|index| index + 1);
                let finding = place(line, format!("there is no parameter `{variable}`"));
                found.push(
                    match nearest(variable, self.parameters.keys().map(String::as_str)) {
                        Some(near) => finding.help(format!("did you mean `{near}`?")),
                        None => finding.help(format!(
                            "declare it: `{variable}: {{ type: string, description: … }}`"
                        )),
                    },
                );
            }
        }
        if !found.is_empty() {
            return Err(found);
        }
        let mut context = Context::new();
        for (name, value) in self.parameters {
            context.insert(name.clone(), value);
        }
        tera.render(name, &context).map_err(|error| {
            let (line, message) = explain(&error);
            vec![place(
                line,
                format!("the template does not render: {message}"),
            )]
        })
    }
}

/// A path as a person in this directory would write it.
fn shown(path: &Path) -> std::path::PathBuf {
    std::env::current_dir()
        .ok()
        .and_then(|here| here.canonicalize().ok())
        .and_then(|here| path.strip_prefix(here).ok().map(Path::to_path_buf))
        .unwrap_or_else(|| path.to_path_buf())
}

fn engine() -> Tera {
    let mut tera = Tera::new();
    tera.autoescape_on([".sh"]);
    tera.set_escape_fn(quote);
    tera
}

/// One POSIX shell word that expands to `value` (IEEE Std 1003.1, Shell Command Language, 2.2.2).
fn quote(value: &str, out: &mut dyn Write) -> std::io::Result<()> {
    let quoted = shlex::try_quote(value).map_err(|_nul| {
        std::io::Error::new(
            std::io::ErrorKind::InvalidInput,
            "a value with a NUL character cannot be a shell word",
        )
    })?;
    out.write_all(quoted.as_bytes())
}

/// The line of an error in its template, where tera knows one, and the error in one line.
fn explain(error: &tera::Error) -> (Option<usize>, String) {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    let line = text
        .split("-->")
        .nth(1)
        .and_then(|place| place.split_whitespace().next())
        .and_then(|place| place.split(':').nth(1))
        .and_then(|line| line.parse().ok());
    let message = text
        .lines()
        .next()
        .unwrap_or_default()
        .trim_start_matches("error: ")
        .to_owned();
    (line, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;
    use std::process::Command;

    fn at() -> Location {
        Location {
            file: PathBuf::from("r.yaml"),
            line: 1,
            column: 1,
        }
    }

    fn render(text: &str, value: &str, kind: Kind) -> Result<String, Vec<Diagnostic>> {
        let parameters = BTreeMap::from([("value".to_owned(), Value::String(value.to_owned()))]);
        Renderer::new(&parameters).source(&Source::Inline(text.to_owned()), &at(), kind)
    }

    fn through_a_shell(value: &str) -> Vec<u8> {
        let script = render("printf '%s' {{ value }}", value, Kind::Shell).unwrap();
        Command::new("/bin/sh")
            .arg("-c")
            .arg(script)
            .output()
            .unwrap()
            .stdout
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { cases: 64, ..Default::default() })]
        #[test]
        fn any_value_is_one_word(value in "[^\0]{0,40}") {
            proptest::prop_assert_eq!(through_a_shell(&value), value.as_bytes());
        }

        #[test]
        fn hostile_values_arrive_unchanged(value in "[-'\"`$(){}\\\\;|&<>*?#!~ \n\té]{0,20}") {
            proptest::prop_assert_eq!(through_a_shell(&value), value.as_bytes());
        }
    }

    #[test]
    fn a_nul_is_refused() {
        let found = render("echo {{ value }}", "a\0b", Kind::Shell).unwrap_err();
        assert!(found[0].message.contains("NUL"), "{}", found[0]);
    }

    #[test]
    fn files_get_the_value_itself() {
        assert_eq!(
            render("v={{ value }}", "a b'c", Kind::Text).unwrap(),
            "v=a b'c"
        );
    }

    #[test]
    fn mistakes_are_findings_with_a_way_out() {
        let text = |template: &str, kind| render(template, "x", kind).unwrap_err()[0].to_string();
        assert!(text("echo {{ valu }}", Kind::Shell).contains("did you mean `value`?"));
        assert!(text("echo '{{ value }}'", Kind::Shell).contains("remove the quotes"));
        assert!(text("echo {{ value ", Kind::Shell).contains("does not parse"));
        assert!(text("echo {{ value | frobnicate }}", Kind::Shell).contains("frobnicate"));
    }

    #[test]
    fn a_list_is_several_words_in_a_loop() {
        let list = Value::List(vec!["a b".to_owned(), "c".to_owned()]);
        let parameters = BTreeMap::from([("list".to_owned(), list)]);
        let text = "echo{% for item in list %} {{ item }}{% endfor %}";
        let mut renderer = Renderer::new(&parameters);
        let rendered = renderer
            .source(&Source::Inline(text.to_owned()), &at(), Kind::Shell)
            .unwrap();
        assert_eq!(rendered, "echo 'a b' c");
    }
}
