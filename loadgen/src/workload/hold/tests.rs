use relaymesh::client::Machine;
use relaymesh::wire::proto;

use super::*;

/// Two sessions in the hands of a thread.
struct Rig {
    live: Live,
    machine: Machine,
    out: Vec<u8>,
}

impl Rig {
    fn new() -> Self {
        let mut out = Vec::new();
        Self { live: Live::new(), machine: Machine::new(Time(0), &proto::Hello::default(), &mut out), out }
    }

    fn run(&mut self, steps: impl FnOnce(&mut Hold<'_>, &mut dyn FnMut(&mut Hold<'_>, Step))) -> (u64, u64) {
        let Self { live, machine, out } = self;
        let mut work = Hold {
            live,
            held: Held::new(),
            silents: Silents::new(Share::whole(2), 0),
            sent_us: vec![0; 2],
            on_their_way: 0,
            holds: false,
            ending_since_us: None,
        };
        steps(&mut work, &mut |work, step| {
            let (number, now_us) = match step {
                Step::Ping(number, at_us) | Step::Pong(number, at_us) => (number, at_us),
            };
            let mut link =
                Link { number, machine: &mut *machine, out: &mut *out, now: Time(now_us / 1000), now_us };
            match step {
                Step::Ping(..) => work.pinged(&mut link, Time(now_us / 1000)),
                Step::Pong(..) => work.event(&mut link, Event::Pong { rtt: None }).unwrap(),
            }
        });
        (work.held.missed + work.on_their_way as u64, work.held.heartbeats.count())
    }
}

#[derive(Clone, Copy)]
enum Step {
    Ping(usize, u64),
    Pong(usize, u64),
}

#[test]
fn a_heartbeat_counts_while_holding_and_once() {
    let mut rig = Rig::new();
    let (missed, answered) = rig.run(|work, step| {
        step(work, Step::Ping(0, 1_000));
        step(work, Step::Pong(0, 2_000));
        work.live.enter(Stage::Holding);
        work.turn(3_000);
        step(work, Step::Pong(1, 3_000)); // of one before
        step(work, Step::Ping(0, 4_000));
        step(work, Step::Pong(0, 4_500));
        step(work, Step::Pong(0, 4_600)); // of one before
    });
    assert_eq!((missed, answered), (0, 1));
}

#[test]
fn heartbeats_during_which_a_broadcast_was_delivered_are_told_apart() {
    let mut rig = Rig::new();
    rig.live.enter(Stage::Holding);
    rig.run(|work, step| {
        work.turn(0);
        step(work, Step::Ping(0, 1_000));
        step(work, Step::Pong(0, 1_100)); // nothing was delivered yet
        step(work, Step::Ping(0, 61_000));
        work.live.last_heard_us.store(61_300, Ordering::Relaxed);
        step(work, Step::Pong(0, 61_700));
        step(work, Step::Ping(1, 62_000)); // after it
        step(work, Step::Pong(1, 62_100));
        assert_eq!(work.held.heartbeats.count(), 3);
        assert_eq!(work.held.heartbeats_meanwhile.count(), 1);
        assert_eq!(work.held.heartbeats_meanwhile.at(1.0), Duration::from_micros(700));
    });
}

#[test]
fn a_heartbeat_without_an_answer_is_missed() {
    let mut rig = Rig::new();
    rig.live.enter(Stage::Holding);
    let (missed, answered) = rig.run(|work, step| {
        work.turn(0);
        step(work, Step::Ping(0, 1_000));
        step(work, Step::Ping(0, 61_000)); // the first was not answered before the second
        step(work, Step::Pong(0, 62_000));
        assert_eq!(work.held.missed, 1);
        step(work, Step::Ping(1, 62_000)); // the session ends before the answer
        work.lost(1, 62_000, anyhow!("gone").into()).unwrap();
        assert_eq!(work.held.missed, 2);
        step(work, Step::Ping(0, 121_000)); // the run ends before the answer
        work.live.enter(Stage::Ending);
        assert!(work.turn(121_000).is_some(), "it is waited for");
        assert!(work.turn(5_122_000).is_none(), "but not for ever");
    });
    assert_eq!((missed, answered), (3, 1));
    assert_eq!(read(&rig.live.lost), 1);
}
