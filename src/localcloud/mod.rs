//! The local cloud: an AWS endpoint in the binary, whose instances are real machines on this host.

pub mod driver;
