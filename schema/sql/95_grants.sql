-- Rights of the four roles on what exists; new outboxes and inboxes grant
-- theirs when they are made. Nothing here is granted to PUBLIC.

DO $$
DECLARE
    v_function record;
    v_role     text;
BEGIN
    FOR v_role IN SELECT r.rolname FROM pg_catalog.pg_roles r
                   WHERE r.rolname IN ('tide_admin', 'tide_relay', 'tide_reader') LOOP
        EXECUTE format('GRANT USAGE ON SCHEMA tide TO %I', v_role);
        EXECUTE format('GRANT SELECT ON ALL TABLES IN SCHEMA tide TO %I', v_role);
        EXECUTE format('GRANT SELECT ON ALL SEQUENCES IN SCHEMA tide TO %I', v_role);
    END LOOP;

    PERFORM tide._if_role('tide_publisher', 'SELECT tide._grant_publishing(''tide_publisher'')');

    PERFORM tide._if_role('tide_relay',
        'GRANT INSERT, UPDATE, DELETE ON tide.group_cursor, tide.relay_member, tide.pipeline_owner, tide.pipeline_status,'
        ' tide.dead_letter, tide.redelivery, tide.inbox_counter, tide.inbox_source TO tide_relay');
    PERFORM tide._if_role('tide_relay', 'GRANT USAGE ON ALL SEQUENCES IN SCHEMA tide TO tide_relay');

    FOR v_function IN
        SELECT p.oid::regprocedure AS signature, p.proname
          FROM pg_catalog.pg_proc p
         WHERE p.pronamespace = 'tide'::regnamespace AND p.prorettype <> 'trigger'::regtype
    LOOP
        -- The administrator has every function; the functions that act for
        -- their owner check what they are given. Internal ones run with the
        -- caller's rights, which are to read.
        PERFORM tide._if_role('tide_admin', format('GRANT EXECUTE ON FUNCTION %s TO tide_admin', v_function.signature));
        IF v_function.proname IN ('_tick', '_cluster', '_acquire', '_inbox_source', '_inbox_write', '_inbox_feed_open', '_inbox_feed_landed', '_inbox_feed_write', 'maintain_outbox',
                                  'maintain_outboxes', '_redelivery_page', '_redelivered', '_replay_rows') THEN
            PERFORM tide._if_role('tide_relay', format('GRANT EXECUTE ON FUNCTION %s TO tide_relay', v_function.signature));
        END IF;
        IF v_function.proname IN ('outbox_list', 'outbox_status', 'inbox_list', 'inbox_status', 'relay_list_configs',
                                  'relay_get_config', '_pending', '_group_lag', '_inbox_counts', '_held_locks') THEN
            PERFORM tide._if_role('tide_relay', format('GRANT EXECUTE ON FUNCTION %s TO tide_relay', v_function.signature));
            PERFORM tide._if_role('tide_reader', format('GRANT EXECUTE ON FUNCTION %s TO tide_reader', v_function.signature));
        END IF;
    END LOOP;
END $$;
