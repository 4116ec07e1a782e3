-- Options of Kafka connectors, and what does not go together.

INSERT INTO tide.connector_option (direction, connector, key, kind, required, allowed, minimum, maximum, description) VALUES
('forward', 'kafka', 'topic', 'template', true, NULL, NULL, NULL, 'Topic.'),
('forward', 'kafka', 'key', 'template', false, NULL, NULL, NULL, 'Record key; equal keys keep their order.'),
('forward', 'kafka', 'partition', 'integer', false, NULL, 0, 1000000, 'Topic partition; without it the key decides.'),
('forward', 'kafka', 'acks', 'text', false, '{all,-1,1,0}', NULL, NULL, 'Acknowledgements that a record needs; all and -1 mean every in-sync replica.'),
('forward', 'kafka', 'compression', 'text', false, '{none,gzip,snappy,lz4,zstd}', NULL, NULL, 'Compression of record batches.'),
('forward', 'kafka', 'linger_ms', 'integer', false, NULL, 0, 10000, 'Wait for more records before a batch is sent, in milliseconds.'),
('forward', 'kafka', 'batch_bytes', 'integer', false, NULL, 1024, 100000000, 'Size of a record batch, in bytes, at most.'),
('forward', 'kafka', 'headers', 'object', false, NULL, NULL, NULL, 'Headers to add: names and templates; one that cannot be made is left out.'),
('forward', 'kafka', 'delivery', 'text', false, '{exactly-once,at-least-once,transactional}', NULL, NULL, 'exactly-once: after a takeover the topic''s tail is read so that nothing is sent twice; transactional: batches in transactions, and the broker fences an owner that was replaced.');

-- The connection's options.
INSERT INTO tide.connector_option (direction, connector, key, kind, required, allowed, minimum, maximum, description) VALUES
('forward', 'kafka', 'brokers', 'text_list', true, NULL, NULL, NULL, 'Bootstrap brokers, host:port.'),
('forward', 'kafka', 'client_id', 'text', false, NULL, NULL, NULL, 'Client id shown by the broker.'),
('forward', 'kafka', 'librdkafka', 'object', false, NULL, NULL, NULL, 'Further properties of librdkafka, by their names there; not those on which delivery rests, and no secrets.'),
('forward', 'kafka', 'security_protocol', 'text', false, '{plaintext,ssl,sasl_plaintext,sasl_ssl}', NULL, NULL, 'How brokers are spoken to, as their listener wants it.'),
('forward', 'kafka', 'tls_ca', 'setting', false, NULL, NULL, NULL, 'Certificates to trust, as PEM or a reference to it; without it the system''s.'),
('forward', 'kafka', 'tls_cert', 'setting', false, NULL, NULL, NULL, 'Own certificate, as PEM or a reference to it.'),
('forward', 'kafka', 'tls_key', 'secret', false, NULL, NULL, NULL, 'Key of the own certificate, a reference to PEM.'),
('forward', 'kafka', 'tls_key_password', 'secret', false, NULL, NULL, NULL, 'Password of an encrypted tls_key, a reference.'),
('forward', 'kafka', 'sasl_mechanism', 'text', false, '{PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER}', NULL, NULL, 'How to log in, with security_protocol sasl_ssl or sasl_plaintext.'),
('forward', 'kafka', 'sasl_username', 'setting', false, NULL, NULL, NULL, 'User of PLAIN and SCRAM, or a reference to the name.'),
('forward', 'kafka', 'sasl_password', 'secret', false, NULL, NULL, NULL, 'Password of PLAIN and SCRAM, a reference.'),
('forward', 'kafka', 'sasl_oauth_token_url', 'text', false, NULL, NULL, NULL, 'Token endpoint of OAUTHBEARER (client credentials grant), https://....'),
('forward', 'kafka', 'sasl_oauth_client_id', 'setting', false, NULL, NULL, NULL, 'Client id of OAUTHBEARER, or a reference to it.'),
('forward', 'kafka', 'sasl_oauth_client_secret', 'secret', false, NULL, NULL, NULL, 'Client secret of OAUTHBEARER, a reference.'),
('forward', 'kafka', 'sasl_oauth_scope', 'text', false, NULL, NULL, NULL, 'Scope to ask the token server for.');

-- Raises an error about one key of a config.
CREATE OR REPLACE FUNCTION tide._refuse_option(p_pipeline text, p_key text, p_what text, p_hint text)
RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RAISE EXCEPTION 'key "%" in the config of pipeline "%" %', p_key, p_pipeline, p_what
        USING ERRCODE = 'invalid_parameter_value', HINT = p_hint;
END $$;

CREATE OR REPLACE FUNCTION tide._check_librdkafka(p_pipeline text, p_properties jsonb)
RETURNS void
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    -- Those for which there is an option.
    v_own   jsonb := '{"batch.size": "batch_bytes", "client.id": "client_id", "compression.codec": "compression",
                       "compression.type": "compression", "linger.ms": "linger_ms", "queue.buffering.max.ms": "linger_ms",
                       "sasl.mechanism": "sasl_mechanism", "sasl.mechanisms": "sasl_mechanism",
                       "sasl.username": "sasl_username", "security.protocol": "security_protocol",
                       "ssl.ca.location": "tls_ca", "ssl.certificate.location": "tls_cert",
                       "ssl.key.location": "tls_key", "ssl.keystore.location": "tls_key"}';
    v_entry record;
    v_key   text;
BEGIN
    FOR v_entry IN SELECT * FROM jsonb_each(p_properties) WHERE jsonb_typeof(p_properties) = 'object' LOOP
        v_key := 'librdkafka.' || v_entry.key;
        IF v_entry.key ~ '(password|secret|oauthbearer\.config|\.pem$)' THEN
            PERFORM tide._refuse_option(p_pipeline, v_key, 'is a secret',
                'Secrets are never kept in SQL; use the option of its own, such as "sasl_password", with "${file:/absolute/path}" or "${env:NAME}".');
        ELSIF v_entry.key IN ('acks', 'auto.offset.reset', 'bootstrap.servers', 'delivery.report.only.error', 'delivery.timeout.ms',
                              'enable.auto.commit', 'enable.auto.offset.store', 'enable.gapless.guarantee', 'enable.idempotence',
                              'enable.partition.eof', 'isolation.level', 'message.timeout.ms', 'metadata.broker.list',
                              'request.required.acks', 'transactional.id') THEN
            PERFORM tide._refuse_option(p_pipeline, v_key, 'cannot be set: delivery rests on it',
                'Brokers, acks and delivery are options of their own: "brokers", "acks", "delivery".');
        ELSIF v_own ? v_entry.key THEN
            PERFORM tide._refuse_option(p_pipeline, v_key, 'is set by an option of its own',
                format('Use "%s" beside "librdkafka".', v_own ->> v_entry.key));
        ELSIF jsonb_typeof(v_entry.value) NOT IN ('string', 'number', 'boolean') THEN
            PERFORM tide._refuse_option(p_pipeline, v_key, 'must be a text, a number, true or false',
                'Write the value as librdkafka''s documentation does.');
        END IF;
    END LOOP;
END $$;

-- The first of these keys that the config has.
CREATE OR REPLACE FUNCTION tide._first_given(p_config jsonb, p_keys text[])
RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT k FROM unnest(p_keys) WITH ORDINALITY u(k, n) WHERE coalesce(p_config -> k, 'null') <> 'null' ORDER BY n LIMIT 1
$$;

-- The first of these keys that the config lacks.
CREATE OR REPLACE FUNCTION tide._first_missing(p_config jsonb, p_keys text[])
RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT k FROM unnest(p_keys) WITH ORDINALITY u(k, n) WHERE coalesce(p_config -> k, 'null') = 'null' ORDER BY n LIMIT 1
$$;

-- Options that each are right and do not go together.
CREATE OR REPLACE FUNCTION tide._check_kafka(p_pipeline text, p_config jsonb)
RETURNS void
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    v_protocol  text := coalesce(p_config ->> 'security_protocol', 'plaintext');
    v_mechanism text := p_config ->> 'sasl_mechanism';
    v_url       text := p_config ->> 'sasl_oauth_token_url';
    v_password  text[] := '{sasl_username,sasl_password}';
    v_oauth     text[] := '{sasl_oauth_token_url,sasl_oauth_client_id,sasl_oauth_client_secret,sasl_oauth_scope}';
    v_key       text;
BEGIN
    PERFORM tide._check_librdkafka(p_pipeline, p_config -> 'librdkafka');

    IF p_config ->> 'delivery' = 'transactional' AND coalesce(p_config ->> 'acks', 'all') NOT IN ('all', '-1') THEN
        PERFORM tide._refuse_option(p_pipeline, 'acks', 'does not go with delivery "transactional"',
            'A transaction needs "acks" "all"; leave the key out.');
    END IF;

    v_key := tide._first_given(p_config, '{tls_ca,tls_cert,tls_key,tls_key_password}');
    IF v_key IS NOT NULL AND v_protocol NOT IN ('ssl', 'sasl_ssl') THEN
        PERFORM tide._refuse_option(p_pipeline, v_key, format('does not go with security_protocol "%s"', v_protocol),
            'There is TLS with "security_protocol" "ssl" or "sasl_ssl"; without TLS leave the key out.');
    END IF;
    IF tide._first_given(p_config, '{tls_cert,tls_key,tls_key_password}') IS NOT NULL THEN
        v_key := tide._first_missing(p_config, '{tls_cert,tls_key}');
        IF v_key IS NOT NULL THEN
            PERFORM tide._refuse_option(p_pipeline, v_key, 'is missing', 'A client certificate is "tls_cert" with its "tls_key".');
        END IF;
    END IF;

    v_key := tide._first_given(p_config, '{sasl_mechanism}' || v_password || v_oauth);
    IF v_protocol NOT IN ('sasl_ssl', 'sasl_plaintext') THEN
        IF v_key IS NOT NULL THEN
            PERFORM tide._refuse_option(p_pipeline, v_key, format('does not go with security_protocol "%s"', v_protocol),
                'To log in by SASL set "security_protocol" to "sasl_ssl" (or "sasl_plaintext", without TLS); else leave the key out.');
        END IF;
        RETURN;
    END IF;
    IF v_mechanism IS NULL THEN
        PERFORM tide._refuse_option(p_pipeline, 'sasl_mechanism', 'is missing',
            format('security_protocol "%s" needs it: "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512" or "OAUTHBEARER", as the broker''s listener has it.', v_protocol));
    ELSIF v_mechanism <> 'OAUTHBEARER' THEN
        v_key := tide._first_given(p_config, v_oauth);
        IF v_key IS NOT NULL THEN
            PERFORM tide._refuse_option(p_pipeline, v_key, format('does not go with sasl_mechanism "%s"', v_mechanism),
                'It belongs to "OAUTHBEARER"; leave it out, or choose that.');
        END IF;
        v_key := tide._first_missing(p_config, v_password);
        IF v_key IS NOT NULL THEN
            PERFORM tide._refuse_option(p_pipeline, v_key, 'is missing',
                format('sasl_mechanism "%s" needs "sasl_username" and "sasl_password", the latter as "${file:/absolute/path}" or "${env:NAME}".', v_mechanism));
        END IF;
        RETURN;
    END IF;
    v_key := tide._first_given(p_config, v_password);
    IF v_key IS NOT NULL THEN
        PERFORM tide._refuse_option(p_pipeline, v_key, 'does not go with sasl_mechanism "OAUTHBEARER"',
            'Its credentials are "sasl_oauth_client_id" and "sasl_oauth_client_secret".');
    END IF;
    v_key := tide._first_missing(p_config, '{sasl_oauth_token_url,sasl_oauth_client_id,sasl_oauth_client_secret}');
    IF v_key IS NOT NULL THEN
        PERFORM tide._refuse_option(p_pipeline, v_key, 'is missing',
            'sasl_mechanism "OAUTHBEARER" needs "sasl_oauth_token_url", "sasl_oauth_client_id" and "sasl_oauth_client_secret", the last as "${file:/absolute/path}" or "${env:NAME}".');
    ELSIF v_url !~ '^https?://.' THEN
        PERFORM tide._refuse_option(p_pipeline, 'sasl_oauth_token_url', 'is no address of the web',
            'It begins with https:// (or http://, which shows the client''s secret to everybody on the way).');
    ELSIF v_url ~ '^https?://[^/]*@' THEN
        PERFORM tide._refuse_option(p_pipeline, 'sasl_oauth_token_url', 'contains a user name or password',
            'Secrets are never kept in SQL: write them as "sasl_oauth_client_id" and "sasl_oauth_client_secret", by reference.');
    END IF;
END $$;
