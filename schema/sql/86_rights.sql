-- Which roles hold a right on an outbox or inbox: publish, consume, process.
-- A right is on the table, given to the role itself, and comes with what the
-- functions need, given to it or to a role it is a member of: a REVOKE of
-- either makes it missing (90_roles.sql gives both).

-- The functions that a right comes with.
CREATE OR REPLACE FUNCTION tide._functions_of(p_right text)
RETURNS text[]
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE p_right
        WHEN 'publish' THEN ARRAY[
            'tide.outbox_publish(text, jsonb, jsonb)', 'tide.outbox_publish_batch(text, jsonb[], jsonb[])',
            'tide._publish_refused(text, jsonb, jsonb)', 'tide._table_name(text, text)',
            'tide._check_name(text, text, integer)', 'tide._suggestion(text, text[])', 'tide._distance(text, text)',
            'tide._quoted_list(text[])']
        WHEN 'consume' THEN ARRAY[
            'tide.poll_outbox(text, text, integer, interval, text, integer)',
            'tide.commit_offset(text, text, bigint, uuid)', 'tide.extend_lease(text, text, uuid, interval)',
            'tide.release_lease(text, text, uuid)']
        WHEN 'process' THEN ARRAY[
            'tide.inbox_claim(text, integer, interval, text)', 'tide.inbox_extend_claim(text, text[], uuid, interval)',
            'tide.inbox_mark_processed(text, text, uuid)', 'tide.inbox_mark_processed(text, text[], uuid)',
            'tide.inbox_mark_failed(text, text, text, interval, uuid)', 'tide.replay_inbox_messages(text, text[])',
            'tide._inbox(text)', 'tide._no_such_event(tide.inbox, text[])', 'tide._claim_lost(tide.inbox, text[], uuid)',
            'tide._lock_events(tide.inbox, text[], uuid)', 'tide._order_key(text)', 'tide._check_visibility(interval)',
            'tide._check_name(text, text, integer)', 'tide._suggestion(text, text[])', 'tide._distance(text, text)',
            'tide._quoted_list(text[])']
        END
$$;

-- Whether a role has all that a right needs besides the one on the table.
CREATE OR REPLACE FUNCTION tide._may_use(p_role oid, p_right text)
RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT pg_catalog.has_schema_privilege(p_role, 'tide', 'USAGE')
       AND CASE p_right
           WHEN 'publish' THEN
               pg_catalog.has_sequence_privilege(p_role, 'tide.message_id_seq', 'USAGE')
               AND (SELECT bool_and(pg_catalog.has_column_privilege(p_role, 'tide.outbox', c.name, 'SELECT'))
                      FROM unnest(ARRAY['outbox_id', 'name', 'table_name', 'enabled']) c(name))
               AND (SELECT bool_and(pg_catalog.has_column_privilege(p_role, 'tide.outbox_message', c.name, 'INSERT'))
                      FROM unnest(ARRAY['outbox', 'headers', 'payload']) c(name))
           WHEN 'process' THEN pg_catalog.has_table_privilege(p_role, 'tide.inbox', 'SELECT')
           ELSE true
           END
       AND (SELECT bool_and(pg_catalog.has_function_privilege(p_role, f.name, 'EXECUTE'))
              FROM unnest(tide._functions_of(p_right)) f(name))
$$;

CREATE OR REPLACE FUNCTION tide.granted_roles()
RETURNS TABLE (kind text, object text, "right" text, role text)
LANGUAGE plpgsql STABLE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH other AS MATERIALIZED (
        SELECT r.oid, r.rolname FROM pg_roles r
         WHERE r.rolname NOT IN ('tide_admin', 'tide_publisher', 'tide_relay', 'tide_reader')
           AND r.oid <> (SELECT n.nspowner FROM pg_namespace n WHERE n.nspname = 'tide')),
    object AS (
        SELECT 'outbox' AS kind, o.name, c.oid, c.relacl
          FROM tide.outbox o JOIN pg_class c ON c.relname = o.table_name AND c.relnamespace = 'tide'::regnamespace
        UNION ALL
        SELECT 'inbox', i.name, c.oid, c.relacl
          FROM tide.inbox i JOIN pg_class c ON c.relname = i.table_name AND c.relnamespace = 'tide'::regnamespace),
    entry AS (
        SELECT o.kind, o.name, a.grantee, a.privilege_type, NULL::name AS attname
          FROM object o, aclexplode(o.relacl) a
         WHERE a.grantee IN (SELECT r.oid FROM other r)
        UNION ALL
        SELECT o.kind, o.name, a.grantee, a.privilege_type, t.attname
          FROM object o JOIN pg_attribute t ON t.attrelid = o.oid AND t.attnum > 0 AND t.attacl IS NOT NULL AND NOT t.attisdropped,
               aclexplode(t.attacl) a
         WHERE a.grantee IN (SELECT r.oid FROM other r)),
    -- On the whole table, or on each of these columns.
    wanted(kind, "right", privilege_type, columns) AS (
        VALUES ('outbox', 'publish', 'INSERT', ARRAY['headers', 'payload']::name[]),
               ('outbox', 'consume', 'SELECT', NULL),
               ('inbox', 'process', 'SELECT', NULL),
               ('inbox', 'process', 'UPDATE', ARRAY['processed_at', 'retry_count', 'last_error', 'next_attempt_at',
                                                    'claimed_until', 'claim', 'failed_at']::name[])),
    met AS (
        SELECT e.kind, e.name, e.grantee, w."right"
          FROM entry e JOIN wanted w USING (kind, privilege_type)
         GROUP BY e.kind, e.name, e.grantee, w."right", w.privilege_type, w.columns
        HAVING bool_or(e.attname IS NULL) OR array_agg(e.attname) @> w.columns),
    held AS (
        SELECT m.kind, m.name, m."right", m.grantee, r.rolname
          FROM met m JOIN other r ON r.oid = m.grantee
         GROUP BY m.kind, m.name, m."right", m.grantee, r.rolname
        HAVING count(*) = (SELECT count(*) FROM wanted w WHERE w.kind = m.kind AND w."right" = m."right")),
    -- Asked once for a role, not for each object.
    able AS MATERIALIZED (
        SELECT u.grantee, u."right", tide._may_use(u.grantee, u."right") AS may
          FROM (SELECT DISTINCT h.grantee, h."right" FROM held h) u)
    SELECT h.kind, h.name, h."right", h.rolname::text
      FROM held h JOIN able b USING (grantee, "right")
     WHERE b.may
     ORDER BY h.kind, h.name, h."right", h.rolname;
END $$;

COMMENT ON FUNCTION tide.granted_roles() IS
'Which roles, besides the owner and the four of pg-tide, were given a right on an outbox (publish, consume) or inbox (process) and have all of what it needs, as tide.outbox_grant_publish and its like give it.';

CREATE OR REPLACE FUNCTION tide.object_grants(p_kind text, p_object text)
RETURNS TABLE ("right" text, role text)
LANGUAGE sql STABLE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT g."right", g.role FROM tide.granted_roles() g WHERE g.kind = p_kind AND g.object = p_object
$$;

COMMENT ON FUNCTION tide.object_grants(text, text) IS
'tide.granted_roles() for one object.';
