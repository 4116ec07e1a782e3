-- How far Kafka topics are read into inboxes. Offsets move in the transaction
-- that stores the messages, so they are right after any crash, and they go on
-- refusing old messages when retention has removed the rows.

-- Where a group stands in sources of an inbox, which get their numbers here.
-- next_offset is null when it was never there; topic_known says whether it
-- stands somewhere in another partition of the same topic.
CREATE OR REPLACE FUNCTION tide._inbox_positions(p_inbox_id integer, p_group text, p_descriptions text[])
RETURNS TABLE (description text, source_ref integer, next_offset bigint, last_time bigint, topic_known boolean)
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RETURN QUERY
        WITH named AS MATERIALIZED (
            SELECT d.description, tide._inbox_source(p_inbox_id, d.description) AS source_ref
              FROM unnest(p_descriptions) d(description))
        SELECT n.description, n.source_ref, p.next_offset, p.last_time,
               EXISTS (SELECT FROM tide.inbox_source s JOIN tide.inbox_position o USING (source_ref)
                        WHERE s.inbox_id = p_inbox_id AND o.consumer_group = p_group
                          AND starts_with(s.description, substring(n.description from '^.*/')))
          FROM named n
          LEFT JOIN tide.inbox_position p ON p.source_ref = n.source_ref AND p.consumer_group = p_group;
END $$;

COMMENT ON FUNCTION tide._inbox_positions(integer, text, text[]) IS
'For relays: where a consumer group stands in topic partitions that feed an inbox.';

-- Stores a batch like tide._inbox_write and moves the group's positions, each
-- from what the relay believes it to be (null: none yet). If one is another,
-- somebody else stored messages of that partition meanwhile, and nothing is
-- stored: the relay reads the positions anew.
CREATE OR REPLACE FUNCTION tide._inbox_write_at(
    p_pipeline_id integer,
    p_epoch       bigint,
    p_event_ids   text[],
    p_dedup_keys  bytea[],
    p_source_refs integer[],
    p_source_seqs bigint[],
    p_sources     text[],
    p_payloads    text[],
    p_headers     text[],
    p_group       text,
    p_refs        integer[],
    p_expected    bigint[],
    p_next        bigint[],
    p_times       bigint[],
    OUT inserted   bigint,
    OUT duplicates bigint)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_moved integer[];
    v_made  integer[];
    v_other record;
BEGIN
    SELECT w.inserted, w.duplicates INTO inserted, duplicates
      FROM tide._inbox_write(p_pipeline_id, p_epoch, p_event_ids, p_dedup_keys, p_source_refs, p_source_seqs,
                             p_sources, p_payloads, p_headers) w;
    -- The inbox's counter row is locked by now: one batch at a time comes here.
    WITH moved AS (
        UPDATE tide.inbox_position p
           SET next_offset = u.next_offset, last_time = u.last_time, updated_at = clock_timestamp()
          FROM unnest(p_refs, p_expected, p_next, p_times) u(source_ref, expected, next_offset, last_time)
         WHERE p.source_ref = u.source_ref AND p.consumer_group = p_group AND p.next_offset = u.expected
        RETURNING p.source_ref)
    SELECT coalesce(array_agg(m.source_ref), '{}') INTO v_moved FROM moved m;
    IF cardinality(v_moved) < cardinality(p_refs) THEN
        WITH made AS (
            INSERT INTO tide.inbox_position (source_ref, consumer_group, next_offset, last_time)
            SELECT u.source_ref, p_group, u.next_offset, u.last_time
              FROM unnest(p_refs, p_expected, p_next, p_times) u(source_ref, expected, next_offset, last_time)
             WHERE u.expected IS NULL
            ON CONFLICT DO NOTHING
            RETURNING source_ref)
        SELECT coalesce(array_agg(m.source_ref), '{}') INTO v_made FROM made m;
        SELECT s.description, u.expected, p.next_offset INTO v_other
          FROM unnest(p_refs, p_expected) u(source_ref, expected)
          JOIN tide.inbox_source s USING (source_ref)
          LEFT JOIN tide.inbox_position p ON p.source_ref = u.source_ref AND p.consumer_group = p_group
         WHERE u.source_ref <> ALL (v_moved || v_made)
         LIMIT 1;
        IF FOUND THEN
            RAISE EXCEPTION 'the position of consumer group "%" in % is %, not %', p_group, v_other.description,
                coalesce(v_other.next_offset::text, 'forgotten'), coalesce(v_other.expected::text, 'new')
                USING ERRCODE = 'TD005', DETAIL = 'Somebody else moved it meanwhile; nothing of this batch was stored.';
        END IF;
    END IF;
END $$;

COMMENT ON FUNCTION tide._inbox_write_at(integer, bigint, text[], bytea[], integer[], bigint[], text[], text[], text[],
                                         text, integer[], bigint[], bigint[], bigint[]) IS
'For relays: store a batch of incoming messages and move the positions in their topic partitions, or neither.';

CREATE OR REPLACE FUNCTION tide.relay_forget_position(p_name text, p_topic text DEFAULT NULL, p_as_new boolean DEFAULT false)
RETURNS integer
LANGUAGE plpgsql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_pipeline tide.pipeline := tide._pipeline(p_name);
    v_refs     integer[];
BEGIN
    IF v_pipeline.direction <> 'reverse' OR v_pipeline.connector <> 'kafka' THEN
        RAISE EXCEPTION 'pipeline "%" does not read from Kafka', p_name
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Only pipelines with p_source => ''kafka'' keep offsets of topics.';
    ELSIF p_as_new IS NULL THEN
        RAISE EXCEPTION 'p_as_new is null' USING ERRCODE = 'null_value_not_allowed', HINT = 'Pass true or false.';
    END IF;
    WITH forgotten AS (
        DELETE FROM tide.inbox_position p
         USING tide.inbox_source s
         WHERE s.source_ref = p.source_ref AND s.inbox_id = v_pipeline.inbox_id
           AND p.consumer_group = coalesce(v_pipeline.config ->> 'consumer_group',
                                         'pg-tide-' || coalesce(v_pipeline.first_name, p_name))
           AND (p_topic IS NULL OR split_part(s.description, '/', 2) = p_topic)
        RETURNING p.source_ref)
    SELECT coalesce(array_agg(f.source_ref), '{}') INTO v_refs FROM forgotten f;
    IF p_topic IS NOT NULL AND v_refs = '{}' THEN
        RAISE EXCEPTION 'pipeline "%" has no position in topic "%"', p_name, p_topic
            USING ERRCODE = 'no_data_found',
                  HINT = format('It stands in: SELECT s.description, p.next_offset FROM tide.inbox_position p JOIN tide.inbox_source s USING (source_ref) WHERE s.inbox_id = %s.', v_pipeline.inbox_id);
    END IF;
    -- Under another name the old rows no longer refuse messages by position.
    IF p_as_new THEN
        UPDATE tide.inbox_source s
           SET description = s.description || format(' until %s #%s', clock_timestamp(), s.source_ref)
         WHERE s.source_ref = ANY (v_refs);
        -- From the beginning, and not from what was committed for the old one.
        WITH anew AS (
            INSERT INTO tide.inbox_source (inbox_id, description)
            SELECT s.inbox_id, split_part(s.description, ' until ', 1)
              FROM tide.inbox_source s WHERE s.source_ref = ANY (v_refs)
            RETURNING source_ref)
        INSERT INTO tide.inbox_position (source_ref, consumer_group, next_offset)
        SELECT a.source_ref, coalesce(v_pipeline.config ->> 'consumer_group', 'pg-tide-' || p_name), -1 FROM anew a;
    END IF;
    RETURN cardinality(v_refs);
END $$;

COMMENT ON FUNCTION tide.relay_forget_position(text, text, boolean) IS
'Forgets how far a pipeline has read its Kafka topics, or one of them: it goes on from the group''s offset in Kafka, or from its option start. Messages that the inbox still has are refused by their position. With p_as_new, for a topic that was deleted and made anew, it is read from its beginning and nothing is refused by position. Returns the number of partitions.';
