-- Names: look-ups that fail with a useful message, table names, suggestions.

-- Table of an outbox or inbox: <name>_outbox, shortened with a hash when that
-- is longer than a name in PostgreSQL may be.
CREATE OR REPLACE FUNCTION tide._table_name(p_name text, p_suffix text)
RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT AS $$
DECLARE
    v_head text := p_name;
    v_tail text := p_suffix;
BEGIN
    IF octet_length(v_head || v_tail) > 63 THEN
        v_tail := '_' || left(md5(p_name), 8) || p_suffix;
        WHILE octet_length(v_head || v_tail) > 63 LOOP
            v_head := left(v_head, -1);
        END LOOP;
    END IF;
    RETURN v_head || v_tail;
END $$;

CREATE OR REPLACE FUNCTION tide._check_name(p_name text, p_what text, p_max_bytes integer)
RETURNS void
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF p_name IS NULL THEN
        RAISE EXCEPTION '% name is null', p_what
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = format('Give the %s a name of 1 to %s bytes.', p_what, p_max_bytes);
    ELSIF octet_length(p_name) NOT BETWEEN 1 AND p_max_bytes THEN
        RAISE EXCEPTION '% name has % bytes', p_what, octet_length(p_name)
            USING ERRCODE = 'invalid_name',
                  HINT = format('Give the %s a name of 1 to %s bytes.', p_what, p_max_bytes);
    ELSIF p_name COLLATE "C" ~ '[\x01-\x1f\x7f]' THEN
        -- Names travel in headers and stand in logs.
        RAISE EXCEPTION '% name % has a line break or another control character', p_what, to_json(p_name)
            USING ERRCODE = 'invalid_name', HINT = format('Give the %s a name of printable characters.', p_what);
    END IF;
END $$;

-- Number of single-character edits between two texts.
CREATE OR REPLACE FUNCTION tide._distance(p_a text, p_b text)
RETURNS integer
LANGUAGE plpgsql IMMUTABLE STRICT AS $$
DECLARE
    v_previous integer[] := ARRAY(SELECT generate_series(0, length(p_b)));
    v_current  integer[];
BEGIN
    FOR i IN 1 .. length(p_a) LOOP
        v_current := ARRAY[i];
        FOR j IN 1 .. length(p_b) LOOP
            v_current := v_current || least(
                v_current[j] + 1,
                v_previous[j + 1] + 1,
                v_previous[j] + CASE WHEN substr(p_a, i, 1) = substr(p_b, j, 1) THEN 0 ELSE 1 END);
        END LOOP;
        v_previous := v_current;
    END LOOP;
    RETURN v_previous[length(p_b) + 1];
END $$;

-- ' Did you mean "x"?', or nothing when no known name is near.
CREATE OR REPLACE FUNCTION tide._suggestion(p_given text, p_known text[])
RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT coalesce((
        SELECT format('Did you mean "%s"? ', k.name)
          FROM (SELECT u.name, tide._distance(lower(left(p_given, 63)), lower(u.name)) AS distance
                  FROM unnest(p_known) AS u(name)) k
         WHERE k.distance <= greatest(2, length(k.name) / 3)
         ORDER BY k.distance, k.name
         LIMIT 1), '')
$$;

CREATE OR REPLACE FUNCTION tide._quoted_list(p_names text[])
RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT coalesce(string_agg(format('"%s"', u.name), ', ' ORDER BY u.n), '(none)')
      FROM (SELECT * FROM unnest(p_names) WITH ORDINALITY AS e(name, n) LIMIT 20) u
$$;

CREATE OR REPLACE FUNCTION tide._outbox(p_name text)
RETURNS tide.outbox
LANGUAGE plpgsql STABLE AS $$
DECLARE
    v_outbox tide.outbox;
    v_known  text[];
BEGIN
    PERFORM tide._check_name(p_name, 'outbox', 63);
    SELECT o.* INTO v_outbox FROM tide.outbox o WHERE o.name = p_name;
    IF NOT FOUND THEN
        v_known := ARRAY(SELECT o.name FROM tide.outbox o ORDER BY o.name);
        RAISE EXCEPTION 'outbox "%" does not exist', p_name
            USING ERRCODE = 'undefined_object',
                  HINT = format('%sExisting outboxes: %s. Make one with tide.outbox_create(%L).',
                                tide._suggestion(p_name, v_known), tide._quoted_list(v_known), p_name);
    END IF;
    RETURN v_outbox;
END $$;

CREATE OR REPLACE FUNCTION tide._inbox(p_name text)
RETURNS tide.inbox
LANGUAGE plpgsql STABLE AS $$
DECLARE
    v_inbox tide.inbox;
    v_known text[];
BEGIN
    PERFORM tide._check_name(p_name, 'inbox', 63);
    SELECT i.* INTO v_inbox FROM tide.inbox i WHERE i.name = p_name;
    IF NOT FOUND THEN
        v_known := ARRAY(SELECT i.name FROM tide.inbox i ORDER BY i.name);
        RAISE EXCEPTION 'inbox "%" does not exist', p_name
            USING ERRCODE = 'undefined_object',
                  HINT = format('%sExisting inboxes: %s. Make one with tide.inbox_create(%L).',
                                tide._suggestion(p_name, v_known), tide._quoted_list(v_known), p_name);
    END IF;
    RETURN v_inbox;
END $$;

CREATE OR REPLACE FUNCTION tide._consumer_group(p_group text, p_outbox tide.outbox)
RETURNS tide.consumer_group
LANGUAGE plpgsql STABLE AS $$
DECLARE
    v_group tide.consumer_group;
    v_known text[];
BEGIN
    PERFORM tide._check_name(p_group, 'consumer group', 255);
    SELECT g.* INTO v_group FROM tide.consumer_group g
     WHERE g.outbox_id = p_outbox.outbox_id AND g.name = p_group;
    IF NOT FOUND THEN
        v_known := ARRAY(SELECT g.name FROM tide.consumer_group g
                          WHERE g.outbox_id = p_outbox.outbox_id ORDER BY g.name);
        RAISE EXCEPTION 'consumer group "%" of outbox "%" does not exist', p_group, p_outbox.name
            USING ERRCODE = 'undefined_object',
                  HINT = format('%sGroups of this outbox: %s. Make one with tide.create_consumer_group(%L, %L).',
                                tide._suggestion(p_group, v_known), tide._quoted_list(v_known),
                                p_group, p_outbox.name);
    END IF;
    RETURN v_group;
END $$;

CREATE OR REPLACE FUNCTION tide._pipeline(p_name text)
RETURNS tide.pipeline
LANGUAGE plpgsql STABLE AS $$
DECLARE
    v_pipeline tide.pipeline;
    v_known    text[];
BEGIN
    PERFORM tide._check_name(p_name, 'pipeline', 255);
    SELECT p.* INTO v_pipeline FROM tide.pipeline p WHERE p.name = p_name;
    IF NOT FOUND THEN
        v_known := ARRAY(SELECT p.name FROM tide.pipeline p ORDER BY p.name);
        RAISE EXCEPTION 'pipeline "%" does not exist', p_name
            USING ERRCODE = 'undefined_object',
                  HINT = format('%sExisting pipelines: %s. Make one with tide.relay_set_outbox or tide.relay_set_inbox.',
                                tide._suggestion(p_name, v_known), tide._quoted_list(v_known));
    END IF;
    RETURN v_pipeline;
END $$;

-- Runs a GRANT or the like when the role exists; roles are optional.
CREATE OR REPLACE FUNCTION tide._if_role(p_role text, p_statement text)
RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = p_role) THEN
        EXECUTE p_statement;
    END IF;
END $$;
