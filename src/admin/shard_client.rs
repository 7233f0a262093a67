//! Asks the shard over the operator's lane and matches answers to questions.
//!
//! One task owns the lane. Questions come to it through a bounded channel; each is numbered, and its answer finds its
//! way back by that number. Whoever waits gives up after a deadline; its entry goes with the answer, or when the room
//! is needed. Only so many requests may wait at once; a glance (a scrape, a health check) is not counted, so that a
//! server with many requests does not look like a dead one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot};

use super::{OperatorLane, Rung};
use crate::ids::{ConnKey, LoopId};
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
    request: OperatorRequest,
    answer: oneshot::Sender<OperatorReply>,
}

/// Asks; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct ShardClient {
    questions: mpsc::Sender<Question>,
    room: Arc<Semaphore>,
    deadline: Duration,
}

impl ShardClient {
    /// The shard's answer to `request`.
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
        let (answer, answered) = oneshot::channel();
        self.questions.try_send(Question { request, answer }).map_err(|_| AskError::Busy)?;
        match tokio::time::timeout(deadline, answered).await {
            Ok(Ok(reply)) => Ok(reply),
            // The task dropped the question: its table was full.
            Ok(Err(_)) => Err(AskError::Busy),
            Err(_) => Err(AskError::TimedOut),
        }
    }

    /// Requests that wait for their answer.
    pub(super) fn waiting(&self) -> usize {
        OPERATOR_REQUESTS_MAX - self.room.available_permits()
    }
}

/// A client, and the task that serves it for as long as it is polled.
pub(super) fn start(
    lane: OperatorLane,
    bell: Bell,
    rung: Rung,
    deadline: Duration,
) -> (ShardClient, impl Future<Output = ()>) {
    let (questions, asked) = mpsc::channel(HTTP_CONNECTIONS_MAX);
    let room = Arc::new(Semaphore::new(OPERATOR_REQUESTS_MAX));
    let (unanswered, unsent) = (HashMap::new(), CommandBatch::default());
    let clerk = Clerk { lane, bell, rung, unanswered, unsent, next: 0 };
    (ShardClient { questions, room, deadline }, clerk.serve(asked))
}

struct Clerk {
    lane: OperatorLane,
    bell: Bell,
    rung: Rung,
    unanswered: HashMap<u32, oneshot::Sender<OperatorReply>>,
    /// Not sent yet; at most [`HTTP_CONNECTIONS_MAX`], while the lane is full.
    unsent: CommandBatch,
    next: u32,
}

impl Clerk {
    async fn serve(mut self, mut asked: mpsc::Receiver<Question>) {
        loop {
            self.hand_out();
            self.bell.about_to_sleep();
            // Only now, so that a lane that was full rings once it is not.
            self.send();
            if !self.lane.effects.is_empty() {
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
        if self.unanswered.len() >= HTTP_CONNECTIONS_MAX || self.unsent.commands.len() >= HTTP_CONNECTIONS_MAX
        {
            return;
        }
        self.next = self.next.wrapping_add(1);
        let conn = ConnKey { loop_id: LoopId::OPERATOR, slot: self.next, generation: 0 };
        self.unsent.commands.push(Command::Operator { conn, request: Box::new(question.request) });
        self.unanswered.insert(self.next, question.answer);
    }

    fn send(&mut self) {
        if self.unsent.is_empty() {
            return;
        }
        if let Err(LaneFull(batch)) = self.lane.commands.send(std::mem::take(&mut self.unsent)) {
            self.unsent = batch;
        }
    }

    fn hand_out(&mut self) {
        while let Some(batch) = self.lane.effects.next_batch() {
            for effect in batch.effects {
                let Effect::Operator { conn, reply } = effect else { continue };
                if let Some(answer) = self.unanswered.remove(&conn.slot) {
                    // Whoever asked may have given up.
                    let _ = answer.send(*reply);
                }
            }
        }
    }
}
