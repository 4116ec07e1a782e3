//! Reads the pipelines, and looks at the other side of each.

use std::time::Duration;

use futures::StreamExt;
use tokio_postgres::Client;

use super::kafka::CLIENT_MAX;
use super::{kafka, nats};
use crate::config::{
    InboxSinkSpec, KafkaSinkSpec, KafkaSourceSpec, NatsSinkSpec, NatsSourceSpec, PipelineSpec, SinkSpec,
    SourceSpec, WebhookSinkSpec, Work,
};
use crate::database::describe;
use crate::database::outbox::quote;
use crate::database::ownership::{PIPELINES, pipeline_row};
use crate::doctor::kafka::SinkNeeds;
use crate::doctor::pipelines::{Broker, Pipeline, Refusal, Side};
use crate::sink::kafka::LARGEST;
use crate::sink::{inbox, webhook};
use crate::source::nats::{durable_description, durable_name};

/// A broker that takes longer is called unreachable.
const BROKER_TIMEOUT: Duration = Duration::from_secs(20);
/// Brokers that are looked at side by side.
const AT_ONCE: usize = 8;
/// Of how many of the latest messages the largest is looked for.
const LATEST: i64 = 1_000;
/// Of how many topics that a template led to.
const TOPICS: usize = 20;

fn failed(what: &str) -> impl Fn(tokio_postgres::Error) -> String + '_ {
    move |e| format!("{what}: {}", describe(&e))
}

/// A pipeline and what its forward side needs to know of the database.
struct Known {
    pipeline: Pipeline,
    largest: Option<i64>,
    /// Why the inbox of this database that it delivers into cannot be used.
    no_inbox: Option<String>,
    /// Topics that the cursor has positions of.
    topics: Vec<String>,
}

pub(in crate::doctor) async fn pipelines(
    client: &Client,
    only: Option<&str>,
) -> Result<Vec<Pipeline>, String> {
    let what = "looking at the pipelines";
    let sql = format!("{PIPELINES} WHERE $1::text IS NULL OR p.name = $1 ORDER BY p.name");
    let configured = client.query(&sql, &[&only]).await.map_err(failed(what))?;
    let mut known = Vec::new();
    for row in &configured {
        let configured = pipeline_row(row).map_err(failed(what))?;
        let row = client
            .query_opt(
                "SELECT s.enabled, s.relay_group, s.owner, s.state,
                        coalesce(extract(epoch FROM clock_timestamp() - s.state_since)::float8, 0), s.last_error,
                        s.note,
                        ARRAY(SELECT DISTINCT regexp_replace(k, '/[0-9]+$', '')
                                FROM tide.group_cursor c, jsonb_object_keys(c.sink_position) k
                               WHERE c.group_id = $2)
                   FROM tide.relay_pipeline_status s
                  WHERE s.pipeline = $1",
                &[&configured.name, &configured.group_id],
            )
            .await
            .map_err(failed(what))?;
        // Deleted since.
        let Some(row) = row else { continue };
        let spec = PipelineSpec::read(&configured).map_err(|e| e.to_string());
        let secrets = spec
            .iter()
            .flat_map(|s| &s.secrets)
            .filter_map(|s| s.read().err())
            .map(|e| e.to_string())
            .collect();
        let largest = match &spec {
            Ok(PipelineSpec {
                work: Work::Forward(forward),
                ..
            }) => largest(client, &forward.table).await?,
            _ => None,
        };
        let no_inbox = match &spec {
            Ok(PipelineSpec {
                work: Work::Forward(forward),
                ..
            }) if let SinkSpec::Inbox(sink) = &forward.sink => no_inbox(client, sink).await?,
            _ => None,
        };
        let mut topics: Vec<String> = row.get(7);
        topics.sort();
        topics.truncate(TOPICS);
        known.push(Known {
            pipeline: Pipeline {
                name: configured.name,
                enabled: row.get(0),
                relay_group: row.get(1),
                owner: row.get(2),
                state: row.get(3),
                since: row.get(4),
                last_error: row.get(5),
                note: row.get(6),
                spec,
                secrets,
                broker: Broker::Unknown,
            },
            largest,
            no_inbox,
            topics,
        });
    }
    let looks = futures::stream::iter(known).map(|mut known| async {
        known.pipeline.broker = broker(&known).await;
        known.pipeline
    });
    Ok(looks.buffered(AT_ONCE).collect().await)
}

async fn largest(client: &Client, table: &str) -> Result<Option<i64>, String> {
    let sql = format!(
        "SELECT max(coalesce(octet_length(m.payload::text), octet_length(m.body)) + octet_length(m.headers::text))::bigint
           FROM (SELECT * FROM tide.{} ORDER BY id DESC LIMIT {LATEST}) m",
        quote(table)
    );
    let row = client
        .query_one(&sql, &[])
        .await
        .map_err(failed("looking for the largest message"))?;
    Ok(row.get(0))
}

async fn broker(known: &Known) -> Broker {
    let Ok(spec) = &known.pipeline.spec else {
        return Broker::Unknown;
    };
    if !known.pipeline.secrets.is_empty() {
        return Broker::Unknown;
    }
    let looking = async {
        match &spec.work {
            Work::Forward(forward) => match &forward.sink {
                SinkSpec::Kafka(sink) => kafka_sink(sink, known).await,
                SinkSpec::Nats(sink) => nats_sink(sink, known).await,
                SinkSpec::Inbox(sink) => inbox_sink(sink, known).await,
                SinkSpec::Webhook(sink) => webhook_sink(sink).await,
                SinkSpec::Stdout => Ok(Broker::Unknown),
            },
            Work::Reverse(reverse) => match &reverse.source {
                SourceSpec::Kafka(source) => kafka_source(source).await,
                SourceSpec::Nats(source) => nats_source(source, &spec.first_name).await,
                SourceSpec::Webhook(_) => Ok(Broker::Unknown),
            },
        }
    };
    let side = match &spec.work {
        Work::Forward(forward) => match &forward.sink {
            SinkSpec::Kafka(_) => Side::Kafka,
            SinkSpec::Inbox(_) => Side::Inbox,
            SinkSpec::Webhook(_) => Side::Webhook,
            SinkSpec::Nats(_) | SinkSpec::Stdout => Side::Nats,
        },
        Work::Reverse(reverse) => match &reverse.source {
            SourceSpec::Kafka(_) => Side::Kafka,
            SourceSpec::Nats(_) => Side::Nats,
            SourceSpec::Webhook(_) => Side::Webhook,
        },
    };
    match tokio::time::timeout(BROKER_TIMEOUT, looking).await {
        Ok(Ok(broker)) => broker,
        Ok(Err(refusal)) => Broker::Refused(refusal),
        Err(_) => {
            let reason = format!("no answer within {} s", BROKER_TIMEOUT.as_secs());
            Broker::Refused(Refusal::of(side, reason))
        }
    }
}

/// An inbox of this database is looked for with the pipelines.
async fn inbox_sink(sink: &InboxSinkSpec, known: &Known) -> Result<Broker, Refusal> {
    let reason = match &sink.database {
        Some(login) => inbox::look(&sink.inbox, login).await.err().map(|f| f.message),
        None => known.no_inbox.clone(),
    };
    match reason {
        Some(reason) => Err(Refusal::of(Side::Inbox, reason)),
        None => Ok(Broker::Unknown),
    }
}

/// Why an inbox of this database cannot be delivered into.
async fn no_inbox(client: &Client, sink: &InboxSinkSpec) -> Result<Option<String>, String> {
    if sink.database.is_some() {
        return Ok(None);
    }
    let sql = "SELECT FROM tide.inbox WHERE name = $1";
    let found = client.query_opt(sql, &[&sink.inbox]).await;
    Ok(match found.map_err(failed("looking for the inbox"))? {
        Some(_) => None,
        None => Some(format!(
            "inbox \"{}\" does not exist in this database",
            sink.inbox
        )),
    })
}

async fn webhook_sink(sink: &WebhookSinkSpec) -> Result<Broker, Refusal> {
    match webhook::look(sink).await {
        Ok(()) => Ok(Broker::Unknown),
        Err(reason) => Err(Refusal::of(Side::Webhook, reason)),
    }
}

async fn kafka_sink(sink: &KafkaSinkSpec, known: &Known) -> Result<Broker, Refusal> {
    let literal = sink.topic.literal();
    let question = kafka::Question {
        connection: sink.connection.clone(),
        topics: literal
            .clone()
            .map_or_else(|| known.topics.clone(), |topic| vec![topic]),
        template: literal.is_none().then(|| sink.topic.text().to_owned()),
        sink: Some(SinkNeeds {
            acks_all: sink.acks == "all",
            partition: sink.partition,
            keyed: sink.key.is_some(),
            client_max: if sink.may_be_fenced() { LARGEST } else { CLIENT_MAX },
            largest: known.largest,
            unfenced: sink
                .needs_library()
                .filter(|_| sink.is_exactly_once())
                .map(str::to_owned),
        }),
        may_be_fenced: sink.may_be_fenced(),
    };
    kafka::look(question).await.map(|k| Broker::Kafka(Box::new(k)))
}

async fn kafka_source(source: &KafkaSourceSpec) -> Result<Broker, Refusal> {
    let question = kafka::Question {
        connection: source.connection.clone(),
        topics: source.topics.clone(),
        template: None,
        sink: None,
        may_be_fenced: false,
    };
    kafka::look(question).await.map(|k| Broker::Kafka(Box::new(k)))
}

async fn nats_sink(sink: &NatsSinkSpec, known: &Known) -> Result<Broker, Refusal> {
    let question = nats::Question {
        subject: sink.subject_pattern(),
        stream: sink.stream.clone(),
        create_stream: sink.create_stream,
        source: None,
        largest: known.largest,
    };
    let looked = nats::look(&sink.connection, question).await?;
    Ok(Broker::Nats(Box::new(looked)))
}

async fn nats_source(source: &NatsSourceSpec, pipeline: &str) -> Result<Broker, Refusal> {
    if source.jetstream == Some(false) {
        // There is nothing to look at but whether it lets us in.
        return nats::reach(&source.connection).await.map(|()| Broker::Unknown);
    }
    let question = nats::Question {
        subject: source.subject.clone(),
        stream: source.stream.clone(),
        create_stream: source.create_stream,
        source: Some(nats::SourceQuestion {
            durable: durable_name(source, pipeline),
            description: durable_description(pipeline),
            may_be_plain: source.needs_jetstream().is_none(),
        }),
        largest: None,
    };
    let looked = nats::look(&source.connection, question).await?;
    Ok(Broker::Nats(Box::new(looked)))
}
