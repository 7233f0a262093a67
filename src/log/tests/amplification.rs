//! What compaction writes beside what is appended: never more than that, so twice the bytes in all at the most, whatever
//! stays and for how long. Each byte that is moved is paid for by one that became useless since the last time (released, or
//! lost behind the last record of a batch or a segment).
//!
//! In steady traffic with L bytes that stay, in a log that uses U of the 2 L and 4 segments it may have, all that stays is
//! moved once while the rest of U is written: L / (U - L) for each byte appended, which comes near to 1 where L is many
//! segments. `--nocapture` prints what was measured.

use std::collections::VecDeque;

use super::*;

const SEGMENT: LogConfig = LogConfig { segment_bytes: 1 << 20, ..CONFIG };

/// Records that live, by where they lie now.
#[derive(Default)]
struct Queue {
    at: BTreeMap<Position, (u64, u32)>,
    position: BTreeMap<u64, Position>,
}

impl Queue {
    fn put(&mut self, log: &mut Log, id: u64, record: &[u8]) {
        let position = log.append(&[record]);
        self.at.insert(position, (id, record.len() as u32));
        if let Some(old) = self.position.insert(id, position) {
            self.forget(log, old);
        }
    }

    fn forget(&mut self, log: &mut Log, position: Position) {
        let (_, len) = self.at.remove(&position).unwrap();
        log.release(position, len);
    }

    /// As an ack does: a short record of its own, and the message goes.
    fn done(&mut self, log: &mut Log, id: u64) {
        let ack = log.append(&[&[0; 4]]);
        log.release(ack, 4);
        let position = self.position.remove(&id).unwrap();
        self.forget(log, position);
    }
}

/// Steady traffic of `messages`, of which one in `one_in` stays for `stay` others and the rest for a moment: the bytes
/// that were written for it, those written to move what stayed, and those that lived at the end.
fn traffic(messages: u64, one_in: u64, stay: usize, batch: u64) -> (u64, u64, u64) {
    let storage = SimStorage::new(1);
    let (mut log, _) = Log::recover(&storage, SEGMENT, &mut |_, _| {}).unwrap();
    let mut rng = fastrand::Rng::with_seed(7);
    let mut queue = Queue::default();
    let (mut passing, mut staying) = (VecDeque::new(), VecDeque::new());
    let mut moved = 0;
    for id in 0..messages {
        let record = vec![id as u8; rng.usize(200..400)];
        queue.put(&mut log, id, &record);
        let (line, length) = if id % one_in == 0 { (&mut staying, stay) } else { (&mut passing, 50) };
        line.push_back(id);
        if line.len() > length {
            queue.done(&mut log, line.pop_front().unwrap());
        }
        if id % batch == 0 {
            commit(&mut log);
            let before = log.stats().written_bytes;
            chores(&mut log, &storage, &mut |log, position, record| {
                if let Some(&(id, _)) = queue.at.get(&position) {
                    queue.put(log, id, record);
                }
            });
            moved += log.stats().written_bytes - before;
        }
    }
    (log.stats().written_bytes - moved, moved, log.stats().live_bytes)
}

#[test]
fn compaction_writes_at_most_as_much_as_what_made_it_necessary() {
    println!("{:>8} {:>12} {:>6} {:>12} {:>12} {:>6}", "one in", "live", "batch", "appended", "moved", "all");
    for (one_in, stay, batch, bound) in [
        // A tenth stays: until a quarter of a segment lives, one, and ten.
        (10, 1_000, 64, 1.45),
        (10, 4_000, 64, 1.70),
        (10, 40_000, 64, 2.0),
        // Half of it stays, and one in a hundred.
        (2, 40_000, 64, 1.50),
        (100, 4_000, 64, 1.50),
        // Small batches, of which a third is padding.
        (10, 4_000, 4, 1.70),
    ] {
        let (appended, moved, live) = traffic(200_000, one_in, stay, batch);
        let all = (appended + moved) as f64 / appended as f64;
        println!("{one_in:>8} {live:>12} {batch:>6} {appended:>12} {moved:>12} {all:>6.3}");
        assert!(all <= bound, "one in {one_in} stays for {stay}: {all}");
    }
}
