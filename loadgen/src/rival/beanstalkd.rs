//! beanstalkd: lines of text, one tube.

use std::io::Write;

use anyhow::bail;

use super::{Heard, Protocol, What, line, number};
use crate::stamp;

/// How long a job may be worked on, in seconds.
const TIME_TO_RUN_S: u32 = 120;

/// One connection.
pub(super) struct Beanstalkd {
    tube: String,
}

impl Beanstalkd {
    pub(super) fn new(tube: &str) -> Self {
        Self { tube: tube.to_owned() }
    }
}

impl Protocol for Beanstalkd {
    fn greet(&mut self, what: What, out: &mut Vec<u8>) {
        let tube = &self.tube;
        // Writing to memory does not fail.
        let _ = match what {
            What::Publish => write!(out, "use {tube}\r\n"),
            What::Work => write!(out, "watch {tube}\r\nignore default\r\n"),
        };
    }

    fn publish(&mut self, payload: &[u8], out: &mut Vec<u8>) {
        let _ = write!(out, "put 0 0 {TIME_TO_RUN_S} {}\r\n", payload.len());
        out.extend_from_slice(payload);
        out.extend_from_slice(b"\r\n");
    }

    fn ask(&mut self, room: usize, out: &mut Vec<u8>) {
        (0..room).for_each(|_| out.extend_from_slice(b"reserve\r\n"));
    }

    fn hear(&mut self, input: &[u8], heard: &mut Heard, out: &mut Vec<u8>) -> anyhow::Result<usize> {
        let mut rest = input;
        while let Some((answer, after)) = line(rest) {
            let mut words = answer.split(|&byte| byte == b' ');
            match words.next() {
                Some(b"INSERTED") => heard.published += 1,
                Some(b"DELETED") => heard.acked += 1,
                Some(b"USING" | b"WATCHING") => {}
                Some(b"RESERVED") => {
                    let (Some(id), Some(bytes)) = (words.next(), words.next()) else {
                        bail!("a job without id or length");
                    };
                    let bytes = number(bytes)?;
                    if after.len() < bytes + 2 {
                        break;
                    }
                    heard.delivered.push(stamp::stamp_in(&after[..bytes]));
                    out.extend_from_slice(b"delete ");
                    out.extend_from_slice(id);
                    out.extend_from_slice(b"\r\n");
                    rest = &after[bytes + 2..];
                    continue;
                }
                _ => bail!("the server says: {}", String::from_utf8_lossy(answer)),
            }
            rest = after;
        }
        Ok(input.len() - rest.len())
    }
}
