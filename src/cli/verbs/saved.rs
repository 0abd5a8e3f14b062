//! Plan files: written by `plan -o`, looked at by `plan FILE`, carried out by `bake FILE`.

use std::collections::BTreeSet;
use std::path::Path;

use super::plan::{Order, Wishes, decide};
use crate::aws::commands::quote;
use crate::bake::plan::Decision;
use crate::bake::saved::{FORMAT, Outcome, Place, Saved, SavedLayer};
use crate::cli::args::{HowArgs, SetArgs};
use crate::cli::context::{Connected, Context, io};
use crate::cli::error::CliError;
use crate::cli::{exit, output};
use crate::whole;

/// Whether an argument is a file: no recipe's name has a slash or a dot.
#[must_use]
pub fn is_file(argument: &str) -> bool {
    argument.contains(['/', '.'])
}

/// A path as `bake` takes it for one.
#[must_use]
pub fn as_argument(path: &Path) -> String {
    let text = path.display().to_string();
    let text = if is_file(&text) {
        text
    } else {
        format!("./{text}")
    };
    quote(&text)
}

/// The plan that an argument names, if it names a file.
///
/// # Errors
/// As [`load`]; and options are given that the plan has in it.
pub fn named(argument: &str, sets: &SetArgs, how: &HowArgs) -> Result<Option<Saved>, CliError> {
    if !is_file(argument) {
        return Ok(None);
    }
    refuse_options(sets, how)?;
    load(Path::new(argument)).map(Some)
}

/// A plan file has its values and its wishes in it.
fn refuse_options(sets: &SetArgs, how: &HowArgs) -> Result<(), CliError> {
    let given = [
        (!sets.set.is_empty(), "--set"),
        (!sets.values.is_empty(), "--values"),
        (how.force, "--force"),
        (how.no_cache, "--no-cache"),
        (how.candidate, "--candidate"),
        (how.locked, "--locked"),
    ];
    match given.into_iter().find(|(is_given, _)| *is_given) {
        None => Ok(()),
        Some((_, option)) => Err(CliError::new(
            exit::USAGE,
            format!("{option} does not go with a plan file: the plan was made with its own"),
        )
        .hint(format!(
            "give {option} when you plan: piaas-bake plan RECIPE -o FILE"
        ))),
    }
}

impl From<&Saved> for Wishes {
    fn from(saved: &Saved) -> Self {
        Self::new(saved.force, saved.channel, saved.no_cache)
    }
}

impl From<&Saved> for Order {
    fn from(saved: &Saved) -> Self {
        Self {
            recipe: saved.recipe().to_owned(),
            description: saved.description.clone(),
            base: saved.base.clone(),
            layers: saved.layers(),
            disks: saved.line.iter().map(|layer| layer.image.clone()).collect(),
            build: saved.build.clone(),
            // The plan is what it is; it has the scripts that hold it to its locks.
            unlocked: Vec::new(),
            pins: saved
                .line
                .first()
                .map(|root| root.layer.pins.clone())
                .unwrap_or_default(),
            stands_on: saved.base.clone(),
            local_base: None,
            debs: Vec::new(),
        }
    }
}

fn place(connected: &Connected) -> Place {
    Place {
        cloud: connected.clients.cloud.to_owned(),
        account: connected.account.id.clone(),
        region: connected.clients.region.clone(),
    }
}

/// A plan as a file holds it.
#[must_use]
pub fn of(
    context: &Context,
    connected: &Connected,
    order: &Order,
    wishes: &Wishes,
    outcome: Outcome,
) -> Saved {
    Saved {
        format: FORMAT.to_owned(),
        program: env!("CARGO_PKG_VERSION").to_owned(),
        made: context.clock.now(),
        place: place(connected),
        description: order.description.clone(),
        base: order.base.clone(),
        line: order
            .layers
            .iter()
            .zip(&order.disks)
            .map(|(layer, disk)| SavedLayer::new(layer, disk))
            .collect(),
        build: order.build.clone(),
        force: wishes.force,
        no_cache: wishes.starts.as_ref().is_some_and(BTreeSet::is_empty),
        channel: wishes.channel,
        outcome,
    }
}

/// Writes a plan, whole or not at all.
///
/// # Errors
/// The file exists, or cannot be written.
pub fn write(
    context: &Context,
    connected: &Connected,
    order: &Order,
    how: &HowArgs,
    decision: &Decision,
    path: &Path,
) -> Result<(), CliError> {
    let saved = of(
        context,
        connected,
        order,
        &Wishes::from(how),
        Outcome::from(decision),
    );
    whole::create(path, 0o600, |file| saved.write(file)).map_err(|error| {
        let failure = io("write the plan to", path, &error);
        if error.kind() == std::io::ErrorKind::AlreadyExists {
            failure.hint("remove it, or choose another name: a plan is not written over another")
        } else {
            failure
        }
    })?;
    output::note(&format!("plan written to {}", path.display()));
    Ok(())
}

/// Reads a plan file.
///
/// # Errors
/// It cannot be read, is no plan, or was changed (exit code 4).
fn load(path: &Path) -> Result<Saved, CliError> {
    let file = std::fs::File::open(path).map_err(|error| {
        io("read the plan", path, &error)
            .hint("a recipe is given by its name, without a `/` or a `.`")
    })?;
    read(file, path).map_err(|error| error.hint("make one with: piaas-bake plan RECIPE -o FILE"))
}

/// Reads a plan from an open file.
///
/// # Errors
/// It is no plan of this program, or was changed (exit code 4).
pub fn read(file: std::fs::File, path: &Path) -> Result<Saved, CliError> {
    Saved::read(std::io::BufReader::new(file))
        .map_err(|error| CliError::new(exit::MISMATCH, format!("{}: {error}", path.display())))
}

/// Looks at the cloud again, and plans what the file says; gives what is to be baked, and what that comes to.
///
/// # Errors
/// What the plan stands on is not as it was (exit code 4), or as [`decide`].
pub async fn reopen(
    context: &Context,
    connected: &Connected,
    saved: &Saved,
) -> Result<(Order, Decision), CliError> {
    let refuse = |moved: Vec<String>| {
        let lines: String = moved.iter().map(|line| format!("  - {line}\n")).collect();
        CliError::new(
            exit::MISMATCH,
            format!("the plan for {} does not hold any more", saved.recipe()),
        )
        .with_detail(format!("what moved:\n{lines}"))
        .hint(format!(
            "nothing was changed; plan anew: piaas-bake plan {} -o FILE",
            saved.recipe()
        ))
    };
    // In another place everything else differs as well.
    let moved = saved.moved(&place(connected), &saved.outcome);
    if !moved.is_empty() {
        return Err(refuse(moved));
    }
    let wishes = Wishes::from(saved);
    let order = Order::from(saved).pinned(connected)?;
    let decision = decide(context, connected, &order, wishes).await?;
    let moved = saved.moved(&saved.place, &Outcome::from(&decision));
    if moved.is_empty() {
        Ok((order, decision))
    } else {
        Err(refuse(moved))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_recipes_are_told_apart() {
        assert!(!is_file("ci-worker"));
        assert!(is_file("./plan") && is_file("ci-worker.plan") && is_file("/tmp/x"));
        assert_eq!(as_argument(Path::new("plan")), "./plan");
        assert_eq!(
            as_argument(Path::new("my plans/a.plan")),
            "'my plans/a.plan'"
        );
    }
}
