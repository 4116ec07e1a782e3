-- One table that two services keep in step: the same on both sides.

CREATE TABLE customer (id integer PRIMARY KEY, name text NOT NULL);
SELECT tide.outbox_create('customers');
SELECT tide.inbox_create('customers');

-- Every change is published, with the path of the message that caused it.
CREATE FUNCTION publish_customer() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    v_path text := current_setting('app.tide_path', true);
BEGIN
    PERFORM tide.outbox_publish('customers', to_jsonb(NEW),
        CASE WHEN v_path <> '' THEN jsonb_build_object('tide-path', v_path) ELSE '{}' END);
    RETURN NEW;
END $$;
CREATE TRIGGER publish AFTER INSERT OR UPDATE ON customer FOR EACH ROW EXECUTE FUNCTION publish_customer();

-- Applies what has come from the other side.
CREATE PROCEDURE apply_customers() LANGUAGE plpgsql AS $$
DECLARE
    v_message record;
BEGIN
    FOR v_message IN SELECT * FROM tide.inbox_claim('customers', 100) LOOP
        PERFORM set_config('app.tide_path', coalesce(v_message.headers ->> 'tide-path', ''), true);
        INSERT INTO customer SELECT * FROM jsonb_populate_record(NULL::customer, v_message.payload)
        ON CONFLICT (id) DO UPDATE SET name = excluded.name;
        PERFORM tide.inbox_mark_processed('customers', v_message.event_id);
    END LOOP;
    PERFORM set_config('app.tide_path', '', true);
END $$;
