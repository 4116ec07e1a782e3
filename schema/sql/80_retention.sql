-- Retention of outboxes: leaves made ahead of time, and dropped when they are
-- passed (docs/design/retention.md).
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
        detail := format('older than the retention, but a consumer group has not passed it; see tide.retention_status for outbox "%s"', p_outbox.name);
        RETURN NEXT;
    END LOOP;
END $$;

-- A rest that holds much cannot be made a leaf at once: attaching it with an
-- upper bound scans it while publishers wait. So a constraint says the same
-- beforehand, is checked without stopping anybody, and makes the scan
-- superfluous. A call does one of these steps; each needs a transaction of its
-- own. True when the constraint is checked and the rest can be attached.
--
-- Until then, messages beyond the bound would be refused, so the bound is days
-- ahead, and a constraint that nobody got to check in time is taken off.
CREATE OR REPLACE FUNCTION tide._prepare_rest(p_rest name, p_lower timestamptz, p_period interval, p_now timestamptz,
                                   OUT bound timestamptz, OUT ready boolean, OUT detail text)
LANGUAGE plpgsql VOLATILE
SET timezone = 'UTC' SET datestyle = 'ISO' SET lock_timeout = '50ms' AS $$
DECLARE
    v_constraint record;
BEGIN
    SELECT c.conname, c.convalidated,
           to_timestamp(substr(c.conname, 9), 'YYYYMMDDHH24')::timestamptz AS bound
      INTO v_constraint
      FROM pg_constraint c
     WHERE c.conrelid = format('tide.%I', p_rest)::regclass AND c.contype = 'c' AND c.conname LIKE 'closing\_%';
    bound := v_constraint.bound;
    ready := false;
    IF NOT FOUND THEN
        bound := date_bin(p_period, p_now + interval '72 hours', '2001-01-01 00:00:00+00') + p_period;
        EXECUTE format('ALTER TABLE tide.%I ADD CONSTRAINT %I CHECK (created_at >= %L AND created_at < %L) NOT VALID',
                       p_rest, 'closing_' || to_char(bound, 'YYYYMMDDHH24'), p_lower, bound);
        detail := format('will hold messages up to %s; checked at the next call', bound);
    ELSIF v_constraint.convalidated THEN
        ready := true;
    ELSIF v_constraint.bound < p_now + interval '24 hours' THEN
        EXECUTE format('ALTER TABLE tide.%I DROP CONSTRAINT %I', p_rest, v_constraint.conname);
        detail := 'was not checked in time; begun anew at the next call';
    ELSE
        -- Publishers do not queue behind this lock; a vacuum may hold it for long.
        PERFORM set_config('lock_timeout', '10s', true);
        EXECUTE format('ALTER TABLE tide.%I VALIDATE CONSTRAINT %I', p_rest, v_constraint.conname);
        detail := 'checked; becomes a partition at the next call';
    END IF;
END $$;

-- The rest becomes a leaf up to p_upper. The caller holds the outbox's lock.
CREATE OR REPLACE FUNCTION tide._close_rest(p_outbox tide.outbox, p_rest name, p_lower timestamptz, p_upper timestamptz)
RETURNS text
LANGUAGE plpgsql VOLATILE
SET timezone = 'UTC' AS $$
DECLARE
    v_leaf       text := format('outbox_%s_%s', p_outbox.outbox_id, to_char(p_lower, 'YYYYMMDDHH24'));
    v_constraint name;
BEGIN
    EXECUTE format('ALTER TABLE tide.%I DETACH PARTITION tide.%I', p_outbox.table_name, p_rest);
    EXECUTE format('ALTER TABLE tide.%I RENAME TO %I', p_rest, v_leaf);
    PERFORM tide._attach_leaf(p_outbox, v_leaf, p_lower, p_upper);
    FOR v_constraint IN SELECT c.conname FROM pg_constraint c
                         WHERE c.conrelid = format('tide.%I', v_leaf)::regclass AND c.contype = 'c' AND c.conname LIKE 'closing\_%' LOOP
        EXECUTE format('ALTER TABLE tide.%I DROP CONSTRAINT %I', v_leaf, v_constraint);
    END LOOP;
    RETURN v_leaf;
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
    v_bound timestamptz;
    v_ready boolean;
    v_text  text;
    v_made  text[] := '{}';
    -- What is scanned while publishers wait: some hundredths of a second.
    v_scan_limit constant bigint := 32 * 1024 * 1024;
BEGIN
    -- Enough while the narrow leaves reach two periods beyond the current one.
    SELECT max(l.upper_bound) FILTER (WHERE isfinite(l.upper_bound)
                                        AND (l.lower_bound <= p_now OR l.upper_bound - l.lower_bound <= p_outbox.partition_period))
      INTO v_until FROM tide._leaves(p_outbox) l;
    IF v_until >= p_now + p_outbox.partition_period * 2 THEN
        RETURN;
    END IF;

    SELECT l.* INTO v_rest FROM tide._leaves(p_outbox) l WHERE NOT isfinite(l.upper_bound);
    BEGIN
        EXECUTE format('SELECT EXISTS (SELECT FROM tide.%I)', v_rest.leaf) INTO v_used;
        IF v_used AND pg_relation_size(v_rest.relid) > v_scan_limit THEN
            SELECT r.bound, r.ready, r.detail INTO v_bound, v_ready, v_text
              FROM tide._prepare_rest(v_rest.leaf, v_rest.lower_bound, p_outbox.partition_period, p_now) r;
            IF NOT v_ready THEN
                action := 'closing';
                leaf := v_rest.leaf;
                detail := format('the rest holds %s and %s', pg_size_pretty(pg_relation_size(v_rest.relid)), v_text);
                RETURN NEXT;
                RETURN;
            END IF;
        END IF;

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
                v_until := v_bound;
                IF v_until IS NULL THEN
                    EXECUTE format('SELECT greatest(max(m.created_at), $1) FROM tide.%I m', v_leaf.leaf) INTO v_until USING p_now;
                    v_until := date_bin(p_outbox.partition_period, v_until, '2001-01-01 00:00:00+00') + p_outbox.partition_period;
                END IF;
                action := 'closed';
                leaf := tide._close_rest(p_outbox, v_leaf.leaf, v_leaf.lower_bound, v_until);
                detail := format('the rest had been used; up to %s', v_until);
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
'Makes the partitions of an outbox that will be needed and drops those that are past its retention and delivered to every group. Returns a row per action: made, dropped, kept (a group holds it), skipped (locked; call again), closing (the last partition was used for days and is being taken out of use in several steps: call again, each time in a transaction of its own), closed.';

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
                v_changed := v_changed OR action IN ('made', 'closing', 'closed', 'dropped');
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
