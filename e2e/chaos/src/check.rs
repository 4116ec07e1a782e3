//! The verdict: what was committed against what an ordinary consumer read, by
//! id. Pure.

use std::collections::HashMap;

/// Lost messages that are looked into; beyond that a run is a ruin anyway.
const MOST: usize = 10_000;

/// A message's name: transaction, part, number in the part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id {
    /// Transaction.
    pub transaction: i64,
    /// Its part.
    pub part: u16,
    /// The message in it.
    pub index: u16,
}

/// A message as it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Read {
    /// Its name.
    pub id: Id,
    /// Its key.
    pub key: i32,
    /// Its number within its key, in the order of commits.
    pub n: i64,
    /// When, in milliseconds of the run.
    pub at: u32,
    /// Topic partition; 0 in a stream.
    pub lane: u16,
}

/// Messages of one key that were committed together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// Transaction.
    pub transaction: i64,
    /// Its part.
    pub part: u16,
    /// Their key.
    pub key: i32,
    /// The first one's number within the key.
    pub first_n: i64,
    /// How many.
    pub count: u16,
}

/// What is wrong; nothing, if all is well.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Committed messages.
    pub messages: u64,
    /// Committed and never read; the time is that of the next one of its key,
    /// 0 if there is none.
    pub lost: Vec<Read>,
    /// Read again, and when: each further time counts.
    pub doubled: Vec<(Id, u32)>,
    /// Read and never committed, or with another key or number than committed.
    pub foreign: Vec<Read>,
    /// Read for the first time after a later one of its key, or in another
    /// lane than those before.
    pub out_of_order: Vec<Read>,
}

impl Verdict {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.lost.is_empty()
            && self.doubled.is_empty()
            && self.foreign.is_empty()
            && self.out_of_order.is_empty()
    }

    /// Two verdicts on different destinations together.
    pub fn merge(&mut self, other: Self) {
        self.messages += other.messages;
        self.lost.extend(other.lost);
        self.doubled.extend(other.doubled);
        self.foreign.extend(other.foreign);
        self.out_of_order.extend(other.out_of_order);
    }
}

/// Compares what was committed with the reads of one destination, in the order
/// of each lane.
pub fn check(committed: impl IntoIterator<Item = Committed>, reads: &[Read]) -> Verdict {
    let mut verdict = Verdict::default();
    let mut parts: HashMap<(i64, u16), (Committed, Vec<bool>)> = HashMap::new();
    for part in committed {
        verdict.messages += u64::from(part.count);
        let seen = vec![false; part.count.into()];
        parts.insert((part.transaction, part.part), (part, seen));
    }
    // Of each key: the highest number read, and its lane.
    let mut reached: HashMap<i32, (i64, u16)> = HashMap::new();
    for read in reads {
        let Some((part, seen)) = parts.get_mut(&(read.id.transaction, read.id.part)) else {
            verdict.foreign.push(*read);
            continue;
        };
        let true_n = part.first_n + i64::from(read.id.index);
        match seen.get_mut(usize::from(read.id.index)) {
            Some(seen) if (read.key, read.n) == (part.key, true_n) => {
                if std::mem::replace(seen, true) {
                    verdict.doubled.push((read.id, read.at));
                    continue;
                }
            }
            _ => {
                verdict.foreign.push(*read);
                continue;
            }
        }
        let (highest, lane) = reached.entry(read.key).or_insert((read.n, read.lane));
        if read.n < *highest || read.lane != *lane {
            verdict.out_of_order.push(*read);
        }
        *highest = read.n.max(*highest);
    }
    verdict.lost = lost(parts.values(), reads);
    verdict
}

fn lost<'a>(parts: impl Iterator<Item = &'a (Committed, Vec<bool>)>, reads: &[Read]) -> Vec<Read> {
    let mut lost = Vec::new();
    for (part, seen) in parts {
        for (index, _) in (0..).zip(seen).filter(|(_, seen)| !**seen) {
            let n = part.first_n + i64::from(index);
            let next = reads.iter().filter(|r| r.key == part.key && r.n > n);
            lost.push(Read {
                id: Id {
                    transaction: part.transaction,
                    part: part.part,
                    index,
                },
                key: part.key,
                n,
                at: next.map(|r| r.at).min().unwrap_or(0),
                lane: 0,
            });
            if lost.len() >= MOST {
                return lost;
            }
        }
    }
    lost.sort_unstable_by_key(|read| read.id);
    lost
}

/// How a publisher saw a transaction end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// PostgreSQL said so.
    Committed,
    /// PostgreSQL said so.
    RolledBack,
    /// The connection was lost before the answer: the ledger knows.
    Unknown,
}

/// Whether the ledger (written by each transaction itself) agrees with what a
/// publisher was told. `expected` are the parts that a commit makes visible,
/// `found` those in the ledger.
pub fn ledger_agrees(outcome: Outcome, expected: &[u16], found: &[u16]) -> bool {
    match outcome {
        Outcome::Committed => expected == found,
        Outcome::RolledBack => found.is_empty(),
        // All or nothing.
        Outcome::Unknown => found.is_empty() || expected == found,
    }
}
