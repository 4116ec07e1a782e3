//! Whether what a broker holds is what was published: each event once, and in order per key.

use std::fmt;

use anyhow::{Result, ensure};

use crate::shape::Shape;

/// What was read back from a broker, or stored in a table.
#[derive(Debug)]
pub struct Delivery {
    seen: Vec<bool>,
    distinct: u64,
    repeated: u64,
    foreign: u64,
    out_of_order: u64,
    /// The highest number so far by key: message n has key n modulo their count.
    last_of_key: Vec<Option<u64>>,
}

impl Delivery {
    /// Nothing yet, of the events 0 to `expected` - 1 with the keys of this shape.
    pub fn new(expected: u64, shape: Shape) -> Self {
        let keys = usize::try_from(shape.key_count()).unwrap_or(usize::MAX);
        Self {
            seen: vec![false; usize::try_from(expected).unwrap_or(usize::MAX)],
            distinct: 0,
            repeated: 0,
            foreign: 0,
            out_of_order: 0,
            last_of_key: vec![None; keys],
        }
    }

    /// Takes the next message by its number; none for a message that is not ours.
    pub fn note(&mut self, number: Option<u64>) {
        let index = number.and_then(|number| usize::try_from(number).ok());
        let (Some(number), Some(seen)) = (number, index.and_then(|index| self.seen.get_mut(index))) else {
            self.foreign += 1;
            return;
        };
        if std::mem::replace(seen, true) {
            self.repeated += 1;
            return;
        }
        self.distinct += 1;
        let key = number % self.last_of_key.len() as u64;
        let last = &mut self.last_of_key[usize::try_from(key).unwrap_or_default()];
        if last.is_some_and(|last| last > number) {
            self.out_of_order += 1;
        }
        *last = Some(number);
    }

    /// An error unless every event came once.
    pub fn check_each_once(&self) -> Result<()> {
        let whole = self.seen.len() as u64 == self.distinct;
        ensure!(
            whole && self.repeated + self.foreign == 0,
            "wrong delivery: {self}"
        );
        Ok(())
    }

    /// An error unless every event came once, and in order per key.
    pub fn check(&self) -> Result<()> {
        let whole = self.seen.len() as u64 == self.distinct;
        ensure!(
            whole && self.repeated + self.foreign + self.out_of_order == 0,
            "wrong delivery: {self}"
        );
        Ok(())
    }
}

impl fmt::Display for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of {} events, {} repeated, {} unknown, {} out of their key's order",
            self.distinct,
            self.seen.len(),
            self.repeated,
            self.foreign,
            self.out_of_order
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::Keys;

    fn delivery(expected: u64, numbers: &[u64]) -> Delivery {
        let mut delivery = Delivery::new(expected, Shape::USUAL);
        for number in numbers {
            delivery.note(Some(*number));
        }
        delivery
    }

    #[test]
    fn each_once_is_right_in_any_order_between_keys() {
        assert!(delivery(6, &[1, 0, 2, 3, 5, 4]).check().is_ok());
    }

    #[test]
    fn a_lost_a_repeated_and_an_unknown_event_are_wrong() {
        assert!(delivery(3, &[0, 2]).check().is_err());
        assert!(delivery(3, &[0, 1, 1, 2]).check().is_err());
        assert!(delivery(3, &[0, 1, 2, 3]).check().is_err());
    }

    #[test]
    fn an_event_behind_a_later_one_of_its_key_is_wrong() {
        let delivery = delivery(6, &[4, 1, 2, 3, 0, 5]);
        assert!(delivery.check().is_err());
        assert!(delivery.to_string().contains("1 out of"), "{delivery}");
    }

    #[test]
    fn messages_without_a_key_are_in_one_order() {
        let none = Shape {
            keys: Keys::None,
            ..Shape::USUAL
        };
        let mut delivery = Delivery::new(2, none);
        delivery.note(Some(1));
        delivery.note(Some(0));
        assert!(delivery.check().is_err() && delivery.check_each_once().is_ok());
    }
}
