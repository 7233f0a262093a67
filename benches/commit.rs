//! How long commits take on the disk below the given directory (default: the working directory), the slow ones too, which
//! a mean hides. `cargo bench --bench commit -- [DIRECTORY]`; what leads up to them: `cargo bench --bench log`.

use relaymesh::clock::{Clock, Time};
use relaymesh::limits::SEGMENT_BYTES;
use relaymesh::log::{ChoreOutcome, DiskStorage, Durability, Journal, Log, LogConfig, LogError};

const COMMITS: usize = 2000;

fn main() -> Result<(), LogError> {
    let parent = std::env::args().skip(1).find(|a| !a.starts_with("--")).unwrap_or_else(|| ".".to_owned());
    let home = tempfile::tempdir_in(parent).expect("a directory that may be written");
    let durability = Durability::Sync;
    let storage = DiskStorage::open(home.path(), durability)?;
    let config = LogConfig { segment_bytes: SEGMENT_BYTES as u64, seed: fastrand::u64(..), durability };
    let (mut log, report) = Log::recover(&storage, config, &mut |_, _| {})?;
    println!("direct: {}", report.is_direct);
    let clock = Clock::starting_at(Time(0));
    let record = vec![7; 300];
    for batch_bytes in [4 << 10, 128 << 10, 1 << 20] {
        let mut micros = Vec::with_capacity(COMMITS);
        for _ in 0..COMMITS {
            while log.open_bytes() + record.len() + 8 <= batch_bytes {
                let position = log.append(&[&record]);
                log.release(position, record.len() as u32);
            }
            let batch = loop {
                if let Some(batch) = log.seal() {
                    break batch;
                }
                chores(&mut log, &storage)?;
            };
            let before = clock.micros();
            batch.write()?;
            micros.push(clock.micros() - before);
            log.batch_done(batch);
            chores(&mut log, &storage)?;
        }
        micros.sort_unstable();
        let (median, high) = (micros[COMMITS / 2], micros[COMMITS * 99 / 100]);
        println!("commit of {batch_bytes} bytes: median {median} us, 99 % below {high} us");
    }
    Ok(())
}

fn chores(log: &mut Log, storage: &DiskStorage) -> Result<(), LogError> {
    while let Some(chore) = log.next_chore() {
        match log.chore_done(chore.run(storage)) {
            ChoreOutcome::Failed(error) | ChoreOutcome::NoSpace(error) => return Err(error),
            ChoreOutcome::Relocation(slice) => log.relocated(slice),
            ChoreOutcome::Quiet | ChoreOutcome::Reads(_) => {}
        }
    }
    Ok(())
}
