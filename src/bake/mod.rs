//! The bake: plan, steps, AMI. It knows EC2, SSM and tags, and does not know what answers.
//!
//! [`resolve`] finds the base image, [`survey`] looks at what exists, [`plan`](plan::plan) decides, [`bake`] acts. Every
//! creation goes through the journal, so a failure, an interruption or a `kill -9` at any point can be undone.

mod archive;
mod base;
mod bundle;
pub mod calls;
pub mod checkpoint;
mod claim;
mod compared;
mod dead;
mod engine;
mod errand;
mod error;
pub mod event;
mod finished;
pub(crate) mod follow;
pub mod images;
pub mod layers;
pub mod lock;
mod machine;
pub mod names;
mod once;
pub mod packages;
mod phases;
pub mod plan;
mod run;
pub mod saved;
pub mod stale;
mod survey;
pub(crate) mod undo;

pub use crate::aws::ssm::{Invocation, Verdict};
pub use crate::cancel::{Cancel, Canceller, pair as cancel_pair};
pub use base::{BaseError, resolve};
pub use bundle::{Bundle, HOME, TooLarge, user_data};
pub(crate) use claim::LEASES;
pub use compared::{Compared, bake_again, list_both};
pub use dead::{
    DeadRun, NotResumable, can_be_resumed, elsewhere, forget_plan, kept_until, resumable,
    undo_dead_run, undo_dead_runs, unfinished,
};
pub use engine::{Baked, DiskTree, Disks, Settings, bake, fits_commands, resume};
pub use error::{BakeError, Failure, Kept, LeftOver};
pub use event::{Event, Phase, Resource, Stamped};
pub use once::{Answer, Order, once};
pub use phases::publish::point;
pub(crate) use run::facts;
pub use survey::{SurveyError, survey};
