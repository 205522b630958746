//! Latency over time: what happened once shows as a point, what wears off as a slope.

use super::axis::{Axis, count, duration, number};
use super::plot::{Plot, Scale};
use super::table::scrolling;
use super::{Element, Interval, figure, legend};

/// Lines drawn, with the interval's figure each shows.
type Line = (&'static str, fn(&Interval) -> u64);
const LINES: [Line; 3] = [
    ("p50", |interval| interval.p50_nanos),
    ("p99", |interval| interval.p99_nanos),
    ("max", |interval| interval.max_nanos),
];
/// More points than this are a line only: nobody could point at one.
const DOTS_MAX: usize = 120;

/// None if there are no intervals.
pub(super) fn figure_of(intervals: &[Interval]) -> Option<Element> {
    let measured: Vec<_> = intervals.iter().filter(|interval| interval.count > 0).collect();
    let end = measured.iter().map(|interval| interval.from + interval.length).max()?;
    let axis = Axis::linear(end.as_secs_f64());
    let values = |interval: &&Interval| LINES.map(|(_, value)| value(interval) as f64);
    let y = Axis::around(measured.iter().flat_map(values));
    let plot = Plot {
        x: Scale {
            axis,
            title: "seconds since the start",
            labels: axis.ticks().into_iter().map(|tick| (tick, number(tick))).collect(),
        },
        y: Scale {
            axis: y,
            title: "latency",
            labels: y.ticks().into_iter().map(|nanos| (nanos, duration(nanos))).collect(),
        },
    };
    let mut drawn = Vec::new();
    for (series, line) in LINES.iter().enumerate() {
        for stretch in intervals.split(|interval| interval.count == 0) {
            let points: Vec<_> = stretch.iter().map(|interval| point(interval, line)).collect();
            if points.len() > 1 {
                drawn.push(plot.line(&points, series));
            }
        }
    }
    if measured.len() <= DOTS_MAX {
        drawn.extend(measured.iter().flat_map(|interval| dots(interval, &plot)));
    }
    let caption = "Each point is one interval, in its middle; the vertical axis is logarithmic.";
    let drawing = scrolling(plot.draw("latency over time", drawn));
    let names = legend(LINES.iter().map(|(name, _)| *name));
    Some(figure("Latency over time", caption, [names, drawing]))
}

fn point(interval: &Interval, (_, value): &Line) -> (f64, f64) {
    ((interval.from + interval.length / 2).as_secs_f64(), value(interval) as f64)
}

fn dots(interval: &Interval, plot: &Plot) -> Vec<Element> {
    let dot = |(series, line): (usize, &Line)| {
        let place = point(interval, line);
        let (from, count) = (number(interval.from.as_secs_f64()), count(interval.count));
        let says = format!("{} from {from} s: {} ({count})", line.0, duration(place.1));
        plot.dot(place, series, &says)
    };
    LINES.iter().enumerate().map(dot).collect()
}
