-- Consumer groups, their cursors, and reading an outbox in SQL.

-- The current snapshot with the calling transaction counted as in progress.
-- (A snapshot leaves its own transaction out, and so would call it finished.)
CREATE OR REPLACE FUNCTION tide._snapshot()
RETURNS pg_snapshot
LANGUAGE sql VOLATILE AS $$
    SELECT CASE
               WHEN o.xid IS NULL OR o.xid >= pg_snapshot_xmax(s.snapshot) THEN s.snapshot
               ELSE (least(pg_snapshot_xmin(s.snapshot), o.xid)::text || ':' || pg_snapshot_xmax(s.snapshot)::text || ':'
                     || (SELECT string_agg(x.xid::text, ',' ORDER BY x.xid)
                           FROM (SELECT pg_snapshot_xip(s.snapshot) AS xid UNION SELECT o.xid) x))::pg_snapshot
           END
      FROM (SELECT pg_current_snapshot() AS snapshot) s, (SELECT pg_current_xact_id_if_assigned() AS xid) o
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
    -- A view asks for reverse pipelines, too.
    IF p_outbox.table_name IS NULL THEN
        RETURN;
    END IF;
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

CREATE OR REPLACE FUNCTION tide._group_lag(p_outbox tide.outbox, p_cursor tide.group_cursor)
RETURNS bigint
LANGUAGE sql STABLE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT c.pending_count FROM tide._count_messages(p_outbox, tide._undelivered(p_cursor)) c
$$;

-- What a group has not had delivered, and since when the oldest of it waits.
CREATE OR REPLACE FUNCTION tide._group_backlog(p_outbox tide.outbox, p_cursor tide.group_cursor,
                                    OUT lag bigint, OUT oldest_at timestamptz)
LANGUAGE sql STABLE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT c.pending_count, c.oldest_at FROM tide._count_messages(p_outbox, tide._undelivered(p_cursor)) c
$$;

-- ------------------------------------------------------ a consumer in SQL

-- For a change to a position: the group, locked, and free of a live relay.
CREATE OR REPLACE FUNCTION tide._free_group(p_group text, p_outbox tide.outbox)
RETURNS integer
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_group_id integer := (tide._consumer_group(p_group, p_outbox)).group_id;
    v_pipeline record;
BEGIN
    PERFORM 1 FROM tide.consumer_group g WHERE g.group_id = v_group_id FOR NO KEY UPDATE;
    SELECT p.name, tide._live_owner(p.pipeline_id) AS owner INTO v_pipeline
      FROM tide.pipeline p WHERE p.group_id = v_group_id;
    IF v_pipeline.owner IS NOT NULL THEN
        RAISE EXCEPTION 'consumer group "%" of outbox "%" is in use: relay "%" runs pipeline "%"',
            p_group, p_outbox.name, v_pipeline.owner, v_pipeline.name
            USING ERRCODE = 'object_in_use',
                  HINT = format('Disable the pipeline first: SELECT tide.relay_disable(%L).', v_pipeline.name);
    END IF;
    RETURN v_group_id;
END $$;

CREATE OR REPLACE FUNCTION tide.poll_outbox(p_group text, p_outbox text, p_limit integer DEFAULT 100)
RETURNS TABLE (id bigint, created_at timestamptz, headers jsonb, payload jsonb)
LANGUAGE plpgsql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_outbox   tide.outbox := tide._outbox(p_outbox);
    v_group_id integer := tide._free_group(p_group, v_outbox);
    v_cursor   tide.group_cursor;
    v_anchored tide.group_cursor;
    v_reset    text;
BEGIN
    IF p_limit IS NULL OR p_limit < 1 THEN
        RAISE EXCEPTION 'p_limit is %', coalesce(p_limit::text, 'null')
            USING ERRCODE = 'invalid_parameter_value', HINT = 'p_limit is a number of messages, at least 1.';
    END IF;
    SELECT g.auto_offset_reset INTO v_reset FROM tide.consumer_group g WHERE g.group_id = v_group_id;
    SELECT c.* INTO v_cursor FROM tide.group_cursor c WHERE c.group_id = v_group_id;
    IF NOT FOUND THEN
        IF v_reset = 'none' THEN
            RAISE EXCEPTION 'consumer group "%" has no committed offset and its auto_offset_reset is "none"', p_group
                USING ERRCODE = 'object_not_in_prerequisite_state',
                      HINT = 'Commit a start with tide.commit_offset.';
        END IF;
        INSERT INTO tide.group_cursor AS c (group_id, old_snapshot, new_snapshot, system_identifier, timeline)
        SELECT v_group_id, '3:3:', '3:3:', s.system_identifier, s.timeline FROM tide._cluster() s
        RETURNING c.* INTO v_cursor;
    END IF;

    -- Snapshots of another cluster or timeline say nothing here: begin again
    -- above the ids that were surely delivered.
    UPDATE tide.group_cursor c
       SET old_snapshot = '3:3:', new_snapshot = tide._snapshot(), last_id = c.low_water_id,
           system_identifier = k.system_identifier, timeline = k.timeline, polled = true
      FROM tide._cluster() k
     WHERE c.group_id = v_group_id
       AND (c.system_identifier <> k.system_identifier OR c.timeline <> k.timeline)
    RETURNING c.* INTO v_anchored;
    IF FOUND THEN
        v_cursor := v_anchored;
    END IF;

    -- Pages by id inside one pair of snapshots; the next pair begins where
    -- this one ends, once it is exhausted.
    FOR attempt IN 1 .. 2 LOOP
        RETURN QUERY EXECUTE format(
            'SELECT m.id, m.created_at, m.headers::jsonb, m.payload FROM tide.%I m'
            ' WHERE %s AND pg_visible_in_snapshot(m.xid, $1) AND m.id > $2'
            '   AND m.xid IS DISTINCT FROM pg_current_xact_id_if_assigned()'
            ' ORDER BY m.id LIMIT $3', v_outbox.table_name, tide._unseen(v_cursor.old_snapshot))
            USING v_cursor.new_snapshot, v_cursor.last_id, p_limit;
        EXIT WHEN FOUND OR attempt = 2;
        UPDATE tide.group_cursor c
           SET old_snapshot = v_cursor.new_snapshot, new_snapshot = tide._snapshot(),
               last_id = 0, polled = true
         WHERE c.group_id = v_group_id
        RETURNING c.* INTO v_cursor;
    END LOOP;
    UPDATE tide.group_cursor c SET polled = true WHERE c.group_id = v_group_id AND NOT c.polled;
END $$;

COMMENT ON FUNCTION tide.poll_outbox(text, text, integer) IS
'For a consumer of your own: up to p_limit messages not yet delivered to the group, in id order. The same messages come again until tide.commit_offset was called with the last id dealt with. One consumer per group. Error while a relay runs the group''s pipeline.';

CREATE OR REPLACE FUNCTION tide.commit_offset(p_group text, p_outbox text, p_offset bigint)
RETURNS void
LANGUAGE plpgsql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_outbox   tide.outbox := tide._outbox(p_outbox);
    v_group_id integer := tide._free_group(p_group, v_outbox);
BEGIN
    IF p_offset IS NULL OR p_offset < 0 THEN
        RAISE EXCEPTION 'offset is %', coalesce(p_offset::text, 'null')
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'p_offset is the id of the last message dealt with, or 0 to begin at the first message kept.';
    END IF;
    -- After a poll: that far within what the poll saw, so that a message with a
    -- lower id that committed meanwhile is not skipped.
    UPDATE tide.group_cursor c
       SET last_id = p_offset, committed_offset = greatest(c.committed_offset, p_offset), committed_at = clock_timestamp()
     WHERE c.group_id = v_group_id AND c.polled AND p_offset >= c.last_id
       AND p_offset <= (SELECT CASE WHEN s.is_called THEN s.last_value ELSE 0 END FROM tide.message_id_seq s);
    IF FOUND THEN
        RETURN;
    END IF;
    -- Otherwise a position by hand: all that is visible now up to the offset.
    INSERT INTO tide.group_cursor AS c (group_id, old_snapshot, new_snapshot, last_id, committed_offset, low_water_id,
                                        system_identifier, timeline, committed_at)
    SELECT v_group_id, '3:3:', s.snapshot, p_offset, p_offset, 0, k.system_identifier, k.timeline, clock_timestamp()
      FROM (SELECT tide._snapshot() AS snapshot OFFSET 0) s, tide._cluster() k
    ON CONFLICT (group_id) DO UPDATE
       SET old_snapshot = excluded.old_snapshot, new_snapshot = excluded.new_snapshot,
           last_id = excluded.last_id, committed_offset = excluded.committed_offset,
           low_water_id = 0, system_identifier = excluded.system_identifier, timeline = excluded.timeline,
           clean = true, polled = false, sink_position = '{}', low_water_position = '{}',
           committed_at = excluded.committed_at;
END $$;

COMMENT ON FUNCTION tide.commit_offset(text, text, bigint) IS
'Sets the position of a consumer group: messages up to the id p_offset count as delivered. After tide.poll_outbox: of the messages that poll could see; otherwise of all that are visible now. Error while a relay runs the group''s pipeline.';
