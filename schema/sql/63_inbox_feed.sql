-- Feeds: forward pipelines, of this database or another, that deliver into an
-- inbox here (docs/design/exactly-once.md).
--
-- A feed writes its batches in turn, each in one transaction with a note of the
-- messages in it. So whoever takes the pipeline over finds out what arrived
-- beyond its checkpoint, also when the rows themselves are gone; and once it has
-- opened the feed, nobody before it can write any more.

-- The functions for feeds act for their owner; what rules is the right of who
-- logged in to insert into the inbox's table.
CREATE OR REPLACE FUNCTION tide._check_feeder(p_inbox tide.inbox)
RETURNS void
LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF NOT has_any_column_privilege(session_user, format('tide.%I', p_inbox.table_name)::regclass, 'INSERT') THEN
        RAISE EXCEPTION 'role "%" may not deliver into inbox "%"', session_user, p_inbox.name
            USING ERRCODE = 'insufficient_privilege',
                  HINT = format('Let it, in database "%s": SELECT tide.inbox_grant_feed(%L, %L).', current_database(),
                                p_inbox.name, session_user);
    END IF;
END $$;

CREATE OR REPLACE FUNCTION tide._inbox_feed_check(p_inbox text)
RETURNS void
LANGUAGE plpgsql STABLE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM tide._check_feeder(tide._inbox(p_inbox));
END $$;

COMMENT ON FUNCTION tide._inbox_feed_check(text) IS
'For relays: an error unless the inbox is there and who logged in may deliver into it.';

-- Makes the caller the only one to write to its feed, after what is still under
-- way there has ended. stream names the feed across databases.
CREATE OR REPLACE FUNCTION tide._inbox_feed_open(p_inbox text, p_source_system bigint, p_source_database text, p_pipeline text,
                                      p_timeline bigint, p_epoch bigint,
                                      OUT feed_id integer, OUT session bigint, OUT last_seq bigint, OUT stream text)
LANGUAGE plpgsql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_inbox tide.inbox := tide._inbox(p_inbox);
BEGIN
    PERFORM tide._check_feeder(v_inbox);
    INSERT INTO tide.inbox_feed AS f (inbox_id, source_system, source_database, pipeline, timeline, epoch)
    VALUES (v_inbox.inbox_id, p_source_system, p_source_database, p_pipeline, p_timeline, p_epoch)
    ON CONFLICT ON CONSTRAINT inbox_feed_source DO UPDATE
       SET timeline = excluded.timeline, epoch = excluded.epoch, session = f.session + 1, opened_at = clock_timestamp()
     WHERE (f.timeline, f.epoch) <= (excluded.timeline, excluded.epoch)
    RETURNING f.feed_id, f.session, f.last_seq INTO _inbox_feed_open.feed_id, _inbox_feed_open.session, _inbox_feed_open.last_seq;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'a later owner of pipeline "%" delivers into inbox "%"', p_pipeline, p_inbox
            USING ERRCODE = 'TD001',
                  HINT = 'Expected for a moment at a takeover. If it stays so, the pipeline''s database was restored from a backup: delete its row from tide.inbox_feed in the inbox''s database.';
    END IF;
    stream := format('%s/%s/%s', (SELECT c.system_identifier FROM tide._cluster() c), current_database(), feed_id);
END $$;

COMMENT ON FUNCTION tide._inbox_feed_open(text, bigint, text, text, bigint, bigint) IS
'For relays: become the only writer of a pipeline''s feed into an inbox; fenced by timeline and epoch.';

-- Which messages came from this number on.
CREATE OR REPLACE FUNCTION tide._inbox_feed_landed(p_feed_id integer, p_since bigint)
RETURNS TABLE (message_id bigint, created_us bigint, redelivery bigint)
LANGUAGE plpgsql STABLE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM tide._check_feeder(i) FROM tide.inbox_feed f JOIN tide.inbox i USING (inbox_id) WHERE f.feed_id = p_feed_id;
    RETURN QUERY
        SELECT u.message_id, u.created_us, u.redelivery
          FROM tide.inbox_feed_batch b,
               LATERAL unnest(b.message_ids, b.created_us, b.redeliveries) WITH ORDINALITY AS u(message_id, created_us, redelivery, n)
         WHERE b.feed_id = p_feed_id AND b.last_seq >= p_since
           AND b.last_seq - cardinality(b.message_ids) + u.n >= p_since;
END $$;

COMMENT ON FUNCTION tide._inbox_feed_landed(integer, bigint) IS
'For relays: the messages that came by a feed from a number on, as far as they may be sent again.';

-- Stores a batch, each event id once, and notes what was in it. It must follow
-- the batch that ended with p_after_seq. Returns the places in the batch, from
-- 1, of messages that the inbox had already. Notes below p_forget_below go.
CREATE OR REPLACE FUNCTION tide._inbox_feed_write(
    p_feed_id      integer,
    p_session      bigint,
    p_after_seq    bigint,
    p_forget_below bigint,
    p_source       text,
    p_event_ids    text[],
    p_payloads     text[],
    p_headers      text[],
    p_message_ids  bigint[],
    p_created_us   bigint[],
    p_redeliveries bigint[],
    OUT duplicates bigint[])
LANGUAGE plpgsql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_feed  tide.inbox_feed;
    v_inbox tide.inbox;
    v_count bigint := cardinality(p_event_ids);
    -- Ids of the form <inbox>:<source>:seq-N are given here and to nobody else.
    v_batch constant text :=
        '(SELECT CASE WHEN starts_with(u.event_id, $5) AND u.event_id ~ '':seq-[0-9]+$'' THEN ''id:'' || u.event_id'
        ' ELSE u.event_id END AS event_id, u.payload, u.headers, u.n'
        ' FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS u(event_id, payload, headers, n)) AS b';
BEGIN
    SELECT f.* INTO v_feed FROM tide.inbox_feed f WHERE f.feed_id = p_feed_id FOR UPDATE;
    IF NOT FOUND OR v_feed.session <> p_session THEN
        RAISE EXCEPTION 'feed % was opened by another owner of its pipeline, or is gone', p_feed_id USING ERRCODE = 'TD001';
    ELSIF v_feed.last_seq <> p_after_seq THEN
        RAISE EXCEPTION 'feed % stands at %, not at %', p_feed_id, v_feed.last_seq, p_after_seq USING ERRCODE = 'TD005';
    END IF;
    SELECT i.* INTO v_inbox FROM tide.inbox i WHERE i.inbox_id = v_feed.inbox_id;
    PERFORM tide._check_feeder(v_inbox);
    PERFORM 1 FROM tide.inbox_counter c WHERE c.inbox_id = v_inbox.inbox_id FOR UPDATE;

    -- As in tide._inbox_write: whole first, one by one only when something is
    -- there already.
    duplicates := '{}';
    BEGIN
        EXECUTE format('INSERT INTO tide.%I (event_id, source, payload, headers)
                        SELECT b.event_id, $4, b.payload::jsonb, b.headers::jsonb FROM %s ORDER BY b.n', v_inbox.table_name, v_batch)
        USING p_event_ids, p_payloads, p_headers, p_source, v_inbox.name || ':';
    EXCEPTION WHEN unique_violation THEN
        EXECUTE format(
            'WITH batch AS MATERIALIZED (
                 SELECT b.*, row_number() OVER (PARTITION BY b.event_id ORDER BY b.n) > 1 AS again FROM %2$s),
             stored AS (
                 INSERT INTO tide.%1$I (event_id, source, payload, headers)
                 SELECT b.event_id, $4, b.payload::jsonb, b.headers::jsonb FROM batch b WHERE NOT b.again ORDER BY b.n
                 ON CONFLICT DO NOTHING
                 RETURNING event_id)
             SELECT coalesce(array_agg(b.n ORDER BY b.n), ''{}'')
               FROM batch b WHERE b.again OR NOT EXISTS (SELECT FROM stored s WHERE s.event_id = b.event_id)',
            v_inbox.table_name, v_batch)
        INTO duplicates
        USING p_event_ids, p_payloads, p_headers, p_source, v_inbox.name || ':';
    END;

    UPDATE tide.inbox_counter c
       SET accepted = c.accepted + v_count - cardinality(_inbox_feed_write.duplicates),
           duplicates = c.duplicates + cardinality(_inbox_feed_write.duplicates)
     WHERE c.inbox_id = v_inbox.inbox_id;
    UPDATE tide.inbox_feed f SET last_seq = p_after_seq + v_count, written_at = clock_timestamp() WHERE f.feed_id = p_feed_id;
    INSERT INTO tide.inbox_feed_batch (feed_id, last_seq, message_ids, created_us, redeliveries)
    VALUES (p_feed_id, p_after_seq + v_count, p_message_ids, p_created_us, p_redeliveries);
    DELETE FROM tide.inbox_feed_batch b WHERE b.feed_id = p_feed_id AND b.last_seq < p_forget_below;
END $$;

COMMENT ON FUNCTION tide._inbox_feed_write(integer, bigint, bigint, bigint, text, text[], text[], text[], bigint[], bigint[], bigint[]) IS
'For relays: store a batch of a feed, in its turn and fenced by the session that opened the feed.';

CREATE OR REPLACE FUNCTION tide.inbox_grant_feed(p_inbox text, p_role text)
RETURNS void
LANGUAGE plpgsql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_inbox tide.inbox := tide._inbox(p_inbox);
BEGIN
    PERFORM tide._check_role(p_role);
    EXECUTE format('GRANT USAGE ON SCHEMA tide TO %I', p_role);
    EXECUTE format('GRANT EXECUTE ON FUNCTION tide._inbox_feed_check(text),'
                   ' tide._inbox_feed_open(text, bigint, text, text, bigint, bigint),'
                   ' tide._inbox_feed_landed(integer, bigint),'
                   ' tide._inbox_feed_write(integer, bigint, bigint, bigint, text, text[], text[], text[], bigint[], bigint[], bigint[])'
                   ' TO %I', p_role);
    EXECUTE format('GRANT INSERT (event_id, source, payload, headers) ON tide.%I TO %I', v_inbox.table_name, p_role);
END $$;

COMMENT ON FUNCTION tide.inbox_grant_feed(text, text) IS
'Lets a role deliver into this inbox: what the relay of another database logs in as, for a pipeline with the sink "inbox". The role can read nothing here.';

CREATE OR REPLACE FUNCTION tide.inbox_revoke_feed(p_inbox text, p_role text)
RETURNS void
LANGUAGE plpgsql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_inbox tide.inbox := tide._inbox(p_inbox);
BEGIN
    PERFORM tide._check_role(p_role);
    EXECUTE format('REVOKE INSERT (event_id, source, payload, headers), INSERT ON tide.%I FROM %I', v_inbox.table_name, p_role);
END $$;

COMMENT ON FUNCTION tide.inbox_revoke_feed(text, text) IS
'Takes back what tide.inbox_grant_feed gave for this inbox.';
