//! Recipes: schema, loading, inheritance, lint.
//!
//! [`load`] reads `recipes/<name>/recipe.yaml` and its parents and gives one merged [`model::Resolved`], or all
//! findings at once, each with file, line, column and a way out.

mod diagnostic;
mod init;
mod load;
pub mod model;
mod raw;
mod reader;
mod span;

pub use diagnostic::{Diagnostic, Diagnostics, nearest};
pub use init::init;
pub use load::{load, load_for_lint, names};

pub(crate) use load::placed;
