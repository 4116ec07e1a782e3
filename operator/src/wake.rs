//! Whom a change concerns besides the changed resource.

use crate::context::Context;
use crate::crd::{Pipeline, SecretKeyRef, TideDatabase};
use crate::pipeline::secrets_of;
use crate::resources::{Declared, Key, Kind};

/// A declared resource was made, changed or deleted.
pub fn declared<K: Declared>(context: &Context, resource: &K) {
    let key = resource.key();
    match K::KIND {
        Kind::TideDatabase => context.wake_dependants(&key),
        Kind::Outbox | Kind::Inbox => {
            context.queue.add(&resource.database_key());
            for pipeline in context.pipelines.of(&key.namespace, |p| {
                names(p, K::KIND).is_some_and(|name| name == key.name)
            }) {
                context.queue.add(&pipeline.key());
            }
        }
        // Its Secrets are copied by the database, and claims collected.
        Kind::Pipeline => context.queue.add(&resource.database_key()),
    }
}

/// The Outbox or Inbox that a pipeline names.
fn names(pipeline: &Pipeline, kind: Kind) -> Option<&str> {
    match kind {
        Kind::Outbox => pipeline.spec.forward.as_ref().map(|f| f.outbox_ref.name.as_str()),
        Kind::Inbox => pipeline.spec.reverse.as_ref().map(|r| r.inbox_ref.name.as_str()),
        Kind::TideDatabase | Kind::Pipeline => None,
    }
}

/// A Secret was made, changed or deleted.
pub fn secret(context: &Context, namespace: &str, name: &str) {
    for database in context
        .databases
        .of(namespace, |d| of_database(d).iter().any(|s| s.name == name))
    {
        context.queue.add(&database.key());
    }
    for pipeline in context
        .pipelines
        .of(namespace, |p| secrets_of(p).any(|s| s.name == name))
    {
        context.queue.add(&pipeline.key());
        context
            .queue
            .add(&Key::new(Kind::TideDatabase, namespace, pipeline.database()));
    }
}

/// The keys of Secrets that a `TideDatabase` names.
fn of_database(database: &TideDatabase) -> Vec<SecretKeyRef> {
    let spec = &database.spec;
    let mut found = vec![SecretKeyRef::from(&spec.connection.secret_ref)];
    found.extend(
        spec.relay_connection
            .iter()
            .map(|c| SecretKeyRef::from(&c.secret_ref)),
    );
    if let Some(tls) = &spec.tls {
        found.extend(tls.ca_secret_ref.iter().map(SecretKeyRef::from));
        found.extend(
            tls.client_cert_secret_ref
                .iter()
                .flat_map(|c| [c.certificate(), c.private_key()]),
        );
    }
    found
}
