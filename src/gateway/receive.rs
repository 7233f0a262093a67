//! Bytes in, commands out.

use crate::clock::Time;
use crate::gateway::ending::{Cause, Ending};
use crate::gateway::entrance::no_admission;
use crate::gateway::table::{Deferred, IDLE};
use crate::gateway::{Gateway, SlotKey, translate};
use crate::ids::{ConnKey, ShardId};
use crate::limits;
use crate::mail::{Command, Publish, PublishMessage, Settle};
use crate::message::message_header;
use crate::session::{Phase, Publishing, Request, Verdict};
use crate::wire::{ClientFrame, Kind, PublishView, RawFrame, SettleView, Split, clip, encode, proto, split};

impl Gateway {
    /// Bytes of a connection, in order. Whole frames are read where they lie; only the beginning of a frame is kept.
    pub fn receive(&mut self, now: Time, key: SlotKey, bytes: &[u8]) {
        let Some(conn) = self.table.tenant_mut(key.slot, key.generation) else { return };
        if conn.session.phase() == Phase::Closing {
            return;
        }
        if conn.deferred != Deferred::Nothing {
            // It was read together with what was deferred.
            if let Err(ending) = self.keep(key.slot, bytes) {
                self.end(now, key.slot, ending);
            }
            return;
        }
        let has_partial = self.buffers.at(conn.busy).is_some_and(|busy| !busy.partial.is_empty());
        let received = if has_partial {
            self.complete(now, key.slot, bytes).and_then(|rest| self.frames(now, key.slot, rest))
        } else {
            self.frames(now, key.slot, bytes)
        };
        match received {
            Ok(()) => self.stop_in_a_crowd(key),
            Err(ending) => self.end(now, key.slot, ending),
        }
    }

    fn payload_max(&self, slot: u32) -> usize {
        match self.table.at(slot) {
            Some(conn) if conn.session.is_served() => self.config.frame_bytes_max,
            _ => limits::HANDSHAKE_FRAME_BYTES_MAX,
        }
    }

    /// Carries out the whole frames in `bytes`, as many as the turn allows, and keeps the rest.
    pub(super) fn frames(&mut self, now: Time, slot: u32, bytes: &[u8]) -> Result<(), Ending> {
        let (rest, is_deferred) = self.carry_out(now, slot, bytes)?;
        if !rest.is_empty() {
            self.keep(slot, rest)?;
        }
        if is_deferred {
            self.defer(slot);
        }
        Ok(())
    }

    /// Carries out the whole frames in `bytes`, as many as the turn allows. Returns what is left, and whether that is for
    /// the turn's sake rather than because a frame is not whole yet.
    pub(super) fn carry_out<'a>(
        &mut self,
        now: Time,
        slot: u32,
        mut bytes: &'a [u8],
    ) -> Result<(&'a [u8], bool), Ending> {
        let mut allowed = self.frames_left.clamp(limits::FRAMES_PER_TURN_MIN, limits::FRAMES_PER_TURN_MAX);
        while !bytes.is_empty() {
            if self.awaits_admission(slot) {
                return if bytes.len() <= limits::EARLY_BYTES_MAX {
                    Ok((bytes, false))
                } else {
                    Err(no_admission())
                };
            }
            if allowed == 0 {
                return Ok((bytes, true));
            }
            let payload_max = self.payload_max(slot);
            match split(bytes, payload_max).map_err(|fault| Ending::fault(&fault))? {
                Split::Frame { frame, consumed } => {
                    allowed -= 1;
                    self.frames_left = self.frames_left.saturating_sub(1);
                    self.frame(now, slot, frame, consumed, payload_max)?;
                    if !self.is_open(slot) {
                        return Ok((&[], false));
                    }
                    bytes = &bytes[consumed..];
                }
                Split::NeedMore { .. } => return Ok((bytes, false)),
            }
        }
        Ok((bytes, false))
    }

    fn is_open(&self, slot: u32) -> bool {
        self.table.at(slot).is_some_and(|conn| conn.session.phase() != Phase::Closing)
    }

    /// Completes the frame that was begun and carries it out; returns what follows it.
    fn complete<'a>(&mut self, now: Time, slot: u32, mut bytes: &'a [u8]) -> Result<&'a [u8], Ending> {
        let Some(conn) = self.table.at(slot) else { return Ok(bytes) };
        let index = conn.busy;
        let payload_max = self.payload_max(slot);
        let Some(busy) = self.buffers.at_mut(index) else { return Ok(bytes) };
        let mut partial = std::mem::take(&mut busy.partial);
        self.buffers.partial_bytes -= partial.len();
        let outcome = loop {
            match split(&partial, payload_max) {
                Err(fault) => break Err(Ending::fault(&fault)),
                Ok(Split::Frame { frame, consumed }) => {
                    debug_assert_eq!(consumed, partial.len(), "only what the frame lacked was added");
                    break self.frame(now, slot, frame, consumed, payload_max).map(|()| true);
                }
                Ok(Split::NeedMore { .. }) if bytes.is_empty() => break Ok(false),
                Ok(Split::NeedMore { bytes: needed }) => {
                    let lacking = needed.saturating_sub(partial.len()).clamp(1, bytes.len());
                    let (taken, rest) = bytes.split_at(lacking);
                    partial.extend_from_slice(taken);
                    bytes = rest;
                }
            }
        };
        let is_whole = outcome?;
        if !is_whole {
            self.restore_partial(slot, partial)?;
        } else {
            partial.clear();
            // The buffer's memory serves the next partial frame, unless it is a large one.
            if partial.capacity() <= limits::HANDSHAKE_FRAME_BYTES_MAX
                && let Some(busy) = self.table.at(slot).and_then(|conn| self.buffers.at_mut(conn.busy))
            {
                busy.partial = partial;
            }
            self.release_buffers(slot);
        }
        self.metrics.partial_bytes.set(self.buffers.partial_bytes as u64);
        Ok(if self.is_open(slot) { bytes } else { &[] })
    }

    fn restore_partial(&mut self, slot: u32, partial: Vec<u8>) -> Result<(), Ending> {
        let bytes = partial.len();
        let Some(conn) = self.table.at(slot) else { return Ok(()) };
        let Some(busy) = self.buffers.at_mut(conn.busy) else { return Ok(()) };
        busy.partial = partial;
        self.buffers.partial_bytes += bytes;
        self.check_partial_budget()
    }

    /// Keeps the beginning of a frame.
    fn keep(&mut self, slot: u32, bytes: &[u8]) -> Result<(), Ending> {
        let Some(conn) = self.table.at_mut(slot) else { return Ok(()) };
        if conn.busy == IDLE {
            conn.busy = self.buffers.take();
        }
        let Some(busy) = self.buffers.at_mut(conn.busy) else { return Ok(()) };
        busy.partial.extend_from_slice(bytes);
        self.buffers.partial_bytes += bytes.len();
        self.metrics.partial_bytes.set(self.buffers.partial_bytes as u64);
        self.check_partial_budget()
    }

    pub(super) fn check_partial_budget(&self) -> Result<(), Ending> {
        if self.buffers.partial_bytes <= self.config.loop_partial_bytes_max {
            return Ok(());
        }
        let text = "too much is half received on this server; come back later".to_owned();
        let farewell = crate::gateway::Farewell::GoAway { code: proto::Code::Overloaded, text };
        Err(Ending::new(Cause::Done, farewell).with_slot())
    }

    /// A loop with too many commands unanswered reads this connection no more until some were answered. One that only
    /// waits for what a shard always answers at once is read on: the publishes of others may be waiting for its acks.
    pub(super) fn stop_in_a_crowd(&mut self, key: SlotKey) {
        if self.on_their_way() < self.config.commands_unanswered_max {
            return;
        }
        let Some(conn) = self.table.tenant_mut(key.slot, key.generation) else { return };
        if !conn.stopped_by_crowd && conn.session.has_unanswered_publishes() {
            let was_stopped = conn.is_stopped();
            conn.stopped_by_crowd = true;
            self.crowd.push(key);
            self.reading_stopped(key.slot, was_stopped);
        }
    }

    #[inline]
    fn frame(
        &mut self,
        now: Time,
        slot: u32,
        frame: RawFrame<'_>,
        bytes: usize,
        payload_max: usize,
    ) -> Result<(), Ending> {
        let kind = frame.kind;
        self.metrics.received.count(kind as u8, bytes);
        let Some(conn) = self.table.at_mut(slot) else { return Ok(()) };
        let gap_ms = conn.session.heard(now);
        let may_compress = conn.session.may_compress();
        if kind == Kind::Ping {
            self.heartbeat(slot, gap_ms);
        }
        if !frame.compressed {
            return self.payload(now, slot, kind, frame.payload);
        }
        // The payload will lie in the codec, which is out of the way meanwhile; a codec costs nothing before its use.
        let mut codec = std::mem::take(&mut self.codec);
        let carried_out = codec
            .payload(frame, may_compress, payload_max)
            .map_err(|fault| Ending::fault(&fault))
            .and_then(|payload| self.payload(now, slot, kind, payload));
        self.codec = codec;
        carried_out
    }

    #[inline]
    fn payload(&mut self, now: Time, slot: u32, kind: Kind, payload: &[u8]) -> Result<(), Ending> {
        let Some(conn) = self.table.at(slot) else { return Ok(()) };
        if conn.session.phase() == Phase::AwaitingHello && kind != Kind::Hello && kind.is_from_client() {
            let text = format!("{kind} came before HELLO; HELLO is the first frame");
            return Err(Ending::error(Cause::Fault, proto::Code::Unexpected, text));
        }
        if kind == Kind::Ping && payload.is_empty() {
            self.pong(now, slot);
            return Ok(());
        }
        let frame = ClientFrame::decode(kind, payload).map_err(|fault| Ending::fault(&fault))?;
        match translate::request(&frame, &mut self.names) {
            Some(request) => self.request(now, slot, request, &frame),
            None => match frame {
                ClientFrame::Hello(hello) => self.hello(now, slot, &hello),
                _ => Ok(()),
            },
        }
    }

    #[inline]
    fn request(
        &mut self,
        now: Time,
        slot: u32,
        request: Request,
        frame: &ClientFrame<'_>,
    ) -> Result<(), Ending> {
        let Some(conn) = self.table.at_mut(slot) else { return Ok(()) };
        let verdict = conn.session.admit(&request, &self.config.rules).map_err(Ending::denied)?;
        let shard = conn.shard;
        let conn = ConnKey { loop_id: self.loop_id, slot, generation: conn.generation };
        if let Verdict::Refuse(text) = verdict {
            if let ClientFrame::Publish(view) = frame
                && view.parts_bytes > 0
            {
                self.forget_parts(slot);
            }
            self.refuse(now, slot, &request, &text);
            return Ok(());
        }
        match (request, frame) {
            (Request::Publish(publish), ClientFrame::Publish(view)) => {
                self.unanswered += 1;
                if view.parts_bytes == 0 {
                    self.publish(shard, conn, publish, view, view.messages())?;
                } else {
                    let whole = self.finish_parts(slot, view)?;
                    self.publish(shard, conn, publish, view, std::iter::once(whole.as_slice()))?;
                }
            }
            (Request::Part { .. }, ClientFrame::Part(part)) => return self.take_part(now, slot, part),
            (
                Request::Settle(settle),
                ClientFrame::Ack(view) | ClientFrame::Nack(view) | ClientFrame::Extend(view),
            ) => self.settle(shard, conn, settle, view),
            (request, _) => return self.other_request(now, shard, conn, request),
        }
        self.note_unanswered();
        Ok(())
    }

    #[inline]
    fn publish<'a>(
        &mut self,
        shard: ShardId,
        conn: ConnKey,
        publish: Publishing,
        view: &PublishView<'_>,
        messages: impl Iterator<Item = &'a [u8]>,
    ) -> Result<(), Ending> {
        let Ok(queue) = publish.queue else { return Ok(()) };
        let batch = self.batches.to(shard);
        let before = (batch.messages.len(), batch.bodies.len());
        for body in messages {
            match message_header(body, self.config.message_bytes_max) {
                Ok(header) => {
                    // Bounded by the largest message.
                    batch.messages.push(PublishMessage { header, body_len: body.len() as u32 });
                    batch.bodies.extend_from_slice(body);
                }
                Err(fault) => {
                    batch.messages.truncate(before.0);
                    batch.bodies.truncate(before.1);
                    return Err(Ending::fault(&fault));
                }
            }
        }
        let Publishing { seq, producer, messages, .. } = publish;
        // Bounded by the frame.
        let (acks, replenish) = (view.ack_count() as u32, view.replenish);
        if acks > 0 {
            batch.leases.extend(view.acks());
        }
        let publish = Publish { conn, seq, queue, producer, messages, acks, replenish };
        batch.commands.push(Command::Publish(publish));
        Ok(())
    }

    #[inline]
    fn settle(
        &mut self,
        shard: ShardId,
        conn: ConnKey,
        settle: crate::session::Settling,
        view: &SettleView<'_>,
    ) {
        self.unanswered += 1;
        let crate::session::Settling { seq, settlement, leases, replenish } = settle;
        let batch = self.batches.to(shard);
        batch.leases.extend(view.leases());
        batch.commands.push(Command::Settle(Settle { conn, seq, settlement, leases, replenish }));
    }

    fn other_request(
        &mut self,
        now: Time,
        shard: ShardId,
        conn: ConnKey,
        request: Request,
    ) -> Result<(), Ending> {
        let command = match request {
            Request::Ping => {
                self.pong(now, conn.slot);
                return Ok(());
            }
            Request::Bye { retired_producer } => return Err(Ending::bye(retired_producer)),
            Request::Credit { subscription, messages, bytes } => {
                Command::Credit { conn, subscription, messages, bytes }
            }
            Request::Unsubscribe { seq, subscription } => Command::Unsubscribe { conn, seq, subscription },
            Request::Subscribe(subscribe) => {
                let crate::session::Subscribing { seq, subscription, queue, credit_messages, credit_bytes } =
                    subscribe;
                let Ok(queue) = queue else { return Ok(()) };
                Command::Subscribe { conn, seq, subscription, queue, credit_messages, credit_bytes }
            }
            // Carried out with their frames.
            Request::Publish(_) | Request::Part { .. } | Request::Settle(_) => return Ok(()),
        };
        self.unanswered += usize::from(!matches!(command, Command::Credit { .. }));
        self.note_unanswered();
        self.batches.to(shard).commands.push(command);
        Ok(())
    }

    fn refuse(&mut self, now: Time, slot: u32, request: &Request, text: &str) {
        let text = clip(text).to_owned();
        let code = proto::Code::Invalid.into();
        match request {
            Request::Publish(publish) => {
                let refusal = Some(proto::Refusal { code, text, ..Default::default() });
                let ack = proto::PublishAck { seq: publish.seq, refusal, ..Default::default() };
                self.append(now, slot, |out| {
                    encode(out, Kind::PublishAck, &ack);
                    Some(Kind::PublishAck)
                });
            }
            Request::Subscribe(subscribe) => {
                let reply = proto::Reply { seq: subscribe.seq, code, text, ..Default::default() };
                self.append(now, slot, |out| {
                    encode(out, Kind::Reply, &reply);
                    Some(Kind::Reply)
                });
            }
            // Nothing else is refused by a session.
            _ => {}
        }
    }
}
