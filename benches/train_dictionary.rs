//! Trains the dictionary that compressed frames share: `cargo run --example train_dictionary`.
//!
//! The samples are always the same, so that the same zstd makes the same bytes. Whoever changes them raises
//! `DICTIONARY_ID` in `src/wire/codec.rs`: a peer that names the old id holds the old bytes. What the dictionary is
//! worth, on heartbeats it was not trained with, says `cargo run --release --example heartbeat_sizes`.

mod telemetry;

use std::error::Error;
use std::path::Path;

use prost::Message;
use relaymesh::wire::DICTIONARY_ID;

/// Size of the dictionary, in bytes.
const DICTIONARY_BYTES: usize = 4096;
/// Fleets to learn from, and heartbeats of each.
const FLEETS: usize = 400;
const HEARTBEATS: usize = 20;

fn main() -> Result<(), Box<dyn Error>> {
    let mut random = fastrand::Rng::with_seed(7400);
    let mut samples = Vec::with_capacity(FLEETS * HEARTBEATS);
    for _ in 0..FLEETS {
        let fleet = telemetry::Fleet::draw(&mut random);
        samples.extend((0..HEARTBEATS).map(|_| fleet.heartbeat(&mut random).encode_to_vec()));
    }
    let mut dictionary = zstd::dict::from_samples(&samples, DICTIONARY_BYTES)?;
    // Bytes 4 to 8 of a dictionary are its id, which zstd draws from the content.
    dictionary[4..8].copy_from_slice(&DICTIONARY_ID.to_le_bytes());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/wire/heartbeat.dict");
    std::fs::write(&path, &dictionary)?;
    println!("dictionary {DICTIONARY_ID}: {} bytes in {}", dictionary.len(), path.display());
    Ok(())
}
