//! Loops whose descriptors stand in tables of their own.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::telemetry::LEAK_STATES;

/// The standard ones, doorbell, poller, listener and reserve.
const OWN: u64 = 7;

fn start_private(loops: u16) -> Running {
    start_as(&ReactorConfig { private_tables: true, ..config(loops) }, |_| {})
}

fn connect(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"hello").unwrap();
    let mut back = [0; 5];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"hello");
    stream
}

/// What the system finds in each loop's table.
fn tables(running: &Running) -> Vec<u64> {
    let of = |metrics: &Arc<LoopMetrics>| host::open_descriptors_of(metrics.table_of.value());
    running.metrics.iter().map(|metrics| of(metrics).expect("it has a table of its own")).collect()
}

#[test]
fn each_loops_table_holds_its_own_connections_and_nothing_else() {
    let running = start_private(3);
    eventually("all loops run", || running.metrics.iter().all(|metrics| metrics.table_of.value() != 0));
    assert_eq!(tables(&running), [OWN; 3]);
    let streams: Vec<_> = (0..120).map(|_| connect(running.address)).collect();
    let live: Vec<u64> = running.seen.iter().map(|seen| seen.live.value()).collect();
    assert!(live.iter().all(|&live| live > 0), "the kernel spreads them: {live:?}");
    assert_eq!(tables(&running), live.iter().map(|live| OWN + live).collect::<Vec<_>>());
    eventually("each loop counts the same", || {
        let counted: Vec<u64> = running.metrics.iter().map(|metrics| metrics.descriptors.value()).collect();
        counted == tables(&running)
    });
    drop(streams);
    eventually("all are closed", || tables(&running) == [OWN; 3]);
    running.stop();
}

#[test]
fn effects_wake_a_loop_through_the_table_of_the_others() {
    let running = start_private(2);
    for n in 1..=100 {
        for (number, effects) in (0..).zip(&running.effects) {
            let conn = crate::ids::ConnKey { loop_id: LoopId(number), slot: 0, generation: 0 };
            let resume = crate::mail::Effect::ResumeReading { conn };
            let batch = crate::mail::EffectBatch { effects: vec![resume], bodies: vec![] };
            effects.send(batch).unwrap();
        }
        eventually("the effect", || running.seen.iter().all(|seen| seen.effects.value() == n));
    }
    running.stop();
}

#[test]
fn a_listener_in_a_table_of_its_own_is_gone_when_it_is_closed() {
    let running = start_private(2);
    let same = ReactorConfig { listen: running.address, private_tables: true, ..config(2) };
    assert!(matches!(bind(&same), Err(BindError::InUse { .. })), "a second server is refused");
    for _ in 0..20 {
        drop(connect(running.address));
    }
    let address = running.address;
    running.stop();
    assert!(TcpStream::connect(address).is_err(), "nobody listens");
    let loops = bind(&same).unwrap();
    assert!(loops.iter().all(|bound| bound.address() == address));
}

/// Lets each loop compare what is in its table now, and waits for the end of a turn: of that one, or of one before that was
/// under way.
fn compare(running: &Running) {
    for (handle, metrics) in running.handles.iter().zip(&running.metrics) {
        let turns = metrics.turns.value();
        handle.control.compare_descriptors(host::descriptors_of(metrics.table_of.value()).unwrap());
        eventually("a turn", || metrics.turns.value() > turns);
    }
}

/// What leaked of all loops, by state, where it is not nothing.
fn leaked(running: &Running) -> Vec<(&'static str, u64)> {
    let of = |(nth, state): (usize, &'static str)| {
        let leaked: u64 = running.metrics.iter().map(|metrics| metrics.leaked[nth].value()).sum();
        (leaked > 0).then_some((state, leaked))
    };
    LEAK_STATES.into_iter().enumerate().filter_map(of).collect()
}

#[test]
fn what_leaked_is_found_with_its_state() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let leaks_to = other.local_addr().ok();
    let private = ReactorConfig { private_tables: true, ..config(2) };
    let running = start_as(&private, |echo| echo.leaks_to = leaks_to);
    eventually("all loops run", || running.metrics.iter().all(|metrics| metrics.table_of.value() != 0));
    let mut streams: Vec<_> = (0..20).map(|_| connect(running.address)).collect();
    compare(&running);
    assert_eq!(leaked(&running), [], "connections that are held are no leak");

    streams[0].write_all(&[echo::LEAK]).unwrap();
    streams[0].read_exact(&mut [0]).unwrap();
    let (peer, _) = other.accept().unwrap();
    eventually("both are found", || {
        compare(&running);
        leaked(&running) == [("no_tcp_socket", 1), ("established", 1)]
    });
    drop(peer);
    eventually("the end of its peer is seen", || {
        compare(&running);
        leaked(&running) == [("no_tcp_socket", 1), ("close_wait", 1)]
    });
    running.stop();
}

#[test]
fn what_comes_and_goes_meanwhile_is_no_leak() {
    let running = start_private(2);
    eventually("all loops run", || running.metrics.iter().all(|metrics| metrics.table_of.value() != 0));
    let (address, stop) = (running.address, AtomicBool::new(false));
    std::thread::scope(|scope| {
        let come_and_go = || {
            while !stop.load(Ordering::Relaxed) {
                drop(connect(address));
            }
        };
        scope.spawn(come_and_go);
        for _ in 0..300 {
            compare(&running);
            let found = leaked(&running);
            if !found.is_empty() {
                stop.store(true, Ordering::Relaxed);
                panic!("{found:?}");
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(running.closed() > 0, "there was something to confuse it with");
    running.stop();
}

#[test]
fn descriptors_and_connections_are_compared_both_ways() {
    const CLOSE_WAIT: usize = 8;
    let state_of = |number| match number {
        5 | 6 => Some(CLOSE_WAIT), // open, and nobody's
        8 => Some(1),              // came since
        _ => None,                 // 9 went since; 7 should be open
    };
    let leaks = audit::compare(&mut [9, 6, 5, 3, 4], &mut [8, 4, 7, 3], state_of);
    let mut expected = [0; LEAK_STATES.len()];
    (expected[CLOSE_WAIT], expected[audit::GONE]) = (2, 1);
    assert_eq!(leaks, expected);
    assert_eq!((LEAK_STATES[CLOSE_WAIT], LEAK_STATES[audit::GONE]), ("close_wait", "descriptor_gone"));
}

fn wakes_again_and_again(number: std::os::fd::RawFd, ring: impl Fn(), hush: impl Fn()) {
    let mut poll = mio::Poll::new().unwrap();
    let mut source = mio::unix::SourceFd(&number);
    poll.registry().register(&mut source, WAKER, mio::Interest::READABLE).unwrap();
    let mut events = mio::Events::with_capacity(4);
    for times in [1, 2, 100_000, 1] {
        (0..times).for_each(|_| ring());
        poll.poll(&mut events, Some(PATIENCE)).unwrap();
        assert!(events.iter().any(|event| event.token() == WAKER), "rung {times} times");
        hush();
        poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
        assert!(events.is_empty(), "heard once");
    }
}

#[test]
fn a_doorbell_rings_however_often_it_was_rung() {
    let bell = platform::Doorbell::new().unwrap();
    wakes_again_and_again(bell.number(), || bell.ring(), || bell.hush());
    let bell = portable::Doorbell::new().unwrap();
    wakes_again_and_again(bell.number(), || bell.ring(), || bell.hush());
}
