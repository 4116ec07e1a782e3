//! The window of messages handed to a sink and not yet checkpointed.
//!
//! Outcomes arrive in any order; only the contiguous settled prefix moves the
//! cursor. Whatever lies behind the first unsettled message is sent again
//! after a crash (and found in the broker's tail there).

use std::collections::VecDeque;
use std::sync::Arc;

use super::{Positions, Round};
use crate::sabotage::Protection;

/// Names one message in the window; dense and rising in the order of sending.
pub(crate) type Ticket = u64;

/// How a message left the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Settlement {
    /// In the broker's log: at `position` of the sink's stream number `stream`.
    Placed { stream: u32, position: i64 },
    /// Delivered without a known place, found there already, or dead-lettered.
    Done,
}

#[derive(Debug)]
#[cfg_attr(test, derive(Clone, PartialEq, Eq, Hash))]
enum Entry {
    Message {
        id: i64,
        created_at: i64,
        bytes: u32,
        settled: Option<Settlement>,
    },
    RoundStart(Arc<Round>),
    RoundEnd,
}

/// The position up to which everything is delivered.
#[derive(Debug, Clone)]
#[cfg_attr(test, derive(PartialEq, Eq, Hash))]
pub(crate) struct Progress {
    pub(crate) round: Arc<Round>,
    /// Messages of the round with ids up to here are delivered.
    pub(crate) last_id: i64,
    /// Highest id delivered so far in any round.
    pub(crate) committed_offset: i64,
    pub(crate) positions: Positions,
}

#[cfg(test)]
impl Progress {
    /// Nothing is delivered.
    pub(crate) fn none() -> Self {
        let nothing = super::Snapshot::of_nothing();
        Self {
            round: Arc::new(Round {
                old: nothing.clone(),
                new: nothing,
            }),
            last_id: 0,
            committed_offset: 0,
            positions: Positions::new(),
        }
    }
}

/// See the module's description.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(crate) struct Window {
    entries: VecDeque<Entry>,
    /// Ticket of the first entry.
    first: Ticket,
    messages: usize,
    bytes: usize,
    progress: Progress,
    held: Option<Held>,
    moved: bool,
}

/// Messages that were found in the log lie at places that say nothing about
/// those before them in the window. Until they are passed, the positions stay
/// where the reading of the log began.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone, PartialEq, Eq, Hash))]
struct Held {
    /// The positions that are reached.
    reached: Positions,
    /// The first ticket after the last of those messages, when it is known.
    until: Option<Ticket>,
}

impl Window {
    pub(crate) fn new(progress: Progress) -> Self {
        Self {
            held: None,
            entries: VecDeque::new(),
            first: 0,
            messages: 0,
            bytes: 0,
            progress,
            moved: false,
        }
    }

    /// Messages in the window.
    pub(crate) fn len(&self) -> usize {
        self.messages
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.messages == 0
    }

    /// Bytes of the messages in the window.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn start_round(&mut self, round: Arc<Round>) {
        self.entries.push_back(Entry::RoundStart(round));
    }

    pub(crate) fn end_round(&mut self) {
        self.entries.push_back(Entry::RoundEnd);
    }

    /// Takes in a message about to be sent.
    pub(crate) fn push(&mut self, id: i64, created_at: i64, bytes: usize) -> Ticket {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.messages += 1;
        self.bytes += bytes as usize;
        self.entries.push_back(Entry::Message {
            id,
            created_at,
            bytes,
            settled: None,
        });
        self.first + self.entries.len() as u64 - 1
    }

    /// The id behind a ticket that is still in the window.
    pub(crate) fn id_of(&self, ticket: Ticket) -> Option<i64> {
        match self
            .entries
            .get(usize::try_from(ticket.checked_sub(self.first)?).ok()?)?
        {
            Entry::Message { id, .. } => Some(*id),
            Entry::RoundStart(_) | Entry::RoundEnd => None,
        }
    }

    /// The size of a message behind a ticket.
    pub(crate) fn bytes_of(&self, ticket: Ticket) -> u32 {
        let index = ticket
            .checked_sub(self.first)
            .and_then(|n| usize::try_from(n).ok());
        match index.and_then(|n| self.entries.get(n)) {
            Some(Entry::Message { bytes, .. }) => *bytes,
            _ => 0,
        }
    }

    /// Notes an outcome. A ticket that has left the window is ignored.
    pub(crate) fn settle(&mut self, ticket: Ticket, settlement: Settlement) {
        let index = ticket
            .checked_sub(self.first)
            .and_then(|n| usize::try_from(n).ok());
        if let Some(Entry::Message { settled, .. }) = index.and_then(|n| self.entries.get_mut(n)) {
            *settled = Some(settlement);
        }
        if Protection::ContiguousPrefix.is_off() {
            self.settle_before(index.unwrap_or(0));
        }
    }

    /// Takes what was sent before for settled as well: wrong, see
    /// [`Protection::ContiguousPrefix`].
    fn settle_before(&mut self, index: usize) {
        for entry in self.entries.iter_mut().take(index) {
            if let Entry::Message { settled, .. } = entry {
                settled.get_or_insert(Settlement::Done);
            }
        }
    }

    /// Moves the progress over the settled prefix; `name` gives the name of a
    /// sink's stream, `on_left` is told the insertion time of each message that
    /// leaves the window. Returns how many did.
    pub(crate) fn advance(&mut self, name: impl Fn(u32) -> Arc<str>, mut on_left: impl FnMut(i64)) -> usize {
        let mut left = 0;
        let mut last_place: Option<(u32, i64)> = None;
        let mut note = |positions: &mut Positions, stream: u32, position: i64| {
            // Runs of one stream are the rule: write its position once per run.
            match &mut last_place {
                Some((s, p)) if *s == stream => *p = (*p).max(position),
                place => {
                    if let Some((s, p)) = place.replace((stream, position)) {
                        reach(positions, &name(s), p + 1);
                    }
                }
            }
        };
        loop {
            match self.entries.front() {
                Some(Entry::Message {
                    id,
                    created_at,
                    bytes,
                    settled: Some(settlement),
                }) => {
                    on_left(*created_at);
                    if let Settlement::Placed { stream, position } = *settlement {
                        note(reached(&mut self.progress, &mut self.held), stream, position);
                    }
                    self.progress.last_id = *id;
                    self.progress.committed_offset = self.progress.committed_offset.max(*id);
                    self.messages -= 1;
                    self.bytes -= *bytes as usize;
                    left += 1;
                }
                Some(Entry::RoundStart(round)) => {
                    self.progress.round = Arc::clone(round);
                    self.progress.last_id = 0;
                }
                Some(Entry::RoundEnd) => {
                    let done = self.progress.round.new.clone();
                    self.progress.round = Arc::new(Round {
                        old: done.clone(),
                        new: done,
                    });
                    self.progress.last_id = 0;
                }
                Some(Entry::Message { settled: None, .. }) | None => break,
            }
            self.entries.pop_front();
            self.first += 1;
            self.moved = true;
        }
        if let Some((s, p)) = last_place {
            reach(reached(&mut self.progress, &mut self.held), &name(s), p + 1);
        }
        let first = self.first;
        let passed = |held: &mut Held| held.until.is_some_and(|until| until <= first);
        if let Some(held) = self.held.take_if(passed) {
            self.progress.positions = held.reached;
            self.moved = true;
        }
        left
    }

    pub(crate) fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Positions of streams that are about to be written to for the first time.
    pub(crate) fn add_positions(&mut self, positions: &Positions) {
        for (name, position) in positions {
            self.progress.positions.entry(name.clone()).or_insert(*position);
            reached(&mut self.progress, &mut self.held)
                .entry(name.clone())
                .or_insert(*position);
        }
        self.moved = true;
    }

    /// Messages were found in the log beyond the positions, which stay there
    /// until [`Self::release_positions`].
    pub(crate) fn hold_positions(&mut self) {
        let reached = self.progress.positions.clone();
        self.held = Some(Held { reached, until: None });
    }

    /// All that was found has been taken into the window: when it has left, the
    /// positions follow again.
    pub(crate) fn release_positions(&mut self) {
        if let Some(held) = &mut self.held {
            held.until = Some(self.first + self.entries.len() as u64);
        }
    }

    /// Whether the progress moved since the last call.
    pub(crate) fn take_moved(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }
}

fn reached<'a>(progress: &'a mut Progress, held: &'a mut Option<Held>) -> &'a mut Positions {
    held.as_mut()
        .map_or(&mut progress.positions, |held| &mut held.reached)
}

/// For the models: the same whatever number the first ticket has.
#[cfg(test)]
impl PartialEq for Window {
    fn eq(&self, other: &Self) -> bool {
        self.all_but_first() == other.all_but_first()
    }
}

#[cfg(test)]
impl Window {
    fn all_but_first(&self) -> impl PartialEq + std::hash::Hash {
        let until = |held: &Held| held.until.map(|until| until.saturating_sub(self.first));
        let held = self.held.as_ref().map(|held| (&held.reached, until(held)));
        (&self.entries, &self.progress, held, self.moved)
    }
}

#[cfg(test)]
impl std::hash::Hash for Window {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.all_but_first().hash(state);
    }
}

/// The last place in the prefix counts, even if it is below the known one: then
/// the log was made anew.
fn reach(positions: &mut Positions, name: &str, next: i64) {
    match positions.get_mut(name) {
        Some(position) => *position = next,
        None => {
            positions.insert(name.to_owned(), next);
        }
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_wrap, reason = "small test numbers")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round(old: &str, new: &str) -> Arc<Round> {
        Arc::new(Round {
            old: old.parse().unwrap(),
            new: new.parse().unwrap(),
        })
    }

    fn window() -> Window {
        Window::new(Progress::none())
    }

    fn names(stream: u32) -> Arc<str> {
        format!("topic/{stream}").into()
    }

    #[test]
    fn only_the_settled_prefix_moves_the_cursor() {
        let mut w = window();
        w.start_round(round("3:3:", "9:9:"));
        let tickets: Vec<Ticket> = (1..=4).map(|id| w.push(id, 0, 10)).collect();
        w.end_round();
        w.settle(
            tickets[1],
            Settlement::Placed {
                stream: 0,
                position: 8,
            },
        );
        w.settle(
            tickets[0],
            Settlement::Placed {
                stream: 0,
                position: 7,
            },
        );
        w.settle(
            tickets[3],
            Settlement::Placed {
                stream: 0,
                position: 10,
            },
        );
        assert_eq!(w.advance(names, |_| ()), 2);
        assert_eq!((w.progress().last_id, w.progress().positions["topic/0"]), (2, 9));
        assert_eq!((w.len(), w.bytes()), (2, 20));
        w.settle(tickets[2], Settlement::Done);
        assert_eq!(w.advance(names, |_| ()), 2);
        assert_eq!(w.progress().round, round("9:9:", "9:9:"));
        assert_eq!((w.progress().last_id, w.progress().committed_offset), (0, 4));
        assert_eq!(w.progress().positions["topic/0"], 11);
    }

    #[test]
    fn positions_wait_for_what_was_found_in_the_log() {
        let mut w = window();
        let at = |position| Settlement::Placed { stream: 0, position };
        w.add_positions(&Positions::from([("topic/0".into(), 5)]));
        w.hold_positions();
        // Found at 5, but 1 goes before it, and to a place behind it.
        let first = w.push(1, 0, 10);
        w.settle(first, at(6));
        w.advance(names, |_| ());
        assert_eq!((w.progress().last_id, w.progress().positions["topic/0"]), (1, 5));
        let tickets = [w.push(2, 0, 10), w.push(3, 0, 10)];
        w.settle(tickets[1], Settlement::Done);
        w.release_positions();
        w.advance(names, |_| ());
        assert_eq!(
            w.progress().positions["topic/0"],
            5,
            "2 is under way, 3 behind it"
        );
        w.settle(tickets[0], at(7));
        w.advance(names, |_| ());
        assert_eq!((w.progress().last_id, w.progress().positions["topic/0"]), (3, 8));
    }

    #[test]
    fn an_empty_round_moves_the_cursor_at_once() {
        let mut w = window();
        w.start_round(round("3:3:", "9:9:"));
        w.end_round();
        w.advance(names, |_| ());
        assert!(w.take_moved());
        assert_eq!(w.progress().round, round("9:9:", "9:9:"));
    }

    #[test]
    fn a_late_outcome_is_ignored() {
        let mut w = window();
        let t = w.push(1, 0, 1);
        w.settle(t, Settlement::Done);
        w.advance(names, |_| ());
        w.settle(t, Settlement::Done);
        assert_eq!(w.advance(names, |_| ()), 0);
        assert!(w.is_empty());
    }

    proptest! {
        // The oracle: after any order of settling, the cursor stands before
        // the first message that is not settled.
        #[test]
        fn prefix_equals_the_oracle(count in 1usize..60, order in proptest::collection::vec(0usize..60, 0..120)) {
            let mut w = window();
            w.start_round(round("3:3:", "9:9:"));
            let tickets: Vec<Ticket> = (0..count).map(|n| w.push(n as i64 + 1, 0, 1)).collect();
            let mut settled = vec![false; count];
            for pick in order {
                let pick = pick % count;
                w.settle(tickets[pick], Settlement::Placed { stream: 0, position: pick as i64 });
                settled[pick] = true;
                w.advance(names, |_| ());
                let prefix = settled.iter().take_while(|s| **s).count();
                prop_assert_eq!(w.progress().last_id, prefix as i64);
                prop_assert_eq!(w.len(), count - prefix);
                prop_assert_eq!(w.progress().positions.get("topic/0").copied().unwrap_or(0), prefix as i64);
            }
        }
    }
}
