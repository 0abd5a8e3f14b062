//! The policies that the program prints, against what it calls: a front before the local cloud judges each request as IAM
//! would, by the action, the resource and the conditions.

mod asks;
pub mod judge;

pub use judge::Judge;
