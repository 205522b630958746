//! The percentile distribution as text (`.hgrm`), as HdrHistogram prints it in every language and
//! its plotters read it (<https://hdrhistogram.github.io/HdrHistogram/plotFiles.html>).

use std::fmt;

use crate::Latencies;

/// Points each time the distance to 100 % halves: what the other implementations print.
const TICKS: u32 = 5;

/// Prints a distribution in the unit of the caller's choice.
///
/// ```
/// let mut latencies = perf::Latencies::new();
/// latencies.record(std::time::Duration::from_micros(17));
/// let text = perf::Hgrm::new(&latencies, 1000.0).to_string();
/// assert!(text.contains("17.007 1.000000000000          1"), "{text}");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Hgrm<'a> {
    latencies: &'a Latencies,
    unit_nanos: f64,
}

impl<'a> Hgrm<'a> {
    /// Values are printed in units of so many nanoseconds: 1000 for microseconds.
    #[must_use]
    pub fn new(latencies: &'a Latencies, unit_nanos: f64) -> Self {
        Self { latencies, unit_nanos }
    }
}

/// The columns `Value`, `Percentile`, `TotalCount` and `1/(1-Percentile)`, and a footer.
impl fmt::Display for Hgrm<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (histogram, unit) = (self.latencies.histogram(), self.unit_nanos);
        let digits = usize::from(histogram.sigfig());
        let [value, percentile, count, inverse] =
            ["Value", "Percentile", "TotalCount", "1/(1-Percentile)"];
        writeln!(out, "{value:>12} {percentile:>14} {count:>10} {inverse:>14}\n")?;
        for point in self.latencies.percentiles(TICKS) {
            let (value, quantile, count) = (point.nanos as f64 / unit, point.quantile, point.count);
            write!(out, "{value:12.digits$} {quantile:14.12} {count:10}")?;
            match quantile < 1.0 {
                true => writeln!(out, " {:14.2}", 1.0 / (1.0 - quantile))?,
                false => writeln!(out)?,
            }
        }
        let (mean, deviation) = (histogram.mean() / unit, histogram.stdev() / unit);
        let (max, total) = (histogram.max() as f64 / unit, histogram.len());
        let sub_buckets = 2 * 10_u64.pow(u32::from(histogram.sigfig()));
        let (buckets, sub_buckets) = (histogram.buckets(), sub_buckets.next_power_of_two());
        writeln!(out, "#[Mean    = {mean:12.digits$}, StdDeviation   = {deviation:12.digits$}]")?;
        writeln!(out, "#[Max     = {max:12.digits$}, Total count    = {total:12}]")?;
        writeln!(out, "#[Buckets = {buckets:12}, SubBuckets     = {sub_buckets:12}]")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn columns_are_those_plotters_read() {
        let mut latencies = Latencies::new();
        (1..=1000).for_each(|micros| latencies.record(Duration::from_micros(micros)));
        let text = Hgrm::new(&latencies, 1000.0).to_string();
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("       Value     Percentile TotalCount 1/(1-Percentile)"));
        assert_eq!(lines.next(), Some(""));
        let rows = lines.clone().take_while(|line| !line.starts_with('#'));
        let rows: Vec<Vec<f64>> = rows
            .map(|line| line.split_whitespace().map(|word| word.parse().unwrap()).collect())
            .collect();
        let (last, before) = rows.split_last().unwrap();
        assert_eq!(last[1..], [1.0, 1000.0]);
        for row in before {
            let [value, percentile, count, inverse] = row[..] else { panic!("{row:?}") };
            assert!((value - count).abs() < 1.0 && count >= percentile * 1000.0, "{row:?}");
            assert!((inverse - 1.0 / (1.0 - percentile)).abs() < 0.006, "{row:?}");
        }
        let footer: Vec<&str> = lines.filter(|line| line.starts_with('#')).collect();
        assert_eq!(footer.len(), 3, "{text}");
        assert!(footer[1].ends_with("Total count    =         1000]"), "{text}");
    }

    #[test]
    fn an_empty_one_has_no_rows() {
        let text = Hgrm::new(&Latencies::new(), 1.0).to_string();
        assert_eq!(text.lines().filter(|line| !line.starts_with('#')).count(), 2, "{text}");
        assert!(text.contains("Total count    =            0]"), "{text}");
    }
}
