-- Reading an outbox in SQL: messages are handed out under a lease, and
-- committed by its token.

CREATE OR REPLACE FUNCTION tide._check_visibility(p_visibility interval)
RETURNS void
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF p_visibility IS NULL OR p_visibility <= interval '0' THEN
        RAISE EXCEPTION 'p_visibility is %', coalesce(p_visibility::text, 'null')
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'p_visibility is how long the messages are yours alone, for example interval ''30 seconds''.';
    END IF;
END $$;

CREATE OR REPLACE FUNCTION tide.poll_outbox(p_group text, p_outbox text, p_limit integer DEFAULT 100,
                                 p_visibility interval DEFAULT '30 seconds', p_consumer_id text DEFAULT NULL,
                                 p_max_leases integer DEFAULT 1)
RETURNS TABLE (id bigint, created_at timestamptz, headers jsonb, payload jsonb,
               lease uuid, leased_until timestamptz, attempt integer)
LANGUAGE plpgsql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_outbox tide.outbox := tide._outbox(p_outbox);
    v_cursor tide.group_cursor;
    v_range  tide.consumer_lease;
BEGIN
    IF p_limit IS NULL OR p_limit < 1 THEN
        RAISE EXCEPTION 'p_limit is %', coalesce(p_limit::text, 'null')
            USING ERRCODE = 'invalid_parameter_value', HINT = 'p_limit is a number of messages, at least 1.';
    ELSIF p_max_leases IS NULL OR p_max_leases NOT BETWEEN 1 AND 1000 THEN
        RAISE EXCEPTION 'p_max_leases is %', coalesce(p_max_leases::text, 'null')
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'p_max_leases is how many batches may be out at a time, from 1 (strict order) to 1000.';
    END IF;
    PERFORM tide._check_visibility(p_visibility);
    v_cursor := tide._group_cursor(tide._lock_group(p_group, v_outbox));
    v_range := tide._choose_range(v_outbox, v_cursor, p_limit, p_consumer_id, p_max_leases);
    IF v_range.to_id IS NULL THEN
        UPDATE tide.group_cursor c
           SET polled_at = clock_timestamp(), consumer_id = coalesce(p_consumer_id, 'process ' || pg_backend_pid())
         WHERE c.group_id = v_cursor.group_id
           AND (c.polled_at IS NULL OR c.polled_at <= clock_timestamp() - interval '10 seconds');
        RETURN;
    END IF;

    UPDATE tide.consumer_lease l
       SET lease = gen_random_uuid(), consumer_id = p_consumer_id, attempts = l.attempts + 1,
           leased_at = clock_timestamp(), leased_until = clock_timestamp() + p_visibility
     WHERE l.group_id = v_range.group_id AND l.round = v_range.round AND l.from_id = v_range.from_id
    RETURNING l.* INTO v_range;
    UPDATE tide.group_cursor c
       SET polled_at = v_range.leased_at, consumer_id = coalesce(p_consumer_id, 'process ' || pg_backend_pid())
     WHERE c.group_id = v_range.group_id;
    RETURN QUERY EXECUTE 'SELECT m.id, m.created_at, m.headers::jsonb, m.payload, $1, $2, $3 '
                         || tide._round_messages(v_outbox, v_range)
        USING v_range.lease, v_range.leased_until, v_range.attempts;
END $$;

COMMENT ON FUNCTION tide.poll_outbox(text, text, integer, interval, text, integer) IS
'For a consumer of your own: up to p_limit messages that the group has not had, in order, under a lease. For p_visibility they are this consumer''s alone; commit them with tide.commit_offset and the lease, or they are handed out again. With p_max_leases 1 nothing comes while another lease is out, so that the order is strict; more let batches run side by side. A consumer that names itself (p_consumer_id) and polls again gets what it has not committed, under a new lease. attempt: how often the batch was handed out.';

-- The lease of a token, if it is valid.
CREATE OR REPLACE FUNCTION tide._valid_lease(p_group tide.consumer_group, p_lease uuid)
RETURNS tide.consumer_lease
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_lease tide.consumer_lease;
BEGIN
    SELECT l.* INTO v_lease FROM tide.consumer_lease l
     WHERE l.group_id = p_group.group_id AND l.lease = p_lease AND NOT l.committed;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'lease % of consumer group "%" is not valid: it was committed or released, or it ran out and its messages were handed out again',
            coalesce(p_lease::text, 'null'), p_group.name
            USING ERRCODE = 'TD003',
                  HINT = 'Undo what was done with the messages (ROLLBACK) and poll again. If work takes long, poll with a longer p_visibility or call tide.extend_lease.';
    ELSIF v_lease.leased_until <= clock_timestamp() THEN
        RAISE EXCEPTION 'lease % of consumer group "%" ran out at %', coalesce(p_lease::text, 'null'), p_group.name, v_lease.leased_until
            USING ERRCODE = 'TD003',
                  HINT = 'Undo what was done with the messages (ROLLBACK) and poll again. If work takes long, poll with a longer p_visibility or call tide.extend_lease.';
    END IF;
    RETURN v_lease;
END $$;

-- Sets a position by hand: all that is visible now up to the offset counts as
-- delivered, everything else does not.
CREATE OR REPLACE FUNCTION tide._set_position(p_group_id integer, p_offset bigint)
RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    DELETE FROM tide.consumer_lease l WHERE l.group_id = p_group_id;
    INSERT INTO tide.group_cursor AS c (group_id, old_snapshot, new_snapshot, last_id, committed_offset, low_water_id,
                                        system_identifier, timeline, committed_at)
    SELECT p_group_id, '3:3:', s.snapshot, p_offset, p_offset, 0, k.system_identifier, k.timeline, clock_timestamp()
      FROM (SELECT tide._snapshot() AS snapshot OFFSET 0) s, tide._cluster() k
    ON CONFLICT (group_id) DO UPDATE
       SET old_snapshot = excluded.old_snapshot, new_snapshot = excluded.new_snapshot,
           last_id = excluded.last_id, committed_offset = excluded.committed_offset,
           low_water_id = 0, round_low_water_id = 0, mark_id = NULL, mark_xid = NULL,
           system_identifier = excluded.system_identifier, timeline = excluded.timeline,
           clean = true, sink_position = '{}', low_water_position = '{}', committed_at = excluded.committed_at;
END $$;

CREATE OR REPLACE FUNCTION tide.commit_offset(p_group text, p_outbox text, p_offset bigint DEFAULT NULL, p_lease uuid DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_outbox tide.outbox := tide._outbox(p_outbox);
    v_group  tide.consumer_group := tide._lock_group(p_group, v_outbox);
    v_lease  tide.consumer_lease;
    v_out    tide.consumer_lease;
BEGIN
    IF p_offset < 0 OR p_offset IS NULL AND p_lease IS NULL THEN
        RAISE EXCEPTION 'offset is %', coalesce(p_offset::text, 'null')
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'p_offset is the id of the last message dealt with, or 0 to begin at the first message kept; with p_lease it may be left out: the whole lease then.';
    END IF;
    IF p_lease IS NULL THEN
        SELECT l.* INTO v_lease FROM tide.consumer_lease l
         WHERE l.group_id = v_group.group_id AND NOT l.committed AND p_offset > l.from_id AND p_offset <= l.to_id
         ORDER BY l.round, l.from_id LIMIT 1;
        IF NOT FOUND THEN
            SELECT l.* INTO v_out FROM tide.consumer_lease l
             WHERE l.group_id = v_group.group_id AND NOT l.committed AND l.leased_until > clock_timestamp()
             ORDER BY l.round, l.from_id LIMIT 1;
            IF FOUND THEN
                RAISE EXCEPTION 'offset % is in no lease of consumer group "%", and messages above % up to % are leased until %',
                    p_offset, p_group, v_out.from_id, v_out.to_id, v_out.leased_until
                    USING ERRCODE = 'object_in_use',
                          HINT = 'Commit with the lease that tide.poll_outbox returned. To set the position by hand, stop the consumers and release their leases (view tide.consumer_leases) or wait until they run out.';
            END IF;
            PERFORM tide._set_position(v_group.group_id, p_offset);
            RETURN;
        END IF;
        p_lease := v_lease.lease;
    END IF;

    v_lease := tide._valid_lease(v_group, p_lease);
    IF p_offset < v_lease.from_id OR p_offset > v_lease.to_id THEN
        RAISE EXCEPTION 'offset % is not in lease % of consumer group "%": it holds messages above % up to %',
            p_offset, p_lease, p_group, v_lease.from_id, v_lease.to_id
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'p_offset is the id of the last message of the lease that was dealt with; leave it out to commit the whole lease.';
    ELSIF p_offset = v_lease.from_id THEN
        RETURN;
    ELSIF p_offset < v_lease.to_id THEN
        UPDATE tide.consumer_lease l SET from_id = p_offset
         WHERE l.group_id = v_group.group_id AND l.lease = p_lease;
        INSERT INTO tide.consumer_lease (group_id, round, from_id, to_id, old_snapshot, new_snapshot, committed,
                                         low_water_id, round_low_water_id)
        VALUES (v_group.group_id, v_lease.round, v_lease.from_id, p_offset, v_lease.old_snapshot, v_lease.new_snapshot, true,
                v_lease.low_water_id, v_lease.round_low_water_id);
    ELSE
        UPDATE tide.consumer_lease l SET committed = true
         WHERE l.group_id = v_group.group_id AND l.lease = p_lease;
    END IF;
    PERFORM tide._pass_committed(v_group.group_id);
END $$;

COMMENT ON FUNCTION tide.commit_offset(text, text, bigint, uuid) IS
'Says that the messages of a lease are dealt with: up to the id p_offset, or all; best in the transaction that dealt with them. A lease that ran out is an error (SQLSTATE TD003). Without p_lease: of the lease that holds p_offset; when no lease is out, sets the position of the group by hand: all messages visible now up to p_offset count as delivered. Error while a relay runs the group''s pipeline.';

CREATE OR REPLACE FUNCTION tide.extend_lease(p_group text, p_outbox text, p_lease uuid, p_visibility interval DEFAULT '30 seconds')
RETURNS timestamptz
LANGUAGE plpgsql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_group tide.consumer_group := tide._lock_group(p_group, tide._outbox(p_outbox));
    v_until timestamptz;
BEGIN
    PERFORM tide._check_visibility(p_visibility);
    PERFORM tide._valid_lease(v_group, p_lease);
    UPDATE tide.consumer_lease l SET leased_until = clock_timestamp() + p_visibility
     WHERE l.group_id = v_group.group_id AND l.lease = p_lease
    RETURNING l.leased_until INTO v_until;
    RETURN v_until;
END $$;

COMMENT ON FUNCTION tide.extend_lease(text, text, uuid, interval) IS
'Makes a lease of tide.poll_outbox hold for p_visibility from now; returns until when. A lease that ran out is an error (SQLSTATE TD003).';

CREATE OR REPLACE FUNCTION tide.release_lease(p_group text, p_outbox text, p_lease uuid)
RETURNS void
LANGUAGE plpgsql VOLATILE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_group tide.consumer_group := tide._lock_group(p_group, tide._outbox(p_outbox));
BEGIN
    PERFORM tide._valid_lease(v_group, p_lease);
    UPDATE tide.consumer_lease l SET lease = NULL, consumer_id = NULL, leased_until = '-infinity'
     WHERE l.group_id = v_group.group_id AND l.lease = p_lease;
END $$;

COMMENT ON FUNCTION tide.release_lease(text, text, uuid) IS
'Gives a lease of tide.poll_outbox back uncommitted: its messages are the next to be handed out. A lease that ran out is an error (SQLSTATE TD003).';
