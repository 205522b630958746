"""Reads what perf writes with HdrHistogram for Python, and prints what it finds there.

log FILE:              tag, start and end in milliseconds of the epoch, count, p50, p99, p99.9, max per interval
distribution FILE:     value and count at each percentile of a printed distribution, and the mean
"""

import sys

from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader

NANOS_MAX = 3_600_000_000_000


def log(path):
    reader = HistogramLogReader(path, HdrHistogram(1, NANOS_MAX, 3))
    while (interval := reader.get_next_interval_histogram()) is not None:
        values = [interval.get_value_at_percentile(at) for at in (50, 99, 99.9)]
        start, end = interval.get_start_time_stamp(), interval.get_end_time_stamp()
        row = [interval.get_tag(), round(start), round(end), interval.get_total_count(), *values]
        print(*row, interval.get_max_value())


def distribution(path):
    """Of a file with a histogram in base64 and a printed distribution of it in microseconds."""
    with open(path) as file:
        word, *lines = file.read().splitlines()
    histogram = HdrHistogram.decode(word)
    total = histogram.get_total_count()
    steps, below = [], 0
    for step in histogram.get_recorded_iterator():
        below += step.count_added_in_this_iter_step
        steps.append((step.value_iterated_to, below))
    for line in lines:
        if line and line.split()[0].replace(".", "").isdigit():
            percentile = float(line.split()[1])
            value, count = next(it for it in steps if it[1] / total >= percentile - 1e-12)
            print(f"{value / 1000:12.3f} {percentile:14.12f} {count:10d}")
    print(f"#[Mean    = {histogram.get_mean_value() / 1000:12.3f}")


{"log": log, "distribution": distribution}[sys.argv[1]](sys.argv[2])
