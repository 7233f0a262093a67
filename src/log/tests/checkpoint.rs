//! A start that reads heads only, where there are checkpoints, is a start like any other.

use super::*;
use crate::log::checkpoint::{CHECKPOINT_BEHIND, RECORD_BYTES_MIN};

const HEAD: usize = 16;

fn head_len(_: &[u8]) -> usize {
    HEAD
}

fn all_of_it(record: &[u8]) -> usize {
    record.len()
}

/// Position, what was handed over, and the length of the record.
type Heads = Vec<(Position, Vec<u8>, u32)>;

fn open_heads(storage: &dyn Storage) -> Result<(Log, Recovery, Heads), LogError> {
    let mut heads = Vec::new();
    let (log, report) = Log::recover_heads(storage, CONFIG, head_len, &mut |at, head, len| {
        heads.push((at, head.to_vec(), len));
    })?;
    Ok((log, report, heads))
}

fn checkpoints(storage: &SimStorage) -> Vec<String> {
    let names = storage.list().unwrap().into_iter().map(|entry| entry.name);
    names.filter(|name| name.ends_with(".heads")).collect()
}

/// A log of many segments of which everything lives, with the checkpoints that it then has.
fn long(len: usize) -> (SimStorage, Log, Records) {
    let storage = SimStorage::new(1);
    let (mut log, ..) = open_heads(&storage).unwrap();
    let mut records = Vec::new();
    for i in 0..1_400_000 / len {
        let mut record = vec![i as u8; len];
        record[..8].copy_from_slice(&(i as u64).to_le_bytes());
        records.push((log.append(&[&record]), record));
        // Batches with little padding.
        if i % (12_000 / len) == 0 {
            commit(&mut log);
            quiet(&mut log, &storage);
        }
    }
    commit(&mut log);
    quiet(&mut log, &storage);
    (storage, log, records)
}

fn retain_all(log: &mut Log, records: &Records) {
    records.iter().for_each(|(at, record)| log.retain(*at, record.len() as u32));
}

#[test]
fn a_start_reads_the_heads_of_old_segments_and_bodies_when_they_are_wanted() {
    let (storage, log, records) = long(3000);
    let newest = records.last().unwrap().0.0 / CONFIG.segment_bytes;
    drop(log);
    storage.power_loss();
    let made = checkpoints(&storage).len() as u64;
    assert_eq!(made, newest - CHECKPOINT_BEHIND, "all that are far enough behind");
    let before = storage.read_bytes();
    let (mut log, report, heads) = open_heads(&storage).unwrap();
    let read = storage.read_bytes() - before;
    assert_eq!((report.checkpoints, report.records), (made, records.len() as u64));
    assert!(read < (CHECKPOINT_BEHIND + 5) * CONFIG.segment_bytes, "{read} bytes read");
    for ((at, head, len), (position, record)) in heads.iter().zip(&records) {
        let is_old = at.0 / CONFIG.segment_bytes <= made;
        let expected = if is_old { &record[..HEAD] } else { &record[..] };
        assert_eq!((at, &head[..], *len as usize), (position, expected, record.len()));
    }
    // The whole start is the same, and so is what is read back.
    assert_eq!(open(&storage.fork(2)).unwrap().2, records);
    retain_all(&mut log, &records);
    log.append(&[b"more"]);
    commit(&mut log);
    let asked: Vec<_> = records.iter().map(|(at, r)| (log.read(*at, 8, r.len() as u32 - 8), r)).collect();
    let read = quiet(&mut log, &storage);
    assert!(asked.iter().all(|(ticket, record)| read[ticket] == record[8..]));
}

#[test]
fn a_checkpoint_with_any_flipped_bit_is_as_if_it_were_not_there() {
    let (storage, log, records) = long(3000);
    drop(log);
    let name = checkpoints(&storage)[2].clone();
    let used = 128 + (CONFIG.segment_bytes / 3000) * (12 + HEAD as u64);
    let made = checkpoints(&storage).len() as u64;
    let mut ignored = 0;
    for bit in 0..8 * used {
        // The whole of its header, and here and there behind.
        if bit > 8 * 128 && bit % 37 != 0 {
            continue;
        }
        storage.flip(&name, bit / 8, bit as u8);
        let (_, report, heads) = open_heads(&storage.fork(1)).unwrap();
        assert_eq!(heads.len(), records.len());
        assert!(heads.iter().zip(&records).all(|((_, head, _), (_, record))| record.starts_with(head)));
        ignored += u64::from(report.checkpoints == made - 1);
        assert!(report.checkpoints >= made - 1);
        storage.flip(&name, bit / 8, bit as u8);
    }
    assert!(ignored > 1024, "{ignored} of the flips hit what is used");
    // A shorter file, none at all, and that of another segment.
    let bytes = storage.contents(&name).unwrap();
    let other = storage.contents(&checkpoints(&storage)[3]).unwrap();
    for wrong in [&[][..], &bytes[..LOG_BLOCK_BYTES / 2], &other] {
        let fork = storage.fork(1);
        fork.put(&name, wrong);
        let (_, report, _) = open_heads(&fork).unwrap();
        assert_eq!((report.checkpoints, report.records), (made - 1, records.len() as u64));
        let found = inspect(&fork, &mut |_| Ok(())).unwrap();
        assert_eq!((found.checkpoints, found.useless_checkpoints, found.damages.len()), (made - 1, 1, 0));
    }
}

#[test]
fn damage_is_found_where_it_lies() {
    let (base, log, records) = long(3000);
    drop(log);
    let made = checkpoints(&base).len() as u64;
    let newest = records.last().unwrap().0.0 / CONFIG.segment_bytes;
    for segment in 1..newest {
        let storage = base.fork(segment);
        let at = records.iter().find(|(at, _)| at.0 / CONFIG.segment_bytes == segment).unwrap();
        let offset = at.0.0 % CONFIG.segment_bytes;
        storage.flip(&file_name(segment), offset + 1000, 3);
        let found = inspect(&storage, &mut |_| Ok(())).unwrap();
        assert_eq!((found.damages[0].file.clone(), found.damages[0].offset), (file_name(segment), offset));
        let kind = if segment <= made { DamageKind::Unread } else { DamageKind::Wrong };
        assert_eq!(found.damages[0].kind, kind, "segment {segment}");
        let started = open_heads(&storage);
        if segment > made {
            assert!(matches!(started, Err(LogError::Damaged { .. })), "segment {segment}");
            continue;
        }
        let (mut log, ..) = started.unwrap();
        retain_all(&mut log, &records);
        log.read(at.0, 0, 10);
        let chore = log.next_chore().unwrap();
        let read = log.chore_done(chore.run(&storage));
        let ChoreOutcome::Failed(LogError::Damaged { file, offset: named, .. }) = read else {
            panic!("{read:?}")
        };
        assert_eq!((file, named), (file_name(segment), offset), "nothing wrong is ever delivered");
        storage.flip(&file_name(segment), 100, 3);
        assert!(open_heads(&storage).is_err(), "the segment's own header is read at each start");
    }
    // One that is not there, and a chain that ends before a segment with a checkpoint.
    let storage = base.fork(1);
    storage.remove(&file_name(3)).unwrap();
    assert!(matches!(open_heads(&storage), Err(LogError::Missing { .. })));
    let storage = base.fork(1);
    storage.remove(&checkpoints(&base)[1]).unwrap();
    storage.flip(&file_name(2), CONFIG.segment_bytes / 2, 1);
    let refused = open_heads(&storage).map(|opened| opened.1).unwrap_err();
    assert!(matches!(&refused, LogError::Damaged { file, .. } if *file == file_name(2)), "{refused}");
}

#[test]
fn a_checkpoint_goes_with_its_segment() {
    let (storage, mut log, records) = long(3000);
    let made = checkpoints(&storage);
    for (position, record) in &records {
        log.release(*position, record.len() as u32);
    }
    for _ in 0..3 {
        log.append(&[b"moves"]);
        commit(&mut log);
        chores(&mut log, &storage, &mut |_, _, _| {});
    }
    assert!(made.len() > 8);
    assert_eq!(checkpoints(&storage), Vec::<String>::new());
    // Where the power goes in between it may be left alone: the next start takes it away.
    storage.put(&made[0], &[1; LOG_BLOCK_BYTES]);
    drop(log);
    open_heads(&storage).unwrap();
    assert_eq!(checkpoints(&storage), Vec::<String>::new());
}

#[test]
fn checkpoints_without_any_segment_are_of_a_log_that_is_gone() {
    let (storage, log, _) = long(3000);
    drop(log);
    let made = checkpoints(&storage);
    let names: Vec<_> = storage.list().unwrap().into_iter().map(|entry| entry.name).collect();
    names.iter().filter(|name| name.ends_with(".seg")).for_each(|name| storage.remove(name).unwrap());
    let told = open_heads(&storage).map(|opened| opened.1).unwrap_err().to_string();
    assert!(told.contains(&made[0]) && told.contains("put them back"), "{told}");
    let found = inspect(&storage, &mut |_| Ok(())).unwrap();
    assert_eq!(found.damages[0].file, made[0]);
    assert_eq!(checkpoints(&storage), made, "they stay, to be put beside their segments again");
    made.iter().for_each(|name| storage.remove(name).unwrap());
    assert!(open_heads(&storage).unwrap().1.is_new);
}

#[test]
fn small_records_and_short_logs_get_none() {
    let (storage, ..) = long(RECORD_BYTES_MIN as usize - 200);
    assert_eq!(checkpoints(&storage), Vec::<String>::new());
    let storage = SimStorage::new(1);
    let (mut log, ..) = open_heads(&storage).unwrap();
    while log.append(&[&[1; 3000]]).0 < (CHECKPOINT_BEHIND + 1) * CONFIG.segment_bytes {
        commit(&mut log);
        quiet(&mut log, &storage);
    }
    assert_eq!(checkpoints(&storage), Vec::<String>::new());
}

#[test]
fn a_disk_without_room_for_a_checkpoint_goes_without() {
    for fault in [Fault::FullWrite, Fault::FailSync] {
        let (base, log, records) = long(3000);
        drop(log);
        let storage = base.fork(3);
        checkpoints(&storage).iter().for_each(|name| storage.remove(name).unwrap());
        let (mut log, ..) = open_heads(&storage).unwrap();
        retain_all(&mut log, &records);
        while log.stats().prepared < 3 {
            let chore = log.next_chore().unwrap();
            let _ = log.chore_done(chore.run(&storage));
        }
        storage.fail(fault, 0);
        quiet(&mut log, &storage);
        assert_eq!(log.room(), Room::Open);
        storage.heal();
        log.append(&[b"more"]);
        commit(&mut log);
        drop(log);
        storage.power_loss();
        let (_, report, heads) = open_heads(&storage).unwrap();
        assert_eq!((report.checkpoints, heads.len()), (0, records.len() + 1));
    }
}

/// Random work, each step of the chores taken or not, and a kill or a power loss: what was committed is there whatever
/// became of the checkpoints.
#[test]
fn random_work_with_crashes_keeps_what_was_committed() {
    let mut used = 0;
    for seed in 0..12 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let storage = SimStorage::new(seed);
        let mut expected: BTreeMap<u16, Vec<u8>> = BTreeMap::new();
        for _ in 0..8 {
            let mut at: BTreeMap<u16, (Position, Vec<u8>)> = BTreeMap::new();
            let key_of = |record: &[u8]| u16::from_le_bytes([record[0], record[1]]);
            let (mut log, report) = Log::recover_heads(
                &storage,
                LogConfig { seed, ..CONFIG },
                all_of_it,
                &mut |position, r, len| {
                    assert_eq!(r.len() as u32, len);
                    at.insert(key_of(r), (position, r.to_vec()));
                },
            )
            .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            used += report.checkpoints;
            let found: BTreeMap<_, _> = at.iter().map(|(key, (_, record))| (*key, record.clone())).collect();
            assert!(found == expected, "seed {seed}");
            at.values().for_each(|(position, record)| log.retain(*position, record.len() as u32));
            for _ in 0..rng.usize(50..200) {
                for _ in 0..rng.usize(1..4) {
                    let mut record = vec![rng.u8(..); rng.usize(500..4000)];
                    let key = rng.u16(0..400);
                    record[..2].copy_from_slice(&key.to_le_bytes());
                    let position = log.append(&[&record]);
                    if let Some((old, former)) = at.insert(key, (position, record)) {
                        log.release(old, former.len() as u32);
                    }
                }
                commit(&mut log);
                for _ in 0..rng.usize(0..20) {
                    let Some(chore) = log.next_chore() else { break };
                    if let ChoreOutcome::Relocation(slice) = log.chore_done(chore.run(&storage)) {
                        for (position, record) in slice.records() {
                            let key = key_of(record);
                            if at.get(&key).is_some_and(|(at, _)| *at == position) {
                                let moved = log.append(&[record]);
                                log.release(position, record.len() as u32);
                                at.insert(key, (moved, record.to_vec()));
                            }
                        }
                        log.relocated(slice);
                        commit(&mut log);
                    }
                }
            }
            // What waits for a segment is committed before the crash, so that all is known.
            for _ in 0..1000 {
                commit(&mut log);
                if log.open_bytes() == 0 {
                    break;
                }
                let chore = log.next_chore().unwrap();
                if let ChoreOutcome::Relocation(slice) = log.chore_done(chore.run(&storage)) {
                    log.relocated(slice);
                }
            }
            expected = at.into_iter().map(|(key, (_, record))| (key, record)).collect();
            drop(log);
            if rng.bool() {
                storage.power_loss();
            }
        }
    }
    assert!(used > 50, "{used} checkpoints were read");
}

/// A checkpoint of one record, written by hand: `end` is where its segment's batches end.
fn one_record_until(end: u64) -> Vec<u8> {
    let entry = [&4096u32.to_le_bytes()[..], &100u32.to_le_bytes(), &4u32.to_le_bytes(), b"head"].concat();
    let mut bytes = b"RMCHECKP\x01\0\0\0\0\0\0\0".to_vec();
    // Segment, salt, bytes of entries, end, batches, records, bytes of data, and the first and the last batch.
    for number in [3, 77, entry.len() as u64, end, 1, 1, 100, 1, 0, 1, 3, 0] {
        bytes.extend(u64::to_le_bytes(number));
    }
    bytes.resize(128, 0);
    bytes.extend(entry);
    let crc = crc32c::crc32c(&bytes);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    bytes
}

#[test]
fn a_checkpoint_that_ends_behind_its_segment_is_none() {
    let read = |end| {
        let mut records = Vec::new();
        let is_whole = decode_checkpoint(&one_record_until(end), 1 << 20, &mut |position, head, len| {
            records.push((position.0, head.to_vec(), len));
        });
        (is_whole, records)
    };
    assert_eq!(read(1 << 20), (true, vec![((3 << 20) + 4096, b"head".to_vec(), 100)]));
    for end in [(1 << 20) + 1, u64::MAX] {
        assert_eq!(read(end), (false, vec![]));
    }
}
