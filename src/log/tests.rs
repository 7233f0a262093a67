//! The log over the simulated storage, and once over a real directory.

mod amplification;
mod checkpoint;
mod damage;
mod inspect;
mod interval;
mod model;
mod segments;

use std::collections::BTreeMap;
use std::time::Duration;

use super::book::file_name;
use super::sim_storage::{Fault, SECTOR_BYTES, SimStorage};
use super::*;
use crate::limits::{LOG_BATCH_BYTES_MAX, LOG_BLOCK_BYTES, MESSAGES_PER_SEGMENT_MIN, SPARE_SEGMENTS_MAX};

const CONFIG: LogConfig = LogConfig { segment_bytes: 64 << 10, seed: 7, durability: Durability::Sync };
type Records = Vec<(Position, Vec<u8>)>;

fn open(storage: &dyn Storage) -> Result<(Log, Recovery, Records), LogError> {
    let mut records = Vec::new();
    let (log, report) = Log::recover(storage, CONFIG, &mut |at, bytes| records.push((at, bytes.to_vec())))?;
    Ok((log, report, records))
}

/// Writes everything that is open.
fn commit(log: &mut Log) {
    while let Some(batch) = log.seal() {
        batch.write().unwrap();
        log.batch_done(batch);
    }
}

/// Runs chores until none is left, giving relocated records to `move_record`.
fn chores(
    log: &mut Log,
    storage: &dyn Storage,
    move_record: &mut dyn FnMut(&mut Log, Position, &[u8]),
) -> BTreeMap<ReadTicket, Vec<u8>> {
    let mut read = BTreeMap::new();
    for _ in 0..10_000 {
        let Some(chore) = log.next_chore() else { return read };
        match log.chore_done(chore.run(storage)) {
            ChoreOutcome::Quiet | ChoreOutcome::NoSpace(_) => {}
            ChoreOutcome::Reads(reads) => {
                read.extend(reads.iter().map(|(ticket, bytes)| (ticket, bytes.to_vec())));
            }
            ChoreOutcome::Relocation(slice) => {
                for (position, record) in slice.records() {
                    move_record(log, position, record);
                }
                log.relocated(slice);
                commit(log);
            }
            ChoreOutcome::Failed(error) => panic!("{error}"),
        }
    }
    panic!("the chores never end");
}

fn quiet(log: &mut Log, storage: &dyn Storage) -> BTreeMap<ReadTicket, Vec<u8>> {
    chores(log, storage, &mut |_, position, _| panic!("{position:?} relocated"))
}

/// A log with `count` records of `len` bytes, a batch each.
fn filled(storage: &dyn Storage, count: usize, len: usize) -> (Log, Records) {
    let (mut log, _, _) = open(storage).unwrap();
    quiet(&mut log, storage);
    let mut records = Vec::new();
    for i in 0..count {
        let record = vec![i as u8 + 1; len];
        records.push((log.append(&[&record[..len / 2], &record[len / 2..]]), record));
        commit(&mut log);
        quiet(&mut log, storage);
    }
    assert_eq!(log.open_bytes(), 0);
    (log, records)
}

#[test]
fn what_was_committed_is_recovered_in_order() {
    let storage = SimStorage::new(1);
    let (log, records) = filled(&storage, 40, 5000);
    assert_eq!(log.committed(), Ticket(40));
    drop(log);
    storage.power_loss();
    for _ in 0..3 {
        let (_, report, found) = open(&storage).unwrap();
        assert_eq!(found, records);
        assert_eq!((report.records, report.batches, report.cut), (40, 40, None));
        assert!(report.segments > 3);
    }
}

#[test]
fn one_ticket_covers_all_batches_of_a_turn() {
    let storage = SimStorage::new(1);
    let (mut log, _, _) = open(&storage).unwrap();
    quiet(&mut log, &storage);
    let before = log.open_ticket();
    for _ in 0..5 {
        log.append(&[&[1; 30_000]]);
        assert_eq!(log.open_ticket(), before);
    }
    let mut sealed = 0;
    while let Some(batch) = log.seal() {
        assert_eq!(batch.ticket, before);
        assert!(log.committed() < before);
        batch.write().unwrap();
        let completes = batch.completes;
        log.batch_done(batch);
        sealed += 1;
        // The reserve is not for this; the second segment needs a chore once the spare ones are gone.
        quiet(&mut log, &storage);
        assert_eq!(log.committed() == before, completes);
    }
    assert!(sealed >= 2);
    assert_eq!(log.committed(), before);
    assert!(log.seal().is_none());
}

#[test]
fn reads_come_in_the_order_asked_and_wait_for_the_commit() {
    let storage = SimStorage::new(1);
    let (mut log, mut records) = filled(&storage, 25, 5000);
    records.push((log.append(&[&[77; 5000]]), vec![77; 5000]));
    let mut asked = BTreeMap::new();
    for (i, (position, record)) in records.iter().enumerate() {
        let skip = i * 13;
        let ticket = log.read(*position, skip as u32, 1000);
        asked.insert(ticket, record[skip..skip + 1000].to_vec());
    }
    let read = quiet(&mut log, &storage);
    assert_eq!(read, asked.clone().into_iter().take(25).collect());
    commit(&mut log);
    let read = quiet(&mut log, &storage);
    assert_eq!(read, asked.into_iter().skip(25).collect());
    storage.flip(&file_name(1), 4096 + 2000, 1);
    log.read(records[0].0, 0, 10);
    let chore = log.next_chore().unwrap();
    assert!(matches!(log.chore_done(chore.run(&storage)), ChoreOutcome::Failed(LogError::Damaged { .. })));
}

#[test]
fn a_record_larger_than_a_batch_is_written_read_and_moved_like_any() {
    let config = LogConfig { segment_bytes: 12 << 20, ..CONFIG };
    let storage = SimStorage::new(1);
    let recover = |found: &mut Records| {
        Log::recover(&storage, config, &mut |at, bytes| found.push((at, bytes.to_vec()))).unwrap().0
    };
    let mut log = recover(&mut Vec::new());
    quiet(&mut log, &storage);
    let large = |byte: u8| vec![byte; LOG_BATCH_BYTES_MAX + 1_000_001];
    let mut records: Records = Vec::new();
    for round in 0..4 {
        for record in [vec![round; 100], large(round + 10), vec![round; 5000]] {
            records.push((log.append(&[&record[..50], &record[50..]]), record));
        }
        commit(&mut log);
        quiet(&mut log, &storage);
    }
    assert_eq!(log.open_bytes(), 0);
    let asked: Vec<_> = records
        .iter()
        .map(|(at, record)| (log.read(*at, 50, record.len() as u32 - 50), &record[50..]))
        .collect();
    let read = quiet(&mut log, &storage);
    assert!(asked.iter().all(|(ticket, bytes)| read[ticket] == **bytes), "what is read is what was written");
    drop(log);
    storage.power_loss();

    let mut found = Vec::new();
    let mut log = recover(&mut found);
    assert!(found == records, "what is recovered is what was written");
    for (at, record) in &records {
        log.retain(*at, record.len() as u32);
    }
    // Most dies; one large record of the first segment stays and is moved out of the way.
    let (stays, moved) = (records.remove(1), std::cell::Cell::new(0));
    for (at, record) in &records {
        log.release(*at, record.len() as u32);
    }
    let mut at = stays.0;
    for _ in 0..20 {
        let useless = log.append(&[&large(99)]);
        log.release(useless, large(99).len() as u32);
        commit(&mut log);
        chores(&mut log, &storage, &mut |log, position, record| {
            if position == at {
                assert!(record == stays.1, "the record is whole when it is moved");
                at = log.append(&[record]);
                log.release(position, record.len() as u32);
                moved.set(moved.get() + 1);
            }
        });
    }
    assert!(moved.get() > 0, "it was moved");
    drop(log);
    storage.power_loss();
    let mut found = Vec::new();
    recover(&mut found);
    assert!(found.contains(&(at, stays.1)), "it is where it was moved to");
}

#[test]
fn what_is_made_in_a_real_directory_is_for_its_owner_alone() {
    use std::os::unix::fs::MetadataExt;
    let home = tempfile::tempdir().unwrap();
    let storage = DiskStorage::open(&home.path().join("data/shard-0"), Durability::Sync).unwrap();
    let (log, _) = filled(&storage, 3, 700);
    storage.create("000000000001.heads", 4096).unwrap();
    let mode = |name: &str| home.path().join("data").join(name).metadata().unwrap().mode() & 0o777;
    for directory in ["", "shard-0", "shard-0/log"] {
        assert_eq!(mode(directory), 0o700, "{directory}");
    }
    for file in ["shard-0/lock", "shard-0/log/000000000001.seg", "shard-0/log/000000000001.heads"] {
        assert_eq!(mode(file), 0o600, "{file}");
    }
    drop(log);
}

#[test]
fn a_real_directory_is_locked_written_and_read_again() {
    let home = tempfile::tempdir().unwrap();
    let storage = DiskStorage::open(home.path(), Durability::Sync).unwrap();
    let refused = DiskStorage::open(home.path(), Durability::Sync).unwrap_err().to_string();
    assert!(refused.contains(&home.path().display().to_string()), "{refused}");
    assert!(refused.contains(&format!("pid {}", std::process::id())), "{refused}");
    let (mut log, records) = filled(&storage, 40, 5000);
    let asked = log.read(records[3].0, 10, 100);
    assert_eq!(quiet(&mut log, &storage)[&asked], records[3].1[10..110]);
    drop((log, storage));
    let storage = DiskStorage::open(home.path(), Durability::Sync).unwrap();
    let (mut log, report, found) = open(&storage).unwrap();
    assert_eq!(found, records);
    assert!(!report.is_new);
    log.append(&[b"more"]);
    commit(&mut log);
    quiet(&mut log, &storage);
    assert!(log.stats().segments <= SPARE_SEGMENTS_MAX as u64);
}
