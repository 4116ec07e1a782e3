-- Options of the sinks beside brokers: inbox, webhook, stdout.

INSERT INTO tide.connector_option (direction, connector, key, kind, required, allowed, minimum, maximum, description) VALUES
('forward', 'inbox', 'inbox', 'text', true, NULL, NULL, NULL, 'Inbox to deliver into.'),
('forward', 'inbox', 'url', 'setting', false, NULL, NULL, NULL, 'Database of the inbox, postgres://user@host:port/database, or a reference to such a URL; without it the inbox is in this database.'),
('forward', 'inbox', 'user', 'setting', false, NULL, NULL, NULL, 'Role to log in as, when not in the URL.'),
('forward', 'inbox', 'password', 'secret', false, NULL, NULL, NULL, 'Password of that role, by reference.'),
('forward', 'inbox', 'message_id_header', 'text', false, NULL, NULL, NULL, 'Header whose value is the event id; without it, or without that header, the message''s tide-id.'),
('forward', 'inbox', 'origin', 'text', false, NULL, NULL, NULL, 'Name of this side; added to the header tide-path of what is delivered.'),
('forward', 'inbox', 'skip_if_passed', 'text_list', false, NULL, NULL, NULL, 'Names; a message whose tide-path has one of them is not delivered: it came from there.'),
('forward', 'inbox', 'delivery', 'text', false, '{exactly-once}', NULL, NULL, 'exactly-once; an inbox knows no other.'),
('forward', 'webhook', 'url', 'setting', true, NULL, NULL, NULL, 'Where messages are posted to, https://host/path; path and query may have {placeholders}. Or a reference to the whole URL, when it is a secret.'),
('forward', 'webhook', 'method', 'text', false, '{POST}', NULL, NULL, 'POST.'),
('forward', 'webhook', 'mode', 'text', false, '{single,batch}', NULL, NULL, 'single: a request per message, its body the payload. batch: a JSON array of up to batch_size messages.'),
('forward', 'webhook', 'max_bytes', 'integer', false, NULL, 1024, 100000000, 'Size of a batch''s body, in bytes, at most.'),
('forward', 'webhook', 'headers', 'object', false, NULL, NULL, NULL, 'Headers of every request: names and values. Secrets, such as "Authorization", by reference.'),
('forward', 'webhook', 'signing_secret', 'secret', false, NULL, NULL, NULL, 'Key of the signature (Standard Webhooks), "whsec_" and base64 or as it is, by reference.'),
('forward', 'webhook', 'timeout', 'duration', false, NULL, 100, 600000, 'For a request and its answer: "10s", or a number of milliseconds.'),
('forward', 'webhook', 'key', 'template', false, NULL, NULL, NULL, 'Messages with equal keys are sent in order, others at the same time; without it all are sent in order.'),
('forward', 'webhook', 'concurrency', 'integer', false, NULL, 1, 256, 'Requests at the same time, at most; more than one only with "key".'),
('forward', 'webhook', 'allow_private', 'boolean', false, NULL, NULL, NULL, 'Whether addresses of private networks and of the relay''s own host are posted to.'),
('forward', 'webhook', 'tls_ca', 'setting', false, NULL, NULL, NULL, 'Certificates to trust, as PEM or a reference to it; without it the system''s.'),
('forward', 'webhook', 'tls_cert', 'setting', false, NULL, NULL, NULL, 'Own certificate, as PEM or a reference to it.'),
('forward', 'webhook', 'tls_key', 'secret', false, NULL, NULL, NULL, 'Key of the own certificate, a reference to PEM.'),
('forward', 'webhook', 'delivery', 'text', false, '{at-least-once}', NULL, NULL, 'at-least-once: what was under way when a relay dies is sent again, with the same id; a receiver cannot be asked what it has.'),
('forward', 'stdout', 'delivery', 'text', false, '{at-least-once}', NULL, NULL, 'at-least-once; standard output cannot be read again.');

-- What no single option of these sinks shows. Never shows a value: it may hold
-- a password.
CREATE OR REPLACE FUNCTION tide._check_inbox_sink(p_pipeline text, p_config jsonb)
RETURNS void
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    v_url text := p_config ->> 'url';
BEGIN
    IF v_url IS NULL THEN
        IF coalesce(p_config ->> 'user', p_config ->> 'password') IS NOT NULL THEN
            RAISE EXCEPTION 'key "url" is missing in the config of pipeline "%"', p_pipeline
                USING ERRCODE = 'invalid_parameter_value',
                      HINT = '"user" and "password" are for the database in "url"; without it the inbox is in this database, and the relay''s own login is used.';
        END IF;
    ELSIF starts_with(v_url, '${') THEN
        NULL;
    ELSIF v_url ~* '^postgres(ql)?://[^/?#]*:[^/?#]*@' OR v_url ~* '(^|[\s?&])(ssl)?password\s*=' THEN
        RAISE EXCEPTION 'key "url" in the config of pipeline "%" contains a password', p_pipeline
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Secrets are never kept in SQL. Leave the password out of the URL and give it as "password", by reference, or refer to the whole URL: "${file:/absolute/path}" or "${env:NAME}".';
    ELSIF v_url !~* '^postgres(ql)?://.' AND v_url !~* '(^|\s)host(addr)?\s*=' THEN
        RAISE EXCEPTION 'key "url" in the config of pipeline "%" is no address of a PostgreSQL database', p_pipeline
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Write postgres://user@host:port/database, or "host=... dbname=... user=...".';
    END IF;
END $$;

CREATE OR REPLACE FUNCTION tide._check_webhook_headers(p_pipeline text, p_headers jsonb)
RETURNS void
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    v_header record;
    v_value  text;
    v_error  text;
BEGIN
    FOR v_header IN SELECT * FROM jsonb_each(CASE jsonb_typeof(p_headers) WHEN 'object' THEN p_headers ELSE '{}' END) LOOP
        v_value := v_header.value #>> '{}';
        v_error := CASE
            WHEN v_header.key !~ '^[A-Za-z0-9!#$%&''*+.^_`|~-]+$' THEN 'is no name of an HTTP header'
            WHEN lower(v_header.key) ~ '^(connection|content-encoding|content-length|content-type|expect|host|idempotency-key|te|trailer|transfer-encoding|upgrade|webhook-.*|tide-.*)$'
                THEN 'is set by pg-tide itself'
            WHEN jsonb_typeof(v_header.value) <> 'string' THEN 'must be a text'
            WHEN starts_with(v_value, '${') THEN tide._reference_error(v_value)
            WHEN lower(v_header.key) ~ '(auth|token|secret|key|password|signature|credential|cookie)'
                THEN 'must be a reference, "${file:/absolute/path}" or "${env:NAME}", which the relay reads: secrets are never kept in SQL'
            WHEN v_value ~ '[^\x20-\x7e]' THEN 'has a value that HTTP does not allow'
        END;
        IF v_error IS NOT NULL THEN
            RAISE EXCEPTION 'key "headers.%" in the config of pipeline "%" %', v_header.key, p_pipeline, v_error
                USING ERRCODE = 'invalid_parameter_value',
                      HINT = '"headers" has the names and values of further headers, as in {"X-Source": "shop", "Authorization": "${file:/run/secrets/authorization}"}.';
        END IF;
    END LOOP;
END $$;

CREATE OR REPLACE FUNCTION tide._check_webhook_sink(p_pipeline text, p_config jsonb)
RETURNS void
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    v_url   text := p_config ->> 'url';
    v_error text;
BEGIN
    v_error := CASE
        WHEN starts_with(v_url, '${') THEN NULL
        WHEN v_url !~* '^https?://' THEN 'must begin with https:// or http://'
        WHEN v_url ~ '^[^/]*//[^/?#]*@' THEN 'contains a user name or password'
        WHEN v_url ~ '^[^/]*//[^/?#]*[{}]' THEN 'may have placeholders after the host only'
        WHEN v_url !~ '^[^/]*//([^][/?#\s:]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?([/?#]|$)' THEN 'has a host that cannot be read'
        WHEN v_url ~ '#' THEN 'has a fragment (#), which is never sent'
        ELSE tide._template_error(v_url)
    END;
    IF v_error IS NOT NULL THEN
        RAISE EXCEPTION 'key "url" in the config of pipeline "%" %', p_pipeline, v_error
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Write https://host:port/path, and credentials as a header by reference: "headers": {"Authorization": "${file:/absolute/path}"}.';
    END IF;
    PERFORM tide._check_webhook_headers(p_pipeline, p_config -> 'headers');
    IF (p_config ->> 'concurrency')::bigint > 1 AND p_config ->> 'key' IS NULL THEN
        RAISE EXCEPTION 'key "concurrency" in the config of pipeline "%" needs "key"', p_pipeline
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Without a key all messages are sent one after the other. "key" says what stays in order, such as "{payload.customer_id}", or "{id}" when each message stands alone.';
    END IF;
    FOR v_error IN SELECT o FROM (VALUES ('tls_cert', 'tls_key'), ('tls_key', 'tls_cert')) AS p (k, o)
                    WHERE p_config ->> k IS NOT NULL AND p_config ->> o IS NULL LOOP
        RAISE EXCEPTION 'key "%" is missing in the config of pipeline "%"', v_error, p_pipeline
            USING ERRCODE = 'invalid_parameter_value', HINT = 'A certificate and its key go together: set both, or neither.';
    END LOOP;
END $$;

CREATE OR REPLACE FUNCTION tide._check_sink(p_pipeline text, p_sink text, p_config jsonb)
RETURNS void
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    CASE p_sink
        WHEN 'inbox' THEN PERFORM tide._check_inbox_sink(p_pipeline, p_config);
        WHEN 'webhook' THEN PERFORM tide._check_webhook_sink(p_pipeline, p_config);
        ELSE NULL;
    END CASE;
END $$;
