-- Options of Kafka connectors.

INSERT INTO tide.connector_option (direction, connector, key, kind, required, allowed, minimum, maximum, description) VALUES
('forward', 'kafka', 'brokers', 'text_list', true, NULL, NULL, NULL, 'Bootstrap brokers, host:port.'),
('forward', 'kafka', 'topic', 'template', true, NULL, NULL, NULL, 'Topic.'),
('forward', 'kafka', 'key', 'template', false, NULL, NULL, NULL, 'Record key; equal keys keep their order.'),
('forward', 'kafka', 'partition', 'integer', false, NULL, 0, 1000000, 'Topic partition; without it the key decides.'),
('forward', 'kafka', 'acks', 'text', false, '{all,-1,1,0}', NULL, NULL, 'Acknowledgements that a record needs; all and -1 mean every in-sync replica.'),
('forward', 'kafka', 'compression', 'text', false, '{none,gzip,snappy,lz4,zstd}', NULL, NULL, 'Compression of record batches.'),
('forward', 'kafka', 'linger_ms', 'integer', false, NULL, 0, 10000, 'Wait for more records before a batch is sent, in milliseconds.'),
('forward', 'kafka', 'batch_bytes', 'integer', false, NULL, 1024, 100000000, 'Size of a record batch, in bytes, at most.'),
('forward', 'kafka', 'headers', 'object', false, NULL, NULL, NULL, 'Headers to add: names and templates; one that cannot be made is left out.'),
('forward', 'kafka', 'delivery', 'text', false, '{exactly-once,at-least-once}', NULL, NULL, 'exactly-once: after a takeover the topic''s tail is read so that nothing is sent twice.'),
('forward', 'kafka', 'client_id', 'text', false, NULL, NULL, NULL, 'Client id shown by the broker.'),
('forward', 'kafka', 'librdkafka', 'object', false, NULL, NULL, NULL, 'Further properties of librdkafka, by their names there; not those on which delivery rests, and no secrets.'),
('forward', 'kafka', 'security_protocol', 'text', false, '{plaintext,ssl}', NULL, NULL, 'How brokers are spoken to.'),
('forward', 'kafka', 'tls_ca', 'setting', false, NULL, NULL, NULL, 'Certificates to trust, as PEM or a reference to it; without it the system''s.'),
('forward', 'kafka', 'tls_cert', 'setting', false, NULL, NULL, NULL, 'Own certificate, as PEM or a reference to it.'),
('forward', 'kafka', 'tls_key', 'secret', false, NULL, NULL, NULL, 'Key of the own certificate, a reference to PEM.');
