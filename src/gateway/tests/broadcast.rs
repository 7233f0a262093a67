//! Broadcasts: who gets them, in which order, who misses them, and what goes on between the waves.

use super::*;
use crate::ids::{ShardId, SubscriptionId, TopicId};
use crate::limits;
use crate::mail::{Broadcast, Broadcasted, TopicSet, TopicSubscription};
use crate::wire::{DICTIONARY_ID, EMPTY_PING};

const NEWS: u64 = 1;
const WEATHER: u64 = 2;
const MINE: u32 = 4;

/// The set of these topics, each under its number.
fn set(id: u64, topics: &[(u16, u64)]) -> Arc<TopicSet> {
    let own = |&(number, topic): &(u16, u64)| TopicSubscription {
        subscription: SubscriptionId(number),
        topic: TopicId(topic),
    };
    Arc::new(TopicSet { id, subscriptions: topics.iter().map(own).collect() })
}

fn told(key: SlotKey, topics: Option<&Arc<TopicSet>>) -> Effect {
    Effect::Topics { conn: conn(key), topics: topics.cloned() }
}

fn sent(topic: u64, body: &[u8]) -> Effect {
    let broadcast =
        Arc::new(Broadcast { shard: ShardId(0), topic: TopicId(topic), namespace: MINE, body: body.into() });
    Effect::Broadcast { loop_id: LoopId(0), broadcast }
}

/// A gateway that hands so many broadcasts on in a wave, with live connections.
fn rig(sends: usize, connections: usize) -> (Rig, Vec<SlotKey>) {
    rig_of(GatewayConfig { broadcast_wave_sends: sends, ..config() }, connections)
}

/// The same with a pause of 20 to 80 ms between waves.
fn paced_rig(sends: usize, connections: usize) -> (Rig, Vec<SlotKey>) {
    let (broadcast_pause_min, broadcast_pause_max) = (Duration::from_millis(20), Duration::from_millis(80));
    let paced = GatewayConfig { broadcast_pause_min, broadcast_pause_max, ..config() };
    rig_of(GatewayConfig { broadcast_wave_sends: sends, ..paced }, connections)
}

fn rig_of(config: GatewayConfig, connections: usize) -> (Rig, Vec<SlotKey>) {
    let mut rig = Rig::new(GatewayConfig { max_sessions: 1000, ..config });
    let keys = (0..connections).map(|number| rig.live(&format!("d{number}"))).collect();
    (rig, keys)
}

fn wave(rig: &mut Rig) {
    rig.gateway.expire(rig.now);
    rig.turn();
}

/// Waves until nothing is under way; returns how many.
fn waves(rig: &mut Rig) -> usize {
    (1..10_000)
        .find(|_| {
            wave(rig);
            rig.gateway.sweep.due().is_none()
        })
        .expect("the waves come to an end")
}

/// What was said to be done.
fn done(rig: &mut Rig) -> u64 {
    let bytes = |command| match command {
        Command::BroadcastsDone { loop_id, namespace, bytes } => {
            assert_eq!((loop_id, namespace), (LoopId(0), MINE));
            bytes
        }
        other => panic!("{other:?}"),
    };
    rig.commands().into_iter().map(bytes).sum()
}

fn got(number: u16, body: &[u8]) -> Got {
    Got::Broadcast(number, body.to_vec())
}

#[test]
fn a_broadcast_reaches_those_subscribed_to_its_topic_once() {
    let (mut rig, keys) = rig(256, 4);
    let (news, both) = (set(1, &[(5, NEWS)]), set(2, &[(5, WEATHER), (6, NEWS)]));
    rig.effects(vec![told(keys[1], Some(&news)), told(keys[2], Some(&both))], &[]);
    rig.effects(vec![told(keys[3], Some(&set(3, &[(5, WEATHER)])))], &[]);
    rig.effects(vec![sent(NEWS, b"hello")], &[]);
    assert_eq!(waves(&mut rig), 1);
    for (key, expected) in keys.iter().zip([vec![], vec![got(5, b"hello")], vec![got(6, b"hello")], vec![]]) {
        assert_eq!(rig.frames(key.slot), expected);
    }
    assert_eq!(done(&mut rig), limits::BROADCAST_CHARGE_BYTES_MIN as u64);
    assert_eq!((rig.metrics.broadcast_deliveries.value(), rig.metrics.broadcast_missed.value()), (2, 0));
    // To nobody at all it is done as well.
    for key in &keys {
        rig.effects(vec![told(*key, None)], &[]);
    }
    rig.effects(vec![sent(NEWS, b"hello")], &[]);
    waves(&mut rig);
    assert!(keys.iter().all(|key| rig.frames(key.slot).is_empty()));
    assert_eq!(done(&mut rig), limits::BROADCAST_CHARGE_BYTES_MIN as u64);
    let (mut unused, _) = self::rig(1, 0);
    unused.effects(vec![sent(NEWS, b"hello")], &[]);
    assert_eq!(waves(&mut unused), 1);
    assert!(done(&mut unused) > 0);
}

#[test]
fn a_heartbeat_is_answered_between_two_waves() {
    let (mut rig, keys) = rig(3, 10);
    let news = set(1, &[(1, NEWS)]);
    rig.effects(keys.iter().map(|key| told(*key, Some(&news))).collect(), &[]);
    rig.effects(vec![sent(NEWS, b"hello")], &[]);
    let mut reached = 0;
    for expected in [3, 6, 9] {
        wave(&mut rig);
        reached += 3;
        assert_eq!(rig.metrics.broadcast_deliveries.value(), expected);
        assert!(rig.gateway.next_deadline().is_some_and(|due| due <= rig.now), "it goes on at once");
        let last = *keys.last().unwrap();
        rig.receive(last, &EMPTY_PING);
        assert_eq!(rig.frames(last.slot), [Got::Pong], "after {reached} of {}", keys.len());
    }
    assert_eq!(waves(&mut rig), 1);
    assert!(keys[..9].iter().all(|key| rig.frames(key.slot) == [got(1, b"hello")]));
    assert_eq!(rig.frames(keys[9].slot), [got(1, b"hello")]);
}

#[test]
fn broadcasts_that_come_meanwhile_share_the_way_and_keep_their_order() {
    let (mut rig, keys) = rig(2, 7);
    let both = set(1, &[(1, NEWS), (2, WEATHER)]);
    rig.effects(keys.iter().map(|key| told(*key, Some(&both))).collect(), &[]);
    let mut expected = Vec::new();
    for at in 0..20_u8 {
        let topic = if at % 3 == 0 { WEATHER } else { NEWS };
        rig.effects(vec![sent(topic, &[at])], &[]);
        expected.push(got(if topic == NEWS { 1 } else { 2 }, &[at]));
        wave(&mut rig);
    }
    waves(&mut rig);
    for key in &keys {
        let frames = rig.frames(key.slot);
        for topic in [1, 2] {
            let of = |frames: &[Got]| -> Vec<Got> {
                frames
                    .iter()
                    .filter(|got| matches!(got, Got::Broadcast(n, _) if *n == topic))
                    .cloned()
                    .collect()
            };
            assert_eq!(of(&frames), of(&expected), "slot {}", key.slot);
        }
        assert_eq!(frames.len(), expected.len());
    }
    assert_eq!(done(&mut rig), 20 * limits::BROADCAST_CHARGE_BYTES_MIN as u64);
}

#[test]
fn a_connection_that_reads_nothing_misses_what_is_beyond_its_budget() {
    let (mut rig, keys) = rig(256, 3);
    let news = set(1, &[(1, NEWS)]);
    rig.effects(keys.iter().map(|key| told(*key, Some(&news))).collect(), &[]);
    rig.plugged.push(keys[1].slot);
    let body = vec![7; limits::WRITE_BUDGET_BYTES / 4];
    for _ in 0..10 {
        rig.effects(vec![sent(NEWS, &body)], &[]);
        waves(&mut rig);
    }
    for key in [keys[0], keys[2]] {
        assert_eq!(rig.frames(key.slot).len(), 10);
    }
    rig.plugged.clear();
    rig.flush(keys[1].slot);
    assert_eq!(rig.frames(keys[1].slot).len(), 4, "its budget was used up by four");
    assert_eq!(rig.metrics.broadcast_missed.value(), 6);
    assert_eq!(done(&mut rig), 10 * body.len() as u64);
    rig.effects(vec![sent(NEWS, b"again")], &[]);
    waves(&mut rig);
    assert_eq!(rig.frames(keys[1].slot), [got(1, b"again")]);
}

#[test]
fn many_at_once_reach_a_connection_that_reads_as_fast_as_it_may() {
    let (mut rig, keys) = rig(256, 2);
    let news = set(1, &[(1, NEWS)]);
    rig.effects(keys.iter().map(|key| told(*key, Some(&news))).collect(), &[]);
    // Together more than the output of a connection may hold: its socket has a chance in between.
    let body = vec![7; limits::WRITE_BUDGET_BYTES / 4];
    let all = (0..10).map(|_| sent(NEWS, &body)).collect();
    rig.effects(all, &[]);
    waves(&mut rig);
    for key in keys {
        assert_eq!(rig.frames(key.slot).len(), 10);
    }
    assert_eq!(rig.metrics.broadcast_missed.value(), 0);
}

#[test]
fn whoever_leaves_or_comes_while_one_is_under_way_is_no_trouble() {
    let (mut rig, keys) = rig(1, 6);
    let news = set(1, &[(1, NEWS)]);
    rig.effects(keys.iter().map(|key| told(*key, Some(&news))).collect(), &[]);
    rig.effects(vec![sent(NEWS, b"hello")], &[]);
    wave(&mut rig);
    // One leaves, one is given its slot, one is not subscribed any more, one has another set of topics.
    rig.gateway.closed(rig.now, keys[3].slot, CloseCause::Peer);
    let newcomer = rig.live("late");
    assert_eq!(newcomer.slot, keys[3].slot);
    rig.effects(vec![told(keys[4], None)], &[]);
    rig.effects(vec![told(keys[5], Some(&set(9, &[(1, NEWS), (2, WEATHER)])))], &[]);
    // What the shard said before it knew is of no effect.
    rig.effects(vec![told(keys[3], Some(&news))], &[]);
    waves(&mut rig);
    for key in [keys[0], keys[1], keys[2], keys[5]] {
        assert_eq!(rig.frames(key.slot), [got(1, b"hello")]);
    }
    for key in [newcomer, keys[4]] {
        assert_eq!(rig.frames(key.slot), []);
    }
    // A connection beyond the last slot comes along while one is under way.
    rig.effects(vec![sent(NEWS, b"more")], &[]);
    wave(&mut rig);
    let beyond = rig.live("beyond");
    rig.effects(vec![told(beyond, Some(&news))], &[]);
    waves(&mut rig);
    for key in [keys[0], keys[1], keys[2], keys[5]] {
        assert_eq!(rig.frames(key.slot), [got(1, b"more")]);
    }
    assert!(rig.frames(beyond.slot).len() <= 1);
}

#[test]
fn a_client_that_was_told_to_go_gets_no_more() {
    let (mut rig, keys) = rig(256, 2);
    let news = set(1, &[(1, NEWS)]);
    rig.effects(keys.iter().map(|key| told(*key, Some(&news))).collect(), &[]);
    // Something unanswered keeps them.
    for key in &keys {
        rig.receive(*key, &publish(1, "jobs", &[b"x"]));
    }
    rig.commands();
    rig.gateway.begin_drain(rig.now, std::time::Duration::ZERO);
    rig.turn();
    rig.effects(vec![sent(NEWS, b"hello")], &[]);
    waves(&mut rig);
    for key in keys {
        assert!(matches!(rig.frames(key.slot)[..], [Got::GoAway(_)]));
    }
    assert_eq!(done(&mut rig), limits::BROADCAST_CHARGE_BYTES_MIN as u64);
}

#[test]
fn a_large_one_is_compressed_once_for_those_that_can() {
    let (mut rig, plain) = rig(256, 2);
    let mut packed = Vec::new();
    for _ in 0..3 {
        let key = rig.accept();
        let hello = proto::Hello {
            client_id: format!("p{}", key.slot),
            dictionaries: vec![DICTIONARY_ID],
            ..Default::default()
        };
        rig.receive(key, &hello_of(hello));
        rig.attach(key, 1);
        rig.commands();
        rig.taken[key.slot as usize].clear();
        packed.push(key);
    }
    // More numbers than frames are kept for.
    let room = |room: usize| format!("room {room}: {} degrees\n", room * room % 397).into_bytes();
    let body: Vec<u8> = (0..300).flat_map(room).collect();
    for (number, key) in (1..).zip(&packed) {
        rig.effects(vec![told(*key, Some(&set(u64::from(number), &[(number, NEWS)])))], &[]);
    }
    for key in &plain {
        rig.effects(vec![told(*key, Some(&set(1, &[(1, NEWS)])))], &[]);
    }
    rig.effects(vec![sent(NEWS, &body)], &[]);
    waves(&mut rig);
    for key in plain {
        assert_eq!(rig.frames(key.slot), [got(1, &body)]);
    }
    let mut compressed = 0;
    for (number, key) in (1_u16..).zip(packed) {
        let bytes = std::mem::take(&mut rig.taken[key.slot as usize]);
        let Ok(Split::Frame { frame, consumed }) = split(&bytes, 1 << 24) else { panic!("no frame") };
        assert_eq!(consumed, bytes.len());
        compressed += usize::from(frame.compressed);
        let mut codec = Codec::new();
        let payload = codec.payload(frame, true, 1 << 20).unwrap();
        let Ok(ServerFrame::Deliver(view)) = ServerFrame::decode(frame.kind, payload) else { panic!("none") };
        let broadcast = view.broadcasts().next().unwrap();
        assert_eq!((broadcast.subscription.0, broadcast.message), (number, &*body));
    }
    assert_eq!(compressed, limits::BROADCAST_FRAMES_MAX);
    assert_eq!(rig.metrics.frames_compressed.value(), compressed as u64);
}

#[test]
fn a_publish_to_a_topic_is_answered_with_its_subscribers_and_leaves_the_window() {
    let (mut rig, keys) = rig(256, 1);
    rig.receive(keys[0], &publish(1, "topic/news", &[b"one", b"two"]));
    let [Command::Publish(sent)] = &rig.commands()[..] else { panic!("no publish") };
    assert_eq!(sent.queue.topic(), Some("news"));
    let answer = Broadcasted {
        conn: conn(keys[0]),
        seq: 1,
        messages: 2,
        bytes: 10,
        first_id: crate::ids::MessageId(40),
        subscribers: 7,
    };
    rig.effects(vec![Effect::Broadcasted(answer)], &[]);
    let ack = proto::PublishAck { seq: 1, messages: 2, first_id: 40, subscribers: 7, ..Default::default() };
    assert_eq!(rig.frames(keys[0].slot), [Got::PublishAck(ack)]);
}

#[test]
fn a_walk_over_many_slots_takes_several_turns() {
    let mut memberships = super::super::broadcast::Memberships::default();
    let far = limits::BROADCAST_WAVE_SLOTS as u32 * 2;
    memberships.assign(far, Some(set(1, &[(1, NEWS)])));
    let (mut rig, _) = rig(256, 1);
    rig.gateway.memberships = memberships;
    rig.gateway.take_broadcast(Arc::new(Broadcast {
        shard: ShardId(0),
        topic: TopicId(NEWS),
        namespace: MINE,
        body: b"x"[..].into(),
    }));
    let turns = (1..10).find(|_| {
        rig.gateway.broadcast_wave(rig.now);
        rig.gateway.sweep.due().is_none()
    });
    assert_eq!(turns, Some(3));
}

/// Subscribes them all to the news, and gives the gateway so many to send.
fn news_for(rig: &mut Rig, keys: &[SlotKey], bodies: &[&[u8]]) {
    let news = set(1, &[(1, NEWS)]);
    rig.effects(keys.iter().map(|key| told(*key, Some(&news))).collect(), &[]);
    rig.effects(bodies.iter().map(|body| sent(NEWS, body)).collect(), &[]);
}

fn deliveries(rig: &Rig) -> u64 {
    rig.metrics.broadcast_deliveries.value()
}

#[test]
fn a_wave_ends_at_its_bound_and_the_next_begins_not_before_its_time() {
    let (mut rig, keys) = paced_rig(40, 200);
    news_for(&mut rig, &keys, &[b"hello"]);
    wave(&mut rig);
    assert_eq!(deliveries(&rig), 40, "the first leaves at once");
    for sent in [80, 120, 160, 200] {
        let due = rig.gateway.sweep.due().expect("it goes on");
        assert!((20..=80).contains(&rig.now.millis_until(due)), "{due:?} at {:?}", rig.now);
        assert_eq!(rig.gateway.next_deadline(), Some(due), "the loop sleeps until then");
        // Turns that come meanwhile send nothing.
        while rig.now.millis_until(due) > 1 {
            rig.now = rig.now + Duration::from_millis(1);
            wave(&mut rig);
        }
        assert_eq!(deliveries(&rig), sent - 40);
        rig.now = due;
        wave(&mut rig);
        assert_eq!(deliveries(&rig), sent);
    }
}

#[test]
fn a_wave_whose_time_is_up_ends_after_a_portion_and_goes_on_with_the_next_wave() {
    let (mut rig, keys) = paced_rig(40, 100);
    news_for(&mut rig, &keys, &[b"hello"]);
    let portion = limits::BROADCAST_PORTION_SENDS as u64;
    let mut sent = 0;
    while sent < 100 {
        // The reactor asks for no further portion of it.
        rig.gateway.expire(rig.now);
        rig.act();
        sent = (sent + portion).min(100);
        assert_eq!(deliveries(&rig), sent);
        rig.now = rig.now + Duration::from_millis(1);
        wave(&mut rig);
        assert_eq!(deliveries(&rig), sent, "what was left of the wave is not made up for");
        rig.now = rig.gateway.sweep.due().unwrap_or(rig.now);
    }
    for key in keys {
        assert_eq!(rig.frames(key.slot), [got(1, b"hello")]);
    }
}

#[test]
fn heartbeats_between_paced_waves_are_answered_in_their_turn() {
    let (mut rig, keys) = paced_rig(3, 30);
    news_for(&mut rig, &keys, &[b"hello"]);
    wave(&mut rig);
    let last = *keys.last().unwrap();
    let mut answered = 0;
    while rig.gateway.sweep.due().is_some() {
        let (before, is_due) = (deliveries(&rig), rig.gateway.sweep.due() <= Some(rig.now));
        rig.receive(last, &EMPTY_PING);
        assert_eq!(deliveries(&rig), before, "what is read sends no wave");
        assert_eq!(rig.frames(last.slot).last(), Some(&Got::Pong));
        answered += 1;
        wave(&mut rig);
        let most = if is_due { 3 } else { 0 };
        assert!(deliveries(&rig) - before <= most);
        rig.now = rig.now + Duration::from_millis(1);
    }
    assert!(answered > 9 * 19, "nine waves and a pause after each: {answered}");
}

#[test]
fn a_connection_that_reads_nothing_holds_up_nobody_else() {
    let mut paced = Vec::new();
    for plugged in [false, true] {
        let (mut rig, keys) = paced_rig(8, 64);
        if plugged {
            rig.plugged.push(keys[5].slot);
        }
        let body = vec![7; limits::WRITE_BUDGET_BYTES / 4];
        news_for(&mut rig, &keys, &[&body[..]; 6]);
        let began = rig.now;
        let mut waves = 0;
        while let Some(due) = rig.gateway.sweep.due() {
            rig.now = rig.now.max(due);
            wave(&mut rig);
            waves += 1;
        }
        for (_, key) in keys.iter().enumerate().filter(|(number, _)| !plugged || *number != 5) {
            assert_eq!(rig.frames(key.slot).len(), 6);
        }
        paced.push((waves, began.millis_until(rig.now)));
        assert_eq!(rig.metrics.broadcast_missed.value() > 0, plugged);
    }
    assert!(paced[1].0 <= paced[0].0 && paced[1].1 <= paced[0].1, "{paced:?}");
}

#[test]
fn the_end_of_a_broadcast_leaves_no_deadline_behind() {
    let (mut rig, keys) = paced_rig(4, 10);
    // Nothing is due but the silence of the connections.
    let silence = rig.gateway.next_deadline().expect("connections have deadlines");
    news_for(&mut rig, &keys, &[b"hello"]);
    let mut waves = 0;
    while rig.gateway.sweep.due().is_some() {
        rig.now = rig.now.max(rig.gateway.next_deadline().unwrap());
        wave(&mut rig);
        waves += 1;
    }
    assert_eq!((waves, deliveries(&rig)), (3, 10));
    assert_eq!(rig.gateway.next_deadline(), Some(silence));
    // One to nobody neither.
    rig.effects(vec![sent(WEATHER, b"hello")], &[]);
    while let Some(due) = rig.gateway.sweep.due() {
        rig.now = rig.now.max(due);
        wave(&mut rig);
    }
    assert_eq!(rig.gateway.next_deadline(), Some(silence));
}

#[test]
fn small_broadcasts_one_after_the_other_wait_for_no_pause() {
    let (mut rig, keys) = paced_rig(64, 10);
    news_for(&mut rig, &keys[..1], &[]);
    for body in 0..100_u8 {
        rig.effects(vec![sent(NEWS, &[body])], &[]);
        wave(&mut rig);
        rig.now = rig.now + Duration::from_millis(2);
    }
    wave(&mut rig);
    assert_eq!(rig.frames(keys[0].slot).len(), 100);
}

#[test]
fn as_many_broadcasts_as_may_be_queued_take_bounded_memory() {
    let loop_output_bytes_max = 4 * limits::MESSAGE_BYTES_MAX;
    let (mut rig, keys) =
        rig_of(GatewayConfig { broadcast_wave_sends: 64, loop_output_bytes_max, ..config() }, 50);
    // Nobody reads.
    rig.plugged = keys.iter().map(|key| key.slot).collect();
    let queued = limits::BROADCAST_BYTES_PER_LOOP_MAX as usize / limits::BROADCAST_CHARGE_BYTES_MIN;
    let body = [7; limits::BROADCAST_CHARGE_BYTES_MIN];
    news_for(&mut rig, &keys, &vec![&body[..]; queued]);
    let mut turns = 0;
    while rig.gateway.sweep.due().is_some() {
        wave(&mut rig);
        turns += 1;
        let most = loop_output_bytes_max.min(keys.len() * (limits::WRITE_BUDGET_BYTES + 2 * body.len()));
        assert!(rig.gateway.buffers.output_bytes <= most + 2 * body.len());
        assert!(turns < 100_000, "it comes to its end");
    }
    assert_eq!(done(&mut rig), limits::BROADCAST_BYTES_PER_LOOP_MAX);
    let all = (queued * keys.len()) as u64;
    assert_eq!(deliveries(&rig) + rig.metrics.broadcast_missed.value(), all);
    assert_eq!(rig.gateway.sweep.capacity(), 0, "the list of them is given back");
}

#[test]
fn connections_beyond_the_places_for_sets_keep_theirs_by_themselves() {
    let mut memberships = super::super::broadcast::Memberships::default();
    let places = limits::TOPIC_SETS_MAX as u32;
    for slot in 0..places + 2 {
        memberships.assign(slot, Some(set(u64::from(slot), &[(1, u64::from(slot))])));
    }
    memberships.check(|slot| slot < places + 2);
    let topic_of = |memberships: &super::super::broadcast::Memberships, slot: u32| {
        memberships.set_of(slot).map(|set| set.subscriptions[0].topic)
    };
    assert_eq!(topic_of(&memberships, places + 1), Some(TopicId(u64::from(places) + 1)));
    memberships.assign(places, Some(set(7, &[(1, 7)])));
    assert_eq!(topic_of(&memberships, places), Some(TopicId(7)), "it shares what another has");
    memberships.leave(places + 1);
    assert_eq!(topic_of(&memberships, places + 1), None);
    memberships.check(|slot| slot <= places);
}
