//! Where to begin in a topic partition, from what the inbox, the group in Kafka
//! and the partition itself say. Pure.
//!
//! The inbox knows best: its position moved in the transactions that stored the
//! messages. Kafka's committed offset follows it; it counts only where the inbox
//! has no position, or where somebody else moved it forward.

use std::fmt;

/// A topic that a person has declared to be a new one.
const FROM_THE_BEGINNING: i64 = -1;

/// Where the inbox stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) next: i64,
    /// Time of the record before `next`, in milliseconds since 1970.
    pub(super) last_time: Option<i64>,
}

/// The group's offset in Kafka.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Committed {
    pub(super) offset: i64,
    /// Committed for this inbox, not by another consumer or a tool.
    pub(super) by_us: bool,
}

/// What is known of a partition when it is assigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) stored: Option<Stored>,
    pub(super) committed: Option<Committed>,
    /// First offset of the log.
    pub(super) low: i64,
    /// The offset after its last readable record.
    pub(super) high: i64,
    /// Begin at the end where nobody has an offset.
    pub(super) latest: bool,
}

/// Where to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    /// The first offset that is new to the inbox.
    pub(super) next: i64,
    /// The record before it is read as well: it must carry this time.
    pub(super) verify: Option<i64>,
    pub(super) note: Option<Note>,
}

/// What people should know about a beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Note {
    /// Kafka removed records before they were read.
    Removed { from: i64, to: i64 },
    /// Somebody else in the group went on, up to here.
    Moved { from: i64, to: i64 },
    /// Kafka's offset was set back; the inbox has these already.
    SetBack { committed: i64, stored: i64 },
    /// The database lacks what had been stored when this was committed.
    DatabaseBehind { committed: i64, stored: i64 },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Removed { from, to } => write!(
                f,
                "the offsets {from} to {} were removed by Kafka's retention before they were read: \
                 they are lost to this inbox",
                to - 1
            ),
            Self::Moved { from, to } => write!(
                f,
                "another consumer of the group (or a tool) moved on from offset {from} to {to}: \
                 what lies between is not in this inbox"
            ),
            Self::SetBack { committed, stored } => write!(
                f,
                "the group's offset in Kafka was set back to {committed}, but the inbox has everything up to \
                 {stored} and goes on from there; to read it again, call tide.relay_forget_position"
            ),
            Self::DatabaseBehind { committed, stored } => write!(
                f,
                "Kafka has offset {committed} as stored in this inbox, which stands at {stored}: the database \
                 was set back (restored from a backup?); reading again from {stored}"
            ),
        }
    }
}

/// The partition is not the one that the inbox has read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EndsBefore {
    pub(super) high: i64,
    pub(super) stored: i64,
}

/// Decides where to begin.
///
/// # Errors
/// When the log ends before what the inbox has from it.
pub(super) fn plan(facts: &Facts) -> Result<Plan, EndsBefore> {
    let Facts { low, high, .. } = *facts;
    let anew = facts.stored.is_some_and(|s| s.next == FROM_THE_BEGINNING);
    let Some(stored) = facts.stored.filter(|_| !anew) else {
        let wanted = match facts.committed {
            // What we committed belongs to the topic of the past.
            Some(committed) if anew && committed.by_us => low,
            Some(committed) if committed.offset <= high => committed.offset,
            _ if anew => low,
            None if facts.latest => high,
            // An offset beyond the end belongs to a topic of the past.
            Some(_) | None => low,
        };
        return Ok(Plan {
            next: wanted.max(low),
            verify: None,
            note: (wanted < low).then_some(Note::Removed {
                from: wanted,
                to: low,
            }),
        });
    };
    if stored.next > high {
        return Err(EndsBefore {
            high,
            stored: stored.next,
        });
    }
    let note = match facts.committed {
        Some(committed) if committed.by_us && committed.offset > stored.next => Some(Note::DatabaseBehind {
            committed: committed.offset,
            stored: stored.next,
        }),
        Some(committed) if !committed.by_us && committed.offset > stored.next && committed.offset <= high => {
            Some(Note::Moved {
                from: stored.next,
                to: committed.offset,
            })
        }
        Some(committed) if !committed.by_us && committed.offset < stored.next => Some(Note::SetBack {
            committed: committed.offset,
            stored: stored.next,
        }),
        _ => None,
    };
    let next = match note {
        Some(Note::Moved { to, .. }) => to,
        _ => stored.next,
    };
    if next < low {
        return Ok(Plan {
            next: low,
            verify: None,
            note: Some(Note::Removed { from: next, to: low }),
        });
    }
    Ok(Plan {
        next,
        verify: stored.last_time.filter(|_| next == stored.next && next > low),
        note,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(stored: Option<i64>, committed: Option<(i64, bool)>, low: i64, high: i64) -> Facts {
        Facts {
            stored: stored.map(|next| Stored {
                next,
                last_time: Some(7),
            }),
            committed: committed.map(|(offset, by_us)| Committed { offset, by_us }),
            low,
            high,
            latest: false,
        }
    }

    fn begin(facts: &Facts) -> (i64, Option<Note>) {
        let plan = plan(facts).unwrap();
        (plan.next, plan.note)
    }

    #[test]
    fn without_a_position_kafkas_offset_counts_then_the_option() {
        assert_eq!(begin(&facts(None, Some((5, false)), 0, 9)), (5, None));
        assert_eq!(begin(&facts(None, None, 2, 9)), (2, None));
        let latest = Facts {
            latest: true,
            ..facts(None, None, 2, 9)
        };
        assert_eq!(begin(&latest), (9, None));
        let removed = Note::Removed { from: 1, to: 4 };
        assert_eq!(begin(&facts(None, Some((1, false)), 4, 9)), (4, Some(removed)));
        assert_eq!(begin(&facts(None, Some((50, false)), 4, 9)), (4, None));
    }

    #[test]
    fn a_topic_declared_new_is_read_from_its_beginning() {
        let anew = |committed| facts(Some(FROM_THE_BEGINNING), committed, 3, 9);
        assert_eq!(begin(&anew(None)), (3, None));
        assert_eq!(begin(&anew(Some((5, true)))), (3, None));
        assert_eq!(begin(&anew(Some((5, false)))), (5, None));
        let latest = Facts {
            latest: true,
            ..anew(None)
        };
        assert_eq!(begin(&latest), (3, None));
    }

    #[test]
    fn the_inbox_knows_better_than_an_offset_that_was_set_back() {
        let note = Note::SetBack {
            committed: 0,
            stored: 6,
        };
        assert_eq!(begin(&facts(Some(6), Some((0, false)), 0, 9)), (6, Some(note)));
        // Our own commits follow the inbox with a delay.
        assert_eq!(begin(&facts(Some(6), Some((4, true)), 0, 9)), (6, None));
        assert_eq!(begin(&facts(Some(6), None, 0, 9)), (6, None));
    }

    #[test]
    fn who_moved_kafkas_offset_forward_decides_what_it_means() {
        let moved = Note::Moved { from: 6, to: 8 };
        assert_eq!(begin(&facts(Some(6), Some((8, false)), 0, 9)), (8, Some(moved)));
        let behind = Note::DatabaseBehind {
            committed: 8,
            stored: 6,
        };
        assert_eq!(begin(&facts(Some(6), Some((8, true)), 0, 9)), (6, Some(behind)));
        assert_eq!(begin(&facts(Some(6), Some((80, false)), 0, 9)), (6, None));
    }

    #[test]
    fn a_log_that_ends_before_the_position_is_another_log() {
        let error = plan(&facts(Some(6), None, 0, 5)).unwrap_err();
        assert_eq!(error, EndsBefore { high: 5, stored: 6 });
        assert_eq!(begin(&facts(Some(6), None, 0, 6)), (6, None));
    }

    #[test]
    fn the_record_before_is_verified_where_it_can_still_be_there() {
        let verify = |facts: &Facts| plan(facts).unwrap().verify;
        assert_eq!(verify(&facts(Some(6), None, 0, 9)), Some(7));
        assert_eq!(verify(&facts(Some(6), None, 5, 9)), Some(7));
        assert_eq!(verify(&facts(Some(6), None, 6, 9)), None);
        assert_eq!(verify(&facts(Some(6), Some((8, false)), 0, 9)), None);
    }

    #[test]
    fn what_kafka_removed_is_said() {
        let removed = Note::Removed { from: 6, to: 8 };
        assert_eq!(begin(&facts(Some(6), None, 8, 9)), (8, Some(removed)));
        assert!(removed.to_string().contains("offsets 6 to 7"), "{removed}");
    }
}
