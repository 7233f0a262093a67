//! The server's disk: the log's simulated directory, what a crash leaves of it, and two disks that lie, for the tests
//! which show that the shadow model notices.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use relaymesh::log::sim_storage::{Fault, SimStorage};
use relaymesh::log::{Batch, Chore, Entry, Storage, StorageFile};

/// What is wrong with a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lie {
    /// It says that a write is durable when it only lies in a cache: a power loss takes it back.
    Cached,
    /// It says so when the write has not even left the process: killing that takes it back.
    Late,
    /// It syncs a file once, when that is made, and from then on says that it did.
    Unsynced,
}

/// The disk of one world.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) sim: SimStorage,
    lying: Option<Arc<Lying>>,
    random: fastrand::Rng,
}

/// How the process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Crash {
    /// What was written is still there.
    Kill,
    /// What was not synced is there or not.
    PowerLoss,
}

impl Disk {
    pub(crate) fn new(lie: Option<Lie>, mut random: fastrand::Rng) -> Self {
        let sim = SimStorage::new(random.u64(..));
        let lying = lie.map(|lie| Arc::new(Lying { sim: sim.clone(), lie, late: Arc::default() }));
        Self { sim, lying, random }
    }

    /// As the log sees it.
    pub(crate) fn storage(&self) -> &dyn Storage {
        match &self.lying {
            Some(lying) => &**lying,
            None => &self.sim,
        }
    }

    /// The process ends while `batch` and `chore` are being written: any part of them may have reached the disk.
    pub(crate) fn crash(&mut self, crash: Crash, batch: Option<Batch>, chore: Option<Chore>) {
        self.sim.heal();
        if let Some(batch) = batch.as_ref().filter(|batch| batch.is_sync()) {
            // The system goes on with it or does not; what a power loss leaves then is decided below.
            if self.random.bool() {
                drop(batch.write());
            }
        } else if let Some(batch) = batch {
            match self.random.u8(0..3) {
                0 => {}
                // Durable, and nobody was told.
                1 => drop(batch.write()),
                _ => {
                    self.sim.fail(Fault::FailWrite, 0);
                    // Torn: some of its sectors are there.
                    let torn = batch.write();
                    assert!(torn.is_err() || self.lying.is_some(), "the write was to fail");
                    self.sim.heal();
                }
            }
        }
        if let Some(chore) = chore
            && self.random.bool()
        {
            let fault = if self.random.bool() { Fault::FailWrite } else { Fault::FailSync };
            self.sim.fail(fault, self.random.u32(0..3));
            drop(chore.run(self.storage()));
            self.sim.heal();
        }
        if let Some(lying) = &self.lying {
            lying.late().clear();
        }
        match crash {
            Crash::Kill => self.sim.kill(),
            Crash::PowerLoss => self.sim.power_loss(),
        }
    }

    /// Leaves room for `bytes` more than there are now.
    pub(crate) fn limit(&self, bytes: u64) {
        let used: u64 = self.sim.list().map_or(0, |files| files.iter().map(|file| file.bytes).sum());
        self.sim.set_capacity(used + bytes);
    }

    pub(crate) fn unlimit(&self) {
        self.sim.set_capacity(u64::MAX);
    }
}

type Late = VecDeque<(Arc<dyn StorageFile>, u64, Vec<u8>)>;

/// Writes that a late disk keeps to itself.
const LATE_WRITES: usize = 3;

#[derive(Debug)]
struct Lying {
    sim: SimStorage,
    lie: Lie,
    late: Arc<Mutex<Late>>,
}

impl Lying {
    fn late(&self) -> MutexGuard<'_, Late> {
        self.late.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, inner: Arc<dyn StorageFile>) -> Arc<dyn StorageFile> {
        let is_synced = AtomicBool::new(false);
        Arc::new(LyingFile { inner, lie: self.lie, late: Arc::clone(&self.late), is_synced })
    }
}

impl Storage for Lying {
    fn list(&self) -> io::Result<Vec<Entry>> {
        self.sim.list()
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn StorageFile>> {
        self.sim.create(name, bytes).map(|file| self.file(file))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        self.sim.open(name).map(|file| self.file(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.sim.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.sim.remove(name)
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.sim.sync_directory()
    }

    fn is_direct(&self) -> bool {
        true
    }
}

#[derive(Debug)]
struct LyingFile {
    inner: Arc<dyn StorageFile>,
    lie: Lie,
    late: Arc<Mutex<Late>>,
    is_synced: AtomicBool,
}

impl LyingFile {
    fn keep_at_most(&self, writes: usize) -> io::Result<()> {
        let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        while late.len() > writes
            && let Some((file, offset, bytes)) = late.pop_front()
        {
            file.write_durable(offset, &bytes, &mut || {})?;
        }
        Ok(())
    }
}

impl StorageFile for LyingFile {
    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.keep_at_most(0)?;
        self.inner.read(offset, into)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.inner.write(offset, bytes)
    }

    fn write_durable(&self, offset: u64, bytes: &[u8], _written: &mut dyn FnMut()) -> io::Result<()> {
        match self.lie {
            Lie::Cached | Lie::Unsynced => self.inner.write(offset, bytes),
            Lie::Late => {
                let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
                late.push_back((Arc::clone(&self.inner), offset, bytes.to_vec()));
                drop(late);
                self.keep_at_most(LATE_WRITES)
            }
        }
    }

    fn sync(&self) -> io::Result<()> {
        let again = self.is_synced.swap(true, Ordering::Relaxed);
        if again && self.lie == Lie::Unsynced { Ok(()) } else { self.inner.sync() }
    }
}
