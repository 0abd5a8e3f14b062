//! piaas-bake: a golden-AMI factory for CI/CD fleets.
//!
//! A recipe is rendered into provisioning scripts, hashed, baked into an AMI through EC2 and SSM, and tested. What
//! answers the AWS API is either AWS or the local cloud in this binary; nothing above [`aws`] knows which.
//!
//! The rooms, top to bottom; arrows point down this list only:
//!
//! - [`cli`]: one file per verb, and the readers of the event stream. Only this room prints.
//! - [`vm`]: an image's disk boots in QEMU and is tested there. Runs the bundles of [`bake`].
//! - [`bake`]: plan, steps, AMI. Knows EC2, SSM and tags.
//! - [`fleet`]: one worker more when all are busy, none that is idle for long. Reads the records of [`roll`].
//! - [`roll`]: a group goes to another image by an instance refresh, or back.
//! - [`lifecycle`]: what runs have left, what of it may go and why, and its end. Removes by the ways of [`bake`].
//! - [`recipe`], [`render`], [`digest`]: YAML to a merged recipe, to scripts, to a content hash. Pure.
//! - [`worker`]: the agent on a worker; the binary `piaas-worker`. Knows neither EC2 nor SSM.
//! - [`journal`]: the write-ahead log of intents and outcomes.
//! - [`aws`]: clients, errors, waiting, tags, objects in S3.
//! - [`iam`]: the policies that verbs need.
//! - [`localcloud`]: below the wire. No room above imports it but `cli`, which plugs it in; it imports only [`image`] and
//!   [`debs`].
//! - [`image`]: canonical file trees, ext4, FAT, GPT, disks; the table of known leaks.
//! - [`debs`]: packages by their content, and the files of them on this host.
//! - [`clock`], [`cancel`], [`lease`], [`process`], [`events`], [`parallel`]: time, passed in; asking work to stop; one
//!   process at a time, and whether it lives; what work tells while it goes on; the same work on all cores.
//! - `untar`: archives that somebody else wrote.
//! - `fuzz`: what reads input from outside, under arbitrary input. Only in tests and in the fuzzer.

pub mod aws;
pub mod bake;
pub mod cancel;
pub mod cli;
pub mod clock;
pub mod debs;
pub mod digest;
pub mod events;
pub mod fleet;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
pub mod iam;
pub mod image;
pub mod journal;
pub mod lease;
pub mod lifecycle;
pub mod localcloud;
pub mod parallel;
pub mod process;
pub mod recipe;
pub mod render;
pub mod roll;
mod untar;
pub mod vm;
pub mod whole;
pub mod worker;
