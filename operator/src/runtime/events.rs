//! Events: what a user should know that the status alone does not tell.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};

use crate::relay_deployment::namespace_ends;
use crate::resources::Declared;

/// Who writes: events and server-side apply.
pub const MANAGER: &str = "pg-tide-operator";

/// Longest note that the API takes.
const LONGEST: usize = 1000;

/// Publishes events; a failure to do so never fails what they tell about.
#[derive(Clone)]
pub struct Events {
    recorder: Recorder,
}

impl Events {
    /// Events of this operator's pod.
    #[must_use]
    pub fn new(client: Client, identity: &str) -> Self {
        Self {
            recorder: Recorder::new(
                client,
                Reporter {
                    controller: MANAGER.into(),
                    instance: Some(identity.into()),
                },
            ),
        }
    }

    /// Something went as it should.
    pub async fn normal(
        &self,
        about: &impl Declared,
        reason: &'static str,
        action: &'static str,
        note: String,
    ) {
        self.publish(about.object_ref(&()), EventType::Normal, reason, action, note)
            .await;
    }

    /// Somebody should look.
    pub async fn warning(
        &self,
        about: &impl Declared,
        reason: &'static str,
        action: &'static str,
        note: String,
    ) {
        self.publish(about.object_ref(&()), EventType::Warning, reason, action, note)
            .await;
    }

    async fn publish(
        &self,
        about: ObjectReference,
        type_: EventType,
        reason: &'static str,
        action: &'static str,
        mut note: String,
    ) {
        if let Some(end) = (0..=LONGEST).rev().find(|end| note.is_char_boundary(*end))
            && end < note.len()
        {
            note.truncate(end);
        }
        let event = Event {
            type_,
            reason: reason.into(),
            note: Some(note),
            action: action.into(),
            secondary: None,
        };
        match self.recorder.publish(&event, &about).await {
            Ok(()) => {}
            Err(error) if namespace_ends(&error) => {}
            Err(error) => tracing::warn!(reason, "an event was not published: {error}"),
        }
    }
}
