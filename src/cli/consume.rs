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

use super::exec::{self, Outcome};
use crate::client::{Client, Delivery, Nack, Options, Waker};
use crate::clock::{Clock, Time};
use crate::ids::{LeaseId, QueueName, SubscriptionId};

/// What to take and what to do with it.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) queue: QueueName,
    /// `None`: print.
    pub(super) exec: Option<String>,
    /// Messages taken at once.
    pub(super) concurrency: u32,
    /// Messages answered before it ends.
    pub(super) max: Option<u64>,
    pub(super) json: bool,
}

/// How long the last answers and the goodbye may take.
const CLOSE_WITHIN: Duration = Duration::from_secs(10);
/// Exit code after a second signal, as shells give it for SIGINT.
const KILLED: i32 = 130;

pub(super) fn run(options: Options, plan: Plan) -> anyhow::Result<()> {
    let mut client = Client::connect(options)?;
    let stop = stop_on_signals(client.waker())?;
    let subscription = client
        .subscribe_up_to(plan.queue.as_str(), plan.concurrency, plan.max)
        .with_context(|| format!("cannot take messages of {}", plan.queue))?;
    let outcome = match &plan.exec {
        None => print_all(&mut client, &plan, &stop),
        Some(command) => {
            let (results, finished) = bounded(plan.concurrency as usize);
            let waker = client.waker();
            let mut crew = Crew {
                client: &mut client,
                command: Arc::from(command.as_str()),
                subscription,
                running: HashMap::new(),
                results,
                finished,
                waker,
                clock: Clock::starting_at(Time(0)),
                answered: 0,
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
        let Some(delivery) = client.next(None)? else { continue };
        print(&mut stdout, &delivery, plan.json).context("cannot write to stdout")?;
        client.ack(delivery.lease)?;
        answered += 1;
    }
    Ok(())
}

/// Prints a message; it is acked only once it is out.
fn print(out: &mut impl Write, delivery: &Delivery, json: bool) -> std::io::Result<()> {
    let payload = delivery.message.payload();
    if json {
        let mut object = serde_json::json!({
            "id": delivery.id().0,
            "queue": delivery.queue.as_str(),
            "attempt": delivery.attempt(),
            "attributes": delivery.message.attributes().collect::<HashMap<_, _>>(),
            "payload_base64": STANDARD.encode(payload),
        });
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
    extend_at: Time,
}

struct Done {
    lease: LeaseId,
    outcome: Outcome,
}

/// The commands that run, and their client.
struct Crew<'a> {
    client: &'a mut Client,
    command: Arc<str>,
    subscription: SubscriptionId,
    /// At most as many as the subscription has credit.
    running: HashMap<LeaseId, Job>,
    results: Sender<Done>,
    finished: Receiver<Done>,
    waker: Waker,
    clock: Clock,
    answered: u64,
}

impl Crew<'_> {
    fn run(&mut self, max: Option<u64>, stop: &AtomicBool) -> anyhow::Result<()> {
        let mut is_stopping = false;
        loop {
            self.hand_back()?;
            self.extend_due()?;
            if stop.load(Ordering::Relaxed) && !is_stopping {
                is_stopping = true;
                self.client.unsubscribe(self.subscription)?;
            }
            let is_done = is_stopping || max.is_some_and(|max| self.answered >= max);
            if is_done && self.running.is_empty() {
                return Ok(());
            }
            let Some(delivery) = self.client.next(self.until_extension())? else { continue };
            // What arrives while stopping is free again with BYE.
            if !is_stopping {
                self.start(delivery)?;
            }
        }
    }

    fn start(&mut self, delivery: Delivery) -> anyhow::Result<()> {
        let (lease, lease_for) = (delivery.lease, delivery.lease_for);
        let (command, results, waker) = (Arc::clone(&self.command), self.results.clone(), self.waker.clone());
        thread::Builder::new().name("command".to_owned()).spawn(move || {
            let outcome = exec::run(&command, &delivery, std::io::stdout());
            // Nobody listens any more only when the process is ending.
            let _ = results.send(Done { lease, outcome });
            waker.wake();
        })?;
        let extend_at = self.clock.time() + lease_for / 2;
        self.running.insert(lease, Job { lease_for, extend_at });
        Ok(())
    }

    fn hand_back(&mut self) -> anyhow::Result<()> {
        while let Ok(Done { lease, outcome }) = self.finished.try_recv() {
            self.running.remove(&lease);
            match outcome {
                Outcome::Done => self.client.ack(lease)?,
                // Unanswered, the message goes to another worker.
                Outcome::Unprintable(error) => return Err(error).context("cannot write to stdout"),
                Outcome::Failed(error) => {
                    eprintln!("relaymesh: message {} failed: {error}", lease.message);
                    self.client.nack(lease, Nack { error, ..Nack::default() })?;
                }
            }
            self.answered += 1;
        }
        Ok(())
    }

    fn extend_due(&mut self) -> anyhow::Result<()> {
        let now = self.clock.time();
        for (&lease, job) in &mut self.running {
            if job.extend_at <= now {
                job.extend_at = now + job.lease_for / 2;
                self.client.extend(lease, job.lease_for)?;
            }
        }
        Ok(())
    }

    fn until_extension(&self) -> Option<Duration> {
        let now = self.clock.time();
        self.running.values().map(|job| job.extend_at - now).min()
    }
}

#[cfg(test)]
mod tests;
