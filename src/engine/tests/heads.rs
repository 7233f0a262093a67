//! A start that leaves the bodies of old messages in the log.

use super::rewrite::{published, settle, small, take_all};
use super::*;
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
