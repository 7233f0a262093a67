//! Large pieces of memory, straight from the system.

use std::io;
use std::ops::{Deref, DerefMut};

use memmap2::MmapMut;

/// No page is smaller.
const PAGE_BYTES: usize = 4096;

/// Zeroed memory of its own mapping. None of it is resident until it is touched; it goes back to the system when it is
/// dropped.
#[derive(Debug)]
pub struct Block(MmapMut);

impl Block {
    /// Memory of `bytes` bytes, for a server at work: in small pages, each touched for the first time in microseconds.
    ///
    /// # Errors
    /// When the system has no address space or memory to give.
    pub fn new(bytes: usize) -> io::Result<Self> {
        Ok(Self(MmapMut::map_anon(bytes)?))
    }

    /// As [`Block::new`], in large pages where the system has them, which are touched for the first time in a quarter of
    /// the time. But each in one piece: where the system has to move memory about for it, or a hypervisor to find some, that
    /// was 5 ms in which the core did nothing else, not even hear that a disk had finished.
    ///
    /// # Errors
    /// As [`Block::new`].
    pub fn large(bytes: usize) -> io::Result<Self> {
        let block = Self::new(bytes)?;
        #[cfg(target_os = "linux")]
        // A kernel without large pages refuses the advice and gives small ones.
        let _ = block.0.advise(memmap2::Advice::HugePage);
        Ok(block)
    }

    /// Makes all of it resident, so that whoever uses it next does not wait for that.
    pub fn touch(&mut self) {
        for page in self.0.chunks_mut(PAGE_BYTES) {
            page[0] = 0;
        }
    }
}

impl Deref for Block {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Block {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}
