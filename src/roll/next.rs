//! The decision: what a roll does next. Pure, and level-triggered: it is made anew from the record and from what is
//! seen, so it does not matter who made the step before, or whether its reply arrived.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::record::{Heading, Outcome, RollRecord};
use super::step::{Call, Note, Step};
use super::world::World;
use super::{canary, refresh};

/// Between two looks while something goes on.
pub(super) const LOOK: Duration = Duration::from_secs(5);
/// How long what was just made may stay invisible: reads are eventually consistent.
pub(super) const VISIBLE: SignedDuration = SignedDuration::from_mins(2);
/// How long a version that lost may still be used by instances that are on their way out.
const RELEASED: SignedDuration = SignedDuration::from_mins(10);

/// What to do next.
#[must_use]
pub fn next(record: &RollRecord, world: &World, now: Timestamp) -> Step {
    if let Some(outcome) = record.outcome {
        return Step::Done(outcome);
    }
    let asked = world
        .request
        .as_ref()
        .filter(|request| request.roll == record.id);
    if let (Some(request), Heading::Forward) = (asked, record.heading) {
        return Step::turn_back(request.reason.clone());
    }
    match record.heading {
        Heading::Forward => forward(record, world, now),
        Heading::Back => back(record, world, now),
    }
}

fn forward(record: &RollRecord, world: &World, now: Timestamp) -> Step {
    if world.group.is_none() {
        return Step::turn_back(format!(
            "the group {} does not exist any more",
            record.group
        ));
    }
    let Some(_) = record.new_version else {
        return find_version(record, world).unwrap_or(Step::Act(Call::CreateVersion));
    };
    if !record.verified {
        return verify(record, world, now);
    }
    canary::next(record, world, now)
        .or_else(|| refresh::next(record, world, now))
        .unwrap_or(Step::note(Note::End(Outcome::RolledOut)))
}

/// The fleet first; what the roll itself made after it.
fn back(record: &RollRecord, world: &World, now: Timestamp) -> Step {
    if record.given_up.is_none() {
        if world.group.is_none() {
            return Step::note(Note::GiveUp(format!(
                "the group {} does not exist any more",
                record.group
            )));
        }
        if let Some(step) = refresh::next(record, world, now) {
            return step;
        }
    }
    if let Some(step) = canary::next(record, world, now) {
        return step;
    }
    if record.given_up.is_some() {
        return Step::note(Note::End(Outcome::Halted));
    }
    drop_version(record, world, now).unwrap_or(Step::note(Note::End(Outcome::RolledBack)))
}

/// The version that this roll made, if the reply to its making was lost.
fn find_version(record: &RollRecord, world: &World) -> Option<Step> {
    let description = record.version_description();
    let found = world
        .versions
        .iter()
        .find(|version| version.description == description)?;
    Some(Step::note(Note::VersionFound(found.number)))
}

/// Only the image may differ; anything else means that somebody changed the template's data under our hands.
fn verify(record: &RollRecord, world: &World, now: Timestamp) -> Step {
    let Some(differences) = &world.difference else {
        return Step::wait(now, LOOK, "the new launch template version to be visible");
    };
    let image_only = differences.iter().all(|one| one.field == "ImageId")
        && differences.iter().any(|one| one.new == record.new_image);
    if image_only {
        return Step::note(Note::VersionVerified);
    }
    let fields: Vec<String> = differences
        .iter()
        .map(|one| format!("{} ({} -> {})", one.field, one.old, one.new))
        .collect();
    Step::turn_back(format!(
        "the new launch template version differs in more than the image: {}",
        fields.join(", ")
    ))
}

/// Removes the version that lost, once nothing uses it.
fn drop_version(record: &RollRecord, world: &World, now: Timestamp) -> Option<Step> {
    if record.dropped {
        return None;
    }
    let Some(version) = record.new_version else {
        // Asked for and not seen: the same token gives its number, or makes what is removed at once.
        return find_version(record, world).or_else(|| {
            record
                .version_asked
                .then_some(Step::Act(Call::CreateVersion))
        });
    };
    let Some(users) = &world.users else {
        return Some(Step::wait(now, LOOK, "a look at who uses the new version"));
    };
    if users.is_empty() {
        return Some(Step::Act(Call::DropVersion(version)));
    }
    let stand = format!("version {version} is used by {}", users.join(", "));
    Some(match &record.mark {
        Some(mark) if mark.stand == stand && now.duration_since(mark.since) >= RELEASED => {
            Step::note(Note::VersionKept(stand))
        }
        Some(mark) if mark.stand == stand => Step::wait(now, LOOK, stand),
        _ => Step::note(Note::Stand(stand)),
    })
}
