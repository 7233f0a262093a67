//! Every message of the shard in one slab: small entries, lists threaded through them, and an index by id.
//!
//! The slab grows a chunk at a time, so that no insert ever moves what is there. Rare parts (failures, a due time, how a
//! message died) live in a side table.

use std::time::Duration;

use hashbrown::HashTable;

use crate::clock::{Time, Wall};
use crate::ids::{Boot, LeaseId, MessageId, SubscriptionId};
use crate::log::Position;
use crate::message::RetryOptions;
use crate::paged::PagedSlab;
use crate::queue::bodies::{Bodies, Place};
use crate::queue::index::Index;
use crate::queue::record::Reason;
use crate::wheel::TimerId;

/// No slot.
pub(super) const NIL: u32 = u32::MAX;

/// Where a message is in its life:
///
/// ```text
///  publish ─▶ Blocked ─▶ Scheduled ─▶ Ready ─▶ Leased ─▶ done (the entry is gone)
///                            ▲          ▲        │
///                            └──────────┴────────┴────▶ Dead ─▶ Ready (redriven) or gone (purged, acked late)
/// ```
///
/// Only a message behind another of its ordering key is ever blocked. A redriven one may be, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// The slot is free; `next` is the next free one.
    Free,
    /// In its lane's list, behind the message that the lane waits for.
    Blocked,
    /// In its queue's list of its flow and priority.
    Ready,
    /// Waits for its timer; `next` and `prev` hold the time it waits for.
    Scheduled,
    /// `next` is its lease.
    Leased,
    /// In its queue's dead letters; `next` and `prev` are those that died after and before it.
    Dead,
}

impl State {
    /// Its name, as operators read it.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Blocked => "blocked",
            Self::Ready => "ready",
            Self::Scheduled => "scheduled",
            Self::Leased => "leased",
            Self::Dead => "dead",
        }
    }
}

/// One message.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) id: u64,
    /// Where its body is.
    pub(super) body: Place,
    /// The record that holds its body.
    pub(super) position: Position,
    pub(super) published: Time,
    /// When it expires, if not leased or dead then; `Time(0)` for never.
    pub(super) expires: Time,
    pub(super) next: u32,
    pub(super) prev: u32,
    pub(super) queue: u32,
    /// What it shares with the messages of the same keys; [`NIL`] without a key.
    pub(super) lane: u32,
    /// Offset of the body in its record.
    pub(super) body_offset: u32,
    pub(super) body_len: u32,
    /// Bytes of its record that live as long as it does.
    pub(super) charge: u32,
    /// The newest attempt and the boot that began it.
    pub(super) attempt: u32,
    pub(super) boot: Boot,
    pub(super) timer: Option<TimerId>,
    /// Attempts that count, since it was last redriven.
    pub(super) spent: u16,
    /// Its own bound of attempts; 0 leaves it to the queue.
    pub(super) attempts_max: u16,
    pub(super) priority: u8,
    pub(super) state: State,
    /// The newest attempt was cut short by a restart: it neither failed nor succeeded.
    pub(super) attempt_open: bool,
    /// Has an entry in the side table.
    pub(super) is_rare: bool,
}

const _: () = assert!(size_of::<Message>() <= 88);

impl Message {
    pub(super) fn lease(&self) -> LeaseId {
        LeaseId { message: MessageId(self.id), attempt: self.attempt, boot: self.boot }
    }

    /// Whether `lease` is the newest of this message.
    pub(super) fn is_newest(&self, lease: LeaseId) -> bool {
        self.attempt == lease.attempt && self.boot == lease.boot && lease.attempt > 0
    }

    pub(super) fn until(&self) -> Time {
        debug_assert_eq!(self.state, State::Scheduled);
        Time(u64::from(self.next) << 32 | u64::from(self.prev))
    }

    pub(super) fn set_until(&mut self, until: Time) {
        self.state = State::Scheduled;
        self.next = (until.0 >> 32) as u32;
        self.prev = until.0 as u32;
    }
}

/// What few messages have.
#[derive(Debug, Default)]
pub(super) struct Rare {
    /// The wall clock it waits for; 0 once that came, or when it waits for none.
    pub(super) due: Wall,
    /// And no sooner than this, if both were asked for.
    pub(super) no_sooner: Time,
    /// Failed attempts, oldest first.
    pub(super) failures: Vec<FailureKept>,
    /// How it died.
    pub(super) dead: Option<(Reason, Wall)>,
    /// It died, and its ordering key waits for it.
    pub(super) holds_key: bool,
    /// Its place among the messages of its ordering key, where that is not its id's: it was redriven. 0 otherwise.
    pub(super) order: u64,
    /// Until when it has to wait once it is not blocked any more.
    pub(super) until: Time,
    /// Since when it is ready, if its queue asks for that and it is not since it was published.
    pub(super) ready: Time,
    /// When it died, by shard time.
    pub(super) died: Time,
    /// How it is to be retried, as far as it does not leave that to its queue.
    pub(super) retry: RetryOptions,
    /// How long its leases last, if it does not leave that to its queue.
    pub(super) lease: Option<Duration>,
    /// An attempt whose lease ran out while it was out with a consumer, and whose credit it still uses.
    pub(super) late: Option<(u32, Taken)>,
}

/// What a delivery used credit of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Taken {
    pub(super) client: u32,
    /// Counter of the epoch that took it; credit goes back to subscriptions of the same one only.
    pub(super) epoch: u32,
    pub(super) subscription: SubscriptionId,
}

/// A failed attempt.
#[derive(Debug, Clone)]
pub(super) struct FailureKept {
    pub(super) attempt: u32,
    pub(super) wall: Wall,
    pub(super) client: Box<str>,
    pub(super) error: Box<str>,
    /// How long the lease had lasted, where that is known.
    pub(super) lasted_ms: Option<u64>,
}

const CHUNK_BITS: u32 = 12;
const CHUNK: usize = 1 << CHUNK_BITS;

/// The side table. Its entries stay where they are when it grows.
#[derive(Debug, Default)]
struct Rares {
    /// With the slots of their messages.
    entries: PagedSlab<(u32, Rare)>,
    by_slot: HashTable<u32>,
}

impl Rares {
    fn number(&self, slot: u32) -> Option<u32> {
        self.by_slot.find(spread(slot), |&number| self.entries[number].0 == slot).copied()
    }

    fn get(&self, slot: u32) -> Option<&Rare> {
        Some(&self.entries[self.number(slot)?].1)
    }

    /// The entry of this slot, a new one if there is none.
    fn entry(&mut self, slot: u32) -> &mut Rare {
        let number = self.number(slot).unwrap_or_else(|| {
            let number = self.entries.insert((slot, Rare::default()));
            let Self { entries, by_slot } = self;
            by_slot.insert_unique(spread(slot), number, |&number| spread(entries[number].0));
            number
        });
        &mut self.entries[number].1
    }

    fn remove(&mut self, slot: u32) {
        let Self { entries, by_slot } = self;
        if let Ok(entry) = by_slot.find_entry(spread(slot), |&number| entries[number].0 == slot) {
            let (number, _) = entry.remove();
            entries.remove(number);
        }
    }
}

/// The slab, its index and the side table.
#[derive(Debug)]
pub(super) struct Messages {
    chunks: Vec<Vec<Message>>,
    free: u32,
    len: usize,
    by_id: Index,
    rares: Rares,
    /// Messages that wait for the wall clock.
    dues: usize,
    pub(super) bodies: Bodies,
}

impl Messages {
    /// Bodies are kept in at most `body_bytes_max` bytes of memory.
    pub(super) fn new(body_bytes_max: u64) -> Self {
        Self {
            chunks: Vec::new(),
            free: NIL,
            len: 0,
            by_id: Index::new(),
            rares: Rares::default(),
            dues: 0,
            bodies: Bodies::new(body_bytes_max),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(super) fn at(&self, slot: u32) -> &Message {
        &self.chunks[(slot >> CHUNK_BITS) as usize][slot as usize & (CHUNK - 1)]
    }

    #[inline]
    pub(super) fn at_mut(&mut self, slot: u32) -> &mut Message {
        &mut self.chunks[(slot >> CHUNK_BITS) as usize][slot as usize & (CHUNK - 1)]
    }

    pub(super) fn find(&self, id: MessageId) -> Option<u32> {
        self.by_id.get(id.0)
    }

    /// The slot is in no list yet. The body is kept in memory when there is room for it.
    pub(super) fn insert(&mut self, message: Message, body: &[u8]) -> u32 {
        let (id, is_there) = (message.id, body.len() == message.body_len as usize);
        let slot = if self.free == NIL {
            if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
                self.chunks.push(Vec::with_capacity(CHUNK));
            }
            let chunk = self.chunks.len() - 1;
            let slot = (chunk << CHUNK_BITS) + self.chunks[chunk].len();
            self.chunks[chunk].push(message);
            u32::try_from(slot).ok().filter(|&slot| slot < NIL >> 1).expect("limits keep messages below 2^31")
        } else {
            let slot = self.free;
            self.free = self.at(slot).next;
            *self.at_mut(slot) = message;
            slot
        };
        self.by_id.insert(id, slot);
        self.len += 1;
        // A start may leave it in the log.
        if is_there {
            self.keep_body(slot, body);
        }
        slot
    }

    /// Forgets a message that is in no list any more.
    pub(super) fn remove(&mut self, slot: u32) {
        self.by_id.remove(self.at(slot).id);
        if self.at(slot).is_rare {
            self.set_due(slot, Wall(0));
            self.rares.remove(slot);
        }
        self.drop_body(slot);
        let free = self.free;
        let message = self.at_mut(slot);
        message.state = State::Free;
        message.next = free;
        self.free = slot;
        self.len -= 1;
    }

    /// Frees the body's memory; it can be read back.
    pub(super) fn drop_body(&mut self, slot: u32) {
        let message = self.at_mut(slot);
        let (place, len) = (std::mem::replace(&mut message.body, Place::LOG), message.body_len);
        if place.is_memory() {
            self.bodies.release(place, len);
        }
    }

    /// The body, or `None` while it has to be read back from the log.
    pub(super) fn body(&self, slot: u32) -> Option<&[u8]> {
        let message = self.at(slot);
        message.body.is_memory().then(|| self.bodies.get(message.body, message.body_len))
    }

    fn keep_body(&mut self, slot: u32, body: &[u8]) {
        let mut place = self.bodies.keep(slot, body);
        if place.is_none() {
            let chunks = &mut self.chunks;
            let made_room = self.bodies.evict(|owner, place| {
                let message = &mut chunks[(owner >> CHUNK_BITS) as usize][owner as usize & (CHUNK - 1)];
                // The slot may have another tenant, or the same with its body gone.
                if message.body == place {
                    message.body = Place::LOG;
                }
            });
            if made_room {
                place = self.bodies.keep(slot, body);
            }
        }
        self.at_mut(slot).body = place.unwrap_or(Place::LOG);
    }

    pub(super) fn rare(&self, slot: u32) -> Option<&Rare> {
        if self.at(slot).is_rare { self.rares.get(slot) } else { None }
    }

    pub(super) fn rare_mut(&mut self, slot: u32) -> &mut Rare {
        self.at_mut(slot).is_rare = true;
        self.rares.entry(slot)
    }

    /// What the message waits for on the wall clock; 0 for nothing.
    pub(super) fn set_due(&mut self, slot: u32, due: Wall) {
        let old = self.rare(slot).map_or(Wall(0), |rare| rare.due);
        if old != due {
            self.rare_mut(slot).due = due;
            self.dues = self.dues + usize::from(old == Wall(0)) - usize::from(due == Wall(0));
        }
    }

    /// How many messages wait for the wall clock.
    pub(super) fn dues(&self) -> usize {
        self.dues
    }

    /// Which ones.
    pub(super) fn waiting_for_wall(&self) -> Vec<u32> {
        let rares = self.rares.entries.iter().map(|(_, entry)| entry);
        rares.filter(|(_, rare)| rare.due != Wall(0)).map(|&(slot, _)| slot).collect()
    }

    /// Every message there is.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Message)> {
        self.chunks
            .iter()
            .enumerate()
            .flat_map(|(at, chunk)| {
                chunk.iter().enumerate().map(move |(offset, message)| ((at << CHUNK_BITS) + offset, message))
            })
            .filter(|(_, message)| message.state != State::Free)
            .map(|(slot, message)| (slot as u32, message))
    }

    pub(super) fn slots(&self) -> Vec<u32> {
        self.iter().map(|(slot, _)| slot).collect()
    }
}

/// A hash of a slot: all that is asked of it is that neighbours do not share one.
fn spread(slot: u32) -> u64 {
    u64::from(slot).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32)
}
