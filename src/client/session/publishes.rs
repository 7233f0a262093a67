//! The publishes of a session that are not answered: their bodies, in the order of their sequences.

use std::collections::VecDeque;

use crate::client::{Machine, RequestError, Room};
use crate::ids::{LeaseId, ProducerId, QueueName};
use crate::wire::{Codec, proto};

/// Why a publish was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unsendable {
    /// As much is unanswered as the server allows.
    #[error("too many publishes are unanswered; wait for answers")]
    Full,
    /// No message, or more than one request holds.
    #[error("a batch has 1 to {max} messages; this one has {count}")]
    Batch {
        /// How many it has.
        count: usize,
        /// Most that one request holds.
        max: usize,
    },
    /// A delivery was settled before, or is acked with another publish already.
    #[error("a delivery to ack with the publish was acked or nacked before")]
    NotHeld,
    /// More deliveries to ack than one request holds.
    #[error("one publish acks at most {max} deliveries; this one would ack {count}")]
    Acks {
        /// How many they are.
        count: usize,
        /// Most that one request holds.
        max: usize,
    },
    /// One message is too large.
    #[error("the message has {bytes} bytes encoded; at most {max} are allowed")]
    Message {
        /// Its size in bytes.
        bytes: usize,
        /// Largest message, in bytes.
        max: usize,
    },
    /// The messages of a batch together do not fit a frame, or one alone not the window.
    #[error("the batch has {bytes} bytes; at most {max} fit one request: make smaller batches")]
    Bytes {
        /// Size of the batch in bytes.
        bytes: usize,
        /// Largest batch, in bytes.
        max: usize,
    },
}

/// One publish request that has no answer.
#[derive(Debug)]
struct InFlight {
    sequence: u64,
    /// Its number on this connection; 0 until it is sent.
    seq: u64,
    queue: QueueName,
    bodies: Vec<Vec<u8>>,
    bytes: usize,
    /// What is acked with it.
    acks: Vec<LeaseId>,
}

/// A publish that is answered.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) sequence: u64,
    pub(super) messages: u32,
    /// What was to be acked with it.
    pub(super) acks: Vec<LeaseId>,
}

/// All publish requests that have no answer. Bounded by the window of the server.
#[derive(Debug)]
pub(super) struct Publishes {
    producer: ProducerId,
    next_sequence: u64,
    /// Rising in `sequence`, and in `seq` among those sent.
    in_flight: VecDeque<InFlight>,
    /// How many at the front were sent on this connection.
    sent: usize,
    messages: usize,
    bytes: usize,
}

impl Publishes {
    pub(super) fn new(producer: ProducerId) -> Self {
        Self { producer, next_sequence: 1, in_flight: VecDeque::new(), sent: 0, messages: 0, bytes: 0 }
    }

    pub(super) fn producer(&self) -> ProducerId {
        self.producer
    }

    pub(super) fn is_empty(&self) -> bool {
        self.in_flight.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.in_flight.len()
    }

    pub(super) fn contains(&self, sequence: u64) -> bool {
        self.in_flight.binary_search_by_key(&sequence, |publish| publish.sequence).is_ok()
    }

    pub(super) fn room(&self, limits: &proto::Limits) -> Room {
        Room {
            messages: limits.publish_messages_max.saturating_sub(self.messages as u32),
            bytes: limits.publish_bytes_max.saturating_sub(self.bytes as u32),
        }
    }

    pub(super) fn take(
        &mut self,
        queue: &QueueName,
        acks: &[LeaseId],
        bodies: Vec<Vec<u8>>,
        limits: &proto::Limits,
    ) -> Result<u64, Unsendable> {
        let max = limits.batch_messages_max as usize;
        if acks.len() > max {
            return Err(Unsendable::Acks { count: acks.len(), max });
        }
        let count = bodies.len();
        let max = limits.batch_messages_max.min(limits.publish_messages_max) as usize;
        if count == 0 || count > max {
            return Err(Unsendable::Batch { count, max });
        }
        let message_max = limits.message_bytes_max as usize;
        if let Some(body) = bodies.iter().find(|body| body.len() > message_max) {
            return Err(Unsendable::Message { bytes: body.len(), max: message_max });
        }
        let bytes: usize = bodies.iter().map(Vec::len).sum();
        // One message alone may go in parts.
        let max = match count {
            1 => limits.publish_bytes_max as usize,
            _ => Machine::bodies_bytes_max(limits, queue.as_str(), count, acks.len()),
        };
        if bytes > max {
            return Err(Unsendable::Bytes { bytes, max });
        }
        let room = self.room(limits);
        if count > room.messages as usize || bytes > room.bytes as usize {
            return Err(Unsendable::Full);
        }
        let sequence = self.next_sequence;
        self.next_sequence += count as u64;
        self.messages += count;
        self.bytes += bytes;
        let (queue, acks) = (queue.clone(), acks.to_vec());
        self.in_flight.push_back(InFlight { sequence, seq: 0, queue, bodies, bytes, acks });
        Ok(sequence)
    }

    /// Sends what fits the window. `refused` is told what no window of this server will ever fit, and why.
    pub(super) fn send(
        &mut self,
        machine: &mut Machine,
        codec: &mut Codec,
        out_soft_max: usize,
        out: &mut Vec<u8>,
        mut refused: impl FnMut(Answered, String),
    ) {
        while out.len() < out_soft_max {
            let Some(unanswered_from) = self.in_flight.front().map(|first| first.sequence) else { return };
            let Some(next) = self.in_flight.get_mut(self.sent) else { return };
            let producer = Some((self.producer, next.sequence, unanswered_from));
            let (queue, acks) = (next.queue.as_str(), &next.acks);
            let frame_start = out.len();
            let mut is_one_frame = true;
            let sent = match &next.bodies[..] {
                [body] if machine.needs_parts(queue, body, acks.len()) => {
                    let sent = machine.publish_in_parts(queue, producer, acks, body, out_soft_max, out);
                    // What is left of it goes when this is written.
                    let Some(sent) = sent.transpose() else { return };
                    is_one_frame = false;
                    sent
                }
                [body] => machine.ack_and_publish(queue, producer, acks, &[body], out),
                bodies => {
                    let bodies: Vec<&[u8]> = bodies.iter().map(Vec::as_slice).collect();
                    machine.ack_and_publish(queue, producer, acks, &bodies, out)
                }
            };
            match sent {
                Ok(seq) => {
                    if is_one_frame {
                        machine.compress_publish(codec, &next.bodies, out, frame_start);
                    }
                    next.seq = seq;
                    self.sent += 1;
                }
                Err(RequestError::NotNow | RequestError::WindowFull) => return,
                Err(too_much @ RequestError::TooMuch { .. }) => {
                    if let Some(unsent) = self.remove(self.sent) {
                        refused(unsent, too_much.to_string());
                    }
                }
            }
        }
    }

    /// The request `seq` of this connection is answered.
    pub(super) fn answered(&mut self, seq: u64) -> Option<Answered> {
        let at = match self.in_flight.front() {
            Some(first) if first.seq == seq => 0,
            _ => {
                let (mut low, mut high) = (0, self.sent);
                while low < high {
                    let middle = low.midpoint(high);
                    if self.in_flight[middle].seq < seq { low = middle + 1 } else { high = middle }
                }
                low
            }
        };
        if at >= self.sent || self.in_flight[at].seq != seq {
            return None;
        }
        self.sent -= 1;
        self.remove(at)
    }

    fn remove(&mut self, at: usize) -> Option<Answered> {
        let removed = self.in_flight.remove(at)?;
        self.messages -= removed.bodies.len();
        self.bytes -= removed.bytes;
        let (sequence, messages) = (removed.sequence, removed.bodies.len() as u32);
        Some(Answered { sequence, messages, acks: removed.acks })
    }

    pub(super) fn connection_lost(&mut self) {
        self.sent = 0;
        for publish in &mut self.in_flight {
            publish.seq = 0;
        }
    }
}
