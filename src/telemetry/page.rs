//! The text of a scrape: how one metric, or a row of them with labels, is written.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use super::cell::Histogram;

/// The text being written, one metric at a time.
pub(super) struct Page<'a>(pub(super) DescriptorEncoder<'a>);

/// Labels and value of one line.
pub(super) type Row<'a, const LABELS: usize, V> = ([(&'static str, &'a str); LABELS], V);

impl Page<'_> {
    pub(super) fn counter(&mut self, name: &str, help: &str, unit: Option<&Unit>, value: f64) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, unit, MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, _, f64>(&value, None)
    }

    pub(super) fn counters<const L: usize>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        rows: &[Row<'_, L, u64>],
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, unit, MetricType::Counter)?;
        for (labels, value) in rows {
            metric.encode_family(labels)?.encode_counter::<NoLabelSet, _, f64>(value, None)?;
        }
        Ok(())
    }

    pub(super) fn gauge(&mut self, name: &str, help: &str, unit: Option<&Unit>, value: f64) -> fmt::Result {
        self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?.encode_gauge(&value)
    }

    pub(super) fn gauges<const L: usize, V: IntoCount>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        rows: &[Row<'_, L, V>],
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        for (labels, value) in rows {
            metric.encode_family(labels)?.encode_gauge(&value.into_count())?;
        }
        Ok(())
    }

    pub(super) fn histogram(&mut self, name: &str, help: &str, scale: Scale, merged: &Merged) -> fmt::Result {
        let unit = scale.unit();
        let mut metric = self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Histogram)?;
        let last = merged.counts.len() - 1;
        let buckets: Vec<(f64, u64)> = (merged.counts.iter().enumerate())
            .map(|(i, n)| (if i == last { f64::INFINITY } else { scale.upper_bound(i) }, *n))
            .collect();
        let total = merged.counts.iter().sum();
        metric.encode_histogram::<NoLabelSet>(count(merged.sum) * scale.factor(), total, &buckets, None)
    }
}

/// A value of a gauge with labels.
pub(super) trait IntoCount: Copy {
    fn into_count(self) -> f64;
}

impl IntoCount for u64 {
    fn into_count(self) -> f64 {
        count(self)
    }
}

impl IntoCount for f64 {
    fn into_count(self) -> f64 {
        self
    }
}

/// The exposition's numbers are 64-bit floats: exact up to 2^53.
#[allow(clippy::cast_precision_loss)]
pub(super) fn count(value: u64) -> f64 {
    value as f64
}

/// What a histogram's values are.
#[derive(Clone, Copy)]
pub(super) enum Scale {
    Count,
    Bytes,
    Micros,
    Millis,
}

impl Scale {
    fn unit(self) -> Option<Unit> {
        match self {
            Self::Count => None,
            Self::Bytes => Some(Unit::Bytes),
            Self::Micros | Self::Millis => Some(Unit::Seconds),
        }
    }

    fn factor(self) -> f64 {
        match self {
            Self::Count | Self::Bytes => 1.0,
            Self::Millis => 1e-3,
            Self::Micros => 1e-6,
        }
    }

    /// The bound that no value of bucket `i` exceeds: the values are whole numbers below 2^i, a time's rounded down.
    fn upper_bound(self, i: usize) -> f64 {
        let below = count(1 << i);
        match self {
            Self::Count | Self::Bytes => below - 1.0,
            Self::Millis => below / 1e3,
            Self::Micros => below / 1e6,
        }
    }
}

/// The histograms of several threads as one.
pub(super) struct Merged {
    counts: [u64; Histogram::BUCKETS],
    sum: u64,
}

impl Merged {
    pub(super) fn of<'a>(histograms: impl Iterator<Item = &'a Histogram>) -> Self {
        let mut merged = Self { counts: [0; Histogram::BUCKETS], sum: 0 };
        for histogram in histograms {
            for (sum, n) in merged.counts.iter_mut().zip(histogram.counts()) {
                *sum += n;
            }
            merged.sum = merged.sum.wrapping_add(histogram.sum());
        }
        merged
    }
}
