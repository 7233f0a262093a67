//! Faults in what worlds learned later: see [`crate::planted`].

use std::time::Duration;

use prost::Message as _;
use relaymesh::clock::Wall;
use relaymesh::ids::{ConnKey, LoopId};
use relaymesh::limits;
use relaymesh::mail::{
    Command, CommandBatch, DeadSelection, Effect, Misfire, OperatorReply, OperatorRequest, ScheduleSpec,
};
use relaymesh::message::message_header;
use relaymesh::wire::proto;

use crate::chaos::Trouble;
use crate::plan::Plan;
use crate::planted::Flaw;
use crate::scheduler::MS;

/// An operator that nobody knows of.
const OWN: ConnKey = ConnKey { loop_id: LoopId::OPERATOR, slot: u32::MAX, generation: 0 };

/// Makes sure that there is something for the flaw to break.
pub(crate) fn adapt(flaw: Flaw, plan: &mut Plan) {
    if (flaw as u8) < Flaw::IdsIgnored as u8 {
        return;
    }
    let mut random = fastrand::Rng::with_seed(1);
    plan.later.seed = Some(1);
    plan.later.every = 300 * MS;
    plan.later.clock_jump_ms = 5000;
    let is_for_steady_clock = matches!(
        flaw,
        Flaw::MisfiresMadeUp | Flaw::MissedForgotten | Flaw::DeadKeptLong | Flaw::DeadKeptShort
    );
    if is_for_steady_clock {
        plan.troubles.retain(|trouble| *trouble != Trouble::ClockSet);
    }
    match flaw {
        Flaw::IdsIgnored | Flaw::IdsMixed => {
            plan.dedup(&mut random);
            plan.later.dedup_ids = 80;
        }
        Flaw::KeysIgnored => {
            plan.later.order_keys = 80;
            plan.queue.body_memory_bytes_max = 1 << 30;
            plan.queue.work_queue.attempts_max = 1000;
            plan.load.bounded_attempts = 0;
        }
        Flaw::BindingsNarrowed | Flaw::FiltersIgnored | Flaw::UnbindsIgnored => {
            plan.later.bindings = 3;
            plan.queue.broadcast_bytes_max = plan.gateway.whole_message_bytes_max();
        }
        Flaw::MisfiresMadeUp | Flaw::MissedForgotten | Flaw::TimesInvented | Flaw::TimesDoubled => {
            if flaw == Flaw::TimesDoubled {
                // None is missed, so that each of them is there twice.
                plan.troubles.clear();
            }
            plan.later.schedules = 6;
            plan.load.every = 800 * MS;
            plan.queue.work_queue.messages_max = 100_000;
            plan.queue.mailbox.messages_max = 100_000;
        }
        Flaw::DeadKeptLong | Flaw::DeadKeptShort => {
            plan.keep_dead_for(Duration::from_secs(8));
            let factor = if flaw == Flaw::DeadKeptLong { 4 } else { 1 };
            let kept = Duration::from_secs(8) * factor / if flaw == Flaw::DeadKeptShort { 4 } else { 1 };
            plan.queue.work_queue.dead_ttl = Some(kept);
            plan.queue.mailbox.dead_ttl = Some(kept);
            plan.work.rejected = 40;
        }
        Flaw::SelectionsIgnored => {
            plan.later.selections = true;
            plan.work.rejected = 30;
        }
        Flaw::YoungestDies => {
            plan.let_oldest_die(&mut random);
            plan.troubles.clear();
            plan.load.delayed = 0;
            plan.load.expiring = 0;
        }
        _ => {}
    }
}

/// Changes what operators ask, before the shard gets it.
pub(crate) fn tamper(flaw: Flaw, batch: &mut CommandBatch, wall: Wall) {
    if matches!(flaw, Flaw::IdsIgnored | Flaw::KeysIgnored) {
        batch.messages.iter_mut().for_each(|message| message.header.has_options = false);
    }
    if flaw == Flaw::IdsMixed {
        mix_ids(&mut batch.bodies);
    }
    if flaw == Flaw::TimesDoubled {
        let doubled: Vec<Command> =
            batch.commands.iter().filter_map(|command| doubled(command, wall)).collect();
        batch.commands.extend(doubled);
    }
    for command in &mut batch.commands {
        let Command::Operator { request, .. } = command else { continue };
        match (flaw, &mut **request) {
            (Flaw::BindingsNarrowed, OperatorRequest::Bind { binding, .. }) => {
                binding.filter = "n > 100".to_owned();
            }
            (Flaw::FiltersIgnored, OperatorRequest::Bind { binding, .. }) => binding.filter.clear(),
            (Flaw::UnbindsIgnored, OperatorRequest::Unbind { name, .. }) => name.push_str("-not"),
            (Flaw::MisfiresMadeUp, OperatorRequest::ScheduleAdd { schedule, .. }) => {
                schedule.misfire = Misfire::All;
            }
            (Flaw::MissedForgotten, OperatorRequest::ScheduleAdd { schedule, .. }) => {
                schedule.misfire = Misfire::Skip;
            }
            (Flaw::TimesInvented, OperatorRequest::ScheduleAdd { schedule, .. }) => {
                schedule.cron = "* * * * * *".to_owned();
            }
            (Flaw::SelectionsIgnored, OperatorRequest::DeadRedrive { selection, .. }) => {
                *selection = DeadSelection::All;
            }
            _ => {}
        }
    }
}

/// Every other deduplication id becomes the one before it.
fn mix_ids(bodies: &mut [u8]) {
    // Field 11 of a message, and its length.
    let id = b"\x5a\x07order-";
    for at in 0..bodies.len().saturating_sub(id.len()) {
        if bodies[at..].starts_with(id) {
            bodies[at + id.len()] &= !1;
        }
    }
}

/// What a schedule that is added will publish for the next time but one, published by somebody else.
fn doubled(command: &Command, wall: Wall) -> Option<Command> {
    let Command::Operator { request, .. } = command else { return None };
    let OperatorRequest::ScheduleAdd { namespace, schedule } = &**request else { return None };
    let ScheduleSpec { name, cron, queue, body, .. } = &**schedule;
    let period_ms = cron.strip_prefix("*/")?.split_once(' ')?.0.parse::<u64>().ok()? * 1000;
    let time = (wall.0 / period_ms + 2) * period_ms;
    let mut message = proto::Message::decode(&body[..]).ok()?;
    let text = jiff::Timestamp::from_millisecond(time as i64).ok()?.to_string();
    message.attributes.insert("schedule".to_owned(), name.to_string());
    message.attributes.insert("scheduled_for".to_owned(), text);
    message.due_unix_ms = time;
    let body = message.encode_to_vec();
    let header = message_header(&body, limits::MESSAGE_BYTES_MAX).ok()?;
    let (namespace, queue) = (namespace.clone(), queue.clone());
    let request = OperatorRequest::Publish { namespace, queue, header, body };
    Some(Command::Operator { conn: OWN, request: Box::new(request) })
}

/// Whether nobody but us asked for it.
pub(crate) fn is_own(effect: &Effect) -> bool {
    matches!(effect, Effect::Operator { conn, .. } if *conn == OWN)
}

/// Changes what operators are told.
pub(crate) fn tamper_with_reply(flaw: Flaw, effect: &mut Effect) {
    if flaw != Flaw::YoungestDies {
        return;
    }
    // The oldest that made room is not told of, as if it were still there.
    if let Effect::Operator { reply, .. } = effect
        && let OperatorReply::DeadPage { rows, .. } = &mut **reply
        && let Some(oldest) = rows.iter().position(|row| row.reason == "overflow")
    {
        rows.remove(oldest);
    }
}
