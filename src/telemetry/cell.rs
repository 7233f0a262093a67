//! Counters, gauges and histograms with one writer and any number of readers.

use std::sync::atomic::{AtomicU64, Ordering};

/// Only ever rises. Written by one thread.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        // One writer: a load and a store are enough, and cheaper than a locked add.
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// The count.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Rises and falls. Written by one thread.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Sets it.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.set(self.value().wrapping_add(n));
    }

    /// Takes `n` away.
    pub fn sub(&self, n: u64) {
        self.set(self.value().wrapping_sub(n));
    }

    /// The value.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counts values in buckets that double: bucket `i` holds values below 2^i. Written by one thread.
#[derive(Debug)]
pub struct Histogram {
    buckets: [AtomicU64; Self::BUCKETS],
    sum: AtomicU64,
}

impl Histogram {
    /// How many buckets; the last one takes all that is larger.
    pub const BUCKETS: usize = 32;

    /// Counts `value`.
    pub fn record(&self, value: u64) {
        self.record_many(value, 1);
    }

    /// Counts `value` `times`.
    pub fn record_many(&self, value: u64, times: u64) {
        let bucket = (u64::BITS - value.leading_zeros()) as usize;
        let bucket = &self.buckets[bucket.min(Self::BUCKETS - 1)];
        bucket.store(bucket.load(Ordering::Relaxed) + times, Ordering::Relaxed);
        let sum = self.sum.load(Ordering::Relaxed).wrapping_add(value.wrapping_mul(times));
        self.sum.store(sum, Ordering::Relaxed);
    }

    /// The sum of all values.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.sum.load(Ordering::Relaxed)
    }

    /// How many values each bucket holds; bucket `i` those below 2^i and not below 2^(i-1).
    #[must_use]
    pub fn counts(&self) -> [u64; Self::BUCKETS] {
        std::array::from_fn(|i| self.buckets[i].load(Ordering::Relaxed))
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: std::array::from_fn(|_| AtomicU64::new(0)), sum: AtomicU64::new(0) }
    }
}
