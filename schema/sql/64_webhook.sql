-- Requests over HTTP that land in an inbox (docs/design/from-webhooks.md).
--
-- Any relay of the group may store them, whoever owns the pipeline. The fence is
-- the pipeline's own row: enabled, and still the one that the relay read. It is
-- locked until the end of the transaction, so that whoever disables, changes or
-- deletes the pipeline waits for what is being stored, and nothing comes after.

-- Acts for its owner: to lock a row takes the right to change it.
CREATE OR REPLACE FUNCTION tide._webhook_fence(p_pipeline_id integer, p_version bigint)
RETURNS void
LANGUAGE plpgsql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM 1 FROM tide.pipeline p
     WHERE p.pipeline_id = p_pipeline_id AND p.enabled AND p.direction = 'reverse' AND p.connector = 'webhook'
       AND p.xmin::text::bigint = p_version
       FOR SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'pipeline % was changed, disabled or deleted since its row had version %', p_pipeline_id, p_version
            USING ERRCODE = 'TD006';
    END IF;
END $$;

COMMENT ON FUNCTION tide._webhook_fence(integer, bigint) IS
'For relays: an error unless the webhook pipeline is enabled and its row has this version (xmin); it stays so until the end of the transaction.';

CREATE OR REPLACE FUNCTION tide._webhook_count(p_pipeline_id integer, p_messages bigint, p_duplicates bigint, p_dead_letters bigint)
RETURNS void
LANGUAGE sql VOLATILE AS $$
    INSERT INTO tide.webhook_counter AS c (pipeline_id, messages, duplicates, dead_letters)
    VALUES (p_pipeline_id, p_messages, p_duplicates, p_dead_letters)
    ON CONFLICT (pipeline_id) DO UPDATE
       SET messages = c.messages + excluded.messages, duplicates = c.duplicates + excluded.duplicates,
           dead_letters = c.dead_letters + excluded.dead_letters
$$;

-- Stores a batch as tide._inbox_store does. A request has no position.
CREATE OR REPLACE FUNCTION tide._webhook_write(
    p_pipeline_id integer,
    p_version     bigint,
    p_event_ids   text[],
    p_dedup_keys  bytea[],
    p_sources     text[],
    p_payloads    text[],
    p_headers     text[],
    OUT inserted   bigint,
    OUT duplicates bigint)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_size constant integer[] := ARRAY[cardinality(p_payloads)];
BEGIN
    PERFORM tide._webhook_fence(p_pipeline_id, p_version);
    SELECT s.inserted, s.duplicates INTO inserted, duplicates
      FROM tide._inbox_store(p_pipeline_id, p_event_ids, p_dedup_keys, array_fill(NULL::integer, v_size),
                             array_fill(NULL::bigint, v_size), p_sources, p_payloads, p_headers) s;
    PERFORM tide._webhook_count(p_pipeline_id, inserted, duplicates, 0);
END $$;

COMMENT ON FUNCTION tide._webhook_write(integer, bigint, text[], bytea[], text[], text[], text[]) IS
'For relays: store a batch of requests once each, fenced by the version of the pipeline''s row.';

-- Sets a request aside with its bytes; one that brings an id, once while nobody
-- has dealt with it. Returns whether it was set aside now.
CREATE OR REPLACE FUNCTION tide._webhook_dead_letter(
    p_pipeline_id integer,
    p_version     bigint,
    p_event_id    text,
    p_source      text,
    p_body        bytea,
    p_headers     text,
    p_error       text)
RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM tide._webhook_fence(p_pipeline_id, p_version);
    -- Locks the counter's row, so that no other relay looks at the same time.
    PERFORM tide._webhook_count(p_pipeline_id, 0, 0, 0);
    INSERT INTO tide.dead_letter (pipeline, direction, event_id, source, body, headers, error)
    SELECT p.name, 'reverse', p_event_id, p_source, p_body, p_headers::jsonb, p_error
      FROM tide.pipeline p
     WHERE p.pipeline_id = p_pipeline_id
       AND NOT EXISTS (SELECT FROM tide.dead_letter d
                        WHERE d.pipeline = p.name AND d.resolved_at IS NULL AND d.direction = 'reverse' AND d.event_id = p_event_id);
    IF NOT FOUND THEN
        PERFORM tide._webhook_count(p_pipeline_id, 0, 1, 0);
        RETURN false;
    END IF;
    PERFORM tide._webhook_count(p_pipeline_id, 0, 0, 1);
    RETURN true;
END $$;

COMMENT ON FUNCTION tide._webhook_dead_letter(integer, bigint, text, text, bytea, text, text) IS
'For relays: set a request aside that cannot be stored, fenced as tide._webhook_write.';
