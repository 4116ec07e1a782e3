-- Pipelines: configured, bound to a consumer group, switched, listed.

-- What both directions check alike.
CREATE OR REPLACE FUNCTION tide._check_pipeline(p_name text, p_direction text, p_batch_size integer, p_enabled boolean, p_relay_group text)
RETURNS void
LANGUAGE plpgsql STABLE AS $$
DECLARE
    v_direction text;
BEGIN
    PERFORM tide._check_name(p_name, 'pipeline', 255);
    PERFORM tide._check_name(p_relay_group, 'relay group', 255);
    IF p_batch_size IS NULL OR p_batch_size NOT BETWEEN 1 AND 100000 THEN
        RAISE EXCEPTION 'batch_size of pipeline "%" is %', p_name, coalesce(p_batch_size::text, 'null')
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'p_batch_size is a number of messages from 1 to 100000.';
    ELSIF p_enabled IS NULL THEN
        RAISE EXCEPTION 'p_enabled of pipeline "%" is null', p_name
            USING ERRCODE = 'null_value_not_allowed', HINT = 'Pass true or false.';
    END IF;
    SELECT p.direction INTO v_direction FROM tide.pipeline p WHERE p.name = p_name;
    IF NOT FOUND THEN
        PERFORM tide._check_new_pipeline(p_name);
    ELSIF v_direction <> p_direction THEN
        RAISE EXCEPTION 'pipeline "%" exists already, as a % pipeline', p_name, v_direction
            USING ERRCODE = 'duplicate_object',
                  HINT = format('Choose another name, or delete it first: SELECT tide.relay_delete(%L).', p_name);
    END IF;
END $$;

CREATE OR REPLACE FUNCTION tide._check_connector(p_name text, p_direction text, p_connector text)
RETURNS void
LANGUAGE plpgsql STABLE AS $$
DECLARE
    v_known text[] := ARRAY(SELECT DISTINCT o.connector FROM tide.connector_option o
                             WHERE o.direction = p_direction AND o.connector <> '*' ORDER BY 1);
BEGIN
    IF p_connector IS NULL OR p_connector <> ALL (v_known) THEN
        RAISE EXCEPTION '% of pipeline "%" is %', CASE p_direction WHEN 'forward' THEN 'sink' ELSE 'source' END,
            p_name, coalesce('"' || p_connector || '"', 'null')
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = format('%sAllowed: %s.', tide._suggestion(p_connector, v_known), tide._quoted_list(v_known));
    END IF;
END $$;

-- The group a forward pipeline reads as: the one its config names; else the
-- one it already has; else the only unclaimed group of the outbox; else an
-- implicit group of the pipeline's own name.
CREATE OR REPLACE FUNCTION tide._bind_group(p_pipeline text, p_outbox tide.outbox, p_wanted text)
RETURNS integer
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_group     tide.consumer_group;
    v_claimant  text;
    v_unclaimed integer[];
BEGIN
    IF p_wanted IS NULL THEN
        SELECT g.* INTO v_group
          FROM tide.pipeline p JOIN tide.consumer_group g USING (group_id)
         WHERE p.name = p_pipeline AND g.outbox_id = p_outbox.outbox_id;
        IF FOUND THEN
            RETURN v_group.group_id;
        END IF;
        v_unclaimed := ARRAY(
            SELECT g.group_id FROM tide.consumer_group g
             WHERE g.outbox_id = p_outbox.outbox_id
               AND NOT EXISTS (SELECT FROM tide.pipeline p WHERE p.group_id = g.group_id));
        IF cardinality(v_unclaimed) = 1 THEN
            RETURN v_unclaimed[1];
        END IF;
        INSERT INTO tide.consumer_group (outbox_id, name, implicit)
        VALUES (p_outbox.outbox_id, p_pipeline, true)
        ON CONFLICT DO NOTHING
        RETURNING * INTO v_group;
        IF FOUND THEN
            RETURN v_group.group_id;
        END IF;
    END IF;

    v_group := tide._consumer_group(coalesce(p_wanted, p_pipeline), p_outbox);
    SELECT p.name INTO v_claimant FROM tide.pipeline p WHERE p.group_id = v_group.group_id AND p.name <> p_pipeline;
    IF FOUND THEN
        RAISE EXCEPTION 'consumer group "%" of outbox "%" is taken by pipeline "%"', v_group.name, p_outbox.name, v_claimant
            USING ERRCODE = 'object_in_use',
                  HINT = 'Each pipeline needs a group of its own: make one with tide.create_consumer_group and name it in the config as "consumer_group".';
    END IF;
    RETURN v_group.group_id;
END $$;

CREATE OR REPLACE FUNCTION tide.relay_set_outbox(p_name text, p_outbox text, p_sink text, p_config jsonb,
                                      p_batch_size integer DEFAULT 100, p_enabled boolean DEFAULT true,
                                      p_relay_group text DEFAULT 'default')
RETURNS void
LANGUAGE plpgsql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_outbox    tide.outbox;
    v_old_group integer;
    v_group_id  integer;
BEGIN
    PERFORM tide._check_pipeline(p_name, 'forward', p_batch_size, p_enabled, p_relay_group);
    v_outbox := tide._outbox(p_outbox);
    PERFORM tide._check_connector(p_name, 'forward', p_sink);
    PERFORM tide._check_config(p_name, 'forward', p_sink, p_config);

    -- One at a time per outbox, so that no two pipelines take one group.
    PERFORM 1 FROM tide.outbox o WHERE o.outbox_id = v_outbox.outbox_id FOR NO KEY UPDATE;
    SELECT p.group_id INTO v_old_group FROM tide.pipeline p WHERE p.name = p_name FOR UPDATE;
    v_group_id := tide._bind_group(p_name, v_outbox, p_config ->> 'consumer_group');

    INSERT INTO tide.pipeline AS p (name, direction, outbox_id, group_id, connector, config, batch_size, enabled, relay_group)
    VALUES (p_name, 'forward', v_outbox.outbox_id, v_group_id, p_sink, p_config, p_batch_size, p_enabled, p_relay_group)
    ON CONFLICT (name) DO UPDATE
       SET outbox_id = excluded.outbox_id, group_id = excluded.group_id, connector = excluded.connector,
           config = excluded.config, batch_size = excluded.batch_size, enabled = excluded.enabled,
           relay_group = excluded.relay_group, updated_at = clock_timestamp();

    DELETE FROM tide.consumer_group g WHERE g.group_id = v_old_group AND g.implicit AND v_old_group <> v_group_id;
END $$;

COMMENT ON FUNCTION tide.relay_set_outbox(text, text, text, jsonb, integer, boolean, text) IS
'Makes or replaces a forward pipeline: outbox to p_sink (kafka, nats, inbox, webhook, stdout). The options of p_config are in tide.connector_option. p_batch_size in messages. Errors name the wrong key or value.';

CREATE OR REPLACE FUNCTION tide.relay_set_inbox(p_name text, p_inbox text, p_config jsonb,
                                     p_batch_size integer DEFAULT 100, p_source text DEFAULT 'nats',
                                     p_enabled boolean DEFAULT true, p_max_retries integer DEFAULT 3,
                                     p_idempotent boolean DEFAULT true, p_relay_group text DEFAULT 'default')
RETURNS void
LANGUAGE plpgsql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_inbox tide.inbox;
BEGIN
    PERFORM tide._check_pipeline(p_name, 'reverse', p_batch_size, p_enabled, p_relay_group);
    v_inbox := tide._inbox(p_inbox);
    IF p_max_retries IS NULL OR p_max_retries < 0 THEN
        RAISE EXCEPTION 'max_retries of pipeline "%" is %', p_name, coalesce(p_max_retries::text, 'null')
            USING ERRCODE = 'invalid_parameter_value', HINT = 'p_max_retries is a number from 0.';
    ELSIF p_idempotent IS NULL THEN
        RAISE EXCEPTION 'p_idempotent of pipeline "%" is null', p_name
            USING ERRCODE = 'null_value_not_allowed', HINT = 'Pass true or false.';
    END IF;
    PERFORM tide._check_connector(p_name, 'reverse', p_source);
    PERFORM tide._check_config(p_name, 'reverse', p_source, p_config);

    INSERT INTO tide.pipeline AS p (name, direction, inbox_id, connector, config, batch_size, enabled, relay_group,
                                    max_retries, idempotent)
    VALUES (p_name, 'reverse', v_inbox.inbox_id, p_source, p_config, p_batch_size, p_enabled, p_relay_group,
            p_max_retries, p_idempotent)
    ON CONFLICT (name) DO UPDATE
       SET inbox_id = excluded.inbox_id, connector = excluded.connector, config = excluded.config,
           batch_size = excluded.batch_size, enabled = excluded.enabled, relay_group = excluded.relay_group,
           max_retries = excluded.max_retries, idempotent = excluded.idempotent, updated_at = clock_timestamp();
END $$;

COMMENT ON FUNCTION tide.relay_set_inbox(text, text, jsonb, integer, text, boolean, integer, boolean, text) IS
'Makes or replaces a reverse pipeline: p_source (nats, kafka, webhook) to an inbox. The options of p_config are in tide.connector_option. p_max_retries: attempts to store a message before it is a dead letter. p_idempotent: recognise repeated messages without an id by their content.';

CREATE OR REPLACE FUNCTION tide.relay_enable(p_name text)
RETURNS void
LANGUAGE plpgsql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE tide.pipeline SET enabled = true, updated_at = clock_timestamp()
     WHERE pipeline_id = (tide._pipeline(p_name)).pipeline_id;
END $$;

COMMENT ON FUNCTION tide.relay_enable(text) IS 'Lets relays run the pipeline.';

CREATE OR REPLACE FUNCTION tide.relay_disable(p_name text)
RETURNS void
LANGUAGE plpgsql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE tide.pipeline SET enabled = false, updated_at = clock_timestamp()
     WHERE pipeline_id = (tide._pipeline(p_name)).pipeline_id;
END $$;

COMMENT ON FUNCTION tide.relay_disable(text) IS
'Stops the pipeline; its position is kept, and what is published meanwhile waits.';

CREATE OR REPLACE FUNCTION tide.relay_delete(p_name text)
RETURNS void
LANGUAGE plpgsql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_pipeline tide.pipeline := tide._pipeline(p_name);
BEGIN
    DELETE FROM tide.pipeline p WHERE p.pipeline_id = v_pipeline.pipeline_id;
    DELETE FROM tide.consumer_group g WHERE g.group_id = v_pipeline.group_id AND g.implicit;
END $$;

COMMENT ON FUNCTION tide.relay_delete(text) IS
'Deletes a pipeline. Its consumer group and position stay, unless the group was made for this pipeline.';

CREATE OR REPLACE FUNCTION tide.relay_list_configs()
RETURNS TABLE (name text, direction text, outbox text, inbox text, connector text, consumer_group text, config jsonb,
               batch_size integer, enabled boolean, relay_group text, max_retries integer, idempotent boolean,
               created_at timestamptz, updated_at timestamptz)
LANGUAGE sql STABLE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT p.name, p.direction, o.name, i.name, p.connector, g.name, p.config, p.batch_size, p.enabled, p.relay_group,
           p.max_retries, p.idempotent, p.created_at, p.updated_at
      FROM tide.pipeline p
      LEFT JOIN tide.outbox o USING (outbox_id)
      LEFT JOIN tide.inbox i USING (inbox_id)
      LEFT JOIN tide.consumer_group g USING (group_id)
     ORDER BY p.name
$$;

COMMENT ON FUNCTION tide.relay_list_configs() IS 'All pipelines as they are configured.';

CREATE OR REPLACE FUNCTION tide.relay_get_config(p_name text)
RETURNS TABLE (name text, direction text, outbox text, inbox text, connector text, consumer_group text, config jsonb,
               batch_size integer, enabled boolean, relay_group text, max_retries integer, idempotent boolean,
               created_at timestamptz, updated_at timestamptz)
LANGUAGE plpgsql STABLE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM tide._pipeline(p_name);
    RETURN QUERY SELECT c.* FROM tide.relay_list_configs() c WHERE c.name = p_name;
END $$;

COMMENT ON FUNCTION tide.relay_get_config(text) IS
'One pipeline as it is configured. Error when there is none of that name.';
