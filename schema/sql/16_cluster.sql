-- Where snapshots mean something.

-- On a standby the timeline of the last checkpoint is the one to be had.
CREATE OR REPLACE FUNCTION tide._cluster(OUT system_identifier bigint, OUT timeline bigint)
LANGUAGE sql STABLE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT s.system_identifier,
           CASE WHEN pg_is_in_recovery() THEN (SELECT c.timeline_id FROM pg_control_checkpoint() c)
                ELSE ('x' || lpad(substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8), 16, '0'))::bit(64)::bigint
           END
      FROM pg_control_system() s
$$;

COMMENT ON FUNCTION tide._cluster() IS
'For relays: identity of the cluster and its timeline, between which snapshots must not be carried over.';

-- In a database that was restored from a dump, messages may carry xids that
-- this cluster has yet to give out: nobody would see them until then, and then
-- they would count as new. They get the xid of what was always there, as in the
-- snapshot of a group that has had nothing, '3:3:'. A row that a statement sees
-- though its snapshot does not call the xid finished can only be one of those,
-- or the transaction's own. Returns how many; call again until there are none.
CREATE OR REPLACE FUNCTION tide._adopt_messages(p_outbox_id integer, p_limit integer DEFAULT 20000)
RETURNS bigint
LANGUAGE plpgsql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    v_table    name;
    v_any      boolean;
    v_count    bigint;
    v_strange  constant text :=
        '(m.xid >= pg_snapshot_xmax(pg_current_snapshot())'
        ' OR m.xid = ANY (ARRAY(SELECT pg_snapshot_xip(pg_current_snapshot()))))'
        ' AND m.xid IS DISTINCT FROM pg_current_xact_id_if_assigned()';
BEGIN
    SELECT o.table_name INTO v_table FROM tide.outbox o WHERE o.outbox_id = p_outbox_id;
    EXECUTE format('SELECT EXISTS (SELECT FROM tide.%I m WHERE %s)', v_table, v_strange) INTO v_any;
    IF NOT v_any THEN
        RETURN 0;
    END IF;
    -- One at a time.
    PERFORM 1 FROM tide.outbox o WHERE o.outbox_id = p_outbox_id FOR NO KEY UPDATE;
    EXECUTE format('WITH page AS MATERIALIZED (SELECT m.id, m.xid FROM tide.%1$I m WHERE %2$s LIMIT $1)'
                   ' UPDATE tide.%1$I m SET xid = ''3'' FROM page WHERE m.id = page.id AND m.xid = page.xid',
                   v_table, v_strange) USING p_limit;
    GET DIAGNOSTICS v_count = ROW_COUNT;
    RETURN v_count;
END $$;

COMMENT ON FUNCTION tide._adopt_messages(integer, integer) IS
'For relays: make the messages of an outbox that came from another cluster, by a dump, those of this one.';
