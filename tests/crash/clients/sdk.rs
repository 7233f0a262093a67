//! A producer and a worker as a user would write them, with the SDK: it connects again by itself, resumes its session with the
//! leases it holds, and sends again what was not answered.

use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use relaymesh::client::{Backoff, Client, Message, Notice, Options};
use relaymesh::ids::{ClientId, LeaseId};

use super::producers::{Draft, plain};
use super::{SDK, Shared, payload};
use crate::history::{How, Key, Lease, What};

/// Between two handfuls of messages.
const PAUSE: Duration = Duration::from_millis(10);
/// Longer than any time without a server.
const OFFLINE_MAX: Duration = Duration::from_secs(60);

fn connect(shared: &Shared, name: &str, address: &str) -> Option<(Client, Receiver<LeaseId>)> {
    let (lost, is_lost) = channel();
    let backoff =
        Backoff { initial: Duration::from_millis(5), max: Duration::from_millis(40), ..Backoff::default() };
    let options = Options {
        client_id: Some(ClientId::parse(name).expect("a valid name")),
        heartbeat: Some(Duration::from_secs(600)),
        backoff,
        retry_first: true,
        offline_max: Some(OFFLINE_MAX),
        on_notice: Some(Box::new(move |notice| {
            if let Notice::LeasesLost { leases, .. } = notice {
                for lease in leases {
                    // Nobody listens when the worker ends.
                    let _ = lost.send(*lease);
                }
            }
        })),
        ..Options::new(address)
    };
    let client = Client::connect(options);
    match client {
        Ok(client) => Some((client, is_lost)),
        Err(_) if shared.is_over() => None,
        Err(error) => panic!("the SDK did not get in: {error}"),
    }
}

/// Publishes until told to stop.
pub(crate) fn produce(shared: &Shared, number: u64, address: &str) {
    let Some((mut client, _lost)) = connect(shared, "sdk-producer", address) else { return };
    let mut last_key = 0;
    while !shared.is_ending() {
        let mut receipts = Vec::new();
        for _ in 0..4 {
            last_key += 1;
            let key = shared.key(number, last_key);
            let (op, draft) = (shared.op(), Draft::to_queue(SDK, vec![(key, plain(key))]));
            draft.told(op, shared, shared.life());
            let message = Message::new(payload(key)).attempts(1000);
            receipts.push((op, client.publish_pipelined(SDK, &message).expect("a publish is taken")));
        }
        for (op, receipt) in receipts {
            match client.wait(receipt) {
                Ok(id) => shared.see(shared.life(), What::Published { op, first_id: Some(id.0) }),
                Err(_) if shared.is_over() => return,
                Err(error) => panic!("a publish by the SDK failed: {error}"),
            }
        }
        std::thread::sleep(PAUSE);
    }
}

/// Works until told to stop.
pub(crate) fn work(shared: &Shared, address: &str) {
    let Some((mut client, lost)) = connect(shared, "sdk-worker", address) else { return };
    client.subscribe(SDK, 16).expect("a queue can be subscribed to");
    while !shared.is_over() {
        let mut ops = Vec::new();
        while let Some(delivery) = client.next(Some(PAUSE)).expect("the subscription stands") {
            let text = String::from_utf8_lossy(delivery.message.payload()).into_owned();
            let key = text.split('|').next().and_then(|number| u64::from_str_radix(number, 16).ok());
            let (key, id) = (Key(key.unwrap_or(0)), delivery.lease.message.0);
            let intact = payload(key) == delivery.message.payload();
            let lease = Lease { boot: delivery.lease.boot.0, attempt: delivery.lease.attempt };
            shared.see(shared.life(), What::Delivered { place: SDK, key, id, lease, intact });
            let op = shared.op();
            shared.see(shared.life(), What::Settle { op, id, lease, how: How::Ack });
            client.ack(delivery.lease).expect("a delivery is held until it is acked");
            ops.push((op, delivery.lease));
            if ops.len() >= 16 {
                break;
            }
        }
        match client.flush() {
            Ok(_) => {}
            Err(_) if shared.is_over() => return,
            Err(error) => panic!("the SDK's acks failed: {error}"),
        }
        let lost: Vec<LeaseId> = lost.try_iter().collect();
        for (op, _) in ops.into_iter().filter(|(_, lease)| !lost.contains(lease)) {
            shared.see(shared.life(), What::Settled { op });
        }
    }
}
