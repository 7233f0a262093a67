//! What heartbeats with telemetry take on the wire, and what compressing them costs:
//! `cargo run --release --example heartbeat_sizes`.
//!
//! None of the heartbeats is one that the dictionary was trained with: other fleets, other nodes, other values.

mod telemetry;

use std::error::Error;
use std::hint::black_box;

use prost::Message;
use relaymesh::clock::{Clock, Time};
use relaymesh::limits::FRAME_BYTES_MAX;
use relaymesh::wire::proto::Ping;
use relaymesh::wire::{self, Codec, Kind, RawFrame, Split};
use telemetry::{Fleet, KINDS, STRANGER, protobuf_map, protobuf_map_len, three_fields};

/// Heartbeats of each row.
const HEARTBEATS: usize = 20_000;
/// Times each is compressed and decompressed to see what that costs.
const ROUNDS: usize = 20;

fn main() -> Result<(), Box<dyn Error>> {
    let mut random = fastrand::Rng::with_seed(190);
    compare(&mut fastrand::Rng::with_seed(17))?;
    println!("bytes: median, 90 % at most, largest, of {HEARTBEATS} heartbeats in each row\n");
    println!(
        "{:34} {:>16} {:>16} {:>16} {:>16} {:>16}  at most 60",
        "", "JSON", "protobuf map", "PING", "PING, zstd", "on the wire"
    );
    row("190 bytes as a protobuf map", || of_190(&mut random))?;
    row("any of the kinds below", || Fleet::draw(&mut random).heartbeat(&mut random))?;
    row("the names in another order", || {
        Fleet::draw(&mut random).shuffled(&mut random).heartbeat(&mut random)
    })?;
    row("names the dictionary has not", || Fleet::choice(STRANGER, &mut random).heartbeat(&mut random))?;
    let kind =
        |at: usize| move |random: &mut fastrand::Rng| Fleet::choice(KINDS[at], random).heartbeat(random);
    for (at, name) in ["a sensor", "a tracker", "a meter", "a machine", "an agent"].into_iter().enumerate() {
        row(&format!("{name}, half to all it knows"), || kind(at)(&mut random))?;
    }
    costs((0..200).map(|_| of_190(&mut random)).collect())
}

/// A heartbeat of 190 bytes as a protobuf map, more or less.
fn of_190(random: &mut fastrand::Rng) -> Ping {
    loop {
        let ping = Fleet::draw(random).heartbeat(random);
        if (185..=195).contains(&protobuf_map_len(&ping)) {
            return ping;
        }
    }
}

/// The two heartbeats that there is a promise for, beside other ways to write them. RelayMesh's are whole frames, the others
/// bare payloads.
fn compare(random: &mut fastrand::Rng) -> Result<(), Box<dyn Error>> {
    println!(
        "| bytes, median (largest) of {HEARTBEATS} | promised | RelayMesh | protobuf | JSON | protobuf, zstd without a dictionary |"
    );
    println!("|---|---|---|---|---|---|");
    comparison("three fields: time, node, load", 17, || three_fields(random))?;
    comparison("190 bytes of telemetry", 60, || of_190(random))?;
    println!();
    Ok(())
}

fn comparison(name: &str, promised: usize, mut draw: impl FnMut() -> Ping) -> Result<(), Box<dyn Error>> {
    let mut codec = Codec::new();
    let mut without = without_dictionary()?;
    let mut columns: [Vec<usize>; 4] = Default::default();
    for _ in 0..HEARTBEATS {
        let ping = draw();
        let map = protobuf_map(&ping);
        let sizes =
            [on_the_wire(&mut codec, &ping).len(), map.len(), json_len(&ping), without.compress(&map)?.len()];
        columns.iter_mut().zip(sizes).for_each(|(column, size)| column.push(size));
    }
    print!("| {name} | {promised} |");
    for column in &mut columns {
        column.sort_unstable();
        print!(" {} ({}) |", column[HEARTBEATS / 2], column[HEARTBEATS - 1]);
    }
    println!();
    Ok(())
}

fn without_dictionary() -> std::io::Result<zstd::bulk::Compressor<'static>> {
    let mut without = zstd::bulk::Compressor::new(19)?;
    without.include_magicbytes(false)?;
    without.include_contentsize(false)?;
    Ok(without)
}

fn json_len(ping: &Ping) -> usize {
    if ping.names.is_empty() {
        return serde_json::json!({
            "time": ping.time_s, "node": ping.node, "load": f64::from(ping.load_permille) / 1000.0,
        })
        .to_string()
        .len();
    }
    let readings: serde_json::Map<_, _> =
        ping.names.iter().cloned().zip(ping.values.iter().map(|&value| value.into())).collect();
    serde_json::json!({
        "time": ping.time_s, "node": ping.node, "load": f64::from(ping.load_permille) / 1000.0, "readings": readings,
    })
    .to_string()
    .len()
}

fn row(name: &str, mut draw: impl FnMut() -> Ping) -> Result<(), Box<dyn Error>> {
    let mut codec = Codec::new();
    let mut without = without_dictionary()?;
    let mut columns: [Vec<usize>; 5] = Default::default();
    for _ in 0..HEARTBEATS {
        let ping = draw();
        let plain = ping.encode_to_vec();
        let sizes = [
            json_len(&ping),
            protobuf_map_len(&ping),
            plain.len(),
            without.compress(&plain)?.len(),
            on_the_wire(&mut codec, &ping).len(),
        ];
        columns.iter_mut().zip(sizes).for_each(|(column, size)| column.push(size));
    }
    print!("{name:34}");
    for column in &mut columns {
        column.sort_unstable();
        let (median, high) = (column[HEARTBEATS / 2], column[HEARTBEATS * 9 / 10]);
        print!(" {:>16}", format!("{median} {high} {}", column[HEARTBEATS - 1]));
    }
    let within = columns[4].partition_point(|&size| size <= 60);
    println!("  {:.2} %", 100.0 * within as f64 / HEARTBEATS as f64);
    Ok(())
}

fn on_the_wire(codec: &mut Codec, ping: &Ping) -> Vec<u8> {
    let mut out = Vec::new();
    wire::encode(&mut out, Kind::Ping, ping);
    codec.compress_last_frame(&mut out, 0);
    out
}

fn costs(pings: Vec<Ping>) -> Result<(), Box<dyn Error>> {
    let clock = Clock::starting_at(Time(0));
    let mut codec = Codec::new();
    let frames: Vec<Vec<u8>> = pings.iter().map(|ping| on_the_wire(&mut codec, ping)).collect();
    let per_call = |micros: u64| micros as f64 / (ROUNDS * pings.len()) as f64;
    let before = clock.micros();
    for _ in 0..ROUNDS {
        for ping in &pings {
            black_box(on_the_wire(&mut codec, ping));
        }
    }
    let compressing = per_call(clock.micros() - before);
    let before = clock.micros();
    for _ in 0..ROUNDS {
        for frame in &frames {
            let frame: RawFrame<'_> = match wire::split(frame, FRAME_BYTES_MAX)? {
                Split::Frame { frame, .. } => frame,
                Split::NeedMore { .. } => return Err("a frame is not whole".into()),
            };
            black_box(codec.payload(frame, true, FRAME_BYTES_MAX)?);
        }
    }
    let decompressing = per_call(clock.micros() - before);
    println!(
        "\na heartbeat of 190 bytes: {compressing:.2} us to encode and compress, {decompressing:.2} us to decompress"
    );
    Ok(())
}
