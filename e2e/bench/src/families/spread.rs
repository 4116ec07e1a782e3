//! partitions.*, keys.*, headers.*: how fast a backlog is drained by how it is spread over partitions and keys, and by
//! how many headers its messages have; beside it the same sent from memory.

use anyhow::Result;

use crate::bench::Bench;
use crate::broker::{Broker, Target};
use crate::drain::{self, Route};
use crate::figures::Figure;
use crate::report::Values;
use crate::shape::{Keys, MOST_HEADERS, Shape};

const MANY_KEYS: u64 = 1000;
const MANY_PARTITIONS: i32 = 6;

/// How messages are spread, or what they carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spread {
    /// A thousand keys on a topic of one partition.
    OnePartition,
    /// A thousand keys on six partitions.
    ManyKeys,
    /// One key for all, on six partitions.
    OneKey,
    /// No headers of their own and no keys.
    NoHeaders(Broker),
    /// Five headers of their own and no keys.
    Headers(Broker),
}

impl Spread {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 7] = [
        Self::OnePartition,
        Self::ManyKeys,
        Self::OneKey,
        Self::NoHeaders(Broker::Kafka),
        Self::Headers(Broker::Kafka),
        Self::NoHeaders(Broker::Nats),
        Self::Headers(Broker::Nats),
    ];

    /// The figures it gives: a thousand keys on six partitions stand in two comparisons.
    pub fn figures(self) -> Vec<String> {
        match self {
            Self::OnePartition => vec!["partitions.kafka.1".into()],
            Self::ManyKeys => vec![
                format!("partitions.kafka.{MANY_PARTITIONS}"),
                format!("keys.kafka.{MANY_KEYS}"),
            ],
            Self::OneKey => vec!["keys.kafka.1".into()],
            Self::NoHeaders(broker) => vec![format!("headers.{}.0", broker.name())],
            Self::Headers(broker) => vec![format!("headers.{}.{MOST_HEADERS}", broker.name())],
        }
    }

    /// The figures of its limit.
    pub fn limits(self) -> Vec<String> {
        self.figures()
            .iter()
            .map(|figure| format!("limit.{figure}"))
            .collect()
    }

    /// Which broker it is about.
    pub fn broker(self) -> Broker {
        match self {
            Self::OnePartition | Self::ManyKeys | Self::OneKey => Broker::Kafka,
            Self::NoHeaders(broker) | Self::Headers(broker) => broker,
        }
    }

    fn shape(self) -> Shape {
        let (headers, keys) = match self {
            Self::OnePartition | Self::ManyKeys => (1, Keys::Customers(MANY_KEYS)),
            Self::OneKey => (1, Keys::Customers(1)),
            Self::NoHeaders(_) => (0, Keys::None),
            Self::Headers(_) => (MOST_HEADERS, Keys::None),
        };
        Shape {
            headers,
            keys,
            ..Shape::USUAL
        }
    }

    fn outbox(self) -> String {
        let shape = self.shape();
        format!("spread-{}-{}", shape.key_count(), shape.headers)
    }

    async fn target(self, bench: &Bench, label: &str) -> Result<Target> {
        match self {
            Self::ManyKeys | Self::OneKey => Ok(Target::Topic(
                bench.kafka.create_topic(label, MANY_PARTITIONS).await?,
            )),
            Self::OnePartition | Self::NoHeaders(_) | Self::Headers(_) => {
                self.broker().create_target(bench, label).await
            }
        }
    }

    fn label(self, run: usize) -> String {
        format!("{}-{run}", self.figures()[0].replace('.', "-"))
    }
}

/// The same rate under each name.
fn under(names: Vec<String>, rate: f64) -> Values {
    names.into_iter().map(|name| (name, rate)).collect()
}

/// Sending from memory.
pub async fn limit(bench: &Bench, spread: Spread, run: usize) -> Result<Values> {
    let target = spread
        .target(bench, &format!("limit-{}", spread.label(run)))
        .await?;
    let rate = target.fill(bench, bench.sizes.family, spread.shape()).await?;
    target.delete(bench).await?;
    Ok(under(spread.limits(), rate))
}

/// Draining.
pub async fn run(bench: &Bench, spread: Spread, run: usize) -> Result<Values> {
    let (label, outbox, shape) = (spread.label(run), spread.outbox(), spread.shape());
    let count = bench.sizes.family;
    bench.database.create_backlog(&outbox, count, shape).await?;
    let route = Route {
        target: spread.target(bench, &label).await?,
        pipeline: label.clone(),
        outbox,
        count,
        shape,
    };
    let drained = drain::through(bench, &label, vec![route], 1).await?;
    Ok(under(spread.figures(), drained.arrivals.rate()?))
}

/// The figures of these families.
pub fn figures() -> Vec<Figure> {
    let mut all = Vec::new();
    for spread in Spread::ALL {
        for (limit, figure) in spread.limits().iter().zip(spread.figures()) {
            all.push(Figure::new(limit, "msg/s"));
            all.push(Figure::new(figure, "msg/s").compared_to(&[limit]));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backlogs_that_differ_are_in_different_outboxes() {
        for a in Spread::ALL {
            for b in Spread::ALL {
                let same = a.shape().headers == b.shape().headers && a.shape().keys == b.shape().keys;
                assert_eq!(a.outbox() == b.outbox(), same, "{a:?} and {b:?}");
            }
        }
    }
}
