//! Memory that may be written and read around the page cache.

use std::fmt;

use crate::limits::LOG_BLOCK_BYTES;

/// Bytes whose first one lies on a block boundary in memory.
///
/// Made of an ordinary vector with a block to spare, of which the aligned part is used.
#[derive(Default)]
pub struct AlignedBuffer {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuffer {
    /// An empty buffer with room for `capacity` bytes.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        let memory = vec![0; capacity.next_multiple_of(LOG_BLOCK_BYTES) + LOG_BLOCK_BYTES];
        let start = memory.as_ptr().align_offset(LOG_BLOCK_BYTES);
        Self { memory, start, len: 0 }
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }

    /// The bytes, to be changed.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }

    /// How many bytes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many bytes there may be without another allocation.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.memory.len().saturating_sub(self.start)
    }

    /// Forgets the bytes, keeps the memory.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Adds `bytes` at the end.
    pub fn extend(&mut self, bytes: &[u8]) {
        let end = self.len + bytes.len();
        if end > self.capacity() {
            self.grow(end);
        }
        self.memory[self.start + self.len..self.start + end].copy_from_slice(bytes);
        self.len = end;
    }

    /// Makes it `len` bytes long; what is new is zero.
    pub fn resize(&mut self, len: usize) {
        if len > self.capacity() {
            self.grow(len);
        }
        if len > self.len {
            self.memory[self.start + self.len..self.start + len].fill(0);
        }
        self.len = len;
    }

    /// Adds zeroes up to the next block boundary.
    pub fn pad_to_block(&mut self) {
        self.resize(self.len.next_multiple_of(LOG_BLOCK_BYTES));
    }

    fn grow(&mut self, len: usize) {
        let mut larger = Self::with_capacity(len.max(2 * self.capacity()));
        larger.len = self.len;
        larger.as_mut_slice().copy_from_slice(self.as_slice());
        *self = larger;
    }
}

impl fmt::Debug for AlignedBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBuffer({} bytes)", self.len)
    }
}
