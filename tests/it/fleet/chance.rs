//! Numbers that look random and are the same for the same seed.

/// splitmix64 (Steele, Lea, Flood 2014).
#[derive(Debug, Clone)]
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From 0 to `most - 1`.
    pub fn below(&mut self, most: i64) -> i64 {
        let most = u64::try_from(most.max(1)).unwrap_or(1);
        i64::try_from(self.next() % most).unwrap_or(0)
    }

    pub fn one_in(&mut self, count: i64) -> bool {
        self.below(count) == 0
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        let place = usize::try_from(self.next()).unwrap_or(0);
        from.get(place.checked_rem(from.len())?)
    }
}
