-- Options of webhook sinks.

INSERT INTO tide.connector_option (direction, connector, key, kind, required, allowed, minimum, maximum, description) VALUES
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
('forward', 'webhook', 'delivery', 'text', false, '{at-least-once}', NULL, NULL, 'at-least-once: what was under way when a relay dies is sent again, with the same id; a receiver cannot be asked what it has.');

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

-- What no single option of a webhook sink shows. Never shows a value: it may be
-- a secret.
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

-- Options of webhook sources.

INSERT INTO tide.connector_option (direction, connector, key, kind, required, allowed, minimum, maximum, description) VALUES
('reverse', 'webhook', 'signature', 'text', false, '{standard,none}', NULL, NULL, 'standard: requests are signed after the Standard Webhooks convention with "signing_secret". none: they are not, and whoever reaches the listener can send.'),
('reverse', 'webhook', 'signing_secret', 'secret_list', false, NULL, NULL, NULL, 'Keys of the senders, "whsec_" and base64 or as they are, by reference. Several, as an array or in one file with blanks between, while senders change from one to another.'),
('reverse', 'webhook', 'tolerance', 'duration', false, NULL, 1000, 86400000, 'How far the time of a signature may be from the relay''s: "5m" without it.'),
('reverse', 'webhook', 'max_body_bytes', 'integer', false, NULL, 1, 100000000, 'Size of a request''s body, at most; 1048576 without it.'),
('reverse', 'webhook', 'max_in_flight', 'integer', false, NULL, 1, 100000, 'Requests that are received or stored at the same time in each relay, at most; further ones are told to come again. 4096 without it.'),
('reverse', 'webhook', 'timeout', 'duration', false, NULL, 100, 600000, 'For the body of a request to arrive: "10s" without it.');

-- What no single option of a webhook source shows.
CREATE OR REPLACE FUNCTION tide._check_webhook_source(p_pipeline text, p_config jsonb)
RETURNS void
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    v_unsigned boolean := coalesce(p_config ->> 'signature' = 'none', false);
    v_key      text;
BEGIN
    IF v_unsigned THEN
        SELECT k INTO v_key FROM unnest('{signing_secret,tolerance}'::text[]) k WHERE p_config ->> k IS NOT NULL;
        IF FOUND THEN
            RAISE EXCEPTION 'key "%" in the config of pipeline "%" has no meaning with "signature": "none"', v_key, p_pipeline
                USING ERRCODE = 'invalid_parameter_value', HINT = 'Leave one of them out.';
        END IF;
        RETURN;
    END IF;
    IF p_config ->> 'signing_secret' IS NULL THEN
        RAISE EXCEPTION 'key "signing_secret" is missing in the config of pipeline "%"', p_pipeline
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Name the senders'' key by reference, "${file:/absolute/path}" or "${env:NAME}". If their requests are not signed, say so: "signature": "none"; whoever reaches the listener can send then.';
    END IF;
    SELECT k INTO v_key FROM unnest('{message_id_header,dedup_key}'::text[]) k WHERE p_config ->> k IS NOT NULL;
    IF FOUND THEN
        RAISE EXCEPTION 'key "%" in the config of pipeline "%" has no meaning with signed requests', v_key, p_pipeline
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'The header webhook-id, which the signature covers, tells them apart. Leave it out, or set "signature" to "none".';
    END IF;
END $$;
