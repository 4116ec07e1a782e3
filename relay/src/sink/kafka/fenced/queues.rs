//! The queues of all partitions, who leads them, and what their answers mean.
//! Pure, like [`Partition`]; shared behind a lock.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::partition::{Batching, Due, Partition};
use super::protocol::{self, Metadata, Produced, code};
use super::record_batch::{ProducerId, Record};

/// Before something is sent again that was not taken.
pub(super) const AGAIN: Duration = Duration::from_millis(50);
/// Of one request.
const MOST_BYTES: usize = 8 << 20;

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) opaque: usize,
    /// Partition and offset, or the broker's error code.
    pub(super) result: Result<(i32, i64), i16>,
}

/// What the answers to a request come to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) outcomes: Vec<Outcome>,
    /// Leaders have to be asked for.
    pub(super) stale: bool,
    pub(super) over: Option<Over>,
}

/// Why nothing more can be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    /// Another owner has begun.
    Fenced,
    /// A batch was refused that others lie behind.
    Refused,
}

/// What metadata tell.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Learnt {
    /// The brokers that lead something.
    pub(super) leading: Vec<i32>,
    /// A topic that has more partitions than are known.
    pub(super) grown: Option<String>,
}

/// One batch of a request that has no answer yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Awaited {
    topic: usize,
    partition: i32,
    base_sequence: i32,
    attempt: u32,
}

/// A batch to be sent, with the place it goes to.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) batch: Bytes,
}

#[derive(Debug)]
struct Slot {
    queue: Partition,
    leader: i32,
    /// The broker that has what is under way.
    sent_to: i32,
}

#[derive(Debug)]
struct Topic {
    name: String,
    slots: Vec<Slot>,
}

/// See the module's description. Topics are numbered in the order in which they
/// are added.
#[derive(Debug, Default)]
pub(super) struct Queues {
    topics: Vec<Topic>,
    by_name: HashMap<String, usize>,
    brokers: HashMap<i32, (String, u16)>,
    pub(super) over: Option<Over>,
}

/// No leader is known.
const NOBODY: i32 = -1;

impl Queues {
    pub(super) fn add(&mut self, name: &str, partitions: i32, producer: ProducerId, batching: Batching) {
        let slot = |_| Slot {
            queue: Partition::new(producer, batching),
            leader: NOBODY,
            sent_to: NOBODY,
        };
        self.by_name.insert(name.to_owned(), self.topics.len());
        self.topics.push(Topic {
            name: name.to_owned(),
            slots: (0..partitions).map(slot).collect(),
        });
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.topics.iter().map(|topic| topic.name.clone()).collect()
    }

    pub(super) fn address(&self, broker: i32) -> Option<(String, u16)> {
        self.brokers.get(&broker).cloned()
    }

    pub(super) fn addresses(&self) -> Vec<(String, u16)> {
        self.brokers.values().cloned().collect()
    }

    /// Takes in who leads what.
    pub(super) fn learn(&mut self, metadata: Metadata) -> Learnt {
        for (id, host, port) in metadata.brokers {
            self.brokers.insert(id, (host, port));
        }
        let mut learnt = Learnt::default();
        for (topic, partition, leader) in metadata.leaders {
            if let Some(slot) = self.slot(&topic, partition) {
                slot.leader = leader;
                learnt.leading.push(leader);
            } else if self.by_name.contains_key(&topic) {
                learnt.grown = Some(topic);
            }
        }
        learnt.leading.retain(|leader| *leader != NOBODY);
        learnt.leading.sort_unstable();
        learnt.leading.dedup();
        learnt
    }

    fn slot(&mut self, topic: &str, partition: i32) -> Option<&mut Slot> {
        let topic = *self.by_name.get(topic)?;
        self.topics[topic].slots.get_mut(usize::try_from(partition).ok()?)
    }

    /// Whether a partition that has something to send has no known leader.
    pub(super) fn lacks_leaders(&self) -> bool {
        let now = Instant::now();
        self.slots()
            .any(|slot| slot.leader == NOBODY && slot.queue.due(now) != Due::Later)
    }

    fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.topics.iter().flat_map(|topic| &topic.slots)
    }

    /// Adds a record; returns the broker whose connection should look, if any.
    pub(super) fn push<'a, H>(
        &mut self,
        topic: usize,
        partition: i32,
        (now, timestamp): (Instant, i64),
        record: Record<'a, H>,
        opaque: usize,
    ) -> Option<i32>
    where
        H: Iterator<Item = (&'a str, Option<&'a [u8]>)> + Clone,
    {
        let slot = self
            .topics
            .get_mut(topic)?
            .slots
            .get_mut(usize::try_from(partition).ok()?)?;
        let looks = slot.queue.push(now, timestamp, record, opaque);
        looks.then_some(slot.leader)
    }

    /// What is to be sent to a broker now, one batch of each partition at most.
    pub(super) fn collect(&mut self, broker: i32, now: Instant) -> (Vec<Outgoing>, Vec<Awaited>) {
        let (mut outgoing, mut awaited, mut bytes) = (Vec::new(), Vec::new(), 0);
        if self.over.is_some() {
            return (outgoing, awaited);
        }
        for (number, topic) in self.topics.iter_mut().enumerate() {
            for (partition, slot) in (0..).zip(&mut topic.slots) {
                // Not before the former leader has answered for what it has.
                let waits = slot.queue.is_under_way() && slot.sent_to != broker;
                if slot.leader != broker || waits || bytes >= MOST_BYTES {
                    continue;
                }
                let Some(sending) = slot.queue.take(now) else {
                    continue;
                };
                slot.sent_to = broker;
                bytes += sending.bytes.len();
                awaited.push(Awaited {
                    topic: number,
                    partition,
                    base_sequence: sending.base_sequence,
                    attempt: sending.attempt,
                });
                outgoing.push(Outgoing {
                    topic: topic.name.clone(),
                    partition,
                    batch: sending.bytes,
                });
            }
        }
        (outgoing, awaited)
    }

    /// When there will be something for this broker, if nothing else happens.
    pub(super) fn due(&self, broker: i32, now: Instant) -> Due {
        if self.over.is_some() {
            return Due::Later;
        }
        let mut next: Option<Instant> = None;
        for slot in self.slots().filter(|slot| slot.leader == broker) {
            match slot.queue.due(now) {
                Due::Now if slot.queue.is_under_way() && slot.sent_to != broker => {}
                Due::Now => return Due::Now,
                Due::At(at) => next = Some(next.map_or(at, |other| other.min(at))),
                Due::Later => {}
            }
        }
        next.map_or(Due::Later, Due::At)
    }

    /// A broker has answered a request.
    pub(super) fn answered(&mut self, awaited: &[Awaited], answers: &[Produced], now: Instant) -> Verdict {
        let mut verdict = Verdict::default();
        for sent in awaited {
            let topic = &mut self.topics[sent.topic];
            let Some(answer) = answers
                .iter()
                .find(|answer| answer.partition == sent.partition && answer.topic == topic.name)
            else {
                continue;
            };
            let Some(slot) = usize::try_from(sent.partition)
                .ok()
                .and_then(|at| topic.slots.get_mut(at))
            else {
                continue;
            };
            settle(slot, *sent, answer, now, &mut verdict);
        }
        self.over = self.over.or(verdict.over);
        verdict
    }

    /// The connection to a broker is gone, with all that is under way there.
    pub(super) fn lost(&mut self, broker: i32, now: Instant) {
        for slot in self.topics.iter_mut().flat_map(|topic| &mut topic.slots) {
            if slot.sent_to == broker {
                slot.queue.all_again(now + AGAIN);
            }
        }
    }
}

fn settle(slot: &mut Slot, sent: Awaited, answer: &Produced, now: Instant, verdict: &mut Verdict) {
    let sequence = sent.base_sequence;
    if answer.code == code::NONE {
        let opaques = slot.queue.acknowledged(sequence).unwrap_or_default();
        verdict.outcomes.extend(
            (answer.base_offset..)
                .zip(opaques)
                .map(|(offset, opaque)| Outcome {
                    opaque,
                    result: Ok((sent.partition, offset)),
                }),
        );
        return;
    }
    // An answer to an earlier sending says nothing any more.
    if !slot.queue.awaits(sequence, sent.attempt) {
        return;
    }
    match answer.code {
        code::INVALID_PRODUCER_EPOCH | code::PRODUCER_FENCED => verdict.over = Some(Over::Fenced),
        // The batch before it was not taken.
        code::OUT_OF_ORDER_SEQUENCE if !slot.queue.is_first(sequence) => {
            slot.queue.again_from(sequence, now + AGAIN);
        }
        passing if protocol::is_passing(passing) => {
            slot.queue.again_from(sequence, now + AGAIN);
            verdict.stale = true;
        }
        code => {
            let (opaques, goes_on) = slot.queue.refused(sequence).unwrap_or_default();
            verdict.outcomes.extend(opaques.into_iter().map(|opaque| Outcome {
                opaque,
                result: Err(code),
            }));
            if !goes_on {
                verdict.over = Some(Over::Refused);
            }
        }
    }
}

#[cfg(test)]
#[path = "queues_tests.rs"]
mod tests;
