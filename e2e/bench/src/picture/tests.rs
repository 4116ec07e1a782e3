use std::path::PathBuf;

use super::*;
use crate::figures::catalogue;
use crate::report::Report;

/// Three runs of invented numbers for every figure that `wanted` takes.
fn summary(wanted: impl Fn(&str) -> bool) -> Vec<SummaryEntry> {
    let mut report = Report::new(catalogue());
    for run in 0..3 {
        let values = catalogue()
            .into_iter()
            .filter(|figure| wanted(&figure.name))
            .map(|figure| {
                let number: f64 = figure
                    .name
                    .bytes()
                    .fold(7.0, |sum, byte| (sum * 31.0 + f64::from(byte)) % 997.0);
                let base = invented(&figure.name).unwrap_or(100.0 + number);
                (figure.name, base * (1.0 + 0.06 * run as f64))
            });
        report
            .add(run, values.collect())
            .expect("figures of the catalogue");
    }
    report.summary()
}

/// Of a likely size, for pictures that are looked at.
fn invented(name: &str) -> Option<f64> {
    let limit = if name.starts_with("limit.") { 1.3 } else { 1.0 };
    let name = name.trim_start_matches("limit.");
    let parts: Vec<&str> = name.split('.').collect();
    let number = |text: &str| text.trim_start_matches(['r', 'p', 'c']).parse::<f64>().ok();
    Some(match parts.as_slice() {
        ["size", what, bytes] => {
            let most = match *what {
                "kafka" => 260_000.0,
                "nats" => 90_000.0,
                _ => 500_000.0,
            };
            limit * most / (1.0 + number(bytes)? / 900.0)
        }
        ["load", broker, rate, "p99", "9"] => {
            invented(&format!("load.{broker}.{rate}.p99"))? * 2.5 / limit.powi(4)
        }
        ["load", broker, rate, part] => {
            let base = if *broker == "kafka" { 2.2 } else { 1.4 };
            let tail = match *part {
                "p50" => 1.0,
                "p90" => 1.4,
                "p99" => 2.5,
                _ => 9.0,
            };
            base * tail * (1.0 + number(rate)? / 4000.0) / limit.powi(4)
        }
        ["publish", variant, clients] => {
            let share = match *variant {
                "bare" => 1.0,
                "insert" => 0.97,
                _ => 0.9,
            };
            share * 18_000.0 * number(clients)? / (number(clients)? + 4.0)
        }
        ["pipelines", n] => 260_000.0 - 400.0 * number(n)?,
        ["backlog" | "pipelines" | "relays", _, "relay_cpu"] => 2.1,
        ["backlog" | "pipelines" | "relays", _, "postgres_cpu"] => 1.7,
        ["fanout", _, "drain"] => 200_000.0,
        ["fanout", _, "drain", cpu] => {
            if *cpu == "relay_cpu" {
                2.2
            } else {
                1.6
            }
        }
        [phase @ ("calm" | "maintenance"), _, part] => {
            (if *phase == "calm" { 1.0 } else { 1.3 }) * (if *part == "p50" { 1.1 } else { 4.0 })
        }
        ["relays", _] | ["partitions" | "keys" | "headers", "kafka", _] => limit * 230_000.0,
        ["headers", _, _] => limit * 85_000.0,
        ["idle", _, _, "relay_cpu"] => 3.5,
        ["idle", _, _, "postgres_cpu"] => 2.2,
        ["idle", _, _, "transactions"] => 67.0,
        ["idle", _, _, "connections"] => 9.0,
        ["idle", _, _, "rss"] => 61.0,
        ["first", _, "p1"] => 2.4,
        ["first", ..] => 8.0,
        _ => return None,
    })
}

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("pg-tide-bench-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder for the pictures");
    folder
}

#[test]
fn every_family_has_a_picture_with_titles_units_and_a_legend() {
    let folder = folder("pictures");
    let drawn = draw(&summary(|_| true), &folder).expect("pictures");
    assert_eq!(drawn.len(), 11);
    let read = |name: &str| std::fs::read_to_string(folder.join(format!("{name}.svg"))).unwrap_or_default();
    for path in &drawn {
        let svg = std::fs::read_to_string(path).expect("it was written");
        assert!(
            svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"),
            "{path:?}"
        );
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{path:?}");
    }
    for (name, texts) in [
        (
            "size",
            [
                "size of a payload",
                "messages a second",
                "Kafka's client library alone",
                "64 KiB",
            ],
        ),
        (
            "load",
            [
                "events a second",
                "milliseconds from due to received",
                "p99.9",
                "to NATS",
            ],
        ),
        (
            "backlog",
            [
                "messages that wait",
                "CPU seconds for a million messages",
                "PostgreSQL",
                "5 million",
            ],
        ),
    ] {
        let svg = read(name);
        for text in texts {
            // A text of SVG: the apostrophe is escaped.
            let text = text.replace('\'', "&apos;");
            assert!(svg.contains(&text), "{name}: {text}");
        }
    }
    if std::env::var_os("KEEP_PICTURES").is_none() {
        std::fs::remove_dir_all(folder).expect("the folder is ours");
    }
}

#[test]
fn what_was_not_measured_is_not_drawn() {
    let none = families::pictures(&summary(|_| false));
    assert!(none.is_empty());
    let some = families::pictures(&summary(|name| {
        name == "size.kafka.300" || name == "size.kafka.65536" || name == "first.nats.p1000"
    }));
    let names: Vec<_> = some.iter().map(|picture| picture.name).collect();
    assert_eq!(names, ["size", "first"]);
    let X::Numbers { ticks, .. } = &some[0].panels[0].x else {
        panic!("sizes are numbers");
    };
    let ticks: Vec<_> = ticks.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(ticks, ["300 B", "64 KiB"]);
    let X::Things(things) = &some[1].panels[0].x else {
        panic!("numbers of pipelines are things");
    };
    assert_eq!(*things, ["one of 1,000"]);
    assert!(some[1].panels[0].series[0].points[0].x.total_cmp(&0.0).is_eq());
}

#[test]
fn a_point_has_the_median_and_the_range_of_its_runs() {
    let pictures = families::pictures(&summary(|name| name.starts_with("backlog.10k")));
    let point = pictures[0].panels[0].series[0].points[0];
    let close = |a: f64, b: f64| (a - b).abs() < 1e-9;
    assert!(close(point.least, 2.1) && close(point.median, 2.1 * 1.06) && close(point.most, 2.1 * 1.12));
}
