-- Options of NATS connectors.

INSERT INTO tide.connector_option (direction, connector, key, kind, required, allowed, minimum, maximum, description) VALUES
('forward', 'nats', 'url', 'text_list', true, NULL, NULL, NULL, 'Servers, nats://host:port.'),
('forward', 'nats', 'subject', 'template', true, NULL, NULL, NULL, 'Subject.'),
('forward', 'nats', 'stream', 'text', false, NULL, NULL, NULL, 'Stream that must take the subject.'),
('forward', 'nats', 'create_stream', 'boolean', false, NULL, NULL, NULL, 'Whether a missing stream is created.'),
('forward', 'nats', 'headers', 'object', false, NULL, NULL, NULL, 'Headers to add: names and templates; one that cannot be made is left out.'),
('forward', 'nats', 'delivery', 'text', false, '{exactly-once,at-least-once}', NULL, NULL, 'exactly-once: after a takeover the stream''s tail is read so that nothing is sent twice.'),
('reverse', 'nats', 'url', 'text_list', true, NULL, NULL, NULL, 'Servers, nats://host:port.'),
('reverse', 'nats', 'subject', 'text', true, NULL, NULL, NULL, 'Subject to receive, wildcards allowed.'),
('reverse', 'nats', 'stream', 'text', false, NULL, NULL, NULL, 'Stream to read; without it the one that covers the subject.'),
('reverse', 'nats', 'create_stream', 'boolean', false, NULL, NULL, NULL, 'Whether a missing stream is created.'),
('reverse', 'nats', 'durable', 'text', false, NULL, NULL, NULL, 'Name of the durable consumer; without it the queue group''s.'),
('reverse', 'nats', 'queue_group', 'text', false, NULL, NULL, NULL, 'Queue group that shares the messages.');
