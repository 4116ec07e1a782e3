-- What only relays call: the tick, acquisition, the inbox batch.
-- Names start with an underscore: not an interface for applications.

-- The last id taken, then the next xid to be given out, then a snapshot, read
-- in this order: a transaction with a xid from next_xid on took its ids after
-- sequence_value was read. (The snapshot's xmax would not do: it is one above
-- the last finished transaction, and running ones lie above it.)
-- Each statement of a volatile function sees a snapshot of its own.
CREATE OR REPLACE FUNCTION tide._tick(OUT sequence_value bigint, OUT next_xid bigint, OUT snapshot text)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_snapshot pg_snapshot;
BEGIN
    SELECT CASE WHEN s.is_called THEN s.last_value ELSE 0 END
      INTO sequence_value FROM tide.message_id_seq s;
    -- The first call of age() in a transaction fixes the next xid for it.
    PERFORM pg_catalog.age('3'::xid);
    v_snapshot := pg_catalog.pg_current_snapshot();
    snapshot := v_snapshot::text;
    next_xid := pg_catalog.pg_snapshot_xmax(v_snapshot)::text::bigint
              + pg_catalog.age(pg_catalog.pg_snapshot_xmax(v_snapshot)::xid);
END $$;

COMMENT ON FUNCTION tide._tick() IS
'For relays: the last message id taken, the next xid, and a snapshot, read in this order.';

-- Makes the caller the owner: a new epoch in the owner row and, for a forward
-- pipeline, in the group's cursor. The caller holds the advisory lock.
CREATE OR REPLACE FUNCTION tide._acquire(p_pipeline_id integer, p_member_id integer, p_member_name text)
RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_epoch bigint := nextval('tide.epoch_seq');
    v_group tide.consumer_group;
    v_cluster record;
BEGIN
    INSERT INTO tide.pipeline_owner AS o (pipeline_id, epoch, member_id, member_name)
    VALUES (p_pipeline_id, v_epoch, p_member_id, p_member_name)
    ON CONFLICT (pipeline_id) DO UPDATE
       SET epoch = excluded.epoch, member_id = excluded.member_id,
           member_name = excluded.member_name, acquired_at = clock_timestamp(),
           released_at = NULL;

    SELECT g.* INTO v_group
      FROM tide.pipeline p JOIN tide.consumer_group g USING (group_id)
     WHERE p.pipeline_id = p_pipeline_id;
    IF FOUND THEN
        -- What consumers in SQL have not committed is the relay's now.
        DELETE FROM tide.consumer_lease l WHERE l.group_id = v_group.group_id;
        UPDATE tide.group_cursor
           SET epoch = v_epoch, consumer_id = p_member_name
         WHERE group_id = v_group.group_id;
        IF NOT FOUND THEN
            IF v_group.auto_offset_reset = 'none' THEN
                RAISE EXCEPTION 'consumer group "%" has no committed offset and its auto_offset_reset is "none"', v_group.name
                    USING ERRCODE = 'TD002',
                          HINT = 'Commit a start with tide.commit_offset, or make the group anew with auto_offset_reset "earliest" or "latest".';
            END IF;
            SELECT * INTO v_cluster FROM tide._cluster();
            -- 'latest' got its cursor when the group was created.
            INSERT INTO tide.group_cursor (group_id, epoch, old_snapshot, new_snapshot,
                                           system_identifier, timeline, consumer_id)
            VALUES (v_group.group_id, v_epoch, '3:3:', '3:3:',
                    v_cluster.system_identifier, v_cluster.timeline, p_member_name);
        END IF;
    END IF;
    RETURN v_epoch;
END $$;

COMMENT ON FUNCTION tide._acquire(integer, integer, text) IS
'For relays: become owner of a pipeline; returns the new epoch.';

-- Number of a stream or topic partition in an inbox.
CREATE OR REPLACE FUNCTION tide._inbox_source(p_inbox_id integer, p_description text)
RETURNS integer
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_ref integer;
BEGIN
    SELECT source_ref INTO v_ref FROM tide.inbox_source
     WHERE inbox_id = p_inbox_id AND description = p_description;
    IF NOT FOUND THEN
        INSERT INTO tide.inbox_source (inbox_id, description)
        VALUES (p_inbox_id, p_description)
        ON CONFLICT (inbox_id, description) DO UPDATE SET description = excluded.description
        RETURNING source_ref INTO v_ref;
    END IF;
    RETURN v_ref;
END $$;

-- Stores a batch: each message once, by event id, by source position and, when
-- the relay computed one, by dedup key. Messages without an id are numbered
-- <inbox>:<connector>:seq-N; a refused duplicate takes no number. An id of that
-- form that a message brings itself is kept apart by the prefix "id:".
--
-- The usual batch has no duplicate, so it is first inserted whole with numbers
-- given by position (without ON CONFLICT, which would search every unique index
-- a second time). Only when a row is refused is that undone and the batch
-- reduced to its new messages first. The counter row, locked throughout, keeps
-- other batches of this inbox out. The caller has made sure that it may store.
CREATE OR REPLACE FUNCTION tide._inbox_store(
    p_pipeline_id integer,
    p_event_ids   text[],
    p_dedup_keys  bytea[],
    p_source_refs integer[],
    p_source_seqs bigint[],
    p_sources     text[],
    p_payloads    text[],
    p_headers     text[],
    OUT inserted   bigint,
    OUT duplicates bigint)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_inbox_id integer;
    v_table    name;
    v_prefix   text;
    v_last     bigint;
    v_total    bigint := coalesce(array_length(p_payloads, 1), 0);
    v_numbered bigint;
    v_columns  constant text := 'event_id, source, payload, headers, dedup_key, source_ref, source_seq';
    v_batch    constant text :=
        '(SELECT CASE WHEN starts_with(u.event_id, $8) THEN ''id:'' || u.event_id ELSE u.event_id END AS event_id,'
        ' u.dedup_key, u.source_ref, u.source_seq, u.source, u.payload, u.headers, u.n'
        ' FROM unnest($1::text[], $2::bytea[], $3::integer[], $4::bigint[], $5::text[], $6::text[], $7::text[])'
        ' WITH ORDINALITY AS u(event_id, dedup_key, source_ref, source_seq, source, payload, headers, n)) AS b';
BEGIN
    SELECT i.inbox_id, i.table_name, i.name || ':' || p.connector || ':seq-'
      INTO v_inbox_id, v_table, v_prefix
      FROM tide.pipeline p JOIN tide.inbox i USING (inbox_id)
     WHERE p.pipeline_id = p_pipeline_id;

    SELECT c.last_seq INTO v_last FROM tide.inbox_counter c
     WHERE c.inbox_id = v_inbox_id FOR UPDATE;

    SELECT count(*) INTO v_numbered FROM unnest(p_event_ids) e(event_id) WHERE e.event_id IS NULL;
    BEGIN
        EXECUTE format(
            'INSERT INTO tide.%I (%s)
             SELECT %s, b.source, b.payload::jsonb, b.headers::jsonb, b.dedup_key, b.source_ref, b.source_seq
               FROM %s ORDER BY b.n',
            v_table, v_columns,
            CASE WHEN v_numbered = v_total THEN '$8 || ($9 + b.n)'
                 ELSE 'coalesce(b.event_id, $8 || ($9 + count(*) FILTER (WHERE b.event_id IS NULL) OVER (ORDER BY b.n)))'
            END, v_batch)
        USING p_event_ids, p_dedup_keys, p_source_refs, p_source_seqs, p_sources, p_payloads, p_headers,
              v_prefix, v_last;
        inserted := v_total;
    EXCEPTION WHEN unique_violation THEN
        -- First what the table has, then repetitions of ids and positions, then
        -- of contents among what is left.
        EXECUTE format(
            'WITH unknown AS (
                 SELECT b.*
                   FROM %2$s
                  WHERE NOT EXISTS (SELECT FROM tide.%1$I i WHERE i.event_id = b.event_id)
                    AND NOT EXISTS (SELECT FROM tide.%1$I i WHERE i.dedup_key = b.dedup_key)
                    AND NOT EXISTS (SELECT FROM tide.%1$I i WHERE i.source_ref = b.source_ref AND i.source_seq = b.source_seq)),
             other AS (
                 SELECT b.*,
                        b.event_id IS NOT NULL AND row_number() OVER (PARTITION BY b.event_id ORDER BY b.n) > 1
                     OR b.source_seq IS NOT NULL AND row_number() OVER (PARTITION BY b.source_ref, b.source_seq ORDER BY b.n) > 1 AS again
                   FROM unknown b),
             distinct_content AS (
                 SELECT b.*, b.dedup_key IS NOT NULL AND row_number() OVER (PARTITION BY b.dedup_key ORDER BY b.n) > 1 AS again_content
                   FROM other b WHERE NOT b.again),
             fresh AS (SELECT b.* FROM distinct_content b WHERE NOT b.again_content),
             stored AS (
                 INSERT INTO tide.%1$I (%3$s)
                 SELECT coalesce(b.event_id, $8 || ($9 + count(*) FILTER (WHERE b.event_id IS NULL) OVER (ORDER BY b.n))),
                        b.source, b.payload::jsonb, b.headers::jsonb, b.dedup_key, b.source_ref, b.source_seq
                   FROM fresh b ORDER BY b.n
                 ON CONFLICT DO NOTHING
                 RETURNING 1)
             SELECT (SELECT count(*) FROM stored), (SELECT count(*) FROM fresh WHERE event_id IS NULL)',
            v_table, v_batch, v_columns)
        INTO inserted, v_numbered
        USING p_event_ids, p_dedup_keys, p_source_refs, p_source_seqs, p_sources, p_payloads, p_headers,
              v_prefix, v_last;
    END;

    duplicates := v_total - inserted;
    UPDATE tide.inbox_counter c
       SET last_seq = v_last + v_numbered,
           accepted = c.accepted + inserted,
           duplicates = c.duplicates + _inbox_store.duplicates
     WHERE c.inbox_id = v_inbox_id;
END $$;

COMMENT ON FUNCTION tide._inbox_store(integer, text[], bytea[], integer[], bigint[], text[], text[], text[]) IS
'For relays: store a batch of incoming messages once each; the caller has the fence.';

CREATE OR REPLACE FUNCTION tide._inbox_write(
    p_pipeline_id integer,
    p_epoch       bigint,
    p_event_ids   text[],
    p_dedup_keys  bytea[],
    p_source_refs integer[],
    p_source_seqs bigint[],
    p_sources     text[],
    p_payloads    text[],
    p_headers     text[],
    OUT inserted   bigint,
    OUT duplicates bigint)
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM 1 FROM tide.pipeline_owner
     WHERE pipeline_id = p_pipeline_id AND epoch = p_epoch
       FOR SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'pipeline % is no longer owned under epoch %', p_pipeline_id, p_epoch
            USING ERRCODE = 'TD001';
    END IF;
    SELECT s.inserted, s.duplicates INTO inserted, duplicates
      FROM tide._inbox_store(p_pipeline_id, p_event_ids, p_dedup_keys, p_source_refs, p_source_seqs, p_sources,
                             p_payloads, p_headers) s;
END $$;

COMMENT ON FUNCTION tide._inbox_write(integer, bigint, text[], bytea[], integer[], bigint[], text[], text[], text[]) IS
'For relays: store a batch of incoming messages once each, fenced by the epoch.';
