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
