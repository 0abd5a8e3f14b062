//! What a bake tells while it runs. The terminal, JSON lines and summaries are readers of this stream.

use serde::Serialize;

use crate::events;

/// The parts of a bake, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// A security group, where the recipe names none, and the builder instance.
    Launch,
    /// The builder runs and its agent answers.
    Boot,
    /// The bundle is on the builder, its checksum verified.
    Send,
    /// Packages, files and steps.
    Provision,
    /// Checks on the builder.
    Validate,
    /// Identity, logs and caches removed, and the removal checked.
    Seal,
    /// The builder is off.
    Stop,
    /// The image and its snapshot.
    Image,
    /// An instance of the new image passes the tests.
    Test,
    /// Tags and parameters: the image can be found and used.
    Publish,
    /// Builder, tester and security group are gone.
    Release,
    /// Machines of two images tell what is on them: for `diff` and `verify`, and no part of a bake.
    List,
}

impl Phase {
    /// The phases of a bake, in order.
    pub const ALL: [Self; 11] = [
        Self::Launch,
        Self::Boot,
        Self::Send,
        Self::Provision,
        Self::Validate,
        Self::Seal,
        Self::Stop,
        Self::Image,
        Self::Test,
        Self::Publish,
        Self::Release,
    ];

    /// In words, for people.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Launch => "launch the builder",
            Self::Boot => "wait for its agent",
            Self::Send => "send the bundle",
            Self::Provision => "provision",
            Self::Validate => "validate",
            Self::Seal => "seal",
            Self::Stop => "stop the builder",
            Self::Image => "create the image",
            Self::Test => "test the image",
            Self::Publish => "publish",
            Self::Release => "clean up",
            Self::List => "list what is in the images",
        }
    }
}

/// Kinds of things that a bake creates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Resource {
    /// The lease of the digest, in SSM parameters: one bake of it at a time.
    Lease,
    SecurityGroup,
    Builder,
    /// The object in S3 that a machine fetches its bundle from.
    Bundle,
    Image,
    /// The image of a builder between two scripts, for bakes to come.
    Layer,
    Tester,
    /// The SSM parameters that hold the image's manifest and its packages.
    Manifest,
    /// The SSM parameter that names the newest image of the recipe, or its candidate.
    Latest,
}

impl Resource {
    /// All kinds, in the order in which a bake creates them.
    pub const ALL: [Self; 9] = [
        Self::Lease,
        Self::SecurityGroup,
        Self::Builder,
        Self::Bundle,
        Self::Layer,
        Self::Image,
        Self::Tester,
        Self::Manifest,
        Self::Latest,
    ];

    /// The name in journals and events.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lease => "lease",
            Self::SecurityGroup => "security-group",
            Self::Builder => "builder",
            Self::Bundle => "bundle",
            Self::Image => "image",
            Self::Layer => "layer",
            Self::Tester => "tester",
            Self::Manifest => "manifest",
            Self::Latest => "latest",
        }
    }

    /// The kind with this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// Which machine a script runs on and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum List {
    /// Packages, files and steps, on the builder.
    Steps,
    /// Checks, on the builder.
    Validate,
    /// Checks, on an instance of the image.
    Test,
}

impl List {
    /// The name of the list's file in the bundle.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Steps => "steps",
            Self::Validate => "validate",
            Self::Test => "test",
        }
    }
}

/// The two halves of a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Listing {
    /// The machine reads its files.
    Read,
    /// The list comes here.
    Fetch,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Serialize, schemars::JsonSchema)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A run begins: what, and where it is about to act.
    Started {
        run: String,
        /// Not in JSON: there each event has it.
        #[serde(skip)]
        recipe: String,
        version: String,
        digest: String,
        image_name: String,
        /// Image that the builder starts from.
        start_image: String,
        cloud: String,
        account: String,
        region: String,
        /// File that gets the machines' whole output.
        log: String,
    },
    PhaseStarted {
        phase: Phase,
    },
    PhaseFinished {
        phase: Phase,
        milliseconds: u64,
    },
    /// What a wait sees at the moment; sent when it changes.
    Waiting {
        what: String,
        state: String,
    },
    Created {
        kind: Resource,
        id: String,
    },
    Removed {
        kind: Resource,
        id: String,
    },
    /// A script begins (`number` of `total` in its list, both from 1).
    StepStarted {
        list: List,
        number: u32,
        total: u32,
        title: String,
        attempt: u32,
    },
    /// It was done before a reboot or a repeated command.
    StepSkipped {
        list: List,
        number: u32,
        title: String,
    },
    /// It failed and is tried again.
    StepRetried {
        list: List,
        number: u32,
        title: String,
        exit_code: i32,
    },
    StepFinished {
        list: List,
        number: u32,
        title: String,
        exit_code: i32,
        seconds: u64,
    },
    /// A line that the running script wrote.
    Output {
        line: String,
    },
    /// Something that somebody may want to know; the bake goes on.
    Note {
        text: String,
    },
    Snapshot {
        id: String,
        percent: u8,
    },
    /// How far a machine is with the list of what is in its image: files that it has read, then bytes that have come.
    Listing {
        image: String,
        doing: Listing,
        percent: u8,
    },
    /// A failure or an interruption: what was created is being removed.
    Undoing {
        reason: String,
        /// Instance that is left for somebody to look at.
        #[serde(skip_serializing_if = "Option::is_none")]
        kept: Option<String>,
    },
    /// It could not be removed; `command` removes it by hand.
    LeftOver {
        kind: Resource,
        id: String,
        command: String,
    },
    Done {
        image: String,
        name: String,
        milliseconds: u64,
    },
    Failed {
        error: String,
    },
}

/// An event and its time.
pub type Stamped = events::Stamped<Event>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_are_found_by_their_names() {
        for kind in Resource::ALL {
            assert_eq!(Resource::parse(kind.as_str()), Some(kind));
        }
        assert_eq!(Resource::parse("castle"), None);
    }
}
