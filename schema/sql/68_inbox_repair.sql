-- The same for inboxes: what was changed by hand, found and put right.

-- One row per fault, in the order in which they are repaired.
CREATE OR REPLACE FUNCTION tide._inbox_faults(p_name text DEFAULT NULL)
RETURNS TABLE (inbox_name text, step integer, fault text, statement text)
LANGUAGE sql STABLE AS $$
    WITH inbox AS MATERIALIZED (
        SELECT i.inbox_id, i.name, i.table_name, c.oid, CASE WHEN c.oid IS NOT NULL THEN c.relkind = 'r' AND k.number = 16 END AS fits,
               k.id, k.event_id, k.dedup_key, k.source_ref, k.source_seq
          FROM tide.inbox i
          LEFT JOIN pg_catalog.pg_class c ON c.relname = i.table_name AND c.relnamespace = 'tide'::regnamespace
         CROSS JOIN LATERAL (
               SELECT count(*) AS number,
                      max(t.attnum) FILTER (WHERE t.attname = 'id') AS id,
                      max(t.attnum) FILTER (WHERE t.attname = 'event_id') AS event_id,
                      max(t.attnum) FILTER (WHERE t.attname = 'dedup_key') AS dedup_key,
                      max(t.attnum) FILTER (WHERE t.attname = 'source_ref') AS source_ref,
                      max(t.attnum) FILTER (WHERE t.attname = 'source_seq') AS source_seq
                 FROM pg_catalog.pg_attribute t
                WHERE t.attrelid = c.oid AND t.attnum > 0 AND NOT t.attisdropped
                  AND t.attname IN ('id', 'event_id', 'source', 'payload', 'headers', 'received_at', 'processed_at', 'retry_count',
                                    'last_error', 'next_attempt_at', 'claimed_until', 'dedup_key', 'source_ref', 'source_seq',
                                    'claim', 'failed_at')) k
         WHERE p_name IS NULL OR i.name = p_name),
    fault(name, step, fault, statement) AS (
        SELECT n.name, 1, 'the row in tide.inbox is missing', NULL
          FROM (SELECT p_name AS name
                UNION
                SELECT m.object FROM tide.managed_object m WHERE m.kind = 'inbox') n
         WHERE NOT EXISTS (SELECT FROM tide.inbox i WHERE i.name = n.name)
           AND to_regclass('tide.' || quote_ident(tide._table_name(n.name, '_inbox'))) IS NOT NULL
        UNION ALL
        SELECT i.name, 2, format('table tide.%I is missing', i.table_name), NULL
          FROM inbox i WHERE i.oid IS NULL
        UNION ALL
        SELECT i.name, 3, format('tide.%I is not the table of an inbox', i.table_name), NULL
          FROM inbox i WHERE NOT i.fits
        UNION ALL
        SELECT i.name, 4, 'the row in tide.inbox_counter is missing', NULL
          FROM inbox i WHERE NOT EXISTS (SELECT FROM tide.inbox_counter c WHERE c.inbox_id = i.inbox_id)
        UNION ALL
        SELECT i.name, 5, format('the %sindex on %s%s is missing', CASE WHEN w.is_unique THEN 'unique ' ELSE '' END, w.keys,
                                 CASE WHEN NOT w.is_unique THEN ' of pending messages' ELSE '' END), w.statement
          FROM inbox i
         CROSS JOIN LATERAL (VALUES ('id', i.id::text), ('event_id', i.event_id::text), ('dedup_key', i.dedup_key::text),
                                    ('source_ref, source_seq', i.source_ref || ' ' || i.source_seq)) k(keys, numbers)
          JOIN tide._inbox_indexes() w USING (keys)
         WHERE i.fits AND NOT EXISTS (SELECT FROM pg_catalog.pg_index x
                                       WHERE x.indrelid = i.oid AND x.indisvalid AND x.indkey::text = k.numbers
                                         AND x.indisunique = w.is_unique AND (x.indpred IS NOT NULL) = w.partial)
        UNION ALL
        SELECT i.name, 6, format('%s %s not all rights on its table', string_agg(r.rolname, ', ' ORDER BY r.rolname),
                                 CASE count(*) WHEN 1 THEN 'has' ELSE 'have' END), NULL
          FROM inbox i
         CROSS JOIN pg_catalog.pg_roles r
         WHERE i.fits AND r.rolname IN ('tide_admin', 'tide_relay')
           AND NOT (pg_catalog.has_table_privilege(r.oid, i.oid, 'SELECT')
                    AND CASE r.rolname WHEN 'tide_relay'
                        THEN pg_catalog.has_table_privilege(r.oid, i.oid, 'INSERT')
                             AND pg_catalog.has_table_privilege(r.oid, i.oid, 'UPDATE')
                             AND pg_catalog.has_table_privilege(r.oid, i.oid, 'DELETE')
                        ELSE pg_catalog.has_column_privilege(r.oid, i.oid, 'processed_at', 'UPDATE')
                             AND pg_catalog.has_column_privilege(r.oid, i.oid, 'claim', 'UPDATE') END)
         GROUP BY i.name)
    SELECT f.* FROM fault f WHERE p_name IS NULL OR f.name = p_name ORDER BY f.name, f.step, f.fault
$$;

CREATE OR REPLACE FUNCTION tide.inbox_faults()
RETURNS TABLE (inbox_name text, fault text)
LANGUAGE plpgsql STABLE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- Planned once for a session; that would take longer than to do it.
    RETURN QUERY SELECT f.inbox_name, f.fault FROM tide._inbox_faults() f;
END $$;

COMMENT ON FUNCTION tide.inbox_faults() IS
'What was changed by hand on inboxes so that they do not work as they should; one row for each, none when all is well. tide.inbox_repair puts it right. An inbox without a row is found when its table is there and a resource manages it. Reads catalogues only.';

-- Counts go on above what the messages in the table carry.
CREATE OR REPLACE FUNCTION tide._restore_inbox_counter(p_inbox tide.inbox)
RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_last bigint;
    v_rows bigint;
BEGIN
    EXECUTE format('SELECT coalesce(max(substring(m.event_id FROM '':seq-(\d{1,18})$'')::bigint)'
                   '                FILTER (WHERE starts_with(m.event_id, $1)), 0), count(*) FROM tide.%I m', p_inbox.table_name)
       INTO v_last, v_rows USING p_inbox.name || ':';
    INSERT INTO tide.inbox_counter (inbox_id, last_seq, accepted) VALUES (p_inbox.inbox_id, v_last, greatest(v_last, v_rows))
    ON CONFLICT DO NOTHING;
    RETURN v_last;
END $$;

-- Repairs one fault and says so.
CREATE OR REPLACE FUNCTION tide._repair_inbox(p_name text, p_max_retries integer, p_processed_retention_hours integer,
                                   p_dlq_retention_hours integer, p_step integer, p_fault text, p_statement text)
RETURNS text
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_inbox tide.inbox;
BEGIN
    IF p_step = 1 THEN
        -- Somebody else may have done it meanwhile.
        PERFORM FROM tide._add_inbox(p_name, p_max_retries, p_processed_retention_hours, p_dlq_retention_hours);
        RETURN CASE WHEN FOUND THEN p_fault || ': made again; the messages are kept, its positions in Kafka topics and what it knew of its sources went with the old row' END;
    END IF;
    SELECT i.* INTO v_inbox FROM tide.inbox i WHERE i.name = p_name FOR NO KEY UPDATE;
    IF p_step = 2 THEN
        PERFORM tide._make_inbox_table(v_inbox);
        RETURN p_fault || ': made again; the messages that were in it are gone';
    ELSIF p_step = 3 THEN
        RAISE EXCEPTION '%', p_fault USING ERRCODE = 'wrong_object_type',
            HINT = 'Rename it: then tide.inbox_repair makes the table anew.';
    ELSIF p_step = 4 THEN
        RETURN format('%s: made again; numbers go on after %s', p_fault, tide._restore_inbox_counter(v_inbox));
    ELSIF p_step = 5 THEN
        EXECUTE format(p_statement, v_inbox.table_name);
        RETURN p_fault || ': made again';
    END IF;
    PERFORM tide._grant_inbox(v_inbox.table_name);
    RETURN p_fault || ': granted again';
END $$;

CREATE OR REPLACE FUNCTION tide.inbox_repair(p_name text, p_max_retries integer, p_processed_retention_hours integer,
                                  p_dlq_retention_hours integer)
RETURNS text[]
LANGUAGE plpgsql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s' AS $$
DECLARE
    v_fault record;
    v_seen  text[] := '{}';
    v_done  text[] := '{}';
BEGIN
    PERFORM tide._check_inbox(p_name, p_max_retries, p_processed_retention_hours, p_dlq_retention_hours);
    LOOP
        -- One fault hides others, and repairs some.
        SELECT f.* INTO v_fault FROM tide._inbox_faults(p_name) f ORDER BY f.step, f.fault LIMIT 1;
        EXIT WHEN NOT FOUND;
        IF v_fault.fault = ANY (v_seen) THEN
            RAISE EXCEPTION 'inbox "%" could not be repaired: %', p_name, v_fault.fault
                USING ERRCODE = 'object_not_in_prerequisite_state',
                      HINT = format('Look at tide.%I (\d+ in psql).', tide._table_name(p_name, '_inbox'));
        END IF;
        v_seen := v_seen || v_fault.fault;
        v_done := v_done || tide._repair_inbox(p_name, p_max_retries, p_processed_retention_hours, p_dlq_retention_hours,
                                               v_fault.step, v_fault.fault, v_fault.statement);
    END LOOP;
    IF v_seen = '{}' THEN
        -- Error when there is none of that name.
        PERFORM tide._inbox(p_name);
    END IF;
    RETURN array_remove(v_done, NULL);
EXCEPTION WHEN lock_not_available THEN
    RAISE EXCEPTION 'inbox "%" could not be repaired: other transactions are using it', p_name
        USING ERRCODE = 'lock_not_available',
              HINT = 'Try again; look in pg_stat_activity for transactions that stay open.';
END $$;

COMMENT ON FUNCTION tide.inbox_repair(text, integer, integer, integer) IS
'Puts right what was changed by hand on an inbox (tide.inbox_faults), and returns in words what that was; an empty array when all was well. Messages are kept wherever they still exist, and numbers in event ids go on above the highest. The settings are for a row that has to be made again. Error when neither row nor table exist.';
