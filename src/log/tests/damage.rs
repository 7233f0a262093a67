//! Power fails, bits flip, files go missing or are of others: what is recovered, cut or refused.

use super::*;

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
fn after_a_clean_end_a_flip_in_the_last_record_is_refused() {
    for durability in [Durability::Sync, Durability::Interval(Duration::from_secs(1))] {
        let storage = SimStorage::new(1);
        let config = LogConfig { durability, ..CONFIG };
        let start = || {
            let mut found = 0;
            Log::recover(&storage, config, &mut |_, _| found += 1).map(|(log, _)| (log, found))
        };
        let (mut log, _) = start().unwrap();
        assert!(!log.conclude(), "there is nothing to be named");
        for i in 0..2 {
            log.append(&[&[i; 700]]);
            commit(&mut log);
        }
        log.request_sync();
        commit(&mut log);
        assert!(log.conclude());
        commit(&mut log);
        assert!(!log.conclude() && log.seal().is_none(), "one is enough");
        drop(log);
        let offset = 2 * LOG_BLOCK_BYTES as u64 + 500;
        storage.flip(&file_name(1), offset, 1);
        assert!(matches!(start(), Err(LogError::Damaged { .. })));
        storage.flip(&file_name(1), offset, 1);
        // The batch without a record says nothing that anybody would miss.
        storage.flip(&file_name(1), 3 * LOG_BLOCK_BYTES as u64 + 40, 1);
        let (mut log, found) = start().unwrap();
        assert_eq!(found, 2);
        log.append(&[b"next"]);
        commit(&mut log);
        assert_eq!(start().unwrap().1, 3);
    }
}

#[test]
fn a_segment_that_is_full_is_not_followed_by_another_only_to_conclude() {
    let storage = SimStorage::new(1);
    let (mut log, _, _) = open(&storage).unwrap();
    log.append(&[&vec![1; CONFIG.record_bytes_max()]]);
    commit(&mut log);
    assert!(!log.conclude() && log.seal().is_none());
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
fn a_batch_that_finds_no_space_halfway_ends_everything_and_takes_nothing_along() {
    for seed in 0..40 {
        let storage = SimStorage::new(seed);
        let (mut log, records) = filled(&storage, 3, 100);
        storage.fail(Fault::FullWrite, 0);
        for i in 0..4 {
            log.append(&[&[i; 3000]]);
        }
        let batch = log.seal().unwrap();
        let error = batch.write().unwrap_err().to_string();
        assert!(error.contains("000000000001.seg"), "{error}");
        log.batch_failed(batch);
        // Space comes back, and whoever goes on would leave a hole.
        storage.heal();
        log.append(&[b"later"]);
        log.retry_space();
        assert!(log.seal().is_none() && log.next_chore().is_none());
        assert_eq!(log.committed(), Ticket(3), "what did not fit is not answered");
        drop(log);
        storage.power_loss();
        let (mut log, report, found) = open(&storage).unwrap();
        assert_eq!(found, records, "seed {seed}: {report:?}");
        let next = (log.append(&[b"next"]), b"next".to_vec());
        commit(&mut log);
        assert_eq!(open(&storage).unwrap().2.last(), Some(&next));
    }
}

#[test]
fn a_segment_that_finds_no_space_halfway_is_made_anew_when_there_is_some() {
    for seed in 0..40 {
        let storage = SimStorage::new(seed);
        let (mut log, _, _) = open(&storage).unwrap();
        storage.fail(if seed % 2 == 0 { Fault::FullWrite } else { Fault::FailSync }, seed as u32 % 3);
        let mut refused = 0;
        let mut records = Vec::new();
        for i in 0..30 {
            while let Some(chore) = log.next_chore() {
                match log.chore_done(chore.run(&storage)) {
                    ChoreOutcome::NoSpace(_) => refused += 1,
                    ChoreOutcome::Quiet => {}
                    other => panic!("{other:?}"),
                }
            }
            if log.room() == Room::Reserved {
                storage.heal();
                log.retry_space();
                quiet(&mut log, &storage);
                assert_eq!(log.room(), Room::Open);
            }
            records.push((log.append(&[&[i; 5000]]), vec![i; 5000]));
            commit(&mut log);
        }
        assert_eq!(refused, 1, "seed {seed}");
        quiet(&mut log, &storage);
        commit(&mut log);
        storage.power_loss();
        assert_eq!(open(&storage).unwrap().2, records);
    }
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
    let golden = include_bytes!("../golden.seg");
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
