//! Ordering keys at the shard's door: no message is sent while one of its key that came before it is not done.

use std::collections::BTreeMap;

use relaymesh::ids::{Namespace, QueueName};

/// A key of a queue.
type Line = (Namespace, QueueName, String);

#[derive(Debug)]
struct Member {
    line: Line,
    attempts_max: u32,
    /// Attempts that were seen to begin.
    attempts: u32,
    id: Option<u64>,
    /// It may be done, or dead, or in another place.
    may_be_gone: bool,
}

/// All messages with keys.
#[derive(Debug, Default)]
pub(super) struct Keys {
    members: BTreeMap<u64, Member>,
    lines: BTreeMap<Line, BTreeMap<u64, u64>>,
    /// By their ids.
    keys: BTreeMap<u64, u64>,
    /// Each may have taken an attempt that nobody saw.
    starts: u32,
    pub(super) sent: u64,
}

impl Keys {
    pub(super) fn started(&mut self) {
        self.starts += 1;
    }

    /// The shard is given the message `key`.
    pub(super) fn applied(&mut self, key: u64, line: Line, attempts_max: u32) {
        let member = Member { line, attempts_max, attempts: 0, id: None, may_be_gone: false };
        self.members.entry(key).or_insert(member);
    }

    /// It is kept as `id`.
    pub(super) fn kept(&mut self, key: u64, id: u64) {
        let Some(member) = self.members.get_mut(&key) else { return };
        if member.id.replace(id).is_none() {
            self.lines.entry(member.line.clone()).or_default().insert(id, key);
            self.keys.insert(id, key);
        }
    }

    /// It is sent.
    pub(super) fn sent(&mut self, key: u64, id: u64) {
        self.kept(key, id);
        let Some(member) = self.members.get(&key) else { return };
        let line = &self.lines[&member.line];
        for (&earlier, before) in line.range(..id) {
            let first = &self.members[before];
            let may_be_dead = first.attempts + self.starts >= first.attempts_max;
            assert!(
                first.may_be_gone || may_be_dead || member.may_be_gone,
                "message {key} is sent as {id} before {before}, which is {earlier} and has the same ordering key: {first:?}"
            );
        }
        self.members.get_mut(&key).expect("it was there above").attempts += 1;
        self.sent += 1;
    }

    /// Somebody acks or rejects the message `id`.
    pub(super) fn ended(&mut self, id: u64) {
        if let Some(member) = self.keys.get(&id).and_then(|key| self.members.get_mut(key)) {
            member.may_be_gone = true;
        }
    }

    /// Anything may have become of any of them.
    pub(super) fn disturb(&mut self) {
        self.members.values_mut().for_each(|member| member.may_be_gone = true);
    }
}
