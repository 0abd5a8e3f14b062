//! The JSON Schema of recipe files, for editors: made from the types of `format`, which the reader has its keys from.
//!
//! It says what a file may look like. What depends on other files, on several places, on order or on sums (names of
//! parents, parameters that nobody uses, templates, the longest duration) only a lint can say.

use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use serde_json::Value;

use super::format::{Recipe, as_written};

/// The name of the file beside the recipes.
pub const FILE: &str = "recipe.schema.json";

/// The first line of a recipe: where editors find the schema
/// (<https://github.com/redhat-developer/yaml-language-server>, "Using inlined schema").
pub const HEADER: &str = "# yaml-language-server: $schema=../recipe.schema.json";

/// The schema, as text that ends with a newline.
#[must_use]
pub fn text() -> String {
    format!("{:#}\n", schema())
}

/// The schema (draft 7, which editors read).
#[must_use]
pub fn schema() -> Value {
    SchemaSettings::draft07()
        .with(|settings| settings.inline_subschemas = true)
        .with_transform(RecursiveTransform(as_written))
        .into_generator()
        .into_root_schema_for::<Recipe>()
        .to_value()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `UPDATE_EXPECTED=1 cargo test schema` writes it anew.
    #[test]
    fn the_schema_beside_the_recipes_is_that_of_the_reader() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/recipes/recipe.schema.json");
        if std::env::var_os("UPDATE_EXPECTED").is_some() {
            std::fs::write(file, text()).unwrap();
        }
        assert!(
            std::fs::read_to_string(file).unwrap_or_default() == text(),
            "{file} is stale: piaas-bake schema >recipes/recipe.schema.json"
        );
    }
    #[test]
    fn the_recipes_here_are_of_the_types_that_the_schema_is_made_from() {
        let dir = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/recipes"));
        let names = crate::recipe::names(dir).unwrap();
        assert!(!names.is_empty());
        for name in names {
            let text = std::fs::read_to_string(dir.join(&name).join("recipe.yaml")).unwrap();
            if let Err(error) = serde_yaml::from_str::<Recipe>(&text) {
                panic!("{name}: {error}");
            }
        }
    }
}
