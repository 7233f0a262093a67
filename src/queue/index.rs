//! Which slot has the message of an id.
//!
//! Ids are given in order and most are asked for in order. So eight neighbours share a line, which is found by hash: the
//! line of the newest id is at hand when the next one comes, and whoever looks for the neighbour of an id finds it in the
//! cache. The hash is kept in many small tables, each of which moves its own entries alone when it grows.

use hashbrown::HashTable;

use crate::paged::PagedSlab;
use crate::queue::messages::NIL;

/// Ids of a line: few enough that one message left of them is not dear, in memory.
const LINE: usize = 8;
/// With ten million messages one that grows moves some twenty thousand entries, not a million while everybody waits.
const PARTS: usize = 64;

/// The slots of the ids from `number * LINE` on; [`NIL`] where there is no message.
#[derive(Debug)]
struct Line {
    number: u64,
    slots: [u32; LINE],
}

/// Slots by id.
#[derive(Debug)]
pub(super) struct Index {
    lines: PagedSlab<Line>,
    /// [`PARTS`] tables of places in `lines`, by the numbers of lines.
    parts: Box<[HashTable<u32>]>,
    /// Number and place of the line that was put into last, as long as it is there.
    newest: Option<(u64, u32)>,
}

impl Index {
    pub(super) fn new() -> Self {
        let parts = std::iter::repeat_with(HashTable::new).take(PARTS).collect();
        Self { lines: PagedSlab::default(), parts, newest: None }
    }

    pub(super) fn get(&self, id: u64) -> Option<u32> {
        let (number, at) = split(id);
        let slot = self.lines[self.place(number)?].slots[at];
        (slot != NIL).then_some(slot)
    }

    /// `id` is not there yet.
    pub(super) fn insert(&mut self, id: u64, slot: u32) {
        let (number, at) = split(id);
        let place = self.place(number).unwrap_or_else(|| self.add(number));
        self.newest = Some((number, place));
        let former = std::mem::replace(&mut self.lines[place].slots[at], slot);
        debug_assert_eq!(former, NIL, "an id is given once");
    }

    pub(super) fn remove(&mut self, id: u64) {
        let (number, at) = split(id);
        let Some(place) = self.place(number) else { return };
        let line = &mut self.lines[place];
        line.slots[at] = NIL;
        if line.slots != [NIL; LINE] {
            return;
        }
        let hash = hash(number);
        if let Ok(entry) = self.parts[part(hash)].find_entry(hash, |&found| found == place) {
            entry.remove();
        }
        self.lines.remove(place);
        self.newest.take_if(|newest| newest.1 == place);
    }

    fn place(&self, number: u64) -> Option<u32> {
        match self.newest {
            Some((newest, place)) if newest == number => Some(place),
            _ => {
                let hash = hash(number);
                self.parts[part(hash)].find(hash, |&place| self.lines[place].number == number).copied()
            }
        }
    }

    fn add(&mut self, number: u64) -> u32 {
        let Self { lines, parts, .. } = self;
        let place = lines.insert(Line { number, slots: [NIL; LINE] });
        let own = hash(number);
        parts[part(own)].insert_unique(own, place, |&place| hash(lines[place].number));
        place
    }
}

/// The number of the line of an id, and its place there.
fn split(id: u64) -> (u64, usize) {
    (id / LINE as u64, id as usize % LINE)
}

/// 16 consecutive lines share a group of a table and so a cache line.
fn hash(line: u64) -> u64 {
    let group = (line >> 4).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    let tag = line.wrapping_mul(0xd6e8_feb8_6659_fd93) >> 57;
    (group << 4 | line & 15) & !(0x7f << 57) | tag << 57
}

/// In which part a hash has its place: by bits that no part needs to find it there.
fn part(hash: u64) -> usize {
    (hash >> 24) as usize % PARTS
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_finds_what_a_map_finds(steps in prop::collection::vec((any::<bool>(), 0_u64..200), 1..400)) {
            let (mut index, mut map) = (Index::new(), HashMap::new());
            for (slot, (is_insert, id)) in (0..).zip(steps) {
                // Of two regions far apart, so that lines of both come and go.
                let id = if id < 100 { id } else { id + (1 << 40) };
                if is_insert && !map.contains_key(&id) {
                    index.insert(id, slot);
                    map.insert(id, slot);
                } else {
                    index.remove(id);
                    map.remove(&id);
                }
                for near in id.saturating_sub(9)..id + 9 {
                    prop_assert_eq!(index.get(near), map.get(&near).copied());
                }
            }
            let lines: std::collections::HashSet<u64> = map.keys().map(|id| id / LINE as u64).collect();
            prop_assert_eq!(index.lines.len(), lines.len(), "lines without a message are gone");
            prop_assert_eq!(index.parts.iter().map(HashTable::len).sum::<usize>(), lines.len());
        }
    }

    #[test]
    fn survivors_far_apart_do_not_crowd_each_other() {
        // One of each power of two, as an unlucky pattern of acks may leave them.
        for step in [1, 8, 16, 1 << 7, 1 << 12, 1 << 20] {
            let mut index = Index::new();
            (0..20_000).for_each(|at| index.insert(u64::from(at) * step, at));
            assert!((0..20_000).all(|at| index.get(u64::from(at) * step) == Some(at)));
            let fullest = index.parts.iter().map(HashTable::len).max().unwrap();
            assert!(
                fullest < 4 * index.lines.len() / PARTS + 64,
                "{fullest} of {} lines in one part",
                index.lines.len()
            );
        }
    }
}
