//! Lists that grow a page at a time: an entry never moves, and no growth copies what is there or asks for twice as much.
//!
//! What there may be a million of lies in these. All pages take the same memory, which the allocator has no larger block
//! for, and an entry is found by dividing by a constant and two loads. Memory of a page that no entry was put in yet is
//! not touched. [`Paged`] only grows; [`PagedSlab`] uses the places of what was taken out again.

use std::ops::{Index, IndexMut};

/// What a page takes, in bytes: as many entries as fit. A power of two, so that the allocator rounds nothing up.
const PAGE_BYTES: usize = 64 * 1024;

/// A list of entries by number, from 0.
#[derive(Debug)]
pub struct Paged<T> {
    /// All full but the last.
    pages: Vec<Vec<T>>,
}

impl<T> Default for Paged<T> {
    fn default() -> Self {
        Self { pages: Vec::new() }
    }
}

impl<T> Paged<T> {
    /// Entries of a page. Allocators ask for as much more as a large alignment may cost them.
    const PAGE_LEN: usize = {
        assert!(size_of::<T>() > 0 && size_of::<T>() + align_of::<T>() <= PAGE_BYTES);
        (PAGE_BYTES + 1 - align_of::<T>()) / size_of::<T>()
    };

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> u32 {
        match self.pages.last() {
            // Numbers are 32 bits wide.
            Some(last) => ((self.pages.len() - 1) * Self::PAGE_LEN + last.len()) as u32,
            None => 0,
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// Puts an entry at the end; returns its number.
    ///
    /// # Panics
    /// Beyond 2^32 entries.
    pub fn push(&mut self, entry: T) -> u32 {
        let number = self.len();
        match self.pages.last_mut() {
            Some(last) if last.len() < Self::PAGE_LEN => last.push(entry),
            _ => {
                assert!(number as usize + Self::PAGE_LEN < u32::MAX as usize, "fewer than 2^32 entries");
                let mut page = Vec::with_capacity(Self::PAGE_LEN);
                page.push(entry);
                self.pages.push(page);
            }
        }
        number
    }

    /// Makes the list at least `len` long.
    pub fn grow_to(&mut self, len: u32, mut entry: impl FnMut() -> T) {
        while self.len() < len {
            self.push(entry());
        }
    }

    /// The entry of this number.
    #[inline]
    #[must_use]
    pub fn get(&self, number: u32) -> Option<&T> {
        self.pages.get(number as usize / Self::PAGE_LEN)?.get(number as usize % Self::PAGE_LEN)
    }

    /// The entry of this number, to change.
    #[inline]
    pub fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        self.pages.get_mut(number as usize / Self::PAGE_LEN)?.get_mut(number as usize % Self::PAGE_LEN)
    }

    /// All entries in order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.pages.iter().flatten()
    }

    /// Memory of all pages, in bytes. What no entry was put in yet is counted and not resident.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.pages.capacity() * size_of::<Vec<T>>() + self.pages.len() * PAGE_BYTES
    }
}

impl<T> Index<u32> for Paged<T> {
    type Output = T;

    #[inline]
    fn index(&self, number: u32) -> &T {
        &self.pages[number as usize / Self::PAGE_LEN][number as usize % Self::PAGE_LEN]
    }
}

impl<T> IndexMut<u32> for Paged<T> {
    #[inline]
    fn index_mut(&mut self, number: u32) -> &mut T {
        &mut self.pages[number as usize / Self::PAGE_LEN][number as usize % Self::PAGE_LEN]
    }
}

#[derive(Debug)]
enum Place<T> {
    Taken(T),
    /// With the next free place, or [`NONE`].
    Free(u32),
}

/// No place.
const NONE: u32 = u32::MAX;

/// Entries that come and go, each found by the number it was given. A number is given again after its entry was removed.
#[derive(Debug)]
pub struct PagedSlab<T> {
    places: Paged<Place<T>>,
    /// The first free place.
    free: u32,
    len: usize,
}

impl<T> Default for PagedSlab<T> {
    fn default() -> Self {
        Self { places: Paged::default(), free: NONE, len: 0 }
    }
}

impl<T> PagedSlab<T> {
    /// Size of an entry with all that is kept beside it, in bytes.
    pub const ENTRY_BYTES: usize = size_of::<Place<T>>();

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Takes an entry in; returns its number.
    pub fn insert(&mut self, entry: T) -> u32 {
        self.len += 1;
        let number = self.free;
        match self.places.get_mut(number) {
            Some(place) => {
                if let Place::Free(next) = std::mem::replace(place, Place::Taken(entry)) {
                    self.free = next;
                }
                number
            }
            None => self.places.push(Place::Taken(entry)),
        }
    }

    /// Takes the entry of this number out.
    pub fn remove(&mut self, number: u32) -> Option<T> {
        let place = self.places.get_mut(number)?;
        match std::mem::replace(place, Place::Free(self.free)) {
            Place::Taken(entry) => {
                self.free = number;
                self.len -= 1;
                Some(entry)
            }
            free => {
                *place = free;
                None
            }
        }
    }

    /// The entry of this number.
    #[inline]
    #[must_use]
    pub fn get(&self, number: u32) -> Option<&T> {
        match self.places.get(number) {
            Some(Place::Taken(entry)) => Some(entry),
            _ => None,
        }
    }

    /// The entry of this number, to change.
    #[inline]
    pub fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        match self.places.get_mut(number) {
            Some(Place::Taken(entry)) => Some(entry),
            _ => None,
        }
    }

    /// All entries with their numbers, in order of these.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        (0..).zip(self.places.iter()).filter_map(|(number, place)| match place {
            Place::Taken(entry) => Some((number, entry)),
            Place::Free(_) => None,
        })
    }

    /// Memory of all pages, in bytes, as [`Paged::bytes`].
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.places.bytes()
    }
}

impl<T> Index<u32> for PagedSlab<T> {
    type Output = T;

    #[inline]
    fn index(&self, number: u32) -> &T {
        self.get(number).expect("the number of an entry that is there")
    }
}

impl<T> IndexMut<u32> for PagedSlab<T> {
    #[inline]
    fn index_mut(&mut self, number: u32) -> &mut T {
        self.get_mut(number).expect("the number of an entry that is there")
    }
}

#[cfg(test)]
mod tests;
