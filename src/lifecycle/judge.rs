//! Whether something may be removed. Pure.

use std::fmt;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

/// How late another host's clock may be.
const SKEW: SignedDuration = SignedDuration::from_mins(10);
/// What is removed of what says nothing about its end, or of an object: no URL that lends one works for longer than this
/// (Amazon S3 User Guide, "Expiration time for presigned URLs").
const LONGEST: SignedDuration = SignedDuration::from_hours(7 * 24);
/// A note is younger than its image only for as long as reads of EC2 may be stale.
const SETTLED: SignedDuration = SignedDuration::from_hours(1);

/// What can be left over, in the order in which it is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    Machine,
    Image,
    /// Of no image that there is.
    Snapshot,
    SecurityGroup,
    /// The object that a machine fetches its bundle from: `s3://bucket/key`.
    Bundle,
    /// An SSM parameter that tells of an image: its manifest, its packages.
    Note,
    /// An SSM parameter that says which run bakes a digest.
    Lease,
}

impl Kind {
    /// In words.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Machine => "machine",
            Self::Image => "image",
            Self::Snapshot => "snapshot",
            Self::SecurityGroup => "security-group",
            Self::Bundle => "bundle",
            Self::Note => "note",
            Self::Lease => "lease",
        }
    }
}

/// What a tag says about the end of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    At(Timestamp),
    /// It is, or was a part of, a finished image.
    Never,
    /// Nothing, or nothing that can be read.
    Unstated,
}

/// Who else has to do with something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Use {
    Nobody,
    /// In words: an instance, an image, a group.
    By(String),
    /// It tells of an image, and there is none.
    OfNothing,
}

/// Something that a run made and that is no finished image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub kind: Kind,
    /// An id; of a bundle its URL, of a note its name.
    pub id: String,
    /// The run whose tag it has, or its image has; empty where there is none.
    pub run: String,
    /// Empty where it does not say.
    pub recipe: String,
    pub made: Option<Timestamp>,
    pub expires: Expiry,
    pub used: Use,
}

/// What this host knows of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Run {
    Alive,
    Died,
    Over,
    /// It has come to its end with an image.
    Baked,
    /// Its journal is lost, or lies on another host.
    Unknown,
}

/// Why something goes or stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    Died,
    Over,
    Expired(Timestamp),
    /// Made so long ago that no run can need it.
    Old(Timestamp),
    OfNothing,
    Used(String),
    Alive,
    Until(Timestamp),
    /// A part of a finished image that is gone.
    WasFinished,
    /// Reads of EC2 may be late.
    JustFinished,
    Young,
    Unstated,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Died => f.write_str("its run died on this host"),
            Self::Over => f.write_str("its run is over"),
            Self::Expired(at) => write!(f, "it was to end at {at:.0}"),
            Self::Old(made) => write!(
                f,
                "it was made at {made:.0}, and no run needs it for as long"
            ),
            Self::OfNothing => f.write_str("it tells of an image that does not exist"),
            Self::Used(by) => write!(f, "{by} uses it"),
            Self::Alive => f.write_str("its run is under way on this host"),
            Self::Until(at) => write!(f, "its run may be under way on another host, until {at:.0}"),
            Self::WasFinished => {
                f.write_str("it is of a finished image that is gone, perhaps to the recycle bin")
            }
            Self::JustFinished => {
                f.write_str("its run has finished its image, and this cloud does not show it yet")
            }
            Self::Young => f.write_str("it is new, and its image may not be visible yet"),
            Self::Unstated => f.write_str("neither its end nor its beginning is known"),
        }
    }
}

/// What to do about something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Remove(Why),
    Keep(Why),
}

/// Judges one thing: what is not surely of no use stays.
#[must_use]
pub fn judge(found: &Found, run: Run, now: Timestamp) -> Verdict {
    if let Use::By(user) = &found.used {
        return Verdict::Keep(Why::Used(user.clone()));
    }
    if run == Run::Alive {
        return Verdict::Keep(Why::Alive);
    }
    let is_past = |at: Timestamp| now.duration_since(at) > SKEW;
    let after =
        |made: Timestamp, age: SignedDuration| made.checked_add(age).unwrap_or(Timestamp::MAX);
    if found.used == Use::OfNothing {
        return match found.made {
            Some(made) if is_past(after(made, SETTLED)) => Verdict::Remove(Why::OfNothing),
            _ => Verdict::Keep(Why::Young),
        };
    }
    // An older piaas-bake gave snapshots no end.
    if found.expires == Expiry::Never
        || (found.kind == Kind::Snapshot && found.expires == Expiry::Unstated)
    {
        return Verdict::Keep(Why::WasFinished);
    }
    match (run, found.expires) {
        (Run::Died, _) => Verdict::Remove(Why::Died),
        (Run::Baked, _) if matches!(found.kind, Kind::Image | Kind::Snapshot | Kind::Note) => {
            Verdict::Keep(Why::JustFinished)
        }
        (Run::Over | Run::Baked, _) => Verdict::Remove(Why::Over),
        (_, Expiry::At(at)) if is_past(at) => Verdict::Remove(Why::Expired(at)),
        (_, Expiry::At(at)) => Verdict::Keep(Why::Until(at)),
        (_, Expiry::Unstated | Expiry::Never) => match found.made {
            Some(made) if is_past(after(made, LONGEST)) => Verdict::Remove(Why::Old(made)),
            Some(made) => Verdict::Keep(Why::Until(after(made, LONGEST))),
            None => Verdict::Keep(Why::Unstated),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [Kind; 7] = [
        Kind::Machine,
        Kind::Image,
        Kind::Snapshot,
        Kind::SecurityGroup,
        Kind::Bundle,
        Kind::Note,
        Kind::Lease,
    ];

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn found(kind: Kind) -> Found {
        Found {
            kind,
            id: "x-1".into(),
            run: "20260102T030405-1f2e3d4c".into(),
            recipe: "web".into(),
            made: Some(at("2026-01-02T03:04:05Z")),
            expires: Expiry::At(at("2026-01-02T06:00:00Z")),
            used: Use::Nobody,
        }
    }

    #[test]
    fn what_somebody_uses_or_a_live_run_has_stays_whatever_it_says() {
        let now = at("2027-01-01T00:00:00Z");
        for kind in KINDS {
            for expires in [Expiry::At(Timestamp::MIN), Expiry::Never, Expiry::Unstated] {
                let one = Found {
                    expires,
                    ..found(kind)
                };
                assert_eq!(judge(&one, Run::Alive, now), Verdict::Keep(Why::Alive));
                let used = Found {
                    used: Use::By("i-9".into()),
                    ..one
                };
                for run in [Run::Alive, Run::Died, Run::Over, Run::Baked, Run::Unknown] {
                    let verdict = judge(&used, run, now);
                    assert_eq!(verdict, Verdict::Keep(Why::Used("i-9".into())));
                }
            }
        }
    }

    #[test]
    fn what_a_dead_run_of_this_host_left_goes_at_once_and_of_another_host_when_it_has_expired() {
        let early = at("2026-01-02T04:00:00Z");
        let one = found(Kind::Machine);
        assert_eq!(judge(&one, Run::Died, early), Verdict::Remove(Why::Died));
        assert_eq!(judge(&one, Run::Over, early), Verdict::Remove(Why::Over));
        let end = at("2026-01-02T06:00:00Z");
        assert_eq!(
            judge(&one, Run::Unknown, early),
            Verdict::Keep(Why::Until(end))
        );
        // Another host's clock may be late.
        assert_eq!(
            judge(&one, Run::Unknown, end + SKEW),
            Verdict::Keep(Why::Until(end))
        );
        let past = end + SKEW + SignedDuration::from_secs(1);
        assert_eq!(
            judge(&one, Run::Unknown, past),
            Verdict::Remove(Why::Expired(end))
        );
    }

    #[test]
    fn what_says_nothing_goes_when_no_run_can_need_it_and_a_snapshot_never() {
        let quiet = |kind| Found {
            expires: Expiry::Unstated,
            ..found(kind)
        };
        let made = at("2026-01-02T03:04:05Z");
        let (soon, late) = (at("2026-01-08T00:00:00Z"), at("2026-01-10T00:00:00Z"));
        let end = at("2026-01-09T03:04:05Z");
        let one = quiet(Kind::Bundle);
        assert_eq!(
            judge(&one, Run::Unknown, soon),
            Verdict::Keep(Why::Until(end))
        );
        assert_eq!(
            judge(&one, Run::Unknown, late),
            Verdict::Remove(Why::Old(made))
        );
        let unknown = Found { made: None, ..one };
        assert_eq!(
            judge(&unknown, Run::Unknown, late),
            Verdict::Keep(Why::Unstated)
        );
        for run in [Run::Died, Run::Over, Run::Unknown] {
            let verdict = judge(&quiet(Kind::Snapshot), run, late);
            assert_eq!(verdict, Verdict::Keep(Why::WasFinished));
        }
    }

    #[test]
    fn of_a_run_that_has_baked_only_what_served_it_goes() {
        let late = at("2030-01-01T00:00:00Z");
        for kind in KINDS {
            let serves = matches!(
                kind,
                Kind::Machine | Kind::SecurityGroup | Kind::Bundle | Kind::Lease
            );
            let expected = if serves {
                Verdict::Remove(Why::Over)
            } else {
                Verdict::Keep(Why::JustFinished)
            };
            assert_eq!(judge(&found(kind), Run::Baked, late), expected, "{kind:?}");
        }
    }

    #[test]
    fn a_part_of_a_finished_image_stays() {
        let part = Found {
            expires: Expiry::Never,
            ..found(Kind::Snapshot)
        };
        let late = at("2030-01-01T00:00:00Z");
        for run in [Run::Died, Run::Over, Run::Unknown] {
            assert_eq!(judge(&part, run, late), Verdict::Keep(Why::WasFinished));
        }
    }

    #[test]
    fn a_note_on_nothing_goes_once_its_image_would_be_seen() {
        let note = Found {
            used: Use::OfNothing,
            expires: Expiry::Unstated,
            ..found(Kind::Note)
        };
        let (soon, late) = (at("2026-01-02T04:00:00Z"), at("2026-01-02T04:30:00Z"));
        assert_eq!(judge(&note, Run::Unknown, soon), Verdict::Keep(Why::Young));
        assert_eq!(
            judge(&note, Run::Unknown, late),
            Verdict::Remove(Why::OfNothing)
        );
        let timeless = Found { made: None, ..note };
        assert_eq!(
            judge(&timeless, Run::Unknown, late),
            Verdict::Keep(Why::Young)
        );
    }
}
