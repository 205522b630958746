//! Percentile curves of everything measured, in one plot. To the right each step is ten times as
//! rare; upwards each is ten times as long.

use super::axis::{Axis, duration};
use super::plot::{Plot, Scale};
use super::table::scrolling;
use super::{Curve, Element, figure, legend};
use crate::Latencies;

/// Points each time the distance to 100 % halves.
const TICKS: u32 = 10;
/// Percentiles that are marked: one in so many took longer.
const MARKS: [(f64, &str); 6] = [
    (2.0, "50 %"),
    (10.0, "90 %"),
    (100.0, "99 %"),
    (1_000.0, "99.9 %"),
    (10_000.0, "99.99 %"),
    (100_000.0, "99.999 %"),
];
/// The axis reaches 99.9 % at least and 99.999 % at most.
const RARITY: [f64; 2] = [1_000.0, 100_000.0];

/// None if nothing was measured.
pub(super) fn figure_of(curves: &[Curve]) -> Option<Element> {
    let curves: Vec<&Curve> = curves.iter().filter(|curve| curve.latencies.count() > 0).collect();
    let count_max = curves.iter().map(|curve| curve.latencies.count()).max()?;
    let rarest = 10_f64.powf((count_max as f64).log10().ceil()).clamp(RARITY[0], RARITY[1]);
    let lines: Vec<_> = curves.iter().map(|curve| points(&curve.latencies, rarest)).collect();
    let y = Axis::around(lines.iter().flatten().map(|(_, nanos)| *nanos));
    let labels = MARKS.iter().filter(|(rarity, _)| *rarity <= rarest);
    let plot = Plot {
        x: Scale {
            axis: Axis::logarithmic(2.0, rarest),
            title: "percentile",
            labels: labels.map(|(rarity, name)| (*rarity, (*name).to_owned())).collect(),
        },
        y: Scale {
            axis: y,
            title: "latency",
            labels: y.ticks().into_iter().map(|nanos| (nanos, duration(nanos))).collect(),
        },
    };
    let mut drawn = Vec::new();
    for (series, (curve, line)) in curves.iter().zip(&lines).enumerate() {
        drawn.push(plot.line(line, series));
        drawn.extend(marks(curve, rarest, &plot, series));
    }
    let caption = "Read: at 99 %, one in a hundred took longer. Both axes are logarithmic; each \
                   line ends at its slowest.";
    let names = curves.iter().map(|curve| curve.name.as_str());
    let drawing = scrolling(plot.draw("latency by percentile", drawn));
    Some(figure("Latency by percentile", caption, [legend(names), drawing]))
}

/// The curve from the median on. The slowest of N lies where one in N is.
fn points(latencies: &Latencies, rarest: f64) -> Vec<(f64, f64)> {
    let last = (latencies.count() as f64).clamp(2.0, rarest);
    let rarity = |quantile: f64| match quantile < 1.0 {
        true => 1.0 / (1.0 - quantile),
        false => last,
    };
    let percentiles = latencies.percentiles(TICKS).into_iter();
    let mut points: Vec<_> =
        percentiles.map(|point| (rarity(point.quantile), point.nanos as f64)).collect();
    points.retain(|(rarity, _)| (2.0..=last).contains(rarity));
    points.insert(0, (2.0, latencies.at(0.5) as f64));
    // Cut at the edge of the plot, or at the slowest.
    let edge = if last < rarest { latencies.summary().max } else { latencies.at(1.0 - 1.0 / last) };
    points.push((last, edge as f64));
    points
}

/// Points to be pointed at, as far as there were enough to tell.
fn marks(curve: &Curve, rarest: f64, plot: &Plot, series: usize) -> Vec<Element> {
    let latencies = &curve.latencies;
    let enough = rarest.min(latencies.count() as f64);
    let mark = |(rarity, name): &(f64, &str)| {
        let nanos = latencies.at(1.0 - 1.0 / rarity) as f64;
        let says = format!("{}, {name}: {}", curve.name, duration(nanos));
        plot.dot((*rarity, nanos), series, &says)
    };
    MARKS.iter().filter(|(rarity, _)| *rarity <= enough).map(mark).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn curves_rise_and_end_at_the_slowest() {
        for count in [1_u64, 2, 300, 2_000_000] {
            let mut latencies = Latencies::new();
            let record = |number| latencies.record(Duration::from_nanos(1000 + number));
            (1..=count).for_each(record);
            let points = points(&latencies, 100_000.0);
            assert!(points.is_sorted_by(|one, next| one.0 <= next.0 && one.1 <= next.1), "{count}");
            let (first, last) = (points[0], points[points.len() - 1]);
            assert_eq!(first.0, 2.0);
            assert_eq!(last.0, (count as f64).clamp(2.0, 100_000.0));
            if count < 100_000 {
                assert_eq!(last.1, latencies.summary().max as f64);
            }
        }
    }
}
