//! Buffers that exist only while a connection has something half received or not yet sent.

use crate::clock::Time;
use crate::limits;
use crate::mail::Deliver;
use crate::wire::{DeliverWriter, Parts};

/// What a connection has under way.
#[derive(Default)]
pub(super) struct Busy {
    /// Output; what lies before `taken` was taken by the socket.
    pub(super) out: Vec<u8>,
    pub(super) taken: usize,
    /// The beginning of a frame.
    pub(super) partial: Vec<u8>,
    /// The beginning of a message that is published in parts, and when it last grew.
    pub(super) incoming: Parts,
    pub(super) grew_at: Time,
    /// The message that is delivered in parts.
    pub(super) outgoing: Option<Box<Outgoing>>,
    /// The DELIVER at the end of `out` that is not finished.
    pub(super) deliver: Option<OpenDeliver>,
    /// Since when no byte was taken; set once output outlived a turn.
    pub(super) stalled_since: Option<Time>,
}

/// A message on its way to a consumer in parts.
pub(super) struct Outgoing {
    pub(super) deliver: Deliver,
    pub(super) body: Box<[u8]>,
    /// Bytes of it that went in parts.
    pub(super) sent: usize,
    /// When its lease began, or was last renewed.
    pub(super) leased_at: Time,
    /// It is in the loop's list of those that go on next turn.
    pub(super) is_listed: bool,
}

/// A DELIVER that further deliveries of this turn may join.
pub(super) struct OpenDeliver {
    pub(super) writer: DeliverWriter,
    /// Where it starts in the output.
    pub(super) start: usize,
    /// Bytes of its bodies that are worth compressing.
    pub(super) compressible: usize,
}

impl Busy {
    pub(super) fn unsent(&self) -> &[u8] {
        &self.out[self.taken..]
    }

    pub(super) fn unsent_len(&self) -> usize {
        self.out.len() - self.taken
    }

    /// Bytes of the message in parts that are not among the output yet.
    pub(super) fn outgoing_len(&self) -> usize {
        self.outgoing.as_ref().map_or(0, |outgoing| outgoing.body.len() - outgoing.sent)
    }

    fn is_needless(&self) -> bool {
        self.unsent_len() == 0
            && self.partial.is_empty()
            && self.incoming.is_empty()
            && self.outgoing.is_none()
            && self.deliver.is_none()
    }

    fn capacity(&self) -> usize {
        self.out.capacity() + self.partial.capacity() + self.incoming.capacity()
    }
}

/// All of a loop.
#[derive(Default)]
pub(super) struct Buffers {
    entries: Vec<Busy>,
    free: Vec<u32>,
    /// Memory in entries that are free.
    pub(super) pooled_bytes: usize,
    /// Most entries that were in use at once since the last [`Buffers::trim`].
    in_use_max: usize,
    /// Output waiting, all connections, messages in parts included.
    pub(super) output_bytes: usize,
    /// Partial frames and messages, all connections.
    pub(super) partial_bytes: usize,
}

impl Buffers {
    /// Takes an entry; gives back its index.
    pub(super) fn take(&mut self) -> u32 {
        let index = match self.free.pop() {
            Some(index) => {
                self.pooled_bytes -= self.entries[index as usize].capacity();
                index
            }
            None => {
                self.entries.push(Busy::default());
                u32::try_from(self.entries.len() - 1).unwrap_or(u32::MAX)
            }
        };
        self.in_use_max = self.in_use_max.max(self.in_use());
        index
    }

    /// Gives the entry back if nothing is under way in it. True when it did.
    pub(super) fn give_back(&mut self, index: u32) -> bool {
        let entry = &mut self.entries[index as usize];
        if !entry.is_needless() {
            return false;
        }
        entry.out.clear();
        entry.taken = 0;
        entry.stalled_since = None;
        if self.pooled_bytes + entry.capacity() > limits::POOLED_BYTES_MAX {
            *entry = Busy::default();
        }
        self.pooled_bytes += entry.capacity();
        self.free.push(index);
        true
    }

    /// Whether more is kept than a quiet loop needs: [`Buffers::trim`] gives it back.
    pub(super) fn has_surplus(&self) -> bool {
        self.free.len() > limits::POOLED_KEPT || self.pooled_bytes > limits::POOLED_KEPT_BYTES
    }

    /// Gives back what a storm took: free entries beyond what was in use at once since the last call, and when that was
    /// little the memory in those that stay, too, down to [`limits::POOLED_KEPT_BYTES`].
    pub(super) fn trim(&mut self) {
        let in_use = self.in_use();
        let wanted = std::mem::replace(&mut self.in_use_max, in_use).max(limits::POOLED_KEPT);
        // The highest lie at the front and idle, the lowest are taken again: so the tail comes free.
        self.free.sort_unstable_by(|a, b| b.cmp(a));
        let needless = self.free.len().saturating_sub(wanted.saturating_sub(in_use));
        let is_quiet = wanted == limits::POOLED_KEPT;
        let bytes_max = if is_quiet { limits::POOLED_KEPT_BYTES } else { limits::POOLED_BYTES_MAX };
        for (nth, &index) in self.free.iter().enumerate() {
            if nth >= needless && self.pooled_bytes <= bytes_max {
                break;
            }
            let entry = &mut self.entries[index as usize];
            self.pooled_bytes -= entry.capacity();
            *entry = Busy::default();
        }
        let end = self.entries.len();
        let ends = (0..end).rev();
        let cut =
            self.free[..needless].iter().zip(ends).take_while(|(index, at)| **index as usize == *at).count();
        self.free.drain(..cut);
        self.free.shrink_to_fit();
        self.entries.truncate(end - cut);
        self.entries.shrink_to_fit();
    }

    #[inline]
    pub(super) fn at(&self, index: u32) -> Option<&Busy> {
        self.entries.get(index as usize)
    }

    #[inline]
    pub(super) fn at_mut(&mut self, index: u32) -> Option<&mut Busy> {
        self.entries.get_mut(index as usize)
    }

    /// Forgets what waits to be sent. Only whole output whose first byte was not sent may be forgotten.
    pub(super) fn drop_output(&mut self, index: u32) {
        if let Some(busy) = self.entries.get_mut(index as usize) {
            self.output_bytes -= busy.unsent_len() + busy.outgoing_len();
            busy.outgoing = None;
            busy.out.clear();
            busy.taken = 0;
            busy.stalled_since = None;
            busy.deliver = None;
        }
    }

    /// Forgets the beginning of a frame, and messages in parts that are not finished.
    pub(super) fn drop_partial(&mut self, index: u32) {
        if let Some(busy) = self.entries.get_mut(index as usize) {
            self.partial_bytes -= busy.partial.len();
            busy.partial.clear();
            self.output_bytes -= busy.outgoing_len();
            busy.outgoing = None;
        }
        self.drop_incoming(index);
    }

    /// Forgets the beginning of a message; returns how many bytes it had.
    pub(super) fn drop_incoming(&mut self, index: u32) -> usize {
        let Some(busy) = self.entries.get_mut(index as usize) else { return 0 };
        let bytes = std::mem::take(&mut busy.incoming).len();
        self.partial_bytes -= bytes;
        bytes
    }

    /// The sums are what the entries say.
    pub(super) fn check_invariants(&self) {
        let output: usize = self.entries.iter().map(|busy| busy.unsent_len() + busy.outgoing_len()).sum();
        let partial: usize = self.entries.iter().map(|busy| busy.partial.len() + busy.incoming.len()).sum();
        assert_eq!(output, self.output_bytes, "output is counted wrongly");
        assert_eq!(partial, self.partial_bytes, "partial frames are counted wrongly");
        let pooled: usize = self.free.iter().map(|&index| self.entries[index as usize].capacity()).sum();
        assert_eq!(pooled, self.pooled_bytes, "pooled memory is counted wrongly");
        assert!(pooled <= limits::POOLED_BYTES_MAX, "{pooled} bytes are pooled");
    }

    /// Entries there are, in use or free.
    #[cfg(test)]
    pub(super) fn entries(&self) -> usize {
        self.entries.len()
    }

    /// Entries in use.
    pub(super) fn in_use(&self) -> usize {
        self.entries.len() - self.free.len()
    }
}
