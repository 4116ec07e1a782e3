//! Pipelines by another name.

use crate::support::{Database, Session};

async fn pipelines() -> (Database, Session) {
    let (database, db) = Database::installed().await;
    db.run(
        "SELECT tide.outbox_create('o'), tide.inbox_create('i');
         SELECT tide.create_consumer_group('own', 'o');
         SELECT tide.relay_set_outbox('a', 'o', 'stdout', '{\"consumer_group\": \"own\"}');
         SELECT tide.relay_set_outbox('b', 'o', 'stdout', '{}');
         SELECT tide.relay_set_inbox('k', 'i', '{\"brokers\": \"h:1\", \"topic\": \"t\"}', p_source := 'kafka')",
    )
    .await;
    (database, db)
}

const ALL: &str = "SELECT p.name, p.first_name, g.name FROM tide.pipeline p LEFT JOIN tide.consumer_group g USING (group_id) ORDER BY p.pipeline_id";

#[tokio::test]
async fn what_belongs_to_a_pipeline_comes_along() {
    let (_database, db) = pipelines().await;
    db.run(
        "INSERT INTO tide.dead_letter (pipeline, direction, message_id, error) VALUES ('b', 'forward', 1, 'x'), ('a', 'forward', 1, 'x')",
    )
    .await;
    let version = db.number("SELECT version FROM tide.config_state").await;
    db.run("SELECT tide.relay_rename('a', 'a2'), tide.relay_rename('b', 'b2')")
        .await;
    assert_eq!(db.rows(ALL).await, ["a2|a|own", "b2|b|b2", "k|-|-"]);
    let letters = "SELECT string_agg(pipeline, ',' ORDER BY pipeline) FROM tide.dead_letter";
    assert_eq!(db.row(letters).await, "a2,b2");
    assert!(db.number("SELECT version FROM tide.config_state").await > version);
    // Again, and back.
    db.run("SELECT tide.relay_rename('b2', 'b3')").await;
    assert_eq!(db.rows(ALL).await[1], "b3|b|b3");
    db.run("SELECT tide.relay_rename('b3', 'b'), tide.relay_rename('a2', 'a2')")
        .await;
    assert_eq!(db.rows(ALL).await, ["a2|a|own", "b|-|b", "k|-|-"]);
}

#[tokio::test]
async fn a_name_that_somebody_has_or_is_known_by_is_refused() {
    let (_database, db) = pipelines().await;
    db.run("SELECT tide.relay_rename('a', 'a2')").await;
    for (sql, state, texts) in [
        (
            "SELECT tide.relay_rename('a', 'c')",
            "42704",
            &["pipeline \"a\" does not exist"][..],
        ),
        (
            "SELECT tide.relay_rename('b', 'k')",
            "42710",
            &["\"k\" exists already"],
        ),
        (
            "SELECT tide.relay_rename('b', 'a')",
            "42710",
            &["pipeline \"a2\" was \"a\" before", "relay_rename('a2', 'a')"],
        ),
        (
            "SELECT tide.relay_set_outbox('a', 'o', 'stdout', '{}')",
            "42710",
            &["pipeline \"a2\" was \"a\" before"],
        ),
        (
            "SELECT tide.relay_set_inbox('a', 'i', '{\"signature\": \"none\"}', p_source := 'webhook')",
            "42710",
            &["pipeline \"a2\" was \"a\" before"],
        ),
        ("SELECT tide.relay_rename('b', '')", "42602", &["1 to 255 bytes"]),
        (
            "SELECT tide.relay_rename('b', 'own')",
            "42710",
            &["consumer group \"own\" already"],
        ),
    ] {
        db.refuses(sql, state, texts).await;
    }
    db.run("INSERT INTO tide.dead_letter (pipeline, direction, message_id, error) VALUES ('gone', 'forward', 1, 'x')")
        .await;
    db.refuses(
        "SELECT tide.relay_rename('b', 'gone')",
        "55000",
        &["dead letters of an earlier pipeline", "relay_dlq_purge('gone')"],
    )
    .await;
    db.run("SELECT tide.object_claim('pipeline', 'b', 'c', 'shop', 'b', 'u', 'Retain', true)")
        .await;
    db.refuses(
        "SELECT tide.relay_rename('b', 'b2')",
        "55000",
        &["belongs to the resource shop/b"],
    )
    .await;
    // With the pipeline its first name is free.
    db.run("SELECT tide.relay_delete('a2'); SELECT tide.relay_rename('b', 'b')")
        .await;
    db.run("SELECT tide.relay_set_outbox('a', 'o', 'stdout', '{}')")
        .await;
}

/// Offsets are those of the group that brokers know.
#[tokio::test]
async fn positions_in_kafka_are_found_under_the_first_name() {
    let (_database, db) = pipelines().await;
    db.run("SELECT tide.relay_rename('k', 'k2')").await;
    db.run(
        "INSERT INTO tide.inbox_source (inbox_id, description) VALUES (1, 'kafka:c/t/0');
         INSERT INTO tide.inbox_position (source_ref, consumer_group, next_offset) VALUES (1, 'pg-tide-k', 7)",
    )
    .await;
    assert_eq!(db.number("SELECT tide.relay_forget_position('k2')").await, 1);
}
