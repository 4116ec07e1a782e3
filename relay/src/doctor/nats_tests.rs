use super::*;
use crate::doctor::finding::Severity;

fn stream() -> Stream {
    Stream {
        name: "S".into(),
        subjects: vec!["a.>".into()],
        covers: true,
        retention: Retention::Limits,
        replicas: 3,
        duplicate_window: Duration::from_mins(2),
        max_message: None,
        consumers: 1,
        full: false,
        sealed: false,
    }
}

fn sink() -> Nats {
    Nats {
        at: "nats://h".into(),
        subject: "a.b".into(),
        named: None,
        create_stream: true,
        clustered: true,
        max_payload: 1_048_576,
        jetstream: true,
        streams: vec![stream()],
        direction: Direction::Sink { largest: Some(100) },
    }
}

fn source() -> Nats {
    Nats {
        direction: Direction::Source {
            consumer: None,
            may_be_plain: true,
        },
        ..sink()
    }
}

fn only(nats: &Nats) -> Finding {
    let mut found = nats.findings("pipeline p");
    assert_eq!(found.len(), 1, "{found:#?}");
    found.remove(0)
}

fn with_stream(edit: impl FnOnce(&mut Stream)) -> Finding {
    let mut nats = sink();
    edit(&mut nats.streams[0]);
    only(&nats)
}

#[test]
fn a_good_stream_is_ok() {
    assert_eq!(only(&sink()).severity, Severity::Ok);
    assert_eq!(only(&source()).severity, Severity::Ok);
}

#[test]
fn without_jetstream_a_sink_fails_and_a_source_may_lose() {
    let off = |nats: Nats| {
        only(&Nats {
            jetstream: false,
            ..nats
        })
    };
    assert_eq!(
        (off(sink()).severity, off(sink()).code),
        (Severity::Problem, "nats-jetstream-off")
    );
    assert_eq!(off(source()).severity, Severity::Warning);
    let strict = Direction::Source {
        consumer: None,
        may_be_plain: false,
    };
    let strict = off(Nats {
        direction: strict,
        ..source()
    });
    assert_eq!(strict.severity, Severity::Problem);
}

#[test]
fn missing_streams_are_a_problem_unless_the_relay_makes_them() {
    let mut nats = Nats {
        streams: Vec::new(),
        ..sink()
    };
    assert_eq!(
        (only(&nats).severity, only(&nats).code),
        (Severity::Warning, "nats-stream-missing")
    );
    nats.create_stream = false;
    assert_eq!(only(&nats).severity, Severity::Problem);
    nats.named = Some("X".into());
    assert!(only(&nats).message.contains("has no stream \"X\""));
    nats.streams = vec![Stream {
        covers: false,
        ..stream()
    }];
    assert_eq!(only(&nats).code, "nats-subject-not-taken");
}

#[test]
fn settings_of_the_stream_that_hurt_are_told() {
    for (edit, code) in [
        (
            (|s| s.duplicate_window = Duration::from_secs(10)) as fn(&mut Stream),
            "nats-duplicate-window",
        ),
        (|s| s.replicas = 1, "nats-replicas"),
        (|s| s.full = true, "nats-stream-full"),
        (|s| s.sealed = true, "nats-stream-full"),
        (|s| s.retention = Retention::WorkQueue, "nats-retention"),
        (
            |s| {
                s.retention = Retention::Interest;
                s.consumers = 0;
            },
            "nats-messages-vanish",
        ),
        (|s| s.max_message = Some(200), "nats-message-too-large"),
    ] {
        assert_eq!(with_stream(edit).code, code);
    }
    let single = Nats {
        clustered: false,
        streams: vec![Stream {
            replicas: 1,
            ..stream()
        }],
        ..sink()
    };
    assert!(only(&single).hint.unwrap().contains("fine for development"));
}

#[test]
fn the_servers_limit_counts_as_well() {
    let large = Nats {
        direction: Direction::Sink {
            largest: Some(2_000_000),
        },
        ..sink()
    };
    assert!(only(&large).hint.unwrap().contains("max_payload"));
}

#[test]
fn a_source_needs_one_stream_and_a_consumer_of_its_own() {
    let two = Nats {
        streams: vec![stream(), stream()],
        ..source()
    };
    assert_eq!(only(&two).code, "nats-stream-ambiguous");
    let with = |fits, unfit| {
        only(&Nats {
            direction: Direction::Source {
                consumer: Some(Consumer {
                    name: "c".into(),
                    filter: "a.c".into(),
                    fits,
                    ours: false,
                    unfit,
                }),
                may_be_plain: true,
            },
            ..sink()
        })
    };
    assert_eq!(with(true, None).severity, Severity::Ok);
    assert_eq!(with(false, None).code, "nats-consumer-filter");
    assert_eq!(with(true, Some("is a push consumer")).code, "nats-consumer-unfit");
}
