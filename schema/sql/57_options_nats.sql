-- Options of NATS connectors.

INSERT INTO tide.connector_option (direction, connector, key, kind, required, allowed, minimum, maximum, description) VALUES
('forward', 'nats', 'url', 'text_list', true, NULL, NULL, NULL, 'Servers, nats://host:port or tls://host:port; one of them is connected to.'),
('forward', 'nats', 'subject', 'template', true, NULL, NULL, NULL, 'Subject.'),
('forward', 'nats', 'stream', 'text', false, NULL, NULL, NULL, 'Stream that must take the subject.'),
('forward', 'nats', 'create_stream', 'boolean', false, NULL, NULL, NULL, 'Whether a missing stream is created.'),
('forward', 'nats', 'headers', 'object', false, NULL, NULL, NULL, 'Headers to add: names and templates; one that cannot be made is left out.'),
('forward', 'nats', 'delivery', 'text', false, '{exactly-once,at-least-once}', NULL, NULL, 'exactly-once: after a takeover the stream''s tail is read so that nothing is sent twice.'),
('forward', 'nats', 'credentials', 'secret', false, NULL, NULL, NULL, 'Content of a .creds file (a user''s JWT and key), by reference.'),
('forward', 'nats', 'token', 'secret', false, NULL, NULL, NULL, 'Token to log in with, by reference.'),
('forward', 'nats', 'user', 'setting', false, NULL, NULL, NULL, 'User to log in as, with "password".'),
('forward', 'nats', 'password', 'secret', false, NULL, NULL, NULL, 'Password of "user", by reference.'),
('forward', 'nats', 'nkey', 'secret', false, NULL, NULL, NULL, 'Seed of a user''s key (SU...), by reference.'),
('forward', 'nats', 'tls_ca', 'setting', false, NULL, NULL, NULL, 'Certificates to trust, as PEM or a reference to it; without it the system''s.'),
('forward', 'nats', 'tls_cert', 'setting', false, NULL, NULL, NULL, 'Own certificate, as PEM or a reference to it.'),
('forward', 'nats', 'tls_key', 'secret', false, NULL, NULL, NULL, 'Key of the own certificate, a reference to PEM.'),
('forward', 'nats', 'tls_required', 'boolean', false, NULL, NULL, NULL, 'Whether a server without TLS is refused; true when a url is tls:// or another option of TLS is set.'),
('forward', 'nats', 'tls_first', 'boolean', false, NULL, NULL, NULL, 'Whether TLS comes before the server''s greeting, as servers with handshake_first want it.'),
('forward', 'nats', 'inbox_prefix', 'text', false, NULL, NULL, NULL, 'Prefix of the subjects where answers are received; without it _INBOX.'),
('reverse', 'nats', 'url', 'text_list', true, NULL, NULL, NULL, 'Servers, nats://host:port or tls://host:port; one of them is connected to.'),
('reverse', 'nats', 'subject', 'text', true, NULL, NULL, NULL, 'Subject to receive, wildcards allowed.'),
('reverse', 'nats', 'jetstream', 'boolean', false, NULL, NULL, NULL, 'true: read a stream; false: a plain subscription, which loses what comes while no relay listens; without it, a stream if the server has JetStream.'),
('reverse', 'nats', 'stream', 'text', false, NULL, NULL, NULL, 'Stream to read; without it the one that covers the subject.'),
('reverse', 'nats', 'create_stream', 'boolean', false, NULL, NULL, NULL, 'Whether a missing stream is created.'),
('reverse', 'nats', 'durable', 'text', false, NULL, NULL, NULL, 'Name of the durable consumer; without it the queue group''s.'),
('reverse', 'nats', 'queue_group', 'text', false, NULL, NULL, NULL, 'Queue group that shares the messages.'),
('reverse', 'nats', 'credentials', 'secret', false, NULL, NULL, NULL, 'Content of a .creds file (a user''s JWT and key), by reference.'),
('reverse', 'nats', 'token', 'secret', false, NULL, NULL, NULL, 'Token to log in with, by reference.'),
('reverse', 'nats', 'user', 'setting', false, NULL, NULL, NULL, 'User to log in as, with "password".'),
('reverse', 'nats', 'password', 'secret', false, NULL, NULL, NULL, 'Password of "user", by reference.'),
('reverse', 'nats', 'nkey', 'secret', false, NULL, NULL, NULL, 'Seed of a user''s key (SU...), by reference.'),
('reverse', 'nats', 'tls_ca', 'setting', false, NULL, NULL, NULL, 'Certificates to trust, as PEM or a reference to it; without it the system''s.'),
('reverse', 'nats', 'tls_cert', 'setting', false, NULL, NULL, NULL, 'Own certificate, as PEM or a reference to it.'),
('reverse', 'nats', 'tls_key', 'secret', false, NULL, NULL, NULL, 'Key of the own certificate, a reference to PEM.'),
('reverse', 'nats', 'tls_required', 'boolean', false, NULL, NULL, NULL, 'Whether a server without TLS is refused; true when a url is tls:// or another option of TLS is set.'),
('reverse', 'nats', 'tls_first', 'boolean', false, NULL, NULL, NULL, 'Whether TLS comes before the server''s greeting, as servers with handshake_first want it.'),
('reverse', 'nats', 'inbox_prefix', 'text', false, NULL, NULL, NULL, 'Prefix of the subjects where answers are received; without it _INBOX.');

-- What no single option of a NATS connector shows: contradictions between them.
CREATE OR REPLACE FUNCTION tide._check_nats(p_pipeline text, p_config jsonb)
RETURNS void
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    v_set    text[] := ARRAY(SELECT e.key FROM jsonb_each(p_config) e WHERE e.value <> 'null');
    v_logins text[] := ARRAY(SELECT l FROM unnest('{credentials,token,user,password,nkey}'::text[]) l WHERE l = ANY (v_set));
    v_pair   record;
    v_asks   text;
BEGIN
    IF EXISTS (SELECT FROM unnest(tide._text_list(p_config -> 'url')) u WHERE u ~ '://' AND u !~* '^(nats|tls)://.') THEN
        RAISE EXCEPTION 'key "url" in the config of pipeline "%" has an address that does not begin with nats:// or tls://', p_pipeline
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Write nats://host:port, or tls://host:port for a server with TLS.';
    END IF;

    IF cardinality(v_logins) > 1 AND v_logins <> '{user,password}' THEN
        RAISE EXCEPTION 'keys "%" and "%" in the config of pipeline "%" exclude each other', v_logins[1],
            CASE WHEN v_logins[1] = 'user' THEN v_logins[3] ELSE v_logins[2] END, p_pipeline
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'A connection logs in by one of "credentials", "token", "user" with "password", "nkey".';
    END IF;
    FOR v_pair IN SELECT * FROM (VALUES ('user', 'password'), ('password', 'user'), ('tls_cert', 'tls_key'), ('tls_key', 'tls_cert')) AS p (one, other) LOOP
        IF v_pair.one = ANY (v_set) AND v_pair.other <> ALL (v_set) THEN
            RAISE EXCEPTION 'key "%" is missing in the config of pipeline "%"', v_pair.other, p_pipeline
                USING ERRCODE = 'invalid_parameter_value',
                      HINT = format('"%s" needs it: set both, or neither.', v_pair.one);
        END IF;
    END LOOP;

    v_asks := (SELECT a FROM unnest('{tls_ca,tls_cert,tls_first,url}'::text[]) WITH ORDINALITY AS t (a, n)
                WHERE CASE a WHEN 'url' THEN EXISTS (SELECT FROM unnest(tide._text_list(p_config -> 'url')) u WHERE u ~* '^tls://')
                             WHEN 'tls_first' THEN p_config -> 'tls_first' = 'true'
                             ELSE a = ANY (v_set) END
                ORDER BY n LIMIT 1);
    IF p_config -> 'tls_required' = 'false' AND v_asks IS NOT NULL THEN
        RAISE EXCEPTION 'key "tls_required" in the config of pipeline "%" is false, but "%" asks for TLS', p_pipeline, v_asks
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Leave one of them out.';
    END IF;

    v_asks := (SELECT a FROM unnest('{stream,durable}'::text[]) a WHERE a = ANY (v_set) LIMIT 1);
    IF p_config -> 'jetstream' = 'false' AND v_asks IS NOT NULL THEN
        RAISE EXCEPTION 'key "jetstream" in the config of pipeline "%" is false, but "%" is of JetStream', p_pipeline, v_asks
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Leave one of them out.';
    END IF;
END $$;
