-- Consumer groups, their cursors, and what they have not had delivered.

-- A snapshot with the calling transaction counted as in progress. (It leaves
-- its own transaction out, and so would call it finished.)
CREATE OR REPLACE FUNCTION tide._with_own(p_snapshot pg_snapshot)
RETURNS pg_snapshot
LANGUAGE sql VOLATILE AS $$
    SELECT CASE
               WHEN o.xid IS NULL OR o.xid >= pg_snapshot_xmax(p_snapshot) THEN p_snapshot
               ELSE (least(pg_snapshot_xmin(p_snapshot), o.xid)::text || ':' || pg_snapshot_xmax(p_snapshot)::text || ':'
                     || (SELECT string_agg(x.xid::text, ',' ORDER BY x.xid)
                           FROM (SELECT pg_snapshot_xip(p_snapshot) AS xid UNION SELECT o.xid) x))::pg_snapshot
           END
      FROM (SELECT pg_current_xact_id_if_assigned() AS xid) o
$$;

CREATE OR REPLACE FUNCTION tide._snapshot()
RETURNS pg_snapshot
LANGUAGE sql VOLATILE AS $$
    SELECT tide._with_own(pg_current_snapshot())
$$;

-- Whether a relay that is alive owns the pipeline bound to a group.
CREATE OR REPLACE FUNCTION tide._live_owner(p_pipeline_id integer)
RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT o.member_name
      FROM tide.pipeline_owner o
     WHERE o.pipeline_id = p_pipeline_id AND o.released_at IS NULL
       AND EXISTS (SELECT FROM pg_catalog.pg_locks l
                    WHERE l.locktype = 'advisory' AND l.granted
                      AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database())
                      AND l.classid = 1953064045 AND l.objid = o.member_id::oid AND l.objsubid = 2)
$$;

CREATE OR REPLACE FUNCTION tide.create_consumer_group(p_name text, p_outbox text,
                                           p_auto_offset_reset text DEFAULT 'earliest',
                                           p_if_not_exists boolean DEFAULT false)
RETURNS void
LANGUAGE plpgsql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_outbox   tide.outbox := tide._outbox(p_outbox);
    v_group_id integer;
BEGIN
    PERFORM tide._check_name(p_name, 'consumer group', 255);
    IF p_auto_offset_reset IS NULL OR p_auto_offset_reset NOT IN ('earliest', 'latest', 'none') THEN
        RAISE EXCEPTION 'auto_offset_reset of consumer group "%" is %', p_name, coalesce(quote_literal(p_auto_offset_reset), 'null')
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Allowed: ''earliest'' (from the first message kept), ''latest'' (what commits after the group was made), ''none'' (only after tide.commit_offset).';
    END IF;
    INSERT INTO tide.consumer_group (outbox_id, name, auto_offset_reset)
    VALUES (v_outbox.outbox_id, p_name, p_auto_offset_reset)
    ON CONFLICT DO NOTHING
    RETURNING group_id INTO v_group_id;
    IF NOT FOUND THEN
        IF p_if_not_exists THEN
            RETURN;
        END IF;
        RAISE EXCEPTION 'consumer group "%" of outbox "%" already exists', p_name, p_outbox
            USING ERRCODE = 'duplicate_object',
                  HINT = 'Pass p_if_not_exists := true to keep a group that is there.';
    END IF;
    IF p_auto_offset_reset = 'latest' THEN
        INSERT INTO tide.group_cursor (group_id, old_snapshot, new_snapshot, system_identifier, timeline)
        SELECT v_group_id, s.snapshot, s.snapshot, c.system_identifier, c.timeline
          FROM (SELECT tide._snapshot() AS snapshot OFFSET 0) s, tide._cluster() c;
    END IF;
END $$;

COMMENT ON FUNCTION tide.create_consumer_group(text, text, text, boolean) IS
'Makes a consumer group of an outbox. p_auto_offset_reset says where it begins: earliest, latest (what commits from now on) or none (where tide.commit_offset puts it). Error when the group exists, unless p_if_not_exists.';

CREATE OR REPLACE FUNCTION tide.drop_consumer_group(p_name text, p_outbox text, p_if_exists boolean DEFAULT false)
RETURNS void
LANGUAGE plpgsql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_group    tide.consumer_group;
    v_pipeline text;
BEGIN
    IF p_if_exists AND NOT EXISTS (SELECT FROM tide.consumer_group g JOIN tide.outbox o USING (outbox_id)
                                    WHERE o.name = p_outbox AND g.name = p_name) THEN
        RETURN;
    END IF;
    v_group := tide._consumer_group(p_name, tide._outbox(p_outbox));
    SELECT p.name INTO v_pipeline FROM tide.pipeline p WHERE p.group_id = v_group.group_id;
    IF FOUND THEN
        RAISE EXCEPTION 'consumer group "%" of outbox "%" is used by pipeline "%"', p_name, p_outbox, v_pipeline
            USING ERRCODE = 'dependent_objects_still_exist',
                  HINT = format('Delete the pipeline first: SELECT tide.relay_delete(%L).', v_pipeline);
    END IF;
    DELETE FROM tide.consumer_group g WHERE g.group_id = v_group.group_id;
END $$;

COMMENT ON FUNCTION tide.drop_consumer_group(text, text, boolean) IS
'Drops a consumer group and its position. Refused while a pipeline is bound to it. p_if_exists: no error when there is none.';

-- ------------------------------------------------- what is not yet delivered

-- Condition on a message m that a snapshot does not see it. Written out, so
-- that the index on xid serves it however old the oldest open transaction is.
CREATE OR REPLACE FUNCTION tide._unseen(p_snapshot pg_snapshot)
RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT format('(m.xid >= %L::xid8%s)', pg_snapshot_xmax(p_snapshot),
                  (SELECT format(' OR m.xid = ANY (%L::xid8[])', array_agg(x.xid))
                     FROM pg_snapshot_xip(p_snapshot) AS x(xid)
                   HAVING count(*) > 0))
$$;

-- Condition on a message m that holds while it is not delivered to the group;
-- the rule is stated at tide.group_cursor. Snapshots of another cluster or
-- timeline mean nothing here: then ids above the low-water mark count.
CREATE OR REPLACE FUNCTION tide._undelivered(p_cursor tide.group_cursor)
RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT CASE
        WHEN p_cursor IS NULL OR p_cursor.group_id IS NULL THEN 'true'
        WHEN p_cursor.system_identifier <> c.system_identifier OR p_cursor.timeline <> c.timeline
            THEN format('(m.id > %s)', p_cursor.low_water_id)
        ELSE format('(%s AND NOT (m.id <= %s AND pg_visible_in_snapshot(m.xid, %L)))',
                    tide._unseen(p_cursor.old_snapshot), p_cursor.last_id, p_cursor.new_snapshot)
        END
      FROM tide._cluster() c
$$;

-- Condition on a message m of an outbox: at least one group lacks it.
CREATE OR REPLACE FUNCTION tide._undelivered_to_any(p_outbox_id integer)
RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT coalesce('(' || string_agg(tide._undelivered(c), ' OR ') || ')', 'true')
      FROM tide.consumer_group g LEFT JOIN tide.group_cursor c USING (group_id)
     WHERE g.outbox_id = p_outbox_id
$$;

-- Messages that are committed: visible, and not of this very transaction.
CREATE OR REPLACE FUNCTION tide._count_messages(p_outbox tide.outbox, p_condition text,
                                     OUT pending_count bigint, OUT oldest_at timestamptz, OUT max_id bigint)
LANGUAGE plpgsql STABLE AS $$
BEGIN
    EXECUTE format('SELECT count(*), min(m.created_at), max(m.id) FROM tide.%I m'
                   ' WHERE %s AND m.xid IS DISTINCT FROM pg_current_xact_id_if_assigned()',
                   p_outbox.table_name, p_condition)
       INTO pending_count, oldest_at, max_id;
END $$;

CREATE OR REPLACE FUNCTION tide._pending(p_outbox tide.outbox,
                              OUT pending_count bigint, OUT oldest_at timestamptz, OUT max_id bigint)
LANGUAGE sql STABLE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT * FROM tide._count_messages(p_outbox, tide._undelivered_to_any(p_outbox.outbox_id))
$$;

-- What a group has not had delivered, and since when the oldest of it waits.
CREATE OR REPLACE FUNCTION tide._group_backlog(p_outbox tide.outbox, p_cursor tide.group_cursor,
                                    OUT lag bigint, OUT oldest_at timestamptz)
LANGUAGE sql STABLE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT c.pending_count, c.oldest_at FROM tide._count_messages(p_outbox, tide._undelivered(p_cursor)) c
$$;

CREATE OR REPLACE FUNCTION tide._group_lag(p_outbox tide.outbox, p_cursor tide.group_cursor)
RETURNS bigint
LANGUAGE sql STABLE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT b.lag FROM tide._group_backlog(p_outbox, p_cursor) b
$$;
