use proptest::prelude::*;

use super::*;
use crate::wire::{EMPTY_PING, encode_ack};

/// A client's session, well behaved.
fn session_bytes() -> Vec<u8> {
    let mut bytes = [hello("d1"), EMPTY_PING.to_vec(), publish(1, "jobs", &[b"a", &[3; 300]])].concat();
    let lease =
        crate::ids::LeaseId { message: crate::ids::MessageId(5), attempt: 1, boot: crate::ids::Boot(1) };
    encode_ack(&mut bytes, 2, &[lease; 3], true);
    let subscribe =
        proto::Subscribe { seq: 3, subscription: 1, queue: "device/d1".into(), ..Default::default() };
    bytes.extend(frame(Kind::Subscribe, &subscribe));
    bytes.extend(publish(4, "jobs", &[&[9; 2000]]));
    bytes.extend(frame(Kind::Bye, &proto::Bye::default()));
    bytes
}

fn all_said(rig: &mut Rig) -> String {
    let batch = std::mem::take(&mut rig.gateway.commands()[0]);
    format!("{batch:?}")
}

proptest! {
    #[test]
    fn any_split_of_the_stream_says_the_same(cuts in prop::collection::vec(0usize..3000, 0..40)) {
        let bytes = session_bytes();
        let mut whole = Rig::new(config());
        let key = whole.accept();
        whole.receive(key, &bytes);
        let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut % bytes.len()).collect();
        cuts.sort_unstable();
        cuts.push(bytes.len());
        let mut split = Rig::new(config());
        let key = split.accept();
        let mut from = 0;
        for to in cuts {
            split.receive(key, &bytes[from..to]);
            from = to;
        }
        prop_assert_eq!(all_said(&mut whole), all_said(&mut split));
        prop_assert_eq!(&whole.closed, &split.closed);
        prop_assert_eq!(split.metrics.partial_bytes.value(), 0);
    }

    #[test]
    fn arbitrary_bytes_end_in_a_close_or_in_waiting(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..20),
        said_hello in any::<bool>(),
        is_live in any::<bool>(),
    ) {
        let mut rig = Rig::new(config());
        let key = rig.accept();
        if said_hello {
            rig.receive(key, &hello("d1"));
            if is_live {
                rig.attach(key, 1);
            }
        }
        let mut received = 0;
        for chunk in &chunks {
            received += chunk.len();
            rig.receive(key, chunk);
            prop_assert!(rig.metrics.partial_bytes.value() as usize <= received);
        }
        rig.wait(10_000);
        prop_assert_eq!(rig.gateway.live(), 0);
        prop_assert_eq!(rig.metrics.partial_bytes.value() + rig.metrics.output_bytes.value(), 0);
        let commands = rig.commands();
        let detached = commands.iter().filter(|command| matches!(command, Command::Detach(_))).count();
        prop_assert_eq!(detached, usize::from(said_hello), "{:?}", commands);
    }

    #[test]
    fn a_good_session_with_flipped_bytes_never_panics(
        flips in prop::collection::vec((0usize..3000, any::<u8>()), 1..6),
        cut in 0usize..3000,
    ) {
        let mut bytes = session_bytes();
        let len = bytes.len();
        for (at, to) in flips {
            bytes[at % len] = to;
        }
        let mut rig = Rig::new(config());
        let key = rig.accept();
        let (first, second) = bytes.split_at(cut % len);
        rig.receive(key, first);
        rig.receive(key, second);
        rig.wait(10_000);
        prop_assert_eq!(rig.gateway.live(), 0);
    }
}

fn pings(count: usize) -> Vec<u8> {
    EMPTY_PING.repeat(count)
}

fn pings_heard(rig: &Rig) -> usize {
    rig.metrics.received.frames[Kind::Ping as usize].value() as usize
}

/// Runs turns in which nothing new comes until nothing is deferred; how many PINGs the busiest carried out.
fn run_out(rig: &mut Rig) -> usize {
    let mut most = 0;
    while rig.gateway.next_deadline() == Some(Time(0)) {
        let before = pings_heard(rig);
        rig.gateway.expire(rig.now);
        rig.turn();
        most = most.max(pings_heard(rig) - before);
    }
    most
}

/// A flood of the smallest frames there are, in the largest read there is: each turn carries out its share of them, a
/// heartbeat of another is answered after one share, and all of them are answered in the end, in their order.
#[test]
fn a_flood_of_pings_has_a_bounded_share_of_each_turn() {
    let mut rig = Rig::new(config());
    let (flooder, good) = (rig.live("flooder"), rig.live("good"));
    let flood = limits::READ_BUFFER_BYTES / EMPTY_PING.len() - 100;
    let half_a_frame = &publish(2, "jobs", &[b"later"])[..5];
    rig.receive(flooder, &[&pings(flood)[..], &publish(1, "jobs", &[b"behind"]), half_a_frame].concat());
    assert_eq!(pings_heard(&rig), limits::FRAMES_PER_TURN_MAX);
    assert!(!rig.gateway.may_read(flooder.slot));
    assert_eq!(rig.metrics.reading_stopped.value(), 1);
    rig.receive(good, &EMPTY_PING);
    assert_eq!(rig.frames(good.slot), [Got::Pong], "after no more than one share of the flood");
    assert!(rig.commands().is_empty(), "what came behind the flood waits");
    let most = run_out(&mut rig);
    assert_eq!(most, limits::FRAMES_PER_TURN_MAX, "in one turn");
    assert_eq!(rig.frames(flooder.slot), vec![Got::Pong; flood]);
    assert!(matches!(rig.commands()[..], [Command::Publish(_)]));
    assert!(rig.gateway.may_read(flooder.slot));
    assert_eq!(rig.reading.last(), Some(&Action::ResumeReading(flooder.slot)));
    assert_eq!(rig.metrics.reading_stopped.value(), 0);
    assert_eq!(rig.metrics.partial_bytes.value(), 5, "the frame that is not whole");
}

/// Many at once: the loop has its share of a turn as well, beyond which each connection has a few frames; so a good client
/// among them is answered in the turn that reads it.
#[test]
fn many_floods_together_leave_a_heartbeat_its_turn() {
    const FLOODERS: usize = 90;
    let mut rig = Rig::new(config());
    let flooders: Vec<_> = (0..FLOODERS).map(|number| rig.live(&format!("flooder-{number}"))).collect();
    let good = rig.live("good");
    rig.wait(0);
    let before = pings_heard(&rig);
    for flooder in &flooders {
        rig.receive(*flooder, &pings(5 * limits::FRAMES_PER_TURN_MAX));
    }
    rig.receive(good, &EMPTY_PING);
    assert_eq!(rig.frames(good.slot), [Got::Pong]);
    let ahead = limits::FRAMES_PER_LOOP_TURN_MAX + FLOODERS * limits::FRAMES_PER_TURN_MIN;
    let heard = pings_heard(&rig) - before;
    assert!(heard <= ahead, "{heard} frames went before a heartbeat");
    let most = run_out(&mut rig);
    assert!(most <= limits::FRAMES_PER_LOOP_TURN_MAX + limits::FRAMES_PER_TURN_MAX, "{most} in one turn");
    for flooder in flooders {
        assert_eq!(rig.frames(flooder.slot).len(), 5 * limits::FRAMES_PER_TURN_MAX);
        assert!(rig.gateway.may_read(flooder.slot));
    }
    assert_eq!(rig.metrics.reading_stopped.value() + rig.metrics.partial_bytes.value(), 0);
}

/// Who floods and does not read owes himself no more than his output's budget and one share of PONGs; nothing of him is
/// carried out until he reads, and everything then.
#[test]
fn a_flood_that_reads_nothing_is_held_up_and_goes_on_when_it_reads() {
    let mut config = config();
    config.write_budget_bytes = 4 * limits::FRAMES_PER_TURN_MAX * EMPTY_PING.len();
    let budget = config.write_budget_bytes;
    let mut rig = Rig::new(config);
    let flooder = rig.live("flooder");
    rig.plugged.push(flooder.slot);
    let flood = 100 * limits::FRAMES_PER_TURN_MAX;
    rig.receive(flooder, &pings(flood));
    run_out(&mut rig);
    let owed = rig.gateway.unsent(flooder.slot).len();
    assert!(owed > budget && owed <= budget + limits::FRAMES_PER_TURN_MAX * EMPTY_PING.len(), "{owed} bytes");
    assert!(rig.gateway.next_deadline() > Some(rig.now), "a loop that does not spin");
    rig.plugged.clear();
    rig.flush(flooder.slot);
    rig.turn();
    run_out(&mut rig);
    assert_eq!(rig.frames(flooder.slot).len(), flood);
    assert!(rig.gateway.may_read(flooder.slot));
}

/// With the lane to the shard full nothing goes on, and what a client had sent before it went is nobody's business.
#[test]
fn deferred_frames_wait_for_the_lane_and_end_with_their_client() {
    let mut rig = Rig::new(config());
    let (first, second) = (rig.live("first"), rig.live("second"));
    for flooder in [first, second] {
        rig.receive(flooder, &pings(2 * limits::FRAMES_PER_TURN_MAX));
    }
    rig.gateway.lane_blocked(rig.now, true);
    let before = pings_heard(&rig);
    assert_ne!(rig.gateway.next_deadline(), Some(Time(0)));
    rig.wait(0);
    assert_eq!(pings_heard(&rig), before);
    rig.gateway.closed(rig.now, first.slot, CloseCause::Failed);
    rig.gateway.lane_blocked(rig.now, false);
    run_out(&mut rig);
    assert_eq!(pings_heard(&rig), before + limits::FRAMES_PER_TURN_MAX);
    assert_eq!(rig.frames(second.slot).len(), 2 * limits::FRAMES_PER_TURN_MAX);
    assert_eq!(rig.metrics.reading_stopped.value() + rig.metrics.partial_bytes.value(), 0);
}
