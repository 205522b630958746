use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::*;

const SEED: u64 = 1;

/// Batches around `nanos`, with a spread of a few per cent and now and then a slow one.
fn run(seed: u64, count: usize, nanos: f64) -> Run {
    let mut dice = Dice::new(seed);
    let batch = |_| {
        let noise: f64 = (0..6).map(|_| dice.unit() - 0.5).sum::<f64>() * 0.03;
        let hiccup = if dice.unit() < 0.05 { 1.5 } else { 1.0 };
        (nanos * (1.0 + noise) * hiccup).round()
    };
    Run {
        scenario: "warm".to_owned(),
        batches_p50_nanos: (0..count).map(batch).map(whole).collect(),
        ..Run::default()
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small and positive")]
fn whole(value: f64) -> u64 {
    value as u64
}

fn compare(a: Run, b: Run) -> Comparison {
    Comparison::new(&[a], &[b], SEED).unwrap()
}

/// How many of 200 pairs of runs that measured the same lead to a verdict.
fn false_alarms(batches: usize) -> usize {
    let pair = |seed: u64| compare(run(2 * seed, batches, 17e3), run(2 * seed + 1, batches, 17e3));
    (1000..1200).filter(|seed| pair(*seed).latency_nanos.verdict != Verdict::Undecided).count()
}

#[test]
fn the_same_measured_twice_is_told_apart_in_one_case_of_twenty() {
    // 10 of 200 are expected, and three standard deviations are 9.
    for batches in [BATCHES_MIN, 20] {
        let alarms = false_alarms(batches);
        assert!((1..=19).contains(&alarms), "{batches} batches: {alarms} of 200");
    }
}

#[test]
fn a_run_does_not_differ_from_itself() {
    let difference = compare(run(1, 20, 17e3), run(1, 20, 17e3)).latency_nanos;
    assert!((0.48..0.52).contains(&difference.probability_b_slower), "{difference:?}");
    assert!(difference.probability_differ < 0.52 && difference.percent == 0.0, "{difference:?}");
    let constant = Run { batches_p50_nanos: vec![17_000; 10], ..run(1, 10, 17e3) };
    let difference = compare(constant.clone(), constant).latency_nanos;
    assert_eq!((difference.probability_b_slower, difference.verdict), (0.5, Verdict::Undecided));
    assert_eq!((difference.percent_low, difference.percent_high), (0.0, 0.0));
}

#[test]
fn the_same_runs_give_the_same_answer() {
    let pair = || compare(run(1, 20, 17e3), run(2, 20, 17e3));
    assert_eq!(pair(), pair());
}

#[test]
fn a_busier_machine_cancels_out() {
    let with_echo = |mut run: Run, echo: u64| {
        run.echo_batches_p50_nanos = run.batches_p50_nanos.iter().map(|_| echo).collect();
        run
    };
    let a = with_echo(run(1, 20, 17e3), 9_000);
    let b = with_echo(run(2, 20, 34e3), 18_000);
    let comparison = compare(a.clone(), b);
    assert_eq!(comparison.latency_nanos.verdict, Verdict::BSlower);
    let ratio = comparison.ratio_to_echo.unwrap();
    assert!((ratio.a - 17.0 / 9.0).abs() < 0.05 && ratio.percent.abs() < 3.0, "{ratio:?}");
    // An echo with batches of its own number counts as a whole; without one there are no ratios.
    let fewer = Run { echo_batches_p50_nanos: vec![9_000, 9_010, 8_990], ..run(1, 20, 17e3) };
    assert!((compare(a.clone(), fewer).ratio_to_echo.unwrap().percent).abs() < 0.5);
    assert_eq!(compare(a, run(2, 20, 17e3)).ratio_to_echo, None);
}

#[test]
fn runs_that_differ_among_themselves_leave_doubt() {
    let (a, b) = (run(1, 30, 17e3), run(2, 30, 18.5e3));
    let one = Comparison::new(std::slice::from_ref(&a), std::slice::from_ref(&b), SEED).unwrap();
    assert_eq!(one.latency_nanos.verdict, Verdict::BSlower);
    // Runs of A are as far apart as A and B were.
    let several = Comparison::new(&[a, run(3, 30, 18.6e3)], &[b], SEED).unwrap();
    assert_eq!(several.latency_nanos.verdict, Verdict::Undecided, "{several:?}");
    assert_eq!(several.batches, [60, 30]);
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let good = || run(1, 20, 17e3);
    let refuse = |a: &[Run], b: &[Run]| Comparison::new(a, b, SEED).unwrap_err().to_string();
    assert_eq!(refuse(&[], &[good()]), "A has no run to compare");
    assert_eq!(refuse(&[good()], &[]), "B has no run to compare");
    let few = refuse(&[good()], &[run(1, 9, 17e3)]);
    assert!(few.starts_with("a run of warm has 9 batches, and a comparison needs 10"), "{few}");
    let first = Run { scenario: "first".to_owned(), ..good() };
    assert!(refuse(&[good()], &[first]).contains("warm and a run of first"));
    let echo = Run { echo_batches_p50_nanos: vec![0], ..good() };
    assert!(refuse(&[echo], &[good()]).contains("took no time"));
}

proptest! {
    // The same cases each time: these say how often chance may be wrong, and over many runs of the
    // tests it would be.
    #![proptest_config(ProptestConfig {
        cases: 40,
        rng_seed: RngSeed::Fixed(1),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_tenth_more_is_noticed(seed in any::<u64>(), batches in BATCHES_MIN..60, slower in any::<bool>()) {
        let (low, high) = (run(seed, batches, 17e3), run(!seed, batches, 17e3 * 1.1));
        let (difference, expected, sign) = match slower {
            true => (compare(low, high).latency_nanos, Verdict::BSlower, 1.0),
            false => (compare(high, low).latency_nanos, Verdict::BFaster, -1.0),
        };
        prop_assert_eq!(difference.verdict, expected);
        prop_assert!(difference.percent * sign > 4.0, "{:?}", difference);
        prop_assert!(difference.percent_low * sign > 0.0 && difference.percent_high * sign > 0.0);
    }

    #[test]
    fn figures_fit_each_other(seed in any::<u64>(), factor in 0.8..1.25_f64) {
        let comparison = compare(run(seed, 15, 17e3), run(!seed, 15, 17e3 * factor));
        let it = comparison.latency_nanos;
        prop_assert!(it.percent_low <= it.percent_high);
        prop_assert!((0.0..=1.0).contains(&it.probability_b_slower));
        prop_assert!((0.5..=1.0).contains(&it.probability_differ));
        let back = compare(run(!seed, 15, 17e3 * factor), run(seed, 15, 17e3)).latency_nanos;
        // Each is drawn 4,000 times and so off by 0.008 (one standard deviation) at most, their sum
        // by 0.011: seven of those.
        prop_assert!((back.probability_b_slower + it.probability_b_slower - 1.0).abs() < 0.08);
    }
}
