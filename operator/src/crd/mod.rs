//! The resources as users write them: the four kinds with their defaults and
//! the rules that the API server checks before anything is stored.
//!
//! A rule says what `tide.relay_set_outbox`, `tide.outbox_create` and their
//! kin would say, only earlier. What cannot be said by a rule is said by
//! [`render()`], or by SQL, in the condition `Ready`.

mod database;
mod inbox;
mod manifest;
#[cfg(test)]
mod manifest_tests;
mod outbox;
#[cfg(test)]
mod page;
mod pipeline;
mod policy;
mod reference;
mod render;
mod text;

pub use database::{
    Connection, DatabaseTls, RelayGroup, RelayGroupStatus, RelayWebhook, SchemaPolicy, TideDatabase,
    TideDatabaseSpec, TideDatabaseStatus, TlsMode,
};
pub use inbox::{Inbox, InboxSpec, InboxStatus};
pub use manifest::{definitions, manifests, yaml};
pub use outbox::{AutoOffsetReset, ConsumerGroupSpec, Outbox, OutboxSpec, OutboxStatus};
pub use pipeline::{
    Acks, CloudEvents, Compression, DeadLetter, Encoding, Filter, Forward, InboxDelivery, InboxSink,
    KafkaConnection, KafkaDelivery, KafkaSink, KafkaSource, KafkaStart, KafkaTls, NatsConnection,
    NatsDelivery, NatsLogin, NatsSink, NatsSource, NatsTls, OAuth, Ordering, Pipeline, PipelineSpec,
    PipelineStatus, Retry, Reverse, Sasl, SaslMechanism, Sink, Source, StdoutDelivery, StdoutSink,
    WebhookDelivery, WebhookHeader, WebhookHeaderSource, WebhookMethod, WebhookMode, WebhookSignature,
    WebhookSink, WebhookSource, WebhookTls,
};
pub use policy::{AdoptionPolicy, ReclaimPolicy};
pub use reference::{
    CaSecretRef, CertificateSecretRef, DatabaseRef, LoginSecretRef, ObjectRef, SecretKeyRef, UriSecretRef,
};
pub use render::{Direction, Rendered, SECRETS_FOLDER, file_name, render};
pub use text::{Retention, Template};

/// API group of the resources.
pub const GROUP: &str = "pgtide.dev";
/// The version that is served and stored.
pub const VERSION: &str = "v1alpha1";

const fn yes() -> bool {
    true
}
