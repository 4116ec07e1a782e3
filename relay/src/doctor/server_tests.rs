use super::*;
use crate::doctor::finding::Severity;

fn fine() -> Server {
    Server {
        at: "db:5432/shop".into(),
        role: "relay".into(),
        version: 180_006,
        in_recovery: false,
        encrypted: true,
        local: false,
        clock_offset: 0.1,
        clock_error: 0.01,
        schema: Schema::Found {
            version: pg_tide_schema::VERSION,
            release: "x".into(),
            extension: false,
        },
        lacking: Vec::new(),
        relay_role: true,
        schema_owner: "owner".into(),
        settings: [
            ("default_transaction_read_only", "off"),
            ("synchronous_commit", "on"),
            ("fsync", "on"),
            ("statement_timeout", "0"),
        ]
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .into(),
        connections: 10,
        max_connections: 97,
        own_limit: None,
        transactions: Vec::new(),
        prepared: Vec::new(),
        hidden: 0,
    }
}

/// The only finding that is not fine.
fn only(server: &Server) -> Finding {
    let mut bad: Vec<Finding> = server
        .findings()
        .into_iter()
        .filter(|f| f.severity != Severity::Ok)
        .collect();
    assert_eq!(bad.len(), 1, "{bad:#?}");
    bad.remove(0)
}

fn with(edit: impl FnOnce(&mut Server)) -> Finding {
    let mut server = fine();
    edit(&mut server);
    only(&server)
}

fn with_setting(name: &str, value: &str) -> Finding {
    with(|s| drop(s.settings.insert(name.into(), value.into())))
}

#[test]
fn a_server_in_order_has_nothing_to_say_but_ok() {
    let findings = fine().findings();
    assert!(
        findings.iter().all(|f| f.severity == Severity::Ok),
        "{findings:#?}"
    );
    assert!(findings[0].message.contains("PostgreSQL 18.6"), "{findings:#?}");
}

#[test]
fn refused_connections_are_told_apart() {
    for (cause, code) in [
        (Cause::Refused, "database-unreachable"),
        (Cause::Password, "database-password"),
        (Cause::UnknownAuthority, "database-tls-authority"),
        (Cause::Pooler, "pooler-transaction-mode"),
    ] {
        let finding = connection_refused(&DatabaseError::Connect {
            at: "h:1/d".into(),
            cause,
            reason: "so it is.".into(),
        });
        assert_eq!((finding.severity, finding.code), (Severity::Problem, code));
        assert_eq!(
            finding.message,
            "Cannot connect to PostgreSQL at h:1/d: so it is."
        );
        let hint = finding.hint.unwrap();
        assert!(!hint.starts_with([';', ' ']), "{hint}");
    }
    let url = connection_refused(&DatabaseError::Url("nothing".into()));
    assert_eq!(url.code, "database-url");
}

#[test]
fn the_clock_may_differ_by_two_seconds() {
    assert_eq!(with(|s| s.clock_offset = 2.5).code, "clock-skew");
    assert!(with(|s| s.clock_offset = -5.0).message.contains("5.0 s behind"));
    let mut slow = fine();
    (slow.clock_offset, slow.clock_error) = (2.5, 0.6);
    assert!(
        slow.findings().iter().all(|f| f.severity == Severity::Ok),
        "the answer took that long"
    );
}

#[test]
fn every_state_of_the_schema_has_its_remedy() {
    let older = Schema::Found {
        version: 0,
        release: "0".into(),
        extension: true,
    };
    assert!(
        with(|s| s.schema = older)
            .hint
            .unwrap()
            .contains("ALTER EXTENSION")
    );
    let newer = Schema::Found {
        version: 1_000,
        release: "9.9".into(),
        extension: false,
    };
    let newer = with(|s| s.schema = newer);
    assert_eq!(
        (newer.code, newer.hint.unwrap().contains("9.9")),
        ("schema-newer", true)
    );
    assert_eq!(with(|s| s.schema = Schema::Missing).code, "schema-missing");
}

#[test]
fn missing_rights_are_named_with_the_grant() {
    let lacking: Vec<String> = (0..6).map(|n| format!("SELECT on tide.t{n}")).collect();
    let finding = with(|s| {
        s.lacking = lacking.clone();
        s.role = "Sho\"p".into();
    });
    assert!(
        finding.message.contains("SELECT on tide.t0") && finding.message.ends_with("and 2 more."),
        "{finding:?}"
    );
    assert_eq!(finding.hint.unwrap(), "GRANT tide_relay TO \"Sho\"\"p\"");
    let without_role = with(|s| {
        s.lacking = lacking;
        s.relay_role = false;
    });
    assert!(
        without_role
            .hint
            .unwrap()
            .contains("GRANT \"owner\" TO \"relay\"")
    );
}

#[test]
fn settings_that_hurt_are_found() {
    for (name, value, code) in [
        ("synchronous_commit", "off", "setting-synchronous-commit"),
        ("fsync", "off", "setting-fsync"),
        ("default_transaction_read_only", "on", "setting-read-only"),
        ("transaction_timeout", "5000", "setting-transaction-timeout"),
        ("statement_timeout", "1000", "setting-statement-timeout"),
    ] {
        let finding = with_setting(name, value);
        assert_eq!(finding.code, code);
        assert!(finding.hint.is_some());
    }
    for (name, value) in [("statement_timeout", "3600000"), ("synchronous_commit", "local")] {
        let mut server = fine();
        server.settings.insert(name.into(), value.into());
        assert!(server.findings().iter().all(|f| f.severity == Severity::Ok));
    }
}

#[test]
fn connections_run_short() {
    assert!(with(|s| s.connections = 90).message.contains("90 of 97"));
    assert!(
        with(|s| s.own_limit = Some(3))
            .message
            .contains("may open 3 more")
    );
}

#[test]
fn open_transactions_are_named() {
    let transaction = Transaction {
        pid: 4711,
        seconds: 3_700.0,
        application: "billing".into(),
        user: "app".into(),
        database: "shop".into(),
        state: "idle in transaction".into(),
        wrote: true,
    };
    let finding = with(|s| s.transactions = vec![transaction]);
    for part in ["61m", "pid 4711", "billing", "user app", "idle in transaction"] {
        assert!(finding.message.contains(part), "{finding:?}");
    }
    let prepared = Prepared {
        gid: "it's".into(),
        seconds: 7_300.0,
        owner: "app".into(),
    };
    let finding = with(|s| s.prepared = vec![prepared]);
    assert!(finding.hint.unwrap().starts_with("COMMIT PREPARED 'it''s'"));
}

#[test]
fn a_standby_and_an_open_wire_are_told() {
    assert_eq!(with(|s| s.in_recovery = true).code, "database-standby");
    assert_eq!(with(|s| s.encrypted = false).code, "database-not-encrypted");
    let mut local = fine();
    (local.encrypted, local.local) = (false, true);
    assert!(local.findings().iter().all(|f| f.severity == Severity::Ok));
}
