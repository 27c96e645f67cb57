//! Chance that can be played again: the same seed gives the same throws. It knows nothing of what is thrown for.

const DIGITS: &[u8; 36] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ";

/// A sequence of throws (SplitMix64, Steele et al. 2014: one addition and three mixing steps a throw).
#[derive(Debug, Clone)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The dice of one numbered occasion: what the n-th exchange throws does not depend on who came in between.
    pub(super) fn at(seed: u64, number: u64) -> Self {
        let mut mixed = Self(seed ^ number.wrapping_mul(0xD6E8_FEB8_6659_FD93));
        Self(mixed.throw())
    }

    pub(super) fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// In `[0, 1)`, with the 53 bits a double can hold.
    pub(super) fn fraction(&mut self) -> f64 {
        (self.throw() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// In `low..=high`; `low` where the range is empty.
    pub(super) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.throw() % high.saturating_sub(low).saturating_add(1)
    }

    pub(super) fn hex(&mut self, digits: usize) -> String {
        (0..digits).map(|_| char::from(DIGITS[self.between(0, 15) as usize]).to_ascii_lowercase()).collect()
    }

    pub(super) fn base36(&mut self, digits: usize) -> String {
        (0..digits).map(|_| char::from(DIGITS[self.between(0, 35) as usize])).collect()
    }

    pub(super) fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.throw() as u8).collect()
    }
}

/// A number in base 36, with leading zeros, as the counters inside GMS's chat ids are written.
pub(super) fn base36(mut number: u64, width: usize) -> String {
    let mut digits = Vec::new();
    while number > 0 || digits.len() < width {
        digits.push(DIGITS[(number % 36) as usize]);
        number /= 36;
    }
    digits.iter().rev().map(|&digit| char::from(digit)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_throws_the_same() {
        let throws = |seed| (0..4).map(|n| Dice::at(seed, n).throw()).collect::<Vec<_>>();
        assert_eq!(throws(7), throws(7));
        assert_ne!(throws(7), throws(8));
    }

    #[test]
    fn counters_are_padded() {
        for (number, width, text) in [(0, 4, "0000"), (1, 4, "0001"), (35, 1, "Z"), (36, 2, "10"), (36 * 36, 2, "100")]
        {
            assert_eq!(base36(number, width), text);
        }
    }
}
