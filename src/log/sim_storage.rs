//! A directory in memory for simulations: it tells what was written from what is durable, and can lose the difference
//! block by block, tear writes, flip bits, fail and run full. Everything comes from a seed or from calls of the test.
//!
//! Not for production: the state is behind a mutex, because one test has several handles on it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::storage::{Entry, Storage, StorageFile};

/// What a disk writes in one piece.
pub const SECTOR_BYTES: usize = 512;

/// How the next writes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The write fails; any subset of its sectors reached the disk.
    FailWrite,
    /// The sync fails; any subset of what was written before reaches the disk.
    FailSync,
    /// The write finds no space after the first part of its sectors, which reached the disk.
    FullWrite,
}

#[derive(Debug, Default, Clone)]
struct Node {
    /// What a read sees.
    written: Vec<u8>,
    /// What is there after a power loss.
    durable: Vec<u8>,
    /// Sectors in which the two may differ.
    dirty: BTreeSet<usize>,
}

#[derive(Debug)]
struct State {
    nodes: BTreeMap<u64, Node>,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    next_node: u64,
    rng: fastrand::Rng,
    capacity: u64,
    fault: Option<(Fault, u32)>,
    durable_writes: u64,
    read_bytes: u64,
}

/// The simulated directory; clones are the same one.
#[derive(Debug, Clone)]
pub struct SimStorage(Arc<Mutex<State>>);

impl SimStorage {
    /// An empty directory without a limit of space.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            nodes: BTreeMap::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            next_node: 1,
            rng: fastrand::Rng::with_seed(seed),
            capacity: u64::MAX,
            fault: None,
            durable_writes: 0,
            read_bytes: 0,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy of the directory as it is now, with faults of its own.
    #[must_use]
    pub fn fork(&self, seed: u64) -> Self {
        let state = self.state();
        Self(Arc::new(Mutex::new(State {
            nodes: state.nodes.clone(),
            names: state.names.clone(),
            durable_names: state.durable_names.clone(),
            next_node: state.next_node,
            rng: fastrand::Rng::with_seed(seed),
            capacity: state.capacity,
            fault: None,
            durable_writes: state.durable_writes,
            read_bytes: state.read_bytes,
        })))
    }

    /// How many bytes all files together may have.
    pub fn set_capacity(&self, bytes: u64) {
        self.state().capacity = bytes;
    }

    /// Makes the operation of that kind fail that comes after `after` others of it; all later ones fail too.
    pub fn fail(&self, fault: Fault, after: u32) {
        self.state().fault = Some((fault, after));
    }

    /// Takes a failure back.
    pub fn heal(&self) {
        self.state().fault = None;
    }

    /// The process dies: what was written stays, what was open is of no use any more.
    pub fn kill(&self) {
        self.state().fault = None;
    }

    /// The power goes: of what was written and not synced each sector stays or goes by chance, as does each name.
    pub fn power_loss(&self) {
        let mut state = self.state();
        let State { nodes, names, durable_names, rng, .. } = &mut *state;
        for node in nodes.values_mut() {
            node.settle(|| rng.bool());
        }
        // Of the changes to names any number may be lost, in reverse order; the simplest cases are all and none.
        if rng.bool() {
            *durable_names = names.clone();
        } else {
            *names = durable_names.clone();
        }
        let kept: BTreeSet<u64> = names.values().copied().collect();
        nodes.retain(|id, _| kept.contains(id));
        state.fault = None;
    }

    /// Tears a write of `bytes` at `offset` of a file that was never finished: `keep` says for each sector of it
    /// whether it reached the disk.
    pub fn torn_write(&self, name: &str, offset: u64, bytes: &[u8], mut keep: impl FnMut(usize) -> bool) {
        let mut state = self.state();
        let Some(node) = state.named(name) else { return };
        for (index, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
            if keep(index) {
                node.put(offset as usize + index * SECTOR_BYTES, sector, true);
            }
        }
    }

    /// Flips one bit of what is durable.
    pub fn flip(&self, name: &str, offset: u64, bit: u8) {
        let mut state = self.state();
        let Some(node) = state.named(name) else { return };
        node.written[offset as usize] ^= 1 << (bit & 7);
        node.durable[offset as usize] ^= 1 << (bit & 7);
    }

    /// The bytes of a file as they are now.
    #[must_use]
    pub fn contents(&self, name: &str) -> Option<Vec<u8>> {
        self.state().named(name).map(|node| node.written.clone())
    }

    /// Puts a file there, durably.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        let mut state = self.state();
        let id = state.next_node;
        state.next_node += 1;
        state
            .nodes
            .insert(id, Node { written: bytes.to_vec(), durable: bytes.to_vec(), dirty: BTreeSet::new() });
        state.names.insert(name.to_owned(), id);
        state.durable_names.insert(name.to_owned(), id);
    }

    /// Durable writes since the start.
    #[must_use]
    pub fn durable_writes(&self) -> u64 {
        self.state().durable_writes
    }

    /// Bytes read from files since the start.
    #[must_use]
    pub fn read_bytes(&self) -> u64 {
        self.state().read_bytes
    }
}

impl Node {
    fn put(&mut self, offset: usize, bytes: &[u8], durable: bool) {
        let end = offset + bytes.len();
        if self.written.len() < end {
            self.written.resize(end, 0);
            self.durable.resize(end, 0);
        }
        self.written[offset..end].copy_from_slice(bytes);
        for sector in offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES) {
            self.dirty.insert(sector);
        }
        if durable {
            self.durable[offset..end].copy_from_slice(bytes);
            for sector in offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES) {
                self.dirty.remove(&sector);
            }
        }
    }

    /// Every dirty sector becomes durable or is lost.
    fn settle(&mut self, mut keep: impl FnMut() -> bool) {
        for sector in std::mem::take(&mut self.dirty) {
            let range = sector * SECTOR_BYTES..((sector + 1) * SECTOR_BYTES).min(self.written.len());
            let (from, to) =
                if keep() { (&self.written, &mut self.durable) } else { (&self.durable, &mut self.written) };
            to[range.clone()].copy_from_slice(&from[range]);
        }
    }
}

impl State {
    fn named(&mut self, name: &str) -> Option<&mut Node> {
        let id = self.names.get(name)?;
        self.nodes.get_mut(id)
    }

    fn node(&mut self, id: u64) -> io::Result<&mut Node> {
        self.nodes.get_mut(&id).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn id(&self, name: &str) -> io::Result<u64> {
        self.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Whether the operation is to fail.
    fn strikes(&mut self, fault: Fault) -> bool {
        match &mut self.fault {
            Some((planned, after)) if *planned == fault => {
                let now = *after == 0;
                *after = after.saturating_sub(1);
                now
            }
            _ => false,
        }
    }

    fn used(&self) -> u64 {
        self.names.values().filter_map(|id| self.nodes.get(id)).map(|n| n.written.len() as u64).sum()
    }

    fn write(&mut self, id: u64, offset: u64, bytes: &[u8], durable: bool) -> io::Result<()> {
        let grows = (offset + bytes.len() as u64).saturating_sub(self.node(id)?.written.len() as u64);
        if grows > 0 && self.used() + grows > self.capacity {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if self.strikes(Fault::FailWrite) {
            for (index, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
                if self.rng.bool() {
                    self.node(id)?.put(offset as usize + index * SECTOR_BYTES, sector, true);
                }
            }
            return Err(io::Error::other("simulated write failure"));
        }
        if self.strikes(Fault::FullWrite) {
            let kept = self.rng.usize(0..bytes.len() / SECTOR_BYTES) * SECTOR_BYTES;
            self.node(id)?.put(offset as usize, &bytes[..kept], true);
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.durable_writes += u64::from(durable);
        self.node(id)?.put(offset as usize, bytes, durable);
        Ok(())
    }
}

impl Storage for SimStorage {
    fn list(&self) -> io::Result<Vec<Entry>> {
        let state = self.state();
        let bytes = |id| state.nodes.get(id).map_or(0, |n| n.written.len() as u64);
        Ok(state.names.iter().map(|(name, id)| Entry { name: name.clone(), bytes: bytes(id) }).collect())
    }

    fn create(&self, name: &str, _bytes: u64) -> io::Result<Arc<dyn StorageFile>> {
        let mut state = self.state();
        let id = state.next_node;
        state.next_node += 1;
        state.nodes.insert(id, Node::default());
        state.names.insert(name.to_owned(), id);
        Ok(Arc::new(SimFile { storage: self.clone(), id }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        Ok(Arc::new(SimFile { storage: self.clone(), id: self.state().id(name)? }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        let id = state.id(from)?;
        state.names.remove(from);
        state.names.insert(to.to_owned(), id);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.id(name)?;
        state.names.remove(name);
        Ok(())
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut state = self.state();
        if state.strikes(Fault::FailSync) {
            return Err(io::Error::other("simulated sync failure"));
        }
        state.durable_names = state.names.clone();
        Ok(())
    }

    fn is_direct(&self) -> bool {
        true
    }
}

#[derive(Debug)]
struct SimFile {
    storage: SimStorage,
    id: u64,
}

impl StorageFile for SimFile {
    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let mut state = self.storage.state();
        state.read_bytes += into.len() as u64;
        let node = state.node(self.id)?;
        let from = node.written.get(offset as usize..offset as usize + into.len());
        into.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.storage.state().write(self.id, offset, bytes, false)
    }

    fn write_durable(&self, offset: u64, bytes: &[u8], written: &mut dyn FnMut()) -> io::Result<()> {
        self.storage.state().write(self.id, offset, bytes, true)?;
        written();
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.storage.state();
        let fails = state.strikes(Fault::FailSync);
        if !fails && state.node(self.id)?.dirty.is_empty() {
            return Ok(());
        }
        let mut rng = state.rng.fork();
        state.node(self.id)?.settle(|| !fails || rng.bool());
        if fails { Err(io::Error::other("simulated sync failure")) } else { Ok(()) }
    }
}
