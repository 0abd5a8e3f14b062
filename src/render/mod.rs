//! Templates to scripts.

pub mod script;
