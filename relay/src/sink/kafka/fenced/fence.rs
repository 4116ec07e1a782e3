//! Shutting out whoever sent before: the broker itself is made to refuse it.
//!
//! The pipeline's transactional id gives this owner a producer id with a
//! higher epoch than any before. That alone tells the leaders of partitions
//! nothing. So the partitions are taken into a transaction that is aborted at
//! once, empty: its end is a marker in each partition's log (readers do not see
//! it), and after a marker a leader takes nothing of an earlier epoch. What
//! comes then is sent outside of transactions.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::connection::{Connection, words};
use super::protocol::{self, Api, Malformed, code};
use super::record_batch::ProducerId;
use crate::broker::kafka::Watch;

/// How long the coordinator may take to be found and to be ready. A cluster
/// that never had a transaction makes a topic first.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);
/// Of the empty transaction.
const TIMEOUT_MS: i32 = 15_000;

/// Why there is no fence.
#[derive(Debug)]
pub(in super::super) enum NoFence {
    /// The cluster does not let this client have one.
    Denied(String),
    /// Another owner began to send meanwhile.
    Fenced,
    /// The brokers answer, and none of them keeps transactions. If that lasts
    /// the cluster is not made for them (fewer brokers than
    /// `transaction.state.log.replication.factor`, for one).
    NoCoordinator(String),
    Failed(String),
}

impl From<String> for NoFence {
    fn from(reason: String) -> Self {
        Self::Failed(reason)
    }
}

/// Shuts everybody out of these partitions who sent to them under the same
/// transactional id; nothing of theirs comes into the log afterwards. Returns
/// under which id and epoch to send.
pub(super) async fn set(
    watch: &Watch,
    brokers: &[(String, u16)],
    transactional_id: &str,
    partitions: &[(&str, i32)],
) -> Result<ProducerId, NoFence> {
    let deadline = Instant::now() + PATIENCE;
    let mut pause = PAUSE;
    loop {
        match attempt(watch, brokers, transactional_id, partitions, deadline).await {
            Err(NoFence::Failed(reason) | NoFence::NoCoordinator(reason)) if Instant::now() < deadline => {
                tracing::debug!("no fence yet: {reason}");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            Err(NoFence::NoCoordinator(reason)) => return Err(NoFence::Denied(reason)),
            result => return result,
        }
    }
}

/// Why the cluster would not let this client have a fence, if so and as far as
/// can be seen without taking an id over.
pub(in super::super) async fn denied(
    watch: &Watch,
    brokers: &[(String, u16)],
    transactional_id: &str,
) -> Option<String> {
    match find(watch, brokers, transactional_id).await {
        Err(NoFence::Denied(reason) | NoFence::NoCoordinator(reason)) => Some(reason),
        Ok(_) | Err(NoFence::Fenced | NoFence::Failed(_)) => None,
    }
}

async fn attempt(
    watch: &Watch,
    brokers: &[(String, u16)],
    transactional_id: &str,
    partitions: &[(&str, i32)],
    deadline: Instant,
) -> Result<ProducerId, NoFence> {
    let mut coordinator = find(watch, brokers, transactional_id).await?;
    let mut call = Call {
        coordinator: &mut coordinator,
        transactional_id,
        deadline,
    };
    let marking = call.init().await?;
    call.add(marking, partitions).await?;
    call.abort(marking).await?;
    // Answered only when the markers are written.
    call.init().await
}

async fn find(
    watch: &Watch,
    brokers: &[(String, u16)],
    transactional_id: &str,
) -> Result<Connection, NoFence> {
    let mut last = NoFence::Failed("there are no brokers".into());
    for (host, port) in brokers {
        match find_by(watch, host, *port, transactional_id).await {
            Err(failed @ (NoFence::Failed(_) | NoFence::NoCoordinator(_))) => last = failed,
            result => return result,
        }
    }
    Err(last)
}

async fn find_by(
    watch: &Watch,
    host: &str,
    port: u16,
    transactional_id: &str,
) -> Result<Connection, NoFence> {
    let mut connection = Connection::open(watch, host, port).await?;
    let body = protocol::find_coordinator_request(transactional_id);
    let answer = connection.request(protocol::FIND_COORDINATOR, &body).await?;
    let (code, host, port) = protocol::coordinator(answer).map_err(|e| e.to_string())?;
    checked("finding the coordinator of transactions", code)?;
    Ok(Connection::open(watch, &host, port).await?)
}

/// Requests to a coordinator, which asks to be patient while it is at work.
struct Call<'a> {
    coordinator: &'a mut Connection,
    transactional_id: &'a str,
    deadline: Instant,
}

impl Call<'_> {
    async fn init(&mut self) -> Result<ProducerId, NoFence> {
        let body = protocol::init_producer_id_request(self.transactional_id, TIMEOUT_MS);
        let (code, producer) = self
            .ask(protocol::INIT_PRODUCER_ID, &body, protocol::producer_id)
            .await?;
        checked("taking the transactional id over", code)?;
        Ok(producer)
    }

    async fn add(&mut self, producer: ProducerId, partitions: &[(&str, i32)]) -> Result<(), NoFence> {
        let body = protocol::add_partitions_request(self.transactional_id, producer, partitions);
        let (code, topic) = self
            .ask(protocol::ADD_PARTITIONS_TO_TXN, &body, protocol::partitions_added)
            .await?;
        checked(&format!("fencing topic \"{topic}\""), code)
    }

    async fn abort(&mut self, producer: ProducerId) -> Result<(), NoFence> {
        let body = protocol::end_txn_request(self.transactional_id, producer);
        let read = |answer| protocol::error_code(answer).map(|code| (code, ()));
        let (code, ()) = self.ask(protocol::END_TXN, &body, read).await?;
        checked("ending the empty transaction", code)
    }

    /// Asks until the coordinator is not busy any more; its error code and what
    /// else it said.
    async fn ask<T>(
        &mut self,
        api: Api,
        body: &[u8],
        read: impl Fn(Bytes) -> Result<(i16, T), Malformed>,
    ) -> Result<(i16, T), NoFence> {
        let mut pause = Pause::until(self.deadline);
        loop {
            let answer = self.coordinator.request(api, body).await?;
            let (code, rest) = read(answer).map_err(|e| e.to_string())?;
            if !pause.is_needed(code).await {
                return Ok((code, rest));
            }
        }
    }
}

struct Pause {
    deadline: Instant,
    next: Duration,
}

impl Pause {
    fn until(deadline: Instant) -> Self {
        Self {
            deadline,
            next: PAUSE,
        }
    }

    /// Waits if the same request may be answered otherwise in a moment.
    async fn is_needed(&mut self, code: i16) -> bool {
        let is_busy = matches!(code, code::CONCURRENT_TRANSACTIONS | code::COORDINATOR_LOADING);
        if !is_busy || Instant::now() >= self.deadline {
            return false;
        }
        tokio::time::sleep(self.next).await;
        self.next = (self.next * 2).min(LONGEST_PAUSE);
        true
    }
}

fn checked(what: &str, code: i16) -> Result<(), NoFence> {
    // TOPIC_AUTHORIZATION_FAILED, CLUSTER_AUTHORIZATION_FAILED, UNSUPPORTED_VERSION,
    // INVALID_REQUEST, TRANSACTIONAL_ID_AUTHORIZATION_FAILED.
    const DENIED: [i16; 5] = [29, 31, 35, 42, 53];
    let reason = || format!("{what}: {}", words(code));
    match code {
        code::NONE => Ok(()),
        code::INVALID_PRODUCER_EPOCH | code::PRODUCER_FENCED => Err(NoFence::Fenced),
        code::COORDINATOR_NOT_AVAILABLE => Err(NoFence::NoCoordinator(reason())),
        _ if DENIED.contains(&code) => Err(NoFence::Denied(reason())),
        _ => Err(NoFence::Failed(reason())),
    }
}
