//! Bodies of messages in memory, packed one behind the other into blocks.
//!
//! Memory that is touched for the first time is the dearest part of a publish, so bodies share large blocks, which
//! another thread can touch before they are needed, and a block whose bodies are all gone is filled again while it is warm. A
//! body here is only a copy of what the log has: when there is no room it is simply not kept, and a block that is
//! held for few bodies can be given up whole.

use slab::Slab;

use crate::host::Block;
use crate::queue::messages::NIL;

/// What one block holds; a larger body has a block of its own.
const BLOCK_BYTES: usize = 2 << 20;
/// Emptied blocks kept for ever for what comes next; those beyond it are let go little by little.
const SPARE_KEPT: usize = 4;
/// Of the spare blocks, one in so many is let go at a time.
const TRIM_SHARE: usize = 8;
/// Blocks made ready ahead of their use while the bodies need more and more of them.
const AHEAD: usize = 2;
/// In front of a body: its message's slot and its length.
const HEADER_BYTES: usize = 8;

/// Where a body lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    block: u32,
    offset: u32,
}

impl Place {
    /// In the log alone.
    pub(super) const LOG: Self = Self { block: NIL, offset: 0 };

    /// Whether the body is here, and not in the log alone.
    pub(super) fn is_memory(self) -> bool {
        self != Self::LOG
    }
}

#[derive(Debug)]
struct Filled {
    memory: Block,
    /// Bytes written, headers included; the next body goes here.
    filled: usize,
    /// Bytes of those, headers included, whose message still has its body here.
    live: usize,
}

/// The bodies that are in memory.
#[derive(Debug)]
pub(super) struct Bodies {
    blocks: Slab<Filled>,
    /// The block that is being filled, if it is one of `blocks`.
    open: usize,
    spare: Vec<Block>,
    block_bytes: usize,
    /// The server is at work: see [`Bodies::at_work`].
    is_at_work: bool,
    bytes_max: u64,
    held: u64,
    live: u64,
}

impl Bodies {
    /// Keeps blocks of at most `bytes_max` bytes together.
    pub(super) fn new(bytes_max: u64) -> Self {
        let block_bytes = usize::try_from(bytes_max).unwrap_or(usize::MAX).min(BLOCK_BYTES);
        Self {
            blocks: Slab::new(),
            open: usize::MAX,
            spare: Vec::new(),
            block_bytes,
            is_at_work: false,
            bytes_max,
            held: 0,
            live: 0,
        }
    }

    /// The log has been read: from now on somebody waits, and no new block may hold them up for long.
    pub(super) fn at_work(&mut self) {
        self.is_at_work = true;
    }

    /// Bytes of all blocks.
    pub(super) fn held_bytes(&self) -> u64 {
        self.held
    }

    /// Bytes of a body of `len` bytes while it is here.
    pub(super) fn cost(len: u32) -> u64 {
        HEADER_BYTES as u64 + u64::from(len)
    }

    /// Bytes of the blocks that hold bodies still wanted.
    pub(super) fn live_bytes(&self) -> u64 {
        self.live
    }

    /// Copies the body of the message in slot `owner`, or returns `None` when there is no room for it.
    pub(super) fn keep(&mut self, owner: u32, body: &[u8]) -> Option<Place> {
        let need = HEADER_BYTES + body.len();
        let at = match self.blocks.get(self.open) {
            Some(open) if open.memory.len() - open.filled >= need => self.open,
            _ if need > self.block_bytes => self.add(need)?,
            _ => {
                self.open = self.add(self.block_bytes)?;
                self.open
            }
        };
        let block = &mut self.blocks[at];
        let place = Place { block: at as u32, offset: block.filled as u32 };
        let (head, rest) = block.memory[block.filled..].split_at_mut(HEADER_BYTES);
        head[..4].copy_from_slice(&owner.to_le_bytes());
        head[4..].copy_from_slice(&(body.len() as u32).to_le_bytes());
        rest[..body.len()].copy_from_slice(body);
        block.filled += need;
        block.live += need;
        self.live += need as u64;
        Some(place)
    }

    /// The body at `place`, which is `len` bytes long.
    pub(super) fn get(&self, place: Place, len: u32) -> &[u8] {
        let start = place.offset as usize + HEADER_BYTES;
        &self.blocks[place.block as usize].memory[start..start + len as usize]
    }

    /// The body at `place`, which is `len` bytes long, is not wanted here any more.
    pub(super) fn release(&mut self, place: Place, len: u32) {
        let at = place.block as usize;
        let block = &mut self.blocks[at];
        block.live -= Self::cost(len) as usize;
        self.live -= Self::cost(len);
        if block.live > 0 {
            return;
        }
        if at == self.open {
            block.filled = 0;
        } else {
            let emptied = self.blocks.remove(at);
            self.put_by(emptied.memory);
        }
    }

    /// Gives up the emptiest block when the blocks together are for the most part empty, and tells `forget` the owner
    /// and the place of every body it held or had held. Returns whether it did.
    pub(super) fn evict(&mut self, mut forget: impl FnMut(u32, Place)) -> bool {
        // Then some block is at most a quarter full: few bodies are lost for the room it makes.
        if self.live > self.held / 4 {
            return false;
        }
        let Some(at) = self.blocks.iter().min_by_key(|(_, block)| block.live).map(|(at, _)| at) else {
            return false;
        };
        let evicted = self.blocks.remove(at);
        if at == self.open {
            self.open = usize::MAX;
        }
        self.live -= evicted.live as u64;
        let mut offset = 0;
        while offset < evicted.filled {
            let number = |at: usize| {
                let bytes = &evicted.memory[offset + at..offset + at + 4];
                u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
            };
            forget(number(0), Place { block: at as u32, offset: offset as u32 });
            offset += Self::cost(number(4)) as usize;
        }
        self.put_by(evicted.memory);
        true
    }

    /// How large a block should be made ready elsewhere, because one will be needed soon.
    pub(super) fn wanted(&self) -> Option<usize> {
        let is_growing = self.blocks.len() > 1 && self.spare.len() < AHEAD;
        let fits = self.held + self.block_bytes as u64 <= self.bytes_max;
        (is_growing && fits).then_some(self.block_bytes)
    }

    /// The block that was wanted. It is let go when it is of no use any more.
    pub(super) fn supply(&mut self, memory: Block) {
        if self.held + memory.len() as u64 <= self.bytes_max {
            self.held += memory.len() as u64;
            self.put_by(memory);
        }
    }

    /// A block with room for `bytes`, or `None` when that would be too much.
    fn add(&mut self, bytes: usize) -> Option<usize> {
        let memory = match self.spare.pop() {
            Some(spare) if spare.len() >= bytes => spare,
            unfit => {
                self.spare.extend(unfit);
                if self.held + bytes as u64 > self.bytes_max {
                    return None;
                }
                // A system without memory to give is a reason to leave the body in the log, not to fail.
                let memory = if self.is_at_work { Block::new(bytes) } else { Block::large(bytes) }.ok()?;
                self.held += bytes as u64;
                memory
            }
        };
        Some(self.blocks.insert(Filled { memory, filled: 0, live: 0 }))
    }

    fn put_by(&mut self, memory: Block) {
        if memory.len() == self.block_bytes {
            self.spare.push(memory);
        } else {
            self.held -= memory.len() as u64;
        }
    }

    /// Whether more spare blocks are held than will be kept: [`Bodies::trim`] lets some of them go.
    pub(super) fn has_surplus(&self) -> bool {
        self.spare.len() > SPARE_KEPT
    }

    /// Gives a share of the spare blocks back to the system. Not all at once: a backlog that comes again would pay for
    /// its first touch of every page again.
    pub(super) fn trim(&mut self) {
        let share = self.spare.len().div_ceil(TRIM_SHARE);
        let kept = self.spare.len().saturating_sub(share).max(SPARE_KEPT);
        for memory in self.spare.drain(kept.min(self.spare.len())..) {
            self.held -= memory.len() as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_packed_and_their_blocks_used_again() {
        let mut bodies = Bodies::new(64 << 20);
        let body = vec![7; 1000];
        let mut round = || {
            let places: Vec<Place> = (0..10_000).map(|owner| bodies.keep(owner, &body).unwrap()).collect();
            let held = bodies.held_bytes();
            for place in places {
                assert_eq!(bodies.get(place, 1000), body);
                bodies.release(place, 1000);
            }
            assert_eq!(bodies.live_bytes(), 0);
            held
        };
        let held = round();
        assert!(held <= 10_000 * 1008 + 2 * BLOCK_BYTES as u64, "{held} bytes for 10 MB of bodies");
        assert_eq!(round(), held, "the second round needs no more memory");
        let mut trims = 0;
        while bodies.has_surplus() {
            bodies.trim();
            trims += 1;
        }
        assert!(trims < 10, "{trims} trims");
        assert!(bodies.held_bytes() <= (SPARE_KEPT + 1) as u64 * BLOCK_BYTES as u64);
    }

    #[test]
    fn no_more_is_held_than_allowed() {
        let mut bodies = Bodies::new(5 << 20);
        let kept = (0..10_000).filter(|&owner| bodies.keep(owner, &[1; 1000]).is_some()).count();
        assert!((3900..5200).contains(&kept), "{kept} kept");
        assert!(bodies.held_bytes() <= 5 << 20);
        assert_eq!(Bodies::new(0).keep(1, b"x"), None);
        assert_eq!(Bodies::new(10).keep(1, b"xyz"), None, "a header and three bytes are 11");
    }

    #[test]
    fn a_body_larger_than_a_block_has_its_own() {
        let mut bodies = Bodies::new(64 << 20);
        let small = bodies.keep(1, b"small").unwrap();
        let large = vec![9; 3 * BLOCK_BYTES];
        let place = bodies.keep(2, &large).unwrap();
        assert_eq!(bodies.get(place, large.len() as u32), large);
        let next = bodies.keep(3, b"next").unwrap();
        assert_eq!(next.block, small.block, "the open block stays open");
        bodies.release(place, large.len() as u32);
        assert_eq!(bodies.held_bytes(), BLOCK_BYTES as u64);
    }

    #[test]
    fn a_nearly_empty_block_makes_room() {
        let mut bodies = Bodies::new(2 * BLOCK_BYTES as u64);
        let mut places = Vec::new();
        while let Some(place) = bodies.keep(places.len() as u32, &[5; 1000]) {
            places.push(place);
        }
        assert!(!bodies.evict(|_, _| panic!("all blocks are full")));
        let survivors = [0, 100, places.len() - 1];
        for (owner, place) in places.iter().enumerate() {
            if !survivors.contains(&owner) {
                bodies.release(*place, 1000);
            }
        }
        let mut told = Vec::new();
        assert!(bodies.evict(|owner, place| {
            assert_eq!(places[owner as usize], place);
            told.push(owner as usize);
        }));
        assert!(told.contains(&survivors[2]), "the emptier of the two blocks is given up");
        assert_eq!(bodies.live_bytes(), 2 * 1008);
        assert!(bodies.keep(0, &[5; 1000]).is_some());
        assert_eq!(bodies.get(places[0], 1000), [5; 1000], "the other block is as it was");
    }
}
