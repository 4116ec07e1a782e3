-- Retention: leaves made ahead of time, and dropped when they are passed.
--
-- Both lock the outbox, so both try for a moment only (lock_timeout) and leave
-- the rest to the next call. Publishing never comes here.

-- Detaches and drops the leaves that are older than the retention and hold
-- nothing that a group still lacks.
CREATE OR REPLACE FUNCTION tide._drop_passed_leaves(p_outbox tide.outbox, p_now timestamptz)
RETURNS TABLE (action text, leaf text, detail text)
LANGUAGE plpgsql VOLATILE
SET lock_timeout = '50ms' AS $$
DECLARE
    v_horizon     timestamptz := p_now - p_outbox.retention;
    v_undelivered text := tide._undelivered_to_any(p_outbox.outbox_id);
    v_leaf        record;
    v_held        boolean;
BEGIN
    IF NOT EXISTS (SELECT FROM tide.consumer_group g WHERE g.outbox_id = p_outbox.outbox_id) THEN
        v_undelivered := 'false';
    END IF;
    FOR v_leaf IN SELECT * FROM tide._leaves(p_outbox) l WHERE l.upper_bound <= v_horizon ORDER BY l.upper_bound LOOP
        leaf := v_leaf.leaf;
        EXECUTE format('SELECT EXISTS (SELECT FROM tide.%I m WHERE %s)', leaf, v_undelivered) INTO v_held;
        IF NOT v_held THEN
            BEGIN
                EXECUTE format('ALTER TABLE tide.%I DETACH PARTITION tide.%I', p_outbox.table_name, leaf);
                -- Locked now: nobody can add to it, and all that was added is
                -- committed and seen.
                EXECUTE format('SELECT EXISTS (SELECT FROM tide.%I m WHERE %s)', leaf,
                               CASE v_undelivered WHEN 'false' THEN 'false' ELSE tide._undelivered_to_any(p_outbox.outbox_id) END)
                   INTO v_held;
                IF v_held THEN
                    RAISE EXCEPTION 'held' USING ERRCODE = 'TD004';
                END IF;
                EXECUTE format('DROP TABLE tide.%I', leaf);
                action := 'dropped';
                detail := format('up to %s', v_leaf.upper_bound);
                RETURN NEXT;
                CONTINUE;
            EXCEPTION
                WHEN lock_not_available OR deadlock_detected THEN
                    action := 'skipped';
                    detail := 'in use by another transaction; tried again at the next call';
                    RETURN NEXT;
                    CONTINUE;
                WHEN SQLSTATE 'TD004' THEN
                    NULL;
            END;
        END IF;
        action := 'kept';
        detail := format('older than the retention, but a consumer group has not passed it; see tide.consumer_lag for outbox "%s"', p_outbox.name);
        RETURN NEXT;
    END LOOP;
END $$;

-- Makes leaves when less than half of what is wanted lies ahead.
CREATE OR REPLACE FUNCTION tide._make_leaves_ahead(p_outbox tide.outbox, p_now timestamptz)
RETURNS TABLE (action text, leaf text, detail text)
LANGUAGE plpgsql VOLATILE
SET lock_timeout = '50ms' AS $$
DECLARE
    v_from  timestamptz;
    v_until timestamptz;
    v_leaf  record;
    v_new   record;
    v_used  boolean;
    v_rest  record;
    v_made  text[] := '{}';
    -- A rest that is in use becomes a leaf, which scans it under lock.
    v_scan_limit constant bigint := 256 * 1024 * 1024;
BEGIN
    -- Enough while the narrow leaves reach two periods beyond the current one.
    SELECT max(l.upper_bound) FILTER (WHERE isfinite(l.upper_bound)
                                        AND (l.lower_bound <= p_now OR l.upper_bound - l.lower_bound <= p_outbox.partition_period))
      INTO v_until FROM tide._leaves(p_outbox) l;
    IF v_until >= p_now + p_outbox.partition_period * 2 THEN
        RETURN;
    END IF;

    SELECT l.* INTO v_rest FROM tide._leaves(p_outbox) l WHERE NOT isfinite(l.upper_bound);
    EXECUTE format('SELECT EXISTS (SELECT FROM tide.%I)', v_rest.leaf) INTO v_used;
    IF v_used AND pg_relation_size(v_rest.relid) > v_scan_limit THEN
        action := 'skipped';
        leaf := v_rest.leaf;
        detail := format('holds %s: turning it into a partition of its own would stop publishers for too long',
                         pg_size_pretty(pg_relation_size(v_rest.relid)));
        RETURN NEXT;
        RETURN;
    END IF;

    BEGIN
        EXECUTE format('LOCK TABLE ONLY tide.%I IN ACCESS EXCLUSIVE MODE', p_outbox.table_name);
        -- Replace the wide leaves of the future and the rest, when empty.
        FOR v_leaf IN
            SELECT l.* FROM tide._leaves(p_outbox) l
             WHERE NOT isfinite(l.upper_bound)
                OR l.lower_bound > p_now AND l.upper_bound - l.lower_bound > p_outbox.partition_period
             ORDER BY l.lower_bound
        LOOP
            EXECUTE format('SELECT EXISTS (SELECT FROM tide.%I)', v_leaf.leaf) INTO v_used;
            IF NOT v_used THEN
                EXECUTE format('DROP TABLE tide.%I', v_leaf.leaf);
            ELSIF NOT isfinite(v_leaf.upper_bound) THEN
                leaf := format('outbox_%s_%s', p_outbox.outbox_id,
                               to_char(v_leaf.lower_bound AT TIME ZONE 'UTC', 'YYYYMMDDHH24'));
                EXECUTE format('ALTER TABLE tide.%I DETACH PARTITION tide.%I', p_outbox.table_name, v_leaf.leaf);
                EXECUTE format('ALTER TABLE tide.%I RENAME TO %I', v_leaf.leaf, leaf);
                EXECUTE format('SELECT greatest(max(m.created_at), $1) FROM tide.%I m', leaf) INTO v_until USING p_now;
                PERFORM tide._attach_leaf(p_outbox, leaf, v_leaf.lower_bound,
                            date_bin(p_outbox.partition_period, v_until, '2001-01-01 00:00:00+00') + p_outbox.partition_period);
                action := 'closed';
                detail := 'the rest had been used';
                RETURN NEXT;
            END IF;
        END LOOP;
        SELECT coalesce(max(l.upper_bound), '-infinity') INTO v_from FROM tide._leaves(p_outbox) l;
        FOR v_new IN SELECT * FROM tide._wanted_leaves(p_outbox, v_from, p_now) LOOP
            PERFORM tide._create_leaf(v_new.leaf);
            PERFORM tide._attach_leaf(p_outbox, v_new.leaf, v_new.lower_bound, v_new.upper_bound);
            v_made := v_made || v_new.leaf;
        END LOOP;
    EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
        action := 'skipped';
        leaf := v_rest.leaf;
        detail := 'in use by another transaction; tried again at the next call';
        RETURN NEXT;
        RETURN;
    END;
    FOREACH leaf IN ARRAY v_made LOOP
        action := 'made';
        detail := NULL;
        RETURN NEXT;
    END LOOP;
END $$;

CREATE OR REPLACE FUNCTION tide.maintain_outbox(p_name text)
RETURNS TABLE (action text, leaf text, detail text)
LANGUAGE plpgsql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_outbox tide.outbox := tide._outbox(p_name);
BEGIN
    RETURN QUERY SELECT m.* FROM tide._make_leaves_ahead(v_outbox, clock_timestamp()) m;
    RETURN QUERY SELECT d.* FROM tide._drop_passed_leaves(v_outbox, clock_timestamp()) d;
END $$;

COMMENT ON FUNCTION tide.maintain_outbox(text) IS
'Makes the partitions of an outbox that will be needed and drops those that are past its retention and delivered to every group. Returns a row per action: made, closed, dropped, kept (a group holds it), skipped (locked; call again).';

CREATE OR REPLACE FUNCTION tide.maintain_outboxes(p_limit integer DEFAULT 10)
RETURNS TABLE (outbox_name text, action text, leaf text, detail text)
LANGUAGE plpgsql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_changed boolean;
BEGIN
    -- Locks are held until the caller's transaction ends, hence the limit.
    FOR outbox_name IN SELECT o.name FROM tide.outbox o ORDER BY o.outbox_id LOOP
        EXIT WHEN p_limit <= 0;
        v_changed := false;
        BEGIN
            FOR action, leaf, detail IN SELECT m.* FROM tide.maintain_outbox(outbox_name) m LOOP
                v_changed := v_changed OR action IN ('made', 'closed', 'dropped');
                RETURN NEXT;
            END LOOP;
        EXCEPTION WHEN OTHERS THEN
            -- One broken outbox does not keep the others from being maintained.
            action := 'failed';
            leaf := NULL;
            detail := SQLERRM;
            RETURN NEXT;
        END;
        IF v_changed THEN
            p_limit := p_limit - 1;
        END IF;
    END LOOP;
END $$;

COMMENT ON FUNCTION tide.maintain_outboxes(integer) IS
'tide.maintain_outbox for every outbox, until p_limit of them were changed: call again then. Relays call it by themselves. Returns a row per action.';
