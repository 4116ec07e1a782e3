//! Finding the message at fault in a batch that is refused as a whole: halves
//! are tried until it stands alone, and everything keeps its order. Pure.

/// How many of the next messages are known to have one among them that is
/// refused.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Suspects(usize);

impl Suspects {
    pub(super) fn any(self) -> bool {
        self.0 > 0
    }

    /// Messages of the next batch, when otherwise it would have so many.
    pub(super) fn limit(self, usual: usize) -> usize {
        if self.any() {
            self.0.div_ceil(2).min(usual)
        } else {
            usual
        }
    }

    /// The next messages, so many, are no longer in question: taken, or the one
    /// at fault itself.
    pub(super) fn cleared(&mut self, count: usize) {
        self.0 = self.0.saturating_sub(count);
    }

    /// A batch of so many, more than one, was refused.
    pub(super) fn refused(&mut self, count: usize) {
        self.0 = count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        // Whoever is at fault, exactly those are found, in order, and not by
        // trying each alone.
        #[test]
        fn finds_exactly_those_at_fault(count in 1usize..300, at_fault in proptest::collection::btree_set(0usize..300, 0..4), usual in 1usize..200) {
            let at_fault: Vec<usize> = at_fault.into_iter().filter(|n| *n < count).collect();
            let (mut suspects, mut at, mut found, mut tries) = (Suspects::default(), 0, Vec::new(), 0);
            while at < count {
                let batch = suspects.limit(usual).min(count - at);
                tries += 1;
                prop_assert!(batch > 0);
                if !at_fault.iter().any(|n| (at..at + batch).contains(n)) {
                    suspects.cleared(batch);
                    at += batch;
                } else if batch == 1 {
                    found.push(at);
                    suspects.cleared(1);
                    at += 1;
                } else {
                    suspects.refused(batch);
                }
            }
            prop_assert_eq!(&found, &at_fault);
            prop_assert!(tries <= count.div_ceil(usual) + at_fault.len() * 12, "{}", tries);
        }
    }
}
