mod heads;
mod rewrite;

use std::io;
use std::sync::mpsc;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::*;
use crate::clock::{Clock, Now, Time, Wall};
use crate::ids::{Boot, ClientId, ConnKey, LoopId, MessageId, Namespace, QueueName, SubscriptionId};
use crate::log::sim_storage::{Fault, SimStorage};
use crate::log::{Durability, Entry, LogConfig, Storage, StorageFile};
use crate::mail::{
    Attach, Bell, Command, CommandBatch, CommandSender, Effect, EffectReceiver, MessageHeader, Publish,
    PublishMessage, command_lanes, effect_lane,
};
use crate::queue::QueueConfig;
use crate::telemetry::ShardMetrics;

const LOOP: LoopId = LoopId(0);
const CONN: ConnKey = ConnKey { loop_id: LOOP, slot: 0, generation: 1 };
/// What a step may take before it counts as stuck; machines may be held up.
const PATIENCE: Duration = Duration::from_secs(60);
const BODY: &[u8] = b"\x0a\x05hello";

fn config() -> EngineConfig {
    let log = LogConfig { segment_bytes: 4 << 20, seed: 1, durability: Durability::Sync };
    let queue = QueueConfig { delivery_room_bytes: u32::MAX, ..QueueConfig::default() };
    EngineConfig { log, queue, seed: 1 }
}

fn start(storage: &SimStorage) -> (Shard, Started) {
    start_with(storage, config())
}

fn start_with(storage: &SimStorage, config: EngineConfig) -> (Shard, Started) {
    let (mut shard, started) = Shard::recover(storage, config, Arc::default(), Wall(1000)).unwrap();
    commit(&mut shard);
    (shard, started)
}

/// Synced 100 ms after the write.
fn later() -> EngineConfig {
    let mut config = config();
    config.log.durability = Durability::Interval(Duration::from_millis(100));
    config.queue.ids_ahead = 1 << 28;
    config
}

fn commit(shard: &mut Shard) {
    while let Some(batch) = shard.seal() {
        batch.write().unwrap();
        shard.batch_done(now(0), batch);
    }
}

fn attach() -> CommandBatch {
    let attach = Attach {
        conn: CONN,
        namespace: Namespace::parse("default").unwrap(),
        client: ClientId::parse("c").unwrap(),
        resume: None,
    };
    CommandBatch { commands: vec![Command::Attach(Box::new(attach))], ..CommandBatch::default() }
}

fn publish(seq: u64) -> CommandBatch {
    let queue = QueueName::parse("jobs").unwrap();
    let publish = Publish { conn: CONN, seq, queue, producer: None, messages: 1, acks: 0, replenish: false };
    CommandBatch {
        commands: vec![Command::Publish(publish)],
        messages: vec![PublishMessage { header: MessageHeader::default(), body_len: BODY.len() as u32 }],
        bodies: BODY.to_vec(),
        ..CommandBatch::default()
    }
}

fn subscribe(seq: u64) -> CommandBatch {
    let subscribe = Command::Subscribe {
        conn: CONN,
        seq,
        subscription: SubscriptionId(1),
        queue: QueueName::parse("jobs").unwrap(),
        credit_messages: 10,
        credit_bytes: u64::MAX,
    };
    CommandBatch { commands: vec![subscribe], ..CommandBatch::default() }
}

fn now(ms: u64) -> Now {
    Now { time: Time(ms), wall: Wall(1000 + ms) }
}

fn has_ack(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::PublishAcked(_)))
}

fn is_delivery(effect: &Effect) -> bool {
    matches!(effect, Effect::Deliver(_))
}

#[test]
fn nothing_about_a_message_leaves_before_it_is_durable() {
    let (mut shard, _) = start(&SimStorage::new(1));
    shard.apply(now(1), &mut attach());
    shard.apply(now(1), &mut subscribe(1));
    shard.apply(now(1), &mut publish(2));
    let early = shard.effects(LOOP).unwrap_or_default().effects;
    assert!(!has_ack(&early) && !early.iter().any(is_delivery), "{early:?}");
    let batch = shard.seal().unwrap();
    batch.write().unwrap();
    let written = shard.effects(LOOP).unwrap_or_default().effects;
    assert!(!has_ack(&written) && !written.iter().any(is_delivery), "{written:?}");
    shard.batch_done(now(0), batch);
    let durable = shard.effects(LOOP).unwrap().effects;
    assert!(has_ack(&durable) && durable.iter().any(is_delivery), "{durable:?}");
    shard.check_invariants();
}

#[test]
fn a_failed_batch_answers_nothing_and_seals_nothing_more() {
    let storage = SimStorage::new(1);
    let (mut shard, _) = start(&storage);
    shard.apply(now(1), &mut attach());
    shard.apply(now(1), &mut publish(1));
    storage.fail(Fault::FailWrite, 0);
    let batch = shard.seal().unwrap();
    assert!(batch.write().is_err());
    shard.batch_failed(batch);
    shard.apply(now(2), &mut publish(2));
    assert!(shard.seal().is_none());
    assert!(!has_ack(&shard.effects(LOOP).unwrap_or_default().effects));
}

#[test]
fn each_start_has_a_boot_of_its_own_and_time_goes_on() {
    let storage = SimStorage::new(1);
    let (_, first) = start(&storage);
    storage.power_loss();
    let (shard, second) = Shard::recover(&storage, config(), Arc::default(), Wall(61_000)).unwrap();
    shard.check_invariants();
    assert_eq!((first.boot, second.boot), (Boot(1), Boot(2)));
    assert!(second.time.0 >= first.time.0 + 60_000, "the minute in between has passed");
}

/// A disk on which a start takes a while.
#[derive(Debug)]
struct SlowDisk(SimStorage);

impl SlowDisk {
    const TAKES: Duration = Duration::from_millis(50);
}

impl Storage for SlowDisk {
    fn list(&self) -> io::Result<Vec<Entry>> {
        std::thread::sleep(Self::TAKES);
        self.0.list()
    }
    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn StorageFile>> {
        self.0.create(name, bytes)
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        self.0.open(name)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }
    fn sync_directory(&self) -> io::Result<()> {
        self.0.sync_directory()
    }
    fn is_direct(&self) -> bool {
        self.0.is_direct()
    }
}

/// Otherwise the next start, which counts from this one, finds what was delayed since due too early.
#[test]
fn the_shards_clock_goes_on_while_the_log_is_read() {
    let disk = SlowDisk(SimStorage::new(1));
    let (_, started, clock) = Shard::recover_now(&disk, config(), Arc::default()).unwrap();
    assert!(clock.time() >= started.time + SlowDisk::TAKES, "{:?} after {:?}", clock.time(), started.time);
}

#[test]
fn with_an_interval_effects_leave_with_the_write_and_a_sync_follows_in_time() {
    let storage = SimStorage::new(1);
    let (mut shard, started) = start_with(&storage, later());
    assert!(shard.is_settled(), "the boot is synced before anybody is let in");
    let now = |ms| Now { time: Time(started.time.0 + ms), wall: Wall(1000 + ms) };
    shard.apply(now(1), &mut attach());
    shard.apply(now(1), &mut publish(1));
    let batch = shard.seal().unwrap();
    batch.write().unwrap();
    assert!(!has_ack(&shard.effects(LOOP).unwrap_or_default().effects));
    shard.batch_done(now(3), batch);
    assert!(has_ack(&shard.effects(LOOP).unwrap().effects));
    assert!(shard.seal().is_none() && !shard.is_settled());
    assert_eq!(shard.next_deadline(), Some(now(103).time));
    // A later write does not put it off.
    shard.apply(now(50), &mut publish(2));
    let batch = shard.seal().unwrap();
    batch.write().unwrap();
    shard.batch_done(now(51), batch);
    assert_eq!(shard.next_deadline(), Some(now(103).time));
    shard.apply(now(102), &mut publish(3));
    shard.expire(now(103));
    let sync = shard.seal().unwrap();
    assert!(sync.is_sync(), "before what waits is written");
    sync.write().unwrap();
    shard.batch_done(now(104), sync);
    assert!(shard.seal().is_some_and(|batch| !batch.is_sync()));
}

#[test]
fn no_boot_and_no_id_is_given_twice_whatever_the_power_takes() {
    for seed in 0..50 {
        let storage = SimStorage::new(seed);
        let mut last = (Boot(0), MessageId(0));
        for _ in 0..4 {
            let (mut shard, started) = start_with(&storage, later());
            shard.check_invariants();
            assert!(started.boot > last.0, "{:?} after {last:?}", started.boot);
            shard.apply(now(1), &mut attach());
            shard.apply(now(1), &mut publish(1));
            let batch = shard.seal().unwrap();
            batch.write().unwrap();
            shard.batch_done(now(2), batch);
            let effects = shard.effects(LOOP).unwrap().effects;
            let id = effects.iter().find_map(|effect| match effect {
                Effect::PublishAcked(acked) => Some(acked.first_id),
                _ => None,
            });
            assert!(id.unwrap() > last.1, "{id:?} after {last:?}");
            last = (started.boot, id.unwrap());
            storage.power_loss();
        }
    }
}

#[test]
fn on_threads_with_an_interval_a_stop_syncs_and_a_kill_loses_nothing() {
    let storage = SimStorage::new(1);
    let mut long = later();
    long.log.durability = Durability::Interval(Duration::from_secs(10));
    let running = run_with(&storage, long.clone());
    running.commands.send(attach()).unwrap();
    running.commands.send(publish(1)).unwrap();
    let is_acked = |effect: &Effect| matches!(effect, Effect::PublishAcked(_));
    assert!(running.next(is_acked).is_some());
    // As a kill leaves it: what was written is there.
    let killed = storage.fork(1);
    killed.kill();
    let clock = Clock::starting_at(Time(0));
    assert!(matches!(running.engine.stop(), Ended::Stopped));
    assert!(clock.micros() < 5_000_000, "a stop does not wait for the interval");
    storage.power_loss();
    for left in [killed, storage] {
        let running = run_with(&left, long.clone());
        running.commands.send(attach()).unwrap();
        running.commands.send(subscribe(1)).unwrap();
        assert!(running.next(is_delivery).is_some());
        running.engine.stop();
    }
}

#[test]
fn on_threads_a_sync_comes_by_itself_and_a_failed_one_ends_the_shard() {
    let storage = SimStorage::new(1);
    let running = run_with(&storage, later());
    running.commands.send(attach()).unwrap();
    running.commands.send(publish(1)).unwrap();
    assert!(running.next(|effect| matches!(effect, Effect::PublishAcked(_))).is_some());
    storage.fail(Fault::FailSync, 0);
    running.commands.send(publish(2)).unwrap();
    let reason = running.failures.recv_timeout(Duration::from_secs(10)).unwrap();
    assert!(reason.contains("syncing"), "{reason}");
    assert!(matches!(running.engine.stop(), Ended::Failed(_)));
}

struct Running {
    engine: Engine,
    commands: CommandSender,
    effects: EffectReceiver,
    rung: mpsc::Receiver<()>,
    failures: mpsc::Receiver<String>,
}

fn run(storage: &SimStorage) -> Running {
    run_with(storage, config())
}

fn run_with(storage: &SimStorage, config: EngineConfig) -> Running {
    let (shard, started) = start_with(storage, config);
    let (ring, rung) = mpsc::sync_channel(1024);
    let loop_bell = Bell::new(move || ring.send(()).unwrap());
    let (tell, failures) = mpsc::sync_channel(1);
    let mut far = None;
    let engine = Engine::spawn(
        shard,
        Arc::new(storage.clone()),
        Clock::starting_at(started.time),
        Arc::new(ShardMetrics::default()),
        |bell| {
            let (mut senders, commands) = command_lanes(&[(LOOP, loop_bell.clone())], bell);
            let (sender, effects) = effect_lane(LOOP, loop_bell.clone());
            far = Some((senders.remove(0), effects));
            EngineLanes { commands, effects: vec![sender] }
        },
        move |error| tell.send(error.to_string()).unwrap(),
    )
    .unwrap();
    let (commands, effects) = far.unwrap();
    // The test's thread always counts as asleep: every effect rings.
    loop_bell.about_to_sleep();
    Running { engine, commands, effects, rung, failures }
}

impl Running {
    /// The next effect that `wanted` takes.
    fn next(&self, wanted: fn(&Effect) -> bool) -> Option<Effect> {
        let clock = Clock::starting_at(Time(0));
        while clock.time() < Time(0) + PATIENCE {
            while let Some(batch) = self.effects.next_batch() {
                if let Some(found) = batch.effects.into_iter().find(wanted) {
                    return Some(found);
                }
            }
            // Woken, or looked again after a moment: the bell rings once for what comes together.
            let _ = self.rung.recv_timeout(Duration::from_millis(50));
        }
        None
    }
}

#[test]
fn on_threads_what_is_answered_is_there_after_a_restart() {
    let storage = SimStorage::new(1);
    let running = run(&storage);
    running.commands.send(attach()).unwrap();
    running.commands.send(publish(1)).unwrap();
    let acked = running.next(|effect| matches!(effect, Effect::PublishAcked(_)));
    assert!(
        matches!(acked, Some(Effect::PublishAcked(acked)) if acked.first_id == MessageId(1)),
        "{acked:?}"
    );
    assert!(matches!(running.engine.stop(), Ended::Stopped));
    storage.power_loss();

    let running = run(&storage);
    running.commands.send(attach()).unwrap();
    running.commands.send(subscribe(1)).unwrap();
    let delivered = running.next(is_delivery);
    let is_it = |effect| matches!(effect, Effect::Deliver(deliver) if deliver.lease.message == MessageId(1));
    assert!(delivered.is_some_and(is_it));
    running.engine.stop();
}

#[test]
fn on_threads_a_failed_write_is_told_and_ends_the_shard() {
    let storage = SimStorage::new(1);
    let running = run(&storage);
    storage.fail(Fault::FailWrite, 0);
    running.commands.send(attach()).unwrap();
    running.commands.send(publish(1)).unwrap();
    let reason = running.failures.recv_timeout(PATIENCE).unwrap();
    assert!(!reason.is_empty());
    assert!(matches!(running.engine.stop(), Ended::Failed(_)));
    assert!(!std::iter::from_fn(|| running.effects.next_batch()).any(|batch| has_ack(&batch.effects)));
}

/// Publishes one after the other, each once the one before is answered: nothing comes while a commit is under way.
fn publish_calmly(running: &Running, seqs: std::ops::RangeInclusive<u64>) {
    for seq in seqs {
        running.commands.send(publish(seq)).unwrap();
        assert!(running.next(|effect| matches!(effect, Effect::PublishAcked(_))).is_some(), "{seq}");
    }
}

#[test]
fn on_threads_what_the_brains_own_thread_writes_is_there_after_a_restart() {
    let storage = SimStorage::new(1);
    let running = run(&storage);
    running.commands.send(attach()).unwrap();
    publish_calmly(&running, 1..=20);
    storage.power_loss();
    running.engine.stop();

    let running = run(&storage);
    running.commands.send(attach()).unwrap();
    running.commands.send(publish(1)).unwrap();
    let acked = running.next(|effect| matches!(effect, Effect::PublishAcked(_)));
    assert!(
        matches!(acked, Some(Effect::PublishAcked(acked)) if acked.first_id == MessageId(21)),
        "{acked:?}"
    );
    running.engine.stop();
}

#[test]
fn on_threads_a_failed_write_of_the_brains_own_thread_is_told_and_ends_the_shard() {
    let storage = SimStorage::new(1);
    let running = run(&storage);
    running.commands.send(attach()).unwrap();
    publish_calmly(&running, 1..=20);
    storage.fail(Fault::FailWrite, 0);
    running.commands.send(publish(21)).unwrap();
    let reason = running.failures.recv_timeout(PATIENCE).unwrap();
    assert!(!reason.is_empty());
    assert!(matches!(running.engine.stop(), Ended::Failed(_)));
    assert!(!std::iter::from_fn(|| running.effects.next_batch()).any(|batch| has_ack(&batch.effects)));
}

#[test]
fn on_threads_a_calm_commit_is_announced_to_the_loop_that_waits_for_it() {
    if crate::host::cores() == 1 {
        return;
    }
    let (shard, started) = start(&SimStorage::new(1));
    let lane: Arc<OnceLock<EffectReceiver>> = Arc::default();
    let (tell, rung) = mpsc::channel();
    let seen = Arc::clone(&lane);
    let loop_bell = Bell::new(move || {
        let is_announced = seen.get().is_some_and(|effects| effects.is_announced() && effects.is_empty());
        tell.send(is_announced).unwrap();
    });
    let mut sender = None;
    let engine = Engine::spawn(
        shard,
        Arc::new(SimStorage::new(1)),
        Clock::starting_at(started.time),
        Arc::new(ShardMetrics::default()),
        |bell| {
            let (mut senders, commands) = command_lanes(&[(LOOP, loop_bell.clone())], bell);
            sender = senders.pop();
            let (effects_sender, effects) = effect_lane(LOOP, loop_bell.clone());
            lane.set(effects).unwrap();
            EngineLanes { commands, effects: vec![effects_sender] }
        },
        |_| {},
    )
    .unwrap();
    let (commands, effects) = (sender.unwrap(), lane.get().unwrap());
    commands.send(attach()).unwrap();
    let publish_and_await = |seq| {
        loop_bell.about_to_sleep();
        commands.send(publish(seq)).unwrap();
        let is_announced = rung.recv_timeout(PATIENCE).unwrap();
        while !effects.next_batch().is_some_and(|batch| has_ack(&batch.effects)) {
            std::thread::yield_now();
        }
        is_announced
    };
    assert!(!publish_and_await(1), "nothing is known of how commits go");
    // A busy machine may take its time for some of them.
    assert!((2..1000).any(publish_and_await));
    while effects.is_announced() {
        std::thread::yield_now();
    }
    engine.stop();
}
