-- Options of Kafka sources.

INSERT INTO tide.connector_option (direction, connector, key, kind, required, allowed, minimum, maximum, description) VALUES
('reverse', 'kafka', 'topic', 'text_list', true, NULL, NULL, NULL, 'Topic to receive, or several.'),
('reverse', 'kafka', 'consumer_group', 'text', false, NULL, NULL, NULL, 'Kafka consumer group that the pipeline reads as; without it "pg-tide-" and the pipeline''s name.'),
('reverse', 'kafka', 'start', 'text', false, '{earliest,latest}', NULL, NULL, 'Where to begin in a topic of which neither the inbox nor the group in Kafka has an offset.');

-- The connection's options, as for sinks.
INSERT INTO tide.connector_option (direction, connector, key, kind, required, allowed, minimum, maximum, description) VALUES
('reverse', 'kafka', 'brokers', 'text_list', true, NULL, NULL, NULL, 'Bootstrap brokers, host:port.'),
('reverse', 'kafka', 'client_id', 'text', false, NULL, NULL, NULL, 'Client id shown by the broker.'),
('reverse', 'kafka', 'librdkafka', 'object', false, NULL, NULL, NULL, 'Further properties of librdkafka, by their names there; not those on which delivery rests, and no secrets.'),
('reverse', 'kafka', 'security_protocol', 'text', false, '{plaintext,ssl,sasl_plaintext,sasl_ssl}', NULL, NULL, 'How brokers are spoken to, as their listener wants it.'),
('reverse', 'kafka', 'tls_ca', 'setting', false, NULL, NULL, NULL, 'Certificates to trust, as PEM or a reference to it; without it the system''s.'),
('reverse', 'kafka', 'tls_cert', 'setting', false, NULL, NULL, NULL, 'Own certificate, as PEM or a reference to it.'),
('reverse', 'kafka', 'tls_key', 'secret', false, NULL, NULL, NULL, 'Key of the own certificate, a reference to PEM.'),
('reverse', 'kafka', 'tls_key_password', 'secret', false, NULL, NULL, NULL, 'Password of an encrypted tls_key, a reference.'),
('reverse', 'kafka', 'sasl_mechanism', 'text', false, '{PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER}', NULL, NULL, 'How to log in, with security_protocol sasl_ssl or sasl_plaintext.'),
('reverse', 'kafka', 'sasl_username', 'setting', false, NULL, NULL, NULL, 'User of PLAIN and SCRAM, or a reference to the name.'),
('reverse', 'kafka', 'sasl_password', 'secret', false, NULL, NULL, NULL, 'Password of PLAIN and SCRAM, a reference.'),
('reverse', 'kafka', 'sasl_oauth_token_url', 'text', false, NULL, NULL, NULL, 'Token endpoint of OAUTHBEARER (client credentials grant), https://....'),
('reverse', 'kafka', 'sasl_oauth_client_id', 'setting', false, NULL, NULL, NULL, 'Client id of OAUTHBEARER, or a reference to it.'),
('reverse', 'kafka', 'sasl_oauth_client_secret', 'secret', false, NULL, NULL, NULL, 'Client secret of OAUTHBEARER, a reference.'),
('reverse', 'kafka', 'sasl_oauth_scope', 'text', false, NULL, NULL, NULL, 'Scope to ask the token server for.');
