//! Random work, crashes included, beside a model of what must be there; the log stays within its bound.

use super::*;

/// A queue of the simplest kind: keys with values, written and removed; the newest record of a key counts.
#[derive(Default, Clone, Debug, PartialEq)]
struct Model(BTreeMap<u8, (Position, Vec<u8>)>);

impl Model {
    fn replay(&mut self, position: Position, record: &[u8]) {
        match record {
            [0, key] => {
                self.0.remove(key);
            }
            [_, key, ..] => {
                self.0.insert(*key, (position, record.to_vec()));
            }
            _ => panic!("not a record of the model"),
        }
    }

    fn put(&mut self, log: &mut Log, record: &[u8]) {
        let position = log.append(&[record]);
        if let Some((old, value)) = self.0.insert(record[1], (position, record.to_vec())) {
            log.release(old, value.len() as u32);
        }
    }

    fn remove(&mut self, log: &mut Log, key: u8) {
        if let Some((old, value)) = self.0.remove(&key) {
            let tombstone = log.append(&[&[0, key]]);
            log.release(tombstone, 2);
            log.release(old, value.len() as u32);
        }
    }

    /// Writes or removes some key.
    fn change(&mut self, log: &mut Log, rng: &mut fastrand::Rng) -> u8 {
        let key = rng.u8(0..20);
        if rng.u8(0..3) > 0 {
            let mut record = vec![rng.u8(1..255); rng.usize(2..3000)];
            record[1] = key;
            self.put(log, &record);
        } else {
            self.remove(log, key);
        }
        key
    }

    fn relocate(&mut self, log: &mut Log, position: Position, record: &[u8]) {
        if self.0.get(&record[1]).is_some_and(|(at, _)| *at == position) {
            self.put(log, record);
        }
    }

    fn values(&self) -> BTreeMap<u8, Vec<u8>> {
        self.0.iter().map(|(key, (_, value))| (*key, value.clone())).collect()
    }
}

/// One chore, if there is one.
fn model_chore(log: &mut Log, storage: &SimStorage, model: &mut Model) {
    let Some(chore) = log.next_chore() else { return };
    match log.chore_done(chore.run(storage)) {
        ChoreOutcome::Quiet => {}
        ChoreOutcome::Relocation(slice) => {
            for (position, record) in slice.records() {
                model.relocate(log, position, record);
            }
            log.relocated(slice);
        }
        other => panic!("{other:?}"),
    }
}

/// Random work with crashes anywhere: what was committed, or synced if the power goes, is there after each, and what was
/// not may be.
fn model_run(seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let storage = SimStorage::new(seed);
    for _ in 0..6 {
        let durability =
            if rng.bool() { Durability::Sync } else { Durability::Interval(Duration::from_millis(1)) };
        let mut model = Model::default();
        let (mut log, _) =
            Log::recover(&storage, LogConfig { seed: rng.u64(..), durability, ..CONFIG }, &mut |at, r| {
                model.replay(at, r)
            })
            .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        for (position, value) in model.0.values() {
            log.retain(*position, value.len() as u32);
        }
        let mut states = vec![model.values()];
        let mut history: Vec<(usize, u8, Option<Vec<u8>>)> = Vec::new();
        let (mut committed, mut synced) = (0, 0);
        let mut sealed: Vec<(Ticket, usize)> = Vec::new();
        for _ in 0..rng.usize(10..300) {
            for _ in 0..rng.usize(0..6) {
                let key = model.change(&mut log, &mut rng);
                history.push((states.len(), key, model.values().remove(&key)));
            }
            states.push(model.values());
            sealed.push((log.open_ticket(), states.len() - 1));
            if rng.u8(0..8) == 0 {
                log.request_sync();
            }
            while rng.u8(0..4) > 0 {
                let Some(batch) = log.seal() else { break };
                batch.write().unwrap();
                log.batch_done(batch);
            }
            for _ in 0..rng.usize(0..4) {
                model_chore(&mut log, &storage, &mut model);
            }
            let is_committed = |(ticket, _): &&(Ticket, usize)| *ticket <= log.committed();
            committed = sealed.iter().rfind(is_committed).map_or(committed, |(_, state)| *state);
            if !log.is_unsynced() {
                synced = committed;
            }
            if rng.u8(0..100) == 0 {
                // The process dies in the middle of a write.
                storage.fail(Fault::FailWrite, 0);
                if let Some(batch) = log.seal() {
                    let _ = batch.write();
                }
                break;
            }
        }
        drop(log);
        storage.heal();
        let mut durable = committed;
        if rng.bool() {
            storage.power_loss();
            durable = synced;
        }
        let mut found = Model::default();
        Log::recover(&storage, CONFIG, &mut |at, r| found.replay(at, r))
            .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        // What came after the last commit may be there in part: each key as it was then, or at some time since.
        let found = found.values();
        let last = states.len() - 1;
        let possible = (0..20).all(|key| {
            states[durable].get(&key) == found.get(&key)
                || history
                    .iter()
                    .any(|(turn, k, v)| *turn > durable && *k == key && v.as_ref() == found.get(&key))
        });
        assert!(possible, "seed {seed}: state {durable} of {last} was durable");
    }
}

#[test]
fn random_work_with_crashes_keeps_what_was_committed() {
    for seed in 0..300 {
        model_run(seed);
    }
}

#[test]
fn the_log_stays_within_its_bound() {
    let storage = SimStorage::new(1);
    let (mut log, _, _) = open(&storage).unwrap();
    let mut model = Model::default();
    let mut rng = fastrand::Rng::with_seed(3);
    for turn in 0..3000 {
        let mut record = vec![1; rng.usize(10..2000)];
        // Some keys are written once and stay, so that only relocation frees what they lie in.
        record[1] = if turn % 50 == 0 { 100 + (turn / 50) as u8 } else { rng.u8(0..10) };
        model.put(&mut log, &record);
        // Twice, because what was relocated may have waited for a segment.
        for _ in 0..2 {
            commit(&mut log);
            chores(&mut log, &storage, &mut |log, position, record| model.relocate(log, position, record));
        }
        let stats = log.stats();
        let bytes = stats.segments * CONFIG.segment_bytes;
        let bound = 2 * stats.live_bytes + SPARE_SEGMENTS_MAX as u64 * CONFIG.segment_bytes;
        assert!(bytes <= bound, "turn {turn}: {stats:?}");
    }
    assert!(log.stats().relocated > 0);
    assert!(log.stats().waits <= 1, "{:?}", log.stats());
    let mut found = Model::default();
    Log::recover(&storage, CONFIG, &mut |at, r| found.replay(at, r)).unwrap();
    assert_eq!(found.values(), model.values());
}

/// The largest messages are a third of a segment; with each comes a head and what marks its end.
#[test]
fn the_log_stays_within_its_bound_with_the_largest_messages() {
    for seed in 0..4 {
        let storage = SimStorage::new(1);
        let (mut log, _, _) = open(&storage).unwrap();
        let mut model = Model::default();
        let mut rng = fastrand::Rng::with_seed(seed);
        let largest = CONFIG.segment_bytes as usize / MESSAGES_PER_SEGMENT_MIN;
        for turn in 0..600 {
            let mut record = vec![1; rng.usize(largest / 2..=largest) + 300];
            record[1] = if turn % 40 == 0 { 100 + (turn / 40) as u8 } else { rng.u8(0..8) };
            model.put(&mut log, &record);
            for _ in 0..2 {
                commit(&mut log);
                chores(&mut log, &storage, &mut |log, position, record| {
                    model.relocate(log, position, record)
                });
            }
            let stats = log.stats();
            let bytes = stats.segments * CONFIG.segment_bytes;
            let bound = 2 * stats.live_bytes + SPARE_SEGMENTS_MAX as u64 * CONFIG.segment_bytes;
            assert!(bytes <= bound, "seed {seed}, turn {turn}: {stats:?}");
        }
        let mut found = Model::default();
        Log::recover(&storage, CONFIG, &mut |at, r| found.replay(at, r)).unwrap();
        assert_eq!(found.values(), model.values());
    }
}
