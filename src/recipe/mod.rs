//! Recipes: schema, loading, inheritance, lint.
//!
//! A recipe is `<recipes>/<name>/recipe.yaml` and the files beside it. [`load()`] reads it and all it builds on, checks
//! each file by itself (`raw`) and merges the line root first: layers keep their order, parameters are inherited and
//! may be set by a child, a values file or the command line (`parameters`), and `labels`, `image`, `build`, `roll`,
//! `retention` and `distribution` are overridden key by key. What is wrong comes back as [`Diagnostics`], all at once,
//! each with its place and a way out. [`schema`] says for editors what a file may look like; [`secret`] what may be in
//! the place of a secret. The keys and words of a file are the types of `format`: the reader and the schema have them
//! from there.

pub mod diagnostic;
pub mod files;
mod format;
pub mod init;
mod inline;
mod load;
pub mod lock;
mod manager;
mod merge;
pub mod model;
pub(crate) mod node;
mod parameters;
mod raw;
mod revision;
pub mod schema;
pub mod secret;
mod trees;
pub(crate) mod twice;
pub(crate) mod units;

pub use diagnostic::{Diagnostic, Diagnostics};
pub use init::init;
pub use load::{FILE, Given, load, load_for_lint, merge_for_lint, merge_with, names};
pub use lock::{LocalBase, Lock, LockedDownload, LockedIndex, LockedPackage};
pub use merge::Merged;
pub use revision::{Revision, RevisionError};
pub use units::{age, seconds};

#[cfg(test)]
pub(crate) mod tests;
