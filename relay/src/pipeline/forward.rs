//! From an outbox to a sink: read, encode, send, settle, checkpoint.
//!
//! An attempt begins by finding out what of this pipeline lies in the broker's
//! log beyond the checkpoint, and ends with the first failure after which it
//! could no longer say what became of a message.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::checkpoints::{Checkpoints, flatten, reply};
use super::refusal::{Keys, Refusals};
use super::sleep::{self, Place};
use super::{Backoff, Shared};
use crate::config::{ForwardSpec, Ordering, PipelineSpec};
use crate::cursor::{LowWater, Positions, Round, Settlement, Snapshot, Window};
use crate::database::cursor::{self as store, Checkpoint, StoredCursor};
use crate::database::outbox;
use crate::encode::{Encoder, EventId, Row};
use crate::failure::{Class, Failure};
use crate::sink::{News, Opening, Outcome, Settled, Sink, Stall};
use crate::source::outbox::{Page, Reader};
use crate::status::{PipelineStatus, State, now_micros};

/// Bytes in the window.
const WINDOW_BYTES: usize = 16 << 20;
/// With messages in flight, so long without any outcome means that the sink
/// does not answer.
pub(super) const STALLED: Duration = Duration::from_secs(10);
/// Messages sent before outcomes are looked at again.
const BURST: usize = 256;
/// With messages under way, lease and sink are looked at so often.
const TURN: Duration = Duration::from_millis(100);
/// And without any: a thousand idle pipelines should cost nothing.
const IDLE_TURN: Duration = Duration::from_secs(10);
/// For what is in flight, when told to stop.
const DRAIN: Duration = Duration::from_secs(3);

/// One pipeline's run.
pub(super) struct Run<'a> {
    pub(super) shared: &'a Shared,
    pub(super) spec: &'a PipelineSpec,
    pub(super) forward: &'a ForwardSpec,
    pub(super) refusals: &'a Refusals,
    pub(super) epoch: i64,
    pub(super) status: &'a PipelineStatus,
    pub(super) stop: &'a CancellationToken,
}

/// How an attempt ended in good order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    Stopped,
    /// The sink is closed until there is something to send.
    Idle,
}

/// What an attempt works with.
pub(super) struct Attempt {
    pub(super) sink: Sink,
    pub(super) encoder: Encoder,
    pub(super) window: Window,
    low_water: LowWater,
    /// In the log already; to be skipped when they come.
    pub(super) landed: HashSet<EventId>,
    /// Sees all that landed: when a round up to here is sent, what is left of
    /// it will not come.
    landed_by: Option<Snapshot>,
    /// To be sent with nothing else in flight.
    pub(super) suspect: Option<i64>,
    pub(super) keys: Keys,
    checkpoints: Checkpoints,
    /// When it may give its connection back.
    sleeps_at: Instant,
}

impl Run<'_> {
    /// Delivers until told to stop, until there is nothing to do for long, or
    /// until something fails.
    pub(super) async fn attempt(
        &self,
        suspect: Option<i64>,
        backoff: &mut Backoff,
        woken: bool,
    ) -> Result<Ended, Failure> {
        let (stored, reanchored) = self.stored_cursor().await?;
        let identity = self.spec.identity();
        let opening = Opening {
            identity: &identity,
            origin: &self.shared.origin,
            encoding: &self.forward.format.encoding,
            max_in_flight: self.forward.max_in_flight,
            batch_size: self.spec.batch_size,
            retry: self.spec.retry,
            epoch: self.epoch,
            cluster: self.shared.cluster,
            home: &self.shared.writers,
        };
        let mut place = self.shared.connected.enter();
        let connecting = async {
            let _turn = self.shared.connected.turn().await;
            Sink::open(&self.forward.sink, &opening).await
        };
        let sink = tokio::select! {
            sink = connecting => sink?,
            () = self.stop.cancelled() => return Ok(Ended::Stopped),
        };
        let scan = reanchored || !stored.clean;
        let mut progress = stored.progress;
        if !scan {
            // Nothing was in flight: the log's ends are the new positions.
            progress.positions = Positions::new();
        }
        let mut attempt = Attempt {
            sink,
            encoder: Sink::encoder(&self.forward.sink, identity)
                .with(self.forward.format.clone(), self.forward.filter.clone()),
            window: Window::new(progress),
            low_water: LowWater::new(stored.low_water_id, stored.low_water_positions),
            landed: HashSet::new(),
            landed_by: None,
            suspect,
            keys: Keys::default(),
            checkpoints: Checkpoints::new(Instant::now()),
            sleeps_at: Instant::now() + if woken { sleep::AFTER } else { sleep::AT_FIRST },
        };
        let result = async {
            tokio::select! {
                prepared = self.prepare(&mut attempt, scan, backoff.quiet_time()) => prepared?,
                () = self.stop.cancelled() => return Ok(Ended::Stopped),
            }
            backoff.caught_up();
            self.redeliver(&mut attempt).await?;
            if self.stop.is_cancelled() {
                return Ok(Ended::Stopped);
            }
            attempt.keys = self.waiting_keys().await?;
            self.deliver(&mut attempt, &mut place, backoff).await
        }
        .await;
        // What was settled stays so, also when nothing is sent any more.
        if result.as_ref().is_err_and(|f| f.class == Class::Transient) {
            self.advance(&mut attempt, backoff);
            if attempt.checkpoints.delivered {
                let _ = self.checkpoint_now(&mut attempt, false).await;
            }
        }
        self.status.in_flight(0);
        attempt.sink.close().await;
        result
    }

    /// The cursor to go on from, and whether it had to be re-anchored: its
    /// snapshots mean nothing in another cluster, and in another timeline
    /// transactions may have reused ids that they call finished.
    pub(super) async fn stored_cursor(&self) -> Result<(StoredCursor, bool), Failure> {
        let mut lease = self
            .shared
            .writers
            .get()
            .await
            .map_err(|e| Failure::transient(e.to_string()))?;
        let mut stored = store::read(&mut lease.session, self.forward.group_id).await?;
        let current = self.shared.cluster;
        let reanchor = stored.cluster.is_some_and(|before| before != current);
        if reanchor || stored.progress.round.new == Snapshot::of_nothing() {
            let messages = outbox::adopt(&mut lease.session, self.forward.group_id).await?;
            if messages > 0 {
                tracing::warn!(
                    pipeline = self.spec.name,
                    messages,
                    "the outbox was restored from another cluster: its messages count as this one's now"
                );
            }
        }
        if reanchor {
            let snapshot = outbox::tick(&mut lease.session).await?.snapshot;
            tracing::warn!(
                pipeline = self.spec.name,
                before = ?stored.cluster,
                now = ?current,
                from_id = stored.low_water_id,
                "the database is another cluster or timeline than at the last checkpoint: re-anchoring by id"
            );
            stored.progress.round = Arc::new(Round {
                old: Snapshot::of_nothing(),
                new: snapshot,
            });
            stored.progress.last_id = stored.low_water_id;
            for (name, position) in &stored.low_water_positions {
                stored.progress.positions.insert(name.clone(), *position);
            }
        }
        lease.done();
        Ok((stored, reanchor))
    }

    /// Finds what lies beyond the checkpoint, and writes the positions from
    /// which the next owner will have to look, before anything is sent.
    async fn prepare(&self, a: &mut Attempt, scan: bool, quiet: Duration) -> Result<(), Failure> {
        let new = a.sink.new_positions(&a.window.progress().positions).await?;
        a.window.add_positions(&new);
        a.low_water.add_positions(&new);
        if scan {
            a.landed = a.sink.landed(&a.window.progress().positions, quiet).await?;
            if !a.landed.is_empty() {
                tracing::info!(
                    pipeline = self.spec.name,
                    messages = a.landed.len(),
                    "found messages in the log beyond the checkpoint"
                );
                a.window.hold_positions();
                a.landed_by = Some(self.snapshot().await?);
            }
        }
        self.checkpoint_now(a, false).await
    }

    async fn snapshot(&self) -> Result<Snapshot, Failure> {
        let lease = self.shared.writers.get().await;
        let mut lease = lease.map_err(|e| Failure::transient(e.to_string()))?;
        let snapshot = outbox::tick(&mut lease.session).await?.snapshot;
        lease.done();
        Ok(snapshot)
    }

    fn checkpoint(&self, a: &Attempt, clean: bool) -> Checkpoint {
        let (low_water_id, positions) = a.low_water.mark();
        Checkpoint {
            group_id: self.forward.group_id,
            epoch: self.epoch,
            progress: a.window.progress().clone(),
            low_water_id,
            low_water_positions: positions.clone(),
            cluster: self.shared.cluster,
            clean,
        }
    }

    async fn checkpoint_now(&self, a: &mut Attempt, clean: bool) -> Result<(), Failure> {
        if let Some(pending) = a.checkpoints.pending.take() {
            flatten(pending.await)?;
        }
        let checkpoint = self.checkpoint(a, clean);
        let low_water = checkpoint.low_water_positions.clone();
        let pending = self.shared.checkpointer.write(checkpoint).await;
        flatten(pending.await).map_err(|failure| match failure.class {
            // It may be executed yet, when another attempt has messages under
            // way that a clean end denies. Not under another epoch.
            Class::Transient if clean => Failure::lost(failure.message),
            _ => failure,
        })?;
        a.sink.checkpointed(&low_water);
        a.checkpoints.written(Instant::now());
        Ok(())
    }

    async fn deliver(
        &self,
        a: &mut Attempt,
        place: &mut Place,
        backoff: &mut Backoff,
    ) -> Result<Ended, Failure> {
        let (sender, mut pages) = mpsc::channel(1);
        let reader = Reader::new(
            Arc::clone(&self.shared.readers),
            &self.shared.outboxes,
            self.forward.table.clone(),
            self.shared.ticks.clone(),
            sender,
            self.spec.batch_size,
            a.low_water.mark().0,
        );
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(reader.run(a.window.progress().clone()));
        self.status.set(State::Running);

        let mut current: Option<Pending> = None;
        let mut outcomes = Vec::new();
        let mut drain_until: Option<Instant> = None;
        let mut heard_at = Instant::now();
        // The first tick may have read the sequence before messages were taken
        // that are delivered already.
        let mut is_first = true;
        // Of the checkpoint that is under way.
        let mut low_water = Positions::new();
        loop {
            if !self.shared.lease.is_valid() {
                return Err(Failure::lost("the lock connection did not answer in time"));
            }
            if a.window.is_empty() {
                heard_at = Instant::now();
            } else if heard_at.elapsed() > STALLED {
                let stall = a.sink.stalled().await;
                let why = match &stall {
                    Stall::Waiting(why) | Stall::Over(why) if !why.is_empty() => format!(": {why}"),
                    _ => String::new(),
                };
                let message = format!(
                    "no acknowledgement for {} s with {} messages in flight{why}",
                    STALLED.as_secs(),
                    a.window.len(),
                );
                if let Stall::Over(_) = stall {
                    backoff.went_silent();
                    return Err(Failure::transient(message));
                }
                heard_at = Instant::now();
                self.tell(Some(News::Trouble(message)));
            }
            self.advance(a, backoff);
            let can_go_on = match &mut current {
                Some(page) => self.send_some(a, page).await?,
                None => false,
            };
            if current.as_ref().is_some_and(|p| p.next == p.page.rows.len()) {
                if let Some(page) = current.take().map(|p| p.page).filter(|page| page.ends) {
                    a.window.end_round();
                    a.forget_landed(&page.round.new);
                }
                self.advance(a, backoff);
            }
            let now = Instant::now();
            let due = a.checkpoints.due(a.window.is_empty() && current.is_none());
            if due.is_some_and(|due| due <= now) {
                let checkpoint = self.checkpoint(a, false);
                low_water.clone_from(&checkpoint.low_water_positions);
                a.checkpoints.pending = Some(self.shared.checkpointer.write(checkpoint).await);
                a.checkpoints.written(now);
            }
            if let Some(until) = drain_until
                && (a.window.is_empty() || now >= until)
            {
                // What landed and was not come by yet must be found again.
                let clean = a.window.is_empty() && a.landed.is_empty();
                self.checkpoint_now(a, clean).await?;
                return Ok(Ended::Stopped);
            }
            let idle = a.window.is_empty() && current.is_none();
            let rests = idle && a.landed.is_empty() && !a.checkpoints.delivered && drain_until.is_none();
            if rests && a.sleeps_at <= now && place.leave_if_many(a.sink.is_heavy()) {
                self.checkpoint_now(a, true).await?;
                return Ok(Ended::Idle);
            }
            let sleeps_at = (rests && a.sleeps_at > now).then_some(a.sleeps_at);
            let due = due.filter(|_| a.checkpoints.pending.is_none());
            let wake = [due, drain_until, sleeps_at]
                .into_iter()
                .flatten()
                .fold(now + if idle { IDLE_TURN } else { TURN }, Instant::min);
            tokio::select! {
                biased;
                () = self.stop.cancelled(), if drain_until.is_none() => {
                    drain_until = Some(Instant::now() + DRAIN);
                    current = None;
                    pages.close();
                }
                settled = a.sink.settled(&mut outcomes) => {
                    settled?;
                    heard_at = Instant::now();
                    self.tell(a.sink.news());
                    self.settle(a, &mut outcomes).await?;
                    self.advance(a, backoff);
                }
                written = reply(&mut a.checkpoints.pending) => {
                    a.checkpoints.pending = None;
                    written?;
                    a.sink.checkpointed(&low_water);
                }
                () = std::future::ready(()), if can_go_on && current.is_some() => {}
                page = pages.recv(), if current.is_none() && drain_until.is_none() => match page {
                    Some(Ok(page)) => {
                        if let Some(mark) = page.starts {
                            a.window.start_round(Arc::clone(&page.round));
                            let reached = &a.window.progress().positions;
                            if !std::mem::take(&mut is_first) {
                                a.low_water.sample(mark.sequence_value, mark.next_xid, reached);
                            }
                        }
                        current = Some(Pending { page, next: 0 });
                    }
                    Some(Err(failure)) => return Err(failure),
                    None => return Err(Failure::transient("the reader ended")),
                },
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    /// Sends the next rows of the page as far as the window allows; false when
    /// it must wait for outcomes.
    async fn send_some(&self, a: &mut Attempt, pending: &mut Pending) -> Result<bool, Failure> {
        for _ in 0..BURST {
            let Some(row) = pending.page.rows.get(pending.next) else {
                return Ok(true);
            };
            let full = !a.sink.accepts()
                || a.window.len() >= self.forward.max_in_flight
                || a.window.bytes() >= WINDOW_BYTES;
            if full || (a.suspect.is_some_and(|id| id <= row.id) && !a.window.is_empty()) {
                return Ok(false);
            }
            if a.landed.remove(&row.event_id()) {
                settled(a, row);
                if a.landed.is_empty() {
                    a.window.release_positions();
                }
                self.status.skipped(1);
            } else if !self.send(a, row).await? {
                return Ok(false);
            }
            pending.next += 1;
        }
        Ok(true)
    }

    /// Sends a row; false when it must wait for outcomes.
    async fn send(&self, a: &mut Attempt, row: &Row) -> Result<bool, Failure> {
        loop {
            let event = match a.encoder.encode(row) {
                Ok(Some(event)) => event,
                Ok(None) => {
                    self.status.filtered(1);
                    settled(a, row);
                    return Ok(true);
                }
                Err(rejection) => {
                    self.refuse(a, row, None, &rejection.to_string()).await?;
                    settled(a, row);
                    return Ok(true);
                }
            };
            let key = event.key.filter(|_| self.forward.ordering == Ordering::Strict);
            let key = key.map(<[u8]>::to_vec);
            if a.sink.is_open(event.destination) {
                if self.is_behind(&a.keys, row, key.as_deref()).await? {
                    settled(a, row);
                    return Ok(true);
                }
                if a.keys.must_wait(key.as_deref(), a.window.is_empty()) {
                    return Ok(false);
                }
                let ticket = a.window.push(row.id, row.created_at, row.bytes());
                if let Some(reason) = a.sink.send(ticket, &event).await? {
                    self.refuse(a, row, key, &reason).await?;
                    a.window.settle(ticket, Settlement::Done);
                }
                return Ok(true);
            }
            let destination = event.destination.to_owned();
            self.open_destination(a, &destination).await?;
        }
    }

    /// Opens a topic that is used for the first time: where its log ends now
    /// must be on record before something of ours can be in it.
    pub(super) async fn open_destination(&self, a: &mut Attempt, destination: &str) -> Result<(), Failure> {
        let known = &a.window.progress().positions;
        let new = a.sink.open_destination(destination, known).await?;
        a.window.add_positions(&new);
        a.low_water.add_positions(&new);
        self.checkpoint_now(a, false).await
    }

    /// Tells how a sink fares that tries again by itself.
    pub(super) fn tell(&self, news: Option<News>) {
        match news {
            Some(News::Trouble(message)) => {
                tracing::warn!(pipeline = self.spec.name, "delivery failed: {message}");
                self.status.failed(State::Retrying, &message);
            }
            Some(News::Recovered) => self.status.set(State::Running),
            None => {}
        }
    }

    async fn settle(&self, a: &mut Attempt, outcomes: &mut Vec<Settled>) -> Result<(), Failure> {
        let mut refused: Option<(u32, i64, String)> = None;
        // Dealt with last: what was taken must not be forgotten when one of
        // them ends the attempt.
        let mut rejected = Vec::new();
        for Settled { ticket, outcome } in outcomes.drain(..) {
            match outcome {
                Outcome::Placed { stream, position } => {
                    a.window.settle(ticket, Settlement::Placed { stream, position });
                    self.status.published(1);
                }
                Outcome::Unplaced => {
                    a.window.settle(ticket, Settlement::Done);
                    self.status.published(1);
                }
                Outcome::Duplicate => {
                    a.window.settle(ticket, Settlement::Done);
                    self.status.skipped(1);
                }
                Outcome::Rejected(reason) => rejected.push((ticket, reason)),
                Outcome::Refused(reason) => {
                    let Some(id) = a.window.id_of(ticket) else {
                        continue;
                    };
                    if a.suspect != Some(id) {
                        // Refused among others, which may be its neighbours'
                        // fault (a batch too large): try the largest alone.
                        let bytes = a.window.bytes_of(ticket);
                        if refused.as_ref().is_none_or(|(most, ..)| bytes > *most) {
                            refused = Some((bytes, id, reason));
                        }
                        continue;
                    }
                    let row = self.read_one(id).await?;
                    let key = a.encoder.key_of(&row);
                    self.refuse(a, &row, key, &reason).await?;
                    a.window.settle(ticket, Settlement::Done);
                }
            }
        }
        for (ticket, reason) in rejected {
            if let Some(id) = a.window.id_of(ticket) {
                let row = self.read_one(id).await?;
                let key = a.encoder.key_of(&row);
                self.refuse(a, &row, key, &reason).await?;
                a.window.settle(ticket, Settlement::Done);
            }
        }
        match refused {
            Some((_, id, reason)) => {
                Err(Failure::transient(format!("message {id}: {reason}")).suspecting(id))
            }
            None => Ok(()),
        }
    }

    /// A message that was sent alone and refused, read again.
    async fn read_one(&self, id: i64) -> Result<Row, Failure> {
        let everything = Round {
            old: Snapshot::of_nothing(),
            new: format!("{max}:{max}:", max = i64::MAX)
                .parse()
                .map_err(|_| Failure::transient("snapshot"))?,
        };
        let rows =
            outbox::copy_by_id(&self.shared.readers, &self.forward.table, &everything, id - 1, 1).await?;
        rows.into_iter()
            .next()
            .ok_or_else(|| Failure::transient(format!("message {id} is gone from the outbox")))
    }

    /// Moves the window's prefix and all that follows from it.
    fn advance(&self, a: &mut Attempt, backoff: &mut Backoff) {
        let now = now_micros();
        let sink = &a.sink;
        let left = a.window.advance(
            |stream| sink.stream_name(stream),
            |created_at| self.status.latency(now - created_at),
        );
        if left > 0 {
            backoff.reset();
            a.checkpoints.delivered = true;
            a.checkpoints.active_at = Instant::now();
            a.sleeps_at = Instant::now() + sleep::AFTER;
        }
        if a.suspect
            .is_some_and(|id| a.window.progress().committed_offset >= id)
            && a.window.is_empty()
        {
            a.suspect = None;
        }
        if a.window.take_moved() {
            a.checkpoints.moved = true;
            a.low_water.advance(&a.window.progress().round.old);
        }
        self.status.in_flight(a.window.len());
    }
}

impl Attempt {
    /// At the end of a round: what it should have brought was passed before.
    fn forget_landed(&mut self, delivered: &Snapshot) {
        if self.landed_by.take_if(|by| delivered.includes(by)).is_some() {
            self.landed.clear();
            self.window.release_positions();
        }
    }
}

/// Takes a row into the window that needs no delivery.
fn settled(a: &mut Attempt, row: &Row) {
    let ticket = a.window.push(row.id, row.created_at, row.bytes());
    a.window.settle(ticket, Settlement::Done);
}

/// A page and the next of its rows to send.
struct Pending {
    page: Page,
    next: usize,
}
