//! NATS JetStream: the core protocol, one stream whose subject is the queue's name, one pull consumer.
//!
//! Answers come to subjects below the connection's inbox: `p` to a publish, `a` to an ack, `d` where a request for
//! messages ends otherwise than with them.

use std::io::{BufRead, Write};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

use super::{Heard, Protocol, What, line, number};
use crate::stamp;

const CONSUMER: &str = "workers";
const CONNECT: &str = r#"CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true}"#;
/// How long a message may be worked on, and how long a request for messages waits, in nanoseconds.
const ACK_WAIT_NS: u64 = 120_000_000_000;
const EXPIRES_NS: u64 = 600_000_000_000;
/// Messages that all connections together may hold; its default of 1,000 would hold up 50 connections of 1,024.
const ACK_PENDING_MAX: u32 = 65_536;

/// One connection.
pub(super) struct Nats {
    subject: String,
    inbox: String,
}

/// One message of the server's.
#[derive(Debug, PartialEq, Eq)]
struct Incoming<'a> {
    subject: &'a [u8],
    reply: &'a [u8],
    /// Its first line, where it has headers.
    status: Option<&'a [u8]>,
    payload: &'a [u8],
}

impl Nats {
    pub(super) fn new(subject: &str, number: usize) -> Self {
        let inbox = format!("_INBOX.{:016x}{number:x}", fastrand::u64(..));
        Self { subject: subject.to_owned(), inbox }
    }

    fn incoming(&self, message: &Incoming<'_>, heard: &mut Heard, out: &mut Vec<u8>) -> anyhow::Result<()> {
        let text = || String::from_utf8_lossy(message.status.unwrap_or(message.payload)).into_owned();
        let answered = message.subject.strip_prefix(self.inbox.as_bytes());
        match answered {
            // Only answers that are refusals have an "error".
            Some(b".p") if message.status.is_none() && message.payload.starts_with(br#"{"stream"#) => {
                heard.published += 1;
            }
            Some(b".a") if message.status.is_none() => heard.acked += 1,
            None if message.subject == self.subject.as_bytes() => {
                heard.delivered.push(stamp::stamp_in(message.payload));
                out.extend_from_slice(b"PUB ");
                out.extend_from_slice(message.reply);
                // Writing to memory does not fail.
                let _ = write!(out, " {}.a 4\r\n+ACK\r\n", self.inbox);
            }
            _ => bail!("the server says: {}", text()),
        }
        Ok(())
    }
}

impl Protocol for Nats {
    fn greet(&mut self, _what: What, out: &mut Vec<u8>) {
        let _ = write!(out, "{CONNECT}\r\nSUB {}.* 1\r\n", self.inbox);
    }

    fn publish(&mut self, payload: &[u8], out: &mut Vec<u8>) {
        let _ = write!(out, "PUB {} {}.p {}\r\n", self.subject, self.inbox, payload.len());
        out.extend_from_slice(payload);
        out.extend_from_slice(b"\r\n");
    }

    fn ask(&mut self, room: usize, out: &mut Vec<u8>) {
        let request = format!(r#"{{"batch":{room},"expires":{EXPIRES_NS}}}"#);
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{}.{CONSUMER}", self.subject);
        let _ = write!(out, "PUB {subject} {}.d {}\r\n{request}\r\n", self.inbox, request.len());
    }

    fn hear(&mut self, input: &[u8], heard: &mut Heard, out: &mut Vec<u8>) -> anyhow::Result<usize> {
        let mut rest = input;
        while let Some((said, after)) = line(rest) {
            rest = after;
            if said == b"PING" {
                out.extend_from_slice(b"PONG\r\n");
            } else if said.starts_with(b"-ERR") {
                bail!("the server says: {}", String::from_utf8_lossy(said));
            } else if let Some((message, after)) = message(said, after)? {
                self.incoming(&message, heard, out)?;
                rest = after;
            } else if said.starts_with(b"MSG ") || said.starts_with(b"HMSG ") {
                return Ok(input.len() - after.len() - said.len() - 2);
            }
        }
        Ok(input.len() - rest.len())
    }
}

/// The message that `said` announces and what follows it; `None` when it is none, or not whole yet.
fn message<'a>(said: &'a [u8], after: &'a [u8]) -> anyhow::Result<Option<(Incoming<'a>, &'a [u8])>> {
    let words: Vec<&[u8]> = said.split(|&byte| byte == b' ').collect();
    let (subject, reply, headers, bytes) = match words[..] {
        [b"MSG", subject, _, bytes] => (subject, &[][..], 0, number(bytes)?),
        [b"MSG", subject, _, reply, bytes] => (subject, reply, 0, number(bytes)?),
        [b"HMSG", subject, _, headers, bytes] => (subject, &[][..], number(headers)?, number(bytes)?),
        [b"HMSG", subject, _, reply, headers, bytes] => (subject, reply, number(headers)?, number(bytes)?),
        _ => return Ok(None),
    };
    if after.len() < bytes + 2 {
        return Ok(None);
    }
    ensure!(headers <= bytes, "a message whose headers are longer than itself");
    let (headers, payload) = after[..bytes].split_at(headers);
    let status = line(headers).map(|(first, _)| first);
    Ok(Some((Incoming { subject, reply, status, payload }, &after[bytes + 2..])))
}

/// The stream and its consumer.
pub(super) fn prepare(
    requests: &mut impl Write,
    answers: &mut impl BufRead,
    queue: &str,
) -> anyhow::Result<()> {
    write!(requests, "{CONNECT}\r\nSUB _INBOX.prepare 1\r\n")?;
    let stream = json!({"name": queue, "subjects": [queue], "storage": "file", "num_replicas": 1});
    ask(requests, answers, &format!("$JS.API.STREAM.CREATE.{queue}"), &stream)?;
    let consumer = json!({"stream_name": queue, "config": {
        "durable_name": CONSUMER,
        "deliver_policy": "all",
        "ack_policy": "explicit",
        "ack_wait": ACK_WAIT_NS,
        "max_ack_pending": ACK_PENDING_MAX,
    }});
    ask(requests, answers, &format!("$JS.API.CONSUMER.CREATE.{queue}.{CONSUMER}"), &consumer)
}

fn ask(
    requests: &mut impl Write,
    answers: &mut impl BufRead,
    subject: &str,
    request: &Value,
) -> anyhow::Result<()> {
    let request = request.to_string();
    write!(requests, "PUB {subject} _INBOX.prepare {}\r\n{request}\r\n", request.len())?;
    requests.flush()?;
    let mut said = String::new();
    loop {
        said.clear();
        ensure!(answers.read_line(&mut said)? > 0, "the server closed the connection");
        ensure!(!said.starts_with("-ERR") && !said.starts_with("HMSG"), "{subject}: {}", said.trim_end());
        if said.starts_with("MSG ") {
            break;
        }
    }
    let bytes = said.rsplit(' ').next().context("an answer without a length")?;
    let mut answer = vec![0; number(bytes.as_bytes())? + 2];
    answers.read_exact(&mut answer)?;
    let answer: Value = serde_json::from_slice(&answer)?;
    ensure!(answer.get("error").is_none(), "{subject}: {}", answer["error"]);
    Ok(())
}
