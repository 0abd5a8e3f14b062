//! Exit codes. Scripts may depend on them; an unknown code means failure.

/// Done.
pub const DONE: u8 = 0;
/// An expected failure that has no code of its own.
pub const FAILURE: u8 = 1;
/// The command line was wrong.
pub const USAGE: u8 = 2;
/// A recipe, or a value given to it, is invalid.
pub const RECIPE_INVALID: u8 = 3;
/// A lock or a digest does not match.
pub const MISMATCH: u8 = 4;
/// The cloud refused: credentials, permission, quota, or it is not reachable.
pub const CLOUD_REFUSED: u8 = 5;
/// A bake, or the test of an image, failed; everything it created is removed.
pub const BAKE_FAILED: u8 = 6;
/// A bake failed and something it created is still there; it was printed with the command that removes it.
pub const CLEANUP_INCOMPLETE: u8 = 7;
/// A roll was halted or rolled back.
pub const ROLL_HALTED: u8 = 8;
/// A deadline passed.
pub const TIMED_OUT: u8 = 9;
/// Another run holds the lease.
pub const LEASE_HELD: u8 = 10;
/// A bug in piaas-bake.
pub const BUG: u8 = 70;
/// Interrupted (Ctrl-C or SIGTERM) before its end; what goes on until it is interrupted ends with 0 then. Everything created was removed unless printed otherwise.
pub const INTERRUPTED: u8 = 130;
