//! Measures: load, latency histograms, and the peers a figure is held against. Knows no node: what
//! is measured comes as a closure.
