//! Consumer groups: where they begin, and reading as one in SQL.

use crate::support::Database;

const LAG: &str = "SELECT lag FROM tide.consumer_lag WHERE group_name = 'g'";

#[tokio::test]
async fn wrong_arguments_are_refused_with_a_hint() {
    let (_database, session) = Database::installed().await;
    session
        .run("SELECT tide.outbox_create('orders'); SELECT tide.create_consumer_group('g', 'orders')")
        .await;
    session
        .refuses(
            "SELECT tide.create_consumer_group('g', 'orders')",
            "42710",
            &["already exists", "p_if_not_exists"],
        )
        .await;
    session
        .run("SELECT tide.create_consumer_group('g', 'orders', p_if_not_exists := true)")
        .await;
    session
        .refuses(
            "SELECT tide.create_consumer_group('h', 'orders', 'newest')",
            "22023",
            &["'newest'", "earliest", "latest", "none"],
        )
        .await;
    session
        .refuses(
            "SELECT tide.create_consumer_group('h', 'odrers')",
            "42704",
            &["\"orders\""],
        )
        .await;
    session
        .refuses(
            "SELECT tide.create_consumer_group(NULL, 'orders')",
            "22004",
            &["consumer group name is null"],
        )
        .await;
    session
        .refuses(
            "SELECT tide.drop_consumer_group('x', 'orders')",
            "42704",
            &["does not exist", "\"g\""],
        )
        .await;
    session
        .run("SELECT tide.drop_consumer_group('x', 'orders', p_if_exists := true)")
        .await;
    session
        .refuses(
            "SELECT tide.commit_offset('g', 'orders', NULL)",
            "22023",
            &["offset is null"],
        )
        .await;
    session
        .refuses(
            "SELECT tide.commit_offset('g', 'orders', -1)",
            "22023",
            &["offset is -1"],
        )
        .await;
    session
        .refuses(
            "SELECT * FROM tide.poll_outbox('g', 'orders', 0)",
            "22023",
            &["at least 1"],
        )
        .await;
    session
        .run("SELECT tide.relay_set_outbox('p', 'orders', 'kafka', '{\"brokers\": \"b:1\", \"topic\": \"t\"}')")
        .await;
    session
        .refuses(
            "SELECT tide.drop_consumer_group('g', 'orders')",
            "2BP01",
            &["pipeline \"p\""],
        )
        .await;
}

#[tokio::test]
async fn latest_begins_with_what_commits_after_the_group_exists() {
    let (database, session) = Database::installed().await;
    session
        .run("SELECT tide.outbox_create('orders'); SELECT tide.outbox_publish('orders', '\"before\"')")
        .await;
    let open = database.session().await;
    open.run("BEGIN; SELECT tide.outbox_publish('orders', '\"open\"')")
        .await;
    let busy = database.session().await;
    // In one transaction, with another finishing between: its own message is
    // not taken for delivered.
    session
        .run("BEGIN; SELECT tide.outbox_publish('orders', '\"same\"')")
        .await;
    busy.run("SELECT tide.outbox_publish('orders', '\"between\"')")
        .await;
    session
        .run("SELECT tide.create_consumer_group('g', 'orders', 'latest'); COMMIT")
        .await;
    open.run("COMMIT").await;
    session
        .run("SELECT tide.outbox_publish('orders', '\"after\"')")
        .await;
    assert_eq!(session.row(LAG).await, "3");
    assert_eq!(
        session
            .rows("SELECT payload FROM tide.poll_outbox('g', 'orders')")
            .await,
        ["\"open\"", "\"same\"", "\"after\""]
    );
}

#[tokio::test]
async fn none_needs_a_committed_offset() {
    let (_database, session) = Database::installed().await;
    session
        .run(
            "SELECT tide.outbox_create('orders'); SELECT tide.create_consumer_group('g', 'orders', 'none');
             SELECT tide.outbox_publish_batch('orders', ARRAY['1', '2', '3']::jsonb[]);
             SELECT tide.relay_set_outbox('p', 'orders', 'kafka', '{\"brokers\": \"b:1\", \"topic\": \"t\"}')",
        )
        .await;
    assert_eq!(session.row(LAG).await, "3");
    session
        .refuses(
            "SELECT * FROM tide.poll_outbox('g', 'orders')",
            "55000",
            &["tide.commit_offset"],
        )
        .await;
    session
        .refuses(
            "SELECT tide._acquire(1, 1, 'relay')",
            "TD002",
            &["tide.commit_offset"],
        )
        .await;
    session.run("SELECT tide.commit_offset('g', 'orders', 2)").await;
    assert_eq!(session.row(LAG).await, "1");
    session.run("SELECT tide._acquire(1, 1, 'relay')").await;
    assert_eq!(session.row(LAG).await, "1");
    // By hand it also goes back.
    session.run("SELECT tide.commit_offset('g', 'orders', 0)").await;
    assert_eq!(session.row(LAG).await, "3");
}

#[tokio::test]
async fn a_consumer_in_sql_gets_every_message_once_whatever_the_order_of_commits() {
    let (database, session) = Database::installed().await;
    session
        .run("SELECT tide.outbox_create('orders'); SELECT tide.create_consumer_group('g', 'orders')")
        .await;
    let late = database.session().await;
    session.run("SELECT tide.outbox_publish('orders', '1')").await;
    late.run("BEGIN; SELECT tide.outbox_publish('orders', '2')").await;
    session
        .run("SELECT tide.outbox_publish_batch('orders', ARRAY['3', '4', '5']::jsonb[])")
        .await;

    let mut got = Vec::new();
    let poll = async |limit: u32| {
        session
            .rows(&format!(
                "SELECT id, payload FROM tide.poll_outbox('g', 'orders', {limit}, p_consumer_id := 'me')"
            ))
            .await
    };
    let first = poll(2).await;
    assert_eq!(poll(2).await, first, "without a commit the same comes again");
    // Commits between poll and commit_offset, with a lower id.
    late.run("COMMIT").await;
    let mut page = first;
    while !page.is_empty() {
        let last = page.last().unwrap().split('|').next().unwrap().to_owned();
        got.extend(
            page.iter()
                .map(|row| row.split('|').nth(1).unwrap().parse::<u32>().unwrap()),
        );
        session
            .run(&format!("SELECT tide.commit_offset('g', 'orders', {last})"))
            .await;
        let lag = session.number(LAG).await;
        assert_eq!(usize::try_from(lag).unwrap(), 5 - got.len());
        page = poll(2).await;
    }
    assert_eq!(got, [1, 3, 4, 5, 2]);
}

#[tokio::test]
async fn a_group_whose_pipeline_a_live_relay_owns_is_not_moved_by_hand() {
    let (database, session) = Database::installed().await;
    session
        .run(
            "SELECT tide.outbox_create('orders'); SELECT tide.create_consumer_group('g', 'orders');
             SELECT tide.relay_set_outbox('p', 'orders', 'kafka', '{\"brokers\": \"b:1\", \"topic\": \"t\"}')",
        )
        .await;
    let relay = database.session().await;
    relay
        .run("SELECT pg_advisory_lock(1953064045, 7); SELECT tide._acquire(1, 7, 'relay-a')")
        .await;
    session
        .refuses(
            "SELECT tide.commit_offset('g', 'orders', 0)",
            "55006",
            &["relay-a", "tide.relay_disable('p')"],
        )
        .await;
    session
        .refuses(
            "SELECT * FROM tide.poll_outbox('g', 'orders')",
            "55006",
            &["relay-a"],
        )
        .await;
    relay.run("SELECT pg_advisory_unlock_all()").await;
    session.run("SELECT tide.commit_offset('g', 'orders', 0)").await;
}

#[tokio::test]
async fn snapshots_of_another_cluster_are_not_believed() {
    let (_database, session) = Database::installed().await;
    session
        .run(
            "SELECT tide.outbox_create('orders'); SELECT tide.create_consumer_group('g', 'orders', 'latest');
             SELECT tide.outbox_publish_batch('orders', ARRAY['1', '2', '3']::jsonb[]);
             UPDATE tide.group_cursor SET old_snapshot = '900000000:900000000:', new_snapshot = '900000000:900000000:', last_id = 900,
                                          low_water_id = 1",
        )
        .await;
    assert_eq!(session.row(LAG).await, "0");
    session
        .run("UPDATE tide.group_cursor SET system_identifier = system_identifier - 1")
        .await;
    assert_eq!(session.row(LAG).await, "2");
    assert_eq!(
        session.row("SELECT pending_count FROM tide.outbox_pending").await,
        "2"
    );
    assert_eq!(
        session
            .rows("SELECT payload FROM tide.poll_outbox('g', 'orders')")
            .await,
        ["2", "3"]
    );
}
