//! Who is let in when more clients come than the loop takes on, and who is sent away in a drain.

use super::*;
use crate::limits;
use crate::mail::{Detach, DrainOrder};
use crate::wire::EMPTY_PING;

/// A loop that takes on two at once and ten a second.
fn narrow() -> GatewayConfig {
    GatewayConfig { admissions_per_s: 10, admission_burst: 2, ..config() }
}

/// A HELLO with the token of an earlier session.
fn resuming(rig: &mut Rig, client: &str) -> Vec<u8> {
    let key = rig.accept();
    rig.receive(key, &hello(client));
    rig.attach_as(client, key, 5);
    let Got::Welcome(welcome) = rig.frames(key.slot).remove(0) else { panic!("no WELCOME") };
    rig.gateway.closed(rig.now, key.slot, CloseCause::Peer);
    rig.commands();
    let resume_token = welcome.resume_token;
    hello_of(proto::Hello { client_id: client.into(), resume_token, ..Default::default() })
}

fn attached(commands: &[Command]) -> Vec<&str> {
    let mut clients = Vec::new();
    for command in commands {
        if let Command::Attach(attach) = command {
            clients.push(attach.client.as_str());
        }
    }
    clients
}

#[test]
fn those_that_resume_are_let_in_before_new_ones() {
    let mut rig = Rig::new(narrow());
    let back: Vec<_> = (0..4)
        .map(|n| {
            rig.wait(1000);
            resuming(&mut rig, &format!("old{n}"))
        })
        .collect();
    rig.wait(1000);
    let new: Vec<_> = (0..3).map(|_| rig.accept()).collect();
    for (n, key) in new.iter().enumerate() {
        rig.receive(*key, &hello(&format!("new{n}")));
    }
    assert_eq!(attached(&rig.commands()), ["new0"], "the other token is kept");
    for hello in &back {
        let key = rig.accept();
        rig.receive(key, hello);
    }
    assert_eq!(attached(&rig.commands()), ["old0"]);
    assert_eq!(rig.metrics.admission_waiting.value(), 5);
    for key in &new[1..] {
        assert!(!rig.gateway.may_read(key.slot));
    }
    let mut order = Vec::new();
    while rig.metrics.admission_waiting.value() > 0 {
        rig.wait(10);
        order.extend(attached(&rig.commands()).into_iter().map(str::to_owned));
    }
    assert_eq!(order, ["old1", "old2", "old3", "new1", "new2"]);
    assert_eq!(rig.now, Time(1000 + 5 * 1000 + 600), "a tenth of a second each, and one token is kept");
    assert!(new.iter().all(|key| rig.gateway.may_read(key.slot)));
    assert_eq!(rig.metrics.accepts.shed_admission.value(), 0);
}

#[test]
fn what_comes_behind_a_hello_that_waits_follows_it() {
    let mut rig = Rig::new(narrow());
    rig.live("first");
    let key = rig.accept();
    let bytes = [hello("d1"), EMPTY_PING.to_vec(), publish(1, "jobs", &[b"x"]), publish(2, "jobs", &[b"y"])];
    let bytes = bytes.concat();
    let (whole, half) = bytes.split_at(bytes.len() - 3);
    rig.receive(key, whole);
    assert!(rig.commands().is_empty() && rig.metrics.partial_bytes.value() > 0);
    rig.reading.clear();
    rig.wait(200);
    assert_eq!(rig.reading, [Action::ResumeReading(key.slot)]);
    assert!(matches!(&rig.commands()[..], [Command::Attach(_), Command::Publish(one)] if one.seq == 1));
    rig.receive(key, half);
    assert!(matches!(&rig.commands()[..], [Command::Publish(two)] if two.seq == 2));
    assert_eq!(rig.metrics.partial_bytes.value(), 0);
    rig.attach(key, 1);
    assert!(matches!(&rig.frames(key.slot)[..], [Got::Welcome(_), Got::Pong]));
}

#[test]
fn nonsense_behind_a_hello_that_waits_ends_it_when_its_turn_comes() {
    let mut rig = Rig::new(narrow());
    rig.live("first");
    let key = rig.accept();
    rig.receive(key, &[hello("d1"), vec![0xff; 10]].concat());
    assert!(rig.closed.is_empty());
    rig.wait(200);
    assert_eq!(rig.closed, [key.slot]);
    // It was on its way to the shard: it is taken back.
    let commands = rig.commands();
    assert!(matches!(&commands[..], [Command::Attach(_), Command::Detach(Detach { .. })]), "{commands:?}");
}

#[test]
fn whoever_would_wait_too_long_is_sent_away_with_a_slot_new_ones_first() {
    let mut rig = Rig::new(narrow());
    let back = resuming(&mut rig, "old");
    rig.wait(1000);
    let mut outcomes = Vec::new();
    for n in 0..30 {
        let key = rig.accept();
        rig.receive(key, &hello(&format!("new{n}")));
        let frames = rig.frames(key.slot);
        outcomes.push(match &frames[..] {
            [] => 0,
            [Got::Reject(reject)] if reject.code() == proto::Code::Overloaded => reject.reconnect_after_ms,
            _ => panic!("{frames:?}"),
        });
    }
    // One at once; what comes within a quarter of the handshake's five seconds, but for the token that is kept, waits.
    let waiting = rig.metrics.admission_waiting.value();
    assert!((11..=12).contains(&waiting), "{waiting}");
    let shed: Vec<u32> = outcomes.into_iter().filter(|&after| after > 0).collect();
    assert_eq!(shed.len() as u64, 29 - waiting);
    assert_eq!(rig.metrics.accepts.shed_admission.value(), 29 - waiting);
    let (first, last) = (shed[0], shed[shed.len() - 1]);
    assert!((1100..1500).contains(&first), "behind those that wait: {first}");
    assert!(u64::from(last) >= (waiting + shed.len() as u64 - 1) * 100, "a token each: {last}");
    let key = rig.accept();
    rig.receive(key, &back);
    assert!(rig.frames(key.slot).is_empty(), "whoever resumes is still let in");
    let commands = rig.commands();
    assert_eq!(attached(&commands), ["new0", "old"]);
    assert_eq!(commands.len(), 2, "the shard hears nothing of the others");
}

#[test]
fn only_so_much_may_come_behind_a_hello_that_waits() {
    let mut rig = Rig::new(narrow());
    rig.live("first");
    for (bytes, is_kept) in [(limits::EARLY_BYTES_MAX, true), (limits::EARLY_BYTES_MAX + 1, false)] {
        let key = rig.accept();
        rig.receive(key, &[hello("d1"), vec![0; bytes]].concat());
        assert_eq!(rig.frames(key.slot).is_empty(), is_kept, "{bytes} bytes");
        assert_eq!(rig.closed.contains(&key.slot), !is_kept);
    }
    assert_eq!(rig.metrics.partial_bytes.value(), limits::EARLY_BYTES_MAX as u64);
}

#[test]
fn one_that_leaves_while_it_waits_costs_no_token() {
    let mut rig = Rig::new(narrow());
    rig.live("first");
    let (gone, next) = (rig.accept(), rig.accept());
    rig.receive(gone, &hello("gone"));
    rig.receive(next, &hello("next"));
    rig.gateway.closed(rig.now, gone.slot, CloseCause::Peer);
    assert!(rig.commands().is_empty(), "the shard never heard of it");
    // The slot's next tenant is not taken for it.
    let other = rig.accept();
    assert_eq!(other.slot, gone.slot);
    rig.wait(100);
    assert_eq!(attached(&rig.commands()), ["next"]);
    assert_eq!(rig.metrics.admission_waiting.value(), 0);
}

#[test]
fn a_full_lane_lets_nobody_in_and_does_not_spin() {
    let mut rig = Rig::new(narrow());
    rig.live("first");
    let key = rig.accept();
    rig.receive(key, &hello("d1"));
    rig.gateway.lane_blocked(rig.now, true);
    rig.wait(500);
    assert!(rig.commands().is_empty());
    let next = rig.gateway.next_deadline();
    assert!(next.is_none_or(|at| at > rig.now), "{next:?} at {:?}", rig.now);
    rig.gateway.lane_blocked(rig.now, false);
    rig.wait(1);
    assert_eq!(attached(&rig.commands()), ["d1"]);
}

#[test]
fn one_whose_turn_never_comes_is_told_so_at_the_deadline() {
    let mut rig = Rig::new(narrow());
    rig.live("first");
    let key = rig.accept();
    rig.receive(key, &hello("d1"));
    rig.gateway.lane_blocked(rig.now, true);
    rig.wait(5000);
    let frames = rig.frames(key.slot);
    assert!(
        matches!(&frames[..], [Got::Reject(reject)]
            if reject.code() == proto::Code::Overloaded && reject.reconnect_after_ms > 0),
        "{frames:?}"
    );
    assert_eq!(rig.metrics.accepts.shed_admission.value(), 1);
}

fn order(number: u16, share_ppm: u32, over_ms: u64) -> DrainOrder {
    DrainOrder { number, share_ppm, over: Duration::from_millis(over_ms) }
}

/// Clients that were told to go since the last call.
fn told(rig: &mut Rig) -> Vec<u32> {
    let slots: Vec<u32> = (0..rig.taken.len() as u32).collect();
    let is_told = |rig: &mut Rig, slot| {
        matches!(&rig.frames(slot)[..], [Got::GoAway(goaway)]
            if goaway.code() == proto::Code::Draining && goaway.reconnect_after_ms > 0)
    };
    slots.into_iter().filter(|&slot| is_told(rig, slot)).collect()
}

#[test]
fn a_share_is_sent_away_in_waves_evenly_and_the_others_stay() {
    let mut rig = Rig::new(config());
    for n in 0..80 {
        rig.live(&format!("d{n}"));
    }
    let handshaking = rig.accept();
    rig.gateway.drain_share(rig.now, order(1, 250_000, 1000));
    rig.turn();
    let metrics = Arc::clone(&rig.metrics);
    let seen = || {
        [&metrics.drain_order, &metrics.drain_running, &metrics.drain_wanted, &metrics.drain_told]
            .map(Gauge::value)
    };
    assert_eq!(seen(), [1, 1, 20, 2]);
    rig.wait(350);
    assert_eq!(seen(), [1, 1, 20, 8], "in the middle of its time");
    rig.wait(600);
    assert_eq!(seen(), [1, 0, 20, 20]);
    let slots = told(&mut rig);
    assert_eq!(slots.len(), 20);
    assert!(slots.windows(2).all(|pair| pair[1] - pair[0] == 4), "every fourth: {slots:?}");
    assert_eq!((rig.gateway.live(), metrics.drain_leaving.value()), (61, 0));
    assert!(!rig.gateway.is_drained() && rig.frames(handshaking.slot).is_empty());
    rig.live("new");
    assert_eq!(rig.gateway.next_deadline().map(|at| at > rig.now), Some(true));
}

#[test]
fn small_shares_of_many_loops_add_up() {
    let told: u64 = (0..200)
        .map(|seed| {
            let metrics = Arc::new(LoopMetrics::default());
            let gateway = Gateway::new(LoopId(0), Arc::new(config()), Arc::clone(&metrics), seed, Time(0));
            let mut rig = Rig { gateway, metrics, ..Rig::new(config()) };
            for n in 0..5 {
                rig.live(&format!("d{n}"));
            }
            rig.gateway.drain_share(rig.now, order(1, 100_000, 0));
            rig.turn();
            rig.metrics.drain_told.value()
        })
        .sum();
    assert!((70..130).contains(&told), "a tenth of 1000: {told}");
}

#[test]
fn nobody_is_sent_away_faster_than_they_would_be_taken_on() {
    let mut rig = Rig::new(GatewayConfig { admissions_per_s: 50, admission_burst: 100, ..config() });
    for n in 0..40 {
        rig.live(&format!("d{n}"));
    }
    rig.gateway.begin_drain(rig.now, Duration::ZERO);
    rig.turn();
    assert_eq!(rig.metrics.drain_told.value(), 5);
    rig.wait(300);
    assert_eq!((rig.metrics.drain_told.value(), rig.metrics.drain_running.value()), (20, 1));
    rig.wait(400);
    assert!(rig.gateway.is_drained());
    assert_eq!(rig.metrics.drain_running.value(), 0);
}

#[test]
fn a_drain_of_a_share_is_ended_and_begun_anew() {
    let mut rig = Rig::new(config());
    for n in 0..50 {
        rig.live(&format!("d{n}"));
    }
    rig.gateway.drain_share(rig.now, order(1, 1_000_000, 1000));
    rig.wait(250);
    rig.gateway.drain_share(rig.now, order(2, 0, 0));
    rig.wait(2000);
    assert_eq!(told(&mut rig).len(), 15);
    let metrics = Arc::clone(&rig.metrics);
    assert_eq!((metrics.drain_order.value(), metrics.drain_running.value()), (2, 0));
    rig.gateway.drain_share(rig.now, order(3, 1_000_000, 100));
    rig.wait(200);
    assert_eq!(told(&mut rig).len(), 35);
    assert_eq!((rig.gateway.live(), rig.gateway.is_drained()), (0, false), "the server stays");
    rig.live("back");
    rig.gateway.begin_drain(rig.now, Duration::ZERO);
    rig.turn();
    rig.gateway.drain_share(rig.now, order(4, 0, 0));
    assert!(rig.gateway.accept(rig.now).is_err(), "its end is not ended");
}

#[test]
fn a_share_is_of_those_that_were_not_told_before() {
    let mut rig = Rig::new(config());
    for n in 0..4 {
        let key = rig.live(&format!("busy{n}"));
        // Unanswered, so that its client stays when it is told.
        rig.receive(key, &publish(1, "jobs", &[b"a"]));
    }
    let metrics = Arc::clone(&rig.metrics);
    let seen = || [&metrics.drain_wanted, &metrics.drain_told, &metrics.drain_leaving].map(Gauge::value);
    rig.gateway.drain_share(rig.now, order(1, 1_000_000, 0));
    rig.turn();
    assert_eq!(seen(), [4, 4, 4]);
    for n in 0..4 {
        rig.live(&format!("d{n}"));
    }
    rig.gateway.drain_share(rig.now, order(2, 500_000, 1000));
    rig.turn();
    assert_eq!(seen()[0], 2, "half of those that stayed");
    rig.wait(1000);
    assert_eq!((seen(), metrics.drain_running.value()), ([2, 2, 4], 0));
    rig.gateway.begin_drain(rig.now, Duration::from_secs(1));
    assert_eq!(seen()[0], 2, "those that nobody told");
}

#[test]
fn who_comes_to_a_server_that_ends_is_asked_back_once_it_has() {
    let mut rig = Rig::new(config());
    for n in 0..20 {
        rig.live(&format!("d{n}"));
    }
    let unwelcomed = rig.accept();
    rig.gateway.begin_drain(rig.now, Duration::from_secs(8));
    rig.wait(2000);
    let shed = rig.gateway.accept(rig.now).expect_err("it ends");
    let frames = parse(&shed.farewell);
    let [Got::Reject(reject)] = &frames[..] else { panic!("{frames:?}") };
    assert_eq!(reject.code(), proto::Code::Draining);
    assert!((9000..9300).contains(&reject.reconnect_after_ms), "{reject:?}");
    rig.wait(6000);
    let frames = rig.frames(unwelcomed.slot);
    assert!(matches!(&frames[..], [Got::Reject(_)]), "{frames:?}");
    assert!(rig.gateway.is_drained());
}
