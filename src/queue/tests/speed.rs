//! What a message costs the brain. Run by hand, optimized:
//! `cargo test --release -p relaymesh --lib queue::tests::speed -- --ignored --nocapture`

use std::time::Instant;

use super::*;

const ROUND: u64 = 256;

struct Bench {
    world: World,
    conn: ConnKey,
    queue: QueueName,
    bodies: Vec<u8>,
    batch: CommandBatch,
    leases: Vec<LeaseId>,
    seq: u64,
}

impl Bench {
    fn new() -> Self {
        let mut world = World::new();
        let conn = world.attach("bench");
        world.journal.forgetful = true;
        let (queue, bodies) = (name("jobs"), vec![7; 256 * ROUND as usize]);
        Self { world, conn, queue, bodies, batch: CommandBatch::default(), leases: Vec::new(), seq: 0 }
    }

    /// Hands the batch over and takes what comes back, as the engine does; returns the time that took.
    fn apply(&mut self) -> Duration {
        let start = Instant::now();
        let world = &mut self.world;
        let mut turn = Turn { now: world.now, journal: &mut world.journal, outbox: &mut world.outbox };
        world.brain.apply(&mut self.batch, &mut turn);
        world.journal.commit();
        let released = world.outbox.release(world.journal.committed(), LoopId(0));
        let took = start.elapsed();
        for effect in released.into_iter().flat_map(|batch| batch.effects) {
            if let Effect::Deliver(deliver) = effect {
                self.leases.push(deliver.lease);
            }
        }
        took
    }

    fn publish(&mut self) -> Duration {
        for _ in 0..ROUND {
            self.seq += 1;
            self.batch.commands.push(Command::Publish(Publish {
                conn: self.conn,
                seq: self.seq,
                queue: self.queue.clone(),
                producer: None,
                messages: 1,
            }));
            let header = MessageHeader { priority: 4, ..Default::default() };
            self.batch.messages.push(PublishMessage { header, body_len: 256 });
        }
        self.batch.bodies.extend_from_slice(&self.bodies);
        self.apply()
    }

    /// Acks what was leased; the credit that comes back leases as many anew.
    fn work(&mut self) -> Duration {
        for lease in self.leases.drain(..) {
            self.seq += 1;
            let settlement = Settlement::Ack;
            let settle = Settle { conn: self.conn, seq: self.seq, settlement, leases: 1, replenish: true };
            self.batch.commands.push(Command::Settle(settle));
            self.batch.leases.push(lease);
        }
        self.apply()
    }
}

#[test]
#[ignore = "a measurement"]
fn cost_of_a_message() {
    for waiting in [1_000u64, 10_000, 100_000, 1_000_000, 1_000] {
        let mut bench = Bench::new();
        let start = Instant::now();
        for _ in 0..waiting.div_ceil(ROUND) {
            bench.publish();
        }
        let filling = start.elapsed().as_nanos() as u64 / waiting.next_multiple_of(ROUND);
        let conn = bench.conn;
        bench.world.subscribe(conn, 1, "jobs", ROUND as u32);
        bench.apply();
        let rounds = 2_000;
        let (mut publish, mut work) = (Duration::ZERO, Duration::ZERO);
        for _ in 0..rounds {
            publish += bench.publish();
            work += bench.work();
        }
        let each = |took: Duration| took.as_nanos() as u64 / (rounds * ROUND);
        println!(
            "{waiting:>9} waiting: publish {} ns, lease and ack {} ns (filling from empty: {filling} ns)",
            each(publish),
            each(work)
        );
    }
}
