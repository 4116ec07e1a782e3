-- What somebody changed by hand on outboxes, found and put right. Finding reads
-- catalogues only. A repair locks the outbox that it repairs; of the root it
-- takes what tide.outbox_create takes, so publishers to other outboxes go on.

-- One row per fault, in the order in which they are repaired: attaching comes
-- last, as it locks what all outboxes share until the transaction ends.
CREATE OR REPLACE FUNCTION tide._outbox_faults(p_name text DEFAULT NULL)
RETURNS TABLE (outbox_name text, step integer, fault text, relid oid)
LANGUAGE sql STABLE AS $$
    WITH attached AS MATERIALIZED (
        SELECT c.oid, c.relname, c.relnamespace, c.relpartbound
          FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
         WHERE i.inhparent = 'tide.outbox_message'::regclass),
    -- Attached as the table of an outbox, but not under a name that a row has.
    stray AS MATERIALIZED (
        SELECT a.oid, CASE b.value[1] WHEN 'E' THEN replace(replace(b.value[2], '''''', ''''), '\\', '\')
                                      ELSE replace(b.value[2], '''''', '''') END AS name
          FROM attached a,
               regexp_match(pg_catalog.pg_get_expr(a.relpartbound, a.oid), '^FOR VALUES IN \((E?)''(.*)''\)$') AS b(value)
         WHERE b.value IS NOT NULL
           AND (a.relnamespace <> 'tide'::regnamespace OR NOT EXISTS (SELECT FROM tide.outbox o WHERE o.table_name = a.relname))),
    outbox AS MATERIALIZED (
        SELECT o.name, o.table_name, o.enabled, c.oid, EXISTS (SELECT FROM attached a WHERE a.oid = c.oid) AS is_attached,
               CASE WHEN c.oid IS NOT NULL THEN c.relkind = 'p' AND k.number = 7 END AS fits, k.id, k.xid
          FROM tide.outbox o
          LEFT JOIN pg_catalog.pg_class c ON c.relname = o.table_name AND c.relnamespace = 'tide'::regnamespace
         CROSS JOIN LATERAL (
               SELECT count(*) AS number, max(t.attnum) FILTER (WHERE t.attname = 'id') AS id,
                      max(t.attnum) FILTER (WHERE t.attname = 'xid') AS xid
                 FROM pg_catalog.pg_attribute t
                WHERE t.attrelid = c.oid AND t.attnum > 0 AND NOT t.attisdropped
                  AND t.attname IN ('xid', 'id', 'outbox', 'created_at', 'headers', 'payload', 'body')) k
         WHERE p_name IS NULL OR o.name = p_name),
    leaf AS MATERIALIZED (
        SELECT o.oid AS parent, pg_catalog.pg_get_expr(c.relpartbound, c.oid) AS bound
          FROM outbox o
          JOIN pg_catalog.pg_inherits i ON i.inhparent = o.oid
          JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
         WHERE o.fits),
    -- Every upper bound of a partition is the lower bound of another.
    open_end AS (
        SELECT e.parent, string_agg(e.bound, ' ' ORDER BY e.bound) AS bounds
          FROM (SELECT b.parent, b.bound
                  FROM (SELECT l.parent, split_part(split_part(l.bound, 'FROM (', 2), ')', 1) COLLATE "C" AS bound, 1 AS side FROM leaf l
                        UNION ALL
                        SELECT l.parent, split_part(split_part(l.bound, 'TO (', 2), ')', 1) COLLATE "C", -1 FROM leaf l) b
                 GROUP BY b.parent, b.bound HAVING sum(b.side) <> 0) e
         GROUP BY e.parent),
    fault(name, step, fault, oid) AS (
        SELECT s.name, 1, format('its table is called %s', s.oid::regclass), s.oid
          FROM stray s
         WHERE s.oid IS DISTINCT FROM to_regclass('tide.' || quote_ident(tide._table_name(s.name, '_outbox')))
        UNION ALL
        SELECT u.name, 2, 'the row in tide.outbox is missing', u.oid
          FROM (SELECT s.name, s.oid FROM stray s
                UNION
                SELECT n.name, to_regclass('tide.' || quote_ident(tide._table_name(n.name, '_outbox')))
                  FROM (SELECT p_name AS name
                        UNION
                        SELECT m.object FROM tide.managed_object m WHERE m.kind = 'outbox') n) u
         WHERE u.oid IS NOT NULL AND NOT EXISTS (SELECT FROM tide.outbox o WHERE o.name = u.name)
        UNION ALL
        SELECT o.name, 3, format('table tide.%I is missing', o.table_name), NULL
          FROM outbox o
         WHERE o.oid IS NULL AND NOT EXISTS (SELECT FROM stray s WHERE s.name = o.name)
        UNION ALL
        SELECT o.name, 4, format('tide.%I is not the table of an outbox', o.table_name), o.oid
          FROM outbox o WHERE NOT o.fits
        UNION ALL
        SELECT o.name, 5, 'no partition holds messages of some times', o.oid
          FROM outbox o LEFT JOIN open_end e ON e.parent = o.oid
         WHERE o.fits AND e.bounds IS DISTINCT FROM 'MAXVALUE MINVALUE'
        UNION ALL
        SELECT o.name, k.step, format('the index on %s is missing', k.name), o.oid
          FROM outbox o
         CROSS JOIN LATERAL (VALUES (6, 'id', o.id), (7, 'xid', o.xid)) k(step, name, attnum)
         WHERE o.fits AND NOT EXISTS (SELECT FROM pg_catalog.pg_index x
                                       WHERE x.indrelid = o.oid AND x.indisvalid AND x.indpred IS NULL
                                         AND x.indnkeyatts = 1 AND x.indkey[0] = k.attnum)
        UNION ALL
        SELECT o.name, 8, format('%s %s no right on its table', string_agg(r.rolname, ', ' ORDER BY r.rolname),
                                 CASE count(*) WHEN 1 THEN 'has' ELSE 'have' END), o.oid
          FROM outbox o
         CROSS JOIN pg_catalog.pg_roles r
         WHERE o.fits AND r.rolname IN ('tide_admin', 'tide_publisher', 'tide_relay')
           AND NOT CASE r.rolname WHEN 'tide_publisher'
                   THEN pg_catalog.has_column_privilege(r.oid, o.oid, 'payload', 'INSERT')
                        AND pg_catalog.has_column_privilege(r.oid, o.oid, 'headers', 'INSERT')
                   ELSE pg_catalog.has_table_privilege(r.oid, o.oid, 'SELECT') END
         GROUP BY o.name, o.oid
        UNION ALL
        SELECT o.name, 9, CASE WHEN o.enabled THEN 'its table refuses messages, though it is enabled'
                               ELSE 'its table accepts messages, though it is disabled' END, o.oid
          FROM outbox o
         WHERE o.fits AND o.enabled = EXISTS (SELECT FROM pg_catalog.pg_trigger g
                                               WHERE g.tgrelid = o.oid AND g.tgname = 'disabled' AND g.tgenabled IN ('O', 'A'))
        UNION ALL
        SELECT o.name, 10, format('table tide.%I is not attached to tide.outbox_message', o.table_name), o.oid
          FROM outbox o WHERE o.fits AND NOT o.is_attached)
    SELECT f.* FROM fault f WHERE p_name IS NULL OR f.name = p_name ORDER BY f.name, f.step
$$;

CREATE OR REPLACE FUNCTION tide.outbox_faults()
RETURNS TABLE (outbox_name text, fault text)
LANGUAGE plpgsql STABLE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- Planned once for a session; that would take longer than to do it.
    RETURN QUERY SELECT f.outbox_name, f.fault FROM tide._outbox_faults() f;
END $$;

COMMENT ON FUNCTION tide.outbox_faults() IS
'What was changed by hand on outboxes so that they do not work as they should; one row for each, none when all is well. tide.outbox_repair puts it right. An outbox without a row is found by its table: when that is attached, or a resource manages the outbox. Reads catalogues only.';

-- The row of an outbox whose table is there. It gets the number that its
-- partitions are named after, when that is free.
CREATE OR REPLACE FUNCTION tide._restore_outbox_row(p_name text, p_retention_hours integer, p_table oid)
RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_outbox tide.outbox;
    v_id     integer;
    v_leaf   name;
BEGIN
    SELECT min(m.value[1]::integer) INTO v_id
      FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid,
           regexp_match(c.relname, '^outbox_(\d{1,9})_') AS m(value)
     WHERE i.inhparent = p_table AND m.value[1]::integer <= (SELECT s.last_value FROM tide.outbox_outbox_id_seq s)
       AND NOT EXISTS (SELECT FROM tide.outbox o WHERE o.outbox_id = m.value[1]::integer);
    INSERT INTO tide.outbox (outbox_id, name, table_name, enabled, retention, partition_period)
    OVERRIDING SYSTEM VALUE
    VALUES (coalesce(v_id, nextval('tide.outbox_outbox_id_seq')), p_name, tide._table_name(p_name, '_outbox'),
            NOT EXISTS (SELECT FROM pg_catalog.pg_trigger g WHERE g.tgrelid = p_table AND g.tgname = 'disabled'),
            make_interval(hours => p_retention_hours), tide._partition_period(make_interval(hours => p_retention_hours)))
    ON CONFLICT DO NOTHING
    RETURNING * INTO v_outbox;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    FOR v_leaf IN SELECT l.leaf FROM tide._leaves(v_outbox) l
                   WHERE l.leaf ~ '^outbox_\d+_' AND NOT starts_with(l.leaf, format('outbox_%s_', v_outbox.outbox_id)) LOOP
        EXECUTE format('ALTER TABLE tide.%I RENAME TO %I', v_leaf,
                       regexp_replace(v_leaf, '^outbox_\d+_', format('outbox_%s_', v_outbox.outbox_id)));
    END LOOP;
    RETURN true;
END $$;

-- Leaves for the times that none covers.
CREATE OR REPLACE FUNCTION tide._fill_gaps(p_outbox tide.outbox)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET timezone = 'UTC' AS $$
DECLARE
    v_gap record;
BEGIN
    FOR v_gap IN
        SELECT * FROM (
            SELECT coalesce(lag(l.upper_bound) OVER (ORDER BY l.lower_bound), '-infinity') AS lower_bound, l.lower_bound AS upper_bound
              FROM tide._leaves(p_outbox) l
            UNION ALL
            SELECT coalesce(max(l.upper_bound), '-infinity'), 'infinity' FROM tide._leaves(p_outbox) l) g
         WHERE g.lower_bound < g.upper_bound
    LOOP
        IF isfinite(v_gap.upper_bound) THEN
            PERFORM tide._cover(p_outbox, format('outbox_%s_%s', p_outbox.outbox_id,
                                                 CASE WHEN isfinite(v_gap.lower_bound) THEN to_char(v_gap.lower_bound, 'YYYYMMDDHH24')
                                                      ELSE 'past' END),
                                v_gap.lower_bound, v_gap.upper_bound);
        ELSE
            PERFORM tide._cover(p_outbox, w.leaf, w.lower_bound, w.upper_bound)
               FROM tide._wanted_leaves(p_outbox, v_gap.lower_bound, clock_timestamp()) w;
        END IF;
    END LOOP;
END $$;

-- Partitions that nobody writes to first: publishers wait while the current
-- one's is made, and that of the table, which then only takes them together.
CREATE OR REPLACE FUNCTION tide._make_outbox_index(p_outbox tide.outbox, p_column name)
RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_leaf name;
BEGIN
    FOR v_leaf IN
        SELECT l.leaf FROM tide._leaves(p_outbox) l
          JOIN pg_catalog.pg_attribute t ON t.attrelid = l.relid AND t.attname = p_column
         WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_index x
                            WHERE x.indrelid = l.relid AND x.indisvalid AND x.indpred IS NULL
                              AND x.indnkeyatts = 1 AND x.indkey[0] = t.attnum)
         ORDER BY clock_timestamp() BETWEEN l.lower_bound AND l.upper_bound
    LOOP
        EXECUTE format('CREATE INDEX ON tide.%I (%I)', v_leaf, p_column);
    END LOOP;
    EXECUTE format('CREATE INDEX ON tide.%I (%I)', p_outbox.table_name, p_column);
END $$;

-- Repairs one fault and says so.
CREATE OR REPLACE FUNCTION tide._repair_outbox(p_name text, p_retention_hours integer, p_step integer, p_fault text, p_relid oid)
RETURNS text
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_outbox tide.outbox;
    v_table  text := tide._table_name(p_name, '_outbox');
BEGIN
    IF p_step = 1 THEN
        IF (SELECT c.relnamespace <> 'tide'::regnamespace FROM pg_catalog.pg_class c WHERE c.oid = p_relid) THEN
            EXECUTE format('ALTER TABLE %s SET SCHEMA tide', p_relid::regclass);
        END IF;
        IF (SELECT c.relname <> v_table FROM pg_catalog.pg_class c WHERE c.oid = p_relid) THEN
            EXECUTE format('ALTER TABLE %s RENAME TO %I', p_relid::regclass, v_table);
        END IF;
        RETURN format('%s: renamed to tide.%I', p_fault, v_table);
    ELSIF p_step = 2 THEN
        IF NOT (SELECT c.relkind = 'p' FROM pg_catalog.pg_class c WHERE c.oid = p_relid) THEN
            RAISE EXCEPTION 'tide.% is not the table of an outbox', quote_ident(v_table)
                USING ERRCODE = 'wrong_object_type', HINT = 'Rename it, or choose another name for the outbox.';
        END IF;
        -- Somebody else may have done it meanwhile.
        RETURN CASE WHEN tide._restore_outbox_row(p_name, p_retention_hours, p_relid)
                    THEN p_fault || ': made again; the messages are kept, its consumer groups went with the old row' END;
    END IF;
    SELECT o.* INTO v_outbox FROM tide.outbox o WHERE o.name = p_name FOR NO KEY UPDATE;
    IF p_step = 3 THEN
        PERFORM tide._make_outbox_table(v_outbox);
        IF NOT v_outbox.enabled THEN
            PERFORM tide._switch_outbox(p_name, false);
        END IF;
        RETURN p_fault || ': made again; the messages that were in it are gone';
    ELSIF p_step = 4 THEN
        RAISE EXCEPTION '%', p_fault USING ERRCODE = 'wrong_object_type',
            HINT = 'Rename it: then tide.outbox_repair makes the table anew.';
    ELSIF p_step = 5 THEN
        PERFORM tide._fill_gaps(v_outbox);
        RETURN p_fault || ': partitions made or attached again';
    ELSIF p_step IN (6, 7) THEN
        PERFORM tide._make_outbox_index(v_outbox, CASE p_step WHEN 6 THEN 'id' ELSE 'xid' END);
        RETURN p_fault || ': made again';
    ELSIF p_step = 8 THEN
        PERFORM tide._grant_outbox(v_outbox.table_name);
        RETURN p_fault || ': granted again';
    ELSIF p_step = 9 THEN
        PERFORM tide._switch_outbox(p_name, v_outbox.enabled);
        RETURN format('%s: %s again', p_fault, CASE WHEN v_outbox.enabled THEN 'enabled' ELSE 'disabled' END);
    END IF;
    PERFORM tide._attach_outbox(v_outbox);
    RETURN p_fault || ': attached again, with the messages in it';
END $$;

CREATE OR REPLACE FUNCTION tide.outbox_repair(p_name text, p_retention_hours integer)
RETURNS text[]
LANGUAGE plpgsql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s' AS $$
DECLARE
    v_fault record;
    v_seen  text[] := '{}';
    v_done  text[] := '{}';
BEGIN
    PERFORM tide._check_name(p_name, 'outbox', 63);
    PERFORM tide._check_retention(p_name, p_retention_hours);
    LOOP
        -- One fault hides others, and repairs some.
        SELECT f.* INTO v_fault FROM tide._outbox_faults(p_name) f ORDER BY f.step LIMIT 1;
        EXIT WHEN NOT FOUND;
        IF v_fault.fault = ANY (v_seen) THEN
            RAISE EXCEPTION 'outbox "%" could not be repaired: %', p_name, v_fault.fault
                USING ERRCODE = 'object_not_in_prerequisite_state',
                      HINT = format('Look at tide.%I and what it consists of (\d+ in psql).', tide._table_name(p_name, '_outbox'));
        END IF;
        v_seen := v_seen || v_fault.fault;
        v_done := v_done || tide._repair_outbox(p_name, p_retention_hours, v_fault.step, v_fault.fault, v_fault.relid);
    END LOOP;
    IF v_seen = '{}' THEN
        -- Error when there is none of that name.
        PERFORM tide._outbox(p_name);
    END IF;
    RETURN array_remove(v_done, NULL);
EXCEPTION WHEN lock_not_available THEN
    RAISE EXCEPTION 'outbox "%" could not be repaired: other transactions are using it', p_name
        USING ERRCODE = 'lock_not_available',
              HINT = 'Try again; look in pg_stat_activity for transactions that stay open.';
END $$;

COMMENT ON FUNCTION tide.outbox_repair(text, integer) IS
'Puts right what was changed by hand on an outbox (tide.outbox_faults), and returns in words what that was; an empty array when all was well. Messages are kept wherever they still exist. p_retention_hours is for a row that has to be made again. Publishers to other outboxes are not held up. Error when neither row nor table exist.';
