-- What retention keeps, and who holds it back.

-- One row, or one for each group that holds partitions which are old enough to
-- go. Rows are the planner's estimate: an exact count of a forgotten group's
-- backlog may take minutes.
CREATE OR REPLACE FUNCTION tide._retention(p_outbox tide.outbox, p_now timestamptz DEFAULT clock_timestamp())
RETURNS TABLE (partitions bigint, oldest_partition name, oldest_until timestamptz, total_bytes bigint,
               held_by text, held_since timestamptz, held_partitions bigint, held_bytes bigint, held_rows bigint, hint text)
LANGUAGE plpgsql STABLE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_group record;
    v_leaf  record;
    v_any   boolean := false;
BEGIN
    SELECT count(*), (array_agg(l.leaf ORDER BY l.upper_bound) FILTER (WHERE l.leaf NOT LIKE '%\_past'))[1],
           min(l.upper_bound) FILTER (WHERE l.leaf NOT LIKE '%\_past'), sum(pg_total_relation_size(l.relid))
      INTO partitions, oldest_partition, oldest_until, total_bytes
      FROM tide._leaves(p_outbox) l;
    FOR v_group IN
        SELECT g.name, c AS cursor, p.pipeline_id, p.name AS pipeline, p.enabled, p.relay_group
          FROM tide.consumer_group g
          LEFT JOIN tide.group_cursor c USING (group_id)
          LEFT JOIN tide.pipeline p USING (group_id)
         WHERE g.outbox_id = p_outbox.outbox_id ORDER BY g.name
    LOOP
        held_by := NULL;
        held_since := NULL;
        held_partitions := 0;
        held_bytes := 0;
        held_rows := 0;
        FOR v_leaf IN SELECT l.*, greatest(k.reltuples, 0)::bigint AS tuples
                        FROM tide._leaves(p_outbox) l JOIN pg_class k ON k.oid = l.relid
                       WHERE l.upper_bound <= p_now - p_outbox.retention ORDER BY l.upper_bound LOOP
            IF tide._lacks(v_group.cursor, v_leaf.leaf) THEN
                held_by := v_group.name;
                held_since := coalesce(held_since, v_leaf.upper_bound + p_outbox.retention);
                held_partitions := held_partitions + 1;
                held_bytes := held_bytes + pg_total_relation_size(v_leaf.relid);
                held_rows := held_rows + v_leaf.tuples;
            END IF;
        END LOOP;
        IF held_by IS NOT NULL THEN
            v_any := true;
            hint := CASE
                WHEN v_group.pipeline IS NULL THEN
                    format('%s: consume as this group, or drop it: SELECT tide.drop_consumer_group(%L, %L).',
                           CASE WHEN coalesce((v_group.cursor).polled_at, (v_group.cursor).committed_at) IS NULL
                                THEN 'nobody has ever consumed as this group'
                                ELSE format('nobody has consumed as this group since %s',
                                            greatest((v_group.cursor).polled_at, (v_group.cursor).committed_at)::timestamptz(0)) END,
                           v_group.name, p_outbox.name)
                WHEN NOT v_group.enabled THEN
                    format('pipeline "%s" is disabled: enable it (SELECT tide.relay_enable(%L)) or delete it and drop its group: SELECT tide.relay_delete(%L).',
                           v_group.pipeline, v_group.pipeline, v_group.pipeline)
                WHEN tide._live_owner(v_group.pipeline_id) IS NULL THEN
                    format('no relay runs pipeline "%s": start one of relay group "%s", or delete the pipeline: SELECT tide.relay_delete(%L).',
                           v_group.pipeline, v_group.relay_group, v_group.pipeline)
                ELSE format('pipeline "%s" has not delivered them yet: see tide.relay_pipeline_status.', v_group.pipeline)
                END;
            RETURN NEXT;
        END IF;
    END LOOP;
    IF NOT v_any THEN
        held_by := NULL;
        held_since := NULL;
        held_partitions := 0;
        held_bytes := 0;
        held_rows := 0;
        hint := CASE WHEN EXISTS (SELECT FROM tide._leaves(p_outbox) l WHERE l.lower_bound <= p_now AND NOT isfinite(l.upper_bound))
                     THEN 'messages go into the last partition, as nothing maintained the outbox for days: start a relay, or call tide.maintain_outboxes().'
                     END;
        RETURN NEXT;
    END IF;
END $$;

CREATE OR REPLACE VIEW tide.retention_status AS
SELECT o.name AS outbox_name, o.retention, r.partitions, r.oldest_partition, r.oldest_until, r.total_bytes,
       r.held_by, r.held_since, r.held_partitions, r.held_bytes, r.held_rows, r.hint
  FROM tide.outbox o CROSS JOIN LATERAL tide._retention(o) r;

COMMENT ON VIEW tide.retention_status IS
'Per outbox: its partitions, the end of the oldest, bytes on disk. One row for each consumer group that holds back partitions which are older than the retention: held_by, since when, how many partitions, bytes and about how many rows, and what to do; held_by is null when none does.';
