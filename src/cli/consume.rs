//! Taking messages and answering them: what `work` and `device` share.
//!
//! The main thread owns the client. Each message is worked on in a thread of its own, of which there are at most as
//! many as the subscription has credit; a thread hands its result back over a channel and rings the client's waker.

use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crossbeam_channel::{Receiver, Sender, bounded};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::exec::{self, Failure, Outcome};
use crate::client::{Client, Error, Message, Nack, Options, Receipt, Received, Waker};
use crate::clock::{Clock, Time};
use crate::ids::{LeaseId, QueueName, SubscriptionId};
use crate::limits::LEASE_MIN;
use crate::wire::proto::Code;

/// What to take and what to do with it.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) queue: QueueName,
    /// Topics whose broadcasts are taken as well.
    pub(super) topics: Vec<String>,
    /// `None`: print.
    pub(super) exec: Option<String>,
    /// Exit codes of the command after which a message is not tried again.
    pub(super) reject_on: Vec<u8>,
    /// Where the output of the command goes, in the step in which the message is acked.
    pub(super) publish_to: Option<QueueName>,
    /// Messages taken at once.
    pub(super) concurrency: u32,
    /// Messages answered before it ends, broadcasts counted.
    pub(super) max: Option<u64>,
    pub(super) json: bool,
}

/// How long the last answers and the goodbye may take.
const CLOSE_WITHIN: Duration = Duration::from_secs(10);
/// How often answers to publishes are looked for beside what arrives.
const ANSWER_GLANCE: Duration = Duration::from_millis(250);
/// How soon a publish that was refused for want of room is tried again, if the server does not say.
const AGAIN_AT_LEAST: Duration = Duration::from_millis(50);
/// Exit code after a second signal, as shells give it for SIGINT.
const KILLED: i32 = 130;

pub(super) fn run(options: Options, plan: Plan) -> anyhow::Result<()> {
    let mut client = Client::connect(options)?;
    let stop = stop_on_signals(client.waker())?;
    let subscription = client
        .subscribe_up_to(plan.queue.as_str(), plan.concurrency, plan.max)
        .with_context(|| format!("cannot take messages of {}", plan.queue))?;
    for topic in &plan.topics {
        client.subscribe_topic(topic).with_context(|| format!("cannot listen to the topic {topic}"))?;
    }
    let outcome = match &plan.exec {
        None => print_all(&mut client, &plan, &stop),
        Some(command) => {
            let (results, finished) = bounded(2 * plan.concurrency as usize);
            let waker = client.waker();
            let mut crew = Crew {
                client: &mut client,
                command: Arc::from(command.as_str()),
                publish_to: plan.publish_to.clone(),
                reject_on: plan.reject_on,
                subscription,
                running: HashMap::new(),
                publishing: Vec::new(),
                refused: Vec::new(),
                broadcasts_running: 0,
                concurrency: plan.concurrency,
                results,
                finished,
                waker,
                clock: Clock::starting_at(Time(0)),
                answered: 0,
                is_stopping: false,
            };
            crew.run(plan.max, &stop)
        }
    };
    // What was answered goes out even if the loop failed.
    let closed = client.close(CLOSE_WITHIN);
    outcome?;
    let _ = closed.context("some answers were not confirmed; their messages may be delivered again")?;
    Ok(())
}

/// The first signal sets the flag and rings; the second ends the process.
fn stop_on_signals(waker: Waker) -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("cannot listen for signals")?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for _ in signals.forever() {
            if flag.swap(true, Ordering::Relaxed) {
                std::process::exit(KILLED);
            }
            waker.wake();
        }
    })?;
    Ok(stop)
}

fn print_all(client: &mut Client, plan: &Plan, stop: &AtomicBool) -> anyhow::Result<()> {
    let mut answered = 0;
    let mut stdout = std::io::stdout().lock();
    while plan.max.is_none_or(|max| answered < max) && !stop.load(Ordering::Relaxed) {
        let Some(received) = client.receive(None)? else { continue };
        print(&mut stdout, &received, plan.json).context("cannot write to stdout")?;
        if let Received::Delivery(delivery) = received {
            client.ack(delivery.lease)?;
        }
        answered += 1;
    }
    Ok(())
}

/// Prints a message; it is acked only once it is out.
fn print(out: &mut impl Write, received: &Received, json: bool) -> std::io::Result<()> {
    let payload = received.message().payload();
    if json {
        let mut object = serde_json::json!({
            "queue": received.queue().as_str(),
            "attributes": received.message().attributes().collect::<HashMap<_, _>>(),
            "payload_base64": STANDARD.encode(payload),
        });
        if let Received::Delivery(delivery) = received {
            object["id"] = delivery.id().0.into();
            object["attempt"] = delivery.attempt().into();
        }
        if let Ok(text) = std::str::from_utf8(payload) {
            object["payload_text"] = text.into();
        }
        writeln!(out, "{object}")?;
    } else {
        out.write_all(payload)?;
        out.write_all(b"\n")?;
    }
    out.flush()
}

/// A message being worked on.
struct Job {
    lease_for: Duration,
    /// `None` once the lease is known to be over.
    extend_at: Option<Time>,
}

impl Job {
    /// A lease that is shorter than may be asked for is not run after.
    fn extend_every(&self) -> Duration {
        self.lease_for.max(LEASE_MIN) / 2
    }
}

struct Done {
    /// `None` of a topic's message, which nobody waits for.
    lease: Option<LeaseId>,
    outcome: Outcome,
    /// What is to be published with the ack.
    output: Option<Message>,
}

/// What came of a message, and what is acked with it.
struct Passing {
    lease: LeaseId,
    output: Message,
}

/// The commands that run, and their client.
struct Crew<'a> {
    client: &'a mut Client,
    command: Arc<str>,
    subscription: SubscriptionId,
    publish_to: Option<QueueName>,
    reject_on: Vec<u8>,
    /// At most as many as the subscription has credit.
    running: HashMap<LeaseId, Job>,
    /// Publishes with their acks that have no answer; their jobs are still among those that run.
    publishing: Vec<(Receipt, Passing)>,
    /// Those that were refused for now, and when to try again; their jobs still run as well.
    refused: Vec<(Time, Passing)>,
    /// At most `concurrency` of them.
    broadcasts_running: u32,
    concurrency: u32,
    results: Sender<Done>,
    finished: Receiver<Done>,
    waker: Waker,
    clock: Clock,
    answered: u64,
    /// Nothing is begun any more, and nothing waited for that was refused.
    is_stopping: bool,
}

impl Crew<'_> {
    fn run(&mut self, max: Option<u64>, stop: &AtomicBool) -> anyhow::Result<()> {
        loop {
            self.hand_back()?;
            self.take_answers()?;
            self.publish_again()?;
            self.extend_due()?;
            if stop.load(Ordering::Relaxed) && !self.is_stopping {
                self.is_stopping = true;
                self.client.unsubscribe(self.subscription)?;
            }
            let is_done = self.is_stopping || max.is_some_and(|max| self.answered >= max);
            if is_done && self.running.is_empty() && self.broadcasts_running == 0 {
                return Ok(());
            }
            let Some(received) = self.next(self.until_due())? else { continue };
            // What arrives while stopping is free again with BYE.
            if !self.is_stopping {
                self.start(received)?;
            }
        }
    }

    /// Waits for a message no longer than until an answer to a publish comes.
    fn wait_for_answers(
        &mut self,
        timeout: Option<Duration>,
    ) -> Result<Option<Received>, crate::client::Error> {
        self.client.drive(timeout.unwrap_or(ANSWER_GLANCE).min(ANSWER_GLANCE))?;
        self.client.next(Some(Duration::ZERO)).map(|delivery| delivery.map(Received::Delivery))
    }

    /// Broadcasts wait while as many commands run on them as may.
    fn next(&mut self, timeout: Option<Duration>) -> Result<Option<Received>, crate::client::Error> {
        if !self.publishing.is_empty() {
            return self.wait_for_answers(timeout);
        }
        if self.broadcasts_running < self.concurrency {
            return self.client.receive(timeout);
        }
        self.client.next(timeout).map(|delivery| delivery.map(Received::Delivery))
    }

    fn start(&mut self, received: Received) -> anyhow::Result<()> {
        let lease = match &received {
            Received::Delivery(delivery) => {
                let mut job = Job { lease_for: delivery.lease_for, extend_at: None };
                job.extend_at = Some(self.clock.time() + job.extend_every());
                self.running.insert(delivery.lease, job);
                Some(delivery.lease)
            }
            Received::Broadcast(_) => {
                self.broadcasts_running += 1;
                None
            }
        };
        let (command, results, waker) = (Arc::clone(&self.command), self.results.clone(), self.waker.clone());
        let publishes = self.publish_to.is_some();
        thread::Builder::new().name("command".to_owned()).spawn(move || {
            let (outcome, output) = if publishes {
                let (outcome, output) = exec::run_captured(&command, &received);
                (outcome, Some(received.message().with_payload(output)))
            } else {
                (exec::run(&command, &received, std::io::stdout()), None)
            };
            // Nobody listens any more only when the process is ending.
            let _ = results.send(Done { lease, outcome, output });
            waker.wake();
        })?;
        Ok(())
    }

    fn hand_back(&mut self) -> anyhow::Result<()> {
        while let Ok(Done { lease, outcome, output }) = self.finished.try_recv() {
            let output = match (lease, &outcome, output) {
                (Some(lease), Outcome::Done, Some(output)) => Some(Passing { lease, output }),
                _ => None,
            };
            if let Some(passing) = output {
                self.publish(passing)?;
                continue;
            }
            match lease {
                Some(lease) => _ = self.running.remove(&lease),
                None => self.broadcasts_running -= 1,
            }
            match outcome {
                Outcome::Done => lease.map_or(Ok(()), |lease| self.client.ack(lease))?,
                // Unanswered, the message goes to another worker.
                Outcome::Unprintable(error) => return Err(error).context("cannot write to stdout"),
                Outcome::Failed(failure) => match lease {
                    Some(lease) if self.is_reject(&failure) => self.reject(lease, failure.error)?,
                    Some(lease) => self.fail(lease, failure.error)?,
                    None => eprintln!("relaymesh: the command failed on a broadcast: {}", failure.error),
                },
            }
            self.answered += 1;
        }
        Ok(())
    }

    fn fail(&mut self, lease: LeaseId, error: String) -> anyhow::Result<()> {
        eprintln!("relaymesh: message {} failed: {error}", lease.message);
        self.client.nack(lease, Nack { error, ..Nack::default() })?;
        Ok(())
    }

    fn is_reject(&self, failure: &Failure) -> bool {
        self.reject_on.iter().any(|&code| failure.exit_code == Some(code.into()))
    }

    fn reject(&mut self, lease: LeaseId, error: String) -> anyhow::Result<()> {
        eprintln!("relaymesh: message {} is rejected: {error}", lease.message);
        self.client.nack(lease, Nack { error, reject: true, ..Nack::default() })?;
        Ok(())
    }

    /// Publishes what came of a message, which is done with it.
    fn publish(&mut self, passing: Passing) -> anyhow::Result<()> {
        let Some(queue) = &self.publish_to else { return Ok(()) };
        let (lease, output) = (passing.lease, &passing.output);
        match self.client.ack_and_publish_pipelined(&[lease], queue.as_str(), output) {
            Ok(receipt) => self.publishing.push((receipt, passing)),
            Err(error @ (Error::Message(_) | Error::Batch(_))) => {
                let error = format!("cannot publish what came of it to {queue}: {error}");
                self.running.remove(&lease);
                self.fail(lease, error)?;
                self.answered += 1;
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Tries those again that were refused for now.
    fn publish_again(&mut self) -> anyhow::Result<()> {
        let now = self.clock.time();
        let (due, later) = std::mem::take(&mut self.refused).into_iter().partition(|&(at, _)| at <= now);
        self.refused = later;
        let due: Vec<(Time, Passing)> = due;
        due.into_iter().try_for_each(|(_, passing)| self.publish(passing))
    }

    fn take_answers(&mut self) -> anyhow::Result<()> {
        for (receipt, passing) in std::mem::take(&mut self.publishing) {
            let lease = passing.lease;
            let answer = match self.client.answer(receipt) {
                None => {
                    self.publishing.push((receipt, passing));
                    continue;
                }
                // The work is done: there is no room for it yet, and no attempt at it failed.
                Some(Err(Error::Refused { retry_after: Some(after), .. })) if !self.is_stopping => {
                    self.refused.push((self.clock.time() + after.max(AGAIN_AT_LEAST), passing));
                    continue;
                }
                Some(answer) => answer,
            };
            self.running.remove(&lease);
            self.answered += 1;
            match answer {
                Ok(_) => {}
                Err(error @ Error::Refused { code: Code::LeaseLost, .. }) => {
                    let id = lease.message;
                    eprintln!("relaymesh: too late for message {id}, nothing was published: {error}");
                }
                Err(error) => self.fail(lease, format!("cannot publish what came of it: {error}"))?,
            }
        }
        Ok(())
    }

    fn extend_due(&mut self) -> anyhow::Result<()> {
        let now = self.clock.time();
        for (&lease, job) in &mut self.running {
            if job.extend_at.is_some_and(|at| at <= now) {
                job.extend_at = match self.client.extend(lease, job.lease_for) {
                    Ok(()) => Some(now + job.extend_every()),
                    // It was over before, which was said; or the publish that acks it was answered this moment.
                    Err(Error::NotHeld) => None,
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    /// Until something is to be extended, or published again.
    fn until_due(&self) -> Option<Duration> {
        let now = self.clock.time();
        let extensions = self.running.values().filter_map(|job| job.extend_at);
        extensions.chain(self.refused.iter().map(|&(at, _)| at)).map(|at| at - now).min()
    }
}

#[cfg(test)]
mod tests;
