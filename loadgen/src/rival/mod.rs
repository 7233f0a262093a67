//! The same load on other queue servers, for comparisons: Redis Streams, beanstalkd, NATS JetStream.
//!
//! Every server gets what `publish` and `work` give RelayMesh: the same connections, the same number in flight, one
//! message a request, one answer a message, and the clock stops at the last answer. [`client`] opens the connections,
//! keeps the window full and measures; a [`Protocol`] a server writes its requests and reads its answers. Where a server
//! offers several ways, its fastest is taken that still answers for each message:
//!
//! | server | publish | lease and ack |
//! |---|---|---|
//! | Redis | XADD | XREADGROUP BLOCK for as many as are wanted, XACK for each; entries stay in the stream, deleting them would cost more |
//! | beanstalkd | put | reserve and delete, pipelined: it has no reserve of several |
//! | NATS | PUB to a stream's subject with a reply inbox, answered by its PubAck; without a message id, so without deduplication | one pull request for as many as are wanted; `+ACK` of each with a reply inbox, the only kind of ack that is answered at all. The stream keeps what was acked (`limits`), which costs less than taking it out |

mod beanstalkd;
mod client;
mod nats;
mod redis;

use std::io::{BufReader, BufWriter};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::ValueEnum;
use serde_json::json;

use crate::options::{Load, Target};
use crate::report::Report;
use crate::server::{Process, ServerCpu};
use crate::stamp::STAMP_BYTES;

use client::Run;

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Server {
    /// A stream and a consumer group.
    Redis,
    /// A tube.
    Beanstalkd,
    /// A stream of JetStream and a pull consumer.
    Nats,
}

/// What the connections do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// Publish, each message in a request of its own.
    Publish,
    /// Lease and ack, each message with an ack of its own.
    Work,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The server at --connect.
    server: Server,
    /// What to do there.
    what: What,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    load: Load,
    /// Bytes of each payload.
    #[arg(long, default_value_t = 256, value_name = "BYTES")]
    size: usize,
    /// Publishes a second over all connections, delays counted from when each was due; as fast as it goes if not set. Each
    /// payload of 16 bytes or more tells when, so that `work` reports how long it was under way.
    #[arg(long, value_name = "PER_S")]
    rate: Option<u32>,
}

/// A connection's side of a server's protocol: writes requests, reads answers. Answers to publishes and to acks come in
/// the order of their requests.
trait Protocol {
    /// What is said first; [`Protocol::hear`] passes over the answer.
    fn greet(&mut self, _what: What, _out: &mut Vec<u8>) {}

    /// One message to the queue.
    fn publish(&mut self, payload: &[u8], out: &mut Vec<u8>);

    /// Asks for up to `room` messages, waiting for the first if there is none.
    fn ask(&mut self, room: usize, out: &mut Vec<u8>);

    /// Whether a request for messages holds up whatever is sent behind it until it is answered.
    fn asks_once(&self) -> bool {
        false
    }

    /// Takes the whole answers at the beginning of `input` and returns their length; what came is added to `heard`, and
    /// the ack of each message that came to `out`.
    ///
    /// # Errors
    /// When the server refuses something, or says what it should not.
    fn hear(&mut self, input: &[u8], heard: &mut Heard, out: &mut Vec<u8>) -> anyhow::Result<usize>;
}

/// What answers said.
#[derive(Debug, Default, PartialEq, Eq)]
struct Heard {
    /// Publishes the server has.
    published: usize,
    /// Acks the server has.
    acked: usize,
    /// For each message that came, when its payload says it was due, on [`crate::stamp::now_us`].
    delivered: Vec<Option<u64>>,
    /// All that was asked for before has been answered, with however few messages.
    is_ask_over: bool,
}

impl Server {
    fn protocol(self, queue: &str, number: usize) -> Box<dyn Protocol> {
        match self {
            Self::Redis => Box::new(redis::Redis::new(queue, number)),
            Self::Beanstalkd => Box::new(beanstalkd::Beanstalkd::new(queue)),
            Self::Nats => Box::new(nats::Nats::new(queue, number)),
        }
    }

    /// Makes what the server needs before the first message: a group, a stream, a consumer. What is there already stays.
    fn prepare(self, to: SocketAddr, queue: &str) -> anyhow::Result<()> {
        let stream = TcpStream::connect(to).with_context(|| format!("cannot connect to {to}"))?;
        let (mut answers, mut requests) = (BufReader::new(stream.try_clone()?), BufWriter::new(stream));
        match self {
            Self::Redis => redis::prepare(&mut requests, &mut answers, queue),
            Self::Beanstalkd => Ok(()),
            Self::Nats => nats::prepare(&mut requests, &mut answers, queue),
        }
    }
}

/// The first line of `input` without its end, and what follows it; `None` when it is not whole yet.
fn line(input: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = input.iter().position(|&byte| byte == b'\n')?;
    Some((input[..end].strip_suffix(b"\r").unwrap_or(&input[..end]), &input[end + 1..]))
}

/// A number of the server's.
fn number(text: &[u8]) -> anyhow::Result<usize> {
    let text = std::str::from_utf8(text).context("a number from the server")?;
    text.trim().parse().with_context(|| format!("a number from the server, but it says {text:?}"))
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Report> {
    let Args { server, what, target, load, size, rate } = args;
    load.check()?;
    ensure!(rate != &Some(0), "--rate must be at least 1");
    ensure!(
        rate.is_none() || *size >= STAMP_BYTES,
        "with --rate, --size must be at least {STAMP_BYTES}: each payload tells when it was due"
    );
    server.prepare(target.connect, load.queue.as_str())?;
    let mut run = Run::open(args)?;
    let cpu = ServerCpu::start(Process::of(target).as_ref())?;
    let elapsed = Duration::from_micros(run.drive()?);
    let name = match what {
        What::Publish => "publishes answered",
        What::Work => "leases acked and answered",
    };
    let mut report = Report::new(target, name, run.answered, elapsed, &run.delays);
    report.server_cpu(cpu, run.answered, "a message")?;
    report.set("connections", json!(load.connections));
    report.set("in_flight", json!(load.in_flight));
    report.set("size", json!(size));
    report.set("latency_from", json!(if rate.is_some() { "due" } else { "sent" }));
    if run.under_way.count() > 0 {
        report.say(format!("from when a publish was due to its delivery, us: {}", run.under_way.to_line()));
        report.set("delivery_us", run.under_way.to_json());
    }
    Ok(report)
}

#[cfg(test)]
mod tests;
