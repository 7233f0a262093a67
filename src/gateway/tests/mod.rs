//! Bytes in, bytes out, with the test playing the shard and the socket.

mod broadcast;
mod entrance;
mod handshake;
mod heartbeats;
mod hostile;
mod output;
mod parts;
mod service;

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::config::Auth;
use crate::ids::{Boot, ClientId, ConnKey, Epoch, LeaseId, MessageId, Namespace, SubscriptionId};
use crate::mail::{Attached, Command, Deliver, Effect, EffectBatch};
use crate::session::ResumeKey;
use crate::telemetry::Gauge;
use crate::wire::{RawFrame, ServerFrame, Split, encode, split};

/// A gateway whose sockets take everything unless they are plugged.
pub(super) struct Rig {
    pub(super) gateway: Gateway,
    pub(super) metrics: Arc<LoopMetrics>,
    pub(super) now: Time,
    /// Sockets that take nothing.
    pub(super) plugged: Vec<u32>,
    /// What each socket took.
    pub(super) taken: Vec<Vec<u8>>,
    /// Sockets that were closed at the gateway's wish.
    pub(super) closed: Vec<u32>,
    /// Other actions, in order.
    pub(super) reading: Vec<Action>,
}

pub(super) fn config() -> GatewayConfig {
    GatewayConfig { max_sessions: 100, ..GatewayConfig::new(Auth::Open, ResumeKey([1; 32])) }
}

impl Rig {
    pub(super) fn new(config: GatewayConfig) -> Self {
        let metrics = Arc::new(LoopMetrics::default());
        let now = Time(1000);
        let gateway = Gateway::new(LoopId(0), Arc::new(config), Arc::clone(&metrics), 1, now);
        Self {
            gateway,
            metrics,
            now,
            plugged: Vec::new(),
            taken: Vec::new(),
            closed: Vec::new(),
            reading: Vec::new(),
        }
    }

    pub(super) fn accept(&mut self) -> SlotKey {
        let key = self.gateway.accept(self.now).expect("room for a connection");
        let len = self.taken.len().max(key.slot as usize + 1);
        self.taken.resize(len, Vec::new());
        self.taken[key.slot as usize].clear();
        self.closed.retain(|&slot| slot != key.slot);
        self.turn();
        key
    }

    pub(super) fn receive(&mut self, key: SlotKey, bytes: &[u8]) {
        self.gateway.receive(self.now, key, bytes);
        self.turn();
    }

    pub(super) fn effects(&mut self, effects: Vec<Effect>, bodies: &[u8]) {
        self.gateway.effects(self.now, EffectBatch { effects, bodies: bodies.to_vec() });
        self.turn();
    }

    pub(super) fn wait(&mut self, ms: u64) {
        let until = Time(self.now.0 + ms);
        while let Some(due) = self.gateway.next_deadline().filter(|&due| due <= until) {
            self.now = self.now.max(due);
            self.gateway.expire(self.now);
            self.turn();
        }
        self.now = until;
        self.gateway.expire(until);
        self.turn();
    }

    /// Carries out the actions, and the rest of a wave.
    pub(super) fn turn(&mut self) {
        self.act();
        while self.gateway.carry_on(self.now) {
            self.act();
        }
    }

    pub(super) fn act(&mut self) {
        self.gateway.check_invariants();
        while let Some(action) = self.gateway.next_action() {
            match action {
                Action::Flush(slot) => self.flush(slot),
                Action::Close(slot) => {
                    self.flush(slot);
                    self.closed.push(slot);
                    self.gateway.closed(self.now, slot, CloseCause::Local);
                }
                Action::Abort(slot) => {
                    self.closed.push(slot);
                    self.gateway.closed(self.now, slot, CloseCause::Aborted);
                }
                other => self.reading.push(other),
            }
        }
        self.gateway.check_invariants();
    }

    pub(super) fn flush(&mut self, slot: u32) {
        if self.plugged.contains(&slot) {
            return;
        }
        let unsent = self.gateway.unsent(slot).to_vec();
        self.taken[slot as usize].extend_from_slice(&unsent);
        self.gateway.sent(self.now, slot, unsent.len());
    }

    pub(super) fn commands(&mut self) -> Vec<Command> {
        let batch = &mut self.gateway.commands()[0];
        let commands = std::mem::take(&mut batch.commands);
        batch.clear();
        commands
    }

    /// The frames the client got since the last call, by name.
    pub(super) fn frames(&mut self, slot: u32) -> Vec<Got> {
        let bytes = std::mem::take(&mut self.taken[slot as usize]);
        parse(&bytes)
    }

    pub(super) fn attach(&mut self, key: SlotKey, epoch: u64) {
        self.attach_as("d1", key, epoch);
    }

    pub(super) fn attach_as(&mut self, client: &str, key: SlotKey, epoch: u64) {
        let attached = Attached {
            conn: conn(key),
            namespace: Namespace::parse(Namespace::DEFAULT).unwrap(),
            client: ClientId::parse(client).unwrap(),
            session_id: 7,
            epoch: Epoch(epoch),
            resumed: false,
        };
        self.effects(vec![Effect::Attached(Box::new(attached))], &[]);
    }

    /// A connection that was welcomed, its commands and frames forgotten.
    pub(super) fn live(&mut self, client: &str) -> SlotKey {
        let key = self.accept();
        self.receive(key, &hello(client));
        self.attach(key, 1);
        self.commands();
        assert!(matches!(self.frames(key.slot)[..], [Got::Welcome(_)]));
        key
    }
}

pub(super) fn conn(key: SlotKey) -> ConnKey {
    ConnKey { loop_id: LoopId(0), slot: key.slot, generation: key.generation }
}

/// A delivery of `body_len` bytes; `id` is the message's.
pub(super) fn delivery(key: SlotKey, id: u64, body_len: usize) -> Effect {
    Effect::Deliver(Deliver {
        conn: conn(key),
        subscription: SubscriptionId(1),
        lease: LeaseId { message: MessageId(id), attempt: 1, boot: Boot(1) },
        lease_ms: 30_000,
        body_len: body_len as u32,
    })
}

pub(super) fn frame<M: prost::Message>(kind: Kind, message: &M) -> Vec<u8> {
    let mut out = Vec::new();
    encode(&mut out, kind, message);
    out
}

pub(super) fn hello_of(hello: proto::Hello) -> Vec<u8> {
    frame(Kind::Hello, &proto::Hello { version_min: 1, version_max: 1, ..hello })
}

pub(super) fn hello(client: &str) -> Vec<u8> {
    hello_of(proto::Hello { client_id: client.into(), heartbeat_ms: 1000, ..Default::default() })
}

pub(super) fn publish(seq: u64, queue: &str, payloads: &[&[u8]]) -> Vec<u8> {
    let messages = payloads
        .iter()
        .map(|payload| {
            let message = proto::Message { payload: payload.to_vec(), ..Default::default() };
            prost::Message::encode_to_vec(&message)
        })
        .collect();
    frame(Kind::Publish, &proto::Publish { seq, queue: queue.into(), messages, ..Default::default() })
}

/// A server's frame without borrows.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Got {
    Welcome(proto::Welcome),
    Reject(proto::Reject),
    Pong,
    /// A PONG that asks for this interval, in milliseconds.
    Interval(u32),
    PublishAck(proto::PublishAck),
    Reply(proto::Reply),
    Deliver(Vec<Vec<u8>>),
    /// Subscription and message.
    Broadcast(u16, Vec<u8>),
    /// Offset and data.
    Part(u32, Vec<u8>),
    /// The end of a message in parts: bytes before it, its own, and what is left of the lease.
    End(u32, Vec<u8>, u32),
    GoAway(proto::GoAway),
    Error(proto::Error),
}

pub(super) fn parse(mut bytes: &[u8]) -> Vec<Got> {
    let mut got = Vec::new();
    while !bytes.is_empty() {
        let Ok(Split::Frame { frame: RawFrame { kind, payload, .. }, consumed }) = split(bytes, 1 << 24)
        else {
            panic!("the server sent a broken frame: {bytes:?}");
        };
        got.push(match ServerFrame::decode(kind, payload).expect("a frame that decodes") {
            ServerFrame::Welcome(welcome) => Got::Welcome(*welcome),
            ServerFrame::Reject(reject) => Got::Reject(reject),
            ServerFrame::Pong(proto::Pong { heartbeat_ms: 0 }) => Got::Pong,
            ServerFrame::Pong(pong) => Got::Interval(pong.heartbeat_ms),
            ServerFrame::PublishAck(ack) => Got::PublishAck(ack),
            ServerFrame::Reply(reply) => Got::Reply(reply),
            ServerFrame::Part(part) => Got::Part(part.offset, part.data.to_vec()),
            ServerFrame::Deliver(view) if view.parts_bytes() > 0 => {
                let end = view.deliveries().next().expect("a DELIVER has one");
                Got::End(end.parts_bytes, end.message.to_vec(), end.lease_ms)
            }
            ServerFrame::Deliver(view) if view.broadcasts().count() > 0 => {
                assert_eq!(view.delivery_count(), 1, "a broadcast has a frame of its own");
                let broadcast = view.broadcasts().next().expect("there is one");
                Got::Broadcast(broadcast.subscription.0, broadcast.message.to_vec())
            }
            ServerFrame::Deliver(view) => {
                Got::Deliver(view.deliveries().map(|delivery| delivery.message.to_vec()).collect())
            }
            ServerFrame::GoAway(goaway) => Got::GoAway(goaway),
            ServerFrame::Error(error) => Got::Error(error),
        });
        bytes = &bytes[consumed..];
    }
    got
}
