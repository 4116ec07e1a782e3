-- Working on inbox messages. A message is pending while processed_at is null
-- and retry_count is below the inbox's max_retries; from there on it is a dead
-- letter until it is replayed.
--
-- A claim is a token on the rows of one tide.inbox_claim, until claimed_until.
-- It stays on a processed row, and says who processed it.

CREATE OR REPLACE FUNCTION tide._no_such_event(p_inbox tide.inbox, p_event_ids text[])
RETURNS void
LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF array_position(p_event_ids, NULL) IS NOT NULL THEN
        RAISE EXCEPTION 'event id is null' USING ERRCODE = 'null_value_not_allowed',
            HINT = format('Pass the event_id of a row in tide.%I.', p_inbox.table_name);
    END IF;
    RAISE EXCEPTION 'inbox "%" has no message with event id %', p_inbox.name, tide._quoted_list(p_event_ids)
        USING ERRCODE = 'no_data_found',
              HINT = format('Look for it with SELECT event_id FROM tide.%I ORDER BY id.', p_inbox.table_name);
END $$;

CREATE OR REPLACE FUNCTION tide._claim_lost(p_inbox tide.inbox, p_event_ids text[], p_claim uuid)
RETURNS void
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RAISE EXCEPTION 'claim % on message % of inbox "%" is not valid any more: it ran out, and others may have claimed or processed it',
        p_claim, tide._quoted_list(p_event_ids), p_inbox.name
        USING ERRCODE = 'TD003',
              HINT = 'Undo what was done with the message (ROLLBACK) and claim again. If work takes long, claim with a longer p_visibility or call tide.inbox_extend_claim.';
END $$;

-- Locks messages, in the order of their ids, and returns the event ids of those
-- that are not processed. Error for unknown ones and, when a claim is given,
-- for those that it does not hold. Processed under the same claim is no error.
CREATE OR REPLACE FUNCTION tide._lock_events(p_inbox tide.inbox, p_event_ids text[], p_claim uuid)
RETURNS text[]
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_known text[];
    v_lost  text[];
    v_open  text[];
BEGIN
    EXECUTE format(
        'SELECT array_agg(i.event_id), array_agg(i.event_id) FILTER (WHERE i.processed_at IS NULL),
                array_agg(i.event_id) FILTER (WHERE $2 IS DISTINCT FROM i.claim
                                                 OR i.processed_at IS NULL AND (i.claimed_until > clock_timestamp()) IS NOT TRUE)
           FROM (SELECT * FROM tide.%I WHERE event_id = ANY ($1) ORDER BY id FOR UPDATE) i', p_inbox.table_name)
       INTO v_known, v_open, v_lost USING p_event_ids, p_claim;
    IF EXISTS (SELECT FROM unnest(p_event_ids) e WHERE e IS NULL OR e <> ALL (coalesce(v_known, '{}'))) THEN
        PERFORM tide._no_such_event(p_inbox, ARRAY(SELECT e FROM unnest(p_event_ids) e
                                                    WHERE e IS NULL OR e <> ALL (coalesce(v_known, '{}'))));
    ELSIF p_claim IS NOT NULL AND v_lost IS NOT NULL THEN
        PERFORM tide._claim_lost(p_inbox, v_lost, p_claim);
    END IF;
    RETURN coalesce(v_open, '{}');
END $$;

CREATE OR REPLACE FUNCTION tide.inbox_mark_processed(p_name text, p_event_ids text[], p_claim uuid DEFAULT NULL)
RETURNS integer
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_inbox tide.inbox := tide._inbox(p_name);
    v_open  text[];
BEGIN
    IF p_event_ids IS NULL THEN
        RAISE EXCEPTION 'event ids are null' USING ERRCODE = 'null_value_not_allowed',
            HINT = 'Pass an array of event ids: ARRAY[''payments:nats:seq-4''].';
    END IF;
    v_open := tide._lock_events(v_inbox, p_event_ids, p_claim);
    EXECUTE format('UPDATE tide.%I SET processed_at = clock_timestamp(), claimed_until = NULL WHERE event_id = ANY ($1)',
                   v_inbox.table_name) USING v_open;
    RETURN cardinality(v_open);
END $$;

COMMENT ON FUNCTION tide.inbox_mark_processed(text, text[], uuid) IS
'Marks many messages as processed, best in the transaction that did the work. Returns how many were not yet. Error, and nothing is marked, when there is no such event id; with p_claim (of tide.inbox_claim) also when a claim ran out (SQLSTATE TD003).';

CREATE OR REPLACE FUNCTION tide.inbox_mark_processed(p_name text, p_event_id text, p_claim uuid DEFAULT NULL)
RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_inbox tide.inbox := tide._inbox(p_name);
    v_count bigint;
BEGIN
    EXECUTE format('UPDATE tide.%I SET processed_at = clock_timestamp(), claimed_until = NULL'
                   ' WHERE event_id = $1 AND processed_at IS NULL'
                   '   AND ($2 IS NULL OR claim = $2 AND claimed_until > clock_timestamp())', v_inbox.table_name)
      USING p_event_id, p_claim;
    GET DIAGNOSTICS v_count = ROW_COUNT;
    IF v_count = 0 THEN
        -- Says why, or that it is processed.
        PERFORM tide._lock_events(v_inbox, ARRAY[p_event_id], p_claim);
        RETURN false;
    END IF;
    RETURN true;
END $$;

COMMENT ON FUNCTION tide.inbox_mark_processed(text, text, uuid) IS
'Marks a message as processed, best in the transaction that did the work. Returns true, or false when it was marked already. Error when there is no such event id; with p_claim (of tide.inbox_claim) also when the claim ran out (SQLSTATE TD003).';

CREATE OR REPLACE FUNCTION tide.inbox_mark_failed(p_name text, p_event_id text, p_error text,
                                       p_retry_after interval DEFAULT NULL, p_claim uuid DEFAULT NULL)
RETURNS integer
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_inbox   tide.inbox := tide._inbox(p_name);
    v_retries integer;
BEGIN
    IF p_retry_after < interval '0' THEN
        RAISE EXCEPTION 'p_retry_after is %', p_retry_after
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'p_retry_after is an interval from 0, such as interval ''5 minutes''; without it the pause doubles with each failure, from 1 second to 1 hour.';
    END IF;
    IF tide._lock_events(v_inbox, ARRAY[p_event_id], p_claim) = '{}' THEN
        RAISE EXCEPTION 'message "%" of inbox "%" is already processed', p_event_id, p_name
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = format('To process it again: SELECT tide.replay_inbox_messages(%L, ARRAY[%L]).', p_name, p_event_id);
    END IF;
    EXECUTE format('UPDATE tide.%I SET retry_count = retry_count + 1, last_error = $2, failed_at = clock_timestamp(),'
                   ' next_attempt_at = clock_timestamp()'
                   '     + coalesce($3, least(interval ''1 hour'', interval ''1 second'' * 2 ^ least(retry_count, 12))),'
                   ' claimed_until = NULL, claim = NULL'
                   ' WHERE event_id = $1 RETURNING retry_count', v_inbox.table_name)
       INTO v_retries USING p_event_id, p_error, p_retry_after;
    RETURN v_retries;
END $$;

COMMENT ON FUNCTION tide.inbox_mark_failed(text, text, text, interval, uuid) IS
'Counts a failed attempt and keeps its error; returns the new retry_count. tide.inbox_claim gives the message again after p_retry_after; without it after 1 s, 2 s, 4 s ..., 1 h at most. At max_retries the message is a dead letter. Error when there is no such event id, or the message is processed; with p_claim also when the claim ran out (SQLSTATE TD003).';

-- What messages i are kept in order by: a header or a field of the payload.
CREATE OR REPLACE FUNCTION tide._order_key(p_order_key text)
RETURNS text
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF p_order_key ~ '^headers\..+$' THEN
        RETURN format('i.headers ->> %L', substr(p_order_key, 9));
    ELSIF p_order_key ~ '^payload\.[^.]+(\.[^.]+)*$' THEN
        RETURN format('i.payload #>> %L', string_to_array(substr(p_order_key, 9), '.'));
    END IF;
    RAISE EXCEPTION 'p_order_key "%" names no place', p_order_key
        USING ERRCODE = 'invalid_parameter_value', HINT = 'Write ''headers.NAME'' or ''payload.PATH'', such as ''payload.customer.id''.';
END $$;

CREATE OR REPLACE FUNCTION tide.inbox_claim(p_name text, p_limit integer DEFAULT 10, p_visibility interval DEFAULT '30 seconds',
                                 p_order_key text DEFAULT NULL)
RETURNS TABLE (id bigint, event_id text, source text, payload jsonb, headers jsonb,
               received_at timestamptz, retry_count integer, claimed_until timestamptz, claim uuid)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_inbox tide.inbox := tide._inbox(p_name);
    v_key   text := CASE WHEN p_order_key IS NOT NULL THEN tide._order_key(p_order_key) END;
    v_first text := '';
    v_join  text := '';
BEGIN
    IF p_limit IS NULL OR p_limit < 1 THEN
        RAISE EXCEPTION 'p_limit is %', coalesce(p_limit::text, 'null')
            USING ERRCODE = 'invalid_parameter_value', HINT = 'p_limit is a number of messages, at least 1.';
    END IF;
    PERFORM tide._check_visibility(p_visibility);
    -- The oldest of each key, where none is claimed or waits for its retry; a
    -- message without the key stands for itself. One that another call is
    -- claiming just now is its key's oldest here as well, and locked.
    IF v_key IS NOT NULL THEN
        v_first := format(
            'first AS MATERIALIZED (
                 SELECT min(i.id) AS id FROM tide.%1$I i
                  WHERE i.processed_at IS NULL AND i.retry_count < $1
                  GROUP BY %2$s, CASE WHEN %2$s IS NULL THEN i.id END
                 HAVING NOT bool_or(coalesce(i.claimed_until > $4, false) OR coalesce(i.next_attempt_at > $4, false))),',
            v_inbox.table_name, v_key);
        v_join := 'JOIN first f ON f.id = i.id';
    END IF;
    RETURN QUERY EXECUTE format(
        'WITH %2$s free AS MATERIALIZED (
             SELECT i.id FROM tide.%1$I i %3$s
              WHERE i.processed_at IS NULL AND i.retry_count < $1
                AND (i.next_attempt_at IS NULL OR i.next_attempt_at <= $4)
                AND (i.claimed_until IS NULL OR i.claimed_until <= $4)
              ORDER BY i.id LIMIT $2
                FOR UPDATE OF i SKIP LOCKED),
         claimed AS (
             UPDATE tide.%1$I i SET claimed_until = clock_timestamp() + $3, claim = $5
               FROM free WHERE i.id = free.id
             RETURNING i.id, i.event_id, i.source, i.payload, i.headers, i.received_at, i.retry_count, i.claimed_until, i.claim)
         SELECT * FROM claimed c ORDER BY c.id', v_inbox.table_name, v_first, v_join)
        USING v_inbox.max_retries, p_limit, p_visibility, clock_timestamp(), gen_random_uuid();
END $$;

COMMENT ON FUNCTION tide.inbox_claim(text, integer, interval, text) IS
'Claims up to p_limit pending messages in id order and returns them; other callers do not get them for p_visibility. Then mark each processed or failed, with the claim returned to be refused when it ran out; an unmarked one comes again afterwards. p_order_key (''headers.NAME'' or ''payload.PATH'') keeps the order of each key: only its oldest pending message is claimed, and none while one of them is claimed or waits for its retry.';

CREATE OR REPLACE FUNCTION tide.inbox_extend_claim(p_name text, p_event_ids text[], p_claim uuid,
                                        p_visibility interval DEFAULT '30 seconds')
RETURNS integer
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_inbox tide.inbox := tide._inbox(p_name);
    v_open  text[];
BEGIN
    PERFORM tide._check_visibility(p_visibility);
    IF p_event_ids IS NULL OR p_claim IS NULL THEN
        RAISE EXCEPTION '% null', CASE WHEN p_claim IS NULL THEN 'claim is' ELSE 'event ids are' END
            USING ERRCODE = 'null_value_not_allowed', HINT = 'Pass the event ids and the claim that tide.inbox_claim returned.';
    END IF;
    v_open := tide._lock_events(v_inbox, p_event_ids, p_claim);
    EXECUTE format('UPDATE tide.%I SET claimed_until = clock_timestamp() + $2 WHERE event_id = ANY ($1)', v_inbox.table_name)
      USING v_open, p_visibility;
    RETURN cardinality(v_open);
END $$;

COMMENT ON FUNCTION tide.inbox_extend_claim(text, text[], uuid, interval) IS
'Makes a claim hold for p_visibility from now on these messages; those that are processed are left out. Returns how many. A claim that ran out is an error (SQLSTATE TD003).';

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
    EXECUTE format('UPDATE tide.%I SET retry_count = 0, last_error = NULL, failed_at = NULL, processed_at = NULL,'
                   ' claimed_until = NULL, claim = NULL, next_attempt_at = NULL'
                   ' WHERE event_id = ANY ($1)', v_inbox.table_name) USING p_event_ids;
    GET DIAGNOSTICS v_count = ROW_COUNT;
    RETURN v_count;
END $$;

COMMENT ON FUNCTION tide.replay_inbox_messages(text, text[]) IS
'Makes messages pending again, processed and dead ones alike: retry_count 0, no error. Returns how many were replayed; unknown ids are not counted.';
