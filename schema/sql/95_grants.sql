-- Rights of the four roles on what exists; new outboxes and inboxes grant
-- theirs when they are made. Nothing here is granted to PUBLIC.

-- The roles have what this file gives, and nothing that an earlier version
-- gave. A table's privileges include those on its columns.
DO $$
DECLARE
    v_right record;
BEGIN
    FOR v_right IN
        SELECT DISTINCT CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind, c.oid::regclass::text AS name, r.rolname
          FROM pg_catalog.pg_class c
          LEFT JOIN pg_catalog.pg_attribute t ON t.attrelid = c.oid AND t.attacl IS NOT NULL
          CROSS JOIN LATERAL (SELECT * FROM pg_catalog.aclexplode(c.relacl) UNION ALL SELECT * FROM pg_catalog.aclexplode(t.attacl)) a
          JOIN pg_catalog.pg_roles r ON r.oid = a.grantee
         WHERE c.relnamespace = 'tide'::regnamespace
           AND r.rolname IN ('tide_admin', 'tide_publisher', 'tide_relay', 'tide_reader')
        UNION ALL
        SELECT DISTINCT 'FUNCTION', p.oid::regprocedure::text, r.rolname
          FROM pg_catalog.pg_proc p, pg_catalog.aclexplode(p.proacl) a
          JOIN pg_catalog.pg_roles r ON r.oid = a.grantee
         WHERE p.pronamespace = 'tide'::regnamespace
           AND r.rolname IN ('tide_admin', 'tide_publisher', 'tide_relay', 'tide_reader')
    LOOP
        EXECUTE format('REVOKE ALL ON %s %s FROM %I', v_right.kind, v_right.name, v_right.rolname);
    END LOOP;
END $$;

DO $$
DECLARE
    v_relation record;
    v_function record;
    v_role     text;
    -- What holds payloads.
    v_messages constant text[] := ARRAY['outbox_message', 'outbox_unknown', 'dead_letter'];
BEGIN
    FOR v_role IN SELECT r.rolname FROM pg_catalog.pg_roles r
                   WHERE r.rolname IN ('tide_admin', 'tide_relay', 'tide_reader') LOOP
        EXECUTE format('GRANT USAGE ON SCHEMA tide TO %I', v_role);
        -- Tables of outboxes and inboxes are not among them, nor partitions.
        FOR v_relation IN
            SELECT c.relname, CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind
              FROM pg_catalog.pg_class c
             WHERE c.relnamespace = 'tide'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'S')
               AND NOT EXISTS (SELECT FROM tide.outbox o WHERE o.table_name = c.relname)
               AND NOT EXISTS (SELECT FROM tide.inbox i WHERE i.table_name = c.relname)
               AND (NOT c.relispartition OR c.relname = 'outbox_unknown')
               -- Nor what has lost its row (67_outbox_repair.sql).
               AND (c.relkind <> 'p' OR c.relname = 'outbox_message')
               AND c.relname !~ '^outbox_\d+_' AND c.relname NOT LIKE '%\_inbox'
               AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                                 JOIN pg_catalog.pg_class t ON t.oid = d.refobjid
                                 JOIN tide.inbox i ON i.table_name = t.relname
                                WHERE d.objid = c.oid AND d.deptype = 'i' AND t.relnamespace = 'tide'::regnamespace)
               AND NOT (v_role = 'tide_reader' AND c.relname = ANY (v_messages))
        LOOP
            EXECUTE format('GRANT SELECT ON %s tide.%I TO %I', v_relation.kind, v_relation.relname, v_role);
        END LOOP;
    END LOOP;
    PERFORM tide._if_role('tide_reader',
        'GRANT SELECT (dlq_id, pipeline, direction, message_id, event_id, source, source_ref, source_seq, error, attempts,'
        ' created_at, resolved_at, resolution) ON tide.dead_letter TO tide_reader');

    PERFORM tide._if_role('tide_publisher', 'SELECT tide._grant_publishing(''tide_publisher'')');

    PERFORM tide._if_role('tide_relay',
        'GRANT INSERT, UPDATE, DELETE ON tide.group_cursor, tide.relay_member, tide.pipeline_owner, tide.pipeline_status,'
        ' tide.dead_letter, tide.redelivery, tide.inbox_counter, tide.inbox_source, tide.inbox_position,'
        ' tide.consumer_lease, tide.webhook_counter TO tide_relay');
    PERFORM tide._if_role('tide_relay',
        'GRANT USAGE ON SEQUENCE tide.epoch_seq, tide.relay_member_member_id_seq, tide.dead_letter_dlq_id_seq,'
        ' tide.redelivery_redelivery_id_seq, tide.inbox_source_source_ref_seq TO tide_relay');

    FOR v_function IN
        SELECT p.oid::regprocedure AS signature, p.proname
          FROM pg_catalog.pg_proc p
         WHERE p.pronamespace = 'tide'::regnamespace AND p.prorettype <> 'trigger'::regtype
    LOOP
        -- The administrator has every function; the functions that act for
        -- their owner check what they are given. Internal ones run with the
        -- caller's rights, which are to read.
        PERFORM tide._if_role('tide_admin', format('GRANT EXECUTE ON FUNCTION %s TO tide_admin', v_function.signature));
        IF v_function.proname IN ('_tick', '_cluster', '_acquire', '_inbox_source', '_inbox_write', '_inbox_positions',
                                  '_inbox_write_at', '_inbox_store', '_webhook_fence', '_webhook_count',
                                  '_webhook_write', '_webhook_dead_letter',
                                  '_inbox_feed_check',
                                  '_inbox_feed_open', '_inbox_feed_landed', '_inbox_feed_write', 'maintain_outbox',
                                  'maintain_outboxes', 'maintain_inbox', '_purge_inbox', '_purge_dead_letters', '_purge_members',
                                  '_redelivery_page', '_redelivered', '_replay_rows', '_adopt_messages') THEN
            PERFORM tide._if_role('tide_relay', format('GRANT EXECUTE ON FUNCTION %s TO tide_relay', v_function.signature));
        END IF;
        IF v_function.proname IN ('outbox_list', 'outbox_status', 'inbox_list', 'inbox_status', 'relay_list_configs',
                                  'relay_get_config', '_pending', '_group_lag', '_group_backlog', '_inbox_counts', '_retention', '_held_locks') THEN
            PERFORM tide._if_role('tide_relay', format('GRANT EXECUTE ON FUNCTION %s TO tide_relay', v_function.signature));
            PERFORM tide._if_role('tide_reader', format('GRANT EXECUTE ON FUNCTION %s TO tide_reader', v_function.signature));
        END IF;
    END LOOP;
END $$;

-- An upgrade: what was granted on outboxes and inboxes of an earlier version
-- covers what this one has made anew.
DO $$
DECLARE
    v_grant record;
BEGIN
    PERFORM tide._grant_outbox(o.table_name) FROM tide.outbox o;
    PERFORM tide._grant_inbox(i.table_name) FROM tide.inbox i;
    FOR v_grant IN
        SELECT DISTINCT r.rolname, o.name IS NULL AS inbox, c.relname
          FROM pg_catalog.pg_attribute t
          JOIN pg_catalog.pg_class c ON c.oid = t.attrelid
          CROSS JOIN LATERAL pg_catalog.aclexplode(t.attacl) a
          JOIN pg_catalog.pg_roles r ON r.oid = a.grantee
          LEFT JOIN tide.outbox o ON o.table_name = c.relname
          LEFT JOIN tide.inbox i ON i.table_name = c.relname
         WHERE c.relnamespace = 'tide'::regnamespace
           AND (o.name IS NOT NULL AND t.attname = 'payload' AND a.privilege_type = 'INSERT'
             OR i.name IS NOT NULL AND t.attname = 'processed_at' AND a.privilege_type = 'UPDATE')
           AND r.rolname NOT IN ('tide_admin', 'tide_publisher', 'tide_relay', 'tide_reader')
    LOOP
        IF v_grant.inbox THEN
            PERFORM tide._grant_processing(v_grant.rolname);
            EXECUTE format('GRANT %s ON tide.%I TO %I', tide._processing_rights(), v_grant.relname, v_grant.rolname);
        ELSE
            PERFORM tide._grant_publishing(v_grant.rolname);
        END IF;
    END LOOP;
    PERFORM tide._grant_consuming(r.rolname)
       FROM pg_catalog.pg_proc p, pg_catalog.aclexplode(p.proacl) a JOIN pg_catalog.pg_roles r ON r.oid = a.grantee
      WHERE p.oid = 'tide.release_lease(text, text, uuid)'::regprocedure AND a.grantee <> p.proowner
        AND r.rolname <> 'tide_admin';
END $$;
