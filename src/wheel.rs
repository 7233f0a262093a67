//! A hierarchical timer wheel over keys: insert, move and cancel in constant time.
//!
//! Time is cut into ticks of 1 ms. Level 0 has a slot for each of the next 64 ticks, level 1 a slot for each of
//! the next 64 × 64 and so on; seven levels reach 139 years. A timer lies in the level of the highest bit in which
//! its time differs from the wheel's own, and moves down a level each time the wheel enters its slot, so that each
//! timer is touched at most seven times in its life. Timers that are due wait in one more list.
//!
//! A slot is a list of its timers' numbers, in chunks. Going through a slot is then no walk from timer to timer: which ones
//! come next is known before the first is looked at, so that with a million of them one wait for memory is that of many.
//! A timer knows its place in its slot; when it is cancelled, the last one there takes that.
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
const TIME_MAX: u64 = (1 << (SLOT_BITS * LEVELS as u32)) - 1;
/// Timers of a chunk: of each list only the last chunk is not full, and of the due ones the first.
const CHUNK_LEN: u32 = 32;
/// No chunk, no number.
const NIL: u32 = u32::MAX;

/// One timer of a wheel. Free to be given out again once it fired or was cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TimerId(NonZeroU32);

impl TimerId {
    fn of(number: u32) -> Self {
        Self(NonZeroU32::MIN.saturating_add(number))
    }

    fn number(self) -> u32 {
        self.0.get() - 1
    }
}

/// The timers of one owner.
#[derive(Debug)]
pub struct Wheel {
    /// Everything due at or before this time is in the due list or was popped.
    elapsed: u64,
    /// By number.
    timers: Paged<Timer>,
    /// The first free number; `place` leads to the others.
    free: u32,
    chunks: Paged<Chunk>,
    /// The first free chunk; `next` leads to the others.
    free_chunk: u32,
    lists: Box<[List; DUE + 1]>,
    /// Which slots of a level are not empty.
    occupied: [u64; LEVELS],
    len: usize,
}

/// There is one for each of a million sessions: no byte for alignment.
#[derive(Debug, Clone, Copy)]
#[repr(Rust, packed(2))]
struct Timer {
    /// When it fires, which says in which list it lies.
    at_low: u32,
    at_high: u16,
    key: u32,
    /// Where in its list, as chunk × [`CHUNK_LEN`] + place in the chunk.
    place: u32,
}

impl Timer {
    fn new(at: Time, key: u32) -> Self {
        let at = at.0.min(TIME_MAX);
        Self { at_low: at as u32, at_high: (at >> 32) as u16, key, place: NIL }
    }

    fn at(&self) -> u64 {
        u64::from(self.at_high) << 32 | u64::from(self.at_low)
    }
}

/// Numbers of timers.
#[derive(Debug)]
struct Chunk {
    ids: [u32; CHUNK_LEN as usize],
    prev: u32,
    next: u32,
}

/// What a timer takes, in bytes: itself, and its part of a chunk, rounded up.
pub const TIMER_BYTES: usize = size_of::<Timer>() + size_of::<Chunk>().div_ceil(CHUNK_LEN as usize);
const _: () = assert!(TIME_MAX < 1 << 48);
const _: () = assert!(TIMER_BYTES == 19 && size_of::<Option<TimerId>>() == 4);

/// Timers in chunks that are all full, but for what is before the first and after the last timer.
#[derive(Debug, Clone, Copy)]
struct List {
    /// Chunk of the first timer, or [`NIL`].
    head: u32,
    /// Chunk of the last timer.
    tail: u32,
    /// Place of the first timer in `head`.
    start: u32,
    /// The place after the last timer in `tail`; above 0.
    end: u32,
}

impl List {
    const EMPTY: Self = Self { head: NIL, tail: NIL, start: 0, end: 0 };

    fn is_empty(&self) -> bool {
        self.head == NIL
    }
}

impl Wheel {
    /// An empty wheel that stands at `now`.
    #[must_use]
    pub fn new(now: Time) -> Self {
        Self {
            elapsed: now.0.min(TIME_MAX),
            timers: Paged::default(),
            free: NIL,
            chunks: Paged::default(),
            free_chunk: NIL,
            lists: Box::new([List::EMPTY; DUE + 1]),
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
        self.timers.bytes() + self.chunks.bytes()
    }

    /// A timer that fires `key` at `at`, or with the next pop when that has passed.
    pub fn insert(&mut self, at: Time, key: u32) -> TimerId {
        let timer = Timer::new(at, key);
        let id = if self.free == NIL {
            self.timers.push(timer)
        } else {
            let id = self.free;
            let free = std::mem::replace(&mut self.timers[id], timer);
            self.free = free.place;
            id
        };
        self.put(id, timer.at());
        self.len += 1;
        TimerId::of(id)
    }

    /// Takes a waiting timer out.
    pub fn cancel(&mut self, timer: TimerId) {
        self.take(timer.number());
        self.release(timer.number());
    }

    /// Makes a waiting timer fire at another time.
    pub fn move_to(&mut self, timer: TimerId, at: Time) {
        let id = timer.number();
        self.take(id);
        let moved = Timer::new(at, self.timers[id].key);
        self.timers[id] = moved;
        self.put(id, moved.at());
    }

    /// The next timer that is due at `now`, now free, and its key; `None` when no more are due. Timers come in the
    /// order of their times.
    pub fn pop_expired(&mut self, now: Time) -> Option<(TimerId, u32)> {
        loop {
            if let Some(id) = self.pop_first_due() {
                let key = self.release(id);
                return Some((TimerId::of(id), key));
            }
            match self.next_slot() {
                Some((level, slot, start)) if start <= now.0 => {
                    self.elapsed = start;
                    self.enter(level, slot);
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
        if !self.lists[DUE].is_empty() {
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

    /// Moves the timers of a slot, at whose start the wheel stands now, to where they belong. Nothing else is due.
    fn enter(&mut self, level: usize, slot: usize) {
        let entered = std::mem::replace(&mut self.lists[level * SLOTS + slot], List::EMPTY);
        self.occupied[level] &= !(1 << slot);
        if level == 0 {
            // A slot of one tick: all of it is due.
            self.lists[DUE] = entered;
            return;
        }
        let mut chunk = entered.head;
        loop {
            let is_last = chunk == entered.tail;
            let len = if is_last { entered.end } else { CHUNK_LEN };
            let mut moved = [(0, 0); CHUNK_LEN as usize];
            let moved = &mut moved[..len as usize];
            // All are read before anything depends on what one of them says.
            for (moved, &id) in moved.iter_mut().zip(&self.chunks[chunk].ids) {
                *moved = (id, self.timers[id].at());
            }
            moved.iter().for_each(|&(id, at)| self.put(id, at));
            chunk = self.release_chunk(chunk);
            if is_last {
                return;
            }
        }
    }

    /// In which list a timer lies that fires at `at`, as long as the wheel stands where it stands. While it is not moved
    /// on past a slot without entering it, that does not change.
    fn list_for(&self, at: u64) -> usize {
        if at <= self.elapsed {
            return DUE;
        }
        let highest_bit = u64::BITS - 1 - (at ^ self.elapsed).leading_zeros();
        let level = highest_bit / SLOT_BITS;
        let slot = (at >> (level * SLOT_BITS)) as usize % SLOTS;
        level as usize * SLOTS + slot
    }

    /// Puts a timer that fires at `at` at the end of its list.
    fn put(&mut self, id: u32, at: u64) {
        let number = self.list_for(at);
        let mut list = self.lists[number];
        if list.is_empty() || list.end == CHUNK_LEN {
            let chunk = self.new_chunk(list.tail);
            if list.is_empty() {
                list = List { head: chunk, tail: chunk, start: 0, end: 0 };
                if number != DUE {
                    self.occupied[number / SLOTS] |= 1 << (number % SLOTS);
                }
            } else {
                self.chunks[list.tail].next = chunk;
                (list.tail, list.end) = (chunk, 0);
            }
        }
        self.chunks[list.tail].ids[list.end as usize] = id;
        self.timers[id].place = list.tail * CHUNK_LEN + list.end;
        list.end += 1;
        self.lists[number] = list;
    }

    /// Takes a timer out of its list; the last one of that takes its place.
    fn take(&mut self, id: u32) {
        let Timer { place, .. } = self.timers[id];
        let number = self.list_for(self.timers[id].at());
        let list = &mut self.lists[number];
        list.end -= 1;
        let last = self.chunks[list.tail].ids[list.end as usize];
        // Before the chunk is free: it may be the timer's own.
        self.chunks[place / CHUNK_LEN].ids[(place % CHUNK_LEN) as usize] = last;
        self.timers[last].place = place;
        if (list.head, list.start) == (list.tail, list.end) {
            let chunk = std::mem::replace(list, List::EMPTY).head;
            self.release_chunk(chunk);
            if number != DUE {
                self.occupied[number / SLOTS] &= !(1 << (number % SLOTS));
            }
        } else if list.end == 0 {
            let chunk = list.tail;
            (list.tail, list.end) = (self.chunks[chunk].prev, CHUNK_LEN);
            self.release_chunk(chunk);
        }
    }

    fn pop_first_due(&mut self) -> Option<u32> {
        let list = &mut self.lists[DUE];
        if list.is_empty() {
            return None;
        }
        let chunk = list.head;
        let id = self.chunks[chunk].ids[list.start as usize];
        list.start += 1;
        if chunk == list.tail && list.start == list.end {
            *list = List::EMPTY;
            self.release_chunk(chunk);
        } else if list.start == CHUNK_LEN {
            (list.head, list.start) = (self.chunks[chunk].next, 0);
            self.release_chunk(chunk);
        }
        Some(id)
    }

    /// Makes the number of a timer that is in no list free; returns its key.
    fn release(&mut self, id: u32) -> u32 {
        let timer = &mut self.timers[id];
        timer.place = self.free;
        let key = timer.key;
        self.free = id;
        self.len -= 1;
        key
    }

    /// An empty chunk after `prev`.
    fn new_chunk(&mut self, prev: u32) -> u32 {
        let chunk = self.free_chunk;
        match self.chunks.get_mut(chunk) {
            Some(free) => {
                self.free_chunk = free.next;
                (free.prev, free.next) = (prev, NIL);
                chunk
            }
            None => self.chunks.push(Chunk { ids: [NIL; CHUNK_LEN as usize], prev, next: NIL }),
        }
    }

    /// Returns the chunk that came after it in its list, if it was not the last.
    fn release_chunk(&mut self, chunk: u32) -> u32 {
        let next = std::mem::replace(&mut self.chunks[chunk].next, self.free_chunk);
        self.free_chunk = chunk;
        next
    }
}

#[cfg(test)]
mod tests;
