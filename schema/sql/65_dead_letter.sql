-- Dead letters and replay.
--
-- A dead letter of a forward pipeline goes through the pipeline again: the
-- relay that owns it takes the queue tide.redelivery before anything new. One
-- of a reverse pipeline is stored in the inbox here and now.

CREATE OR REPLACE FUNCTION tide._dead_letter(p_dlq_id bigint)
RETURNS tide.dead_letter
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_letter tide.dead_letter;
BEGIN
    SELECT d.* INTO v_letter FROM tide.dead_letter d WHERE d.dlq_id = p_dlq_id FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no dead letter %', coalesce(p_dlq_id::text, 'null')
            USING ERRCODE = 'no_data_found', HINT = 'Look for it with SELECT * FROM tide.relay_dlq_list().';
    END IF;
    RETURN v_letter;
END $$;

CREATE OR REPLACE FUNCTION tide.relay_dlq_list(p_pipeline text DEFAULT NULL, p_include_resolved boolean DEFAULT false,
                                    p_limit integer DEFAULT 100)
RETURNS TABLE (dlq_id bigint, pipeline text, direction text, message_id bigint, event_id text, source text,
               payload jsonb, headers jsonb, error text, attempts integer, created_at timestamptz,
               resolved_at timestamptz, resolution text, body bytea)
LANGUAGE plpgsql STABLE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF p_limit IS NULL OR p_limit < 1 THEN
        RAISE EXCEPTION 'p_limit is %', coalesce(p_limit::text, 'null')
            USING ERRCODE = 'invalid_parameter_value', HINT = 'p_limit is a number of dead letters, at least 1.';
    END IF;
    -- A pipeline may be gone and its dead letters still be there.
    IF p_pipeline IS NOT NULL AND NOT EXISTS (SELECT FROM tide.dead_letter d WHERE d.pipeline = p_pipeline) THEN
        PERFORM tide._pipeline(p_pipeline);
    END IF;
    RETURN QUERY
        SELECT d.dlq_id, d.pipeline, d.direction, d.message_id, d.event_id, d.source, d.payload, d.headers, d.error,
               d.attempts, d.created_at, d.resolved_at, d.resolution, d.body
          FROM tide.dead_letter d
         WHERE (p_pipeline IS NULL OR d.pipeline = p_pipeline)
           AND (p_include_resolved OR d.resolved_at IS NULL)
         ORDER BY d.dlq_id LIMIT p_limit;
END $$;

COMMENT ON FUNCTION tide.relay_dlq_list(text, boolean, integer) IS
'Dead letters, oldest first: messages that a sink or an inbox refused, whole, with the reason. payload is null when it is not JSON; body then has its bytes.';

-- Stores a dead letter of a reverse pipeline; null, or why it is refused again.
CREATE OR REPLACE FUNCTION tide._store_dead_letter(p_letter tide.dead_letter, p_pipeline tide.pipeline)
RETURNS text
LANGUAGE plpgsql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_epoch bigint;
BEGIN
    SELECT o.epoch INTO v_epoch FROM tide.pipeline_owner o WHERE o.pipeline_id = p_pipeline.pipeline_id;
    PERFORM tide._inbox_write(p_pipeline.pipeline_id, v_epoch, ARRAY[p_letter.event_id], ARRAY[NULL::bytea],
                              ARRAY[p_letter.source_ref], ARRAY[p_letter.source_seq], ARRAY[p_letter.source],
                              ARRAY[coalesce(convert_from(p_letter.body, 'UTF8'), p_letter.payload::text)],
                              ARRAY[p_letter.headers::text]);
    RETURN NULL;
EXCEPTION
    WHEN data_exception OR integrity_constraint_violation OR program_limit_exceeded THEN
        RETURN SQLERRM;
END $$;

CREATE OR REPLACE FUNCTION tide.relay_dlq_retry(p_dlq_id bigint)
RETURNS boolean
LANGUAGE plpgsql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_letter   tide.dead_letter := tide._dead_letter(p_dlq_id);
    v_pipeline tide.pipeline;
    v_error    text;
BEGIN
    IF v_letter.resolved_at IS NOT NULL THEN
        RAISE EXCEPTION 'dead letter % is resolved: %', p_dlq_id, v_letter.resolution
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'A delivered message is sent once more with tide.relay_replay.';
    END IF;
    SELECT p.* INTO v_pipeline FROM tide.pipeline p
     WHERE p.name = v_letter.pipeline AND p.direction = v_letter.direction;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'dead letter % belongs to pipeline "%", which is gone', p_dlq_id, v_letter.pipeline
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = format('Make the pipeline again, or discard the letter: SELECT tide.relay_dlq_resolve(%s).', p_dlq_id);
    END IF;
    IF v_letter.direction = 'forward' THEN
        IF v_letter.message_key IS NOT NULL
           AND EXISTS (SELECT FROM tide.dead_letter d
                        WHERE d.pipeline = v_letter.pipeline AND d.message_key = v_letter.message_key
                          AND d.resolved_at IS NULL AND d.dlq_id < p_dlq_id
                          AND NOT EXISTS (SELECT FROM tide.redelivery r WHERE r.dlq_id = d.dlq_id)) THEN
            RAISE EXCEPTION 'dead letter % waits behind an earlier one of its key "%"', p_dlq_id, v_letter.message_key
                USING ERRCODE = 'object_not_in_prerequisite_state',
                      HINT = format('Their order is kept: retry them all with SELECT tide.relay_dlq_retry_all(%L), or the earlier ones first.', v_letter.pipeline);
        END IF;
        INSERT INTO tide.redelivery (pipeline_id, dlq_id) VALUES (v_pipeline.pipeline_id, p_dlq_id)
        ON CONFLICT (dlq_id) DO NOTHING;
        RETURN true;
    END IF;
    v_error := tide._store_dead_letter(v_letter, v_pipeline);
    UPDATE tide.dead_letter d
       SET attempts = d.attempts + 1, error = coalesce(v_error, d.error),
           resolved_at = CASE WHEN v_error IS NULL THEN clock_timestamp() END,
           resolution = CASE WHEN v_error IS NULL THEN 'stored' END
     WHERE d.dlq_id = p_dlq_id;
    RETURN v_error IS NULL;
END $$;

COMMENT ON FUNCTION tide.relay_dlq_retry(bigint) IS
'Puts a dead letter through its pipeline again. Forward: queued for the relay, which resolves it when the sink has taken it. Reverse: stored in the inbox at once; false when it is refused again, with the reason in its error.';

CREATE OR REPLACE FUNCTION tide.relay_dlq_retry_all(p_pipeline text)
RETURNS bigint
LANGUAGE plpgsql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_pipeline tide.pipeline := tide._pipeline(p_pipeline);
    v_dlq_id   bigint;
    v_count    bigint := 0;
BEGIN
    IF v_pipeline.direction = 'forward' THEN
        INSERT INTO tide.redelivery (pipeline_id, dlq_id)
        SELECT v_pipeline.pipeline_id, d.dlq_id FROM tide.dead_letter d
         WHERE d.pipeline = p_pipeline AND d.direction = 'forward' AND d.resolved_at IS NULL
         ORDER BY d.dlq_id
        ON CONFLICT (dlq_id) DO NOTHING;
        SELECT count(*) INTO v_count FROM tide.redelivery r WHERE r.pipeline_id = v_pipeline.pipeline_id AND r.dlq_id IS NOT NULL;
        RETURN v_count;
    END IF;
    FOR v_dlq_id IN SELECT d.dlq_id FROM tide.dead_letter d
                     WHERE d.pipeline = p_pipeline AND d.direction = 'reverse' AND d.resolved_at IS NULL ORDER BY d.dlq_id LOOP
        v_count := v_count + tide.relay_dlq_retry(v_dlq_id)::integer;
    END LOOP;
    RETURN v_count;
END $$;

COMMENT ON FUNCTION tide.relay_dlq_retry_all(text) IS
'tide.relay_dlq_retry for every unresolved dead letter of a pipeline, in the order in which they died. Returns how many are queued (forward) or were stored (reverse).';

CREATE OR REPLACE FUNCTION tide.relay_dlq_resolve(p_dlq_id bigint, p_resolution text DEFAULT 'discarded')
RETURNS boolean
LANGUAGE plpgsql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_letter tide.dead_letter := tide._dead_letter(p_dlq_id);
BEGIN
    IF coalesce(p_resolution, '') = '' THEN
        RAISE EXCEPTION 'p_resolution is %', CASE WHEN p_resolution IS NULL THEN 'null' ELSE 'empty' END
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Say in a word or a sentence what became of the message.';
    END IF;
    DELETE FROM tide.redelivery r WHERE r.dlq_id = p_dlq_id;
    UPDATE tide.dead_letter d SET resolved_at = clock_timestamp(), resolution = p_resolution
     WHERE d.dlq_id = p_dlq_id AND d.resolved_at IS NULL;
    RETURN FOUND;
END $$;

COMMENT ON FUNCTION tide.relay_dlq_resolve(bigint, text) IS
'Marks a dead letter as dealt with, without sending it. Returns false when it was resolved already. Error when there is none with this id.';

CREATE OR REPLACE FUNCTION tide.relay_dlq_purge(p_pipeline text DEFAULT NULL, p_older_than interval DEFAULT '0')
RETURNS bigint
LANGUAGE plpgsql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_count bigint;
BEGIN
    IF p_older_than IS NULL OR p_older_than < interval '0' THEN
        RAISE EXCEPTION 'p_older_than is %', coalesce(p_older_than::text, 'null')
            USING ERRCODE = 'invalid_parameter_value', HINT = 'p_older_than is an interval from 0, such as interval ''7 days''.';
    END IF;
    DELETE FROM tide.dead_letter d
     WHERE d.resolved_at <= clock_timestamp() - p_older_than AND (p_pipeline IS NULL OR d.pipeline = p_pipeline);
    GET DIAGNOSTICS v_count = ROW_COUNT;
    RETURN v_count;
END $$;

COMMENT ON FUNCTION tide.relay_dlq_purge(text, interval) IS
'Removes dead letters that were resolved so long ago, of one pipeline or of all; unresolved ones stay. Returns how many.';

-- ---------------------------------------------------------------- replay

-- Rows of an outbox that a replay still has to send, by id.
CREATE OR REPLACE FUNCTION tide._replay_rows(p_table name, p_redelivery tide.redelivery, p_limit integer)
RETURNS TABLE (message_id bigint, created_us bigint, headers text, payload text)
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN QUERY EXECUTE format(
        'SELECT m.id, (extract(epoch FROM m.created_at) * 1000000)::bigint, m.headers::text, m.payload::text
           FROM tide.%I m
          WHERE m.id > $1 AND m.id BETWEEN $2 AND $3 AND m.created_at BETWEEN $4 AND $5
            AND (pg_visible_in_snapshot(m.xid, $6) OR pg_visible_in_snapshot(m.xid, $7) AND m.id <= $8)
          ORDER BY m.id LIMIT $9', p_table)
        USING p_redelivery.done_id, p_redelivery.from_id, p_redelivery.to_id, p_redelivery.from_at, p_redelivery.to_at,
              p_redelivery.old_snapshot, p_redelivery.new_snapshot, p_redelivery.last_id, p_limit;
END $$;

CREATE OR REPLACE FUNCTION tide._replay(p_pipeline text, p_from_id bigint, p_to_id bigint, p_from timestamptz, p_to timestamptz)
RETURNS bigint
LANGUAGE plpgsql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_pipeline   tide.pipeline := tide._pipeline(p_pipeline);
    v_table      name;
    v_redelivery tide.redelivery;
    v_count      bigint;
BEGIN
    IF v_pipeline.direction <> 'forward' THEN
        RAISE EXCEPTION 'pipeline "%" is a reverse pipeline', p_pipeline
            USING ERRCODE = 'wrong_object_type',
                  HINT = 'Messages of an inbox are processed again with tide.replay_inbox_messages.';
    ELSIF p_from_id > p_to_id OR p_from > p_to THEN
        RAISE EXCEPTION 'the range is empty: it ends before it begins'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Give the earlier end first; both ends belong to the range.';
    END IF;
    SELECT o.table_name INTO v_table FROM tide.outbox o WHERE o.outbox_id = v_pipeline.outbox_id;
    SELECT NULL, v_pipeline.pipeline_id, NULL, p_from_id, p_to_id, p_from, p_to, c.old_snapshot, c.new_snapshot, c.last_id, 0, NULL
      INTO v_redelivery
      FROM tide.group_cursor c WHERE c.group_id = v_pipeline.group_id;
    IF NOT FOUND THEN
        RETURN 0;
    END IF;
    SELECT count(*) INTO v_count FROM tide._replay_rows(v_table, v_redelivery, NULL);
    IF v_count > 0 THEN
        INSERT INTO tide.redelivery (pipeline_id, from_id, to_id, from_at, to_at, old_snapshot, new_snapshot, last_id)
        VALUES (v_redelivery.pipeline_id, p_from_id, p_to_id, p_from, p_to,
                v_redelivery.old_snapshot, v_redelivery.new_snapshot, v_redelivery.last_id);
    END IF;
    RETURN v_count;
END $$;

CREATE OR REPLACE FUNCTION tide.relay_replay(p_pipeline text, p_from_id bigint, p_to_id bigint)
RETURNS bigint
LANGUAGE sql VOLATILE AS $$
    SELECT tide._replay(p_pipeline, coalesce(p_from_id, 0), coalesce(p_to_id, 9223372036854775807), '-infinity', 'infinity')
$$;

COMMENT ON FUNCTION tide.relay_replay(text, bigint, bigint) IS
'Sends the messages with ids from p_from_id to p_to_id (null: no limit) through a forward pipeline once more, as far as they were delivered and are still kept. They go before anything new and carry the header tide-redelivery. Returns how many.';

CREATE OR REPLACE FUNCTION tide.relay_replay(p_pipeline text, p_from timestamptz, p_to timestamptz)
RETURNS bigint
LANGUAGE sql VOLATILE AS $$
    SELECT tide._replay(p_pipeline, 0, 9223372036854775807, coalesce(p_from, '-infinity'), coalesce(p_to, 'infinity'))
$$;

COMMENT ON FUNCTION tide.relay_replay(text, timestamptz, timestamptz) IS
'Likewise for messages published from p_from to p_to (null: no limit).';

-- ---------------------------------------------------------------- for relays

-- The next messages of the queue; none when it is empty. A replay that has
-- nothing left is taken off on the way.
CREATE OR REPLACE FUNCTION tide._redelivery_page(p_pipeline_id integer, p_limit integer)
RETURNS TABLE (redelivery_id bigint, message_id bigint, created_us bigint, headers text, payload text)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_table name := (SELECT o.table_name FROM tide.pipeline p JOIN tide.outbox o USING (outbox_id)
                      WHERE p.pipeline_id = p_pipeline_id);
    v_first tide.redelivery;
BEGIN
    LOOP
        SELECT r.* INTO v_first FROM tide.redelivery r WHERE r.pipeline_id = p_pipeline_id ORDER BY r.redelivery_id LIMIT 1;
        IF NOT FOUND THEN
            RETURN;
        END IF;
        IF v_first.dlq_id IS NULL THEN
            RETURN QUERY SELECT v_first.redelivery_id, m.* FROM tide._replay_rows(v_table, v_first, p_limit) m;
        ELSE
            RETURN QUERY
                SELECT r.redelivery_id, d.message_id,
                       coalesce((regexp_match(d.event_id, ':([0-9]+)$'))[1]::bigint, 0), d.headers::text, d.payload::text
                  FROM tide.redelivery r JOIN tide.dead_letter d USING (dlq_id)
                 WHERE r.pipeline_id = p_pipeline_id
                   AND r.redelivery_id < coalesce((SELECT min(n.redelivery_id) FROM tide.redelivery n
                                                    WHERE n.pipeline_id = p_pipeline_id AND n.dlq_id IS NULL), 9223372036854775807)
                 ORDER BY r.redelivery_id LIMIT p_limit;
        END IF;
        IF FOUND THEN
            RETURN;
        END IF;
        DELETE FROM tide.redelivery r WHERE r.redelivery_id = v_first.redelivery_id;
    END LOOP;
END $$;

COMMENT ON FUNCTION tide._redelivery_page(integer, integer) IS
'For relays: the next messages that are to be delivered once more.';

-- What became of a page: p_errors has null for a message that its sink took.
CREATE OR REPLACE FUNCTION tide._redelivered(p_pipeline_id integer, p_epoch bigint, p_redelivery_ids bigint[],
                                  p_message_ids bigint[], p_errors text[])
RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM 1 FROM tide.group_cursor c JOIN tide.pipeline p USING (group_id)
     WHERE p.pipeline_id = p_pipeline_id AND c.epoch = p_epoch FOR SHARE OF c;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'pipeline % is no longer owned under epoch %', p_pipeline_id, p_epoch USING ERRCODE = 'TD001';
    END IF;

    UPDATE tide.dead_letter d
       SET attempts = d.attempts + 1, error = coalesce(u.error, d.error),
           resolved_at = CASE WHEN u.error IS NULL THEN clock_timestamp() END,
           resolution = CASE WHEN u.error IS NULL THEN 'delivered' END
      FROM unnest(p_redelivery_ids, p_message_ids, p_errors) AS u(redelivery_id, message_id, error)
      JOIN tide.redelivery r USING (redelivery_id)
     WHERE d.dlq_id = r.dlq_id;

    -- A replayed message may be refused, as any other.
    INSERT INTO tide.dead_letter AS d (pipeline, direction, message_id, event_id, headers, payload, error)
    SELECT p.name, 'forward', u.message_id, o.name || ':' || m.id || ':' || (extract(epoch FROM m.created_at) * 1000000)::bigint,
           m.headers, m.payload, u.error
      FROM unnest(p_redelivery_ids, p_message_ids, p_errors) AS u(redelivery_id, message_id, error)
      JOIN tide.redelivery r ON r.redelivery_id = u.redelivery_id AND r.dlq_id IS NULL
      JOIN tide.pipeline p ON p.pipeline_id = r.pipeline_id
      JOIN tide.outbox o ON o.outbox_id = p.outbox_id
      JOIN tide.outbox_message m ON m.outbox = o.name AND m.id = u.message_id
     WHERE u.error IS NOT NULL
    ON CONFLICT (pipeline, message_id) WHERE message_id IS NOT NULL
    DO UPDATE SET attempts = d.attempts + 1, error = excluded.error, resolved_at = NULL, resolution = NULL;

    DELETE FROM tide.redelivery r WHERE r.redelivery_id = ANY (p_redelivery_ids) AND r.dlq_id IS NOT NULL;
    UPDATE tide.redelivery r
       SET done_id = (SELECT max(m) FROM unnest(p_message_ids) m)
     WHERE r.redelivery_id = ANY (p_redelivery_ids);
END $$;

COMMENT ON FUNCTION tide._redelivered(integer, bigint, bigint[], bigint[], text[]) IS
'For relays: record what became of a page of tide._redelivery_page; fenced by the epoch.';
