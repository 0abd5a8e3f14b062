//! The agent on a worker: it knows whether a job runs, takes cordons, and proves that the worker is empty.
//!
//! - [`agent`] decides and does nothing else; [`status`] is what it says.
//! - [`adapter`]: how it sees and tells the CI agent. [`config`] says which.
//! - [`store`]: what survives a restart. [`socket`], [`notify`]: clients and systemd.
//! - [`secret`] is not about a worker: it fetches secrets for the steps of a bake.
//! - [`protection`], [`sign`], [`imds`], [`fetch`]: what it asks of AWS, without the SDK: the binary goes into every image.
//! - [`daemon`] carries it all out; [`cli`] is the command line.

pub mod adapter;
pub mod agent;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod fetch;
pub mod imds;
pub mod notify;
pub mod protection;
pub mod secret;
pub mod sign;
pub mod socket;
pub mod status;
pub mod store;
