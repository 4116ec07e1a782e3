//! The verdict on a reverse pipeline: what the broker accepted against the
//! rows of the inbox. Pure.

use std::collections::{BTreeSet, HashMap};

/// A message's name: its sender and number.
pub type Sent = (u32, u64);

/// A row of the inbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// As the inbox made it.
    pub event_id: String,
    /// Which message it is.
    pub sent: Sent,
}

/// What is wrong; nothing, if all is well.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InboxVerdict {
    /// Messages in the broker's log.
    pub messages: u64,
    /// In the log and in no row.
    pub lost: Vec<Sent>,
    /// In more rows than in the log.
    pub doubled: Vec<Sent>,
    /// In a row and not in the log.
    pub foreign: Vec<Sent>,
    /// Acknowledged by the broker and not in its log: the broker lost it.
    pub lost_by_broker: Vec<Sent>,
    /// Numbers `seq-N` that are missing, or there twice.
    pub gaps: Vec<u64>,
}

impl InboxVerdict {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.lost.is_empty()
            && self.doubled.is_empty()
            && self.foreign.is_empty()
            && self.lost_by_broker.is_empty()
            && self.gaps.is_empty()
    }
}

/// Compares. `log` is what an ordinary consumer reads from the broker.
pub fn check_inbox(acknowledged: impl IntoIterator<Item = Sent>, log: &[Sent], rows: &[Row]) -> InboxVerdict {
    let mut verdict = InboxVerdict {
        messages: log.len() as u64,
        ..InboxVerdict::default()
    };
    let mut wanted: HashMap<Sent, usize> = HashMap::new();
    for sent in log {
        *wanted.entry(*sent).or_default() += 1;
    }
    verdict.lost_by_broker = acknowledged
        .into_iter()
        .filter(|sent| !wanted.contains_key(sent))
        .collect();
    verdict.lost_by_broker.sort_unstable();
    let mut found: HashMap<Sent, usize> = HashMap::new();
    for row in rows {
        let times = found.entry(row.sent).or_default();
        *times += 1;
        match wanted.get(&row.sent) {
            None => verdict.foreign.push(row.sent),
            Some(wanted) if *times > *wanted => verdict.doubled.push(row.sent),
            Some(_) => {}
        }
    }
    for (sent, times) in &wanted {
        let missing = times.saturating_sub(found.get(sent).copied().unwrap_or(0));
        verdict.lost.extend(std::iter::repeat_n(*sent, missing));
    }
    verdict.lost.sort_unstable();
    // The numbers must be 1 to the number of rows, each once.
    let mut numbers = BTreeSet::new();
    for row in rows {
        let number = row
            .event_id
            .rsplit_once(":seq-")
            .and_then(|(_, n)| n.parse().ok());
        let number: u64 = number.unwrap_or(0);
        if number == 0 || !numbers.insert(number) {
            verdict.gaps.push(number);
        }
    }
    verdict
        .gaps
        .extend((1..=rows.len() as u64).filter(|n| !numbers.contains(n)));
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(sent: &[u64]) -> Vec<Row> {
        (1..)
            .zip(sent)
            .map(|(n, number): (u64, _)| Row {
                event_id: format!("calls:nats:seq-{n}"),
                sent: (1, *number),
            })
            .collect()
    }

    fn log(sent: &[u64]) -> Vec<Sent> {
        sent.iter().map(|n| (1, *n)).collect()
    }

    #[test]
    fn one_row_for_each_is_clean() {
        let all = log(&[1, 2, 3]);
        assert!(check_inbox(all.clone(), &all, &rows(&[2, 1, 3])).is_clean());
        // Not acknowledged and there all the same.
        assert!(check_inbox(log(&[1]), &all, &rows(&[1, 2, 3])).is_clean());
    }

    #[test]
    fn each_fault_is_told() {
        let all = log(&[1, 2, 3]);
        assert_eq!(check_inbox([], &all, &rows(&[1, 3])).lost, [(1, 2)]);
        assert_eq!(check_inbox([], &all, &rows(&[1, 2, 3, 2])).doubled, [(1, 2)]);
        assert_eq!(check_inbox([], &all, &rows(&[1, 2, 3, 4])).foreign, [(1, 4)]);
        assert_eq!(
            check_inbox(log(&[9]), &all, &rows(&[1, 2, 3])).lost_by_broker,
            [(1, 9)]
        );
    }

    #[test]
    fn a_message_that_was_sent_twice_is_two() {
        let twice = log(&[1, 1]);
        assert!(check_inbox([], &twice, &rows(&[1, 1])).is_clean());
        assert_eq!(check_inbox([], &twice, &rows(&[1])).lost, [(1, 1)]);
    }

    #[test]
    fn a_gap_or_a_repeated_number_is_told() {
        let all = log(&[1, 2]);
        let mut gap = rows(&[1, 2]);
        gap[1].event_id = "calls:nats:seq-3".into();
        assert_eq!(check_inbox([], &all, &gap).gaps, [2]);
        gap[1].event_id = "calls:nats:seq-1".into();
        assert_eq!(check_inbox([], &all, &gap).gaps, [1, 2]);
        gap[1].event_id = "something else".into();
        assert_eq!(check_inbox([], &all, &gap).gaps, [0, 2]);
    }
}
