//! A log looked at from outside: whatever was changed is named with its place, and nothing else is.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::log::format::{self, Identity};
use crate::log::inspect::flaws_of_batch;

/// Looks at all of it; records are any bytes here.
fn look(storage: &dyn Storage) -> Inspection {
    inspect(storage, &mut |_| Ok(())).unwrap()
}

fn places(found: &Inspection) -> Vec<(&str, u64)> {
    found.damages.iter().map(|damage| (damage.file.as_str(), damage.offset)).collect()
}

/// What a start makes of the same directory: the place of the damage, or what it cuts.
fn start(storage: &SimStorage) -> Result<Option<Cut>, (String, u64)> {
    match open(&storage.fork(1)) {
        Ok((_, report, _)) => Ok(report.cut),
        Err(LogError::Damaged { file, offset, .. }) => Err((file, offset)),
        Err(LogError::Missing { file }) => Err((file, 0)),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn a_sound_log_has_no_damage_and_every_record() {
    let storage = SimStorage::new(1);
    let (_, records) = filled(&storage, 40, 5000);
    let before = storage.contents(&file_name(1));
    let mut seen = Vec::new();
    let found = inspect(&storage, &mut |sighting| {
        assert!(!sighting.is_behind_a_break);
        let position = sighting.segment * CONFIG.segment_bytes + sighting.offset;
        seen.push((Position(position), sighting.data.to_vec()));
        Ok(())
    })
    .unwrap();
    assert_eq!(seen, records);
    assert_eq!((&found.damages, &found.cut), (&Vec::new(), &None), "{found:?}");
    assert_eq!((found.records, found.batches, found.data_bytes), (40, 40, 40 * 5000));
    let last = records[39].0.0;
    let end = (file_name(last / CONFIG.segment_bytes), last % CONFIG.segment_bytes - 80 + 8192);
    assert_eq!(found.end, Some(end));
    assert!(found.segments > 3 && found.unused >= 2, "{found:?}");
    assert_eq!(storage.contents(&file_name(1)), before, "nothing is changed");
}

#[test]
fn every_damage_is_named_not_the_first_alone() {
    let storage = SimStorage::new(1);
    let (mut log, records) = filled(&storage, 40, 5000);
    for i in 0..4 {
        log.append(&[&[100 + i; 700]]);
    }
    commit(&mut log);
    log.append(&[b"last"]);
    commit(&mut log);
    let place = |index: usize, ahead: u64| {
        let position = records[index].0.0 - ahead;
        (file_name(position / CONFIG.segment_bytes), position % CONFIG.segment_bytes)
    };
    let several = look(&storage).end.unwrap();
    let batch = (several.0, several.1 - 2 * 4096);
    let damaged = [
        // A record, a batch header, the magic of one, padding, the first batch of a segment, and the last of another.
        (place(2, 0), 100, 0),
        (place(5, 80), 20, 80),
        (place(8, 80), 3, 80),
        (place(9, 0), 5008 + 17, 5008 + 17),
        (place(14, 80), 40, 80),
        (place(20, 80), 33, 80),
        // Two records of one batch.
        ((batch.0.clone(), batch.1 + 80), 50, 0),
        ((batch.0.clone(), batch.1 + 80 + 2 * 708), 400, 0),
    ];
    let mut expected = Vec::new();
    for ((file, offset), ahead, back) in damaged {
        storage.flip(&file, offset + ahead, 2);
        expected.push((file, if back == 80 { offset } else { offset + back }));
    }
    let mut sound = 0;
    let found = inspect(&storage, &mut |_| {
        sound += 1;
        Ok(())
    })
    .unwrap();
    expected.sort();
    let named: Vec<_> = places(&found).iter().map(|(file, offset)| ((*file).to_owned(), *offset)).collect();
    assert_eq!(named, expected, "{:#?}", found.damages);
    assert_eq!(found.cut, None);
    // Of 45 records all but those in three lost headers and three wrong records; the one before the padding is right.
    assert_eq!(sound, 45 - 4 - 3);
    let refused = start(&storage).unwrap_err();
    assert_eq!(
        refused,
        (expected[0].0.clone(), expected[0].1 - 80),
        "a start names the first of them, by its batch"
    );
}

#[test]
fn what_a_start_refuses_or_cuts_is_found_alike() {
    let base = SimStorage::new(1);
    let (mut log, records) = filled(&base, 30, 5000);
    log.append(&[&[9; 9000]]);
    commit(&mut log);
    drop(log);
    let last = records.last().unwrap().0.0 + 8192 - 80;
    let mut rng = fastrand::Rng::with_seed(5);
    let (mut refused, mut cut) = (0, 0);
    for round in 0..400 {
        let storage = base.fork(round);
        // Near the end more often, where damage and the cut meet.
        let position = if rng.bool() { last - rng.u64(0..20_000) } else { last + rng.u64(0..12_288) };
        storage.flip(
            &file_name(position / CONFIG.segment_bytes),
            position % CONFIG.segment_bytes,
            rng.u8(..),
        );
        let (found, started) = (look(&storage), start(&storage));
        match started {
            Err(_) => {
                refused += 1;
                let damage = &found.damages[0];
                assert_eq!(damage.file, file_name(position / CONFIG.segment_bytes), "{position}: {found:?}");
                let offset = position % CONFIG.segment_bytes;
                assert!((damage.offset..damage.offset + 5088).contains(&offset), "{position}: {found:?}");
            }
            Ok(at_start) => {
                cut += u32::from(at_start.is_some());
                assert_eq!(found.damages, [], "{position}: {found:?}");
                let place = |cut: Option<Cut>| cut.map(|cut| (cut.file, cut.offset));
                assert_eq!(place(found.cut), place(at_start), "{position}");
            }
        }
    }
    assert!(refused > 50 && cut > 50, "{refused} refused, {cut} cut");
}

#[test]
fn files_that_are_missing_foreign_cut_short_or_newer_are_named() {
    let base = SimStorage::new(1);
    let (log, records) = filled(&base, 40, 5000);
    drop(log);
    let found = |change: &dyn Fn(&SimStorage)| {
        let storage = base.fork(3);
        change(&storage);
        assert!(open(&storage.fork(1)).is_err(), "a start refuses it too");
        look(&storage)
    };
    let missing = found(&|s| s.remove(&file_name(2)).unwrap());
    assert_eq!(places(&missing), [(file_name(2).as_str(), 0)], "{missing:?}");
    let oldest = found(&|s| s.remove(&file_name(1)).unwrap());
    assert_eq!(places(&oldest), [(file_name(1).as_str(), 0)], "{oldest:?}");
    assert_eq!(places(&found(&|s| s.put("notes.txt", b"?"))), [("notes.txt", 0)]);
    let short = base.contents(&file_name(2)).unwrap()[..8192].to_vec();
    let short = found(&|s| s.put(&file_name(2), &short));
    assert!(short.damages.iter().any(|damage| damage.what.contains("8192 bytes long")), "{short:?}");
    let mut newer = base.contents(&file_name(2)).unwrap();
    newer[8] = 2;
    newer[12..16].fill(0);
    let crc = crc32c::crc32c(&newer[..LOG_BLOCK_BYTES]);
    newer[12..16].copy_from_slice(&crc.to_le_bytes());
    let newer = found(&|s| s.put(&file_name(2), &newer));
    assert!(newer.damages[0].what.contains("log format 2"), "{newer:?}");
    // Without its own header the batches of a segment still tell what they belong to.
    let headless = found(&|s| s.flip(&file_name(2), 30, 1));
    assert_eq!(places(&headless), [(file_name(2).as_str(), 0)], "{headless:?}");
    assert_eq!(headless.records, records.len() as u64);
}

#[test]
fn what_the_reader_says_against_a_record_is_damage() {
    let storage = SimStorage::new(1);
    let (_, records) = filled(&storage, 3, 700);
    let found = inspect(&storage, &mut |sighting| match sighting.data[0] {
        2 => Err("not understood".to_owned()),
        _ => Ok(()),
    });
    let damage = Damage {
        file: file_name(1),
        offset: records[1].0.0 - CONFIG.segment_bytes,
        what: "not understood".to_owned(),
        kind: DamageKind::Wrong,
    };
    assert_eq!(found.unwrap().damages, [damage]);
}

/// A log whose first segment of 1 MiB is full to its last byte, and where its batches lie.
fn sealed_segment() -> (SimStorage, LogConfig, Vec<u64>) {
    let config = LogConfig { segment_bytes: 1 << 20, ..CONFIG };
    let storage = SimStorage::new(1);
    let (mut log, _) = Log::recover(&storage, config, &mut |_, _| {}).unwrap();
    quiet(&mut log, &storage);
    let mut rng = fastrand::Rng::with_seed(1);
    let (mut left, mut batches) = (255_usize, Vec::new());
    while left > 0 {
        let blocks = [1, 1, 2, 1, 1, 3][batches.len() % 6].min(left);
        batches.push((256 - left as u64) * LOG_BLOCK_BYTES as u64);
        // Records of any length; behind the last one of the batch padding, or none.
        let mut room = blocks * LOG_BLOCK_BYTES - 80 - [0, 1, 700][batches.len() % 3];
        while room > 0 {
            let len = if room > 1000 { rng.usize(0..900) } else { room - 8 };
            let data: Vec<u8> = (0..len).map(|_| rng.u8(..)).collect();
            log.append(&[&data]);
            room -= len + 8;
        }
        commit(&mut log);
        quiet(&mut log, &storage);
        left -= blocks;
    }
    // In the next segment: says that all of this is durable.
    log.append(&[b"next"]);
    commit(&mut log);
    assert_eq!(log.open_bytes(), 0);
    let found = look(&storage);
    assert_eq!((found.damages.len(), found.batches), (0, batches.len() as u64 + 1));
    (storage, config, batches)
}

/// Flips every bit of a batch; each time the decoder that the start uses must refuse, and the place that is named must be
/// the record that was hit, the header, or the very byte of the padding.
fn flip_all(segment: &mut [u8], identity: &Identity, at: u64, end: u64) -> u64 {
    let batch = &mut segment[at as usize..end as usize];
    let header = format::check_batch(batch, identity, at).unwrap();
    let starts: Vec<u64> = format::records(batch, &header).map(|(record, _)| record as u64).collect();
    let payload_end = 80 + u64::from(header.payload_bytes);
    let mut flips = 0;
    for byte in 0..batch.len() as u64 {
        let place = match byte {
            0..80 => 0,
            _ if byte >= payload_end => byte,
            _ => starts[starts.partition_point(|&start| start <= byte) - 1],
        };
        for bit in 0..8 {
            batch[byte as usize] ^= 1 << bit;
            let named = match format::read_batch_header(batch, identity, at) {
                Err(_) => at,
                Ok(found) => {
                    assert!(format::check_batch(batch, identity, at).is_err(), "{byte} {bit} goes unseen");
                    let flaws = flaws_of_batch(batch, identity, at, &found, |_, _| {});
                    flaws.first().unwrap_or_else(|| panic!("{byte} {bit} is not named")).0
                }
            };
            assert_eq!(named, at + place, "byte {byte} bit {bit} of the batch at {at}");
            batch[byte as usize] ^= 1 << bit;
            flips += 1;
        }
    }
    flips
}

#[test]
fn every_flipped_bit_of_a_sealed_segment_is_named_with_its_place() {
    let (storage, config, batches) = sealed_segment();
    let segment = storage.contents(&file_name(1)).unwrap();
    let identity = format::read_segment_header(&segment).unwrap();
    let flips = AtomicU64::new(0);
    let mut own_header = segment[..LOG_BLOCK_BYTES].to_vec();
    for bit in 0..8 * LOG_BLOCK_BYTES {
        own_header[bit / 8] ^= 1 << (bit % 8);
        assert!(format::read_segment_header(&own_header).is_err(), "bit {bit} of the segment's header");
        own_header[bit / 8] ^= 1 << (bit % 8);
    }
    flips.fetch_add(8 * LOG_BLOCK_BYTES as u64, Ordering::Relaxed);
    std::thread::scope(|scope| {
        for part in 0..2 {
            let (mut segment, batches, flips) = (segment.clone(), &batches, &flips);
            scope.spawn(move || {
                for (index, &at) in batches.iter().enumerate().skip(part).step_by(2) {
                    let end = batches.get(index + 1).copied().unwrap_or(segment.len() as u64);
                    flips.fetch_add(flip_all(&mut segment, &identity, at, end), Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(flips.into_inner(), 8 << 20, "every bit of 1 MiB");
    // The same through the whole of a start and of a look, here and there.
    for bit in (0..8_u64 << 20).step_by(131_071) {
        storage.flip(&file_name(1), bit / 8, bit as u8);
        let found = look(&storage);
        assert_eq!(found.damages.len(), 1, "bit {bit}: {found:?}");
        assert!(found.damages[0].offset <= bit / 8 && bit / 8 < found.damages[0].offset + 4096, "{found:?}");
        let refused = Log::recover(&storage.fork(1), config, &mut |_, _| {}).map(|started| started.1);
        assert!(matches!(refused, Err(LogError::Damaged { .. })), "bit {bit}: {refused:?}");
        storage.flip(&file_name(1), bit / 8, bit as u8);
    }
    assert_eq!(look(&storage).damages, []);
}

#[test]
fn a_write_torn_at_every_byte_of_the_last_record_leaves_a_clean_start() {
    for len in [600, 6000] {
        let base = SimStorage::new(1);
        let (mut log, records) = filled(&base, 3, 300);
        let before = base.contents(&file_name(1)).unwrap();
        log.append(&[&vec![9; len]]);
        commit(&mut log);
        let after = base.contents(&file_name(1)).unwrap();
        drop(log);
        let at = 4 * LOG_BLOCK_BYTES;
        let written = (80 + 8 + len).next_multiple_of(LOG_BLOCK_BYTES);
        for torn in 0..=written {
            for keeps_the_end in [false, true] {
                if keeps_the_end && torn % 8 != 0 {
                    continue;
                }
                let (mut bytes, storage) = (before.clone(), base.fork(1));
                let kept = if keeps_the_end { torn..written } else { 0..torn };
                bytes[at..][kept.clone()].copy_from_slice(&after[at..][kept]);
                storage.put(&file_name(1), &bytes);
                let is_whole = bytes == after;
                let found = look(&storage);
                assert_eq!(found.damages, [], "torn at {torn}");
                let (mut log, report, started) =
                    open(&storage).unwrap_or_else(|error| panic!("torn at {torn}: {error}"));
                assert_eq!(started.len(), records.len() + usize::from(is_whole), "torn at {torn}");
                assert!(started.starts_with(&records));
                let place = |cut: Option<Cut>| cut.map(|cut| (cut.file, cut.offset));
                assert_eq!(place(found.cut), place(report.cut), "torn at {torn}");
                if torn % 97 == 0 {
                    let next = (log.append(&[b"next"]), b"next".to_vec());
                    commit(&mut log);
                    assert_eq!(open(&storage).unwrap().2.last(), Some(&next), "torn at {torn}");
                }
            }
        }
    }
}
