//! What a message costs the brain. Run by hand, optimized:
//! `cargo test --release -p relaymesh --lib queue::tests::speed -- --ignored --nocapture`

use std::time::Instant;

use super::*;

const ROUND: u64 = 256;

fn measured() -> (World, ConnKey) {
    let mut world = World::new();
    let conn = world.attach("bench");
    world.journal.forgetful = true;
    (world, conn)
}

fn publishes(world: &mut World, conn: ConnKey, count: u64, bodies: &[u8]) {
    for round in 0..count / ROUND {
        world.apply(|batch| {
            for at in 0..ROUND {
                batch.commands.push(Command::Publish(Publish {
                    conn,
                    seq: round * ROUND + at,
                    queue: name("jobs"),
                    producer: None,
                    messages: 1,
                }));
                let header = MessageHeader { priority: 4, ..Default::default() };
                batch.messages.push(PublishMessage { header, body_len: 256 });
                batch.bodies.extend_from_slice(&bodies[..256]);
            }
        });
        world.journal.commit();
        let _ = world.outbox.release(world.journal.committed(), LoopId(0));
    }
}

/// Leases and acks `count` messages, `ROUND` in flight.
fn work(world: &mut World, conn: ConnKey, count: u64) {
    let mut done = 0;
    while done < count {
        let batch = world.outbox.release(world.journal.committed(), LoopId(0)).unwrap();
        let leases: Vec<LeaseId> = batch
            .effects
            .iter()
            .filter_map(|effect| if let Effect::Deliver(deliver) = effect { Some(deliver.lease) } else { None })
            .collect();
        done += leases.len() as u64;
        world.apply(|batch| {
            for (at, lease) in leases.iter().enumerate() {
                let seq = done + at as u64;
                let settlement = Settlement::Ack;
                batch.commands.push(Command::Settle(Settle { conn, seq, settlement, leases: 1, replenish: true }));
                batch.leases.push(*lease);
            }
        });
        world.journal.commit();
    }
}

#[test]
#[ignore = "a measurement"]
fn cost_of_a_message() {
    let bodies = vec![7u8; 256];
    for waiting in [1_000u64, 1_000_000] {
        let (mut world, conn) = measured();
        publishes(&mut world, conn, waiting, &bodies);
        let count = 500 * ROUND;
        let start = Instant::now();
        publishes(&mut world, conn, count, &bodies);
        let publish = start.elapsed();
        world.subscribe(conn, 1, "jobs", ROUND as u32);
        let start = Instant::now();
        work(&mut world, conn, count);
        let work = start.elapsed();
        let each = |took: Duration| took.as_nanos() as u64 / count;
        println!("{waiting:>9} waiting: publish {} ns, lease and ack {} ns", each(publish), each(work));
    }
}
