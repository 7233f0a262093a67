//! What the log costs: appends alone, with the sealing of their batch, and with its commit to the disk below the working
//! directory. `cargo bench --bench log`; how a commit's delay is spread says `cargo bench --bench commit`.

use std::path::Path;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use relaymesh::clock::{Clock, Time};
use relaymesh::limits::SEGMENT_BYTES;
use relaymesh::log::{ChoreOutcome, DiskStorage, Durability, Journal, Log, LogConfig};

/// A message of 256 bytes with what the queue's brain writes about it, in the two parts that it comes in.
const RECORD_BYTES: usize = 300;
const HEADER_BYTES: usize = 40;
/// What the log adds to a record.
const RECORD_HEADER_BYTES: usize = 8;
const KIB: usize = 1 << 10;

criterion_group! {
    name = log;
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(3));
    targets = steps
}
criterion_main!(log);

/// How far a batch goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    /// Sealing is not timed.
    Appended,
    /// Nothing is written.
    Sealed,
    /// It is on disk.
    Committed,
}

fn steps(criterion: &mut Criterion) {
    let home = tempfile::tempdir_in(".").expect("a directory that may be written");
    let mut bench = Bench::new(home.path());
    let rows =
        [("append", Until::Appended), ("append and seal", Until::Sealed), ("commit", Until::Committed)];
    for (name, until) in rows {
        let mut group = criterion.benchmark_group(name);
        let sizes: &[usize] = if until == Until::Committed { &[4, 128, 1024] } else { &[128] };
        for &kib in sizes {
            let records = kib * KIB / (RECORD_BYTES + RECORD_HEADER_BYTES);
            group.throughput(Throughput::Elements(records as u64));
            let id = BenchmarkId::from_parameter(format!("{kib} KiB, {records} records"));
            group.bench_function(id, |bencher| {
                bencher.iter_custom(|batches| (0..batches).map(|_| bench.batch(kib * KIB, until)).sum());
            });
        }
        group.finish();
    }
}

struct Bench {
    storage: DiskStorage,
    log: Log,
    clock: Clock,
    record: Vec<u8>,
}

impl Bench {
    fn new(home: &Path) -> Self {
        let durability = Durability::Sync;
        let storage = DiskStorage::open(home, durability).expect("a directory for the log");
        let config = LogConfig { segment_bytes: SEGMENT_BYTES as u64, seed: fastrand::u64(..), durability };
        let (log, _) = Log::recover(&storage, config, &mut |_, _| {}).expect("an empty log");
        Self { storage, log, clock: Clock::starting_at(Time(0)), record: vec![7; RECORD_BYTES] }
    }

    /// Fills a batch with records that are not needed any more as soon as they are there, and takes it so far; returns
    /// how long that took. What the log does beside that, in the engine in pauses, is not timed.
    fn batch(&mut self, bytes: usize, until: Until) -> Duration {
        let (header, body) = self.record.split_at(HEADER_BYTES);
        let start_us = self.clock.micros();
        while self.log.open_bytes() + RECORD_BYTES + RECORD_HEADER_BYTES <= bytes {
            let position = self.log.append(&[header, body]);
            self.log.release(position, RECORD_BYTES as u32);
        }
        let appended_us = self.clock.micros();
        let batch = loop {
            match self.log.seal() {
                Some(batch) => break batch,
                // A new segment is needed first.
                None => self.chores(),
            }
        };
        if until == Until::Committed {
            batch.write().expect("the disk takes it");
        }
        self.log.batch_done(batch);
        let done_us = self.clock.micros();
        self.chores();
        let end_us = if until == Until::Appended { appended_us } else { done_us };
        Duration::from_micros(end_us - start_us)
    }

    fn chores(&mut self) {
        while let Some(chore) = self.log.next_chore() {
            match self.log.chore_done(chore.run(&self.storage)) {
                ChoreOutcome::Failed(error) | ChoreOutcome::NoSpace(error) => panic!("{error}"),
                ChoreOutcome::Relocation(slice) => self.log.relocated(slice),
                ChoreOutcome::Quiet | ChoreOutcome::Reads(_) => {}
            }
        }
    }
}
