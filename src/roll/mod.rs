//! The roll: a group of instances goes from one image to another, or back, and proves it.
//!
//! [`survey`] looks, [`preflight::judge`] says whether it can be done, [`next`](next::next) decides each step from the
//! record and a [`World`](world::World), [`drive`] carries the steps out. The order: a numbered launch template version
//! that changes the image only; a canary; an instance refresh with launch before terminate; checks on every new
//! instance; the proof. Anything that fails turns the roll back to the version before.

pub mod act;
mod canary;
pub mod checks;
mod difference;
mod engine;
pub mod event;
pub mod look;
pub mod next;
pub mod preflight;
pub mod record;
mod refresh;
pub mod step;
pub mod store;
mod survey;
#[cfg(test)]
mod tests;
pub mod world;

pub use crate::lease::{self, Held, Hold};
pub use engine::{RollError, drive, lease_name, observe};
pub use refresh::{Unsettled, settled};
pub use survey::survey;
