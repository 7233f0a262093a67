//! Attacks by clients that are slow: to speak, to finish, to read.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use prost::Message as _;
use relaymesh::wire::proto;
use relaymesh::wire::proto::{Code, Kind};
use socket2::{Domain, Protocol, Socket, Type};

use crate::attacks::fresh_client;
use crate::support::wire::{Arrival, Wire, frame, hello, payload};
use crate::{HANDSHAKE, STALL};

/// What may pass between a deadline and its effect on a machine that is held up.
const SLACK: Duration = Duration::from_secs(60);
/// Between two bytes of a client that sends them one by one.
const DROP: Duration = Duration::from_millis(200);
/// Clients that act together where it takes many to make memory grow.
const CROWD: usize = 8;
/// How often all of this module's attacks together are closed for not reading.
pub(crate) const CLOSED_SLOW: u64 = 3 + CROWD as u64;

/// Is closed with `code` once `deadline` has passed since `start`, and not before.
fn assert_timed_out(mut wire: Wire, start: Instant, deadline: Duration, code: Code) {
    let (found, _) = wire.ending(deadline + SLACK);
    let after = start.elapsed();
    assert_eq!(found, Some(code));
    assert!(after + Duration::from_millis(100) >= deadline, "closed after {after:?} already");
}

/// Sends one byte of `bytes` after the other until the server closes, which must happen before they are all sent;
/// the code it gave.
fn drip(wire: &mut Wire, bytes: &[u8]) -> Option<Code> {
    let mut farewell = None;
    for byte in bytes.chunks(1) {
        wire.send_bytes(byte);
        let next = Instant::now() + DROP;
        loop {
            match wire.read_until(next) {
                Arrival::Frame(frame) => farewell = frame.farewell().or(farewell),
                Arrival::Closed => return farewell,
                Arrival::Nothing => break,
            }
        }
    }
    panic!("the server listened to {} bytes, one every {DROP:?}", bytes.len());
}

pub(crate) fn silence(server: SocketAddr) {
    let start = Instant::now();
    assert_timed_out(Wire::connect(server), start, HANDSHAKE, Code::HandshakeTimeout);
}

pub(crate) fn half_a_hello(server: SocketAddr) {
    let start = Instant::now();
    let whole = frame(Kind::Hello as u8, &hello(&fresh_client()).encode_to_vec());
    let mut wire = Wire::connect(server);
    wire.send_bytes(&whole[..whole.len() / 2]);
    assert_timed_out(wire, start, HANDSHAKE, Code::HandshakeTimeout);
}

pub(crate) fn hello_in_drops(server: SocketAddr) {
    let start = Instant::now();
    let long = proto::Hello { credential: vec![b'x'; 1000], ..hello(&fresh_client()) };
    let whole = frame(Kind::Hello as u8, &long.encode_to_vec());
    assert!(DROP * whole.len() as u32 > HANDSHAKE + SLACK, "the whole HELLO must come too late");
    let code = drip(&mut Wire::connect(server), &whole);
    assert_eq!(code, Some(Code::HandshakeTimeout));
    assert!(start.elapsed() < HANDSHAKE + SLACK, "closed after {:?}", start.elapsed());
}

/// The shortest heartbeat, so that three of them are over soon.
fn impatient() -> proto::Hello {
    proto::Hello { heartbeat_ms: 500, ..hello(&fresh_client()) }
}

const SILENCE: Duration = Duration::from_millis(1500);

pub(crate) fn silence_after_welcome(server: SocketAddr) {
    let start = Instant::now();
    let (wire, welcome) = Wire::welcome_with(server, &impatient());
    assert_eq!(welcome.heartbeat_ms, 500);
    assert_timed_out(wire, start, SILENCE, Code::HeartbeatMissed);
}

/// Bytes keep coming, whole frames do not: that is silence.
pub(crate) fn frame_in_drops(server: SocketAddr) {
    let start = Instant::now();
    let (mut wire, _) = Wire::welcome_with(server, &impatient());
    let endless = frame(Kind::Publish as u8, &[0; 1000]);
    assert_eq!(drip(&mut wire, &endless), Some(Code::HeartbeatMissed));
    let after = start.elapsed();
    assert!(
        after + Duration::from_millis(100) >= SILENCE && after < SILENCE + SLACK,
        "closed after {after:?}"
    );
}

/// A client that does not read, and finds out by writing that it was closed.
struct Deaf {
    client: String,
    stream: TcpStream,
    start: Instant,
    /// Pings sent, in bytes; an odd number has sent half of one.
    sent: usize,
}

impl Deaf {
    /// Connects with a receive buffer as small as the system allows, so that the server is stuck soon, and says HELLO
    /// and what follows it.
    fn connect(server: SocketAddr, rest: &[u8]) -> Self {
        let socket =
            Socket::new(Domain::for_address(server), Type::STREAM, Some(Protocol::TCP)).expect("a socket");
        socket.set_recv_buffer_size(4096).expect("a receive buffer can be made small");
        socket.connect(&server.into()).expect("the server accepts");
        let mut stream = TcpStream::from(socket);
        let client = fresh_client();
        let mut bytes = frame(Kind::Hello as u8, &hello(&client).encode_to_vec());
        bytes.extend_from_slice(rest);
        stream.write_all(&bytes).expect("the server reads a HELLO");
        stream.set_nonblocking(true).expect("a socket can be made non-blocking");
        Self { client, stream, start: Instant::now(), sent: 0 }
    }

    /// Sends pings of up to `len` bytes, fewer where the server has stopped reading; false once it has closed.
    fn ping(&mut self, len: usize) -> bool {
        let pings = [Kind::Ping as u8, 0].repeat(len / 2 + 1);
        let from = self.sent % 2;
        match self.stream.write(&pings[from..from + len]) {
            Ok(taken) => self.sent += taken,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => {
                let after = self.start.elapsed();
                assert!(after >= STALL, "closed after {after:?} already");
                return false;
            }
        }
        let after = self.start.elapsed();
        assert!(after < STALL + SLACK, "still connected after {after:?}");
        true
    }
}

pub(crate) fn pings_without_reading(server: SocketAddr) {
    let mut deaf = Deaf::connect(server, &[]);
    while deaf.ping(64 * 1024) {
        thread::sleep(Duration::from_millis(1));
    }
}

/// Puts messages on a queue and returns SUBSCRIBE with credit for all of them.
pub(crate) fn backlog(server: SocketAddr, queue: &str, body: &[u8], messages: usize) -> Vec<u8> {
    let (mut publisher, _) = Wire::welcome(server, &fresh_client());
    for _ in 0..messages {
        publisher.publish(queue, &[body]);
    }
    let subscribe = proto::Subscribe {
        seq: 1,
        subscription: 1,
        queue: queue.to_owned(),
        credit_messages: 65_536,
        credit_bytes: 0,
    };
    frame(Kind::Subscribe as u8, &subscribe.encode_to_vec())
}

/// Nothing was lost: comes back as each of `clients` without a token, so that what they had leased is free again, and
/// takes everything from the queue.
fn assert_kept(server: SocketAddr, clients: &[Deaf], queue: &str, body: &[u8], messages: usize) {
    for deaf in clients {
        Wire::welcome(server, &deaf.client);
    }
    let (mut reader, _) = Wire::welcome(server, &fresh_client());
    let mut unanswered = vec![reader.send_subscribe(1, queue, messages as u32)];
    let mut seen = 0;
    while seen < messages || !unanswered.is_empty() {
        let next = reader.next();
        if next.is(Kind::Deliver) {
            let deliveries = next.parse::<proto::Deliver>(Kind::Deliver).deliveries;
            assert!(deliveries.iter().all(|delivery| payload(delivery) == body));
            seen += deliveries.len();
            let leases: Vec<_> = deliveries.iter().filter_map(|delivery| delivery.lease).collect();
            unanswered.push(reader.send_ack(&leases, false));
        } else {
            let reply: proto::Reply = next.parse(Kind::Reply);
            assert_eq!((reply.code(), reply.lost.len()), (Code::Ok, 0), "{reply:?}");
            unanswered.retain(|&seq| seq < reply.seq || seq > reply.seq + u64::from(reply.more));
        }
    }
    assert_eq!(seen, messages);
}

/// Says `rest` after its HELLO, and then nothing but a ping now and then, until it is closed.
fn deaf(server: SocketAddr, rest: &[u8]) -> Deaf {
    let mut deaf = Deaf::connect(server, rest);
    while deaf.ping(2) {
        thread::sleep(Duration::from_millis(50));
    }
    deaf
}

pub(crate) fn deaf_until_closed(server: SocketAddr, rest: &[u8]) {
    deaf(server, rest);
}

pub(crate) fn deliveries_without_reading(server: SocketAddr) {
    let (body, messages) = (vec![7; 128 * 1024], 64);
    let subscribe = backlog(server, "unread", &body, messages);
    let deaf = deaf(server, &subscribe);
    assert_kept(server, &[deaf], "unread", &body, messages);
}

/// Many at once who are sent all that there is, and ask for more.
pub(crate) fn crowd_without_reading(server: SocketAddr) {
    let (body, messages) = (vec![8; 8 * 1024], 2048);
    let subscribe = backlog(server, "crowded", &body, messages);
    let mut crowd: Vec<_> = (0..CROWD).map(|_| Deaf::connect(server, &subscribe)).collect();
    let mut open: Vec<_> = crowd.iter_mut().collect();
    while !open.is_empty() {
        open.retain_mut(|deaf| deaf.ping(64 * 1024));
        thread::sleep(Duration::from_millis(1));
    }
    assert_kept(server, &crowd, "crowded", &body, messages);
}

/// A byte now and then opens no window: to the server it is the same as none.
pub(crate) fn reading_in_drops(server: SocketAddr) {
    let (body, messages) = (vec![9; 128 * 1024], 64);
    let subscribe = backlog(server, "sipped", &body, messages);
    let mut deaf = Deaf::connect(server, &subscribe);
    while deaf.ping(2) {
        let _ = deaf.stream.read(&mut [0]);
        thread::sleep(DROP);
    }
    assert_kept(server, &[deaf], "sipped", &body, messages);
}
