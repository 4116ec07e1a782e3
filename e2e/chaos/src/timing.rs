//! Pauses in delivery, from the times at which messages came. Pure.

/// Milliseconds of the run.
pub type Millis = u32;

/// A time without a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pause {
    /// The last message before it.
    pub began: Millis,
    /// The first one after it.
    pub ended: Millis,
}

impl Pause {
    /// How long it was.
    pub fn length(self) -> Millis {
        self.ended - self.began
    }
}

/// The longest pause that was not over at `from` and had begun at `until`; what
/// of it lies before `from` does not count. `arrivals` rise.
pub fn longest_pause(arrivals: &[Millis], from: Millis, until: Millis) -> Option<Pause> {
    let first_after = arrivals.partition_point(|at| *at <= from);
    let start = first_after.saturating_sub(1);
    arrivals[start..]
        .windows(2)
        .map(|pair| Pause {
            began: pair[0].max(from),
            ended: pair[1],
        })
        .take_while(|pause| pause.began <= until)
        .max_by_key(|pause| pause.length())
}

/// From an owner's death to the first message after the pause that it caused.
pub fn takeover(arrivals: &[Millis], death: Millis, until: Millis) -> Option<Millis> {
    longest_pause(arrivals, death, until).map(|pause| pause.ended.saturating_sub(death))
}

/// The value below which so many percent lie (nearest rank).
pub fn percentile(sorted: &[Millis], percent: usize) -> Option<Millis> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_takeover_ends_with_the_first_message_after_the_pause() {
        // Killed at 25; what was on its way comes at 30; the survivor's first at 400.
        let arrivals = [0, 10, 20, 30, 400, 410];
        assert_eq!(takeover(&arrivals, 25, 1_000), Some(375));
    }

    #[test]
    fn pauses_elsewhere_do_not_count() {
        let arrivals = [0, 500, 510, 520, 600, 610, 2_000];
        assert_eq!(
            longest_pause(&arrivals, 505, 605),
            Some(Pause {
                began: 520,
                ended: 600
            })
        );
        assert_eq!(
            longest_pause(&arrivals, 700, 900),
            Some(Pause {
                began: 700,
                ended: 2_000
            })
        );
        assert_eq!(longest_pause(&arrivals, 2_000, 3_000), None);
        assert_eq!(longest_pause(&[], 0, 10), None);
    }

    #[test]
    fn percentiles_are_values_that_were_seen() {
        let sorted = [10, 20, 30, 40];
        assert_eq!(percentile(&sorted, 50), Some(20));
        assert_eq!(percentile(&sorted, 99), Some(40));
        assert_eq!(percentile(&[], 50), None);
    }
}
