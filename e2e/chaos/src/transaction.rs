//! The publishers' transactions, by seed: what each publishes to which keys,
//! and how it ends. Pure.

use std::fmt::Write as _;
use std::time::Duration;

use crate::dice::Dice;

/// Keys that all publishers share; each slow one has another for itself.
pub const SHARED_KEYS: i32 = 60;
/// Outboxes; a key belongs to the one of its number modulo this.
pub const OUTBOXES: i32 = 3;

/// How a transaction ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// COMMIT.
    Commit,
    /// ROLLBACK.
    Rollback,
    /// PREPARE TRANSACTION, and COMMIT PREPARED.
    Prepared,
}

/// Messages of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// The key.
    pub key: i32,
    /// How many messages.
    pub count: i32,
    /// Rolled back to a savepoint afterwards.
    pub undone: bool,
}

/// A transaction to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// Publisher and number in one.
    pub id: i64,
    /// What it publishes, keys rising, so that no two wait for each other.
    pub parts: Vec<Part>,
    /// How it ends.
    pub fate: Fate,
    /// How long it stays open when all is published.
    pub open_for: Duration,
    /// It has its xid long before its first message.
    pub early_xid: bool,
}

/// The publisher behind an id, and its number there.
pub fn publisher_of(id: i64) -> (usize, usize) {
    (
        usize::try_from(id >> 32).unwrap_or(0),
        usize::try_from(id & 0xFFFF_FFFF).unwrap_or(0),
    )
}

/// Transactions without end.
#[derive(Debug, Clone)]
pub struct Transactions {
    dice: Dice,
    publisher: u32,
    next: u32,
    slow: bool,
}

impl Transactions {
    /// Those of a publisher; a slow one leaves them open for long.
    pub fn new(seed: u64, publisher: u32, slow: bool) -> Self {
        Self {
            dice: Dice::new(seed, 1 + u64::from(publisher)),
            publisher,
            next: 0,
            slow,
        }
    }
}

impl Iterator for Transactions {
    type Item = Transaction;

    fn next(&mut self) -> Option<Transaction> {
        let dice = &mut self.dice;
        let id = (i64::from(self.publisher) << 32) | i64::from(self.next);
        self.next += 1;
        let mut keys: Vec<i32> = if self.slow {
            vec![SHARED_KEYS + i32::try_from(self.publisher).unwrap_or(0)]
        } else {
            (0..dice.between(1, 3))
                .map(|_| i32::try_from(dice.below(SHARED_KEYS.unsigned_abs())).unwrap_or(0))
                .collect()
        };
        keys.sort_unstable();
        keys.dedup();
        let parts = keys
            .into_iter()
            .map(|key| Part {
                key,
                count: i32::try_from(dice.between(1, 9)).unwrap_or(1),
                undone: dice.percent(8),
            })
            .collect();
        let fate = match dice.below(100) {
            0..6 => Fate::Rollback,
            6..9 => Fate::Prepared,
            _ => Fate::Commit,
        };
        Some(Transaction {
            id,
            parts,
            fate,
            open_for: if self.slow {
                dice.millis(200, 6000)
            } else {
                Duration::ZERO
            },
            early_xid: dice.percent(30),
        })
    }
}

impl Transaction {
    /// The name of its prepared transaction.
    pub fn gid(&self) -> String {
        format!("chaos-{}", self.id)
    }

    /// SQL up to before its end.
    pub fn body(&self) -> String {
        let mut sql = "BEGIN;".to_owned();
        if self.early_xid {
            sql.push_str("SELECT pg_current_xact_id();");
        }
        for (number, part) in self.parts.iter().enumerate() {
            let publish = format!(
                "SELECT chaos.publish({}, {number}, {}, {});",
                self.id, part.key, part.count
            );
            // Half of what stays is published within a subtransaction, too.
            let _ = match (part.undone, number % 2) {
                (true, _) => write!(sql, "SAVEPOINT s;{publish}ROLLBACK TO SAVEPOINT s;"),
                (false, 1) => write!(sql, "SAVEPOINT s;{publish}RELEASE SAVEPOINT s;"),
                (false, _) => write!(sql, "{publish}"),
            };
        }
        sql
    }

    /// SQL of its end, a statement each.
    pub fn end(&self) -> Vec<String> {
        match self.fate {
            Fate::Commit => vec!["COMMIT".into()],
            Fate::Rollback => vec!["ROLLBACK".into()],
            Fate::Prepared => vec![
                format!("PREPARE TRANSACTION '{}'", self.gid()),
                format!("COMMIT PREPARED '{}'", self.gid()),
            ],
        }
    }

    /// Parts that its commit makes visible, with their numbers.
    pub fn kept(&self) -> impl Iterator<Item = (u16, &Part)> {
        let numbered = (0..).zip(&self.parts);
        numbered.filter(|(_, part)| !part.undone)
    }
}

/// What the publishers need in the database.
pub fn schema(publishers: u32) -> String {
    let keys = SHARED_KEYS + i32::try_from(publishers).unwrap_or(0);
    format!(
        "CREATE SCHEMA chaos;
         CREATE TABLE chaos.key (key int PRIMARY KEY, n bigint NOT NULL DEFAULT 0) WITH (fillfactor = 10);
         INSERT INTO chaos.key SELECT generate_series(0, {keys});
         CREATE TABLE chaos.ledger (
             transaction bigint, part int, key int, first_n bigint, count int, PRIMARY KEY (transaction, part));
         CREATE FUNCTION chaos.publish(p_transaction bigint, p_part int, p_key int, p_count int)
         RETURNS void LANGUAGE plpgsql AS $$
         DECLARE v_first bigint;
         BEGIN
             -- The key's lock is held to the end: its transactions follow one another.
             UPDATE chaos.key SET n = n + p_count WHERE key = p_key RETURNING n - p_count + 1 INTO v_first;
             INSERT INTO chaos.ledger VALUES (p_transaction, p_part, p_key, v_first, p_count);
             FOR i IN 0 .. p_count - 1 LOOP
                 PERFORM tide.outbox_publish('events' || p_key % {OUTBOXES}, jsonb_build_object(
                     't', p_transaction, 'p', p_part, 'i', i, 'k', p_key, 'n', v_first + i));
             END LOOP;
         END $$;"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(publisher: u32, slow: bool) -> Vec<Transaction> {
        Transactions::new(5, publisher, slow).take(2000).collect()
    }

    #[test]
    fn a_seed_gives_one_history_and_ids_tell_whose() {
        assert_eq!(some(3, false), some(3, false));
        assert_ne!(some(3, false)[0].parts, some(4, false)[0].parts);
        assert_eq!(publisher_of(some(3, false)[17].id), (3, 17));
    }

    #[test]
    fn all_fates_come() {
        let all = some(1, false);
        for fate in [Fate::Commit, Fate::Rollback, Fate::Prepared] {
            assert!(all.iter().any(|t| t.fate == fate), "{fate:?}");
        }
        assert!(all.iter().flat_map(|t| &t.parts).any(|p| p.undone));
    }

    #[test]
    fn locks_are_taken_in_one_order() {
        for transaction in some(1, false) {
            assert!(transaction.parts.is_sorted_by(|a, b| a.key < b.key));
        }
    }

    #[test]
    fn an_undone_part_is_not_kept() {
        let transaction = Transaction {
            id: 9,
            parts: vec![
                Part {
                    key: 1,
                    count: 2,
                    undone: true,
                },
                Part {
                    key: 2,
                    count: 3,
                    undone: false,
                },
            ],
            fate: Fate::Commit,
            open_for: Duration::ZERO,
            early_xid: false,
        };
        assert_eq!(
            transaction.kept().map(|(n, p)| (n, p.key)).collect::<Vec<_>>(),
            [(1, 2)]
        );
        assert_eq!(
            transaction.body(),
            "BEGIN;SAVEPOINT s;SELECT chaos.publish(9, 0, 1, 2);ROLLBACK TO SAVEPOINT s;\
             SAVEPOINT s;SELECT chaos.publish(9, 1, 2, 3);RELEASE SAVEPOINT s;"
        );
    }
}
