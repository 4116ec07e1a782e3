//! Messages on their way: the owner's window, connections, the broker.

use std::collections::VecDeque;
use std::sync::Arc;

use super::steps::{name, position};
use super::{Broker, Connection, Entry, Fate, Owner, Ownership, Protection, Request, State};
use crate::cursor::Settlement;

impl Ownership {
    pub(super) fn partition(&self, id: i64) -> usize {
        usize::try_from(id - 1).unwrap() % self.partitions
    }

    /// The next message: skipped when it landed before.
    pub(super) fn send(&self, state: &mut State, relay: usize) {
        let owner = state.owner(relay);
        let id = owner.next;
        owner.next += 1;
        let ticket = owner.window.push(id, 0, 1);
        if owner.landed.remove(&id) {
            owner.window.settle(ticket, Settlement::Done);
            return advance(owner);
        }
        let partition = self.partition(id);
        let (sequence, producer) = (owner.sent[partition], owner.producer);
        owner.sent[partition] += 1;
        let request = Request {
            id,
            sequence,
            fate: None,
        };
        let mut connections = state.connections.iter_mut();
        match connections.find(|c| !c.gone && (c.producer, c.partition) == (producer, partition)) {
            Some(connection) => connection.requests.push_back(request),
            None => state.connections.push(Connection {
                producer,
                partition,
                gone: false,
                requests: [request].into(),
            }),
        }
    }

    /// The broker takes the first request of a connection that it has not.
    pub(super) fn handle(&self, state: &mut State, n: usize) {
        let connection = &mut state.connections[n];
        let (producer, log) = (connection.producer, &mut state.logs[connection.partition]);
        let first = connection.requests.iter_mut().find(|r| r.fate.is_none()).unwrap();
        let end = position(log.entries.len());
        let fate = match self.broker {
            Broker::Fencing => {
                let known = |e: &Entry| (e.producer, e.sequence) == (producer, first.sequence);
                if producer < log.fence && self.off != Some(Protection::BrokerFence) {
                    Fate::Fenced
                } else if let Some(at) = log.entries.iter().position(known) {
                    Fate::Placed(position(at))
                } else {
                    let sent = log.entries.iter().filter(|e| e.producer == producer).count();
                    assert_eq!(sent, usize::from(first.sequence), "out of order");
                    log.fence = log.fence.max(producer);
                    Fate::Placed(end)
                }
            }
            Broker::Settling { window: true, .. } if log.entries.iter().any(|e| e.id == first.id) => {
                Fate::Duplicate
            }
            Broker::Settling { .. } => Fate::Placed(end),
        };
        first.fate = Some(fate);
        if fate == Fate::Placed(end) {
            log.entries.push(Entry {
                id: first.id,
                producer,
                sequence: first.sequence,
            });
        }
        if connection.gone {
            connection.requests.pop_front();
        } else if !self.slow_answers {
            self.acknowledge(state, n);
        }
    }

    /// The first answer on a connection reaches the owner.
    pub(super) fn acknowledge(&self, state: &mut State, n: usize) {
        let connection = &mut state.connections[n];
        let (producer, partition) = (connection.producer, connection.partition);
        let request = connection.requests.pop_front().unwrap();
        let relay = state.sender(producer);
        let settlement = match request.fate.unwrap() {
            Fate::Placed(position) => Settlement::Placed {
                stream: u32::try_from(partition).unwrap(),
                position,
            },
            Fate::Duplicate => Settlement::Done,
            // It is not the owner any more, the broker says.
            Fate::Fenced => return state.end(relay),
        };
        let owner = state.owner(relay);
        let mut tickets = 0..self.messages.unsigned_abs();
        // Without the contiguous prefix it may have left the window.
        let Some(ticket) = tickets.find(|t| owner.window.id_of(*t) == Some(request.id)) else {
            return;
        };
        owner.window.settle(ticket, settlement);
        if self.off == Some(Protection::ContiguousPrefix) {
            for before in 0..ticket {
                owner.window.settle(before, Settlement::Done);
            }
        }
        advance(owner);
    }

    /// The owner's producer keeps its numbers and sends what has no answer
    /// again; without them the whole attempt is over.
    pub(super) fn break_connection(&self, state: &mut State, n: usize) {
        let producer = state.connections[n].producer;
        if self.broker != Broker::Fencing {
            return self.again(state, state.sender(producer));
        }
        let again: VecDeque<Request> = state.connections[n]
            .requests
            .iter()
            .map(|request| Request {
                fate: None,
                ..request.clone()
            })
            .collect();
        let partition = state.connections[n].partition;
        state.connections[n].give_up();
        state.connections.push(Connection {
            producer,
            partition,
            gone: false,
            requests: again,
        });
    }
}

impl State {
    /// The owner that sends under this producer epoch.
    fn sender(&self, producer: u8) -> usize {
        let is_of = |owner: &Option<Arc<Owner>>| owner.as_ref().is_some_and(|o| o.producer == producer);
        self.relays.iter().position(is_of).unwrap()
    }
}

impl Connection {
    /// Nobody waits for its answers any more.
    pub(super) fn give_up(&mut self) {
        self.gone = true;
        self.requests.retain(|request| request.fate.is_none());
    }
}

fn advance(owner: &mut Owner) {
    owner.window.advance(name, |_| ());
    owner.moved |= owner.window.take_moved();
}
