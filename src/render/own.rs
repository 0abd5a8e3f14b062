//! The templates that are part of this program: read once, for the same ones are rendered for every recipe.

use std::path::Path;

use tera::{Context, Tera};

use super::origin::Origin;
use super::tags::Dialect;
use super::template::{Renderer, name};
use crate::recipe::diagnostic::Diagnostics;

/// A script of ours, made of one value.
pub struct Own {
    value: &'static str,
    engine: Tera,
}

impl Own {
    /// A script that calls its value by this name.
    pub fn new(text: &str, value: &'static str) -> Self {
        let mut found = Diagnostics::default();
        let origin = Origin::File(Path::new("templates"));
        let engine = Renderer::of(value).read(text, origin, Dialect::Script, &mut found);
        let engine = engine.unwrap_or_else(|| {
            panic!("the templates in the program are tested, each by a recipe: {found}")
        });
        Self { value, engine }
    }

    pub fn render(&self, value: &impl serde::Serialize) -> String {
        let mut context = Context::new();
        context.insert(self.value, value);
        let text = self.engine.render(name(Dialect::Script), &context);
        text.unwrap_or_else(|error| {
            panic!("the templates in the program are tested with every kind of value: {error}")
        })
    }
}
