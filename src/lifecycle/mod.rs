//! The end of what runs have made: what may go, why, and its removal, also where no journal tells of it.
//!
//! What is ours is told by its tags and its name. What may go is a pure function ([`judge`]) of what was found
//! ([`survey`]) and of what this host knows of the runs; [`remove`] looks at images once more before it acts.

mod files;
mod judge;
mod remove;
mod survey;

pub use files::{File, forget, forgotten};
pub use judge::{Expiry, Found, Kind, Run, Use, Verdict, Why, judge};
pub use remove::{Removed, Stuck, by_hand, remove};
pub use survey::{Survey, Unseen, survey};
