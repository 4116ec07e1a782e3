-- Where snapshots mean something.

CREATE FUNCTION tide._cluster(OUT system_identifier bigint, OUT timeline bigint)
LANGUAGE sql STABLE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT s.system_identifier,
           ('x' || lpad(substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8), 16, '0'))::bit(64)::bigint
      FROM pg_catalog.pg_control_system() s
$$;

COMMENT ON FUNCTION tide._cluster() IS
'For relays: identity of the cluster and its timeline, between which snapshots must not be carried over.';
