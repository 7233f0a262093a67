//! A log written anew holds what it held, whatever interrupts it.

use super::*;
use crate::ids::LeaseId;
use crate::log::{ChoreOutcome, Inspection, Log, Storage, inspect};
use crate::mail::{Settle, Settlement};

type Messages = Vec<(MessageId, Vec<u8>)>;

/// Small segments, so that a few messages fill several.
pub(super) fn small() -> EngineConfig {
    let mut config = config();
    config.log.segment_bytes = 64 << 10;
    config
}

/// A payload of `len` bytes, at least 128 and less than 16,384.
pub(super) fn published(seq: u64, len: usize) -> CommandBatch {
    let mut batch = publish(seq);
    batch.bodies = vec![b'a' + (seq % 26) as u8; len + 3];
    batch.bodies[..3].copy_from_slice(&[0x0a, 0x80 | (len & 0x7f) as u8, (len >> 7) as u8]);
    batch.messages[0].body_len = batch.bodies.len() as u32;
    batch
}

/// Commits and does all chores, as the threads would; what is delivered meanwhile.
pub(super) fn settle(shard: &mut Shard, storage: &SimStorage) -> Vec<(LeaseId, Vec<u8>)> {
    let mut delivered = Vec::new();
    loop {
        commit(shard);
        while let Some(effects) = shard.effects(LOOP) {
            let mut bodies = &effects.bodies[..];
            for effect in &effects.effects {
                if let Effect::Deliver(deliver) = effect {
                    let (body, rest) = bodies.split_at(deliver.body_len as usize);
                    bodies = rest;
                    delivered.push((deliver.lease, body.to_vec()));
                }
            }
        }
        // Room for more deliveries.
        shard.expire(now(5));
        let Some(chore) = shard.next_chore() else { return delivered };
        shard.chore_done(now(5), chore.run(storage)).unwrap();
    }
}

pub(super) fn take_all(shard: &mut Shard, storage: &SimStorage) -> Vec<(LeaseId, Vec<u8>)> {
    let mut subscribe = subscribe(1000);
    if let Command::Subscribe { credit_messages, .. } = &mut subscribe.commands[0] {
        *credit_messages = 1000;
    }
    shard.apply(now(1), &mut attach());
    shard.apply(now(1), &mut subscribe);
    settle(shard, storage)
}

/// Every message that a start from a copy of the directory finds.
pub(super) fn messages_of(storage: &SimStorage) -> Messages {
    let storage = storage.fork(9);
    let (mut shard, _) = start_with(&storage, small());
    let taken = take_all(&mut shard, &storage);
    shard.check_invariants();
    let mut found: Messages = taken.into_iter().map(|(lease, body)| (lease.message, body)).collect();
    found.sort();
    found
}

fn look(storage: &SimStorage) -> Inspection {
    inspect(storage, &mut |_| Ok(())).unwrap()
}

/// A log of several segments of which every third message lives.
pub(super) fn worn() -> (SimStorage, Messages) {
    let storage = SimStorage::new(1);
    wear(&storage, &Arc::default());
    let messages = messages_of(&storage);
    assert_eq!(messages.len(), 66);
    (storage, messages)
}

/// Writes it.
fn wear(storage: &SimStorage, metrics: &Arc<ShardMetrics>) {
    let (mut shard, _) = Shard::recover(storage, small(), Arc::clone(metrics), Wall(1000)).unwrap();
    settle(&mut shard, storage);
    shard.apply(now(1), &mut attach());
    for seq in 1..=200 {
        shard.apply(now(1), &mut published(seq, 2000));
        settle(&mut shard, storage);
    }
    let taken = take_all(&mut shard, storage);
    assert_eq!(taken.len(), 200);
    let leases: Vec<_> = taken.iter().map(|taken| taken.0).filter(|lease| lease.message.0 % 3 != 0).collect();
    let count = leases.len() as u32;
    let settlement = Settlement::Ack;
    let ack = Settle { conn: CONN, seq: 1001, settlement, leases: count, replenish: false };
    let mut acks = CommandBatch { commands: vec![Command::Settle(ack)], leases, ..CommandBatch::default() };
    shard.apply(now(2), &mut acks);
    settle(&mut shard, storage);
}

#[test]
fn what_compaction_writes_again_is_counted() {
    let metrics = Arc::default();
    wear(&SimStorage::new(1), &metrics);
    let counted = metrics.log_relocated.value();
    assert!(counted > 0, "what lives in the oldest segments is written again");
}

#[test]
fn a_log_written_anew_holds_the_same_messages_and_nothing_old() {
    let (storage, messages) = worn();
    let before = look(&storage);
    let mut left = Vec::new();
    rewrite(&storage, small(), &mut |segments| left.push(segments)).unwrap();
    let after = look(&storage);
    assert!(before.segments >= 3 && left[0] >= before.segments, "{left:?}");
    assert_eq!(left.last(), Some(&0));
    assert!(left.is_sorted_by(|a, b| a > b), "{left:?}");
    assert!(after.data_bytes < before.data_bytes, "{before:?} {after:?}");
    assert_eq!(after.damages, []);
    // All of it lies behind what was there.
    let mut oldest = u64::MAX;
    inspect(&storage, &mut |sighting| {
        oldest = oldest.min(sighting.segment);
        Ok(())
    })
    .unwrap();
    assert!(format!("{oldest:012}.seg") > before.end.unwrap().0, "{oldest}");
    storage.power_loss();
    assert_eq!(messages_of(&storage), messages);
}

#[test]
fn a_rewrite_that_is_interrupted_anywhere_loses_nothing() {
    let (base, messages) = worn();
    let mut interrupted = 0;
    for fault in [Fault::FailWrite, Fault::FailSync] {
        for after in 0..400 {
            let storage = base.fork(u64::from(after));
            storage.fail(fault, after);
            let ended = rewrite(&storage, small(), &mut |_| {});
            storage.power_loss();
            assert_eq!(messages_of(&storage), messages, "{fault:?} after {after}");
            if ended.is_ok() {
                break;
            }
            interrupted += 1;
            if after % 5 == 0 {
                rewrite(&storage, small(), &mut |_| {}).unwrap();
                assert_eq!(messages_of(&storage), messages, "again, {fault:?} after {after}");
            }
        }
    }
    assert!(interrupted > 20, "{interrupted}");
}

#[test]
fn a_rewrite_needs_little_room_and_says_when_there_is_none() {
    let (base, messages) = worn();
    let names = base.list().unwrap().len() as u64;
    let full = base.fork(1);
    full.set_capacity(names * (64 << 10));
    rewrite(&full, small(), &mut |_| {}).unwrap();
    assert_eq!(messages_of(&full), messages, "the segments there are, are enough");
    // Without those that were prepared there is no segment to begin in.
    let none = base.fork(2);
    let used = look(&none).end.unwrap().0;
    for entry in none.list().unwrap() {
        if entry.name > used {
            none.remove(&entry.name).unwrap();
        }
    }
    none.set_capacity(none.list().unwrap().len() as u64 * (64 << 10));
    let error = rewrite(&none, small(), &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("writing the log anew"), "{error}");
    none.set_capacity(u64::MAX);
    assert_eq!(messages_of(&none), messages);
}

#[test]
fn nothing_is_written_anew_that_nobody_asked_for() {
    let (storage, _) = worn();
    let (mut log, _) = Log::recover(&storage, small().log, &mut |_, _| {}).unwrap();
    assert_eq!(log.left_to_rewrite(), 0);
    while let Some(chore) = log.next_chore() {
        assert!(!matches!(log.chore_done(chore.run(&storage)), ChoreOutcome::Relocation(_)));
    }
}
