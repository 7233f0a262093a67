//! Heartbeats as a fleet sends them: what the dictionary is trained on, and what it is measured with.
//!
//! A fleet is of one kind and reports all of that kind's readings, or a choice of them, in the same order each time.
//! What a kind reports are 185 to 205 bytes as a protobuf map from names to numbers. Each heartbeat is of another node
//! at another time: no value tells anything of another one.

use fastrand::Rng;
use prost::Message as _;
use prost::encoding::encode_varint;
use relaymesh::wire::proto::Ping;

/// The clock of the earliest heartbeat, in seconds since 1970, and how much later the last one may be.
const EPOCH_S: u32 = 1_760_000_000;
const YEARS_S: u32 = 100_000_000;

/// A reading's name and its values.
pub(crate) type Reading = (&'static str, Values);

/// How the values of a reading are spread over a fleet.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Values {
    /// From the first to below the second, those in the middle more often.
    Around(i64, i64),
    /// What grows from 1 up to a bound: as likely in the tens as in the thousands or millions.
    UpTo(i64),
}

use Values::{Around, UpTo};

/// A sensor on a battery.
const SENSOR: &[Reading] = &[
    ("uptime_s", UpTo(50_000_000)),
    ("battery_permille", Around(200, 1001)),
    ("battery_mv", Around(3300, 4200)),
    ("temperature_mc", Around(-10_000, 60_000)),
    ("humidity_permille", Around(200, 900)),
    ("pressure_pa", Around(95_000, 105_000)),
    ("light_lux", UpTo(40_000)),
    ("signal_dbm", Around(-110, -40)),
    ("restarts", UpTo(40)),
    ("errors", UpTo(20)),
];

/// A tracker in a vehicle.
const TRACKER: &[Reading] = &[
    ("uptime_s", UpTo(50_000_000)),
    ("battery_mv", Around(11_000, 14_800)),
    ("latitude_e5", Around(-6_000_000, 7_000_000)),
    ("longitude_e5", Around(-18_000_000, 18_000_000)),
    ("altitude_m", Around(-50, 2000)),
    ("speed_mm_s", Around(0, 40_000)),
    ("heading_deg", Around(0, 360)),
    ("satellites", Around(0, 24)),
    ("signal_dbm", Around(-110, -40)),
    ("sent_bytes", UpTo(1_000_000_000)),
];

/// An electricity meter.
const METER: &[Reading] = &[
    ("uptime_s", UpTo(50_000_000)),
    ("voltage_mv", Around(220_000, 240_000)),
    ("current_ma", Around(0, 40_000)),
    ("power_mw", Around(0, 9_000_000)),
    ("energy_wh", UpTo(50_000_000)),
    ("frequency_mhz", Around(49_900, 50_100)),
    ("temperature_mc", Around(-10_000, 60_000)),
    ("signal_dbm", Around(-110, -40)),
    ("restarts", UpTo(40)),
    ("errors", UpTo(20)),
];

/// A computer at the edge.
const MACHINE: &[Reading] = &[
    ("uptime_s", UpTo(50_000_000)),
    ("cpu_permille", Around(0, 1001)),
    ("memory_permille", Around(100, 950)),
    ("disk_permille", Around(100, 950)),
    ("temperature_mc", Around(30_000, 90_000)),
    ("processes", Around(40, 600)),
    ("connections", UpTo(2000)),
    ("sent_bytes", UpTo(100_000_000_000)),
    ("received_bytes", UpTo(100_000_000_000)),
];

/// An agent that works on tasks.
const AGENT: &[Reading] = &[
    ("uptime_s", UpTo(50_000_000)),
    ("cpu_permille", Around(0, 1001)),
    ("memory_permille", Around(100, 950)),
    ("tasks_running", UpTo(64)),
    ("tasks_done", UpTo(10_000_000)),
    ("tasks_failed", UpTo(10_000)),
    ("task_ms_p50", UpTo(2000)),
    ("task_ms_p99", UpTo(60_000)),
    ("queue_depth", UpTo(10_000)),
    ("errors", UpTo(1000)),
];

/// The kinds whose names the dictionary knows.
pub(crate) const KINDS: [&[Reading]; 5] = [SENSOR, TRACKER, METER, MACHINE, AGENT];

/// A kind whose names it does not know.
#[allow(dead_code, reason = "the trainer has no use for it")]
pub(crate) const STRANGER: &[Reading] = &[
    ("seconds.alive", UpTo(50_000_000)),
    ("tank.level.mm", Around(0, 4000)),
    ("flow.ml.per.s", Around(0, 9000)),
    ("valve.position", Around(0, 1001)),
    ("pump.hours", UpTo(60_000)),
    ("inlet.kpa", Around(90, 900)),
    ("outlet.kpa", Around(90, 900)),
    ("motor.celsius", Around(-10, 90)),
    ("starts.today", UpTo(50)),
];

impl Values {
    fn draw(self, random: &mut Rng) -> i64 {
        match self {
            Around(low, high) => i64::midpoint(random.i64(low..high), random.i64(low..high)),
            UpTo(high) => (high as f64).powf(random.f64()) as i64,
        }
    }
}

/// What all its members report.
#[derive(Debug, Clone)]
pub(crate) struct Fleet(Vec<Reading>);

impl Fleet {
    /// A fleet of a random kind of [`KINDS`]: three of four report all that their kind has, the others a choice.
    pub(crate) fn draw(random: &mut Rng) -> Self {
        let kind = KINDS[random.usize(..KINDS.len())];
        if random.u8(..4) > 0 { Self(kind.to_vec()) } else { Self::choice(kind, random) }
    }

    /// A fleet that reports between half and all of a kind's readings, in the kind's order.
    pub(crate) fn choice(kind: &[Reading], random: &mut Rng) -> Self {
        let amount = random.usize(kind.len() / 2..=kind.len());
        let mut kept = random.choose_multiple(0..kind.len(), amount);
        kept.sort_unstable();
        Self(kept.into_iter().map(|at| kind[at]).collect())
    }

    /// The same readings in another order.
    #[allow(dead_code, reason = "the trainer has no use for it")]
    pub(crate) fn shuffled(mut self, random: &mut Rng) -> Self {
        random.shuffle(&mut self.0);
        self
    }

    /// What one of its members reports at some time.
    pub(crate) fn heartbeat(&self, random: &mut Rng) -> Ping {
        let mut ping = Ping {
            time_s: EPOCH_S + random.u32(..YEARS_S),
            node: random.u32(1..1_000_000),
            load_permille: random.u32(..1001),
            ..Ping::default()
        };
        for (name, values) in &self.0 {
            ping.push_reading(*name, values.draw(random));
        }
        ping
    }
}

/// The same telemetry as a protobuf message with a `map<string, sint64>`, as one would write it at first.
#[allow(dead_code, reason = "the trainer has no use for it")]
pub(crate) fn protobuf_map(ping: &Ping) -> Vec<u8> {
    let header = Ping { names: Vec::new(), values: Vec::new(), ..ping.clone() };
    let mut out = header.encode_to_vec();
    for (name, value) in ping.names.iter().zip(&ping.values) {
        let mut entry = vec![0x0a];
        encode_varint(name.len() as u64, &mut entry);
        entry.extend_from_slice(name.as_bytes());
        entry.push(0x10);
        encode_varint(((value << 1) ^ (value >> 63)) as u64, &mut entry);
        out.push(0x22);
        encode_varint(entry.len() as u64, &mut out);
        out.extend_from_slice(&entry);
    }
    out
}

/// Its length.
#[allow(dead_code, reason = "the trainer has no use for it")]
pub(crate) fn protobuf_map_len(ping: &Ping) -> usize {
    protobuf_map(ping).len()
}

/// A heartbeat of three fields and no readings: clock, node and load.
#[allow(dead_code, reason = "the trainer has no use for it")]
pub(crate) fn three_fields(random: &mut Rng) -> Ping {
    Ping {
        time_s: EPOCH_S + random.u32(..YEARS_S),
        node: random.u32(1..1_000_000),
        load_permille: random.u32(..1001),
        ..Ping::default()
    }
}
