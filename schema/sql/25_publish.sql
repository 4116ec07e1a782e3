-- Publishing: one cached statement that relies on the columns' defaults.
--
-- SECURITY INVOKER and without a SET clause, both of which would cost: the
-- caller's own right to INSERT decides, and every name is qualified.

CREATE OR REPLACE FUNCTION tide.outbox_publish(p_name text, p_payload jsonb, p_headers jsonb DEFAULT '{}')
RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF p_payload IS NULL OR pg_catalog.jsonb_typeof(p_headers) <> 'object' THEN
        PERFORM tide._publish_refused(p_name, p_payload, p_headers);
    END IF;
    INSERT INTO tide.outbox_message (outbox, headers, payload)
    VALUES (p_name, coalesce(p_headers, '{}'), p_payload);
    RETURN pg_catalog.currval('tide.message_id_seq'::regclass);
END $$;

COMMENT ON FUNCTION tide.outbox_publish(text, jsonb, jsonb) IS
'Publishes a message in the current transaction and returns its id. Errors: unknown or disabled outbox, payload is SQL NULL, headers are not a JSON object.';

-- Why a publish was refused; raises always.
CREATE OR REPLACE FUNCTION tide._publish_refused(p_name text, p_payload jsonb, p_headers jsonb)
RETURNS void
LANGUAGE plpgsql STABLE AS $$
DECLARE
    v_enabled boolean;
    v_known   text[];
BEGIN
    PERFORM tide._check_name(p_name, 'outbox', 63);
    SELECT o.enabled INTO v_enabled FROM tide.outbox o WHERE o.name = p_name;
    IF NOT FOUND THEN
        v_known := ARRAY(SELECT o.name FROM tide.outbox o ORDER BY o.name);
        RAISE EXCEPTION 'outbox "%" does not exist', p_name
            USING ERRCODE = 'undefined_object',
                  HINT = format('%sExisting outboxes: %s. Make one with tide.outbox_create(%L).',
                                tide._suggestion(p_name, v_known), tide._quoted_list(v_known), p_name);
    ELSIF NOT v_enabled THEN
        RAISE EXCEPTION 'outbox "%" is disabled', p_name
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = format('Enable it with tide.outbox_enable(%L).', p_name);
    ELSIF p_payload IS NULL THEN
        RAISE EXCEPTION 'payload for outbox "%" is NULL', p_name
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'Publish a JSON value; JSON null is written ''null''::jsonb.';
    ELSIF jsonb_typeof(p_headers) = 'object' THEN
        RAISE EXCEPTION 'outbox "%" is enabled, but its table is missing, detached or refuses messages', p_name
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'It was changed by hand: tide.outbox_faults() says how, tide.outbox_repair puts it right.';
    ELSE
        RAISE EXCEPTION 'headers for outbox "%" are a JSON %, not an object', p_name, jsonb_typeof(p_headers)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Headers look like {"event_type": "order.confirmed"}.';
    END IF;
END $$;

-- Refuses a row of a disabled outbox, or of one that does not exist.
CREATE OR REPLACE FUNCTION tide._refuse_message()
RETURNS trigger
LANGUAGE plpgsql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM tide._publish_refused(NEW.outbox, coalesce(NEW.payload, 'null'), NEW.headers);
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER unknown BEFORE INSERT ON tide.outbox_unknown
    FOR EACH ROW EXECUTE FUNCTION tide._refuse_message();

CREATE OR REPLACE FUNCTION tide.outbox_publish_batch(p_name text, p_payloads jsonb[], p_headers jsonb[] DEFAULT NULL)
RETURNS SETOF bigint
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_payload jsonb;
    v_headers jsonb;
BEGIN
    IF NOT EXISTS (SELECT FROM tide.outbox o WHERE o.name = p_name AND o.enabled) THEN
        PERFORM tide._publish_refused(p_name, '{}', '{}');
    END IF;
    IF p_payloads IS NULL THEN
        PERFORM tide._publish_refused(p_name, NULL, '{}');
    END IF;
    IF p_headers IS NOT NULL AND cardinality(p_headers) <> cardinality(p_payloads) THEN
        RAISE EXCEPTION '% payloads, but % headers for outbox "%"', cardinality(p_payloads), cardinality(p_headers), p_name
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give one header object for each payload, or no p_headers at all.';
    END IF;
    FOR v_payload, v_headers IN
        SELECT u.payload, coalesce(u.headers, '{}') FROM unnest(p_payloads, p_headers) AS u(payload, headers)
    LOOP
        IF v_payload IS NULL OR pg_catalog.jsonb_typeof(v_headers) <> 'object' THEN
            PERFORM tide._publish_refused(p_name, v_payload, v_headers);
        END IF;
        INSERT INTO tide.outbox_message (outbox, headers, payload)
        VALUES (p_name, v_headers, v_payload);
        RETURN NEXT pg_catalog.currval('tide.message_id_seq'::regclass);
    END LOOP;
END $$;

COMMENT ON FUNCTION tide.outbox_publish_batch(text, jsonb[], jsonb[]) IS
'Publishes many messages in the current transaction, in array order, and returns their ids. p_headers: one object per payload, or NULL for none. Errors as in tide.outbox_publish.';
