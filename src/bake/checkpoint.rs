//! The checkpoints of a bake: how far it has come, by name, in the journal of its run.

use super::event::List;

/// The builder's agent has answered.
pub const BOOT: &str = "boot";
/// The builder has its bundle.
pub const SEND: &str = "send";
pub const PROVISION: &str = "provision";
pub const VALIDATE: &str = "validate";
/// With what the machine printed of its packages.
pub const SEAL: &str = "seal";
pub const STOP: &str = "stop";
/// The image is tested.
pub const TEST: &str = "test";
/// What tells of the image is stored, and the image is being made ready: it stays from here on.
pub const PUBLISH: &str = "publish";
/// Until when the machine that a bake has failed on is kept for somebody to look at.
pub const KEPT: &str = "kept";
/// The number of the last script of which a layer was kept, or could not be.
pub(super) const LAYER: &str = "layer";
/// The id of the command that seals.
pub(super) const SEALING: &str = "command-seal";

/// Those that hold the id of a command: whoever goes on with a run waits for the one that is under way.
pub(super) const COMMANDS: [&str; 4] =
    ["command-steps", "command-validate", "command-test", SEALING];

/// The one with the id of the command that runs a list.
pub(super) fn command_of(list: List) -> &'static str {
    match list {
        List::Steps => COMMANDS[0],
        List::Validate => COMMANDS[1],
        List::Test => COMMANDS[2],
    }
}

/// Whether it holds the id of a command.
#[must_use]
pub fn is_command(name: &str) -> bool {
    COMMANDS.contains(&name)
}
