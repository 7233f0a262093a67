//! A client of the wire protocol written from `proto/` alone, as someone in another language would: only the
//! generated messages are shared with the server, not its framing.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use prost::Message as _;
use relaymesh::wire::proto;
use relaymesh::wire::proto::{Code, Kind};

use super::PATIENCE;

/// The flag of a compressed payload.
pub(crate) const COMPRESSED: u8 = 0x80;

/// A frame as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    /// The first byte without its flags.
    pub(crate) kind: u8,
    /// The payload.
    pub(crate) payload: Vec<u8>,
}

/// What a read ended with.
#[derive(Debug)]
pub(crate) enum Arrival {
    /// A whole frame.
    Frame(Frame),
    /// The server closed, in order or by a reset.
    Closed,
    /// Nothing whole within the time given.
    Nothing,
}

/// One connection.
pub(crate) struct Wire {
    stream: TcpStream,
    received: Vec<u8>,
    next_seq: u64,
}

/// Bytes of one frame.
pub(crate) fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend(varint(payload.len() as u64));
    bytes.extend_from_slice(payload);
    bytes
}

/// An unsigned LEB128 number in its shortest form.
pub(crate) fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// HELLO of `client` in the default namespace, with so long a heartbeat that no test is taken for dead while it is held
/// up.
pub(crate) fn hello(client: &str) -> proto::Hello {
    let heartbeat_ms = 3_600_000;
    let client_id = client.to_owned();
    proto::Hello { version_min: 1, version_max: 1, client_id, heartbeat_ms, ..Default::default() }
}

/// An encoded Message around a payload.
pub(crate) fn message(payload: &[u8]) -> Vec<u8> {
    proto::Message { payload: payload.to_vec(), ..Default::default() }.encode_to_vec()
}

impl Frame {
    /// The payload as message `M`, after checking the kind.
    pub(crate) fn parse<M: prost::Message + Default>(&self, kind: Kind) -> M {
        assert_eq!(i32::from(self.kind), kind as i32, "expected {kind:?}: {}", self.describe());
        M::decode(&self.payload[..]).expect("a payload of its kind")
    }

    /// Whether it is of this kind.
    pub(crate) fn is(&self, kind: Kind) -> bool {
        i32::from(self.kind) == kind as i32
    }

    /// For a failed test: what the frame says.
    pub(crate) fn describe(&self) -> String {
        match Kind::try_from(i32::from(self.kind)) {
            Ok(Kind::Error) => format!("{:?}", proto::Error::decode(&self.payload[..])),
            Ok(Kind::Reject) => format!("{:?}", proto::Reject::decode(&self.payload[..])),
            Ok(Kind::Goaway) => format!("{:?}", proto::GoAway::decode(&self.payload[..])),
            Ok(kind) => format!("{kind:?} of {} bytes", self.payload.len()),
            Err(_) => format!("kind {} of {} bytes", self.kind, self.payload.len()),
        }
    }

    /// The code of the frames that end a connection: REJECT, GOAWAY and ERROR.
    pub(crate) fn farewell(&self) -> Option<Code> {
        let code = match Kind::try_from(i32::from(self.kind)).ok()? {
            Kind::Error => proto::Error::decode(&self.payload[..]).ok()?.code,
            Kind::Reject => proto::Reject::decode(&self.payload[..]).ok()?.code,
            Kind::Goaway => proto::GoAway::decode(&self.payload[..]).ok()?.code,
            _ => return None,
        };
        Code::try_from(code).ok()
    }
}

impl Wire {
    /// Connects and says nothing yet.
    pub(crate) fn connect(server: SocketAddr) -> Self {
        Self::try_connect(server).expect("the server accepts")
    }

    /// Connects if someone listens.
    pub(crate) fn try_connect(server: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect_timeout(&server, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream, received: Vec::new(), next_seq: 1 })
    }

    /// Connects as `client` and is welcomed.
    pub(crate) fn welcome(server: SocketAddr, client: &str) -> (Self, proto::Welcome) {
        Self::welcome_with(server, &hello(client))
    }

    /// Connects with this HELLO and is welcomed.
    pub(crate) fn welcome_with(server: SocketAddr, hello: &proto::Hello) -> (Self, proto::Welcome) {
        let mut wire = Self::connect(server);
        wire.send(Kind::Hello, hello);
        let welcome = wire.expect(Kind::Welcome);
        (wire, welcome)
    }

    /// As if the wire were cut: the client's system drops what arrives before it sees it. The client itself must say
    /// nothing meanwhile.
    #[cfg(target_os = "linux")]
    pub(crate) fn cut_off(&self) {
        // BPF: return 0, that is, keep nothing.
        let nothing = socket2::SockFilter::new(6, 0, 0, 0);
        socket2::SockRef::from(&self.stream).attach_filter(&[nothing]).expect("a filter can be attached");
    }

    /// What was sent and the server's system has not acknowledged; `None` when the connection was missed in a list that
    /// changes while it is read.
    #[cfg(target_os = "linux")]
    pub(crate) fn unacknowledged_bytes(&self) -> Option<u64> {
        let port_of = |address: std::io::Result<SocketAddr>| {
            format!(":{:04X}", address.expect("it is connected").port())
        };
        // Other connections may have the same port to other places.
        let (own, peer) = (port_of(self.stream.local_addr()), port_of(self.stream.peer_addr()));
        let sockets = std::fs::read_to_string("/proc/net/tcp").expect("the system tells of its sockets");
        // Its number, its address, its peer's, its state, and then what is to be sent and to be read, in hexadecimal.
        let mut rows = sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let row = rows.find(|row| row[1].ends_with(&own) && row[2].ends_with(&peer));
        row.map(|row| u64::from_str_radix(&row[4][..8], 16).expect("a number of bytes"))
    }

    /// Undoes [`Wire::cut_off`].
    #[cfg(target_os = "linux")]
    pub(crate) fn restore(&self) {
        socket2::SockRef::from(&self.stream).detach_filter().expect("a filter can be detached");
    }

    /// Ends the connection with a reset, as a host does that knows nothing of it.
    pub(crate) fn reset(self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).expect("a socket can linger");
    }

    /// Its stream, for another thread to send on.
    pub(crate) fn sender(&self) -> TcpStream {
        self.stream.try_clone().expect("a socket can be shared")
    }

    /// Sends bytes as they are; whether the server still took them.
    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// Sends one frame; whether the server still took it.
    pub(crate) fn send(&mut self, kind: Kind, payload: &impl prost::Message) -> bool {
        self.send_bytes(&frame(kind as u8, &payload.encode_to_vec()))
    }

    /// The next request's `seq`.
    pub(crate) fn seq(&mut self) -> u64 {
        self.next_seq += 1;
        self.next_seq - 1
    }

    /// The next frame, the end, or nothing until `deadline`.
    pub(crate) fn read_until(&mut self, deadline: Instant) -> Arrival {
        loop {
            if let Some(frame) = self.take_frame() {
                return Arrival::Frame(frame);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Arrival::Nothing;
            }
            self.stream.set_read_timeout(Some(left)).expect("a timeout that is not zero");
            let mut chunk = [0; 64 * 1024];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Arrival::Closed,
                Ok(length) => self.received.extend_from_slice(&chunk[..length]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Arrival::Nothing;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Arrival::Closed,
            }
        }
    }

    fn take_frame(&mut self) -> Option<Frame> {
        let (mut length, mut at) = (0_usize, 1);
        loop {
            let byte = *self.received.get(at)?;
            length |= usize::from(byte & 0x7f) << (7 * (at - 1));
            at += 1;
            if byte & 0x80 == 0 {
                break;
            }
            assert!(at <= 4, "a length of more than 4 bytes");
        }
        if self.received.len() < at + length {
            return None;
        }
        assert_eq!(self.received[0] & 0xC0, 0, "no flag was agreed on");
        let frame = Frame { kind: self.received[0], payload: self.received[at..at + length].to_vec() };
        self.received.drain(..at + length);
        Some(frame)
    }

    /// The next frame; panics when the server closes or is silent.
    pub(crate) fn next(&mut self) -> Frame {
        match self.read_until(Instant::now() + PATIENCE) {
            Arrival::Frame(frame) => frame,
            Arrival::Closed => panic!("the server closed instead of answering"),
            Arrival::Nothing => panic!("the server is silent"),
        }
    }

    /// The next frame as message `M`.
    pub(crate) fn expect<M: prost::Message + Default>(&mut self, kind: Kind) -> M {
        self.next().parse(kind)
    }

    /// The code of the last frame, if the connection ends within `time`.
    pub(crate) fn farewell_within(&mut self, time: Duration) -> Option<Code> {
        let (deadline, mut farewell) = (Instant::now() + time, None);
        loop {
            match self.read_until(deadline) {
                Arrival::Frame(frame) => farewell = frame.farewell().or(farewell),
                Arrival::Closed => return farewell,
                _ => return None,
            }
        }
    }

    /// Reads to the end of the connection: the code of its last frame (`None` when it had none that says one)
    /// and how long the end took; panics when it does not come within `patience`.
    pub(crate) fn ending(&mut self, patience: Duration) -> (Option<Code>, Duration) {
        let start = Instant::now();
        let mut farewell = None;
        loop {
            match self.read_until(start + patience) {
                Arrival::Frame(frame) => farewell = frame.farewell().or(farewell),
                Arrival::Closed => return (farewell, start.elapsed()),
                Arrival::Nothing => panic!("still open after {patience:?}; its last word was {farewell:?}"),
            }
        }
    }

    /// An empty ping and its answer; frames that come in between are dropped.
    pub(crate) fn ping(&mut self) -> Duration {
        let start = Instant::now();
        self.send_bytes(&[Kind::Ping as u8, 0]);
        while !self.next().is(Kind::Pong) {}
        start.elapsed()
    }

    /// Publishes without waiting.
    pub(crate) fn send_publish(&mut self, queue: &str, payloads: &[&[u8]]) -> u64 {
        let seq = self.seq();
        let messages = payloads.iter().map(|payload| message(payload)).collect();
        self.send(
            Kind::Publish,
            &proto::Publish { seq, queue: queue.to_owned(), messages, ..Default::default() },
        );
        seq
    }

    /// Publishes and returns the first id.
    pub(crate) fn publish(&mut self, queue: &str, payloads: &[&[u8]]) -> u64 {
        let seq = self.send_publish(queue, payloads);
        let ack: proto::PublishAck = self.expect(Kind::PublishAck);
        assert_eq!((ack.seq, ack.messages as usize, ack.refusal), (seq, payloads.len(), None));
        ack.first_id
    }

    /// Subscribes with message credit; the caller reads the REPLY.
    pub(crate) fn send_subscribe(&mut self, subscription: u32, queue: &str, credit_messages: u32) -> u64 {
        let seq = self.seq();
        let queue = queue.to_owned();
        let subscribe = proto::Subscribe { seq, subscription, queue, credit_messages, credit_bytes: 0 };
        self.send(Kind::Subscribe, &subscribe);
        seq
    }

    /// Subscribes and reads the REPLY.
    pub(crate) fn subscribe(&mut self, subscription: u32, queue: &str, credit_messages: u32) {
        let seq = self.send_subscribe(subscription, queue, credit_messages);
        self.expect_ok(seq);
    }

    /// The next frame is a REPLY that `seq` went well.
    pub(crate) fn expect_ok(&mut self, seq: u64) {
        let reply: proto::Reply = self.expect(Kind::Reply);
        assert!(reply.seq <= seq && seq <= reply.seq + u64::from(reply.more), "{reply:?} answers {seq}");
        assert_eq!((reply.code(), reply.lost.len()), (Code::Ok, 0), "{reply:?}");
    }

    /// The next `count` deliveries, whatever frames they come in.
    pub(crate) fn deliveries(&mut self, count: usize) -> Vec<proto::Delivery> {
        let mut deliveries = Vec::new();
        while deliveries.len() < count {
            deliveries.extend(self.expect::<proto::Deliver>(Kind::Deliver).deliveries);
        }
        assert_eq!(deliveries.len(), count, "no more than asked for");
        deliveries
    }

    /// Whether a delivery comes within `time`.
    pub(crate) fn delivery_within(&mut self, time: Duration) -> Option<proto::Delivery> {
        match self.read_until(Instant::now() + time) {
            Arrival::Frame(frame) => {
                frame.parse::<proto::Deliver>(Kind::Deliver).deliveries.into_iter().next()
            }
            Arrival::Closed => panic!("the server closed"),
            Arrival::Nothing => None,
        }
    }

    /// Acks without waiting.
    pub(crate) fn send_ack(&mut self, leases: &[proto::Lease], replenish: bool) -> u64 {
        let seq = self.seq();
        self.send(Kind::Ack, &proto::Ack { seq, leases: leases.to_vec(), replenish });
        seq
    }

    /// Acks and returns the leases that were lost.
    pub(crate) fn ack(&mut self, leases: &[proto::Lease]) -> Vec<proto::Lease> {
        let seq = self.send_ack(leases, false);
        let reply: proto::Reply = self.expect(Kind::Reply);
        assert_eq!(reply.seq, seq, "{reply:?}");
        reply.lost
    }
}

/// The payload of a delivered message.
pub(crate) fn payload(delivery: &proto::Delivery) -> Vec<u8> {
    proto::Message::decode(&delivery.message[..]).expect("a delivered Message").payload
}
