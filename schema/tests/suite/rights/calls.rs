//! What is tried of each function.

/// Made by the owner before anything is tried. Of each pair of objects, the
/// roles have a right on the first.
pub(super) const SCENE: &str = r#"
    SELECT tide.outbox_create(o), tide.create_consumer_group('free', o), tide.create_consumer_group('leased', o)
      FROM unnest(ARRAY['orders', 'returns']) o;
    SELECT tide.outbox_create('spare'), tide.inbox_create('spare'), tide.create_consumer_group('spare', 'spare');
    SELECT tide.inbox_create('payments'), tide.inbox_create('refunds');
    SELECT tide.relay_set_outbox('out', 'orders', 'kafka',
               '{"brokers": "b:1", "topic": "t", "consumer_group": "out"}')
      FROM tide.create_consumer_group('out', 'orders');
    SELECT tide.relay_set_inbox('in', 'payments', '{"brokers": "b:1", "topic": "t", "consumer_group": "g"}', p_source := 'kafka');
    SELECT tide.outbox_publish(o, '1') FROM unnest(ARRAY['orders', 'orders', 'returns', 'returns']) o;
    INSERT INTO tide.payments_inbox (event_id, source, payload) VALUES ('claimed', 's', '1'), ('free', 's', '1');
    INSERT INTO tide.refunds_inbox (event_id, source, payload) VALUES ('claimed', 's', '1'), ('free', 's', '1');
    INSERT INTO tide.dead_letter (pipeline, direction, message_id, event_id, payload, error)
    SELECT 'out', 'forward', min(m.id), 'e', '1', 'too large' FROM tide.outbox_message m WHERE m.outbox = 'orders'"#;

/// A call of each function that is not for relays alone, as the owner it must
/// succeed. One with `@outbox` or `@inbox` is tried on an object on which the
/// role has a right, and on another. `@lease`, `@claim`, `@feed` and `@session`
/// are what the owner has taken there; `@role` is a role.
///
/// Functions that are not here are called with nulls.
pub(super) const CALLS: &[(&str, &str)] = &[
    ("outbox_create(text, integer)", "outbox_create('new')"),
    (
        "outbox_create_if_not_exists(text, integer)",
        "outbox_create_if_not_exists('new')",
    ),
    ("outbox_drop(text, boolean)", "outbox_drop('spare')"),
    ("outbox_enable(text)", "outbox_enable('orders')"),
    ("outbox_disable(text)", "outbox_disable('orders')"),
    ("outbox_list()", "outbox_list()"),
    ("outbox_status(text)", "outbox_status()"),
    (
        "outbox_set_retention(text, integer)",
        "outbox_set_retention('orders', 48)",
    ),
    ("outbox_faults()", "outbox_faults()"),
    ("outbox_repair(text, integer)", "outbox_repair('orders', 24)"),
    (
        "outbox_grant_publish(text, text)",
        "outbox_grant_publish('orders', '@role')",
    ),
    (
        "outbox_revoke_publish(text, text)",
        "outbox_revoke_publish('orders', '@role')",
    ),
    (
        "outbox_grant_consume(text, text)",
        "outbox_grant_consume('orders', '@role')",
    ),
    (
        "outbox_revoke_consume(text, text)",
        "outbox_revoke_consume('orders', '@role')",
    ),
    (
        "outbox_publish(text, jsonb, jsonb)",
        "outbox_publish('@outbox', '1')",
    ),
    (
        "outbox_publish_batch(text, jsonb[], jsonb[])",
        "outbox_publish_batch('@outbox', ARRAY['1', '2']::jsonb[])",
    ),
    (
        "create_consumer_group(text, text, text, boolean)",
        "create_consumer_group('new', 'orders')",
    ),
    (
        "drop_consumer_group(text, text, boolean)",
        "drop_consumer_group('spare', 'spare')",
    ),
    (
        "poll_outbox(text, text, integer, interval, text, integer)",
        "poll_outbox('free', '@outbox')",
    ),
    (
        "commit_offset(text, text, bigint, uuid)",
        "commit_offset('free', '@outbox', 1)",
    ),
    (
        "extend_lease(text, text, uuid, interval)",
        "extend_lease('leased', '@outbox', '@lease')",
    ),
    (
        "release_lease(text, text, uuid)",
        "release_lease('leased', '@outbox', '@lease')",
    ),
    (
        "inbox_create(text, integer, integer, integer)",
        "inbox_create('new')",
    ),
    (
        "inbox_create_if_not_exists(text, integer, integer, integer)",
        "inbox_create_if_not_exists('new')",
    ),
    ("inbox_drop(text, boolean)", "inbox_drop('spare')"),
    (
        "inbox_set(text, integer, integer, integer)",
        "inbox_set('payments', 5, 24, 0)",
    ),
    ("inbox_list()", "inbox_list()"),
    ("inbox_status(text)", "inbox_status()"),
    ("inbox_faults()", "inbox_faults()"),
    (
        "inbox_repair(text, integer, integer, integer)",
        "inbox_repair('payments', 3, 72, 0)",
    ),
    (
        "inbox_grant_process(text, text)",
        "inbox_grant_process('payments', '@role')",
    ),
    (
        "inbox_revoke_process(text, text)",
        "inbox_revoke_process('payments', '@role')",
    ),
    (
        "inbox_grant_feed(text, text)",
        "inbox_grant_feed('payments', '@role')",
    ),
    (
        "inbox_revoke_feed(text, text)",
        "inbox_revoke_feed('payments', '@role')",
    ),
    (
        "inbox_claim(text, integer, interval, text)",
        "inbox_claim('@inbox')",
    ),
    (
        "inbox_extend_claim(text, text[], uuid, interval)",
        "inbox_extend_claim('@inbox', ARRAY['claimed'], '@claim')",
    ),
    (
        "inbox_mark_processed(text, text, uuid)",
        "inbox_mark_processed('@inbox', 'free')",
    ),
    (
        "inbox_mark_processed(text, text[], uuid)",
        "inbox_mark_processed('@inbox', ARRAY['free'])",
    ),
    (
        "inbox_mark_failed(text, text, text, interval, uuid)",
        "inbox_mark_failed('@inbox', 'free', 'it failed')",
    ),
    (
        "replay_inbox_messages(text, text[])",
        "replay_inbox_messages('@inbox', ARRAY['free'])",
    ),
    (
        "relay_set_outbox(text, text, text, jsonb, integer, boolean, text)",
        r#"relay_set_outbox('new', 'orders', 'kafka', '{"brokers": "b:1", "topic": "t"}')"#,
    ),
    (
        "relay_set_inbox(text, text, jsonb, integer, text, boolean, integer, boolean, text)",
        r#"relay_set_inbox('new', 'payments', '{"url": "b:1", "subject": "s"}')"#,
    ),
    ("relay_enable(text)", "relay_enable('out')"),
    ("relay_disable(text)", "relay_disable('out')"),
    ("relay_delete(text)", "relay_delete('in')"),
    ("relay_rename(text, text)", "relay_rename('out', 'new')"),
    ("relay_get_config(text)", "relay_get_config('out')"),
    ("relay_list_configs()", "relay_list_configs()"),
    (
        "relay_forget_position(text, text, boolean)",
        "relay_forget_position('in')",
    ),
    ("relay_dlq_list(text, boolean, integer)", "relay_dlq_list()"),
    ("relay_dlq_retry(bigint)", "relay_dlq_retry(1)"),
    ("relay_dlq_retry_all(text)", "relay_dlq_retry_all('out')"),
    ("relay_dlq_resolve(bigint, text)", "relay_dlq_resolve(1)"),
    ("relay_dlq_purge(text, interval)", "relay_dlq_purge()"),
    (
        "relay_replay(text, bigint, bigint)",
        "relay_replay('out', NULL::bigint, NULL::bigint)",
    ),
    (
        "relay_replay(text, timestamp with time zone, timestamp with time zone)",
        "relay_replay('out', NULL::timestamptz, NULL::timestamptz)",
    ),
    (
        "set_dead_letter_retention(integer, integer)",
        "set_dead_letter_retention()",
    ),
    ("maintain_outbox(text)", "maintain_outbox('orders')"),
    ("maintain_outboxes(integer)", "maintain_outboxes()"),
    ("maintain_inbox(text, integer)", "maintain_inbox('payments')"),
    ("granted_roles()", "granted_roles()"),
    ("object_grants(text, text)", "object_grants('outbox', 'orders')"),
    ("managed_objects(text)", "managed_objects()"),
    (
        "object_claim(text, text, text, text, text, text, text, boolean)",
        "object_claim('outbox', 'orders', 'c', 'n', 'r', 'u', 'Retain', true)",
    ),
    (
        "object_release(text, text, text, text, text)",
        "object_release('outbox', 'orders', 'c', 'n', 'r')",
    ),
    (
        "object_set_roles(text, text, text, text, text, jsonb)",
        "object_set_roles('outbox', 'orders', 'c', 'n', 'r', '{}')",
    ),
    // What a relay calls to deliver into an inbox; also of another database.
    ("_inbox_feed_check(text)", "_inbox_feed_check('@inbox')"),
    (
        "_inbox_feed_open(text, bigint, text, text, bigint, bigint)",
        "_inbox_feed_open('@inbox', 7, 'shop', 'p', 1, 6)",
    ),
    (
        "_inbox_feed_landed(integer, bigint)",
        "_inbox_feed_landed(@feed, 0)",
    ),
    (
        "_inbox_feed_write(integer, bigint, bigint, bigint, text, text[], text[], text[], bigint[], bigint[], bigint[])",
        "_inbox_feed_write(@feed, @session, 0, 0, 's', ARRAY['x'], ARRAY['1'], ARRAY['{}'], ARRAY[1]::bigint[], ARRAY[1]::bigint[], NULL)",
    ),
];

/// What is tried besides functions and relations as such: ways to what is
/// another's, and around the functions.
pub(super) const STATEMENTS: &[(&str, &str)] = &[
    (
        "`INSERT INTO outbox_message (outbox, payload)`",
        "INSERT INTO tide.outbox_message (outbox, payload) VALUES ('@outbox', '1')",
    ),
    (
        "`INSERT INTO` an outbox `(payload, headers)`",
        "INSERT INTO tide.@outbox_outbox (payload, headers) VALUES ('1', '{}')",
    ),
    (
        "`INSERT INTO` an outbox `(id, payload)`",
        "INSERT INTO tide.@outbox_outbox (id, payload) VALUES (-1, '1')",
    ),
    (
        "`CREATE TABLE` in the schema",
        "CREATE TABLE tide.mine (a integer)",
    ),
    (
        "`CREATE FUNCTION` in the schema",
        "CREATE FUNCTION tide.mine() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
    ),
    ("`DROP TABLE` of an outbox", "DROP TABLE tide.@outbox_outbox"),
    ("`DROP SCHEMA`", "DROP SCHEMA tide CASCADE"),
    (
        "`ALTER FUNCTION`, its owner's rights",
        "ALTER FUNCTION tide.outbox_list() SET search_path = public",
    ),
    (
        "`CREATE OR REPLACE FUNCTION`",
        "CREATE OR REPLACE FUNCTION tide._snapshot() RETURNS pg_snapshot LANGUAGE sql AS 'SELECT NULL::pg_snapshot'",
    ),
    (
        "`CREATE TRIGGER` on an outbox",
        "CREATE TRIGGER mine BEFORE INSERT ON tide.@outbox_outbox FOR EACH ROW EXECUTE FUNCTION tide._refuse_message()",
    ),
    (
        "`ALTER TABLE ... DISABLE ROW LEVEL SECURITY`",
        "ALTER TABLE tide.outbox_message DISABLE ROW LEVEL SECURITY",
    ),
];
