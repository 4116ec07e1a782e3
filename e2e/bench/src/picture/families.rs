//! Which pictures there are, and which figures are in them.

use super::points::Figures;
use super::{Colour, Panel, Picture, X};
use crate::broker::Broker;
use crate::families::spread::Spread;
use crate::families::{backlog, idle, load, pipelines, size};
use crate::fanout;
use crate::figures::CLIENTS;
use crate::maintenance;
use crate::report::SummaryEntry;

/// Those of which at least one series has two points, or a bar.
pub(super) fn pictures(summary: &[SummaryEntry]) -> Vec<Picture> {
    let figures = Figures::of(summary);
    let mut pictures = vec![
        publish(&figures),
        fanout(&figures),
        maintained(&figures),
        load(&figures),
        sizes(&figures),
        spread(&figures),
        pipelines(&figures),
        relays(&figures),
        backlogs(&figures),
        idling(&figures),
        first(&figures),
    ];
    for picture in &mut pictures {
        for panel in &mut picture.panels {
            panel.series.retain(|series| !series.points.is_empty());
            panel.drop_what_nothing_stands_at();
        }
        picture.panels.retain(|panel| !panel.series.is_empty());
    }
    pictures.retain(|picture| !picture.panels.is_empty());
    pictures
}

fn numbers(title: &'static str, ticks: impl IntoIterator<Item = (f64, String)>) -> X {
    X::Numbers {
        title,
        ticks: ticks.into_iter().collect(),
    }
}

fn publish(figures: &Figures<'_>) -> Picture {
    let of = |label, colour, variant| {
        let names = CLIENTS.map(|n| (n as f64, format!("publish.{variant}.c{n}")));
        figures.series(label, colour, names)
    };
    Picture {
        name: "publish",
        title: "Publishing by clients",
        panels: vec![Panel {
            title: "",
            x: numbers(
                "clients that publish at once",
                CLIENTS.map(|n| (n as f64, n.to_string())),
            ),
            y: "commits a second",
            y_log: false,
            series: vec![
                of("outbox_publish", Colour::Blue, "outbox"),
                of("INSERT into the outbox", Colour::Orange, "insert"),
                of("INSERT into a plain table", Colour::Green, "bare").limit(),
            ],
        }],
    }
}

fn fanout(figures: &Figures<'_>) -> Picture {
    let things = fanout::PIPELINES.map(|n| match n {
        1 => "1 pipeline".to_owned(),
        _ => format!("{n} pipelines"),
    });
    let names: Vec<_> = (0..)
        .map(f64::from)
        .zip(fanout::PIPELINES.map(|n| format!("fanout.p{n}.drain")))
        .collect();
    Picture {
        name: "fanout",
        title: "Pipelines on one outbox",
        panels: throughput_and_cost(figures, || X::Things(things.to_vec()), &names),
    }
}

fn maintained(figures: &Figures<'_>) -> Picture {
    let things = maintenance::WHO.map(|who| match who {
        "publish" => "publish",
        "delivery" => "deliver|to Kafka",
        "poll" => "poll|and commit",
        _ => "claim|and mark",
    });
    let panel = |title, part: &str| {
        let of = |label, colour, phase: &str| {
            let names = (0..)
                .map(f64::from)
                .zip(maintenance::WHO.map(|who| format!("{phase}.{who}.{part}")));
            figures.series(label, colour, names)
        };
        let [calm, busy] = maintenance::PHASES;
        Panel {
            title,
            x: X::Things(things.map(String::from).to_vec()),
            y: "milliseconds",
            y_log: false,
            series: vec![
                of("nothing else is done", Colour::Blue, calm).limit(),
                of("partitions and rows go", Colour::Blue, busy),
            ],
        }
    };
    Picture {
        name: "maintenance",
        title: "What maintenance does to others, at 1,000 events a second",
        panels: vec![panel("median", "p50"), panel("99th percentile", "p99")],
    }
}

fn load(figures: &Figures<'_>) -> Picture {
    let panel = |title, broker: Broker| {
        let of = |label, colour, prefix: &str, part: &str| {
            let names = load::LOADS.map(|(rate, _)| {
                (
                    rate as f64,
                    format!("{prefix}load.{}.r{rate}.{part}", broker.name()),
                )
            });
            figures.series(label, colour, names)
        };
        Panel {
            title,
            x: numbers(
                "events a second",
                load::LOADS.map(|(rate, _)| (rate as f64, count(rate))),
            ),
            y: "milliseconds from due to received",
            y_log: true,
            series: vec![
                of("p50", Colour::Blue, "", "p50"),
                of("p50, client library alone", Colour::Blue, "limit.", "p50").limit(),
                of("p99", Colour::Orange, "", "p99"),
                of("p99, client library alone", Colour::Orange, "limit.", "p99").limit(),
                of("p99.9", Colour::Purple, "", "p99.9"),
                of("p99.9, client library alone", Colour::Purple, "limit.", "p99.9").limit(),
            ],
        }
    };
    Picture {
        name: "load",
        title: "Latency by load",
        panels: vec![panel("to Kafka", Broker::Kafka), panel("to NATS", Broker::Nats)],
    }
}

fn sizes(figures: &Figures<'_>) -> Picture {
    let of = |label, colour, name: &str| {
        let names = size::BYTES.map(|bytes| (bytes as f64, format!("{name}.{bytes}")));
        figures.series(label, colour, names)
    };
    Picture {
        name: "size",
        title: "Draining by the size of payloads",
        panels: vec![Panel {
            title: "",
            x: numbers(
                "size of a payload",
                size::BYTES.map(|bytes| (bytes as f64, bytes_text(bytes))),
            ),
            y: "messages a second",
            y_log: true,
            series: vec![
                of("to Kafka", Colour::Blue, "size.kafka"),
                of("Kafka's client library alone", Colour::Blue, "limit.size.kafka").limit(),
                of("to NATS", Colour::Orange, "size.nats"),
                of("NATS' client library alone", Colour::Orange, "limit.size.nats").limit(),
                of(
                    "COPY of the backlog alone",
                    Colour::Green,
                    "limit.size.pg_copy_out",
                )
                .limit(),
            ],
        }],
    }
}

fn spread(figures: &Figures<'_>) -> Picture {
    let panel = |title, things: &[(Spread, &str)]| {
        let of = |label, text: fn(&str) -> String| {
            let names = (0..)
                .map(f64::from)
                .zip(things.iter().map(|(spread, _)| text(&spread.figures()[0])));
            figures.series(label, Colour::Blue, names)
        };
        Panel {
            title,
            x: X::Things(things.iter().map(|(_, thing)| (*thing).to_owned()).collect()),
            y: "messages a second",
            y_log: false,
            series: vec![
                of("relay", str::to_owned),
                of("client library alone", |name| format!("limit.{name}")).limit(),
            ],
        }
    };
    let [kafka, nats] = Broker::ALL;
    Picture {
        name: "spread",
        title: "Draining by partitions, keys and headers",
        panels: vec![
            panel(
                "partitions and keys, to Kafka",
                &[
                    (Spread::OnePartition, "1 partition|1,000 keys"),
                    (Spread::ManyKeys, "6 partitions|1,000 keys"),
                    (Spread::OneKey, "6 partitions|1 key"),
                ],
            ),
            panel(
                "headers",
                &[
                    (Spread::NoHeaders(kafka), "Kafka|no headers"),
                    (Spread::Headers(kafka), "Kafka|5 headers"),
                    (Spread::NoHeaders(nats), "NATS|no headers"),
                    (Spread::Headers(nats), "NATS|5 headers"),
                ],
            ),
        ],
    }
}

fn cost(figures: &Figures<'_>, x: X, names: &[(f64, String)]) -> Panel {
    let of = |label, colour, part: &str| {
        let names = names.iter().map(|(x, name)| (*x, format!("{name}.{part}")));
        figures.series(label, colour, names)
    };
    Panel {
        title: "cost",
        x,
        y: "CPU seconds for a million messages",
        y_log: false,
        series: vec![
            of("relay", Colour::Blue, "relay_cpu"),
            of("PostgreSQL", Colour::Green, "postgres_cpu"),
        ],
    }
}

fn throughput_and_cost(figures: &Figures<'_>, x: impl Fn() -> X, names: &[(f64, String)]) -> Vec<Panel> {
    vec![
        Panel {
            title: "throughput",
            x: x(),
            y: "messages a second in all",
            y_log: false,
            series: vec![figures.series("all pipelines", Colour::Blue, names.to_vec())],
        },
        cost(figures, x(), names),
    ]
}

fn pipelines(figures: &Figures<'_>) -> Picture {
    let names = pipelines::PIPELINES.map(|n| (n as f64, format!("pipelines.p{n}")));
    let x = || {
        numbers(
            "pipelines",
            pipelines::PIPELINES.map(|n| (n as f64, n.to_string())),
        )
    };
    Picture {
        name: "pipelines",
        title: "The same messages over more pipelines",
        panels: throughput_and_cost(figures, x, &names),
    }
}

fn relays(figures: &Figures<'_>) -> Picture {
    let names = pipelines::RELAYS.map(|n| (n as f64 - 1.0, format!("relays.{n}")));
    let x = || X::Things(vec!["1 relay".to_owned(), "2 relays".to_owned()]);
    Picture {
        name: "relays",
        title: "Four pipelines, by relays of their group",
        panels: throughput_and_cost(figures, x, &names),
    }
}

fn backlogs(figures: &Figures<'_>) -> Picture {
    let names = backlog::BACKLOGS.map(|(count, name)| (count as f64, format!("backlog.{name}")));
    let x = numbers(
        "messages that wait",
        backlog::BACKLOGS.map(|(messages, _)| (messages as f64, count(messages))),
    );
    Picture {
        name: "backlog",
        title: "Cost by the size of the backlog",
        panels: vec![Panel {
            title: "",
            ..cost(figures, x, &names)
        }],
    }
}

fn idling(figures: &Figures<'_>) -> Picture {
    let things = idle::PIPELINES
        .into_iter()
        .rev()
        .flat_map(|n| Broker::ALL.map(|broker| (broker, n)));
    let things: Vec<_> = (0..).map(f64::from).zip(things).collect();
    let x = || {
        X::Things(
            things
                .iter()
                .map(|(_, (broker, n))| format!("{} pipelines|to {}", count(*n as u64), broker.title()))
                .collect(),
        )
    };
    let of = |label, colour, part: &str| {
        let names = things
            .iter()
            .map(|(x, (broker, n))| (*x, format!("idle.{}.p{n}.{part}", broker.name())));
        figures.series(label, colour, names)
    };
    Picture {
        name: "idle",
        title: "Idling",
        panels: vec![
            Panel {
                title: "CPU",
                x: x(),
                y: "% of a core",
                y_log: false,
                series: vec![
                    of("relay", Colour::Blue, "relay_cpu"),
                    of("PostgreSQL", Colour::Green, "postgres_cpu"),
                ],
            },
            Panel {
                title: "PostgreSQL",
                x: x(),
                y: "transactions a second, connections",
                y_log: false,
                series: vec![
                    of("transactions a second", Colour::Green, "transactions"),
                    of("connections of the relay", Colour::Purple, "connections"),
                ],
            },
            Panel {
                title: "memory",
                x: x(),
                y: "MiB",
                y_log: false,
                series: vec![of("resident memory of the relay", Colour::Blue, "rss")],
            },
        ],
    }
}

fn first(figures: &Figures<'_>) -> Picture {
    let [many, some] = idle::PIPELINES;
    let numbers = [1, some, many];
    let of = |label, colour, broker: Broker| {
        let names = (0..)
            .map(f64::from)
            .zip(numbers.map(|n| format!("first.{}.p{n}", broker.name())));
        figures.series(label, colour, names)
    };
    Picture {
        name: "first",
        title: "The first event after idling",
        panels: vec![Panel {
            title: "",
            x: X::Things(
                numbers
                    .map(|n| {
                        if n == 1 {
                            "a pipeline alone".to_owned()
                        } else {
                            format!("one of {}", count(n as u64))
                        }
                    })
                    .into(),
            ),
            y: "milliseconds from commit to received",
            y_log: false,
            series: vec![
                of("to Kafka", Colour::Blue, Broker::Kafka),
                of("to NATS", Colour::Orange, Broker::Nats),
            ],
        }],
    }
}

/// 1,000 or 5 million.
fn count(n: u64) -> String {
    match n {
        _ if n >= 1_000_000 && n.is_multiple_of(1_000_000) => format!("{} million", n / 1_000_000),
        _ if n >= 1000 && n.is_multiple_of(1000) => format!("{},000", n / 1000),
        _ => n.to_string(),
    }
}

fn bytes_text(bytes: usize) -> String {
    if bytes >= 1024 && bytes.is_multiple_of(1024) {
        format!("{} KiB", bytes / 1024)
    } else {
        format!("{bytes} B")
    }
}
