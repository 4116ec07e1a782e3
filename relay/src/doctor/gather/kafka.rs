//! Asks a Kafka cluster about a pipeline's topics, without making any.

use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, ResourceSpecifier};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::{Metadata, MetadataTopic};

use crate::broker::kafka;
use crate::config::KafkaConnection;
use crate::doctor::kafka::{Kafka, Partition, SinkNeeds, Topic, TopicSettings, TopicState};
use crate::doctor::pipelines::Refusal;
use crate::sink::kafka::denies_fence;

/// librdkafka's own default of message.max.bytes.
pub(super) const CLIENT_MAX: i64 = 1_000_000;
const METADATA_TIMEOUT: Duration = Duration::from_secs(2);
/// Between the first word of trouble and giving up, another may say more.
const PATIENCE: Duration = Duration::from_secs(6);
const ADMIN_TIMEOUT: Duration = Duration::from_secs(5);

/// What to ask for.
#[derive(Debug, Clone)]
pub(in crate::doctor) struct Question {
    pub(in crate::doctor) connection: KafkaConnection,
    pub(in crate::doctor) topics: Vec<String>,
    pub(in crate::doctor) template: Option<String>,
    pub(in crate::doctor) sink: Option<SinkNeeds>,
    /// Whether the relay's own producer sends, if the brokers let it.
    pub(in crate::doctor) may_be_fenced: bool,
}

pub(in crate::doctor) async fn look(question: Question) -> Result<Kafka, Refusal> {
    let mut config =
        kafka::client_config(&question.connection).map_err(|f| Refusal::kafka(f.message, None))?;
    kafka::set_properties(&mut config, &question.connection);
    let at = question.connection.brokers.clone();
    let watch = kafka::Watch::new(&question.connection);
    let (asked, names, watching) = (config.clone(), question.topics.clone(), watch.clone());
    let looked = tokio::task::spawn_blocking(move || metadata(asked, &names, &watching))
        .await
        .map_err(|e| Refusal::kafka(e.to_string(), None))?;
    let (brokers, states) = match looked {
        Ok(found) => found,
        Err(error) => {
            let reason = watch.explained().await.unwrap_or_else(|| kafka::describe(&error));
            return Err(Refusal::kafka(format!("kafka {at}: {reason}"), watch.cause()));
        }
    };
    let denied = if question.may_be_fenced {
        denies_fence(&watch).await
    } else {
        None
    };
    let settings = Settings::read(&config, watch, brokers.first().copied(), &states).await;
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
            client_max: client_max.unwrap_or(if denied.is_some() {
                CLIENT_MAX
            } else {
                sink.client_max
            }),
            unfenced: denied.or(sink.unfenced),
            ..sink
        }),
    })
}

type States = Vec<(String, TopicState)>;

/// Brokers and topics. Blocking. As a consumer, because brokers make a topic
/// that a producer asks for.
fn metadata(
    mut config: ClientConfig,
    topics: &[String],
    watch: &kafka::Watch,
) -> Result<(Vec<i32>, States), KafkaError> {
    config
        .set("group.id", "pg-tide-doctor")
        .set("enable.auto.commit", "false")
        .set("allow.auto.create.topics", "false");
    let consumer: BaseConsumer<kafka::Quiet> = config.create_with_context(kafka::Quiet(watch.clone()))?;
    let first = fetch(&consumer, watch, topics.first().map(String::as_str))?;
    let brokers = first
        .brokers()
        .iter()
        .map(rdkafka::metadata::MetadataBroker::id)
        .collect();
    let mut states = States::new();
    for name in topics {
        let metadata = fetch(&consumer, watch, Some(name))?;
        let topic = metadata.topics().iter().find(|t| t.name() == name);
        states.push((name.clone(), topic.map_or(TopicState::Missing, state)));
    }
    Ok((brokers, states))
}

fn fetch(
    consumer: &BaseConsumer<kafka::Quiet>,
    watch: &kafka::Watch,
    topic: Option<&str>,
) -> Result<Metadata, KafkaError> {
    let began = Instant::now();
    // Tokens, too, are asked for in the polls.
    while consumer.poll(Duration::ZERO).is_some() {}
    loop {
        match consumer.fetch_metadata(topic, METADATA_TIMEOUT) {
            Ok(metadata) => return Ok(metadata),
            Err(error) => {
                while consumer.poll(Duration::from_millis(20)).is_some() {}
                if watch.is_hopeless() || began.elapsed() >= PATIENCE {
                    return Err(error);
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
