//! Each rule against a history that has exactly one fault, made of one that has none.

mod faults;

use super::{Rule, breaches, story};
use crate::history::{Copy, Dead, Event, History, How, Key, Lease, Misfire, Place, Publish, What};

/// Midnight of some day, in seconds since 1970.
const DAY: u64 = 1_800_000_000;

/// What is in a queue under an id: its key is its id.
const PLAIN: u64 = 1;
const PLAIN_ONCE: u64 = 2;
const BATCH: [u64; 2] = [3, 4];
const DEDUP: u64 = 5;
/// A message in its two stages.
const STAGED: [u64; 2] = [6, 7];
/// Its copies in two queues, and in the one that is bound now and then.
const TOPICAL: [u64; 3] = [8, 9, 10];
const UNBOUND: u64 = 11;
const DELAYED: u64 = 12;
const KEYED: [u64; 2] = [13, 14];
const PRIO: [u64; 2] = [15, 16];
const REJECTED: u64 = 17;
const TRIED: u64 = 18;
const EXPIRED: u64 = 19;
const RETRIED: u64 = 20;
const TICKS: u64 = 100;

/// A history in the making: milliseconds, the life, and what.
#[derive(Clone)]
pub(super) struct Tale(pub(super) Vec<(u64, u32, What)>);

fn key(id: u64) -> Key {
    Key::new(1, id)
}

fn lease(boot: u32, attempt: u32) -> Lease {
    Lease { boot, attempt }
}

fn copy(id: u64, place: Place) -> Copy {
    Copy { key: key(id), place, priority: 4, order: 0, expires: false }
}

fn publish(op: u64, copies: Vec<Copy>) -> What {
    What::Publish(Box::new(Publish { op, copies, flips: None, delay: 0, acks: None }))
}

fn published(op: u64, first_id: u64) -> What {
    What::Published { op, first_id: Some(first_id) }
}

fn delivered(place: Place, id: u64, lease: Lease) -> What {
    delivered_as(place, key(id), id, lease)
}

fn delivered_as(place: Place, key: Key, id: u64, lease: Lease) -> What {
    What::Delivered { place, key, id, lease, intact: true }
}

fn settle(op: u64, id: u64, lease: Lease, how: How) -> What {
    What::Settle { op, id, lease, how }
}

fn dead(id: u64, reason: &str, attempts: u32) -> Dead {
    Dead { id, reason: reason.to_owned(), attempts }
}

fn listed(place: Place, asked_ms: u64, dead: Vec<Dead>) -> What {
    What::Listed { place, asked: asked_ms * 1000, dead }
}

fn moved(op: u64, from: Place, to: Option<Place>, ids: &[u64]) -> What {
    What::Move { op, from, to, ids: ids.to_vec(), more: false }
}

impl Tale {
    fn tell(&mut self, ms: u64, life: u32, what: What) {
        self.0.push((ms, life, what));
    }

    /// A delivery that is acked, and the answer.
    fn work(&mut self, ms: u64, op: u64, place: Place, id: u64, lease: Lease) {
        self.work_as(ms, op, place, key(id), id, lease);
    }

    fn work_as(&mut self, ms: u64, op: u64, place: Place, key: Key, id: u64, lease: Lease) {
        let life = lease.boot;
        self.tell(ms, life, delivered_as(place, key, id, lease));
        self.tell(ms, life, settle(op, id, lease, How::Ack));
        self.tell(ms + 1, life, What::Settled { op });
    }

    /// Without what `is` says.
    fn without(mut self, is: impl Fn(&What) -> bool) -> Self {
        let before = self.0.len();
        self.0.retain(|(.., what)| !is(what));
        assert!(self.0.len() < before, "nothing of that is in the tale");
        self
    }

    /// With more.
    fn with(mut self, ms: u64, life: u32, what: What) -> Self {
        self.tell(ms, life, what);
        self
    }

    /// With what `change` makes of each event.
    fn changed(mut self, change: impl Fn(&mut What) -> bool) -> Self {
        let count = self.0.iter_mut().filter_map(|(.., what)| change(what).then_some(())).count();
        assert!(count > 0, "nothing of that is in the tale");
        self
    }

    fn history(mut self) -> History {
        self.0.sort_by_key(|(ms, ..)| *ms);
        let events = self.0.into_iter().map(|(ms, life, what)| Event { at: ms * 1000, life, what });
        History { began_unix_ms: DAY * 1000, events: events.collect() }
    }

    fn rules(self) -> Vec<Rule> {
        let mut rules: Vec<Rule> = breaches(&self.history()).iter().map(|breach| breach.rule).collect();
        rules.dedup();
        rules
    }
}

/// Everything once, by a server that keeps its word: it lives from 0 to 10 s and from 10.1 s to 30 s.
fn honest() -> Tale {
    let mut tale = Tale(Vec::new());
    tale.tell(0, 1, What::Started);
    tale.tell(10, 1, What::Ready);
    tale.tell(10_000, 1, What::Killed);
    tale.tell(10_100, 2, What::Started);
    tale.tell(10_110, 2, What::Ready);
    tale.tell(30_000, 2, What::Killed);
    plain(&mut tale);
    at_once(&mut tale);
    in_order(&mut tale);
    mortal(&mut tale);
    by_the_clock(&mut tale);
    tale
}

/// Messages, one of them acked without an answer and so twice; a batch; one with a deduplication id.
fn plain(tale: &mut Tale) {
    tale.tell(20, 1, publish(1, vec![copy(PLAIN, "plain")]));
    tale.tell(30, 1, published(1, PLAIN));
    tale.tell(40, 1, delivered("plain", PLAIN, lease(1, 1)));
    tale.tell(41, 1, settle(2, PLAIN, lease(1, 1), How::Ack));
    tale.work(11_000, 3, "plain", PLAIN, lease(2, 2));
    // Read late what was sent before the kill.
    tale.tell(50, 1, publish(4, vec![copy(PLAIN_ONCE, "plain")]));
    tale.work(10_001, 5, "plain", PLAIN_ONCE, lease(1, 1));
    // Not answered, and there.
    tale.tell(60, 1, publish(6, BATCH.map(|id| copy(id, "batch")).to_vec()));
    tale.work(11_100, 7, "batch", BATCH[0], lease(2, 1));
    tale.work(11_100, 8, "batch", BATCH[1], lease(2, 1));
    // Not answered, and not there.
    tale.tell(70, 1, publish(9, vec![copy(98, "batch"), copy(99, "batch")]));
    tale.tell(80, 1, publish(10, vec![copy(DEDUP, "dedup")]));
    tale.tell(90, 1, published(10, DEDUP));
    tale.work(100, 11, "dedup", DEDUP, lease(1, 1));
    tale.tell(12_000, 2, published(10, DEDUP));
}

/// A message through two stages, the first time without an answer; messages to topics.
fn at_once(tale: &mut Tale) {
    let forward = |op, lease| {
        let copies = vec![copy(STAGED[0], "stage-1")];
        let acks = Some((STAGED[0], lease));
        What::Publish(Box::new(Publish { op, copies, flips: None, delay: 0, acks }))
    };
    tale.tell(100, 1, publish(20, vec![copy(STAGED[0], "stage-0")]));
    tale.tell(110, 1, published(20, STAGED[0]));
    tale.tell(120, 1, delivered("stage-0", STAGED[0], lease(1, 1)));
    tale.tell(121, 1, forward(21, lease(1, 1)));
    tale.tell(121, 1, settle(22, STAGED[0], lease(1, 1), How::Forward));
    tale.tell(11_000, 2, delivered("stage-0", STAGED[0], lease(2, 2)));
    tale.tell(11_001, 2, forward(23, lease(2, 2)));
    tale.tell(11_001, 2, settle(24, STAGED[0], lease(2, 2), How::Forward));
    tale.tell(11_002, 2, published(23, STAGED[1]));
    tale.tell(11_002, 2, What::Settled { op: 24 });
    tale.work_as(11_010, 25, "stage-1", key(STAGED[0]), STAGED[1], lease(2, 1));
    // Bound, ended, and bound again without an answer.
    tale.tell(20, 1, What::Bind { op: 26, place: "flip", stands: true });
    tale.tell(30, 1, What::Bound { op: 26 });
    tale.tell(1_000, 1, What::Bind { op: 27, place: "flip", stands: false });
    tale.tell(1_010, 1, What::Bound { op: 27 });
    tale.tell(2_000, 1, What::Bind { op: 28, place: "flip", stands: true });
    let to_topic = |op, id| {
        let copies = vec![copy(id, "all"), copy(id, "red")];
        What::Publish(Box::new(Publish { op, copies, flips: Some("flip"), delay: 0, acks: None }))
    };
    tale.tell(500, 1, to_topic(30, TOPICAL[0]));
    tale.tell(510, 1, What::Published { op: 30, first_id: None });
    for (op, (place, id)) in (31..).zip(["all", "red", "flip"].into_iter().zip(TOPICAL)) {
        tale.work_as(600, op, place, key(TOPICAL[0]), id, lease(1, 1));
    }
    tale.tell(1_500, 1, to_topic(40, UNBOUND));
    tale.tell(1_510, 1, What::Published { op: 40, first_id: None });
    tale.work_as(1_600, 41, "all", key(UNBOUND), 51, lease(1, 1));
    tale.work_as(1_600, 42, "red", key(UNBOUND), 52, lease(1, 1));
}

/// A delay, a retry, an ordering key and two priorities.
fn in_order(tale: &mut Tale) {
    let delayed =
        Publish { op: 50, copies: vec![copy(DELAYED, "delayed")], flips: None, delay: 500_000, acks: None };
    tale.tell(200, 1, What::Publish(Box::new(delayed)));
    tale.tell(210, 1, published(50, DELAYED));
    tale.work(701, 51, "delayed", DELAYED, lease(1, 1));
    tale.tell(200, 1, publish(52, vec![copy(RETRIED, "delayed")]));
    tale.tell(210, 1, published(52, RETRIED));
    tale.tell(220, 1, delivered("delayed", RETRIED, lease(1, 1)));
    tale.tell(221, 1, settle(53, RETRIED, lease(1, 1), How::Nack { delay: 300_000 }));
    tale.tell(230, 1, What::Settled { op: 53 });
    tale.work(530, 54, "delayed", RETRIED, lease(1, 2));
    for (op, id) in (60..).zip(KEYED) {
        tale.tell(300, 1, publish(op, vec![Copy { order: 1, ..copy(id, "keyed") }]));
        tale.tell(310, 1, published(op, id));
    }
    // The second comes when the first one's ack was sent; a kill undoes it.
    tale.tell(320, 1, delivered("keyed", KEYED[0], lease(1, 1)));
    tale.tell(321, 1, settle(62, KEYED[0], lease(1, 1), How::Ack));
    tale.tell(330, 1, delivered("keyed", KEYED[1], lease(1, 1)));
    tale.work(11_000, 63, "keyed", KEYED[0], lease(2, 2));
    tale.work(11_010, 64, "keyed", KEYED[1], lease(2, 2));
    for (op, (id, priority)) in (70..).zip(PRIO.into_iter().zip([3, 8])) {
        tale.tell(400, 1, publish(op, vec![Copy { priority, ..copy(id, "prio") }]));
        tale.tell(410, 1, published(op, id));
    }
    tale.tell(420, 1, What::Subscribe { place: "prio" });
    tale.work(430, 72, "prio", PRIO[1], lease(1, 1));
    tale.work(440, 73, "prio", PRIO[0], lease(1, 1));
}

/// Three that die, each of something else: one is redriven and acked, one purged, one stays.
fn mortal(tale: &mut Tale) {
    for (op, id) in (80..).zip([REJECTED, TRIED, EXPIRED]) {
        let copies = vec![Copy { expires: id == EXPIRED, ..copy(id, "mortal") }];
        tale.tell(500, 1, publish(op, copies));
        tale.tell(510, 1, published(op, id));
    }
    tale.tell(520, 1, delivered("mortal", REJECTED, lease(1, 1)));
    tale.tell(521, 1, settle(83, REJECTED, lease(1, 1), How::Reject));
    tale.tell(522, 1, What::Settled { op: 83 });
    for (op, attempt) in (84..).zip([1, 2]) {
        let ms = 530 + 10 * u64::from(attempt);
        tale.tell(ms, 1, delivered("mortal", TRIED, lease(1, attempt)));
        tale.tell(ms, 1, settle(op, TRIED, lease(1, attempt), How::Nack { delay: 0 }));
        tale.tell(ms + 1, 1, What::Settled { op });
    }
    let all = vec![dead(REJECTED, "rejected", 1), dead(TRIED, "attempts", 2), dead(EXPIRED, "expired", 0)];
    tale.tell(800, 1, listed("mortal", 790, all));
    tale.tell(900, 1, moved(86, "mortal", Some("again"), &[REJECTED]));
    tale.tell(910, 1, What::Moved { op: 86, changed: 1 });
    tale.work(920, 87, "again", REJECTED, lease(1, 2));
    tale.tell(930, 1, moved(88, "mortal", None, &[TRIED]));
    tale.tell(940, 1, What::Moved { op: 88, changed: 1 });
    tale.tell(29_000, 2, listed("mortal", 28_990, vec![dead(EXPIRED, "expired", 0)]));
}

/// A schedule of each policy, added at 3 s and removed at 20 s; the server is down from 10 s to 10.1 s.
fn by_the_clock(tale: &mut Tale) {
    for (schedule, misfire) in [(1, Misfire::Skip), (2, Misfire::Once), (3, Misfire::All)] {
        let op = 90 + u64::from(schedule) * 2;
        tale.tell(3_000, 1, What::Plan { op, schedule, misfire: Some(misfire) });
        tale.tell(3_010, 1, What::Planned { op });
        tale.tell(20_500, 2, What::Plan { op: op + 1, schedule, misfire: None });
        tale.tell(20_510, 2, What::Planned { op: op + 1 });
        for second in 4..=20 {
            // The one that comes due at the kill is for `once` to leave out.
            if second == 10 && misfire == Misfire::Once {
                continue;
            }
            let boot = if second < 10 { 1 } else { 2 };
            let (id, ms) =
                (tick_id(schedule, second), (second * 1000 + 5).max(if boot == 2 { 10_200 } else { 0 }));
            tale.work_as(ms, 1000 + id, "ticks", tick(schedule, second), id, lease(boot, 1));
        }
    }
    // The server is at work all the time.
    for second in 4..=20 {
        let (op, id) = (2_000 + second, 5_000 + second);
        let (ms, boot) = (second * 1000 + 1_100, if second < 9 { 1 } else { 2 });
        tale.tell(ms, boot, publish(op, vec![copy(id, "plain")]));
        tale.tell(ms + 10, boot, published(op, id));
        tale.work(ms + 20, 3_000 + second, "plain", id, lease(boot, 1));
    }
    tale.tell(
        20_400,
        2,
        What::Plans { asked: 20_390_000, schedules: vec![(1, DAY + 20), (2, DAY + 20), (3, DAY + 20)] },
    );
    tale.tell(25_000, 2, What::Plans { asked: 24_990_000, schedules: Vec::new() });
}

fn tick(schedule: u32, second: u64) -> Key {
    Key::tick(schedule, DAY + second)
}

fn tick_id(schedule: u32, second: u64) -> u64 {
    TICKS * u64::from(schedule) + second
}

#[test]
fn an_honest_history_passes() {
    assert_eq!(breaches(&honest().history()), []);
}

#[test]
fn what_nobody_asked_for_is_no_breach() {
    assert_eq!(Tale(Vec::new()).rules(), []);
}

#[test]
fn a_breach_tells_the_story_of_its_message() {
    let history = honest().with(12_000, 2, delivered("plain", PLAIN, lease(2, 3))).history();
    let found = breaches(&history);
    let told = story(&history, &found[0]);
    for line in
        ["Publish(Publish { op: 1,", "Published { op: 1,", "Settled { op: 3 }", "attempt: 3 }", "Killed"]
    {
        assert!(told.contains(line), "{line} in {told}");
    }
    assert!(!told.contains("batch"), "{told}");
}
