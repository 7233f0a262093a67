//! The one place where frames become requests and verdicts become frames.

use std::sync::Arc;

use crate::gateway::names::NameCache;
use crate::gateway::{Ending, Farewell, GatewayConfig};
use crate::ids::{Boot, LeaseId, MessageId, ProducerId, SubscriptionId};
use crate::limits;
use crate::mail::{Attached, ProducerSequence, RefusalCode, Settlement};
use crate::session::{Denied, Hello, Publishing, Reason, Request, Settling, Subscribing, Welcome};
use crate::wire::{ClientFrame, DICTIONARY_ID, Kind, PublishView, SettleView, proto};

/// The only version there is.
pub(super) const VERSION: u32 = 1;

/// What a frame asks for; a HELLO asks for nothing a session could carry out before it is one.
pub(super) fn request(frame: &ClientFrame<'_>, names: &mut NameCache) -> Option<Request> {
    Some(match frame {
        ClientFrame::Hello(_) => return None,
        ClientFrame::Ping(_) => Request::Ping,
        ClientFrame::Publish(publish) => Request::Publish(publishing(publish, names)),
        // Bounded by the frame.
        ClientFrame::Part(part) => Request::Part { bytes: part.data.len() as u32 },
        ClientFrame::Ack(view) => settling(view, Settlement::Ack),
        ClientFrame::Nack(view) => settling(
            view,
            Settlement::Nack { delay_ms: view.delay_ms, error: view.error.into(), reject: view.reject },
        ),
        ClientFrame::Extend(view) => settling(view, Settlement::Extend { lease_ms: view.lease_ms }),
        ClientFrame::Subscribe(subscribe) => Request::Subscribe(Subscribing {
            seq: subscribe.seq,
            subscription: subscription(subscribe.subscription),
            queue: names.parse(&subscribe.queue),
            credit_messages: subscribe.credit_messages,
            credit_bytes: if subscribe.credit_bytes == 0 { u64::MAX } else { subscribe.credit_bytes },
        }),
        ClientFrame::Unsubscribe(unsubscribe) => Request::Unsubscribe {
            seq: unsubscribe.seq,
            subscription: subscription(unsubscribe.subscription),
        },
        ClientFrame::Credit(credit) => Request::Credit {
            subscription: subscription(credit.subscription),
            messages: credit.messages,
            bytes: credit.bytes,
        },
        ClientFrame::Bye(bye) => Request::Bye {
            retired_producer: (bye.retire_producer && bye.retired_producer_id != 0)
                .then_some(ProducerId(bye.retired_producer_id)),
        },
    })
}

#[inline]
fn publishing(view: &PublishView<'_>, names: &mut NameCache) -> Publishing {
    let producer = (view.producer_id != 0).then_some(ProducerSequence {
        producer: ProducerId(view.producer_id),
        sequence: view.sequence,
        unanswered_from: view.unanswered_from,
    });
    Publishing {
        seq: view.seq,
        queue: names.parse(view.queue),
        producer,
        // Both are bounded by the frame.
        messages: view.message_count() as u32,
        bytes: view.body_bytes() as u32,
    }
}

#[inline]
fn settling(view: &SettleView<'_>, settlement: Settlement) -> Request {
    let leases = view.lease_count() as u32;
    Request::Settle(Settling { seq: view.seq, settlement, leases, replenish: view.replenish })
}

/// `wire` has checked that it fits.
fn subscription(number: u32) -> SubscriptionId {
    SubscriptionId(number as u16)
}

/// What a HELLO says, or why there is nothing to talk about.
pub(super) fn hello(hello: &proto::Hello) -> Result<Hello<'_>, Ending> {
    if hello.version_min > VERSION || hello.version_max < VERSION || hello.version_min > hello.version_max {
        let text = format!(
            "the client speaks protocol versions {} to {}; this server speaks {VERSION}",
            hello.version_min, hello.version_max
        );
        return Err(Ending::reject(proto::Code::UnsupportedVersion, text));
    }
    let lease = |lease: &proto::Lease| LeaseId {
        message: MessageId(lease.message_id),
        attempt: lease.attempt,
        boot: Boot(lease.boot),
    };
    Ok(Hello {
        namespace: &hello.namespace,
        client_id: &hello.client_id,
        credential: &hello.credential,
        heartbeat_ms: hello.heartbeat_ms,
        pong_every: hello.pong_every,
        compression: hello.dictionaries.contains(&DICTIONARY_ID),
        resume_token: &hello.resume_token,
        leases: hello.leases.iter().map(lease).collect(),
    })
}

pub(super) fn welcome(welcome: &Welcome, attached: &Attached, config: &Arc<GatewayConfig>) -> proto::Welcome {
    let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    proto::Welcome {
        version: VERSION,
        session_id: attached.session_id,
        epoch: attached.epoch.0,
        resumed: attached.resumed,
        heartbeat_ms: welcome.heartbeat_ms,
        limits: Some(proto::Limits {
            frame_bytes_max: narrow(config.frame_bytes_max),
            message_bytes_max: narrow(config.message_bytes_max),
            publish_messages_max: config.rules.publish_messages_max,
            publish_bytes_max: config.rules.publish_bytes_max,
            batch_messages_max: narrow(limits::BATCH_MESSAGES_MAX),
            subscriptions_max: narrow(limits::SUBSCRIPTIONS_MAX),
        }),
        dictionary: if welcome.compression { DICTIONARY_ID } else { 0 },
        resume_token: welcome.resume_token.to_vec(),
        grace_ms: u32::try_from(config.grace.as_millis()).unwrap_or(u32::MAX),
        // One is the default, and said by nothing.
        pong_every: if welcome.pong_every > 1 { welcome.pong_every } else { 0 },
    }
}

pub(super) fn lease(lease: &LeaseId) -> proto::Lease {
    proto::Lease { message_id: lease.message.0, attempt: lease.attempt, boot: lease.boot.0 }
}

pub(super) fn refusal_code(code: RefusalCode) -> proto::Code {
    match code {
        RefusalCode::QueueFull => proto::Code::QueueFull,
        RefusalCode::DiskFull => proto::Code::DiskFull,
        RefusalCode::LimitReached => proto::Code::LimitReached,
        RefusalCode::Invalid => proto::Code::Invalid,
        RefusalCode::StaleSequence => proto::Code::StaleSequence,
        RefusalCode::Draining => proto::Code::Draining,
        RefusalCode::Overloaded => proto::Code::Overloaded,
    }
}

pub(super) fn denial_code(denied: &Denied) -> proto::Code {
    match denied.reason {
        Reason::Unexpected => proto::Code::Unexpected,
        Reason::Invalid => proto::Code::Invalid,
        Reason::Unauthenticated => proto::Code::Unauthenticated,
        Reason::WindowExceeded => proto::Code::WindowExceeded,
    }
}

/// The last words as a frame; `None` when there is nothing to say.
pub(super) fn farewell(out: &mut Vec<u8>, farewell: Farewell, reconnect_after_ms: u32) -> Option<Kind> {
    match farewell {
        Farewell::Nothing => None,
        Farewell::Reject { code, text } => {
            let reject = proto::Reject { code: code.into(), text, reconnect_after_ms };
            crate::wire::encode(out, Kind::Reject, &reject);
            Some(Kind::Reject)
        }
        Farewell::GoAway { code, text } => {
            let goaway = proto::GoAway { code: code.into(), text, reconnect_after_ms };
            crate::wire::encode(out, Kind::GoAway, &goaway);
            Some(Kind::GoAway)
        }
        Farewell::Error(error) => {
            crate::wire::encode(out, Kind::Error, &error);
            Some(Kind::Error)
        }
    }
}
