//! The catalogue of figures: every name, its unit, what it is compared to and the bar it has to hold.

use crate::{families, fanout, maintenance};

/// What a figure is measured against.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bar {
    /// Nothing is asked of it.
    None,
    /// At least this value.
    AtLeast(f64),
    /// At most this value.
    AtMost(f64),
    /// At least this share of what it is compared to.
    Share(f64),
}

/// One figure as it is defined.
#[derive(Debug, Clone)]
pub struct Figure {
    /// Its name in the table and in `summary.json`.
    pub name: String,
    /// The unit of its values.
    pub unit: &'static str,
    /// Figures that it is shown as a share of; several are stages in series, as 1/(1/a + 1/b).
    pub compared_to: Vec<String>,
    /// The bar it has to hold.
    pub bar: Bar,
}

impl Figure {
    /// One that is compared to nothing and has no bar.
    pub fn new(name: impl Into<String>, unit: &'static str) -> Self {
        Self {
            name: name.into(),
            unit,
            compared_to: Vec::new(),
            bar: Bar::None,
        }
    }

    /// The same, shown as a share of these.
    pub fn compared_to(mut self, others: &[&String]) -> Self {
        self.compared_to = others.iter().map(ToString::to_string).collect();
        self
    }
}

/// Numbers of clients that publishing is measured at.
pub const CLIENTS: [usize; 3] = [1, 8, 32];

/// All figures in the order of the table: those of the main table, then those of the families.
pub fn catalogue() -> Vec<Figure> {
    let mut all = Vec::new();
    let mut add = |name: &str, unit, compared_to: &[&str], bar| {
        let compared_to = compared_to.iter().map(ToString::to_string).collect();
        all.push(Figure {
            name: name.to_owned(),
            unit,
            compared_to,
            bar,
        });
    };
    for clients in CLIENTS {
        let bare = format!("publish.bare.c{clients}");
        add(&bare, "commits/s", &[], Bar::None);
        add(
            &format!("publish.insert.c{clients}"),
            "commits/s",
            &[&bare],
            Bar::None,
        );
        add(
            &format!("publish.outbox.c{clients}"),
            "commits/s",
            &[&bare],
            Bar::Share(0.75),
        );
    }
    add("limit.pg_copy_out", "rows/s", &[], Bar::None);
    for (broker, limit, rate) in [
        ("kafka", "limit.kafka_produce", 60_000.0),
        ("nats", "limit.nats_publish", 40_000.0),
    ] {
        add(limit, "msg/s", &[], Bar::None);
        add(
            &format!("drain.{broker}"),
            "msg/s",
            &["limit.pg_copy_out", limit],
            Bar::AtLeast(rate),
        );
        add(&format!("drain.{broker}.total"), "s", &[], Bar::None);
        add(&format!("cpu_per_million.{broker}"), "s", &[], Bar::None);
    }
    add("rss.relay", "MiB", &[], Bar::AtMost(64.0));
    add("limit.inbox_insert", "rows/s", &[], Bar::None);
    add("limit.webhook_post", "msg/s", &[], Bar::None);
    add("limit.webhook_post_batch", "msg/s", &[], Bar::None);
    for (source, limits, bar) in [
        ("nats", &["limit.inbox_insert"][..], Bar::AtLeast(30_000.0)),
        ("kafka", &["limit.inbox_insert"], Bar::AtLeast(30_000.0)),
        (
            "webhook",
            &["limit.webhook_post", "limit.inbox_insert"],
            Bar::None,
        ),
    ] {
        add(&format!("inbox.{source}"), "msg/s", limits, bar);
        add(&format!("inbox.{source}.total"), "s", &[], Bar::None);
        add(&format!("cpu_per_million.inbox_{source}"), "s", &[], Bar::None);
    }
    for (sink, limits) in [
        ("inbox", &["limit.pg_copy_out", "limit.inbox_insert"][..]),
        ("webhook", &["limit.pg_copy_out", "limit.webhook_post"]),
        (
            "webhook_batch",
            &["limit.pg_copy_out", "limit.webhook_post_batch"],
        ),
        ("stdout", &["limit.pg_copy_out"]),
    ] {
        add(&format!("drain.{sink}"), "msg/s", limits, Bar::None);
        add(&format!("cpu_per_million.{sink}"), "s", &[], Bar::None);
    }
    for broker in ["kafka", "nats"] {
        for (part, bar) in [
            ("p50", Bar::AtMost(10.0)),
            ("p99", Bar::AtMost(40.0)),
            ("max", Bar::None),
        ] {
            let limit = format!("limit.latency.{broker}.r1000.{part}");
            add(&limit, "ms", &[], Bar::None);
            add(&format!("latency.{broker}.r1000.{part}"), "ms", &[&limit], bar);
        }
    }
    for pipelines in fanout::PIPELINES {
        let name = format!("fanout.p{pipelines}");
        add(&format!("{name}.drain"), "msg/s", &[], Bar::None);
        for part in ["drain.relay_cpu", "drain.postgres_cpu"] {
            add(&format!("{name}.{part}"), "s/million", &[], Bar::None);
        }
        for part in ["r1000.relay_cpu", "r1000.postgres_cpu"] {
            add(&format!("{name}.{part}"), "% of a core", &[], Bar::None);
        }
    }
    for who in maintenance::WHO {
        for (part, _) in maintenance::PARTS {
            let [calm, maintained] = maintenance::PHASES.map(|phase| format!("{phase}.{who}.{part}"));
            add(&calm, "ms", &[], Bar::None);
            add(&maintained, "ms", &[&calm], Bar::None);
        }
    }
    all.extend(families::figures());
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_comparison_is_with_a_figure_of_the_catalogue() {
        let all = catalogue();
        for figure in &all {
            for other in &figure.compared_to {
                assert!(
                    all.iter().any(|known| known.name == *other),
                    "{} names {other}",
                    figure.name
                );
            }
            assert!(
                !matches!(figure.bar, Bar::Share(_)) || !figure.compared_to.is_empty(),
                "{}",
                figure.name
            );
        }
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = catalogue().into_iter().map(|figure| figure.name).collect();
        names.sort();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
