use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use socket2::SockRef;

use super::super::linger::Lingering;
use super::super::listener::{Accepted, KeepAlive, Listener};
use super::echo::{ABORT_ME, CLOSE_ME, FAREWELL, TURNED_AWAY, WAIT};
use super::*;
use crate::limits;
use crate::mail::{Effect, EffectBatch};

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn echoes(stream: &mut TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).unwrap();
    let mut back = vec![0; bytes.len()];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(back, bytes);
}

fn pattern(len: usize) -> Vec<u8> {
    // Never starts a read with one of the brain's signs.
    (0..len).map(|i| b'a' + u8::try_from(i * 7 % 23).unwrap()).collect()
}

#[test]
fn many_connections_are_echoed() {
    let running = start(2);
    let mut streams: Vec<_> = (0..200).map(|_| connect(running.address)).collect();
    for round in 1..20 {
        for stream in &mut streams {
            stream.write_all(&pattern(round * 10)).unwrap();
        }
        for stream in &mut streams {
            let mut back = vec![0; round * 10];
            stream.read_exact(&mut back).unwrap();
            assert_eq!(back, pattern(round * 10));
        }
    }
    assert_eq!(running.live(), 200);
    assert!(running.seen.iter().all(|seen| seen.live.value() > 0), "the kernel spreads them over the loops");
    drop(streams);
    eventually("all are closed", || running.live() == 0);
    let accepted: u64 = running.seen.iter().map(|seen| seen.accepted.value()).sum();
    assert_eq!(accepted, 200);
    running.stop();
}

/// More than a read buffer in each direction, past a reader that begins only once the loop is stuck with what it has for
/// it: reads that fill the buffer, writes cut short, reading stopped and resumed, and not one edge lost.
#[test]
fn a_slow_reader_gets_every_byte() {
    const LEN: usize = 24 << 20;
    let running = start(1);
    let mut stream = connect(running.address);
    // However much the system would keep for a reader, it is less than what is sent.
    SockRef::from(&stream).set_recv_buffer_size(64 << 10).unwrap();
    let mut writer = stream.try_clone().unwrap();
    let sent = pattern(LEN);
    let expected = sent.clone();
    let sender = std::thread::spawn(move || writer.write_all(&sent).unwrap());
    eventually("the loop is stuck", || running.seen[0].stops.value() > 0);
    let mut back = vec![0; LEN];
    for (turn, part) in back.chunks_mut(300_000).enumerate() {
        if turn % 8 == 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
        stream.read_exact(part).unwrap();
    }
    sender.join().unwrap();
    assert!(back == expected, "the bytes came back changed");
    echoes(&mut stream, b"still in step");
    running.stop();
}

fn a_hundred_round_trips(stream: &mut TcpStream) -> Duration {
    let begun = Instant::now();
    for _ in 0..100 {
        echoes(stream, b"ping");
    }
    begun.elapsed()
}

#[test]
fn one_that_floods_does_not_starve_another() {
    let running = start(1);
    let mut other = connect(running.address);
    let alone = a_hundred_round_trips(&mut other);
    let flood = connect(running.address);
    let (mut to, mut from) = (flood.try_clone().unwrap(), flood.try_clone().unwrap());
    let writer = std::thread::spawn(move || {
        let block = pattern(1 << 20);
        while to.write_all(&block).is_ok() {}
    });
    let reader = std::thread::spawn(move || {
        let mut block = vec![0; 1 << 20];
        while matches!(from.read(&mut block), Ok(n) if n > 0) {}
    });
    let beside = a_hundred_round_trips(&mut other);
    let allowed = Duration::from_secs(10).max(alone * 1000);
    assert!(beside < allowed, "100 round trips took {beside:?} beside the flood and {alone:?} alone");
    flood.shutdown(Shutdown::Both).unwrap();
    writer.join().unwrap();
    reader.join().unwrap();
    running.stop();
}

#[test]
fn half_a_close_is_answered_before_the_end() {
    let running = start(1);
    for len in [1, 1000, 50_000] {
        let mut stream = connect(running.address);
        stream.write_all(&pattern(len)).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut back = vec![];
        stream.read_to_end(&mut back).unwrap();
        assert_eq!(back, pattern(len));
    }
    eventually("all are closed", || running.closed() == 3);
    assert_eq!(running.seen[0].closed_by_peer.value(), 3);
    running.stop();
}

#[test]
fn slots_are_used_again_and_their_events_stay_apart() {
    let running = start(1);
    let mut long_lived = connect(running.address);
    for turn in 0..1500 {
        let mut short_lived = connect(running.address);
        match turn % 3 {
            0 => echoes(&mut short_lived, &pattern(turn + 1)),
            // Gone with the answer unread: a reset, at a moment when the slot may have its next tenant.
            1 => short_lived.write_all(&pattern(100)).unwrap(),
            _ => {}
        }
    }
    echoes(&mut long_lived, b"unharmed");
    eventually("all but one are closed", || running.closed() == 1500 && running.live() == 1);
    running.stop();
}

/// Unread input at a close makes the kernel send a reset, which may overtake what was written before it.
#[test]
fn a_farewell_arrives_although_the_client_still_sends() {
    const TIMES: usize = 20;
    let running = start(1);
    let mut arrived = 0;
    for _ in 0..TIMES {
        let mut stream = connect(running.address);
        let mut bytes = pattern(600_000);
        bytes[0] = CLOSE_ME;
        let mut writer = stream.try_clone().unwrap();
        // It may or may not get rid of all of it.
        let sender = std::thread::spawn(move || drop(writer.write_all(&bytes)));
        let mut farewell = vec![];
        let is_ended = stream.read_to_end(&mut farewell).is_ok();
        arrived += usize::from(is_ended && farewell == FAREWELL);
        drop(stream);
        sender.join().unwrap();
    }
    // A client that is held up for longer than a closed socket lingers is reset after all; nearly all are without it.
    assert!(arrived > TIMES / 2, "{arrived} of {TIMES} farewells arrived");
    eventually("all are closed", || running.live() == 0);
    running.stop();
}

/// A peer that takes nothing is not told in order, which it would never hear: with the connection goes what the system keeps.
#[test]
fn who_is_given_up_is_reset_at_once() {
    let running = start(1);
    let mut stream = connect(running.address);
    echoes(&mut stream, b"in");
    stream.write_all(&[ABORT_ME]).unwrap();
    let error = stream.read(&mut [0; 8]).expect_err("a reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    eventually("the slot is free", || running.live() == 0);
    assert_eq!(running.metrics[0].lingering.value(), 0);
    running.stop();
}

/// What was closed at one moment is dropped over several turns, the oldest first.
#[test]
fn sockets_that_lingered_are_dropped_a_turns_share_at_a_time() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (mut lingering, mut scratch, mut peers) = (Lingering::default(), [0; 16], Vec::new());
    for _ in 0..2 * limits::LINGERING_DROPS_PER_TURN + 1 {
        peers.push(connect(address));
        let accepted = listener.accept().unwrap().0;
        accepted.set_nonblocking(true).unwrap();
        let stream = Stream::Plain(mio::net::TcpStream::from_std(accepted));
        lingering.close(Time(0), stream, &mut scratch);
    }
    let ripe = Time(0) + limits::LINGER;
    let drops: Vec<_> = (0..4).map(|_| lingering.expire(ripe, &mut scratch)).collect();
    assert_eq!(drops, [limits::LINGERING_DROPS_PER_TURN, limits::LINGERING_DROPS_PER_TURN, 1, 0]);
    assert_eq!(lingering.next_deadline(), None);
}

#[test]
fn a_storm_of_accepts_is_taken_in_bounded_turns() {
    let descriptors = host::raise_descriptor_limit().soft;
    // Two descriptors each, and something left for the tests beside this one.
    let connections = (3 * limits::ACCEPTS_PER_TURN_MAX).min((descriptors / 3) as usize);
    assert!(connections > limits::ACCEPTS_PER_TURN_MAX, "raise the limit of {descriptors} descriptors");
    let running = start(1);
    let mut streams: Vec<_> = (0..connections).map(|_| connect(running.address)).collect();
    for stream in &mut streams {
        echoes(stream, b"here");
    }
    drop(streams);
    eventually("all are closed", || running.live() == 0);
    running.stop();
}

#[test]
fn what_the_brain_does_not_take_is_told_so() {
    let running = start_with(1, |echo| echo.live_max = 1);
    let mut first = connect(running.address);
    echoes(&mut first, b"in");
    let mut second = connect(running.address);
    let _ = second.write_all(b"a greeting that nobody reads");
    let mut told = vec![0; TURNED_AWAY.len()];
    second.read_exact(&mut told).unwrap();
    assert_eq!(told, TURNED_AWAY);
    assert_eq!(second.read(&mut told).unwrap(), 0, "and closed");
    running.stop();
}

#[test]
fn one_that_goes_while_it_waits_to_be_let_in_is_closed_at_once() {
    let running = start(1);
    let mut stays = connect(running.address);
    echoes(&mut stays, b"in");
    let mut waits = connect(running.address);
    echoes(&mut waits, &[WAIT]);
    drop(waits);
    eventually("its end is seen, unread", || running.seen[0].closed_by_peer.value() == 1);
    // The end comes with what makes it wait.
    let mut brief = connect(running.address);
    brief.write_all(&[WAIT]).unwrap();
    brief.shutdown(Shutdown::Write).unwrap();
    eventually("this one's too", || running.seen[0].closed_by_peer.value() == 2);
    echoes(&mut stays, b"still");
    running.stop();
}

#[test]
fn a_full_lane_stops_the_reading_until_it_has_room() {
    let mut running = start_with(1, |echo| echo.with_commands = true);
    let mut stream = connect(running.address);
    // One batch for each round trip, and nobody takes them.
    for _ in 0..limits::COMMAND_LANE_BATCHES {
        echoes(&mut stream, b"a");
    }
    echoes(&mut stream, b"this one's batch comes back");
    eventually("the brain hears of it", || running.seen[0].blocked.value() == 1);
    stream.write_all(b"unread").unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert!(stream.read(&mut [0; 16]).is_err(), "nothing is read while the lane is full");

    let mut commands = 0;
    while let Some((_, batch)) = running.commands.next_batch() {
        commands += batch.commands.len();
    }
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut back = [0; 6];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"unread");
    eventually("every command arrives once", || {
        while let Some((_, batch)) = running.commands.next_batch() {
            commands += batch.commands.len();
        }
        commands == limits::COMMAND_LANE_BATCHES + 2
    });
    assert_eq!(running.seen[0].blocked.value(), 0);
    running.stop();
}

#[test]
fn effects_and_deadlines_wake_a_sleeping_loop() {
    let running = start_with(1, |echo| echo.deadline = Some(Time(300)));
    eventually("the deadline", || running.seen[0].expired.value() == 1);
    for n in 1..=100 {
        let resume = Effect::ResumeReading {
            conn: crate::ids::ConnKey { loop_id: LoopId(0), slot: 0, generation: 0 },
        };
        running.effects[0].send(EffectBatch { effects: vec![resume], bodies: vec![] }).unwrap();
        eventually("the effect", || running.seen[0].effects.value() == n);
    }
    eventually("an idle loop sleeps", || {
        let turns = running.metrics[0].turns.value();
        std::thread::sleep(Duration::from_millis(300));
        running.metrics[0].turns.value() == turns
    });
    running.stop();
}

#[test]
fn a_drain_tells_the_clients_and_ends_the_loops() {
    let running = start(2);
    let mut streams: Vec<_> = (0..20).map(|_| connect(running.address)).collect();
    for stream in &mut streams {
        echoes(stream, b"here");
    }
    for handle in &running.handles {
        handle.control.drain(Duration::from_millis(1));
    }
    for stream in &mut streams {
        let mut told = vec![];
        stream.read_to_end(&mut told).unwrap();
        assert_eq!(told, FAREWELL);
    }
    for handle in running.handles {
        handle.join.join().unwrap();
    }
}

#[test]
fn a_drain_ends_though_clients_come_again_and_again() {
    let running = start(1);
    let (address, is_over) = (running.address, Arc::new(AtomicBool::new(false)));
    let crowd: Vec<_> = (0..4)
        .map(|_| {
            let is_over = Arc::clone(&is_over);
            std::thread::spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    // Refused once nobody listens.
                    if let Ok(mut stream) = TcpStream::connect(address) {
                        let _ = stream.read_to_end(&mut vec![]);
                    }
                }
            })
        })
        .collect();
    eventually("they come", || running.seen[0].accepted.value() >= 4);
    running.handles[0].control.drain(Duration::from_millis(1));
    eventually("the loop ends", || running.handles[0].join.is_finished());
    is_over.store(true, Ordering::Relaxed);
    for client in crowd {
        client.join().unwrap();
    }
}

#[test]
fn an_address_in_use_is_refused_and_free_again_afterwards() {
    let running = start(2);
    let mut stream = connect(running.address);
    echoes(&mut stream, b"here");
    let same = ReactorConfig { listen: running.address, ..config(1) };
    assert!(matches!(bind(&same), Err(BindError::InUse { .. })));
    running.stop();
    // The server ended first, so its side of the connection is still ending.
    bind(&same).unwrap();
}

#[test]
fn accepted_connections_have_the_listeners_options() {
    let keep_alive = KeepAlive::tuned(Duration::from_secs(100), 1000);
    let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), keep_alive, true, Arc::default()).unwrap();
    let _client = connect(listener.address());
    let Accepted::Stream(stream) = listener.accept() else { panic!("a connection waits") };
    let socket = SockRef::from(&stream);
    assert!(socket.tcp_nodelay().unwrap());
    assert!(socket.keepalive().unwrap());
    assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(150));
    assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(10));
    assert_eq!(socket.tcp_keepalive_retries().unwrap(), 3);
    #[cfg(target_os = "linux")]
    assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(180)));
}

#[test]
fn probes_wait_for_the_heartbeat_and_stay_few() {
    let tuned = |heartbeat_s, sessions| KeepAlive::tuned(Duration::from_secs(heartbeat_s), sessions);
    for (heartbeat_s, sessions, idle_s) in [
        (1, 1, 60),
        (40, 1, 60),
        (60, 1, 90),
        (30, 300_000, 60),
        (30, 1_000_000, 200),
        (200, 1_000_000, 300),
        (30, 16_000_000, 3200),
        (30, u64::MAX, 32_767),
    ] {
        let keep_alive = tuned(heartbeat_s, sessions);
        assert_eq!(keep_alive.idle.as_secs(), idle_s, "{sessions} sessions of {heartbeat_s} s");
        assert_eq!(keep_alive.user_timeout, keep_alive.idle + Duration::from_secs(30));
        if sessions <= 16_000_000 {
            assert!(sessions / keep_alive.idle.as_secs() <= limits::KEEPALIVE_PROBES_PER_S_MAX);
        }
    }
}

/// One event, one read and one write: nothing is asked of a socket twice.
#[test]
fn a_round_trip_is_one_read_and_one_write() {
    let running = start(1);
    let mut stream = connect(running.address);
    echoes(&mut stream, b"warm");
    let metrics = &running.metrics[0];
    let counts = || (metrics.socket_reads.value(), metrics.socket_writes.value(), metrics.turns.value());
    // A turn is counted at its end, after its answer was sent.
    eventually("the turn is counted", || counts().2 >= 2);
    let before = counts();
    for _ in 0..1000 {
        echoes(&mut stream, b"ping");
    }
    eventually("the turns are counted", || counts().2 >= before.2 + 1000);
    let after = counts();
    assert_eq!((after.0 - before.0, after.1 - before.1), (1000, 1000));
    assert!(after.2 - before.2 <= 1001, "{} turns", after.2 - before.2);
    running.stop();
}

/// What the system sees of a peer whose host is gone: nothing it is sent is acknowledged any more.
#[cfg(target_os = "linux")]
mod gone {
    use socket2::SockFilter;

    use super::*;

    fn impatient() -> KeepAlive {
        let second = Duration::from_secs(1);
        KeepAlive { idle: second, interval: second, retries: 1, user_timeout: 3 * second }
    }

    /// A connection of which the client's system drops all that arrives, before it sees it.
    fn cut_off() -> (TcpStream, mio::net::TcpStream) {
        let listener =
            Listener::bind("127.0.0.1:0".parse().unwrap(), impatient(), true, Arc::default()).unwrap();
        let client = connect(listener.address());
        let Accepted::Stream(stream) = listener.accept() else { panic!("a connection waits") };
        const RETURN_NOTHING: SockFilter = SockFilter::new(6, 0, 0, 0);
        SockRef::from(&client).attach_filter(&[RETURN_NOTHING]).unwrap();
        (client, stream)
    }

    fn until_given_up(stream: &mut mio::net::TcpStream) -> (std::io::ErrorKind, Duration) {
        let begun = Instant::now();
        loop {
            match stream.read(&mut [0]) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    assert!(begun.elapsed() < PATIENCE, "the system never gives it up");
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(error) => return (error.kind(), begun.elapsed()),
                Ok(n) => panic!("{n} bytes of a client that is gone"),
            }
        }
    }

    /// Nobody says anything: neither heartbeats nor unacknowledged output would find out.
    #[test]
    fn probes_find_an_idle_one() {
        let (_client, mut stream) = cut_off();
        let (error, after) = until_given_up(&mut stream);
        assert_eq!(error, std::io::ErrorKind::TimedOut);
        assert!(after >= Duration::from_millis(1500), "after {after:?}");
    }

    /// While something sent is not acknowledged the system sends no probes.
    #[test]
    fn output_that_is_not_acknowledged_finds_the_others() {
        let (_client, mut stream) = cut_off();
        assert_eq!(stream.write(b"unread").unwrap(), 6);
        let (error, after) = until_given_up(&mut stream);
        assert_eq!(error, std::io::ErrorKind::TimedOut);
        // Without the option the system tries for a quarter of an hour.
        assert!(after >= Duration::from_millis(2500) && after < Duration::from_secs(60), "after {after:?}");
    }
}
