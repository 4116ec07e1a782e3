-- The options a pipeline's config may have, and the check against them.

COMMENT ON TABLE tide.connector_option IS
'What the config of a pipeline may contain, per direction and connector. text_list: a text with commas, or an array of texts. template: a text with {placeholders}. duration: "250ms", "3s", "5m", "2h", or a number of milliseconds; minimum and maximum are in milliseconds. secret: only a reference, "${file:/absolute/path}" or "${env:NAME}". secret_list: such a reference, or an array of them. setting: a text or such a reference.';

-- Filled anew by this file and those that follow it.
DELETE FROM tide.connector_option;

INSERT INTO tide.connector_option (direction, connector, key, kind, required, allowed, minimum, maximum, description) VALUES
('forward', '*', 'consumer_group', 'text', false, NULL, NULL, NULL, 'Consumer group that the pipeline reads as; it must exist and belong to no other pipeline.'),
('forward', '*', 'max_in_flight', 'integer', false, NULL, 1, 100000, 'Messages sent and not yet acknowledged, at most.'),
('forward', '*', 'encoding', 'text', false, '{raw,cloudevents,cloudevents-binary}', NULL, NULL, 'raw: the value is the payload as published. cloudevents: a CloudEvents 1.0 JSON envelope around it. cloudevents-binary: the attributes as headers.'),
('forward', '*', 'cloudevents', 'object', false, NULL, NULL, NULL, 'Attributes of CloudEvents.'),
('forward', '*', 'cloudevents.source', 'template', false, NULL, NULL, NULL, 'Attribute source; without it /pg-tide/{outbox}.'),
('forward', '*', 'cloudevents.type', 'template', false, NULL, NULL, NULL, 'Attribute type; without it the header event_type, else the outbox''s name.'),
('forward', '*', 'cloudevents.subject', 'template', false, NULL, NULL, NULL, 'Attribute subject; without it none.'),
('forward', '*', 'filter', 'object', false, NULL, NULL, NULL, 'Which messages are sent: {"headers.NAME": VALUE, "payload.PATH": [VALUES], ...}; {"not": VALUE} and {"exists": true} for a value.'),
('forward', '*', 'ordering', 'text', false, '{relaxed,strict}', NULL, NULL, 'relaxed: a refused message is set aside and later ones of its key go on. strict: they are set aside behind it, or the pipeline waits when there is no key.'),
('forward', '*', 'dead_letter', 'object', false, NULL, NULL, NULL, 'What becomes of a message that is refused for good.'),
('forward', '*', 'dead_letter.enabled', 'boolean', false, NULL, NULL, NULL, 'true: it is set aside. false: the pipeline waits until the cause is mended.'),
('forward', '*', 'dead_letter.max_retries', 'integer', false, NULL, 0, 1000000, 'Further attempts before it is set aside; 0 without it.'),
('reverse', '*', 'filter', 'object', false, NULL, NULL, NULL, 'Which messages are stored: {"headers.NAME": VALUE, "payload.PATH": [VALUES], ...}; {"not": VALUE} and {"exists": true} for a value.'),
('reverse', '*', 'dead_letter', 'object', false, NULL, NULL, NULL, 'What becomes of a message that cannot be stored.'),
('reverse', '*', 'dead_letter.enabled', 'boolean', false, NULL, NULL, NULL, 'true: it is set aside. false: the pipeline waits until the cause is mended.'),
('reverse', '*', 'dead_letter.max_retries', 'integer', false, NULL, 0, 1000000, 'Further attempts before it is set aside; p_max_retries without it.'),
('forward', '*', 'retry', 'object', false, NULL, NULL, NULL, 'Backoff after a failure that may pass.'),
('forward', '*', 'retry.initial', 'duration', false, NULL, 1, 60000, 'First pause: "100ms", "1s", or a number of milliseconds.'),
('forward', '*', 'retry.max', 'duration', false, NULL, 1, 3600000, 'Longest pause: "3s", "1m", or a number of milliseconds.'),
('reverse', '*', 'retry', 'object', false, NULL, NULL, NULL, 'Backoff after a failure that may pass.'),
('reverse', '*', 'retry.initial', 'duration', false, NULL, 1, 60000, 'First pause: "100ms", "1s", or a number of milliseconds.'),
('reverse', '*', 'retry.max', 'duration', false, NULL, 1, 3600000, 'Longest pause: "3s", "1m", or a number of milliseconds.'),
('reverse', '*', 'message_id_header', 'text', false, NULL, NULL, NULL, 'Header whose value is the event id.'),
('reverse', '*', 'dedup_key', 'text', false, NULL, NULL, NULL, 'Path into the payload, with dots, to what makes two messages without an id the same; without it the whole content.');

-- Placeholders: {name} and {headers.name} from the headers, {payload.a.b} from
-- the payload, {outbox}, {pipeline}, {id}; {{ and }} stand for braces. Returns
-- what is wrong, or null.
CREATE OR REPLACE FUNCTION tide._template_error(p_template text)
RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT AS $$
DECLARE
    -- A run of opening braces stands for pairs first, then one placeholder.
    v_plain       text := replace(p_template, '{{', '');
    v_without     text := regexp_replace(v_plain, '\{[^{}]*\}', '', 'g');
    v_placeholder text;
BEGIN
    IF replace(v_without, '}}', '') ~ '[{}]' THEN
        RETURN 'has unbalanced braces';
    END IF;
    FOR v_placeholder IN SELECT m[1] FROM regexp_matches(v_plain, '\{([^{}]*)\}', 'g') m LOOP
        IF v_placeholder !~ '^[^.\s]+(\.[^.\s]+)*$' OR v_placeholder = 'headers' THEN
            RETURN format('has the placeholder {%s}, which names nothing', v_placeholder);
        END IF;
    END LOOP;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION tide._text_list(p_value jsonb)
RETURNS text[]
LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT CASE jsonb_typeof(p_value)
               WHEN 'string' THEN ARRAY(SELECT trim(t) FROM unnest(string_to_array(p_value #>> '{}', ',')) t)
               WHEN 'array' THEN ARRAY(SELECT jsonb_array_elements_text(p_value))
           END
$$;

-- Milliseconds of 250, "250ms", "3s", "5m", "2h"; null when it is none of these.
CREATE OR REPLACE FUNCTION tide._duration_ms(p_value jsonb)
RETURNS bigint
LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT m[1]::bigint * CASE m[2] WHEN 's' THEN 1000 WHEN 'm' THEN 60000 WHEN 'min' THEN 60000 WHEN 'h' THEN 3600000 ELSE 1 END
      FROM regexp_match(p_value #>> '{}', '^\s*([0-9]{1,12})\s*(ms|s|m|min|h)?\s*$') m
$$;

-- What is wrong with a reference to a secret, or null. Never shows the value:
-- it may be the secret itself.
CREATE OR REPLACE FUNCTION tide._reference_error(p_text text)
RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE
        WHEN p_text ~ '^\$\{file:/[^}]+\}$' THEN NULL
        WHEN p_text ~ '^\$\{env:PG_TIDE_' THEN 'names a variable that belongs to pg-tide itself; use a variable of another name'
        WHEN p_text ~ '^\$\{env:[A-Za-z0-9_]+\}$' THEN NULL
        ELSE 'must be a reference, "${file:/absolute/path}" or "${env:NAME}", which the relay reads: secrets are never kept in SQL'
    END
$$;

-- What is wrong with one value, or null.
CREATE OR REPLACE FUNCTION tide._option_error(p_option tide.connector_option, p_value jsonb)
RETURNS text
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    v_type text := jsonb_typeof(p_value);
    v_text text := p_value #>> '{}';
BEGIN
    IF p_option.allowed IS NOT NULL THEN
        IF v_type NOT IN ('string', 'number') OR v_text <> ALL (p_option.allowed) THEN
            RETURN format('is %s; allowed: %s', p_value, tide._quoted_list(p_option.allowed));
        END IF;
        RETURN NULL;
    END IF;
    CASE p_option.kind
        WHEN 'text' THEN
            IF v_type <> 'string' OR v_text = '' THEN
                RETURN format('is %s; it must be a text', p_value);
            END IF;
        WHEN 'template' THEN
            IF v_type <> 'string' OR v_text = '' THEN
                RETURN format('is %s; it must be a text', p_value);
            END IF;
            RETURN tide._template_error(v_text);
        WHEN 'secret' THEN
            RETURN tide._reference_error(v_text);
        WHEN 'secret_list' THEN
            IF v_type <> 'array' THEN
                RETURN tide._reference_error(v_text);
            ELSIF p_value = '[]' THEN
                RETURN 'is an empty list';
            END IF;
            RETURN (SELECT tide._reference_error(e #>> '{}') FROM jsonb_array_elements(p_value) e
                     WHERE tide._reference_error(e #>> '{}') IS NOT NULL LIMIT 1);
        WHEN 'setting' THEN
            IF v_type <> 'string' OR v_text = '' THEN
                RETURN format('is %s; it must be a text', p_value);
            ELSIF starts_with(v_text, '${') THEN
                RETURN tide._reference_error(v_text);
            END IF;
        WHEN 'duration' THEN
            IF NOT coalesce(tide._duration_ms(p_value) BETWEEN p_option.minimum AND p_option.maximum, false) THEN
                RETURN format('is %s; it must be a duration such as "250ms", "3s" or "5m", from %s to %s ms', p_value,
                              p_option.minimum, p_option.maximum);
            END IF;
        WHEN 'integer' THEN
            IF v_type <> 'number' OR v_text !~ '^-?[0-9]{1,18}$'
               OR v_text::bigint NOT BETWEEN coalesce(p_option.minimum, v_text::bigint) AND coalesce(p_option.maximum, v_text::bigint) THEN
                RETURN format('is %s; it must be a whole number%s%s', p_value,
                              ' from ' || p_option.minimum, ' to ' || p_option.maximum);
            END IF;
        WHEN 'boolean' THEN
            IF v_type <> 'boolean' THEN
                RETURN format('is %s; it must be true or false', p_value);
            END IF;
        WHEN 'object' THEN
            IF v_type <> 'object' THEN
                RETURN format('is %s; it must be a JSON object', p_value);
            END IF;
        WHEN 'text_list' THEN
            IF v_type = 'array' AND EXISTS (SELECT FROM jsonb_array_elements(p_value) e WHERE jsonb_typeof(e) <> 'string')
               OR coalesce(tide._text_list(p_value), '{}') = '{}'
               OR '' = ANY (tide._text_list(p_value)) THEN
                RETURN 'must be a text, several separated by commas, or an array of texts';
            END IF;
    END CASE;
    RETURN NULL;
END $$;

-- A text, a number, true or false, or a list of these.
CREATE OR REPLACE FUNCTION tide._is_filter_value(p_value jsonb)
RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
    SELECT jsonb_typeof(p_value) IN ('string', 'number', 'boolean')
        OR CASE jsonb_typeof(p_value) WHEN 'array' THEN
               jsonb_array_length(p_value) > 0
               AND NOT EXISTS (SELECT FROM jsonb_array_elements(p_value) e WHERE jsonb_typeof(e) NOT IN ('string', 'number', 'boolean'))
           END
$$;

CREATE OR REPLACE FUNCTION tide._check_filter(p_pipeline text, p_filter jsonb)
RETURNS void
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    v_entry record;
BEGIN
    FOR v_entry IN SELECT * FROM jsonb_each(p_filter) WHERE jsonb_typeof(p_filter) = 'object' LOOP
        IF v_entry.key !~ '^(headers\..+|payload\.[^.]+(\.[^.]+)*)$' THEN
            RAISE EXCEPTION 'key "filter.%" in the config of pipeline "%" names no place', v_entry.key, p_pipeline
                USING ERRCODE = 'invalid_parameter_value', HINT = 'Write "headers.NAME" or "payload.PATH".';
        ELSIF NOT coalesce(tide._is_filter_value(v_entry.value), false)
              AND NOT (jsonb_typeof(v_entry.value) = 'object'
                       AND (SELECT count(*) = 1 AND bool_and(CASE f.key WHEN 'not' THEN coalesce(tide._is_filter_value(f.value), false)
                                                                       WHEN 'exists' THEN jsonb_typeof(f.value) = 'boolean'
                                                                       ELSE false END)
                              FROM jsonb_each(v_entry.value) f)) THEN
            RAISE EXCEPTION 'key "filter.%" in the config of pipeline "%" has no usable value', v_entry.key, p_pipeline
                USING ERRCODE = 'invalid_parameter_value',
                      HINT = 'A text, a number, true, false, a list of these, {"not": ...} or {"exists": true}.';
        END IF;
    END LOOP;
END $$;

CREATE OR REPLACE FUNCTION tide._check_headers(p_pipeline text, p_headers jsonb)
RETURNS void
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    v_entry record;
BEGIN
    FOR v_entry IN SELECT * FROM jsonb_each(p_headers) WHERE jsonb_typeof(p_headers) = 'object' LOOP
        IF jsonb_typeof(v_entry.value) <> 'string' OR tide._template_error(v_entry.value #>> '{}') IS NOT NULL THEN
            RAISE EXCEPTION 'key "headers.%" in the config of pipeline "%" %', v_entry.key, p_pipeline,
                coalesce(tide._template_error(v_entry.value #>> '{}'), 'must be a text')
                USING ERRCODE = 'invalid_parameter_value', HINT = 'Each header is a text, with {placeholders} if wanted.';
        END IF;
    END LOOP;
END $$;

-- Raises the first thing that is wrong with the config, by key. Values of
-- unknown keys are not shown: they may be secrets.
CREATE OR REPLACE FUNCTION tide._check_config(p_pipeline text, p_direction text, p_connector text, p_config jsonb)
RETURNS void
LANGUAGE plpgsql STABLE AS $$
DECLARE
    v_known  text[] := ARRAY(SELECT o.key FROM tide.connector_option o
                              WHERE o.direction = p_direction AND o.connector IN (p_connector, '*') ORDER BY o.key);
    v_option tide.connector_option;
    v_entry  record;
    v_error  text;
BEGIN
    IF p_config IS NULL OR jsonb_typeof(p_config) <> 'object' THEN
        RAISE EXCEPTION 'config of pipeline "%" is %', p_pipeline,
            CASE WHEN p_config IS NULL THEN 'null' ELSE 'a JSON ' || jsonb_typeof(p_config) END
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'p_config is a JSON object; build it with jsonb_build_object(''key'', value, ...).';
    END IF;

    FOR v_entry IN
        SELECT e.key, e.value, position('.' IN e.key) = 0 AS may_be_known FROM jsonb_each(p_config) e
        UNION ALL
        SELECT p.key || '.' || e.key, e.value, true
          FROM jsonb_each(p_config) p, LATERAL jsonb_each(CASE jsonb_typeof(p.value) WHEN 'object' THEN p.value ELSE '{}' END) e
         WHERE EXISTS (SELECT FROM unnest(v_known) k WHERE starts_with(k, p.key || '.'))
    LOOP
        SELECT o.* INTO v_option FROM tide.connector_option o
         WHERE o.direction = p_direction AND o.connector IN (p_connector, '*') AND o.key = v_entry.key
           AND v_entry.may_be_known;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'unknown key "%" in the config of pipeline "%"', v_entry.key, p_pipeline
                USING ERRCODE = 'invalid_parameter_value',
                      HINT = format('%sKnown for %s: %s.', tide._suggestion(v_entry.key, v_known), p_connector, tide._quoted_list(v_known));
        END IF;
        -- A null is as good as no entry.
        CONTINUE WHEN v_entry.value = 'null';
        v_error := tide._option_error(v_option, v_entry.value);
        IF v_error IS NOT NULL THEN
            RAISE EXCEPTION 'key "%" in the config of pipeline "%" %', v_entry.key, p_pipeline, v_error
                USING ERRCODE = 'invalid_parameter_value', HINT = v_option.description;
        END IF;
        IF v_option.kind = 'text_list' AND EXISTS (SELECT FROM unnest(tide._text_list(v_entry.value)) u WHERE u LIKE '%@%') THEN
            RAISE EXCEPTION 'key "%" in the config of pipeline "%" contains a user name or password', v_entry.key, p_pipeline
                USING ERRCODE = 'invalid_parameter_value',
                      HINT = 'Secrets are never kept in SQL. Write the address as host:port alone, and credentials in options of their own, by reference: "${file:/absolute/path}" or "${env:NAME}".';
        END IF;
    END LOOP;
    PERFORM tide._check_filter(p_pipeline, p_config -> 'filter');
    IF p_connector IN ('kafka', 'nats') THEN
        PERFORM tide._check_headers(p_pipeline, p_config -> 'headers');
    END IF;
    IF p_config ? 'cloudevents' AND coalesce(p_config ->> 'encoding', 'raw') = 'raw' THEN
        RAISE EXCEPTION 'key "cloudevents" in the config of pipeline "%" has no meaning with the encoding "raw"', p_pipeline
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Set "encoding" to "cloudevents" or "cloudevents-binary".';
    END IF;
    IF p_config ->> 'encoding' = 'cloudevents-binary'
       AND (p_connector IN ('inbox', 'stdout') OR p_connector = 'webhook' AND p_config ->> 'mode' = 'batch') THEN
        RAISE EXCEPTION 'key "encoding" in the config of pipeline "%" is "cloudevents-binary", which needs headers of each message''s own', p_pipeline
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Set it to "cloudevents", or leave it out.';
    END IF;

    SELECT o.* INTO v_option FROM tide.connector_option o
     WHERE o.direction = p_direction AND o.connector IN (p_connector, '*') AND o.required
       AND coalesce(p_config -> o.key, 'null') = 'null'
     ORDER BY o.key LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'key "%" is missing in the config of pipeline "%"', v_option.key, p_pipeline
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = format('%s needs it: %s', p_connector, v_option.description);
    END IF;
    IF p_connector = 'nats' THEN
        PERFORM tide._check_nats(p_pipeline, p_config);
    ELSIF p_connector = 'kafka' THEN
        PERFORM tide._check_kafka(p_pipeline, p_config);
    ELSIF p_direction = 'forward' AND p_connector = 'inbox' THEN
        PERFORM tide._check_inbox_sink(p_pipeline, p_config);
    ELSIF p_direction = 'forward' AND p_connector = 'webhook' THEN
        PERFORM tide._check_webhook_sink(p_pipeline, p_config);
    ELSIF p_direction = 'reverse' AND p_connector = 'webhook' THEN
        PERFORM tide._check_webhook_source(p_pipeline, p_config);
    END IF;
END $$;
