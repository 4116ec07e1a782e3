-- Retention of outboxes: leaves made ahead of time, and dropped when they are
-- passed (docs/design/retention.md).
--
-- Both lock the outbox, so both try for a moment only (lock_timeout), do what
-- takes time before they lock, and leave what remains to the next call.
-- Publishing never comes here.

-- Whether a group lacks a message of a leaf, or is to have one again by a
-- replay. By index, whatever the planner expects: a leaf may hold hundreds of
-- millions of rows.
CREATE OR REPLACE FUNCTION tide._lacks(p_cursor tide.group_cursor, p_leaf name)
RETURNS boolean
LANGUAGE plpgsql STABLE
SET enable_seqscan = off AS $$
DECLARE
    v_lacks boolean;
BEGIN
    EXECUTE format('SELECT EXISTS (SELECT FROM tide.%I m WHERE %s)', p_leaf, tide._undelivered(p_cursor)) INTO v_lacks;
    RETURN v_lacks
        OR EXISTS (SELECT FROM tide.redelivery r JOIN tide.pipeline p USING (pipeline_id), tide._replay_rows(p_leaf, r, 1)
                    WHERE p.group_id = p_cursor.group_id AND r.dlq_id IS NULL);
END $$;

-- Who has locks on tables of an outbox.
CREATE OR REPLACE FUNCTION tide._locked_by(p_tables name[])
RETURNS TABLE (pid integer, virtualtransaction text)
LANGUAGE sql VOLATILE AS $$
    SELECT DISTINCT l.pid, l.virtualtransaction
      FROM pg_catalog.pg_locks l
      JOIN pg_catalog.pg_class c ON c.oid = l.relation AND c.relnamespace = 'tide'::regnamespace
     WHERE l.locktype = 'relation' AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()
       AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database())
       AND c.relname = ANY (p_tables)
$$;

-- How long to wait for a lock, while publishers queue behind. Longer when what
-- is to be done is overdue, so that an outbox which is never quiet for a moment
-- is maintained all the same; but not when somebody has it who does not let go:
-- then waiting is of no use. To be called before anything is locked.
CREATE OR REPLACE FUNCTION tide._be_patient(p_overdue boolean, VARIADIC p_tables name[])
RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_users text[];
BEGIN
    IF p_overdue THEN
        v_users := ARRAY(SELECT l.virtualtransaction FROM tide._locked_by(p_tables) l);
        IF v_users <> '{}' THEN
            PERFORM pg_sleep(0.3);
            p_overdue := NOT EXISTS (SELECT FROM tide._locked_by(p_tables) l WHERE l.virtualtransaction = ANY (v_users));
        END IF;
    END IF;
    PERFORM set_config('lock_timeout', CASE WHEN p_overdue THEN '500ms' ELSE '50ms' END, true);
END $$;

CREATE OR REPLACE FUNCTION tide._in_use_by(VARIADIC p_tables name[])
RETURNS text
LANGUAGE sql VOLATILE AS $$
    SELECT format('in use by other transactions%s; tried again at the next call',
                  ' (' || string_agg(DISTINCT coalesce('process ' || l.pid, 'prepared, see pg_prepared_xacts'), ', ') || ')')
      FROM tide._locked_by(p_tables) l
$$;

-- Detaches and drops the oldest leaves while they are older than the retention
-- and hold nothing that a group still lacks; some of them in one call. What
-- they covered is covered by an empty leaf from the beginning of time,
-- outbox_<id>_past, for publishers whose clock is set back.
CREATE OR REPLACE FUNCTION tide._drop_passed_leaves(p_outbox tide.outbox, p_now timestamptz)
RETURNS TABLE (action text, leaf text, detail text)
LANGUAGE plpgsql VOLATILE
SET lock_timeout = '50ms' SET enable_seqscan = off AS $$
DECLARE
    v_horizon timestamptz := p_now - p_outbox.retention;
    v_grouped boolean := EXISTS (SELECT FROM tide.consumer_group g WHERE g.outbox_id = p_outbox.outbox_id);
    v_before  pg_snapshot := pg_current_snapshot();
    v_past    name := format('outbox_%s_past', p_outbox.outbox_id);
    v_passed  text[] := '{}';
    v_gone    text[] := '{}';
    v_first   timestamptz;
    v_upper   timestamptz;
    v_leaf    record;
    v_used    boolean;
BEGIN
    -- Looked at before anything is locked, and few of them, as the lock is
    -- held until the transaction ends.
    FOR v_leaf IN SELECT * FROM tide._leaves(p_outbox) l WHERE l.upper_bound <= v_horizon ORDER BY l.upper_bound LOOP
        EXIT WHEN cardinality(v_passed) >= 8;
        IF EXISTS (SELECT FROM tide.consumer_group g LEFT JOIN tide.group_cursor c USING (group_id)
                    WHERE g.outbox_id = p_outbox.outbox_id AND tide._lacks(c, v_leaf.leaf)) THEN
            action := 'kept';
            leaf := v_leaf.leaf;
            detail := format('older than the retention, but a consumer group has not passed it; see tide.retention_status for outbox "%s"', p_outbox.name);
            RETURN NEXT;
            EXIT;
        END IF;
        EXECUTE format('SELECT EXISTS (SELECT FROM tide.%I)', v_leaf.leaf) INTO v_used;
        IF v_used OR v_leaf.leaf <> v_past THEN
            v_first := coalesce(v_first, v_leaf.upper_bound);
        END IF;
        v_passed := v_passed || v_leaf.leaf::text;
    END LOOP;
    IF v_first IS NULL THEN
        RETURN;
    END IF;

    BEGIN
        IF to_regclass(format('tide.%I', v_past)) IS NULL THEN
            PERFORM tide._create_leaf(v_past);
        END IF;
        PERFORM tide._be_patient(v_first < v_horizon - interval '1 day', p_outbox.table_name);
        FOR v_leaf IN SELECT * FROM tide._leaves(p_outbox) l WHERE l.leaf = ANY (v_passed) ORDER BY l.upper_bound LOOP
            EXECUTE format('ALTER TABLE tide.%I DETACH PARTITION tide.%I', p_outbox.table_name, v_leaf.leaf);
            -- Locked now: nobody can add to it. What was added since it was
            -- looked at is committed and seen.
            EXECUTE format('SELECT EXISTS (SELECT FROM tide.%I m WHERE %s)', v_leaf.leaf, tide._unseen(v_before)) INTO v_used;
            IF v_used AND v_grouped THEN
                RAISE EXCEPTION 'held' USING ERRCODE = 'TD004';
            END IF;
            EXECUTE format('SELECT EXISTS (SELECT FROM tide.%I)', v_leaf.leaf) INTO v_used;
            IF v_used OR v_leaf.leaf <> v_past THEN
                EXECUTE format('DROP TABLE tide.%I', v_leaf.leaf);
                v_gone := v_gone || v_leaf.leaf::text;
            END IF;
            v_upper := v_leaf.upper_bound;
        END LOOP;
        IF to_regclass(format('tide.%I', v_past)) IS NULL THEN
            PERFORM tide._create_leaf(v_past);
        END IF;
        PERFORM tide._attach_leaf(p_outbox, v_past, '-infinity', v_upper);
    EXCEPTION
        WHEN lock_not_available OR deadlock_detected THEN
            action := 'skipped';
            leaf := v_leaf.leaf;
            detail := tide._in_use_by(VARIADIC p_outbox.table_name || v_passed::name[]);
            RETURN NEXT;
            RETURN;
        WHEN SQLSTATE 'TD004' THEN
            action := 'kept';
            leaf := v_leaf.leaf;
            detail := 'messages were added to it just now; looked at again at the next call';
            RETURN NEXT;
            RETURN;
    END;
    FOREACH leaf IN ARRAY v_gone LOOP
        action := 'dropped';
        detail := format('older than %s', v_upper);
        RETURN NEXT;
    END LOOP;
END $$;

-- The end of the period that holds the last message of a leaf, or p_least.
CREATE OR REPLACE FUNCTION tide._end_of(p_leaf name, p_period interval, p_least timestamptz)
RETURNS timestamptz
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_last timestamptz;
BEGIN
    EXECUTE format('SELECT max(m.created_at) FROM tide.%I m', p_leaf) INTO v_last;
    RETURN date_bin(p_period, greatest(v_last, p_least), '2001-01-01 00:00:00+00') + p_period;
END $$;

-- A rest that holds much cannot be made a leaf at once: attaching it with an
-- upper bound scans it while publishers wait. So a constraint says the same
-- beforehand, is checked without stopping anybody, and makes the scan
-- superfluous. A call does one of these steps; each needs a transaction of its
-- own. True when the constraint is checked and the rest can be attached.
--
-- Until then messages beyond the bound must not be refused, however long
-- nobody goes on with this: a trigger dates them just before it.
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
    ready := coalesce(v_constraint.convalidated, false);
    IF bound IS NULL THEN
        bound := tide._end_of(p_rest, p_period, p_now + interval '72 hours');
        PERFORM tide._be_patient(true, p_rest);
        EXECUTE format('ALTER TABLE tide.%I ADD CONSTRAINT %I CHECK (created_at >= %L AND created_at < %L) NOT VALID',
                       p_rest, 'closing_' || to_char(bound, 'YYYYMMDDHH24'), p_lower, bound);
        EXECUTE format('CREATE TRIGGER closing BEFORE INSERT ON tide.%I FOR EACH ROW WHEN (NEW.created_at >= %L)'
                       ' EXECUTE FUNCTION tide._date_before(%L)', p_rest, bound, bound);
        detail := format('will hold messages up to %s; checked at the next call', bound);
    ELSIF NOT ready THEN
        -- Publishers do not queue behind this lock; a vacuum may hold it for long.
        PERFORM set_config('lock_timeout', '10s', true);
        BEGIN
            EXECUTE format('ALTER TABLE tide.%I VALIDATE CONSTRAINT %I', p_rest, v_constraint.conname);
            detail := 'checked; becomes a partition at the next call';
        EXCEPTION WHEN check_violation THEN
            -- A message dated far ahead came just before the trigger.
            PERFORM tide._be_patient(true, p_rest);
            PERFORM tide._forget_bound(p_rest);
            detail := 'a message in it is dated beyond; begun anew at the next call';
        END;
    END IF;
END $$;

-- Takes constraint and trigger off again.
CREATE OR REPLACE FUNCTION tide._forget_bound(p_leaf name)
RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_constraint name;
BEGIN
    FOR v_constraint IN SELECT c.conname FROM pg_constraint c
                         WHERE c.conrelid = format('tide.%I', p_leaf)::regclass AND c.contype = 'c' AND c.conname LIKE 'closing\_%' LOOP
        EXECUTE format('ALTER TABLE tide.%I DROP CONSTRAINT %I', p_leaf, v_constraint);
    END LOOP;
    EXECUTE format('DROP TRIGGER IF EXISTS closing ON tide.%I', p_leaf);
END $$;

CREATE OR REPLACE FUNCTION tide._date_before()
RETURNS trigger
LANGUAGE plpgsql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.created_at := TG_ARGV[0]::timestamptz - interval '1 microsecond';
    RETURN NEW;
END $$;

-- The rest becomes a leaf up to p_upper. The caller holds the outbox's lock.
CREATE OR REPLACE FUNCTION tide._close_rest(p_outbox tide.outbox, p_rest name, p_lower timestamptz, p_upper timestamptz)
RETURNS text
LANGUAGE plpgsql VOLATILE
SET timezone = 'UTC' AS $$
DECLARE
    v_leaf text := format('outbox_%s_%s', p_outbox.outbox_id, to_char(p_lower, 'YYYYMMDDHH24'));
BEGIN
    EXECUTE format('ALTER TABLE tide.%I DETACH PARTITION tide.%I', p_outbox.table_name, p_rest);
    EXECUTE format('ALTER TABLE tide.%I RENAME TO %I', p_rest, v_leaf);
    PERFORM tide._attach_leaf(p_outbox, v_leaf, p_lower, p_upper);
    PERFORM tide._forget_bound(v_leaf);
    RETURN v_leaf;
END $$;

-- Makes leaves when less than half of what is wanted lies ahead.
CREATE OR REPLACE FUNCTION tide._make_leaves_ahead(p_outbox tide.outbox, p_now timestamptz)
RETURNS TABLE (action text, leaf text, detail text)
LANGUAGE plpgsql VOLATILE
SET lock_timeout = '50ms' AS $$
DECLARE
    v_until timestamptz;
    v_from  timestamptz;
    v_leaf  record;
    v_new   record;
    v_used  boolean;
    v_rest  record;
    v_bound timestamptz;
    v_ready boolean;
    v_text  text;
    v_early text[] := '{}';
    v_made  text[] := '{}';
    -- What is scanned while publishers wait: some hundredths of a second.
    v_scan_limit constant bigint := 32 * 1024 * 1024;
BEGIN
    -- Enough while the narrow leaves reach two periods beyond the current one.
    SELECT max(l.upper_bound) FILTER (WHERE isfinite(l.upper_bound)
                                        AND (l.lower_bound <= p_now OR l.upper_bound - l.lower_bound <= p_outbox.partition_period))
      INTO v_until FROM tide._leaves(p_outbox) l;
    -- A wide one that is used already, by a clock that is ahead, stays.
    IF v_until < p_now + p_outbox.partition_period * 2 THEN
        FOR v_leaf IN SELECT l.* FROM tide._leaves(p_outbox) l
                       WHERE isfinite(l.upper_bound) AND l.upper_bound > v_until ORDER BY l.lower_bound LOOP
            EXECUTE format('SELECT EXISTS (SELECT FROM tide.%I)', v_leaf.leaf) INTO v_used;
            IF v_used THEN
                v_until := v_leaf.upper_bound;
            END IF;
        END LOOP;
    END IF;
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

        -- Most of the work is to make the tables: before the lock, those whose
        -- names are free.
        v_from := CASE WHEN v_used THEN coalesce(v_bound, tide._end_of(v_rest.leaf, p_outbox.partition_period, p_now)) ELSE v_until END;
        FOR v_new IN SELECT w.leaf FROM tide._wanted_leaves(p_outbox, v_from, p_now) w
                      WHERE to_regclass(format('tide.%I', w.leaf)) IS NULL LOOP
            PERFORM tide._create_leaf(v_new.leaf);
            v_early := v_early || v_new.leaf;
        END LOOP;

        PERFORM tide._be_patient(v_until IS NULL OR v_until < p_now + p_outbox.partition_period, p_outbox.table_name);
        EXECUTE format('LOCK TABLE ONLY tide.%I IN ACCESS EXCLUSIVE MODE', p_outbox.table_name);
        -- Replace the wide leaves of the future, and move the rest, when empty:
        -- from the end, up to the first that is to stay, so that no gap is left.
        FOR v_leaf IN
            SELECT l.* FROM tide._leaves(p_outbox) l
             WHERE NOT isfinite(l.upper_bound) OR l.lower_bound > p_now
             ORDER BY l.lower_bound DESC
        LOOP
            EXIT WHEN isfinite(v_leaf.upper_bound) AND v_leaf.upper_bound - v_leaf.lower_bound <= p_outbox.partition_period;
            EXECUTE format('SELECT EXISTS (SELECT FROM tide.%I)', v_leaf.leaf) INTO v_used;
            IF NOT v_used AND isfinite(v_leaf.upper_bound) THEN
                EXECUTE format('DROP TABLE tide.%I', v_leaf.leaf);
            ELSIF NOT v_used THEN
                EXECUTE format('ALTER TABLE tide.%I DETACH PARTITION tide.%I', p_outbox.table_name, v_leaf.leaf);
            ELSIF NOT isfinite(v_leaf.upper_bound) THEN
                v_until := coalesce(v_bound, tide._end_of(v_leaf.leaf, p_outbox.partition_period, p_now));
                action := 'closed';
                leaf := tide._close_rest(p_outbox, v_leaf.leaf, v_leaf.lower_bound, v_until);
                detail := format('the rest had been used; up to %s', v_until);
                RETURN NEXT;
                EXIT;
            ELSE
                EXIT;
            END IF;
        END LOOP;
        SELECT coalesce(max(l.upper_bound), '-infinity') INTO v_from FROM tide._leaves(p_outbox) l;
        FOR v_new IN SELECT * FROM tide._wanted_leaves(p_outbox, v_from, p_now) LOOP
            IF to_regclass(format('tide.%I', v_new.leaf)) IS NULL THEN
                PERFORM tide._create_leaf(v_new.leaf);
            END IF;
            PERFORM tide._attach_leaf(p_outbox, v_new.leaf, v_new.lower_bound, v_new.upper_bound);
            v_made := v_made || v_new.leaf;
        END LOOP;
        -- Somebody used a leaf in between, so that others were wanted.
        FOREACH v_text IN ARRAY v_early LOOP
            IF v_text <> ALL (v_made) THEN
                EXECUTE format('DROP TABLE tide.%I', v_text);
            END IF;
        END LOOP;
    EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
        action := 'skipped';
        leaf := v_rest.leaf;
        detail := tide._in_use_by(p_outbox.table_name, v_rest.leaf);
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
    v_locked boolean := false;
BEGIN
    -- Needs to see what others committed while it waited for a lock.
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'outboxes cannot be maintained in a transaction that is %', current_setting('transaction_isolation')
            USING ERRCODE = 'invalid_transaction_state', HINT = 'Begin it with BEGIN ISOLATION LEVEL READ COMMITTED.';
    END IF;
    FOR action, leaf, detail IN SELECT m.* FROM tide._make_leaves_ahead(v_outbox, clock_timestamp()) m LOOP
        v_locked := v_locked OR action <> 'skipped';
        RETURN NEXT;
    END LOOP;
    -- Not while the outbox is locked: looking at old partitions may take long.
    IF v_locked THEN
        RETURN;
    END IF;
    RETURN QUERY SELECT d.* FROM tide._drop_passed_leaves(v_outbox, clock_timestamp()) d;
END $$;

COMMENT ON FUNCTION tide.maintain_outbox(text) IS
'Makes the partitions of an outbox that will be needed, or else drops some of those that are past its retention and delivered to every group. Returns a row per action: made, dropped, closed (the last partition had been used), closing (the same, in several steps): call again after these, in a transaction of its own, for there may be more to do; kept (a group holds it), skipped (locked: by whom; call again later).';

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
