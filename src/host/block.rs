//! Large pieces of memory, straight from the system.

use std::io;
use std::ops::{Deref, DerefMut};

use memmap2::MmapMut;

/// No page is smaller.
const PAGE_BYTES: usize = 4096;

/// Zeroed memory of its own mapping, in large pages where the system has them: touching it for the first time costs
/// a fraction of what small pages cost. It goes back to the system when it is dropped.
#[derive(Debug)]
pub struct Block(MmapMut);

impl Block {
    /// Memory of `bytes` bytes. None of it is resident until it is touched.
    ///
    /// # Errors
    /// When `bytes` is 0, or the system has no address space or memory to give.
    pub fn new(bytes: usize) -> io::Result<Self> {
        let memory = MmapMut::map_anon(bytes)?;
        #[cfg(target_os = "linux")]
        // A kernel without large pages refuses the advice and gives small ones.
        let _ = memory.advise(memmap2::Advice::HugePage);
        Ok(Self(memory))
    }
}

impl Block {
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
