//! The CI server: how much work waits, and what it says of its workers.

pub mod buildbot;
pub mod command;
mod http;

use std::pin::Pin;

use super::world::Demand;

/// A look at the CI server under way.
pub type Asked<'a> = Pin<Box<dyn Future<Output = Demand> + Send + 'a>>;

/// Somebody who knows the queue.
pub trait Source: Send + Sync {
    /// Asks. What goes wrong is [`Demand::Unreachable`], with the reason.
    fn ask(&self) -> Asked<'_>;
}

/// Nobody knows it.
#[derive(Debug, Clone, Copy)]
pub struct Nobody;

impl Source for Nobody {
    fn ask(&self) -> Asked<'_> {
        Box::pin(std::future::ready(Demand::NotAsked))
    }
}
