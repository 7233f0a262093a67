//! Asks the shard over the operator's lane and matches answers to questions.
//!
//! One task owns the lane. Questions come to it through a bounded channel; each is numbered, and its answer finds its
//! way back by that number. Whoever waits gives up after a deadline; its entry goes with the answer, or when the room
//! is needed.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::{OperatorLane, Rung};
use crate::ids::{ConnKey, LoopId};
use crate::limits::OPERATOR_REQUESTS_MAX;
use crate::mail::{Bell, Command, CommandBatch, Effect, OperatorReply, OperatorRequest};

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum AskError {
    /// Too many questions are unanswered.
    #[error("{OPERATOR_REQUESTS_MAX} requests wait for the queues already; try again")]
    Busy,
    /// The shard did not answer in time.
    #[error("the queues did not answer in time; try again")]
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
    deadline: Duration,
}

impl ShardClient {
    /// The shard's answer to `request`.
    pub(super) async fn ask(&self, request: OperatorRequest) -> Result<OperatorReply, AskError> {
        self.ask_within(self.deadline, request).await
    }

    /// The same with a deadline of its own.
    pub(super) async fn ask_within(
        &self,
        deadline: Duration,
        request: OperatorRequest,
    ) -> Result<OperatorReply, AskError> {
        let (answer, answered) = oneshot::channel();
        self.questions.try_send(Question { request, answer }).map_err(|_| AskError::Busy)?;
        match tokio::time::timeout(deadline, answered).await {
            Ok(Ok(reply)) => Ok(reply),
            // The task dropped the question: its lane or its table was full.
            Ok(Err(_)) => Err(AskError::Busy),
            Err(_) => Err(AskError::TimedOut),
        }
    }

    /// Questions that wait to be sent.
    pub(super) fn waiting(&self) -> usize {
        self.questions.max_capacity() - self.questions.capacity()
    }
}

/// A client, and the task that serves it for as long as it is polled.
pub(super) fn start(
    lane: OperatorLane,
    bell: Bell,
    rung: Rung,
    deadline: Duration,
) -> (ShardClient, impl Future<Output = ()>) {
    let (questions, asked) = mpsc::channel(OPERATOR_REQUESTS_MAX);
    let clerk = Clerk { lane, bell, rung, unanswered: HashMap::new(), next: 0 };
    (ShardClient { questions, deadline }, clerk.serve(asked))
}

struct Clerk {
    lane: OperatorLane,
    bell: Bell,
    rung: Rung,
    unanswered: HashMap<u32, oneshot::Sender<OperatorReply>>,
    next: u32,
}

impl Clerk {
    async fn serve(mut self, mut asked: mpsc::Receiver<Question>) {
        loop {
            self.hand_out();
            self.bell.about_to_sleep();
            if !self.lane.effects.is_empty() {
                self.bell.awake();
                continue;
            }
            tokio::select! {
                question = asked.recv() => match question {
                    Some(question) => self.send(question),
                    None => return,
                },
                () = self.rung.0.notified() => {}
            }
            self.bell.awake();
        }
    }

    /// Dropping a question tells whoever asked that there is no room.
    fn send(&mut self, question: Question) {
        if self.unanswered.len() >= OPERATOR_REQUESTS_MAX {
            self.unanswered.retain(|_, answer| !answer.is_closed());
        }
        if self.unanswered.len() >= OPERATOR_REQUESTS_MAX {
            return;
        }
        self.next = self.next.wrapping_add(1);
        let conn = ConnKey { loop_id: LoopId::OPERATOR, slot: self.next, generation: 0 };
        let command = Command::Operator { conn, request: Box::new(question.request) };
        let batch = CommandBatch { commands: vec![command], ..CommandBatch::default() };
        if self.lane.commands.send(batch).is_ok() {
            self.unanswered.insert(self.next, question.answer);
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
