//! The plan: which faults, in which order, how long after each other. Pure, so
//! that a seed gives the same plan always; when exactly a fault happens depends
//! on how long servers take to come back from the one before.

use std::time::Duration;

use crate::dice::Dice;
use crate::fault::Kind;

/// When a fault begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// So long after everything before is mended: it is alone until then.
    Alone(Duration),
    /// So long after the fault before it began, whether that is mended or not.
    Among(Duration),
}

/// A fault to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// When it begins.
    pub when: When,
    /// What happens.
    pub kind: Kind,
    /// For how long.
    pub lasts: Duration,
    /// Decides whom it happens to.
    pub pick: u32,
}

/// Faults without end: each kind alone, so often, then all of them mixed.
#[derive(Debug, Clone)]
pub struct Plan {
    dice: Dice,
    kinds: Vec<Kind>,
    alone: Vec<Kind>,
}

impl Plan {
    /// Rounds in which each kind is alone.
    pub const ROUNDS: usize = 2;

    /// The plan of a seed.
    pub fn new(seed: u64, kinds: &[Kind], rounds: usize) -> Self {
        let mut dice = Dice::new(seed, 0);
        let mut alone = Vec::new();
        for _ in 0..rounds {
            let mut round = kinds.to_vec();
            dice.shuffle(&mut round);
            alone.extend(round);
        }
        alone.reverse();
        Self {
            dice,
            kinds: kinds.to_vec(),
            alone,
        }
    }
}

impl Iterator for Plan {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        let dice = &mut self.dice;
        let (kind, when) = match self.alone.pop() {
            Some(kind) => (kind, When::Alone(dice.millis(1500, 2500))),
            None if self.kinds.is_empty() => return None,
            None => {
                let count = u32::try_from(self.kinds.len()).unwrap_or(u32::MAX);
                let kind = self.kinds[dice.below(count) as usize];
                let when = if dice.percent(60) {
                    When::Among(dice.millis(0, 2500))
                } else {
                    When::Alone(dice.millis(300, 1500))
                };
                (kind, when)
            }
        };
        Some(Step {
            when,
            kind,
            lasts: kind.duration(dice),
            pick: dice.below(u32::MAX),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_one_plan() {
        let plan = |seed| Plan::new(seed, Kind::ALL, 1).take(200).collect::<Vec<_>>();
        assert_eq!(plan(3), plan(3));
        assert_ne!(plan(3), plan(4));
    }

    #[test]
    fn each_kind_comes_alone_first_and_all_come_mixed_later() {
        let mut plan = Plan::new(1, Kind::ALL, 1);
        let mut first: Vec<Kind> = plan
            .by_ref()
            .take(Kind::ALL.len())
            .inspect(|step| assert!(matches!(step.when, When::Alone(_))))
            .map(|step| step.kind)
            .collect();
        first.sort();
        assert_eq!(first, Kind::ALL);
        let later: Vec<Step> = plan.take(400).collect();
        for kind in Kind::ALL {
            assert!(later.iter().any(|step| step.kind == *kind), "{kind}");
        }
        assert!(later.iter().any(|step| matches!(step.when, When::Among(_))));
    }

    #[test]
    fn nothing_comes_of_nothing() {
        assert_eq!(Plan::new(1, &[], 2).next(), None);
    }
}
