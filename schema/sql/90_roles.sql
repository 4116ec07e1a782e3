-- Who may do what. The roles are optional: an installer that may not create
-- roles leaves them out, and the owner can do everything.
--
--   tide_admin      creates and configures, reads everything, payloads too
--   tide_publisher  publishes to every outbox
--   tide_relay      what a relay needs
--   tide_reader     sees configuration, positions and counts, but no payload,
--                   and changes nothing

DO $$
DECLARE
    v_role text;
BEGIN
    FOREACH v_role IN ARRAY ARRAY['tide_admin', 'tide_publisher', 'tide_relay', 'tide_reader'] LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = v_role) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', v_role);
            EXCEPTION
                WHEN insufficient_privilege THEN
                    RAISE NOTICE 'role % was not created: % may not create roles', v_role, current_user;
                WHEN duplicate_object OR unique_violation THEN
                    NULL;
            END;
        END IF;
    END LOOP;
END $$;

-- The right to INSERT into an outbox's own table rules both ways of
-- publishing: through the root the policy asks for it.
-- Made once: making them locks out every publisher.
DO $$
BEGIN
    IF NOT (SELECT c.relrowsecurity FROM pg_catalog.pg_class c WHERE c.oid = 'tide.outbox_message'::regclass) THEN
        ALTER TABLE tide.outbox_message ENABLE ROW LEVEL SECURITY;
        CREATE POLICY publish ON tide.outbox_message FOR INSERT
            WITH CHECK (pg_catalog.has_any_column_privilege(
                'tide.' || pg_catalog.quote_ident(CASE WHEN pg_catalog.octet_length(outbox) <= 56 THEN outbox || '_outbox'
                                                       ELSE tide._table_name(outbox, '_outbox') END), 'INSERT'));
        CREATE POLICY read ON tide.outbox_message FOR SELECT USING (true);
    END IF;
END $$;

-- What publishing needs besides the right on the outbox itself. Only these
-- columns: id, xid and created_at are never the publisher's choice.
CREATE OR REPLACE FUNCTION tide._grant_publishing(p_role text)
RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA tide TO %I', p_role);
    EXECUTE format('GRANT USAGE ON SEQUENCE tide.message_id_seq TO %I', p_role);
    EXECUTE format('GRANT SELECT (outbox_id, name, table_name, enabled) ON tide.outbox TO %I', p_role);
    EXECUTE format('GRANT INSERT (outbox, headers, payload) ON tide.outbox_message TO %I', p_role);
    EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', array_to_string(tide._functions_of('publish'), ', '), p_role);
END $$;

-- Rights of the four roles on the table of an outbox.
CREATE OR REPLACE FUNCTION tide._grant_outbox(p_table name)
RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM tide._if_role('tide_admin', format('GRANT SELECT ON tide.%I TO tide_admin', p_table));
    PERFORM tide._if_role('tide_publisher', format('GRANT INSERT (headers, payload) ON tide.%I TO tide_publisher', p_table));
    PERFORM tide._if_role('tide_relay', format('GRANT SELECT ON tide.%I TO tide_relay', p_table));
END $$;

-- What processing needs besides the right on the inbox itself.
CREATE OR REPLACE FUNCTION tide._grant_processing(p_role text)
RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA tide TO %I', p_role);
    EXECUTE format('GRANT SELECT ON tide.inbox TO %I', p_role);
    EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', array_to_string(tide._functions_of('process'), ', '), p_role);
END $$;

-- A role that may process an inbox sees its messages and marks them.
CREATE OR REPLACE FUNCTION tide._processing_rights()
RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT 'SELECT, UPDATE (processed_at, retry_count, last_error, next_attempt_at, claimed_until, claim, failed_at)'
$$;

-- Rights of the four roles on the table of an inbox.
CREATE OR REPLACE FUNCTION tide._grant_inbox(p_table name)
RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM tide._if_role('tide_admin', format('GRANT %s ON tide.%I TO tide_admin', tide._processing_rights(), p_table));
    PERFORM tide._if_role('tide_relay', format('GRANT SELECT, INSERT, UPDATE, DELETE ON tide.%I TO tide_relay', p_table));
END $$;

CREATE OR REPLACE FUNCTION tide._check_role(p_role text)
RETURNS void
LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF p_role IS NULL OR NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = p_role) THEN
        RAISE EXCEPTION 'role % does not exist', coalesce('"' || p_role || '"', 'null')
            USING ERRCODE = 'undefined_object', HINT = 'Create it with CREATE ROLE, or check its name.';
    END IF;
END $$;

CREATE OR REPLACE FUNCTION tide.outbox_grant_publish(p_outbox text, p_role text)
RETURNS void
LANGUAGE plpgsql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_outbox tide.outbox := tide._outbox(p_outbox);
BEGIN
    PERFORM tide._check_role(p_role);
    PERFORM tide._grant_publishing(p_role);
    EXECUTE format('GRANT INSERT (headers, payload) ON tide.%I TO %I', v_outbox.table_name, p_role);
END $$;

COMMENT ON FUNCTION tide.outbox_grant_publish(text, text) IS
'Lets a role publish to this outbox, by tide.outbox_publish and by INSERT (payload, headers) into its table, and to no other.';

CREATE OR REPLACE FUNCTION tide.outbox_revoke_publish(p_outbox text, p_role text)
RETURNS void
LANGUAGE plpgsql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_outbox tide.outbox := tide._outbox(p_outbox);
BEGIN
    PERFORM tide._check_role(p_role);
    EXECUTE format('REVOKE INSERT (headers, payload), INSERT ON tide.%I FROM %I', v_outbox.table_name, p_role);
END $$;

COMMENT ON FUNCTION tide.outbox_revoke_publish(text, text) IS
'Takes back what tide.outbox_grant_publish gave for this outbox. A role that is a member of tide_publisher keeps that role''s right.';

-- What consuming needs besides the right to read the outbox.
CREATE OR REPLACE FUNCTION tide._grant_consuming(p_role text)
RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA tide TO %I', p_role);
    EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', array_to_string(tide._functions_of('consume'), ', '), p_role);
END $$;

CREATE OR REPLACE FUNCTION tide.outbox_grant_consume(p_outbox text, p_role text)
RETURNS void
LANGUAGE plpgsql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_outbox tide.outbox := tide._outbox(p_outbox);
BEGIN
    PERFORM tide._check_role(p_role);
    PERFORM tide._grant_consuming(p_role);
    EXECUTE format('GRANT SELECT ON tide.%I TO %I', v_outbox.table_name, p_role);
END $$;

COMMENT ON FUNCTION tide.outbox_grant_consume(text, text) IS
'Lets a role read this outbox and consume it by tide.poll_outbox, as any group of it that no pipeline has, and no other outbox.';

CREATE OR REPLACE FUNCTION tide.outbox_revoke_consume(p_outbox text, p_role text)
RETURNS void
LANGUAGE plpgsql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_outbox tide.outbox := tide._outbox(p_outbox);
BEGIN
    PERFORM tide._check_role(p_role);
    EXECUTE format('REVOKE SELECT ON tide.%I FROM %I', v_outbox.table_name, p_role);
END $$;

COMMENT ON FUNCTION tide.outbox_revoke_consume(text, text) IS
'Takes back what tide.outbox_grant_consume gave for this outbox.';

CREATE OR REPLACE FUNCTION tide.inbox_grant_process(p_inbox text, p_role text)
RETURNS void
LANGUAGE plpgsql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_inbox tide.inbox := tide._inbox(p_inbox);
BEGIN
    PERFORM tide._check_role(p_role);
    PERFORM tide._grant_processing(p_role);
    EXECUTE format('GRANT %s ON tide.%I TO %I', tide._processing_rights(), v_inbox.table_name, p_role);
END $$;

COMMENT ON FUNCTION tide.inbox_grant_process(text, text) IS
'Lets a role read and process the messages of this inbox: SELECT on its table, claim, mark, replay.';

CREATE OR REPLACE FUNCTION tide.inbox_revoke_process(p_inbox text, p_role text)
RETURNS void
LANGUAGE plpgsql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_inbox tide.inbox := tide._inbox(p_inbox);
BEGIN
    PERFORM tide._check_role(p_role);
    EXECUTE format('REVOKE %s ON tide.%I FROM %I', tide._processing_rights(), v_inbox.table_name, p_role);
END $$;

COMMENT ON FUNCTION tide.inbox_revoke_process(text, text) IS
'Takes back what tide.inbox_grant_process gave for this inbox.';

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA tide FROM PUBLIC;
REVOKE ALL ON TYPE tide.headers FROM PUBLIC;
