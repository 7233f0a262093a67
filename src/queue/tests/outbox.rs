//! Nothing leaves before its commit, and answers are joined.

use super::*;

fn conn(loop_id: u16, slot: u32) -> ConnKey {
    ConnKey { loop_id: LoopId(loop_id), slot, generation: 1 }
}

fn acked(conn: ConnKey, seq: u64, first_id: u64) -> Effect {
    Effect::PublishAcked(PublishAcked {
        conn,
        seq,
        more: 0,
        first_id: MessageId(first_id),
        messages: 2,
        bytes: 9,
    })
}

fn settled(conn: ConnKey, seq: u64) -> Effect {
    Effect::Settled(Settled { conn, seq, more: 0, lost: None, refused: None })
}

#[test]
fn effects_wait_for_their_ticket_in_order() {
    let mut outbox = Outbox::new();
    outbox.push(Ticket(2), settled(conn(0, 2), 1), &[]);
    outbox.push(Ticket(1), settled(conn(0, 1), 1), &[]);
    outbox.push(Ticket::DURABLE, Effect::TakenOver { conn: conn(0, 0) }, &[]);
    outbox.push(Ticket(1), settled(conn(1, 7), 1), &[]);
    assert_eq!(outbox.held(), 4);
    let slot = |effect: &Effect| match effect {
        Effect::Settled(settled) => settled.conn.slot,
        Effect::TakenOver { conn } => conn.slot,
        other => panic!("{other:?} was not sent"),
    };
    let slots = |batch: EffectBatch| batch.effects.iter().map(slot).collect::<Vec<_>>();
    assert_eq!(slots(outbox.release(Ticket::DURABLE, LoopId(0)).unwrap()), [0]);
    assert!(outbox.release(Ticket::DURABLE, LoopId(0)).is_none());
    assert!(outbox.release(Ticket::DURABLE, LoopId(1)).is_none());
    assert_eq!(slots(outbox.release(Ticket(2), LoopId(0)).unwrap()), [1, 2]);
    assert_eq!(slots(outbox.release(Ticket(2), LoopId(1)).unwrap()), [7]);
    assert_eq!(outbox.held(), 0);
}

#[test]
fn consecutive_answers_of_a_connection_are_one() {
    let mut outbox = Outbox::new();
    let here = conn(0, 1);
    outbox.push(Ticket(1), acked(here, 5, 100), &[]);
    outbox.push(Ticket(1), acked(here, 6, 102), &[]);
    // Another id does not follow, another request neither.
    outbox.push(Ticket(1), acked(here, 7, 999), &[]);
    outbox.push(Ticket(1), acked(here, 9, 1001), &[]);
    outbox.push(Ticket(1), settled(here, 10), &[]);
    outbox.push(Ticket(1), settled(here, 11), &[]);
    outbox.push(Ticket(1), settled(conn(0, 2), 12), &[]);
    assert_eq!(outbox.held(), 5);
    let batch = outbox.release(Ticket(1), LoopId(0)).unwrap();
    let Effect::PublishAcked(first) = &batch.effects[0] else { panic!("{:?}", batch.effects[0]) };
    let expected =
        PublishAcked { conn: here, seq: 5, more: 1, first_id: MessageId(100), messages: 4, bytes: 18 };
    assert_eq!(*first, expected);
    let Effect::Settled(last) = &batch.effects[3] else { panic!("{:?}", batch.effects[3]) };
    assert_eq!((last.seq, last.more), (10, 1));
}
