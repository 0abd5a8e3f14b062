//! How a fleet is to be run.

use std::time::Duration;

use jiff::SignedDuration;
use serde::Serialize;

/// The policy. Times are lengths of time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Policy {
    /// A worker that is idle for longer is shut down.
    pub idle_after: SignedDuration,
    /// Idle workers that are kept even while nothing runs.
    pub min_idle: u32,
    /// Idle workers that are kept while others are busy: when all are busy, this many more are launched.
    pub spare: u32,
    /// Workers for each job in the queue, in percent: 100 is one worker a job, 50 one for two.
    pub queue_percent: u32,
    /// Most instances that one tick launches.
    pub launch_most: u32,
    /// Most workers that one tick cordons because they are idle.
    pub cordon_most: u32,
    /// How many workers of the old version may be without work at the same time during a roll, in percent of the
    /// fleet, at least one.
    pub drain_percent: u32,
    /// A new instance counts as capacity until it answers, for this long after its launch.
    pub boot_deadline: SignedDuration,
    /// A worker that is unknown for longer is an alarm for people.
    pub leak_after: SignedDuration,
    /// Between two ticks.
    pub interval: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            idle_after: SignedDuration::from_mins(10),
            min_idle: 0,
            spare: 1,
            queue_percent: 100,
            launch_most: 10,
            cordon_most: 10,
            drain_percent: 25,
            boot_deadline: SignedDuration::from_mins(10),
            leak_after: SignedDuration::from_mins(15),
            interval: Duration::from_secs(15),
        }
    }
}
