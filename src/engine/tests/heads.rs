//! A start that leaves the bodies of old messages in the log.

use super::rewrite::{messages_of, published, settle, small, take_all, worn};
use super::*;
use crate::log::Storage as _;
use crate::mail::{Settle, Settlement};

#[test]
fn what_a_start_left_in_the_log_is_delivered_and_acked_like_any() {
    let storage = SimStorage::new(1);
    let (mut shard, _) = start_with(&storage, small());
    shard.apply(now(1), &mut attach());
    let mut bodies = std::collections::BTreeMap::new();
    for seq in 1..=300 {
        let mut batch = published(seq, 5000 + seq as usize);
        bodies.insert(MessageId(seq), batch.bodies.clone());
        shard.apply(now(1), &mut batch);
        settle(&mut shard, &storage);
    }
    drop(shard);
    for round in 0..3 {
        storage.power_loss();
        let (mut shard, started) = start_with(&storage, small());
        shard.check_invariants();
        if round == 0 {
            assert!(started.recovery.checkpoints > 5, "{started:?}");
            assert_eq!(started.recovery.records, 302, "{started:?}");
        }
        let taken = take_all(&mut shard, &storage);
        assert_eq!(taken.len(), bodies.len());
        assert!(taken.iter().all(|(lease, body)| bodies[&lease.message] == *body), "round {round}");
        // Every third is done; what is left stays for the next start.
        let leases: Vec<_> =
            taken.iter().map(|taken| taken.0).filter(|lease| lease.message.0 % 3 == round).collect();
        leases.iter().for_each(|lease| drop(bodies.remove(&lease.message)));
        let count = leases.len() as u32;
        let settlement = Settlement::Ack;
        let ack = Settle { conn: CONN, seq: 2000, settlement, leases: count, replenish: false };
        let mut acks =
            CommandBatch { commands: vec![Command::Settle(ack)], leases, ..CommandBatch::default() };
        shard.apply(now(6), &mut acks);
        settle(&mut shard, &storage);
        shard.check_invariants();
    }
    assert!(bodies.is_empty());
}

/// Compaction and an upgrade write the messages that live anew: a start leaves those in the log as well.
#[test]
fn what_was_moved_is_left_in_the_log_as_well() {
    let (storage, messages) = worn();
    rewrite(&storage, small(), &mut |_| ()).unwrap();
    // A segment gets its checkpoint when it is full.
    let (mut shard, _) = start_with(&storage, small());
    shard.apply(now(1), &mut attach());
    for seq in 201..=400 {
        shard.apply(now(1), &mut published(seq, 5000));
        settle(&mut shard, &storage);
    }
    drop(shard);
    let (_, started) = start_with(&storage, small());
    assert!(started.recovery.checkpoints > 2, "{started:?}");
    let files = storage.list().unwrap();
    let files = files.iter().filter(|file| file.name.ends_with(".heads"));
    let checkpoints: Vec<usize> = files.map(|file| storage.contents(&file.name).unwrap().len()).collect();
    assert!(checkpoints.iter().all(|&bytes| bytes < 16 << 10), "{checkpoints:?}");
    let mut found = messages_of(&storage);
    found.retain(|(id, _)| id.0 <= 200);
    assert_eq!(found, messages);
}
