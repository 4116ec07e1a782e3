//! Pipelines: what a config may contain, and which group a pipeline reads as.

use crate::support::Database;

fn kafka(more: &str) -> String {
    format!(
        "SELECT tide.relay_set_outbox('p', 'orders', 'kafka', '{{\"brokers\": \"b:1\", \"topic\": \"t\"{more}}}')"
    )
}

#[tokio::test]
async fn each_wrong_key_or_value_is_named() {
    let (_database, session) = Database::installed().await;
    session
        .run("SELECT tide.outbox_create('orders'); SELECT tide.inbox_create('payments')")
        .await;
    for (more, texts) in [
        (
            ", \"compresion\": \"gzip\"",
            &["unknown key \"compresion\"", "Did you mean \"compression\"?"] as &[&str],
        ),
        (
            ", \"sasl_pasword\": \"s3cret\"",
            &["unknown key \"sasl_pasword\"", "\"sasl_password\""],
        ),
        (
            ", \"compression\": \"zip\"",
            &["\"compression\"", "\"zip\"", "\"snappy\""],
        ),
        (", \"acks\": 2", &["\"acks\"", "allowed", "\"all\""]),
        (
            ", \"linger_ms\": \"5\"",
            &["\"linger_ms\"", "whole number from 0 to 10000"],
        ),
        (", \"linger_ms\": 1.5", &["whole number"]),
        (", \"batch_bytes\": 1", &["from 1024"]),
        (", \"key\": \"{event_type\"", &["\"key\"", "unbalanced braces"]),
        (", \"key\": \"{}\"", &["\"key\"", "names nothing"]),
        (", \"key\": 5", &["\"key\"", "must be a text"]),
        (", \"retry\": 5", &["\"retry\"", "JSON object"]),
        (
            ", \"retry\": {\"maxx\": 5}",
            &["unknown key \"retry.maxx\"", "retry.max"],
        ),
        (", \"retry\": {\"max\": true}", &["\"retry.max\"", "duration"]),
        (", \"retry.max\": 5", &["unknown key \"retry.max\""]),
        (", \"encoding\": \"avro\"", &["\"encoding\"", "\"raw\""]),
        (
            ", \"librdkafka\": {\"sasl.password\": \"s3cret\"}",
            &["\"librdkafka.sasl.password\"", "secret", "never kept in SQL"],
        ),
        (
            ", \"librdkafka\": {\"acks\": \"0\"}",
            &["\"librdkafka.acks\"", "delivery rests on it"],
        ),
        (", \"librdkafka\": {\"debug\": {}}", &["\"librdkafka.debug\""]),
        (
            ", \"librdkafka\": {\"ssl.ca.location\": \"/ca\"}",
            &["\"librdkafka.ssl.ca.location\"", "Use \"tls_ca\""],
        ),
        (
            ", \"delivery\": \"transactional\", \"acks\": 1",
            &["\"acks\"", "does not go with delivery \"transactional\""],
        ),
        (
            ", \"tls_ca\": \"x\"",
            &["\"tls_ca\"", "does not go with security_protocol \"plaintext\"", "sasl_ssl"],
        ),
        (
            ", \"security_protocol\": \"ssl\", \"tls_cert\": \"x\"",
            &["\"tls_key\"", "is missing"],
        ),
        (
            ", \"security_protocol\": \"ssl\", \"sasl_mechanism\": \"PLAIN\"",
            &["\"sasl_mechanism\"", "does not go with security_protocol \"ssl\"", "\"sasl_ssl\""],
        ),
        (
            ", \"security_protocol\": \"sasl_ssl\"",
            &["\"sasl_mechanism\"", "is missing", "OAUTHBEARER"],
        ),
        (
            ", \"security_protocol\": \"sasl_ssl\", \"sasl_mechanism\": \"PLAIN\", \"sasl_username\": \"u\"",
            &["\"sasl_password\"", "is missing", "${file:/absolute/path}"],
        ),
        (
            ", \"security_protocol\": \"sasl_ssl\", \"sasl_mechanism\": \"PLAIN\", \"sasl_username\": \"u\", \"sasl_password\": \"s3cret\"",
            &["\"sasl_password\"", "must be a reference", "never kept in SQL"],
        ),
        (
            ", \"security_protocol\": \"sasl_ssl\", \"sasl_mechanism\": \"PLAIN\", \"sasl_oauth_scope\": \"x\"",
            &["\"sasl_oauth_scope\"", "does not go with sasl_mechanism \"PLAIN\""],
        ),
        (
            ", \"security_protocol\": \"sasl_ssl\", \"sasl_mechanism\": \"OAUTHBEARER\", \"sasl_username\": \"u\"",
            &["\"sasl_username\"", "does not go with sasl_mechanism \"OAUTHBEARER\"", "sasl_oauth_client_id"],
        ),
        (
            ", \"security_protocol\": \"sasl_ssl\", \"sasl_mechanism\": \"OAUTHBEARER\", \"sasl_oauth_token_url\": \"id\",
               \"sasl_oauth_client_id\": \"c\", \"sasl_oauth_client_secret\": \"${env:S}\"",
            &["\"sasl_oauth_token_url\"", "https://"],
        ),
        (
            ", \"security_protocol\": \"sasl_ssl\", \"sasl_mechanism\": \"OAUTHBEARER\", \"sasl_oauth_token_url\": \"https://u:p@id\",
               \"sasl_oauth_client_id\": \"c\", \"sasl_oauth_client_secret\": \"${env:S}\"",
            &["\"sasl_oauth_token_url\"", "user name or password"],
        ),
        (
            ", \"consumer_group\": \"nope\"",
            &["consumer group \"nope\"", "does not exist"],
        ),
    ] {
        let state = if more.contains("nope") { "42704" } else { "22023" };
        session.refuses(&kafka(more), state, texts).await;
        assert!(
            !format!("{:?}", session.error(&kafka(more)).await).contains("s3cret"),
            "{more}"
        );
    }
    for (statement, state, texts) in [
        (
            "SELECT tide.relay_set_outbox('p', 'orders', 'kafka', '{\"topic\": \"t\"}')",
            "22023",
            &["key \"brokers\" is missing"] as &[&str],
        ),
        (
            "SELECT tide.relay_set_outbox('p', 'orders', 'kafka', '{\"brokers\": \"b:1\", \"topic\": null}')",
            "22023",
            &["key \"topic\" is missing"],
        ),
        (
            "SELECT tide.relay_set_outbox('p', 'orders', 'kafka', '{\"brokers\": [], \"topic\": \"t\"}')",
            "22023",
            &["\"brokers\"", "array of texts"],
        ),
        (
            "SELECT tide.relay_set_outbox('p', 'orders', 'nats', '{\"url\": \"nats://u:s3cret@h:1\", \"subject\": \"t\"}')",
            "22023",
            &["\"url\"", "user name or password", "reference"],
        ),
        (
            "SELECT tide.relay_set_outbox('p', 'orders', 'kafak', '{}')",
            "22023",
            &["sink", "\"kafak\"", "Did you mean \"kafka\"?", "\"nats\""],
        ),
        (
            "SELECT tide.relay_set_outbox('p', 'orders', NULL, '{}')",
            "22023",
            &["sink", "\"kafka\", \"nats\""],
        ),
        (
            "SELECT tide.relay_set_outbox('p', 'orders', 'kafka', NULL)",
            "22023",
            &["config", "null"],
        ),
        (
            "SELECT tide.relay_set_outbox('p', 'orders', 'kafka', '[]')",
            "22023",
            &["config", "a JSON array"],
        ),
        (
            "SELECT tide.relay_set_outbox(NULL, 'orders', 'kafka', '{}')",
            "22004",
            &["pipeline name is null"],
        ),
        (
            "SELECT tide.relay_set_outbox('p', 'odrers', 'kafka', '{}')",
            "42704",
            &["Did you mean \"orders\"?"],
        ),
        (
            "SELECT tide.relay_set_outbox('p', 'orders', 'kafka', '{}', p_batch_size := 0)",
            "22023",
            &["batch_size", "1 to 100000"],
        ),
        (
            "SELECT tide.relay_set_outbox('p', 'orders', 'kafka', '{}', p_enabled := NULL)",
            "22004",
            &["p_enabled"],
        ),
        (
            "SELECT tide.relay_set_outbox('p', 'orders', 'kafka', '{}', p_relay_group := NULL)",
            "22004",
            &["relay group"],
        ),
        (
            "SELECT tide.relay_set_inbox('r', 'payments', '{\"url\": \"h:1\"}')",
            "22023",
            &["key \"subject\" is missing"],
        ),
        (
            "SELECT tide.relay_set_inbox('r', 'payments', '{\"url\": \"h:1\", \"subject\": \"s\", \"queue\": \"q\"}')",
            "22023",
            &["unknown key \"queue\""],
        ),
        (
            "SELECT tide.relay_set_inbox('r', 'payments', '{}', p_source := 'kafka')",
            "22023",
            &["source", "Allowed: \"nats\""],
        ),
        (
            "SELECT tide.relay_set_inbox('r', 'payment', '{}')",
            "42704",
            &["Did you mean \"payments\"?"],
        ),
        (
            "SELECT tide.relay_set_inbox('r', 'payments', '{}', p_max_retries := -1)",
            "22023",
            &["max_retries"],
        ),
        (
            "SELECT tide.relay_set_inbox('r', 'payments', '{}', p_idempotent := NULL)",
            "22004",
            &["p_idempotent"],
        ),
        (
            "SELECT tide.relay_enable('p')",
            "42704",
            &["pipeline \"p\" does not exist"],
        ),
        (
            "SELECT tide.relay_disable(NULL)",
            "22004",
            &["pipeline name is null"],
        ),
        (
            "SELECT tide.relay_delete('p')",
            "42704",
            &["pipeline \"p\" does not exist"],
        ),
        (
            "SELECT * FROM tide.relay_get_config('p')",
            "42704",
            &["pipeline \"p\" does not exist"],
        ),
    ] {
        session.refuses(statement, state, texts).await;
    }
    assert_eq!(session.row("SELECT count(*) FROM tide.pipeline").await, "0");
    assert_eq!(session.row("SELECT count(*) FROM tide.consumer_group").await, "0");
}

#[tokio::test]
async fn every_option_that_is_listed_is_accepted() {
    let (_database, session) = Database::installed().await;
    session.run("SELECT tide.outbox_create('orders'); SELECT tide.inbox_create('payments'); SELECT tide.create_consumer_group('g', 'orders')").await;
    session
        .run(&kafka(
            ", \"key\": \"{headers.a}-{payload.b.c}-{{x}}-{outbox}-{id}\", \"partition\": 3, \"acks\": 1, \"compression\": \"zstd\", \"linger_ms\": 0,
             \"batch_bytes\": 100000, \"delivery\": \"at-least-once\", \"client_id\": \"me\", \"librdkafka\": {\"socket.keepalive.enable\": true},
             \"consumer_group\": \"g\", \"max_in_flight\": 10, \"retry\": {\"initial\": \"10ms\", \"max\": 100}, \"encoding\": \"raw\"",
        ))
        .await;
    for secured in [
        "\"security_protocol\": \"ssl\", \"tls_ca\": \"${file:/ca}\", \"tls_cert\": \"${file:/c}\", \"tls_key\": \"${file:/k}\", \"tls_key_password\": \"${env:P}\"",
        "\"security_protocol\": \"sasl_plaintext\", \"sasl_mechanism\": \"SCRAM-SHA-256\", \"sasl_username\": \"u\", \"sasl_password\": \"${file:/p}\"",
        "\"security_protocol\": \"sasl_ssl\", \"tls_ca\": \"pem\", \"sasl_mechanism\": \"OAUTHBEARER\", \"sasl_oauth_token_url\": \"https://id/token\",
         \"sasl_oauth_client_id\": \"${env:ID}\", \"sasl_oauth_client_secret\": \"${env:S}\", \"sasl_oauth_scope\": \"kafka\"",
    ] {
        session.run(&kafka(&format!(", \"consumer_group\": \"g\", {secured}"))).await;
    }
    session
        .run(
            "SELECT tide.relay_set_outbox('n', 'orders', 'nats', '{\"url\": [\"nats://h:1\", \"nats://h:2\"], \"subject\": \"orders.{event_type}\",
               \"stream\": \"S\", \"create_stream\": false, \"delivery\": \"exactly-once\"}');
             SELECT tide.relay_set_inbox('r', 'payments', '{\"url\": \"h:1,h:2\", \"subject\": \"a.>\", \"stream\": \"S\", \"create_stream\": true,
               \"durable\": \"d\", \"queue_group\": \"q\", \"message_id_header\": \"X-Id\", \"dedup_key\": \"payload.id\", \"retry\": {\"max\": \"5 s\"}}')",
        )
        .await;
    assert_eq!(
        session.rows("SELECT name, direction, outbox, inbox, connector, consumer_group FROM tide.relay_list_configs()").await,
        ["n|forward|orders|-|nats|n", "p|forward|orders|-|kafka|g", "r|reverse|-|payments|nats|-"]
    );
}

#[tokio::test]
async fn a_pipeline_is_bound_to_the_named_else_the_only_else_an_implicit_group() {
    let (_database, session) = Database::installed().await;
    session
        .run("SELECT tide.outbox_create('orders'); SELECT tide.outbox_create('other')")
        .await;
    let bound = async |name: &str| {
        session
            .row(&format!(
                "SELECT consumer_group FROM tide.relay_get_config('{name}')"
            ))
            .await
    };
    let set = |name: &str, outbox: &str, more: &str| {
        format!(
            "SELECT tide.relay_set_outbox('{name}', '{outbox}', 'kafka', '{{\"brokers\": \"b:1\", \"topic\": \"t\"{more}}}')"
        )
    };
    let groups = async || {
        session.rows("SELECT g.name, g.implicit FROM tide.consumer_group g JOIN tide.outbox USING (outbox_id) ORDER BY 1").await
    };

    // No group: an implicit one, which goes with the pipeline.
    session.run(&set("p1", "orders", "")).await;
    assert_eq!(bound("p1").await, "p1");
    assert_eq!(groups().await, ["p1|t"]);
    session.run("SELECT tide.relay_delete('p1')").await;
    assert!(groups().await.is_empty());

    // The only unclaimed one.
    session
        .run("SELECT tide.create_consumer_group('g1', 'orders')")
        .await;
    session.run(&set("p1", "orders", "")).await;
    assert_eq!(bound("p1").await, "g1");
    // It is claimed now, so the next pipeline gets an implicit one.
    session.run(&set("p2", "orders", "")).await;
    assert_eq!(bound("p2").await, "p2");
    // Two unclaimed: neither is chosen.
    session.run("SELECT tide.create_consumer_group('g2', 'orders'); SELECT tide.create_consumer_group('g3', 'orders')").await;
    session.run(&set("p3", "orders", "")).await;
    assert_eq!(bound("p3").await, "p3");
    // Named.
    session
        .run(&set("p4", "orders", ", \"consumer_group\": \"g3\""))
        .await;
    assert_eq!(bound("p4").await, "g3");
    session
        .refuses(
            &set("p5", "orders", ", \"consumer_group\": \"g3\""),
            "55006",
            &["taken by pipeline \"p4\"", "a group of its own"],
        )
        .await;
    session
        .refuses(
            &set("p5", "orders", ", \"consumer_group\": \"g4\""),
            "42704",
            &["\"g4\"", "Did you mean", "create_consumer_group"],
        )
        .await;

    // Set again: the group stays, also with its position and identity.
    let before = session
        .row("SELECT pipeline_id, group_id FROM tide.pipeline WHERE name = 'p2'")
        .await;
    session.run(&set("p2", "orders", ", \"acks\": \"1\"")).await;
    assert_eq!(
        session
            .row("SELECT pipeline_id, group_id FROM tide.pipeline WHERE name = 'p2'")
            .await,
        before
    );
    assert_eq!(
        session
            .row("SELECT config->>'acks' FROM tide.relay_get_config('p2')")
            .await,
        "1"
    );
    // Another group: the implicit one is gone.
    session
        .run(&set("p2", "orders", ", \"consumer_group\": \"g2\""))
        .await;
    assert_eq!(bound("p2").await, "g2");
    assert_eq!(groups().await, ["g1|f", "g2|f", "g3|f", "p3|t"]);
    // Another outbox: its own group there.
    session.run(&set("p3", "other", "")).await;
    assert_eq!(
        session
            .row("SELECT outbox, consumer_group FROM tide.relay_get_config('p3')")
            .await,
        "other|p3"
    );
    assert_eq!(groups().await, ["g1|f", "g2|f", "g3|f", "p3|t"]);
    // Deleted: an explicit group stays.
    session.run("SELECT tide.relay_delete('p4')").await;
    assert_eq!(groups().await, ["g1|f", "g2|f", "g3|f", "p3|t"]);
}

#[tokio::test]
async fn a_name_belongs_to_one_direction() {
    let (_database, session) = Database::installed().await;
    session
        .run("SELECT tide.outbox_create('orders'); SELECT tide.inbox_create('payments')")
        .await;
    session.run(&kafka("")).await;
    session
        .refuses(
            "SELECT tide.relay_set_inbox('p', 'payments', '{\"url\": \"h:1\", \"subject\": \"s\"}')",
            "42710",
            &["as a forward pipeline", "tide.relay_delete('p')"],
        )
        .await;
}

#[tokio::test]
async fn a_pipeline_is_switched_off_and_on() {
    let (_database, session) = Database::installed().await;
    session.run("SELECT tide.outbox_create('orders')").await;
    session.run(&kafka("")).await;
    session.run("SELECT tide.relay_disable('p')").await;
    assert_eq!(
        session
            .row("SELECT enabled FROM tide.relay_get_config('p')")
            .await,
        "f"
    );
    session.run("SELECT tide.relay_enable('p')").await;
    assert_eq!(
        session
            .row("SELECT enabled FROM tide.relay_get_config('p')")
            .await,
        "t"
    );
}
