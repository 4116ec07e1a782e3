-- Every change of configuration, by whatever statement, raises
-- tide.config_state.version in its own transaction and wakes the relays.

CREATE OR REPLACE FUNCTION tide._config_changed()
RETURNS trigger
LANGUAGE plpgsql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE tide.config_state SET version = version + 1;
    PERFORM pg_notify('tide_config', '');
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER config_changed
    AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON tide.outbox
    FOR EACH STATEMENT EXECUTE FUNCTION tide._config_changed();
CREATE OR REPLACE TRIGGER config_changed
    AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON tide.inbox
    FOR EACH STATEMENT EXECUTE FUNCTION tide._config_changed();
CREATE OR REPLACE TRIGGER config_changed
    AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON tide.consumer_group
    FOR EACH STATEMENT EXECUTE FUNCTION tide._config_changed();
CREATE OR REPLACE TRIGGER config_changed
    AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON tide.pipeline
    FOR EACH STATEMENT EXECUTE FUNCTION tide._config_changed();
CREATE OR REPLACE TRIGGER config_changed
    AFTER INSERT ON tide.redelivery
    FOR EACH STATEMENT EXECUTE FUNCTION tide._config_changed();
-- An upgrade under running relays: they look which version it is now.
CREATE OR REPLACE TRIGGER config_changed
    AFTER INSERT ON tide.schema_version
    FOR EACH STATEMENT EXECUTE FUNCTION tide._config_changed();
