-- Only in the extension: what pg_dump has to save beside CREATE EXTENSION.
-- Outbox and inbox tables are made at run time, belong to no extension and are
-- dumped anyway. Left out: what the script itself fills, and what describes
-- relays that are running now.
DO $$
DECLARE
    v_table    text;
    v_sequence text;
BEGIN
    FOREACH v_table IN ARRAY ARRAY['outbox', 'consumer_group', 'group_cursor', 'inbox', 'inbox_counter', 'inbox_source',
                                   'inbox_position', 'inbox_feed', 'inbox_feed_batch', 'pipeline', 'dead_letter', 'dead_letter_retention',
                                   'redelivery', 'managed_object', 'webhook_counter'] LOOP
        PERFORM pg_catalog.pg_extension_config_dump(format('tide.%I', v_table)::regclass, '');
        FOR v_sequence IN
            SELECT pg_get_serial_sequence(format('tide.%I', v_table), a.attname)
              FROM pg_catalog.pg_attribute a
             WHERE a.attrelid = format('tide.%I', v_table)::regclass AND a.attidentity <> ''
        LOOP
            PERFORM pg_catalog.pg_extension_config_dump(v_sequence::regclass, '');
        END LOOP;
    END LOOP;
    PERFORM pg_catalog.pg_extension_config_dump('tide.message_id_seq'::regclass, '');
    PERFORM pg_catalog.pg_extension_config_dump('tide.epoch_seq'::regclass, '');
END $$;
