//! Messages that are delivered once more: retried dead letters and replays.
//!
//! They go before anything new, a page at a time, each page recorded when all
//! of it is acknowledged. A page that was sent and not recorded is found in the
//! log by the next owner, like any other message: its ids carry the number of
//! the redelivery.

use super::forward::{Attempt, Run, STALLED};
use crate::config::Ordering;
use crate::database::redelivery;
use crate::encode::Row;
use crate::failure::Failure;
use crate::sink::Outcome;
use crate::status::State;

const PAGE: i32 = 500;

impl Run<'_> {
    /// Works the pipeline's queue off, or as far as it gets until told to stop.
    pub(super) async fn redeliver(&self, a: &mut Attempt) -> Result<(), Failure> {
        loop {
            // After a refusal one at a time, to know whose it was.
            // Also when order is strict: a later message of its key must not be taken first.
            let alone = a.suspect.is_some() || self.forward.ordering == Ordering::Strict;
            let limit = if alone { 1 } else { PAGE };
            let page = redelivery::page(&self.shared.writers, self.spec.id, limit).await?;
            if page.is_empty() {
                return Ok(());
            }
            if !self.shared.lease.is_valid() {
                return Err(Failure::lost("the lock connection did not answer in time"));
            }
            self.status.set(State::Running);
            let errors = tokio::select! {
                errors = self.redeliver_page(a, &page) => errors?,
                () = self.stop.cancelled() => return Ok(()),
            };
            redelivery::record(&self.shared.writers, self.spec.id, self.epoch, &page, &errors).await?;
            let refused = errors.iter().flatten().count();
            tracing::info!(
                pipeline = self.spec.name,
                messages = page.len() - refused,
                refused,
                "delivered once more"
            );
            if a.suspect.is_some_and(|id| page.iter().any(|row| row.id == id)) {
                a.suspect = None;
            }
        }
    }

    /// Sends a page and waits until all of it is settled; per message none, or
    /// why it is refused.
    async fn redeliver_page(&self, a: &mut Attempt, page: &[Row]) -> Result<Vec<Option<String>>, Failure> {
        let mut errors = vec![None; page.len()];
        let mut open = 0;
        for (n, row) in page.iter().enumerate() {
            if a.landed.remove(&row.event_id()) {
                self.status.skipped(1);
                continue;
            }
            open += usize::from(self.resend(a, row, n, &mut errors).await?);
        }
        let mut settled = Vec::new();
        while open > 0 {
            tokio::time::timeout(STALLED, a.sink.settled(&mut settled))
                .await
                .map_err(|_| {
                    Failure::transient(format!(
                        "no acknowledgement for {} s with {open} redelivered messages in flight",
                        STALLED.as_secs()
                    ))
                })??;
            self.tell(a.sink.news());
            for one in settled.drain(..) {
                open -= 1;
                let n = usize::try_from(one.ticket).unwrap_or(usize::MAX);
                match one.outcome {
                    Outcome::Refused(reason) if page.len() > 1 => {
                        // Perhaps a neighbour's fault: each alone, then.
                        let id = page.get(n).map_or(0, |row| row.id);
                        return Err(Failure::transient(format!("message {id}: {reason}")).suspecting(id));
                    }
                    Outcome::Refused(reason) | Outcome::Rejected(reason) => errors[n] = Some(reason),
                    Outcome::Placed { .. } | Outcome::Unplaced | Outcome::Duplicate => {
                        self.status.published(1);
                    }
                }
            }
        }
        Ok(errors)
    }

    /// Sends message `n` of a page under the ticket `n`; whether an outcome is
    /// to come.
    async fn resend(
        &self,
        a: &mut Attempt,
        row: &Row,
        n: usize,
        errors: &mut [Option<String>],
    ) -> Result<bool, Failure> {
        loop {
            let event = match a.encoder.encode(row) {
                Ok(Some(event)) => event,
                Ok(None) => return Ok(false),
                Err(rejection) => {
                    errors[n] = Some(rejection.to_string());
                    return Ok(false);
                }
            };
            if a.sink.is_open(event.destination) {
                errors[n] = a.sink.send(n as u64, &event).await?;
                return Ok(errors[n].is_none());
            }
            let destination = event.destination.to_owned();
            self.open_destination(a, &destination).await?;
        }
    }
}
