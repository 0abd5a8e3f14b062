//! Waiting by progress: as long as something moves, keep waiting.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// How to wait for one thing.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// What is waited for, in words: "the snapshot to be written".
    pub what: &'static str,
    /// How long nothing may move before the wait is given up. Every change starts it anew.
    pub stall: Duration,
    /// First pause between two looks.
    pub first: Duration,
    /// Longest pause between two looks.
    pub longest: Duration,
}

/// Nothing has moved for too long.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("gave up waiting for {what}: nothing has changed for {}s, last seen: {last}", .stall.as_secs())]
pub struct Stalled {
    pub what: &'static str,
    pub stall: Duration,
    /// The last state that was seen.
    pub last: String,
}

/// One wait under way. It decides; the caller looks and sleeps.
#[derive(Debug)]
pub struct Pace {
    patience: Patience,
    seed: u64,
    looks: u32,
    last: Option<(String, Timestamp)>,
}

impl Pace {
    /// A wait that has not looked yet. `seed` spreads the pauses of waits that run at the same time.
    #[must_use]
    pub fn new(patience: Patience, seed: u64) -> Self {
        Self {
            patience,
            seed,
            looks: 0,
            last: None,
        }
    }

    /// How long to pause after having seen `state` at `now`.
    ///
    /// # Errors
    /// [`Stalled`] once the state has been the same for [`Patience::stall`].
    pub fn after(&mut self, now: Timestamp, state: &str) -> Result<Duration, Stalled> {
        match &self.last {
            Some((last, since)) if last == state => {
                let limit =
                    SignedDuration::try_from(self.patience.stall).unwrap_or(SignedDuration::MAX);
                if now.duration_since(*since) >= limit {
                    return Err(Stalled {
                        what: self.patience.what,
                        stall: self.patience.stall,
                        last: state.to_owned(),
                    });
                }
            }
            _ => self.last = Some((state.to_owned(), now)),
        }
        let pause = backoff(&self.patience, self.looks, self.seed);
        self.looks = self.looks.saturating_add(1);
        Ok(pause)
    }

    /// Looks often again, for a caller that has just seen something move.
    pub fn quicken(&mut self) {
        self.looks = 0;
    }
}

/// What a pause is to the one before it.
const GROWTH: f64 = 1.1;

/// Pauses that grow from `first` to `longest`, each shortened by up to a quarter. By this growth the last pause, which
/// is what a wait can be late by, is about a tenth of the whole wait, and a tenfold wait has some twenty looks more.
fn backoff(patience: &Patience, looks: u32, seed: u64) -> Duration {
    let longest = patience.longest.as_secs_f64();
    let grown = patience.first.as_secs_f64() * GROWTH.powf(f64::from(looks));
    let full = Duration::from_secs_f64(grown.min(longest));
    full.mul_f64(1.0 - f64::from(noise(seed, looks)) / 1024.0)
}

/// A number below 256 that looks random: splitmix64's mixing of seed and position.
fn noise(seed: u64, position: u32) -> u8 {
    let mut z = seed.wrapping_add(
        u64::from(position)
            .wrapping_add(1)
            .wrapping_mul(0x9E37_79B9_7F4A_7C15),
    );
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    (z ^ (z >> 31)).to_le_bytes()[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience {
        what: "a thing",
        stall: Duration::from_secs(60),
        first: Duration::from_secs(1),
        longest: Duration::from_secs(8),
    };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn progress_keeps_a_wait_alive() {
        let mut pace = Pace::new(PATIENCE, 1);
        for step in 0..100 {
            pace.after(at(step * 59), &format!("{step}%")).unwrap();
        }
    }

    #[test]
    fn a_standstill_ends_it() {
        let mut pace = Pace::new(PATIENCE, 1);
        pace.after(at(0), "10%").unwrap();
        pace.after(at(59), "10%").unwrap();
        let error = pace.after(at(60), "10%").unwrap_err();
        assert_eq!(
            error.to_string(),
            "gave up waiting for a thing: nothing has changed for 60s, last seen: 10%"
        );
    }

    #[test]
    fn pauses_grow_up_to_the_longest_and_differ_by_seed() {
        for seed in 0..50 {
            let grown = [(0, 1.0), (1, 1.1), (2, 1.21), (30, 8.0), (1_000_000, 8.0)];
            for (looks, full) in grown {
                let pause = backoff(&PATIENCE, looks, seed).as_secs_f64();
                assert!(
                    pause <= full + 1e-6 && pause >= full * 0.75,
                    "{looks}: {pause}"
                );
            }
        }
        assert_ne!(backoff(&PATIENCE, 5, 1), backoff(&PATIENCE, 5, 2));
    }

    #[test]
    fn no_wait_is_late_by_more_than_a_seventh_and_its_first_pause() {
        let patience = Patience {
            longest: Duration::from_secs(3600),
            ..PATIENCE
        };
        for seed in 0..50 {
            let mut waited = 0.0;
            for looks in 0..80 {
                let pause = backoff(&patience, looks, seed).as_secs_f64();
                assert!(
                    pause <= 1.0 + waited / 7.0,
                    "{looks}: {pause} after {waited}"
                );
                waited += pause;
            }
        }
    }
}
