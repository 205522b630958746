//! Numbers that look random and are the same for the same seed.

/// A generator: SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators,
/// OOPSLA 2014).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// One whose numbers follow from the seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next one, each as likely as any other.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// At least 0, below 1.
    pub fn unit(&mut self) -> f64 {
        // A double has 53 digits.
        (self.roll() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// As waiting for something takes that comes once per unit of time on average.
    pub fn exponential(&mut self) -> f64 {
        -(1.0 - self.unit()).ln()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_algorithm() {
        // As Java's SplittableRandom and others give for this seed.
        let mut dice = Dice::new(1_234_567);
        let numbers = [dice.roll(), dice.roll(), dice.roll()];
        let known =
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!(numbers, known);
    }

    #[test]
    fn shares_and_waits_have_their_means() {
        let mut dice = Dice::new(7);
        let count = 100_000;
        let (mut shares, mut waits) = (0.0, 0.0);
        for _ in 0..count {
            let share = dice.unit();
            assert!((0.0..1.0).contains(&share));
            shares += share;
            waits += dice.exponential();
        }
        let count = f64::from(count);
        assert!((shares / count - 0.5).abs() < 0.01 && (waits / count - 1.0).abs() < 0.02);
    }
}
