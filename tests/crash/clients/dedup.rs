//! A producer that knows its messages by deduplication ids alone: each time it asks it is somebody else, so that no sequence
//! tells the server what it has seen.

use std::time::{Duration, Instant};

use prost::Message as _;
use relaymesh::wire::proto;
use relaymesh::wire::proto::Kind;

use super::producers::{Draft, plain};
use super::{DEDUP, Shared};
use crate::history::What;
use crate::support::PATIENCE;
use crate::support::http;
use crate::support::wire::Arrival;

/// Of what was answered so much is published again now and then.
const REMEMBERED: usize = 200;

/// What is published, however often.
struct Known {
    op: u64,
    draft: Draft,
    ids: Vec<String>,
    is_answered: bool,
}

/// Publishes messages and batches until told to stop: each until it is answered, and some again after that.
pub(crate) fn produce(shared: &Shared, number: u64, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut all, mut last_key): (Vec<Known>, u64) = (Vec::new(), 0);
    loop {
        let open = all.iter().position(|known| !known.is_answered);
        if shared.is_over() || (shared.is_ending() && open.is_none()) {
            return;
        }
        let at = match open {
            Some(at) => at,
            None if all.len() > 8 && random.u8(0..3) == 0 => random.usize(0..all.len()),
            None => {
                if all.len() >= REMEMBERED {
                    all.swap_remove(random.usize(0..all.len()));
                }
                let count = if random.u8(0..4) == 0 { random.u64(2..6) } else { 1 };
                all.push(Known::new(shared, number, last_key, count));
                last_key += count;
                all.len() - 1
            }
        };
        let by_http = all[at].ids.len() == 1 && random.u8(0..4) == 0;
        let answer = if by_http { all[at].post(shared) } else { all[at].publish(shared, &mut random) };
        match answer {
            Some((life, first_id)) => {
                all[at].is_answered = true;
                shared.see(life, What::Published { op: all[at].op, first_id: Some(first_id) });
                std::thread::sleep(Duration::from_millis(random.u64(0..5)));
            }
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}

impl Known {
    fn new(shared: &Shared, number: u64, last_key: u64, count: u64) -> Self {
        let keys = (1..=count).map(|offset| shared.key(number, last_key + offset));
        let messages =
            keys.map(|key| (key, proto::Message { dedup_id: format!("{:x}", key.0), ..plain(key) }));
        let messages: Vec<_> = messages.collect();
        let ids = messages.iter().map(|(_, message)| message.dedup_id.clone()).collect();
        let (op, draft) = (shared.op(), Draft::to_queue(DEDUP, messages));
        draft.told(op, shared, shared.life());
        Self { op, draft, ids, is_answered: false }
    }

    /// As a client that was never there before. The life it was in and the first id, if it was answered.
    fn publish(&self, shared: &Shared, random: &mut fastrand::Rng) -> Option<(u32, u64)> {
        let (mut wire, life) = shared.connect(&format!("dedup-{:016x}", random.u64(..)))?;
        let (seq, queue, messages) = (wire.seq(), self.draft.to.clone(), self.draft.messages.clone());
        let producer_id = random.u64(1..);
        let publish = proto::Publish {
            seq,
            queue,
            messages,
            producer_id,
            sequence: 1,
            unanswered_from: 1,
            ..proto::Publish::default()
        };
        wire.send(Kind::Publish, &publish);
        match wire.read_until(Instant::now() + PATIENCE) {
            Arrival::Frame(frame) => {
                let ack: proto::PublishAck = frame.parse(Kind::PublishAck);
                assert_eq!(ack.refusal, None, "nothing is refused here");
                let (retire_producer, retired_producer_id) = (true, producer_id);
                wire.send(Kind::Bye, &proto::Bye { retire_producer, retired_producer_id });
                Some((life, ack.first_id))
            }
            Arrival::Closed => None,
            Arrival::Nothing => panic!("a publish was never answered"),
        }
    }

    /// As `curl` would.
    fn post(&self, shared: &Shared) -> Option<(u32, u64)> {
        let up = shared.up()?;
        let message = proto::Message::decode(&self.draft.messages[0][..]).expect("a Message");
        let path = format!("/api/v1/publish?queue={}&attempts=1000&dedup_id={}", self.draft.to, self.ids[0]);
        let answer = http::try_post(up.admin, &path, &[], &message.payload)?;
        assert_eq!(answer.status, 200, "{answer:?}");
        Some((up.life, answer.json()["id"].as_u64()?))
    }
}
