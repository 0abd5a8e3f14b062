//! Recipes: schema, loading, inheritance, lint.

pub mod model;
