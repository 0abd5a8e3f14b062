//! The integration tests, one binary: each more would link the AWS SDK once more.

mod aws;
mod bake_flow;
mod bake_real;
mod changed;
mod cli;
mod clients;
mod cloud_faults;
mod cloud_wire;
mod completion;
mod fleet;
mod host;
mod image;
mod lock;
mod machines;
mod metadata;
mod ndjson;
mod packages;
mod plan_file;
mod roll;
mod runner;
mod secrets_real;
mod settings;
mod story;
mod support;
mod worker;
mod workflows;
