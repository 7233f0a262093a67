//! Trains the dictionary that compressed frames share: `cargo run --example train_dictionary`.
//!
//! The samples are made up from the readings that devices and agents report, always the same, so that the same
//! zstd makes the same bytes. Whoever changes them raises `DICTIONARY_ID` in `src/wire/codec.rs`: a peer that
//! names the old id holds the old bytes.

use std::error::Error;
use std::path::Path;

use prost::Message;
use relaymesh::wire::DICTIONARY_ID;
use relaymesh::wire::proto::{Ping, Reading};

/// Size of the dictionary, in bytes. With half of it heartbeats come out some 5 bytes larger.
const DICTIONARY_BYTES: usize = 4096;
/// Heartbeats to learn from.
const SAMPLES: usize = 6000;
/// The clock of the first sample, in seconds since 1970.
const EPOCH_S: u64 = 1_760_000_000;

/// A reading's name and the values it usually has.
type Gauge = (&'static str, std::ops::Range<i64>);

/// What a device in the field reports.
const DEVICE: [Gauge; 12] = [
    ("uptime_s", 0..5_000_000),
    ("battery_permille", 200..1001),
    ("battery_mv", 3300..4200),
    ("temperature_mc", -10_000..60_000),
    ("humidity_permille", 200..900),
    ("signal_dbm", -110..-40),
    ("memory_permille", 100..950),
    ("disk_permille", 100..950),
    ("sent_bytes", 0..100_000_000),
    ("received_bytes", 0..100_000_000),
    ("restarts", 0..40),
    ("errors", 0..20),
];

/// What an agent on a server reports.
const AGENT: [Gauge; 12] = [
    ("uptime_s", 0..5_000_000),
    ("cpu_permille", 0..1001),
    ("memory_permille", 100..950),
    ("disk_permille", 100..950),
    ("temperature_mc", 30_000..90_000),
    ("tasks_running", 0..64),
    ("tasks_done", 0..1_000_000),
    ("tasks_failed", 0..1000),
    ("task_ms_p50", 1..2000),
    ("task_ms_p99", 10..60_000),
    ("sent_bytes", 0..2_000_000_000),
    ("received_bytes", 0..2_000_000_000),
];

fn main() -> Result<(), Box<dyn Error>> {
    let mut random = fastrand::Rng::with_seed(7400);
    let samples: Vec<Vec<u8>> = (0..SAMPLES).map(|_| heartbeat(&mut random).encode_to_vec()).collect();
    let mut dictionary = zstd::dict::from_samples(&samples, DICTIONARY_BYTES)?;
    // Bytes 4 to 8 of a dictionary are its id, which zstd draws from the content.
    dictionary[4..8].copy_from_slice(&DICTIONARY_ID.to_le_bytes());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/wire/heartbeat.dict");
    std::fs::write(&path, &dictionary)?;
    println!("dictionary {DICTIONARY_ID}: {} bytes in {}", dictionary.len(), path.display());
    Ok(())
}

/// One heartbeat: most report all that their kind has, in its order, some only a part of it.
fn heartbeat(random: &mut fastrand::Rng) -> Ping {
    let gauges = if random.bool() { &DEVICE } else { &AGENT };
    let kept_percent = if random.u8(0..4) == 0 { 60 } else { 100 };
    let mut readings = Vec::with_capacity(gauges.len());
    for (name, range) in gauges {
        let value = random.i64(range.clone());
        if random.u8(0..100) < kept_percent {
            readings.push(Reading { name: (*name).to_owned(), value });
        }
    }
    Ping {
        time_s: EPOCH_S + random.u64(0..100_000_000),
        node: random.u32(1..1_000_000),
        load_permille: random.u32(0..1001),
        readings,
    }
}
