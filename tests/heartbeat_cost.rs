//! A heartbeat costs no memory: a loop's brain, with sessions that are held, is given PINGs and asked for no byte.

// An allocator that counts can be written in no other way.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use relaymesh::clock::Time;
use relaymesh::config::Auth;
use relaymesh::gateway::{Action, Gateway, GatewayConfig, SlotKey};
use relaymesh::ids::{ClientId, ConnKey, Epoch, LoopId, Namespace};
use relaymesh::limits::POOLED_KEPT;
use relaymesh::mail::{Attached, CommandBatch, Effect, EffectBatch};
use relaymesh::session::ResumeKey;
use relaymesh::telemetry::LoopMetrics;
use relaymesh::wire::{Codec, DICTIONARY_ID, EMPTY_PING, Kind, encode, proto};

/// Counts what the thread asks the system's allocator for.
struct Counting;

thread_local! {
    static ASKED: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // Not while the thread's own variables are gone.
    let _ = ASKED.try_with(|asked| asked.set(asked.get() + 1));
}

// SAFETY: every call goes to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as our caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as our caller promised.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as our caller promised.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Sessions held.
const SESSIONS: u32 = 1000;
/// Sessions that say something in the same turn.
const TURN: usize = POOLED_KEPT;
/// The interval they agreed on.
const INTERVAL_MS: u64 = 60_000;
/// Heartbeats of each.
const ROUNDS: u64 = 20;

struct Held {
    gateway: Gateway,
    metrics: Arc<LoopMetrics>,
    keys: Vec<SlotKey>,
    now: Time,
    /// Bytes the sockets took.
    sent: usize,
}

impl Held {
    fn new(pong_every: u32, heartbeats_per_s: u32) -> Self {
        let mut config = GatewayConfig::new(Auth::Open, ResumeKey([1; 32]));
        config.heartbeats_per_s = heartbeats_per_s;
        let metrics = Arc::new(LoopMetrics::default());
        let now = Time(1000);
        let gateway = Gateway::new(LoopId(0), Arc::new(config), Arc::clone(&metrics), 1, now);
        let mut held = Self { gateway, metrics, keys: Vec::new(), now, sent: 0 };
        for number in 0..SESSIONS {
            let key = held.gateway.accept(now).expect("room for a connection");
            let hello = proto::Hello {
                version_min: 1,
                version_max: 1,
                client_id: format!("d{number}"),
                heartbeat_ms: INTERVAL_MS as u32,
                dictionaries: vec![DICTIONARY_ID],
                pong_every,
                ..Default::default()
            };
            let mut bytes = Vec::new();
            encode(&mut bytes, Kind::Hello, &hello);
            held.gateway.receive(now, key, &bytes);
            let conn = ConnKey { loop_id: LoopId(0), slot: key.slot, generation: key.generation };
            let namespace = Namespace::parse(Namespace::DEFAULT).expect("a name");
            let client = ClientId::parse("d1").expect("a name");
            let attached =
                Attached { conn, namespace, client, session_id: 1, epoch: Epoch(1), resumed: false };
            let effects = vec![Effect::Attached(Box::new(attached))];
            held.gateway.effects(now, EffectBatch { effects, bodies: Vec::new() });
            held.keys.push(key);
            held.act();
        }
        held
    }

    fn act(&mut self) {
        while let Some(action) = self.gateway.next_action() {
            let Action::Flush(slot) = action else { panic!("{action:?}") };
            let n = self.gateway.unsent(slot).len();
            self.gateway.sent(self.now, slot, n);
            self.sent += n;
        }
        self.gateway.commands().iter_mut().for_each(CommandBatch::clear);
    }

    /// What was asked of the allocator while each session sent `ping` some times, so far apart, in turns of as many sessions as
    /// the loop keeps buffers for when it has long been quiet.
    fn asked_for(&mut self, ping: &[u8], every_ms: u64) -> u64 {
        let before = ASKED.get();
        for _ in 0..ROUNDS {
            self.now = Time(self.now.0 + every_ms);
            for from in (0..self.keys.len()).step_by(TURN) {
                for at in from..self.keys.len().min(from + TURN) {
                    self.gateway.receive(self.now, self.keys[at], ping);
                }
                self.gateway.expire(self.now);
                self.act();
            }
        }
        ASKED.get() - before
    }
}

fn telemetry() -> proto::Ping {
    let mut ping = proto::Ping { time_s: 1_795_234_567, node: 7, load_permille: 512, ..Default::default() };
    for (number, name) in
        ["uptime_s", "battery_permille", "temperature_mc", "rssi_dbm"].into_iter().enumerate()
    {
        ping.push_reading(name, number as i64 * 100);
    }
    ping
}

fn pings() -> [(&'static str, Vec<u8>); 4] {
    let mut three_fields = Vec::new();
    let fields = proto::Ping { names: Vec::new(), values: Vec::new(), ..telemetry() };
    encode(&mut three_fields, Kind::Ping, &fields);
    let mut readings = Vec::new();
    encode(&mut readings, Kind::Ping, &telemetry());
    let mut compressed = readings.clone();
    Codec::new().compress_last_frame(&mut compressed, 0);
    assert!(compressed.len() < readings.len());
    [
        ("empty", EMPTY_PING.to_vec()),
        ("three fields", three_fields),
        ("telemetry", readings),
        ("compressed telemetry", compressed),
    ]
}

#[test]
fn a_heartbeat_asks_for_no_memory() {
    for (pong_every, answers) in [(1, 1.0), (4, 0.25)] {
        for (name, ping) in pings() {
            let mut held = Held::new(pong_every, u32::MAX);
            // Once for the buffers that all share, and the decompressor's.
            held.asked_for(&ping, INTERVAL_MS);
            held.sent = 0;
            let (received, pongs) =
                (held.metrics.received.bytes[Kind::Ping as usize].value(), held.metrics.sent.pongs());
            let asked = held.asked_for(&ping, INTERVAL_MS);
            let heartbeats = u64::from(SESSIONS) * ROUNDS;
            assert_eq!(asked, 0, "{name}: {asked} allocations in {heartbeats} heartbeats");
            let received = held.metrics.received.bytes[Kind::Ping as usize].value() - received;
            assert_eq!(received, heartbeats * ping.len() as u64);
            let pongs = held.metrics.sent.pongs() - pongs;
            assert_eq!(pongs, (heartbeats as f64 * answers) as u64, "{name}");
            assert_eq!(held.sent as u64, 2 * pongs, "{name}");
        }
    }
}

/// Nor does a PONG that asks for another interval: the first sessions came when there were few, and hear that there are
/// more.
#[test]
fn an_interval_is_asked_for_without_memory() {
    // 1,000 sessions at 60 s are 16.7 heartbeats a second.
    let mut held = Held::new(1, 8);
    let sessions = held.keys.clone();
    // The buffers that all share are there once the first hundred have been answered.
    held.keys.drain(100..);
    held.asked_for(&EMPTY_PING, 100);
    let intervals = held.metrics.intervals_asked.value();
    held.keys = sessions;
    let asked = held.asked_for(&EMPTY_PING, INTERVAL_MS);
    assert_eq!(asked, 0, "{asked} allocations");
    assert!(held.metrics.intervals_asked.value() > intervals + 100);
    assert_eq!(held.metrics.heartbeat_stretch_permille.value(), 2828);
}

/// The counter counts.
#[test]
fn an_allocation_is_seen() {
    let before = ASKED.get();
    drop(std::hint::black_box(vec![1_u8; 100]));
    assert!(ASKED.get() > before);
}
