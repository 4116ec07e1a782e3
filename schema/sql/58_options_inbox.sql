-- Options of inbox sinks.

INSERT INTO tide.connector_option (direction, connector, key, kind, required, allowed, minimum, maximum, description) VALUES
('forward', 'inbox', 'inbox', 'text', true, NULL, NULL, NULL, 'Inbox to deliver into.'),
('forward', 'inbox', 'url', 'setting', false, NULL, NULL, NULL, 'Database of the inbox, postgres://user@host:port/database, or a reference to such a URL; without it the inbox is in this database.'),
('forward', 'inbox', 'user', 'setting', false, NULL, NULL, NULL, 'Role to log in as, when not in the URL.'),
('forward', 'inbox', 'password', 'secret', false, NULL, NULL, NULL, 'Password of that role, by reference.'),
('forward', 'inbox', 'message_id_header', 'text', false, NULL, NULL, NULL, 'Header whose value is the event id; without it, or without that header, the message''s tide-id.'),
('forward', 'inbox', 'origin', 'text', false, NULL, NULL, NULL, 'Name of this side; added to the header tide-path of what is delivered.'),
('forward', 'inbox', 'skip_if_passed', 'text_list', false, NULL, NULL, NULL, 'Names; a message whose tide-path has one of them is not delivered: it came from there.'),
('forward', 'inbox', 'delivery', 'text', false, '{exactly-once}', NULL, NULL, 'exactly-once; an inbox knows no other.');

-- What no single option of an inbox sink shows. Never shows a value: it may
-- hold a password.
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
