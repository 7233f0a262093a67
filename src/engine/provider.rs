//! Memory made ready ahead of its use.
//!
//! To touch memory for the first time takes longer than all else in a publish. The provider does it on a thread of its own,
//! in large pages, which cost least, as long as the system has them at hand. Where it first has to move memory about, or
//! a hypervisor to find some, a large page takes milliseconds in one piece, and the core it is touched on serves nothing
//! and nobody meanwhile: then small pages are taken for a while.

use std::io;

use crate::clock::Clock;
use crate::host::Block;

/// A large page that takes longer than this, in microseconds, was not at hand; one that is takes 100 to 300.
const AT_HAND_US_MAX: u64 = 1000;
/// After a block that was not at hand, so many have small pages before a large one is tried again.
const SMALL_BLOCKS: u32 = 64;

#[derive(Debug)]
pub(super) struct Provider {
    clock: Clock,
    /// Blocks still to be made of small pages.
    small: u32,
}

impl Provider {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, small: 0 }
    }

    /// A block of `bytes` bytes, a few large pages at the most, all of it resident.
    pub(super) fn provide(&mut self, bytes: usize) -> io::Result<Block> {
        let is_large = self.small == 0;
        let started_us = self.clock.micros();
        let mut block = if is_large { Block::large(bytes) } else { Block::new(bytes) }?;
        block.touch();
        self.took(self.clock.micros() - started_us);
        Ok(block)
    }

    /// Learns from how long the block took.
    fn took(&mut self, us: u64) {
        self.small = match self.small {
            0 if us > AT_HAND_US_MAX => SMALL_BLOCKS,
            small => small.saturating_sub(1),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_pages_that_are_not_at_hand_are_left_alone_for_a_while() {
        let mut provider = Provider::new(Clock::starting_at(crate::clock::Time(0)));
        provider.took(AT_HAND_US_MAX);
        assert_eq!(provider.small, 0, "at hand");
        provider.took(AT_HAND_US_MAX + 1);
        for left in (0..SMALL_BLOCKS).rev() {
            // However long small ones take: it is in small pieces.
            provider.took(2 * AT_HAND_US_MAX);
            assert_eq!(provider.small, left);
        }
        provider.took(2 * AT_HAND_US_MAX);
        assert_eq!(provider.small, SMALL_BLOCKS, "the large one tried after them took long again");
    }

    #[test]
    fn what_is_provided_is_as_large_as_was_asked_for_and_zero() {
        let mut provider = Provider::new(Clock::starting_at(crate::clock::Time(0)));
        for small in [0, 1] {
            provider.small = small;
            let block = provider.provide(2 << 20).unwrap();
            assert_eq!(block.len(), 2 << 20);
            assert!(block.iter().all(|byte| *byte == 0));
        }
    }
}
