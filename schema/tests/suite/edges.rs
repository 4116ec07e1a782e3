//! What comes seldom: odd payloads, odd places to publish from, odd clocks.

use crate::support::{Database, Session};

async fn outbox() -> (Database, Session) {
    let (database, session) = Database::installed().await;
    session
        .run("SELECT tide.outbox_create('orders'); SELECT tide.create_consumer_group('g', 'orders')")
        .await;
    (database, session)
}

/// What the group gets, committed.
async fn consumed(session: &Session) -> Vec<String> {
    session.run("BEGIN").await;
    let got = session
        .rows("SELECT payload FROM tide.poll_outbox('g', 'orders', 1000)")
        .await;
    session
        .run("SELECT tide.commit_offset('g', 'orders', p_lease := l.lease) FROM tide.consumer_lease l WHERE l.lease IS NOT NULL; COMMIT")
        .await;
    got
}

#[tokio::test]
async fn payloads_that_are_empty_or_null_or_large_come_out_as_they_went_in() {
    let (_database, session) = outbox().await;
    for payload in ["null", "\"\"", "{}", "[]", "0", "false", "\" \""] {
        session
            .run(&format!("SELECT tide.outbox_publish('orders', '{payload}')"))
            .await;
    }
    assert_eq!(
        consumed(&session).await,
        ["null", "\"\"", "{}", "[]", "0", "false", "\" \""]
    );
    session
        .refuses(
            "SELECT tide.outbox_publish('orders', NULL)",
            "22004",
            &["'null'::jsonb"],
        )
        .await;
    // 16 MiB, and 1,000 headers with a key of 64 KiB.
    session
        .run(
            "SELECT tide.outbox_publish('orders', to_jsonb(repeat('x', 16777216)),
                    (SELECT jsonb_object_agg('h' || n, n) FROM generate_series(1, 1000) n)
                    || jsonb_build_object('key', repeat('k', 65536)))",
        )
        .await;
    assert_eq!(
        session
            .row(
                "SELECT length(payload #>> '{}'), (SELECT count(*) FROM jsonb_object_keys(headers::jsonb)), length(headers ->> 'key')
                   FROM tide.poll_outbox('g', 'orders')"
            )
            .await,
        "16777216|1001|65536"
    );
    // PostgreSQL's jsonb holds no NUL; that is said by PostgreSQL.
    let error = session
        .error("SELECT tide.outbox_publish('orders', '\"a\\u0000b\"')")
        .await;
    assert_eq!(error.code().code(), "22P05", "{error}");
}

#[tokio::test]
async fn triggers_and_functions_of_others_publish() {
    let (database, session) = outbox().await;
    let (owner, caller) = (database.role("").await, database.role("").await);
    session
        .run(&format!(
            "CREATE TABLE public.shop (n int);
             CREATE FUNCTION public.told() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN PERFORM tide.outbox_publish('orders', to_jsonb(NEW.n)); RETURN NULL; END $$;
             CREATE TRIGGER told AFTER INSERT ON public.shop FOR EACH ROW EXECUTE FUNCTION public.told();
             CREATE FUNCTION public.place(p int) RETURNS bigint LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
                 $$ SELECT tide.outbox_publish('orders', to_jsonb(p)) $$;
             SELECT tide.outbox_grant_publish('orders', '{owner}');
             GRANT CREATE ON SCHEMA public TO {owner};
             ALTER FUNCTION public.place(int) OWNER TO {owner}; GRANT EXECUTE ON FUNCTION public.place(int) TO {caller}"
        ))
        .await;
    session.run("INSERT INTO public.shop VALUES (1), (2)").await;
    session
        .run("BEGIN; INSERT INTO public.shop VALUES (3); SAVEPOINT s; INSERT INTO public.shop VALUES (4); ROLLBACK TO s; INSERT INTO public.shop VALUES (5); COMMIT")
        .await;
    // A block that catches an error is a savepoint, too.
    session
        .run(
            "DO $$ BEGIN
                 BEGIN PERFORM tide.outbox_publish('orders', '6'); RAISE 'undone'; EXCEPTION WHEN raise_exception THEN NULL; END;
                 PERFORM tide.outbox_publish('orders', '7');
             END $$",
        )
        .await;
    let caller = database.session_of(&caller).await;
    caller.run("SELECT public.place(8)").await;
    let error = caller.error("SELECT tide.outbox_publish('orders', '9')").await;
    assert_eq!(error.code().code(), "42501");
    assert_eq!(consumed(&session).await, ["1", "2", "3", "5", "7", "8"]);
}

#[tokio::test]
async fn a_prepared_transaction_publishes_when_it_is_committed_and_is_named_when_it_is_in_the_way() {
    let (_database, session) = outbox().await;
    if session.number("SHOW max_prepared_transactions").await == 0 {
        eprintln!("SKIPPED: this PostgreSQL has max_prepared_transactions = 0");
        return;
    }
    for payload in ["1", "2"] {
        session
            .run(&format!(
                "BEGIN; SELECT tide.outbox_publish('orders', '{payload}'); PREPARE TRANSACTION 'tide_edge_{payload}'"
            ))
            .await;
    }
    session.run("SELECT tide.outbox_publish('orders', '3')").await;
    assert_eq!(consumed(&session).await, ["3"]);
    let make = "SELECT m.action || ' ' || coalesce(m.detail, '') FROM tide.outbox o, tide._make_leaves_ahead(o, now() + interval '10 days') m";
    let skipped = session.row(make).await;
    assert!(
        skipped.starts_with("skipped in use by other transactions (prepared, see pg_prepared_xacts)"),
        "{skipped}"
    );
    session.run("ROLLBACK PREPARED 'tide_edge_1'").await;
    session.run("COMMIT PREPARED 'tide_edge_2'").await;
    assert_eq!(consumed(&session).await, ["2"]);
    assert!(session.rows(make).await.len() > 4);
}

#[tokio::test]
async fn a_clock_that_is_set_back_or_ahead_costs_no_message_and_no_order() {
    let (_database, session) = outbox().await;
    for (payload, offset) in [
        (1, "0"),
        (2, "-3 hours"),
        (3, "-400 days"),
        (4, "2 days"),
        (5, "400 days"),
        (6, "0"),
    ] {
        session
            .run(&format!(
                "INSERT INTO tide.outbox_message (outbox, payload, created_at)
                 VALUES ('orders', '{payload}', now() + interval '{offset}')"
            ))
            .await;
    }
    assert_eq!(consumed(&session).await, ["1", "2", "3", "4", "5", "6"]);
    assert_eq!(
        session.row("SELECT pending_count FROM tide.outbox_pending").await,
        "0"
    );
}

#[tokio::test]
async fn names_with_line_breaks_are_refused() {
    let (_database, session) = outbox().await;
    for statement in [
        "SELECT tide.outbox_create(E'a\nb')",
        "SELECT tide.inbox_create(E'a\rb')",
        "SELECT tide.create_consumer_group(E'a\tb', 'orders')",
        "SELECT tide.relay_set_outbox(E'a\u{7f}b', 'orders', 'kafka', '{\"brokers\": \"b:1\", \"topic\": \"t\"}')",
    ] {
        session
            .refuses(statement, "42602", &["control character", "printable characters"])
            .await;
    }
}
