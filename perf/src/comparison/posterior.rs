//! What the median of batches might as well have been.

use crate::Dice;

/// Batches of one or several runs, sorted by value.
#[derive(Debug)]
pub(super) struct Posterior {
    /// Each with the number of its run.
    batches: Vec<(f64, usize)>,
    /// Batches in each run.
    lengths: Vec<usize>,
}

impl Posterior {
    pub(super) fn new(runs: &[Vec<f64>]) -> Self {
        let numbered = runs.iter().enumerate();
        let mut batches: Vec<(f64, usize)> = numbered
            .flat_map(|(run, values)| values.iter().map(move |value| (*value, run)))
            .collect();
        batches.sort_unstable_by(|one, other| one.0.total_cmp(&other.0));
        Self { batches, lengths: runs.iter().map(Vec::len).collect() }
    }

    /// All batches of a run weigh the same, and all runs do.
    pub(super) fn median(&self) -> f64 {
        let weigh = |(value, run): &(f64, usize)| (*value, 1.0 / self.lengths[*run] as f64);
        weighted_median(&self.batches.iter().map(weigh).collect::<Vec<_>>())
    }

    /// The median under weights drawn anew. Exponential weights over their sum are a draw from the
    /// flat Dirichlet distribution.
    pub(super) fn draw(&self, dice: &mut Dice) -> f64 {
        let mut weighed: Vec<(f64, f64)> =
            self.batches.iter().map(|(value, _)| (*value, dice.exponential())).collect();
        let mut factors = vec![0.0; self.lengths.len()];
        for ((_, weight), (_, run)) in weighed.iter().zip(&self.batches) {
            factors[*run] += weight;
        }
        for sum in &mut factors {
            *sum = dice.exponential() / *sum;
        }
        for ((_, weight), (_, run)) in weighed.iter_mut().zip(&self.batches) {
            *weight *= factors[*run];
        }
        weighted_median(&weighed)
    }
}

/// The median, None of nothing.
pub(super) fn median(values: &[f64]) -> Option<f64> {
    let posterior = Posterior::new(&[values.to_vec()]);
    (!values.is_empty()).then(|| posterior.median())
}

/// Where half of the weight is below, of sorted values with weights: each value lies in the middle
/// of its weight, and between two of them the median does too. Without that a draw could only be one
/// of the values, and few batches would seem to agree more than they do.
fn weighted_median(weighed: &[(f64, f64)]) -> f64 {
    let half = weighed.iter().map(|(_, weight)| weight).sum::<f64>() / 2.0;
    let mut below = 0.0;
    let mut last: Option<(f64, f64)> = None;
    for (value, weight) in weighed {
        let middle = below + weight / 2.0;
        if middle >= half {
            return match last {
                Some((lower, at)) if middle > at => {
                    lower + (value - lower) * (half - at) / (middle - at)
                }
                Some(_) | None => *value,
            };
        }
        below += weight;
        last = Some((*value, middle));
    }
    last.map_or(0.0, |(value, _)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_in_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 9.0]), Some(3.0));
        assert_eq!(weighted_median(&[(1.0, 3.0), (5.0, 0.5), (9.0, 0.5)]), 1.0 + 4.0 * 0.5 / 1.75);
    }

    #[test]
    fn a_long_run_does_not_outvote_a_short_one() {
        let posterior = Posterior::new(&[vec![1.0; 90], vec![3.0; 10]]);
        let mut dice = Dice::new(1);
        let low = (0..1000).filter(|_| posterior.draw(&mut dice) < 2.0).count();
        assert!((400..600).contains(&low), "{low}");
    }

    #[test]
    fn draws_stay_within_what_was_measured() {
        let posterior = Posterior::new(&[(1..=20).map(f64::from).collect()]);
        let mut dice = Dice::new(2);
        let draws: Vec<f64> = (0..1000).map(|_| posterior.draw(&mut dice)).collect();
        assert!(draws.iter().all(|draw| (1.0..=20.0).contains(draw)));
        let mean = draws.iter().sum::<f64>() / 1000.0;
        assert!((mean - 10.5).abs() < 0.5, "{mean}");
    }
}
