//! Outboxes, inboxes and pipelines in few words, and numbered messages that
//! show whether each arrived once and in order.

use std::collections::{BTreeMap, BTreeSet};

use std::time::Duration;

use crate::{Database, answer};

impl Database {
    /// A pipeline from an outbox to a Kafka topic; `more` is a JSON object
    /// with further options.
    pub async fn to_kafka(&self, pipeline: &str, outbox: &str, brokers: &str, topic: &str, more: &str) {
        self.run(&format!(
            "SELECT tide.relay_set_outbox('{pipeline}', '{outbox}', 'kafka',
                jsonb_build_object('brokers', '{brokers}', 'topic', '{topic}') || '{more}')"
        ))
        .await;
    }

    /// A pipeline from an outbox to a NATS subject.
    pub async fn to_nats(&self, pipeline: &str, outbox: &str, url: &str, subject: &str, more: &str) {
        self.run(&format!(
            "SELECT tide.relay_set_outbox('{pipeline}', '{outbox}', 'nats',
                jsonb_build_object('url', '{url}', 'subject', '{subject}') || '{more}')"
        ))
        .await;
    }

    /// A pipeline from a NATS subject to an inbox; `arguments` are further
    /// ones of `tide.relay_set_inbox`, each with a comma before it.
    pub async fn from_nats(
        &self,
        pipeline: &str,
        inbox: &str,
        url: &str,
        subject: &str,
        more: &str,
        arguments: &str,
    ) {
        self.run(&format!(
            "SELECT tide.relay_set_inbox('{pipeline}', '{inbox}',
                jsonb_build_object('url', '{url}', 'subject', '{subject}', 'queue_group', '{pipeline}') || '{more}'
                {arguments})"
        ))
        .await;
    }

    /// Waits until the status of a pipeline shows an error with all of these
    /// texts, and returns it.
    pub async fn await_error(&self, within: Duration, pipeline: &str, texts: &[&str]) -> String {
        let sql = format!(
            "SELECT coalesce(last_error, '') FROM tide.relay_pipeline_status WHERE pipeline = '{pipeline}'"
        );
        let mut last = String::new();
        let come = answer(within, async || {
            last = self.try_text(&sql).await.unwrap_or_else(|e| e);
            texts.iter().all(|t| last.contains(t)).then_some(())
        })
        .await;
        assert!(
            come.is_some(),
            "not within {within:?}: pipeline {pipeline} fails with {texts:?}\nits error: {last}"
        );
        last
    }

    /// Waits until a pipeline runs.
    pub async fn await_running(&self, within: Duration, pipeline: &str) {
        let sql = format!("SELECT state FROM tide.relay_pipeline_status WHERE pipeline = '{pipeline}'");
        self.await_text(within, &sql, "running").await;
    }

    /// A pipeline from a Kafka topic to an inbox, as the group of its name;
    /// `arguments` are further ones of `tide.relay_set_inbox`, each with a
    /// comma before it.
    pub async fn from_kafka(
        &self,
        pipeline: &str,
        inbox: &str,
        brokers: &str,
        topic: &str,
        more: &str,
        arguments: &str,
    ) {
        self.run(&format!(
            "SELECT tide.relay_set_inbox('{pipeline}', '{inbox}', p_source := 'kafka', p_config :=
                jsonb_build_object('brokers', '{brokers}', 'topic', '{topic}') || '{more}' {arguments})"
        ))
        .await;
    }

    /// A pipeline from webhooks to an inbox.
    pub async fn from_webhook(&self, pipeline: &str, inbox: &str, config: &str, arguments: &str) {
        self.run(&format!(
            "SELECT tide.relay_set_inbox('{pipeline}', '{inbox}', '{config}', p_source := 'webhook' {arguments})"
        ))
        .await;
    }

    /// Makes outboxes.
    pub async fn create_outboxes(&self, names: &[&str]) {
        for name in names {
            self.run(&format!("SELECT tide.outbox_create('{name}')")).await;
        }
    }

    /// Publishes `{"n": first}` to `{"n": last}`, so many in a transaction.
    pub async fn publish_numbers(&self, outbox: &str, first: i64, last: i64, in_one: i64) {
        self.run(&format!(
            "DO $$ BEGIN
                 FOR n IN {first} .. {last} LOOP
                     PERFORM tide.outbox_publish('{outbox}', jsonb_build_object('n', n), '{{\"event_type\": \"number\"}}');
                     IF (n - {first} + 1) % {in_one} = 0 THEN COMMIT; END IF;
                 END LOOP;
             END $$"
        ))
        .await;
    }

    /// Publishes one number in a transaction of its own.
    pub async fn publish_number(&self, outbox: &str, n: i64) {
        self.run(&format!(
            "SELECT tide.outbox_publish('{outbox}', jsonb_build_object('n', {n}))"
        ))
        .await;
    }
}

/// The `n` of each payload.
pub fn numbers<'a>(payloads: impl IntoIterator<Item = &'a str>) -> Vec<i64> {
    payloads
        .into_iter()
        .map(|payload| {
            let value: serde_json::Value =
                serde_json::from_str(payload).unwrap_or_else(|e| panic!("{payload}: {e}"));
            value["n"]
                .as_i64()
                .unwrap_or_else(|| panic!("no number n in {payload}"))
        })
        .collect()
}

/// Panics unless exactly these numbers are there, each once; says which are
/// missing, doubled or strange.
pub fn assert_each_once(got: &[i64], wanted: impl IntoIterator<Item = i64>) {
    let wanted: BTreeSet<i64> = wanted.into_iter().collect();
    let mut counts = BTreeMap::<i64, usize>::new();
    for n in got {
        *counts.entry(*n).or_default() += 1;
    }
    let some = |all: Vec<i64>| format!("{} ({:?}...)", all.len(), &all[..all.len().min(10)]);
    let missing: Vec<i64> = wanted
        .iter()
        .filter(|n| !counts.contains_key(n))
        .copied()
        .collect();
    let doubled: Vec<i64> = counts
        .iter()
        .filter(|(_, count)| **count > 1)
        .map(|(n, _)| *n)
        .collect();
    let strange: Vec<i64> = counts.keys().filter(|n| !wanted.contains(n)).copied().collect();
    assert!(
        missing.is_empty() && doubled.is_empty() && strange.is_empty(),
        "{} of {} numbers: missing {}, doubled {}, not published {}",
        got.len(),
        wanted.len(),
        some(missing),
        some(doubled),
        some(strange),
    );
}

/// Panics unless the numbers rise.
pub fn assert_in_order(got: &[i64]) {
    if let Some((before, after)) = got.iter().zip(got.iter().skip(1)).find(|(a, b)| a >= b) {
        panic!("out of order: {before} before {after}");
    }
}
