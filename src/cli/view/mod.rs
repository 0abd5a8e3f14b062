//! Readers of the event stream.

pub mod bake;
pub mod fleet;
pub mod progress;
pub mod roll;
