//! What keeps a database in order: partitions of outboxes made ahead and
//! dropped when passed, rows past their retention removed, and a word about
//! whoever holds retention back. One relay of a database at a time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::database::{Pool, Session, retention};
use crate::failure::Failure;

/// Partitions are made days ahead, so that this is often enough by far.
const EVERY: Duration = Duration::from_mins(2);
/// The first time, so that a relay's start is not burdened.
const FIRST: Duration = Duration::from_secs(10);
/// Somebody was in the way: soon again, but not for ever.
const AGAIN: Duration = Duration::from_secs(10);
const AGAIN_AT_MOST: u32 = 6;
/// Who is still in the way after that is named, and anew after so many runs.
const NAMED_AGAIN: u32 = 30;
/// The same complaint not more often.
const WARN_EVERY: Duration = Duration::from_hours(1);
/// Rows that one transaction looks at.
const PAGE: i32 = 5_000;

/// What one run did.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    /// Another relay is at it.
    not_ours: bool,
    /// What a lock was in the way of.
    skipped: Vec<String>,
}

/// Runs until the task is aborted; failures are logged and tried again.
pub(super) async fn run(pool: Arc<Pool>) -> Result<(), Failure> {
    tokio::time::sleep(FIRST).await;
    let mut warned = Warned::default();
    let mut again = 0;
    loop {
        let outcome = match maintain(&pool, &mut warned).await {
            Ok(outcome) => outcome,
            Err(failure) => {
                tracing::warn!("{failure}");
                Outcome::default()
            }
        };
        again = if outcome.skipped.is_empty() { 0 } else { again + 1 };
        if again % NAMED_AGAIN == AGAIN_AT_MOST {
            for what in &outcome.skipped {
                tracing::warn!("partitions could not be kept for a while: {what}");
            }
        }
        let soon = (1..=AGAIN_AT_MOST).contains(&again);
        tokio::time::sleep(if soon { AGAIN } else { EVERY }).await;
    }
}

async fn maintain(pool: &Pool, warned: &mut Warned) -> Result<Outcome, Failure> {
    let mut lease = pool.get().await.map_err(|e| Failure::transient(e.to_string()))?;
    let mut outcome = partitions(&mut lease.session).await?;
    if !outcome.not_ours {
        outcome.not_ours = !rows(&mut lease.session).await?;
    }
    if !outcome.not_ours {
        let holders = retention::holders(&lease.session).await?;
        warned.about(holders, Instant::now());
    }
    lease.done();
    Ok(outcome)
}

/// One outbox a transaction: its locks are held until the end of it.
async fn partitions(session: &mut Session) -> Result<Outcome, Failure> {
    let mut outcome = Outcome::default();
    loop {
        let Some(actions) = retention::maintain_outbox(session).await? else {
            outcome.not_ours = true;
            return Ok(outcome);
        };
        let changed = actions.iter().any(retention::Maintained::changed);
        outcome.skipped.clear();
        for a in actions {
            let (outbox, action, leaf, detail) = (a.outbox, a.action, a.leaf, a.detail);
            match action.as_str() {
                "failed" => tracing::warn!(outbox, "partitions cannot be kept: {detail}"),
                "made" | "closing" | "closed" | "dropped" => {
                    tracing::info!(outbox, leaf, "partition {action}: {detail}");
                }
                _ => {
                    tracing::debug!(outbox, leaf, "partition {action}: {detail}");
                    if action == "skipped" {
                        outcome
                            .skipped
                            .push(format!("outbox \"{outbox}\", {leaf} {detail}"));
                    }
                }
            }
        }
        if !changed {
            return Ok(outcome);
        }
    }
}

/// Removes what is past its retention, page by page. False when another relay
/// took over meanwhile.
async fn rows(session: &mut Session) -> Result<bool, Failure> {
    for inbox in retention::inboxes(session).await? {
        let mut after = Some(0);
        let (mut processed, mut dead) = (0, 0);
        while let Some(id) = after {
            match retention::purge_inbox(session, inbox.id, id, PAGE).await {
                Ok(Some(page)) => {
                    after = page.go_on_from;
                    processed += page.processed;
                    dead += page.dead;
                }
                Ok(None) => return Ok(false),
                // One inbox whose rows cannot go does not keep the others from it.
                Err(failure) => {
                    tracing::warn!(inbox = inbox.name, "{failure}");
                    break;
                }
            }
        }
        if processed + dead > 0 {
            tracing::info!(
                inbox = inbox.name,
                processed,
                dead,
                "removed messages past their retention"
            );
        }
    }
    loop {
        let Some(removed) = retention::purge_dead_letters(session, PAGE).await? else {
            return Ok(false);
        };
        if removed > 0 {
            tracing::info!(removed, "removed dead letters past their retention");
        }
        if removed < i64::from(PAGE) {
            return Ok(true);
        }
    }
}

/// When which group was last complained about.
#[derive(Debug, Default)]
struct Warned(HashMap<(String, String), Instant>);

impl Warned {
    fn about(&mut self, holders: Vec<retention::Holder>, now: Instant) {
        for h in self.due(holders, now) {
            tracing::warn!(
                outbox = h.outbox,
                group = h.group,
                bytes = h.bytes,
                rows = h.rows,
                since = h.since,
                partitions = h.partitions,
                "a consumer group holds retention back; {}",
                h.hint
            );
        }
    }

    /// Those not named within the last hour; who is gone is forgotten.
    fn due(&mut self, holders: Vec<retention::Holder>, now: Instant) -> Vec<retention::Holder> {
        let key = |h: &retention::Holder| (h.outbox.clone(), h.group.clone());
        self.0.retain(|k, _| holders.iter().any(|h| key(h) == *k));
        holders
            .into_iter()
            .filter(|h| {
                let due = self.0.get(&key(h)).is_none_or(|at| now - *at >= WARN_EVERY);
                if due {
                    self.0.insert(key(h), now);
                }
                due
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(group: &str) -> retention::Holder {
        retention::Holder {
            outbox: "orders".into(),
            group: group.into(),
            ..retention::Holder::default()
        }
    }

    #[test]
    fn the_same_group_is_named_once_an_hour_and_anew_when_it_comes_back() {
        let mut warned = Warned::default();
        let start = Instant::now();
        let mut named = |groups: &[&str], minutes: u64| {
            warned
                .due(
                    groups.iter().map(|g| holder(g)).collect(),
                    start + Duration::from_mins(minutes),
                )
                .iter()
                .map(|h| h.group.clone())
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(named(&["a"], 0), "a");
        assert_eq!(named(&["a", "b"], 2), "b");
        assert_eq!(named(&["a", "b"], 59), "");
        assert_eq!(named(&["a", "b"], 60), "a");
        assert_eq!(named(&["a"], 61), "");
        assert_eq!(named(&["a", "b"], 62), "b");
    }
}
