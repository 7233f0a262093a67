use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::*;
use crate::ids::{Boot, ConnKey, LeaseId, LoopId, MessageId};
use crate::limits::COMMAND_LANE_BATCHES;

const CONN: ConnKey = ConnKey { loop_id: LoopId(0), slot: 1, generation: 1 };

const PATIENCE: Duration = Duration::from_secs(120);

fn counting_bell() -> (Bell, Arc<AtomicUsize>) {
    let rung = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&rung);
    (
        Bell::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
        }),
        rung,
    )
}

fn batch_of_one() -> CommandBatch {
    CommandBatch { commands: vec![Command::Resupply { conn: CONN }], ..CommandBatch::default() }
}

#[test]
fn a_bell_wakes_only_a_sleeper_and_only_once() {
    let (bell, rung) = counting_bell();
    bell.ring();
    assert_eq!(rung.load(Ordering::Relaxed), 0, "awake: no system call");
    bell.about_to_sleep();
    bell.ring();
    bell.ring();
    assert_eq!(rung.load(Ordering::Relaxed), 1);
    bell.about_to_sleep();
    bell.awake();
    bell.ring();
    assert_eq!(rung.load(Ordering::Relaxed), 1);
}

#[test]
fn nothing_sent_to_a_sleeping_thread_is_overlooked() {
    const BATCHES: usize = 20_000;
    let bell = Bell::unparking(std::thread::current());
    let (idle, _) = counting_bell();
    let (mut senders, mut receiver) = command_lanes(&[(LoopId(0), idle)], &bell);
    let sender = senders.remove(0);
    let sending = std::thread::spawn(move || {
        for _ in 0..BATCHES {
            let mut batch = batch_of_one();
            while let Err(LaneFull(back)) = sender.send(batch) {
                batch = back;
                std::thread::yield_now();
            }
        }
    });
    let mut received = 0;
    while received < BATCHES {
        if receiver.next_batch().is_some() {
            received += 1;
            continue;
        }
        bell.about_to_sleep();
        if receiver.is_empty() {
            let asleep = Instant::now();
            std::thread::park_timeout(PATIENCE);
            assert!(asleep.elapsed() < PATIENCE, "a wake-up was lost, or the machine stood still");
        }
        bell.awake();
    }
    sending.join().unwrap();
}

#[test]
fn what_is_announced_wakes_its_shard_and_is_expected_until_all_of_it_was_sent() {
    let (shard_bell, rung) = counting_bell();
    let (idle, _) = counting_bell();
    let (senders, mut receiver) =
        command_lanes(&[(LoopId(0), idle.clone()), (LoopId(1), idle.clone())], &shard_bell);
    assert!(!receiver.is_announced());
    shard_bell.about_to_sleep();
    senders[1].announce();
    assert_eq!(rung.load(Ordering::Relaxed), 1);
    assert!(receiver.is_announced() && receiver.is_empty());
    senders[0].send(batch_of_one()).unwrap();
    senders[0].announced_all();
    senders[1].send(batch_of_one()).unwrap();
    assert!(receiver.next_batch().is_some() && receiver.next_batch().is_some());
    assert!(receiver.is_announced(), "the second loop has more");
    senders[1].send(batch_of_one()).unwrap();
    senders[1].announced_all();
    assert!(!receiver.is_announced() && !receiver.is_empty());
}

#[test]
fn effects_that_are_announced_wake_their_loop_and_are_expected_until_they_were_sent() {
    let (loop_bell, rung) = counting_bell();
    let (sender, receiver) = effect_lane(LoopId(0), loop_bell.clone());
    sender.announced_all();
    assert!(!receiver.is_announced());
    loop_bell.about_to_sleep();
    sender.announce();
    assert_eq!(rung.load(Ordering::Relaxed), 1);
    assert!(receiver.is_announced() && receiver.is_empty());
    loop_bell.awake();
    sender.send(EffectBatch::default()).unwrap();
    assert!(receiver.is_announced(), "there may be more");
    sender.announced_all();
    assert!(!receiver.is_announced() && !receiver.is_empty());
    assert_eq!(rung.load(Ordering::Relaxed), 1, "it was awake");
}

#[test]
fn a_full_lane_hands_the_batch_back_and_rings_when_it_takes_more() {
    let (shard_bell, _) = counting_bell();
    let (loop_bell, rung) = counting_bell();
    let (senders, mut receiver) = command_lanes(&[(LoopId(7), loop_bell.clone())], &shard_bell);
    for _ in 0..COMMAND_LANE_BATCHES {
        senders[0].send(batch_of_one()).unwrap();
    }
    let LaneFull(back) = senders[0].send(batch_of_one()).unwrap_err();
    assert_eq!(back.commands.len(), 1);
    loop_bell.about_to_sleep();
    assert_eq!(receiver.next_batch().unwrap().0, LoopId(7));
    assert_eq!(rung.load(Ordering::Relaxed), 1);
    senders[0].send(back).unwrap();
}

/// A sender that finds its lane full may sleep until its bell rings: at the latest when all that was in the lane then has
/// been taken. The moments that matter are nanoseconds long: many full lanes are needed to meet them.
#[test]
fn a_sender_that_sleeps_before_a_full_lane_is_always_rung() {
    const BATCHES: usize = 3_000_000;
    let (shard_bell, _) = counting_bell();
    let rung = Arc::new(AtomicBool::new(false));
    let ring = Arc::clone(&rung);
    let loop_bell = Bell::new(move || ring.store(true, Ordering::SeqCst));
    let (mut senders, mut receiver) = command_lanes(&[(LoopId(0), loop_bell.clone())], &shard_bell);
    let sender = senders.remove(0);
    let (sleeps, is_over) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let Err(LaneFull(_)) = sender.send(CommandBatch::default()) else { continue };
                rung.store(false, Ordering::SeqCst);
                loop_bell.about_to_sleep();
                if sender.depth() >= COMMAND_LANE_BATCHES {
                    sleeps.store(true, Ordering::SeqCst);
                    while !rung.load(Ordering::SeqCst) && !is_over.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                    sleeps.store(false, Ordering::SeqCst);
                }
                loop_bell.awake();
            }
        });
        let mut received = 0;
        while received < BATCHES {
            if receiver.next_batch().is_some() {
                received += 1;
            } else if sleeps.load(Ordering::SeqCst) && !rung.load(Ordering::SeqCst) && receiver.is_empty() {
                // Empty to the last: the two flags are of one and the same sleep.
                break;
            }
        }
        is_over.store(true, Ordering::Relaxed);
        assert_eq!(received, BATCHES, "the lane is empty and its sender sleeps");
    });
}

#[test]
fn lanes_are_served_in_turn() {
    let (bell, _) = counting_bell();
    let lanes: Vec<_> = (0..3).map(|n| (LoopId(n), bell.clone())).collect();
    let (senders, mut receiver) = command_lanes(&lanes, &bell);
    for sender in &senders {
        sender.send(batch_of_one()).unwrap();
        sender.send(batch_of_one()).unwrap();
    }
    let order: Vec<u16> = std::iter::from_fn(|| receiver.next_batch()).map(|(id, _)| id.0).collect();
    assert_eq!(order, [0, 1, 2, 0, 1, 2]);
}

#[test]
fn a_drained_batch_hands_each_command_its_own_parts() {
    let lease = |n| LeaseId { message: MessageId(n), attempt: 1, boot: Boot(1) };
    let message = |body_len| PublishMessage { header: MessageHeader::default(), body_len };
    let mut batch = CommandBatch {
        commands: vec![],
        messages: vec![message(2), message(0), message(3)],
        leases: vec![lease(1), lease(2)],
        bodies: b"aabbb".to_vec(),
    };
    let (_, mut parts) = batch.drain();
    assert_eq!(parts.messages(2), (&[message(2), message(0)][..], &b"aa"[..]));
    assert_eq!(parts.messages(1), (&[message(3)][..], &b"bbb"[..]));
    assert_eq!(parts.leases(1), [lease(1)]);
    assert_eq!(parts.leases(1), [lease(2)]);
}

#[test]
fn joined_effects_keep_their_bodies_in_order() {
    let deliver = |body_len| {
        Effect::Deliver(Deliver {
            conn: CONN,
            subscription: crate::ids::SubscriptionId(1),
            lease: LeaseId { message: MessageId(1), attempt: 1, boot: Boot(1) },
            lease_ms: 1,
            body_len,
        })
    };
    let mut first = EffectBatch { effects: vec![deliver(1)], bodies: b"a".to_vec() };
    let mut second = EffectBatch { effects: vec![deliver(2)], bodies: b"bb".to_vec() };
    first.append(&mut second);
    assert_eq!((first.effects.len(), &first.bodies[..]), (2, &b"abb"[..]));
    assert!(second.is_empty());
}
