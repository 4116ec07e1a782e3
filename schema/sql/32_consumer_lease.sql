-- Leases of a consumer group: what is handed out next, and what the cursor may
-- pass (docs/design/sql-consumers.md).
--
-- Whoever works on a group's leases holds its advisory lock until the end of
-- the transaction ("tidg"; it takes no xid, so an idle poll writes nothing).

-- Who called a function that acts for its owner: what SET ROLE chose, else who
-- logged in. Only a member of a role can make it the first.
CREATE OR REPLACE FUNCTION tide._caller()
RETURNS name
LANGUAGE sql STABLE AS $$
    SELECT CASE current_setting('role') WHEN 'none' THEN session_user ELSE current_setting('role')::name END
$$;

-- The group, its lock held, for a caller who may move it while no relay does.
-- Messages are read by whoever may read the outbox's table; a pipeline's group
-- is moved only by whoever may delete the pipeline.
CREATE OR REPLACE FUNCTION tide._lock_group(p_group text, p_outbox tide.outbox)
RETURNS tide.consumer_group
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_group    tide.consumer_group;
    v_pipeline record;
BEGIN
    IF NOT has_table_privilege(tide._caller(), format('tide.%I', p_outbox.table_name), 'SELECT') THEN
        RAISE EXCEPTION 'role "%" may not consume outbox "%"', tide._caller(), p_outbox.name
            USING ERRCODE = 'insufficient_privilege',
                  HINT = format('Let it: SELECT tide.outbox_grant_consume(%L, %L).', p_outbox.name, tide._caller());
    END IF;
    PERFORM pg_advisory_xact_lock(1953064039, (tide._consumer_group(p_group, p_outbox)).group_id);
    -- Read again: it may have been dropped while the lock was waited for.
    v_group := tide._consumer_group(p_group, p_outbox);
    SELECT p.name, tide._live_owner(p.pipeline_id) AS owner INTO v_pipeline
      FROM tide.pipeline p WHERE p.group_id = v_group.group_id;
    IF v_pipeline.owner IS NOT NULL THEN
        RAISE EXCEPTION 'consumer group "%" of outbox "%" is in use: relay "%" runs pipeline "%"',
            p_group, p_outbox.name, v_pipeline.owner, v_pipeline.name
            USING ERRCODE = 'object_in_use',
                  HINT = format('Disable the pipeline first: SELECT tide.relay_disable(%L).', v_pipeline.name);
    ELSIF v_pipeline.name IS NOT NULL AND NOT has_function_privilege(tide._caller(), 'tide.relay_delete(text)', 'EXECUTE') THEN
        RAISE EXCEPTION 'consumer group "%" of outbox "%" belongs to pipeline "%"', p_group, p_outbox.name, v_pipeline.name
            USING ERRCODE = 'insufficient_privilege',
                  HINT = 'Consume as a group of your own: ask for tide.create_consumer_group.';
    END IF;
    RETURN v_group;
END $$;

-- The group's cursor, made at its first use, and anchored anew in another
-- cluster or timeline, where snapshots and leases mean nothing.
CREATE OR REPLACE FUNCTION tide._group_cursor(p_group tide.consumer_group)
RETURNS tide.group_cursor
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_cursor  tide.group_cursor;
    v_cluster record;
BEGIN
    SELECT * INTO v_cluster FROM tide._cluster();
    SELECT c.* INTO v_cursor FROM tide.group_cursor c WHERE c.group_id = p_group.group_id;
    IF NOT FOUND THEN
        IF p_group.auto_offset_reset = 'none' THEN
            RAISE EXCEPTION 'consumer group "%" has no committed offset and its auto_offset_reset is "none"', p_group.name
                USING ERRCODE = 'object_not_in_prerequisite_state',
                      HINT = 'Commit a start with tide.commit_offset.';
        END IF;
        WHILE tide._adopt_messages(p_group.outbox_id) > 0 LOOP
        END LOOP;
        INSERT INTO tide.group_cursor AS c (group_id, old_snapshot, new_snapshot, system_identifier, timeline)
        VALUES (p_group.group_id, '3:3:', '3:3:', v_cluster.system_identifier, v_cluster.timeline)
        RETURNING c.* INTO v_cursor;
    ELSIF v_cursor.system_identifier <> v_cluster.system_identifier OR v_cursor.timeline <> v_cluster.timeline THEN
        WHILE tide._adopt_messages(p_group.outbox_id) > 0 LOOP
        END LOOP;
        DELETE FROM tide.consumer_lease l WHERE l.group_id = p_group.group_id;
        UPDATE tide.group_cursor c
           SET old_snapshot = '3:3:', new_snapshot = tide._snapshot(), last_id = c.low_water_id,
               system_identifier = v_cluster.system_identifier, timeline = v_cluster.timeline,
               round_low_water_id = c.low_water_id, mark_id = NULL, mark_xid = NULL
         WHERE c.group_id = p_group.group_id
        RETURNING c.* INTO v_cursor;
    END IF;
    RETURN v_cursor;
END $$;

-- The messages m of a round above p_from up to p_to, in order: what follows
-- SELECT.
--
-- Two shapes, as at the relay: when few messages are missing, those found by
-- xid are sorted; otherwise ids are walked from the low-water mark on, below
-- which nothing is missing.
CREATE OR REPLACE FUNCTION tide._round_messages(p_outbox tide.outbox, p_range tide.consumer_lease)
RETURNS text
LANGUAGE plpgsql STABLE AS $$
DECLARE
    v_few  constant integer := 4000;
    v_rows integer;
BEGIN
    EXECUTE format('SELECT count(*) FROM (SELECT FROM tide.%I m WHERE %s LIMIT %s) x',
                   p_outbox.table_name, tide._unseen(p_range.old_snapshot), v_few + 1) INTO v_rows;
    RETURN format(
        'FROM tide.%I m WHERE %s AND pg_visible_in_snapshot(m.xid, %L) AND m.id > %s AND m.id <= %s'
        ' AND m.xid IS DISTINCT FROM pg_current_xact_id_if_assigned() ORDER BY %s', p_outbox.table_name,
        CASE WHEN v_rows <= v_few THEN tide._unseen(p_range.old_snapshot)
             ELSE format('NOT pg_visible_in_snapshot(m.xid, %L)', p_range.old_snapshot) END,
        p_range.new_snapshot,
        CASE WHEN v_rows <= v_few THEN p_range.from_id ELSE greatest(p_range.from_id, p_range.low_water_id) END,
        coalesce(p_range.to_id, 9223372036854775807),
        CASE WHEN v_rows <= v_few THEN 'm.id + 0' ELSE 'm.id' END);
END $$;

-- The last id of so many messages of a range; null when it has none.
CREATE OR REPLACE FUNCTION tide._page_end(p_outbox tide.outbox, p_range tide.consumer_lease, p_limit integer)
RETURNS bigint
LANGUAGE plpgsql STABLE AS $$
DECLARE
    v_end bigint;
BEGIN
    EXECUTE format('SELECT max(x.id) FROM (SELECT m.id %s LIMIT %s) x', tide._round_messages(p_outbox, p_range), p_limit)
       INTO v_end;
    RETURN v_end;
END $$;

-- Moves the group's cursor over the committed leases at the front.
CREATE OR REPLACE FUNCTION tide._pass_committed(p_group_id integer)
RETURNS void
LANGUAGE sql VOLATILE AS $$
    WITH passed AS (
        DELETE FROM tide.consumer_lease l
         WHERE l.group_id = p_group_id AND l.committed
           AND NOT EXISTS (SELECT FROM tide.consumer_lease u
                            WHERE u.group_id = p_group_id AND NOT u.committed AND (u.round, u.from_id) < (l.round, l.from_id))
        RETURNING l.*)
    UPDATE tide.group_cursor c
       SET old_snapshot = p.old_snapshot, new_snapshot = p.new_snapshot, last_id = p.to_id,
           committed_offset = greatest(c.committed_offset, (SELECT max(to_id) FROM passed)),
           low_water_id = greatest(c.low_water_id, p.low_water_id), round_low_water_id = p.round_low_water_id,
           committed_at = clock_timestamp(), clean = true, sink_position = '{}', low_water_position = '{}'
      FROM (SELECT * FROM passed ORDER BY round DESC, from_id DESC LIMIT 1) p
     WHERE c.group_id = p_group_id
$$;

-- The range to hand out behind all that was handed out: not yet a row. Null
-- when nothing is there.
CREATE OR REPLACE FUNCTION tide._next_range(p_outbox tide.outbox, p_cursor tide.group_cursor, p_limit integer)
RETURNS tide.consumer_lease
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_own_xid xid8 := pg_current_xact_id_if_assigned();
    v_range   tide.consumer_lease;
    v_behind  boolean;
    v_tick    record;
BEGIN
    SELECT l.* INTO v_range FROM tide.consumer_lease l
     WHERE l.group_id = p_cursor.group_id ORDER BY l.round DESC, l.from_id DESC LIMIT 1;
    v_behind := FOUND;
    IF v_behind THEN
        v_range.from_id := v_range.to_id;
    ELSE
        v_range.group_id := p_cursor.group_id;
        v_range.round := 1;
        v_range.from_id := p_cursor.last_id;
        v_range.old_snapshot := p_cursor.old_snapshot;
        v_range.new_snapshot := p_cursor.new_snapshot;
        v_range.low_water_id := p_cursor.low_water_id;
        v_range.round_low_water_id := p_cursor.round_low_water_id;
    END IF;

    v_range.to_id := NULL;
    v_range.to_id := tide._page_end(p_outbox, v_range, p_limit);
    IF v_range.to_id IS NOT NULL THEN
        RETURN v_range;
    END IF;

    -- The round is exhausted; the next one begins where it ends.
    SELECT t.sequence_value, t.next_xid, tide._with_own(t.snapshot::pg_snapshot) AS snapshot INTO v_tick FROM tide._tick() t;
    v_range.round := v_range.round + 1;
    v_range.old_snapshot := v_range.new_snapshot;
    v_range.new_snapshot := v_tick.snapshot;
    v_range.low_water_id := greatest(v_range.low_water_id, v_range.round_low_water_id);
    v_range.round_low_water_id := v_range.low_water_id;
    -- All transactions of the tick noted last are finished: with this round
    -- everything up to its id is delivered.
    IF pg_snapshot_xmin(v_tick.snapshot)::text::bigint >= p_cursor.mark_xid THEN
        v_range.round_low_water_id := greatest(v_range.low_water_id, p_cursor.mark_id);
        p_cursor.mark_xid := NULL;
    END IF;
    v_range.from_id := 0;
    v_range.to_id := tide._page_end(p_outbox, v_range, p_limit);
    -- An idle poll writes now and then only.
    IF v_range.to_id IS NULL AND p_cursor.polled_at > clock_timestamp() - interval '10 seconds' THEN
        RETURN NULL;
    END IF;
    UPDATE tide.group_cursor c
       SET -- The next xid is certain only in a transaction that begins with this.
           mark_id = CASE WHEN p_cursor.mark_xid IS NULL AND v_own_xid IS NULL THEN v_tick.sequence_value
                          WHEN p_cursor.mark_xid IS NOT NULL THEN c.mark_id END,
           mark_xid = CASE WHEN p_cursor.mark_xid IS NULL AND v_own_xid IS NULL THEN v_tick.next_xid
                           WHEN p_cursor.mark_xid IS NOT NULL THEN c.mark_xid END
     WHERE c.group_id = p_cursor.group_id;
    IF v_range.to_id IS NULL THEN
        IF NOT v_behind THEN
            UPDATE tide.group_cursor c
               SET old_snapshot = v_range.old_snapshot, new_snapshot = v_range.new_snapshot, last_id = 0,
                   low_water_id = v_range.low_water_id, round_low_water_id = v_range.round_low_water_id
             WHERE c.group_id = p_cursor.group_id;
        END IF;
        RETURN NULL;
    END IF;
    RETURN v_range;
END $$;

-- Which range a poll hands out: the consumer's own, else one whose lease ran
-- out, else what comes next. Null when there is none, or enough are out.
CREATE OR REPLACE FUNCTION tide._choose_range(p_outbox tide.outbox, p_cursor tide.group_cursor, p_limit integer,
                                   p_consumer_id text, p_max_leases integer)
RETURNS tide.consumer_lease
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_range tide.consumer_lease;
    v_end   bigint;
BEGIN
    LOOP
        SELECT l.* INTO v_range FROM tide.consumer_lease l
         WHERE l.group_id = p_cursor.group_id AND NOT l.committed
           AND (l.consumer_id = p_consumer_id
                OR l.leased_until <= clock_timestamp()
                   AND p_max_leases > (SELECT count(*) FROM tide.consumer_lease o
                                        WHERE o.group_id = p_cursor.group_id AND NOT o.committed AND o.leased_until > clock_timestamp()))
         ORDER BY coalesce(l.consumer_id = p_consumer_id, false) DESC, l.round, l.from_id LIMIT 1;
        IF NOT FOUND THEN
            IF p_max_leases <= (SELECT count(*) FROM tide.consumer_lease o
                                 WHERE o.group_id = p_cursor.group_id AND NOT o.committed)
               OR 1000 <= (SELECT count(*) FROM tide.consumer_lease o WHERE o.group_id = p_cursor.group_id) THEN
                RETURN NULL;
            END IF;
            v_range := tide._next_range(p_outbox, p_cursor, p_limit);
            IF v_range.to_id IS NOT NULL THEN
                INSERT INTO tide.consumer_lease (group_id, round, from_id, to_id, old_snapshot, new_snapshot,
                                                 low_water_id, round_low_water_id)
                VALUES (v_range.group_id, v_range.round, v_range.from_id, v_range.to_id, v_range.old_snapshot,
                        v_range.new_snapshot, v_range.low_water_id, v_range.round_low_water_id);
            END IF;
            RETURN v_range;
        END IF;

        v_end := tide._page_end(p_outbox, v_range, p_limit);
        IF v_end < v_range.to_id THEN
            -- This caller wants fewer: what is left is a range of its own.
            INSERT INTO tide.consumer_lease (group_id, round, from_id, to_id, old_snapshot, new_snapshot, attempts,
                                             low_water_id, round_low_water_id)
            VALUES (v_range.group_id, v_range.round, v_end, v_range.to_id, v_range.old_snapshot, v_range.new_snapshot,
                    v_range.attempts, v_range.low_water_id, v_range.round_low_water_id);
            UPDATE tide.consumer_lease l SET to_id = v_end
             WHERE l.group_id = v_range.group_id AND l.round = v_range.round AND l.from_id = v_range.from_id;
            v_range.to_id := v_end;
        END IF;
        IF v_end IS NOT NULL THEN
            RETURN v_range;
        END IF;
        -- Somebody deleted its messages by hand.
        UPDATE tide.consumer_lease l SET committed = true
         WHERE l.group_id = v_range.group_id AND l.round = v_range.round AND l.from_id = v_range.from_id;
        PERFORM tide._pass_committed(v_range.group_id);
        SELECT c.* INTO p_cursor FROM tide.group_cursor c WHERE c.group_id = p_cursor.group_id;
    END LOOP;
END $$;
