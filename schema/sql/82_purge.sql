-- Retention of rows: inbox messages, dead letters, relays that are gone. In
-- small batches; a row that somebody works on is left to the next time, so
-- nobody waits for this and this waits for nobody.

-- Looks at p_limit messages of an inbox, by id above p_after_id, and removes
-- those past their retention. Returns the id to go on from, null at the end:
-- no message that was received later can be past its retention.
CREATE OR REPLACE FUNCTION tide._purge_inbox(p_inbox_id integer, p_after_id bigint, p_limit integer,
                                  p_now timestamptz DEFAULT clock_timestamp(),
                                  OUT go_on_from bigint, OUT processed bigint, OUT dead bigint)
LANGUAGE plpgsql VOLATILE
SET lock_timeout = '100ms' AS $$
DECLARE
    v_inbox tide.inbox;
BEGIN
    SELECT i.* INTO v_inbox FROM tide.inbox i WHERE i.inbox_id = p_inbox_id;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    EXECUTE format(
        'WITH page AS MATERIALIZED (
             SELECT i.id, i.received_at FROM tide.%1$I i WHERE i.id > $1 ORDER BY i.id LIMIT $2),
         past AS MATERIALIZED (
             SELECT i.id FROM tide.%1$I i JOIN page USING (id)
              WHERE i.processed_at < $3
                 OR i.processed_at IS NULL AND i.retry_count >= $5 AND coalesce(i.failed_at, i.received_at) < $4
                FOR UPDATE OF i SKIP LOCKED),
         gone AS (DELETE FROM tide.%1$I i USING past WHERE i.id = past.id RETURNING i.processed_at)
         SELECT (SELECT max(p.id) FROM page p HAVING count(*) = $2 AND min(p.received_at) < greatest($3, $4)),
                count(g.processed_at), count(*) FILTER (WHERE g.processed_at IS NULL)
           FROM gone g', v_inbox.table_name)
       INTO go_on_from, processed, dead
      USING p_after_id, p_limit, p_now - v_inbox.processed_retention, p_now - v_inbox.dlq_retention, v_inbox.max_retries;
END $$;

COMMENT ON FUNCTION tide._purge_inbox(integer, bigint, integer, timestamptz) IS
'For relays: remove messages past their retention from a page of an inbox.';

CREATE OR REPLACE FUNCTION tide.maintain_inbox(p_name text, p_limit integer DEFAULT 5000)
RETURNS TABLE (processed bigint, dead bigint)
LANGUAGE plpgsql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_inbox tide.inbox := tide._inbox(p_name);
    v_from  bigint := 0;
    v_page  record;
BEGIN
    IF p_limit IS NULL OR p_limit < 1 THEN
        RAISE EXCEPTION 'p_limit is %', coalesce(p_limit::text, 'null')
            USING ERRCODE = 'invalid_parameter_value', HINT = 'p_limit is a number of messages, at least 1.';
    END IF;
    processed := 0;
    dead := 0;
    WHILE v_from IS NOT NULL AND processed + dead < p_limit LOOP
        SELECT * INTO v_page FROM tide._purge_inbox(v_inbox.inbox_id, v_from, least(p_limit - processed - dead, 5000)::integer);
        v_from := v_page.go_on_from;
        processed := processed + v_page.processed;
        dead := dead + v_page.dead;
    END LOOP;
    RETURN NEXT;
END $$;

COMMENT ON FUNCTION tide.maintain_inbox(text, integer) IS
'Removes up to p_limit messages of an inbox that are past their retention: processed ones, and dead ones unless they are kept for ever. A message that is removed is no longer known as a duplicate. Returns how many; relays call the like of it by themselves.';

CREATE OR REPLACE FUNCTION tide.set_dead_letter_retention(p_resolved_hours integer DEFAULT 168, p_unresolved_hours integer DEFAULT 0)
RETURNS void
LANGUAGE plpgsql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF p_resolved_hours IS NULL OR p_resolved_hours NOT BETWEEN 0 AND 876000
       OR p_unresolved_hours IS NULL OR p_unresolved_hours NOT BETWEEN 0 AND 876000 THEN
        RAISE EXCEPTION 'dead-letter retention is % hours, and % hours for unresolved ones',
            coalesce(p_resolved_hours::text, 'null'), coalesce(p_unresolved_hours::text, 'null')
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Both are numbers of hours up to 876000, or 0 to keep dead letters for ever.';
    END IF;
    INSERT INTO tide.dead_letter_retention (resolved, unresolved)
    VALUES (make_interval(hours => nullif(p_resolved_hours, 0)), make_interval(hours => nullif(p_unresolved_hours, 0)))
    ON CONFLICT (only_row) DO UPDATE SET resolved = excluded.resolved, unresolved = excluded.unresolved;
END $$;

COMMENT ON FUNCTION tide.set_dead_letter_retention(integer, integer) IS
'How long the dead letters of pipelines (tide.relay_dlq_list) are kept: after they were resolved, and those that nobody resolved, after they died. 0 keeps them for ever.';

CREATE OR REPLACE FUNCTION tide._purge_dead_letters(p_limit integer, p_now timestamptz DEFAULT clock_timestamp(),
                                         OUT resolved bigint, OUT unresolved bigint)
LANGUAGE sql VOLATILE
SET lock_timeout = '100ms' AS $$
    WITH setting AS (
        SELECT s.resolved, s.unresolved FROM tide.dead_letter_retention s
        UNION ALL
        SELECT interval '168 hours', NULL WHERE NOT EXISTS (SELECT FROM tide.dead_letter_retention)),
    past AS MATERIALIZED (
        SELECT d.dlq_id FROM tide.dead_letter d, setting r
         WHERE (d.resolved_at < p_now - r.resolved OR d.resolved_at IS NULL AND d.created_at < p_now - r.unresolved)
           AND NOT EXISTS (SELECT FROM tide.redelivery q WHERE q.dlq_id = d.dlq_id)
         ORDER BY d.dlq_id LIMIT p_limit
           FOR UPDATE OF d SKIP LOCKED),
    gone AS (DELETE FROM tide.dead_letter d USING past WHERE d.dlq_id = past.dlq_id RETURNING d.resolved_at)
    SELECT count(g.resolved_at), count(*) FILTER (WHERE g.resolved_at IS NULL) FROM gone g
$$;

COMMENT ON FUNCTION tide._purge_dead_letters(integer, timestamptz) IS
'For relays: remove dead letters past their retention.';

-- Relays that died without leaving, unless a pipeline still names one as its
-- owner: whoever looks wants to know who had it.
CREATE OR REPLACE FUNCTION tide._purge_members(p_now timestamptz DEFAULT clock_timestamp())
RETURNS bigint
LANGUAGE sql VOLATILE
SET lock_timeout = '100ms' AS $$
    WITH past AS MATERIALIZED (
        SELECT m.member_id FROM tide.relay_member m
         WHERE m.heartbeat_at < p_now - interval '1 hour'
           AND NOT EXISTS (SELECT FROM tide._held_locks() h WHERE h.classid = 1953064045 AND h.objid = m.member_id)
           AND NOT EXISTS (SELECT FROM tide.pipeline_owner o WHERE o.member_id = m.member_id AND o.released_at IS NULL)
           FOR UPDATE OF m SKIP LOCKED),
    gone AS (DELETE FROM tide.relay_member m USING past WHERE m.member_id = past.member_id RETURNING 1)
    SELECT count(*) FROM gone
$$;

COMMENT ON FUNCTION tide._purge_members(timestamptz) IS
'For relays: forget relays that are gone.';
