//! What clients did and saw, and when: the words that a campaign writes down and the [checker](crate::checker) reads.
//!
//! Whatever a client asks for is written down before it is sent, and again when its answer is there; so what stands in
//! front of something in the history did not come after it. What was sent and never answered may have counted or not.

use std::fmt;

/// Microseconds since the campaign began.
pub(crate) type Micros = u64;
/// The name of a queue.
pub(crate) type Place = &'static str;

/// What a message is about: each publish has a new one for each of its messages, and the copies that a topic makes of a message
/// share one. It is in the payload.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key(pub(crate) u64);

const TICK: u64 = 1 << 63;
const LARGE: u64 = 1 << 38;

impl Key {
    /// The `number`th message of a client.
    pub(crate) const fn new(client: u64, number: u64) -> Self {
        Self(client << 40 | number)
    }

    /// The key of a message that carries much.
    pub(crate) const fn large(self) -> Self {
        Self(self.0 | LARGE)
    }

    /// Whether it does.
    pub(crate) const fn is_large(self) -> bool {
        self.0 & LARGE != 0
    }

    /// What a schedule publishes for one second, in seconds since 1970.
    pub(crate) const fn tick(schedule: u32, second: u64) -> Self {
        Self(TICK | (schedule as u64) << 40 | second)
    }

    /// Of which schedule and second it is, if of one.
    pub(crate) fn as_tick(self) -> Option<(u32, u64)> {
        (self.0 & TICK != 0).then_some((((self.0 & !TICK) >> 40) as u32, self.0 & ((1 << 40) - 1)))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.as_tick() {
            Some((schedule, second)) => write!(f, "tick of schedule {schedule} for {second}"),
            None => write!(f, "message {}/{}", self.0 >> 40, self.0 & ((1 << 40) - 1)),
        }
    }
}

/// Which of a message's leases, ordered by when they were given: by generation, then by attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Lease {
    pub(crate) boot: u32,
    pub(crate) attempt: u32,
}

/// One message that a publish is to make in one queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Copy {
    pub(crate) key: Key,
    pub(crate) place: Place,
    /// 0 to 9, higher first.
    pub(crate) priority: u8,
    /// Its ordering key; 0 for none.
    pub(crate) order: u8,
    /// It expires behind another one of its ordering key.
    pub(crate) expires: bool,
}

/// A publish: all of its copies appear or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Publish {
    pub(crate) op: u64,
    pub(crate) copies: Vec<Copy>,
    /// The queue of the binding that comes and goes: there is another copy of each message there, if it stands.
    pub(crate) flips: Option<Place>,
    /// Nobody gets it sooner than so long after it was sent.
    pub(crate) delay: Micros,
    /// It acks what it was made of: the message under this id, with this lease.
    pub(crate) acks: Option<(u64, Lease)>,
}

/// What a worker says of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// It is done.
    Ack,
    /// It is done, with a publish of what came of it.
    Forward,
    /// It failed, and is not to come again for so long.
    Nack { delay: Micros },
    /// It is never to come again.
    Reject,
}

/// What becomes of the times a schedule missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Misfire {
    Skip,
    Once,
    All,
}

/// A dead letter as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dead {
    pub(crate) id: u64,
    pub(crate) reason: String,
    pub(crate) attempts: u32,
}

/// One thing a client did or saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) at: Micros,
    /// Which of the server's lives it was in: that of the connection it came by or was sent on.
    pub(crate) life: u32,
    pub(crate) what: What,
}

/// What was done or seen. `op` joins what was asked with its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    /// A server's process was started. It reads its log now.
    Started,
    /// It takes connections.
    Ready,
    /// It was killed, or was found not to come up in its time.
    Killed,
    /// About to publish. Sent again, also on other connections, it stands here once.
    Publish(Box<Publish>),
    /// All of it is on disk, under ids from `first_id` on; those of a topic's copies are not told.
    Published { op: u64, first_id: Option<u64> },
    /// Nothing of it is kept.
    Refused { op: u64 },
    /// Somebody who is alone there begins to take from a queue, one message at a time.
    Subscribe { place: Place },
    /// A message arrived. `intact`: with the payload it was published with.
    Delivered { place: Place, key: Key, id: u64, lease: Lease, intact: bool },
    /// About to settle a delivery.
    Settle { op: u64, id: u64, lease: Lease, how: How },
    /// It counted.
    Settled { op: u64 },
    /// All dead letters of a queue, as asked for at `asked`.
    Listed { place: Place, asked: Micros, dead: Vec<Dead> },
    /// About to redrive dead letters to a queue, or to purge them (`to` is `None`): these that were listed, and with `more` also
    /// others that died since.
    Move { op: u64, from: Place, to: Option<Place>, ids: Vec<u64>, more: bool },
    /// So many were moved.
    Moved { op: u64, changed: u64 },
    /// About to make or to end the binding to a queue that comes and goes.
    Bind { op: u64, place: Place, stands: bool },
    /// It is made, or ended.
    Bound { op: u64 },
    /// About to add (with its policy) or to remove a schedule that fires each second.
    Plan { op: u64, schedule: u32, misfire: Option<Misfire> },
    /// It is added, or removed.
    Planned { op: u64 },
    /// All schedules that the server has, as asked for at `asked`, and the last second each fired for.
    Plans { asked: Micros, schedules: Vec<(u32, u64)> },
}

/// What a campaign wrote down between two moments at which all queues were empty.
#[derive(Debug, Clone, Default)]
pub(crate) struct History {
    /// The wall clock when the campaign began, in milliseconds since 1970.
    pub(crate) began_unix_ms: u64,
    pub(crate) events: Vec<Event>,
}

impl History {
    /// What the wall clock said, in milliseconds since 1970.
    pub(crate) fn wall_ms(&self, at: Micros) -> u64 {
        self.began_unix_ms + at / 1000
    }
}
