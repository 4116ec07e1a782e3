-- Working on inbox messages. A message is pending while processed_at is null
-- and retry_count is below the inbox's max_retries; from there on it is a dead
-- letter until it is replayed.

CREATE OR REPLACE FUNCTION tide._no_such_event(p_inbox tide.inbox, p_event_id text)
RETURNS void
LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF p_event_id IS NULL THEN
        RAISE EXCEPTION 'event id is null' USING ERRCODE = 'null_value_not_allowed',
            HINT = format('Pass the event_id of a row in tide.%I.', p_inbox.table_name);
    END IF;
    RAISE EXCEPTION 'inbox "%" has no message with event id "%"', p_inbox.name, p_event_id
        USING ERRCODE = 'no_data_found',
              HINT = format('Look for it with SELECT event_id FROM tide.%I ORDER BY id.', p_inbox.table_name);
END $$;

CREATE OR REPLACE FUNCTION tide.inbox_mark_processed(p_name text, p_event_id text)
RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_inbox tide.inbox := tide._inbox(p_name);
    v_count bigint;
BEGIN
    EXECUTE format('UPDATE tide.%I SET processed_at = clock_timestamp(), claimed_until = NULL'
                   ' WHERE event_id = $1 AND processed_at IS NULL', v_inbox.table_name) USING p_event_id;
    GET DIAGNOSTICS v_count = ROW_COUNT;
    IF v_count = 0 THEN
        EXECUTE format('SELECT count(*) FROM tide.%I WHERE event_id = $1', v_inbox.table_name) INTO v_count USING p_event_id;
        IF v_count = 0 THEN
            PERFORM tide._no_such_event(v_inbox, p_event_id);
        END IF;
        RETURN false;
    END IF;
    RETURN true;
END $$;

COMMENT ON FUNCTION tide.inbox_mark_processed(text, text) IS
'Marks a message as processed, best in the transaction that did the work. Returns true, or false when it was marked already. Error when there is no such event id.';

CREATE OR REPLACE FUNCTION tide.inbox_mark_failed(p_name text, p_event_id text, p_error text)
RETURNS integer
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_inbox   tide.inbox := tide._inbox(p_name);
    v_retries integer;
    v_count   bigint;
BEGIN
    EXECUTE format('UPDATE tide.%I SET retry_count = retry_count + 1, last_error = $2, claimed_until = NULL'
                   ' WHERE event_id = $1 AND processed_at IS NULL RETURNING retry_count', v_inbox.table_name)
       INTO v_retries USING p_event_id, p_error;
    IF v_retries IS NULL THEN
        EXECUTE format('SELECT count(*) FROM tide.%I WHERE event_id = $1', v_inbox.table_name) INTO v_count USING p_event_id;
        IF v_count = 0 THEN
            PERFORM tide._no_such_event(v_inbox, p_event_id);
        END IF;
        RAISE EXCEPTION 'message "%" of inbox "%" is already processed', p_event_id, p_name
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = format('To process it again: SELECT tide.replay_inbox_messages(%L, ARRAY[%L]).', p_name, p_event_id);
    END IF;
    RETURN v_retries;
END $$;

COMMENT ON FUNCTION tide.inbox_mark_failed(text, text, text) IS
'Counts a failed attempt and keeps its error; returns the new retry_count. At max_retries the message is a dead letter. Error when there is no such event id, or the message is processed.';

CREATE OR REPLACE FUNCTION tide.inbox_claim(p_name text, p_limit integer DEFAULT 10, p_visibility interval DEFAULT '30 seconds')
RETURNS TABLE (id bigint, event_id text, source text, payload jsonb, headers jsonb,
               received_at timestamptz, retry_count integer, claimed_until timestamptz)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_inbox tide.inbox := tide._inbox(p_name);
BEGIN
    IF p_limit IS NULL OR p_limit < 1 THEN
        RAISE EXCEPTION 'p_limit is %', coalesce(p_limit::text, 'null')
            USING ERRCODE = 'invalid_parameter_value', HINT = 'p_limit is a number of messages, at least 1.';
    ELSIF p_visibility IS NULL OR p_visibility <= interval '0' THEN
        RAISE EXCEPTION 'p_visibility is %', coalesce(p_visibility::text, 'null')
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'p_visibility is how long the claim holds, for example interval ''30 seconds''.';
    END IF;
    RETURN QUERY EXECUTE format(
        'WITH free AS MATERIALIZED (
             SELECT i.id FROM tide.%1$I i
              WHERE i.processed_at IS NULL AND i.retry_count < $1
                AND (i.next_attempt_at IS NULL OR i.next_attempt_at <= clock_timestamp())
                AND (i.claimed_until IS NULL OR i.claimed_until <= clock_timestamp())
              ORDER BY i.id LIMIT $2
                FOR UPDATE SKIP LOCKED),
         claimed AS (
             UPDATE tide.%1$I i SET claimed_until = clock_timestamp() + $3
               FROM free WHERE i.id = free.id
             RETURNING i.id, i.event_id, i.source, i.payload, i.headers, i.received_at, i.retry_count, i.claimed_until)
         SELECT * FROM claimed c ORDER BY c.id', v_inbox.table_name)
        USING v_inbox.max_retries, p_limit, p_visibility;
END $$;

COMMENT ON FUNCTION tide.inbox_claim(text, integer, interval) IS
'Claims up to p_limit pending messages in id order and returns them; other callers do not get them for p_visibility. Then mark each processed or failed; an unmarked one comes again afterwards.';

CREATE OR REPLACE FUNCTION tide.replay_inbox_messages(p_name text, p_event_ids text[])
RETURNS integer
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_inbox tide.inbox := tide._inbox(p_name);
    v_count integer;
BEGIN
    IF p_event_ids IS NULL THEN
        RAISE EXCEPTION 'event ids are null' USING ERRCODE = 'null_value_not_allowed',
            HINT = 'Pass an array of event ids: ARRAY[''payments:nats:seq-4''].';
    END IF;
    EXECUTE format('UPDATE tide.%I SET retry_count = 0, last_error = NULL, processed_at = NULL,'
                   ' claimed_until = NULL, next_attempt_at = NULL'
                   ' WHERE event_id = ANY ($1)', v_inbox.table_name) USING p_event_ids;
    GET DIAGNOSTICS v_count = ROW_COUNT;
    RETURN v_count;
END $$;

COMMENT ON FUNCTION tide.replay_inbox_messages(text, text[]) IS
'Makes messages pending again, processed and dead ones alike: retry_count 0, no error. Returns how many were replayed; unknown ids are not counted.';
