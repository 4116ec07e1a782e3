-- Views for people and monitoring. Counts are exact and are taken per outbox
-- or inbox by a statement on its own table, so that many of them do not make
-- one plan over thousands of partitions.

CREATE OR REPLACE VIEW tide.outbox_pending AS
SELECT o.name AS outbox_name, p.pending_count, p.oldest_at, p.max_id
  FROM tide.outbox o CROSS JOIN LATERAL tide._pending(o) p;

COMMENT ON VIEW tide.outbox_pending IS
'Per outbox: committed messages that at least one of its consumer groups has not had delivered (all messages while it has no group), the time the oldest was published, and their highest id. Exact.';

CREATE OR REPLACE VIEW tide.consumer_lag AS
SELECT g.name AS group_name, o.name AS outbox_name, c.consumer_id, c.committed_offset,
       tide._group_lag(o, c) AS lag,
       greatest(c.committed_at, c.polled_at,
                (SELECT m.heartbeat_at
                   FROM tide.pipeline p
                   JOIN tide.pipeline_owner w ON w.pipeline_id = p.pipeline_id AND w.released_at IS NULL
                   JOIN tide.relay_member m ON m.member_id = w.member_id
                  WHERE p.group_id = g.group_id)) AS last_heartbeat
  FROM tide.consumer_group g
  JOIN tide.outbox o USING (outbox_id)
  LEFT JOIN tide.group_cursor c USING (group_id);

COMMENT ON VIEW tide.consumer_lag IS
'Per consumer group: who consumes, the highest message id delivered, lag = committed messages not yet delivered (exact; the whole backlog for a group that never committed), and the last sign of life.';

CREATE OR REPLACE VIEW tide.consumer_leases AS
SELECT g.name AS group_name, o.name AS outbox_name, l.consumer_id, l.lease,
       CASE WHEN l.committed THEN 'committed'
            WHEN l.leased_until > clock_timestamp() THEN 'out'
            ELSE 'to be handed out again' END AS state,
       l.from_id, l.to_id, l.attempts, l.leased_at, l.leased_until
  FROM tide.consumer_lease l
  JOIN tide.consumer_group g USING (group_id)
  JOIN tide.outbox o USING (outbox_id)
 ORDER BY o.name, g.name, l.round, l.from_id;

COMMENT ON VIEW tide.consumer_leases IS
'What tide.poll_outbox handed out of each group, in order: messages above from_id up to to_id, to whom, until when, and how often. Committed ones wait for an earlier one.';

-- Advisory locks of live members and owned pipelines of this database.
CREATE OR REPLACE FUNCTION tide._held_locks()
RETURNS TABLE (classid bigint, objid bigint)
LANGUAGE sql STABLE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT l.classid::bigint, l.objid::bigint
      FROM pg_locks l JOIN pg_database d ON d.oid = l.database
     WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2 AND d.datname = current_database()
       AND l.classid IN (1953064045, 1953064037)
$$;

-- What is known of each pipeline without counting messages: cheap for a
-- thousand of them.
CREATE OR REPLACE VIEW tide.relay_pipeline_state AS
WITH held AS MATERIALIZED (SELECT * FROM tide._held_locks())
SELECT p.name AS pipeline, p.direction, o.name AS outbox, i.name AS inbox,
       CASE p.direction WHEN 'forward' THEN p.connector END AS sink,
       CASE p.direction WHEN 'reverse' THEN p.connector END AS source,
       p.relay_group, p.enabled,
       w.member_name AS owner, w.epoch,
       CASE WHEN w.pipeline_id IS NOT NULL THEN coalesce(s.state, 'starting')
            WHEN NOT p.enabled THEN 'disabled'
            WHEN EXISTS (SELECT FROM tide.relay_member m JOIN held h ON h.classid = 1953064045 AND h.objid = m.member_id
                          WHERE m.relay_group = p.relay_group) THEN 'unowned'
            ELSE 'no live relay' END AS state,
       CASE WHEN w.pipeline_id IS NOT NULL THEN coalesce(s.state_since, w.acquired_at)
            ELSE coalesce(last.released_at, t.reported_at, p.updated_at) END AS state_since,
       s.source_lag, coalesce(t.messages, 0) AS messages, t.last_error, t.last_error_at, t.reported_at,
       CASE p.direction WHEN 'forward' THEN c.committed_offset::text ELSE t.source_position END AS position,
       coalesce(s.rate, 0)::numeric(20, 1) AS rate,
       coalesce(t.retries, 0) AS retries, coalesce(t.duplicates, 0) AS duplicates, s.note
  FROM tide.pipeline p
  LEFT JOIN tide.outbox o USING (outbox_id)
  LEFT JOIN tide.inbox i USING (inbox_id)
  LEFT JOIN tide.group_cursor c USING (group_id)
  LEFT JOIN tide.pipeline_owner last ON last.pipeline_id = p.pipeline_id
  LEFT JOIN tide.pipeline_owner w ON w.pipeline_id = p.pipeline_id AND w.released_at IS NULL
        AND EXISTS (SELECT FROM held h WHERE h.classid = 1953064045 AND h.objid = w.member_id)
  LEFT JOIN tide.pipeline_status t ON t.pipeline_id = p.pipeline_id
  LEFT JOIN tide.pipeline_status s ON s.pipeline_id = w.pipeline_id AND s.epoch = w.epoch;

COMMENT ON VIEW tide.relay_pipeline_state IS
'tide.relay_pipeline_status without what must be counted (lag of a forward pipeline, dead letters), for looking often.';

CREATE OR REPLACE VIEW tide.relay_pipeline_status AS
SELECT n.pipeline, n.direction, n.outbox, n.inbox, n.sink, n.source, n.relay_group, n.enabled, n.owner, n.epoch, n.state,
       n.state_since, CASE n.direction WHEN 'forward' THEN b.lag ELSE n.source_lag END AS lag,
       n.messages, n.last_error, n.last_error_at, n.reported_at, n.position,
       CASE WHEN b.lag = 0 THEN 0 ELSE extract(epoch FROM clock_timestamp() - b.oldest_at)::numeric(20, 1) END AS lag_seconds,
       n.rate, n.retries, n.duplicates,
       (SELECT count(*) FROM tide.dead_letter d WHERE d.pipeline = n.pipeline AND d.resolved_at IS NULL) AS dead_letters,
       n.note
  FROM tide.relay_pipeline_state n
  JOIN tide.pipeline p ON p.name = n.pipeline
  LEFT JOIN tide.group_cursor c USING (group_id)
  LEFT JOIN LATERAL (SELECT b.* FROM tide.outbox x CROSS JOIN LATERAL tide._group_backlog(x, c) b
                      WHERE x.outbox_id = p.outbox_id) b ON true;

COMMENT ON VIEW tide.relay_pipeline_status IS
'Per pipeline: the relay that owns it and lives, its state since when, lag in messages and, forward, in seconds; messages moved, a second and in all since it was acquired; its position (forward: the highest message id delivered; reverse: where the last message stored lay); failed attempts, duplicates refused, dead letters that wait for somebody, the last error with its time, and a note where a guarantee is less than usual. Without a live owner owner is null and state is disabled, unowned (relays of its group live, none has it) or "no live relay".';

CREATE OR REPLACE VIEW tide.inbox_summary AS
SELECT i.name AS inbox_name, n.pending, n.claimed, n.processed, n.dead_letter, n.oldest_pending_at,
       c.accepted, c.duplicates
  FROM tide.inbox i JOIN tide.inbox_counter c USING (inbox_id) CROSS JOIN LATERAL tide._inbox_counts(i) n;

COMMENT ON VIEW tide.inbox_summary IS
'Per inbox: messages pending (claimed ones included), processed and dead, and how many were accepted and refused as duplicates since it was made. Exact.';
