//! One file a verb.

pub mod bake;
pub mod bakes;
pub mod changed;
pub mod cloud;
pub mod cloud_expose;
pub mod cloud_run;
pub mod cloud_shell;
pub mod config;
pub mod doctor;
pub mod fleet;
pub mod fleet_args;
pub mod images;
pub mod init;
pub mod lint;
pub mod lock;
pub mod man;
pub mod plan;
pub mod rebake;
pub mod render;
mod resolved;
pub mod roll;
pub mod roll_args;
mod roll_options;
pub mod saved;
pub mod schema;
pub mod show;
pub mod why;
