//! Instance refreshes: the instances of a group are replaced, a few at a time.
//!
//! [`plan`] decides, over the records of the group and what is seen of its instances; [`wire`] takes the requests.

pub mod plan;
pub mod records;
#[cfg(test)]
mod tests;
pub(super) mod wire;
