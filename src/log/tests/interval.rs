//! Commits that are synced later.

use super::*;

const LATER: LogConfig = LogConfig { durability: Durability::Interval(Duration::from_millis(100)), ..CONFIG };

fn open_later(storage: &dyn Storage) -> (Log, Recovery, Records) {
    let mut records = Vec::new();
    let (mut log, report) =
        Log::recover(storage, LATER, &mut |at, bytes| records.push((at, bytes.to_vec()))).unwrap();
    quiet(&mut log, storage);
    (log, report, records)
}

/// Writes one batch; not synced.
fn write(log: &mut Log, record: &[u8]) -> (Position, Vec<u8>) {
    let position = log.append(&[record]);
    let batch = log.seal().unwrap();
    assert!(!batch.is_sync());
    batch.write().unwrap();
    log.batch_done(batch);
    (position, record.to_vec())
}

fn sync(log: &mut Log) {
    log.request_sync();
    let batch = log.seal().unwrap();
    assert!(batch.is_sync());
    batch.write().unwrap();
    log.batch_done(batch);
    assert!(!log.is_unsynced() && log.seal().is_none());
}

#[test]
fn a_kill_loses_nothing_and_a_power_loss_what_was_not_synced() {
    for seed in 0..300 {
        let storage = SimStorage::new(seed);
        let (mut log, ..) = open_later(&storage);
        let mut records: Records = (1..4).map(|i| write(&mut log, &[i; 3000])).collect();
        assert_eq!(log.committed(), Ticket(3));
        sync(&mut log);
        records.extend((4..9).map(|i| write(&mut log, &[i; 3000])));
        assert_eq!((log.committed(), log.stats().unsynced_bytes), (Ticket(8), 5 * 4096));
        drop(log);
        let killed = storage.fork(seed);
        killed.kill();
        assert_eq!(open_later(&killed).2, records);
        // What a start found is on disk, even if nobody had synced it before.
        killed.power_loss();
        assert_eq!(open_later(&killed).2, records);

        storage.power_loss();
        let (mut log, _, found) = open_later(&storage);
        assert!(found.len() >= 3 && records.starts_with(&found), "seed {seed}: {} of 8", found.len());
        records.truncate(found.len());
        records.extend((9..12).map(|i| write(&mut log, &[i; 3000])));
        sync(&mut log);
        storage.power_loss();
        assert_eq!(open_later(&storage).2, records, "seed {seed}");
    }
}

#[test]
fn a_batch_behind_a_lost_one_follows_nothing_that_comes_later() {
    let storage = SimStorage::new(1);
    let (mut log, ..) = open_later(&storage);
    let mut records = vec![write(&mut log, b"synced")];
    sync(&mut log);
    let before = storage.fork(1);
    write(&mut log, &[1; 100]);
    write(&mut log, &[2; 100]);
    write(&mut log, &[3; 100]);
    // Of the three the first one is lost.
    let whole = storage.contents(&file_name(1)).unwrap();
    let kept = 3 * LOG_BLOCK_BYTES..5 * LOG_BLOCK_BYTES;
    before.torn_write(&file_name(1), kept.start as u64, &whole[kept.clone()], |_| true);
    let (mut log, report, found) = open_later(&before);
    assert_eq!(found, records);
    let cut = report.cut.unwrap();
    assert_eq!((cut.offset, cut.bytes), (2 * LOG_BLOCK_BYTES as u64, 3 * LOG_BLOCK_BYTES as u64));
    // A batch like the first: number, length and all but its record are the same.
    records.push(write(&mut log, &[4; 100]));
    drop(log);
    assert_eq!(open_later(&before).2, records);
    before.power_loss();
    assert_eq!(open_later(&before).2, records);
}

#[test]
fn a_segment_is_synced_before_it_is_left() {
    let storage = SimStorage::new(1);
    let (mut log, ..) = open_later(&storage);
    let mut written = Vec::new();
    let mut syncs = 0;
    for i in 0..60 {
        written.push((log.append(&[&[i; 5000]]), vec![i; 5000]));
        while let Some(batch) = log.seal() {
            syncs += u32::from(batch.is_sync());
            batch.write().unwrap();
            log.batch_done(batch);
        }
        quiet(&mut log, &storage);
    }
    assert_eq!(syncs, 8, "nine segments were written to");
    let fork = storage.fork(3);
    fork.power_loss();
    let found = open_later(&fork).2;
    assert!(found.len() >= 8 * 7 && written.starts_with(&found), "{}", found.len());
}

#[test]
fn nothing_is_freed_before_what_replaces_it_is_synced() {
    let storage = SimStorage::new(1);
    let (mut log, ..) = open_later(&storage);
    let mut records = Vec::new();
    for i in 0..15 {
        records.push((log.append(&[&[i; 5000]]), vec![i; 5000]));
        commit(&mut log);
        quiet(&mut log, &storage);
    }
    for (position, record) in &records {
        log.release(*position, record.len() as u32);
    }
    log.append(&[b"moved"]);
    commit(&mut log);
    log.append(&[b"more"]);
    commit(&mut log);
    assert!(log.is_unsynced());
    quiet(&mut log, &storage);
    assert!(open_later(&storage.fork(1)).2.starts_with(&records));
    sync(&mut log);
    quiet(&mut log, &storage);
    assert!(open_later(&storage.fork(1)).2.len() < records.len());
}

#[test]
fn a_failed_sync_ends_everything() {
    let storage = SimStorage::new(5);
    let (mut log, ..) = open_later(&storage);
    write(&mut log, b"lost or not");
    storage.fail(Fault::FailSync, 0);
    log.request_sync();
    let batch = log.seal().unwrap();
    let error = batch.write().unwrap_err().to_string();
    assert!(error.contains("syncing") && error.contains("000000000001.seg"), "{error}");
    log.batch_failed(batch);
    log.append(&[b"later"]);
    assert!(log.seal().is_none() && log.next_chore().is_none());
}

#[test]
fn a_real_directory_without_direct_writes() {
    let home = tempfile::tempdir().unwrap();
    let storage = DiskStorage::open(home.path(), LATER.durability).unwrap();
    assert!(!storage.is_direct());
    let (mut log, ..) = open_later(&storage);
    let mut records: Records = (0..10).map(|i| write(&mut log, &[i; 3000])).collect();
    sync(&mut log);
    records.push(write(&mut log, b"not synced"));
    drop((log, storage));
    // And on with direct ones.
    let storage = DiskStorage::open(home.path(), Durability::Sync).unwrap();
    let (mut log, _, found) = open(&storage).unwrap();
    assert_eq!(found, records);
    records.push((log.append(&[b"synced"]), b"synced".to_vec()));
    commit(&mut log);
    drop((log, storage));
    let storage = DiskStorage::open(home.path(), LATER.durability).unwrap();
    assert_eq!(open_later(&storage).2, records);
}

#[test]
fn a_sync_that_failed_once_is_not_tried_again() {
    for seed in 0..40 {
        let storage = SimStorage::new(seed);
        let (mut log, ..) = open_later(&storage);
        let synced = write(&mut log, b"synced");
        sync(&mut log);
        write(&mut log, &[1; 9000]);
        storage.fail(Fault::FailSync, 0);
        log.request_sync();
        let batch = log.seal().unwrap();
        assert!(batch.is_sync() && batch.write().is_err());
        log.batch_failed(batch);
        // The disk says that all is well again; it may have forgotten what it could not write.
        storage.heal();
        log.append(&[b"later"]);
        log.request_sync();
        assert!(log.seal().is_none() && log.next_chore().is_none() && log.is_unsynced());
        drop(log);
        storage.power_loss();
        assert_eq!(open_later(&storage).2.first(), Some(&synced), "seed {seed}");
    }
}
