//! Outboxes: made, dropped, named.

use crate::support::Database;

#[tokio::test]
async fn an_outbox_covers_every_instant_with_leaves_and_has_no_default_partition() {
    let (_database, session) = Database::installed().await;
    for (hours, period) in [(1, 1), (12, 3), (24, 6), (72, 12), (96, 24), (24 * 28, 168)] {
        let name = format!("o{hours}");
        session
            .run(&format!("SELECT tide.outbox_create('{name}', {hours})"))
            .await;
        assert_eq!(
            session.number(&format!("SELECT extract(epoch FROM partition_period)::int / 3600 FROM tide.outbox WHERE name = '{name}'")).await,
            period,
            "retention {hours}"
        );
        let leaves = session
            .rows(&format!(
                "SELECT l.leaf, l.lower_bound, l.upper_bound, lag(l.upper_bound) OVER (ORDER BY l.lower_bound) IS NOT DISTINCT FROM
                        nullif(l.lower_bound, '-infinity') AS joined
                   FROM tide.outbox o, tide._leaves(o) l WHERE o.name = '{name}' ORDER BY l.lower_bound"
            ))
            .await;
        assert!((6..=8).contains(&leaves.len()), "{leaves:?}");
        assert!(leaves[0].contains("-infinity"), "{leaves:?}");
        assert!(
            leaves.last().unwrap().contains("_rest|") && leaves.last().unwrap().contains("|infinity|"),
            "{leaves:?}"
        );
        assert!(leaves.iter().all(|l| l.ends_with("|t")), "{leaves:?}");
        assert_eq!(
            session
                .row(&format!(
                    "SELECT max(l.upper_bound) FILTER (WHERE isfinite(l.upper_bound)) >= now() + interval '3 days'
                       FROM tide.outbox o, tide._leaves(o) l WHERE o.name = '{name}'"
                ))
                .await,
            "t"
        );
    }
}

#[tokio::test]
async fn any_name_of_1_to_63_bytes_works() {
    let (_database, session) = Database::installed().await;
    let longest = "x".repeat(63);
    let other = format!("{}y", "x".repeat(62));
    let umlauts = "ä".repeat(31);
    for name in [
        "Weird \"Name\"",
        "o'clock",
        "%I %s \\",
        "SELECT",
        &longest,
        &other,
        &umlauts,
    ] {
        let quoted = name.replace('\'', "''");
        session
            .run(&format!(
                "SELECT tide.outbox_create('{quoted}'); SELECT tide.inbox_create('{quoted}')"
            ))
            .await;
        session
            .run(&format!(
                "SELECT tide.outbox_publish('{quoted}', '1'); SELECT tide.outbox_publish('{quoted}', '2')"
            ))
            .await;
        assert_eq!(
            session
                .row(&format!(
                    "SELECT pending_count FROM tide.outbox_pending WHERE outbox_name = '{quoted}'"
                ))
                .await,
            "2"
        );
        session
            .run(&format!(
                "SELECT * FROM tide.inbox_claim('{quoted}'); SELECT * FROM tide.inbox_status('{quoted}')"
            ))
            .await;
        session
            .run(&format!(
                "SELECT tide.create_consumer_group('{quoted}', '{quoted}')"
            ))
            .await;
        session
            .run(&format!("SELECT * FROM tide.maintain_outbox('{quoted}')"))
            .await;
    }
    assert_eq!(
        session
            .row("SELECT count(*) FROM tide.\"Weird \"\"Name\"\"_outbox\"")
            .await,
        "2"
    );
    assert_eq!(
        session
            .row(&format!(
                "SELECT table_name FROM tide.outbox WHERE name = '{longest}'"
            ))
            .await,
        format!(
            "{}_{}_outbox",
            "x".repeat(47),
            &session.row(&format!("SELECT left(md5('{longest}'), 8)")).await
        )
    );
    session
        .run("SELECT tide.outbox_drop('Weird \"Name\"'); SELECT tide.inbox_drop('Weird \"Name\"')")
        .await;
    session
        .run(&format!(
            "SELECT tide.outbox_drop('{longest}'); SELECT tide.inbox_drop('{longest}')"
        ))
        .await;
}

#[tokio::test]
async fn wrong_arguments_are_refused_with_a_hint() {
    let (_database, session) = Database::installed().await;
    session.run("SELECT tide.outbox_create('orders')").await;
    session
        .refuses(
            "SELECT tide.outbox_create(NULL)",
            "22004",
            &["outbox name is null"],
        )
        .await;
    session
        .refuses("SELECT tide.outbox_create('')", "42602", &["1 to 63 bytes"])
        .await;
    session
        .refuses(
            &format!("SELECT tide.outbox_create('{}')", "x".repeat(64)),
            "42602",
            &["64 bytes"],
        )
        .await;
    session
        .refuses("SELECT tide.outbox_create('a', 0)", "22023", &["hours", "1 to"])
        .await;
    session
        .refuses("SELECT tide.outbox_create('a', NULL)", "22023", &["null hours"])
        .await;
    session
        .refuses(
            "SELECT tide.outbox_create('orders')",
            "42710",
            &["already exists", "if_not_exists"],
        )
        .await;
    for call in [
        "outbox_drop",
        "outbox_enable",
        "outbox_disable",
        "outbox_status",
        "maintain_outbox",
    ] {
        session
            .refuses(
                &format!("SELECT tide.{call}('order')"),
                "42704",
                &["outbox \"order\" does not exist", "Did you mean \"orders\"?"],
            )
            .await;
    }
    session
        .run("SELECT tide.outbox_drop('order', p_if_exists := true)")
        .await;
    assert_eq!(
        session
            .row("SELECT tide.outbox_create_if_not_exists('orders')")
            .await,
        "f"
    );
    assert_eq!(
        session
            .row("SELECT tide.outbox_create_if_not_exists('more')")
            .await,
        "t"
    );
    session
        .refuses(
            "SELECT tide.outbox_create_if_not_exists(NULL)",
            "22004",
            &["null"],
        )
        .await;
    assert_eq!(
        session.rows("SELECT outbox_name FROM tide.outbox_list()").await,
        ["more", "orders"]
    );
}

#[tokio::test]
async fn an_outbox_in_use_is_not_dropped() {
    let (database, session) = Database::installed().await;
    session
        .run(
            "SELECT tide.outbox_create('orders'); SELECT tide.outbox_create('other');
             SELECT tide.relay_set_outbox('p', 'orders', 'kafka', '{\"brokers\": \"b:1\", \"topic\": \"t\"}')",
        )
        .await;
    session
        .refuses(
            "SELECT tide.outbox_drop('orders')",
            "2BP01",
            &["pipeline \"p\"", "tide.relay_delete('p')"],
        )
        .await;
    session.run("SELECT tide.relay_delete('p')").await;

    // Somebody publishes to another outbox: no hang, a clear error.
    let publisher = database.session().await;
    publisher
        .run("BEGIN; SELECT tide.outbox_publish('other', '1')")
        .await;
    session
        .refuses(
            "SELECT tide.outbox_drop('orders')",
            "55P03",
            &["other transactions", "Try again"],
        )
        .await;
    publisher.run("COMMIT").await;
    session.run("SELECT tide.outbox_drop('orders')").await;
    assert_eq!(session.rows("SELECT name FROM tide.outbox").await, ["other"]);
    assert_eq!(
        session.row("SELECT count(*) FROM pg_class WHERE relnamespace = 'tide'::regnamespace AND relname LIKE 'outbox_1_%'").await,
        "0"
    );
}

#[tokio::test]
async fn every_change_of_configuration_raises_the_version_and_notifies() {
    let (_database, session) = Database::installed().await;
    let mut version = session.number("SELECT version FROM tide.config_state").await;
    for statement in [
        "SELECT tide.outbox_create('orders')",
        "UPDATE tide.outbox SET enabled = false",
        "SELECT tide.outbox_enable('orders')",
        "SELECT tide.create_consumer_group('g', 'orders')",
        "SELECT tide.inbox_create('payments')",
        "SELECT tide.relay_set_outbox('p', 'orders', 'kafka', '{\"brokers\": \"b:1\", \"topic\": \"t\"}')",
        "SELECT tide.relay_disable('p')",
        "UPDATE tide.pipeline SET enabled = true",
        "SELECT tide.relay_delete('p')",
        "SELECT tide.drop_consumer_group('g', 'orders')",
        "SELECT tide.inbox_drop('payments')",
        "SELECT tide.outbox_drop('orders')",
    ] {
        session.run(statement).await;
        let now = session.number("SELECT version FROM tide.config_state").await;
        assert!(now > version, "{statement}");
        version = now;
    }
}
