//! A Kafka cluster against what a pipeline needs of it.

use super::finding::{Finding, some};
use crate::human::bytes;

/// What librdkafka and brokers take besides the message itself.
const RECORD_OVERHEAD: i64 = 512;

/// Everything about one pipeline's cluster and topics.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Kafka {
    pub(super) at: String,
    pub(super) brokers: usize,
    pub(super) topics: Vec<Topic>,
    /// The topic's template, when topics depend on the message.
    pub(super) template: Option<String>,
    /// Whether brokers make topics that are asked for; none when they do not
    /// tell.
    pub(super) auto_create: Option<bool>,
    /// None for a source.
    pub(super) sink: Option<SinkNeeds>,
}

/// What a sink asks of its topic.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct SinkNeeds {
    pub(super) acks_all: bool,
    pub(super) partition: Option<i32>,
    pub(super) keyed: bool,
    /// The largest record that the client takes.
    pub(super) client_max: i64,
    /// Why earlier owners of the pipeline cannot be shut out, if that is wanted
    /// and so.
    pub(super) unfenced: Option<String>,
    /// The largest message of late.
    pub(super) largest: Option<i64>,
}

/// A topic.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Topic {
    pub(super) name: String,
    pub(super) state: TopicState,
    /// None when the brokers do not tell.
    pub(super) settings: Option<TopicSettings>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum TopicState {
    Found(Vec<Partition>),
    Missing,
    Forbidden,
    Failed(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Partition {
    pub(super) replicas: usize,
    pub(super) in_sync: usize,
    pub(super) has_leader: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TopicSettings {
    pub(super) min_insync: i64,
    pub(super) max_message: i64,
    pub(super) compacted: bool,
}

impl Kafka {
    pub(super) fn findings(&self, subject: &str) -> Vec<Finding> {
        let mut found = Vec::new();
        if let Some(template) = &self.template
            && self.topics.is_empty()
        {
            found.push(Finding::ok(
                "kafka-topic-template",
                subject,
                format!(
                    "Kafka {} answers; the topic \"{template}\" depends on the message and could not be looked at.",
                    self.at
                ),
            ));
        }
        found.extend(self.unfenced(subject));
        for topic in &self.topics {
            let before = found.len();
            found.extend(self.topic(subject, topic));
            if found.len() == before
                && let TopicState::Found(partitions) = &topic.state
            {
                let replicas = partitions.iter().map(|p| p.replicas).min().unwrap_or(0);
                found.push(Finding::ok(
                    "kafka-topic",
                    subject,
                    format!(
                        "Kafka topic \"{}\" at {}: {} partitions, {replicas} replicas each.",
                        topic.name,
                        self.at,
                        partitions.len()
                    ),
                ));
            }
        }
        found
    }

    fn unfenced(&self, subject: &str) -> Option<Finding> {
        let why = self.sink.as_ref()?.unfenced.as_ref()?;
        Some(
            Finding::warning(
                "kafka-late-requests",
                subject,
                format!(
                    "A request of a former owner that reaches the brokers late is not refused, and its messages are there twice: {why}."
                ),
            )
            .hint(
                "see \"late requests\" in docs/guarantees.md; the relay's own producer shuts former owners out, and so does \"delivery\": \"transactional\"",
            ),
        )
    }

    fn topic(&self, subject: &str, topic: &Topic) -> Vec<Finding> {
        let name = &topic.name;
        let partitions = match &topic.state {
            TopicState::Found(partitions) => partitions,
            TopicState::Missing => return vec![self.missing(subject, name)],
            TopicState::Forbidden => {
                return vec![
                    Finding::problem(
                        "kafka-topic-forbidden",
                        subject,
                        format!("Kafka does not let this user see topic \"{name}\"."),
                    )
                    .hint(format!(
                        "grant Describe, {} on it (and DescribeConfigs, for doctor): kafka-acls --add --allow-principal ...",
                        if self.sink.is_some() { "Read and Write" } else { "Read" }
                    )),
                ];
            }
            TopicState::Failed(reason) => {
                return vec![Finding::problem(
                    "kafka-topic-failed",
                    subject,
                    format!("Kafka topic \"{name}\" cannot be used: {reason}."),
                )];
            }
        };
        let mut found = Vec::new();
        let leaderless: Vec<String> = partitions
            .iter()
            .enumerate()
            .filter(|(_, p)| !p.has_leader)
            .map(|(n, _)| n.to_string())
            .collect();
        if !leaderless.is_empty() {
            found.push(
                Finding::problem(
                    "kafka-no-leader",
                    subject,
                    format!(
                        "Partitions of topic \"{name}\" have no leader: {}.",
                        some(&leaderless, 10)
                    ),
                )
                .hint("brokers that hold them are down: start them"),
            );
        }
        if let Some(sink) = &self.sink {
            found.extend(self.replication(subject, topic, sink, partitions));
            found.extend(sink_fits(subject, topic, sink, partitions.len()));
        }
        found
    }

    fn missing(&self, subject: &str, name: &str) -> Finding {
        let message = format!("Kafka {} has no topic \"{name}\"", self.at);
        let hint = format!(
            "create it: kafka-topics --bootstrap-server {} --create --topic {name} --partitions ... --replication-factor ...",
            self.at
        );
        match self.auto_create {
            Some(true) if self.sink.is_some() => Finding::warning(
                "kafka-topic-missing",
                subject,
                format!(
                    "{message}; its brokers will make it, with their default partitions and replicas, when the relay asks \
                     for it (auto.create.topics.enable)."
                ),
            )
            .hint(hint),
            None => Finding::problem(
                "kafka-topic-missing",
                subject,
                format!("{message}, and whether its brokers make topics by themselves cannot be seen."),
            )
            .hint(hint),
            _ => Finding::problem(
                "kafka-topic-missing",
                subject,
                format!("{message}, and its brokers do not make topics by themselves."),
            )
            .hint(hint),
        }
    }

    /// Whether «acknowledged» means what it should.
    fn replication(
        &self,
        subject: &str,
        topic: &Topic,
        sink: &SinkNeeds,
        partitions: &[Partition],
    ) -> Option<Finding> {
        let name = &topic.name;
        let replicas = partitions.iter().map(|p| p.replicas).min().unwrap_or(0);
        let in_sync = partitions.iter().map(|p| p.in_sync).min().unwrap_or(0);
        let min_insync = topic
            .settings
            .as_ref()
            .map_or(1, |s| usize::try_from(s.min_insync).unwrap_or(1));
        if !sink.acks_all {
            return Some(
                Finding::warning(
                    "kafka-acks",
                    subject,
                    "acks is not \"all\": a message that was acknowledged is lost when its broker dies, and after failures \
                     messages may be doubled.",
                )
                .hint("leave acks out of the config: all is the default"),
            );
        }
        if replicas < min_insync {
            return Some(
                Finding::problem(
                    "kafka-min-insync-unreachable",
                    subject,
                    format!(
                        "Topic \"{name}\" has {replicas} replicas, but min.insync.replicas is {min_insync}: with acks=all \
                         every message is refused."
                    ),
                )
                .hint("raise the replication factor, or lower min.insync.replicas of the topic"),
            );
        }
        if in_sync < min_insync {
            return Some(
                Finding::problem(
                    "kafka-under-replicated",
                    subject,
                    format!(
                        "Only {in_sync} replicas of some partition of topic \"{name}\" are in sync, min.insync.replicas is \
                         {min_insync}: its messages are refused."
                    ),
                )
                .hint("brokers are down or behind: look at the cluster"),
            );
        }
        if replicas < 2 {
            return Some(
                Finding::warning(
                    "kafka-replication-low",
                    subject,
                    format!(
                        "Topic \"{name}\" has a single replica: what it acknowledged is lost with that broker's disk, for \
                         all that acks=all promises."
                    ),
                )
                .hint(if self.brokers < 2 {
                    "fine for development; otherwise run three brokers, replication factor 3, min.insync.replicas 2"
                } else {
                    "use replication factor 3 and min.insync.replicas 2"
                }),
            );
        }
        (topic.settings.is_some() && min_insync < 2).then(|| {
            Finding::warning(
                "kafka-min-insync-low",
                subject,
                format!(
                    "min.insync.replicas of topic \"{name}\" is 1: a message counts as acknowledged by all when only one \
                     replica is left and has it."
                ),
            )
            .hint(format!(
                "kafka-configs --bootstrap-server {} --alter --entity-type topics --entity-name {name} --add-config \
                 min.insync.replicas=2",
                self.at
            ))
        })
    }
}

/// Partition, size and key against the topic.
fn sink_fits(subject: &str, topic: &Topic, sink: &SinkNeeds, partitions: usize) -> Vec<Finding> {
    let name = &topic.name;
    let mut found = Vec::new();
    if let Some(partition) = sink.partition
        && usize::try_from(partition).is_ok_and(|p| p >= partitions)
    {
        found.push(
            Finding::problem(
                "kafka-partition-missing",
                subject,
                format!(
                    "The config says partition {partition}, topic \"{name}\" has 0 to {}.",
                    partitions.saturating_sub(1)
                ),
            )
            .hint("correct \"partition\", or leave it out so that the key decides"),
        );
    }
    let topic_max = topic.settings.as_ref().map_or(i64::MAX, |s| s.max_message);
    if let Some(largest) = sink.largest {
        let needs = largest + RECORD_OVERHEAD;
        let (limit, whose, hint) = if topic_max <= sink.client_max {
            (
                topic_max,
                format!("topic \"{name}\" takes {} (max.message.bytes)", bytes(topic_max)),
                "raise max.message.bytes of the topic, or keep large contents elsewhere and publish where they are".to_owned(),
            )
        } else {
            (
                sink.client_max,
                format!(
                    "the client sends {} at most (message.max.bytes)",
                    bytes(sink.client_max)
                ),
                format!(
                    "set \"librdkafka\": {{\"message.max.bytes\": {}}} in the config",
                    needs.saturating_mul(2)
                ),
            )
        };
        if needs > limit {
            found.push(
                Finding::problem(
                    "kafka-message-too-large",
                    subject,
                    format!("The largest of the outbox's latest messages has {}, {whose}: such messages become dead letters.", bytes(largest)),
                )
                .hint(hint),
            );
        }
    }
    if topic.settings.as_ref().is_some_and(|s| s.compacted) && !sink.keyed {
        found.push(
            Finding::problem(
                "kafka-compacted-without-key",
                subject,
                format!("Topic \"{name}\" is compacted and takes no message without a key, and the config has no \"key\"."),
            )
            .hint("set \"key\", for example \"{headers.order_id}\", or cleanup.policy=delete"),
        );
    }
    found
}

#[cfg(test)]
#[path = "kafka_tests.rs"]
mod tests;
