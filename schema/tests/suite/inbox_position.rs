//! How far Kafka topics are read into an inbox.

use super::support::{Database, Session};

const POSITIONS: &str = "SELECT s.description, p.consumer_group, p.next_offset, p.last_time
      FROM tide.inbox_position p JOIN tide.inbox_source s USING (source_ref) ORDER BY 1, 2";

async fn kafka() -> (Database, Session, i64) {
    let (database, session) = Database::installed().await;
    session.run("SELECT tide.inbox_create('calls')").await;
    session
        .run("SELECT tide.relay_set_inbox('k', 'calls', '{\"brokers\": \"b:1\", \"topic\": \"t\"}', p_source := 'kafka')")
        .await;
    let epoch = session.number("SELECT tide._acquire(1, 1, 'relay-1')").await;
    (database, session, epoch)
}

/// Stores the records `first..next` of source 1 and moves its position.
fn write(epoch: i64, expected: &str, first: i64, next: i64) -> String {
    format!(
        "SELECT w.* FROM (SELECT count(*) AS n, array_agg(s) AS seqs, array_agg(s::text) AS payloads
                            FROM generate_series({first}, {next} - 1) s) a,
                LATERAL tide._inbox_write_at(1, {epoch}, array_fill(NULL::text, ARRAY[n::int]), array_fill(NULL::bytea, ARRAY[n::int]),
                    array_fill(1, ARRAY[n::int]), seqs, array_fill('kafka:t'::text, ARRAY[n::int]), payloads,
                    array_fill('{{}}'::text, ARRAY[n::int]),
                    'pg-tide-k', ARRAY[1], ARRAY[{expected}]::bigint[], ARRAY[{next}]::bigint[], ARRAY[7]::bigint[]) w"
    )
}

#[tokio::test]
async fn positions_move_with_the_messages_or_not_at_all() {
    let (_database, session, epoch) = kafka().await;
    let ask = "SELECT source_ref, next_offset, topic_known FROM tide._inbox_positions(1, 'pg-tide-k', ARRAY['kafka:c/t/0'])";
    assert_eq!(session.row(ask).await, "1|-|f");
    assert_eq!(session.row(&write(epoch, "NULL", 0, 3)).await, "3|0");
    assert_eq!(session.row(&write(epoch, "3", 3, 5)).await, "2|0");
    assert_eq!(session.row(POSITIONS).await, "kafka:c/t/0|pg-tide-k|5|7");
    assert_eq!(session.row(ask).await, "1|5|t");

    // Two who believe to be at the same place: the second stores nothing, even
    // when retention has removed what the first stored.
    session.run("DELETE FROM tide.calls_inbox").await;
    for expected in ["3", "NULL"] {
        let error = session.error(&write(epoch, expected, 3, 6)).await;
        assert_eq!(error.code().code(), "TD005");
        assert!(
            error
                .message()
                .contains("position of consumer group \"pg-tide-k\" in kafka:c/t/0 is 5"),
            "{error:?}"
        );
    }
    assert_eq!(session.number("SELECT count(*) FROM tide.calls_inbox").await, 0);
    assert_eq!(session.number("SELECT accepted FROM tide.inbox_summary").await, 5);
    // Fenced like every batch.
    let error = session.error(&write(epoch + 1, "5", 5, 6)).await;
    assert_eq!(error.code().code(), "TD001");
}

#[tokio::test]
async fn a_position_is_forgotten_on_demand() {
    let (_database, session, epoch) = kafka().await;
    session
        .run("SELECT * FROM tide._inbox_positions(1, 'pg-tide-k', ARRAY['kafka:c/t/0'])")
        .await;
    session.run(&write(epoch, "NULL", 0, 3)).await;
    session
        .refuses(
            "SELECT tide.relay_forget_position('k', 'u')",
            "P0002",
            &["no position in topic \"u\""],
        )
        .await;
    assert_eq!(
        session
            .number("SELECT tide.relay_forget_position('k', 't')")
            .await,
        1
    );
    // The rows still refuse what is read again.
    assert_eq!(session.row(&write(epoch, "NULL", 0, 4)).await, "1|3");
    // Not so for a new topic, which is read from its beginning.
    assert_eq!(
        session
            .number("SELECT tide.relay_forget_position('k', p_as_new := true)")
            .await,
        1
    );
    assert_eq!(session.row(POSITIONS).await, "kafka:c/t/0|pg-tide-k|-1|-");
    assert_eq!(
        session
            .row("SELECT source_ref, next_offset FROM tide._inbox_positions(1, 'pg-tide-k', ARRAY['kafka:c/t/0'])")
            .await,
        "2|-1"
    );
    session
        .run("SELECT tide.relay_set_inbox('n', 'calls', '{\"url\": \"u\", \"subject\": \"s\"}')")
        .await;
    session
        .refuses(
            "SELECT tide.relay_forget_position('n')",
            "22023",
            &["does not read from Kafka"],
        )
        .await;
}
