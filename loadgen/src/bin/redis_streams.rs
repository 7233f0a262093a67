//! Redis Streams under the load that `loadgen publish` and `loadgen work` put on RelayMesh: the same connections,
//! the same requests in flight, one message a request. For `benches/redis.sh`.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::{Parser, ValueEnum};
use hdrhistogram::Histogram;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use serde_json::json;

const GROUP: &str = "workers";
const READ_BUFFER_BYTES: usize = 256 * 1024;
const SILENCE_MAX: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// XADD, each message in a command of its own.
    Publish,
    /// XREADGROUP for as many as are wanted, XACK for each in a command of its own.
    Work,
}

#[derive(Debug, Parser)]
#[command(about)]
struct Cli {
    what: What,
    #[arg(long, default_value = "127.0.0.1:6379")]
    connect: SocketAddr,
    #[arg(long, default_value = "load")]
    stream: String,
    #[arg(long, default_value_t = 1_000_000)]
    count: u64,
    #[arg(long, default_value_t = 256)]
    size: usize,
    #[arg(long, default_value_t = 128)]
    in_flight: usize,
    #[arg(long, default_value_t = 1)]
    connections: usize,
    #[arg(long)]
    json: Option<PathBuf>,
}

/// A reply of the server, as far as this program looks at it.
#[derive(Debug, PartialEq)]
enum Reply {
    Error(String),
    Integer(i64),
    Text(Vec<u8>),
    Null,
    Array(Vec<Reply>),
}

/// What an unanswered command was.
enum Asked {
    Add { sent_us: u64 },
    ReadGroup,
    Ack { sent_us: u64 },
}

struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
    output: Vec<u8>,
    asked: VecDeque<Asked>,
    /// Publishes on their way, or messages held and asked for.
    in_flight: usize,
    reading: bool,
}

struct Run {
    cli: Cli,
    payload: Vec<u8>,
    start: Instant,
    sent: u64,
    taken: u64,
    answered: u64,
    delays: Histogram<u64>,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    if cli.what == What::Work {
        make_group(&cli)?;
    }
    let mut poll = Poll::new()?;
    let mut connections = Vec::new();
    for number in 0..cli.connections {
        let stream = std::net::TcpStream::connect(cli.connect).with_context(|| format!("{}", cli.connect))?;
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let mut stream = TcpStream::from_std(stream);
        poll.registry().register(&mut stream, Token(number), Interest::READABLE | Interest::WRITABLE)?;
        connections.push(Connection {
            stream,
            input: Vec::new(),
            output: Vec::new(),
            asked: VecDeque::new(),
            in_flight: 0,
            reading: false,
        });
    }
    let payload = std::iter::repeat_with(|| fastrand::u8(..)).take(cli.size).collect();
    let delays = Histogram::new_with_bounds(1, 600_000_000, 3)?;
    let mut run = Run { cli, payload, start: Instant::now(), sent: 0, taken: 0, answered: 0, delays };
    run.drive(&mut poll, &mut connections)?;
    run.report()
}

/// A consumer group that starts at the stream's first entry; one that is there is used as it is.
fn make_group(cli: &Cli) -> anyhow::Result<()> {
    let mut stream = std::net::TcpStream::connect(cli.connect)?;
    let mut command = Vec::new();
    encode(&mut command, &[b"XGROUP", b"CREATE", cli.stream.as_bytes(), GROUP.as_bytes(), b"0", b"MKSTREAM"]);
    stream.write_all(&command)?;
    let mut answer = [0; 512];
    let read = stream.read(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer[..read]);
    if !answer.starts_with("+OK") && !answer.starts_with("-BUSYGROUP") {
        bail!("XGROUP CREATE: {answer}");
    }
    Ok(())
}

impl Run {
    fn drive(&mut self, poll: &mut Poll, connections: &mut [Connection]) -> anyhow::Result<()> {
        let mut events = Events::with_capacity(1024);
        let mut buffer = vec![0; READ_BUFFER_BYTES];
        self.start = Instant::now();
        for (number, connection) in connections.iter_mut().enumerate() {
            self.fill(number, connection);
            connection.flush()?;
        }
        while self.answered < self.cli.count {
            poll.poll(&mut events, Some(SILENCE_MAX))?;
            if events.is_empty() {
                bail!("nothing was answered for {SILENCE_MAX:?}; {} were before", self.answered);
            }
            for event in &events {
                let number = event.token().0;
                let connection = &mut connections[number];
                if event.is_readable() {
                    self.read(connection, &mut buffer)?;
                    self.fill(number, connection);
                }
                connection.flush()?;
            }
        }
        Ok(())
    }

    fn now_us(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }

    /// Sends what the window allows.
    fn fill(&mut self, number: usize, connection: &mut Connection) {
        let sent_us = self.now_us();
        let stream = self.cli.stream.as_bytes();
        match self.cli.what {
            What::Publish => {
                while connection.in_flight < self.cli.in_flight && self.sent < self.cli.count {
                    encode(&mut connection.output, &[b"XADD", stream, b"*", b"m", &self.payload]);
                    connection.asked.push_back(Asked::Add { sent_us });
                    connection.in_flight += 1;
                    self.sent += 1;
                }
            }
            What::Work => {
                let room = self.cli.in_flight - connection.in_flight;
                if connection.reading || room * 2 < self.cli.in_flight || self.taken >= self.cli.count {
                    return;
                }
                let (consumer, room) = (format!("c{number}"), room.to_string());
                let parts: [&[u8]; 9] = [
                    b"XREADGROUP",
                    b"GROUP",
                    GROUP.as_bytes(),
                    consumer.as_bytes(),
                    b"COUNT",
                    room.as_bytes(),
                    b"STREAMS",
                    stream,
                    b">",
                ];
                encode(&mut connection.output, &parts);
                connection.asked.push_back(Asked::ReadGroup);
                connection.reading = true;
            }
        }
    }

    fn read(&mut self, connection: &mut Connection, buffer: &mut [u8]) -> anyhow::Result<()> {
        loop {
            match connection.stream.read(buffer) {
                Ok(0) => bail!("the server closed the connection"),
                Ok(read) => connection.input.extend_from_slice(&buffer[..read]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        let input = std::mem::take(&mut connection.input);
        let mut rest = &input[..];
        while let Some((reply, after)) = parse(rest)? {
            rest = after;
            self.answer(connection, reply)?;
        }
        connection.input = rest.to_vec();
        Ok(())
    }

    fn answer(&mut self, connection: &mut Connection, reply: Reply) -> anyhow::Result<()> {
        if let Reply::Error(text) = &reply {
            bail!("the server says: {text}");
        }
        let asked = connection.asked.pop_front().context("an answer nobody asked for")?;
        let now_us = self.now_us();
        match asked {
            Asked::Add { sent_us } | Asked::Ack { sent_us } => {
                self.delays.saturating_record((now_us - sent_us).max(1));
                self.answered += 1;
                connection.in_flight -= 1;
            }
            Asked::ReadGroup => {
                connection.reading = false;
                for id in ids(reply) {
                    let stream = self.cli.stream.as_bytes();
                    encode(&mut connection.output, &[b"XACK", stream, GROUP.as_bytes(), &id]);
                    connection.asked.push_back(Asked::Ack { sent_us: now_us });
                    connection.in_flight += 1;
                    self.taken += 1;
                }
            }
        }
        Ok(())
    }

    fn report(&self) -> anyhow::Result<()> {
        let elapsed = self.start.elapsed();
        let per_s = self.answered as f64 / elapsed.as_secs_f64();
        let at = |quantile| self.delays.value_at_quantile(quantile);
        println!("{} answered in {:.3} s: {per_s:.0} a second", self.answered, elapsed.as_secs_f64());
        println!("delay in us: p50 {}  p99 {}  max {}", at(0.5), at(0.99), self.delays.max());
        if let Some(path) = &self.cli.json {
            let latency = json!({"p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "p999": at(0.999), "max": self.delays.max()});
            let result = json!({"per_s": per_s, "latency_us": latency});
            std::fs::write(path, serde_json::to_string_pretty(&result)? + "\n")?;
        }
        Ok(())
    }
}

impl Connection {
    fn flush(&mut self) -> io::Result<()> {
        let mut sent = 0;
        while sent < self.output.len() {
            match self.stream.write(&self.output[sent..]) {
                Ok(bytes) => sent += bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        self.output.drain(..sent);
        Ok(())
    }
}

fn encode(out: &mut Vec<u8>, parts: &[&[u8]]) {
    out.extend_from_slice(format!("*{}\r\n", parts.len()).as_bytes());
    for part in parts {
        out.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
        out.extend_from_slice(part);
        out.extend_from_slice(b"\r\n");
    }
}

/// The first reply in `bytes` and what follows it; `None` when it is not whole yet.
fn parse(bytes: &[u8]) -> anyhow::Result<Option<(Reply, &[u8])>> {
    let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
    let (line, after) = (&bytes[..end], &bytes[end + 2..]);
    let Some((kind, line)) = line.split_first() else { bail!("an empty line from the server") };
    let number = || std::str::from_utf8(line)?.parse::<i64>().context("a number from the server");
    Ok(match kind {
        b'+' => Some((Reply::Text(line.to_vec()), after)),
        b'-' => Some((Reply::Error(String::from_utf8_lossy(line).into_owned()), after)),
        b':' => Some((Reply::Integer(number()?), after)),
        b'$' => match usize::try_from(number()?) {
            Err(_) => Some((Reply::Null, after)),
            Ok(len) if after.len() < len + 2 => None,
            Ok(len) => Some((Reply::Text(after[..len].to_vec()), &after[len + 2..])),
        },
        b'*' => {
            let Ok(len) = usize::try_from(number()?) else { return Ok(Some((Reply::Null, after))) };
            let (mut items, mut rest) = (Vec::with_capacity(len.min(1024)), after);
            for _ in 0..len {
                let Some((item, after)) = parse(rest)? else { return Ok(None) };
                items.push(item);
                rest = after;
            }
            Some((Reply::Array(items), rest))
        }
        other => bail!("a reply of kind {:?}", char::from(*other)),
    })
}

/// The entry ids of an XREADGROUP reply: one stream, each entry an id and its fields.
fn ids(reply: Reply) -> Vec<Vec<u8>> {
    let Reply::Array(streams) = reply else { return Vec::new() };
    let mut ids = Vec::new();
    for stream in streams {
        let Reply::Array(mut parts) = stream else { continue };
        let Some(Reply::Array(entries)) = parts.pop() else { continue };
        for entry in entries {
            if let Reply::Array(mut fields) = entry
                && let Reply::Text(id) = fields.swap_remove(0)
            {
                ids.push(id);
            }
        }
    }
    ids
}
