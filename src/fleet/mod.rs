//! The fleet: one worker more when all are busy, and none that is idle for long.
//!
//! [`look`](look::look) gives a [`World`](world::World), [`decide`](decide::decide) says what it needs, a
//! [`Controller`] carries that out under a lease. The worker decides, the controller asks: a worker that is asked to
//! take no more jobs says itself when none runs any more, and only then is it ended. What is unknown ends nothing.

mod act;
pub mod alarm;
pub mod config;
pub mod decide;
pub mod demand;
mod engine;
pub mod event;
pub mod look;
pub mod memory;
mod plan;
pub mod policy;
pub mod preflight;
pub mod standing;
pub mod word;
pub mod world;

pub use engine::{Brain, Controller, Core, FleetError, NO_DEMAND, Shell, lease_name, peek};

#[cfg(test)]
mod tests;
