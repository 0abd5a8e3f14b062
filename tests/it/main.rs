//! The integration tests, one binary: each more would link the AWS SDK once more.

mod bake_flow;
mod runner;
