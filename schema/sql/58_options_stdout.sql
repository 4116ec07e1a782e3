-- Options of standard output as a sink.

INSERT INTO tide.connector_option (direction, connector, key, kind, required, allowed, minimum, maximum, description) VALUES
('forward', 'stdout', 'delivery', 'text', false, '{at-least-once}', NULL, NULL, 'at-least-once; standard output cannot be read again.');
