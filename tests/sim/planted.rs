//! Faults put in on purpose, to show that the shadow model finds them: a disk that lies, and commands that are changed
//! on their way into the shard, behind the back of everyone who watches.

use std::time::Duration;

use relaymesh::clock::Wall;
use relaymesh::ids::{ClientId, QueueName};
use relaymesh::log::Durability;
use relaymesh::mail::{Command, CommandBatch, DrainOrder, Effect, Settlement, WHOLE_PPM};

use crate::plan::Plan;
use crate::planted_later;
use crate::scheduler::{MS, SECOND};
use crate::storage::Lie;

/// What is wrong on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// Nothing.
    None,
    /// Writes that are said to be durable lie in a cache.
    DiskCaches,
    /// Where commits are synced later, they are not.
    SyncsSkipped,
    /// Effects leave before their commit: the process answers for writes that it has not made.
    EffectsLeaveEarly,
    /// Acks are answered and not recorded.
    AcksDropped,
    /// Re-sends are taken for new messages.
    ResendsDoubled,
    /// Delays are ignored.
    DelaysIgnored,
    /// The lowest priority is served first.
    PrioritiesInverted,
    /// Consumers are given more than they asked for.
    CreditExceeded,
    /// Messages do not expire.
    ExpiryIgnored,
    /// An extended lease is given to somebody else.
    ExtensionsIgnored,
    /// A rival with the same name is taken for another client.
    RivalsServed,
    /// Attempts are not counted.
    AttemptsUnbounded,
    /// What was nacked is forgotten.
    NacksForget,
    /// Subscribers of a topic get another.
    TopicsMixed,
    /// A drain of a share tells everybody.
    DrainsGrow,
    /// A loop takes a drain of a share for the end of one.
    DrainsStop,
    /// Deduplication ids are not looked at.
    IdsIgnored,
    /// Nor are ordering keys.
    KeysIgnored,
    /// Bindings take less than they were asked to.
    BindingsNarrowed,
    /// They take everything.
    FiltersIgnored,
    /// They do not end.
    UnbindsIgnored,
    /// Missed times that are to be passed over are made up for.
    MisfiresMadeUp,
    /// Those that are to be made up for are passed over.
    MissedForgotten,
    /// Schedules publish for more times than they have.
    TimesInvented,
    /// Dead letters are kept too long.
    DeadKeptLong,
    /// Or not long enough.
    DeadKeptShort,
    /// All are redriven, whichever were meant.
    SelectionsIgnored,
    /// Of a full queue younger messages die than the oldest.
    YoungestDies,
    /// Schedules publish twice for some of their times.
    TimesDoubled,
    /// One deduplication id is taken for another.
    IdsMixed,
}

/// The flaw at work.
#[derive(Debug)]
pub(crate) struct Planted {
    flaw: Flaw,
    /// Counts the troubles of a world; kept here because both are made up.
    pub(crate) troubles: u64,
    seen: u64,
}

impl Planted {
    pub(crate) fn new(flaw: Flaw) -> Self {
        Self { flaw, troubles: 0, seen: 0 }
    }

    pub(crate) fn is_none(&self) -> bool {
        self.flaw == Flaw::None
    }

    /// What operators are told instead; `None` when they never asked.
    pub(crate) fn tamper_with_reply(&self, mut effect: Effect, is_troubled: bool) -> Option<Effect> {
        if is_troubled {
            planted_later::tamper_with_reply(self.flaw, &mut effect);
        }
        (!planted_later::is_own(&effect)).then_some(effect)
    }

    pub(crate) fn lie(&self) -> Option<Lie> {
        match self.flaw {
            Flaw::DiskCaches => Some(Lie::Cached),
            Flaw::EffectsLeaveEarly => Some(Lie::Late),
            Flaw::SyncsSkipped => Some(Lie::Unsynced),
            _ => None,
        }
    }

    /// Makes the flaw likely to matter.
    pub(crate) fn adapt(&self, mut plan: Plan) -> Plan {
        if self.flaw == Flaw::None {
            return plan;
        }
        plan.durability = match self.flaw {
            Flaw::SyncsSkipped => Durability::Interval(Duration::from_millis(200)),
            _ => Durability::Sync,
        };
        plan.duration = 20 * SECOND;
        plan.trouble_every = SECOND;
        plan.troubles = crate::chaos::Trouble::ALL.to_vec();
        plan.load.every = 100 * MS;
        plan.load.is_large = false;
        plan.load.delayed = plan.load.delayed.max(20);
        plan.load.prioritized = plan.load.prioritized.max(50);
        plan.load.expiring = plan.load.expiring.max(30);
        plan.work.extended = plan.work.extended.max(30);
        plan.work.nacked = plan.work.nacked.max(40);
        if self.flaw == Flaw::TopicsMixed {
            plan.broadcast(&mut fastrand::Rng::with_seed(1));
            plan.topics = 2;
        }
        if matches!(self.flaw, Flaw::DrainsGrow | Flaw::DrainsStop) {
            plan.share_drain_every = Some(2 * SECOND);
        }
        planted_later::adapt(self.flaw, &mut plan);
        plan
    }

    /// Changes what a loop is told to drain.
    pub(crate) fn tamper_with_drain(&self, loop_index: usize, order: DrainOrder) -> DrainOrder {
        match self.flaw {
            Flaw::DrainsGrow if order.share_ppm > 0 => DrainOrder { share_ppm: WHOLE_PPM, ..order },
            Flaw::DrainsStop if loop_index == 0 => DrainOrder { share_ppm: 0, ..order },
            _ => order,
        }
    }

    /// Changes commands before the shard gets them.
    pub(crate) fn tamper(&mut self, batch: &mut CommandBatch, wall: Wall) {
        if self.flaw == Flaw::DelaysIgnored {
            batch.messages.iter_mut().for_each(|message| message.header.delay_ms = 0);
        }
        if self.flaw == Flaw::ExpiryIgnored {
            batch.messages.iter_mut().for_each(|message| message.header.ttl_ms = 0);
        }
        if self.flaw == Flaw::PrioritiesInverted {
            batch
                .messages
                .iter_mut()
                .for_each(|message| message.header.priority = 9 - message.header.priority);
        }
        if self.flaw == Flaw::AttemptsUnbounded {
            let mut messages = batch.messages.iter_mut();
            for command in &batch.commands {
                let Command::Publish(publish) = command else { continue };
                let own = messages.by_ref().take(publish.messages as usize);
                // A topic takes no such message.
                if publish.queue.topic().is_none() {
                    own.for_each(|message| message.header.attempts_max = 1000);
                } else {
                    own.for_each(drop);
                }
            }
        }
        planted_later::tamper(self.flaw, batch, wall);
        for command in &mut batch.commands {
            self.tamper_with(command);
        }
    }

    fn tamper_with(&mut self, command: &mut Command) {
        match (self.flaw, command) {
            (Flaw::AcksDropped, Command::Settle(settle)) if settle.settlement == Settlement::Ack => {
                self.seen += 1;
                if self.seen.is_multiple_of(5) {
                    settle.settlement = Settlement::Extend { lease_ms: 50 };
                }
            }
            (Flaw::ExtensionsIgnored, Command::Settle(settle)) => {
                if let Settlement::Extend { .. } = settle.settlement {
                    settle.settlement =
                        Settlement::Nack { delay_ms: Some(0), error: "".into(), reject: false };
                }
            }
            (Flaw::RivalsServed, Command::Attach(attach)) => {
                self.seen += 1;
                attach.resume = None;
                attach.client =
                    ClientId::parse(&format!("{}-{}", attach.client, self.seen)).expect("a good name");
            }
            (Flaw::NacksForget, Command::Settle(settle)) => {
                // Whatever was said of it, it is gone.
                if let Settlement::Nack { .. } = settle.settlement {
                    settle.settlement = Settlement::Ack;
                }
            }
            (Flaw::ResendsDoubled, Command::Publish(publish)) => publish.producer = None,
            (Flaw::TopicsMixed, Command::Publish(publish)) if publish.queue.topic() == Some("t0") => {
                publish.queue = QueueName::parse("topic/t1").expect("a good name");
            }
            (Flaw::CreditExceeded, Command::Subscribe { credit_messages, credit_bytes, .. }) => {
                *credit_messages += 3;
                *credit_bytes = u64::MAX;
            }
            _ => {}
        }
    }
}
