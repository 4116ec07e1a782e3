//! A PostgreSQL snapshot (`pg_snapshot`): which transactions it can see.

use std::fmt;
use std::str::FromStr;

/// `xmin:xmax:xip,...` as PostgreSQL writes it. Every transaction below `xmin`
/// is finished, none from `xmax` on had started, those in the list were open.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Snapshot {
    xmin: u64,
    xmax: u64,
    in_progress: Box<[u64]>,
}

/// Not the text of a `pg_snapshot`.
#[derive(Debug, thiserror::Error)]
#[error("not a pg_snapshot: {0:?}")]
pub(crate) struct ParseSnapshotError(String);

impl Snapshot {
    /// The snapshot that sees nothing: 3 is the first ordinary xid.
    pub(crate) fn of_nothing() -> Self {
        Self {
            xmin: 3,
            xmax: 3,
            in_progress: Box::default(),
        }
    }

    pub(crate) fn xmin(&self) -> u64 {
        self.xmin
    }

    pub(crate) fn xmax(&self) -> u64 {
        self.xmax
    }

    /// Whether rows of this transaction are visible, had it committed.
    pub(crate) fn sees(&self, xid: u64) -> bool {
        xid < self.xmin || (xid < self.xmax && self.in_progress.binary_search(&xid).is_err())
    }

    /// Whether it sees all that `earlier` sees: of two snapshots of one cluster
    /// and timeline, that it is not the older one.
    pub(crate) fn includes(&self, earlier: &Self) -> bool {
        let above = self.xmax..earlier.xmax;
        let open = earlier
            .in_progress
            .iter()
            .filter(|xid| above.contains(xid))
            .count() as u64;
        open == earlier.xmax.saturating_sub(self.xmax)
            && !self.in_progress.iter().any(|xid| earlier.sees(*xid))
    }

    /// Transactions that were open in `self` and are finished in `later`.
    pub(crate) fn finished_in(&self, later: &Self) -> Vec<u64> {
        self.in_progress
            .iter()
            .copied()
            .filter(|xid| later.sees(*xid))
            .collect()
    }

    /// Whether some transaction below `limit` that `self` does not see is
    /// seen by `later`. It may have been open at `self`, listed or not:
    /// `xmax` is one above the last finished one, running ones lie above it.
    pub(crate) fn any_finished_below(&self, limit: u64, later: &Self) -> bool {
        if self
            .in_progress
            .iter()
            .any(|xid| *xid < limit && later.sees(*xid))
        {
            return true;
        }
        let end = limit.min(later.xmax);
        let open = |xid: &u64| (self.xmax..end).contains(xid);
        let still_open = later.in_progress.iter().filter(|xid| open(xid)).count() as u64;
        end.saturating_sub(self.xmax) > still_open
    }
}

impl FromStr for Snapshot {
    type Err = ParseSnapshotError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let mut parts = text.splitn(3, ':');
            let xmin = parts.next()?.parse().ok()?;
            let xmax = parts.next()?.parse().ok()?;
            let list = parts.next()?;
            let mut in_progress = if list.is_empty() {
                Vec::new()
            } else {
                list.split(',')
                    .map(|xid| xid.parse().ok())
                    .collect::<Option<Vec<u64>>>()?
            };
            in_progress.sort_unstable();
            (xmin <= xmax).then(|| Self {
                xmin,
                xmax,
                in_progress: in_progress.into(),
            })
        };
        parse().ok_or_else(|| ParseSnapshotError(text.to_owned()))
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:", self.xmin, self.xmax)?;
        for (n, xid) in self.in_progress.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            write!(f, "{comma}{xid}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn snapshot(text: &str) -> Snapshot {
        text.parse().unwrap()
    }

    #[test]
    fn sees_what_had_finished_and_nothing_else() {
        let s = snapshot("10:15:10,12");
        for (xid, seen) in [
            (9, true),
            (10, false),
            (11, true),
            (12, false),
            (14, true),
            (15, false),
        ] {
            assert_eq!(s.sees(xid), seen, "xid {xid}");
        }
        assert!(!Snapshot::of_nothing().sees(3));
    }

    #[test]
    fn lists_the_transactions_that_finished_in_between() {
        assert_eq!(
            snapshot("10:15:10,12").finished_in(&snapshot("12:20:12,17")),
            vec![10]
        );
    }

    #[test]
    fn a_transaction_may_be_open_above_xmax() {
        // 15 and 16 had begun, but 14 was the last to finish.
        let before = snapshot("10:15:10");
        assert!(!before.any_finished_below(17, &snapshot("10:15:10")));
        assert!(
            !before.any_finished_below(17, &snapshot("10:18:10,15,16")),
            "only 17 has ended"
        );
        assert!(
            before.any_finished_below(17, &snapshot("10:17:10,15")),
            "16 has ended"
        );
        assert!(before.any_finished_below(17, &snapshot("15:15:")), "10 has ended");
    }

    fn make(xmax: u64, open: &std::collections::BTreeSet<u64>) -> Snapshot {
        let list: Vec<u64> = open.iter().copied().filter(|x| *x < xmax).collect();
        Snapshot {
            xmin: list.first().copied().unwrap_or(xmax),
            xmax,
            in_progress: list.into(),
        }
    }

    proptest! {
        #[test]
        fn finished_below_equals_the_oracle(
            xmax in 10u64..40, open in proptest::collection::btree_set(3u64..40, 0..6),
            later_xmax in 10u64..60, later_open in proptest::collection::btree_set(3u64..60, 0..6), limit in 3u64..60,
        ) {
            let (before, later) = (make(xmax, &open), make(later_xmax.max(xmax), &later_open));
            let oracle = (3..limit).any(|xid| !before.sees(xid) && later.sees(xid));
            prop_assert_eq!(before.any_finished_below(limit, &later), oracle);
        }

        #[test]
        fn includes_equals_the_oracle(
            xmax in 3u64..20, open in proptest::collection::btree_set(3u64..20, 0..6),
            other_xmax in 3u64..20, other_open in proptest::collection::btree_set(3u64..20, 0..6),
        ) {
            let (a, b) = (make(xmax, &open), make(other_xmax, &other_open));
            prop_assert_eq!(a.includes(&b), (3..30).all(|xid| a.sees(xid) || !b.sees(xid)));
        }
    }

    #[test]
    fn refuses_what_is_not_a_snapshot() {
        for text in ["", "1", "1:2", "2:1:", "1:3:x", "a:b:"] {
            assert!(text.parse::<Snapshot>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn text_is_kept(xmin in 3u64..1000, span in 0u64..50, picks in proptest::collection::btree_set(0u64..50, 0..8)) {
            let list: Vec<u64> = picks.into_iter().filter(|p| *p < span).map(|p| xmin + p).collect();
            let s = Snapshot { xmin, xmax: xmin + span, in_progress: list.into() };
            prop_assert_eq!(snapshot(&s.to_string()), s);
        }
    }
}
