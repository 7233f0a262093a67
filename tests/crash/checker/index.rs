//! A history by what it is about.

use std::collections::{BTreeMap, HashMap};

use crate::history::{Event, History, How, Key, Lease, Micros, Place, Publish, What};

/// A history, and what of it belongs together.
pub(super) struct Index<'a> {
    pub(super) history: &'a History,
    pub(super) publishes: BTreeMap<u64, Published<'a>>,
    /// By id.
    pub(super) messages: BTreeMap<u64, Message>,
    /// What is to be in which queue, by whichever publish, and what was seen there.
    pub(super) copies: BTreeMap<(Key, Place), Copied>,
    pub(super) moves: BTreeMap<u64, Move<'a>>,
}

/// A publish and what became of it.
pub(super) struct Published<'a> {
    pub(super) publish: &'a Publish,
    pub(super) asked: Micros,
    pub(super) answered: Option<Micros>,
    pub(super) first_ids: Vec<u64>,
    pub(super) is_refused: bool,
}

/// A message under one id.
#[derive(Default)]
pub(super) struct Message {
    /// `None` when only its id was seen.
    pub(super) key: Option<Key>,
    pub(super) deliveries: Vec<Delivery>,
    pub(super) settles: Vec<Settle>,
    /// Redrives and purges that named it or may have meant it.
    pub(super) moves: Vec<u64>,
    /// It was among the dead letters when its queue was listed for the last time.
    pub(super) is_dead: bool,
}

#[derive(Clone, Copy)]
pub(super) struct Delivery {
    pub(super) at: Micros,
    pub(super) life: u32,
    pub(super) place: Place,
    pub(super) lease: Lease,
}

pub(super) struct Settle {
    pub(super) asked: Micros,
    pub(super) answered: Option<Micros>,
    pub(super) lease: Lease,
    pub(super) how: How,
}

/// One message in one queue.
#[derive(Default)]
pub(super) struct Copied {
    pub(super) ops: Vec<u64>,
    /// Under which ids it was answered or seen.
    pub(super) ids: Vec<u64>,
}

/// A redrive or a purge.
pub(super) struct Move<'a> {
    pub(super) from: Place,
    pub(super) to: Option<Place>,
    pub(super) ids: &'a [u64],
    pub(super) asked: Micros,
    pub(super) life: u32,
    /// When, and how many were moved.
    pub(super) answered: Option<(Micros, u64)>,
}

impl Move<'_> {
    /// When it was answered that at least as many were moved as were named.
    pub(super) fn was_whole(&self) -> Option<Micros> {
        self.answered.filter(|&(_, changed)| changed >= self.ids.len() as u64).map(|(at, _)| at)
    }
}

impl Message {
    /// Somebody was about to end it.
    pub(super) fn is_ended(&self, moves: &BTreeMap<u64, Move<'_>>) -> bool {
        self.is_dead
            || self.settles.iter().any(|settle| matches!(settle.how, How::Ack | How::Forward))
            || self.moves.iter().any(|op| moves[op].to.is_none())
    }
}

impl<'a> Index<'a> {
    pub(super) fn new(history: &'a History) -> Self {
        let mut index = Self {
            history,
            publishes: BTreeMap::new(),
            messages: BTreeMap::new(),
            copies: BTreeMap::new(),
            moves: BTreeMap::new(),
        };
        index.gather_publishes();
        index.gather_messages();
        index.gather_deaths();
        index
    }

    pub(super) fn events(&self) -> &'a [Event] {
        &self.history.events
    }

    fn gather_publishes(&mut self) {
        for event in self.events() {
            match &event.what {
                What::Publish(publish) => {
                    let entry = Published {
                        publish,
                        asked: event.at,
                        answered: None,
                        first_ids: Vec::new(),
                        is_refused: false,
                    };
                    self.publishes.insert(publish.op, entry);
                    for copy in &publish.copies {
                        self.copies.entry((copy.key, copy.place)).or_default().ops.push(publish.op);
                    }
                }
                What::Published { op, first_id } => {
                    let Some(entry) = self.publishes.get_mut(op) else { continue };
                    entry.answered = entry.answered.or(Some(event.at));
                    let Some(first_id) = first_id else { continue };
                    if !entry.first_ids.contains(first_id) {
                        entry.first_ids.push(*first_id);
                    }
                    for (id, copy) in (*first_id..).zip(&entry.publish.copies) {
                        note(&mut self.copies.entry((copy.key, copy.place)).or_default().ids, id);
                        self.messages.entry(id).or_default().key.get_or_insert(copy.key);
                    }
                }
                What::Refused { op } => {
                    if let Some(entry) = self.publishes.get_mut(op) {
                        entry.is_refused = true;
                    }
                }
                _ => {}
            }
        }
    }

    fn gather_messages(&mut self) {
        // Which message and which settlement an answer is about.
        let mut asked: HashMap<u64, (u64, usize)> = HashMap::new();
        for event in self.events() {
            match &event.what {
                What::Delivered { place, key, id, lease, .. } => {
                    let message = self.messages.entry(*id).or_default();
                    message.key.get_or_insert(*key);
                    let (at, life) = (event.at, event.life);
                    message.deliveries.push(Delivery { at, life, place, lease: *lease });
                    note(&mut self.copies.entry((*key, place)).or_default().ids, *id);
                }
                What::Settle { op, id, lease, how } => {
                    let message = self.messages.entry(*id).or_default();
                    asked.insert(*op, (*id, message.settles.len()));
                    let (lease, how) = (*lease, *how);
                    message.settles.push(Settle { asked: event.at, answered: None, lease, how });
                }
                What::Settled { op } => {
                    if let Some((id, at)) = asked.get(op)
                        && let Some(message) = self.messages.get_mut(id)
                    {
                        message.settles[*at].answered = Some(event.at);
                    }
                }
                _ => {}
            }
        }
    }

    fn gather_deaths(&mut self) {
        let mut last: BTreeMap<Place, &'a [crate::history::Dead]> = BTreeMap::new();
        for event in self.events() {
            match &event.what {
                What::Listed { place, dead, .. } => {
                    last.insert(place, dead);
                }
                What::Move { op, from, to, ids, more } => {
                    let (asked, life) = (event.at, event.life);
                    self.moves.insert(*op, Move { from, to: *to, ids, asked, life, answered: None });
                    for id in ids {
                        self.messages.entry(*id).or_default().moves.push(*op);
                    }
                    if *more {
                        let others: Vec<u64> = self.may_be_dead_in(from).collect();
                        for id in others.into_iter().filter(|id| !ids.contains(id)) {
                            self.messages.entry(id).or_default().moves.push(*op);
                        }
                    }
                }
                What::Moved { op, changed } => {
                    if let Some(entry) = self.moves.get_mut(op) {
                        entry.answered = Some((event.at, *changed));
                    }
                }
                _ => {}
            }
        }
        for dead in last.into_values().flatten() {
            self.messages.entry(dead.id).or_default().is_dead = true;
        }
    }

    /// Messages that were published to a queue, or seen there.
    fn may_be_dead_in(&self, place: Place) -> impl Iterator<Item = u64> {
        let of_it = self.copies.iter().filter(move |((_, at), _)| *at == place);
        of_it.flat_map(|(_, copied)| copied.ids.iter().copied())
    }

    /// Whether anything of a copy was seen.
    pub(super) fn exists(&self, key: Key, place: Place) -> bool {
        self.copies.get(&(key, place)).is_some_and(|copied| !copied.ids.is_empty())
    }
}

fn note(ids: &mut Vec<u64>, id: u64) {
    if !ids.contains(&id) {
        ids.push(id);
    }
}
