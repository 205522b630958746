//! Whether two runs of one scenario differ, and by how much: not by two numbers side by side, but
//! by what the batches of each run say about how far its number can be trusted.
//!
//! ```text
//!   Run: median of every batch ─┬─► Posterior ─► Difference of the latencies
//!   its echo's batches ─────────┴─► ratios ─► Posterior ─► Difference of the ratios
//! ```
//! A figure of a run is the median of its batches' medians. What it might as well have been is
//! drawn by the Bayesian bootstrap (Rubin 1981): each draw weighs the batches anew, by a flat
//! Dirichlet distribution, and takes the weighted median. It assumes that batches are independent;
//! where a file has several runs of a scenario, runs are weighed as well, so that what differs
//! between runs of the same build counts as doubt.

mod posterior;

use std::fmt;

use serde::Serialize;

use crate::Dice;
use posterior::{Posterior, median};

/// Fewer batches say too little about their median.
pub const BATCHES_MIN: usize = 10;
/// Draws of each posterior: a probability is off by about 0.002 where a verdict turns.
const DRAWS: usize = 4_000;
/// A verdict needs this much: the interval that holds 95 % then lies on one side of 0.
const CONFIDENT: f64 = 0.975;

/// One run of a scenario, as far as a comparison needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// The scenario's name.
    pub scenario: String,
    /// Median of every batch, in order, nanoseconds.
    pub batches_p50_nanos: Vec<u64>,
    /// The same of the blocking echo that was measured in turn with them; empty if it was not.
    pub echo_batches_p50_nanos: Vec<u64>,
}

/// How runs B compare to runs A.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The scenario of all of them.
    pub scenario: String,
    /// Batches in A and in B.
    pub batches: [usize; 2],
    /// Of the latencies, nanoseconds.
    pub latency_nanos: Difference,
    /// Of the latencies over the blocking echo's, in which a machine that was busier in one of the
    /// runs cancels out. None unless all runs have the echo's batches.
    pub ratio_to_echo: Option<Difference>,
}

/// How one figure differs between A and B.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// Median of A's batches.
    pub a: f64,
    /// Median of B's.
    pub b: f64,
    /// How much larger B's is, per cent of A's.
    pub percent: f64,
    /// The same, at the lower end of the interval that holds it with 95 % probability.
    pub percent_low: f64,
    /// At the upper end.
    pub percent_high: f64,
    /// How probable it is that B's is larger than A's: 0.5 if nothing speaks for either.
    pub probability_b_slower: f64,
    /// The larger of the probabilities that B is slower and that B is faster: from 0.5, when
    /// nothing speaks for either, to 1. Two measurements of the same give anything in between, 0.975
    /// and more in one case of twenty.
    pub probability_differ: f64,
    /// What to make of it.
    pub verdict: Verdict,
}

/// What the batches allow to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// B is slower, with a probability of 97.5 % or more.
    BSlower,
    /// B is faster, likewise.
    BFaster,
    /// Neither is sure enough.
    Undecided,
}

/// Why runs cannot be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incomparable {
    /// Nothing to compare on this side, `A` or `B`.
    NoRun(char),
    /// Runs of different scenarios.
    Scenarios(String, String),
    /// A run with this many batches.
    TooFewBatches(String, usize),
    /// A batch whose median is 0 ns.
    NoTime(String),
}

impl fmt::Display for Incomparable {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRun(side) => write!(out, "{side} has no run to compare"),
            Self::Scenarios(one, other) => {
                write!(out, "a run of {one} and a run of {other} measure different things")
            }
            Self::TooFewBatches(scenario, count) => write!(
                out,
                "a run of {scenario} has {count} batches, and a comparison needs {BATCHES_MIN}: \
                 measure more invokes, or longer"
            ),
            Self::NoTime(scenario) => {
                write!(out, "a run of {scenario} has a batch that took no time: measure it again")
            }
        }
    }
}

impl std::error::Error for Incomparable {}

impl Comparison {
    /// Compares runs of one scenario, A's with B's. The same runs and seed give the same answer.
    ///
    /// # Errors
    /// If a side has no run, a run has too few batches, or they are of different scenarios.
    pub fn new(a: &[Run], b: &[Run], seed: u64) -> Result<Self, Incomparable> {
        let first = a.first().ok_or(Incomparable::NoRun('A'))?;
        b.first().ok_or(Incomparable::NoRun('B'))?;
        for run in a.iter().chain(b) {
            run.check(&first.scenario)?;
        }
        let mut dice = Dice::new(seed);
        let sides = [a, b];
        let latencies = sides.map(|runs| runs.iter().map(Run::latencies).collect::<Vec<_>>());
        let ratios = sides.map(|runs| runs.iter().map(Run::ratios).collect::<Option<Vec<_>>>());
        Ok(Self {
            scenario: first.scenario.clone(),
            batches: sides.map(|runs| runs.iter().map(|run| run.batches_p50_nanos.len()).sum()),
            latency_nanos: Difference::new(&latencies, &mut dice),
            ratio_to_echo: match ratios {
                [Some(a), Some(b)] => Some(Difference::new(&[a, b], &mut dice)),
                [None, _] | [_, None] => None,
            },
        })
    }
}

impl Run {
    fn check(&self, scenario: &str) -> Result<(), Incomparable> {
        if self.scenario != scenario {
            return Err(Incomparable::Scenarios(scenario.to_owned(), self.scenario.clone()));
        }
        let count = self.batches_p50_nanos.len();
        if count < BATCHES_MIN {
            return Err(Incomparable::TooFewBatches(self.scenario.clone(), count));
        }
        match self.batches_p50_nanos.iter().chain(&self.echo_batches_p50_nanos).min() {
            Some(0) | None => Err(Incomparable::NoTime(self.scenario.clone())),
            Some(_) => Ok(()),
        }
    }

    fn latencies(&self) -> Vec<f64> {
        self.batches_p50_nanos.iter().map(|nanos| *nanos as f64).collect()
    }

    /// Each batch over the echo's batch beside it. If the echo had another number of batches, over
    /// the median of all of them. None without an echo.
    fn ratios(&self) -> Option<Vec<f64>> {
        let echo: Vec<f64> =
            self.echo_batches_p50_nanos.iter().map(|nanos| *nanos as f64).collect();
        let latencies = self.latencies();
        if echo.len() == latencies.len() {
            return Some(latencies.iter().zip(&echo).map(|(nanos, echo)| nanos / echo).collect());
        }
        let echo = median(&echo)?;
        Some(latencies.iter().map(|nanos| nanos / echo).collect())
    }
}

impl Difference {
    fn new(sides: &[Vec<Vec<f64>>; 2], dice: &mut Dice) -> Self {
        let [posterior_a, posterior_b] = sides.each_ref().map(|runs| Posterior::new(runs));
        let (a, b) = (posterior_a.median(), posterior_b.median());
        let mut percents = Vec::with_capacity(DRAWS);
        let (mut slower, mut equal) = (0.0, 0.0);
        for _ in 0..DRAWS {
            let (a, b) = (posterior_a.draw(dice), posterior_b.draw(dice));
            slower += f64::from(u8::from(b > a));
            equal += f64::from(u8::from(a.total_cmp(&b).is_eq()));
            percents.push(percent(a, b));
        }
        percents.sort_unstable_by(f64::total_cmp);
        let probability_b_slower = (slower + equal / 2.0) / DRAWS as f64;
        Self {
            a,
            b,
            percent: percent(a, b),
            percent_low: percents[DRAWS / 40],
            percent_high: percents[DRAWS - 1 - DRAWS / 40],
            probability_b_slower,
            probability_differ: probability_b_slower.max(1.0 - probability_b_slower),
            verdict: Verdict::of(probability_b_slower),
        }
    }
}

impl Verdict {
    fn of(probability_b_slower: f64) -> Self {
        match probability_b_slower {
            slower if slower >= CONFIDENT => Self::BSlower,
            slower if slower <= 1.0 - CONFIDENT => Self::BFaster,
            _ => Self::Undecided,
        }
    }
}

fn percent(a: f64, b: f64) -> f64 {
    (b / a - 1.0) * 100.0
}

#[cfg(test)]
mod tests;
