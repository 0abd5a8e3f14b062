//! What a boot proof tells while it goes on.

use serde::Serialize;

use super::check::Check;
use super::qemu::Accelerator;

/// The parts of a proof, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// From the firmware until systemd has started all that the image wants.
    Boot,
    /// What the first boot has made and left, is listed.
    Look,
    /// The recipe's tests.
    Test,
    /// The machine ends, with the status that it chooses.
    End,
    /// The image boots once more, to be another machine.
    Again,
}

impl Phase {
    /// In words, for people.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Boot => "boot",
            Self::Look => "look at what the first boot made",
            Self::Test => "run the recipe's tests",
            Self::End => "end the machine",
            Self::Again => "boot the image again, as another machine",
        }
    }
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Serialize, schemars::JsonSchema)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A proof begins.
    Started {
        image_name: String,
        accelerator: Accelerator,
        /// File that gets what the machine writes to its serial console.
        console: String,
    },
    PhaseStarted {
        phase: Phase,
    },
    PhaseFinished {
        phase: Phase,
        milliseconds: u64,
    },
    /// A test begins (`number` of `total`, both from 1).
    StepStarted {
        number: u32,
        total: u32,
        title: String,
        attempt: u32,
    },
    StepFinished {
        title: String,
        exit_code: i32,
        seconds: u64,
    },
    /// A line that the running test wrote.
    Output {
        line: String,
    },
    /// A check of the boot itself.
    Checked {
        #[serde(flatten)]
        check: Check,
    },
}
