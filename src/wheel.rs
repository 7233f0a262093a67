//! A hierarchical timer wheel over keys: insert, move and cancel in constant time.
//!
//! Time is cut into ticks of 1 ms. Level 0 has a slot for each of the next 64 ticks, level 1 a slot for each of
//! the next 64 × 64 and so on; seven levels reach 139 years. A timer lies in the level of the highest bit in which
//! its time differs from the wheel's own, and moves down a level each time the wheel enters its slot, so that each
//! timer is touched at most seven times in its life. Timers that are due wait in one more list.
//!
//! The owner calls [`Wheel::pop_expired`] until it returns `None`, then sleeps until [`Wheel::next_deadline`].

use std::num::NonZeroU32;

use crate::clock::Time;
use crate::paged::Paged;

const LEVELS: usize = 7;
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
/// The list after all slots: timers that are due.
const DUE: usize = LEVELS * SLOTS;
/// The wheel's horizon; a later timer fires then.
const TIME_MAX: u64 = (1 << TIME_BITS) - 1;
const TIME_BITS: u32 = SLOT_BITS * LEVELS as u32;
/// No node.
const NIL: u32 = u32::MAX;

/// One timer of a wheel. Free to be given out again once it fired or was cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TimerId(NonZeroU32);

impl TimerId {
    fn of(node: u32) -> Self {
        Self(NonZeroU32::MIN.saturating_add(node))
    }

    fn node(self) -> u32 {
        self.0.get() - 1
    }
}

/// The timers of one owner.
#[derive(Debug)]
pub struct Wheel {
    /// Everything due at or before this time is in the due list or was popped.
    elapsed: u64,
    nodes: Paged<Node>,
    /// First node of the free list.
    free: u32,
    lists: Box<[List; DUE + 1]>,
    /// Which slots of a level are not empty.
    occupied: [u64; LEVELS],
    len: usize,
}

/// There is one for each of a million sessions: no byte for alignment.
#[derive(Debug, Clone, Copy)]
#[repr(Rust, packed(4))]
struct Node {
    /// When it fires, in the lower [`TIME_BITS`]; above them the list it lies in.
    at_and_list: u64,
    key: u32,
    prev: u32,
    next: u32,
}

impl Node {
    fn at(self) -> u64 {
        self.at_and_list & TIME_MAX
    }

    fn list(self) -> usize {
        (self.at_and_list >> TIME_BITS) as usize
    }
}

/// What a timer takes, in bytes.
pub const TIMER_BYTES: usize = size_of::<Node>();
const _: () = assert!(DUE < 1 << (u64::BITS - TIME_BITS));
const _: () = assert!(TIMER_BYTES == 20 && size_of::<Option<TimerId>>() == 4);

#[derive(Debug, Clone, Copy)]
struct List {
    head: u32,
    tail: u32,
}

impl Wheel {
    /// An empty wheel that stands at `now`.
    #[must_use]
    pub fn new(now: Time) -> Self {
        Self {
            elapsed: now.0.min(TIME_MAX),
            nodes: Paged::default(),
            free: NIL,
            lists: Box::new([List { head: NIL, tail: NIL }; DUE + 1]),
            occupied: [0; LEVELS],
            len: 0,
        }
    }

    /// How many timers wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no timer waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Memory of its timers, waiting or free, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.nodes.bytes()
    }

    /// A timer that fires `key` at `at`, or with the next pop when that has passed.
    pub fn insert(&mut self, at: Time, key: u32) -> TimerId {
        let node = Node { at_and_list: at.0.min(TIME_MAX), key, prev: NIL, next: NIL };
        let index = if self.free == NIL {
            self.nodes.push(node)
        } else {
            let index = self.free;
            self.free = self.nodes[index].next;
            self.nodes[index] = node;
            index
        };
        self.link(index);
        self.len += 1;
        TimerId::of(index)
    }

    /// Takes a waiting timer out.
    pub fn cancel(&mut self, timer: TimerId) {
        let index = timer.node();
        self.unlink(index);
        self.release(index);
    }

    /// Makes a waiting timer fire at another time.
    pub fn move_to(&mut self, timer: TimerId, at: Time) {
        let index = timer.node();
        self.unlink(index);
        self.nodes[index].at_and_list = at.0.min(TIME_MAX);
        self.link(index);
    }

    /// The next timer that is due at `now`, now free, and its key; `None` when no more are due. Timers come in the
    /// order of their times.
    pub fn pop_expired(&mut self, now: Time) -> Option<(TimerId, u32)> {
        loop {
            let due = self.lists[DUE].head;
            if due != NIL {
                let key = self.nodes[due].key;
                self.unlink(due);
                self.release(due);
                return Some((TimerId::of(due), key));
            }
            match self.next_slot() {
                Some((level, slot, start)) if start <= now.0 => {
                    self.elapsed = start;
                    self.cascade(level * SLOTS + slot);
                }
                _ => {
                    self.elapsed = self.elapsed.max(now.0.min(TIME_MAX));
                    return None;
                }
            }
        }
    }

    /// When to pop next: never later than the first timer, and at most a level's slot too early.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        if self.lists[DUE].head != NIL {
            return Some(Time(self.elapsed));
        }
        self.next_slot().map(|(_, _, start)| Time(start))
    }

    /// The first slot that holds timers: its level, number and start. Lower levels come before higher ones.
    fn next_slot(&self) -> Option<(usize, usize, u64)> {
        let level = self.occupied.iter().position(|&slots| slots != 0)?;
        let slot = self.occupied[level].trailing_zeros() as usize;
        let shift = SLOT_BITS * level as u32;
        let level_start = self.elapsed >> (shift + SLOT_BITS) << (shift + SLOT_BITS);
        Some((level, slot, level_start + ((slot as u64) << shift)))
    }

    /// Moves the timers of a slot that the wheel has entered to where they belong now.
    fn cascade(&mut self, list: usize) {
        let mut index = std::mem::replace(&mut self.lists[list], List { head: NIL, tail: NIL }).head;
        self.occupied[list / SLOTS] &= !(1 << (list % SLOTS));
        while index != NIL {
            let next = self.nodes[index].next;
            self.link(index);
            index = next;
        }
    }

    fn list_for(&self, at: u64) -> usize {
        if at <= self.elapsed {
            return DUE;
        }
        let highest_bit = u64::BITS - 1 - (at ^ self.elapsed).leading_zeros();
        let level = highest_bit / SLOT_BITS;
        let slot = (at >> (level * SLOT_BITS)) as usize % SLOTS;
        level as usize * SLOTS + slot
    }

    fn link(&mut self, index: u32) {
        let list = self.list_for(self.nodes[index].at());
        if list != DUE {
            self.occupied[list / SLOTS] |= 1 << (list % SLOTS);
        }
        let tail = std::mem::replace(&mut self.lists[list].tail, index);
        match tail {
            NIL => self.lists[list].head = index,
            tail => self.nodes[tail].next = index,
        }
        let node = &mut self.nodes[index];
        node.at_and_list = node.at() | (list as u64) << TIME_BITS;
        (node.prev, node.next) = (tail, NIL);
    }

    fn unlink(&mut self, index: u32) {
        let node = self.nodes[index];
        let (prev, next, list) = (node.prev, node.next, node.list());
        match prev {
            NIL => self.lists[list].head = next,
            prev => self.nodes[prev].next = next,
        }
        match next {
            NIL => self.lists[list].tail = prev,
            next => self.nodes[next].prev = prev,
        }
        if list != DUE && self.lists[list].head == NIL {
            self.occupied[list / SLOTS] &= !(1 << (list % SLOTS));
        }
    }

    fn release(&mut self, index: u32) {
        self.nodes[index].next = self.free;
        self.free = index;
        self.len -= 1;
    }
}

#[cfg(test)]
mod tests;
