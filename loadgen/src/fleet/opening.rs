//! What a connection says first: HELLO, and with it, in the same write, what a held session listens to.

use relaymesh::client::{Machine, RequestError};
use relaymesh::ids::{ClientId, QueueName, SubscriptionId};
use relaymesh::wire::{DICTIONARY_ID, proto};

use super::Identity;
use crate::options::Target;

const MAILBOX: SubscriptionId = SubscriptionId(1);
const TOPIC: SubscriptionId = SubscriptionId(2);
/// Messages a held session is willing to receive.
const MAILBOX_CREDIT: u32 = 8;

/// HELLO of this client.
pub(super) fn hello(target: &Target, identity: &Identity, client: &ClientId) -> proto::Hello {
    proto::Hello {
        version_min: 1,
        version_max: 1,
        namespace: target.namespace.to_string(),
        client_id: client.to_string(),
        credential: target.token.clone().into_bytes(),
        heartbeat_ms: identity.heartbeat.as_millis() as u32,
        dictionaries: vec![DICTIONARY_ID],
        ..proto::Hello::default()
    }
}

/// Its mailbox, and the topic of the run if there is one.
///
/// # Errors
/// When a name is longer than a frame takes.
pub(super) fn subscribe(
    identity: &Identity,
    client: &ClientId,
    machine: &mut Machine,
    out: &mut Vec<u8>,
) -> Result<(), RequestError> {
    let mailbox = QueueName::mailbox(client);
    machine.subscribe(MAILBOX, mailbox.as_str(), MAILBOX_CREDIT, 0, out)?;
    if let Some(topic) = &identity.topic {
        machine.subscribe(TOPIC, topic.as_str(), 0, 0, out)?;
    }
    Ok(())
}
