//! The owner's part of a webhook pipeline: to say whether it can take requests.
//!
//! Any relay of the group with a listener stores what comes to it. What the
//! owner has to tell is what stands in the way of all of them.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Backoff, Shared};
use crate::config::WebhookSourceSpec;
use crate::failure::Failure;
use crate::source::webhook::keys;
use crate::status::{PipelineStatus, State};

/// For so long nobody needs to listen: relays come and go.
const GAP: Duration = Duration::from_secs(2);

/// Watches until told to stop (`Ok`), or until no request can be taken.
pub(super) async fn attempt(
    shared: &Shared,
    spec: &WebhookSourceSpec,
    status: &PipelineStatus,
    stop: &CancellationToken,
    backoff: &mut Backoff,
) -> Result<(), Failure> {
    if let Some(signature) = &spec.signature {
        keys::read(&signature.secrets).map_err(Failure::transient)?;
    }
    let mut listening = shared.listening.clone();
    loop {
        let there = tokio::select! {
            there = tokio::time::timeout(GAP, listening.wait_for(|there| *there)) => there.is_ok_and(|r| r.is_ok()),
            () = stop.cancelled() => return Ok(()),
        };
        if !there {
            return Err(Failure::transient(
                "no webhook listener: start the relay with --webhook-addr (PG_TIDE_WEBHOOK_ADDR), such as 0.0.0.0:8080; \
                 no live relay of the group has one",
            ));
        }
        status.set(State::Running);
        backoff.reset();
        tokio::select! {
            gone = listening.wait_for(|there| !there) => if gone.is_err() {
                return Err(Failure::transient("the relay's session has ended"));
            },
            () = stop.cancelled() => return Ok(()),
        }
    }
}
