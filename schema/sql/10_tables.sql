-- Tables of schema tide: what is published, who reads it, where they stand.
--
-- Rules that the rest relies on:
--  * Messages are insert-only. Nothing ever updates or deletes a message row;
--    retention drops whole partitions. (But see tide._adopt_messages.)
--  * In tide.outbox_message, xid stands before id: defaults are evaluated in
--    column order, so a transaction has its xid before it takes its first id.
--    Hence a transaction whose xid was not given out yet when the sequence was
--    read gets ids above the value that was read (docs/design/cursor.md).
--  * tide.message_id_seq keeps CACHE 1: ids must grow in the order of nextval.
--  * This file runs once, at installation; every other file runs again at an
--    upgrade. A change here goes into schema/upgrade/ as well (CONTRIBUTING.md);
--    a new column goes to the end of its table.

CREATE SEQUENCE tide.message_id_seq AS bigint CACHE 1;
CREATE SEQUENCE tide.epoch_seq AS bigint CACHE 1;

CREATE TABLE tide.schema_version (
    version     integer PRIMARY KEY,
    release     text NOT NULL,
    applied_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- ---------------------------------------------------------------- outboxes

CREATE TABLE tide.outbox (
    outbox_id        integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name             text NOT NULL UNIQUE CHECK (octet_length(name) BETWEEN 1 AND 63),
    table_name       name NOT NULL UNIQUE,
    enabled          boolean NOT NULL DEFAULT true,
    retention        interval NOT NULL DEFAULT '24 hours',
    partition_period interval NOT NULL DEFAULT '6 hours',
    created_at       timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- A domain, because a CHECK on the partitioned table would cost each publish
-- 6 us of CPU where this costs 1 (of about 20).
CREATE DOMAIN tide.headers AS jsonb CONSTRAINT headers_are_an_object CHECK (jsonb_typeof(VALUE) = 'object');

-- One root for all outboxes, so that outbox_publish is one static, cached
-- INSERT. LIST by the outbox's name, which spares a look-up per publish, then
-- RANGE by insertion time:
--   tide.outbox_message -> tide."<outbox>_outbox" -> tide.outbox_<id>_<from>
CREATE TABLE tide.outbox_message (
    xid         xid8        NOT NULL DEFAULT pg_current_xact_id(),
    id          bigint      NOT NULL DEFAULT nextval('tide.message_id_seq'),
    outbox      text COLLATE "C" NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    headers     tide.headers NOT NULL DEFAULT '{}',
    payload     jsonb,
    -- Room for payloads that are not JSON (Avro, Protobuf): not used yet.
    body        bytea
) PARTITION BY LIST (outbox);

-- Where messages of unknown outboxes end up, only to be refused by a trigger.
CREATE TABLE tide.outbox_unknown PARTITION OF tide.outbox_message DEFAULT;

CREATE TABLE tide.consumer_group (
    group_id          integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    outbox_id         integer NOT NULL REFERENCES tide.outbox ON DELETE CASCADE,
    name              text NOT NULL CHECK (octet_length(name) BETWEEN 1 AND 255),
    auto_offset_reset text NOT NULL DEFAULT 'earliest'
                      CHECK (auto_offset_reset IN ('earliest', 'latest', 'none')),
    -- Made for a pipeline that named no group; goes when that pipeline goes.
    implicit          boolean NOT NULL DEFAULT false,
    created_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (outbox_id, name)
);

-- The committed position of a group. A message is delivered when its xid is
-- visible in old_snapshot, or visible in new_snapshot and its id is at most
-- last_id. No row: nothing was ever committed.
CREATE TABLE tide.group_cursor (
    group_id           integer PRIMARY KEY REFERENCES tide.consumer_group ON DELETE CASCADE,
    -- Fence: a relay checkpoints only while this is the epoch it acquired.
    epoch              bigint NOT NULL DEFAULT 0,
    old_snapshot       pg_snapshot NOT NULL,
    new_snapshot       pg_snapshot NOT NULL,
    last_id            bigint NOT NULL DEFAULT 0,
    -- Highest message id known to be delivered; for people to look at.
    committed_offset   bigint NOT NULL DEFAULT 0,
    -- Every message with an id up to here is delivered or was rolled back.
    low_water_id       bigint NOT NULL DEFAULT 0,
    -- The snapshots mean something only in this cluster and timeline.
    system_identifier  bigint,
    timeline           bigint,
    -- True when the owner left with nothing in flight: no tail scan needed.
    clean              boolean NOT NULL DEFAULT true,
    -- Per topic partition or stream: the broker position after the last
    -- message delivered up to the cursor, and up to low_water_id.
    sink_position      jsonb NOT NULL DEFAULT '{}',
    low_water_position jsonb NOT NULL DEFAULT '{}',
    consumer_id        text,
    committed_at       timestamptz,
    -- For tide.poll_outbox: the last sign of life; the low-water mark once the
    -- round is delivered; a tick whose transactions are not all finished yet.
    polled_at          timestamptz,
    round_low_water_id bigint NOT NULL DEFAULT 0,
    mark_id            bigint,
    mark_xid           bigint
) WITH (fillfactor = 50);

-- What tide.poll_outbox handed out and the group's cursor has not passed:
-- ranges of ids within a round, one behind the other without a gap, the first
-- of them at the cursor (docs/design/sql-consumers.md).
CREATE TABLE tide.consumer_lease (
    group_id           integer NOT NULL REFERENCES tide.consumer_group ON DELETE CASCADE,
    round              bigint NOT NULL,
    -- Above from_id, up to to_id.
    from_id            bigint NOT NULL,
    to_id              bigint NOT NULL CHECK (to_id > from_id),
    old_snapshot       pg_snapshot NOT NULL,
    new_snapshot       pg_snapshot NOT NULL,
    -- The token; null when nobody has it.
    lease              uuid,
    consumer_id        text,
    attempts           integer NOT NULL DEFAULT 0,
    leased_at          timestamptz,
    leased_until       timestamptz NOT NULL DEFAULT '-infinity',
    committed          boolean NOT NULL DEFAULT false,
    -- Before this round, and once it is delivered.
    low_water_id       bigint NOT NULL,
    round_low_water_id bigint NOT NULL,
    PRIMARY KEY (group_id, round, from_id)
) WITH (fillfactor = 50);

-- ---------------------------------------------------------------- inboxes

CREATE TABLE tide.inbox (
    inbox_id            integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name                text NOT NULL UNIQUE CHECK (octet_length(name) BETWEEN 1 AND 63),
    table_name          name NOT NULL UNIQUE,
    max_retries         integer NOT NULL DEFAULT 3 CHECK (max_retries >= 0),
    processed_retention interval NOT NULL DEFAULT '72 hours',
    -- Null keeps dead letters for ever.
    dlq_retention       interval,
    created_at          timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Counters of an inbox; locked by every batch, which makes its seq-N gapless.
CREATE TABLE tide.inbox_counter (
    inbox_id   integer PRIMARY KEY REFERENCES tide.inbox ON DELETE CASCADE,
    last_seq   bigint NOT NULL DEFAULT 0,
    accepted   bigint NOT NULL DEFAULT 0,
    duplicates bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

-- Names a stream or topic partition by a small number, so that a position is
-- (source_ref, source_seq). A stream made anew is a new source.
CREATE TABLE tide.inbox_source (
    source_ref  integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    inbox_id    integer NOT NULL REFERENCES tide.inbox ON DELETE CASCADE,
    description text NOT NULL,
    UNIQUE (inbox_id, description)
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

-- Forward pipelines, of this database or another, that deliver into an inbox
-- here (63_inbox_feed.sql).
CREATE TABLE tide.inbox_feed (
    feed_id         integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    inbox_id        integer NOT NULL REFERENCES tide.inbox ON DELETE CASCADE,
    -- Where the pipeline lives.
    source_system   bigint NOT NULL,
    source_database text NOT NULL,
    pipeline        text NOT NULL,
    -- Who wrote last; epochs may come again only in a later timeline.
    timeline        bigint NOT NULL,
    epoch           bigint NOT NULL,
    -- Fence: rises whenever the feed is opened.
    session         bigint NOT NULL DEFAULT 1,
    -- Messages that ever came by this feed, duplicates included.
    last_seq        bigint NOT NULL DEFAULT 0,
    opened_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    written_at      timestamptz,
    CONSTRAINT inbox_feed_source UNIQUE (inbox_id, source_system, source_database, pipeline)
) WITH (fillfactor = 50);

-- What came by a feed and may be sent again: everything since the low-water
-- mark of its pipeline's checkpoint.
CREATE TABLE tide.inbox_feed_batch (
    feed_id      integer NOT NULL REFERENCES tide.inbox_feed ON DELETE CASCADE,
    last_seq     bigint NOT NULL,
    message_ids  bigint[] NOT NULL,
    created_us   bigint[] NOT NULL,
    -- Null when none of them was a redelivery.
    redeliveries bigint[],
    PRIMARY KEY (feed_id, last_seq)
);

-- ---------------------------------------------------------------- pipelines

CREATE TABLE tide.pipeline (
    pipeline_id  integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name         text NOT NULL UNIQUE CHECK (octet_length(name) BETWEEN 1 AND 255),
    direction    text NOT NULL CHECK (direction IN ('forward', 'reverse')),
    outbox_id    integer REFERENCES tide.outbox,
    group_id     integer UNIQUE REFERENCES tide.consumer_group,
    inbox_id     integer REFERENCES tide.inbox,
    -- Sink of a forward, source of a reverse pipeline: kafka, nats, ...
    connector    text NOT NULL,
    config       jsonb NOT NULL CHECK (jsonb_typeof(config) = 'object'),
    batch_size   integer NOT NULL DEFAULT 100 CHECK (batch_size BETWEEN 1 AND 100000),
    enabled      boolean NOT NULL DEFAULT true,
    relay_group  text NOT NULL DEFAULT 'default',
    max_retries  integer NOT NULL DEFAULT 3 CHECK (max_retries >= 0),
    idempotent   boolean NOT NULL DEFAULT true,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- The name that it was made with, once it has another one (52_rename.sql).
    first_name   text UNIQUE,
    CHECK ((direction = 'forward') = (outbox_id IS NOT NULL AND group_id IS NOT NULL)),
    CHECK ((direction = 'reverse') = (inbox_id IS NOT NULL))
);

-- Rises with every change to pipelines, groups, outboxes or inboxes, in the
-- changing transaction. Relays compare it to know when to read them anew.
CREATE TABLE tide.config_state (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version  bigint NOT NULL DEFAULT 0
);
INSERT INTO tide.config_state DEFAULT VALUES;

CREATE TABLE tide.relay_member (
    member_id    integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    relay_group  text NOT NULL,
    name         text NOT NULL,
    pid          integer,
    release      text,
    backend_pid  integer NOT NULL,
    started_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    heartbeat_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Where it listens for webhooks; null when it does not.
    webhook_addr text
) WITH (fillfactor = 50);

-- Who owns a pipeline. The advisory lock is what excludes others; this row
-- carries the epoch that fences whoever lost the lock without noticing.
CREATE TABLE tide.pipeline_owner (
    pipeline_id integer PRIMARY KEY REFERENCES tide.pipeline ON DELETE CASCADE,
    epoch       bigint NOT NULL,
    member_id   integer NOT NULL,
    member_name text NOT NULL,
    acquired_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    released_at timestamptz
) WITH (fillfactor = 50);

-- What the owner last reported.
CREATE TABLE tide.pipeline_status (
    pipeline_id   integer PRIMARY KEY REFERENCES tide.pipeline ON DELETE CASCADE,
    epoch         bigint NOT NULL,
    state         text NOT NULL,
    state_since   timestamptz NOT NULL,
    messages      bigint NOT NULL DEFAULT 0,
    duplicates    bigint NOT NULL DEFAULT 0,
    dead_letters  bigint NOT NULL DEFAULT 0,
    retries       bigint NOT NULL DEFAULT 0,
    last_error    text,
    last_error_at timestamptz,
    note          text,
    reported_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Messages a second, over the last few seconds.
    rate          real NOT NULL DEFAULT 0,
    -- Reverse: where the last message stored lay in its source, and how many
    -- are known to wait there.
    source_position text,
    source_lag    bigint
) WITH (fillfactor = 50);

-- What came by a webhook pipeline since it was made, in all relays together
-- (docs/design/from-webhooks.md).
CREATE TABLE tide.webhook_counter (
    pipeline_id  integer PRIMARY KEY REFERENCES tide.pipeline ON DELETE CASCADE,
    messages     bigint NOT NULL DEFAULT 0,
    duplicates   bigint NOT NULL DEFAULT 0,
    dead_letters bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

-- Messages that could not be delivered (forward) or stored (reverse), whole.
CREATE TABLE tide.dead_letter (
    dlq_id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    pipeline      text NOT NULL,
    direction     text NOT NULL,
    -- Forward: the outbox message. Reverse: where it lay in the source.
    message_id    bigint,
    event_id      text,
    source        text,
    source_ref    integer,
    source_seq    bigint,
    payload       jsonb,
    body          bytea,
    headers       jsonb NOT NULL DEFAULT '{}',
    error         text NOT NULL,
    attempts      integer NOT NULL DEFAULT 1,
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    resolved_at   timestamptz,
    resolution    text,
    -- Forward with strict ordering: later messages of this key wait behind it.
    message_key   text
);
CREATE UNIQUE INDEX dead_letter_message ON tide.dead_letter (pipeline, message_id)
    WHERE message_id IS NOT NULL;
CREATE INDEX dead_letter_open ON tide.dead_letter (pipeline) WHERE resolved_at IS NULL;
CREATE UNIQUE INDEX dead_letter_source ON tide.dead_letter (pipeline, source_ref, source_seq)
    WHERE source_seq IS NOT NULL;

-- How long dead letters are kept; null keeps them for ever. No row: a week
-- after they were resolved, and for ever.
CREATE TABLE tide.dead_letter_retention (
    only_row   boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    resolved   interval,
    unresolved interval
);

-- What is to go through a forward pipeline once more: a dead letter, or what
-- was delivered of a range of messages. Worked off in this order.
CREATE TABLE tide.redelivery (
    redelivery_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    pipeline_id   integer NOT NULL REFERENCES tide.pipeline ON DELETE CASCADE,
    dlq_id        bigint UNIQUE REFERENCES tide.dead_letter ON DELETE CASCADE,
    from_id       bigint NOT NULL DEFAULT 0,
    to_id         bigint NOT NULL DEFAULT 9223372036854775807,
    from_at       timestamptz NOT NULL DEFAULT '-infinity',
    to_at         timestamptz NOT NULL DEFAULT 'infinity',
    -- The group's cursor when the replay was asked for: what it calls
    -- delivered is replayed, the rest is still to come anyway.
    old_snapshot  pg_snapshot,
    new_snapshot  pg_snapshot,
    last_id       bigint,
    -- Replayed up to this id.
    done_id       bigint NOT NULL DEFAULT 0,
    requested_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK ((dlq_id IS NULL) = (old_snapshot IS NOT NULL AND new_snapshot IS NOT NULL AND last_id IS NOT NULL))
);
CREATE INDEX redelivery_pipeline ON tide.redelivery (pipeline_id, redelivery_id);

-- What the config of a pipeline may contain; filled by 55_options.sql.
CREATE TABLE tide.connector_option (
    connector   text NOT NULL,          -- '*': every connector of the direction
    direction   text NOT NULL CHECK (direction IN ('forward', 'reverse')),
    key         text NOT NULL,          -- 'retry.max': max inside retry
    kind        text NOT NULL CHECK (kind IN ('text', 'integer', 'boolean', 'object', 'text_list', 'template', 'duration', 'secret', 'secret_list', 'setting')),
    required    boolean NOT NULL DEFAULT false,
    allowed     text[],
    minimum     bigint,
    maximum     bigint,
    description text NOT NULL,
    PRIMARY KEY (direction, connector, key)
);

-- ---------------------------------------------------------------- Kubernetes

-- Which resource of a Kubernetes cluster made or adopted an object
-- (66_managed.sql). No foreign key: an object that was dropped by hand is to be
-- made again, so its claim stays.
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
