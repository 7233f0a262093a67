use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use super::*;
use crate::clock::{Clock, Now, Time, Wall};
use crate::ids::{Boot, ClientId, ConnKey, LoopId, MessageId, Namespace, QueueName, SubscriptionId};
use crate::log::LogConfig;
use crate::log::sim_storage::{Fault, SimStorage};
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
    let log = LogConfig { segment_bytes: 4 << 20, seed: 1 };
    EngineConfig { log, queue: QueueConfig::default(), seed: 1 }
}

fn start(storage: &SimStorage) -> (Shard, Started) {
    let (mut shard, started) = Shard::recover(storage, config(), Arc::default(), Wall(1000)).unwrap();
    commit(&mut shard);
    (shard, started)
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
    let publish = Publish { conn: CONN, seq, queue, producer: None, messages: 1 };
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

struct Running {
    engine: Engine,
    commands: CommandSender,
    effects: EffectReceiver,
    rung: mpsc::Receiver<()>,
    failures: mpsc::Receiver<String>,
}

fn run(storage: &SimStorage) -> Running {
    let (shard, started) = start(storage);
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
