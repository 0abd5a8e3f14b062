//! The way to the cloud: clients, errors, waiting, tags.
//!
//! What answers is AWS or the local cloud. The difference is in the [`Connection`] and nowhere above it.

pub mod clients;
pub mod commands;
pub mod error;
pub mod groups;
pub mod objects;
pub mod parameters;
mod room;
pub mod ssm;
pub mod tags;
mod unclear;
pub mod wait;

pub use clients::{Account, Clients, ConnectError, Connection, configured};
pub use commands::Commands;
pub use error::{Error, Kind};
pub(crate) use room::{AskElsewhere, Room};
