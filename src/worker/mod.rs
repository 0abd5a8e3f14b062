//! The agent on a worker: it knows whether a job runs, takes cordons, and proves that the worker is empty.
//!
//! [`agent`] decides and does nothing else; [`status`] is what it says.

pub mod agent;
pub mod status;
