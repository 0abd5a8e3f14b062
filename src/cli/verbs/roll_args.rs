//! The command line of `roll`.

use clap::{Args, Subcommand};

use crate::cli::completions;

/// What to do with a group.
#[derive(Debug, Subcommand)]
pub enum RollVerb {
    /// Roll a group to an image: a canary first, then an instance refresh, then the proof
    Start(StartArgs),
    /// Show how a group and its newest roll stand; changes nothing
    Status(GroupArgs),
    /// Follow a roll; go on with it where its process has died
    Watch(GroupArgs),
    /// Turn a roll back that is under way
    Abort(GroupArgs),
    /// Bring a group back to the version before its newest roll
    Rollback(GroupArgs),
}

#[derive(Debug, Args)]
pub struct GroupArgs {
    /// Name of the Auto Scaling group
    #[arg(add = completions::groups())]
    pub group: String,
}

#[derive(Debug, Args)]
pub struct StartArgs {
    /// Name of the Auto Scaling group
    #[arg(add = completions::groups())]
    pub group: String,
    /// An AMI id, a recipe name for its latest image, or RECIPE@candidate
    #[arg(long, value_name = "IMAGE", add = completions::images())]
    pub image: String,
    /// Shell command that must succeed on the canary and on every new instance (can be repeated) [default: the
    /// image's recipe's roll.canary_checks]
    #[arg(long = "canary-check", value_name = "COMMAND")]
    pub canary_checks: Vec<String>,
    /// Begin the refresh without a canary; new instances are checked all the same
    #[arg(long)]
    pub no_canary: bool,
    /// How long a new instance runs before it counts [default: the recipe's roll.warmup, else 60s]
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub warmup: Option<u32>,
    /// Instances that may exist at the same time, in percent of the desired number [default: the recipe's
    /// roll.max_healthy, else 120]
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(101..=200))]
    pub max_healthy: Option<u32>,
    /// Pause when this percentage is replaced (can be repeated, ascending) [default: the recipe's roll.checkpoints]
    #[arg(long = "checkpoint", value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub checkpoints: Vec<u32>,
    /// How long to pause at a checkpoint [default: the recipe's roll.checkpoint_delay, else 10m]
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub checkpoint_delay: Option<u32>,
    /// Do not ask, on a terminal, before the first change
    #[arg(long)]
    pub yes: bool,
}

/// A time such as `90`, `60s`, `10m` or `2h`, in seconds; at most two days, as Auto Scaling allows.
fn seconds(text: &str) -> Result<u32, String> {
    let (number, unit) = match text.char_indices().last() {
        Some((at, 's')) => (&text[..at], 1),
        Some((at, 'm')) => (&text[..at], 60),
        Some((at, 'h')) => (&text[..at], 3600),
        _ => (text, 1),
    };
    number
        .parse::<u32>()
        .ok()
        .and_then(|number| number.checked_mul(unit))
        .filter(|seconds| *seconds <= 172_800)
        .ok_or_else(|| "expected a time up to 48h, such as 90s, 10m or 2h".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!(seconds("60s"), Ok(60));
        assert_eq!(seconds("90"), Ok(90));
        assert_eq!(seconds("10m"), Ok(600));
        assert_eq!(seconds("48h"), Ok(172_800));
        for wrong in ["", "s", "-1s", "1d", "49h", "1.5m", "99999999999h"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
