//! How the agent sees a CI agent and talks to it.
//!
//! An adapter looks ([`Adapter::look`]) and carries out orders ([`Adapter::carry_out`]); both may be repeated, and each
//! ends within a time of its own. It decides nothing: what its looks mean is up to [`super::agent`].

mod buildbot;
mod command;
mod shell;

use super::agent::{Order, Seen};
use super::config::Config;
use super::store::Store;

/// The adapter of a configuration.
#[derive(Debug)]
pub enum Adapter {
    Buildbot(buildbot::Buildbot),
    Command(command::Command),
}

impl Adapter {
    #[must_use]
    pub fn new(config: Config, store: Store) -> Self {
        match config {
            Config::Buildbot(config) => Self::Buildbot(buildbot::Buildbot::new(config, store)),
            Config::Command(config) => Self::Command(command::Command::new(config)),
        }
    }

    /// What the CI agent does now.
    pub async fn look(&mut self) -> Seen {
        match self {
            Self::Buildbot(adapter) => adapter.look().await,
            Self::Command(adapter) => adapter.look().await,
        }
    }

    /// Carries out an order; the CI agent may need longer to follow it.
    ///
    /// # Errors
    /// Why it was not given; then it is to be tried again.
    pub async fn carry_out(&mut self, order: Order) -> Result<(), String> {
        match (self, order) {
            (Self::Buildbot(adapter), Order::Close) => adapter.close().await,
            (Self::Buildbot(adapter), Order::Open) => adapter.open().await,
            (Self::Command(adapter), Order::Close) => adapter.close().await,
            (Self::Command(adapter), Order::Open) => adapter.open().await,
        }
    }
}
