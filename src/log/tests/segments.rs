//! Segments are freed, used again, kept back for a full disk, and read before they are freed.

use super::*;

#[test]
fn a_recycled_segment_brings_nothing_back() {
    let storage = SimStorage::new(1);
    let (mut log, records) = filled(&storage, 30, 5000);
    for (position, record) in &records {
        log.release(*position, record.len() as u32);
    }
    // What lives on wanders from segment to segment.
    log.append(&[b"kept"]);
    let keep = |log: &mut Log, storage: &SimStorage| {
        chores(log, storage, &mut |log, position, record| {
            if record == b"kept" {
                log.append(&[record]);
                log.release(position, 4);
            }
        });
    };
    commit(&mut log);
    keep(&mut log, &storage);
    assert_eq!(log.stats().live_bytes, 4);
    assert!(log.stats().segments <= SPARE_SEGMENTS_MAX as u64, "{:?}", log.stats());
    // Through the recycled ones again, a short record each, so that old blocks stay behind every batch.
    let mut expected = Vec::new();
    for i in 0..40_u8 {
        let position = log.append(&[&[i; 20]]);
        log.release(position, 20);
        commit(&mut log);
        expected.push((position, vec![i; 20]));
        let fork = storage.fork(u64::from(i));
        fork.power_loss();
        let (_, _, found) = open(&fork).unwrap();
        assert!(found.iter().any(|(_, record)| record == b"kept"));
        let short: Records = found.into_iter().filter(|(_, record)| record.len() == 20).collect();
        assert!(expected.ends_with(&short) && short.last() == expected.last(), "after {i}");
        keep(&mut log, &storage);
    }
}

#[test]
fn nothing_is_freed_before_what_replaces_it_is_durable() {
    let storage = SimStorage::new(1);
    let (mut log, records) = filled(&storage, 15, 5000);
    for (position, record) in &records {
        log.release(*position, record.len() as u32);
    }
    log.append(&[b"moved"]);
    while let Some(chore) = log.next_chore() {
        let _ = log.chore_done(chore.run(&storage));
    }
    assert_eq!(open(&storage.fork(1)).unwrap().2, records);
    commit(&mut log);
    quiet(&mut log, &storage);
    assert!(open(&storage.fork(1)).unwrap().2.len() < records.len());
}

#[test]
fn nothing_is_freed_while_a_part_of_its_ticket_is_not_durable() {
    let storage = SimStorage::new(1);
    let (mut log, records) = filled(&storage, 15, 5000);
    log.append(&[&[1; 50_000]]);
    for (position, record) in &records {
        log.release(*position, record.len() as u32);
    }
    log.append(&[&[2; 50_000]]);
    let first = log.seal().unwrap();
    assert!(!first.completes);
    first.write().unwrap();
    log.batch_done(first);
    while let Some(chore) = log.next_chore() {
        let _ = log.chore_done(chore.run(&storage));
    }
    assert!(open(&storage.fork(1)).unwrap().2.starts_with(&records));
}

#[test]
fn nothing_is_freed_before_the_log_says_that_it_is_not_needed() {
    let storage = SimStorage::new(1);
    let (log, records) = filled(&storage, 30, 5000);
    drop(log);
    // Nothing is retained, so all of it is dead.
    let (mut log, _, _) = open(&storage).unwrap();
    quiet(&mut log, &storage);
    assert_eq!(open(&storage.fork(1)).unwrap().2, records);
    log.append(&[b"boot"]);
    commit(&mut log);
    quiet(&mut log, &storage);
    assert!(open(&storage.fork(1)).unwrap().2.len() < 12);
}

#[test]
fn a_leftover_batch_fits_no_newer_one() {
    let base = SimStorage::new(1);
    let (mut log, mut records) = filled(&base, 2, 100);
    let fork = base.fork(1);
    log.append(&[b"never answered"]);
    commit(&mut log);
    log.append(&[b"nor this"]);
    commit(&mut log);
    let leftover = base.contents(&file_name(1)).unwrap()[4 * LOG_BLOCK_BYTES..5 * LOG_BLOCK_BYTES].to_vec();
    let (mut log, _, _) = open(&fork).unwrap();
    records.push((log.append(&[b"newer"]), b"newer".to_vec()));
    commit(&mut log);
    fork.torn_write(&file_name(1), 4 * LOG_BLOCK_BYTES as u64, &leftover, |_| true);
    assert_eq!(open(&fork).unwrap().2, records);
}

#[test]
fn the_reserve_is_not_for_a_disk_with_space() {
    let storage = SimStorage::new(1);
    let (mut log, _, _) = open(&storage).unwrap();
    for _ in 0..3 {
        log.append(&[&[1; 40_000]]);
    }
    commit(&mut log);
    for prepared in 0..=2 {
        assert!(log.seal().is_none(), "{prepared} prepared");
        while log.stats().prepared == prepared {
            let chore = log.next_chore().unwrap();
            let _ = log.chore_done(chore.run(&storage));
        }
    }
    assert!(log.seal().is_some());
}

#[test]
fn a_segment_stays_while_it_is_read() {
    let storage = SimStorage::new(1);
    let (mut log, records) = filled(&storage, 15, 5000);
    log.read(records[0].0, 0, 5000);
    let reading = log.next_chore().unwrap();
    for (position, record) in &records {
        log.release(*position, record.len() as u32);
    }
    log.append(&[b"x"]);
    commit(&mut log);
    quiet(&mut log, &storage);
    let ChoreOutcome::Reads(reads) = log.chore_done(reading.run(&storage)) else { panic!("not read") };
    assert_eq!(reads.iter().next().unwrap().1, records[0].1);
    quiet(&mut log, &storage);
    assert!(storage.contents(&file_name(1)).is_none());
}

#[test]
fn a_full_disk_leaves_the_reserve_and_opens_again_by_itself() {
    let storage = SimStorage::new(1);
    let (mut log, _) = filled(&storage, 1, 100);
    storage.set_capacity(4 * CONFIG.segment_bytes);
    let mut positions = Vec::new();
    while log.room() == Room::Open {
        positions.push(log.append(&[&[1; 5000]]));
        commit(&mut log);
        quiet(&mut log, &storage);
        assert!(positions.len() < 1000);
    }
    assert_eq!(log.stats().prepared, 2);
    // Two segments more for acks.
    let committed = log.committed();
    for _ in 0..15 {
        log.append(&[&[2; 5000]]);
        commit(&mut log);
    }
    assert_eq!(log.committed().0, committed.0 + 15);
    storage.set_capacity(u64::MAX);
    log.retry_space();
    quiet(&mut log, &storage);
    assert_eq!(log.room(), Room::Open);
    assert!(log.stats().prepared > 2);
}

/// A disk that is full of records which nobody needs any more, as the log was told.
fn full_of_the_dead() -> (SimStorage, Log) {
    let storage = SimStorage::new(1);
    let (mut log, _) = filled(&storage, 1, 100);
    storage.set_capacity(5 * CONFIG.segment_bytes);
    let mut positions = Vec::new();
    while log.room() == Room::Open {
        positions.push(log.append(&[&[1; 5000]]));
        commit(&mut log);
        quiet(&mut log, &storage);
    }
    log.release(Position(CONFIG.segment_bytes + 4096 + 80), 100);
    for position in positions {
        log.release(position, 5000);
    }
    (storage, log)
}

#[test]
fn a_full_disk_opens_again_when_segments_die() {
    let (storage, mut log) = full_of_the_dead();
    log.append(&[b"x"]);
    commit(&mut log);
    quiet(&mut log, &storage);
    assert_eq!(log.room(), Room::Open);
}

#[test]
fn a_full_disk_opens_again_when_segments_die_and_nothing_is_written() {
    let (storage, mut log) = full_of_the_dead();
    commit(&mut log);
    quiet(&mut log, &storage);
    assert_eq!(log.room(), Room::Open);
}

#[test]
fn segments_that_die_while_nothing_is_written_are_freed() {
    let storage = SimStorage::new(1);
    let (mut log, mut records) = filled(&storage, 60, 5000);
    let (last, value) = records.pop().unwrap();
    assert!(log.stats().segments > 8, "{:?}", log.stats());
    // As when ids lapse on a server with nothing else to do: nothing is appended from here on.
    for (position, record) in &records {
        log.release(*position, record.len() as u32);
    }
    commit(&mut log);
    quiet(&mut log, &storage);
    assert!(log.stats().segments <= SPARE_SEGMENTS_MAX as u64, "{:?}", log.stats());
    assert!(log.seal().is_none(), "it is said once");
    drop(log);
    storage.power_loss();
    let (mut log, _, found) = open(&storage).unwrap();
    assert!(found.len() < 10 && found.contains(&(last, value)), "{} records", found.len());
    log.retain(last, 5000);
    log.append(&[b"goes on"]);
    commit(&mut log);
    assert_eq!(
        open(&storage.fork(1)).unwrap().2.last().map(|(_, record)| &record[..]),
        Some(&b"goes on"[..])
    );
}
