-- Outboxes: made, dropped, switched, listed.

CREATE OR REPLACE FUNCTION tide._check_retention(p_name text, p_retention_hours integer)
RETURNS void
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF p_retention_hours IS NULL OR p_retention_hours NOT BETWEEN 1 AND 876000 THEN
        RAISE EXCEPTION 'retention of outbox "%" is % hours', p_name, coalesce(p_retention_hours::text, 'null')
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'p_retention_hours is a number of hours from 1 to 876000.';
    END IF;
END $$;

-- Attached, not created as a partition: that would lock out the publishers of
-- all other outboxes.
CREATE OR REPLACE FUNCTION tide._attach_outbox(p_outbox tide.outbox)
RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    EXECUTE format('ALTER TABLE tide.outbox_message ATTACH PARTITION tide.%I FOR VALUES IN (%L)',
                   p_outbox.table_name, p_outbox.name);
END $$;

-- The table of an outbox, with its leaves, and attached at the end.
CREATE OR REPLACE FUNCTION tide._make_outbox_table(p_outbox tide.outbox)
RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    EXECUTE format('CREATE TABLE tide.%I (LIKE tide.outbox_message INCLUDING DEFAULTS INCLUDING CONSTRAINTS)'
                   ' PARTITION BY RANGE (created_at)', p_outbox.table_name);
    EXECUTE format('ALTER TABLE tide.%I ALTER outbox SET DEFAULT %L', p_outbox.table_name, p_outbox.name);
    EXECUTE format('CREATE INDEX ON tide.%I (id)', p_outbox.table_name);
    EXECUTE format('CREATE INDEX ON tide.%I (xid)', p_outbox.table_name);
    PERFORM tide._cover(p_outbox, w.leaf, w.lower_bound, w.upper_bound)
       FROM tide._wanted_leaves(p_outbox, '-infinity', clock_timestamp()) w;
    PERFORM tide._attach_outbox(p_outbox);
    EXECUTE format('COMMENT ON TABLE tide.%I IS %L', p_outbox.table_name,
                   format('Messages of outbox "%s". Publish with tide.outbox_publish, or INSERT (payload, headers).', p_outbox.name));
    PERFORM tide._grant_outbox(p_outbox.table_name);
END $$;

CREATE OR REPLACE FUNCTION tide.outbox_create(p_name text, p_retention_hours integer DEFAULT 24)
RETURNS void
LANGUAGE plpgsql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_outbox tide.outbox;
BEGIN
    PERFORM tide._check_name(p_name, 'outbox', 63);
    PERFORM tide._check_retention(p_name, p_retention_hours);
    INSERT INTO tide.outbox (name, table_name, retention, partition_period)
    VALUES (p_name, tide._table_name(p_name, '_outbox'),
            make_interval(hours => p_retention_hours),
            tide._partition_period(make_interval(hours => p_retention_hours)))
    ON CONFLICT DO NOTHING
    RETURNING * INTO v_outbox;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'outbox "%" already exists', p_name
            USING ERRCODE = 'duplicate_object',
                  HINT = 'tide.outbox_create_if_not_exists keeps an outbox that is there.';
    END IF;
    PERFORM tide._make_outbox_table(v_outbox);
END $$;

COMMENT ON FUNCTION tide.outbox_create(text, integer) IS
'Makes an outbox and its table tide."<name>_outbox". p_retention_hours: how long delivered messages are kept, at least. Error when the outbox exists.';

CREATE OR REPLACE FUNCTION tide.outbox_create_if_not_exists(p_name text, p_retention_hours integer DEFAULT 24)
RETURNS boolean
LANGUAGE plpgsql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM tide.outbox o WHERE o.name = p_name) THEN
        RETURN false;
    END IF;
    PERFORM tide.outbox_create(p_name, p_retention_hours);
    RETURN true;
EXCEPTION WHEN duplicate_object THEN
    -- Someone else made it meanwhile.
    RETURN false;
END $$;

COMMENT ON FUNCTION tide.outbox_create_if_not_exists(text, integer) IS
'Like tide.outbox_create, but an existing outbox is kept as it is. Returns whether it was made now.';

CREATE OR REPLACE FUNCTION tide.outbox_drop(p_name text, p_if_exists boolean DEFAULT false)
RETURNS void
LANGUAGE plpgsql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '200ms' AS $$
DECLARE
    v_outbox    tide.outbox;
    v_pipelines text[];
BEGIN
    IF p_if_exists AND NOT EXISTS (SELECT FROM tide.outbox o WHERE o.name = p_name) THEN
        RETURN;
    END IF;
    v_outbox := tide._outbox(p_name);

    -- A single partition cannot be taken out without locking the root, which
    -- all publishers use: try shortly, several times, and then give up.
    FOR attempt IN 1 .. 5 LOOP
        BEGIN
            PERFORM 1 FROM tide.outbox o WHERE o.outbox_id = v_outbox.outbox_id FOR UPDATE;
            v_pipelines := ARRAY(SELECT p.name FROM tide.pipeline p WHERE p.outbox_id = v_outbox.outbox_id ORDER BY p.name);
            IF v_pipelines <> '{}' THEN
                RAISE EXCEPTION 'outbox "%" is used by % %', p_name,
                    CASE cardinality(v_pipelines) WHEN 1 THEN 'pipeline' ELSE 'pipelines' END,
                    tide._quoted_list(v_pipelines)
                    USING ERRCODE = 'dependent_objects_still_exist',
                          HINT = format('Delete the pipeline first: SELECT tide.relay_delete(%L).', v_pipelines[1]);
            END IF;
            LOCK TABLE ONLY tide.outbox_message IN ACCESS EXCLUSIVE MODE;
            EXECUTE format('DROP TABLE IF EXISTS tide.%I', v_outbox.table_name);
            DELETE FROM tide.outbox o WHERE o.outbox_id = v_outbox.outbox_id;
            DELETE FROM tide.managed_object m WHERE m.kind = 'outbox' AND m.object = p_name AND m.released_at IS NOT NULL;
            RETURN;
        EXCEPTION WHEN lock_not_available THEN
            PERFORM pg_sleep(0.05 * attempt);
        END;
    END LOOP;
    RAISE EXCEPTION 'outbox "%" could not be dropped: other transactions are publishing or reading', p_name
        USING ERRCODE = 'lock_not_available',
              HINT = 'Try again; look in pg_stat_activity for transactions that stay open.';
END $$;

COMMENT ON FUNCTION tide.outbox_drop(text, boolean) IS
'Drops an outbox with its messages and consumer groups. Refused while a pipeline uses it. p_if_exists: no error when there is none.';

-- A disabled outbox has a trigger that refuses every row, so that an enabled
-- one costs its publishers no look-up. Making or dropping it waits for open
-- publishers of this outbox: tried shortly, several times.
CREATE OR REPLACE FUNCTION tide._switch_outbox(p_name text, p_enabled boolean)
RETURNS void
LANGUAGE plpgsql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '200ms' AS $$
DECLARE
    v_outbox tide.outbox := tide._outbox(p_name);
BEGIN
    FOR attempt IN 1 .. 5 LOOP
        BEGIN
            EXECUTE format('DROP TRIGGER IF EXISTS disabled ON tide.%I', v_outbox.table_name);
            IF NOT p_enabled THEN
                EXECUTE format('CREATE TRIGGER disabled BEFORE INSERT ON tide.%I'
                               ' FOR EACH ROW EXECUTE FUNCTION tide._refuse_message()', v_outbox.table_name);
            END IF;
            UPDATE tide.outbox SET enabled = p_enabled WHERE outbox_id = v_outbox.outbox_id;
            RETURN;
        EXCEPTION WHEN lock_not_available THEN
            PERFORM pg_sleep(0.05 * attempt);
        END;
    END LOOP;
    RAISE EXCEPTION 'outbox "%" could not be %: other transactions are publishing to it', p_name,
        CASE WHEN p_enabled THEN 'enabled' ELSE 'disabled' END
        USING ERRCODE = 'lock_not_available',
              HINT = 'Try again; look in pg_stat_activity for transactions that stay open.';
END $$;

CREATE OR REPLACE FUNCTION tide.outbox_enable(p_name text)
RETURNS void
LANGUAGE sql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT tide._switch_outbox(p_name, true)
$$;

COMMENT ON FUNCTION tide.outbox_enable(text) IS
'Lets the outbox accept messages again.';

CREATE OR REPLACE FUNCTION tide.outbox_disable(p_name text)
RETURNS void
LANGUAGE sql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT tide._switch_outbox(p_name, false)
$$;

COMMENT ON FUNCTION tide.outbox_disable(text) IS
'Makes the outbox refuse new messages, by tide.outbox_publish and by INSERT into its table. What is in it is still delivered. Error when other transactions are publishing to it just now and stay open.';

-- Partitions that are there keep their width: the current one may hold much.
-- Maintenance makes those to come, and replaces empty ones, by the new period.
CREATE OR REPLACE FUNCTION tide.outbox_set_retention(p_name text, p_retention_hours integer)
RETURNS boolean
LANGUAGE plpgsql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_outbox    tide.outbox := tide._outbox(p_name);
    v_retention interval := make_interval(hours => p_retention_hours);
BEGIN
    PERFORM tide._check_retention(p_name, p_retention_hours);
    IF v_outbox.retention = v_retention AND v_outbox.partition_period = tide._partition_period(v_retention) THEN
        RETURN false;
    END IF;
    UPDATE tide.outbox o SET retention = v_retention, partition_period = tide._partition_period(v_retention)
     WHERE o.outbox_id = v_outbox.outbox_id;
    RETURN true;
END $$;

COMMENT ON FUNCTION tide.outbox_set_retention(text, integer) IS
'How long delivered messages of the outbox are kept, at least. Returns whether that was changed. Locks nobody; partitions that are there keep their width, so that what is in them goes at most one old period later than said here. What a group has not passed is kept, whatever is set.';

CREATE OR REPLACE FUNCTION tide.outbox_list()
RETURNS TABLE (outbox_name text, table_name name, enabled boolean, retention interval, created_at timestamptz)
LANGUAGE sql STABLE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT o.name, o.table_name, o.enabled, o.retention, o.created_at FROM tide.outbox o ORDER BY o.name
$$;

COMMENT ON FUNCTION tide.outbox_list() IS 'All outboxes with their tables and retention.';

CREATE OR REPLACE FUNCTION tide.outbox_status(p_name text DEFAULT NULL)
RETURNS TABLE (outbox_name text, enabled boolean, retention interval, pending_count bigint,
               oldest_pending_at timestamptz, max_pending_id bigint, consumer_groups bigint, pipelines bigint,
               leaves bigint, partitioned_until timestamptz, total_bytes bigint)
LANGUAGE plpgsql STABLE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_outbox tide.outbox;
BEGIN
    IF p_name IS NOT NULL THEN
        PERFORM tide._outbox(p_name);
    END IF;
    FOR v_outbox IN SELECT o.* FROM tide.outbox o WHERE p_name IS NULL OR o.name = p_name ORDER BY o.name LOOP
        outbox_name := v_outbox.name;
        enabled := v_outbox.enabled;
        retention := v_outbox.retention;
        SELECT p.pending_count, p.oldest_at, p.max_id INTO pending_count, oldest_pending_at, max_pending_id
          FROM tide._pending(v_outbox) p;
        SELECT count(*) INTO consumer_groups FROM tide.consumer_group g WHERE g.outbox_id = v_outbox.outbox_id;
        SELECT count(*) INTO pipelines FROM tide.pipeline p WHERE p.outbox_id = v_outbox.outbox_id;
        SELECT count(*), max(l.upper_bound) FILTER (WHERE isfinite(l.upper_bound)),
               sum(pg_total_relation_size(l.relid))
          INTO leaves, partitioned_until, total_bytes
          FROM tide._leaves(v_outbox) l;
        RETURN NEXT;
    END LOOP;
END $$;

COMMENT ON FUNCTION tide.outbox_status(text) IS
'One row for the named outbox, or for each: pending messages (as tide.outbox_pending), groups, pipelines, partitions and bytes on disk.';
