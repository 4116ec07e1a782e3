//! Asks a Kafka cluster about a pipeline's topics, without making any.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, ResourceSpecifier};
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::{Metadata, MetadataTopic};

use crate::broker::kafka;
use crate::config::KafkaConnection;
use crate::doctor::kafka::{Kafka, Partition, SinkNeeds, Topic, TopicSettings, TopicState};
use crate::doctor::pipelines::Refusal;

const METADATA_TIMEOUT: Duration = Duration::from_secs(2);
/// Between the first word of trouble and giving up, another may say more.
const PATIENCE: Duration = Duration::from_secs(6);
const ADMIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Keeps what the library says about its connections.
#[derive(Debug, Clone, Default)]
struct Listener(Arc<Mutex<Vec<String>>>);

impl Listener {
    /// The reason that says most: about rights and certificates rather than
    /// that no broker is left.
    fn reason(&self) -> Option<String> {
        let reasons = self.0.lock();
        let telling = |r: &&String| {
            ["SASL", "SSL", "ssl", "certificate", "uthenticat"]
                .iter()
                .any(|t| r.contains(t))
        };
        let plain = |r: &&String| !r.contains("brokers are down");
        let chosen = reasons
            .iter()
            .find(telling)
            .or_else(|| reasons.iter().find(plain))
            .or_else(|| reasons.first())?;
        // Timings follow.
        Some(chosen.split(" (after ").next().unwrap_or(chosen).to_owned())
    }
}

impl ClientContext for Listener {
    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}

    fn error(&self, error: KafkaError, reason: &str) {
        // What the consumer group says is of no interest: there is none.
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::GroupAuthorizationFailed) {
            self.0.lock().push(reason.to_owned());
        }
    }
}

impl ConsumerContext for Listener {}

/// What to ask for.
#[derive(Debug, Clone)]
pub(in crate::doctor) struct Question {
    pub(in crate::doctor) connection: KafkaConnection,
    pub(in crate::doctor) topics: Vec<String>,
    pub(in crate::doctor) template: Option<String>,
    pub(in crate::doctor) sink: Option<SinkNeeds>,
}

pub(in crate::doctor) async fn look(question: Question) -> Result<Kafka, Refusal> {
    let refused = |reason: String| Refusal {
        kind: "kafka",
        reason,
    };
    let mut config = kafka::client_config(&question.connection).map_err(|f| refused(f.message))?;
    kafka::set_properties(&mut config, &question.connection);
    let at = question.connection.brokers.clone();
    let (asked, names) = (config.clone(), question.topics.clone());
    let (brokers, states) = tokio::task::spawn_blocking(move || metadata(asked, &names))
        .await
        .map_err(|e| refused(e.to_string()))?
        .map_err(|reason| refused(format!("kafka {at}: {reason}")))?;
    let settings = Settings::read(
        &config,
        kafka::Watch::new(&question.connection),
        brokers.first().copied(),
        &states,
    )
    .await;
    let client_max = question
        .connection
        .librdkafka
        .iter()
        .find(|(name, _)| name == "message.max.bytes")
        .and_then(|(_, value)| value.parse().ok());
    Ok(Kafka {
        at,
        brokers: brokers.len(),
        topics: states
            .into_iter()
            .map(|(name, state)| Topic {
                settings: settings.of_topic(&name),
                name,
                state,
            })
            .collect(),
        template: question.template,
        auto_create: settings.auto_create(),
        sink: question.sink.map(|sink| SinkNeeds {
            client_max: client_max.unwrap_or(sink.client_max),
            ..sink
        }),
    })
}

type States = Vec<(String, TopicState)>;

/// Brokers and topics. Blocking. As a consumer, because brokers make a topic
/// that a producer asks for.
fn metadata(mut config: ClientConfig, topics: &[String]) -> Result<(Vec<i32>, States), String> {
    config
        .set("group.id", "pg-tide-doctor")
        .set("enable.auto.commit", "false")
        .set("allow.auto.create.topics", "false");
    let listener = Listener::default();
    let consumer: BaseConsumer<Listener> = config
        .create_with_context(listener.clone())
        .map_err(|e| e.to_string())?;
    let first = fetch(&consumer, &listener, topics.first().map(String::as_str))?;
    let brokers = first
        .brokers()
        .iter()
        .map(rdkafka::metadata::MetadataBroker::id)
        .collect();
    let mut states = States::new();
    for name in topics {
        let metadata = fetch(&consumer, &listener, Some(name))?;
        let topic = metadata.topics().iter().find(|t| t.name() == name);
        states.push((name.clone(), topic.map_or(TopicState::Missing, state)));
    }
    Ok((brokers, states))
}

fn fetch(
    consumer: &BaseConsumer<Listener>,
    listener: &Listener,
    topic: Option<&str>,
) -> Result<Metadata, String> {
    let began = Instant::now();
    loop {
        match consumer.fetch_metadata(topic, METADATA_TIMEOUT) {
            Ok(metadata) => return Ok(metadata),
            Err(error) => {
                // Errors of connections come with the polls.
                while consumer.poll(Duration::from_millis(20)).is_some() {}
                let telling = listener
                    .reason()
                    .is_some_and(|r| r.contains("SASL") || r.contains("SSL"));
                if telling || began.elapsed() >= PATIENCE {
                    return Err(listener.reason().unwrap_or_else(|| kafka::describe(&error)));
                }
            }
        }
    }
}

fn state(topic: &MetadataTopic) -> TopicState {
    match topic.error().map(RDKafkaErrorCode::from) {
        None => TopicState::Found(
            topic
                .partitions()
                .iter()
                .map(|p| Partition {
                    replicas: p.replicas().len(),
                    in_sync: p.isr().len(),
                    has_leader: p.leader() >= 0,
                })
                .collect(),
        ),
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
            TopicState::Missing
        }
        Some(RDKafkaErrorCode::TopicAuthorizationFailed) => TopicState::Forbidden,
        Some(other) => TopicState::Failed(kafka::describe_code(other)),
    }
}

/// Settings of brokers and topics, as far as we may see them.
struct Settings(Vec<ConfigResource>);

impl Settings {
    async fn read(config: &ClientConfig, watch: kafka::Watch, broker: Option<i32>, states: &States) -> Self {
        let Ok(admin) = config.create_with_context::<_, AdminClient<_>>(kafka::Quiet(watch)) else {
            return Self(Vec::new());
        };
        let wanted: Vec<ResourceSpecifier> = states
            .iter()
            .filter(|(_, state)| matches!(state, TopicState::Found(_)))
            .map(|(name, _)| ResourceSpecifier::Topic(name))
            .chain(broker.map(ResourceSpecifier::Broker))
            .collect();
        let options = AdminOptions::new()
            .request_timeout(Some(ADMIN_TIMEOUT))
            .operation_timeout(Some(ADMIN_TIMEOUT));
        let described = tokio::time::timeout(ADMIN_TIMEOUT * 2, admin.describe_configs(&wanted, &options));
        let resources = match described.await {
            Ok(Ok(results)) => results.into_iter().filter_map(Result::ok).collect(),
            _ => Vec::new(),
        };
        // Ends its threads, which takes a moment.
        let _ = tokio::task::spawn_blocking(move || drop(admin)).await;
        Self(resources)
    }

    fn of_topic(&self, topic: &str) -> Option<TopicSettings> {
        use rdkafka::admin::OwnedResourceSpecifier::Topic;
        let resource = self
            .0
            .iter()
            .find(|r| matches!(&r.specifier, Topic(name) if name == topic))?;
        let value = |name: &str| resource.get(name).and_then(|e| e.value.clone());
        Some(TopicSettings {
            min_insync: value("min.insync.replicas")?.parse().ok()?,
            max_message: value("max.message.bytes")?.parse().ok()?,
            compacted: value("cleanup.policy").is_some_and(|p| p.contains("compact")),
        })
    }

    fn auto_create(&self) -> Option<bool> {
        use rdkafka::admin::OwnedResourceSpecifier::Broker;
        let resource = self.0.iter().find(|r| matches!(r.specifier, Broker(_)))?;
        let entry = resource.get("auto.create.topics.enable")?;
        entry.value.as_deref().map(|v| v == "true")
    }
}
