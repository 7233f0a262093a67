//! Asks the shards over the operator's lanes and matches answers to questions.
//!
//! What concerns a namespace is asked of its shard, what concerns none of them in particular of all. One task owns the lanes.
//! Questions come to it through a bounded channel; each is numbered, and its answer finds its
//! way back by that number. Whoever waits gives up after a deadline; its entry goes with the answer, or when the room
//! is needed. Only so many requests may wait at once; a glance (a scrape, a health check) is not counted, so that a
//! server with many requests does not look like a dead one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot};

use super::{OperatorLane, Rung};
use crate::ids::{ConnKey, LoopId, ShardId};
use crate::limits::{HTTP_CONNECTIONS_MAX, OPERATOR_REQUESTS_MAX};
use crate::mail::{Bell, Command, CommandBatch, Effect, LaneFull, OperatorReply, OperatorRequest};

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum AskError {
    /// Too many questions are unanswered.
    #[error("{OPERATOR_REQUESTS_MAX} requests wait for the queues already; try again")]
    Busy,
    /// The shard did not answer in time.
    #[error(
        "the queues did not answer in time; whether they did what was asked is not known, so look before repeating it"
    )]
    TimedOut,
}

#[derive(Debug)]
struct Question {
    shard: ShardId,
    request: OperatorRequest,
    answer: oneshot::Sender<OperatorReply>,
}

/// Asks; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct ShardClient {
    questions: mpsc::Sender<Question>,
    room: Arc<Semaphore>,
    deadline: Duration,
    shards: u16,
}

impl ShardClient {
    /// The answer to `request`: of the shard with its namespace, or of all shards together.
    pub(super) async fn ask(&self, request: OperatorRequest) -> Result<OperatorReply, AskError> {
        let _place = self.room.try_acquire().map_err(|_| AskError::Busy)?;
        self.glance(self.deadline, request).await
    }

    /// The same with a deadline of its own, and not counted among the requests.
    pub(super) async fn glance(
        &self,
        deadline: Duration,
        request: OperatorRequest,
    ) -> Result<OperatorReply, AskError> {
        let Some(namespace) = request.namespace() else { return self.glance_at_all(deadline, request).await };
        let answered = self.put(namespace.shard(self.shards), request)?;
        in_time(deadline, async { answered.await.map_err(|_| AskError::Busy) }).await
    }

    /// The same, asked of every shard: what they say together.
    pub(super) async fn glance_at_all(
        &self,
        deadline: Duration,
        request: OperatorRequest,
    ) -> Result<OperatorReply, AskError> {
        let put = |shard| self.put(ShardId(shard), request.clone());
        let answers = (0..self.shards).map(put).collect::<Result<Vec<_>, _>>()?;
        in_time(deadline, async {
            let mut joined: Option<OperatorReply> = None;
            for answered in answers {
                let reply = answered.await.map_err(|_| AskError::Busy)?;
                joined = Some(match joined {
                    Some(before) => before.join(reply),
                    None => reply,
                });
            }
            joined.ok_or(AskError::Busy)
        })
        .await
    }

    /// The answer does not come when the task drops the question, for want of room in its table.
    fn put(
        &self,
        shard: ShardId,
        request: OperatorRequest,
    ) -> Result<oneshot::Receiver<OperatorReply>, AskError> {
        let (answer, answered) = oneshot::channel();
        self.questions.try_send(Question { shard, request, answer }).map_err(|_| AskError::Busy)?;
        Ok(answered)
    }

    /// Requests that wait for their answer.
    pub(super) fn waiting(&self) -> usize {
        OPERATOR_REQUESTS_MAX - self.room.available_permits()
    }
}

async fn in_time<T>(
    deadline: Duration,
    answer: impl Future<Output = Result<T, AskError>>,
) -> Result<T, AskError> {
    tokio::time::timeout(deadline, answer).await.unwrap_or(Err(AskError::TimedOut))
}

/// A client, and the task that serves it for as long as it is polled. There is a lane for each shard, in their order.
pub(super) fn start(
    lanes: Vec<OperatorLane>,
    bell: Bell,
    rung: Rung,
    deadline: Duration,
) -> (ShardClient, impl Future<Output = ()>) {
    let (questions, asked) = mpsc::channel(HTTP_CONNECTIONS_MAX);
    let room = Arc::new(Semaphore::new(OPERATOR_REQUESTS_MAX));
    // As many as there are numbers for.
    let shards = lanes.len() as u16;
    let lanes = lanes.into_iter().map(|ends| Lane { ends, unsent: CommandBatch::default() }).collect();
    let clerk = Clerk { lanes, bell, rung, unanswered: HashMap::new(), next: 0 };
    (ShardClient { questions, room, deadline, shards }, clerk.serve(asked))
}

struct Clerk {
    lanes: Vec<Lane>,
    bell: Bell,
    rung: Rung,
    unanswered: HashMap<u32, oneshot::Sender<OperatorReply>>,
    next: u32,
}

struct Lane {
    ends: OperatorLane,
    /// Not sent yet; at most [`HTTP_CONNECTIONS_MAX`], while the lane is full.
    unsent: CommandBatch,
}

impl Clerk {
    async fn serve(mut self, mut asked: mpsc::Receiver<Question>) {
        loop {
            self.hand_out();
            self.bell.about_to_sleep();
            // Only now, so that a lane that was full rings once it is not.
            self.lanes.iter_mut().for_each(Lane::send);
            if self.lanes.iter().any(|lane| !lane.ends.effects.is_empty()) {
                self.bell.awake();
                continue;
            }
            tokio::select! {
                question = asked.recv() => match question {
                    Some(question) => self.take(question),
                    None => return,
                },
                () = self.rung.0.notified() => {}
            }
            self.bell.awake();
            // What was asked meanwhile goes in the same batch.
            while let Ok(question) = asked.try_recv() {
                self.take(question);
            }
        }
    }

    /// Dropping a question tells whoever asked that there is no room.
    fn take(&mut self, question: Question) {
        if self.unanswered.len() >= HTTP_CONNECTIONS_MAX {
            self.unanswered.retain(|_, answer| !answer.is_closed());
        }
        let unsent = &mut self.lanes[question.shard.index()].unsent;
        if self.unanswered.len() >= HTTP_CONNECTIONS_MAX || unsent.commands.len() >= HTTP_CONNECTIONS_MAX {
            return;
        }
        self.next = self.next.wrapping_add(1);
        let conn = ConnKey { loop_id: LoopId::OPERATOR, slot: self.next, generation: 0 };
        unsent.commands.push(Command::Operator { conn, request: Box::new(question.request) });
        self.unanswered.insert(self.next, question.answer);
    }

    fn hand_out(&mut self) {
        let batches =
            self.lanes.iter().flat_map(|lane| std::iter::from_fn(|| lane.ends.effects.next_batch()));
        for effect in batches.flat_map(|batch| batch.effects) {
            let Effect::Operator { conn, reply } = effect else { continue };
            if let Some(answer) = self.unanswered.remove(&conn.slot) {
                // Whoever asked may have given up.
                let _ = answer.send(*reply);
            }
        }
    }
}

impl Lane {
    fn send(&mut self) {
        if self.unsent.is_empty() {
            return;
        }
        if let Err(LaneFull(batch)) = self.ends.commands.send(std::mem::take(&mut self.unsent)) {
            self.unsent = batch;
        }
    }
}
