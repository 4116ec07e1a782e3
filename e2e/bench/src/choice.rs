//! Which measurements there are, in which order, and which of them a quick look takes.

use crate::bench::Sizes;
use crate::broker::Broker;
use crate::families::spread::Spread;
use crate::families::{backlog, idle, load, pipelines, size};
use crate::fanout;
use crate::figures::CLIENTS;
use crate::inbox::Source;
use crate::measurement::Measurement;
use crate::sinks::Sink;

/// Measurements that are made in turn, all once and then all once again, so that a figure and its limit meet the same
/// machine.
#[derive(Debug, Clone)]
pub struct Group {
    /// What it is about, for people.
    pub name: &'static str,
    /// The outboxes made for it, by what their names begin with: they are dropped afterwards.
    pub outboxes: Option<&'static str>,
    /// No more runs than these, for what takes minutes.
    pub most_runs: usize,
    /// What is measured.
    pub measurements: Vec<Measurement>,
}

impl Group {
    fn new(name: &'static str, outboxes: Option<&'static str>, measurements: Vec<Measurement>) -> Self {
        Self {
            name,
            outboxes,
            most_runs: usize::MAX,
            measurements,
        }
    }

    fn at_most(mut self, runs: usize) -> Self {
        self.most_runs = runs;
        self
    }
}

/// All of them: the main table, then the families.
pub fn all() -> Vec<Group> {
    use Measurement::{
        Backlog, First, Idle, Load, LoadLimit, Pipelines, Relays, Size, SizeCopyOut, SizeLimit,
        Spread as Spreading, SpreadLimit,
    };
    let mut sizes = Vec::new();
    for bytes in size::BYTES {
        sizes.push(SizeCopyOut(bytes));
        for broker in Broker::ALL {
            sizes.extend([SizeLimit(broker, bytes), Size(broker, bytes)]);
        }
    }
    let spreads = Spread::ALL.map(|spread| [SpreadLimit(spread), Spreading(spread)]);
    let mut loads = Vec::new();
    for broker in Broker::ALL {
        for (rate, _) in load::LOADS {
            loads.extend([LoadLimit(broker, rate), Load(broker, rate)]);
        }
    }
    let idle = |pipelines| Broker::ALL.map(|broker| Idle(broker, pipelines)).into();
    let [many, some] = idle::PIPELINES;
    let (huge, backlogs): (Vec<_>, Vec<_>) = backlog::BACKLOGS
        .iter()
        .map(|(count, _)| *count)
        .partition(|count| *count > 1_000_000);
    vec![
        Group::new("the main table", None, main_table()),
        Group::new("load", Some("load-"), loads),
        Group::new("sizes of payloads", Some("size-"), sizes),
        Group::new("partitions, keys, headers", Some("spread-"), spreads.concat()),
        Group::new(
            "pipelines",
            Some("pipelines-"),
            pipelines::PIPELINES.map(Pipelines).into(),
        ),
        Group::new("relays", Some("relays-"), pipelines::RELAYS.map(Relays).into()),
        Group::new(
            "backlogs",
            Some("backlog-"),
            backlogs.into_iter().map(Backlog).collect(),
        ),
        Group::new(
            "a huge backlog",
            Some("backlog-"),
            huge.into_iter().map(Backlog).collect(),
        )
        .at_most(1),
        Group::new("the first event", Some("first-"), vec![First]),
        Group::new("some idle pipelines", Some("idle-"), idle(some)).at_most(1),
        Group::new("idle pipelines", Some("idle-"), idle(many)).at_most(1),
    ]
}

/// A limit stands beside what is compared to it.
fn main_table() -> Vec<Measurement> {
    use Measurement::{
        BrokerLimit, CopyOut, Drain, DrainSink, Fanout, Inbox, InboxInsert, Latency, LatencyLimit,
        Maintenance, Publish, WebhookPost,
    };
    let mut all: Vec<_> = CLIENTS.map(Publish).into();
    all.push(CopyOut);
    for broker in Broker::ALL {
        all.extend([BrokerLimit(broker), Drain(broker)]);
    }
    all.extend([InboxInsert, WebhookPost]);
    all.extend(Source::ALL.map(Inbox));
    all.extend(Sink::ALL.map(DrainSink));
    for broker in Broker::ALL {
        all.extend([LatencyLimit(broker), Latency(broker)]);
    }
    all.extend(fanout::PIPELINES.map(Fanout));
    all.push(Maintenance);
    all
}

/// What is measured: by patterns all that match, otherwise the choice for figures to quote or for a quick look.
pub fn selected(patterns: &[String], quick: bool) -> Vec<Group> {
    let mut groups = all();
    for group in &mut groups {
        group.measurements.retain(|measurement| {
            if patterns.is_empty() {
                if quick {
                    in_quick(*measurement)
                } else {
                    in_full(*measurement)
                }
            } else {
                measurement.selected(patterns)
            }
        });
    }
    groups.retain(|group| !group.measurements.is_empty());
    groups
}

/// A thousand idle pipelines say what a hundred do.
fn in_full(measurement: Measurement) -> bool {
    !matches!(measurement, Measurement::Idle(_, pipelines) if pipelines == idle::PIPELINES[1])
}

/// Two points of each axis, where that takes seconds.
fn in_quick(measurement: Measurement) -> bool {
    use Measurement::{
        Backlog, Idle, Load, LoadLimit, Pipelines, Relays, Size, SizeCopyOut, SizeLimit, Spread as Spreading,
        SpreadLimit,
    };
    match measurement {
        SizeCopyOut(bytes) | SizeLimit(_, bytes) | Size(_, bytes) => bytes == 300 || bytes == 65_536,
        LoadLimit(broker, rate) | Load(broker, rate) => broker == Broker::Kafka && rate >= 1000,
        Spreading(_) | SpreadLimit(_) | Relays(_) => false,
        Pipelines(number) => number <= 10,
        Backlog(count) => count <= 100_000,
        Idle(broker, number) => broker == Broker::Kafka && number == idle::PIPELINES[1],
        _ => true,
    }
}

/// About how many seconds they take.
pub fn seconds(groups: &[Group], runs: usize, sizes: &Sizes) -> f64 {
    let of = |group: &Group| {
        let once: f64 = group
            .measurements
            .iter()
            .map(|measurement| measurement.seconds(sizes))
            .sum();
        once * runs.min(group.most_runs) as f64
    };
    groups.iter().map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::catalogue;

    fn measurements(groups: Vec<Group>) -> Vec<Measurement> {
        groups.into_iter().flat_map(|group| group.measurements).collect()
    }

    #[test]
    fn a_pattern_is_a_part_of_a_figures_name() {
        let names = |pattern: &str| measurements(selected(&[pattern.to_owned()], false));
        assert_eq!(names("publish.outbox.c8"), [Measurement::Publish(8)]);
        assert_eq!(
            names("rss"),
            [
                Measurement::Drain(Broker::Kafka),
                Measurement::Drain(Broker::Nats)
            ]
        );
        assert!(names("nothing").is_empty());
        assert_eq!(
            names("idle.kafka.p100").len(),
            2,
            "what is named is measured, whatever the choice"
        );
    }

    #[test]
    fn every_measurement_gives_figures_of_the_catalogue_and_every_figure_is_given() {
        let known = catalogue();
        let given: Vec<_> = measurements(all())
            .into_iter()
            .flat_map(Measurement::figures)
            .collect();
        for figure in &given {
            assert!(
                known.iter().any(|known| known.name.starts_with(figure)),
                "{figure}"
            );
        }
        for figure in known {
            assert!(
                given.iter().any(|given| figure.name.starts_with(given)),
                "{}",
                figure.name
            );
        }
    }

    #[test]
    fn a_measurement_that_is_compared_has_its_limits_in_the_same_group() {
        let catalogue = catalogue();
        for group in selected(&[], true).into_iter().chain(selected(&[], false)) {
            let given: Vec<_> = group
                .measurements
                .iter()
                .flat_map(|measurement| measurement.figures())
                .collect();
            let is_there = |name: &String| given.iter().any(|given| name.starts_with(given.as_str()));
            for figure in catalogue.iter().filter(|figure| is_there(&figure.name)) {
                for other in &figure.compared_to {
                    assert!(is_there(other), "{} without {other}", figure.name);
                }
            }
        }
    }

    #[test]
    fn a_quick_look_takes_five_minutes_and_everything_three_quarters_of_an_hour() {
        let quick = seconds(&selected(&[], true), 1, &Sizes::QUICK);
        let full = seconds(&selected(&[], false), 3, &Sizes::FULL);
        assert!(quick < 290.0, "{quick:.0} s");
        assert!(full < 44.0 * 60.0, "{:.1} min", full / 60.0);
    }
}
