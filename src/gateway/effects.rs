//! What the shards say, carried out.

use crate::clock::Time;
use crate::gateway::ending::{Cause, Ending, Farewell};
use crate::gateway::{Gateway, translate};
use crate::ids::ConnKey;
use crate::mail::{Attached, Effect, EffectBatch, LeasesLost, PublishAcked, Refused, Settled};
use crate::session::Phase;
use crate::wire::{Kind, clip, encode, encode_publish_ack, encode_reply_ok, proto};

impl Gateway {
    /// Effects from a shard. Those for connections that are gone are dropped.
    pub fn effects(&mut self, now: Time, batch: EffectBatch) {
        let mut bodies = batch.bodies.as_slice();
        for effect in batch.effects {
            match effect {
                Effect::Deliver(deliver) => {
                    let (body, rest) = bodies.split_at((deliver.body_len as usize).min(bodies.len()));
                    bodies = rest;
                    if self.is_served(deliver.conn) {
                        self.deliver(now, &deliver, body);
                    }
                }
                Effect::PublishAcked(acked) => self.publish_acked(now, acked),
                Effect::Settled(settled) => self.settled(now, settled),
                other => self.rare_effect(now, other),
            }
        }
        for slot in std::mem::take(&mut self.open_delivers) {
            self.finish_deliver(slot);
        }
        self.metrics.output_bytes.set(self.buffers.output_bytes as u64);
    }

    fn rare_effect(&mut self, now: Time, effect: Effect) {
        match effect {
            Effect::Attached(attached) => self.attached(now, &attached),
            Effect::AttachRefused { conn, refused } => self.attach_refused(now, conn, &refused),
            Effect::TakenOver { conn } => {
                if self.is_known(conn) {
                    let text = "a newer connection of this client took over".to_owned();
                    let farewell = Farewell::GoAway { code: proto::Code::TakenOver, text };
                    self.end(now, conn.slot, Ending::new(Cause::Done, farewell));
                }
            }
            Effect::PublishRefused { conn, seq, messages, bytes, refused } => {
                let refusal = proto::Refusal {
                    code: translate::refusal_code(refused.code).into(),
                    text: clip(&refused.text).to_owned(),
                    retry_after_ms: refused.retry_after_ms,
                    lost: Vec::new(),
                };
                self.publish_refused(now, conn, seq, (messages, bytes), refusal);
            }
            Effect::LeasesLost(refused) => {
                let LeasesLost { conn, seq, messages, bytes, lost } = *refused;
                self.publish_refused(now, conn, seq, (messages, bytes), leases_lost(&lost));
            }
            Effect::RoomLow { conn } => self.room_low(conn),
            Effect::StopReading { conn } => {
                if let Some(tenant) = self.table.tenant_mut(conn.slot, conn.generation)
                    && tenant.session.is_served()
                    && !tenant.stopped_by_shard
                {
                    let was_stopped = tenant.is_stopped();
                    tenant.stopped_by_shard = true;
                    self.reading_stopped(conn.slot, was_stopped);
                }
            }
            Effect::ResumeReading { conn } => {
                if let Some(tenant) = self.table.tenant_mut(conn.slot, conn.generation)
                    && tenant.stopped_by_shard
                {
                    tenant.stopped_by_shard = false;
                    tenant.session.heard(now);
                    if let Some(busy) = self.buffers.at_mut(tenant.busy) {
                        busy.grew_at = now;
                    }
                    self.reading_resumed(conn.slot);
                }
            }
            Effect::Parked { shard, publishes, .. } => {
                let before = std::mem::replace(&mut self.parked_in[shard.index()], publishes);
                self.parked = self.parked - before as usize + publishes as usize;
                self.answered(0);
            }
            Effect::Topics { conn, topics } => self.topics_changed(conn, topics),
            Effect::Broadcast { broadcast, .. } => self.take_broadcast(broadcast),
            Effect::Broadcasted(broadcasted) => self.broadcasted(now, broadcasted),
            Effect::Deliver(_) | Effect::PublishAcked(_) | Effect::Settled(_) | Effect::Operator { .. } => {}
        }
    }

    fn is_known(&mut self, conn: ConnKey) -> bool {
        self.table.tenant_mut(conn.slot, conn.generation).is_some()
    }

    fn is_served(&mut self, conn: ConnKey) -> bool {
        self.table.tenant_mut(conn.slot, conn.generation).is_some_and(|tenant| tenant.session.is_served())
    }

    fn attached(&mut self, now: Time, attached: &Attached) {
        let slot = attached.conn.slot;
        let Some(conn) = self.table.tenant_mut(slot, attached.conn.generation) else { return };
        let (rules, stretch) = (&self.config.rules, self.heartbeats.stretch());
        let Some(welcome) = conn.session.welcome(now, attached, stretch, rules) else { return };
        let agreed_ms = conn.session.heartbeat_ms();
        self.heartbeats_joined(agreed_ms);
        self.handshakes -= 1;
        self.metrics.connections_handshaking.sub(1);
        self.metrics.connections_live.add(1);
        let handshakes = &self.metrics.handshakes;
        if attached.resumed {
            handshakes.resumed.inc()
        } else {
            handshakes.welcomed.inc()
        }
        let welcome = translate::welcome(&welcome, attached, &self.config);
        // Replies to what came behind HELLO lie in the output already: WELCOME goes before them.
        self.append(now, slot, |out| {
            let early = out.len();
            encode(out, Kind::Welcome, &welcome);
            let written = out.len() - early;
            out.rotate_right(written);
            Some(Kind::Welcome)
        });
        self.rearm(slot);
    }

    fn attach_refused(&mut self, now: Time, conn: ConnKey, refused: &Refused) {
        let awaited = self
            .table
            .tenant_mut(conn.slot, conn.generation)
            .is_some_and(|tenant| tenant.session.phase() == Phase::AwaitingAttach);
        if awaited {
            let code = translate::refusal_code(refused.code);
            let mut ending = Ending::reject(code, clip(&refused.text).to_owned()).with_slot();
            if refused.retry_after_ms > 0 {
                ending.reconnect_after_ms = Some(refused.retry_after_ms.max(self.admission.slot(now)));
            }
            self.end(now, conn.slot, ending);
        }
    }

    #[inline]
    fn publish_acked(&mut self, now: Time, acked: PublishAcked) {
        let PublishAcked { conn, seq, more, first_id, messages, bytes } = acked;
        if !self.publishes_answered(conn, more.saturating_add(1), messages, bytes) {
            return;
        }
        self.append(now, conn.slot, |out| {
            encode_publish_ack(out, seq, more, first_id.0, messages);
            Some(Kind::PublishAck)
        });
        self.end_if_answered(now, conn.slot);
    }

    fn publish_refused(
        &mut self,
        now: Time,
        conn: ConnKey,
        seq: u64,
        (messages, bytes): (u32, u32),
        refusal: proto::Refusal,
    ) {
        if !self.publishes_answered(conn, 1, messages, bytes) {
            return;
        }
        let ack = proto::PublishAck { seq, refusal: Some(refusal), ..Default::default() };
        self.append(now, conn.slot, |out| {
            encode(out, Kind::PublishAck, &ack);
            Some(Kind::PublishAck)
        });
        self.end_if_answered(now, conn.slot);
    }

    /// Gives back what the publishes took of the window. False when the connection is not served any more.
    #[inline]
    pub(super) fn publishes_answered(
        &mut self,
        conn: ConnKey,
        publishes: u32,
        messages: u32,
        bytes: u32,
    ) -> bool {
        let Some(tenant) = self.table.tenant_mut(conn.slot, conn.generation) else { return false };
        let before = tenant.session.unanswered();
        tenant.session.publishes_answered(publishes, messages, bytes);
        let answered = before - tenant.session.unanswered();
        let is_served = tenant.session.is_served();
        self.answered(answered);
        is_served
    }

    #[inline]
    fn settled(&mut self, now: Time, settled: Settled) {
        let Settled { conn, seq, more, lost, refused } = settled;
        let Some(tenant) = self.table.tenant_mut(conn.slot, conn.generation) else { return };
        let before = tenant.session.unanswered();
        tenant.session.requests_answered(more.saturating_add(1));
        let answered = before - tenant.session.unanswered();
        let is_served = tenant.session.is_served();
        self.answered(answered);
        if !is_served {
            return;
        }
        if lost.is_none() && refused.is_none() {
            self.append(now, conn.slot, |out| {
                encode_reply_ok(out, seq, more);
                Some(Kind::Reply)
            });
        } else {
            let reply = unhappy_reply(seq, more, lost.as_deref(), refused.as_deref());
            self.append(now, conn.slot, |out| {
                encode(out, Kind::Reply, &reply);
                Some(Kind::Reply)
            });
        }
        self.end_if_answered(now, conn.slot);
    }
}

fn leases_lost(lost: &[crate::ids::LeaseId]) -> proto::Refusal {
    let text = format!(
        "{} of the leases to ack were not the newest of their message; nothing was published or acked",
        lost.len()
    );
    let lost = lost.iter().map(translate::lease).collect();
    proto::Refusal { code: proto::Code::LeaseLost.into(), text, retry_after_ms: 0, lost }
}

fn unhappy_reply(
    seq: u64,
    more: u32,
    lost: Option<&[crate::ids::LeaseId]>,
    refused: Option<&Refused>,
) -> proto::Reply {
    let lost = lost.unwrap_or_default();
    let (code, text) = match refused {
        Some(refused) => (translate::refusal_code(refused.code), clip(&refused.text).to_owned()),
        None => {
            (proto::Code::LeaseLost, format!("{} leases were not the newest of their message", lost.len()))
        }
    };
    proto::Reply { seq, more, code: code.into(), text, lost: lost.iter().map(translate::lease).collect() }
}
