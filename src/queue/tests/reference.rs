//! Random operations beside a plain model of the whole, in memory: what every message is at every moment, exactly.
//!
//! Where [`super::model`] asks whether promises are kept whatever is torn, here every operation is durable before the next,
//! and the model says beforehand what must come of it: which publish is new, known or refused, which copies a topic's
//! bindings make, what comes due, dies, is forgotten, redriven or purged. After each operation all messages are compared.
//! Restarts, compactions and jumps of the wall clock by an hour and by ten years lie between.
//!
//! ```text
//! QUEUE_MODEL_SEEDS=1700 cargo test --release --lib queue::tests::reference -- --nocapture     1,020,000 operations
//! ```

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;

use super::*;
use crate::mail::{BindingSpec, TargetFull};
use crate::queue::messages::State;
use crate::queue::{NamespaceRules, WhenFull};
use crate::wire::proto;

/// Operations of a seed.
const STEPS: usize = 600;
const SEEDS: u64 = 60;

const LEASE_MS: u64 = 30_000;
const ATTEMPTS: u32 = 3;
const BACKOFF_MS: u64 = 1000;
const WINDOW_MS: u64 = 20_000;
const IDS_MAX: usize = 6;
const LATE_MS: u64 = 5000;
const LOOK_MS: u64 = 1000;

/// What schedules publish to, without limits; the other two are full now and then.
const TIMED: &str = "c";
const QUEUES: [&str; 2] = ["a", "b"];
const TOPICS: [&str; 2] = ["e.a", "e.b"];
const PATTERNS: [(&str, [bool; 2]); 3] = [("e.a", [true, false]), ("e.*", [true, true]), (">", [true, true])];
/// A filter's text and what it takes, by the attribute `n`.
type Filter = (&'static str, fn(u8) -> bool);
const FILTERS: [Filter; 3] = [("", |_| true), ("n < 5", |n| n < 5), ("not n = 3", |n| n != 3)];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Is {
    Ready,
    Scheduled(u64),
    Leased(u64),
    Dead(&'static str, u64),
}

#[derive(Debug, Clone)]
struct Row {
    queue: &'static str,
    is: Is,
    attempt: u32,
    spent: u32,
    attempts_max: u32,
    priority: u8,
    expires: u64,
    due: u64,
    /// What it was published with. Once that came it is 0 above, until a restart.
    due_asked: u64,
    no_sooner: u64,
    /// It was ready since it was published, and nothing else.
    is_fresh: bool,
}

#[derive(Debug, Clone)]
struct Bound {
    pattern: usize,
    filter: usize,
    to: &'static str,
    waits: bool,
}

#[derive(Debug, Clone)]
struct Timetable {
    period_ms: u64,
    misfire: Misfire,
    missed_max: usize,
    is_paused: bool,
    since: u64,
    fired: u64,
    next: Option<u64>,
    mark: u64,
}

impl Timetable {
    fn next_after(&self, wall: u64) -> u64 {
        (wall / self.period_ms + 1) * self.period_ms
    }

    fn begin_anew(&mut self) {
        self.next = (!self.is_paused).then(|| self.next_after(self.since.max(self.fired)));
    }
}

/// What a publish must come to.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    New,
    Known(u64),
    Refused,
    Lost,
}

/// The rules of a queue, as far as they differ.
#[derive(Debug, Clone, Copy)]
struct Rules {
    messages_max: usize,
    oldest_dies: bool,
    dead_max: usize,
    dead_ttl: Option<u64>,
}

#[derive(Default)]
struct Plain {
    rows: BTreeMap<u64, Row>,
    /// Deduplication ids by queue, in the order they were kept: id, message, end of its window.
    ids: BTreeMap<&'static str, Vec<(String, u64, u64)>>,
    bindings: BTreeMap<String, Bound>,
    timetables: BTreeMap<String, Timetable>,
    timer: Option<u64>,
    looked: u64,
    namespace_max: Option<usize>,
    rules: BTreeMap<&'static str, Rules>,
    /// How many messages of a queue die for room, and when.
    doomed: Vec<(&'static str, usize, u64)>,
}

/// A message that must be there after the operation: queue and body.
type Wanted = (&'static str, Vec<u8>, Row);

impl Plain {
    fn waiting(&self, queue: Option<&str>) -> usize {
        let is_there =
            |row: &&Row| !matches!(row.is, Is::Dead(..)) && queue.is_none_or(|queue| row.queue == queue);
        self.rows.values().filter(is_there).count()
    }

    /// How many have to die so that there is room; `None` when there is none.
    fn room(&self, queue: &'static str, count: usize, beside: usize, is_covered: bool) -> Option<usize> {
        let rules = self.rules[queue];
        let over_own = (self.waiting(Some(queue)) + count).saturating_sub(rules.messages_max);
        let of_all = self.namespace_max.unwrap_or(usize::MAX);
        let over_all = (self.waiting(None) + count + beside).saturating_sub(of_all);
        let over = if is_covered { over_own } else { over_own.max(over_all) };
        if over == 0 {
            return Some(0);
        }
        let over = over_own.max(over_all);
        let ready = self.rows.values().filter(|row| row.queue == queue && row.is == Is::Ready).count();
        (rules.oldest_dies && ready >= over).then_some(over)
    }

    fn known(&self, queue: &str, id: &str, now: u64) -> Option<u64> {
        let ids = self.ids.get(queue)?;
        ids.iter().rev().find(|(own, _, until)| own == id && *until > now).map(|&(_, message, _)| message)
    }

    fn has_room_for_ids(&self, queue: &str, count: usize, now: u64) -> bool {
        let there =
            self.ids.get(queue).map_or(0, |ids| ids.iter().filter(|(_, _, until)| *until > now).count());
        count == 0 || there + count <= IDS_MAX
    }

    fn die(&mut self, id: u64, reason: &'static str, now: u64) {
        let row = self.rows.get_mut(&id).expect("who dies is there");
        (row.is, row.is_fresh) = (Is::Dead(reason, now), false);
    }

    fn fail(&mut self, id: u64, delay_ms: Option<u64>, now: u64) {
        let row = self.rows.get_mut(&id).expect("who fails is there");
        row.is_fresh = false;
        let delay = delay_ms.unwrap_or(BACKOFF_MS << (row.spent - 1));
        match delay {
            _ if row.spent >= row.attempts_max => self.die(id, "attempts", now),
            0 => row.is = Is::Ready,
            delay => row.is = Is::Scheduled(now + delay),
        }
    }

    /// What is due by now; returns the times that schedules publish for.
    fn expire(&mut self, now: u64, wall: u64) -> Vec<(u64, u64)> {
        let ids: Vec<u64> = self.rows.keys().copied().collect();
        for id in ids {
            let row = self.rows.get_mut(&id).expect("listed above");
            let is_expired = row.expires != 0 && row.expires <= now;
            match row.is {
                Is::Leased(until) if until <= now => {
                    self.fail(id, None, now);
                    if is_expired && !matches!(self.rows[&id].is, Is::Dead(..)) {
                        self.die(id, "expired", now);
                    }
                }
                Is::Ready | Is::Scheduled(_) if is_expired => self.die(id, "expired", now),
                Is::Scheduled(until) => {
                    let came = match row.due {
                        0 => until <= now,
                        due => wall >= due && now >= row.no_sooner,
                    };
                    if came {
                        (row.is, row.due) = (Is::Ready, 0);
                    }
                }
                _ => {}
            }
        }
        let rules = &self.rules;
        self.rows.retain(|_, row| match row.is {
            Is::Dead(_, died) => rules[row.queue].dead_ttl.is_none_or(|ttl| died + ttl > now),
            _ => true,
        });
        if self.timer.is_none_or(|at| at > now) {
            return Vec::new();
        }
        let fired = self.come_due(wall);
        self.set_timer(now, wall);
        fired
    }

    fn come_due(&mut self, wall: u64) -> Vec<(u64, u64)> {
        if wall < self.looked {
            self.timetables.values_mut().for_each(Timetable::begin_anew);
        }
        self.looked = wall;
        let mut fired = Vec::new();
        for one in self.timetables.values_mut() {
            let Some(due) = one.next.filter(|&next| next <= wall) else { continue };
            let latest = due.max(wall / one.period_ms * one.period_ms);
            let times: Vec<u64> = match one.misfire {
                Misfire::All => {
                    let all = (latest - due) / one.period_ms + 1;
                    let made_up = all.min(one.missed_max as u64);
                    (0..made_up).rev().map(|back| latest - back * one.period_ms).collect()
                }
                Misfire::Skip if wall - latest > LATE_MS => Vec::new(),
                Misfire::Skip | Misfire::Once => vec![latest],
            };
            match times.last() {
                Some(&last) => (one.fired, one.next) = (last, Some(one.next_after(last))),
                None => one.next = Some(one.next_after(wall)),
            }
            fired.extend(times.into_iter().map(|time| (one.mark, time)));
        }
        fired
    }

    fn set_timer(&mut self, now: u64, wall: u64) {
        let first = self.timetables.values().filter_map(|one| one.next).min();
        self.timer = first.map(|first| now + first.saturating_sub(wall).clamp(1, LOOK_MS));
    }
}

struct Run {
    world: World,
    random: fastrand::Rng,
    plain: Plain,
    producer: ConnKey,
    worker: ConnKey,
    leases: Vec<LeaseId>,
    bodies: u64,
    wanted: Vec<Wanted>,
    has_schedules: bool,
}

#[test]
fn every_message_is_what_a_plain_model_says() {
    let count = std::env::var("QUEUE_MODEL_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(SEEDS);
    let (mut divergences, mut messages) = (Vec::new(), 0);
    for seed in 0..count {
        match std::panic::catch_unwind(|| Run::new(seed).all(STEPS)) {
            Ok(published) => messages += published,
            Err(_) => divergences.push(seed),
        }
    }
    println!(
        "{count} seeds, {} operations, {messages} messages, {} divergences",
        count * STEPS as u64,
        divergences.len()
    );
    assert!(divergences.is_empty(), "the model and the queue differ in the seeds {divergences:?}");
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut config = QueueConfig::default();
        let has_schedules = random.bool();
        let namespace_max = (!has_schedules && random.bool()).then(|| random.usize(6..14));
        config.namespace =
            NamespaceRules { messages_max: namespace_max.map(|max| max as u64), ..NamespaceRules::default() };
        let dead_ttl = random.bool().then(|| random.u64(10_000..60_000));
        let rules = &mut config.work_queue;
        (rules.attempts_max, rules.lease) = (ATTEMPTS, Duration::from_millis(LEASE_MS));
        rules.backoff_initial = Duration::from_millis(BACKOFF_MS);
        (rules.backoff_factor_percent, rules.backoff_jitter_percent) = (200, 0);
        (rules.dedup_window, rules.dedup_ids_max) = (Duration::from_millis(WINDOW_MS), IDS_MAX as u64);
        rules.dead_ttl = dead_ttl.map(Duration::from_millis);
        rules.dead_messages_max = Some(1_000_000);
        let mut run = Self {
            world: World::with(config),
            random,
            plain: Plain { namespace_max, ..Plain::default() },
            producer: ConnKey { loop_id: LoopId(0), slot: 0, generation: 0 },
            worker: ConnKey { loop_id: LoopId(0), slot: 0, generation: 0 },
            leases: Vec::new(),
            bodies: 0,
            wanted: Vec::new(),
            has_schedules,
        };
        let free = Rules { messages_max: 1_000_000, oldest_dies: false, dead_max: 1_000_000, dead_ttl };
        run.plain.rules.insert(TIMED, free);
        run.plain.looked = run.world.now.wall.0;
        for queue in QUEUES {
            let rules = Rules {
                messages_max: run.random.usize(4..10),
                oldest_dies: run.random.bool(),
                dead_max: run.random.choice([3, 1_000_000]).unwrap(),
                dead_ttl,
            };
            run.plain.rules.insert(queue, rules);
            let when_full = if rules.oldest_dies { WhenFull::DeadLetterOldest } else { WhenFull::Reject };
            let (messages_max, dead_max) = (rules.messages_max.to_string(), rules.dead_max.to_string());
            let settings = [
                ("messages_max", messages_max.as_str()),
                ("dead_messages_max", dead_max.as_str()),
                ("when_full", when_full.as_str()),
            ];
            let reply = run.world.set(queue, &settings);
            assert!(matches!(reply, OperatorReply::Settings(_)), "{reply:?}");
        }
        run.connect();
        run
    }

    fn connect(&mut self) {
        self.producer = self.world.attach("producer");
        self.worker = self.world.attach("worker");
        self.leases.clear();
    }

    fn now(&self) -> u64 {
        self.world.now.time.0
    }

    fn wall(&self) -> u64 {
        self.world.now.wall.0
    }

    fn all(mut self, steps: usize) -> u64 {
        for step in 0..steps {
            let what = self.step();
            self.compare(step, what);
        }
        self.bodies
    }

    fn step(&mut self) -> &'static str {
        match self.random.u32(..100) {
            0..22 => self.publish(),
            22..32 => self.publish_to_topic(),
            32..50 => self.take(),
            50..66 => self.settle(),
            66..72 => self.pass_on(),
            72..82 => self.advance(),
            82..85 => self.bind(),
            85..88 => self.schedule(),
            88..92 => self.redrive(),
            92..94 => self.purge(),
            94..96 => self.jump(),
            96..98 => self.restart(),
            _ => {
                let count = self.random.usize(..40);
                self.world.compact(count);
                "compact"
            }
        }
    }

    fn body(&mut self, dedup_id: &str, n: Option<u8>) -> Vec<u8> {
        self.bodies += 1;
        let attributes = n.map(|n| ("n".to_owned(), n.to_string())).into_iter().collect();
        let payload = format!("body {}", self.bodies).into_bytes();
        proto::Message { payload, dedup_id: dedup_id.to_owned(), attributes, ..Default::default() }
            .encode_to_vec()
    }

    fn some_id(&mut self) -> String {
        if self.random.u8(..3) > 0 { String::new() } else { format!("id {}", self.random.u8(..8)) }
    }

    fn some_queue(&mut self) -> &'static str {
        QUEUES[self.random.usize(..QUEUES.len())]
    }

    fn row(&self, queue: &'static str, header: &MessageHeader) -> Row {
        let (now, wall) = (self.now(), self.wall());
        let mut wait = header.delay_ms;
        if header.due.0 > wall {
            wait = wait.max(header.due.0 - wall);
        }
        let due = if header.due.0 > wall { header.due.0 } else { 0 };
        Row {
            queue,
            is: if wait > 0 { Is::Scheduled(now + wait) } else { Is::Ready },
            attempt: 0,
            spent: 0,
            attempts_max: if header.attempts_max == 0 { ATTEMPTS } else { header.attempts_max },
            priority: header.priority,
            expires: if header.ttl_ms == 0 { 0 } else { now + wait + header.ttl_ms },
            due,
            due_asked: due,
            no_sooner: now + header.delay_ms,
            is_fresh: wait == 0,
        }
    }

    fn publish(&mut self) -> &'static str {
        let queue = self.some_queue();
        let header = MessageHeader {
            priority: self.random.u8(..3),
            delay_ms: if self.random.u8(..4) == 0 { self.random.u64(1..9000) } else { 0 },
            due: Wall(if self.random.u8(..8) == 0 { self.wall() + self.random.u64(1..9000) } else { 0 }),
            ttl_ms: if self.random.u8(..5) == 0 { self.random.u64(1..30_000) } else { 0 },
            attempts_max: self.random.u32(..3),
            has_options: false,
        };
        let ids: Vec<String> = (0..self.random.usize(1..=3)).map(|_| self.some_id()).collect();
        let bodies: Vec<Vec<u8>> = ids.iter().map(|id| self.body(id, None)).collect();
        let now = self.now();
        let verdict = self.judge(queue, &ids, now);
        let of = |(id, body): (&String, &Vec<u8>)| {
            (MessageHeader { has_options: !id.is_empty(), ..header }, body.clone())
        };
        let messages: Vec<_> = ids.iter().zip(&bodies).map(of).collect();
        let messages: Vec<_> = messages.iter().map(|(header, body)| (*header, body.as_slice())).collect();
        let seq = self.world.publish_with(self.producer, queue, None, &messages);
        let first = self.check_answer(seq, &verdict);
        if verdict == Verdict::New {
            for (at, (id, body)) in ids.into_iter().zip(bodies).enumerate() {
                if !id.is_empty() {
                    let kept = (id, first + at as u64, now + WINDOW_MS);
                    self.plain.ids.entry(queue).or_default().push(kept);
                }
                self.wanted.push((queue, body, self.row(queue, &header)));
            }
        }
        "publish"
    }

    /// What a publish with these ids comes to; whoever has to die for it is dead then.
    fn judge(&mut self, queue: &'static str, ids: &[String], now: u64) -> Verdict {
        let known: Vec<Option<u64>> = ids.iter().map(|id| self.plain.known(queue, id, now)).collect();
        if known.iter().flatten().next().is_some() {
            let first = known[0].unwrap_or(0);
            let is_one = (first..).zip(&known).all(|(id, known)| *known == Some(id));
            return if is_one { Verdict::Known(first) } else { Verdict::Refused };
        }
        let own: Vec<&String> = ids.iter().filter(|id| !id.is_empty()).collect();
        let is_twice = own.iter().collect::<BTreeSet<_>>().len() < own.len();
        if is_twice || !self.plain.has_room_for_ids(queue, own.len(), now) {
            return Verdict::Refused;
        }
        match self.plain.room(queue, ids.len(), 0, false) {
            Some(victims) => {
                self.plain.doomed.push((queue, victims, now));
                Verdict::New
            }
            None => Verdict::Refused,
        }
    }

    /// The answer to a publish is as it must be. Returns its first id.
    fn check_answer(&mut self, seq: u64, verdict: &Verdict) -> u64 {
        let effects = self.world.commit();
        let answers: Vec<(Verdict, u64)> = effects
            .iter()
            .filter_map(|(effect, _)| match effect {
                Effect::PublishAcked(acked) if acked.seq == seq => {
                    let id = acked.first_id.0;
                    let is_known = matches!(verdict, Verdict::Known(_));
                    Some((if is_known { Verdict::Known(id) } else { Verdict::New }, id))
                }
                Effect::Broadcasted(answer) if answer.seq == seq => Some((Verdict::New, 0)),
                Effect::PublishRefused { seq: of, .. } if *of == seq => Some((Verdict::Refused, 0)),
                Effect::LeasesLost(lost) if lost.seq == seq => Some((Verdict::Lost, 0)),
                _ => None,
            })
            .collect();
        assert_eq!(answers.len(), 1, "{effects:?}");
        assert_eq!(answers[0].0, *verdict);
        answers[0].1
    }

    fn publish_to_topic(&mut self) -> &'static str {
        let topic = self.random.usize(..TOPICS.len());
        let (n, id, now) = (self.random.u8(..10), self.some_id(), self.now());
        let body = self.body(&id, Some(n));
        let header =
            MessageHeader { has_options: !id.is_empty(), ..message_header(&body, body.len()).unwrap() };
        let mut targets: BTreeMap<&'static str, bool> = BTreeMap::new();
        for bound in self.plain.bindings.values() {
            if PATTERNS[bound.pattern].1[topic] && FILTERS[bound.filter].1(n) {
                *targets.entry(bound.to).or_default() |= bound.waits;
            }
        }
        let mut targets: Vec<(&'static str, bool)> = targets.into_iter().collect();
        targets.sort_by_key(|&(_, waits)| !waits);
        let (taken, verdict) = self.judge_topic(targets, &id, now);
        let name = format!("topic/{}", TOPICS[topic]);
        let seq = self.world.publish_with(self.producer, &name, None, &[(header, &body)]);
        self.check_answer(seq, &verdict);
        for queue in taken {
            let row = self.row(queue, &header);
            self.wanted.push((queue, body.clone(), row));
        }
        "publish to a topic"
    }

    /// Which queues take a message. The ids of what they take are matched when it is there.
    fn judge_topic(
        &mut self,
        targets: Vec<(&'static str, bool)>,
        id: &str,
        now: u64,
    ) -> (Vec<&'static str>, Verdict) {
        let mut left = Vec::new();
        for (queue, waits) in targets {
            if !id.is_empty() && self.plain.known(queue, id, now).is_some() {
                continue;
            }
            match self.plain.has_room_for_ids(queue, usize::from(!id.is_empty()), now) {
                true => left.push((queue, waits)),
                false if waits => return (Vec::new(), Verdict::Refused),
                false => {}
            }
        }
        let waiting = left.iter().filter(|(_, waits)| *waits).count();
        if self.plain.namespace_max.is_some_and(|max| waiting > max) {
            return (Vec::new(), Verdict::Refused);
        }
        let (mut taken, mut doomed) = (Vec::new(), Vec::new());
        for (queue, waits) in left {
            match self.plain.room(queue, 1, taken.len(), false) {
                Some(victims) => {
                    doomed.push((queue, victims, now));
                    taken.push(queue);
                }
                None if waits => return (Vec::new(), Verdict::Refused),
                None => {}
            }
        }
        self.plain.doomed.extend(doomed);
        (taken, Verdict::New)
    }

    fn take(&mut self) -> &'static str {
        let queue = *self.random.choice(&["a", "b", TIMED]).unwrap();
        self.world.subscribe(self.worker, 1, queue, 1);
        let effects = self.world.commit();
        let given: Vec<LeaseId> =
            deliveries(&effects).into_iter().map(|(deliver, _)| deliver.lease).collect();
        let seq = self.world.seq();
        self.world.command(Command::Unsubscribe { conn: self.worker, seq, subscription: SubscriptionId(1) });
        let ready = self.plain.rows.iter().filter(|(_, row)| row.queue == queue && row.is == Is::Ready);
        let best = ready.clone().map(|(_, row)| row.priority).max();
        let first: Vec<(u64, bool)> = ready
            .filter(|(_, row)| Some(row.priority) == best)
            .map(|(&id, row)| (id, row.is_fresh))
            .collect();
        assert_eq!(given.len(), usize::from(best.is_some()), "deliveries of {queue}");
        let Some(&lease) = given.first() else { return "take" };
        let id = lease.message.0;
        assert!(first.iter().any(|&(other, _)| other == id), "{id} came, and {first:?} come first");
        if first.iter().all(|&(_, is_fresh)| is_fresh) {
            assert_eq!(id, first[0].0, "the oldest comes first");
        }
        let now = self.now();
        let row = self.plain.rows.get_mut(&id).expect("it is one of them");
        (row.attempt, row.spent, row.is) = (row.attempt + 1, row.spent + 1, Is::Leased(now + LEASE_MS));
        assert_eq!(lease.attempt, row.attempt);
        row.is_fresh = false;
        self.leases.push(lease);
        "take"
    }

    /// The message of a lease that still counts, and whether it is held.
    fn under(&self, lease: LeaseId) -> Option<bool> {
        let row = self.plain.rows.get(&lease.message.0).filter(|row| row.attempt == lease.attempt)?;
        Some(matches!(row.is, Is::Leased(_)))
    }

    fn settle(&mut self) -> &'static str {
        if self.leases.is_empty() {
            return "settle nothing";
        }
        let lease = self.leases[self.random.usize(..self.leases.len())];
        let (id, now) = (lease.message.0, self.now());
        let settlement = match self.random.u8(..10) {
            0..4 => Settlement::Ack,
            4..6 => nack("no luck"),
            6 => Settlement::Nack { delay_ms: Some(0), error: "".into(), reject: false },
            7 => Settlement::Nack { delay_ms: None, error: "".into(), reject: true },
            _ => Settlement::Extend { lease_ms: 50_000 },
        };
        let counts = match (&settlement, self.under(lease)) {
            (_, None) => false,
            (Settlement::Ack, Some(_)) => true,
            (_, Some(is_held)) => is_held,
        };
        let seq = self.world.settle(self.worker, &[lease], settlement.clone());
        let effects = self.world.commit();
        let lost = effects.iter().find_map(|(effect, _)| match effect {
            Effect::Settled(settled) if settled.seq == seq => Some(settled.lost.is_some()),
            _ => None,
        });
        assert_eq!(lost, Some(!counts), "{settlement:?} of {lease:?}: {:?}", self.plain.rows.get(&id));
        if counts {
            match settlement {
                Settlement::Ack => _ = self.plain.rows.remove(&id),
                Settlement::Nack { reject: true, .. } => self.plain.die(id, "rejected", now),
                Settlement::Nack { delay_ms, .. } => self.plain.fail(id, delay_ms, now),
                Settlement::Extend { lease_ms } => {
                    let until = now + u64::from(lease_ms);
                    self.plain.rows.get_mut(&id).expect("it counts").is = Is::Leased(until);
                }
            }
        }
        // What is ready again may have expired meanwhile.
        self.pass(0);
        "settle"
    }

    /// Acks what the worker has and publishes something in one step.
    fn pass_on(&mut self) -> &'static str {
        if self.leases.is_empty() {
            return "pass nothing on";
        }
        let lease = self.leases[self.random.usize(..self.leases.len())];
        let (to, now) = (self.some_queue(), self.now());
        let body = self.body("", None);
        let header = MessageHeader { priority: 1, ..Default::default() };
        let verdict = match (self.under(lease), self.plain.rows.get(&lease.message.0)) {
            (None, _) | (_, None) => Verdict::Lost,
            (Some(_), Some(row)) => {
                let frees = !matches!(row.is, Is::Dead(..));
                let room = match frees && row.queue == to {
                    true => Some(0),
                    false => self.plain.room(to, 1, 0, frees),
                };
                room.map_or(Verdict::Refused, |victims| {
                    self.plain.doomed.push((to, victims, now));
                    Verdict::New
                })
            }
        };
        let seq = self.world.publish_acking(self.worker, to, None, &[lease], &[(header, &body)]);
        self.check_answer(seq, &verdict);
        if verdict == Verdict::New {
            // Room is made before anything is acked.
            self.let_doomed_die(0, "pass on");
            self.forget_most_dead(Some(lease.message.0));
            self.plain.rows.remove(&lease.message.0);
            let row = self.row(to, &header);
            self.wanted.push((to, body, row));
        }
        "pass on"
    }

    /// Time goes on, for the queue and for the model.
    fn pass(&mut self, ms: u64) {
        self.world.advance(Duration::from_millis(ms));
        let (now, wall) = (self.now(), self.wall());
        for (mark, time) in self.plain.expire(now, wall) {
            let body = format!("mark {mark} at {time}").into_bytes();
            let row = self.row(TIMED, &MessageHeader { priority: 4, ..Default::default() });
            self.wanted.push((TIMED, body, row));
        }
    }

    fn advance(&mut self) -> &'static str {
        let ms = if self.random.bool() { self.random.u64(..2000) } else { self.random.u64(..20_000) };
        self.pass(ms);
        "advance"
    }

    /// The wall clock is set, by an hour or by ten years.
    fn jump(&mut self) -> &'static str {
        const HOUR: u64 = 3_600_000;
        let by = [HOUR, 87_660 * HOUR][self.random.usize(..2)];
        let wall = &mut self.world.now.wall.0;
        *wall = if self.random.bool() { *wall + by } else { wall.saturating_sub(by) };
        let ms = self.random.u64(..3000);
        self.pass(ms);
        "jump"
    }

    fn bind(&mut self) -> &'static str {
        let name = format!("binding {}", self.random.u8(..3)).replace(' ', "-");
        if self.random.u8(..3) == 0 {
            let reply =
                self.world.operate(OperatorRequest::Unbind { namespace: tenant(), name: name.clone() });
            let was_there = self.plain.bindings.remove(&name).is_some();
            assert!(
                matches!(reply, OperatorReply::Changed(count) if count == u64::from(was_there)),
                "{reply:?}"
            );
            return "unbind";
        }
        let bound = Bound {
            pattern: self.random.usize(..PATTERNS.len()),
            filter: self.random.usize(..FILTERS.len()),
            to: self.some_queue(),
            waits: self.random.bool(),
        };
        let binding = BindingSpec {
            name: Some(name.clone()),
            pattern: PATTERNS[bound.pattern].0.to_owned(),
            filter: FILTERS[bound.filter].0.to_owned(),
            to: super::name(bound.to),
            when_full: Some(if bound.waits { TargetFull::Wait } else { TargetFull::Drop }),
        };
        let reply = self.world.operate(OperatorRequest::Bind { namespace: tenant(), binding });
        assert!(matches!(reply, OperatorReply::Bindings(_)), "{reply:?}");
        self.plain.bindings.insert(name, bound);
        "bind"
    }

    fn schedule(&mut self) -> &'static str {
        if !self.has_schedules {
            return "no schedule";
        }
        let (now, wall) = (self.now(), self.wall());
        let text = format!("schedule-{}", self.random.u8(..3));
        let name = ScheduleName::parse(&text).unwrap();
        match self.random.u8(..6) {
            0 => {
                self.world.operate(OperatorRequest::ScheduleRemove { namespace: tenant(), name });
                if self.plain.timetables.remove(&text).is_none() {
                    return "remove no schedule";
                }
            }
            1 | 2 => {
                let is_paused = self.random.bool();
                self.world.operate(OperatorRequest::SchedulePause { namespace: tenant(), name, is_paused });
                match self.plain.timetables.get_mut(&text) {
                    Some(one) if one.is_paused != is_paused => {
                        (one.is_paused, one.since) = (is_paused, wall);
                        one.begin_anew();
                    }
                    _ => return "pause nothing",
                }
            }
            _ => {
                self.bodies += 1;
                let mut one = Timetable {
                    period_ms: [5_000, 10_000, 30_000][self.random.usize(..3)],
                    misfire: Misfire::ALL[self.random.usize(..3)],
                    missed_max: self.random.usize(1..6),
                    is_paused: false,
                    since: wall,
                    fired: 0,
                    next: None,
                    mark: self.bodies,
                };
                one.begin_anew();
                let payload = format!("mark {}", one.mark).into_bytes();
                let schedule = ScheduleSpec {
                    name,
                    cron: format!("*/{} * * * * *", one.period_ms / 1000),
                    time_zone: "UTC".to_owned(),
                    queue: super::name(TIMED),
                    misfire: one.misfire,
                    missed_max: one.missed_max as u32,
                    is_paused: false,
                    body: proto::Message { payload, ..Default::default() }.encode_to_vec(),
                };
                let schedule = Box::new(schedule);
                let reply =
                    self.world.operate(OperatorRequest::ScheduleAdd { namespace: tenant(), schedule });
                assert!(matches!(reply, OperatorReply::Schedules(_)), "{reply:?}");
                self.plain.timetables.insert(text, one);
            }
        }
        self.plain.set_timer(now, wall);
        "schedule"
    }

    /// Some of the dead letters of a queue, as they are selected.
    fn select(&mut self, queue: &str) -> (DeadSelection, Vec<u64>) {
        let dead =
            self.plain.rows.iter().filter(|(_, row)| row.queue == queue && matches!(row.is, Is::Dead(..)));
        let dead: Vec<(u64, &'static str)> = dead
            .filter_map(|(&id, row)| match row.is {
                Is::Dead(reason, _) => Some((id, reason)),
                _ => None,
            })
            .collect();
        let all: Vec<u64> = dead.iter().map(|&(id, _)| id).collect();
        match self.random.u8(..3) {
            0 => (DeadSelection::All, all),
            1 => {
                let ids: Vec<u64> = all.into_iter().filter(|_| self.random.bool()).collect();
                (DeadSelection::Ids(ids.iter().map(|&id| MessageId(id)).collect()), ids)
            }
            _ => {
                let reason = ["attempts", "expired", "overflow", "rejected"][self.random.usize(..4)];
                let filter = DeadFilter { reason: Some(reason.to_owned()), ..DeadFilter::default() };
                let ids = dead.into_iter().filter(|&(_, own)| own == reason).map(|(id, _)| id).collect();
                (DeadSelection::Matching(filter), ids)
            }
        }
    }

    fn redrive(&mut self) -> &'static str {
        let (queue, to) = (self.some_queue(), self.some_queue());
        let (selection, ids) = self.select(queue);
        let mut moved = 0;
        for id in &ids {
            let is_full = self.plain.waiting(Some(to)) >= self.plain.rules[to].messages_max
                || self.plain.namespace_max.is_some_and(|max| self.plain.waiting(None) >= max);
            if is_full {
                break;
            }
            let row = self.plain.rows.get_mut(id).expect("it was selected");
            (row.queue, row.is, row.spent, row.expires, row.due) = (to, Is::Ready, 0, 0, 0);
            row.due_asked = 0;
            moved += 1;
        }
        let reply = self.world.operate(OperatorRequest::DeadRedrive {
            namespace: tenant(),
            queue: name(queue),
            selection,
            to: Some(name(to)),
            per_s: None,
        });
        match reply {
            OperatorReply::Changed(count) => assert_eq!(count, moved, "redriven"),
            OperatorReply::Refused(refused) => assert!(moved == 0 && !ids.is_empty(), "{refused:?}"),
            other => panic!("{other:?}"),
        }
        "redrive"
    }

    fn purge(&mut self) -> &'static str {
        let queue = self.some_queue();
        let (selection, ids) = self.select(queue);
        let (namespace, queue) = (tenant(), name(queue));
        let reply = self.world.operate(OperatorRequest::DeadPurge { namespace, queue, selection });
        assert!(matches!(reply, OperatorReply::Changed(count) if count == ids.len() as u64), "{reply:?}");
        ids.iter().for_each(|id| _ = self.plain.rows.remove(id));
        "purge"
    }

    /// Nothing is leased then: what becomes of attempts that a restart cuts short is for the other model.
    fn restart(&mut self) -> &'static str {
        let held: Vec<LeaseId> =
            self.leases.iter().copied().filter(|&lease| self.under(lease) == Some(true)).collect();
        self.world.settle(self.worker, &held, Settlement::Ack);
        held.iter().for_each(|lease| _ = self.plain.rows.remove(&lease.message.0));
        self.world.commit();
        let gap = Duration::from_millis(self.random.u64(..2000));
        let before = self.now();
        self.world.restart(0, gap);
        let (now, wall) = (self.now(), self.wall());
        for (_, message) in self.world.brain.messages.iter() {
            let slot = self.world.brain.messages.find(MessageId(message.id)).unwrap();
            // The log knows the time of a death to a second.
            let died = self.world.brain.messages.rare(slot).map_or(0, |rare| rare.died.0);
            match self.plain.rows.get_mut(&message.id) {
                Some(Row { is: Is::Dead(_, known), .. }) => *known = died,
                // That its time had come is not written down: it waits again where the wall clock was set back since.
                Some(row) if row.due_asked > wall && row.spent == 0 && message.state == State::Scheduled => {
                    (row.is, row.due, row.is_fresh) = (Is::Scheduled(0), row.due_asked, false);
                }
                // Shard time went back with it.
                Some(row) if now < before && row.is == Is::Ready && message.state == State::Scheduled => {
                    (row.is, row.is_fresh) = (Is::Scheduled(message.until().0), false);
                    // The wall clock may say that it is ready before that.
                    row.due = if row.spent == 0 { row.due_asked } else { 0 };
                }
                _ => {}
            }
        }
        self.plain.looked = wall;
        self.plain.timetables.values_mut().for_each(Timetable::begin_anew);
        self.plain.set_timer(now, wall);
        self.connect();
        self.pass(1);
        "restart"
    }

    /// All messages are what the model says.
    fn compare(&mut self, step: usize, what: &str) {
        self.let_doomed_die(step, what);
        self.match_new(step, what);
        self.forget_most_dead(None);
        let there: BTreeMap<u64, String> = self
            .world
            .brain
            .messages
            .iter()
            .map(|(slot, message)| {
                let brain = &self.world.brain;
                let state = match message.state {
                    State::Dead => brain.messages.rare(slot).and_then(|rare| rare.dead).unwrap().0.as_str(),
                    State::Ready => "ready",
                    State::Scheduled => "scheduled",
                    State::Leased => "leased",
                    State::Blocked | State::Free => "?",
                };
                let queue = &brain.queues.at(message.queue).name;
                (message.id, format!("{queue} {state} {} of {}", message.spent, message.attempt))
            })
            .collect();
        let expected: BTreeMap<u64, String> = self
            .plain
            .rows
            .iter()
            .map(|(&id, row)| {
                let state = match row.is {
                    Is::Ready => "ready",
                    Is::Scheduled(_) => "scheduled",
                    Is::Leased(_) => "leased",
                    Is::Dead(reason, _) => reason,
                };
                (id, format!("{} {state} {} of {}", row.queue, row.spent, row.attempt))
            })
            .collect();
        if there != expected {
            let differ = |(id, is): &(&u64, &String)| expected.get(id) != Some(is);
            let wrong: Vec<_> = there.iter().filter(differ).collect();
            let missing: Vec<_> = expected.iter().filter(|(id, _)| !there.contains_key(id)).collect();
            let rows: Vec<_> = wrong.iter().map(|(id, _)| self.plain.rows.get(id)).collect();
            panic!(
                "step {step} ({what}) at {:?}: there is {wrong:?}, {rows:?}; there is not {missing:?}",
                self.world.now
            );
        }
    }

    /// Those die that wait longest. Which ones that are is clear as long as all were ready from the beginning; who was delayed
    /// or tried before stands where it came to, which is the queue's to know, and among the others the oldest die.
    fn let_doomed_die(&mut self, step: usize, what: &str) {
        let doomed = std::mem::take(&mut self.plain.doomed);
        for (queue, count, now) in doomed.into_iter().filter(|(_, count, _)| *count > 0) {
            let ready = self.plain.rows.iter().filter(|(_, row)| row.queue == queue && row.is == Is::Ready);
            let ready: Vec<(u64, u8, bool)> =
                ready.map(|(&id, row)| (id, row.priority, row.is_fresh)).collect();
            let messages = &self.world.brain.messages;
            let is_alive = |id: u64| {
                let slot = messages.find(MessageId(id));
                slot.is_some_and(|slot| messages.at(slot).state != State::Dead)
            };
            let is_clear = ready.iter().all(|&(_, _, is_fresh)| is_fresh);
            let dead: Vec<u64> = match is_clear {
                true => ready.iter().map(|&(id, ..)| id).take(count).collect(),
                false => ready.iter().map(|&(id, ..)| id).filter(|&id| !is_alive(id)).collect(),
            };
            assert_eq!(dead.len(), count, "step {step} ({what}): of {ready:?} in {queue}");
            let fresh = ready.iter().filter(|&&(_, _, is_fresh)| is_fresh);
            for (id, priority, _) in fresh.clone().filter(|(id, ..)| dead.contains(id)) {
                let older = fresh.clone().find(|of| of.0 < *id && of.1 == *priority && !dead.contains(&of.0));
                assert!(older.is_none(), "step {step} ({what}): {id} died before {older:?}");
            }
            dead.into_iter().for_each(|id| self.plain.die(id, "overflow", now));
        }
    }

    /// What the model wants anew is there, and nothing else is new.
    fn match_new(&mut self, step: usize, what: &str) {
        let brain = &self.world.brain;
        let mut new: BTreeMap<(String, Vec<u8>), u64> = BTreeMap::new();
        for (slot, message) in brain.messages.iter().filter(|(_, one)| !self.plain.rows.contains_key(&one.id))
        {
            let body = brain.messages.body(slot).expect("what is new is in memory");
            let queue = brain.queues.at(message.queue).name.to_string();
            let body = if queue == TIMED { said(body) } else { body.to_vec() };
            new.insert((queue, body), message.id);
        }
        let now = self.now();
        for (queue, body, row) in std::mem::take(&mut self.wanted) {
            let id = new.remove(&(queue.to_owned(), body.clone()));
            let id = id.unwrap_or_else(|| {
                panic!("step {step} ({what}): {queue} has no {:?}", String::from_utf8_lossy(&body))
            });
            self.plain.rows.insert(id, row);
            let dedup_id =
                if queue == TIMED { String::new() } else { proto::Message::decode(&*body).unwrap().dedup_id };
            let is_new = self.plain.ids.get(queue).is_none_or(|ids| ids.iter().all(|(_, of, _)| *of != id));
            if !dedup_id.is_empty() && is_new {
                self.plain.ids.entry(queue).or_default().push((dedup_id, id, now + WINDOW_MS));
            }
        }
        assert!(new.is_empty(), "step {step} ({what}): nobody published {new:?}");
    }

    /// Dead letters beyond their bound go, those first that died first. Who of those that died at once is up to the queue;
    /// that one which is acked is not there any more does not say that it was this one.
    fn forget_most_dead(&mut self, acked: Option<u64>) {
        for queue in QUEUES {
            let dead = self.plain.rows.iter().filter_map(|(&id, row)| match row.is {
                Is::Dead(_, died) if row.queue == queue => Some((died, id)),
                _ => None,
            });
            let mut dead: Vec<(u64, u64)> = dead.collect();
            let over = dead.len().saturating_sub(self.plain.rules[queue].dead_max);
            if over == 0 {
                continue;
            }
            let is_there = |id: u64| self.world.brain.messages.find(MessageId(id)).is_some();
            dead.sort_unstable_by_key(|&(died, id)| (died, is_there(id), acked == Some(id)));
            dead.iter().take(over).for_each(|(_, id)| _ = self.plain.rows.remove(id));
        }
    }
}

/// What the message of a schedule says.
fn said(body: &[u8]) -> Vec<u8> {
    let message = proto::Message::decode(body).unwrap();
    let time: jiff::Timestamp = message.attributes["scheduled_for"].parse().unwrap();
    format!("{} at {}", String::from_utf8(message.payload).unwrap(), time.as_millisecond()).into_bytes()
}
