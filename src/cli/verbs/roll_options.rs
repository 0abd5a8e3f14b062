//! What a roll does: the word of the command line, then that of the recipe of the image, then a default.

use std::time::Duration;

use super::roll_args::StartArgs;
use crate::aws::tags;
use crate::bake::images::Image;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::{exit, output};
use crate::recipe::{self, model::RollSpec};
use crate::roll::record::Options;

/// # Errors
/// Checkpoints that do not ascend.
pub fn ascending(checkpoints: &[u32]) -> Result<(), CliError> {
    if checkpoints.windows(2).any(|pair| pair[0] >= pair[1]) {
        return Err(CliError::new(
            exit::USAGE,
            "checkpoints must ascend, such as --checkpoint 25 --checkpoint 50",
        ));
    }
    Ok(())
}

/// What the recipe of an image says about rolls. It is not in the image, so it is read from the recipes here, if they
/// hold the recipe in the version that the image was baked from.
pub fn wishes(context: &Context, image: &Image) -> RollSpec {
    let (Some(recipe), Some(version)) = (image.tag(tags::RECIPE), image.tag(tags::VERSION)) else {
        return RollSpec::default();
    };
    let recipes = &context.settings.recipes;
    let Ok(resolved) = recipe::load_for_lint(recipes, recipe) else {
        return RollSpec::default();
    };
    if resolved.roll == RollSpec::default() {
        return RollSpec::default();
    }
    if resolved.version.to_string() != version {
        output::note(&format!(
            "the image was baked from {recipe} {version}; the `roll` section of {} here is not used",
            resolved.version
        ));
        return RollSpec::default();
    }
    output::note(&format!(
        "`roll` of {recipe} {version} stands where the command line says nothing"
    ));
    resolved.roll
}

/// The command line has the first word, then the recipe.
pub fn options(args: &StartArgs, recipe: &RollSpec) -> Options {
    let seconds = |duration: Option<Duration>| {
        // At most 48 hours.
        duration.and_then(|duration| u32::try_from(duration.as_secs()).ok())
    };
    let list = |given: &[u32], recipe: &Option<Vec<u32>>| match recipe {
        Some(recipe) if given.is_empty() => recipe.clone(),
        _ => given.to_vec(),
    };
    let mut checkpoints = list(&args.checkpoints, &recipe.checkpoints);
    // A refresh whose last checkpoint is not 100 ends there, with a part of the group replaced (Auto Scaling API,
    // `CheckpointPercentages`).
    if checkpoints.last().is_some_and(|last| *last < 100) {
        checkpoints.push(100);
    }
    Options {
        canary: !args.no_canary,
        checks: match &recipe.canary_checks {
            Some(checks) if args.canary_checks.is_empty() => checks.clone(),
            _ => args.canary_checks.clone(),
        },
        warmup: args.warmup.or(seconds(recipe.warmup)).unwrap_or(60),
        max_healthy: args.max_healthy.or(recipe.max_healthy).unwrap_or(120),
        checkpoints,
        checkpoint_delay: args
            .checkpoint_delay
            .or(seconds(recipe.checkpoint_delay))
            .unwrap_or(600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        start: StartArgs,
    }

    #[test]
    fn the_command_line_has_the_first_word_then_the_recipe() {
        let line = |more: &[&str]| {
            let words = ["roll", "group", "--image", "web"];
            Line::parse_from(words.iter().chain(more)).start
        };
        let none = options(&line(&[]), &RollSpec::default());
        assert_eq!(
            (none.warmup, none.max_healthy, none.checkpoint_delay),
            (60, 120, 600)
        );
        let recipe = RollSpec {
            warmup: Some(Duration::from_secs(90)),
            max_healthy: Some(150),
            canary_checks: Some(vec!["true".into()]),
            checkpoints: Some(vec![50]),
            checkpoint_delay: Some(Duration::from_secs(30)),
        };
        let of_recipe = options(&line(&[]), &recipe);
        assert_eq!(
            (
                of_recipe.warmup,
                of_recipe.max_healthy,
                of_recipe.checkpoint_delay
            ),
            (90, 150, 30)
        );
        assert_eq!(
            (of_recipe.checks, of_recipe.checkpoints),
            (vec!["true".into()], vec![50, 100])
        );
        let given = [
            "--warmup",
            "1s",
            "--canary-check",
            "x",
            "--checkpoint",
            "100",
        ];
        let given = options(&line(&given), &recipe);
        assert_eq!((given.warmup, given.max_healthy), (1, 150));
        assert_eq!(
            (given.checks, given.checkpoints),
            (vec!["x".into()], vec![100])
        );
    }
}
