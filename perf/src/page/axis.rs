//! Where a value lies on an axis, and which values are written beside it.

/// A logarithmic axis whose ends are further apart than this has whole decades only.
const WIDE: f64 = 2000.0;

/// A range of values along a line of pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Axis {
    kind: Kind,
    from: f64,
    to: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Linear,
    /// Equal steps are equal ratios.
    Logarithmic,
}

impl Axis {
    /// From 0, to `to` or a little beyond.
    pub(super) fn linear(to: f64) -> Self {
        Self { kind: Kind::Linear, from: 0.0, to: to.max(f64::MIN_POSITIVE) }
    }

    /// Exactly these bounds, positive ones.
    pub(super) fn logarithmic(from: f64, to: f64) -> Self {
        let to = if to > from { to } else { from * 10.0 };
        Self { kind: Kind::Logarithmic, from, to }
    }

    /// Around these values, bounds being round ones; values below 1 count as 1.
    pub(super) fn around(values: impl IntoIterator<Item = f64>) -> Self {
        let bounds = |(low, high): (f64, f64), value: f64| (low.min(value), high.max(value));
        let values = values.into_iter().map(|value| value.max(1.0));
        let (low, high) = values.fold((f64::INFINITY, 1.0), bounds);
        let low = if low.is_finite() { low } else { 1.0 };
        let factors: &[f64] = if high / low > WIDE { &[1.0, 10.0] } else { &[1.0, 2.0, 5.0, 10.0] };
        let round = |value| factors.iter().map(move |factor| factor * decade(value));
        let from = round(low).rfind(|round| *round <= low).unwrap_or(low);
        let to = round(high).find(|round| *round >= high).unwrap_or(high);
        Self::logarithmic(from, to)
    }

    /// Where a value lies: 0 at the start of the axis, 1 at its end, outside neither.
    pub(super) fn place(self, value: f64) -> f64 {
        let share = match self.kind {
            Kind::Linear => (value - self.from) / (self.to - self.from),
            Kind::Logarithmic => {
                (value.max(f64::MIN_POSITIVE) / self.from).ln() / (self.to / self.from).ln()
            }
        };
        share.clamp(0.0, 1.0)
    }

    /// Round values on it, few enough to be read.
    pub(super) fn ticks(self) -> Vec<f64> {
        match self.kind {
            Kind::Linear => {
                let step = round_step(self.to / 8.0);
                let steps = (0..=8).map(|number| f64::from(number) * step);
                steps.filter(|tick| *tick <= self.to).collect()
            }
            Kind::Logarithmic => self.logarithmic_ticks(),
        }
    }

    /// 1, 2 and 5 of each decade; if these are too many, 1 only.
    fn logarithmic_ticks(self) -> Vec<f64> {
        let exponent_max = self.to.log10().ceil();
        let mut decade = decade(self.from);
        let mut ticks = Vec::new();
        let factors: &[f64] = if self.to / self.from > WIDE { &[1.0] } else { &[1.0, 2.0, 5.0] };
        while decade.log10() <= exponent_max + 0.5 {
            ticks.extend(factors.iter().map(|factor| factor * decade));
            decade *= 10.0;
        }
        let (from, to) = (self.from * 0.999, self.to * 1.001);
        ticks.retain(|tick| (from..=to).contains(tick));
        ticks
    }
}

/// The power of ten that a positive value is at or above.
fn decade(value: f64) -> f64 {
    10_f64.powf(value.log10().floor())
}

/// The smallest of 1, 2, 5 times a power of ten that is no less.
fn round_step(least: f64) -> f64 {
    let mut steps = [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * decade(least));
    steps.find(|step| *step >= least).unwrap_or(least)
}

/// Nanoseconds in the unit that keeps the number short, three digits of it.
pub(super) fn duration(nanos: f64) -> String {
    let (value, unit) = match nanos {
        _ if nanos < 999.5 => (nanos, "ns"),
        _ if nanos < 999.5e3 => (nanos / 1e3, "\u{b5}s"),
        _ if nanos < 999.5e6 => (nanos / 1e6, "ms"),
        _ => (nanos / 1e9, "s"),
    };
    format!("{} {unit}", number(value))
}

/// A number with three digits, or all in front of its point.
pub(super) fn number(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 99.95 => 0,
        size if size >= 9.995 => 1,
        size if size >= 0.9995 || size == 0.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// A count, its thousands apart.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_lie_in_order_between_the_ends() {
        let axis = Axis::around([17_000.0, 3_100_000.0]);
        assert_eq!(axis, Axis::logarithmic(10_000.0, 5_000_000.0));
        assert_eq!([axis.place(10_000.0), axis.place(5e6)], [0.0, 1.0]);
        assert_eq!([axis.place(0.0), axis.place(1e12)], [0.0, 1.0]);
        assert!((Axis::logarithmic(1.0, 100.0).place(10.0) - 0.5).abs() < 1e-9);
        assert!((Axis::linear(8.0).place(2.0) - 0.25).abs() < 1e-9);
    }

    #[test]
    fn nothing_and_one_value_have_an_axis_too() {
        for values in [&[][..], &[0.0], &[1e3], &[1e3, 1e3]] {
            let axis = Axis::around(values.iter().copied());
            assert!(axis.ticks().len() > 1, "{axis:?}");
            assert!(axis.place(5e3).is_finite(), "{axis:?}");
        }
        assert_eq!(Axis::linear(0.0).place(0.0), 0.0);
    }

    #[test]
    fn ticks_are_round_and_few() {
        assert_eq!(Axis::linear(20.0).ticks(), [0.0, 5.0, 10.0, 15.0, 20.0]);
        let ticks = Axis::logarithmic(10_000.0, 500_000.0).ticks();
        assert_eq!(ticks, [1e4, 2e4, 5e4, 1e5, 2e5, 5e5]);
        for (from, to) in [(1.0, 3.6e12), (5e3, 1e4), (2e4, 5e7)] {
            let ticks = Axis::logarithmic(from, to).ticks();
            assert!((2..=13).contains(&ticks.len()), "{from} {to} {ticks:?}");
        }
    }

    #[test]
    fn numbers_are_short() {
        let texts = [0.0, 17_004.0, 999_600.0, 1.5e6, 123.4e6, 2e9].map(duration);
        let expected = ["0 ns", "17 \u{b5}s", "1 ms", "1.5 ms", "123 ms", "2 s"];
        assert_eq!(texts, expected);
        assert_eq!([0.002, 1.234, 64.0, 1000.0].map(number), ["0.002", "1.23", "64", "1000"]);
        assert_eq!([7, 1000, 1_234_567].map(count), ["7", "1,000", "1,234,567"]);
    }
}
