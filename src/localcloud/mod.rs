//! The local cloud: an AWS endpoint in the binary, whose instances are real machines on this host.
//!
//! A request arrives as bytes (from the SDK in this process through [`connector`], from any client through
//! [`serve`]), its signature is checked, and one operation runs over the records in `state.json`. Machines are the
//! [`driver::Driver`]'s affair; the operations read what became of them on every call.

mod auth;
pub mod autoscaling;
pub mod base;
pub mod connector;
pub mod doctor;
pub mod driver;
mod ec2;
pub mod endpoint;
pub mod engine;
pub mod exposed;
pub mod faults;
pub mod gc;
mod imagebuilder;
pub mod inventory;
pub mod nspawn;
pub mod quotas;
pub mod regions;
pub mod relay;
pub mod s3;
pub mod scripted;
mod secrets;
pub mod serve;
pub mod sessions;
mod ssm;
pub mod state;
mod sts;
pub mod supervisor;
pub mod wire;

pub use connector::connector;
pub use engine::LocalCloud;

/// Access key id that the local cloud knows; it opens nothing else.
pub const ACCESS_KEY: &str = "AKIALOCALPIAASBAKE00";
/// The secret key that belongs to [`ACCESS_KEY`].
pub const SECRET_KEY: &str = "local-piaas-bake-secret-key";
/// Where machines reach the AWS API of their cloud.
pub const MACHINE_ENDPOINT: &str = "http://169.254.169.254:4599";
/// The region of clients that name none.
pub const DEFAULT_REGION: &str = "us-east-1";
/// The account that owns everything but the base image.
pub const ACCOUNT_ID: &str = "000000000000";
/// The base image: Debian 12, as its publisher's account offers it.
pub const BASE_IMAGE: &str = "ami-0deb1a00000000012";
/// Snapshot of the base image's root device.
pub const BASE_SNAPSHOT: &str = "snap-0deb1a00000000012";
/// Account of the base image's publisher, Debian's on AWS.
pub const BASE_OWNER: &str = "136693071363";
/// Name of the base image.
pub const BASE_NAME: &str = "debian-12-amd64-local";
/// Public parameter that holds the id of the base image.
pub const BASE_PARAMETER: &str = "/aws/service/debian/release/12/latest/amd64";
