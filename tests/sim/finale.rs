//! How a world ends: troubles stop, everything that can still happen happens, the server is started once more, and then
//! nothing may be missing, doubled or left over.

use std::collections::BTreeSet;

use crate::scheduler::{MS, Micros, SECOND};
use crate::storage::Crash;
use crate::trace::note;
use crate::world::{Event, World};
use relaymesh::limits;
use relaymesh::mail::DeadSelection;

/// Where a world is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Load is made and things go wrong.
    Troubled,
    /// Nothing goes wrong: every client comes back, every message is worked on.
    Calming,
    /// The queues are asked what they hold, until that is nothing.
    Draining,
    /// Dead letters are listed.
    Listing,
    /// And looked at one by one.
    Showing,
    /// The server was started once more; again everyone comes back.
    Restarted,
    /// What it says of its dead letters is compared with what it said before.
    Comparing,
    /// They are purged.
    Purging,
    /// Every gauge falls to zero.
    Settling,
    Over,
}

/// Between one look and the next.
const LOOK_EVERY: Micros = 250 * MS;
/// How long it may take until all is well, in virtual time.
const PATIENCE: Micros = 900 * SECOND;

impl World {
    pub(crate) fn finale_check(&mut self) {
        assert!(
            self.scheduler.now < self.plan.duration + PATIENCE,
            "{:?} takes for ever: {}",
            self.phase,
            self.what_is_awaited()
        );
        let next = self.next_phase();
        if next != self.phase {
            note!(self, "{next:?}");
            self.phase = next;
            self.enter();
        }
        self.scheduler.after(LOOK_EVERY, Event::FinaleCheck);
    }

    fn next_phase(&mut self) -> Phase {
        let phase = self.phase;
        match phase {
            Phase::Troubled => Phase::Calming,
            Phase::Calming if self.is_later_over() && self.are_clients_quiet() => Phase::Draining,
            Phase::Draining if !self.operator.is_waiting() => {
                if self.are_queues_empty() {
                    Phase::Listing
                } else {
                    Phase::Calming
                }
            }
            Phase::Listing if !self.operator.is_waiting() => Phase::Showing,
            Phase::Showing if !self.operator.is_waiting() && self.is_server_settled() => {
                self.ledger.check_all(&self.operator);
                Phase::Restarted
            }
            Phase::Restarted if self.are_clients_quiet() => Phase::Comparing,
            Phase::Comparing if !self.operator.is_waiting() => {
                self.compare();
                Phase::Purging
            }
            Phase::Purging if !self.operator.is_waiting() => Phase::Settling,
            Phase::Settling if self.left_over().is_empty() => Phase::Over,
            other => other,
        }
    }

    fn enter(&mut self) {
        match self.phase {
            Phase::Calming => {
                self.end_troubles();
                self.end_later();
                self.revive_clients();
            }
            Phase::Draining => {
                self.operator.stats.clear();
                let namespaces: BTreeSet<_> =
                    self.all_queues().into_iter().map(|(namespace, _)| namespace).collect();
                namespaces.iter().for_each(|namespace| self.operator.ask_stats(namespace));
            }
            Phase::Listing | Phase::Comparing => {
                self.operator.dead.clear();
                for queue in self.all_queues() {
                    self.operator.ask_dead(&queue);
                }
            }
            Phase::Showing => {
                self.operator.shown.clear();
                for (queue, row) in self.operator.dead.clone() {
                    self.operator.ask_show(&queue, row.id);
                }
            }
            Phase::Restarted => {
                let crash = if self.random.bool() { Crash::Kill } else { Crash::PowerLoss };
                self.crash_server(crash, 100 * MS);
            }
            Phase::Purging => {
                self.operator.changed = 0;
                for queue in self.all_queues() {
                    self.operator.ask_purge(&queue, DeadSelection::All);
                }
            }
            Phase::Settling => {
                let (purged, listed) = (self.operator.changed, self.operator.dead.len() as u64);
                assert!(purged <= listed, "{listed} dead letters were listed and {purged} purged");
            }
            Phase::Troubled | Phase::Over => {}
        }
        self.wake_shard(0);
    }

    /// Every name has a client that lives, so that whatever waits for it is taken.
    fn revive_clients(&mut self) {
        let living: BTreeSet<_> =
            self.clients.iter().filter(|one| one.is_alive).map(|one| one.id.clone()).collect();
        let mut revived = living;
        for index in 0..self.clients.len() {
            if revived.insert(self.clients[index].id.clone()) {
                self.rebear(index);
            }
        }
    }

    fn are_clients_quiet(&mut self) -> bool {
        // A rival that was taken over in the meantime may have been the last of its name.
        self.revive_clients();
        self.is_server_settled() && self.clients.iter().all(|client| client.is_quiet())
    }

    fn is_server_settled(&self) -> bool {
        self.server.as_ref().is_some_and(|server| server.is_listening && server.is_settled())
    }

    fn are_queues_empty(&self) -> bool {
        let rows = self.operator.stats.iter().flat_map(|(_, rows)| rows);
        let mut rows = rows.map(|row| row.ready + row.scheduled + row.leased + row.parked);
        !self.operator.stats.is_empty() && rows.all(|waiting| waiting == 0)
    }

    /// A start adds no dead letter, and takes none away that nobody acked late.
    fn compare(&self) {
        let after: BTreeSet<u64> = self.operator.dead.iter().map(|(_, row)| row.id).collect();
        let before: BTreeSet<u64> = self.operator.shown.iter().map(|(_, _, row)| row.id).collect();
        assert!(after.is_subset(&before), "a start made {:?} dead letters", after.difference(&before));
        for (_, key, row) in &self.operator.shown {
            let is_acked_late = self.ledger.is_ack_sent(*key);
            assert!(
                after.contains(&row.id) || is_acked_late || self.plan.later.dead_ttl.is_some(),
                "a start lost the dead letter of message {key}"
            );
        }
    }

    /// What should be zero by now and is not.
    fn left_over(&self) -> Vec<String> {
        let Some(server) = &self.server else { return vec!["no server".into()] };
        let shard = &server.shard_metrics;
        let mut gauges = vec![
            ("messages", shard.messages.value()),
            ("parked_bytes", shard.parked_bytes.value()),
            ("effects_held", shard.effects_held.value()),
            ("disk_full", shard.disk_full.value()),
            ("log_unsynced_bytes", shard.log_unsynced_bytes.value()),
            ("sessions_in_grace", shard.sessions_in_grace.value()),
        ];
        // Prepared segments come and go around the bound; one more may be under way.
        let allowed =
            2 * shard.log_live_bytes.value() / self.plan.segment_bytes + limits::SPARE_SEGMENTS_MAX as u64;
        gauges.push(("segments beyond the bound", shard.log_segments.value().saturating_sub(allowed + 1)));
        let living = self.clients.iter().filter(|client| client.is_alive).count() as u64;
        gauges.push(("sessions without a client", shard.sessions.value().abs_diff(living)));
        let mut live = 0;
        for own in &server.loops {
            let metrics = &own.metrics;
            live += metrics.connections_live.value();
            gauges.extend([
                ("output_bytes", metrics.output_bytes.value()),
                ("partial_bytes", metrics.partial_bytes.value()),
                ("commands_unanswered", metrics.commands_unanswered.value()),
                ("reading_stopped", metrics.reading_stopped.value()),
                ("connections_handshaking", metrics.connections_handshaking.value()),
                ("connections_closing", metrics.connections_closing.value()),
            ]);
        }
        gauges.push(("connections without a client", live.abs_diff(living)));
        gauges.retain(|(_, value)| *value != 0);
        gauges.into_iter().map(|(what, value)| format!("{what} = {value}")).collect()
    }

    fn what_is_awaited(&self) -> String {
        let loud = self.clients.iter().enumerate().filter(|(_, client)| !client.is_quiet());
        let loud: Vec<String> = loud
            .map(|(index, client)| {
                format!(
                    "client {index} (up {}, unanswered {}, held {}, {:?})",
                    client.session.is_up(),
                    client.session.unanswered(),
                    client.session.held(),
                    client.session.link()
                )
            })
            .collect();
        let stats = &self.operator.stats;
        format!(
            "{loud:?}, operator waits {}, left over {:?}, queues {stats:?}",
            self.operator.is_waiting(),
            self.left_over()
        )
    }
}
