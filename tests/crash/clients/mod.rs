//! Clients that go on through every crash, and write down what they ask for and what they see.

pub(crate) mod dedup;
pub(crate) mod lone;
pub(crate) mod operators;
pub(crate) mod producers;
pub(crate) mod sdk;
pub(crate) mod workers;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use relaymesh::wire::proto::Kind;

use crate::history::{Event, History, Key, Micros, Place, What};
use crate::support::PATIENCE;
use crate::support::wire::{Arrival, Wire, hello};

pub(crate) const PLAIN: [Place; 2] = ["plain-0", "plain-1"];
pub(crate) const BATCH: Place = "batch";
pub(crate) const DEDUP: Place = "dedup";
/// A message goes from one to the next.
pub(crate) const STAGES: [Place; 3] = ["stage-0", "stage-1", "stage-2"];
/// Bound to all that is published to the topics, to those that end in `red`, and to what is large and blue.
pub(crate) const TOPICAL: [Place; 3] = ["topic-all", "topic-red", "topic-big"];
/// Bound to all of it now and then.
pub(crate) const FLIP: Place = "topic-flip";
pub(crate) use crate::checker::MORTAL;
/// Where dead letters are redriven to; nothing fails there.
pub(crate) const AGAIN: Place = "again";
pub(crate) const KEYED: Place = "keyed";
pub(crate) const DELAYED: Place = "delayed";
/// Its leases are short, and its workers forget some.
pub(crate) const LEASED: Place = "leased";
/// What schedules publish.
pub(crate) const TICKS: Place = "ticks";
/// Has one consumer, who takes one message at a time.
pub(crate) const PRIO: Place = "prio";
/// Has a producer and a consumer that use the SDK, and resume their sessions.
pub(crate) use crate::checker::RESUMED as SDK;

/// Nobody takes from it before the round ends: it keeps the log full of what is needed, so that segments are compacted and get
/// checkpoints.
pub(crate) const HOARD: Place = "hoard";

/// All queues that workers take from.
pub(crate) const WORKED: [Place; 17] = [
    PLAIN[0], PLAIN[1], BATCH, DEDUP, STAGES[0], STAGES[1], STAGES[2], TOPICAL[0], TOPICAL[1], TOPICAL[2],
    FLIP, MORTAL, AGAIN, KEYED, DELAYED, LEASED, TICKS,
];

/// How long a client waits for a word before it looks at what it was told to do.
const GLANCE: Duration = Duration::from_millis(20);

/// A server that takes connections.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Up {
    pub(crate) listen: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) life: u32,
}

/// What a round and its clients share.
pub(crate) struct Shared {
    /// `None` while it is down.
    up: Mutex<Option<Up>>,
    /// Lives of the server so far.
    lives: AtomicU32,
    events: Mutex<Vec<Event>>,
    began: Instant,
    began_unix_ms: u64,
    /// Which round it is, so that no key comes twice.
    round: u64,
    next_op: AtomicU64,
    /// Publishes and settlements that were answered.
    pub(crate) answered: [AtomicU64; 2],
    /// Nobody begins anything new; who publishes ends once all is answered.
    pub(crate) producers_stop: AtomicBool,
    /// Workers end, and everybody, whatever is unanswered.
    pub(crate) workers_stop: AtomicBool,
}

impl Shared {
    /// Nobody is up yet.
    pub(crate) fn new(round: u64) -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
        Self {
            up: Mutex::new(None),
            lives: AtomicU32::new(0),
            events: Mutex::new(Vec::new()),
            began: Instant::now(),
            began_unix_ms: since_1970.as_millis() as u64,
            round,
            next_op: AtomicU64::new(1),
            answered: [AtomicU64::new(0), AtomicU64::new(0)],
            producers_stop: AtomicBool::new(false),
            workers_stop: AtomicBool::new(false),
        }
    }

    fn events(&self) -> MutexGuard<'_, Vec<Event>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How much has been written down.
    pub(crate) fn len(&self) -> usize {
        self.events().len()
    }

    /// All of it.
    pub(crate) fn history(&self) -> History {
        History { began_unix_ms: self.began_unix_ms, events: std::mem::take(&mut *self.events()) }
    }

    /// Writes something down.
    pub(crate) fn see(&self, life: u32, what: What) {
        match &what {
            What::Published { .. } => drop(self.answered[0].fetch_add(1, Ordering::Relaxed)),
            What::Settled { .. } => drop(self.answered[1].fetch_add(1, Ordering::Relaxed)),
            _ => {}
        }
        let mut events = self.events();
        // With the lock held, so that the times rise.
        let at = self.now();
        events.push(Event { at, life, what });
    }

    /// How long the round takes so far.
    pub(crate) fn now(&self) -> Micros {
        self.began.elapsed().as_micros() as Micros
    }

    /// What the wall clock says, in seconds since 1970.
    pub(crate) fn wall_s(&self) -> u64 {
        (self.began_unix_ms + self.now() / 1000) / 1000
    }

    /// A number for something that is about to be asked for.
    pub(crate) fn op(&self) -> u64 {
        self.next_op.fetch_add(1, Ordering::Relaxed)
    }

    /// The `number`th key of a client of this round.
    pub(crate) fn key(&self, client: u64, number: u64) -> Key {
        Key::new(self.round << 8 | client, number)
    }

    /// What is not to be the same in two rounds.
    pub(crate) fn round(&self) -> u64 {
        self.round
    }

    /// A process was started: a life begins.
    pub(crate) fn begin_life(&self) -> u32 {
        let life = self.lives.fetch_add(1, Ordering::Relaxed) + 1;
        self.see(life, What::Started);
        life
    }

    /// The life that is, or was the last.
    pub(crate) fn life(&self) -> u32 {
        self.lives.load(Ordering::Relaxed)
    }

    /// Tells the clients where the server is.
    pub(crate) fn set_up(&self, up: Option<Up>) {
        *self.up.lock().unwrap_or_else(PoisonError::into_inner) = up;
    }

    /// Where the server is, if it is up.
    pub(crate) fn up(&self) -> Option<Up> {
        *self.up.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nobody is to begin anything.
    pub(crate) fn is_ending(&self) -> bool {
        self.producers_stop.load(Ordering::Relaxed) || self.is_over()
    }

    /// Whether everybody is to end.
    pub(crate) fn is_over(&self) -> bool {
        self.workers_stop.load(Ordering::Relaxed)
    }

    /// A welcomed connection, and the life it is in, as soon as there is a server; `None` when none comes within a glance.
    fn connect(&self, client: &str) -> Option<(Wire, u32)> {
        let attempt = self.up().and_then(|up| {
            let mut wire = Wire::try_connect(up.listen).ok()?;
            wire.send(Kind::Hello, &hello(client));
            match wire.read_until(Instant::now() + PATIENCE) {
                Arrival::Frame(frame) if frame.is(Kind::Welcome) => Some((wire, up.life)),
                _ => None,
            }
        });
        if attempt.is_none() {
            std::thread::sleep(Duration::from_millis(5));
        }
        attempt
    }
}

/// What a message with this key carries: mostly little, and now and then much, so that messages cross blocks at every offset and
/// segments fill.
pub(crate) fn payload(key: Key) -> Vec<u8> {
    let number = (key.0 & 0xff_ffff) as usize;
    let padding = match number % 128 {
        _ if key.is_large() => 24_000,
        0 => 40_000,
        1..16 => 6_000,
        _ => number * 37 % 400,
    };
    let mut payload = format!("{:016x}|", key.0).into_bytes();
    payload.resize(payload.len() + padding, b'a' + (key.0 % 26) as u8);
    payload
}

/// The payload of what a schedule publishes.
pub(crate) fn tick_payload(schedule: u32) -> String {
    format!("tick-{schedule}")
}

/// Whose message it is, and whether it carries what was published.
fn read(message: &relaymesh::wire::proto::Message) -> (Key, bool) {
    let text = String::from_utf8_lossy(&message.payload);
    if let Some(schedule) = text.strip_prefix("tick-").and_then(|number| number.parse().ok()) {
        let time =
            message.attributes.get("scheduled_for").and_then(|time| time.parse::<jiff::Timestamp>().ok());
        let second = time.map_or(0, |time| time.as_second() as u64);
        return (Key::tick(schedule, second), second > 0);
    }
    let key = text.split('|').next().and_then(|number| u64::from_str_radix(number, 16).ok());
    key.map_or((Key(0), false), |key| (Key(key), payload(Key(key)) == message.payload))
}
