//! Redis Streams: RESP, one stream, one consumer group.

use std::io::{BufRead, Write};

use anyhow::{Context, bail, ensure};

use super::{Heard, Protocol, line};
use crate::stamp;

const GROUP: &[u8] = b"workers";

/// What an unanswered command was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Add,
    Read,
    Ack,
}

/// A reply, as far as this program looks at it.
#[derive(Debug, PartialEq, Eq)]
enum Reply<'a> {
    Error(&'a [u8]),
    /// A status, a number or a string.
    Text(&'a [u8]),
    Null,
    Array(Vec<Reply<'a>>),
}

/// One connection.
pub(super) struct Redis {
    stream: String,
    consumer: String,
    asked: std::collections::VecDeque<Asked>,
}

impl Redis {
    pub(super) fn new(stream: &str, number: usize) -> Self {
        let (stream, consumer) = (stream.to_owned(), format!("c{number}"));
        Self { stream, consumer, asked: std::collections::VecDeque::new() }
    }
}

impl Protocol for Redis {
    fn publish(&mut self, payload: &[u8], out: &mut Vec<u8>) {
        encode(out, &[b"XADD", self.stream.as_bytes(), b"*", b"m", payload]);
        self.asked.push_back(Asked::Add);
    }

    fn ask(&mut self, room: usize, out: &mut Vec<u8>) {
        let room = room.to_string();
        let (consumer, stream) = (self.consumer.as_bytes(), self.stream.as_bytes());
        let group = [b"XREADGROUP", b"GROUP".as_slice(), GROUP, consumer];
        let which = [b"COUNT", room.as_bytes(), b"BLOCK", b"0", b"STREAMS", stream, b">"];
        encode(out, &[&group[..], &which].concat());
        self.asked.push_back(Asked::Read);
    }

    fn asks_once(&self) -> bool {
        true
    }

    fn hear(&mut self, input: &[u8], heard: &mut Heard, out: &mut Vec<u8>) -> anyhow::Result<usize> {
        let mut rest = input;
        while let Some((reply, after)) = parse(rest)? {
            rest = after;
            if let Reply::Error(text) = &reply {
                bail!("the server says: {}", String::from_utf8_lossy(text));
            }
            match self.asked.pop_front().context("an answer nobody asked for")? {
                Asked::Add => heard.published += 1,
                Asked::Ack => heard.acked += 1,
                Asked::Read => {
                    for (id, payload) in entries(&reply) {
                        heard.delivered.push(stamp::stamp_in(payload));
                        encode(out, &[b"XACK", self.stream.as_bytes(), GROUP, id]);
                        self.asked.push_back(Asked::Ack);
                    }
                    heard.is_ask_over = true;
                }
            }
        }
        Ok(input.len() - rest.len())
    }
}

/// A consumer group that starts at the stream's first entry.
pub(super) fn prepare(
    requests: &mut impl Write,
    answers: &mut impl BufRead,
    stream: &str,
) -> anyhow::Result<()> {
    let mut command = Vec::new();
    encode(&mut command, &[b"XGROUP", b"CREATE", stream.as_bytes(), GROUP, b"0", b"MKSTREAM"]);
    requests.write_all(&command)?;
    requests.flush()?;
    let mut answer = String::new();
    answers.read_line(&mut answer)?;
    let is_there = answer.starts_with("+OK") || answer.starts_with("-BUSYGROUP");
    ensure!(is_there, "XGROUP CREATE: {}", answer.trim_end());
    Ok(())
}

fn encode(out: &mut Vec<u8>, parts: &[&[u8]]) {
    // Writing to memory does not fail.
    let _ = write!(out, "*{}\r\n", parts.len());
    for part in parts {
        let _ = write!(out, "${}\r\n", part.len());
        out.extend_from_slice(part);
        out.extend_from_slice(b"\r\n");
    }
}

/// The first reply in `input` and what follows it; `None` when it is not whole yet.
fn parse(input: &[u8]) -> anyhow::Result<Option<(Reply<'_>, &[u8])>> {
    let Some((line, after)) = line(input) else { return Ok(None) };
    let Some((kind, text)) = line.split_first() else { bail!("an empty line from the server") };
    // Negative where there is nothing.
    let length = || if text.starts_with(b"-") { Ok(None) } else { super::number(text).map(Some) };
    Ok(match kind {
        b'+' | b':' => Some((Reply::Text(text), after)),
        b'-' => Some((Reply::Error(text), after)),
        b'$' => match length()? {
            None => Some((Reply::Null, after)),
            Some(length) if after.len() < length + 2 => None,
            Some(length) => Some((Reply::Text(&after[..length]), &after[length + 2..])),
        },
        b'*' => {
            let Some(length) = length()? else { return Ok(Some((Reply::Null, after))) };
            let (mut items, mut rest) = (Vec::with_capacity(length.min(1024)), after);
            for _ in 0..length {
                let Some((item, after)) = parse(rest)? else { return Ok(None) };
                items.push(item);
                rest = after;
            }
            Some((Reply::Array(items), rest))
        }
        other => bail!("a reply of kind {:?}", char::from(*other)),
    })
}

/// The entries of an XREADGROUP reply: id and payload, of streams with entries with fields.
fn entries<'a>(reply: &'a Reply<'a>) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
    items(reply).iter().filter_map(|stream| items(stream).get(1)).flat_map(items).filter_map(|entry| {
        let [Reply::Text(id), fields] = items(entry) else { return None };
        let [_, Reply::Text(payload)] = items(fields) else { return None };
        Some((*id, *payload))
    })
}

fn items<'a>(reply: &'a Reply<'a>) -> &'a [Reply<'a>] {
    if let Reply::Array(items) = reply { items } else { &[] }
}
