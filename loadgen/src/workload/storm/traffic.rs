//! The traffic that a storm must not hurt: one agent that publishes to a durable queue at a steady rate, takes its own
//! messages back and acks them, through whatever happens to the server.
//!
//! Each delay counts from the moment the message was due, so that a server that is away is charged for all that should
//! have been published meanwhile. A message is lost if its publish was acknowledged and it is never delivered.

use std::collections::{HashMap, HashSet};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use relaymesh::client::{Client, Delivery, Error, Message, Options};
use relaymesh::clock::Clock;
use relaymesh::ids::{ClientId, Namespace};

use crate::report::Delays;

/// Messages out with the agent at once.
const CREDIT: u32 = 64;
/// How long what was acknowledged may take to be delivered once all is quiet.
const SETTLE: Duration = Duration::from_secs(60);
/// How long the agent waits for a message before it looks up.
const LOOK_UP: Duration = Duration::from_millis(20);
/// Questions that wait for the agent.
const ASKS_MAX: usize = 4;
const PAYLOAD_BYTES: usize = 256;

/// What came of the messages since the last storm began.
#[derive(Debug)]
pub(super) struct Window {
    /// From due to acknowledged.
    pub(super) published: Delays,
    /// From due to delivered.
    pub(super) delivered: Delays,
    /// Delivered again.
    pub(super) duplicates: u64,
    /// Refused by the server, which says so.
    pub(super) refused: u64,
    /// Acknowledged and never delivered.
    pub(super) lost: u64,
}

impl Window {
    fn new() -> Self {
        let (published, delivered) = (Delays::new(), Delays::new());
        Self { published, delivered, duplicates: 0, refused: 0, lost: 0 }
    }
}

/// What the agent is asked.
#[derive(Debug)]
pub(super) enum Ask {
    /// A storm begins: what came before counts no more.
    Begin,
    /// To stop publishing until all that was acknowledged is delivered and acked, and to say what came of it.
    Settle(SyncSender<Window>),
}

/// Who the agent is.
#[derive(Debug, Clone)]
pub(super) struct Agent {
    pub(super) connect: String,
    pub(super) namespace: Namespace,
    pub(super) token: String,
    pub(super) client: String,
    pub(super) queue: String,
    /// Messages a second.
    pub(super) rate: u32,
}

/// The agent's questions, from the run's side.
#[derive(Debug)]
pub(super) struct Asks(SyncSender<Ask>);

impl Asks {
    pub(super) fn new() -> (Self, Receiver<Ask>) {
        let (sender, receiver) = sync_channel(ASKS_MAX);
        (Self(sender), receiver)
    }

    pub(super) fn begin(&self) -> anyhow::Result<()> {
        self.0.send(Ask::Begin).map_err(|_| anyhow!("the surviving traffic has ended"))
    }

    pub(super) fn settle(&self, patience: Duration) -> anyhow::Result<Window> {
        let (sender, receiver) = sync_channel(1);
        self.0.send(Ask::Settle(sender)).map_err(|_| anyhow!("the surviving traffic has ended"))?;
        receiver.recv_timeout(patience).context("the surviving traffic did not settle")
    }
}

struct Traffic<'a> {
    agent: &'a Agent,
    clock: &'a Clock,
    client: Client,
    window: Window,
    next: u64,
    /// When each message on its way was due, in microseconds of the run's clock.
    on_their_way: HashMap<u64, u64>,
    /// Those of them whose publish was acknowledged.
    acknowledged: HashSet<u64>,
}

/// Goes on until nobody can ask any more.
///
/// # Errors
/// When the client is told never to come back.
pub(super) fn run(agent: &Agent, clock: &Clock, asks: &Receiver<Ask>) -> anyhow::Result<()> {
    let options = Options {
        namespace: agent.namespace.clone(),
        token: agent.token.clone(),
        client_id: Some(ClientId::parse(&agent.client)?),
        retry_first: true,
        ..Options::new(agent.connect.clone())
    };
    let mut client = Client::connect(options)?;
    client.subscribe(&agent.queue, CREDIT)?;
    let mut traffic = Traffic {
        agent,
        clock,
        client,
        window: Window::new(),
        next: 0,
        on_their_way: HashMap::new(),
        acknowledged: HashSet::new(),
    };
    traffic.go_on(asks)?;
    // What it still holds is nobody's business.
    let _ = traffic.client.close(LOOK_UP);
    Ok(())
}

impl Traffic<'_> {
    fn go_on(&mut self, asks: &Receiver<Ask>) -> anyhow::Result<()> {
        let every_us = 1_000_000 / u64::from(self.agent.rate.max(1));
        let mut due_us = self.clock.micros();
        loop {
            match asks.try_recv() {
                Ok(Ask::Begin) => self.window = Window::new(),
                Ok(Ask::Settle(answer)) => {
                    // What fell due while the server was away counts as well.
                    let until_us = self.clock.micros();
                    while due_us <= until_us {
                        self.publish(due_us)?;
                        due_us += every_us;
                        self.take_one(Duration::ZERO)?;
                    }
                    self.settle()?;
                    // The run may have given up.
                    let _ = answer.send(std::mem::replace(&mut self.window, Window::new()));
                    due_us = self.clock.micros();
                }
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => return Ok(()),
            }
            let now_us = self.clock.micros();
            if now_us >= due_us {
                self.publish(due_us)?;
                due_us += every_us;
            }
            let wait = Duration::from_micros(due_us.saturating_sub(self.clock.micros())).min(LOOK_UP);
            self.take_one(wait)?;
        }
    }

    /// Takes a message if there is one within `wait`.
    fn take_one(&mut self, wait: Duration) -> anyhow::Result<()> {
        match self.client.next(Some(wait))? {
            Some(delivery) => self.take(&delivery),
            None => Ok(()),
        }
    }

    fn publish(&mut self, due_us: u64) -> anyhow::Result<()> {
        let number = self.next;
        self.next += 1;
        let mut payload = vec![0; PAYLOAD_BYTES];
        payload[..8].copy_from_slice(&number.to_le_bytes());
        self.on_their_way.insert(number, due_us);
        match self.client.publish(&self.agent.queue, &Message::new(payload)) {
            Ok(_) => {
                self.window.published.record(self.clock.micros() - due_us);
                self.acknowledged.insert(number);
            }
            Err(Error::Refused { .. }) => {
                self.window.refused += 1;
                self.on_their_way.remove(&number);
            }
            Err(error) => return Err(error).context("the surviving traffic"),
        }
        Ok(())
    }

    fn take(&mut self, delivery: &Delivery) -> anyhow::Result<()> {
        let number = delivery.message.payload().first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
        let Some(number) = number else { bail!("a message of another came through the storm's queue") };
        match self.on_their_way.remove(&number) {
            Some(due_us) => self.window.delivered.record(self.clock.micros() - due_us),
            None => self.window.duplicates += 1,
        }
        self.acknowledged.remove(&number);
        self.client.ack(delivery.lease)?;
        Ok(())
    }

    /// Until all that was acknowledged is delivered, and every ack answered.
    fn settle(&mut self) -> anyhow::Result<()> {
        let until = self.clock.time() + SETTLE;
        while !self.acknowledged.is_empty() && self.clock.time() < until {
            self.take_one(LOOK_UP)?;
        }
        // Every publish was waited for: there is no result that nobody took.
        let _ = self.client.flush()?;
        self.window.lost = self.acknowledged.len() as u64;
        self.acknowledged.clear();
        self.on_their_way.clear();
        Ok(())
    }
}
