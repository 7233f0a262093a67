//! The log over the simulated storage, and once over a real directory.

mod interval;

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
fn a_torn_last_batch_is_cut_whatever_reached_the_disk() {
    let base = SimStorage::new(1);
    let (mut log, records) = filled(&base, 3, 300);
    base.power_loss();
    log.append(&[&[9; 6000]]);
    log.append(&[&[8; 6000]]);
    let fresh = base.fork(2);
    commit(&mut log);
    let whole = base.contents(&file_name(1)).unwrap();
    let offset = 4 * LOG_BLOCK_BYTES;
    let batch = &whole[offset..offset + 3 * LOG_BLOCK_BYTES + LOG_BLOCK_BYTES];
    let sectors = 12_176_usize.div_ceil(SECTOR_BYTES);
    for round in 0..200_u64 {
        let storage = fresh.fork(round);
        let mut rng = fastrand::Rng::with_seed(round);
        let lost = rng.usize(0..sectors);
        let keep = |i: usize| match round % 3 {
            0 => i < (round as usize / 3) % sectors,
            1 => i != (round as usize / 3) % sectors,
            _ => i != lost && fastrand::Rng::with_seed(round + i as u64).bool(),
        };
        storage.torn_write(&file_name(1), offset as u64, batch, keep);
        let (mut log, _, found) = open(&storage).unwrap();
        assert_eq!(found, records, "round {round}");
        // New batches over the leftover, one of each length, and another start.
        let mut expected = records.clone();
        for i in 0..1 + round as usize % 3 {
            let record = vec![i as u8; 100 + 4000 * (round as usize % 4)];
            expected.push((log.append(&[&record]), record));
            commit(&mut log);
        }
        let (_, report, found) = open(&storage).unwrap();
        assert_eq!(found, expected, "round {round}");
        assert_eq!(report.cut, None, "round {round}");
    }
}

#[test]
fn every_flipped_bit_below_the_durable_position_is_refused() {
    let storage = SimStorage::new(1);
    let (log, _) = filled(&storage, 4, 700);
    drop(log);
    // The last batch names as durable all before it.
    for offset in 0..4 * LOG_BLOCK_BYTES as u64 {
        let bit = (offset % 8) as u8;
        storage.flip(&file_name(1), offset, bit);
        let refused = open(&storage);
        assert!(
            matches!(&refused, Err(LogError::Damaged { .. })),
            "a flip at {offset} gives {:?}",
            refused.map(|r| r.1)
        );
        storage.flip(&file_name(1), offset, bit);
    }
    open(&storage).unwrap();
}

#[test]
fn a_damaged_beginning_of_any_segment_is_refused() {
    let storage = SimStorage::new(1);
    let (log, records) = filled(&storage, 40, 5000);
    drop(log);
    let last = records.last().unwrap().0.0 / CONFIG.segment_bytes;
    assert!(last > 4);
    // One, or two in a row: what is behind them in the segment tells, or the one after.
    for (first, second) in (1..=last).flat_map(|first| [(first, first), (first, (first + 1).min(last))]) {
        let fork = storage.fork(first);
        let segments = if first == second { vec![first] } else { vec![first, second] };
        segments.iter().for_each(|&number| fork.flip(&file_name(number), LOG_BLOCK_BYTES as u64 + 20, 3));
        let refused = open(&fork).map(|opened| opened.1);
        assert!(matches!(&refused, Err(LogError::Damaged { .. })), "{segments:?}: {refused:?}");
    }
}

#[test]
fn segments_that_were_never_used_are_not_read() {
    let storage = SimStorage::new(1);
    let (log, _) = filled(&storage, 10, 5000);
    assert!(log.stats().prepared >= 3);
    drop(log);
    let before = storage.read_bytes();
    let (_, report, _) = open(&storage).unwrap();
    let whole = (report.segments + 1) * CONFIG.segment_bytes;
    let headers = 8 * 2 * LOG_BLOCK_BYTES as u64;
    assert!(storage.read_bytes() - before <= whole + headers, "{} of {whole}", storage.read_bytes() - before);
}

#[test]
fn a_flip_in_the_last_batch_never_goes_unseen() {
    let storage = SimStorage::new(1);
    let (log, records) = filled(&storage, 2, 700);
    drop(log);
    for bit in 0..8 * LOG_BLOCK_BYTES as u64 {
        let offset = 2 * LOG_BLOCK_BYTES as u64 + bit / 8;
        storage.flip(&file_name(1), offset, bit as u8);
        let (_, _, found) = open(&storage).unwrap();
        assert_eq!(found, records[..1], "bit {bit}");
        storage.flip(&file_name(1), offset, bit as u8);
    }
}

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
fn a_missing_foreign_truncated_or_newer_file_is_refused() {
    let base = SimStorage::new(1);
    let (mut log, records) = filled(&base, 30, 5000);
    let refused = |change: &dyn Fn(&SimStorage)| {
        let storage = base.fork(3);
        change(&storage);
        open(&storage).map(|r| r.1).unwrap_err().to_string()
    };
    assert!(refused(&|s| s.remove(&file_name(2)).unwrap()).contains("000000000002.seg is missing"));
    assert!(refused(&|s| s.put("notes.txt", b"?")).contains("notes.txt"));
    let cut = base.contents(&file_name(2)).unwrap()[..8192].to_vec();
    assert!(refused(&|s| s.put(&file_name(2), &cut)).contains("8192 bytes"));
    let mut newer = base.contents(&file_name(2)).unwrap();
    newer[8] = 2;
    newer[12..16].fill(0);
    let crc = crc32c::crc32c(&newer[..LOG_BLOCK_BYTES]);
    newer[12..16].copy_from_slice(&crc.to_le_bytes());
    assert!(refused(&|s| s.put(&file_name(2), &newer)).contains("log format 2"));
    let other = LogConfig { segment_bytes: 128 << 10, ..CONFIG };
    let error = Log::recover(&base.fork(1), other, &mut |_, _| {}).map(|r| r.1).unwrap_err();
    assert!(error.to_string().contains("set segment_bytes = 65536"), "{error}");
    // The oldest one: the log knows which it still needs.
    assert!(refused(&|s| s.remove(&file_name(1)).unwrap()).contains("000000000001.seg is missing"));
    log.release(records[0].0, 5000);
}

#[test]
fn a_failed_write_ends_everything() {
    let storage = SimStorage::new(5);
    let (mut log, records) = filled(&storage, 3, 100);
    storage.fail(Fault::FailWrite, 0);
    log.append(&[b"lost"]);
    let batch = log.seal().unwrap();
    assert!(batch.write().unwrap_err().to_string().contains("000000000001.seg"));
    log.batch_failed(batch);
    log.append(&[b"later"]);
    assert!(log.seal().is_none());
    assert!(log.next_chore().is_none());
    storage.power_loss();
    let found = open(&storage).unwrap().2;
    assert!(found.starts_with(&records));
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

#[test]
fn a_full_disk_opens_again_when_segments_die() {
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
    log.append(&[b"x"]);
    commit(&mut log);
    quiet(&mut log, &storage);
    assert_eq!(log.room(), Room::Open);
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

/// A queue of the simplest kind: keys with values, written and removed; the newest record of a key counts.
#[derive(Default, Clone, Debug, PartialEq)]
struct Model(BTreeMap<u8, (Position, Vec<u8>)>);

impl Model {
    fn replay(&mut self, position: Position, record: &[u8]) {
        match record {
            [0, key] => {
                self.0.remove(key);
            }
            [_, key, ..] => {
                self.0.insert(*key, (position, record.to_vec()));
            }
            _ => panic!("not a record of the model"),
        }
    }

    fn put(&mut self, log: &mut Log, record: &[u8]) {
        let position = log.append(&[record]);
        if let Some((old, value)) = self.0.insert(record[1], (position, record.to_vec())) {
            log.release(old, value.len() as u32);
        }
    }

    fn remove(&mut self, log: &mut Log, key: u8) {
        if let Some((old, value)) = self.0.remove(&key) {
            let tombstone = log.append(&[&[0, key]]);
            log.release(tombstone, 2);
            log.release(old, value.len() as u32);
        }
    }

    /// Writes or removes some key.
    fn change(&mut self, log: &mut Log, rng: &mut fastrand::Rng) -> u8 {
        let key = rng.u8(0..20);
        if rng.u8(0..3) > 0 {
            let mut record = vec![rng.u8(1..255); rng.usize(2..3000)];
            record[1] = key;
            self.put(log, &record);
        } else {
            self.remove(log, key);
        }
        key
    }

    fn relocate(&mut self, log: &mut Log, position: Position, record: &[u8]) {
        if self.0.get(&record[1]).is_some_and(|(at, _)| *at == position) {
            self.put(log, record);
        }
    }

    fn values(&self) -> BTreeMap<u8, Vec<u8>> {
        self.0.iter().map(|(key, (_, value))| (*key, value.clone())).collect()
    }
}

/// One chore, if there is one.
fn model_chore(log: &mut Log, storage: &SimStorage, model: &mut Model) {
    let Some(chore) = log.next_chore() else { return };
    match log.chore_done(chore.run(storage)) {
        ChoreOutcome::Quiet => {}
        ChoreOutcome::Relocation(slice) => {
            for (position, record) in slice.records() {
                model.relocate(log, position, record);
            }
            log.relocated(slice);
        }
        other => panic!("{other:?}"),
    }
}

/// Random work with crashes anywhere: what was committed, or synced if the power goes, is there after each, and what was
/// not may be.
fn model_run(seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let storage = SimStorage::new(seed);
    for _ in 0..6 {
        let durability =
            if rng.bool() { Durability::Sync } else { Durability::Interval(Duration::from_millis(1)) };
        let mut model = Model::default();
        let (mut log, _) =
            Log::recover(&storage, LogConfig { seed: rng.u64(..), durability, ..CONFIG }, &mut |at, r| {
                model.replay(at, r)
            })
            .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        for (position, value) in model.0.values() {
            log.retain(*position, value.len() as u32);
        }
        let mut states = vec![model.values()];
        let mut history: Vec<(usize, u8, Option<Vec<u8>>)> = Vec::new();
        let (mut committed, mut synced) = (0, 0);
        let mut sealed: Vec<(Ticket, usize)> = Vec::new();
        for _ in 0..rng.usize(10..300) {
            for _ in 0..rng.usize(0..6) {
                let key = model.change(&mut log, &mut rng);
                history.push((states.len(), key, model.values().remove(&key)));
            }
            states.push(model.values());
            sealed.push((log.open_ticket(), states.len() - 1));
            if rng.u8(0..8) == 0 {
                log.request_sync();
            }
            while rng.u8(0..4) > 0 {
                let Some(batch) = log.seal() else { break };
                batch.write().unwrap();
                log.batch_done(batch);
            }
            for _ in 0..rng.usize(0..4) {
                model_chore(&mut log, &storage, &mut model);
            }
            let is_committed = |(ticket, _): &&(Ticket, usize)| *ticket <= log.committed();
            committed = sealed.iter().rfind(is_committed).map_or(committed, |(_, state)| *state);
            if !log.is_unsynced() {
                synced = committed;
            }
            if rng.u8(0..100) == 0 {
                // The process dies in the middle of a write.
                storage.fail(Fault::FailWrite, 0);
                if let Some(batch) = log.seal() {
                    let _ = batch.write();
                }
                break;
            }
        }
        drop(log);
        storage.heal();
        let mut durable = committed;
        if rng.bool() {
            storage.power_loss();
            durable = synced;
        }
        let mut found = Model::default();
        Log::recover(&storage, CONFIG, &mut |at, r| found.replay(at, r))
            .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        // What came after the last commit may be there in part: each key as it was then, or at some time since.
        let found = found.values();
        let last = states.len() - 1;
        let possible = (0..20).all(|key| {
            states[durable].get(&key) == found.get(&key)
                || history
                    .iter()
                    .any(|(turn, k, v)| *turn > durable && *k == key && v.as_ref() == found.get(&key))
        });
        assert!(possible, "seed {seed}: state {durable} of {last} was durable");
    }
}

#[test]
fn random_work_with_crashes_keeps_what_was_committed() {
    for seed in 0..300 {
        model_run(seed);
    }
}

#[test]
fn the_log_stays_within_its_bound() {
    let storage = SimStorage::new(1);
    let (mut log, _, _) = open(&storage).unwrap();
    let mut model = Model::default();
    let mut rng = fastrand::Rng::with_seed(3);
    for turn in 0..3000 {
        let mut record = vec![1; rng.usize(10..2000)];
        // Some keys are written once and stay, so that only relocation frees what they lie in.
        record[1] = if turn % 50 == 0 { 100 + (turn / 50) as u8 } else { rng.u8(0..10) };
        model.put(&mut log, &record);
        // Twice, because what was relocated may have waited for a segment.
        for _ in 0..2 {
            commit(&mut log);
            chores(&mut log, &storage, &mut |log, position, record| model.relocate(log, position, record));
        }
        let stats = log.stats();
        let bytes = stats.segments * CONFIG.segment_bytes;
        let bound = 2 * stats.live_bytes + SPARE_SEGMENTS_MAX as u64 * CONFIG.segment_bytes;
        assert!(bytes <= bound, "turn {turn}: {stats:?}");
    }
    assert!(log.stats().relocated > 0);
    assert!(log.stats().waits <= 1, "{:?}", log.stats());
    let mut found = Model::default();
    Log::recover(&storage, CONFIG, &mut |at, r| found.replay(at, r)).unwrap();
    assert_eq!(found.values(), model.values());
}

/// The largest messages are a third of a segment; with each comes a head and what marks its end.
#[test]
fn the_log_stays_within_its_bound_with_the_largest_messages() {
    for seed in 0..4 {
        let storage = SimStorage::new(1);
        let (mut log, _, _) = open(&storage).unwrap();
        let mut model = Model::default();
        let mut rng = fastrand::Rng::with_seed(seed);
        let largest = CONFIG.segment_bytes as usize / MESSAGES_PER_SEGMENT_MIN;
        for turn in 0..600 {
            let mut record = vec![1; rng.usize(largest / 2..=largest) + 300];
            record[1] = if turn % 40 == 0 { 100 + (turn / 40) as u8 } else { rng.u8(0..8) };
            model.put(&mut log, &record);
            for _ in 0..2 {
                commit(&mut log);
                chores(&mut log, &storage, &mut |log, position, record| {
                    model.relocate(log, position, record)
                });
            }
            let stats = log.stats();
            let bytes = stats.segments * CONFIG.segment_bytes;
            let bound = 2 * stats.live_bytes + SPARE_SEGMENTS_MAX as u64 * CONFIG.segment_bytes;
            assert!(bytes <= bound, "seed {seed}, turn {turn}: {stats:?}");
        }
        let mut found = Model::default();
        Log::recover(&storage, CONFIG, &mut |at, r| found.replay(at, r)).unwrap();
        assert_eq!(found.values(), model.values());
    }
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
fn a_forged_batch_in_a_record_is_no_batch() {
    let storage = SimStorage::new(1);
    let (mut log, _) = filled(&storage, 1, 100);
    // A copy of the first batch, salt and all, where a batch would start if the one around it were cut.
    let copy = storage.contents(&file_name(1)).unwrap()[4096..8192].to_vec();
    let mut record = vec![0; 4096 - 80 - 8];
    record.extend(copy);
    log.append(&[&record]);
    commit(&mut log);
    storage.flip(&file_name(1), 8192 + 100, 1);
    let (_, report, found) = open(&storage).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(report.cut.unwrap().offset, 8192);
}

#[test]
fn any_bytes_may_be_decoded() {
    let storage = SimStorage::new(1);
    filled(&storage, 3, 700);
    let segment = storage.contents(&file_name(1)).unwrap();
    assert_eq!(decode_segment(&segment, &mut |_, _| {}).unwrap().records, 3);
    let mut rng = fastrand::Rng::with_seed(1);
    for _ in 0..2000 {
        let mut bytes = segment[..rng.usize(0..20_000)].to_vec();
        for _ in 0..rng.usize(0..4).min(bytes.len()) {
            let at = rng.usize(0..bytes.len());
            bytes[at] = rng.u8(..);
        }
        let _ = decode_segment(&bytes, &mut |_, _| {});
    }
}

#[test]
fn the_format_is_what_it_was() {
    let storage = SimStorage::new(1);
    let (mut log, _, _) = open(&storage).unwrap();
    log.append(&[b"one"]);
    log.append(&[b"t", b"wo"]);
    commit(&mut log);
    log.append(&[&[3; 5000]]);
    commit(&mut log);
    let segment = storage.contents(&file_name(1)).unwrap();
    let golden = include_bytes!("golden.seg");
    let known = &segment[..4 * LOG_BLOCK_BYTES];
    if std::env::var_os("RELAYMESH_WRITE_GOLDEN").is_some() {
        std::fs::write("src/log/golden.seg", known).unwrap();
        return;
    }
    let mut records = Vec::new();
    decode_segment(golden, &mut |_, record| records.push(record.to_vec())).unwrap();
    assert_eq!(records, [b"one".to_vec(), b"two".to_vec(), vec![3; 5000]]);
    assert!(
        known == golden,
        "the bytes of a segment changed: raise FORMAT_VERSION and keep reading the old one"
    );
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
