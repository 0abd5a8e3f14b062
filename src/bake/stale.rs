//! Whether a recipe needs a new image: a pure function of what is known about its newest one.
//!
//! Every fact has three values. What cannot be told is said, and makes nothing stale.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::images::Image;
use super::packages::Moved;
use crate::aws::tags;

/// How many packages a reason names.
const NAMED: usize = 5;

/// What is known about a recipe.
#[derive(Debug, Clone)]
pub struct Facts<'a> {
    /// Of the recipe now.
    pub digest: &'a str,
    /// The image that is judged: see [`newest`].
    pub image: Option<&'a Image>,
    /// Id of the image that its base means now, or why that cannot be told.
    pub base: Result<&'a str, &'a str>,
    /// The packages of the image that have moved since, or why that cannot be told.
    pub packages: Result<&'a [Moved], &'a str>,
    /// How old an image may become.
    pub max_age: Duration,
    pub now: Timestamp,
}

/// Why an image is stale.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
pub enum Reason {
    /// There is no image of the recipe.
    NeverBaked,
    /// The recipe has another digest than its newest image.
    RecipeChanged,
    /// The base image was replaced.
    BaseMoved { from: String, to: String },
    /// The archive offers newer packages.
    PackagesMoved { packages: Vec<Moved> },
    /// The image is older than its limit.
    TooOld { days: i64, limit_days: i64 },
}

/// What came out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Judgement {
    /// Empty: nothing that is known makes it stale.
    pub reasons: Vec<Reason>,
    /// What could not be told, and why.
    pub unknown: Vec<String>,
}

impl Judgement {
    /// Whether a rebake is due.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        !self.reasons.is_empty()
    }

    /// Whether everything is known, and nothing makes it stale.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.reasons.is_empty() && self.unknown.is_empty()
    }
}

/// The image that stands for a recipe: the newest of its digest, or else the newest of the recipe. A candidate counts:
/// what waits to be chosen need not be baked again. `images` are those of the recipe, newest first.
#[must_use]
pub fn newest<'a>(images: &'a [Image], digest: &str) -> Option<&'a Image> {
    let ready = || images.iter().filter(|image| image.is_ready());
    ready()
        .find(|image| image.digest() == Some(digest))
        .or_else(|| ready().next())
}

/// Judges a recipe.
#[must_use]
pub fn judge(facts: &Facts<'_>) -> Judgement {
    let mut judgement = Judgement {
        reasons: Vec::new(),
        unknown: Vec::new(),
    };
    let Some(image) = facts.image else {
        judgement.reasons.push(Reason::NeverBaked);
        return judgement;
    };
    if image.digest() != Some(facts.digest) {
        judgement.reasons.push(Reason::RecipeChanged);
    }
    match (facts.base, image.tag(tags::BASE_IMAGE)) {
        (Ok(now), Some(then)) if now != then => judgement.reasons.push(Reason::BaseMoved {
            from: then.to_owned(),
            to: now.to_owned(),
        }),
        (Ok(_), Some(_)) => {}
        (Ok(_), None) => judgement.unknown.push(format!(
            "base image: {} does not say what it was made from",
            image.id
        )),
        (Err(why), _) => judgement.unknown.push(format!("base image: {why}")),
    }
    match facts.packages {
        Ok([]) => {}
        Ok(moved) => judgement.reasons.push(Reason::PackagesMoved {
            packages: moved.to_vec(),
        }),
        Err(why) => judgement.unknown.push(format!("packages: {why}")),
    }
    age(facts, image, &mut judgement);
    judgement
}

fn age(facts: &Facts<'_>, image: &Image, judgement: &mut Judgement) {
    let Ok(created) = image.created.parse::<Timestamp>() else {
        judgement.unknown.push(format!(
            "age: {} was created at \"{}\", which is no time",
            image.id, image.created
        ));
        return;
    };
    let age = facts.now.duration_since(created);
    let limit = SignedDuration::try_from(facts.max_age).unwrap_or(SignedDuration::MAX);
    if age > limit {
        judgement.reasons.push(Reason::TooOld {
            days: age.as_hours() / 24,
            limit_days: limit.as_hours() / 24,
        });
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NeverBaked => f.write_str("it has no image yet"),
            Self::RecipeChanged => f.write_str("the recipe changed since its newest image"),
            Self::BaseMoved { from, to } => write!(f, "the base image moved from {from} to {to}"),
            Self::PackagesMoved { packages } => {
                let named: Vec<String> = packages
                    .iter()
                    .take(NAMED)
                    .map(|one| format!("{} {} -> {}", one.package, one.from, one.to))
                    .collect();
                let more = packages.len().saturating_sub(NAMED);
                write!(f, "packages moved: {}", named.join(", "))?;
                if more > 0 {
                    write!(f, " and {more} more")?;
                }
                Ok(())
            }
            Self::TooOld { days, limit_days } => {
                write!(f, "the image is {days} days old, its limit is {limit_days}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::images::tests::image;
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn baked(id: &str, digest: &str, base: &str) -> Image {
        image(
            id,
            "web-1",
            &[
                (tags::DIGEST, digest),
                (tags::STATUS, tags::STATUS_READY),
                (tags::BASE_IMAGE, base),
            ],
        )
    }

    /// The image is of 2026-01-01.
    fn facts<'a>(image: Option<&'a Image>, now: &str) -> Facts<'a> {
        Facts {
            digest: "d",
            image,
            base: Ok("ami-base"),
            packages: Ok(&[]),
            max_age: 14 * DAY,
            now: now.parse().unwrap(),
        }
    }

    fn words(judgement: &Judgement) -> Vec<String> {
        judgement.reasons.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_fact_makes_it_stale_and_all_are_said() {
        let one = baked("ami-1", "d", "ami-base");
        let fresh = facts(Some(&one), "2026-01-15T00:00:00Z");
        assert!(judge(&fresh).is_fresh());
        let moved = [Moved {
            package: "git".into(),
            from: "1".into(),
            to: "2".into(),
        }];
        let all = Facts {
            digest: "other",
            base: Ok("ami-new"),
            packages: Ok(&moved),
            now: "2026-01-15T01:00:00Z".parse().unwrap(),
            max_age: 14 * DAY,
            image: Some(&one),
        };
        assert_eq!(
            words(&judge(&all)),
            [
                "the recipe changed since its newest image",
                "the base image moved from ami-base to ami-new",
                "packages moved: git 1 -> 2",
                "the image is 14 days old, its limit is 14",
            ]
        );
        assert_eq!(
            words(&judge(&facts(None, "2026-01-01T00:00:00Z"))),
            ["it has no image yet"]
        );
    }

    #[test]
    fn what_cannot_be_told_is_said_and_makes_nothing_stale() {
        let mut one = baked("ami-1", "d", "ami-base");
        one.tags.remove(tags::BASE_IMAGE);
        one.created = "yesterday".into();
        let dark = Facts {
            packages: Err("http://mirror/ does not answer"),
            ..facts(Some(&one), "2027-01-01T00:00:00Z")
        };
        let judgement = judge(&dark);
        assert_eq!(judgement.reasons, []);
        assert!(!judgement.is_fresh() && !judgement.is_stale());
        assert_eq!(judgement.unknown.len(), 3, "{judgement:?}");
        // One that is known is enough.
        let base_is_dark = Facts {
            base: Err("no such parameter"),
            digest: "other",
            ..dark
        };
        assert!(judge(&base_is_dark).is_stale());
    }

    #[test]
    fn the_newest_image_of_the_digest_stands_for_the_recipe() {
        let mut testing = baked("ami-0", "d", "b");
        testing
            .tags
            .insert(tags::STATUS.into(), tags::STATUS_TESTING.into());
        let images = [
            testing,
            baked("ami-1", "x", "b"),
            baked("ami-2", "d", "b"),
            baked("ami-3", "d", "b"),
        ];
        assert_eq!(newest(&images, "d").unwrap().id, "ami-2");
        assert_eq!(newest(&images, "none").unwrap().id, "ami-1");
        assert_eq!(newest(&images[..1], "d"), None);
    }

    #[test]
    fn many_packages_are_counted() {
        let packages = (0..7)
            .map(|n| Moved {
                package: format!("p{n}"),
                from: "1".into(),
                to: "2".into(),
            })
            .collect();
        let text = Reason::PackagesMoved { packages }.to_string();
        assert!(text.ends_with("p4 1 -> 2 and 2 more"), "{text}");
    }
}
