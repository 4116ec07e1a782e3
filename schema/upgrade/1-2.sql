-- Version 1 (release 0.1.0) to version 2.

-- What is altered here, locked before anything is done: if one is in use, the
-- upgrade gives way at once and tries again.
LOCK TABLE tide.pipeline, tide.group_cursor, tide.pipeline_status, tide.dead_letter, tide.connector_option,
    tide.relay_member IN ACCESS EXCLUSIVE MODE;

-- Consumers in SQL have leases.
ALTER TABLE tide.group_cursor
    DROP COLUMN polled,
    ADD COLUMN polled_at timestamptz,
    ADD COLUMN round_low_water_id bigint NOT NULL DEFAULT 0,
    ADD COLUMN mark_id bigint,
    ADD COLUMN mark_xid bigint;
CREATE TABLE tide.consumer_lease (
    group_id           integer NOT NULL REFERENCES tide.consumer_group ON DELETE CASCADE,
    round              bigint NOT NULL,
    from_id            bigint NOT NULL,
    to_id              bigint NOT NULL CHECK (to_id > from_id),
    old_snapshot       pg_snapshot NOT NULL,
    new_snapshot       pg_snapshot NOT NULL,
    lease              uuid,
    consumer_id        text,
    attempts           integer NOT NULL DEFAULT 0,
    leased_at          timestamptz,
    leased_until       timestamptz NOT NULL DEFAULT '-infinity',
    committed          boolean NOT NULL DEFAULT false,
    low_water_id       bigint NOT NULL,
    round_low_water_id bigint NOT NULL,
    PRIMARY KEY (group_id, round, from_id)
) WITH (fillfactor = 50);
DROP FUNCTION tide.poll_outbox(text, text, integer);
DROP FUNCTION tide.commit_offset(text, text, bigint);
DROP FUNCTION tide._free_group(text, tide.outbox);

ALTER TABLE tide.pipeline_status
    ADD COLUMN rate real NOT NULL DEFAULT 0,
    ADD COLUMN source_position text,
    ADD COLUMN source_lag bigint;

ALTER TABLE tide.dead_letter ADD COLUMN message_key text;
CREATE INDEX dead_letter_open ON tide.dead_letter (pipeline) WHERE resolved_at IS NULL;

CREATE TABLE tide.dead_letter_retention (
    only_row   boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    resolved   interval,
    unresolved interval
);

CREATE TABLE tide.redelivery (
    redelivery_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    pipeline_id   integer NOT NULL REFERENCES tide.pipeline ON DELETE CASCADE,
    dlq_id        bigint UNIQUE REFERENCES tide.dead_letter ON DELETE CASCADE,
    from_id       bigint NOT NULL DEFAULT 0,
    to_id         bigint NOT NULL DEFAULT 9223372036854775807,
    from_at       timestamptz NOT NULL DEFAULT '-infinity',
    to_at         timestamptz NOT NULL DEFAULT 'infinity',
    old_snapshot  pg_snapshot,
    new_snapshot  pg_snapshot,
    last_id       bigint,
    done_id       bigint NOT NULL DEFAULT 0,
    requested_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK ((dlq_id IS NULL) = (old_snapshot IS NOT NULL AND new_snapshot IS NOT NULL AND last_id IS NOT NULL))
);
CREATE INDEX redelivery_pipeline ON tide.redelivery (pipeline_id, redelivery_id);

ALTER TABLE tide.connector_option
    DROP CONSTRAINT connector_option_kind_check,
    ADD CONSTRAINT connector_option_kind_check
        CHECK (kind IN ('text', 'integer', 'boolean', 'object', 'text_list', 'template', 'duration', 'secret', 'secret_list', 'setting'));

-- Pauses are durations now; a bare number still means milliseconds.
UPDATE tide.pipeline p
   SET config = jsonb_set(p.config, '{retry}',
                          (SELECT jsonb_object_agg(CASE r.key WHEN 'initial_ms' THEN 'initial' WHEN 'max_ms' THEN 'max' ELSE r.key END, r.value)
                             FROM jsonb_each(p.config -> 'retry') r))
 WHERE p.config -> 'retry' ?| ARRAY['initial_ms', 'max_ms'];

-- Claims have a token, failures a time, from which dead letters are kept.
DO $$
DECLARE
    v_table name;
BEGIN
    FOR v_table IN SELECT i.table_name FROM tide.inbox i LOOP
        EXECUTE format('ALTER TABLE tide.%I ADD COLUMN claim uuid, ADD COLUMN failed_at timestamptz', v_table);
        EXECUTE format('UPDATE tide.%I SET failed_at = clock_timestamp() WHERE processed_at IS NULL AND retry_count > 0', v_table);
    END LOOP;
END $$;
DROP FUNCTION tide.inbox_mark_processed(text, text);
DROP FUNCTION tide.inbox_mark_failed(text, text, text);
DROP FUNCTION tide.inbox_claim(text, integer, interval);
DROP FUNCTION tide._no_such_event(tide.inbox, text);

-- Inboxes can be fed by pipelines of other databases.
CREATE TABLE tide.inbox_feed (
    feed_id         integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    inbox_id        integer NOT NULL REFERENCES tide.inbox ON DELETE CASCADE,
    source_system   bigint NOT NULL,
    source_database text NOT NULL,
    pipeline        text NOT NULL,
    timeline        bigint NOT NULL,
    epoch           bigint NOT NULL,
    session         bigint NOT NULL DEFAULT 1,
    last_seq        bigint NOT NULL DEFAULT 0,
    opened_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    written_at      timestamptz,
    CONSTRAINT inbox_feed_source UNIQUE (inbox_id, source_system, source_database, pipeline)
) WITH (fillfactor = 50);
CREATE TABLE tide.inbox_feed_batch (
    feed_id      integer NOT NULL REFERENCES tide.inbox_feed ON DELETE CASCADE,
    last_seq     bigint NOT NULL,
    message_ids  bigint[] NOT NULL,
    created_us   bigint[] NOT NULL,
    redeliveries bigint[],
    PRIMARY KEY (feed_id, last_seq)
);

-- How far a consumer group has read a topic partition into an inbox; written
-- in the transaction that stores the messages (docs/design/from-kafka.md).
CREATE TABLE tide.inbox_position (
    source_ref     integer NOT NULL REFERENCES tide.inbox_source ON DELETE CASCADE,
    consumer_group text NOT NULL,
    -- The offset to read next: everything before it is in the inbox, refused
    -- as a duplicate, or a dead letter. -1: from the beginning.
    next_offset    bigint NOT NULL,
    -- Milliseconds since 1970 that the last record before it carries: another
    -- record at that place means that the topic is not the same any more.
    last_time      bigint,
    updated_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (source_ref, consumer_group)
) WITH (fillfactor = 50);

-- Pipelines can be renamed.
ALTER TABLE tide.pipeline ADD COLUMN first_name text UNIQUE;

-- Relays listen for webhooks, and count what came.
ALTER TABLE tide.relay_member ADD COLUMN webhook_addr text;
CREATE TABLE tide.webhook_counter (
    pipeline_id  integer PRIMARY KEY REFERENCES tide.pipeline ON DELETE CASCADE,
    messages     bigint NOT NULL DEFAULT 0,
    duplicates   bigint NOT NULL DEFAULT 0,
    dead_letters bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

-- Which resource of a Kubernetes cluster made or adopted an object.
CREATE TABLE tide.managed_object (
    kind       text NOT NULL CHECK (kind IN ('outbox', 'inbox', 'pipeline')),
    object     text NOT NULL,
    cluster    text NOT NULL,
    namespace  text NOT NULL,
    resource   text NOT NULL,
    uid        text NOT NULL,
    reclaim    text NOT NULL CHECK (reclaim IN ('Retain', 'Delete')),
    -- Which roles have which right from this resource: {"publish": ["shop_app"]}.
    roles      jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(roles) = 'object'),
    claimed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Since when its resource is gone and it is kept; the resource may have it back.
    released_at timestamptz,
    PRIMARY KEY (kind, object)
);
